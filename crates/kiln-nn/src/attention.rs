//! Attention over sequences and feature maps.

use burn::module::Module;
use burn::tensor::{Tensor, activation};
pub use kiln_kernels::Mask;
use kiln_kernels::self_attention;

use crate::dual::{Pass, Signal};
use crate::{Activation, Conv2d, Conv2dConfig, GroupNorm, Init, WeightInit, add_activate, cost};

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
