//! Perceptual distances by the words that name them.

use std::path::Path;

use burn::tensor::Device;
use kiln_core::{Error, Result};
use kiln_features::{Lpips, WeightsFile};

/// The one that needs no file but Kiln's own download.
pub const DEFAULT: &str = "lpips-like-mobilenetv2";

/// `lpips-like-mobilenetv2`, `lpips-vgg16:FILE` or `lpips-alex:FILE`. Errors begin with `asked`, where the name was given.
///
/// # Errors
/// If there is no such network, or its file is not there.
pub fn lpips(asked: &str, spec: &str, device: &Device) -> Result<Lpips> {
    let fetched = |name: &str| WeightsFile::open(&kiln_data::trained_file(name)?);
    match spec.split_once(':') {
        None if spec == DEFAULT => Lpips::like_mobilenetv2(&fetched("weights:mobilenetv2")?, device),
        Some(("lpips-vgg16", file)) => {
            Lpips::vgg16(&WeightsFile::open(Path::new(file))?, &fetched("weights:lpips-vgg16")?, device)
        }
        Some(("lpips-alex", file)) => {
            Lpips::alex(&WeightsFile::open(Path::new(file))?, &fetched("weights:lpips-alex")?, device)
        }
        _ => Err(Error::usage(format!(
            "{asked} {spec}: give {DEFAULT}, or lpips-vgg16:FILE or lpips-alex:FILE with torchvision's weights"
        ))),
    }
}
