//! Bousmalis, Trigeorgis, Silberman, Krishnan & Erhan, *Domain Separation Networks*, 2016.
//!
//! What both domains have in common is encoded apart from what each has for itself; the classifier sees the common part alone.
//! Objective (equation 1):
//!
//! L = L_task + α L_recon + β L_difference + γ L_similarity
//!
//! * L_task: the cross-entropy of the source's labels (equation 2);
//! * L_recon: the scale-invariant error of a picture decoded from the sum of its shared and its private code (equations 3 to 6);
//! * L_difference: shared and private codes of a domain are orthogonal (equation 5 of the arXiv version, as in the authors' code);
//! * L_similarity: the shared codes do not reveal the domain, by a domain head behind a gradient reversal (equation 7) or by MMD
//!   (equation 8).
//!
//! | paper, authors' code | here |
//! |---|---|
//! | E_c, the shared encoder: DANN's to its first hidden layer | `shared`, `code` |
//! | G, the classifier of shared codes | `labels` |
//! | E_p of source and target | `private`, a [`PrivateEncoder`] each, with batch norm |
//! | D, `small_decoder` | `decoder`, a [`Decoder`] |
//! | Z, the domain head of 100 units | `domain` |
//! | α, β, γ | `reconstruction_weight`, `difference_weight`, `similarity_weight` |
//! | the other losses begin after 10,000 steps | after `start` of the run |
//! | 19 widths of Gaussian kernels, fixed | `bandwidths`, in mean squared distances |
//!
//! `kiln train dsn --data mnist,mnistm`, then `kiln reconstruct RUN picture.png shared.png --part shared`.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use kiln_core::{Error, Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::loss::reverse_gradient;
use kiln_nn::resample::{Interpolation, interpolate};
use kiln_nn::{Activation, BatchNorm2d, Conv2d, Conv2dConfig, Init, Linear, LinearConfig};
use kiln_train::{
    Abilities, Batch, Classify, DataConfig, Loss, OptimizerConfig, Phase, Pictures, Reconstruct, Represent, Schedule,
    SizeRule, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::dann::defaults;
use super::losses::{
    check_bandwidths, difference_loss, domain_accuracy, domain_loss, domains, label_loss, mmd, pairwise_error,
    with_known,
};
use super::networks::{Extractor, Head, Hidden, NetworkConfig, Side, check_shape};
use crate::translation::two_way::check_weights;

/// What keeps the domain out of the shared codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Similarity {
    /// A domain head behind a gradient reversal (§3.2).
    #[default]
    Dann,
    /// The maximum mean discrepancy of both domains' codes.
    Mmd,
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// `dann` or `mmd`.
    pub similarity: Similarity,
    /// α.
    pub reconstruction_weight: f64,
    /// β.
    pub difference_weight: f64,
    /// γ.
    pub similarity_weight: f64,
    /// The part of the run, from 0 to 1, after which the three losses begin; the labels' has the time before.
    pub start: f64,
    /// Widths of Gaussian kernels for `mmd`, in mean squared distances of the batch's codes.
    pub bandwidths: Vec<f64>,
    /// Channels of the private encoders' convolutions.
    pub private_channels: [usize; 2],
    /// Channels of the decoder's convolutions.
    pub decoder_channels: usize,
    /// The shared encoder and the classifier.
    #[serde(flatten)]
    pub network: NetworkConfig,
    /// The optimiser of all parts.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            similarity: Similarity::Dann,
            reconstruction_weight: 0.1,
            difference_weight: 0.05,
            similarity_weight: 0.25,
            start: 0.1,
            bandwidths: vec![0.25, 0.5, 1.0, 2.0, 4.0],
            private_channels: [32, 64],
            decoder_channels: 16,
            network: NetworkConfig::default(),
            optimizer: OptimizerConfig::sgd(0.01, 0.9).schedule(Schedule::InverseDecay),
        }
    }
}

/// All parts.
#[derive(Module, Debug)]
pub struct Networks {
    /// The convolutions of E_c.
    pub shared: Extractor,
    /// The last layer of E_c, which makes the code.
    pub code: Hidden,
    /// G, of shared codes.
    pub labels: Head,
    /// Z.
    pub domain: Head,
    /// E_p of the source, and of the target.
    pub private: Vec<PrivateEncoder>,
    /// D.
    pub decoder: Decoder,
}

