//! Attention, resampling, and convolution in one and three dimensions: against PyTorch
//! (`tests/reference/operations.py`), against Burn's own operations, and on other element types.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

mod common;
#[path = "../../../tests/reference/fixtures.rs"]
mod fixtures;

use burn::tensor::{
    Device, FloatDType, GradientCheckpointingStrategy, Tensor, TensorData, activation::softmax, module, ops,
};
use common::*;
use fixtures::Fixtures;
use kiln_kernels::*;

/// Tracked tensors and the output made of them, checked with every gradient against the fixture.
fn check<const D: usize, const E: usize>(
    f: &Fixtures,
    case: &str,
    y: Tensor<D>,
    inputs: &[(&str, &Tensor<E>)],
    bias: Option<&Tensor<1>>,
) {
    f.assert_close(y.clone().inner(), &format!("{case}.output"), 1e-5);
    let g = (y * f.tensor::<D>(&format!("{case}.grad_output")).autodiff()).sum().backward();
    for (name, input) in inputs {
        f.assert_close(input.grad(&g).unwrap(), &format!("{case}.grad_{name}"), 1e-5);
    }
    if let Some(bias) = bias {
        f.assert_close(bias.grad(&g).unwrap(), &format!("{case}.grad_bias"), 1e-5);
    }
}

fn input<const D: usize>(f: &Fixtures, case: &str, name: &str) -> Tensor<D> {
    f.tensor(&format!("{case}.{name}")).autodiff().require_grad()
}

fn integers(f: &Fixtures, name: &str) -> Vec<usize> {
    f.values(name).1.into_iter().map(|v| v as usize).collect()
}

#[test]
fn attention_agrees_with_pytorch() {
    let f = Fixtures::open("operations");
    let lengths = Mask::Lengths(integers(&f, "attention.lengths.lengths"));
    let cases = [("self", Mask::None), ("cross", Mask::None), ("causal", Mask::Causal), ("lengths", lengths)];
    for (name, mask) in cases {
        let case = format!("attention.{name}");
        let [q, k, v] = ["q", "k", "v"].map(|name| input::<4>(&f, &case, name));
        let y = attention(q.clone(), k.clone(), v.clone(), mask);
        check(&f, &case, y, &[("q", &q), ("k", &k), ("v", &v)], None);
    }
}

/// The options of a convolution in `D` dimensions, and its output padding.
fn options<const D: usize>(f: &Fixtures, case: &str) -> (ConvOptions<D>, [usize; D]) {
    let all = integers(f, &format!("{case}.options"));
    let part = |i: usize| -> [usize; D] { all[i * D..(i + 1) * D].try_into().unwrap() };
    (ConvOptions { stride: part(0), padding: part(1), dilation: part(2), groups: all[4 * D] }, part(3))
}

#[test]
fn convolutions_in_one_dimension_agree_with_pytorch() {
    let f = Fixtures::open("operations");
    for case in ["conv1d.same", "conv1d.strided", "conv_transpose1d.double", "conv_transpose1d.uneven"] {
        let (x, w, b) = (input::<3>(&f, case, "x"), input::<3>(&f, case, "weight"), input::<1>(&f, case, "bias"));
        let (o, extra) = options(&f, case);
        let y = if case.starts_with("conv1d") {
            conv1d(x.clone(), w.clone(), Some(b.clone()), o)
        } else {
            conv_transpose1d(x.clone(), w.clone(), Some(b.clone()), o, extra)
        };
        check(&f, case, y, &[("x", &x), ("weight", &w)], Some(&b));
    }
}

#[test]
fn convolutions_in_three_dimensions_agree_with_pytorch() {
    let f = Fixtures::open("operations");
    let cases = ["conv3d.same", "conv3d.strided", "conv3d.pointwise", "conv3d.grouped"];
    for case in cases.into_iter().chain(["conv_transpose3d.double", "conv_transpose3d.grouped"]) {
        let (x, w, b) = (input::<5>(&f, case, "x"), input::<5>(&f, case, "weight"), input::<1>(&f, case, "bias"));
        let (o, extra) = options(&f, case);
        let y = if case.starts_with("conv3d") {
            conv3d(x.clone(), w.clone(), Some(b.clone()), o)
        } else {
            conv_transpose3d(x.clone(), w.clone(), Some(b.clone()), o, extra)
        };
        check(&f, case, y, &[("x", &x), ("weight", &w)], Some(&b));
    }
}

