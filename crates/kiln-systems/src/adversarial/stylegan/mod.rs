//! Karras, Laine & Aila, *A Style-Based Generator Architecture for Generative Adversarial Networks*, 2019.
//!
//! Objective: the non-saturating logistic loss with R1 (Mescheder 2018):
//!
//! - D minimises E softplus(−D(x)) + E softplus(D(g(w))) + γ/2 · E ‖∇D(x)‖²
//! - G minimises E softplus(−D(g(w)))
//!
//! The networks grow as ProGAN's do ([`super::progan`]). What the paper adds, one thing after the other (table 1), is a switch,
//! `configuration`:
//!
//! | | paper | here |
//! |---|---|---|
//! | `a` | ProGAN, with its Wasserstein loss | [`Synthesis`], [`wasserstein`] |
//! | `b` | bilinear resampling, the loss above, from 8×8 on | [`BLUR`], `r1_gamma` |
//! | `c` | the mapping network and a style for each layer: AdaIN(x, y) = y_s (x − μ(x))/σ(x) + y_b (equation 1) | [`Mapping`], [`adain`](kiln_nn::norm::adain) |
//! | `d` | no latent at the first layer, but a learned constant | [`Parts::constant`] |
//! | `e` | noise inputs | [`NoiseInput`](super::style::noise::NoiseInput) |
//! | `f` | mixing regularisation: styles of two latents for 90 % of samples | `style_mixing` |
//!
//! | paper | here |
//! |---|---|
//! | z, w, f with 8 layers that learn a hundredth as fast | `latent_size`, `mapping_layers`, `mapping_lr_multiplier` |
//! | truncation in W (section B): w̄ + ψ(w − w̄) | `--truncation-psi` |
//! | Adam 0.001, β = (0, 0.99), γ = 10; average of G's weights | `generator_optimizer`, `discriminator_optimizer`, `r1_gamma`; `train.ema_half_life` |
//!
//! R1 is of every step, as in the paper. One kind of resampling stands for the two of the paper's code, which differ at the edges
//! of the pictures: convolution and filter in one, as in StyleGAN2.
//!
//! `kiln train stylegan --data fashion`, then `kiln sample RUN -n 64 --truncation-psi 0.7`, `kiln edit RUN --mix coarse`.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::Result;
use kiln_core::random::Key;
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::penalty::r1;
use kiln_train::request::check_pictures;
use kiln_train::{
    Abilities, Batch, DataConfig, Decode, Distance, Generate, Input, Loss, Mix, OptimizerConfig, Phase, Pictures,
    Project, Projection, Request, SizeRule, State, StyleGroup, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::dcgan::Sizes;
use super::equalised::Widths;
use super::growing::discriminator::Critic;
use super::growing::synthesis::layers_at;
use super::growing::{Discriminator, Growth, Level, Parts, Synthesis, enlarge, seen};
use super::objective::Objective;
use super::players::check_positive;
use super::progan::{BOX, reported, wasserstein};
use super::style::latents::{self, SPACES, Styled};
use super::style::noise::Noise;
use super::style::{BLUR, Gain, Mapping, projection};

/// How far the paper's table 1 is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Configuration {
    /// ProGAN.
    A,
    /// Tuned.
    B,
    /// Mapping and styles.
    C,
    /// No traditional input.
    D,
    /// Noise inputs.
    E,
    /// Mixing regularisation.
    F,
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// `a` to `f`: the rows of table 1.
    pub configuration: Configuration,
    /// Numbers of z and of w. The paper has 512.
    pub latent_size: usize,
    /// Layers of the mapping network, from `c` on.
    pub mapping_layers: usize,
    /// Its learning rate in parts of the others'.
    pub mapping_lr_multiplier: f64,
    /// Channels of the maps of size s are this over s.
    pub channel_base: usize,
    /// At most so many channels.
    pub channel_max: usize,
    /// The part of `train.images` over which the networks grow; 0 trains all layers from the start.
    pub growth: f64,
    /// The part of samples with styles of two latents, in `f`.
    pub style_mixing: f64,
    /// Samples over which D's last layer sees the deviation.
    pub minibatch_std_group: usize,
    /// Weight γ of R1, from `b` on.
    pub r1_gamma: f64,
    /// Weight λ of the gradient penalty, in `a`.
    pub gradient_penalty: f64,
    /// Weight ε_drift of D's squared outputs on real pictures, in `a`.
    pub drift: f64,
    /// G's optimiser.
    pub generator_optimizer: OptimizerConfig,
    /// D's optimiser.
    pub discriminator_optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        let adam = OptimizerConfig::adam(1e-3).betas(0.0, 0.99);
        Self {
            configuration: Configuration::F,
            latent_size: 128,
            mapping_layers: 8,
            mapping_lr_multiplier: 0.01,
            channel_base: 512,
            channel_max: 128,
            growth: 0.8,
            style_mixing: 0.9,
            minibatch_std_group: 4,
            r1_gamma: 10.0,
            gradient_penalty: 10.0,
            drift: 1e-3,
            generator_optimizer: adam.clone(),
            discriminator_optimizer: adam,
        }
    }
}

