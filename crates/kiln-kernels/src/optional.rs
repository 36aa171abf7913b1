//! A tensor argument of an operation that may be absent, such as a bias.

use burn::backend::{Backend, ExtensionType, tensor::FloatTensor};

/// A tensor that may be absent.
#[derive(ExtensionType)]
pub enum Optional<B: Backend> {
    /// Present.
    Some(FloatTensor<B>),
    /// Absent.
    None,
}
