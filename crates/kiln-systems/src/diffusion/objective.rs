//! The choices of training: what is minimised, at which timesteps, and with what weight.

use kiln_core::random::Key;
use kiln_train::HostTensor;
use serde::{Deserialize, Serialize};

use super::parameterisation::Prediction;

/// What training minimises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// L_simple.
    #[default]
    Simple,
    /// L_vlb, one term of the bound for each picture.
    Bound,
    /// L_simple for the mean, `bound_weight` of L_vlb for the variance.
    Hybrid,
}

/// What the squared error of each level weighs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weighting {
    /// The same everywhere: L_simple.
    #[default]
    None,
    /// min(SNR, γ) on the error of x̂₀ (Hang 2023, equation 6).
    MinSnr,
    /// 1 / (k + SNR)^γ on the error of ε̂ (Choi 2022, equation 8).
    P2,
}

/// A weighting with its constants.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossWeighting {
    /// Which.
    pub weighting: Weighting,
    /// γ of `min-snr` (5) or of `p2` (1).
    pub gamma: f64,
    /// k of `p2` (1).
    pub k: f64,
}

impl LossWeighting {
    /// What the squared error of the network's target weighs at signal-to-noise ratio α²/σ² = `snr`.
    pub fn at(&self, prediction: Prediction, snr: f64) -> f64 {
        let on_x0 = match self.weighting {
            Weighting::None => return 1.0,
            Weighting::MinSnr => snr.min(self.gamma),
            Weighting::P2 => snr / (self.k + snr).powf(self.gamma),
        };
        on_x0 / prediction.weight_on_x0(snr)
    }
}

/// How the timesteps of a batch are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimestepSampling {
    /// Every timestep alike.
    #[default]
    Uniform,
    /// More often where the loss was large ([`SecondMoment`]).
    Importance,
    /// ln σ/α normal with mean −1.2 and deviation 1.2 (Karras 2022, table 1), within the schedule.
    Lognormal,
    /// ln σ/α standard normal, within the schedule: of the straight way the logit of its time (Esser 2024, equation 19).
    Logitnormal,
}

impl TimestepSampling {
    /// σ/α for a standard normal draw, where levels and not timesteps are drawn.
    pub fn ratio(self, draw: f64) -> Option<f64> {
        match self {
            Self::Uniform | Self::Importance => None,
            Self::Lognormal => Some((-1.2 + 1.2 * draw).exp()),
            Self::Logitnormal => Some(draw.exp()),
        }
    }
}

/// Losses kept of each time.
const HISTORY: usize = 10;

/// What is left to uniform draws, so that no time is forgotten.
const UNIFORM: f64 = 0.001;

/// Importance sampling of t by p ∝ √(E L²) over the last ten losses of each time, uniform until each has ten
/// (Nichol & Dhariwal 2021, equation 18; `LossSecondMomentResampler`).
#[derive(Clone, Debug, PartialEq)]
pub struct SecondMoment {
    /// The last losses of each time, the oldest first.
    history: Vec<Vec<f32>>,
}

impl SecondMoment {
    /// For `steps` times, nothing known of any.
    pub fn new(steps: usize) -> Self {
        Self { history: vec![Vec::new(); steps] }
    }

    /// The probability of each time.
    pub fn probabilities(&self) -> Vec<f64> {
        let n = self.history.len() as f64;
        if self.history.iter().any(|h| h.len() < HISTORY) {
            return vec![1.0 / n; self.history.len()];
        }
        let moment = |h: &Vec<f32>| (h.iter().map(|&l| f64::from(l).powi(2)).sum::<f64>() / HISTORY as f64).sqrt();
        let roots: Vec<f64> = self.history.iter().map(moment).collect();
        let sum: f64 = roots.iter().sum();
        if sum == 0.0 {
            return vec![1.0 / n; self.history.len()];
        }
        roots.into_iter().map(|r| r / sum * (1.0 - UNIFORM) + UNIFORM / n).collect()
    }

    /// A time for each sample, and 1/(T p), which keeps the loss's mean what it is under uniform draws.
    pub fn draw(&self, key: Key, samples: std::ops::Range<u64>) -> (Vec<usize>, Vec<f64>) {
        let p = self.probabilities();
        let up_to: Vec<f64> = p.iter().scan(0.0, |sum, p| (*sum += p, Some(*sum)).1).collect();
        let last = p.len() - 1;
        let times = key.uniform(samples, 1).into_iter().map(|u| {
            let goal = f64::from(u) * up_to[last];
            up_to.partition_point(|sum| *sum <= goal).min(last)
        });
        times.map(|t| (t, 1.0 / (p.len() as f64 * p[t]))).unzip()
    }

