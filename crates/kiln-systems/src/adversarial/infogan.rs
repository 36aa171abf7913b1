//! Chen et al., *InfoGAN: Interpretable Representation Learning by Information Maximizing Generative Adversarial Nets*, 2016.
//!
//! Objective (equation 6): min_{G,Q} max_D V(D, G) − λ·L_I(G, Q), with the bound on the mutual information between the
//! codes c and G's pictures (equation 5): L_I = E log Q(c | G(z, c)) + H(c) ≤ I(c; G(z, c)).
//!
//! | paper | here |
//! |---|---|
//! | z, incompressible noise | `noise_size` numbers from U(−1, 1) |
//! | c₁, categorical codes | `categories`: how many values each has |
//! | c₂, c₃, continuous codes from U(−1, 1) | `continuous` |
//! | Q shares all of D's layers but the last (§6) | [`Discriminator`]'s `posterior` and `codes` |
//! | log Q of a continuous code: a Gaussian | of variance 1, as in the authors' code |
//! | λ = 1 (§6) | `info_weight`, and `continuous_weight` for continuous codes |
//! | networks of appendix C.1 | [`Generator`], [`Discriminator`] |
//!
//! The latent of a sample is z, then each categorical code as one number for each of its values, then the continuous ones.
//! `kiln encode` gives the codes of a picture, without z.
//!
//! `kiln train infogan --data mnist`, then `kiln evaluate RUN --metrics clusters -n 10000 --split test`.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::{log_softmax, softmax, tanh};
use kiln_core::random::Key;
use kiln_core::{Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::tensor::{from_values, uniform};
use kiln_nn::{Activation, BatchNorm2d, Conv2d, Conv2dConfig, ConvTranspose2d, Init, Linear, LinearConfig, activate};
use kiln_train::request::check_pictures;
use kiln_train::{
    Abilities, Batch, Cluster, DataConfig, Decode, Encode, Generate, Input, Loss, OptimizerConfig, Phase, Pictures,
    Request, SizeRule, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::dcgan::{Sizes, WEIGHTS};
use super::latent::check_length;
use super::objective::Objective;
use super::players;
use crate::one_pass::truncation_psi;

/// D's slope below 0 (appendix C).
const LEAK: f32 = 0.1;
/// Units of the layers between the convolutions and the codes.
const UNITS: usize = 1024;
/// Units of Q's own layer.
const POSTERIOR: usize = 128;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Length of z.
    pub noise_size: usize,
    /// Values of each categorical code; none for no such code.
    pub categories: Vec<usize>,
    /// Number of continuous codes.
    pub continuous: usize,
    /// λ of categorical codes.
    pub info_weight: f64,
    /// λ of continuous codes.
    pub continuous_weight: f64,
    /// Channels of the widest pictures within G and D; doubled each time the size is halved.
    pub channels: usize,
    /// `non-saturating`, `saturating`, `least-squares` or `hinge`.
    pub objective: Objective,
    /// G's optimiser.
    pub generator_optimizer: OptimizerConfig,
    /// The optimiser of D and Q.
    pub discriminator_optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        let adam = |rate| OptimizerConfig::adam(rate).betas(0.5, 0.999);
        Self {
            noise_size: 62,
            categories: vec![10],
            continuous: 2,
            info_weight: 1.0,
            continuous_weight: 1.0,
            channels: 64,
            objective: Objective::NonSaturating,
            generator_optimizer: adam(1e-3),
            discriminator_optimizer: adam(2e-4),
        }
    }
}

impl Config {
    /// Numbers of all categorical codes.
    fn categorical(&self) -> usize {
        self.categories.iter().sum()
    }

    /// Numbers of all codes.
    fn codes(&self) -> usize {
        self.categorical() + self.continuous
    }

    /// Numbers that go into G.
    fn latent(&self) -> usize {
        self.noise_size + self.codes()
    }
}

/// All networks.
#[derive(Module, Debug)]
pub struct Networks {
    /// G.
    pub generator: Generator,
    /// D and Q.
    pub discriminator: Discriminator,
}

