//! Lee, Tseng, Huang, Singh & Yang, *Diverse Image-to-Image Translation via Disentangled Representations*, 2018.
//!
//! A picture is a content, of a space that both domains share, and an attribute of its domain. Objective (equations 1 to 6; weights of §3.4 and
//! of the authors' code), both domains' terms added:
//!
//! * L_cc: E ‖x″ − x‖₁, where u = G(content of y, attribute of x) and v = G(content of x, attribute of y) are translated back, x″ = G(content of v,
//!   attribute of u);
//! * L_adv^content: D^c tells which domain a content is of, and the encoders bring it to ½;
//! * L_adv^domain on u and v, and on pictures of attributes z ~ N(0, 1), each with discriminators of its own;
//! * L_recon: a picture of its own content and attribute;
//! * L_KL: the attribute's KL divergence to N(0, 1), and the mean square of the content;
//! * L_latent: E ‖z − attribute of G(content, z)‖₁, which trains all but the attribute's encoder;
//! * `mode_seeking_weight` adds the term of Mao 2019, with which the method is called DRIT++.
//!
//! | paper | here |
//! |---|---|
//! | domains X and Y | the first and the second data set, `a` and `b` |
//! | E^c, the last layer shared (§3.1) | `content_a`, `content_b`, then `shared_content` |
//! | E^a | `attribute_a`, `attribute_b`, a [`ResidualEncoder`] each |
//! | G, the first layer shared, the attribute laid beside each layer's input | `shared_generator`, then `generator_a`, `generator_b` |
//! | D^c | `d_content`, a [`ContentDiscriminator`], `content_steps` times for each step of the others |
//! | D_X, D_Y, one pair for attributes of pictures and one for those of N(0, 1) | `d_a`, `d_b`, `d_a_random`, `d_b_random` |
//! | Adam, 10⁻⁴, β 0.5 and 0.999, weight decay 10⁻⁴ (§4); D^c at 10⁻⁴ / 2.5 | `optimizer`, `content_optimizer` |
//! | half of a batch for attributes of pictures, half as real pictures beside random ones (code) | likewise |
//!
//! `kiln train drit --data starter:noto,starter:twemoji`, then `kiln translate RUN picture.png out.png -n 8`, or `--style picture` to swap
//! attributes.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::{Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::loss::{binary_cross_entropy_to, gaussian_kl, l1, mode_seeking};
use kiln_nn::norm::MapNorm;
use kiln_nn::{Activation, Conv2d, Conv2dConfig, ConvTranspose2d, Init, InstanceNorm2d, WeightInit, activate};
use kiln_train::{
    Abilities, Batch, DataConfig, Input, Loss, OptimizerConfig, Phase, Pictures, Request, SizeRule, System,
    TrainConfig, Translate,
};
use serde::{Deserialize, Serialize};

use super::munit::optimizer;
use super::networks::codes::{PaddedConv, StridedConfig, StridedDiscriminator};
use super::networks::{Made, Normalization, Pass, ResidualBlock, ResidualEncoder, beside};
use super::two_way::{self, DIRECTIONS, check_weights, fooling, halves, real, telling_apart};
use crate::adversarial::objective::Objective;
use crate::adversarial::players::check_positive;
use crate::autoencoder::bound::reparameterise;
use crate::one_pass::NoSettings;

