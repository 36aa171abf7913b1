//! Ganin & Lempitsky, *Unsupervised Domain Adaptation by Backpropagation*, 2015; Ganin et al.,
//! *Domain-Adversarial Training of Neural Networks*, 2016.
//!
//! A classifier that works on an unlabelled target because its features do not reveal whether an image comes
//! from the target or from the labelled source. Objective (2015, equation 1), at the saddle point of
//!
//! E(θ_f, θ_y, θ_d) = Σ_source L_y(G_y(G_f(x)), y) − λ Σ_both L_d(G_d(G_f(x)), d):
//!
//! G_f and G_y minimise E, G_d maximises it. A gradient-reversal layer R_λ between G_f and G_d (the
//! identity forward, −λ·I backward; equations 16–18) turns this into minimisation of L_y + L_d.
//!
//! | paper | here |
//! |---|---|
//! | G_f(·; θ_f) | `extractor`, an [`Extractor`] |
//! | G_y(·; θ_y) | `labels`, a [`LabelHead`] |
//! | G_d(·; θ_d) | `domain`, a [`DomainHead`] |
//! | R_λ | [`reverse_gradient`] |
//! | λ_p = 2 / (1 + e^(−γp)) − 1 (equation 14) | [`adaptation_factor`] |
//! | γ = 10 | `gamma` |
//! | μ_p = μ₀ / (1 + 10p)^0.75 (equation 15) | `optimizer`: SGD with [`Schedule::InverseDecay`] |
//! | p, the progress from 0 to 1 | [`Batch::progress`] |
//!
//! `kiln train dann --data mnist,mnistm`; its lower and upper bounds with `--set model.mode=source-only` and
//! `--set model.mode=target-only`.

use burn::module::Module;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Int, Tensor};
use kiln_core::{Error, Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::loss::{binary_cross_entropy_to, cross_entropy, reverse_gradient};
use kiln_nn::{Activation, BatchNorm2d, Conv2d, Conv2dConfig, Init, Linear, LinearConfig, activate};
use kiln_train::{
    Abilities, Batch, Classify, DataConfig, Loss, OptimizerConfig, Phase, Pictures, Represent, Schedule, SizeRule,
    System, TrainConfig,
};
use serde::{Deserialize, Serialize};

/// What the classifier learns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Labelled source, unlabelled target, domain-adversarial features.
    Dann,
    /// The labelled source alone: the lower bound.
    SourceOnly,
    /// The target with its labels: the upper bound.
    TargetOnly,
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// `dann`, `source-only` or `target-only`.
    pub mode: Mode,
    /// γ: how fast λ rises to its full value.
    pub gamma: f64,
    /// The value λ rises to.
    pub lambda: f64,
    /// Channels of the two 5×5 convolutions.
    pub channels: [usize; 2],
    /// Zero padding of each convolution, in pixels.
    pub padding: usize,
    /// Batch norm after each convolution, with separate statistics for source and target while training; not in the paper.
    pub batch_norm: bool,
    /// Widths of the label head's two hidden layers.
    pub label_hidden: [usize; 2],
    /// Width of the domain head's hidden layer.
    pub domain_hidden: usize,
    /// Subtracted from every pixel; about the mean of source and target.
    pub mean: f64,
    /// The optimiser of all three parts.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Dann,
            gamma: 10.0,
            lambda: 1.0,
            channels: [32, 48],
            padding: 0,
            batch_norm: false,
            label_hidden: [100, 100],
            domain_hidden: 100,
            mean: -0.4,
            optimizer: OptimizerConfig::sgd(0.01, 0.9).schedule(Schedule::InverseDecay),
        }
    }
}

/// The convolutions' window.
const KERNEL: usize = 5;

/// λ_p = 2 / (1 + exp(−γp)) − 1: from 0, where the domain head knows nothing yet, to 1.
pub fn adaptation_factor(progress: f64, gamma: f64) -> f64 {
    2.0 / (1.0 + (-gamma * progress).exp()) - 1.0
}

/// The three parts.
#[derive(Module, Debug)]
pub struct Networks {
    /// G_f.
    pub extractor: Extractor,
    /// G_y.
    pub labels: LabelHead,
    /// G_d.
    pub domain: DomainHead,
}

/// conv 5×5 – ReLU – pool 2×2, twice (2016, figure 4a).
#[derive(Module, Debug)]
pub struct Extractor {
    conv1: Conv2d,
    conv2: Conv2d,
    norm1: Option<BatchNorm2d>,
    norm2: Option<BatchNorm2d>,
    #[module(skip)]
    mean: f64,
}

