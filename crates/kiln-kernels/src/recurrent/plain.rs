//! The same made of Burn's operations: for GPUs and for element types other than `f32`.
//!
//! Pixels of a step are selected from the map by their indices, which is what skewing the map does, and the states of
//! all steps, joined, are selected back into the map's order. What is kept are `o`, `f`, `i`, `g`, the cells and the hidden
//! states, `[n, 6 c, pixels]` in the order of the steps.

use super::Shape;
use crate::ScanDirection;
use burn::{
    backend::{
        Backend, TensorMetadata, get_or_init_device_settings,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{Shape as Dims, Slice, TensorData},
};

fn reshape<B: Backend, const D: usize>(x: FloatTensor<B>, dims: [usize; D]) -> FloatTensor<B> {
    B::float_reshape(x, Dims::from(dims))
}

/// `from..to` of one axis of three.
fn narrow<B: Backend>(x: &FloatTensor<B>, axis: usize, from: usize, to: usize) -> FloatTensor<B> {
    let shape = x.shape();
    let part = |a: usize| Slice::from(if a == axis { from..to } else { 0..shape[a] });
    B::float_slice(x.clone(), &[part(0), part(1), part(2)])
}

/// With zeros before and after the places of `[n, c, places]`.
fn padded<B: Backend>(x: FloatTensor<B>, before: usize, after: usize) -> FloatTensor<B> {
    let [n, c, _] = x.shape().dims();
    let (device, dtype) = (x.device(), x.dtype());
    let zeros = |len: usize| B::float_zeros(Dims::from([n, c, len]), &device, dtype.into());
    let mut all = Vec::new();
    if before > 0 {
        all.push(zeros(before));
    }
    all.push(x);
    if after > 0 {
        all.push(zeros(after));
    }
    if all.len() == 1 { all.remove(0) } else { B::float_cat(all, 2) }
}

fn indices<B: Backend>(values: impl Iterator<Item = usize>, like: &FloatTensor<B>) -> IntTensor<B> {
    let values: Vec<i64> = values.map(|v| v as i64).collect();
    let (len, device) = (values.len(), like.device());
    let dtype = get_or_init_device_settings::<B>(&device).int_dtype;
    B::int_from_data(TensorData::new(values, [len]).convert_dtype(dtype.into()), &device)
}

/// Pixels in the order of the steps.
fn order(s: &Shape) -> Vec<usize> {
    (0..s.steps()).flat_map(|step| s.range(step).map(move |place| s.pixel(step, place))).collect()
}

/// Where each pixel is in that order.
fn inverse(order: &[usize]) -> Vec<usize> {
    let mut at = vec![0; order.len()];
    order.iter().enumerate().for_each(|(i, &pixel)| at[pixel] = i);
    at
}

/// Tap by tap, `[1, gates, state]`.
fn taps<B: Backend>(weight: &FloatTensor<B>) -> Vec<FloatTensor<B>> {
    let [gates, state, taps] = weight.shape().dims();
    (0..taps).map(|tap| reshape::<B, 3>(narrow::<B>(weight, 2, tap, tap + 1), [1, gates, state])).collect()
}

fn but<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_add_scalar(B::float_neg(x), 1f32.into())
}

/// A step's windows: its states, one step earlier, with zeros where there is no pixel.
struct Windows<B: Backend> {
    /// `[n, state, places + taps - 1]`.
    all: FloatTensor<B>,
    start: usize,
    count: usize,
}

impl<B: Backend> Windows<B> {
    /// Of states `[n, state, ..]` of the step before `step`.
    fn new(s: &Shape, step: usize, states: FloatTensor<B>) -> Self {
        let (was, range) = (s.range(step - 1), s.range(step));
        let after = s.taps - 1 - s.before() + s.places() - was.end;
        Self { all: padded::<B>(states, s.before() + was.start, after), start: range.start, count: range.len() }
    }

    /// What a tap sees, `[n, state, count]`.
    fn tap(&self, tap: usize) -> FloatTensor<B> {
        narrow::<B>(&self.all, 2, self.start + tap, self.start + tap + self.count)
    }
}

pub(crate) fn forward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    direction: ScanDirection,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let ([n, gates, height, width], [_, state, count]) = (x.shape().dims(), weight.shape().dims::<3>());
    let s = Shape::new([n, gates, height, width], count, direction);
    let (order, taps) = (order(&s), taps::<B>(&weight));
    let x = reshape::<B, 3>(x, [n, gates, s.pixels()]);
    let x = B::float_select(x.clone(), 2, indices::<B>(order.iter().copied(), &x));
    let mut kept: Vec<FloatTensor<B>> = Vec::new();
    let mut at = 0;
    for step in 0..s.steps() {
        let range = s.range(step);
        let mut z = narrow::<B>(&x, 2, at, at + range.len());
        at += range.len();
        let zeros = || B::float_zeros(Dims::from([n, state, range.len()]), &x.device(), x.dtype().into());
        let mut before = zeros();
        if let Some(last) = kept.last() {
            let windows = Windows::<B>::new(&s, step, narrow::<B>(last, 1, 5 * state, 6 * state));
            for (tap, weight) in taps.iter().enumerate() {
                z = B::float_add(z, B::float_matmul(weight.clone(), windows.tap(tap)));
            }
            before = cells_before::<B>(&s, step, narrow::<B>(last, 1, 4 * state, 5 * state));
        }
        let [o, f, i] = [0, 1, 2].map(|part| B::sigmoid(narrow::<B>(&z, 1, part * state, (part + 1) * state)));
        let g = B::float_tanh(narrow::<B>(&z, 1, 3 * state, gates));
        let cell = B::float_add(B::float_mul(f.clone(), before), B::float_mul(i.clone(), g.clone()));
        let hidden = B::float_mul(o.clone(), B::float_tanh(cell.clone()));
        kept.push(B::float_cat(vec![o, f, i, g, cell, hidden], 1));
    }
    let kept = B::float_cat(kept, 2);
    let hidden = narrow::<B>(&kept, 1, 5 * state, 6 * state);
    let back = indices::<B>(inverse(&order).into_iter(), &hidden);
    (reshape::<B, 4>(B::float_select(hidden, 2, back), [n, state, height, width]), kept)
}

