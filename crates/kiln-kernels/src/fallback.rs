//! The operations made of Burn's own: for GPUs and for element types other than `f32`.

use crate::{
    Activation, AdamStep, ConvOptions, Filter, GridOptions, Mask, SampleMode, SamplePadding, norm::Scope,
    optional::Optional,
};
use burn::{
    backend::{
        Backend, TensorMetadata, get_or_init_device_settings,
        tensor::{BoolTensor, FloatTensor, IntTensor},
    },
    tensor::{IndexingUpdateOp, Shape, Slice, TensorData, ops},
};

fn reshape<B: Backend, const D: usize>(x: FloatTensor<B>, dims: [usize; D]) -> FloatTensor<B> {
    B::float_reshape(x, Shape::from(dims))
}

fn burn_options(o: &ConvOptions) -> ops::ConvOptions<2> {
    ops::ConvOptions::new(o.stride, o.padding, o.dilation, o.groups)
}

fn present<B: Backend>(x: Optional<B>) -> Option<FloatTensor<B>> {
    match x {
        Optional::Some(x) => Some(x),
        Optional::None => None,
    }
}

pub(crate) fn conv_far<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: Optional<B>,
    options: ConvOptions,
    size: [usize; 2],
) -> FloatTensor<B> {
    let y = B::conv2d(x, weight, present(bias), burn_options(&options));
    let [n, c, h, w] = y.shape().dims();
    if [h, w] == size {
        return y;
    }
    B::float_slice(y, &[0..n, 0..c, 0..size[0], 0..size[1]].map(Slice::from))
}

pub(crate) fn conv_near<B: Backend>(
    g: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: Optional<B>,
    o: ConvOptions,
    size: [usize; 2],
) -> FloatTensor<B> {
    let [_, _, h, w] = g.shape().dims();
    let [_, _, kh, kw] = weight.shape().dims();
    let extra = |axis: usize, len: usize, kernel: usize| {
        let natural = (len - 1) * o.stride[axis] + o.dilation[axis] * (kernel - 1) + 1;
        size[axis] + 2 * o.padding[axis] - natural
    };
    let padding_out = [extra(0, h, kh), extra(1, w, kw)];
    let options = ops::ConvTransposeOptions::new(o.stride, o.padding, padding_out, o.dilation, o.groups);
    B::conv_transpose2d(g, weight, present(bias), options)
}

pub(crate) fn conv_weights<B: Backend>(
    x: FloatTensor<B>,
    g: FloatTensor<B>,
    kernel: [usize; 2],
    options: ConvOptions,
) -> FloatTensor<B> {
    let shape = [g.shape()[1], x.shape()[1] / options.groups, kernel[0], kernel[1]];
    // Only the shape of this tensor is used.
    let weight = B::float_zeros(Shape::from(shape), &x.device(), x.dtype().into());
    B::conv2d_weight_backward(x, weight, g, burn_options(&options))
}

pub(crate) fn channel_sums<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let channels = x.shape()[1];
    reshape::<B, 1>(B::float_sum_dims(x, &[0, 2, 3]), [channels])
}

/// The shapes of a normalisation: the input as it came, as the axes gamma and beta broadcast along
/// (`[n, c, pixels]`, of rows `[n, rows, c]`), and spread so that statistics do.
struct Cells {
    shape: Shape,
    axes: [usize; 3],
    spread: [usize; 3],
    /// Axes of `spread` to average over.
    over: &'static [usize],
}

impl Cells {
    fn new<B: Backend>(x: &FloatTensor<B>, scope: Scope) -> Cells {
        let shape = x.shape();
        let len = shape.num_elements();
        let (first, second) = match (scope, &shape[..]) {
            (Scope::Rows, [.., channels]) => (if shape.num_dims() > 1 { shape[0] } else { 1 }, *channels),
            (_, [images, channels, ..]) => (*images, *channels),
            _ => (1, 1),
        };
        let rest = len / (first * second).max(1);
        let axes = if scope == Scope::Rows { [first, rest, second] } else { [first, second, rest] };
        let (spread, over): (_, &[usize]) = match scope {
            Scope::Groups(groups) => ([first, groups, second / groups * rest], &[2]),
            Scope::Rows => (axes, &[2]),
            Scope::Batch | Scope::Given => (axes, &[0, 2]),
        };
        Cells { shape, axes, spread, over }
    }