impl Config {
    /// Whether a row of table 1 is in.
    fn has(&self, row: Configuration) -> bool {
        self.configuration >= row
    }

    fn filter(&self) -> &'static [f32] {
        if self.has(Configuration::B) { &BLUR } else { &BOX }
    }

    /// Layers of the mapping network; without any, w is the normalised z.
    fn mapping_layers(&self) -> usize {
        if self.has(Configuration::C) { self.mapping_layers } else { 0 }
    }

    fn mixing(&self) -> f64 {
        if self.has(Configuration::F) { self.style_mixing } else { 0.0 }
    }

    fn parts(&self) -> Parts {
        Parts {
            latent: self.latent_size,
            filter: self.filter(),
            styles: self.has(Configuration::C),
            constant: self.has(Configuration::D),
            noise: self.has(Configuration::E),
        }
    }
}

/// G: z → w → a picture.
#[derive(Module, Debug)]
pub struct Generator {
    /// f.
    pub mapping: Mapping,
    /// g.
    pub synthesis: Synthesis,
}

/// Both networks.
#[derive(Module, Debug)]
pub struct Networks {
    /// G.
    pub generator: Generator,
    /// D.
    pub discriminator: Discriminator,
}

/// G as far as it has grown, its pictures brought to the size of the run's.
struct Grown<'a> {
    generator: &'a Generator,
    level: Level,
    last: usize,
}

impl Styled for Grown<'_> {
    fn mapping(&self) -> &Mapping {
        &self.generator.mapping
    }

    fn layers(&self) -> usize {
        self.generator.synthesis.layers()
    }

    fn constant_noise(&self) -> Noise {
        self.generator.synthesis.constant_noise()
    }

    fn drawn_noise(&self, key: Key, samples: Range<u64>) -> Noise {
        self.generator.synthesis.drawn_noise(key, samples, self.level)
    }

    fn synthesise(&self, w: Tensor<3>, noise: &Noise) -> Tensor<4> {
        enlarge(self.generator.synthesis.forward(w, noise, self.level), self.last - self.level.size)
    }
}

/// The system.
pub struct StyleGan {
    config: Config,
    shape: [usize; 3],
    sizes: Sizes,
    growth: Growth,
    /// Of the last batch.
    level: Level,
}

impl System for StyleGan {
    const ID: &'static str = "stylegan";
    const PAPER: &'static str =
        "Karras, Laine & Aila: A Style-Based Generator Architecture for Generative Adversarial Networks, 2019";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        (DataConfig::default(), TrainConfig { batch: 16, images: 300_000, ..TrainConfig::default() })
    }

    fn sizes(_config: &Config) -> SizeRule {
        Sizes::rule()
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        check_positive(&[
            ("latent_size", config.latent_size),
            ("channel_base", config.channel_base),
            ("channel_max", config.channel_max),
            ("minibatch_std_group", config.minibatch_std_group),
        ])?;
        let sizes = Sizes::of(pictures.shape)?;
        let last = sizes.doublings;
        let growth = Growth { first: usize::from(config.has(Configuration::B)).min(last), last, share: config.growth };
        Ok(Self { config, shape: pictures.shape, sizes, growth, level: growth.at(0, u64::MAX) })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, channels) = (&self.config, self.shape[0]);
        let widths = Widths { base: c.channel_base, max: c.channel_max };
        let mapping = Mapping::new(c.latent_size, c.mapping_layers(), c.mapping_lr_multiplier, Gain::Weights, init);
        Networks {
            generator: Generator { mapping, synthesis: Synthesis::new(c.parts(), widths, channels, self.sizes, init) },
            discriminator: Discriminator::new(channels, widths, self.sizes, c.filter(), c.minibatch_std_group, init),
        }
    }

    fn augments(_config: &Config) -> bool {
        true
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let c = &self.config;
        vec![
            Phase::new(
                "discriminator",
                &["discriminator"],
                c.discriminator_optimizer.clone(),
                Self::discriminator_loss,
            ),
            Phase::new("generator", &["generator"], c.generator_optimizer.clone(), Self::generator_loss),
        ]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities {
            generate: Some(self),
            decode: Some(self),
            mix: Some(self),
            project: Some(self),
            ..Abilities::default()
        }
    }

    fn state(&self) -> State {
        self.level.state()
    }

    fn restore(&mut self, state: State) {
        if let Some(level) = Level::restored(&state) {
            self.level = Level { size: level.size.min(self.growth.last), ..level };
        }
    }
}

