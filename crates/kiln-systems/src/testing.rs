//! What the tests of all families share: PyTorch's values.

#[path = "../../../tests/reference/fixtures.rs"]
mod fixtures;
pub use fixtures::Fixtures;

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