    /// Mean over each cell, shaped to broadcast against [`Cells::spread`].
    fn mean<B: Backend>(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        self.over.iter().fold(self.spread::<B>(x), |x, axis| B::float_mean_dim(x, *axis))
    }

    /// `x` in the shape statistics broadcast to.
    fn spread<B: Backend>(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        reshape::<B, 3>(x, self.spread)
    }

    /// Flat statistics in the shape of [`Cells::mean`].
    fn broadcast<B: Backend>(&self, statistic: FloatTensor<B>) -> FloatTensor<B> {
        let mut dims = self.spread;
        self.over.iter().for_each(|axis| dims[*axis] = 1);
        reshape::<B, 3>(statistic, dims)
    }

    fn flat<B: Backend>(&self, statistic: FloatTensor<B>) -> FloatTensor<B> {
        let len = statistic.shape().num_elements();
        reshape::<B, 1>(statistic, [len])
    }

    fn axes<B: Backend>(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        reshape::<B, 3>(x, self.axes)
    }

    fn image<B: Backend>(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        B::float_reshape(x, self.shape.clone())
    }

    /// Gamma or beta of this shape with the axes it is shared along 1, to broadcast against [`Cells::axes`].
    fn affine(&self, shape: &Shape, scope: Scope) -> [usize; 3] {
        let mut dims = self.axes;
        if *shape != self.shape {
            dims[if scope == Scope::Rows { 1 } else { 2 }] = 1;
            if shape.num_dims() == 1 {
                dims[0] = 1;
            }
        }
        dims
    }

    /// `1 / sqrt(var + eps)`, broadcastable.
    fn rstd<B: Backend>(&self, var: FloatTensor<B>, eps: f64) -> FloatTensor<B> {
        self.broadcast::<B>(B::float_recip(B::float_sqrt(B::float_add_scalar(var, eps.into()))))
    }

    /// `(x - mean) * rstd` as [`Cells::axes`].
    fn standardise<B: Backend>(&self, x: FloatTensor<B>, mean: FloatTensor<B>, rstd: FloatTensor<B>) -> FloatTensor<B> {
        let centred = B::float_sub(self.spread::<B>(x), self.broadcast::<B>(mean));
        self.axes::<B>(B::float_mul(centred, rstd))
    }
}

pub(crate) fn statistics<B: Backend>(x: FloatTensor<B>, scope: Scope) -> (FloatTensor<B>, FloatTensor<B>) {
    let cells = Cells::new::<B>(&x, scope);
    let mean = cells.mean::<B>(x.clone());
    let centred = B::float_sub(cells.spread::<B>(x), mean.clone());
    let var = cells.mean::<B>(B::float_mul(centred.clone(), centred));
    (cells.flat::<B>(mean), cells.flat::<B>(var))
}

pub(crate) fn normalise<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    scope: Scope,
    eps: f64,
    activation: Activation,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (mean, var) = statistics::<B>(x.clone(), scope);
    let y = normalise_by::<B>(x, mean.clone(), var.clone(), gamma, beta, scope, eps, activation);
    (y, mean, var)
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn normalise_by<B: Backend>(
    x: FloatTensor<B>,
    mean: FloatTensor<B>,
    var: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    scope: Scope,
    eps: f64,
    activation: Activation,
) -> FloatTensor<B> {
    let cells = Cells::new::<B>(&x, scope);
    let affine = cells.affine(&gamma.shape(), scope);
    let h = cells.standardise::<B>(x, mean, cells.rstd::<B>(var, eps));
    let [gamma, beta] = [gamma, beta].map(|p| reshape::<B, 3>(p, affine));
    let z = B::float_add(B::float_mul(h, gamma), beta);
    activate::<B>(cells.image::<B>(z), activation)
}

pub(crate) fn activate<B: Backend>(z: FloatTensor<B>, activation: Activation) -> FloatTensor<B> {
    match activation {
        Activation::None => z,
        Activation::Relu => B::relu(z),
        Activation::LeakyRelu(slope) => B::leaky_relu(z, slope.into()),
        Activation::Sigmoid => B::sigmoid(z),
        Activation::Silu => B::float_mul(z.clone(), B::sigmoid(z)),
        Activation::Gelu => B::float_mul(z.clone(), below::<B>(z)),
        Activation::GeluTanh => B::float_mul(z.clone(), B::sigmoid(tanh_gate::<B>(z))),
    }
}

