//! Encoders and decoders: fully connected layers, optionally with convolutions before and after them.
//!
//! The networks do not depend on likelihoods and bounds. A condition, where a paper has one, is a vector that is
//! concatenated to the input of the fully connected layers.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use kiln_core::{Result, refuse_if};
use kiln_nn::tensor::{from_values, to_values};
use kiln_nn::{Activation, Conv2d, Conv2dConfig, ConvTranspose2d, Init, Linear, LinearConfig, WeightInit, activate};
use kiln_train::SizeRule;
use kiln_train::params::map_flat;
use serde::{Deserialize, Serialize};

/// The kind of all networks of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Fully connected layers of the widths `hidden`.
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
    /// The hyperbolic tangent.
    Tanh,
    /// log(1 + eˣ).
    Softplus,
}

impl Nonlinearity {
    /// Applies it.
    pub fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Relu => activate(x, Activation::Relu),
            Self::Tanh => x.tanh(),
            Self::Softplus => kiln_nn::loss::softplus(x),
        }
    }

    /// Weights that keep the signal's variance through a layer whose outputs have `fan_in` inputs each (He 2015; Glorot &
    /// Bengio 2010): with smaller ones, a bound stays at "z says nothing" for many thousand pictures.
    pub fn weights(self, fan_in: usize) -> WeightInit {
        let gain = if self == Self::Relu { 2.0 } else { 1.0 };
        WeightInit::Normal((gain / fan_in as f64).sqrt())
    }

    /// A fully connected layer that this comes after.
    pub fn linear(self, inputs: usize, outputs: usize, init: &mut Init) -> Linear {
        LinearConfig { weight: self.weights(inputs), ..LinearConfig::new(inputs, outputs) }.init(init)
    }
}

/// The settings of the networks, part of a `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// Dimensions of z.
    pub latent: usize,
    /// `mlp` or `conv`.
    pub network: Network,
    /// Widths of the encoder's fully connected layers; the decoder has them in reverse. May be empty.
    pub hidden: Vec<usize>,
    /// Channels of the first convolution, doubled by each later one (`conv`).
    pub channels: usize,
    /// Number of convolutions, each of which halves the size (`conv`).
    pub levels: usize,
    /// `relu`, `tanh` or `softplus`.
    pub nonlinearity: Nonlinearity,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            latent: 32,
            network: Network::Conv,
            hidden: vec![256],
            channels: 32,
            levels: 2,
            nonlinearity: Nonlinearity::Relu,
        }
    }
}

impl NetworkConfig {
    /// Fully connected layers only.
    pub fn mlp(latent: usize, hidden: &[usize]) -> Self {
        Self { latent, network: Network::Mlp, hidden: hidden.to_vec(), ..Self::default() }
    }

    /// The sizes of pictures that can go through: each convolution halves both sides.
    pub fn sizes(&self) -> SizeRule {
        if self.network == Network::Mlp {
            return SizeRule::any();
        }
        let step = 1usize.checked_shl(self.levels as u32).unwrap_or(usize::MAX);
        SizeRule::multiple_of(step, format!("model.levels = {}", self.levels))
    }

    /// Whether pictures of this shape (channels, height, width) can go through.
    ///
    /// # Errors
    /// A usage error naming the setting that does not fit.
    pub fn check(&self, shape: [usize; 3]) -> Result<()> {
        refuse_if!(self.latent == 0, "model.latent must be at least 1");
        refuse_if!(self.hidden.contains(&0), "model.hidden: each width must be at least 1");
        if self.network == Network::Mlp {
            return Ok(());
        }
        refuse_if!(
            self.channels == 0 || self.levels == 0 || self.levels > 8,
            "model.channels must be at least 1 and model.levels from 1 to 8; model.network = \"mlp\" has no convolutions"
        );
        self.sizes().check(shape)
    }

    /// Channels of the feature maps, from the picture inwards.
    fn maps(&self, channels: usize) -> Vec<usize> {
        let levels = if self.network == Network::Conv { self.levels } else { 0 };
        std::iter::once(channels).chain((0..levels).map(|i| self.channels << i)).collect()
    }

    /// Channels, height and width of the innermost map.
    fn inner(&self, shape: [usize; 3]) -> [usize; 3] {
        let maps = self.maps(shape[0]);
        let halvings = maps.len() - 1;
        [maps[halvings], shape[1] >> halvings, shape[2] >> halvings]
    }

