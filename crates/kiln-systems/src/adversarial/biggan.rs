//! Brock, Donahue & Simonyan, *Large Scale GAN Training for High Fidelity Natural Image Synthesis*, 2019 (BigGAN), on the residual
//! networks of [`super::residual`].
//!
//! Objective: SAGAN's hinge, and for G β Σ ‖WᵀW ⊙ (1 − I)‖²_F (equation 3).
//!
//! | paper | here |
//! |---|---|
//! | class embedding shared by all conditional batch norms (§3) | `shared_embedding`, of `embedding_size` numbers |
//! | skip-z: z in equal parts, one for the first layer and one for each block's norms (§3) | `skip_z`; [`HierarchicalGenerator`] |
//! | norms: 1 + a spectrally normalised linear map of the embedding and the part of z | [`ConditionalBatchNorm2d`](kiln_nn::ConditionalBatchNorm2d) |
//! | orthogonal initialisation (§3) | [`WeightInit::Orthogonal`] |
//! | orthogonal regularisation without the diagonal, β = 10⁻⁴ (§3.1) | `orthogonal_regularization`; [`orthogonality`] |
//! | two D steps for each of G's (§3) | `discriminator_steps` |
//! | 50 % more channels, doubling the parameters (table 1) | `generator_channels`, `discriminator_channels` |
//! | eight times the batch (table 1) | `train.batch`, in `train.accumulate` parts |
//! | average of G's weights (§3) | `train.ema_half_life` |
//! | truncation: numbers of z beyond a threshold are drawn again (§3.1) | `--truncation-psi`, the threshold; [`resampled`] |
//! | Adam, β₁ = 0, β₂ = 0.999, rates of 5·10⁻⁵ in G, 2·10⁻⁴ in D (appendix C) | `generator_optimizer`, `discriminator_optimizer` |
//! | attention on maps of half the size, spectral norm in both, projection | as [`super::sagan`] |
//!
//! Without classes every picture is of one class, whose embedding is learned; parts of z reach the norms all the same.
//!
//! `kiln train biggan --data fashion`, then `kiln sample RUN -n 64 --truncation-psi 0.5`.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::{Error, Result};
use kiln_data::DataKind;
use kiln_nn::orthogonal::orthogonality;
use kiln_nn::{Embedding, Init, Parametrization, WeightInit};
use kiln_train::{
    Abilities, Batch, DataConfig, Decode, Generate, Input, Loss, OptimizerConfig, Phase, Pictures, Request, SizeRule,
    System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::class_latents::ClassLatents;
use super::dcgan::Sizes;
use super::latent::{Distribution, resampled};
use super::objective::Objective;
use super::players;
use super::players::check_positive;
use super::residual::{Conditioned, Design, Discriminator, Generator};

/// How every weight is drawn.
const WEIGHTS: WeightInit = WeightInit::Orthogonal { gain: 1.0 };

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Tell both networks the class, where the data has classes.
    pub class_conditional: bool,
    /// Length of z, drawn from N(0, 1); with `skip_z` a multiple of one more than G has blocks.
    pub latent_size: usize,
    /// Give each block of G its own part of z, through its norms.
    pub skip_z: bool,
    /// Share one embedding of the class among all norms of G; else each has a table of its own.
    pub shared_embedding: bool,
    /// Length of the shared embedding.
    pub embedding_size: usize,
    /// Channels of G before its output; doubled each time the size is halved. The paper has 64, and 96 in its larger model.
    pub generator_channels: usize,
    /// Channels of D after its first block; doubled each time the size is halved. The paper has 64, and 96 in its larger model.
    pub discriminator_channels: usize,
    /// Where there is self-attention, in both networks: 1 on maps of half the picture's size, 2 on a quarter, …; `[]` for none.
    pub attention_levels: Vec<usize>,
    /// β of the orthogonal regularisation of G's weights; 0 for none.
    pub orthogonal_regularization: f64,
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
        let adam = |rate| OptimizerConfig { eps: 1e-6, ..OptimizerConfig::adam(rate).betas(0.0, 0.999) };
        Self {
            class_conditional: true,
            latent_size: 120,
            skip_z: true,
            shared_embedding: true,
            embedding_size: 128,
            generator_channels: 32,
            discriminator_channels: 32,
            attention_levels: vec![1],
            orthogonal_regularization: 1e-4,
            objective: Objective::Hinge,
            discriminator_steps: 2,
            generator_optimizer: adam(5e-5),
            discriminator_optimizer: adam(2e-4),
        }
    }
}

