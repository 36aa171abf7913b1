//! The operations as an extension of Burn's backends. Default bodies are made of Burn's own
//! operations; `flex` and `autodiff` replace them where there is something better.

use crate::{
    Activation, AdamStep, ConvOptions, Filter, GridOptions, Mask, ScanDirection, fallback, norm::Scope,
    recurrent::plain,
};
use burn::backend::{Backend, backend_extension, tensor::FloatTensor};

pub use crate::optional::Optional;

/// What shares the statistics of a normalisation.
pub type NormScope = Scope;

/// Kiln's operations on one backend. Sizes: near field `[n, c, h, w]`, far field `[n, f, oh, ow]`,
/// weights `[f, c / groups, kh, kw]`; see [`crate::conv`].
#[backend_extension(Flex, Cube: cfg(any(feature = "wgpu", feature = "cuda")), Autodiff)]
pub trait KernelOps: Backend {
    /// Far field of `size` from the near field.
    fn conv_far(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: Optional<Self>,
        options: ConvOptions,
        size: [usize; 2],
    ) -> FloatTensor<Self> {
        fallback::conv_far::<Self>(x, weight, bias, options, size)
    }

    /// Near field of `size` from the far field.
    fn conv_near(
        g: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: Optional<Self>,
        options: ConvOptions,
        size: [usize; 2],
    ) -> FloatTensor<Self> {
        fallback::conv_near::<Self>(g, weight, bias, options, size)
    }

    /// Weight gradient from near and far field.
    fn conv_weights(
        x: FloatTensor<Self>,
        g: FloatTensor<Self>,
        kernel: [usize; 2],
        options: ConvOptions,
    ) -> FloatTensor<Self> {
        fallback::conv_weights::<Self>(x, g, kernel, options)
    }

    /// Sum over all but the channel axis: `[c]`.
    fn channel_sums(x: FloatTensor<Self>) -> FloatTensor<Self> {
        fallback::channel_sums::<Self>(x)
    }

    /// Normalisation, affine step and activation. Gamma and beta are `[c]`, `[n, c]` or of `x`'s shape.
    fn normalise(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        scope: NormScope,
        eps: f64,
        activation: Activation,
    ) -> FloatTensor<Self> {
        Self::normalise_with_statistics(x, gamma, beta, scope, eps, activation).0
    }

    /// As [`KernelOps::normalise`], with mean and biased variance of every cell, flat.
    fn normalise_with_statistics(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        scope: NormScope,
        eps: f64,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        fallback::normalise::<Self>(x, gamma, beta, scope, eps, activation)
    }

    /// Mean and biased variance of every channel, `[c]` each, untracked.
    fn batch_statistics(x: FloatTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>) {
        fallback::statistics::<Self>(x, Scope::Batch)
    }

    /// Normalisation under given statistics, affine step and activation.
    #[allow(clippy::too_many_arguments)]
    fn normalise_by(
        x: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        var: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        scope: NormScope,
        eps: f64,
        activation: Activation,
    ) -> FloatTensor<Self> {
        fallback::normalise_by::<Self>(x, mean, var, gamma, beta, scope, eps, activation)
    }

    /// Gradients in input, gamma and beta of a normalisation for output gradient `g`, through the
    /// statistics if they are `x`'s. Without `wants_input` the first is meaningless.
    #[allow(clippy::too_many_arguments)]
    fn norm_backward(
        x: FloatTensor<Self>,
        g: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        var: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        scope: NormScope,
        eps: f64,
        activation: Activation,
        wants_input: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let _ = wants_input;
        fallback::norm_backward::<Self>(x, g, mean, var, gamma, beta, scope, eps, activation)
    }

