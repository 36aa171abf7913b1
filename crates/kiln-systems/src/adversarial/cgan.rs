//! Mirza & Osindero, *Conditional Generative Adversarial Nets*, 2014, with the networks of
//! [`super::dcgan`].
//!
//! Objective (equation 2): min_G max_D E log D(x|y) + E log(1 − D(G(z|y)|y)); by default the
//! generator maximises log D(G(z|y)|y) instead.
//!
//! | paper | here |
//! |---|---|
//! | y, one-hot | [`one_hot`] |
//! | y at G's input (figure 1) | embedded in `embedding_size` numbers and concatenated with z |
//! | y at D's input (figure 1) | `condition = "map"`: embedded as one more channel of the picture |
//! | | `condition = "projection"` (Miyato & Koyama 2018): D(x\|y) = ψ(φ(x)) + e_yᵀ·mean φ(x) |
//! | z | `latent_size`, `latent_distribution` |
//!
//! Generated images get the labels of the batch's real ones, so that D cannot recognise them by class
//! frequencies.
//!
//! `kiln train cgan --data mnist`, then `kiln sample RUN -n 64 --class 7`.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::{Error, Result};
use kiln_data::DataKind;
use kiln_nn::tensor::from_values;
use kiln_nn::{Embedding, Init};
use kiln_train::request::check_class;
use kiln_train::{
    Abilities, Batch, DataConfig, Decode, Generate, Input, Loss, Phase, Pictures, Request, SizeRule, System,
    TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::dcgan::{self, Discriminator, Generator, Sizes};

/// How D is told the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Conditioning {
    /// By a learned map of the image's size, as one more input channel.
    Map,
    /// By the inner product of a learned vector with D's features.
    Projection,
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// `map` or `projection`.
    pub condition: Conditioning,
    /// Length of the class embedding at G's input.
    pub embedding_size: usize,
    /// DCGAN's settings.
    #[serde(flatten)]
    pub dcgan: dcgan::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self { condition: Conditioning::Projection, embedding_size: 50, dcgan: dcgan::Config::default() }
    }
}

/// Both networks.
#[derive(Module, Debug)]
pub struct Networks {
    /// G with its class embedding.
    pub generator: ConditionalGenerator,
    /// D with its class embedding.
    pub discriminator: ConditionalDiscriminator,
}

/// G(z|y): DCGAN's generator on z and an embedding of y.
#[derive(Module, Debug)]
pub struct ConditionalGenerator {
    embedding: Embedding,
    net: Generator,
}

impl ConditionalGenerator {
    /// `y` is one-hot, or a blend of classes.
    ///
    /// # Shapes
    /// `[n, latent_size]`, `[n, classes]` → `[n, c, h, w]` in (−1, 1)
    pub fn forward(&self, z: Tensor<2>, y: Tensor<2>) -> Tensor<4> {
        let embedded = y.matmul(self.embedding.weight.val());
        self.net.forward(Tensor::cat(vec![z, embedded], 1))
    }
}

/// D(x|y): DCGAN's discriminator told of y by a map or by projection.
#[derive(Module, Debug)]
pub struct ConditionalDiscriminator {
    embedding: Embedding,
    net: Discriminator,
    #[module(skip)]
    projects: bool,
}

impl ConditionalDiscriminator {
    /// # Shapes
    /// `[n, c, h, w]` in [−1, 1], `[n, classes]` → `[n]`
    pub fn forward(&self, images: Tensor<4>, y: Tensor<2>) -> Tensor<1> {
        let [n, _, h, w] = images.dims();
        let embedded = y.matmul(self.embedding.weight.val());
        if self.projects {
            let features = self.net.features(images);
            let similarity = (kiln_nn::resample::global_mean(features.clone()) * embedded).sum_dim(1);
            return self.net.logits(features) + similarity.reshape([n]);
        }
        self.net.forward(Tensor::cat(vec![images, embedded.reshape([n, 1, h, w])], 1))
    }
}

/// Labels as rows of the unit matrix.
///
/// # Shapes
/// `[n]` → `[n, classes]`
pub fn one_hot(labels: &[u32], classes: usize, device: &burn::tensor::Device) -> Tensor<2> {
    let row = |&label: &u32| (0..classes).map(move |c| if c == label as usize { 1.0 } else { 0.0 });
    from_values(labels.iter().flat_map(row).collect(), [labels.len(), classes], device)
}

/// The system.
pub struct Cgan {
    config: Config,
    pictures: Pictures,
    sizes: Sizes,
}

