//! Shared by every crate of Kiln: one-line errors, the writer of files, and random numbers that are a function of
//! (seed, purpose, index) instead of a generator's state.

mod error;
mod lock;
pub mod output;
mod printable;
pub mod random;

pub use error::{Context, Error, Result};
pub use lock::Lock;
pub use printable::printable;
