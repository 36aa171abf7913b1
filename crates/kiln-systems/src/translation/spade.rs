//! Park, Liu, Wang & Zhu, *Semantic Image Synthesis with Spatially-Adaptive Normalization*, 2019 (SPADE, GauGAN).
//!
//! A picture for a label map m, of pairs (m, x). A norm washes m out of a network that is given m but once; so m comes back in every norm
//! (equation 1): γ_{c,y,x}(m) · (h − μ_c) / σ_c + β_{c,y,x}(m), and the network begins with a random z instead.
//!
//! Objective (appendix A), D judging (m, x) at several scales:
//!
//! * min_D Σ_k E max(0, 1 − D_k(m, x)) + E max(0, 1 + D_k(m, G(m, z))), a mean over scales k;
//! * min_{G, E} −E D_k(m, G(m, z)) + λ_F L_F + λ_P L_P + λ_KL KL(E(x) ‖ N(0, 1)), with z ~ E(x);
//! * L_F = Σ ‖D_k^i(m, x) − D_k^i(m, G(m, z))‖₁ over the inner maps i of D_k, a mean over each;
//! * L_P the same of a published network's maps, with weights 1/32, 1/16, 1/8, 1/4 and 1.
//!
//! | paper | here |
//! |---|---|
//! | G (figure 11) | `generator`, a [`SpadeGenerator`]: 4 blocks on the way up and 64 channels at 256 pixels are `doublings`, `generator_channels` |
//! | E (figure 13) | `encoder`, a [`SpadeEncoder`]; none with `noise_size = 0`, where G begins with the small label map |
//! | D (figure 12) | `discriminator`, a [`SpadeDiscriminator`] |
//! | λ_F = 10, λ_P = 10, λ_KL = 0.05 | `feature_weight`, `perceptual_weight`, `kl_weight` |
//! | Adam, rates 10⁻⁴ and 4·10⁻⁴, β 0 and 0.9 (§4) | both optimisers |
//!
//! `kiln train spade --data streets:labels,streets:day`, then `kiln translate RUN maps/ pictures/ -n 4`, or with `--style picture.png`.

use std::sync::OnceLock;

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::{Error, Result, refuse_if};
use kiln_data::DataKind;
use kiln_features::LayerNet;
use kiln_nn::loss::{gaussian_kl, l1};
use kiln_nn::tensor::{from_values, one_hot, to_values};
use kiln_nn::{Init, concat};
use kiln_train::{
    Abilities, Batch, DataConfig, Input, Loss, OptimizerConfig, Phase, Pictures, Request, Schedule, SizeRule, System,
    TrainConfig, Translate,
};
use serde::{Deserialize, Serialize};

use super::networks::spade::{SpadeConfig, SpadeDiscriminator, SpadeEncoder, SpadeGenerator, SpadeLayout};
use super::networks::{Made, MultiScaleDiscriminator, Normalization, PatchDiscriminator};
use super::two_way::{self, check_weights, fooling, telling_apart};
use crate::adversarial::objective::Objective;
use crate::adversarial::players::check_positive;
use crate::autoencoder::bound::reparameterise;
use crate::one_pass::NoSettings;
use crate::style::layers::layer_net;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Channels of G's last block, doubled in each block below it. The paper has 64.
    pub generator_channels: usize,
    /// Blocks on G's way up, before each of which maps are doubled: 3 at 64 pixels, 4 in the paper at 256.
    pub doublings: usize,
    /// Whether maps are doubled between the two middle blocks too.
    pub middle_doubling: bool,
    /// Channels between a label map and the scales and shifts made of it. The paper has 128.
    pub hidden: usize,
    /// By which statistics G normalises: `batch` (the paper) or `instance`.
    pub norm: Normalization,
    /// Numbers of z, 256 in the paper; 0 for one picture a map, without an encoder.
    pub noise_size: usize,
    /// Channels of the encoder's first layer. The paper has 64.
    pub encoder_channels: usize,
    /// Channels of the discriminators' first layer. The paper has 64.
    pub discriminator_channels: usize,
    /// Downsampling layers of each discriminator. The paper has 3.
    pub discriminator_layers: usize,
    /// Sizes of the picture that are judged.
    pub discriminator_scales: usize,
    /// The adversarial loss.
    pub objective: Objective,
    /// λ_F.
    pub feature_weight: f64,
    /// λ_KL.
    pub kl_weight: f64,
    /// λ_P, with `perceptual`.
    pub perceptual_weight: f64,
    /// Whose maps L_P compares: `mobilenetv2`, `efficientnet-lite0` or `vgg16-hed` of `kiln data fetch`, `vgg19:FILE`; empty leaves L_P out.
    pub perceptual: String,
    /// The optimiser of G and E.
    pub generator_optimizer: OptimizerConfig,
    /// The optimiser of D.
    pub discriminator_optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        let adam = |rate| OptimizerConfig::adam(rate).betas(0.0, 0.9).schedule(Schedule::LinearSecondHalf);
        Self {
            generator_channels: 16,
            doublings: 3,
            middle_doubling: false,
            hidden: 32,
            norm: Normalization::Batch,
            noise_size: 64,
            encoder_channels: 16,
            discriminator_channels: 32,
            discriminator_layers: 2,
            discriminator_scales: 2,
            objective: Objective::Hinge,
            feature_weight: 10.0,
            kl_weight: 0.05,
            perceptual_weight: 10.0,
            perceptual: String::new(),
            generator_optimizer: adam(1e-4),
            discriminator_optimizer: adam(4e-4),
        }
    }
}

