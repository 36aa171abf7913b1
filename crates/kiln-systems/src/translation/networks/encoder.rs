//! The encoder of BicycleGAN (Zhu 2017, *Toward Multimodal Image-to-Image Translation*, §4; `E_ResNet` of the authors' code).

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_nn::resample::{avg_pool2d, global_mean};
use kiln_nn::{Activation, Conv2d, Init, Linear, LinearConfig, activate, add_activate};

use super::codes::PaddedConv;
use super::{Normalization, Norms, Pass, WEIGHTS, conv};

/// Slope of LeakyReLU.
const LEAK: Activation = Activation::LeakyRelu(0.2);
/// Channels grow to so many times the first.
const WIDEST: usize = 4;

/// A 4×4 convolution and residual blocks, each of which halves the picture; leaky ReLU and the mean over pixels; the mean and the log
/// variance of z by a linear layer each.
#[derive(Module, Debug)]
pub struct ResidualEncoder {
    first: PaddedConv,
    blocks: Vec<EncoderBlock>,
    mean: Linear,
    log_var: Linear,
}

/// What is around a picture.
#[derive(Clone, Copy, Debug)]
enum Border {
    Zeros,
    Reflection,
}

impl Border {
    /// A convolution with so much of it on each side.
    fn conv(self, sides: [usize; 2], kernel: usize, stride: usize, padding: usize, init: &mut Init) -> PaddedConv {
        match self {
            Self::Zeros => PaddedConv::with_zeros(sides, kernel, stride, padding, WEIGHTS, init),
            Self::Reflection => PaddedConv::new(sides, kernel, stride, padding, WEIGHTS, init),
        }
    }
}

impl ResidualEncoder {
    /// Pictures of `channels` channels, `k` channels after the first layer, z of `latent` numbers; padded by zeros.
    pub fn new(channels: usize, k: usize, blocks: usize, latent: usize, norm: Normalization, init: &mut Init) -> Self {
        Self::bordered(channels, k, [blocks, latent], norm, Border::Zeros, init)
    }

    /// The same without norms, padded by reflection, as DRIT has it (Lee 2018).
    pub fn reflecting(channels: usize, k: usize, blocks: usize, latent: usize, init: &mut Init) -> Self {
        Self::bordered(channels, k, [blocks, latent], Normalization::None, Border::Reflection, init)
    }

    fn bordered(
        channels: usize,
        k: usize,
        [blocks, latent]: [usize; 2],
        norm: Normalization,
        border: Border,
        init: &mut Init,
    ) -> Self {
        let width = |at: usize| k * (at + 1).min(WIDEST);
        let linear =
            |init: &mut Init| LinearConfig { weight: WEIGHTS, ..LinearConfig::new(width(blocks), latent) }.init(init);
        let block = |at: usize, init: &mut Init| EncoderBlock::new(width(at), width(at + 1), norm, border, init);
        Self {
            first: border.conv([channels, k], 4, 2, 1, init),
            blocks: (0..blocks).map(|at| block(at, init)).collect(),
            mean: linear(init),
            log_var: linear(init),
        }
    }

    /// # Shapes
    /// `[n, channels, h, w]` → mean and log variance, `[n, latent]` each
    pub fn forward(&self, x: Tensor<4>) -> (Tensor<2>, Tensor<2>) {
        let x = self.blocks.iter().fold(self.first.forward(x), |x, block| block.forward(x));
        let x = global_mean(activate(x, LEAK));
        (self.mean.forward(x.clone()), self.log_var.forward(x))
    }
}

/// Norm, leaky ReLU, 3×3 convolution, norm, leaky ReLU, 3×3 convolution and the mean of 2×2 pixels; beside it the mean of 2×2 pixels and a
/// 1×1 convolution.
#[derive(Module, Debug)]
pub struct EncoderBlock {
    norms: Norms,
    conv1: PaddedConv,
    conv2: PaddedConv,
    shortcut: Conv2d,
}

impl EncoderBlock {
    fn new(inputs: usize, outputs: usize, norm: Normalization, border: Border, init: &mut Init) -> Self {
        Self {
            norms: Norms::new(norm, [inputs; 2], init),
            conv1: border.conv([inputs; 2], 3, 1, 1, init),
            conv2: border.conv([inputs, outputs], 3, 1, 1, init),
            shortcut: conv(inputs, outputs, 1).init(init),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let pass = Pass::default();
        let halved = |x: Tensor<4>| avg_pool2d(x, 2, 2, 0);
        let h = self.conv1.forward(self.norms.forward(0, x.clone(), LEAK, &pass));
        let h = self.conv2.forward(self.norms.forward(1, h, LEAK, &pass));
        add_activate(halved(h), self.shortcut.forward(halved(x)), Activation::None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translation::testing::{compare_in, named};

    #[test]
    fn equals_the_authors() {
        let names = named(&[
            ("first.conv", "net.conv.0"),
            ("blocks.0.conv1.conv", "net.conv.1.conv.2"),
            ("blocks.0.conv2.conv", "net.conv.1.conv.5.0"),
            ("blocks.0.shortcut", "net.conv.1.shortcut.1"),
            ("mean", "net.fc.0"),
            ("log_var", "net.fcVar.0"),
        ]);
        let network = |init: &mut Init| ResidualEncoder::new(3, 2, 1, 4, Normalization::Instance, init);
        let forward = |net: &ResidualEncoder, x: Tensor<4>| {
            let (mean, log_var) = net.forward(x);
            Tensor::cat(vec![mean.flatten::<1>(0, 1), log_var.flatten(0, 1)], 0)
        };
        compare_in("translation", "bicycle_e", network, forward, &names);
    }
}
