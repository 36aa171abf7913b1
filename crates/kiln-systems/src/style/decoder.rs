//! The network that turns an encoder's maps into a picture.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_nn::resample::{reflect_pad, upsample_nearest};
use kiln_nn::{Activation, Conv2d, Conv2dConfig, Init, activate};

use super::vgg::Reach;

/// VGG turned around: 3×3 convolutions with reflections, ReLU but after the last, and repetition of pixels where the encoder takes
/// maxima (Huang & Belongie 2017, §6).
#[derive(Module, Debug)]
pub struct Decoder {
    convs: Vec<Conv2d>,
    #[module(skip)]
    reach: Reach,
}

/// Channels that go into the convolutions from relu4_1 on, as multiples of the encoder's first; `None` repeats pixels.
const FROM_RELU4_1: [Option<usize>; 12] =
    [Some(8), None, Some(4), Some(4), Some(4), Some(4), None, Some(2), Some(2), None, Some(1), Some(1)];

/// What there is to do from a layer on.
fn plan(reach: Reach) -> &'static [Option<usize>] {
    match reach {
        Reach::Relu3_1 => &FROM_RELU4_1[5..],
        Reach::Relu4_1 | Reach::Relu4_2 => &FROM_RELU4_1,
    }
}

impl Decoder {
    /// Of the last maps of an encoder with `k` channels in its first block, drawn as PyTorch draws.
    pub fn new(reach: Reach, k: usize, init: &mut Init) -> Self {
        let widths = plan(reach).iter().flatten().map(|times| times * k);
        let widths: Vec<usize> = widths.chain([3]).collect();
        Self { convs: widths.windows(2).map(|w| Conv2dConfig::new(w[0], w[1], 3).init(init)).collect(), reach }
    }

    /// # Shapes
    /// `[n, 8k, h, w]` → `[n, 3, 8h, 8w]` from relu4_1, `[n, 4k, h, w]` → `[n, 3, 4h, 4w]` from relu3_1; it learns to stay in [−1, 1].
    pub fn forward(&self, maps: Tensor<4>) -> Tensor<4> {
        let mut convs = self.convs.iter().enumerate();
        plan(self.reach).iter().fold(maps, |x, step| match (step, step.and_then(|_| convs.next())) {
            (Some(_), Some((i, conv))) => {
                let x = conv.forward(reflect_pad(x, 1));
                if i + 1 == self.convs.len() { x } else { activate(x, Activation::Relu) }
            }
            _ => upsample_nearest(x, 2),
        })
    }
}
