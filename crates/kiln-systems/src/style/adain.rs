//! Huang & Belongie, *Arbitrary Style Transfer in Real-Time with Adaptive Instance Normalization*, 2017.
//!
//! A content c and a style s are encoded by f, VGG up to relu4_1, and t = AdaIN(f(c), f(s)) = σ(f(s)) (f(c) − μ(f(c))) / σ(f(c)) + μ(f(s)) (equation 8),
//! of which a decoder g, the only network that learns, makes a picture. Objective (equations 11 to 13):
//!
//! * L_c = ‖f(g(t)) − t‖²;
//! * L_s = Σ over relu1_1 to relu4_1 of ‖μ(φ(g(t))) − μ(φ(s))‖² + ‖σ(φ(g(t))) − σ(φ(s))‖²;
//! * L = L_c + λ L_s, all of them means over numbers.
//!
//! | paper | here |
//! |---|---|
//! | f, VGG19 | `encoder`, a [`VggEncoder`](super::vgg::VggEncoder), VGG16 of HED where nobody has VGG19 |
//! | g, its mirror, with nearest upsampling and reflections (§6) | `decoder`, a [`Decoder`](super::decoder::Decoder) |
//! | λ (equation 11), 10 in the authors' code | `style_weight` |
//! | content–style trade-off (equation 14) | `kiln translate --strength` |
//! | interpolation between styles (equation 15) | `--style` more than once, with `--style-weights` |
//! | Adam, 10⁻⁴, batches of 8, crops of 256 (§6) | `optimizer`, `train.batch`, `data.size` |
//!
//! `kiln train adain --data photos,paintings`, then `kiln translate RUN photo.jpg out.png --style painting.jpg`

use burn::tensor::Tensor;
use kiln_core::{Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::loss::mse;
use kiln_train::request::Style;
use kiln_train::{
    Abilities, Batch, DataConfig, InitFrom, Input, Loss, OptimizerConfig, Phase, Pictures, Request, SizeRule, System,
    TrainConfig, Translate,
};
use serde::{Deserialize, Serialize};

use super::decoder::{Networks, defaults};
use super::vgg::{EncoderConfig, Reach};
use crate::translation::two_way::{check_weights, real};

/// The layer whose maps take the style.
const REACH: Reach = Reach::Relu4_1;

/// Added to variances before their root.
const EPS: f64 = 1e-5;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The encoder.
    #[serde(flatten)]
    pub encoder: EncoderConfig,
    /// λ.
    pub style_weight: f64,
    /// The decoder's optimiser.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self { encoder: EncoderConfig::default(), style_weight: 10.0, optimizer: OptimizerConfig::adam(1e-4) }
    }
}

/// μ and σ of each channel, the variance unbiased, as in the authors' code.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, 1, 1]` twice
pub fn mean_and_deviation(x: Tensor<4>) -> [Tensor<4>; 2] {
    let [n, c, h, w] = x.dims();
    let rows = x.reshape([n, c, h * w, 1]);
    let mean = rows.clone().mean_dim(2);
    let count = (h * w).max(2) as f64 - 1.0;
    let variance = (rows - mean.clone()).square().sum_dim(2) / count;
    [mean, (variance + EPS).sqrt()]
}

/// AdaIN: the content with the means and deviations of a style (equation 8).
pub fn adain(content: Tensor<4>, [mean, deviation]: [Tensor<4>; 2]) -> Tensor<4> {
    let [own_mean, own_deviation] = mean_and_deviation(content.clone());
    (content - own_mean) / own_deviation * deviation + mean
}

/// The system.
pub struct AdaIn {
    config: Config,
}

impl System for AdaIn {
    const ID: &'static str = "adain";
    const PAPER: &'static str =
        "Huang & Belongie: Arbitrary Style Transfer in Real-Time with Adaptive Instance Normalization, 2017";
    const DATA: DataKind = DataKind::TwoDomains;
    type Config = Config;
    type Networks = Networks;

