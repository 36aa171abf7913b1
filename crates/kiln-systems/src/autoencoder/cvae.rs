//! Sohn, Lee & Yan, *Learning Structured Output Representation using Deep Conditional Generative Models*, 2015.
//!
//! Objective (equation 4): with a condition c and a prior that depends on it,
//!
//! log p(x|c) ≥ L_cvae = E_q(z|x,c) log p_θ(x|c, z) − KL(q_φ(z|x, c) ‖ p_θ(z|c)).
//!
//! This trains with z from q but predicts with z from p(z|c). The Gaussian stochastic neural network (GSNN) uses p(z|c)
//! in training too, and a hybrid weights both (equations 7–8):
//!
//! L = α L_cvae + (1 − α) L_gsnn,  L_gsnn = E_p(z|c) log p_θ(x|c, z).
//!
//! (The paper calls the condition x and the output y.) c is a class, or one to three visible quadrants of an image, of
//! which the others are the output (§5.1). Without z, the same networks are the paper's deterministic baseline.
//!
//! | paper | here |
//! |---|---|
//! | c | `condition`: `class`, or `quadrants` of which `observed` are visible |
//! | prior p_θ(z\|c) | `prior`, learned |
//! | recognition q_φ(z\|x, c) | `encoder` |
//! | generation p_θ(x\|c, z) | `decoder`, of z and the features of c |
//! | α | `alpha` |
//! | conditional log-likelihood (equations 5–6) | `kiln evaluate --metrics nll --samples K`, by importance samples |
//! | baseline NN | `deterministic` |
//!
//! `kiln train recipes/cvae/mnist-quadrant.toml`, then `kiln inpaint RUN IN OUT`.

use burn::module::Module;
use burn::tensor::{Bool, Device, Tensor, TensorData};
use kiln_core::random::Key;
use kiln_core::{Error, Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::loss::{gaussian_kl_between, gaussian_log_likelihood};
use kiln_nn::tensor::{from_indices, from_values, to_values};
use kiln_train::request::{check_class, check_pictures};
use kiln_train::{
    Abilities, Batch, DataConfig, Encode, FitData, Generate, Inpaint, Input, Likelihood, Loss, OptimizerConfig, Phase,
    Pictures, Reconstruct, Request, Schedule, SizeRule, System, TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::bound::{importance_nll, in_parts, log_mean_exp, reparameterise, rows_at_once, sample_noise};
use super::latent::{LatentConfig, prior_latents};
use super::networks::{Decoder, Encoder, GaussianHead, Trunk, joined, one_hot};
use super::pixels::fingerprints;
use super::vae::training;
use crate::one_pass::NoSettings;

/// What is known of a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Conditioning {
    /// Its class.
    #[default]
    Class,
    /// Some of its quadrants.
    Quadrants,
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The networks and p(x|c, z).
    #[serde(flatten)]
    pub model: LatentConfig,
    /// `class` or `quadrants`.
    pub condition: Conditioning,
    /// Number of visible quadrants: 1 is the lower left, 2 the left half, 3 all but the lower right.
    pub observed: usize,
    /// α, the weight of the variational bound: 1 is the bound alone; below 1, L_gsnn has weight 1 − α.
    pub alpha: f64,
    /// Leave z out: the deterministic baseline (`quadrants`).
    pub deterministic: bool,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: LatentConfig::default(),
            condition: Conditioning::Class,
            observed: 1,
            alpha: 1.0,
            deterministic: false,
            optimizer: OptimizerConfig::adam(1e-3).schedule(Schedule::Cosine),
        }
    }
}

/// The networks.
#[derive(Module, Debug)]
pub struct Networks {
    /// Features of the quadrants that are seen.
    pub seen: Option<Trunk>,
    /// p_θ(z|c).
    pub prior: GaussianHead,
    /// q_φ(z|x, c).
    pub encoder: Encoder,
    /// p_θ(x|c, z).
    pub decoder: Decoder,
}

/// The system.
pub struct Cvae {
    config: Config,
    shape: [usize; 3],
    classes: Vec<String>,
    /// Places in a flat picture that are to be generated.
    hidden: Vec<i32>,
}

