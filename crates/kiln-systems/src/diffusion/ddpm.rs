//! Ho, Jain & Abbeel, *Denoising Diffusion Probabilistic Models*, 2020, and the family that grew from it: how noise is added
//! ([`super::schedule`]), what the network predicts ([`super::parameterisation`]), what training minimises
//! ([`super::objective`], [`bound`]), how pictures are drawn ([`super::sampler`]) and steered ([`super::guidance`]) are
//! five choices of their own. This file brings them together.
//!
//! Objective, L_simple (equation 14): E ‖ε − ε_θ(√ᾱₜ x₀ + √(1 − ᾱₜ) ε, t)‖², t uniform, ε ~ N(0, I);
//! or the bound itself; or both, with a learned variance (Nichol & Dhariwal, *Improved Denoising Diffusion
//! Probabilistic Models*, 2021, equation 16).
//!
//! | paper | here |
//! |---|---|
//! | T | `timesteps` |
//! | βₜ, ᾱₜ | [`ScheduleOptions::betas`], [`ScheduleOptions::alphas_cumprod`] |
//! | √ᾱₜ, √(1 − ᾱₜ); α, σ of other noise | [`Level::signal`], [`Level::sigma`] |
//! | ε_θ | `denoiser`, a [`UNet`] |
//! | σₜ² = βₜ, β̃ₜ or Σ_θ | `variance` |
//! | L_simple, L_vlb, L_hybrid | `objective` |
//! | λ of L_hybrid = L_simple + λ L_vlb | `bound_weight` |
//! | S, η (DDIM) | `steps`, `eta` |
//!
//! `kiln train ddpm --data starter`, then `kiln sample RUN -n 64 --sampler dpm++ --steps 15`.

use std::cell::{Cell, RefCell};

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::tensor::{from_indices, from_values, normal, to_values, uniform};
use kiln_nn::unet::{UNet, UNetConfig};
use kiln_train::batch::drop_labels;
use kiln_train::request::check_class;
use kiln_train::{
    Abilities, Batch, ChainWatch, DataConfig, Decode, Encode, Generate, Input, Likelihood, Looks, Loss,
    OptimizerConfig, Phase, Pictures, Reconstruct, Request, SizeRule, State, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::bound;
use super::guidance::{Backward, ClassifierFree, steer};
use super::objective::{Objective, SecondMoment, Times, Weighting, Weights};
use super::parameterisation::Prediction;
use super::sampler::ancestral::{Variance, ddim_invert};
use super::sampler::grid::Spacing;
use super::sampler::ode::{AtRatio, Flow, Predict, Tolerance};
use super::sampler::settings::{Defaults, Method, Plan, SamplerSettings, ends};
use super::sampler::{Denoised, Denoiser, MEMORY, finite, is_finite};
use super::schedule::{BetaSchedule, Level, Levels, NoiseSchedule, ScheduleOptions, Sde};
use super::unet_sizes;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// T, the number of noising steps.
    pub timesteps: usize,
    /// `linear`, `scaled_linear`, `cosine` or `sigmoid`.
    pub schedule: BetaSchedule,
    /// β at the first of 1000 times; not for the cosine.
    pub beta_start: f64,
    /// β at the last of 1000 times.
    pub beta_end: f64,
    /// Leave nothing of the picture at the last time (Lin 2024).
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
    /// λ, what a bit a dimension of the bound weighs in the hybrid objective.
    pub bound_weight: f64,
    /// What L_simple weighs at each time: `none`, `min-snr` or `p2`.
    pub weighting: Weighting,
    /// γ of `min-snr` (5 in the paper) or of `p2` (1).
    pub weighting_gamma: f64,
    /// k of `p2`.
    pub weighting_k: f64,
    /// How times are drawn: `uniform`, `importance` or `lognormal`.
    pub times: Times,
    /// Clamp x̂₀ to [−1, 1] while sampling.
    pub clip_sample: bool,
    /// Condition on the label.
    pub class_conditional: bool,
    /// Probability of dropping the label in training, for classifier-free guidance.
    pub label_dropout: f64,
    /// The sampler when none is asked for: `ddpm`, `ddim`, `euler`, `euler-ancestral`, `heun`, `dpm++`, `dpm++-sde`,
    /// `unipc`, `pc` or `ode`.
    pub sampler: String,
    /// Its number of steps when none is asked for; 0 is T.
    pub sampling_steps: usize,
    /// Which times they visit: `leading`, `trailing`, `linspace` or `quadratic`.
    pub timestep_spacing: Spacing,
    /// DDIM's η when none is asked for: 0 deterministic, 1 as random as DDPM. A network that has not seen
    /// much is better sampled with 1, which corrects its errors on the way.
    pub eta: f64,
    /// The network.
    pub unet: UNetConfig,
    /// Its optimiser.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
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
            times: Times::Uniform,
            clip_sample: true,
            class_conditional: false,
            label_dropout: 0.1,
            sampler: "ddim".into(),
            sampling_steps: 50,
            timestep_spacing: Spacing::Trailing,
            eta: 0.0,
            unet: UNetConfig::default(),
            optimizer: OptimizerConfig { warmup: 5_000, clip_norm: 1.0, ..OptimizerConfig::adam(2e-4) },
        }
    }
}

