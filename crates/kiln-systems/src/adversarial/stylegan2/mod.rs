//! Karras, Laine, Aittala, Hellsten, Lehtinen & Aila, *Analyzing and Improving the Image Quality of StyleGAN*, 2020
//! (StyleGAN2).
//!
//! Objective: the non-saturating logistic loss with R1, every `r1_interval` steps, and path length regularisation, every
//! `path_length_interval` steps:
//!
//! - D minimises E softplus(−D(x)) + E softplus(D(g(w))) + γ/2 · E ‖∇D(x)‖²
//! - G minimises E softplus(−D(g(w))) + λ · E (‖J_wᵀ y‖ − a)², where y ~ N(0, I) are pictures and a is the running mean of
//!   the lengths (equation 4)
//!
//! | paper | here |
//! |---|---|
//! | f, the mapping network; w | [`Mapping`], `latent_size`, `mapping_layers` |
//! | its learning rate, a hundredth of the others' (Karras 2019) | `mapping_lr_multiplier` |
//! | (de)modulation (equations 1 and 3) | [`kiln_nn::modulated`], `modulation` |
//! | noise B, outside the style | [`NoiseInput`](super::style::noise::NoiseInput) |
//! | skip generator (figure 7b) | [`Synthesis`] |
//! | residual discriminator (figure 7c), minibatch deviation | [`Discriminator`], `minibatch_std_group` |
//! | resampling by the filter [1, 3, 3, 1] | [`kiln_nn::fir`] |
//! | lazy regularisation (section 3.1): the loss times its interval k, Adam's rate times c = k/(k + 1) and its β to the power c | [`lazy`] |
//! | R1, γ | `r1_gamma`, `r1_interval` |
//! | path length, its weight and the decay of a | `path_length_weight`, `path_length_interval`, `path_length_decay`; of a part of the batch, `path_length_shrink` |
//! | style mixing, of 90 % | `style_mixing` |
//! | truncation (Karras 2019): w̄ + ψ(w − w̄) | `--truncation-psi`, [`Mapping::truncate`](super::style::Mapping::truncate) |
//! | equalised learning rates, Adam 0.002, β = (0, 0.99) | [`equalised`](super::equalised), `generator_optimizer`, `discriminator_optimizer` |
//! | average of G's weights | `train.ema_half_life` |
//! | projection of a picture (appendix D) | [`projection`] |
//!
//! Channels of the maps of size 4·2ˡ are `channel_base` / (4·2ˡ), at most `channel_max`: 32768 and 512 in configuration F of
//! the paper. Pictures need not be square: what G begins with has their proportions.
//!
//! `kiln train stylegan2 --data fashion`, then `kiln sample RUN -n 64 --truncation-psi 0.7`, `kiln interpolate RUN`,
//! `kiln edit RUN --mix coarse`, `kiln reconstruct RUN picture.png out.png`.

