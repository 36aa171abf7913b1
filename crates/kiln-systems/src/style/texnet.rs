//! One network a style: Ulyanov, Lebedev, Vedaldi & Lempitsky, *Texture Networks: Feed-forward Synthesis of Textures and Stylized
//! Images*, 2016; and Johnson, Alahi & Fei-Fei, *Perceptual Losses for Real-Time Style Transfer and Super-Resolution*, 2016.
//!
//! A network g learns to do in one pass what the search of Gatys 2016 does for each picture. Objective, over contents p of the data:
//!
//! E α L_content(p, g(p)) + β L_style(a, g(p)) + γ L_tv(g(p))
//!
//! * L_content: the squared distance of the maps of g(p) and p in relu4_2;
//! * L_style: the squared distance of the Gram matrices of g(p) and of the style a in relu1_1 to relu4_1, the mean over layers.
//!
//! As in [`gatys`](super::gatys), both are divided by the square of what they are distances to.
//!
//! | papers | here |
//! |---|---|
//! | Johnson's residual network (2016, §3.1) with instance norm (Ulyanov 2017) | `network = "transform"` |
//! | Ulyanov's pyramid, with noise at each scale (2016, §4.1) | `network = "pyramid"` |
//! | textures: the pyramid on noise alone (2016, §4.2) | `mode = "texture"` |
//! | VGG16 (Johnson), VGG19 (Ulyanov) | `encoder`, `vgg` |
//! | the picture a | `style` |
//!
//! `kiln train texnet --data PHOTOS --set model.style=PAINTING`, then `kiln translate RUN photo.jpg out.png`

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kiln_core::{Context, Error, Result, refuse_if};
use kiln_data::{DataKind, PictureRule, PictureSize, Resize, Split};
use kiln_nn::Init;
use kiln_nn::loss::{gram, total_variation};
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::{
    Abilities, Batch, DataConfig, Generate, HostTensor, Loss, OptimizerConfig, Phase, Pictures, Request, SizeRule,
    State, System, TrainConfig, Translate,
};
use serde::{Deserialize, Serialize};

use super::gatys::relative;
use super::transform::{Pyramid, Transform};
use super::vgg::{EncoderConfig, Reach, VggEncoder};
use crate::adversarial::players::check_positive;
use crate::translation::two_way::check_weights;

/// The layer that says what a picture shows.
const REACH: Reach = Reach::Relu4_2;

/// Which network learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Johnson's.
    Transform,
    /// Ulyanov's.
    Pyramid,
}

/// What it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Pictures in the style.
    Style,
    /// More of the style, of noise: the contents are not looked at.
    Texture,
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The picture whose style it learns: a file, or the first of a folder, a zip or a named set.
    pub style: String,
    /// Longest side at which the style is looked at; 0 is its own.
    pub style_pixels: usize,
    /// `style` or `texture`.
    pub mode: Mode,
    /// `transform` or `pyramid`.
    pub network: Kind,
    /// Channels: of the transform's first convolution, or of each of the pyramid's scales.
    pub generator_channels: usize,
    /// Residual blocks of the transform.
    pub blocks: usize,
    /// Scales of the pyramid.
    pub scales: usize,
    /// VGG, by which pictures are compared.
    #[serde(flatten)]
    pub encoder: EncoderConfig,
    /// α.
    pub content_weight: f64,
    /// β.
    pub style_weight: f64,
    /// γ.
    pub tv_weight: f64,
    /// The network's optimiser.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            style: "starter:noto".into(),
            style_pixels: 256,
            mode: Mode::Style,
            network: Kind::Transform,
            generator_channels: 32,
            blocks: 5,
            scales: 6,
            encoder: EncoderConfig::default(),
            content_weight: 1.0,
            style_weight: 10.0,
            tv_weight: 0.1,
            optimizer: OptimizerConfig::adam(1e-3),
        }
    }
}

impl Config {
    /// The style, `[1, 3, h, w]` in [−1, 1].
    fn open_style(&self, device: &Device) -> Result<Tensor<4>> {
        let rule =
            PictureRule { size: PictureSize::STORED, channels: 3, resize: Resize::None, ..PictureRule::default() };
        let place = |e: Error| Error::usage(format!("model.style: {e}"));
        let set = kiln_data::open(&self.style, Split::All, &rule).map_err(place)?;
        let picture = set.get(0).map_err(place)?.picture.with_channels(3, rule.background);
        let longest = picture.width.max(picture.height);
        let picture = match self.style_pixels {
            0 => picture,
            most if longest <= most => picture,
            most => {
                let side = |side: usize| (side * most).div_ceil(longest).max(1);
                picture.resize(side(picture.width), side(picture.height))
            }
        };
        let (height, width) = (picture.height, picture.width);
        refuse_if!(height.min(width) < 16, "model.style: {width} x {height} pixels; VGG needs 16 a side");
        Ok(from_values(picture.to_unit(), [1, 3, height, width], device))
    }
}

/// The network of either kind.
#[derive(Module, Debug)]
pub enum Generator {
    /// Johnson's.
    Transform(Transform),
    /// Ulyanov's.
    Pyramid(Pyramid),
}

