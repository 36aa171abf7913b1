//! A classifier of noisy pictures, which guides a diffusion model that need not know classes: Dhariwal & Nichol,
//! *Diffusion Models Beat GANs on Image Synthesis*, 2021, §4.
//!
//! Objective: E −log p(c | xₜ, t), with xₜ as the diffusion model is trained on it and t uniform. The network is the way
//! down of the diffusion model's U-Net, pooled by attention and trained with AdamW's weight decay of 0.05.
//!
//! | paper | here |
//! |---|---|
//! | p_φ(y \| xₜ, t) | [`Classify::classify_noisy`] |
//! | ∇ log p_φ, γ | [`super::guidance::steer`], `--classifier-scale` |
//!
//! `kiln train noisy-classifier --data starter`, then
//! `kiln sample RUN -n 64 --class 7 --classifier CLASSIFIER --classifier-scale 3`.

use burn::module::Module;
use burn::tensor::{Tensor, activation::log_softmax};
use kiln_core::{Error, Result};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::loss::cross_entropy;
use kiln_nn::tensor::from_indices;
use kiln_nn::unet::{Pooling, UNetConfig, UNetEncoder};
use kiln_train::optim::Method;
use kiln_train::{
    Abilities, Batch, Classify, DataConfig, Guide, Looks, Loss, Model, OptimizerConfig, Phase, Pictures, Request,
    Schedule, SizeRule, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::schedule::{BetaSchedule, Level, NoiseLevels, NoiseSchedule, Sde};
use super::{check_unet, unet_sizes};

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// T, the number of noising steps.
    pub timesteps: usize,
    /// `linear`, `scaled_linear`, `cosine` or `sigmoid`; that of the model to guide is best, any serves.
    pub schedule: BetaSchedule,
    /// The network, of which only the way down and the middle are made.
    pub unet: UNetConfig,
    /// How all positions become one vector: `attention`, as ADM's, or `mean`.
    pub pooling: Pooling,
    /// Its optimiser.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        let unet = UNetConfig { base_channels: 32, blocks: 1, attention_levels: vec![2], ..UNetConfig::default() };
        let optimizer = OptimizerConfig {
            method: Method::AdamW,
            weight_decay: 0.05,
            ..OptimizerConfig::adam(1e-3).schedule(Schedule::Cosine)
        };
        Self { timesteps: 1000, schedule: BetaSchedule::Linear, unet, pooling: Pooling::Attention, optimizer }
    }
}

/// The one network.
#[derive(Module, Debug)]
pub struct Networks {
    /// p_φ.
    pub classifier: UNetEncoder,
}

/// The system.
pub struct NoisyClassifier {
    config: Config,
    schedule: NoiseSchedule,
    pictures: Pictures,
}

impl System for NoisyClassifier {
    const ID: &'static str = "noisy-classifier";
    const PAPER: &'static str =
        "Dhariwal & Nichol: Diffusion Models Beat GANs on Image Synthesis, 2021 (the classifier)";
    const DATA: DataKind = DataKind::Labelled;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        let train = TrainConfig { images: 100_000, preview_every: 0, ..TrainConfig::default() };
        (DataConfig::default(), train)
    }

    fn sizes(config: &Config) -> SizeRule {
        unet_sizes(&config.unet)
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        check_unet(&config.unet)?;
        Self::sizes(&config).check(pictures.shape)?;
        if config.timesteps < 2 {
            return Err(Error::usage("model.timesteps must be at least 2"));
        }
        if pictures.classes.len() < 2 {
            return Err(Error::usage("noisy-classifier needs a set of at least two classes"));
        }
        let schedule = NoiseSchedule::new(config.schedule, config.timesteps);
        Ok(Self { config, schedule, pictures: pictures.clone() })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let [channels, height, width] = self.pictures.shape;
        let Config { unet, pooling, .. } = &self.config;
        Networks { classifier: unet.encoder(channels, [height, width], *pooling, self.pictures.classes.len(), init) }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        vec![Phase::new("classifier", &["classifier"], self.config.optimizer.clone(), |s, n, b| s.loss(n, b).map(Some))]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { classify: Some(self), ..Abilities::default() }
    }
}

