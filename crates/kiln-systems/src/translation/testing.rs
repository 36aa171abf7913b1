//! What the tests of translation share: PyTorch's values, and a network compared with them.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kiln_nn::Init;
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::HostTensor;
use kiln_train::params;
use safetensors::SafeTensors;

/// tests/reference/systems.py: PyTorch 2.15.
pub fn with_fixture<T>(read: impl FnOnce(&SafeTensors) -> T) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/fixtures/systems.safetensors");
    let bytes = std::fs::read(path).unwrap();
    read(&SafeTensors::deserialize(&bytes).unwrap())
}

pub fn host(file: &SafeTensors, name: &str) -> HostTensor {
    let view = file.tensor(name).unwrap();
    let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    HostTensor { shape: view.shape().to_vec(), values }
}

pub fn tensor<const D: usize>(file: &SafeTensors, name: &str, device: &Device) -> Tensor<D> {
    let host = host(file, name);
    from_values(host.values, host.shape.try_into().unwrap(), device)
}

pub fn assert_close(what: &str, got: Vec<f32>, want: Vec<f32>, tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance * scale, "{what}: differs by {worst}, scale {scale}");
}

/// Loads `prefix`'s state by a map from our names to PyTorch's, then compares the output, the
/// gradient of the input and the gradients of the parameters that the fixture has.
pub fn compare<M: Module>(
    prefix: &str,
    network: impl FnOnce(&mut Init) -> M,
    forward: impl FnOnce(&M, Tensor<4>) -> Tensor<4>,
    names: &[(&str, &str)],
) {
    let device = Device::flex().autodiff();
    with_fixture(|file| {
        let pairs = || {
            names.iter().flat_map(|(ours, theirs)| {
                ["weight", "bias"].map(|p| (format!("{ours}.{p}"), format!("model.{theirs}.{p}")))
            })
        };
        let state = pairs().map(|(o, t)| (o, host(file, &format!("{prefix}.{t}")))).collect();
        let network = params::load(network(&mut Init::new(&device, 0)), &state, prefix).unwrap();
        let input = tensor::<4>(file, &format!("{prefix}_io.input"), &device).require_grad();
        let output = forward(&network, input.clone());
        let want = host(file, &format!("{prefix}_io.output"));
        assert_eq!(output.dims().to_vec(), want.shape);
        assert_close("output", to_values(output.clone()), want.values, 1e-5);

        let upstream = tensor::<4>(file, &format!("{prefix}_io.grad_output"), &device);
        let mut gradients = (output * upstream).sum().backward();
        let got = to_values(input.grad(&gradients).unwrap());
        assert_close("input", got, host(file, &format!("{prefix}_io.grad_input")).values, 1e-4);
        let got = params::take_gradients(&network, &mut gradients);
        let mut compared = 0;
        for (ours, theirs) in pairs() {
            let name = format!("{prefix}_grad.{theirs}");
            if file.names().contains(&name.as_str()) {
                assert_close(&ours, to_values(got[&ours].clone()), host(file, &name).values, 1e-4);
                compared += 1;
            }
        }
        assert_eq!(compared, 4);
    });
}
