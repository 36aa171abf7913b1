//! Directional derivatives: one `forward` for plain passes and for tangent passes.
//!
//! Gradient penalties (R1, WGAN-GP, path length) need the parameter gradient of φ(g) with g = ∇ₓD(x), but the engine
//! differentiates only once. With v = ∂φ/∂g held constant, that gradient equals the gradient of the directional
//! derivative ⟨∇ₓD(x), v⟩, which is the tangent of D's output as x moves along v (Pearlmutter 1994). So the network runs
//! on a [`Dual`], which carries value and tangent through the layers by ordinary operations, and one backward pass does
//! the rest: see [`crate::penalty`].
//!
//! Layers and activations take any [`Signal`], a plain tensor or a dual. A layer that is linear in its input maps value
//! and tangent alike, so that one line serves both; the others state their derivative.

use std::ops::{Add, Div, Mul, Sub};

use burn::tensor::Tensor;

/// A tensor and how it changes along a direction. No tangent is a tangent of zeros.
#[derive(Clone, Debug)]
pub struct Dual<const D: usize> {
    /// Where the function is.
    pub value: Tensor<D>,
    /// Its directional derivative, of the same shape.
    pub tangent: Option<Tensor<D>>,
}

/// A kind of pass through a network: [`Plain`] or [`Tangent`].
pub trait Pass: Sized {
    /// Whether derivatives are carried along. Layers do not update their running statistics then: the plain pass over
    /// the same input has done so.
    const TANGENT: bool;
    /// What goes through the layers.
    type Of<const D: usize>: Signal<D, Pass = Self>;
}

/// Values alone.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

/// Values with their derivatives.
#[derive(Clone, Copy, Debug)]
pub struct Tangent;

impl Pass for Plain {
    const TANGENT: bool = false;
    type Of<const D: usize> = Tensor<D>;
}

impl Pass for Tangent {
    const TANGENT: bool = true;
    type Of<const D: usize> = Dual<D>;
}

/// What `X`, a [`Signal`] of `D` dimensions, is in `E` dimensions.
pub type Of<X, const D: usize, const E: usize> = <<X as Signal<D>>::Pass as Pass>::Of<E>;

/// What goes through a layer: a [`Tensor`] or a [`Dual`].
pub trait Signal<const D: usize>:
    Clone
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Add<f64, Output = Self>
    + Mul<f64, Output = Self>
{
    /// The pass it belongs to.
    type Pass: Pass<Of<D> = Self>;

    /// Value and tangent.
    fn into_parts(self) -> (Tensor<D>, Option<Tensor<D>>);

    /// The signal of this value and tangent. A plain one has no use for a tangent.
    fn from_parts(value: Tensor<D>, tangent: Option<Tensor<D>>) -> Self;

    /// The value.
    fn value(&self) -> &Tensor<D>;

    /// A value that does not change along the direction: a label's embedding, noise, a parameter.
    fn constant(value: Tensor<D>) -> Self {
        Self::from_parts(value, None)
    }

    /// Sizes of its dimensions.
    fn dims(&self) -> [usize; D] {
        self.value().dims()
    }

    /// f(x) with a linear f.
    fn linear<const E: usize>(self, f: impl Fn(Tensor<D>) -> Tensor<E>) -> Of<Self, D, E> {
        self.affine(None, |x, _| f(x))
    }

    /// f(x, bias), linear in x without the bias.
    fn affine<const E: usize>(
        self,
        bias: Option<Tensor<1>>,
        f: impl Fn(Tensor<D>, Option<Tensor<1>>) -> Tensor<E>,
    ) -> Of<Self, D, E> {
        let (x, dx) = self.into_parts();
        Of::<Self, D, E>::from_parts(f(x, bias), dx.map(|dx| f(dx, None)))
    }

    /// f(x, y), linear in each: products of all kinds, with broadcasting as `f` does it.
    fn bilinear<const B: usize, const E: usize>(
        self,
        other: Of<Self, D, B>,
        f: impl Fn(Tensor<D>, Tensor<B>) -> Tensor<E>,
    ) -> Of<Self, D, E> {
        let ((x, dx), (y, dy)) = (self.into_parts(), other.into_parts());
        let tangent = sum(dx.map(|dx| f(dx, y.clone())), dy.map(|dy| f(x.clone(), dy)));
        Of::<Self, D, E>::from_parts(f(x, y), tangent)
    }

    /// f of each element, whose derivative is `slope`.
    fn elementwise(self, f: impl FnOnce(Tensor<D>) -> Tensor<D>, slope: impl FnOnce(Tensor<D>) -> Tensor<D>) -> Self {
        let (x, dx) = self.into_parts();
        let tangent = dx.map(|dx| dx * slope(x.clone()));
        Self::from_parts(f(x), tangent)
    }

    /// The same numbers in another shape.
    fn reshape<const E: usize>(self, shape: [usize; E]) -> Of<Self, D, E> {
        self.linear(|x| x.reshape(shape))
    }

    /// Everything of a sample in one row: `[n, …]` → `[n, features]`.
    fn flatten(self) -> Of<Self, D, 2> {
        let shape = self.dims();
        self.reshape([shape[0], shape[1..].iter().product()])
    }

    /// Sums along `axes`, which stay with length 1.
    fn sum_dims(self, axes: &[usize]) -> Self {
        self.linear(|x| x.sum_dims(axes))
    }

    /// Means along `axes`, which stay with length 1.
    fn mean_dims(self, axes: &[usize]) -> Self {
        self.linear(|x| x.mean_dims(axes))
    }

    /// x².
    fn square(self) -> Self {
        self.elementwise(|x| x.square(), |x| x * 2.0)
    }

    /// √x.
    fn sqrt(self) -> Self {
        self.elementwise(|x| x.sqrt(), |x| x.sqrt().recip() * 0.5)
    }

    /// 1 / x.
    fn recip(self) -> Self {
        self.elementwise(|x| x.recip(), |x| x.square().recip() * -1.0)
    }

    /// The hyperbolic tangent.
    fn tanh(self) -> Self {
        self.elementwise(|x| x.tanh(), |x| x.tanh().square() * -1.0 + 1.0)
    }

    /// Zero mean and unit variance (biased) along `axes`: (x − mean) / √(var + ε).
    fn standardise(self, axes: &[usize], eps: f64) -> Self {
        let centred = self.linear(|x| x.clone() - x.mean_dims(axes));
        let variance = centred.clone().square().mean_dims(axes);
        centred / (variance + eps).sqrt()
    }
}

