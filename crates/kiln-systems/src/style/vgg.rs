//! VGG as an encoder of style: its convolutions up to relu4_1, with reflections around the picture (Huang & Belongie 2017, §6).

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use kiln_features::pixels::imagenet;
use kiln_features::vgg::Depth;
use kiln_nn::resample::reflect_pad;
use kiln_nn::{Activation, Conv2d, Conv2dConfig, Init, WeightInit, activate};
use kiln_train::system::NetworkPaths;

/// Convolutions of each block up to relu4_1.
fn blocks(depth: Depth) -> [usize; 4] {
    match depth {
        Depth::Vgg16 => [2, 2, 3, 1],
        Depth::Vgg19 => [2, 2, 4, 1],
    }
}

/// Channels of the first block of the published networks.
pub const CHANNELS: usize = 64;

/// The encoder: frozen, of a file.
#[derive(Module, Debug)]
pub struct VggEncoder {
    convs: Vec<Conv2d>,
    #[module(skip)]
    blocks: [usize; 4],
}

impl VggEncoder {
    /// With `k` channels in the first block, doubled in each, and numbers that a file has better ones for.
    pub fn new(depth: Depth, k: usize, init: &mut Init) -> Self {
        let blocks = blocks(depth);
        let (mut inputs, mut convs) = (3, Vec::new());
        for (block, count) in blocks.into_iter().enumerate() {
            for _ in 0..count {
                let width = k << block;
                convs.push(Conv2dConfig { weight: WeightInit::He, ..Conv2dConfig::new(inputs, width, 3) }.init(init));
                inputs = width;
            }
        }
        Self { convs, blocks }
    }

    /// The names of torchvision's layers and the paths of those here, of an encoder that is the network `encoder`.
    pub fn paths(depth: Depth) -> NetworkPaths {
        match depth {
            Depth::Vgg16 => &[
                ("features.0", "encoder.convs.0"),
                ("features.2", "encoder.convs.1"),
                ("features.5", "encoder.convs.2"),
                ("features.7", "encoder.convs.3"),
                ("features.10", "encoder.convs.4"),
                ("features.12", "encoder.convs.5"),
                ("features.14", "encoder.convs.6"),
                ("features.17", "encoder.convs.7"),
            ],
            Depth::Vgg19 => &[
                ("features.0", "encoder.convs.0"),
                ("features.2", "encoder.convs.1"),
                ("features.5", "encoder.convs.2"),
                ("features.7", "encoder.convs.3"),
                ("features.10", "encoder.convs.4"),
                ("features.12", "encoder.convs.5"),
                ("features.14", "encoder.convs.6"),
                ("features.16", "encoder.convs.7"),
                ("features.19", "encoder.convs.8"),
            ],
        }
    }

    /// relu1_1, relu2_1, relu3_1 and relu4_1 of pictures in [−1, 1].
    ///
    /// # Shapes
    /// `[n, 3, h, w]` → `[n, 64, h, w]`, `[n, 128, h/2, w/2]`, `[n, 256, h/4, w/4]`, `[n, 512, h/8, w/8]`; h and w at least 16
    pub fn forward(&self, images: Tensor<4>) -> [Tensor<4>; 4] {
        let mut x = imagenet(images);
        let mut convs = self.convs.iter();
        self.blocks.map(|count| {
            let mut first = x.clone();
            for (i, conv) in convs.by_ref().take(count).enumerate() {
                x = activate(conv.forward(reflect_pad(x.clone(), 1)), Activation::Relu);
                if i == 0 {
                    first = x.clone();
                }
            }
            x = max_pool2d(x.clone(), MaxPoolOptions::new([2, 2]).with_stride([2, 2]));
            first
        })
    }
}
