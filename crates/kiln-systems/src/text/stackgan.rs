//! Zhang, Xu, Li, Zhang, Wang, Huang & Metaxas, *StackGAN: Text to Photo-Realistic Image Synthesis with Stacked Generative Adversarial
//! Networks*, 2017.
//!
//! A first generator draws a small picture of a text, a second one makes it larger and mends it, looking at the text again. Both are
//! given not the text's vector but a draw from a Gaussian around it (conditioning augmentation, equation 2):
//!
//! ĉ = μ(φ_t) + σ(φ_t) ⊙ ε,  L_G = −log D(G(·, ĉ), φ_t) + λ KL(N(μ, σ²) ‖ N(0, I))
//!
//! (equations 4 and 6). The discriminators are those of GAN-INT-CLS with wrong texts (section 3.3).
//!
//! | paper | here |
//! |---|---|
//! | φ_t | `text_encoder`, of a run of `clip` |
//! | ĉ₀, ĉ, 128 numbers | `embedding_size`, [`ConditioningAugmentation`] of each generator |
//! | λ = 1 | `kl_weight` |
//! | Stage-I: G₀, D₀ | `generator_one`, `discriminator_one`, on pictures smaller by `stage_factor` |
//! | Stage-II: G, D; residual blocks | `generator_two`, `discriminator_two`; `residual_blocks` |
//! | Stage-I for 600 epochs, then Stage-II with Stage-I fixed | `stage_one_images` |
//!
//! `kiln train stackgan --set model.text_encoder=runs/clip`, then `kiln sample RUN -n 16 --text "a red heart"`.

use burn::module::Module;
use burn::tensor::{Tensor, activation::tanh};
use kiln_core::{Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::resample::{avg_pool2d, upsample_nearest};
use kiln_nn::{Activation, BatchNorm2d, Conv2d, Conv2dConfig, Init, Linear, WeightInit, add_activate};
use kiln_train::{
    Abilities, Batch, DataConfig, Generate, InitFrom, Input, Loss, Phase, PhaseLoss, Pictures, Request, SizeRule,
    System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::encoder::{TextEncoder, TextEncoderConfig};
use super::gan_int_cls::{TextDiscriminator, against, projection};
use crate::adversarial::dcgan::{self, Dcgan, Generator, Sizes};
use crate::adversarial::latent::Distribution;
use crate::translation::two_way::check_weights;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The run of `clip` whose encoder reads the texts; `random` for an untrained one.
    pub text_encoder: String,
    /// Its networks, filled in from that run.
    pub encoder: TextEncoderConfig,
    /// Numbers of ĉ, and that a text is projected to in each discriminator.
    pub embedding_size: usize,
    /// λ.
    pub kl_weight: f64,
    /// How often smaller Stage-I's pictures are: a power of 2.
    pub stage_factor: usize,
    /// Images that Stage-I is trained for; Stage-II has the rest of the run.
    pub stage_one_images: u64,
    /// Residual blocks of Stage-II.
    pub residual_blocks: usize,
    /// DCGAN's settings, of both stages.
    #[serde(flatten)]
    pub dcgan: dcgan::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            text_encoder: String::new(),
            encoder: TextEncoderConfig::default(),
            embedding_size: 128,
            kl_weight: 1.0,
            stage_factor: 2,
            stage_one_images: 150_000,
            residual_blocks: 2,
            dcgan: dcgan::Config { latent_distribution: Distribution::Normal, ..dcgan::Config::default() },
        }
    }
}

/// The frozen encoder and the players of both stages.
#[derive(Module, Debug)]
pub struct Networks {
    /// φ.
    pub text_encoder: TextEncoder,
    /// G₀.
    pub generator_one: StageOne,
    /// D₀.
    pub discriminator_one: TextDiscriminator,
    /// G.
    pub generator_two: StageTwo,
    /// D.
    pub discriminator_two: TextDiscriminator,
}

/// A Gaussian around a text.
#[derive(Module, Debug)]
pub struct ConditioningAugmentation {
    parameters: Linear,
}

impl ConditioningAugmentation {
    fn new(text: usize, size: usize, init: &mut Init) -> Self {
        Self { parameters: projection(text, 2 * size, init) }
    }

