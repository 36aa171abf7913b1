//! Makhzani, Shlens, Jaitly, Goodfellow & Frey, *Adversarial Autoencoders*, 2016.
//!
//! An autoencoder whose codes follow a prior p(z). The codes are matched to the prior by a discriminator D, not by a
//! closed-form divergence as in `vae`, so p(z) can be any distribution that can be sampled. Each step has these phases
//! (§2 and §5), each with its own optimiser:
//!
//! - *reconstruction*: encoder q and decoder p minimise −log p(x | q(x));
//! - *discriminator*: D minimises −E_p(z) log σ(D(z)) − E_x log(1 − σ(D(q(x)))), its *regularisation* half;
//! - *generator*: q minimises −E_x log σ(D(q(x))), the other half: it moves q(z) = ∫ q(z|x) p(x) dx towards p(z);
//! - *classification* (semi-supervised): q minimises the cross-entropy of the labelled images.
//!
//! **Unsupervised**: as above. **Conditional** (§2.3, figure 3): D also sees a one-hot class, or "none" for an image
//! without label; a sample of p(z) comes from the component of that class, or from any. **Semi-supervised** (§5,
//! figure 8): q gives a class y (softmax) and a style z, each with its own discriminator, categorical and Gaussian; the
//! decoder sees both.
//!
//! | paper | here |
//! |---|---|
//! | q(z\|x), deterministic | `encoder`, a [`Coder`] |
//! | q(y\|x) | `classes`, on the encoder's last hidden layer |
//! | p(x\|z), p(x\|y, z) | `decoder` |
//! | adversarial network(s) on z; on y | `code_discriminator`; `class_discriminator` |
//! | p(z): Gaussian, mixture of ten 2-D Gaussians, swiss roll | [`Prior`] |
//!
//! `kiln train aae --data starter`; `--set model.mode=semi-supervised --set data.labels=100`.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Int, Tensor};
use kiln_core::random::Key;
use kiln_core::{Error, Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::loss::cross_entropy;
use kiln_nn::tensor::{from_indices, from_values};
use kiln_nn::{Init, Linear, LinearConfig};
use kiln_train::ability::slerp;
use kiln_train::request::{check_class, check_pictures};
use kiln_train::{
    Abilities, Batch, Classify, DataConfig, Decode, Domain, Encode, FitData, Generate, Input, Loss, OptimizerConfig,
    Phase, Pictures, Reconstruct, Represent, Request, Schedule, SizeRule, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::coder::{Coder, Logits};
use super::latent::{LatentConfig, check_latents, prior_latents};
use super::networks::{Decoder, joined, one_hot};
use super::vae::training;
use crate::adversarial::objective::Objective;
use crate::one_pass::{NoSettings, truncation_psi};

/// What labels do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Labels are not used.
    Unsupervised,
    /// The label says which part of the prior an image's code belongs to.
    Conditional,
    /// The labels train the encoder to predict the class.
    SemiSupervised,
}

/// p(z).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prior {
    /// N(0, I).
    Gaussian,
    /// Long Gaussians in the plane, like petals, as many as there are classes (figure 4, left).
    Mixture,
    /// A spiral in the plane, the classes one after another along it (figure 4, right).
    SwissRoll,
}

/// Parts of a prior in the plane where there are no classes.
const COMPONENTS: usize = 10;

impl Prior {
    /// Draws `indices`, each from the component `parts[i]` of `of`.
    ///
    /// # Shapes
    /// → `[n, latent]`; the plane's have `latent` = 2
    fn draw(
        self,
        key: Key,
        indices: Range<u64>,
        parts: &[u32],
        of: usize,
        latent: usize,
        device: &Device,
    ) -> Tensor<2> {
        let n = parts.len();
        let parts = parts.iter().map(|&part| f64::from(part));
        let of = of as f64;
        let values: Vec<f32> = match self {
            Self::Gaussian => key.normal(indices, latent),
            Self::Mixture => {
                let draws = key.normal(indices, 2);
                parts.zip(draws.chunks(2)).flat_map(|(part, d)| petal(part / of, [d[0], d[1]].map(f64::from))).collect()
            }
            Self::SwissRoll => {
                let draws = key.uniform(indices, 1);
                parts.zip(draws).flat_map(|(part, d)| roll((part + f64::from(d)) / of)).collect()
            }
        };
        from_values(values, [n, latent], device)
    }
}

