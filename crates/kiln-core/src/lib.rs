//! Shared by every crate of Kiln: one-line errors, the reader and the writer of files, and random numbers that are a
//! function of (seed, purpose, index) instead of a generator's state.

mod error;
pub mod files;
mod lock;
pub mod output;
mod printable;
pub mod random;
mod seal;

pub use error::{Context, Error, INTERRUPTED, Result};
pub use files::{Budget, budget, open_file, read_file, read_text, read_within, set_budget};
pub use lock::Lock;
pub use printable::printable;
pub use seal::{hex, sealed, unsealed};
