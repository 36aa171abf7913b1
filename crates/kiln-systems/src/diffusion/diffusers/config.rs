//! The settings of diffusers' U-Nets: as a recipe holds them, as `config.json` does, and which of them
//! Kiln has.
//!
//! In a recipe every list has one entry a level, and 0 stands for null.

use kiln_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::json::Fields;

/// Which of diffusers' networks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModelClass {
    /// Unconditional, or conditioned on a label.
    #[default]
    UNet2DModel,
    /// Conditioned on a sequence of features besides, such as a text's.
    UNet2DConditionModel,
}

/// What attends in a block, and how it changes size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// Residual blocks alone.
    Plain,
    /// Self-attention after each residual block.
    Attention,
    /// A transformer over the context after each residual block.
    CrossAttention,
    /// Residual blocks that change the size as well.
    Resnet,
}

/// A level on the way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names are diffusers'
pub enum DownBlock {
    DownBlock2D,
    AttnDownBlock2D,
    CrossAttnDownBlock2D,
    ResnetDownsampleBlock2D,
}

/// A level on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names are diffusers'
pub enum UpBlock {
    UpBlock2D,
    AttnUpBlock2D,
    CrossAttnUpBlock2D,
    ResnetUpsampleBlock2D,
}

/// The smallest level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names are diffusers'
pub enum MidBlock {
    #[default]
    UNetMidBlock2D,
    UNetMidBlock2DCrossAttn,
    /// Nothing there.
    None,
}

impl DownBlock {
    /// What it is made of.
    pub fn kind(self) -> BlockKind {
        match self {
            Self::DownBlock2D => BlockKind::Plain,
            Self::AttnDownBlock2D => BlockKind::Attention,
            Self::CrossAttnDownBlock2D => BlockKind::CrossAttention,
            Self::ResnetDownsampleBlock2D => BlockKind::Resnet,
        }
    }
}

impl UpBlock {
    /// What it is made of.
    pub fn kind(self) -> BlockKind {
        match self {
            Self::UpBlock2D => BlockKind::Plain,
            Self::AttnUpBlock2D => BlockKind::Attention,
            Self::CrossAttnUpBlock2D => BlockKind::CrossAttention,
            Self::ResnetUpsampleBlock2D => BlockKind::Resnet,
        }
    }
}

/// The time's features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeEmbedding {
    /// Sines and cosines of geometrically spaced frequencies.
    #[default]
    Positional,
    /// Of random ones.
    Fourier,
}

/// The activation of residual blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActFn {
    /// x · sigmoid(x).
    #[default]
    #[serde(alias = "swish")]
    Silu,
    /// max(x, 0).
    Relu,
    /// x · Φ(x).
    Gelu,
    /// x · tanh(softplus(x)).
    Mish,
}

/// How the time acts on a residual block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeScaleShift {
    /// It is added.
    #[default]
    Default,
    /// It scales and shifts the second normalisation (Dhariwal & Nichol 2021, equation 3).
    ScaleShift,
}

/// How levels with self-attention change the size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resampling {
    /// By a convolution.
    #[default]
    Conv,
    /// By a residual block.
    Resnet,
}

/// What a label is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassEmbedType {
    /// A row of a table of `num_class_embeds`; null in diffusers.
    #[default]
    Table,
    /// A number, embedded like the time.
    Timestep,
}

