//! Encoders of what a picture shows and of how it looks, and decoders of both, as MUNIT and UNIT have them (Huang 2018, appendix B.1; Liu
//! 2017; the authors' code). Every convolution is padded by reflection and drawn as He 2015 has it.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_nn::norm::{MapNorm, adain};
use kiln_nn::resample::{avg_pool2d_inside, global_mean, reflect_pad, upsample_nearest};
use kiln_nn::{
    Activation, Conv2d, Conv2dConfig, Init, InstanceNorm2d, Linear, LinearConfig, WeightInit, activate, add_activate,
};

use kiln_core::Result;
use kiln_train::SizeRule;
use serde::{Deserialize, Serialize};

use super::{Normalization, Pass, ResidualBlock};
use crate::adversarial::players::check_positive;

const WEIGHTS: WeightInit = WeightInit::He;

/// A convolution whose padding is a reflection.
#[derive(Module, Debug)]
pub struct PaddedConv {
    conv: Conv2d,
    #[module(skip)]
    padding: usize,
}

impl PaddedConv {
    /// A window of `kernel` pixels a side, moved by `stride`.
    pub fn new(
        [inputs, outputs]: [usize; 2],
        kernel: usize,
        stride: usize,
        padding: usize,
        weight: WeightInit,
        init: &mut Init,
    ) -> Self {
        Self { conv: Conv2dConfig { stride, weight, ..Conv2dConfig::new(inputs, outputs, kernel) }.init(init), padding }
    }

    /// The same with zeros around the picture.
    pub fn with_zeros(
        [inputs, outputs]: [usize; 2],
        kernel: usize,
        stride: usize,
        padding: usize,
        weight: WeightInit,
        init: &mut Init,
    ) -> Self {
        let config = Conv2dConfig { stride, padding, weight, ..Conv2dConfig::new(inputs, outputs, kernel) };
        Self { conv: config.init(init), padding: 0 }
    }

    /// # Shapes
    /// `[n, inputs, h, w]` → `[n, outputs, …]`; a side must be longer than a reflected padding.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.forward(if self.padding > 0 { reflect_pad(x, self.padding) } else { x })
    }
}

/// What a picture shows, as a map: a 7×7 convolution, 4×4 ones that halve it, residual blocks; instance norm and ReLU.
#[derive(Module, Debug)]
pub struct ContentEncoder {
    first: PaddedConv,
    down: Vec<PaddedConv>,
    blocks: Vec<ResidualBlock>,
}

impl ContentEncoder {
    /// Pictures of `channels` channels, `k` after the first layer, doubled by each of `halvings`.
    pub fn new(channels: usize, k: usize, halvings: usize, blocks: usize, init: &mut Init) -> Self {
        let down = |at: usize, init: &mut Init| PaddedConv::new([k << at, k << (at + 1)], 4, 2, 1, WEIGHTS, init);
        let block = |init: &mut Init| ResidualBlock::new(k << halvings, Normalization::Instance, 0.0, WEIGHTS, init);
        Self {
            first: PaddedConv::new([channels, k], 7, 1, 3, WEIGHTS, init),
            down: (0..halvings).map(|at| down(at, init)).collect(),
            blocks: (0..blocks).map(|_| block(init)).collect(),
        }
    }

    /// The pictures that an encoder with so many halvings takes: it reflects 3 pixels at full size, and 1 of the smallest map.
    pub fn sizes(halvings: usize, system: &str) -> SizeRule {
        let multiple = 1usize << halvings.min(16);
        SizeRule::multiple_of(multiple, system).at_least((2 * multiple).max(4))
    }

    /// # Shapes
    /// `[n, channels, h, w]` → `[n, k·2^halvings, h / 2^halvings, w / 2^halvings]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let relu = |x: Tensor<4>| InstanceNorm2d::default().forward(x, Activation::Relu);
        let x = relu(self.first.forward(x));
        let x = self.down.iter().fold(x, |x, conv| relu(conv.forward(x)));
        let pass = Pass::default();
        self.blocks.iter().enumerate().fold(x, |x, (i, block)| block.forward(i, x, &pass))
    }
}

/// How a picture looks, as a few numbers: a 7×7 convolution, four 4×4 ones that halve it, ReLU, the mean over pixels and a linear layer. It has
/// no norms, which would take away the means and variances that make a style.
#[derive(Module, Debug)]
pub struct StyleEncoder {
    first: PaddedConv,
    down: Vec<PaddedConv>,
    last: Linear,
}

/// How often a style encoder halves the picture.
pub const STYLE_HALVINGS: usize = 4;

