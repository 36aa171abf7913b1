//! Autoencoders and explicit likelihood: a file a paper, and what the papers share.
//!
//! Shared: [`networks`] (encoders and decoders), [`coder`] (networks without a distribution at their end), [`pixels`] (p(x|z) and
//! binarisation), [`bound`] (what bounds log p(x)), [`latent`] (the model with a Gaussian latent, and all that it can do) and
//! [`autoregressive`] (what networks that predict pixel after pixel are trained by and can do).

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