/// a + b, where `None` is zero.
pub(crate) fn sum<const D: usize>(a: Option<Tensor<D>>, b: Option<Tensor<D>>) -> Option<Tensor<D>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        (a, b) => a.or(b),
    }
}

impl<const D: usize> Signal<D> for Tensor<D> {
    type Pass = Plain;

    fn into_parts(self) -> (Tensor<D>, Option<Tensor<D>>) {
        (self, None)
    }

    fn from_parts(value: Tensor<D>, _tangent: Option<Tensor<D>>) -> Self {
        value
    }

    fn value(&self) -> &Tensor<D> {
        self
    }
}

impl<const D: usize> Signal<D> for Dual<D> {
    type Pass = Tangent;

    fn into_parts(self) -> (Tensor<D>, Option<Tensor<D>>) {
        (self.value, self.tangent)
    }

    fn from_parts(value: Tensor<D>, tangent: Option<Tensor<D>>) -> Self {
        Self { value, tangent }
    }

    fn value(&self) -> &Tensor<D> {
        &self.value
    }
}

impl<const D: usize> Dual<D> {
    /// `value` on its way along `tangent`.
    pub fn new(value: Tensor<D>, tangent: Tensor<D>) -> Self {
        Self { value, tangent: Some(tangent) }
    }
}

/// A tangent of the value's shape, where the value was made by broadcasting.
fn spread<const D: usize>(tangent: Option<Tensor<D>>, value: &Tensor<D>) -> Option<Tensor<D>> {
    tangent.map(|t| if t.dims() == value.dims() { t } else { t.expand(value.dims()) })
}

impl<const D: usize> Add for Dual<D> {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let value = self.value + other.value;
        Self { tangent: spread(sum(self.tangent, other.tangent), &value), value }
    }
}

impl<const D: usize> Sub for Dual<D> {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + other * -1.0
    }
}

impl<const D: usize> Mul for Dual<D> {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        self.bilinear(other, |x, y| x * y)
    }
}

impl<const D: usize> Div for Dual<D> {
    type Output = Self;

    fn div(self, other: Self) -> Self {
        self.mul(other.recip())
    }
}

impl<const D: usize> Add<f64> for Dual<D> {
    type Output = Self;

    fn add(self, constant: f64) -> Self {
        Self { value: self.value + constant, ..self }
    }
}

impl<const D: usize> Mul<f64> for Dual<D> {
    type Output = Self;

    fn mul(self, factor: f64) -> Self {
        self.linear(|x| x * factor)
    }
}

/// A network as a function of one input, with whatever else it needs (labels, noise) as fields. Written once for all
/// signals:
///
/// ```
/// # use kiln_nn::{Conv2d, dual::{Differentiable, Of, Signal}};
/// struct Critic<'a>(&'a Conv2d);
/// impl Differentiable<4, 2> for Critic<'_> {
///     fn apply<X: Signal<4>>(&self, x: X) -> Of<X, 4, 2> {
///         self.0.forward(x).flatten()
///     }
/// }
/// ```
pub trait Differentiable<const I: usize, const O: usize> {
    /// The function.
    fn apply<X: Signal<I>>(&self, x: X) -> Of<X, I, O>;
}
