//! Autoencoders and explicit likelihood.

pub mod vae;
