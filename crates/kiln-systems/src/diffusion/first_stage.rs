//! The autoencoder of latent diffusion: Rombach, Blattmann, Lorenz, Esser & Ommer, *High-Resolution Image Synthesis with Latent
//! Diffusion Models*, 2022, section 3.1 and appendix G; with a codebook Esser, Rombach & Ommer, *Taming Transformers for
//! High-Resolution Image Synthesis* (VQGAN), 2021.
//!
//! Pictures become maps of a quarter or an eighth of their size, in which a diffusion model has less to do. What the latent is
//! kept by is either a slight pull towards a standard normal distribution (KL) or a codebook (VQ):
//!
//! L = |x − x̂| + λ_P d(x, x̂) + λ·w·L_adv(x̂) + L_reg,
//!
//! * d: a perceptual distance (LPIPS);
//! * L_adv: the hinge loss of a discriminator of patches, from a part of the run on; λ = ‖∇ L_rec‖ / (‖∇ L_adv‖ + 10⁻⁴), by the gradients at the
//!   decoder's last layer (VQGAN, equation 7), w `adversarial_weight`;
//! * L_reg: `kl_weight` times KL(q(z|x) ‖ N(0, 1)), summed over the latent and divided by the picture's numbers as the distances are; or
//!   `commitment_weight` times ‖z − sg(e)‖², with a codebook that follows by moving averages ([`Codebook`]).
//!
//! | authors' code, diffusers | here |
//! |---|---|
//! | `encoder`, `quant_conv`, `quantize`, `post_quant_conv`, `decoder` | the same, in `autoencoder` |
//! | `NLayerDiscriminator` | `discriminator`, a [`PatchDiscriminator`] |
//! | `disc_start`, in steps | `adversarial_start`, as a part of the run |
//!
//! `kiln train first-stage --data photos`, then `kiln reconstruct RUN IN OUT` and `kiln encode RUN IN --out latents.safetensors`.

use std::path::Path;
use std::sync::OnceLock;

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Tensor};
use kiln_core::{Error, Result, refuse_if};
use kiln_data::DataKind;
use kiln_features::Lpips;
use kiln_nn::first_stage::{FirstStageConfig, FirstStageDecoder, FirstStageEncoder};
use kiln_nn::tensor::constant_beside;
use kiln_nn::{Conv2d, Conv2dConfig, Init};
use kiln_train::request::check_pictures;
use kiln_train::{
    Abilities, Batch, DataConfig, Encode, Input, Loss, OptimizerConfig, Phase, Pictures, Reconstruct, Request, Run,
    SizeRule, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::codebook::Codebook;
use crate::adversarial::objective::Objective;
use crate::perceptual::lpips;
use crate::translation::networks::{Made, Normalization};
use crate::translation::networks::{PatchConfig, PatchDiscriminator};
use crate::translation::two_way::check_weights;

/// What keeps the latent in bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Regularization {
    /// A Gaussian near the standard one.
    Kl,
    /// A codebook.
    Vq,
}

/// The settings of the networks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// `kl` or `vq`.
    pub regularization: Regularization,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Channels of each level; each after the first halves the size.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each level.
    pub layers_per_block: usize,
    /// Groups of the normalisations.
    pub norm_num_groups: usize,
    /// Whether the smallest size attends over all positions.
    pub attention: bool,
    /// Vectors of the codebook.
    pub num_vq_embeddings: usize,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            regularization: Regularization::Kl,
            latent_channels: 4,
            block_out_channels: vec![32, 64, 64],
            layers_per_block: 1,
            norm_num_groups: 16,
            attention: true,
            num_vq_embeddings: 512,
        }
    }
}