    /// Takes note of the losses of a batch, before what their draw weighs.
    pub fn update(&mut self, times: &[usize], losses: &[f32]) {
        for (&t, &loss) in times.iter().zip(losses).filter(|(_, loss)| loss.is_finite()) {
            let history = &mut self.history[t];
            if history.len() == HISTORY {
                history.remove(0);
            }
            history.push(loss);
        }
    }

    /// `[T, 11]`: how many are known of each time, and they.
    pub fn state(&self) -> HostTensor {
        let row = |h: &Vec<f32>| {
            let mut row = vec![0.0; HISTORY + 1];
            row[0] = h.len() as f32;
            row[1..=h.len()].copy_from_slice(h);
            row
        };
        HostTensor { shape: vec![self.history.len(), HISTORY + 1], values: self.history.iter().flat_map(row).collect() }
    }

    /// Takes back what [`SecondMoment::state`] gave; what does not fit is ignored.
    pub fn restore(&mut self, saved: &HostTensor) {
        if saved.shape == [self.history.len(), HISTORY + 1] {
            for (history, row) in self.history.iter_mut().zip(saved.values.chunks(HISTORY + 1)) {
                *history = row[1..=(row[0] as usize).min(HISTORY)].to_vec();
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    fn warm() -> SecondMoment {
        let mut s = SecondMoment::new(3);
        for _ in 0..HISTORY {
            s.update(&[0, 1, 2], &[1.0, 2.0, 5.0]);
        }
        s
    }

    #[test]
    fn draws_are_uniform_until_every_time_is_known() {
        let mut s = SecondMoment::new(3);
        s.update(&[0; 20], &[9.0; 20]);
        assert_eq!(s.probabilities(), [1.0 / 3.0; 3]);
        let (times, weights) = s.draw(Key::new(0), 0..300);
        assert!((0..3).all(|t| times.iter().filter(|&&x| x == t).count() > 70));
        assert!(weights.iter().all(|w| (w - 1.0).abs() < 1e-12));
    }

    #[test]
    fn then_they_follow_the_second_moment() {
        let mut s = warm();
        let p = s.probabilities();
        assert!((p[2] - (5.0 / 8.0 * 0.999 + 0.001 / 3.0)).abs() < 1e-12, "{p:?}");
        let (times, weights) = s.draw(Key::new(0), 0..4000);
        let often = times.iter().filter(|&&t| t == 2).count() as f64 / 4000.0;
        assert!((often - p[2]).abs() < 0.03, "{often}");
        let mean = weights.iter().sum::<f64>() / 4000.0;
        assert!((mean - 1.0).abs() < 0.05, "{mean}");
        // The oldest goes; what is not finite never comes in.
        s.update(&[0; 10], &[4.0; 10]);
        s.update(&[1], &[f32::NAN]);
        let p = s.probabilities();
        assert!((p[0] - (4.0 / 11.0 * 0.999 + 0.001 / 3.0)).abs() < 1e-12, "{p:?}");
    }

    #[test]
    fn a_state_is_taken_back() {
        let (mut partly, whole) = (SecondMoment::new(3), warm());
        partly.update(&[1, 1], &[3.0, 0.5]);
        for s in [partly, whole] {
            let mut other = SecondMoment::new(3);
            other.restore(&s.state());
            assert_eq!(other, s);
        }
    }

    /// The formulas as diffusers' training scripts have them for min-SNR, and as the paper has P2.
    #[test]
    fn weights_of_each_prediction() {
        let w = |weighting, gamma| LossWeighting { weighting, gamma, k: 1.0 };
        for snr in [0.01, 1.0, 30.0f64] {
            let clipped = snr.min(5.0);
            let min_snr = w(Weighting::MinSnr, 5.0);
            for (prediction, expected) in [
                (Prediction::Epsilon, clipped / snr),
                (Prediction::V, clipped / (snr + 1.0)),
                (Prediction::Sample, clipped),
            ] {
                assert!((min_snr.at(prediction, snr) - expected).abs() < 1e-12);
            }
            let p2 = w(Weighting::P2, 1.0).at(Prediction::Epsilon, snr);
            assert!((p2 - 1.0 / (1.0 + snr)).abs() < 1e-12);
            assert_eq!(w(Weighting::None, 0.0).at(Prediction::V, snr), 1.0);
        }
    }
}