impl StyleEncoder {
    /// Pictures of `channels` channels, `k` after the first layer, doubled twice; `style` numbers.
    pub fn new(channels: usize, k: usize, style: usize, init: &mut Init) -> Self {
        let width = |at: usize| k << at.min(2);
        let down = |at: usize, init: &mut Init| PaddedConv::new([width(at), width(at + 1)], 4, 2, 1, WEIGHTS, init);
        Self {
            first: PaddedConv::new([channels, k], 7, 1, 3, WEIGHTS, init),
            down: (0..STYLE_HALVINGS).map(|at| down(at, init)).collect(),
            last: LinearConfig { weight: WEIGHTS, ..LinearConfig::new(width(2), style) }.init(init),
        }
    }

    /// # Shapes
    /// `[n, channels, h, w]` → `[n, style]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let relu = |x: Tensor<4>| activate(x, Activation::Relu);
        let x = relu(self.first.forward(x));
        let x = self.down.iter().fold(x, |x, conv| relu(conv.forward(x)));
        self.last.forward(global_mean(x))
    }
}

/// A picture of a content map: residual blocks; repetition and a 5×5 convolution with layer norm for each doubling; a 7×7 one; tanh.
#[derive(Module, Debug)]
pub struct Decoder {
    blocks: Vec<DecoderBlock>,
    up: Vec<PaddedConv>,
    norms: Vec<MapNorm>,
    last: PaddedConv,
}

impl Decoder {
    /// Of a [`ContentEncoder`] with the same numbers.
    pub fn new(channels: usize, k: usize, halvings: usize, blocks: usize, init: &mut Init) -> Self {
        let up = |at: usize, init: &mut Init| PaddedConv::new([k << (at + 1), k << at], 5, 1, 2, WEIGHTS, init);
        Self {
            blocks: (0..blocks).map(|_| DecoderBlock::new(k << halvings, init)).collect(),
            up: (0..halvings).rev().map(|at| up(at, init)).collect(),
            norms: (0..halvings).rev().map(|at| MapNorm::new(k << at, init)).collect(),
            last: PaddedConv::new([k, channels], 7, 1, 3, WEIGHTS, init),
        }
    }

    /// Numbers of a style: a mean and a deviation of each norm and channel.
    pub fn styles(k: usize, halvings: usize, blocks: usize) -> usize {
        4 * blocks * (k << halvings)
    }

    /// With adaptive instance norm (Huang & Belongie 2017) by a style in the blocks, with plain instance norm without one.
    ///
    /// # Shapes
    /// `[n, k·2^halvings, h, w]`, `[n, 4·blocks·k·2^halvings]` → `[n, channels, 2^halvings·h, 2^halvings·w]` in (−1, 1)
    pub fn forward(&self, content: Tensor<4>, style: Option<&Tensor<2>>) -> Tensor<4> {
        let x = self.blocks.iter().enumerate().fold(content, |x, (i, block)| block.forward(i, x, style));
        let x = self
            .up
            .iter()
            .zip(&self.norms)
            .fold(x, |x, (conv, norm)| norm.forward(conv.forward(upsample_nearest(x, 2)), Activation::Relu));
        self.last.forward(x).tanh()
    }
}

/// Two 3×3 convolutions, each with its norm, ReLU between them, added to the input.
#[derive(Module, Debug)]
pub struct DecoderBlock {
    conv1: PaddedConv,
    conv2: PaddedConv,
}

impl DecoderBlock {
    fn new(channels: usize, init: &mut Init) -> Self {
        let conv = |init: &mut Init| PaddedConv::new([channels; 2], 3, 1, 1, WEIGHTS, init);
        Self { conv1: conv(init), conv2: conv(init) }
    }

    fn forward(&self, at: usize, x: Tensor<4>, style: Option<&Tensor<2>>) -> Tensor<4> {
        let channels = x.dims()[1];
        let norm = |which: usize, x: Tensor<4>| match style {
            None => InstanceNorm2d::default().forward(x, Activation::None),
            Some(numbers) => {
                let part = |i: usize| numbers.clone().narrow(1, (4 * at + 2 * which + i) * channels, channels);
                adain(x, part(1), part(0), 1e-5)
            }
        };
        let h = activate(norm(0, self.conv1.forward(x.clone())), Activation::Relu);
        add_activate(norm(1, self.conv2.forward(h)), x, Activation::None)
    }
}

/// Three linear layers from a style to the numbers of a [`Decoder`]'s style, ReLU between them.
#[derive(Module, Debug)]
pub struct StyleMlp {
    layers: Vec<Linear>,
}

