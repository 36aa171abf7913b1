//! Ronneberger, Fischer & Brox, *U-Net: Convolutional Networks for Biomedical Image Segmentation*, 2015: predicts the
//! class of each pixel.
//!
//! Objective: E −log p(c | x, i), c the class of pixel i (equation 1, all weights 1). The classes are those of masks, or derived
//! from the pictures: pixels of the colour `ground` are background, all others have the class of their image. The network is
//! the diffusion models' U-Net at timestep 0.
//!
//! `kiln train segmenter --data streets:day --set model.truth=masks`, or `kiln train segmenter --data starter`, then
//! `kiln sample RUN -n 64 --class 7 --segmenter SEGMENTER --guide mask:FILE --guide-scale 300`.

use burn::module::Module;
use burn::tensor::{Int, Tensor, activation::log_softmax};
use kiln_core::{Error, Result};
use kiln_data::DataKind;
use kiln_nn::loss::cross_entropy;
use kiln_nn::tensor::from_indices;
use kiln_nn::unet::{UNet, UNetConfig};
use kiln_nn::{Condition, Init};
use kiln_train::{
    Abilities, Batch, DataConfig, Guide, Looks, Loss, Model, OptimizerConfig, Phase, Pictures, Request, Schedule,
    Segment, SizeRule, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use crate::diffusion::{check_unet, unet_sizes};

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// What says the class of a pixel: `masks`, or the `ground` that it is not.
    #[serde(default)]
    pub truth: Truth,
    /// Value of the background in every channel, from −1 (black) to 1 (white).
    pub ground: f64,
    /// Largest difference from `ground`, in any channel, of a background pixel.
    pub ground_tolerance: f64,
    /// The network.
    pub unet: UNetConfig,
    /// Its optimiser.
    pub optimizer: OptimizerConfig,
}

/// What says the class of a pixel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truth {
    /// Its colour: background, or the class of its picture, by its label.
    #[default]
    Ground,
    /// The mask of its picture.
    Masks,
}

impl Default for Config {
    fn default() -> Self {
        let unet = UNetConfig {
            base_channels: 16,
            channel_multipliers: vec![1, 2, 4],
            blocks: 1,
            attention_levels: Vec::new(),
            ..UNetConfig::default()
        };
        let optimizer = OptimizerConfig::adam(2e-3).schedule(Schedule::Cosine);
        Self { truth: Truth::Ground, ground: -1.0, ground_tolerance: 0.05, unet, optimizer }
    }
}

/// The one network.
#[derive(Module, Debug)]
pub struct Networks {
    /// Pictures to a logit for each pixel and class.
    pub segmenter: UNet,
}

/// The system.
pub struct Segmenter {
    config: Config,
    pictures: Pictures,
}

impl System for Segmenter {
    const ID: &'static str = "segmenter";
    const PAPER: &'static str =
        "Ronneberger, Fischer & Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation, 2015";
    const DATA: DataKind = DataKind::Labelled;
    type Config = Config;
    type Networks = Networks;

    fn data_kind(config: &Config) -> DataKind {
        match config.truth {
            Truth::Ground => DataKind::Labelled,
            Truth::Masks => DataKind::Masked,
        }
    }

    fn defaults() -> (DataConfig, TrainConfig) {
        let train = TrainConfig { images: 60_000, preview_every: 0, ..TrainConfig::default() };
        (DataConfig::default(), train)
    }

    fn sizes(config: &Config) -> SizeRule {
        unet_sizes(&config.unet)
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        check_unet(&config.unet)?;
        Self::sizes(&config).check(pictures.shape)?;
        if !(-1.0..=1.0).contains(&config.ground) {
            return Err(Error::usage(format!("model.ground must be in [-1, 1], not {}", config.ground)));
        }
        if !(0.0..2.0).contains(&config.ground_tolerance) {
            return Err(Error::usage(format!(
                "model.ground_tolerance must be in [0, 2), not {}",
                config.ground_tolerance
            )));
        }
        if config.truth == Truth::Ground && pictures.classes.is_empty() {
            return Err(Error::usage("segmenter needs a labelled set, or masks with model.truth = \"masks\""));
        }
        Ok(Self { config, pictures: pictures.clone() })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let classes = match self.config.truth {
            Truth::Ground => self.pictures.classes.len() + 1,
            Truth::Masks => self.pictures.mask_classes,
        };
        let channels = self.pictures.shape[0];
        Networks { segmenter: self.config.unet.init(channels, classes, 0, init) }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        vec![Phase::new("segmenter", &["segmenter"], self.config.optimizer.clone(), |s, n, b| s.loss(n, b).map(Some))]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { segment: Some(self), ..Abilities::default() }
    }
}

