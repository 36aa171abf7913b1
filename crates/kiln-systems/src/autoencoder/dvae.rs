//! Im, Ahn, Memisevic & Bengio, *Denoising Criterion for Variational Auto-Encoding Framework*, 2017.
//!
//! The encoder sees a corrupted image x̃ ~ p(x̃|x), the decoder must give the clean one. The posterior is then the mixture
//! q̃(z|x) = E_{p(x̃|x)} q(z|x̃), richer than a Gaussian, and (equation 7, lemma 1, theorem 1)
//!
//! L_dvae = E_{p(x̃|x)} E_{q(z|x̃)} log p(x|z) p(z) / q(z|x̃) ≤ E_{q̃(z|x)} log p(x|z) p(z) / q̃(z|x) ≤ log p(x).
//!
//! With K > 1 samples of z per image, from one x̃, L_dvae is the importance weighted bound of Burda 2016 instead of the
//! ELBO (the paper's DIWAE, §5).
//!
//! | paper | here |
//! |---|---|
//! | p(x̃\|x) | `corruption`, `corruption_level`: [`Corruption::apply`] |
//! | q(z\|x̃) | `encoder` of x̃ |
//! | L_dvae | [`super::iwae::bound`] of draws from q(z\|x̃) |
//!
//! `kiln evaluate RUN --metrics nll` measures log p(x) by importance samples from q(z|x) of the clean image: a
//! bound on the same quantity as for any other model of this family.
//!
//! `kiln train recipes/dvae/mnist.toml`

use burn::tensor::Tensor;
use kiln_core::{Error, Result};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_train::{
    Abilities, Batch, DataConfig, Loss, OptimizerConfig, Phase, Pictures, Schedule, SizeRule, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::iwae::{bound, check_samples};
use super::latent::{LatentConfig, LatentModel, Networks};
use super::pixels::Likelihoods;
use super::vae::training;

/// p(x̃|x).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Corruption {
    /// x̃ = x.
    None,
    /// A share `corruption_level` of the pixels become black or white, equally likely.
    #[default]
    SaltAndPepper,
    /// N(x, `corruption_level`²), in pixels scaled to [−1, 1].
    Gaussian,
    /// A share `corruption_level` of the pixels become black.
    Masking,
}

impl Corruption {
    /// x̃ of x whose pixels lie from `least` to 1, by standard normal or uniform numbers keyed to the samples.
    ///
    /// # Shapes
    /// `[n, d]` → `[n, d]`
    pub fn apply(self, x: Tensor<2>, level: f64, least: f64, batch: &Batch) -> Tensor<2> {
        let shape = x.dims();
        match self {
            Self::None => x,
            Self::Gaussian => x + batch.normal("corruption", shape) * (level * (1.0 - least) / 2.0),
            Self::SaltAndPepper => {
                let u: Tensor<2> = batch.uniform("corruption", shape);
                x.mask_fill(u.clone().lower_elem(level / 2.0), least)
                    .mask_fill(u.greater_equal_elem(1.0 - level / 2.0), 1.0)
            }
            Self::Masking => {
                let u: Tensor<2> = batch.uniform("corruption", shape);
                x.mask_fill(u.lower_elem(level), least)
            }
        }
    }
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The networks and p(x|z).
    #[serde(flatten)]
    pub model: LatentConfig,
    /// `salt-and-pepper`, `gaussian`, `masking` or `none`.
    pub corruption: Corruption,
    /// Share of pixels that change, 0 to 1; for `gaussian` the standard deviation, in pixels scaled to [−1, 1].
    pub corruption_level: f64,
    /// K, samples of z per image; 1 is the paper's DVAE, more its DIWAE.
    pub samples: usize,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: LatentConfig::default(),
            corruption: Corruption::default(),
            corruption_level: 0.05,
            samples: 1,
            optimizer: OptimizerConfig::adam(1e-3).schedule(Schedule::Cosine),
        }
    }
}

/// The system.
pub struct Dvae {
    model: LatentModel,
    config: Config,
}

impl System for Dvae {
    const ID: &'static str = "dvae";
    const PAPER: &'static str =
        "Im, Ahn, Memisevic & Bengio: Denoising Criterion for Variational Auto-Encoding Framework, 2017";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        (DataConfig::default(), training())
    }

    fn sizes(config: &Config) -> SizeRule {
        config.model.networks.sizes()
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        check_samples(config.samples)?;
        let level = config.corruption_level;
        let most = if config.corruption == Corruption::Gaussian { f64::MAX } else { 1.0 };
        if !(0.0..=most).contains(&level) {
            return Err(Error::usage(format!(
                "model.corruption_level must be from 0 to 1 (gaussian: 0 or above), and is {level}"
            )));
        }
        Ok(Self { model: LatentModel::new(Self::ID, config.model.clone(), pictures.shape)?, config })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        self.model.networks(init)
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        vec![Phase::new("dvae", &["encoder", "decoder"], self.config.optimizer.clone(), |s, n, b| {
            s.loss(n, b).map(Some)
        })]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        self.model.abilities()
    }
}

