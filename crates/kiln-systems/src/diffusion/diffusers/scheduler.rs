//! diffusers' schedulers: `scheduler_config.json`, the noise schedule it describes, and which times a
//! walk takes.

use burn::tensor::Tensor;
use kiln_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::json::Fields;
use crate::diffusion::parameterisation::Prediction;
use crate::diffusion::sampler::ancestral::{Variance, ddim_step};
use crate::diffusion::sampler::grid::Spacing;
use crate::diffusion::schedule::{self, Level, NoiseSchedule, ScheduleOptions, alphas_cumprod};

/// Which of diffusers' schedulers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SchedulerClass {
    /// The ancestral chain.
    #[default]
    DDPMScheduler,
    /// DDIM.
    DDIMScheduler,
    /// DPM-Solver++, of second order.
    DPMSolverMultistepScheduler,
}

/// The shape of β.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// From `beta_start` to `beta_end` in equal steps.
    #[default]
    Linear,
    /// √β in equal steps.
    ScaledLinear,
    /// ᾱ falls as a squared cosine (Nichol & Dhariwal 2021, equation 17).
    SquaredcosCapV2,
    /// Along a sigmoid from −6 to 6.
    Sigmoid,
}

impl BetaSchedule {
    fn shape(self) -> schedule::BetaSchedule {
        match self {
            Self::Linear => schedule::BetaSchedule::Linear,
            Self::ScaledLinear => schedule::BetaSchedule::ScaledLinear,
            Self::SquaredcosCapV2 => schedule::BetaSchedule::Cosine,
            Self::Sigmoid => schedule::BetaSchedule::Sigmoid,
        }
    }
}

/// The variance of the ancestral chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VarianceType {
    /// β̃.
    #[default]
    FixedSmall,
    /// The same, from its logarithm.
    FixedSmallLog,
    /// β.
    FixedLarge,
    /// Between them, where the network says.
    LearnedRange,
}

impl From<VarianceType> for Variance {
    fn from(kind: VarianceType) -> Self {
        match kind {
            VarianceType::FixedSmall | VarianceType::FixedSmallLog => Self::Small,
            VarianceType::FixedLarge => Self::Large,
            VarianceType::LearnedRange => Self::Learned,
        }
    }
}

/// The fields of `scheduler_config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SchedulerConfig {
    /// `_class_name`.
    pub class: SchedulerClass,
    /// T.
    pub num_train_timesteps: usize,
    /// The shape of β.
    pub beta_schedule: BetaSchedule,
    /// β at the first step.
    pub beta_start: f64,
    /// β at the last one.
    pub beta_end: f64,
    /// Every β, in place of the three above; empty for none.
    pub trained_betas: Vec<f64>,
    /// Bend the schedule so that nothing is left of the picture at T (Lin 2024, algorithm 1).
    pub rescale_betas_zero_snr: bool,
    /// What the network predicts: `epsilon`, `sample` or `v`.
    pub prediction: Prediction,
    /// σ² of the ancestral chain.
    pub variance_type: VarianceType,
    /// Clamp x̂₀ while sampling.
    pub clip_sample: bool,
    /// To this value either way.
    pub clip_sample_range: f64,
    /// DDIM's last step goes to ᾱ = 1; else to ᾱ of the first time.
    pub set_alpha_to_one: bool,
    /// Added to the times of leading spacing.
    pub steps_offset: usize,
    /// Which times a shorter walk visits.
    pub timestep_spacing: Spacing,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            class: SchedulerClass::DDPMScheduler,
            num_train_timesteps: 1000,
            beta_schedule: BetaSchedule::Linear,
            beta_start: 1e-4,
            beta_end: 0.02,
            trained_betas: Vec::new(),
            rescale_betas_zero_snr: false,
            prediction: Prediction::Epsilon,
            variance_type: VarianceType::FixedSmall,
            clip_sample: true,
            clip_sample_range: 1.0,
            set_alpha_to_one: true,
            steps_offset: 0,
            timestep_spacing: Spacing::Leading,
        }
    }
}

