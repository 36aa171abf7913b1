//! Ho, Jain & Abbeel, *Denoising Diffusion Probabilistic Models*, 2020; sampled by its own chain
//! or by Song, Meng & Ermon, *Denoising Diffusion Implicit Models*, 2021.
//!
//! Objective, L_simple (equation 14): E ‖ε − ε_θ(√ᾱₜ x₀ + √(1 − ᾱₜ) ε, t)‖², t uniform, ε ~ N(0, I).
//!
//! | paper | here |
//! |---|---|
//! | T | `timesteps` |
//! | βₜ, ᾱₜ | [`NoiseSchedule::betas`], [`NoiseSchedule::alphas_cumprod`] |
//! | ε_θ | `denoiser`, a [`UNet`] |
//! | σₜ² = βₜ or β̃ₜ | `variance` |
//! | S, η (DDIM) | `steps`, `eta` |
//!
//! `kiln train ddpm --data starter`, then `kiln sample RUN -n 64 --sampler ddim --steps 50`.

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use kiln_core::{Error, Result};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::loss::mse;
use kiln_nn::tensor::{from_indices, from_values, per_sample};
use kiln_nn::unet::{UNet, UNetConfig};
use kiln_train::batch::drop_labels;
use kiln_train::system::check_class;
use kiln_train::{
    Abilities, Batch, DataConfig, Decode, Generate, GenerateRequest, Loss, OptimizerConfig, Phase, Pictures,
    SamplerSettings, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::parameterisation::Prediction;
use super::sampler::{self, Variance, ddim_step, ddpm_step, timesteps, walk};
use super::schedule::{BetaSchedule, NoiseSchedule};

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// T, the number of noising steps.
    pub timesteps: usize,
    /// `linear` or `cosine`.
    pub schedule: BetaSchedule,
    /// What the network predicts: `epsilon`, `sample` or `v`.
    pub prediction: Prediction,
    /// σ² of the ancestral sampler: `small` (β̃) or `large` (β).
    pub variance: String,
    /// Clamp x̂₀ to [−1, 1] while sampling.
    pub clip_sample: bool,
    /// Condition on the label.
    pub class_conditional: bool,
    /// Probability of dropping the label in training, for classifier-free guidance.
    pub label_dropout: f64,
    /// `ddpm` or `ddim`: the sampler when none is asked for.
    pub sampler: String,
    /// Its number of steps when none is asked for; 0 is T.
    pub sampling_steps: usize,
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
            prediction: Prediction::Epsilon,
            variance: "large".into(),
            clip_sample: true,
            class_conditional: false,
            label_dropout: 0.1,
            sampler: "ddim".into(),
            sampling_steps: 50,
            unet: UNetConfig::default(),
            optimizer: OptimizerConfig { warmup: 5_000, clip_norm: 1.0, ..OptimizerConfig::adam(2e-4) },
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
    variance: Variance,
    shape: [usize; 3],
    classes: Vec<String>,
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

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let refuse = |what: String| Err(Error::usage(what));
        let [_, height, width] = pictures.shape;
        for side in [height, width] {
            if let Err(why) = config.unet.check(side) {
                return refuse(format!("model.unet: {why}"));
            }
        }
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
        let variance = match config.variance.as_str() {
            "small" => Variance::Small,
            "large" => Variance::Large,
            other => return refuse(format!("model.variance must be `small` or `large`, not `{other}`")),
        };
        let system = Self {
            schedule: NoiseSchedule::new(config.schedule, config.timesteps),
            variance,
            shape: pictures.shape,
            classes: if config.class_conditional { pictures.classes.clone() } else { Vec::new() },
            config,
        };
        system.sampler(&SamplerSettings::default())?;
        Ok(system)
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let channels = self.shape[0];
        Networks { denoiser: self.config.unet.init(channels, channels, self.classes.len(), init) }
    }

    fn phases(&self) -> Vec<Phase> {
        vec![Phase::new("denoiser", &["denoiser"], self.config.optimizer.clone())]
    }

    /// Algorithm 1.
    fn loss(&mut self, networks: &Networks, _phase: &str, batch: &Batch) -> Result<Loss> {
        let (x0, n) = (batch.images(), batch.len());
        let t = batch.below("t", self.schedule.steps() as u64);
        let noise = batch.normal("noise", x0.dims());
        let coefficient = |f: fn(f64) -> f64| {
            let values = t.iter().map(|&t| f(self.schedule.alphas_cumprod[t as usize]) as f32).collect();
            per_sample(from_values(values, [n], batch.device()))
        };
        let (signal, sigma) = (coefficient(|a| a.sqrt()), coefficient(|a| (1.0 - a).sqrt()));
        let xt = x0.clone() * signal.clone() + noise.clone() * sigma.clone();

        let times = from_values(t.iter().map(|&t| t as f32).collect(), [n], batch.device());
        let classes = match (&batch.domains[0].host_labels, self.classes.is_empty()) {
            (Some(labels), false) => {
                let nothing = self.classes.len() as u32;
                Some(from_indices(&drop_labels(batch, labels, nothing, self.config.label_dropout), batch.device()))
            }
            _ => None,
        };
        let output = networks.denoiser.forward(xt, times, classes, Some(batch.key("dropout")));
        let target = self.config.prediction.target(x0, noise, signal, sigma);
        Ok(Loss::new("loss", mse(output, target)))
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { generate: Some(self), decode: Some(self), ..Abilities::default() }
    }
}

