//! Goodfellow et al., *Generative Adversarial Nets*, 2014.
//!
//! Value (equation 1): min_G max_D V(D, G) = E log D(x) + E log(1 − D(G(z))). For a fixed G the best D is
//! D*(x) = p(x) / (p(x) + q(x)) (proposition 1), p the density of the data and q that of G(z), and there
//! V = 2·JSD(p ‖ q) − log 4 (theorem 1). `kiln evaluate RUN --metrics optimal_discriminator` compares a D with that, on a
//! set whose density is known (`rings`).
//!
//! | paper | here |
//! |---|---|
//! | algorithm 1: k steps of D, then one of G | `discriminator_steps` |
//! | log(1 − D(G(z))) or its cure −log D(G(z)) (§3) | `objective = "saturating"` or `"non-saturating"` |
//! | G: rectifiers and a sigmoid | [`Generator`], with tanh for pictures in [−1, 1] |
//! | D: maxout and dropout (§5) | [`Discriminator`], `pieces`, `input_dropout`, `dropout` |
//! | Mao 2017; Lim & Ye 2017 | `objective = "least-squares"` or `"hinge"` |
//! | Arjovsky 2017, Gulrajani 2017 | `objective = "wasserstein"` with `gradient_penalty` (λ) |
//!
//! `kiln train gan --data mnist`, then `kiln sample RUN -n 64`.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_core::{Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::activation::maxout;
use kiln_nn::dual::{Differentiable, Of, Signal};
use kiln_nn::penalty::wgan_gp;
use kiln_nn::tensor::dropout;
use kiln_nn::{Activation, Init, Linear, LinearConfig, WeightInit, activate};
use kiln_train::request::check_pictures;
use kiln_train::{
    Abilities, Batch, DataConfig, Decode, Discriminate, Generate, Input, Loss, OptimizerConfig, Phase, Pictures,
    Request, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::latent::Distribution;
use super::latent::check_length;
use super::objective::Objective;
use super::players;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Length of z.
    pub latent_size: usize,
    /// `uniform` (−1 to 1) or `normal`.
    pub latent_distribution: Distribution,
    /// Widths of G's layers.
    pub generator_hidden: Vec<usize>,
    /// Widths of D's layers.
    pub discriminator_hidden: Vec<usize>,
    /// Linear pieces of each of D's maxout units; 1 makes them rectifiers.
    pub pieces: usize,
    /// Dropout of D's input.
    pub input_dropout: f64,
    /// Dropout of D's layers.
    pub dropout: f64,
    /// `non-saturating`, `saturating`, `least-squares`, `hinge` or `wasserstein`.
    pub objective: Objective,
    /// One-sided label smoothing: the target of real images is 1 minus this (Salimans 2016).
    pub label_smoothing: f64,
    /// λ of the gradient penalty of WGAN-GP (10 there); 0 is none.
    pub gradient_penalty: f64,
    /// Add noise as wide as a grey level to real images, so that their levels do not give them away.
    pub dequantize: bool,
    /// Discriminator steps per generator step, the paper's k.
    pub discriminator_steps: u64,
    /// G's optimiser.
    pub generator_optimizer: OptimizerConfig,
    /// D's optimiser.
    pub discriminator_optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        let adam = OptimizerConfig::adam(2e-4).betas(0.5, 0.999);
        Self {
            latent_size: 100,
            latent_distribution: Distribution::Uniform,
            generator_hidden: vec![1200, 1200],
            discriminator_hidden: vec![240, 240],
            pieces: 5,
            input_dropout: 0.2,
            dropout: 0.5,
            objective: Objective::NonSaturating,
            label_smoothing: 0.0,
            gradient_penalty: 0.0,
            dequantize: false,
            discriminator_steps: 1,
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
    pub discriminator: Discriminator,
}

/// z → a picture, through rectifiers, with tanh at the end.
#[derive(Module, Debug)]
pub struct Generator {
    layers: Vec<Linear>,
    out: Linear,
    #[module(skip)]
    shape: [usize; 3],
}

impl Generator {
    /// From `inputs` numbers through layers of these widths to pictures of a shape.
    pub fn new(inputs: usize, hidden: &[usize], shape: [usize; 3], init: &mut Init) -> Self {
        let he = |i, o| LinearConfig { weight: WeightInit::He, ..LinearConfig::new(i, o) };
        let widths: Vec<usize> = [inputs].into_iter().chain(hidden.iter().copied()).collect();
        Self {
            layers: widths.windows(2).map(|w| he(w[0], w[1]).init(init)).collect(),
            out: LinearConfig::new(widths[widths.len() - 1], shape.iter().product()).init(init),
            shape,
        }
    }

    /// # Shapes
    /// `[n, inputs]` → `[n, c, h, w]` in (−1, 1)
    pub fn forward(&self, z: Tensor<2>) -> Tensor<4> {
        let ([n, _], [c, h, w]) = (z.dims(), self.shape);
        let x = self.layers.iter().fold(z, |x, layer| activate(layer.forward(x), Activation::Relu));
        self.out.forward(x).tanh().reshape([n, c, h, w])
    }
}

/// A picture → a raw score, through maxout units with dropout.
#[derive(Module, Debug)]
pub struct Discriminator {
    layers: Vec<Linear>,
    out: Linear,
    #[module(skip)]
    pieces: usize,
    #[module(skip)]
    dropout: [f64; 2],
}

impl Discriminator {
    /// Of pictures of `inputs` numbers, through layers of these widths, with dropout of the input and of the layers.
    pub fn new(inputs: usize, hidden: &[usize], pieces: usize, dropout: [f64; 2], init: &mut Init) -> Self {
        let widths: Vec<usize> = [inputs].into_iter().chain(hidden.iter().copied()).collect();
        // A rectifier halves the signal, which the largest of several pieces does not.
        let weight = if pieces == 1 { WeightInit::He } else { WeightInit::FanIn };
        let layer = |i, o| LinearConfig { weight, ..LinearConfig::new(i, o * pieces) };
        Self {
            layers: widths.windows(2).map(|w| layer(w[0], w[1]).init(init)).collect(),
            out: LinearConfig::new(widths[widths.len() - 1], 1).init(init),
            pieces,
            dropout,
        }
    }

    /// `key` is that of the dropout masks; none outside of training.
    ///
    /// # Shapes
    /// `[n, c, h, w]` in [−1, 1] → `[n, 1]`
    pub fn forward<X: Signal<4>>(&self, images: X, key: Option<Key>) -> Of<X, 4, 2> {
        let mask = |name: &str| key.map(|key| key.purpose(name));
        let mut x = dropout(images.flatten(), self.dropout[0], mask("input"));
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x);
            x = if self.pieces == 1 { activate(x, Activation::Relu) } else { maxout(x, self.pieces) };
            x = dropout(x, self.dropout[1], mask(&format!("layer {i}")));
        }
        self.out.forward(x)
    }
}

