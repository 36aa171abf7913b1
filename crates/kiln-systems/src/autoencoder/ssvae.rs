//! Kingma, Rezende, Mohamed & Welling, *Semi-supervised Learning with Deep Generative Models*, 2014.
//!
//! A few images x have a class y, most have none. **M2**: p(y) p(z) p(x|y, z), with q(z|x, y) Gaussian and the
//! classifier q(y|x). Bounds of a labelled and of an unlabelled image (equations 6 and 7):
//!
//! log p(x, y) ≥ E_q(z|x,y) log p(x|y, z) + log p(y) − KL(q(z|x, y) ‖ p(z)) = −L(x, y)
//!
//! log p(x) ≥ Σ_y q(y|x) (−L(x, y)) + H(q(y|x)) = −U(x), with an exact sum over all classes.
//!
//! Objective (equation 9, divided by the number of images N):
//!
//! J^α / N = (N_l / N) · mean L + (N_u / N) · mean U + (α / N) · mean over labelled of −log q(y|x).
//!
//! **M1** is a variational autoencoder (the system `vae`) and a classifier on samples of its q(z₁|x). **M1+M2** stacks
//! them: M2 on codes z₁ ~ q(z₁|x) of a fixed M1 instead of images, with p(z₁|y, z₂) Gaussian with learned variances:
//! p(x, y, z₁, z₂) = p(y) p(z₂) p(z₁|y, z₂) p(x|z₁).
//!
//! | paper | here |
//! |---|---|
//! | M1: q_φ(z₁\|x), p_θ(x\|z₁) | `m1`, from the run of that name |
//! | M2: q_φ(z\|x, y), p_θ(x\|y, z), p(y) | `m2` |
//! | q_φ(y\|x) | `classifier` |
//! | −L(x, y) | [`Ssvae::labelled_bound`] |
//! | −U(x) | [`Ssvae::unlabelled_bound`] |
//! | α | `alpha` · N; with the paper's 0.1, meant for 3,000 epochs, short training ignores the labels |
//!
//! `kiln train ssvae --data mnist --set data.labels=100`; M1+M2 by `kiln train vae --data mnist --out runs/m1`, then
//! `--set model.mode=m1+m2 --set model.m1=runs/m1`.

use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor};
use kiln_core::random::Key;
use kiln_core::{Error, Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::loss::{cross_entropy, gaussian_kl, gaussian_log_likelihood};
use kiln_nn::tensor::{from_indices, to_values};
use kiln_train::ability::slerp;
use kiln_train::request::{check_class, check_pictures};
use kiln_train::{
    Abilities, Batch, Classify, DataConfig, Decode, Domain, Encode, FitData, Generate, InitFrom, Input, Likelihood,
    Loss, OptimizerConfig, Phase, Pictures, Reconstruct, Request, Schedule, SizeRule, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::bound::{importance_nll, in_parts, log_mean_exp, log_weights, reparameterise, rows_at_once, sample_noise};
use super::coder::Logits;
use super::latent::{LatentConfig, check_latents, prior_latents};
use super::networks::{Decoder, Encoder, NetworkConfig, Scale, joined, one_hot};
use super::pixels::fingerprints;
use super::probe::settings_of;
use super::vae::training;
use crate::one_pass::NoSettings;

/// Which of the paper's models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// q(y|x) alone, on the labelled images: the baseline.
    #[serde(rename = "supervised")]
    Supervised,
    /// A classifier on codes of M1.
    #[serde(rename = "m1")]
    M1,
    /// The semi-supervised model of images.
    #[serde(rename = "m2")]
    M2,
    /// The semi-supervised model of codes of M1.
    #[serde(rename = "m1+m2")]
    Stacked,
}

/// p(y).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassPrior {
    /// 1 / classes.
    Uniform,
    /// Learned from the labels, and from the predictions for unlabelled images.
    Empirical,
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// `m2`, `m1+m2`, `m1` or `supervised`.
    pub mode: Mode,
    /// Folder of the `vae` run that is M1 (`m1`, `m1+m2`).
    pub m1: String,
    /// The networks and p(x|·): M2's own, or M1's, copied from that run.
    #[serde(flatten)]
    pub model: LatentConfig,
    /// Widths of the fully connected layers of q(y|·).
    pub classifier: Vec<usize>,
    /// Dimensions of z₂ (`m1+m2`).
    pub top_latent: usize,
    /// Widths of the fully connected layers between z₁ and z₂ (`m1+m2`).
    pub top_hidden: Vec<usize>,
    /// α / N, the weight of the classifier's cross-entropy.
    pub alpha: f64,
    /// p(y): `uniform` or `empirical`.
    pub class_prior: ClassPrior,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::M2,
            m1: String::new(),
            model: LatentConfig { networks: NetworkConfig::mlp(50, &[500]), ..LatentConfig::default() },
            classifier: vec![500],
            top_latent: 50,
            top_hidden: vec![300],
            alpha: 10.0,
            class_prior: ClassPrior::Uniform,
            optimizer: OptimizerConfig::adam(1e-3).schedule(Schedule::Cosine),
        }
    }
}

