//! Transformer encoders of texts and of images, under the names that the library transformers gives CLIP's parameters
//! (Radford 2021, §2.4).

use burn::module::{Module, Param};
use burn::tensor::activation::{gelu, sigmoid};
use burn::tensor::{Int, Tensor};

use crate::attention::{Mask, masked_attention};
use crate::{Conv2d, Conv2dConfig, Embedding, Init, LayerNorm, Linear, LinearConfig, Parametrization, WeightInit};

/// Which approximation of x·Φ(x).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gelu {
    /// x·Φ(x) itself.
    Exact,
    /// x·σ(1.702 x), of CLIP's first networks.
    Quick,
}

/// A stack of layers.
#[derive(Clone, Copy, Debug)]
pub struct EncoderConfig {
    /// Features of each position; divisible by `heads`.
    pub width: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Layers.
    pub layers: usize,
    /// Features between the two layers on each position.
    pub hidden: usize,
    /// The activation there.
    pub gelu: Gelu,
}

impl EncoderConfig {
    /// With heads of 64 features, four times as many between, as CLIP has.
    pub fn new(width: usize, layers: usize) -> Self {
        Self { width, heads: (width / 64).max(1), layers, hidden: 4 * width, gelu: Gelu::Quick }
    }

    fn linear(&self, inputs: usize, outputs: usize, deviation: f64) -> LinearConfig {
        LinearConfig { weight: WeightInit::Normal(deviation), ..LinearConfig::new(inputs, outputs) }
    }

    /// Deviations of CLIP's first weights: of projections to queries, keys and values; of those whose outputs are added to the
    /// positions; of the first layer on each position.
    fn deviations(&self) -> [f64; 3] {
        let root = (self.width as f64).sqrt().recip();
        [root, root * (2.0 * self.layers as f64).sqrt().recip(), (2.0 * self.width as f64).sqrt().recip()]
    }
}

/// Attention of a sequence over itself.
#[derive(Module, Debug)]
pub struct SelfAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    #[module(skip)]
    heads: usize,
}

impl SelfAttention {
    fn new(config: &EncoderConfig, init: &mut Init) -> Self {
        let (w, [attend, back, _]) = (config.width, config.deviations());
        Self {
            q_proj: config.linear(w, w, attend).init(init),
            k_proj: config.linear(w, w, attend).init(init),
            v_proj: config.linear(w, w, attend).init(init),
            out_proj: config.linear(w, w, back).init(init),
            heads: config.heads,
        }
    }

    fn forward(&self, x: Tensor<3>, mask: Mask) -> Tensor<3> {
        let [n, length, width] = x.dims();
        let heads = |y: Tensor<3>| y.reshape([n, length, self.heads, width / self.heads]).swap_dims(1, 2);
        let [q, k, v] = [&self.q_proj, &self.k_proj, &self.v_proj].map(|layer| heads(layer.forward(x.clone())));
        let seen = masked_attention(q, k, v, mask);
        self.out_proj.forward(seen.swap_dims(1, 2).reshape([n, length, width]))
    }
}

/// Two layers on each position.
#[derive(Module, Debug)]
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    gelu: Gelu,
}

impl Mlp {
    fn new(config: &EncoderConfig, init: &mut Init) -> Self {
        let [_, back, first] = config.deviations();
        Self {
            fc1: config.linear(config.width, config.hidden, first).init(init),
            fc2: config.linear(config.hidden, config.width, back).init(init),
            gelu: config.gelu,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = self.fc1.forward(x);
        self.fc2.forward(match self.gelu {
            Gelu::Exact => gelu(x),
            Gelu::Quick => x.clone() * sigmoid(x * 1.702),
        })
    }
}

/// Attention and two layers on each position, each added to what it is given, which is normalised first.
#[derive(Module, Debug)]
pub struct EncoderLayer {
    self_attn: SelfAttention,
    layer_norm1: LayerNorm,
    mlp: Mlp,
    layer_norm2: LayerNorm,
}

impl EncoderLayer {
    fn new(config: &EncoderConfig, init: &mut Init) -> Self {
        Self {
            self_attn: SelfAttention::new(config, init),
            layer_norm1: LayerNorm::new(config.width, init),
            mlp: Mlp::new(config, init),
            layer_norm2: LayerNorm::new(config.width, init),
        }
    }

    fn forward(&self, x: Tensor<3>, mask: Mask) -> Tensor<3> {
        let x = x.clone() + self.self_attn.forward(self.layer_norm1.forward(x), mask);
        x.clone() + self.mlp.forward(self.layer_norm2.forward(x))
    }
}

/// Layers one after another.
#[derive(Module, Debug)]
pub struct Encoder {
    layers: Vec<EncoderLayer>,
}

impl Encoder {
    /// Makes the layers.
    pub fn new(config: &EncoderConfig, init: &mut Init) -> Self {
        Self { layers: (0..config.layers).map(|_| EncoderLayer::new(config, init)).collect() }
    }

