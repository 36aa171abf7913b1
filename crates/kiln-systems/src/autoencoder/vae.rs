//! Kingma & Welling, *Auto-Encoding Variational Bayes*, 2014.
//!
//! Objective (equations 7 and 10, appendix B): the evidence bound of a picture x,
//!
//! L = E_q(z|x) log p_θ(x|z) − KL(q_φ(z|x) ‖ p(z)) ≤ log p_θ(x), with
//! q_φ(z|x) = N(μ, diag σ²), p(z) = N(0, I), z = μ + σ ⊙ ε, ε ~ N(0, I), and
//! KL = −½ Σⱼ (1 + log σⱼ² − μⱼ² − σⱼ²).
//!
//! Training minimises −E log p(x|z) + β·KL, with one draw of ε a picture (the paper's L = 1).
//! A closer estimate of log p(x) than L is importance sampling (Rezende 2014, appendix E; Burda
//! 2016, equation 8): log (1/K) Σₖ p(x|zₖ) p(zₖ) / q(zₖ|x), zₖ ~ q(z|x), which never exceeds
//! log p(x) in expectation and reaches it as K grows.
//!
//! | paper | here |
//! |---|---|
//! | q_φ(z\|x): μ, log σ² | `encoder`: [`Encoder::forward`] |
//! | p_θ(x\|z) | `decoder`: [`Decoder`], a Bernoulli (appendix C.1) or a Gaussian (C.2) a pixel |
//! | ε, z | `noise`, [`reparameterise`] |
//! | −KL term | [`gaussian_kl`] |
//! | log p(x\|z) + log p(z) − log q(z\|x) | [`log_weights`] |
//! | — (β of Higgins 2017; 1 is the paper) | `beta`, `kl_warmup` |
//!
//! Numbers are nats a picture. A Bernoulli decoder on binarised pixels gives probabilities; a
//! Gaussian decoder gives a *density* over pixels scaled to [−1, 1], which may exceed 1, so that its
//! "nll" may be negative and compares only with densities over the same scale.
//!
//! `kiln train vae --data starter`, then `kiln sample RUN -n 64 --truncation-psi 0.8`.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation::sigmoid};
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_data::DataKind;
use kiln_nn::loss::{bernoulli_log_likelihood, gaussian_kl, gaussian_log_likelihood, softplus};
use kiln_nn::tensor::{from_values, to_values};
use kiln_nn::{
    Activation, Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig, Init, Linear, LinearConfig, Weights,
    activate,
};
use kiln_train::system::{check_class, check_one_pass};
use kiln_train::{
    Abilities, Batch, DataConfig, Decode, Encode, Generate, GenerateRequest, Likelihood, Loss, OptimizerConfig, Phase,
    Pictures, Reconstruct, Schedule, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

/// The kind of both networks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Fully connected layers of the widths `hidden`, as in the paper.
    Mlp,
    /// 4×4 convolutions of stride 2, then the layers `hidden`; the decoder is the mirror image.
    #[default]
    Conv,
}

/// Between the layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Nonlinearity {
    /// max(x, 0).
    #[default]
    Relu,
    /// The hyperbolic tangent, as in the paper.
    Tanh,
}

impl Nonlinearity {
    fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Relu => activate(x, Activation::Relu),
            Self::Tanh => x.tanh(),
        }
    }

    /// Weights that keep the signal's variance through a layer (He 2015; Glorot & Bengio 2010): with
    /// smaller ones, the bound stays at "z says nothing" for many thousand pictures.
    fn weights(self, fan_in: usize) -> Weights {
        match self {
            Self::Relu => Weights::He,
            Self::Tanh => Weights::Normal(1.0 / (fan_in as f64).sqrt()),
        }
    }
}

/// p(x|z).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Likelihoods {
    /// Independent pixels that are 1 with probability σ(logit), of pictures mapped to `[0, 1]`.
    #[default]
    Bernoulli,
    /// N(mean, `sigma`²) over pixels in [−1, 1].
    Gaussian,
    /// The same with learned variance: see `variance`.
    GaussianLearned,
}

/// How grey pixels become the 0s and 1s of a Bernoulli decoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Binarize {
    /// They stay grey; log p(x|z) is then minus a cross-entropy, not a log-probability.
    #[default]
    None,
    /// Each pixel is drawn once, 1 with probability of its grey value (Larochelle & Murray 2011). The
    /// draw is keyed by the picture itself, so that it is the same in every epoch and run and,
    /// for pictures held out, in every evaluation.
    Static,
    /// Drawn anew each time a picture is seen (Salakhutdinov & Murray 2008).
    Dynamic,
}