impl Classify<Networks> for NoisyClassifier {
    /// As pictures of the least noise.
    fn classify(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        let Level { signal, sigma, .. } = self.schedule.level(0);
        Ok(self.at(networks, images * signal, signal, sigma))
    }

    fn classify_noisy(&self, networks: &Networks, x: Tensor<4>, signal: f64, sigma: f64) -> Result<Option<Tensor<2>>> {
        Ok(Some(self.at(networks, x, signal, sigma)))
    }
}

impl NoisyClassifier {
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let (x0, device) = (batch.images(), batch.device());
        let timesteps = batch.below("t", self.schedule.steps() as u64);
        let levels: Vec<Level> = timesteps.iter().map(|&t| self.schedule.level(t as usize)).collect();
        let noise = batch.normal("noise", x0.dims());
        let levels = NoiseLevels::new(&levels, device);
        let xt = levels.noised(x0, noise);
        let logits = networks.classifier.forward(xt, levels.timesteps(), Some(batch.dropout_key()));
        Ok(Loss::new("cross_entropy", cross_entropy(logits, batch.labels()?)))
    }

    /// Whatever added the noise, it is brought to the scale and the time that the network knows.
    fn at(&self, networks: &Networks, x: Tensor<4>, signal: f64, sigma: f64) -> Tensor<2> {
        let (n, device) = (x.dims()[0], x.device());
        let scale = signal.hypot(sigma);
        let x = if (scale - 1.0).abs() < 1e-9 { x } else { x / scale };
        let level = Sde::Vp.level(0.0, if signal > 0.0 { sigma / signal } else { f64::MAX.sqrt() });
        let t = self.schedule.time_of(level.ratio());
        networks.classifier.forward(x, Tensor::full([n], t as f32, &device), None)
    }
}

/// log p(c | x) of a classifier's run: one that knows noise looks at the chain, any other at x̂₀.
pub struct ClassifierGuide {
    model: Box<dyn Model>,
    looks: Looks,
}

impl ClassifierGuide {
    /// Guides by a run that classifies, shown what it knows unless `looks` says what.
    ///
    /// # Errors
    /// If it does not, or was trained on pictures of another shape.
    pub fn new(model: Box<dyn Model>, shape: [usize; 3], looks: Option<Looks>) -> Result<Self> {
        let info = model.info();
        let run = info.run.clone();
        if info.pictures.shape != shape {
            return Err(Error::usage(format!(
                "{run} was trained on pictures {:?} (channels, height, width), and the run to guide makes {shape:?}",
                info.pictures.shape
            )));
        }
        let probe = Tensor::zeros([1, shape[0], shape[1], shape[2]], &info.device);
        let looks = match (looks, model.classify_noisy(probe, 1.0, 0.0)?) {
            (Some(looks), _) => looks,
            (None, Some(_)) => Looks::Noisy,
            (None, None) => Looks::Clean,
        };
        Ok(Self { model, looks })
    }

    /// Names of its classes.
    pub fn classes(&self) -> &[String] {
        &self.model.info().pictures.classes
    }
}

impl Guide for ClassifierGuide {
    fn looks_at(&self) -> Looks {
        self.looks
    }

    fn score(&self, x: Tensor<4>, signal: f64, sigma: f64, request: &Request) -> Result<Tensor<1>> {
        let (n, device) = (x.dims()[0], x.device());
        let logits = match self.looks {
            Looks::Clean => self.model.classify(x)?,
            // One that knows no noise is shown the noisy picture all the same, if that was asked for.
            Looks::Noisy => match self.model.classify_noisy(x.clone(), signal, sigma)? {
                Some(logits) => logits,
                None => self.model.classify(x)?,
            },
        };
        let labels = from_indices(&request.classes(self.classes().len()), &device).reshape([n, 1]);
        Ok(log_softmax(logits, 1).gather(1, labels).reshape([n]))
    }
}
