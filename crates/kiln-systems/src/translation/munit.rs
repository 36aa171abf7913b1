//! Huang, Liu, Belongie & Kautz, *Multimodal Unsupervised Image-to-Image Translation*, 2018.
//!
//! A picture of domain i is a content c, which the domains share, and a style s_i: x_i = G_i(c, s_i), c = E^c_i(x_i), s_i = E^s_i(x_i). A translation
//! is the content of the one with a style of the other. Objective (equations 1 to 5), both domains' terms added:
//!
//! * L_recon^x: E ‖G_1(E^c_1(x_1), E^s_1(x_1)) − x_1‖₁;
//! * L_recon^c: E ‖E^c_2(G_2(c_1, s_2)) − c_1‖₁, and L_recon^s: E ‖E^s_2(G_2(c_1, s_2)) − s_2‖₁, with s_2 ~ N(0, 1);
//! * L_GAN on G_2(c_1, s_2), least squares, patches of several sizes;
//! * min max L_GAN + λ_x L_recon^x + λ_c L_recon^c + λ_s L_recon^s; `cycle_weight` adds the style-augmented cycle (§5.1).
//!
//! | paper | here |
//! |---|---|
//! | domains 1 and 2 | the first and the second data set, `a` and `b` |
//! | E^c, E^s, G (appendix B.1) | an [`Autoencoder`]'s `content`, `style`, `decoder` with its `mlp` |
//! | D (appendix B.1) | `d_a`, `d_b`, a [`StridedDiscriminator`] each |
//! | λ_x = 10, λ_c = 1, λ_s = 1 (§5.1) | `reconstruction_weight`, `content_weight`, `style_weight` |
//! | \|s\| = 8 (appendix B.1) | `style_size` |
//! | Adam, 10⁻⁴, β 0.5 and 0.999, weight decay 10⁻⁴, batches of 1, halved every 100,000 steps (appendix B.1) | `optimizer`, `train.batch` |
//!
//! `kiln train munit --data starter:noto,starter:twemoji`, then `kiln translate RUN picture.png out.png -n 8` for styles of N(0, 1), or with
//! `--style picture` for that of a picture.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::{Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::loss::l1;
use kiln_train::{
    Abilities, Batch, DataConfig, Input, Loss, OptimizerConfig, Phase, Pictures, Request, Schedule, SizeRule, System,
    TrainConfig, Translate,
};
use serde::{Deserialize, Serialize};

use super::networks::Made;
use super::networks::codes::{
    ContentEncoder, Decoder, STYLE_HALVINGS, StridedConfig, StridedDiscriminator, StyleEncoder, StyleMlp,
};
use super::two_way::{self, DIRECTIONS, check_weights, fooling, real, telling_apart};
use crate::adversarial::objective::Objective;
use crate::adversarial::players::check_positive;
use crate::one_pass::NoSettings;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Channels of the encoders' first layer. The paper has 64.
    pub generator_channels: usize,
    /// How often the content encoder halves the picture. The paper has 2.
    pub halvings: usize,
    /// Residual blocks of the content encoder, and of the decoder. The paper has 4.
    pub blocks: usize,
    /// Numbers of a style.
    pub style_size: usize,
    /// Units of the network that turns a style into the decoder's means and deviations.
    pub hidden: usize,
    /// The discriminators.
    #[serde(flatten)]
    pub discriminators: StridedConfig,
    /// The adversarial loss.
    pub objective: Objective,
    /// λ_x.
    pub reconstruction_weight: f64,
    /// λ_c.
    pub content_weight: f64,
    /// λ_s.
    pub style_weight: f64,
    /// Weight of the style-augmented cycle: back to the picture from its translation's content and its own style.
    pub cycle_weight: f64,
    /// The optimiser of all networks.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            generator_channels: 32,
            halvings: 2,
            blocks: 4,
            style_size: 8,
            hidden: 256,
            discriminators: StridedConfig::default(),
            objective: Objective::LeastSquares,
            reconstruction_weight: 10.0,
            content_weight: 1.0,
            style_weight: 1.0,
            cycle_weight: 0.0,
            optimizer: optimizer(),
        }
    }
}

