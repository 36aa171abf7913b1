//! Burda, Grosse & Salakhutdinov, *Importance Weighted Autoencoders*, 2016.
//!
//! Objective (equation 8): with K samples zₖ ~ q(z|x) per image and weights wₖ = p(x|zₖ) p(zₖ) / q(zₖ|x),
//!
//! L_K = E log (1/K) Σₖ wₖ,  L₁ ≤ L₂ ≤ … ≤ log p(x): a VAE's bound for K = 1, and tighter with each further sample.
//!
//! Its gradient (equations 13–14) is Σₖ w̃ₖ ∇ log wₖ, w̃ₖ = wₖ / Σⱼ wⱼ, zₖ being a function of ε and the encoder. For the
//! encoder, its signal-to-noise ratio falls as K grows (Rainforth 2018). The doubly reparameterised estimator (Tucker, Lawson, Gu & Maddison,
//! *Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives*, 2019, equation 7) has the same mean without this problem:
//!
//! ∇_φ L_K = E Σₖ w̃ₖ² (∂ log wₖ / ∂zₖ) (∂zₖ / ∂φ), with φ of log q(zₖ|x) itself held constant; θ's gradient is as before.
//!
//! | paper | here |
//! |---|---|
//! | K | `samples` |
//! | log wₖ | [`log_weights`], or [`log_weights_at`] where z is not to be a function of the encoder alone |
//! | L_K | [`log_mean_exp`] |
//! | w̃ₖ | [`normalised`] |
//! | estimators of ∇_φ | `gradient`: `iwae` or `dreg` |
//!
//! `kiln train recipes/iwae/mnist.toml`, then `kiln evaluate RUN --metrics nll --samples 5000`.

use burn::module::Module;
use burn::tensor::{Tensor, activation::softmax};
use kiln_core::{Error, Result};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::loss::gaussian_log_terms;
use kiln_train::{
    Abilities, Batch, DataConfig, FitData, Loss, OptimizerConfig, Phase, Pictures, Schedule, SizeRule, System,
    TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::bound::{log_mean_exp, log_weights};
use super::latent::{Draws, LatentConfig, LatentModel, Networks};
use super::networks::Decoder;
use super::vae::training;

/// How the encoder's gradient is estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gradient {
    /// The derivative of the bound's estimate (Burda 2016).
    #[default]
    Iwae,
    /// Doubly reparameterised (Tucker 2019): less noise for a second pass of the decoder.
    Dreg,
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The networks and p(x|z).
    #[serde(flatten)]
    pub model: LatentConfig,
    /// K, samples of z per image.
    pub samples: usize,
    /// Gradient estimator of the encoder: `iwae` or `dreg`.
    pub gradient: Gradient,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: LatentConfig::default(),
            samples: 5,
            gradient: Gradient::Iwae,
            optimizer: OptimizerConfig::adam(1e-3).schedule(Schedule::Cosine),
        }
    }
}

/// The system.
pub struct Iwae {
    model: LatentModel,
    config: Config,
}

impl System for Iwae {
    const ID: &'static str = "iwae";
    const PAPER: &'static str = "Burda, Grosse & Salakhutdinov: Importance Weighted Autoencoders, 2016";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        (DataConfig::default(), training())
    }

    fn sizes(config: &Config) -> SizeRule {
        config.model.networks.sizes()
    }

    fn resolve(config: Config, pictures: &Pictures) -> Config {
        Config { model: config.model.resolved(pictures.shape), ..config }
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let config = Self::resolve(config, pictures);
        check_samples(config.samples)?;
        Ok(Self { model: LatentModel::new(Self::ID, config.model.clone(), pictures.shape)?, config })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        self.model.networks(init)
    }

    fn initialise(&self, fresh: Networks, data: &FitData<'_>) -> Result<Networks> {
        self.model.initialise(fresh, data)
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        vec![Phase::new("iwae", &["encoder", "decoder"], self.config.optimizer.clone(), |s, n, b| {
            s.loss(n, b).map(Some)
        })]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        self.model.abilities()
    }
}

