//! Every operation and gradient against Burn's own operations, over a table of shapes.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

mod common;

use burn::tensor::{Device, GradientCheckpointingStrategy, Tensor, TensorData, activation, module, ops};
use common::*;
use kiln_kernels::*;

type Convolution = (usize, usize, [usize; 2], usize, [usize; 2], ConvOptions);

fn table() -> Vec<Convolution> {
    let o = |stride, padding, dilation, groups| ConvOptions { stride, padding, dilation, groups };
    #[rustfmt::skip]
    let table = vec![
        (1, 1, [5, 5], 1, [1, 1], o([1, 1], [0, 0], [1, 1], 1)),
        (5, 3, [16, 16], 16, [3, 3], o([1, 1], [1, 1], [1, 1], 1)),
        (2, 16, [16, 16], 3, [3, 3], o([1, 1], [1, 1], [1, 1], 1)),
        (5, 7, [11, 13], 9, [3, 3], o([2, 2], [1, 1], [1, 1], 1)),
        (1, 32, [8, 8], 48, [3, 3], o([1, 1], [1, 1], [1, 1], 1)),
        (2, 8, [16, 16], 16, [4, 4], o([2, 2], [1, 1], [1, 1], 1)),
        (1, 4, [9, 9], 5, [4, 4], o([1, 1], [2, 2], [1, 1], 1)),
        (2, 3, [21, 19], 8, [7, 7], o([2, 2], [2, 2], [1, 1], 1)),
        (5, 6, [10, 10], 4, [3, 3], o([1, 1], [2, 2], [2, 2], 1)),
        (2, 6, [13, 12], 4, [3, 3], o([2, 1], [0, 2], [2, 1], 1)),
        (2, 24, [7, 7], 40, [1, 1], o([1, 1], [0, 0], [1, 1], 1)),
        (2, 6, [7, 8], 10, [1, 1], o([2, 2], [0, 0], [1, 1], 1)),
        (2, 8, [9, 9], 12, [3, 3], o([1, 1], [1, 1], [1, 1], 4)),
        (5, 8, [9, 10], 8, [3, 3], o([2, 2], [1, 1], [1, 1], 8)),
        (1, 6, [8, 8], 12, [3, 3], o([1, 1], [1, 1], [1, 1], 6)),
    ];
    table
}

#[test]
fn conv2d_agrees_with_burn() {
    for (n, c, [h, w], out, [kh, kw], o) in table() {
        let what = format!("{n}x{c}x{h}x{w} to {out}, kernel {kh}x{kw}, {o:?}");
        let burn_options = || ops::ConvOptions::new(o.stride, o.padding, o.dilation, o.groups);
        let weight = random([out, c / o.groups, kh, kw]);
        let bias = random([out]);
        for x in [vec![random([n, c, h, w])], awkward([n, c, h, w]).to_vec()].concat() {
            let run = |kiln: bool, bias: Option<&Tensor<1>>| {
                let (tx, tw, tb) = (tracked(&x), tracked(&weight), bias.map(tracked));
                let y = if kiln {
                    conv2d(tx.clone(), tw.clone(), tb.clone(), o)
                } else {
                    module::conv2d(tx.clone(), tw.clone(), tb.clone(), burn_options())
                };
                (y, tx, tw, tb)
            };
            for bias in [None, Some(&bias)] {
                let (ours, theirs) = (run(true, bias), run(false, bias));
                close(&what, ours.0.clone().inner(), theirs.0.clone().inner());
                let g = random(ours.0.dims());
                let (a, b) = (backward(ours.0, &g), backward(theirs.0, &g));
                close(&format!("dX {what}"), ours.1.grad(&a).unwrap(), theirs.1.grad(&b).unwrap());
                close(&format!("dW {what}"), ours.2.grad(&a).unwrap(), theirs.2.grad(&b).unwrap());
                if let (Some(ours), Some(theirs)) = (ours.3, theirs.3) {
                    close(&format!("db {what}"), ours.grad(&a).unwrap(), theirs.grad(&b).unwrap());
                }
            }
            // Without autodiff, and with autodiff but nothing tracked.
            let y = conv2d(x.clone(), weight.clone(), None, o);
            let expected = module::conv2d(x.clone(), weight.clone(), None, burn_options());
            close(&what, y, expected.clone());
            close(&what, conv2d(frozen(&x), frozen(&weight), None, o).inner(), expected);
        }
    }
}