/// A point of a Gaussian 1.4 from the middle at this part of the circle, ½ long and 0.05 wide, of standard normal numbers.
fn petal(around: f64, [along, across]: [f64; 2]) -> [f32; 2] {
    let (sin, cos) = (2.0 * std::f64::consts::PI * around).sin_cos();
    let (x, y) = (0.5 * along + 1.4, 0.05 * across);
    [(x * cos - y * sin) as f32, (x * sin + y * cos) as f32]
}

/// The point of a spiral of two turns and radius 3 before which this part of its area lies.
fn roll(part: f64) -> [f32; 2] {
    let (sin, cos) = (4.0 * std::f64::consts::PI * part.sqrt()).sin_cos();
    [cos, sin].map(|v| (3.0 * part.sqrt() * v) as f32)
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// `unsupervised`, `conditional` or `semi-supervised`.
    pub mode: Mode,
    /// `gaussian`, `mixture` or `swiss-roll`; the latter two need `latent` = 2.
    pub prior: Prior,
    /// The networks and p(x|z).
    #[serde(flatten)]
    pub model: LatentConfig,
    /// Widths of each discriminator's hidden layers.
    pub discriminator: Vec<usize>,
    /// Standard deviation of the noise on the encoder's input during training (§5: 0.3 with few labels).
    pub input_noise: f64,
    /// Optimiser of the reconstruction phase.
    pub optimizer: OptimizerConfig,
    /// Optimiser of the discriminator phase.
    pub discriminator_optimizer: OptimizerConfig,
    /// Optimiser of the generator phase.
    pub generator_optimizer: OptimizerConfig,
    /// Optimiser of the classification phase.
    pub classification_optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        let mut model = LatentConfig::default();
        model.networks.latent = 8;
        // With constant rates the game leaves its balance after some passes.
        let falling = |rate| OptimizerConfig::adam(rate).schedule(Schedule::Cosine);
        Self {
            mode: Mode::Unsupervised,
            prior: Prior::Gaussian,
            model,
            discriminator: vec![256, 256],
            input_noise: 0.0,
            optimizer: falling(1e-3),
            discriminator_optimizer: falling(5e-4).betas(0.5, 0.999),
            generator_optimizer: falling(5e-4).betas(0.5, 0.999),
            classification_optimizer: falling(1e-3),
        }
    }
}

/// The networks that a mode has.
#[derive(Module, Debug)]
pub struct Networks {
    /// q(z|x), and what q(y|x) is made of.
    pub encoder: Coder,
    /// The logits of q(y|x).
    pub classes: Option<Linear>,
    /// p(x|·).
    pub decoder: Decoder,
    /// D on z.
    pub code_discriminator: Logits,
    /// D on y.
    pub class_discriminator: Option<Logits>,
}

/// Codes, of pictures or drawn.
struct Codes {
    /// `[n, latent]`.
    z: Tensor<2>,
    /// Classes, `[n, classes]`, where the encoder says them.
    y: Option<Tensor<2>>,
}

impl Codes {
    fn joined(self) -> Tensor<2> {
        joined(self.z, self.y)
    }

    fn detach(self) -> Self {
        Self { z: self.z.detach(), y: self.y.map(Tensor::detach) }
    }
}

/// The game of every discriminator here.
const GAME: Objective = Objective::NonSaturating;

fn verdicts(discriminator: &Logits, codes: Tensor<2>) -> Tensor<1> {
    let n = codes.dims()[0];
    discriminator.forward(codes).reshape([n])
}

/// What the discriminators minimise; the code's sees what it is told beside it.
fn discriminator_loss(networks: &Networks, real: Codes, fake: Codes, told: Option<Tensor<2>>) -> Tensor<1> {
    let of_z = |z| verdicts(&networks.code_discriminator, joined(z, told.clone()));
    let loss = GAME.discriminator(of_z(real.z), of_z(fake.z), 0.0);
    match (&networks.class_discriminator, real.y, fake.y) {
        (Some(d), Some(real), Some(fake)) => loss + GAME.discriminator(verdicts(d, real), verdicts(d, fake), 0.0),
        _ => loss,
    }
}

/// What the encoder minimises against them.
fn generator_loss(networks: &Networks, fake: Codes, told: Option<Tensor<2>>) -> Tensor<1> {
    let loss = GAME.generator(verdicts(&networks.code_discriminator, joined(fake.z, told)));
    match (&networks.class_discriminator, fake.y) {
        (Some(d), Some(y)) => loss + GAME.generator(verdicts(d, y)),
        _ => loss,
    }
}

