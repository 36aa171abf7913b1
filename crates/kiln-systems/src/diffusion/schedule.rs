//! Noise schedules: how much of the picture is left after t steps.

use burn::tensor::{Device, Tensor};
use kiln_nn::tensor::{from_values, per_sample};
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

    /// The level of each of a batch's times; of all pictures if there is one time.
    pub fn level(&self, t: &[usize], device: &Device) -> Level {
        let each = |f: fn(f64) -> f64| {
            let values = t.iter().map(|&t| f(self.alphas_cumprod[t]) as f32).collect();
            per_sample(from_values(values, [t.len()], device))
        };
        Level { signal: each(f64::sqrt), sigma: each(|a| (1.0 - a).sqrt()) }
    }

    /// q(x before | xₜ, x₀), from `t` to any earlier time or to the picture (`None`).
    pub fn posterior(&self, t: usize, before: Option<usize>) -> Posterior {
        let (alpha_bar, previous) = (self.alpha_bar(Some(t)), self.alpha_bar(before));
        let alpha = alpha_bar / previous;
        let beta = 1.0 - alpha;
        Posterior {
            x0: previous.sqrt() * beta / (1.0 - alpha_bar),
            xt: alpha.sqrt() * (1.0 - previous) / (1.0 - alpha_bar),
            beta,
            beta_tilde: beta * (1.0 - previous) / (1.0 - alpha_bar),
        }
    }
}

/// How much picture and how much noise there is at a time.
#[derive(Clone, Debug)]
pub struct Level {
    /// √ᾱ, `[n, 1, 1, 1]`.
    pub signal: Tensor<4>,
    /// √(1 − ᾱ), `[n, 1, 1, 1]`.
    pub sigma: Tensor<4>,
}

impl Level {
    /// xₜ = √ᾱ x₀ + √(1 − ᾱ) ε (Ho 2020, equation 4).
    pub fn noised(&self, x0: Tensor<4>, noise: Tensor<4>) -> Tensor<4> {
        x0 * self.signal.clone() + noise * self.sigma.clone()
    }
}

/// The Gaussian a step back draws from if x₀ is known: mean `x0`·x₀ + `xt`·xₜ and variance β̃
/// (Ho 2020, equations 6 and 7).
#[derive(Clone, Copy, Debug)]
pub struct Posterior {
    /// What x₀ is multiplied by in the mean.
    pub x0: f64,
    /// What xₜ is multiplied by in the mean.
    pub xt: f64,
    /// β, the variance the step forward adds.
    pub beta: f64,
    /// β̃; 0 for a step to the picture.
    pub beta_tilde: f64,
}
