//! Shared by every crate of Kiln: one-line errors, and random numbers that are a function of
//! (seed, purpose, index) instead of a generator's state.

mod error;
mod lock;
pub mod random;

pub use error::{Context, Error, INTERRUPTED, Result};
pub use lock::Lock;