    fn init_from(config: &Config) -> Vec<InitFrom<'_>> {
        config.encoder.init_from(REACH)
    }

    fn defaults() -> (DataConfig, TrainConfig) {
        defaults(8, 160_000)
    }

    fn sizes(_config: &Config) -> SizeRule {
        SizeRule::multiple_of(8, Self::ID).at_least(16)
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        config.encoder.check()?;
        check_weights(&[("style_weight", config.style_weight)])?;
        refuse_if!(pictures.shape[0] != 3, "data.channels = {}: adain works on colours, 3", pictures.shape[0]);
        Self::sizes(&config).check(pictures.shape)?;
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

impl AdaIn {
    /// L_c + λ L_s of contents, the first domain, in styles, the second.
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let [content, style] = real(batch, Self::ID)?;
        let Networks { encoder, decoder } = networks;
        let style = encoder.forward(style);
        let t = adain(encoder.forward(content).deep, mean_and_deviation(style.deep)).detach();
        let found = encoder.forward(decoder.forward(t.clone()));
        let mut l_s = Tensor::<1>::zeros([1], &t.device());
        for (map, target) in found.first.into_iter().zip(style.first) {
            let ([own_mean, own_deviation], [mean, deviation]) = (mean_and_deviation(map), mean_and_deviation(target));
            l_s = l_s + mse(own_mean, mean.detach()) + mse(own_deviation, deviation.detach());
        }
        Ok(Some(Loss::new("content", mse(found.deep, t)).plus("style", self.config.style_weight, l_s)))
    }
}

impl Translate<Networks> for AdaIn {
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

    /// In the style of the pictures that are given (equations 14 and 15).
    fn translate(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<4>> {
        let [_, channels, height, width] = images.dims();
        Self::sizes(&self.config).check([channels, height, width])?;
        networks.stylized(images, request, Self::ID, |content| {
            let part = |style: &Style| {
                let map = networks.encoder.forward(style.image.clone()).deep;
                adain(content.clone(), mean_and_deviation(map)) * style.weight
            };
            let blend = request.condition.styles.iter().map(part).reduce(|sum, t| sum + t);
            Ok(blend.unwrap_or_else(|| content.clone()))
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;
    use kiln_train::params;

    use super::*;
    use crate::style::decoder::testing::stylized;
    use crate::style::vgg::Vgg;
    use crate::translation::testing::{
        assert_close, by_formula, compare_objective, fit, host, of_pair, term, with_fixture_of, with_weights_by_formula,
    };

    fn tiny() -> Config {
        let optimizer = OptimizerConfig::adam(2e-3);
        Config { encoder: EncoderConfig::random(Vgg::Vgg19, 2), optimizer, ..Config::default() }
    }

    /// tests/reference/translation.py: both losses and the picture, with the weights by formula of the paths here.
    #[test]
    fn losses_and_pictures_are_the_authors() {
        let device = Device::flex().autodiff();
        let mut system = AdaIn::new(tiny(), &Pictures::new([3, 32, 32], Vec::new())).unwrap();
        let networks = with_weights_by_formula(system.networks(&mut Init::new(&device, 0)));
        let networks = params::set_trainable(networks, &["decoder"]);
        let [content, style] = ["a", "b"].map(|name| by_formula::<4>(name, [1, 3, 32, 32], &device));
        let [content, style] = [content, style].map(|image| networks.encoder.forward(image).deep);
        let picture = networks.decoder.forward(adain(content, mean_and_deviation(style)));
        with_fixture_of("translation", |file| {
            assert_close("picture", to_values(picture), host(file, "adain.picture").values, 1e-4);
        });
        let loss = system.loss(&networks, &of_pair(&device)).unwrap().unwrap();
        compare_objective("adain", &networks, loss, &["content", "style"], 2e-4);
    }

    /// To an encoder of random numbers few means and deviations are those of a picture, so the decoder is asked for the content alone.
    #[test]
    fn fits_one_batch() {
        let (log, _) = fit::<AdaIn>(Config { style_weight: 0.0, ..tiny() }, 150, 2, 16);
        let (first, last) = (term(&log[0], "content"), term(&log[149], "content"));
        assert!(last < 0.6 * first, "content {first} -> {last}");
    }

    #[test]
    fn strength_and_blends_lie_between_their_ends() {
        let values = |strength, styles: &[_]| stylized::<AdaIn>(tiny(), strength, styles).unwrap();
        assert!(stylized::<AdaIn>(tiny(), 1.0, &[]).unwrap_err().to_string().contains("--style"));
        assert_eq!(values(0.0, &[(1, 1.0)]), values(0.0, &[(2, 1.0)]));
        assert_ne!(values(1.0, &[(1, 1.0)]), values(1.0, &[(2, 1.0)]));
        assert_ne!(values(1.0, &[(1, 0.5), (2, 0.5)]), values(1.0, &[(1, 1.0)]));
    }
}