/// [z, c] → a picture: two fully connected layers, then transposed convolutions; batch norm and ReLU between.
#[derive(Module, Debug)]
pub struct Generator {
    project: Vec<Linear>,
    layers: Vec<ConvTranspose2d>,
    norms: Vec<BatchNorm2d>,
    #[module(skip)]
    base: [usize; 2],
}

impl Generator {
    fn new(inputs: usize, channels: usize, outputs: usize, sizes: Sizes, init: &mut Init) -> Self {
        let linear = |i, o| LinearConfig { weight: WEIGHTS, bias: false, ..LinearConfig::new(i, o) };
        let double =
            |i, o| Conv2dConfig { bias: false, weight: WEIGHTS, stride: 2, padding: 1, ..Conv2dConfig::new(i, o, 4) };
        let widths: Vec<usize> = (0..sizes.doublings).rev().map(|k| channels << k).chain([outputs]).collect();
        let first = widths[0];
        let pixels = sizes.base[0] * sizes.base[1];
        let project = vec![linear(inputs, UNITS).init(init), linear(UNITS, first * pixels).init(init)];
        Self {
            project,
            layers: widths.windows(2).map(|w| double(w[0], w[1]).init_transposed(init)).collect(),
            norms: [UNITS, first * pixels]
                .iter()
                .chain(&widths[1..sizes.doublings])
                .map(|&w| BatchNorm2d::new(w, init))
                .collect(),
            base: sizes.base,
        }
    }

    /// # Shapes
    /// `[n, inputs]` → `[n, c, h, w]` in (−1, 1)
    pub fn forward(&self, latent: Tensor<2>) -> Tensor<4> {
        let n = latent.dims()[0];
        let mut x = latent;
        for (layer, norm) in self.project.iter().zip(&self.norms) {
            let y = layer.forward(x);
            let units = y.dims()[1];
            x = norm.forward(y.reshape([n, units, 1, 1]), Activation::Relu).reshape([n, units]);
        }
        let [h, w] = self.base;
        let channels = x.dims()[1] / (h * w);
        let mut x = x.reshape([n, channels, h, w]);
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x);
            if let Some(norm) = self.norms.get(i + self.project.len()) {
                x = norm.forward(x, Activation::Relu);
            }
        }
        tanh(x)
    }
}

/// A picture → features, and from them D's logit and Q's codes.
#[derive(Module, Debug)]
pub struct Discriminator {
    layers: Vec<Conv2d>,
    norms: Vec<BatchNorm2d>,
    features: Linear,
    feature_norm: BatchNorm2d,
    logit: Linear,
    posterior: Linear,
    posterior_norm: BatchNorm2d,
    codes: Linear,
}

impl Discriminator {
    fn new(inputs: usize, channels: usize, codes: usize, sizes: Sizes, init: &mut Init) -> Self {
        let linear = |i, o, bias| LinearConfig { weight: WEIGHTS, bias, ..LinearConfig::new(i, o) };
        let halve =
            |i, o| Conv2dConfig { bias: false, weight: WEIGHTS, stride: 2, padding: 1, ..Conv2dConfig::new(i, o, 4) };
        let widths: Vec<usize> = [inputs].into_iter().chain((0..sizes.doublings).map(|k| channels << k)).collect();
        let flat = widths[sizes.doublings] * sizes.base[0] * sizes.base[1];
        Self {
            layers: widths.windows(2).map(|w| halve(w[0], w[1]).init(init)).collect(),
            norms: widths[2..].iter().map(|&w| BatchNorm2d::new(w, init)).collect(),
            features: linear(flat, UNITS, false).init(init),
            feature_norm: BatchNorm2d::new(UNITS, init),
            logit: linear(UNITS, 1, true).init(init),
            posterior: linear(UNITS, POSTERIOR, false).init(init),
            posterior_norm: BatchNorm2d::new(POSTERIOR, init),
            codes: linear(POSTERIOR, codes, true).init(init),
        }
    }

