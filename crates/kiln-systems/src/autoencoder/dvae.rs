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
//! `kiln evaluate RUN --metrics nll` measures log p(x) with q̃, what the encoder was trained to be: by −L_dvae with one draw,
//! or by importance samples zₖ ~ q(z|x̃ₖ) with weights p(x|zₖ) p(zₖ) / q̃(zₖ|x), q̃ being the mean of q(zₖ|x̃ⱼ) over the images x̃ⱼ of 16
//! samples. Half of them are corrupted, and half are the image itself: where the encoder has learned to see through the corruption, its
//! q(z|x) is the nearer to p(z|x), and the mixture alone would need thousands of samples. This is −log p(x) or more in expectation, as for
//! any other model of this family.
//!
//! `kiln train recipes/dvae/mnist.toml`

use std::ops::Range;

use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::loss::{gaussian_kl, gaussian_log_likelihood, gaussian_log_terms};
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::request::check_pictures;
use kiln_train::{
    Abilities, Batch, DataConfig, FitData, Likelihood, Loss, OptimizerConfig, Phase, Pictures, Schedule, SizeRule,
    System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::bound::{importance_nll, in_parts, log_mean_exp, reparameterise, rows_at_once, sample_noise};
use super::iwae::{bound, check_samples};
use super::latent::{LatentConfig, LatentModel, Networks};
use super::pixels::{Likelihoods, fingerprints};
use super::vae::training;

/// Samples of a likelihood whose corrupted images make one q̃.
const MIXTURE: usize = 16;

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
    /// x̃ of x whose pixels lie from `least` to 1, by standard normal or uniform numbers, a stream a picture.
    ///
    /// # Shapes
    /// `[n, d]` → `[n, d]`
    pub fn apply(
        self,
        x: Tensor<2>,
        level: f64,
        least: f64,
        key: Key,
        streams: impl IntoIterator<Item = u64>,
    ) -> Tensor<2> {
        let (shape @ [_, d], device) = (x.dims(), x.device());
        match self {
            Self::None => x,
            Self::Gaussian => {
                let noise: Tensor<2> = from_values(key.normal(streams, d), shape, &device);
                x + noise * (level * (1.0 - least) / 2.0)
            }
            Self::SaltAndPepper => {
                let u: Tensor<2> = from_values(key.uniform(streams, d), shape, &device);
                x.mask_fill(u.clone().lower_elem(level / 2.0), least)
                    .mask_fill(u.greater_equal_elem(1.0 - level / 2.0), 1.0)
            }
            Self::Masking => {
                let u: Tensor<2> = from_values(key.uniform(streams, d), shape, &device);
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

    fn resolve(config: Config, pictures: &Pictures) -> Config {
        Config { model: config.model.resolved(pictures.shape), ..config }
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let config = Self::resolve(config, pictures);
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

    fn initialise(&self, fresh: Networks, data: &FitData<'_>) -> Result<Networks> {
        self.model.initialise(fresh, data)
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        vec![Phase::new("dvae", &["encoder", "decoder"], self.config.optimizer.clone(), |s, n, b| {
            s.loss(n, b).map(Some)
        })]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { likelihood: Some(self), ..self.model.abilities() }
    }
}

impl Dvae {
    /// −L_dvae, the mean over the batch.
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let x = self.config.model.pixels.of_batch(batch);
        let corrupted = self.corrupted(x.clone(), batch.key("corruption"), batch.samples());
        let (mean, log_var) = networks.encoder.forward(corrupted);
        let draws = self.model.draw(mean, log_var, self.config.samples, batch);
        Ok(Loss::new("negative_bound", -bound(&self.model, &networks.decoder, x, draws).mean()))
    }
}

impl Dvae {
    /// x̃ of x, a stream a picture.
    ///
    /// # Shapes
    /// `[n, c·h·w]` → the same
    fn corrupted(&self, x: Tensor<2>, key: Key, streams: impl IntoIterator<Item = u64>) -> Tensor<2> {
        let Config { corruption, corruption_level, model, .. } = &self.config;
        let least = if model.pixels.decoder == Likelihoods::Bernoulli { 0.0 } else { -1.0 };
        corruption.apply(x, *corruption_level, least, key, streams)
    }

    /// log w of samples `ks`, which share q̃.
    ///
    /// # Shapes
    /// `[n, c·h·w]` → `[ks, n]`
    fn log_weights(
        &self,
        networks: &Networks,
        x: &Tensor<2>,
        ks: Range<usize>,
        key: Key,
        streams: &[u64],
    ) -> Tensor<2> {
        let (n, k) = (streams.len(), ks.len());
        let corruption = key.purpose("corruption");
        let of = |k: usize| match k % 2 {
            0 => x.clone(),
            _ => self.corrupted(x.clone(), corruption.at(k as u64), streams.iter().copied()),
        };
        let (mean, log_var) = networks.encoder.forward(Tensor::cat(ks.clone().map(of).collect(), 0));
        let d = mean.dims()[1];
        let like = Tensor::zeros([n, d], &x.device());
        let noise = sample_noise(key.purpose("posterior"), ks, streams, &like);
        let z = reparameterise(mean.clone(), log_var.clone(), noise);
        // log q(zₖ|x̃ⱼ): [j, k, n, d].
        let of_corrupted = |t: Tensor<2>| t.reshape([k, 1, n, d]);
        let each = gaussian_log_terms(z.clone().reshape([1, k, n, d]), of_corrupted(mean), of_corrupted(log_var));
        let log_q = log_mean_exp(each.sum_dim(3).reshape([k, k * n]));
        let zero = Tensor::zeros([1, 1], &x.device());
        let log_prior = gaussian_log_likelihood(z.clone(), zero.clone(), zero);
        let log_likelihood = self.model.log_likelihood(&networks.decoder, x.clone().repeat_dim(0, k), z);
        (log_likelihood + log_prior - log_q).reshape([k, n])
    }
}

impl Likelihood<Networks> for Dvae {
    fn observed(&self, images: Tensor<4>) -> Tensor<4> {
        self.model.observed(images)
    }

    /// `samples` = 0: −L_dvae with one x̃ and one ε. Otherwise minus the importance-sampled log p(x). Draws belong to the
    /// picture; memory does not grow with `samples`.
    fn nll(&self, networks: &Networks, images: Tensor<4>, samples: usize, key: Key) -> Result<Tensor<1>> {
        check_pictures(&images, self.model.shape)?;
        let (n, size) = (images.dims()[0], self.model.shape.iter().product());
        let rows = (rows_at_once(size) / MIXTURE).max(1);
        if n > rows {
            return in_parts(n, rows, |from, len| {
                self.nll(networks, images.clone().narrow(0, from, len), samples, key)
            });
        }
        let streams = fingerprints(&to_values(images.clone()), size);
        let x = self.config.model.pixels.observe(images, Some((key.purpose("binarise"), streams.clone())));
        if samples > 0 {
            return Ok(importance_nll(samples, MIXTURE, |ks| self.log_weights(networks, &x, ks, key, &streams)));
        }
        let corrupted = self.corrupted(x.clone(), key.purpose("corruption"), streams.iter().copied());
        let (mean, log_var) = networks.encoder.forward(corrupted);
        let noise = sample_noise(key.purpose("posterior"), 0..1, &streams, &mean);
        let z = reparameterise(mean.clone(), log_var.clone(), noise);
        Ok(gaussian_kl(mean, log_var) - self.model.log_likelihood(&networks.decoder, x, z))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autoencoder::networks::NetworkConfig;
    use crate::autoencoder::pixels::PixelConfig;
    use crate::autoencoder::testing::{batch, close, device, exact_nll, overfit, pictures, system};

    fn config(corruption: Corruption) -> Config {
        let model = LatentConfig { networks: NetworkConfig::mlp(3, &[16]), ..LatentConfig::default() };
        Config { model, corruption, ..Config::default() }
    }

    #[test]
    fn corruption_is_of_the_kind_and_the_size_asked_for() {
        let batch = batch([64, 1, 8, 8], 0);
        let x = Tensor::full([64, 64], 0.5, &device().autodiff());
        let corrupted =
            |kind: Corruption, level| to_values(kind.apply(x.clone(), level, 0.0, batch.key("c"), batch.samples()));
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

    /// A linear decoder, whose likelihood is the same by any posterior that covers the true one.
    fn linear(corruption: Corruption) -> Dvae {
        let pixels = PixelConfig { decoder: Likelihoods::Gaussian, sigma: 0.7, ..PixelConfig::default() };
        let model = LatentConfig { networks: NetworkConfig::mlp(2, &[]), pixels };
        system(Config { model, corruption, corruption_level: 0.3, ..Config::default() }, [1, 2, 2])
    }

    #[test]
    fn the_likelihood_is_of_the_corrupted_mixture() {
        let images: Tensor<4> = from_values(pictures([8, 1, 2, 2]), [8, 1, 2, 2], &device());
        let clean = linear(Corruption::None);
        let networks = clean.networks(&mut Init::new(&device(), 3));
        let mean = |dvae: &Dvae, samples, key| {
            let nll = dvae.nll(&networks, images.clone(), samples, Key::new(key)).unwrap();
            f64::from(nll.mean().into_scalar::<f32>())
        };
        // Without corruption it is any model's of the family.
        let plain = clean.model.nll(&networks, images.clone(), 40, Key::new(0)).unwrap();
        close(&to_values(clean.nll(&networks, images.clone(), 40, Key::new(0)).unwrap()), &to_values(plain), 1e-4);
        // With it, many samples reach the same likelihood from above.
        let out = &networks.decoder.out;
        let (weight, bias) = (to_values(out.weight.val()), to_values(out.bias.as_ref().unwrap().val()));
        let exact = pictures([8, 1, 2, 2]).chunks(4).map(|x| exact_nll(&weight, &bias, 0.7, x)).sum::<f64>() / 8.0;
        let noisy = linear(Corruption::SaltAndPepper);
        assert!((mean(&noisy, 20_000, 0) - exact).abs() < 0.01, "{} is not {exact}", mean(&noisy, 20_000, 0));
        let averaged = |samples| (0..100).map(|key| mean(&noisy, samples, key)).sum::<f64>() / 100.0;
        let (bound, few) = (averaged(0), averaged(20));
        assert!(bound > few + 0.01 && few > exact, "{bound}, {few}, {exact}");
    }

    #[test]
    fn a_pictures_likelihood_does_not_depend_on_its_batch() {
        let dvae: Dvae = system(config(Corruption::SaltAndPepper), [1, 8, 8]);
        let networks = dvae.networks(&mut Init::new(&device(), 0));
        let images: Tensor<4> = from_values(pictures([6, 1, 8, 8]), [6, 1, 8, 8], &device());
        for samples in [0, 20] {
            let all = to_values(dvae.nll(&networks, images.clone(), samples, Key::new(0)).unwrap());
            let one = to_values(dvae.nll(&networks, images.clone().narrow(0, 4, 1), samples, Key::new(0)).unwrap());
            close(&one, &all[4..5], 1e-5);
        }
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