impl System for Cgan {
    const ID: &'static str = "cgan";
    const PAPER: &'static str = "Mirza & Osindero: Conditional Generative Adversarial Nets, 2014";
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
                "cgan needs a set of at least two classes; use a folder with one sub-folder a class",
            ));
        }
        if config.embedding_size == 0 {
            return Err(Error::usage("model.embedding_size must be at least 1"));
        }
        dcgan::Dcgan::new(config.dcgan.clone(), pictures)?;
        Ok(Self { sizes: Sizes::of(pictures.shape)?, pictures: pictures.clone(), config })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, classes) = (&self.config.dcgan, self.pictures.classes.len());
        let [channels, height, width] = self.pictures.shape;
        let inputs = c.latent_size + self.config.embedding_size;
        let generator = ConditionalGenerator {
            embedding: Embedding::new(classes, self.config.embedding_size, init),
            net: Generator::new(inputs, c.generator_channels, channels, self.sizes, init),
        };
        let projects = self.config.condition == Conditioning::Projection;
        let discriminator = if projects {
            let features = c.discriminator_channels << (self.sizes.doublings - 1);
            ConditionalDiscriminator {
                embedding: Embedding::from_parameters(init.normal([classes, features], 0.0, 0.02)),
                net: Discriminator::new(channels, c.discriminator_channels, self.sizes, init),
                projects,
            }
        } else {
            ConditionalDiscriminator {
                embedding: Embedding::new(classes, height * width, init),
                net: Discriminator::new(channels + 1, c.discriminator_channels, self.sizes, init),
                projects,
            }
        };
        Networks { generator, discriminator }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        dcgan::phases(&self.config.dcgan, Self::discriminator_loss, Self::generator_loss)
    }

    fn augments(_config: &Config) -> bool {
        true
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { generate: Some(self), decode: Some(self), ..Abilities::default() }
    }
}

impl Cgan {
    /// Classes of a batch as vectors, and G's pictures of them; each player has fresh z.
    fn fake(&self, networks: &Networks, phase: &str, batch: &Batch) -> Result<(Tensor<4>, Tensor<2>)> {
        let c = &self.config.dcgan;
        let y = match &batch.domains[0].host_labels {
            Some(labels) => one_hot(labels, self.pictures.classes.len(), batch.device()),
            None => return Err(Error::usage("cgan needs labels, and the data set has none")),
        };
        let z = c.latent_distribution.train(batch, phase, c.latent_size);
        Ok((networks.generator.forward(z, y.clone()), y))
    }

    /// D's loss: real pictures and their classes against G(z, y).
    fn discriminator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (c, d) = (&self.config.dcgan, &networks.discriminator);
        let (fake, y) = self.fake(networks, "discriminator", batch)?;
        let real = batch.augmentation("augment real").apply(batch.images());
        let fake = batch.augmentation("augment fake").apply(fake.detach());
        let (real, fake) = (d.forward(real, y.clone()), d.forward(fake, y));
        Ok(Some(c.objective.discriminator_loss(real, fake, c.label_smoothing)))
    }

    /// G's loss: D(G(z, y), y).
    fn generator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (fake, y) = self.fake(networks, "generator", batch)?;
        let fake = batch.augmentation("augment generator").apply(fake);
        let belief = networks.discriminator.forward(fake, y);
        Ok(Some(Loss::new("generator", self.config.dcgan.objective.generator(belief))))
    }

    /// The classes of a request, one-hot: the one asked for, else a uniform draw for each sample.
    fn classes(&self, request: &Request) -> Tensor<2> {
        let classes = self.pictures.classes.len();
        one_hot(&request.classes(classes), classes, &request.device)
    }
}

impl Generate<Networks> for Cgan {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Class, Input::Noise]
    }

    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        check_class(request.condition.class, &self.pictures.classes)?;
        let c = &self.config.dcgan;
        let z = c.latent_distribution.requested(request, c.latent_size, Self::ID)?;
        Ok(networks.generator.forward(z, self.classes(request)))
    }
}

/// Latents are z and the one-hot y, side by side: a walk changes the class as well, and sums of
/// latents add and subtract classes.
impl Decode<Networks> for Cgan {
    fn latents(&self, _networks: &Networks, request: &Request) -> Result<Tensor<2>> {
        let c = &self.config.dcgan;
        let z = c.latent_distribution.requested(request, c.latent_size, Self::ID)?;
        Ok(Tensor::cat(vec![z, self.classes(request)], 1))
    }

    fn decode(&self, networks: &Networks, latents: Tensor<2>) -> Result<Tensor<4>> {
        let (size, classes) = (self.config.dcgan.latent_size, self.pictures.classes.len());
        let [_, got] = latents.dims();
        if got != size + classes {
            return Err(Error::usage(format!(
                "latents of {got} numbers; this run's have {} (z and the class)",
                size + classes
            )));
        }
        Ok(networks.generator.forward(latents.clone().narrow(1, 0, size), latents.narrow(1, size, classes)))
    }

