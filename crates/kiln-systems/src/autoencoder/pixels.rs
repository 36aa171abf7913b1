//! p(x|z): the distribution of an image given the decoder's outputs, and the scaling and binarisation of images.
//!
//! Values are in nats per image. A Bernoulli on binarised pixels and a discretised logistic give probabilities; a Gaussian
//! gives a *density* over pixels scaled to [−1, 1], which may exceed 1, so that its "nll" may be negative and
//! compares only with densities over the same scale.

use burn::tensor::{Device, Tensor};
use kiln_core::random::Key;
use kiln_core::{Result, refuse_if};
use kiln_nn::loss::{bernoulli_log_likelihood, discretised_logistic_log_likelihood, gaussian_log_likelihood, softplus};
use kiln_nn::tensor::{from_values, to_values};
use kiln_nn::{Activation, activate};
use kiln_train::{Batch, FitData};
use serde::{Deserialize, Serialize};

use super::networks::{Decoder, Output, Scale};

/// Pictures whose mean a decoder begins with.
const LOOKED_AT: usize = 500;

/// p(x|z).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Likelihoods {
    /// What suits the images: [`Likelihoods::Bernoulli`] for grey or binarised ones, [`Likelihoods::GaussianLearned`] for
    /// colour. A run's recipe says which.
    #[default]
    Auto,
    /// Independent pixels that are 1 with probability σ(logit), for images scaled to `[0, 1]`.
    Bernoulli,
    /// N(mean, `sigma`²) over pixels in [−1, 1].
    Gaussian,
    /// The same with learned variance: see `variance`.
    GaussianLearned,
    /// The 256 levels of a pixel, by differences of a logistic distribution function (Kingma 2016; Salimans
    /// 2017), with a scale learned as `variance` says.
    Logistic,
}

/// How grey pixels become the 0s and 1s of a Bernoulli decoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Binarize {
    /// Pixels stay grey; log p(x|z) is then minus a cross-entropy, not a log-probability.
    #[default]
    None,
    /// Each pixel is drawn once, 1 with probability of its grey value (Larochelle & Murray 2011). The
    /// draw is keyed by the picture itself, so that it is the same in every epoch and run and,
    /// for pictures held out, in every evaluation.
    Static,
    /// Drawn anew each time a picture is seen (Salakhutdinov & Murray 2008).
    Dynamic,
}

impl Binarize {
    /// 0s and 1s of pictures in [−1, 1], or their grey values in `[0, 1]`. `draw` keys dynamic
    /// binarisation, a stream a picture; without it, the static one stands in.
    ///
    /// # Shapes
    /// `[n, …]` → `[n, c·h·w]`
    pub fn apply<const D: usize>(self, images: Tensor<D>, draw: Option<(Key, Vec<u64>)>) -> Tensor<2> {
        let n = images.dims()[0];
        let (size, device) = (images.shape().num_elements() / n.max(1), images.device());
        match (self, draw) {
            (Self::None, _) => (images.reshape([n, size]) + 1.0) * 0.5,
            (Self::Dynamic, Some((key, streams))) => binarise(&to_values(images), key, &streams, &device),
            (Self::Static | Self::Dynamic, _) => {
                let values = to_values(images);
                binarise(&values, static_key(), &fingerprints(&values, size), &device)
            }
        }
    }
}

/// What a learned variance may depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variance {
    /// One number for all pixels of all pictures (Rybkin 2021, σ-VAE).
    #[default]
    Scalar,
    /// One number per pixel, an output of the decoder (Kingma & Welling 2014, appendix C.2).
    Pixel,
}

/// The settings of p(x|z), part of a `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PixelConfig {
    /// p(x|z): `bernoulli`, `gaussian`, `gaussian-learned`, `logistic`; `auto` is `bernoulli` for grey images and
    /// `gaussian-learned` for colour.
    pub decoder: Likelihoods,
    /// `none`, `static`, `dynamic` (`bernoulli`).
    pub binarize: Binarize,
    /// σ of `gaussian`, in pixels scaled to [−1, 1]; the initial value of a learned one.
    pub sigma: f64,
    /// Learned variance: `scalar` (one for all pixels) or `pixel` (one per pixel).
    pub variance: Variance,
    /// Smallest learned log σ²; without it, the density is unbounded on pixels that never change.
    pub min_log_variance: f64,
}

