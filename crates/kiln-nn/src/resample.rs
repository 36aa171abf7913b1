//! Changing the size of feature maps: interpolation, pooling, padding, and moving pixels to channels.

use burn::tensor::Tensor;
use kiln_kernels::{Filter, resample};
pub use kiln_kernels::{GridOptions, SampleMode, SamplePadding, grid_sample};

use crate::dual::{Of, Signal};
use crate::tensor::from_values;

/// How [`interpolate`] finds a pixel between those there are: PyTorch's modes with `align_corners=False`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// The pixel left and above, ⌊i · in / out⌋.
    Nearest,
    /// The pixel whose centre is nearest, ⌊(i + ½) · in / out⌋.
    NearestExact,
    /// The mean of the pixels an output pixel covers any of.
    Area,
    /// Between two pixels along each axis; with `antialias` a triangle as wide as the output's pixels, as
    /// Pillow does.
    Bilinear {
        /// Whether reducing averages.
        antialias: bool,
    },
    /// Keys' cubic convolution over four pixels along each axis, a = −3/4; with `antialias` as wide as the
    /// output's pixels and a = −1/2, as Pillow does.
    Bicubic {
        /// Whether reducing averages.
        antialias: bool,
    },
}

/// Resizes feature maps, PyTorch's `interpolate` of two dimensions. Both sizes must be at least 1.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, size[0], size[1]]`
pub fn interpolate<X: Signal<4>>(x: X, size: [usize; 2], mode: Interpolation) -> X {
    let [_, _, h, w] = x.dims();
    along_axes(x, &mode.filter(h, size[0]), &mode.filter(w, size[1]))
}

/// Rows by one filter, columns by the other.
pub(crate) fn along_axes<X: Signal<4>>(x: X, rows: &Filter, columns: &Filter) -> X {
    x.linear(|x| resample(x, rows, columns))
}

impl Interpolation {
    fn filter(self, inputs: usize, outputs: usize) -> Filter {
        let scale = inputs as f64 / outputs as f64;
        let centre = |i: usize| (i as f64 + 0.5) * scale;
        // In f32 as there: which pixel is meant depends on the rounding.
        let place = |i: usize, shift: f32| (((i as f32 + shift) * scale as f32) as usize).min(inputs - 1);
        let taps = |i: usize| match self {
            Self::Nearest => vec![(place(i, 0.0), 1.0)],
            Self::NearestExact => vec![(place(i, 0.5), 1.0)],
            Self::Area => mean(i * inputs / outputs..((i + 1) * inputs).div_ceil(outputs)),
            Self::Bilinear { antialias: true } => averaged(centre(i), scale, inputs, 1.0, triangle),
            Self::Bicubic { antialias: true } => averaged(centre(i), scale, inputs, 2.0, |x| cubic(x, -0.5)),
            Self::Bilinear { antialias: false } => {
                let at = (centre(i) - 0.5).max(0.0);
                let first = at as usize;
                let part = (at - first as f64) as f32;
                vec![(first.min(inputs - 1), 1.0 - part), ((first + 1).min(inputs - 1), part)]
            }
            Self::Bicubic { antialias: false } => {
                let at = centre(i) - 0.5;
                let clamped = |j: f64| j.clamp(0.0, (inputs - 1) as f64) as usize;
                let tap = |k: i32| {
                    let j = at.floor() + f64::from(k);
                    (clamped(j), cubic(j - at, -0.75) as f32)
                };
                (-1..3).map(tap).collect()
            }
        };
        Filter::new(inputs, (0..outputs).map(taps))
    }
}

fn mean(pixels: std::ops::Range<usize>) -> Vec<(usize, f32)> {
    let weight = 1.0 / pixels.len() as f32;
    pixels.map(|pixel| (pixel, weight)).collect::<Vec<_>>()
}

/// Taps of a kernel with this support, stretched to an output pixel of `scale` pixels where that is more
/// than one, and made to sum to 1.
fn averaged(centre: f64, scale: f64, inputs: usize, support: f64, kernel: impl Fn(f64) -> f64) -> Vec<(usize, f32)> {
    let stretch = scale.max(1.0);
    let reach = support * stretch;
    let first = (centre - reach + 0.5).max(0.0) as usize;
    let end = ((centre + reach + 0.5) as usize).min(inputs);
    let height = |j: usize| kernel((j as f64 + 0.5 - centre) / stretch);
    let sum: f64 = (first..end).map(height).sum();
    (first..end).map(|j| (j, (height(j) / sum) as f32)).collect()
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// The cubic convolution kernel (Keys 1981) with slope `a` at 1.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        a * (((x - 5.0) * x + 8.0) * x - 4.0)
    } else {
        0.0
    }
}

/// Each pixel becomes a `factor`×`factor` block.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, factor·h, factor·w]`
pub fn upsample_nearest<X: Signal<4>>(x: X, factor: usize) -> X {
    let [_, _, h, w] = x.dims();
    let repeated = |len: usize| Filter::new(len, (0..factor * len).map(|i| vec![(i / factor, 1.0)]));
    along_axes(x, &repeated(h), &repeated(w))
}

/// Means of `kernel`×`kernel` windows `stride` apart, `padding` zeros around the picture counted as pixels:
/// PyTorch's `avg_pool2d`.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, (h + 2·padding − kernel) / stride + 1, …]`
///
/// Panics if the window is larger than the padded picture.
pub fn avg_pool2d<X: Signal<4>>(x: X, kernel: usize, stride: usize, padding: usize) -> X {
    mean_of_windows(x, kernel, stride, padding, |_| kernel)
}

