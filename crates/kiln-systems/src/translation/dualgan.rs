//! Yi, Zhang, Tan & Gong, *DualGAN: Unsupervised Dual Learning for Image-to-Image Translation*, 2017.
//!
//! Objective (equations 1 to 3), U and V being the domains:
//!
//! * l_A^d(u, v) = D_A(G_A(u, z)) − D_A(v), and l_B^d(u, v) = D_B(G_B(v, z′)) − D_B(u);
//! * l^g(u, v) = λ_U ‖u − G_B(G_A(u, z), z′)‖₁ + λ_V ‖v − G_A(G_B(v, z′), z)‖₁ − D_B(G_B(v, z′)) − D_A(G_A(u, z)).
//!
//! | paper | here |
//! |---|---|
//! | U, V | the first and the second data set, `a` and `b` |
//! | G_A, G_B, U-Nets with dropout as noise (§3.2) | `g_ab`, `g_ba`, a [`Generator`] each |
//! | D_A, D_B, PatchGANs of 70×70 (§3.2) | `d_b`, `d_a`, a [`PatchDiscriminator`] each |
//! | λ_U, λ_V, 100 to 1,000 (§3.3), 20 in the authors' code | `reconstruction_weight`, of means over pixels |
//! | clipping of the critics' weights (§3.3) | `discriminator_optimizer.clip_weights` |
//! | 2 to 4 steps of D for one of G (§3.3) | `discriminator_steps` |
//! | RMSProp, rate 5·10⁻⁵, batches of 1 to 4 (§3.3) | both optimisers, `train.batch` |
//!
//! The authors' published code has cross-entropy in place of the Wasserstein loss: `model.objective = "non-saturating"` with
//! `clip_weights = 0`.
//!
//! `kiln train dualgan --data starter:noto,starter:twemoji`, then `kiln translate RUN picture.png out.png`.

use burn::tensor::Tensor;
use kiln_core::Result;
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::loss::l1;
use kiln_train::{
    Abilities, Batch, DataConfig, Loss, OptimizerConfig, Phase, Pictures, Request, SizeRule, System, TrainConfig,
    Translate,
};
use serde::{Deserialize, Serialize};

use super::networks::{Architecture, Generator, GeneratorConfig, Normalization, Pass, PatchConfig, PatchDiscriminator};
use super::two_way::{self, DIRECTIONS, check_weights, real};
use crate::adversarial::objective::Objective;
use crate::adversarial::players::check_positive;
use crate::one_pass::NoSettings;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Both generators.
    #[serde(flatten)]
    pub generators: GeneratorConfig,
    /// Both discriminators.
    #[serde(flatten)]
    pub discriminators: PatchConfig,
    /// The adversarial loss.
    pub objective: Objective,
    /// λ_U and λ_V.
    pub reconstruction_weight: f64,
    /// Discriminator steps per generator step.
    pub discriminator_steps: u64,
    /// The generators' optimiser.
    pub generator_optimizer: OptimizerConfig,
    /// The discriminators' optimiser.
    pub discriminator_optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        let rmsprop = OptimizerConfig { beta2: 0.9, ..OptimizerConfig::rmsprop(5e-5) };
        Self {
            generators: GeneratorConfig {
                generator: Architecture::Unet,
                halvings: 0,
                generator_norm: Normalization::Batch,
                dropout: 0.5,
                ..GeneratorConfig::default()
            },
            discriminators: PatchConfig::new(64, Normalization::Batch),
            objective: Objective::Wasserstein,
            reconstruction_weight: 20.0,
            discriminator_steps: 3,
            generator_optimizer: rmsprop.clone(),
            discriminator_optimizer: OptimizerConfig { clip_weights: 0.01, ..rmsprop },
        }
    }
}

/// All four networks.
pub type Networks = two_way::Networks<Generator, PatchDiscriminator>;

/// The system.
pub struct DualGan {
    config: Config,
    shape: [usize; 3],
}