impl Config {
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
}

/// The one network.
#[derive(Module, Debug)]
pub struct Networks {
    /// ε_θ.
    pub denoiser: UNet,
}

/// The system.
pub struct Ddpm {
    config: Config,
    schedule: NoiseSchedule,
    shape: [usize; 3],
    classes: Vec<String>,
    /// Of `times = "importance"`.
    second_moment: Option<SecondMoment>,
    /// Pictures the network is shown at once while sampling.
    at_once: usize,
}

impl System for Ddpm {
    const ID: &'static str = "ddpm";
    const PAPER: &'static str = "Ho, Jain & Abbeel: Denoising Diffusion Probabilistic Models, 2020";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        (DataConfig::default(), TrainConfig::default())
    }

    fn sizes(config: &Config) -> SizeRule {
        unet_sizes(&config.unet)
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let refuse = |what: String| Err(Error::usage(what));
        let [_, height, width] = pictures.shape;
        if let Err(why) = config.unet.check() {
            return refuse(format!("model.unet: {why}"));
        }
        Self::sizes(&config).check(pictures.shape)?;
        if config.timesteps < 2 {
            return refuse("model.timesteps must be at least 2".into());
        }
        if !(0.0..=1.0).contains(&config.label_dropout) {
            return refuse(format!("model.label_dropout must be in [0, 1], not {}", config.label_dropout));
        }
        if config.class_conditional && pictures.classes.is_empty() {
            return refuse(
                "model.class_conditional needs a labelled set; use a folder with one sub-folder a class".into(),
            );
        }
        let learned = config.variance == Variance::Learned;
        if learned && config.objective == Objective::Simple {
            return refuse("model.variance = \"learned\" needs model.objective = \"hybrid\" or \"bound\"".into());
        }
        if config.objective == Objective::Hybrid && !learned {
            return refuse("model.objective = \"hybrid\" needs model.variance = \"learned\"".into());
        }
        if !(config.bound_weight >= 0.0 && config.bound_weight.is_finite()) {
            return refuse(format!("model.bound_weight must be at least 0, not {}", config.bound_weight));
        }
        let positive = [
            ("beta_start", config.beta_start),
            ("beta_end", config.beta_end),
            ("sigma_min", config.sigma_min),
            ("sigma_max", config.sigma_max),
            ("weighting_gamma", config.weighting_gamma),
            ("weighting_k", config.weighting_k),
        ];
        if let Some((name, value)) = positive.into_iter().find(|(_, v)| !(*v > 0.0 && v.is_finite())) {
            return refuse(format!("model.{name} must be above 0, not {value}"));
        }
        if config.beta_end < config.beta_start || config.sigma_max <= config.sigma_min {
            return refuse("model.beta_end must not be below beta_start, and sigma_max must be above sigma_min".into());
        }
        if config.zero_terminal_snr && (config.prediction == Prediction::Epsilon || config.sde == Sde::Ve) {
            return refuse(
                "model.zero_terminal_snr leaves no picture at the last time: it needs prediction = \"v\" or \"sample\", \
                 and sde = \"vp\" or \"subvp\""
                    .into(),
            );
        }
        if config.weighting != Weighting::None && config.objective == Objective::Bound {
            return refuse("model.weighting weighs L_simple; with model.objective = \"bound\" leave it out".into());
        }
        if config.times == Times::Lognormal && config.objective != Objective::Simple {
            return refuse("model.times = \"lognormal\" needs model.objective = \"simple\"".into());
        }
        let system = Self {
            schedule: config.schedule_options().schedule(),
            second_moment: (config.times == Times::Importance).then(|| SecondMoment::new(config.timesteps)),
            at_once: (MEMORY / config.unet.memory(height, width)).max(1),
            shape: pictures.shape,
            classes: if config.class_conditional { pictures.classes.clone() } else { Vec::new() },
            config,
        };
        system.plan(&SamplerSettings::default())?;
        Ok(system)
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let channels = self.shape[0];
        let outputs = if self.config.variance == Variance::Learned { 2 * channels } else { channels };
        Networks { denoiser: self.config.unet.init(channels, outputs, self.classes.len(), init) }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        vec![Phase::new("denoiser", &["denoiser"], self.config.optimizer.clone(), |s, n, b| s.loss(n, b).map(Some))]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities {
            generate: Some(self),
            reconstruct: Some(self),
            encode: Some(self),
            decode: Some(self),
            likelihood: Some(self),
            ..Abilities::default()
        }
    }

    fn state(&self) -> State {
        self.second_moment.iter().map(|s| ("second_moment".to_string(), s.state())).collect()
    }

    fn restore(&mut self, state: State) {
        if let (Some(second_moment), Some(saved)) = (&mut self.second_moment, state.get("second_moment")) {
            second_moment.restore(saved);
        }
    }
}