/// D as a function of pictures, for its gradient.
struct Critic<'a>(&'a Discriminator, Key);

impl Differentiable<4, 2> for Critic<'_> {
    fn apply<X: Signal<4>>(&self, x: X) -> Of<X, 4, 2> {
        self.0.forward(x, Some(self.1))
    }
}

/// The system.
pub struct Gan {
    config: Config,
    shape: [usize; 3],
}

impl System for Gan {
    const ID: &'static str = "gan";
    const PAPER: &'static str = "Goodfellow et al.: Generative Adversarial Nets, 2014";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        (DataConfig::default(), TrainConfig { images: 600_000, ..TrainConfig::default() })
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let c = &config;
        refuse_if!(c.latent_size == 0, "model.latent_size must be at least 1");
        refuse_if!(c.pieces == 0, "model.pieces must be at least 1");
        refuse_if!(c.discriminator_steps == 0, "model.discriminator_steps must be at least 1");
        refuse_if!(
            [&c.generator_hidden, &c.discriminator_hidden].iter().any(|widths| widths.contains(&0)),
            "model.generator_hidden and model.discriminator_hidden: each width must be at least 1"
        );
        refuse_if!(
            [c.input_dropout, c.dropout].iter().any(|rate| !(0.0..1.0).contains(rate)),
            "model.input_dropout and model.dropout must be at least 0 and below 1"
        );
        Objective::check_smoothing(c.label_smoothing)?;
        c.objective.check_penalty(c.gradient_penalty > 0.0, &c.discriminator_optimizer)?;
        Ok(Self { shape: pictures.shape, config })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let c = &self.config;
        let dropout = [c.input_dropout, c.dropout];
        Networks {
            generator: Generator::new(c.latent_size, &c.generator_hidden, self.shape, init),
            discriminator: Discriminator::new(
                self.shape.iter().product(),
                &c.discriminator_hidden,
                c.pieces,
                dropout,
                init,
            ),
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
        Abilities { generate: Some(self), decode: Some(self), discriminate: Some(self), ..Abilities::default() }
    }
}

impl Gan {
    /// G(z) for the z of a phase: each player has fresh ones (algorithm 1).
    fn fake(&self, networks: &Networks, phase: &str, batch: &Batch) -> Tensor<4> {
        let c = &self.config;
        networks.generator.forward(c.latent_distribution.train(batch, phase, c.latent_size))
    }

