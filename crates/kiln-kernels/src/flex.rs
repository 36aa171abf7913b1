//! The operations on Burn's CPU backend: the kernels for `f32`, Burn's operations otherwise.

use crate::{
    Activation, AdamStep, ConvOptions, Filter, GridOptions, Mask, Precision, ScanDirection, activation,
    attention::{self, View},
    conv, copy, fallback, gate, grid,
    isa::Isa,
    linear,
    norm::{self, Affine, Scope},
    ops::{KernelOps, Optional},
    recurrent, resample, update,
};
use burn::{
    backend::{Flex, ops::FloatTensorOps, tensor::FloatTensor},
    tensor::{Bytes, DType, Shape},
};
use burn_flex::{FlexTensor, Layout};

/// The tensor, its elements in row-major order one after another (a copy only if they are not).
fn contiguous(x: FlexTensor) -> FlexTensor {
    if x.layout().contiguous_offsets().is_some() { x } else { x.to_contiguous() }
}

/// The elements of a contiguous `f32` tensor.
fn elements(x: &FlexTensor) -> &[f32] {
    // Every caller has checked the type and passed the tensor through `contiguous`.
    x.as_slice::<f32>().unwrap_or(&[])
}

fn dims<const D: usize>(x: &FlexTensor) -> [usize; D] {
    x.layout().shape().dims()
}

fn tensor<const D: usize>(elements: Vec<f32>, dims: [usize; D]) -> FlexTensor {
    flat(elements, Shape::from(dims))
}

fn flat(elements: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(elements), Layout::contiguous(shape), DType::F32)
}

/// What convolutions are computed with.
fn products() -> Isa {
    Isa::for_products(Precision::current())
}

fn all_f32(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|x| x.dtype() == DType::F32)
}

fn bias_is_f32(bias: &Optional<Flex>) -> bool {
    match bias {
        Optional::Some(bias) => bias.dtype() == DType::F32,
        Optional::None => true,
    }
}

/// Runs `work` with the elements of the bias, if there is one.
fn with_bias<T>(bias: Optional<Flex>, work: impl FnOnce(Option<&[f32]>) -> T) -> T {
    match bias {
        Optional::Some(bias) => work(Some(elements(&contiguous(bias)))),
        Optional::None => work(None),
    }
}

impl KernelOps for Flex {
    fn conv_far(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Optional<Self>,
        options: ConvOptions,
        size: [usize; 2],
    ) -> FloatTensor<Self> {
        if !all_f32(&[&x, &weight]) || !bias_is_f32(&bias) {
            return fallback::conv_far::<Self>(x, weight, bias, options, size);
        }
        let ([n, c, h, w], [f, _, kh, kw]) = (dims(&x), dims(&weight));
        let shape = conv::Shape { images: n, near: [c, h, w], far: [f, size[0], size[1]], kernel: [kh, kw], options };
        let (x, weight) = (contiguous(x), contiguous(weight));
        let run = |bias: Option<&[f32]>| conv::to_far(products(), &shape, elements(&x), elements(&weight), bias);
        let y = with_bias(bias, run);
        tensor(y, [n, f, size[0], size[1]])
    }

    fn conv_near(
        g: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Optional<Self>,
        options: ConvOptions,
        size: [usize; 2],
    ) -> FloatTensor<Self> {
        if !all_f32(&[&g, &weight]) || !bias_is_f32(&bias) {
            return fallback::conv_near::<Self>(g, weight, bias, options, size);
        }
        let ([n, f, h, w], [_, c, kh, kw]) = (dims(&g), dims(&weight));
        let c = c * options.groups;
        let shape = conv::Shape { images: n, near: [c, size[0], size[1]], far: [f, h, w], kernel: [kh, kw], options };
        let (g, weight) = (contiguous(g), contiguous(weight));
        let run = |bias: Option<&[f32]>| conv::to_near(products(), &shape, elements(&g), elements(&weight), bias);
        let y = with_bias(bias, run);
        tensor(y, [n, c, size[0], size[1]])
    }

