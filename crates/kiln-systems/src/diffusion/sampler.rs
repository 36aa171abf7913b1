//! Samplers: short functions that walk a noisy picture to a clean one over a denoiser.
//!
//! | paper | here |
//! |---|---|
//! | xₜ | `xt` |
//! | x̂₀ | `x0` |
//! | ᾱₜ, ᾱ of the step before | `alpha_bar`, `previous` |
//! | β̃ₜ (DDPM equation 7), σₜ (DDIM equation 16) | `variance`, `sigma` |

use std::str::FromStr;

use burn::tensor::Tensor;
use kiln_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::parameterisation::to_epsilon;
use super::schedule::NoiseSchedule;

/// What the network says of xₜ.
#[derive(Clone, Debug)]
pub struct Denoised {
    /// x̂₀.
    pub x0: Tensor<4>,
    /// Where log σ² lies between log β̃ (−1) and log β (1), if the network learned it.
    pub variance: Option<Tensor<4>>,
}

/// Asks the network about xₜ at t.
pub type Denoiser<'a> = dyn Fn(Tensor<4>, usize) -> Denoised + 'a;

/// Which variance the ancestral step adds (Ho 2020, §3.2; Nichol & Dhariwal 2021, §3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variance {
    /// σ² = β̃, right for a single picture (`fixed_small`).
    Small,
    /// σ² = β, right for Gaussian data (`fixed_large`).
    #[default]
    Large,
    /// Between them, where the network says for each pixel (`learned_range`).
    Learned,
}

impl Variance {
    /// log σ² of a step whose β̃ and β are given, to broadcast over pictures: exp(v log β + (1 − v) log β̃)
    /// with v from 0 to 1 (Nichol & Dhariwal 2021, equation 15).
    pub fn log(self, beta_tilde: Tensor<4>, beta: Tensor<4>, learned: Option<Tensor<4>>) -> Tensor<4> {
        match (self, learned) {
            (Self::Learned, Some(fraction)) => {
                let v = (fraction + 1.0) * 0.5;
                beta.log() * v.clone() + beta_tilde.log() * (-v + 1.0)
            }
            (Self::Small, _) => beta_tilde.log(),
            _ => beta.log(),
        }
    }
}

/// One ancestral step (DDPM algorithm 2, line 4): the mean of q(xₜ₋₁ | xₜ, x̂₀), equation 7, plus
/// noise unless it is the last step. `before` is the time stepped to, `None` for the picture.
pub fn ddpm_step(
    schedule: &NoiseSchedule,
    denoised: Denoised,
    xt: Tensor<4>,
    (t, before): (usize, Option<usize>),
    variance: Variance,
    noise: impl FnOnce() -> Tensor<4>,
) -> Tensor<4> {
    let posterior = schedule.posterior(t, before);
    let device = xt.device();
    let mean = denoised.x0 * posterior.x0 + xt * posterior.xt;
    if before.is_none() {
        return mean;
    }
    let all = |value: f64| Tensor::full([1, 1, 1, 1], value, &device);
    // Never 0 by rounding: diffusers clamps likewise.
    let log = variance.log(all(posterior.beta_tilde.max(1e-20)), all(posterior.beta), denoised.variance);
    mean + noise() * (log * 0.5).exp()
}

/// One DDIM step (Song 2021, equation 12) with σ = η·√β̃ (equation 16).
pub fn ddim_step(
    schedule: &NoiseSchedule,
    x0: Tensor<4>,
    xt: Tensor<4>,
    (t, before): (usize, Option<usize>),
    eta: f64,
    noise: impl FnOnce() -> Tensor<4>,
) -> Tensor<4> {
    let (alpha_bar, previous) = (schedule.alpha_bar(Some(t)), schedule.alpha_bar(before));
    let variance = (1.0 - previous) / (1.0 - alpha_bar) * (1.0 - alpha_bar / previous);
    let sigma = eta * variance.max(0.0).sqrt();
    let epsilon = to_epsilon(x0.clone(), xt, alpha_bar);
    let mean = x0 * previous.sqrt() + epsilon * (1.0 - previous - sigma * sigma).max(0.0).sqrt();
    if sigma == 0.0 { mean } else { mean + noise() * sigma }
}