/// Whether the pixel in row `y` and column `x` is seen.
fn is_seen(observed: usize, [_, height, width]: [usize; 3], y: usize, x: usize) -> bool {
    let (lower, left) = (y >= height / 2, x < width / 2);
    match observed {
        1 => lower && left,
        2 => left,
        _ => left || !lower,
    }
}

impl System for Cvae {
    const ID: &'static str = "cvae";
    const PAPER: &'static str =
        "Sohn, Lee & Yan: Learning Structured Output Representation using Deep Conditional Generative Models, 2015";
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
        refuse_if!(
            !(1..=3).contains(&config.observed),
            "model.observed must be 1, 2 or 3 quadrants, and is {}",
            config.observed
        );
        refuse_if!(!(0.0..=1.0).contains(&config.alpha), "model.alpha must be from 0 to 1, and is {}", config.alpha);
        let (shape, quadrants) = (pictures.shape, config.condition == Conditioning::Quadrants);
        refuse_if!(
            !quadrants && pictures.classes.is_empty(),
            "model.condition = \"class\" wants labels, and the data has none; use a folder with one sub-folder a class, or model.condition = \"quadrants\""
        );
        refuse_if!(
            !quadrants && config.deterministic,
            "model.deterministic needs model.condition = \"quadrants\": one picture a class is no completion"
        );
        let [channels, height, width] = shape;
        refuse_if!(
            quadrants && (height < 2 || width < 2),
            "model.condition = \"quadrants\": {height}x{width} pictures have none"
        );
        let places = (0..channels * height * width).filter(|place| {
            let (y, x) = (place / width % height, place % width);
            !quadrants || !is_seen(config.observed, shape, y, x)
        });
        let hidden = places.map(|p| p as i32).collect();
        Ok(Self { config, shape, classes: pictures.classes.clone(), hidden })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let LatentConfig { networks, pixels } = &self.config.model;
        let seen = self.sees_pictures().then(|| networks.trunk(self.shape, 0, init));
        let features = seen.as_ref().map_or(self.classes.len(), Trunk::features);
        Networks {
            prior: GaussianHead::new(features, networks.latent, init),
            encoder: networks.encoder(self.shape, features, init),
            decoder: networks.decoder(self.shape, features, pixels.scale(), init),
            seen,
        }
    }

    fn initialise(&self, fresh: Networks, data: &FitData<'_>) -> Result<Networks> {
        Ok(Networks { decoder: self.config.model.pixels.centred(fresh.decoder, data)?, ..fresh })
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let all = ["prior", "encoder", "decoder", "seen"];
        let parts: &[&'static str] = match (self.sees_pictures(), self.config.deterministic) {
            (_, true) => &["decoder", "seen"],
            (true, false) => &all,
            (false, false) => &all[..3],
        };
        vec![Phase::new("cvae", parts, self.config.optimizer.clone(), |s, n, b| s.loss(n, b).map(Some))]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        let common = Abilities { likelihood: Some(self), inpaint: Some(self), ..Abilities::default() };
        match self.config.condition {
            Conditioning::Class => {
                Abilities { generate: Some(self), reconstruct: Some(self), encode: Some(self), ..common }
            }
            Conditioning::Quadrants => common,
        }
    }
}

