//! Zhu, Zhang, Pathak, Darrell, Efros, Wang & Shechtman, *Toward Multimodal Image-to-Image Translation*, 2017.
//!
//! Objective (equation 9), of pairs (A, B):
//!
//! min_{G, E} max_D L_GAN^VAE(G, D, E) + λ L_1^VAE(G, E) + L_GAN(G, D) + λ_latent L_1^latent(G, E) + λ_KL L_KL(E)
//!
//! * cVAE-GAN (§3.2): z ~ E(B), of which G(A, z) must be B: L_1^VAE = E ‖B − G(A, z)‖₁ and L_KL = KL(E(B) ‖ N(0, 1)), summed over
//!   z and the batch as in the authors' code;
//! * cLR-GAN (§3.3): z ~ N(0, 1), which E must find in G(A, z): L_1^latent = E ‖z − E(G(A, z))‖₁. It trains G alone;
//! * each has a discriminator of its own, with least squares, on patches of two sizes (§4).
//!
//! | paper | here |
//! |---|---|
//! | G, a U-Net with z at every level (figure 3b) | `generator`, a [`UnetGenerator`] |
//! | E, residual blocks (§4) | `encoder`, a [`ResidualEncoder`] |
//! | the two discriminators (§4) | `discriminator_vae`, `discriminator_lr`, a [`MultiScaleDiscriminator`] each |
//! | λ = 10, λ_latent = 0.5, λ_KL = 0.01 (§4) | `l1_weight`, `latent_weight`, `kl_weight` |
//! | \|z\| = 8 (§4) | `latent_size` |
//! | half of a batch for each cycle (code) | the first half is encoded, the second is what real pictures look like to the cLR-GAN |
//!
//! `kiln train bicyclegan --data emoji:openmoji-black,emoji:openmoji-color`, then `kiln translate RUN picture.png out.png -n 8`.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::{Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::loss::{gaussian_kl, l1};
use kiln_train::{
    Abilities, Batch, DataConfig, Input, Loss, OptimizerConfig, Phase, Pictures, Request, Schedule, SizeRule, System,
    TrainConfig, Translate,
};
use serde::{Deserialize, Serialize};

use super::networks::{
    Architecture, GeneratorConfig, Made, MultiScaleDiscriminator, Normalization, Pass, PatchDiscriminator,
    ResidualEncoder, UnetGenerator,
};
use super::two_way::{self, check_weights, fooling, halves, telling_apart};
use crate::adversarial::objective::Objective;
use crate::adversarial::players::check_positive;
use crate::autoencoder::bound::reparameterise;
use crate::one_pass::NoSettings;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Channels of G's first layer. The paper has 64.
    pub generator_channels: usize,
    /// How often G halves the picture; 0 as often as it can be.
    pub halvings: usize,
    /// Dropout in the inner half of G's way up.
    pub dropout: f64,
    /// `instance`, `batch` or `none`, of all networks.
    pub norm: Normalization,
    /// Channels of E's first layer. The paper has 64.
    pub encoder_channels: usize,
    /// Residual blocks of E, each of which halves the picture; 3 at 128 pixels, 4 at 256.
    pub encoder_blocks: usize,
    /// Numbers of z.
    pub latent_size: usize,
    /// Channels of the discriminators' first layer at full size, half as many at each smaller one. The paper has 64.
    pub discriminator_channels: usize,
    /// Downsampling layers of each discriminator: 3 sees 70×70 patches, 2 sees 34×34, 1 sees 16×16.
    pub discriminator_layers: usize,
    /// Sizes of the picture that each discriminator sees.
    pub discriminator_scales: usize,
    /// Whether the discriminators see A beside B.
    pub conditional: bool,
    /// The adversarial loss.
    pub objective: Objective,
    /// Weight of L_GAN^VAE; 0 leaves cLR-GAN alone.
    pub vae_weight: f64,
    /// Weight of L_GAN; 0 leaves cVAE-GAN alone.
    pub lr_weight: f64,
    /// λ.
    pub l1_weight: f64,
    /// λ_latent.
    pub latent_weight: f64,
    /// λ_KL.
    pub kl_weight: f64,
    /// The optimiser of all networks.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            generator_channels: 64,
            halvings: 0,
            dropout: 0.0,
            norm: Normalization::Instance,
            encoder_channels: 64,
            encoder_blocks: 2,
            latent_size: 8,
            discriminator_channels: 64,
            discriminator_layers: 1,
            discriminator_scales: 2,
            conditional: false,
            objective: Objective::LeastSquares,
            vae_weight: 1.0,
            lr_weight: 1.0,
            l1_weight: 10.0,
            latent_weight: 0.5,
            kl_weight: 0.01,
            optimizer: OptimizerConfig::adam(2e-4).betas(0.5, 0.999).schedule(Schedule::LinearSecondHalf),
        }
    }
}