    /// ĉ by ε, and KL(N(μ, σ²) ‖ N(0, I)) as a mean over texts and numbers, as the authors' code has it.
    ///
    /// # Shapes
    /// `[n, text]`, `[n, size]` → `[n, size]`, `[1]`
    pub fn forward(&self, text: Tensor<2>, noise: Tensor<2>) -> (Tensor<2>, Tensor<1>) {
        let both = self.parameters.forward(text);
        let size = both.dims()[1] / 2;
        let (mean, log_var) = (both.clone().narrow(1, 0, size), both.narrow(1, size, size));
        let kl = (mean.clone().square() + log_var.clone().exp() - 1.0 - log_var.clone()).mean() * 0.5;
        (mean + (log_var * 0.5).exp() * noise, kl)
    }
}

/// DCGAN's generator of z and ĉ₀.
#[derive(Module, Debug)]
pub struct StageOne {
    augmentation: ConditioningAugmentation,
    net: Generator,
}

/// A convolution with batch norm.
#[derive(Module, Debug)]
struct Normed {
    conv: Conv2d,
    norm: BatchNorm2d,
}

impl Normed {
    fn new(config: Conv2dConfig, init: &mut Init) -> Self {
        let config = Conv2dConfig { bias: false, weight: WeightInit::Normal(0.02), ..config };
        Self { norm: BatchNorm2d::dcgan(config.outputs, init), conv: config.init(init) }
    }

    fn forward(&self, x: Tensor<4>, activation: Activation) -> Tensor<4> {
        self.norm.forward(self.conv.forward(x), activation)
    }
}

/// A small picture made smaller by two convolutions, joined with ĉ, through residual blocks and up to its full size (section 3.4).
#[derive(Module, Debug)]
pub struct StageTwo {
    augmentation: ConditioningAugmentation,
    first: Conv2d,
    down: Vec<Normed>,
    joined: Normed,
    blocks: Vec<[Normed; 2]>,
    up: Vec<Normed>,
    last: Conv2d,
}

impl StageTwo {
    fn new(text: usize, size: usize, channels: usize, config: &Config, init: &mut Init) -> Self {
        let k = config.dcgan.generator_channels;
        let plain = |i: usize, o: usize| Conv2dConfig { weight: WeightInit::Normal(0.02), ..Conv2dConfig::same3(i, o) };
        let halve = |i: usize, o: usize| Conv2dConfig { stride: 2, padding: 1, ..Conv2dConfig::new(i, o, 4) };
        let doublings = 2 + config.stage_factor.ilog2() as usize;
        let widths: Vec<usize> = (0..=doublings).map(|i| ((4 * k) >> i).max(k / 2).max(1)).collect();
        Self {
            augmentation: ConditioningAugmentation::new(text, size, init),
            first: plain(channels, k).init(init),
            down: vec![Normed::new(halve(k, 2 * k), init), Normed::new(halve(2 * k, 4 * k), init)],
            joined: Normed::new(Conv2dConfig::same3(4 * k + size, 4 * k), init),
            blocks: (0..config.residual_blocks)
                .map(|_| [(); 2].map(|()| Normed::new(Conv2dConfig::same3(4 * k, 4 * k), init)))
                .collect(),
            up: widths.windows(2).map(|w| Normed::new(Conv2dConfig::same3(w[0], w[1]), init)).collect(),
            last: plain(widths[doublings], channels).init(init),
        }
    }

    /// # Shapes
    /// `[n, c, h, w]`, `[n, size]` → `[n, c, factor·h, factor·w]` in (−1, 1)
    fn forward(&self, small: Tensor<4>, text: Tensor<2>) -> Tensor<4> {
        let x = kiln_nn::activate(self.first.forward(small), Activation::Relu);
        let x = self.down.iter().fold(x, |x, layer| layer.forward(x, Activation::Relu));
        let ([n, _, h, w], [_, d]) = (x.dims(), text.dims());
        let x = Tensor::cat(vec![x, text.reshape([n, d, 1, 1]).expand([n, d, h, w])], 1);
        let x = self.joined.forward(x, Activation::Relu);
        let x = self.blocks.iter().fold(x, |x, [one, two]| {
            let y = two.forward(one.forward(x.clone(), Activation::Relu), Activation::None);
            add_activate(y, x, Activation::Relu)
        });
        let x = self.up.iter().fold(x, |x, layer| layer.forward(upsample_nearest(x, 2), Activation::Relu));
        tanh(self.last.forward(x))
    }
}