/// Attention as Burn composes it.
fn composed(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: &Mask) -> Tensor<4> {
    let ([n, heads, queries, d], keys) = (q.dims(), k.dims()[2]);
    let hidden = |i: usize| match mask {
        Mask::None => false,
        Mask::Causal => i % keys > i / keys % queries,
        Mask::Lengths(lengths) => i % keys >= lengths[i / keys / queries / heads],
    };
    let bias: Vec<f32> =
        (0..n * heads * queries * keys).map(|i| if hidden(i) { f32::NEG_INFINITY } else { 0.0 }).collect();
    let bias = Tensor::<1>::from_floats(bias.as_slice(), &q.device()).reshape([n, heads, queries, keys]);
    softmax(q.matmul(k.swap_dims(2, 3)) / (d as f64).sqrt() + bias, 3).matmul(v)
}

#[test]
fn attention_agrees_with_burn_however_its_operands_lie() {
    for ([n, heads, queries, keys], [d, e]) in
        [([2, 2, 5, 3], [4, 7]), ([1, 1, 70, 150], [16, 16]), ([3, 1, 1, 33], [1, 5]), ([7, 1, 16, 16], [130, 3])]
    {
        let lengths = Mask::Lengths((0..n).map(|i| 1 + (7 * i + 1) % keys).collect());
        for mask in [Mask::None, Mask::Causal, lengths] {
            // As a 1x1 convolution, a linear layer, or nothing in particular makes them; broadcast; turned.
            let lying = |tokens: usize, d: usize| {
                let wide = random([n, 3 * heads * d, 1, tokens]).slice([0..n, heads * d..2 * heads * d]);
                let channels = wide.reshape([n, heads, d, tokens]).swap_dims(2, 3);
                let linear = random([n, tokens, heads, d]).swap_dims(1, 2);
                let flipped = random([n, heads, tokens, d]).flip([2]);
                let [a, b] = awkward([n, heads, tokens, d]);
                let broadcast = random([1, heads, 1, d]).expand([n, heads, tokens, d]);
                [random([n, heads, tokens, d]), channels, linear, a, b, flipped, broadcast]
            };
            let (qs, ks, vs) = (lying(queries, d), lying(keys, d), lying(keys, e));
            for i in 0..qs.len() {
                let what = format!("{n} {heads} {queries} {keys} {d} {e} {mask:?} {i}");
                let operands = [qs[i].clone(), ks[(i + 1) % 7].clone(), vs[(i * 3) % 7].clone()];
                let run = |attend: &dyn Fn([Tensor<4>; 3]) -> Tensor<4>| {
                    let tracked = operands.each_ref().map(tracked);
                    (attend(tracked.clone()), tracked)
                };
                let (ours, a) = run(&|[q, k, v]| attention(q, k, v, mask.clone()));
                let (theirs, b) = run(&|[q, k, v]| composed(q, k, v, &mask));
                close(&what, ours.clone().inner(), theirs.clone().inner());
                let g = random([n, heads, queries, e]);
                let (ga, gb) = (backward(ours, &g), backward(theirs, &g));
                for (a, b) in a.iter().zip(&b) {
                    close(&what, a.grad(&ga).unwrap(), b.grad(&gb).unwrap());
                }
                let [q, k, v] = operands.each_ref().map(frozen);
                let expected = composed(operands[0].clone(), operands[1].clone(), operands[2].clone(), &mask);
                close(&what, attention(q, k, v, mask.clone()).inner(), expected);
            }
        }
    }
}

fn o<const D: usize>(stride: [usize; D], padding: [usize; D], dilation: [usize; D], groups: usize) -> ConvOptions<D> {
    ConvOptions { stride, padding, dilation, groups }
}

#[test]
fn self_attention_is_attention_of_its_thirds() {
    for [n, heads, d, positions] in [[1, 1, 1, 1], [7, 3, 5, 48], [2, 1, 130, 63]] {
        let whole = random([n, 3 * heads, d, positions]);
        for qkv in [whole.clone(), random([n, 3 * heads, positions, d]).swap_dims(2, 3)] {
            let (ours, theirs) = (tracked(&qkv), tracked(&qkv));
            let y = self_attention(ours.clone());
            let part = |i: usize| theirs.clone().narrow(1, i * heads, heads).swap_dims(2, 3);
            let z = composed(part(0), part(1), part(2), &Mask::None).swap_dims(2, 3);
            close("self-attention", y.clone().inner(), z.clone().inner());
            close("untracked", self_attention(qkv), y.clone().inner());
            let g = random([n, heads, d, positions]);
            let (a, b) = (backward(y, &g), backward(z, &g));
            close("its gradient", ours.grad(&a).unwrap(), theirs.grad(&b).unwrap());
        }
        let wide = self_attention(whole.clone().cast(FloatDType::F64)).cast(FloatDType::F32);
        close("in double precision", self_attention(whole), wide);
    }
}