impl Config {
    fn generator(&self) -> GeneratorConfig {
        GeneratorConfig {
            generator: Architecture::Unet,
            generator_channels: self.generator_channels,
            halvings: self.halvings,
            blocks: 0,
            generator_norm: self.norm,
            dropout: self.dropout,
        }
    }
}

/// All four networks.
#[derive(Module, Debug)]
pub struct Networks {
    /// G.
    pub generator: UnetGenerator,
    /// E.
    pub encoder: ResidualEncoder,
    /// D of the cVAE-GAN.
    pub discriminator_vae: MultiScaleDiscriminator,
    /// D of the cLR-GAN.
    pub discriminator_lr: MultiScaleDiscriminator,
}

/// The system.
pub struct BicycleGan {
    config: Config,
    shape: [usize; 3],
    /// Made in G's phase of this step and not yet judged: by z of E, by z of N(0, 1).
    fakes: Made<[Tensor<4>; 2]>,
}

/// The two halves of a batch of pairs.
struct Halves {
    /// A and B whose B is encoded.
    encoded: [Tensor<4>; 2],
    /// A and B that the cLR-GAN's discriminator takes for real.
    others: [Tensor<4>; 2],
}

impl Halves {
    fn of(batch: &Batch) -> Result<Self> {
        let (a, b) = batch.pairs()?;
        let ([a1, a2], [b1, b2]) = (halves(a.images.clone()), halves(b.images.clone()));
        Ok(Self { encoded: [a1, b1], others: [a2, b2] })
    }
}

impl System for BicycleGan {
    const ID: &'static str = "bicyclegan";
    const PAPER: &'static str = "Zhu, Zhang, Pathak, Darrell, Efros, Wang & Shechtman: Toward Multimodal Image-to-Image \
                                 Translation, 2017";
    const DATA: DataKind = DataKind::Paired;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        two_way::defaults(2)
    }

    fn sizes(config: &Config) -> SizeRule {
        let rule = config.generator().sizes(Self::ID).at_least(2 << config.encoder_blocks.min(16));
        MultiScaleDiscriminator::sizes([config.discriminator_layers, config.discriminator_scales], rule)
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        config.generator().check()?;
        check_positive(&[
            ("encoder_channels", config.encoder_channels),
            ("encoder_blocks", config.encoder_blocks),
            ("latent_size", config.latent_size),
            ("discriminator_channels", config.discriminator_channels),
        ])?;
        PatchDiscriminator::check_layers(config.discriminator_layers)?;
        MultiScaleDiscriminator::check_scales(config.discriminator_scales)?;
        check_weights(&[
            ("vae_weight", config.vae_weight),
            ("lr_weight", config.lr_weight),
            ("l1_weight", config.l1_weight),
            ("latent_weight", config.latent_weight),
            ("kl_weight", config.kl_weight),
        ])?;
        refuse_if!(
            config.vae_weight == 0.0 && config.lr_weight == 0.0 && config.l1_weight == 0.0,
            "model.vae_weight, model.lr_weight and model.l1_weight are all 0: nothing says what B looks like"
        );
        config.objective.check_penalty(false, &config.optimizer)?;
        Self::sizes(&config).check(pictures.shape)?;
        Ok(Self { config, shape: pictures.shape, fakes: Made::default() })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, [channels, h, w]) = (&self.config, self.shape);
        let halvings = c.generator().halvings_of([h, w]);
        let seen = if c.conditional { 2 * channels } else { channels };
        let discriminator = |init: &mut Init| {
            let width = |scale: usize| (c.discriminator_channels >> scale).max(1);
            MultiScaleDiscriminator::new(seen, width, [c.discriminator_layers, c.discriminator_scales], c.norm, init)
        };
        Networks {
            generator: UnetGenerator::with_latent(channels, channels, halvings, c.latent_size, &c.generator(), init),
            encoder: ResidualEncoder::new(channels, c.encoder_channels, c.encoder_blocks, c.latent_size, c.norm, init),
            discriminator_vae: discriminator(init),
            discriminator_lr: discriminator(init),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let c = &self.config;
        let phase = |name, networks: &[&'static str], loss| Phase::new(name, networks, c.optimizer.clone(), loss);
        let mut phases = vec![phase("generator", &["generator", "encoder"], Self::generator_loss)];
        if self.adversarial() {
            phases.push(phase("discriminators", &["discriminator_vae", "discriminator_lr"], Self::discriminator_loss));
        }
        phases
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { translate: Some(self), ..Abilities::default() }
    }

    fn restore(&mut self, _state: kiln_train::State) {
        self.fakes.clear();
    }
}

