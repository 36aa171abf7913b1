//! Inner maps of a published network, by which pictures are told apart in what they show and in how they look.

use burn::tensor::{Device, Tensor};
use kiln_core::{Error, Result};

use crate::WeightsFile;
use crate::efficientnet::EfficientNetLite0;
use crate::mobilenet::MobileNetV2;
use crate::pixels::{imagenet, rgb};
use crate::vgg::{Depth, Vgg};

/// A network whose inner maps can be asked for by name. It is frozen, and differentiable in the pictures.
#[derive(Debug)]
pub struct LayerNet {
    backbone: Backbone,
}

#[derive(Debug)]
enum Backbone {
    MobileNet(Box<MobileNetV2>),
    EfficientNet(Box<EfficientNetLite0>),
    Vgg(Vgg, Depth),
    Hed(Vgg),
}

/// The stages of MobileNetV2 and EfficientNet-Lite0: their last blocks of each resolution.
const STAGES: [&str; 5] = ["stage1", "stage2", "stage3", "stage4", "stage5"];

impl LayerNet {
    /// MobileNetV2 of torchvision.
    ///
    /// # Errors
    /// Names the first tensor that is missing or of another shape.
    pub fn mobilenetv2(file: &WeightsFile, device: &Device) -> Result<Self> {
        Ok(Self { backbone: Backbone::MobileNet(Box::new(MobileNetV2::load(file, device)?)) })
    }

    /// EfficientNet-Lite0 of `weights:efficientnet-lite0`.
    ///
    /// # Errors
    /// As [`LayerNet::mobilenetv2`].
    pub fn efficientnet_lite0(file: &WeightsFile, device: &Device) -> Result<Self> {
        Ok(Self { backbone: Backbone::EfficientNet(Box::new(EfficientNetLite0::load(file, device)?)) })
    }

    /// VGG of torchvision.
    ///
    /// # Errors
    /// As [`LayerNet::mobilenetv2`].
    pub fn vgg(file: &WeightsFile, depth: Depth, device: &Device) -> Result<Self> {
        Ok(Self { backbone: Backbone::Vgg(Vgg::load(file, depth, device)?, depth) })
    }

    /// VGG16 fine-tuned to find edges, of `weights:vgg16-hed`.
    ///
    /// # Errors
    /// As [`LayerNet::mobilenetv2`].
    pub fn vgg16_hed(file: &WeightsFile, device: &Device) -> Result<Self> {
        Ok(Self { backbone: Backbone::Hed(Vgg::load_hed(file, device)?) })
    }

    /// The layer that says what a picture shows: relu4_2 of VGG (Gatys 2016, §3), the third stage of the others, at an eighth of the size each.
    pub fn content_layers(&self) -> Vec<&'static str> {
        match self.backbone {
            Backbone::MobileNet(_) | Backbone::EfficientNet(_) => vec!["stage3"],
            Backbone::Vgg(..) | Backbone::Hed(_) => vec!["relu4_2"],
        }
    }

    /// The layers that say how it looks: relu1_1 to relu5_1 of VGG (Gatys 2016, §3), all stages of the others.
    pub fn style_layers(&self) -> Vec<&'static str> {
        match self.backbone {
            Backbone::MobileNet(_) | Backbone::EfficientNet(_) => STAGES.to_vec(),
            Backbone::Vgg(..) | Backbone::Hed(_) => vec!["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"],
        }
    }

    /// The maps of layers, in the order of their names, of pictures in [−1, 1]; one channel is repeated.
    ///
    /// # Shapes
    /// `[n, 1 or 3, h, w]` → `[n, c, h′, w′]` each
    ///
    /// # Errors
    /// If there is no such layer, or the pictures are too small for it.
    pub fn maps(&self, images: Tensor<4>, layers: &[&str]) -> Result<Vec<Tensor<4>>> {
        let x = rgb(images)?;
        let stages = match &self.backbone {
            Backbone::Vgg(net, _) | Backbone::Hed(net) => return net.activations(imagenet(x), layers),
            Backbone::MobileNet(net) => net.stages(imagenet(x)),
            Backbone::EfficientNet(net) => net.stages(EfficientNetLite0::scaled(x)),
        };
        let of = |name: &&str| {
            let at = STAGES.iter().position(|stage| stage == name);
            at.map(|at| stages[at].clone()).ok_or_else(|| {
                Error::usage(format!("{} has no layer {name}; it has {}", self.name(), STAGES.join(", ")))
            })
        };
        layers.iter().map(of).collect()
    }

    /// What figures call it.
    pub fn name(&self) -> &'static str {
        match self.backbone {
            Backbone::MobileNet(_) => "mobilenetv2",
            Backbone::EfficientNet(_) => "efficientnet-lite0",
            Backbone::Hed(_) => "vgg16-hed",
            Backbone::Vgg(_, Depth::Vgg16) => "vgg16",
            Backbone::Vgg(_, Depth::Vgg19) => "vgg19",
        }
    }
}
