//! What the tests of all families share: PyTorch's values.

#[path = "../../../tests/reference/fixtures.rs"]
mod fixtures;
#[path = "../../../tests/reference/hashed.rs"]
pub mod hashed;
use burn::tensor::{Device, Tensor};
pub use fixtures::Fixtures;
use kiln_core::Result;
use kiln_nn::Init;
use kiln_nn::tensor::to_values;
use kiln_train::optim::Optimizer;
use kiln_train::{Batch, Generate, Request, System, params};

/// Values of a reference tensor.
pub fn values(fixtures: &Fixtures, name: &str) -> Vec<f32> {
    fixtures.values(name).1.into_iter().map(|v| v as f32).collect()
}

/// Equal up to `tolerance`, relative for values above 1.
pub fn close(got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len());
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((g - e).abs() <= tolerance * e.abs().max(1.0), "element {i}: {g}, expected {e}");
    }
}

/// Samples as the verbs ask for them: what the system does not take is refused first.
pub fn requested<N>(system: &dyn Generate<N>, networks: &N, request: &Request) -> Result<Tensor<4>> {
    request.check("this", &system.takes())?;
    system.generate(networks, request)
}

/// The losses' terms of a step.
pub type Terms = Vec<(String, f32)>;

/// Trains a system as the loop does, without its averages; the losses' terms of every step, and the system.
pub fn fit<S: System>(mut system: S, seed: u64, steps: u64, batch: impl Fn(u64, &Device) -> Batch) -> (Vec<Terms>, S) {
    let device = Device::flex().autodiff();
    let mut networks = system.networks(&mut Init::new(&device, seed));
    let phases = system.phases();
    let mut optimizers: Vec<Optimizer> = phases.iter().map(|p| Optimizer::new(p.optimizer.clone())).collect();
    let mut log = Vec::new();
    for step in 0..steps {
        let batch = batch(step, &device);
        let mut terms = Terms::new();
        for (phase, optimizer) in phases.iter().zip(&mut optimizers) {
            if !phase.is_due(step, batch.start) {
                continue;
            }
            networks = params::set_trainable(networks, &phase.trains);
            let Some(loss) = (phase.loss)(&mut system, &networks, &batch).unwrap() else { continue };
            terms.extend(loss.terms.into_iter().map(|(name, value)| (name.to_string(), to_values(value)[0])));
            let mut gradients = loss.total.backward();
            let gradients = params::take_gradients(&networks, &mut gradients);
            networks = optimizer.step(networks, gradients, 1.0, 1.0);
        }
        log.push(terms);
    }
    (log, system)
}

/// The value of a term.
pub fn term(terms: &Terms, name: &str) -> f32 {
    terms.iter().find(|(own, _)| own == name).unwrap_or_else(|| panic!("no term {name} in {terms:?}")).1
}
