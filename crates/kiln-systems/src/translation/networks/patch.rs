//! The discriminator that judges patches (Isola 2017, §6.1.2; Zhu 2017, appendix 7.2).

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::{Result, refuse_if};
use kiln_nn::resample::avg_pool2d_inside;
use kiln_nn::{Activation, Conv2d, Conv2dConfig, Init, activate};
use kiln_train::SizeRule;
use serde::{Deserialize, Serialize};

use super::{Normalization, Norms, Pass, conv};
use crate::adversarial::players::check_positive;

/// The settings of a discriminator of patches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PatchConfig {
    /// Channels of the first convolution. The papers have 64.
    pub discriminator_channels: usize,
    /// Downsampling layers: 3 sees 70×70 patches, 2 sees 34×34, 1 sees 16×16, 0 sees pixels.
    pub discriminator_layers: usize,
    /// `instance`, `batch` or `none`.
    pub discriminator_norm: Normalization,
}

impl PatchConfig {
    /// For small pictures.
    pub fn new(discriminator_channels: usize, discriminator_norm: Normalization) -> Self {
        Self { discriminator_channels, discriminator_layers: 1, discriminator_norm }
    }

    /// Checks what no picture can make right.
    ///
    /// # Errors
    /// A usage error that names the setting.
    pub fn check(&self) -> Result<()> {
        check_positive(&[("discriminator_channels", self.discriminator_channels)])?;
        PatchDiscriminator::check_layers(self.discriminator_layers)
    }

    /// The pictures that leave it a patch to judge, among those of `rule`.
    pub fn sizes(&self, rule: SizeRule) -> SizeRule {
        PatchDiscriminator::sizes(self.discriminator_layers, rule)
    }

    /// The network, of pictures of `channels` channels.
    pub fn init(&self, channels: usize, init: &mut Init) -> PatchDiscriminator {
        let (k, layers) = (self.discriminator_channels, self.discriminator_layers);
        PatchDiscriminator::new(channels, k, layers, self.discriminator_norm, init)
    }
}

/// Slope of LeakyReLU.
const LEAK: Activation = Activation::LeakyRelu(0.2);

/// C64-C128-C256-C512 for three layers: 4×4 convolutions, the last Ck and the output with stride 1, leaky ReLU 0.2, a norm but after the
/// first. Each output judges one patch of the picture: of 16, 34 or 70 pixels a side with 1, 2 or 3 layers. Without layers it has
/// 1×1 convolutions, C64-C128, and judges each pixel.
#[derive(Module, Debug)]
pub struct PatchDiscriminator {
    first: Conv2d,
    middle: Vec<Conv2d>,
    last: Conv2d,
    norms: Norms,
}

impl PatchDiscriminator {
    /// Pictures of `channels` channels, `k` channels after the first of `layers` halvings.
    pub fn new(channels: usize, k: usize, layers: usize, norm: Normalization, init: &mut Init) -> Self {
        // Widths grow to eight times the first.
        let width = |at: usize| k << at.min(3);
        if layers == 0 {
            return Self {
                first: conv(channels, k, 1).init(init),
                middle: vec![norm.conv(k, 2 * k, 1).init(init)],
                last: Conv2dConfig { bias: norm != Normalization::Batch, ..conv(2 * k, 1, 1) }.init(init),
                norms: Norms::new(norm, [2 * k], init),
            };
        }
        let layer = |config: Conv2dConfig, stride: usize| Conv2dConfig { stride, padding: 1, ..config };
        let middle = |at: usize, init: &mut Init| {
            layer(norm.conv(width(at - 1), width(at), 4), if at < layers { 2 } else { 1 }).init(init)
        };
        Self {
            first: layer(conv(channels, k, 4), 2).init(init),
            middle: (1..=layers).map(|at| middle(at, init)).collect(),
            last: layer(conv(width(layers), 1, 4), 1).init(init),
            norms: Norms::new(norm, (1..=layers).map(width), init),
        }
    }

    /// Checks how many layers there are.
    ///
    /// # Errors
    /// A usage error.
    pub fn check_layers(layers: usize) -> Result<()> {
        refuse_if!(layers > 6, "model.discriminator_layers must be 0 to 6, not {layers}");
        Ok(())
    }

    /// The pictures that leave it a patch to judge, among those of `rule`.
    pub fn sizes(layers: usize, rule: SizeRule) -> SizeRule {
        // Two convolutions of 4×4 with a border of one take 2 from what the halvings leave.
        let seen = if layers == 0 { 1 } else { 3usize.checked_shl(layers as u32).unwrap_or(usize::MAX) };
        if rule.min >= seen {
            return rule;
        }
        SizeRule { because: format!("model.discriminator_layers = {layers}"), ..rule }.at_least(seen)
    }

    /// The outputs of [`PatchDiscriminator::forward`] in a row.
    ///
    /// # Shapes
    /// `[n, channels, h, w]` → `[patches]`
    pub fn patches(&self, x: Tensor<4>) -> Tensor<1> {
        self.forward(x).flatten(0, 3)
    }

