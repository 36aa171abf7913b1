//! Kingma & Welling, *Auto-Encoding Variational Bayes*, 2014.
//!
//! Objective (equations 7 and 10, appendix B): the evidence lower bound (ELBO) of an image x,
//!
//! L = E_q(z|x) log p_θ(x|z) − KL(q_φ(z|x) ‖ p(z)) ≤ log p_θ(x), with
//! q_φ(z|x) = N(μ, diag σ²), p(z) = N(0, I), z = μ + σ ⊙ ε, ε ~ N(0, I), and
//! KL = −½ Σⱼ (1 + log σⱼ² − μⱼ² − σⱼ²).
//!
//! Training minimises −E log p(x|z) + KL, with one sample of ε per image (the paper's L = 1).
//!
//! | paper | here |
//! |---|---|
//! | q_φ(z\|x): μ, log σ² | `encoder`: [`super::networks::Encoder::forward`] |
//! | p_θ(x\|z) | `decoder`, read by [`super::pixels::PixelConfig::log_likelihood`]: a Bernoulli (appendix C.1) or a Gaussian (C.2) per pixel |
//! | ε, z | [`LatentModel::draw`] |
//! | −KL term | [`gaussian_kl`] |
//! | log p(x) | [`LatentModel`]'s `nll`, by importance sampling |
//!
//! `kiln train vae --data starter`, then `kiln sample RUN -n 64 --truncation-psi 0.8`.

use kiln_core::Result;
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::loss::gaussian_kl;
use kiln_train::{
    Abilities, Batch, DataConfig, FitData, Loss, OptimizerConfig, Phase, Pictures, Schedule, SizeRule, System,
    TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::bound::KlConfig;
use super::latent::{LatentConfig, LatentModel, Networks};

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The networks and p(x|z).
    #[serde(flatten)]
    pub model: LatentConfig,
    /// Warm-up and free bits of the KL term.
    #[serde(flatten)]
    pub kl: KlConfig,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: LatentConfig::default(),
            kl: KlConfig::default(),
            optimizer: OptimizerConfig::adam(1e-3).schedule(Schedule::Cosine),
        }
    }
}

/// The loop's settings that suit the models of this family.
pub fn training() -> TrainConfig {
    TrainConfig {
        batch: 128,
        images: 600_000,
        ema_half_life: 20_000.0,
        log_every: 10_000,
        checkpoint_every: 60_000,
        preview_every: 60_000,
        ..TrainConfig::default()
    }
}

/// The system.
pub struct Vae {
    model: LatentModel,
    config: Config,
}

impl System for Vae {
    const ID: &'static str = "vae";
    const PAPER: &'static str = "Kingma & Welling: Auto-Encoding Variational Bayes, 2014";
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
        config.kl.check()?;
        Ok(Self { model: LatentModel::new(Self::ID, config.model.clone(), pictures.shape)?, config })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        self.model.networks(init)
    }

    fn initialise(&self, fresh: Networks, data: &FitData<'_>) -> Result<Networks> {
        self.model.initialise(fresh, data)
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        vec![Phase::new("vae", &["encoder", "decoder"], self.config.optimizer.clone(), |s, n, b| {
            s.loss(n, b).map(Some)
        })]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        self.model.abilities()
    }
}

impl Vae {
    /// −E log p(x|z) + KL, the mean over the batch.
    pub(super) fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let x = self.config.model.pixels.of_batch(batch);
        let (mean, log_var) = networks.encoder.forward(x.clone());
        let z = self.model.draw(mean.clone(), log_var.clone(), 1, batch).z;
        let reconstruction = -self.model.log_likelihood(&networks.decoder, x, z).mean();
        let bound = reconstruction.clone() + gaussian_kl(mean.clone(), log_var.clone()).mean();
        let weight = self.config.kl.weight(1.0, batch.start);
        Ok(Loss::new("reconstruction", reconstruction)
            .plus("kl", weight, self.config.kl.divergence(mean, log_var))
            .report("negative_elbo", bound))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tensor;
    use kiln_nn::tensor::to_values;
    use kiln_train::params::{self, HostTensor, take_gradients};

