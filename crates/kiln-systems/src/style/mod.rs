//! The style of one picture on what another shows.

pub mod adain;
pub mod decoder;
pub mod gatys;
pub mod import;
pub mod layers;
pub mod styleswap;
pub mod texnet;
pub mod transform;
pub mod vgg;
