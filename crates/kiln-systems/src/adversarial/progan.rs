//! Karras, Aila, Laine & Lehtinen, *Progressive Growing of GANs for Improved Quality, Stability, and Variation*, 2018.
//!
//! Objective: the Wasserstein loss with a gradient penalty (Gulrajani 2017) and a drift term (section A.1):
//!
//! - D minimises E D(G(z)) − E D(x) + λ E (‖∇D(x̂)‖ − 1)² + ε_drift E D(x)², with x̂ on the line between a real and a generated
//!   picture
//! - G minimises −E D(G(z))
//!
//! | paper | here |
//! |---|---|
//! | progressive growing (section 2): both networks from the smallest size on, each next one faded in by α | [`Growth`], `growth` |
//! | real pictures of the current size, faded likewise | [`seen`] |
//! | minibatch standard deviation (section 3) | `minibatch_std_group` |
//! | equalised learning rate (section 4.1) | [`equalised`](super::equalised) |
//! | pixelwise feature vector normalisation in G, of z too (section 4.2) | [`pixel_norm`] |
//! | G and D (table 2): two 3×3 convolutions of each size; nearest neighbours up, averages down; LeakyReLU 0.2 | [`Synthesis`], [`Discriminator`] |
//! | λ = 10, ε_drift = 0.001, n_critic = 1 | `gradient_penalty`, `drift`, `discriminator_steps` |
//! | Adam 0.001, β = (0, 0.99); average of G's weights | `generator_optimizer`, `discriminator_optimizer`; `train.ema_half_life` |
//!
//! `growth` is the part of `train.images` after which the last size is whole: 4/5 in the paper at 1024×1024. Until then each size
//! is trained for as long as the next one fades in. The batch stays the same, and the moments of Adam are kept where the paper's
//! code starts them afresh at each size; layers begin theirs when they come into use.
//!
//! `kiln train progan --data fashion`, then `kiln sample RUN -n 64`, `kiln interpolate RUN`.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::Result;
use kiln_data::DataKind;
use kiln_nn::norm::pixel_norm;
use kiln_nn::penalty::wgan_gp;
use kiln_nn::{Augmentation, Init};
use kiln_train::{
    Abilities, Batch, DataConfig, Decode, Generate, Input, Loss, OptimizerConfig, Phase, Pictures, Request, SizeRule,
    State, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::dcgan::Sizes;
use super::equalised::Widths;
use super::growing::discriminator::Critic;
use super::growing::{Discriminator, Growth, Level, Parts, Synthesis, enlarge, seen};
use super::latent::check_length;
use super::objective::Objective;
use super::players::check_positive;
use super::style::latents::{repeated, z};
use crate::one_pass::NoSettings;

/// Nearest neighbours up, averages of two by two pixels down.
pub const BOX: [f32; 2] = [0.5, 0.5];

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Length of z. The paper has 512.
    pub latent_size: usize,
    /// Channels of the maps of size s are this over s.
    pub channel_base: usize,
    /// At most so many channels.
    pub channel_max: usize,
    /// The part of `train.images` over which the networks grow; 0 trains all layers from the start.
    pub growth: f64,
    /// Samples over which D's last layer sees the deviation.
    pub minibatch_std_group: usize,
    /// Weight λ of the gradient penalty.
    pub gradient_penalty: f64,
    /// Weight ε_drift of D's squared outputs on real pictures.
    pub drift: f64,
    /// Discriminator steps per generator step.
    pub discriminator_steps: u64,
    /// G's optimiser.
    pub generator_optimizer: OptimizerConfig,
    /// D's optimiser.
    pub discriminator_optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        let adam = OptimizerConfig::adam(1e-3).betas(0.0, 0.99);
        Self {
            latent_size: 128,
            channel_base: 512,
            channel_max: 128,
            growth: 0.8,
            minibatch_std_group: 4,
            gradient_penalty: 10.0,
            drift: 1e-3,
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
    pub generator: Synthesis,
    /// D.
    pub discriminator: Discriminator,
}

/// The system.
pub struct ProGan {
    config: Config,
    shape: [usize; 3],
    sizes: Sizes,
    growth: Growth,
    /// Of the last batch.
    level: Level,
}

impl System for ProGan {
    const ID: &'static str = "progan";
    const PAPER: &'static str = "Karras, Aila, Laine & Lehtinen: Progressive Growing of GANs for Improved Quality, Stability, \
                                 and Variation, 2018";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        (DataConfig::default(), TrainConfig { batch: 16, images: 300_000, ..TrainConfig::default() })
    }

    fn sizes(_config: &Config) -> SizeRule {
        Sizes::rule()
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        check_positive(&[
            ("latent_size", config.latent_size),
            ("channel_base", config.channel_base),
            ("channel_max", config.channel_max),
            ("minibatch_std_group", config.minibatch_std_group),
            ("discriminator_steps", config.discriminator_steps as usize),
        ])?;
        let sizes = Sizes::of(pictures.shape)?;
        let growth = Growth { first: 0, last: sizes.doublings, share: config.growth };
        Ok(Self { config, shape: pictures.shape, sizes, growth, level: growth.at(0, u64::MAX) })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, channels) = (&self.config, self.shape[0]);
        let widths = Widths { base: c.channel_base, max: c.channel_max };
        let parts = Parts { latent: c.latent_size, filter: &BOX, styles: false, constant: false, noise: false };
        Networks {
            generator: Synthesis::new(parts, widths, channels, self.sizes, init),
            discriminator: Discriminator::new(channels, widths, self.sizes, &BOX, c.minibatch_std_group, init),
        }
    }

    fn augments(_config: &Config) -> bool {
        true
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let c = &self.config;
        vec![
            Phase::new(
                "discriminator",
                &["discriminator"],
                c.discriminator_optimizer.clone(),
                Self::discriminator_loss,
            ),
            Phase::new("generator", &["generator"], c.generator_optimizer.clone(), Self::generator_loss)
                .every(c.discriminator_steps),
        ]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { generate: Some(self), decode: Some(self), ..Abilities::default() }
    }

    fn state(&self) -> State {
        self.level.state()
    }

    fn restore(&mut self, state: State) {
        if let Some(level) = Level::restored(&state) {
            self.level = Level { size: level.size.min(self.growth.last), ..level };
        }
    }
}