impl Segmenter {
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let images = batch.images();
        let truth = match self.config.truth {
            Truth::Ground => self.segment_map(images.clone(), batch.labels()?),
            Truth::Masks => batch.mask()?,
        };
        let time = Tensor::zeros([batch.len()], batch.device());
        let condition = Condition { dropout: Some(batch.dropout_key()), ..Condition::default() };
        let logits = networks.segmenter.forward(images, time, &condition);
        let [n, classes, h, w] = logits.dims();
        let by_pixel = logits.permute([0, 2, 3, 1]).reshape([n * h * w, classes]);
        Ok(Loss::new("cross_entropy", cross_entropy(by_pixel, truth.reshape([n * h * w]))))
    }
}

impl Segment<Networks> for Segmenter {
    fn segment(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<4>> {
        let time = Tensor::zeros([images.dims()[0]], &images.device());
        Ok(networks.segmenter.forward(images, time, &Condition::default()))
    }

    fn segment_map(&self, images: Tensor<4>, labels: Tensor<1, Int>) -> Tensor<3, Int> {
        let [n, _, h, w] = images.dims();
        let apart = (images - self.config.ground).abs().max_dim(1).reshape([n, h, w]);
        let object = apart.greater_elem(self.config.ground_tolerance).int();
        object * (labels + 1).reshape([n, 1, 1])
    }
}

/// log p of a map of classes, the mean over its pixels: x̂₀ is to show its class where the mask is bright, and ground elsewhere.
pub struct SegmenterGuide {
    model: Box<dyn Model>,
    /// `[1, 1, h, w]`: 1 where the object is to be.
    mask: Tensor<4>,
}

impl SegmenterGuide {
    /// Guides by a run that segments to a picture `[1, c, h, w]` of the mask.
    ///
    /// # Errors
    /// If the run was trained on pictures of another shape than the run to guide makes.
    pub fn new(model: Box<dyn Model>, mask: Tensor<4>) -> Result<Self> {
        let [_, c, h, w] = mask.dims();
        let info = model.info();
        if info.pictures.classes.is_empty() {
            return Err(Error::usage(format!(
                "{} was trained on masks, and a guide is for one object of a class on a ground; take a segmenter of a labelled set",
                info.run
            )));
        }
        if info.pictures.shape != [c, h, w] {
            return Err(Error::usage(format!(
                "{} was trained on pictures {:?} (channels, height, width), and the run to guide makes {:?}",
                info.run,
                info.pictures.shape,
                [c, h, w]
            )));
        }
        Ok(Self { model, mask: mask.mean_dim(1).greater_elem(0.0).float() })
    }

    /// Names of its classes.
    pub fn classes(&self) -> &[String] {
        &self.model.info().pictures.classes
    }

    /// The map that each image of a request is to show, `[n, h, w]`: its class where the mask is bright, else ground (0).
    pub fn map(&self, request: &Request) -> Tensor<3, Int> {
        let class = from_indices(&request.classes(self.classes().len()), &self.mask.device());
        let [_, _, h, w] = self.mask.dims();
        let n = class.dims()[0];
        (class + 1).reshape([n, 1, 1]) * self.mask.clone().int().reshape([1, h, w])
    }

    /// The map that the segmenter sees in images `[n, c, h, w]`: `[n, h, w]`.
    ///
    /// # Errors
    /// If the images are not of the run's shape.
    pub fn seen(&self, images: Tensor<4>) -> Result<Tensor<3, Int>> {
        Ok(self.model.segment(images)?.argmax(1).squeeze_dim(1))
    }
}

impl Guide for SegmenterGuide {
    fn looks_at(&self) -> Looks {
        Looks::Clean
    }

    fn score(&self, x: Tensor<4>, _signal: f64, _sigma: f64, request: &Request) -> Result<Tensor<1>> {
        let log_p = log_softmax(self.model.segment(x)?, 1);
        let [n, _, h, w] = log_p.dims();
        let by_pixel = log_p.gather(1, self.map(request).reshape([n, 1, h, w]));
        Ok(by_pixel.reshape([n, h * w]).mean_dim(1).reshape([n]))
    }
}
