//! Samplers: short functions that walk a noisy picture to a clean one over a denoiser.
//!
//! | paper | here |
//! |---|---|
//! | xₜ | `xt` |
//! | x̂₀ | `x0` |
//! | ᾱₜ, ᾱ of the step before | `alpha_bar`, `previous` |
//! | β̃ₜ (DDPM equation 7), σₜ (DDIM equation 16) | `variance`, `sigma` |

use burn::tensor::Tensor;
use kiln_core::{Error, Result};

use super::parameterisation::to_epsilon;
use super::schedule::NoiseSchedule;

/// Predicts x₀ from xₜ and t.
pub type Denoiser<'a> = dyn Fn(Tensor<4>, usize) -> Tensor<4> + 'a;

/// Standard normal noise of the picture's shape for the step at t.
pub type NoiseSource<'a> = dyn Fn(usize) -> Tensor<4> + 'a;

/// Which variance the ancestral step adds (Ho 2020, §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variance {
    /// σ² = β̃, right for a single picture (`fixed_small`).
    Small,
    /// σ² = β, right for Gaussian data (`fixed_large`).
    Large,
}

/// One ancestral step (DDPM algorithm 2, line 4): the mean of q(xₜ₋₁ | xₜ, x̂₀), equation 7, plus
/// noise unless it is the last step. `before` is the time stepped to, `None` for the picture.
pub fn ddpm_step(
    schedule: &NoiseSchedule,
    x0: Tensor<4>,
    xt: Tensor<4>,
    (t, before): (usize, Option<usize>),
    variance: Variance,
    noise: impl FnOnce() -> Tensor<4>,
) -> Tensor<4> {
    let (alpha_bar, previous) = (schedule.alpha_bar(Some(t)), schedule.alpha_bar(before));
    let alpha = alpha_bar / previous;
    let beta = 1.0 - alpha;
    let mean =
        x0 * (previous.sqrt() * beta / (1.0 - alpha_bar)) + xt * (alpha.sqrt() * (1.0 - previous) / (1.0 - alpha_bar));
    if before.is_none() {
        return mean;
    }
    let variance = match variance {
        // Never 0 by rounding: diffusers clamps likewise.
        Variance::Small => (beta * (1.0 - previous) / (1.0 - alpha_bar)).max(1e-20),
        Variance::Large => beta,
    };
    mean + noise() * variance.sqrt()
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

/// `steps` of the schedule's T times, descending, evenly spaced and ending at 0 (the "leading"
/// spacing of DDIM's code): i·⌊T / steps⌋.
///
/// # Errors
/// If `steps` is 0 or more than T.
pub fn timesteps(schedule: &NoiseSchedule, steps: usize) -> Result<Vec<usize>> {
    let total = schedule.steps();
    if steps == 0 || steps > total {
        return Err(Error::usage(format!("--steps {steps}: this model has 1 to {total} denoising steps")));
    }
    Ok((0..steps).rev().map(|i| i * (total / steps)).collect())
}

/// Walks `xt` along descending `times`, taking `step` with (x̂₀, xₜ, (t, before)).
pub fn walk(
    mut xt: Tensor<4>,
    times: &[usize],
    denoiser: &Denoiser<'_>,
    step: impl Fn(Tensor<4>, Tensor<4>, (usize, Option<usize>)) -> Tensor<4>,
) -> Tensor<4> {
    for (i, &t) in times.iter().enumerate() {
        let x0 = denoiser(xt.clone(), t);
        xt = step(x0, xt, (t, times.get(i + 1).copied()));
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
        let x0 = denoiser(xt.clone(), t);
        let epsilon = to_epsilon(x0.clone(), xt, schedule.alpha_bar(Some(t)));
        let next = schedule.alpha_bar(Some(to));
        xt = x0 * next.sqrt() + epsilon * (1.0 - next).sqrt();
        from = Some(to);
    }
    xt
}