/// Every weight is drawn from N(0, 0.02²), as in the authors' code.
const WEIGHTS: WeightInit = WeightInit::Normal(0.02);
/// Slope of LeakyReLU: PyTorch's default.
const LEAK: f32 = 0.01;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Channels of the encoders' first layer; the content has four times as many. The paper has 64.
    pub generator_channels: usize,
    /// Residual blocks of each content encoder and of each generator, beside the shared one. The paper has 3.
    pub blocks: usize,
    /// Residual blocks of the attribute encoders, each of which halves the picture. The authors' code has 3.
    pub encoder_blocks: usize,
    /// Numbers of an attribute.
    pub latent_size: usize,
    /// The discriminators.
    #[serde(flatten)]
    pub discriminators: StridedConfig,
    /// Content discriminator steps for each step of the other networks.
    pub content_steps: u64,
    /// The adversarial loss on pictures.
    pub objective: Objective,
    /// λ_cc.
    pub cross_cycle_weight: f64,
    /// λ_recon.
    pub reconstruction_weight: f64,
    /// λ_content.
    pub content_weight: f64,
    /// λ_KL, of attributes and contents.
    pub kl_weight: f64,
    /// λ_latent.
    pub latent_weight: f64,
    /// Weight of the mode seeking term; 1 in DRIT++.
    pub mode_seeking_weight: f64,
    /// The optimiser of all networks but D^c.
    pub optimizer: OptimizerConfig,
    /// D^c's optimiser.
    pub content_optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            generator_channels: 32,
            blocks: 3,
            encoder_blocks: 3,
            latent_size: 8,
            discriminators: StridedConfig::default(),
            content_steps: 3,
            objective: Objective::NonSaturating,
            cross_cycle_weight: 10.0,
            reconstruction_weight: 10.0,
            content_weight: 1.0,
            kl_weight: 0.01,
            latent_weight: 10.0,
            mode_seeking_weight: 0.0,
            optimizer: optimizer(),
            content_optimizer: OptimizerConfig { learning_rate: 4e-5, clip_norm: 5.0, ..optimizer() },
        }
    }
}

/// What a picture of one domain shows, up to the block that is shared.
#[derive(Module, Debug)]
pub struct ContentEncoder {
    first: PaddedConv,
    down: Vec<PaddedConv>,
    blocks: Vec<ResidualBlock>,
}

/// How often a content encoder halves the picture.
const HALVINGS: usize = 2;

impl ContentEncoder {
    fn new(channels: usize, k: usize, blocks: usize, init: &mut Init) -> Self {
        let down = |at: usize, init: &mut Init| PaddedConv::new([k << at, k << (at + 1)], 3, 2, 1, WEIGHTS, init);
        Self {
            first: PaddedConv::new([channels, k], 7, 1, 3, WEIGHTS, init),
            down: (0..HALVINGS).map(|at| down(at, init)).collect(),
            blocks: (0..blocks).map(|_| block(k << HALVINGS, init)).collect(),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = activate(self.first.forward(x), Activation::LeakyRelu(LEAK));
        let x =
            self.down.iter().fold(x, |x, conv| InstanceNorm2d::default().forward(conv.forward(x), Activation::Relu));
        through(&self.blocks, x)
    }
}

fn block(channels: usize, init: &mut Init) -> ResidualBlock {
    ResidualBlock::new(channels, Normalization::Instance, 0.0, WEIGHTS, init)
}

fn through(blocks: &[ResidualBlock], x: Tensor<4>) -> Tensor<4> {
    blocks.iter().enumerate().fold(x, |x, (i, block)| block.forward(i, x, &Pass::default()))
}

/// Pictures of one domain, after the block that is shared: the attribute is laid beside the input of the blocks and of every layer.
#[derive(Module, Debug)]
pub struct Generator {
    blocks: Vec<ResidualBlock>,
    up: Vec<ConvTranspose2d>,
    norms: Vec<MapNorm>,
    last: Conv2d,
}

impl Generator {
    fn new(channels: usize, k: usize, blocks: usize, latent: usize, init: &mut Init) -> Self {
        let mut width = (k << HALVINGS) + latent;
        let blocks = (0..blocks).map(|_| block(width, init)).collect();
        let (mut up, mut norms) = (Vec::new(), Vec::new());
        for _ in 0..HALVINGS {
            let config = Conv2dConfig {
                stride: 2,
                padding: 1,
                output_padding: 1,
                weight: WEIGHTS,
                ..Conv2dConfig::new(width + latent, (width + latent) / 2, 3)
            };
            width = config.outputs;
            up.push(config.init_transposed(init));
            norms.push(MapNorm::new(width, init));
        }
        let last = Conv2dConfig { weight: WEIGHTS, ..Conv2dConfig::new(width + latent, channels, 1) }.init(init);
        Self { blocks, up, norms, last }
    }

