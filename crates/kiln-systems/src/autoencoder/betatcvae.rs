//! Chen, Li, Grosse & Duvenaud, *Isolating Sources of Disentanglement in Variational Autoencoders*, 2018.
//!
//! With q(z) = (1/N) Σₙ q(z|xₙ) over the N images of the set, the mean KL term of the ELBO has three parts (equation 2):
//!
//! E KL(q(z|x) ‖ p(z)) = I_q(z; x) + KL(q(z) ‖ Πⱼ q(zⱼ)) + Σⱼ KL(q(zⱼ) ‖ p(zⱼ)):
//!
//! the index-code mutual information, the total correlation, and the dimension-wise KL. The objective weights them
//! separately (equation 4); the paper's β-TCVAE has α = γ = 1:
//!
//! L = E_q(z|x) log p(x|z) − α·I_q(z; x) − β·TC − γ·Σⱼ KL(q(zⱼ) ‖ p(zⱼ)).
//!
//! log q(z) of a draw z from q(z|xᵢ) is estimated from the M images of the batch, including xᵢ:
//!
//! - `weighted` (MWS, equation 5): log (1/(N·M)) Σⱼ q(z|xⱼ), biased but simple, the paper's choice;
//! - `stratified` (MSS, equation S6): log Σⱼ wᵢⱼ q(z|xⱼ) with wᵢᵢ = 1/N, 1/(M − 1) for the others but one, which has
//!   (N − M + 1)/(N·(M − 1)): in expectation a sum over the whole set.
//!
//! The same with q(zⱼ|x) instead of q(z|x) gives each log q(zⱼ).
//!
//! | paper | here |
//! |---|---|
//! | α, β, γ | `alpha`, `beta`, `gamma`; all 1 is the ELBO, whatever the estimate; all β is the β-VAE |
//! | N, M | images of the set, of the batch (of a part of it, with `train.accumulate`) |
//! | the three terms | [`decomposition`] |
//! | log wᵢⱼ | [`log_weights`] |
//!
//! The authors' code computes the stratified weights with a stride that puts 1/N into the first column instead of the
//! diagonal; this file follows the paper.
//!
//! `kiln train recipes/betatcvae/dsprites.toml`, then `kiln evaluate RUN --metrics mig -n 10000`.

use burn::tensor::Tensor;
use kiln_core::{Error, Result};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::loss::{gaussian_kl, gaussian_log_terms};
use kiln_nn::tensor::from_values;
use kiln_train::{
    Abilities, Batch, DataConfig, FitData, Loss, OptimizerConfig, Phase, Pictures, Schedule, SizeRule, System,
    TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::betavae::{check_weight, few_latents};
use super::latent::{Draws, LatentConfig, LatentModel, Networks};
use super::vae::training;

/// How log q(z) is estimated from a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// Minibatch-weighted.
    #[default]
    Weighted,
    /// Minibatch-stratified.
    Stratified,
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The networks and p(x|z).
    #[serde(flatten)]
    pub model: LatentConfig,
    /// α, the weight of the index-code mutual information.
    pub alpha: f64,
    /// β, the weight of the total correlation.
    pub beta: f64,
    /// γ, the weight of the dimension-wise KL.
    pub gamma: f64,
    /// Estimator of log q(z): `weighted` or `stratified`.
    pub sampling: Sampling,
    /// Images over which all three weights rise linearly from 0.
    pub kl_warmup: u64,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: few_latents(),
            alpha: 1.0,
            beta: 6.0,
            gamma: 1.0,
            sampling: Sampling::default(),
            kl_warmup: 0,
            optimizer: OptimizerConfig::adam(1e-3).schedule(Schedule::Cosine),
        }
    }
}

/// The parts of the mean KL term, `[1]` each; their sum is E log q(z|x) − log p(z).
pub struct Decomposition {
    /// I_q(z; x).
    pub index_code_mi: Tensor<1>,
    /// KL(q(z) ‖ Πⱼ q(zⱼ)).
    pub total_correlation: Tensor<1>,
    /// Σⱼ KL(q(zⱼ) ‖ p(zⱼ)).
    pub dimension_kl: Tensor<1>,
}

/// log wᵢⱼ of a batch of `m` pictures from a set of `n`, a row a draw.
pub fn log_weights(sampling: Sampling, m: usize, n: usize) -> Vec<f32> {
    let (count, others) = (n as f64, (m - 1) as f64);
    let weight = |i: usize, j: usize| match sampling {
        Sampling::Weighted => 1.0 / (count * m as f64),
        Sampling::Stratified if i == j => 1.0 / count,
        // One of the others stands for what the batch has not of the set.
        Sampling::Stratified if j == (i + 1) % m => (count - others) / (count * others),
        Sampling::Stratified => 1.0 / others,
    };
    (0..m * m).map(|at| weight(at / m, at % m).ln() as f32).collect()
}

