//! Published feature networks, which metrics of the literature are computed with.
//!
//! Each network is loaded from its published weights file ([`WeightsFile`]). A [`FeatureNet`] gives the features
//! for distances between sets, and [`Lpips`] the perceptual distance between two images. The networks are frozen:
//! batch normalisation is folded into the convolutions when a file is read.

pub mod alexnet;
pub mod efficientnet;
mod element;
mod hdf5;
pub mod inception;
mod inverted;
mod layers;
pub mod lpips;
pub mod mobilenet;
mod net;
mod pickle;
pub mod pixels;
mod style;
pub mod vgg;
mod weights;

pub use lpips::Lpips;
pub use net::{FeatureNet, Seen};
pub use style::LayerNet;
pub use weights::WeightsFile;