    /// D's logit and Q's codes: for each categorical one the logits of its values, for each continuous one its mean.
    ///
    /// # Shapes
    /// `[n, c, h, w]` in [−1, 1] → `[n]`, `[n, codes]`
    pub fn forward(&self, images: Tensor<4>) -> (Tensor<1>, Tensor<2>) {
        let n = images.dims()[0];
        let leaky = Activation::LeakyRelu(LEAK);
        let mut x = images;
        for (i, layer) in self.layers.iter().enumerate() {
            let y = layer.forward(x);
            x = match i.checked_sub(1).and_then(|i| self.norms.get(i)) {
                Some(norm) => norm.forward(y, leaky),
                None => activate(y, leaky),
            };
        }
        let dense = |x: Tensor<2>, layer: &Linear, norm: &BatchNorm2d| {
            let y = layer.forward(x);
            let units = y.dims()[1];
            norm.forward(y.reshape([n, units, 1, 1]), leaky).reshape([n, units])
        };
        let features = dense(x.flatten::<2>(1, 3), &self.features, &self.feature_norm);
        let own = dense(features.clone(), &self.posterior, &self.posterior_norm);
        (self.logit.forward(features).reshape([n]), self.codes.forward(own))
    }
}

/// The system.
pub struct InfoGan {
    config: Config,
    shape: [usize; 3],
    sizes: Sizes,
}

impl System for InfoGan {
    const ID: &'static str = "infogan";
    const PAPER: &'static str = "Chen et al.: InfoGAN: Interpretable Representation Learning by Information Maximizing \
                                 Generative Adversarial Nets, 2016";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        (DataConfig::default(), TrainConfig { images: 600_000, batch: 128, ..TrainConfig::default() })
    }

    fn sizes(_config: &Config) -> SizeRule {
        Sizes::rule()
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let c = &config;
        refuse_if!(c.codes() == 0, "model.categories and model.continuous: a system without codes is dcgan");
        refuse_if!(c.categories.iter().any(|&k| k < 2), "model.categories: each code has at least 2 values");
        refuse_if!(c.channels == 0, "model.channels must be at least 1");
        c.objective.check_penalty(false, &c.discriminator_optimizer)?;
        Ok(Self { sizes: Sizes::of(pictures.shape)?, shape: pictures.shape, config })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, channels) = (&self.config, self.shape[0]);
        Networks {
            generator: Generator::new(c.latent(), c.channels, channels, self.sizes, init),
            discriminator: Discriminator::new(channels, c.channels, c.codes(), self.sizes, init),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let c = &self.config;
        let optimizers = [&c.discriminator_optimizer, &c.generator_optimizer];
        players::phases(optimizers, 1, Self::discriminator_loss, Self::generator_loss)
    }

    fn augments(_config: &Config) -> bool {
        true
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        // What sorts pictures is the first categorical code.
        let cluster: Option<&dyn Cluster<Networks>> = (!self.config.categories.is_empty()).then_some(self as _);
        Abilities { generate: Some(self), decode: Some(self), encode: Some(self), cluster, ..Abilities::default() }
    }
}

impl InfoGan {
    /// Latents of samples, and the codes that are their ends.
    fn draw(&self, key: Key, samples: std::ops::Range<u64>, device: &burn::tensor::Device) -> (Tensor<2>, Tensor<2>) {
        let (c, n) = (&self.config, (samples.end - samples.start) as usize);
        let plane =
            |purpose: &str, len: usize| uniform(key.purpose(purpose), samples.clone(), [n, len], device) * 2.0 - 1.0;
        let mut codes = Vec::new();
        for (i, &values) in c.categories.iter().enumerate() {
            let chosen = key.purpose("category").at(i as u64).below(samples.clone(), values as u64);
            let row = |choice: u64| (0..values as u64).map(move |v| if v == choice { 1.0 } else { 0.0 });
            codes.push(from_values(chosen.into_iter().flat_map(row).collect(), [n, values], device));
        }
        if c.continuous > 0 {
            codes.push(plane("continuous", c.continuous));
        }
        let codes = Tensor::cat(codes, 1);
        let all = match c.noise_size {
            0 => vec![codes.clone()],
            size => vec![plane("latent", size), codes.clone()],
        };
        (Tensor::cat(all, 1), codes)
    }