impl Cvae {
    /// −α L_cvae − (1 − α) L_gsnn, or the deterministic network's −log p(x|c), the mean over the batch.
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let c = &self.config;
        let x = c.model.pixels.of_batch(batch);
        let features = match &networks.seen {
            Some(seen) => seen.forward(self.visible(x.clone()), None),
            None => one_hot(batch.labels()?, self.classes.len()),
        };
        let of = |z: Tensor<2>| -self.log_likelihood(&networks.decoder, x.clone(), z, features.clone()).mean();
        let shape = [x.dims()[0], c.model.networks.latent];
        if c.deterministic {
            return Ok(Loss::new("conditional_nll", of(Tensor::zeros(shape, batch.device()))));
        }
        let (prior_mean, prior_log_var) = networks.prior.forward(features.clone());
        let (mean, log_var) = networks.encoder.given(x.clone(), features.clone());
        let z = reparameterise(mean.clone(), log_var.clone(), batch.normal("posterior", shape));
        let reconstruction = of(z);
        let kl = gaussian_kl_between(mean, log_var, prior_mean.clone(), prior_log_var.clone()).mean();
        let bound = reconstruction.clone() + kl.clone();
        let mut loss = Loss { total: bound.clone() * c.alpha, terms: Vec::new() }
            .report("reconstruction", reconstruction)
            .report("kl", kl)
            .report("negative_elbo", bound);
        if c.alpha < 1.0 {
            let z = reparameterise(prior_mean, prior_log_var, batch.normal("prior", shape));
            loss = loss.plus("gsnn", 1.0 - c.alpha, of(z));
        }
        Ok(loss)
    }

    fn sees_pictures(&self) -> bool {
        self.config.condition == Conditioning::Quadrants
    }

    /// What a decoder's pixels are flat in, with −1 where nothing is seen.
    ///
    /// # Shapes
    /// `[n, c·h·w]` → the same
    fn visible(&self, x: Tensor<2>) -> Tensor<2> {
        let [n, size] = x.dims();
        let mut covered = vec![false; size];
        self.hidden.iter().for_each(|&place| covered[place as usize] = true);
        let covered = Tensor::<2, Bool>::from_data(TensorData::new(covered, [1, size]), &x.device());
        x.mask_fill(covered.expand([n, size]), -1.0)
    }

    /// What is known of c, of pictures as the decoder's distribution has them.
    ///
    /// # Shapes
    /// `[n, c·h·w]` → `[n, features]`
    fn features(&self, networks: &Networks, x: Tensor<2>, class: u32) -> Tensor<2> {
        match &networks.seen {
            Some(seen) => seen.forward(self.visible(x), None),
            None => self.of_classes(&vec![class; x.dims()[0]], &x.device()),
        }
    }

    fn of_classes(&self, classes: &[u32], device: &Device) -> Tensor<2> {
        one_hot(from_indices(classes, device), self.classes.len())
    }

    /// log p(x|c, z) of the pixels that are not seen.
    ///
    /// # Shapes
    /// `[n, c·h·w]`, `[n, latent]`, `[n, features]` → `[n]`
    fn log_likelihood(&self, decoder: &Decoder, x: Tensor<2>, z: Tensor<2>, features: Tensor<2>) -> Tensor<1> {
        let mut out = decoder.forward(joined(z, Some(features)));
        let mut x = x;
        if self.sees_pictures() {
            let hidden = Tensor::from_data(self.hidden.as_slice(), &x.device());
            let size = x.dims()[1];
            let part = |t: Tensor<2>| if t.dims()[1] == size { t.select(1, hidden.clone()) } else { t };
            (x, out.mean, out.scale) = (part(x), part(out.mean), out.scale.map(part));
        }
        self.config.model.pixels.log_likelihood(x, out)
    }

    /// Pictures of z and features.
    fn picture(&self, networks: &Networks, z: Tensor<2>, features: Tensor<2>) -> Tensor<4> {
        self.config.model.pixels.picture(networks.decoder.forward(joined(z, Some(features))), self.shape)
    }

    /// −log p(x|c) of pictures of a class, or of what is hidden of them: `samples` as for [`Likelihood::nll`].
    fn conditional_nll(
        &self,
        networks: &Networks,
        x: &Tensor<2>,
        class: u32,
        samples: usize,
        (key, streams): (Key, &[u64]),
    ) -> Tensor<1> {
        let n = x.dims()[0];
        let features = self.features(networks, x.clone(), class);
        if self.config.deterministic {
            let z = Tensor::zeros([n, self.config.model.networks.latent], &x.device());
            return -self.log_likelihood(&networks.decoder, x.clone(), z, features);
        }
        let (prior_mean, prior_log_var) = networks.prior.forward(features.clone());
        let (mean, log_var) = networks.encoder.given(x.clone(), features.clone());
        if samples == 0 {
            let z = reparameterise(mean.clone(), log_var.clone(), sample_noise(key, 0..1, streams, &mean));
            let kl = gaussian_kl_between(mean, log_var, prior_mean, prior_log_var);
            return kl - self.log_likelihood(&networks.decoder, x.clone(), z, features);
        }
        importance_nll(samples, rows_at_once(x.dims()[1]) / n, |ks| {
            let k = ks.len();
            let repeated = |t: &Tensor<2>| t.clone().repeat_dim(0, k);
            let noise = sample_noise(key, ks, streams, &mean);
            let z = reparameterise(repeated(&mean), repeated(&log_var), noise);
            let log_likelihood = self.log_likelihood(&networks.decoder, repeated(x), z.clone(), repeated(&features));
            let prior = gaussian_log_likelihood(z.clone(), repeated(&prior_mean), repeated(&prior_log_var));
            let posterior = gaussian_log_likelihood(z, repeated(&mean), repeated(&log_var));
            (log_likelihood + prior - posterior).reshape([k, n])
        })
    }

    /// The class under which each picture is most probable, by the bound at one draw.
    fn likeliest(&self, networks: &Networks, images: &Tensor<4>) -> Vec<u32> {
        let x = self.config.model.pixels.observe(images.clone(), None);
        let streams = fingerprints(&to_values(images.clone()), self.shape.iter().product());
        let key = Key::new(0).purpose("likeliest");
        let each: Vec<Vec<f32>> = (0..self.classes.len() as u32)
            .map(|class| to_values(self.conditional_nll(networks, &x, class, 0, (key, &streams))))
            .collect();
        let best = |i: usize| (0..each.len()).min_by(|&a, &b| each[a][i].total_cmp(&each[b][i])).unwrap_or(0);
        (0..streams.len()).map(|i| best(i) as u32).collect()
    }

    /// μ of q(z|x, c) at the likeliest class, and what is known of that class.
    fn posterior(&self, networks: &Networks, images: Tensor<4>) -> Result<(Tensor<2>, Tensor<2>)> {
        check_pictures(&images, self.shape)?;
        let features = self.of_classes(&self.likeliest(networks, &images), &images.device());
        let x = self.config.model.pixels.observe(images, None);
        Ok((networks.encoder.given(x, features.clone()).0, features))
    }

    /// z = m + s ⊙ ε of p(z|c), the deviation scaled by ψ.
    fn draw(&self, networks: &Networks, features: Tensor<2>, request: &Request) -> Result<Tensor<2>> {
        let (mean, log_var) = networks.prior.forward(features);
        Ok(reparameterise(mean, log_var, prior_latents(request, self.config.model.networks.latent, Self::ID)?))
    }
}

