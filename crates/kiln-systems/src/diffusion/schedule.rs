//! Noise schedules: how much of the picture is left, and how much noise there is, at each time.
//!
//! Whatever the schedule, x = `signal`·x₀ + `sigma`·ε. Everything else asks a [`Level`] for these two.

use burn::tensor::{Device, Tensor};
use kiln_nn::tensor::{from_values, per_sample};
use serde::{Deserialize, Serialize};

/// The shape of β.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// β rises linearly (Ho 2020, §4).
    #[default]
    Linear,
    /// √β rises linearly (Rombach 2022; `scaled_linear` of diffusers).
    ScaledLinear,
    /// ᾱ falls as a squared cosine (Nichol & Dhariwal 2021, equation 17; `squaredcos_cap_v2`).
    Cosine,
    /// β rises as a sigmoid over [−6, 6] (Xu 2022, GeoDiff).
    Sigmoid,
}

impl BetaSchedule {
    /// `steps` values of β `from` the first `to` the last; the cosine has ends of its own.
    pub fn betas(self, steps: usize, from: f64, to: f64) -> Vec<f64> {
        let n = steps as f64;
        let between = |a: f64, b: f64, i: usize| a + (b - a) * i as f64 / (n - 1.0).max(1.0);
        let bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
        let at = |i: usize| match self {
            Self::Linear => between(from, to, i),
            Self::ScaledLinear => between(from.sqrt(), to.sqrt(), i).powi(2),
            Self::Cosine => (1.0 - bar((i as f64 + 1.0) / n) / bar(i as f64 / n)).min(0.999),
            Self::Sigmoid => from + (to - from) / (1.0 + (-between(-6.0, 6.0, i)).exp()),
        };
        (0..steps).map(at).collect()
    }
}

/// ᾱₜ = Π (1 − βₛ), the share of the picture's variance left. With `zero_terminal_snr`, √ᾱ is shifted until the last is 0,
/// then stretched until the first is what it was (Lin 2024, algorithm 1).
pub fn alphas_cumprod(betas: &[f64], zero_terminal_snr: bool) -> Vec<f64> {
    let mut product = 1.0;
    let mut bars: Vec<f64> = betas.iter().map(|beta| (product *= 1.0 - beta, product).1).collect();
    if let (true, Some(first), Some(last)) = (zero_terminal_snr, bars.first().copied(), bars.last().copied()) {
        let (first, last) = (first.sqrt(), last.sqrt());
        bars.iter_mut().for_each(|bar| *bar = ((bar.sqrt() - last) * first / (first - last)).powi(2));
    }
    bars
}

/// Which of the stochastic differential equations of Song 2021b adds the noise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sde {
    /// Variance preserving (equation 32): α = √ᾱ, σ = √(1 − ᾱ). DDPM's.
    #[default]
    Vp,
    /// Below it (equation 34): α = √ᾱ, σ = 1 − ᾱ.
    SubVp,
    /// Variance exploding (equation 30): α = 1, σ geometric from `sigma_min` to `sigma_max`.
    Ve,
    /// The straight way of rectified flow: α = 1 − τ, σ = τ for τ from 1/T to 1 (Liu 2023; Lipman 2023). At τ = 1 as much is left
    /// of the picture as can be divided by.
    Flow,
}

impl Sde {
    /// The level of time `t` at which σ/α is `ratio`.
    pub fn level(self, t: f64, ratio: f64) -> Level {
        let signal = match self {
            Self::Vp => 1.0 / (1.0 + ratio * ratio).sqrt(),
            // The positive root of α² + ratio·α − 1.
            Self::SubVp => 2.0 / (ratio + (ratio * ratio + 4.0).sqrt()),
            Self::Ve => 1.0,
            Self::Flow => 1.0 / (1.0 + ratio),
        };
        Level { t, signal, sigma: ratio * signal }
    }
}

/// A schedule in the words of a recipe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScheduleOptions {
    /// The shape of β.
    pub shape: BetaSchedule,
    /// T.
    pub steps: usize,
    /// β at the first time if T is 1000; scaled by 1000/T otherwise. Not for the cosine.
    pub beta_start: f64,
    /// β at the last time, likewise.
    pub beta_end: f64,
    /// Rescale so that nothing is left of the picture at the last time (Lin 2024, algorithm 1).
    pub zero_terminal_snr: bool,
    /// How β, or the σ below, become levels.
    pub sde: Sde,
    /// The least σ of [`Sde::Ve`].
    pub sigma_min: f64,
    /// The greatest σ of [`Sde::Ve`].
    pub sigma_max: f64,
}

impl Default for ScheduleOptions {
    fn default() -> Self {
        Self {
            shape: BetaSchedule::Linear,
            steps: 1000,
            beta_start: 1e-4,
            beta_end: 0.02,
            zero_terminal_snr: false,
            sde: Sde::Vp,
            sigma_min: 0.01,
            sigma_max: 50.0,
        }
    }
}