/// The system.
pub struct StackGan {
    config: Config,
    pictures: Pictures,
    /// Of Stage-I's pictures, and of the whole ones.
    sizes: [Sizes; 2],
}

impl System for StackGan {
    const ID: &'static str = "stackgan";
    const PAPER: &'static str = "Zhang et al.: StackGAN: Text to Photo-Realistic Image Synthesis with Stacked Generative \
                                 Adversarial Networks, 2017";
    const DATA: DataKind = DataKind::Captioned;
    type Config = Config;
    type Networks = Networks;

    fn settle(config: Config) -> Result<Config> {
        Ok(Config { encoder: config.encoder.settled(&config.text_encoder)?, ..config })
    }

    fn settle_data(config: &Config, data: DataConfig) -> DataConfig {
        config.encoder.data(&config.text_encoder, data)
    }

    fn init_from(config: &Config) -> Vec<InitFrom<'_>> {
        TextEncoder::init_from(&config.text_encoder)
    }

    fn defaults() -> (DataConfig, TrainConfig) {
        let train = TrainConfig { batch: 64, images: 300_000, ..TrainConfig::default() };
        (DataConfig { size: 64.into(), channels: 3, ..DataConfig::default() }, train)
    }

    fn sizes(config: &Config) -> SizeRule {
        let factor = config.stage_factor.clamp(1, 64);
        SizeRule::multiple_of(4 * factor, format!("model.stage_factor = {factor}")).at_least(8 * factor)
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let c = &config;
        refuse_if!(
            c.embedding_size == 0 || c.residual_blocks == 0,
            "model.embedding_size and model.residual_blocks must be at least 1"
        );
        refuse_if!(
            !c.stage_factor.is_power_of_two() || c.stage_factor < 2 || c.stage_factor > 64,
            "model.stage_factor must be 2, 4 or another power of 2 up to 64, not {}",
            c.stage_factor
        );
        check_weights(&[("kl_weight", c.kl_weight)])?;
        refuse_if!(pictures.vocabulary == 0, "stackgan learns from captions, and the data has none");
        c.encoder.check(&c.text_encoder, pictures)?;
        Self::sizes(c).check(pictures.shape)?;
        let [channels, height, width] = pictures.shape;
        let small = [channels, height / c.stage_factor, width / c.stage_factor];
        Dcgan::new(c.dcgan.clone(), pictures)?;
        Ok(Self { sizes: [Sizes::of(small)?, Sizes::of(pictures.shape)?], pictures: pictures.clone(), config })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, channels) = (&self.config, self.pictures.shape[0]);
        let (text, size, k) = (c.encoder.projection_dim, c.embedding_size, c.dcgan.discriminator_channels);
        let [one, two] = self.sizes;
        let inputs = c.dcgan.latent_size + size;
        Networks {
            text_encoder: TextEncoder::new(&c.encoder, &self.pictures, init),
            generator_one: StageOne {
                augmentation: ConditioningAugmentation::new(text, size, init),
                net: Generator::new(inputs, c.dcgan.generator_channels, channels, one, init),
            },
            discriminator_one: TextDiscriminator::new(text, size, channels, k, one, init),
            generator_two: StageTwo::new(text, size, channels, c, init),
            discriminator_two: TextDiscriminator::new(text, size, channels, k, two, init),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let (c, split) = (&self.config.dcgan, self.config.stage_one_images);
        let phase = |name, network: &'static str, optimizer: &kiln_train::OptimizerConfig, loss: PhaseLoss<Self>| {
            Phase::new(name, &[network], optimizer.clone(), loss)
        };
        let (d, g) = (&c.discriminator_optimizer, &c.generator_optimizer);
        vec![
            phase("discriminator one", "discriminator_one", d, |s, n, b| s.discriminator_loss(n, b, 0))
                .during(0..split),
            phase("generator one", "generator_one", g, |s, n, b| s.generator_loss(n, b, 0)).during(0..split),
            phase("discriminator two", "discriminator_two", d, |s, n, b| s.discriminator_loss(n, b, 1))
                .during(split..u64::MAX),
            phase("generator two", "generator_two", g, |s, n, b| s.generator_loss(n, b, 1)).during(split..u64::MAX),
        ]
    }

    fn augments(_config: &Config) -> bool {
        true
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { generate: Some(self), ..Abilities::default() }
    }
}

