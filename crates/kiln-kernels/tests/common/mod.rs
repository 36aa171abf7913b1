//! Tensors to compare operations on, and how they are compared.

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use std::cell::Cell;

thread_local! {
    /// A test is a thread: its numbers are the same whatever runs beside it.
    static STATE: Cell<u64> = const { Cell::new(1) };
}

/// Between 0 and 1, neither included (splitmix64).
fn uniform() -> f64 {
    let state = STATE.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
    STATE.set(state);
    let mixed = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((mixed ^ mixed >> 31) >> 11) as f64 / (1u64 << 53) as f64 + f64::EPSILON / 4.0
}

/// Standard normal, by Box and Muller.
pub fn random<const D: usize>(dims: [usize; D]) -> Tensor<D> {
    let normal = |_| ((-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32;
    let values: Vec<f32> = (0..dims.iter().product()).map(normal).collect();
    Tensor::from_data(TensorData::new(values, dims), &Device::flex())
}

pub fn tracked<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
    Tensor::from_inner(x.clone()).require_grad()
}

pub fn frozen<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
    Tensor::from_inner(x.clone())
}

pub fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_to_vec::<f32>().unwrap()
}

#[track_caller]
pub fn close<const D: usize>(what: &str, got: Tensor<D>, expected: Tensor<D>) {
    assert_eq!(got.dims(), expected.dims(), "{what}");
    let (got, expected) = (values(got), values(expected));
    let scale = expected.iter().fold(0.1f32, |m, v| m.max(v.abs()));
    for (i, (g, e)) in got.iter().zip(&expected).enumerate() {
        assert!((g - e).abs() <= 5e-5 * scale, "{what}[{i}]: {g}, Burn {e}");
    }
}

/// An image whose memory is not in row-major order, and one that is a window of a larger one.
pub fn awkward(dims: [usize; 4]) -> [Tensor<4>; 2] {
    let [n, c, h, w] = dims;
    [
        random([n, h, w, c]).permute([0, 3, 1, 2]),
        random([n + 1, c, h + 2, w + 1]).slice([1..n + 1, 0..c, 1..h + 1, 0..w]),
    ]
}

/// Gradients of `sum(y * g)`.
pub fn backward<const D: usize>(y: Tensor<D>, g: &Tensor<D>) -> Gradients {
    (y * Tensor::from_inner(g.clone())).sum().backward()
}
