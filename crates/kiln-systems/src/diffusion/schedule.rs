//! Noise schedules: how much of the picture is left after t steps.

use serde::{Deserialize, Serialize};

/// The shape of β.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BetaSchedule {
    /// β rises linearly from 10⁻⁴ to 0.02 at T = 1000 (Ho 2020, §4), scaled by 1000/T otherwise.
    #[default]
    Linear,
    /// ᾱ falls as a squared cosine (Nichol & Dhariwal 2021, equation 17).
    Cosine,
}

/// A discrete schedule of T steps. `t` counts from 0, so `t` here is t + 1 in the papers.
#[derive(Clone, Debug)]
pub struct NoiseSchedule {
    /// βₜ, the variance added at step t.
    pub betas: Vec<f64>,
    /// ᾱₜ = Π (1 − βₛ), the share of the picture's variance left.
    pub alphas_cumprod: Vec<f64>,
}

impl NoiseSchedule {
    /// A schedule of `steps` ≥ 1 steps.
    pub fn new(kind: BetaSchedule, steps: usize) -> Self {
        let n = steps as f64;
        let betas: Vec<f64> = match kind {
            BetaSchedule::Linear => {
                let scale = 1000.0 / n;
                let (first, last) = (scale * 1e-4, scale * 0.02);
                let at = |i: usize| first + (last - first) * i as f64 / (n - 1.0).max(1.0);
                (0..steps).map(|i| at(i).min(0.999)).collect()
            }
            BetaSchedule::Cosine => {
                let bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
                (0..steps).map(|i| (1.0 - bar((i as f64 + 1.0) / n) / bar(i as f64 / n)).min(0.999)).collect()
            }
        };
        let alphas_cumprod = betas
            .iter()
            .scan(1.0, |product, beta| {
                *product *= 1.0 - beta;
                Some(*product)
            })
            .collect();
        Self { betas, alphas_cumprod }
    }

    /// T.
    pub fn steps(&self) -> usize {
        self.betas.len()
    }

    /// ᾱₜ, with ᾱ = 1 before the first step (`None`).
    pub fn alpha_bar(&self, t: Option<usize>) -> f64 {
        t.map_or(1.0, |t| self.alphas_cumprod[t])
    }
}
