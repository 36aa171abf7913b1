//! Adversarial generators. The games they play and their latents are shared; a system brings the
//! networks.

pub mod cgan;
pub mod dcgan;
pub mod latent;
pub mod objective;
#[cfg(test)]
mod testing;