#[test]
fn conv_transpose2d_agrees_with_burn() {
    for (n, c, [h, w], out, [kh, kw], o) in table() {
        for extra in [[0, 0], [1, 1]] {
            let fits = |a: usize| extra[a] < o.stride[a];
            if !fits(0) || !fits(1) {
                continue;
            }
            let what = format!("{n}x{c}x{h}x{w} to {out}, kernel {kh}x{kw}, {o:?}, {extra:?}");
            let weight = random([c, out / o.groups, kh, kw]);
            let bias = random([out]);
            for x in [vec![random([n, c, h, w])], awkward([n, c, h, w]).to_vec()].concat() {
                let run = |kiln: bool| {
                    let (tx, tw, tb) = (tracked(&x), tracked(&weight), tracked(&bias));
                    let y = if kiln {
                        conv_transpose2d(tx.clone(), tw.clone(), Some(tb.clone()), o, extra)
                    } else {
                        let options = ops::ConvTransposeOptions::new(o.stride, o.padding, extra, o.dilation, o.groups);
                        module::conv_transpose2d(tx.clone(), tw.clone(), Some(tb.clone()), options)
                    };
                    (y, tx, tw, tb)
                };
                let (ours, theirs) = (run(true), run(false));
                close(&what, ours.0.clone().inner(), theirs.0.clone().inner());
                let g = random(ours.0.dims());
                let (a, b) = (backward(ours.0, &g), backward(theirs.0, &g));
                close(&format!("dX {what}"), ours.1.grad(&a).unwrap(), theirs.1.grad(&b).unwrap());
                close(&format!("dW {what}"), ours.2.grad(&a).unwrap(), theirs.2.grad(&b).unwrap());
                close(&format!("db {what}"), ours.3.grad(&a).unwrap(), theirs.3.grad(&b).unwrap());
            }
        }
    }
}

const ACTIVATIONS: [Activation; 7] = [
    Activation::None,
    Activation::Relu,
    Activation::LeakyRelu(0.2),
    Activation::Sigmoid,
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
];

fn burns<const D: usize>(z: Tensor<D>, a: Activation) -> Tensor<D> {
    match a {
        Activation::None => z,
        Activation::Relu => activation::relu(z),
        Activation::LeakyRelu(slope) => activation::leaky_relu(z, slope as f64),
        Activation::Sigmoid => activation::sigmoid(z),
        Activation::Silu => activation::silu(z),
        Activation::Gelu => activation::gelu(z),
        Activation::GeluTanh => activation::gelu_approximate(z),
    }
}

/// How a normalisation shares statistics.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Groups(usize),
    Batch,
    Inference,
    /// Over the last axis.
    Layer,
}

/// `(x - mean) / sqrt(var + eps)` by Burn's differentiable operations.
fn standardise(x: Tensor<4>, kind: Kind, eps: f64) -> Tensor<4> {
    let dims = x.dims();
    let [n, c, h, w] = dims;
    let centre = |x: Tensor<3>| {
        let centred = x.clone() - x.mean_dim(2);
        let var = centred.clone().powi_scalar(2).mean_dim(2);
        (centred / (var + eps).sqrt()).reshape(dims)
    };
    match kind {
        Kind::Groups(groups) => centre(x.reshape([n, groups, c / groups * h * w])),
        Kind::Layer => centre(x.reshape([n, c * h, w])),
        Kind::Batch | Kind::Inference => {
            let mean = |x: Tensor<4>| x.mean_dim(0).mean_dim(2).mean_dim(3);
            let still = |x: Tensor<4>| if kind == Kind::Inference { x.detach() } else { x };
            let centred = x.clone() - still(mean(x));
            let var = still(mean(centred.clone().powi_scalar(2)));
            centred / (var + eps).sqrt()
        }
    }
}