/// The system.
pub struct Aae {
    config: Config,
    pictures: Pictures,
}

impl System for Aae {
    const ID: &'static str = "aae";
    const PAPER: &'static str = "Makhzani et al.: Adversarial Autoencoders, 2016";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn data_kind(config: &Config) -> DataKind {
        match config.mode {
            Mode::Unsupervised => DataKind::Images,
            Mode::Conditional | Mode::SemiSupervised => DataKind::PartlyLabelled,
        }
    }

    fn defaults() -> (DataConfig, TrainConfig) {
        (DataConfig::default(), TrainConfig { batch: 100, ..training() })
    }

    fn sizes(config: &Config) -> SizeRule {
        config.model.networks.sizes()
    }

    fn resolve(config: Config, pictures: &Pictures) -> Config {
        Config { model: config.model.resolved(pictures.shape), ..config }
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let config = Self::resolve(config, pictures);
        config.model.networks.check(pictures.shape)?;
        config.model.pixels.check()?;
        refuse_if!(config.discriminator.contains(&0), "model.discriminator: each width must be at least 1");
        refuse_if!(
            !(config.input_noise >= 0.0 && config.input_noise.is_finite()),
            "model.input_noise must not be negative"
        );
        refuse_if!(
            config.prior != Prior::Gaussian && config.model.networks.latent != 2,
            "model.prior: mixture and swiss-roll lie in the plane; set model.latent = 2"
        );
        refuse_if!(
            config.mode == Mode::Conditional && config.prior == Prior::Gaussian,
            "model.mode = \"conditional\" needs a prior with parts: set model.prior to mixture or swiss-roll"
        );
        refuse_if!(
            config.mode == Mode::SemiSupervised && config.prior != Prior::Gaussian,
            "model.mode = \"semi-supervised\" has its classes beside the code: set model.prior = \"gaussian\""
        );
        refuse_if!(
            config.mode != Mode::Unsupervised && pictures.classes.len() < 2,
            "model.mode: this one needs a set of at least two classes"
        );
        Ok(Self { config, pictures: pictures.clone() })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, shape) = (&self.config, self.pictures.shape);
        let LatentConfig { networks, pixels } = &c.model;
        let semi = c.mode == Mode::SemiSupervised;
        let classes = self.pictures.classes.len();
        let encoder = Coder::new(networks, shape, init);
        let discriminator =
            |inputs: usize, init: &mut Init| Logits::mlp(inputs, &c.discriminator, 1, networks.nonlinearity, init);
        let told = if c.mode == Mode::Conditional { classes + 1 } else { 0 };
        Networks {
            classes: semi.then(|| LinearConfig::new(encoder.width(), classes).init(init)),
            encoder,
            decoder: networks.decoder(shape, if semi { classes } else { 0 }, pixels.scale(), init),
            code_discriminator: discriminator(networks.latent + told, init),
            class_discriminator: semi.then(|| discriminator(classes, init)),
        }
    }

    fn initialise(&self, fresh: Networks, data: &FitData<'_>) -> Result<Networks> {
        Ok(Networks { decoder: self.config.model.pixels.centred(fresh.decoder, data)?, ..fresh })
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let c = &self.config;
        let codes = &["encoder", "classes"];
        let discriminators = &["code_discriminator", "class_discriminator"];
        let mut phases = vec![
            Phase::new(
                "reconstruction",
                &["encoder", "classes", "decoder"],
                c.optimizer.clone(),
                Self::reconstruction_phase,
            ),
            Phase::new("discriminator", discriminators, c.discriminator_optimizer.clone(), Self::discriminator_phase),
            Phase::new("generator", codes, c.generator_optimizer.clone(), Self::generator_phase),
        ];
        if c.mode == Mode::SemiSupervised {
            let optimizer = c.classification_optimizer.clone();
            phases.push(Phase::new("classification", codes, optimizer, Self::classification_phase));
        }
        phases
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities {
            generate: Some(self),
            reconstruct: Some(self),
            encode: Some(self),
            decode: Some(self),
            represent: Some(self),
            classify: (self.config.mode == Mode::SemiSupervised).then_some(self as _),
            ..Abilities::default()
        }
    }
}

impl Aae {
    /// −log p(x | q(x)) of the batch.
    fn reconstruction_phase(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (x, _) = self.seen(batch)?;
        let codes = self.codes(networks, self.noisy(x.clone(), "all", batch));
        Ok(Some(Loss::new("reconstruction", self.reconstruction(networks, x, codes))))
    }

