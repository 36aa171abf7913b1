//! The classifiers of Ganin 2016 (figure 4), which the papers on deep domain adaptation share: an extractor of features, and
//! heads that see them.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use kiln_core::{Error, Result, refuse_if};
use kiln_nn::{Activation, Conv2d, Conv2dConfig, DomainNorm2d, Init, Linear, LinearConfig, activate};
use kiln_train::{Pictures, SizeRule};
use serde::{Deserialize, Serialize};

/// Where pictures are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The labelled set.
    Source,
    /// The set to work on.
    Target,
}

/// The paper's networks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layers {
    /// Figure 4a, LeNet-5 with more channels: 28 × 28 pixels.
    #[default]
    Mnist,
    /// Figure 4b: 32 × 32 pixels.
    Svhn,
    /// Figure 4c: 40 × 40 pixels.
    Gtsrb,
}

/// Whose running statistics batch norm has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Statistics {
    /// Each domain's own (AdaBN, Li 2017).
    #[default]
    Domain,
    /// Those of both together, which fit neither.
    Shared,
}

/// The part of a `[model]` table that describes the classifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkConfig {
    /// `mnist`, `svhn` or `gtsrb`.
    pub layers: Layers,
    /// Channels of the convolutions; empty: the paper's.
    pub channels: Vec<usize>,
    /// Whether convolutions keep the size of maps, with zeros at the border.
    pub same_padding: bool,
    /// Batch norm after each convolution; not in the paper. Each domain's pictures are normalised by their own batch in training.
    pub batch_norm: bool,
    /// Whose running statistics batch norm has at the test: of each `domain`, or `shared`.
    pub statistics: Statistics,
    /// Widths of the label head's hidden layers; empty: the paper's.
    pub label_hidden: Vec<usize>,
    /// Widths of the domain head's hidden layers; empty: the paper's.
    pub domain_hidden: Vec<usize>,
    /// Subtracted from every pixel; about the mean of source and target.
    pub mean: f64,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            layers: Layers::Mnist,
            channels: Vec::new(),
            same_padding: false,
            batch_norm: false,
            statistics: Statistics::Domain,
            label_hidden: Vec::new(),
            domain_hidden: Vec::new(),
            mean: -0.4,
        }
    }
}

/// A convolution's window, and the window of the pooling of stride 2 that follows it, 0 for none.
type Stage = [usize; 2];

impl Layers {
    fn stages(self) -> &'static [Stage] {
        match self {
            Self::Mnist => &[[5, 2], [5, 2]],
            Self::Svhn => &[[5, 3], [5, 3], [5, 0]],
            Self::Gtsrb => &[[5, 2], [3, 2], [5, 2]],
        }
    }

    /// Channels, widths of the label head, widths of the domain head.
    fn widths(self) -> [&'static [usize]; 3] {
        match self {
            Self::Mnist => [&[32, 48], &[100, 100], &[100]],
            Self::Svhn => [&[64, 64, 128], &[3_072, 2_048], &[1_024, 1_024]],
            Self::Gtsrb => [&[96, 144, 256], &[512], &[1_024, 1_024]],
        }
    }
}

impl NetworkConfig {
    /// With the paper's widths where none are given.
    pub fn resolved(self) -> Self {
        let [channels, label, domain] = self.layers.widths();
        let or = |given: Vec<usize>, paper: &[usize]| if given.is_empty() { paper.to_vec() } else { given };
        Self {
            channels: or(self.channels, channels),
            label_hidden: or(self.label_hidden, label),
            domain_hidden: or(self.domain_hidden, domain),
            ..self
        }
    }

    /// The side of the maps after all stages; 0 if they do not fit.
    fn side(&self, side: usize) -> usize {
        self.layers.stages().iter().fold(side, |side, &[kernel, pool]| {
            let side = (side + 2 * self.padding(kernel)).saturating_sub(kernel - 1);
            if pool == 0 { side } else { (side + 2).saturating_sub(pool) / 2 }
        })
    }

    fn padding(&self, kernel: usize) -> usize {
        if self.same_padding { kernel / 2 } else { 0 }
    }

    /// The pictures that leave at least a pixel.
    pub fn sizes(&self) -> SizeRule {
        let least = (1..64).find(|&side| self.side(side) > 0).unwrap_or(64);
        let because =
            format!("model.layers = {:?}, model.same_padding = {}", self.layers, self.same_padding).to_lowercase();
        SizeRule { because, ..SizeRule::any() }.at_least(least)
    }

    /// Numbers that the extractor makes of a picture.
    pub fn features(&self, [_, height, width]: [usize; 3]) -> usize {
        self.channels.last().copied().unwrap_or(0) * self.side(height) * self.side(width)
    }

