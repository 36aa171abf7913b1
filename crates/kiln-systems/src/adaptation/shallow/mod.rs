//! Shallow domain adaptation: methods in closed form on given features, which bring a labelled source and an
//! unlabelled target into one space, where the nearest source point, or a plane, gives a target picture its class.
//!
//! One file a method; [`map`] is what each of them learns, [`method`] lists them, [`system`] makes a system of them.

pub mod algebra;
pub mod domains;
pub mod features;
pub mod gfk;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod golden;
pub mod hog;
pub mod jda;
pub mod jgsa;
pub mod map;
pub mod method;
pub mod mmd;
pub mod otgl;
pub mod sa;
pub mod sca;
pub mod scale;
pub mod sda;
pub mod space;
pub mod stored;
pub mod system;
pub mod tca;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
pub mod tjm;