/// What D minimises: E D(G(z)) − E D(x) + λ E (‖∇D(x̂)‖ − 1)² + ε_drift E D(x)², of pictures as large as the level, which are
/// augmented first.
pub fn wasserstein(
    d: &Discriminator,
    [real, fake]: [Tensor<4>; 2],
    level: Level,
    [gradient_penalty, drift]: [f64; 2],
    batch: &Batch,
) -> Loss {
    let real = batch.augmentation("augment real").apply(real);
    let fake = batch.augmentation("augment fake").apply(fake);
    let (on_real, on_fake) = (d.scores(real.clone(), level), d.scores(fake.clone(), level));
    let critic = Critic { discriminator: d, level, augmentation: Augmentation::none() };
    let penalty = wgan_gp(&critic, real, fake, batch.uniform("mix", [batch.len()]), batch.device());
    Objective::Wasserstein
        .discriminator_loss(on_real.clone(), on_fake, 0.0)
        .plus("gradient_penalty", gradient_penalty, penalty)
        .plus("drift", drift, on_real.square().mean())
}

/// The level as one number, for the log.
pub fn reported(loss: Loss, level: Level, batch: &Batch) -> Loss {
    let number = level.size as f64 - 1.0 + level.fade;
    loss.report("growth", Tensor::<1>::full([1], number, batch.device()))
}

impl ProGan {
    /// G(z) of a level's size, z normalised.
    fn pictures(&self, networks: &Networks, z: Tensor<2>, level: Level) -> Tensor<4> {
        let g = &networks.generator;
        g.forward(repeated(pixel_norm(z), g.layers()), &[], level)
    }

    /// G(z) for a phase.
    fn fake(&self, networks: &Networks, phase: &str, batch: &Batch, level: Level) -> Tensor<4> {
        self.pictures(networks, batch.normal(phase, [batch.len(), self.config.latent_size]), level)
    }