    /// Pictures of `shape` and `condition` numbers to features.
    pub fn trunk(&self, shape: [usize; 3], condition: usize, init: &mut Init) -> Trunk {
        let flat = self.inner(shape).iter().product::<usize>() + condition;
        let widths: Vec<usize> = std::iter::once(flat).chain(self.hidden.iter().copied()).collect();
        let down = |m: &[usize], init: &mut Init| {
            let weight = self.nonlinearity.weights(16 * m[0]);
            Conv2dConfig { stride: 2, padding: 1, weight, ..Conv2dConfig::new(m[0], m[1], 4) }.init(init)
        };
        Trunk {
            convs: self.maps(shape[0]).windows(2).map(|m| down(m, init)).collect(),
            hidden: widths.windows(2).map(|w| self.nonlinearity.linear(w[0], w[1], init)).collect(),
            shape,
            features: widths[self.hidden.len()],
            nonlinearity: self.nonlinearity,
        }
    }

    /// A trunk with a Gaussian over `latent` numbers at its end.
    pub fn encoder(&self, shape: [usize; 3], condition: usize, init: &mut Init) -> Encoder {
        let trunk = self.trunk(shape, condition, init);
        let head = GaussianHead::new(trunk.features, self.latent, init);
        Encoder { trunk, head }
    }

    /// `latent` numbers and `condition` others to what a distribution over pictures of `shape` wants.
    pub fn decoder(&self, shape: [usize; 3], condition: usize, scale: Scale, init: &mut Init) -> Decoder {
        let (maps, start) = (self.maps(shape[0]), self.inner(shape));
        let levels = maps.len() - 1;
        let flat: usize = start.iter().product();
        let copies = if scale == Scale::Pixel { 2 } else { 1 };
        let widths: Vec<usize> =
            std::iter::once(self.latent + condition).chain(self.hidden.iter().rev().copied()).collect();
        let up = |i: usize, init: &mut Init| {
            let layer = |into: usize| Conv2dConfig { stride: 2, padding: 1, ..Conv2dConfig::new(maps[i + 1], into, 4) };
            match i {
                0 => layer(copies * shape[0]).init_transposed(init),
                // Of a window of 4×4, stride 2 leaves each pixel 2×2.
                _ => Conv2dConfig { weight: self.nonlinearity.weights(4 * maps[i + 1]), ..layer(maps[i]) }
                    .init_transposed(init),
            }
        };
        let features = widths[self.hidden.len()];
        Decoder {
            hidden: widths.windows(2).map(|w| self.nonlinearity.linear(w[0], w[1], init)).collect(),
            out: match levels {
                0 => LinearConfig::new(features, copies * flat).init(init),
                _ => self.nonlinearity.linear(features, flat, init),
            },
            convs: (0..levels).rev().map(|i| up(i, init)).collect(),
            scale: match scale {
                Scale::Scalar => Some(init.constant([1], 0.0)),
                Scale::None | Scale::Pixel => None,
            },
            size: shape.iter().product(),
            channels: shape[0],
            start,
            nonlinearity: self.nonlinearity,
        }
    }
}

/// Convolutions (none of an `mlp`), then fully connected layers.
#[derive(Module, Debug)]
pub struct Trunk {
    convs: Vec<Conv2d>,
    hidden: Vec<Linear>,
    #[module(skip)]
    shape: [usize; 3],
    #[module(skip)]
    features: usize,
    #[module(skip)]
    nonlinearity: Nonlinearity,
}

impl Trunk {
    /// Numbers a picture that [`Trunk::forward`] puts out.
    pub fn features(&self) -> usize {
        self.features
    }

    /// The features of pictures, and of what else is known of them.
    ///
    /// # Shapes
    /// `[n, c·h·w]`, `[n, condition]` → `[n, features]`
    pub fn forward(&self, x: Tensor<2>, condition: Option<Tensor<2>>) -> Tensor<2> {
        let (n, [c, h, w]) = (x.dims()[0], self.shape);
        let act = self.nonlinearity;
        let x = self.convs.iter().fold(x.reshape([n, c, h, w]), |x, conv| act.apply(conv.forward(x)));
        let [_, c, h, w] = x.dims();
        let x = joined(x.reshape([n, c * h * w]), condition);
        self.hidden.iter().fold(x, |x, layer| act.apply(layer.forward(x)))
    }
}

