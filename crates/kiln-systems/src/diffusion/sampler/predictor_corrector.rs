//! Predictor–corrector sampling of the reverse-time equation (Song 2021b, algorithms 2 to 5), written for any
//! x = α x₀ + σ ε: variance preserving, below it, or exploding.
//!
//! The score is ∇ log p(x) = (α x̂₀ − x)/σ².

use burn::tensor::Tensor;
use kiln_core::{Error, Result};
use serde::Deserialize;

use super::{Denoiser, Noise};
use crate::diffusion::schedule::{LEAST_SIGNAL, Level, Posterior};

/// What takes the step from one level to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Predictor {
    /// The forward step's discretisation, turned around (appendix E).
    #[default]
    ReverseDiffusion,
    /// DDPM's step, and its like for exploding variance (appendix F).
    Ancestral,
    /// None: annealed Langevin dynamics by the corrector alone.
    None,
}

/// The sampler with its options.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PredictorCorrector {
    /// What steps.
    pub predictor: Predictor,
    /// Langevin steps at each level, before the predictor's.
    pub corrector_steps: usize,
    /// Their size: what a step's drift is to its noise (Song's r; 0.16 where variance explodes).
    pub snr: f64,
}

fn score(x0: Tensor<4>, xt: Tensor<4>, level: Level) -> Tensor<4> {
    (x0 * level.signal - xt) / (level.sigma * level.sigma)
}

/// One predictor step: its mean, and the deviation of the noise that belongs to it.
pub fn predict(predictor: Predictor, (from, to): (Level, Level), xt: Tensor<4>, score: Tensor<4>) -> (Tensor<4>, f64) {
    let Posterior { keep, beta, beta_tilde, .. } = Posterior::between(from, to);
    match predictor {
        // x − f(x) + G²·score with x′ = x + f(x) + G z the step forward.
        Predictor::ReverseDiffusion => (xt * (2.0 - keep) + score * beta, beta.sqrt()),
        // Tweedie's mean of the step; with exploding variance its noise is the posterior's.
        Predictor::Ancestral => {
            let exploding = (keep - 1.0).abs() < 1e-12;
            ((xt + score * beta) / keep.max(LEAST_SIGNAL), if exploding { beta_tilde } else { beta }.sqrt())
        }
        Predictor::None => (xt, 0.0),
    }
}

/// One Langevin step of size ε = 2a (r ‖z‖/‖score‖)², the norms being each picture's own so that none depends
/// on its batch, and a the share of variance that a step forward keeps.
pub fn correct(xt: Tensor<4>, score: Tensor<4>, noise: Tensor<4>, snr: f64, keep: f64) -> Tensor<4> {
    let norm = |x: Tensor<4>| {
        let [n, c, h, w] = x.dims();
        x.square().reshape([n, c * h * w]).sum_dim(1).sqrt().reshape([n, 1, 1, 1])
    };
    let size = (norm(noise.clone()) / norm(score.clone()) * snr).square() * (2.0 * keep * keep);
    xt + score * size.clone() + noise * (size * 2.0).sqrt()
}

impl PredictorCorrector {
    /// Walks `xt` down the `levels`.
    ///
    /// # Errors
    /// If the denoiser fails.
    pub fn run(
        &self,
        mut xt: Tensor<4>,
        levels: &[Level],
        denoise: &Denoiser<'_>,
        noise: &Noise<'_>,
    ) -> Result<Tensor<4>> {
        let draws = self.corrector_steps as u64 + 1;
        for (i, pair) in levels.windows(2).enumerate() {
            let at = (pair[0], pair[1]);
            let draw = |k: u64| noise(i as u64 * draws + k);
            let score_of = |xt: &Tensor<4>| Ok::<_, Error>(score(denoise(xt.clone(), at.0)?.x0, xt.clone(), at.0));
            for k in 1..draws {
                let score = score_of(&xt)?;
                xt = correct(xt, score, draw(k), self.snr, Posterior::between(at.0, at.1).keep);
            }
            if self.predictor != Predictor::None {
                let score = score_of(&xt)?;
                let (mean, deviation) = predict(self.predictor, at, xt, score);
                // The last step's noise is left out: it would only blur the picture.
                xt = if at.1.sigma == 0.0 || deviation == 0.0 { mean } else { mean + draw(0) * deviation };
            } else if at.1.sigma == 0.0 {
                xt = denoise(xt, at.0)?.x0;
            }
        }
        Ok(xt)
    }
}
