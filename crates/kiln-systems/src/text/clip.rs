//! Radford et al., *Learning Transferable Visual Models From Natural Language Supervision* (CLIP), 2021.
//!
//! A tower for pictures and one for texts map both into one space, where a picture is near its own text and far from those of the
//! others in its batch (figure 3). With unit vectors I and T of a batch and a learned scale τ⁻¹:
//!
//! L = ½ CE(τ⁻¹ I Tᵀ, 1…n) + ½ CE(τ⁻¹ T Iᵀ, 1…n)
//!
//! `objective = "predictive"` is what the paper compares this with (§2.3): the text tower says each token of the caption from the
//! picture and the tokens before.
//!
//! | paper, authors' code | here |
//! |---|---|
//! | image encoder: vision transformer or modified ResNet | `vision_model` ([`VisionTransformer`]), `residual` (`ResidualTower`) |
//! | text encoder, its features at the last token | `text_model` ([`TextTransformer`]) |
//! | W_i, W_t | `visual_projection`, `text_projection` |
//! | t = log τ⁻¹, at first log 1/0.07, τ⁻¹ at most 100 | `logit_scale` |
//! | large batches on many devices | `train.accumulate`, which here knows all pictures of the batch (gradient caching, Gao 2021) |
//!
//! `kiln train clip --data emoji:noto`, then `kiln classify RUN picture.png --labels "a cat" "a dog"` and
//! `kiln search RUN FOLDER --text "a red car"`.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, activation};
use kiln_core::{Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::encoder::{EncoderConfig, TextTransformer, VisionTransformer, at_places};
use kiln_nn::loss::cross_entropy;
use kiln_nn::tensor::from_indices;
use kiln_nn::{Init, Linear, LinearConfig, WeightInit};
use kiln_train::batch::Tokens;
use kiln_train::optim::Method;
use kiln_train::request::check_pictures;
use kiln_train::{
    Abilities, Batch, DataConfig, Loss, MatchTexts, OptimizerConfig, Phase, Pictures, Represent, Schedule, SizeRule,
    System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::tower::ResidualTower;

/// What the towers are trained for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// Pictures and texts that belong together are near.
    Contrastive,
    /// The caption is said token by token.
    Predictive,
}

/// Which network looks at pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageTower {
    /// A vision transformer.
    Vit,
    /// The modified ResNet.
    Resnet,
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// `contrastive` or `predictive`.
    pub objective: Objective,
    /// `vit` or `resnet`.
    pub image_tower: ImageTower,
    /// Side of the transformer's patches in pixels.
    pub patch_size: usize,
    /// Features of each patch, a multiple of 64 (or one head).
    pub image_width: usize,
    /// Layers of the vision transformer.
    pub image_layers: usize,
    /// Channels inside the first stage's blocks of the ResNet.
    pub resnet_channels: usize,
    /// Blocks of each of its stages.
    pub resnet_blocks: Vec<usize>,
    /// Features of each token, a multiple of 64 (or one head).
    pub text_width: usize,
    /// Layers of the text tower.
    pub text_layers: usize,
    /// Dimensions of the space of both.
    pub projection_dim: usize,
    /// τ at first.
    pub temperature: f64,
    /// The largest τ⁻¹.
    pub max_scale: f64,
    /// The optimiser of all parts.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        let optimizer = OptimizerConfig {
            method: Method::AdamW,
            beta2: 0.98,
            eps: 1e-6,
            weight_decay: 0.2,
            warmup: 20_000,
            ..OptimizerConfig::adam(5e-4).schedule(Schedule::Cosine)
        };
        Self {
            objective: Objective::Contrastive,
            image_tower: ImageTower::Vit,
            patch_size: 4,
            image_width: 128,
            image_layers: 4,
            resnet_channels: 32,
            resnet_blocks: vec![1, 1, 1],
            text_width: 128,
            text_layers: 2,
            projection_dim: 128,
            temperature: 0.07,
            max_scale: 100.0,
            optimizer,
        }
    }
}