    /// −L_I but for the entropy, which is constant: the cross-entropy of each categorical code, and half the squared
    /// distance of each continuous one, weighted.
    fn information(&self, found: Tensor<2>, codes: Tensor<2>) -> Tensor<1> {
        let c = &self.config;
        let mut loss = Tensor::zeros([1], &found.device());
        let mut at = 0;
        for &values in &c.categories {
            let part = |x: &Tensor<2>| x.clone().narrow(1, at, values);
            let entropy = (log_softmax(part(&found), 1) * part(&codes)).sum_dim(1).mean() * -1.0;
            loss = loss + entropy * c.info_weight;
            at += values;
        }
        if c.continuous > 0 {
            let part = |x: Tensor<2>| x.narrow(1, at, c.continuous);
            let off = (part(found) - part(codes)).square().sum_dim(1).mean() * 0.5;
            loss = loss + off * c.continuous_weight;
        }
        loss
    }

    /// The loss of D and Q.
    fn discriminator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let d = &networks.discriminator;
        let (latent, codes) = self.draw(batch.key("discriminator"), batch.samples(), batch.device());
        let fake = networks.generator.forward(latent).detach();
        let fake = batch.augmentation("augment fake").apply(fake);
        let real = batch.augmentation("augment real").apply(batch.images());
        let (real, _) = d.forward(real);
        let (fake, found) = d.forward(fake);
        let loss = self.config.objective.discriminator_loss(real, fake, 0.0);
        Ok(Some(loss.plus("information", 1.0, self.information(found, codes))))
    }

    /// G's loss.
    fn generator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (latent, codes) = self.draw(batch.key("generator"), batch.samples(), batch.device());
        let fake = batch.augmentation("augment generator").apply(networks.generator.forward(latent));
        let (score, found) = networks.discriminator.forward(fake);
        let loss = Loss::new("generator", self.config.objective.generator(score));
        Ok(Some(loss.plus("generator_information", 1.0, self.information(found, codes))))
    }
}

impl Generate<Networks> for InfoGan {
    fn takes(&self) -> Vec<Input> {
        Vec::new()
    }

    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        self.decode(networks, self.latents(networks, request)?)
    }
}

/// Walks go along straight lines: every latent is uniform or one of a few.
impl Decode<Networks> for InfoGan {
    fn latents(&self, _networks: &Networks, request: &Request) -> Result<Tensor<2>> {
        let psi = truncation_psi(request, Self::ID)?;
        let (latent, codes) = self.draw(request.key, request.indices.clone(), &request.device);
        if psi == 1.0 || self.config.noise_size == 0 {
            return Ok(latent);
        }
        // Codes stay: a truncated category is none.
        Ok(Tensor::cat(vec![latent.narrow(1, 0, self.config.noise_size) * psi, codes], 1))
    }

    fn decode(&self, networks: &Networks, latents: Tensor<2>) -> Result<Tensor<4>> {
        check_length(&latents, self.config.latent())?;
        Ok(networks.generator.forward(latents))
    }

    fn between(&self, a: Tensor<2>, b: Tensor<2>, t: f64) -> Tensor<2> {
        a * (1.0 - t) + b * t
    }
}

/// Probabilities of the categories, and means of the continuous codes.
impl Encode<Networks> for InfoGan {
    fn encode(&self, networks: &Networks, images: Tensor<4>, _request: &Request) -> Result<Tensor<2>> {
        check_pictures(&images, self.shape)?;
        let (_, codes) = networks.discriminator.forward(images);
        let mut at = 0;
        let mut parts = Vec::new();
        for &values in &self.config.categories {
            parts.push(softmax(codes.clone().narrow(1, at, values), 1));
            at += values;
        }
        if self.config.continuous > 0 {
            parts.push(codes.narrow(1, at, self.config.continuous));
        }
        Ok(Tensor::cat(parts, 1))
    }
}

