//! What the tests of all families share: PyTorch's values.

#[path = "../../../tests/reference/fixtures.rs"]
mod fixtures;
#[path = "../../../tests/reference/hashed.rs"]
pub mod hashed;
use burn::tensor::Tensor;
pub use fixtures::Fixtures;
use kiln_core::Result;
use kiln_train::{Generate, Request};

/// Values of a reference tensor.
pub fn values(fixtures: &Fixtures, name: &str) -> Vec<f32> {
    fixtures.values(name).1.into_iter().map(|v| v as f32).collect()
}

/// Equal up to `tolerance`, relative for values above 1.
pub fn close(got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len());
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((g - e).abs() <= tolerance * e.abs().max(1.0), "element {i}: {g}, expected {e}");
    }
}

/// Samples as the verbs ask for them: what the system does not take is refused first.
pub fn requested<N>(system: &dyn Generate<N>, networks: &N, request: &Request) -> Result<Tensor<4>> {
    request.check("this", &system.takes())?;
    system.generate(networks, request)
}