impl BicycleGan {
    fn adversarial(&self) -> bool {
        self.config.vae_weight > 0.0 || self.config.lr_weight > 0.0
    }

    /// G's pictures of A: by z of E(B), with E's mean and log variance; by z ~ N(0, 1), with that z.
    fn made(&self, networks: &Networks, halves: &Halves, batch: &Batch) -> Translations {
        let pass = Pass::training(batch);
        let [a, b] = &halves.encoded;
        let (mean, log_var) = networks.encoder.forward(b.clone());
        let drawn = |purpose: &str| -> Tensor<2> {
            let all: Tensor<2> = batch.normal(purpose, [batch.len(), self.config.latent_size]);
            all.narrow(0, 0, mean.dims()[0])
        };
        let z = reparameterise(mean.clone(), log_var.clone(), drawn("posterior"));
        let random = drawn("latent");
        let g = |z: Tensor<2>| networks.generator.forward_latent(a.clone(), z, &pass);
        Translations { encoded: g(z), by_random: g(random.clone()), mean, log_var, random }
    }

    /// A discriminator's outputs for B, as a translation of A if it is conditional.
    fn judge(&self, d: &MultiScaleDiscriminator, a: &Tensor<4>, b: Tensor<4>) -> Vec<Tensor<1>> {
        d.patches(if self.config.conditional { kiln_nn::concat(a.clone(), b) } else { b })
    }

    /// Everything that G and E minimise.
    fn generator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (halves, c) = (Halves::of(batch)?, &self.config);
        let made = self.made(networks, &halves, batch);
        let [a, b] = &halves.encoded;
        let adversarial =
            |d: &MultiScaleDiscriminator, fake: &Tensor<4>| fooling(c.objective, self.judge(d, a, fake.clone()));
        let mut loss = Loss { total: Tensor::zeros([1], &a.device()), terms: Vec::new() };
        if c.vae_weight > 0.0 {
            loss = loss.plus("vae", c.vae_weight, adversarial(&networks.discriminator_vae, &made.encoded));
        }
        if c.lr_weight > 0.0 {
            loss = loss.plus("lr", c.lr_weight, adversarial(&networks.discriminator_lr, &made.by_random));
        }
        if c.l1_weight > 0.0 {
            loss = loss.plus("l1", c.l1_weight, l1(made.encoded.clone(), b.clone()));
        }
        if c.kl_weight > 0.0 {
            loss = loss.plus("kl", c.kl_weight, gaussian_kl(made.mean, made.log_var).sum());
        }
        if c.latent_weight > 0.0 {
            // E is asked, and does not learn to answer by hiding z.
            let (found, _) = networks.encoder.clone().no_grad().forward(made.by_random.clone());
            loss = loss.plus("latent", c.latent_weight, l1(found, made.random));
        }
        if self.adversarial() {
            self.fakes.put(batch, [made.encoded.detach(), made.by_random.detach()]);
        }
        Ok(Some(loss))
    }

    /// Of both discriminators, on what was made in G's phase of this step.
    fn discriminator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (halves, c) = (Halves::of(batch)?, &self.config);
        let [encoded, random] = self.fakes.take(batch).unwrap_or_else(|| {
            let made = self.made(networks, &halves, batch);
            [made.encoded.detach(), made.by_random.detach()]
        });
        let from = &halves.encoded[0];
        let loss = |d: &MultiScaleDiscriminator, [a, b]: &[Tensor<4>; 2], fake: Tensor<4>| {
            telling_apart(c.objective, self.judge(d, a, b.clone()), self.judge(d, from, fake))
        };
        let mut total = Loss { total: Tensor::zeros([1], &from.device()), terms: Vec::new() };
        if c.vae_weight > 0.0 {
            total = total.plus("d_vae", 1.0, loss(&networks.discriminator_vae, &halves.encoded, encoded));
        }
        if c.lr_weight > 0.0 {
            total = total.plus("d_lr", 1.0, loss(&networks.discriminator_lr, &halves.others, random));
        }
        Ok(Some(total))
    }
}

