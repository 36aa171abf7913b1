//! CPU kernels and the engine operations built from them.
//!
//! Convolutions, attention, fused normalisations, resampling and linear layers as differentiable
//! operations on Burn tensors. On Burn's CPU backend, with `f32` elements, they run kernels written
//! here for AVX-512, AVX2 and plain Rust; on every other backend and element type they are made of
//! Burn's own operations and give the same results. `KILN_KERNELS=portable|avx2|avx512` in the
//! environment, read once, asks for a lower instruction set than the best available.
//! [`Precision::Bf16`] has convolutions multiply in half the digits, in half the time.
//!
//! Results do not depend on how threads are scheduled: a run repeats to the bit at a given number
//! of threads.

mod activation;
mod attention;
mod autodiff;
mod conv;
mod copy;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod cube;
mod dimensions;
mod fallback;
mod flex;
mod gate;
mod grid;
mod isa;
mod lanes;
mod linear;
pub mod memory;
mod norm;
mod ops;
mod optional;
mod output;
mod pairs;
mod precision;
mod product;
mod recurrent;
mod resample;
mod tasks;
mod tile;
mod update;

use burn::{backend::Dispatch, tensor::Tensor};
pub use dimensions::{conv_transpose1d, conv_transpose3d, conv1d, conv3d};
pub use grid::{GridOptions, SampleMode, SamplePadding};
use norm::Scope;
use ops::{KernelOps, Optional};
pub use precision::Precision;
pub use resample::Filter;
pub use update::AdamStep;

/// An activation: alone ([`activate`]), of a sum ([`add_activate`]), or fused after a normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// The identity.
    None,
    /// `max(z, 0)`.
    Relu,
    /// `z` above 0, the given fraction of it elsewhere.
    LeakyRelu(f32),
    /// `1 / (1 + exp(-z))`.
    Sigmoid,
    /// `z / (1 + exp(-z))`.
    Silu,
    /// `z Phi(z)` with the standard normal distribution function (Hendrycks and Gimpel 2016);
    /// PyTorch's default `gelu`.
    Gelu,
    /// `z (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))) / 2`; PyTorch's `gelu` with `approximate="tanh"`.
    GeluTanh,
}

/// Which keys a query sees in [`attention`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mask {
    /// All of them.
    None,
    /// Query i the keys 0 to i.
    Causal,
    /// Each image its first so many, at least 1: captions of different lengths.
    Lengths(Vec<usize>),
}

/// How a [`recur`]rent layer walks over a map, a row or a diagonal at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanDirection {
    /// From the first row down; a place is a column.
    Rows,
    /// From the top left corner, through the diagonals on which row + column is one number; a place is a row, and
    /// the same place one step earlier is the pixel to the left.
    Diagonals,
    /// The mirror image: from the top right corner, where the same place one step earlier is the pixel to the right.
    Antidiagonals,
}

/// Sizes of a convolution in `D` dimensions beyond its operands' shapes, the outermost axis first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvOptions<const D: usize = 2> {
    /// Distance between kernel positions, at least 1.
    pub stride: [usize; D],
    /// Zeros assumed on each side.
    pub padding: [usize; D],
    /// Distance between kernel taps, at least 1.
    pub dilation: [usize; D],
    /// Groups of channels that do not see one another, at least 1.
    pub groups: usize,
}

/// Every place, no padding, one group.
impl<const D: usize> Default for ConvOptions<D> {
    fn default() -> Self {
        Self { stride: [1; D], padding: [0; D], dilation: [1; D], groups: 1 }
    }
}

impl<const D: usize> ConvOptions<D> {
    fn check_positive(&self) {
        let positive = self.stride.into_iter().chain(self.dilation).chain([self.groups]).all(|v| v > 0);
        assert!(positive, "stride, dilation and groups must be at least 1: {self:?}");
    }

