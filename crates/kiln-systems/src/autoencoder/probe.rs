//! A classifier on an encoder that was trained without labels, which shows how useful its codes are (as Hinton &
//! Salakhutdinov 2006; called a "probe" since Alain & Bengio 2017).
//!
//! With a few labelled images, an encoder E from another run and a new head h of fully connected layers, minimise
//!
//! min −log softmax(h(E(x)))`[y]` over h alone (`frozen`), or over h and E (`fine-tune`),
//!
//! or, as the baseline, the same head on the pixels themselves (`raw`).
//!
//! | here | |
//! |---|---|
//! | `encoder` | E: from any run with an encoder of this family (`ae`, `aae`, and the means of `vae`, `iwae`, `dvae`) |
//! | `head` | h |
//!
//! `kiln train ae --out runs/ae`, then `kiln train probe --set model.encoder=runs/ae`, and beside it
//! `kiln train probe --set model.tune=raw --out runs/raw`; `kiln evaluate RUN --metrics accuracy --split test`.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::{Error, Result};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::loss::cross_entropy;
use kiln_train::request::check_pictures;
use kiln_train::{
    Abilities, Batch, Classify, DataConfig, InitFrom, Loss, OptimizerConfig, Phase, Pictures, Run, Schedule, SizeRule,
    System, TrainConfig,
};
use serde::{Deserialize, Serialize};
use toml::Value;

use super::coder::{Coder, Logits};
use super::latent::LatentConfig;

/// What learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tune {
    /// Train the head, on the codes of a fixed encoder.
    Frozen,
    /// Train the head and the encoder.
    FineTune,
    /// Train the head on pixels.
    Raw,
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Folder of the run whose encoder to use (`frozen`, `fine-tune`).
    pub encoder: String,
    /// `frozen`, `fine-tune` or `raw`.
    pub tune: Tune,
    /// Widths of the head's hidden layers.
    pub head: Vec<usize>,
    /// Settings of that encoder, copied from its run.
    #[serde(flatten)]
    pub model: LatentConfig,
    /// The optimiser of everything that trains.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            encoder: String::new(),
            tune: Tune::Frozen,
            head: vec![256],
            model: LatentConfig::default(),
            optimizer: OptimizerConfig::adam(1e-3).schedule(Schedule::Cosine),
        }
    }
}

/// The settings that the networks of a run of this family were made by.
///
/// # Errors
/// If there is no such run, or its system is of another kind.
pub fn settings_of(run: &str) -> Result<LatentConfig> {
    let recipe = Run::open(std::path::Path::new(run))?.recipe()?;
    let model = recipe.get("model").cloned().unwrap_or_else(|| Value::Table(toml::Table::new()));
    let settings: std::result::Result<LatentConfig, _> = model.try_into();
    settings.map_err(|_| {
        let system = recipe.get("system").and_then(Value::as_str).unwrap_or("another system");
        Error::usage(format!("{run}: a run of {system}, which has no encoder of the autoencoders' kind"))
    })
}

/// The two networks.
#[derive(Module, Debug)]
pub struct Networks {
    /// E; none on pixels.
    pub encoder: Option<Coder>,
    /// h.
    pub head: Logits,
}

/// The system.
pub struct Probe {
    config: Config,
    pictures: Pictures,
}

impl System for Probe {
    const ID: &'static str = "probe";
    const PAPER: &'static str = "a classifier on another run's encoder, frozen or fine-tuned, or on pixels";
    const DATA: DataKind = DataKind::Labelled;
    type Config = Config;
    type Networks = Networks;

    /// A hundred times a thousand labelled pictures.
    fn defaults() -> (DataConfig, TrainConfig) {
        let train = TrainConfig {
            batch: 50,
            images: 100_000,
            ema_half_life: 2_000.0,
            log_every: 5_000,
            checkpoint_every: 100_000,
            preview_every: 0,
            ..TrainConfig::default()
        };
        (DataConfig { labels: 1_000, ..DataConfig::default() }, train)
    }

    fn sizes(config: &Config) -> SizeRule {
        if config.tune == Tune::Raw { SizeRule::any() } else { config.model.networks.sizes() }
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        if pictures.classes.len() < 2 {
            return Err(Error::usage("probe needs a set of at least two classes"));
        }
        if config.head.contains(&0) {
            return Err(Error::usage("model.head: each width must be at least 1"));
        }
        if config.tune != Tune::Raw {
            config.model.networks.check(pictures.shape)?;
        }
        Ok(Self { config, pictures: pictures.clone() })
    }

    fn settle(mut config: Config) -> Result<Config> {
        if config.tune == Tune::Raw {
            return Ok(config);
        }
        if config.encoder.is_empty() {
            return Err(Error::usage(
                "model.encoder: name the run whose encoder is probed, such as --set model.encoder=runs/ae; pixels are probed by model.tune = \"raw\"",
            ));
        }
        config.model = settings_of(&config.encoder)?;
        Ok(config)
    }

    fn init_from(config: &Config) -> Vec<InitFrom<'_>> {
        let has_encoder = config.tune != Tune::Raw && !config.encoder.is_empty();
        let encoder = InitFrom { source: &config.encoder, networks: &[("encoder", "encoder")] };
        has_encoder.then_some(encoder).into_iter().collect()
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, shape) = (&self.config, self.pictures.shape);
        let networks = &c.model.networks;
        let encoder = (c.tune != Tune::Raw).then(|| Coder::new(networks, shape, init));
        let inputs = if encoder.is_some() { networks.latent } else { shape.iter().product() };
        let head = Logits::mlp(inputs, &c.head, self.pictures.classes.len(), networks.nonlinearity, init);
        Networks { encoder, head }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let trains: &[&str] = if self.config.tune == Tune::FineTune { &["encoder", "head"] } else { &["head"] };
        vec![Phase::new("probe", trains, self.config.optimizer.clone(), |s, n, b| s.loss(n, b).map(Some))]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { classify: Some(self), ..Abilities::default() }
    }
}

impl Probe {
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let logits = self.logits(networks, batch.images());
        Ok(Loss::new("cross_entropy", cross_entropy(logits, batch.labels()?)))
    }

    fn logits(&self, networks: &Networks, images: Tensor<4>) -> Tensor<2> {
        let [n, c, h, w] = images.dims();
        networks.head.forward(match &networks.encoder {
            Some(encoder) => encoder.forward(self.config.model.pixels.observe(images, None)),
            None => images.reshape([n, c * h * w]),
        })
    }
}

impl Classify<Networks> for Probe {
    fn classify(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_pictures(&images, self.pictures.shape)?;
        Ok(self.logits(networks, images))
    }
}