/// Adam as the paper has it. Its rate is halved every 100,000 steps; a run here falls to 0 in its second half.
pub fn optimizer() -> OptimizerConfig {
    OptimizerConfig { weight_decay: 1e-4, ..OptimizerConfig::adam(1e-4) }
        .betas(0.5, 0.999)
        .schedule(Schedule::LinearSecondHalf)
}

/// Content, style and back, of one domain.
#[derive(Module, Debug)]
pub struct Autoencoder {
    /// E^c.
    pub content: ContentEncoder,
    /// E^s.
    pub style: StyleEncoder,
    /// From a style to the decoder's means and deviations.
    pub mlp: StyleMlp,
    /// The rest of G.
    pub decoder: Decoder,
}

impl Autoencoder {
    fn new(channels: usize, c: &Config, init: &mut Init) -> Self {
        let (k, halvings, blocks) = (c.generator_channels, c.halvings, c.blocks);
        Self {
            content: ContentEncoder::new(channels, k, halvings, blocks, init),
            style: StyleEncoder::new(channels, k, c.style_size, init),
            mlp: StyleMlp::new(c.style_size, c.hidden, Decoder::styles(k, halvings, blocks), init),
            decoder: Decoder::new(channels, k, halvings, blocks, init),
        }
    }

    /// Content and style.
    pub fn encode(&self, x: Tensor<4>) -> (Tensor<4>, Tensor<2>) {
        (self.content.forward(x.clone()), self.style.forward(x))
    }

    /// G(c, s).
    pub fn decode(&self, content: Tensor<4>, style: Tensor<2>) -> Tensor<4> {
        self.decoder.forward(content, Some(&self.mlp.forward(style)))
    }
}

/// All networks: two autoencoders, which decode into their domain, and two discriminators.
pub type Networks = two_way::Networks<Autoencoder, StridedDiscriminator>;

/// The system. `g_ab` is the autoencoder of b, whose decoder makes pictures of b, and `g_ba` that of a.
pub struct Munit {
    config: Config,
    shape: [usize; 3],
    /// Made in the generators' phase of this step and not yet judged: of a and of b.
    fakes: Made<[Tensor<4>; 2]>,
}

impl System for Munit {
    const ID: &'static str = "munit";
    const PAPER: &'static str =
        "Huang, Liu, Belongie & Kautz: Multimodal Unsupervised Image-to-Image Translation, 2018";
    const DATA: DataKind = DataKind::TwoDomains;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        two_way::defaults(1)
    }

    fn sizes(config: &Config) -> SizeRule {
        config.discriminators.sizes(ContentEncoder::sizes(config.halvings, Self::ID), 2 << STYLE_HALVINGS)
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        check_positive(&[
            ("generator_channels", config.generator_channels),
            ("halvings", config.halvings),
            ("style_size", config.style_size),
            ("hidden", config.hidden),
        ])?;
        config.discriminators.check()?;
        check_weights(&[
            ("reconstruction_weight", config.reconstruction_weight),
            ("content_weight", config.content_weight),
            ("style_weight", config.style_weight),
            ("cycle_weight", config.cycle_weight),
        ])?;
        refuse_if!(config.halvings > 6, "model.halvings = {}: at most 6", config.halvings);
        config.objective.check_penalty(false, &config.optimizer)?;
        Self::sizes(&config).check(pictures.shape)?;
        Ok(Self { config, shape: pictures.shape, fakes: Made::default() })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, channels) = (&self.config, self.shape[0]);
        let discriminator = |init: &mut Init| c.discriminators.init(channels, 0.2, init);
        Networks {
            g_ab: Autoencoder::new(channels, c, init),
            g_ba: Autoencoder::new(channels, c, init),
            d_a: discriminator(init),
            d_b: discriminator(init),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let optimizer = || self.config.optimizer.clone();
        vec![
            Phase::new("generators", &["g_ab", "g_ba"], optimizer(), Self::generators),
            Phase::new("discriminators", &["d_a", "d_b"], optimizer(), Self::discriminators),
        ]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { translate: Some(self), ..Abilities::default() }
    }

    fn restore(&mut self, _state: kiln_train::State) {
        self.fakes.clear();
    }
}