    /// Input channels and output size of a convolution of operands with these dimensions. Panics if they
    /// do not fit together.
    fn check<const N: usize>(&self, name: &str, x: [usize; N], weight: [usize; N]) -> (usize, [usize; D]) {
        self.check_positive();
        let (channels, out) = (weight[1] * self.groups, weight[0]);
        let fit = x[1] == channels && out.is_multiple_of(self.groups);
        assert!(fit, "{name}: input {x:?} and weights {weight:?} do not fit with {} groups", self.groups);
        let size = std::array::from_fn(|a| {
            assert!(x[2 + a] > 0, "{name}: an input of no pixels, {x:?}");
            let reach = self.dilation[a] * (weight[2 + a] - 1) + 1;
            let padded = x[2 + a] + 2 * self.padding[a];
            assert!(reach <= padded, "{name}: kernel reach {reach} exceeds padded input {padded}");
            (padded - reach) / self.stride[a] + 1
        });
        (channels, size)
    }

    /// Output channels and size of a transposed convolution, likewise.
    fn check_transposed<const N: usize>(
        &self,
        name: &str,
        x: [usize; N],
        weight: [usize; N],
        output_padding: [usize; D],
    ) -> (usize, [usize; D]) {
        self.check_positive();
        let fit = x[1] == weight[0] && x[1].is_multiple_of(self.groups);
        assert!(fit, "{name}: input {x:?} and weights {weight:?} do not fit with {} groups", self.groups);
        let size = std::array::from_fn(|a| {
            let (stride, dilation, extra) = (self.stride[a], self.dilation[a], output_padding[a]);
            assert!(x[2 + a] > 0, "{name}: an input of no pixels, {x:?}");
            assert!(extra < stride.max(dilation), "{name}: output padding must be smaller than stride or dilation");
            let full = (x[2 + a] - 1) * stride + dilation * (weight[2 + a] - 1) + extra + 1;
            assert!(full > 2 * self.padding[a], "{name}: padding leaves no output");
            full - 2 * self.padding[a]
        });
        (weight[1] * self.groups, size)
    }
}

/// Two-dimensional convolution (cross-correlation).
///
/// `x` is `[n, in, h, w]`, `weight` `[out, in / groups, kh, kw]`, `bias` `[out]`; the result is
/// `[n, out, oh, ow]` with `oh = (h + 2 padding - dilation (kh - 1) - 1) / stride + 1`.
/// Panics if the shapes do not fit together or the kernel exceeds the padded input.
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, options: ConvOptions) -> Tensor<4> {
    let (_, size) = options.check("conv2d", x.dims(), weight.dims());
    check_bias("conv2d", bias.as_ref(), weight.dims()[0]);
    Tensor::from_dispatch(Dispatch::conv_far(x.into_dispatch(), weight.into_dispatch(), optional(bias), options, size))
}

/// The first `size` rows and columns of [`conv2d`]'s result. With stride 1 and an output as large as the input,
/// `padding` is how far above and left of an output pixel its window begins: a window that ends at that pixel or before
/// needs no mask.
///
/// Panics as [`conv2d`] does, or if there are not as many rows or columns.
pub fn conv2d_to(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    options: ConvOptions,
    size: [usize; 2],
) -> Tensor<4> {
    let (_, most) = options.check("conv2d_to", x.dims(), weight.dims());
    check_bias("conv2d_to", bias.as_ref(), weight.dims()[0]);
    let fits = size.iter().zip(most).all(|(size, most)| (1..=most).contains(size));
    assert!(fits, "conv2d_to: {size:?} of {most:?} rows and columns");
    Tensor::from_dispatch(Dispatch::conv_far(x.into_dispatch(), weight.into_dispatch(), optional(bias), options, size))
}

/// Transposed two-dimensional convolution, with PyTorch's meaning of every argument.
///
/// `x` is `[n, in, h, w]`, `weight` `[in, out / groups, kh, kw]`, `bias` `[out]`; the result is
/// `[n, out, oh, ow]` with `oh = (h - 1) stride - 2 padding + dilation (kh - 1) + output_padding + 1`.
/// Panics if the shapes do not fit together, or if an output padding is not smaller than the
/// stride or the dilation.
pub fn conv_transpose2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    options: ConvOptions,
    output_padding: [usize; 2],
) -> Tensor<4> {
    let (out, size) = options.check_transposed("conv_transpose2d", x.dims(), weight.dims(), output_padding);
    check_bias("conv_transpose2d", bias.as_ref(), out);
    Tensor::from_dispatch(Dispatch::conv_near(x.into_dispatch(), weight.into_dispatch(), optional(bias), options, size))
}