/// The shape of a network: the fields of diffusers' `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UNetConfig {
    /// `_class_name`.
    pub class: ModelClass,
    /// Height and width of the pictures.
    pub sample_size: [usize; 2],
    /// Channels of the pictures.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Map the input from \[0, 1\] to \[−1, 1\] first.
    pub center_input_sample: bool,
    /// `positional` or `fourier`.
    pub time_embedding_type: TimeEmbedding,
    /// Width of the time embedding; 0 is 4 times the first level's (2 times, for Fourier features of
    /// UNet2DConditionModel).
    pub time_embedding_dim: usize,
    /// What is taken from half the width in the frequencies' exponent: 1 in Ho's code, 0 in ADM's.
    pub freq_shift: f64,
    /// Cosines before sines.
    pub flip_sin_to_cos: bool,
    /// The levels on the way down, largest first.
    pub down_block_types: Vec<DownBlock>,
    /// The smallest level.
    pub mid_block_type: MidBlock,
    /// The levels on the way up, smallest first.
    pub up_block_types: Vec<UpBlock>,
    /// Channels of each level.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each level on the way down; one more on the way up.
    pub layers_per_block: Vec<usize>,
    /// What the sums in the middle are divided by.
    pub mid_block_scale_factor: f64,
    /// Zeros around a map before it is halved: 1, or 0 with one row and column at the far ends.
    pub downsample_padding: usize,
    /// How levels with self-attention halve: `conv` or `resnet`.
    pub downsample_type: Resampling,
    /// How they double.
    pub upsample_type: Resampling,
    /// Dropout inside residual blocks.
    pub dropout: f64,
    /// `silu`, `relu`, `gelu` or `mish`.
    pub act_fn: ActFn,
    /// Width of a head of self-attention, 0 for one head; the number of heads of a transformer.
    pub attention_head_dim: Vec<usize>,
    /// Groups of every normalisation.
    pub norm_num_groups: usize,
    /// Groups in the middle's attention; 0 is `norm_num_groups`, or no normalisation if the time scales.
    pub attn_norm_num_groups: usize,
    /// ε of every normalisation.
    pub norm_eps: f64,
    /// `default` or `scale_shift`.
    pub resnet_time_scale_shift: TimeScaleShift,
    /// Self-attention in the middle.
    pub add_attention: bool,
    /// `table` or `timestep`.
    pub class_embed_type: ClassEmbedType,
    /// Labels the table has; 0 for none.
    pub num_class_embeds: usize,
    /// Features of the context, for each level.
    pub cross_attention_dim: Vec<usize>,
    /// Blocks of a transformer, for each level.
    pub transformer_layers_per_block: Vec<usize>,
    /// Whether transformers look at the context alone, for each level.
    pub only_cross_attention: Vec<bool>,
    /// Linear projections around a transformer in place of convolutions.
    pub use_linear_projection: bool,
}

impl Default for UNetConfig {
    /// A small network with Ho's choices.
    fn default() -> Self {
        Self {
            class: ModelClass::UNet2DModel,
            sample_size: [32, 32],
            in_channels: 3,
            out_channels: 3,
            center_input_sample: false,
            time_embedding_type: TimeEmbedding::Positional,
            time_embedding_dim: 0,
            freq_shift: 1.0,
            flip_sin_to_cos: false,
            down_block_types: vec![DownBlock::DownBlock2D, DownBlock::AttnDownBlock2D, DownBlock::DownBlock2D],
            mid_block_type: MidBlock::UNetMidBlock2D,
            up_block_types: vec![UpBlock::UpBlock2D, UpBlock::AttnUpBlock2D, UpBlock::UpBlock2D],
            block_out_channels: vec![64, 128, 128],
            layers_per_block: vec![2; 3],
            mid_block_scale_factor: 1.0,
            downsample_padding: 1,
            downsample_type: Resampling::Conv,
            upsample_type: Resampling::Conv,
            dropout: 0.0,
            act_fn: ActFn::Silu,
            attention_head_dim: vec![0; 3],
            norm_num_groups: 8,
            attn_norm_num_groups: 0,
            norm_eps: 1e-5,
            resnet_time_scale_shift: TimeScaleShift::Default,
            add_attention: true,
            class_embed_type: ClassEmbedType::Table,
            num_class_embeds: 0,
            cross_attention_dim: vec![0; 3],
            transformer_layers_per_block: vec![1; 3],
            only_cross_attention: vec![false; 3],
            use_linear_projection: false,
        }
    }
}

/// What a list or number of a field must be.
const COUNT: &str = "a whole number";
const SWITCH: &str = "true or false";
const NUMBER: &str = "a number";

/// Beyond these a number in a file is a mistake, and would only end in want of memory.
const LARGEST: usize = 1 << 20;
const LARGEST_SIDE: usize = 1 << 14;

