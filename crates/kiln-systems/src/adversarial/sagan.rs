//! Zhang, Goodfellow, Metaxas & Odena, *Self-Attention Generative Adversarial Networks*, 2019, on the residual networks of
//! [`super::residual`].
//!
//! Objective (equation 4): D minimises E max(0, 1 − D(x, y)) + E max(0, 1 + D(G(z, y), y)), G minimises −E D(G(z, y), y).
//!
//! | paper | here |
//! |---|---|
//! | self-attention, y = γ o + x with γ from 0 (equations 1 to 3) | [`SelfAttention`](kiln_nn::discriminator::SelfAttention) |
//! | on maps of one size, in both networks (table 1) | `attention_levels`; empty for none |
//! | spectral norm in both networks (§4.1) | [`Parametrization::Spectral`]; of G, `generator_spectral_norm` |
//! | two time-scales: rates of 4·10⁻⁴ in D, 10⁻⁴ in G, one step each (§4.2) | `discriminator_optimizer`, `generator_optimizer` |
//! | Adam, β₁ = 0, β₂ = 0.9 (§5) | both |
//! | conditional batch norm in G (§5) | [`ConditionalBatchNorm2d`](kiln_nn::ConditionalBatchNorm2d) of the one-hot class |
//! | projection in D (§5) | [`project`](kiln_nn::discriminator::project), of a spectrally normalised table |
//! | hinge | `objective` |
//! | z: 128 numbers, N(0, 1); weights by Xavier; batches of 256 | `latent_size`; [`WeightInit::Xavier`]; `train.batch` |
//!
//! Pictures without classes are all of one: G's norms have a scale and a shift of their own, D has no projection.
//!
//! `kiln train sagan --data fashion`, then `kiln sample RUN -n 64 --class 7`.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::Result;
use kiln_data::DataKind;
use kiln_nn::{Init, Parametrization, WeightInit};
use kiln_train::{
    Abilities, Batch, DataConfig, Decode, Generate, Input, Loss, OptimizerConfig, Phase, Pictures, Request, SizeRule,
    System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::class_latents::ClassLatents;
use super::dcgan::Sizes;
use super::latent::Distribution;
use super::objective::Objective;
use super::players;
use super::players::check_positive;
use super::residual::{Conditioned, Design, Discriminator, Generator};

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Tell both networks the class, where the data has classes.
    pub class_conditional: bool,
    /// Length of z.
    pub latent_size: usize,
    /// `normal` or `uniform` (−1 to 1).
    pub latent_distribution: Distribution,
    /// Channels of G before its output; doubled each time the size is halved. The paper's code has 64.
    pub generator_channels: usize,
    /// Channels of D after its first block; doubled each time the size is halved. The paper's code has 64.
    pub discriminator_channels: usize,
    /// Where there is self-attention, in both networks: 1 on maps of half the picture's size, 2 on a quarter, …; `[]` for none.
    pub attention_levels: Vec<usize>,
    /// Spectral normalisation in G; D always has it.
    pub generator_spectral_norm: bool,
    /// `hinge`, `non-saturating`, `saturating` or `least-squares`.
    pub objective: Objective,
    /// Discriminator steps per generator step.
    pub discriminator_steps: u64,
    /// G's optimiser.
    pub generator_optimizer: OptimizerConfig,
    /// D's optimiser.
    pub discriminator_optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            class_conditional: true,
            latent_size: 128,
            latent_distribution: Distribution::Normal,
            generator_channels: 32,
            discriminator_channels: 32,
            attention_levels: vec![1],
            generator_spectral_norm: true,
            objective: Objective::Hinge,
            discriminator_steps: 1,
            generator_optimizer: OptimizerConfig::adam(1e-4).betas(0.0, 0.9),
            discriminator_optimizer: OptimizerConfig::adam(4e-4).betas(0.0, 0.9),
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

/// The system.
pub struct Sagan {
    config: Config,
    channels: usize,
    sizes: Sizes,
    latents: ClassLatents,
}

impl System for Sagan {
    const ID: &'static str = "sagan";
    const PAPER: &'static str =
        "Zhang, Goodfellow, Metaxas & Odena: Self-Attention Generative Adversarial Networks, 2019";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        (DataConfig::default(), TrainConfig { images: 500_000, ..TrainConfig::default() })
    }

    fn sizes(_config: &Config) -> SizeRule {
        Sizes::rule()
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        check_positive(&[
            ("latent_size", config.latent_size),
            ("generator_channels", config.generator_channels),
            ("discriminator_channels", config.discriminator_channels),
            ("discriminator_steps", config.discriminator_steps as usize),
        ])?;
        config.objective.check_penalty(false, &config.discriminator_optimizer)?;
        let sizes = Sizes::of(pictures.shape)?;
        Design::check(&config.attention_levels, sizes)?;
        let latents = ClassLatents {
            system: Self::ID,
            size: config.latent_size,
            distribution: config.latent_distribution,
            classes: if config.class_conditional { pictures.classes.clone() } else { Vec::new() },
        };
        Ok(Self { channels: pictures.shape[0], sizes, latents, config })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let c = &self.config;
        let design = |channels, spectral| Design {
            channels,
            sizes: self.sizes,
            attention_levels: &c.attention_levels,
            weight: WeightInit::Xavier,
            parametrization: if spectral { Parametrization::Spectral } else { Parametrization::Direct },
        };
        // Scales begin at 1 and shifts at 0, as those of batch norm.
        let norms = Conditioned {
            features: self.latents.count(),
            weight: WeightInit::Zero,
            parametrization: Parametrization::Direct,
        };
        let generator = design(c.generator_channels, c.generator_spectral_norm);
        let discriminator = design(c.discriminator_channels, true);
        Networks {
            generator: Generator::new(&generator, c.latent_size, norms, self.channels, init),
            discriminator: Discriminator::new(&discriminator, self.channels, self.latents.classes.len(), init),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let c = &self.config;
        let optimizers = [&c.discriminator_optimizer, &c.generator_optimizer];
        players::phases(optimizers, c.discriminator_steps, Self::discriminator_loss, Self::generator_loss)
    }

    fn augments(_config: &Config) -> bool {
        true
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { generate: Some(self), decode: Some(self), ..Abilities::default() }
    }
}

impl Sagan {
    /// G(z, y).
    fn pictures(&self, networks: &Networks, z: Tensor<2>, y: Tensor<2>) -> Tensor<4> {
        networks.generator.forward(z, &vec![y; self.sizes.doublings])
    }

    /// G(z, y) of a phase's own z and the classes of the batch.
    fn fake(&self, networks: &Networks, phase: &str, batch: &Batch) -> Result<Tensor<4>> {
        let z = self.config.latent_distribution.train(batch, phase, self.config.latent_size);
        Ok(self.pictures(networks, z, self.latents.of_batch(batch)?))
    }

    /// D's loss: real pictures against G(z, y).
    fn discriminator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let fake = batch.augmentation("augment fake").apply(self.fake(networks, "discriminator", batch)?.detach());
        let real = batch.augmentation("augment real").apply(batch.images());
        let [real, fake] = networks.discriminator.both(real, fake, self.latents.labels(batch));
        Ok(Some(self.config.objective.discriminator_loss(real, fake, 0.0)))
    }

    /// G's loss: D(G(z, y), y).
    fn generator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let fake = batch.augmentation("augment generator").apply(self.fake(networks, "generator", batch)?);
        let belief = networks.discriminator.one(fake, self.latents.labels(batch));
        Ok(Some(Loss::new("generator", self.config.objective.generator(belief))))
    }
}

