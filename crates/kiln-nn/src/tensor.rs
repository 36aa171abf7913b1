//! Between host memory and tensors, and keyed random tensors.

use burn::tensor::{Device, Int, Tensor, TensorData};
use kiln_core::random::Key;

use crate::dual::Signal;

/// A tensor from host values in row-major order. `values.len()` must be the product of `shape`.
pub fn from_values<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// A tensor of indices from host values.
pub fn from_indices(values: &[u32], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.iter().map(|&v| i64::from(v)).collect();
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), device)
}

/// Numbers that no gradient goes through, for operations with `like`: on an autodiff device as it is there.
pub fn constant_beside<const D: usize, const E: usize>(numbers: Tensor<D>, like: &Tensor<E>) -> Tensor<D> {
    match like.gradient_checkpointing_strategy() {
        Some(strategy) => Tensor::from_inner(numbers).with_gradient_checkpointing_strategy(strategy),
        None => numbers,
    }
}

/// Host values of a tensor in row-major order.
pub fn to_values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    // Converted to f32 on the way, which is the only way reading can fail.
    tensor.try_into_vec_as::<f32>().unwrap_or_default()
}

/// Standard normal samples `indices`, each of `shape`: `[indices.len(), shape…]`.
/// Sample i is the same whatever other indices are drawn with it.
pub fn normal<const D: usize>(
    key: Key,
    indices: std::ops::Range<u64>,
    shape: [usize; D],
    device: &Device,
) -> Tensor<D> {
    from_values(key.normal(indices, shape[1..].iter().product()), shape, device)
}

/// Uniform samples in [0, 1), likewise.
pub fn uniform<const D: usize>(
    key: Key,
    indices: std::ops::Range<u64>,
    shape: [usize; D],
    device: &Device,
) -> Tensor<D> {
    from_values(key.uniform(indices, shape[1..].iter().product()), shape, device)
}

/// Dropout (Srivastava 2014): zeroes each element with probability `rate` and scales the rest by
/// 1 / (1 − rate). The mask is keyed; pass `None` for inference.
pub fn dropout<const D: usize, X: Signal<D>>(x: X, rate: f64, key: Option<Key>) -> X {
    let samples = 0..x.dims()[0] as u64;
    match key {
        Some(key) => dropout_of(x, rate, key, samples),
        None => x,
    }
}

/// Dropout where each sample has a mask of its own, whatever batch it comes in.
pub fn dropout_of<const D: usize, X: Signal<D>>(x: X, rate: f64, key: Key, samples: std::ops::Range<u64>) -> X {
    if rate <= 0.0 {
        return x;
    }
    let kept = uniform(key, samples, x.dims(), &x.value().device()).greater_equal_elem(rate as f32).float();
    x.linear(|x| x * kept.clone() / (1.0 - rate))
}

/// Classes as maps of 0 and 1, one a class.
///
/// # Shapes
/// `[n, h, w]` → `[n, count, h, w]`
pub fn one_hot(classes: Tensor<3, Int>, count: usize) -> Tensor<4> {
    let [n, h, w] = classes.dims();
    let maps = (0..count).map(|class| classes.clone().equal_elem(class as i64).float().reshape([n, 1, h, w]));
    Tensor::cat(maps.collect(), 1)
}

/// `[n]` values as `[n, 1, 1, 1]`, to multiply pictures.
pub fn per_sample(x: Tensor<1>) -> Tensor<4> {
    let n = x.dims()[0];
    x.reshape([n, 1, 1, 1])
}