/// The distribution function of the standard normal distribution.
fn below<B: Backend>(z: FloatTensor<B>) -> FloatTensor<B> {
    let erf = B::float_erf(B::float_mul_scalar(z, std::f64::consts::FRAC_1_SQRT_2.into()));
    B::float_mul_scalar(B::float_add_scalar(erf, 1f32.into()), 0.5.into())
}

/// `2 sqrt(2 / pi) (z + 0.044715 z^3)`, whose sigmoid times `z` is GELU's approximation.
fn tanh_gate<B: Backend>(z: FloatTensor<B>) -> FloatTensor<B> {
    let cube = B::float_mul(B::float_mul(z.clone(), z.clone()), z.clone());
    let sum = B::float_add(z, B::float_mul_scalar(cube, 0.044_715.into()));
    B::float_mul_scalar(sum, (8.0 / std::f64::consts::PI).sqrt().into())
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn norm_backward<B: Backend>(
    x: FloatTensor<B>,
    g: FloatTensor<B>,
    mean: FloatTensor<B>,
    var: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    scope: Scope,
    eps: f64,
    activation: Activation,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let cells = Cells::new::<B>(&x, scope);
    let shape = gamma.shape();
    let affine = cells.affine(&shape, scope);
    let rstd = cells.rstd::<B>(var, eps);
    let h = cells.standardise::<B>(x, mean, rstd.clone());
    let [gamma, beta] = [gamma, beta].map(|p| reshape::<B, 3>(p, affine));
    let g = cells.axes::<B>(g);
    let t = if activation == Activation::None {
        g
    } else {
        unactivate::<B>(B::float_add(B::float_mul(h.clone(), gamma.clone()), beta), g, activation)
    };
    let shared: Vec<usize> = (0..3).filter(|axis| affine[*axis] < cells.axes[*axis]).collect();
    let sum = |x: FloatTensor<B>| {
        let sum = if shared.is_empty() { x } else { B::float_sum_dims(x, &shared) };
        B::float_reshape(sum, shape.clone())
    };
    let beta_gradient = sum(t.clone());
    let gamma_gradient = sum(B::float_mul(t.clone(), h.clone()));

    let t = B::float_mul(t, gamma);
    let mut through = cells.spread::<B>(t.clone());
    if scope != Scope::Given {
        through = B::float_sub(through, cells.mean::<B>(t.clone()));
        let pull = cells.mean::<B>(B::float_mul(t, h.clone()));
        through = B::float_sub(through, B::float_mul(cells.spread::<B>(h), pull));
    }
    (cells.image::<B>(B::float_mul(through, rstd)), gamma_gradient, beta_gradient)
}

pub(crate) fn channels<B: Backend>(x: FloatTensor<B>, start: usize, count: usize) -> FloatTensor<B> {
    let mut ranges: Vec<_> = x.shape().iter().map(|len| 0..*len).collect();
    ranges[1] = start..start + count;
    B::float_slice(x, &ranges.into_iter().map(Slice::from).collect::<Vec<_>>())
}

/// `g * a'(z)`.
pub(crate) fn unactivate<B: Backend>(z: FloatTensor<B>, g: FloatTensor<B>, activation: Activation) -> FloatTensor<B> {
    let negative = |z: FloatTensor<B>| {
        let dtype = get_or_init_device_settings::<B>(&z.device()).bool_dtype;
        B::float_lower_equal_elem(z, 0f32.into(), dtype)
    };
    match activation {
        Activation::None => g,
        Activation::Relu => B::float_mask_fill(g, negative(z), 0f32.into()),
        Activation::LeakyRelu(slope) => {
            let scaled = B::float_mul_scalar(g.clone(), slope.into());
            B::float_mask_where(g, negative(z), scaled)
        }
        Activation::Sigmoid => {
            let s = B::sigmoid(z);
            let rest = B::float_add_scalar(B::float_neg(s.clone()), 1f32.into());
            B::float_mul(g, B::float_mul(s, rest))
        }
        Activation::Silu => {
            let s = B::sigmoid(z.clone());
            B::float_mul(g, gate_slope::<B>(z, s))
        }
        Activation::Gelu => {
            let square = B::float_mul(z.clone(), z.clone());
            let density = B::float_exp(B::float_mul_scalar(square, (-0.5).into()));
            let density = B::float_mul_scalar(density, (0.5 / std::f64::consts::PI).sqrt().into());
            B::float_mul(g, B::float_add(below::<B>(z.clone()), B::float_mul(z, density)))
        }
        Activation::GeluTanh => {
            let square = B::float_mul(z.clone(), z.clone());
            let inner = B::float_add_scalar(B::float_mul_scalar(square, (3.0 * 0.044_715).into()), 1f32.into());
            let inner = B::float_mul_scalar(inner, (8.0 / std::f64::consts::PI).sqrt().into());
            let s = B::sigmoid(tanh_gate::<B>(z.clone()));
            B::float_mul(g, gate_slope::<B>(B::float_mul(z, inner), s))
        }
    }
}

/// `s (1 + z (1 - s))`.
fn gate_slope<B: Backend>(z: FloatTensor<B>, s: FloatTensor<B>) -> FloatTensor<B> {
    let rest = B::float_add_scalar(B::float_neg(s.clone()), 1f32.into());
    B::float_add(s.clone(), B::float_mul(B::float_mul(z, s), rest))
}

pub(crate) fn adam<B: Backend>(
    value: FloatTensor<B>,
    gradient: FloatTensor<B>,
    first: FloatTensor<B>,
    second: FloatTensor<B>,
    s: AdamStep,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let scaled = |x: FloatTensor<B>, by: f64| B::float_mul_scalar(x, by.into());
    let gradient = B::float_add(scaled(gradient, s.scale), scaled(value.clone(), s.decay));
    let squares = B::float_mul(gradient.clone(), gradient.clone());
    let first = lerp::<B>(first, gradient, 1.0 - s.beta1);
    let second = lerp::<B>(second, squares, 1.0 - s.beta2);
    let root = scaled(B::float_sqrt(second.clone()), 1.0 / s.correction);
    let denominator = B::float_add_scalar(root, s.eps.into());
    let step = B::float_div(scaled(first.clone(), s.rate), denominator);
    (B::float_sub(scaled(value, s.shrink), step), first, second)
}

pub(crate) fn lerp<B: Backend>(x: FloatTensor<B>, y: FloatTensor<B>, weight: f64) -> FloatTensor<B> {
    B::float_add(B::float_mul_scalar(x, (1.0 - weight).into()), B::float_mul_scalar(y, weight.into()))
}

/// `q kᵀ / sqrt(d)`, minus infinity where a key is hidden.
fn scores<B: Backend>(q: FloatTensor<B>, k: FloatTensor<B>, mask: &Mask) -> FloatTensor<B> {
    let ([n, _, queries, d], [_, _, keys, _]) = (q.shape().dims(), k.shape().dims());
    let (device, dtype) = (q.device(), q.dtype());
    let q = B::float_mul_scalar(q, (1.0 / (d as f64).sqrt()).into());
    let scores = B::float_matmul(q, B::float_swap_dims(k, 2, 3));
    let images = match mask {
        Mask::None => return scores,
        Mask::Causal => 1,
        Mask::Lengths(_) => n,
    };
    let hidden = (0..images * queries * keys).map(|i| {
        let (image, query, key) = (i / (queries * keys), i / keys % queries, i % keys);
        if key < mask.visible(image, query, keys) { 0.0f32 } else { f32::NEG_INFINITY }
    });
    let hidden = TensorData::new(hidden.collect(), [images, 1, queries, keys]).convert_dtype(dtype);
    B::float_add(scores, B::float_from_data(hidden, &device))
}

/// Queries, keys and values `[n, heads, positions, d]` of `[n, 3 heads, d, positions]`.
pub(crate) fn thirds<B: Backend>(qkv: FloatTensor<B>) -> [FloatTensor<B>; 3] {
    let [n, heads, d, positions] = qkv.shape().dims();
    let heads = heads / 3;
    [0, 1, 2].map(|i| {
        let part = [0..n, i * heads..(i + 1) * heads, 0..d, 0..positions].map(Slice::from);
        B::float_swap_dims(B::float_slice(qkv.clone(), &part), 2, 3)
    })
}

/// The output, and the logarithm of the softmax's denominator.
pub(crate) fn attention<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    mask: &Mask,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let [n, heads, queries, _] = q.shape().dims();
    let scores = scores::<B>(q, k, mask);
    let max = B::float_max_dim(scores.clone(), 3);
    let p = B::float_exp(B::float_sub(scores, max.clone()));
    let sum = B::float_sum_dim(p.clone(), 3);
    let logs = B::float_add(max, B::float_log(sum.clone()));
    (B::float_matmul(B::float_div(p, sum), v), reshape::<B, 3>(logs, [n, heads, queries]))
}

