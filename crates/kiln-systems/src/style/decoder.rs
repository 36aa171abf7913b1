//! The network that turns an encoder's maps into a picture, and what the systems that learn one share.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::{Error, Result, refuse_if};
use kiln_data::Resize;
use kiln_nn::resample::{reflect_pad, upsample_nearest};
use kiln_nn::{Activation, Conv2d, Conv2dConfig, Init, activate};
use kiln_train::{DataConfig, Request, TrainConfig};
use serde::Deserialize;

use super::vgg::{EncoderConfig, Reach, VggEncoder};

/// VGG turned around: 3×3 convolutions with reflections, ReLU but after the last, and repetition of pixels where the encoder takes
/// maxima (Huang & Belongie 2017, §6).
#[derive(Module, Debug)]
pub struct Decoder {
    convs: Vec<Conv2d>,
    #[module(skip)]
    reach: Reach,
}

/// Channels that go into the convolutions from relu4_1 on, as multiples of the encoder's first; `None` repeats pixels.
const FROM_RELU4_1: [Option<usize>; 12] =
    [Some(8), None, Some(4), Some(4), Some(4), Some(4), None, Some(2), Some(2), None, Some(1), Some(1)];

/// What there is to do from a layer on.
fn plan(reach: Reach) -> &'static [Option<usize>] {
    match reach {
        Reach::Relu3_1 => &FROM_RELU4_1[5..],
        Reach::Relu4_1 | Reach::Relu4_2 => &FROM_RELU4_1,
    }
}

impl Decoder {
    /// Of the last maps of an encoder with `k` channels in its first block, drawn as PyTorch draws.
    pub fn new(reach: Reach, k: usize, init: &mut Init) -> Self {
        let widths = plan(reach).iter().flatten().map(|times| times * k);
        let widths: Vec<usize> = widths.chain([3]).collect();
        Self { convs: widths.windows(2).map(|w| Conv2dConfig::new(w[0], w[1], 3).init(init)).collect(), reach }
    }

    /// # Shapes
    /// `[n, 8k, h, w]` → `[n, 3, 8h, 8w]` from relu4_1, `[n, 4k, h, w]` → `[n, 3, 4h, 4w]` from relu3_1; it learns to stay in [−1, 1].
    pub fn forward(&self, maps: Tensor<4>) -> Tensor<4> {
        let mut convs = self.convs.iter().enumerate();
        plan(self.reach).iter().fold(maps, |x, step| match (step, step.and_then(|_| convs.next())) {
            (Some(_), Some((i, conv))) => {
                let x = conv.forward(reflect_pad(x, 1));
                if i + 1 == self.convs.len() { x } else { activate(x, Activation::Relu) }
            }
            _ => upsample_nearest(x, 2),
        })
    }
}

/// An encoder that stays as it is, and a decoder that learns.
#[derive(Module, Debug)]
pub struct Networks {
    /// VGG.
    pub encoder: VggEncoder,
    /// The decoder.
    pub decoder: Decoder,
}

impl Networks {
    /// Of an encoder up to a layer.
    pub fn new(config: &EncoderConfig, reach: Reach, init: &mut Init) -> Self {
        Self { encoder: config.fresh(reach, init), decoder: Decoder::new(reach, config.encoder_channels, init) }
    }

    /// Contents `[n, 3, h, w]` whose maps a style has changed, `strength` of the way.
    ///
    /// # Errors
    /// For other settings of the request than `strength`, without a style, for other channels than 3, and if `change` refuses.
    pub fn stylized(
        &self,
        images: Tensor<4>,
        request: &Request,
        system: &str,
        change: impl FnOnce(&Tensor<4>) -> Result<Tensor<4>>,
    ) -> Result<Tensor<4>> {
        let channels = images.dims()[1];
        refuse_if!(channels != 3, "{system} works on colours, 3 channels, not {channels}");
        let Settings { strength } = request.sampler(system)?;
        if request.condition.styles.is_empty() {
            return Err(Error::usage(format!("{system} needs a style: give --style IMAGE")));
        }
        let content = self.encoder.forward(images).deep;
        let maps = change(&content)? * strength + content * (1.0 - strength);
        Ok(self.decoder.forward(maps).clamp(-1.0, 1.0))
    }
}

/// What `kiln translate` may ask for.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// α: 0 is the content's own maps, 1 those that the style has changed (Huang & Belongie 2017, equation 14).
    strength: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { strength: 1.0 }
    }
}

/// Crops of two sets, contents and styles, `batch` of each a step.
pub fn defaults(batch: usize, images: u64) -> (DataConfig, TrainConfig) {
    let data = DataConfig {
        set: "starter:noto,starter:twemoji".into(),
        size: 128.into(),
        channels: 3,
        resize: Resize::Crop,
        ..DataConfig::default()
    };
    let (preview_every, checkpoint_every) = (images / 10, images / 5);
    (data, TrainConfig { batch, images, ema_half_life: 0.0, preview_every, checkpoint_every, ..TrainConfig::default() })
}

#[cfg(test)]
pub(super) mod testing {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;
    use kiln_train::request::Style;
    use kiln_train::{Pictures, System, Translate};

    use super::*;
    use crate::translation::testing::pairs;

    /// The first of three pictures in the style of others, by (which, its weight), `strength` of the way.
    pub fn stylized<S: System<Networks = Networks> + Translate<Networks>>(
        config: S::Config,
        strength: f64,
        styles: &[(usize, f64)],
    ) -> Result<Vec<f32>> {
        let device = Device::flex();
        let system = S::new(config, &Pictures::new([3, 16, 16], Vec::new()))?;
        let networks = system.networks(&mut Init::new(&device, 0));
        let images = || pairs(0, 3, 16, &device).images();
        let mut request = Request::new(0..1, 0, &device);
        let style = |&(i, weight): &(usize, f64)| Style { image: images().narrow(0, i, 1), weight };
        request.condition.styles = styles.iter().map(style).collect();
        request.sampler = format!("strength = {strength:?}").parse().unwrap();
        Ok(to_values(system.translate(&networks, images().narrow(0, 0, 1), &request)?))
    }
}