/// The networks that a mode has.
#[derive(Module, Debug)]
pub struct Networks {
    /// The variational autoencoder of pictures.
    pub m1: Option<M1>,
    /// The semi-supervised model of v: pictures, or codes of M1.
    pub m2: Option<M2>,
    /// q(y|v).
    pub classifier: Logits,
}

/// See [`Networks`].
#[derive(Module, Debug)]
pub struct M1 {
    /// q(z₁|x).
    pub encoder: Encoder,
    /// p(x|z₁).
    pub decoder: Decoder,
}

/// See [`Networks`].
#[derive(Module, Debug)]
pub struct M2 {
    /// q(z|v, y).
    pub encoder: Encoder,
    /// p(v|y, z).
    pub decoder: Decoder,
    /// log p(y) but for a constant, `[classes]`.
    pub prior: Option<Param<Tensor<1>>>,
}

impl Networks {
    fn m1(&self) -> Result<&M1> {
        self.m1.as_ref().ok_or_else(|| Error::usage("this run's model.mode has no M1"))
    }

    fn m2(&self) -> Result<&M2> {
        self.m2.as_ref().ok_or_else(|| Error::usage("this run's model.mode has no M2"))
    }
}

/// The system.
pub struct Ssvae {
    config: Config,
    pictures: Pictures,
}

impl System for Ssvae {
    const ID: &'static str = "ssvae";
    const PAPER: &'static str = "Kingma et al.: Semi-supervised Learning with Deep Generative Models, 2014";
    const DATA: DataKind = DataKind::PartlyLabelled;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        (DataConfig { labels: 100, ..DataConfig::default() }, TrainConfig { batch: 100, ..training() })
    }

    fn sizes(config: &Config) -> SizeRule {
        config.model.networks.sizes()
    }

    fn resolve(config: Config, pictures: &Pictures) -> Config {
        Config { model: config.model.resolved(pictures.shape), ..config }
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let config = Self::resolve(config, pictures);
        refuse_if!(pictures.classes.len() < 2, "ssvae needs a set of at least two classes");
        config.model.networks.check(pictures.shape)?;
        config.model.pixels.check()?;
        refuse_if!(
            config.top_latent == 0 || config.top_hidden.contains(&0) || config.classifier.contains(&0),
            "model.top_latent and each width of model.top_hidden and model.classifier must be at least 1"
        );
        refuse_if!(
            !(config.alpha >= 0.0 && config.alpha.is_finite()),
            "model.alpha must not be negative, and is {}",
            config.alpha
        );
        Ok(Self { config, pictures: pictures.clone() })
    }

    fn settle(mut config: Config) -> Result<Config> {
        if !matches!(config.mode, Mode::M1 | Mode::Stacked) {
            return Ok(config);
        }
        if config.m1.is_empty() {
            return Err(Error::usage(
                "model.m1: name the run of vae whose codes this mode is of, such as --set model.m1=runs/vae",
            ));
        }
        config.model = settings_of(&config.m1)?;
        Ok(config)
    }

    fn init_from(config: &Config) -> Vec<InitFrom<'_>> {
        let has_m1 = matches!(config.mode, Mode::M1 | Mode::Stacked) && !config.m1.is_empty();
        let m1 = InitFrom { source: &config.m1, networks: &[("encoder", "m1.encoder"), ("decoder", "m1.decoder")] };
        has_m1.then_some(m1).into_iter().collect()
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, shape, classes) = (&self.config, self.pictures.shape, self.classes());
        let LatentConfig { networks, pixels } = &c.model;
        let has_m1 = matches!(c.mode, Mode::M1 | Mode::Stacked);
        let has_m2 = matches!(c.mode, Mode::M2 | Mode::Stacked);
        // What M2 is of.
        let (of, scale) = if has_m1 { ([networks.latent, 1, 1], Scale::Pixel) } else { (shape, pixels.scale()) };
        let own = if has_m1 {
            let NetworkConfig { nonlinearity, .. } = *networks;
            NetworkConfig { nonlinearity, ..NetworkConfig::mlp(c.top_latent, &c.top_hidden) }
        } else {
            networks.clone()
        };
        let judge = NetworkConfig { hidden: c.classifier.clone(), ..own.clone() };
        Networks {
            m1: has_m1.then(|| M1 {
                encoder: networks.encoder(shape, 0, init),
                decoder: networks.decoder(shape, 0, pixels.scale(), init),
            }),
            m2: has_m2.then(|| M2 {
                encoder: own.encoder(of, classes, init),
                decoder: own.decoder(of, classes, scale, init),
                prior: (c.class_prior == ClassPrior::Empirical).then(|| init.constant([classes], 0.0)),
            }),
            classifier: Logits::new(&judge, of, classes, init),
        }
    }

    /// An M2 of pictures begins with their mean; M1 and what is of its codes stay as they came.
    fn initialise(&self, fresh: Networks, data: &FitData<'_>) -> Result<Networks> {
        let pixels = &self.config.model.pixels;
        let centred = |m2: M2| pixels.centred(m2.decoder, data).map(|decoder| M2 { decoder, ..m2 });
        match fresh.m1 {
            Some(_) => Ok(fresh),
            None => Ok(Networks { m2: fresh.m2.map(centred).transpose()?, ..fresh }),
        }
    }

    /// M1 stays as it came.
    fn phases(&self) -> Vec<Phase<Self>> {
        let trains: &[&str] = match self.config.mode {
            Mode::Supervised | Mode::M1 => &["classifier"],
            Mode::M2 | Mode::Stacked => &["m2", "classifier"],
        };
        vec![Phase::new("ssvae", trains, self.config.optimizer.clone(), |s, n, b| s.loss(n, b).map(Some))]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        let classify = Abilities { classify: Some(self), ..Abilities::default() };
        if matches!(self.config.mode, Mode::Supervised | Mode::M1) {
            return classify;
        }
        Abilities {
            generate: Some(self),
            reconstruct: Some(self),
            encode: Some(self),
            decode: Some(self),
            likelihood: Some(self),
            ..classify
        }
    }
}

