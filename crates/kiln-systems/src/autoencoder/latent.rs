//! The model that most papers here share: z ~ N(0, I), x ~ p(x|z), with an approximate posterior
//! q(z|x) = N(μ, diag σ²). The papers differ in the training objective.
//!
//! The abilities of the model are implemented here once: a system that holds a [`LatentModel`] forwards to it.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_nn::Init;
use kiln_nn::loss::gaussian_kl;
use kiln_nn::tensor::to_values;
use kiln_train::request::check_pictures;
use kiln_train::{Abilities, Batch, Decode, Encode, FitData, Generate, Input, Likelihood, Reconstruct, Request};
use serde::{Deserialize, Serialize};

use super::bound::{importance_nll, in_parts, log_weights, reparameterise, rows_at_once, sample_noise};
use super::networks::{Decoder, Encoder, NetworkConfig};
use super::pixels::{PixelConfig, fingerprints};
use crate::one_pass::{NoSettings, truncation_psi};

/// The two networks.
#[derive(Module, Debug)]
pub struct Networks {
    /// q_φ(z|x).
    pub encoder: Encoder,
    /// p_θ(x|z).
    pub decoder: Decoder,
}

/// Settings of the networks and of p(x|z), part of a `[model]` table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatentConfig {
    /// The networks.
    #[serde(flatten)]
    pub networks: NetworkConfig,
    /// p(x|z).
    #[serde(flatten)]
    pub pixels: PixelConfig,
}

impl LatentConfig {
    /// With what the settings leave to pictures of `shape` (channels, height, width) decided.
    pub fn resolved(self, shape: [usize; 3]) -> Self {
        Self { pixels: self.pixels.resolved(shape[0]), ..self }
    }
}

/// The model of pictures of one shape.
pub struct LatentModel {
    /// Its settings.
    pub config: LatentConfig,
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// Its system's name, for messages.
    id: &'static str,
}

/// q(z|x) of some pictures and draws from it.
pub struct Draws {
    /// μ, `[K·n, d]`, sample by sample.
    pub mean: Tensor<2>,
    /// log σ², likewise.
    pub log_var: Tensor<2>,
    /// ε, likewise.
    pub noise: Tensor<2>,
    /// μ + σ ⊙ ε, likewise.
    pub z: Tensor<2>,
}

impl LatentModel {
    /// Checks the settings against the pictures.
    ///
    /// # Errors
    /// A usage error naming the setting that does not fit.
    pub fn new(id: &'static str, config: LatentConfig, shape: [usize; 3]) -> Result<Self> {
        let config = config.resolved(shape);
        config.networks.check(shape)?;
        config.pixels.check()?;
        Ok(Self { config, shape, id })
    }

    /// Fresh networks whose decoder begins with the mean of the data.
    ///
    /// # Errors
    /// If a picture cannot be read.
    pub fn initialise(&self, fresh: Networks, data: &FitData<'_>) -> Result<Networks> {
        Ok(Networks { decoder: self.config.pixels.centred(fresh.decoder, data)?, ..fresh })
    }

    /// Fresh networks.
    pub fn networks(&self, init: &mut Init) -> Networks {
        let LatentConfig { networks, pixels } = &self.config;
        Networks {
            encoder: networks.encoder(self.shape, 0, init),
            decoder: networks.decoder(self.shape, 0, pixels.scale(), init),
        }
    }

    /// `samples` draws of z for each picture of a training batch whose encoder says `mean` and `log_var`.
    pub fn draw(&self, mean: Tensor<2>, log_var: Tensor<2>, samples: usize, batch: &Batch) -> Draws {
        let [n, d] = mean.dims();
        let noise = batch.normal("posterior", [n, samples * d]);
        // A picture's own draws lie side by side; sample by sample is how they are used.
        let noise = noise.reshape([n, samples, d]).swap_dims(0, 1).reshape([samples * n, d]);
        let (mean, log_var) = (mean.repeat_dim(0, samples), log_var.repeat_dim(0, samples));
        let z = reparameterise(mean.clone(), log_var.clone(), noise.clone());
        Draws { mean, log_var, noise, z }
    }

    /// log p(x|z) of each picture.
    ///
    /// # Shapes
    /// `[n, c·h·w]`, `[n, latent]` → `[n]`
    pub fn log_likelihood(&self, decoder: &Decoder, x: Tensor<2>, z: Tensor<2>) -> Tensor<1> {
        self.config.pixels.log_likelihood(x, decoder.forward(z))
    }

    /// The mean of p(x|z) as pictures in [−1, 1].
    fn picture(&self, decoder: &Decoder, z: Tensor<2>) -> Tensor<4> {
        self.config.pixels.picture(decoder.forward(z), self.shape)
    }