    fn forward(&self, content: Tensor<4>, attribute: Tensor<2>) -> Tensor<4> {
        let with = |x: Tensor<4>| beside(x, attribute.clone());
        let x = through(&self.blocks, with(content));
        let x = self
            .up
            .iter()
            .zip(&self.norms)
            .fold(x, |x, (conv, norm)| norm.forward_biased(conv.forward(with(x)), Activation::Relu));
        self.last.forward(with(x)).tanh()
    }
}

/// Says which domain a content is of: 7×7 convolutions of stride 2, leaky ReLU, one over what they leave, a 1×1 one.
#[derive(Module, Debug)]
pub struct ContentDiscriminator {
    layers: Vec<PaddedConv>,
    whole: Conv2d,
    last: Conv2d,
}

impl ContentDiscriminator {
    /// Contents of so many channels and these sides. The paper's, of 54 pixels, has three layers, which leave 4.
    fn new(channels: usize, sides: [usize; 2], init: &mut Init) -> Self {
        let mut sides = sides;
        let mut layers = Vec::new();
        let halved = |side: usize| (side + 2).checked_sub(7).map_or(0, |rest| rest / 2 + 1);
        while sides.into_iter().map(halved).min() >= Some(4) {
            sides = sides.map(halved);
            layers.push(PaddedConv::new([channels; 2], 7, 2, 1, WEIGHTS, init));
        }
        let config = |kernel| Conv2dConfig { kernel, weight: WEIGHTS, ..Conv2dConfig::new(channels, channels, 1) };
        Self { layers, whole: config(sides).init(init), last: Conv2dConfig { outputs: 1, ..config([1, 1]) }.init(init) }
    }

    fn forward(&self, content: Tensor<4>) -> Tensor<1> {
        let leaky = |x: Tensor<4>| activate(x, Activation::LeakyRelu(LEAK));
        let x = self.layers.iter().fold(content, |x, conv| leaky(conv.forward(x)));
        self.last.forward(leaky(self.whole.forward(x))).flatten(0, 3)
    }
}

/// All networks.
#[derive(Module, Debug)]
pub struct Networks {
    /// E^c of a, up to its last block.
    pub content_a: ContentEncoder,
    /// E^c of b, up to its last block.
    pub content_b: ContentEncoder,
    /// The last block of both.
    pub shared_content: ResidualBlock,
    /// E^a of a.
    pub attribute_a: ResidualEncoder,
    /// E^a of b.
    pub attribute_b: ResidualEncoder,
    /// The first block of both generators.
    pub shared_generator: ResidualBlock,
    /// G of a.
    pub generator_a: Generator,
    /// G of b.
    pub generator_b: Generator,
    /// D^c.
    pub d_content: ContentDiscriminator,
    /// D_X on pictures of an attribute that is a picture's.
    pub d_a: StridedDiscriminator,
    /// D_Y likewise.
    pub d_b: StridedDiscriminator,
    /// D_X on pictures of random attributes.
    pub d_a_random: StridedDiscriminator,
    /// D_Y likewise.
    pub d_b_random: StridedDiscriminator,
}

impl Networks {
    fn contents(&self, [a, b]: &[Tensor<4>; 2]) -> [Tensor<4>; 2] {
        let shared = |x: Tensor<4>| self.shared_content.forward(0, x, &Pass::default());
        [shared(self.content_a.forward(a.clone())), shared(self.content_b.forward(b.clone()))]
    }

    fn make_a(&self, content: Tensor<4>, attribute: Tensor<2>) -> Tensor<4> {
        self.generator_a.forward(self.shared_generator.forward(0, content, &Pass::default()), attribute)
    }

    fn make_b(&self, content: Tensor<4>, attribute: Tensor<2>) -> Tensor<4> {
        self.generator_b.forward(self.shared_generator.forward(0, content, &Pass::default()), attribute)
    }
}

/// What the discriminators are shown: pictures of a and b by attributes of pictures, by random ones, and contents.
struct Shown {
    encoded: [Tensor<4>; 2],
    random: [Tensor<4>; 2],
}

/// All that is random in a step.
struct Draws {
    /// On the contents of a and b.
    contents: [Tensor<4>; 2],
    /// In the attributes of a and b.
    attributes: [Tensor<2>; 2],
    /// Attributes of N(0, 1), and others for the mode seeking term.
    random: Tensor<2>,
    second: Option<Tensor<2>>,
    /// On the contents of the translations into a and b.
    crossed_contents: [Tensor<4>; 2],
    /// In the attributes of those.
    crossed_attributes: [Tensor<2>; 2],
}

/// The system.
pub struct Drit {
    config: Config,
    shape: [usize; 3],
    fakes: Made<Shown>,
}

/// The networks of the generators' phase.
const GENERATORS: [&str; 8] = [
    "content_a",
    "content_b",
    "shared_content",
    "attribute_a",
    "attribute_b",
    "shared_generator",
    "generator_a",
    "generator_b",
];

impl System for Drit {
    const ID: &'static str = "drit";
    const PAPER: &'static str = "Lee, Tseng, Huang, Singh & Yang: Diverse Image-to-Image Translation via Disentangled \
                                 Representations, 2018";
    const DATA: DataKind = DataKind::TwoDomains;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        two_way::defaults(2)
    }

