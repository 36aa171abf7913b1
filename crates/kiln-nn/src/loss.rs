//! Losses and log-likelihoods, each with its equation. Means are over every element unless said.

use burn::tensor::{Int, Tensor, activation};

/// mean (x − y)².
pub fn mse<const D: usize>(x: Tensor<D>, y: Tensor<D>) -> Tensor<1> {
    (x - y).square().mean()
}

/// mean |x − y|.
pub fn l1<const D: usize>(x: Tensor<D>, y: Tensor<D>) -> Tensor<1> {
    (x - y).abs().mean()
}

/// log(1 + eˣ), without overflow: max(x, 0) + log(1 + e^(−|x|)).
pub fn softplus<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::relu(x.clone()) + (-x.abs()).exp().log1p()
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

/// Mean cross-entropy −log softmax(logits)`[label]`.
///
/// # Shapes
/// `[n, classes]`, `[n]` → `[1]`
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    let n = labels.dims()[0];
    let log_p = activation::log_softmax(logits, 1);
    -log_p.gather(1, labels.reshape([n, 1])).mean()
}

/// KL(N(μ, σ²) ‖ N(0, 1)) = −½ Σ (1 + log σ² − μ² − σ²), summed over the latent
/// (Kingma & Welling 2014, appendix B).
///
/// # Shapes
/// `[n, d]`, `[n, d]` → `[n]`
pub fn gaussian_kl(mean: Tensor<2>, log_var: Tensor<2>) -> Tensor<1> {
    let n = mean.dims()[0];
    let terms = log_var.clone() + 1.0 - mean.square() - log_var.exp();
    (terms.sum_dim(1) * -0.5).reshape([n])
}

/// log N(x; μ, σ²) summed over everything but the first dimension:
/// −½ Σ (log 2π + log σ² + (x − μ)² / σ²).
///
/// # Shapes
/// `[n, d]` three times → `[n]`
pub fn gaussian_log_likelihood(x: Tensor<2>, mean: Tensor<2>, log_var: Tensor<2>) -> Tensor<1> {
    let n = x.dims()[0];
    let log_2pi = (2.0 * std::f64::consts::PI).ln();
    let terms = log_var.clone() + log_2pi + (x - mean).square() / log_var.exp();
    (terms.sum_dim(1) * -0.5).reshape([n])
}

/// log Bernoulli(x; σ(logits)) summed over everything but the first dimension.
///
/// # Shapes
/// `[n, d]`, `[n, d]` → `[n]`
pub fn bernoulli_log_likelihood(x: Tensor<2>, logits: Tensor<2>) -> Tensor<1> {
    let n = x.dims()[0];
    (-binary_cross_entropy(logits, x)).sum_dim(1).reshape([n])
}

/// Gradient reversal (Ganin 2015, equations 16–17): the identity forward, −λ times the gradient
/// backward. Written as (1 + λ)·x held constant, minus λ·x.
pub fn reverse_gradient<const D: usize>(x: Tensor<D>, lambda: f64) -> Tensor<D> {
    x.clone().detach() * (1.0 + lambda) - x * lambda
}