impl Ssvae {
    /// J^α / N, or the classifier's cross-entropy alone.
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let (few, many) = batch.partly_labelled()?;
        let v = self.observed(networks, few, "labelled", batch)?;
        let classification = cross_entropy(networks.classifier.forward(v.clone()), batch.labels()?);
        if matches!(self.config.mode, Mode::Supervised | Mode::M1) {
            return Ok(Loss::new("classification", classification));
        }
        let (n, d, classes) = (batch.len(), self.latent(), self.classes());
        let y = one_hot(batch.labels()?, classes);
        let labelled = self.labelled_bound(networks.m2()?, v, y, batch.normal("labelled posterior", [n, d]));
        let v = self.observed(networks, many, "unlabelled", batch)?;
        // A picture's own draws lie side by side; class by class is how they are used.
        let noise = batch.normal("unlabelled posterior", [n, classes * d]);
        let noise = noise.reshape([n, classes, d]).swap_dims(0, 1).reshape([classes * n, d]);
        let unlabelled = self.unlabelled_bound(networks.m2()?, &networks.classifier, v, noise);
        Ok(self.objective(labelled, unlabelled, classification, [batch.share(0), batch.share(1)]))
    }

    fn classes(&self) -> usize {
        self.pictures.classes.len()
    }

    /// Dimensions of the latent beside the class: z, or z₂ where there is an M2 above M1.
    fn latent(&self) -> usize {
        if self.config.mode == Mode::Stacked { self.config.top_latent } else { self.config.model.networks.latent }
    }

    /// What M2 and the classifier are of, of a training batch: pictures, or draws from M1's q(z₁|x).
    fn observed(&self, networks: &Networks, domain: &Domain, purpose: &str, batch: &Batch) -> Result<Tensor<2>> {
        let draw = (batch.key("binarise").purpose(purpose), batch.samples().collect());
        let x = self.config.model.pixels.observe(domain.images.clone(), Some(draw));
        if !matches!(self.config.mode, Mode::M1 | Mode::Stacked) {
            return Ok(x);
        }
        let (mean, log_var) = networks.m1()?.encoder.forward(x);
        let noise = batch.normal(&format!("{purpose} codes"), mean.dims());
        Ok(reparameterise(mean, log_var, noise).detach())
    }

    /// The same of pictures to be looked at: their means.
    fn seen(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_pictures(&images, self.pictures.shape)?;
        let x = self.config.model.pixels.observe(images, None);
        match self.config.mode {
            Mode::Supervised | Mode::M2 => Ok(x),
            Mode::M1 | Mode::Stacked => Ok(networks.m1()?.encoder.forward(x).0),
        }
    }

    /// log p(y) of each class, `[1, classes]`.
    fn log_prior(&self, m2: &M2, device: &Device) -> Tensor<2> {
        let classes = self.classes();
        match &m2.prior {
            Some(prior) => log_softmax(prior.val().reshape([1, classes]), 1),
            None => Tensor::full([1, classes], -(classes as f64).ln(), device),
        }
    }

    /// log p(v|y, z) + log p(y), given y and z side by side.
    ///
    /// # Shapes
    /// `[n, width]`, `[n, latent]`, `[n, classes]` → `[n]`
    fn log_joint(&self, m2: &M2, v: Tensor<2>, z: Tensor<2>, y: Tensor<2>) -> Tensor<1> {
        let n = y.dims()[0];
        let prior = (self.log_prior(m2, &y.device()) * y.clone()).sum_dim(1).reshape([n]);
        let out = m2.decoder.forward(joined(z, Some(y)));
        let of_v = match (self.config.mode, out.scale.clone()) {
            // The decoder puts out log σ² of each code.
            (Mode::Stacked, Some(log_var)) => gaussian_log_likelihood(v, out.mean, log_var),
            _ => self.config.model.pixels.log_likelihood(v, out),
        };
        of_v + prior
    }

    /// −L(v, y), with one draw of z.
    ///
    /// # Shapes
    /// `[n, width]`, one-hot `[n, classes]`, noise `[n, latent]` → `[n]`
    pub fn labelled_bound(&self, m2: &M2, v: Tensor<2>, y: Tensor<2>, noise: Tensor<2>) -> Tensor<1> {
        let (mean, log_var) = m2.encoder.given(v.clone(), y.clone());
        let z = reparameterise(mean.clone(), log_var.clone(), noise);
        self.log_joint(m2, v, z, y) - gaussian_kl(mean, log_var)
    }

    /// −L(v, y) of every class, with one draw of z for each.
    ///
    /// # Shapes
    /// `[n, width]`, noise `[classes·n, latent]` class by class → `[classes, n]`
    fn every_class(&self, m2: &M2, v: Tensor<2>, noise: Tensor<2>) -> Tensor<2> {
        let (n, classes) = (v.dims()[0], self.classes());
        let y = self.all(n, &v.device());
        self.labelled_bound(m2, v.repeat_dim(0, classes), y, noise).reshape([classes, n])
    }

    /// Each class one-hot for `n` pictures, class by class, `[classes·n, classes]`.
    fn all(&self, n: usize, device: &Device) -> Tensor<2> {
        let classes = self.classes();
        let labels: Vec<u32> = (0..classes as u32).flat_map(|c| std::iter::repeat_n(c, n)).collect();
        one_hot(from_indices(&labels, device), classes)
    }

    /// −U(v) = Σ_y q(y|v) (−L(v, y)) + H(q(y|v)).
    ///
    /// # Shapes
    /// `[n, width]`, noise `[classes·n, latent]` class by class → `[n]`
    pub fn unlabelled_bound(&self, m2: &M2, classifier: &Logits, v: Tensor<2>, noise: Tensor<2>) -> Tensor<1> {
        let n = v.dims()[0];
        let bounds = self.every_class(m2, v.clone(), noise).transpose();
        let log_q = log_softmax(classifier.forward(v), 1);
        (log_q.clone().exp() * (bounds - log_q)).sum_dim(1).reshape([n])
    }

    /// J^α / N of the bounds, the mean cross-entropy, and the parts of all pictures that are labelled and not.
    fn objective(
        &self,
        labelled: Tensor<1>,
        unlabelled: Tensor<1>,
        classification: Tensor<1>,
        [few, many]: [f64; 2],
    ) -> Loss {
        let (labelled, unlabelled) = (-labelled.mean(), -unlabelled.mean());
        let total = labelled.clone() * few + unlabelled.clone() * many + classification.clone() * self.config.alpha;
        Loss { total, terms: Vec::new() }
            .report("labelled", labelled)
            .report("unlabelled", unlabelled)
            .report("classification", classification)
    }

    /// The picture that (z, y), side by side, mean.
    fn picture(&self, networks: &Networks, latents: Tensor<2>) -> Result<Tensor<4>> {
        let v = networks.m2()?.decoder.forward(latents);
        let out = match &networks.m1 {
            Some(m1) => m1.decoder.forward(v.mean),
            None => v,
        };
        Ok(self.config.model.pixels.picture(out, self.pictures.shape))
    }

    /// The one-hot classes of a request, `[n, classes]`: the one asked for, else draws from p(y).
    fn requested(&self, m2: &M2, request: &Request) -> Tensor<2> {
        let classes = self.classes();
        let labels = if m2.prior.is_none() || request.condition.class.is_some() {
            request.classes(classes)
        } else {
            let p = to_values(self.log_prior(m2, &request.device).exp());
            let class = |u: f32| {
                // The first class at which the sum of those so far is above u.
                let above = |below: &mut f32, p: &f32| {
                    *below += p;
                    Some(*below)
                };
                p.iter().scan(0.0, above).take_while(|sum| *sum <= u).count().min(classes - 1) as u32
            };
            request.key.purpose("class").uniform(request.indices.clone(), 1).into_iter().map(class).collect()
        };
        one_hot(from_indices(&labels, &request.device), classes)
    }

    /// Numbers in the latents of a picture.
    fn width(&self) -> usize {
        self.latent() + self.classes()
    }

    /// What M1 adds to log w of codes v drawn from q(v|x): log p(x|v) − log q(v|x), where v = μ + σ ⊙ ε and so
    /// log q(v|x) = log N(ε; 0, I) − ½ Σ log σ².
    ///
    /// # Shapes
    /// `[n, c·h·w]`, `[n, latent]` three times → `[n]`
    fn outer(&self, m1: &M1, x: Tensor<2>, v: Tensor<2>, noise: Tensor<2>, log_var: Tensor<2>) -> Tensor<1> {
        let zero = Tensor::zeros([1, 1], &v.device());
        let n = v.dims()[0];
        let log_q = gaussian_log_likelihood(noise, zero.clone(), zero) - (log_var.sum_dim(1) * 0.5).reshape([n]);
        self.config.model.pixels.log_likelihood(x, m1.decoder.forward(v)) - log_q
    }

    /// log Σ_y w(v, y, z) with z drawn for each class, of sample by sample of some pictures.
    ///
    /// # Shapes
    /// `[ks·n, width]`, noise `[classes·ks·n, latent]` class by class → `[ks·n]`
    fn summed(&self, m2: &M2, v: Tensor<2>, noise: Tensor<2>) -> Tensor<1> {
        let (rows, classes) = (v.dims()[0], self.classes());
        let (v, y) = (v.clone().repeat_dim(0, classes), self.all(rows, &v.device()));
        let (mean, log_var) = m2.encoder.given(v.clone(), y.clone());
        let z = reparameterise(mean, log_var.clone(), noise.clone());
        let each = log_weights(self.log_joint(m2, v, z.clone(), y), z, noise, log_var);
        log_mean_exp(each.reshape([classes, rows])) + (classes as f64).ln()
    }

    /// Draws of z for each class of sample by sample of some pictures with these streams.
    ///
    /// # Shapes
    /// → `[classes·ks·n, latent]`, class by class
    fn noise(&self, v: &Tensor<2>, ks: Range<usize>, streams: &[u64], key: Key) -> Tensor<2> {
        let like = Tensor::zeros([streams.len(), self.latent()], &v.device());
        let of = |c: usize| sample_noise(key.purpose("class").at(c as u64), ks.clone(), streams, &like);
        Tensor::cat((0..self.classes()).map(of).collect(), 0)
    }

    /// A bound on log p(x), or importance weights: one draw of v ~ q(v|x) of each picture and sample `ks`, and what
    /// `of_v` then says of v.
    fn through_m1(
        &self,
        m1: &M1,
        x: &Tensor<2>,
        ks: Range<usize>,
        streams: &[u64],
        key: Key,
        of_v: impl Fn(Tensor<2>) -> Tensor<1>,
    ) -> Tensor<1> {
        let (mean, log_var) = m1.encoder.forward(x.clone());
        let noise = sample_noise(key.purpose("codes"), ks.clone(), streams, &mean);
        let repeated = |t: Tensor<2>| t.repeat_dim(0, ks.len());
        let log_var = repeated(log_var);
        let v = reparameterise(repeated(mean), log_var.clone(), noise.clone());
        self.outer(m1, repeated(x.clone()), v.clone(), noise, log_var) + of_v(v)
    }
}