    fn conv_weights(
        x: FloatTensor<Self>,
        g: FloatTensor<Self>,
        kernel: [usize; 2],
        options: ConvOptions,
    ) -> FloatTensor<Self> {
        if !all_f32(&[&x, &g]) {
            return fallback::conv_weights::<Self>(x, g, kernel, options);
        }
        let ([n, c, h, w], [_, f, oh, ow]) = (dims(&x), dims(&g));
        let shape = conv::Shape { images: n, near: [c, h, w], far: [f, oh, ow], kernel, options };
        let (x, g) = (contiguous(x), contiguous(g));
        let gradient = conv::weights(products(), &shape, elements(&x), elements(&g));
        tensor(gradient, [f, c / options.groups, kernel[0], kernel[1]])
    }

    fn channel_sums(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if !all_f32(&[&x]) {
            return fallback::channel_sums::<Self>(x);
        }
        let [n, c, h, w] = dims(&x);
        let sums = norm::channel_sums(Isa::current(), n, c, h * w, elements(&contiguous(x)));
        tensor(sums, [c])
    }

    fn normalise_with_statistics(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        scope: Scope,
        eps: f64,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if !all_f32(&[&x, &gamma, &beta]) {
            return fallback::normalise::<Self>(x, gamma, beta, scope, eps, activation);
        }
        let (shape, dims) = (norm_shape(&x, &gamma, scope), x.layout().shape().clone());
        let [x, gamma, beta] = [x, gamma, beta].map(contiguous);
        let affine = Affine { gamma: elements(&gamma), beta: elements(&beta), eps, activation };
        let (y, mean, var) = norm::forward(Isa::current(), &shape, elements(&x), affine);
        let cells = [shape.cells()];
        (flat(y, dims), tensor(mean, cells), tensor(var, cells))
    }

    fn batch_statistics(x: FloatTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !all_f32(&[&x]) {
            return fallback::statistics::<Self>(x, Scope::Batch);
        }
        let channels = [x.layout().shape()[1]];
        let shape = norm::Shape::new(&x.layout().shape()[..], &channels, Scope::Batch);
        let (mean, var) = norm::statistics(Isa::current(), &shape, elements(&contiguous(x)));
        (tensor(mean, channels), tensor(var, channels))
    }

    fn normalise_by(
        x: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        var: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        scope: Scope,
        eps: f64,
        activation: Activation,
    ) -> FloatTensor<Self> {
        if !all_f32(&[&x, &mean, &var, &gamma, &beta]) {
            return fallback::normalise_by::<Self>(x, mean, var, gamma, beta, scope, eps, activation);
        }
        let (shape, dims) = (norm_shape(&x, &gamma, scope), x.layout().shape().clone());
        let [x, mean, var, gamma, beta] = [x, mean, var, gamma, beta].map(contiguous);
        let affine = Affine { gamma: elements(&gamma), beta: elements(&beta), eps, activation };
        let y = norm::apply_statistics(Isa::current(), &shape, elements(&x), elements(&mean), elements(&var), affine);
        flat(y, dims)
    }