    fn sizes(config: &Config) -> SizeRule {
        config.discriminators.sizes(Self::translated(), 2 << config.encoder_blocks.min(16))
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        check_positive(&[
            ("generator_channels", config.generator_channels),
            ("encoder_blocks", config.encoder_blocks),
            ("latent_size", config.latent_size),
            ("content_steps", config.content_steps as usize),
        ])?;
        config.discriminators.check()?;
        check_weights(&[
            ("cross_cycle_weight", config.cross_cycle_weight),
            ("reconstruction_weight", config.reconstruction_weight),
            ("content_weight", config.content_weight),
            ("kl_weight", config.kl_weight),
            ("latent_weight", config.latent_weight),
            ("mode_seeking_weight", config.mode_seeking_weight),
        ])?;
        config.objective.check_penalty(false, &config.optimizer)?;
        Self::sizes(&config).check(pictures.shape)?;
        Ok(Self { config, shape: pictures.shape, fakes: Made::default() })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, [channels, h, w]) = (&self.config, self.shape);
        let (k, inside) = (c.generator_channels, c.generator_channels << HALVINGS);
        let discriminator = |init: &mut Init| c.discriminators.init(channels, LEAK, init);
        let attribute =
            |init: &mut Init| ResidualEncoder::reflecting(channels, k, c.encoder_blocks, c.latent_size, init);
        let content = |init: &mut Init| ContentEncoder::new(channels, k, c.blocks, init);
        let generator = |init: &mut Init| Generator::new(channels, k, c.blocks, c.latent_size, init);
        Networks {
            content_a: content(init),
            content_b: content(init),
            shared_content: block(inside, init),
            attribute_a: attribute(init),
            attribute_b: attribute(init),
            shared_generator: block(inside, init),
            generator_a: generator(init),
            generator_b: generator(init),
            d_content: ContentDiscriminator::new(inside, [h >> HALVINGS, w >> HALVINGS], init),
            d_a: discriminator(init),
            d_b: discriminator(init),
            d_a_random: discriminator(init),
            d_b_random: discriminator(init),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let (c, judges) = (&self.config, ["d_a", "d_b", "d_a_random", "d_b_random"]);
        let mut phases = Vec::new();
        if c.content_weight > 0.0 {
            let optimizer = c.content_optimizer.clone();
            phases.push(Phase::new("content", &["d_content"], optimizer, Self::content_discriminator));
        }
        let every = if c.content_weight > 0.0 { c.content_steps } else { 1 };
        phases.push(Phase::new("generators", &GENERATORS, c.optimizer.clone(), Self::generators).every(every));
        phases.push(Phase::new("discriminators", &judges, c.optimizer.clone(), Self::discriminators).every(every));
        phases
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { translate: Some(self), ..Abilities::default() }
    }

    fn restore(&mut self, _state: kiln_train::State) {
        self.fakes.clear();
    }
}

impl Drit {
    /// The pictures that it translates.
    fn translated() -> SizeRule {
        SizeRule::multiple_of(1 << HALVINGS, Self::ID).at_least(8)
    }

    /// The pictures of both domains that are encoded, the first half of a batch, and the others.
    fn parts(batch: &Batch) -> Result<([Tensor<4>; 2], [Tensor<4>; 2])> {
        let [a, b] = real(batch, Self::ID)?;
        let ([first_a, other_a], [first_b, other_b]) = (halves(a), halves(b));
        Ok(([first_a, first_b], [other_a, other_b]))
    }

