//! Tzeng, Hoffman, Saenko & Darrell, *Adversarial Discriminative Domain Adaptation*, 2017.
//!
//! A classifier trained on the source stays as it is. A copy of it learns to see target pictures so that a discriminator takes what it
//! makes of them for what the source's makes of source pictures; its labels for the discriminator are inverted, as a GAN's are.
//! Objective (equation 9):
//!
//! min_D    −E_source log D(M_s(x)) − E_target log (1 − D(M_t(x)))
//! min_M_t  −E_target log D(M_t(x))
//!
//! | paper, authors' code | here |
//! |---|---|
//! | M_s and C, trained first | `source`, of the run `model.source`: `dann` with `mode = "source-only"` |
//! | M_t, which begins as M_s; no weights are shared | `target` |
//! | what D sees, the outputs of the classifier (their code) | `adversary_sees = "logits"`; `hidden` is the layer before |
//! | D, two hidden layers of 500 and ReLU | `discriminator`, of `adversary_hidden` |
//! | Adam at 2·10⁻⁴, β₁ = 0.5, batches of 128 | `target_optimizer`, `discriminator_optimizer` |
//!
//! `kiln train dann --data A,B --set model.mode=source-only --out runs/source`, then
//! `kiln train adda --data A,B --set model.source=runs/source`.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::{Error, Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::loss::binary_cross_entropy_to;
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::{
    Abilities, Batch, Classify, DataConfig, InitFrom, Loss, OptimizerConfig, Phase, Pictures, Represent, SizeRule,
    System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::dann::{self, defaults};
use super::losses::{domain_accuracy, domain_loss, domains, with_known};
use super::networks::{Classifier, Head, NetworkConfig, Side, check_shape};

/// What the discriminator is shown of the classifiers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sees {
    /// The outputs before softmax.
    #[default]
    Logits,
    /// The last hidden layer.
    Hidden,
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The run of `dann` on the source alone that it starts from, which also says what the networks are; `random` starts from
    /// nothing, as a test may.
    pub source: String,
    /// `logits` or `hidden`.
    pub adversary_sees: Sees,
    /// Widths of the discriminator's hidden layers.
    pub adversary_hidden: Vec<usize>,
    /// Both classifiers.
    #[serde(flatten)]
    pub network: NetworkConfig,
    /// The optimiser of the target's classifier.
    pub target_optimizer: OptimizerConfig,
    /// The optimiser of the discriminator.
    pub discriminator_optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        let optimizer = OptimizerConfig::adam(2e-4).betas(0.5, 0.999);
        Self {
            source: String::new(),
            adversary_sees: Sees::Logits,
            adversary_hidden: vec![500, 500],
            network: NetworkConfig::default(),
            target_optimizer: optimizer.clone(),
            discriminator_optimizer: optimizer,
        }
    }
}

/// Both classifiers and the discriminator.
#[derive(Module, Debug)]
pub struct Networks {
    /// M_s and C; no phase trains it.
    pub source: Classifier,
    /// M_t and C.
    pub target: Classifier,
    /// D, whose output is the logit of "target".
    pub discriminator: Head,
}

/// The system.
pub struct Adda {
    config: Config,
    pictures: Pictures,
}

impl System for Adda {
    const ID: &'static str = "adda";
    const PAPER: &'static str = "Tzeng et al.: Adversarial Discriminative Domain Adaptation, 2017";
    const DATA: DataKind = DataKind::SourceTarget;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        let (data, train) = defaults(600_000);
        (data, TrainConfig { batch: 128, ..train })
    }

    fn settle(config: Config) -> Result<Config> {
        if config.source.is_empty() {
            return Err(Error::usage(
                "model.source: name the run of dann on the source alone that adda starts from, such as --set model.source=runs/source",
            ));
        }
        if config.source == InitFrom::RANDOM {
            return Ok(config);
        }
        Ok(Config { network: dann::settings_of(&config.source)?.network, ..config })
    }

    fn resolve(config: Config, _pictures: &Pictures) -> Config {
        Config { network: config.network.resolved(), ..config }
    }

    fn init_from(config: &Config) -> Vec<InitFrom<'_>> {
        InitFrom::named(&config.source, &[("classifier", "source"), ("classifier", "target")])
    }

    fn sizes(config: &Config) -> SizeRule {
        config.network.sizes()
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let config = Self::resolve(config, pictures);
        config.network.check(pictures, Self::ID)?;
        refuse_if!(config.adversary_hidden.contains(&0), "model.adversary_hidden must be at least 1");
        Ok(Self { config, pictures: pictures.clone() })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let network = &self.config.network;
        let seen = match self.config.adversary_sees {
            Sees::Logits => self.pictures.classes.len(),
            Sees::Hidden => {
                network.label_hidden.last().copied().unwrap_or_else(|| network.features(self.pictures.shape))
            }
        };
        Networks {
            source: network.classifier(&self.pictures, init),
            target: network.classifier(&self.pictures, init),
            discriminator: Head::new(seen, &self.config.adversary_hidden, 1, init),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let Config { target_optimizer, discriminator_optimizer, .. } = &self.config;
        vec![
            Phase::new("target", &["target"], target_optimizer.clone(), |s, n, b| s.mapping_loss(n, b).map(Some)),
            Phase::new("discriminator", &["discriminator"], discriminator_optimizer.clone(), |s, n, b| {
                s.discriminator_loss(n, b).map(Some)
            }),
        ]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { classify: Some(self), represent: Some(self), ..Abilities::default() }
    }
}

