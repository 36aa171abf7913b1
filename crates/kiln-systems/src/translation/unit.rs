//! Liu, Breuel & Kautz, *Unsupervised Image-to-Image Translation Networks*, 2017.
//!
//! Two VAE-GANs whose latents are one space: a pair of corresponding pictures has one latent z. Objective (equations 3 to 7, with the
//! authors' weights), both domains' terms added:
//!
//! * VAE: z ~ N(E_1(x_1), I), E ‖G_1(z) − x_1‖₁ and E μ², the KL divergence to N(0, I) but for a half;
//! * GAN: D_2 on G_2(z_1), the translation;
//! * cycle: z′ ~ N(E_2(G_2(z_1)), I), E ‖G_1(z′) − x_1‖₁ and E μ′².
//!
//! | paper | here |
//! |---|---|
//! | domains 1 and 2 | the first and the second data set, `a` and `b` |
//! | E_1, E_2 | `encoder_a`, `encoder_b`, a [`ContentEncoder`] each, then `shared_encoder` |
//! | G_1, G_2 | `shared_decoder`, then `decoder_a`, `decoder_b`, a [`Decoder`] each |
//! | weight sharing, one layer (§4, table 1b) | `shared_blocks` |
//! | D_1, D_2 | `d_a`, `d_b`, a [`StridedDiscriminator`] each |
//! | λ_1 … λ_4 | `reconstruction_weight`, `kl_weight`, `cycle_weight`, `cycle_kl_weight`, of means over pixels |
//! | Adam, 10⁻⁴, β 0.5 and 0.999, batches of 1 (§4) | `optimizer`, `train.batch` |
//!
//! `kiln train unit --data starter:noto,starter:twemoji`, then `kiln translate RUN picture.png out.png`.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::{Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::loss::l1;
use kiln_nn::{Init, WeightInit};
use kiln_train::{
    Abilities, Batch, DataConfig, Encode, Loss, OptimizerConfig, Phase, Pictures, Request, SizeRule, System,
    TrainConfig, Translate,
};
use serde::{Deserialize, Serialize};

use super::munit::optimizer;
use super::networks::codes::{ContentEncoder, Decoder, StridedConfig, StridedDiscriminator};
use super::networks::{Made, Normalization, Pass, ResidualBlock};
use super::two_way::{self, DIRECTIONS, check_weights, fooling, real, telling_apart};
use crate::adversarial::objective::Objective;
use crate::adversarial::players::check_positive;
use crate::one_pass::NoSettings;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Channels of the encoders' first layer. The paper has 64.
    pub generator_channels: usize,
    /// How often the encoders halve the picture. The paper has 2.
    pub halvings: usize,
    /// Residual blocks of each encoder, and of each decoder, the shared ones among them. The paper has 4.
    pub blocks: usize,
    /// So many blocks at the end of the encoders, and at the beginning of the decoders, are one for both domains.
    pub shared_blocks: usize,
    /// The discriminators.
    #[serde(flatten)]
    pub discriminators: StridedConfig,
    /// The adversarial loss.
    pub objective: Objective,
    /// λ of the VAE's pictures.
    pub reconstruction_weight: f64,
    /// λ of the VAE's KL divergence.
    pub kl_weight: f64,
    /// λ of the cycle's pictures.
    pub cycle_weight: f64,
    /// λ of the cycle's KL divergence.
    pub cycle_kl_weight: f64,
    /// The optimiser of all networks.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            generator_channels: 32,
            halvings: 2,
            blocks: 4,
            shared_blocks: 1,
            discriminators: StridedConfig::default(),
            objective: Objective::LeastSquares,
            reconstruction_weight: 10.0,
            kl_weight: 0.01,
            cycle_weight: 10.0,
            cycle_kl_weight: 0.01,
            optimizer: optimizer(),
        }
    }
}

/// All networks.
#[derive(Module, Debug)]
pub struct Networks {
    /// E_1 up to the blocks that are shared.
    pub encoder_a: ContentEncoder,
    /// E_2 likewise.
    pub encoder_b: ContentEncoder,
    /// The end of both encoders.
    pub shared_encoder: Vec<ResidualBlock>,
    /// The beginning of both decoders.
    pub shared_decoder: Vec<ResidualBlock>,
    /// The rest of G_1.
    pub decoder_a: Decoder,
    /// The rest of G_2.
    pub decoder_b: Decoder,
    /// D_1.
    pub d_a: StridedDiscriminator,
    /// D_2.
    pub d_b: StridedDiscriminator,
}

