//! The U-Net of denoising diffusion (Ho 2020, appendix B; `models/unet.py` of the reference code).
//!
//! The network knows nothing of schedule, guidance or loss: it maps a noisy image, a time and a [`Condition`] to an image
//! of `out_channels`.

pub mod parts;

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::random::Key;
use serde::{Deserialize, Serialize};

use self::parts::{DropoutSites, Nonlinearity, Resample, Residual, Shown, Step, through};
use crate::attention::{AttentionPool, FeatureAttention};
use crate::condition::Condition;
use crate::resample::{global_mean, pixel_shuffle, pixel_unshuffle, upsample_nearest};
use crate::time::sinusoidal;
use crate::transformer::{SpatialTransformer, SpatialTransformerConfig};
use crate::{Activation, Conv2d, Conv2dConfig, Embedding, GroupNorm, Init, Linear, LinearConfig, WeightInit, activate};

/// The shape of a [`UNet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UNetConfig {
    /// Pixels are gathered in patch×patch blocks before the first convolution and spread again
    /// after the last (Hoogeboom 2023, §3.3): patch² fewer positions to work on. 1 is Ho's network.
    pub patch: usize,
    /// Channels after the first convolution (Ho: 128).
    pub base_channels: usize,
    /// Channels of each level in multiples of `base_channels`; each level halves the size.
    pub channel_multipliers: Vec<usize>,
    /// Residual blocks a level on the way down; one more on the way up.
    pub blocks: usize,
    /// Levels (0 is full size) that attend over all positions. The middle always does.
    pub attention_levels: Vec<usize>,
    /// Attention heads, where `head_channels` does not say.
    pub heads: usize,
    /// Channels of a head, whatever their number (Dhariwal & Nichol 2021: 64); 0 goes by `heads`.
    pub head_channels: usize,
    /// Time and class scale and shift the second normalisation, AdaGN, where they else are added before it
    /// (Dhariwal & Nichol 2021, equation 4).
    pub scale_shift: bool,
    /// Halve and double inside residual blocks, as BigGAN (Dhariwal & Nichol 2021, §3; Song 2021b).
    pub resample_blocks: bool,
    /// Divide the sum of a residual block and its input by √2 (Song 2021b, appendix H).
    pub rescale_residual: bool,
    /// Groups of every normalisation; must divide every level's channels.
    pub groups: usize,
    /// Dropout inside residual blocks.
    pub dropout: f64,
}

/// How an encoder makes one vector of all positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// By attention ([`AttentionPool`]).
    Attention,
}

impl Default for UNetConfig {
    fn default() -> Self {
        Self {
            patch: 1,
            base_channels: 64,
            channel_multipliers: vec![1, 2, 2],
            blocks: 2,
            attention_levels: vec![1],
            heads: 1,
            head_channels: 0,
            scale_shift: false,
            resample_blocks: false,
            rescale_residual: false,
            groups: 8,
            dropout: 0.0,
        }
    }
}

impl UNetConfig {
    /// What height and width of the pictures must be multiples of.
    pub fn divisor(&self) -> usize {
        let halvings = self.channel_multipliers.len().saturating_sub(1) as u32;
        self.patch.max(1).checked_shl(halvings).unwrap_or(usize::MAX)
    }

    /// Why this shape cannot be built, if it cannot.
    pub fn check(&self) -> Result<(), String> {
        let levels = self.channel_multipliers.len();
        if levels == 0
            || self.patch == 0
            || self.blocks == 0
            || self.base_channels == 0
            || self.heads == 0
            || self.groups == 0
        {
            return Err(
                "patch, base_channels, channel_multipliers, blocks, heads and groups must not be 0 or empty".into()
            );
        }
        if !self.base_channels.is_multiple_of(2) {
            return Err("base_channels must be even (time embedding)".into());
        }
        for m in &self.channel_multipliers {
            let channels = m * self.base_channels;
            let (name, per) =
                if self.head_channels > 0 { ("head_channels", self.head_channels) } else { ("heads", self.heads) };
            if !channels.is_multiple_of(self.groups) || !channels.is_multiple_of(per) || channels == 0 {
                return Err(format!(
                    "{channels} channels are not divisible by groups = {} and {name} = {per}",
                    self.groups
                ));
            }
        }
        if let Some(level) = self.attention_levels.iter().find(|&&l| l >= levels) {
            return Err(format!("attention level {level} does not exist: levels are 0 to {}", levels - 1));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(format!("dropout must be in [0, 1), not {}", self.dropout));
        }
        Ok(())
    }

