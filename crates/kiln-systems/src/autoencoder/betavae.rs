//! Higgins et al., *β-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework*, 2017.
//!
//! The ELBO under the constraint KL(q(z|x) ‖ p(z)) < ε, whose Lagrangian is (equation 4)
//!
//! F(θ, φ, β; x, z) = E_q(z|x) log p_θ(x|z) − β·KL(q_φ(z|x) ‖ p(z)),
//!
//! with β > 1. Information in z costs more than it gains in likelihood, so the model encodes only what matters most, in
//! few, independent latents. Training minimises −F with one sample of z per image; β = 1 is the variational autoencoder.
//!
//! | paper | here |
//! |---|---|
//! | q_φ(z\|x), p_θ(x\|z) | `encoder`, `decoder` |
//! | β | `beta` |
//! | β_norm = β·M / N (M latents, N pixels; §3) | not a setting: all terms are sums over latents and pixels |
//!
//! `kiln evaluate RUN --metrics mig`, on a set with known factors, measures whether each factor has its own latent.
//!
//! `kiln train recipes/betavae/dsprites.toml`, then `kiln edit RUN --traverse --out latents.png`.

use kiln_core::{Error, Result};
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
use super::networks::NetworkConfig;
use super::vae::training;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The networks and p(x|z).
    #[serde(flatten)]
    pub model: LatentConfig,
    /// Warm-up and free bits of the KL term.
    #[serde(flatten)]
    pub kl: KlConfig,
    /// β, the weight of the KL term; 1 is the VAE.
    pub beta: f64,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: few_latents(),
            kl: KlConfig::default(),
            beta: 4.0,
            optimizer: OptimizerConfig::adam(1e-3).schedule(Schedule::Cosine),
        }
    }
}

/// Ten latents, as both papers on disentangling have.
pub(super) fn few_latents() -> LatentConfig {
    LatentConfig { networks: NetworkConfig { latent: 10, ..NetworkConfig::default() }, ..LatentConfig::default() }
}

/// Whether a weight is one.
///
/// # Errors
/// A usage error naming it.
pub(super) fn check_weight(name: &str, value: f64) -> Result<()> {
    if value >= 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Error::usage(format!("model.{name} must not be negative, and is {value}")))
}

/// The system.
pub struct BetaVae {
    model: LatentModel,
    config: Config,
}

impl System for BetaVae {
    const ID: &'static str = "betavae";
    const PAPER: &'static str =
        "Higgins et al.: beta-VAE, Learning Basic Visual Concepts with a Constrained Variational Framework, 2017";
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
        check_weight("beta", config.beta)?;
        Ok(Self { model: LatentModel::new(Self::ID, config.model.clone(), pictures.shape)?, config })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        self.model.networks(init)
    }

    fn initialise(&self, fresh: Networks, data: &FitData<'_>) -> Result<Networks> {
        self.model.initialise(fresh, data)
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        vec![Phase::new("betavae", &["encoder", "decoder"], self.config.optimizer.clone(), |s, n, b| {
            s.loss(n, b).map(Some)
        })]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        self.model.abilities()
    }
}

impl BetaVae {
    /// −F, the mean over the batch.
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let x = self.config.model.pixels.of_batch(batch);
        let (mean, log_var) = networks.encoder.forward(x.clone());
        let z = self.model.draw(mean.clone(), log_var.clone(), 1, batch).z;
        let reconstruction = -self.model.log_likelihood(&networks.decoder, x, z).mean();
        let bound = reconstruction.clone() + gaussian_kl(mean.clone(), log_var.clone()).mean();
        let weight = self.config.kl.weight(self.config.beta, batch.start);
        Ok(Loss::new("reconstruction", reconstruction)
            .plus("kl", weight, self.config.kl.divergence(mean, log_var))
            .report("negative_elbo", bound))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tensor;
    use kiln_nn::tensor::to_values;

    use super::*;
    use crate::autoencoder::testing::{batch, close, device, overfit, system};
    use crate::autoencoder::vae::{self, Vae};

    fn config(beta: f64) -> Config {
        let model = LatentConfig { networks: NetworkConfig::mlp(3, &[16]), ..LatentConfig::default() };
        Config { model, beta, ..Config::default() }
    }

    #[test]
    fn the_divergence_counts_beta_times_and_once_in_the_autoencoder() {
        let of_batch = || batch([8, 1, 8, 8], 50);
        let plain = vae::Config { model: config(1.0).model, ..vae::Config::default() };
        let mut plain: Vae = system(plain, [1, 8, 8]);
        let networks = plain.networks(&mut Init::new(&device().autodiff(), 0));
        let bound: Tensor<1> = plain.loss(&networks, &of_batch()).unwrap().total;
        let mut one: BetaVae = system(config(1.0), [1, 8, 8]);
        close(&to_values(one.loss(&networks, &of_batch()).unwrap().total), &to_values(bound), 1e-6);
        let mut warm = config(4.0);
        warm.kl.kl_warmup = 100;
        for (config, weight) in [(config(4.0), 4.0), (warm, 2.0), (config(0.0), 0.0)] {
            let loss = system::<BetaVae>(config, [1, 8, 8]).loss(&networks, &of_batch()).unwrap();
            let [reconstruction, kl, _]: [f32; 3] = [0, 1, 2].map(|i| to_values(loss.terms[i].1.clone())[0]);
            close(&to_values(loss.total), &[reconstruction + weight * kl], 1e-5);
        }
    }

    #[test]
    fn overfits_a_batch() {
        let (first, last) = overfit::<BetaVae>(config(1.5), "negative_elbo", 1e-2, 200);
        assert!(last < first - 4.0, "{first} to {last}");
    }

    #[test]
    fn weights_are_checked() {
        for beta in [-1.0, f64::NAN, f64::INFINITY] {
            let pictures = Pictures::new([1, 8, 8], Vec::new());
            let error = BetaVae::new(config(beta), &pictures).err().unwrap();
            assert!(error.is_usage() && error.to_string().contains("model.beta"), "{error}");
        }
    }
}