/// What a learned variance may depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variance {
    /// One number for all pixels of all pictures (Rybkin 2021, σ-VAE).
    #[default]
    Scalar,
    /// One number a pixel, put out by the decoder (the paper's appendix C.2).
    Pixel,
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Dimensions of z.
    pub latent: usize,
    /// `mlp` or `conv`.
    pub network: Network,
    /// Widths of the encoder's fully connected layers; the decoder has them in reverse. May be empty.
    pub hidden: Vec<usize>,
    /// Channels of the first convolution, doubled by each further one (`conv`).
    pub channels: usize,
    /// Convolutions, each of which halves the size (`conv`).
    pub levels: usize,
    /// `relu` or `tanh`.
    pub nonlinearity: Nonlinearity,
    /// p(x|z): `bernoulli`, `gaussian`, `gaussian-learned`.
    pub decoder: Likelihoods,
    /// `none`, `static`, `dynamic` (`bernoulli`).
    pub binarize: Binarize,
    /// σ of `gaussian`, in pixels scaled to [−1, 1]; where a learned σ starts.
    pub sigma: f64,
    /// What a learned variance may depend on: `scalar`, `pixel`.
    pub variance: Variance,
    /// Smallest log σ² that is learned: density has no bound on pixels that are always the same.
    pub min_log_variance: f64,
    /// β, the weight of the KL term.
    pub beta: f64,
    /// Images over which the weight of the KL term rises linearly from 0 to β.
    pub kl_warmup: u64,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            latent: 32,
            network: Network::Conv,
            hidden: vec![256],
            channels: 32,
            levels: 2,
            nonlinearity: Nonlinearity::Relu,
            decoder: Likelihoods::Bernoulli,
            binarize: Binarize::None,
            sigma: 0.2,
            variance: Variance::Scalar,
            min_log_variance: -6.0,
            beta: 1.0,
            kl_warmup: 0,
            optimizer: OptimizerConfig::adam(1e-3).schedule(Schedule::Cosine),
        }
    }
}

/// The two networks.
#[derive(Module, Debug)]
pub struct Networks {
    /// q_φ(z|x).
    pub encoder: Encoder,
    /// p_θ(x|z).
    pub decoder: Decoder,
}

/// q_φ(z|x): convolutions (none of an `mlp`), fully connected layers, two linear heads.
#[derive(Module, Debug)]
pub struct Encoder {
    convs: Vec<Conv2d>,
    hidden: Vec<Linear>,
    mean: Linear,
    log_var: Linear,
    #[module(skip)]
    shape: [usize; 3],
    #[module(skip)]
    nonlinearity: Nonlinearity,
}

impl Encoder {
    /// μ and log σ² of q(z|x).
    ///
    /// # Shapes
    /// `[n, c·h·w]` → `[n, latent]` twice
    pub fn forward(&self, x: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let (n, [c, h, w]) = (x.dims()[0], self.shape);
        let act = self.nonlinearity;
        let x = self.convs.iter().fold(x.reshape([n, c, h, w]), |x, conv| act.apply(conv.forward(x)));
        let [_, c, h, w] = x.dims();
        let x = self.hidden.iter().fold(x.reshape([n, c * h * w]), |x, layer| act.apply(layer.forward(x)));
        (self.mean.forward(x.clone()), self.log_var.forward(x))
    }
}

/// p_θ(x|z): fully connected layers and transposed convolutions (none of an `mlp`).
#[derive(Module, Debug)]
pub struct Decoder {
    hidden: Vec<Linear>,
    out: Linear,
    convs: Vec<ConvTranspose2d>,
    /// log σ² of the learned scalar variance, `[1]`.
    log_var: Option<Param<Tensor<1>>>,
    #[module(skip)]
    start: [usize; 3],
    #[module(skip)]
    nonlinearity: Nonlinearity,
}

impl Decoder {
    /// Logits or means, with log σ² after them along the second dimension if it is a pixel's own.
    ///
    /// # Shapes
    /// `[n, latent]` → `[n, c·h·w]` or `[n, 2·c·h·w]`
    pub fn forward(&self, z: Tensor<2>) -> Tensor<2> {
        let (n, [c, h, w]) = (z.dims()[0], self.start);
        let act = self.nonlinearity;
        let x = self.hidden.iter().fold(z, |x, layer| act.apply(layer.forward(x)));
        let x = self.out.forward(x);
        if self.convs.is_empty() {
            return x;
        }
        let x = self.convs.iter().fold(x.reshape([n, c, h, w]), |x, conv| conv.forward(act.apply(x)));
        let [_, c, h, w] = x.dims();
        x.reshape([n, c * h * w])
    }
}

/// z = μ + σ ⊙ ε (§2.4), given log σ².
///
/// # Shapes
/// `[n, d]` three times → `[n, d]`
pub fn reparameterise(mean: Tensor<2>, log_var: Tensor<2>, noise: Tensor<2>) -> Tensor<2> {
    mean + (log_var * 0.5).exp() * noise
}

/// log w = log p(x|z) + log p(z) − log q(z|x) at z = μ + σ ⊙ ε. As (z − μ)/σ = ε, the last two make
/// ½ Σⱼ (εⱼ² + log σⱼ² − zⱼ²).
///
/// # Shapes
/// `[n]`, `[n, d]` three times → `[n]`
pub fn log_weights(log_likelihood: Tensor<1>, z: Tensor<2>, noise: Tensor<2>, log_var: Tensor<2>) -> Tensor<1> {
    let n = z.dims()[0];
    let terms = noise.square() + log_var - z.square();
    log_likelihood + (terms.sum_dim(1) * 0.5).reshape([n])
}

/// log (1/K) Σₖ exp xₖ over the first dimension, without overflow.
///
/// # Shapes
/// `[K, n]` → `[n]`
pub fn log_mean_exp(x: Tensor<2>) -> Tensor<1> {
    let n = x.dims()[1];
    let largest = x.clone().max_dim(0).detach();
    ((x - largest.clone()).exp().mean_dim(0).log() + largest).reshape([n])
}

/// The weight of the KL term after `images`: β·min(1, images / warmup) (Sønderby 2016, §2.3).
pub fn kl_weight(beta: f64, warmup: u64, images: u64) -> f64 {
    if warmup == 0 { beta } else { beta * (images as f64 / warmup as f64).min(1.0) }
}

/// A softly bounded x: min + softplus(x − min) (Rybkin 2021, §3.2).
fn above(x: Tensor<2>, min: f64) -> Tensor<2> {
    softplus(x - min) + min
}