    /// `a(x)`.
    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        fallback::activate::<Self>(x, activation)
    }

    /// `g a'(x)`.
    fn activation_backward(x: FloatTensor<Self>, g: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        fallback::unactivate::<Self>(x, g, activation)
    }

    /// `a(x + y)` of equal shapes.
    fn add_activate(x: FloatTensor<Self>, y: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        fallback::activate::<Self>(Self::float_add(x, y), activation)
    }

    /// `[n, a, ..]` and `[n, b, ..]` as `[n, a + b, ..]`.
    fn concat(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_cat(vec![x, y], 1)
    }

    /// The given channels of `[n, c, ..]`.
    fn channels(x: FloatTensor<Self>, start: usize, count: usize) -> FloatTensor<Self> {
        fallback::channels::<Self>(x, start, count)
    }

    /// Parameter, first and second moment after a step of Adam; not differentiable.
    fn adam(
        value: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: AdamStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        fallback::adam::<Self>(value, gradient, first, second, step)
    }

    /// `(1 - weight) x + weight y`.
    fn lerp(x: FloatTensor<Self>, y: FloatTensor<Self>, weight: f64) -> FloatTensor<Self> {
        fallback::lerp::<Self>(x, y, weight)
    }

    /// Sum of the squares of all elements, `[1]`.
    fn sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_sum(Self::float_mul(x.clone(), x))
    }

    /// Attention.
    fn attend(q: FloatTensor<Self>, k: FloatTensor<Self>, v: FloatTensor<Self>, mask: Mask) -> FloatTensor<Self> {
        Self::attend_with_logs(q, k, v, mask).0
    }

    /// Attention of positions to one another: `[n, 3 heads, d, positions]` to `[n, heads, d, positions]`.
    fn attend_within(qkv: FloatTensor<Self>) -> FloatTensor<Self> {
        let [q, k, v] = fallback::thirds::<Self>(qkv);
        Self::float_swap_dims(Self::attend(q, k, v, Mask::None), 2, 3)
    }

    /// As [`KernelOps::attend`], with the logarithm of the softmax's denominator `[n, heads, queries]`.
    fn attend_with_logs(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: Mask,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        fallback::attention::<Self>(q, k, v, &mask)
    }

    /// Gradients of attention in queries, keys and values for output gradient `g`, given the output and the
    /// logarithms. Those not in `wants` are meaningless.
    #[allow(clippy::too_many_arguments)]
    fn attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        logs: FloatTensor<Self>,
        g: FloatTensor<Self>,
        mask: Mask,
        wants: [bool; 3],
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let _ = wants;
        fallback::attention_backward::<Self>([q, k, v], out, logs, g, &mask)
    }

    /// `tanh(a) sigmoid(b)` of the first and the second half of the channels.
    fn gate(x: FloatTensor<Self>) -> FloatTensor<Self> {
        fallback::gate::<Self>(x)
    }

    /// Its gradient in `x` for output gradient `g`.
    fn gate_backward(x: FloatTensor<Self>, g: FloatTensor<Self>) -> FloatTensor<Self> {
        fallback::ungate::<Self>(x, g)
    }

    /// Hidden states of a convolutional LSTM, and what its gradient wants kept; see [`crate::recurrent`].
    fn recur(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        direction: ScanDirection,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        plain::forward::<Self>(x, weight, direction)
    }

    /// Its gradients in input and weights for the gradient `g` in the hidden states.
    fn recur_backward(
        weight: FloatTensor<Self>,
        kept: FloatTensor<Self>,
        g: FloatTensor<Self>,
        direction: ScanDirection,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        plain::backward::<Self>(weight, kept, g, direction)
    }

    /// Rows and columns mapped by a filter each.
    fn resample(x: FloatTensor<Self>, rows: Filter, columns: Filter) -> FloatTensor<Self> {
        fallback::resample::<Self>(x, &rows, &columns)
    }

    /// Pictures read at the places of a grid.
    fn grid_sample(x: FloatTensor<Self>, grid: FloatTensor<Self>, options: GridOptions) -> FloatTensor<Self> {
        fallback::grid_sample::<Self>(x, grid, options)
    }

    /// Its gradients in pictures and grid for output gradient `g`. Those not in `wants` are meaningless.
    fn grid_sample_backward(
        x: FloatTensor<Self>,
        grid: FloatTensor<Self>,
        g: FloatTensor<Self>,
        options: GridOptions,
        wants: [bool; 2],
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let _ = wants;
        fallback::grid_sample_backward::<Self>(x, grid, g, options)
    }

    /// `x Wᵀ + b`.
    fn fully_connected(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: Optional<Self>,
    ) -> FloatTensor<Self> {
        fallback::linear::<Self>(x, weight, bias)
    }
}