/// The one network.
#[derive(Module, Debug)]
pub struct Networks {
    /// g.
    pub generator: Generator,
}

/// The system.
pub struct TexNet {
    config: Config,
    pictures: Pictures,
    /// VGG, once it is needed.
    encoder: Option<VggEncoder>,
    /// The style's Gram matrices, `[1, c, c]` a layer: kept with the run, so that it goes on without the style's file.
    style: Vec<HostTensor>,
}

impl System for TexNet {
    const ID: &'static str = "texnet";
    const PAPER: &'static str = "Ulyanov, Lebedev, Vedaldi & Lempitsky: Texture Networks, 2016; Johnson, Alahi & Fei-Fei: \
         Perceptual Losses for Real-Time Style Transfer and Super-Resolution, 2016";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    /// Whole paths, so that the run goes on wherever Kiln is started.
    fn settle(mut config: Config) -> Result<Config> {
        config.style = kiln_data::absolute(&config.style)?;
        let encoder = &mut config.encoder.encoder;
        if Path::new(encoder.as_str()).exists() {
            *encoder = std::path::absolute(encoder.as_str()).context(|| encoder.as_str())?.display().to_string();
        }
        // What cannot be read is refused before there is a run.
        let device = Device::flex();
        config.encoder.check()?;
        config.encoder.open(REACH, &device)?;
        config.open_style(&device)?;
        Ok(config)
    }

    fn defaults() -> (DataConfig, TrainConfig) {
        let data = DataConfig {
            set: "starter:twemoji".into(),
            size: 128.into(),
            channels: 3,
            resize: Resize::Crop,
            ..DataConfig::default()
        };
        let train = TrainConfig {
            batch: 4,
            images: 16_000,
            ema_half_life: 0.0,
            preview_every: 4_000,
            checkpoint_every: 4_000,
            ..TrainConfig::default()
        };
        (data, train)
    }

    fn sizes(config: &Config) -> SizeRule {
        let multiple = match config.network {
            Kind::Transform => 4,
            Kind::Pyramid => 1 << config.scales.saturating_sub(1).min(16),
        };
        SizeRule::multiple_of(multiple, Self::ID).at_least(16.max(2 * multiple))
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        config.encoder.check()?;
        check_positive(&[("generator_channels", config.generator_channels), ("scales", config.scales)])?;
        check_weights(&[
            ("content_weight", config.content_weight),
            ("style_weight", config.style_weight),
            ("tv_weight", config.tv_weight),
        ])?;
        refuse_if!(pictures.shape[0] != 3, "data.channels = {}: texnet works on colours, 3", pictures.shape[0]);
        refuse_if!(
            config.mode == Mode::Texture && config.network != Kind::Pyramid,
            "model.mode = \"texture\" makes pictures of noise, which only model.network = \"pyramid\" takes"
        );
        Self::sizes(&config).check(pictures.shape)?;
        Ok(Self { config, pictures: pictures.clone(), encoder: None, style: Vec::new() })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let Config { network, mode, generator_channels: k, blocks, scales, .. } = self.config;
        let channels = if mode == Mode::Texture { 0 } else { 3 };
        let generator = match network {
            Kind::Transform => Generator::Transform(Transform::new(k, blocks, init)),
            Kind::Pyramid => Generator::Pyramid(Pyramid::new(channels, k, scales, init)),
        };
        Networks { generator }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        vec![Phase::new("generator", &["generator"], self.config.optimizer.clone(), Self::loss)]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        match self.config.mode {
            Mode::Style => Abilities { translate: Some(self), ..Abilities::default() },
            Mode::Texture => Abilities { generate: Some(self), ..Abilities::default() },
        }
    }

    fn state(&self) -> State {
        self.style.iter().enumerate().map(|(i, gram)| (format!("style.{i}"), gram.clone())).collect()
    }

    fn restore(&mut self, state: State) {
        let named = (0..).map_while(|i| state.get(&format!("style.{i}")));
        self.style = named.cloned().collect();
    }
}