/// μ and log σ² of a Gaussian, each by a linear layer.
#[derive(Module, Debug)]
pub struct GaussianHead {
    mean: Linear,
    log_var: Linear,
}

impl GaussianHead {
    /// Over `latent` numbers.
    pub fn new(features: usize, latent: usize, init: &mut Init) -> Self {
        let mut linear = || LinearConfig::new(features, latent).init(init);
        Self { mean: linear(), log_var: linear() }
    }

    /// μ and log σ².
    ///
    /// # Shapes
    /// `[n, features]` → `[n, latent]` twice
    pub fn forward(&self, x: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        (self.mean.forward(x.clone()), self.log_var.forward(x))
    }
}

/// q(z|x) = N(μ, diag σ²), given a condition too where a paper has one.
#[derive(Module, Debug)]
pub struct Encoder {
    trunk: Trunk,
    head: GaussianHead,
}

impl Encoder {
    /// μ and log σ² of q(z|x).
    ///
    /// # Shapes
    /// `[n, c·h·w]` → `[n, latent]` twice
    pub fn forward(&self, x: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        self.head.forward(self.trunk.forward(x, None))
    }

    /// μ and log σ² of q(z|x, c).
    ///
    /// # Shapes
    /// `[n, c·h·w]`, `[n, condition]` → `[n, latent]` twice
    pub fn given(&self, x: Tensor<2>, condition: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        self.head.forward(self.trunk.forward(x, Some(condition)))
    }
}

/// How wide a distribution over a pixel is, beside its mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Nothing to learn.
    None,
    /// One learned number for all pixels of all pictures.
    Scalar,
    /// One number per pixel, an output of the decoder.
    Pixel,
}

/// What a decoder says of each pixel.
#[derive(Clone)]
pub struct Output {
    /// Logits or means, `[n, c·h·w]`.
    pub mean: Tensor<2>,
    /// What its distribution's log σ² is above the initial one: `[1, 1]`, or `[n, c·h·w]`.
    pub scale: Option<Tensor<2>>,
}

/// p(x|z): fully connected layers, then transposed convolutions (none of an `mlp`).
#[derive(Module, Debug)]
pub struct Decoder {
    hidden: Vec<Linear>,
    /// From the last hidden layer to the picture, or to the innermost map.
    pub out: Linear,
    convs: Vec<ConvTranspose2d>,
    /// [`Scale::Scalar`], `[1]`.
    scale: Option<Param<Tensor<1>>>,
    #[module(skip)]
    size: usize,
    #[module(skip)]
    channels: usize,
    #[module(skip)]
    start: [usize; 3],
    #[module(skip)]
    nonlinearity: Nonlinearity,
}

impl Decoder {
    /// With a last bias that puts out the mean picture `[c·h·w]`, seen as `link` says: of every pixel, or after
    /// convolutions of every channel. What is said of a distribution's width stays.
    pub fn centred(self, mean: &[f64], link: impl Fn(f64) -> f64) -> Self {
        let (path, mean) = match self.convs.len() {
            0 => ("out.bias".to_string(), mean.to_vec()),
            n => {
                let pixels = mean.len() / self.channels;
                let channels = mean.chunks(pixels).map(|channel| channel.iter().sum::<f64>() / pixels as f64);
                (format!("convs.{}.bias", n - 1), channels.collect())
            }
        };
        map_flat(self, |at, bias| {
            if at != path {
                return bias;
            }
            let (mut values, device) = (to_values(bias.clone()), bias.device());
            values.iter_mut().zip(&mean).for_each(|(bias, mean)| *bias = link(*mean) as f32);
            from_values(values, bias.dims(), &device)
        })
    }

    /// What p(x|z) is made of; z and a condition side by side.
    ///
    /// # Shapes
    /// `[n, latent + condition]` → [`Output`]
    pub fn forward(&self, z: Tensor<2>) -> Output {
        let (n, [c, h, w]) = (z.dims()[0], self.start);
        let act = self.nonlinearity;
        let x = self.hidden.iter().fold(z, |x, layer| act.apply(layer.forward(x)));
        let mut x = self.out.forward(x);
        if !self.convs.is_empty() {
            let map = self.convs.iter().fold(x.reshape([n, c, h, w]), |x, conv| conv.forward(act.apply(x)));
            let [_, c, h, w] = map.dims();
            x = map.reshape([n, c * h * w]);
        }
        if x.dims()[1] == self.size {
            return Output { mean: x, scale: self.scale.as_ref().map(|s| s.val().reshape([1, 1])) };
        }
        let part = |i: usize| x.clone().narrow(1, i * self.size, self.size);
        Output { mean: part(0), scale: Some(part(1)) }
    }
}