impl Ssvae {
    /// The mean of q(z|x, y) and, behind it, the likeliest y one-hot.
    fn encoded(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        let v = self.seen(networks, images)?;
        let n = v.dims()[0];
        let y = one_hot(networks.classifier.forward(v.clone()).argmax(1).reshape([n]), self.classes());
        let (mean, _) = networks.m2()?.encoder.given(v, y.clone());
        Ok(joined(mean, Some(y)))
    }
}

impl Classify<Networks> for Ssvae {
    /// log q(y|x) but for a constant.
    fn classify(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        Ok(networks.classifier.forward(self.seen(networks, images)?))
    }
}

impl Generate<Networks> for Ssvae {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Class, Input::Noise]
    }

    /// The mean of p(x|y, z) at z ~ N(0, ψ²I) and the class asked for, or one drawn from p(y).
    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        check_class(request.condition.class, &self.pictures.classes)?;
        self.picture(networks, self.latents(networks, request)?)
    }
}

impl Encode<Networks> for Ssvae {
    /// The mean of q(z|x, y) and, behind it, the likeliest y one-hot.
    fn encode(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<2>> {
        request.sampler::<NoSettings>(Self::ID)?;
        self.encoded(networks, images)
    }
}

impl Reconstruct<Networks> for Ssvae {
    /// The mean of p(x|y, z) at what the picture is encoded to.
    fn reconstruct(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<4>> {
        self.picture(networks, self.encoded(networks, images)?)
    }
}

impl Decode<Networks> for Ssvae {
    fn latents(&self, networks: &Networks, request: &Request) -> Result<Tensor<2>> {
        let y = self.requested(networks.m2()?, request);
        Ok(joined(prior_latents(request, self.latent(), Self::ID)?, Some(y)))
    }