    fn norm_backward(
        x: FloatTensor<Self>,
        g: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        var: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        scope: Scope,
        eps: f64,
        activation: Activation,
        wants_input: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if !all_f32(&[&x, &g, &mean, &var, &gamma, &beta]) {
            return fallback::norm_backward::<Self>(x, g, mean, var, gamma, beta, scope, eps, activation);
        }
        let (shape, dims) = (norm_shape(&x, &gamma, scope), x.layout().shape().clone());
        let affine_dims = gamma.layout().shape().clone();
        let [x, g, mean, var, gamma, beta] = [x, g, mean, var, gamma, beta].map(contiguous);
        let affine = Affine { gamma: elements(&gamma), beta: elements(&beta), eps, activation };
        let gradients = norm::backward(
            Isa::current(),
            &shape,
            elements(&x),
            elements(&g),
            elements(&mean),
            elements(&var),
            affine,
            wants_input,
        );
        (flat(gradients.input, dims), flat(gradients.gamma, affine_dims.clone()), flat(gradients.beta, affine_dims))
    }

    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        if !all_f32(&[&x]) {
            return fallback::activate::<Self>(x, activation);
        }
        let (shape, x) = (x.layout().shape().clone(), contiguous(x));
        flat(activation::forward(Isa::current(), activation, elements(&x)), shape)
    }

    fn activation_backward(x: FloatTensor<Self>, g: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        if !all_f32(&[&x, &g]) {
            return fallback::unactivate::<Self>(x, g, activation);
        }
        let (shape, [x, g]) = (x.layout().shape().clone(), [x, g].map(contiguous));
        flat(activation::backward(Isa::current(), activation, elements(&x), elements(&g)), shape)
    }

    fn add_activate(x: FloatTensor<Self>, y: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        if !all_f32(&[&x, &y]) {
            return fallback::activate::<Self>(Self::float_add(x, y), activation);
        }
        let [mut x, mut y] = [x, y].map(contiguous);
        if !x.is_unique() {
            std::mem::swap(&mut x, &mut y);
        }
        if !x.is_unique() {
            let sum = activation::add(Isa::current(), activation, elements(&x), elements(&y));
            return flat(sum, x.layout().shape().clone());
        }
        activation::add_to(Isa::current(), activation, elements_mut(&mut x), elements(&y));
        x
    }

    fn concat(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        if !all_f32(&[&x, &y]) {
            return Self::float_cat(vec![x, y], 1);
        }
        let mut dims = x.layout().shape().clone();
        let (images, x_len, y_len) = (dims[0], image_len(&x), image_len(&y));
        dims[1] += y.layout().shape()[1];
        let [x, y] = [x, y].map(contiguous);
        flat(copy::concat(images, elements(&x), x_len, elements(&y), y_len), dims)
    }

    fn channels(x: FloatTensor<Self>, start: usize, count: usize) -> FloatTensor<Self> {
        if !all_f32(&[&x]) {
            return fallback::channels::<Self>(x, start, count);
        }
        let mut dims = x.layout().shape().clone();
        let (images, len, channel) = (dims[0], image_len(&x), dims.iter().skip(2).product::<usize>());
        dims[1] = count;
        let part = start * channel..(start + count) * channel;
        flat(copy::parts(images, elements(&contiguous(x)), len, part), dims)
    }

    fn adam(
        value: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: AdamStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if !all_f32(&[&value, &gradient, &first, &second]) {
            return fallback::adam::<Self>(value, gradient, first, second, step);
        }
        let [mut value, gradient, mut first, mut second] = [value, gradient, first, second].map(contiguous);
        let (p, m, v) = (elements_mut(&mut value), elements_mut(&mut first), elements_mut(&mut second));
        update::adam(Isa::current(), step, p, elements(&gradient), m, v);
        (value, first, second)
    }

    fn lerp(x: FloatTensor<Self>, y: FloatTensor<Self>, weight: f64) -> FloatTensor<Self> {
        if !all_f32(&[&x, &y]) {
            return fallback::lerp::<Self>(x, y, weight);
        }
        let [mut x, y] = [x, y].map(contiguous);
        update::lerp(Isa::current(), elements_mut(&mut x), elements(&y), weight);
        x
    }

    fn sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if !all_f32(&[&x]) {
            return Self::float_sum(Self::float_mul(x.clone(), x));
        }
        let sum = update::sum_of_squares(Isa::current(), elements(&contiguous(x)));
        tensor(vec![sum as f32], [1])
    }

    fn attend_with_logs(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: Mask,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !all_f32(&[&q, &k, &v]) {
            return fallback::attention::<Self>(q, k, v, &mask);
        }
        let s = attention_shape(&q, &v);
        let [q, k, v] = [q, k, v].map(readable);
        let operands = [&q, &k, &v].map(view);
        let (out, logs) = attention::forward(Isa::current(), &s, operands, &mask);
        (strided(out, s.out(), operands[0]), tensor(logs, [s.images, s.heads, s.queries]))
    }

    fn attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        logs: FloatTensor<Self>,
        g: FloatTensor<Self>,
        mask: Mask,
        wants: [bool; 3],
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if !all_f32(&[&q, &k, &v, &out, &logs, &g]) {
            return fallback::attention_backward::<Self>([q, k, v], out, logs, g, &mask);
        }
        let s = attention_shape(&q, &v);
        let sizes = [&q, &k, &v].map(dims);
        let [q, k, v, out, g] = [q, k, v, out, g].map(readable);
        let operands = [&q, &k, &v].map(view);
        let logs = contiguous(logs);
        let (isa, logs) = (Isa::current(), elements(&logs));
        let gradients = attention::backward(isa, &s, operands, view(&out), logs, view(&g), &mask, wants);
        let whole = |i: usize, gradient: Vec<f32>| {
            if wants[i] { strided(gradient, sizes[i], operands[i]) } else { tensor(gradient, [0]) }
        };
        let [dq, dk, dv] = gradients;
        (whole(0, dq), whole(1, dk), whole(2, dv))
    }

    fn fully_connected(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: Optional<Self>) -> FloatTensor<Self> {
        let ([rows, inputs], [outputs, _]) = (dims(&x), dims(&weight));
        let ours = all_f32(&[&x, &weight]) && bias_is_f32(&bias) && rows <= linear::FEW;
        if !ours {
            return fallback::linear::<Self>(x, weight, bias);
        }
        let (x, weight) = (contiguous(x), contiguous(weight));
        let run = |bias: Option<&[f32]>| {
            linear::forward(Isa::current(), elements(&x), elements(&weight), bias, [rows, inputs, outputs])
        };
        let y = with_bias(bias, run);
        tensor(y, [rows, outputs])
    }

    fn gate(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if !all_f32(&[&x]) {
            return fallback::gate::<Self>(x);
        }
        let mut shape = x.layout().shape().clone();
        let (images, half) = (shape[0], image_len(&x) / 2);
        shape[1] /= 2;
        flat(gate::forward(Isa::current(), elements(&contiguous(x)), images, half), shape)
    }

    fn gate_backward(x: FloatTensor<Self>, g: FloatTensor<Self>) -> FloatTensor<Self> {
        if !all_f32(&[&x, &g]) {
            return fallback::ungate::<Self>(x, g);
        }
        let (shape, half) = (x.layout().shape().clone(), image_len(&x) / 2);
        let [x, g] = [x, g].map(contiguous);
        flat(gate::backward(Isa::current(), elements(&x), elements(&g), shape[0], half), shape)
    }

    fn recur(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        direction: ScanDirection,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !all_f32(&[&x, &weight]) {
            return recurrent::plain::forward::<Self>(x, weight, direction);
        }
        let (size, [_, state, taps]) = (dims::<4>(&x), dims(&weight));
        let shape = recurrent::Shape::new(size, taps, direction);
        let [x, weight] = [x, weight].map(contiguous);
        let (h, kept) = recurrent::forward(Isa::current(), &shape, elements(&x), elements(&weight));
        let [n, _, height, width] = size;
        (tensor(h, [n, state, height, width]), tensor(kept, [n, shape.kept()]))
    }

    fn recur_backward(
        weight: FloatTensor<Self>,
        kept: FloatTensor<Self>,
        g: FloatTensor<Self>,
        direction: ScanDirection,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !all_f32(&[&weight, &kept, &g]) {
            return recurrent::plain::backward::<Self>(weight, kept, g, direction);
        }
        let ([n, state, height, width], size) = (dims(&g), dims::<3>(&weight));
        let shape = recurrent::Shape::new([n, 4 * state, height, width], size[2], direction);
        let [weight, kept, g] = [weight, kept, g].map(contiguous);
        let (dx, dw) = recurrent::backward(Isa::current(), &shape, elements(&g), elements(&kept), elements(&weight));
        (tensor(dx, [n, 4 * state, height, width]), tensor(dw, size))
    }

    fn resample(x: FloatTensor<Self>, rows: Filter, columns: Filter) -> FloatTensor<Self> {
        if !all_f32(&[&x]) {
            return fallback::resample::<Self>(x, &rows, &columns);
        }
        let [n, c, _, _] = dims(&x);
        let y = resample::resample(Isa::current(), elements(&contiguous(x)), n * c, &rows, &columns);
        tensor(y, [n, c, rows.outputs(), columns.outputs()])
    }

    fn grid_sample(x: FloatTensor<Self>, grid: FloatTensor<Self>, options: GridOptions) -> FloatTensor<Self> {
        if !all_f32(&[&x, &grid]) {
            return fallback::grid_sample::<Self>(x, grid, options);
        }
        let (shape, [n, c, _, _], [_, oh, ow, _]) = (grid_shape(&x, &grid), dims(&x), dims(&grid));
        let [x, grid] = [x, grid].map(contiguous);
        tensor(grid::forward(elements(&x), elements(&grid), shape, options), [n, c, oh, ow])
    }

    fn grid_sample_backward(
        x: FloatTensor<Self>,
        grid: FloatTensor<Self>,
        g: FloatTensor<Self>,
        options: GridOptions,
        wants: [bool; 2],
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !all_f32(&[&x, &grid, &g]) {
            return fallback::grid_sample_backward::<Self>(x, grid, g, options);
        }
        let (shape, sizes) = (grid_shape(&x, &grid), [&x, &grid].map(dims::<4>));
        let [x, grid, g] = [x, grid, g].map(contiguous);
        let (dx, dgrid) = grid::backward(elements(&x), elements(&grid), elements(&g), shape, options, wants);
        let whole = |i: usize, gradient| if wants[i] { tensor(gradient, sizes[i]) } else { tensor(gradient, [0]) };
        (whole(0, dx), whole(1, dgrid))
    }
}

