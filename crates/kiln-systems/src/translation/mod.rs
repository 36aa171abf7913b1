//! Image-to-image translation.

pub mod cyclegan;
pub mod networks;
#[cfg(test)]
mod testing;