impl Generate<Networks> for Cvae {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Class, Input::Noise]
    }

    fn shows_classes(&self) -> bool {
        true
    }

    /// The mean of p(x|c, z) at z ~ p(z|c), deviations scaled by ψ; without a class, of one drawn for each sample.
    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        check_class(request.condition.class, &self.classes)?;
        let features = self.of_classes(&request.classes(self.classes.len()), &request.device);
        let z = self.draw(networks, features.clone(), request)?;
        Ok(self.picture(networks, z, features))
    }
}

impl Reconstruct<Networks> for Cvae {
    /// The mean of p(x|c, z) at the mean of q(z|x, c), c being the likeliest class.
    fn reconstruct(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<4>> {
        let (z, features) = self.posterior(networks, images)?;
        Ok(self.picture(networks, z, features))
    }
}

impl Encode<Networks> for Cvae {
    /// The mean of q(z|x, c), c being the likeliest class.
    fn encode(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<2>> {
        request.sampler::<NoSettings>(Self::ID)?;
        Ok(self.posterior(networks, images)?.0)
    }
}

impl Inpaint<Networks> for Cvae {
    fn takes(&self) -> Vec<Input> {
        if self.config.deterministic { Vec::new() } else { vec![Input::Noise] }
    }

    fn default_mask(&self) -> Vec<bool> {
        let [_, height, width] = self.shape;
        let hidden = |place: usize| !is_seen(self.config.observed, self.shape, place / width, place % width);
        (0..height * width).map(hidden).collect()
    }