fn grid_shape(x: &FlexTensor, grid: &FlexTensor) -> grid::Shape {
    let ([_, channels, h, w], [_, oh, ow, _]) = (dims(x), dims(grid));
    grid::Shape { channels, size: [h, w], places: oh * ow }
}

fn attention_shape(q: &FlexTensor, v: &FlexTensor) -> attention::Shape {
    let ([images, heads, queries, features], [_, _, keys, values]) = (dims(q), dims(v));
    attention::Shape { images, heads, queries, keys, features, values }
}

/// The tensor, copied only if it runs backwards through memory.
fn readable(x: FlexTensor) -> FlexTensor {
    if x.layout().strides().iter().all(|stride| *stride >= 0) { x } else { x.to_contiguous() }
}

/// A readable `f32` tensor where it lies.
fn view(x: &FlexTensor) -> View<'_> {
    let strides = x.layout().strides();
    View { data: &x.storage::<f32>()[x.layout().start_offset()..], strides: [0, 1, 2, 3].map(|i| strides[i] as usize) }
}

/// A tensor that lies in memory as `like` does.
fn strided(elements: Vec<f32>, dims: [usize; 4], like: View) -> FlexTensor {
    let strides = like.strides_for(dims).map(|stride| stride as isize);
    FlexTensor::new(Bytes::from_elems(elements), Layout::new(Shape::from(dims), strides.to_vec(), 0), DType::F32)
}

/// The elements of a contiguous `f32` tensor to change: its own if it is theirs alone, else a copy.
fn elements_mut(x: &mut FlexTensor) -> &mut [f32] {
    let range = x.layout().contiguous_offsets().unwrap_or((0, 0));
    &mut x.storage_mut::<f32>()[range.0..range.1]
}

/// Elements of an image of `[n, c, ..]`.
fn image_len(x: &FlexTensor) -> usize {
    x.layout().shape().iter().skip(1).product()
}

fn norm_shape(x: &FlexTensor, gamma: &FlexTensor, scope: Scope) -> norm::Shape {
    norm::Shape::new(&x.layout().shape()[..], &gamma.layout().shape()[..], scope)
}
