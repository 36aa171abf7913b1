//! Zhu, Park, Isola & Efros, *Unpaired Image-to-Image Translation using Cycle-Consistent
//! Adversarial Networks*, 2017.
//!
//! Objective (equation 3 and §5.2):
//!
//! L(G, F, D_X, D_Y) = L_GAN(G, D_Y) + L_GAN(F, D_X) + λ L_cyc(G, F) + ½λ L_identity(G, F)
//!
//! * L_GAN with least squares (§4): G minimises E (D(G(x)) − 1)², D minimises
//!   ½ E (D(y) − 1)² + ½ E D(G(x))²;
//! * L_cyc (equation 2): E ‖F(G(x)) − x‖₁ + E ‖G(F(y)) − y‖₁, per pixel;
//! * L_identity: E ‖G(y) − y‖₁ + E ‖F(x) − x‖₁.
//!
//! | paper | here |
//! |---|---|
//! | X, Y | the first and the second data set, `a` and `b` |
//! | G: X → Y, F: Y → X | `g_ab`, `g_ba`, a [`Generator`] each |
//! | D_X, D_Y | `d_a`, `d_b`, a [`PatchDiscriminator`] each |
//! | λ = 10 | `cycle_weight` |
//! | ½, the share of λ on L_identity | `identity_weight` |
//! | the history of 50 generated images (§4) | `pool`, [`ImagePool`] |
//! | c7s1-k, dk, Rk, uk (appendix 7.2) | [`ResnetGenerator`](super::networks::ResnetGenerator) |
//! | Ck (appendix 7.2) | [`PatchDiscriminator`] |
//!
//! `kiln train cyclegan --data starter:noto,starter:twemoji`, then
//! `kiln translate RUN picture.png out.png`.

use burn::tensor::Tensor;
use kiln_core::{Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::loss::{l1, squared_to};
use kiln_train::{
    Abilities, Batch, DataConfig, Loss, OptimizerConfig, Phase, Pictures, Request, Schedule, SizeRule, State, System,
    TrainConfig, Translate,
};
use serde::{Deserialize, Serialize};

use super::networks::{
    Generator, GeneratorConfig, ImagePool, Made, Normalization, Pass, PatchConfig, PatchDiscriminator,
};
use super::two_way::{self, DIRECTIONS, check_weights, real};
use crate::one_pass::NoSettings;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Both generators.
    #[serde(flatten)]
    pub generators: GeneratorConfig,
    /// Both discriminators.
    #[serde(flatten)]
    pub discriminators: PatchConfig,
    /// Weight of the adversarial loss; 0 trains with cycle consistency alone.
    pub adversarial_weight: f64,
    /// λ, the weight of the cycle loss; 0 trains with the adversarial loss alone.
    pub cycle_weight: f64,
    /// Weight of the identity loss as a fraction of `cycle_weight`.
    pub identity_weight: f64,
    /// Generated images kept for each discriminator; 0 shows it the newest only.
    pub pool: usize,
    /// The optimiser of generators and discriminators.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            generators: GeneratorConfig { generator_channels: 32, blocks: 3, ..GeneratorConfig::default() },
            discriminators: PatchConfig::new(32, Normalization::Instance),
            adversarial_weight: 1.0,
            cycle_weight: 10.0,
            identity_weight: 0.5,
            pool: 50,
            optimizer: OptimizerConfig::adam(2e-4).betas(0.5, 0.999).schedule(Schedule::LinearSecondHalf),
        }
    }
}

/// All four networks: G, F, D_X and D_Y.
pub type Networks = two_way::Networks<Generator, PatchDiscriminator>;

/// L_GAN for a generator: E (D(G(x)) − 1)².
pub fn adversarial_loss(fake: Tensor<4>) -> Tensor<1> {
    squared_to(fake, 1.0)
}

/// L_GAN for a discriminator: ½ E (D(y) − 1)² + ½ E D(G(x))². The half slows D down (appendix 7.1).
pub fn discriminator_loss(real: Tensor<4>, fake: Tensor<4>) -> Tensor<1> {
    (squared_to(real, 1.0) + squared_to(fake, 0.0)) * 0.5
}

/// L_cyc, and L_identity: E ‖a′ − a‖₁ + E ‖b′ − b‖₁, each a mean over pixels.
pub fn consistency_loss(again: [Tensor<4>; 2], real: [Tensor<4>; 2]) -> Tensor<1> {
    let ([again_a, again_b], [a, b]) = (again, real);
    l1(again_a, a) + l1(again_b, b)
}

/// The system.
pub struct CycleGan {
    config: Config,
    shape: [usize; 3],
    pool_a: ImagePool,
    pool_b: ImagePool,
    /// Generated in the generators' phase of this step and not yet judged: of a and of b.
    fakes: Made<[Tensor<4>; 2]>,
}

