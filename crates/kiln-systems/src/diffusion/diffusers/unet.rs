//! The U-Nets of diffusers, `UNet2DModel` and `UNet2DConditionModel`, which share all but the kinds
//! of their blocks (`models/unets/unet_2d.py`, `unet_2d_condition.py`, `unet_2d_blocks.py`).
//!
//! Modules and fields carry diffusers' names, so that a parameter's path is its name in a state dict
//! but for the capitalised names of variants, which [`state_dict_name`] leaves out.

use burn::module::{Module, RunningState};
use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_nn::resample::upsample_nearest;
use kiln_nn::time::sinusoidal;
use kiln_nn::transformer::{MultiHeadAttention, SpatialTransformer, SpatialTransformerConfig};
use kiln_nn::unet::parts::{DropoutSites, Nonlinearity, Resample, Residual, Shown, Step, through};
use kiln_nn::{Activation, Condition, Conv2d, Conv2dConfig, Embedding, GroupNorm, Init, Linear, LinearConfig};

use super::config::{
    ActFn, BlockKind, ClassEmbedType, MidBlock, ModelClass, Resampling, TimeEmbedding, TimeScaleShift, UNetConfig,
};

/// The name that diffusers gives the parameter at a path within [`UNet2d`].
pub fn state_dict_name(path: &str) -> String {
    let plain = |part: &&str| !part.starts_with(|c: char| c.is_ascii_uppercase());
    path.split('.').filter(plain).collect::<Vec<_>>().join(".")
}

impl ActFn {
    fn nonlinearity(self) -> Nonlinearity {
        match self {
            Self::Silu => Nonlinearity::Fused(Activation::Silu),
            Self::Relu => Nonlinearity::Fused(Activation::Relu),
            Self::Gelu => Nonlinearity::Fused(Activation::Gelu),
            Self::Mish => Nonlinearity::Mish,
        }
    }
}

/// What all residual blocks of a network have in common.
#[derive(Clone, Copy)]
struct Common {
    time: usize,
    groups: usize,
    eps: f64,
    dropout: f64,
    act: Nonlinearity,
    shift: TimeScaleShift,
}

/// `ResnetBlock2D`: norm, activation, perhaps another size, convolution, the time as a shift or as a
/// scale and a shift, norm, activation, dropout, convolution; the sum with the input divided by `scale`.
#[derive(Module, Debug)]
pub struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
    #[module(skip)]
    resample: Resample,
    #[module(skip)]
    act: Nonlinearity,
    #[module(skip)]
    shift: TimeScaleShift,
    #[module(skip)]
    dropout: f64,
    #[module(skip)]
    scale: f64,
}

/// The way through the U.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Down,
    Up,
}

impl ResnetBlock {
    fn new(inputs: usize, outputs: usize, common: Common, init: &mut Init) -> Self {
        let norm = |channels, init: &mut Init| GroupNorm::new(common.groups, channels, init).with_eps(common.eps);
        let time = if common.shift == TimeScaleShift::ScaleShift { 2 * outputs } else { outputs };
        Self {
            norm1: norm(inputs, init),
            conv1: Conv2dConfig::same3(inputs, outputs).init(init),
            time_emb_proj: LinearConfig::new(common.time, time).init(init),
            norm2: norm(outputs, init),
            conv2: Conv2dConfig::same3(outputs, outputs).init(init),
            conv_shortcut: (inputs != outputs).then(|| Conv2dConfig::new(inputs, outputs, 1).init(init)),
            resample: Resample::Keep,
            act: common.act,
            shift: common.shift,
            dropout: common.dropout,
            scale: 1.0,
        }
    }

    fn resampling(self, resample: Resample) -> Self {
        Self { resample, ..self }
    }

    fn scaled(self, scale: f64) -> Self {
        Self { scale, ..self }
    }

    fn forward(&self, x: Tensor<4>, time: &Tensor<2>, key: Option<Key>) -> Tensor<4> {
        let layers = Residual {
            norm1: &self.norm1,
            conv1: &self.conv1,
            time: &self.time_emb_proj,
            norm2: &self.norm2,
            conv2: &self.conv2,
            skip: self.conv_shortcut.as_ref(),
            activation: self.act,
            resample: self.resample,
            scale_shift: self.shift == TimeScaleShift::ScaleShift,
            dropout: self.dropout,
            scale: 1.0 / self.scale,
        };
        layers.forward(x, time, key)
    }
}

