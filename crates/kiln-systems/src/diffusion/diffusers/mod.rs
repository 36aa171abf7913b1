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
//! | `encoder_hidden_states` | [`Condition::context`] |
//!
//! `kiln import DIR --out RUN`, then `kiln sample RUN -n 16`; `kiln resume RUN` trains it further.

pub mod config;
pub mod folder;
pub mod json;
mod of_ddpm;
pub mod scheduler;
pub mod unet;

use std::rc::Rc;

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::{Error, Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::tensor::from_indices;
use kiln_nn::{Condition, Init};
use kiln_train::request::check_class;
use kiln_train::{
    Abilities, Batch, ChainWatch, DataConfig, Decode, Generate, Input, Loss, OptimizerConfig, Phase, Pictures, Request,
    SizeRule, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use self::config::{ClassEmbedType, UNetConfig};
use self::scheduler::{SchedulerConfig, VarianceType, ddim_step_keeping_epsilon};
use self::unet::UNet2d;
use super::guidance::Guidance;
use super::process::sampling::{Steps, initial_noise};
use super::process::{Process, Training, max_batch};
use super::sampler::ancestral::{Ancestral, ddim_step, ddpm_step};
use super::sampler::grid::{Sigmas, TimestepGrid};
use super::sampler::plan::{Defaults, Method, Plan};
use super::sampler::settings::SamplerSettings;
use super::sampler::{Denoised, Denoiser, Noise};
use super::schedule::{Level, NoiseLevels};

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

impl Networks {
    /// The network as a process asks it.
    fn predict(&self) -> impl Fn(Tensor<4>, &[Level], &Condition) -> Tensor<4> + '_ {
        |xt, levels, condition| {
            let timesteps = NoiseLevels::new(levels, &xt.device()).timesteps();
            self.unet.forward(xt, timesteps, condition)
        }
    }
}

/// The system.
pub struct Diffusers {
    config: Config,
    process: Process,
    training: Training,
    classes: Vec<String>,
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
        if let Err(why) = config.unet.check() {
            return Err(Error::usage(format!("model.unet: {why}")));
        }
        if let Err(why) = config.scheduler.check() {
            return Err(Error::usage(format!("model.scheduler: {why}")));
        }
        Self::sizes(&config).check(pictures.shape)?;
        let [channels, ..] = pictures.shape;
        refuse_if!(
            channels != config.unet.in_channels,
            "pictures of {channels} channels; model.unet.in_channels = {}: set data.channels, or the network's",
            config.unet.in_channels
        );
        let learned = config.unet.out_channels == 2 * config.unet.in_channels;
        refuse_if!(
            learned != (config.scheduler.variance_type == VarianceType::LearnedRange),
            "model.unet.out_channels = {} with model.scheduler.variance_type = {}: twice in_channels goes with learned_range",
            config.unet.out_channels,
            serde_name(&config.scheduler.variance_type)
        );
        let labels = config.labels();
        refuse_if!(
            labels > 0 && !(1..=labels).contains(&pictures.classes.len()),
            "the network knows {labels} labels and the pictures {}; it needs a labelled set of at most as many",
            pictures.classes.len()
        );
        let scheduler = &config.scheduler;
        let process = Process {
            schedule: scheduler.schedule(),
            prediction: scheduler.prediction,
            variance: scheduler.variance_type.into(),
            clip: scheduler.clip_sample.then_some(scheduler.clip_sample_range),
            sampling: Defaults {
                sampler: config.sampler.clone(),
                steps: config.sampling_steps,
                grid: TimestepGrid { spacing: scheduler.timestep_spacing, offset: scheduler.steps_offset },
                eta: config.eta,
                // As diffusers has them without `use_karras_sigmas`.
                sigmas: Sigmas::Schedule,
                sigma_max: f64::INFINITY,
            },
            max_batch: max_batch(config.unet.memory()),
        };
        // The logarithm of 0 is no number.
        let first = usize::from(config.unet.takes_log_of_time());
        let system = Self {
            training: Training::simple(first, process.schedule.steps()),
            process,
            classes: if labels > 0 { pictures.classes.clone() } else { Vec::new() },
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

/// How a request is sampled.
enum Sampler {
    /// By DDPM's or DDIM's steps as diffusers takes them: each from a level to another, which need not be the next one's.
    Ancestral(Vec<(Level, Level)>, Ancestral),
    /// By another sampler of Kiln.
    Plan(Plan),
}

impl Diffusers {
    /// L_simple; a learned variance keeps what it has learned elsewhere, and the context is 0.
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let class = if self.classes.is_empty() { None } else { Some(batch.labels()?) };
        let condition = Condition { class, dropout: Some(batch.dropout_key()), ..Condition::default() };
        Ok(self.training.loss(&self.process, &networks.predict(), batch, batch.images(), &condition))
    }

    fn shape(&self, n: usize) -> [usize; 4] {
        let [height, width] = self.config.unet.sample_size;
        [n, self.config.unet.in_channels, height, width]
    }

    fn sampler(&self, settings: &SamplerSettings) -> Result<Sampler> {
        let scheduler = &self.config.scheduler;
        let plan = self.process.plan(settings)?;
        let grid = self.process.sampling.grid_of(settings)?;
        let visited = plan.levels[..plan.levels.len() - 1].to_vec();
        let sampler = match plan.method {
            Method::Ancestral(steps) if steps.recurrence > 0 => {
                return Err(Error::usage("--recurrence: diffusers' samplers do not repeat a step; leave it out"));
            }
            Method::Ancestral(steps) => {
                let timesteps: Vec<usize> = visited.iter().map(|level| level.t as usize).collect();
                let walk = scheduler.walk(&self.process.schedule, &timesteps, grid.spacing, steps.eta.is_none());
                Sampler::Ancestral(walk, steps)
            }
            Method::Ode(_) => return Err(Error::usage("--sampler ode: not for diffusers; the others are")),
            _ => Sampler::Plan(plan),
        };
        if self.config.unet.takes_log_of_time() && visited.iter().any(|level| level.t == 0.0) {
            return Err(Error::usage(
                "this network takes the logarithm of the time, which must not be 0; walk it with --timestep-spacing trailing and fewer steps",
            ));
        }
        Ok(sampler)
    }

    /// Images from standard normal `xt`.
    fn sample(
        &self,
        networks: &Networks,
        xt: Tensor<4>,
        sampler: &Sampler,
        guidance: &Guidance,
        request: &Request,
    ) -> Result<Tensor<4>> {
        let predict = networks.predict();
        let images = match sampler {
            Sampler::Plan(plan) => self.process.chain(&predict, guidance, request).sample(xt, plan)?,
            Sampler::Ancestral(levels, steps) => {
                // diffusers' DDIM needs x̂₀ as it was before it was clamped.
                let unclamped = Process { clip: None, ..self.process.clone() };
                let request = &Request { watch: self.clamped_watch(request), ..request.clone() };
                let steps: &Steps<'_> = &|xt, denoise, noise| self.walk(xt, levels, steps, denoise, noise);
                unclamped.chain(&predict, guidance, request).walk(xt, Some(levels.len()), steps)?
            }
        };
        Ok(images.clamp(-1.0, 1.0))
    }

    /// A request's watch, shown x̂₀ as it is clamped.
    fn clamped_watch(&self, request: &Request) -> Option<ChainWatch> {
        let (ChainWatch(watch), process) = (request.watch.clone()?, self.process.clone());
        Some(ChainWatch(Rc::new(move |i, of, x0: &Tensor<4>| watch(i, of, &process.clamped(x0.clone())))))
    }

    /// Steps as diffusers takes them, over a denoiser that does not clamp.
    fn walk(
        &self,
        mut xt: Tensor<4>,
        levels: &[(Level, Level)],
        steps: &Ancestral,
        denoise: &Denoiser<'_>,
        noise: &Noise<'_>,
    ) -> Result<Tensor<4>> {
        for &at in levels {
            let denoised = denoise(xt.clone(), at.0)?;
            let x0 = denoised.x0.clone();
            let clamped = self.process.clamped(x0.clone());
            let noise = || noise(at.0.t as u64);
            xt = match steps.eta {
                None => ddpm_step(at, xt, Denoised { x0: clamped, ..denoised }, steps.variance, noise),
                Some(eta) if self.config.use_clipped_model_output => ddim_step(at, xt, clamped, eta, noise),
                Some(eta) => ddim_step_keeping_epsilon(at, xt, x0, clamped, eta, noise),
            };
        }
        Ok(xt)
    }

    /// The class asked for, else a uniform draw for each sample; and the context, with and without which there is guidance.
    fn guidance(&self, request: &Request, settings: &SamplerSettings) -> Result<Guidance> {
        check_class(request.condition.class, &self.classes)?;
        let (n, context) = (request.len(), request.condition.context.clone().unwrap_or_default());
        let features = self.config.unet.context_features();
        let fitting = |part: Option<Tensor<3>>| match part {
            Some(part) if Some(part.dims()[2]) != features => Err(Error::usage(format!(
                "--context: {} features; this network looks at {}",
                part.dims()[2],
                features.unwrap_or(0)
            ))),
            Some(part) if part.dims()[0] == 1 => Ok(Some(part.repeat_dim(0, n))),
            part => Ok(part),
        };
        let classes = (!self.classes.is_empty()).then(|| request.classes(self.classes.len()));
        let class = classes.map(|classes| from_indices(&classes, &request.device));
        let looking_at = |context| Condition { class: class.clone(), context, ..Condition::default() };
        let unconditional = match context.with.is_some() {
            true => Some(looking_at(fitting(context.without)?)),
            false => None,
        };
        Guidance::new(looking_at(fitting(context.with)?), unconditional, settings, request)
    }
}

impl Generate<Networks> for Diffusers {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Class, Input::Noise, Input::Context]
    }

    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        let xt = initial_noise(request, self.shape(request.len()))?;
        let settings: SamplerSettings = request.sampler(Self::ID)?;
        let (sampler, guidance) = (self.sampler(&settings)?, self.guidance(request, &settings)?);
        self.sample(networks, xt, &sampler, &guidance, request)
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
        let steps = (self.config.sampling_steps == 0).then_some(50.min(self.process.schedule.steps()));
        let settings =
            SamplerSettings { sampler: Some("ddim".into()), eta: Some(0.0), steps, ..SamplerSettings::default() };
        let request = Request::new(0..shape[0] as u64, 0, &latents.device());
        let guidance = Guidance::none(Condition::default());
        self.sample(networks, latents.reshape(shape), &self.sampler(&settings)?, &guidance, &request)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;
    use kiln_features::WeightsFile;
    use kiln_nn::tensor::{from_values, to_values};
    use kiln_train::checkpoint::Checkpoint;
    use kiln_train::{Run, params};

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
        let recipe = run.recipe_of::<Diffusers>().unwrap();
        let pictures = Pictures::new([1, 8, 16], recipe.data.classes);
        let system = Diffusers::new(recipe.model, &pictures).unwrap();
        let saved = Checkpoint::newest(&run.checkpoints(), &mut |_| ()).unwrap().unwrap();
        let networks = params::load(system.networks(&mut Init::new(&device, 1)), &saved.network, "network").unwrap();

        let settings = SamplerSettings { steps: Some(20), ..SamplerSettings::default() };
        let sampler = system.sampler(&settings).unwrap();
        let Sampler::Ancestral(levels, steps @ Ancestral { eta: None, .. }) = &sampler else { panic!("not the chain") };
        let noises = expected.values("step_noise", &[20, 2, 1, 8, 16]).unwrap();
        let noise = |draw: u64| {
            let step = levels.iter().position(|(from, _)| from.t as u64 == draw).unwrap();
            from_values(noises[step * 256..(step + 1) * 256].to_vec(), [2, 1, 8, 16], &device)
        };
        let labels = expected.values("labels", &[2]).unwrap().into_iter().map(|l| l as u32).collect::<Vec<_>>();
        let guidance =
            Guidance::none(Condition { class: Some(from_indices(&labels, &device)), ..Condition::default() });
        let start = from_values(expected.values("noise", &[2, 1, 8, 16]).unwrap(), [2, 1, 8, 16], &device);
        let steps: &Steps<'_> = &|xt, denoise, _| system.walk(xt, levels, steps, denoise, &noise);
        let request = Request::new(0..2, 0, &device);
        let predict = networks.predict();
        let made =
            system.process.chain(&predict, &guidance, &request).walk(start, None, steps).unwrap().clamp(-1.0, 1.0);
        let made = to_values(made);
        let theirs = expected.values("ddpm", &[2, 1, 8, 16]).unwrap();
        let off = made.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off <= 1.0 / 255.0, "a pixel is off by {off}");
    }
}
