//! Zhao, Mathieu & LeCun, *Energy-based Generative Adversarial Network*, 2017.
//!
//! D is an energy, low on the data: D(x) = ‖Dec(Enc(x)) − x‖, an autoencoder's error (section 2.3). Losses (equations 1 and 2,
//! 4 for the pulling-away term):
//!
//! - D: D(x) + max(0, m − D(G(z)))
//! - G: D(G(z)) + w·f_PT, with f_PT = 1/(n(n − 1)) Σ_{i≠j} (sᵢ·sⱼ / (‖sᵢ‖ ‖sⱼ‖))², sᵢ = Enc(G(zᵢ))
//!
//! | paper | here |
//! |---|---|
//! | margin m | `margin`; 10 on MNIST |
//! | weight of the pulling-away term | `pull_away`; 0.1 |
//! | D as an autoencoder before the game begins | `pretrain` images |
//! | fully connected networks (section 4.1's grid) | `network = "mlp"`, `generator_hidden`, `discriminator_hidden`, `dropout` |
//! | convolutional ones (section 4.2) | `network = "conv"`, DCGAN's G, D's encoder and its mirror image |
//!
//! The log's `d_real` and `d_fake` are energies.
//!
//! `kiln train ebgan --data mnist`, then `kiln sample RUN -n 64`.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;
use kiln_core::random::Key;
use kiln_core::{Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::tensor::dropout;
use kiln_nn::{
    Activation, BatchNorm2d, Conv2d, Conv2dConfig, ConvTranspose2d, Init, Linear, LinearConfig, WeightInit, activate,
};
use kiln_train::augment::SIGNS;
use kiln_train::request::check_pictures;
use kiln_train::{
    Abilities, Batch, DataConfig, Decode, Discriminate, Generate, Input, Loss, OptimizerConfig, Phase, Pictures,
    Reconstruct, Request, SizeRule, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::dcgan::{self, LEAK, Sizes, WEIGHTS};
use super::gan;
use super::latent::Distribution;
use super::latent::check_length;
use crate::autoencoder::networks::Network;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Length of z.
    pub latent_size: usize,
    /// `uniform` (−1 to 1) or `normal`.
    pub latent_distribution: Distribution,
    /// `conv` or `mlp`.
    pub network: Network,
    /// Channels of G before its output, and of D's encoder after its first layer; doubled each time the size is halved (`conv`).
    pub channels: usize,
    /// Widths of G's layers (`mlp`).
    pub generator_hidden: Vec<usize>,
    /// Widths of the layers of D's encoder; its decoder has them in reverse (`mlp`).
    pub discriminator_hidden: Vec<usize>,
    /// Dropout of D's layers (`mlp`).
    pub dropout: f64,
    /// m: energies of samples beyond it are high enough.
    pub margin: f64,
    /// Weight of the pulling-away term, which keeps samples apart; 0 is none.
    pub pull_away: f64,
    /// Images on which D is trained as an autoencoder before G begins.
    pub pretrain: u64,
    /// G's optimiser.
    pub generator_optimizer: OptimizerConfig,
    /// D's optimiser.
    pub discriminator_optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        let adam = OptimizerConfig::adam(1e-3).betas(0.5, 0.999);
        Self {
            latent_size: 100,
            latent_distribution: Distribution::Uniform,
            network: Network::Conv,
            channels: 64,
            generator_hidden: vec![800, 800],
            discriminator_hidden: vec![400, 200],
            dropout: 0.0,
            margin: 10.0,
            pull_away: 0.1,
            pretrain: 10_000,
            generator_optimizer: adam.clone(),
            discriminator_optimizer: OptimizerConfig { learning_rate: 2e-4, ..adam },
        }
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

/// z → a picture.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // one of it is made
pub enum Generator {
    /// By transposed convolutions.
    Conv(dcgan::Generator),
    /// By fully connected layers.
    Mlp(gan::Generator),
}

impl Generator {
    /// # Shapes
    /// `[n, latent]` → `[n, c, h, w]` in (−1, 1)
    pub fn forward(&self, z: Tensor<2>) -> Tensor<4> {
        match self {
            Self::Conv(net) => net.forward(z),
            Self::Mlp(net) => net.forward(z),
        }
    }
}

/// An autoencoder.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum Discriminator {
    /// Of convolutions.
    Conv(ConvAutoencoder),
    /// Of fully connected layers.
    Mlp(MlpAutoencoder),
}

impl Discriminator {
    /// Codes and reconstructions. `key` is that of the dropout masks; none outside of training.
    ///
    /// # Shapes
    /// `[n, c, h, w]` → `[n, d]`, `[n, c, h, w]`
    pub fn forward(&self, images: Tensor<4>, key: Option<Key>) -> (Tensor<2>, Tensor<4>) {
        match self {
            Self::Conv(net) => net.forward(images),
            Self::Mlp(net) => net.forward(images, key),
        }
    }
}

/// Strided convolutions and their mirror image, batch norm between, but not at the ends.
#[derive(Module, Debug)]
pub struct ConvAutoencoder {
    encoder: Vec<Conv2d>,
    encoder_norms: Vec<BatchNorm2d>,
    decoder: Vec<ConvTranspose2d>,
    decoder_norms: Vec<BatchNorm2d>,
}

impl ConvAutoencoder {
    fn new(inputs: usize, channels: usize, sizes: Sizes, init: &mut Init) -> Self {
        let layer =
            |i, o| Conv2dConfig { bias: false, weight: WEIGHTS, stride: 2, padding: 1, ..Conv2dConfig::new(i, o, 4) };
        let widths: Vec<usize> = [inputs].into_iter().chain((0..sizes.doublings).map(|k| channels << k)).collect();
        let back: Vec<usize> = widths.iter().rev().copied().collect();
        Self {
            encoder: widths.windows(2).map(|w| layer(w[0], w[1]).init(init)).collect(),
            encoder_norms: widths[2..].iter().map(|&w| BatchNorm2d::dcgan(w, init)).collect(),
            decoder: back.windows(2).map(|w| layer(w[0], w[1]).init_transposed(init)).collect(),
            decoder_norms: back[1..sizes.doublings].iter().map(|&w| BatchNorm2d::dcgan(w, init)).collect(),
        }
    }

    fn forward(&self, images: Tensor<4>) -> (Tensor<2>, Tensor<4>) {
        let leaky = Activation::LeakyRelu(LEAK);
        let mut x = images;
        for (i, layer) in self.encoder.iter().enumerate() {
            let y = layer.forward(x);
            x = match i.checked_sub(1).and_then(|i| self.encoder_norms.get(i)) {
                Some(norm) => norm.forward(y, leaky),
                None => activate(y, leaky),
            };
        }
        let code = x.clone().flatten::<2>(1, 3);
        for (i, layer) in self.decoder.iter().enumerate() {
            x = layer.forward(x);
            if let Some(norm) = self.decoder_norms.get(i) {
                x = norm.forward(x, leaky);
            }
        }
        (code, x.tanh())
    }
}

/// Rectifiers to the code and back.
#[derive(Module, Debug)]
pub struct MlpAutoencoder {
    encoder: Vec<Linear>,
    decoder: Vec<Linear>,
    #[module(skip)]
    dropout: f64,
}

impl MlpAutoencoder {
    fn new(inputs: usize, hidden: &[usize], dropout: f64, init: &mut Init) -> Self {
        let widths: Vec<usize> = [inputs].into_iter().chain(hidden.iter().copied()).collect();
        let back: Vec<usize> = widths.iter().rev().copied().collect();
        let he = |w: &[usize]| LinearConfig { weight: WeightInit::He, ..LinearConfig::new(w[0], w[1]) };
        Self {
            encoder: widths.windows(2).map(|w| he(w).init(init)).collect(),
            decoder: back.windows(2).map(|w| he(w).init(init)).collect(),
            dropout,
        }
    }

    fn forward(&self, images: Tensor<4>, key: Option<Key>) -> (Tensor<2>, Tensor<4>) {
        let shape = images.dims();
        let mut x = images.flatten::<2>(1, 3);
        for (i, layer) in self.encoder.iter().enumerate() {
            x = activate(layer.forward(x), Activation::Relu);
            x = dropout(x, self.dropout, key.map(|key| key.at(i as u64)));
        }
        let code = x.clone();
        for (i, layer) in self.decoder.iter().enumerate() {
            x = layer.forward(x);
            if i + 1 < self.decoder.len() {
                x = activate(x, Activation::Relu);
            }
        }
        (code, x.tanh().reshape(shape))
    }
}

/// D(x): the distance of pictures from their reconstructions.
///
/// # Shapes
/// `[n, c, h, w]`, `[n, c, h, w]` → `[n]`
pub fn energy(images: Tensor<4>, again: Tensor<4>) -> Tensor<1> {
    let n = images.dims()[0];
    // Where the distance is 0 it has no slope.
    ((images - again).square().flatten::<2>(1, 3).sum_dim(1) + 1e-12).sqrt().reshape([n])
}

/// The pulling-away term: the mean squared cosine between the codes of two samples (equation 4).
///
/// # Shapes
/// `[n, d]` → `[1]`
pub fn pulling_away(codes: Tensor<2>) -> Tensor<1> {
    let n = codes.dims()[0] as f64;
    let norms = (codes.clone().square().sum_dim(1) + 1e-12).sqrt();
    let unit = codes / norms;
    // The diagonal has n ones.
    ((unit.clone().matmul(unit.transpose()).square().sum() - n) / (n * (n - 1.0)).max(1.0)).reshape([1])
}

/// The system.
pub struct EbGan {
    config: Config,
    shape: [usize; 3],
    /// Of `conv`.
    sizes: Option<Sizes>,
}

impl System for EbGan {
    const ID: &'static str = "ebgan";
    const PAPER: &'static str = "Zhao, Mathieu & LeCun: Energy-based Generative Adversarial Network, 2017";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        (DataConfig::default(), TrainConfig { images: 300_000, ..TrainConfig::default() })
    }

    fn sizes(config: &Config) -> SizeRule {
        if config.network == Network::Mlp { SizeRule::any() } else { Sizes::rule() }
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let c = &config;
        refuse_if!(c.latent_size == 0, "model.latent_size must be at least 1");
        refuse_if!(c.channels == 0, "model.channels must be at least 1");
        refuse_if!(c.margin <= 0.0, "model.margin = {}: must be above 0", c.margin);
        refuse_if!(!(0.0..1.0).contains(&c.dropout), "model.dropout must be at least 0 and below 1");
        refuse_if!(
            c.network == Network::Mlp && (c.discriminator_hidden.is_empty() || c.discriminator_hidden.contains(&0)),
            "model.discriminator_hidden: an autoencoder needs a layer at least, and each width is at least 1"
        );
        refuse_if!(c.generator_hidden.contains(&0), "model.generator_hidden: each width must be at least 1");
        let sizes = match c.network {
            Network::Conv => Some(Sizes::of(pictures.shape)?),
            Network::Mlp => None,
        };
        Ok(Self { sizes, shape: pictures.shape, config })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, channels) = (&self.config, self.shape[0]);
        match self.sizes {
            Some(sizes) => Networks {
                generator: Generator::Conv(dcgan::Generator::new(c.latent_size, c.channels, channels, sizes, init)),
                discriminator: Discriminator::Conv(ConvAutoencoder::new(channels, c.channels, sizes, init)),
            },
            None => Networks {
                generator: Generator::Mlp(gan::Generator::new(c.latent_size, &c.generator_hidden, self.shape, init)),
                discriminator: Discriminator::Mlp(MlpAutoencoder::new(
                    self.shape.iter().product(),
                    &c.discriminator_hidden,
                    c.dropout,
                    init,
                )),
            },
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let c = &self.config;
        let game = c.pretrain..u64::MAX;
        let discriminator = ["discriminator"];
        vec![
            Phase::new("discriminator", &discriminator, c.discriminator_optimizer.clone(), Self::discriminator_loss)
                .during(game.clone()),
            Phase::new("autoencoder", &discriminator, c.discriminator_optimizer.clone(), Self::autoencoder_loss)
                .shares("discriminator")
                .during(0..c.pretrain),
            Phase::new("generator", &["generator"], c.generator_optimizer.clone(), Self::generator_loss).during(game),
        ]
    }

    fn augments(_config: &Config) -> bool {
        true
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities {
            generate: Some(self),
            decode: Some(self),
            reconstruct: Some(self),
            discriminate: Some(self),
            ..Abilities::default()
        }
    }
}

