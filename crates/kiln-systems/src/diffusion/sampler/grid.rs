//! Which levels a sampler visits. Every list is the one diffusers makes for the sampler's family.

use kiln_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::diffusion::schedule::{BetaSchedule, Level, NoiseSchedule};

/// Which of the T times a shorter walk visits (`timestep_spacing` of diffusers; Lin 2024, table 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spacing {
    /// i·⌊T / steps⌋: ends at 0 and starts below T − 1, as DDIM's code.
    #[default]
    Leading,
    /// T − 1 downward by T / steps: starts at the end of the schedule.
    Trailing,
    /// Evenly from T − 1 to 0.
    Linspace,
    /// (i·√(0.8 T) / (steps − 1))²: dense near the picture (DDIM, appendix D.2).
    Quadratic,
}

/// A spacing, and what is added to its leading times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimestepGrid {
    /// The spacing.
    pub spacing: Spacing,
    /// `steps_offset` of diffusers: 1 makes the times those that were counted from 1.
    pub offset: usize,
}

impl From<Spacing> for TimestepGrid {
    fn from(spacing: Spacing) -> Self {
        Self { spacing, offset: 0 }
    }
}

/// How the noise levels between the first and the last are spaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sigmas {
    /// As the schedule has them at the times of [`Spacing`].
    #[default]
    Schedule,
    /// σ^{1/7} evenly (Karras 2022, equation 5).
    Karras,
    /// ln σ evenly.
    Exponential,
}

impl Sigmas {
    /// `n` values from `max` to `min`.
    pub fn between(self, max: f64, min: f64, n: usize) -> Vec<f64> {
        let share = |i: usize| if n > 1 { i as f64 / (n - 1) as f64 } else { 0.0 };
        let power = |p: f64, i: usize| (max.powf(p) + share(i) * (min.powf(p) - max.powf(p))).powf(1.0 / p);
        let at = |i: usize| match self {
            Self::Karras => power(1.0 / 7.0, i),
            _ => (max.ln() + share(i) * (min.ln() - max.ln())).exp(),
        };
        (0..n).map(at).collect()
    }
}

/// Where a walk of noise levels ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigma {
    /// At the picture.
    #[default]
    Zero,
    /// At the schedule's first level, a little noisy.
    SigmaMin,
}

/// `steps` of the schedule's T times, descending, each once: fewer where the quadratic spacing would
/// visit a time near 0 again.
///
/// # Errors
/// If `steps` is 0 or more than T, or the offset leads past the end.
pub fn timesteps(schedule: &NoiseSchedule, steps: usize, times: impl Into<TimestepGrid>) -> Result<Vec<usize>> {
    let (TimestepGrid { spacing, offset }, total) = (times.into(), schedule.steps());
    if steps == 0 || steps > total {
        return Err(Error::usage(format!("--steps {steps}: this model has 1 to {total} denoising steps")));
    }
    let (last, step) = ((steps - 1).max(1) as f64, total as f64 / steps as f64);
    let time = |i: usize| match spacing {
        Spacing::Leading => i * (total / steps) + offset,
        // Halves to even, as numpy rounds.
        Spacing::Trailing => (total as f64 - (steps - 1 - i) as f64 * step).round_ties_even() as usize - 1,
        Spacing::Linspace => (i as f64 * (total - 1) as f64 / last).round_ties_even() as usize,
        Spacing::Quadratic => (i as f64 * (0.8 * total as f64).sqrt() / last).powi(2) as usize,
    };
    let mut times: Vec<usize> = (0..steps).rev().map(time).collect();
    times.dedup();
    if let Some(t) = times.first().filter(|t| **t >= total) {
        return Err(Error::usage(format!(
            "--steps {steps}: with steps_offset = {offset} there would be a time {t} of {total}; take fewer steps"
        )));
    }
    Ok(times)
}