pub(crate) fn attention_backward<B: Backend>(
    [q, k, v]: [FloatTensor<B>; 3],
    out: FloatTensor<B>,
    logs: FloatTensor<B>,
    g: FloatTensor<B>,
    mask: &Mask,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let [n, heads, queries, d] = q.shape().dims();
    let turned = |x: FloatTensor<B>| B::float_swap_dims(x, 2, 3);
    let logs = reshape::<B, 4>(logs, [n, heads, queries, 1]);
    let p = B::float_exp(B::float_sub(scores::<B>(q.clone(), k.clone(), mask), logs));
    let dv = B::float_matmul(turned(p.clone()), g.clone());
    let dots = B::float_sum_dim(B::float_mul(g.clone(), out), 3);
    let dp = B::float_sub(B::float_matmul(g, turned(v)), dots);
    let ds = B::float_mul_scalar(B::float_mul(p, dp), (1.0 / (d as f64).sqrt()).into());
    (B::float_matmul(ds.clone(), k), B::float_matmul(turned(ds), q), dv)
}

pub(crate) fn resample<B: Backend>(x: FloatTensor<B>, rows: &Filter, columns: &Filter) -> FloatTensor<B> {
    // The filter as a dense matrix, applied along the last axis.
    let along_width = |x: FloatTensor<B>, filter: &Filter| {
        let ([n, c, h, w], outputs) = (x.shape().dims(), filter.outputs());
        let Some(matrix) = filter.matrix() else { return x };
        let matrix = TensorData::new(matrix, [w, outputs]).convert_dtype(x.dtype());
        let matrix = B::float_from_data(matrix, &x.device());
        let y = B::float_matmul(reshape::<B, 2>(x, [n * c * h, w]), matrix);
        reshape::<B, 4>(y, [n, c, h, outputs])
    };
    let wide = along_width(x, columns);
    B::float_swap_dims(along_width(B::float_swap_dims(wide, 2, 3), rows), 2, 3)
}

