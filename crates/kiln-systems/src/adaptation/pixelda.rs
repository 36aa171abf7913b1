//! Bousmalis, Silberman, Dohan, Erhan & Krishnan, *Unsupervised Pixel-Level Domain Adaptation with Generative Adversarial Networks*,
//! 2017.
//!
//! A generator draws source pictures anew in the look of the target, and a classifier learns from both, with the labels that the
//! source has. Objective (equation 1): min over G and T, max over D of α L_d(D, G) + β L_t(T, G) + γ L_c(G):
//!
//! * L_d (equation 2): E_target log D(x) + E_source log(1 − D(G(x, z))), where G maximises log D(G(x, z));
//! * L_t (equation 3): the cross-entropy of T on G(x, z) and on x itself, T being trained with D and not with G;
//! * L_c (equation 5): the scale-invariant error of G(x, z) where the source's mask has something.
//!
//! | paper, authors' code | here |
//! |---|---|
//! | z ~ U(−1, 1)¹⁰, a linear layer to one more channel of the picture | `noise_size` |
//! | G: 3×3 convolutions in residual blocks with batch norm at full size (figure 2) | `generator`, a [`Generator`] |
//! | D: strided 3×3 convolutions, dropout 0.1 and Gaussian noise 0.2 after each | `discriminator`, a [`Discriminator`] |
//! | T, whose first layer is the source's own (§4.1) | `task`, a [`Classifier`] |
//! | α in D's steps and in G's | `discriminator_weight` 0.13, `adversarial_weight` 0.011 |
//! | β in G's steps | `task_weight` 0.01 |
//! | γ | `content_weight`, 0: for MNIST the paper has none |
//!
//! `kiln train pixelda --data mnist,mnistm`, then `kiln translate RUN digits/ adapted/` and a new task on what it wrote.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_core::{Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::loss::{binary_cross_entropy_to, cross_entropy};
use kiln_nn::tensor::{dropout_of, normal, uniform};
use kiln_nn::{
    Activation, BatchNorm2d, Conv2d, Conv2dConfig, Init, Linear, LinearConfig, WeightInit, activate, add_activate,
};
use kiln_train::{
    Abilities, Batch, Classify, DataConfig, Loss, OptimizerConfig, Phase, Pictures, Represent, Request, Schedule,
    SizeRule, System, TrainConfig, Translate,
};
use serde::{Deserialize, Serialize};

use super::dann::defaults;
use super::losses::{domain_loss, domains, label_loss, pairwise_error, with_known};
use super::networks::{Classifier, Head, NetworkConfig, Side, check_shape};
use crate::adversarial::players::check_positive;
use crate::one_pass::NoSettings;
use crate::translation::two_way::check_weights;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Channels of the generator's convolutions.
    pub generator_channels: usize,
    /// Its residual blocks.
    pub blocks: usize,
    /// Numbers of z; 0: one outcome a picture.
    pub noise_size: usize,
    /// Channels after the discriminator's first convolution, doubled at each halving.
    pub discriminator_channels: usize,
    /// Share of the discriminator's values that are dropped.
    pub discriminator_dropout: f64,
    /// Deviation of the noise that is added to its values.
    pub discriminator_noise: f64,
    /// α in the steps of D.
    pub discriminator_weight: f64,
    /// α in the steps of G.
    pub adversarial_weight: f64,
    /// β in the steps of G.
    pub task_weight: f64,
    /// γ.
    pub content_weight: f64,
    /// T.
    #[serde(flatten)]
    pub network: NetworkConfig,
    /// The optimiser of G.
    pub generator_optimizer: OptimizerConfig,
    /// The optimiser of D and T.
    pub discriminator_optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        let optimizer = OptimizerConfig { weight_decay: 1e-5, ..OptimizerConfig::adam(1e-3).betas(0.5, 0.999) };
        let optimizer = optimizer.schedule(Schedule::LinearSecondHalf);
        Self {
            generator_channels: 64,
            blocks: 6,
            noise_size: 10,
            discriminator_channels: 64,
            discriminator_dropout: 0.1,
            discriminator_noise: 0.2,
            discriminator_weight: 0.13,
            adversarial_weight: 0.011,
            task_weight: 0.01,
            content_weight: 0.0,
            network: NetworkConfig { same_padding: true, ..NetworkConfig::default() },
            generator_optimizer: optimizer.clone(),
            discriminator_optimizer: optimizer,
        }
    }
}

