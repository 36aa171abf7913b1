//! Masked convolutions, the gate and the recurrent walks against PyTorch, and what they see by their gradients.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

#[path = "../../../tests/reference/fixtures.rs"]
mod fixtures;

use burn::module::Param;
use burn::tensor::{Device, Tensor};
use fixtures::Fixtures;
use kiln_core::random::Key;
use kiln_nn::masked::{MaskType, MaskedConv2d, MaskedConv2dConfig, Window};
use kiln_nn::tensor::{normal, to_values};
use kiln_nn::{Init, ScanDirection, gate, recur};

fn init() -> Init {
    Init::new(&Device::flex().autodiff(), 0)
}

const WINDOWS: [(&str, Window); 3] = [("past", Window::Past), ("above", Window::Above), ("left", Window::Left)];
const MASKS: [(&str, MaskType); 2] = [("A", MaskType::A), ("B", MaskType::B)];

/// The part of a k×k kernel that such a layer has.
fn seen(full: Tensor<4>, window: Window, layer: &MaskedConv2d) -> Tensor<4> {
    let [_, _, kh, kw] = layer.weight.dims();
    let top = if window == Window::Left { full.dims()[2] / 2 } else { 0 };
    full.narrow(2, top, kh).narrow(3, 0, kw)
}

#[test]
fn masked_convolutions_are_kernels_times_masks() {
    let f = Fixtures::open("pixelcnn");
    for (window_name, window) in WINDOWS {
        for (mask_name, mask) in MASKS {
            for (kernel, colours) in [(3, 1), (5, 1), (3, 3)] {
                let name = format!("masked.{window_name}.{mask_name}.{kernel}.{colours}");
                let config = MaskedConv2dConfig { colours, ..MaskedConv2dConfig::new(3, 6, kernel, window, mask) };
                let mut layer = config.init(&mut init());
                let tracked = |t: Tensor<4>| Param::from_tensor(t.autodiff());
                let full = f.tensor::<4>(&format!("{name}.weight"));
                layer.weight = tracked(seen(full, window, &layer));
                layer.bias = Some(Param::from_tensor(f.tensor::<1>(&format!("{name}.bias")).autodiff()));
                let x = f.tensor::<4>(&format!("{name}.input")).autodiff().require_grad();
                let y = layer.forward(x.clone());
                f.assert_close(y.clone().inner(), &format!("{name}.output"), 1e-5);
                let g = f.tensor::<4>(&format!("{name}.grad_output")).autodiff();
                let gradients = (y * g).sum().backward();
                f.assert_close(x.grad(&gradients).unwrap(), &format!("{name}.grad_input"), 1e-5);
                f.assert_close(
                    layer.bias.as_ref().unwrap().val().grad(&gradients).unwrap(),
                    &format!("{name}.grad_bias"),
                    1e-5,
                );
                let wanted = seen(f.tensor::<4>(&format!("{name}.grad_weight")), window, &layer);
                let got = layer.weight.val().grad(&gradients).unwrap();
                let off = (got - wanted).abs().max().into_scalar::<f32>();
                assert!(off < 1e-4, "{name}: the weight's gradient is off by {off}");
            }
        }
    }
}

/// Pixels of the input whose gradient from the output at (row, column) of colour `of` is not zero, by colour.
fn reached(layer: impl Fn(Tensor<4>) -> Tensor<4>, size: [usize; 3], at: [usize; 2], of: usize) -> Vec<bool> {
    let [c, h, w] = size;
    let x = normal(Key::new(1), 0..1, [1, c, h, w], &Device::flex()).autodiff().require_grad();
    let y = layer(x.clone());
    let channels = y.dims()[1];
    let own: Vec<Tensor<4>> = (of..channels).step_by(c).map(|channel| y.clone().narrow(1, channel, 1)).collect();
    let pixel = Tensor::cat(own, 1).narrow(2, at[0], 1).narrow(3, at[1], 1);
    let weights = normal(Key::new(2), 0..1, pixel.dims(), &Device::flex()).autodiff();
    let gradients = (pixel * weights).sum().backward();
    to_values(x.grad(&gradients).unwrap()).into_iter().map(|g| g != 0.0).collect()
}

