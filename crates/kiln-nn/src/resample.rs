//! Changing the size of feature maps: nearest enlargement, reflection padding, pooling.

use burn::tensor::{Int, Tensor};

/// Each pixel becomes a `factor`×`factor` block.
///
/// # Shapes
/// [n, c, h, w] → [n, c, factor·h, factor·w]
pub fn upsample_nearest(x: Tensor<4>, factor: usize) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    x.reshape([n, c, h, 1, w, 1])
        .repeat_dim(3, factor)
        .repeat_dim(5, factor)
        .reshape([n, c, factor * h, factor * w])
}

/// Mirrors `pad` rows and columns at each border, the border itself not repeated
/// (PyTorch's `ReflectionPad2d`). `pad` must be smaller than height and width.
///
/// # Shapes
/// [n, c, h, w] → [n, c, h + 2·pad, w + 2·pad]
pub fn reflect_pad(x: Tensor<4>, pad: usize) -> Tensor<4> {
    let [_, _, h, w] = x.dims();
    let device = x.device().without_autodiff();
    let mirror = |len: usize| {
        let last = len as i64 - 1;
        let at: Vec<i64> = (-(pad as i64)..len as i64 + pad as i64)
            .map(|i| last - (last - i.abs()).abs())
            .collect();
        Tensor::<1, Int>::from_data(at.as_slice(), &device)
    };
    x.select(2, mirror(h)).select(3, mirror(w))
}

/// Mean over height and width: [n, c, h, w] → [n, c].
pub fn global_mean(x: Tensor<4>) -> Tensor<2> {
    let [n, c, h, w] = x.dims();
    x.reshape([n, c, h * w]).mean_dim(2).reshape([n, c])
}
