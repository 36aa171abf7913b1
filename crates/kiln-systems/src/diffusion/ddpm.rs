//! Ho, Jain & Abbeel, *Denoising Diffusion Probabilistic Models*, 2020; sampled by its own chain
//! or by Song, Meng & Ermon, *Denoising Diffusion Implicit Models*, 2021.
//!
//! Objective, L_simple (equation 14): E ‖ε − ε_θ(√ᾱₜ x₀ + √(1 − ᾱₜ) ε, t)‖², t uniform, ε ~ N(0, I);
//! or the bound itself ([`bound`]); or both, with a learned variance (Nichol & Dhariwal, *Improved
//! Denoising Diffusion Probabilistic Models*, 2021, equation 16).
//!
//! | paper | here |
//! |---|---|
//! | T | `timesteps` |
//! | βₜ, ᾱₜ | [`NoiseSchedule::betas`], [`NoiseSchedule::alphas_cumprod`] |
//! | ε_θ | `denoiser`, a [`UNet`] |
//! | σₜ² = βₜ, β̃ₜ or Σ_θ | `variance` |
//! | L_simple, L_vlb, L_hybrid | `objective` |
//! | λ of L_hybrid = L_simple + λ L_vlb | `bound_weight` |
//! | S, η (DDIM) | `steps`, `eta` |
//!
//! `kiln train ddpm --data starter`, then `kiln sample RUN -n 64 --sampler ddim --steps 50`.

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::loss::mse;
use kiln_nn::tensor::{from_indices, from_values, normal};
use kiln_nn::unet::{UNet, UNetConfig};
use kiln_train::batch::drop_labels;
use kiln_train::system::check_class;
use kiln_train::{
    Abilities, Batch, DataConfig, Decode, Generate, GenerateRequest, Likelihood, Loss, OptimizerConfig, Phase,
    Pictures, SamplerSettings, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::bound;
use super::parameterisation::Prediction;
use super::sampler::{Denoised, Spacing, Variance, ddim_step, ddpm_step, timesteps, walk};
use super::schedule::{BetaSchedule, NoiseSchedule};

/// What training minimises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// L_simple.
    #[default]
    Simple,
    /// L_vlb, one term of the bound for each picture.
    Bound,
    /// L_simple for the mean, `bound_weight` of L_vlb for the variance.
    Hybrid,
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// T, the number of noising steps.
    pub timesteps: usize,
    /// `linear` or `cosine`.
    pub schedule: BetaSchedule,
    /// What the network predicts: `epsilon`, `sample` or `v`.
    pub prediction: Prediction,
    /// σ² of the ancestral sampler: `small` (β̃), `large` (β) or `learned` (between them, for each pixel).
    pub variance: Variance,
    /// `simple`, `bound` or `hybrid`.
    pub objective: Objective,
    /// λ, what a bit a dimension of the bound weighs in the hybrid objective.
    pub bound_weight: f64,
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
            prediction: Prediction::Epsilon,
            variance: Variance::Large,
            objective: Objective::Simple,
            bound_weight: 1e-3,
            clip_sample: true,
            class_conditional: false,
            label_dropout: 0.1,
            sampler: "ddim".into(),
            sampling_steps: 50,
            timestep_spacing: Spacing::default(),
            eta: 0.0,
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
        let system = Self {
            schedule: NoiseSchedule::new(config.schedule, config.timesteps),
            shape: pictures.shape,
            classes: if config.class_conditional { pictures.classes.clone() } else { Vec::new() },
            config,
        };
        system.sampler(&SamplerSettings::default())?;
        Ok(system)
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let channels = self.shape[0];
        let outputs = if self.config.variance == Variance::Learned { 2 * channels } else { channels };
        Networks { denoiser: self.config.unet.init(channels, outputs, self.classes.len(), init) }
    }

    fn phases(&self) -> Vec<Phase> {
        vec![Phase::new("denoiser", &["denoiser"], self.config.optimizer.clone())]
    }

    /// Algorithm 1, on the objective asked for.
    fn loss(&mut self, networks: &Networks, _phase: &str, batch: &Batch) -> Result<Loss> {
        let (x0, n) = (batch.images(), batch.len());
        let t: Vec<usize> = batch.below("t", self.schedule.steps() as u64).into_iter().map(|t| t as usize).collect();
        let noise = batch.normal("noise", x0.dims());
        let level = self.schedule.level(&t, batch.device());
        let xt = level.noised(x0.clone(), noise.clone());

        let times = from_values(t.iter().map(|&t| t as f32).collect(), [n], batch.device());
        let classes = match (&batch.domains[0].host_labels, self.classes.is_empty()) {
            (Some(labels), false) => {
                let nothing = self.classes.len() as u32;
                Some(from_indices(&drop_labels(batch, labels, nothing, self.config.label_dropout), batch.device()))
            }
            _ => None,
        };
        let output = networks.denoiser.forward(xt.clone(), times, classes, Some(batch.key("dropout")));
        let (output, variance) = self.split(output);
        let prediction = self.config.prediction;
        let simple = mse(output.clone(), prediction.target(x0.clone(), noise, &level));
        let vlb = |output: Tensor<4>| {
            let denoised = Denoised { x0: prediction.to_x0(output, xt.clone(), &level), variance: variance.clone() };
            let terms = bound::term(&self.schedule, self.config.variance, &t, x0.clone(), xt.clone(), denoised);
            terms.mean() * (self.schedule.steps() as f64 * self.bits_a_dimension())
        };
        Ok(match self.config.objective {
            Objective::Simple => Loss::new("loss", simple),
            Objective::Bound => Loss::new("bound_bpd", vlb(output)).report("simple", simple),
            // The mean learns from L_simple alone (Nichol & Dhariwal 2021, §3.1).
            Objective::Hybrid => {
                Loss::new("simple", simple).plus("bound_bpd", self.config.bound_weight, vlb(output.detach()))
            }
        })
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { generate: Some(self), decode: Some(self), likelihood: Some(self), ..Abilities::default() }
    }
}

