//! Reed, Akata, Yan, Logeswaran, Schiele & Lee, *Generative Adversarial Text to Image Synthesis* (GAN-INT-CLS), 2016.
//!
//! DCGAN under a text φ(t), which a frozen encoder has made a vector of. The discriminator is shown real pictures with their text, real
//! pictures with another text, and made pictures with their text (CLS, algorithm 1):
//!
//! L_D = log s_r + ½ (log(1 − s_w) + log(1 − s_f)),
//!
//! and the generator also draws from texts between two of the batch (INT, equation 5): β φ(t₁) + (1 − β) φ(t₂), β = ½.
//!
//! | paper | here |
//! |---|---|
//! | φ, a char-CNN-RNN trained on pictures and texts | `text_encoder`, of a run of `clip` |
//! | φ(t) in 128 numbers, leaky ReLU | `embedding_size`, a projection in each network |
//! | z ~ N(0, 1), 100 numbers | `latent_size`, `latent_distribution` |
//! | φ(t) beside D's last 4×4 maps, 1×1 convolution | [`TextDiscriminator`] |
//! | s_w; φ(t) between two texts | `matching_aware`, `interpolation` |
//!
//! `kiln train gan-int-cls --set model.text_encoder=runs/clip`, then `kiln sample RUN -n 16 --text "a red heart"`.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::{Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::{Activation, BatchNorm2d, Conv2d, Conv2dConfig, Init, Linear, LinearConfig, WeightInit, activate};
use kiln_train::{
    Abilities, Batch, DataConfig, Generate, InitFrom, Input, Loss, Phase, Pictures, Request, SizeRule, System,
    TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::encoder::{TextEncoder, TextEncoderConfig};
use crate::adversarial::dcgan::{self, Dcgan, Discriminator, Generator, Sizes};
use crate::adversarial::latent::Distribution;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The run of `clip` whose encoder reads the texts; `random` for an untrained one.
    pub text_encoder: String,
    /// Its networks, filled in from that run.
    pub encoder: TextEncoderConfig,
    /// Numbers that a text is projected to in each network.
    pub embedding_size: usize,
    /// Whether D is shown real pictures with texts of others (CLS).
    pub matching_aware: bool,
    /// Whether G draws from texts between two others (INT).
    pub interpolation: bool,
    /// DCGAN's settings.
    #[serde(flatten)]
    pub dcgan: dcgan::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            text_encoder: String::new(),
            encoder: TextEncoderConfig::default(),
            embedding_size: 128,
            matching_aware: true,
            interpolation: true,
            dcgan: dcgan::Config { latent_distribution: Distribution::Normal, ..dcgan::Config::default() },
        }
    }
}

/// The frozen encoder and both players.
#[derive(Module, Debug)]
pub struct Networks {
    /// φ.
    pub text_encoder: TextEncoder,
    /// G.
    pub generator: TextGenerator,
    /// D.
    pub discriminator: TextDiscriminator,
}

/// Slope of leaky ReLU.
const LEAK: Activation = Activation::LeakyRelu(0.2);

/// A layer as DCGAN draws it.
pub(super) fn projection(inputs: usize, outputs: usize, init: &mut Init) -> Linear {
    LinearConfig { weight: WeightInit::Normal(0.02), ..LinearConfig::new(inputs, outputs) }.init(init)
}

/// DCGAN's generator of z and a projected text.
#[derive(Module, Debug)]
pub struct TextGenerator {
    projection: Linear,
    net: Generator,
}

impl TextGenerator {
    /// # Shapes
    /// `[n, latent_size]`, `[n, text]` → `[n, c, h, w]` in (−1, 1)
    pub fn forward(&self, z: Tensor<2>, text: Tensor<2>) -> Tensor<4> {
        let text = activate(self.projection.forward(text), LEAK);
        self.net.forward(Tensor::cat(vec![z, text], 1))
    }
}

/// DCGAN's discriminator with a projected text beside its last maps.
#[derive(Module, Debug)]
pub struct TextDiscriminator {
    projection: Linear,
    net: Discriminator,
    joined: Conv2d,
    norm: BatchNorm2d,
}

impl TextDiscriminator {
    /// Of texts of `text` numbers, projected to `size`, and pictures of `channels` channels, with `k` after the first layer.
    pub(super) fn new(text: usize, size: usize, channels: usize, k: usize, sizes: Sizes, init: &mut Init) -> Self {
        let widest = k << (sizes.doublings - 1);
        let joined = Conv2dConfig {
            bias: false,
            weight: WeightInit::Normal(0.02),
            ..Conv2dConfig::new(widest + size, widest, 1)
        };
        Self {
            projection: projection(text, size, init),
            net: Discriminator::new(channels, k, sizes, init),
            joined: joined.init(init),
            norm: BatchNorm2d::dcgan(widest, init),
        }
    }

