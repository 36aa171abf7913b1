//! Tensors to compare operations on, and how they are compared.

use burn::tensor::{Device, Distribution, Gradients, Tensor};

pub fn random<const D: usize>(dims: [usize; D]) -> Tensor<D> {
    Tensor::random(dims, Distribution::Normal(0.0, 1.0), &Device::flex())
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
