//! VGG as an encoder of style: its first convolutions, with reflections around the picture (Huang & Belongie 2017, §6).

use burn::module::Module;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Device, Tensor};
use kiln_core::{Result, refuse_if};
use kiln_features::pixels::imagenet;
use kiln_features::vgg::Depth;
use kiln_nn::resample::reflect_pad;
use kiln_nn::{Activation, Conv2d, Conv2dConfig, Init, WeightInit, activate};
use kiln_train::system::{InitFrom, NetworkPaths};
use kiln_train::{init_from, params};
use serde::{Deserialize, Serialize};

use crate::adversarial::players::check_positive;

/// Which VGG.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vgg {
    /// 13 convolutions.
    Vgg16,
    /// 16 convolutions, the papers'.
    Vgg19,
}

impl Vgg {
    /// As the feature networks call it.
    pub fn depth(self) -> Depth {
        match self {
            Self::Vgg16 => Depth::Vgg16,
            Self::Vgg19 => Depth::Vgg19,
        }
    }
}

/// The last layer of an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// At a quarter of the size.
    Relu3_1,
    /// At an eighth.
    Relu4_1,
    /// At an eighth.
    Relu4_2,
}

/// Convolutions of each block.
fn blocks(vgg: Vgg, reach: Reach) -> Vec<usize> {
    let third = match vgg {
        Vgg::Vgg16 => 3,
        Vgg::Vgg19 => 4,
    };
    match reach {
        Reach::Relu3_1 => vec![2, 2, 1],
        Reach::Relu4_1 => vec![2, 2, third, 1],
        Reach::Relu4_2 => vec![2, 2, third, 2],
    }
}

/// Which encoder: part of a system's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderConfig {
    /// The weights: `weights:vgg16-hed`, a file with torchvision's names, or `random`, which is good for tests alone.
    pub encoder: String,
    /// Channels of the first block: 64 in all published networks.
    pub encoder_channels: usize,
    /// `vgg16` or `vgg19`, whichever the weights are of.
    pub vgg: Vgg,
}

impl Default for EncoderConfig {
    fn default() -> Self {
        Self { encoder: "weights:vgg16-hed".into(), encoder_channels: 64, vgg: Vgg::Vgg16 }
    }
}

impl EncoderConfig {
    /// Without a file.
    pub fn random(vgg: Vgg, encoder_channels: usize) -> Self {
        Self { encoder: InitFrom::RANDOM.into(), encoder_channels, vgg }
    }

    /// Whether it has numbers of its own.
    pub fn is_random(&self) -> bool {
        self.encoder == InitFrom::RANDOM
    }

    /// Checks what no picture can make right.
    ///
    /// # Errors
    /// A usage error that names the setting.
    pub fn check(&self) -> Result<()> {
        refuse_if!(
            self.encoder.is_empty(),
            "model.encoder is empty: name weights:vgg16-hed, or a file of VGG's weights"
        );
        check_positive(&[("encoder_channels", self.encoder_channels)])
    }

    /// Where a system takes its network `encoder` from.
    pub fn init_from(&self, reach: Reach) -> Vec<InitFrom<'_>> {
        InitFrom::named(&self.encoder, paths(self.vgg, reach))
    }

    /// With numbers that the weights have better ones for.
    pub fn fresh(&self, reach: Reach, init: &mut Init) -> VggEncoder {
        VggEncoder::new(self.vgg, reach, self.encoder_channels, init)
    }

    /// With the weights, frozen.
    ///
    /// # Errors
    /// If they cannot be read, or are of another network.
    pub fn open(&self, reach: Reach, device: &Device) -> Result<VggEncoder> {
        /// The encoder at its path.
        #[derive(Module, Debug)]
        struct Networks {
            encoder: VggEncoder,
        }
        let fresh = Networks { encoder: self.fresh(reach, &mut Init::new(device, 0)) };
        let networks = match self.is_random() {
            true => fresh,
            false => params::adopt(fresh, &init_from::weights(&self.encoder)?, paths(self.vgg, reach), &self.encoder)?,
        };
        Ok(networks.encoder.no_grad())
    }
}

/// The names of torchvision's layers and the paths of those here, of an encoder that is the network `encoder`.
fn paths(vgg: Vgg, reach: Reach) -> NetworkPaths {
    let all: NetworkPaths = match vgg {
        Vgg::Vgg16 => &[
            ("features.0", "encoder.convs.0"),
            ("features.2", "encoder.convs.1"),
            ("features.5", "encoder.convs.2"),
            ("features.7", "encoder.convs.3"),
            ("features.10", "encoder.convs.4"),
            ("features.12", "encoder.convs.5"),
            ("features.14", "encoder.convs.6"),
            ("features.17", "encoder.convs.7"),
            ("features.19", "encoder.convs.8"),
        ],
        Vgg::Vgg19 => &[
            ("features.0", "encoder.convs.0"),
            ("features.2", "encoder.convs.1"),
            ("features.5", "encoder.convs.2"),
            ("features.7", "encoder.convs.3"),
            ("features.10", "encoder.convs.4"),
            ("features.12", "encoder.convs.5"),
            ("features.14", "encoder.convs.6"),
            ("features.16", "encoder.convs.7"),
            ("features.19", "encoder.convs.8"),
            ("features.21", "encoder.convs.9"),
        ],
    };
    &all[..blocks(vgg, reach).iter().sum()]
}

/// The encoder: frozen, of a file.
#[derive(Module, Debug)]
pub struct VggEncoder {
    convs: Vec<Conv2d>,
    #[module(skip)]
    blocks: Vec<usize>,
}

/// The maps of pictures.
#[derive(Clone, Debug)]
pub struct Maps {
    /// The first of each block: relu1_1, relu2_1, …
    pub first: Vec<Tensor<4>>,
    /// Those of the last layer.
    pub deep: Tensor<4>,
}

impl VggEncoder {
    /// With `k` channels in the first block, doubled in each, and numbers that a file has better ones for.
    pub fn new(vgg: Vgg, reach: Reach, k: usize, init: &mut Init) -> Self {
        let blocks = blocks(vgg, reach);
        let (mut inputs, mut convs) = (3, Vec::new());
        for (block, &count) in blocks.iter().enumerate() {
            for _ in 0..count {
                let width = k << block;
                convs.push(Conv2dConfig { weight: WeightInit::He, ..Conv2dConfig::new(inputs, width, 3) }.init(init));
                inputs = width;
            }
        }
        Self { convs, blocks }
    }

    /// The maps of pictures in [−1, 1].
    ///
    /// # Shapes
    /// `[n, 3, h, w]` → `[n, k, h, w]`, `[n, 2k, h/2, w/2]`, …; h and w at least 16
    pub fn forward(&self, images: Tensor<4>) -> Maps {
        let mut x = imagenet(images);
        let mut convs = self.convs.iter();
        let mut first = Vec::new();
        for (block, &count) in self.blocks.iter().enumerate() {
            if block > 0 {
                x = max_pool2d(x, MaxPoolOptions::new([2, 2]).with_stride([2, 2]));
            }
            for (i, conv) in convs.by_ref().take(count).enumerate() {
                x = activate(conv.forward(reflect_pad(x, 1)), Activation::Relu);
                if i == 0 {
                    first.push(x.clone());
                }
            }
        }
        Maps { first, deep: x }
    }
}
