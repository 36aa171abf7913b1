//! von Platen et al., *Diffusers: State-of-the-art diffusion models*, 2022: its unconditional and
//! conditional U-Nets and its schedulers, so that models of its format are runs, and runs are models of
//! its format.
//!
//! Objective as [`super::ddpm`]'s L_simple. What is its own is the reading of two JSON files and a state
//! dict, and where diffusers' samplers differ from the papers' ([`scheduler`]).
//!
//! | diffusers | here |
//! |---|---|
//! | `unet/config.json` | [`UNetConfig`], `model.unet` |
//! | `scheduler/scheduler_config.json` | [`SchedulerConfig`], `model.scheduler` |
//! | `UNet2DModel`, `UNet2DConditionModel` | [`UNet2d`] |
//! | `encoder_hidden_states` | [`Request::context`] |
//!
//! `kiln import DIR --out RUN`, then `kiln sample RUN -n 16`; `kiln resume RUN` trains it further.

pub mod config;
pub mod folder;
pub mod json;
mod of_ddpm;
pub mod scheduler;
pub mod unet;

use std::cell::Cell;

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use kiln_core::{Error, Result};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::loss::mse;
use kiln_nn::tensor::{from_indices, from_values, normal};
use kiln_train::request::check_class;
use kiln_train::{
    Abilities, Batch, ChainWatch, DataConfig, Decode, Generate, Input, Loss, OptimizerConfig, Phase, Pictures, Request,
    SizeRule, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use self::config::{ClassEmbedType, UNetConfig};
use self::scheduler::{SchedulerConfig, VarianceType, ddim_step_keeping_epsilon};
use self::unet::UNet2d;
use super::guidance::ClassifierFree;
use super::sampler::ancestral::{Variance, ddim_step, ddpm_step};
use super::sampler::grid::Times;
use super::sampler::settings::{Defaults, Method, Plan, SamplerSettings};
use super::sampler::{Denoised, MEMORY, finite};
use super::schedule::{Level, Levels, NoiseSchedule};

/// The version of diffusers whose files these are.
pub const VERSION: &str = "0.42.1";

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The sampler when none is asked for; `ddpm` and `ddim` step as diffusers does.
    pub sampler: String,
    /// Its number of steps when none is asked for; 0 is T.
    pub sampling_steps: usize,
    /// DDIM's η when none is asked for.
    pub eta: f64,
    /// DDIM takes ε from the clamped x̂₀, as Kiln's `ddpm` does; else it keeps what the network said, as
    /// diffusers does when nothing is said.
    pub use_clipped_model_output: bool,
    /// The network.
    pub unet: UNetConfig,
    /// The noise schedule.
    pub scheduler: SchedulerConfig,
    /// The network's optimiser.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sampler: "ddpm".into(),
            sampling_steps: 0,
            eta: 0.0,
            use_clipped_model_output: false,
            unet: UNetConfig::default(),
            scheduler: SchedulerConfig::default(),
            optimizer: OptimizerConfig { warmup: 5_000, clip_norm: 1.0, ..OptimizerConfig::adam(1e-4) },
        }
    }
}

impl Config {
    /// How many labels there are: rows of the table, or times that a label may name.
    pub fn labels(&self) -> usize {
        match (self.unet.num_class_embeds, self.unet.class_embed_type) {
            (0, ClassEmbedType::Timestep) => self.scheduler.num_train_timesteps,
            (n, _) => n,
        }
    }
}

/// The one network.
#[derive(Module, Debug)]
pub struct Networks {
    /// `unet`.
    pub unet: UNet2d,
}

/// The system.
pub struct Diffusers {
    config: Config,
    schedule: NoiseSchedule,
    classes: Vec<String>,
    /// Pictures the network is shown at once while sampling.
    at_once: usize,
}

