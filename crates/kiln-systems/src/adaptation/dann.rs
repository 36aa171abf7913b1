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
//! | G_f(·; θ_f), G_y(·; θ_y) | `classifier`, a [`Classifier`] of an extractor and a label head |
//! | G_d(·; θ_d) | `domain`, a [`Head`] |
//! | R_λ | [`reverse_gradient`] |
//! | λ_p = 2 / (1 + e^(−γp)) − 1 (equation 14) | [`adaptation_factor`] |
//! | γ = 10 | `gamma` |
//! | μ_p = μ₀ / (1 + 10p)^0.75 (equation 15) | `optimizer`: SGD with [`Schedule::InverseDecay`] |
//! | p, the progress from 0 to 1 | [`Batch::progress`] |
//!
//! `kiln train dann --data mnist,mnistm`; its lower and upper bounds with `--set model.mode=source-only` and
//! `--set model.mode=target-only`.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::{Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::loss::reverse_gradient;
use kiln_train::{
    Abilities, Batch, Classify, DataConfig, Loss, OptimizerConfig, Phase, Pictures, Represent, Run, Schedule, SizeRule,
    System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::losses::{domain_accuracy, domain_loss, domains, label_loss, target_labels, with_known};
use super::networks::{Classifier, Head, NetworkConfig, Side, check_shape};

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
    /// The classifier and the domain head.
    #[serde(flatten)]
    pub network: NetworkConfig,
    /// The optimiser of all three parts.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Dann,
            gamma: 10.0,
            lambda: 1.0,
            network: NetworkConfig::default(),
            optimizer: OptimizerConfig::sgd(0.01, 0.9).schedule(Schedule::InverseDecay),
        }
    }
}

/// λ_p = 2 / (1 + exp(−γp)) − 1: from 0, where the domain head knows nothing yet, to 1.
pub fn adaptation_factor(progress: f64, gamma: f64) -> f64 {
    2.0 / (1.0 + (-gamma * progress).exp()) - 1.0
}

/// The three parts.
#[derive(Module, Debug)]
pub struct Networks {
    /// G_f and G_y.
    pub classifier: Classifier,
    /// G_d.
    pub domain: Head,
}

/// The system.
pub struct Dann {
    config: Config,
    pictures: Pictures,
}

/// Defaults of the systems that classify digits of two domains: 28 pixels in colour, batches of 64 of each.
pub fn defaults(images: u64) -> (DataConfig, TrainConfig) {
    let data = DataConfig { set: "mnist,mnistm".into(), size: 28.into(), channels: 3, ..DataConfig::default() };
    let train = TrainConfig {
        batch: 64,
        images,
        ema_half_life: 0.0,
        checkpoint_every: 60_000,
        preview_every: 0,
        ..TrainConfig::default()
    };
    (data, train)
}

/// The settings of a run of `dann`.
///
/// # Errors
/// If it cannot be opened, or is of another system.
pub fn settings_of(run: &str) -> Result<Config> {
    let run = Run::open(Path::new(run))?;
    run.check_system(Dann::ID)?;
    Ok(run.recipe_of::<Dann>()?.model)
}

impl System for Dann {
    const ID: &'static str = "dann";
    const PAPER: &'static str = "Ganin et al.: Domain-Adversarial Training of Neural Networks, 2016";
    const DATA: DataKind = DataKind::SourceTarget;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        defaults(600_000)
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
        refuse_if!(
            config.gamma.is_nan() || config.gamma <= 0.0 || config.lambda.is_nan() || config.lambda < 0.0,
            "model.gamma must be above 0 and model.lambda not below 0"
        );
        Ok(Self { config, pictures: pictures.clone() })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let network = &self.config.network;
        Networks {
            classifier: network.classifier(&self.pictures, init),
            domain: network.domain_head(network.features(self.pictures.shape), init),
        }
    }

    /// One phase for all: the reversal layer makes the saddle point a descent.
    fn phases(&self) -> Vec<Phase<Self>> {
        let trains: &[&str] = match self.config.mode {
            Mode::Dann => &["classifier", "domain"],
            Mode::SourceOnly | Mode::TargetOnly => &["classifier"],
        };
        vec![Phase::new("classifier", trains, self.config.optimizer.clone(), |s, n, b| s.loss(n, b).map(Some))]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { classify: Some(self), represent: Some(self), ..Abilities::default() }
    }
}

