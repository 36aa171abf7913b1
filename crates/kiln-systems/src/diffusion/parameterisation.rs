//! What the network predicts, and how to get the picture and the noise from it.
//!
//! With xₜ = √ᾱₜ x₀ + √(1 − ᾱₜ) ε, any one of x₀, ε and v = √ᾱₜ ε − √(1 − ᾱₜ) x₀ gives the others.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::schedule::Level;

/// The network's target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prediction {
    /// The noise ε (Ho 2020, equation 14).
    #[default]
    Epsilon,
    /// The picture x₀.
    Sample,
    /// The velocity v (Salimans & Ho 2022, appendix D).
    V,
}

impl Prediction {
    /// The target for pictures `x0` with `noise` at a level.
    pub fn target(self, x0: Tensor<4>, noise: Tensor<4>, level: &Level) -> Tensor<4> {
        match self {
            Self::Epsilon => noise,
            Self::Sample => x0,
            Self::V => noise * level.signal.clone() - x0 * level.sigma.clone(),
        }
    }

    /// x₀ from the network's output for `xt` at a level.
    pub fn to_x0(self, output: Tensor<4>, xt: Tensor<4>, level: &Level) -> Tensor<4> {
        let (signal, sigma) = (level.signal.clone(), level.sigma.clone());
        match self {
            Self::Epsilon => (xt - output * sigma) / signal,
            Self::Sample => output,
            Self::V => xt * signal - output * sigma,
        }
    }
}

/// ε that turns `x0` into `xt` at one ᾱ.
pub fn to_epsilon(x0: Tensor<4>, xt: Tensor<4>, alpha_bar: f64) -> Tensor<4> {
    (xt - x0 * alpha_bar.sqrt()) / (1.0 - alpha_bar).sqrt()
}
