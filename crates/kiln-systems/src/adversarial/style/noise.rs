//! The noise inputs: a picture of noise for each layer, which the layer adds in a strength it learns. They make what is
//! chance in a picture, such as where each hair lies.

use std::ops::Range;

use burn::module::{Module, Param, RunningState};
use burn::tensor::{Device, Tensor};
use kiln_core::random::Key;
use kiln_nn::{Init, WeightInit};

/// The noise input of a layer.
#[derive(Module, Debug)]
pub struct NoiseInput {
    /// How much of it is added to each channel: one number for all in StyleGAN2, one a channel in StyleGAN; 0 at first.
    pub strength: Param<Tensor<1>>,
    /// The noise of pictures that are not to differ by it, `[h, w]`.
    pub constant: RunningState<Tensor<2>>,
}

impl NoiseInput {
    /// For maps of this size, with `strengths` strengths.
    pub fn new(strengths: usize, [height, width]: [usize; 2], init: &mut Init) -> Self {
        Self {
            strength: init.weight([strengths], 1, WeightInit::Zero),
            constant: RunningState::new(init.normal([height, width], 0.0, 1.0).val().detach()),
        }
    }

    /// What is added to maps, `[n or 1, channels or 1, h, w]`, of noise `[n or 1, 1, h, w]`.
    pub fn scaled(&self, noise: Tensor<4>) -> Tensor<4> {
        let [strengths] = self.strength.dims();
        noise * self.strength.val().reshape([1, strengths, 1, 1])
    }
}

/// The noise of a pass: one tensor a layer, `[n or 1, 1, h, w]`; none where a network runs without.
pub type Noise = Vec<Tensor<4>>;

/// The constant noise of layers, the same for all samples.
pub fn constant<'a>(layers: impl Iterator<Item = &'a NoiseInput>) -> Noise {
    let of = |layer: &NoiseInput| {
        let noise = layer.constant.value_sync();
        let noise = if noise.is_autodiff() { noise.inner() } else { noise };
        noise.unsqueeze::<4>()
    };
    layers.map(of).collect()
}

/// Noise of its own for each sample, keyed by its index and the layer.
pub fn drawn<'a>(
    layers: impl Iterator<Item = &'a NoiseInput>,
    key: Key,
    samples: Range<u64>,
    device: &Device,
) -> Noise {
    let n = (samples.end - samples.start) as usize;
    let of = |(i, layer): (usize, &NoiseInput)| {
        let [h, w] = layer.constant.value_sync().dims();
        kiln_nn::tensor::normal(key.at(i as u64), samples.clone(), [n, 1, h, w], device)
    };
    layers.enumerate().map(of).collect()
}
