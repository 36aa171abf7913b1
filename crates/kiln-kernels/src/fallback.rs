//! The operations made of Burn's own: for GPUs and for element types other than `f32`.

use crate::{Activation, AdamStep, ConvOptions, norm::Scope, ops::Optional};
use burn::{
    backend::{Backend, TensorMetadata, get_or_init_device_settings, tensor::FloatTensor},
    tensor::{Shape, Slice, ops},
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

/// `[cells, elements]` view of `x` and back, and the shape statistics broadcast against `x` in.
struct Cells {
    dims: [usize; 4],
    scope: Scope,
}

impl Cells {
    fn new<B: Backend>(x: &FloatTensor<B>, scope: Scope) -> Cells {
        Cells { dims: x.shape().dims(), scope }
    }

    /// Mean over each cell, shaped to broadcast against [`Cells::spread`].
    fn mean<B: Backend>(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        match self.scope {
            Scope::Groups(_) => B::float_mean_dim(self.spread::<B>(x), 2),
            Scope::Batch => [0, 2, 3].iter().fold(x, |x, dim| B::float_mean_dim(x, *dim)),
        }
    }

    /// `x` in the shape statistics broadcast to.
    fn spread<B: Backend>(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        let [n, c, h, w] = self.dims;
        match self.scope {
            Scope::Groups(groups) => reshape::<B, 3>(x, [n, groups, c / groups * h * w]),
            Scope::Batch => x,
        }
    }

    /// Flat statistics in the shape of [`Cells::mean`].
    fn broadcast<B: Backend>(&self, statistic: FloatTensor<B>) -> FloatTensor<B> {
        let [n, c, ..] = self.dims;
        match self.scope {
            Scope::Groups(groups) => reshape::<B, 3>(statistic, [n, groups, 1]),
            Scope::Batch => reshape::<B, 4>(statistic, [1, c, 1, 1]),
        }
    }

    fn flat<B: Backend>(&self, statistic: FloatTensor<B>) -> FloatTensor<B> {
        let [n, c, ..] = self.dims;
        match self.scope {
            Scope::Groups(groups) => reshape::<B, 1>(statistic, [n * groups]),
            Scope::Batch => reshape::<B, 1>(statistic, [c]),
        }
    }

    fn image<B: Backend>(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        reshape::<B, 4>(x, self.dims)
    }

    fn channel<B: Backend>(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        reshape::<B, 4>(x, [1, self.dims[1], 1, 1])
    }

    /// `1 / sqrt(var + eps)`, broadcastable.
    fn rstd<B: Backend>(&self, var: FloatTensor<B>, eps: f64) -> FloatTensor<B> {
        self.broadcast::<B>(B::float_recip(B::float_sqrt(B::float_add_scalar(var, eps.into()))))
    }

    /// `(x - mean) * rstd` as an image.
    fn standardise<B: Backend>(&self, x: FloatTensor<B>, mean: FloatTensor<B>, rstd: FloatTensor<B>) -> FloatTensor<B> {
        let centred = B::float_sub(self.spread::<B>(x), self.broadcast::<B>(mean));
        self.image::<B>(B::float_mul(centred, rstd))
    }
}

pub(crate) fn statistics<B: Backend>(x: FloatTensor<B>, scope: Scope) -> (FloatTensor<B>, FloatTensor<B>) {
    let cells = Cells::new::<B>(&x, scope);
    let mean = cells.mean::<B>(x.clone());
    let centred = cells.image::<B>(B::float_sub(cells.spread::<B>(x), mean.clone()));
    let var = cells.mean::<B>(B::float_mul(centred.clone(), centred));
    (cells.flat::<B>(mean), cells.flat::<B>(var))
}

pub(crate) fn group_norm<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    groups: usize,
    eps: f64,
    activation: Activation,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let scope = Scope::Groups(groups);
    let (mean, var) = statistics::<B>(x.clone(), scope);
    let y = apply_statistics::<B>(x, mean.clone(), var.clone(), gamma, beta, scope, eps, activation);
    (y, mean, var)
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn apply_statistics<B: Backend>(
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
    let h = cells.standardise::<B>(x, mean, cells.rstd::<B>(var, eps));
    let z = B::float_add(B::float_mul(h, cells.channel::<B>(gamma)), cells.channel::<B>(beta));
    activate::<B>(z, activation)
}

pub(crate) fn activate<B: Backend>(z: FloatTensor<B>, activation: Activation) -> FloatTensor<B> {
    match activation {
        Activation::None => z,
        Activation::Relu => B::relu(z),
        Activation::LeakyRelu(slope) => B::leaky_relu(z, slope.into()),
        Activation::Silu => B::float_mul(z.clone(), B::sigmoid(z)),
    }
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn norm_gradient<B: Backend>(
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
    let rstd = cells.rstd::<B>(var, eps);
    let h = cells.standardise::<B>(x, mean, rstd.clone());
    let gamma = cells.channel::<B>(gamma);
    let t = if activation == Activation::None {
        g
    } else {
        let z = B::float_add(B::float_mul(h.clone(), gamma.clone()), cells.channel::<B>(beta));
        unactivate::<B>(z, g, activation)
    };
    let beta_gradient = channel_sums::<B>(t.clone());
    let gamma_gradient = channel_sums::<B>(B::float_mul(t.clone(), h.clone()));

    let t = B::float_mul(t, gamma);
    let offset = cells.mean::<B>(t.clone());
    let pull = cells.mean::<B>(B::float_mul(t.clone(), h.clone()));
    let t = B::float_sub(cells.spread::<B>(t), offset);
    let t = B::float_sub(t, B::float_mul(cells.spread::<B>(h), pull));
    (cells.image::<B>(B::float_mul(t, rstd)), gamma_gradient, beta_gradient)
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
        Activation::Silu => {
            let s = B::sigmoid(z.clone());
            let rest = B::float_add_scalar(B::float_neg(s.clone()), 1f32.into());
            let slope = B::float_add(s.clone(), B::float_mul(B::float_mul(z, s), rest));
            B::float_mul(g, slope)
        }
    }
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