    /// μ of q(z|x).
    fn posterior_mean(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_pictures(&images, self.shape)?;
        Ok(networks.encoder.forward(self.config.pixels.observe(images, None)).0)
    }

    /// All that the model can do.
    pub fn abilities(&self) -> Abilities<'_, Networks> {
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

/// Latents of a request: `--noise`, or draws from N(0, ψ²I).
///
/// # Errors
/// A usage error if `--noise` is of another shape.
pub fn prior_latents(request: &Request, latent: usize, system: &str) -> Result<Tensor<2>> {
    let psi = truncation_psi(request, system)?;
    match &request.noise {
        None => Ok(request.normal("latent", [request.len(), latent]) * psi),
        Some(noise) if noise.dims() == [request.len(), latent, 1, 1] => {
            Ok(noise.clone().reshape([request.len(), latent]) * psi)
        }
        Some(noise) => {
            let wanted = [request.len(), latent, 1, 1];
            Err(Error::usage(format!("--noise: expected shape {wanted:?}, got {:?}", noise.dims())))
        }
    }
}

/// Whether latents are of a run's length.
///
/// # Errors
/// A usage error with both lengths.
pub fn check_latents(latents: &Tensor<2>, latent: usize) -> Result<()> {
    match latents.dims()[1] {
        d if d == latent => Ok(()),
        d => Err(Error::usage(format!("latents of {d} numbers do not fit: this run's have {latent}"))),
    }
}

impl Generate<Networks> for LatentModel {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Noise]
    }

    /// The mean of p(x|z) at z ~ N(0, ψ²I).
    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        Ok(self.picture(&networks.decoder, prior_latents(request, self.config.networks.latent, self.id)?))
    }
}

impl Reconstruct<Networks> for LatentModel {
    /// The mean of p(x|z) at the mean of q(z|x).
    fn reconstruct(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<4>> {
        Ok(self.picture(&networks.decoder, self.posterior_mean(networks, images)?))
    }
}

impl Encode<Networks> for LatentModel {
    /// The mean of q(z|x).
    fn encode(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<2>> {
        request.sampler::<NoSettings>(self.id)?;
        self.posterior_mean(networks, images)
    }
}

impl Decode<Networks> for LatentModel {
    fn latents(&self, _networks: &Networks, request: &Request) -> Result<Tensor<2>> {
        prior_latents(request, self.config.networks.latent, self.id)
    }

    fn decode(&self, networks: &Networks, latents: Tensor<2>) -> Result<Tensor<4>> {
        check_latents(&latents, self.config.networks.latent)?;
        Ok(self.picture(&networks.decoder, latents))
    }
}

impl Likelihood<Networks> for LatentModel {
    fn observed(&self, images: Tensor<4>) -> Tensor<4> {
        self.config.pixels.observed(images)
    }

