//! Johnson's generator as CycleGAN has it (Johnson 2016; Zhu 2017, appendix 7.2).

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_nn::resample::reflect_pad;
use kiln_nn::{Activation, Conv2d, Conv2dConfig, ConvTranspose2d, Init, WeightInit, add_activate};

use super::{GeneratorConfig, Normalization, Norms, Pass, WEIGHTS, conv};

/// c7s1-k, d2k, d4k, R4k…, u2k, uk, c7s1-channels, tanh: reflection padding, a norm and ReLU after each convolution but the
/// last.
#[derive(Module, Debug)]
pub struct ResnetGenerator {
    first: Conv2d,
    down: Vec<Conv2d>,
    blocks: Vec<ResidualBlock>,
    up: Vec<ConvTranspose2d>,
    last: Conv2d,
    norms: Norms,
}

impl ResnetGenerator {
    /// From pictures of `inputs` channels to `outputs`.
    pub fn new(inputs: usize, outputs: usize, config: &GeneratorConfig, init: &mut Init) -> Self {
        let (k, halvings, norm) = (config.generator_channels, config.halvings, config.generator_norm);
        let down =
            |i: usize, init: &mut Init| Conv2dConfig { stride: 2, padding: 1, ..norm.conv(i, 2 * i, 3) }.init(init);
        let up = |o: usize, init: &mut Init| {
            Conv2dConfig { stride: 2, padding: 1, output_padding: 1, ..norm.conv(2 * o, o, 3) }.init_transposed(init)
        };
        let widths = || (0..halvings).map(|at| k << at);
        let block = |init: &mut Init| ResidualBlock::new(k << halvings, norm, config.dropout, WEIGHTS, init);
        Self {
            first: norm.conv(inputs, k, 7).init(init),
            down: widths().map(|width| down(width, init)).collect(),
            blocks: (0..config.blocks).map(|_| block(init)).collect(),
            up: widths().rev().map(|width| up(width, init)).collect(),
            last: conv(k, outputs, 7).init(init),
            norms: Norms::new(norm, (0..=halvings).map(|at| k << at).chain(widths().rev()), init),
        }
    }

    /// # Shapes
    /// `[n, inputs, h, w]` → `[n, outputs, h, w]`; h and w must be divisible by 2^halvings, and at least twice as much.
    pub fn forward(&self, x: Tensor<4>, pass: &Pass) -> Tensor<4> {
        let relu = |i: usize, x: Tensor<4>| self.norms.forward(i, x, Activation::Relu, pass);
        let x = relu(0, self.first.forward(reflect_pad(x, 3)));
        let x = self.down.iter().enumerate().fold(x, |x, (i, conv)| relu(1 + i, conv.forward(x)));
        let x = self.blocks.iter().enumerate().fold(x, |x, (i, block)| block.forward(i, x, pass));
        let above = 1 + self.down.len();
        let x = self.up.iter().enumerate().fold(x, |x, (i, conv)| relu(above + i, conv.forward(x)));
        self.last.forward(reflect_pad(x, 3)).tanh()
    }
}

/// Rk: two 3×3 convolutions, ReLU and dropout between them, added to the input.
#[derive(Module, Debug)]
pub struct ResidualBlock {
    conv1: Conv2d,
    conv2: Conv2d,
    norms: Norms,
    #[module(skip)]
    dropout: f64,
}

impl ResidualBlock {
    /// Of so many channels, in and out.
    pub fn new(channels: usize, norm: Normalization, dropout: f64, weight: WeightInit, init: &mut Init) -> Self {
        let config = Conv2dConfig { weight, ..norm.conv(channels, channels, 3) };
        let (conv1, conv2) = (config.init(init), config.init(init));
        Self { conv1, conv2, norms: Norms::new(norm, [channels; 2], init), dropout }
    }

    /// The `at`-th block of a network.
    ///
    /// # Shapes
    /// `[n, channels, h, w]` → the same
    pub fn forward(&self, at: usize, x: Tensor<4>, pass: &Pass) -> Tensor<4> {
        let h = self.norms.forward(0, self.conv1.forward(reflect_pad(x.clone(), 1)), Activation::Relu, pass);
        let h = pass.drop(at, h, self.dropout);
        let h = self.norms.forward(1, self.conv2.forward(reflect_pad(h, 1)), Activation::None, pass);
        add_activate(h, x, Activation::None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translation::import::reference_names;
    use crate::translation::testing::{compare, compare_in};

    #[test]
    fn equals_the_authors_with_batch_norm() {
        let config = GeneratorConfig {
            generator_channels: 2,
            blocks: 1,
            generator_norm: Normalization::Batch,
            ..GeneratorConfig::default()
        };
        let network = |init: &mut Init| ResnetGenerator::new(3, 3, &config, init);
        let names = reference_names(&config);
        compare_in("translation", "resnet_batch", network, |net, x| net.forward(x, &Pass::default()), &names);
    }

    #[test]
    fn equals_pytorch() {
        let config = GeneratorConfig { generator_channels: 4, blocks: 2, ..GeneratorConfig::default() };
        compare(
            "cyclegan_g",
            |init| ResnetGenerator::new(3, 3, &config, init),
            |net, x| net.forward(x, &Pass::default()),
            &[
                ("first", "1"),
                ("down.0", "4"),
                ("down.1", "7"),
                ("blocks.0.conv1", "10.conv_block.1"),
                ("blocks.0.conv2", "10.conv_block.5"),
                ("blocks.1.conv1", "11.conv_block.1"),
                ("blocks.1.conv2", "11.conv_block.5"),
                ("up.0", "12"),
                ("up.1", "15"),
                ("last", "19"),
            ],
        );
    }
}
