//! A diffusion process in the words of a recipe: the settings that every system's `[model]` table shares.

use kiln_core::{Error, Result, refuse_if};
use serde::{Deserialize, Serialize};

use super::{Process, Training};
use crate::diffusion::objective::{LossWeighting, Objective, TimestepSampling, Weighting};
use crate::diffusion::parameterisation::Prediction;
use crate::diffusion::sampler::ancestral::Variance;
use crate::diffusion::sampler::grid::{Sigmas, Spacing};
use crate::diffusion::sampler::plan::Defaults;
use crate::diffusion::sampler::settings::SamplerSettings;
use crate::diffusion::schedule::{BetaSchedule, ScheduleOptions, Sde};

/// Schedule, prediction, objective and sampler; a system's own settings stand beside them in the same table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessConfig {
    /// T, the number of noising steps.
    pub timesteps: usize,
    /// `linear`, `scaled_linear`, `cosine` or `sigmoid`.
    pub schedule: BetaSchedule,
    /// β at the first of 1000 timesteps; not for the cosine.
    pub beta_start: f64,
    /// β at the last of 1000 timesteps.
    pub beta_end: f64,
    /// Leave nothing of the image at the last timestep (Lin 2024).
    pub zero_terminal_snr: bool,
    /// How noise is added (Song 2021b): `vp`, `subvp`, or `ve`, which has σ below in place of β.
    pub sde: Sde,
    /// The least σ of `ve`.
    pub sigma_min: f64,
    /// The greatest σ of `ve`.
    pub sigma_max: f64,
    /// What the network predicts: `epsilon`, `sample`, `v` or `edm`.
    pub prediction: Prediction,
    /// σ² of the ancestral sampler: `small` (β̃), `large` (β) or `learned` (between them, for each pixel).
    pub variance: Variance,
    /// `simple`, `bound` or `hybrid`.
    pub objective: Objective,
    /// λ, the weight of the bound, in bits a dimension, in the hybrid objective.
    pub bound_weight: f64,
    /// The weight of L_simple at each timestep: `none`, `min-snr` or `p2`.
    pub weighting: Weighting,
    /// γ of `min-snr` (5 in the paper) or of `p2` (1).
    pub weighting_gamma: f64,
    /// k of `p2`.
    pub weighting_k: f64,
    /// How timesteps are drawn: `uniform`, `importance`, `lognormal` or `logitnormal`.
    pub timestep_sampling: TimestepSampling,
    /// Clamp x̂₀ to [−1, 1] while sampling.
    pub clip_sample: bool,
    /// The sampler when none is asked for: `ddpm`, `ddim`, `euler`, `euler-ancestral`, `heun`, `dpm++`, `dpm++-sde`,
    /// `unipc`, `pc` or `ode`.
    pub sampler: String,
    /// Its number of steps when none is asked for; 0 is T.
    pub sampling_steps: usize,
    /// Which timesteps they visit: `leading`, `trailing`, `linspace` or `quadratic`.
    pub timestep_spacing: Spacing,
    /// DDIM's η when none is asked for: 0 deterministic, 1 as random as DDPM. A network that has not seen
    /// much is better sampled with 1, which corrects its errors on the way.
    pub eta: f64,
    /// Spacing of a solver's noise levels (`euler`, `heun`, `dpm++`, `dpm++-sde`, `unipc`) when none is asked for:
    /// `schedule`, `karras` or `exponential`.
    pub sigmas: Sigmas,
    /// The most noise σ/α that `karras` and `exponential` begin at.
    pub sampling_sigma_max: f64,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self {
            timesteps: 1000,
            schedule: BetaSchedule::Linear,
            beta_start: 1e-4,
            beta_end: 0.02,
            zero_terminal_snr: false,
            sde: Sde::Vp,
            sigma_min: 0.01,
            sigma_max: 50.0,
            prediction: Prediction::Epsilon,
            variance: Variance::Large,
            objective: Objective::Simple,
            bound_weight: 1e-3,
            weighting: Weighting::None,
            weighting_gamma: 5.0,
            weighting_k: 1.0,
            timestep_sampling: TimestepSampling::Uniform,
            clip_sample: true,
            sampler: "ddim".into(),
            sampling_steps: 50,
            timestep_spacing: Spacing::Trailing,
            eta: 0.0,
            sigmas: Sigmas::Karras,
            sampling_sigma_max: 80.0,
        }
    }
}

