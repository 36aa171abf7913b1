//! What pictures are given to the methods as: their pixels, a bag of words of local descriptors, or what a published
//! network sees in them.

use std::sync::OnceLock;

use burn::tensor::{Device, Tensor};
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_features::FeatureNet;
use kiln_nn::tensor::to_values;
use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;
use serde::{Deserialize, Serialize};

use super::hog;

/// Which features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeatureName {
    /// The pixels.
    Pixels,
    /// Shares of the words of HOG descriptors.
    Descriptors,
    /// The last feature map's mean of MobileNetV2, trained on ImageNet.
    MobileNetV2,
    /// The same of EfficientNet-Lite0.
    #[serde(rename = "efficientnet-lite0")]
    EfficientNetLite0,
}

impl FeatureName {
    /// By the word of a recipe.
    ///
    /// # Errors
    /// If there are no such features.
    pub fn named(word: &str) -> Result<Self> {
        let word: StrDeserializer<'_, serde::de::value::Error> = word.into_deserializer();
        Self::deserialize(word).map_err(|e| Error::usage(format!("model.target_features: {e}")))
    }

    /// What feature networks and `kiln data fetch weights:NAME` call the published network, if it is one.
    pub fn network(self) -> Option<&'static str> {
        match self {
            Self::Pixels | Self::Descriptors => None,
            Self::MobileNetV2 => Some("mobilenetv2"),
            Self::EfficientNetLite0 => Some("efficientnet-lite0"),
        }
    }
}

/// Features a picture of a published network.
const NETWORK_WIDTH: usize = 1280;
/// Pictures that go through a network at a time.
const CHUNK: usize = 50;

/// Features of pictures of one shape.
pub struct Extractor {
    name: FeatureName,
    shape: [usize; 3],
    words: usize,
    cell: usize,
    net: OnceLock<FeatureNet>,
}

impl Extractor {
    /// With so many words of descriptors of cells of `cell` pixels.
    pub fn new(name: FeatureName, shape: [usize; 3], words: usize, cell: usize) -> Self {
        Self { name, shape, words, cell, net: OnceLock::new() }
    }

    /// How many a picture has.
    pub fn width(&self) -> usize {
        match self.name {
            FeatureName::Pixels => self.shape.iter().product(),
            FeatureName::Descriptors => self.words,
            FeatureName::MobileNetV2 | FeatureName::EfficientNetLite0 => NETWORK_WIDTH,
        }
    }

    /// The shape of the words, if they are counted.
    pub fn vocabulary_shape(&self) -> Option<[usize; 2]> {
        (self.name == FeatureName::Descriptors).then_some([self.words, hog::WIDTH])
    }

    /// Words for pictures such as these, `[n, c, h, w]` in [−1, 1].
    ///
    /// # Errors
    /// If their descriptors are fewer than the words.
    pub fn vocabulary(&self, images: Vec<Tensor<4>>, most: usize) -> Result<Vec<f32>> {
        let descriptors = images.into_iter().flat_map(|images| self.described(images)).flatten();
        let vivid: Vec<_> = descriptors.filter(|descriptor| !hog::is_flat(descriptor)).collect();
        let (key, n) = (Key::new(0).purpose("words"), vivid.len());
        let chosen = (0..n.min(most)).map(|i| &vivid[key.permute(i as u64, n as u64) as usize]);
        let values: Vec<f32> = chosen.flatten().map(|v| *v as f32).collect();
        if values.is_empty() {
            return Err(Error::new("model.features = \"descriptors\": no picture has a gradient to describe"));
        }
        hog::vocabulary(&values, self.words, key)
    }

    /// Descriptors of each picture.
    fn described(&self, images: Tensor<4>) -> Vec<Vec<[f64; hog::WIDTH]>> {
        let [channels, height, width] = self.shape;
        let grey = |image: &[f32]| -> Vec<f64> {
            let pixels = height * width;
            (0..pixels)
                .map(|i| (0..channels).map(|c| f64::from(image[c * pixels + i])).sum::<f64>() / channels as f64)
                .collect()
        };
        let values = to_values(images);
        let each = values.chunks_exact(channels * height * width);
        each.map(|image| hog::descriptors(&grey(image), [height, width], self.cell)).collect()
    }

    /// Features of pictures `[n, c, h, w]` in [−1, 1], row-major; `words` are of [`Extractor::vocabulary`].
    ///
    /// # Errors
    /// If the published network is not on this machine, or does not take such pictures.
    pub fn features(&self, images: Tensor<4>, words: &[f32]) -> Result<Vec<f32>> {
        match self.name {
            FeatureName::Pixels => Ok(to_values(images)),
            FeatureName::Descriptors => {
                Ok(self.described(images).iter().flat_map(|each| hog::histogram(each, words)).collect())
            }
            FeatureName::MobileNetV2 | FeatureName::EfficientNetLite0 => {
                let net = self.net(&images.device())?;
                let n = images.dims()[0];
                let parts = (0..n)
                    .step_by(CHUNK)
                    .map(|start| Ok(to_values(net.features(images.clone().narrow(0, start, CHUNK.min(n - start)))?)));
                Ok(parts.collect::<Result<Vec<_>>>()?.concat())
            }
        }
    }

    /// The published network, read once.
    fn net(&self, device: &Device) -> Result<&FeatureNet> {
        if let Some(net) = self.net.get() {
            return Ok(net);
        }
        let name = self.name.network().ok_or_else(|| Error::new("these features need no network"))?;
        let file = kiln_data::trained_file(&format!("weights:{name}"))?;
        let net = FeatureNet::open(&format!("{name}-imagenet"), &file, device)?;
        Ok(self.net.get_or_init(|| net))
    }
}