impl EbGan {
    fn fake(&self, networks: &Networks, phase: &str, batch: &Batch) -> Tensor<4> {
        let c = &self.config;
        let fake = networks.generator.forward(c.latent_distribution.train(batch, phase, c.latent_size));
        batch.augmentation(&format!("augment {phase}")).apply(fake)
    }

    fn real(&self, batch: &Batch) -> Tensor<4> {
        batch.augmentation("augment real").apply(batch.images())
    }

    /// Codes and energies under D's dropout.
    fn judge(&self, networks: &Networks, images: Tensor<4>, side: &str, batch: &Batch) -> (Tensor<2>, Tensor<1>) {
        let key = batch.dropout_key().purpose(side);
        let (codes, again) = networks.discriminator.forward(images.clone(), Some(key));
        (codes, energy(images, again))
    }

    /// D(x) + max(0, m − D(G(z))).
    fn discriminator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let margin = self.config.margin;
        let fake = self.fake(networks, "discriminator", batch).detach();
        let (_, real) = self.judge(networks, self.real(batch), "real", batch);
        let (_, fake) = self.judge(networks, fake, "fake", batch);
        let loss = real.clone().mean() + relu(-fake.clone() + margin).mean();
        // As real as fake is half way to the margin.
        let signs = (-real.clone() + margin / 2.0).sign().mean();
        let loss = Loss::new("discriminator", loss).report("d_real", real.mean()).report("d_fake", fake.mean());
        Ok(Some(loss.report(SIGNS, signs)))
    }

    /// D(x) alone.
    fn autoencoder_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (_, real) = self.judge(networks, self.real(batch), "real", batch);
        Ok(Some(Loss::new("autoencoder", real.mean())))
    }

    /// D(G(z)) and the pulling-away term.
    fn generator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let fake = self.fake(networks, "generator", batch);
        let (codes, energies) = self.judge(networks, fake, "generator", batch);
        let loss = Loss::new("generator", energies.mean());
        Ok(Some(match self.config.pull_away {
            0.0 => loss,
            weight => loss.plus("pull_away", weight, pulling_away(codes)),
        }))
    }
}