/// A sampler with its settings resolved.
enum Sampler {
    Ddpm { times: Vec<usize> },
    Ddim { times: Vec<usize>, eta: f64 },
}

impl Ddpm {
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

    fn sampler(&self, settings: &SamplerSettings) -> Result<Sampler> {
        let name = settings.sampler.as_deref().unwrap_or(&self.config.sampler);
        let default = match (name, self.config.sampling_steps) {
            ("ddpm", _) | (_, 0) => self.schedule.steps(),
            (_, steps) => steps,
        };
        let spacing = match &settings.timestep_spacing {
            Some(name) => name.parse()?,
            None => self.config.timestep_spacing,
        };
        let times = timesteps(&self.schedule, settings.steps.unwrap_or(default), spacing)?;
        match name {
            "ddpm" => Ok(Sampler::Ddpm { times }),
            "ddim" => {
                let eta = settings.eta.unwrap_or(self.config.eta);
                if !(0.0..=1.0).contains(&eta) {
                    return Err(Error::usage(format!("--eta {eta} (model.eta): must be between 0 and 1")));
                }
                Ok(Sampler::Ddim { times, eta })
            }
            other => Err(Error::usage(format!("--sampler {other}: ddpm has `ddpm` and `ddim`"))),
        }
    }

    /// x̂₀ by the network, guided if there is a class (Ho & Salimans 2021, equation 6, written for
    /// the weight w with w = 1 unguided: ε = ε(∅) + w·(ε(c) − ε(∅))), both in one batch.
    fn denoise(&self, networks: &Networks, xt: Tensor<4>, t: usize, class: Option<u32>, scale: f64) -> Denoised {
        let (n, device) = (xt.dims()[0], xt.device());
        let times = |n: usize| Tensor::<1>::full([n], t as f32, &device);
        let label = |label: u32, n: usize| -> Tensor<1, Int> { from_indices(&vec![label; n], &device) };
        let nothing = self.classes.len() as u32;
        let ask = |xt: Tensor<4>, labels: Option<Tensor<1, Int>>| {
            let n = xt.dims()[0];
            self.split(networks.denoiser.forward(xt, times(n), labels, None))
        };
        let (output, variance) = match class {
            _ if self.classes.is_empty() => ask(xt.clone(), None),
            None => ask(xt.clone(), Some(label(nothing, n))),
            Some(c) if scale == 1.0 => ask(xt.clone(), Some(label(c, n))),
            Some(c) => {
                let twice = Tensor::cat(vec![xt.clone(), xt.clone()], 0);
                let labels = Tensor::cat(vec![label(c, n), label(nothing, n)], 0);
                let (both, variance) = ask(twice, Some(labels));
                let (with, without) = (both.clone().narrow(0, 0, n), both.narrow(0, n, n));
                (without.clone() + (with - without) * scale, variance.map(|v| v.narrow(0, 0, n)))
            }
        };
        let x0 = self.config.prediction.to_x0(output, xt, &self.schedule.level(&[t], &device));
        Denoised { x0: self.clip(x0), variance }
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
            normal(request.key.purpose("chain").at(t as u64), request.indices.clone(), shape, &request.device)
        };
        let out = match self.sampler(&request.sampler)? {
            Sampler::Ddpm { times } => walk(xt, &times, &denoiser, |denoised, xt, at| {
                ddpm_step(&self.schedule, denoised, xt, at, self.config.variance, || noise(at.0))
            }),
            Sampler::Ddim { times, eta } => walk(xt, &times, &denoiser, |denoised, xt, at| {
                ddim_step(&self.schedule, denoised.x0, xt, at, eta, || noise(at.0))
            }),
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
        let out = walk(latents.reshape([n, c, h, w]), &times, &denoiser, |denoised, xt, at| {
            let shape = xt.dims();
            // η = 0 adds no noise.
            ddim_step(&self.schedule, denoised.x0, xt, at, 0.0, || Tensor::zeros(shape, &Default::default()))
        });
        Ok(out.clamp(-1.0, 1.0))
    }
}