impl System for Diffusers {
    const ID: &'static str = "diffusers";
    const PAPER: &'static str = "von Platen et al.: Diffusers: State-of-the-art diffusion models, 2022";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        let unet = UNetConfig::default();
        let data = DataConfig { size: unet.sample_size.into(), channels: unet.in_channels, ..DataConfig::default() };
        (data, TrainConfig::default())
    }

    fn sizes(config: &Config) -> SizeRule {
        SizeRule::fixed(config.unet.sample_size, "model.unet.sample_size")
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let refuse = |what: String| Err(Error::usage(what));
        if let Err(why) = config.unet.check() {
            return refuse(format!("model.unet: {why}"));
        }
        if let Err(why) = config.scheduler.check() {
            return refuse(format!("model.scheduler: {why}"));
        }
        Self::sizes(&config).check(pictures.shape)?;
        let [channels, ..] = pictures.shape;
        if channels != config.unet.in_channels {
            return refuse(format!(
                "pictures of {channels} channels; model.unet.in_channels = {}: set data.channels, or the network's",
                config.unet.in_channels
            ));
        }
        let learned = config.unet.out_channels == 2 * config.unet.in_channels;
        if learned != (config.scheduler.variance_type == VarianceType::LearnedRange) {
            return refuse(format!(
                "model.unet.out_channels = {} with model.scheduler.variance_type = {}: twice in_channels goes with learned_range",
                config.unet.out_channels,
                serde_name(&config.scheduler.variance_type)
            ));
        }
        let labels = config.labels();
        if labels > 0 && !(1..=labels).contains(&pictures.classes.len()) {
            return refuse(format!(
                "the network knows {labels} labels and the pictures {}; it needs a labelled set of at most as many",
                pictures.classes.len()
            ));
        }
        let system = Self {
            schedule: config.scheduler.schedule(),
            classes: if labels > 0 { pictures.classes.clone() } else { Vec::new() },
            at_once: (MEMORY / config.unet.memory()).max(1),
            config,
        };
        system.sampler(&SamplerSettings::default())?;
        Ok(system)
    }

    fn networks(&self, init: &mut Init) -> Networks {
        Networks { unet: self.config.unet.init(init) }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        vec![Phase::new("unet", &["unet"], self.config.optimizer.clone(), |s, n, b| s.loss(n, b).map(Some))]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { generate: Some(self), decode: Some(self), ..Abilities::default() }
    }
}

