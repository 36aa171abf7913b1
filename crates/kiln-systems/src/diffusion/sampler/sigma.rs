//! Euler's and Heun's methods for dy/dσ = (y − x̂₀)/σ, where y = x/α and σ is the [`Level::ratio`]
//! (Karras 2022, equation 3 and algorithms 1 and 2; `EulerDiscrete`, `EulerAncestralDiscrete` and `HeunDiscrete` of
//! diffusers; `sample_euler` and `sample_heun` of k-diffusion).
//!
//! With r = σ′/σ, Euler's y + (σ′ − σ)(y − x̂₀)/σ is r·y + (1 − r)·x̂₀, which is how it is written here: σ may begin at
//! some ten thousands, and the first form would lose the picture in its difference.

use burn::tensor::Tensor;
use kiln_core::Result;

use super::{Denoiser, Noise};
use crate::diffusion::schedule::Level;

/// The noise that EDM's stochastic sampler adds before a step, to correct errors of those before (Karras 2022,
/// algorithm 2): from σ up to σ̂ = (1 + γ)σ, γ = min(S_churn / steps, √2 − 1) within \[S_tmin, S_tmax\].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Churn {
    /// S_churn; 0 adds none.
    pub s_churn: f64,
    /// S_tmin.
    pub s_tmin: f64,
    /// S_tmax.
    pub s_tmax: f64,
    /// S_noise, the deviation of the noise added.
    pub s_noise: f64,
}

impl Churn {
    /// None.
    pub const NONE: Self = Self { s_churn: 0.0, s_tmin: 0.0, s_tmax: f64::INFINITY, s_noise: 1.0 };

    /// σ̂ of each step along `levels`, as levels; empty where nothing is added.
    pub fn raised(&self, levels: &[Level], at_ratio: impl Fn(f64) -> Level) -> Vec<Level> {
        if self.s_churn == 0.0 {
            return Vec::new();
        }
        let steps = levels.len().saturating_sub(1);
        let gamma = (self.s_churn / steps as f64).min(std::f64::consts::SQRT_2 - 1.0);
        let raise = |level: &Level| match (self.s_tmin..=self.s_tmax).contains(&level.ratio()) {
            true => at_ratio(level.ratio() * (1.0 + gamma)),
            false => *level,
        };
        levels[..steps].iter().map(raise).collect()
    }
}

/// The steps of a walk: from each level, raised first where there is churn, to the next.
#[derive(Clone, Copy, Debug)]
pub struct Walk<'a> {
    /// From the noisiest to the end.
    pub levels: &'a [Level],
    /// Those of [`Churn::raised`].
    pub raised: &'a [Level],
    /// S_noise.
    pub s_noise: f64,
}

impl<'a> Walk<'a> {
    /// Without churn.
    pub fn plain(levels: &'a [Level]) -> Self {
        Self { levels, raised: &[], s_noise: 1.0 }
    }

    /// Calls `step` with x at each level it steps from, and the two levels.
    fn each(
        &self,
        mut xt: Tensor<4>,
        noise: &Noise<'_>,
        step: impl Fn(Tensor<4>, Level, Level) -> Result<Tensor<4>>,
    ) -> Result<Tensor<4>> {
        for (i, pair) in self.levels.windows(2).enumerate() {
            let (mut from, to) = (pair[0], pair[1]);
            if let Some(raised) = self.raised.get(i).filter(|raised| raised.ratio() > from.ratio()) {
                // y + √(σ̂² − σ²) S_noise ε.
                let added = (raised.ratio().powi(2) - from.ratio().powi(2)).sqrt() * self.s_noise;
                xt = xt * (raised.signal / from.signal) + noise(i as u64) * (added * raised.signal);
                from = *raised;
            }
            xt = step(xt, from, to)?;
        }
        Ok(xt)
    }
}

/// Euler's step to σ/α = `ratio`, in the scale of the level `to`.
fn step(xt: Tensor<4>, x0: Tensor<4>, from: Level, to: Level, ratio: f64) -> Tensor<4> {
    let r = ratio / from.ratio();
    xt * (r * to.signal / from.signal) + x0 * ((1.0 - r) * to.signal)
}

/// Euler's method: DDIM with η = 0, in other words.
///
/// # Errors
/// If the denoiser fails; likewise below.
pub fn euler(xt: Tensor<4>, walk: Walk<'_>, denoise: &Denoiser<'_>, noise: &Noise<'_>) -> Result<Tensor<4>> {
    walk.each(xt, noise, |xt, from, to| {
        let x0 = denoise(xt.clone(), from)?.x0;
        Ok(step(xt, x0, from, to, to.ratio()))
    })
}

/// Euler to below the next level, then noise up to it: σ_up² = σ′²(σ² − σ′²)/σ², σ_down² = σ′² − σ_up².
///
/// # Errors
/// As above.
pub fn euler_ancestral(
    mut xt: Tensor<4>,
    levels: &[Level],
    denoise: &Denoiser<'_>,
    noise: &Noise<'_>,
) -> Result<Tensor<4>> {
    for (i, pair) in levels.windows(2).enumerate() {
        let (from, to) = (pair[0], pair[1]);
        let (s, next) = (from.ratio(), to.ratio());
        let up = (next * next * (s * s - next * next) / (s * s)).sqrt();
        let down = (next * next - up * up).max(0.0).sqrt();
        let x0 = denoise(xt.clone(), from)?.x0;
        xt = step(xt, x0, from, to, down);
        if up > 0.0 {
            xt = xt + noise(i as u64) * (up * to.signal);
        }
    }
    Ok(xt)
}

/// Heun's method: the slope averaged over both ends of a step, but for a step to the picture.
///
/// # Errors
/// As above.
pub fn heun(xt: Tensor<4>, walk: Walk<'_>, denoise: &Denoiser<'_>, noise: &Noise<'_>) -> Result<Tensor<4>> {
    walk.each(xt, noise, |xt, from, to| {
        let x0 = denoise(xt.clone(), from)?.x0;
        let guess = step(xt.clone(), x0.clone(), from, to, to.ratio());
        if to.sigma == 0.0 {
            return Ok(guess);
        }
        let there = denoise(guess, to)?.x0;
        // y + ½(σ′ − σ)((y − x̂₀)/σ + (y′ − x̂₀′)/σ′), with y′ put in.
        let r = to.ratio() / from.ratio();
        Ok(xt * (to.sigma / from.sigma) + (x0 * (2.0 * r - 1.0) + there) * (0.5 * (1.0 - r) / r * to.signal))
    })
}

/// Heun's method for dx/dτ = u = ε̂ − x̂₀ on the straight way α = 1 − τ, σ = τ (`FlowMatchHeunDiscrete` of diffusers): the velocity
/// averaged over both ends of a step, but for a step to the picture. Euler's there is [`euler`].
///
/// # Errors
/// As above.
pub fn heun_straight(mut xt: Tensor<4>, levels: &[Level], denoise: &Denoiser<'_>) -> Result<Tensor<4>> {
    // x = (α + σ) x₀ + σ u.
    let velocity = |xt: Tensor<4>, at: Level| -> Result<Tensor<4>> {
        let x0 = denoise(xt.clone(), at)?.x0;
        Ok((xt - x0 * (at.signal + at.sigma)) / at.sigma)
    };
    for pair in levels.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let step = to.sigma - from.sigma;
        let here = velocity(xt.clone(), from)?;
        let guess = xt.clone() + here.clone() * step;
        xt = match to.sigma == 0.0 {
            true => guess,
            false => xt + (here + velocity(guess, to)?) * (0.5 * step),
        };
    }
    Ok(xt)
}