/// Pixels 1 with probability (v + 1)/2 else 0; picture i draws from the stream `streams[i]`.
fn binarise(values: &[f32], key: Key, streams: &[u64], device: &Device) -> Tensor<2> {
    let size = values.len() / streams.len().max(1);
    let draws = key.uniform(streams.iter().copied(), size);
    let bits = values.iter().zip(draws).map(|(v, u)| if u < (v + 1.0) / 2.0 { 1.0 } else { 0.0 }).collect();
    from_values(bits, [streams.len(), size], device)
}

/// One number a picture, made of its pixels at 8 bits (FNV-1a): the index of the random streams that
/// belong to the picture wherever it stands.
fn fingerprints(values: &[f32], size: usize) -> Vec<u64> {
    let level = |v: &f32| ((v + 1.0) * 127.5).round() as u8;
    let hash = |picture: &[f32]| {
        picture
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, v| (h ^ u64::from(level(v))).wrapping_mul(0x0000_0100_0000_01b3))
    };
    values.chunks(size.max(1)).map(hash).collect()
}

/// The key of static binarisation: the same in every run, so that all are of the same pictures.
fn static_key() -> Key {
    Key::new(0).purpose("static binarisation")
}

/// Numbers in the widest layer's pictures that are computed at once when many samples are drawn.
const CHUNK: usize = 1 << 22;

/// The system.
pub struct Vae {
    config: Config,
    shape: [usize; 3],
}

impl System for Vae {
    const ID: &'static str = "vae";
    const PAPER: &'static str = "Kingma & Welling: Auto-Encoding Variational Bayes, 2014";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        let train = TrainConfig {
            batch: 128,
            images: 600_000,
            ema_half_life: 20_000.0,
            log_every: 10_000,
            checkpoint_every: 60_000,
            preview_every: 60_000,
            ..TrainConfig::default()
        };
        (DataConfig::default(), train)
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let refuse = |what: String| Err(Error::usage(what));
        let [_, height, width] = pictures.shape;
        if config.latent == 0 {
            return refuse("model.latent must be at least 1".into());
        }
        if config.hidden.contains(&0) {
            return refuse("model.hidden: each width must be at least 1".into());
        }
        if config.network == Network::Conv {
            if config.channels == 0 || config.levels == 0 || config.levels > 8 {
                return refuse("model.channels must be at least 1 and model.levels from 1 to 8; model.network = \"mlp\" has no convolutions".into());
            }
            let step = 1 << config.levels;
            if height % step != 0 || width % step != 0 {
                return refuse(format!(
                    "model.levels = {}: {height}x{width} pictures cannot be halved that often; lower it, set data.size to a multiple of {step}, or take model.network = \"mlp\"",
                    config.levels
                ));
            }
        }
        if config.binarize != Binarize::None && config.decoder != Likelihoods::Bernoulli {
            return refuse("model.binarize needs model.decoder = \"bernoulli\"".into());
        }
        if !(config.sigma > 0.0 && config.sigma.is_finite()) {
            return refuse(format!("model.sigma must be above 0, not {}", config.sigma));
        }
        if !config.min_log_variance.is_finite() {
            return refuse(format!("model.min_log_variance must be finite, not {}", config.min_log_variance));
        }
        if !(config.beta >= 0.0 && config.beta.is_finite()) {
            return refuse(format!("model.beta must not be negative, and is {}", config.beta));
        }
        Ok(Self { config, shape: pictures.shape })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, [channels, height, width]) = (&self.config, self.shape);
        let levels = if c.network == Network::Conv { c.levels } else { 0 };
        // Channels of the feature maps from the picture inwards.
        let maps: Vec<usize> = std::iter::once(channels).chain((0..levels).map(|i| c.channels << i)).collect();
        let inner = [maps[levels], height >> levels, width >> levels];
        let flat = inner.iter().product();
        let widths: Vec<usize> = std::iter::once(flat).chain(c.hidden.iter().copied()).collect();
        let last = widths[c.hidden.len()];
        let linear = |i: usize, o: usize, init: &mut Init| LinearConfig::new(i, o).init(init);
        let hidden = |w: &[usize], init: &mut Init| {
            LinearConfig::new(w[0], w[1]).weights(c.nonlinearity.weights(w[0])).init(init)
        };
        let down = |m: &[usize], init: &mut Init| {
            let weights = c.nonlinearity.weights(16 * m[0]);
            Conv2dConfig::new(m[0], m[1], 4).stride(2).padding(1).weights(weights).init(init)
        };
        let encoder = Encoder {
            convs: maps.windows(2).map(|m| down(m, init)).collect(),
            hidden: widths.windows(2).map(|w| hidden(w, init)).collect(),
            mean: linear(last, c.latent, init),
            log_var: linear(last, c.latent, init),
            shape: self.shape,
            nonlinearity: c.nonlinearity,
        };

        let learned = c.decoder == Likelihoods::GaussianLearned;
        let outputs = if learned && c.variance == Variance::Pixel { 2 } else { 1 };
        let back: Vec<usize> = std::iter::once(c.latent).chain(c.hidden.iter().rev().copied()).collect();
        let up = |i: usize, init: &mut Init| {
            let into = if i == 0 { outputs * channels } else { maps[i] };
            ConvTranspose2dConfig::new(maps[i + 1], into, 4).stride(2).padding(1).init(init)
        };
        let log_var = 2.0 * c.sigma.ln() as f32;
        let decoder = Decoder {
            hidden: back.windows(2).map(|w| hidden(w, init)).collect(),
            out: linear(back[c.hidden.len()], if levels == 0 { outputs * flat } else { flat }, init),
            convs: (0..levels).rev().map(|i| up(i, init)).collect(),
            log_var: (learned && c.variance == Variance::Scalar).then(|| init.constant([1], log_var)),
            start: inner,
            nonlinearity: c.nonlinearity,
        };
        Networks { encoder, decoder }
    }

    fn phases(&self) -> Vec<Phase> {
        vec![Phase::new("vae", &["encoder", "decoder"], self.config.optimizer.clone())]
    }

    /// −E log p(x|z) + β·KL, the mean over the batch.
    fn loss(&mut self, networks: &Networks, _phase: &str, batch: &Batch) -> Result<Loss> {
        let x = self.pixels(batch.images(), Some((batch.key("binarise"), batch.samples().collect())));
        let (mean, log_var) = networks.encoder.forward(x.clone());
        let noise = batch.normal("posterior", mean.dims());
        let z = reparameterise(mean.clone(), log_var.clone(), noise);
        let reconstruction = -self.log_likelihood(&networks.decoder, x, z).mean();
        let kl = gaussian_kl(mean, log_var).mean();
        let weight = kl_weight(self.config.beta, self.config.kl_warmup, batch.start);
        let bound = reconstruction.clone() + kl.clone();
        Ok(Loss::new("reconstruction", reconstruction).plus("kl", weight, kl).report("negative_elbo", bound))
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities {
            generate: Some(self),
            reconstruct: Some(self),
            encode: Some(self),
            decode: Some(self),
            likelihood: Some(self),
            ..Abilities::default()
        }
    }
}