    use super::*;
    use crate::autoencoder::bound::reparameterise;
    use crate::autoencoder::networks::{Network, NetworkConfig};
    use crate::autoencoder::pixels::{Likelihoods, PixelConfig, Variance};
    use crate::autoencoder::testing::{Fixtures, batch, close, device, overfit, system};

    fn config(network: Network, pixels: PixelConfig) -> Config {
        let networks = NetworkConfig { latent: 3, hidden: vec![16], network, channels: 8, ..NetworkConfig::default() };
        Config { model: LatentConfig { networks, pixels }, ..Config::default() }
    }

    #[test]
    fn overfits_a_batch_with_every_decoder() {
        for network in [Network::Mlp, Network::Conv] {
            for (decoder, variance) in [
                (Likelihoods::Bernoulli, Variance::Scalar),
                (Likelihoods::Gaussian, Variance::Scalar),
                (Likelihoods::GaussianLearned, Variance::Scalar),
                (Likelihoods::GaussianLearned, Variance::Pixel),
                (Likelihoods::Logistic, Variance::Scalar),
                (Likelihoods::Logistic, Variance::Pixel),
            ] {
                let pixels = PixelConfig { decoder, variance, sigma: 0.5, ..PixelConfig::default() };
                let (first, last) = overfit::<Vae>(config(network, pixels), "negative_elbo", 1e-2, 150);
                assert!(last < first - 5.0, "{network:?} {decoder:?} {variance:?}: {first} to {last}");
            }
        }
    }

    #[test]
    fn the_bound_and_its_gradients_are_pytorchs() {
        let f = Fixtures::open("systems");
        let config = Config {
            model: LatentConfig { networks: NetworkConfig::mlp(2, &[]), ..LatentConfig::default() },
            ..Config::default()
        };
        let vae: Vae = system(config, [1, 2, 3]);
        let fresh = vae.networks(&mut Init::new(&device().autodiff(), 0));
        let mut state = params::state(&fresh);
        for leaf in ["weight", "bias"] {
            let (shape, values) = f.values(&format!("vae.{leaf}"));
            let values = values.into_iter().map(|v| v as f32).collect();
            assert!(state.insert(format!("decoder.out.{leaf}"), HostTensor { shape, values }).is_some());
        }
        let networks = params::load(fresh, &state, "fixture").unwrap();
        let mean = f.tensor::<2>("vae.mu").autodiff().require_grad();
        let log_var = f.tensor::<2>("vae.logvar").autodiff().require_grad();
        let noise = f.tensor::<3>("vae.noise").narrow(0, 0, 1).reshape([3, 2]).autodiff();
        let z = reparameterise(mean.clone(), log_var.clone(), noise);
        let log_likelihood = vae.model.log_likelihood(&networks.decoder, f.tensor::<2>("vae.pixels").autodiff(), z);
        let bound = (log_likelihood - gaussian_kl(mean.clone(), log_var.clone())).mean();
        close(&to_values(bound.clone()), &[f.values("vae.elbo").1[0] as f32], 1e-5);
        let mut gradients = (-bound).backward();
        f.assert_close(mean.grad(&gradients).unwrap(), "vae.elbo_grad_mu", 1e-5);
        f.assert_close(log_var.grad(&gradients).unwrap(), "vae.elbo_grad_logvar", 1e-5);
        let flat = take_gradients(&networks, &mut gradients);
        let weight: Tensor<2> = flat["decoder.out.weight"].clone().reshape([6, 2]);
        f.assert_close(weight, "vae.elbo_grad_weight", 1e-5);
    }

    #[test]
    fn the_loss_is_the_bound_once_the_divergence_counts_whole() {
        let mut config = config(Network::Mlp, PixelConfig::default());
        config.kl.kl_warmup = 100;
        let mut vae: Vae = system(config, [1, 8, 8]);
        let networks = vae.networks(&mut Init::new(&device().autodiff(), 0));
        for (start, weight) in [(0, 0.0), (50, 0.5), (100, 1.0)] {
            let loss = vae.loss(&networks, &batch([8, 1, 8, 8], start)).unwrap();
            let [reconstruction, kl, bound]: [f32; 3] = [0, 1, 2].map(|i| to_values(loss.terms[i].1.clone())[0]);
            let total: Tensor<1> = loss.total;
            close(&[total.into_scalar(), bound], &[reconstruction + weight * kl, reconstruction + kl], 1e-5);
        }
    }
}
