//! Kulkarni, Whitney, Kohli & Tenenbaum, *Deep Convolutional Inverse Graphics Network*, 2015.
//!
//! A variational autoencoder whose first latents each learn one factor of the scene: z₁ the azimuth, z₂ the elevation,
//! z₃ the light. The other latents learn the identity of the object. In each batch, one of these varies (§3.1):
//!
//! 1. a kind of batch is drawn, azimuth : elevation : light : intrinsic as 1 : 1 : 1 : 10;
//! 2. outputs of the encoder that do not belong to the kind are *clamped*: replaced by their mean over the batch, so that
//!    the decoder must explain all differences by the latent of that kind;
//! 3. in the backward pass, the gradient of a clamped output is replaced by its difference from that mean (§3.2, *invariance
//!    targeting*), times 1/100: this makes latents agree for images that share their factor.
//!
//! The ELBO of the clamped posterior trains the rest:
//!
//! L = E log p(x|z̃) − KL(q̃ ‖ p), q̃ = N(μ̃, σ̃²), with ∂L/∂y ≔ −(y − ȳ)/100 for each clamped number y of the encoder's output.
//!
//! | paper | here |
//! |---|---|
//! | the kinds of batches and their ratio | `factors`, `factor_weight`, `intrinsic_weight`: [`System::grouping`] |
//! | clamping | [`clamp`], of μ and of log σ², as in the authors' code |
//! | invariance targeting | [`invariance`] times `invariance_strength` |
//!
//! [`clamp`] passes no gradient to the outputs it replaces, and the gradient of [`invariance`] is the difference from the
//! mean. Their sum therefore replaces the one gradient by the other.
//!
//! The networks are this family's, not the paper's: convolutions of stride 2 instead of pooling, transposed ones instead
//! of unpooling. Sets with known factors: `shapes3d`, `shapes3d:chairs`, `dsprites`.
//!
//! `kiln train recipes/dcign/chairs.toml`, then `kiln evaluate RUN --metrics factor_eta2` and `kiln edit RUN --traverse --out latents.png`.

use burn::tensor::Tensor;
use kiln_core::{Error, Result};
use kiln_data::{Clamp, DataKind, Grouping};
use kiln_nn::Init;
use kiln_nn::loss::gaussian_kl;
use kiln_nn::tensor::from_values;
use kiln_train::{
    Abilities, Batch, DataConfig, FitData, Loss, OptimizerConfig, Phase, Pictures, Schedule, SizeRule, System,
    TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::betavae::check_weight;
use super::latent::{LatentConfig, LatentModel, Networks};
use super::networks::NetworkConfig;
use super::vae::training;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The networks and p(x|z).
    #[serde(flatten)]
    pub model: LatentConfig,
    /// Factors of the set that get one latent each, in order.
    pub factors: Vec<String>,
    /// Relative frequency of batches in which one of these factors varies, for each factor.
    pub factor_weight: u64,
    /// Relative frequency of batches in which these factors are fixed and all others vary.
    pub intrinsic_weight: u64,
    /// Factor on the difference from the mean that replaces the gradient of a clamped latent.
    pub invariance_strength: f64,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: LatentConfig {
                networks: NetworkConfig { latent: 64, levels: 4, channels: 16, ..NetworkConfig::default() },
                ..LatentConfig::default()
            },
            factors: ["azimuth", "elevation", "light"].map(String::from).to_vec(),
            factor_weight: 1,
            intrinsic_weight: 10,
            invariance_strength: 0.01,
            optimizer: OptimizerConfig::adam(5e-4).schedule(Schedule::Cosine),
        }
    }
}

/// 1 for the latents that a kind of batch is about, 0 for those that it clamps, `[1, latent]`: the kinds are the factors
/// in order, and then all that is no factor's.
fn active(kind: usize, factors: usize, latent: usize, like: &Tensor<2>) -> Tensor<2> {
    let is = |unit: usize| if kind < factors { unit == kind } else { unit >= factors };
    from_values((0..latent).map(|unit| f32::from(u8::from(is(unit)))).collect(), [1, latent], &like.device())
}

/// What is active as it is; the mean over the batch in the place of the rest, which gets no gradient.
///
/// # Shapes
/// `[n, d]`, `[1, d]` → `[n, d]`
pub fn clamp(y: Tensor<2>, active: Tensor<2>) -> Tensor<2> {
    let mean = y.clone().detach().mean_dim(0);
    y * active.clone() + mean * (active * -1.0 + 1.0)
}