    /// Checks the settings against the pictures.
    ///
    /// # Errors
    /// A usage error naming the setting that does not fit.
    pub fn check(&self, pictures: &Pictures, system: &str) -> Result<()> {
        refuse_if!(pictures.classes.len() < 2, "{system} needs a source of at least two classes");
        let stages = self.layers.stages().len();
        refuse_if!(
            self.channels.len() != stages,
            "model.channels has {} numbers, but model.layers = \"{}\" has {stages} convolutions",
            self.channels.len(),
            format!("{:?}", self.layers).to_lowercase()
        );
        let widths = [&self.channels[..], &self.label_hidden, &self.domain_hidden].concat();
        refuse_if!(
            widths.contains(&0),
            "model.channels, model.label_hidden and model.domain_hidden must be at least 1"
        );
        self.sizes().check(pictures.shape)
    }

    /// The extractor of features; with a `private` first convolution, the source has one of its own (Bousmalis 2017, §4.1).
    pub fn extractor(&self, channels: usize, private: bool, init: &mut Init) -> Extractor {
        let inputs = std::iter::once(&channels).chain(&self.channels);
        let layers = self.layers.stages().iter().zip(inputs.zip(&self.channels));
        let domains = if self.statistics == Statistics::Domain { 2 } else { 1 };
        let conv = |(&[kernel, _], (&i, &o)): (&Stage, (&usize, &usize))| Conv2dConfig {
            padding: self.padding(kernel),
            ..Conv2dConfig::new(i, o, kernel)
        };
        let configs: Vec<Conv2dConfig> = layers.map(conv).collect();
        Extractor {
            convs: configs.iter().map(|config| config.init(init)).collect(),
            first_of_source: configs.first().filter(|_| private).map(|config| config.init(init)),
            norms: match self.batch_norm {
                true => self.channels.iter().map(|&c| DomainNorm2d::new(c, domains, init)).collect(),
                false => Vec::new(),
            },
            layers: self.layers,
            mean: self.mean,
        }
    }

    /// The extractor and the label head.
    pub fn classifier(&self, pictures: &Pictures, init: &mut Init) -> Classifier {
        Classifier {
            extractor: self.extractor(pictures.shape[0], false, init),
            labels: Head::new(self.features(pictures.shape), &self.label_hidden, pictures.classes.len(), init),
        }
    }

    /// The head that tells the target from the source by features.
    pub fn domain_head(&self, features: usize, init: &mut Init) -> Head {
        Head::new(features, &self.domain_hidden, 1, init)
    }
}

/// Convolutions, each with ReLU and perhaps a pooling.
#[derive(Module, Debug)]
pub struct Extractor {
    convs: Vec<Conv2d>,
    /// In place of the first convolution, for the source.
    first_of_source: Option<Conv2d>,
    norms: Vec<DomainNorm2d>,
    #[module(skip)]
    layers: Layers,
    #[module(skip)]
    mean: f64,
}

impl Extractor {
    /// Pictures of one domain.
    ///
    /// # Shapes
    /// `[n, c, h, w]` → `[n, features]`
    pub fn forward(&self, images: Tensor<4>, side: Side) -> Tensor<2> {
        let stages = self.layers.stages().iter().zip(&self.convs).enumerate();
        let x = stages.fold(images - self.mean, |x, (i, (&[_, pool], conv))| {
            let own = self.first_of_source.as_ref().filter(|_| i == 0 && side == Side::Source);
            let x = own.unwrap_or(conv).forward(x);
            let x = match self.norms.get(i) {
                Some(norm) => norm.forward(x, side as usize, Activation::Relu),
                None => activate(x, Activation::Relu),
            };
            if pool == 0 { x } else { max_pool2d(x, MaxPoolOptions::new([pool, pool]).with_stride([2, 2])) }
        });
        let [n, c, h, w] = x.dims();
        x.reshape([n, c * h * w])
    }

    /// Pictures of the source and of the target. Where nothing tells them apart they go through together, which is faster.
    pub fn both(&self, source: Tensor<4>, target: Tensor<4>) -> [Tensor<2>; 2] {
        if !self.norms.is_empty() || self.first_of_source.is_some() {
            return [self.forward(source, Side::Source), self.forward(target, Side::Target)];
        }
        let [n, m] = [source.dims()[0], target.dims()[0]];
        let features = self.forward(Tensor::cat(vec![source, target], 0), Side::Target);
        [features.clone().narrow(0, 0, n), features.narrow(0, n, m)]
    }
}

/// Linear layers, each with ReLU.
#[derive(Module, Debug)]
pub struct Hidden {
    layers: Vec<Linear>,
}