pub mod discriminator;
pub mod generator;
pub mod import;
pub mod rosinality;

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_data::DataKind;
use kiln_nn::dual::{Differentiable, Of, Signal};
use kiln_nn::modulated::Modulate;
use kiln_nn::penalty::{MeanLength, path_length, r1};
use kiln_nn::{Augmentation, Init};
use kiln_train::request::check_pictures;
use kiln_train::{
    Abilities, Batch, DataConfig, Decode, Distance, Generate, HostTensor, Input, Loss, Mix, OptimizerConfig, Phase,
    Pictures, Project, Projection, Request, SizeRule, State, StyleGroup, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::dcgan::Sizes;
use super::equalised::Widths;
use super::objective::Objective;
use super::players::check_positive;
use super::style::latents::{self, SPACES, Styled};
use super::style::noise::Noise;
use super::style::{Gain, Mapping, projection};
pub use discriminator::Discriminator;
pub use generator::{Generator, Synthesis};

/// Where a modulated convolution is modulated; the pictures are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Modulation {
    /// The maps before and after one convolution of the batch.
    Maps,
    /// The weights, a set for each sample.
    Weights,
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Numbers of z and of w. The paper has 512.
    pub latent_size: usize,
    /// Layers of the mapping network.
    pub mapping_layers: usize,
    /// Its learning rate in parts of the others'.
    pub mapping_lr_multiplier: f64,
    /// Channels of the maps of size s are this over s.
    pub channel_base: usize,
    /// At most so many channels.
    pub channel_max: usize,
    /// `maps` or `weights`: what styles scale. The results are the same.
    pub modulation: Modulation,
    /// The part of samples with styles of two latents.
    pub style_mixing: f64,
    /// Samples over which D's last layer sees the deviation.
    pub minibatch_std_group: usize,
    /// Weight γ of R1; 0 is without.
    pub r1_gamma: f64,
    /// Steps between two updates by R1.
    pub r1_interval: u64,
    /// Weight of path length regularisation; 0 is without.
    pub path_length_weight: f64,
    /// Steps between two updates by it.
    pub path_length_interval: u64,
    /// It takes a batch of 1 over this.
    pub path_length_shrink: usize,
    /// The weight of a new batch in the running mean of lengths.
    pub path_length_decay: f64,
    /// Of so many sizes, the smallest first, and of the mapping network G keeps its weights: fine-tuning of the fine layers
    /// alone. 0 trains all.
    pub frozen_sizes: usize,
    /// G's optimiser, before the correction for lazy regularisation.
    pub generator_optimizer: OptimizerConfig,
    /// D's optimiser, likewise.
    pub discriminator_optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        let adam = OptimizerConfig::adam(2e-3).betas(0.0, 0.99);
        Self {
            latent_size: 128,
            mapping_layers: 8,
            mapping_lr_multiplier: 0.01,
            channel_base: 512,
            channel_max: 128,
            modulation: Modulation::Maps,
            style_mixing: 0.9,
            minibatch_std_group: 4,
            r1_gamma: 10.0,
            r1_interval: 16,
            path_length_weight: 2.0,
            path_length_interval: 4,
            path_length_shrink: 2,
            path_length_decay: 0.01,
            frozen_sizes: 0,
            generator_optimizer: adam.clone(),
            discriminator_optimizer: adam,
        }
    }
}

/// Both networks.
#[derive(Module, Debug)]
pub struct Networks {
    /// G.
    pub generator: Generator,
    /// D.
    pub discriminator: Discriminator,
}

impl Styled for Generator {
    fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    fn layers(&self) -> usize {
        self.synthesis.layers()
    }

    fn constant_noise(&self) -> Noise {
        self.synthesis.constant_noise()
    }

    fn drawn_noise(&self, key: Key, samples: std::ops::Range<u64>) -> Noise {
        self.synthesis.drawn_noise(key, samples)
    }

    fn synthesise(&self, w: Tensor<3>, noise: &Noise) -> Tensor<4> {
        self.synthesis.forward(w, noise)
    }
}

/// D as a function of pictures before they are augmented.
pub struct Critic<'a>(pub &'a Discriminator, pub Augmentation);

impl Differentiable<4, 2> for Critic<'_> {
    fn apply<X: Signal<4>>(&self, images: X) -> Of<X, 4, 2> {
        self.0.forward(self.1.apply(images))
    }
}

/// g as a function of w alone.
pub struct Painter<'a>(pub &'a Synthesis, pub &'a Noise);

impl Differentiable<3, 4> for Painter<'_> {
    fn apply<X: Signal<3>>(&self, w: X) -> Of<X, 3, 4> {
        self.0.forward(w, self.1)
    }
}

/// An optimiser that also serves a loss of every `interval`-th step (appendix B): with c = k/(k + 1) its rate times c and
/// its betas to the power c, so that k + 1 updates do what k did.
pub fn lazy(adam: &OptimizerConfig, interval: u64) -> OptimizerConfig {
    let c = interval as f64 / (interval + 1) as f64;
    let power = |beta: f64| if beta == 0.0 { 0.0 } else { beta.powf(c) };
    OptimizerConfig {
        learning_rate: adam.learning_rate * c,
        beta1: power(adam.beta1),
        beta2: power(adam.beta2),
        ..adam.clone()
    }
}

/// Paths of the layers of a size.
const BLOCKS: [&str; 13] = [
    "generator.synthesis.blocks.0",
    "generator.synthesis.blocks.1",
    "generator.synthesis.blocks.2",
    "generator.synthesis.blocks.3",
    "generator.synthesis.blocks.4",
    "generator.synthesis.blocks.5",
    "generator.synthesis.blocks.6",
    "generator.synthesis.blocks.7",
    "generator.synthesis.blocks.8",
    "generator.synthesis.blocks.9",
    "generator.synthesis.blocks.10",
    "generator.synthesis.blocks.11",
    "generator.synthesis.blocks.12",
];

