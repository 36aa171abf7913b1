//! Kim, Cha, Kim, Lee & Kim, *Learning to Discover Cross-Domain Relations with Generative Adversarial Networks*, 2017.
//!
//! Objective (equations 3 to 9), of a generator and its discriminator each way:
//!
//! * L_CONST = d(G_BA(G_AB(x_A)), x_A), the mean squared error, and likewise from B;
//! * L_GAN = −E log D_B(G_AB(x_A)), and for D_B −½ E log D_B(x_B) − ½ E log(1 − D_B(G_AB(x_A)));
//! * both generators minimise the sum of both sides.
//!
//! The paper leaves open how the two are weighed, and the authors' code has more than the paper says. It is followed:
//!
//! * the adversarial part is 0.1 L_GAN + 0.9 L_FM, L_FM the squared distance of the mean features of real and generated pictures, over
//!   the discriminator's inner layers (Salimans 2016);
//! * G's loss is (1 − r) times that + r L_CONST, with r = 0.01 for the first 10,000 steps and 0.5 after them;
//! * the discriminators learn in one step of three, the generators in the two others.
//!
//! | paper | here |
//! |---|---|
//! | domains A and B | the first and the second data set |
//! | G_AB, G_BA: 4×4 convolutions down and up, without skips (§3) | `g_ab`, `g_ba`, a [`Generator`] each |
//! | D_A, D_B | `d_a`, `d_b`, [`dcgan::Discriminator`] each |
//! | Adam, rate 2·10⁻⁴, β 0.5 and 0.999, weight decay 10⁻⁴ (code: 10⁻⁵), batches of 200 (code: 64) (§3) | `optimizer`, `train.batch` |
//!
//! `kiln train discogan --data starter:noto,starter:twemoji`, then `kiln translate RUN picture.png out.png`.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::{Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::loss::mse;
use kiln_nn::{Activation, BatchNorm2d, Conv2d, Conv2dConfig, ConvTranspose2d, Init, activate};
use kiln_train::request::check_pictures;
use kiln_train::{
    Abilities, Batch, DataConfig, Loss, OptimizerConfig, Phase, Pictures, Request, SizeRule, System, TrainConfig,
    Translate,
};
use serde::{Deserialize, Serialize};

use super::two_way::{self, DIRECTIONS, real};
use crate::adversarial::dcgan::{self, LEAK, Sizes, WEIGHTS};
use crate::adversarial::objective::Objective;
use crate::adversarial::players::check_positive;
use crate::one_pass::NoSettings;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Channels of the generators' first layer, doubled each time the picture is halved. The paper has 64.
    pub generator_channels: usize,
    /// Channels of the discriminators' first layer, likewise. The paper has 64.
    pub discriminator_channels: usize,
    /// Numbers between the generators' two halves (100 in the paper's deeper network); 0 joins them as they are.
    pub bottleneck: usize,
    /// r in the first `curriculum` images.
    pub starting_rate: f64,
    /// r after them.
    pub reconstruction_rate: f64,
    /// Images for which the adversarial part leads. The authors' code has 10,000 steps of 64 pictures.
    pub curriculum: u64,
    /// The share of feature matching in the adversarial part.
    pub feature_matching: f64,
    /// Generator steps per discriminator step.
    pub generator_steps: u64,
    /// The optimiser of generators and discriminators.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            generator_channels: 64,
            discriminator_channels: 64,
            bottleneck: 0,
            starting_rate: 0.01,
            reconstruction_rate: 0.5,
            curriculum: 640_000,
            feature_matching: 0.9,
            generator_steps: 2,
            optimizer: OptimizerConfig { weight_decay: 1e-5, ..OptimizerConfig::adam(2e-4).betas(0.5, 0.999) },
        }
    }
}

/// 4×4 convolutions that halve the picture, batch norm but after the first and leaky ReLU; as many transposed ones, batch norm and ReLU
/// but after the last, tanh.
#[derive(Module, Debug)]
pub struct Generator {
    down: Vec<Conv2d>,
    down_norms: Vec<BatchNorm2d>,
    up: Vec<ConvTranspose2d>,
    up_norms: Vec<BatchNorm2d>,
}