/// log Σ exp over dimension `dim`, without overflow.
fn log_sum_exp<const D: usize>(x: Tensor<D>, dim: usize) -> Tensor<D> {
    let largest = x.clone().max_dim(dim).detach();
    (x - largest.clone()).exp().sum_dim(dim).log() + largest
}

/// The three terms, estimated from one draw a picture of a set of `n`.
pub fn decomposition(draws: &Draws, sampling: Sampling, n: usize) -> Decomposition {
    let Draws { mean, log_var, z, .. } = draws;
    let [m, d] = z.dims();
    let flat = |x: Tensor<2>| x.sum_dim(1).reshape([m]);
    // log q(zᵢ|xⱼ) of each number: [draw, picture, number].
    let of_pictures = |t: &Tensor<2>| t.clone().reshape([1, m, d]);
    let each = gaussian_log_terms(z.clone().reshape([m, 1, d]), of_pictures(mean), of_pictures(log_var));
    let weights: Tensor<2> = from_values(log_weights(sampling, m, n), [m, m], &z.device());
    let joint = each.clone().sum_dim(2).reshape([m, m]) + weights.clone();
    let log_q = log_sum_exp(joint, 1).reshape([m]);
    let log_product = flat(log_sum_exp(each + weights.reshape([m, m, 1]), 1).reshape([m, d]));
    let log_posterior = flat(gaussian_log_terms(z.clone(), mean.clone(), log_var.clone()));
    let zeros = z.clone().zeros_like();
    let log_prior = flat(gaussian_log_terms(z.clone(), zeros.clone(), zeros));
    Decomposition {
        index_code_mi: (log_posterior - log_q.clone()).mean(),
        total_correlation: (log_q - log_product.clone()).mean(),
        dimension_kl: (log_product - log_prior).mean(),
    }
}

/// The system.
pub struct BetaTcVae {
    model: LatentModel,
    config: Config,
}

impl System for BetaTcVae {
    const ID: &'static str = "betatcvae";
    const PAPER: &'static str =
        "Chen, Li, Grosse & Duvenaud: Isolating Sources of Disentanglement in Variational Autoencoders, 2018";
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
        for (name, value) in [("alpha", config.alpha), ("beta", config.beta), ("gamma", config.gamma)] {
            check_weight(name, value)?;
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
        vec![Phase::new("betatcvae", &["encoder", "decoder"], self.config.optimizer.clone(), |s, n, b| {
            s.loss(n, b).map(Some)
        })]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        self.model.abilities()
    }
}

impl BetaTcVae {
    /// −L, the mean over the batch.
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let c = &self.config;
        if batch.len() < 2 {
            return Err(Error::usage(
                "train.batch (over train.accumulate) must be at least 2: q(z) is estimated from the other pictures",
            ));
        }
        let x = c.model.pixels.of_batch(batch);
        let (mean, log_var) = networks.encoder.forward(x.clone());
        let draws = self.model.draw(mean.clone(), log_var.clone(), 1, batch);
        let reconstruction = -self.model.log_likelihood(&networks.decoder, x, draws.z.clone()).mean();
        let bound = reconstruction.clone() + gaussian_kl(mean, log_var).mean();
        let parts = decomposition(&draws, c.sampling, batch.set_sizes[0].max(batch.len()));
        let warm = match c.kl_warmup {
            0 => 1.0,
            warmup => (batch.start as f64 / warmup as f64).min(1.0),
        };
        Ok(Loss::new("reconstruction", reconstruction)
            .plus("index_code_mi", warm * c.alpha, parts.index_code_mi)
            .plus("total_correlation", warm * c.beta, parts.total_correlation)
            .plus("dimension_kl", warm * c.gamma, parts.dimension_kl)
            .report("negative_elbo", bound))
    }
}

#[cfg(test)]
mod tests {
    use kiln_nn::tensor::to_values;

    use super::*;
    use crate::autoencoder::bound::reparameterise;
    use crate::autoencoder::networks::NetworkConfig;
    use crate::autoencoder::testing::{Fixtures, batch, close, device, overfit, system};

    fn config(alpha: f64, beta: f64, gamma: f64) -> Config {
        let model = LatentConfig { networks: NetworkConfig::mlp(3, &[16]), ..LatentConfig::default() };
        Config { model, alpha, beta, gamma, ..Config::default() }
    }