/// Both networks.
#[derive(Module, Debug)]
pub struct Networks {
    /// G.
    pub generator: HierarchicalGenerator,
    /// D.
    pub discriminator: Discriminator,
}

/// G whose blocks each see the class and a part of z.
#[derive(Module, Debug)]
pub struct HierarchicalGenerator {
    shared: Option<Embedding>,
    net: Generator,
    /// Numbers of z for each block; 0 without skip-z.
    #[module(skip)]
    part: usize,
    #[module(skip)]
    blocks: usize,
}

impl HierarchicalGenerator {
    /// `y` is one-hot, or a blend of classes.
    ///
    /// # Shapes
    /// `[n, latent_size]`, `[n, classes]` → `[n, c, h, w]` in (−1, 1)
    pub fn forward(&self, z: Tensor<2>, y: Tensor<2>) -> Tensor<4> {
        let y = match &self.shared {
            Some(table) => y.matmul(table.weight.val()),
            None => y,
        };
        if self.part == 0 {
            return self.net.forward(z, &vec![y; self.blocks]);
        }
        let part = |i: usize| z.clone().narrow(1, i * self.part, self.part);
        let conditions: Vec<_> = (1..=self.blocks).map(|i| Tensor::cat(vec![y.clone(), part(i)], 1)).collect();
        self.net.forward(part(0), &conditions)
    }
}

/// The system.
pub struct BigGan {
    config: Config,
    channels: usize,
    sizes: Sizes,
    latents: ClassLatents,
}

impl System for BigGan {
    const ID: &'static str = "biggan";
    const PAPER: &'static str =
        "Brock, Donahue & Simonyan: Large Scale GAN Training for High Fidelity Natural Image Synthesis, 2019";
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
            ("embedding_size", config.embedding_size),
            ("generator_channels", config.generator_channels),
            ("discriminator_channels", config.discriminator_channels),
            ("discriminator_steps", config.discriminator_steps as usize),
        ])?;
        let beta = config.orthogonal_regularization;
        if !(0.0..=1e3).contains(&beta) {
            return Err(Error::usage(format!("model.orthogonal_regularization = {beta}: must be 0 to 1000")));
        }
        config.objective.check_penalty(false, &config.discriminator_optimizer)?;
        let sizes = Sizes::of(pictures.shape)?;
        Design::check(&config.attention_levels, sizes)?;
        let parts = sizes.doublings + 1;
        if config.skip_z && !config.latent_size.is_multiple_of(parts) {
            return Err(Error::usage(format!(
                "model.latent_size = {}: with model.skip_z it is cut into {parts} equal parts for pictures of this size; take {}",
                config.latent_size,
                config.latent_size.next_multiple_of(parts)
            )));
        }
        let latents = ClassLatents {
            system: Self::ID,
            size: config.latent_size,
            distribution: Distribution::Normal,
            classes: if config.class_conditional { pictures.classes.clone() } else { Vec::new() },
        };
        Ok(Self { channels: pictures.shape[0], sizes, latents, config })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let c = &self.config;
        let (blocks, classes) = (self.sizes.doublings, self.latents.count());
        let design = |channels| Design {
            channels,
            sizes: self.sizes,
            attention_levels: &c.attention_levels,
            weight: WEIGHTS,
            parametrization: Parametrization::Spectral,
        };
        let part = if c.skip_z { c.latent_size / (blocks + 1) } else { 0 };
        let of_class = if c.shared_embedding { c.embedding_size } else { classes };
        let norms =
            Conditioned { features: of_class + part, weight: WEIGHTS, parametrization: Parametrization::Spectral };
        let inputs = if c.skip_z { part } else { c.latent_size };
        let table = |init: &mut Init| {
            Embedding::parametrized(classes, c.embedding_size, WEIGHTS, Parametrization::Direct, init)
        };
        let generator = HierarchicalGenerator {
            shared: c.shared_embedding.then(|| table(init)),
            net: Generator::new(&design(c.generator_channels), inputs, norms, self.channels, init),
            part,
            blocks,
        };
        let classes = self.latents.classes.len();
        let discriminator = Discriminator::new(&design(c.discriminator_channels), self.channels, classes, init);
        Networks { generator, discriminator }
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

