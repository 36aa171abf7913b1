//! Diffusion. Schedule, parameterisation, objective, sampler and guidance are separate and combine freely; [`process`] brings
//! them together, and a system brings the network and its conditions.

pub mod bound;
pub mod codebook;
pub mod ddpm;
pub mod diffusers;
pub mod first_stage;
pub mod guidance;
pub mod ldm;
pub mod noisy_classifier;
pub mod objective;
pub mod palette;
pub mod parameterisation;
pub mod process;
pub mod sampler;
pub mod schedule;

use burn::tensor::Device;
use kiln_core::{Error, Result};
use kiln_nn::Condition;
use kiln_nn::tensor::from_indices;
use kiln_nn::unet::UNetConfig;
use kiln_train::SizeRule;

/// Whether the settings of `model.unet` fit together.
///
/// # Errors
/// A usage error that says which do not.
pub fn check_unet(unet: &UNetConfig) -> Result<()> {
    unet.check().map_err(|why| Error::usage(format!("model.unet: {why}")))
}

/// Images of these classes.
fn of_classes(classes: &[u32], device: &Device) -> Condition {
    Condition { class: Some(from_indices(classes, device)), ..Condition::default() }
}

/// The sizes of pictures that a U-Net takes: it halves them on every level but the first.
pub fn unet_sizes(unet: &UNetConfig) -> SizeRule {
    let levels = unet.channel_multipliers.len();
    SizeRule::multiple_of(unet.divisor(), format!("the {levels} levels of model.unet with patch = {}", unet.patch))
}
