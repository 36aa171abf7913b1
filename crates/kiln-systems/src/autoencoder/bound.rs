//! Bounds on log p(x) of a model with a latent z ~ p(z), x ~ p(x|z) and an approximate posterior q(z|x).
//!
//! Values are in nats per image.

use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_nn::loss::gaussian_kl_terms;
use kiln_nn::tensor::from_values;
use serde::{Deserialize, Serialize};

/// z = μ + σ ⊙ ε (Kingma & Welling 2014, §2.4), given log σ².
///
/// # Shapes
/// `[n, d]` three times → `[n, d]`
pub fn reparameterise(mean: Tensor<2>, log_var: Tensor<2>, noise: Tensor<2>) -> Tensor<2> {
    mean + (log_var * 0.5).exp() * noise
}

/// log w = log p(x|z) + log p(z) − log q(z|x) at z = μ + σ ⊙ ε. As (z − μ)/σ = ε, the last two make
/// ½ Σⱼ (εⱼ² + log σⱼ² − zⱼ²).
///
/// # Shapes
/// `[n]`, `[n, d]` three times → `[n]`
pub fn log_weights(log_likelihood: Tensor<1>, z: Tensor<2>, noise: Tensor<2>, log_var: Tensor<2>) -> Tensor<1> {
    let n = z.dims()[0];
    let terms = noise.square() + log_var - z.square();
    log_likelihood + (terms.sum_dim(1) * 0.5).reshape([n])
}

/// log (1/K) Σₖ exp xₖ over the first dimension, without overflow.
///
/// # Shapes
/// `[K, n]` → `[n]`
pub fn log_mean_exp(x: Tensor<2>) -> Tensor<1> {
    let n = x.dims()[1];
    let largest = x.clone().max_dim(0).detach();
    ((x - largest.clone()).exp().mean_dim(0).log() + largest).reshape([n])
}

/// The weight of the KL term, part of a `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KlConfig {
    /// Images over which the weight of the KL term rises linearly from 0 (Sønderby 2016, §2.3).
    pub kl_warmup: u64,
    /// Free nats per dimension of z, on average over a batch (Kingma 2016, equation 15): below that, the KL of the
    /// dimension has no gradient. 0 is the bound itself.
    pub free_bits: f64,
}

impl Default for KlConfig {
    fn default() -> Self {
        Self { kl_warmup: 0, free_bits: 0.0 }
    }
}

impl KlConfig {
    /// Whether the settings have a meaning.
    ///
    /// # Errors
    /// A usage error naming the setting.
    pub fn check(&self) -> Result<()> {
        if self.free_bits >= 0.0 && self.free_bits.is_finite() {
            return Ok(());
        }
        Err(Error::usage(format!("model.free_bits must not be negative, and is {}", self.free_bits)))
    }

    /// The weight after `images`: β·min(1, images / kl_warmup).
    pub fn weight(&self, beta: f64, images: u64) -> f64 {
        match self.kl_warmup {
            0 => beta,
            warmup => beta * (images as f64 / warmup as f64).min(1.0),
        }
    }

    /// What stands for the mean KL in a loss: Σⱼ max(λ, mean KLⱼ), λ = `free_bits`.
    ///
    /// # Shapes
    /// `[n, d]` twice → `[1]`
    pub fn divergence(&self, mean: Tensor<2>, log_var: Tensor<2>) -> Tensor<1> {
        let each = gaussian_kl_terms(mean, log_var).mean_dim(0);
        if self.free_bits > 0.0 { each.clamp_min(self.free_bits).sum() } else { each.sum() }
    }
}

/// Pictures that are computed at once, of `size` numbers each in the widest layer.
pub fn rows_at_once(size: usize) -> usize {
    ((1 << 22) / size.max(1)).max(1)
}

/// Splits `n` pictures into parts of at most `rows` and joins what `part(from, len)` says of each.
///
/// # Errors
/// As `part`.
pub fn in_parts(n: usize, rows: usize, part: impl Fn(usize, usize) -> Result<Tensor<1>>) -> Result<Tensor<1>> {
    let parts = (0..n).step_by(rows).map(|from| part(from, rows.min(n - from)));
    Ok(Tensor::cat(parts.collect::<Result<_>>()?, 0))
}

/// Draws for importance samples: ε of sample k belongs to the picture with this stream, whatever stands beside it.
///
/// # Shapes
/// → `[ks·n, d]`, sample by sample
pub fn sample_noise(key: Key, ks: std::ops::Range<usize>, streams: &[u64], like: &Tensor<2>) -> Tensor<2> {
    let [n, d] = like.dims();
    let one = |k: usize| from_values::<2>(key.at(k as u64).normal(streams.iter().copied(), d), [n, d], &like.device());
    Tensor::cat(ks.map(one).collect(), 0)
}

/// −log (1/K) Σₖ wₖ of `samples` = K importance weights (Rezende 2014, appendix E; Burda 2016, equation 8), which is
/// −log p(x) or more in expectation, and reaches it as K grows. `log_weights(ks)` gives those of some samples, `[ks, n]`;
/// it is asked for at most `at_once`, so that memory does not grow with K.
pub fn importance_nll(
    samples: usize,
    at_once: usize,
    log_weights: impl Fn(std::ops::Range<usize>) -> Tensor<2>,
) -> Tensor<1> {
    let at_once = at_once.max(1);
    let parts = (0..samples).step_by(at_once).map(|from| log_weights(from..(from + at_once).min(samples)));
    -log_mean_exp(Tensor::cat(parts.collect(), 0))
}

#[cfg(test)]
mod tests {
    use kiln_nn::tensor::to_values;

    use super::*;
    use crate::autoencoder::testing::device;

    #[test]
    fn the_kl_weight_warms_up() {
        let kl = |kl_warmup| KlConfig { kl_warmup, free_bits: 0.0 };
        assert_eq!([0, 50, 100, 500].map(|i| kl(100).weight(4.0, i)), [0.0, 2.0, 4.0, 4.0]);
        assert_eq!(kl(0).weight(4.0, 0), 4.0);
    }

    #[test]
    fn free_bits_are_free_and_the_rest_is_the_divergence() {
        // Dimension 0 says ½(1.5² − 0)… = 1.125 nats, dimension 1 says 0.005.
        let at = |mean: [f32; 2]| {
            let mean: Tensor<2> = from_values(mean.to_vec(), [1, 2], &device().autodiff()).require_grad();
            let config = KlConfig { kl_warmup: 0, free_bits: 0.5 };
            let kl = config.divergence(mean.clone(), mean.clone().zeros_like());
            let gradient = mean.grad(&kl.clone().backward()).unwrap();
            (kl.into_scalar::<f32>(), to_values(gradient))
        };
        let (kl, gradient) = at([1.5, 0.1]);
        assert!((kl - 1.625).abs() < 1e-6, "{kl}");
        assert_eq!(gradient, [1.5, 0.0]);
    }
}
