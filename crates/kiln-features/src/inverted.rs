//! The inverted residual of MobileNetV2 (Sandler 2018, section 3.3), which EfficientNet-Lite has as well.

use burn::tensor::Tensor;

use crate::layers::Conv;

/// 1×1 to more channels, depthwise, 1×1 back without an activation.
#[derive(Debug)]
pub(crate) struct Inverted {
    pub(crate) expand: Option<Conv>,
    pub(crate) depthwise: Conv,
    pub(crate) project: Conv,
    /// Whether the input is added.
    pub(crate) residual: bool,
}

impl Inverted {
    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = match &self.expand {
            Some(conv) => relu6(conv.forward(x.clone())),
            None => x.clone(),
        };
        let y = self.project.forward(relu6(self.depthwise.forward(y)));
        if self.residual { x + y } else { y }
    }

    /// The outputs of those blocks whose numbers are in `wanted`.
    pub(crate) fn outputs(blocks: &[Self], mut x: Tensor<4>, wanted: &[usize]) -> Vec<Tensor<4>> {
        let mut outputs = Vec::with_capacity(wanted.len());
        for (i, block) in blocks.iter().enumerate() {
            x = block.forward(x);
            if wanted.contains(&i) {
                outputs.push(x.clone());
            }
        }
        outputs
    }
}

pub(crate) fn relu6(x: Tensor<4>) -> Tensor<4> {
    x.clamp(0.0, 6.0)
}