impl BigGan {
    /// G(z, y) of a phase's own z and the classes of the batch.
    fn fake(&self, networks: &Networks, phase: &str, batch: &Batch) -> Result<Tensor<4>> {
        let z = Distribution::Normal.train(batch, phase, self.config.latent_size);
        Ok(networks.generator.forward(z, self.latents.of_batch(batch)?))
    }

    /// D's loss: real pictures against G(z, y).
    fn discriminator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let fake = batch.augmentation("augment fake").apply(self.fake(networks, "discriminator", batch)?.detach());
        let real = batch.augmentation("augment real").apply(batch.images());
        let [real, fake] = networks.discriminator.both(real, fake, self.latents.labels(batch));
        Ok(Some(self.config.objective.discriminator_loss(real, fake, 0.0)))
    }

    /// G's loss: D(G(z, y), y), and how far its weights are from orthogonal. The embedding is of classes, which may be alike.
    fn generator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let fake = batch.augmentation("augment generator").apply(self.fake(networks, "generator", batch)?);
        let belief = networks.discriminator.one(fake, self.latents.labels(batch));
        let loss = Loss::new("generator", self.config.objective.generator(belief));
        let beta = self.config.orthogonal_regularization;
        let penalty =
            if beta > 0.0 { orthogonality(&networks.generator, |path| !path.starts_with("shared")) } else { None };
        Ok(Some(match penalty {
            Some(penalty) => loss.plus("orthogonality", beta, penalty),
            None => loss,
        }))
    }

    /// z of a request: without numbers beyond the threshold `--truncation-psi`, if there is one.
    fn z(&self, request: &Request) -> Result<Tensor<2>> {
        resampled(request, self.config.latent_size, Self::ID)
    }
}

impl Generate<Networks> for BigGan {
    fn takes(&self) -> Vec<Input> {
        self.latents.takes()
    }

    fn shows_classes(&self) -> bool {
        !self.latents.classes.is_empty()
    }

    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        Ok(networks.generator.forward(self.z(request)?, self.latents.requested(request)?))
    }
}