/// Where the coordinates along one axis of a grid point, `[n, 1, places]` each: the first of the two pixels they are
/// between, how far they are from it, and how far that moves with the coordinate. As [`crate::grid`] has it.
struct GridAxis<B: Backend> {
    first: FloatTensor<B>,
    part: FloatTensor<B>,
    slope: FloatTensor<B>,
    len: usize,
}

impl<B: Backend> GridAxis<B> {
    fn new(coordinates: FloatTensor<B>, len: usize, options: GridOptions) -> Self {
        let bools = get_or_init_device_settings::<B>(&coordinates.device()).bool_dtype;
        let above = |x: &FloatTensor<B>, limit: f64| B::float_greater_elem(x.clone(), limit.into(), bools);
        let below = |x: &FloatTensor<B>, limit: f64| B::float_lower_elem(x.clone(), limit.into(), bools);
        let fill = |x: FloatTensor<B>, mask, value: f64| B::float_mask_fill(x, mask, value.into());
        let flip = |x: FloatTensor<B>, mask| B::float_mask_where(x.clone(), mask, B::float_neg(x));

        let (shape, device, dtype) = (coordinates.shape(), coordinates.device(), coordinates.dtype());
        let ((scale, centre), last) = (options.scale(len), len as f64 - 1.0);
        let mut at = B::float_add_scalar(B::float_mul_scalar(coordinates, scale.into()), centre.into());
        let mut slope = B::float_full(shape, scale.into(), &device, dtype.into());
        let (first, span) = options.mirrors(len);
        match options.padding {
            SamplePadding::Reflection if span > 0.0 => {
                let from = B::float_add_scalar(at, (-first).into());
                slope = flip(slope, below(&from, 0.0));
                let from = B::float_abs(from);
                let turns = B::float_floor(B::float_div_scalar(from.clone(), span.into()));
                let rest = B::float_sub(from, B::float_mul_scalar(turns.clone(), span.into()));
                let pairs = B::float_floor(B::float_mul_scalar(turns.clone(), 0.5.into()));
                let odd = above(&B::float_sub(turns, B::float_mul_scalar(pairs, 2f32.into())), 0.5);
                let back = B::float_add_scalar(B::float_neg(rest.clone()), span.into());
                at = B::float_add_scalar(B::float_mask_where(rest, odd.clone(), back), first.into());
                slope = flip(slope, odd);
            }
            _ => {}
        }
        // What is no number is above nothing.
        let (low, high) = if options.padding == SamplePadding::Zeros { (-2.0, last + 2.0) } else { (0.0, last) };
        let stays = B::bool_and(above(&at, low), below(&at, high));
        at = fill(at.clone(), B::bool_not(above(&at, low)), low);
        at = fill(at.clone(), above(&at, high), high);
        slope = fill(slope, B::bool_not(stays), 0.0);
        match options.mode {
            SampleMode::Bilinear => {
                let first = B::float_floor(at.clone());
                Self { part: B::float_sub(at, first.clone()), first, slope, len }
            }
            SampleMode::Nearest => {
                let none = B::float_mul_scalar(slope, 0f32.into());
                Self { part: none.clone(), first: B::float_round(at), slope: none, len }
            }
        }
    }

