//! Which networks see pictures the way the field's figures do?
//!
//! Published networks, each loaded from its published weights file ([`WeightsFile`]): a
//! [`FeatureNet`] gives the features that distances between sets are measured in, and [`Lpips`] the
//! perceptual distance between two pictures. The networks are frozen: batch normalisation is folded
//! into the convolutions when a file is read.

pub mod alexnet;
pub mod inception;
mod layers;
pub mod lpips;
pub mod mobilenet;
mod net;
mod pickle;
pub mod pixels;
pub mod vgg;
mod weights;

pub use lpips::Lpips;
pub use net::{FeatureNet, Seen};
pub use weights::WeightsFile;