/// The levels of a batch.
struct Drawn {
    levels: Vec<Level>,
    /// Their times, where they are times of the schedule.
    times: Vec<usize>,
    /// What each loss is multiplied by, to keep its mean what it is under uniform draws.
    share: Vec<f64>,
}

/// The mean over each picture, `[n]`.
fn mean_of_each(x: Tensor<4>) -> Tensor<1> {
    let [n, c, h, w] = x.dims();
    x.reshape([n, c * h * w]).mean_dim(1).reshape([n])
}

impl Ddpm {
    /// Algorithm 1, on the objective asked for.
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let (x0, n, device) = (batch.images(), batch.len(), batch.device());
        let Drawn { levels, times, share } = self.draw(batch);
        let noise = batch.normal("noise", x0.dims());
        let at = Levels::new(&levels, device);
        let xt = at.noised(x0.clone(), noise.clone());

        let labels = match (&batch.domains[0].host_labels, self.classes.is_empty()) {
            (Some(labels), false) => {
                let nothing = self.classes.len() as u32;
                Some(from_indices(&drop_labels(batch, labels, nothing, self.config.label_dropout), device))
            }
            _ => None,
        };
        let Config { prediction, variance: kind, .. } = self.config;
        let told = from_values(levels.iter().map(|l| l.t as f32).collect(), [n], device);
        let shown = prediction.input(xt.clone(), &at);
        let output = networks.denoiser.forward(shown, told, labels, Some(batch.key("dropout")));
        let (output, variance) = self.split(output);
        let simple = mean_of_each((output.clone() - prediction.target(x0.clone(), noise, &at)).square());
        let vlb = |output: Tensor<4>| {
            let denoised = Denoised { x0: prediction.to_x0(output, xt.clone(), &at), variance: variance.clone() };
            let terms = bound::term(&self.schedule, kind, &times, x0.clone(), xt.clone(), denoised);
            terms * (self.schedule.steps() as f64 * self.bits_a_dimension())
        };
        let weights = self.weights();
        let times_each = |each: Tensor<1>, by: &[f64]| match by.iter().all(|w| *w == 1.0) {
            true => each,
            false => each * from_values(by.iter().map(|w| *w as f32).collect(), [n], device),
        };
        let weights: Vec<f64> = levels.iter().map(|l| weights.at(prediction, l.ratio().powi(-2))).collect();
        let weighted = |simple| times_each(simple, &weights);
        // What is drawn more often counts less.
        let mean = |each| times_each(each, &share).mean();
        let (loss, each) = match self.config.objective {
            Objective::Simple => {
                let each = weighted(simple);
                (Loss::new("loss", mean(each.clone())), each)
            }
            Objective::Bound => {
                let bound = vlb(output);
                (Loss::new("bound_bpd", mean(bound.clone())).report("simple", simple.mean()), bound)
            }
            // The mean learns from L_simple alone (Nichol & Dhariwal 2021, §3.1).
            Objective::Hybrid => {
                let (bound, lambda) = (vlb(output.detach()), self.config.bound_weight);
                let simple = weighted(simple);
                let each = simple.clone() + bound.clone() * lambda;
                (Loss::new("simple", mean(simple)).plus("bound_bpd", lambda, mean(bound)), each)
            }
        };
        if let Some(second_moment) = &mut self.second_moment {
            second_moment.update(&times, &to_values(each.inner()));
        }
        Ok(loss)
    }

    /// The levels a batch is trained at.
    fn draw(&self, batch: &Batch) -> Drawn {
        let n = batch.len();
        if self.config.times == Times::Lognormal {
            let [last, first] = ends(&self.schedule).map(Level::ratio);
            let draws = batch.key("t").normal(batch.samples(), 1);
            let at = |z: f32| self.schedule.at_ratio(Times::lognormal(f64::from(z)).clamp(first, last));
            return Drawn { levels: draws.into_iter().map(at).collect(), times: Vec::new(), share: vec![1.0; n] };
        }
        let (times, share) = match &self.second_moment {
            Some(second_moment) => second_moment.draw(batch.key("t"), batch.samples()),
            None => {
                let times = batch.below("t", self.schedule.steps() as u64);
                (times.into_iter().map(|t| t as usize).collect(), vec![1.0; n])
            }
        };
        Drawn { levels: times.iter().map(|&t| self.schedule.level(t)).collect(), times, share }
    }

    fn weights(&self) -> Weights {
        let Config { weighting, weighting_gamma: gamma, weighting_k: k, .. } = self.config;
        Weights { weighting, gamma, k }
    }

    /// What turns nats of a picture into bits a dimension.
    fn bits_a_dimension(&self) -> f64 {
        1.0 / (self.shape.iter().product::<usize>() as f64 * std::f64::consts::LN_2)
    }

    /// The network's output as what it predicts and, if it learned it, the variance.
    fn split(&self, output: Tensor<4>) -> (Tensor<4>, Option<Tensor<4>>) {
        let channels = self.shape[0];
        match self.config.variance {
            Variance::Learned => (output.clone().narrow(1, 0, channels), Some(output.narrow(1, channels, channels))),
            _ => (output, None),
        }
    }

    fn clip(&self, x0: Tensor<4>) -> Tensor<4> {
        if self.config.clip_sample { x0.clamp(-1.0, 1.0) } else { x0 }
    }

    fn plan(&self, settings: &SamplerSettings) -> Result<Plan> {
        let Config { sampler, sampling_steps, timestep_spacing, eta, variance, .. } = &self.config;
        let defaults = Defaults {
            sampler: sampler.clone(),
            steps: *sampling_steps,
            times: (*timestep_spacing).into(),
            eta: *eta,
            variance: *variance,
        };
        Plan::new(&self.schedule, settings, &defaults)
    }

    /// The network's output for pictures, each at its level and with its label; as many at once as memory has room for.
    fn ask(&self, networks: &Networks, xt: Tensor<4>, levels: &[Level], labels: Option<&[u32]>) -> Tensor<4> {
        let (n, device) = (xt.dims()[0], xt.device());
        if n > self.at_once {
            let half = n / 2;
            let part = |from: usize, to: usize| {
                let labels = labels.map(|l| &l[from..to]);
                self.ask(networks, xt.clone().narrow(0, from, to - from), &levels[from..to], labels)
            };
            return Tensor::cat(vec![part(0, half), part(half, n)], 0);
        }
        let times = from_values(levels.iter().map(|l| l.t as f32).collect(), [n], &device);
        let labels: Option<Tensor<1, Int>> = labels.map(|l| from_indices(l, &device));
        let shown = self.config.prediction.input(xt, &Levels::new(levels, &device));
        networks.denoiser.forward(shown, times, labels, None)
    }

    /// What the network says of xₜ, each picture at its level, guided by itself if there is a class; not clipped.
    fn denoise(&self, networks: &Networks, xt: Tensor<4>, levels: &[Level], steered: &Steered<'_>) -> Denoised {
        let (n, nothing) = (xt.dims()[0], self.classes.len() as u32);
        let (output, variance) = match &steered.classes {
            _ if self.classes.is_empty() => self.split(self.ask(networks, xt.clone(), levels, None)),
            // With and without the class in one pass.
            Some(classes) if levels.iter().any(|&l| steered.free.guides(l)) => {
                let twice = Tensor::cat(vec![xt.clone(), xt.clone()], 0);
                let labels = [classes.clone(), vec![nothing; n]].concat();
                let (both, variance) = self.split(self.ask(networks, twice, &levels.repeat(2), Some(&labels)));
                let (with, without) = (both.clone().narrow(0, 0, n), both.narrow(0, n, n));
                (steered.free.combine(with, without), variance.map(|v| v.narrow(0, 0, n)))
            }
            Some(classes) => self.split(self.ask(networks, xt.clone(), levels, Some(classes))),
            None => self.split(self.ask(networks, xt.clone(), levels, Some(&vec![nothing; n]))),
        };
        let at = Levels::new(levels, &xt.device());
        Denoised { x0: self.config.prediction.to_x0(output, xt, &at), variance }
    }

    /// What the network says of xₜ at one level, guided by whatever guides, clipped, and looked at.
    fn guided(&self, networks: &Networks, xt: Tensor<4>, level: Level, steered: &Steered<'_>) -> Result<Denoised> {
        let levels = vec![level; xt.dims()[0]];
        let (x0, variance) = if steered.request.guides.is_empty() {
            let Denoised { x0, variance } = self.denoise(networks, xt, &levels, steered);
            (x0, variance)
        } else {
            let variance = RefCell::new(None);
            let predict = |xt: Tensor<4>| {
                let denoised = self.denoise(networks, xt, &levels, steered);
                *variance.borrow_mut() = denoised.variance.map(Tensor::inner);
                Ok(denoised.x0)
            };
            let x0 = steer(&predict, xt, level, steered.request, steered.backward)?;
            (x0, variance.into_inner())
        };
        if !is_finite(&x0) {
            return Err(Error::new(format!(
                "sampling gave a value that is not finite at t = {}; lower --guidance-scale or --classifier-scale, take more \
                 --steps, or train with model.prediction = \"v\"",
                level.t
            )));
        }
        let x0 = self.clip(x0);
        if let Some(ChainWatch(watch)) = &steered.request.watch {
            let asked = steered.asked.get();
            watch(asked, steered.of, &x0);
            steered.asked.set(asked + 1);
        }
        Ok(Denoised { x0, variance })
    }

    /// The chain's settings, checked.
    fn steered<'a>(&self, request: &'a Request, plan: &Plan) -> Result<Steered<'a>> {
        let s: SamplerSettings = request.sampler(Self::ID)?;
        // A class may be the guides' alone.
        if request.guides.is_empty() || !self.classes.is_empty() {
            check_class(request.condition.class, &self.classes)?;
        }
        let free = ClassifierFree::new(s.guidance_scale, s.guidance_rescale, s.guidance_interval)?;
        // Guidance without a class is to one drawn for each sample; else there is none.
        let free_given = s.guidance_scale.is_some() || s.guidance_rescale.is_some() || s.guidance_interval.is_some();
        if free_given && self.classes.is_empty() {
            return Err(Error::usage(
                "--guidance-scale: this run was not told classes; train one with model.class_conditional = true, or use \
                 --classifier",
            ));
        }
        let conditional = !self.classes.is_empty() && (request.condition.class.is_some() || free_given);
        let classes = conditional.then(|| request.classes(self.classes.len()));
        let clean = request.guides.iter().any(|g| g.guide.looks_at() == Looks::Clean);
        if !clean && (s.backward_steps.is_some() || s.backward_rate.is_some()) {
            return Err(Error::usage("--backward-steps and --backward-rate need a --guide"));
        }
        let backward = Backward { steps: s.backward_steps.unwrap_or(0), rate: s.backward_rate.unwrap_or(1.0) };
        Ok(Steered { request, classes, free, backward, of: plan.evaluations(), asked: Cell::new(0) })
    }

    /// The probability flow of the network.
    fn flow<'a>(
        &'a self,
        predict: &'a Predict<'a>,
        at_ratio: &'a AtRatio<'a>,
        tolerance: Tolerance,
        device: &Device,
    ) -> Flow<'a> {
        Flow { predict, at_ratio, shape: self.shape, tolerance, device: device.clone() }
    }

    /// The chain from `xt`, which is noise of deviation 1.
    fn chain(&self, networks: &Networks, xt: Tensor<4>, plan: &Plan, steered: &Steered<'_>) -> Result<Tensor<4>> {
        let (shape, request) = (xt.dims(), steered.request);
        let noise =
            |draw: u64| normal(request.key.purpose("chain").at(draw), request.indices.clone(), shape, &request.device);
        // On the flow each picture is at a level of its own; what guides it asks for one level.
        let alone = steered.classes.is_some() || !request.guides.is_empty();
        if matches!(plan.method, Method::Ode(_)) && alone && shape[0] > 1 {
            let each = request.indices.clone().enumerate().map(|(i, index)| {
                let part = Request { indices: index..index + 1, ..request.clone() };
                self.chain(networks, xt.clone().narrow(0, i, 1), plan, &self.steered(&part, plan)?)
            });
            return Ok(Tensor::cat(each.collect::<Result<Vec<_>>>()?, 0));
        }
        let deviation = plan.deviation(self.config.sde);
        let xt = if deviation == 1.0 { xt } else { xt * deviation };
        let out = if let Method::Ode(tolerance) = plan.method {
            let predict = |xt: Tensor<4>, levels: &[Level]| match alone {
                true => Ok(self.guided(networks, xt, levels[0], steered)?.x0),
                false => Ok(self.clip(self.denoise(networks, xt, levels, steered).x0)),
            };
            let at_ratio = |ratio: f64| self.schedule.at_ratio(ratio);
            let flow = self.flow(&predict, &at_ratio, tolerance, &request.device);
            flow.sample(xt, plan.levels[0], plan.levels[1])?.0
        } else {
            let ask: &Denoiser<'_> = &|xt, level| self.guided(networks, xt, level, steered);
            plan.run(xt, ask, &noise)?
        };
        finite(out)
    }
}

