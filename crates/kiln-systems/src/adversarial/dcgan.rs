//! Radford, Metz & Chintala, *Unsupervised Representation Learning with Deep Convolutional
//! Generative Adversarial Networks*, 2016.
//!
//! Objective (Goodfellow 2014, equation 1): min_G max_D E log D(x) + E log(1 − D(G(z))). By default
//! the generator maximises log D(G(z)) instead, as the paper's code does; [`Objective`] has the alternatives.
//!
//! The paper's practices (§3 and §4), and where they are:
//!
//! | paper | here |
//! |---|---|
//! | strided convolutions in D, fractionally strided in G, no pooling | [`Discriminator`], [`Generator`] |
//! | batch norm in both, not at G's output and D's input | their `norms`, one fewer than `layers` |
//! | no fully connected hidden layers; z is projected and reshaped | `layers[0]` of G, the last of D |
//! | ReLU in G, tanh at its output | [`Generator::forward`] |
//! | LeakyReLU of slope 0.2 in D | [`LEAK`] |
//! | σ at D's output | within the loss, on logits |
//! | z: 100 numbers, U(−1, 1) | `latent_size`, `latent_distribution` |
//! | weights N(0, 0.02²) (and BN scales N(1, 0.02²), as in the code) | [`WEIGHTS`], [`BatchNorm2d::dcgan`] |
//! | Adam, rate 2·10⁻⁴, β₁ = 0.5 | `generator_optimizer`, `discriminator_optimizer` |
//! | pictures in [−1, 1], no other pre-processing | every picture of Kiln |
//!
//! Real and generated images pass the discriminator in separate batches, so that batch norm never
//! mixes them. `d_real` and `d_fake` in the log are D's mean probabilities: both near ½ means the two networks
//! are balanced, 1 and 0 for long means the generator has lost.
//!
//! `kiln train dcgan --data fashion`, then `kiln sample RUN -n 64`, `kiln interpolate RUN`.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::tanh;
use kiln_core::{Error, Result};
use kiln_data::DataKind;
use kiln_nn::{Activation, BatchNorm2d, Conv2d, Conv2dConfig, ConvTranspose2d, Init, WeightInit, activate};
use kiln_train::request::check_pictures;
use kiln_train::{
    Abilities, Batch, DataConfig, Decode, Generate, Input, Loss, OptimizerConfig, Phase, PhaseLoss, Pictures,
    Represent, Request, SizeRule, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::latent::Distribution;
use super::latent::check_length;
use super::objective::Objective;
use super::players;
use super::players::check_positive;

/// Slope of LeakyReLU below 0.
pub const LEAK: f32 = 0.2;
/// The longest side of the map that z is projected to: the layer has as many weights as the map has pixels, times channels.
const LARGEST_BASE: usize = 32;
/// How every convolution is drawn.
pub const WEIGHTS: WeightInit = WeightInit::Normal(0.02);

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Length of z.
    pub latent_size: usize,
    /// `uniform` (−1 to 1) or `normal`.
    pub latent_distribution: Distribution,
    /// Channels of G before its output; doubled each time the size is halved. The paper has 128.
    pub generator_channels: usize,
    /// Channels of D after its first layer; doubled each time the size is halved. The paper has 128.
    pub discriminator_channels: usize,
    /// `non-saturating`, `saturating`, `least-squares` or `hinge`.
    pub objective: Objective,
    /// One-sided label smoothing: the target of real images is 1 minus this (Salimans 2016); 0 is off, as in the paper. Of no
    /// effect with `hinge`.
    pub label_smoothing: f64,
    /// Discriminator steps per generator step.
    pub discriminator_steps: u64,
    /// G's optimiser.
    pub generator_optimizer: OptimizerConfig,
    /// D's optimiser.
    pub discriminator_optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        let adam = OptimizerConfig::adam(2e-4).betas(0.5, 0.999);
        Self {
            latent_size: 100,
            latent_distribution: Distribution::Uniform,
            generator_channels: 64,
            discriminator_channels: 64,
            objective: Objective::NonSaturating,
            label_smoothing: 0.1,
            discriminator_steps: 1,
            generator_optimizer: adam.clone(),
            discriminator_optimizer: adam,
        }
    }
}