/// Normalisation with gamma and beta of dimensions `affine`, which broadcast as `spread`, by Kiln and by
/// Burn: outputs and all gradients.
fn compare<const A: usize>(x: &Tensor<4>, affine: [usize; A], spread: [usize; 4], kind: Kind, a: Activation) {
    let what = format!("{:?} {kind:?} {affine:?} {a:?}", x.dims());
    // Not in row-major order.
    let mut turned = affine;
    turned.swap(0, A - 1);
    let [gamma, beta] = [(); 2].map(|()| if A > 1 { random(turned).swap_dims(0, A - 1) } else { random(affine) });
    let mut bent = None;
    let mut run = |kiln: bool| {
        let (tx, tg, tb) = (tracked(x), tracked(&gamma), tracked(&beta));
        let (x, gamma, beta) = (tx.clone(), tg.clone(), tb.clone());
        let y = match (kiln, kind) {
            (true, Kind::Groups(groups)) => group_norm(x, gamma, beta, groups, 1e-3, a),
            (true, Kind::Layer) => layer_norm(x, gamma, beta, 1e-3, a),
            (true, _) => {
                let (mean, var) = batch_stats(x.clone());
                assert!(!mean.is_require_grad() && !var.is_require_grad());
                let norm = if kind == Kind::Batch { batch_norm } else { batch_norm_inference };
                norm(x, mean, var, gamma, beta, 1e-3, a)
            }
            (false, _) => {
                let z = standardise(x, kind, 1e-3) * gamma.reshape(spread) + beta.reshape(spread);
                bent = Some(z.clone().inner().abs().lower_elem(1e-4));
                burns(z, a)
            }
        };
        (y, tx, tg, tb)
    };
    let (ours, theirs) = (run(true), run(false));
    close(&what, ours.0.clone().inner(), theirs.0.clone().inner());
    // No gradient comes to where an activation may bend: either slope is right there.
    let g = random(x.dims()).mask_fill(bent.unwrap(), 0.0);
    let (a, b) = (backward(ours.0, &g), backward(theirs.0, &g));
    close(&format!("dX {what}"), ours.1.grad(&a).unwrap(), theirs.1.grad(&b).unwrap());
    close(&format!("dgamma {what}"), ours.2.grad(&a).unwrap(), theirs.2.grad(&b).unwrap());
    close(&format!("dbeta {what}"), ours.3.grad(&a).unwrap(), theirs.3.grad(&b).unwrap());
}

#[test]
fn normalisations_agree_with_burn() {
    #[rustfmt::skip]
    let table = [
        ([1, 4, 3, 3], 2), ([5, 6, 7, 5], 3), ([2, 8, 16, 16], 8), ([2, 8, 16, 16], 1),
        ([5, 3, 1, 1], 1), ([1, 32, 40, 33], 4), ([3, 12, 8, 4], 4), ([33, 5, 1, 3], 5), ([7, 1, 2, 130], 1),
    ];
    for (dims, groups) in table {
        let [n, c, h, w] = dims;
        for x in [vec![random(dims)], awkward(dims).to_vec()].concat() {
            let x = x * 2.0 + 3.0;
            for a in ACTIVATIONS {
                for kind in [Kind::Groups(groups), Kind::Batch, Kind::Inference] {
                    if dims == [5, 3, 1, 1] && kind == Kind::Groups(groups) && a != Activation::None {
                        continue;
                    }
                    compare(&x, [c], [1, c, 1, 1], kind, a);
                    compare(&x, [n, c], [n, c, 1, 1], kind, a);
                    compare(&x, dims, dims, kind, a);
                }
                if w > 1 {
                    compare(&x, [w], [1, 1, 1, w], Kind::Layer, a);
                    compare(&x, [n, w], [n, 1, 1, w], Kind::Layer, a);
                    compare(&x, [n, c, h, w], dims, Kind::Layer, a);
                }
            }
        }
    }
    // Burn's own, and other ranks.
    let (x, gamma, beta) = (random([7, 33, 48]), random([48]), random([48]));
    let theirs = module::layer_norm(x.clone(), gamma.clone(), Some(beta.clone()), 1e-5);
    close("layer norm", layer_norm(x.clone(), gamma.clone(), beta.clone(), 1e-5, Activation::None), theirs.clone());
    let flat = layer_norm(x.clone().reshape([7 * 33, 48]), gamma.clone(), beta.clone(), 1e-5, Activation::None);
    close("layer norm of rows", flat.reshape([7, 33, 48]), theirs.clone());
    let one = layer_norm(x.slice([2..3, 5..6, 0..48]).reshape([48]), gamma, beta, 1e-5, Activation::None);
    close("layer norm of a vector", one, theirs.slice([2..3, 5..6, 0..48]).reshape([48]));
    let (x, gamma, beta) = (random([2, 6, 3, 4, 5]), random([2, 6]), random([2, 6]));
    let volume = group_norm(x.clone(), gamma.clone(), beta.clone(), 3, 1e-5, Activation::Gelu);
    let image = group_norm(x.reshape([2, 6, 12, 5]), gamma, beta, 3, 1e-5, Activation::Gelu);
    close("volumes", volume.reshape([2, 6, 12, 5]), image);
}