    /// The index of the first or second pixel, and whether it is inside of the picture.
    fn pixel(&self, second: bool) -> (IntTensor<B>, BoolTensor<B>) {
        let settings = get_or_init_device_settings::<B>(&self.first.device());
        let last = self.len as f64 - 1.0;
        let at = B::float_add_scalar(self.first.clone(), f64::from(u8::from(second)).into());
        let inside = B::bool_and(
            B::float_greater_equal_elem(at.clone(), 0f32.into(), settings.bool_dtype),
            B::float_lower_equal_elem(at.clone(), last.into(), settings.bool_dtype),
        );
        (B::float_into_int(B::float_clamp(at, 0f32.into(), last.into()), settings.int_dtype), inside)
    }

    /// The weight of the first or second pixel.
    fn weight(&self, second: bool) -> FloatTensor<B> {
        if second { self.part.clone() } else { B::float_add_scalar(B::float_neg(self.part.clone()), 1f32.into()) }
    }
}

/// The axes of a grid, x and y.
fn grid_axes<B: Backend>(x: &FloatTensor<B>, grid: FloatTensor<B>, options: GridOptions) -> [GridAxis<B>; 2] {
    let ([_, _, h, w], [n, oh, ow, _]) = (x.shape().dims(), grid.shape().dims());
    [(0, w), (1, h)].map(|(axis, len)| {
        let part = B::float_slice(grid.clone(), &[0..n, 0..oh, 0..ow, axis..axis + 1].map(Slice::from));
        GridAxis::new(reshape::<B, 3>(part, [n, 1, oh * ow]), len, options)
    })
}

/// One of the four pixels around each place, `[n, c, places]`: its index in the plane, and whether it is inside.
fn grid_pixel<B: Backend>(
    [x, y]: &[GridAxis<B>; 2],
    [right, down]: [bool; 2],
    shape: [usize; 3],
) -> (IntTensor<B>, BoolTensor<B>) {
    let ((column, inside_x), (row, inside_y)) = (x.pixel(right), y.pixel(down));
    let index = B::int_add(B::int_mul_scalar(row, (x.len as i64).into()), column);
    let shape = Shape::from(shape);
    (B::int_expand(index, shape.clone()), B::bool_expand(B::bool_and(inside_x, inside_y), shape))
}

const AROUND: [[bool; 2]; 4] = [[false, false], [true, false], [false, true], [true, true]];

/// The values of the four pixels around each place, zero outside: `[n, c, places]`.
fn grid_values<B: Backend>(x: FloatTensor<B>, axes: &[GridAxis<B>; 2], places: usize) -> [FloatTensor<B>; 4] {
    let [n, c, h, w] = x.shape().dims();
    let planes = reshape::<B, 3>(x, [n, c, h * w]);
    AROUND.map(|which| {
        let (index, inside) = grid_pixel(axes, which, [n, c, places]);
        B::float_mask_fill(B::float_gather(2, planes.clone(), index), B::bool_not(inside), 0f32.into())
    })
}