/// Both towers and what joins them.
#[derive(Module, Debug)]
pub struct Networks {
    /// The vision transformer.
    pub vision_model: Option<VisionTransformer>,
    /// The ResNet in its place.
    pub residual: Option<ResidualTower>,
    /// The text tower.
    pub text_model: TextTransformer,
    /// W_i: into the space of both, or to a first token of the text tower.
    pub visual_projection: Linear,
    /// W_t.
    pub text_projection: Option<Linear>,
    /// t, `[1]`.
    pub logit_scale: Option<Param<Tensor<1>>>,
}

impl Networks {
    /// What a picture is, before it is brought to length 1.
    fn seen(&self, images: Tensor<4>) -> Tensor<2> {
        let seen = match (&self.vision_model, &self.residual) {
            (Some(transformer), _) => transformer.forward(images),
            (None, Some(tower)) => tower.forward(images),
            // `Clip::networks` makes one of the two.
            (None, None) => unreachable!("no image tower"),
        };
        self.visual_projection.forward(seen)
    }

    /// What a text says: the features of its last token, projected.
    fn said(&self, texts: &Tokens) -> Tensor<2> {
        let said = at_last(&self.text_model, texts);
        self.text_projection.as_ref().map_or_else(|| said.clone(), |projection| projection.forward(said.clone()))
    }

    /// log p(tokens | picture) of each pair, a sum over the text's tokens.
    fn log_likelihood(&self, images: Tensor<4>, texts: &Tokens) -> Tensor<1> {
        let [n, length] = texts.ids.dims();
        let before = texts.ids.clone().narrow(1, 0, length - 1);
        let said = match length {
            1 => self.text_model.forward_after(self.seen(images), texts.ids.clone()).narrow(1, 0, 1),
            _ => self.text_model.forward_after(self.seen(images), before),
        };
        let logits = activation::log_softmax(self.text_model.token_logits(said), 2);
        let own: Tensor<2> = logits.gather(2, texts.ids.clone().unsqueeze_dim(2)).reshape([n, length]);
        (own * texts.mask.clone()).sum_dim(1).reshape([n])
    }
}

/// What a transformer makes of the last token of each text, `[n, width]`.
pub(super) fn at_last(transformer: &TextTransformer, texts: &Tokens) -> Tensor<2> {
    let last: Vec<usize> = texts.lengths.iter().map(|length| length.saturating_sub(1)).collect();
    at_places(transformer.forward(texts.ids.clone()), &last)
}

/// Vectors of length 1.
pub(super) fn unit(x: Tensor<2>) -> Tensor<2> {
    let length = (x.clone().square().sum_dim(1) + 1e-12).sqrt();
    x / length
}

/// L of unit vectors `[n, d]` of pictures and of their texts, times a scale `[1]`.
pub fn contrastive_loss(images: Tensor<2>, texts: Tensor<2>, scale: Tensor<1>) -> Tensor<1> {
    let n = images.dims()[0] as u32;
    let logits = images.matmul(texts.transpose()) * scale.unsqueeze();
    let own: Tensor<1, Int> = from_indices(&(0..n).collect::<Vec<_>>(), &logits.device());
    (cross_entropy(logits.clone(), own.clone()) + cross_entropy(logits.transpose(), own)) * 0.5
}

/// The system.
pub struct Clip {
    config: Config,
    pictures: Pictures,
    /// Unit vectors of pictures and texts of each part of the batch, by its first sample.
    batch: Vec<(u64, [Tensor<2>; 2])>,
}