    /// The mean of p(x|c, z) at z ~ p(z|c), where nothing is seen; ψ = 0 is the likeliest z.
    fn inpaint(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<4>> {
        if !self.sees_pictures() {
            return Err(Error::usage(
                "inpaint: this run sees a class and no part of a picture; train one with model.condition = \"quadrants\"",
            ));
        }
        check_pictures(&images, self.shape)?;
        let x = self.config.model.pixels.observe(images.clone(), None);
        let features = self.features(networks, x, 0);
        let z = match self.config.deterministic {
            true => {
                request.sampler::<NoSettings>(Self::ID)?;
                Tensor::zeros([request.len(), self.config.model.networks.latent], &request.device)
            }
            false => self.draw(networks, features.clone(), request)?,
        };
        let made = self.picture(networks, z, features);
        let [n, c, h, w] = images.dims();
        let hidden = self.default_mask().into_iter().map(|hidden| if hidden { 1.0 } else { 0.0 }).collect();
        let hidden = from_values::<4>(hidden, [1, 1, h, w], &request.device).expand([n, c, h, w]);
        Ok(made * hidden.clone() + images * (hidden * -1.0 + 1.0))
    }
}

impl Likelihood<Networks> for Cvae {
    fn observed(&self, images: Tensor<4>) -> Tensor<4> {
        self.config.model.pixels.observed(images)
    }

    /// Of a picture whose class is not known: −log (1/C) Σ_c p(x|c), or with quadrants that of what is hidden given what is
    /// seen. `samples` = 0: by the negative bound of each. Draws belong to the picture.
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
        let x = self.config.model.pixels.observe(images, Some((key.purpose("binarise"), streams.clone())));
        let drawn = (key.purpose("posterior"), streams.as_slice());
        let of = |class: u32| self.conditional_nll(networks, &x, class, samples, drawn);
        if self.sees_pictures() {
            return Ok(of(0));
        }
        let each = (0..self.classes.len() as u32).map(|class| -of(class).reshape([1, n as i32]));
        Ok(-log_mean_exp(Tensor::cat(each.collect(), 0)))
    }

