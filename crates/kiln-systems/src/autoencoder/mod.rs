//! Autoencoders and explicit likelihood.