    /// About how many bytes one picture's activations take in a forward pass: a few times the features of all levels,
    /// and the scores of the largest attention, which only the CPU's kernel does without.
    pub fn memory(&self, height: usize, width: usize) -> usize {
        let level = |l: usize| ((height / self.patch) >> l) * ((width / self.patch) >> l);
        let last = self.channel_multipliers.len().saturating_sub(1);
        let features = (0..=last).map(|l| level(l) * self.channel_multipliers[l] * self.base_channels).sum::<usize>();
        let attending = self.attention_levels.iter().copied().chain([last]);
        let scores = attending
            .map(|l| self.heads(self.channel_multipliers[l] * self.base_channels) * level(l).pow(2))
            .max()
            .unwrap_or(0);
        4 * (2 * scores + 4 * (self.blocks + 2) * features)
    }

    /// Makes a network without cross-attention; see [`UNetConfig::init_with_context`].
    pub fn init(&self, in_channels: usize, out_channels: usize, classes: usize, init: &mut Init) -> UNet {
        self.init_with_context(in_channels, out_channels, classes, 0, init)
    }

    /// Makes the network. `in_channels` counts those of [`Condition::images`] as well. `classes` is the number of classes
    /// (0: none); one more entry stands for "no class". Where `context_features` is not 0, what attends is a transformer
    /// that looks at a context of so many features (Rombach 2022, §3.3), in place of self-attention alone.
    pub fn init_with_context(
        &self,
        in_channels: usize,
        out_channels: usize,
        classes: usize,
        context_features: usize,
        init: &mut Init,
    ) -> UNet {
        let base = self.base_channels;
        let area = self.patch * self.patch;
        let Trunk { conv_in, down, middle, mut skips } = self.trunk(in_channels, context_features, init);
        let mut channels = *skips.last().unwrap_or(&base);
        let mut up = Vec::new();
        for (level, m) in self.channel_multipliers.iter().enumerate().rev() {
            for _ in 0..=self.blocks {
                // One skip for the first convolution, each block and each halving: the same count.
                let skip = skips.pop().unwrap_or(0);
                up.push(self.stage(channels + skip, m * base, level, context_features, init));
                channels = m * base;
            }
            if level > 0 {
                up.push(match self.resample_blocks {
                    true => Stage::UpBlock(ResidualBlock::new(channels, channels, self, init)),
                    false => Stage::Up(Conv2dConfig::same3(channels, channels).init(init)),
                });
            }
        }
        let time = 4 * base;
        UNet {
            time1: LinearConfig::new(base, time).init(init),
            time2: LinearConfig::new(time, time).init(init),
            class: (classes > 0).then(|| Embedding::new(classes + 1, time, init)),
            conv_in,
            down,
            middle,
            up,
            norm_out: GroupNorm::new(self.groups, channels, init),
            conv_out: Conv2dConfig { weight: WeightInit::Zero, ..Conv2dConfig::same3(channels, out_channels * area) }
                .init(init),
            base_channels: base,
            patch: self.patch,
            context_features,
        }
    }