/// Draws of z and of ε of both stages.
struct Draws {
    latent: Tensor<2>,
    noises: [Tensor<2>; 2],
}

impl StackGan {
    fn draws(&self, phase: &str, batch: &Batch) -> Draws {
        let (c, n) = (&self.config, batch.len());
        let noise = |stage: &str| batch.normal(&format!("{phase} {stage}"), [n, c.embedding_size]);
        let latent = c.dcgan.latent_distribution.train(batch, phase, c.dcgan.latent_size);
        Draws { latent, noises: [noise("augmentation one"), noise("augmentation two")] }
    }

    /// Pictures of a stage, and the divergence of its augmentation. Stage-I is a constant to Stage-II.
    fn fake(networks: &Networks, text: Tensor<2>, draws: Draws, stage: usize) -> (Tensor<4>, Tensor<1>) {
        let [first, second] = draws.noises;
        let (c, kl) = networks.generator_one.augmentation.forward(text.clone(), first);
        let small = networks.generator_one.net.forward(Tensor::cat(vec![draws.latent, c], 1));
        if stage == 0 {
            return (small, kl);
        }
        let (c, kl) = networks.generator_two.augmentation.forward(text, second);
        (networks.generator_two.forward(small.detach(), c), kl)
    }

    fn real(&self, batch: &Batch, stage: usize) -> Tensor<4> {
        let factor = self.config.stage_factor;
        if stage == 0 { avg_pool2d(batch.images(), factor, factor, 0) } else { batch.images() }
    }

    fn discriminator_loss(&mut self, networks: &Networks, batch: &Batch, stage: usize) -> Result<Option<Loss>> {
        let d = [&networks.discriminator_one, &networks.discriminator_two][stage];
        let text = networks.text_encoder.forward(batch.tokens()?);
        let fake = Self::fake(networks, text.clone(), self.draws("discriminator", batch), stage).0.detach();
        let real = batch.augmentation("augment real").apply(self.real(batch, stage));
        let fake = batch.augmentation("augment fake").apply(fake);
        let c = &self.config.dcgan;
        let right = d.forward(real.clone(), text.clone());
        Ok(Some(c.objective.discriminator_loss(right, against(d, real, fake, text, true), c.label_smoothing)))
    }

    fn generator_loss(&mut self, networks: &Networks, batch: &Batch, stage: usize) -> Result<Option<Loss>> {
        let d = [&networks.discriminator_one, &networks.discriminator_two][stage];
        let text = networks.text_encoder.forward(batch.tokens()?);
        let (fake, kl) = Self::fake(networks, text.clone(), self.draws("generator", batch), stage);
        let fake = batch.augmentation("augment generator").apply(fake);
        let loss = Loss::new("generator", self.config.dcgan.objective.generator(d.forward(fake, text)));
        Ok(Some(loss.plus("kl", self.config.kl_weight, kl)))
    }
}

