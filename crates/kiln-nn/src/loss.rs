//! Losses and log-likelihoods, each with its equation. Means are over every element unless said.

use burn::tensor::{Int, Tensor, activation};

use crate::dual::Signal;

/// mean (x − y)².
pub fn mse<const D: usize>(x: Tensor<D>, y: Tensor<D>) -> Tensor<1> {
    (x - y).square().mean()
}

/// mean |x − y|.
pub fn l1<const D: usize>(x: Tensor<D>, y: Tensor<D>) -> Tensor<1> {
    (x - y).abs().mean()
}

/// log(1 + eˣ), without overflow: max(x, 0) + log(1 + e^(−|x|)).
pub fn softplus<const D: usize, X: Signal<D>>(x: X) -> X {
    x.elementwise(|x| activation::relu(x.clone()) + (-x.abs()).exp().log1p(), activation::sigmoid)
}

/// Binary cross-entropy of logits x against probabilities y, elementwise:
/// −y·log σ(x) − (1 − y)·log(1 − σ(x)) = softplus(x) − x·y.
pub fn binary_cross_entropy<const D: usize>(logits: Tensor<D>, targets: Tensor<D>) -> Tensor<D> {
    softplus(logits.clone()) - logits * targets
}

/// Mean binary cross-entropy against one constant target: the discriminator's loss of Goodfellow
/// 2014 (target 1 for real, 0 for fake; 0.9 for one-sided label smoothing).
pub fn binary_cross_entropy_to<const D: usize>(logits: Tensor<D>, target: f64) -> Tensor<1> {
    (softplus(logits.clone()) - logits * target).mean()
}

/// mean (x − target)²: the least-squares GAN loss (Mao 2017).
pub fn squared_to<const D: usize>(x: Tensor<D>, target: f64) -> Tensor<1> {
    (x - target).square().mean()
}

/// The mode seeking term (Mao 2019, equations 3 and 4) as their code minimises it: 1 / (d(a, b) / d(z_a, z_b) + 10⁻⁵), where
/// pictures a and b come from latents z_a and z_b under the same conditions and d is the mean absolute difference. It falls
/// as different latents give more different pictures.
///
/// # Shapes
/// `[n, …]` twice, `[n, …]` twice → `[1]`
pub fn mode_seeking<const D: usize, const E: usize>(
    a: Tensor<D>,
    b: Tensor<D>,
    z_a: Tensor<E>,
    z_b: Tensor<E>,
) -> Tensor<1> {
    (l1(a, b) / l1(z_a, z_b) + 1e-5).recip()
}