/// One of the two domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Domain {
    A,
    B,
}

impl Networks {
    fn blocks(blocks: &[ResidualBlock], x: Tensor<4>) -> Tensor<4> {
        blocks.iter().enumerate().fold(x, |x, (i, block)| block.forward(i, x, &Pass::default()))
    }

    /// μ of z.
    fn encode(&self, of: Domain, x: Tensor<4>) -> Tensor<4> {
        let encoder = if of == Domain::A { &self.encoder_a } else { &self.encoder_b };
        Self::blocks(&self.shared_encoder, encoder.forward(x))
    }

    /// G(z).
    fn decode(&self, into: Domain, z: Tensor<4>) -> Tensor<4> {
        let decoder = if into == Domain::A { &self.decoder_a } else { &self.decoder_b };
        decoder.forward(Self::blocks(&self.shared_decoder, z), None)
    }
}

/// The system.
pub struct Unit {
    config: Config,
    shape: [usize; 3],
    /// Made in the generators' phase of this step and not yet judged: of a and of b.
    fakes: Made<[Tensor<4>; 2]>,
}

/// The networks of the generators' phase.
const GENERATORS: [&str; 6] = ["encoder_a", "encoder_b", "shared_encoder", "shared_decoder", "decoder_a", "decoder_b"];

impl System for Unit {
    const ID: &'static str = "unit";
    const PAPER: &'static str = "Liu, Breuel & Kautz: Unsupervised Image-to-Image Translation Networks, 2017";
    const DATA: DataKind = DataKind::TwoDomains;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        two_way::defaults(1)
    }

    fn sizes(config: &Config) -> SizeRule {
        config.discriminators.sizes(ContentEncoder::sizes(config.halvings, Self::ID), 0)
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        check_positive(&[("generator_channels", config.generator_channels), ("halvings", config.halvings)])?;
        config.discriminators.check()?;
        check_weights(&[
            ("reconstruction_weight", config.reconstruction_weight),
            ("kl_weight", config.kl_weight),
            ("cycle_weight", config.cycle_weight),
            ("cycle_kl_weight", config.cycle_kl_weight),
        ])?;
        refuse_if!(config.halvings > 6, "model.halvings = {}: at most 6", config.halvings);
        refuse_if!(
            config.shared_blocks > config.blocks,
            "model.shared_blocks = {}: there are {} blocks",
            config.shared_blocks,
            config.blocks
        );
        config.objective.check_penalty(false, &config.optimizer)?;
        Self::sizes(&config).check(pictures.shape)?;
        Ok(Self { config, shape: pictures.shape, fakes: Made::default() })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, channels) = (&self.config, self.shape[0]);
        let (k, halvings, own) = (c.generator_channels, c.halvings, c.blocks - c.shared_blocks);
        let shared = |init: &mut Init| {
            let block = |_| ResidualBlock::new(k << halvings, Normalization::Instance, 0.0, WeightInit::He, init);
            (0..c.shared_blocks).map(block).collect()
        };
        let discriminator = |init: &mut Init| c.discriminators.init(channels, 0.2, init);
        Networks {
            encoder_a: ContentEncoder::new(channels, k, halvings, own, init),
            encoder_b: ContentEncoder::new(channels, k, halvings, own, init),
            shared_encoder: shared(init),
            shared_decoder: shared(init),
            decoder_a: Decoder::new(channels, k, halvings, own, init),
            decoder_b: Decoder::new(channels, k, halvings, own, init),
            d_a: discriminator(init),
            d_b: discriminator(init),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let optimizer = || self.config.optimizer.clone();
        // Without shared blocks there is nothing of theirs to train.
        let shared = self.config.shared_blocks > 0;
        let trained: Vec<&str> = GENERATORS.into_iter().filter(|name| shared || !name.starts_with("shared")).collect();
        vec![
            Phase::new("generators", &trained, optimizer(), Self::generators),
            Phase::new("discriminators", &["d_a", "d_b"], optimizer(), Self::discriminators),
        ]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { translate: Some(self), encode: Some(self), ..Abilities::default() }
    }

    fn restore(&mut self, _state: kiln_train::State) {
        self.fakes.clear();
    }
}