/// Twice a 5×5 convolution, batch norm, ReLU and pooling, and a linear layer with batch norm and ReLU (`default_encoder`).
#[derive(Module, Debug)]
pub struct PrivateEncoder {
    convs: Vec<Conv2d>,
    norms: Vec<BatchNorm2d>,
    code: Linear,
    code_norm: BatchNorm2d,
}

/// Batch norm of `[n, features]`.
fn norm_rows(norm: &BatchNorm2d, x: Tensor<2>) -> Tensor<2> {
    let [n, d] = x.dims();
    norm.forward(x.reshape([n, d, 1, 1]), Activation::Relu).reshape([n, d])
}

impl PrivateEncoder {
    fn new([channels, height, width]: [usize; 3], widths: [usize; 2], code: usize, init: &mut Init) -> Self {
        let conv = |i: usize, o: usize, init: &mut Init| {
            Conv2dConfig { padding: 2, bias: false, ..Conv2dConfig::new(i, o, 5) }.init(init)
        };
        let features = widths[1] * (height / 4) * (width / 4);
        Self {
            convs: vec![conv(channels, widths[0], init), conv(widths[0], widths[1], init)],
            norms: widths.map(|c| BatchNorm2d::new(c, init)).into(),
            code: LinearConfig { bias: false, ..LinearConfig::new(features, code) }.init(init),
            code_norm: BatchNorm2d::new(code, init),
        }
    }

    /// # Shapes
    /// `[n, c, h, w]` → `[n, code]`
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self.convs.iter().zip(&self.norms).fold(images, |x, (conv, norm)| {
            max_pool2d(norm.forward(conv.forward(x), Activation::Relu), MaxPoolOptions::new([2, 2]))
        });
        let [n, c, h, w] = x.dims();
        norm_rows(&self.code_norm, self.code.forward(x.reshape([n, c * h * w])))
    }
}

/// Side of the decoder's first maps.
const FIRST: usize = 10;

/// A linear layer to three maps of 10 × 10, two convolutions, the size of the picture, and two convolutions; batch norm and ReLU but at
/// the end (`small_decoder`).
#[derive(Module, Debug)]
pub struct Decoder {
    first: Linear,
    first_norm: BatchNorm2d,
    convs: Vec<Conv2d>,
    norms: Vec<BatchNorm2d>,
    last: Conv2d,
    #[module(skip)]
    size: [usize; 2],
}

impl Decoder {
    fn new([channels, height, width]: [usize; 3], code: usize, width_of_maps: usize, init: &mut Init) -> Self {
        let units = 3 * FIRST * FIRST;
        let conv = |i: usize, o: usize, bias: bool, init: &mut Init| {
            Conv2dConfig { padding: 1, bias, ..Conv2dConfig::new(i, o, 3) }.init(init)
        };
        let k = width_of_maps;
        Self {
            first: LinearConfig { bias: false, ..LinearConfig::new(code, units) }.init(init),
            first_norm: BatchNorm2d::new(units, init),
            convs: vec![conv(3, k, false, init), conv(k, k, false, init), conv(k, k, false, init)],
            norms: (0..3).map(|_| BatchNorm2d::new(k, init)).collect(),
            last: conv(k, channels, true, init),
            size: [height, width],
        }
    }

    /// # Shapes
    /// `[n, code]` → `[n, c, h, w]`
    pub fn forward(&self, code: Tensor<2>) -> Tensor<4> {
        let n = code.dims()[0];
        let x = norm_rows(&self.first_norm, self.first.forward(code)).reshape([n, 3, FIRST, FIRST]);
        let x = self.convs.iter().zip(&self.norms).enumerate().fold(x, |x, (i, (conv, norm))| {
            let x = if i == 2 { interpolate(x, self.size, Interpolation::Nearest) } else { x };
            norm.forward(conv.forward(x), Activation::Relu)
        });
        self.last.forward(x)
    }
}

/// What a code is split into, by name, the whole first.
const PARTS: [&str; 3] = ["whole", "shared", "private"];

impl Networks {
    fn shared_code(&self, images: Tensor<4>, side: Side) -> Tensor<2> {
        self.code.forward(self.shared.forward(images, side))
    }

    fn private_code(&self, images: Tensor<4>, side: Side) -> Tensor<2> {
        self.private[side as usize].forward(images)
    }
}

