//! Mao, Lee, Tseng, Ma & Yang, *Mode Seeking Generative Adversarial Networks for Diverse Image Synthesis*, 2019 (MSGAN), on the
//! networks of [`super::cgan`].
//!
//! Objective: that of the conditional GAN, and for G λ_ms times a term that falls as different z give more different pictures
//! (equations 4 and 5).
//!
//! | paper | here |
//! |---|---|
//! | d_I(G(c, z₁), G(c, z₂)) / d_z(z₁, z₂), mean absolute differences | [`mode_seeking`], minimised as 1 / (ratio + 10⁻⁵) as in the code |
//! | λ_ms = 1 | `mode_seeking` |
//! | z₁, z₂ and the same condition c for both | `generator_loss` |
//! | any conditional GAN | [`mode_seeking`] takes pictures and latents of any |
//!
//! G's adversarial loss is the mean over both pictures; D's is that of the conditional GAN.
//!
//! `kiln train msgan --data fashion`, then `kiln evaluate RUN --metrics fid,diversity,ndb`.

use burn::tensor::Tensor;
use kiln_core::{Error, Result};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::loss::mode_seeking;
use kiln_train::{Abilities, Batch, DataConfig, Loss, Phase, Pictures, SizeRule, System, TrainConfig};
use serde::{Deserialize, Serialize};

use super::cgan::{self, Cgan};

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// λ_ms, the weight of the mode seeking term.
    pub mode_seeking: f64,
    /// The conditional GAN's settings.
    #[serde(flatten)]
    pub cgan: cgan::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self { mode_seeking: 1.0, cgan: cgan::Config::default() }
    }
}

/// The system.
pub struct Msgan {
    weight: f64,
    cgan: Cgan,
}

impl System for Msgan {
    const ID: &'static str = "msgan";
    const PAPER: &'static str =
        "Mao, Lee, Tseng, Ma & Yang: Mode Seeking Generative Adversarial Networks for Diverse Image Synthesis, 2019";
    const DATA: DataKind = DataKind::Labelled;
    type Config = Config;
    type Networks = cgan::Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        Cgan::defaults()
    }

    fn sizes(config: &Config) -> SizeRule {
        Cgan::sizes(&config.cgan)
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let weight = config.mode_seeking;
        if !(0.0..=1e6).contains(&weight) {
            return Err(Error::usage(format!("model.mode_seeking = {weight}: must be 0 to 1000000; the paper has 1")));
        }
        Ok(Self { weight, cgan: Cgan::called(Self::ID, config.cgan, pictures)? })
    }

    fn networks(&self, init: &mut Init) -> cgan::Networks {
        self.cgan.networks(init)
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let discriminator =
            |s: &mut Self, networks: &cgan::Networks, batch: &Batch| s.cgan.discriminator_loss(networks, batch);
        self.cgan.config().dcgan.phases(discriminator, Self::generator_loss)
    }

    fn augments(_config: &Config) -> bool {
        true
    }

    fn abilities(&self) -> Abilities<'_, cgan::Networks> {
        self.cgan.abilities()
    }
}

impl Msgan {
    /// G's loss: D of two pictures of each class, and how near they are to each other beside their latents.
    fn generator_loss(&mut self, networks: &cgan::Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (c, n) = (&self.cgan.config().dcgan, batch.len());
        let [z_a, z_b] =
            ["generator", "second latent"].map(|purpose| c.latent_distribution.train(batch, purpose, c.latent_size));
        let y = self.cgan.class_latents().of_batch(batch)?;
        let y = Tensor::cat(vec![y.clone(), y], 0);
        let fake = networks.generator.forward(Tensor::cat(vec![z_a.clone(), z_b.clone()], 0), y.clone());
        let (a, b) = (fake.clone().narrow(0, 0, n), fake.clone().narrow(0, n, n));
        let fake = batch.augmentation("augment generator").apply(fake);
        let loss = Loss::new("generator", c.objective.generator(networks.discriminator.forward(fake, y)));
        Ok(Some(loss.plus("mode_seeking", self.weight, mode_seeking(a, b, z_a, z_b))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adversarial::dcgan;
    use crate::adversarial::testing::{batch, overfit};

    fn system(weight: f64) -> Result<Msgan> {
        let dcgan = dcgan::Config {
            latent_size: 8,
            generator_channels: 4,
            discriminator_channels: 4,
            ..dcgan::Config::default()
        };
        let classes = (0..4).map(|c| format!("class {c}")).collect();
        let cgan = cgan::Config { dcgan, ..cgan::Config::default() };
        Msgan::new(Config { mode_seeking: weight, cgan }, &Pictures::new([1, 16, 16], classes))
    }

    #[test]
    fn each_player_wins_a_fixed_batch_it_plays_alone() {
        let mut s = system(1.0).unwrap();
        for (player, rate) in [(0, 5e-3), (1, 5e-2)] {
            let (first, last) = overfit(&mut s, player, rate, 40, &batch(8, [1, 16, 16], 4));
            assert!(last < first - 0.2 * first.abs(), "{player}: {first} to {last}");
        }
    }

    /// Where the term is all there is, pictures of different latents move apart.
    #[test]
    fn the_term_is_in_the_loss() {
        let batch = batch(8, [1, 16, 16], 4);
        let loss = |weight| overfit(&mut system(weight).unwrap(), 1, 1e-2, 1, &batch).0;
        let (without, once, twice) = (loss(0.0), loss(1.0), loss(2.0));
        assert!(once > without && ((twice - once) / (once - without) - 1.0).abs() < 1e-3, "{without} {once} {twice}");
        let e = system(-1.0).err().unwrap();
        assert!(e.is_usage() && e.to_string().contains("model.mode_seeking"), "{e}");
    }
}