/// Doubling by repetition, means of three, and a mirror.
fn filters(n: usize) -> [Filter; 3] {
    [
        Filter::new(n, (0..2 * n).map(|i| vec![(i / 2, 1.0)])),
        Filter::new(n, (0..n).map(|i| (i.saturating_sub(1)..(i + 2).min(n)).map(|j| (j, 0.3)).collect())),
        Filter::new(n, (0..n).map(|i| vec![(n - 1 - i, 1.0)])),
    ]
}

#[test]
fn resampling_agrees_with_matrices() {
    for [n, c, h, w] in [[1, 1, 1, 1], [2, 3, 5, 40], [7, 1, 33, 4]] {
        for x in [vec![random([n, c, h, w])], awkward([n, c, h, w]).to_vec()].concat() {
            for (rows, columns) in filters(h).iter().zip(filters(w).iter().rev()) {
                let ours = tracked(&x);
                let y = resample(ours.clone(), rows, columns);
                // Other element types go by way of Burn's products with dense matrices.
                let theirs = tracked(&x);
                let z = resample(theirs.clone().cast(FloatDType::F64), rows, columns).cast(FloatDType::F32);
                close("resampled", y.clone().inner(), z.clone().inner());
                let g = random(y.dims());
                let (a, b) = (backward(y, &g), backward(z, &g));
                close("its gradient", ours.grad(&a).unwrap(), theirs.grad(&b).unwrap());
            }
        }
    }
}

#[test]
fn convolutions_agree_with_burn() {
    for (n, c, len, out, k, o) in [
        (1, 1, 1, 1, 1, o([1], [0], [1], 1)),
        (7, 3, 257, 5, 3, o([1], [1], [1], 1)),
        (33, 6, 20, 130, 4, o([2], [1], [1], 2)),
        (2, 48, 63, 4, 3, o([1], [4], [2], 4)),
    ] {
        let (weight, bias) = (random([out, c / o.groups, k]), random([out]));
        for x in [random([n, c, len]), random([n, len, c]).swap_dims(1, 2)] {
            let run = |kiln: bool| {
                let (x, w, b) = (tracked(&x), tracked(&weight), tracked(&bias));
                let options = ops::ConvOptions::new(o.stride, o.padding, o.dilation, o.groups);
                let (tx, tw, tb) = (x.clone(), w.clone(), Some(b.clone()));
                let y = if kiln { conv1d(tx, tw, tb, o) } else { module::conv1d(tx, tw, tb, options) };
                (y, x, w, b)
            };
            let (ours, theirs) = (run(true), run(false));
            let g = random(theirs.0.dims());
            close("conv1d", ours.0.clone().inner(), theirs.0.clone().inner());
            let (ga, gb) = (backward(ours.0, &g), backward(theirs.0, &g));
            close("dX", ours.1.grad(&ga).unwrap(), theirs.1.grad(&gb).unwrap());
            close("dW", ours.2.grad(&ga).unwrap(), theirs.2.grad(&gb).unwrap());
            close("db", ours.3.grad(&ga).unwrap(), theirs.3.grad(&gb).unwrap());
        }
    }
    for (n, c, size, out, k, o) in [
        (1, 1, [1, 1, 1], 1, [1, 1, 1], o([1, 1, 1], [0, 0, 0], [1, 1, 1], 1)),
        (7, 3, [3, 5, 4], 5, [3, 3, 3], o([1, 1, 1], [1, 1, 1], [1, 1, 1], 1)),
        (2, 4, [8, 6, 6], 6, [4, 4, 4], o([2, 2, 2], [1, 1, 1], [1, 1, 1], 2)),
        (1, 2, [7, 9, 5], 3, [3, 2, 1], o([1, 2, 1], [2, 0, 1], [2, 1, 3], 1)),
    ] {
        let (weight, bias) = (random([out, c / o.groups, k[0], k[1], k[2]]), random([out]));
        let dims = [n, c, size[0], size[1], size[2]];
        let turned = random([n, size[0], c, size[1], size[2]]).permute([0, 2, 1, 3, 4]);
        for x in [random(dims), turned] {
            let run = |kiln: bool| {
                let (x, w, b) = (tracked(&x), tracked(&weight), tracked(&bias));
                let options = ops::ConvOptions::new(o.stride, o.padding, o.dilation, o.groups);
                let (tx, tw, tb) = (x.clone(), w.clone(), Some(b.clone()));
                let y = if kiln { conv3d(tx, tw, tb, o) } else { module::conv3d(tx, tw, tb, options) };
                (y, x, w, b)
            };
            let (ours, theirs) = (run(true), run(false));
            let g = random(theirs.0.dims());
            close("conv3d", ours.0.clone().inner(), theirs.0.clone().inner());
            let (ga, gb) = (backward(ours.0, &g), backward(theirs.0, &g));
            close("dX", ours.1.grad(&ga).unwrap(), theirs.1.grad(&gb).unwrap());
            close("dW", ours.2.grad(&ga).unwrap(), theirs.2.grad(&gb).unwrap());
            close("db", ours.3.grad(&ga).unwrap(), theirs.3.grad(&gb).unwrap());
        }
    }
}