/// What steers a chain.
struct Steered<'a> {
    request: &'a Request,
    /// The class of each picture, if it has one.
    classes: Option<Vec<u32>>,
    free: ClassifierFree,
    backward: Backward,
    /// Evaluations in all, if known, and so far.
    of: Option<usize>,
    asked: Cell<usize>,
}

impl Generate<Networks> for Ddpm {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Class, Input::Noise, Input::Guides]
    }

    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        // A guide's gradient keeps what a plain pass lets go of.
        if !request.guides.is_empty() && request.len() > (self.at_once / 8).max(1) {
            let half = request.len() / 2;
            let part = |from: usize, to: usize| {
                let index = |i: usize| request.indices.start + i as u64;
                let noise = request.noise.as_ref().map(|noise| noise.clone().narrow(0, from, to - from));
                self.generate(networks, &Request { indices: index(from)..index(to), noise, ..request.clone() })
            };
            return Ok(Tensor::cat(vec![part(0, half)?, part(half, request.len())?], 0));
        }
        let plan = self.plan(&request.sampler(Self::ID)?)?;
        let steered = self.steered(request, &plan)?;
        let [c, h, w] = self.shape;
        let shape = [request.len(), c, h, w];
        let xt = request.noise.clone().unwrap_or_else(|| request.normal("latent", shape));
        if xt.dims() != shape {
            return Err(Error::usage(format!("--noise: expected shape {shape:?}, got {:?}", xt.dims())));
        }
        self.chain(networks, xt, &plan, &steered)
    }
}

