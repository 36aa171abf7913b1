//! From the settings of a recipe and of a request to a sampler and the levels it visits.

use burn::tensor::Tensor;
use kiln_core::{Error, Result};

use super::ancestral::{Ancestral, Variance};
use super::grid::{self, Family, FinalSigma, Sigmas, TimestepGrid};
use super::multistep::{self, DpmSolver};
use super::ode::Tolerance;
use super::predictor_corrector::{Predictor, PredictorCorrector};
use super::settings::{SamplerSettings, choice, choice_or_default};
use super::unipc::{self, UniPc};
use super::{Denoiser, Noise, sigma};
use crate::diffusion::schedule::{Level, NoiseSchedule, Sde};

/// What a recipe says of sampling.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    /// The sampler.
    pub sampler: String,
    /// Its steps; 0 is T.
    pub steps: usize,
    /// Which timesteps they visit.
    pub grid: TimestepGrid,
    /// DDIM's η.
    pub eta: f64,
}

impl Defaults {
    /// Which timesteps a request visits.
    ///
    /// # Errors
    /// If its spacing is none.
    pub fn grid_of(&self, settings: &SamplerSettings) -> Result<TimestepGrid> {
        match &settings.timestep_spacing {
            Some(name) => Ok(TimestepGrid { spacing: choice("--timestep-spacing", name)?, ..self.grid }),
            None => Ok(self.grid),
        }
    }
}

/// A sampler, its options resolved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// DDPM and DDIM.
    Ancestral(Ancestral),
    /// Euler's method.
    Euler,
    /// Euler's, with noise.
    EulerAncestral,
    /// Heun's method.
    Heun,
    /// DPM-Solver++.
    DpmSolver(DpmSolver),
    /// UniPC.
    UniPc(UniPc),
    /// Song's predictor and corrector.
    PredictorCorrector(PredictorCorrector),
    /// The probability-flow equation by an adaptive solver.
    Ode(Tolerance),
}

/// A sampler and the levels it visits, the noisiest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// How.
    pub method: Method,
    /// Where.
    pub levels: Vec<Level>,
}

fn within(flag: &str, value: f64, low: f64, high: f64) -> Result<f64> {
    if (low..=high).contains(&value) {
        return Ok(value);
    }
    let range = if high.is_finite() { format!("between {low} and {high}") } else { format!("at least {low}") };
    Err(Error::usage(format!("{flag} {value}: must be {range}")))
}

/// A number of repetitions that may still come to an end.
fn repeated(flag: &str, given: Option<usize>, usual: usize) -> Result<usize> {
    match given {
        Some(count) if count > 10_000 => Err(Error::usage(format!("{flag} {count}: must be at most 10000"))),
        _ => Ok(given.unwrap_or(usual)),
    }
}

