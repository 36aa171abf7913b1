//! The variational bound on −log p(x₀) (Ho 2020, equation 5), in nats:
//!
//! L = L_T + Σ_{t > 1} L_{t−1} + L_0
//!
//! * L_T = KL(q(x_T | x₀) ‖ N(0, I)), which no network changes: [`prior`];
//! * L_{t−1} = KL(q(xₜ₋₁ | xₜ, x₀) ‖ p(xₜ₋₁ | xₜ)), two Gaussians, and
//!   L_0 = −log p(x₀ | x₁), the mass that a Gaussian puts on each of 256 levels: [`term`].

use burn::tensor::{Bool, Tensor};
use kiln_nn::tensor::{from_values, per_sample};

use super::sampler::Denoised;
use super::sampler::ancestral::Variance;
use super::schedule::{Level, NoiseSchedule, Posterior};

/// Half the distance between two of the 256 levels of [−1, 1].
const HALF_LEVEL: f64 = 1.0 / 255.0;

/// KL(N(μ₁, σ₁²) ‖ N(μ₂, σ₂²)) of every pixel.
pub fn gaussian_kl(
    mean1: Tensor<4>,
    log_variance1: Tensor<4>,
    mean2: Tensor<4>,
    log_variance2: Tensor<4>,
) -> Tensor<4> {
    let apart = (mean1 - mean2).square() * (-log_variance2.clone()).exp();
    let log_ratio = log_variance1 - log_variance2;
    (log_ratio.clone().exp() - log_ratio - 1.0 + apart) * 0.5
}

/// log of the mass of N(μ, σ²) between half a level below and half a level above each pixel of `x`,
/// the lowest and the highest level reaching to infinity (equation 13). Not below log 10⁻¹².
pub fn discretized_log_likelihood(x: Tensor<4>, mean: Tensor<4>, log_variance: Tensor<4>) -> Tensor<4> {
    let scale = (log_variance * -0.5).exp() * std::f64::consts::FRAC_1_SQRT_2;
    let cdf = |edge: Tensor<4>| ((edge - mean.clone()) * scale.clone()).erf() * 0.5 + 0.5;
    let is_lowest: Tensor<4, Bool> = x.clone().lower_elem(HALF_LEVEL - 1.0);
    let is_highest: Tensor<4, Bool> = x.clone().greater_elem(1.0 - HALF_LEVEL);
    let below = cdf(x.clone() - HALF_LEVEL).mask_fill(is_lowest, 0.0);
    let above = cdf(x + HALF_LEVEL).mask_fill(is_highest, 1.0);
    (above - below).clamp_min(1e-12).log()
}

/// The nats of each picture in the term of its own time: L_{t−1}, or L_0 at the first. T times the
/// mean over uniform t is the bound without [`prior`].
///
/// At the first time β̃ is 0; the second's stands for it, as for σ² = β, which makes L_0 smaller
/// (`gaussian_diffusion.py` of Nichol & Dhariwal's code).
///
/// # Shapes
/// `x0`, `xt` `[n, c, h, w]`, n times in `t` → `[n]`
pub fn term(
    schedule: &NoiseSchedule,
    variance: Variance,
    t: &[usize],
    x0: Tensor<4>,
    xt: Tensor<4>,
    denoised: Denoised,
) -> Tensor<1> {
    let device = x0.device();
    let back = |t: usize| Posterior::between(schedule.level(t), schedule.level_or_picture(t.checked_sub(1)));
    let posteriors: Vec<Posterior> = t.iter().map(|&t| back(t)).collect();
    let second = back(1).beta_tilde;
    let each =
        |values: Vec<f64>| per_sample(from_values(values.into_iter().map(|v| v as f32).collect(), [t.len()], &device));
    let beta_tilde = each(posteriors.iter().map(|p| if p.beta_tilde > 0.0 { p.beta_tilde } else { second }).collect());
    let fixed_beta = |p: &Posterior| match variance {
        Variance::Large if p.beta_tilde == 0.0 => second,
        _ => p.beta,
    };
    let beta = each(posteriors.iter().map(fixed_beta).collect());
    let (of_x0, of_xt) =
        (each(posteriors.iter().map(|p| p.x0).collect()), each(posteriors.iter().map(|p| p.xt).collect()));
    let mean = |x0: Tensor<4>| x0 * of_x0.clone() + xt.clone() * of_xt.clone();

    let predicted = mean(denoised.x0);
    let shape = predicted.dims();
    let log_variance = variance.log(beta_tilde.clone(), beta, denoised.variance).expand(shape);
    let kl = gaussian_kl(mean(x0.clone()), beta_tilde.log().expand(shape), predicted.clone(), log_variance.clone());
    let decoder = -discretized_log_likelihood(x0, predicted, log_variance);
    let first = each(t.iter().map(|&t| f64::from(t == 0)).collect()).greater_elem(0.5);
    nats(kl.mask_where(first.expand(shape), decoder))
}

/// L_T of each picture, `[n]`: against N(0, α² + σ²), which is N(0, I) where variance is preserved.
pub fn prior(schedule: &NoiseSchedule, x0: Tensor<4>) -> Tensor<1> {
    let last = schedule.level(schedule.steps() - 1);
    let Level { signal, sigma, .. } = last;
    let whole = last.scale().powi(2);
    let share = sigma * sigma / whole;
    nats(((x0 * signal).square() / whole + (share - share.ln() - 1.0)) * 0.5)
}

/// The sum over each picture.
fn nats(x: Tensor<4>) -> Tensor<1> {
    let [n, c, h, w] = x.dims();
    x.reshape([n, c * h * w]).sum_dim(1).reshape([n])
}