impl Iwae {
    /// −L_K, the mean over the batch.
    pub(super) fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let x = self.config.model.pixels.of_batch(batch);
        let (mean, log_var) = networks.encoder.forward(x.clone());
        let draws = self.model.draw(mean, log_var, self.config.samples, batch);
        Ok(match self.config.gradient {
            Gradient::Iwae => Loss::new("negative_bound", -bound(&self.model, &networks.decoder, x, draws).mean()),
            Gradient::Dreg => {
                let (surrogate, bound) = doubly_reparameterised(&self.model, &networks.decoder, x, draws);
                Loss { total: -surrogate.mean(), terms: vec![("negative_bound", -bound.mean())] }
            }
        })
    }
}

/// Whether there is something to average.
///
/// # Errors
/// A usage error if not.
pub fn check_samples(samples: usize) -> Result<()> {
    if samples > 0 {
        return Ok(());
    }
    Err(Error::usage("model.samples must be at least 1"))
}

/// L_K of each picture (equation 8).
///
/// # Shapes
/// `[n, c·h·w]`, draws of `[K·n, d]` → `[n]`
pub fn bound(model: &LatentModel, decoder: &Decoder, x: Tensor<2>, draws: Draws) -> Tensor<1> {
    let (n, k) = (x.dims()[0], draws.z.dims()[0] / x.dims()[0]);
    let log_likelihood = model.log_likelihood(decoder, x.repeat_dim(0, k), draws.z.clone());
    log_mean_exp(log_weights(log_likelihood, draws.z, draws.noise, draws.log_var).reshape([k, n]))
}

/// w̃ₖ = wₖ / Σⱼ wⱼ, held constant.
///
/// # Shapes
/// `[K, n]` → `[K, n]`
pub fn normalised(log_weights: Tensor<2>) -> Tensor<2> {
    softmax(log_weights.detach(), 0)
}

/// log w = log p(x|z) + log N(z; 0, I) − log N(z; μ, σ²) of any z.
///
/// # Shapes
/// `[n]`, `[n, d]` three times → `[n]`
pub fn log_weights_at(log_likelihood: Tensor<1>, z: Tensor<2>, mean: Tensor<2>, log_var: Tensor<2>) -> Tensor<1> {
    let n = z.dims()[0];
    let prior = gaussian_log_terms(z.clone(), z.zeros_like(), z.zeros_like());
    let posterior = gaussian_log_terms(z, mean, log_var);
    log_likelihood + (prior - posterior).sum_dim(1).reshape([n])
}

/// x, with its gradient multiplied by `weight`.
///
/// # Shapes
/// `[n, d]`, `[n, 1]` → `[n, d]`
pub fn scale_gradient(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let held = x.clone().detach();
    held.clone() + (x - held) * weight
}

/// A quantity whose gradients are those of Tucker 2019, and L_K itself, of each picture.
///
/// The weights w̃ come from a pass without gradients. In Σₖ w̃ₖ log wₖ, the decoder then finds w̃ₖ and the encoder, by z alone
/// and through a gradient that is multiplied by w̃ₖ once more, w̃ₖ².
///
/// # Shapes
/// `[n, c·h·w]`, draws of `[K·n, d]` → `[n]` twice
pub fn doubly_reparameterised(
    model: &LatentModel,
    decoder: &Decoder,
    x: Tensor<2>,
    draws: Draws,
) -> (Tensor<1>, Tensor<1>) {
    let (n, k) = (x.dims()[0], draws.z.dims()[0] / x.dims()[0]);
    let x = x.repeat_dim(0, k);
    let (mean, log_var) = (draws.mean.detach(), draws.log_var.detach());
    let log_w = |decoder: &Decoder, z: Tensor<2>| {
        let log_likelihood = model.log_likelihood(decoder, x.clone(), z.clone());
        log_weights_at(log_likelihood, z, mean.clone(), log_var.clone()).reshape([k, n])
    };
    let first = log_w(&decoder.clone().no_grad(), draws.z.clone().detach());
    let weights = normalised(first.clone());
    let z = scale_gradient(draws.z, weights.clone().reshape([k * n, 1]));
    let surrogate = (weights * log_w(decoder, z)).sum_dim(0).reshape([n]);
    (surrogate, log_mean_exp(first))
}

