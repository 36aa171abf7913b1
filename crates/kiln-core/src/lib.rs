//! What every crate of Kiln shares: errors that are one clear line, and randomness that is a
//! function of (seed, purpose, index) instead of a state.

mod error;
mod lock;
pub mod random;

pub use error::{Context, Error, Result};
pub use lock::Lock;
