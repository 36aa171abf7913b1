//! Texts and pictures.

pub mod clip;
pub mod encoder;
pub mod gan_int_cls;
pub mod stackgan;
mod tower;