/// Weights of G and D.
const WEIGHTS: WeightInit = WeightInit::Normal(0.02);
/// Slope of D's leaky ReLU.
const LEAK: Activation = Activation::LeakyRelu(0.2);
/// Side of D's last maps, at most.
const LAST: usize = 4;

fn conv(inputs: usize, outputs: usize, stride: usize, bias: bool) -> Conv2dConfig {
    Conv2dConfig { padding: 1, stride, bias, weight: WEIGHTS, ..Conv2dConfig::new(inputs, outputs, 3) }
}

/// z becomes one more channel; a convolution, residual blocks, and a 1×1 convolution to the picture's channels, with tanh.
#[derive(Module, Debug)]
pub struct Generator {
    noise: Option<Linear>,
    noise_norm: Option<BatchNorm2d>,
    first: Conv2d,
    blocks: Vec<Block>,
    last: Conv2d,
}

/// conv – batch norm – ReLU – conv – batch norm, added to the input.
#[derive(Module, Debug)]
pub struct Block {
    convs: Vec<Conv2d>,
    norms: Vec<BatchNorm2d>,
}

impl Generator {
    fn new([channels, height, width]: [usize; 3], config: &Config, init: &mut Init) -> Self {
        let (k, pixels, size) = (config.generator_channels, height * width, config.noise_size);
        let linear = LinearConfig { bias: false, weight: WEIGHTS, ..LinearConfig::new(size, pixels) };
        let block = |init: &mut Init| Block {
            convs: (0..2).map(|_| conv(k, k, 1, false).init(init)).collect(),
            norms: (0..2).map(|_| BatchNorm2d::new(k, init)).collect(),
        };
        Self {
            noise: (size > 0).then(|| linear.init(init)),
            noise_norm: (size > 0).then(|| BatchNorm2d::new(pixels, init)),
            first: conv(channels + usize::from(size > 0), k, 1, true).init(init),
            blocks: (0..config.blocks).map(|_| block(init)).collect(),
            last: Conv2dConfig { weight: WEIGHTS, ..Conv2dConfig::new(k, channels, 1) }.init(init),
        }
    }

    /// z is looked at where there is a layer for it.
    ///
    /// # Shapes
    /// `[n, c, h, w]`, `[n, noise_size]` → `[n, c, h, w]` in (−1, 1)
    pub fn forward(&self, images: Tensor<4>, z: Option<Tensor<2>>) -> Tensor<4> {
        let [n, _, h, w] = images.dims();
        let x = match (&self.noise, &self.noise_norm, z) {
            (Some(linear), Some(norm), Some(z)) => {
                let channel = norm.forward(linear.forward(z).reshape([n, h * w, 1, 1]), Activation::Relu);
                Tensor::cat(vec![images, channel.reshape([n, 1, h, w])], 1)
            }
            _ => images,
        };
        let x = activate(self.first.forward(x), Activation::Relu);
        let x = self.blocks.iter().fold(x, |x, Block { convs, norms }| {
            let y = norms[0].forward(convs[0].forward(x.clone()), Activation::Relu);
            add_activate(norms[1].forward(convs[1].forward(y), Activation::None), x, Activation::None)
        });
        self.last.forward(x).tanh()
    }
}

/// 3×3 convolutions, all but the first of stride 2 and with batch norm, until the map has at most 4 pixels a side, and a linear layer.
#[derive(Module, Debug)]
pub struct Discriminator {
    convs: Vec<Conv2d>,
    norms: Vec<BatchNorm2d>,
    logit: Linear,
    #[module(skip)]
    dropout: f64,
    #[module(skip)]
    noise: f64,
}