/// What attends after a residual block.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // a few dozen at most; boxing would hide the layers
enum Attend {
    /// Over the map's own positions.
    Own(MultiHeadAttention),
    /// Over a context as well.
    Cross(SpatialTransformer),
}

impl Attend {
    fn forward(&self, x: Tensor<4>, shown: &Shown) -> Tensor<4> {
        match (self, &shown.context) {
            (Self::Own(attention), _) => attention.forward_map(x),
            (Self::Cross(transformer), Some(context)) => transformer.forward(x, context),
            // Not met: a network with a transformer is always shown a context.
            (Self::Cross(_), None) => x,
        }
    }
}

/// `Downsample2D` and `Upsample2D`: a strided convolution, or one after repetition.
#[derive(Module, Debug)]
struct ConvResize {
    conv: Conv2d,
    #[module(skip)]
    way: Way,
    #[module(skip)]
    padding: usize,
}

impl ConvResize {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = match (self.way, self.padding) {
            (Way::Up, _) => upsample_nearest(x, 2),
            // Without padding on every side, one row and one column at the far ends.
            (Way::Down, 0) => x.pad((0, 1, 0, 1), 0.0),
            (Way::Down, _) => x,
        };
        self.conv.forward(x)
    }
}

/// A step to another size.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // as above
enum Resize {
    Conv(ConvResize),
    Resnet(ResnetBlock),
}

/// The blocks of one level on one way: residual blocks, each perhaps with attention, then perhaps a
/// step to the next size.
#[derive(Module, Debug)]
pub struct Level {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<Attend>,
    downsamplers: Option<[Resize; 1]>,
    upsamplers: Option<[Resize; 1]>,
}

impl Level {
    /// Its blocks in their order.
    fn steps(&self) -> impl Iterator<Item = LevelStep<'_>> {
        let blocks = self.resnets.iter().enumerate().map(|(i, r)| LevelStep::Block(r, self.attentions.get(i)));
        let resizes = self.downsamplers.iter().chain(&self.upsamplers).flatten();
        blocks.chain(resizes.map(LevelStep::Resize))
    }
}

/// A residual block with the attention after it, or a step to another size.
enum LevelStep<'a> {
    Block(&'a ResnetBlock, Option<&'a Attend>),
    Resize(&'a Resize),
}

impl Step for LevelStep<'_> {
    fn takes_skip(&self) -> bool {
        matches!(self, Self::Block(..))
    }

    fn forward(&self, x: Tensor<4>, shown: &Shown, key: Option<Key>) -> Tensor<4> {
        match self {
            Self::Block(resnet, attention) => {
                let h = resnet.forward(x, &shown.time, key);
                match attention {
                    Some(attention) => attention.forward(h, shown),
                    None => h,
                }
            }
            Self::Resize(Resize::Conv(conv)) => conv.forward(x),
            Self::Resize(Resize::Resnet(block)) => block.forward(x, &shown.time, key),
        }
    }
}

/// The smallest size: a residual block, and attention between it and another one.
#[derive(Module, Debug)]
pub struct Middle {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<Attend>,
    #[module(skip)]
    scale: f64,
}

impl Middle {
    fn forward(&self, mut h: Tensor<4>, shown: &Shown, sites: &mut DropoutSites) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            if let Some(attention) = i.checked_sub(1).and_then(|i| self.attentions.get(i)) {
                h = attention.forward(h, shown);
                // Attention of the map divides like the blocks around it; a transformer does not.
                if matches!(attention, Attend::Own(_)) && self.scale != 1.0 {
                    h = h / self.scale;
                }
            }
            h = resnet.forward(h, &shown.time, sites.next_key());
        }
        h
    }
}

/// `TimestepEmbedding`: linear, activation, linear.
#[derive(Module, Debug)]
struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
    #[module(skip)]
    act: Nonlinearity,
}