    /// `samples` = 0: the negative evidence bound with one draw of ε. Otherwise minus the
    /// importance-sampled log p(x). Draws belong to the picture, so that the answer does not depend
    /// on what else is in the batch; memory does not grow with `samples`.
    fn nll(&self, networks: &Networks, images: Tensor<4>, samples: usize, key: Key) -> Result<Tensor<1>> {
        check_pictures(&images, self.shape)?;
        let (n, size) = (images.dims()[0], self.shape.iter().product());
        let rows = rows_at_once(size);
        if n > rows {
            return in_parts(n, rows, |from, len| {
                self.nll(networks, images.clone().narrow(0, from, len), samples, key)
            });
        }
        let streams = fingerprints(&to_values(images.clone()), size);
        let x = self.config.pixels.observe(images, Some((key.purpose("binarise"), streams.clone())));
        let (mean, log_var) = networks.encoder.forward(x.clone());
        let key = key.purpose("posterior");
        if samples == 0 {
            let noise = sample_noise(key, 0..1, &streams, &mean);
            let z = reparameterise(mean.clone(), log_var.clone(), noise);
            return Ok(gaussian_kl(mean, log_var) - self.log_likelihood(&networks.decoder, x, z));
        }
        Ok(importance_nll(samples, rows / n, |ks| {
            let k = ks.len();
            let repeated = |t: &Tensor<2>| t.clone().repeat_dim(0, k);
            let noise = sample_noise(key, ks, &streams, &mean);
            let log_var = repeated(&log_var);
            let z = reparameterise(repeated(&mean), log_var.clone(), noise.clone());
            let log_likelihood = self.log_likelihood(&networks.decoder, repeated(&x), z.clone());
            log_weights(log_likelihood, z, noise, log_var).reshape([k, n])
        }))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::from_values;
    use kiln_train::params::{self, State};

    use super::*;
    use crate::autoencoder::pixels::{Binarize, Likelihoods};
    use crate::autoencoder::testing::{close, device, exact_nll, pictures};
    use crate::testing::requested;

    fn model(config: LatentConfig, shape: [usize; 3]) -> LatentModel {
        LatentModel::new("vae", config, shape).unwrap()
    }

    fn tiny() -> LatentConfig {
        let networks = NetworkConfig { latent: 3, hidden: vec![16], channels: 4, ..NetworkConfig::default() };
        LatentConfig { networks, ..LatentConfig::default() }
    }

    fn linear() -> LatentConfig {
        LatentConfig { networks: NetworkConfig::mlp(2, &[]), ..LatentConfig::default() }
    }

    #[test]
    fn importance_sampling_reaches_the_exact_likelihood_and_the_bound_stays_below_it() {
        let mut config = linear();
        config.pixels = PixelConfig { decoder: Likelihoods::Gaussian, sigma: 0.7, ..config.pixels };
        let vae = model(config, [1, 2, 2]);
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
            let mut config = tiny();
            config.pixels.binarize = binarize;
            let vae = model(config, [1, 28, 28]);
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
    fn abilities_agree_with_each_other() {
        let vae = model(tiny(), [1, 8, 8]);
        let networks = vae.networks(&mut Init::new(&device(), 0));
        let mut request = Request::new(3..7, 0, &device());
        let made = vae.generate(&networks, &request).unwrap();
        assert_eq!(made.dims(), [4, 1, 8, 8]);
        let decoded = vae.decode(&networks, vae.latents(&networks, &request).unwrap()).unwrap();
        assert_eq!(to_values(made.clone()), to_values(decoded));
        let one = vae.generate(&networks, &Request::new(4..5, 0, &device())).unwrap();
        close(&to_values(one), &to_values(made.clone().narrow(0, 1, 1)), 1e-6);
        let latents = vae.encode(&networks, made.clone(), &Request::new(0..1, 0, &device())).unwrap();
        assert_eq!(latents.dims(), [4, 3]);
        let again = vae.decode(&networks, latents).unwrap();
        assert_eq!(to_values(again), to_values(vae.reconstruct(&networks, made).unwrap()));
        // ψ = 0 is the mean of the prior, whatever the noise.
        request.sampler.insert("truncation_psi".into(), 0.0.into());
        assert!(to_values(vae.latents(&networks, &request).unwrap()).iter().all(|&z| z == 0.0));
        request.noise = Some(Tensor::ones([4, 3, 1, 1], &device()));
        let middle = vae.decode(&networks, Tensor::zeros([4, 3], &device())).unwrap();
        assert_eq!(to_values(vae.generate(&networks, &request).unwrap()), to_values(middle));
    }

    #[test]
    fn bad_settings_and_requests_are_usage_errors() {
        let change = |f: fn(&mut LatentConfig)| {
            let mut config = LatentConfig::default();
            f(&mut config);
            LatentModel::new("vae", config, [1, 28, 28]).err().unwrap()
        };
        for (error, name) in [
            (change(|c| c.networks.latent = 0), "model.latent"),
            (change(|c| c.networks.hidden = vec![8, 0]), "model.hidden"),
            (change(|c| c.networks.channels = 0), "model.channels"),
            (change(|c| c.networks.levels = 3), "model.levels"),
            (change(|c| c.networks.levels = 99), "model.levels"),
            (change(|c| c.pixels.sigma = 0.0), "model.sigma"),
            (change(|c| c.pixels.min_log_variance = f64::NAN), "model.min_log_variance"),
            (
                change(|c| (c.pixels.binarize, c.pixels.decoder) = (Binarize::Static, Likelihoods::Gaussian)),
                "model.binarize",
            ),
        ] {
            assert!(error.is_usage() && error.to_string().contains(name), "{error}");
        }
        let vae = model(tiny(), [1, 8, 8]);
        let networks = vae.networks(&mut Init::new(&device(), 0));
        let refused = |f: fn(&mut Request)| {
            let mut request = Request::new(0..2, 0, &Device::flex());
            f(&mut request);
            requested(&vae, &networks, &request).err().unwrap().is_usage()
        };
        assert!(refused(|r| r.condition.class = Some(1)));
        assert!(refused(|r| r.sampler = "steps = 5".parse().unwrap()));
        assert!(refused(|r| r.noise = Some(Tensor::zeros([2, 9, 1, 1], &Device::flex()))));
        let wrong = || Tensor::zeros([1, 3, 8, 8], &device());
        assert!(vae.encode(&networks, wrong(), &Request::new(0..1, 0, &device())).err().unwrap().is_usage());
        assert!(vae.nll(&networks, wrong(), 2, Key::new(0)).err().unwrap().is_usage());
        assert!(vae.decode(&networks, Tensor::zeros([1, 4], &device())).err().unwrap().is_usage());
        let state: State = params::state(&networks);
        assert!(state.contains_key("encoder.head.log_var.weight") && state.contains_key("decoder.convs.1.weight"));
    }
}
