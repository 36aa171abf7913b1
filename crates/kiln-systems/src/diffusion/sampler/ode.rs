//! The probability-flow equation (Song 2021b, §4.3) by an adaptive solver, and the exact likelihood along it.
//!
//! In y = x/α over u = ln σ/α it has no schedule left: dy/du = y − x̂₀(y). Whatever added the noise, that is it.

use burn::tensor::{Device, Tensor};
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_nn::tensor::{from_values, to_values};

use crate::diffusion::schedule::Level;

/// How finely an adaptive solver steps (scipy's `solve_ivp`): |error| ≤ `atol` + `rtol`·|y|.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Relative.
    pub rtol: f64,
    /// Absolute.
    pub atol: f64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { rtol: 1e-5, atol: 1e-5 }
    }
}

/// What a solution cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Evaluations of the slope, each for all pictures still on their way.
    pub evaluations: usize,
}

/// Stages of Dormand & Prince's fifth-order method: places, rows, weights, and the error's weights.
const C: [f64; 6] = [0.0, 0.2, 0.3, 0.8, 8.0 / 9.0, 1.0];
const A: [&[f64]; 6] = [
    &[],
    &[0.2],
    &[3.0 / 40.0, 9.0 / 40.0],
    &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
    &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0],
    &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0],
];
const B: [f64; 6] = [35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0];
const E: [f64; 7] =
    [-71.0 / 57600.0, 0.0, 71.0 / 16695.0, -71.0 / 1920.0, 17253.0 / 339200.0, -22.0 / 525.0, 1.0 / 40.0];

/// The slopes of some of the trajectories: which they are, where each is, and its state.
pub type Slope<'a> = dyn FnMut(&[usize], &[f64], &[Vec<f64>]) -> Result<Vec<Vec<f64>>> + 'a;

/// One picture on its way.
struct Trajectory {
    at: f64,
    y: Vec<f64>,
    slope: Vec<f64>,
    step: f64,
    rejected: bool,
}