impl Generator {
    /// Pictures of `channels` channels, `k` channels after the first layer.
    fn new(channels: usize, k: usize, bottleneck: usize, sizes: Sizes, init: &mut Init) -> Self {
        let layer = |i, o, k| Conv2dConfig { bias: false, weight: WEIGHTS, ..Conv2dConfig::new(i, o, k) };
        let halve = |i, o| Conv2dConfig { stride: 2, padding: 1, ..layer(i, o, 4) };
        let widths: Vec<usize> = [channels].into_iter().chain((0..sizes.doublings).map(|at| k << at)).collect();
        let mut layers: Vec<Conv2dConfig> = widths.windows(2).map(|w| halve(w[0], w[1])).collect();
        if bottleneck > 0 {
            let inner = Conv2dConfig { kernel: sizes.base, ..layer(widths[sizes.doublings], bottleneck, 1) };
            layers.push(inner);
        }
        let turned = |config: &Conv2dConfig| Conv2dConfig { inputs: config.outputs, outputs: config.inputs, ..*config };
        let norm = |width: usize, init: &mut Init| BatchNorm2d::dcgan(width, init);
        Self {
            down: layers.iter().map(|config| config.init(init)).collect(),
            down_norms: layers[1..].iter().map(|config| norm(config.outputs, init)).collect(),
            up: layers.iter().rev().map(|config| turned(config).init_transposed(init)).collect(),
            up_norms: layers[1..].iter().rev().map(|config| norm(config.inputs, init)).collect(),
        }
    }

    /// # Shapes
    /// `[n, c, h, w]` → the same, in (−1, 1)
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let leaky = Activation::LeakyRelu(LEAK);
        let mut x = activate(self.down[0].forward(x), leaky);
        for (layer, norm) in self.down[1..].iter().zip(&self.down_norms) {
            x = norm.forward(layer.forward(x), leaky);
        }
        for (i, layer) in self.up.iter().enumerate() {
            x = layer.forward(x);
            if let Some(norm) = self.up_norms.get(i) {
                x = norm.forward(x, Activation::Relu);
            }
        }
        x.tanh()
    }
}

/// L_FM: for each layer the mean square, over channels and pixels, of the difference between the means of real and of generated
/// pictures over the batch; the sum over layers.
///
/// # Shapes
/// layers of `[n, c, h, w]`, twice → `[1]`
pub fn feature_matching(real: &[Tensor<4>], fake: &[Tensor<4>]) -> Tensor<1> {
    let mean = |x: &Tensor<4>| x.clone().mean_dim(0);
    let terms = real.iter().zip(fake).map(|(real, fake)| mse(mean(fake), mean(real).detach()));
    // Pictures that are halved once have no inner layer.
    terms.reduce(|sum, term| sum + term).unwrap_or_else(|| Tensor::zeros([1], &Default::default()))
}

/// All four networks.
pub type Networks = two_way::Networks<Generator, dcgan::Discriminator>;

/// The system.
pub struct DiscoGan {
    config: Config,
    shape: [usize; 3],
    sizes: Sizes,
}

impl System for DiscoGan {
    const ID: &'static str = "discogan";
    const PAPER: &'static str = "Kim, Cha, Kim, Lee & Kim: Learning to Discover Cross-Domain Relations with Generative \
                                 Adversarial Networks, 2017";
    const DATA: DataKind = DataKind::TwoDomains;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        two_way::defaults(64)
    }

    fn sizes(_config: &Config) -> SizeRule {
        Sizes::rule()
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        check_positive(&[
            ("generator_channels", config.generator_channels),
            ("discriminator_channels", config.discriminator_channels),
            ("generator_steps", config.generator_steps as usize),
        ])?;
        for (name, share) in [
            ("starting_rate", config.starting_rate),
            ("reconstruction_rate", config.reconstruction_rate),
            ("feature_matching", config.feature_matching),
        ] {
            refuse_if!(!(0.0..=1.0).contains(&share), "model.{name} = {share}: from 0 to 1");
        }
        Ok(Self { sizes: Sizes::of(pictures.shape)?, shape: pictures.shape, config })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, channels) = (&self.config, self.shape[0]);
        let generator =
            |init: &mut Init| Generator::new(channels, c.generator_channels, c.bottleneck, self.sizes, init);
        let discriminator =
            |init: &mut Init| dcgan::Discriminator::new(channels, c.discriminator_channels, self.sizes, init);
        Networks { g_ab: generator(init), g_ba: generator(init), d_a: discriminator(init), d_b: discriminator(init) }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let optimizer = || self.config.optimizer.clone();
        vec![
            Phase::new("generators", &["g_ab", "g_ba"], optimizer(), Self::generators),
            Phase::new("discriminators", &["d_a", "d_b"], optimizer(), Self::discriminators)
                .every(self.config.generator_steps),
        ]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { translate: Some(self), ..Abilities::default() }
    }
}

impl DiscoGan {
    /// r after so many images.
    fn rate(&self, images: u64) -> f64 {
        let c = &self.config;
        if images < c.curriculum { c.starting_rate } else { c.reconstruction_rate }
    }