impl StyleGan {
    /// g(w) of a level's size, each phase with its own z and noise.
    fn fake(&self, networks: &Networks, phase: &str, batch: &Batch, level: Level) -> Tensor<4> {
        let (c, g) = (&self.config, &networks.generator);
        let w = latents::mixed(&g.mapping, batch, phase, c.latent_size, layers_at(level), c.mixing());
        let noise = g.synthesis.drawn_noise(batch.key(&format!("{phase}, noise")), batch.samples(), level);
        g.synthesis.forward(w, &noise, level)
    }

    /// D's loss: softplus(−D(x)) + softplus(D(g(w))) + γ/2 · ‖∇D(x)‖²; ProGAN's in `a`.
    fn discriminator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let level = self.growth.at(batch.start, batch.budget);
        self.level = level;
        let (c, d) = (&self.config, &networks.discriminator);
        let real = seen(batch.images(), level, self.growth.last);
        let fake = self.fake(networks, "discriminator", batch, level).detach();
        let loss = if c.has(Configuration::B) {
            let augmentation = batch.augmentation("augment real");
            let on_real = d.scores(augmentation.apply(real.clone()), level);
            let on_fake = d.scores(batch.augmentation("augment fake").apply(fake), level);
            let penalty = r1(&Critic { discriminator: d, level, augmentation }, real, batch.device());
            Objective::NonSaturating.discriminator_loss(on_real, on_fake, 0.0).plus(
                "r1",
                c.r1_gamma / 2.0,
                penalty * 2.0,
            )
        } else {
            wasserstein(d, [real, fake], level, [c.gradient_penalty, c.drift], batch)
        };
        Ok(Some(reported(loss, level, batch)))
    }

    /// G's loss: softplus(−D(g(w))); −D(g(w)) in `a`.
    fn generator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let level = self.growth.at(batch.start, batch.budget);
        let fake = batch.augmentation("augment generator").apply(self.fake(networks, "generator", batch, level));
        let scores = networks.discriminator.scores(fake, level);
        let b = self.config.has(Configuration::B);
        let objective = if b { Objective::NonSaturating } else { Objective::Wasserstein };
        Ok(Some(Loss::new("generator", objective.generator(scores))))
    }

    fn grown<'a>(&self, networks: &'a Networks) -> Grown<'a> {
        Grown { generator: &networks.generator, level: self.level, last: self.growth.last }
    }
}

impl Generate<Networks> for StyleGan {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Noise]
    }

    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        latents::generate(&self.grown(networks), request, self.config.latent_size, Self::ID)
    }
}

impl Decode<Networks> for StyleGan {
    fn spaces(&self) -> Vec<&'static str> {
        SPACES.to_vec()
    }

    fn latents(&self, networks: &Networks, request: &Request) -> Result<Tensor<2>> {
        latents::latents(&self.grown(networks), request, self.config.latent_size, Self::ID)
    }

    fn decode(&self, networks: &Networks, latents: Tensor<2>) -> Result<Tensor<4>> {
        latents::decode(&self.grown(networks), latents, self.config.latent_size)
    }

    fn between(&self, a: Tensor<2>, b: Tensor<2>, t: f64) -> Tensor<2> {
        latents::between(a, b, t, self.config.latent_size)
    }
}

impl Mix<Networks> for StyleGan {
    fn styles(&self) -> Vec<StyleGroup> {
        latents::groups(2 * (self.sizes.doublings + 1), self.config.latent_size)
    }
}

impl Project<Networks> for StyleGan {
    fn project(
        &self,
        networks: &Networks,
        images: Tensor<4>,
        distance: &Distance<'_>,
        request: &Request,
    ) -> Result<Projection> {
        check_pictures(&images, self.shape)?;
        projection::project(&self.grown(networks), images, distance, request, self.config.latent_size, Self::ID)
    }
}

#[cfg(test)]
mod tests;