impl System for CycleGan {
    const ID: &'static str = "cyclegan";
    const PAPER: &'static str = "Zhu, Park, Isola & Efros: Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, 2017";
    const DATA: DataKind = DataKind::TwoDomains;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        two_way::defaults(4)
    }

    fn sizes(config: &Config) -> SizeRule {
        config.discriminators.sizes(config.generators.sizes(Self::ID))
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        config.generators.check()?;
        config.discriminators.check()?;
        check_weights(&[
            ("adversarial_weight", config.adversarial_weight),
            ("cycle_weight", config.cycle_weight),
            ("identity_weight", config.identity_weight),
        ])?;
        refuse_if!(
            config.adversarial_weight == 0.0 && config.cycle_weight == 0.0,
            "model.adversarial_weight and model.cycle_weight are both 0: nothing to learn"
        );
        Self::sizes(&config).check(pictures.shape)?;
        Ok(Self {
            config,
            shape: pictures.shape,
            pool_a: ImagePool::default(),
            pool_b: ImagePool::default(),
            fakes: Made::default(),
        })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, [channels, h, w]) = (&self.config, self.shape);
        let generator = |init: &mut Init| c.generators.init(channels, channels, [h, w], init);
        let discriminator = |init: &mut Init| c.discriminators.init(channels, init);
        Networks { g_ab: generator(init), g_ba: generator(init), d_a: discriminator(init), d_b: discriminator(init) }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let optimizer = || self.config.optimizer.clone();
        let mut phases = vec![Phase::new("generators", &["g_ab", "g_ba"], optimizer(), Self::generators)];
        if self.config.adversarial_weight > 0.0 {
            phases.push(Phase::new("discriminators", &["d_a", "d_b"], optimizer(), Self::discriminators));
        }
        phases
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { translate: Some(self), ..Abilities::default() }
    }

    fn state(&self) -> State {
        let pools = [("pool.a", &self.pool_a), ("pool.b", &self.pool_b)];
        pools.into_iter().filter_map(|(name, pool)| Some((name.to_string(), pool.state()?))).collect()
    }

    fn restore(&mut self, mut state: State) {
        self.pool_a.restore(state.remove("pool.a"));
        self.pool_b.restore(state.remove("pool.b"));
        self.fakes.clear();
    }
}

impl CycleGan {
    /// L_GAN(G, D_Y) + L_GAN(F, D_X) + λ L_cyc + ½λ L_identity.
    fn generators(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (real, pass) = (real(batch, Self::ID)?, Pass::training(batch));
        let Config { adversarial_weight, cycle_weight, identity_weight, .. } = self.config;
        let Networks { g_ab, g_ba, d_a, d_b } = networks;
        let [a, b] = real.clone();
        let (fake_a, fake_b) = (g_ba.forward(b.clone(), &pass), g_ab.forward(a.clone(), &pass));
        let mut loss = Loss { total: Tensor::zeros([1], &a.device()), terms: Vec::new() };
        if adversarial_weight > 0.0 {
            let term = adversarial_loss(d_b.forward(fake_b.clone())) + adversarial_loss(d_a.forward(fake_a.clone()));
            loss = loss.plus("adversarial", adversarial_weight, term);
            self.fakes.put(batch, [fake_a.clone().detach(), fake_b.clone().detach()]);
        }
        if cycle_weight > 0.0 {
            let again = [g_ba.forward(fake_b, &pass), g_ab.forward(fake_a, &pass)];
            loss = loss.plus("cycle", cycle_weight, consistency_loss(again, real.clone()));
            if identity_weight > 0.0 {
                let same = [g_ba.forward(a, &pass), g_ab.forward(b, &pass)];
                loss = loss.plus("identity", cycle_weight * identity_weight, consistency_loss(same, real));
            }
        }
        Ok(Some(loss))
    }

    /// The two discriminators' losses on real pictures and on fakes that went through the pools.
    fn discriminators(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let [a, b] = real(batch, Self::ID)?;
        let made = |g: &Generator, x: &Tensor<4>| g.forward(x.clone(), &Pass::training(batch)).detach();
        let [fake_a, fake_b] =
            self.fakes.take(batch).unwrap_or_else(|| [made(&networks.g_ba, &b), made(&networks.g_ab, &a)]);
        let size = self.config.pool;
        let fake_a = self.pool_a.exchange(fake_a, size, batch.key("pool a"), batch.samples());
        let fake_b = self.pool_b.exchange(fake_b, size, batch.key("pool b"), batch.samples());
        let judge = |d: &PatchDiscriminator, real, fake| discriminator_loss(d.forward(real), d.forward(fake));
        let loss = Loss::new("d_a", judge(&networks.d_a, a, fake_a));
        Ok(Some(loss.plus("d_b", 1.0, judge(&networks.d_b, b, fake_b))))
    }
}