impl Discriminator {
    fn new([channels, height, width]: [usize; 3], config: &Config, init: &mut Init) -> Self {
        let k = config.discriminator_channels;
        let mut convs = vec![conv(channels, k, 1, true).init(init)];
        let mut norms = Vec::new();
        let mut side = [height, width];
        while side.iter().any(|&side| side > LAST) {
            let i = k << norms.len();
            convs.push(conv(i, 2 * i, 2, false).init(init));
            norms.push(BatchNorm2d::new(2 * i, init));
            side = side.map(|side| side.div_ceil(2));
        }
        let features = (k << norms.len()) * side[0] * side[1];
        Self {
            logit: LinearConfig { weight: WEIGHTS, ..LinearConfig::new(features, 1) }.init(init),
            convs,
            norms,
            dropout: config.discriminator_dropout,
            noise: config.discriminator_noise,
        }
    }

    /// Whether pictures are of the target: logits. `disturb` draws dropout and noise, for samples of these numbers.
    ///
    /// # Shapes
    /// `[n, c, h, w]` → `[n, 1]`
    pub fn forward(&self, images: Tensor<4>, disturb: Option<(Key, std::ops::Range<u64>)>) -> Tensor<2> {
        let x = self.convs.iter().enumerate().fold(images, |x, (i, conv)| {
            let x = conv.forward(x);
            let x = match i.checked_sub(1) {
                Some(at) => self.norms[at].forward(x, LEAK),
                None => activate(x, LEAK),
            };
            let Some((key, samples)) = &disturb else { return x };
            let key = key.at(i as u64);
            let (device, shape) = (x.device(), x.dims());
            let x = dropout_of(x, self.dropout, key.purpose("dropout"), samples.clone());
            if self.noise == 0.0 {
                return x;
            }
            x + normal(key.purpose("noise"), samples.clone(), shape, &device) * self.noise
        });
        let [n, c, h, w] = x.dims();
        self.logit.forward(x.reshape([n, c * h * w]))
    }
}

/// The three networks.
#[derive(Module, Debug)]
pub struct Networks {
    /// G.
    pub generator: Generator,
    /// D.
    pub discriminator: Discriminator,
    /// T.
    pub task: Classifier,
}

/// The system.
pub struct PixelDa {
    config: Config,
    pictures: Pictures,
}

impl System for PixelDa {
    const ID: &'static str = "pixelda";
    const PAPER: &'static str = "Bousmalis et al.: Unsupervised Pixel-Level Domain Adaptation with Generative Adversarial \
                                 Networks, 2017";
    const DATA: DataKind = DataKind::SourceTarget;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        let (data, train) = defaults(400_000);
        (data, TrainConfig { batch: 32, preview_every: 20_000, checkpoint_every: 20_000, ..train })
    }

    fn resolve(config: Config, _pictures: &Pictures) -> Config {
        Config { network: config.network.resolved(), ..config }
    }

    fn sizes(config: &Config) -> SizeRule {
        config.network.sizes()
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let config = Self::resolve(config, pictures);
        config.network.check(pictures, Self::ID)?;
        check_positive(&[
            ("generator_channels", config.generator_channels),
            ("discriminator_channels", config.discriminator_channels),
        ])?;
        let dropout = config.discriminator_dropout;
        refuse_if!(!(0.0..1.0).contains(&dropout), "model.discriminator_dropout = {dropout}: must be in [0, 1)");
        check_weights(&[
            ("discriminator_noise", config.discriminator_noise),
            ("discriminator_weight", config.discriminator_weight),
            ("adversarial_weight", config.adversarial_weight),
            ("task_weight", config.task_weight),
            ("content_weight", config.content_weight),
        ])?;
        Ok(Self { config, pictures: pictures.clone() })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (network, shape) = (&self.config.network, self.pictures.shape);
        let classes = self.pictures.classes.len();
        Networks {
            generator: Generator::new(shape, &self.config, init),
            discriminator: Discriminator::new(shape, &self.config, init),
            task: Classifier {
                extractor: network.extractor(shape[0], true, init),
                labels: Head::new(network.features(shape), &network.label_hidden, classes, init),
            },
        }
    }

    /// T is trained with D, and G by what both say of its pictures.
    fn phases(&self) -> Vec<Phase<Self>> {
        let Config { generator_optimizer, discriminator_optimizer, .. } = &self.config;
        vec![
            Phase::new("discriminator", &["discriminator", "task"], discriminator_optimizer.clone(), |s, n, b| {
                s.discriminator_loss(n, b).map(Some)
            }),
            Phase::new("generator", &["generator"], generator_optimizer.clone(), |s, n, b| {
                s.generator_loss(n, b).map(Some)
            }),
        ]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { classify: Some(self), represent: Some(self), translate: Some(self), ..Abilities::default() }
    }
}