impl Adda {
    /// What the discriminator sees of a classifier's pictures.
    fn seen(&self, classifier: &Classifier, images: Tensor<4>, side: Side) -> Tensor<2> {
        match self.config.adversary_sees {
            Sees::Logits => classifier.forward(images, side),
            Sees::Hidden => classifier.hidden(images, side),
        }
    }

    fn mapping_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let [_, target] = domains(batch, Self::ID)?;
        let seen = self.seen(&networks.target, target.images.clone(), Side::Target);
        let loss = Loss::new("mapping_loss", binary_cross_entropy_to(networks.discriminator.forward(seen), 0.0));
        with_known(loss, batch, |images| networks.target.forward(images, Side::Target))
    }

    fn discriminator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let [source, target] = domains(batch, Self::ID)?;
        // As at the test, so that its running statistics stay too.
        let still = self.seen(&networks.source.valid(), source.images.clone().inner(), Side::Source);
        let of_source = from_values(to_values(still.clone()), still.dims(), batch.device());
        let of_target = self.seen(&networks.target, target.images.clone(), Side::Target).detach();
        let [of_source, of_target] = [of_source, of_target].map(|seen| networks.discriminator.forward(seen));
        Ok(Loss::new("domain_loss", domain_loss(of_source.clone(), of_target.clone()))
            .report("domain_accuracy", domain_accuracy(of_source, of_target)))
    }
}

impl Classify<Networks> for Adda {
    fn classify(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_shape(&images, &self.pictures, Self::ID)?;
        Ok(networks.target.forward(images, Side::Target))
    }

    fn classify_source(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_shape(&images, &self.pictures, Self::ID)?;
        Ok(networks.source.forward(images, Side::Source))
    }
}

/// The last hidden layer.
impl Represent<Networks> for Adda {
    fn represent(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_shape(&images, &self.pictures, Self::ID)?;
        Ok(networks.target.hidden(images, Side::Target))
    }

    fn represent_source(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_shape(&images, &self.pictures, Self::ID)?;
        Ok(networks.source.hidden(images, Side::Source))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_train::params;

    use super::*;
    use crate::adaptation::testing::{batch, fit, pictures, term, tiny_network};

    fn tiny() -> Config {
        let optimizer = OptimizerConfig::adam(2e-3).betas(0.5, 0.999);
        Config {
            adversary_hidden: vec![16],
            network: tiny_network(),
            target_optimizer: optimizer.clone(),
            discriminator_optimizer: optimizer,
            ..Config::default()
        }
    }

    fn new(config: Config) -> Adda {
        Adda::new(config, &pictures(16)).unwrap()
    }

    #[test]
    fn the_discriminator_learns_and_the_target_fools_it() {
        for adversary_sees in [Sees::Logits, Sees::Hidden] {
            let log = |target: f64, discriminator: f64| {
                let adam = |rate: f64| OptimizerConfig::adam(rate).betas(0.5, 0.999);
                let (target_optimizer, discriminator_optimizer) = (adam(target), adam(discriminator));
                fit(new(Config { adversary_sees, target_optimizer, discriminator_optimizer, ..tiny() }), false, 80)
            };
            for (log, name) in [(log(0.0, 1e-2), "domain_loss"), (log(1e-2, 0.0), "mapping_loss")] {
                let [first, last] = [0, 79].map(|step: usize| term(&log[step], name));
                assert!(last < 0.95 * first, "{adversary_sees:?} {name}: {first} -> {last}");
            }
        }
    }

    #[test]
    fn each_loss_moves_its_own_network_and_the_source_stays() {
        let device = Device::flex().autodiff();
        let mut system = new(tiny());
        let networks = system.networks(&mut Init::new(&device, 0));
        let batch = batch(0, false, &device);
        let moved = |loss: Loss, trains: &str| {
            let networks = params::set_trainable(networks.clone(), &[trains]);
            let found = params::take_gradients(&networks, &mut loss.total.backward());
            let changes = |path: &String| to_values(found[path].clone()).iter().any(|v| *v != 0.0);
            found.keys().filter(|path| changes(path)).cloned().collect::<Vec<_>>()
        };
        let trainable = |trains: &str| params::set_trainable(networks.clone(), &[trains]);
        let of_target = moved(system.mapping_loss(&trainable("target"), &batch).unwrap(), "target");
        assert!(!of_target.is_empty() && of_target.iter().all(|path| path.starts_with("target.")), "{of_target:?}");
        let of_d = moved(system.discriminator_loss(&trainable("discriminator"), &batch).unwrap(), "discriminator");
        assert!(!of_d.is_empty() && of_d.iter().all(|path| path.starts_with("discriminator.")), "{of_d:?}");
        assert!(system.phases().iter().all(|phase| !phase.trains.contains(&"source")));
    }

    #[test]
    fn a_run_to_start_from_is_needed() {
        let said = Adda::settle(Config::default()).unwrap_err();
        assert!(said.is_usage() && said.to_string().contains("model.source"), "{said}");
        assert!(Adda::new(Config { adversary_hidden: vec![0], ..tiny() }, &pictures(16)).err().unwrap().is_usage());
    }
}
