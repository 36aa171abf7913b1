//! Activations that no normalisation comes before: alone, and of a sum.

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
            $crate::Activation::Sigmoid => {
                let $act = $crate::lanes::Sigmoid;
                $body
            }
            $crate::Activation::Silu => {
                let $act = $crate::lanes::Silu;
                $body
            }
            $crate::Activation::Gelu => {
                let $act = $crate::lanes::Gelu;
                $body
            }
            $crate::Activation::GeluTanh => {
                let $act = $crate::lanes::GeluTanh;
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

/// `a(x + y)`.
pub(crate) fn add(isa: Isa, activation: Activation, x: &[f32], y: &[f32]) -> Vec<f32> {
    chunks(x.len(), |range, z| {
        with_activation!(activation, act => lanes::add_activate(isa, act, &x[range.clone()], &y[range], z));
    })
}

/// `x = a(x + y)`.
pub(crate) fn add_to(isa: Isa, activation: Activation, x: &mut [f32], y: &[f32]) {
    let (len, out) = (x.len(), Output::new(x));
    tasks::each(len.div_ceil(CHUNK), len, |task| {
        let range = task * CHUNK..((task + 1) * CHUNK).min(len);
        // SAFETY: the ranges of tasks do not meet; all of `x` is initialised.
        let x = unsafe { out.slice(range.clone()).assume_init_mut() };
        with_activation!(activation, act => lanes::add_activate_to(isa, act, x, &y[range]));
    });
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const ALL: [Activation; 7] = [
        Activation::None,
        Activation::Relu,
        Activation::LeakyRelu(0.25),
        Activation::Sigmoid,
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
    ];

    /// `(a(z), a'(z))` by the definition.
    pub(crate) fn exact(activation: Activation, z: f64) -> (f64, f64) {
        let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
        match activation {
            Activation::None => (z, 1.0),
            Activation::Relu => (z.max(0.0), if z > 0.0 { 1.0 } else { 0.0 }),
            Activation::LeakyRelu(k) if z <= 0.0 => (f64::from(k) * z, f64::from(k)),
            Activation::LeakyRelu(_) => (z, 1.0),
            Activation::Sigmoid => (sigmoid(z), sigmoid(z) * (1.0 - sigmoid(z))),
            Activation::Silu => (z * sigmoid(z), sigmoid(z) * (1.0 + z * (1.0 - sigmoid(z)))),
            Activation::Gelu => {
                let density = (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt();
                (z * below(z), below(z) + z * density)
            }
            Activation::GeluTanh => {
                let root = (2.0 / std::f64::consts::PI).sqrt();
                let s = sigmoid(2.0 * root * (z + 0.044_715 * z.powi(3)));
                (z * s, s + z * s * (1.0 - s) * 2.0 * root * (1.0 + 3.0 * 0.044_715 * z * z))
            }
        }
    }

    /// The normal distribution function by Marsaglia's series (2004), in the tails by Laplace's
    /// continued fraction.
    fn below(z: f64) -> f64 {
        let density = (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt();
        if z > 3.0 {
            return 1.0 - below(-z);
        }
        if z < -3.0 {
            return density / (1..200).rev().fold(-z, |rest, k| -z + f64::from(k) / rest);
        }
        let terms = (1..100).scan(z, |term, k| {
            let now = *term;
            *term *= z * z / f64::from(2 * k + 1);
            Some(now)
        });
        0.5 + density * terms.sum::<f64>()
    }

    #[test]
    fn every_instruction_set_matches_the_definition() {
        let x: Vec<f32> = (0..CHUNK + 37).map(|i| ((i * 7919) as f32 * 0.37).sin() * 6.0).collect();
        let g: Vec<f32> = x.iter().rev().copied().collect();
        for isa in Isa::all() {
            for a in ALL {
                let (y, d) = (forward(isa, a, &x), backward(isa, a, &x, &g));
                let sum = add(isa, a, &x, &g);
                let mut sum_in_place = x.clone();
                add_to(isa, a, &mut sum_in_place, &g);
                assert_eq!(sum, sum_in_place, "{isa:?} {a:?}");
                for i in 0..x.len() {
                    let (value, slope) = exact(a, f64::from(x[i]));
                    assert!((f64::from(y[i]) - value).abs() < 2e-6, "{isa:?} {a:?} at {}", x[i]);
                    assert!((f64::from(d[i]) - f64::from(g[i]) * slope).abs() < 1e-5, "{isa:?} {a:?} at {}", x[i]);
                    let value = exact(a, f64::from(x[i] + g[i])).0;
                    assert!((f64::from(sum[i]) - value).abs() < 4e-6, "{isa:?} {a:?} at {} + {}", x[i], g[i]);
                }
            }
        }
    }

    #[test]
    fn gelu_keeps_its_digits() {
        let x: Vec<f32> = (-14_000..=14_000).map(|i| i as f32 / 1000.0).collect();
        let ones = vec![1.0; x.len()];
        for isa in Isa::all() {
            for a in [Activation::Gelu, Activation::GeluTanh] {
                let (y, d) = (forward(isa, a, &x), backward(isa, a, &x, &ones));
                for ((x, y), d) in x.iter().zip(y).zip(d) {
                    let (value, slope) = exact(a, f64::from(*x));
                    // Down to -6, where the value is -6e-9 (-4e-10 by tanh), and as nothing below.
                    let relative = if *x > -3.0 { 1e-6 } else { 4e-6 };
                    let tolerance = if *x > -6.0 { relative * value.abs() } else { 1e-8 };
                    assert!((f64::from(y) - value).abs() <= tolerance, "{isa:?} {a:?} at {x}: {y}, exactly {value}");
                    assert!((f64::from(d) - slope).abs() < 5e-7, "{isa:?} {a:?}' at {x}: {d}, exactly {slope}");
                }
            }
        }
        let isa = Isa::current();
        for a in [Activation::Gelu, Activation::GeluTanh] {
            let x = [f32::NAN, f32::INFINITY, 1e30, -1e30];
            let (y, d) = (forward(isa, a, &x), backward(isa, a, &x, &[1.0; 4]));
            assert!(y[0].is_nan() && d[0].is_nan(), "{a:?} of NaN");
            assert_eq!((y[1], y[2]), (f32::INFINITY, 1e30), "{a:?}");
            assert!(y[3].abs() < 1.0 && d[2] == 1.0 && d[3].abs() < 1e-3, "{a:?}: {y:?} {d:?}");
        }
    }
}