impl SchedulerConfig {
    /// Reads `scheduler_config.json`.
    ///
    /// # Errors
    /// Names the file, the field and its value where Kiln does not have it.
    pub fn read(mut fields: Fields) -> Result<Self> {
        let place = fields.place().to_string();
        let class = match fields.value("_class_name") {
            Some(name) => serde_json::from_value(name.clone()).map_err(|_| {
                fields.refuse(
                    "_class_name",
                    &name,
                    "supported: DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler",
                )
            })?,
            None => return Err(Error::new(format!("{place}: no `_class_name`; is it a scheduler of diffusers?"))),
        };
        let solver = class == SchedulerClass::DPMSolverMultistepScheduler;
        let spacing = if solver { Spacing::Linspace } else { Spacing::Leading };
        let config = Self {
            class,
            num_train_timesteps: fields.or("num_train_timesteps", 1000, "a whole number")?,
            beta_schedule: fields.or(
                "beta_schedule",
                BetaSchedule::Linear,
                "\"linear\", \"scaled_linear\", \"squaredcos_cap_v2\" or \"sigmoid\"",
            )?,
            beta_start: fields.or("beta_start", 1e-4, "a number")?,
            beta_end: fields.or("beta_end", 0.02, "a number")?,
            trained_betas: fields.optional("trained_betas", "a list of numbers")?.unwrap_or_default(),
            rescale_betas_zero_snr: fields.or("rescale_betas_zero_snr", false, "true or false")?,
            prediction: match fields.value("prediction_type") {
                None => Prediction::Epsilon,
                Some(Value::String(name)) if name == "epsilon" => Prediction::Epsilon,
                Some(Value::String(name)) if name == "sample" => Prediction::Sample,
                Some(Value::String(name)) if name == "v_prediction" => Prediction::V,
                Some(other) => {
                    let supported = "supported: \"epsilon\", \"sample\", \"v_prediction\"";
                    return Err(fields.refuse("prediction_type", &other, supported));
                }
            },
            variance_type: fields
                .optional(
                    "variance_type",
                    "\"fixed_small\", \"fixed_small_log\", \"fixed_large\" or \"learned_range\"",
                )?
                .unwrap_or_default(),
            // DPM-Solver does not clamp.
            clip_sample: fields.or("clip_sample", true, "true or false")? && !solver,
            clip_sample_range: fields.or("clip_sample_range", 1.0, "a number")?,
            set_alpha_to_one: fields.or("set_alpha_to_one", true, "true or false")?,
            steps_offset: fields.or("steps_offset", 0, "a whole number")?,
            timestep_spacing: fields.or("timestep_spacing", spacing, "\"leading\", \"trailing\" or \"linspace\"")?,
        };
        fields.only(&[("thresholding", &[json!(false)])])?;
        if solver {
            fields.only(&[
                ("solver_order", &[json!(2)]),
                ("algorithm_type", &[json!("dpmsolver++")]),
                ("solver_type", &[json!("midpoint")]),
                ("lower_order_final", &[json!(true)]),
                ("euler_at_final", &[json!(false)]),
                ("use_karras_sigmas", &[json!(false)]),
                ("use_exponential_sigmas", &[json!(false)]),
                ("use_beta_sigmas", &[json!(false)]),
                ("use_lu_lambdas", &[json!(false)]),
                ("use_flow_sigmas", &[json!(false)]),
                ("use_dynamic_shifting", &[json!(false)]),
                ("final_sigmas_type", &[json!("zero")]),
            ])?;
        }
        // Of thresholding, which is refused; of schedulers that the file may also be used with, which
        // diffusers keeps; and of versions long gone.
        fields.ignore(&[
            "dynamic_thresholding_ratio",
            "sample_max_value",
            "solver_order",
            "algorithm_type",
            "solver_type",
            "lower_order_final",
            "euler_at_final",
            "use_karras_sigmas",
            "use_exponential_sigmas",
            "use_beta_sigmas",
            "use_lu_lambdas",
            "use_flow_sigmas",
            "use_dynamic_shifting",
            "flow_shift",
            "time_shift_type",
            "final_sigmas_type",
            "lambda_min_clipped",
            "skip_prk_steps",
            "tensor_format",
            "timestep_values",
        ]);
        fields.finish()?;
        config.check().map_err(|why| Error::new(format!("{place}: {why}")))?;
        Ok(config)
    }