    /// # Shapes
    /// `[n, c, h, w]`, `[n, text]` → `[n]`
    pub fn forward(&self, images: Tensor<4>, text: Tensor<2>) -> Tensor<1> {
        let features = self.net.features(images);
        let text = activate(self.projection.forward(text), LEAK);
        let ([n, _, h, w], [_, d]) = (features.dims(), text.dims());
        let text = text.reshape([n, d, 1, 1]).expand([n, d, h, w]);
        let joined = self.joined.forward(Tensor::cat(vec![features, text], 1));
        self.net.logits(self.norm.forward(joined, LEAK))
    }
}

/// The system.
pub struct GanIntCls {
    config: Config,
    pictures: Pictures,
    sizes: Sizes,
}

impl System for GanIntCls {
    const ID: &'static str = "gan-int-cls";
    const PAPER: &'static str = "Reed et al.: Generative Adversarial Text to Image Synthesis, 2016";
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
        let (_, train) = Dcgan::defaults();
        (DataConfig { size: 32.into(), channels: 3, ..DataConfig::default() }, train)
    }

    fn sizes(config: &Config) -> SizeRule {
        Dcgan::sizes(&config.dcgan)
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        refuse_if!(config.embedding_size == 0, "model.embedding_size must be at least 1");
        refuse_if!(pictures.vocabulary == 0, "gan-int-cls learns from captions, and the data has none");
        config.encoder.check(&config.text_encoder, pictures)?;
        Dcgan::new(config.dcgan.clone(), pictures)?;
        Ok(Self { sizes: Sizes::of(pictures.shape)?, pictures: pictures.clone(), config })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, sizes, channels) = (&self.config, self.sizes, self.pictures.shape[0]);
        let (text, size) = (c.encoder.projection_dim, c.embedding_size);
        Networks {
            text_encoder: TextEncoder::new(&c.encoder, &self.pictures, init),
            generator: TextGenerator {
                projection: projection(text, size, init),
                net: Generator::new(c.dcgan.latent_size + size, c.dcgan.generator_channels, channels, sizes, init),
            },
            discriminator: TextDiscriminator::new(text, size, channels, c.dcgan.discriminator_channels, sizes, init),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        self.config.dcgan.phases(Self::discriminator_loss, Self::generator_loss)
    }

    fn augments(_config: &Config) -> bool {
        true
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { generate: Some(self), ..Abilities::default() }
    }
}

/// Each row's neighbour in the batch, the last one's the first.
fn others(text: Tensor<2>) -> Tensor<2> {
    let n = text.dims()[0];
    Tensor::cat(vec![text.clone().narrow(0, 1, n - 1), text.narrow(0, 0, 1)], 0)
}

/// What D is to take for wrong: what was made, and with `aware` as many real pictures with another text, so that a mean is ½ of each.
pub(super) fn against(
    d: &TextDiscriminator,
    real: Tensor<4>,
    fake: Tensor<4>,
    text: Tensor<2>,
    aware: bool,
) -> Tensor<1> {
    let fake = d.forward(fake, text.clone());
    if !aware || text.dims()[0] < 2 {
        return fake;
    }
    Tensor::cat(vec![d.forward(real, others(text)), fake], 0)
}

impl GanIntCls {
    fn fake(&self, networks: &Networks, phase: &str, batch: &Batch, text: Tensor<2>) -> Tensor<4> {
        let c = &self.config.dcgan;
        networks.generator.forward(c.latent_distribution.train(batch, phase, c.latent_size), text)
    }

    fn discriminator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (c, d) = (&self.config, &networks.discriminator);
        let text = networks.text_encoder.forward(batch.tokens()?);
        let fake = self.fake(networks, "discriminator", batch, text.clone()).detach();
        let real = batch.augmentation("augment real").apply(batch.images());
        let fake = batch.augmentation("augment fake").apply(fake);
        let right = d.forward(real.clone(), text.clone());
        let against = against(d, real, fake, text, c.matching_aware);
        Ok(Some(c.dcgan.objective.discriminator_loss(right, against, c.dcgan.label_smoothing)))
    }

    fn generator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (c, d) = (&self.config, &networks.discriminator);
        let text = networks.text_encoder.forward(batch.tokens()?);
        let judged = |purpose: &str, phase: &str, text: Tensor<2>| {
            let fake = batch.augmentation(purpose).apply(self.fake(networks, phase, batch, text.clone()));
            c.dcgan.objective.generator(d.forward(fake, text))
        };
        let loss = Loss::new("generator", judged("augment generator", "generator", text.clone()));
        if !c.interpolation || batch.len() < 2 {
            return Ok(Some(loss));
        }
        let between = (text.clone() + others(text)) * 0.5;
        Ok(Some(loss.plus("interpolated", 1.0, judged("augment interpolated", "interpolated", between))))
    }
}