impl ScheduleOptions {
    /// βₜ, each at most 0.999.
    pub fn betas(&self) -> Vec<f64> {
        let [first, last] = self.beta_ends();
        self.shape.betas(self.steps, first, last).into_iter().map(|beta| beta.min(0.999)).collect()
    }

    /// β at the first and last of T times.
    pub fn beta_ends(&self) -> [f64; 2] {
        [self.beta_start, self.beta_end].map(|beta| beta * 1000.0 / self.steps as f64)
    }

    /// ᾱₜ.
    pub fn alphas_cumprod(&self) -> Vec<f64> {
        alphas_cumprod(&self.betas(), self.zero_terminal_snr)
    }

    /// The levels of all times.
    pub fn schedule(&self) -> NoiseSchedule {
        let timed = |(t, (signal, sigma)): (usize, (f64, f64))| Level { t: t as f64, signal, sigma };
        let geometric = |t: usize| {
            let share = t as f64 / (self.steps as f64 - 1.0).max(1.0);
            (1.0, self.sigma_min * (self.sigma_max / self.sigma_min).powf(share))
        };
        let levels: Vec<(f64, f64)> = match self.sde {
            Sde::Vp => self.alphas_cumprod().into_iter().map(|bar| (bar.sqrt(), (1.0 - bar).sqrt())).collect(),
            Sde::SubVp => self.alphas_cumprod().into_iter().map(|bar| (bar.sqrt(), 1.0 - bar)).collect(),
            Sde::Ve => (0..self.steps).map(geometric).collect(),
            Sde::Flow => {
                let straight = |t: usize| (1.0 - (t as f64 + 1.0) / self.steps as f64).max(STRAIGHT_END);
                (0..self.steps).map(straight).map(|signal| (signal, 1.0 - signal)).collect()
            }
        };
        NoiseSchedule { options: *self, levels: levels.into_iter().enumerate().map(timed).collect() }
    }
}

/// How much picture and how much noise there is at a time: x = `signal`·x₀ + `sigma`·ε.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// The timestep as the network is given it; it need not be whole.
    pub t: f64,
    /// α, which is √ᾱ if variance is preserved.
    pub signal: f64,
    /// σ.
    pub sigma: f64,
}

/// The α that stands for 0 at the end of the straight way, where ratios are of 64 bits and nothing else divides by it.
const STRAIGHT_END: f64 = 1e-6;

/// The α that stands for 0 where it is divided by: ᾱ = 2⁻²⁴, as in diffusers.
pub(super) const LEAST_SIGNAL: f64 = 1.0 / 4096.0;

impl Level {
    /// No noise at all: where every walk ends.
    pub const PICTURE: Self = Self { t: 0.0, signal: 1.0, sigma: 0.0 };

    /// σ/α, the noise in units of the picture: σ of Karras 2022.
    pub fn ratio(self) -> f64 {
        self.sigma / self.signal
    }

    /// λ = ln α/σ, half the log signal-to-noise ratio (Lu 2022); infinite for the picture.
    pub fn lambda(self) -> f64 {
        -self.ratio().ln()
    }

    /// √(α² + σ²): the deviation of x where the picture's is 1.
    pub fn scale(self) -> f64 {
        self.signal.hypot(self.sigma)
    }
}

/// A discrete schedule of T levels. `t` counts from 0, so `t` here is t + 1 in the papers.
#[derive(Clone, Debug)]
pub struct NoiseSchedule {
    options: ScheduleOptions,
    levels: Vec<Level>,
}

impl NoiseSchedule {
    /// A variance-preserving schedule of `steps` ≥ 1 steps.
    pub fn new(shape: BetaSchedule, steps: usize) -> Self {
        ScheduleOptions { shape, steps, ..ScheduleOptions::default() }.schedule()
    }

    /// A variance-preserving schedule of given ᾱ, for which `shape` is the nearest name.
    pub fn of_alphas_cumprod(shape: BetaSchedule, bars: &[f64]) -> Self {
        let options = ScheduleOptions { shape, steps: bars.len(), ..ScheduleOptions::default() };
        let level = |(t, bar): (usize, &f64)| Level { t: t as f64, signal: bar.sqrt(), sigma: (1.0 - bar).sqrt() };
        Self { options, levels: bars.iter().enumerate().map(level).collect() }
    }

    /// What it was made from.
    pub fn options(&self) -> &ScheduleOptions {
        &self.options
    }

    /// T.
    pub fn steps(&self) -> usize {
        self.levels.len()
    }

    /// The level at time `t`.
    pub fn level(&self, t: usize) -> Level {
        self.levels[t]
    }

