//! The style of one picture on what another shows.

pub mod adain;
pub mod gatys;
pub mod vgg;
