//! Changing the size of feature maps: nearest enlargement, reflection padding, pooling.

use burn::tensor::Tensor;

/// Each pixel becomes a `factor`×`factor` block.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, factor·h, factor·w]`
pub fn upsample_nearest(x: Tensor<4>, factor: usize) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    x.reshape([n, c, h, 1, w, 1]).repeat_dim(3, factor).repeat_dim(5, factor).reshape([n, c, factor * h, factor * w])
}

/// Mirrors `pad` rows and columns at each border, the border itself not repeated
/// (PyTorch's `ReflectionPad2d`). `pad` must be smaller than height and width.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, h + 2·pad, w + 2·pad]`
pub fn reflect_pad(x: Tensor<4>, pad: usize) -> Tensor<4> {
    if pad == 0 {
        return x;
    }
    // Flipped borders around the picture: its gradient is far cheaper than that of a selection.
    let mirror = |x: Tensor<4>, axis: usize| {
        let len = x.dims()[axis];
        let before = x.clone().narrow(axis, 1, pad).flip([axis]);
        let after = x.clone().narrow(axis, len - 1 - pad, pad).flip([axis]);
        Tensor::cat(vec![before, x, after], axis)
    };
    mirror(mirror(x, 2), 3)
}

/// Mean over height and width: `[n, c, h, w]` → `[n, c]`.
pub fn global_mean(x: Tensor<4>) -> Tensor<2> {
    let [n, c, h, w] = x.dims();
    x.reshape([n, c, h * w]).mean_dim(2).reshape([n, c])
}

/// Spreads channels over `factor`×`factor` blocks of pixels (Shi 2016, PyTorch's `PixelShuffle`).
///
/// # Shapes
/// `[n, c·factor², h, w]` → `[n, c, factor·h, factor·w]`
pub fn pixel_shuffle(x: Tensor<4>, factor: usize) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    if factor == 1 {
        return x;
    }
    let c = c / (factor * factor);
    x.reshape([n, c, factor, factor, h, w]).permute([0, 1, 4, 2, 5, 3]).reshape([n, c, h * factor, w * factor])
}

/// Gathers `factor`×`factor` blocks of pixels into channels: the inverse of [`pixel_shuffle`].
///
/// # Shapes
/// `[n, c, factor·h, factor·w]` → `[n, c·factor², h, w]`
pub fn pixel_unshuffle(x: Tensor<4>, factor: usize) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    if factor == 1 {
        return x;
    }
    let (h, w) = (h / factor, w / factor);
    x.reshape([n, c, h, factor, w, factor]).permute([0, 1, 3, 5, 2, 4]).reshape([n, c * factor * factor, h, w])
}