    /// (1 − r)((1 − m) L_GAN + m L_FM) + r L_CONST, of both sides.
    fn generators(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let ([a, b], c, rate) = (real(batch, Self::ID)?, &self.config, self.rate(batch.start));
        let Networks { g_ab, g_ba, d_a, d_b } = networks;
        let (fake_a, fake_b) = (g_ba.forward(b.clone()), g_ab.forward(a.clone()));
        let judged = |d: &dcgan::Discriminator, real: &Tensor<4>, fake: &Tensor<4>| {
            let [real, fake] = [real, fake].map(|x| d.maps(x.clone(), |_, x| x));
            // At least one layer: `Sizes` has at least one doubling.
            let logits = d.logits(fake[fake.len() - 1].clone());
            (Objective::NonSaturating.generator(logits), feature_matching(&real[1..], &fake[1..]))
        };
        let ((gan_a, features_a), (gan_b, features_b)) = (judged(d_a, &a, &fake_a), judged(d_b, &b, &fake_b));
        let again = mse(g_ba.forward(fake_b), a) + mse(g_ab.forward(fake_a), b);
        let loss = Loss { total: Tensor::zeros([1], &again.device()), terms: Vec::new() };
        let loss = loss
            .plus("adversarial", (1.0 - rate) * (1.0 - c.feature_matching), gan_a + gan_b)
            .plus("features", (1.0 - rate) * c.feature_matching, features_a + features_b)
            .plus("reconstruction", rate, again);
        Ok(Some(loss))
    }

    /// ½ E −log D(x) + ½ E −log(1 − D(G(y))), of both sides.
    fn discriminators(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let [a, b] = real(batch, Self::ID)?;
        let judge = |d: &dcgan::Discriminator, g: &Generator, from: &Tensor<4>, to: &Tensor<4>| {
            let fake = g.forward(from.clone()).detach();
            Objective::NonSaturating.discriminator(d.forward(to.clone()), d.forward(fake), 0.0) * 0.5
        };
        let loss = Loss::new("d_a", judge(&networks.d_a, &networks.g_ba, &b, &a));
        Ok(Some(loss.plus("d_b", 1.0, judge(&networks.d_b, &networks.g_ab, &a, &b))))
    }
}

impl Translate<Networks> for DiscoGan {
    fn directions(&self) -> Vec<&'static str> {
        DIRECTIONS.to_vec()
    }

    fn translate(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<4>> {
        check_pictures(&images, self.shape)?;
        request.sampler::<NoSettings>(Self::ID)?;
        Ok(networks.along(request, Self::ID)?.forward(images))
    }
}

#[cfg(test)]
mod tests {
    use kiln_nn::tensor::to_values;

    use super::*;
    use crate::translation::testing::{assert_close, compare_in, fit, host, named, tensor, term, with_fixture_of};

    fn tiny() -> Config {
        let optimizer = OptimizerConfig::adam(2e-3).betas(0.5, 0.999);
        Config { generator_channels: 4, discriminator_channels: 4, optimizer, curriculum: 10, ..Config::default() }
    }

    #[test]
    fn generator_and_feature_matching_equal_the_authors() {
        let names = named(&[
            ("down.0", "0"),
            ("down.1", "2"),
            ("down_norms.0", "3"),
            ("up.0", "5"),
            ("up_norms.0", "6"),
            ("up.1", "8"),
        ]);
        let sizes = Sizes::of([3, 16, 16]).unwrap();
        compare_in(
            "translation",
            "discogan_g",
            |init| Generator::new(3, 2, 0, sizes, init),
            Generator::forward,
            &names,
        );
        with_fixture_of("translation", |file| {
            let device = burn::tensor::Device::flex();
            let maps = |kind: &str| [0, 1].map(|i| tensor::<4>(file, &format!("features.{kind}.{i}"), &device));
            let value = feature_matching(&maps("real"), &maps("fake"));
            assert_close("features", to_values(value), host(file, "features.value").values, 1e-6);
        });
    }

    #[test]
    fn fits_one_batch() {
        let (log, system) = fit::<DiscoGan>(tiny(), 60, 2, 16);
        let (first, last) = (term(&log[0], "reconstruction"), term(&log[59], "reconstruction"));
        assert!(last < 0.6 * first, "reconstruction {first} -> {last}");
        assert!(log[1].iter().all(|(name, _)| name != "d_a"), "one discriminator step of two");
        assert_eq!([system.rate(9), system.rate(10)], [0.01, 0.5]);
    }

    #[test]
    fn a_bottleneck_keeps_the_picture_s_size() {
        let config = Config { bottleneck: 5, ..tiny() };
        let system = DiscoGan::new(config, &Pictures::new([3, 16, 24], Vec::new())).unwrap();
        let device = burn::tensor::Device::flex();
        let networks = system.networks(&mut Init::new(&device, 0));
        let out = networks.g_ab.forward(Tensor::zeros([1, 3, 16, 24], &device));
        assert_eq!(out.dims(), [1, 3, 16, 24]);
    }
}