/// Scaled dot-product attention, `softmax(q kᵀ / sqrt(d)) v` (Vaswani et al. 2017, equation 1), without
/// keeping its scores.
///
/// `q` is `[n, heads, queries, d]`, `k` `[n, heads, keys, d]`, `v` `[n, heads, keys, e]`; the result is
/// `[n, heads, queries, e]`, in memory in the order `q` has there. Panics if the shapes or lengths do not fit
/// together.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: Mask) -> Tensor<4> {
    let ([n, heads, _, d], [_, _, keys, e]) = (q.dims(), v.dims());
    assert!(
        k.dims() == [n, heads, keys, d] && v.dims() == [n, heads, keys, e] && keys * d * e > 0,
        "attention: queries {:?}, keys {:?} and values {:?} do not fit together",
        q.dims(),
        k.dims(),
        v.dims(),
    );
    if let Mask::Lengths(lengths) = &mask {
        let fit = lengths.len() == n && lengths.iter().all(|length| (1..=keys).contains(length));
        assert!(fit, "attention: lengths {lengths:?} for {n} images of {keys} keys");
    }
    Tensor::from_dispatch(Dispatch::attend(q.into_dispatch(), k.into_dispatch(), v.into_dispatch(), mask))
}

/// [`attention`] of the positions of a feature map to one another. `qkv` holds their queries, keys and values as a
/// 1x1 convolution makes them, `[n, 3 heads, d, positions]`; the result is `[n, heads, d, positions]`. Their gradient
/// is put together once, where those of three slices would be added up. Panics if the heads do not divide by three,
/// or there are no features or positions.
pub fn self_attention(qkv: Tensor<4>) -> Tensor<4> {
    let [_, heads, d, positions] = qkv.dims();
    assert!(
        heads.is_multiple_of(3) && d * positions > 0,
        "self_attention: {:?} is not [n, 3 heads, d, positions]",
        qkv.dims()
    );
    Tensor::from_dispatch(Dispatch::attend_within(qkv.into_dispatch()))
}

/// A fully connected layer, `x Wᵀ + b`.
///
/// `x` is `[rows, in]`, `weight` `[out, in]`, `bias` `[out]`; the result is `[rows, out]`. Panics if the shapes
/// do not fit together.
pub fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let ([_, inputs], [outputs, expected]) = (x.dims(), weight.dims());
    assert!(inputs == expected, "linear: input {:?} and weights {:?} do not fit", x.dims(), weight.dims());
    check_bias("linear", bias.as_ref(), outputs);
    Tensor::from_dispatch(Dispatch::fully_connected(x.into_dispatch(), weight.into_dispatch(), optional(bias)))
}

/// Maps the rows and the columns of pictures by a [`Filter`] each: `x` `[n, c, h, w]` to
/// `[n, c, rows.outputs(), columns.outputs()]`. Panics if the filters are not for this height and width.
pub fn resample(x: Tensor<4>, rows: &Filter, columns: &Filter) -> Tensor<4> {
    let [_, _, h, w] = x.dims();
    assert!(
        [h, w] == [rows.inputs(), columns.inputs()],
        "resample: filters for {}x{} pixels, {h}x{w} given",
        rows.inputs(),
        columns.inputs(),
    );
    Tensor::from_dispatch(Dispatch::resample(x.into_dispatch(), rows.clone(), columns.clone()))
}

