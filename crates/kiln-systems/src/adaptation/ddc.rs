//! Tzeng et al., *Deep Domain Confusion: Maximizing for Domain Invariance*, 2014; Long et al., *Learning Transferable Features with
//! Deep Adaptation Networks*, 2015.
//!
//! A narrow layer in the classifier, whose means over source and target are drawn together. Objective (2014, equation 2):
//!
//! L = L_C(X_L, y) + λ MMD²(X_S, X_T)
//!
//! | paper | here |
//! |---|---|
//! | the adaptation layer, fc_adapt | `adaptation`, a [`Linear`] of `adaptation_width` |
//! | where it stands (§4.1) | after `place` hidden layers of the label head |
//! | MMD of the means (2014, equation 1) | `bandwidths = []` |
//! | MMD of several Gaussian kernels (2015, §3.1) | `bandwidths`, in mean squared distances |
//! | λ = 0.25 | `mmd_weight` |
//!
//! Both papers' networks were trained on ImageNet first, these are Ganin's for digits. Place and width are those whose MMD is the
//! smallest after training (2014, §4.1): `kiln compare RUNS --metrics mmd`.
//!
//! `kiln train ddc --data mnist,mnistm`

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::{Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::{Init, Linear, LinearConfig};
use kiln_train::{
    Abilities, Batch, Classify, DataConfig, Loss, OptimizerConfig, Phase, Pictures, Represent, Schedule, SizeRule,
    System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::dann::defaults;
use super::losses::{check_bandwidths, domains, label_loss, mmd, with_known};
use super::networks::{Extractor, Head, Hidden, NetworkConfig, Side, check_shape};
use crate::translation::two_way::check_weights;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// λ, the weight of MMD².
    pub mmd_weight: f64,
    /// Widths of Gaussian kernels, in mean squared distances of the batch's features; none: the distance of the means.
    pub bandwidths: Vec<f64>,
    /// Width of the adaptation layer.
    pub adaptation_width: usize,
    /// Hidden layers of the label head before the adaptation layer.
    pub place: usize,
    /// The classifier.
    #[serde(flatten)]
    pub network: NetworkConfig,
    /// The optimiser of all parts.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mmd_weight: 0.25,
            bandwidths: vec![0.25, 0.5, 1.0, 2.0, 4.0],
            adaptation_width: 64,
            place: 1,
            network: NetworkConfig::default(),
            optimizer: OptimizerConfig::sgd(0.01, 0.9).schedule(Schedule::InverseDecay),
        }
    }
}

/// The classifier with a narrow layer in it.
#[derive(Module, Debug)]
pub struct Networks {
    /// Makes features.
    pub extractor: Extractor,
    /// Hidden layers before the adaptation layer.
    pub before: Hidden,
    /// The adaptation layer.
    pub adaptation: Linear,
    /// The layers after it.
    pub labels: Head,
}

/// The system.
pub struct Ddc {
    config: Config,
    pictures: Pictures,
}

impl System for Ddc {
    const ID: &'static str = "ddc";
    const PAPER: &'static str = "Tzeng et al.: Deep Domain Confusion: Maximizing for Domain Invariance, 2014";
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
        let hidden = config.network.label_hidden.len();
        refuse_if!(config.place > hidden, "model.place = {}: the label head has {hidden} hidden layers", config.place);
        refuse_if!(config.adaptation_width == 0, "model.adaptation_width must be at least 1");
        check_bandwidths(&config.bandwidths)?;
        check_weights(&[("mmd_weight", config.mmd_weight)])?;
        Ok(Self { config, pictures: pictures.clone() })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let Config { network, place, adaptation_width: width, .. } = &self.config;
        let features = network.features(self.pictures.shape);
        let (before, after) = network.label_hidden.split_at(*place);
        Networks {
            extractor: network.extractor(self.pictures.shape[0], false, init),
            before: Hidden::new(features, before, init),
            adaptation: LinearConfig::new(before.last().copied().unwrap_or(features), *width).init(init),
            labels: Head::new(*width, after, self.pictures.classes.len(), init),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let all = ["extractor", "before", "adaptation", "labels"];
        vec![Phase::new("classifier", &all, self.config.optimizer.clone(), |s, n, b| s.loss(n, b).map(Some))]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { classify: Some(self), represent: Some(self), ..Abilities::default() }
    }
}

impl Networks {
    /// What the adaptation layer makes of features.
    fn adapted(&self, features: Tensor<2>) -> Tensor<2> {
        self.adaptation.forward(self.before.forward(features))
    }
}

impl Ddc {
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let [source, target] = domains(batch, Self::ID)?;
        let features = networks.extractor.both(source.images.clone(), target.images.clone());
        let [of_source, of_target] = features.map(|features| networks.adapted(features));
        let apart = mmd(of_source.clone(), of_target, &self.config.bandwidths);
        let loss = label_loss(networks.labels.forward(of_source), batch.labels()?);
        with_known(loss.plus("mmd", self.config.mmd_weight, apart), batch, |images| {
            networks.labels.forward(networks.adapted(networks.extractor.forward(images, Side::Target)))
        })
    }

    fn seen(&self, networks: &Networks, images: Tensor<4>, side: Side) -> Result<Tensor<2>> {
        check_shape(&images, &self.pictures, Self::ID)?;
        Ok(networks.adapted(networks.extractor.forward(images, side)))
    }
}

impl Classify<Networks> for Ddc {
    fn classify(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        Ok(networks.labels.forward(self.seen(networks, images, Side::Target)?))
    }

    fn classify_source(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        Ok(networks.labels.forward(self.seen(networks, images, Side::Source)?))
    }
}

/// The adaptation layer.
impl Represent<Networks> for Ddc {
    fn represent(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        self.seen(networks, images, Side::Target)
    }

    fn represent_source(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        self.seen(networks, images, Side::Source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adaptation::testing::{fit, pictures, term, tiny_network};

    fn tiny() -> Config {
        Config {
            adaptation_width: 8,
            network: tiny_network(),
            optimizer: OptimizerConfig::adam(3e-3),
            ..Config::default()
        }
    }

    fn new(config: Config) -> Ddc {
        Ddc::new(config, &pictures(16)).unwrap()
    }

    #[test]
    fn fits_one_batch_and_brings_the_domains_together() {
        for place in 0..3 {
            for bandwidths in [Vec::new(), Config::default().bandwidths] {
                let log = |mmd_weight: f64| {
                    let config = Config { place, bandwidths: bandwidths.clone(), mmd_weight, ..tiny() };
                    fit(new(config), false, 200).pop().unwrap()
                };
                let (with, without) = (log(0.25), log(0.0));
                assert!(term(&with, "label_loss") < 0.4, "{place}: {with:?}");
                assert!(term(&with, "mmd") < 0.7 * term(&without, "mmd"), "{place}: {with:?}, without {without:?}");
            }
        }
    }

    #[test]
    fn labels_of_the_target_change_nothing() {
        assert_eq!(fit(new(tiny()), false, 3), fit(new(tiny()), true, 3));
    }

    #[test]
    fn bad_settings_are_usage_errors() {
        for config in [
            Config { place: 3, ..tiny() },
            Config { adaptation_width: 0, ..tiny() },
            Config { bandwidths: vec![1.0, 0.0], ..tiny() },
            Config { mmd_weight: f64::NAN, ..tiny() },
        ] {
            assert!(Ddc::new(config, &pictures(16)).err().unwrap().is_usage());
        }
    }
}
