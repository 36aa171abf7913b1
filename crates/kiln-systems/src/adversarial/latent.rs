//! The generator's input z.

use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_nn::tensor;
use kiln_train::ability::slerp;
use kiln_train::{Batch, Request};
use serde::{Deserialize, Serialize};

use crate::one_pass::truncation_psi;

/// What z is drawn from, each element alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// U(−1, 1).
    Uniform,
    /// N(0, 1).
    Normal,
}

/// Checks latents that a system is given.
///
/// # Errors
/// A usage error if a row has another number of them than `expected`.
pub fn check_length(latents: &Tensor<2>, expected: usize) -> Result<()> {
    let got = latents.dims()[1];
    if got == expected {
        return Ok(());
    }
    Err(Error::usage(format!("latents of {got} numbers; this run's have {expected}")))
}

impl Distribution {
    fn draw(self, key: Key, samples: std::ops::Range<u64>, size: usize, device: &burn::tensor::Device) -> Tensor<2> {
        let shape = [(samples.end - samples.start) as usize, size];
        match self {
            Self::Uniform => tensor::uniform(key, samples, shape, device) * 2.0 - 1.0,
            Self::Normal => tensor::normal(key, samples, shape, device),
        }
    }

    /// Latents to train on, `[n, size]`; each `purpose` has its own.
    pub fn train(self, batch: &Batch, purpose: &str, size: usize) -> Tensor<2> {
        self.draw(batch.key(purpose), batch.samples(), size, batch.device())
    }

    /// Latents of a request: its own noise if it brings any, else keyed draws; drawn towards their
    /// mean 0 by the factor ψ (`--truncation-psi`: less variety, fewer failures).
    ///
    /// # Shapes
    /// `[n, size]`
    ///
    /// # Errors
    /// If the noise is not `[n, size, 1, 1]`, or ψ is not in `[0, 1]`.
    pub fn requested(self, request: &Request, size: usize, system: &str) -> Result<Tensor<2>> {
        let z = self.untruncated(request, size)?;
        let psi = truncation_psi(request, system)?;
        Ok(if psi == 1.0 { z } else { z * psi })
    }

    /// A request's own noise, or keyed draws.
    fn untruncated(self, request: &Request, size: usize) -> Result<Tensor<2>> {
        let n = request.len();
        match &request.noise {
            None => Ok(self.draw(request.key.purpose("latent"), request.indices.clone(), size, &request.device)),
            Some(noise) if noise.dims() == [n, size, 1, 1] => Ok(noise.clone().reshape([n, size])),
            Some(noise) => Err(Error::usage(format!(
                "--noise: expected shape {:?} (latents), got {:?}",
                [n, size, 1, 1],
                noise.dims()
            ))),
        }
    }

    /// The point a fraction `t` of the way from `a` to `b`: on the straight line in the cube of
    /// uniform latents, on the great circle for normal ones, which keeps their norm.
    ///
    /// # Shapes
    /// `[1, size]`, `[1, size]` → `[1, size]`
    pub fn between(self, a: Tensor<2>, b: Tensor<2>, t: f64) -> Tensor<2> {
        match self {
            Self::Uniform => a * (1.0 - t) + b * t,
            Self::Normal => slerp(a, b, t),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Threshold {
    #[serde(default)]
    truncation_psi: Option<f64>,
}

/// The largest threshold of [`resampled`]: further out there is nothing in f32.
const LARGEST_THRESHOLD: f64 = 8.0;

/// Normal latents of a request, as [`Distribution::requested`] has them, but with every number beyond the threshold
/// `--truncation-psi` drawn again until it is within: the truncation trick of Brock 2019, section 3.1. Numbers within stay as
/// they are.
///
/// # Shapes
/// `[n, size]`
///
/// # Errors
/// If the noise is not `[n, size, 1, 1]`, or the threshold is not in [0, 8].
pub fn resampled(request: &Request, size: usize, system: &str) -> Result<Tensor<2>> {
    let Threshold { truncation_psi: threshold } = request.sampler(system)?;
    let z = Distribution::Normal.untruncated(request, size)?;
    let Some(threshold) = threshold else { return Ok(z) };
    if !(0.0..=LARGEST_THRESHOLD).contains(&threshold) {
        return Err(Error::usage(format!(
            "--truncation-psi {threshold}: of {system} it is the largest deviation of a latent, 0 to {LARGEST_THRESHOLD}"
        )));
    }
    let mut values = tensor::to_values(z);
    let key = request.key.purpose("truncation");
    for (index, row) in request.indices.clone().zip(values.chunks_mut(size)) {
        redraw(key, index, row, threshold as f32);
    }
    Ok(tensor::from_values(values, [request.len(), size], &request.device))
}

/// Draws what lies beyond the threshold again, by rejection from the uniform distribution within it: x is taken with the
/// probability exp(−x²/2).
fn redraw(key: Key, index: u64, row: &mut [f32], threshold: f32) {
    for round in 0.. {
        if row.iter().all(|value| value.abs() <= threshold) {
            return;
        }
        let draws = key.at(round).uniform([index], 2 * row.len());
        for (value, draw) in row.iter_mut().zip(draws.chunks(2)).filter(|(value, _)| value.abs() > threshold) {
            let candidate = (2.0 * draw[0] - 1.0) * threshold;
            if draw[1] < (-0.5 * candidate * candidate).exp() {
                *value = candidate;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;

    use super::*;

    fn asked(indices: std::ops::Range<u64>, psi: f64) -> Request {
        let sampler = toml::Table::from_iter([("truncation_psi".to_string(), psi.into())]);
        Request { sampler, ..Request::new(indices, 3, &Device::flex()) }
    }

    #[test]
    fn what_is_beyond_the_threshold_is_drawn_again_and_nothing_else() {
        let size = 40;
        let free =
            to_values(Distribution::Normal.requested(&Request::new(0..200, 3, &Device::flex()), size, "x").unwrap());
        for (threshold, variance) in [(2.0f32, 0.774), (1.0, 0.291), (0.5, 0.0806), (0.04, 0.000_533)] {
            let z = to_values(resampled(&asked(0..200, threshold.into()), size, "x").unwrap());
            assert!(z.iter().zip(&free).all(|(z, free)| free.abs() > threshold || z == free));
            assert!(z.iter().all(|z| z.abs() <= threshold));
            // The variance of scipy.stats.truncnorm(-threshold, threshold).
            let found = z.iter().map(|z| f64::from(z * z)).sum::<f64>() / z.len() as f64;
            assert!((found / variance - 1.0).abs() < 0.04, "{threshold}: {found} instead of {variance}");
            let alone = to_values(resampled(&asked(17..18, threshold.into()), size, "x").unwrap());
            assert_eq!(alone, z[17 * size..18 * size]);
        }
        assert!(to_values(resampled(&asked(0..3, 0.0), size, "x").unwrap()).iter().all(|z| *z == 0.0));
        for psi in [-0.1, 9.0, f64::NAN] {
            assert!(resampled(&asked(0..3, psi), size, "x").err().is_some_and(|e| e.is_usage()));
        }
    }
}