    /// z as in DCGAN, y on the straight line.
    fn between(&self, a: Tensor<2>, b: Tensor<2>, t: f64) -> Tensor<2> {
        let (size, classes) = (self.config.dcgan.latent_size, self.pictures.classes.len());
        let part = |x: &Tensor<2>, from, len| x.clone().narrow(1, from, len);
        let z = self.config.dcgan.latent_distribution.between(part(&a, 0, size), part(&b, 0, size), t);
        let y = part(&a, size, classes) * (1.0 - t) + part(&b, size, classes) * t;
        Tensor::cat(vec![z, y], 1)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;

    use super::*;
    use crate::adversarial::testing::{batch, close, overfit};

    fn system(condition: Conditioning, classes: usize) -> Result<Cgan> {
        let dcgan = dcgan::Config {
            latent_size: 8,
            generator_channels: 4,
            discriminator_channels: 4,
            ..dcgan::Config::default()
        };
        let classes = (0..classes).map(|c| format!("class {c}")).collect();
        Cgan::new(Config { condition, embedding_size: 6, dcgan }, &Pictures::new([1, 16, 16], classes))
    }

    #[test]
    fn each_player_wins_a_fixed_batch_it_plays_alone() {
        for condition in [Conditioning::Map, Conditioning::Projection] {
            let mut s = system(condition, 4).unwrap();
            for (player, rate) in [(0, 5e-3), (1, 5e-2)] {
                let (first, last) = overfit(&mut s, player, rate, 40, &batch(8, [1, 16, 16], 4));
                assert!(last < first - 0.2 * first.abs(), "{condition:?} {player}: {first} to {last}");
            }
        }
    }

    /// Both networks see the class, and only through it do these pictures and verdicts differ.
    #[test]
    fn both_networks_listen_to_the_class() {
        let device = Device::flex();
        for condition in [Conditioning::Map, Conditioning::Projection] {
            let s = system(condition, 4).unwrap();
            let n = s.networks(&mut Init::new(&device, 0));
            let z = Tensor::<2>::ones([2, 8], &device) * 0.5;
            let images = n.generator.forward(z, one_hot(&[0, 3], 4, &device));
            let values = to_values(images.clone());
            assert!(values[..256].iter().zip(&values[256..]).any(|(a, b)| (a - b).abs() > 1e-7));
            let same = Tensor::cat(vec![images.clone().narrow(0, 0, 1); 2], 0);
            let verdicts = to_values(n.discriminator.forward(same, one_hot(&[0, 3], 4, &device)));
            assert_ne!(verdicts[0], verdicts[1]);
        }
    }

    #[test]
    fn a_class_asked_for_is_the_class_of_all() {
        let device = Device::flex();
        let s = system(Conditioning::Map, 4).unwrap();
        let n = s.networks(&mut Init::new(&device, 0));
        let request = Request::new(0..3, 1, &device).of_class(Some(2));
        close(&to_values(s.classes(&request)), &[0., 0., 1., 0., 0., 0., 1., 0., 0., 0., 1., 0.], 0.0);
        let latents = s.latents(&n, &request).unwrap();
        let direct = s.generate(&n, &request).unwrap();
        close(&to_values(s.decode(&n, latents).unwrap()), &to_values(direct), 1e-6);

        let request = Request::new(0..400, 1, &device);
        let counts = to_values(s.classes(&request).sum_dim(0));
        assert!(counts.iter().all(|&c| c > 60.0), "{counts:?}");
        let alone = s.classes(&Request::new(17..18, 1, &device));
        close(&to_values(alone), &to_values(s.classes(&request).narrow(0, 17, 1)), 0.0);
    }

    #[test]
    fn a_walk_blends_classes() {
        let device = Device::flex();
        let s = system(Conditioning::Map, 4).unwrap();
        let n = s.networks(&mut Init::new(&device, 0));
        let at = |class| s.latents(&n, &Request::new(0..1, 1, &device).of_class(Some(class))).unwrap();
        let middle = to_values(s.between(at(0), at(1), 0.5));
        close(&middle[8..], &[0.5, 0.5, 0.0, 0.0], 1e-6);
        close(&middle[..8], &to_values(at(0))[..8], 1e-6);
    }

    #[test]
    fn bad_settings_and_requests_are_usage_errors() {
        assert!(system(Conditioning::Map, 0).err().is_some_and(|e| e.is_usage()));
        let pictures = Pictures::new([1, 16, 16], vec!["a".into(), "b".into()]);
        let bad = [
            Config { embedding_size: 0, ..Config::default() },
            Config { dcgan: dcgan::Config { latent_size: 0, ..dcgan::Config::default() }, ..Config::default() },
        ];
        for config in bad {
            assert!(Cgan::new(config, &pictures).err().is_some_and(|e| e.is_usage()));
        }
        let device = Device::flex();
        let s = system(Conditioning::Projection, 4).unwrap();
        let n = s.networks(&mut Init::new(&device, 0));
        let request = Request::new(0..1, 0, &device).of_class(Some(4));
        let e = s.generate(&n, &request).unwrap_err();
        assert!(e.is_usage() && e.to_string().contains("0 to 3"), "{e}");
        assert!(s.decode(&n, Tensor::zeros([1, 8], &device)).is_err());
    }

    #[test]
    fn settings_of_both_papers_stand_in_one_table() {
        let table = toml::Table::try_from(Config::default()).unwrap();
        assert!(table.contains_key("condition") && table.contains_key("latent_size"));
        let back: Config = table.try_into().unwrap();
        assert_eq!(back, Config::default());
    }
}