#[test]
fn only_tracked_inputs_get_gradients() {
    let (x, w, b) = (random([2, 3, 8, 8]), random([5, 3, 3, 3]), random([5]));
    let o = ConvOptions { stride: [1, 1], padding: [1, 1], dilation: [1, 1], groups: 1 };
    let g = random([2, 5, 8, 8]);

    // Frozen weights: the gradient reaches the input, and equals the one with all tracked.
    let (tx, tw, tb) = (tracked(&x), tracked(&w), tracked(&b));
    let all = backward(conv2d(tx.clone(), tw.clone(), Some(tb.clone()), o), &g);
    let (fx, fw, fb) = (tracked(&x), frozen(&w), frozen(&b));
    let some = backward(conv2d(fx.clone(), fw.clone(), Some(fb.clone()), o), &g);
    assert_eq!(values(fx.grad(&some).unwrap()), values(tx.grad(&all).unwrap()));
    assert!(fw.grad(&some).is_none() && fb.grad(&some).is_none());

    // Frozen input.
    let (fx, fw) = (frozen(&x), tracked(&w));
    let some = backward(conv2d(fx.clone(), fw.clone(), None, o), &g);
    assert_eq!(values(fw.grad(&some).unwrap()), values(tw.grad(&all).unwrap()));
    assert!(fx.grad(&some).is_none());

    // Only the bias, and plain (not merely untracked) constants beside it.
    let only = tracked(&b);
    let some = backward(conv2d(x.clone(), w.clone(), Some(only.clone()), o), &g);
    assert_eq!(values(only.grad(&some).unwrap()), values(tb.grad(&all).unwrap()));

    // Normalisation with a frozen input, and with frozen parameters.
    let (gamma, beta) = (random([5]), random([5]));
    let y = random([2, 5, 8, 8]);
    let run = |y: Tensor<4>, gamma: Tensor<1>, beta: Tensor<1>| {
        backward(group_norm(y, gamma, beta, 5, 1e-5, Activation::Silu), &g)
    };
    let (ty, tg, tb) = (tracked(&y), tracked(&gamma), tracked(&beta));
    let all = run(ty.clone(), tg.clone(), tb.clone());
    let (fg, fb) = (tracked(&gamma), tracked(&beta));
    let some = run(frozen(&y), fg.clone(), fb.clone());
    assert_eq!(values(fg.grad(&some).unwrap()), values(tg.grad(&all).unwrap()));
    assert_eq!(values(fb.grad(&some).unwrap()), values(tb.grad(&all).unwrap()));
    let fy = tracked(&y);
    let some = run(fy.clone(), frozen(&gamma), frozen(&beta));
    assert_eq!(values(fy.grad(&some).unwrap()), values(ty.grad(&all).unwrap()));

    // A scale alone for each pixel, and for each sample of rows.
    let scale = random([2, 5, 8, 8]);
    let run = |y: Tensor<4>, gamma: Tensor<4>, beta: Tensor<4>| {
        backward(group_norm(y, gamma, beta, 1, 1e-5, Activation::Gelu), &g)
    };
    let (ty, tg, tb) = (tracked(&y), tracked(&scale), tracked(&g));
    let all = run(ty.clone(), tg.clone(), tb.clone());
    let fg = tracked(&scale);
    let some = run(frozen(&y), fg.clone(), frozen(&g));
    assert_eq!(values(fg.grad(&some).unwrap()), values(tg.grad(&all).unwrap()));
    let scale = random([2, 8]);
    let run = |y: Tensor<4>, gamma: Tensor<2>, beta: Tensor<2>| {
        backward(layer_norm(y, gamma, beta, 1e-5, Activation::Gelu), &g)
    };
    let (ty, tg, tb) = (tracked(&y), tracked(&scale), tracked(&scale));
    let all = run(ty.clone(), tg.clone(), tb.clone());
    let fb = tracked(&scale);
    let some = run(y.clone(), frozen(&scale), fb.clone());
    assert_eq!(values(fb.grad(&some).unwrap()), values(tb.grad(&all).unwrap()));

    // One term of a sum.
    let (ty, fy) = (tracked(&y), frozen(&y));
    let some = backward(add_activate(fy.clone(), ty.clone(), Activation::Relu), &g);
    assert!(fy.grad(&some).is_none() && ty.grad(&some).is_some());
    let y = add_activate(frozen(&y), frozen(&y), Activation::Gelu);
    assert!(!y.is_require_grad() && !y.is_tracked());
}