impl Vae {
    fn size(&self) -> usize {
        self.shape.iter().product()
    }

    /// x as the decoder's distribution has it: `[0, 1]` for Bernoulli, else [−1, 1]. `draw` keys
    /// dynamic binarisation; without it, the static one stands in.
    ///
    /// # Shapes
    /// `[n, c, h, w]` → `[n, c·h·w]`
    fn pixels(&self, images: Tensor<4>, draw: Option<(Key, Vec<u64>)>) -> Tensor<2> {
        let (n, size, device) = (images.dims()[0], self.size(), images.device());
        let flat = |images: Tensor<4>| images.reshape([n, size]);
        match (self.config.decoder, self.config.binarize, draw) {
            (Likelihoods::Bernoulli, Binarize::None, _) => (flat(images) + 1.0) * 0.5,
            (Likelihoods::Bernoulli, Binarize::Dynamic, Some((key, streams))) => {
                binarise(&to_values(images), key, &streams, &device)
            }
            (Likelihoods::Bernoulli, ..) => {
                let values = to_values(images);
                binarise(&values, static_key(), &fingerprints(&values, size), &device)
            }
            _ => flat(images),
        }
    }

    /// log p(x|z) of each picture.
    ///
    /// # Shapes
    /// `[n, c·h·w]`, `[n, latent]` → `[n]`
    fn log_likelihood(&self, decoder: &Decoder, x: Tensor<2>, z: Tensor<2>) -> Tensor<1> {
        let (size, min) = (self.size(), self.config.min_log_variance);
        let out = decoder.forward(z);
        let initial = 2.0 * self.config.sigma.ln();
        match (self.config.decoder, &decoder.log_var) {
            (Likelihoods::Bernoulli, _) => bernoulli_log_likelihood(x, out),
            (Likelihoods::Gaussian, _) => {
                let log_var = Tensor::full([1, 1], initial, &x.device());
                gaussian_log_likelihood(x, out, log_var)
            }
            (Likelihoods::GaussianLearned, Some(log_var)) => {
                gaussian_log_likelihood(x, out, above(log_var.val().reshape([1, 1]), min))
            }
            (Likelihoods::GaussianLearned, None) => {
                let (mean, log_var) = (out.clone().narrow(1, 0, size), out.narrow(1, size, size));
                gaussian_log_likelihood(x, mean, above(log_var + initial, min))
            }
        }
    }

    /// The mean of p(x|z) as pictures in [−1, 1].
    fn picture(&self, decoder: &Decoder, z: Tensor<2>) -> Tensor<4> {
        let (n, [c, h, w]) = (z.dims()[0], self.shape);
        let out = decoder.forward(z).narrow(1, 0, self.size());
        let mean = match self.config.decoder {
            Likelihoods::Bernoulli => sigmoid(out) * 2.0 - 1.0,
            _ => out.clamp(-1.0, 1.0),
        };
        mean.reshape([n, c, h, w])
    }

    fn check(&self, images: &Tensor<4>) -> Result<()> {
        let [_, c, h, w] = images.dims();
        if [c, h, w] == self.shape {
            return Ok(());
        }
        Err(Error::usage(format!(
            "pictures of {:?} (channels, height, width) do not fit: this run's are {:?}",
            [c, h, w],
            self.shape
        )))
    }

    /// μ of q(z|x).
    fn posterior_mean(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        self.check(&images)?;
        Ok(networks.encoder.forward(self.pixels(images, None)).0)
    }
}

impl Generate<Networks> for Vae {
    /// The mean of p(x|z) at z ~ N(0, ψ²I).
    fn generate(&self, networks: &Networks, request: &GenerateRequest) -> Result<Tensor<4>> {
        check_class(request.class, &[])?;
        check_one_pass(Self::ID, request)?;
        let z = match &request.noise {
            None => self.latents(request),
            Some(noise) if noise.dims() == [request.len(), self.config.latent, 1, 1] => {
                noise.clone().reshape([request.len(), self.config.latent])
                    * request.sampler.truncation_psi.unwrap_or(1.0)
            }
            Some(noise) => {
                let wanted = [request.len(), self.config.latent, 1, 1];
                return Err(Error::usage(format!("--noise: expected shape {wanted:?}, got {:?}", noise.dims())));
            }
        };
        Ok(self.picture(&networks.decoder, z))
    }
}

