//! Diffusion. Schedule, parameterisation and sampler are separate and combine freely; a system
//! brings the network and the loss.

pub mod bound;
pub mod ddpm;
pub mod parameterisation;
pub mod sampler;
pub mod schedule;