    fn decode(&self, networks: &Networks, latents: Tensor<2>) -> Result<Tensor<4>> {
        check_latents(&latents, self.width())?;
        self.picture(networks, latents)
    }

    /// z on the great circle, the class on the straight line.
    fn between(&self, a: Tensor<2>, b: Tensor<2>, t: f64) -> Tensor<2> {
        let (d, classes) = (self.latent(), self.classes());
        let z = slerp(a.clone().narrow(1, 0, d), b.clone().narrow(1, 0, d), t);
        joined(z, Some(a.narrow(1, d, classes) * (1.0 - t) + b.narrow(1, d, classes) * t))
    }
}

impl Likelihood<Networks> for Ssvae {
    /// Of pictures without their labels: −U with 0 samples, else by importance sampling with every class summed out.
    fn nll(&self, networks: &Networks, images: Tensor<4>, samples: usize, key: Key) -> Result<Tensor<1>> {
        check_pictures(&images, self.pictures.shape)?;
        let (n, size) = (images.dims()[0], self.pictures.shape.iter().product());
        let rows = (rows_at_once(size) / self.classes()).max(1);
        if n > rows {
            return in_parts(n, rows, |from, len| {
                self.nll(networks, images.clone().narrow(0, from, len), samples, key)
            });
        }
        let streams = fingerprints(&to_values(images.clone()), size);
        let x = self.config.model.pixels.observe(images, Some((key.purpose("binarise"), streams.clone())));
        let key = key.purpose("posterior");
        let m2 = networks.m2()?;
        let of_v = |v: Tensor<2>, ks: Range<usize>| {
            let noise = self.noise(&v, ks, &streams, key);
            match samples {
                0 => self.unlabelled_bound(m2, &networks.classifier, v, noise),
                _ => self.summed(m2, v, noise),
            }
        };
        let each = |ks: Range<usize>| match &networks.m1 {
            Some(m1) => self.through_m1(m1, &x, ks.clone(), &streams, key, |v| of_v(v, ks.clone())),
            None => of_v(x.clone().repeat_dim(0, ks.len()), ks),
        };
        if samples == 0 {
            return Ok(-each(0..1));
        }
        Ok(importance_nll(samples, rows / n, |ks| each(ks.clone()).reshape([ks.len(), n])))
    }
}

#[cfg(test)]
mod tests {
    use kiln_data::{HostBatch, Part};
    use kiln_nn::tensor::from_values;
    use kiln_train::optim::Optimizer;
    use kiln_train::params::{self, HostTensor, map_flat, take_gradients};

