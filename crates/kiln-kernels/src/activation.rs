//! Activations that no normalisation comes before.

use crate::{Activation, isa::Isa, lanes, output, output::Output, tasks};

/// Runs `$body` with `$act` bound to the type of an [`Activation`].
macro_rules! with_activation {
    ($activation:expr, $act:ident => $body:expr) => {
        match $activation {
            $crate::Activation::None => {
                let $act = $crate::lanes::Identity;
                $body
            }
            $crate::Activation::Relu => {
                let $act = $crate::lanes::Relu;
                $body
            }
            $crate::Activation::LeakyRelu(slope) => {
                let $act = $crate::lanes::Leaky(slope);
                $body
            }
            $crate::Activation::Silu => {
                let $act = $crate::lanes::Silu;
                $body
            }
        }
    };
}
pub(crate) use with_activation;

/// Elements of a task.
const CHUNK: usize = 1 << 14;

/// `a(x)`.
pub(crate) fn forward(isa: Isa, activation: Activation, x: &[f32]) -> Vec<f32> {
    chunks(x.len(), |range, y| with_activation!(activation, act => lanes::activate(isa, act, &x[range], y)))
}

/// `g a'(x)`.
pub(crate) fn backward(isa: Isa, activation: Activation, x: &[f32], g: &[f32]) -> Vec<f32> {
    chunks(x.len(), |range, y| {
        with_activation!(activation, act => lanes::slope_times(isa, act, &x[range.clone()], &g[range], y));
    })
}

/// A vector of which `fill` writes each range.
fn chunks(
    len: usize,
    fill: impl Fn(std::ops::Range<usize>, &mut [std::mem::MaybeUninit<f32>]) + Sync + Send,
) -> Vec<f32> {
    let all = |out: &Output<'_>| {
        tasks::each(len.div_ceil(CHUNK), len, |task| {
            let range = task * CHUNK..((task + 1) * CHUNK).min(len);
            // SAFETY: the ranges of tasks do not meet.
            fill(range.clone(), unsafe { out.slice(range) });
        });
    };
    // SAFETY: the ranges together are the whole vector, and `fill` writes all of each.
    unsafe { output::filled(len, all) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_matches_the_definition() {
        let x: Vec<f32> = (0..CHUNK + 37).map(|i| ((i * 7919) as f32 * 0.37).sin() * 6.0).collect();
        let g: Vec<f32> = x.iter().rev().copied().collect();
        let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
        type Pair = (Activation, fn(f64) -> f64);
        let slopes: [(Pair, &dyn Fn(f64) -> f64); 4] = [
            ((Activation::None, |z| z), &|_| 1.0),
            ((Activation::Relu, |z| z.max(0.0)), &|z| f64::from(z > 0.0)),
            ((Activation::LeakyRelu(0.25), |z| z.max(0.25 * z)), &|z| if z > 0.0 { 1.0 } else { 0.25 }),
            ((Activation::Silu, |z| z / (1.0 + (-z).exp())), &|z| sigmoid(z) * (1.0 + z * (1.0 - sigmoid(z)))),
        ];
        for isa in Isa::all() {
            for ((activation, value), slope) in slopes {
                let (y, d) = (forward(isa, activation, &x), backward(isa, activation, &x, &g));
                for i in 0..x.len() {
                    let (z, g) = (f64::from(x[i]), f64::from(g[i]));
                    assert!((f64::from(y[i]) - value(z)).abs() < 2e-6, "{isa:?} {activation:?} at {z}");
                    assert!((f64::from(d[i]) - g * slope(z)).abs() < 1e-5, "{isa:?} {activation:?} at {z}");
                }
            }
        }
    }
}