/// What a step makes of a picture of each domain.
struct Step {
    contents: [Tensor<4>; 2],
    own_styles: [Tensor<2>; 2],
    /// Translations: into a, and into b.
    fakes: [Tensor<4>; 2],
}

impl Munit {
    /// Styles of N(0, 1), for pictures of a and of b.
    fn styles(&self, batch: &Batch) -> [Tensor<2>; 2] {
        ["style a", "style b"].map(|purpose| batch.normal(purpose, [batch.len(), self.config.style_size]))
    }

    fn step(networks: &Networks, [a, b]: &[Tensor<4>; 2], styles: &[Tensor<2>; 2]) -> Step {
        let (content_a, own_a) = networks.g_ba.encode(a.clone());
        let (content_b, own_b) = networks.g_ab.encode(b.clone());
        let fakes = [
            networks.g_ba.decode(content_b.clone(), styles[0].clone()),
            networks.g_ab.decode(content_a.clone(), styles[1].clone()),
        ];
        Step { contents: [content_a, content_b], own_styles: [own_a, own_b], fakes }
    }

    fn generators(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (loss, fakes) = self.objective(networks, real(batch, Self::ID)?, self.styles(batch));
        self.fakes.put(batch, fakes.map(Tensor::detach));
        Ok(Some(loss))
    }

    /// L_GAN + λ_x L_recon^x + λ_c L_recon^c + λ_s L_recon^s, and the cycle; beside it the translations, into a and into b.
    fn objective(&self, networks: &Networks, real: [Tensor<4>; 2], styles: [Tensor<2>; 2]) -> (Loss, [Tensor<4>; 2]) {
        let c = &self.config;
        let Step { contents, own_styles, fakes } = Self::step(networks, &real, &styles);
        let ([a, b], [content_a, content_b], [own_a, own_b]) = (real, contents, own_styles);
        let Networks { g_ab, g_ba, d_a, d_b } = networks;
        let [fake_a, fake_b] = &fakes;
        let judged = |d: &StridedDiscriminator, fake: &Tensor<4>| fooling(c.objective, d.patches(fake.clone()));
        let mut loss = Loss::new("adversarial", judged(d_a, fake_a) + judged(d_b, fake_b));
        let own = l1(g_ba.decode(content_a.clone(), own_a.clone()), a.clone())
            + l1(g_ab.decode(content_b.clone(), own_b.clone()), b.clone());
        loss = loss.plus("reconstruction", c.reconstruction_weight, own);
        let (found_b, style_a) = g_ba.encode(fake_a.clone());
        let (found_a, style_b) = g_ab.encode(fake_b.clone());
        let [given_a, given_b] = styles;
        loss = loss.plus("style", c.style_weight, l1(style_a, given_a) + l1(style_b, given_b));
        loss = loss.plus("content", c.content_weight, l1(found_a.clone(), content_a) + l1(found_b.clone(), content_b));
        if c.cycle_weight > 0.0 {
            let again = l1(g_ba.decode(found_a, own_a), a) + l1(g_ab.decode(found_b, own_b), b);
            loss = loss.plus("cycle", c.cycle_weight, again);
        }
        (loss, fakes)
    }

    /// Both discriminators' losses.
    fn discriminators(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (real, c) = (real(batch, Self::ID)?, &self.config);
        let made = self.fakes.take(batch);
        let [fake_a, fake_b] =
            made.unwrap_or_else(|| Self::step(networks, &real, &self.styles(batch)).fakes.map(Tensor::detach));
        let [a, b] = real;
        let judge = |d: &StridedDiscriminator, real: Tensor<4>, fake: Tensor<4>| {
            telling_apart(c.objective, d.patches(real), d.patches(fake))
        };
        let loss = Loss::new("d_a", judge(&networks.d_a, a, fake_a));
        Ok(Some(loss.plus("d_b", 1.0, judge(&networks.d_b, b, fake_b))))
    }
}