impl UNetConfig {
    /// Reads `config.json`. `size` stands for a `sample_size` that the file leaves open.
    ///
    /// # Errors
    /// Names the file, the field and its value where Kiln does not have it.
    pub fn read(mut fields: Fields, size: Option<[usize; 2]>) -> Result<Self> {
        let place = fields.place().to_string();
        let class: ModelClass = match fields.value("_class_name") {
            Some(name) => serde_json::from_value(name.clone())
                .map_err(|_| fields.refuse("_class_name", &name, "supported: UNet2DModel, UNet2DConditionModel"))?,
            None => return Err(Error::new(format!("{place}: no `_class_name`; is it a model of diffusers?"))),
        };
        let conditional = class == ModelClass::UNet2DConditionModel;
        let widths: Vec<usize> = fields.or("block_out_channels", vec![], "a list of whole numbers")?;
        let levels = widths.len();
        if levels == 0 {
            return Err(Error::new(format!("{place}: `block_out_channels` is missing or empty")));
        }
        let config = Self {
            class,
            sample_size: sample_size(&mut fields, size)?,
            in_channels: fields.or("in_channels", if conditional { 4 } else { 3 }, COUNT)?,
            out_channels: fields.or("out_channels", if conditional { 4 } else { 3 }, COUNT)?,
            center_input_sample: fields.or("center_input_sample", false, SWITCH)?,
            time_embedding_type: fields.or(
                "time_embedding_type",
                TimeEmbedding::Positional,
                "\"positional\" or \"fourier\"",
            )?,
            time_embedding_dim: fields.optional("time_embedding_dim", COUNT)?.unwrap_or(0),
            freq_shift: fields.or("freq_shift", 0.0, NUMBER)?,
            flip_sin_to_cos: fields.or("flip_sin_to_cos", true, SWITCH)?,
            down_block_types: blocks(
                &mut fields,
                "down_block_types",
                "DownBlock2D, AttnDownBlock2D, CrossAttnDownBlock2D, ResnetDownsampleBlock2D",
            )?,
            mid_block_type: mid_block(&mut fields, conditional)?,
            up_block_types: blocks(
                &mut fields,
                "up_block_types",
                "UpBlock2D, AttnUpBlock2D, CrossAttnUpBlock2D, ResnetUpsampleBlock2D",
            )?,
            block_out_channels: widths,
            layers_per_block: of_levels(&mut fields, "layers_per_block", levels, 2, conditional)?,
            mid_block_scale_factor: fields.or("mid_block_scale_factor", 1.0, NUMBER)?,
            downsample_padding: fields.or("downsample_padding", 1, "0 or 1")?,
            dropout: fields.or("dropout", 0.0, NUMBER)?,
            act_fn: fields.or("act_fn", ActFn::Silu, "\"silu\", \"relu\", \"gelu\" or \"mish\"")?,
            attention_head_dim: heads(&mut fields, levels, conditional)?,
            norm_num_groups: fields.or("norm_num_groups", 32, COUNT)?,
            norm_eps: fields.or("norm_eps", 1e-5, NUMBER)?,
            resnet_time_scale_shift: fields.or(
                "resnet_time_scale_shift",
                TimeScaleShift::Default,
                "\"default\" or \"scale_shift\"",
            )?,
            class_embed_type: match fields.value("class_embed_type") {
                None => ClassEmbedType::Table,
                Some(Value::String(name)) if name == "timestep" => ClassEmbedType::Timestep,
                Some(other) => return Err(fields.refuse("class_embed_type", &other, "supported: \"timestep\", null")),
            },
            num_class_embeds: fields.optional("num_class_embeds", COUNT)?.unwrap_or(0),
            // What the other class does not have.
            downsample_type: Resampling::Conv,
            upsample_type: Resampling::Conv,
            attn_norm_num_groups: 0,
            add_attention: true,
            cross_attention_dim: vec![0; levels],
            transformer_layers_per_block: vec![1; levels],
            only_cross_attention: vec![false; levels],
            use_linear_projection: false,
        };
        let config =
            if conditional { config.with_context(&mut fields)? } else { config.without_context(&mut fields)? };
        fields.finish()?;
        config.check().map_err(|why| Error::new(format!("{place}: {why}")))?;
        Ok(config)
    }