    fn nll_name(&self, samples: usize) -> String {
        match (self.config.condition, self.config.deterministic, samples) {
            (Conditioning::Quadrants, true, _) => "conditional_nll".into(),
            (Conditioning::Quadrants, false, 0) => "conditional_nll_bound".into(),
            (Conditioning::Quadrants, false, k) => format!("conditional_nll_{k}"),
            (Conditioning::Class, _, 0) => "nll_bound".into(),
            (Conditioning::Class, _, k) => format!("nll_{k}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autoencoder::networks::{Network, NetworkConfig};
    use crate::autoencoder::testing::{close, device, overfit, pictures, system};

    fn config(condition: Conditioning, network: Network) -> Config {
        let networks = NetworkConfig { latent: 3, hidden: vec![16], network, channels: 8, ..NetworkConfig::default() };
        Config { model: LatentConfig { networks, ..LatentConfig::default() }, condition, ..Config::default() }
    }

    #[test]
    fn overfits_a_batch_under_every_condition_and_without_a_latent() {
        for (condition, network) in [(Conditioning::Class, Network::Mlp), (Conditioning::Quadrants, Network::Conv)] {
            let config = Config { alpha: 0.7, ..config(condition, network) };
            let (first, last) = overfit::<Cvae>(config, "negative_elbo", 1e-2, 150);
            assert!(last < first - 5.0, "{condition:?}: {first} to {last}");
        }
        let config = Config { deterministic: true, ..config(Conditioning::Quadrants, Network::Mlp) };
        let (first, last) = overfit::<Cvae>(config, "conditional_nll", 1e-2, 150);
        assert!(last < first - 5.0, "{first} to {last}");
    }

    #[test]
    fn quadrants_are_those_of_the_paper() {
        for (observed, seen) in [(1, "0010"), (2, "1010"), (3, "1110")] {
            let cvae: Cvae = system(Config { observed, ..config(Conditioning::Quadrants, Network::Mlp) }, [1, 2, 2]);
            assert_eq!(cvae.default_mask().iter().map(|&m| if m { '0' } else { '1' }).collect::<String>(), seen);
            assert_eq!(cvae.hidden.len(), 4 - observed);
        }
    }

    #[test]
    fn what_is_seen_stays_and_what_is_hidden_is_not_looked_at() {
        let cvae: Cvae = system(config(Conditioning::Quadrants, Network::Mlp), [1, 8, 8]);
        let networks = cvae.networks(&mut Init::new(&device(), 0));
        let images: Tensor<4> = from_values(pictures([4, 1, 8, 8]), [4, 1, 8, 8], &device());
        let request = Request::new(0..4, 0, &device());
        let made = cvae.inpaint(&networks, images.clone(), &request).unwrap();
        let lower_left = |t: &Tensor<4>| to_values(t.clone().slice([0..4, 0..1, 4..8, 0..4]));
        close(&lower_left(&made), &lower_left(&images), 1e-6);
        // The same lower left in another picture is completed alike.
        let other = images.clone().slice_assign([0..4, 0..1, 0..4, 0..8], Tensor::ones([4, 1, 4, 8], &device()));
        close(&to_values(cvae.inpaint(&networks, other, &request).unwrap()), &to_values(made.clone()), 1e-6);
        // Another draw is another completion, and the third is the third whatever comes with it.
        let one = Request::new(2..3, 0, &device());
        let third = cvae.inpaint(&networks, images.clone().narrow(0, 2, 1), &one).unwrap();
        close(&to_values(third), &to_values(made.clone().narrow(0, 2, 1)), 1e-6);
        let again = cvae.inpaint(&networks, images, &Request::new(4..8, 0, &device())).unwrap();
        assert_ne!(to_values(again), to_values(made));
    }

    #[test]
    fn a_pictures_likelihood_is_an_average_over_classes_and_samples_tighten_it() {
        let cvae: Cvae = system(config(Conditioning::Class, Network::Mlp), [1, 8, 8]);
        let networks = cvae.networks(&mut Init::new(&device(), 0));
        let images: Tensor<4> = from_values(pictures([4, 1, 8, 8]), [4, 1, 8, 8], &device());
        let mean = |samples| to_values(cvae.nll(&networks, images.clone(), samples, Key::new(0)).unwrap());
        let total = |values: &[f32]| values.iter().sum::<f32>();
        assert!(total(&mean(200)) <= total(&mean(0)) + 0.5);
        let one = to_values(cvae.nll(&networks, images.clone().narrow(0, 1, 1), 50, Key::new(0)).unwrap());
        close(&one, &mean(50)[1..2], 1e-5);
        // With one class at hand the average is that class itself.
        let pictures = Pictures::new([1, 8, 8], vec!["all".into()]);
        let single = Cvae::new(config(Conditioning::Class, Network::Mlp), &pictures).unwrap();
        let networks = single.networks(&mut Init::new(&device(), 0));
        let x = single.config.model.pixels.observe(images.clone(), None);
        let streams = fingerprints(&to_values(images.clone()), 64);
        let (key, drawn) = (Key::new(0), Key::new(0).purpose("posterior"));
        let wanted = single.conditional_nll(&networks, &x, 0, 20, (drawn, &streams));
        close(&to_values(single.nll(&networks, images, 20, key).unwrap()), &to_values(wanted), 1e-5);
    }

    #[test]
    fn bad_settings_are_usage_errors() {
        let none = Pictures::new([1, 8, 8], Vec::new());
        let some = Pictures::new([1, 8, 8], vec!["a".into(), "b".into()]);
        let (class, quadrants) =
            (config(Conditioning::Class, Network::Mlp), config(Conditioning::Quadrants, Network::Mlp));
        for (config, pictures, name) in [
            (class.clone(), &none, "model.condition"),
            (Config { deterministic: true, ..class.clone() }, &some, "model.deterministic"),
            (Config { observed: 4, ..quadrants.clone() }, &none, "model.observed"),
            (Config { alpha: 1.5, ..quadrants }, &none, "model.alpha"),
        ] {
            let error = Cvae::new(config, pictures).err().unwrap();
            assert!(error.is_usage() && error.to_string().contains(name), "{error}");
        }
    }
}