impl Ddpm {
    /// DDIM's levels, which encode and decode.
    fn implicit(&self) -> Result<Plan> {
        let ddim = SamplerSettings { sampler: Some("ddim".into()), eta: Some(0.0), ..SamplerSettings::default() };
        self.plan(&ddim)
    }
}

/// Latents are x_T of deviation 1; DDIM with η = 0 decodes them, so that a walk between them is a walk between
/// pictures (DDIM, §5.3).
impl Decode<Networks> for Ddpm {
    fn latents(&self, _networks: &Networks, request: &Request) -> Result<Tensor<2>> {
        Ok(request.normal("latent", [request.len(), self.shape.iter().product()]))
    }

    fn decode(&self, networks: &Networks, latents: Tensor<2>) -> Result<Tensor<4>> {
        let [c, h, w] = self.shape;
        let n = latents.dims()[0];
        let plan = self.implicit()?;
        let request = Request::new(0..n as u64, 0, &latents.device());
        let steered = self.steered(&request, &plan)?;
        self.chain(networks, latents.reshape([n, c, h, w]), &plan, &steered)
    }
}

/// DDIM run backwards, which [`Decode`] takes back (DDIM, §5.4).
impl Encode<Networks> for Ddpm {
    fn encode(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<2>> {
        let [n, c, h, w] = images.dims();
        self.check_shape(&images)?;
        let plan = self.implicit()?;
        let steered = self.steered(request, &plan)?;
        let ask: &Denoiser<'_> = &|xt, level| self.guided(networks, xt, level, &steered);
        let latents = ddim_invert(images, &plan.levels, ask)? / plan.deviation(self.config.sde);
        Ok(latents.reshape([n, c * h * w]))
    }
}

/// There and back along DDIM (table 2 of its paper).
impl Reconstruct<Networks> for Ddpm {
    fn reconstruct(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<4>> {
        let request = Request::new(0..images.dims()[0] as u64, 0, &images.device());
        self.decode(networks, self.encode(networks, images, &request)?)
    }
}

/// The bound of [`bound`], x̂₀ clamped as in sampling; and the exact likelihood under the probability flow.
impl Likelihood<Networks> for Ddpm {
    /// `samples` terms at random times, one in each of as many equal stretches, stand for the T; 0 takes them all.
    fn nll(&self, networks: &Networks, images: Tensor<4>, samples: usize, key: Key) -> Result<Tensor<1>> {
        let (shape, device) = (images.dims(), images.device());
        let n = shape[0];
        self.check_shape(&images)?;
        let steps = self.schedule.steps();
        let terms = if samples == 0 { steps } else { samples.min(steps) };
        let labels = (!self.classes.is_empty()).then(|| vec![self.classes.len() as u32; n]);
        let mut total = bound::prior(&self.schedule, images.clone());
        for k in 0..terms {
            let place = key.purpose("t").at(k as u64).uniform(0..n as u64, 1);
            let at = |u: f32| ((k as f64 + f64::from(u)) * steps as f64 / terms as f64) as usize;
            let t: Vec<usize> =
                place.into_iter().map(|u| if terms == steps { k } else { at(u).min(steps - 1) }).collect();
            let levels: Vec<Level> = t.iter().map(|&t| self.schedule.level(t)).collect();
            let at = Levels::new(&levels, &device);
            let noise = normal(key.purpose("noise").at(k as u64), 0..n as u64, shape, &device);
            let xt = at.noised(images.clone(), noise);
            let (output, variance) = self.split(self.ask(networks, xt.clone(), &levels, labels.as_deref()));
            let x0 = self.clip(self.config.prediction.to_x0(output, xt.clone(), &at));
            let denoised = Denoised { x0, variance };
            let nats = bound::term(&self.schedule, self.config.variance, &t, images.clone(), xt, denoised);
            total = total + nats * (steps as f64 / terms as f64);
        }
        Ok(total)
    }