impl Generate<Networks> for GanIntCls {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Noise, Input::Text]
    }

    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        let c = &self.config.dcgan;
        let z = c.latent_distribution.requested(request, c.latent_size, Self::ID)?;
        let text = networks.text_encoder.requested(request, self.config.encoder.projection_dim);
        Ok(networks.generator.forward(z, text))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::Device;
    use kiln_core::random::Key;
    use kiln_data::{HostBatch, Part, TokenRows};
    use kiln_nn::tensor::{from_values, to_values};
    use kiln_train::{Prompt, Tokens};

    use super::*;
    use crate::testing::{fit, requested, term};

    fn system(set: impl FnOnce(&mut Config)) -> GanIntCls {
        let mut config = Config {
            text_encoder: InitFrom::RANDOM.into(),
            encoder: TextEncoderConfig { text_width: 8, projection_dim: 6, ..TextEncoderConfig::default() },
            embedding_size: 4,
            dcgan: dcgan::Config {
                latent_size: 4,
                generator_channels: 4,
                discriminator_channels: 4,
                ..Config::default().dcgan
            },
            ..Config::default()
        };
        set(&mut config);
        let pictures = Pictures { vocabulary: 9, caption_length: 2, ..Pictures::new([1, 8, 8], Vec::new()) };
        GanIntCls::new(config, &pictures).unwrap()
    }

    /// Bright pictures are of one text, dark ones of another.
    fn batch(step: u64, device: &Device) -> Batch {
        let part = Part {
            shape: [8, 1, 8, 8],
            values: (0..512).map(|i| if i / 64 % 2 == 0 { 0.8 } else { -0.8 }).collect(),
            captions: vec![None; 8],
            tokens: Some(TokenRows { ids: [2, 3, 4, 5].repeat(4), lengths: vec![2; 8], length: 2 }),
            indices: (0..8).collect(),
            ..Part::default()
        };
        Batch::new(HostBatch { start: 8 * step, parts: vec![part] }, 8_000, Key::new(0), device)
    }

    #[test]
    fn the_terms_are_those_asked_for() {
        let names = |set: fn(&mut Config)| -> Vec<String> {
            fit(system(set), 1, 1, batch).0[0].iter().map(|(name, _)| name.clone()).collect()
        };
        assert!(names(|_| ()).contains(&"interpolated".to_string()));
        assert!(!names(|c| c.interpolation = false).contains(&"interpolated".to_string()));
    }

    /// log s_r + ½ (log(1 − s_w) + log(1 − s_f)), written out.
    #[test]
    fn a_wrong_text_counts_as_much_as_a_made_picture() {
        let device = Device::flex().autodiff();
        let mut system = system(|c| c.dcgan.label_smoothing = 0.0);
        let networks = system.networks(&mut Init::new(&device, 0));
        let batch = batch(0, &device);
        let loss = system.discriminator_loss(&networks, &batch).unwrap().unwrap();
        let text = networks.text_encoder.forward(batch.tokens().unwrap());
        let fake = system.fake(&networks, "discriminator", &batch, text.clone());
        let d = |images, text| to_values(networks.discriminator.forward(images, text));
        let softplus = |x: f32| (1.0 + f64::from(x).exp()).ln();
        let mean = |values: Vec<f32>, sign: f32| values.iter().map(|v| softplus(sign * v)).sum::<f64>() / 8.0;
        let right = mean(d(batch.images(), text.clone()), -1.0);
        let wrong = mean(d(batch.images(), others(text.clone())), 1.0);
        let made = mean(d(fake, text), 1.0);
        let got = f64::from(to_values(loss.total)[0]);
        assert!((got - (right + 0.5 * (wrong + made))).abs() < 1e-4, "{got} {right} {wrong} {made}");
    }

    #[test]
    fn a_text_decides_what_is_drawn() {
        let (log, system) = fit(system(|_| ()), 3, 300, batch);
        assert!(term(log.last().unwrap(), "generator").is_finite());
        let device = Device::flex();
        let networks = system.networks(&mut Init::new(&device, 3));
        let tokens = |ids: [u32; 2]| Tokens::new(TokenRows { ids: ids.into(), lengths: vec![2], length: 2 }, &device);
        let draw = |ids: [u32; 2]| {
            let mut request = Request::new(0..2, 0, &device);
            request.condition.text = Some(Prompt { words: vec!["a".into()], tokens: tokens(ids), negative: None });
            to_values(requested(&system, &networks, &request).unwrap())
        };
        assert_ne!(draw([2, 3]), draw([4, 5]));
        let free = requested(&system, &networks, &Request::new(0..2, 0, &device)).unwrap();
        assert_eq!(free.dims(), [2, 1, 8, 8]);
        let neighbours = others(from_values(vec![1.0, 2.0, 3.0], [3, 1], &device));
        assert_eq!(to_values(neighbours), [2.0, 3.0, 1.0]);
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        assert!(GanIntCls::settle(Config::default()).unwrap_err().to_string().contains("model.text_encoder"));
        let pictures = Pictures { vocabulary: 9, caption_length: 2, ..Pictures::new([1, 8, 8], Vec::new()) };
        let config = Config {
            text_encoder: "runs/clip".into(),
            encoder: TextEncoderConfig { vocabulary: 8, caption_length: 2, ..TextEncoderConfig::default() },
            ..Config::default()
        };
        let error = GanIntCls::new(config, &pictures).err().unwrap().to_string();
        assert!(error.contains("the words of runs/clip"), "{error}");
    }
}