    /// Makes half of the network for pictures of a height and width: the way down, the middle, and `outputs` numbers from
    /// all positions (the classifier of Dhariwal & Nichol 2021, §4.1).
    pub fn encoder(
        &self,
        in_channels: usize,
        [height, width]: [usize; 2],
        pooling: Pooling,
        outputs: usize,
        init: &mut Init,
    ) -> UNetEncoder {
        let Trunk { conv_in, down, middle, skips } = self.trunk(in_channels, 0, init);
        let (base, channels) = (self.base_channels, *skips.last().unwrap_or(&self.base_channels));
        let positions = (height / self.divisor()) * (width / self.divisor());
        UNetEncoder {
            time1: LinearConfig::new(base, 4 * base).init(init),
            time2: LinearConfig::new(4 * base, 4 * base).init(init),
            conv_in,
            down,
            middle,
            norm_out: GroupNorm::new(self.groups, channels, init),
            pool: (pooling == Pooling::Attention)
                .then(|| AttentionPool::new(positions, channels, self.heads(channels), init)),
            out: LinearConfig::new(channels, outputs).init(init),
            base_channels: base,
            patch: self.patch,
        }
    }

    /// The first convolution, the way down and the middle, and the channels of each skip.
    fn trunk(&self, in_channels: usize, context: usize, init: &mut Init) -> Trunk {
        let base = self.base_channels;
        let levels = self.channel_multipliers.len();
        let mut skips = vec![base];
        let mut channels = base;
        let conv_in = Conv2dConfig::same3(in_channels * self.patch * self.patch, base).init(init);
        let mut down = Vec::new();
        for (level, m) in self.channel_multipliers.iter().enumerate() {
            for _ in 0..self.blocks {
                down.push(self.stage(channels, m * base, level, context, init));
                channels = m * base;
                skips.push(channels);
            }
            if level + 1 < levels {
                down.push(match self.resample_blocks {
                    true => Stage::DownBlock(ResidualBlock::new(channels, channels, self, init)),
                    false => {
                        Stage::Down(Conv2dConfig { stride: 2, ..Conv2dConfig::same3(channels, channels) }.init(init))
                    }
                });
                skips.push(channels);
            }
        }
        let middle = Middle {
            block1: ResidualBlock::new(channels, channels, self, init),
            attention: (context == 0).then(|| FeatureAttention::new(channels, self.groups, self.heads(channels), init)),
            transformer: (context > 0).then(|| self.transformer(channels, context, init)),
            block2: ResidualBlock::new(channels, channels, self, init),
        };
        Trunk { conv_in, down, middle, skips }
    }

    fn heads(&self, channels: usize) -> usize {
        channels.checked_div(self.head_channels).unwrap_or(self.heads)
    }

    fn stage(&self, inputs: usize, outputs: usize, level: usize, context: usize, init: &mut Init) -> Stage {
        let block = ResidualBlock::new(inputs, outputs, self, init);
        match (self.attention_levels.contains(&level), context) {
            (false, _) => Stage::Block(block),
            (true, 0) => {
                let attention = FeatureAttention::new(outputs, self.groups, self.heads(outputs), init);
                Stage::Attend(AttendingBlock { block, attention })
            }
            (true, _) => {
                let transformer = self.transformer(outputs, context, init);
                Stage::Cross(CrossAttendingBlock { block, transformer })
            }
        }
    }

    /// Of depth 1, starting as the identity (Rombach 2022, appendix E.2.1).
    fn transformer(&self, channels: usize, context: usize, init: &mut Init) -> SpatialTransformer {
        let config = SpatialTransformerConfig {
            channels,
            context,
            heads: self.heads(channels),
            groups: self.groups,
            blocks: 1,
            linear: false,
            only_cross_attention: false,
            identity_at_start: true,
        };
        SpatialTransformer::new(&config, init)
    }
}

/// What the network and its half share.
struct Trunk {
    conv_in: Conv2d,
    down: Vec<Stage>,
    middle: Middle,
    skips: Vec<usize>,
}

/// GroupNorm–SiLU–conv, add the projected time, GroupNorm–SiLU–dropout–conv, add the input.
#[derive(Module, Debug)]
pub struct ResidualBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    skip: Option<Conv2d>,
    #[module(skip)]
    dropout: f64,
    #[module(skip)]
    scale_shift: bool,
    #[module(skip)]
    rescale: bool,
}