#[test]
fn a_window_is_all_that_is_seen_and_all_of_it_is() {
    for colours in [1, 3] {
        for (_, mask) in MASKS {
            for (_, window) in WINDOWS {
                let layer = MaskedConv2dConfig { colours, ..MaskedConv2dConfig::new(colours, 6, 5, window, mask) };
                let layer = layer.init(&mut init());
                for of in 0..colours {
                    let found = reached(|x| layer.forward(x), [colours, 7, 7], [4, 3], of);
                    for (at, found) in found.into_iter().enumerate() {
                        let (from, row, column) = (at / 49, at / 7 % 7, at % 7);
                        let near = row.abs_diff(4) <= 2 && column.abs_diff(3) <= 2;
                        let own = from < of || (from == of && mask == MaskType::B);
                        let before = match window {
                            Window::Above => row < 4 || (row == 4 && mask == MaskType::B),
                            Window::Past => row < 4 || (row == 4 && (column < 3 || (column == 3 && own))),
                            Window::Left => row == 4 && (column < 3 || (column == 3 && own)),
                        };
                        assert_eq!(
                            found,
                            near && before,
                            "{window:?} {mask:?}, colour {of} from {from}: {row}, {column}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn the_gate_is_pytorchs() {
    let f = Fixtures::open("pixelcnn");
    let x = f.tensor::<4>("gate.input").autodiff().require_grad();
    let y = gate(x.clone());
    f.assert_close(y.clone().inner(), "gate.output", 1e-6);
    let gradients = (y * f.tensor::<4>("gate.grad_output").autodiff()).sum().backward();
    f.assert_close(x.grad(&gradients).unwrap(), "gate.grad_input", 1e-6);
    // Far out it is flat and finite.
    let far = Tensor::<2>::from_data([[200.0, -200.0, 0.3, f32::NAN]], &Device::flex());
    let values = to_values(gate(far));
    assert!((values[0] - 0.574_442_5).abs() < 1e-6 && values[1].is_nan(), "{values:?}");
}

#[test]
fn walks_are_lstms_over_rows_and_skewed_columns() {
    let f = Fixtures::open("pixelcnn");
    let names: Vec<String> =
        f.names().into_iter().filter(|n| n.starts_with("recur.") && n.ends_with(".input")).collect();
    assert_eq!(names.len(), 16);
    for name in names {
        let name = name.strip_suffix(".input").unwrap();
        let walk = match name.split('.').nth(1) {
            Some("rows") => ScanDirection::Rows,
            Some("diagonals") => ScanDirection::Diagonals,
            _ => ScanDirection::Antidiagonals,
        };
        let x = f.tensor::<4>(&format!("{name}.input")).autodiff().require_grad();
        let weight = f.tensor::<3>(&format!("{name}.weight")).autodiff().require_grad();
        let y = recur(x.clone(), weight.clone(), walk);
        f.assert_close(y.clone().inner(), &format!("{name}.output"), 1e-5);
        let plain = recur(x.clone().inner(), weight.clone().inner(), walk);
        f.assert_close(plain, &format!("{name}.output"), 1e-5);
        let g = f.tensor::<4>(&format!("{name}.grad_output")).autodiff();
        let gradients = (y * g).sum().backward();
        f.assert_close(x.grad(&gradients).unwrap(), &format!("{name}.grad_input"), 1e-5);
        f.assert_close(weight.grad(&gradients).unwrap(), &format!("{name}.grad_weight"), 1e-5);
    }
}

/// A row's context is a triangle above it, a diagonal's the rectangle above and on its side.
#[test]
fn walks_see_their_triangles_and_rectangles() {
    for (walk, taps) in [(ScanDirection::Rows, 3), (ScanDirection::Diagonals, 2), (ScanDirection::Antidiagonals, 2)] {
        let weight = normal(Key::new(3), 0..8, [8, 2, taps], &Device::flex()).autodiff();
        let found = reached(|x| recur(x.repeat_dim(1, 8), weight.clone(), walk), [1, 6, 7], [4, 3], 0);
        for (at, found) in found.into_iter().enumerate() {
            let (row, column) = (at / 7, at % 7);
            let wanted = match walk {
                ScanDirection::Rows => row <= 4 && column.abs_diff(3) <= 4 - row,
                ScanDirection::Diagonals => row <= 4 && column <= 3,
                ScanDirection::Antidiagonals => row <= 4 && column >= 3,
            };
            assert_eq!(found, wanted, "{walk:?}: {row}, {column}");
        }
    }
}