    /// The fields that only UNet2DModel has.
    fn without_context(self, fields: &mut Fields) -> Result<Self> {
        let how = "\"conv\" or \"resnet\"";
        let config = Self {
            downsample_type: fields.or("downsample_type", Resampling::Conv, how)?,
            upsample_type: fields.or("upsample_type", Resampling::Conv, how)?,
            attn_norm_num_groups: fields.optional("attn_norm_num_groups", COUNT)?.unwrap_or(0),
            add_attention: fields.or("add_attention", true, SWITCH)?,
            ..self
        };
        // Of the learned time embedding, which is refused by name.
        fields.ignore(&["num_train_timesteps"]);
        Ok(config)
    }

    /// The fields that only UNet2DConditionModel has.
    fn with_context(self, fields: &mut Fields) -> Result<Self> {
        let levels = self.block_out_channels.len();
        let config = Self {
            cross_attention_dim: fields.each("cross_attention_dim", levels, 1280, COUNT)?,
            transformer_layers_per_block: fields.each("transformer_layers_per_block", levels, 1, COUNT)?,
            only_cross_attention: fields.each("only_cross_attention", levels, false, SWITCH)?,
            use_linear_projection: fields.or("use_linear_projection", false, SWITCH)?,
            ..self
        };
        fields.only(&[
            ("num_attention_heads", &[]),
            ("dual_cross_attention", &[json!(false)]),
            // All is computed in f32 here.
            ("upcast_attention", &[json!(false), json!(true)]),
            ("resnet_skip_time_act", &[json!(false)]),
            ("resnet_out_scale_factor", &[json!(1), json!(1.0)]),
            ("time_embedding_act_fn", &[]),
            ("timestep_post_act", &[]),
            ("time_cond_proj_dim", &[]),
            ("conv_in_kernel", &[json!(3)]),
            ("conv_out_kernel", &[json!(3)]),
            ("encoder_hid_dim", &[]),
            ("encoder_hid_dim_type", &[]),
            ("addition_embed_type", &[]),
            ("addition_time_embed_dim", &[]),
            ("projection_class_embeddings_input_dim", &[]),
            ("reverse_transformer_layers_per_block", &[]),
            ("attention_type", &[json!("default")]),
            ("class_embeddings_concat", &[json!(false)]),
            ("mid_block_only_cross_attention", &[json!(false)]),
            ("cross_attention_norm", &[]),
        ])?;
        // Of the added embedding, which is refused above.
        fields.ignore(&["addition_embed_type_num_heads"]);
        Ok(config)
    }

