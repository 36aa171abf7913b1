//! Chen & Schmidt, *Fast Patch-based Style Transfer of Arbitrary Style*, 2016.
//!
//! A content and a style are encoded by Φ, VGG up to relu3_1. Every patch of the content's maps is replaced by the patch of the style's
//! that is most like it (style swap, §3.1), and a network f, which alone learns, makes a picture of the swapped maps (§3.3):
//!
//! min over f of E ‖Φ(f(H)) − H‖² + λ TV(f(H)),
//!
//! where H are the maps of contents, of styles, and of every content swapped with every style of the batch (§4.3).
//!
//! | paper | here |
//! |---|---|
//! | Φ, VGG19 up to relu3_1 | `encoder`, a [`VggEncoder`](super::vgg::VggEncoder), VGG16 of HED where nobody has VGG19 |
//! | f, with a norm after each convolution | `decoder`, a [`Decoder`](super::decoder::Decoder), without norms |
//! | patches of 3×3, each place (§3.1) | `patch_size` |
//! | φ_ij · φ_s / ‖φ_s‖, the correlation (equation 2) | [`swap`] |
//! | λ = 10⁻⁶, of sums over pixels | `tv_weight`, of means |
//! | Adam, 10⁻³, two contents and two styles a step | `optimizer`, `train.batch` |
//!
//! `kiln train styleswap --data photos,paintings`, then `kiln translate RUN photo.jpg out.png --style painting.jpg`

use burn::tensor::{Int, Tensor};
use kiln_core::{Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::loss::{mse, total_variation};
use kiln_train::{
    Abilities, Batch, DataConfig, InitFrom, Input, Loss, OptimizerConfig, Phase, Pictures, Request, SizeRule, System,
    TrainConfig, Translate,
};
use serde::{Deserialize, Serialize};

use super::decoder::{Networks, defaults};
use super::vgg::{EncoderConfig, Reach};
use crate::adversarial::players::check_positive;
use crate::translation::two_way::{check_weights, real};

/// The layer whose maps are swapped.
const REACH: Reach = Reach::Relu3_1;

/// Correlations that are held at a time.
const CORRELATIONS: usize = 1 << 24;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The encoder.
    #[serde(flatten)]
    pub encoder: EncoderConfig,
    /// Side of a patch, in places of the maps, each of 4×4 pixels.
    pub patch_size: usize,
    /// λ.
    pub tv_weight: f64,
    /// The decoder's optimiser.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            encoder: EncoderConfig::default(),
            patch_size: 3,
            tv_weight: 0.1,
            optimizer: OptimizerConfig::adam(1e-3),
        }
    }
}

/// The patches of a map, a row each, from the top left to the bottom right.
///
/// # Shapes
/// `[1, c, h, w]` → `[(h − k + 1)(w − k + 1), k·k·c]`
fn patches(map: &Tensor<4>, k: usize) -> Tensor<2> {
    let [_, c, h, w] = map.dims();
    let (rows, columns) = (h + 1 - k, w + 1 - k);
    let moved = (0..k * k).map(|at| map.clone().narrow(2, at / k, rows).narrow(3, at % k, columns));
    Tensor::cat(moved.collect(), 1).reshape([k * k * c, rows * columns]).transpose()
}

/// What patches make together: the mean of all that cover a place.
fn overlapped(patches: Tensor<2>, [_, c, h, w]: [usize; 4], k: usize) -> Tensor<4> {
    let (rows, columns, device) = (h + 1 - k, w + 1 - k, patches.device());
    let moved = patches.transpose().reshape([1, k * k * c, rows, columns]);
    let (mut sum, mut count) = (Tensor::<4>::zeros([1, c, h, w], &device), Tensor::<4>::zeros([1, 1, h, w], &device));
    for at in 0..k * k {
        let (top, left) = (at / k, at % k);
        let place = [0..1, 0..c, top..top + rows, left..left + columns];
        let here = sum.clone().slice(place.clone()) + moved.clone().narrow(1, at * c, c);
        sum = sum.slice_assign(place, here);
        let place = [0..1, 0..1, top..top + rows, left..left + columns];
        let here = count.clone().slice(place.clone()) + 1.0;
        count = count.slice_assign(place, here);
    }
    sum / count
}