    /// The discriminators' loss: draws from the prior against codes.
    fn discriminator_phase(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (x, told) = self.seen(batch)?;
        let codes = self.codes(networks, self.noisy(x, "all", batch)).detach();
        Ok(Some(Loss::new("discriminator", discriminator_loss(networks, self.drawn(batch)?, codes, told))))
    }

    /// The encoder's loss as generator of codes.
    fn generator_phase(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (x, told) = self.seen(batch)?;
        let codes = self.codes(networks, self.noisy(x, "all", batch));
        Ok(Some(Loss::new("generator", generator_loss(networks, codes, told))))
    }

    /// −log q(y|x) of the labelled pictures.
    fn classification_phase(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (few, _) = batch.partly_labelled()?;
        let x = self.observed(few, "labelled", batch);
        let logits = self.logits(networks, networks.encoder.features(self.noisy(x, "labelled", batch)))?;
        Ok(Some(Loss::new("classification", cross_entropy(logits, batch.labels()?))))
    }

    /// x of a domain.
    fn observed(&self, domain: &Domain, purpose: &str, batch: &Batch) -> Tensor<2> {
        let draw = (batch.key("binarise").purpose(purpose), batch.samples().collect());
        self.config.model.pixels.observe(domain.images.clone(), Some(draw))
    }

    /// The pictures whose codes play, and what the discriminator is told of them.
    fn seen(&self, batch: &Batch) -> Result<(Tensor<2>, Option<Tensor<2>>)> {
        match self.config.mode {
            Mode::Unsupervised => Ok((self.observed(&batch.domains[0], "all", batch), None)),
            Mode::SemiSupervised => Ok((self.observed(batch.partly_labelled()?.1, "all", batch), None)),
            Mode::Conditional => {
                let (few, many) = batch.partly_labelled()?;
                let x = [self.observed(few, "labelled", batch), self.observed(many, "all", batch)];
                Ok((Tensor::cat(x.to_vec(), 0), Some(self.told(batch.labels()?, batch.len()))))
            }
        }
    }

    /// Labels one-hot, and below them as many rows of the class "none".
    ///
    /// # Shapes
    /// `[n]` → `[n + unlabelled, classes + 1]`
    fn told(&self, labels: Tensor<1, Int>, unlabelled: usize) -> Tensor<2> {
        let classes = self.pictures.classes.len();
        let none = from_indices(&vec![classes as u32; unlabelled], &labels.device());
        one_hot(Tensor::cat(vec![labels, none], 0), classes + 1)
    }

    /// Draws from the prior for the codes of [`Aae::seen`].
    fn drawn(&self, batch: &Batch) -> Result<Codes> {
        let (mode, latent, device) = (self.config.mode, self.config.model.networks.latent, batch.device());
        let of = self.parts();
        let draw = |purpose: &str, parts: &[u32]| {
            self.config.prior.draw(batch.key(purpose), batch.samples(), parts, of, latent, device)
        };
        let any = |of: usize| batch.below("component", of as u64).into_iter().map(|c| c as u32).collect::<Vec<_>>();
        let z = draw("prior", &any(of));
        Ok(match mode {
            Mode::Unsupervised => Codes { z, y: None },
            Mode::SemiSupervised => {
                Codes { z, y: Some(one_hot(from_indices(&any(of), device), self.pictures.classes.len())) }
            }
            Mode::Conditional => {
                let (few, _) = batch.partly_labelled()?;
                let labels = few.host_labels.clone().unwrap_or_default();
                Codes { z: Tensor::cat(vec![draw("labelled prior", &labels), z], 0), y: None }
            }
        })
    }

    /// Parts of the prior: the classes, where it knows of them.
    fn parts(&self) -> usize {
        if self.config.mode == Mode::Unsupervised { COMPONENTS } else { self.pictures.classes.len() }
    }

    /// x with the noise of training.
    fn noisy(&self, x: Tensor<2>, purpose: &str, batch: &Batch) -> Tensor<2> {
        let sigma = self.config.input_noise;
        if sigma == 0.0 {
            return x;
        }
        // Rows beyond the batch's length are a second domain's.
        let ([rows, size], n) = (x.dims(), batch.len());
        let noise = batch.normal(&format!("{purpose} noise"), [n, rows / n * size]).reshape([rows, size]);
        x + noise * sigma
    }