impl PixelDa {
    /// z ~ U(−1, 1) of samples.
    fn noise(&self, key: Key, samples: std::ops::Range<u64>, like: &Tensor<4>) -> Option<Tensor<2>> {
        let [n, size] = [like.dims()[0], self.config.noise_size];
        (size > 0).then(|| uniform(key, samples, [n, size], &like.device()) * 2.0 - 1.0)
    }

    /// The source's pictures in the look of the target.
    fn adapted(&self, networks: &Networks, batch: &Batch, images: &Tensor<4>) -> Tensor<4> {
        let z = self.noise(batch.key("noise"), batch.samples(), images);
        networks.generator.forward(images.clone(), z)
    }

    fn discriminator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let [source, target] = domains(batch, Self::ID)?;
        let (images, labels) = (&source.images, batch.labels()?);
        let fake = self.adapted(networks, batch, images).detach();
        let judge = |x: Tensor<4>, of: &str| networks.discriminator.forward(x, Some((batch.key(of), batch.samples())));
        let [of_fake, of_real] = [judge(fake.clone(), "D of fake"), judge(target.images.clone(), "D of real")];
        let domain = domain_loss(of_fake.clone(), of_real.clone());
        let believed = |logits: Tensor<2>| burn::tensor::activation::sigmoid(logits).mean();
        let of_source = networks.task.forward(images.clone(), Side::Source);
        let loss = label_loss(networks.task.forward(fake, Side::Target), labels.clone())
            .plus("source_loss", 1.0, cross_entropy(of_source, labels))
            .plus("discriminator", self.config.discriminator_weight, domain)
            .report("d_real", believed(of_real))
            .report("d_fake", believed(of_fake));
        with_known(loss, batch, |images| networks.task.forward(images, Side::Target))
    }

    fn generator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let [source, _] = domains(batch, Self::ID)?;
        let (images, labels) = (&source.images, batch.labels()?);
        let Config { adversarial_weight, task_weight, content_weight, .. } = self.config;
        let fake = self.adapted(networks, batch, images);
        let of_fake = networks.discriminator.forward(fake.clone(), Some((batch.key("G of fake"), batch.samples())));
        // The part of the task's loss on the source moves nothing of G.
        let task = cross_entropy(networks.task.forward(fake.clone(), Side::Target), labels);
        let loss = Loss::new("adversarial", binary_cross_entropy_to(of_fake, 1.0) * adversarial_weight).plus(
            "task",
            task_weight,
            task,
        );
        if content_weight == 0.0 {
            return Ok(loss);
        }
        let mask = source.mask.clone().map(|mask| {
            let [n, h, w] = mask.dims();
            mask.not_equal_elem(0).float().reshape([n, 1, h, w])
        });
        Ok(loss.plus("content", content_weight, pairwise_error(fake, images.clone(), mask)))
    }
}

impl Classify<Networks> for PixelDa {
    fn classify(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_shape(&images, &self.pictures, Self::ID)?;
        Ok(networks.task.forward(images, Side::Target))
    }

    fn classify_source(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_shape(&images, &self.pictures, Self::ID)?;
        Ok(networks.task.forward(images, Side::Source))
    }
}

/// The last hidden layer of T.
impl Represent<Networks> for PixelDa {
    fn represent(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_shape(&images, &self.pictures, Self::ID)?;
        Ok(networks.task.hidden(images, Side::Target))
    }

