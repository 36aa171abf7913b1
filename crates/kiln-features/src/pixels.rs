//! Converts Kiln's images to the input a network was trained on: levels, size and scale.

use burn::tensor::{Device, Tensor};
use kiln_core::{Error, Result};
use kiln_kernels::{Filter, resample};
use kiln_nn::resample::{Interpolation, interpolate};
use kiln_nn::tensor::from_values;

/// `[n, c, h, w]` in [−1, 1] as RGB: one channel is repeated, three are kept.
///
/// # Errors
/// If there are neither 1 nor 3 channels, or no pixels.
pub fn rgb(images: Tensor<4>) -> Result<Tensor<4>> {
    match images.dims() {
        [n, c, h, w] if n * h * w == 0 => {
            Err(Error::new(format!("pictures of shape {:?} have no pixels to look at", [n, c, h, w])))
        }
        [_, 3, ..] => Ok(images),
        [_, 1, ..] => Ok(images.repeat_dim(1, 3)),
        [_, c, ..] => Err(Error::new(format!("the network sees RGB; the pictures have {c} channels"))),
    }
}

/// `[n, 1 or 3, h, w]` in [−1, 1] as RGB in whole levels 0..=255, as a PNG of them would hold: the
/// field's figures are of 8-bit pictures.
///
/// # Errors
/// As [`rgb`].
pub fn levels(images: Tensor<4>) -> Result<Tensor<4>> {
    Ok(((rgb(images)? + 1.0) * 127.5 + 0.5).floor().clamp(0.0, 255.0))
}

/// RGB in [−1, 1] on the scale of networks trained on ImageNet: (v − mean) / deviation in 0..1 by
/// channel. It is also LPIPS's scaling layer.
pub fn imagenet(images: Tensor<4>) -> Tensor<4> {
    let channels = |values: [f32; 3], device: &Device| from_values(values.to_vec(), [1, 3, 1, 1], device);
    let device = images.device();
    let (mean, deviation) = (channels([-0.030, -0.088, -0.188], &device), channels([0.458, 0.448, 0.450], &device));
    (images - mean) / deviation
}

/// Bilinear resize as TensorFlow 1 did it without `align_corners`: output i reads at i·in/out, not at
/// the pixels' centres, and without antialiasing. The published figures were measured through it.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, size[0], size[1]]`
pub fn resize_tensorflow1(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    let filter = |inputs: usize, outputs: usize| {
        // In f32 as there: the position's rounding is part of the definition.
        let scale = (inputs as f64 / outputs as f64) as f32;
        let taps = |i| {
            let at = i as f32 * scale;
            let low = (at as usize).min(inputs - 1);
            let part = at - low as f32;
            vec![(low, 1.0 - part), ((low + 1).min(inputs - 1), part)]
        };
        Filter::new(inputs, (0..outputs).map(taps))
    };
    let [_, _, h, w] = x.dims();
    resample(x, &filter(h, size[0]), &filter(w, size[1]))
}

/// Bilinear resize that averages when it shrinks: a triangle as wide as an output pixel around its
/// centre, Pillow's and PyTorch's `antialias=True`.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, size[0], size[1]]`
pub fn resize_antialiased(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    interpolate(x, size, Interpolation::Bilinear { antialias: true })
}