fn serde_name(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// A walk between times as diffusers takes it, or one of Kiln's other samplers.
enum Sampler {
    Walk { levels: Vec<(Level, Level)>, eta: Option<f64>, variance: Variance },
    Plan(Plan),
}

/// What the network is told besides the picture and the time.
struct Conditions {
    labels: Option<Tensor<1, Int>>,
    with: Option<Tensor<3>>,
    without: Option<Tensor<3>>,
    free: ClassifierFree,
    watch: Option<ChainWatch>,
}

impl Diffusers {
    /// L_simple; a learned variance keeps what it has learned elsewhere, and the context is 0.
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let (x0, n) = (batch.images(), batch.len());
        // The logarithm of 0 is no time.
        let first = usize::from(self.config.unet.takes_log_of_time());
        let draws = batch.below("t", (self.schedule.steps() - first) as u64);
        let t: Vec<usize> = draws.into_iter().map(|t| t as usize + first).collect();
        let noise = batch.normal("noise", x0.dims());
        let levels: Vec<Level> = t.iter().map(|&t| self.schedule.level(t)).collect();
        let at = Levels::new(&levels, batch.device());
        let xt = at.noised(x0.clone(), noise.clone());
        let times = from_values(t.iter().map(|&t| t as f32).collect(), [n], batch.device());
        let labels = if self.classes.is_empty() { None } else { Some(batch.labels()?) };
        let output = networks.unet.forward(xt, times, labels, None, Some(batch.key("dropout")));
        let (output, _) = self.split(output);
        Ok(Loss::new("loss", mse(output, self.config.scheduler.prediction.target(x0, noise, &at))))
    }

    fn shape(&self, n: usize) -> [usize; 4] {
        let [height, width] = self.config.unet.sample_size;
        [n, self.config.unet.in_channels, height, width]
    }

    /// The network's output as what it predicts and, if it learned it, the variance.
    fn split(&self, output: Tensor<4>) -> (Tensor<4>, Option<Tensor<4>>) {
        let channels = self.config.unet.in_channels;
        match self.config.scheduler.variance_type {
            VarianceType::LearnedRange => {
                (output.clone().narrow(1, 0, channels), Some(output.narrow(1, channels, channels)))
            }
            _ => (output, None),
        }
    }

    fn sampler(&self, settings: &SamplerSettings) -> Result<Sampler> {
        let config = &self.config;
        let scheduler = &config.scheduler;
        let defaults = Defaults {
            sampler: config.sampler.clone(),
            steps: config.sampling_steps,
            times: Times { spacing: scheduler.timestep_spacing, offset: scheduler.steps_offset },
            eta: config.eta,
            variance: scheduler.variance_type.into(),
        };
        let plan = Plan::new(&self.schedule, settings, &defaults)?;
        let spacing = settings.timestep_spacing.as_deref().map_or(Ok(scheduler.timestep_spacing), str::parse)?;
        let sampler = match plan.method {
            Method::Walk(walk) if walk.recurrence > 0 => {
                return Err(Error::usage("--recurrence: diffusers' walks do not repeat a step; leave it out"));
            }
            Method::Walk(walk) => {
                let times: Vec<usize> = plan.levels[..plan.levels.len() - 1].iter().map(|l| l.t as usize).collect();
                let levels = scheduler.walk(&self.schedule, &times, spacing, walk.eta.is_none());
                Sampler::Walk { levels, eta: walk.eta, variance: walk.variance }
            }
            Method::Ode(_) => return Err(Error::usage("--sampler ode: not for diffusers; the others are")),
            _ => Sampler::Plan(plan),
        };
        let mut levels = match &sampler {
            Sampler::Walk { levels, .. } => levels.iter().map(|(from, _)| *from).collect::<Vec<_>>(),
            Sampler::Plan(plan) => plan.levels[..plan.levels.len() - 1].to_vec(),
        }
        .into_iter();
        if config.unet.takes_log_of_time() && levels.any(|level| level.t == 0.0) {
            return Err(Error::usage(
                "this network takes the logarithm of the time, which must not be 0; walk it with --timestep-spacing trailing and fewer steps",
            ));
        }
        Ok(sampler)
    }

    /// What the network says of xₜ at a level, guided by itself with and without the context; not clipped.
    fn denoise(&self, networks: &Networks, xt: Tensor<4>, level: Level, conditions: &Conditions) -> Denoised {
        let (n, device) = (xt.dims()[0], xt.device());
        let times = Tensor::<1>::full([n], level.t as f32, &device);
        // As many at once as memory has room for.
        let ask = |context: &Option<Tensor<3>>| {
            let parts = (0..n).step_by(self.at_once).map(|from| {
                let len = self.at_once.min(n - from);
                let labels = conditions.labels.clone().map(|l| l.narrow(0, from, len));
                let context = context.clone().map(|c| c.narrow(0, from, len));
                let (xt, times) = (xt.clone().narrow(0, from, len), times.clone().narrow(0, from, len));
                networks.unet.forward(xt, times, labels, context, None)
            });
            self.split(Tensor::cat(parts.collect(), 0))
        };
        let (output, variance) = ask(&conditions.with);
        let output = match conditions.free.guides(level) {
            true => conditions.free.combine(output, ask(&conditions.without).0),
            false => output,
        };
        let x0 = self.config.scheduler.prediction.to_x0(output, xt, &Levels::new(&[level], &device));
        Denoised { x0, variance }
    }

    /// Walks noise to pictures; `noise` gives that of a step at a time.
    fn walk(
        &self,
        networks: &Networks,
        mut xt: Tensor<4>,
        sampler: &Sampler,
        conditions: &Conditions,
        noise: &dyn Fn(u64) -> Tensor<4>,
    ) -> Result<Tensor<4>> {
        let scheduler = &self.config.scheduler;
        let asked = Cell::new(0);
        let of = match sampler {
            Sampler::Walk { levels, .. } => Some(levels.len()),
            Sampler::Plan(plan) => plan.evaluations(),
        };
        let ask = |xt: Tensor<4>, level: Level| {
            let denoised = self.denoise(networks, xt, level, conditions);
            if let Some(ChainWatch(watch)) = &conditions.watch {
                watch(asked.get(), of, &scheduler.clip(denoised.x0.clone()));
                asked.set(asked.get() + 1);
            }
            denoised
        };
        let out = match sampler {
            Sampler::Walk { levels, eta, variance } => {
                for &at in levels {
                    let denoised = ask(xt.clone(), at.0);
                    let x0 = denoised.x0.clone();
                    let noise = || noise(at.0.t as u64);
                    xt = match eta {
                        None => {
                            let denoised = Denoised { x0: scheduler.clip(x0), ..denoised };
                            ddpm_step(at, xt, denoised, *variance, noise)
                        }
                        Some(eta) if self.config.use_clipped_model_output => {
                            ddim_step(at, xt, scheduler.clip(x0), *eta, noise)
                        }
                        Some(eta) => ddim_step_keeping_epsilon(scheduler, at, xt, x0, *eta, noise),
                    };
                }
                xt
            }
            Sampler::Plan(plan) => {
                let ask = |xt: Tensor<4>, level: Level| {
                    let denoised = ask(xt, level);
                    Ok(Denoised { x0: scheduler.clip(denoised.x0), ..denoised })
                };
                plan.run(xt, &ask, noise)?
            }
        };
        finite(out)
    }

    /// The labels of a request: the one asked for, else a uniform draw for each sample.
    fn labels(&self, request: &Request) -> Result<Option<Tensor<1, Int>>> {
        check_class(request.condition.class, &self.classes)?;
        if self.classes.is_empty() {
            return Ok(None);
        }
        let labels = request.classes(self.classes.len());
        Ok(Some(from_indices(&labels, &request.device)))
    }

    fn conditions(&self, request: &Request) -> Result<Conditions> {
        let labels = self.labels(request)?;
        let features = self.config.unet.context_features();
        let (n, context) = (request.len(), request.condition.context.clone().unwrap_or_default());
        let fitting = |part: Option<Tensor<3>>| match part {
            Some(part) if Some(part.dims()[2]) != features => Err(Error::usage(format!(
                "--context: {} features; this network looks at {}",
                part.dims()[2],
                features.unwrap_or(0)
            ))),
            Some(part) if part.dims()[0] == 1 => Ok(Some(part.repeat_dim(0, n))),
            part => Ok(part),
        };
        let s: SamplerSettings = request.sampler(Self::ID)?;
        if s.backward_steps.is_some() {
            return Err(Error::usage("--backward-steps: diffusers takes no --guide; leave it out"));
        }
        let free = ClassifierFree::new(s.guidance_scale, s.guidance_rescale, s.guidance_interval)?;
        if free.scale != 1.0 && context.with.is_none() {
            return Err(Error::usage(format!(
                "--guidance-scale {}: there is nothing to guide by; give a --context to a network that looks at one",
                free.scale
            )));
        }
        let (with, without) = (fitting(context.with)?, fitting(context.without)?);
        Ok(Conditions { labels, with, without, free, watch: request.watch.clone() })
    }
}