    /// # Shapes
    /// `[n, length, width]` → the same
    pub fn forward(&self, x: Tensor<3>, mask: &Mask) -> Tensor<3> {
        self.layers.iter().fold(x, |x, layer| layer.forward(x, mask.clone()))
    }
}

/// A table of tokens and one of places.
#[derive(Module, Debug)]
pub struct TextEmbeddings {
    token_embedding: Embedding,
    position_embedding: Embedding,
}

/// The first `length` rows of a table, for all of a batch.
fn places(table: &Embedding, length: usize) -> Tensor<3> {
    table.weight.val().narrow(0, 0, length).unsqueeze()
}

fn table(entries: usize, width: usize, deviation: f64, init: &mut Init) -> Embedding {
    Embedding::parametrized(entries, width, WeightInit::Normal(deviation), Parametrization::Direct, init)
}

/// CLIP's text tower: each token sees those before it.
#[derive(Module, Debug)]
pub struct TextTransformer {
    embeddings: TextEmbeddings,
    encoder: Encoder,
    final_layer_norm: LayerNorm,
}

impl TextTransformer {
    /// Of texts of at most `length` tokens out of a `vocabulary`.
    pub fn new(config: &EncoderConfig, vocabulary: usize, length: usize, init: &mut Init) -> Self {
        Self {
            embeddings: TextEmbeddings {
                token_embedding: table(vocabulary, config.width, 0.02, init),
                position_embedding: table(length, config.width, 0.01, init),
            },
            encoder: Encoder::new(config, init),
            final_layer_norm: LayerNorm::new(config.width, init),
        }
    }

    /// What each token has become, normalised.
    ///
    /// # Shapes
    /// `[n, length]` → `[n, length, width]`
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let length = ids.dims()[1];
        self.after(None, ids, length)
    }

    /// The same with a vector put before the tokens, whose place is then the second: what it says of the token that follows stands
    /// at each place.
    ///
    /// # Shapes
    /// `[n, width]`, `[n, length]` → `[n, 1 + length, width]`
    pub fn forward_after(&self, first: Tensor<2>, ids: Tensor<2, Int>) -> Tensor<3> {
        let length = ids.dims()[1];
        self.after(Some(first), ids, length + 1)
    }

    fn after(&self, first: Option<Tensor<2>>, ids: Tensor<2, Int>, length: usize) -> Tensor<3> {
        let [n, tokens] = ids.dims();
        let embedded = self.embeddings.token_embedding.forward(ids.reshape([n * tokens]));
        let embedded: Tensor<3> = embedded.reshape([n as i64, tokens as i64, -1]);
        let x = match first {
            Some(first) => Tensor::cat(vec![first.unsqueeze_dim(1), embedded], 1),
            None => embedded,
        };
        let x = x + places(&self.embeddings.position_embedding, length);
        self.final_layer_norm.forward(self.encoder.forward(x, &Mask::Causal))
    }

    /// Logits of tokens by their likeness to those of the table.
    ///
    /// # Shapes
    /// `[n, length, width]` → `[n, length, vocabulary]`
    pub fn token_logits(&self, x: Tensor<3>) -> Tensor<3> {
        x.matmul(self.embeddings.token_embedding.weight.val().transpose().unsqueeze())
    }
}

/// The rows at one place of each sequence, such as that of a text's last token.
///
/// # Shapes
/// `[n, length, width]`, n places → `[n, width]`
pub fn at_places(x: Tensor<3>, at: &[usize]) -> Tensor<2> {
    let [n, length, width] = x.dims();
    let rows: Vec<u32> = at.iter().enumerate().map(|(i, place)| (i * length + place) as u32).collect();
    let rows = crate::tensor::from_indices(&rows, &x.device());
    x.reshape([n * length, width]).select(0, rows)
}

/// A learned first position, patches as positions, and their places.
#[derive(Module, Debug)]
pub struct VisionEmbeddings {
    class_embedding: Param<Tensor<1>>,
    patch_embedding: Conv2d,
    position_embedding: Embedding,
}

/// CLIP's vision transformer (Dosovitskiy 2021): patches of an image, of which a first position without a patch collects what is
/// seen.
#[derive(Module, Debug)]
pub struct VisionTransformer {
    embeddings: VisionEmbeddings,
    /// As the library spells it.
    pre_layrnorm: LayerNorm,
    encoder: Encoder,
    post_layernorm: LayerNorm,
}

impl VisionTransformer {
    /// Of images of `[channels, height, width]` in patches of `patch` × `patch` pixels, which divides both sides.
    pub fn new(config: &EncoderConfig, [channels, height, width]: [usize; 3], patch: usize, init: &mut Init) -> Self {
        let deviation = (config.width as f64).sqrt().recip();
        let patches = (height / patch) * (width / patch);
        let first = Conv2dConfig {
            stride: patch,
            bias: false,
            weight: WeightInit::Normal(0.02),
            ..Conv2dConfig::new(channels, config.width, patch)
        };
        Self {
            embeddings: VisionEmbeddings {
                class_embedding: init.normal([config.width], 0.0, deviation),
                patch_embedding: first.init(init),
                position_embedding: table(patches + 1, config.width, deviation, init),
            },
            pre_layrnorm: LayerNorm::new(config.width, init),
            encoder: Encoder::new(config, init),
            post_layernorm: LayerNorm::new(config.width, init),
        }
    }

    /// What all positions have become, the first without a patch.
    ///
    /// # Shapes
    /// `[n, channels, height, width]` → `[n, 1 + patches, features]`
    pub fn positions(&self, images: Tensor<4>) -> Tensor<3> {
        let n = images.dims()[0];
        let patches = self.embeddings.patch_embedding.forward(images);
        let [_, width, rows, columns] = patches.dims();
        let patches = patches.reshape([n, width, rows * columns]).swap_dims(1, 2);
        let first = self.embeddings.class_embedding.val().reshape([1, 1, width]).expand([n, 1, width]);
        let x = Tensor::cat(vec![first, patches], 1) + places(&self.embeddings.position_embedding, 1 + rows * columns);
        self.encoder.forward(self.pre_layrnorm.forward(x), &Mask::None)
    }

    /// What is seen of the whole image.
    ///
    /// # Shapes
    /// `[n, channels, height, width]` → `[n, features]`
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let n = images.dims()[0];
        self.post_layernorm.forward(at_places(self.positions(images), &vec![0; n]))
    }
}