    use super::*;
    use crate::autoencoder::testing::{Fixtures, close, device, pictures, sharp};

    fn classes(n: usize) -> Vec<String> {
        (0..n).map(|c| c.to_string()).collect()
    }

    /// Networks of one layer each, as the fixture has them.
    fn linear(mode: Mode, class_prior: ClassPrior) -> Ssvae {
        let latent = if mode == Mode::Stacked { 3 } else { 2 };
        let config = Config {
            mode,
            model: LatentConfig { networks: NetworkConfig::mlp(latent, &[]), ..LatentConfig::default() },
            classifier: vec![],
            top_latent: 2,
            top_hidden: vec![],
            alpha: 0.1,
            class_prior,
            ..Config::default()
        };
        Ssvae::new(config, &Pictures::new([1, 2, 3], classes(3))).unwrap()
    }

    /// The fixture's name of a layer of ours.
    fn theirs(own: &str, ours: &str) -> String {
        let path = ours.replace(".head.", ".");
        match path.strip_prefix("m2.") {
            Some(rest) => format!("{own}.{rest}"),
            None if path.starts_with("classifier") => format!("{own}.{path}"),
            None => path,
        }
    }

    fn values(golden: &Fixtures, name: &str) -> Vec<f32> {
        golden.values(name).1.into_iter().map(|v| v as f32).collect()
    }

    fn golden_networks(ssvae: &Ssvae, golden: &Fixtures, own: &str) -> Networks {
        let fresh = || ssvae.networks(&mut Init::new(&device().autodiff(), 0));
        let take = |(path, _): (String, HostTensor)| {
            let tensor = if path == "m2.prior" {
                let logits = values(golden, "empirical").into_iter().map(f32::ln).collect();
                HostTensor { shape: vec![3], values: logits }
            } else {
                let name = theirs(own, &path);
                HostTensor { shape: golden.values(&name).0, values: values(golden, &name) }
            };
            (path, tensor)
        };
        params::load(fresh(), &params::state(&fresh()).into_iter().map(take).collect(), "fixture").unwrap()
    }

    #[test]
    fn bounds_objectives_and_gradients_are_pytorchs() {
        let golden = Fixtures::open("ssvae_aae");
        let on_tape = |name: &str| golden.tensor::<2>(name).autodiff();
        let noise = || golden.tensor::<3>("noise_many").reshape([12, 2]).autodiff();
        let labels: Vec<u32> = values(&golden, "labels").into_iter().map(|l| l as u32).collect();
        let labels = || from_indices(&labels, &device().autodiff());
        for (mode, prior, own, name) in [
            (Mode::M2, ClassPrior::Uniform, "m2", "m2.uniform"),
            (Mode::M2, ClassPrior::Empirical, "m2", "m2.empirical"),
            (Mode::Stacked, ClassPrior::Uniform, "stacked", "stacked.uniform"),
        ] {
            let ssvae = linear(mode, prior);
            let networks = golden_networks(&ssvae, &golden, own);
            let networks = params::set_trainable(networks, &ssvae.phases()[0].trains);
            let seen = |pictures: &str, noise: &str| match &networks.m1 {
                None => on_tape(pictures),
                Some(m1) => {
                    let (mean, log_var) = m1.encoder.forward(on_tape(pictures));
                    reparameterise(mean, log_var, on_tape(noise)).detach()
                }
            };
            let (few, many) = (seen("few", "code_noise_few"), seen("many", "code_noise_many"));
            let m2 = networks.m2().unwrap();
            let bounds = ssvae.every_class(m2, many.clone(), noise());
            golden.assert_close(bounds.inner(), &format!("{name}.bounds"), 1e-5);
            let labelled = ssvae.labelled_bound(m2, few.clone(), one_hot(labels(), 3), on_tape("noise_few"));
            golden.assert_close(labelled.clone().inner(), &format!("{name}.labelled"), 1e-5);
            let unlabelled = ssvae.unlabelled_bound(m2, &networks.classifier, many, noise());
            golden.assert_close(unlabelled.clone().inner(), &format!("{name}.unlabelled"), 1e-5);
            let classification = cross_entropy(networks.classifier.forward(few), labels());
            let loss = ssvae.objective(labelled, unlabelled, classification, [0.25, 0.75]);
            golden.assert_close(loss.total.clone().inner().reshape([0; 0]), &format!("{name}.total"), 1e-5);
            let gradients = take_gradients(&networks, &mut loss.total.backward());
            // The classes' prior, which PyTorch's is not, and eight of the layers; none of M1.
            assert_eq!(gradients.len(), 8 + usize::from(prior == ClassPrior::Empirical), "{:?}", gradients.keys());
            for (path, gradient) in gradients.into_iter().filter(|(path, _)| path != "m2.prior") {
                let wanted = values(&golden, &theirs(&format!("{name}.grad"), &path));
                close(&to_values(gradient), &wanted, 1e-5);
            }
        }
    }