/// Solves y′ = f(u, y) for several trajectories from `start` to `end` as scipy's RK45 solves one: the same stages,
/// first step and step control (Hairer 1993, §II.4). Each has its own steps, so that it does not depend on the
/// others, but all are evaluated together.
///
/// # Errors
/// If the slope fails, or a step shrinks to nothing.
pub fn rk45(
    slope: &mut Slope<'_>,
    (start, end): (f64, f64),
    y0: Vec<Vec<f64>>,
    tolerance: Tolerance,
) -> Result<(Vec<Vec<f64>>, Cost)> {
    let Tolerance { rtol, atol } = tolerance;
    let direction = (end - start).signum();
    let count = y0.len();
    let mut cost = Cost::default();
    let mut slope_at = |which: &[usize], at: &[f64], y: &[Vec<f64>]| {
        cost.evaluations += 1;
        slope(which, at, y)
    };
    let all: Vec<usize> = (0..count).collect();
    let first = slope_at(&all, &vec![start; count], &y0)?;

    // The first step: one that an explicit Euler step of it changes the slope by little.
    let mut guesses = Vec::new();
    let mut tried = Vec::new();
    for (y, f) in y0.iter().zip(&first) {
        let scale: Vec<f64> = y.iter().map(|v| atol + v.abs() * rtol).collect();
        let (d0, d1) = (rms(y, &scale), rms(f, &scale));
        let h0 = if d0 < 1e-5 || d1 < 1e-5 { 1e-6 } else { 0.01 * d0 / d1 }.min((end - start).abs());
        tried.push(y.iter().zip(f).map(|(y, f)| y + direction * h0 * f).collect::<Vec<f64>>());
        guesses.push((h0, d1, scale));
    }
    let at: Vec<f64> = guesses.iter().map(|(h0, ..)| start + direction * h0).collect();
    let second = slope_at(&all, &at, &tried)?;
    let mut trajectories: Vec<Trajectory> = Vec::new();
    for (((y, f), f1), (h0, d1, scale)) in y0.into_iter().zip(first).zip(second).zip(guesses) {
        let change: Vec<f64> = f1.iter().zip(&f).map(|(a, b)| a - b).collect();
        let d2 = rms(&change, &scale) / h0;
        let h1 = if d1 <= 1e-15 && d2 <= 1e-15 { (h0 * 1e-3).max(1e-6) } else { (0.01 / d1.max(d2)).powf(0.2) };
        let step = (100.0 * h0).min(h1).min((end - start).abs());
        trajectories.push(Trajectory { at: start, y, slope: f, step, rejected: false });
    }

    loop {
        let going: Vec<usize> = (0..count).filter(|&i| trajectories[i].at != end).collect();
        if going.is_empty() {
            break;
        }
        // Each one's step, not past the end.
        let mut steps = Vec::new();
        for &i in &going {
            let t = &mut trajectories[i];
            let least = 10.0 * (t.at.abs() * f64::EPSILON).max(f64::MIN_POSITIVE);
            if !t.step.is_finite() || t.step < least {
                return Err(Error::new(format!(
                    "the adaptive solver cannot go on from σ = {:.3e}: its step shrank to nothing; raise --rtol and --atol",
                    t.at.exp()
                )));
            }
            let next = t.at + direction * t.step;
            let next = if direction * (next - end) > 0.0 { end } else { next };
            steps.push(next - t.at);
        }
        // Six stages, and the slope at the new place for the error.
        let mut stages: Vec<Vec<Vec<f64>>> = vec![going.iter().map(|&i| trajectories[i].slope.clone()).collect()];
        let combined = |stages: &[Vec<Vec<f64>>], weights: &[f64], k: usize, h: f64, y: &[f64]| -> Vec<f64> {
            let mut out = y.to_vec();
            for (stage, w) in stages.iter().zip(weights).filter(|(_, w)| **w != 0.0) {
                out.iter_mut().zip(&stage[k]).for_each(|(o, f)| *o += h * w * f);
            }
            out
        };
        for s in 1..6 {
            let at: Vec<f64> = going.iter().zip(&steps).map(|(&i, h)| trajectories[i].at + C[s] * h).collect();
            let ys: Vec<Vec<f64>> = going
                .iter()
                .enumerate()
                .map(|(k, &i)| combined(&stages, A[s], k, steps[k], &trajectories[i].y))
                .collect();
            stages.push(slope_at(&going, &at, &ys)?);
        }
        let at: Vec<f64> = going.iter().zip(&steps).map(|(&i, h)| trajectories[i].at + h).collect();
        let new: Vec<Vec<f64>> =
            going.iter().enumerate().map(|(k, &i)| combined(&stages, &B, k, steps[k], &trajectories[i].y)).collect();
        stages.push(slope_at(&going, &at, &new)?);
        for (k, &i) in going.iter().enumerate() {
            let t = &mut trajectories[i];
            let error = combined(&stages, &E, k, steps[k], &vec![0.0; t.y.len()]);
            let scale: Vec<f64> = t.y.iter().zip(&new[k]).map(|(a, b)| atol + a.abs().max(b.abs()) * rtol).collect();
            let norm = rms(&error, &scale);
            if norm < 1.0 {
                let grow = if norm == 0.0 { 10.0 } else { (0.9 * norm.powf(-0.2)).min(10.0) };
                t.step = steps[k].abs() * if t.rejected { grow.min(1.0) } else { grow };
                (t.at, t.y, t.slope, t.rejected) = (at[k], new[k].clone(), stages[6][k].clone(), false);
            } else {
                t.step = steps[k].abs() * (0.9 * norm.powf(-0.2)).max(0.2);
                t.rejected = true;
            }
        }
    }
    Ok((trajectories.into_iter().map(|t| t.y).collect(), cost))
}

fn rms(x: &[f64], scale: &[f64]) -> f64 {
    let sum: f64 = x.iter().zip(scale).map(|(x, s)| (x / s).powi(2)).sum();
    (sum / x.len().max(1) as f64).sqrt()
}

/// x̂₀ of pictures that are each at a level of their own, and which of all they are.
pub type Predict<'a> = dyn Fn(Tensor<4>, &[Level], &[usize]) -> Result<Tensor<4>> + 'a;

/// The level of a σ/α.
pub type AtRatio<'a> = dyn Fn(f64) -> Level + 'a;

/// The flow between levels.
pub struct Flow<'a> {
    /// The network.
    pub predict: &'a Predict<'a>,
    /// The schedule.
    pub at_ratio: &'a AtRatio<'a>,
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// Of the solver.
    pub tolerance: Tolerance,
    /// Where the network computes.
    pub device: Device,
}