    /// The draws of a step for `n` of a batch's pictures.
    fn draws(&self, n: usize, batch: &Batch) -> Draws {
        let (c, [_, h, w]) = (&self.config, self.shape);
        let map = [batch.len(), c.generator_channels << HALVINGS, h >> HALVINGS, w >> HALVINGS];
        let content = |purpose: &str| -> Tensor<4> {
            let all: Tensor<4> = batch.normal(purpose, map);
            all.narrow(0, 0, n)
        };
        let attribute = |purpose: &str| -> Tensor<2> {
            let all: Tensor<2> = batch.normal(purpose, [batch.len(), c.latent_size]);
            all.narrow(0, 0, n)
        };
        Draws {
            contents: ["content a", "content b"].map(content),
            attributes: ["attribute a", "attribute b"].map(attribute),
            random: attribute("random"),
            second: (c.mode_seeking_weight > 0.0).then(|| attribute("second random")),
            crossed_contents: ["crossed content a", "crossed content b"].map(content),
            crossed_attributes: ["crossed attribute a", "crossed attribute b"].map(attribute),
        }
    }

    /// Contents with the noise of the training.
    fn noisy(networks: &Networks, pictures: &[Tensor<4>; 2], noise: &[Tensor<4>; 2]) -> [Tensor<4>; 2] {
        let [a, b] = networks.contents(pictures);
        [a + noise[0].clone(), b + noise[1].clone()]
    }

    fn judged(&self, d: &StridedDiscriminator, fake: &Tensor<4>) -> Tensor<1> {
        fooling(self.config.objective, d.patches(fake.clone()))
    }

    fn generators(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (pictures, _) = Self::parts(batch)?;
        let draws = self.draws(pictures[0].dims()[0], batch);
        let (loss, shown) = self.objective(networks, &pictures, draws);
        self.fakes.put(batch, shown);
        Ok(Some(loss))
    }

    /// All that encoders and generators minimise; beside it what the discriminators are shown.
    fn objective(&self, networks: &Networks, pictures: &[Tensor<4>; 2], draws: Draws) -> (Loss, Shown) {
        let (c, [a, b]) = (&self.config, pictures);
        let Draws { random, second, .. } = &draws;
        let [content_a, content_b] = Self::noisy(networks, pictures, &draws.contents);
        let attribute = |encoder: &ResidualEncoder, x: &Tensor<4>, noise: &Tensor<2>| {
            let (mean, log_var) = encoder.forward(x.clone());
            (reparameterise(mean.clone(), log_var.clone(), noise.clone()), [mean, log_var])
        };
        let (attribute_a, gaussian_a) = attribute(&networks.attribute_a, a, &draws.attributes[0]);
        let (attribute_b, gaussian_b) = attribute(&networks.attribute_b, b, &draws.attributes[1]);

        // One pass of each generator for all its contents and attributes.
        let made =
            |own: (&Tensor<4>, &Tensor<2>), other: &Tensor<4>, make: &dyn Fn(Tensor<4>, Tensor<2>) -> Tensor<4>| {
                let mut contents = vec![other.clone(), own.0.clone(), other.clone()];
                let mut attributes = vec![own.1.clone(), own.1.clone(), random.clone()];
                if let Some(second) = &second {
                    contents.push(other.clone());
                    attributes.push(second.clone());
                }
                let all = make(Tensor::cat(contents, 0), Tensor::cat(attributes, 0));
                all.chunk(3 + usize::from(second.is_some()), 0)
            };
        let of_a = made((&content_a, &attribute_a), &content_b, &|c, z| networks.make_a(c, z));
        let of_b = made((&content_b, &attribute_b), &content_a, &|c, z| networks.make_b(c, z));
        let (u, own_a, random_a) = (&of_a[0], &of_a[1], &of_a[2]);
        let (v, own_b, random_b) = (&of_b[0], &of_b[1], &of_b[2]);

        let mut loss = Loss::new("adversarial", self.judged(&networks.d_a, u) + self.judged(&networks.d_b, v));
        let by_random = self.judged(&networks.d_a_random, random_a) + self.judged(&networks.d_b_random, random_b);
        loss = loss.plus("adversarial_random", 1.0, by_random);
        if c.content_weight > 0.0 {
            let half = |content: &Tensor<4>| binary_cross_entropy_to(networks.d_content.forward(content.clone()), 0.5);
            loss = loss.plus("content", c.content_weight, half(&content_a) + half(&content_b));
        }
        loss = loss.plus(
            "reconstruction",
            c.reconstruction_weight,
            l1(own_a.clone(), a.clone()) + l1(own_b.clone(), b.clone()),
        );

        // u has b's content, and v has a's.
        let [found_b, found_a] = Self::noisy(networks, &[u.clone(), v.clone()], &draws.crossed_contents);
        let (again_a, _) = attribute(&networks.attribute_a, u, &draws.crossed_attributes[0]);
        let (again_b, _) = attribute(&networks.attribute_b, v, &draws.crossed_attributes[1]);
        let crossed =
            l1(networks.make_a(found_a, again_a), a.clone()) + l1(networks.make_b(found_b, again_b), b.clone());
        loss = loss.plus("cross_cycle", c.cross_cycle_weight, crossed);

        let kl = |[mean, log_var]: [Tensor<2>; 2]| gaussian_kl(mean, log_var).sum();
        let squares = content_a.square().mean() + content_b.square().mean();
        loss = loss.plus("kl", c.kl_weight, kl(gaussian_a) + kl(gaussian_b) + squares);
        if c.latent_weight > 0.0 {
            // The attribute's encoder is asked, and does not learn to answer.
            let found = |encoder: &ResidualEncoder, x: &Tensor<4>| encoder.clone().no_grad().forward(x.clone()).0;
            let latent = l1(found(&networks.attribute_a, random_a), random.clone())
                + l1(found(&networks.attribute_b, random_b), random.clone());
            loss = loss.plus("latent", c.latent_weight, latent);
        }
        if let Some(second) = second {
            let seeking = |first: &Tensor<4>, other: &Tensor<4>| {
                mode_seeking(first.clone(), other.clone(), random.clone(), second.clone())
            };
            let more = self.judged(&networks.d_a_random, &of_a[3]) + self.judged(&networks.d_b_random, &of_b[3]);
            loss = loss.plus("adversarial_second", 1.0, more);
            let term = seeking(random_a, &of_a[3]) + seeking(random_b, &of_b[3]);
            loss = loss.plus("mode_seeking", c.mode_seeking_weight, term);
        }
        let detached = |x: &Tensor<4>| x.clone().detach();
        (loss, Shown { encoded: [detached(u), detached(v)], random: [detached(random_a), detached(random_b)] })
    }