impl Config {
    /// The phases of a system with these settings.
    pub fn phases<S: System>(&self, discriminator: PhaseLoss<S>, generator: PhaseLoss<S>) -> Vec<Phase<S>> {
        let optimizers = [&self.discriminator_optimizer, &self.generator_optimizer];
        players::phases(optimizers, self.discriminator_steps, discriminator, generator)
    }
}

/// How a picture's height and width come about: `base`·2^`doublings`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Height and width of the map that z is projected to, the shorter 4 to 7 where the picture can be halved so often.
    pub base: [usize; 2],
    /// Strided layers, at least 1.
    pub doublings: usize,
}

impl Sizes {
    /// What can be halved once, to 4 pixels or more.
    pub fn rule() -> SizeRule {
        SizeRule::multiple_of(2, "the layers, which halve the picture").at_least(8)
    }

    /// Of pictures that are halved as often as both sides can be, down to 4 pixels and not below.
    ///
    /// # Errors
    /// A usage error naming a size that fits.
    pub fn of(shape @ [_, height, width]: [usize; 3]) -> Result<Self> {
        Self::rule().check(shape)?;
        let even = (height | width).trailing_zeros();
        let doublings = even.min((height.min(width) / 4).ilog2()) as usize;
        let base = [height >> doublings, width >> doublings];
        if base.into_iter().max() > Some(LARGEST_BASE) {
            let multiple = 1 << ((height.max(width) / LARGEST_BASE).ilog2() + 1);
            let [h, w] = [height, width].map(|side| side.next_multiple_of(multiple));
            return Err(Error::usage(format!(
                "data.size: pictures of {width} x {height} can be halved down to {} x {} only, and the first layer makes maps \
                 of at most {LARGEST_BASE} pixels a side; set data.size=[{h}, {w}] and data.resize to stretch, crop or pad",
                base[1], base[0]
            )));
        }
        Ok(Self { base, doublings })
    }
}

/// Both networks.
#[derive(Module, Debug)]
pub struct Networks {
    /// G.
    pub generator: Generator,
    /// D.
    pub discriminator: Discriminator,
}

/// z → a map of size `base` by the first layer, then doubled by each of the others; batch norm and ReLU
/// between, tanh at the end.
#[derive(Module, Debug)]
pub struct Generator {
    layers: Vec<ConvTranspose2d>,
    norms: Vec<BatchNorm2d>,
}

impl Generator {
    /// From `inputs` numbers to pictures of `outputs` channels, with `channels` before the last layer.
    pub fn new(inputs: usize, channels: usize, outputs: usize, sizes: Sizes, init: &mut Init) -> Self {
        let bare = Self::without_norms(inputs, channels, outputs, sizes, init);
        let norms = Self::widths(channels, sizes).map(|w| BatchNorm2d::dcgan(w, init)).collect();
        Self { norms, ..bare }
    }

    /// Channels of every map but the picture.
    pub fn widths(channels: usize, sizes: Sizes) -> impl Iterator<Item = usize> {
        (0..sizes.doublings).rev().map(move |k| channels << k)
    }

    /// Of layers alone, for [`Generator::forward_by`].
    pub fn without_norms(inputs: usize, channels: usize, outputs: usize, sizes: Sizes, init: &mut Init) -> Self {
        let layer = |i, o, k| Conv2dConfig { bias: false, weight: WEIGHTS, ..Conv2dConfig::new(i, o, k) };
        let double = |i, o| Conv2dConfig { stride: 2, padding: 1, ..layer(i, o, 4) };
        let widths: Vec<usize> = Self::widths(channels, sizes).chain([outputs]).collect();
        let mut layers = vec![Conv2dConfig { kernel: sizes.base, ..layer(inputs, widths[0], 1) }.init_transposed(init)];
        layers.extend(widths.windows(2).map(|w| double(w[0], w[1]).init_transposed(init)));
        Self { layers, norms: Vec::new() }
    }

    /// # Shapes
    /// `[n, inputs]` → `[n, c, h, w]` in (−1, 1), of sides base·2^doublings
    pub fn forward(&self, z: Tensor<2>) -> Tensor<4> {
        self.forward_by(z, |i, x| self.norms[i].forward(x, Activation::Relu))
    }

    /// The same with another norm and activation after each layer but the last.
    pub fn forward_by(&self, z: Tensor<2>, activated: impl Fn(usize, Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        let [n, inputs] = z.dims();
        let mut x = z.reshape([n, inputs, 1, 1]);
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x);
            if i + 1 < self.layers.len() {
                x = activated(i, x);
            }
        }
        tanh(x)
    }
}