impl Flow<'_> {
    /// x̂₀ at y, each at its own σ/α = eᵘ.
    fn x0(&self, which: &[usize], at: &[f64], y: &[&[f64]]) -> Result<Vec<Vec<f64>>> {
        let [c, h, w] = self.shape;
        let levels: Vec<Level> = at.iter().map(|u| (self.at_ratio)(u.exp())).collect();
        let x = y.iter().zip(&levels).flat_map(|(y, l)| y.iter().map(move |v| (v * l.signal) as f32)).collect();
        let x0 = (self.predict)(from_values(x, [y.len(), c, h, w], &self.device), &levels, which)?;
        Ok(to_values(x0).chunks(c * h * w).map(|x| x.iter().map(|&v| f64::from(v)).collect()).collect())
    }

    fn rows(&self, x: Tensor<4>, signal: f64) -> Vec<Vec<f64>> {
        let len: usize = self.shape.iter().product();
        to_values(x).chunks(len).map(|x| x.iter().map(|&v| f64::from(v) / signal).collect()).collect()
    }

    /// Pictures from noise `xt` at the level `from`: the flow down to the level `to`, and x̂₀ there.
    ///
    /// # Errors
    /// If the network fails or the solver cannot go on.
    pub fn sample(&self, xt: Tensor<4>, from: Level, to: Level) -> Result<(Tensor<4>, Cost)> {
        let dims = xt.dims();
        let mut slope = |which: &[usize], at: &[f64], y: &[Vec<f64>]| {
            let x0 = self.x0(which, at, &y.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
            Ok(y.iter().zip(x0).map(|(y, x0)| y.iter().zip(x0).map(|(y, x0)| y - x0).collect()).collect())
        };
        let span = (from.ratio().ln(), to.ratio().ln());
        let (y, cost) = rk45(&mut slope, span, self.rows(xt, from.signal), self.tolerance)?;
        let x = y.iter().flatten().map(|v| (v * to.signal) as f32).collect();
        let (levels, all): (Vec<Level>, Vec<usize>) = (vec![to; dims[0]], (0..dims[0]).collect());
        Ok(((self.predict)(from_values(x, dims, &self.device), &levels, &all)?, cost))
    }

    /// log p(x) of each picture, taken as lying at the level `from`, in nats: the density of where the flow leads it
    /// at the level `to`, N(0, α² + σ²) there, and the divergence on the way (equation 39), which is estimated by
    /// `probes` vectors of ±1 (Hutchinson 1990) held fixed along it, each by a central difference.
    ///
    /// # Errors
    /// As [`Flow::sample`].
    pub fn log_likelihood(&self, x: Tensor<4>, from: Level, to: Level, probes: usize, key: Key) -> Result<Vec<f64>> {
        let d: usize = self.shape.iter().product();
        let signs = |probe: usize, sample: usize| -> Vec<f64> {
            let draws = key.purpose("probe").at(probe as u64).uniform([sample as u64], d);
            draws.into_iter().map(|u| if u < 0.5 { -1.0 } else { 1.0 }).collect()
        };
        let (probes, n) = (probes.max(1), x.dims()[0]);
        let vectors: Vec<Vec<Vec<f64>>> = (0..probes).map(|p| (0..n).map(|i| signs(p, i)).collect()).collect();
        // A state is y and the log-density gathered so far.
        let mut slope = |which: &[usize], at: &[f64], states: &[Vec<f64>]| {
            let y: Vec<&[f64]> = states.iter().map(|s| &s[..d]).collect();
            let mut out: Vec<Vec<f64>> = self
                .x0(which, at, &y)?
                .into_iter()
                .zip(&y)
                .map(|(x0, y)| y.iter().zip(x0).map(|(y, x0)| y - x0).chain([d as f64]).collect())
                .collect();
            for probe in &vectors {
                // The network varies over a distance of σ.
                let side = |sign: f64| -> Result<Vec<Vec<f64>>> {
                    let moved: Vec<Vec<f64>> = y
                        .iter()
                        .zip(which)
                        .zip(at)
                        .map(|((y, &i), u)| {
                            y.iter().zip(&probe[i]).map(|(y, v)| y + sign * DIFFERENCE * u.exp() * v).collect()
                        })
                        .collect();
                    self.x0(which, at, &moved.iter().map(Vec::as_slice).collect::<Vec<_>>())
                };
                let (above, below) = (side(1.0)?, side(-1.0)?);
                for (k, (&i, u)) in which.iter().zip(at).enumerate() {
                    let along = above[k].iter().zip(&below[k]).zip(&probe[i]);
                    let trace: f64 = along.map(|((a, b), v)| v * (a - b)).sum();
                    out[k][d] -= trace / (2.0 * DIFFERENCE * u.exp() * probes as f64);
                }
            }
            Ok(out)
        };
        let mut start = self.rows(x, from.signal);
        start.iter_mut().for_each(|s| s.push(0.0));
        let span = (from.ratio().ln(), to.ratio().ln());
        let (ends, _) = rk45(&mut slope, span, start, self.tolerance)?;
        let variance = 1.0 + to.ratio().powi(2);
        let normal = |y: &[f64]| -> f64 {
            y.iter().map(|v| -0.5 * (v * v / variance + (std::f64::consts::TAU * variance).ln())).sum()
        };
        Ok(ends.iter().map(|s| normal(&s[..d]) + s[d] - d as f64 * from.signal.ln()).collect())
    }
}

/// The central difference's step, in units of σ.
const DIFFERENCE: f64 = 0.01;