    /// q(z|x) and q(y|x).
    fn codes(&self, networks: &Networks, x: Tensor<2>) -> Codes {
        let features = networks.encoder.features(x);
        let y = networks.classes.as_ref().map(|classes| softmax(classes.forward(features.clone()), 1));
        Codes { z: networks.encoder.of_features(features), y }
    }

    /// The code of each picture, and behind it the probabilities of the classes where the encoder says them.
    fn encoded(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_pictures(&images, self.pictures.shape)?;
        Ok(self.codes(networks, self.config.model.pixels.observe(images, None)).joined())
    }

    /// The logits of q(y|x).
    fn logits(&self, networks: &Networks, features: Tensor<2>) -> Result<Tensor<2>> {
        let classes = networks.classes.as_ref();
        let classes = classes.ok_or_else(|| Error::usage("this aae does not say classes: model.mode"))?;
        Ok(classes.forward(features))
    }

    /// −log p(x | q(x)), the mean over the batch.
    fn reconstruction(&self, networks: &Networks, x: Tensor<2>, codes: Codes) -> Tensor<1> {
        -self.config.model.pixels.log_likelihood(x, networks.decoder.forward(codes.joined())).mean()
    }

    fn picture(&self, networks: &Networks, latents: Tensor<2>) -> Tensor<4> {
        self.config.model.pixels.picture(networks.decoder.forward(latents), self.pictures.shape)
    }

    /// Numbers in the latents of a picture.
    fn width(&self) -> usize {
        let classes = if self.config.mode == Mode::SemiSupervised { self.pictures.classes.len() } else { 0 };
        self.config.model.networks.latent + classes
    }

    /// The parts of the prior that samples come from: those of a class, if there are classes.
    fn requested(&self, request: &Request) -> Vec<u32> {
        match self.config.mode {
            Mode::Unsupervised => {
                let draws = request.key.purpose("component").below(request.indices.clone(), COMPONENTS as u64);
                draws.into_iter().map(|c| c as u32).collect()
            }
            Mode::Conditional | Mode::SemiSupervised => request.classes(self.pictures.classes.len()),
        }
    }

    /// The class of a request beside its code.
    fn told_class(&self, request: &Request) -> Option<Tensor<2>> {
        let labels = || from_indices(&self.requested(request), &request.device);
        (self.config.mode == Mode::SemiSupervised).then(|| one_hot(labels(), self.pictures.classes.len()))
    }
}

impl Generate<Networks> for Aae {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Class, Input::Noise]
    }

    /// The pictures of draws from the prior, each scaled by ψ; of a class, where the mode has classes.
    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        let classes: &[String] = if self.config.mode == Mode::Unsupervised { &[] } else { &self.pictures.classes };
        check_class(request.condition.class, classes)?;
        let latents = match request.noise {
            Some(_) => {
                joined(prior_latents(request, self.config.model.networks.latent, Self::ID)?, self.told_class(request))
            }
            None => self.latents(networks, request)?,
        };
        Ok(self.picture(networks, latents))
    }
}

impl Encode<Networks> for Aae {
    /// The code, and behind it the probabilities of the classes where the encoder says them.
    fn encode(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<2>> {
        request.sampler::<NoSettings>(Self::ID)?;
        self.encoded(networks, images)
    }
}

/// The code.
impl Represent<Networks> for Aae {
    fn represent(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        self.encoded(networks, images)
    }
}

impl Reconstruct<Networks> for Aae {
    fn reconstruct(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<4>> {
        Ok(self.picture(networks, self.encoded(networks, images)?))
    }
}

impl Classify<Networks> for Aae {
    fn classify(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_pictures(&images, self.pictures.shape)?;
        self.logits(networks, networks.encoder.features(self.config.model.pixels.observe(images, None)))
    }
}

impl Decode<Networks> for Aae {
    fn latents(&self, _networks: &Networks, request: &Request) -> Result<Tensor<2>> {
        let (c, latent) = (&self.config, self.config.model.networks.latent);
        let (key, parts) = (request.key.purpose("latent"), self.requested(request));
        let z = c.prior.draw(key, request.indices.clone(), &parts, self.parts(), latent, &request.device);
        Ok(joined(z * truncation_psi(request, Self::ID)?, self.told_class(request)))
    }

    fn decode(&self, networks: &Networks, latents: Tensor<2>) -> Result<Tensor<4>> {
        check_latents(&latents, self.width())?;
        Ok(self.picture(networks, latents))
    }

