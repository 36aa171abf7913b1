//! Rombach, Blattmann, Lorenz, Esser & Ommer, *High-Resolution Image Synthesis with Latent Diffusion Models*, 2022.
//!
//! A diffusion model of the latents z = s·E(x) of a frozen autoencoder ([`super::first_stage`]), for the same pictures at a fraction of the
//! work. Objective (equation 3): E ‖ε − ε_θ(zₜ, t, τ_θ(y))‖², or any other of [`super::process`].
//!
//! | paper | here |
//! |---|---|
//! | E, D | `first_stage`, of another run |
//! | s, 1 over the deviation of the first batch's latents (appendix G) | `latent_scale` |
//! | ε_θ | `denoiser`, a [`UNet`] |
//! | τ_θ, a transformer on the tokens of a text | `text_model`, a [`TextTransformer`], trained with ε_θ |
//! | cross-attention to τ_θ(y) (section 3.3) | `conditioning = "text"` |
//! | a class, added to the embedding of time | `conditioning = "class"` |
//! | classifier-free guidance | `label_dropout`, `--guidance-scale`, `--negative-text` |
//!
//! `kiln train ldm --set model.first_stage=runs/first-stage`, then `kiln sample RUN --text "a red car"`.

use burn::module::{Module, RunningState};
use burn::tensor::Tensor;
use kiln_core::{Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::encoder::{EncoderConfig, TextTransformer};
use kiln_nn::tensor::from_values;
use kiln_nn::unet::{UNet, UNetConfig};
use kiln_nn::{Condition, Init};
use kiln_train::batch::{Tokens, drop_labels};
use kiln_train::request::check_class;
use kiln_train::{
    Abilities, Batch, DataConfig, Generate, InitFrom, Input, Loss, OptimizerConfig, Phase, Pictures, Request, Schedule,
    SizeRule, State, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::first_stage::{self, Autoencoder};
use super::guidance::Guidance;
use super::parameterisation::Prediction;
use super::process::sampling::initial_noise;
use super::process::{Process, ProcessConfig, Training, max_batch};
use super::sampler::settings::SamplerSettings;
use super::schedule::{BetaSchedule, Level, NoiseLevels};
use super::{check_unet, of_classes};

/// What a latent is conditioned on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Conditioning {
    /// Nothing.
    None,
    /// The class.
    Class,
    /// The caption.
    Text,
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Schedule, prediction, objective and sampler.
    #[serde(flatten)]
    pub process: ProcessConfig,
    /// The run of `first-stage` whose latents are learned; `random` for an untrained one.
    pub first_stage: String,
    /// Its networks, filled in from that run.
    pub autoencoder: first_stage::NetworkConfig,
    /// `none`, `class` or `text`.
    pub conditioning: Conditioning,
    /// Probability of dropping the condition in training, for classifier-free guidance.
    pub label_dropout: f64,
    /// Features of each token, a multiple of 64 (or one head).
    pub text_width: usize,
    /// Layers of the text encoder.
    pub text_layers: usize,
    /// The denoising network.
    pub unet: UNetConfig,
    /// The optimiser of all that is trained.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            process: ProcessConfig {
                schedule: BetaSchedule::Cosine,
                prediction: Prediction::V,
                clip_sample: false,
                ..ProcessConfig::default()
            },
            first_stage: String::new(),
            autoencoder: first_stage::NetworkConfig::default(),
            conditioning: Conditioning::Text,
            label_dropout: 0.1,
            text_width: 128,
            text_layers: 2,
            unet: UNetConfig {
                base_channels: 64,
                channel_multipliers: vec![1, 2],
                blocks: 1,
                attention_levels: vec![0, 1],
                ..UNetConfig::default()
            },
            optimizer: OptimizerConfig {
                warmup: 5_000,
                clip_norm: 1.0,
                ..OptimizerConfig::adam(5e-4).schedule(Schedule::Cosine)
            },
        }
    }
}