#[test]
fn repeats_to_the_bit() {
    let (x, w, b) = (random([5, 17, 15, 18]), random([19, 17, 3, 3]), random([19]));
    let o = ConvOptions { stride: [2, 1], padding: [1, 1], dilation: [1, 1], groups: 1 };
    let (gamma, beta) = (random([19]), random([19]));
    let maps = [random([5, 19, 8, 18]), random([5, 19, 8, 18])];
    let rows = [random([5, 18]), random([5, 18])];
    let run = || {
        let (x, w, b) = (tracked(&x), tracked(&w), tracked(&b));
        let (gamma, beta) = (tracked(&gamma), tracked(&beta));
        let (maps, rows) = (maps.each_ref().map(tracked), rows.each_ref().map(tracked));
        let y = conv2d(x.clone(), w.clone(), Some(b.clone()), o);
        let y = group_norm(y, gamma.clone(), beta.clone(), 19, 1e-5, Activation::Silu);
        let (mean, var) = batch_stats(y.clone());
        let y = batch_norm(y, mean, var, gamma.clone(), beta.clone(), 1e-5, Activation::Relu);
        let y = group_norm(y, maps[0].clone(), maps[1].clone(), 1, 1e-5, Activation::Gelu);
        let y = layer_norm(y, rows[0].clone(), rows[1].clone(), 1e-5, Activation::GeluTanh);
        let y = conv_transpose2d(y, w.clone(), None, o, [0, 0]);
        let grads = y.clone().powi_scalar(3).sum().backward();
        let mut all = values(y.inner());
        maps.iter().for_each(|v| all.extend(values(v.grad(&grads).unwrap())));
        rows.iter().for_each(|v| all.extend(values(v.grad(&grads).unwrap())));
        all.extend(values(x.grad(&grads).unwrap()));
        all.extend(values(w.grad(&grads).unwrap()));
        for v in [b, gamma, beta] {
            all.extend(values(v.grad(&grads).unwrap()));
        }
        all.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let first = run();
    for _ in 0..20 {
        assert!(run() == first);
    }
}

/// With gradient checkpointing the tape computes again what it did not keep, to the same bits.
#[test]
fn checkpointing_changes_no_bit() {
    let o = ConvOptions { stride: [1, 1], padding: [1, 1], dilation: [1, 1], groups: 1 };
    let (x, w) = (random([2, 6, 9, 7]), random([6, 6, 3, 3]));
    let [gamma, beta, sample, maps] =
        [random([6]).unsqueeze(), random([6]).unsqueeze(), random([2, 6]).unsqueeze(), random([2, 6, 9, 7])];
    let run = |strategy: GradientCheckpointingStrategy, tracks: [bool; 5]| {
        let plain: [Tensor<4>; 5] = [x.clone(), w.clone(), gamma.clone(), sample.clone(), maps.clone()];
        let mut tracked = tracks.into_iter();
        let inputs = plain.map(|v| {
            let v = v.autodiff().with_gradient_checkpointing_strategy(strategy);
            if tracked.next().unwrap() { v.require_grad() } else { v }
        });
        let [x, w, gamma, sample, maps] = inputs.clone();
        let (gamma, sample) = (gamma.reshape([6]), sample.reshape([2, 6]));
        let beta = beta.clone().reshape([6]);
        let conv = |x: Tensor<4>| conv2d(x, w.clone(), None, o);
        let h = conv(group_norm(x.clone(), gamma.clone(), beta.clone(), 3, 1e-5, Activation::Silu));
        // Read twice, once by a chain of operations none of which is kept.
        let h = group_norm(h, sample.clone(), sample.clone() + 1.0, 6, 1e-5, Activation::None);
        let again = activate(activate(h.clone(), Activation::Gelu) * 2.0, Activation::LeakyRelu(0.1));
        let h = conv(h);
        // One input twice.
        let twice = |v: &Tensor<1>| Tensor::cat(vec![v.clone(), v.clone()], 0);
        let wide = concat(concat(h.clone(), again.clone()), concat(again.clone(), again));
        let wide = group_norm(wide, twice(&twice(&gamma)), twice(&twice(&gamma)), 3, 1e-5, Activation::Silu);
        let wide = layer_norm(wide.clone(), wide.clone(), wide, 1e-5, Activation::None);
        let h = add_activate(h, conv(wide.narrow(1, 9, 6)), Activation::Relu);
        let (mean, var) = batch_stats(h.clone());
        let h = conv(batch_norm(h, mean, var, maps.clone(), maps * 0.5, 1e-5, Activation::Relu));
        let h = add_activate(h, x, Activation::Gelu);
        let mirror = |len: usize| Filter::new(len, (0..len).rev().map(|i| vec![(i, 0.5)]));
        let h = conv(resample(h, &mirror(9), &mirror(7)));
        let rows = h.reshape([2, 63, 6]);
        let y = conv(layer_norm(rows, gamma, beta, 1e-5, Activation::GeluTanh).reshape([2, 6, 9, 7]));
        let grads = y.clone().powi_scalar(2).sum().backward();
        let mut all = values(y.inner());
        inputs.iter().for_each(|v| all.extend(v.grad(&grads).map(values).unwrap_or_default()));
        all.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    for frozen in 0..6 {
        let tracks = std::array::from_fn(|i| i != frozen);
        let kept = run(GradientCheckpointingStrategy::Disabled, tracks);
        assert!(run(GradientCheckpointingStrategy::Balanced, tracks) == kept, "input {frozen} frozen");
    }
}

#[test]
fn other_element_types_take_burns_operations() {
    let x: Vec<f64> = (0..2 * 4 * 5 * 5).map(|i| (i as f64 * 0.7).sin()).collect();
    let w: Vec<f64> = (0..6 * 4 * 9).map(|i| (i as f64 * 1.3).cos()).collect();
    let v: Vec<f64> = (0..6).map(|i| 1.0 + i as f64 * 0.1).collect();
    let o = ConvOptions { stride: [1, 1], padding: [1, 1], dilation: [1, 1], groups: 1 };
    let run = |double: bool| {
        let device = Device::flex().autodiff();
        let make4 = |v: &Vec<f64>, d: [usize; 4]| {
            let data = TensorData::new(v.clone(), d);
            let t = if double {
                Tensor::<4>::from_data(data, (&device, burn::tensor::DType::F64))
            } else {
                Tensor::<4>::from_data(data.convert::<f32>(), &device)
            };
            t.require_grad()
        };
        let make1 = |v: &Vec<f64>| {
            let data = TensorData::new(v.clone(), [v.len()]);
            let t = if double {
                Tensor::<1>::from_data(data, (&device, burn::tensor::DType::F64))
            } else {
                Tensor::<1>::from_data(data.convert::<f32>(), &device)
            };
            t.require_grad()
        };
        let (x, w, b, g) = (make4(&x, [2, 4, 5, 5]), make4(&w, [6, 4, 3, 3]), make1(&v), make1(&v));
        let y = conv2d(x.clone(), w.clone(), Some(b.clone()), o);
        let y = group_norm(y, g.clone(), b.clone(), 3, 1e-5, Activation::LeakyRelu(0.1));
        let (mean, var) = batch_stats(y.clone());
        let y = batch_norm(y, mean, var, g.clone(), b.clone(), 1e-5, Activation::Silu);
        let y = group_norm(y, g.clone(), b.clone(), 2, 1e-5, Activation::Relu);
        let y = batch_norm_inference(
            y,
            b.clone().detach(),
            b.clone().detach(),
            g.clone(),
            b.clone(),
            1e-5,
            Activation::Gelu,
        );
        let (scale, shift) = (y.clone() + 1.0, y.clone() * 0.5);
        let y = group_norm(y, scale, shift, 3, 1e-5, Activation::GeluTanh);
        let rows = |v: &Tensor<1>| v.clone().narrow(0, 0, 5);
        let z = layer_norm(y.clone(), rows(&g), rows(&b), 1e-5, Activation::None);
        let (scale, shift) = (rows(&g).unsqueeze::<2>().repeat_dim(0, 2), rows(&b).unsqueeze::<2>().repeat_dim(0, 2));
        let z = layer_norm(z, scale, shift, 1e-5, Activation::Silu);
        let y = concat(add_activate(y.clone(), z, Activation::Relu), y).narrow(1, 3, 6);
        let y = conv_transpose2d(y, w.clone(), None, o, [0, 0]);
        let grads = y.clone().powi_scalar(2).sum().backward();
        let list = |t: TensorData| t.convert::<f64>().try_to_vec::<f64>().unwrap();
        vec![
            list(y.inner().into_data()),
            list(x.grad(&grads).unwrap().into_data()),
            list(w.grad(&grads).unwrap().into_data()),
            list(b.grad(&grads).unwrap().into_data()),
            list(g.grad(&grads).unwrap().into_data()),
        ]
    };
    for (single, double) in run(false).iter().zip(run(true)) {
        let scale = double.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
        for (s, d) in single.iter().zip(&double) {
            assert!((s - d).abs() <= 1e-4 * scale, "{s} against {d}");
        }
    }
}

#[test]
fn activations_alone_and_of_sums() {
    let shapes = [[1, 1, 1, 1], [2, 3, 5, 7], [3, 40, 20, 20]];
    for dims in shapes {
        let (g, other) = (random(dims), random(dims));
        for x in [random(dims)].into_iter().chain(awkward(dims)) {
            for kind in ACTIVATIONS {
                let what = format!("{kind:?} {dims:?}");
                let (ours, theirs) = (tracked(&x), tracked(&x));
                let (y, z) = (activate(ours.clone(), kind), burns(theirs.clone(), kind));
                close(&what, y.clone().inner(), z.clone().inner());
                let (d, e) = (backward(y, &g), backward(z, &g));
                close(&format!("gradient {what}"), ours.grad(&d).unwrap(), theirs.grad(&e).unwrap());

                let what = format!("sum {what}");
                let (ours, theirs) = ([tracked(&x), tracked(&other)], [tracked(&x), tracked(&other)]);
                let y = add_activate(ours[0].clone(), ours[1].clone(), kind);
                let z = burns(theirs[0].clone() + theirs[1].clone(), kind);
                close(&what, y.clone().inner(), z.clone().inner());
                // Of plain tensors: both terms kept, either given away, and one twice.
                let expected = z.clone().inner();
                close(&what, add_activate(x.clone(), other.clone(), kind), expected.clone());
                close(&what, add_activate(x.clone() * 1.0, other.clone(), kind), expected.clone());
                close(&what, add_activate(x.clone(), other.clone() * 1.0, kind), expected);
                close(&what, add_activate(x.clone(), x.clone(), kind), burns(x.clone() * 2.0, kind));
                let (d, e) = (backward(y, &g), backward(z, &g));
                for (ours, theirs) in ours.iter().zip(&theirs) {
                    close(&format!("gradient {what}"), ours.grad(&d).unwrap(), theirs.grad(&e).unwrap());
                }
            }
        }
    }
}

#[test]
fn channels_are_joined_and_their_gradients_parted() {
    for (dims, more) in [([1, 1, 1, 1], 1), ([7, 3, 5, 7], 130), ([33, 48, 9, 3], 5), ([2, 40, 33, 20], 17)] {
        let [n, c, h, w] = dims;
        let y = random([n, more, h, w]);
        let g = random([n, c + more, h, w]);
        for x in [random(dims)].into_iter().chain(awkward(dims)) {
            let run = |kiln: bool| {
                let (tx, ty) = (tracked(&x), tracked(&y));
                let z =
                    if kiln { concat(tx.clone(), ty.clone()) } else { Tensor::cat(vec![tx.clone(), ty.clone()], 1) };
                let grads = backward(z.clone(), &g);
                [z.inner(), tx.grad(&grads).unwrap(), ty.grad(&grads).unwrap()].map(values)
            };
            assert!(run(true) == run(false), "{dims:?} and {more} channels");
            let ty = tracked(&y);
            let (fx, all) = (frozen(&x), tracked(&x));
            let some = backward(concat(fx.clone(), ty.clone()), &g);
            let both = backward(concat(all.clone(), tracked(&y)), &g);
            assert!(fx.grad(&some).is_none() && all.grad(&both).is_some());
            assert_eq!(values(ty.grad(&some).unwrap()), values(g.clone().narrow(1, c, more)));
            assert_eq!(values(concat(x.clone(), y.clone())), values(Tensor::cat(vec![x, y.clone()], 1)));
        }
    }
}

#[test]
fn updates_are_the_same_by_burns_operations() {
    let step = AdamStep {
        scale: 0.5,
        decay: 0.01,
        shrink: 0.99,
        beta1: 0.9,
        beta2: 0.99,
        rate: 0.1,
        correction: 0.2,
        eps: 1e-8,
    };
    let [p, g, m, v] = [(); 4].map(|()| random([37, 5]));
    let v = v.abs();
    // Other element types take the way through Burn's operations.
    let wide = |x: &Tensor<2>| x.clone().cast(burn::tensor::FloatDType::F64);
    let narrow = |x: Tensor<2>| x.cast(burn::tensor::FloatDType::F32);
    let ours = adam(p.clone(), g.clone(), m.clone(), v.clone(), step);
    let theirs = adam(wide(&p), wide(&g), wide(&m), wide(&v), step);
    close("parameter", ours.0, narrow(theirs.0));
    close("first moment", ours.1, narrow(theirs.1));
    close("second moment", ours.2, narrow(theirs.2));
    close("average", lerp(p.clone(), g.clone(), 0.3), narrow(lerp(wide(&p), wide(&g), 0.3)));
    close("squares", sum_of_squares(p.clone()), sum_of_squares(wide(&p)).cast(burn::tensor::FloatDType::F32));
    // Changed in place, but never under another's eyes.
    let before = values(p.clone());
    let kept = p.clone();
    let _ = lerp(p, g, 1.0);
    assert_eq!(values(kept), before);
}

#[test]
fn gradients_are_computed_in_the_precision_of_their_pass() {
    let o = ConvOptions { stride: [1, 1], padding: [1, 1], dilation: [1, 1], groups: 1 };
    let (x, w, g) = (random([2, 16, 8, 8]), random([16, 16, 3, 3]), random([2, 16, 8, 8]));
    let run = |precision: Precision| {
        let (x, w) = (tracked(&x), tracked(&w));
        let y = conv2d(x.clone(), w.clone(), None, o);
        let gradients = precision.scope(|| backward(y, &g));
        [values(x.grad(&gradients).unwrap()), values(w.grad(&gradients).unwrap())]
    };
    for (exact, rounded) in run(Precision::F32).iter().zip(&run(Precision::Bf16)) {
        assert_eq!(exact != rounded, Precision::Bf16.is_native());
        let scale = exact.iter().fold(0.1f32, |m, v| m.max(v.abs()));
        assert!(exact.iter().zip(rounded).all(|(e, r)| (e - r).abs() < 0.02 * scale));
    }
}