    /// D's loss: real pictures against G(z), and the gradient penalty between them.
    fn discriminator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (c, d) = (&self.config, &networks.discriminator);
        let mut real = batch.images();
        if c.dequantize {
            let noise = batch.uniform("dequantize", real.dims());
            real = real + (noise - 0.5) / 127.5;
        }
        let real = batch.augmentation("augment real").apply(real);
        let fake = batch.augmentation("augment fake").apply(self.fake(networks, "discriminator", batch).detach());
        let key = |side: &str| batch.dropout_key().purpose(side);
        let score = |x: &Tensor<4>, side: &str| d.forward(x.clone(), Some(key(side))).reshape([batch.len()]);
        let loss = c.objective.discriminator_loss(score(&real, "real"), score(&fake, "fake"), c.label_smoothing);
        if c.gradient_penalty == 0.0 {
            return Ok(Some(loss));
        }
        let mix = batch.uniform("mix", [batch.len()]);
        let penalty = wgan_gp(&Critic(d, key("between")), real, fake, mix, batch.device());
        Ok(Some(loss.plus("gradient_penalty", c.gradient_penalty, penalty)))
    }

    /// G's loss: D(G(z)).
    fn generator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let fake = batch.augmentation("augment generator").apply(self.fake(networks, "generator", batch));
        let key = batch.dropout_key().purpose("generator");
        let score = networks.discriminator.forward(fake, Some(key)).reshape([batch.len()]);
        Ok(Some(Loss::new("generator", self.config.objective.generator(score))))
    }
}

impl Generate<Networks> for Gan {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Noise]
    }

    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        self.decode(networks, self.latents(networks, request)?)
    }
}

impl Decode<Networks> for Gan {
    fn latents(&self, _networks: &Networks, request: &Request) -> Result<Tensor<2>> {
        self.config.latent_distribution.requested(request, self.config.latent_size, Self::ID)
    }

    fn decode(&self, networks: &Networks, latents: Tensor<2>) -> Result<Tensor<4>> {
        check_length(&latents, self.config.latent_size)?;
        Ok(networks.generator.forward(latents))
    }

    fn between(&self, a: Tensor<2>, b: Tensor<2>, t: f64) -> Tensor<2> {
        self.config.latent_distribution.between(a, b, t)
    }
}

impl Discriminate<Networks> for Gan {
    fn scores(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<1>> {
        check_pictures(&images, self.shape)?;
        let n = images.dims()[0];
        Ok(networks.discriminator.forward(images, None).reshape([n]))
    }

    fn is_logit(&self) -> bool {
        matches!(self.config.objective, Objective::NonSaturating | Objective::Saturating)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;

    use super::*;
    use crate::adversarial::testing::{batch, close, overfit};

    fn tiny() -> Config {
        Config {
            latent_size: 4,
            generator_hidden: vec![16],
            discriminator_hidden: vec![16],
            pieces: 3,
            ..Config::default()
        }
    }

    fn system(config: Config) -> Result<Gan> {
        Gan::new(config, &Pictures::new([1, 4, 6], Vec::new()))
    }

    #[test]
    fn shapes() {
        let device = Device::flex();
        let s = system(tiny()).unwrap();
        let n = s.networks(&mut Init::new(&device, 0));
        let out = s.generate(&n, &Request::new(0..3, 1, &device)).unwrap();
        assert_eq!(out.dims(), [3, 1, 4, 6]);
        assert_eq!(s.scores(&n, out).unwrap().dims(), [3]);
        assert!(s.scores(&n, Tensor::zeros([1, 1, 6, 4], &device)).unwrap_err().is_usage());
    }

    #[test]
    fn each_player_learns_alone() {
        for (objective, gradient_penalty) in [
            (Objective::NonSaturating, 0.0),
            (Objective::Saturating, 0.0),
            (Objective::LeastSquares, 0.0),
            (Objective::Hinge, 0.0),
            (Objective::Wasserstein, 10.0),
        ] {
            let config = Config { objective, gradient_penalty, dropout: 0.0, input_dropout: 0.0, ..tiny() };
            let mut s = system(config).unwrap();
            let b = batch(8, [1, 4, 6], 0);
            for phase in [0, 1] {
                let (before, after) = overfit(&mut s, phase, 1e-2, 60, &b);
                assert!(after < before - 0.05, "{objective:?} phase {phase}: {before} to {after}");
            }
        }
    }

    /// The largest of each unit's pieces, by hand.
    #[test]
    fn a_discriminator_is_the_largest_of_its_pieces() {
        let device = Device::flex();
        let d = Discriminator::new(4, &[2], 3, [0.0; 2], &mut Init::new(&device, 3));
        let x: Tensor<4> = kiln_nn::tensor::normal(Key::new(1), 0..5, [5, 1, 2, 2], &device);
        let pieces = d.layers[0].forward(x.clone().reshape([5, 4])).reshape([5, 2, 3]);
        let by_hand = d.out.forward(pieces.max_dim(2).reshape([5, 2]));
        close(&to_values(d.forward(x, None)), &to_values(by_hand), 1e-6);
    }

    #[test]
    fn bad_settings_are_usage_errors() {
        let bad = [
            Config { latent_size: 0, ..tiny() },
            Config { generator_hidden: vec![0], ..tiny() },
            Config { pieces: 0, ..tiny() },
            Config { dropout: 1.0, ..tiny() },
            Config { discriminator_steps: 0, ..tiny() },
            Config { objective: Objective::Wasserstein, ..tiny() },
        ];
        for config in bad {
            assert!(system(config.clone()).err().is_some_and(|e| e.is_usage()), "{config:?}");
        }
    }
}
