//! The autoencoder: Hinton & Salakhutdinov, *Reducing the Dimensionality of Data with Neural Networks*, 2006.
//!
//! The encoder compresses an image x to a code z = E(x) of far fewer numbers, and the decoder reconstructs x from
//! it. Objective:
//!
//! min over E, D of the mean of −log p(x | D(E(x))),
//!
//! the cross-entropy of grey values for a Bernoulli decoder, and for a Gaussian one, up to a constant, the squared
//! error ‖x − D(E(x))‖² / 2σ². The networks are trained end to end; the paper's layer-wise pre-training is not needed.
//!
//! | paper | here |
//! |---|---|
//! | encoder, code layer | `encoder`, a [`Coder`] |
//! | decoder | `decoder` |
//! | cross-entropy error | [`super::pixels::PixelConfig::log_likelihood`] |
//! | a classifier on the code layer | the system [`super::probe`] |
//!
//! An autoencoder does not model the distribution of its codes. `kiln sample` decodes codes drawn from N(0, I) all the
//! same, as a baseline for `vae` and `aae`.
//!
//! `kiln train ae --data starter`, then `kiln reconstruct RUN IN OUT`.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::Result;
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_train::request::check_pictures;
use kiln_train::{
    Abilities, Batch, DataConfig, Decode, Encode, FitData, Generate, Input, Loss, OptimizerConfig, Phase, Pictures,
    Reconstruct, Represent, Request, Schedule, SizeRule, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::coder::Coder;
use super::latent::{LatentConfig, check_latents, prior_latents};
use super::networks::Decoder;
use super::vae::training;
use crate::one_pass::NoSettings;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The networks and p(x|z).
    #[serde(flatten)]
    pub model: LatentConfig,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self { model: LatentConfig::default(), optimizer: OptimizerConfig::adam(1e-3).schedule(Schedule::Cosine) }
    }
}

/// The two networks.
#[derive(Module, Debug)]
pub struct Networks {
    /// E.
    pub encoder: Coder,
    /// D.
    pub decoder: Decoder,
}

/// The system.
pub struct Ae {
    config: Config,
    shape: [usize; 3],
}

impl System for Ae {
    const ID: &'static str = "ae";
    const PAPER: &'static str =
        "Hinton & Salakhutdinov: Reducing the Dimensionality of Data with Neural Networks, 2006";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        (DataConfig::default(), training())
    }

    fn sizes(config: &Config) -> SizeRule {
        config.model.networks.sizes()
    }

    fn resolve(config: Config, pictures: &Pictures) -> Config {
        Config { model: config.model.resolved(pictures.shape), ..config }
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let config = Self::resolve(config, pictures);
        config.model.networks.check(pictures.shape)?;
        config.model.pixels.check()?;
        Ok(Self { config, shape: pictures.shape })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let LatentConfig { networks, pixels } = &self.config.model;
        Networks {
            encoder: Coder::new(networks, self.shape, init),
            decoder: networks.decoder(self.shape, 0, pixels.scale(), init),
        }
    }

    fn initialise(&self, fresh: Networks, data: &FitData<'_>) -> Result<Networks> {
        Ok(Networks { decoder: self.config.model.pixels.centred(fresh.decoder, data)?, ..fresh })
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        vec![Phase::new("ae", &["encoder", "decoder"], self.config.optimizer.clone(), |s, n, b| s.loss(n, b).map(Some))]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities {
            generate: Some(self),
            reconstruct: Some(self),
            encode: Some(self),
            decode: Some(self),
            represent: Some(self),
            ..Abilities::default()
        }
    }
}

impl Ae {
    /// −log p(x | D(E(x))), the mean over the batch.
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let pixels = &self.config.model.pixels;
        let x = pixels.of_batch(batch);
        let out = networks.decoder.forward(networks.encoder.forward(x.clone()));
        Ok(Loss::new("reconstruction", -pixels.log_likelihood(x, out).mean()))
    }

    /// E(x).
    fn code(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_pictures(&images, self.shape)?;
        Ok(networks.encoder.forward(self.config.model.pixels.observe(images, None)))
    }

    fn picture(&self, networks: &Networks, code: Tensor<2>) -> Tensor<4> {
        self.config.model.pixels.picture(networks.decoder.forward(code), self.shape)
    }
}

impl Generate<Networks> for Ae {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Noise]
    }

    /// The pictures of codes from N(0, ψ²I), which the codes of pictures are not spread as.
    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        Ok(self.picture(networks, prior_latents(request, self.config.model.networks.latent, Self::ID)?))
    }
}

impl Reconstruct<Networks> for Ae {
    fn reconstruct(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<4>> {
        Ok(self.picture(networks, self.code(networks, images)?))
    }
}

impl Encode<Networks> for Ae {
    fn encode(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<2>> {
        request.sampler::<NoSettings>(Self::ID)?;
        self.code(networks, images)
    }
}

/// The code.
impl Represent<Networks> for Ae {
    fn represent(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        self.code(networks, images)
    }
}

impl Decode<Networks> for Ae {
    fn latents(&self, _networks: &Networks, request: &Request) -> Result<Tensor<2>> {
        prior_latents(request, self.config.model.networks.latent, Self::ID)
    }

    fn decode(&self, networks: &Networks, latents: Tensor<2>) -> Result<Tensor<4>> {
        check_latents(&latents, self.config.model.networks.latent)?;
        Ok(self.picture(networks, latents))
    }

    /// On the straight line: no sphere is special to these codes.
    fn between(&self, a: Tensor<2>, b: Tensor<2>, t: f64) -> Tensor<2> {
        a * (1.0 - t) + b * t
    }
}

#[cfg(test)]
mod tests {
    use kiln_nn::tensor::{from_values, to_values};
    use kiln_train::params::{self, take_gradients};