impl TimestepEmbedding {
    fn new(inputs: usize, outputs: usize, act: Nonlinearity, init: &mut Init) -> Self {
        Self {
            linear_1: LinearConfig::new(inputs, outputs).init(init),
            linear_2: LinearConfig::new(outputs, outputs).init(init),
            act,
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.linear_2.forward(self.act.of(self.linear_1.forward(x)))
    }
}

/// `GaussianFourierProjection`: sines and cosines of random, fixed frequencies.
#[derive(Module, Debug)]
struct Fourier {
    weight: RunningState<Tensor<1>>,
}

/// How the label joins the time.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // there is one
enum ClassEmbedding {
    Table(Embedding),
    Timestep(TimestepEmbedding),
}

/// The network; see the [module page](self).
#[derive(Module, Debug)]
pub struct UNet2d {
    conv_in: Conv2d,
    time_proj: Option<Fourier>,
    time_embedding: TimestepEmbedding,
    class_embedding: Option<ClassEmbedding>,
    down_blocks: Vec<Level>,
    mid_block: Option<Middle>,
    up_blocks: Vec<Level>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    #[module(skip)]
    time: TimeProjection,
    #[module(skip)]
    center_input_sample: bool,
    #[module(skip)]
    act: Nonlinearity,
    #[module(skip)]
    act_out: Nonlinearity,
    #[module(skip)]
    context_features: usize,
}

/// How a time becomes the input of its embedding.
#[derive(Clone, Copy, Debug)]
struct TimeProjection {
    channels: usize,
    freq_shift: f64,
    flip_sin_to_cos: bool,
    /// Fourier features of log t, and the output divided by t (`UNet2DModel`).
    log: bool,
}

impl UNetConfig {
    /// Makes the network. The settings must have passed [`UNetConfig::check`].
    pub fn init(&self, init: &mut Init) -> UNet2d {
        let channels = &self.block_out_channels;
        let (first, levels) = (channels.first().copied().unwrap_or(0), channels.len());
        let last = channels.last().copied().unwrap_or(0);
        let conditional = self.class == ModelClass::UNet2DConditionModel;
        let fourier = self.time_embedding_type == TimeEmbedding::Fourier;
        let default_time = if conditional && fourier { 2 * first } else { 4 * first };
        let time = if self.time_embedding_dim > 0 { self.time_embedding_dim } else { default_time };
        // UNet2DModel doubles its first width by sine and cosine, the other fits the embedding.
        let (frequencies, time_inputs) = match (fourier, conditional) {
            (true, true) => (time / 2, time),
            (true, false) => (first, 2 * first),
            (false, _) => (0, first),
        };
        // UNet2DModel has SiLU at these places, whatever `act_fn` says.
        let act = if conditional { self.act_fn } else { ActFn::Silu }.nonlinearity();
        let common = Common {
            time,
            groups: self.norm_num_groups,
            eps: self.norm_eps,
            dropout: self.dropout,
            act: self.act_fn.nonlinearity(),
            shift: self.resnet_time_scale_shift,
        };
        let conv_in = Conv2dConfig::same3(self.in_channels, first).init(init);
        let time_proj = fourier.then(|| {
            let scale = if conditional { 1.0 } else { 16.0 };
            let weight = init.normal([frequencies], 0.0, scale).val().inner();
            Fourier { weight: RunningState::new(weight) }
        });
        let time_embedding = TimestepEmbedding::new(time_inputs, time, act, init);
        let class_embedding = match (self.class_embed_type, self.num_class_embeds) {
            (ClassEmbedType::Timestep, _) => {
                Some(ClassEmbedding::Timestep(TimestepEmbedding::new(time_inputs, time, act, init)))
            }
            (ClassEmbedType::Table, 0) => None,
            (ClassEmbedType::Table, n) => Some(ClassEmbedding::Table(Embedding::new(n, time, init))),
        };

        let mut down_blocks = Vec::new();
        let mut inputs = first;
        for (level, kind) in self.down_block_types.iter().map(|b| b.kind()).enumerate() {
            let outputs = channels[level];
            let count = self.layers_per_block[level];
            let widths = (0..count).map(|i| (if i == 0 { inputs } else { outputs }, outputs));
            let (resnets, attentions) = self.blocks(kind, level, level, widths, common, init);
            let resize = (level + 1 < levels).then(|| self.resize(Way::Down, kind, outputs, common, init));
            down_blocks.push(Level { resnets, attentions, downsamplers: resize.map(|r| [r]), upsamplers: None });
            inputs = outputs;
        }

        let mid_block = self.middle(last, common, init);

        let mut up_blocks = Vec::new();
        let mut previous = last;
        for (i, kind) in self.up_block_types.iter().map(|b| b.kind()).enumerate() {
            let level = levels - 1 - i;
            let outputs = channels[level];
            let below = channels[level.saturating_sub(1)];
            let count = self.layers_per_block[level] + 1;
            let widths = (0..count).map(|i| {
                let skip = if i + 1 == count { below } else { outputs };
                (if i == 0 { previous } else { outputs } + skip, outputs)
            });
            // diffusers gives the i-th block on the way up the head width of level i.
            let (resnets, attentions) = self.blocks(kind, level, i, widths, common, init);
            let resize = (level > 0).then(|| self.resize(Way::Up, kind, outputs, common, init));
            up_blocks.push(Level { resnets, attentions, downsamplers: None, upsamplers: resize.map(|r| [r]) });
            previous = outputs;
        }

        UNet2d {
            conv_in,
            time_proj,
            time_embedding,
            class_embedding,
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: GroupNorm::new(self.norm_num_groups, first, init).with_eps(self.norm_eps),
            conv_out: Conv2dConfig::same3(first, self.out_channels).init(init),
            time: TimeProjection {
                channels: first,
                freq_shift: self.freq_shift,
                // UNet2DModel's Fourier features are never flipped.
                flip_sin_to_cos: self.flip_sin_to_cos && (conditional || !fourier),
                log: self.takes_log_of_time(),
            },
            center_input_sample: self.center_input_sample,
            act: common.act,
            act_out: act,
            context_features: self.context_features().unwrap_or(0),
        }
    }

