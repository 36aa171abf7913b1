//! Feature networks for distances between sets, behind one type.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use kiln_core::{Error, Result};
use kiln_kernels::Precision;

use crate::WeightsFile;
use crate::efficientnet::EfficientNetLite0;
use crate::inception::Inception;
use crate::mobilenet::MobileNetV2;
use crate::pixels::{imagenet, levels, resize_antialiased, resize_tensorflow1};
use crate::vgg::{Depth, VggFc2};

/// A feature network with its own image preparation.
#[derive(Debug)]
pub struct FeatureNet {
    net: Network,
    weights: String,
}

#[derive(Debug)]
enum Network {
    Inception(Box<Inception>),
    MobileNetV2(Box<MobileNetV2>),
    EfficientNetLite0(Box<EfficientNetLite0>),
    VggFc2(Box<VggFc2>),
}

/// The outputs of a feature network.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `[n, d]`.
    pub features: Tensor<2>,
    /// `[n, classes]`, if the network classifies. Inception's are without their bias, which the
    /// Inception score is customarily taken of.
    pub logits: Option<Tensor<2>>,
}

impl FeatureNet {
    /// The names that [`FeatureNet::open`] knows.
    pub const NAMES: [&str; 5] =
        ["inception-v3-fid", "mobilenetv2-imagenet", "efficientnet-lite0-imagenet", "vgg16-fc2", "vgg19-fc2"];

    /// Reads the network `name` from its published file (`.pth` or safetensors).
    ///
    /// # Errors
    /// An unknown name, a file that cannot be read, or one of another network.
    pub fn open(name: &str, file: &Path, device: &Device) -> Result<Self> {
        Self::known(name)?;
        Self::load(name, &WeightsFile::open(file)?, device)
    }

    /// The same from a file that is read already.
    ///
    /// # Errors
    /// An unknown name, or a file of another network.
    pub fn load(name: &str, file: &WeightsFile, device: &Device) -> Result<Self> {
        let net = match Self::known(name)? {
            "inception-v3-fid" => Network::Inception(Box::new(Inception::load(file, device)?)),
            "mobilenetv2-imagenet" => Network::MobileNetV2(Box::new(MobileNetV2::load(file, device)?)),
            "efficientnet-lite0-imagenet" => {
                Network::EfficientNetLite0(Box::new(EfficientNetLite0::load(file, device)?))
            }
            "vgg16-fc2" => Network::VggFc2(Box::new(VggFc2::load(file, Depth::Vgg16, device)?)),
            _ => Network::VggFc2(Box::new(VggFc2::load(file, Depth::Vgg19, device)?)),
        };
        Ok(Self { net, weights: file.sha256().to_string() })
    }

    fn known(name: &str) -> Result<&'static str> {
        Self::NAMES.into_iter().find(|n| *n == name).ok_or_else(|| {
            Error::usage(format!("{name}: no feature net of this name; there are {}", Self::NAMES.join(", ")))
        })
    }

    /// What figures call the network.
    pub fn name(&self) -> &'static str {
        match &self.net {
            Network::Inception(_) => "inception-v3-fid",
            Network::MobileNetV2(_) => "mobilenetv2-imagenet",
            Network::EfficientNetLite0(_) => "efficientnet-lite0-imagenet",
            Network::VggFc2(net) => match net.depth() {
                Depth::Vgg16 => "vgg16-fc2",
                Depth::Vgg19 => "vgg19-fc2",
            },
        }
    }

    /// The SHA-256 of the weights file in hexadecimal: two figures compare only if it is the same.
    pub fn weights(&self) -> &str {
        &self.weights
    }

    /// How pictures are brought to the network's size, in words.
    pub fn resize(&self) -> &'static str {
        match self.net {
            Network::Inception(_) => "8-bit, bilinear as in TensorFlow 1 to 299×299",
            Network::MobileNetV2(_) | Network::EfficientNetLite0(_) => "8-bit, bilinear with antialiasing to 224×224",
            Network::VggFc2(_) => "8-bit, bilinear as in TensorFlow 1 to 224×224",
        }
    }

    /// Features a picture.
    pub fn width(&self) -> usize {
        match self.net {
            Network::Inception(_) => 2048,
            Network::MobileNetV2(_) | Network::EfficientNetLite0(_) => 1280,
            Network::VggFc2(_) => 4096,
        }
    }

    /// Looks at pictures in [−1, 1] of any size, which are first rounded to 8 bits as a file of them
    /// would be; one channel is repeated.
    ///
    /// # Shapes
    /// `[n, 1 or 3, h, w]` → [`Seen`]
    ///
    /// # Errors
    /// If there are neither 1 nor 3 channels, or no pixels.
    pub fn see(&self, images: Tensor<4>) -> Result<Seen> {
        let levels = levels(images)?;
        // A figure does not depend on what the pictures were made with.
        Ok(Precision::F32.scope(|| self.see_levels(levels)))
    }

    fn see_levels(&self, levels: Tensor<4>) -> Seen {
        let scaled = |levels: Tensor<4>| imagenet(levels / 127.5 - 1.0);
        match &self.net {
            Network::Inception(net) => {
                let features = net.features(levels);
                Seen { logits: Some(net.logits_unbiased(features.clone())), features }
            }
            Network::MobileNetV2(net) => {
                let features = net.features(scaled(resize_antialiased(levels, [224; 2])));
                Seen { logits: Some(net.logits(features.clone())), features }
            }
            Network::EfficientNetLite0(net) => {
                let unit = resize_antialiased(levels, [224; 2]) / 127.5 - 1.0;
                let features = net.features(EfficientNetLite0::scaled(unit));
                Seen { logits: Some(net.logits(features.clone())), features }
            }
            Network::VggFc2(net) => {
                let resized = resize_tensorflow1(levels, [VggFc2::SIZE; 2]);
                Seen { features: net.features(scaled(resized)), logits: None }
            }
        }
    }

    /// The features alone: `[n, 1 or 3, h, w]` → `[n, width]`.
    ///
    /// # Errors
    /// As [`FeatureNet::see`].
    pub fn features(&self, images: Tensor<4>) -> Result<Tensor<2>> {
        Ok(self.see(images)?.features)
    }
}