/// The system.
pub struct StyleGan2 {
    config: Config,
    shape: [usize; 3],
    sizes: Sizes,
    /// a, and how fast it follows.
    lengths: MeanLength,
}

impl System for StyleGan2 {
    const ID: &'static str = "stylegan2";
    const PAPER: &'static str = "Karras, Laine, Aittala, Hellsten, Lehtinen & Aila: Analyzing and Improving the Image Quality \
                                 of StyleGAN, 2020";
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
            ("path_length_shrink", config.path_length_shrink),
            ("r1_interval", config.r1_interval as usize),
            ("path_length_interval", config.path_length_interval as usize),
        ])?;
        let sizes = Sizes::of(pictures.shape)?;
        if config.frozen_sizes > sizes.doublings {
            return Err(Error::usage(format!(
                "model.frozen_sizes = {}: G has {} sizes, and one at least must learn",
                config.frozen_sizes,
                sizes.doublings + 1
            )));
        }
        let lengths = MeanLength { mean: 0.0, rate: config.path_length_decay };
        Ok(Self { config, shape: pictures.shape, sizes, lengths })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, channels) = (&self.config, self.shape[0]);
        let widths = Widths { base: c.channel_base, max: c.channel_max };
        let side = match c.modulation {
            Modulation::Maps => Modulate::Maps,
            Modulation::Weights => Modulate::Weights,
        };
        let mapping = Mapping::new(c.latent_size, c.mapping_layers, c.mapping_lr_multiplier, Gain::Activation, init);
        Networks {
            generator: Generator {
                mapping,
                synthesis: Synthesis::new(c.latent_size, widths, channels, self.sizes, side, init),
            },
            discriminator: Discriminator::new(channels, widths, self.sizes, c.minibatch_std_group, init),
        }
    }

    fn augments(_config: &Config) -> bool {
        true
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let c = &self.config;
        let (regularises_d, regularises_g) = (c.r1_gamma > 0.0, c.path_length_weight > 0.0);
        let adam = |own: &OptimizerConfig, regularises: bool, interval: u64| {
            if regularises { lazy(own, interval) } else { own.clone() }
        };
        let d = adam(&c.discriminator_optimizer, regularises_d, c.r1_interval);
        let g = adam(&c.generator_optimizer, regularises_g, c.path_length_interval);
        let painters: Vec<&'static str> = match c.frozen_sizes {
            0 => vec!["generator"],
            frozen => BLOCKS.iter().take(self.sizes.doublings + 1).skip(frozen).copied().collect(),
        };
        let mut phases = vec![Phase::new("discriminator", &["discriminator"], d.clone(), Self::discriminator_loss)];
        if regularises_d {
            let r1 = Phase::new("r1", &["discriminator"], d, Self::r1_loss);
            phases.push(r1.every(c.r1_interval).shares("discriminator"));
        }
        phases.push(Phase::new("generator", &painters, g.clone(), Self::generator_loss));
        if regularises_g {
            let path = Phase::new("path_length", &painters, g, Self::path_length_loss);
            phases.push(path.every(c.path_length_interval).shares("generator"));
        }
        phases
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
        // A number of single precision, see `path_length_loss`.
        let mean = HostTensor { shape: vec![1], values: vec![self.lengths.mean as f32] };
        State::from([(PATH_LENGTH.to_string(), mean)])
    }

    fn restore(&mut self, state: State) {
        if let Some(&mean) = state.get(PATH_LENGTH).and_then(|mean| mean.values.first()) {
            self.lengths.mean = f64::from(mean);
        }
    }
}

/// The running mean of path lengths in a checkpoint.
const PATH_LENGTH: &str = "path_length";

impl StyleGan2 {
    /// Styles for a phase, `[n, layers, size]`, each phase with its own z.
    fn styles(&self, networks: &Networks, phase: &str, batch: &Batch) -> Tensor<3> {
        let (c, g) = (&self.config, &networks.generator);
        latents::mixed(&g.mapping, batch, phase, c.latent_size, g.layers(), c.style_mixing)
    }

