//! Samplers: short functions that walk a noisy picture to a clean one over a denoiser.
//!
//! Each takes xₜ at the first of the `levels`, a [`Denoiser`], and what noise it needs, and knows nothing of
//! networks, schedules or guidance.
//!
//! | paper | here |
//! |---|---|
//! | xₜ | `xt` |
//! | x̂₀ | `x0` |
//! | αₜ, σₜ; √ᾱₜ, √(1 − ᾱₜ) of DDPM | [`Level::signal`], [`Level::sigma`] |
//! | σ of Karras 2022; λ of DPM-Solver | [`Level::ratio`]; [`Level::lambda`] |

pub mod ancestral;
pub mod grid;
pub mod multistep;
pub mod ode;
pub mod plan;
pub mod predictor_corrector;
pub mod settings;
pub mod sigma;
pub mod unipc;

use burn::tensor::Tensor;
use kiln_core::{Error, Result};

use super::schedule::Level;

/// What the network says of xₜ.
#[derive(Clone, Debug)]
pub struct Denoised {
    /// x̂₀.
    pub x0: Tensor<4>,
    /// Where log σ² lies between log β̃ (−1) and log β (1), if the network learned it.
    pub variance: Option<Tensor<4>>,
}

/// x̂₀ of xₜ at a level, as the network has it.
pub type Denoiser<'a> = dyn Fn(Tensor<4>, Level) -> Result<Denoised> + 'a;

/// Standard normal noise for a numbered draw; each number gives other noise.
pub type Noise<'a> = dyn Fn(u64) -> Tensor<4> + 'a;

/// Whether every number is finite: 0 times it is 0.
pub fn is_finite(x: &Tensor<4>) -> bool {
    (x.clone() * 0.0).sum().into_scalar::<f32>() == 0.0
}

/// What a walk ended in.
///
/// # Errors
/// If a number is not finite: no sample is made of it.
pub fn finite(out: Tensor<4>) -> Result<Tensor<4>> {
    if is_finite(&out) {
        return Ok(out);
    }
    Err(Error::new("sampling ended in a value that is not finite; take more --steps, or another --sampler"))
}