impl Hidden {
    /// From `inputs` numbers through layers of these widths.
    pub fn new(inputs: usize, widths: &[usize], init: &mut Init) -> Self {
        let from = std::iter::once(inputs).chain(widths.iter().copied());
        Self { layers: from.zip(widths).map(|(i, &o)| LinearConfig::new(i, o).init(init)).collect() }
    }

    /// # Shapes
    /// `[n, inputs]` → `[n, width]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.layers.iter().fold(x, |x, linear| activate(linear.forward(x), Activation::Relu))
    }
}

/// Hidden layers and logits.
#[derive(Module, Debug)]
pub struct Head {
    /// All but the last layer.
    pub hidden: Hidden,
    /// The last.
    pub logits: Linear,
}

impl Head {
    /// From `inputs` numbers through hidden layers of these widths to `outputs`.
    pub fn new(inputs: usize, hidden: &[usize], outputs: usize, init: &mut Init) -> Self {
        let last = hidden.last().copied().unwrap_or(inputs);
        Self { hidden: Hidden::new(inputs, hidden, init), logits: LinearConfig::new(last, outputs).init(init) }
    }

    /// # Shapes
    /// `[n, inputs]` → `[n, outputs]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.logits.forward(self.hidden.forward(x))
    }
}

/// An extractor and the head that names the class.
#[derive(Module, Debug)]
pub struct Classifier {
    /// Makes features.
    pub extractor: Extractor,
    /// Names the class.
    pub labels: Head,
}

impl Classifier {
    /// # Shapes
    /// `[n, c, h, w]` → `[n, classes]`
    pub fn forward(&self, images: Tensor<4>, side: Side) -> Tensor<2> {
        self.labels.forward(self.extractor.forward(images, side))
    }

    /// The last hidden layer.
    ///
    /// # Shapes
    /// `[n, c, h, w]` → `[n, width]`
    pub fn hidden(&self, images: Tensor<4>, side: Side) -> Tensor<2> {
        self.labels.hidden.forward(self.extractor.forward(images, side))
    }
}

/// Refuses pictures of another shape than a run was trained on.
///
/// # Errors
/// A usage error that names both.
pub fn check_shape(images: &Tensor<4>, pictures: &Pictures, system: &str) -> Result<()> {
    let [_, c, h, w] = images.dims();
    if [c, h, w] == pictures.shape {
        return Ok(());
    }
    let [channels, height, width] = pictures.shape;
    Err(Error::usage(format!(
        "{system} was trained on {width} x {height} pictures of {channels} channels, not {w} x {h} of {c}"
    )))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::{from_values, to_values};

    use super::*;
    use crate::testing::{Fixtures, values};

    /// tests/reference/layers.py: the engine's pooling, which nothing else of Kiln uses.
    #[test]
    fn pooling_and_its_gradient_equal_pytorch() {
        let device = Device::flex().autodiff();
        let fixtures = Fixtures::open("layers");
        let get = |name: &str| values(&fixtures, &format!("max_pool2d.{name}"));
        let input = from_values(get("input"), [2, 3, 4, 7], &device).require_grad();
        let output = max_pool2d(input.clone(), MaxPoolOptions::new([2, 2]));
        assert_eq!(to_values(output.clone()), get("output"));
        let gradients = (output * from_values(get("grad_output"), [2, 3, 2, 3], &device)).sum().backward();
        assert_eq!(to_values(input.grad(&gradients).unwrap()), get("grad_input"));
    }

    /// Figure 4 at the sizes of its sets.
    #[test]
    fn the_papers_networks_have_the_papers_shapes() {
        for (layers, side, features, width) in [
            (Layers::Mnist, 28, 48 * 4 * 4, 100),
            (Layers::Svhn, 32, 128 * 7 * 7, 2_048),
            (Layers::Gtsrb, 40, 256 * 5 * 5, 512),
        ] {
            let same_padding = layers != Layers::Mnist;
            let config = NetworkConfig { layers, same_padding, ..NetworkConfig::default() }.resolved();
            let pictures = Pictures::new([3, side, side], (0..10).map(|c| c.to_string()).collect());
            config.check(&pictures, "dann").unwrap();
            assert_eq!(config.features(pictures.shape), features, "{layers:?}");
            let classifier = config.classifier(&pictures, &mut Init::new(&Device::flex(), 0));
            let images = || Tensor::zeros([1, 3, side, side], &Device::flex());
            assert_eq!(classifier.hidden(images(), Side::Target).dims(), [1, width]);
            assert_eq!(classifier.forward(images(), Side::Source).dims(), [1, 10]);
        }
    }
}