impl ProcessConfig {
    /// The noise schedule's settings.
    pub fn schedule_options(&self) -> ScheduleOptions {
        ScheduleOptions {
            shape: self.schedule,
            steps: self.timesteps,
            beta_start: self.beta_start,
            beta_end: self.beta_end,
            zero_terminal_snr: self.zero_terminal_snr,
            sde: self.sde,
            sigma_min: self.sigma_min,
            sigma_max: self.sigma_max,
        }
    }

    /// Channels of the network's output for data of so many: a learned variance takes as many again.
    pub fn output_channels(&self, channels: usize) -> usize {
        if self.variance == Variance::Learned { 2 * channels } else { channels }
    }

    /// The process, `max_batch` images being shown to its network at once while sampling.
    ///
    /// # Errors
    /// A usage error naming the setting that does not fit.
    pub fn process(&self, max_batch: usize) -> Result<Process> {
        self.check()?;
        let process = Process {
            schedule: self.schedule_options().schedule(),
            prediction: self.prediction,
            variance: self.variance,
            clip: self.clip_sample.then_some(1.0),
            sampling: Defaults {
                sampler: self.sampler.clone(),
                steps: self.sampling_steps,
                grid: self.timestep_spacing.into(),
                eta: self.eta,
                sigmas: self.sigmas,
                sigma_max: self.sampling_sigma_max,
            },
            max_batch: max_batch.max(1),
        };
        process.plan(&SamplerSettings::default())?;
        Ok(process)
    }

    /// How its network is trained.
    pub fn training(&self) -> Training {
        let weighting = LossWeighting { weighting: self.weighting, gamma: self.weighting_gamma, k: self.weighting_k };
        Training::new(self.objective, self.bound_weight, weighting, self.timestep_sampling, self.timesteps)
    }

    fn check(&self) -> Result<()> {
        refuse_if!(self.timesteps < 2, "model.timesteps must be at least 2");
        let learned = self.variance == Variance::Learned;
        refuse_if!(
            learned && self.objective == Objective::Simple,
            "model.variance = \"learned\" needs model.objective = \"hybrid\" or \"bound\""
        );
        refuse_if!(
            self.objective == Objective::Hybrid && !learned,
            "model.objective = \"hybrid\" needs model.variance = \"learned\""
        );
        refuse_if!(
            !(self.bound_weight >= 0.0 && self.bound_weight.is_finite()),
            "model.bound_weight must be at least 0, not {}",
            self.bound_weight
        );
        let positive = [
            ("beta_start", self.beta_start),
            ("beta_end", self.beta_end),
            ("sigma_min", self.sigma_min),
            ("sigma_max", self.sigma_max),
            ("weighting_gamma", self.weighting_gamma),
            ("weighting_k", self.weighting_k),
        ];
        if let Some((name, value)) = positive.into_iter().find(|(_, v)| !(*v > 0.0 && v.is_finite())) {
            return Err(Error::usage(format!("model.{name} must be above 0, not {value}")));
        }
        refuse_if!(
            self.beta_end < self.beta_start || self.sigma_max <= self.sigma_min,
            "model.beta_end must not be below beta_start, and sigma_max must be above sigma_min"
        );
        refuse_if!(
            self.zero_terminal_snr && (self.prediction == Prediction::Epsilon || self.sde == Sde::Ve),
            "model.zero_terminal_snr leaves no image at the last timestep: it needs prediction = \"v\" or \
                 \"sample\", and sde = \"vp\" or \"subvp\""
        );
        refuse_if!(
            self.sde == Sde::Flow && self.prediction == Prediction::Epsilon,
            "model.sde = \"flow\" leaves no image at the last timestep: it needs prediction = \"flow\", \"v\" or \"sample\""
        );
        refuse_if!(
            self.prediction == Prediction::Flow && self.sde != Sde::Flow,
            "model.prediction = \"flow\" is the velocity along straight ways: set model.sde = \"flow\""
        );
        refuse_if!(
            self.sde == Sde::Flow && self.zero_terminal_snr,
            "model.zero_terminal_snr: model.sde = \"flow\" ends in noise alone as it is; leave it out"
        );
        refuse_if!(
            self.weighting != Weighting::None && self.objective == Objective::Bound,
            "model.weighting weighs L_simple; with model.objective = \"bound\" leave it out"
        );
        refuse_if!(
            self.timestep_sampling.ratio(0.0).is_some() && self.objective != Objective::Simple,
            "model.timestep_sampling = \"lognormal\" and \"logitnormal\" need model.objective = \"simple\""
        );
        Ok(())
    }
}