impl Dann {
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let [source, target] = domains(batch, Self::ID)?;
        let classifier = &networks.classifier;
        match self.config.mode {
            Mode::SourceOnly => {
                let loss = label_loss(classifier.forward(source.images.clone(), Side::Source), batch.labels()?);
                with_known(loss, batch, |images| classifier.forward(images, Side::Source))
            }
            Mode::TargetOnly => {
                let classes = self.pictures.classes.len();
                let labels = target_labels(target, classes, "model.mode = \"target-only\"")?;
                Ok(label_loss(classifier.forward(target.images.clone(), Side::Target), labels))
            }
            Mode::Dann => {
                let features = classifier.extractor.both(source.images.clone(), target.images.clone());
                let logits = classifier.labels.forward(features[0].clone());
                let lambda = self.config.lambda * adaptation_factor(batch.progress(), self.config.gamma);
                let [of_source, of_target] =
                    features.map(|features| networks.domain.forward(reverse_gradient(features, lambda)));
                let loss = label_loss(logits, batch.labels()?)
                    .plus("domain_loss", 1.0, domain_loss(of_source.clone(), of_target.clone()))
                    .report("domain_accuracy", domain_accuracy(of_source, of_target));
                with_known(loss, batch, |images| classifier.forward(images, Side::Target))
            }
        }
    }

    /// The side whose statistics fit the pictures that the run is for.
    fn side(&self) -> Side {
        if self.config.mode == Mode::SourceOnly { Side::Source } else { Side::Target }
    }
}

impl Classify<Networks> for Dann {
    fn classify(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_shape(&images, &self.pictures, Self::ID)?;
        Ok(networks.classifier.forward(images, self.side()))
    }

    fn classify_source(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_shape(&images, &self.pictures, Self::ID)?;
        Ok(networks.classifier.forward(images, Side::Source))
    }
}

/// The last hidden layer.
impl Represent<Networks> for Dann {
    fn represent(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_shape(&images, &self.pictures, Self::ID)?;
        Ok(networks.classifier.hidden(images, self.side()))
    }

