//! From the words of a recipe or of the command line to a sampler and its levels.

use burn::tensor::Tensor;
use kiln_core::{Error, Result};
use serde::{Deserialize, Serialize};
use toml::Table;

use super::ancestral::{Variance, Walk};
use super::grid::{self, Family, FinalSigma, Sigmas, Times};
use super::multistep::{self, DpmSolver};
use super::ode::Tolerance;
use super::predictor_corrector::{Predictor, PredictorCorrector};
use super::unipc::{self, UniPc};
use super::{Denoiser, Noise, sigma};
use crate::diffusion::schedule::{Level, NoiseSchedule, Sde};

/// Names of all samplers.
pub const SAMPLERS: [&str; 10] =
    ["ddpm", "ddim", "euler", "euler-ancestral", "heun", "dpm++", "dpm++-sde", "unipc", "pc", "ode"];

/// Settings of `kiln sample` for a diffusion process, flag by flag; `None` is the system's own choice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplerSettings {
    /// `ddpm`, `ddim`, …
    pub sampler: Option<String>,
    /// Number of denoising steps.
    pub steps: Option<usize>,
    /// Which of the schedule's times a shorter walk visits: `leading`, `trailing`, …
    pub timestep_spacing: Option<String>,
    /// DDIM's η: 0 deterministic, 1 as random as DDPM.
    pub eta: Option<f64>,
    /// Of DDPM's step: `small` or `large`.
    pub variance: Option<String>,
    /// Spacing of a solver's noise levels: `schedule`, `karras` or `exponential`.
    pub sigmas: Option<String>,
    /// The most noise σ/α that such a spacing begins at.
    pub sigma_max: Option<f64>,
    /// Where a solver ends: `zero` or `sigma_min`.
    pub final_sigma: Option<String>,
    /// Order of a multistep solver.
    pub order: Option<usize>,
    /// Its kind: `midpoint`, `heun`; `bh1`, `bh2`.
    pub solver_type: Option<String>,
    /// Of predictor–corrector: `reverse-diffusion`, `ancestral` or `none`.
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
    /// Steps of universal guidance on the picture itself.
    pub backward_steps: Option<usize>,
    /// The size of each.
    pub backward_rate: Option<f64>,
    /// How often each step is undone and taken again.
    pub recurrence: Option<usize>,
}

impl SamplerSettings {
    /// As a request carries them.
    pub fn table(&self) -> Table {
        Table::try_from(self).unwrap_or_default()
    }
}

/// What a recipe says of sampling.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    /// The sampler.
    pub sampler: String,
    /// Its steps; 0 is T.
    pub steps: usize,
    /// Which times they visit.
    pub times: Times,
    /// DDIM's η.
    pub eta: f64,
    /// Of DDPM's step; what the network learned if it learned one.
    pub variance: Variance,
}

/// A sampler, its options resolved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// DDPM and DDIM.
    Walk(Walk),
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

/// Settings, whether they were given, and the samplers that have them.
fn check_given(name: &str, s: &SamplerSettings) -> Result<()> {
    let solvers: &[&str] = &["euler", "heun", "dpm++", "dpm++-sde", "unipc"];
    let multistep: &[&str] = &["dpm++", "dpm++-sde", "unipc"];
    let all_but_ode = &SAMPLERS[..9];
    let given: [(&str, bool, &[&str]); 15] = [
        ("--steps", s.steps.is_some(), all_but_ode),
        ("--timestep-spacing", s.timestep_spacing.is_some(), all_but_ode),
        ("--eta", s.eta.is_some(), &["ddim"]),
        ("--variance", s.variance.is_some(), &["ddpm"]),
        ("--recurrence", s.recurrence.is_some(), &["ddpm", "ddim"]),
        ("--sigmas", s.sigmas.is_some(), solvers),
        ("--sigma-max", s.sigma_max.is_some(), solvers),
        ("--final-sigma", s.final_sigma.is_some(), solvers),
        ("--order", s.order.is_some(), multistep),
        ("--solver-type", s.solver_type.is_some(), multistep),
        ("--predictor", s.predictor.is_some(), &["pc"]),
        ("--corrector-steps", s.corrector_steps.is_some(), &["pc"]),
        ("--snr", s.snr.is_some(), &["pc"]),
        ("--rtol", s.rtol.is_some(), &["ode"]),
        ("--atol", s.atol.is_some(), &["ode"]),
    ];
    for (flag, is_given, has) in given {
        if is_given && !has.contains(&name) {
            return Err(Error::usage(format!(
                "{flag}: the sampler {name} does not have it; it is for {}",
                has.join(", ")
            )));
        }
    }
    Ok(())
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
    /// What `settings` ask for, and what they leave open as the recipe has it.
    ///
    /// # Errors
    /// A usage error naming the setting.
    pub fn new(schedule: &NoiseSchedule, settings: &SamplerSettings, defaults: &Defaults) -> Result<Self> {
        let s = settings;
        let name = s.sampler.as_deref().unwrap_or(&defaults.sampler);
        if !SAMPLERS.contains(&name) {
            return Err(Error::usage(format!("--sampler {name}: there are {}", SAMPLERS.join(", "))));
        }
        check_given(name, s)?;
        let times = match &s.timestep_spacing {
            Some(name) => Times { spacing: name.parse()?, ..defaults.times },
            None => defaults.times,
        };
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
            "ddpm" | "ddim" => Method::Walk(Walk {
                eta: match name {
                    "ddpm" => None,
                    _ => Some(within("--eta (model.eta)", s.eta.unwrap_or(defaults.eta), 0.0, 1.0)?),
                },
                variance: match (s.variance.as_deref(), defaults.variance) {
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
                let kind: multistep::Kind = s.solver_type.as_deref().map_or(Ok(Default::default()), str::parse)?;
                let order = order(3)?;
                if order == 1 && s.solver_type.is_some() {
                    return Err(Error::usage("--solver-type: a solver of --order 1 has but one; leave it out"));
                }
                Method::DpmSolver(DpmSolver { order, kind, stochastic })
            }
            "unipc" => {
                let kind: unipc::Kind = s.solver_type.as_deref().map_or(Ok(Default::default()), str::parse)?;
                Method::UniPc(UniPc { order: order(3)?, kind })
            }
            "pc" => {
                let predictor = s.predictor.as_deref().map_or(Ok(Default::default()), str::parse)?;
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
        let sigmas: Sigmas = s.sigmas.as_deref().map_or(Ok(Default::default()), str::parse)?;
        let end: FinalSigma = s.final_sigma.as_deref().map_or(Ok(Default::default()), str::parse)?;
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
        let solver = |family| grid::solver(schedule, steps, times, (sigmas, sigma_max), end, family);
        let levels = match method {
            Method::Walk(_) | Method::PredictorCorrector(_) => grid::discrete(schedule, steps, times)?,
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
            Method::Walk(walk) => Some(steps * (walk.recurrence + 1)),
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
    pub fn run(&self, xt: Tensor<4>, ask: &Denoiser<'_>, noise: &Noise<'_>) -> Result<Tensor<4>> {
        let levels = &self.levels;
        match self.method {
            Method::Walk(walk) => walk.run(xt, levels, ask, noise),
            Method::Euler => sigma::euler(xt, levels, ask),
            Method::EulerAncestral => sigma::euler_ancestral(xt, levels, ask, noise),
            Method::Heun => sigma::heun(xt, levels, ask),
            Method::DpmSolver(solver) => solver.run(xt, levels, ask, noise),
            Method::UniPc(solver) => solver.run(xt, levels, ask),
            Method::PredictorCorrector(pc) => pc.run(xt, levels, ask, noise),
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