impl ResidualBlock {
    fn new(inputs: usize, outputs: usize, unet: &UNetConfig, init: &mut Init) -> Self {
        Self {
            norm1: GroupNorm::new(groups_for(inputs, unet.groups), inputs, init),
            conv1: Conv2dConfig::same3(inputs, outputs).init(init),
            time: LinearConfig::new(4 * unet.base_channels, if unet.scale_shift { 2 * outputs } else { outputs })
                .init(init),
            norm2: GroupNorm::new(unet.groups, outputs, init),
            // Zero: the block starts as its skip (Ho 2020).
            conv2: Conv2dConfig { weight: WeightInit::Zero, ..Conv2dConfig::same3(outputs, outputs) }.init(init),
            skip: (inputs != outputs).then(|| Conv2dConfig::new(inputs, outputs, 1).init(init)),
            dropout: unet.dropout,
            scale_shift: unet.scale_shift,
            rescale: unet.rescale_residual,
        }
    }

    fn forward(&self, x: Tensor<4>, time: &Tensor<2>, key: Option<Key>, resample: Resample) -> Tensor<4> {
        let layers = Residual {
            norm1: &self.norm1,
            conv1: &self.conv1,
            time: &self.time,
            norm2: &self.norm2,
            conv2: &self.conv2,
            skip: self.skip.as_ref(),
            activation: Nonlinearity::Fused(Activation::Silu),
            resample,
            scale_shift: self.scale_shift,
            dropout: self.dropout,
            scale: if self.rescale { std::f64::consts::FRAC_1_SQRT_2 } else { 1.0 },
        };
        layers.forward(x, time, key)
    }
}

/// Concatenated skips need not divide by the configured groups; the largest common divisor does.
fn groups_for(channels: usize, groups: usize) -> usize {
    (1..=groups).rev().find(|g| channels.is_multiple_of(*g) && groups.is_multiple_of(*g)).unwrap_or(1)
}

/// A residual block followed by attention.
#[derive(Module, Debug)]
pub struct AttendingBlock {
    block: ResidualBlock,
    attention: FeatureAttention,
}

/// A residual block followed by a transformer that looks at the context.
#[derive(Module, Debug)]
pub struct CrossAttendingBlock {
    block: ResidualBlock,
    transformer: SpatialTransformer,
}

/// One step of the way down or up.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // a few dozen at most; boxing would hide the layers
pub enum Stage {
    /// A residual block.
    Block(ResidualBlock),
    /// A residual block with attention.
    Attend(AttendingBlock),
    /// A residual block with a transformer.
    Cross(CrossAttendingBlock),
    /// Halves the size by a strided convolution.
    Down(Conv2d),
    /// Doubles the size by repetition and a convolution.
    Up(Conv2d),
    /// Halves the size inside a residual block.
    DownBlock(ResidualBlock),
    /// Doubles it likewise.
    UpBlock(ResidualBlock),
}

/// Block, attention, block at the smallest size.
#[derive(Module, Debug)]
pub struct Middle {
    block1: ResidualBlock,
    /// Of a network without a context.
    attention: Option<FeatureAttention>,
    /// Of a network with one.
    transformer: Option<SpatialTransformer>,
    block2: ResidualBlock,
}

impl Middle {
    fn forward(&self, h: Tensor<4>, shown: &Shown, sites: &mut DropoutSites) -> Tensor<4> {
        let mut h = self.block1.forward(h, &shown.time, sites.next_key(), Resample::Keep);
        if let Some(attention) = &self.attention {
            h = attention.forward(h);
        }
        if let (Some(transformer), Some(context)) = (&self.transformer, &shown.context) {
            h = transformer.forward(h, context);
        }
        self.block2.forward(h, &shown.time, sites.next_key(), Resample::Keep)
    }
}