impl System for Clip {
    const ID: &'static str = "clip";
    const PAPER: &'static str =
        "Radford et al.: Learning Transferable Visual Models From Natural Language Supervision, 2021";
    const DATA: DataKind = DataKind::Captioned;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        let train = TrainConfig {
            batch: 256,
            images: 400_000,
            ema_half_life: 5_000.0,
            preview_every: 0,
            checkpoint_every: 100_000,
            ..TrainConfig::default()
        };
        (DataConfig { size: 32.into(), channels: 3, ..DataConfig::default() }, train)
    }

    fn sizes(config: &Config) -> SizeRule {
        match config.image_tower {
            ImageTower::Vit => {
                SizeRule::multiple_of(config.patch_size, format!("model.patch_size = {}", config.patch_size))
            }
            ImageTower::Resnet => {
                let stages = config.resnet_blocks.len();
                SizeRule::multiple_of(
                    1 << stages.saturating_sub(1).min(16),
                    format!("model.resnet_blocks of {stages} stages"),
                )
            }
        }
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let c = &config;
        let sizes = [
            c.patch_size,
            c.image_width,
            c.image_layers,
            c.text_width,
            c.text_layers,
            c.projection_dim,
            c.resnet_channels,
        ];
        refuse_if!(
            sizes.contains(&0),
            "model.patch_size, image_width, image_layers, text_width, text_layers, projection_dim and resnet_channels must be at least 1"
        );
        for (name, width) in [("image_width", c.image_width), ("text_width", c.text_width)] {
            let heads = EncoderConfig::new(width, 1).heads;
            refuse_if!(
                width % heads != 0,
                "model.{name} = {width} does not divide among {heads} heads; use a multiple of 64"
            );
        }
        refuse_if!(
            c.resnet_blocks.is_empty() || c.resnet_blocks.contains(&0) || c.resnet_blocks.len() > 6,
            "model.resnet_blocks needs one to six stages of at least one block"
        );
        refuse_if!(!c.resnet_channels.is_multiple_of(16), "model.resnet_channels must be a multiple of 16");
        refuse_if!(!(c.temperature > 0.0 && c.temperature.is_finite()), "model.temperature must be above 0");
        refuse_if!(!(c.max_scale >= 1.0 && c.max_scale.is_finite()), "model.max_scale must be at least 1");
        refuse_if!(pictures.vocabulary == 0, "clip learns from captions, and the data has none");
        Self::sizes(c).check(pictures.shape)?;
        if c.image_tower == ImageTower::Resnet {
            let reduction = ResidualTower::reduction(pictures.shape, c.resnet_blocks.len());
            SizeRule::multiple_of(reduction, "the stages of model.resnet_blocks").check(pictures.shape)?;
        }
        Ok(Self { config, pictures: pictures.clone(), batch: Vec::new() })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, shape) = (&self.config, self.pictures.shape);
        let contrasts = c.objective == Objective::Contrastive;
        let projection = |inputs: usize, outputs: usize, init: &mut Init| {
            let weight = WeightInit::Normal((inputs as f64).sqrt().recip());
            LinearConfig { bias: false, weight, ..LinearConfig::new(inputs, outputs) }.init(init)
        };
        let (vision_model, residual, seen) = match c.image_tower {
            ImageTower::Vit => {
                let config = EncoderConfig::new(c.image_width, c.image_layers);
                (Some(VisionTransformer::new(&config, shape, c.patch_size, init)), None, c.image_width)
            }
            ImageTower::Resnet => {
                let features = ResidualTower::features(c.resnet_channels, c.resnet_blocks.len());
                let tower = ResidualTower::new(shape, c.resnet_channels, &c.resnet_blocks, init);
                (None, Some(tower), features)
            }
        };
        let text = EncoderConfig::new(c.text_width, c.text_layers);
        // A picture goes before the tokens that it predicts.
        let places = self.pictures.caption_length + usize::from(!contrasts);
        Networks {
            vision_model,
            residual,
            text_model: TextTransformer::new(&text, self.pictures.vocabulary, places, init),
            visual_projection: projection(seen, if contrasts { c.projection_dim } else { c.text_width }, init),
            text_projection: contrasts.then(|| projection(c.text_width, c.projection_dim, init)),
            logit_scale: contrasts.then(|| init.constant([1], -(c.temperature.ln()) as f32)),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let all = ["vision_model", "residual", "text_model", "visual_projection", "text_projection", "logit_scale"];
        let phase = Phase::<Self>::new("clip", &all, self.config.optimizer.clone(), |s, n, b| s.loss(n, b).map(Some));
        match self.config.objective {
            Objective::Contrastive => vec![phase.after_a_look(|s, n, parts| s.look(n, parts))],
            Objective::Predictive => vec![phase],
        }
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { match_texts: Some(self), represent: Some(self), ..Abilities::default() }
    }
}