impl Config {
    fn layout(&self) -> SpadeLayout {
        let (channels, doublings) = (self.generator_channels, self.doublings);
        SpadeLayout { channels, doublings, middle: self.middle_doubling, latent: self.noise_size }
    }
}

/// All networks.
#[derive(Module, Debug)]
pub struct Networks {
    /// G.
    pub generator: SpadeGenerator,
    /// E, where there is a z.
    pub encoder: Option<SpadeEncoder>,
    /// D.
    pub discriminator: SpadeDiscriminator,
}

/// The system.
pub struct Spade {
    config: Config,
    pictures: Pictures,
    /// Made in G's phase of this step and not yet judged.
    fakes: Made<Tensor<4>>,
    /// The network of L_P, opened when it is first asked for.
    perceptual: OnceLock<LayerNet>,
}

impl System for Spade {
    const ID: &'static str = "spade";
    const PAPER: &'static str =
        "Park, Liu, Wang & Zhu: Semantic Image Synthesis with Spatially-Adaptive Normalization, 2019";
    const DATA: DataKind = DataKind::LabelMaps;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        let (data, train) = two_way::defaults(4);
        (DataConfig { set: "streets:labels,streets:day".into(), size: 64.into(), ..data }, train)
    }

    fn settle(config: Config) -> Result<Config> {
        if !config.perceptual.is_empty() {
            layer_net(PERCEPTUAL, &config.perceptual, &burn::tensor::Device::default())?;
        }
        Ok(config)
    }

    fn sizes(config: &Config) -> SizeRule {
        let own = config.layout().sizes(config.norm, Self::ID);
        let shape = [config.discriminator_layers, config.discriminator_scales];
        MultiScaleDiscriminator::sizes(shape, SizeRule { min: own.min.max(8), ..own })
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let c = &config;
        check_positive(&[
            ("generator_channels", c.generator_channels),
            ("doublings", c.doublings),
            ("hidden", c.hidden),
            ("encoder_channels", c.encoder_channels),
            ("discriminator_channels", c.discriminator_channels),
        ])?;
        refuse_if!(c.doublings > 7, "model.doublings = {}: at most 7", c.doublings);
        refuse_if!(
            c.norm == Normalization::None,
            "model.norm = \"none\": a scale and a shift of what is normalised; use batch or instance"
        );
        PatchDiscriminator::check_layers(c.discriminator_layers)?;
        MultiScaleDiscriminator::check_scales(c.discriminator_scales)?;
        check_weights(&[
            ("feature_weight", c.feature_weight),
            ("kl_weight", c.kl_weight),
            ("perceptual_weight", c.perceptual_weight),
        ])?;
        c.objective.check_penalty(false, &c.discriminator_optimizer)?;
        Self::sizes(c).check(pictures.shape)?;
        refuse_if!(pictures.palette.len() < 2, "spade wants label maps of two classes or more, and these have one");
        Ok(Self { config, pictures: pictures.clone(), fakes: Made::default(), perceptual: OnceLock::new() })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, [channels, h, w], classes) = (&self.config, self.pictures.shape, self.pictures.palette.len());
        let spade = SpadeConfig { classes, hidden: c.hidden, norm: c.norm };
        let encoder = |init: &mut Init| SpadeEncoder::new(channels, c.encoder_channels, [h, w], c.noise_size, init);
        let judge = [c.discriminator_layers, c.discriminator_scales];
        Networks {
            generator: SpadeGenerator::new(channels, [h, w], c.layout(), spade, init),
            encoder: (c.noise_size > 0).then(|| encoder(init)),
            discriminator: SpadeDiscriminator::new(classes + channels, c.discriminator_channels, judge, init),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let c = &self.config;
        let made: &[&'static str] = if c.noise_size > 0 { &["generator", "encoder"] } else { &["generator"] };
        vec![
            Phase::new("generator", made, c.generator_optimizer.clone(), Self::generator_loss),
            Phase::new(
                "discriminator",
                &["discriminator"],
                c.discriminator_optimizer.clone(),
                Self::discriminator_loss,
            ),
        ]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { translate: Some(self), ..Abilities::default() }
    }

    fn restore(&mut self, _state: kiln_train::State) {
        self.fakes.clear();
    }
}

