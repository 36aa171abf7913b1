//! Mirza & Osindero, *Conditional Generative Adversarial Nets*, 2014, with the networks of
//! [`super::dcgan`].
//!
//! Objective (equation 2): min_G max_D E log D(x|y) + E log(1 − D(G(z|y)|y)); by default the
//! generator maximises log D(G(z|y)|y) instead.
//!
//! | paper | here |
//! |---|---|
//! | y, one-hot | [`one_hot`](super::class_latents::one_hot) |
//! | y at G's input (figure 1) | `generator_condition = "concat"`: embedded in `embedding_size` numbers and concatenated with z |
//! | | `generator_condition = "batch-norm"` (Miyato & Koyama 2018): every norm has a scale and a shift for each class |
//! | y at D's input (figure 1) | `condition = "map"`: embedded as one more channel of the picture |
//! | | `condition = "projection"` (Miyato & Koyama 2018): D(x\|y) = ψ(φ(x)) + e_yᵀ·mean φ(x) |
//! | | `condition = "none"`: not told, which shows what the condition is for |
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
use kiln_nn::{Activation, ConditionalBatchNorm2d, Embedding, Init, Parametrization, WeightInit};
use kiln_train::{
    Abilities, Batch, DataConfig, Decode, Generate, Input, Loss, Phase, Pictures, Request, SizeRule, System,
    TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::class_latents::ClassLatents;
use super::dcgan::{self, Discriminator, Generator, Sizes};

/// How G is told the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GeneratorConditioning {
    /// By a learned vector beside z.
    Concat,
    /// By a scale and a shift for each class after every norm.
    BatchNorm,
}

/// How D is told the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Conditioning {
    /// By a learned map of the image's size, as one more input channel.
    Map,
    /// By the inner product of a learned vector with D's features.
    Projection,
    /// Not at all.
    None,
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// How D is told the class: `map`, `projection` or `none`.
    pub condition: Conditioning,
    /// How G is: `concat` or `batch-norm`.
    pub generator_condition: GeneratorConditioning,
    /// Length of the class embedding at G's input, with `concat`.
    pub embedding_size: usize,
    /// DCGAN's settings.
    #[serde(flatten)]
    pub dcgan: dcgan::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            condition: Conditioning::Projection,
            generator_condition: GeneratorConditioning::Concat,
            embedding_size: 50,
            dcgan: dcgan::Config::default(),
        }
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

/// G(z|y): DCGAN's generator on z and an embedding of y, or with norms of y.
#[derive(Module, Debug)]
pub struct ConditionalGenerator {
    embedding: Option<Embedding>,
    net: Generator,
    norms: Vec<ConditionalBatchNorm2d>,
}

impl ConditionalGenerator {
    /// For pictures of so many channels, of so many classes.
    pub fn new(config: &Config, channels: usize, classes: usize, sizes: Sizes, init: &mut Init) -> Self {
        let c = &config.dcgan;
        match config.generator_condition {
            GeneratorConditioning::Concat => {
                let inputs = c.latent_size + config.embedding_size;
                let embedding = Some(Embedding::new(classes, config.embedding_size, init));
                let net = Generator::new(inputs, c.generator_channels, channels, sizes, init);
                Self { embedding, net, norms: Vec::new() }
            }
            GeneratorConditioning::BatchNorm => {
                let net = Generator::without_norms(c.latent_size, c.generator_channels, channels, sizes, init);
                // Scales about 1 and shifts about 0, as DCGAN draws its scales.
                let norm = |width| {
                    let how = (WeightInit::Normal(0.02), Parametrization::Direct);
                    ConditionalBatchNorm2d::new(width, classes, how.0, how.1, init)
                };
                let norms = Generator::widths(c.generator_channels, sizes).map(norm).collect();
                Self { embedding: None, net, norms }
            }
        }
    }

    /// `y` is one-hot, or a blend of classes.
    ///
    /// # Shapes
    /// `[n, latent_size]`, `[n, classes]` → `[n, c, h, w]` in (−1, 1)
    pub fn forward(&self, z: Tensor<2>, y: Tensor<2>) -> Tensor<4> {
        match &self.embedding {
            Some(table) => self.net.forward(Tensor::cat(vec![z, y.matmul(table.weight.val())], 1)),
            None => self.net.forward_by(z, |i, x| self.norms[i].forward(x, y.clone(), Activation::Relu)),
        }
    }
}

/// D(x|y): DCGAN's discriminator told of y by a map, by projection or not at all.
#[derive(Module, Debug)]
pub struct ConditionalDiscriminator {
    embedding: Option<Embedding>,
    net: Discriminator,
    #[module(skip)]
    projects: bool,
}

impl ConditionalDiscriminator {
    fn new(
        config: &Config,
        [channels, height, width]: [usize; 3],
        classes: usize,
        sizes: Sizes,
        init: &mut Init,
    ) -> Self {
        let widest = config.dcgan.discriminator_channels;
        let net = |inputs, init: &mut Init| Discriminator::new(inputs, widest, sizes, init);
        let (embedding, inputs) = match config.condition {
            Conditioning::None => (None, channels),
            Conditioning::Projection => {
                let features = widest << (sizes.doublings - 1);
                (Some(Embedding::from_parameters(init.normal([classes, features], 0.0, 0.02))), channels)
            }
            Conditioning::Map => (Some(Embedding::new(classes, height * width, init)), channels + 1),
        };
        Self { embedding, net: net(inputs, init), projects: config.condition == Conditioning::Projection }
    }

