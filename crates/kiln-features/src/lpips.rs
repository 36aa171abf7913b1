//! LPIPS (Zhang 2018): the perceptual distance between two images, in the features of a classifier.
//!
//! d(a, b) = Σ_l mean_hw Σ_c w_lc (â_lchw − b̂_lchw)², where â_l is stage l of a network seeing a, each
//! pixel's channels scaled to length 1, and w ≥ 0 are the published heads, fitted to human judgements.
//! No heads are published for MobileNetV2; there w = 1 (the paper's uncalibrated distance), and the name
//! says that it is a different metric.

use burn::tensor::{Device, Tensor};
use kiln_core::{Error, Result};
use kiln_kernels::Precision;
use kiln_nn::resample::global_mean;
use kiln_nn::tensor::from_values;

use crate::WeightsFile;
use crate::alexnet::AlexNet;
use crate::layers::Loader;
use crate::mobilenet::MobileNetV2;
use crate::pixels::{imagenet, rgb};
use crate::vgg::{Depth, Vgg};

/// Added to a length before dividing by it, as the `lpips` package does.
const EPS: f64 = 1e-10;

#[derive(Debug)]
enum Backbone {
    Vgg16(Vgg),
    Alex(Box<AlexNet>),
    MobileNet(Box<MobileNetV2>),
}

/// A perceptual distance.
#[derive(Debug)]
pub struct Lpips {
    backbone: Backbone,
    /// `[1, channels, 1, 1]` for each stage; none where all weights are 1.
    heads: Vec<Tensor<4>>,
}

impl Lpips {
    /// LPIPS over VGG16: torchvision's file of the network and the `lpips` package's `v0.1/vgg.pth`.
    ///
    /// # Errors
    /// Names the first tensor that is missing or of another shape.
    pub fn vgg16(network: &WeightsFile, heads: &WeightsFile, device: &Device) -> Result<Self> {
        let heads = load_heads(heads, "lpips-vgg16", [64, 128, 256, 512, 512], device)?;
        Ok(Self { backbone: Backbone::Vgg16(Vgg::load(network, Depth::Vgg16, device)?), heads })
    }

    /// LPIPS over AlexNet: torchvision's file of the network and the `lpips` package's `v0.1/alex.pth`.
    ///
    /// # Errors
    /// Names the first tensor that is missing or of another shape.
    pub fn alex(network: &WeightsFile, heads: &WeightsFile, device: &Device) -> Result<Self> {
        let heads = load_heads(heads, "lpips-alex", [64, 192, 384, 256, 256], device)?;
        Ok(Self { backbone: Backbone::Alex(Box::new(AlexNet::load(network, device)?)), heads })
    }

    /// The same distance over the stages of MobileNetV2 with all weights 1. It resembles LPIPS but is not LPIPS.
    ///
    /// # Errors
    /// Names the first tensor that is missing or of another shape.
    pub fn like_mobilenetv2(network: &WeightsFile, device: &Device) -> Result<Self> {
        let backbone = Backbone::MobileNet(Box::new(MobileNetV2::load(network, device)?));
        Ok(Self { backbone, heads: Vec::new() })
    }

    /// What figures call the distance: `lpips-vgg16`, `lpips-alex`, `lpips-like-mobilenetv2`.
    pub fn name(&self) -> &'static str {
        match self.backbone {
            Backbone::Vgg16(_) => "lpips-vgg16",
            Backbone::Alex(_) => "lpips-alex",
            Backbone::MobileNet(_) => "lpips-like-mobilenetv2",
        }
    }

    /// The distance of each pair of pictures in [−1, 1], at their own size; one channel is repeated.
    ///
    /// # Shapes
    /// twice `[n, 1 or 3, h, w]` → `[n]`, at least 0
    ///
    /// # Errors
    /// If the two differ in shape, or are too small for the network (VGG16: 16, AlexNet: 31 a side).
    pub fn distance(&self, a: Tensor<4>, b: Tensor<4>) -> Result<Tensor<1>> {
        if a.dims() != b.dims() {
            let (a, b) = (a.dims(), b.dims());
            return Err(Error::new(format!("{}: pictures of shapes {a:?} and {b:?} are no pairs", self.name())));
        }
        let (a, b) = (imagenet(rgb(a)?), imagenet(rgb(b)?));
        // As in `FeatureNet::see`.
        let (a, b) = Precision::F32.scope(|| Ok::<_, Error>((self.stages(a)?, self.stages(b)?)))?;
        let mut total: Option<Tensor<2>> = None;
        for (l, (a, b)) in a.into_iter().zip(b).enumerate() {
            let squares = (unit(a) - unit(b)).square();
            let weighted = match self.heads.get(l) {
                Some(head) => squares * head.clone(),
                None => squares,
            };
            let stage = global_mean(weighted.sum_dim(1));
            total = Some(match total {
                Some(sum) => sum + stage,
                None => stage,
            });
        }
        let total = total.ok_or_else(|| Error::new(format!("{}: no stages to compare", self.name())))?;
        Ok(total.flatten(0, 1))
    }

    fn stages(&self, x: Tensor<4>) -> Result<Vec<Tensor<4>>> {
        match &self.backbone {
            Backbone::Vgg16(net) => net.activations(x, &["relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"]),
            Backbone::Alex(net) => net.activations(x),
            Backbone::MobileNet(net) => Ok(net.stages(x)),
        }
    }
}

/// Each pixel's channels scaled to length 1.
fn unit(x: Tensor<4>) -> Tensor<4> {
    let length = x.clone().square().sum_dim(1).sqrt();
    x / (length + EPS)
}

fn load_heads(file: &WeightsFile, net: &'static str, channels: [usize; 5], device: &Device) -> Result<Vec<Tensor<4>>> {
    let loader = Loader { file, net, device, eps: 0.0 };
    let head = |(l, c): (usize, usize)| {
        let values = loader.values(&format!("lin{l}.model.1.weight"), &[1, c, 1, 1])?;
        Ok(from_values(values, [1, c, 1, 1], device))
    };
    channels.into_iter().enumerate().map(head).collect()
}