/// Rows of 0 with a 1 at the label.
///
/// # Shapes
/// `[n]` → `[n, classes]`
pub fn one_hot(labels: Tensor<1, Int>, classes: usize) -> Tensor<2> {
    // Burn's own refuses a single class.
    let n = labels.dims()[0];
    let all = Tensor::<1, Int>::arange(0..classes as i64, &labels.device()).reshape([1, classes]);
    labels.reshape([n, 1]).expand([n, classes]).equal(all.expand([n, classes])).float()
}

/// Two vectors as one, or the first alone.
///
/// # Shapes
/// `[n, a]`, `[n, b]` → `[n, a + b]`
pub fn joined(x: Tensor<2>, condition: Option<Tensor<2>>) -> Tensor<2> {
    match condition {
        Some(condition) => Tensor::cat(vec![x, condition], 1),
        None => x,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autoencoder::testing::device;

    /// Variance of what comes before each layer's nonlinearity, of normal z.
    fn variances(network: Network, hidden: &[usize], levels: usize) -> Vec<f32> {
        let config = NetworkConfig {
            latent: 64,
            network,
            hidden: hidden.to_vec(),
            channels: 32,
            levels,
            nonlinearity: Nonlinearity::Relu,
        };
        let decoder = config.decoder([3, 32, 32], 0, Scale::None, &mut Init::new(&device(), 0));
        let z: Tensor<2> = kiln_nn::tensor::normal(kiln_core::random::Key::new(1), 0..64, [64, 64], &device());
        let of = |x: Tensor<2>| x.square().mean().into_scalar::<f32>();
        let (mut found, mut x) = (Vec::new(), z);
        for layer in &decoder.hidden {
            x = layer.forward(x);
            found.push(of(x.clone()));
            x = Nonlinearity::Relu.apply(x);
        }
        let [c, h, w] = decoder.start;
        x = decoder.out.forward(x);
        found.push(of(x.clone()));
        let mut map = x.reshape([64, c, h, w]);
        for conv in &decoder.convs[..decoder.convs.len() - 1] {
            map = conv.forward(Nonlinearity::Relu.apply(map));
            found.push(of(map.clone().flatten(1, 3)));
        }
        found
    }

    #[test]
    fn the_signal_keeps_its_variance_through_layers_before_a_rectifier() {
        // The first layer sees normal numbers of variance 1, and doubles it; at the borders a window reaches over the edge.
        for variance in variances(Network::Conv, &[256], 3) {
            assert!((1.2..2.6).contains(&variance), "{variance}");
        }
    }

    #[test]
    fn an_output_begins_at_the_mean() {
        let mean: Vec<f64> = (0..3 * 16).map(|at| f64::from(at / 16) + 0.1 * f64::from(at % 16)).collect();
        for (network, scale) in
            [(Network::Mlp, Scale::None), (Network::Mlp, Scale::Pixel), (Network::Conv, Scale::Pixel)]
        {
            let config = NetworkConfig { network, channels: 4, levels: 1, ..NetworkConfig::mlp(2, &[8]) };
            let fresh = || config.decoder([3, 4, 4], 0, scale, &mut Init::new(&device(), 0));
            let at_zero = |decoder: Decoder| decoder.forward(Tensor::zeros([1, 2], &device()));
            let found = at_zero(fresh().centred(&mean, |mean| 2.0 * mean));
            for (at, value) in to_values(found.mean).into_iter().enumerate() {
                let wanted = match network {
                    Network::Mlp => 2.0 * mean[at],
                    Network::Conv => 2.0 * (f64::from(at as u32 / 16) + 0.75),
                };
                assert!((f64::from(value) - wanted).abs() < 1e-5, "{network:?} {at}: {value} {wanted}");
            }
            let scales = |out: Output| out.scale.map(to_values);
            assert_eq!(scales(at_zero(fresh().centred(&mean, |m| m))), scales(at_zero(fresh())));
        }
    }
}