/// The cells of the step before, at the places of this one.
fn cells_before<B: Backend>(s: &Shape, step: usize, cells: FloatTensor<B>) -> FloatTensor<B> {
    let (was, range) = (s.range(step - 1), s.range(step));
    let cells = padded::<B>(cells, 0, range.end - was.end);
    narrow::<B>(&cells, 2, range.start - was.start, range.end - was.start)
}

pub(crate) fn backward<B: Backend>(
    weight: FloatTensor<B>,
    kept: FloatTensor<B>,
    g: FloatTensor<B>,
    direction: ScanDirection,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let ([n, state, height, width], [gates, _, count]) = (g.shape().dims(), weight.shape().dims::<3>());
    let s = Shape::new([n, gates, height, width], count, direction);
    let (order, weights) = (order(&s), taps::<B>(&weight));
    let g = reshape::<B, 3>(g, [n, state, s.pixels()]);
    let g = B::float_select(g.clone(), 2, indices::<B>(order.iter().copied(), &g));
    let starts: Vec<usize> = (0..s.steps())
        .scan(0, |at, step| {
            *at += s.range(step).len();
            Some(*at - s.range(step).len())
        })
        .collect();
    let of = |step: usize| narrow::<B>(&kept, 2, starts[step], starts[step] + s.range(step).len());
    let part = |all: &FloatTensor<B>, i: usize| narrow::<B>(all, 1, i * state, (i + 1) * state);
    let mut dw: Vec<Option<FloatTensor<B>>> = vec![None; count];
    let mut dx = Vec::new();
    // From the step after: gradients in the hidden states and in the cells of all this step's places.
    let mut later: Option<[FloatTensor<B>; 2]> = None;
    for step in (0..s.steps()).rev() {
        let range = s.range(step);
        let all = of(step);
        let [o, f, i, gate, cell, _] = [0, 1, 2, 3, 4, 5].map(|at| part(&all, at));
        let mut dh = narrow::<B>(&g, 2, starts[step], starts[step] + range.len());
        let t = B::float_tanh(cell);
        let mut through = None;
        if let Some([hidden, cells]) = later.take() {
            dh = B::float_add(dh, narrow::<B>(&hidden, 2, range.start, range.end));
            through = Some(narrow::<B>(&cells, 2, range.start, range.end));
        }
        let into = B::float_mul(B::float_mul(dh.clone(), o.clone()), but::<B>(B::float_mul(t.clone(), t.clone())));
        let dc = match through {
            Some(through) => B::float_add(through, into),
            None => into,
        };
        let slope = |s: &FloatTensor<B>| B::float_mul(s.clone(), but::<B>(s.clone()));
        let before = match step {
            0 => B::float_mul_scalar(f.clone(), 0f32.into()),
            _ => cells_before::<B>(&s, step, part(&of(step - 1), 4)),
        };
        let dz = B::float_cat(
            vec![
                B::float_mul(B::float_mul(dh, t), slope(&o)),
                B::float_mul(B::float_mul(dc.clone(), before), slope(&f)),
                B::float_mul(B::float_mul(dc.clone(), gate.clone()), slope(&i)),
                B::float_mul(B::float_mul(dc.clone(), i), but::<B>(B::float_mul(gate.clone(), gate))),
            ],
            1,
        );
        if step > 0 {
            let windows = Windows::<B>::new(&s, step, part(&of(step - 1), 5));
            let mut hidden: Option<FloatTensor<B>> = None;
            for (tap, (weight, dw)) in weights.iter().zip(&mut dw).enumerate() {
                let seen = B::float_swap_dims(windows.tap(tap), 1, 2);
                let sum = B::float_sum_dim(B::float_matmul(dz.clone(), seen), 0);
                *dw = Some(match dw.take() {
                    Some(dw) => B::float_add(dw, sum),
                    None => sum,
                });
                let back = B::float_matmul(B::float_swap_dims(weight.clone(), 1, 2), dz.clone());
                // Where the tap's windows lie among the padded places, of which the places are a part.
                let (first, width) = (range.start + tap, s.places() + s.taps - 1);
                let back = padded::<B>(back, first, width - first - range.len());
                hidden = Some(match hidden {
                    Some(hidden) => B::float_add(hidden, back),
                    None => back,
                });
            }
            let cells = padded::<B>(B::float_mul(dc, f), range.start, s.places() - range.end);
            later = hidden.map(|hidden| [narrow::<B>(&hidden, 2, s.before(), s.before() + s.places()), cells]);
        }
        dx.push(dz);
    }
    dx.reverse();
    let dx = B::float_cat(dx, 2);
    let back = indices::<B>(inverse(&order).into_iter(), &dx);
    let dx = reshape::<B, 4>(B::float_select(dx, 2, back), [n, gates, height, width]);
    let dw = dw.into_iter().map(|dw| match dw {
        Some(dw) => reshape::<B, 3>(dw, [gates, state, 1]),
        // A scan of one step.
        None => B::float_zeros(Dims::from([gates, state, 1]), &weight.device(), weight.dtype().into()),
    });
    (dx, B::float_cat(dw.collect(), 2))
}
