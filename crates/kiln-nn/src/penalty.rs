//! Gradient penalties as losses. Each has the right parameter gradient, although the engine differentiates only once:
//! [`crate::dual`] explains how.
//!
//! A penalty runs its function twice: a plain pass and its backward pass give the gradient g in the input, and a tangent
//! pass along v = ∂φ/∂g gives the loss. `device` is the autodiff device of the function's parameters, one of
//! `module.devices()`.

use burn::tensor::{Device, Tensor};

use crate::dual::{Differentiable, Dual};

/// R1 (Mescheder 2018, equation 9) without its γ: ½ E ‖∇ₓD(x)‖² at real pictures, D summed over its outputs. The same
/// at generated ones is R2.
///
/// # Shapes
/// `[n, …]` → `[1]`
pub fn r1<const I: usize, const O: usize>(
    critic: &impl Differentiable<I, O>,
    x: Tensor<I>,
    device: &Device,
) -> Tensor<1> {
    let x = on(x.inner(), device);
    let g = gradient(critic, x.clone());
    let n = g.dims()[0] as f64;
    let value = g.clone().square().sum() * (0.5 / n);
    with_derivative(value, along(critic, x, g * n.recip()))
}

/// The gradient penalty of WGAN-GP (Gulrajani 2017, equation 3) without its λ: E (‖∇D(x̂)‖₂ − 1)² at
/// x̂ = mix · real + (1 − mix) · fake with a `mix` from U(0, 1) for each sample, `[n]`.
///
/// # Shapes
/// `[n, …]`, `[n, …]`, `[n]` → `[1]`
pub fn wgan_gp<const I: usize, const O: usize>(
    critic: &impl Differentiable<I, O>,
    real: Tensor<I>,
    fake: Tensor<I>,
    mix: Tensor<1>,
    device: &Device,
) -> Tensor<1> {
    let (real, fake, mix) = (real.inner(), fake.inner(), per_sample(mix.inner()));
    let x = on(fake.clone() + (real - fake) * mix, device);
    let g = gradient(critic, x.clone());
    let n = g.dims()[0];
    let norms = g.clone().square().reshape([n as i64, -1]).sum_dim(1).sqrt().reshape([n]);
    let value = (norms.clone() - 1.0).square().mean();
    // ∂/∂g (‖g‖ − 1)² = 2 (‖g‖ − 1) g / ‖g‖, nothing where there is no gradient.
    let factor = (norms.clone() - 1.0) / norms.clamp_min(1e-12) * (2.0 / n as f64);
    with_derivative(value, along(critic, x, g * per_sample(factor)))
}

/// The running mean that [`path_length`] compares lengths with.
#[derive(Clone, Copy, Debug)]
pub struct MeanLength {
    /// a, 0 at first.
    pub mean: f64,
    /// The weight of each new batch: 0.01 in StyleGAN2.
    pub rate: f64,
}

/// Path length regularisation (Karras 2020, equation 4): E (‖Jᵀy‖₂ − a)², where J is the generator's Jacobian in w, y
/// random pictures and a the running mean of the lengths, which is updated first (and differentiated, as in the paper's code).
/// With a w for each layer,
/// `[n, layers, d]`, the squared length is the mean over layers. `noise` is drawn from N(0, 1) and divided by
/// √(height · width) here.
///
/// If w is tracked because a mapping network made it, the gradient reaches the mapping network too.
///
/// # Shapes
/// `[n, …, d]`, `[n, c, h, w]` → `[1]`
pub fn path_length<const I: usize>(
    generator: &impl Differentiable<I, 4>,
    w: Tensor<I>,
    noise: Tensor<4>,
    lengths: &mut MeanLength,
    device: &Device,
) -> Tensor<1> {
    let [n, _, height, width] = noise.dims();
    let noise = noise.inner() * ((height * width) as f64).sqrt().recip();
    let start = on(w.clone().inner(), device).require_grad();
    let projected = (generator.apply(start.clone()) * noise.clone()).sum();
    let g = start.grad(&projected.backward()).unwrap_or_else(|| start.zeros_like().inner());
    let features = w.dims()[I - 1];
    let layers = w.dims()[1..I - 1].iter().product::<usize>() as f64;
    let squares = g.clone().square().reshape([n, w.dims()[1..].iter().product::<usize>() / features, features]);
    let norms = (squares.sum_dims(&[1, 2]) / layers).sqrt().reshape([n]);
    let mean = norms.clone().mean().into_scalar::<f64>();
    lengths.mean += lengths.rate * (mean - lengths.mean);
    let apart = norms.clone() - lengths.mean;
    let value = apart.clone().square().mean();
    // ∂/∂g (‖g‖ − a)² = 2 (‖g‖ − a) g / (layers ‖g‖), less what the lengths do to a themselves.
    let apart = apart.clone() - apart.mean() * lengths.rate;
    let factor = apart / norms.clamp_min(1e-12) * (2.0 / (n as f64 * layers));
    let w = if w.is_autodiff() { w } else { on(w, device) };
    let tangent = generator.apply(Dual::new(w, g * per_sample(factor))).tangent;
    with_derivative(value, tangent.map(|t| (t * noise).sum()))
}

/// ∇ₓ of the sum of the outputs, plain.
fn gradient<const I: usize, const O: usize>(f: &impl Differentiable<I, O>, x: Tensor<I>) -> Tensor<I> {
    let x = x.require_grad();
    let gradients = f.apply(x.clone()).sum().backward();
    x.grad(&gradients).unwrap_or_else(|| x.zeros_like().inner())
}

/// The sum of the outputs' directional derivatives.
fn along<const I: usize, const O: usize>(
    f: &impl Differentiable<I, O>,
    x: Tensor<I>,
    direction: Tensor<I>,
) -> Option<Tensor<1>> {
    f.apply(Dual::new(x, direction)).tangent.map(Tensor::sum)
}

/// `value`, with the gradient of `derivative`.
fn with_derivative(value: Tensor<1>, derivative: Option<Tensor<1>>) -> Tensor<1> {
    match derivative {
        Some(d) => d.clone() - d.inner() + value,
        None => value,
    }
}

/// `x` on the autodiff device `device`, with its checkpointing strategy, which must be that of the parameters.
fn on<const D: usize>(x: Tensor<D>, device: &Device) -> Tensor<D> {
    match Tensor::<1>::zeros([1], device).gradient_checkpointing_strategy() {
        Some(strategy) => x.inner().autodiff().with_gradient_checkpointing_strategy(strategy),
        None => x.inner().autodiff(),
    }
}

/// `[n]` to multiply samples of `D` dimensions.
fn per_sample<const D: usize>(x: Tensor<1>) -> Tensor<D> {
    let mut shape = [1; D];
    shape[0] = x.dims()[0];
    x.reshape(shape)
}
