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
//! | c7s1-k, dk, Rk, uk (appendix 7.2) | [`Generator`] |
//! | Ck (appendix 7.2) | [`PatchDiscriminator`] |
//!
//! `kiln train cyclegan --data starter:noto,starter:twemoji`, then
//! `kiln translate RUN picture.png out.png`.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::{Error, Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::loss::{l1, squared_to};
use kiln_train::{
    Abilities, Batch, DataConfig, Loss, OptimizerConfig, Phase, Pictures, Request, Schedule, SizeRule, State, System,
    TrainConfig, Translate,
};
use serde::{Deserialize, Serialize};

use super::networks::{Generator, ImagePool, PatchDiscriminator};
use crate::one_pass::NoSettings;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Channels of the generators' first convolution; they double twice. The paper has 64.
    pub generator_channels: usize,
    /// Residual blocks of each generator. The paper has 6 at 128 pixels and 9 at 256.
    pub blocks: usize,
    /// Channels of the discriminators' first convolution. The paper has 64.
    pub discriminator_channels: usize,
    /// Downsampling layers of each discriminator: 3 sees 70×70 patches, 2 sees 34×34, 1 sees 16×16.
    pub discriminator_layers: usize,
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
            generator_channels: 32,
            blocks: 3,
            discriminator_channels: 32,
            discriminator_layers: 2,
            adversarial_weight: 1.0,
            cycle_weight: 10.0,
            identity_weight: 0.5,
            pool: 50,
            optimizer: OptimizerConfig::adam(2e-4).betas(0.5, 0.999).schedule(Schedule::LinearSecondHalf),
        }
    }
}

/// All four networks.
#[derive(Module, Debug)]
pub struct Networks {
    /// G, from a to b.
    pub g_ab: Generator,
    /// F, from b to a.
    pub g_ba: Generator,
    /// D_X, whether a picture is of a.
    pub d_a: PatchDiscriminator,
    /// D_Y, whether a picture is of b.
    pub d_b: PatchDiscriminator,
}

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
    channels: usize,
    pool_a: ImagePool,
    pool_b: ImagePool,
    /// Generated in the generators' phase of this step and not yet judged: first sample, a, b.
    fakes: Vec<(u64, [Tensor<4>; 2])>,
}