pub(crate) fn grid_sample<B: Backend>(x: FloatTensor<B>, grid: FloatTensor<B>, options: GridOptions) -> FloatTensor<B> {
    let ([n, c, _, _], [_, oh, ow, _]) = (x.shape().dims(), grid.shape().dims());
    let axes = grid_axes::<B>(&x, grid, options);
    let [left_above, right_above, left_below, right_below] = grid_values::<B>(x, &axes, oh * ow);
    let along = |axis: usize, first, second| {
        B::float_add(B::float_mul(first, axes[axis].weight(false)), B::float_mul(second, axes[axis].weight(true)))
    };
    reshape::<B, 4>(along(1, along(0, left_above, right_above), along(0, left_below, right_below)), [n, c, oh, ow])
}

pub(crate) fn grid_sample_backward<B: Backend>(
    x: FloatTensor<B>,
    grid: FloatTensor<B>,
    g: FloatTensor<B>,
    options: GridOptions,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let ([n, c, h, w], [_, oh, ow, _]) = (x.shape().dims(), grid.shape().dims());
    let axes = grid_axes::<B>(&x, grid, options);
    let g = reshape::<B, 3>(g, [n, c, oh * ow]);
    let mut dx = B::float_zeros(Shape::from([n, c, h * w]), &x.device(), x.dtype().into());
    for which in AROUND {
        let (index, inside) = grid_pixel(&axes, which, [n, c, oh * ow]);
        let share = B::float_mul(g.clone(), B::float_mul(axes[0].weight(which[0]), axes[1].weight(which[1])));
        let share = B::float_mask_fill(share, B::bool_not(inside), 0f32.into());
        dx = B::float_scatter(2, dx, index, share, IndexingUpdateOp::Add);
    }
    let values = grid_values::<B>(x, &axes, oh * ow);
    // Along each axis, the differences of its pixels, weighted along the other.
    let slopes = [(0, [(0, 1), (2, 3)]), (1, [(0, 2), (1, 3)])].map(|(axis, pairs): (usize, [(usize, usize); 2])| {
        let [near, far] = pairs.map(|(i, j)| B::float_sub(values[j].clone(), values[i].clone()));
        let other = &axes[1 - axis];
        let slope = B::float_add(B::float_mul(near, other.weight(false)), B::float_mul(far, other.weight(true)));
        let sum = B::float_sum_dim(B::float_mul(g.clone(), slope), 1);
        reshape::<B, 4>(B::float_mul(sum, axes[axis].slope.clone()), [n, oh, ow, 1])
    });
    (reshape::<B, 4>(dx, [n, c, h, w]), B::float_cat(slopes.to_vec(), 3))
}

/// The two halves of the channels.
fn halves<B: Backend>(x: FloatTensor<B>) -> [FloatTensor<B>; 2] {
    let shape = x.shape();
    let half = shape[1] / 2;
    [0, half].map(|start| {
        let part = |axis: usize| if axis == 1 { start..start + half } else { 0..shape[axis] };
        let part: Vec<Slice> = (0..shape.num_dims()).map(|axis| Slice::from(part(axis))).collect();
        B::float_slice(x.clone(), &part)
    })
}

pub(crate) fn gate<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let [a, b] = halves::<B>(x);
    B::float_mul(B::float_tanh(a), B::sigmoid(b))
}

pub(crate) fn ungate<B: Backend>(x: FloatTensor<B>, g: FloatTensor<B>) -> FloatTensor<B> {
    let [a, b] = halves::<B>(x);
    let (t, s) = (B::float_tanh(a), B::sigmoid(b));
    let but = |x: FloatTensor<B>| B::float_add_scalar(B::float_neg(x), 1f32.into());
    let da = B::float_mul(s.clone(), but(B::float_mul(t.clone(), t.clone())));
    let db = B::float_mul(t, B::float_mul(s.clone(), but(s)));
    B::float_cat(vec![B::float_mul(g.clone(), da), B::float_mul(g, db)], 1)
}

pub(crate) fn linear<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>, bias: Optional<B>) -> FloatTensor<B> {
    let outputs = weight.shape()[0];
    let y = B::float_matmul(x, B::float_swap_dims(weight, 0, 1));
    match present(bias) {
        Some(bias) => B::float_add(y, reshape::<B, 2>(bias, [1, outputs])),
        None => y,
    }
}