impl Generate<Networks> for Diffusers {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Class, Input::Noise, Input::Context]
    }

    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        let shape = self.shape(request.len());
        let xt = request.noise.clone().unwrap_or_else(|| request.normal("latent", shape));
        if xt.dims() != shape {
            return Err(Error::usage(format!("--noise: expected shape {shape:?}, got {:?}", xt.dims())));
        }
        let (sampler, conditions) = (self.sampler(&request.sampler(Self::ID)?)?, self.conditions(request)?);
        let noise =
            |draw: u64| normal(request.key.purpose("chain").at(draw), request.indices.clone(), shape, &request.device);
        self.walk(networks, xt, &sampler, &conditions, &noise)
    }

    fn context_features(&self) -> Option<usize> {
        self.config.unet.context_features()
    }
}

/// Latents are x_T, which DDIM with η = 0 decodes.
impl Decode<Networks> for Diffusers {
    fn latents(&self, _networks: &Networks, request: &Request) -> Result<Tensor<2>> {
        Ok(request.normal("latent", [request.len(), self.shape(1).iter().product()]))
    }

    fn decode(&self, networks: &Networks, latents: Tensor<2>) -> Result<Tensor<4>> {
        if !self.classes.is_empty() {
            return Err(Error::usage("a network that needs a label cannot walk between latents without one"));
        }
        let shape = self.shape(latents.dims()[0]);
        let steps = (self.config.sampling_steps == 0).then_some(50.min(self.schedule.steps()));
        let settings =
            SamplerSettings { sampler: Some("ddim".into()), eta: Some(0.0), steps, ..SamplerSettings::default() };
        let free = ClassifierFree::new(None, None, None)?;
        let conditions = Conditions { labels: None, with: None, without: None, free, watch: None };
        // η = 0 adds no noise.
        let device = latents.device();
        let none = |_| Tensor::zeros(shape, &device);
        self.walk(networks, latents.reshape(shape), &self.sampler(&settings)?, &conditions, &none)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;
    use kiln_features::WeightsFile;
    use kiln_nn::tensor::to_values;
    use kiln_train::checkpoint::Checkpoint;
    use kiln_train::{Run, params, recipe};

    use super::*;

    /// The ancestral chain with a learned variance and labels, given the noise of each step.
    #[test]
    fn twenty_steps_of_the_chain_give_diffusers_pictures() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/fixtures/diffusers/options");
        let expected = WeightsFile::open(&folder.join("expected.safetensors")).unwrap();
        let device = Device::flex();
        let dir = tempfile::tempdir().unwrap();
        folder::import(&folder, dir.path(), &folder::ImportOptions::default()).unwrap();
        let run = Run::open(dir.path()).unwrap();
        let recipe = recipe::of_run::<Diffusers>(&run.recipe().unwrap(), "recipe").unwrap();
        let pictures = Pictures::new([1, 8, 16], recipe.data.classes);
        let system = Diffusers::new(recipe.model, &pictures).unwrap();
        let saved = Checkpoint::newest(&run.checkpoints(), &mut |_| ()).unwrap().unwrap();
        let networks = params::load(system.networks(&mut Init::new(&device, 1)), &saved.network, "network").unwrap();

        let settings = SamplerSettings { steps: Some(20), ..SamplerSettings::default() };
        let sampler = system.sampler(&settings).unwrap();
        let Sampler::Walk { levels, eta: None, .. } = &sampler else { panic!("not the chain") };
        let noises = expected.values("step_noise", &[20, 2, 1, 8, 16]).unwrap();
        let noise = |draw: u64| {
            let step = levels.iter().position(|(from, _)| from.t as u64 == draw).unwrap();
            from_values(noises[step * 256..(step + 1) * 256].to_vec(), [2, 1, 8, 16], &device)
        };
        let labels = expected.values("labels", &[2]).unwrap().into_iter().map(|l| l as u32).collect::<Vec<_>>();
        let labels = Some(from_indices(&labels, &device));
        let free = ClassifierFree::new(None, None, None).unwrap();
        let conditions = Conditions { labels, with: None, without: None, free, watch: None };
        let start = from_values(expected.values("noise", &[2, 1, 8, 16]).unwrap(), [2, 1, 8, 16], &device);
        let made = to_values(system.walk(&networks, start, &sampler, &conditions, &noise).unwrap());
        let theirs = expected.values("ddpm", &[2, 1, 8, 16]).unwrap();
        let off = made.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off <= 1.0 / 255.0, "a pixel is off by {off}");
    }
}
