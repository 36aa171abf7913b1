//! Sampler settings of systems that draw in one pass of their network.

use kiln_core::{Error, Result};
use kiln_train::Request;
use serde::Deserialize;

/// No settings at all.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Truncation {
    #[serde(default = "untruncated")]
    truncation_psi: f64,
}

fn untruncated() -> f64 {
    1.0
}

/// ψ of `--truncation-psi`, which latents are multiplied by: less variety, fewer failures. 1 if it is not given.
///
/// # Errors
/// A usage error for another sampler setting, or for a ψ outside [0, 1].
pub fn truncation_psi(request: &Request, system: &str) -> Result<f64> {
    let Truncation { truncation_psi: psi } = request.sampler(system)?;
    if (0.0..=1.0).contains(&psi) {
        return Ok(psi);
    }
    Err(Error::usage(format!("--truncation-psi {psi}: must be between 0 and 1")))
}