impl NetworkConfig {
    /// How often smaller a latent's sides are than the picture's.
    pub fn factor(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1).min(16)
    }

    /// Checks what no picture can make right.
    ///
    /// # Errors
    /// A usage error that names the setting.
    pub fn check(&self) -> Result<()> {
        let channels = &self.block_out_channels;
        let counts = [self.latent_channels, self.layers_per_block, self.norm_num_groups, self.num_vq_embeddings];
        refuse_if!(
            counts.contains(&0),
            "model.latent_channels, layers_per_block, norm_num_groups and num_vq_embeddings must be at least 1"
        );
        refuse_if!(
            channels.is_empty()
                || channels.len() > 8
                || channels.iter().any(|n| *n == 0 || n % self.norm_num_groups != 0),
            "model.block_out_channels needs one to eight numbers that model.norm_num_groups = {} divides",
            self.norm_num_groups
        );
        Ok(())
    }

    fn of_pictures(&self, channels: usize) -> FirstStageConfig {
        FirstStageConfig {
            channels,
            block_out_channels: self.block_out_channels.clone(),
            layers_per_block: self.layers_per_block,
            norm_num_groups: self.norm_num_groups,
            latent_channels: self.latent_channels,
            attention: self.attention,
        }
    }
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The networks.
    #[serde(flatten)]
    pub network: NetworkConfig,
    /// Weight of the KL divergence.
    pub kl_weight: f64,
    /// Weight of the distance to the codes.
    pub commitment_weight: f64,
    /// `lpips-like-mobilenetv2` of `kiln data fetch`, `lpips-vgg16:FILE` or `lpips-alex:FILE`; empty leaves the distance out.
    pub perceptual: String,
    /// Its weight.
    pub perceptual_weight: f64,
    /// w, the weight of the adversarial loss beside the others; 0 leaves it out.
    pub adversarial_weight: f64,
    /// The part of the run, from 0 to 1, after which it begins.
    pub adversarial_start: f64,
    /// The discriminator.
    #[serde(flatten)]
    pub discriminator: PatchConfig,
    /// The autoencoder's optimiser.
    pub optimizer: OptimizerConfig,
    /// The discriminator's.
    pub discriminator_optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        let optimizer = OptimizerConfig::adam(2e-4).betas(0.5, 0.9);
        Self {
            network: NetworkConfig::default(),
            kl_weight: 1e-6,
            commitment_weight: 0.25,
            perceptual: String::new(),
            perceptual_weight: 1.0,
            adversarial_weight: 0.5,
            adversarial_start: 0.5,
            discriminator: PatchConfig::new(32, Normalization::Batch),
            optimizer: optimizer.clone(),
            discriminator_optimizer: optimizer,
        }
    }
}

/// The networks' settings of a run of `first-stage`.
///
/// # Errors
/// If the folder holds no such run.
pub fn settings_of(run: &str) -> Result<NetworkConfig> {
    let run = Run::open(Path::new(run))?;
    run.check_system(FirstStage::ID)?;
    Ok(run.recipe_of::<FirstStage>()?.model.network)
}

/// E and D, and what is between them.
#[derive(Module, Debug)]
pub struct Autoencoder {
    /// Pictures to the latent's parameters.
    pub encoder: FirstStageEncoder,
    /// 1×1, on them.
    pub quant_conv: Conv2d,
    /// The codebook.
    pub quantize: Option<Codebook>,
    /// 1×1, on latents.
    pub post_quant_conv: Conv2d,
    /// Latents to pictures.
    pub decoder: FirstStageDecoder,
}

/// The autoencoder and its judge.
#[derive(Module, Debug)]
pub struct Networks {
    /// The autoencoder.
    pub autoencoder: Autoencoder,
    /// D.
    pub discriminator: PatchDiscriminator,
}

impl Autoencoder {
    /// Fresh networks for pictures of so many channels.
    pub fn new(config: &NetworkConfig, channels: usize, init: &mut Init) -> Self {
        let network = config.of_pictures(channels);
        let gaussian = config.regularization == Regularization::Kl;
        let (z, codes) = (config.latent_channels, config.num_vq_embeddings);
        let parameters = if gaussian { 2 * z } else { z };
        Self {
            encoder: FirstStageEncoder::new(&network, parameters, init),
            quant_conv: Conv2dConfig::new(parameters, parameters, 1).init(init),
            quantize: (!gaussian).then(|| Codebook::new(codes, z, init)),
            post_quant_conv: Conv2dConfig::new(z, z, 1).init(init),
            decoder: FirstStageDecoder::new(&network, init),
        }
    }

    /// Mean and log-variance of q(z|x), or z and nothing where there is a codebook.
    fn parameters(&self, images: Tensor<4>) -> (Tensor<4>, Option<Tensor<4>>) {
        let both = self.quant_conv.forward(self.encoder.forward(images));
        if self.quantize.is_some() {
            return (both, None);
        }
        let half = both.dims()[1] / 2;
        // As the authors keep it in bounds.
        let log_var = both.clone().narrow(1, half, half).clamp(-30.0, 20.0);
        (both.narrow(1, 0, half), Some(log_var))
    }