impl Dvae {
    /// −L_dvae, the mean over the batch.
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let (c, pixels) = (&self.config, &self.config.model.pixels);
        let x = pixels.of_batch(batch);
        let least = if pixels.decoder == Likelihoods::Bernoulli { 0.0 } else { -1.0 };
        let corrupted = c.corruption.apply(x.clone(), c.corruption_level, least, batch);
        let (mean, log_var) = networks.encoder.forward(corrupted);
        let draws = self.model.draw(mean, log_var, c.samples, batch);
        Ok(Loss::new("negative_bound", -bound(&self.model, &networks.decoder, x, draws).mean()))
    }
}

#[cfg(test)]
mod tests {
    use kiln_nn::tensor::to_values;

    use super::*;
    use crate::autoencoder::networks::NetworkConfig;
    use crate::autoencoder::testing::{batch, close, device, overfit, system};

    fn config(corruption: Corruption) -> Config {
        let model = LatentConfig { networks: NetworkConfig::mlp(3, &[16]), ..LatentConfig::default() };
        Config { model, corruption, ..Config::default() }
    }

    #[test]
    fn corruption_is_of_the_kind_and_the_size_asked_for() {
        let batch = batch([64, 1, 8, 8], 0);
        let x = Tensor::full([64, 64], 0.5, &device().autodiff());
        let corrupted = |kind: Corruption, level| to_values(kind.apply(x.clone(), level, 0.0, &batch));
        let share = |values: &[f32], of: f32| values.iter().filter(|v| **v == of).count() as f32 / 4096.0;
        let salted = corrupted(Corruption::SaltAndPepper, 0.2);
        close(&[share(&salted, 0.0), share(&salted, 1.0), share(&salted, 0.5)], &[0.1, 0.1, 0.8], 0.02);
        let masked = corrupted(Corruption::Masking, 0.2);
        close(&[share(&masked, 0.0), share(&masked, 0.5)], &[0.2, 0.8], 0.02);
        let noisy = corrupted(Corruption::Gaussian, 0.2);
        let variance = noisy.iter().map(|v| (v - 0.5).powi(2)).sum::<f32>() / 4096.0;
        // 0.2 of the range [−1, 1] is 0.1 of `[0, 1]`.
        close(&[variance.sqrt()], &[0.1], 0.01);
        assert_eq!(corrupted(Corruption::None, 0.2), vec![0.5; 4096]);
    }

    #[test]
    fn without_corruption_it_is_the_importance_weighted_bound() {
        let of_batch = || batch([8, 1, 8, 8], 0);
        let mut dvae: Dvae = system(config(Corruption::None), [1, 8, 8]);
        let networks = dvae.networks(&mut Init::new(&device().autodiff(), 0));
        let iwae = super::super::iwae::Config { model: dvae.config.model.clone(), samples: 1, ..Default::default() };
        let mut iwae: super::super::iwae::Iwae = system(iwae, [1, 8, 8]);
        let ours = dvae.loss(&networks, &of_batch()).unwrap().total;
        let theirs = iwae.loss(&networks, &of_batch()).unwrap().total;
        assert_eq!(to_values(ours), to_values(theirs));
        let mut other: Dvae = system(config(Corruption::SaltAndPepper), [1, 8, 8]);
        assert_ne!(
            to_values(other.loss(&networks, &of_batch()).unwrap().total),
            to_values(dvae.loss(&networks, &of_batch()).unwrap().total)
        );
    }

    #[test]
    fn overfits_a_batch_with_one_draw_and_with_five() {
        for samples in [1, 5] {
            let config = Config { samples, ..config(Corruption::SaltAndPepper) };
            let (first, last) = overfit::<Dvae>(config, "negative_bound", 1e-2, 200);
            assert!(last < first - 5.0, "{samples}: {first} to {last}");
        }
    }

    #[test]
    fn more_corruption_than_there_are_pixels_is_a_usage_error() {
        let pictures = Pictures::new([1, 8, 8], Vec::new());
        for level in [-0.1, 1.5, f64::NAN] {
            let bad = Config { corruption_level: level, ..config(Corruption::Masking) };
            let error = Dvae::new(bad, &pictures).err().unwrap();
            assert!(error.is_usage() && error.to_string().contains("model.corruption_level"), "{error}");
        }
    }
}