/// ½ Σ (y − ȳ)² over what is not active, the mean over the batch: its gradient, times n, is the difference from the mean.
///
/// # Shapes
/// `[n, d]`, `[1, d]` → `[1]`
pub fn invariance(y: Tensor<2>, active: Tensor<2>) -> Tensor<1> {
    let mean = y.clone().detach().mean_dim(0);
    ((y - mean) * (active * -1.0 + 1.0)).square().sum_dim(1).mean() * 0.5
}

/// The system.
pub struct Dcign {
    model: LatentModel,
    config: Config,
}

impl System for Dcign {
    const ID: &'static str = "dcign";
    const PAPER: &'static str =
        "Kulkarni, Whitney, Kohli & Tenenbaum: Deep Convolutional Inverse Graphics Network, 2015";
    const DATA: DataKind = DataKind::Factors;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        let data = DataConfig { set: "shapes3d:chairs".into(), channels: 1, ..DataConfig::default() };
        (data, TrainConfig { batch: 20, images: 400_000, ..training() })
    }

    fn sizes(config: &Config) -> SizeRule {
        config.model.networks.sizes()
    }

    fn resolve(config: Config, pictures: &Pictures) -> Config {
        Config { model: config.model.resolved(pictures.shape), ..config }
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let config = Self::resolve(config, pictures);
        check_weight("invariance_strength", config.invariance_strength)?;
        let (factors, latent) = (config.factors.len(), config.model.networks.latent);
        if factors == 0 || factors >= latent {
            return Err(Error::usage(format!(
                "model.factors names {factors} factors of {latent} latents (model.latent): name one at least, and leave a latent for all else"
            )));
        }
        Ok(Self { model: LatentModel::new(Self::ID, config.model.clone(), pictures.shape)?, config })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        self.model.networks(init)
    }

    fn initialise(&self, fresh: Networks, data: &FitData<'_>) -> Result<Networks> {
        self.model.initialise(fresh, data)
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        vec![Phase::new("dcign", &["encoder", "decoder"], self.config.optimizer.clone(), |s, n, b| {
            s.loss(n, b).map(Some)
        })]
    }

    /// A kind for each factor, and the intrinsic one.
    fn grouping(&self) -> Grouping {
        let Config { factors, factor_weight, intrinsic_weight, .. } = &self.config;
        let own = factors.iter().map(|f| Clamp { factor: Some(f.clone()), weight: *factor_weight });
        Grouping::Clamped(own.chain([Clamp { factor: None, weight: *intrinsic_weight }]).collect())
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        self.model.abilities()
    }
}

impl Dcign {
    /// −L and the invariance of what is clamped, the mean over the batch.
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let c = &self.config;
        let kind = batch.kind.ok_or_else(|| Error::new("dcign: a batch that is of no kind"))?;
        let x = c.model.pixels.of_batch(batch);
        let (mean, log_var) = networks.encoder.forward(x.clone());
        let active = active(kind, c.factors.len(), c.model.networks.latent, &mean);
        let spread = invariance(mean.clone(), active.clone()) + invariance(log_var.clone(), active.clone());
        let (mean, log_var) = (clamp(mean, active.clone()), clamp(log_var, active));
        let z = self.model.draw(mean.clone(), log_var.clone(), 1, batch).z;
        let reconstruction = -self.model.log_likelihood(&networks.decoder, x, z).mean();
        let kl = gaussian_kl(mean, log_var).mean();
        let bound = reconstruction.clone() + kl.clone();
        Ok(Loss::new("reconstruction", reconstruction)
            .plus("kl", 1.0, kl)
            .plus("invariance", c.invariance_strength, spread)
            .report("negative_elbo", bound))
    }
}

#[cfg(test)]
mod tests {
    use kiln_nn::tensor::to_values;
    use kiln_train::optim::Optimizer;
    use kiln_train::params::take_gradients;

    use super::*;
    use crate::autoencoder::testing::{batch, close, device, system};

    fn config() -> Config {
        let networks = NetworkConfig::mlp(5, &[16]);
        Config { model: LatentConfig { networks, ..LatentConfig::default() }, ..Config::default() }
    }

    fn y() -> Tensor<2> {
        from_values(vec![1.0, 2.0, 3.0, 3.0, 6.0, 0.0], [2, 3], &device().autodiff()).require_grad()
    }