#[test]
fn linear_layers_agree_with_burn() {
    // Few rows and, beyond where Burn's product takes over, many.
    for [rows, inputs, outputs] in [[1, 1, 1], [7, 48, 130], [33, 257, 63], [600, 5, 3]] {
        let (w, b) = (random([outputs, inputs]), random([outputs]));
        for x in [random([rows, inputs]), random([inputs, rows]).transpose()] {
            let run = |ours: bool, biased: bool| {
                let (x, w, b) = (tracked(&x), tracked(&w), tracked(&b));
                let (tx, tw, tb) = (x.clone(), w.clone(), biased.then(|| b.clone()));
                let y = match tb {
                    tb if ours => linear(tx, tw, tb),
                    Some(b) => tx.matmul(tw.transpose()) + b.unsqueeze(),
                    None => tx.matmul(tw.transpose()),
                };
                (y, x, w, b)
            };
            for biased in [true, false] {
                let (ours, theirs) = (run(true, biased), run(false, biased));
                let g = random([rows, outputs]);
                close("linear", ours.0.clone().inner(), theirs.0.clone().inner());
                let (ga, gb) = (backward(ours.0, &g), backward(theirs.0, &g));
                close("dX", ours.1.grad(&ga).unwrap(), theirs.1.grad(&gb).unwrap());
                close("dW", ours.2.grad(&ga).unwrap(), theirs.2.grad(&gb).unwrap());
                assert_eq!(ours.3.grad(&ga).is_some(), biased);
                if biased {
                    close("db", ours.3.grad(&ga).unwrap(), theirs.3.grad(&gb).unwrap());
                }
            }
        }
        // Nothing tracked, and the weights alone.
        let x = random([rows, inputs]);
        let expected = x.clone().matmul(w.clone().transpose());
        close("plain", linear(x.clone(), w.clone(), None), expected.clone());
        let weight = tracked(&w);
        let y = linear(frozen(&x), weight.clone(), None);
        close("frozen input", y.clone().inner(), expected);
        assert!(weight.grad(&y.sum().backward()).is_some());
    }
}

#[test]
fn other_element_types_take_burns_operations() {
    let operands = [[2, 2, 9, 5], [2, 2, 6, 5], [2, 2, 6, 4]].map(random);
    let g = random([2, 2, 9, 4]);
    for mask in [Mask::None, Mask::Causal, Mask::Lengths(vec![2, 6])] {
        let run = |dtype: FloatDType| {
            let inputs = operands.each_ref().map(tracked);
            let [q, k, v] = inputs.clone().map(|x| x.cast(dtype));
            let y = attention(q, k, v, mask.clone()).cast(FloatDType::F32);
            let grads = backward(y.clone(), &g);
            [y.inner()].into_iter().chain(inputs.iter().map(|x| x.grad(&grads).unwrap())).collect::<Vec<_>>()
        };
        for (single, double) in run(FloatDType::F32).into_iter().zip(run(FloatDType::F64)) {
            close(&format!("{mask:?}"), single, double);
        }
    }
    let (x, w, b) = (random([9, 7]), random([5, 7]), random([5]));
    let wide =
        linear(x.clone().cast(FloatDType::F64), w.clone().cast(FloatDType::F64), Some(b.clone().cast(FloatDType::F64)));
    close("linear", linear(x, w, Some(b)), wide.cast(FloatDType::F32));
}

