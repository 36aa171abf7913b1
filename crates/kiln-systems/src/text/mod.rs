//! Texts and pictures.

pub mod clip;
mod tower;
