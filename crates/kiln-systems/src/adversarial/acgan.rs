//! Odena, Olah & Shlens, *Conditional Image Synthesis with Auxiliary Classifier GANs*, 2017 (AC-GAN), on the networks of
//! [`super::dcgan`].
//!
//! Objective (equations 2 and 3): with
//! L_S = E log P(S = real | X_real) + E log P(S = fake | X_fake),
//! L_C = E log P(C = c | X_real) + E log P(C = c | X_fake),
//! D maximises L_S + L_C and G maximises L_C − L_S.
//!
//! | paper | here |
//! |---|---|
//! | X_fake = G(c, z) | [`ConditionalGenerator`]: z and an embedding of c, or conditional norms (`generator_condition`) |
//! | D gives P(S \| X) and P(C \| X) | two heads of [`AuxiliaryDiscriminator`] |
//! | L_S | `objective`; by default G maximises log P(S = real \| X_fake) |
//! | L_C on real and on generated pictures | [`cross_entropy`], times `class_weight` |
//! | dropout of ½ after D's layers (appendix A) | `discriminator_dropout` |
//! | Adam, rate 2·10⁻⁴, β₁ = 0.5; weights N(0, 0.02²); leak 0.2 | as DCGAN |
//!
//! D is not told the class, and knows it: `kiln classify RUN` and `kiln evaluate RUN --metrics accuracy` ask it.
//!
//! `kiln train acgan --data mnist`, then `kiln sample RUN -n 64 --class 7`.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_data::DataKind;
use kiln_nn::loss::cross_entropy;
use kiln_nn::tensor::dropout;
use kiln_nn::{Conv2d, Conv2dConfig, Init};
use kiln_train::request::check_pictures;
use kiln_train::{
    Abilities, Batch, Classify, DataConfig, Decode, Generate, Input, Loss, Phase, Pictures, Request, SizeRule, System,
    TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::cgan::{self, ConditionalGenerator, GeneratorConditioning};
use super::class_latents::ClassLatents;
use super::dcgan::{self, Discriminator, Sizes, WEIGHTS};

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// How G is told the class: `concat` or `batch-norm`.
    pub generator_condition: GeneratorConditioning,
    /// Length of the class embedding at G's input, with `concat`.
    pub embedding_size: usize,
    /// Weight of the classes' cross-entropy, in both losses.
    pub class_weight: f64,
    /// Dropout after each layer of D; the paper has 0.5.
    pub discriminator_dropout: f64,
    /// DCGAN's settings.
    #[serde(flatten)]
    pub dcgan: dcgan::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            generator_condition: GeneratorConditioning::Concat,
            embedding_size: 50,
            class_weight: 1.0,
            discriminator_dropout: 0.5,
            dcgan: dcgan::Config::default(),
        }
    }
}

/// Both networks.
#[derive(Module, Debug)]
pub struct Networks {
    /// G.
    pub generator: ConditionalGenerator,
    /// D.
    pub discriminator: AuxiliaryDiscriminator,
}

/// DCGAN's discriminator with a second head, for the class.
#[derive(Module, Debug)]
pub struct AuxiliaryDiscriminator {
    net: Discriminator,
    classes: Conv2d,
}

impl AuxiliaryDiscriminator {
    fn new(channels: usize, inputs: usize, classes: usize, sizes: Sizes, init: &mut Init) -> Self {
        let net = Discriminator::new(inputs, channels, sizes, init);
        let features = channels << (sizes.doublings - 1);
        let head = Conv2dConfig { kernel: sizes.base, weight: WEIGHTS, ..Conv2dConfig::new(features, classes, 1) };
        Self { net, classes: head.init(init) }
    }

    /// The logits of being real and of each class. Without a key nothing is dropped.
    ///
    /// # Shapes
    /// `[n, c, h, w]` in [−1, 1] → `[n]`, `[n, classes]`
    pub fn forward(&self, images: Tensor<4>, rate: f64, key: Option<Key>) -> (Tensor<1>, Tensor<2>) {
        let features = self.net.features_by(images, |layer, x| dropout(x, rate, key.map(|key| key.at(layer as u64))));
        let logits = self.classes.forward(features.clone());
        let [n, classes, ..] = logits.dims();
        (self.net.logits(features), logits.reshape([n, classes]))
    }
}

/// The system.
pub struct Acgan {
    config: Config,
    shape: [usize; 3],
    sizes: Sizes,
    latents: ClassLatents,
}

