//! Networks of image-to-image translation, with the settings and the initialisation that the papers share.

pub mod codes;
mod encoder;
mod patch;
mod pool;
mod resnet;
pub mod spade;
mod unet;

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_core::{Result, refuse_if};
use kiln_nn::tensor::dropout_of;
use kiln_nn::{Activation, BatchNorm2d, Conv2dConfig, Init, InstanceNorm2d, WeightInit, activate, concat};
use kiln_train::{Batch, Request, SizeRule};
use serde::{Deserialize, Serialize};

pub use self::encoder::ResidualEncoder;
pub use self::patch::{MultiScaleDiscriminator, PatchConfig, PatchDiscriminator};
pub use self::pool::ImagePool;
pub use self::resnet::{ResidualBlock, ResnetGenerator};
pub use self::unet::UnetGenerator;

/// Every weight is drawn from N(0, 0.02²) (Isola 2017, §6.2; Zhu 2017, appendix 7.1).
const WEIGHTS: WeightInit = WeightInit::Normal(0.02);

/// How the maps of a network are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalization {
    /// Each channel of each picture by its own statistics, without parameters (Ulyanov 2016).
    Instance,
    /// By the statistics of the batch, with scale and shift.
    Batch,
    /// Not at all.
    None,
}

impl Normalization {
    /// A convolution in front of it, which needs no bias where the norm has a shift.
    fn conv(self, inputs: usize, outputs: usize, kernel: usize) -> Conv2dConfig {
        Conv2dConfig { bias: self != Self::Batch, ..conv(inputs, outputs, kernel) }
    }
}

/// A convolution with the papers' weights.
fn conv(inputs: usize, outputs: usize, kernel: usize) -> Conv2dConfig {
    Conv2dConfig { weight: WEIGHTS, ..Conv2dConfig::new(inputs, outputs, kernel) }
}

/// The norms of a network in the order of its layers.
#[derive(Module, Debug)]
pub struct Norms {
    batch: Vec<BatchNorm2d>,
    #[module(skip)]
    kind: Normalization,
}

impl Norms {
    /// One for each number of channels.
    fn new(kind: Normalization, channels: impl IntoIterator<Item = usize>, init: &mut Init) -> Self {
        let batch = match kind {
            Normalization::Batch => channels.into_iter().map(|c| BatchNorm2d::dcgan(c, init)).collect(),
            Normalization::Instance | Normalization::None => Vec::new(),
        };
        Self { batch, kind }
    }

    /// The `i`-th norm, then the activation.
    fn forward(&self, i: usize, x: Tensor<4>, activation: Activation, pass: &Pass) -> Tensor<4> {
        match self.kind {
            Normalization::Instance => InstanceNorm2d::default().forward(x, activation),
            Normalization::Batch if pass.own_statistics => self.batch[i].forward_by_picture(x, activation),
            Normalization::Batch => self.batch[i].forward(x, activation),
            Normalization::None => activate(x, activation),
        }
    }
}

/// A picture with numbers as maps beside it.
///
/// # Shapes
/// `[n, c, h, w]`, `[n, d]` → `[n, c + d, h, w]`
pub fn beside(x: Tensor<4>, z: Tensor<2>) -> Tensor<4> {
    let ([_, _, h, w], [n, size]) = (x.dims(), z.dims());
    concat(x, z.reshape([n, size, 1, 1]).expand([n, size, h, w]))
}

/// How a network is run once.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// The key of the dropout masks and the first sample; without it nothing is dropped.
    dropout: Option<(Key, u64)>,
    /// Whether batch norm takes each picture's own statistics in place of the running ones.
    own_statistics: bool,
}

impl Pass {
    /// In training, dropping for the samples of a batch.
    pub fn training(batch: &Batch) -> Self {
        Self { dropout: Some((batch.key("dropout"), batch.start)), own_statistics: false }
    }

    /// At test, dropping for the samples of a request: the noise of a network that has no other.
    pub fn dropping(request: &Request) -> Self {
        Self { dropout: Some((request.key.purpose("dropout"), request.indices.start)), own_statistics: false }
    }

    /// Batch norm by the statistics of each picture: those of a batch of it alone, as in training with batches of one
    /// (Isola 2017, §3.3).
    pub fn by_picture(self) -> Self {
        Self { own_statistics: true, ..self }
    }

    /// The `layer`-th dropout of a network.
    fn drop(&self, layer: usize, x: Tensor<4>, rate: f64) -> Tensor<4> {
        match &self.dropout {
            Some((key, first)) => {
                let samples = *first..*first + x.dims()[0] as u64;
                dropout_of(x, rate, key.at(layer as u64), samples)
            }
            None => x,
        }
    }
}

/// Which network translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Architecture {
    /// [`ResnetGenerator`]
    Resnet,
    /// [`UnetGenerator`]
    Unet,
}