    fn represent_source(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_shape(&images, &self.pictures, Self::ID)?;
        Ok(networks.task.hidden(images, Side::Source))
    }
}

impl Translate<Networks> for PixelDa {
    fn directions(&self) -> Vec<&'static str> {
        vec!["a2b"]
    }

    fn translate(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<4>> {
        check_shape(&images, &self.pictures, Self::ID)?;
        request.sampler::<NoSettings>(Self::ID)?;
        let z = self.noise(request.key.purpose("noise"), request.indices.clone(), &images);
        Ok(networks.generator.forward(images, z))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;
    use kiln_train::params;

    use super::*;
    use crate::adaptation::testing::{batch, fit, pictures, term, tiny_network};

    fn tiny() -> Config {
        let optimizer = OptimizerConfig::adam(2e-3).betas(0.5, 0.999);
        Config {
            generator_channels: 4,
            blocks: 1,
            noise_size: 3,
            discriminator_channels: 4,
            network: tiny_network(),
            generator_optimizer: optimizer.clone(),
            discriminator_optimizer: optimizer,
            ..Config::default()
        }
    }

    fn new(config: Config) -> PixelDa {
        PixelDa::new(config, &pictures(16)).unwrap()
    }

    #[test]
    fn fits_one_batch() {
        let log = fit(new(Config { content_weight: 1.0, ..tiny() }), false, 60);
        for name in ["label_loss", "source_loss", "content"] {
            let [first, last] = [0, 59].map(|step: usize| term(&log[step], name));
            assert!(last < 0.6 * first, "{name}: {first} -> {last}");
        }
    }

    #[test]
    fn labels_of_the_target_change_nothing() {
        assert_eq!(fit(new(tiny()), false, 3), fit(new(tiny()), true, 3));
    }

    #[test]
    fn each_phase_moves_its_own_networks_and_the_source_has_its_first_layer() {
        let device = Device::flex().autodiff();
        let mut system = new(tiny());
        let networks = system.networks(&mut Init::new(&device, 0));
        let batch = batch(0, false, &device);
        let phases = system.phases();
        let mut moved = phases.iter().map(|phase| {
            let networks = params::set_trainable(networks.clone(), &phase.trains);
            let loss = (phase.loss)(&mut system, &networks, &batch).unwrap().unwrap();
            params::take_gradients(&networks, &mut loss.total.backward()).into_keys().collect::<Vec<_>>()
        });
        let (of_d, of_g) = (moved.next().unwrap(), moved.next().unwrap());
        assert!(of_d.iter().all(|path| path.starts_with("discriminator") || path.starts_with("task")), "{of_d:?}");
        assert!(of_d.iter().any(|path| path.contains("first_of_source")), "{of_d:?}");
        assert!(!of_g.is_empty() && of_g.iter().all(|path| path.starts_with("generator")), "{of_g:?}");
    }

    #[test]
    fn outcomes_differ_with_the_noise() {
        let device = Device::flex();
        let images = || batch(0, false, &device).domains[0].images.clone();
        let made = |system: &PixelDa, seed: u64| {
            let networks = system.networks(&mut Init::new(&device, 0));
            let request = Request::new(0..8, seed, &device).along("a2b");
            to_values(system.translate(&networks, images(), &request).unwrap())
        };
        let system = new(tiny());
        assert_eq!(made(&system, 1), made(&system, 1));
        assert_ne!(made(&system, 1), made(&system, 2));
        let system = new(Config { noise_size: 0, ..tiny() });
        assert_eq!(made(&system, 1), made(&system, 2));
    }

    #[test]
    fn bad_settings_are_usage_errors() {
        for config in [
            Config { generator_channels: 0, ..tiny() },
            Config { discriminator_dropout: 1.0, ..tiny() },
            Config { content_weight: f64::NAN, ..tiny() },
        ] {
            assert!(PixelDa::new(config, &pictures(16)).err().unwrap().is_usage());
        }
    }
}
