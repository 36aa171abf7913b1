//! Diffusion. Schedule, parameterisation, objective, sampler and guidance are separate and combine freely; [`process`] brings
//! them together, and a system brings the network and its conditions.

pub mod bound;
pub mod ddpm;
pub mod diffusers;
pub mod guidance;
pub mod noisy_classifier;
pub mod objective;
pub mod parameterisation;
pub mod process;
pub mod sampler;
pub mod schedule;