impl Unit {
    /// The noise of latents: of a and b, then of their translations' way back to a and b.
    fn noise(&self, batch: &Batch) -> [Tensor<4>; 4] {
        let [_, h, w] = self.shape;
        let halvings = self.config.halvings;
        let shape = [batch.len(), self.config.generator_channels << halvings, h >> halvings, w >> halvings];
        ["latent a", "latent b", "cycle a", "cycle b"].map(|purpose| batch.normal(purpose, shape))
    }

    /// Latents and their translations: of a and b, into a and b.
    fn step(networks: &Networks, [a, b]: &[Tensor<4>; 2], noise: &[Tensor<4>; 4]) -> Step {
        let means = [networks.encode(Domain::A, a.clone()), networks.encode(Domain::B, b.clone())];
        let latents = [means[0].clone() + noise[0].clone(), means[1].clone() + noise[1].clone()];
        let fakes = [networks.decode(Domain::A, latents[1].clone()), networks.decode(Domain::B, latents[0].clone())];
        Step { means, latents, fakes }
    }

    fn generators(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (loss, fakes) = self.objective(networks, real(batch, Self::ID)?, self.noise(batch));
        self.fakes.put(batch, fakes.map(Tensor::detach));
        Ok(Some(loss))
    }

    /// VAE, GAN and cycle; beside it the translations, into a and into b.
    fn objective(&self, networks: &Networks, real: [Tensor<4>; 2], noise: [Tensor<4>; 4]) -> (Loss, [Tensor<4>; 2]) {
        let c = &self.config;
        let Step { means, latents, fakes } = Self::step(networks, &real, &noise);
        let ([a, b], [fake_a, fake_b], [z_a, z_b]) = (real, &fakes, latents);
        let judged = |d: &StridedDiscriminator, fake: &Tensor<4>| fooling(c.objective, d.patches(fake.clone()));
        let squares = |[a, b]: [Tensor<4>; 2]| a.square().mean() + b.square().mean();
        let own = l1(networks.decode(Domain::A, z_a), a.clone()) + l1(networks.decode(Domain::B, z_b), b.clone());
        let mut loss = Loss::new("adversarial", judged(&networks.d_a, fake_a) + judged(&networks.d_b, fake_b))
            .plus("reconstruction", c.reconstruction_weight, own)
            .plus("kl", c.kl_weight, squares(means));
        if c.cycle_weight > 0.0 || c.cycle_kl_weight > 0.0 {
            let again = [networks.encode(Domain::B, fake_b.clone()), networks.encode(Domain::A, fake_a.clone())];
            let [_, _, noise_a, noise_b] = noise;
            let back = |into: Domain, mean: &Tensor<4>, noise| networks.decode(into, mean.clone() + noise);
            let cycle = l1(back(Domain::A, &again[0], noise_a), a) + l1(back(Domain::B, &again[1], noise_b), b);
            loss = loss.plus("cycle", c.cycle_weight, cycle).plus("cycle_kl", c.cycle_kl_weight, squares(again));
        }
        (loss, fakes)
    }

    /// Both discriminators' losses.
    fn discriminators(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (real, c) = (real(batch, Self::ID)?, &self.config);
        let made = self.fakes.take(batch);
        let [fake_a, fake_b] =
            made.unwrap_or_else(|| Self::step(networks, &real, &self.noise(batch)).fakes.map(Tensor::detach));
        let [a, b] = real;
        let judge = |d: &StridedDiscriminator, real: Tensor<4>, fake: Tensor<4>| {
            telling_apart(c.objective, d.patches(real), d.patches(fake))
        };
        let loss = Loss::new("d_a", judge(&networks.d_a, a, fake_a));
        Ok(Some(loss.plus("d_b", 1.0, judge(&networks.d_b, b, fake_b))))
    }