/// See [`BicycleGan::made`].
struct Translations {
    encoded: Tensor<4>,
    by_random: Tensor<4>,
    mean: Tensor<2>,
    log_var: Tensor<2>,
    random: Tensor<2>,
}

impl Translate<Networks> for BicycleGan {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Styles]
    }

    fn directions(&self) -> Vec<&'static str> {
        vec!["a2b"]
    }

    fn own_sizes(&self) -> Option<SizeRule> {
        Some(self.config.generator().own_sizes(self.shape, Self::ID))
    }

    /// By the mean of the z that E finds in pictures of a style, else by z ~ N(0, 1).
    fn translate(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<4>> {
        let c = &self.config;
        c.generator().check_input(&images, self.shape, Self::ID)?;
        request.sampler::<NoSettings>(Self::ID)?;
        let n = images.dims()[0];
        let found = request.condition.styles.iter().map(|s| networks.encoder.forward(s.image.clone()).0 * s.weight);
        let z = match found.reduce(|sum, z| sum + z) {
            Some(z) => z.expand([n, c.latent_size]),
            None => request.normal("latent", [n, c.latent_size]),
        };
        Ok(networks.generator.forward_latent(images, z, &Pass::default()))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;
    use kiln_train::params;
    use kiln_train::request::Style;

    use super::*;
    use crate::translation::testing::{fit, pairs, term};

    fn tiny() -> Config {
        Config {
            generator_channels: 4,
            encoder_channels: 4,
            discriminator_channels: 4,
            optimizer: OptimizerConfig::adam(2e-3).betas(0.5, 0.999),
            // Half of a batch has half of the masks.
            dropout: 0.1,
            ..Config::default()
        }
    }

    #[test]
    fn fits_one_batch() {
        let (log, system) = fit::<BicycleGan>(tiny(), 60, 2, 16);
        let (first, last) = (term(&log[0], "l1"), term(&log[59], "l1"));
        assert!(last < 0.6 * first, "l1 {first} -> {last}");
        assert!(system.fakes.is_empty());
    }

    #[test]
    fn the_latent_term_does_not_train_the_encoder() {
        let device = Device::flex().autodiff();
        let config = Config { vae_weight: 0.0, lr_weight: 0.0, kl_weight: 0.0, l1_weight: 1.0, ..tiny() };
        let gradients = |latent_weight: f64| {
            let config = Config { latent_weight, ..config.clone() };
            let mut system = BicycleGan::new(config, &Pictures::new([3, 16, 16], Vec::new())).unwrap();
            let networks = system.networks(&mut Init::new(&device, 0));
            let loss = system.generator_loss(&networks, &pairs(0, 2, 16, &device)).unwrap().unwrap();
            params::take_gradients(&networks, &mut loss.total.backward())
        };
        let (with, without) = (gradients(1.0), gradients(0.0));
        let same = |path: &str| to_values(with[path].clone()) == to_values(without[path].clone());
        assert!(same("encoder.first.conv.weight"));
        assert!(!same("generator.up.0.weight"));
    }

    #[test]
    fn a_style_picture_says_which_z() {
        let device = Device::flex();
        let system = BicycleGan::new(tiny(), &Pictures::new([3, 16, 16], Vec::new())).unwrap();
        let networks = system.networks(&mut Init::new(&device, 0));
        let image = || pairs(0, 2, 16, &device).images();
        let styled = |seed: u64| {
            let mut request = Request::new(0..2, seed, &device);
            request.condition.styles = vec![Style { image: image().narrow(0, 1, 1), weight: 1.0 }];
            to_values(system.translate(&networks, image(), &request).unwrap())
        };
        let random =
            |seed| to_values(system.translate(&networks, image(), &Request::new(0..2, seed, &device)).unwrap());
        assert_eq!(styled(1), styled(2));
        assert_ne!(random(1), random(2));
    }
}