/// Where errors say that the network of L_P was asked for.
const PERCEPTUAL: &str = "model.perceptual =";

/// L_F: the mean distance of the inner maps of each layer, added up over layers, a mean over scales. Those of real pictures are constants.
fn feature_matching(fake: &[Vec<Tensor<4>>], real: &[Vec<Tensor<4>>]) -> Tensor<1> {
    let inner = |maps: &[Tensor<4>]| maps[..maps.len() - 1].to_vec();
    let apart = |(fake, real): (&Vec<Tensor<4>>, &Vec<Tensor<4>>)| {
        let pairs = inner(fake).into_iter().zip(inner(real));
        pairs.map(|(fake, real)| l1(fake, real.detach())).reduce(|sum, term| sum + term)
    };
    let scales = fake.len() as f64;
    let sum = fake.iter().zip(real).filter_map(apart).reduce(|sum, term| sum + term);
    sum.unwrap_or_else(|| Tensor::zeros([1], &Default::default())) / scales
}

/// The outputs of each scale in a row.
fn outputs(maps: &[Vec<Tensor<4>>]) -> Vec<Tensor<1>> {
    maps.iter().filter_map(|maps| maps.last()).map(|output| output.clone().flatten(0, 3)).collect()
}

/// D's maps of made pictures and of real ones, which are judged together.
fn judged(d: &SpadeDiscriminator, map: &Tensor<4>, fake: Tensor<4>, real: Tensor<4>) -> [Vec<Vec<Tensor<4>>>; 2] {
    let n = fake.dims()[0];
    let both = Tensor::cat(vec![concat(map.clone(), fake), concat(map.clone(), real)], 0);
    let maps = d.maps(both);
    let half = |from: usize| -> Vec<Vec<Tensor<4>>> {
        maps.iter().map(|scale| scale.iter().map(|map| map.clone().narrow(0, from, n)).collect()).collect()
    };
    [half(0), half(n)]
}

impl Spade {
    /// The label maps of a batch, one channel a class, and its pictures.
    fn pairs(&self, batch: &Batch) -> Result<[Tensor<4>; 2]> {
        let (_, pictures) = batch.pairs()?;
        Ok([one_hot(batch.mask()?, self.pictures.palette.len()), pictures.images.clone()])
    }

    /// G(m, z) with z ~ E(x), and KL(E(x) ‖ N(0, 1)), summed over z and the batch as in the authors' code.
    fn made(
        &self,
        networks: &Networks,
        map: &Tensor<4>,
        real: &Tensor<4>,
        noise: Tensor<2>,
    ) -> (Tensor<4>, Option<Tensor<1>>) {
        let Some(encoder) = &networks.encoder else {
            return (networks.generator.forward(map, None), None);
        };
        let (mean, log_var) = encoder.forward(real.clone());
        let z = reparameterise(mean.clone(), log_var.clone(), noise);
        (networks.generator.forward(map, Some(z)), Some(gaussian_kl(mean, log_var).sum()))
    }

    fn noise(&self, batch: &Batch) -> Tensor<2> {
        batch.normal("style", [batch.len(), self.config.noise_size.max(1)])
    }