impl Extractor {
    /// # Shapes
    /// `[n, c, h, w]` → `[n, features]`
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let stage = |conv: &Conv2d, norm: &Option<BatchNorm2d>, x: Tensor<4>| {
            let x = conv.forward(x);
            let x = match norm {
                Some(norm) => norm.forward(x, Activation::Relu),
                None => activate(x, Activation::Relu),
            };
            max_pool2d(x, MaxPoolOptions::new([2, 2]))
        };
        let x = stage(&self.conv1, &self.norm1, images - self.mean);
        let x = stage(&self.conv2, &self.norm2, x);
        let [n, c, h, w] = x.dims();
        x.reshape([n, c * h * w])
    }
}

/// Two hidden layers and the logits of the classes.
#[derive(Module, Debug)]
pub struct LabelHead {
    fc1: Linear,
    fc2: Linear,
    logits: Linear,
}

impl LabelHead {
    /// # Shapes
    /// `[n, features]` → [n, label_hidden`[1]`]
    pub fn hidden(&self, features: Tensor<2>) -> Tensor<2> {
        relu(self.fc2.forward(relu(self.fc1.forward(features))))
    }

    /// # Shapes
    /// `[n, features]` → `[n, classes]`
    pub fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        self.logits.forward(self.hidden(features))
    }
}

/// One hidden layer and the logit of "target".
#[derive(Module, Debug)]
pub struct DomainHead {
    fc: Linear,
    logit: Linear,
}

impl DomainHead {
    /// # Shapes
    /// `[n, features]` → `[n, 1]`
    pub fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        self.logit.forward(relu(self.fc.forward(features)))
    }
}

/// L_d, the binary cross-entropies of both halves: −E_source log(1 − σ(G_d)) − E_target log σ(G_d), each
/// half a mean of its own (2016, equation 9).
///
/// # Shapes
/// logits `[n, 1]`, `[m, 1]` → `[1]`
pub fn domain_loss(source: Tensor<2>, target: Tensor<2>) -> Tensor<1> {
    binary_cross_entropy_to(source, 0.0) + binary_cross_entropy_to(target, 1.0)
}

/// The share of both halves whose domain is recognised; ½ when the features do not show it.
fn domain_accuracy(source: Tensor<2>, target: Tensor<2>) -> Tensor<1> {
    (source.detach().lower_equal_elem(0.0).float().mean() + target.detach().greater_elem(0.0).float().mean()) * 0.5
}

/// The share of logits whose largest is the label's.
fn accuracy(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    let n = labels.dims()[0];
    logits.detach().argmax(1).reshape([n]).equal(labels).float().mean()
}

/// The system.
pub struct Dann {
    config: Config,
    pictures: Pictures,
}

impl System for Dann {
    const ID: &'static str = "dann";
    const PAPER: &'static str = "Ganin et al.: Domain-Adversarial Training of Neural Networks, 2016";
    const DATA: DataKind = DataKind::SourceTarget;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        let data = DataConfig { set: "mnist,mnistm".into(), size: 28.into(), channels: 3, ..DataConfig::default() };
        let train = TrainConfig {
            batch: 64,
            images: 600_000,
            ema_half_life: 0.0,
            checkpoint_every: 60_000,
            preview_every: 0,
            ..TrainConfig::default()
        };
        (data, train)
    }

    fn sizes(config: &Config) -> SizeRule {
        // Without padding 16 pixels leave one.
        let min = (1..16).find(|&side| pooled(side, config.padding) > 0).unwrap_or(16);
        SizeRule { because: format!("model.padding = {}", config.padding), ..SizeRule::any() }.at_least(min)
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        refuse_if!(pictures.classes.len() < 2, "dann needs a source of at least two classes");
        let sizes = [&config.channels[..], &config.label_hidden, &[config.domain_hidden]].concat();
        refuse_if!(sizes.contains(&0), "model.channels, model.label_hidden and model.domain_hidden must be at least 1");
        refuse_if!(
            config.gamma.is_nan() || config.gamma <= 0.0 || config.lambda.is_nan() || config.lambda < 0.0,
            "model.gamma must be above 0 and model.lambda not below 0"
        );
        Self::sizes(&config).check(pictures.shape)?;
        Ok(Self { config, pictures: pictures.clone() })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let Config { channels: [first, second], label_hidden: [h1, h2], .. } = self.config;
        let [channels, height, width] = self.pictures.shape;
        let features = second * pooled(height, self.config.padding) * pooled(width, self.config.padding);
        let padding = self.config.padding;
        let conv = |i, o, init: &mut Init| Conv2dConfig { padding, ..Conv2dConfig::new(i, o, KERNEL) }.init(init);
        Networks {
            extractor: Extractor {
                conv1: conv(channels, first, init),
                conv2: conv(first, second, init),
                norm1: self.config.batch_norm.then(|| BatchNorm2d::new(first, init)),
                norm2: self.config.batch_norm.then(|| BatchNorm2d::new(second, init)),
                mean: self.config.mean,
            },
            labels: LabelHead {
                fc1: LinearConfig::new(features, h1).init(init),
                fc2: LinearConfig::new(h1, h2).init(init),
                logits: LinearConfig::new(h2, self.pictures.classes.len()).init(init),
            },
            domain: DomainHead {
                fc: LinearConfig::new(features, self.config.domain_hidden).init(init),
                logit: LinearConfig::new(self.config.domain_hidden, 1).init(init),
            },
        }
    }

    /// One phase for all: the reversal layer makes the saddle point a descent.
    fn phases(&self) -> Vec<Phase<Self>> {
        let trains: &[&str] = match self.config.mode {
            Mode::Dann => &["extractor", "labels", "domain"],
            Mode::SourceOnly | Mode::TargetOnly => &["extractor", "labels"],
        };
        vec![Phase::new("classifier", trains, self.config.optimizer.clone(), |s, n, b| s.loss(n, b).map(Some))]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { classify: Some(self), represent: Some(self), ..Abilities::default() }
    }
}

