//! What the tests of domain adaptation share: two small domains, and a fit of one batch.

use burn::tensor::Device;
use kiln_core::random::Key;
use kiln_data::{HostBatch, Part};
use kiln_train::{Batch, Pictures, System};

use super::networks::NetworkConfig;
pub use crate::testing::{Terms, term};

/// A classifier small enough for a test.
pub fn tiny_network() -> NetworkConfig {
    NetworkConfig {
        channels: vec![4, 8],
        label_hidden: vec![16, 16],
        domain_hidden: vec![16],
        mean: 0.0,
        ..NetworkConfig::default()
    }
}

/// Grey pictures of two classes.
pub fn pictures(side: usize) -> Pictures {
    Pictures::new([1, side, side], vec!["bright".into(), "dark".into()])
}

/// Bright and dark pictures; the target's are darker, and turned around, so that its labels differ.
pub fn batch(step: u64, labels: bool, device: &Device) -> Batch {
    of_domains(step, &[(1.0, true), (-1.0, labels)], device)
}

/// The same, with the labels of the target beside it, as `data.labels` brings them.
pub fn batch_with_known(step: u64, device: &Device) -> Batch {
    of_domains(step, &[(1.0, true), (-1.0, false), (-1.0, true)], device)
}

fn of_domains(step: u64, domains: &[(f32, bool)], device: &Device) -> Batch {
    let shape = [8, 1, 16, 16];
    let part = |&(sign, labels): &(f32, bool)| {
        let noise = Key::new(3).uniform(0..8, 256);
        let shade = |i: usize| if (i / 256).is_multiple_of(2) { sign } else { -sign };
        let values =
            noise.iter().enumerate().map(|(i, v)| 0.5 * shade(i) + 0.5 * (v - 0.5) + 0.3 * (sign - 1.0)).collect();
        let labels = labels.then(|| (0..8).map(|i| i % 2).collect());
        Part { shape, values, labels, captions: vec![None; 8], indices: (0..8).collect(), ..Part::default() }
    };
    let parts = domains.iter().map(part).collect();
    Batch::new(HostBatch { start: 8 * step, parts }, 1_000, Key::new(0), device)
}

/// The terms of all phases, step by step, of training on one batch.
pub fn fit<S: System>(system: S, labels: bool, steps: u64) -> Vec<Terms> {
    crate::testing::fit(system, 0, steps, |step, device| batch(step, labels, device)).0
}