/// The settings of a generator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GeneratorConfig {
    /// `resnet` (Zhu 2017) or `unet` (Isola 2017).
    pub generator: Architecture,
    /// Channels of the first layer. They double with each halving of the picture, in a U-Net up to eight times. The papers have 64.
    pub generator_channels: usize,
    /// How often the picture is halved. ResNet: 2 in the paper. U-Net: 8 in the paper, which takes 256 pixels to 1; 0 halves
    /// the picture as often as it can be.
    pub halvings: usize,
    /// Residual blocks of a ResNet. The paper has 6 at 128 pixels and 9 at 256.
    pub blocks: usize,
    /// `instance`, `batch` or `none`, of the generator.
    pub generator_norm: Normalization,
    /// Dropout in the residual blocks, or in the inner half of the U-Net's way up. Pix2pix has 0.5.
    pub dropout: f64,
}

impl Default for GeneratorConfig {
    /// CycleGAN's.
    fn default() -> Self {
        Self {
            generator: Architecture::Resnet,
            generator_channels: 64,
            halvings: 2,
            blocks: 6,
            generator_norm: Normalization::Instance,
            dropout: 0.0,
        }
    }
}

impl GeneratorConfig {
    /// Checks what no picture can make right.
    ///
    /// # Errors
    /// A usage error that names the setting.
    pub fn check(&self) -> Result<()> {
        refuse_if!(self.generator_channels == 0, "model.generator_channels must be at least 1");
        refuse_if!(self.halvings > 10, "model.halvings = {}: at most 10", self.halvings);
        refuse_if!(
            self.generator == Architecture::Resnet && self.halvings == 0,
            "model.halvings = 0 halves as often as can be, which is of a unet; a resnet needs 1 or more (2 in the paper)"
        );
        refuse_if!(!(0.0..1.0).contains(&self.dropout), "model.dropout = {}: from 0 to below 1", self.dropout);
        Ok(())
    }

    /// The pictures that it takes.
    pub fn sizes(&self, system: &str) -> SizeRule {
        let multiple = 1usize << self.halvings.clamp(1, 10);
        match self.generator {
            // Reflection padding by one needs two pixels.
            Architecture::Resnet => SizeRule::multiple_of(multiple, system).at_least(2 * multiple),
            // A picture normalised by its own statistics needs more than one pixel on the way up.
            Architecture::Unet => SizeRule::multiple_of(multiple, system).at_least(2 * multiple.min(4)),
        }
    }

    /// How often pictures of these sides are halved.
    pub fn halvings_of(&self, [height, width]: [usize; 2]) -> usize {
        match (self.generator, self.halvings) {
            (Architecture::Unet, 0) => ((height | width).trailing_zeros() as usize).clamp(1, 8),
            (_, halvings) => halvings,
        }
    }

    /// The pictures that a network trained on pictures of this shape translates.
    pub fn own_sizes(&self, [_, height, width]: [usize; 3], system: &str) -> SizeRule {
        Self { halvings: self.halvings_of([height, width]), ..self.clone() }.sizes(system)
    }

    /// Checks a picture to translate.
    ///
    /// # Errors
    /// A usage error if it has other channels than the pictures of the training, or does not fit the network.
    pub fn check_input(&self, images: &Tensor<4>, trained: [usize; 3], system: &str) -> Result<()> {
        let [_, channels, height, width] = images.dims();
        refuse_if!(channels != trained[0], "{system} was trained on {} channels, not {channels}", trained[0]);
        self.own_sizes(trained, system).check([channels, height, width])
    }

    /// The network, from pictures of `inputs` channels to `outputs`, of these sides.
    pub fn init(&self, inputs: usize, outputs: usize, sides: [usize; 2], init: &mut Init) -> Generator {
        match self.generator {
            Architecture::Resnet => Generator::Resnet(ResnetGenerator::new(inputs, outputs, self, init)),
            Architecture::Unet => {
                Generator::Unet(UnetGenerator::new(inputs, outputs, self.halvings_of(sides), self, init))
            }
        }
    }
}

/// A network from pictures to pictures.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // there are two at most
pub enum Generator {
    /// Of residual blocks.
    Resnet(ResnetGenerator),
    /// With skip connections.
    Unet(UnetGenerator),
}

impl Generator {
    /// # Shapes
    /// `[n, inputs, h, w]` → `[n, outputs, h, w]` in (−1, 1)
    pub fn forward(&self, x: Tensor<4>, pass: &Pass) -> Tensor<4> {
        match self {
            Self::Resnet(net) => net.forward(x, pass),
            Self::Unet(net) => net.forward(x, pass),
        }
    }
}

/// What one phase of a step has made for the phases after it, by the first sample of the batch.
#[derive(Clone, Debug)]
pub struct Made<T>(Vec<(u64, T)>);

impl<T> Default for Made<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Made<T> {
    /// Keeps what was made of a batch.
    pub fn put(&mut self, batch: &Batch, made: T) {
        self.0.retain(|(at, _)| *at != batch.start);
        self.0.push((batch.start, made));
    }

    /// Gives it away.
    pub fn take(&mut self, batch: &Batch) -> Option<T> {
        let at = self.0.iter().position(|(start, _)| *start == batch.start)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Whether all was taken.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets all of it.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