    /// Everything that G and E minimise; beside it the pictures.
    fn objective(
        &self,
        networks: &Networks,
        [map, real]: [Tensor<4>; 2],
        noise: Tensor<2>,
    ) -> Result<(Loss, Tensor<4>)> {
        let c = &self.config;
        let (fake, kl) = self.made(networks, &map, &real, noise);
        let [of_fake, of_real] = judged(&networks.discriminator, &map, fake.clone(), real.clone());
        let scales = of_fake.len() as f64;
        let mut loss = Loss::new("adversarial", fooling(c.objective, outputs(&of_fake)) / scales);
        if c.feature_weight > 0.0 {
            loss = loss.plus("features", c.feature_weight, feature_matching(&of_fake, &of_real));
        }
        if let Some(kl) = kl.filter(|_| c.kl_weight > 0.0) {
            loss = loss.plus("kl", c.kl_weight, kl);
        }
        if c.perceptual_weight > 0.0 && !c.perceptual.is_empty() {
            loss = loss.plus("perceptual", c.perceptual_weight, self.perceptual(fake.clone(), real)?);
        }
        Ok((loss, fake))
    }

    /// L_P.
    fn perceptual(&self, fake: Tensor<4>, real: Tensor<4>) -> Result<Tensor<1>> {
        let device = fake.device();
        if self.perceptual.get().is_none() {
            // Another thread's is as good.
            let _ = self.perceptual.set(layer_net(PERCEPTUAL, &self.config.perceptual, &device)?);
        }
        let mut sum = Tensor::zeros([1], &device);
        if let Some(net) = self.perceptual.get() {
            let layers = net.style_layers();
            let (fake, real) = (net.maps(fake, &layers)?, net.maps(real, &layers)?);
            for (weight, (fake, real)) in
                [1.0 / 32.0, 1.0 / 16.0, 1.0 / 8.0, 1.0 / 4.0, 1.0].into_iter().zip(fake.into_iter().zip(real))
            {
                sum = sum + l1(fake, real.detach()) * weight;
            }
        }
        Ok(sum)
    }

    fn generator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let (loss, fake) = self.objective(networks, self.pairs(batch)?, self.noise(batch))?;
        self.fakes.put(batch, fake.detach());
        Ok(Some(loss))
    }

    /// D's loss on the pictures that G was just judged by.
    fn discriminator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let [map, real] = self.pairs(batch)?;
        let fake = match self.fakes.take(batch) {
            Some(fake) => fake,
            None => self.made(networks, &map, &real, self.noise(batch)).0.detach(),
        };
        let [of_fake, of_real] = judged(&networks.discriminator, &map, fake, real);
        let loss = telling_apart(self.config.objective, outputs(&of_real), outputs(&of_fake)) / of_fake.len() as f64;
        Ok(Some(Loss::new("discriminator", loss)))
    }

    /// The classes of label maps in the colours of the palette, as maps of 0 and 1.
    ///
    /// # Errors
    /// Names the first colour that is none of the palette's.
    fn classes(&self, images: &Tensor<4>) -> Result<Tensor<4>> {
        let [n, channels, h, w] = images.dims();
        let mut maps = Vec::new();
        for colour in &self.pictures.palette {
            let unit = colour.map(|v| f32::from(v) / 127.5 - 1.0);
            let colour: Tensor<4> =
                from_values(unit[..channels.min(3)].to_vec(), [1, channels, 1, 1], &images.device());
            // Half of a level of 8 bits.
            maps.push((images.clone() - colour).abs().max_dim(1).lower_elem(0.5 / 127.5).float());
        }
        let maps = Tensor::cat(maps, 1);
        let found = to_values(maps.clone().sum_dim(1));
        if let Some(at) = found.iter().position(|&classes| classes < 0.5) {
            let values = to_values(images.clone());
            let (picture, pixel) = (at / (h * w), at % (h * w));
            let level = |c: usize| ((values[(picture * channels + c) * h * w + pixel] + 1.0) * 127.5).round() as i32;
            let colour: Vec<String> = (0..channels).map(|c| level(c).to_string()).collect();
            return Err(Error::usage(format!(
                "map {} of {n}: the colour {} at ({}, {}) is none of the run's {} classes (data.palette in its recipe.toml)",
                picture + 1,
                colour.join(" "),
                pixel % w,
                pixel / w,
                self.pictures.palette.len()
            )));
        }
        Ok(maps)
    }
}

impl Translate<Networks> for Spade {
    fn takes(&self) -> Vec<Input> {
        if self.config.noise_size > 0 { vec![Input::Styles] } else { Vec::new() }
    }

