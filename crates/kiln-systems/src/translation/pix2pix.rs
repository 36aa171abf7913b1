//! Isola, Zhu, Zhou & Efros, *Image-to-Image Translation with Conditional Adversarial Networks*, 2017.
//!
//! Objective (equations 1 to 4), of pairs (x, y):
//!
//! G* = arg min_G max_D L_cGAN(G, D) + λ L_L1(G)
//!
//! * L_cGAN (equation 1): E log D(x, y) + E log(1 − D(x, G(x, z))), a mean over the patches that D judges. G maximises log D(x, G(x, z))
//!   instead, and D's loss is halved (§3.3);
//! * L_L1 (equation 3): E ‖y − G(x, z)‖₁, per pixel.
//!
//! | paper | here |
//! |---|---|
//! | G, a U-Net (§3.2.1) | `generator`, a [`Generator`] |
//! | D, a PatchGAN (§3.2.2) | `discriminator`, a [`PatchDiscriminator`] on x and y, one above the other |
//! | z: dropout in training and at test (§3.1) | `dropout`, `dropout_at_test` |
//! | batch norm by the statistics of the test batch (§3.3) | `statistics_at_test = "picture"` |
//! | λ = 100 (§3.3) | `l1_weight` |
//! | Adam, rate 2·10⁻⁴, β₁ = 0.5, batches of 1 (§3.3 and §6.2) | both optimisers, `train.batch` |
//! | a D that does not see x (equation 2) | `conditional = false` |
//! | patches of 1, 16, 70 and 286 pixels (table 4) | `discriminator_layers` = 0, 1, 3 and 5 |
//!
//! With `noise_size` G also takes z ~ N(0, 1) as maps beside the picture: the "pix2pix + noise" of Zhu 2017 (*Toward Multimodal
//! Image-to-Image Translation*), whose z does little by itself; `mode_seeking_weight` adds the term of Mao 2019 that makes it matter.
//!
//! `kiln train pix2pix --data emoji:openmoji-black,emoji:openmoji-color`, then `kiln translate RUN picture.png out.png`.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::{Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::loss::{l1, mode_seeking};
use kiln_nn::{Init, concat};
use kiln_train::{
    Abilities, Batch, DataConfig, Loss, OptimizerConfig, Phase, Pictures, Request, Schedule, SizeRule, System,
    TrainConfig, Translate,
};
use serde::{Deserialize, Serialize};

use super::networks::{
    Architecture, Generator, GeneratorConfig, Made, Normalization, Pass, PatchConfig, PatchDiscriminator, beside,
};
use super::two_way::{self, check_weights};
use crate::adversarial::objective::Objective;
use crate::one_pass::NoSettings;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// G.
    #[serde(flatten)]
    pub generator: GeneratorConfig,
    /// D.
    #[serde(flatten)]
    pub discriminator: PatchConfig,
    /// Whether D sees the picture to translate beside its translation.
    pub conditional: bool,
    /// The adversarial loss.
    pub objective: Objective,
    /// Weight of the adversarial loss; 0 trains with L1 alone.
    pub adversarial_weight: f64,
    /// λ, the weight of L1; 0 trains with the adversarial loss alone.
    pub l1_weight: f64,
    /// Whether `translate` drops as training does, so that each seed gives another picture.
    pub dropout_at_test: bool,
    /// What batch norm uses in `translate`: the statistics of each `picture`, or the `running` ones.
    pub statistics_at_test: Statistics,
    /// Numbers of a z that G takes beside the picture; 0 for none, as in the paper.
    pub noise_size: usize,
    /// Weight of the mode seeking term of Mao 2019, which needs z.
    pub mode_seeking_weight: f64,
    /// G's optimiser.
    pub generator_optimizer: OptimizerConfig,
    /// D's optimiser.
    pub discriminator_optimizer: OptimizerConfig,
}

/// By which statistics batch norm normalises a picture that is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Statistics {
    /// Its own.
    Picture,
    /// Those of the training.
    Running,
}