impl Clip {
    /// τ⁻¹, `[1]`.
    fn scale(&self, networks: &Networks, device: &Device) -> Tensor<1> {
        match &networks.logit_scale {
            Some(t) => t.val().clamp_max(self.config.max_scale.ln()).exp(),
            None => Tensor::ones([1], device),
        }
    }

    fn vectors(networks: &Networks, batch: &Batch) -> Result<[Tensor<2>; 2]> {
        Ok([unit(networks.seen(batch.images())), unit(networks.said(batch.tokens()?))])
    }

    /// Keeps the vectors of a batch in parts, all of which each part is told from. Its networks are not differentiated here, so that no more
    /// than a part is in memory at a time.
    fn look(&mut self, networks: &Networks, parts: &[Batch]) -> Result<()> {
        self.batch.clear();
        if parts.len() > 1 {
            for part in parts {
                self.batch.push((part.start, Self::vectors(networks, part)?.map(Tensor::detach)));
            }
        }
        Ok(())
    }

    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        if self.config.objective == Objective::Predictive {
            let texts = batch.tokens()?;
            let tokens = texts.lengths.iter().sum::<usize>().max(1) as f64;
            let loss = networks.log_likelihood(batch.images(), texts).sum() / -tokens;
            return Ok(Loss::new("token_loss", loss));
        }
        let [images, texts] = Self::vectors(networks, batch)?;
        let parts = self.batch.len().max(1) as f64;
        // The scale is in the loss of every part; its gradient is to come once.
        let scale = self.scale(networks, batch.device());
        let scale = scale.clone().detach() * (1.0 - parts.recip()) + scale / parts;
        let whole = |own: Tensor<2>, which: usize| match self.batch.is_empty() {
            true => own,
            false => {
                let part = |(start, kept): &(u64, [Tensor<2>; 2])| {
                    if *start == batch.start { own.clone() } else { kept[which].clone() }
                };
                Tensor::cat(self.batch.iter().map(part).collect(), 0)
            }
        };
        let (images, texts) = (whole(images, 0), whole(texts, 1));
        let nearest = images.clone().matmul(texts.clone().transpose()).detach().argmax(1);
        let n = nearest.dims()[0];
        let own: Tensor<2, Int> = from_indices(&(0..n as u32).collect::<Vec<_>>(), batch.device()).reshape([n, 1]);
        let accuracy = nearest.equal(own).float().mean();
        let loss = contrastive_loss(images, texts, scale.clone());
        // Parts are averaged, and the loss is of the whole batch in each.
        let terms =
            vec![("contrastive_loss", loss.clone().detach()), ("accuracy", accuracy), ("scale", scale.detach())];
        Ok(Loss { total: loss * parts, terms })
    }
}

/// With the contrastive objective cosines times τ⁻¹, else the text's log-likelihood.
impl MatchTexts<Networks> for Clip {
    fn match_texts(&self, networks: &Networks, images: Tensor<4>, texts: &Tokens) -> Result<Tensor<2>> {
        check_pictures(&images, self.pictures.shape)?;
        if self.config.objective == Objective::Contrastive {
            let (seen, said) = (unit(networks.seen(images)), unit(networks.said(texts)));
            let scale = self.scale(networks, &seen.device());
            return Ok(seen.matmul(said.transpose()) * scale.unsqueeze());
        }
        let n = images.dims()[0];
        let each = (0..texts.lengths.len())
            .map(|i| networks.log_likelihood(images.clone(), &texts.repeated(i, n)).reshape([n, 1]));
        Ok(Tensor::cat(each.collect(), 1))
    }
}