    /// −log p of the 256 levels, each spread evenly over the half level below and above it (Song 2021b, §4.3): the
    /// shares of L_0, but for the outermost two, which reach to infinity there.
    fn exact_nll(&self, networks: &Networks, images: Tensor<4>, probes: usize, key: Key) -> Result<Option<Tensor<1>>> {
        let (shape, device) = (images.dims(), images.device());
        self.check_shape(&images)?;
        let within = uniform(key.purpose("dequantise"), 0..shape[0] as u64, shape, &device);
        let x = images + (within - 0.5) / 127.5;
        let request = Request::new(0..shape[0] as u64, 0, &device);
        let [last, first] = ends(&self.schedule);
        let plan = Plan { method: Method::Ode(Tolerance::default()), levels: vec![last, first] };
        let steered = self.steered(&request, &plan)?;
        let predict = |xt: Tensor<4>, levels: &[Level]| Ok(self.denoise(networks, xt, levels, &steered).x0);
        let at_ratio = |ratio: f64| self.schedule.at_ratio(ratio);
        let flow = self.flow(&predict, &at_ratio, Tolerance::default(), &device);
        let d = self.shape.iter().product::<usize>() as f64;
        let nats = flow.log_likelihood(x, first, last, probes, key)?;
        let nats = nats.into_iter().map(|log| (d * 127.5f64.ln() - log) as f32).collect();
        Ok(Some(from_values(nats, [shape[0]], &device)))
    }