impl Generate<Networks> for StackGan {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Noise, Input::Text]
    }

    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        let (c, n) = (&self.config, request.len());
        let text = networks.text_encoder.requested(request, c.encoder.projection_dim);
        let noise = |stage: &str| request.normal(stage, [n, c.embedding_size]);
        let latent = c.dcgan.latent_distribution.requested(request, c.dcgan.latent_size, Self::ID)?;
        let draws = Draws { latent, noises: [noise("augmentation one"), noise("augmentation two")] };
        Ok(Self::fake(networks, text, draws, 1).0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::Device;
    use kiln_core::random::Key;
    use kiln_data::{HostBatch, Part, TokenRows};
    use kiln_nn::tensor::to_values;

    use super::*;
    use crate::testing::{close, fit, requested};

    fn config() -> Config {
        Config {
            text_encoder: InitFrom::RANDOM.into(),
            encoder: TextEncoderConfig { text_width: 8, projection_dim: 6, ..TextEncoderConfig::default() },
            embedding_size: 4,
            stage_one_images: 16,
            residual_blocks: 1,
            dcgan: dcgan::Config {
                latent_size: 4,
                generator_channels: 4,
                discriminator_channels: 4,
                ..Config::default().dcgan
            },
            ..Config::default()
        }
    }

    fn pictures() -> Pictures {
        Pictures { vocabulary: 9, caption_length: 2, ..Pictures::new([1, 16, 16], Vec::new()) }
    }

    fn batch(step: u64, device: &Device) -> Batch {
        let part = Part {
            shape: [8, 1, 16, 16],
            values: (0..2048).map(|i| if i / 256 % 2 == 0 { 0.8 } else { -0.8 }).collect(),
            captions: vec![None; 8],
            tokens: Some(TokenRows { ids: [2, 3, 4, 5].repeat(4), lengths: vec![2; 8], length: 2 }),
            indices: (0..8).collect(),
            ..Part::default()
        };
        Batch::new(HostBatch { start: 8 * step, parts: vec![part] }, 8_000, Key::new(0), device)
    }

    /// Two steps of the first stage, then the second alone, which leaves the first as it is.
    #[test]
    fn stages_come_one_after_the_other() {
        let system = StackGan::new(config(), &pictures()).unwrap();
        let (log, system) = fit(system, 1, 4, batch);
        assert!(
            log.iter()
                .all(|terms| terms.iter().any(|(name, _)| name == "kl") && terms.iter().all(|(_, v)| v.is_finite()))
        );
        let due = |images: u64| -> Vec<&str> {
            system.phases().iter().filter(|phase| phase.is_due(0, images)).map(|phase| phase.name).collect()
        };
        assert_eq!(due(8), ["discriminator one", "generator one"]);
        assert_eq!(due(16), ["discriminator two", "generator two"]);
        let device = Device::flex();
        let networks = system.networks(&mut Init::new(&device, 1));
        let made = requested(&system, &networks, &Request::new(0..3, 0, &device)).unwrap();
        assert_eq!(made.dims(), [3, 1, 16, 16]);
        let alone = requested(&system, &networks, &Request::new(2..3, 0, &device)).unwrap();
        close(&to_values(alone), &to_values(made.narrow(0, 2, 1)), 1e-5);
    }

    /// KL(N(μ, σ²) ‖ N(0, 1)) = ½ (μ² + σ² − 1 − ln σ²), and the draw is μ where ε is 0.
    #[test]
    fn augmentation_draws_around_the_text() {
        let device = Device::flex();
        let augmentation = ConditioningAugmentation::new(3, 2, &mut Init::new(&device, 0));
        let text = Tensor::<2>::from_floats([[1.0, -2.0, 0.5]], &device);
        let both = to_values(augmentation.parameters.forward(text.clone()));
        let (c, kl) = augmentation.forward(text.clone(), Tensor::zeros([1, 2], &device));
        close(&to_values(c), &both[..2], 1e-6);
        let want = (0..2).map(|i| 0.5 * (both[i].powi(2) + both[i + 2].exp() - 1.0 - both[i + 2])).sum::<f32>() / 2.0;
        close(&to_values(kl), &[want], 1e-5);
        let (c, _) = augmentation.forward(text, Tensor::ones([1, 2], &device));
        close(&to_values(c), &[both[0] + (both[2] * 0.5).exp(), both[1] + (both[3] * 0.5).exp()], 1e-5);
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        assert!(StackGan::settle(Config::default()).unwrap_err().to_string().contains("model.text_encoder"));
        for (set, said) in [
            ((|c| c.stage_factor = 3) as fn(&mut Config), "stage_factor"),
            (|c| c.stage_factor = 4, "data.size"),
            (|c| c.residual_blocks = 0, "residual_blocks"),
            (|c| c.kl_weight = -1.0, "kl_weight"),
        ] {
            let mut config = config();
            set(&mut config);
            let error = StackGan::new(config, &pictures()).err().unwrap().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