#[test]
fn only_tracked_inputs_get_gradients() {
    let operands = [[1, 2, 40, 8], [1, 2, 30, 8], [1, 2, 30, 8]].map(random);
    let g = random([1, 2, 40, 8]);
    let all = {
        let inputs = operands.each_ref().map(tracked);
        let [q, k, v] = inputs.clone();
        let grads = backward(attention(q, k, v, Mask::None), &g);
        inputs.map(|x| x.grad(&grads).unwrap())
    };
    for wanted in 0..8 {
        let tracks = |i: usize| wanted >> i & 1 == 1;
        let inputs: [Tensor<4>; 3] =
            std::array::from_fn(|i| if tracks(i) { tracked(&operands[i]) } else { frozen(&operands[i]) });
        let [q, k, v] = inputs.clone();
        let y = attention(q, k, v, Mask::None);
        if wanted == 0 {
            assert!(!y.is_require_grad());
            continue;
        }
        let grads = backward(y, &g);
        for i in 0..3 {
            match inputs[i].grad(&grads) {
                Some(gradient) => {
                    assert!(tracks(i));
                    assert_eq!(values(gradient), values(all[i].clone()));
                }
                None => assert!(!tracks(i)),
            }
        }
    }
}

#[test]
fn repeats_to_the_bit() {
    let (x, w, b) = (random([3, 17, 33, 30]), random([12, 34, 2, 3, 3]), random([12]));
    let o = ConvOptions { stride: [1; 3], padding: [1; 3], dilation: [1; 3], groups: 1 };
    let run = || {
        let (x, w, b) = (tracked(&x), tracked(&w), tracked(&b));
        let y = resample(x.clone(), &filters(33)[1], &filters(30)[1]);
        // One head of many tokens, which several tasks share.
        let tokens = y.clone().reshape([3, 1, 17, 990]).swap_dims(2, 3);
        let z = attention(tokens.clone(), tokens.clone(), tokens, Mask::Causal);
        let z = z.swap_dims(2, 3).reshape([3, 17, 33, 30]);
        let both = Tensor::cat(vec![y, z], 1).reshape([1, 3, 34, 33, 30]).swap_dims(1, 2);
        let y = conv3d(both, w.clone(), Some(b.clone()), o);
        let y = conv_transpose3d(y, w.clone(), None, o, [0; 3]);
        let grads = y.clone().powi_scalar(3).sum().backward();
        let mut all = values(y.inner());
        all.extend(values(x.grad(&grads).unwrap()));
        all.extend(values(w.grad(&grads).unwrap()));
        all.extend(values(b.grad(&grads).unwrap()));
        all.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let first = run();
    for _ in 0..5 {
        assert!(run() == first);
    }
}

#[test]
#[should_panic(expected = "attention: lengths [0]")]
fn an_empty_caption_is_refused() {
    let x = random([1, 1, 2, 2]);
    let _ = attention(x.clone(), x.clone(), x, Mask::Lengths(vec![0]));
}

const READINGS: [(&str, SampleMode); 2] = [("bilinear", SampleMode::Bilinear), ("nearest", SampleMode::Nearest)];
const PADDINGS: [(&str, SamplePadding); 3] =
    [("zeros", SamplePadding::Zeros), ("border", SamplePadding::Border), ("reflection", SamplePadding::Reflection)];

/// Every way to read, with the name its fixtures have.
fn readings() -> Vec<(String, GridOptions)> {
    let mut all = Vec::new();
    for (mode_name, mode) in READINGS {
        for (padding_name, padding) in PADDINGS {
            for (corners, align_corners) in [("edges", false), ("corners", true)] {
                let options = GridOptions { mode, padding, align_corners };
                all.push((format!("grid_sample.{mode_name}.{padding_name}.{corners}"), options));
            }
        }
    }
    all
}

#[test]
fn reading_at_a_grid_agrees_with_pytorch() {
    let f = Fixtures::open("grid_sample");
    let mut cases = readings();
    for (_, padding) in &PADDINGS[1..] {
        let options = GridOptions { mode: SampleMode::Bilinear, padding: *padding, align_corners: true };
        cases.push((format!("grid_sample.bilinear.{}.corners.column", format!("{padding:?}").to_lowercase()), options));
    }
    for (case, options) in cases {
        let (x, grid) = (input::<4>(&f, &case, "x"), input::<4>(&f, &case, "grid"));
        let y = grid_sample(x.clone(), grid.clone(), options);
        check(&f, &case, y, &[("x", &x), ("grid", &grid)], None);
    }
}

#[test]
fn reading_at_a_grid_agrees_with_burns_operations_however_its_operands_lie() {
    let extremes = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1e12, -1e12, 0.3];
    for ([n, c, h, w], [oh, ow]) in [([1, 1, 1, 1], [1, 1]), ([2, 3, 5, 7], [9, 4]), ([3, 40, 16, 16], [16, 17])] {
        let hostile: Vec<f32> = (0..n * oh * ow * 2).map(|i| extremes[(i * 5 + i / 7) % extremes.len()]).collect();
        let hostile = Tensor::from_data(TensorData::new(hostile, [n, oh, ow, 2]), &Device::flex());
        let grids = [vec![random([n, oh, ow, 2]), hostile], awkward([n, oh, ow, 2]).to_vec()].concat();
        let pictures = [vec![random([n, c, h, w])], awkward([n, c, h, w]).to_vec()].concat();
        for (i, grid) in grids.iter().enumerate() {
            let x = &pictures[i % pictures.len()];
            for (case, options) in readings() {
                let what = format!("{case}, {n}x{c}x{h}x{w}, grid {i}");
                // Other element types are read by Burn's operations.
                let run = |dtype: FloatDType| {
                    let (x, grid) = (tracked(x), tracked(grid));
                    let y = grid_sample(x.clone().cast(dtype), grid.clone().cast(dtype), options).cast(FloatDType::F32);
                    (y, x, grid)
                };
                let (ours, theirs) = (run(FloatDType::F32), run(FloatDType::F64));
                let g = random([n, c, oh, ow]);
                if i == 1 && options.padding == SamplePadding::Reflection {
                    // Which pixel the 1e12th mirror image shows is a matter of rounding; that it is one is not.
                    let grads = backward(ours.0.clone(), &g);
                    let all = [ours.0.inner(), ours.1.grad(&grads).unwrap(), ours.2.grad(&grads).unwrap()];
                    assert!(all.into_iter().all(|v| values(v).iter().all(|v| v.is_finite())), "{what}");
                    continue;
                }
                close(&what, ours.0.clone().inner(), theirs.0.clone().inner());
                let (a, b) = (backward(ours.0, &g), backward(theirs.0, &g));
                close(&format!("{what}, dx"), ours.1.grad(&a).unwrap(), theirs.1.grad(&b).unwrap());
                close(&format!("{what}, dgrid"), ours.2.grad(&a).unwrap(), theirs.2.grad(&b).unwrap());
                // One of the two alone, and neither.
                let (only_x, only_grid) = (tracked(x), tracked(grid));
                let a_x = backward(grid_sample(only_x.clone(), frozen(grid), options), &g);
                let a_grid = backward(grid_sample(frozen(x), only_grid.clone(), options), &g);
                assert_eq!(values(only_x.grad(&a_x).unwrap()), values(ours.1.grad(&a).unwrap()));
                assert_eq!(values(only_grid.grad(&a_grid).unwrap()), values(ours.2.grad(&a).unwrap()));
                let plain = grid_sample(x.clone(), grid.clone(), options);
                close(&what, plain, run(FloatDType::F64).0.inner());
            }
        }
    }
}

