//! Autoencoders and models with an explicit likelihood: one file per paper, and what the papers share.
//!
//! Shared: [`networks`] (encoders and decoders), [`coder`] (networks with a deterministic output), [`pixels`] (p(x|z) and
//! binarisation), [`bound`] (bounds on log p(x)), [`latent`] (the model with a Gaussian latent and its abilities) and
//! [`autoregressive`] (training, likelihood and sampling of networks that predict pixel after pixel).

pub mod aae;
pub mod ae;
pub mod autoregressive;
pub mod betatcvae;
pub mod betavae;
pub mod bound;
pub mod coder;
pub mod cvae;
pub mod dcign;
pub mod dvae;
pub mod iwae;
pub mod latent;
pub mod networks;
pub mod pixelcnn;
pub mod pixelrnn;
pub mod pixels;
pub mod probe;
pub mod ssvae;
#[cfg(test)]
mod testing;
pub mod vae;