impl Translate<Networks> for Munit {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Styles]
    }

    fn directions(&self) -> Vec<&'static str> {
        DIRECTIONS.to_vec()
    }

    fn own_sizes(&self) -> Option<SizeRule> {
        Some(ContentEncoder::sizes(self.config.halvings, Self::ID))
    }

    /// With the style of pictures of the other domain, else with one of N(0, 1).
    fn translate(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<4>> {
        let [n, channels, height, width] = images.dims();
        refuse_if!(channels != self.shape[0], "munit was trained on {} channels, not {channels}", self.shape[0]);
        ContentEncoder::sizes(self.config.halvings, Self::ID).check([channels, height, width])?;
        request.sampler::<NoSettings>(Self::ID)?;
        let to = networks.along(request, Self::ID)?;
        let from = networks.against(request, Self::ID)?;
        let size = self.config.style_size;
        let found = request.condition.styles.iter().map(|s| to.style.forward(s.image.clone()) * s.weight);
        let style = match found.reduce(|sum, style| sum + style) {
            Some(style) => style.expand([n, size]),
            None => request.normal("style", [n, size]),
        };
        Ok(to.decode(from.content.forward(images), style))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;
    use kiln_train::request::Style;

    use super::*;
    use crate::translation::testing::{by_formula, compare_objective, fit, pairs, term, with_weights_by_formula};

    fn tiny() -> Config {
        Config {
            generator_channels: 2,
            blocks: 2,
            style_size: 3,
            hidden: 8,
            discriminators: StridedConfig { discriminator_channels: 2, ..StridedConfig::default() },
            cycle_weight: 10.0,
            ..Config::default()
        }
    }

    #[test]
    fn objective_is_the_authors() {
        let device = Device::flex().autodiff();
        let system = Munit::new(tiny(), &Pictures::new([3, 32, 32], Vec::new())).unwrap();
        let networks = with_weights_by_formula(system.networks(&mut Init::new(&device, 0)));
        let pictures = ["a", "b"].map(|name| by_formula(name, [1, 3, 32, 32], &device));
        let styles = ["style a", "style b"].map(|name| by_formula(name, [1, 3], &device));
        let (loss, _) = system.objective(&networks, pictures, styles);
        let terms = ["adversarial", "reconstruction", "style", "content", "cycle"];
        compare_objective("munit", &networks, loss, &terms, 2e-4);
    }

    #[test]
    fn fits_one_batch() {
        let config = Config { optimizer: OptimizerConfig::adam(2e-3).betas(0.5, 0.999), ..tiny() };
        let (log, system) = fit::<Munit>(config, 40, 1, 32);
        let (first, last) = (term(&log[0], "reconstruction"), term(&log[39], "reconstruction"));
        assert!(last < 0.7 * first, "reconstruction {first} -> {last}");
        assert!(system.fakes.is_empty());
    }

    #[test]
    fn styles_are_of_the_seed_or_of_pictures() {
        let device = Device::flex();
        let system = Munit::new(tiny(), &Pictures::new([3, 32, 32], Vec::new())).unwrap();
        let networks = system.networks(&mut Init::new(&device, 0));
        let images = || pairs(0, 2, 32, &device).images();
        let made = |seed: u64, styles: &[(usize, f64)]| {
            let mut request = Request::new(0..2, seed, &device).along("b2a");
            let style = |&(i, weight): &(usize, f64)| Style { image: images().narrow(0, i, 1), weight };
            request.condition.styles = styles.iter().map(style).collect();
            to_values(system.translate(&networks, images(), &request).unwrap())
        };
        assert_ne!(made(1, &[]), made(2, &[]));
        assert_eq!(made(1, &[(0, 1.0)]), made(2, &[(0, 1.0)]));
        assert_ne!(made(1, &[(0, 1.0)]), made(1, &[(0, 0.5), (1, 0.5)]));
    }
}