/// Every patch of the content's map as the one of the styles' that correlates most with it (equation 2); a style's weight multiplies
/// its correlations. Where patches overlap, their mean.
///
/// # Shapes
/// `[1, c, h, w]`, `[1, c, h′, w′]` each → `[1, c, h, w]`; all sides at least k
pub fn swap(content: &Tensor<4>, styles: &[(Tensor<4>, f64)], k: usize) -> Tensor<4> {
    let own = patches(content, k);
    let [places, _] = own.dims();
    let own = own.transpose();
    let theirs: Vec<Tensor<2>> = styles.iter().map(|(style, _)| patches(style, k)).collect();
    let unit = |(patches, (_, weight)): (&Tensor<2>, &(Tensor<4>, f64))| {
        let length = patches.clone().square().sum_dim(1).sqrt() + 1e-8;
        patches.clone() / length * *weight
    };
    let filters = Tensor::cat(theirs.iter().zip(styles).map(unit).collect(), 0);
    let theirs = Tensor::cat(theirs, 0);
    let [all, width] = theirs.dims();
    let step = (CORRELATIONS / places).clamp(1, all);
    let mut best: Option<(Tensor<2>, Tensor<2, Int>)> = None;
    for start in (0..all).step_by(step) {
        let count = step.min(all - start);
        let (value, at) =
            filters.clone().slice([start..start + count, 0..width]).matmul(own.clone()).max_dim_with_indices(0);
        let at = at + start as i64;
        best = Some(match best {
            None => (value, at),
            Some((most, which)) => {
                let better = value.clone().greater(most.clone());
                (most.mask_where(better.clone(), value), which.mask_where(better, at))
            }
        });
    }
    match best {
        Some((_, which)) => overlapped(theirs.select(0, which.reshape([places])), content.dims(), k),
        None => content.clone(),
    }
}

/// The system.
pub struct StyleSwap {
    config: Config,
}

impl System for StyleSwap {
    const ID: &'static str = "styleswap";
    const PAPER: &'static str = "Chen & Schmidt: Fast Patch-based Style Transfer of Arbitrary Style, 2016";
    const DATA: DataKind = DataKind::TwoDomains;
    type Config = Config;
    type Networks = Networks;

    fn init_from(config: &Config) -> Vec<InitFrom<'_>> {
        config.encoder.init_from(REACH)
    }

    fn defaults() -> (DataConfig, TrainConfig) {
        defaults(2, 40_000)
    }

    fn sizes(_config: &Config) -> SizeRule {
        SizeRule::multiple_of(4, Self::ID).at_least(16)
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        config.encoder.check()?;
        check_positive(&[("patch_size", config.patch_size)])?;
        check_weights(&[("tv_weight", config.tv_weight)])?;
        refuse_if!(pictures.shape[0] != 3, "data.channels = {}: styleswap works on colours, 3", pictures.shape[0]);
        Self::sizes(&config).check(pictures.shape)?;
        let [_, height, width] = pictures.shape;
        check_patch(&config, [height, width], "an image")?;
        Ok(Self { config })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        Networks::new(&self.config.encoder, REACH, init)
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        vec![Phase::new("decoder", &["decoder"], self.config.optimizer.clone(), Self::loss)]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { translate: Some(self), ..Abilities::default() }
    }
}

/// Refuses pictures whose maps are smaller than a patch.
fn check_patch(config: &Config, [height, width]: [usize; 2], what: &str) -> Result<()> {
    let (side, patch) = (height.min(width) / 4, config.patch_size);
    refuse_if!(
        side < patch,
        "model.patch_size = {patch}: the maps of {what} of {width} x {height} pixels have {side} places a side"
    );
    Ok(())
}

