//! Updates of parameters: one pass over memory each, in place where nobody else holds the tensor.

use crate::{
    isa::{Isa, mul_add, vectorised},
    lanes,
};
use rayon::prelude::*;

/// Elements a task updates: a tensor of fewer is updated by one thread.
const CHUNK: usize = 1 << 15;

/// The constants of one step of Adam (Kingma and Ba 2015, algorithm 1) or AdamW (Loshchilov and
/// Hutter 2019), in PyTorch's order of operations:
///
/// `g' = scale g + decay p`, `m = beta1 m + (1 - beta1) g'`, `v = beta2 v + (1 - beta2) g'^2`,
/// `p = shrink p - rate m / (sqrt(v) / correction + eps)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// What gradients are multiplied with: below 1 where their norm is clipped.
    pub scale: f64,
    /// Weight decay that is part of the gradient.
    pub decay: f64,
    /// Weight decay that is not: 1 minus it times the learning rate.
    pub shrink: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// The learning rate over `1 - beta1^t`.
    pub rate: f64,
    /// `sqrt(1 - beta2^t)`.
    pub correction: f64,
    /// Added to the denominator.
    pub eps: f64,
}

/// Parameters, first and second moments after a step.
pub(crate) fn adam(isa: Isa, step: AdamStep, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
    if p.len() <= CHUNK {
        return adam_chunk(isa, step, p, g, m, v);
    }
    let moments = m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK));
    p.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).zip(moments).for_each(|((p, g), (m, v))| {
        adam_chunk(isa, step, p, g, m, v);
    });
}

vectorised! {
    fn adam_chunk(step: AdamStep, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        let [scale, decay, shrink, rate, eps] =
            [step.scale, step.decay, step.shrink, step.rate, step.eps].map(|x| x as f32);
        let (beta1, rest1) = (step.beta1 as f32, (1.0 - step.beta1) as f32);
        let (beta2, rest2) = (step.beta2 as f32, (1.0 - step.beta2) as f32);
        let correction = step.correction as f32;
        for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            let g = mul_add::<FMA>(decay, *p, scale * g);
            *m = mul_add::<FMA>(beta1, *m, rest1 * g);
            *v = mul_add::<FMA>(beta2, *v, rest2 * g * g);
            let denominator = v.sqrt() / correction + eps;
            *p = mul_add::<FMA>(shrink, *p, -rate * *m / denominator);
        }
    }
}

/// `x = x + weight (y - x)`, as `(1 - weight) x + weight y`.
pub(crate) fn lerp(isa: Isa, x: &mut [f32], y: &[f32], weight: f64) {
    if x.len() <= CHUNK {
        return lerp_chunk(isa, x, y, weight);
    }
    x.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).for_each(|(x, y)| lerp_chunk(isa, x, y, weight));
}

vectorised! {
    fn lerp_chunk(x: &mut [f32], y: &[f32], weight: f64) {
        let (kept, taken) = ((1.0 - weight) as f32, weight as f32);
        for (x, y) in x.iter_mut().zip(y) {
            *x = mul_add::<FMA>(kept, *x, taken * y);
        }
    }
}

/// Sum of squares. The parts are summed in order, so the result does not depend on scheduling.
pub(crate) fn sum_of_squares(isa: Isa, x: &[f32]) -> f64 {
    let part = |x: &[f32]| lanes::inner_product(isa, x, x.len(), x, x.len(), 1);
    if x.len() <= CHUNK {
        return part(x);
    }
    let parts: Vec<f64> = x.par_chunks(CHUNK).map(part).collect();
    parts.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, salt: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + salt) as f32 * 0.37).sin()).collect()
    }

    #[test]
    fn every_instruction_set_matches_the_definition() {
        let step = AdamStep {
            scale: 0.7,
            decay: 0.01,
            shrink: 0.99,
            beta1: 0.9,
            beta2: 0.999,
            rate: 0.02,
            correction: 0.3,
            eps: 1e-8,
        };
        for len in [1, 37, CHUNK, 2 * CHUNK + 5] {
            let (p, g, m) = (noise(len, 1), noise(len, 2), noise(len, 3));
            let v: Vec<f32> = noise(len, 4).into_iter().map(f32::abs).collect();
            for isa in Isa::all() {
                let (mut q, mut n, mut w) = (p.clone(), m.clone(), v.clone());
                adam(isa, step, &mut q, &g, &mut n, &mut w);
                let (mut x, mut squares) = (p.clone(), 0.0);
                lerp(isa, &mut x, &g, 0.3);
                for i in 0..len {
                    let [p, g, m, v] = [p[i], g[i], m[i], v[i]].map(f64::from);
                    squares += g * g;
                    assert!((f64::from(x[i]) - (0.7 * p + 0.3 * g)).abs() < 1e-6);
                    let g = 0.7 * g + 0.01 * p;
                    let (m, v) = (0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g);
                    let p = 0.99 * p - 0.02 * m / (v.sqrt() / 0.3 + 1e-8);
                    for (got, want) in [(q[i], p), (n[i], m), (w[i], v)] {
                        assert!((f64::from(got) - want).abs() < 2e-6 * (1.0 + want.abs()), "{isa:?} {len} {i}");
                    }
                }
                let got = sum_of_squares(isa, &g);
                assert!((got - squares).abs() < 1e-5 * squares, "{isa:?} {len}: {got} {squares}");
            }
        }
    }
}
