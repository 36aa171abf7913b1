//! Upsampling, FIR filtering and downsampling of feature maps, as StyleGAN2 and StyleGAN3 do them
//! (Karras 2020, appendix B; `torch_utils/ops/upfirdn2d.py` and `conv2d_resample.py` of their code). Filters
//! are separable: the same taps along rows and columns.

use burn::tensor::Tensor;
use kiln_kernels::{ConvOptions, Filter, conv_transpose2d, conv2d};

use crate::cost;
use crate::dual::Signal;
use crate::resample::along_axes;

/// The taps of a filter, made to sum to 1 with `normalize`, turned around with `flip`, and scaled so that the
/// filter along both axes has `gain`.
pub fn setup_filter(taps: &[f32], normalize: bool, flip: bool, gain: f64) -> Vec<f32> {
    let sum = if normalize { taps.iter().map(|t| f64::from(*t)).sum() } else { 1.0 };
    let scaled = |tap: &f32| (f64::from(*tap) / sum * gain.sqrt()) as f32;
    if flip { taps.iter().rev().map(scaled).collect() } else { taps.iter().map(scaled).collect() }
}

/// Inserts `up − 1` zeros after each pixel, pads by `[left, right, top, bottom]` zeros (or crops, where
/// negative), convolves with `filter` times `gain`, and keeps every `down`-th pixel. `up` and `down` must be at
/// least 1; panics if the padded picture is smaller than the filter.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, (h·up + top + bottom − taps) / down + 1, (w·up + left + right − taps) / down + 1]`
pub fn upfirdn2d<X: Signal<4>>(x: X, filter: &[f32], up: usize, down: usize, padding: [isize; 4], gain: f64) -> X {
    let [_, _, h, w] = x.dims();
    let [left, right, top, bottom] = padding;
    let axis = |len: usize, before: isize, after: isize| {
        let padded = (len * up) as isize + before + after;
        assert!(padded >= filter.len() as isize, "upfirdn2d: {padded} padded pixels for {} taps", filter.len());
        let outputs = (padded.unsigned_abs() - filter.len()) / down + 1;
        let sum = |i: usize| {
            let tap = |(t, weight): (usize, &f32)| {
                let at = usize::try_from((i * down + t) as isize - before).ok()?;
                (at % up == 0 && at / up < len).then_some((at / up, (f64::from(*weight) * gain.sqrt()) as f32))
            };
            // A convolution: the last tap meets the first pixel.
            filter.iter().rev().enumerate().filter_map(tap).collect()
        };
        Filter::new(len, (0..outputs).map(sum))
    };
    along_axes(x, &axis(h, top, bottom), &axis(w, left, right))
}

/// A filtered picture of the same size.
pub fn filter2d<X: Signal<4>>(x: X, filter: &[f32], gain: f64) -> X {
    let taps = filter.len() as isize;
    upfirdn2d(x, filter, 1, 1, around(taps / 2, (taps - 1) / 2), gain)
}

/// A picture `up` times as large, as bright as before times `gain`.
pub fn upsample2d<X: Signal<4>>(x: X, filter: &[f32], up: usize, gain: f64) -> X {
    let (before, after) = before_and_after(filter, Rate::Up(up));
    upfirdn2d(x, filter, up, 1, around(before, after), gain * (up * up) as f64)
}

/// A picture of 1/`down` of the size.
pub fn downsample2d<X: Signal<4>>(x: X, filter: &[f32], down: usize, gain: f64) -> X {
    let (before, after) = before_and_after(filter, Rate::Down(down));
    upfirdn2d(x, filter, 1, down, around(before, after), gain)
}

/// How a layer changes the size of its picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// Not at all.
    Same,
    /// So many times as large.
    Up(usize),
    /// 1/n of the size.
    Down(usize),
}

