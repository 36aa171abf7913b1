//! What the network is shown and what it predicts, and how to get the picture and the noise from it.
//!
//! With x = α x₀ + σ ε, any one of x₀, ε and v gives the others. The network is shown x scaled to unit
//! variance, which changes nothing where variance is preserved.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::schedule::{Level, NoiseLevels};

/// The network's target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prediction {
    /// The noise ε (Ho 2020, equation 14).
    #[default]
    Epsilon,
    /// The picture x₀.
    Sample,
    /// The velocity v = (α ε − σ x₀) / √(α² + σ²) (Salimans & Ho 2022, appendix D).
    V,
    /// F of x̂₀ = c_skip·x + c_out·F(c_in·x), for pictures of deviation 0.5 (Karras 2022, table 1).
    Edm,
    /// The velocity u = ε − x₀ of the straight way from the picture to the noise (Liu 2023, equation 1). The network is shown x as it is.
    Flow,
}

impl Prediction {
    /// The pictures' deviation that the scales below suppose.
    fn sigma_data(self) -> f64 {
        if self == Self::Edm { 0.5 } else { 1.0 }
    }

    /// √(σ² + (σ_data α)²).
    fn deviation(self, level: Level) -> f64 {
        level.sigma.hypot(self.sigma_data() * level.signal)
    }

    /// What the network is shown of `xt`: c_in·x.
    pub fn input(self, xt: Tensor<4>, levels: &NoiseLevels) -> Tensor<4> {
        if self == Self::Flow {
            return xt;
        }
        let c_in = |l: Level| 1.0 / self.deviation(l);
        if levels.all_one(c_in) { xt } else { xt * levels.each(c_in) }
    }

    /// The target for pictures `x0` with `noise` at their levels.
    pub fn target(self, x0: Tensor<4>, noise: Tensor<4>, levels: &NoiseLevels) -> Tensor<4> {
        let d = self.sigma_data();
        match self {
            Self::Epsilon => noise,
            Self::Sample => x0,
            Self::Flow => noise - x0,
            Self::V => {
                noise * levels.each(|l| l.signal / self.deviation(l))
                    - x0 * levels.each(|l| l.sigma / self.deviation(l))
            }
            // (x₀ − c_skip·x) / c_out.
            Self::Edm => {
                x0 * levels.each(|l| l.sigma / (d * self.deviation(l)))
                    - noise * levels.each(|l| d * l.signal / self.deviation(l))
            }
        }
    }

    /// x̂₀ from the network's output for `xt` at its level.
    pub fn to_x0(self, output: Tensor<4>, xt: Tensor<4>, levels: &NoiseLevels) -> Tensor<4> {
        let d = self.sigma_data();
        match self {
            Self::Epsilon => (xt - output * levels.each(|l| l.sigma)) / levels.each(|l| l.signal),
            Self::Sample => output,
            // x = (α + σ) x₀ + σ u.
            Self::Flow => (xt - output * levels.each(|l| l.sigma)) / levels.each(|l| l.signal + l.sigma),
            Self::V => {
                xt * levels.each(|l| l.signal / self.deviation(l).powi(2))
                    - output * levels.each(|l| l.sigma / self.deviation(l))
            }
            Self::Edm => {
                xt * levels.each(|l| d * d * l.signal / self.deviation(l).powi(2))
                    + output * levels.each(|l| l.sigma * d / self.deviation(l))
            }
        }
    }

    /// The weight on ‖x̂₀ − x₀‖² that the mean squared error of the target stands for, at signal-to-noise
    /// ratio α²/σ² = `snr`.
    pub fn weight_on_x0(self, snr: f64) -> f64 {
        let d = self.sigma_data().powi(2);
        match self {
            Self::Epsilon => snr,
            Self::Sample => 1.0,
            // (α/σ + 1)².
            Self::Flow => (snr.sqrt() + 1.0).powi(2),
            // 1 / c_out²; with σ_data = 1 that is 1 + SNR.
            Self::V | Self::Edm => snr + 1.0 / d,
        }
    }
}

/// ε that turns `x0` into `xt` at one level.
pub fn to_epsilon(x0: Tensor<4>, xt: Tensor<4>, level: Level) -> Tensor<4> {
    (xt - x0 * level.signal) / level.sigma
}
