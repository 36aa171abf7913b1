//! Generative adversarial networks. Their losses and latents are shared; each system brings its own
//! networks.

pub mod acgan;
pub mod biggan;
pub mod cgan;
pub mod class_latents;
pub mod dcgan;
pub mod ebgan;
pub mod equalised;
pub mod gan;
pub mod growing;
pub mod infogan;
pub mod latent;
pub mod msgan;
pub mod objective;
pub mod players;
pub mod progan;
pub mod residual;
pub mod sagan;
pub mod style;
pub mod stylegan;
pub mod stylegan2;
#[cfg(test)]
pub(crate) mod testing;