impl Decode<Networks> for BigGan {
    fn latents(&self, _networks: &Networks, request: &Request) -> Result<Tensor<2>> {
        Ok(self.latents.join(self.z(request)?, self.latents.requested(request)?))
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
    use crate::adversarial::testing::{Fixtures, agrees, batch, close, overfit};
    use crate::testing::requested;

    fn tiny() -> Config {
        Config {
            latent_size: 6,
            embedding_size: 5,
            generator_channels: 4,
            discriminator_channels: 4,
            ..Config::default()
        }
    }

    fn system(config: Config, classes: usize) -> Result<BigGan> {
        let classes = (0..classes).map(|c| format!("class {c}")).collect();
        BigGan::new(config, &Pictures::new([1, 16, 16], classes))
    }

    /// Parts of z and the embedding reach the norms they belong to.
    #[test]
    fn the_hierarchical_generator_is_pytorchs() {
        let f = Fixtures::open("residual");
        let init = &mut Init::new(&Device::flex().autodiff(), 0);
        let sizes = Sizes { base: [2, 3], doublings: 2 };
        let parametrization = Parametrization::Spectral;
        let design = Design { channels: 4, sizes, attention_levels: &[1], weight: WEIGHTS, parametrization };
        let norms = Conditioned { features: 7, weight: WEIGHTS, parametrization };
        let shared = Some(Embedding::parametrized(3, 5, WEIGHTS, Parametrization::Direct, init));
        let g = HierarchicalGenerator { shared, net: Generator::new(&design, 2, norms, 3, init), part: 2, blocks: 2 };
        let y = || one_hot(&[2, 0, 1, 2], 3, &Device::flex().autodiff());
        agrees(&f, "biggan_g", g, "z", str::to_string, |g, z: Tensor<2>| g.forward(z, y()));
    }

    #[test]
    fn each_player_wins_a_fixed_batch_it_plays_alone() {
        for (skip_z, shared_embedding, classes) in [(true, true, 4), (false, false, 4), (true, true, 0)] {
            let mut s = system(Config { skip_z, shared_embedding, ..tiny() }, classes).unwrap();
            for (player, rate) in [(0, 5e-3), (1, 1e-2)] {
                let (first, last) = overfit(&mut s, player, rate, 60, &batch(8, [1, 16, 16], classes as u32));
                assert!(last < first - 0.2 * first.abs(), "{skip_z} {classes} {player}: {first} to {last}");
            }
        }
    }

    /// Drawn orthogonal, with more inputs than outputs, weights cost nothing; the embedding of classes is left out.
    #[test]
    fn the_regularisation_is_in_the_generators_loss() {
        let batch = batch(8, [1, 16, 16], 4);
        let terms = |beta| {
            let mut s = system(Config { orthogonal_regularization: beta, ..tiny() }, 4).unwrap();
            let networks = s.networks(&mut Init::new(&Device::flex().autodiff(), 0));
            let loss = s.generator_loss(&networks, &batch).unwrap().unwrap();
            let term = |name| loss.terms.iter().find(|(n, _)| *n == name).map(|(_, t)| t.clone().into_scalar::<f32>());
            (loss.total.clone().into_scalar::<f32>(), term("generator"), term("orthogonality"))
        };
        assert_eq!(terms(0.0).2, None);
        let (total, generator, penalty) = terms(0.5);
        let (generator, penalty) = (generator.unwrap(), penalty.unwrap());
        assert!((total - generator - 0.5 * penalty).abs() < 1e-3 * penalty, "{total} {generator} {penalty}");
    }

    #[test]
    fn a_sample_is_its_latents_truncated_or_not() {
        let device = Device::flex();
        let s = system(tiny(), 4).unwrap();
        let n = s.networks(&mut Init::new(&device, 0));
        for psi in [None, Some(0.5)] {
            let ask = |indices| {
                let sampler = psi.map(|psi| ("truncation_psi".to_string(), toml::Value::from(psi)));
                Request { sampler: sampler.into_iter().collect(), ..Request::new(indices, 1, &device) }
            };
            let many = requested(&s, &n, &ask(0..5)).unwrap();
            let one = requested(&s, &n, &ask(3..4)).unwrap();
            close(&to_values(one.clone()), &to_values(many.narrow(0, 3, 1)), 1e-6);
            let latents = Decode::latents(&s, &n, &ask(3..4)).unwrap();
            assert_eq!(latents.dims(), [1, 6 + 4]);
            close(&to_values(s.decode(&n, latents.clone()).unwrap()), &to_values(one), 1e-6);
            let z = &to_values(latents)[..6];
            assert!(psi.is_none_or(|psi| z.iter().all(|z| f64::from(z.abs()) <= psi)));
        }
    }

    #[test]
    fn bad_settings_and_requests_are_usage_errors() {
        let bad = [
            (Config { latent_size: 7, ..tiny() }, "take 9"),
            (Config { latent_size: 0, ..tiny() }, "latent_size"),
            (Config { embedding_size: 0, ..tiny() }, "embedding_size"),
            (Config { orthogonal_regularization: -1.0, ..tiny() }, "orthogonal_regularization"),
            (Config { attention_levels: vec![3], ..tiny() }, "attention_levels"),
        ];
        for (config, says) in bad {
            let e = system(config, 4).err().unwrap();
            assert!(e.is_usage() && e.to_string().contains(says), "{e}");
        }
        assert!(system(Config { latent_size: 7, skip_z: false, ..tiny() }, 4).is_ok());
        let device = Device::flex();
        let s = system(tiny(), 0).unwrap();
        let n = s.networks(&mut Init::new(&device, 0));
        let e = requested(&s, &n, &Request::new(0..1, 0, &device).of_class(Some(0))).unwrap_err();
        assert!(e.is_usage(), "{e}");
        assert!(s.decode(&n, Tensor::zeros([1, 3], &device)).is_err());
    }
}