/// Halves the picture by each layer down to the size `base`, which the last turns into one logit;
/// LeakyReLU after each, batch norm before it but in the first.
#[derive(Module, Debug)]
pub struct Discriminator {
    layers: Vec<Conv2d>,
    norms: Vec<BatchNorm2d>,
    head: Conv2d,
}

impl Discriminator {
    /// From pictures of `inputs` channels, with `channels` after the first layer.
    pub fn new(inputs: usize, channels: usize, sizes: Sizes, init: &mut Init) -> Self {
        let layer = |i, o, k| Conv2dConfig { bias: false, weight: WEIGHTS, ..Conv2dConfig::new(i, o, k) };
        let halve = |i, o| Conv2dConfig { stride: 2, padding: 1, ..layer(i, o, 4) };
        let widths: Vec<usize> = [inputs].into_iter().chain((0..sizes.doublings).map(|k| channels << k)).collect();
        Self {
            layers: widths.windows(2).map(|w| halve(w[0], w[1]).init(init)).collect(),
            norms: widths[2..].iter().map(|&w| BatchNorm2d::dcgan(w, init)).collect(),
            head: Conv2dConfig { kernel: sizes.base, ..layer(widths[sizes.doublings], 1, 1) }.init(init),
        }
    }

    /// What every layer but the head makes of the picture, in order, `after` having changed it.
    pub fn maps(&self, images: Tensor<4>, after: impl Fn(usize, Tensor<4>) -> Tensor<4>) -> Vec<Tensor<4>> {
        let mut maps: Vec<Tensor<4>> = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            let x = layer.forward(maps.last().unwrap_or(&images).clone());
            let x = match i.checked_sub(1).and_then(|i| self.norms.get(i)) {
                Some(norm) => norm.forward(x, Activation::LeakyRelu(LEAK)),
                None => activate(x, Activation::LeakyRelu(LEAK)),
            };
            maps.push(after(i, x));
        }
        maps
    }

    /// # Shapes
    /// `[n, c, h, w]` → `[n, channels·2^(doublings − 1), base…]`
    pub fn features(&self, images: Tensor<4>) -> Tensor<4> {
        self.features_by(images, |_, x| x)
    }

    /// The same with something after each layer, such as dropout.
    pub fn features_by(&self, images: Tensor<4>, after: impl Fn(usize, Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        // At least one layer: `Sizes` has at least one doubling.
        self.maps(images.clone(), after).pop().unwrap_or(images)
    }

    /// Every layer's maps, pooled to 4×4 by their maxima and laid out in a row: what Radford 2016,
    /// §5.1, gives to a linear SVM.
    ///
    /// # Shapes
    /// `[n, c, h, w]` → `[n, 16·(sum of the layers' channels)]`
    pub fn representation(&self, images: Tensor<4>) -> Tensor<2> {
        let maps = self.maps(images, |_, x| x).into_iter().map(|x| adaptive_max_pool(x, 4));
        Tensor::cat(maps.map(|x| x.flatten::<2>(1, 3)).collect(), 1)
    }

    /// The logit of [`Discriminator::features`].
    ///
    /// # Shapes
    /// `[n, channels·2^(doublings − 1), base…]` → `[n]`
    pub fn logits(&self, features: Tensor<4>) -> Tensor<1> {
        let n = features.dims()[0];
        self.head.forward(features).reshape([n])
    }

    /// # Shapes
    /// `[n, c, h, w]` in [−1, 1] → `[n]`
    pub fn forward(&self, images: Tensor<4>) -> Tensor<1> {
        self.logits(self.features(images))
    }
}

/// Each map as `side`×`side` maxima of windows that cover it: window i is ⌊i·h/side⌋ to ⌈(i + 1)·h/side⌉.
pub(crate) fn adaptive_max_pool(x: Tensor<4>, side: usize) -> Tensor<4> {
    let pool = |x: Tensor<4>, dim: usize| {
        let size = x.dims()[dim];
        let window = |i: usize| {
            let (from, to) = (i * size / side, ((i + 1) * size).div_ceil(side));
            x.clone().narrow(dim, from, to - from).max_dim(dim)
        };
        Tensor::cat((0..side).map(window).collect(), dim)
    };
    pool(pool(x, 2), 3)
}

/// The system.
pub struct Dcgan {
    config: Config,
    shape: [usize; 3],
    sizes: Sizes,
}

