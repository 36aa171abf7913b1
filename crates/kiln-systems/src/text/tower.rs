//! The residual tower of CLIP (Radford 2021, §2.4): `ModifiedResNet` of the authors' code.
//!
//! | ResNet-50 | here |
//! |---|---|
//! | one convolution, max pooling | three convolutions, mean pooling |
//! | strides | mean pooling before the last convolution of a block and in its shortcut |
//! | mean of the last maps | attention pooling |
//!
//! Images of fewer than 128 pixels keep their size in the stem, as the networks of He 2016 for 32 pixels do.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_nn::attention::AttentionPool;
use kiln_nn::resample::avg_pool2d;
use kiln_nn::{Activation, BatchNorm2d, Conv2d, Conv2dConfig, Init, WeightInit, add_activate};

/// Images of a side below this are not made smaller by the stem.
const SMALL: usize = 128;
/// Channels that come out of a block, in channels of its inner convolutions.
const EXPANSION: usize = 4;

/// A convolution without a bias and its batch norm.
#[derive(Module, Debug)]
struct Normed {
    conv: Conv2d,
    norm: BatchNorm2d,
}

impl Normed {
    fn new(config: Conv2dConfig, init: &mut Init) -> Self {
        let config = Conv2dConfig { bias: false, weight: WeightInit::He, ..config };
        Self { norm: BatchNorm2d::new(config.outputs, init), conv: config.init(init) }
    }

    fn forward(&self, x: Tensor<4>, activation: Activation) -> Tensor<4> {
        self.norm.forward(self.conv.forward(x), activation)
    }
}

/// 1×1 to fewer channels, 3×3, 1×1 to four times as many, and a shortcut.
#[derive(Module, Debug)]
struct Bottleneck {
    first: Normed,
    second: Normed,
    third: Normed,
    shortcut: Option<Normed>,
    #[module(skip)]
    halves: bool,
}

impl Bottleneck {
    fn new(inputs: usize, channels: usize, halves: bool, init: &mut Init) -> Self {
        let outputs = EXPANSION * channels;
        let of = |config, init: &mut Init| Normed::new(config, init);
        Self {
            first: of(Conv2dConfig::new(inputs, channels, 1), init),
            second: of(Conv2dConfig::same3(channels, channels), init),
            third: of(Conv2dConfig::new(channels, outputs, 1), init),
            shortcut: (halves || inputs != outputs).then(|| of(Conv2dConfig::new(inputs, outputs, 1), init)),
            halves,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let half = |x: Tensor<4>| if self.halves { avg_pool2d(x, 2, 2, 0) } else { x };
        let y = self.second.forward(self.first.forward(x.clone(), Activation::Relu), Activation::Relu);
        let y = self.third.forward(half(y), Activation::None);
        let x = match &self.shortcut {
            Some(shortcut) => shortcut.forward(half(x), Activation::None),
            None => x,
        };
        add_activate(y, x, Activation::Relu)
    }
}

/// The tower.
#[derive(Module, Debug)]
pub struct ResidualTower {
    stem: Vec<Normed>,
    blocks: Vec<Bottleneck>,
    pool: AttentionPool,
    #[module(skip)]
    is_small: bool,
}

impl ResidualTower {
    /// Of images of `[channels, height, width]`, `width` channels inside the blocks of the first stage and twice as many in each further
    /// one, which halves the size.
    pub fn new(shape: [usize; 3], width: usize, stages: &[usize], init: &mut Init) -> Self {
        let is_small = is_small(shape);
        let first = Conv2dConfig { stride: if is_small { 1 } else { 2 }, ..Conv2dConfig::same3(shape[0], width / 2) };
        let stem = [first, Conv2dConfig::same3(width / 2, width / 2), Conv2dConfig::same3(width / 2, width)];
        let stem = stem.into_iter().map(|config| Normed::new(config, init)).collect();
        let (mut inputs, mut blocks) = (width, Vec::new());
        for (stage, count) in stages.iter().enumerate() {
            let channels = width << stage;
            for block in 0..*count {
                blocks.push(Bottleneck::new(inputs, channels, stage > 0 && block == 0, init));
                inputs = EXPANSION * channels;
            }
        }
        let reduced = Self::reduction(shape, stages.len());
        let positions = (shape[1] / reduced) * (shape[2] / reduced);
        let heads = (inputs / 64).max(1);
        Self { stem, blocks, pool: AttentionPool::new(positions, inputs, heads, init), is_small }
    }

    /// How often smaller the last maps are than the image.
    pub fn reduction(shape: [usize; 3], stages: usize) -> usize {
        let stem = if is_small(shape) { 1 } else { 4 };
        stem << stages.saturating_sub(1)
    }

    /// Features that come out.
    pub fn features(width: usize, stages: usize) -> usize {
        EXPANSION * (width << stages.saturating_sub(1))
    }

    /// # Shapes
    /// `[n, c, h, w]` → `[n, features]`
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self.stem.iter().fold(images, |x, layer| layer.forward(x, Activation::Relu));
        let x = if self.is_small { x } else { avg_pool2d(x, 2, 2, 0) };
        self.pool.forward(self.blocks.iter().fold(x, |x, block| block.forward(x)))
    }
}

fn is_small([_, height, width]: [usize; 3]) -> bool {
    height.min(width) < SMALL
}
