//! A small convolutional classifier. It is the default feature network of Kiln's Fréchet distance and
//! inception-style score, where the standard Inception weights are not available.
//!
//! conv 3×3 stride 2 – BN – ReLU three times, then a hidden layer of `features` and the logits.
//! Trained by cross-entropy on a labelled set.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::{Error, Result};
use kiln_data::DataKind;
use kiln_nn::loss::cross_entropy;
use kiln_nn::tensor::dropout;
use kiln_nn::{Activation, BatchNorm2d, Conv2d, Conv2dConfig, Init, Linear, LinearConfig, WeightInit, activate};
use kiln_train::ema::Buffers;
use kiln_train::{
    Abilities, Batch, Classify, DataConfig, Loss, OptimizerConfig, Phase, Pictures, Represent, Schedule, System,
    TrainConfig,
};
use serde::{Deserialize, Serialize};

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Channels of the first convolution; they double twice.
    pub channels: usize,
    /// Width of the hidden layer, whose outputs are the features.
    pub features: usize,
    /// Dropout probability before the logits.
    pub dropout: f64,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        let optimizer = OptimizerConfig::adam(2e-3).schedule(Schedule::Cosine);
        Self { channels: 32, features: 128, dropout: 0.25, optimizer }
    }
}

/// The one network.
#[derive(Module, Debug)]
pub struct Networks {
    /// Pictures to logits.
    pub classifier: Net,
}

/// See the [module page](self).
#[derive(Module, Debug)]
pub struct Net {
    convs: Vec<Conv2d>,
    norms: Vec<BatchNorm2d>,
    hidden: Linear,
    logits: Linear,
}

impl Net {
    /// # Shapes
    /// `[n, c, h, w]` → `[n, features]`
    fn features(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self
            .convs
            .iter()
            .zip(&self.norms)
            .fold(images, |x, (conv, norm)| norm.forward(conv.forward(x), Activation::Relu));
        let [n, c, h, w] = x.dims();
        activate(self.hidden.forward(x.reshape([n, c * h * w])), Activation::Relu)
    }
}

/// The system.
pub struct Classifier {
    config: Config,
    pictures: Pictures,
}

impl System for Classifier {
    const ID: &'static str = "classifier";
    const PAPER: &'static str = "a small convolutional classifier; the feature network of labelled sets";
    const DATA: DataKind = DataKind::Labelled;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        let train = TrainConfig {
            batch: 64,
            images: 60_000,
            ema_half_life: 2_000.0,
            // As when the figures by `classifier:SET` were measured.
            ema_buffers: Buffers::Copy,
            checkpoint_every: 60_000,
            preview_every: 0,
            ..TrainConfig::default()
        };
        (DataConfig::default(), train)
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        if pictures.classes.len() < 2 {
            return Err(Error::usage("classifier needs a set of at least two classes"));
        }
        if config.channels == 0 || config.features == 0 {
            return Err(Error::usage("model.channels and model.features must be at least 1"));
        }
        Ok(Self { config, pictures: pictures.clone() })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let [channels, height, width] = self.pictures.shape;
        let c = self.config.channels;
        let widths = [channels, c, 2 * c, 4 * c];
        let halved = |side: usize| (0..3).fold(side, |s, _| s.div_ceil(2));
        let flat = widths[3] * halved(height) * halved(width);
        let conv = |(i, o): (usize, usize), init: &mut Init| {
            Conv2dConfig { stride: 2, bias: false, weight: WeightInit::He, ..Conv2dConfig::same3(i, o) }.init(init)
        };
        Networks {
            classifier: Net {
                convs: widths.windows(2).map(|w| conv((w[0], w[1]), init)).collect(),
                norms: widths[1..].iter().map(|&w| BatchNorm2d::new(w, init)).collect(),
                hidden: LinearConfig::new(flat, self.config.features).init(init),
                logits: LinearConfig::new(self.config.features, self.pictures.classes.len()).init(init),
            },
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        vec![Phase::new("classifier", &["classifier"], self.config.optimizer.clone(), |s, n, b| s.loss(n, b).map(Some))]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { classify: Some(self), represent: Some(self), ..Abilities::default() }
    }
}

impl Classifier {
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let net = &networks.classifier;
        // A mask for each place in the batch, the same all run long: with `dropout_key` every figure by `classifier:SET` would
        // be another, and could not be compared with those there are.
        let features = dropout(net.features(batch.images()), self.config.dropout, Some(batch.key("dropout")));
        Ok(Loss::new("cross_entropy", cross_entropy(net.logits.forward(features), batch.labels()?)))
    }
}

impl Classify<Networks> for Classifier {
    fn classify(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        Ok(networks.classifier.logits.forward(self.represent(networks, images)?))
    }
}

/// The last hidden layer.
impl Represent<Networks> for Classifier {
    fn represent(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        Ok(networks.classifier.features(images))
    }
}