    /// # Shapes
    /// `[n, c, h, w]` in [−1, 1], `[n, classes]` → `[n]`
    pub fn forward(&self, images: Tensor<4>, y: Tensor<2>) -> Tensor<1> {
        let [n, _, h, w] = images.dims();
        let Some(table) = &self.embedding else { return self.net.forward(images) };
        let embedded = y.matmul(table.weight.val());
        if self.projects {
            let features = self.net.features(images);
            let similarity = (kiln_nn::resample::global_mean(features.clone()) * embedded).sum_dim(1);
            return self.net.logits(features) + similarity.reshape([n]);
        }
        self.net.forward(Tensor::cat(vec![images, embedded.reshape([n, 1, h, w])], 1))
    }
}

/// The system.
pub struct Cgan {
    config: Config,
    shape: [usize; 3],
    sizes: Sizes,
    latents: ClassLatents,
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
        Self::called(Self::ID, config, pictures)
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let classes = self.latents.count();
        Networks {
            generator: ConditionalGenerator::new(&self.config, self.shape[0], classes, self.sizes, init),
            discriminator: ConditionalDiscriminator::new(&self.config, self.shape, classes, self.sizes, init),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        self.config.dcgan.phases(Self::discriminator_loss, Self::generator_loss)
    }

    fn augments(_config: &Config) -> bool {
        true
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { generate: Some(self), decode: Some(self), ..Abilities::default() }
    }
}

impl Cgan {
    /// The same under another system's name, which messages say.
    ///
    /// # Errors
    /// A usage error naming the setting that does not fit.
    pub fn called(system: &'static str, config: Config, pictures: &Pictures) -> Result<Self> {
        if pictures.classes.len() < 2 {
            return Err(Error::usage(format!(
                "{system} needs a set of at least two classes; use a folder with one sub-folder a class"
            )));
        }
        if config.embedding_size == 0 {
            return Err(Error::usage("model.embedding_size must be at least 1"));
        }
        dcgan::Dcgan::new(config.dcgan.clone(), pictures)?;
        let latents = ClassLatents {
            system,
            size: config.dcgan.latent_size,
            distribution: config.dcgan.latent_distribution,
            classes: pictures.classes.clone(),
        };
        Ok(Self { sizes: Sizes::of(pictures.shape)?, shape: pictures.shape, latents, config })
    }

    /// Its settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// z and classes.
    pub fn class_latents(&self) -> &ClassLatents {
        &self.latents
    }

    /// G's pictures of the batch's classes; each player has fresh z.
    fn fake(&self, networks: &Networks, phase: &str, batch: &Batch) -> Result<(Tensor<4>, Tensor<2>)> {
        let c = &self.config.dcgan;
        let y = self.latents.of_batch(batch)?;
        let z = c.latent_distribution.train(batch, phase, c.latent_size);
        Ok((networks.generator.forward(z, y.clone()), y))
    }

    /// D's loss: real pictures and their classes against G(z, y).
    pub fn discriminator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
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

    /// z and y of a request.
    fn requested(&self, request: &Request) -> Result<[Tensor<2>; 2]> {
        let y = self.latents.requested(request)?;
        let z = self.latents.distribution.requested(request, self.latents.size, self.latents.system)?;
        Ok([z, y])
    }
}

impl Generate<Networks> for Cgan {
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

impl Decode<Networks> for Cgan {
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

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;

    use super::*;
    use crate::adversarial::class_latents::one_hot;
    use crate::adversarial::testing::{batch, close, overfit};

    fn system(condition: Conditioning, classes: usize) -> Result<Cgan> {
        let dcgan = dcgan::Config {
            latent_size: 8,
            generator_channels: 4,
            discriminator_channels: 4,
            ..dcgan::Config::default()
        };
        let classes = (0..classes).map(|c| format!("class {c}")).collect();
        // Both ways to tell G, one with each way to tell D.
        let generator_condition = match condition {
            Conditioning::Map => GeneratorConditioning::Concat,
            _ => GeneratorConditioning::BatchNorm,
        };
        let config = Config { condition, generator_condition, embedding_size: 6, dcgan };
        Cgan::new(config, &Pictures::new([1, 16, 16], classes))
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
        let s = system(Conditioning::None, 4).unwrap();
        let n = s.networks(&mut Init::new(&device, 0));
        let verdicts =
            to_values(n.discriminator.forward(Tensor::ones([2, 1, 16, 16], &device), one_hot(&[0, 3], 4, &device)));
        assert_eq!(verdicts[0], verdicts[1]);
    }

    #[test]
    fn a_class_asked_for_is_the_class_of_all() {
        let device = Device::flex();
        let s = system(Conditioning::Map, 4).unwrap();
        let n = s.networks(&mut Init::new(&device, 0));
        let request = Request::new(0..3, 1, &device).of_class(Some(2));
        close(
            &to_values(s.latents.requested(&request).unwrap()),
            &[0., 0., 1., 0., 0., 0., 1., 0., 0., 0., 1., 0.],
            0.0,
        );
        let latents = Decode::latents(&s, &n, &request).unwrap();
        let direct = s.generate(&n, &request).unwrap();
        close(&to_values(s.decode(&n, latents).unwrap()), &to_values(direct), 1e-6);

        let request = Request::new(0..400, 1, &device);
        let counts = to_values(s.latents.requested(&request).unwrap().sum_dim(0));
        assert!(counts.iter().all(|&c| c > 60.0), "{counts:?}");
        let alone = s.latents.requested(&Request::new(17..18, 1, &device)).unwrap();
        close(&to_values(alone), &to_values(s.latents.requested(&request).unwrap().narrow(0, 17, 1)), 0.0);
    }

    #[test]
    fn a_walk_blends_classes() {
        let device = Device::flex();
        let s = system(Conditioning::Map, 4).unwrap();
        let n = s.networks(&mut Init::new(&device, 0));
        let at = |class| Decode::latents(&s, &n, &Request::new(0..1, 1, &device).of_class(Some(class))).unwrap();
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