    /// Why these settings are no schedule, if they are not; fields are named.
    pub fn check(&self) -> Result<(), String> {
        let steps = self.num_train_timesteps;
        if !(2..=1_000_000).contains(&steps) {
            return Err(format!("`num_train_timesteps` = {steps} must be from 2 to 1000000"));
        }
        if !self.trained_betas.is_empty() && self.trained_betas.len() != steps {
            return Err(format!(
                "`trained_betas` has {} numbers and `num_train_timesteps` is {steps}",
                self.trained_betas.len()
            ));
        }
        if self.steps_offset >= steps {
            return Err(format!(
                "`steps_offset` = {} must be less than `num_train_timesteps` = {steps}",
                self.steps_offset
            ));
        }
        if self.clip_sample_range.is_nan() || self.clip_sample_range <= 0.0 {
            return Err(format!("`clip_sample_range` = {} must be more than 0", self.clip_sample_range));
        }
        if matches!(self.prediction, Prediction::Edm | Prediction::Flow) {
            return Err("`prediction` must be epsilon, sample or v, as diffusers has them".into());
        }
        if self.timestep_spacing == Spacing::Quadratic {
            return Err("`timestep_spacing` must be leading, trailing or linspace, as diffusers has them".into());
        }
        if self.rescale_betas_zero_snr && self.prediction == Prediction::Epsilon {
            return Err(
                "`rescale_betas_zero_snr` needs `prediction_type` v_prediction or sample: ε says nothing of the \
                        picture where it is all noise"
                    .into(),
            );
        }
        let betas = self.betas();
        if let Some(t) = betas.iter().position(|b| !(*b > 0.0 && *b < 1.0)) {
            let place = if self.trained_betas.is_empty() { "`beta_start`, `beta_end`" } else { "`trained_betas`" };
            return Err(format!("{place}: β at step {t} is {}, which must lie between 0 and 1", betas[t]));
        }
        Ok(())
    }

    /// Every β, before any rescaling.
    fn betas(&self) -> Vec<f64> {
        match self.trained_betas.is_empty() {
            true => self.beta_schedule.shape().betas(self.num_train_timesteps, self.beta_start, self.beta_end),
            false => self.trained_betas.clone(),
        }
    }

    /// The noise schedule.
    pub fn schedule(&self) -> NoiseSchedule {
        let cosine = self.beta_schedule == BetaSchedule::SquaredcosCapV2 && self.trained_betas.is_empty();
        let shape = if cosine { schedule::BetaSchedule::Cosine } else { schedule::BetaSchedule::Linear };
        NoiseSchedule::of_alphas_cumprod(shape, &alphas_cumprod(&self.betas(), self.rescale_betas_zero_snr))
    }

    /// The settings that give a schedule of Kiln's; its own list of β where diffusers has no name for it.
    pub fn of_schedule(options: &ScheduleOptions) -> Self {
        let betas = options.betas();
        let [beta_start, beta_end] = options.beta_ends();
        let base = Self {
            num_train_timesteps: options.steps,
            rescale_betas_zero_snr: options.zero_terminal_snr,
            ..Self::default()
        };
        let shapes =
            [BetaSchedule::Linear, BetaSchedule::SquaredcosCapV2, BetaSchedule::ScaledLinear, BetaSchedule::Sigmoid];
        let named = shapes.map(|beta_schedule| match beta_schedule {
            BetaSchedule::SquaredcosCapV2 => Self { beta_schedule, ..base.clone() },
            _ => Self { beta_schedule, beta_start, beta_end, ..base.clone() },
        });
        let fits = |c: &Self| c.betas().iter().zip(&betas).all(|(a, b)| (a - b).abs() <= 1e-9 * b);
        let found = named.into_iter().find(fits);
        found.unwrap_or(Self { trained_betas: betas, ..base })
    }