    #[test]
    fn the_terms_and_their_gradients_are_pytorchs() {
        let f = Fixtures::open("betatcvae");
        let n = f.values("n").1[0] as usize;
        for (sampling, name) in [(Sampling::Weighted, "weighted"), (Sampling::Stratified, "stratified")] {
            let mean = f.tensor::<2>("mu").autodiff().require_grad();
            let log_var = f.tensor::<2>("logvar").autodiff().require_grad();
            let noise = f.tensor::<2>("noise").autodiff();
            let z = reparameterise(mean.clone(), log_var.clone(), noise.clone());
            let draws = Draws { mean: mean.clone(), log_var: log_var.clone(), noise, z };
            let Decomposition { index_code_mi, total_correlation, dimension_kl } = decomposition(&draws, sampling, n);
            f.assert_close(index_code_mi.clone(), &format!("{name}.index_code_mi"), 1e-5);
            f.assert_close(total_correlation.clone(), &format!("{name}.total_correlation"), 1e-5);
            f.assert_close(dimension_kl.clone(), &format!("{name}.dimension_kl"), 1e-5);
            let gradients = (index_code_mi + total_correlation * 6.0 + dimension_kl * 2.0).backward();
            f.assert_close(mean.grad(&gradients).unwrap(), &format!("{name}.grad_mu"), 1e-4);
            f.assert_close(log_var.grad(&gradients).unwrap(), &format!("{name}.grad_logvar"), 1e-4);
        }
    }

    #[test]
    fn stratified_weights_sum_to_one_and_are_exact_on_the_whole_set() {
        let weights = |m, n| log_weights(Sampling::Stratified, m, n).into_iter().map(f32::exp).collect::<Vec<_>>();
        for row in weights(5, 1000).chunks(5) {
            close(&[row.iter().sum()], &[1.0], 1e-5);
        }
        // Of the whole set, each picture has 1/N.
        let all = weights(4, 4);
        close(&[all[0], all[5], all[1], all[2]], &[0.25, 0.25, 1.0 / 12.0, 1.0 / 3.0], 1e-6);
        close(&[log_weights(Sampling::Weighted, 4, 100)[3]], &[-(400f32.ln())], 1e-6);
    }

    #[test]
    fn equal_weights_are_the_evidence_bound_whatever_the_estimate() {
        let of_batch = || batch([8, 1, 8, 8], 0).of_sets(&[5000]);
        let mut model: BetaTcVae = system(config(1.0, 1.0, 1.0), [1, 8, 8]);
        let networks = model.networks(&mut Init::new(&device().autodiff(), 0));
        let total = |model: &mut BetaTcVae| to_values(model.loss(&networks, &of_batch()).unwrap().total);
        let weighted = total(&mut model);
        let mut other = config(1.0, 1.0, 1.0);
        other.sampling = Sampling::Stratified;
        close(&total(&mut system(other, [1, 8, 8])), &weighted, 1e-5);
        // With one draw of z: log q(z|x) − log p(z) is ½ Σ (z² − ε² − log σ²).
        let x = model.config.model.pixels.of_batch(&of_batch());
        let (mean, log_var) = networks.encoder.forward(x.clone());
        let draws = model.model.draw(mean, log_var, 1, &of_batch());
        let kl = (draws.z.clone().square() - draws.noise.square() - draws.log_var).sum_dim(1).mean() * 0.5;
        let wanted = kl - model.model.log_likelihood(&networks.decoder, x, draws.z).mean();
        close(&weighted, &to_values(wanted), 1e-5);
        // More correlation counts more.
        let mut more: BetaTcVae = system(config(1.0, 6.0, 1.0), [1, 8, 8]);
        let loss = more.loss(&networks, &of_batch()).unwrap();
        let tc = loss.terms.iter().find(|t| t.0 == "total_correlation").unwrap().1.clone();
        close(&to_values(loss.total), &[weighted[0] + 5.0 * to_values(tc)[0]], 1e-4);
    }

    #[test]
    fn overfits_a_batch_by_both_estimates() {
        for sampling in [Sampling::Weighted, Sampling::Stratified] {
            let (first, last) =
                overfit::<BetaTcVae>(Config { sampling, ..config(1.0, 2.0, 1.0) }, "negative_elbo", 1e-2, 200);
            assert!(last < first - 4.0, "{sampling:?}: {first} to {last}");
        }
    }

    #[test]
    fn bad_weights_and_single_pictures_are_usage_errors() {
        let pictures = Pictures::new([1, 8, 8], Vec::new());
        for (config, name) in [
            (config(-1.0, 1.0, 1.0), "model.alpha"),
            (config(1.0, f64::NAN, 1.0), "model.beta"),
            (config(1.0, 1.0, f64::INFINITY), "model.gamma"),
        ] {
            let error = BetaTcVae::new(config, &pictures).err().unwrap();
            assert!(error.is_usage() && error.to_string().contains(name), "{error}");
        }
        let mut model: BetaTcVae = system(config(1.0, 1.0, 1.0), [1, 8, 8]);
        let networks = model.networks(&mut Init::new(&device().autodiff(), 0));
        assert!(model.loss(&networks, &batch([1, 1, 8, 8], 0)).err().unwrap().is_usage());
    }
}
