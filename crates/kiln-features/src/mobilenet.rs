//! MobileNetV2 (Sandler 2018), in torchvision's layout.

use burn::tensor::{Device, Tensor};
use kiln_core::Result;
use kiln_nn::Linear;
use kiln_nn::resample::global_mean;

use crate::WeightsFile;
use crate::inverted::{Inverted, relu6};
use crate::layers::{Conv, Loader, Window};

const K1: Window = Window::square(1, 1, 0);

/// Table 2 of the paper: expansion t, channels c, repetitions n, stride s of the first.
const BOTTLENECKS: [[usize; 4]; 7] =
    [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]];

/// The bottlenecks whose outputs are stages: the last of each resolution.
const STAGES: [usize; 5] = [0, 2, 5, 12, 16];

fn bottleneck(
    loader: &Loader<'_>,
    path: &str,
    [inputs, outputs]: [usize; 2],
    expansion: usize,
    stride: usize,
) -> Result<Inverted> {
    let hidden = inputs * expansion;
    let with_norm = |at: usize, channels, window| {
        loader.normed(&format!("{path}.conv.{at}.0"), &format!("{path}.conv.{at}.1"), channels, window)
    };
    // Without an expansion the layers move up by one.
    let expands = expansion != 1;
    let at = usize::from(expands);
    let expand = expands.then(|| with_norm(0, [inputs, hidden], K1)).transpose()?;
    let depthwise = with_norm(at, [hidden, hidden], Window::square(3, stride, 1).depthwise(hidden))?;
    let (conv, norm) = (format!("{path}.conv.{}", at + 1), format!("{path}.conv.{}", at + 2));
    let project = loader.normed(&conv, &norm, [hidden, outputs], K1)?;
    Ok(Inverted { expand, depthwise, project, residual: stride == 1 && inputs == outputs })
}

/// The network.
#[derive(Debug)]
pub struct MobileNetV2 {
    first: Conv,
    bottlenecks: Vec<Inverted>,
    last: Conv,
    classifier: Linear,
}

impl MobileNetV2 {
    /// Reads the network.
    ///
    /// # Errors
    /// Names the first tensor that is missing or of another shape.
    pub fn load(file: &WeightsFile, device: &Device) -> Result<Self> {
        let loader = &Loader { file, net: "mobilenetv2", device, eps: 1e-5 };
        let (mut channels, mut bottlenecks) = (32, Vec::new());
        for [expansion, outputs, repetitions, stride] in BOTTLENECKS {
            for i in 0..repetitions {
                let path = format!("features.{}", bottlenecks.len() + 1);
                let stride = if i == 0 { stride } else { 1 };
                bottlenecks.push(bottleneck(loader, &path, [channels, outputs], expansion, stride)?);
                channels = outputs;
            }
        }
        Ok(Self {
            first: loader.normed("features.0.0", "features.0.1", [3, 32], Window::square(3, 2, 1))?,
            last: loader.normed("features.18.0", "features.18.1", [channels, 1280], K1)?,
            classifier: loader.linear("classifier.1", [1280, 1000])?,
            bottlenecks,
        })
    }

    /// The last feature map's mean, of pictures on the scale of [`crate::pixels::imagenet`].
    ///
    /// # Shapes
    /// `[n, 3, h, w]` → `[n, 1280]`
    pub fn features(&self, x: Tensor<4>) -> Tensor<2> {
        let x = relu6(self.first.forward(x));
        let x = self.bottlenecks.iter().fold(x, |x, b| b.forward(x));
        global_mean(relu6(self.last.forward(x)))
    }

    /// The logits of ImageNet's 1000 classes.
    ///
    /// # Shapes
    /// `[n, 1280]` features → `[n, 1000]`
    pub fn logits(&self, features: Tensor<2>) -> Tensor<2> {
        self.classifier.forward(features)
    }

    /// The last output of each resolution, 16, 24, 32, 96 and 320 channels at 1/2 to 1/32 of the size
    /// (torchvision's `features.1`, `.3`, `.6`, `.13` and `.17`).
    pub fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        Inverted::outputs(&self.bottlenecks, relu6(self.first.forward(x)), &STAGES)
    }
}