    /// The levels of a walk through `times` and where each step leads.
    ///
    /// diffusers' DDIM leads from t to t − ⌊T / steps⌋, which is not the next time where the spacing is not
    /// leading or `steps` does not divide T; its ancestral chain leads to the next time.
    pub fn walk(
        &self,
        schedule: &NoiseSchedule,
        times: &[usize],
        spacing: Spacing,
        ancestral: bool,
    ) -> Vec<(Level, Level)> {
        let end = if self.set_alpha_to_one { None } else { Some(0) };
        let stride = schedule.steps() / times.len().max(1);
        let before = |i: usize, t: usize| match (ancestral, spacing) {
            (true, _) => times.get(i + 1).copied(),
            (false, Spacing::Quadratic) => times.get(i + 1).copied().or(end),
            (false, _) => t.checked_sub(stride).or(end),
        };
        let step = |(i, &t): (usize, &usize)| (schedule.level(t), schedule.level_or_picture(before(i, t)));
        times.iter().enumerate().map(step).collect()
    }

    /// `scheduler_config.json`.
    pub fn to_json(&self) -> Value {
        let mut fields = json!({
            "_class_name": self.class,
            "_diffusers_version": super::VERSION,
            "num_train_timesteps": self.num_train_timesteps,
            "beta_schedule": self.beta_schedule,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "trained_betas": if self.trained_betas.is_empty() { Value::Null } else { json!(self.trained_betas) },
            "rescale_betas_zero_snr": self.rescale_betas_zero_snr,
            "prediction_type": match self.prediction {
                Prediction::Epsilon => "epsilon",
                Prediction::Sample => "sample",
                // Karras' prediction has no name in diffusers; no file is read into it, and no run is written with it.
                Prediction::V | Prediction::Edm | Prediction::Flow => "v_prediction",
            },
            "steps_offset": self.steps_offset,
            "timestep_spacing": self.timestep_spacing,
        });
        let own = match self.class {
            SchedulerClass::DDPMScheduler => json!({
                "variance_type": self.variance_type,
                "clip_sample": self.clip_sample,
                "clip_sample_range": self.clip_sample_range,
            }),
            SchedulerClass::DDIMScheduler => json!({
                "set_alpha_to_one": self.set_alpha_to_one,
                "clip_sample": self.clip_sample,
                "clip_sample_range": self.clip_sample_range,
            }),
            SchedulerClass::DPMSolverMultistepScheduler => json!({
                "variance_type": match self.variance_type {
                    VarianceType::LearnedRange => json!("learned_range"),
                    _ => Value::Null,
                },
            }),
        };
        if let (Value::Object(fields), Value::Object(own)) = (&mut fields, own) {
            fields.extend(own);
        }
        fields
    }
}

/// One DDIM step as diffusers takes it: x̂₀ is clamped, and ε stays what the network said. Kiln's own
/// systems take ε from the clamped x̂₀, which is diffusers' `use_clipped_model_output`.
pub fn ddim_step_keeping_epsilon(
    (from, to): (Level, Level),
    xt: Tensor<4>,
    x0: Tensor<4>,
    clamped: Tensor<4>,
    eta: f64,
    noise: impl FnOnce() -> Tensor<4>,
) -> Tensor<4> {
    // The step is linear in x̂₀ at a given ε, with the factor α of the level stepped to.
    let moved = (clamped - x0.clone()) * to.signal;
    ddim_step((from, to), xt, x0, eta, noise) + moved
}