    /// Why this network cannot be built, if it cannot; fields are named.
    pub fn check(&self) -> Result<(), String> {
        let levels = self.block_out_channels.len();
        let lengths = [
            ("down_block_types", self.down_block_types.len()),
            ("up_block_types", self.up_block_types.len()),
            ("layers_per_block", self.layers_per_block.len()),
            ("attention_head_dim", self.attention_head_dim.len()),
            ("cross_attention_dim", self.cross_attention_dim.len()),
            ("transformer_layers_per_block", self.transformer_layers_per_block.len()),
            ("only_cross_attention", self.only_cross_attention.len()),
        ];
        if let Some((name, len)) = lengths.into_iter().find(|(_, len)| *len != levels || levels == 0) {
            return Err(format!("`{name}` has {len} entries and `block_out_channels` {levels}; they must be as many"));
        }
        let positive = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("norm_num_groups", self.norm_num_groups),
            ("sample_size", self.sample_size[0].min(self.sample_size[1])),
            ("block_out_channels", self.block_out_channels.iter().copied().min().unwrap_or(0)),
            ("layers_per_block", self.layers_per_block.iter().copied().min().unwrap_or(0)),
        ];
        if let Some((name, _)) = positive.into_iter().find(|(_, v)| *v == 0) {
            return Err(format!("`{name}` must not be 0"));
        }
        let lists = [
            ("block_out_channels", &self.block_out_channels),
            ("layers_per_block", &self.layers_per_block),
            ("attention_head_dim", &self.attention_head_dim),
            ("cross_attention_dim", &self.cross_attention_dim),
            ("transformer_layers_per_block", &self.transformer_layers_per_block),
        ];
        let single = [
            ("in_channels", self.in_channels),
            ("time_embedding_dim", self.time_embedding_dim),
            ("num_class_embeds", self.num_class_embeds),
        ];
        let all = lists.into_iter().flat_map(|(name, list)| list.iter().map(move |v| (name, *v))).chain(single);
        if let Some((name, value)) = all.into_iter().find(|(_, v)| *v > LARGEST) {
            return Err(format!("`{name}` = {value} is more than {LARGEST}, which no network has"));
        }
        if self.sample_size.iter().any(|side| *side > LARGEST_SIDE) {
            return Err(format!("`sample_size` = {:?} is more than {LARGEST_SIDE}", self.sample_size));
        }
        if ![self.in_channels, 2 * self.in_channels].contains(&self.out_channels) {
            return Err(format!(
                "`out_channels` = {} must be `in_channels` = {}, or twice that with a learned variance",
                self.out_channels, self.in_channels
            ));
        }
        let divisor = 1usize.checked_shl(levels as u32 - 1).unwrap_or(usize::MAX);
        if self.sample_size.iter().any(|side| !side.is_multiple_of(divisor)) {
            return Err(format!(
                "`sample_size` = {:?} must be divisible by {divisor} for {levels} levels",
                self.sample_size
            ));
        }
        if self.downsample_padding > 1 {
            return Err(format!(
                "`downsample_padding` = {} is not supported; supported: 0, 1",
                self.downsample_padding
            ));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(format!("`dropout` = {} must be in [0, 1)", self.dropout));
        }
        if !(self.norm_eps > 0.0 && self.mid_block_scale_factor > 0.0) {
            return Err("`norm_eps` and `mid_block_scale_factor` must be more than 0".into());
        }
        let width = self.block_out_channels[0];
        if !width.is_multiple_of(2) || !self.time_embedding_dim.is_multiple_of(2) {
            return Err(format!(
                "`block_out_channels` must begin with an even number, not {width}, and `time_embedding_dim` be even"
            ));
        }
        if width as f64 / 2.0 <= self.freq_shift {
            return Err(format!(
                "`freq_shift` = {} must be less than half of the {width} first channels",
                self.freq_shift
            ));
        }
        let groups = self.norm_num_groups;
        if let Some(c) = self.block_out_channels.iter().find(|c| !c.is_multiple_of(groups)) {
            return Err(format!("`block_out_channels`: {c} is not divisible by `norm_num_groups` = {groups}"));
        }
        self.check_attention()
    }

    fn check_attention(&self) -> Result<(), String> {
        let levels = self.block_out_channels.len();
        let conditional = self.class == ModelClass::UNet2DConditionModel;
        let down = self.down_block_types.iter().map(|b| b.kind()).enumerate().map(|(i, k)| (k, i, i));
        let up = self.up_block_types.iter().map(|b| b.kind()).enumerate().map(|(i, k)| (k, levels - 1 - i, i));
        let middle = match self.mid_block_type {
            MidBlock::UNetMidBlock2DCrossAttn => Some((BlockKind::CrossAttention, levels - 1, levels - 1)),
            MidBlock::UNetMidBlock2D if !conditional && self.add_attention => {
                Some((BlockKind::Attention, levels - 1, levels - 1))
            }
            _ => None,
        };
        for (kind, level, head) in down.chain(up).chain(middle) {
            let channels = self.block_out_channels[level];
            match kind {
                BlockKind::Plain | BlockKind::Resnet => {}
                BlockKind::Attention => {
                    let width = self.attention_head_dim[head];
                    if width > 0 && !channels.is_multiple_of(width) {
                        return Err(format!(
                            "`attention_head_dim` = {width} does not divide the {channels} channels of level {level}"
                        ));
                    }
                }
                BlockKind::CrossAttention if !conditional => {
                    return Err("blocks with cross-attention are of UNet2DConditionModel, not of UNet2DModel".into());
                }
                BlockKind::CrossAttention => {
                    let heads = self.attention_head_dim[level];
                    if heads == 0 || !channels.is_multiple_of(heads) {
                        return Err(format!(
                            "`attention_head_dim` = {heads} heads do not divide the {channels} channels of level {level}"
                        ));
                    }
                    if self.cross_attention_dim[level] == 0 || self.transformer_layers_per_block[level] == 0 {
                        return Err("`cross_attention_dim` and `transformer_layers_per_block` must not be 0".into());
                    }
                }
            }
        }
        if let Some(groups) = self.mid_attention_groups()
            && !self.block_out_channels[levels - 1].is_multiple_of(groups)
        {
            return Err(format!("`attn_norm_num_groups` = {groups} does not divide the last of `block_out_channels`"));
        }
        match self.context_features() {
            Some(features) if self.cross_attention_dim.iter().any(|d| *d != features) => {
                Err("`cross_attention_dim` must be the same on every level".into())
            }
            _ => Ok(()),
        }
    }

    /// Heads of self-attention over `channels` where `attention_head_dim` is the width of a head.
    pub fn heads_by_width(&self, level: usize, channels: usize) -> usize {
        match self.attention_head_dim[level] {
            0 => 1,
            width => channels / width,
        }
    }

    /// Groups that the middle's attention is normalised by, if it is.
    pub fn mid_attention_groups(&self) -> Option<usize> {
        match (self.attn_norm_num_groups, self.resnet_time_scale_shift) {
            (0, TimeScaleShift::Default) => Some(self.norm_num_groups),
            (0, TimeScaleShift::ScaleShift) => None,
            (groups, _) => Some(groups),
        }
    }

    /// Features of the context, for a network that looks at one.
    pub fn context_features(&self) -> Option<usize> {
        (self.class == ModelClass::UNet2DConditionModel).then(|| self.cross_attention_dim[0])
    }

    /// Whether the network takes the logarithm of the time, which therefore must not be 0.
    pub fn takes_log_of_time(&self) -> bool {
        self.time_embedding_type == TimeEmbedding::Fourier && self.class == ModelClass::UNet2DModel
    }

    /// About how many bytes one picture's activations take in a forward pass: a few times the features of all levels.
    pub fn memory(&self) -> usize {
        let [height, width] = self.sample_size;
        let level = |(l, channels): (usize, &usize)| (height >> l) * (width >> l) * channels;
        let features: usize = self.block_out_channels.iter().enumerate().map(level).sum();
        let layers = self.layers_per_block.iter().copied().max().unwrap_or(1);
        4 * 4 * (layers + 2) * features.max(1)
    }

    /// `config.json`, with every field that the network's class has.
    pub fn to_json(&self) -> Value {
        let or_null = |n: usize| if n == 0 { Value::Null } else { json!(n) };
        let sample_size = match self.sample_size {
            [h, w] if h == w => json!(h),
            sides => json!(sides),
        };
        let mut fields = json!({
            "_class_name": self.class,
            "_diffusers_version": super::VERSION,
            "sample_size": sample_size,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "center_input_sample": self.center_input_sample,
            "time_embedding_type": self.time_embedding_type,
            "time_embedding_dim": or_null(self.time_embedding_dim),
            "freq_shift": whole(self.freq_shift),
            "flip_sin_to_cos": self.flip_sin_to_cos,
            "down_block_types": self.down_block_types,
            "mid_block_type": match self.mid_block_type {
                MidBlock::None => Value::Null,
                other => json!(other),
            },
            "up_block_types": self.up_block_types,
            "block_out_channels": self.block_out_channels,
            "mid_block_scale_factor": whole(self.mid_block_scale_factor),
            "downsample_padding": self.downsample_padding,
            "dropout": self.dropout,
            "act_fn": self.act_fn,
            "norm_num_groups": self.norm_num_groups,
            "norm_eps": self.norm_eps,
            "resnet_time_scale_shift": self.resnet_time_scale_shift,
            "class_embed_type": match self.class_embed_type {
                ClassEmbedType::Table => Value::Null,
                ClassEmbedType::Timestep => json!("timestep"),
            },
            "num_class_embeds": or_null(self.num_class_embeds),
        });
        let own = match self.class {
            ModelClass::UNet2DModel => json!({
                "layers_per_block": self.layers_per_block[0],
                "attention_head_dim": or_null(self.attention_head_dim[0]),
                "downsample_type": self.downsample_type,
                "upsample_type": self.upsample_type,
                "attn_norm_num_groups": or_null(self.attn_norm_num_groups),
                "add_attention": self.add_attention,
            }),
            ModelClass::UNet2DConditionModel => json!({
                "layers_per_block": same(&self.layers_per_block),
                "attention_head_dim": same(&self.attention_head_dim),
                "cross_attention_dim": same(&self.cross_attention_dim),
                "transformer_layers_per_block": same(&self.transformer_layers_per_block),
                "only_cross_attention": same(&self.only_cross_attention),
                "use_linear_projection": self.use_linear_projection,
            }),
        };
        if let (Value::Object(fields), Value::Object(own)) = (&mut fields, own) {
            fields.extend(own);
        }
        fields
    }
}

