//! Resizing, pooling, FIR resampling and modulated convolution against PyTorch
//! (`tests/reference/resampling.py`, `tests/reference/grid_sample.py`).

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

#[path = "../../../tests/reference/fixtures.rs"]
mod fixtures;

use burn::tensor::{Device, Gradients, Tensor};
use fixtures::Fixtures;
use kiln_nn::fir::{Rate, conv2d_resample, downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d};
use kiln_nn::modulated::{Modulate, Modulation, modulated_conv2d};
use kiln_nn::resample::{Interpolation, avg_pool2d, interpolate, warp};
use kiln_nn::tensor::to_values;

fn input<const D: usize>(f: &Fixtures, case: &str, name: &str) -> Tensor<D> {
    f.tensor(&format!("{case}.{name}")).autodiff().require_grad()
}

fn integers(f: &Fixtures, case: &str) -> Vec<isize> {
    f.values(&format!("{case}.options")).1.into_iter().map(|v| v as isize).collect()
}

/// Checks the output and the gradient in `x`; gives the others.
fn check(f: &Fixtures, case: &str, x: &Tensor<4>, y: Tensor<4>) -> Gradients {
    f.assert_close(y.clone().inner(), &format!("{case}.output"), 1e-5);
    let g = (y * f.tensor::<4>(&format!("{case}.grad_output")).autodiff()).sum().backward();
    f.assert_close(x.grad(&g).unwrap(), &format!("{case}.grad_x"), 1e-5);
    g
}

#[test]
fn interpolation_agrees_with_pytorch() {
    let f = Fixtures::open("resampling");
    for (name, mode) in [
        ("nearest", Interpolation::Nearest),
        ("nearest-exact", Interpolation::NearestExact),
        ("area", Interpolation::Area),
        ("bilinear", Interpolation::Bilinear { antialias: false }),
        ("bilinear.antialias", Interpolation::Bilinear { antialias: true }),
        ("bicubic", Interpolation::Bicubic { antialias: false }),
        ("bicubic.antialias", Interpolation::Bicubic { antialias: true }),
    ] {
        for i in 0..5 {
            let case = format!("interpolate.{name}.{i}");
            let (shape, _) = f.values(&format!("{case}.output"));
            let x = input(&f, &case, "x");
            check(&f, &case, &x, interpolate(x.clone(), [shape[2], shape[3]], mode));
        }
    }
}

#[test]
fn average_pooling_agrees_with_pytorch() {
    let f = Fixtures::open("resampling");
    for name in ["halves", "overlapping", "same"] {
        let case = format!("avg_pool2d.{name}");
        let o: Vec<usize> = integers(&f, &case).into_iter().map(isize::unsigned_abs).collect();
        let x = input(&f, &case, "x");
        check(&f, &case, &x, avg_pool2d(x.clone(), o[0], o[1], o[2]));
    }
}

#[test]
fn warping_agrees_with_pytorch() {
    let f = Fixtures::open("grid_sample");
    let (x, flow) = (input(&f, "warp", "x"), input::<4>(&f, "warp", "flow"));
    let g = check(&f, "warp", &x, warp(x.clone(), flow.clone()));
    f.assert_close(flow.grad(&g).unwrap(), "warp.grad_flow", 1e-5);
}

#[test]
fn fir_resampling_agrees_with_its_composition() {
    let f = Fixtures::open("resampling");
    for i in 0..7 {
        let case = format!("upfirdn2d.{i}");
        let filter = to_values(f.tensor::<1>(&format!("{case}.filter")));
        let o = integers(&f, &case);
        let gain = f.values(&format!("{case}.gain")).1[0];
        let x = input(&f, &case, "x");
        let (up, down) = (o[0].unsigned_abs(), o[1].unsigned_abs());
        check(&f, &case, &x, upfirdn2d(x.clone(), &filter, up, down, [o[2], o[3], o[4], o[5]], gain));
    }
}

#[test]
fn filters_are_set_up_as_the_reference_does() {
    // torch_utils/ops/upfirdn2d.py: setup_filter([1, 3, 4], gain=4, separable=True), and with flip_filter.
    assert_eq!(setup_filter(&[1.0, 3.0, 4.0], true, false, 4.0), [0.25, 0.75, 1.0]);
    assert_eq!(setup_filter(&[1.0, 3.0, 4.0], false, true, 1.0), [4.0, 3.0, 1.0]);
}

/// Along with the formulas of upsample2d, downsample2d and filter2d in torch_utils/ops/upfirdn2d.py.
#[test]
fn sizes_follow_the_rate_and_constants_stay() {
    let binomial = setup_filter(&[1.0, 3.0, 3.0, 1.0], true, false, 1.0);
    let x = Tensor::<4>::ones([1, 2, 8, 12], &Device::flex());
    let centre = |y: Tensor<4>| {
        let [_, _, h, w] = y.dims();
        to_values(y.slice([0..1, 1..2, h / 2..h / 2 + 1, w / 2..w / 2 + 1]))[0]
    };
    for (y, size) in [
        (upsample2d(x.clone(), &binomial, 2, 1.0), [16, 24]),
        (downsample2d(x.clone(), &binomial, 2, 1.0), [4, 6]),
        (filter2d(x.clone(), &binomial, 1.0), [8, 12]),
    ] {
        assert_eq!(y.dims()[2..], size);
        assert!((centre(y) - 1.0).abs() < 1e-6);
    }
}

fn rates() -> [(&'static str, Rate); 3] {
    [("same", Rate::Same), ("up", Rate::Up(2)), ("down", Rate::Down(2))]
}

#[test]
fn resampling_convolutions_agree_with_their_definition() {
    let f = Fixtures::open("resampling");
    let filter = setup_filter(&[1.0, 3.0, 3.0, 1.0], true, false, 1.0);
    for (name, rate) in rates() {
        for k in [1, 3] {
            let case = format!("conv2d_resample.{name}.{k}");
            let (x, weight) = (input::<4>(&f, &case, "x"), input::<4>(&f, &case, "weight"));
            let g = check(&f, &case, &x, conv2d_resample(x.clone(), weight.clone(), &filter, rate, k / 2));
            f.assert_close(weight.grad(&g).unwrap(), &format!("{case}.grad_weight"), 1e-5);
        }
    }
}

#[test]
fn modulated_convolution_agrees_with_one_convolution_a_sample() {
    let f = Fixtures::open("resampling");
    let filter = setup_filter(&[1.0, 3.0, 3.0, 1.0], true, false, 1.0);
    for (name, rate) in &rates()[..2] {
        let sides = [Modulate::Maps, Modulate::Weights];
        for ((k, demodulate), side) in [(3, true), (1, false)].into_iter().flat_map(|k| sides.map(|side| (k, side))) {
            let case = format!("modulated_conv2d.{name}.{k}");
            let (x, weight) = (input::<4>(&f, &case, "x"), input::<4>(&f, &case, "weight"));
            let styles = input::<2>(&f, &case, "styles");
            let how = Modulation { demodulate, side, rate: *rate, filter: &filter, padding: k / 2 };
            let y = modulated_conv2d(x.clone(), weight.clone(), styles.clone(), how);
            let g = check(&f, &case, &x, y);
            f.assert_close(weight.grad(&g).unwrap(), &format!("{case}.grad_weight"), 1e-5);
            f.assert_close(styles.grad(&g).unwrap(), &format!("{case}.grad_styles"), 1e-5);
        }
    }
}