/// Reads pictures at the places of a grid: PyTorch's `grid_sample` in two dimensions, differentiable in both.
///
/// `x` is `[n, c, h, w]`, `grid` `[n, oh, ow, 2]`, the x and y of each output pixel, with -1 at the left and upper end of
/// the picture and 1 at the right and lower one; the result is `[n, c, oh, ow]`. A coordinate that is no number
/// reads the padding: zero, or the first pixel. Panics if the numbers of pictures differ or there are no pixels.
pub fn grid_sample(x: Tensor<4>, grid: Tensor<4>, options: GridOptions) -> Tensor<4> {
    let ([n, _, h, w], [images, _, _, axes]) = (x.dims(), grid.dims());
    let fits = n == images && axes == 2 && (1..u32::MAX as usize).contains(&(h * w));
    assert!(fits, "grid_sample: pictures {:?} and grid {:?} do not fit together", x.dims(), grid.dims());
    Tensor::from_dispatch(Dispatch::grid_sample(x.into_dispatch(), grid.into_dispatch(), options))
}

/// The gated activation `tanh(a) sigmoid(b)` (van den Oord 2016b, equation 2), where `a` is the first half of the
/// channels of `x` and `b` the second: `[n, 2 c, ..]` to `[n, c, ..]`. Panics if the channels have no halves.
pub fn gate<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    assert!(D >= 2 && x.dims()[1].is_multiple_of(2), "gate: the channels of {:?} have no halves", x.dims());
    Tensor::from_dispatch(Dispatch::gate(x.into_dispatch()))
}

/// The hidden states of a convolutional LSTM that walks over a map (van den Oord 2016a, equation 3):
/// `[o, f, i, g] = [sigmoid, sigmoid, sigmoid, tanh](x + w * h')`, `c = f c' + i g`, `h = o tanh(c)`, where `'` is one
/// step earlier, zero outside of the map.
///
/// `x` is `[n, 4 c, height, width]`, what the input contributes to `o`, `f`, `i` and `g` with their bias; `weight` is
/// `[4 c, c, taps]`, a convolution over the places of a step as PyTorch's `Conv1d` lays it out. In [`ScanDirection::Rows`] its window is
/// centred; in the others it ends at the place itself, so that two taps see the rows above and the same. The result is
/// `[n, c, height, width]`.
///
/// Panics if the shapes do not fit together, the map is empty, or a centred window's taps are even.
pub fn recur(x: Tensor<4>, weight: Tensor<3>, direction: ScanDirection) -> Tensor<4> {
    let ([_, gates, height, width], [outputs, state, taps]) = (x.dims(), weight.dims());
    let centred = direction != ScanDirection::Rows || taps % 2 == 1;
    let fits = gates == 4 * state && outputs == gates && state * taps * height * width > 0 && centred;
    assert!(fits, "recur: input {:?} and weights {:?} do not fit together", x.dims(), weight.dims());
    Tensor::from_dispatch(Dispatch::recur(x.into_dispatch(), weight.into_dispatch(), direction).0)
}

/// `a(x)` of each element.
pub fn activate<const D: usize>(x: Tensor<D>, activation: Activation) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::activate(x.into_dispatch(), activation))
}

/// A parameter, its first and its second moment after one step of Adam; see [`AdamStep`]. Not
/// differentiable: give it tensors that are not tracked. Tensors nobody else holds are changed in
/// place. Panics if the shapes differ.
pub fn adam<const D: usize>(
    value: Tensor<D>,
    gradient: Tensor<D>,
    first: Tensor<D>,
    second: Tensor<D>,
    step: AdamStep,
) -> (Tensor<D>, Tensor<D>, Tensor<D>) {
    let shapes = [&gradient, &first, &second].map(|t| t.dims());
    assert!(shapes.iter().all(|s| *s == value.dims()), "adam: shapes {:?} and {shapes:?} differ", value.dims());
    let parts = [value, gradient, first, second].map(Tensor::into_dispatch);
    let [value, gradient, first, second] = parts;
    let (value, first, second) = Dispatch::adam(value, gradient, first, second, step);
    (Tensor::from_dispatch(value), Tensor::from_dispatch(first), Tensor::from_dispatch(second))
}

/// `(1 - weight) x + weight y`, in place where nobody else holds `x`. Panics if the shapes differ.
pub fn lerp<const D: usize>(x: Tensor<D>, y: Tensor<D>, weight: f64) -> Tensor<D> {
    assert!(x.dims() == y.dims(), "lerp: shapes {:?} and {:?} differ", x.dims(), y.dims());
    Tensor::from_dispatch(Dispatch::lerp(x.into_dispatch(), y.into_dispatch(), weight))
}