/// Convolution together with up- or downsampling through `filter`; `padding` zeros on each side of the larger
/// picture. Upsampling convolves by the transposed convolution with the weights as they are, downsampling by the
/// strided one: the calls of StyleGAN's networks, `flip_weight = (up == 1)`.
///
/// # Shapes
/// `[n, in, h, w]`, `[out, in, k, k]` → `[n, out, h', w']`; h' is h · up or h / down where `padding` is (k − 1) / 2
pub fn conv2d_resample<X: Signal<4>>(x: X, weight: Tensor<4>, filter: &[f32], rate: Rate, padding: usize) -> X {
    x.linear(|x| conv2d_resample_groups(x, weight.clone(), filter, rate, padding, 1))
}

/// [`conv2d_resample`] of channels in `groups`, `[out, in / groups, k, k]`.
pub(crate) fn conv2d_resample_groups(
    x: Tensor<4>,
    weight: Tensor<4>,
    filter: &[f32],
    rate: Rate,
    padding: usize,
    groups: usize,
) -> Tensor<4> {
    let [outputs, inputs, kh, kw] = weight.dims();
    let (before, after) = before_and_after(filter, rate);
    let (before, after) = (before + padding as isize, after + padding as isize);
    let convolve = |x: Tensor<4>, stride: usize, padding: usize| {
        let y = conv2d(x, weight.clone(), None, options(stride, [padding; 2], groups));
        let [n, _, height, width] = y.dims();
        cost::count(&[n, outputs, height, width, inputs, kh, kw]);
        y
    };
    match rate {
        Rate::Same => convolve(x, 1, padding),
        // A 1×1 convolution is done on the smaller side.
        Rate::Down(down) if [kh, kw] == [1, 1] => {
            convolve(upfirdn2d(x, filter, 1, down, around(before, after), 1.0), 1, 0)
        }
        Rate::Down(down) => convolve(upfirdn2d(x, filter, 1, 1, around(before, after), 1.0), down, 0),
        Rate::Up(up) if [kh, kw] == [1, 1] => {
            upfirdn2d(convolve(x, 1, 0), filter, up, 1, around(before, after), (up * up) as f64)
        }
        Rate::Up(up) => {
            let [n, _, h, w] = x.dims();
            cost::count(&[n, inputs, h, w, outputs, kh, kw]);
            // What the transposed convolution adds on each side, less what is cut there at once.
            let left = |k: usize| (before - (k as isize - 1), after - (k as isize - up as isize));
            let cut = |(a, b): (isize, isize)| (-a).min(-b).max(0);
            let (rows, columns) = (left(kh), left(kw));
            let cuts = [cut(rows), cut(columns)];
            let options = options(up, cuts.map(isize::unsigned_abs), groups);
            let weight = weight.reshape([groups, outputs / groups, inputs, kh * kw]).swap_dims(1, 2);
            let weight = weight.reshape([groups * inputs, outputs / groups, kh, kw]);
            let y = conv_transpose2d(x, weight, None, options, [0, 0]);
            let padding = [columns.0 + cuts[1], columns.1 + cuts[1], rows.0 + cuts[0], rows.1 + cuts[0]];
            upfirdn2d(y, filter, 1, 1, padding, (up * up) as f64)
        }
    }
}

fn options(stride: usize, padding: [usize; 2], groups: usize) -> ConvOptions {
    ConvOptions { stride: [stride; 2], padding, groups, ..ConvOptions::default() }
}

/// Zeros before and after an axis that keep the picture where it is.
fn before_and_after(filter: &[f32], rate: Rate) -> (isize, isize) {
    let taps = filter.len() as isize;
    match rate {
        Rate::Same => (0, 0),
        Rate::Up(up) => ((taps + up as isize - 1) / 2, (taps - up as isize).div_euclid(2)),
        Rate::Down(down) => ((taps - down as isize + 1).div_euclid(2), (taps - down as isize).div_euclid(2)),
    }
}

fn around(before: isize, after: isize) -> [isize; 4] {
    [before, after, before, after]
}
