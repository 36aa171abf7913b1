//! Transformer blocks on sequences and on feature maps, under the names that diffusers gives their
//! parameters.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::gelu;

use crate::attention::attention;
use crate::{Activation, Conv2d, Conv2dConfig, GroupNorm, Init, LayerNorm, Linear, LinearConfig, WeightInit};

/// Multi-head attention of a sequence over itself or over a context (Vaswani 2017, §3.2.2).
#[derive(Module, Debug)]
pub struct MultiHeadAttention {
    /// Normalises a feature map that attends without a block around it.
    group_norm: Option<GroupNorm>,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    /// A list in diffusers, whose second entry is a dropout.
    to_out: [Linear; 1],
    #[module(skip)]
    heads: usize,
}

impl MultiHeadAttention {
    /// Queries from `features`, keys and values from `context` features, `heads` of `head_size`
    /// each; projections without bias but the last.
    pub fn new(features: usize, context: usize, heads: usize, head_size: usize, init: &mut Init) -> Self {
        let inner = heads * head_size;
        let project = |inputs: usize, init: &mut Init| {
            LinearConfig { bias: false, ..LinearConfig::new(inputs, inner) }.init(init)
        };
        Self {
            group_norm: None,
            to_q: project(features, init),
            to_k: project(context, init),
            to_v: project(context, init),
            to_out: [LinearConfig::new(inner, features).init(init)],
            heads,
        }
    }

    /// Self-attention between the positions of a feature map of `channels`, every projection with a
    /// bias, the map normalised first if there is a `norm`.
    pub fn of_map(channels: usize, norm: Option<GroupNorm>, heads: usize, init: &mut Init) -> Self {
        let project = |init: &mut Init| LinearConfig::new(channels, channels).init(init);
        Self {
            group_norm: norm,
            to_q: project(init),
            to_k: project(init),
            to_v: project(init),
            to_out: [project(init)],
            heads,
        }
    }

    /// # Shapes
    /// `[n, queries, features]`, and `[n, keys, context]` or `None` for self-attention →
    /// `[n, queries, features]`
    pub fn forward(&self, x: Tensor<3>, context: Option<Tensor<3>>) -> Tensor<3> {
        let context = context.unwrap_or_else(|| x.clone());
        let heads = |y: Tensor<3>| {
            let [n, len, inner] = y.dims();
            y.reshape([n, len, self.heads, inner / self.heads]).swap_dims(1, 2)
        };
        let (q, k) = (heads(self.to_q.forward(x)), heads(self.to_k.forward(context.clone())));
        let out = attention(q, k, heads(self.to_v.forward(context)));
        let [n, heads, len, size] = out.dims();
        self.to_out[0].forward(out.swap_dims(1, 2).reshape([n, len, heads * size]))
    }

    /// Normalisation if there is one, attention over all positions, sum with the input.
    ///
    /// # Shapes
    /// `[n, channels, h, w]` → the same
    pub fn forward_map(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, h, w] = x.dims();
        let normed = match &self.group_norm {
            Some(norm) => norm.forward(x.clone(), Activation::None),
            None => x.clone(),
        };
        x + to_map(self.forward(to_sequence(normed), None), [h, w])
    }
}

/// Positions of a map, row by row: `[n, c, h, w]` → `[n, h·w, c]`.
fn to_sequence(x: Tensor<4>) -> Tensor<3> {
    let [n, c, h, w] = x.dims();
    x.reshape([n, c, h * w]).swap_dims(1, 2)
}

/// The inverse: `[n, h·w, c]` → `[n, c, h, w]`.
fn to_map(x: Tensor<3>, [h, w]: [usize; 2]) -> Tensor<4> {
    let [n, _, c] = x.dims();
    x.swap_dims(1, 2).reshape([n, c, h, w])
}

/// A gated linear unit, a · GELU(b) with (a, b) one projection (Shazeer 2020, equation 6).
#[derive(Module, Debug)]
pub struct Geglu {
    proj: Linear,
}

impl Geglu {
    /// `inputs` → `outputs` features.
    pub fn new(inputs: usize, outputs: usize, init: &mut Init) -> Self {
        Self { proj: LinearConfig::new(inputs, 2 * outputs).init(init) }
    }

    /// # Shapes
    /// `[n, len, inputs]` → `[n, len, outputs]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let both = self.proj.forward(x);
        let half = both.dims()[2] / 2;
        both.clone().narrow(2, 0, half) * gelu(both.narrow(2, half, half))
    }
}

/// Stands where diffusers has a dropout, which the published networks leave at 0.
#[derive(Module, Debug)]
pub struct NoDropout;

/// Two layers on each position, four times as wide between.
#[derive(Module, Debug)]
pub struct FeedForward {
    net: (Geglu, NoDropout, Linear),
}

impl FeedForward {
    /// On positions of `features`.
    pub fn new(features: usize, init: &mut Init) -> Self {
        let wide = 4 * features;
        let first = Geglu::new(features, wide, init);
        Self { net: (first, NoDropout, LinearConfig::new(wide, features).init(init)) }
    }