/// The sum of the squares of all elements, `[1]`.
pub fn sum_of_squares<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::sum_of_squares(x.into_dispatch()))
}

/// `a(x + y)`, as at the end of a residual block. Panics if the shapes differ.
pub fn add_activate<const D: usize>(x: Tensor<D>, y: Tensor<D>, activation: Activation) -> Tensor<D> {
    assert!(x.dims() == y.dims(), "add_activate: shapes {:?} and {:?} differ", x.dims(), y.dims());
    Tensor::from_dispatch(Dispatch::add_activate(x.into_dispatch(), y.into_dispatch(), activation))
}

/// `x` `[n, a, ..]` and `y` `[n, b, ..]` as `[n, a + b, ..]`, PyTorch's `cat` along axis 1. Panics if the
/// shapes differ in another axis.
pub fn concat<const D: usize>(x: Tensor<D>, y: Tensor<D>) -> Tensor<D> {
    let (a, b) = (x.dims(), y.dims());
    let fits = D >= 2 && a[0] == b[0] && a[2..] == b[2..];
    assert!(fits, "concat: shapes {a:?} and {b:?} differ not only in their channels");
    Tensor::from_dispatch(Dispatch::concat(x.into_dispatch(), y.into_dispatch()))
}

/// Group normalisation (Wu and He 2018), then affine step, then activation:
/// `a(gamma (x - mean) / sqrt(var + eps) + beta)`, statistics over each of `groups` sets of
/// neighbouring channels of each image, variance biased. With `groups == c` this is instance
/// normalisation.
///
/// `x` is `[n, c, ..]`. The shape of `gamma` and `beta` says what shares them:
/// - `[c]`: each channel has its own, as the paper has it;
/// - `[n, c]`: each channel of each sample, as AdaIN (Huang and Belongie 2017; Karras 2019) and, with
///   `gamma = 1 + s`, AdaGN (Dhariwal and Nichol 2021) want it;
/// - the shape of `x`: each pixel of each sample, as SPADE (Park 2019).
///
/// Panics if the shapes do not fit together.
pub fn group_norm<const D: usize, const A: usize>(
    x: Tensor<D>,
    gamma: Tensor<A>,
    beta: Tensor<A>,
    groups: usize,
    eps: f64,
    activation: Activation,
) -> Tensor<D> {
    check_affine("group_norm", &x, 1, &gamma, &beta);
    let c = x.dims()[1];
    assert!(groups > 0 && c.is_multiple_of(groups), "group_norm: {c} channels do not divide into {groups} groups");
    normalise(x, gamma, beta, Scope::Groups(groups), eps, activation)
}

/// Layer normalisation (Ba 2016) over the last axis, then affine step, then activation:
/// `a(gamma (x - mean) / sqrt(var + eps) + beta)`, variance biased.
///
/// `x` is `[n, .., c]`, `gamma` and `beta` are `[c]`, `[n, c]` (with `gamma = 1 + s`, the adaLN of DiT,
/// Peebles and Xie 2023) or of the shape of `x`. Panics if the shapes do not fit together.
pub fn layer_norm<const D: usize, const A: usize>(
    x: Tensor<D>,
    gamma: Tensor<A>,
    beta: Tensor<A>,
    eps: f64,
    activation: Activation,
) -> Tensor<D> {
    check_affine("layer_norm", &x, D - 1, &gamma, &beta);
    normalise(x, gamma, beta, Scope::Rows, eps, activation)
}

fn normalise<const D: usize, const A: usize>(
    x: Tensor<D>,
    gamma: Tensor<A>,
    beta: Tensor<A>,
    scope: Scope,
    eps: f64,
    activation: Activation,
) -> Tensor<D> {
    let (gamma, beta) = (gamma.into_dispatch(), beta.into_dispatch());
    Tensor::from_dispatch(Dispatch::normalise(x.into_dispatch(), gamma, beta, scope, eps, activation))
}