impl Generate<Networks> for EbGan {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Noise]
    }

    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        self.decode(networks, self.latents(networks, request)?)
    }
}

impl Decode<Networks> for EbGan {
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

/// What D makes of pictures.
impl Reconstruct<Networks> for EbGan {
    fn reconstruct(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<4>> {
        check_pictures(&images, self.shape)?;
        Ok(networks.discriminator.forward(images, None).1)
    }
}

/// The negative energy.
impl Discriminate<Networks> for EbGan {
    fn scores(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<1>> {
        check_pictures(&images, self.shape)?;
        let (_, again) = networks.discriminator.forward(images.clone(), None);
        Ok(-energy(images, again))
    }

    fn is_logit(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::{from_values, to_values};

    use super::*;
    use crate::adversarial::testing::{batch, close, overfit};

    fn tiny(network: Network) -> Config {
        Config {
            latent_size: 4,
            network,
            channels: 4,
            generator_hidden: vec![16],
            discriminator_hidden: vec![16, 4],
            ..Config::default()
        }
    }

    fn system(config: Config) -> Result<EbGan> {
        EbGan::new(config, &Pictures::new([1, 8, 12], Vec::new()))
    }

    #[test]
    fn shapes() {
        let device = Device::flex();
        for network in [Network::Conv, Network::Mlp] {
            let s = system(tiny(network)).unwrap();
            let n = s.networks(&mut Init::new(&device, 0));
            let out = s.generate(&n, &Request::new(0..3, 1, &device)).unwrap();
            assert_eq!(out.dims(), [3, 1, 8, 12]);
            assert_eq!(s.reconstruct(&n, out.clone()).unwrap().dims(), [3, 1, 8, 12]);
            assert!(to_values(s.scores(&n, out).unwrap()).iter().all(|score| *score < 0.0));
        }
    }

    #[test]
    fn terms_by_hand() {
        let device = Device::flex();
        // Cosines 0, 1/√2 and 1/√2 of three pairs: (0 + ½ + ½) · 2 / 6.
        let codes = from_values(vec![2., 0., 0., 3., 1., 1.], [3, 2], &device);
        close(&to_values(pulling_away(codes)), &[1.0 / 3.0], 1e-5);
        let x = from_values(vec![0.; 8], [2, 1, 2, 2], &device);
        let y = from_values(vec![3., 4., 0., 0., 0., 0., 0., 0.], [2, 1, 2, 2], &device);
        close(&to_values(energy(x, y)), &[5.0, 0.0], 1e-5);
    }

    #[test]
    fn each_player_learns_alone() {
        for network in [Network::Conv, Network::Mlp] {
            // A margin that a sample's energy is below at first.
            let mut s = system(Config { margin: 40.0, ..tiny(network) }).unwrap();
            let b = batch(8, [1, 8, 12], 0);
            for phase in [0, 1, 2] {
                let (before, after) = overfit(&mut s, phase, 5e-3, 80, &b);
                assert!(after < 0.98 * before, "{network:?} phase {phase}: {before} to {after}");
            }
        }
    }

    #[test]
    fn the_game_begins_after_the_autoencoder() {
        let s = system(Config { pretrain: 100, ..tiny(Network::Conv) }).unwrap();
        let due = |images| s.phases().iter().filter(|p| p.is_due(0, images)).map(|p| p.name).collect::<Vec<_>>();
        assert_eq!(due(0), ["autoencoder"]);
        assert_eq!(due(100), ["discriminator", "generator"]);
    }

    #[test]
    fn bad_settings_are_usage_errors() {
        for config in [
            Config { latent_size: 0, ..tiny(Network::Conv) },
            Config { margin: 0.0, ..tiny(Network::Conv) },
            Config { discriminator_hidden: vec![], ..tiny(Network::Mlp) },
            Config { dropout: 1.0, ..tiny(Network::Mlp) },
        ] {
            assert!(system(config.clone()).err().is_some_and(|e| e.is_usage()), "{config:?}");
        }
    }
}