/// The Gram matrix of a map's channels, a mean over its places: G_ij = Σ_k F_ik F_jk / (h·w) (Gatys 2016, equation 3, whose sum it is).
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, c]`
pub fn gram(x: Tensor<4>) -> Tensor<3> {
    let [n, c, h, w] = x.dims();
    let rows = x.reshape([n, c, h * w]);
    rows.clone().matmul(rows.swap_dims(1, 2)) / (h * w) as f64
}

/// Total variation: the mean absolute difference of neighbours along each axis, both added (Johnson 2016, §3.2).
///
/// # Shapes
/// `[n, c, h, w]` → `[1]`
pub fn total_variation(x: Tensor<4>) -> Tensor<1> {
    let along = |dim: usize| {
        let len = x.dims()[dim];
        match len {
            0 | 1 => Tensor::zeros([1], &x.device()),
            _ => (x.clone().narrow(dim, 1, len - 1) - x.clone().narrow(dim, 0, len - 1)).abs().mean(),
        }
    };
    along(2) + along(3)
}

/// Mean cross-entropy −log softmax(logits)`[label]`.
///
/// # Shapes
/// `[n, classes]`, `[n]` → `[1]`
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    let n = labels.dims()[0];
    let log_p = activation::log_softmax(logits, 1);
    -log_p.gather(1, labels.reshape([n, 1])).mean()
}

/// KL(N(μ, σ²) ‖ N(0, 1)) = −½ (1 + log σ² − μ² − σ²) of each dimension (Kingma & Welling 2014, appendix B).
///
/// # Shapes
/// `[n, d]`, `[n, d]` → `[n, d]`
pub fn gaussian_kl_terms(mean: Tensor<2>, log_var: Tensor<2>) -> Tensor<2> {
    (log_var.clone() + 1.0 - mean.square() - log_var.exp()) * -0.5
}

/// KL(N(μ, σ²) ‖ N(0, 1)), summed over the latent.
///
/// # Shapes
/// `[n, d]`, `[n, d]` → `[n]`
pub fn gaussian_kl(mean: Tensor<2>, log_var: Tensor<2>) -> Tensor<1> {
    let n = mean.dims()[0];
    gaussian_kl_terms(mean, log_var).sum_dim(1).reshape([n])
}

/// KL(N(μ, σ²) ‖ N(m, s²)) = ½ Σ (log s² − log σ² + (σ² + (μ − m)²) / s² − 1), summed over the latent; variances by
/// their logarithms.
///
/// # Shapes
/// `[n, d]` four times → `[n]`
pub fn gaussian_kl_between(
    mean: Tensor<2>,
    log_var: Tensor<2>,
    prior_mean: Tensor<2>,
    prior_log_var: Tensor<2>,
) -> Tensor<1> {
    let n = mean.dims()[0];
    let spread = (log_var.clone() - prior_log_var.clone()).exp();
    let distance = (mean - prior_mean).square() / prior_log_var.clone().exp();
    ((prior_log_var - log_var + spread + distance - 1.0).sum_dim(1) * 0.5).reshape([n])
}

/// log N(x; μ, σ²) = −½ (log 2π + log σ² + (x − μ)² / σ²) of each dimension.
///
/// # Shapes
/// `[n, d]` three times → `[n, d]`
pub fn gaussian_log_terms<const D: usize>(x: Tensor<D>, mean: Tensor<D>, log_var: Tensor<D>) -> Tensor<D> {
    let log_2pi = (2.0 * std::f64::consts::PI).ln();
    (log_var.clone() + log_2pi + (x - mean).square() / log_var.exp()) * -0.5
}

/// log N(x; μ, σ²) summed over everything but the first dimension.
///
/// # Shapes
/// `[n, d]` three times → `[n]`
pub fn gaussian_log_likelihood(x: Tensor<2>, mean: Tensor<2>, log_var: Tensor<2>) -> Tensor<1> {
    let n = x.dims()[0];
    gaussian_log_terms(x, mean, log_var).sum_dim(1).reshape([n])
}

/// log Bernoulli(x; σ(logits)) summed over everything but the first dimension.
///
/// # Shapes
/// `[n, d]`, `[n, d]` → `[n]`
pub fn bernoulli_log_likelihood(x: Tensor<2>, logits: Tensor<2>) -> Tensor<1> {
    let n = x.dims()[0];
    (-binary_cross_entropy(logits, x)).sum_dim(1).reshape([n])
}

/// log P(x) of pixels of 256 levels in [−1, 1] under a logistic of mean μ and scale s = e^`log_scale`, summed over
/// everything but the first dimension (Kingma 2016, §4; Salimans 2017, equation 2): the distribution function over a
/// level's width, σ(a) − σ(b) with a, b = (x ± 1/255 − μ)/s; the outermost levels reach to infinity.
///
/// σ(a) − σ(b) = σ(a)·σ(−b)·(1 − e^(b−a)), of which every factor keeps its digits.
///
/// # Shapes
/// `[n, d]`, `[n, d]`, `[n, d]` or `[1, 1]` → `[n]`
pub fn discretised_logistic_log_likelihood(x: Tensor<2>, mean: Tensor<2>, log_scale: Tensor<2>) -> Tensor<1> {
    let n = x.dims()[0];
    let inverse = (-log_scale.clone()).exp();
    let below = (x.clone() - mean.clone() + 1.0 / 255.0) * inverse.clone();
    let above = (x.clone() - mean - 1.0 / 255.0) * inverse;
    let (darkest, brightest) = (x.clone().lower_elem(-0.999), x.greater_elem(0.999));
    let under = (-softplus(-below)).mask_fill(brightest.clone(), 0.0);
    let over = (-softplus(above)).mask_fill(darkest.clone(), 0.0);
    let width = log_one_minus_exp(-log_scale + (2.0_f64 / 255.0).ln()).expand(under.dims());
    let width = width.mask_fill(darkest.bool_or(brightest), 0.0);
    (under + over + width).sum_dim(1).reshape([n])
}

/// log(1 − e^(−x)), given log x; near 0, where the difference has no digits, by its series log x − x/2 + x²/24.
fn log_one_minus_exp(log_x: Tensor<2>) -> Tensor<2> {
    let x = log_x.clone().exp();
    let near = x.clone().lower_elem(0.1);
    let series = log_x - x.clone() * 0.5 + x.clone().square() / 24.0;
    (-(-x.clamp_min(0.1)).exp() + 1.0).log().mask_where(near, series)
}

/// Gradient reversal (Ganin 2015, equations 16–17): the identity forward, −λ times the gradient
/// backward. Written as (1 + λ)·x held constant, minus λ·x.
pub fn reverse_gradient<const D: usize>(x: Tensor<D>, lambda: f64) -> Tensor<D> {
    x.clone().detach() * (1.0 + lambda) - x * lambda
}