impl System for Acgan {
    const ID: &'static str = "acgan";
    const PAPER: &'static str =
        "Odena, Olah & Shlens: Conditional Image Synthesis with Auxiliary Classifier GANs, 2017";
    const DATA: DataKind = DataKind::Labelled;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        dcgan::Dcgan::defaults()
    }

    fn sizes(config: &Config) -> SizeRule {
        dcgan::Dcgan::sizes(&config.dcgan)
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        if pictures.classes.len() < 2 {
            return Err(Error::usage(
                "acgan needs a set of at least two classes; use a folder with one sub-folder a class",
            ));
        }
        if config.embedding_size == 0 {
            return Err(Error::usage("model.embedding_size must be at least 1"));
        }
        if !(0.0..=1e6).contains(&config.class_weight) {
            let weight = config.class_weight;
            return Err(Error::usage(format!("model.class_weight = {weight}: must be 0 to 1000000; the paper has 1")));
        }
        if !(0.0..1.0).contains(&config.discriminator_dropout) {
            let rate = config.discriminator_dropout;
            return Err(Error::usage(format!("model.discriminator_dropout = {rate}: must be at least 0 and below 1")));
        }
        dcgan::Dcgan::new(config.dcgan.clone(), pictures)?;
        let latents = ClassLatents {
            system: Self::ID,
            size: config.dcgan.latent_size,
            distribution: config.dcgan.latent_distribution,
            classes: pictures.classes.clone(),
        };
        Ok(Self { sizes: Sizes::of(pictures.shape)?, shape: pictures.shape, latents, config })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, classes) = (&self.config, self.latents.count());
        let generator = cgan::Config {
            generator_condition: c.generator_condition,
            embedding_size: c.embedding_size,
            dcgan: c.dcgan.clone(),
            ..cgan::Config::default()
        };
        let (channels, widest) = (self.shape[0], c.dcgan.discriminator_channels);
        Networks {
            generator: ConditionalGenerator::new(&generator, channels, classes, self.sizes, init),
            discriminator: AuxiliaryDiscriminator::new(widest, channels, classes, self.sizes, init),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        self.config.dcgan.phases(Self::discriminator_loss, Self::generator_loss)
    }

    fn augments(_config: &Config) -> bool {
        true
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { generate: Some(self), decode: Some(self), classify: Some(self), ..Abilities::default() }
    }
}

impl Acgan {
    /// G's pictures of the batch's classes; each player has fresh z.
    fn fake(&self, networks: &Networks, phase: &str, batch: &Batch) -> Result<Tensor<4>> {
        let z = self.latents.distribution.train(batch, phase, self.latents.size);
        Ok(networks.generator.forward(z, self.latents.of_batch(batch)?))
    }

    /// Both answers of D, with the dropout of a purpose.
    fn judge(&self, networks: &Networks, images: Tensor<4>, purpose: &str, batch: &Batch) -> (Tensor<1>, Tensor<2>) {
        let key = batch.key(purpose).at(batch.start);
        networks.discriminator.forward(images, self.config.discriminator_dropout, Some(key))
    }

    /// D's loss: −L_S − L_C.
    fn discriminator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let c = &self.config.dcgan;
        let fake = batch.augmentation("augment fake").apply(self.fake(networks, "discriminator", batch)?.detach());
        let real = batch.augmentation("augment real").apply(batch.images());
        let (real, of_real) = self.judge(networks, real, "dropout real", batch);
        let (fake, of_fake) = self.judge(networks, fake, "dropout fake", batch);
        let loss = c.objective.discriminator_loss(real, fake, c.label_smoothing);
        let weight = self.config.class_weight;
        let loss = loss.plus("class_real", weight, cross_entropy(of_real, batch.labels()?));
        Ok(Some(loss.plus("class_fake", weight, cross_entropy(of_fake, batch.labels()?))))
    }

    /// G's loss: L_S − L_C.
    fn generator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let fake = batch.augmentation("augment generator").apply(self.fake(networks, "generator", batch)?);
        let (belief, classes) = self.judge(networks, fake, "dropout generator", batch);
        let loss = Loss::new("generator", self.config.dcgan.objective.generator(belief));
        let classes = cross_entropy(classes, batch.labels()?);
        Ok(Some(loss.plus("class_generator", self.config.class_weight, classes)))
    }

    /// z and y of a request.
    fn requested(&self, request: &Request) -> Result<[Tensor<2>; 2]> {
        let y = self.latents.requested(request)?;
        Ok([self.latents.distribution.requested(request, self.latents.size, Self::ID)?, y])
    }
}

impl Generate<Networks> for Acgan {
    fn takes(&self) -> Vec<Input> {
        self.latents.takes()
    }

