//! Attention over sequences and feature maps.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, activation};
pub use kiln_kernels::Mask;
use kiln_kernels::self_attention;

use crate::dual::{Pass, Signal};
use crate::{Activation, Conv2d, Conv2dConfig, GroupNorm, Init, Linear, LinearConfig, WeightInit, add_activate, cost};

/// Scaled dot-product attention, softmax(q·kᵀ / √d)·v (Vaswani 2017, equation 1).
///
/// # Shapes
/// `[n, heads, queries, d]`, `[n, heads, keys, d]`, `[n, heads, keys, e]` → `[n, heads, queries, e]`
pub fn attention<X: Signal<4>>(q: X, k: X, v: X) -> X {
    if !X::Pass::TANGENT {
        return X::from_parts(masked_attention(q.into_parts().0, k.into_parts().0, v.into_parts().0, Mask::None), None);
    }
    let d = q.dims()[3] as f64;
    let scores = q.bilinear(k, |q, k| q.matmul(k.swap_dims(2, 3))) * d.sqrt().recip();
    softmax(scores).bilinear(v, |p, v| p.matmul(v))
}

/// Softmax along the last axis: of a tangent ẋ, p (ẋ − Σ p ẋ).
fn softmax<X: Signal<4>>(x: X) -> X {
    let (x, dx) = x.into_parts();
    let p = activation::softmax(x, 3);
    let tangent = dx.map(|dx| {
        let mean = (p.clone() * dx.clone()).sum_dim(3);
        p.clone() * (dx - mean)
    });
    X::from_parts(p, tangent)
}

/// [`attention`] to the keys that `mask` leaves a query: those before it, or those a caption has.
pub fn masked_attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: Mask) -> Tensor<4> {
    let ([n, heads, queries, d], [_, _, keys, e]) = (q.dims(), v.dims());
    cost::count(&[n, heads, queries, keys, d + e]);
    kiln_kernels::attention(q, k, v, mask)
}

/// Residual self-attention between all positions of a feature map (Ho 2020, appendix B):
/// GroupNorm, 1×1 projections to query, key and value, attention, 1×1 projection, sum.
#[derive(Module, Debug)]
pub struct FeatureAttention {
    norm: GroupNorm,
    qkv: Conv2d,
    proj: Conv2d,
    #[module(skip)]
    heads: usize,
}

impl FeatureAttention {
    /// `channels` must be divisible by `groups` and by `heads`.
    pub fn new(channels: usize, groups: usize, heads: usize, init: &mut Init) -> Self {
        Self {
            norm: GroupNorm::new(groups, channels, init),
            qkv: Conv2dConfig::new(channels, 3 * channels, 1).init(init),
            // Zero: the block starts as the identity.
            proj: Conv2dConfig { weight: WeightInit::Zero, ..Conv2dConfig::new(channels, channels, 1) }.init(init),
            heads,
        }
    }

    /// # Shapes
    /// `[n, channels, h, w]` → the same
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [n, c, h, w] = x.dims();
        let qkv = self.qkv.forward(self.norm.forward(x.clone(), Activation::None));
        cost::count(&[n, h * w, h * w, 2 * c]);
        let out = self_attention(qkv.reshape([n, 3 * self.heads, c / self.heads, h * w]));
        add_activate(self.proj.forward(out.reshape([n, c, h, w])), x, Activation::None)
    }
}

/// Pooling by attention: what the mean of all positions sees of them, each position and the mean having a learned place
/// (`AttentionPool2d` of CLIP, Radford 2021, §2.4, and of the classifiers of Dhariwal & Nichol 2021).
#[derive(Module, Debug)]
pub struct AttentionPool {
    /// `[1, 1 + h·w, channels]`, the mean's first.
    positional_embedding: Param<Tensor<3>>,
    qkv: Linear,
    #[module(skip)]
    heads: usize,
}

impl AttentionPool {
    /// Of feature maps of so many `positions`. `channels` must be divisible by `heads`.
    pub fn new(positions: usize, channels: usize, heads: usize, init: &mut Init) -> Self {
        Self {
            positional_embedding: init.normal([1, positions + 1, channels], 0.0, (channels as f64).sqrt().recip()),
            qkv: LinearConfig::new(channels, 3 * channels).init(init),
            heads,
        }
    }

    /// # Shapes
    /// `[n, channels, h, w]` → `[n, channels]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let [n, c, h, w] = x.dims();
        let all = x.reshape([n, c, h * w]).swap_dims(1, 2);
        let tokens = Tensor::cat(vec![all.clone().mean_dim(1), all], 1) + self.positional_embedding.val();
        let qkv = self.qkv.forward(tokens);
        let part = |i: usize, count: usize| {
            let of = qkv.clone().slice([0..n, 0..count, i * c..(i + 1) * c]);
            of.reshape([n, count, self.heads, c / self.heads]).swap_dims(1, 2)
        };
        // Only the mean asks.
        let seen = attention(part(0, 1), part(1, h * w + 1), part(2, h * w + 1));
        seen.reshape([n, c])
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_core::random::Key;

    use super::*;
    use crate::tensor::{normal, to_values};

    /// Written out head by head for one picture: softmax(q·k / √d)·v with q of the mean.
    #[test]
    fn pooling_is_what_the_mean_sees() {
        let device = Device::flex();
        let (channels, heads, positions) = (6, 2, 4);
        let pool = AttentionPool::new(positions, channels, heads, &mut Init::new(&device, 1));
        let x = normal(Key::new(0), 0..2, [2, channels, 2, 2], &device);
        let got = to_values(pool.forward(x.clone()));
        let values = to_values(x);
        let places = to_values(pool.positional_embedding.val());
        let weight = to_values(pool.qkv.weight.val());
        let bias = pool.qkv.bias.as_ref().map(|bias| to_values(bias.val())).unwrap_or_default();
        for n in 0..2 {
            let at = |c: usize, p: usize| f64::from(values[(n * channels + c) * positions + p]);
            let token = |t: usize, c: usize| {
                let mean = || (0..positions).map(|p| at(c, p)).sum::<f64>() / positions as f64;
                f64::from(places[t * channels + c]) + if t == 0 { mean() } else { at(c, t - 1) }
            };
            let projected = |t: usize, row: usize| {
                let sum = (0..channels).map(|c| f64::from(weight[row * channels + c]) * token(t, c)).sum::<f64>();
                sum + f64::from(bias[row])
            };
            let d = channels / heads;
            for head in 0..heads {
                let row = |part: usize, i: usize| part * channels + head * d + i;
                let score = |t: usize| (0..d).map(|i| projected(0, row(0, i)) * projected(t, row(1, i))).sum::<f64>();
                let weights: Vec<f64> = (0..=positions).map(|t| (score(t) / (d as f64).sqrt()).exp()).collect();
                let total: f64 = weights.iter().sum();
                for i in 0..d {
                    let expected: f64 =
                        weights.iter().enumerate().map(|(t, w)| w / total * projected(t, row(2, i))).sum();
                    let got = f64::from(got[n * channels + head * d + i]);
                    assert!((got - expected).abs() < 1e-5, "{got} instead of {expected}");
                }
            }
        }
    }
}