    /// D's loss: D(G(z)) − D(x) + λ (‖∇D(x̂)‖ − 1)² + ε_drift D(x)².
    fn discriminator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let level = self.growth.at(batch.start, batch.budget);
        self.level = level;
        let (c, d) = (&self.config, &networks.discriminator);
        let images = seen(batch.images(), level, self.growth.last);
        let fake = self.fake(networks, "discriminator", batch, level).detach();
        let loss = wasserstein(d, [images, fake], level, [c.gradient_penalty, c.drift], batch);
        Ok(Some(reported(loss, level, batch)))
    }

    /// G's loss: −D(G(z)).
    fn generator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let level = self.growth.at(batch.start, batch.budget);
        let fake = self.fake(networks, "generator", batch, level);
        let fake = batch.augmentation("augment generator").apply(fake);
        let scores = networks.discriminator.scores(fake, level);
        Ok(Some(Loss::new("generator", Objective::Wasserstein.generator(scores))))
    }
}

impl Generate<Networks> for ProGan {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Noise]
    }

    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        self.decode(networks, self.latents(networks, request)?)
    }
}

/// Latents are z.
impl Decode<Networks> for ProGan {
    fn latents(&self, _networks: &Networks, request: &Request) -> Result<Tensor<2>> {
        // Not truncated: z is normalised, whatever its length.
        let NoSettings {} = request.sampler(Self::ID)?;
        z(request, self.config.latent_size)
    }

    /// Pictures of the size the networks have grown to, their pixels repeated up to the run's.
    fn decode(&self, networks: &Networks, latents: Tensor<2>) -> Result<Tensor<4>> {
        check_length(&latents, self.config.latent_size)?;
        Ok(enlarge(self.pictures(networks, latents, self.level), self.growth.last - self.level.size))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;

    use super::*;
    use crate::adversarial::testing::{batch, close, overfit};

    fn system(growth: f64, [h, w]: [usize; 2]) -> Result<ProGan> {
        let config = Config { latent_size: 8, channel_base: 64, channel_max: 8, growth, ..Config::default() };
        ProGan::new(config, &Pictures::new([1, h, w], Vec::new()))
    }

    #[test]
    fn each_player_wins_a_fixed_batch_it_plays_alone() {
        for growth in [0.0, 1.0] {
            let mut s = system(growth, [16, 16]).unwrap();
            for (phase, rate) in [(0, 5e-3), (1, 1e-2)] {
                let (first, last) = overfit(&mut s, phase, rate, 40, &batch(8, [1, 16, 16], 0));
                assert!(last < first - 0.2 * first.abs(), "{growth} {phase}: {first} to {last}");
            }
        }
    }

    #[test]
    fn pictures_have_the_runs_size_while_it_grows() {
        let device = Device::flex();
        let mut s = system(1.0, [16, 24]).unwrap();
        let n = s.networks(&mut Init::new(&device, 0));
        let request = Request::new(0..2, 1, &device);
        for level in [Level::whole(0), Level { size: 1, fade: 0.5 }, Level::whole(2)] {
            s.restore(level.state());
            assert_eq!(s.level, level);
            let images = s.generate(&n, &request).unwrap();
            assert_eq!(images.dims(), [2, 1, 16, 24]);
            let latents = s.latents(&n, &request).unwrap();
            close(&to_values(s.decode(&n, latents).unwrap()), &to_values(images), 1e-6);
        }
    }

    #[test]
    fn bad_settings_and_requests_are_usage_errors() {
        let device = Device::flex();
        let bad = Config { channel_max: 0, ..Config::default() };
        assert!(ProGan::new(bad, &Pictures::new([1, 16, 16], Vec::new())).err().unwrap().is_usage());
        let s = system(0.0, [16, 16]).unwrap();
        let n = s.networks(&mut Init::new(&device, 0));
        let mut request = Request::new(0..2, 0, &device);
        request.sampler = "truncation_psi = 0.5".parse().unwrap();
        assert!(s.generate(&n, &request).unwrap_err().is_usage());
        assert!(s.decode(&n, Tensor::zeros([1, 3], &device)).unwrap_err().is_usage());
    }
}
