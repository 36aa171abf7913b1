//! Learning-rate schedules, in images seen.

use serde::{Deserialize, Serialize};

/// How the learning rate changes over a run, as a factor on the optimiser's rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Constant.
    #[default]
    Constant,
    /// Falls linearly to 0 at the end.
    Linear,
    /// Constant for the first half, then falls linearly to 0 (CycleGAN, §7.1).
    LinearSecondHalf,
    /// Falls from 1 to 0 along half a cosine.
    Cosine,
    /// (1 + 10·p)^(−0.75) with p the progress (DANN, §5.2.2).
    InverseDecay,
}

impl Schedule {
    /// The factor after `images` of `total`, with a linear warm-up over the first `warmup` images.
    pub fn factor(self, images: u64, total: u64, warmup: u64) -> f64 {
        let p = (images as f64 / total.max(1) as f64).clamp(0.0, 1.0);
        let warm = if warmup == 0 { 1.0 } else { ((images + 1) as f64 / warmup as f64).min(1.0) };
        warm * match self {
            Self::Constant => 1.0,
            Self::Linear => 1.0 - p,
            Self::LinearSecondHalf => (2.0 - 2.0 * p).min(1.0),
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * p).cos()),
            Self::InverseDecay => (1.0 + 10.0 * p).powf(-0.75),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_have_their_shapes() {
        let f = |s: Schedule, at| s.factor(at, 100, 0);
        assert_eq!([f(Schedule::Linear, 0), f(Schedule::Linear, 50), f(Schedule::Linear, 100)], [1.0, 0.5, 0.0]);
        assert_eq!([f(Schedule::LinearSecondHalf, 50), f(Schedule::LinearSecondHalf, 75)], [1.0, 0.5]);
        assert!((f(Schedule::Cosine, 50) - 0.5).abs() < 1e-12);
        assert!((f(Schedule::InverseDecay, 100) - 11f64.powf(-0.75)).abs() < 1e-12);
        assert_eq!(Schedule::Constant.factor(4, 100, 10), 0.5);
    }
}