    /// # Shapes
    /// `[n, len, features]` → the same
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.net.2.forward(self.net.0.forward(x))
    }
}

/// Self-attention, attention over the context, feed-forward; each on the normalised input and summed
/// with it (Rombach 2022, appendix E.2.1).
#[derive(Module, Debug)]
pub struct TransformerBlock {
    norm1: LayerNorm,
    attn1: MultiHeadAttention,
    norm2: LayerNorm,
    attn2: MultiHeadAttention,
    norm3: LayerNorm,
    ff: FeedForward,
    #[module(skip)]
    only_cross_attention: bool,
}

impl TransformerBlock {
    /// `only_cross_attention` attends over the context in place of itself.
    pub fn new(features: usize, context: usize, heads: usize, only_cross_attention: bool, init: &mut Init) -> Self {
        let size = features / heads;
        let first = if only_cross_attention { context } else { features };
        Self {
            norm1: LayerNorm::new(features, init),
            attn1: MultiHeadAttention::new(features, first, heads, size, init),
            norm2: LayerNorm::new(features, init),
            attn2: MultiHeadAttention::new(features, context, heads, size, init),
            norm3: LayerNorm::new(features, init),
            ff: FeedForward::new(features, init),
            only_cross_attention,
        }
    }

    /// # Shapes
    /// `[n, len, features]`, `[n, tokens, context]` → `[n, len, features]`
    pub fn forward(&self, x: Tensor<3>, context: &Tensor<3>) -> Tensor<3> {
        let first = self.only_cross_attention.then(|| context.clone());
        let x = self.attn1.forward(self.norm1.forward(x.clone()), first) + x;
        let x = self.attn2.forward(self.norm2.forward(x.clone()), Some(context.clone())) + x;
        self.ff.forward(self.norm3.forward(x.clone())) + x
    }
}

/// The shape of a [`SpatialTransformer`].
#[derive(Clone, Debug)]
pub struct SpatialTransformerConfig {
    /// Channels of the map, divisible by `heads` and `groups`.
    pub channels: usize,
    /// Features of the context.
    pub context: usize,
    /// Attention heads.
    pub heads: usize,
    /// Groups of the normalisation.
    pub groups: usize,
    /// Blocks one after another.
    pub blocks: usize,
    /// Projections to and from the blocks by linear layers in place of 1×1 convolutions.
    pub linear: bool,
    /// Blocks attend over the context twice and never over themselves.
    pub only_cross_attention: bool,
    /// The last projection starts at zero, and so the whole as the identity.
    pub identity_at_start: bool,
}

/// A 1×1 projection, as a convolution of the map or as a linear layer on the sequence.
#[derive(Module, Debug)]
enum Projection {
    Conv(Conv2d),
    Linear(Linear),
}

impl Projection {
    fn new(channels: usize, linear: bool, weight: WeightInit, init: &mut Init) -> Self {
        if linear {
            Self::Linear(LinearConfig { weight, ..LinearConfig::new(channels, channels) }.init(init))
        } else {
            Self::Conv(Conv2dConfig { weight, ..Conv2dConfig::new(channels, channels, 1) }.init(init))
        }
    }
}

/// Transformer blocks on the positions of a feature map that look at a context, around them
/// normalisation, projections and a sum with the input (Rombach 2022, appendix E.2.1; `Transformer2DModel`
/// of diffusers).
#[derive(Module, Debug)]
pub struct SpatialTransformer {
    norm: GroupNorm,
    proj_in: Projection,
    transformer_blocks: Vec<TransformerBlock>,
    proj_out: Projection,
}

impl SpatialTransformer {
    /// Makes the layers.
    pub fn new(config: &SpatialTransformerConfig, init: &mut Init) -> Self {
        let SpatialTransformerConfig { channels, context, heads, groups, blocks, linear, only_cross_attention, .. } =
            *config;
        let last = if config.identity_at_start { WeightInit::Zero } else { WeightInit::FanIn };
        Self {
            norm: GroupNorm::new(groups, channels, init).with_eps(1e-6),
            proj_in: Projection::new(channels, linear, WeightInit::FanIn, init),
            transformer_blocks: (0..blocks)
                .map(|_| TransformerBlock::new(channels, context, heads, only_cross_attention, init))
                .collect(),
            proj_out: Projection::new(channels, linear, last, init),
        }
    }

    /// # Shapes
    /// `[n, channels, h, w]`, `[n, tokens, context]` → `[n, channels, h, w]`
    pub fn forward(&self, x: Tensor<4>, context: &Tensor<3>) -> Tensor<4> {
        let [_, _, h, w] = x.dims();
        let normed = self.norm.forward(x.clone(), Activation::None);
        let mut sequence = match &self.proj_in {
            Projection::Conv(conv) => to_sequence(conv.forward(normed)),
            Projection::Linear(linear) => linear.forward(to_sequence(normed)),
        };
        for block in &self.transformer_blocks {
            sequence = block.forward(sequence, context);
        }
        x + match &self.proj_out {
            Projection::Conv(conv) => conv.forward(to_map(sequence, [h, w])),
            Projection::Linear(linear) => to_map(linear.forward(sequence), [h, w]),
        }
    }
}
