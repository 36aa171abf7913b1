//! The settings of `kiln sample` for a diffusion process, and which sampler has which.

use kiln_core::{Error, Result};
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Serialize};
use toml::Table;

/// Names of all samplers, and the settings that each has beside those of guidance.
pub const SAMPLERS: [(&str, &[&str]); 10] = [
    ("ddpm", &["steps", "timestep_spacing", "variance", "recurrence"]),
    ("ddim", &["steps", "timestep_spacing", "eta", "recurrence"]),
    (
        "euler",
        &["steps", "timestep_spacing", "sigmas", "sigma_max", "final_sigma", "s_churn", "s_tmin", "s_tmax", "s_noise"],
    ),
    ("euler-ancestral", &["steps", "timestep_spacing"]),
    (
        "heun",
        &["steps", "timestep_spacing", "sigmas", "sigma_max", "final_sigma", "s_churn", "s_tmin", "s_tmax", "s_noise"],
    ),
    ("dpm++", &["steps", "timestep_spacing", "sigmas", "sigma_max", "final_sigma", "order", "solver_type"]),
    ("dpm++-sde", &["steps", "timestep_spacing", "sigmas", "sigma_max", "final_sigma", "order", "solver_type"]),
    ("unipc", &["steps", "timestep_spacing", "sigmas", "sigma_max", "final_sigma", "order", "solver_type"]),
    ("pc", &["steps", "timestep_spacing", "predictor", "corrector_steps", "snr"]),
    ("ode", &["rtol", "atol"]),
];

/// What every sampler has: itself, and what its denoiser is steered by.
const OF_ALL: [&str; 6] =
    ["sampler", "guidance_scale", "guidance_rescale", "guidance_interval", "backward_steps", "backward_rate"];

/// The settings of `kiln sample` for a diffusion process; `None` is the recipe's choice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplerSettings {
    /// One of [`SAMPLERS`].
    pub sampler: Option<String>,
    /// Number of denoising steps.
    pub steps: Option<usize>,
    /// Which of the schedule's timesteps a shorter walk visits: `leading`, `trailing`, `linspace` or `quadratic`.
    pub timestep_spacing: Option<String>,
    /// DDIM's η: 0 deterministic, 1 as random as DDPM.
    pub eta: Option<f64>,
    /// Variance of DDPM's step: `small`, `large`, or `learned` if the network learned it.
    pub variance: Option<String>,
    /// Spacing of a solver's noise levels: `schedule`, `karras` or `exponential`.
    pub sigmas: Option<String>,
    /// The most noise σ/α that such a spacing begins at.
    pub sigma_max: Option<f64>,
    /// Where a solver ends: `zero` or `sigma_min`.
    pub final_sigma: Option<String>,
    /// S_churn of EDM's stochastic sampler; 0 adds no noise.
    pub s_churn: Option<f64>,
    /// The least noise σ/α at which it adds some.
    pub s_tmin: Option<f64>,
    /// The most.
    pub s_tmax: Option<f64>,
    /// The deviation of what it adds.
    pub s_noise: Option<f64>,
    /// Order of a multistep solver.
    pub order: Option<usize>,
    /// Its kind: `midpoint` or `heun`; `bh1` or `bh2`.
    pub solver_type: Option<String>,
    /// Predictor of predictor–corrector: `reverse-diffusion`, `ancestral` or `none`.
    pub predictor: Option<String>,
    /// Langevin steps at each level.
    pub corrector_steps: Option<usize>,
    /// Their signal-to-noise ratio.
    pub snr: Option<f64>,
    /// Relative tolerance of the adaptive solver.
    pub rtol: Option<f64>,
    /// Its absolute tolerance.
    pub atol: Option<f64>,
    /// Classifier-free guidance scale w.
    pub guidance_scale: Option<f64>,
    /// How far guidance is brought back to the unguided deviation: 0 to 1.
    pub guidance_rescale: Option<f64>,
    /// Noise σ/α between which to guide.
    pub guidance_interval: Option<[f64; 2]>,
    /// Steps of universal guidance on the predicted image itself.
    pub backward_steps: Option<usize>,
    /// The size of each.
    pub backward_rate: Option<f64>,
    /// How often each step is undone and taken again.
    pub recurrence: Option<usize>,
}