impl StyleSwap {
    /// ‖Φ(f(H)) − H‖² + λ TV(f(H)).
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let [content, style] = real(batch, Self::ID)?;
        let Networks { encoder, decoder } = networks;
        let [content, style] = [content, style].map(|images| encoder.forward(images).deep.detach());
        let each = |maps: &Tensor<4>| (0..maps.dims()[0]).map(|i| maps.clone().narrow(0, i, 1)).collect::<Vec<_>>();
        let mut maps = vec![content.clone(), style.clone()];
        for content in each(&content) {
            maps.extend(each(&style).into_iter().map(|style| swap(&content, &[(style, 1.0)], self.config.patch_size)));
        }
        let maps = Tensor::cat(maps, 0);
        let pictures = decoder.forward(maps.clone());
        let found = encoder.forward(pictures.clone()).deep;
        let loss = Loss::new("features", mse(found, maps));
        Ok(Some(loss.plus("tv", self.config.tv_weight, total_variation(pictures))))
    }
}

impl Translate<Networks> for StyleSwap {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Styles]
    }

    fn directions(&self) -> Vec<&'static str> {
        vec!["a2b"]
    }

    fn needs_style(&self) -> bool {
        true
    }

    fn own_sizes(&self) -> Option<SizeRule> {
        Some(Self::sizes(&self.config))
    }

    /// In the style of the pictures that are given.
    fn translate(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<4>> {
        let [n, channels, height, width] = images.dims();
        Self::sizes(&self.config).check([channels, height, width])?;
        check_patch(&self.config, [height, width], "an image")?;
        networks.stylized(images, request, Self::ID, |content| {
            let mut styles = Vec::new();
            for style in &request.condition.styles {
                let [.., height, width] = style.image.dims();
                check_patch(&self.config, [height, width], "a style")?;
                styles.push((networks.encoder.forward(style.image.clone()).deep, style.weight));
            }
            let swapped = (0..n).map(|i| swap(&content.clone().narrow(0, i, 1), &styles, self.config.patch_size));
            Ok(Tensor::cat(swapped.collect(), 0))
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;

    use super::*;
    use crate::style::decoder::testing::stylized;
    use crate::style::vgg::Vgg;
    use crate::translation::testing::{assert_close, fit, host, pairs, tensor, term, with_fixture_of};

    fn tiny() -> Config {
        let optimizer = OptimizerConfig::adam(2e-3);
        Config { encoder: EncoderConfig::random(Vgg::Vgg16, 2), tv_weight: 0.0, optimizer, ..Config::default() }
    }

    /// tests/reference/style.py: the authors' convolution, argmax and transposed convolution.
    #[test]
    fn swapped_maps_are_the_authors() {
        with_fixture_of("style", |file| {
            let device = Device::flex();
            let [content, style] = ["content", "style"].map(|n| tensor::<4>(file, &format!("swap.{n}"), &device));
            for k in [1, 3] {
                let got = to_values(swap(&content, &[(style.clone(), 1.0)], k));
                assert_close("swap", got, host(file, &format!("swap.output{k}")).values, 1e-6);
            }
        });
    }

    #[test]
    fn a_map_swapped_with_itself_is_itself() {
        let map = pairs(0, 1, 8, &Device::flex()).images();
        assert_close("self", to_values(swap(&map, &[(map.clone(), 1.0)], 3)), to_values(map), 1e-6);
    }

    #[test]
    fn fits_one_batch() {
        let (log, _) = fit::<StyleSwap>(tiny(), 150, 2, 16);
        let (first, last) = (term(&log[0], "features"), term(&log[149], "features"));
        assert!(last < 0.6 * first, "features {first} -> {last}");
    }

    #[test]
    fn weights_choose_between_styles() {
        let values = |strength, styles: &[_]| stylized::<StyleSwap>(tiny(), strength, styles).unwrap();
        assert!(stylized::<StyleSwap>(tiny(), 1.0, &[]).unwrap_err().to_string().contains("--style"));
        assert_eq!(values(0.0, &[(1, 1.0)]), values(0.0, &[(2, 1.0)]));
        assert_ne!(values(1.0, &[(1, 1.0)]), values(1.0, &[(2, 1.0)]));
        assert_eq!(values(1.0, &[(1, 1.0), (2, 0.0)]), values(1.0, &[(1, 1.0)]));
    }
}
