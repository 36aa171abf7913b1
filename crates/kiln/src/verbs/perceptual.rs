//! The networks of perceptual distances, by the words of `--perceptual`.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use kiln_core::{Error, Result};
use kiln_features::{Lpips, WeightsFile};
use kiln_nn::resample::avg_pool2d;

/// The one that needs no file but Kiln's own download.
pub const DEFAULT: &str = "lpips-like-mobilenetv2";

/// The one that needs no file at all, for searches.
pub const PIXELS: &str = "pixels";

/// The mean square of the differences at the pictures' size and at each half of it down to 4 pixels, added up.
///
/// # Shapes
/// twice `[n, c, h, w]` → `[n]`
pub fn pixels(a: Tensor<4>, b: Tensor<4>) -> Tensor<1> {
    let mut difference = a - b;
    let [n, ..] = difference.dims();
    let mut total = Tensor::<1>::zeros([n], &difference.device());
    loop {
        total = total + difference.clone().square().mean_dims(&[1, 2, 3]).reshape([n]);
        let [_, _, h, w] = difference.dims();
        if h.min(w) < 8 || h % 2 == 1 || w % 2 == 1 {
            return total;
        }
        difference = avg_pool2d(difference, 2, 2, 0);
    }
}

/// `lpips-like-mobilenetv2`, `lpips-vgg16:FILE` or `lpips-alex:FILE`.
///
/// # Errors
/// If there is no such network, or its file is not there.
pub fn open(spec: &str, device: &Device) -> Result<Lpips> {
    let heads = |name: &str| WeightsFile::open(&kiln_data::trained_file(name)?);
    match spec.split_once(':') {
        None if spec == DEFAULT => {
            Lpips::like_mobilenetv2(&WeightsFile::open(&kiln_data::trained_file("weights:mobilenetv2")?)?, device)
        }
        Some(("lpips-vgg16", file)) => {
            Lpips::vgg16(&WeightsFile::open(Path::new(file))?, &heads("weights:lpips-vgg16")?, device)
        }
        Some(("lpips-alex", file)) => {
            Lpips::alex(&WeightsFile::open(Path::new(file))?, &heads("weights:lpips-alex")?, device)
        }
        _ => Err(Error::usage(format!(
            "--perceptual {spec}: give {DEFAULT}, or lpips-vgg16:FILE or lpips-alex:FILE with torchvision's weights"
        ))),
    }
}
