//! Euler's and Heun's methods for dy/dσ = (y − x̂₀)/σ, where y = x/α and σ is the [`Level::ratio`]
//! (Karras 2022, equation 3 and algorithm 1; `EulerDiscrete`, `EulerAncestralDiscrete` and `HeunDiscrete` of diffusers).
//!
//! With r = σ′/σ, Euler's y + (σ′ − σ)(y − x̂₀)/σ is r·y + (1 − r)·x̂₀, which is how it is written here: σ may begin at
//! some ten thousands, and the first form would lose the picture in its difference.

use burn::tensor::Tensor;
use kiln_core::Result;

use super::{Denoiser, Noise};
use crate::diffusion::schedule::Level;

/// Euler's step to σ/α = `ratio`, in the scale of the level `to`.
fn step(xt: Tensor<4>, x0: Tensor<4>, from: Level, to: Level, ratio: f64) -> Tensor<4> {
    let r = ratio / from.ratio();
    xt * (r * to.signal / from.signal) + x0 * ((1.0 - r) * to.signal)
}

/// Euler's method: DDIM with η = 0, in other words.
///
/// # Errors
/// If the denoiser fails; likewise below.
pub fn euler(mut xt: Tensor<4>, levels: &[Level], denoise: &Denoiser<'_>) -> Result<Tensor<4>> {
    for pair in levels.windows(2) {
        let x0 = denoise(xt.clone(), pair[0])?.x0;
        xt = step(xt, x0, pair[0], pair[1], pair[1].ratio());
    }
    Ok(xt)
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
pub fn heun(mut xt: Tensor<4>, levels: &[Level], denoise: &Denoiser<'_>) -> Result<Tensor<4>> {
    for pair in levels.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let x0 = denoise(xt.clone(), from)?.x0;
        let guess = step(xt.clone(), x0.clone(), from, to, to.ratio());
        xt = if to.sigma == 0.0 {
            guess
        } else {
            let there = denoise(guess, to)?.x0;
            // y + ½(σ′ − σ)((y − x̂₀)/σ + (y′ − x̂₀′)/σ′), with y′ put in.
            let r = to.ratio() / from.ratio();
            xt * (to.sigma / from.sigma) + (x0 * (2.0 * r - 1.0) + there) * (0.5 * (1.0 - r) / r * to.signal)
        };
    }
    Ok(xt)
}