impl StyleMlp {
    /// From `style` numbers over `hidden` units, twice, to `outputs`.
    pub fn new(style: usize, hidden: usize, outputs: usize, init: &mut Init) -> Self {
        let linear = |sides: &[usize], init: &mut Init| {
            LinearConfig { weight: WEIGHTS, ..LinearConfig::new(sides[0], sides[1]) }.init(init)
        };
        Self { layers: [style, hidden, hidden, outputs].windows(2).map(|sides| linear(sides, init)).collect() }
    }

    /// # Shapes
    /// `[n, style]` → `[n, outputs]`
    pub fn forward(&self, style: Tensor<2>) -> Tensor<2> {
        let last = self.layers.len() - 1;
        self.layers.iter().enumerate().fold(style, |x, (i, layer)| {
            let x = layer.forward(x);
            if i == last { x } else { activate(x, Activation::Relu) }
        })
    }
}

/// The settings of a [`StridedDiscriminator`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StridedConfig {
    /// Channels of the first layer. The papers have 64.
    pub discriminator_channels: usize,
    /// Layers that halve the picture. The papers have 4, for 216 and 256 pixels.
    pub discriminator_layers: usize,
    /// Sizes of the picture that it sees. The papers have 3.
    pub discriminator_scales: usize,
}

impl Default for StridedConfig {
    fn default() -> Self {
        Self { discriminator_channels: 32, discriminator_layers: 3, discriminator_scales: 2 }
    }
}

impl StridedConfig {
    /// Checks what no picture can make right.
    ///
    /// # Errors
    /// A usage error that names the setting.
    pub fn check(&self) -> Result<()> {
        check_positive(&[
            ("discriminator_channels", self.discriminator_channels),
            ("discriminator_layers", self.discriminator_layers),
            ("discriminator_scales", self.discriminator_scales),
        ])
    }

    /// Among the pictures of `rule`, those of at least `least` pixels a side that leave the smallest size a patch to judge: each layer
    /// reflects what it halves.
    pub fn sizes(&self, rule: SizeRule, least: usize) -> SizeRule {
        let halved = (self.discriminator_layers + self.discriminator_scales).saturating_sub(1);
        let own = 1usize.checked_shl(halved as u32).unwrap_or(usize::MAX).max(2);
        let least = rule.min.max(least).max(own);
        rule.at_least(least)
    }

    /// The network, of pictures of `channels` channels, with the slope of its rectifiers.
    pub fn init(&self, channels: usize, leak: f32, init: &mut Init) -> StridedDiscriminator {
        let k = self.discriminator_channels;
        let width = |at: usize| if at == 0 { channels } else { k << (at - 1) };
        let (layers, weight) = (self.discriminator_layers, WeightInit::Normal(0.02));
        let scale = |init: &mut Init| StridedScale {
            layers: (0..layers).map(|at| PaddedConv::new([width(at), width(at + 1)], 4, 2, 1, weight, init)).collect(),
            last: Conv2dConfig { weight, ..Conv2dConfig::new(width(layers), 1, 1) }.init(init),
            leak,
        };
        StridedDiscriminator { scales: (0..self.discriminator_scales).map(|_| scale(init)).collect() }
    }
}

/// Discriminators of patches at several sizes without norms: 4×4 convolutions that halve the picture, leaky ReLU, a 1×1 one.
#[derive(Module, Debug)]
pub struct StridedDiscriminator {
    scales: Vec<StridedScale>,
}

/// One size of a [`StridedDiscriminator`].
#[derive(Module, Debug)]
pub struct StridedScale {
    layers: Vec<PaddedConv>,
    last: Conv2d,
    #[module(skip)]
    leak: f32,
}

impl StridedDiscriminator {
    /// The outputs for every patch of each scale.
    ///
    /// # Shapes
    /// `[n, channels, h, w]` → `[patches]` for each scale
    pub fn patches(&self, x: Tensor<4>) -> Vec<Tensor<1>> {
        let sizes = std::iter::successors(Some(x), |x| Some(avg_pool2d_inside(x.clone(), 3, 2, 1)));
        let judged = |(scale, x): (&StridedScale, Tensor<4>)| {
            let leak = Activation::LeakyRelu(scale.leak);
            let x = scale.layers.iter().fold(x, |x, conv| activate(conv.forward(x), leak));
            scale.last.forward(x).flatten(0, 3)
        };
        self.scales.iter().zip(sizes).map(judged).collect()
    }
}
