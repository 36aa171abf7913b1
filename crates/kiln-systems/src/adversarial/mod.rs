//! Generative adversarial networks. Their losses and latents are shared; each system brings its own
//! networks.

pub mod cgan;
pub mod dcgan;
pub mod ebgan;
pub mod gan;
pub mod infogan;
pub mod latent;
pub mod objective;
#[cfg(test)]
mod testing;