impl Plan {
    /// What `settings` ask for, and what they leave open as the recipe has it; `variance` is the model's.
    ///
    /// # Errors
    /// A usage error naming the setting.
    pub fn new(
        schedule: &NoiseSchedule,
        variance: Variance,
        settings: &SamplerSettings,
        defaults: &Defaults,
    ) -> Result<Self> {
        let s = settings;
        let name = s.sampler.as_deref().unwrap_or(&defaults.sampler);
        s.check_given(name)?;
        let grid = defaults.grid_of(s)?;
        let total = schedule.steps();
        let steps = match (s.steps, name, defaults.steps) {
            (Some(steps), ..) => steps,
            // What a recipe says is of its own sampler: a chain asked for in its place is taken whole.
            (None, "ddpm" | "pc", _) if name != defaults.sampler => total,
            (None, "ddpm" | "pc" | "ddim" | "euler" | "heun" | "euler-ancestral", 0) => total,
            // The multistep solvers visit one time less than they count.
            (None, _, 0) => total - 1,
            (None, _, steps) => steps,
        };
        let order = |most: usize| match s.order.unwrap_or(2) {
            order if (1..=most).contains(&order) => Ok(order),
            order => Err(Error::usage(format!("--order {order}: {name} has 1 to {most}"))),
        };
        let method = match name {
            "ddpm" | "ddim" => Method::Ancestral(Ancestral {
                eta: match name {
                    "ddpm" => None,
                    _ => Some(within("--eta (model.eta)", s.eta.unwrap_or(defaults.eta), 0.0, 1.0)?),
                },
                variance: match (s.variance.as_deref(), variance) {
                    (None | Some("learned"), Variance::Learned) => Variance::Learned,
                    (None, variance) => variance,
                    (Some("small"), _) => Variance::Small,
                    (Some("large"), _) => Variance::Large,
                    (Some(other), _) => {
                        return Err(Error::usage(format!(
                            "--variance {other}: there are small and large, and learned if the model learned it"
                        )));
                    }
                },
                recurrence: repeated("--recurrence", s.recurrence, 0)?,
            }),
            "euler" => Method::Euler,
            "euler-ancestral" => Method::EulerAncestral,
            "heun" => Method::Heun,
            "dpm++" | "dpm++-sde" => {
                let stochastic = name == "dpm++-sde";
                let kind: multistep::Kind = choice_or_default("--solver-type", s.solver_type.as_deref())?;
                let order = order(3)?;
                if order == 1 && s.solver_type.is_some() {
                    return Err(Error::usage("--solver-type: a solver of --order 1 has but one; leave it out"));
                }
                Method::DpmSolver(DpmSolver { order, kind, stochastic })
            }
            "unipc" => {
                let kind: unipc::Kind = choice_or_default("--solver-type", s.solver_type.as_deref())?;
                Method::UniPc(UniPc { order: order(3)?, kind })
            }
            "pc" => {
                let predictor = choice_or_default("--predictor", s.predictor.as_deref())?;
                let corrector_steps = repeated("--corrector-steps", s.corrector_steps, 1)?;
                if predictor == Predictor::None && corrector_steps == 0 {
                    return Err(Error::usage("--predictor none --corrector-steps 0: nothing is left that steps"));
                }
                let snr = within("--snr", s.snr.unwrap_or(0.16), 1e-6, f64::INFINITY)?;
                Method::PredictorCorrector(PredictorCorrector { predictor, corrector_steps, snr })
            }
            _ => {
                let usual = Tolerance::default();
                Method::Ode(Tolerance {
                    rtol: within("--rtol", s.rtol.unwrap_or(usual.rtol), 1e-12, 1.0)?,
                    atol: within("--atol", s.atol.unwrap_or(usual.atol), 1e-12, f64::INFINITY)?,
                })
            }
        };
        let sigmas: Sigmas = choice_or_default("--sigmas", s.sigmas.as_deref())?;
        let end: FinalSigma = choice_or_default("--final-sigma", s.final_sigma.as_deref())?;
        if s.timestep_spacing.is_some() && sigmas != Sigmas::Schedule && matches!(name, "dpm++" | "dpm++-sde" | "unipc")
        {
            return Err(Error::usage(
                "--timestep-spacing: --sigmas karras and exponential choose the times; leave one out",
            ));
        }
        let sigma_max = match s.sigma_max {
            Some(_) if sigmas == Sigmas::Schedule => {
                return Err(Error::usage("--sigma-max: for --sigmas karras and exponential; the schedule has its own"));
            }
            given => within("--sigma-max", given.unwrap_or(f64::INFINITY), f64::MIN_POSITIVE, f64::INFINITY)?,
        };
        let solver = |family| grid::solver(schedule, steps, grid, (sigmas, sigma_max), end, family);
        let levels = match method {
            Method::Ancestral(_) | Method::PredictorCorrector(_) => grid::discrete(schedule, steps, grid)?,
            Method::Euler | Method::EulerAncestral | Method::Heun => solver(Family::Sigma)?,
            Method::DpmSolver(_) => solver(Family::Dpm)?,
            Method::UniPc(_) => solver(Family::UniPc)?,
            Method::Ode(_) => ends(schedule).to_vec(),
        };
        Ok(Self { method, levels })
    }

    /// About how often the network is asked; `None` if the solver decides.
    pub fn evaluations(&self) -> Option<usize> {
        let steps = self.levels.len() - 1;
        match self.method {
            Method::Ancestral(walk) => Some(steps * (walk.recurrence + 1)),
            // A last step to the picture itself is Euler's.
            Method::Heun => Some(2 * steps - usize::from(self.levels[steps].sigma == 0.0)),
            Method::PredictorCorrector(pc) => Some(steps * (pc.corrector_steps + 1)),
            Method::Ode(_) => None,
            _ => Some(steps),
        }
    }

    /// Walks `xt` down the levels; the adaptive solver has its own way ([`super::ode::Flow`]).
    ///
    /// # Errors
    /// If the denoiser fails.
    pub fn run(&self, xt: Tensor<4>, denoise: &Denoiser<'_>, noise: &Noise<'_>) -> Result<Tensor<4>> {
        let levels = &self.levels;
        match self.method {
            Method::Ancestral(walk) => walk.run(xt, levels, denoise, noise),
            Method::Euler => sigma::euler(xt, levels, denoise),
            Method::EulerAncestral => sigma::euler_ancestral(xt, levels, denoise, noise),
            Method::Heun => sigma::heun(xt, levels, denoise),
            Method::DpmSolver(solver) => solver.run(xt, levels, denoise, noise),
            Method::UniPc(solver) => solver.run(xt, levels, denoise),
            Method::PredictorCorrector(pc) => pc.run(xt, levels, denoise, noise),
            Method::Ode(_) => Err(Error::new("the adaptive solver samples by its flow")),
        }
    }

    /// The deviation of the noise a walk begins with: 1 where variance is preserved, σ_max where it explodes.
    pub fn deviation(&self, sde: Sde) -> f64 {
        match (sde, self.levels.first()) {
            (Sde::Vp, _) | (_, None) => 1.0,
            (_, Some(first)) => first.scale(),
        }
    }
}

/// The schedule's last and first level, between which the flow runs.
pub fn ends(schedule: &NoiseSchedule) -> [Level; 2] {
    let sde = schedule.options().sde;
    [schedule.steps() - 1, 0].map(|t| sde.level(t as f64, schedule.ratio(t)))
}