/// The bound of [`bound`], x̂₀ clamped as in sampling.
impl Likelihood<Networks> for Ddpm {
    /// `samples` terms at random times, one in each of as many equal stretches, stand for the T; 0 takes them all.
    fn nll(&self, networks: &Networks, images: Tensor<4>, samples: usize, key: Key) -> Result<Tensor<1>> {
        let (shape, device) = (images.dims(), images.device());
        let n = shape[0];
        if shape[1..] != self.shape {
            return Err(Error::usage(format!("ddpm was trained on pictures {:?}, not {:?}", self.shape, &shape[1..])));
        }
        let steps = self.schedule.steps();
        let terms = if samples == 0 { steps } else { samples.min(steps) };
        let labels = (!self.classes.is_empty()).then(|| from_indices(&vec![self.classes.len() as u32; n], &device));
        let mut total = bound::prior(&self.schedule, images.clone());
        for k in 0..terms {
            let place = key.purpose("t").at(k as u64).uniform(0..n as u64, 1);
            let at = |u: f32| ((k as f64 + f64::from(u)) * steps as f64 / terms as f64) as usize;
            let t: Vec<usize> =
                place.into_iter().map(|u| if terms == steps { k } else { at(u).min(steps - 1) }).collect();
            let level = self.schedule.level(&t, &device);
            let noise = normal(key.purpose("noise").at(k as u64), 0..n as u64, shape, &device);
            let xt = level.noised(images.clone(), noise);
            let times = from_values(t.iter().map(|&t| t as f32).collect(), [n], &device);
            let (output, variance) = self.split(networks.denoiser.forward(xt.clone(), times, labels.clone(), None));
            let x0 = self.clip(self.config.prediction.to_x0(output, xt.clone(), &level));
            let denoised = Denoised { x0, variance };
            let nats = bound::term(&self.schedule, self.config.variance, &t, images.clone(), xt, denoised);
            total = total + nats * (steps as f64 / terms as f64);
        }
        Ok(total)
    }

    /// However many terms are drawn, their mean is the bound.
    fn name(&self, _samples: usize) -> String {
        "nll_bound".into()
    }
}