    /// The latent of pictures as a diffusion model sees it: the mean, or z before it is quantised.
    ///
    /// # Shapes
    /// `[n, channels, h, w]` → `[n, latent, h / f, w / f]`
    pub fn encode(&self, images: Tensor<4>) -> Tensor<4> {
        self.parameters(images).0
    }

    /// Pictures of latents, which are quantised first where there is a codebook.
    ///
    /// # Shapes
    /// `[n, latent, h / f, w / f]` → `[n, channels, h, w]`
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        let latents = match &self.quantize {
            Some(codebook) => codebook.quantize(latents, None).latents,
            None => latents,
        };
        self.decoder.forward(self.post_quant_conv.forward(latents))
    }
}

/// The system.
pub struct FirstStage {
    config: Config,
    shape: [usize; 3],
    perceptual: OnceLock<Lpips>,
    /// Made by the autoencoder in this step and not yet judged.
    fakes: Made<Tensor<4>>,
}

impl System for FirstStage {
    const ID: &'static str = "first-stage";
    const PAPER: &'static str = "Rombach et al.: High-Resolution Image Synthesis with Latent Diffusion Models, 2022 (the autoencoder); Esser et al.: VQGAN, 2021";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        let train = TrainConfig { batch: 8, images: 100_000, ema_half_life: 5_000.0, ..TrainConfig::default() };
        (DataConfig::default(), train)
    }

    fn settle(config: Config) -> Result<Config> {
        if !config.perceptual.is_empty() {
            lpips(PERCEPTUAL, &config.perceptual, &Device::default())?;
        }
        Ok(config)
    }

    fn sizes(config: &Config) -> SizeRule {
        let because = format!("model.block_out_channels of {} levels", config.network.block_out_channels.len());
        let rule = SizeRule::multiple_of(config.network.factor(), because);
        if config.adversarial_weight > 0.0 { config.discriminator.sizes(rule) } else { rule }
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let c = &config;
        c.network.check()?;
        check_weights(&[
            ("kl_weight", c.kl_weight),
            ("commitment_weight", c.commitment_weight),
            ("perceptual_weight", c.perceptual_weight),
            ("adversarial_weight", c.adversarial_weight),
        ])?;
        refuse_if!(!(0.0..=1.0).contains(&c.adversarial_start), "model.adversarial_start must be from 0 to 1");
        refuse_if!(
            !c.perceptual.is_empty() && ![1, 3].contains(&pictures.shape[0]),
            "model.perceptual sees RGB; set data.channels to 1 or 3, not {}",
            pictures.shape[0]
        );
        c.discriminator.check()?;
        Self::sizes(c).check(pictures.shape)?;
        Ok(Self { shape: pictures.shape, perceptual: OnceLock::new(), fakes: Made::default(), config })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, channels) = (&self.config, self.shape[0]);
        Networks {
            autoencoder: Autoencoder::new(&c.network, channels, init),
            discriminator: c.discriminator.init(channels, init),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let c = &self.config;
        let mut phases = vec![Phase::<Self>::new("autoencoder", &["autoencoder"], c.optimizer.clone(), |s, n, b| {
            s.loss(n, b).map(Some)
        })];
        if c.adversarial_weight > 0.0 {
            let optimizer = c.discriminator_optimizer.clone();
            phases.push(Phase::new("discriminator", &["discriminator"], optimizer, Self::discriminator_loss));
        }
        phases
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { reconstruct: Some(self), encode: Some(self), ..Abilities::default() }
    }

    fn restore(&mut self, _state: kiln_train::State) {
        self.fakes.clear();
    }
}

/// Where errors say that the perceptual network was asked for.
const PERCEPTUAL: &str = "model.perceptual =";

impl FirstStage {
    fn is_adversarial(&self, batch: &Batch) -> bool {
        self.config.adversarial_weight > 0.0 && batch.progress() >= self.config.adversarial_start
    }