/// The levels of whole times, and the picture: for steps between times of the schedule (DDPM, DDIM).
///
/// # Errors
/// As [`timesteps`].
pub fn discrete(schedule: &NoiseSchedule, steps: usize, times: impl Into<TimestepGrid>) -> Result<Vec<Level>> {
    let times = timesteps(schedule, steps, times)?;
    Ok(times.into_iter().map(|t| schedule.level(t)).chain([Level::PICTURE]).collect())
}

/// How solvers want their levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// DPM-Solver++: one of `steps` + 1 times is the end.
    Dpm,
    /// UniPC: the same, its times of other spacings always rounded.
    UniPc,
    /// Euler and Heun: times need not be whole.
    Sigma,
}

/// The levels for solvers of the ordinary differential equation, from the noisiest to the `end`. Those that `sigmas` space
/// begin at `sigma_max` at most: a cosine schedule ends at some thousands, and would spend half of few steps on noise.
///
/// # Errors
/// If `steps` is 0 or more than the schedule has.
pub fn solver(
    schedule: &NoiseSchedule,
    steps: usize,
    times: impl Into<TimestepGrid>,
    (sigmas, sigma_max): (Sigmas, f64),
    end: FinalSigma,
    family: Family,
) -> Result<Vec<Level>> {
    let sde = schedule.options().sde;
    let (asked, total) = (times.into(), schedule.steps());
    let times: Vec<f64> = match (family, asked.spacing) {
        (Family::Sigma, Spacing::Linspace) => {
            let steps = timesteps(schedule, steps, Spacing::Linspace).map(|_| steps)?;
            let share = |i: usize| i as f64 / (steps - 1).max(1) as f64;
            (0..steps).rev().map(|i| share(i) * (total - 1) as f64).collect()
        }
        (Family::Sigma, _) | (_, Spacing::Trailing) => whole(timesteps(schedule, steps, asked)?),
        _ if steps == 0 || steps >= total => {
            return Err(Error::usage(format!(
                "--steps {steps}: this solver has 1 to {} steps on this model; or use --timestep-spacing trailing",
                total - 1
            )));
        }
        // One more time than steps; the last is where they end.
        _ => {
            let mut times = timesteps(schedule, steps + 1, asked)?;
            times.pop();
            whole(times)
        }
    };
    let (least, greatest) = match family {
        Family::Sigma => (
            schedule.ratio_between(times.last().copied().unwrap_or(0.0)),
            schedule.ratio_between(times.first().copied().unwrap_or(0.0)),
        ),
        _ => (schedule.ratio(0), schedule.ratio(total - 1)),
    };
    let cosine = schedule.options().shape == BetaSchedule::Cosine;
    let timestep = |t: f64| match (family, sigmas) {
        (Family::Sigma, _) => t,
        (Family::UniPc, Sigmas::Karras) => t.round_ties_even(),
        (Family::Dpm, Sigmas::Karras) if !cosine => t.round_ties_even(),
        // Not the whole time before by rounding.
        _ => (t + 1e-6).floor(),
    };
    let mut levels: Vec<Level> = match sigmas {
        Sigmas::Schedule => times.into_iter().map(|t| sde.level(t, schedule.ratio_between(t))).collect(),
        _ => {
            let ratios = sigmas.between(greatest.min(sigma_max).max(least), least, steps);
            ratios.into_iter().map(|r| sde.level(timestep(schedule.time_of(r)), r)).collect()
        }
    };
    let last = match end {
        FinalSigma::Zero => Level::PICTURE,
        FinalSigma::SigmaMin => sde.level(0.0, schedule.ratio(0)),
    };
    // No step of length 0.
    while levels.last().is_some_and(|l| l.ratio() <= last.ratio() * (1.0 + 1e-9)) {
        levels.pop();
    }
    if levels.is_empty() {
        return Err(Error::usage(format!(
            "--final-sigma sigma_min: --steps {steps} at this spacing begin where they would end; take more steps"
        )));
    }
    levels.push(last);
    Ok(levels)
}

fn whole(times: Vec<usize>) -> Vec<f64> {
    times.into_iter().map(|t| t as f64).collect()
}
