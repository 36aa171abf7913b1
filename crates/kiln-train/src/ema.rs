//! The exponential moving average of a network's weights.

use burn::module::Module;
use kiln_kernels::lerp;
use serde::{Deserialize, Serialize};

use crate::params::{flat, map_flat};

/// What an average of networks takes of their buffers, the running statistics of batch normalisation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Buffers {
    /// Their average, as of weights.
    #[default]
    Average,
    /// Those of the live network.
    Copy,
}

/// Decay for one step of `batch` images, for a half-life in images. At the start the half-life is limited to
/// `ramp` times the images seen, so that the random initialisation is forgotten quickly (StyleGAN2-ADA's
/// `ema_rampup`).
pub fn decay(batch: u64, images: u64, half_life: f64, ramp: f64) -> f64 {
    let half_life = if ramp > 0.0 { half_life.min(images as f64 * ramp) } else { half_life };
    if half_life <= 0.0 { 0.0 } else { 0.5f64.powf(batch as f64 / half_life) }
}

/// ema ← decay·ema + (1 − decay)·live for parameters, and for buffers too unless they are copied; what is not `trained` is
/// shared.
pub fn update<M: Module>(average: M, live: &M, decay: f64, buffers: Buffers, trained: impl Fn(&str) -> bool) -> M {
    let mut live = flat(live);
    map_flat(average, |path, old| {
        let Some(new) = live.remove(path) else { return old };
        if !trained(path) {
            return new;
        }
        let statistic = path.ends_with("running_mean") || path.ends_with("running_var");
        // A copy of its own: the live value is changed in place by the next step.
        lerp(old, new, if statistic && buffers == Buffers::Copy { 1.0 } else { 1.0 - decay })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_half_life_is_a_half_life() {
        let steps = 1000 / 10;
        assert!((decay(10, 1_000_000, 1000.0, 0.05).powi(steps) - 0.5).abs() < 1e-9);
        assert_eq!(decay(10, 0, 1000.0, 0.05), 0.0);
    }
}