    /// The level at time `t` if any, else the picture.
    pub fn level_or_picture(&self, t: Option<usize>) -> Level {
        t.map_or(Level::PICTURE, |t| self.level(t))
    }

    /// σ/α at time `t`; about 2¹² where nothing is left of the picture.
    pub fn ratio(&self, t: usize) -> f64 {
        let level = self.levels[t];
        if level.signal > 0.0 { level.ratio() } else { (1.0 - LEAST_SIGNAL * LEAST_SIGNAL).sqrt() / LEAST_SIGNAL }
    }

    /// σ/α at a time between the whole ones, linear between its neighbours.
    pub fn ratio_between(&self, t: f64) -> f64 {
        let low = (t.max(0.0).floor() as usize).min(self.steps() - 1);
        let high = (low + 1).min(self.steps() - 1);
        let share = t - low as f64;
        self.ratio(low) * (1.0 - share) + self.ratio(high) * share
    }

    /// The time at which σ/α is `ratio`, linear in its logarithm and within the schedule: what lets
    /// a network of whole times serve a continuous sampler (Karras 2022, appendix C.3.4).
    pub fn time_of(&self, ratio: f64) -> f64 {
        if self.options.sde == Sde::Flow {
            // τ = ratio / (1 + ratio) is (t + 1) / T.
            let last = self.steps() as f64 - 1.0;
            return (ratio / (1.0 + ratio) * self.steps() as f64 - 1.0).clamp(0.0, last);
        }
        let goal = ratio.max(1e-10).ln();
        let after = (0..self.steps()).position(|t| self.ratio(t).ln() > goal).unwrap_or(self.steps());
        let low = after.saturating_sub(1).min(self.steps().saturating_sub(2));
        let high = (low + 1).min(self.steps() - 1);
        let (a, b) = (self.ratio(low).ln(), self.ratio(high).ln());
        let share = if b > a { ((goal - a) / (b - a)).clamp(0.0, 1.0) } else { 0.0 };
        low as f64 + share
    }

    /// The level at which σ/α is `ratio`.
    pub fn at_ratio(&self, ratio: f64) -> Level {
        self.options.sde.level(self.time_of(ratio), ratio)
    }
}

/// The levels of a batch's pictures, or one level for all of them.
#[derive(Clone, Debug)]
pub struct NoiseLevels {
    levels: Vec<Level>,
    device: Device,
}

impl NoiseLevels {
    /// On a device.
    pub fn new(levels: &[Level], device: &Device) -> Self {
        Self { levels: levels.to_vec(), device: device.clone() }
    }

    /// A number of each level, computed in 64 bits: `[n, 1, 1, 1]`.
    pub fn each(&self, f: impl Fn(Level) -> f64) -> Tensor<4> {
        let values = self.levels.iter().map(|&l| f(l) as f32).collect();
        per_sample(from_values(values, [self.levels.len()], &self.device))
    }

    /// The timesteps, as the network is given them: `[n]`.
    pub fn timesteps(&self) -> Tensor<1> {
        from_values(self.levels.iter().map(|l| l.t as f32).collect(), [self.levels.len()], &self.device)
    }

    /// Whether a number is 1 at every level, so that nothing need be multiplied by it.
    pub fn all_one(&self, f: impl Fn(Level) -> f64) -> bool {
        self.levels.iter().all(|&l| (f(l) - 1.0).abs() < 1e-9)
    }

    /// x = α x₀ + σ ε (Ho 2020, equation 4).
    pub fn noised(&self, x0: Tensor<4>, noise: Tensor<4>) -> Tensor<4> {
        x0 * self.each(|l| l.signal) + noise * self.each(|l| l.sigma)
    }
}

/// The step forward that leads from one level to a noisier one, x = `keep`·x′ + √`beta`·ε, and the Gaussian
/// that its reverse draws from if x₀ is known: mean `x0`·x₀ + `xt`·x, variance `beta_tilde` (Ho 2020, equations 6 and 7).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Posterior {
    /// What the less noisy one is multiplied by in the step forward: √(1 − β).
    pub keep: f64,
    /// The variance the step forward adds: β.
    pub beta: f64,
    /// What x₀ is multiplied by in the mean.
    pub x0: f64,
    /// What x is multiplied by in the mean.
    pub xt: f64,
    /// β̃; 0 for a step to the picture.
    pub beta_tilde: f64,
}

impl Posterior {
    /// Of the step back `from` a level `to` a less noisy one.
    pub fn between(from: Level, to: Level) -> Self {
        let keep = from.signal / to.signal;
        let variance = from.sigma * from.sigma;
        let beta = (variance - (keep * to.sigma).powi(2)).max(0.0);
        Self {
            keep,
            beta,
            x0: to.signal * beta / variance,
            xt: keep * to.sigma * to.sigma / variance,
            beta_tilde: beta * to.sigma * to.sigma / variance,
        }
    }
}