/// Which of the T times a shorter walk visits (`timestep_spacing` of diffusers; Lin 2024, table 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spacing {
    /// i·⌊T / steps⌋: ends at 0 and starts below T − 1, as DDIM's code.
    #[default]
    Leading,
    /// T − 1 downward by T / steps: starts at the end of the schedule.
    Trailing,
    /// Evenly from T − 1 to 0.
    Linspace,
    /// (i·√(0.8 T) / (steps − 1))²: dense near the picture (DDIM, appendix D.2).
    Quadratic,
}

impl FromStr for Spacing {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "leading" => Self::Leading,
            "trailing" => Self::Trailing,
            "linspace" => Self::Linspace,
            "quadratic" => Self::Quadratic,
            _ => {
                return Err(Error::usage(format!(
                    "--timestep-spacing {name}: there are leading, trailing, linspace and quadratic"
                )));
            }
        })
    }
}

/// `steps` of the schedule's T times, descending, each once: fewer where the quadratic spacing would
/// visit a time near 0 again.
///
/// # Errors
/// If `steps` is 0 or more than T.
pub fn timesteps(schedule: &NoiseSchedule, steps: usize, spacing: Spacing) -> Result<Vec<usize>> {
    let total = schedule.steps();
    if steps == 0 || steps > total {
        return Err(Error::usage(format!("--steps {steps}: this model has 1 to {total} denoising steps")));
    }
    let (last, step) = ((steps - 1).max(1) as f64, total as f64 / steps as f64);
    let time = |i: usize| match spacing {
        Spacing::Leading => i * (total / steps),
        // Halves to even, as numpy rounds.
        Spacing::Trailing => (total as f64 - (steps - 1 - i) as f64 * step).round_ties_even() as usize - 1,
        Spacing::Linspace => (i as f64 * (total - 1) as f64 / last).round_ties_even() as usize,
        Spacing::Quadratic => (i as f64 * (0.8 * total as f64).sqrt() / last).powi(2) as usize,
    };
    let mut times: Vec<usize> = (0..steps).rev().map(time).collect();
    times.dedup();
    Ok(times)
}

/// Walks `xt` along descending `times`, taking `step` with (what the network says, xₜ, (t, before)).
pub fn walk(
    mut xt: Tensor<4>,
    times: &[usize],
    denoiser: &Denoiser<'_>,
    step: impl Fn(Denoised, Tensor<4>, (usize, Option<usize>)) -> Tensor<4>,
) -> Tensor<4> {
    for (i, &t) in times.iter().enumerate() {
        let denoised = denoiser(xt.clone(), t);
        xt = step(denoised, xt, (t, times.get(i + 1).copied()));
    }
    xt
}

/// DDIM run backwards: encodes a picture as the noise that `eta` = 0 sampling decodes
/// (Song 2021, §4.3). `times` descend, as for [`walk`].
pub fn ddim_invert(
    schedule: &NoiseSchedule,
    picture: Tensor<4>,
    times: &[usize],
    denoiser: &Denoiser<'_>,
) -> Tensor<4> {
    let mut xt = picture;
    let mut from = None;
    for &to in times.iter().rev() {
        // The network is asked at the time stepped from; at the picture itself, at the first time.
        let t = from.unwrap_or(to);
        let x0 = denoiser(xt.clone(), t).x0;
        let epsilon = to_epsilon(x0.clone(), xt, schedule.alpha_bar(Some(t)));
        let next = schedule.alpha_bar(Some(to));
        xt = x0 * next.sqrt() + epsilon * (1.0 - next).sqrt();
        from = Some(to);
    }
    xt
}