/// The frozen autoencoder, and what is trained.
#[derive(Module, Debug)]
pub struct Networks {
    /// E and D.
    pub first_stage: Autoencoder,
    /// s, `[1]`; 0 until the first batch.
    pub latent_scale: RunningState<Tensor<1>>,
    /// ε_θ.
    pub denoiser: UNet,
    /// τ_θ.
    pub text_model: Option<TextTransformer>,
}

impl Networks {
    fn predict(&self) -> impl Fn(Tensor<4>, &[Level], &Condition) -> Tensor<4> + '_ {
        |zt, levels, condition| {
            let timesteps = NoiseLevels::new(levels, &zt.device()).timesteps();
            self.denoiser.forward(zt, timesteps, condition)
        }
    }

    /// s, measured on these latents if it has not been yet.
    fn scale(&self, latents: &Tensor<4>) -> f64 {
        let known = self.known_scale();
        if known > 0.0 {
            return known;
        }
        let values = latents.clone().inner();
        let mean = values.clone().mean();
        let variance = (values - mean.unsqueeze()).square().mean().into_scalar::<f32>();
        let scale = 1.0 / f64::from(variance).sqrt().max(1e-6);
        self.latent_scale.update(from_values(vec![scale as f32], [1], &latents.device()));
        // An update waits until it is looked at.
        let _ = self.latent_scale.value_sync();
        scale
    }

    fn known_scale(&self) -> f64 {
        f64::from(self.latent_scale.value_sync().into_scalar::<f32>())
    }

    /// τ_θ(y).
    fn said(&self, tokens: &Tokens) -> Option<Tensor<3>> {
        self.text_model.as_ref().map(|text| text.forward(tokens.ids.clone()))
    }
}

/// The system.
pub struct Ldm {
    config: Config,
    process: Process,
    training: Training,
    /// Of a latent.
    shape: [usize; 3],
    pictures: Pictures,
}

/// Latents that are decoded at once.
const CHUNK: usize = 16;

impl System for Ldm {
    const ID: &'static str = "ldm";
    const PAPER: &'static str = "Rombach et al.: High-Resolution Image Synthesis with Latent Diffusion Models, 2022";
    const DATA: DataKind = DataKind::Captioned;
    type Config = Config;
    type Networks = Networks;

    fn data_kind(config: &Config) -> DataKind {
        match config.conditioning {
            Conditioning::None => DataKind::Images,
            Conditioning::Class => DataKind::Labelled,
            Conditioning::Text => DataKind::Captioned,
        }
    }

    fn settle(config: Config) -> Result<Config> {
        refuse_if!(
            config.first_stage.is_empty(),
            "model.first_stage: name the run of first-stage whose latents are learned, such as --set model.first_stage=runs/first-stage"
        );
        if config.first_stage == InitFrom::RANDOM {
            return Ok(config);
        }
        Ok(Config { autoencoder: first_stage::settings_of(&config.first_stage)?, ..config })
    }