    /// The losses of all four discriminators of pictures, on what was made in the generators' phase of this step.
    fn discriminators(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (encoded, others) = Self::parts(batch)?;
        let shown = self
            .fakes
            .take(batch)
            .unwrap_or_else(|| self.objective(networks, &encoded, self.draws(encoded[0].dims()[0], batch)).1);
        let judge = |d: &StridedDiscriminator, real: &Tensor<4>, fake: &Tensor<4>| {
            telling_apart(self.config.objective, d.patches(real.clone()), d.patches(fake.clone()))
        };
        let ([a, b], [other_a, other_b]) = (&encoded, &others);
        let loss = Loss::new("d_a", judge(&networks.d_a, a, &shown.encoded[0]))
            .plus("d_b", 1.0, judge(&networks.d_b, b, &shown.encoded[1]))
            .plus("d_a_random", 1.0, judge(&networks.d_a_random, other_a, &shown.random[0]))
            .plus("d_b_random", 1.0, judge(&networks.d_b_random, other_b, &shown.random[1]));
        Ok(Some(loss))
    }

    /// D^c's loss: contents of a are 0, of b are 1.
    fn content_discriminator(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (pictures, _) = Self::parts(batch)?;
        let [a, b] = Self::noisy(networks, &pictures, &self.draws(pictures[0].dims()[0], batch).contents);
        let d = |content: Tensor<4>, target: f64| {
            binary_cross_entropy_to(networks.d_content.forward(content.detach()), target)
        };
        Ok(Some(Loss::new("d_content", d(a, 0.0) + d(b, 1.0))))
    }
}