    /// |x − x̂| + λ_P d(x, x̂), and d.
    fn distance(&self, fake: Tensor<4>, real: Tensor<4>) -> Result<(Tensor<1>, Option<Tensor<1>>)> {
        let absolute = (fake.clone() - real.clone()).abs().mean();
        if self.config.perceptual.is_empty() {
            return Ok((absolute, None));
        }
        if self.perceptual.get().is_none() {
            // Another thread's is as good.
            let _ = self.perceptual.set(lpips(PERCEPTUAL, &self.config.perceptual, &fake.device())?);
        }
        let net = self.perceptual.get().ok_or_else(|| Error::new("no perceptual network"))?;
        let apart = net.distance(fake, real)?.mean();
        Ok((absolute + apart.clone() * self.config.perceptual_weight, Some(apart)))
    }

    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let (c, autoencoder) = (&self.config, &networks.autoencoder);
        let real = batch.images();
        let (z, log_var) = autoencoder.parameters(real.clone());
        let numbers = self.shape.iter().product::<usize>() as f64;
        let mut terms: Vec<(&'static str, Tensor<1>)> = Vec::new();
        let (latents, regularization) = match (&autoencoder.quantize, log_var) {
            (Some(codebook), _) => {
                let key = batch.key("restart").at(batch.start);
                let quantized = codebook.quantize(z, Some(key));
                terms.push(("commitment", quantized.commitment.clone().detach()));
                terms.push(("perplexity", quantized.perplexity.detach()));
                (quantized.latents, quantized.commitment * c.commitment_weight)
            }
            (None, log_var) => {
                let log_var = log_var.unwrap_or_else(|| z.zeros_like());
                let noise = batch.normal("posterior", z.dims());
                let drawn = z.clone() + (log_var.clone() * 0.5).exp() * noise;
                let kl = (z.square() + log_var.clone().exp() - 1.0 - log_var).sum() * (0.5 / batch.len() as f64);
                terms.push(("kl", kl.clone().detach()));
                (drawn, kl * (c.kl_weight / numbers))
            }
        };
        let features = autoencoder.decoder.features(autoencoder.post_quant_conv.forward(latents));
        let fake = autoencoder.decoder.conv_out.forward(features.clone());
        if !self.is_adversarial(batch) {
            let (distance, apart) = self.distance(fake, real)?;
            terms.push(("reconstruction", distance.clone().detach()));
            terms.extend(apart.map(|apart| ("perceptual", apart.detach())));
            return Ok(Loss { total: distance + regularization, terms });
        }
        // Both losses are differentiated at the picture, and the picture once: their gradients at the last layer are compared on the way.
        let at = |loss: &dyn Fn(Tensor<4>) -> Result<Tensor<1>>| -> Result<(Tensor<1>, Tensor<4>)> {
            let leaf = fake.clone().detach().require_grad();
            let value = loss(leaf.clone())?;
            let gradients = value.backward();
            let gradient = leaf.grad(&gradients).ok_or_else(|| Error::new("a loss without a gradient"))?;
            Ok((value.detach(), constant_beside(gradient, &fake)))
        };
        let (distance, of_distance) = at(&|fake| Ok(self.distance(fake, real.clone())?.0))?;
        let judged = |fake| Ok(Objective::Hinge.generator(networks.discriminator.patches(fake)));
        let (adversarial, of_adversarial) = at(&judged)?;
        let length = |gradient: &Tensor<4>| last_layer_gradient(&autoencoder.decoder.conv_out, &features, gradient);
        let weight = length(&of_distance)? / (length(&of_adversarial)? + 1e-4);
        let weight = weight.clamp(0.0, 1e4) * c.adversarial_weight;
        let gradient = of_distance + of_adversarial * weight;
        terms.extend([("reconstruction", distance), ("adversarial", adversarial)]);
        terms.push(("adversarial_factor", Tensor::from_floats([weight as f32], &real.device())));
        self.fakes.put(batch, fake.clone().detach());
        Ok(Loss { total: (fake * gradient).sum() + regularization, terms })
    }

    fn discriminator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        if !self.is_adversarial(batch) {
            return Ok(None);
        }
        let real = batch.images();
        let fake = self
            .fakes
            .take(batch)
            .unwrap_or_else(|| networks.autoencoder.decode(networks.autoencoder.encode(real.clone())).detach());
        let (real, fake) = (networks.discriminator.patches(real), networks.discriminator.patches(fake));
        let loss = Objective::Hinge.discriminator_loss(real, fake, 0.0);
        Ok(Some(Loss { total: loss.total * 0.5, ..loss }))
    }
}

