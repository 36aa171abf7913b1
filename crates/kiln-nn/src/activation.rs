//! Activations and sums of [`Signal`]s.

use burn::tensor::{Tensor, activation::sigmoid};
pub use kiln_kernels::Activation;

use crate::dual::{Signal, sum};

/// a(x) of each element.
pub fn activate<const D: usize, X: Signal<D>>(x: X, activation: Activation) -> X {
    x.elementwise(|x| kiln_kernels::activate(x, activation), |x| slope(x, activation))
}

/// a(x + y), as at the end of a residual block. The shapes must be equal.
pub fn add_activate<const D: usize, X: Signal<D>>(x: X, y: X, activation: Activation) -> X {
    let ((x, dx), (y, dy)) = (x.into_parts(), y.into_parts());
    let tangent = sum(dx, dy).map(|t| t * slope(x.clone() + y.clone(), activation));
    X::from_parts(kiln_kernels::add_activate(x, y, activation), tangent)
}

/// `x` `[n, a, …]` and `y` `[n, b, …]` as `[n, a + b, …]`.
pub fn concat<const D: usize, X: Signal<D>>(x: X, y: X) -> X {
    let ((x, dx), (y, dy)) = (x.into_parts(), y.into_parts());
    let or_zeros = |tangent: Option<Tensor<D>>, value: &Tensor<D>| tangent.unwrap_or_else(|| value.zeros_like());
    let tangent = match (dx, dy) {
        (None, None) => None,
        (dx, dy) => Some(kiln_kernels::concat(or_zeros(dx, &x), or_zeros(dy, &y))),
    };
    X::from_parts(kiln_kernels::concat(x, y), tangent)
}

/// The largest of each unit's `pieces` (Goodfellow 2013, *Maxout Networks*): unit i has columns i·pieces, …,
/// (i + 1)·pieces − 1.
///
/// # Shapes
/// `[n, units·pieces]` → `[n, units]`
pub fn maxout<X: Signal<2>>(x: X, pieces: usize) -> X {
    let [n, columns] = x.dims();
    let units = columns / pieces;
    let (x, dx) = x.into_parts();
    let (value, which) = x.reshape([n, units, pieces]).max_dim_with_indices(2);
    let tangent = dx.map(|dx| dx.reshape([n, units, pieces]).gather(2, which).reshape([n, units]));
    X::from_parts(value.reshape([n, units]), tangent)
}

/// a′(x), made of operations that have a gradient themselves.
fn slope<const D: usize>(x: Tensor<D>, activation: Activation) -> Tensor<D> {
    // 1 where x > 0, 0 elsewhere.
    let positive = |x: Tensor<D>| x.detach().sign().clamp_min(0.0);
    // The slope of x·σ(i) with i′ = inner: s + x s (1 − s) i′.
    let gated = |x: Tensor<D>, s: Tensor<D>, inner: Tensor<D>| s.clone() + x * s.clone() * (s * -1.0 + 1.0) * inner;
    match activation {
        Activation::None => x.ones_like(),
        Activation::Relu => positive(x),
        Activation::LeakyRelu(slope) => positive(x) * (1.0 - f64::from(slope)) + f64::from(slope),
        Activation::Sigmoid => {
            let s = sigmoid(x);
            s.clone() * (s * -1.0 + 1.0)
        }
        Activation::Silu => gated(x.clone(), sigmoid(x.clone()), x.ones_like()),
        Activation::Gelu => {
            let below = (x.clone() * std::f64::consts::FRAC_1_SQRT_2).erf() * 0.5 + 0.5;
            let density = (x.clone().square() * -0.5).exp() * (0.5 / std::f64::consts::PI).sqrt();
            below + x * density
        }
        Activation::GeluTanh => {
            let factor = (8.0 / std::f64::consts::PI).sqrt();
            let cubic = x.clone().square() * 0.044_715;
            let s = sigmoid(x.clone() * (cubic.clone() + 1.0) * factor);
            gated(x, s, (cubic * 3.0 + 1.0) * factor)
        }
    }
}
