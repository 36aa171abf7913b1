//! Layers that only discriminators use.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};

use crate::attention::attention;
use crate::dual::Signal;
use crate::{Conv2d, Conv2dConfig, Embedding, Init, Parametrization, WeightInit, concat};

/// Minibatch standard deviation (Karras 2018, section 3): appends a channel with the mean, over all features, of the
/// standard deviation over a group of samples. Samples i, i + n / size, … form a group, as in StyleGAN2; its size is the
/// largest divisor of n up to `group`.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c + 1, h, w]`
pub fn minibatch_std<X: Signal<4>>(x: X, group: usize) -> X {
    let [n, c, h, w] = x.dims();
    let members = (1..=group.min(n)).rev().find(|size| n.is_multiple_of(*size)).unwrap_or(1);
    let groups = n / members;
    let grouped = x.clone().reshape([members, groups, c * h * w]);
    let centred = grouped.linear(|x| x.clone() - x.mean_dim(0));
    let deviation = (centred.square().mean_dims(&[0]) + 1e-8).sqrt().mean_dims(&[2]);
    let channel =
        deviation.linear(|d| d.reshape([1, groups, 1, 1]).expand([members, groups, 1, h * w]).reshape([n, 1, h, w]));
    concat(x, channel)
}

/// The inner product of an image's features with its class embedding, which a projection discriminator adds to its
/// score (Miyato & Koyama 2018, equation 9).
///
/// # Shapes
/// `[n, features]`, `[n]` → `[n, 1]`
pub fn project<X: Signal<2>>(features: X, table: &Embedding, classes: Tensor<1, Int>) -> X {
    let vectors = table.select::<X::Pass>(classes);
    features.linear(|x| (x * vectors.clone()).sum_dim(1))
}

/// SAGAN's self-attention (Zhang 2019, equations 1 to 3): attention between all pixels over an eighth of the channels,
/// scaled by a γ that starts at 0 and added to the input.
#[derive(Module, Debug)]
pub struct SelfAttention {
    query: Conv2d,
    key: Conv2d,
    value: Conv2d,
    out: Conv2d,
    /// γ, `[1]`.
    pub gamma: Param<Tensor<1>>,
}

impl SelfAttention {
    /// All 1×1 convolutions, without bias, are drawn so and take `parametrization`.
    pub fn new(channels: usize, weight: WeightInit, parametrization: Parametrization, init: &mut Init) -> Self {
        let mut conv = |inputs, outputs| {
            Conv2dConfig { bias: false, weight, parametrization, ..Conv2dConfig::new(inputs, outputs, 1) }.init(init)
        };
        let inner = (channels / 8).max(1);
        Self {
            query: conv(channels, inner),
            key: conv(channels, inner),
            value: conv(channels, inner),
            out: conv(inner, channels),
            gamma: init.weight([1], 1, WeightInit::Zero),
        }
    }

    /// # Shapes
    /// `[n, channels, h, w]` → the same
    pub fn forward<X: Signal<4>>(&self, x: X) -> X {
        let [n, _, h, w] = x.dims();
        let sequence = |conv: &Conv2d| {
            conv.forward(x.clone()).linear(|y| {
                let [n, c, h, w] = y.dims();
                y.reshape([n, 1, c, h * w]).swap_dims(2, 3)
            })
        };
        let [q, k, v] = [&self.query, &self.key, &self.value].map(sequence);
        // The paper does not divide by √d.
        let inner = q.dims()[3];
        let found = attention(q * (inner as f64).sqrt(), k, v);
        let found = found.linear(|y| y.swap_dims(2, 3).reshape([n, inner, h, w]));
        x + self.out.forward(found) * X::constant(self.gamma.val().reshape([1, 1, 1, 1]))
    }
}