/// A number without a fraction as Python writes an integer.
fn whole(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e9 { json!(x as i64) } else { json!(x) }
}

/// One value where all levels have the same.
fn same<T: Serialize + PartialEq>(each: &[T]) -> Value {
    match each.first() {
        Some(first) if each.iter().all(|v| v == first) => json!(first),
        _ => json!(each),
    }
}

fn sample_size(fields: &mut Fields, size: Option<[usize; 2]>) -> Result<[usize; 2]> {
    let expected = "expected a whole number or [height, width]";
    match (fields.value("sample_size"), size) {
        (_, Some(size)) => Ok(size),
        (None, None) => Err(Error::usage(format!(
            "{}: `sample_size` is open; say of which size pictures are to be with --size",
            fields.place()
        ))),
        (Some(value), None) => serde_json::from_value::<usize>(value.clone())
            .map(|side| [side; 2])
            .or_else(|_| serde_json::from_value(value.clone()))
            .map_err(|_| fields.refuse("sample_size", &value, expected)),
    }
}

/// Block names, with or without the prefix of old files.
fn blocks<B: serde::de::DeserializeOwned>(fields: &mut Fields, name: &str, supported: &str) -> Result<Vec<B>> {
    let names: Vec<String> = fields.or(name, vec![], "a list of names")?;
    let block = |full: &String| {
        let short = full.strip_prefix("UNetRes").unwrap_or(full);
        serde_json::from_value(json!(short)).map_err(|_| fields.refuse(name, full, &format!("supported: {supported}")))
    };
    names.iter().map(block).collect()
}