impl System for Dcgan {
    const ID: &'static str = "dcgan";
    const PAPER: &'static str = "Radford, Metz & Chintala: Unsupervised Representation Learning with Deep Convolutional \
                                 Generative Adversarial Networks, 2016";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        (DataConfig::default(), TrainConfig { images: 300_000, ..TrainConfig::default() })
    }

    fn sizes(_config: &Config) -> SizeRule {
        Sizes::rule()
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        check_positive(&[
            ("latent_size", config.latent_size),
            ("generator_channels", config.generator_channels),
            ("discriminator_channels", config.discriminator_channels),
            ("discriminator_steps", config.discriminator_steps as usize),
        ])?;
        Objective::check_smoothing(config.label_smoothing)?;
        // Batch norm makes the penalty on single pictures meaningless (Gulrajani 2017, section 4).
        config.objective.check_penalty(false, &config.discriminator_optimizer)?;
        Ok(Self { sizes: Sizes::of(pictures.shape)?, shape: pictures.shape, config })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, channels) = (&self.config, self.shape[0]);
        Networks {
            generator: Generator::new(c.latent_size, c.generator_channels, channels, self.sizes, init),
            discriminator: Discriminator::new(channels, c.discriminator_channels, self.sizes, init),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        self.config.phases(Self::discriminator_loss, Self::generator_loss)
    }

    fn augments(_config: &Config) -> bool {
        true
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { generate: Some(self), decode: Some(self), represent: Some(self), ..Abilities::default() }
    }
}

impl Dcgan {
    /// G(z) for the z of a phase: each player has fresh ones (Goodfellow 2014, algorithm 1).
    fn fake(&self, networks: &Networks, phase: &str, batch: &Batch) -> Tensor<4> {
        let c = &self.config;
        networks.generator.forward(c.latent_distribution.train(batch, phase, c.latent_size))
    }

    /// D's loss: real pictures against G(z).
    fn discriminator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (c, d) = (&self.config, &networks.discriminator);
        let fake = self.fake(networks, "discriminator", batch).detach();
        let (real, fake) =
            (batch.augmentation("augment real").apply(batch.images()), batch.augmentation("augment fake").apply(fake));
        let (real, fake) = (d.forward(real), d.forward(fake));
        Ok(Some(c.objective.discriminator_loss(real, fake, c.label_smoothing)))
    }

    /// G's loss: D(G(z)).
    fn generator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let fake = batch.augmentation("augment generator").apply(self.fake(networks, "generator", batch));
        let fake = networks.discriminator.forward(fake);
        Ok(Some(Loss::new("generator", self.config.objective.generator(fake))))
    }
}

impl Generate<Networks> for Dcgan {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Noise]
    }

    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        let z = self.config.latent_distribution.requested(request, self.config.latent_size, Self::ID)?;
        self.decode(networks, z)
    }
}

/// Latents are z itself: walks between them (§6.1) and sums of them (§6.3.2) are walks and sums of
/// what the pictures show.
impl Decode<Networks> for Dcgan {
    fn latents(&self, _networks: &Networks, request: &Request) -> Result<Tensor<2>> {
        self.config.latent_distribution.requested(request, self.config.latent_size, Self::ID)
    }

    fn decode(&self, networks: &Networks, latents: Tensor<2>) -> Result<Tensor<4>> {
        check_length(&latents, self.config.latent_size)?;
        Ok(networks.generator.forward(latents))
    }

    fn between(&self, a: Tensor<2>, b: Tensor<2>, t: f64) -> Tensor<2> {
        self.config.latent_distribution.between(a, b, t)
    }
}