/// L_y, cross-entropy, with the accuracy beside it.
fn label_loss(logits: Tensor<2>, labels: Tensor<1, Int>) -> Loss {
    let right = accuracy(logits.clone(), labels.clone());
    Loss::new("label_loss", cross_entropy(logits, labels)).report("label_accuracy", right)
}

/// The side after both convolutions and poolings; 0 if they do not fit.
fn pooled(side: usize, padding: usize) -> usize {
    (0..2).fold(side, |side, _| (side + 2 * padding).saturating_sub(KERNEL - 1) / 2)
}

impl Dann {
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let [source, target] = batch.domains.as_slice() else {
            return Err(Error::usage("dann wants two sets, such as --data mnist,mnistm"));
        };
        match self.config.mode {
            Mode::SourceOnly => {
                let logits = networks.labels.forward(networks.extractor.forward(source.images.clone()));
                Ok(label_loss(logits, batch.labels()?))
            }
            Mode::TargetOnly => {
                let labels = target.labels.clone();
                let labels =
                    labels.ok_or_else(|| Error::usage("model.mode = \"target-only\" needs a labelled target"))?;
                let classes = self.pictures.classes.len();
                if target.host_labels.iter().flatten().any(|&l| l as usize >= classes) {
                    return Err(Error::usage(format!(
                        "model.mode = \"target-only\": the target has more classes than the source's {classes}"
                    )));
                }
                let logits = networks.labels.forward(networks.extractor.forward(target.images.clone()));
                Ok(label_loss(logits, labels))
            }
            Mode::Dann => {
                let [n, m] = [source.images.dims()[0], target.images.dims()[0]];
                let extractor = &networks.extractor;
                let features = if self.config.batch_norm {
                    let apart = [source, target].map(|domain| extractor.forward(domain.images.clone()));
                    Tensor::cat(apart.to_vec(), 0)
                } else {
                    extractor.forward(Tensor::cat(vec![source.images.clone(), target.images.clone()], 0))
                };
                let logits = networks.labels.forward(features.clone().narrow(0, 0, n));

                let lambda = self.config.lambda * adaptation_factor(batch.progress(), self.config.gamma);
                let domain = networks.domain.forward(reverse_gradient(features, lambda));
                let (of_source, of_target) = (domain.clone().narrow(0, 0, n), domain.narrow(0, n, m));
                Ok(label_loss(logits, batch.labels()?)
                    .plus("domain_loss", 1.0, domain_loss(of_source.clone(), of_target.clone()))
                    .report("domain_accuracy", domain_accuracy(of_source, of_target)))
            }
        }
    }

    fn check(&self, images: &Tensor<4>) -> Result<()> {
        let [_, c, h, w] = images.dims();
        if [c, h, w] == self.pictures.shape {
            return Ok(());
        }
        let [channels, height, width] = self.pictures.shape;
        Err(Error::usage(format!(
            "dann was trained on {width} x {height} pictures of {channels} channels, not {w} x {h} of {c}"
        )))
    }
}