    /// Residual blocks of the given (inputs, outputs) and their attentions; `head` is the level whose
    /// `attention_head_dim` counts where that is the width of a head.
    fn blocks(
        &self,
        kind: BlockKind,
        level: usize,
        head: usize,
        widths: impl Iterator<Item = (usize, usize)>,
        common: Common,
        init: &mut Init,
    ) -> (Vec<ResnetBlock>, Vec<Attend>) {
        let (mut resnets, mut attentions) = (Vec::new(), Vec::new());
        for (inputs, outputs) in widths {
            resnets.push(ResnetBlock::new(inputs, outputs, common, init));
            match kind {
                BlockKind::Plain | BlockKind::Resnet => {}
                BlockKind::Attention => {
                    let norm = GroupNorm::new(common.groups, outputs, init).with_eps(common.eps);
                    let heads = self.heads_by_width(head, outputs);
                    attentions.push(Attend::Own(MultiHeadAttention::of_map(outputs, Some(norm), heads, init)));
                }
                BlockKind::CrossAttention => {
                    let only = self.only_cross_attention[level];
                    attentions.push(self.transformer(level, outputs, only, init));
                }
            }
        }
        (resnets, attentions)
    }

    fn transformer(&self, level: usize, channels: usize, only_cross_attention: bool, init: &mut Init) -> Attend {
        let config = SpatialTransformerConfig {
            channels,
            context: self.cross_attention_dim[level],
            // The name is wrong in diffusers, which says so itself: it is the number of heads.
            heads: self.attention_head_dim[level],
            groups: self.norm_num_groups,
            blocks: self.transformer_layers_per_block[level],
            linear: self.use_linear_projection,
            only_cross_attention,
            identity_at_start: false,
        };
        Attend::Cross(SpatialTransformer::new(&config, init))
    }

