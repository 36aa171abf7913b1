//! What the tests of this family share.

use burn::tensor::Device;
use kiln_core::random::Key;
use kiln_data::{HostBatch, Part};
use kiln_nn::Init;
use kiln_train::optim::Optimizer;
use kiln_train::params::take_gradients;
use kiln_train::{Batch, OptimizerConfig, Pictures, System};

pub use crate::testing::{Fixtures, close};

pub fn device() -> Device {
    Device::flex()
}

/// A system of grey pictures of this shape, in ten classes.
pub fn system<S: System>(config: S::Config, shape: [usize; 3]) -> S {
    S::new(config, &Pictures::new(shape, (0..10).map(|c| c.to_string()).collect())).unwrap()
}

/// Keyed pictures of pixels −1 and 1.
pub fn sharp(shape: [usize; 4]) -> Vec<f32> {
    let values = Key::new(5).uniform(0..shape[0] as u64, shape[1..].iter().product());
    values.into_iter().map(|u| if u < 0.4 { -1.0 } else { 1.0 }).collect()
}

/// Keyed pictures of pixels −0.8 and 0.6.
pub fn pictures(shape: [usize; 4]) -> Vec<f32> {
    sharp(shape).into_iter().map(|v| v * 0.7 - 0.1).collect()
}

/// Sharp pictures, labelled in turn, on the tape.
pub fn batch(shape: [usize; 4], start: u64) -> Batch {
    let n = shape[0];
    let part = Part {
        shape,
        values: sharp(shape),
        labels: Some((0..n as u32).map(|i| i % 10).collect()),
        captions: vec![None; n],
        indices: (0..n).collect(),
        ..Part::default()
    };
    Batch::new(HostBatch { start, parts: vec![part] }, 10_000, Key::new(0), &device().autodiff())
}

/// A reported term of the loss before and after `steps` steps of Adam at `rate` on one batch of eight 8×8 pictures.
pub fn overfit<S: System>(config: S::Config, term: &str, rate: f64, steps: usize) -> (f32, f32) {
    let shape = [8, 1, 8, 8];
    let mut system = system::<S>(config, [1, 8, 8]);
    let mut networks = system.networks(&mut Init::new(&device().autodiff(), 0));
    let mut optimizer = Optimizer::new(OptimizerConfig::adam(rate));
    let mut values = Vec::new();
    for step in 0..steps {
        let phase = system.phases().remove(0);
        let loss = (phase.loss)(&mut system, &networks, &batch(shape, 8 * step as u64)).unwrap().unwrap();
        let found = loss.terms.iter().find(|(name, _)| *name == term).unwrap();
        values.push(found.1.clone().into_scalar::<f32>());
        let gradients = take_gradients(&networks, &mut loss.total.backward());
        networks = optimizer.step(networks, gradients, 1.0, 1.0);
    }
    (values[0], values[steps - 1])
}

/// −log N(x; b, WWᵀ + σ²I) by elimination: the exact answer for a linear decoder.
pub fn exact_nll(weight: &[f32], bias: &[f32], sigma: f64, x: &[f32]) -> f64 {
    let (n, d) = (bias.len(), weight.len() / bias.len());
    let w = |i: usize, k: usize| f64::from(weight[i * d + k]);
    let mut a: Vec<Vec<f64>> = (0..n)
        .map(|i| {
            let entry =
                |j: usize| (0..d).map(|k| w(i, k) * w(j, k)).sum::<f64>() + if i == j { sigma * sigma } else { 0.0 };
            (0..n).map(entry).chain([f64::from(x[i] - bias[i])]).collect()
        })
        .collect();
    let (mut log_det, mut square) = (0.0, 0.0);
    for p in 0..n {
        // With a positive pivot, the reduced right-hand side squared over it sums to rᵀA⁻¹r.
        log_det += a[p][p].ln();
        square += a[p][n] * a[p][n] / a[p][p];
        for i in p + 1..n {
            let factor = a[i][p] / a[p][p];
            let pivot = a[p].clone();
            a[i].iter_mut().zip(&pivot).for_each(|(v, p)| *v -= factor * p);
        }
    }
    0.5 * (n as f64 * (2.0 * std::f64::consts::PI).ln() + log_det + square)
}
