//! Shared by the tests of adversarial systems: PyTorch's values, a fixed batch, training of one network
//! alone.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kiln_core::random::Key;
use kiln_data::{HostBatch, Part};
use kiln_nn::Init;
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::optim::Optimizer;
use kiln_train::{Batch, HostTensor, OptimizerConfig, State, System, params};

pub use crate::testing::{Fixtures, close, values};

/// The tensors below `prefix`, each under what `rename` makes of the rest of its name.
pub fn state(fixtures: &Fixtures, prefix: &str, rename: fn(&str) -> String) -> State {
    let below = |name: String| {
        let path = rename(name.strip_prefix(prefix)?);
        Some((path, HostTensor { shape: fixtures.values(&name).0, values: values(fixtures, &name) }))
    };
    fixtures.names().into_iter().filter_map(below).collect()
}

/// Output, all gradients and the buffers after a training pass over `input`, against PyTorch's of `name`, whose paths `rename`
/// turns into ours.
pub fn agrees<M: Module, const I: usize, const O: usize>(
    fixture: &Fixtures,
    name: &str,
    network: M,
    input: &str,
    rename: fn(&str) -> String,
    forward: impl Fn(&M, Tensor<I>) -> Tensor<O>,
) {
    let device = Device::flex().autodiff();
    let network = params::load(network, &state(fixture, &format!("{name}."), rename), "fixture").unwrap();
    let x = fixture.tensor::<I>(&format!("{name}_io.{input}")).autodiff().require_grad();
    let output = forward(&network, x.clone());
    close(&to_values(output.clone()), &values(fixture, &format!("{name}_io.output")), 1e-5);
    let upstream = from_values(values(fixture, &format!("{name}_io.grad_output")), output.dims(), &device);
    let mut gradients = (output * upstream).sum().backward();
    close(&to_values(x.grad(&gradients).unwrap()), &values(fixture, &format!("{name}_io.grad_{input}")), 1e-4);
    let mut found = params::take_gradients(&network, &mut gradients);
    let expected = state(fixture, &format!("{name}_grad."), rename);
    assert!(expected.len() > 5);
    for (path, value) in expected {
        let gradient = found.remove(&path).unwrap_or_else(|| panic!("{path} has no gradient"));
        close(&to_values(gradient), &value.values, 1e-4);
    }
    assert!(found.is_empty(), "{:?}", found.keys());
    let own = params::state(&network);
    let after = state(fixture, &format!("{name}_after."), rename);
    let buffer = |path: &&String| ["running", "parametrization"].iter().any(|part| path.contains(part));
    assert_eq!(after.len(), own.keys().filter(buffer).count());
    for (path, value) in after {
        close(&own[&path].values, &value.values, 1e-5);
    }
}

/// `n` fixed noise pictures with labels below `classes` (none if 0).
pub fn batch(n: usize, [c, h, w]: [usize; 3], classes: u32) -> Batch {
    let values = Key::new(3).uniform(0..n as u64, c * h * w).iter().map(|u| 2.0 * u - 1.0).collect();
    let part = Part {
        shape: [n, c, h, w],
        values,
        labels: (classes > 0).then(|| (0..n as u32).map(|i| i % classes).collect()),
        captions: vec![None; n],
        indices: (0..n).collect(),
        ..Part::default()
    };
    Batch::new(HostBatch { start: 0, parts: vec![part] }, 100, Key::new(0), &Device::flex().autodiff())
}

/// The loss of one phase before and after `steps` steps of it alone on one batch.
pub fn overfit<S: System>(system: &mut S, phase: usize, rate: f64, steps: usize, batch: &Batch) -> (f64, f64) {
    let phase = system.phases().swap_remove(phase);
    let mut optimizer = Optimizer::new(OptimizerConfig { learning_rate: rate, ..phase.optimizer });
    let mut networks = system.networks(&mut Init::new(&Device::flex().autodiff(), 0));
    networks = params::set_trainable(networks, &phase.trains);
    let mut losses = Vec::new();
    for _ in 0..steps {
        let loss = (phase.loss)(system, &networks, batch).unwrap().unwrap();
        losses.push(f64::from(loss.total.clone().into_scalar::<f32>()));
        let mut gradients = loss.total.backward();
        let gradients = params::take_gradients(&networks, &mut gradients);
        assert!(gradients.keys().all(|path| phase.trains.iter().any(|t| path.starts_with(t))));
        networks = optimizer.step(networks, gradients, 1.0, 1.0);
    }
    (losses[0], losses[steps - 1])
}