/// By the first categorical code, c₁.
impl Cluster<Networks> for InfoGan {
    fn cluster(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_pictures(&images, self.shape)?;
        let values = self.config.categories.first().copied().unwrap_or_default();
        Ok(networks.discriminator.forward(images).1.narrow(1, 0, values))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;

    use super::*;
    use crate::adversarial::testing::{batch, close, overfit};

    fn tiny() -> Config {
        Config { noise_size: 3, categories: vec![3, 2], continuous: 2, channels: 4, ..Config::default() }
    }

    fn system(config: Config) -> Result<InfoGan> {
        InfoGan::new(config, &Pictures::new([1, 8, 12], Vec::new()))
    }

    #[test]
    fn shapes_and_codes() {
        let device = Device::flex();
        let s = system(tiny()).unwrap();
        let n = s.networks(&mut Init::new(&device, 0));
        let latents = s.latents(&n, &Request::new(0..50, 1, &device)).unwrap();
        assert_eq!(latents.dims(), [50, 3 + 3 + 2 + 2]);
        let ones = to_values(latents.clone().narrow(1, 3, 3).sum_dim(1));
        assert!(ones.iter().all(|sum| *sum == 1.0), "one value of each categorical code");
        // All values come.
        assert!(to_values(latents.clone().narrow(1, 3, 5).sum_dim(0)).iter().all(|count| *count > 5.0));
        let images = s.decode(&n, latents.narrow(0, 0, 4)).unwrap();
        assert_eq!(images.dims(), [4, 1, 8, 12]);
        assert_eq!(s.encode(&n, images.clone(), &Request::new(0..4, 0, &device)).unwrap().dims(), [4, 7]);
        assert_eq!(s.cluster(&n, images).unwrap().dims(), [4, 3]);
        assert!(s.decode(&n, Tensor::zeros([1, 3], &device)).unwrap_err().is_usage());
    }

    /// By hand: cross-entropies of both categorical codes and half of squares, of two samples.
    #[test]
    fn information_is_the_negative_log_posterior() {
        let device = Device::flex();
        let s = system(Config { info_weight: 2.0, continuous_weight: 0.5, ..tiny() }).unwrap();
        let found = from_values(vec![1., 0., -1., 2., 0., 0.5, 0.1, 0., 0., 3., -1., 1., -0.5, 0.2], [2, 7], &device);
        let codes = from_values(vec![0., 1., 0., 1., 0., 0.3, 0.4, 0., 0., 1., 0., 1., -0.1, 0.9], [2, 7], &device);
        let cross = |logits: &[f64], at: usize| logits.iter().map(|v| v.exp()).sum::<f64>().ln() - logits[at];
        let first = (cross(&[1., 0., -1.], 1) + cross(&[0., 0., 3.], 2)) / 2.0;
        let second = (cross(&[2., 0.], 0) + cross(&[-1., 1.], 1)) / 2.0;
        let squares = (0.2f64.powi(2) + 0.3f64.powi(2) + 0.4f64.powi(2) + 0.7f64.powi(2)) / 2.0;
        let expected = 2.0 * (first + second) + 0.5 * 0.5 * squares;
        close(&to_values(s.information(found, codes)), &[expected as f32], 1e-5);
    }

    #[test]
    fn each_player_learns_alone() {
        let mut s = system(tiny()).unwrap();
        let b = batch(8, [1, 8, 12], 0);
        for phase in [0, 1] {
            let (before, after) = overfit(&mut s, phase, 5e-3, 60, &b);
            assert!(after < 0.8 * before, "phase {phase}: {before} to {after}");
        }
    }

    #[test]
    fn bad_settings_are_usage_errors() {
        for config in [
            Config { categories: vec![], continuous: 0, ..tiny() },
            Config { categories: vec![1], ..tiny() },
            Config { channels: 0, ..tiny() },
            Config { objective: Objective::Wasserstein, ..tiny() },
        ] {
            assert!(system(config.clone()).err().is_some_and(|e| e.is_usage()), "{config:?}");
        }
    }
}