impl Default for PixelConfig {
    fn default() -> Self {
        Self {
            decoder: Likelihoods::Auto,
            binarize: Binarize::None,
            sigma: 0.2,
            variance: Variance::Scalar,
            min_log_variance: -6.0,
        }
    }
}

impl PixelConfig {
    /// With a distribution in the place of [`Likelihoods::Auto`], for images of so many channels.
    pub fn resolved(self, channels: usize) -> Self {
        let decoder = match self.decoder {
            Likelihoods::Auto if channels == 1 || self.binarize != Binarize::None => Likelihoods::Bernoulli,
            Likelihoods::Auto => Likelihoods::GaussianLearned,
            chosen => chosen,
        };
        Self { decoder, ..self }
    }

    /// Whether the settings go together; they must be resolved.
    ///
    /// # Errors
    /// A usage error naming the setting that does not fit.
    pub fn check(&self) -> Result<()> {
        refuse_if!(
            self.binarize != Binarize::None && self.decoder != Likelihoods::Bernoulli,
            "model.binarize needs model.decoder = \"bernoulli\""
        );
        refuse_if!(!(self.sigma > 0.0 && self.sigma.is_finite()), "model.sigma must be above 0, not {}", self.sigma);
        refuse_if!(
            !self.min_log_variance.is_finite(),
            "model.min_log_variance must be finite, not {}",
            self.min_log_variance
        );
        Ok(())
    }

    /// What the decoder must say of each pixel beside its mean.
    pub fn scale(&self) -> Scale {
        match (self.decoder, self.variance) {
            (Likelihoods::Bernoulli | Likelihoods::Gaussian, _) => Scale::None,
            (_, Variance::Scalar) => Scale::Scalar,
            (_, Variance::Pixel) => Scale::Pixel,
        }
    }

    /// x as the distribution has it: `[0, 1]` for Bernoulli (see [`Binarize::apply`]), else [−1, 1].
    ///
    /// # Shapes
    /// `[n, c, h, w]` → `[n, c·h·w]`
    pub fn observe(&self, images: Tensor<4>, draw: Option<(Key, Vec<u64>)>) -> Tensor<2> {
        if self.decoder == Likelihoods::Bernoulli {
            return self.binarize.apply(images, draw);
        }
        let [n, c, h, w] = images.dims();
        images.reshape([n, c * h * w])
    }

    /// x of a training batch's first domain.
    pub fn of_batch(&self, batch: &Batch) -> Tensor<2> {
        self.observe(batch.images(), Some((batch.key("binarise"), batch.samples().collect())))
    }

    /// x of [`PixelConfig::observe`] as pictures in [−1, 1].
    ///
    /// # Shapes
    /// `[n, c, h, w]` → the same
    pub fn observed(&self, images: Tensor<4>) -> Tensor<4> {
        if self.binarize == Binarize::None {
            return images;
        }
        let shape = images.dims();
        (self.observe(images, None) * 2.0 - 1.0).reshape(shape)
    }

    /// log p(x|z) of each picture.
    ///
    /// # Shapes
    /// `[n, c·h·w]`, [`Output`] → `[n]`
    pub fn log_likelihood(&self, x: Tensor<2>, out: Output) -> Tensor<1> {
        let initial = 2.0 * self.sigma.ln();
        let log_var = match out.scale {
            Some(scale) => above(scale + initial, self.min_log_variance),
            None => Tensor::full([1, 1], initial, &x.device()),
        };
        match self.decoder {
            Likelihoods::Bernoulli => bernoulli_log_likelihood(x, out.mean),
            Likelihoods::Gaussian | Likelihoods::GaussianLearned | Likelihoods::Auto => {
                gaussian_log_likelihood(x, out.mean, log_var)
            }
            // σ² of a logistic of scale s is s²π²/3; what is learned is log s² itself.
            Likelihoods::Logistic => discretised_logistic_log_likelihood(x, out.mean, log_var * 0.5),
        }
    }