    fn represent_source(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_shape(&images, &self.pictures, Self::ID)?;
        Ok(networks.classifier.hidden(images, Side::Source))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;
    use kiln_train::params;

    use super::*;
    use crate::adaptation::networks::Layers;
    use crate::adaptation::testing::{batch, batch_with_known, fit, pictures, term, tiny_network};
    use crate::testing::Fixtures;

    /// tests/reference/systems.py.
    #[test]
    fn schedules_equal_the_reference() {
        let fixtures = Fixtures::open("systems");
        let get = |name: &str| -> Vec<f64> { fixtures.values(&format!("dann.{name}")).1 };
        let config = Config::default();
        for (i, p) in get("progress").into_iter().enumerate() {
            let lambda = adaptation_factor(p, config.gamma);
            assert!((lambda - get("lambda")[i]).abs() < 1e-12);
            let factor = config.optimizer.schedule.factor((p * 1000.0) as u64, 1000, config.optimizer.warmup);
            assert!((config.optimizer.learning_rate * factor - get("learning_rate")[i]).abs() < 1e-12);
        }
        assert_eq!(config.optimizer.learning_rate, get("first_learning_rate")[0]);
    }

    fn tiny(mode: Mode) -> Config {
        Config { mode, network: tiny_network(), optimizer: OptimizerConfig::sgd(0.05, 0.9), ..Config::default() }
    }

    fn with(change: impl FnOnce(&mut NetworkConfig)) -> Config {
        let mut config = tiny(Mode::Dann);
        change(&mut config.network);
        config
    }

    fn new(config: Config) -> Dann {
        Dann::new(config, &pictures(16)).unwrap()
    }

    #[test]
    fn every_mode_fits_one_batch() {
        let normed = with(|n| n.batch_norm = true);
        for (config, labels) in [
            (tiny(Mode::Dann), false),
            (normed, false),
            (tiny(Mode::SourceOnly), false),
            (tiny(Mode::TargetOnly), true),
        ] {
            let log = fit(new(config.clone()), labels, 40);
            let [first, last] = [0, 39].map(|step: usize| term(&log[step], "label_loss"));
            assert!(last < 0.5 * first, "{config:?}: {first:?} -> {last:?}");
        }
    }

    #[test]
    fn labels_of_the_target_change_nothing() {
        for mode in [Mode::Dann, Mode::SourceOnly] {
            assert_eq!(fit(new(tiny(mode)), false, 3), fit(new(tiny(mode)), true, 3));
        }
    }

    #[test]
    fn known_labels_of_the_target_are_learned() {
        for mode in [Mode::Dann, Mode::SourceOnly] {
            let config = Config { optimizer: OptimizerConfig::adam(5e-3), ..tiny(mode) };
            let (log, _) = crate::testing::fit(new(config), 0, 200, batch_with_known);
            let [first, last] = [0, 199].map(|step: usize| term(&log[step], "target_label_loss"));
            assert!(last < 0.7 * first, "{mode:?}: {first} -> {last}");
        }
    }

    #[test]
    fn the_extractor_ascends_the_domain_loss() {
        let device = Device::flex().autodiff();
        let system = new(tiny(Mode::Dann));
        let networks = system.networks(&mut Init::new(&device, 0));
        let batch = batch(0, false, &device);
        let gradient = |lambda: Option<f64>| {
            let judged = |images: &Tensor<4>| {
                let features = networks.classifier.extractor.forward(images.clone(), Side::Target);
                networks.domain.forward(match lambda {
                    Some(lambda) => reverse_gradient(features, lambda),
                    None => features,
                })
            };
            let loss = domain_loss(judged(&batch.domains[0].images), judged(&batch.domains[1].images));
            params::take_gradients(&networks, &mut loss.backward())
        };
        let (plain, reversed) = (gradient(None), gradient(Some(0.3)));
        let extractor = |path: &str| path.starts_with("classifier.extractor");
        assert!(plain.keys().any(|k| k.starts_with("domain")) && plain.keys().any(|k| extractor(k)));
        for (path, plain) in plain {
            let factor = if extractor(&path) { -0.3 } else { 1.0 };
            for (got, want) in to_values(reversed[&path].clone()).into_iter().zip(to_values(plain * factor)) {
                assert!((got - want).abs() < 1e-6, "{path}: {got} {want}");
            }
        }
    }

    #[test]
    fn each_domain_is_judged_by_its_own_statistics() {
        use burn::module::Module;
        let device = Device::flex().autodiff();
        let logits = |config: Config| {
            let mut system = new(config);
            let networks = system.networks(&mut Init::new(&device, 0));
            for step in 0..20 {
                system.loss(&networks, &batch(step, false, &device)).unwrap();
            }
            let networks = networks.valid();
            let images = batch(0, false, &Device::flex()).domains[0].images.clone();
            [system.classify(&networks, images.clone()), system.classify_source(&networks, images)]
                .map(|logits| to_values(logits.unwrap()))
        };
        use crate::adaptation::networks::Statistics;
        let [target, source] = logits(with(|n| n.batch_norm = true));
        assert_ne!(target, source);
        let shared = |n: &mut NetworkConfig| (n.batch_norm, n.statistics) = (true, Statistics::Shared);
        let [target, source] = logits(with(shared));
        assert_eq!(target, source);
        let [target, source] = logits(Config { mode: Mode::SourceOnly, ..with(|n| n.batch_norm = true) });
        assert_eq!(target, source);
    }

    #[test]
    fn classifies_and_refuses_another_shape() {
        let device = Device::flex();
        let system = new(tiny(Mode::Dann));
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
            (with(|n| n.channels = vec![4, 0]), pictures(16)),
            (with(|n| n.channels = vec![4, 4, 4]), pictures(16)),
            (with(|n| n.layers = Layers::Svhn), pictures(16)),
            (Config { gamma: 0.0, ..tiny(Mode::Dann) }, pictures(16)),
            (Config { lambda: -1.0, ..tiny(Mode::Dann) }, pictures(16)),
        ] {
            assert!(Dann::new(config, &pictures).err().unwrap().is_usage());
        }
        assert!(Dann::new(with(|n| n.same_padding = true), &pictures(8)).is_ok());
        let device = Device::flex().autodiff();
        let mut system = new(tiny(Mode::TargetOnly));
        let networks = system.networks(&mut Init::new(&device, 0));
        assert!(system.loss(&networks, &batch(0, false, &device)).err().unwrap().is_usage());
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