    #[test]
    fn what_a_kind_is_about_passes_and_the_rest_is_its_mean() {
        let y = y();
        let first = active(0, 1, 3, &y);
        assert_eq!(to_values(clamp(y.clone(), first)), [1.0, 4.0, 1.5, 3.0, 4.0, 1.5]);
        let others = active(1, 1, 3, &y);
        assert_eq!(to_values(others.clone()), [0.0, 1.0, 1.0]);
        assert_eq!(to_values(clamp(y, others)), [2.0, 2.0, 3.0, 2.0, 6.0, 0.0]);
        assert_eq!(to_values(active(3, 3, 5, &Tensor::zeros([1, 1], &device()))), [0.0, 0.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn gradients_are_passed_where_active_and_replaced_elsewhere() {
        // Some function of the decoder's: its gradient with respect to what it is given is `upstream`.
        let upstream = [0.5, -0.25, 4.0, 8.0, 16.0, -32.0];
        let y = y();
        let mask = active(0, 1, 3, &y);
        let given: Tensor<2> = from_values(upstream.to_vec(), [2, 3], &device().autodiff());
        let loss = (clamp(y.clone(), mask.clone()) * given).sum() + invariance(y.clone(), mask) * 0.01;
        let gradient = to_values(y.grad(&loss.backward()).unwrap());
        // Latent 0 as it was; of the others (y − mean) / 100, over the 2 pictures of which the loss is the mean.
        close(&gradient, &[0.5, -0.01, 0.0075, 8.0, 0.01, -0.0075], 1e-6);
    }

    #[test]
    fn each_kind_overfits_a_batch_by_its_own_latents() {
        for kind in [0, 3] {
            let mut model: Dcign = system(config(), [1, 8, 8]);
            let mut networks = model.networks(&mut Init::new(&device().autodiff(), 0));
            let mut optimizer = Optimizer::new(OptimizerConfig::adam(1e-2));
            let (mut first, mut last) = (None, 0.0);
            for step in 0..250 {
                let batch = batch([4, 1, 8, 8], 4 * step).of_kind(Some(kind));
                let loss = model.loss(&networks, &batch).unwrap();
                last = to_values(loss.terms.iter().find(|t| t.0 == "negative_elbo").unwrap().1.clone())[0];
                first.get_or_insert(last);
                let gradients = take_gradients(&networks, &mut loss.total.backward());
                networks = optimizer.step(networks, gradients, 1.0, 1.0);
            }
            assert!(last < first.unwrap() - 10.0, "{kind}: {first:?} to {last}");
            // Four pictures are told apart by what is active alone.
            let x = model.config.model.pixels.of_batch(&batch([4, 1, 8, 8], 0));
            let mean = to_values(networks.encoder.forward(x).0);
            let spread = |unit: usize| {
                let of = |i: usize| mean[i * 5 + unit];
                let middle = (0..4).map(of).sum::<f32>() / 4.0;
                (0..4).map(|i| (of(i) - middle).powi(2)).sum::<f32>()
            };
            let told: f32 = if kind == 0 { spread(0) } else { (3..5).map(spread).sum() };
            assert!(told > 1.0, "{kind}: {told}");
        }
    }

    #[test]
    fn batches_are_of_the_kinds_that_the_settings_name() {
        let model: Dcign = system(config(), [1, 8, 8]);
        let Grouping::Clamped(kinds) = model.grouping() else { panic!() };
        let kinds: Vec<_> = kinds.iter().map(|c| (c.factor.as_deref(), c.weight)).collect();
        assert_eq!(kinds, [(Some("azimuth"), 1), (Some("elevation"), 1), (Some("light"), 1), (None, 10)]);
    }

    #[test]
    fn bad_settings_are_usage_errors() {
        let refused = |config: Config| {
            let pictures = Pictures::new([1, 8, 8], Vec::new());
            let error = Dcign::new(config, &pictures).err().unwrap();
            assert!(error.is_usage(), "{error}");
            error.to_string()
        };
        assert!(refused(Config { factors: Vec::new(), ..config() }).contains("model.factors"));
        assert!(refused(Config { factors: vec!["x".into(); 5], ..config() }).contains("5 factors of 5 latents"));
        assert!(refused(Config { invariance_strength: -1.0, ..config() }).contains("model.invariance_strength"));
        let mut model: Dcign = system(config(), [1, 8, 8]);
        let networks = model.networks(&mut Init::new(&device().autodiff(), 0));
        assert!(model.loss(&networks, &batch([4, 1, 8, 8], 0)).is_err());
    }
}