/// The network's half: pictures at a time to a few numbers; see [`UNetConfig::encoder`].
#[derive(Module, Debug)]
pub struct UNetEncoder {
    time1: Linear,
    time2: Linear,
    conv_in: Conv2d,
    down: Vec<Stage>,
    middle: Middle,
    norm_out: GroupNorm,
    /// In place of the mean over all positions.
    pool: Option<AttentionPool>,
    out: Linear,
    #[module(skip)]
    base_channels: usize,
    #[module(skip)]
    patch: usize,
}

impl UNetEncoder {
    /// # Shapes
    /// x `[n, in, h, w]`, t `[n]` in steps → `[n, outputs]`; `dropout` keys the masks while training.
    pub fn forward(&self, x: Tensor<4>, t: Tensor<1>, dropout: Option<Key>) -> Tensor<2> {
        let silu = |x: Tensor<2>| activate(x, Activation::Silu);
        let time = sinusoidal(t, self.base_channels, 1.0);
        let time = silu(self.time2.forward(silu(self.time1.forward(time))));
        let shown = Shown { time, context: None };
        let mut sites = DropoutSites::new(dropout);
        let mut h = self.conv_in.forward(pixel_unshuffle(x, self.patch));
        for stage in &self.down {
            h = stage.forward(h, &shown, sites.next_key());
        }
        h = self.middle.forward(h, &shown, &mut sites);
        let h = self.norm_out.forward(h, Activation::Silu);
        self.out.forward(match &self.pool {
            Some(pool) => pool.forward(h),
            None => global_mean(h),
        })
    }
}

/// The network; see the [module page](self).
#[derive(Module, Debug)]
pub struct UNet {
    time1: Linear,
    time2: Linear,
    class: Option<Embedding>,
    conv_in: Conv2d,
    down: Vec<Stage>,
    middle: Middle,
    up: Vec<Stage>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    #[module(skip)]
    base_channels: usize,
    #[module(skip)]
    patch: usize,
    #[module(skip)]
    context_features: usize,
}

impl UNet {
    /// # Shapes
    /// x `[n, in, h, w]`, t `[n]` in steps → `[n, out, h, w]`
    pub fn forward(&self, x: Tensor<4>, t: Tensor<1>, condition: &Condition) -> Tensor<4> {
        let silu = |x: Tensor<2>| activate(x, Activation::Silu);
        let time = sinusoidal(t, self.base_channels, 1.0);
        let time = self.time2.forward(silu(self.time1.forward(time)));
        let time = match (&self.class, condition.class.clone()) {
            (Some(table), Some(class)) => time + table.forward(class),
            _ => time,
        };
        let shown = Shown { time: silu(time), context: condition.context_of(self.context_features, &x) };
        let x = condition.beside(x);
        let h = self.conv_in.forward(pixel_unshuffle(x, self.patch));
        let middle = |h, sites: &mut DropoutSites| self.middle.forward(h, &shown, sites);
        let h = through(h, &self.down, middle, &self.up, &shown, condition);
        let out = self.conv_out.forward(self.norm_out.forward(h, Activation::Silu));
        pixel_shuffle(out, self.patch)
    }
}

impl Step for &Stage {
    fn takes_skip(&self) -> bool {
        !matches!(self, Stage::Up(_) | Stage::UpBlock(_))
    }

    fn forward(&self, x: Tensor<4>, shown: &Shown, key: Option<Key>) -> Tensor<4> {
        let time = &shown.time;
        match self {
            Stage::Block(block) => block.forward(x, time, key, Resample::Keep),
            Stage::Attend(both) => both.attention.forward(both.block.forward(x, time, key, Resample::Keep)),
            Stage::Cross(both) => {
                let h = both.block.forward(x, time, key, Resample::Keep);
                match &shown.context {
                    Some(context) => both.transformer.forward(h, context),
                    None => h,
                }
            }
            Stage::Down(conv) => conv.forward(x),
            Stage::Up(conv) => conv.forward(upsample_nearest(x, 2)),
            Stage::DownBlock(block) => block.forward(x, time, key, Resample::Halve),
            Stage::UpBlock(block) => block.forward(x, time, key, Resample::Double),
        }
    }
}