    /// However many terms are drawn, their mean is the bound.
    fn nll_name(&self, _samples: usize) -> String {
        "nll_bound".into()
    }
}

impl Ddpm {
    fn check_shape(&self, images: &Tensor<4>) -> Result<()> {
        let shape = images.dims();
        if shape[1..] == self.shape {
            return Ok(());
        }
        Err(Error::usage(format!("ddpm was trained on pictures {:?}, not {:?}", self.shape, &shape[1..])))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    /// With and without a class, guided or not, the pictures are the same however many the network is shown at once.
    #[test]
    fn a_batch_is_split_where_memory_is_short() {
        let device = Device::flex();
        let pictures = Pictures::new([1, 8, 8], vec!["a".into(), "b".into()]);
        let unet = UNetConfig {
            base_channels: 8,
            groups: 4,
            channel_multipliers: vec![1, 2],
            blocks: 1,
            ..UNetConfig::default()
        };
        let config = Config { timesteps: 20, sampling_steps: 3, class_conditional: true, unet, ..Config::default() };
        let mut system = Ddpm::new(config, &pictures).unwrap();
        let networks = system.networks(&mut Init::new(&device, 0));
        let networks = kiln_train::params::map_flat(networks, |path, value| {
            let len = value.dims()[0];
            value + normal(Key::new(1).purpose(path), 0..1, [1, len], &device).reshape([len]) * 0.1
        });
        let sampler = SamplerSettings { guidance_scale: Some(3.0), ..SamplerSettings::default() };
        for (sampler, class) in [(SamplerSettings::default(), None), (sampler.clone(), None), (sampler, Some(1))] {
            let request = Request { sampler: sampler.table(), ..Request::new(3..8, 7, &device).of_class(class) };
            system.at_once = 64;
            let whole = to_values(system.generate(&networks, &request).unwrap());
            system.at_once = 2;
            let split = to_values(system.generate(&networks, &request).unwrap());
            assert!(whole.iter().zip(&split).all(|(a, b)| (a - b).abs() < 1e-3), "class {class:?}");
            assert!(whole.iter().any(|v| v.abs() < 0.9));
        }
    }

    /// 256 pictures of 64×64 with attention over 32×32 would take more than a few gigabytes at once.
    #[test]
    fn memory_is_counted_by_the_picture() {
        let unet = UNetConfig::default();
        let at_once = MEMORY / unet.memory(64, 64);
        assert!((10..256).contains(&at_once), "{at_once}");
        assert!(MEMORY / unet.memory(28, 28) > at_once);
    }
}