    /// A Gaussian code on the great circle, all else on the straight line.
    fn between(&self, a: Tensor<2>, b: Tensor<2>, t: f64) -> Tensor<2> {
        let line = |a: Tensor<2>, b: Tensor<2>| a * (1.0 - t) + b * t;
        if self.config.prior != Prior::Gaussian {
            return line(a, b);
        }
        let d = self.config.model.networks.latent;
        let behind = self.width() - d;
        let z = slerp(a.clone().narrow(1, 0, d), b.clone().narrow(1, 0, d), t);
        joined(z, (behind > 0).then(|| line(a.narrow(1, d, behind), b.narrow(1, d, behind))))
    }
}

#[cfg(test)]
mod tests {
    use kiln_data::{HostBatch, Part};
    use kiln_nn::tensor::to_values;
    use kiln_train::optim::Optimizer;
    use kiln_train::params::{self, HostTensor, take_gradients};

    use super::*;
    use crate::autoencoder::networks::NetworkConfig;
    use crate::autoencoder::testing::{Fixtures, close, device, pictures, sharp};

    fn classes(n: usize) -> Vec<String> {
        (0..n).map(|c| c.to_string()).collect()
    }

    /// Networks of one layer each, as the fixture has them.
    fn linear(mode: Mode) -> Aae {
        let prior = if mode == Mode::Conditional { Prior::Mixture } else { Prior::Gaussian };
        let model = LatentConfig { networks: NetworkConfig::mlp(2, &[]), ..LatentConfig::default() };
        let config = Config { mode, prior, model, discriminator: vec![], ..Config::default() };
        Aae::new(config, &Pictures::new([1, 2, 3], classes(3))).unwrap()
    }

    /// The fixture's name of ours.
    fn theirs(ours: &str) -> String {
        let path =
            ours.replace("encoder.head.mean", "encoder.code").replace("discriminator.logits", "discriminator.logit");
        if path.starts_with("classes") { format!("encoder.{path}") } else { path }
    }

    fn golden_networks(aae: &Aae, golden: &Fixtures, own: &str) -> Networks {
        let fresh = || aae.networks(&mut Init::new(&device().autodiff(), 0));
        let names = golden.names();
        let take = |(path, _): (String, HostTensor)| {
            let theirs = theirs(&path);
            let mut places = [own, "aae"].into_iter().map(|prefix| format!("{prefix}.{theirs}"));
            let (shape, values) = golden.values(&places.find(|name| names.contains(name)).unwrap());
            (path, HostTensor { shape, values: values.into_iter().map(|v| v as f32).collect() })
        };
        params::load(fresh(), &params::state(&fresh()).into_iter().map(take).collect(), "fixture").unwrap()
    }

    /// Value, and gradients of just the networks that the phase trains.
    fn agrees(
        golden: &Fixtures,
        networks: Networks,
        name: &str,
        trains: &[&str],
        loss: impl Fn(&Networks) -> Tensor<1>,
    ) {
        let networks = params::set_trainable(networks, trains);
        let value = loss(&networks);
        golden.assert_close(value.clone().inner().reshape([0; 0]), name, 1e-5);
        let gradients = take_gradients(&networks, &mut value.backward());
        let wanted: Vec<String> =
            golden.names().into_iter().filter(|n| n.starts_with(&format!("{name}.grad."))).collect();
        assert_eq!(gradients.len(), wanted.len(), "{name}: {:?} {wanted:?}", gradients.keys());
        for (path, gradient) in gradients {
            let (_, values) = golden.values(&format!("{name}.grad.{}", theirs(&path)));
            let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
            close(&to_values(gradient), &values, 1e-5);
        }
    }