/// Unit vectors of the space of both, or what the text tower is told of a picture.
impl Represent<Networks> for Clip {
    fn represent(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_pictures(&images, self.pictures.shape)?;
        let seen = networks.seen(images);
        Ok(if self.config.objective == Objective::Contrastive { unit(seen) } else { seen })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use kiln_core::random::Key;
    use kiln_data::{HostBatch, Part, TokenRows};
    use kiln_nn::encoder::Gelu;
    use kiln_nn::tensor::{from_values, to_values};
    use kiln_train::{HostTensor, State, params};

    use super::*;
    use crate::testing::{Fixtures, close, fit, term, values};

    const LENGTH: usize = 9;

    fn texts(fixture: &Fixtures, device: &Device) -> Tokens {
        let ids = values(fixture, "ids").into_iter().map(|id| id as u32).collect();
        let lengths = values(fixture, "ends").into_iter().map(|end| end as usize + 1).collect();
        Tokens::new(TokenRows { ids, lengths, length: LENGTH }, device)
    }

    #[test]
    fn towers_and_loss_are_those_of_transformers() {
        let (f, device) = (Fixtures::open("clip"), Device::flex().autodiff());
        let init = &mut Init::new(&device, 0);
        let stack = |width, hidden| EncoderConfig { width, heads: 2, layers: 2, hidden, gelu: Gelu::Quick };
        let linear = |i, o, init: &mut Init| LinearConfig { bias: false, ..LinearConfig::new(i, o) }.init(init);
        let networks = Networks {
            vision_model: Some(VisionTransformer::new(&stack(24, 40), [3, 12, 12], 4, init)),
            residual: None,
            text_model: TextTransformer::new(&stack(16, 32), 30, LENGTH, init),
            visual_projection: linear(24, 10, init),
            text_projection: Some(linear(16, 10, init)),
            logit_scale: Some(init.constant([1], 0.0)),
        };
        let host = |name: &String| {
            let (shape, values) = f.values(name);
            let shape = if shape.is_empty() { vec![1] } else { shape };
            HostTensor { shape, values: values.into_iter().map(|v| v as f32).collect() }
        };
        let names = f.names();
        let own = names.iter().filter_map(|name| Some((name.strip_prefix("model.")?.to_string(), host(name))));
        let networks = params::load(networks, &own.collect::<State>(), "the fixture").unwrap();

        let (texts, pixels) = (texts(&f, &device), from_values(values(&f, "pixels"), [4, 3, 12, 12], &device));
        close(&to_values(networks.text_model.forward(texts.ids.clone())), &values(&f, "hidden"), 1e-5);
        let (images, said) = (unit(networks.seen(pixels)), unit(networks.said(&texts)));
        close(&to_values(images.clone()), &values(&f, "image"), 1e-5);
        close(&to_values(said.clone()), &values(&f, "text"), 1e-5);
        let scale = networks.logit_scale.as_ref().unwrap().val().exp();
        let logits = images.clone().matmul(said.clone().transpose()) * scale.clone().unsqueeze();
        close(&to_values(logits), &values(&f, "logits"), 1e-4);
        let loss = contrastive_loss(images, said, scale);
        close(&to_values(loss.clone()), &values(&f, "loss"), 1e-5);
        let mut gradients = loss.backward();
        let got = params::take_gradients(&networks, &mut gradients);
        for (ours, theirs) in [
            ("logit_scale", "grad.logit_scale"),
            ("text_projection.weight", "grad.text_projection"),
            ("vision_model.embeddings.class_embedding", "grad.class_embedding"),
        ] {
            close(&to_values(got[ours].clone()), &values(&f, theirs), 1e-4);
        }
    }

    fn clip(set: impl FnOnce(&mut Config)) -> Clip {
        let mut config = Config {
            image_width: 16,
            image_layers: 1,
            resnet_channels: 16,
            text_width: 16,
            text_layers: 1,
            projection_dim: 8,
            optimizer: OptimizerConfig::adam(3e-3),
            ..Config::default()
        };
        set(&mut config);
        let pictures = Pictures { vocabulary: 12, caption_length: 4, ..Pictures::new([3, 8, 8], Vec::new()) };
        Clip::new(config, &pictures).unwrap()
    }

    /// Eight pictures, each with a text of its own; from `start` on, so many.
    fn batch(start: usize, n: usize, device: &Device) -> Batch {
        let values = Key::new(5).normal(start as u64..(start + n) as u64, 3 * 64);
        let text = |i: usize| [2 + (i % 3) as u32, 5 + i as u32 % 7, 3, 0];
        let tokens = TokenRows { ids: (start..start + n).flat_map(text).collect(), lengths: vec![3; n], length: 4 };
        let part = Part {
            shape: [n, 3, 8, 8],
            values,
            captions: vec![None; n],
            tokens: Some(tokens),
            indices: (start..start + n).collect(),
            ..Part::default()
        };
        Batch::new(HostBatch { start: start as u64, parts: vec![part] }, 1_000, Key::new(0), device)
    }

    /// The gradient of a batch in parts is that of the batch, whatever the number of parts.
    #[test]
    fn a_batch_in_parts_has_the_gradient_of_the_whole() {
        let device = Device::flex().autodiff();
        let mut system = clip(|_| ());
        let networks = system.networks(&mut Init::new(&device, 1));
        let phase = &system.phases()[0];
        let mut gradients = |parts: Vec<Batch>| {
            phase.look.unwrap()(&mut system, &networks, &parts).unwrap();
            let mut sum: Vec<(String, Vec<f32>)> = Vec::new();
            let mut losses = Vec::new();
            for part in &parts {
                let loss = (phase.loss)(&mut system, &networks, part).unwrap().unwrap();
                losses.push(to_values(loss.terms[0].1.clone())[0]);
                let mut found = (loss.total / parts.len() as f64).backward();
                for (at, (path, gradient)) in params::take_gradients(&networks, &mut found).into_iter().enumerate() {
                    let gradient = to_values(gradient);
                    match sum.get_mut(at) {
                        Some((_, all)) => all.iter_mut().zip(gradient).for_each(|(a, b)| *a += b),
                        None => sum.push((path, gradient)),
                    }
                }
            }
            (losses, sum)
        };
        let (whole_loss, whole) = gradients(vec![batch(0, 8, &device)]);
        let (loss, parts) = gradients(vec![batch(0, 2, &device), batch(2, 2, &device), batch(4, 4, &device)]);
        assert!(loss.iter().all(|part| (part - whole_loss[0]).abs() < 1e-5), "{loss:?} {whole_loss:?}");
        for ((path, want), (_, got)) in whole.iter().zip(&parts) {
            // A bias of keys shifts all scores of a query alike, and has none but rounding.
            let size = want.iter().fold(1e-2f32, |most, v| most.max(v.abs()));
            assert!(want.iter().zip(got).all(|(w, g)| (w - g).abs() <= 1e-4 * size), "{path}");
        }
        assert!(whole.iter().any(|(path, _)| path == "logit_scale"));
    }

    #[test]
    fn fits_one_batch() {
        for tower in [ImageTower::Vit, ImageTower::Resnet] {
            let (log, _) = fit(clip(|c| c.image_tower = tower), 1, 250, |_, device| batch(0, 8, device));
            let last = log.last().unwrap();
            assert!(term(last, "accuracy") > 0.99 && term(last, "contrastive_loss") < 0.3, "{tower:?} {last:?}");
        }
        let predictive = clip(|c| c.objective = Objective::Predictive);
        let (log, system) = fit(predictive, 1, 150, |_, device| batch(0, 8, device));
        assert!(term(log.last().unwrap(), "token_loss") < 0.2, "{:?}", log.last());
        assert_eq!(system.abilities().list().len(), 2);
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        let refused = |set: fn(&mut Config), said: &str| {
            let mut config = Config::default();
            set(&mut config);
            let pictures = Pictures { vocabulary: 12, caption_length: 4, ..Pictures::new([3, 32, 32], Vec::new()) };
            let error = Clip::new(config, &pictures).err().unwrap().to_string();
            assert!(error.contains(said), "{error}");
        };
        refused(|c| c.text_width = 200, "text_width");
        refused(|c| c.patch_size = 5, "model.patch_size = 5");
        refused(|c| c.resnet_blocks = vec![1, 0], "resnet_blocks");
        refused(|c| c.temperature = 0.0, "temperature");
        refused(
            |c| {
                c.image_tower = ImageTower::Resnet;
                c.resnet_blocks = vec![1; 6];
                c.resnet_channels = 8;
            },
            "resnet_channels",
        );
        let none = Clip::new(Config::default(), &Pictures::new([3, 32, 32], Vec::new()));
        assert!(none.err().unwrap().to_string().contains("captions"));
    }
}
