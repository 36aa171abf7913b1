//! Diffusion. Schedule, parameterisation, objective, sampler and guidance are separate and combine freely; a system
//! brings the network.

pub mod bound;
pub mod ddpm;
pub mod diffusers;
pub mod guidance;
pub mod noisy_classifier;
pub mod objective;
pub mod parameterisation;
pub mod sampler;
pub mod schedule;
