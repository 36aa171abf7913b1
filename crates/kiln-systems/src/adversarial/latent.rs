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
        let n = request.len();
        let z = match &request.noise {
            None => self.draw(request.key.purpose("latent"), request.indices.clone(), size, &request.device),
            Some(noise) if noise.dims() == [n, size, 1, 1] => noise.clone().reshape([n, size]),
            Some(noise) => {
                return Err(Error::usage(format!(
                    "--noise: expected shape {:?} (latents), got {:?}",
                    [n, size, 1, 1],
                    noise.dims()
                )));
            }
        };
        let psi = truncation_psi(request, system)?;
        Ok(if psi == 1.0 { z } else { z * psi })
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
