//! The U-Net of the benchmarks, layer by layer that of `benches/peers/work.py`.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use kiln_nn::attention::FeatureAttention;
use kiln_nn::resample::upsample_nearest;
use kiln_nn::time::sinusoidal;
use kiln_nn::{Activation, Conv2d, Conv2dConfig, GroupNorm, Init, Linear, LinearConfig, add_activate, concat};

/// The U-Net that peers are timed with: no skip from the first convolution or a halving, attention in the
/// middle only.
#[derive(Module, Debug)]
pub struct UNet {
    time1: Linear,
    time2: Linear,
    conv_in: Conv2d,
    down: Vec<Block>,
    halve: Vec<Conv2d>,
    middle: (Block, FeatureAttention, Block),
    up: Vec<Block>,
    double: Vec<Conv2d>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    #[module(skip)]
    channels: usize,
}

/// Its residual block.
#[derive(Module, Debug)]
struct Block {
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    skip: Option<Conv2d>,
}

/// Channels of a level in multiples of the first.
const LEVELS: [usize; 3] = [1, 2, 2];
const GROUPS: usize = 8;

impl Block {
    fn new(inputs: usize, outputs: usize, time: usize, init: &mut Init) -> Self {
        Self {
            norm1: GroupNorm::new(GROUPS, inputs, init),
            conv1: Conv2dConfig::same3(inputs, outputs).init(init),
            time: LinearConfig::new(time, outputs).init(init),
            norm2: GroupNorm::new(GROUPS, outputs, init),
            conv2: Conv2dConfig::same3(outputs, outputs).init(init),
            skip: (inputs != outputs).then(|| Conv2dConfig::new(inputs, outputs, 1).init(init)),
        }
    }

    fn forward(&self, x: Tensor<4>, time: &Tensor<2>) -> Tensor<4> {
        let h = self.conv1.forward(self.norm1.forward(x.clone(), Activation::Silu));
        let t = self.time.forward(silu(time.clone()));
        let [n, c] = t.dims();
        let h = self.conv2.forward(self.norm2.forward(h + t.reshape([n, c, 1, 1]), Activation::Silu));
        let x = self.skip.as_ref().map_or_else(|| x.clone(), |conv| conv.forward(x.clone()));
        add_activate(h, x, Activation::None)
    }
}

impl UNet {
    /// Grey pictures, `channels` at the first level.
    pub fn new(channels: usize, init: &mut Init) -> Self {
        let time = 4 * channels;
        let (mut c, mut skips) = (channels, Vec::new());
        let (mut down, mut halve, mut up, mut double) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (level, m) in LEVELS.into_iter().enumerate() {
            for _ in 0..2 {
                down.push(Block::new(c, channels * m, time, init));
                c = channels * m;
                skips.push(c);
            }
            if level + 1 < LEVELS.len() {
                halve.push(Conv2dConfig { stride: 2, ..Conv2dConfig::same3(c, c) }.init(init));
            }
        }
        let middle =
            (Block::new(c, c, time, init), FeatureAttention::new(c, GROUPS, 1, init), Block::new(c, c, time, init));
        for (level, m) in LEVELS.into_iter().enumerate().rev() {
            for _ in 0..2 {
                // As many skips as blocks went down.
                up.push(Block::new(c + skips.pop().unwrap_or(0), channels * m, time, init));
                c = channels * m;
            }
            if level > 0 {
                double.push(Conv2dConfig::same3(c, c).init(init));
            }
        }
        Self {
            time1: LinearConfig::new(channels, time).init(init),
            time2: LinearConfig::new(time, time).init(init),
            conv_in: Conv2dConfig::same3(1, channels).init(init),
            down,
            halve,
            middle,
            up,
            double,
            norm_out: GroupNorm::new(GROUPS, c, init),
            conv_out: Conv2dConfig::same3(c, 1).init(init),
            channels,
        }
    }

    /// # Shapes
    /// `[n, 1, h, w]`, `[n]` → `[n, 1, h, w]`; h and w divisible by 4
    pub fn forward(&self, x: Tensor<4>, t: Tensor<1>) -> Tensor<4> {
        let t = self.time2.forward(silu(self.time1.forward(sinusoidal(t, self.channels, 0.0))));
        let mut h = self.conv_in.forward(x);
        let mut skips = Vec::new();
        for (i, block) in self.down.iter().enumerate() {
            h = block.forward(h, &t);
            skips.push(h.clone());
            if let (1, Some(halve)) = (i % 2, self.halve.get(i / 2)) {
                h = halve.forward(h);
            }
        }
        let (first, attention, second) = &self.middle;
        h = second.forward(attention.forward(first.forward(h, &t)), &t);
        for (i, block) in self.up.iter().enumerate() {
            if let Some(skip) = skips.pop() {
                h = concat(h, skip);
            }
            h = block.forward(h, &t);
            if let (1, Some(double)) = (i % 2, self.double.get(i / 2)) {
                h = double.forward(upsample_nearest(h, 2));
            }
        }
        self.conv_out.forward(self.norm_out.forward(h, Activation::Silu))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_train::params;

    use super::*;

    #[test]
    fn the_network_is_the_peers() {
        let device = Device::flex();
        let net = UNet::new(64, &mut Init::new(&device, 0));
        // What `work.py` of the peers counts.
        assert_eq!(params::count(&net), 5_066_241);
        let out = net.forward(Tensor::ones([2, 1, 28, 28], &device), Tensor::zeros([2], &device));
        assert_eq!(out.dims(), [2, 1, 28, 28]);
    }
}