impl Represent<Networks> for Dcgan {
    fn represent(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_pictures(&images, self.shape)?;
        Ok(networks.discriminator.representation(images))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_core::random::Key;
    use kiln_nn::tensor::{from_values, to_values};

    use super::*;
    use crate::adversarial::testing::{Fixtures, agrees, batch, close, overfit};
    use crate::testing::requested;

    fn sizes(side: usize) -> Result<Sizes> {
        Sizes::of([1, side, side])
    }

    fn tiny() -> Config {
        Config { latent_size: 8, generator_channels: 4, discriminator_channels: 4, ..Config::default() }
    }

    fn system(config: Config, side: usize) -> Result<Dcgan> {
        Dcgan::new(config, &Pictures::new([1, side, side], Vec::new()))
    }

    #[test]
    fn sizes_are_doublings_of_four_or_seven() {
        for (side, base, doublings) in [
            (8, 4, 1),
            (12, 6, 1),
            (14, 7, 1),
            (16, 4, 2),
            (20, 5, 2),
            (28, 7, 2),
            (30, 15, 1),
            (32, 4, 3),
            (56, 7, 3),
            (64, 4, 4),
            (112, 7, 4),
        ] {
            assert_eq!(sizes(side).unwrap(), Sizes { base: [base; 2], doublings });
        }
        for (shape, base, doublings) in [
            ([1, 112, 92], [28, 23], 2),
            ([3, 48, 64], [6, 8], 3),
            ([1, 16, 32], [4, 8], 2),
            ([1, 8, 256], [4, 128], 1),
        ] {
            match Sizes::of(shape) {
                Ok(found) => assert_eq!(found, Sizes { base, doublings }),
                Err(e) => assert!(base[1] > LARGEST_BASE && e.to_string().contains("128 x 4"), "{e}"),
            }
        }
        for (side, fit) in [(0, 8), (1, 8), (4, 8), (7, 8), (27, 28), (66, 68), (1022, 1024)] {
            let e = sizes(side).unwrap_err();
            let said = e.to_string();
            assert!(
                e.is_usage() && said.contains(&format!("data.size={fit} "))
                    || said.contains(&format!("[{fit}, {fit}]")),
                "{e}"
            );
        }
    }

    #[test]
    fn shapes_at_every_size() {
        let device = Device::flex();
        for side in [8, 14, 28, 32] {
            let s = system(tiny(), side).unwrap();
            let n = s.networks(&mut Init::new(&device, 0));
            let out = s.generate(&n, &Request::new(0..3, 1, &device)).unwrap();
            assert_eq!(out.dims(), [3, 1, side, side]);
            assert_eq!(n.discriminator.forward(out).dims(), [3]);
        }
    }

    /// `main.{0,3,6,9}` and `main.{0,2,5,8}` are convolutions; what follows them is batch norm.
    fn generator_path(path: &str) -> String {
        let (index, rest) = path["main.".len()..].split_once('.').unwrap();
        let index: usize = index.parse().unwrap();
        format!("{}.{}.{rest}", if index.is_multiple_of(3) { "layers" } else { "norms" }, index / 3)
    }

    fn discriminator_path(path: &str) -> String {
        let (index, rest) = path["main.".len()..].split_once('.').unwrap();
        match index.parse().unwrap() {
            0 => format!("layers.0.{rest}"),
            8 => format!("head.{rest}"),
            i if i % 3 == 2 => format!("layers.{}.{rest}", i / 3 + 1),
            i => format!("norms.{}.{rest}", i / 3 - 1),
        }
    }

    #[test]
    fn the_generator_is_pytorchs() {
        let init = &mut Init::new(&Device::flex().autodiff(), 0);
        let g = Generator::new(8, 4, 3, sizes(32).unwrap(), init);
        agrees(&Fixtures::open("systems"), "dcgan_g", g, "input", generator_path, |g, z: Tensor<4>| {
            let [n, inputs, ..] = z.dims();
            g.forward(z.reshape([n, inputs]))
        });
    }

    #[test]
    fn the_discriminator_is_pytorchs() {
        let init = &mut Init::new(&Device::flex().autodiff(), 0);
        let d = Discriminator::new(3, 4, sizes(32).unwrap(), init);
        agrees(&Fixtures::open("systems"), "dcgan_d", d, "input", discriminator_path, |d, x: Tensor<4>| d.forward(x));
    }

    #[test]
    fn each_player_wins_a_fixed_batch_it_plays_alone() {
        for objective in [Objective::NonSaturating, Objective::LeastSquares, Objective::Hinge] {
            let mut s = system(Config { objective, ..tiny() }, 16).unwrap();
            for (player, rate) in [(0, 5e-3), (1, 5e-2)] {
                let (first, last) = overfit(&mut s, player, rate, 40, &batch(8, [1, 16, 16], 0));
                assert!(last < first - 0.2 * first.abs(), "{objective:?} {player}: {first} to {last}");
            }
        }
    }

    #[test]
    fn a_sample_is_the_same_in_any_company() {
        let device = Device::flex();
        for latent_distribution in [Distribution::Uniform, Distribution::Normal] {
            let s = system(Config { latent_distribution, ..tiny() }, 8).unwrap();
            let n = s.networks(&mut Init::new(&device, 0));
            let many = s.generate(&n, &Request::new(0..5, 1, &device)).unwrap();
            let one = s.generate(&n, &Request::new(3..4, 1, &device)).unwrap();
            close(&to_values(one.clone()), &to_values(many.narrow(0, 3, 1)), 1e-6);
            let z = s.latents(&n, &Request::new(3..4, 1, &device)).unwrap();
            close(&to_values(s.decode(&n, z.clone()).unwrap()), &to_values(one.clone()), 1e-6);
            // As noise of its own, and truncated to nothing.
            let noise = Some(z.clone().reshape([1, 8, 1, 1]));
            let request = Request { noise, ..Request::new(0..1, 9, &device) };
            close(&to_values(s.generate(&n, &request).unwrap()), &to_values(one), 1e-6);
            let mut request = Request::new(0..2, 1, &device);
            request.sampler.insert("truncation_psi".into(), 0.0.into());
            let mean = to_values(s.generate(&n, &request).unwrap());
            close(&mean[..64], &mean[64..], 1e-6);
            // A walk ends where it should.
            let b = s.latents(&n, &Request::new(4..5, 1, &device)).unwrap();
            close(&to_values(s.between(z, b.clone(), 1.0)), &to_values(b), 1e-5);
        }
    }

    #[test]
    fn a_representation_is_the_largest_of_each_window() {
        let device = Device::flex();
        let x = from_values((0..49).map(|v| v as f32).collect(), [1, 1, 7, 7], &device);
        // torch.nn.functional.adaptive_max_pool2d(torch.arange(49.).view(1, 1, 7, 7), 4)
        let expected = [8., 10., 12., 13., 22., 24., 26., 27., 36., 38., 40., 41., 43., 45., 47., 48.];
        assert_eq!(to_values(adaptive_max_pool(x, 4)), expected);
        let s = system(tiny(), 28).unwrap();
        let n = s.networks(&mut Init::new(&device, 0));
        let images = || Tensor::zeros([3, 1, 28, 28], &device);
        assert_eq!(s.represent(&n, images()).unwrap().dims(), [3, 16 * (4 + 8)]);
        assert!(s.represent(&n, Tensor::zeros([3, 1, 14, 14], &device)).unwrap_err().is_usage());
    }

    #[test]
    fn uniform_latents_fill_their_range() {
        let values = Key::new(0).purpose("latent").uniform(0..100, 100);
        let z: Vec<f32> = values.iter().map(|u| 2.0 * u - 1.0).collect();
        let s = system(Config { latent_size: 100, ..tiny() }, 8).unwrap();
        let n = s.networks(&mut Init::new(&Device::flex(), 0));
        let request = Request { key: Key::new(0), ..Request::new(0..100, 0, &Device::flex()) };
        close(&to_values(s.latents(&n, &request).unwrap()), &z, 1e-6);
    }

    #[test]
    fn bad_settings_and_requests_are_usage_errors() {
        let bad = [
            Config { latent_size: 0, ..tiny() },
            Config { generator_channels: 0, ..tiny() },
            Config { discriminator_channels: 0, ..tiny() },
            Config { discriminator_steps: 0, ..tiny() },
            Config { label_smoothing: 0.5, ..tiny() },
            Config { label_smoothing: f64::NAN, ..tiny() },
        ];
        for config in bad {
            assert!(system(config.clone(), 8).err().is_some_and(|e| e.is_usage()), "{config:?}");
        }
        let device = Device::flex();
        let s = system(tiny(), 8).unwrap();
        let n = s.networks(&mut Init::new(&device, 0));
        let ask = |change: fn(&mut Request)| {
            let mut request = Request::new(0..2, 0, &Device::flex());
            change(&mut request);
            requested(&s, &n, &request).err().is_some_and(|e| e.is_usage())
        };
        assert!(ask(|r| r.condition.class = Some(1)));
        assert!(ask(|r| r.sampler = "steps = 10".parse().unwrap()));
        assert!(ask(|r| r.sampler = "truncation_psi = 1.5".parse().unwrap()));
        assert!(ask(|r| r.noise = Some(Tensor::zeros([2, 7, 1, 1], &r.device))));
        assert!(s.decode(&n, Tensor::zeros([1, 3], &device)).is_err());
    }
}