/// Mean and biased variance of each channel of `x` `[n, c, ..]` over batch and pixels, `[c]`
/// each. Never tracked by autodiff.
pub fn batch_stats<const D: usize>(x: Tensor<D>) -> (Tensor<1>, Tensor<1>) {
    assert!(D >= 2, "batch_stats: an input of shape {:?} has no channels", x.dims());
    let (mean, var) = Dispatch::batch_statistics(x.into_dispatch());
    (Tensor::from_dispatch(mean), Tensor::from_dispatch(var))
}

/// Batch normalisation (Ioffe and Szegedy 2015) with the batch's own statistics, then affine step,
/// then activation: `a(gamma (x - mean) / sqrt(var + eps) + beta)`.
///
/// `x` is `[n, c, ..]`, `gamma` and `beta` are as those of [`group_norm`] (`[n, c]` makes it conditional:
/// de Vries 2017, Brock 2019); `mean` and `var`, `[c]`, must be what [`batch_stats`] gives for the same
/// `x`, and the gradient in `x` goes through them. Panics if the shapes do not fit together.
pub fn batch_norm<const D: usize, const A: usize>(
    x: Tensor<D>,
    mean: Tensor<1>,
    var: Tensor<1>,
    gamma: Tensor<A>,
    beta: Tensor<A>,
    eps: f64,
    activation: Activation,
) -> Tensor<D> {
    normalise_by(x, mean, var, gamma, beta, Scope::Batch, eps, activation)
}

/// [`batch_norm`] by statistics that were gathered before, as inference wants it: `mean` and `var` are
/// constants to the gradient in `x`.
pub fn batch_norm_inference<const D: usize, const A: usize>(
    x: Tensor<D>,
    mean: Tensor<1>,
    var: Tensor<1>,
    gamma: Tensor<A>,
    beta: Tensor<A>,
    eps: f64,
    activation: Activation,
) -> Tensor<D> {
    normalise_by(x, mean, var, gamma, beta, Scope::Given, eps, activation)
}

#[allow(clippy::too_many_arguments)]
fn normalise_by<const D: usize, const A: usize>(
    x: Tensor<D>,
    mean: Tensor<1>,
    var: Tensor<1>,
    gamma: Tensor<A>,
    beta: Tensor<A>,
    scope: Scope,
    eps: f64,
    activation: Activation,
) -> Tensor<D> {
    check_affine("batch_norm", &x, 1, &gamma, &beta);
    check_channels("batch_norm", x.dims()[1], &[&mean, &var]);
    let (mean, var) = (mean.into_dispatch(), var.into_dispatch());
    let (gamma, beta) = (gamma.into_dispatch(), beta.into_dispatch());
    Tensor::from_dispatch(Dispatch::normalise_by(x.into_dispatch(), mean, var, gamma, beta, scope, eps, activation))
}

fn optional(x: Option<Tensor<1>>) -> Optional<Dispatch> {
    match x {
        Some(x) => Optional::Some(x.into_dispatch()),
        None => Optional::None,
    }
}

fn check_bias(name: &str, bias: Option<&Tensor<1>>, channels: usize) {
    if let Some(bias) = bias {
        check_channels(name, channels, &[bias]);
    }
}

fn check_channels(name: &str, channels: usize, vectors: &[&Tensor<1>]) {
    for vector in vectors {
        let [len] = vector.dims();
        assert!(len == channels, "{name}: a vector of {len} values for {channels} channels");
    }
}

/// Gamma and beta must be `[c]`, `[n, c]` or of the input's shape, whose channels are at `axis`.
fn check_affine<const D: usize, const A: usize>(
    name: &str,
    x: &Tensor<D>,
    axis: usize,
    gamma: &Tensor<A>,
    beta: &Tensor<A>,
) {
    let (x, gamma, beta) = (x.dims(), gamma.dims(), beta.dims());
    assert!(axis < D && x[axis] > 0, "{name}: an input of shape {x:?} has no channels");
    let fits = gamma[..] == [x[axis]] || gamma[..] == [x[0], x[axis]] || gamma[..] == x[..];
    assert!(
        fits && gamma == beta,
        "{name}: gamma {gamma:?} and beta {beta:?} do not fit an input of shape {x:?}: give a value a channel, sample and channel, or element",
    );
}