    /// # Shapes
    /// `[n, channels, h, w]` → `[n, 1, h / 2^layers − 2, w / 2^layers − 2]`, or `[n, 1, h, w]` without layers
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let pass = Pass::default();
        let x = activate(self.first.forward(x), LEAK);
        let x =
            self.middle.iter().enumerate().fold(x, |x, (i, conv)| self.norms.forward(i, conv.forward(x), LEAK, &pass));
        self.last.forward(x)
    }
}

/// A [`PatchDiscriminator`] for the picture, one for the picture at half its size, and so on (Wang 2018, *pix2pixHD*, §3.2).
#[derive(Module, Debug)]
pub struct MultiScaleDiscriminator {
    scales: Vec<PatchDiscriminator>,
}

impl MultiScaleDiscriminator {
    /// `scales` of them; `width` says how many channels each has after its first layer.
    pub fn new(
        channels: usize,
        width: impl Fn(usize) -> usize,
        [layers, scales]: [usize; 2],
        norm: Normalization,
        init: &mut Init,
    ) -> Self {
        let scale = |at| PatchDiscriminator::new(channels, width(at), layers, norm, init);
        Self { scales: (0..scales).map(scale).collect() }
    }

    /// Checks how many scales there are.
    ///
    /// # Errors
    /// A usage error.
    pub fn check_scales(scales: usize) -> Result<()> {
        refuse_if!(!(1..=4).contains(&scales), "model.discriminator_scales must be 1 to 4, not {scales}");
        Ok(())
    }

    /// The pictures that leave the smallest scale a patch to judge, among those of `rule`.
    pub fn sizes([layers, scales]: [usize; 2], rule: SizeRule) -> SizeRule {
        let smallest = PatchDiscriminator::sizes(layers, SizeRule::any());
        let least = smallest.min.checked_shl(scales.saturating_sub(1) as u32).unwrap_or(usize::MAX);
        if rule.min >= least {
            return rule;
        }
        let because = format!("model.discriminator_layers = {layers} at {scales} scales");
        SizeRule { because, ..rule }.at_least(least)
    }

    /// The outputs for every patch of each scale.
    ///
    /// # Shapes
    /// `[n, channels, h, w]` → `[patches]` for each scale
    pub fn patches(&self, x: Tensor<4>) -> Vec<Tensor<1>> {
        let smaller = |x: &Tensor<4>| Some(avg_pool2d_inside(x.clone(), 3, 2, 1));
        let sizes = std::iter::successors(Some(x), smaller);
        self.scales.iter().zip(sizes).map(|(d, x)| d.patches(x)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translation::testing::{compare, compare_in, named};

    #[test]
    fn equals_the_authors_with_batch_norm_and_on_pixels() {
        let layers =
            [("first", "model.0"), ("middle.0", "model.2"), ("norms.batch.0", "model.3"), ("middle.1", "model.5")];
        let names = named(&[layers.as_slice(), &[("norms.batch.1", "model.6"), ("last", "model.8")]].concat());
        let network = |init: &mut Init| PatchDiscriminator::new(6, 2, 2, Normalization::Batch, init);
        compare_in("translation", "patch_batch", network, PatchDiscriminator::forward, &names);

        let names = named(&[("first", "net.0"), ("middle.0", "net.2"), ("norms.batch.0", "net.3"), ("last", "net.5")]);
        let network = |init: &mut Init| PatchDiscriminator::new(3, 2, 0, Normalization::Batch, init);
        compare_in("translation", "pixel_batch", network, PatchDiscriminator::forward, &names);
    }

    #[test]
    fn scales_equal_the_authors() {
        let scale = |at: usize| {
            [("first", 0), ("middle.0", 2), ("last", 5)]
                .map(|(ours, theirs)| (format!("scales.{at}.{ours}"), format!("net.model_{at}.{theirs}")))
        };
        let names = [scale(0), scale(1)].concat();
        let width = |at: usize| 4 >> at;
        let network = |init: &mut Init| MultiScaleDiscriminator::new(3, width, [1, 2], Normalization::Instance, init);
        compare_in("translation", "bicycle_d", network, |net, x| Tensor::cat(net.patches(x), 0), &names);
    }

    #[test]
    fn the_smallest_scale_has_a_patch() {
        for (layers, scales, side) in [(1, 2, 12), (3, 1, 24), (2, 3, 48), (0, 1, 1)] {
            let rule = MultiScaleDiscriminator::sizes([layers, scales], SizeRule::any());
            assert_eq!(rule.min, side, "{layers} {scales}");
            let mut init = Init::new(&burn::tensor::Device::flex(), 0);
            let net = MultiScaleDiscriminator::new(3, |_| 2, [layers, scales], Normalization::Instance, &mut init);
            let judged = net.patches(Tensor::zeros([1, 3, side, side], &burn::tensor::Device::flex()));
            assert_eq!(judged.last().unwrap().dims(), [1]);
        }
    }

    #[test]
    fn equals_pytorch() {
        compare(
            "cyclegan_d",
            |init| PatchDiscriminator::new(3, 4, 3, Normalization::Instance, init),
            PatchDiscriminator::forward,
            &[("first", "0"), ("middle.0", "2"), ("middle.1", "5"), ("middle.2", "8"), ("last", "11")],
        );
    }
}