impl Translate<Networks> for CycleGan {
    fn directions(&self) -> Vec<&'static str> {
        DIRECTIONS.to_vec()
    }

    fn own_sizes(&self) -> Option<SizeRule> {
        Some(self.config.generators.own_sizes(self.shape, Self::ID))
    }

    fn translate(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<4>> {
        self.config.generators.check_input(&images, self.shape, Self::ID)?;
        request.sampler::<NoSettings>(Self::ID)?;
        Ok(networks.along(request, Self::ID)?.forward(images, &Pass::default()))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;

    use super::*;
    use crate::translation::testing::{assert_close, fit, host, tensor, term, with_fixture};

    #[test]
    fn losses_equal_pytorch() {
        let device = Device::flex();
        with_fixture(|file| {
            let get = |name: &str| tensor::<4>(file, &format!("cyclegan.{name}"), &device);
            let both = |kind: &str| ["a", "b"].map(|side| get(&format!("{kind}_{side}")));
            let cycle = consistency_loss(both("rec"), both("real"));
            let identity = consistency_loss(both("same"), both("real"));
            let adversarial = adversarial_loss(get("d_a_fake")) + adversarial_loss(get("d_b_fake"));
            let Config { cycle_weight, identity_weight, adversarial_weight, .. } = Config::default();
            let all = adversarial.clone() * adversarial_weight
                + cycle.clone() * cycle_weight
                + identity.clone() * (cycle_weight * identity_weight);
            for (name, got) in [
                ("cycle", cycle),
                ("identity", identity),
                ("adversarial", adversarial),
                ("generator_loss", all),
                ("d_a_loss", discriminator_loss(get("d_a_real"), get("d_a_fake"))),
                ("d_b_loss", discriminator_loss(get("d_b_real"), get("d_b_fake"))),
            ] {
                assert_close(name, to_values(got), host(file, &format!("cyclegan.{name}")).values, 1e-6);
            }
        });
    }

    fn tiny() -> Config {
        let optimizer = OptimizerConfig::adam(2e-3).betas(0.5, 0.999);
        Config {
            generators: GeneratorConfig { generator_channels: 4, blocks: 1, ..GeneratorConfig::default() },
            discriminators: PatchConfig::new(4, Config::default().discriminators.discriminator_norm),
            pool: 4,
            optimizer,
            ..Config::default()
        }
    }

    #[test]
    fn fits_one_batch() {
        let (log, system) = fit::<CycleGan>(tiny(), 60, 2, 8);
        let (first, last) = (term(&log[0], "cycle"), term(&log[59], "cycle"));
        assert!(last < 0.5 * first, "cycle loss {first} -> {last}");
        assert!(system.fakes.is_empty());
    }

    #[test]
    fn weights_switch_terms_and_phases_off() {
        let names = |config| -> Vec<String> {
            fit::<CycleGan>(config, 1, 2, 8).0[0].iter().map(|(name, _)| name.clone()).collect()
        };
        assert_eq!(names(tiny()), ["adversarial", "cycle", "identity", "d_a", "d_b"]);
        assert_eq!(names(Config { cycle_weight: 0.0, ..tiny() }), ["adversarial", "d_a", "d_b"]);
        assert_eq!(names(Config { adversarial_weight: 0.0, ..tiny() }), ["cycle", "identity"]);
    }

    #[test]
    fn translates_other_sizes_and_refuses_what_does_not_fit() {
        let device = Device::flex();
        let pictures = Pictures::new([3, 8, 8], Vec::new());
        let system = CycleGan::new(tiny(), &pictures).unwrap();
        let networks = system.networks(&mut Init::new(&device, 0));
        let zeros = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &device);
        let along = |direction: &str| Request::new(0..1, 0, &device).along(direction);
        let out = system.translate(&networks, zeros([1, 3, 12, 20]), &along("b2a")).unwrap();
        assert_eq!(out.dims(), [1, 3, 12, 20]);
        for (shape, direction) in [([1, 3, 10, 8], "a2b"), ([1, 1, 8, 8], "a2b"), ([1, 3, 8, 8], "c2d")] {
            assert!(system.translate(&networks, zeros(shape), &along(direction)).unwrap_err().is_usage());
        }
    }

    #[test]
    fn bad_settings_are_usage_errors() {
        let pictures = |side| Pictures::new([3, side, side], Vec::new());
        for (config, side) in [
            (
                Config { discriminators: PatchConfig { discriminator_channels: 0, ..tiny().discriminators }, ..tiny() },
                8,
            ),
            (Config { generators: GeneratorConfig { dropout: 1.0, ..tiny().generators }, ..tiny() }, 8),
            (
                Config { discriminators: PatchConfig { discriminator_layers: 7, ..tiny().discriminators }, ..tiny() },
                512,
            ),
            (Config { discriminators: PatchConfig { discriminator_layers: 2, ..tiny().discriminators }, ..tiny() }, 8),
            (Config { cycle_weight: -1.0, ..tiny() }, 8),
            (Config { cycle_weight: 0.0, adversarial_weight: 0.0, ..tiny() }, 8),
            (tiny(), 10),
        ] {
            let e = CycleGan::new(config, &pictures(side)).err().unwrap();
            assert!(e.is_usage(), "{e}");
        }
    }
}