impl System for CycleGan {
    const ID: &'static str = "cyclegan";
    const PAPER: &'static str = "Zhu, Park, Isola & Efros: Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, 2017";
    const DATA: DataKind = DataKind::TwoDomains;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        let data = DataConfig {
            set: "starter:noto,starter:twemoji".into(),
            size: 32.into(),
            channels: 3,
            ..DataConfig::default()
        };
        let train = TrainConfig {
            batch: 4,
            images: 40_000,
            ema_half_life: 0.0,
            preview_every: 4_000,
            checkpoint_every: 10_000,
            ..TrainConfig::default()
        };
        (data, train)
    }

    /// The discriminators see 3×3 patches of what their layers leave.
    fn sizes(config: &Config) -> SizeRule {
        let layers = config.discriminator_layers;
        let seen = 3usize.checked_shl(layers as u32).unwrap_or(usize::MAX);
        let rule = generated();
        if rule.min >= seen {
            return rule;
        }
        SizeRule { because: format!("model.discriminator_layers = {layers}"), ..rule }.at_least(seen)
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        refuse_if!(
            config.generator_channels == 0 || config.discriminator_channels == 0,
            "model.generator_channels and model.discriminator_channels must be at least 1"
        );
        refuse_if!(
            !(1..=5).contains(&config.discriminator_layers),
            "model.discriminator_layers must be 1 to 5, not {}",
            config.discriminator_layers
        );
        for (name, weight) in [
            ("adversarial_weight", config.adversarial_weight),
            ("cycle_weight", config.cycle_weight),
            ("identity_weight", config.identity_weight),
        ] {
            refuse_if!(!weight.is_finite() || weight < 0.0, "model.{name} must be at least 0, not {weight}");
        }
        refuse_if!(
            config.adversarial_weight == 0.0 && config.cycle_weight == 0.0,
            "model.adversarial_weight and model.cycle_weight are both 0: nothing to learn"
        );
        Self::sizes(&config).check(pictures.shape)?;
        let [channels, ..] = pictures.shape;
        Ok(Self { config, channels, pool_a: ImagePool::default(), pool_b: ImagePool::default(), fakes: Vec::new() })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let Config { generator_channels, blocks, discriminator_channels, discriminator_layers, .. } = self.config;
        let generator = |init: &mut Init| Generator::new(self.channels, generator_channels, blocks, init);
        let discriminator = |init: &mut Init| {
            PatchDiscriminator::new(self.channels, discriminator_channels, discriminator_layers, init)
        };
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
    /// The pictures of both domains.
    fn real(batch: &Batch) -> Result<[Tensor<4>; 2]> {
        match batch.domains.as_slice() {
            [a, b] => Ok([a.images.clone(), b.images.clone()]),
            _ => Err(Error::usage("cyclegan wants two sets, such as --data starter:noto,starter:twemoji")),
        }
    }

    /// L_GAN(G, D_Y) + L_GAN(F, D_X) + λ L_cyc + ½λ L_identity.
    fn generators(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (real, start) = (Self::real(batch)?, batch.start);
        let Config { adversarial_weight, cycle_weight, identity_weight, .. } = self.config;
        let Networks { g_ab, g_ba, d_a, d_b } = networks;
        let [a, b] = real.clone();
        let (fake_a, fake_b) = (g_ba.forward(b.clone()), g_ab.forward(a.clone()));
        let mut loss = Loss { total: Tensor::zeros([1], &a.device()), terms: Vec::new() };
        if adversarial_weight > 0.0 {
            let term = adversarial_loss(d_b.forward(fake_b.clone())) + adversarial_loss(d_a.forward(fake_a.clone()));
            loss = loss.plus("adversarial", adversarial_weight, term);
            self.fakes.retain(|(at, _)| *at != start);
            self.fakes.push((start, [fake_a.clone().detach(), fake_b.clone().detach()]));
        }
        if cycle_weight > 0.0 {
            let again = [g_ba.forward(fake_b), g_ab.forward(fake_a)];
            loss = loss.plus("cycle", cycle_weight, consistency_loss(again, real.clone()));
            if identity_weight > 0.0 {
                let same = [g_ba.forward(a), g_ab.forward(b)];
                loss = loss.plus("identity", cycle_weight * identity_weight, consistency_loss(same, real));
            }
        }
        Ok(Some(loss))
    }

    /// The two discriminators' losses on real pictures and on fakes that went through the pools.
    fn discriminators(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let [a, b] = Self::real(batch)?;
        let made = self.fakes.iter().position(|(start, _)| *start == batch.start);
        let [fake_a, fake_b] = match made {
            Some(at) => self.fakes.swap_remove(at).1,
            None => [networks.g_ba.forward(b.clone()).detach(), networks.g_ab.forward(a.clone()).detach()],
        };
        let size = self.config.pool;
        let fake_a = self.pool_a.exchange(fake_a, size, batch.key("pool a"), batch.samples());
        let fake_b = self.pool_b.exchange(fake_b, size, batch.key("pool b"), batch.samples());
        let judge = |d: &PatchDiscriminator, real, fake| discriminator_loss(d.forward(real), d.forward(fake));
        let loss = Loss::new("d_a", judge(&networks.d_a, a, fake_a));
        Ok(Some(loss.plus("d_b", 1.0, judge(&networks.d_b, b, fake_b))))
    }
}

/// The sizes that a generator takes: it halves them twice and reflects what is left.
fn generated() -> SizeRule {
    SizeRule::multiple_of(4, "cyclegan").at_least(8)
}

