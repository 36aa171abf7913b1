//! What the tests of translation share: PyTorch's values, and a network compared with them.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kiln_core::random::Key;
use kiln_data::{HostBatch, Part};
use kiln_nn::Init;
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::{Batch, HostTensor, Loss, Pictures, System, params};
use safetensors::SafeTensors;

use crate::testing::hashed::uniform;
pub use crate::testing::{Terms, fit as fit_system, term};

/// The folder of fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/fixtures")
}

/// tests/reference/systems.py: PyTorch 2.15.
pub fn with_fixture<T>(read: impl FnOnce(&SafeTensors) -> T) -> T {
    with_fixture_of("systems", read)
}

/// A fixture by its name, such as tests/reference/translation.py: the authors' code.
pub fn with_fixture_of<T>(name: &str, read: impl FnOnce(&SafeTensors) -> T) -> T {
    let bytes = std::fs::read(fixtures().join(name).with_extension("safetensors")).unwrap();
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

/// The parts of a layer that a state dict may have.
const PARTS: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

/// Loads the state `prefix` of a fixture into a network, whose layers have these paths and these names there, and compares the output,
/// the gradient of the input, and all gradients of parameters that the fixture has; there must be some.
pub fn compare_in<M: Module, const D: usize>(
    fixture: &str,
    prefix: &str,
    network: impl FnOnce(&mut Init) -> M,
    forward: impl FnOnce(&M, Tensor<4>) -> Tensor<D>,
    names: &[(String, String)],
) {
    let device = Device::flex().autodiff();
    with_fixture_of(fixture, |file| {
        let has = |name: &str| file.names().contains(&name);
        let pairs: Vec<(String, String)> = names
            .iter()
            .flat_map(|(ours, theirs)| PARTS.map(|part| (format!("{ours}.{part}"), format!("{theirs}.{part}"))))
            .filter(|(_, theirs)| has(&format!("{prefix}.{theirs}")))
            .collect();
        let state = pairs.iter().map(|(ours, theirs)| (ours.clone(), host(file, &format!("{prefix}.{theirs}"))));
        let network = params::load(network(&mut Init::new(&device, 0)), &state.collect(), prefix).unwrap();
        let input = tensor::<4>(file, &format!("{prefix}_io.input"), &device).require_grad();
        let output = forward(&network, input.clone());
        let want = host(file, &format!("{prefix}_io.output"));
        assert_eq!(output.dims().to_vec(), want.shape, "{prefix}");
        assert_close(prefix, to_values(output.clone()), want.values, 1e-5);

        let upstream = tensor::<D>(file, &format!("{prefix}_io.grad_output"), &device);
        let mut gradients = (output * upstream).sum().backward();
        let got = to_values(input.grad(&gradients).unwrap());
        assert_close(prefix, got, host(file, &format!("{prefix}_io.grad_input")).values, 1e-4);
        let got = params::take_gradients(&network, &mut gradients);
        let mut compared = 0;
        for (ours, theirs) in pairs {
            let name = format!("{prefix}_grad.{theirs}");
            if has(&name) {
                assert_close(&ours, to_values(got[&ours].clone()), host(file, &name).values, 1e-4);
                compared += 1;
            }
        }
        assert!(compared > 1, "{prefix}: {compared} gradients compared");
    });
}

/// [`compare_in`] of names that need no making.
pub fn named(names: &[(&str, &str)]) -> Vec<(String, String)> {
    names.iter().map(|(ours, theirs)| (ours.to_string(), theirs.to_string())).collect()
}

/// [`compare_in`] the fixture of the systems, whose layers are all in `model`.
pub fn compare<M: Module>(
    prefix: &str,
    network: impl FnOnce(&mut Init) -> M,
    forward: impl FnOnce(&M, Tensor<4>) -> Tensor<4>,
    names: &[(&str, &str)],
) {
    let names: Vec<_> = names.iter().map(|(ours, theirs)| (ours.to_string(), format!("model.{theirs}"))).collect();
    compare_in("systems", prefix, network, forward, &names);
}

/// Two sets of `n` pictures of `side` pixels: light ones, and the same turned dark.
pub fn pairs(start: u64, n: usize, side: usize, device: &Device) -> Batch {
    let shape = [n, 3, side, side];
    let a = Key::new(5).uniform(0..n as u64, 3 * side * side);
    let b = a.iter().map(|v| -v).collect();
    let part = |values| Part {
        shape,
        values,
        labels: None,
        captions: vec![None; n],
        indices: (0..n).collect(),
        ..Part::default()
    };
    Batch::new(HostBatch { start, parts: vec![part(a), part(b)] }, 1_000, Key::new(0), device)
}

/// Trains a system on one batch of pairs; the losses' terms of every step, and the system.
pub fn fit<S: System>(config: S::Config, steps: u64, n: usize, side: usize) -> (Vec<Terms>, S) {
    let system = S::new(config, &Pictures::new([3, side, side], Vec::new())).unwrap();
    fit_system(system, 1, steps, |step, device| pairs(step * n as u64, n, side, device))
}

/// 2u − 1, of a name (tests/reference/hashed.py).
pub fn by_formula<const D: usize>(name: &str, shape: [usize; D], device: &Device) -> Tensor<D> {
    let values = uniform(name, shape.iter().product()).map(|u| (2.0 * u - 1.0) as f32).collect();
    from_values(values, shape, device)
}

/// A batch of one pair, `a` and `b` by formula, of 32 pixels.
pub fn of_pair(device: &Device) -> Batch {
    let part = |name: &str| Part {
        shape: [1, 3, 32, 32],
        values: to_values(by_formula(name, [1, 3, 32, 32], device)),
        labels: None,
        captions: vec![None],
        indices: vec![0],
        ..Part::default()
    };
    Batch::new(HostBatch { start: 0, parts: vec![part("a"), part("b")] }, 1_000, Key::new(0), device)
}

/// A network with the weights of tests/reference/translation.py, by formula of their paths.
pub fn with_weights_by_formula<M: Module>(network: M) -> M {
    let mut state = params::state(&network);
    for (path, tensor) in &mut state {
        let name = path.replace("gamma", "gamma.weight");
        let fan_in: usize = tensor.shape[1..].iter().product();
        let value = |u: f64| match tensor.shape.len() {
            1 if name.ends_with("weight") => 0.5 + u,
            1 => 0.2 * u - 0.1,
            _ => (2.0 * u - 1.0) * (6.0 / fan_in as f64).sqrt(),
        };
        tensor.values = uniform(&name, tensor.values.len()).map(|u| value(u) as f32).collect();
    }
    params::load(network, &state, "formula").unwrap()
}

/// Compares the terms of a loss, and the gradients that it has, with those of the authors' code.
pub fn compare_objective<M: Module>(name: &str, network: &M, loss: Loss, terms: &[&str], tolerance: f32) {
    with_fixture_of("translation", |file| {
        for wanted in terms {
            let (_, value) = loss.terms.iter().find(|(term, _)| term == wanted).unwrap();
            let want = host(file, &format!("{name}.{wanted}")).values;
            assert_close(wanted, to_values(value.clone()), want, 2e-5);
        }
        let found = params::take_gradients(network, &mut loss.total.backward());
        let prefix = format!("{name}.grad.");
        let wanted: Vec<&str> = file.names().into_iter().filter_map(|n| n.strip_prefix(&prefix)).collect();
        assert!(wanted.len() > 15, "{}", wanted.len());
        for path in wanted {
            let got = found.get(path).unwrap_or_else(|| panic!("{path} has no gradient"));
            assert_close(path, to_values(got.clone()), host(file, &format!("{prefix}{path}")).values, tolerance);
        }
    });
}