    fn init_from(config: &Config) -> Vec<InitFrom<'_>> {
        InitFrom::named(&config.first_stage, &[("autoencoder", "first_stage")])
    }

    fn defaults() -> (DataConfig, TrainConfig) {
        let data = DataConfig { size: 64.into(), channels: 3, ..DataConfig::default() };
        (data, TrainConfig { batch: 32, images: 200_000, ..TrainConfig::default() })
    }

    fn sizes(config: &Config) -> SizeRule {
        let because = "model.first_stage and the levels of model.unet on its latents";
        SizeRule::multiple_of(config.autoencoder.factor() * config.unet.divisor(), because)
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let c = &config;
        check_unet(&c.unet)?;
        c.autoencoder.check()?;
        Self::sizes(c).check(pictures.shape)?;
        refuse_if!(
            !(0.0..1.0).contains(&c.label_dropout),
            "model.label_dropout must be in [0, 1), not {}",
            c.label_dropout
        );
        refuse_if!(
            c.text_width == 0 || c.text_layers == 0,
            "model.text_width and model.text_layers must be at least 1"
        );
        let heads = EncoderConfig::new(c.text_width, 1).heads;
        refuse_if!(
            !c.text_width.is_multiple_of(heads),
            "model.text_width = {} does not divide among {heads} heads; use a multiple of 64",
            c.text_width
        );
        refuse_if!(
            c.conditioning == Conditioning::Text && c.unet.attention_levels.is_empty(),
            "model.unet.attention_levels: a text is looked at where there is attention; name a level"
        );
        let [_, height, width] = pictures.shape;
        let factor = c.autoencoder.factor();
        let shape @ [_, h, w] = [c.autoencoder.latent_channels, height / factor, width / factor];
        Ok(Self {
            process: c.process.process(max_batch(c.unet.memory(h, w)))?,
            training: c.process.training(),
            shape,
            pictures: pictures.clone(),
            config,
        })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, channels) = (&self.config, self.shape[0]);
        let outputs = c.process.output_channels(channels);
        let text = c.conditioning == Conditioning::Text;
        let context = if text { c.text_width } else { 0 };
        let encoder = EncoderConfig::new(c.text_width, c.text_layers);
        let (words, length) = (self.pictures.vocabulary.max(1), self.pictures.caption_length.max(1));
        Networks {
            first_stage: Autoencoder::new(&c.autoencoder, self.pictures.shape[0], init),
            latent_scale: RunningState::new(Tensor::zeros([1], init.device())),
            denoiser: c.unet.init_with_context(channels, outputs, self.classes(), context, init),
            text_model: text.then(|| TextTransformer::new(&encoder, words, length, init)),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let trained = ["denoiser", "text_model"];
        vec![Phase::new("denoiser", &trained, self.config.optimizer.clone(), |s, n, b| s.loss(n, b).map(Some))]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { generate: Some(self), ..Abilities::default() }
    }

    fn state(&self) -> State {
        self.training.state()
    }

    fn restore(&mut self, state: State) {
        self.training.restore(&state);
    }
}

impl Ldm {
    fn classes(&self) -> usize {
        if self.config.conditioning == Conditioning::Class { self.pictures.classes.len() } else { 0 }
    }

    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let latents = networks.first_stage.encode(batch.images()).detach();
        let latents = latents.clone() * networks.scale(&latents);
        let dropout = self.config.label_dropout;
        let mut condition = match self.config.conditioning {
            Conditioning::None => Condition::default(),
            Conditioning::Class => {
                let labels = batch.domains[0].host_labels.as_deref().unwrap_or_default();
                of_classes(&drop_labels(batch, labels, self.classes() as u32, dropout), batch.device())
            }
            Conditioning::Text => {
                // Which texts are dropped, as labels would be.
                let kept: Vec<f32> =
                    drop_labels(batch, &vec![1; batch.len()], 0, dropout).iter().map(|&l| l as f32).collect();
                let kept: Tensor<3> = from_values(kept, [batch.len(), 1, 1], batch.device());
                let context = networks.said(batch.tokens()?).map(|context| context * kept);
                Condition { context, ..Condition::default() }
            }
        };
        condition.dropout = Some(batch.dropout_key());
        Ok(self.training.loss(&self.process, &networks.predict(), batch, latents, &condition))
    }

    /// What a request's chain is guided by.
    fn guidance(&self, networks: &Networks, request: &Request, settings: &SamplerSettings) -> Result<Guidance> {
        let never = self.config.label_dropout == 0.0;
        let n = request.len();
        let (condition, unconditional) = match self.config.conditioning {
            Conditioning::None => (Condition::default(), None),
            Conditioning::Class => {
                check_class(request.condition.class, &self.pictures.classes)?;
                let nothing = of_classes(&vec![self.classes() as u32; n], &request.device);
                (of_classes(&request.classes(self.classes()), &request.device), (!never).then_some(nothing))
            }
            Conditioning::Text => {
                let context = |tokens: &Tokens| Condition { context: networks.said(tokens), ..Condition::default() };
                let text = request.condition.text.as_ref();
                let away = match text.and_then(|text| text.negative.as_ref()) {
                    Some(negative) => Some(context(&negative.repeated(0, n))),
                    None => (!never).then(Condition::default),
                };
                match text {
                    Some(text) => (context(&text.of(&request.indices)), away),
                    None => (Condition::default(), None),
                }
            }
        };
        refuse_if!(
            settings.guides() && unconditional.is_none(),
            "--guidance-scale: {}",
            match self.config.conditioning {
                Conditioning::None => "this run knows no classes and no texts",
                _ if never => "this run was always told its condition; train one with model.label_dropout above 0",
                _ => "say what to guide to with --text",
            }
        );
        Guidance::new(condition, unconditional, settings, request)
    }
}

