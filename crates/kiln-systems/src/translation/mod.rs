//! Image-to-image translation.

pub mod bicyclegan;
pub mod cyclegan;
pub mod discogan;
pub mod drit;
pub mod dualgan;
pub mod import;
pub mod munit;
pub mod networks;
pub mod pix2pix;
pub mod spade;
#[cfg(test)]
pub(crate) mod testing;
pub mod two_way;
pub mod unit;
