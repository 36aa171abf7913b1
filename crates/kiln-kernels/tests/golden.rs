//! Every operation and gradient against values PyTorch computed (`reference/kernels.py`).

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

use burn::tensor::{Device, Tensor, TensorData};
use kiln_kernels::*;
use safetensors::{Dtype, SafeTensors};

struct Golden<'a>(SafeTensors<'a>);

impl Golden<'_> {
    fn floats(&self, name: &str) -> (Vec<f32>, Vec<usize>) {
        let view = self.0.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(view.dtype(), Dtype::F32);
        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        (values.collect(), view.shape().to_vec())
    }

    fn integers(&self, name: &str) -> Vec<usize> {
        let view = self.0.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(view.dtype(), Dtype::I32);
        view.data().chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize).collect()
    }

    /// A tensor on the plain device.
    fn plain<const D: usize>(&self, name: &str) -> Tensor<D> {
        let (values, shape) = self.floats(name);
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    /// A tracked tensor.
    fn tracked<const D: usize>(&self, name: &str) -> Tensor<D> {
        Tensor::from_inner(self.plain::<D>(name)).require_grad()
    }

    fn close<const D: usize>(&self, name: &str, got: Tensor<D>) {
        let (expected, shape) = self.floats(name);
        assert_eq!(got.dims().to_vec(), shape, "{name}");
        let got = got.into_data().try_to_vec::<f32>().unwrap();
        let scale = expected.iter().fold(0.1f32, |m, v| m.max(v.abs()));
        for (i, (g, e)) in got.iter().zip(&expected).enumerate() {
            assert!((g - e).abs() <= 1e-5 * scale, "{name}[{i}]: {g}, PyTorch {e}");
        }
    }

    /// Checks `y` and the gradients of `sum(y * g)` in the maps and the others.
    fn check<const A: usize>(
        &self,
        case: &str,
        y: Tensor<4>,
        maps: &[(&str, Tensor<4>)],
        others: &[(&str, Tensor<A>)],
    ) {
        self.close(&format!("{case}.y"), y.clone().inner());
        let g = Tensor::from_inner(self.plain::<4>(&format!("{case}.g")));
        let grads = (y * g).sum().backward();
        for (name, v) in maps {
            self.close(&format!("{case}.d{name}"), v.grad(&grads).unwrap());
        }
        for (name, v) in others {
            self.close(&format!("{case}.d{name}"), v.grad(&grads).unwrap());
        }
    }

    /// A normalisation whose gamma and beta have `A` dimensions.
    fn check_norm<const A: usize>(&self, case: &str) {
        let name = |part: &str| format!("{case}.{part}");
        let (x, gamma, beta) =
            (self.tracked::<4>(&name("x")), self.tracked::<A>(&name("gamma")), self.tracked::<A>(&name("beta")));
        let (input, scale, shift) = (x.clone(), gamma.clone(), beta.clone());
        let mut parts = case.split('.');
        let kind = parts.next().unwrap();
        let activation = activation(parts.next().unwrap());
        let y = match kind {
            "group" => {
                let groups = self.integers(&name("groups"))[0];
                group_norm(input, scale, shift, groups, 1e-5, activation)
            }
            "batch" => {
                let (mean, var) = batch_stats(input.clone());
                if A == 1 {
                    self.close(&name("mean"), mean.clone().inner());
                    self.close(&name("var"), var.clone().inner());
                }
                batch_norm(input, mean, var, scale, shift, 1e-5, activation)
            }
            "inference" => {
                let (mean, var) = (self.plain(&name("running_mean")), self.plain(&name("running_var")));
                batch_norm_inference(input, mean, var, scale, shift, 1e-5, activation)
            }
            "rows" => layer_norm(input, scale, shift, 1e-5, activation),
            other => panic!("unknown operation {other}"),
        };
        self.check(case, y, &[("x", x)], &[("gamma", gamma), ("beta", beta)]);
    }
}

fn activation(name: &str) -> Activation {
    match name {
        "none" => Activation::None,
        "relu" | "instance" => Activation::Relu,
        "leaky" => Activation::LeakyRelu(0.2),
        "silu" | "layer" => Activation::Silu,
        "gelu" => Activation::Gelu,
        "gelu_tanh" => Activation::GeluTanh,
        other => panic!("unknown activation {other}"),
    }
}

#[test]
fn operations_agree_with_pytorch() {
    let bytes = include_bytes!("reference/kernels.safetensors");
    let golden = Golden(SafeTensors::deserialize(bytes).unwrap());
    let mut cases: Vec<String> =
        golden.0.names().iter().filter_map(|n| n.strip_suffix(".y")).map(String::from).collect();
    cases.sort();
    assert_eq!(cases.len(), 40);
    for case in cases {
        let name = |part: &str| format!("{case}.{part}");
        let kind = case.split('.').next().unwrap();
        let x = golden.tracked::<4>(&name("x"));
        match kind {
            "conv" | "transposed" => {
                let o = golden.integers(&name("options"));
                let options =
                    ConvOptions { stride: [o[0], o[1]], padding: [o[2], o[3]], dilation: [o[4], o[5]], groups: o[6] };
                let w = golden.tracked::<4>(&name("w"));
                let b = golden.tracked::<1>(&name("b"));
                let y = if kind == "conv" {
                    conv2d(x.clone(), w.clone(), Some(b.clone()), options)
                } else {
                    conv_transpose2d(x.clone(), w.clone(), Some(b.clone()), options, [o[7], o[8]])
                };
                golden.check(&case, y, &[("x", x), ("w", w)], &[("b", b)]);
            }
            "sum" => {
                let z = golden.tracked::<4>(&name("z"));
                let y = add_activate(x.clone(), z.clone(), activation(case.split('.').nth(1).unwrap()));
                golden.check::<1>(&case, y, &[("x", x), ("z", z)], &[]);
            }
            _ => match golden.floats(&name("gamma")).1.len() {
                1 => golden.check_norm::<1>(&case),
                2 => golden.check_norm::<2>(&case),
                _ => golden.check_norm::<4>(&case),
            },
        }
    }
}