impl Generate<Networks> for Sagan {
    fn takes(&self) -> Vec<Input> {
        self.latents.takes()
    }

    fn shows_classes(&self) -> bool {
        !self.latents.classes.is_empty()
    }

    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        let z = self.config.latent_distribution.requested(request, self.config.latent_size, Self::ID)?;
        Ok(self.pictures(networks, z, self.latents.requested(request)?))
    }
}

impl Decode<Networks> for Sagan {
    fn latents(&self, _networks: &Networks, request: &Request) -> Result<Tensor<2>> {
        let z = self.config.latent_distribution.requested(request, self.config.latent_size, Self::ID)?;
        Ok(self.latents.join(z, self.latents.requested(request)?))
    }

    fn decode(&self, networks: &Networks, latents: Tensor<2>) -> Result<Tensor<4>> {
        let [z, y] = self.latents.split(latents)?;
        Ok(self.pictures(networks, z, y))
    }

    fn between(&self, a: Tensor<2>, b: Tensor<2>, t: f64) -> Tensor<2> {
        self.latents.between(a, b, t)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;

    use super::*;
    use crate::adversarial::testing::{batch, close, overfit};
    use crate::testing::requested;

    fn tiny() -> Config {
        Config { latent_size: 8, generator_channels: 4, discriminator_channels: 4, ..Config::default() }
    }

    fn system(config: Config, shape: [usize; 3], classes: usize) -> Result<Sagan> {
        Sagan::new(config, &Pictures::new(shape, (0..classes).map(|c| format!("class {c}")).collect()))
    }

    #[test]
    fn each_player_wins_a_fixed_batch_it_plays_alone() {
        for (classes, attention_levels, generator_spectral_norm) in [(4, vec![1], true), (0, vec![], false)] {
            let config = Config { attention_levels, generator_spectral_norm, ..tiny() };
            let mut s = system(config, [1, 16, 16], classes).unwrap();
            for (player, rate) in [(0, 5e-3), (1, 1e-2)] {
                let (first, last) = overfit(&mut s, player, rate, 60, &batch(8, [1, 16, 16], classes as u32));
                assert!(last < first - 0.2 * first.abs(), "{classes} {player}: {first} to {last}");
            }
        }
    }

    #[test]
    fn shapes_at_every_size() {
        let device = Device::flex();
        for (height, width) in [(8, 8), (28, 28), (32, 32), (24, 32)] {
            let s = system(tiny(), [3, height, width], 2).unwrap();
            let n = s.networks(&mut Init::new(&device, 0));
            let out = s.generate(&n, &Request::new(0..3, 1, &device)).unwrap();
            assert_eq!(out.dims(), [3, 3, height, width]);
            let classes = kiln_nn::tensor::from_indices(&[0, 1, 1], &device);
            assert_eq!(n.discriminator.one(out, Some(classes)).dims(), [3]);
        }
    }

    /// γ begins at 0: attention changes nothing, until it learns to.
    #[test]
    fn attention_begins_as_nothing_and_learns() {
        let device = Device::flex();
        let of = |levels: Vec<usize>| {
            let s = system(Config { attention_levels: levels, ..tiny() }, [1, 16, 16], 0).unwrap();
            let n = s.networks(&mut Init::new(&device, 0));
            kiln_train::params::state(&n).into_iter().filter(|(path, _)| path.ends_with("gamma")).collect::<Vec<_>>()
        };
        let gammas = of(vec![1, 2]);
        assert_eq!(gammas.len(), 4);
        assert!(gammas.iter().all(|(_, gamma)| gamma.values == [0.0]));
        assert!(of(vec![]).is_empty());
    }

    #[test]
    fn a_sample_is_the_same_in_any_company_and_of_the_class_asked_for() {
        let device = Device::flex();
        let s = system(tiny(), [1, 16, 16], 4).unwrap();
        let n = s.networks(&mut Init::new(&device, 0));
        let many = requested(&s, &n, &Request::new(0..5, 1, &device)).unwrap();
        let one = requested(&s, &n, &Request::new(3..4, 1, &device)).unwrap();
        close(&to_values(one.clone()), &to_values(many.narrow(0, 3, 1)), 1e-6);
        let latents = Decode::latents(&s, &n, &Request::new(3..4, 1, &device)).unwrap();
        close(&to_values(s.decode(&n, latents).unwrap()), &to_values(one), 1e-6);
        let latents = Decode::latents(&s, &n, &Request::new(0..1, 1, &device).of_class(Some(2))).unwrap();
        assert_eq!(to_values(latents)[8..], [0.0, 0.0, 1.0, 0.0]);
        let e = requested(&s, &n, &Request::new(0..1, 1, &device).of_class(Some(4))).unwrap_err();
        assert!(e.is_usage() && e.to_string().contains("0 to 3"), "{e}");
    }

    #[test]
    fn without_classes_latents_are_z() {
        let device = Device::flex();
        let s = system(Config { class_conditional: false, ..tiny() }, [1, 16, 16], 4).unwrap();
        let n = s.networks(&mut Init::new(&device, 0));
        let latents = Decode::latents(&s, &n, &Request::new(0..2, 1, &device)).unwrap();
        assert_eq!(latents.dims(), [2, 8]);
        let direct = requested(&s, &n, &Request::new(0..2, 1, &device)).unwrap();
        close(&to_values(s.decode(&n, latents).unwrap()), &to_values(direct), 1e-6);
        assert!(requested(&s, &n, &Request::new(0..1, 1, &device).of_class(Some(0))).unwrap_err().is_usage());
    }

    #[test]
    fn bad_settings_are_usage_errors() {
        let bad = [
            Config { latent_size: 0, ..tiny() },
            Config { generator_channels: 0, ..tiny() },
            Config { discriminator_steps: 0, ..tiny() },
            Config { attention_levels: vec![0], ..tiny() },
        ];
        for config in bad {
            assert!(system(config, [1, 16, 16], 2).err().is_some_and(|e| e.is_usage()));
        }
    }
}