impl System for DualGan {
    const ID: &'static str = "dualgan";
    const PAPER: &'static str =
        "Yi, Zhang, Tan & Gong: DualGAN: Unsupervised Dual Learning for Image-to-Image Translation, 2017";
    const DATA: DataKind = DataKind::TwoDomains;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        two_way::defaults(4)
    }

    fn sizes(config: &Config) -> SizeRule {
        config.discriminators.sizes(config.generators.sizes(Self::ID))
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        config.generators.check()?;
        config.discriminators.check()?;
        check_positive(&[("discriminator_steps", config.discriminator_steps as usize)])?;
        check_weights(&[("reconstruction_weight", config.reconstruction_weight)])?;
        config.objective.check_penalty(false, &config.discriminator_optimizer)?;
        Self::sizes(&config).check(pictures.shape)?;
        Ok(Self { config, shape: pictures.shape })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, [channels, h, w]) = (&self.config, self.shape);
        let generator = |init: &mut Init| c.generators.init(channels, channels, [h, w], init);
        let discriminator = |init: &mut Init| c.discriminators.init(channels, init);
        Networks { g_ab: generator(init), g_ba: generator(init), d_a: discriminator(init), d_b: discriminator(init) }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let c = &self.config;
        let generators = Phase::new("generators", &["g_ab", "g_ba"], c.generator_optimizer.clone(), Self::generators);
        let judges = ["d_a", "d_b"];
        vec![
            Phase::new("discriminators", &judges, c.discriminator_optimizer.clone(), Self::discriminators),
            generators.every(c.discriminator_steps),
        ]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { translate: Some(self), ..Abilities::default() }
    }
}

impl DualGan {
    /// l^g of both generators.
    fn generators(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let ([a, b], c, pass) = (real(batch, Self::ID)?, &self.config, Pass::training(batch));
        let Networks { g_ab, g_ba, d_a, d_b } = networks;
        let (fake_a, fake_b) = (g_ba.forward(b.clone(), &pass), g_ab.forward(a.clone(), &pass));
        let judged = |d: &PatchDiscriminator, fake: &Tensor<4>| c.objective.generator(d.patches(fake.clone()));
        let loss = Loss::new("adversarial", judged(d_a, &fake_a) + judged(d_b, &fake_b));
        let again = l1(g_ba.forward(fake_b, &pass), a) + l1(g_ab.forward(fake_a, &pass), b);
        Ok(Some(loss.plus("reconstruction", c.reconstruction_weight, again)))
    }

    /// l_A^d + l_B^d.
    fn discriminators(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let ([a, b], c, pass) = (real(batch, Self::ID)?, &self.config, Pass::training(batch));
        let judge = |d: &PatchDiscriminator, g: &Generator, from: &Tensor<4>, to: &Tensor<4>| {
            let fake = g.forward(from.clone(), &pass).detach();
            c.objective.discriminator(d.patches(to.clone()), d.patches(fake), 0.0)
        };
        let loss = Loss::new("d_a", judge(&networks.d_a, &networks.g_ba, &b, &a));
        Ok(Some(loss.plus("d_b", 1.0, judge(&networks.d_b, &networks.g_ab, &a, &b))))
    }
}

impl Translate<Networks> for DualGan {
    fn directions(&self) -> Vec<&'static str> {
        DIRECTIONS.to_vec()
    }

    fn own_sizes(&self) -> Option<SizeRule> {
        Some(self.config.generators.own_sizes(self.shape, Self::ID))
    }

    /// With dropout, as in training (§3.2), and each picture's own statistics.
    fn translate(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<4>> {
        self.config.generators.check_input(&images, self.shape, Self::ID)?;
        request.sampler::<NoSettings>(Self::ID)?;
        let generator = networks.along(request, Self::ID)?;
        Ok(generator.forward(images, &Pass::dropping(request).by_picture()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translation::testing::{fit, term};

    fn tiny() -> Config {
        let optimizer = OptimizerConfig::rmsprop(1e-3);
        Config {
            generators: GeneratorConfig { generator_channels: 4, dropout: 0.0, ..Config::default().generators },
            discriminators: PatchConfig::new(4, Config::default().discriminators.discriminator_norm),
            generator_optimizer: optimizer.clone(),
            discriminator_optimizer: OptimizerConfig { clip_weights: 0.01, ..optimizer },
            ..Config::default()
        }
    }

    #[test]
    fn fits_one_batch_and_has_more_discriminator_steps() {
        let (log, _) = fit::<DualGan>(tiny(), 90, 2, 16);
        let (first, last) = (term(&log[0], "reconstruction"), term(&log[87], "reconstruction"));
        assert!(last < 0.6 * first, "reconstruction {first} -> {last}");
        assert!(log[1].iter().all(|(name, _)| name != "reconstruction"));
        // Clipped weights bound what a critic can say.
        assert!(log.iter().all(|terms| term(terms, "d_a").abs() < 1.0));
    }

    #[test]
    fn a_critic_without_a_limit_is_refused() {
        let config = Config { discriminator_optimizer: OptimizerConfig::rmsprop(1e-3), ..tiny() };
        let e = DualGan::new(config, &Pictures::new([3, 16, 16], Vec::new())).err().unwrap();
        assert!(e.is_usage() && e.to_string().contains("clip_weights"), "{e}");
    }
}