#[cfg(test)]
mod tests {
    use kiln_nn::tensor::to_values;
    use kiln_train::params::{self, HostTensor, take_gradients};

    use super::*;
    use crate::autoencoder::bound::reparameterise;
    use crate::autoencoder::networks::NetworkConfig;
    use crate::autoencoder::testing::{Fixtures, close, device, overfit, system};

    const DRAWS: usize = 5;

    fn config(networks: NetworkConfig, gradient: Gradient) -> Config {
        let model = LatentConfig { networks, ..LatentConfig::default() };
        Config { model, gradient, ..Config::default() }
    }

    /// The fixture's decoder, on the tape.
    fn networks(iwae: &Iwae, f: &Fixtures) -> Networks {
        let fresh = iwae.networks(&mut Init::new(&device().autodiff(), 0));
        let mut state = params::state(&fresh);
        for name in ["weight", "bias"] {
            let (shape, values) = f.values(name);
            let values = values.into_iter().map(|v| v as f32).collect();
            assert!(state.insert(format!("decoder.out.{name}"), HostTensor { shape, values }).is_some());
        }
        params::load(fresh, &state, "fixture").unwrap()
    }

    #[test]
    fn bounds_and_both_gradients_are_pytorchs() {
        let f = Fixtures::open("iwae");
        for (gradient, name) in [(Gradient::Iwae, "iwae"), (Gradient::Dreg, "dreg")] {
            let iwae: Iwae = system(config(NetworkConfig::mlp(2, &[]), gradient), [1, 2, 3]);
            let networks = networks(&iwae, &f);
            let mean = f.tensor::<2>("mu").autodiff().require_grad();
            let log_var = f.tensor::<2>("logvar").autodiff().require_grad();
            let noise = f.tensor::<3>("noise").reshape([DRAWS * 3, 2]).autodiff();
            let all = |t: &Tensor<2>| t.clone().repeat_dim(0, DRAWS);
            let z = reparameterise(all(&mean), all(&log_var), noise.clone());
            let draws = Draws { mean: all(&mean), log_var: all(&log_var), noise, z };
            let x = f.tensor::<2>("pixels").autodiff();
            let (total, value) = match gradient {
                Gradient::Iwae => {
                    let value = bound(&iwae.model, &networks.decoder, x, draws);
                    (value.clone(), value)
                }
                Gradient::Dreg => doubly_reparameterised(&iwae.model, &networks.decoder, x, draws),
            };
            close(&to_values(value.mean()), &[f.values("bound").1[0] as f32], 1e-5);
            let mut gradients = (-total.mean()).backward();
            f.assert_close(mean.grad(&gradients).unwrap(), &format!("{name}.grad_mu"), 1e-5);
            f.assert_close(log_var.grad(&gradients).unwrap(), &format!("{name}.grad_logvar"), 1e-5);
            let flat = take_gradients(&networks, &mut gradients);
            for leaf in ["weight", "bias"] {
                let (_, wanted) = f.values(&format!("{name}.grad_{leaf}"));
                let wanted: Vec<f32> = wanted.into_iter().map(|v| v as f32).collect();
                close(&to_values(flat[&format!("decoder.out.{leaf}")].clone()), &wanted, 1e-5);
            }
        }
    }

    #[test]
    fn overfits_a_batch_by_either_gradient() {
        for gradient in [Gradient::Iwae, Gradient::Dreg] {
            let (first, last) =
                overfit::<Iwae>(config(NetworkConfig::mlp(3, &[16]), gradient), "negative_bound", 1e-2, 150);
            assert!(last < first - 5.0, "{gradient:?}: {first} to {last}");
        }
    }

    #[test]
    fn nothing_to_average_is_a_usage_error() {
        let pictures = Pictures::new([1, 8, 8], Vec::new());
        let error = Iwae::new(Config { samples: 0, ..Config::default() }, &pictures).err().unwrap();
        assert!(error.is_usage() && error.to_string().contains("model.samples"), "{error}");
    }
}