impl Translate<Networks> for CycleGan {
    fn directions(&self) -> Vec<&'static str> {
        vec!["a2b", "b2a"]
    }

    fn multiple_of(&self) -> Option<usize> {
        Some(4)
    }

    fn translate(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<4>> {
        let [_, channels, height, width] = images.dims();
        if channels != self.channels {
            return Err(Error::usage(format!("cyclegan was trained on {} channels, not {channels}", self.channels)));
        }
        generated().check([channels, height, width])?;
        request.sampler::<NoSettings>(Self::ID)?;
        match request.condition.direction.as_deref().unwrap_or("a2b") {
            "a2b" => Ok(networks.g_ab.forward(images)),
            "b2a" => Ok(networks.g_ba.forward(images)),
            other => Err(Error::usage(format!("direction `{other}`: cyclegan has `a2b` and `b2a`"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_core::random::Key;
    use kiln_data::{HostBatch, Part};
    use kiln_nn::tensor::to_values;
    use kiln_train::optim::Optimizer;
    use kiln_train::params;

    use super::*;
    use crate::translation::testing::{assert_close, host, tensor, with_fixture};

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
            generator_channels: 4,
            blocks: 1,
            discriminator_channels: 4,
            discriminator_layers: 1,
            pool: 4,
            optimizer,
            ..Config::default()
        }
    }

    /// Light pictures on the one side, the same turned dark on the other.
    fn batch(start: u64, device: &Device) -> Batch {
        let shape = [2, 3, 8, 8];
        let a = Key::new(5).uniform(0..2, 3 * 8 * 8);
        let b = a.iter().map(|v| -v).collect();
        let part = |values| Part {
            shape,
            values,
            labels: None,
            captions: vec![None; 2],
            indices: vec![0, 1],
            ..Part::default()
        };
        Batch::new(HostBatch { start, parts: vec![part(a), part(b)] }, 1_000, Key::new(0), device)
    }

    /// Trains a tiny system; the losses' terms of every step.
    fn fit(config: Config, steps: u64) -> Vec<Vec<(String, f32)>> {
        let device = Device::flex().autodiff();
        let pictures = Pictures::new([3, 8, 8], Vec::new());
        let mut system = CycleGan::new(config, &pictures).unwrap();
        let mut networks = system.networks(&mut Init::new(&device, 0));
        let phases = system.phases();
        let mut optimizers: Vec<_> = phases.iter().map(|p| Optimizer::new(p.optimizer.clone())).collect();
        let mut log = Vec::new();
        for step in 0..steps {
            let batch = batch(2 * step, &device);
            let mut terms = Vec::new();
            for (phase, optimizer) in phases.iter().zip(&mut optimizers) {
                networks = params::set_trainable(networks, &phase.trains);
                let loss = (phase.loss)(&mut system, &networks, &batch).unwrap().unwrap();
                terms.extend(loss.terms.into_iter().map(|(name, value)| (name.to_string(), to_values(value)[0])));
                let mut gradients = loss.total.backward();
                let gradients = params::take_gradients(&networks, &mut gradients);
                networks = optimizer.step(networks, gradients, 1.0, 1.0);
            }
            log.push(terms);
        }
        assert!(system.fakes.is_empty());
        log
    }

    #[test]
    fn fits_one_batch() {
        let log = fit(tiny(), 60);
        let cycle = |terms: &Vec<(String, f32)>| terms.iter().find(|(name, _)| name == "cycle").unwrap().1;
        let (first, last) = (cycle(&log[0]), cycle(&log[59]));
        assert!(last < 0.5 * first, "cycle loss {first} -> {last}");
    }

    #[test]
    fn weights_switch_terms_and_phases_off() {
        let names = |config| -> Vec<String> { fit(config, 1)[0].iter().map(|(name, _)| name.clone()).collect() };
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
            (Config { generator_channels: 0, ..tiny() }, 8),
            (Config { discriminator_layers: 0, ..tiny() }, 8),
            (Config { discriminator_layers: 2, ..tiny() }, 8),
            (Config { cycle_weight: -1.0, ..tiny() }, 8),
            (Config { cycle_weight: 0.0, adversarial_weight: 0.0, ..tiny() }, 8),
            (tiny(), 10),
        ] {
            let e = CycleGan::new(config, &pictures(side)).err().unwrap();
            assert!(e.is_usage(), "{e}");
        }
    }
}