    use super::*;
    use crate::autoencoder::networks::{Network, NetworkConfig};
    use crate::autoencoder::pixels::{Likelihoods, PixelConfig};
    use crate::autoencoder::testing::{Fixtures, close, device, overfit, pictures, system};
    use crate::testing::requested;

    fn config(network: Network, decoder: Likelihoods) -> Config {
        let networks = NetworkConfig { latent: 3, hidden: vec![16], network, channels: 4, ..NetworkConfig::default() };
        let pixels = PixelConfig { decoder, sigma: 0.5, ..PixelConfig::default() };
        Config { model: LatentConfig { networks, pixels }, ..Config::default() }
    }

    /// Where PyTorch's sequence has what our networks call so.
    const NAMES: [(&str, &str); 8] = [
        ("encoder.trunk.convs.0.weight", "0.weight"),
        ("encoder.trunk.convs.0.bias", "0.bias"),
        ("encoder.head.mean.weight", "3.weight"),
        ("encoder.head.mean.bias", "3.bias"),
        ("decoder.out.weight", "4.weight"),
        ("decoder.out.bias", "4.bias"),
        ("decoder.convs.0.weight", "7.weight"),
        ("decoder.convs.0.bias", "7.bias"),
    ];

    #[test]
    fn codes_pictures_errors_and_gradients_are_pytorchs() {
        let golden = Fixtures::open("ssvae_aae");
        let mut config = config(Network::Conv, Likelihoods::Gaussian);
        // ‖x − y‖² / 2σ² + ½ log 2πσ² a pixel; σ² = ½ and 16 pixels.
        config.model.pixels.sigma = 0.5f64.sqrt();
        let networks = &mut config.model.networks;
        (networks.latent, networks.hidden, networks.channels, networks.levels) = (2, vec![], 2, 1);
        let ae = system::<Ae>(config, [1, 4, 4]);
        let mut state = params::state(&ae.networks(&mut Init::new(&device().autodiff(), 0)));
        assert_eq!(state.len(), NAMES.len());
        for (ours, theirs) in NAMES {
            let (shape, values) = golden.values(&format!("ae.{theirs}"));
            let values = values.into_iter().map(|v| v as f32).collect();
            state.insert(ours.into(), params::HostTensor { shape, values }).unwrap();
        }
        let networks = params::load(ae.networks(&mut Init::new(&device().autodiff(), 0)), &state, "fixture").unwrap();
        let x: Tensor<4> = golden.tensor("ae.x").autodiff();
        let code = ae.encode(&networks, x.clone(), &Request::new(0..1, 0, &device())).unwrap();
        golden.assert_close(code.clone().inner(), "ae.code", 1e-5);
        let flat = x.clone().reshape([3, 16]);
        let out = networks.decoder.forward(code);
        golden.assert_close(out.mean.clone().inner().reshape([3, 1, 4, 4]), "ae.output", 1e-5);
        let loss = -ae.config.model.pixels.log_likelihood(flat, out).mean();
        let constant = 8.0 * std::f64::consts::PI.ln();
        golden.assert_close((loss.clone() - constant).inner().reshape([0; 0]), "ae.squared_error", 1e-5);
        let gradients = take_gradients(&networks, &mut loss.backward());
        assert_eq!(gradients.len(), NAMES.len());
        for (ours, theirs) in NAMES {
            let (_, wanted) = golden.values(&format!("ae.grad.{theirs}"));
            let wanted: Vec<f32> = wanted.into_iter().map(|v| v as f32).collect();
            close(&to_values(gradients[ours].clone()), &wanted, 1e-4);
        }
    }

    #[test]
    fn overfits_a_batch() {
        for network in [Network::Mlp, Network::Conv] {
            for decoder in [Likelihoods::Bernoulli, Likelihoods::Gaussian] {
                let (first, last) = overfit::<Ae>(config(network, decoder), "reconstruction", 1e-2, 150);
                assert!(last < first - 10.0, "{network:?} {decoder:?}: {first} to {last}");
            }
        }
    }

    #[test]
    fn abilities_agree_with_each_other() {
        let ae = system::<Ae>(config(Network::Conv, Likelihoods::Bernoulli), [1, 8, 8]);
        let networks = ae.networks(&mut Init::new(&device(), 0));
        let request = Request::new(3..7, 0, &device());
        let made = ae.generate(&networks, &request).unwrap();
        assert_eq!(made.dims(), [4, 1, 8, 8]);
        assert_eq!(to_values(made), to_values(ae.decode(&networks, ae.latents(&networks, &request).unwrap()).unwrap()));
        let images = || from_values::<4>(pictures([2, 1, 8, 8]), [2, 1, 8, 8], &device());
        let code = ae.encode(&networks, images(), &Request::new(0..1, 0, &device())).unwrap();
        assert_eq!(code.dims(), [2, 3]);
        let [a, b] = [0, 1].map(|i| code.clone().narrow(0, i, 1));
        let middle = to_values(ae.between(a.clone(), b.clone(), 0.5));
        close(&middle, &to_values((a + b) * 0.5), 1e-6);
        let again = ae.decode(&networks, code).unwrap();
        assert_eq!(to_values(again), to_values(ae.reconstruct(&networks, images()).unwrap()));
        let wrong = || Tensor::zeros([1, 3, 8, 8], &device());
        assert!(ae.encode(&networks, wrong(), &Request::new(0..1, 0, &device())).err().unwrap().is_usage());
        assert!(ae.decode(&networks, Tensor::zeros([1, 4], &device())).err().unwrap().is_usage());
        let told = request.of_class(Some(1));
        assert!(requested(&ae, &networks, &told).err().unwrap().is_usage());
    }
}
