//! From the settings of a recipe and of a request to a sampler and the levels it visits.

use burn::tensor::Tensor;
use kiln_core::{Error, Result, refuse_if};

use super::ancestral::{Ancestral, Variance};
use super::grid::{self, Family, FinalSigma, Sigmas, Spacing, TimestepGrid};
use super::multistep::{self, DpmSolver};
use super::ode::Tolerance;
use super::predictor_corrector::{Predictor, PredictorCorrector};
use super::settings::{SamplerSettings, choice, choice_or_default};
use super::sigma::{self, Churn, Walk};
use super::unipc::{self, UniPc};
use super::{Denoiser, Noise};
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
    /// Spacing of a solver's noise levels.
    pub sigmas: Sigmas,
    /// The most noise σ/α that it begins at, unless the schedule spaces them.
    pub sigma_max: f64,
}

/// The noise levels that a solver visits.
#[derive(Clone, Copy, Debug)]
struct SolverLevels {
    grid: TimestepGrid,
    sigmas: Sigmas,
    sigma_max: f64,
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

    /// The levels of the solver `name`. Whoever names timesteps means the schedule's levels there.
    fn solver_levels(&self, name: &str, s: &SamplerSettings) -> Result<SolverLevels> {
        let sigmas = match (&s.sigmas, &s.timestep_spacing) {
            (Some(asked), _) => choice("--sigmas", asked)?,
            (None, Some(_)) => Sigmas::Schedule,
            (None, None) => self.sigmas,
        };
        if sigmas == Sigmas::Schedule {
            if s.sigma_max.is_some() {
                return Err(Error::usage("--sigma-max: for --sigmas karras and exponential; the schedule has its own"));
            }
            return Ok(SolverLevels { grid: self.grid_of(s)?, sigmas, sigma_max: f64::INFINITY });
        }
        if s.timestep_spacing.is_some() && matches!(name, "dpm++" | "dpm++-sde" | "unipc") {
            return Err(Error::usage(
                "--timestep-spacing: --sigmas karras and exponential choose the times; leave one out",
            ));
        }
        let sigma_max = s.sigma_max.unwrap_or(self.sigma_max);
        let sigma_max = within("--sigma-max (model.sampling_sigma_max)", sigma_max, f64::MIN_POSITIVE, f64::INFINITY)?;
        // From one end of the schedule to the other, unless times that end elsewhere are asked for.
        let grid = match s.timestep_spacing {
            Some(_) => self.grid_of(s)?,
            None => Spacing::Linspace.into(),
        };
        Ok(SolverLevels { grid, sigmas, sigma_max })
    }
}

/// A sampler, its options resolved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// DDPM and DDIM.
    Ancestral(Ancestral),
    /// Euler's method.
    Euler(Churn),
    /// Euler's, with noise.
    EulerAncestral,
    /// Heun's method.
    Heun(Churn),
    /// Heun's method along the straight way of rectified flow.
    HeunStraight,
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
    /// [`Churn::raised`] of them.
    pub raised: Vec<Level>,
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

/// EDM's churn as asked for.
fn churn(s: &SamplerSettings) -> Result<Churn> {
    let none = Churn::NONE;
    let most = f64::INFINITY;
    let churn = Churn {
        s_churn: within("--s-churn", s.s_churn.unwrap_or(none.s_churn), 0.0, 1e6)?,
        s_tmin: within("--s-tmin", s.s_tmin.unwrap_or(none.s_tmin), 0.0, most)?,
        s_tmax: within("--s-tmax", s.s_tmax.unwrap_or(none.s_tmax), 0.0, most)?,
        s_noise: within("--s-noise", s.s_noise.unwrap_or(none.s_noise), 0.0, 100.0)?,
    };
    if churn.s_churn == 0.0 && (s.s_tmin.is_some() || s.s_tmax.is_some() || s.s_noise.is_some()) {
        return Err(Error::usage("--s-tmin, --s-tmax and --s-noise need an --s-churn above 0"));
    }
    if churn.s_tmax < churn.s_tmin {
        return Err(Error::usage(format!("--s-tmin {}: must not be above --s-tmax {}", churn.s_tmin, churn.s_tmax)));
    }
    Ok(churn)
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
            "euler" => Method::Euler(churn(s)?),
            "euler-ancestral" => Method::EulerAncestral,
            "heun" if schedule.options().sde == Sde::Flow => {
                refuse_if!(
                    churn(s)? != Churn::NONE,
                    "--s-churn: heun adds no noise on the straight way of model.sde = \"flow\"; leave it out"
                );
                Method::HeunStraight
            }
            "heun" => Method::Heun(churn(s)?),
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
        let end: FinalSigma = choice_or_default("--final-sigma", s.final_sigma.as_deref())?;
        let solver = |family| {
            let SolverLevels { grid, sigmas, sigma_max } = defaults.solver_levels(name, s)?;
            grid::solver(schedule, steps, grid, (sigmas, sigma_max), end, family)
        };
        let at_times = || defaults.grid_of(s);
        let levels = match method {
            Method::Ancestral(_) | Method::PredictorCorrector(_) => grid::discrete(schedule, steps, at_times()?)?,
            // Its steps are of the timesteps alone.
            Method::EulerAncestral => {
                let sigmas = (Sigmas::Schedule, f64::INFINITY);
                grid::solver(schedule, steps, at_times()?, sigmas, end, Family::Sigma)?
            }
            Method::Euler(_) | Method::Heun(_) | Method::HeunStraight => solver(Family::Sigma)?,
            Method::DpmSolver(_) => solver(Family::Dpm)?,
            Method::UniPc(_) => solver(Family::UniPc)?,
            Method::Ode(_) => ends(schedule).to_vec(),
        };
        let raised = match method {
            Method::Euler(churn) | Method::Heun(churn) => churn.raised(&levels, |ratio| schedule.at_ratio(ratio)),
            _ => Vec::new(),
        };
        Ok(Self { method, levels, raised })
    }

    /// About how often the network is asked; `None` if the solver decides.
    pub fn evaluations(&self) -> Option<usize> {
        let steps = self.levels.len() - 1;
        match self.method {
            Method::Ancestral(walk) => Some(steps * (walk.recurrence + 1)),
            // A last step to the picture itself is Euler's.
            Method::Heun(_) | Method::HeunStraight => Some(2 * steps - usize::from(self.levels[steps].sigma == 0.0)),
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
        let walk = |churn: Churn| Walk { levels, raised: &self.raised, s_noise: churn.s_noise };
        match self.method {
            Method::Ancestral(walk) => walk.run(xt, levels, denoise, noise),
            Method::Euler(churn) => sigma::euler(xt, walk(churn), denoise, noise),
            Method::EulerAncestral => sigma::euler_ancestral(xt, levels, denoise, noise),
            Method::HeunStraight => sigma::heun_straight(xt, levels, denoise),
            Method::Heun(churn) => sigma::heun(xt, walk(churn), denoise, noise),
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
