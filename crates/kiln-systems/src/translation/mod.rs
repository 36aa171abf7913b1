//! Image-to-image translation.

pub mod cyclegan;