    #[test]
    fn losses_and_gradients_are_pytorchs() {
        let golden = Fixtures::open("ssvae_aae");
        let on_tape = |name: &str| golden.tensor::<2>(name).autodiff();
        let (few, many) = (on_tape("few"), on_tape("many"));
        let labels: Vec<u32> = golden.values("labels").1.into_iter().map(|l| l as u32).collect();
        let indices = |labels: &[u32]| from_indices(labels, &device().autodiff());

        let aae = linear(Mode::Unsupervised);
        let networks = || golden_networks(&aae, &golden, "aae");
        let [reconstruction, discriminator, generator] = [0, 1, 2].map(|i| aae.phases().swap_remove(i).trains);
        agrees(&golden, networks(), "aae.reconstruction", &reconstruction, |n| {
            aae.reconstruction(n, many.clone(), aae.codes(n, many.clone()))
        });
        agrees(&golden, networks(), "aae.discriminator", &discriminator, |n| {
            let real = Codes { z: on_tape("aae.prior"), y: None };
            discriminator_loss(n, real, aae.codes(n, many.clone()).detach(), None)
        });
        agrees(&golden, networks(), "aae.generator", &generator, |n| {
            generator_loss(n, aae.codes(n, many.clone()), None)
        });

        let aae = linear(Mode::Conditional);
        let networks = || golden_networks(&aae, &golden, "aae_conditional");
        let told = aae.told(indices(&labels), 4);
        let x = Tensor::cat(vec![few.clone(), many.clone()], 0);
        agrees(&golden, networks(), "aae_conditional.discriminator", &discriminator, |n| {
            let real = Codes { z: on_tape("aae_conditional.prior"), y: None };
            discriminator_loss(n, real, aae.codes(n, x.clone()).detach(), Some(told.clone()))
        });
        agrees(&golden, networks(), "aae_conditional.generator", &generator, |n| {
            generator_loss(n, aae.codes(n, x.clone()), Some(told.clone()))
        });

        let aae = linear(Mode::SemiSupervised);
        let networks = || golden_networks(&aae, &golden, "aae_semi");
        let drawn: Vec<u32> = golden.values("aae_semi.drawn").1.into_iter().map(|l| l as u32).collect();
        agrees(&golden, networks(), "aae_semi.reconstruction", &reconstruction, |n| {
            aae.reconstruction(n, many.clone(), aae.codes(n, many.clone()))
        });
        agrees(&golden, networks(), "aae_semi.discriminator", &discriminator, |n| {
            let real = Codes { z: on_tape("aae.prior"), y: Some(one_hot(indices(&drawn), 3)) };
            discriminator_loss(n, real, aae.codes(n, many.clone()).detach(), None)
        });
        agrees(&golden, networks(), "aae_semi.generator", &generator, |n| {
            generator_loss(n, aae.codes(n, many.clone()), None)
        });
        // The encoder's code has no part in the class, and its features are the picture here.
        agrees(&golden, networks(), "aae_semi.classification", &["encoder", "classes"], |n| {
            cross_entropy(aae.logits(n, n.encoder.features(few.clone())).unwrap(), indices(&labels))
        });
    }

    #[test]
    fn priors_are_the_references() {
        let golden = Fixtures::open("ssvae_aae");
        let get = |name: &str| golden.values(&format!("prior.{name}")).1;
        let (classes, normals, uniforms) = (get("classes"), get("normals"), get("uniforms"));
        let petals: Vec<f32> =
            classes.iter().zip(normals.chunks(2)).flat_map(|(c, d)| petal(c / 10.0, [d[0], d[1]])).collect();
        let rolls: Vec<f32> = classes.iter().zip(&uniforms).flat_map(|(c, u)| roll((c + u) / 10.0)).collect();
        for (made, name) in [(petals, "mixture"), (rolls, "swiss_roll")] {
            let wanted: Vec<f32> = get(name).into_iter().map(|v| v as f32).collect();
            close(&made, &wanted, 1e-5);
        }
        // A draw is its index's, and lies where its part does.
        let draw = |prior: Prior, range: Range<u64>, parts: &[u32]| {
            to_values(prior.draw(Key::new(1), range, parts, 4, 2, &device()))
        };
        for prior in [Prior::Gaussian, Prior::Mixture, Prior::SwissRoll] {
            let all = draw(prior, 0..4, &[0, 1, 2, 3]);
            assert_eq!(draw(prior, 2..3, &[2]), all[4..6]);
        }
        let mixture = draw(Prior::Mixture, 0..400, &[1; 400]);
        let mean = |axis: usize| mixture.iter().skip(axis).step_by(2).sum::<f32>() / 400.0;
        assert!(mean(0).abs() < 0.02 && (mean(1) - 1.4).abs() < 0.1, "{} {}", mean(0), mean(1));
    }

    fn small(mode: Mode) -> Aae {
        let prior = if mode == Mode::Conditional { Prior::SwissRoll } else { Prior::Gaussian };
        let model = LatentConfig { networks: NetworkConfig::mlp(2, &[16]), ..LatentConfig::default() };
        let config = Config { mode, prior, model, discriminator: vec![16], input_noise: 0.1, ..Config::default() };
        Aae::new(config, &Pictures::new([1, 8, 8], classes(4))).unwrap()
    }

