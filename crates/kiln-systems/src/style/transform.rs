//! The two generators that learn one style: Johnson's residual network, and Ulyanov's pyramid.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_nn::resample::{avg_pool2d, reflect_pad, upsample_nearest};
use kiln_nn::tensor::normal;
use kiln_nn::{Activation, Conv2d, Conv2dConfig, GroupNorm, Init, add_activate, concat};

/// Instance normalisation with a scale and a shift for each channel: groups of one channel each.
fn instance_norm(channels: usize, init: &mut Init) -> GroupNorm {
    GroupNorm::new(channels, channels, init)
}

/// A convolution with reflections, and its norm.
#[derive(Module, Debug)]
pub struct ConvNorm {
    conv: Conv2d,
    norm: GroupNorm,
    #[module(skip)]
    padding: usize,
}

impl ConvNorm {
    fn new(inputs: usize, outputs: usize, kernel: usize, stride: usize, init: &mut Init) -> Self {
        let conv = Conv2dConfig { stride, ..Conv2dConfig::new(inputs, outputs, kernel) }.init(init);
        Self { conv, norm: instance_norm(outputs, init), padding: kernel / 2 }
    }

    fn forward(&self, x: Tensor<4>, activation: Activation) -> Tensor<4> {
        let x = if self.padding > 0 { reflect_pad(x, self.padding) } else { x };
        self.norm.forward(self.conv.forward(x), activation)
    }
}

/// Johnson's network with instance norm, and repeated pixels in place of transposed convolutions (Johnson 2016; Ulyanov 2017; as in
/// PyTorch's example `fast_neural_style`): 9×9, twice half the size, residual blocks, twice the size, 9×9.
#[derive(Module, Debug)]
pub struct Transform {
    down: Vec<ConvNorm>,
    blocks: Vec<[ConvNorm; 2]>,
    up: Vec<ConvNorm>,
    last: Conv2d,
}

impl Transform {
    /// Of `k` channels after the first convolution, and so many residual blocks of 4k.
    pub fn new(k: usize, blocks: usize, init: &mut Init) -> Self {
        let down = [(3, k, 9, 1), (k, 2 * k, 3, 2), (2 * k, 4 * k, 3, 2)];
        let mut layer =
            |(i, o, kernel, stride): (usize, usize, usize, usize)| ConvNorm::new(i, o, kernel, stride, init);
        let down = down.map(&mut layer).into();
        let blocks = (0..blocks).map(|_| [0, 1].map(|_| layer((4 * k, 4 * k, 3, 1)))).collect();
        let up = [(4 * k, 2 * k, 3, 1), (2 * k, k, 3, 1)].map(&mut layer).into();
        Self { down, blocks, up, last: Conv2dConfig::new(k, 3, 9).init(init) }
    }

    /// # Shapes
    /// `[n, 3, h, w]` → the same; h and w must be divisible by 4, and at least 16. It learns to stay in [−1, 1].
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.down.iter().fold(x, |x, layer| layer.forward(x, Activation::Relu));
        let x = self.blocks.iter().fold(x, |x, [first, second]| {
            let h = second.forward(first.forward(x.clone(), Activation::Relu), Activation::None);
            add_activate(h, x, Activation::None)
        });
        let x = self.up.iter().fold(x, |x, layer| layer.forward(upsample_nearest(x, 2), Activation::Relu));
        self.last.forward(reflect_pad(x, 4))
    }
}

/// Maps of noise at each scale.
const NOISE: usize = 3;

/// Ulyanov's network (2016, §4.1): noise, and the picture beside it, enter at every scale; from the coarsest on, what is there is
/// doubled in size and joined with what enters. With instance norm, as Ulyanov 2017 has it.
#[derive(Module, Debug)]
pub struct Pyramid {
    /// Of what enters, the coarsest first.
    entries: Vec<Block>,
    /// Of what is joined.
    joins: Vec<Join>,
    last: Conv2d,
}

/// Norms of both sides of a join, and the block behind it.
#[derive(Module, Debug)]
pub struct Join {
    below: GroupNorm,
    entry: GroupNorm,
    block: Block,
}

/// 3×3, 3×3, 1×1, a norm and leaky ReLU after each.
#[derive(Module, Debug)]
pub struct Block {
    layers: [ConvNorm; 3],
}

impl Block {
    fn new(inputs: usize, outputs: usize, init: &mut Init) -> Self {
        Self { layers: [(inputs, 3), (outputs, 3), (outputs, 1)].map(|(i, k)| ConvNorm::new(i, outputs, k, 1, init)) }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.layers.iter().fold(x, |x, layer| layer.forward(x, Activation::LeakyRelu(0.01)))
    }
}

impl Pyramid {
    /// Of so many scales, each with `k` channels more than the one below, on pictures of `channels`; 0 if there are none.
    pub fn new(channels: usize, k: usize, scales: usize, init: &mut Init) -> Self {
        let entries = (0..scales).map(|_| Block::new(channels + NOISE, k, init)).collect();
        let join = |width: usize, init: &mut Init| Join {
            below: instance_norm(width - k, init),
            entry: instance_norm(k, init),
            block: Block::new(width, width, init),
        };
        let joins = (2..=scales).map(|scale| join(scale * k, init)).collect();
        Self { entries, joins, last: Conv2dConfig::new(scales * k, 3, 1).init(init) }
    }

    /// `noise` is the key of each sample's.
    ///
    /// # Shapes
    /// `[n, channels, h, w]` → `[n, 3, h, w]`; h and w must be divisible by 2^(scales − 1), and twice as much at least.
    pub fn forward(&self, x: Tensor<4>, noise: Key, samples: std::ops::Range<u64>) -> Tensor<4> {
        let ([n, channels, height, width], device) = (x.dims(), x.device());
        let mut entering = Vec::new();
        let mut picture = x;
        for (scale, block) in self.entries.iter().rev().enumerate() {
            if scale > 0 && channels > 0 {
                picture = avg_pool2d(picture, 2, 2, 0);
            }
            let shape = [n, NOISE, height >> scale, width >> scale];
            let drawn = normal::<4>(noise.at(scale as u64), samples.clone(), shape, &device);
            let both = if channels > 0 { concat(picture.clone(), drawn) } else { drawn };
            entering.push(block.forward(both));
        }
        let mut coarse_first = entering.into_iter().rev();
        let start = coarse_first.next();
        let joined = coarse_first.zip(&self.joins).fold(start, |below, (entry, join)| {
            let below = join.below.forward(upsample_nearest(below?, 2), Activation::None);
            let entry = join.entry.forward(entry, Activation::None);
            Some(join.block.forward(concat(below, entry)))
        });
        // Without a scale there is nothing.
        joined.map_or_else(|| Tensor::zeros([n, 3, height, width], &device), |x| self.last.forward(x))
    }
}