/// The system.
pub struct Dsn {
    config: Config,
    pictures: Pictures,
}

impl System for Dsn {
    const ID: &'static str = "dsn";
    const PAPER: &'static str = "Bousmalis et al.: Domain Separation Networks, 2016";
    const DATA: DataKind = DataKind::SourceTarget;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        let (data, train) = defaults(400_000);
        (data, TrainConfig { batch: 32, preview_every: 50_000, ..train })
    }

    fn resolve(config: Config, _pictures: &Pictures) -> Config {
        Config { network: config.network.resolved(), ..config }
    }

    fn sizes(config: &Config) -> SizeRule {
        config.network.sizes()
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let config = Self::resolve(config, pictures);
        config.network.check(pictures, Self::ID)?;
        refuse_if!(config.network.label_hidden.is_empty(), "model.label_hidden: its first layer makes the shared code");
        let sizes = [&config.private_channels[..], &[config.decoder_channels]].concat();
        refuse_if!(sizes.contains(&0), "model.private_channels and model.decoder_channels must be at least 1");
        check_weights(&[
            ("reconstruction_weight", config.reconstruction_weight),
            ("difference_weight", config.difference_weight),
            ("similarity_weight", config.similarity_weight),
        ])?;
        refuse_if!(!(0.0..=1.0).contains(&config.start), "model.start must be from 0 to 1");
        check_bandwidths(&config.bandwidths)?;
        Ok(Self { config, pictures: pictures.clone() })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let Config { network, private_channels, decoder_channels, .. } = &self.config;
        let (shape, hidden) = (self.pictures.shape, &network.label_hidden);
        let code = hidden[0];
        Networks {
            shared: network.extractor(shape[0], false, init),
            code: Hidden::new(network.features(shape), &hidden[..1], init),
            labels: Head::new(code, &hidden[1..], self.pictures.classes.len(), init),
            domain: network.domain_head(code, init),
            private: (0..2).map(|_| PrivateEncoder::new(shape, *private_channels, code, init)).collect(),
            decoder: Decoder::new(shape, code, *decoder_channels, init),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let all = ["shared", "code", "labels", "domain", "private", "decoder"];
        vec![Phase::new("all", &all, self.config.optimizer.clone(), |s, n, b| s.loss(n, b).map(Some))]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { classify: Some(self), represent: Some(self), reconstruct: Some(self), ..Abilities::default() }
    }
}

impl Dsn {
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let [source, target] = domains(batch, Self::ID)?;
        let images = [source.images.clone(), target.images.clone()];
        let [a, b] = images.clone();
        let shared = networks.shared.both(a, b).map(|features| networks.code.forward(features));
        let loss = label_loss(networks.labels.forward(shared[0].clone()), batch.labels()?);
        let loss =
            with_known(loss, batch, |images| networks.labels.forward(networks.shared_code(images, Side::Target)))?;
        if batch.progress() < self.config.start {
            return Ok(loss);
        }
        let [mut reconstruction, mut difference] = [0, 1].map(|_| Tensor::zeros([1], batch.device()));
        for (side, image) in [Side::Source, Side::Target].into_iter().zip(images) {
            let (shared, private) = (shared[side as usize].clone(), networks.private_code(image.clone(), side));
            difference = difference + difference_loss(private.clone(), shared.clone());
            reconstruction = reconstruction + pairwise_error(networks.decoder.forward(shared + private), image, None);
        }
        let Config { reconstruction_weight, difference_weight, similarity_weight, .. } = self.config;
        let loss = loss.plus("reconstruction", reconstruction_weight, reconstruction).plus(
            "difference",
            difference_weight,
            difference,
        );
        Ok(match self.config.similarity {
            Similarity::Mmd => {
                let [a, b] = shared;
                loss.plus("mmd", similarity_weight, mmd(a, b, &self.config.bandwidths))
            }
            Similarity::Dann => {
                let [a, b] = shared.map(|code| networks.domain.forward(reverse_gradient(code, 1.0)));
                let right = domain_accuracy(a.clone(), b.clone());
                loss.plus("domain_loss", similarity_weight, domain_loss(a, b)).report("domain_accuracy", right)
            }
        })
    }

    fn seen(&self, networks: &Networks, images: Tensor<4>, side: Side) -> Result<Tensor<2>> {
        check_shape(&images, &self.pictures, Self::ID)?;
        Ok(networks.shared_code(images, side))
    }
}