impl Classify<Networks> for Dann {
    fn classify(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        self.check(&images)?;
        Ok(networks.labels.forward(networks.extractor.forward(images)))
    }
}

/// The last hidden layer.
impl Represent<Networks> for Dann {
    fn represent(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        self.check(&images)?;
        Ok(networks.labels.hidden(networks.extractor.forward(images)))
    }
}

fn relu(x: Tensor<2>) -> Tensor<2> {
    activate(x, Activation::Relu)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;
    use kiln_core::random::Key;
    use kiln_data::{HostBatch, Part};
    use kiln_nn::tensor::{from_values, to_values};
    use kiln_train::optim::Optimizer;
    use kiln_train::params;
    use safetensors::SafeTensors;

    use super::*;

    fn fixture(file: &str, name: &str) -> Vec<u8> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/fixtures").join(file);
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        file.tensor(name).unwrap().data().to_vec()
    }

    /// tests/reference/systems.py.
    #[test]
    fn schedules_equal_the_reference() {
        let get = |name: &str| -> Vec<f64> {
            let bytes = fixture("systems.safetensors", &format!("dann.{name}"));
            bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
        };
        let config = Config::default();
        for (i, p) in get("progress").into_iter().enumerate() {
            let lambda = adaptation_factor(p, config.gamma);
            assert!((lambda - get("lambda")[i]).abs() < 1e-12);
            let factor = config.optimizer.schedule.factor((p * 1000.0) as u64, 1000, config.optimizer.warmup);
            assert!((config.optimizer.learning_rate * factor - get("learning_rate")[i]).abs() < 1e-12);
        }
        assert_eq!(config.optimizer.learning_rate, get("first_learning_rate")[0]);
    }

    /// tests/reference/layers.py: the engine's pooling, which nothing else of Kiln uses.
    #[test]
    fn pooling_and_its_gradient_equal_pytorch() {
        let device = Device::flex().autodiff();
        let get = |name: &str| -> Vec<f32> {
            let bytes = fixture("layers.safetensors", &format!("max_pool2d.{name}"));
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        };
        let input = from_values(get("input"), [2, 3, 4, 7], &device).require_grad();
        let output = max_pool2d(input.clone(), MaxPoolOptions::new([2, 2]));
        assert_eq!(to_values(output.clone()), get("output"));
        let gradients = (output * from_values(get("grad_output"), [2, 3, 2, 3], &device)).sum().backward();
        assert_eq!(to_values(input.grad(&gradients).unwrap()), get("grad_input"));
    }

    fn tiny(mode: Mode) -> Config {
        Config {
            mode,
            channels: [4, 8],
            label_hidden: [16, 16],
            domain_hidden: 16,
            mean: 0.0,
            optimizer: OptimizerConfig::sgd(0.05, 0.9),
            ..Config::default()
        }
    }

    fn pictures(side: usize) -> Pictures {
        Pictures::new([1, side, side], vec!["bright".into(), "dark".into()])
    }

    /// Bright and dark pictures; the target's are turned around, and so its labels differ.
    fn batch(labels: bool, device: &Device) -> Batch {
        let shape = [8, 1, 16, 16];
        let part = |sign: f32, labels: Option<Vec<u32>>| {
            let noise = Key::new(3).uniform(0..8, 256);
            let shade = |i: usize| if (i / 256).is_multiple_of(2) { sign } else { -sign };
            let values = noise.iter().enumerate().map(|(i, v)| 0.5 * shade(i) + 0.5 * (v - 0.5)).collect();
            Part { shape, values, labels, captions: vec![None; 8], indices: (0..8).collect(), ..Part::default() }
        };
        let truth: Vec<u32> = (0..8).map(|i| i % 2).collect();
        let parts = vec![part(1.0, Some(truth.clone())), part(-1.0, labels.then_some(truth))];
        Batch::new(HostBatch { start: 500, parts }, 1_000, Key::new(0), device)
    }

    fn fit(mode: Mode, labels: bool, steps: usize) -> Vec<Vec<(&'static str, f32)>> {
        let device = Device::flex().autodiff();
        let mut system = Dann::new(tiny(mode), &pictures(16)).unwrap();
        let mut networks = system.networks(&mut Init::new(&device, 0));
        let phase = system.phases().remove(0);
        let mut optimizer = Optimizer::new(phase.optimizer);
        networks = params::set_trainable(networks, &phase.trains);
        let mut log = Vec::new();
        for _ in 0..steps {
            let loss = system.loss(&networks, &batch(labels, &device)).unwrap();
            log.push(loss.terms.into_iter().map(|(name, value)| (name, to_values(value)[0])).collect());
            let mut gradients = loss.total.backward();
            let gradients = params::take_gradients(&networks, &mut gradients);
            networks = optimizer.step(networks, gradients, 1.0, 1.0);
        }
        log
    }

    #[test]
    fn every_mode_fits_one_batch() {
        for (mode, labels) in [(Mode::Dann, false), (Mode::SourceOnly, false), (Mode::TargetOnly, true)] {
            let log = fit(mode, labels, 40);
            let (first, last) = (log[0][0], log[39][0]);
            assert_eq!(first.0, "label_loss");
            assert!(last.1 < 0.5 * first.1, "{mode:?}: {first:?} -> {last:?}");
        }
    }

    #[test]
    fn labels_of_the_target_change_nothing() {
        for mode in [Mode::Dann, Mode::SourceOnly] {
            assert_eq!(fit(mode, false, 3), fit(mode, true, 3));
        }
    }

    #[test]
    fn the_extractor_ascends_the_domain_loss() {
        let device = Device::flex().autodiff();
        let system = Dann::new(tiny(Mode::Dann), &pictures(16)).unwrap();
        let networks = system.networks(&mut Init::new(&device, 0));
        let batch = batch(false, &device);
        let gradient = |lambda: Option<f64>| {
            let judged = |images: &Tensor<4>| {
                let features = networks.extractor.forward(images.clone());
                networks.domain.forward(match lambda {
                    Some(lambda) => reverse_gradient(features, lambda),
                    None => features,
                })
            };
            let loss = domain_loss(judged(&batch.domains[0].images), judged(&batch.domains[1].images));
            params::take_gradients(&networks, &mut loss.backward())
        };
        let (plain, reversed) = (gradient(None), gradient(Some(0.3)));
        assert!(plain.keys().any(|k| k.starts_with("domain")) && plain.keys().any(|k| k.starts_with("extractor")));
        for (path, plain) in plain {
            let factor = if path.starts_with("extractor") { -0.3 } else { 1.0 };
            for (got, want) in to_values(reversed[&path].clone()).into_iter().zip(to_values(plain * factor)) {
                assert!((got - want).abs() < 1e-6, "{path}: {got} {want}");
            }
        }
    }

    #[test]
    fn classifies_and_refuses_another_shape() {
        let device = Device::flex();
        let system = Dann::new(tiny(Mode::Dann), &pictures(16)).unwrap();
        let networks = system.networks(&mut Init::new(&device, 0));
        let zeros = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &device);
        assert_eq!(system.classify(&networks, zeros([3, 1, 16, 16])).unwrap().dims(), [3, 2]);
        assert_eq!(system.represent(&networks, zeros([3, 1, 16, 16])).unwrap().dims(), [3, 16]);
        assert!(system.classify(&networks, zeros([3, 3, 16, 16])).unwrap_err().is_usage());
    }

    #[test]
    fn bad_settings_are_usage_errors() {
        let unlabelled = Pictures::new([1, 16, 16], Vec::new());
        for (config, pictures) in [
            (tiny(Mode::Dann), unlabelled),
            (tiny(Mode::Dann), pictures(12)),
            (Config { channels: [4, 0], ..tiny(Mode::Dann) }, pictures(16)),
            (Config { gamma: 0.0, ..tiny(Mode::Dann) }, pictures(16)),
            (Config { lambda: -1.0, ..tiny(Mode::Dann) }, pictures(16)),
        ] {
            assert!(Dann::new(config, &pictures).err().unwrap().is_usage());
        }
        assert!(Dann::new(Config { padding: 2, ..tiny(Mode::Dann) }, &pictures(8)).is_ok());
        let device = Device::flex().autodiff();
        let mut system = Dann::new(tiny(Mode::TargetOnly), &pictures(16)).unwrap();
        let networks = system.networks(&mut Init::new(&device, 0));
        assert!(system.loss(&networks, &batch(false, &device)).err().unwrap().is_usage());
    }

    #[test]
    fn the_recipe_holds_known_settings() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/dann/mnist-mnistm.toml");
        let changes = std::fs::read_to_string(path).unwrap().parse().unwrap();
        let mut table = kiln_train::recipe::defaults::<Dann>().unwrap();
        kiln_train::recipe::merge(&mut table, &changes, "recipe").unwrap();
        kiln_train::recipe::typed::<Dann>(table, "recipe").unwrap();
    }
}