    fn middle(&self, channels: usize, common: Common, init: &mut Init) -> Option<Middle> {
        let scale = self.mid_block_scale_factor;
        let block = |init: &mut Init| ResnetBlock::new(channels, channels, common, init).scaled(scale);
        let last = self.block_out_channels.len() - 1;
        let (count, attention) = match self.mid_block_type {
            MidBlock::None => return None,
            // The conditional network's has neither attention nor a second block.
            MidBlock::UNetMidBlock2D if self.class == ModelClass::UNet2DConditionModel => (1, None),
            MidBlock::UNetMidBlock2D if !self.add_attention => (2, None),
            MidBlock::UNetMidBlock2D => {
                let norm = self.mid_attention_groups().map(|g| GroupNorm::new(g, channels, init).with_eps(common.eps));
                let heads = self.heads_by_width(last, channels);
                (2, Some(Attend::Own(MultiHeadAttention::of_map(channels, norm, heads, init))))
            }
            MidBlock::UNetMidBlock2DCrossAttn => (2, Some(self.transformer(last, channels, false, init))),
        };
        let resnets = (0..count).map(|_| block(init)).collect();
        Some(Middle { resnets, attentions: attention.into_iter().collect(), scale })
    }

    fn resize(&self, way: Way, kind: BlockKind, channels: usize, common: Common, init: &mut Init) -> Resize {
        let of_attention = if way == Way::Down { self.downsample_type } else { self.upsample_type };
        let by_resnet = match kind {
            BlockKind::Resnet => true,
            BlockKind::Attention => of_attention == Resampling::Resnet,
            BlockKind::Plain | BlockKind::CrossAttention => false,
        };
        if by_resnet {
            let resample = if way == Way::Down { Resample::Halve } else { Resample::Double };
            return Resize::Resnet(ResnetBlock::new(channels, channels, common, init).resampling(resample));
        }
        let (stride, padding) = if way == Way::Down { (2, self.downsample_padding) } else { (1, 1) };
        let conv = Conv2dConfig { stride, padding, ..Conv2dConfig::new(channels, channels, 3) }.init(init);
        Resize::Conv(ConvResize { conv, way, padding })
    }
}

impl UNet2d {
    /// # Shapes
    /// x `[n, in, h, w]`, t `[n]` in steps → `[n, out, h, w]`
    ///
    /// Without a class the class embedding is left out.
    pub fn forward(&self, x: Tensor<4>, t: Tensor<1>, condition: &Condition) -> Tensor<4> {
        let n = x.dims()[0];
        let time = self.time_embedding.forward(self.project_time(t.clone()));
        let time = match (&self.class_embedding, condition.class.clone()) {
            (Some(ClassEmbedding::Table(table)), Some(class)) => time + table.forward(class),
            (Some(ClassEmbedding::Timestep(embedding)), Some(class)) => {
                time + embedding.forward(self.project_time(class.float()))
            }
            _ => time,
        };
        let shown = Shown { time: self.act.of(time), context: condition.context_of(self.context_features, &x) };
        let x = condition.beside(x);
        let x = if self.center_input_sample { x * 2.0 - 1.0 } else { x };
        let middle = |h, sites: &mut DropoutSites| match &self.mid_block {
            Some(middle) => middle.forward(h, &shown, sites),
            None => h,
        };
        let down = self.down_blocks.iter().flat_map(Level::steps);
        let up = self.up_blocks.iter().flat_map(Level::steps);
        let h = through(self.conv_in.forward(x), down, middle, up, &shown, condition);
        let out = self.conv_out.forward(self.act_out.after(&self.conv_norm_out, h));
        if self.time.log { out / t.reshape([n, 1, 1, 1]) } else { out }
    }

    /// `[n]` times → `[n, inputs of the embedding]`.
    fn project_time(&self, t: Tensor<1>) -> Tensor<2> {
        let time = &self.time;
        let both = match &self.time_proj {
            None => sinusoidal(t, time.channels, time.freq_shift),
            Some(fourier) => {
                let n = t.dims()[0];
                let t = if time.log { t.log() } else { t };
                let weight = fourier.weight.value_sync();
                let angles = t.reshape([n, 1]) * weight.unsqueeze::<2>() * std::f64::consts::TAU;
                Tensor::cat(vec![angles.clone().sin(), angles.cos()], 1)
            }
        };
        if !time.flip_sin_to_cos {
            return both;
        }
        let half = both.dims()[1] / 2;
        Tensor::cat(vec![both.clone().narrow(1, half, half), both.narrow(1, 0, half)], 1)
    }
}