    fn shows_classes(&self) -> bool {
        true
    }

    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        let [z, y] = self.requested(request)?;
        Ok(networks.generator.forward(z, y))
    }
}

impl Decode<Networks> for Acgan {
    fn latents(&self, _networks: &Networks, request: &Request) -> Result<Tensor<2>> {
        let [z, y] = self.requested(request)?;
        Ok(self.latents.join(z, y))
    }

    fn decode(&self, networks: &Networks, latents: Tensor<2>) -> Result<Tensor<4>> {
        let [z, y] = self.latents.split(latents)?;
        Ok(networks.generator.forward(z, y))
    }

    fn between(&self, a: Tensor<2>, b: Tensor<2>, t: f64) -> Tensor<2> {
        self.latents.between(a, b, t)
    }
}

impl Classify<Networks> for Acgan {
    fn classify(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_pictures(&images, self.shape)?;
        Ok(networks.discriminator.forward(images, 0.0, None).1)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;

    use super::*;
    use crate::adversarial::testing::{batch, close, overfit};

    fn config() -> Config {
        let dcgan = dcgan::Config {
            latent_size: 8,
            generator_channels: 4,
            discriminator_channels: 4,
            ..dcgan::Config::default()
        };
        Config { dcgan, ..Config::default() }
    }

    fn system(config: Config) -> Result<Acgan> {
        Acgan::new(config, &Pictures::new([1, 16, 16], (0..4).map(|c| format!("class {c}")).collect()))
    }

    #[test]
    fn each_player_wins_a_fixed_batch_it_plays_alone() {
        let mut s = system(config()).unwrap();
        for (player, rate) in [(0, 5e-3), (1, 5e-2)] {
            let (first, last) = overfit(&mut s, player, rate, 60, &batch(8, [1, 16, 16], 4));
            assert!(last < first - 0.2 * first.abs(), "{player}: {first} to {last}");
        }
    }

    /// Equations 2 and 3: D minimises −L_S − L_C, G −L_C + L_S, of the same answers.
    #[test]
    fn both_losses_have_the_classes_in_them() {
        let batch = batch(8, [1, 16, 16], 4);
        let term = |phase: usize, class_weight: f64| {
            let mut s = system(Config { class_weight, discriminator_dropout: 0.0, ..config() }).unwrap();
            let networks = s.networks(&mut Init::new(&Device::flex().autodiff(), 0));
            let loss = (s.phases().swap_remove(phase).loss)(&mut s, &networks, &batch).unwrap().unwrap();
            let terms = loss.terms.into_iter().filter(|(name, _)| name.starts_with("class_"));
            let of_classes: f32 = terms.map(|(_, value)| value.into_scalar::<f32>()).sum();
            (loss.total.into_scalar::<f32>(), of_classes)
        };
        for phase in [0, 1] {
            let ((without, _), (with, classes)) = (term(phase, 0.0), term(phase, 1.0));
            assert!((with - without - classes).abs() < 1e-4, "{phase}: {without}, {with}, {classes}");
            // D does not know the classes yet.
            let chance = 4f32.ln() * if phase == 0 { 2.0 } else { 1.0 };
            assert!((classes - chance).abs() < 0.3, "{classes}");
        }
    }

    #[test]
    fn a_sample_is_its_latents_and_d_says_a_class() {
        let device = Device::flex();
        let s = system(config()).unwrap();
        let n = s.networks(&mut Init::new(&device, 0));
        let request = Request::new(0..3, 1, &device).of_class(Some(2));
        let latents = Decode::latents(&s, &n, &request).unwrap();
        let images = s.generate(&n, &request).unwrap();
        close(&to_values(s.decode(&n, latents).unwrap()), &to_values(images.clone()), 1e-6);
        let logits = s.classify(&n, images.clone()).unwrap();
        assert_eq!(logits.dims(), [3, 4]);
        close(&to_values(logits), &to_values(s.classify(&n, images).unwrap()), 0.0);
        assert!(s.classify(&n, Tensor::zeros([1, 1, 8, 8], &device)).unwrap_err().is_usage());
    }

    #[test]
    fn bad_settings_are_usage_errors() {
        let bad = [
            Config { class_weight: -1.0, ..config() },
            Config { discriminator_dropout: 1.0, ..config() },
            Config { embedding_size: 0, ..config() },
        ];
        for config in bad {
            assert!(system(config).err().is_some_and(|e| e.is_usage()));
        }
        assert!(Acgan::new(config(), &Pictures::new([1, 16, 16], vec![])).err().is_some_and(|e| e.is_usage()));
    }
}