    #[test]
    fn importance_weights_with_classes_summed_out_are_pytorchs() {
        let golden = Fixtures::open("ssvae_aae");
        // [draws, classes, n, latent], and class by class.
        let draws = || golden.tensor::<4>("m2.draws").swap_dims(0, 1).reshape([36, 2]);
        let mean = |weights: Tensor<1>| log_mean_exp(weights.reshape([3, 4]));
        let many = golden.tensor::<2>("many").repeat_dim(0, 3);

        let ssvae = linear(Mode::M2, ClassPrior::Uniform);
        let networks = golden_networks(&ssvae, &golden, "m2");
        let weights = ssvae.summed(networks.m2().unwrap(), many.clone().autodiff(), draws().autodiff());
        golden.assert_close(mean(weights.inner()), "m2.importance", 1e-5);

        let ssvae = linear(Mode::Stacked, ClassPrior::Uniform);
        let networks = golden_networks(&ssvae, &golden, "stacked");
        let (m1, m2) = (networks.m1().unwrap(), networks.m2().unwrap());
        let through = |noise: Tensor<2>, x: Tensor<2>| {
            let (mean, log_var) = m1.encoder.forward(x.clone());
            let v = reparameterise(mean, log_var.clone(), noise.clone());
            (ssvae.outer(m1, x, v.clone(), noise, log_var), v)
        };
        let (outer, v) = through(golden.tensor::<3>("stacked.code_draws").reshape([12, 3]).autodiff(), many.autodiff());
        let weights = outer + ssvae.summed(m2, v, draws().autodiff());
        golden.assert_close(mean(weights.inner()), "stacked.importance", 1e-5);
        let (outer, v) =
            through(golden.tensor::<2>("code_noise_many").autodiff(), golden.tensor::<2>("many").autodiff());
        let noise = golden.tensor::<3>("noise_many").reshape([12, 2]).autodiff();
        let bound = outer + ssvae.unlabelled_bound(m2, &networks.classifier, v, noise);
        golden.assert_close(bound.inner(), "stacked.bound", 1e-5);
    }

    /// The probabilities of all 64 pictures of six bits sum to 1, and the bound never says more.
    #[test]
    fn all_pictures_together_are_certain() {
        for mode in [Mode::M2, Mode::Stacked] {
            let ssvae = linear(mode, ClassPrior::Uniform);
            let golden =
                golden_networks(&ssvae, &Fixtures::open("ssvae_aae"), if mode == Mode::M2 { "m2" } else { "stacked" })
                    .valid();
            // Posteriors wider than the priors: the fixture's narrow ones give weights of a few samples all the say.
            let networks = map_flat(golden, |path, values| match path {
                path if path.ends_with("encoder.head.log_var.weight") => values.zeros_like(),
                "m1.encoder.head.log_var.bias" => values.zeros_like() + 2.0,
                "m2.encoder.head.log_var.bias" => values.zeros_like() + 0.5,
                _ => values,
            });
            let bits = (0..64).flat_map(|i| (0..6).map(move |b| if i >> b & 1 == 1 { 1.0 } else { -1.0 })).collect();
            let images: Tensor<4> = from_values(bits, [64, 1, 2, 3], &device());
            let nll = |samples| {
                let nll = ssvae.nll(&networks, images.clone(), samples, Key::new(0)).unwrap();
                to_values(nll).into_iter().map(|v| (f64::from(-v)).exp()).sum::<f64>()
            };
            let (sum, bound) = (nll(20_000), nll(0));
            assert!((sum - 1.0).abs() < 0.03, "{mode:?}: {sum}");
            assert!(bound < 0.98 * sum, "{mode:?}: {bound}, {sum}");
        }
    }

    fn small(mode: Mode) -> Ssvae {
        let config = Config {
            mode,
            model: LatentConfig { networks: NetworkConfig::mlp(3, &[16]), ..LatentConfig::default() },
            classifier: vec![16],
            top_latent: 2,
            top_hidden: vec![16],
            class_prior: ClassPrior::Empirical,
            ..Config::default()
        };
        Ssvae::new(config, &Pictures::new([1, 8, 8], classes(4))).unwrap()
    }