impl TexNet {
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (device, config) = (batch.device(), &self.config);
        let encoder = match self.encoder.take() {
            Some(encoder) => encoder,
            None => config.encoder.open(REACH, device)?,
        };
        if self.style.is_empty() {
            let grams = encoder.forward(config.open_style(device)?).first.into_iter().map(gram);
            let host = |gram: Tensor<3>| HostTensor { shape: gram.dims().to_vec(), values: to_values(gram) };
            self.style = grams.map(host).collect();
        }
        let content = batch.images();
        let picture = self.picture(networks, content.clone(), batch.key("noise"), batch.samples());
        let found = encoder.forward(picture.clone());
        let mut style = Tensor::<1>::zeros([1], device);
        for (map, target) in found.first.into_iter().zip(&self.style) {
            let [n, c, ..] = map.dims();
            let target = from_values::<3>(target.values.clone(), [1, c, c], device).expand([n, c, c]);
            style = style + relative(gram(map), target) / self.style.len() as f64;
        }
        let tv = total_variation(picture);
        let loss = match config.mode {
            Mode::Style => {
                let content = relative(found.deep, encoder.forward(content).deep.detach());
                let weighted = content.clone() * config.content_weight;
                Loss { total: weighted, terms: vec![("content", content.detach())] }.plus(
                    "style",
                    config.style_weight,
                    style,
                )
            }
            Mode::Texture => {
                Loss { total: style.clone() * config.style_weight, terms: vec![("style", style.detach())] }
            }
        };
        self.encoder = Some(encoder);
        Ok(Some(loss.plus("tv", self.config.tv_weight, tv)))
    }

    /// g of a picture, or of noise alone.
    fn picture(
        &self,
        networks: &Networks,
        content: Tensor<4>,
        noise: kiln_core::random::Key,
        samples: std::ops::Range<u64>,
    ) -> Tensor<4> {
        match &networks.generator {
            Generator::Transform(network) => network.forward(content),
            Generator::Pyramid(network) if self.config.mode == Mode::Texture => {
                let [n, _, h, w] = content.dims();
                network.forward(Tensor::zeros([n, 0, h, w], &content.device()), noise, samples)
            }
            Generator::Pyramid(network) => network.forward(content, noise, samples),
        }
    }
}

impl Translate<Networks> for TexNet {
    fn directions(&self) -> Vec<&'static str> {
        vec!["a2b"]
    }

    fn own_sizes(&self) -> Option<SizeRule> {
        Some(Self::sizes(&self.config))
    }

    fn translate(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<4>> {
        let [_, channels, height, width] = images.dims();
        Self::sizes(&self.config).check([channels, height, width])?;
        refuse_if!(channels != 3, "texnet works on colours, 3 channels, not {channels}");
        let noise = request.key.purpose("noise");
        Ok(self.picture(networks, images, noise, request.indices.clone()).clamp(-1.0, 1.0))
    }
}

impl Generate<Networks> for TexNet {
    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        let ([_, h, w], n) = (self.pictures.shape, (request.indices.end - request.indices.start) as usize);
        let content = Tensor::zeros([n, 3, h, w], &request.device);
        let noise = request.key.purpose("noise");
        Ok(self.picture(networks, content, noise, request.indices.clone()).clamp(-1.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use kiln_core::random::Key;

    use super::*;
    use crate::style::import::transform_names;
    use crate::style::vgg::Vgg;
    use crate::translation::testing::{compare_in, fit, pairs, term};

    fn tiny(network: Kind) -> Config {
        Config {
            network,
            generator_channels: 4,
            blocks: 1,
            scales: 2,
            encoder: EncoderConfig::random(Vgg::Vgg16, 4),
            style_pixels: 32,
            tv_weight: 0.0,
            optimizer: OptimizerConfig::adam(3e-3),
            ..Config::default()
        }
    }

    /// tests/reference/style.py: PyTorch's example.
    #[test]
    fn the_transform_is_pytorchs_example() {
        let names: Vec<_> = transform_names(5)
            .into_iter()
            .map(|(ours, theirs)| (ours.replace("generator.Transform.", ""), theirs))
            .collect();
        compare_in("style", "transform", |init| Transform::new(4, 5, init), |net, x| net.forward(x), &names);
    }

    #[test]
    fn fits_one_batch() {
        for network in [Kind::Transform, Kind::Pyramid] {
            let (log, system) = fit::<TexNet>(tiny(network), 60, 2, 16);
            let (first, last) = (term(&log[0], "style"), term(&log[59], "style"));
            assert!(last < 0.5 * first, "{network:?}: style {first} -> {last}");
            assert_eq!(system.state().len(), 4);
        }
    }

    #[test]
    fn a_texture_is_of_noise_alone() {
        let config = Config { mode: Mode::Texture, ..tiny(Kind::Pyramid) };
        let system = TexNet::new(config.clone(), &Pictures::new([3, 16, 16], Vec::new())).unwrap();
        let device = Device::flex();
        let networks = system.networks(&mut Init::new(&device, 0));
        let of = |indices| to_values(system.generate(&networks, &Request::new(indices, 0, &device)).unwrap());
        let both = of(0..2);
        assert_eq!(both[both.len() / 2..], of(1..2));
        assert_ne!(of(0..1), of(1..2));
        assert!(system.abilities().translate.is_none());
        let wrong = Config { network: Kind::Transform, ..config };
        let refused = TexNet::new(wrong, &Pictures::new([3, 16, 16], Vec::new()));
        assert!(refused.err().unwrap().to_string().contains("pyramid"));
    }

    #[test]
    fn noise_is_of_the_sample() {
        let device = Device::flex();
        let network = Pyramid::new(3, 2, 3, &mut Init::new(&device, 0));
        let x = pairs(0, 2, 16, &device).images();
        let of = |seed: u64| to_values(network.forward(x.clone(), Key::new(seed), 0..2));
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn a_style_that_cannot_be_read_is_refused_before_there_is_a_run() {
        let config = Config { style: "nowhere.png".into(), ..tiny(Kind::Transform) };
        let e = TexNet::settle(config).unwrap_err().to_string();
        assert!(e.contains("model.style") && e.contains("nowhere.png"), "{e}");
    }
}