/// ‖∂L/∂W‖ of the last convolution, of its input and of ∂L/∂x̂.
fn last_layer_gradient(last: &Conv2d, features: &Tensor<4>, gradient: &Tensor<4>) -> Result<f64> {
    let weight = Param::initialized(ParamId::new(), last.weight.val().detach().require_grad());
    let mut layer = last.clone();
    layer.weight = weight.clone();
    let along = (layer.forward(features.clone().detach()) * gradient.clone()).sum();
    let found = weight.val().grad(&along.backward()).ok_or_else(|| Error::new("a last layer without a gradient"))?;
    Ok(f64::from(found.square().sum().into_scalar::<f32>()).sqrt())
}

impl Reconstruct<Networks> for FirstStage {
    fn reconstruct(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<4>> {
        check_pictures(&images, self.shape)?;
        Ok(networks.autoencoder.decode(networks.autoencoder.encode(images)).clamp(-1.0, 1.0))
    }
}

/// Latents in a row: the mean, or the codes.
impl Encode<Networks> for FirstStage {
    fn takes(&self) -> Vec<Input> {
        Vec::new()
    }

    fn encode(&self, networks: &Networks, images: Tensor<4>, _request: &Request) -> Result<Tensor<2>> {
        check_pictures(&images, self.shape)?;
        let z = networks.autoencoder.encode(images);
        let z = match &networks.autoencoder.quantize {
            Some(codebook) => codebook.quantize(z, None).latents,
            None => z,
        };
        Ok(z.flatten(1, 3))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::Device;
    use kiln_core::random::Key;
    use kiln_data::{HostBatch, Part};
    use kiln_nn::tensor::{from_values, to_values};
    use kiln_train::{HostTensor, State, params};

    use super::*;
    use crate::testing::{Fixtures, close, fit, term, values};

    /// The autoencoder of the fixture `prefix`.
    fn loaded(f: &Fixtures, prefix: &str, regularization: Regularization, init: &mut Init) -> Autoencoder {
        let config = NetworkConfig {
            regularization,
            latent_channels: 3,
            block_out_channels: vec![8, 12],
            norm_num_groups: 4,
            num_vq_embeddings: 16,
            ..NetworkConfig::default()
        };
        let autoencoder = Autoencoder::new(&config, 3, init);
        let mut state: State = params::state(&autoencoder);
        for name in f.names() {
            let Some(path) = name.strip_prefix(&format!("{prefix}.")) else { continue };
            let path = path.replace("quantize.embedding.weight", "quantize.embedding");
            let (shape, values) = f.values(&name);
            let values = values.into_iter().map(|v| v as f32).collect();
            assert!(state.insert(path.clone(), HostTensor { shape, values }).is_some(), "{path}");
        }
        params::load(autoencoder, &state, "the fixture").unwrap()
    }

    #[test]
    fn both_are_those_of_diffusers() {
        let (f, device) = (Fixtures::open("first_stage"), Device::flex());
        let pixels = || from_values::<4>(values(&f, "pixels"), [2, 3, 8, 12], &device);
        let kl = loaded(&f, "kl", Regularization::Kl, &mut Init::new(&device, 0));
        let (mean, log_var) = kl.parameters(pixels());
        close(&to_values(mean.clone()), &values(&f, "kl_io.mean"), 1e-5);
        close(&to_values(log_var.unwrap()), &values(&f, "kl_io.logvar"), 1e-5);
        close(&to_values(kl.decode(mean)), &values(&f, "kl_io.decoded"), 1e-4);

        let vq = loaded(&f, "vq", Regularization::Vq, &mut Init::new(&device, 0));
        let latents = vq.encode(pixels());
        close(&to_values(latents.clone()), &values(&f, "vq_io.latents"), 1e-5);
        let quantized = vq.quantize.as_ref().unwrap().quantize(latents.clone(), None);
        close(&to_values(quantized.latents), &values(&f, "vq_io.quantized"), 1e-5);
        close(&to_values(quantized.indices.float()), &values(&f, "vq_io.indices"), 0.0);
        close(&to_values(vq.decode(latents)), &values(&f, "vq_io.decoded"), 1e-4);
    }

    fn small(set: impl FnOnce(&mut Config)) -> FirstStage {
        let mut config = Config {
            network: NetworkConfig {
                latent_channels: 3,
                block_out_channels: vec![8, 8],
                norm_num_groups: 4,
                num_vq_embeddings: 32,
                ..NetworkConfig::default()
            },
            adversarial_weight: 0.0,
            discriminator: PatchConfig::new(4, Normalization::None),
            optimizer: OptimizerConfig::adam(3e-3),
            ..Config::default()
        };
        set(&mut config);
        FirstStage::new(config, &Pictures::new([1, 16, 16], Vec::new())).unwrap()
    }

    fn batch(step: u64, device: &Device) -> Batch {
        let wave = |i: usize| ((i / 16 % 16) as f32 / 3.0 + (i / 256) as f32).sin() * ((i % 16) as f32 / 4.0).cos();
        let part = Part {
            shape: [4, 1, 16, 16],
            values: (0..4 * 256).map(wave).collect(),
            captions: vec![None; 4],
            indices: (0..4).collect(),
            ..Part::default()
        };
        Batch::new(HostBatch { start: 4 * step, parts: vec![part] }, 400, Key::new(0), device)
    }

    #[test]
    fn fits_one_batch_by_either_regularization() {
        for regularization in [Regularization::Kl, Regularization::Vq] {
            let (log, _) = fit(small(|c| c.network.regularization = regularization), 1, 100, batch);
            let [first, last] = [&log[0], &log[99]].map(|terms| term(terms, "reconstruction"));
            assert!(last < 0.35 * first, "{regularization:?}: {first} to {last}");
            if regularization == Regularization::Vq {
                assert!(term(&log[99], "perplexity") > 4.0, "{:?}", log[99]);
            }
        }
    }

    /// The gradient by way of the picture is that of the sum of both losses, the second times the factor that is reported.
    #[test]
    fn the_adversarial_loss_is_weighed_by_its_gradient() {
        let device = Device::flex().autodiff();
        let mut system = small(|c| {
            c.adversarial_weight = 0.5;
            c.adversarial_start = 0.0;
            c.kl_weight = 0.0;
        });
        let networks = system.networks(&mut Init::new(&device, 3));
        let batch = batch(1, &device);
        let loss = system.loss(&networks, &batch).unwrap();
        let factor = loss.terms.iter().find(|(name, _)| *name == "adversarial_factor").unwrap().1.clone();
        let mut gradients = loss.total.backward();
        let got = params::take_gradients(&networks, &mut gradients);

        let factor = f64::from(factor.into_scalar::<f32>());
        let part = |loss: &dyn Fn(Tensor<4>) -> Tensor<1>| {
            let (z, log_var) = networks.autoencoder.parameters(batch.images());
            let drawn = z.clone() + (log_var.unwrap() * 0.5).exp() * batch.normal("posterior", z.dims());
            let fake = networks.autoencoder.decoder.forward(networks.autoencoder.post_quant_conv.forward(drawn));
            let mut gradients = loss(fake).backward();
            to_values(params::take_gradients(&networks, &mut gradients)["autoencoder.decoder.conv_out.weight"].clone())
        };
        let distance = |fake: Tensor<4>| (fake - batch.images()).abs().mean();
        let adversarial = |fake| Objective::Hinge.generator(networks.discriminator.patches(fake));
        let norm = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let (one, two) = (part(&distance), part(&adversarial));
        assert!((factor - 0.5 * norm(&one) / (norm(&two) + 1e-4)).abs() < 1e-3 * factor, "{factor}");
        let whole: Vec<f32> = one.iter().zip(&two).map(|(a, b)| a + factor as f32 * b).collect();
        close(&to_values(got["autoencoder.decoder.conv_out.weight"].clone()), &whole, 1e-4);
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        for (set, said) in [
            ((|c| c.network.block_out_channels = vec![30]) as fn(&mut Config), "norm_num_groups"),
            (|c| c.network.latent_channels = 0, "latent_channels"),
            (|c| c.adversarial_start = 2.0, "adversarial_start"),
            (|c| c.kl_weight = -1.0, "kl_weight"),
            (|c| c.network.block_out_channels = vec![16; 7], "multiples of 64"),
        ] {
            let mut config = Config::default();
            set(&mut config);
            let error = FirstStage::new(config, &Pictures::new([3, 32, 32], Vec::new())).err().unwrap().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