impl Translate<Networks> for Drit {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Styles]
    }

    fn directions(&self) -> Vec<&'static str> {
        DIRECTIONS.to_vec()
    }

    fn own_sizes(&self) -> Option<SizeRule> {
        Some(Self::translated())
    }

    /// With the attribute of pictures of the other domain, else with one of N(0, 1).
    fn translate(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<4>> {
        let [n, channels, height, width] = images.dims();
        refuse_if!(channels != self.shape[0], "drit was trained on {} channels, not {channels}", self.shape[0]);
        Self::translated().check([channels, height, width])?;
        request.sampler::<NoSettings>(Self::ID)?;
        let to_b = two_way::goes_to_b(request, Self::ID)?;
        let encoder = if to_b { &networks.attribute_b } else { &networks.attribute_a };
        let found = request.condition.styles.iter().map(|s| encoder.forward(s.image.clone()).0 * s.weight);
        let attribute = match found.reduce(|sum, z| sum + z) {
            Some(z) => z.expand([n, self.config.latent_size]),
            None => request.normal("attribute", [n, self.config.latent_size]),
        };
        let own = if to_b { networks.content_a.forward(images) } else { networks.content_b.forward(images) };
        let content = networks.shared_content.forward(0, own, &Pass::default());
        Ok(if to_b { networks.make_b(content, attribute) } else { networks.make_a(content, attribute) })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;
    use kiln_train::request::Style;

    use super::*;
    use crate::translation::testing::{by_formula, compare_objective, fit, pairs, term, with_weights_by_formula};

    fn tiny() -> Config {
        Config {
            generator_channels: 4,
            discriminators: StridedConfig { discriminator_channels: 4, ..StridedConfig::default() },
            mode_seeking_weight: 1.0,
            ..Config::default()
        }
    }

    /// At the authors' 216 pixels, which their discriminator of contents needs.
    #[test]
    fn objective_is_the_authors() {
        let device = Device::flex().autodiff();
        let config = Config {
            discriminators: StridedConfig {
                discriminator_channels: 4,
                discriminator_layers: 4,
                discriminator_scales: 3,
            },
            ..tiny()
        };
        let system = Drit::new(config, &Pictures::new([3, 216, 216], Vec::new())).unwrap();
        let networks = with_weights_by_formula(system.networks(&mut Init::new(&device, 0)));
        let picture = |name: &str| by_formula::<4>(name, [2, 3, 216, 216], &device).narrow(0, 0, 1);
        let map = |name: &str| by_formula(name, [1, 16, 54, 54], &device);
        let row = |name: &str| by_formula(name, [1, 8], &device);
        let draws = Draws {
            contents: ["content a", "content b"].map(map),
            attributes: ["attribute a", "attribute b"].map(row),
            random: row("random"),
            second: Some(row("second random")),
            crossed_contents: ["crossed content a", "crossed content b"].map(map),
            crossed_attributes: ["crossed attribute a", "crossed attribute b"].map(row),
        };
        let (loss, _) = system.objective(&networks, &[picture("a"), picture("b")], draws);
        let terms = ["adversarial", "content", "reconstruction", "cross_cycle", "kl", "latent", "mode_seeking"];
        // Sums of 46,656 pixels, in single precision.
        compare_objective("drit", &networks, loss, &terms, 1e-3);
    }

    #[test]
    fn fits_one_batch_and_has_more_content_steps() {
        let adam = OptimizerConfig::adam(2e-3).betas(0.5, 0.999);
        let config = Config { optimizer: adam, mode_seeking_weight: 0.0, ..tiny() };
        let (log, system) = fit::<Drit>(config, 61, 2, 16);
        let (first, last) = (term(&log[0], "reconstruction"), term(&log[60], "reconstruction"));
        assert!(last < 0.7 * first, "reconstruction {first} -> {last}");
        assert_eq!(log[1].iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["d_content"]);
        assert!(system.fakes.is_empty());
    }

    #[test]
    fn attributes_are_of_the_seed_or_of_a_picture() {
        let device = Device::flex();
        let system = Drit::new(tiny(), &Pictures::new([3, 16, 16], Vec::new())).unwrap();
        let networks = system.networks(&mut Init::new(&device, 0));
        let images = || pairs(0, 2, 16, &device).images();
        let made = |seed: u64, styled: bool| {
            let mut request = Request::new(0..2, seed, &device);
            if styled {
                request.condition.styles = vec![Style { image: images().narrow(0, 1, 1), weight: 1.0 }];
            }
            to_values(system.translate(&networks, images(), &request).unwrap())
        };
        assert_ne!(made(1, false), made(2, false));
        assert_eq!(made(1, true), made(2, true));
    }
}