    const MODES: [Mode; 4] = [Mode::Supervised, Mode::M1, Mode::M2, Mode::Stacked];

    fn batch() -> Batch {
        let part = |labels: Option<Vec<u32>>| Part {
            shape: [8, 1, 8, 8],
            values: sharp([8, 1, 8, 8]),
            labels,
            captions: vec![None; 8],
            indices: (0..8).collect(),
            ..Part::default()
        };
        let parts = vec![part(Some((0..8).map(|i| i % 4).collect())), part(None)];
        Batch::new(HostBatch { start: 0, parts }, 1_000, Key::new(0), &device().autodiff()).of_sets(&[8, 24])
    }

    #[test]
    fn every_mode_fits_a_batch_and_leaves_m1_as_it_is() {
        for mode in MODES {
            let mut ssvae = small(mode);
            let mut networks = ssvae.networks(&mut Init::new(&device().autodiff(), 0));
            let phase = ssvae.phases().remove(0);
            networks = params::set_trainable(networks, &phase.trains);
            let mut optimizer = Optimizer::new(OptimizerConfig::adam(1e-2));
            let mut losses = Vec::new();
            for _ in 0..150 {
                let loss = ssvae.loss(&networks, &batch()).unwrap();
                losses.push(loss.total.clone().into_scalar::<f32>());
                let gradients = take_gradients(&networks, &mut loss.total.backward());
                assert!(gradients.keys().all(|path| !path.starts_with("m1")));
                networks = optimizer.step(networks, gradients, 1.0, 1.0);
            }
            let (first, last) = (losses[0], losses[149]);
            let enough = if matches!(mode, Mode::M2 | Mode::Stacked) { first - 1.0 } else { 0.5 * first };
            assert!(last < enough, "{mode:?}: {first} to {last}");
        }
    }

    #[test]
    fn abilities_agree_with_each_other() {
        for mode in MODES {
            let ssvae = small(mode);
            let networks = ssvae.networks(&mut Init::new(&device(), 0));
            let images = || from_values::<4>(pictures([2, 1, 8, 8]), [2, 1, 8, 8], &device());
            assert_eq!(ssvae.classify(&networks, images()).unwrap().dims(), [2, 4]);
            let generates = matches!(mode, Mode::M2 | Mode::Stacked);
            assert_eq!(ssvae.abilities().generate.is_some(), generates);
            if !generates {
                continue;
            }
            let request = Request::new(3..7, 0, &device());
            let (made, latents) =
                (ssvae.generate(&networks, &request).unwrap(), ssvae.latents(&networks, &request).unwrap());
            assert_eq!((made.dims(), latents.dims()), ([4, 1, 8, 8], [4, ssvae.width()]));
            assert_eq!(to_values(made), to_values(ssvae.decode(&networks, latents.clone()).unwrap()));
            let [a, b] = [0, 1].map(|i| latents.clone().narrow(0, i, 1));
            close(&to_values(ssvae.between(a, b.clone(), 1.0)), &to_values(b), 1e-5);
            let encoded = ssvae.encode(&networks, images(), &Request::new(0..1, 0, &device())).unwrap();
            let again = ssvae.decode(&networks, encoded).unwrap();
            assert_eq!(to_values(again), to_values(ssvae.reconstruct(&networks, images()).unwrap()));
            let told = |class| ssvae.generate(&networks, &request.clone().of_class(Some(class)));
            assert_ne!(to_values(told(0).unwrap()), to_values(told(3).unwrap()));
            assert!(told(4).err().unwrap().is_usage());
            // What is said of a picture does not depend on what stands beside it.
            for samples in [0, 30] {
                let nll = |images| to_values(ssvae.nll(&networks, images, samples, Key::new(0)).unwrap());
                close(&nll(images().narrow(0, 1, 1)), &nll(images())[1..], 1e-5);
            }
            assert!(ssvae.nll(&networks, Tensor::zeros([1, 3, 8, 8], &device()), 2, Key::new(0)).is_err());
        }
    }

    #[test]
    fn bad_settings_are_usage_errors() {
        let refused = |change: fn(&mut Config), classes: Vec<String>| {
            let mut config = Config::default();
            change(&mut config);
            Ssvae::new(config, &Pictures::new([1, 28, 28], classes)).err().unwrap().to_string()
        };
        assert!(refused(|_| (), vec![]).contains("two classes"));
        assert!(refused(|c| c.alpha = -1.0, classes(2)).contains("model.alpha"));
        assert!(refused(|c| c.top_hidden = vec![0], classes(2)).contains("model.top_hidden"));
        assert!(refused(|c| c.model.networks.latent = 0, classes(2)).contains("model.latent"));
        let config = |m1: &str| Config { mode: Mode::Stacked, m1: m1.into(), ..Config::default() };
        assert!(Ssvae::settle(config("")).err().unwrap().to_string().contains("model.m1"));
        assert!(Ssvae::settle(config("/no/such/run")).err().unwrap().is_usage());
    }
}
