//! Autoencoders and explicit likelihood: a file a paper, and what the papers share.
//!
//! Shared: [`networks`] (encoders and decoders), [`pixels`] (p(x|z) and binarisation), [`bound`] (what bounds log p(x)) and
//! [`latent`] (the model with a Gaussian latent, and all that it can do);
//! [`autoregressive`] (what networks that predict pixel after pixel can do).

pub mod autoregressive;
pub mod bound;
pub mod cvae;
pub mod dvae;
pub mod iwae;
pub mod latent;
pub mod networks;
pub mod pixelcnn;
pub mod pixelrnn;
pub mod pixels;
#[cfg(test)]
mod testing;
pub mod vae;