impl Classify<Networks> for Dsn {
    fn classify(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        Ok(networks.labels.forward(self.seen(networks, images, Side::Target)?))
    }

    fn classify_source(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        Ok(networks.labels.forward(self.seen(networks, images, Side::Source)?))
    }
}

/// The shared code.
impl Represent<Networks> for Dsn {
    fn represent(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        self.seen(networks, images, Side::Target)
    }

    fn represent_source(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        self.seen(networks, images, Side::Source)
    }
}

impl Reconstruct<Networks> for Dsn {
    fn reconstruct(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<4>> {
        self.reconstruct_part(networks, images, PARTS[0], 1)
    }

    fn parts(&self) -> Vec<&'static str> {
        PARTS.to_vec()
    }

    fn reconstruct_part(&self, networks: &Networks, images: Tensor<4>, part: &str, domain: usize) -> Result<Tensor<4>> {
        check_shape(&images, &self.pictures, Self::ID)?;
        let side = if domain == 0 { Side::Source } else { Side::Target };
        let shared = || networks.shared_code(images.clone(), side);
        let private = || networks.private_code(images.clone(), side);
        let code = match part {
            "whole" => shared() + private(),
            "shared" => shared(),
            "private" => private(),
            _ => return Err(Error::usage(format!("no part `{part}`; there are {}", PARTS.join(", ")))),
        };
        Ok(networks.decoder.forward(code).clamp(-1.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;

    use super::*;
    use crate::adaptation::testing::{batch, fit, pictures, term, tiny_network};

    fn tiny(similarity: Similarity) -> Config {
        Config {
            similarity,
            reconstruction_weight: 1.0,
            difference_weight: 1.0,
            start: 0.0,
            private_channels: [4, 4],
            decoder_channels: 4,
            network: tiny_network(),
            optimizer: OptimizerConfig::adam(3e-3),
            ..Config::default()
        }
    }

    fn new(config: Config) -> Dsn {
        Dsn::new(config, &pictures(16)).unwrap()
    }

    #[test]
    fn fits_one_batch() {
        for similarity in [Similarity::Dann, Similarity::Mmd] {
            let log = fit(new(tiny(similarity)), false, 240);
            for name in ["label_loss", "reconstruction", "difference"] {
                let [first, last] = [0, 239].map(|step: usize| term(&log[step], name));
                assert!(last < 0.5 * first, "{similarity:?} {name}: {first} -> {last}");
            }
        }
    }

    #[test]
    fn the_other_losses_begin_late() {
        let log = fit(new(Config { start: 0.02, ..tiny(Similarity::Dann) }), false, 4);
        assert_eq!(log.iter().map(|terms| terms.len() > 2).collect::<Vec<_>>(), [false, false, false, true]);
    }

    #[test]
    fn labels_of_the_target_change_nothing() {
        let terms = |labels: bool| fit(new(tiny(Similarity::Mmd)), labels, 3);
        assert_eq!(terms(false), terms(true));
    }

    #[test]
    fn parts_of_a_code_are_decoded_apart() {
        let device = Device::flex();
        let system = new(tiny(Similarity::Dann));
        let networks = system.networks(&mut Init::new(&device, 0));
        let images = || batch(0, false, &device).domains[0].images.clone();
        let part =
            |name: &str, domain: usize| to_values(system.reconstruct_part(&networks, images(), name, domain).unwrap());
        assert_eq!(part("whole", 1), to_values(system.reconstruct(&networks, images()).unwrap()));
        let all = [part("whole", 1), part("shared", 1), part("private", 1), part("private", 0)];
        for (i, a) in all.iter().enumerate() {
            assert_eq!(a.len(), 8 * 256);
            assert!(all[..i].iter().all(|b| a != b), "{i}");
        }
        assert!(system.reconstruct_part(&networks, images(), "half", 1).unwrap_err().is_usage());
    }

    #[test]
    fn bad_settings_are_usage_errors() {
        let tiny = || tiny(Similarity::Dann);
        for config in [
            Config { start: 1.5, ..tiny() },
            Config { decoder_channels: 0, ..tiny() },
            Config { similarity_weight: -1.0, ..tiny() },
            Config { bandwidths: vec![f64::INFINITY], ..tiny() },
        ] {
            assert!(Dsn::new(config, &pictures(16)).err().unwrap().is_usage());
        }
    }
}