impl Generate<Networks> for Ldm {
    fn takes(&self) -> Vec<Input> {
        let condition = match self.config.conditioning {
            Conditioning::None => None,
            Conditioning::Class => Some(Input::Class),
            Conditioning::Text => Some(Input::Text),
        };
        [Input::Noise].into_iter().chain(condition).collect()
    }

    fn shows_classes(&self) -> bool {
        self.classes() > 0
    }

    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        let settings: SamplerSettings = request.sampler(Self::ID)?;
        let (plan, guidance) = (self.process.plan(&settings)?, self.guidance(networks, request, &settings)?);
        let scale = networks.known_scale();
        refuse_if!(scale <= 0.0, "this run has not trained yet, so the scale of its latents is not known");
        let [c, h, w] = self.shape;
        let zt = initial_noise(request, [request.len(), c, h, w])?;
        let latents = self.process.chain(&networks.predict(), &guidance, request).sample(zt, &plan)? / scale;
        let n = request.len();
        let decoded = (0..n)
            .step_by(CHUNK)
            .map(|start| networks.first_stage.decode(latents.clone().narrow(0, start, CHUNK.min(n - start))));
        Ok(Tensor::cat(decoded.collect(), 0).clamp(-1.0, 1.0))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::Device;
    use kiln_core::random::Key;
    use kiln_data::{HostBatch, Part, TokenRows};
    use kiln_nn::tensor::to_values;
    use kiln_train::Prompt;

    use super::*;
    use crate::testing::{fit, requested, term};

    fn config(conditioning: Conditioning) -> Config {
        Config {
            process: ProcessConfig { timesteps: 50, sampling_steps: 4, ..Config::default().process },
            first_stage: InitFrom::RANDOM.into(),
            autoencoder: first_stage::NetworkConfig {
                latent_channels: 2,
                block_out_channels: vec![4, 4],
                norm_num_groups: 2,
                ..first_stage::NetworkConfig::default()
            },
            conditioning,
            text_width: 8,
            text_layers: 1,
            unet: UNetConfig {
                base_channels: 8,
                groups: 4,
                channel_multipliers: vec![1],
                attention_levels: vec![0],
                ..Config::default().unet
            },
            optimizer: OptimizerConfig::adam(3e-3),
            ..Config::default()
        }
    }

    fn pictures() -> Pictures {
        let classes = vec!["a".into(), "b".into()];
        Pictures { vocabulary: 9, caption_length: 3, ..Pictures::new([1, 8, 8], classes) }
    }

    fn tokens(words: &[[u32; 3]], device: &Device) -> Tokens {
        let rows = TokenRows { ids: words.concat(), lengths: vec![3; words.len()], length: 3 };
        Tokens::new(rows, device)
    }

    fn batch(step: u64, device: &Device) -> Batch {
        let part = Part {
            shape: [4, 1, 8, 8],
            values: (0..256).map(|i| if i / 64 % 2 == 0 { 0.9 } else { ((i % 8) as f32 / 4.0) - 0.9 }).collect(),
            labels: Some(vec![0, 1, 0, 1]),
            captions: vec![None; 4],
            tokens: Some(TokenRows { ids: [[2, 3, 4], [5, 6, 7]].repeat(2).concat(), lengths: vec![3; 4], length: 3 }),
            indices: (0..4).collect(),
            ..Part::default()
        };
        Batch::new(HostBatch { start: 4 * step, parts: vec![part] }, 1_000, Key::new(0), device)
    }