/// The same with only the pixels of the picture counted: PyTorch's `avg_pool2d` with `count_include_pad=False`.
///
/// # Shapes
/// As [`avg_pool2d`].
///
/// Panics as [`avg_pool2d`].
pub fn avg_pool2d_inside<X: Signal<4>>(x: X, kernel: usize, stride: usize, padding: usize) -> X {
    mean_of_windows(x, kernel, stride, padding, |inside| inside)
}

/// Sums of windows over `count` of their pixels inside the picture, along each axis.
fn mean_of_windows<X: Signal<4>>(
    x: X,
    kernel: usize,
    stride: usize,
    padding: usize,
    count: impl Fn(usize) -> usize,
) -> X {
    let [_, _, h, w] = x.dims();
    let windows = |len: usize| {
        assert!(len + 2 * padding >= kernel, "avg_pool2d: windows of {kernel} in {len} pixels padded by {padding}");
        let windows = (len + 2 * padding - kernel) / stride + 1;
        let inside = |at: usize| at.checked_sub(padding).filter(|pixel| *pixel < len);
        let window = |i: usize| {
            let pixels: Vec<usize> = (i * stride..i * stride + kernel).filter_map(inside).collect();
            let weight = 1.0 / count(pixels.len()).max(1) as f32;
            pixels.into_iter().map(|pixel| (pixel, weight)).collect::<Vec<_>>()
        };
        Filter::new(len, (0..windows).map(window))
    };
    along_axes(x, &windows(h), &windows(w))
}

/// Mirrors `pad` rows and columns at each border, the border itself not repeated
/// (PyTorch's `ReflectionPad2d`). `pad` must be smaller than height and width.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, h + 2·pad, w + 2·pad]`
pub fn reflect_pad<X: Signal<4>>(x: X, pad: usize) -> X {
    let [_, _, h, w] = x.dims();
    let mirrored = |len: usize| {
        let source = move |i: usize| {
            let distance = i.abs_diff(pad);
            if i < pad || distance < len { distance } else { 2 * (len - 1) - distance }
        };
        Filter::new(len, (0..len + 2 * pad).map(|i| vec![(source(i), 1.0)]))
    };
    along_axes(x, &mirrored(h), &mirrored(w))
}

/// Moves pixels along a flow, as optical flow and learned warps do: each pixel of the result is read from the picture
/// `flow[.., 0]` pixels to the right of it and `flow[.., 1]` below it, bilinearly, the border repeated outside.
///
/// # Shapes
/// `x [n, c, h, w]`, `flow [n, h, w, 2]` → `[n, c, h, w]`
pub fn warp(x: Tensor<4>, flow: Tensor<4>) -> Tensor<4> {
    let [_, _, h, w] = x.dims();
    // A pixel is 2 / size of a grid whose ends are the picture's edges.
    let centre = |i: usize, len: usize| (2 * i + 1) as f32 / len as f32 - 1.0;
    let centres = (0..h * w).flat_map(|i| [centre(i % w, w), centre(i / w, h)]).collect();
    let scale = vec![2.0 / w as f32, 2.0 / h as f32];
    let device = flow.device();
    let grid = from_values::<4>(centres, [1, h, w, 2], &device) + flow * from_values(scale, [1, 1, 1, 2], &device);
    let options = GridOptions { mode: SampleMode::Bilinear, padding: SamplePadding::Border, align_corners: false };
    grid_sample(x, grid, options)
}

/// Mean over height and width: `[n, c, h, w]` → `[n, c]`.
pub fn global_mean<X: Signal<4>>(x: X) -> Of<X, 4, 2> {
    let [n, c, h, w] = x.dims();
    x.linear(|x| x.reshape([n, c, h * w]).mean_dim(2).reshape([n, c]))
}

/// Sum over height and width: `[n, c, h, w]` → `[n, c]` (the projection discriminator's and SAGAN's pooling).
pub fn global_sum<X: Signal<4>>(x: X) -> Of<X, 4, 2> {
    let [n, c, h, w] = x.dims();
    x.linear(|x| x.reshape([n, c, h * w]).sum_dim(2).reshape([n, c]))
}

/// Spreads channels over `factor`×`factor` blocks of pixels (Shi 2016, PyTorch's `PixelShuffle`).
///
/// # Shapes
/// `[n, c·factor², h, w]` → `[n, c, factor·h, factor·w]`
pub fn pixel_shuffle<X: Signal<4>>(x: X, factor: usize) -> X {
    let [n, c, h, w] = x.dims();
    if factor == 1 {
        return x;
    }
    let c = c / (factor * factor);
    x.linear(|x| {
        x.reshape([n, c, factor, factor, h, w]).permute([0, 1, 4, 2, 5, 3]).reshape([n, c, h * factor, w * factor])
    })
}

/// Gathers `factor`×`factor` blocks of pixels into channels: the inverse of [`pixel_shuffle`].
///
/// # Shapes
/// `[n, c, factor·h, factor·w]` → `[n, c·factor², h, w]`
pub fn pixel_unshuffle<X: Signal<4>>(x: X, factor: usize) -> X {
    let [n, c, h, w] = x.dims();
    if factor == 1 {
        return x;
    }
    let (h, w) = (h / factor, w / factor);
    x.linear(|x| {
        x.reshape([n, c, h, factor, w, factor]).permute([0, 1, 3, 5, 2, 4]).reshape([n, c * factor * factor, h, w])
    })
}