impl Default for Config {
    fn default() -> Self {
        let adam = OptimizerConfig::adam(2e-4).betas(0.5, 0.999).schedule(Schedule::LinearSecondHalf);
        Self {
            generator: GeneratorConfig {
                generator: Architecture::Unet,
                halvings: 0,
                generator_norm: Normalization::Batch,
                dropout: 0.5,
                ..GeneratorConfig::default()
            },
            discriminator: PatchConfig::new(64, Normalization::Batch),
            conditional: true,
            objective: Objective::NonSaturating,
            adversarial_weight: 1.0,
            l1_weight: 100.0,
            dropout_at_test: true,
            statistics_at_test: Statistics::Picture,
            noise_size: 0,
            mode_seeking_weight: 0.0,
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
    pub discriminator: PatchDiscriminator,
}

/// The system.
pub struct Pix2Pix {
    config: Config,
    shape: [usize; 3],
    /// Made in G's phase of this step and not yet judged.
    fakes: Made<Tensor<4>>,
}

impl System for Pix2Pix {
    const ID: &'static str = "pix2pix";
    const PAPER: &'static str =
        "Isola, Zhu, Zhou & Efros: Image-to-Image Translation with Conditional Adversarial Networks, 2017";
    const DATA: DataKind = DataKind::Paired;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        two_way::defaults(1)
    }

    fn sizes(config: &Config) -> SizeRule {
        config.discriminator.sizes(config.generator.sizes(Self::ID))
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        config.generator.check()?;
        config.discriminator.check()?;
        check_weights(&[
            ("adversarial_weight", config.adversarial_weight),
            ("l1_weight", config.l1_weight),
            ("mode_seeking_weight", config.mode_seeking_weight),
        ])?;
        refuse_if!(
            config.adversarial_weight == 0.0 && config.l1_weight == 0.0,
            "model.adversarial_weight and model.l1_weight are both 0: nothing to learn"
        );
        refuse_if!(
            config.mode_seeking_weight > 0.0 && config.noise_size == 0,
            "model.mode_seeking_weight compares the pictures of two z: set model.noise_size, 8 in the papers"
        );
        config.objective.check_penalty(false, &config.discriminator_optimizer)?;
        Self::sizes(&config).check(pictures.shape)?;
        Ok(Self { config, shape: pictures.shape, fakes: Made::default() })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, [channels, h, w]) = (&self.config, self.shape);
        let seen = if c.conditional { 2 * channels } else { channels };
        Networks {
            generator: c.generator.init(channels + c.noise_size, channels, [h, w], init),
            discriminator: c.discriminator.init(seen, init),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let (c, networks) = (&self.config, [&["generator"], &["discriminator"]]);
        let mut phases =
            vec![Phase::new("generator", networks[0], c.generator_optimizer.clone(), Self::generator_loss)];
        if c.adversarial_weight > 0.0 {
            let optimizer = c.discriminator_optimizer.clone();
            phases.push(Phase::new("discriminator", networks[1], optimizer, Self::discriminator_loss));
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

impl Pix2Pix {
    /// x with z as maps beside it.
    fn with_latent(&self, x: Tensor<4>, z: impl Fn([usize; 2]) -> Tensor<2>) -> Tensor<4> {
        let ([n, ..], size) = (x.dims(), self.config.noise_size);
        if size == 0 { x } else { beside(x, z([n, size])) }
    }

    /// D's logits of y as a translation of x, for every patch.
    fn judge(&self, networks: &Networks, x: &Tensor<4>, y: Tensor<4>) -> Tensor<1> {
        let seen = if self.config.conditional { concat(x.clone(), y) } else { y };
        networks.discriminator.patches(seen)
    }

    /// L_cGAN for G, λ L_L1, and the mode seeking term.
    fn generator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let ((a, b), c) = (batch.pairs()?, &self.config);
        let (x, y, pass) = (&a.images, &b.images, Pass::training(batch));
        let z = |purpose: &'static str| move |shape| batch.normal(purpose, shape);
        let g = |z: &dyn Fn([usize; 2]) -> Tensor<2>| networks.generator.forward(self.with_latent(x.clone(), z), &pass);
        let fake = g(&z("latent"));
        let mut loss = Loss { total: Tensor::zeros([1], &x.device()), terms: Vec::new() };
        if c.adversarial_weight > 0.0 {
            let term = c.objective.generator(self.judge(networks, x, fake.clone()));
            loss = loss.plus("adversarial", c.adversarial_weight, term);
        }
        if c.l1_weight > 0.0 {
            loss = loss.plus("l1", c.l1_weight, l1(fake.clone(), y.clone()));
        }
        if c.mode_seeking_weight > 0.0 {
            let shape = [x.dims()[0], c.noise_size];
            let [z_a, z_b] = ["latent", "second latent"].map(|purpose| z(purpose)(shape));
            let term = mode_seeking(fake.clone(), g(&z("second latent")), z_a, z_b);
            loss = loss.plus("mode_seeking", c.mode_seeking_weight, term);
        }
        if c.adversarial_weight > 0.0 {
            self.fakes.put(batch, fake.detach());
        }
        Ok(Some(loss))
    }

    /// Half of L_cGAN for D, on the pictures that G was just judged by.
    fn discriminator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (a, b) = batch.pairs()?;
        let fake = self.fakes.take(batch).unwrap_or_else(|| {
            let x = self.with_latent(a.images.clone(), |shape| batch.normal("latent", shape));
            networks.generator.forward(x, &Pass::training(batch)).detach()
        });
        let real = self.judge(networks, &a.images, b.images.clone());
        let fake = self.judge(networks, &a.images, fake);
        let loss = self.config.objective.discriminator_loss(real, fake, 0.0);
        Ok(Some(Loss { total: loss.total * 0.5, ..loss }))
    }
}

impl Translate<Networks> for Pix2Pix {
    fn directions(&self) -> Vec<&'static str> {
        vec!["a2b"]
    }

    fn own_sizes(&self) -> Option<SizeRule> {
        Some(self.config.generator.own_sizes(self.shape, Self::ID))
    }

    fn translate(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<4>> {
        let c = &self.config;
        c.generator.check_input(&images, self.shape, Self::ID)?;
        request.sampler::<NoSettings>(Self::ID)?;
        let mut pass = if c.dropout_at_test { Pass::dropping(request) } else { Pass::default() };
        if c.statistics_at_test == Statistics::Picture {
            pass = pass.by_picture();
        }
        let x = self.with_latent(images, |shape| request.normal("latent", shape));
        Ok(networks.generator.forward(x, &pass))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;

    use super::*;
    use crate::translation::testing::{fit, pairs, term};

    fn tiny() -> Config {
        let adam = OptimizerConfig::adam(2e-3).betas(0.5, 0.999);
        Config {
            generator: GeneratorConfig { generator_channels: 4, dropout: 0.0, ..Config::default().generator },
            discriminator: PatchConfig::new(4, Config::default().discriminator.discriminator_norm),
            generator_optimizer: adam.clone(),
            discriminator_optimizer: adam,
            ..Config::default()
        }
    }

    #[test]
    fn fits_one_batch() {
        let (log, system) = fit::<Pix2Pix>(tiny(), 60, 2, 16);
        let (first, last) = (term(&log[0], "l1"), term(&log[59], "l1"));
        assert!(last < 0.5 * first, "l1 {first} -> {last}");
        assert!(system.fakes.is_empty());
    }

    #[test]
    fn weights_switch_terms_and_phases_off() {
        let names = |config| -> Vec<String> {
            fit::<Pix2Pix>(config, 1, 2, 16).0[0].iter().map(|(name, _)| name.clone()).collect()
        };
        let d = ["discriminator", "d_real", "d_fake", "signs"];
        let with = |terms: &[&str]| -> Vec<String> { terms.iter().chain(&d).map(|name| name.to_string()).collect() };
        assert_eq!(names(tiny()).len(), with(&["adversarial", "l1"]).len());
        assert_eq!(names(Config { adversarial_weight: 0.0, ..tiny() }), ["l1"]);
        assert_eq!(names(Config { l1_weight: 0.0, ..tiny() })[0], "adversarial");
        let seeking = Config { noise_size: 3, mode_seeking_weight: 1.0, adversarial_weight: 0.0, ..tiny() };
        assert_eq!(names(seeking), ["l1", "mode_seeking"]);
    }

    #[test]
    fn noise_is_of_the_seed_and_can_be_left_out() {
        let device = Device::flex();
        let image = || pairs(0, 1, 16, &device).images();
        let made = |config: Config, seed: u64| {
            let system = Pix2Pix::new(config, &Pictures::new([3, 16, 16], Vec::new())).unwrap();
            let networks = system.networks(&mut Init::new(&device, 0));
            to_values(system.translate(&networks, image(), &Request::new(0..1, seed, &device)).unwrap())
        };
        let noisy = Config { generator: GeneratorConfig { dropout: 0.5, ..tiny().generator }, ..tiny() };
        assert_eq!(made(noisy.clone(), 1), made(noisy.clone(), 1));
        assert_ne!(made(noisy.clone(), 1), made(noisy.clone(), 2));
        let still = Config { dropout_at_test: false, ..noisy };
        assert_eq!(made(still.clone(), 1), made(still, 2));
        let latent = Config { noise_size: 4, ..tiny() };
        assert_ne!(made(latent.clone(), 1), made(latent, 2));
    }

    #[test]
    fn bad_settings_are_usage_errors() {
        for config in [
            Config { adversarial_weight: 0.0, l1_weight: 0.0, ..tiny() },
            Config { mode_seeking_weight: 1.0, ..tiny() },
            Config { l1_weight: f64::NAN, ..tiny() },
            Config { objective: Objective::Wasserstein, ..tiny() },
            Config { discriminator: PatchConfig { discriminator_layers: 4, ..tiny().discriminator }, ..tiny() },
            Config { generator: GeneratorConfig { halvings: 5, ..tiny().generator }, ..tiny() },
        ] {
            let e = Pix2Pix::new(config, &Pictures::new([3, 16, 16], Vec::new())).err().unwrap();
            assert!(e.is_usage(), "{e}");
        }
    }
}