    /// Noise for a phase.
    fn noise(&self, networks: &Networks, phase: &str, batch: &Batch) -> Noise {
        networks.generator.drawn_noise(batch.key(&format!("{phase}, noise")), batch.samples())
    }

    /// g(w).
    fn fake(&self, networks: &Networks, phase: &str, batch: &Batch) -> Tensor<4> {
        let w = self.styles(networks, phase, batch);
        networks.generator.synthesis.forward(w, &self.noise(networks, phase, batch))
    }

    /// D's loss: softplus(−D(x)) + softplus(D(g(w))).
    fn discriminator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let fake = self.fake(networks, "discriminator", batch).detach();
        let fake = batch.augmentation("augment fake").apply(fake);
        let real = batch.augmentation("augment real").apply(batch.images());
        let d = &networks.discriminator;
        let (real, fake) = (d.logits(real), d.logits(fake));
        Ok(Some(Objective::NonSaturating.discriminator_loss(real, fake, 0.0)))
    }

    /// γ/2 · ‖∇D(x)‖², as often heavier as it is rarer.
    fn r1_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let c = &self.config;
        let critic = Critic(&networks.discriminator, batch.augmentation("augment r1"));
        let half = r1(&critic, batch.images(), batch.device());
        let total = half.clone() * (c.r1_gamma * c.r1_interval as f64);
        Ok(Some(Loss { total, terms: vec![("r1", half.detach() * 2.0)] }))
    }

    /// G's loss: softplus(−D(g(w))).
    fn generator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let fake = batch.augmentation("augment generator").apply(self.fake(networks, "generator", batch));
        let fake = networks.discriminator.logits(fake);
        Ok(Some(Loss::new("generator", Objective::NonSaturating.generator(fake))))
    }

    /// λ · (‖J_wᵀ y‖ − a)², as often heavier as it is rarer.
    fn path_length_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let c = &self.config;
        let n = (batch.len() / c.path_length_shrink).max(1);
        let w = self.styles(networks, "path length", batch).narrow(0, 0, n);
        let mut noise = self.noise(networks, "path length", batch);
        noise.iter_mut().for_each(|layer| *layer = layer.clone().narrow(0, 0, n));
        let [channels, h, width] = self.shape;
        let y = batch.normal("path length, y", [batch.len(), channels, h, width]).narrow(0, 0, n);
        let painter = Painter(&networks.generator.synthesis, &noise);
        let penalty = path_length(&painter, w, y, &mut self.lengths, batch.device());
        // What a checkpoint holds, so that a resumed run goes on with the same number.
        self.lengths.mean = f64::from(self.lengths.mean as f32);
        let mean = Tensor::<1>::full([1], self.lengths.mean, batch.device());
        let total = penalty.clone() * (c.path_length_weight * c.path_length_interval as f64);
        Ok(Some(Loss { total, terms: vec![("path_penalty", penalty.detach()), ("path_length", mean)] }))
    }
}

impl Generate<Networks> for StyleGan2 {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Noise]
    }

    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        latents::generate(&networks.generator, request, self.config.latent_size, Self::ID)
    }
}

impl Decode<Networks> for StyleGan2 {
    fn spaces(&self) -> Vec<&'static str> {
        SPACES.to_vec()
    }

    fn latents(&self, networks: &Networks, request: &Request) -> Result<Tensor<2>> {
        latents::latents(&networks.generator, request, self.config.latent_size, Self::ID)
    }

    fn decode(&self, networks: &Networks, latents: Tensor<2>) -> Result<Tensor<4>> {
        latents::decode(&networks.generator, latents, self.config.latent_size)
    }

    fn between(&self, a: Tensor<2>, b: Tensor<2>, t: f64) -> Tensor<2> {
        latents::between(a, b, t, self.config.latent_size)
    }
}

impl Mix<Networks> for StyleGan2 {
    fn styles(&self) -> Vec<StyleGroup> {
        latents::groups(2 * (self.sizes.doublings + 1), self.config.latent_size)
    }
}

impl Project<Networks> for StyleGan2 {
    fn project(
        &self,
        networks: &Networks,
        images: Tensor<4>,
        distance: &Distance<'_>,
        request: &Request,
    ) -> Result<Projection> {
        check_pictures(&images, self.shape)?;
        projection::project(&networks.generator, images, distance, request, self.config.latent_size, Self::ID)
    }
}

#[cfg(test)]
mod tests;