    #[test]
    fn learns_latents_under_every_condition() {
        for conditioning in [Conditioning::None, Conditioning::Class, Conditioning::Text] {
            let (log, _) = fit(Ldm::new(config(conditioning), &pictures()).unwrap(), 1, 120, batch);
            let mean = |part: &[crate::testing::Terms]| part.iter().map(|t| term(t, "loss")).sum::<f32>() / 20.0;
            assert!(
                mean(&log[100..]) < 0.6 * mean(&log[..20]),
                "{conditioning:?}: {} {}",
                mean(&log[..20]),
                mean(&log[100..])
            );
        }
    }

    /// The scale is of the first batch and stays; a text changes the picture, and what it is led away from does.
    #[test]
    fn latents_are_of_deviation_one_and_texts_count() {
        let device = Device::flex();
        let mut system = Ldm::new(config(Conditioning::Text), &pictures()).unwrap();
        let training = device.clone().autodiff();
        let networks = system.networks(&mut Init::new(&training, 0));
        system.loss(&networks, &batch(0, &training)).unwrap();
        let latents = networks.first_stage.encode(batch(0, &training).images()) * networks.known_scale();
        let values = to_values(latents);
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32;
        assert!((variance - 1.0).abs() < 1e-3, "{variance}");
        let before = networks.known_scale();
        system.loss(&networks, &batch(1, &training)).unwrap();
        assert_eq!(networks.known_scale(), before);

        let networks = kiln_train::params::map_flat(networks.valid(), |path, value| {
            let len = value.dims()[0];
            let noise =
                kiln_nn::tensor::normal(Key::new(1).purpose(path), 0..1, [1, len], &value.device()).reshape([len]);
            if path.starts_with("denoiser") { value + noise * 0.1 } else { value }
        });
        let draw =
            |words: &[[u32; 3]], negative: Option<[u32; 3]>, scale: Option<f64>, indices: std::ops::Range<u64>| {
                let mut request = Request::new(indices, 3, &device);
                request.sampler = SamplerSettings { guidance_scale: scale, ..SamplerSettings::default() }.table();
                request.condition.text = (!words.is_empty()).then(|| Prompt {
                    words: words.iter().map(|word| format!("{word:?}")).collect(),
                    tokens: tokens(words, &device),
                    negative: negative.map(|word| tokens(&[word], &device)),
                });
                requested(&system, &networks, &request).map(to_values)
            };
        let (one, two) = ([2, 3, 4], [5, 6, 7]);
        let both = draw(&[one, two], None, None, 0..4).unwrap();
        assert_eq!(both[..64], draw(&[one], None, None, 0..1).unwrap());
        assert_eq!(both[64..128], draw(&[one, two], None, None, 1..2).unwrap());
        assert_ne!(both[..64], draw(&[two], None, None, 0..1).unwrap());
        let guided = draw(&[one], None, Some(4.0), 0..1).unwrap();
        assert_ne!(guided, draw(&[one], Some(two), Some(4.0), 0..1).unwrap());
        assert_eq!(draw(&[], None, None, 0..1).unwrap().len(), 64);
        assert!(draw(&[], None, Some(4.0), 0..1).unwrap_err().to_string().contains("--text"));
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        assert!(Ldm::settle(Config::default()).unwrap_err().to_string().contains("model.first_stage"));
        for (set, said) in [
            ((|c| c.text_layers = 0) as fn(&mut Config), "text_layers"),
            (|c| c.unet.attention_levels = Vec::new(), "attention_levels"),
            (|c| c.label_dropout = 1.0, "label_dropout"),
            (|c| c.unet.channel_multipliers = vec![1; 6], "data.size"),
        ] {
            let mut config = config(Conditioning::Text);
            set(&mut config);
            let error = Ldm::new(config, &pictures()).err().unwrap().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