impl Reconstruct<Networks> for Vae {
    /// The mean of p(x|z) at the mean of q(z|x).
    fn reconstruct(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<4>> {
        Ok(self.picture(&networks.decoder, self.posterior_mean(networks, images)?))
    }
}

impl Encode<Networks> for Vae {
    /// The mean of q(z|x).
    fn encode(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        self.posterior_mean(networks, images)
    }
}

impl Decode<Networks> for Vae {
    fn latents(&self, request: &GenerateRequest) -> Tensor<2> {
        let psi = request.sampler.truncation_psi.unwrap_or(1.0);
        request.normal("latent", [request.len(), self.config.latent]) * psi
    }

    fn decode(&self, networks: &Networks, latents: Tensor<2>) -> Result<Tensor<4>> {
        let d = latents.dims()[1];
        if d != self.config.latent {
            return Err(Error::usage(format!(
                "latents of {d} numbers do not fit: this run's have {}",
                self.config.latent
            )));
        }
        Ok(self.picture(&networks.decoder, latents))
    }
}

impl Likelihood<Networks> for Vae {
    /// `samples` = 0: the negative evidence bound with one draw of ε. Otherwise minus the
    /// importance-sampled log p(x). Draws belong to the picture, so that the answer does not depend
    /// on what else is in the batch; memory does not grow with `samples`.
    fn nll(&self, networks: &Networks, images: Tensor<4>, samples: usize, key: Key) -> Result<Tensor<1>> {
        self.check(&images)?;
        let (n, d, size, device) = (images.dims()[0], self.config.latent, self.size(), images.device());
        let rows = (CHUNK / size).max(1);
        if n > rows {
            let part =
                |from: usize| self.nll(networks, images.clone().narrow(0, from, rows.min(n - from)), samples, key);
            return Ok(Tensor::cat((0..n).step_by(rows).map(part).collect::<Result<_>>()?, 0));
        }
        let streams = fingerprints(&to_values(images.clone()), size);
        let x = self.pixels(images, Some((key.purpose("binarise"), streams.clone())));
        let (mean, log_var) = networks.encoder.forward(x.clone());
        let key = key.purpose("posterior");
        let noise = |k: u64| from_values::<2>(key.at(k).normal(streams.iter().copied(), d), [n, d], &device);
        if samples == 0 {
            let z = reparameterise(mean.clone(), log_var.clone(), noise(0));
            return Ok(gaussian_kl(mean, log_var) - self.log_likelihood(&networks.decoder, x, z));
        }
        let at_once = (rows / n).max(1);
        let mut weights = Vec::with_capacity(samples.div_ceil(at_once));
        for from in (0..samples).step_by(at_once) {
            let k = at_once.min(samples - from);
            let repeated = |t: &Tensor<2>| t.clone().repeat_dim(0, k);
            let noise = Tensor::cat((from..from + k).map(|k| noise(k as u64)).collect(), 0);
            let log_var = repeated(&log_var);
            let z = reparameterise(repeated(&mean), log_var.clone(), noise.clone());
            let log_likelihood = self.log_likelihood(&networks.decoder, repeated(&x), z.clone());
            weights.push(log_weights(log_likelihood, z, noise, log_var).reshape([k, n]));
        }
        Ok(-log_mean_exp(Tensor::cat(weights, 0)))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kiln_data::{HostBatch, Part};
    use kiln_train::optim::Optimizer;
    use kiln_train::params::{self, HostTensor, State, take_gradients};
    use safetensors::SafeTensors;

    use super::*;

    fn device() -> Device {
        Device::flex()
    }

    fn system(config: Config, shape: [usize; 3]) -> Vae {
        Vae::new(config, &Pictures { shape, classes: Vec::new() }).unwrap()
    }

    fn tiny() -> Config {
        Config { latent: 3, hidden: vec![16], channels: 4, ..Config::default() }
    }

    fn linear() -> Config {
        Config { latent: 2, network: Network::Mlp, hidden: vec![], ..Config::default() }
    }

    /// Keyed pictures of pixels −1 and 1.
    fn sharp(shape: [usize; 4]) -> Vec<f32> {
        let values = Key::new(5).uniform(0..shape[0] as u64, shape[1..].iter().product());
        values.into_iter().map(|u| if u < 0.4 { -1.0 } else { 1.0 }).collect()
    }

    /// Keyed pictures of pixels −0.8 and 0.6.
    fn pictures(shape: [usize; 4]) -> Vec<f32> {
        sharp(shape).into_iter().map(|v| v * 0.7 - 0.1).collect()
    }

    fn batch(shape: [usize; 4], start: u64) -> Batch {
        let n = shape[0];
        let part =
            Part { shape, values: sharp(shape), labels: None, captions: vec![None; n], indices: (0..n).collect() };
        Batch::new(HostBatch { start, parts: vec![part] }, 10_000, Key::new(0), &device().autodiff())
    }

    /// The bound before and after `steps` steps on one batch.
    fn overfit(config: Config, rate: f64, steps: usize) -> (f32, f32) {
        let shape = [8, 1, 8, 8];
        let mut vae = system(config, [1, 8, 8]);
        let mut networks = vae.networks(&mut Init::new(&device().autodiff(), 0));
        let mut optimizer = Optimizer::new(OptimizerConfig::adam(rate));
        let mut bounds = Vec::new();
        for step in 0..steps {
            let loss = vae.loss(&networks, "vae", &batch(shape, 8 * step as u64)).unwrap();
            bounds.push(loss.terms[2].1.clone().into_scalar::<f32>());
            let mut gradients = loss.total.backward();
            let gradients = take_gradients(&networks, &mut gradients);
            networks = optimizer.step(networks, gradients, 1.0, 1.0);
        }
        (bounds[0], bounds[steps - 1])
    }

    struct Golden(Vec<u8>);

    impl Golden {
        fn open(file: &str) -> Self {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/fixtures");
            Self(std::fs::read(folder.join(file)).unwrap())
        }

        fn values(&self, name: &str) -> Vec<f32> {
            let file = SafeTensors::deserialize(&self.0).unwrap();
            let bytes = file.tensor(name).unwrap().data().to_vec();
            bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        }

        /// On the autodiff device.
        fn tensor<const D: usize>(&self, name: &str, shape: [usize; D]) -> Tensor<D> {
            from_values(self.values(name), shape, &device().autodiff())
        }
    }

    fn close(got: &[f32], wanted: &[f32], tolerance: f32) {
        assert_eq!(got.len(), wanted.len());
        for (g, w) in got.iter().zip(wanted) {
            assert!((g - w).abs() <= tolerance * w.abs().max(1.0), "{g} is not {w}");
        }
    }

    /// The fixture's decoder, on the autodiff device.
    fn golden_networks(vae: &Vae, golden: &Golden) -> Networks {
        let networks = vae.networks(&mut Init::new(&device().autodiff(), 0));
        let mut state = params::state(&networks);
        for (path, name, shape) in
            [("decoder.out.weight", "vae.weight", vec![6, 2]), ("decoder.out.bias", "vae.bias", vec![6])]
        {
            assert!(state.insert(path.into(), HostTensor { shape, values: golden.values(name) }).is_some());
        }
        params::load(networks, &state, "fixture").unwrap()
    }

    #[test]
    fn bounds_and_gradients_are_pytorchs() {
        let golden = Golden::open("systems.safetensors");
        let vae = system(linear(), [1, 2, 3]);
        for importance in [false, true] {
            let networks = golden_networks(&vae, &golden);
            let mean = golden.tensor("vae.mu", [3, 2]).require_grad();
            let log_var = golden.tensor("vae.logvar", [3, 2]).require_grad();
            let noise = golden.tensor("vae.noise", [5, 3, 2]).reshape([15, 2]);
            let x: Tensor<2> = golden.tensor("vae.pixels", [3, 6]);
            let all = |t: &Tensor<2>| t.clone().repeat_dim(0, 5);
            let z = reparameterise(all(&mean), all(&log_var), noise.clone());
            close(&to_values(z.clone()), &golden.values("vae.z"), 1e-5);
            close(&to_values(networks.decoder.forward(z.clone())), &golden.values("vae.logits"), 1e-5);
            let log_likelihood = vae.log_likelihood(&networks.decoder, all(&x), z.clone());
            close(&to_values(log_likelihood.clone()), &golden.values("vae.log_likelihood"), 1e-5);
            let kl = gaussian_kl(mean.clone(), log_var.clone());
            close(&to_values(kl.clone()), &golden.values("vae.kl"), 1e-5);
            let weights = log_weights(log_likelihood.clone(), z, noise, all(&log_var)).reshape([5, 3]);
            close(&to_values(weights.clone()), &golden.values("vae.log_weights"), 1e-5);

            let (name, loss) = if importance {
                let nll = -log_mean_exp(weights).mean();
                close(&to_values(nll.clone()), &golden.values("vae.importance_nll"), 1e-5);
                ("importance", nll)
            } else {
                let bound = (log_likelihood.narrow(0, 0, 3) - kl).mean();
                close(&to_values(bound.clone()), &golden.values("vae.elbo"), 1e-5);
                ("elbo", -bound)
            };
            let mut gradients = loss.backward();
            let of = |t: &Tensor<2>, g: &burn::tensor::Gradients| to_values(t.grad(g).unwrap());
            close(&of(&mean, &gradients), &golden.values(&format!("vae.{name}_grad_mu")), 1e-5);
            close(&of(&log_var, &gradients), &golden.values(&format!("vae.{name}_grad_logvar")), 1e-5);
            let flat = take_gradients(&networks, &mut gradients);
            for (path, leaf) in [("decoder.out.weight", "weight"), ("decoder.out.bias", "bias")] {
                close(&to_values(flat[path].clone()), &golden.values(&format!("vae.{name}_grad_{leaf}")), 1e-5);
            }
        }
    }

    #[test]
    fn likelihoods_and_divergence_are_pytorchs() {
        let golden = Golden::open("losses.safetensors");
        let get = |name: &str| golden.tensor(name, [3, 20]);
        let learned = "gaussian_log_likelihood_learned";
        let sigma = golden.values("gaussian_log_likelihood_fixed.sigma")[0];
        let fixed = Tensor::full([1, 1], 2.0 * sigma.ln(), &device());
        let b = "bernoulli_log_likelihood";
        let cases = [
            (b, bernoulli_log_likelihood(get(&format!("{b}.target")), get(&format!("{b}.logits")))),
            (
                "gaussian_log_likelihood_fixed",
                gaussian_log_likelihood(
                    get("gaussian_log_likelihood_fixed.target"),
                    get("gaussian_log_likelihood_fixed.mean"),
                    fixed,
                ),
            ),
            (
                learned,
                gaussian_log_likelihood(
                    get(&format!("{learned}.target")),
                    get(&format!("{learned}.mean")),
                    get(&format!("{learned}.logvar")),
                ),
            ),
            (
                "gaussian_kl",
                gaussian_kl(golden.tensor("gaussian_kl.mu", [4, 3]), golden.tensor("gaussian_kl.logvar", [4, 3])),
            ),
        ];
        for (name, value) in cases {
            close(&to_values(value.mean()), &golden.values(&format!("{name}.value")), 1e-5);
        }
    }

    /// −log N(x; b, WWᵀ + σ²I) by elimination: the exact answer for a linear decoder.
    fn exact_nll(weight: &[f32], bias: &[f32], sigma: f64, x: &[f32]) -> f64 {
        let (n, d) = (bias.len(), weight.len() / bias.len());
        let w = |i: usize, k: usize| f64::from(weight[i * d + k]);
        let mut a: Vec<Vec<f64>> = (0..n)
            .map(|i| {
                let entry = |j: usize| {
                    (0..d).map(|k| w(i, k) * w(j, k)).sum::<f64>() + if i == j { sigma * sigma } else { 0.0 }
                };
                (0..n).map(entry).chain([f64::from(x[i] - bias[i])]).collect()
            })
            .collect();
        let (mut log_det, mut square) = (0.0, 0.0);
        for p in 0..n {
            // With a positive pivot, the reduced right-hand side squared over it sums to rᵀA⁻¹r.
            log_det += a[p][p].ln();
            square += a[p][n] * a[p][n] / a[p][p];
            for i in p + 1..n {
                let factor = a[i][p] / a[p][p];
                let pivot = a[p].clone();
                a[i].iter_mut().zip(&pivot).for_each(|(v, p)| *v -= factor * p);
            }
        }
        0.5 * (n as f64 * (2.0 * std::f64::consts::PI).ln() + log_det + square)
    }

    #[test]
    fn importance_sampling_reaches_the_exact_likelihood_and_the_bound_stays_below_it() {
        let config = Config { decoder: Likelihoods::Gaussian, sigma: 0.7, ..linear() };
        let vae = system(config, [1, 2, 2]);
        let networks = vae.networks(&mut Init::new(&device(), 3));
        let values = Key::new(1).normal(0..8, 4).into_iter().map(|v| (0.5 * v).clamp(-1.0, 1.0)).collect::<Vec<_>>();
        let out = &networks.decoder.out;
        let (weight, bias) = (to_values(out.weight.val()), to_values(out.bias.as_ref().unwrap().val()));
        let exact = values.chunks(4).map(|x| exact_nll(&weight, &bias, 0.7, x)).sum::<f64>() / 8.0;
        let images = from_values(values, [8, 1, 2, 2], &device());
        let mean = |samples: usize, key: u64| {
            let nll = vae.nll(&networks, images.clone(), samples, Key::new(key)).unwrap();
            f64::from(nll.mean().into_scalar::<f32>())
        };
        let averaged = |samples: usize| (0..200).map(|key| mean(samples, key)).sum::<f64>() / 200.0;
        let (bound, five) = (averaged(0), averaged(5));
        assert!((mean(20_000, 0) - exact).abs() < 0.01, "{} is not {exact}", mean(20_000, 0));
        assert!(bound > five + 0.01 && five > exact + 0.005, "{bound}, {five}, {exact}");
    }

    #[test]
    fn a_pictures_likelihood_does_not_depend_on_its_batch() {
        for binarize in [Binarize::None, Binarize::Static, Binarize::Dynamic] {
            let vae = system(Config { binarize, ..tiny() }, [1, 28, 28]);
            let networks = vae.networks(&mut Init::new(&device(), 0));
            let images: Tensor<4> = from_values(pictures([16, 1, 28, 28]), [16, 1, 28, 28], &device());
            for samples in [0, 400] {
                // 16 pictures are computed 334 samples at a time, one picture all at once.
                let all = to_values(vae.nll(&networks, images.clone(), samples, Key::new(0)).unwrap());
                let one = to_values(vae.nll(&networks, images.clone().narrow(0, 9, 1), samples, Key::new(0)).unwrap());
                close(&one, &all[9..10], 1e-5);
            }
        }
    }

    #[test]
    fn overfits_a_batch_with_every_decoder() {
        for network in [Network::Mlp, Network::Conv] {
            for (decoder, variance) in [
                (Likelihoods::Bernoulli, Variance::Scalar),
                (Likelihoods::Gaussian, Variance::Scalar),
                (Likelihoods::GaussianLearned, Variance::Scalar),
                (Likelihoods::GaussianLearned, Variance::Pixel),
            ] {
                let config = Config { network, decoder, variance, sigma: 0.5, channels: 8, ..tiny() };
                let (first, last) = overfit(config, 1e-2, 150);
                assert!(last < first - 5.0, "{network:?} {decoder:?} {variance:?}: {first} to {last}");
            }
        }
    }

    #[test]
    fn static_binarisation_is_fixed_and_dynamic_is_not() {
        let images = || from_values(pictures([2, 1, 8, 8]), [2, 1, 8, 8], &device());
        let draw = |binarize, key: u64| {
            let vae = system(Config { binarize, ..tiny() }, [1, 8, 8]);
            to_values(vae.pixels(images(), Some((Key::new(key), vec![0, 1]))))
        };
        let fixed = draw(Binarize::Static, 1);
        assert_eq!(fixed, draw(Binarize::Static, 2));
        assert_ne!(draw(Binarize::Dynamic, 1), draw(Binarize::Dynamic, 2));
        assert!(fixed.iter().all(|&v| v == 0.0 || v == 1.0));
        close(
            &draw(Binarize::None, 1).iter().map(|v| v * 2.0 - 1.0).collect::<Vec<_>>(),
            &pictures([2, 1, 8, 8]),
            1e-6,
        );
        // Pixels of −0.8 and 0.6 are on with probability 0.1 and 0.8.
        let grey = pictures([2, 1, 8, 8]);
        let share = |level: f32| {
            let of: Vec<f32> =
                grey.iter().zip(&fixed).filter(|(g, _)| (**g - level).abs() < 0.1).map(|(_, b)| *b).collect();
            of.iter().sum::<f32>() / of.len() as f32
        };
        assert!(share(-0.8) < 0.3 && share(0.6) > 0.6);
    }

    #[test]
    fn the_kl_weight_warms_up() {
        assert_eq!([0, 50, 100, 500].map(|i| kl_weight(4.0, 100, i)), [0.0, 2.0, 4.0, 4.0]);
        assert_eq!(kl_weight(4.0, 0, 0), 4.0);
        let mut vae = system(Config { beta: 2.0, kl_warmup: 100, ..tiny() }, [1, 8, 8]);
        let networks = vae.networks(&mut Init::new(&device().autodiff(), 0));
        let loss = vae.loss(&networks, "vae", &batch([8, 1, 8, 8], 50)).unwrap();
        let [reconstruction, kl, bound] = [0, 1, 2].map(|i| loss.terms[i].1.clone().into_scalar::<f32>());
        close(&[loss.total.into_scalar(), bound], &[reconstruction + kl, reconstruction + kl], 1e-5);
    }

    #[test]
    fn abilities_agree_with_each_other() {
        let vae = system(tiny(), [1, 8, 8]);
        let networks = vae.networks(&mut Init::new(&device(), 0));
        let mut request = GenerateRequest::new(3..7, 0, &device());
        let made = vae.generate(&networks, &request).unwrap();
        assert_eq!(made.dims(), [4, 1, 8, 8]);
        let decoded = vae.decode(&networks, vae.latents(&request)).unwrap();
        assert_eq!(to_values(made.clone()), to_values(decoded));
        let one = vae.generate(&networks, &GenerateRequest::new(4..5, 0, &device())).unwrap();
        close(&to_values(one), &to_values(made.clone().narrow(0, 1, 1)), 1e-6);
        let latents = vae.encode(&networks, made.clone()).unwrap();
        assert_eq!(latents.dims(), [4, 3]);
        let again = vae.decode(&networks, latents).unwrap();
        assert_eq!(to_values(again), to_values(vae.reconstruct(&networks, made).unwrap()));
        // ψ = 0 is the mean of the prior, whatever the noise.
        request.sampler.truncation_psi = Some(0.0);
        assert!(to_values(vae.latents(&request)).iter().all(|&z| z == 0.0));
        request.noise = Some(Tensor::ones([4, 3, 1, 1], &device()));
        let middle = vae.decode(&networks, Tensor::zeros([4, 3], &device())).unwrap();
        assert_eq!(to_values(vae.generate(&networks, &request).unwrap()), to_values(middle));
    }

    #[test]
    fn bad_settings_and_requests_are_usage_errors() {
        let change = |f: fn(&mut Config)| {
            let mut config = Config::default();
            f(&mut config);
            Vae::new(config, &Pictures { shape: [1, 28, 28], classes: Vec::new() }).err().unwrap()
        };
        for (error, name) in [
            (change(|c| c.latent = 0), "model.latent"),
            (change(|c| c.hidden = vec![8, 0]), "model.hidden"),
            (change(|c| c.channels = 0), "model.channels"),
            (change(|c| c.levels = 3), "model.levels"),
            (change(|c| c.levels = 99), "model.levels"),
            (change(|c| c.sigma = 0.0), "model.sigma"),
            (change(|c| c.beta = -1.0), "model.beta"),
            (change(|c| c.min_log_variance = f64::NAN), "model.min_log_variance"),
            (change(|c| (c.binarize, c.decoder) = (Binarize::Static, Likelihoods::Gaussian)), "model.binarize"),
        ] {
            assert!(error.is_usage() && error.to_string().contains(name), "{error}");
        }
        let vae = system(tiny(), [1, 8, 8]);
        let networks = vae.networks(&mut Init::new(&device(), 0));
        let refused = |f: fn(&mut GenerateRequest)| {
            let mut request = GenerateRequest::new(0..2, 0, &Device::flex());
            f(&mut request);
            vae.generate(&networks, &request).err().unwrap().is_usage()
        };
        assert!(refused(|r| r.class = Some(1)));
        assert!(refused(|r| r.sampler.steps = Some(5)));
        assert!(refused(|r| r.noise = Some(Tensor::zeros([2, 9, 1, 1], &Device::flex()))));
        let wrong = || Tensor::zeros([1, 3, 8, 8], &device());
        assert!(vae.encode(&networks, wrong()).err().unwrap().is_usage());
        assert!(vae.nll(&networks, wrong(), 2, Key::new(0)).err().unwrap().is_usage());
        assert!(vae.decode(&networks, Tensor::zeros([1, 4], &device())).err().unwrap().is_usage());
        let state: State = params::state(&networks);
        assert!(state.contains_key("encoder.log_var.weight") && state.contains_key("decoder.convs.1.weight"));
    }
}