#[test]
fn reading_at_a_grid_does_not_depend_on_threads_or_checkpointing() {
    let (balanced, disabled) = (GradientCheckpointingStrategy::Balanced, GradientCheckpointingStrategy::Disabled);
    let (x, grid) = (random([3, 20, 33, 30]), random([3, 40, 41, 2]));
    for (case, options) in readings() {
        let run = |strategy| {
            let [x, grid] =
                [&x, &grid].map(|v| v.clone().autodiff().with_gradient_checkpointing_strategy(strategy).require_grad());
            let y = grid_sample(x.clone(), grid.clone(), options);
            let grads = y.clone().powi_scalar(3).sum().backward();
            let all = [y.inner(), x.grad(&grads).unwrap(), grid.grad(&grads).unwrap()].map(values);
            all.concat().into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let first = run(disabled);
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(|| run(disabled));
        assert!(run(balanced) == first && alone == first, "{case}");
    }
}

#[test]
#[should_panic(expected = "grid_sample: pictures [1, 1, 2, 2] and grid [2, 1, 1, 2]")]
fn a_grid_for_other_pictures_is_refused() {
    let options = GridOptions { mode: SampleMode::Nearest, padding: SamplePadding::Zeros, align_corners: false };
    let _ = grid_sample(random([1, 1, 2, 2]), random([2, 1, 1, 2]), options);
}