    /// The domain that a direction comes from, and the one it goes to.
    fn domains(request: &Request) -> Result<[Domain; 2]> {
        match two_way::goes_to_b(request, Self::ID)? {
            true => Ok([Domain::A, Domain::B]),
            false => Ok([Domain::B, Domain::A]),
        }
    }

    fn check_input(&self, images: &Tensor<4>) -> Result<()> {
        let [_, channels, height, width] = images.dims();
        refuse_if!(channels != self.shape[0], "unit was trained on {} channels, not {channels}", self.shape[0]);
        ContentEncoder::sizes(self.config.halvings, Self::ID).check([channels, height, width])
    }
}

/// What a step makes of a picture of each domain.
struct Step {
    means: [Tensor<4>; 2],
    latents: [Tensor<4>; 2],
    /// Translations: into a, and into b.
    fakes: [Tensor<4>; 2],
}

impl Translate<Networks> for Unit {
    fn directions(&self) -> Vec<&'static str> {
        DIRECTIONS.to_vec()
    }

    fn own_sizes(&self) -> Option<SizeRule> {
        Some(ContentEncoder::sizes(self.config.halvings, Self::ID))
    }

    /// By μ, without noise, as the authors' code.
    fn translate(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<4>> {
        self.check_input(&images)?;
        request.sampler::<NoSettings>(Self::ID)?;
        let [from, to] = Self::domains(request)?;
        Ok(networks.decode(to, networks.encode(from, images)))
    }
}

impl Encode<Networks> for Unit {
    /// μ, of the domain that the request's direction comes from: a, unless it is `b2a`.
    fn encode(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<2>> {
        self.check_input(&images)?;
        let [from, _] = Self::domains(request)?;
        Ok(networks.encode(from, images).flatten(1, 3))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;

    use super::*;
    use crate::translation::testing::{by_formula, compare_objective, fit, pairs, term, with_weights_by_formula};

    fn tiny() -> Config {
        Config {
            generator_channels: 2,
            blocks: 2,
            discriminators: StridedConfig { discriminator_channels: 2, ..StridedConfig::default() },
            ..Config::default()
        }
    }

    /// The authors' code shares no weights.
    #[test]
    fn objective_is_the_authors() {
        let device = Device::flex().autodiff();
        let config = Config { shared_blocks: 0, ..tiny() };
        let system = Unit::new(config, &Pictures::new([3, 32, 32], Vec::new())).unwrap();
        let networks = with_weights_by_formula(system.networks(&mut Init::new(&device, 0)));
        let pictures = ["a", "b"].map(|name| by_formula(name, [1, 3, 32, 32], &device));
        let noise = ["latent a", "latent b", "cycle a", "cycle b"].map(|name| by_formula(name, [1, 8, 8, 8], &device));
        let (loss, _) = system.objective(&networks, pictures, noise);
        let terms = ["adversarial", "reconstruction", "kl", "cycle", "cycle_kl"];
        compare_objective("unit", &networks, loss, &terms, 2e-4);
    }

    #[test]
    fn fits_one_batch() {
        let config = Config { optimizer: OptimizerConfig::adam(2e-3).betas(0.5, 0.999), ..tiny() };
        let (log, system) = fit::<Unit>(config, 40, 1, 16);
        let (first, last) = (term(&log[0], "reconstruction"), term(&log[39], "reconstruction"));
        assert!(last < 0.7 * first, "reconstruction {first} -> {last}");
        assert!(system.fakes.is_empty());
    }

    #[test]
    fn latents_have_one_space_and_each_domain_its_encoder() {
        let device = Device::flex();
        let system = Unit::new(tiny(), &Pictures::new([3, 16, 16], Vec::new())).unwrap();
        let networks = system.networks(&mut Init::new(&device, 0));
        let images = || pairs(0, 1, 16, &device).images();
        let encoded = |direction: &str| {
            let request = Request::new(0..1, 0, &device).along(direction);
            to_values(system.encode(&networks, images(), &request).unwrap())
        };
        assert_eq!(encoded("a2b").len(), 8 * 4 * 4);
        assert_ne!(encoded("a2b"), encoded("b2a"));
        let e = Unit::new(Config { shared_blocks: 3, ..tiny() }, &Pictures::new([3, 16, 16], Vec::new()));
        assert!(e.err().unwrap().is_usage());
    }
}