fn mid_block(fields: &mut Fields, conditional: bool) -> Result<MidBlock> {
    let own = if conditional { MidBlock::UNetMidBlock2DCrossAttn } else { MidBlock::UNetMidBlock2D };
    if !fields.has("mid_block_type") {
        return Ok(own);
    }
    let supported = if conditional {
        "supported: \"UNetMidBlock2DCrossAttn\", \"UNetMidBlock2D\", null"
    } else {
        "supported: \"UNetMidBlock2D\", null"
    };
    match fields.value("mid_block_type") {
        None => Ok(MidBlock::None),
        Some(value) => match serde_json::from_value(value.clone()) {
            Ok(block) if conditional || block == MidBlock::UNetMidBlock2D => Ok(block),
            _ => Err(fields.refuse("mid_block_type", &value, supported)),
        },
    }
}

/// A number of all levels, which may differ from one to the next in UNet2DConditionModel alone.
fn of_levels(fields: &mut Fields, name: &str, levels: usize, default: usize, list: bool) -> Result<Vec<usize>> {
    if list {
        return fields.each(name, levels, default, COUNT);
    }
    Ok(vec![fields.optional(name, COUNT)?.unwrap_or(default); levels])
}

/// `attention_head_dim`, where null (one head as wide as the map) differs from the default of 8.
fn heads(fields: &mut Fields, levels: usize, list: bool) -> Result<Vec<usize>> {
    let default = if fields.has("attention_head_dim") { 0 } else { 8 };
    of_levels(fields, "attention_head_dim", levels, default, list)
}