    fn batch() -> Batch {
        let part = |labels: Option<Vec<u32>>| Part {
            shape: [8, 1, 8, 8],
            values: sharp([8, 1, 8, 8]),
            labels,
            captions: vec![None; 8],
            indices: (0..8).collect(),
            ..Part::default()
        };
        let parts = vec![part(Some((0..8).map(|i| i % 4).collect())), part(None)];
        Batch::new(HostBatch { start: 0, parts }, 1_000, Key::new(0), &device().autodiff())
    }

    #[test]
    fn every_phase_of_every_mode_fits_a_batch() {
        for mode in [Mode::Unsupervised, Mode::Conditional, Mode::SemiSupervised] {
            let mut aae = small(mode);
            for phase in aae.phases() {
                let mut networks = aae.networks(&mut Init::new(&device().autodiff(), 0));
                networks = params::set_trainable(networks, &phase.trains);
                let mut optimizer = Optimizer::new(OptimizerConfig::adam(1e-2));
                let mut losses = Vec::new();
                for _ in 0..100 {
                    let loss = (phase.loss)(&mut aae, &networks, &batch()).unwrap().unwrap();
                    losses.push(loss.total.clone().into_scalar::<f32>());
                    let gradients = take_gradients(&networks, &mut loss.total.backward());
                    assert!(!gradients.is_empty());
                    networks = optimizer.step(networks, gradients, 1.0, 1.0);
                }
                assert!(losses[99] < 0.8 * losses[0], "{mode:?} {}: {} to {}", phase.name, losses[0], losses[99]);
            }
        }
    }

    #[test]
    fn abilities_agree_with_each_other() {
        for (mode, width) in [(Mode::Unsupervised, 2), (Mode::Conditional, 2), (Mode::SemiSupervised, 6)] {
            let aae = small(mode);
            let networks = aae.networks(&mut Init::new(&device(), 0));
            let request = Request::new(3..7, 0, &device());
            let made = aae.generate(&networks, &request).unwrap();
            let latents = aae.latents(&networks, &request).unwrap();
            assert_eq!((made.dims(), latents.dims()), ([4, 1, 8, 8], [4, width]));
            assert_eq!(to_values(made), to_values(aae.decode(&networks, latents.clone()).unwrap()));
            close(
                &to_values(aae.latents(&networks, &Request::new(5..6, 0, &device())).unwrap()),
                &to_values(latents.clone().narrow(0, 2, 1)),
                1e-6,
            );
            let [a, b] = [0, 1].map(|i| latents.clone().narrow(0, i, 1));
            close(&to_values(aae.between(a.clone(), b, 0.0)), &to_values(a), 1e-5);
            let images = || from_values::<4>(pictures([2, 1, 8, 8]), [2, 1, 8, 8], &device());
            let encoded = aae.encode(&networks, images(), &Request::new(0..1, 0, &device())).unwrap();
            let again = aae.decode(&networks, encoded).unwrap();
            assert_eq!(to_values(again), to_values(aae.reconstruct(&networks, images()).unwrap()));
            let told = request.clone().of_class(Some(1));
            assert_eq!(aae.generate(&networks, &told).is_ok(), mode != Mode::Unsupervised);
            let beyond = request.of_class(Some(4));
            assert!(aae.generate(&networks, &beyond).err().unwrap().is_usage());
            assert_eq!(aae.abilities().classify.is_some(), mode == Mode::SemiSupervised);
            assert_eq!(aae.classify(&networks, images()).is_ok(), mode == Mode::SemiSupervised);
        }
    }

    #[test]
    fn bad_settings_are_usage_errors() {
        let refused = |change: fn(&mut Config), classes: Vec<String>| {
            let mut config = Config::default();
            change(&mut config);
            Aae::new(config, &Pictures::new([1, 28, 28], classes)).err().unwrap().to_string()
        };
        assert!(refused(|c| c.prior = Prior::Mixture, vec![]).contains("model.latent = 2"));
        assert!(refused(|c| c.mode = Mode::Conditional, classes(3)).contains("model.prior"));
        assert!(refused(|c| c.mode = Mode::SemiSupervised, vec![]).contains("two classes"));
        assert!(refused(|c| c.discriminator = vec![4, 0], vec![]).contains("model.discriminator"));
        assert!(refused(|c| c.input_noise = f64::NAN, vec![]).contains("model.input_noise"));
        let plane = |c: &mut Config| {
            c.mode = Mode::SemiSupervised;
            c.prior = Prior::SwissRoll;
            c.model.networks.latent = 2;
        };
        assert!(refused(plane, classes(3)).contains("gaussian"));
    }
}
