//! Domain adaptation: a labelled source, an unlabelled target.

pub mod adda;
pub mod crosscity;
pub mod dann;
pub mod ddc;
pub mod dsn;
mod losses;
pub mod networks;
pub mod pixelda;
pub mod shallow;
#[cfg(test)]
mod testing;