/// A sampler with its settings resolved.
enum Sampler {
    Ddpm { times: Vec<usize> },
    Ddim { times: Vec<usize>, eta: f64 },
}

impl Ddpm {
    fn sampler(&self, settings: &SamplerSettings) -> Result<Sampler> {
        let name = settings.sampler.as_deref().unwrap_or(&self.config.sampler);
        let default = match (name, self.config.sampling_steps) {
            ("ddpm", _) | (_, 0) => self.schedule.steps(),
            (_, steps) => steps,
        };
        let times = timesteps(&self.schedule, settings.steps.unwrap_or(default))?;
        match name {
            "ddpm" => Ok(Sampler::Ddpm { times }),
            "ddim" => {
                let eta = settings.eta.unwrap_or(0.0);
                if !(0.0..=1.0).contains(&eta) {
                    return Err(Error::usage(format!("--eta {eta}: must be between 0 and 1")));
                }
                Ok(Sampler::Ddim { times, eta })
            }
            other => Err(Error::usage(format!("--sampler {other}: ddpm has `ddpm` and `ddim`"))),
        }
    }

    /// x̂₀ by the network, guided if there is a class (Ho & Salimans 2021, equation 6, written for
    /// the weight w with w = 1 unguided: ε = ε(∅) + w·(ε(c) − ε(∅))), both in one batch.
    fn denoise(&self, networks: &Networks, xt: Tensor<4>, t: usize, class: Option<u32>, scale: f64) -> Tensor<4> {
        let (n, device) = (xt.dims()[0], xt.device());
        let times = |n: usize| Tensor::<1>::full([n], t as f32, &device);
        let label = |label: u32, n: usize| -> Tensor<1, Int> { from_indices(&vec![label; n], &device) };
        let nothing = self.classes.len() as u32;
        let net = &networks.denoiser;
        let output = match class {
            _ if self.classes.is_empty() => net.forward(xt.clone(), times(n), None, None),
            None => net.forward(xt.clone(), times(n), Some(label(nothing, n)), None),
            Some(c) if scale == 1.0 => net.forward(xt.clone(), times(n), Some(label(c, n)), None),
            Some(c) => {
                let twice = Tensor::cat(vec![xt.clone(), xt.clone()], 0);
                let labels = Tensor::cat(vec![label(c, n), label(nothing, n)], 0);
                let both = net.forward(twice, times(2 * n), Some(labels), None);
                let (with, without) = (both.clone().narrow(0, 0, n), both.narrow(0, n, n));
                without.clone() + (with - without) * scale
            }
        };
        let x0 = self.config.prediction.to_x0(output, xt, self.schedule.alpha_bar(Some(t)));
        if self.config.clip_sample { x0.clamp(-1.0, 1.0) } else { x0 }
    }
}

impl Generate<Networks> for Ddpm {
    fn generate(&self, networks: &Networks, request: &GenerateRequest) -> Result<Tensor<4>> {
        check_class(request.class, &self.classes)?;
        let [c, h, w] = self.shape;
        let shape = [request.len(), c, h, w];
        let xt = request.noise.clone().unwrap_or_else(|| request.normal("latent", shape));
        if xt.dims() != shape {
            return Err(Error::usage(format!("--noise: expected shape {shape:?}, got {:?}", xt.dims())));
        }
        let scale = request.sampler.guidance_scale.unwrap_or(1.0);
        let denoiser = |xt: Tensor<4>, t: usize| self.denoise(networks, xt, t, request.class, scale);
        let noise = |t: usize| {
            kiln_nn::tensor::normal(
                request.key.purpose("chain").at(t as u64),
                request.indices.clone(),
                shape,
                &request.device,
            )
        };
        let out = match self.sampler(&request.sampler)? {
            Sampler::Ddpm { times } => walk(xt, &times, &denoiser, |x0, xt, at| {
                ddpm_step(&self.schedule, x0, xt, at, self.variance, || noise(at.0))
            }),
            Sampler::Ddim { times, eta } => {
                walk(xt, &times, &denoiser, |x0, xt, at| ddim_step(&self.schedule, x0, xt, at, eta, || noise(at.0)))
            }
        };
        Ok(out.clamp(-1.0, 1.0))
    }
}

/// Latents are x_T; DDIM with η = 0 decodes them, so that a walk between them is a walk between
/// pictures (DDIM, §5.3).
impl Decode<Networks> for Ddpm {
    fn latents(&self, request: &GenerateRequest) -> Tensor<2> {
        request.normal("latent", [request.len(), self.shape.iter().product()])
    }

    fn decode(&self, networks: &Networks, latents: Tensor<2>) -> Result<Tensor<4>> {
        let [c, h, w] = self.shape;
        let n = latents.dims()[0];
        let steps = SamplerSettings { sampler: Some("ddim".into()), ..SamplerSettings::default() };
        let Sampler::Ddim { times, .. } = self.sampler(&steps)? else {
            return Err(Error::new("ddpm decodes latents by DDIM only"));
        };
        let denoiser = |xt: Tensor<4>, t: usize| self.denoise(networks, xt, t, None, 1.0);
        let out = sampler::walk(latents.reshape([n, c, h, w]), &times, &denoiser, |x0, xt, at| {
            let shape = xt.dims();
            // η = 0 adds no noise.
            ddim_step(&self.schedule, x0, xt, at, 0.0, || Tensor::zeros(shape, &Default::default()))
        });
        Ok(out.clamp(-1.0, 1.0))
    }
}