    fn directions(&self) -> Vec<&'static str> {
        vec!["a2b"]
    }

    fn own_sizes(&self) -> Option<SizeRule> {
        Some(self.config.layout().sizes(self.config.norm, Self::ID))
    }

    /// By the mean of the z that E finds in pictures of a style, else by z ~ N(0, 1).
    fn translate(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<4>> {
        let [n, channels, height, width] = images.dims();
        let trained = self.pictures.shape[0];
        refuse_if!(channels != trained, "{} was trained on {trained} channels, not {channels}", Self::ID);
        self.config.layout().sizes(self.config.norm, Self::ID).check([channels, height, width])?;
        request.sampler::<NoSettings>(Self::ID)?;
        let map = self.classes(&images)?;
        let Some(encoder) = &networks.encoder else {
            return Ok(networks.generator.forward(&map, None));
        };
        let size = self.config.noise_size;
        let found = request.condition.styles.iter().map(|s| encoder.forward(s.image.clone()).0 * s.weight);
        let z = match found.reduce(|sum, z| sum + z) {
            Some(z) => z.expand([n, size]),
            None => request.normal("style", [n, size]),
        };
        Ok(networks.generator.forward(&map, Some(z)))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_core::random::Key;
    use kiln_data::{HostBatch, Part};
    use kiln_train::optim::Optimizer;
    use kiln_train::params;
    use kiln_train::request::Style;

    use super::*;
    use crate::translation::networks::spade::tests as networks;
    use crate::translation::testing::{assert_close, host, tensor, with_fixture_of};

    fn pictures(side: usize) -> Pictures {
        let palette = vec![[0, 0, 0], [255, 0, 0], [10, 200, 30]];
        Pictures { mask_classes: palette.len(), palette, ..Pictures::new([3, side, side], Vec::new()) }
    }

    fn tiny() -> Config {
        let adam = OptimizerConfig::adam(2e-3).betas(0.0, 0.9);
        Config {
            generator_channels: 4,
            doublings: 2,
            hidden: 8,
            noise_size: 4,
            encoder_channels: 4,
            discriminator_channels: 4,
            discriminator_layers: 1,
            generator_optimizer: adam.clone(),
            discriminator_optimizer: adam,
            ..Config::default()
        }
    }

    #[test]
    fn objectives_are_the_authors() {
        let device = Device::flex().autodiff();
        let mut init = Init::new(&device, 0);
        let nets = Networks {
            generator: networks::of_fixture("g_latent", networks::generator(&mut init)),
            encoder: Some(networks::of_fixture("e", networks::encoder(&mut init))),
            discriminator: networks::of_fixture("d", networks::discriminator(&mut init)),
        };
        let system = Spade::new(Config { doublings: 4, noise_size: 3, ..tiny() }, &pictures(64)).unwrap();
        with_fixture_of("spade", |file| {
            let classes: Tensor<3> = tensor(file, "whole.classes", &device);
            let [map, real] = [one_hot(classes.int(), 3), tensor(file, "whole.real", &device)];
            let noise = tensor(file, "whole.noise", &device);
            let (loss, fake) = system.objective(&nets, [map.clone(), real.clone()], noise).unwrap();
            for (name, value) in &loss.terms {
                assert_close(name, to_values(value.clone()), host(file, &format!("whole.{name}")).values, 2e-5);
            }
            assert_eq!(loss.terms.len(), 3);
            let of_g = params::take_gradients(&nets, &mut loss.total.backward());
            let [of_fake, of_real] = judged(&nets.discriminator, &map, fake.detach(), real);
            let loss = telling_apart(Objective::Hinge, outputs(&of_real), outputs(&of_fake)) / 2.0;
            assert_close("d", to_values(loss.clone()), host(file, "whole.discriminator").values, 2e-5);
            let of_d = params::take_gradients(&nets, &mut loss.backward());
            let names = file.names();
            let wanted: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix("whole_grad.")).collect();
            assert!(wanted.len() > 60, "{}", wanted.len());
            for path in wanted {
                let found = if path.starts_with("discriminator") { &of_d } else { &of_g };
                let want = host(file, &format!("whole_grad.{path}")).values;
                assert_close(path, to_values(found[path].clone()), want, 5e-4);
            }
        });
    }

    /// Maps of three stripes and pictures of other colours.
    fn batch(step: u64, side: usize, device: &Device) -> Batch {
        let n = 2;
        let class = |at: usize| ((at % side) * 3 / side) as u8;
        let masks: Vec<u8> = (0..n * side * side).map(|at| (class(at) + (at / side / side) as u8) % 3).collect();
        let value =
            |channel: usize, class: u8| [[0.7, -0.5, 0.1], [-0.6, 0.2, 0.5], [0.3, 0.4, -0.8]][channel][class as usize];
        let values = (0..n * 3 * side * side)
            .map(|at| {
                let (pixel, channel, item) = (at % (side * side), at / (side * side) % 3, at / (3 * side * side));
                value(channel, masks[item * side * side + pixel])
            })
            .collect::<Vec<f32>>();
        let part = |masks: Option<Vec<u8>>| Part {
            shape: [n, 3, side, side],
            values: values.clone(),
            masks,
            captions: vec![None; n],
            indices: (0..n).collect(),
            ..Part::default()
        };
        let parts = vec![part(Some(masks.clone())), part(None)];
        Batch::new(HostBatch { start: step * n as u64, parts }, 1_000, Key::new(0), device)
    }

    #[test]
    fn fits_one_batch() {
        let device = Device::flex().autodiff();
        for config in [tiny(), Config { noise_size: 0, norm: Normalization::Instance, ..tiny() }] {
            let mut system = Spade::new(config, &pictures(16)).unwrap();
            let mut networks = system.networks(&mut Init::new(&device, 1));
            let phases = system.phases();
            let mut optimizers: Vec<Optimizer> = phases.iter().map(|p| Optimizer::new(p.optimizer.clone())).collect();
            let mut apart = Vec::new();
            for step in 0..60 {
                let batch = batch(step, 16, &device);
                for (phase, optimizer) in phases.iter().zip(&mut optimizers) {
                    networks = params::set_trainable(networks, &phase.trains);
                    let loss = (phase.loss)(&mut system, &networks, &batch).unwrap().unwrap();
                    let mut gradients = loss.total.backward();
                    let gradients = params::take_gradients(&networks, &mut gradients);
                    networks = optimizer.step(networks, gradients, 1.0, 1.0);
                }
                let [map, real] = system.pairs(&batch).unwrap();
                let (fake, _) = system.made(&networks, &map, &real, system.noise(&batch));
                apart.push(to_values(l1(fake, real))[0]);
            }
            assert!(apart[59] < 0.5 * apart[0], "{} -> {}", apart[0], apart[59]);
            assert!(system.fakes.is_empty());
        }
    }

    #[test]
    fn maps_are_read_by_their_colours_and_styles_are_of_the_seed_or_of_pictures() {
        let device = Device::flex();
        let system = Spade::new(tiny(), &pictures(16)).unwrap();
        let networks = system.networks(&mut Init::new(&device, 0));
        let maps = |colours: &[[u8; 3]], h: usize, w: usize| {
            let level = |at: usize| f32::from(colours[at % w * colours.len() / w][at / (h * w)]) / 127.5 - 1.0;
            from_values::<4>((0..3 * h * w).map(level).collect(), [1, 3, h, w], &device)
        };
        let known = || maps(&[[255, 0, 0], [10, 200, 30]], 16, 24);
        let found = to_values(system.classes(&known()).unwrap());
        assert_eq!([found[0], found[16 * 24], found[2 * 16 * 24 + 23]], [0.0, 1.0, 1.0]);
        let said = system.classes(&maps(&[[255, 0, 0], [11, 200, 30]], 16, 24)).unwrap_err();
        assert!(said.is_usage() && said.to_string().contains("11 200 30 at (12, 0)"), "{said}");
        let made = |seed: u64, styles: usize| {
            let mut request = Request::new(0..1, seed, &device).along("a2b");
            let image = kiln_nn::tensor::uniform(Key::new(3), 0..1, [1, 3, 20, 12], &device);
            request.condition.styles = (0..styles).map(|_| Style { image: image.clone(), weight: 1.0 }).collect();
            to_values(system.translate(&networks, known(), &request).unwrap())
        };
        assert_eq!(made(1, 0).len(), 3 * 16 * 24);
        assert_eq!(made(1, 0), made(1, 0));
        assert_ne!(made(1, 0), made(2, 0));
        assert_eq!(made(1, 1), made(2, 1));
    }

    #[test]
    fn bad_settings_are_usage_errors() {
        for config in [
            Config { doublings: 8, ..tiny() },
            Config { norm: Normalization::None, ..tiny() },
            Config { hidden: 0, ..tiny() },
            Config { feature_weight: f64::NAN, ..tiny() },
            Config { objective: Objective::Wasserstein, ..tiny() },
            Config { discriminator_layers: 7, ..tiny() },
            Config { doublings: 4, ..tiny() },
        ] {
            let e = Spade::new(config, &pictures(16)).err().unwrap();
            assert!(e.is_usage(), "{e}");
        }
        assert!(Spade::settle(Config { perceptual: "vgg".into(), ..tiny() }).unwrap_err().is_usage());
    }
}