    /// The networks' decoder with the output that gives the mean picture of the data's last set, before it has learned
    /// anything: the bias of its last layer.
    ///
    /// # Errors
    /// If a picture cannot be read.
    pub fn centred(&self, decoder: Decoder, data: &FitData<'_>) -> Result<Decoder> {
        let (mut sum, mut n): (Vec<f64>, _) = (Vec::new(), 0);
        for domain in data.some(data.domains() - 1, LOOKED_AT) {
            let images = domain?.images;
            n += images.dims()[0];
            let values = to_values(images.sum_dim(0));
            sum.resize(values.len(), 0.0);
            sum.iter_mut().zip(values).for_each(|(sum, v)| *sum += f64::from(v));
        }
        let mean: Vec<f64> = sum.into_iter().map(|v| v / f64::from(n as u32)).collect();
        Ok(decoder.centred(&mean, |mean| match self.decoder {
            Likelihoods::Bernoulli => {
                // At most 12 to 1. With all of the odds, pixels that are hardly ever set are learned before z, and stay with fewer latents
                // in use: on static digits that costs the test likelihood 0.7 nats.
                let p = ((mean + 1.0) / 2.0).clamp(0.0, 1.0);
                (p / (1.0 - p)).ln().clamp(-2.5, 2.5)
            }
            _ => mean,
        }))
    }

    /// The mean of p(x|z) as pictures in [−1, 1].
    ///
    /// # Shapes
    /// [`Output`] → `[n, c, h, w]`
    pub fn picture(&self, out: Output, [c, h, w]: [usize; 3]) -> Tensor<4> {
        let n = out.mean.dims()[0];
        let mean = match self.decoder {
            Likelihoods::Bernoulli => activate(out.mean, Activation::Sigmoid) * 2.0 - 1.0,
            _ => out.mean.clamp(-1.0, 1.0),
        };
        mean.reshape([n, c, h, w])
    }
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

/// One number a picture of `size` values, made of its pixels at 8 bits (FNV-1a): the index of the random streams that
/// belong to the picture wherever it stands.
pub fn fingerprints(values: &[f32], size: usize) -> Vec<u64> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autoencoder::testing::{close, device, pictures};

    #[test]
    fn static_binarisation_is_fixed_and_dynamic_is_not() {
        let images = || from_values::<4>(pictures([2, 1, 8, 8]), [2, 1, 8, 8], &device());
        let draw =
            |binarize: Binarize, key: u64| to_values(binarize.apply(images(), Some((Key::new(key), vec![0, 1]))));
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
    fn grey_is_a_bernoullis_and_colour_a_gaussians() {
        let of = |channels, binarize, decoder| {
            PixelConfig { binarize, decoder, ..PixelConfig::default() }.resolved(channels).decoder
        };
        use Likelihoods::{Auto, Bernoulli, Gaussian, GaussianLearned};
        assert_eq!(of(1, Binarize::None, Auto), Bernoulli);
        assert_eq!(of(3, Binarize::None, Auto), GaussianLearned);
        assert_eq!(of(3, Binarize::Static, Auto), Bernoulli);
        assert_eq!(of(3, Binarize::None, Bernoulli), Bernoulli);
        assert_eq!(of(1, Binarize::None, Gaussian), Gaussian);
    }

    #[test]
    fn a_logistic_decoders_levels_sum_to_one() {
        for variance in [Variance::Scalar, Variance::Pixel] {
            let config = PixelConfig { decoder: Likelihoods::Logistic, variance, ..PixelConfig::default() };
            let levels: Vec<f32> = (0..256).map(|l| l as f32 / 127.5 - 1.0).collect();
            let mean = Tensor::full([256, 1], 0.3, &device());
            let scale = match config.scale() {
                Scale::Pixel => Tensor::full([256, 1], -1.0, &device()),
                _ => Tensor::full([1, 1], -1.0, &device()),
            };
            let out = Output { mean, scale: Some(scale) };
            let log_p = config.log_likelihood(from_values(levels, [256, 1], &device()), out);
            close(&to_values(log_p.exp().sum()), &[1.0], 1e-4);
        }
    }
}
