//! DPM-Solver++ (Lu 2022b): exponential integrators over λ = ln α/σ that reuse the predictions of earlier steps
//! (`DPMSolverMultistepScheduler` of diffusers, `dpmsolver++` and `sde-dpmsolver++`).

use burn::tensor::Tensor;
use kiln_core::Result;
use serde::Deserialize;

use super::{Denoiser, Noise};
use crate::diffusion::schedule::Level;

/// How the second order weighs the change between predictions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// As at the middle of the step.
    #[default]
    Midpoint,
    /// As if it were linear over the step.
    Heun,
}

/// DPM-Solver++ with its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DpmSolver {
    /// 1, 2 (2M) or 3.
    pub order: usize,
    /// Of the second order.
    pub kind: Kind,
    /// Solve the reverse stochastic equation instead, with fresh noise each step.
    pub stochastic: bool,
}

/// Walks of fewer steps lower their order over the last ones (`lower_order_final` of diffusers).
const FEW: usize = 15;

impl DpmSolver {
    /// Walks `xt` down the `levels`.
    ///
    /// # Errors
    /// If the denoiser fails.
    pub fn run(
        &self,
        mut xt: Tensor<4>,
        levels: &[Level],
        denoise: &Denoiser<'_>,
        noise: &Noise<'_>,
    ) -> Result<Tensor<4>> {
        let steps = levels.len().saturating_sub(1);
        let mut earlier: Vec<Tensor<4>> = Vec::new();
        for (i, pair) in levels.windows(2).enumerate() {
            let (from, to) = (pair[0], pair[1]);
            earlier.insert(0, denoise(xt.clone(), from)?.x0);
            earlier.truncate(3);
            let few = steps < FEW;
            let order = match steps - i {
                1 if few || to.sigma == 0.0 => 1,
                2 if few => 2,
                _ => 3,
            };
            let order = order.min(self.order).min(i + 1);
            xt = self.step(order, &levels[..=i], to, xt, &earlier);
            if self.stochastic && to.sigma > 0.0 {
                let h = to.lambda() - from.lambda();
                xt = xt + noise(i as u64) * (to.sigma * (1.0 - (-2.0 * h).exp()).sqrt());
            }
        }
        Ok(xt)
    }

    /// One step `to` a level, without its noise. `passed` are the levels so far, the one stepped from last;
    /// `m` the predictions there, the newest first.
    fn step(&self, order: usize, passed: &[Level], to: Level, xt: Tensor<4>, m: &[Tensor<4>]) -> Tensor<4> {
        let back = |k: usize| passed[passed.len() - 1 - k];
        let from = back(0);
        let h = to.lambda() - from.lambda();
        // Over a stochastic step the prediction counts twice, and x fades so much faster.
        let (scale, factor) =
            if self.stochastic { (to.sigma / from.sigma * (-h).exp(), 2.0) } else { (to.sigma / from.sigma, 1.0) };
        let decay = (-factor * h).exp();
        let x = xt * scale + m[0].clone() * (to.signal * (1.0 - decay));
        if order == 1 {
            return x;
        }
        // ∫ of a linear and of a quadratic change of the prediction over the step.
        let first = to.signal * ((decay - 1.0) / (factor * h) + 1.0);
        let r0 = (from.lambda() - back(1).lambda()) / h;
        let d1 = (m[0].clone() - m[1].clone()) / r0;
        if order == 2 {
            return match self.kind {
                Kind::Midpoint => x + d1 * (0.5 * to.signal * (1.0 - decay)),
                Kind::Heun => x + d1 * first,
            };
        }
        let r1 = (back(1).lambda() - back(2).lambda()) / h;
        let d1_before = (m[1].clone() - m[2].clone()) / r1;
        let change = d1.clone() - d1_before;
        let d1 = d1 + change.clone() * (r0 / (r0 + r1));
        let d2 = change / (r0 + r1);
        let hh = factor * h;
        let second = to.signal * ((1.0 - decay - hh) / (hh * hh) + 0.5);
        x + d1 * first + d2 * second
    }
}