impl SamplerSettings {
    /// Whether classifier-free guidance was asked for.
    pub fn guides(&self) -> bool {
        self.guidance_scale.is_some() || self.guidance_rescale.is_some() || self.guidance_interval.is_some()
    }

    /// Those that were given, as a request carries them.
    pub fn table(&self) -> Table {
        // Names with texts and numbers are always a table.
        Table::try_from(self).unwrap_or_default()
    }

    /// Refuses what the sampler `name` does not have.
    pub(super) fn check_given(&self, name: &str) -> Result<()> {
        let Some((_, settings)) = SAMPLERS.iter().find(|(sampler, _)| *sampler == name) else {
            let names = SAMPLERS.map(|(sampler, _)| sampler);
            return Err(Error::usage(format!("--sampler {name}: there are {}", names.join(", "))));
        };
        let foreign = |key: &&String| !OF_ALL.contains(&key.as_str()) && !settings.contains(&key.as_str());
        let Some(key) = self.table().keys().find(foreign).cloned() else { return Ok(()) };
        let has: Vec<&str> = SAMPLERS.iter().filter(|(_, all)| all.contains(&key.as_str())).map(|(s, _)| *s).collect();
        Err(Error::usage(format!(
            "--{}: the sampler {name} does not have it; it is for {}",
            key.replace('_', "-"),
            has.join(", ")
        )))
    }
}

/// The variant of that name.
///
/// # Errors
/// A usage error naming the flag and what there is.
pub fn choice<T: DeserializeOwned>(flag: &str, name: &str) -> Result<T> {
    T::deserialize(name.into_deserializer()).map_err(|e: serde::de::value::Error| {
        let message = e.to_string();
        let expected = message.rsplit_once("expected").map_or(message.as_str(), |(_, names)| names.trim());
        Error::usage(format!("{flag} {name}: expected {expected}"))
    })
}

/// The same, or the default where nothing is asked for.
///
/// # Errors
/// As [`choice`].
pub fn choice_or_default<T: DeserializeOwned + Default>(flag: &str, name: Option<&str>) -> Result<T> {
    name.map_or(Ok(T::default()), |name| choice(flag, name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    /// Each setting is of a sampler or of all, and no table names another.
    #[test]
    fn every_setting_has_its_samplers() {
        let text = || Some("x".to_string());
        let all = SamplerSettings {
            sampler: text(),
            steps: Some(1),
            timestep_spacing: text(),
            eta: Some(1.0),
            variance: text(),
            sigmas: text(),
            sigma_max: Some(1.0),
            final_sigma: text(),
            s_churn: Some(1.0),
            s_tmin: Some(1.0),
            s_tmax: Some(1.0),
            s_noise: Some(1.0),
            order: Some(1),
            solver_type: text(),
            predictor: text(),
            corrector_steps: Some(1),
            snr: Some(1.0),
            rtol: Some(1.0),
            atol: Some(1.0),
            guidance_scale: Some(1.0),
            guidance_rescale: Some(1.0),
            guidance_interval: Some([0.0, 1.0]),
            backward_steps: Some(1),
            backward_rate: Some(1.0),
            recurrence: Some(1),
        };
        let given = all.table();
        let named = || SAMPLERS.iter().flat_map(|(_, settings)| *settings).chain(&OF_ALL);
        for key in given.keys() {
            assert!(named().any(|name| name == key), "{key} is of no sampler");
        }
        for name in named() {
            assert!(given.contains_key(*name), "{name} is no setting");
        }
        assert_eq!(given.try_into::<SamplerSettings>().unwrap(), all);
    }
}
