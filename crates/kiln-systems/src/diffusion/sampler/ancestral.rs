//! Steps between times of the schedule: DDPM's own chain (Ho 2020, algorithm 2) and DDIM (Song 2021a).

use burn::tensor::Tensor;
use kiln_core::Result;
use serde::{Deserialize, Serialize};

use super::{Denoised, Denoiser, Noise};
use crate::diffusion::parameterisation::to_epsilon;
use crate::diffusion::schedule::{Level, Posterior};

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
/// noise unless it is the step to the picture.
pub fn ddpm_step(
    (from, to): (Level, Level),
    xt: Tensor<4>,
    denoised: Denoised,
    variance: Variance,
    noise: impl FnOnce() -> Tensor<4>,
) -> Tensor<4> {
    let posterior = Posterior::between(from, to);
    let device = xt.device();
    let mean = denoised.x0 * posterior.x0 + xt * posterior.xt;
    if to.sigma == 0.0 {
        return mean;
    }
    let all = |value: f64| Tensor::full([1, 1, 1, 1], value, &device);
    // Never 0 by rounding: diffusers clamps likewise.
    let log = variance.log(all(posterior.beta_tilde.max(1e-20)), all(posterior.beta), denoised.variance);
    mean + noise() * (log * 0.5).exp()
}

/// One DDIM step (Song 2021a, equation 12) with σ = η·√β̃ (equation 16).
pub fn ddim_step(
    (from, to): (Level, Level),
    xt: Tensor<4>,
    x0: Tensor<4>,
    eta: f64,
    noise: impl FnOnce() -> Tensor<4>,
) -> Tensor<4> {
    let sigma = eta * Posterior::between(from, to).beta_tilde.sqrt();
    let epsilon = to_epsilon(x0.clone(), xt, from);
    let mean = x0 * to.signal + epsilon * (to.sigma * to.sigma - sigma * sigma).max(0.0).sqrt();
    if sigma == 0.0 { mean } else { mean + noise() * sigma }
}

/// How a walk steps, and how often it repeats a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ancestral {
    /// DDIM's η; `None` is DDPM's step.
    pub eta: Option<f64>,
    /// Of DDPM's step.
    pub variance: Variance,
    /// Times that each step is undone by fresh noise and taken again (Bansal 2023, §3.3).
    pub recurrence: usize,
}

impl Ancestral {
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
        for pair in levels.windows(2) {
            let at = (pair[0], pair[1]);
            // The draws of a step are numbered by its time, then by its repetition.
            let draw = |i: usize| noise(at.0.t as u64 + ((i as u64) << 32));
            for again in 0..=self.recurrence {
                let denoised = denoise(xt.clone(), at.0)?;
                let next = match self.eta {
                    None => ddpm_step(at, xt, denoised, self.variance, || draw(2 * again)),
                    Some(eta) => ddim_step(at, xt, denoised.x0, eta, || draw(2 * again)),
                };
                xt = if again == self.recurrence {
                    next
                } else {
                    let forward = Posterior::between(at.0, at.1);
                    next * forward.keep + draw(2 * again + 1) * forward.beta.sqrt()
                };
            }
        }
        Ok(xt)
    }
}

/// DDIM run backwards: encodes a picture as the noise that η = 0 decodes (Song 2021a, §4.3), the network
/// being asked at the time stepped to, as in diffusers. `levels` descend to the picture, as for [`Ancestral::run`].
///
/// # Errors
/// If the denoiser fails.
pub fn ddim_invert(picture: Tensor<4>, levels: &[Level], denoise: &Denoiser<'_>) -> Result<Tensor<4>> {
    let mut xt = picture;
    for pair in levels.windows(2).rev() {
        let (to, from) = (pair[0], pair[1]);
        // The picture has no noise to be told apart: it is its own x₀.
        let clean = from.sigma == 0.0;
        let at = if clean { to } else { Level { t: to.t, ..from } };
        let x0 = denoise(xt.clone(), at)?.x0;
        let epsilon = to_epsilon(x0.clone(), xt.clone(), at);
        xt = if clean { xt } else { x0 } * to.signal + epsilon * to.sigma;
    }
    Ok(xt)
}
