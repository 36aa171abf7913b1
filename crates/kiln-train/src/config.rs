//! The settings that every recipe has, whatever its system: which pictures, and how the loop runs.

use kiln_core::{Error, Result};
use kiln_data::{Augment, PaletteColour, PictureRule, PictureSize, Resize};
use kiln_kernels::Precision;
use serde::{Deserialize, Serialize};

use crate::augment::AugmentConfig;
use crate::ema::Buffers;

/// The `[data]` table: which images to train on, and how to prepare them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataConfig {
    /// A name from `kiln data list`, a folder or a zip; separate several domains by commas.
    pub set: String,
    /// Height and width in pixels: one number for a square (`64`) or two (`[48, 64]`); 0 keeps the stored size.
    pub size: PictureSize,
    /// Channels: 1 for grey, 3 for colour; 0 keeps the stored channels.
    pub channels: usize,
    /// Resulting channels, height and width; filled in from the data when the run starts.
    pub shape: [usize; 3],
    /// How to resize images of another size: `none` (report an error), `stretch`, `crop` or `pad`.
    pub resize: Resize,
    /// Background colour of transparent images: red, green, blue, 0 to 255.
    pub background: [u8; 3],
    /// Mirror images left to right with probability ½.
    pub flip: bool,
    /// Other random changes of images.
    #[serde(flatten)]
    pub augment: Augment,
    /// Number of labels a system that learns from classes may use, equally many of each class; 0 uses all.
    pub labels: usize,
    /// Seed of the choice of those labels.
    pub label_seed: u64,
    /// Class names; filled in from the data when the run starts.
    pub classes: Vec<String>,
    /// Of a set with masks the grey value of each class of pixels; filled in when the run starts if it is empty.
    pub mask_values: Vec<u8>,
    /// Of label maps the name and the colour of each class, such as `road #804080`; filled in when the run starts if it is empty.
    pub palette: Vec<PaletteColour>,
    /// A `tokenizer.json` for captions; without one the words of the training captions are the tokens. The run keeps a copy.
    pub tokenizer: String,
    /// How many tokens there are; filled in when the run starts. Before that, the most that words may be, 0 for all.
    pub vocabulary: usize,
    /// Tokens a caption is cut or padded to; 0 takes the longest caption, and is filled in when the run starts.
    pub caption_length: usize,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            set: "starter".into(),
            size: PictureSize::STORED,
            channels: 0,
            shape: [0; 3],
            resize: Resize::None,
            background: [255; 3],
            flip: false,
            augment: Augment::default(),
            labels: 0,
            label_seed: 0,
            classes: Vec::new(),
            mask_values: Vec::new(),
            palette: Vec::new(),
            tokenizer: String::new(),
            vocabulary: 0,
            caption_length: 0,
        }
    }
}

impl DataConfig {
    /// The rule that turns stored images into tensors.
    pub fn rule(&self) -> PictureRule {
        PictureRule {
            size: self.size,
            channels: self.channels,
            resize: self.resize,
            background: self.background,
            flip: self.flip,
            augment: self.augment.clone(),
        }
    }

    /// The shape that an older run's recipe does not say, of pictures that are square. A run has pictures of some shape.
    pub(crate) fn find_shape(&mut self, place: &str) -> Result<()> {
        if !self.shape.contains(&0) {
            return Ok(());
        }
        match (self.shape, self.channels, self.size.pixels()) {
            ([0, 0, 0], 1.., Some([height, width])) if height > 0 && width > 0 => {
                self.shape = [self.channels, height, width];
            }
            _ => {
                return Err(Error::usage(format!(
                    "{place}: it does not say which shape its pictures have; add `shape = [channels, height, width]` \
                     to its [data] table, such as [1, 112, 92]"
                )));
            }
        }
        Ok(())
    }
}

/// The `[train]` table: the training loop. Durations are counted in images seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainConfig {
    /// The run of the same system whose networks it starts from (`--from`); empty for fresh ones.
    pub init_from: String,
    /// Images per step.
    pub batch: usize,
    /// Precision of products in convolutions: `f32` or `bf16`; sums, weights and all else stay in `f32`.
    pub precision: Precision,
    /// Split each batch into this many parts to save memory; gradients are summed.
    pub accumulate: usize,
    /// Recompute cheap activations (normalised, activated and concatenated feature maps) in the backward pass
    /// (Chen 2016): less memory, a little more time, the same bits.
    pub gradient_checkpointing: bool,
    /// Length of the run in images seen; schedules are stretched to it.
    pub images: u64,
    /// Stop after this many images without shortening any schedule (`--steps`); 0 stops after `images`.
    pub stop_after: u64,
    /// Half-life of the exponential moving average (EMA) of the weights, in images; 0 disables it.
    pub ema_half_life: f64,
    /// Limit the half-life to this fraction of the images seen so far; 0 disables the limit.
    pub ema_ramp: f64,
    /// What the EMA takes of the statistics that batch normalisation keeps: `average`, as of weights, or `copy`, those of the
    /// network that is trained, which do not fit averaged weights.
    pub ema_buffers: Buffers,
    /// What a discriminator sees.
    #[serde(flatten)]
    pub augment: AugmentConfig,
    /// Images between log records.
    pub log_every: u64,
    /// Images between checkpoints.
    pub checkpoint_every: u64,
    /// Number of newest checkpoints to keep; the best one is kept in addition.
    pub keep: usize,
    /// Loss term or metric whose best value marks the best checkpoint; empty for none.
    pub best: String,
    /// Images between evaluations of the EMA networks; 0 disables them.
    pub evaluate_every: u64,
    /// Metrics of those evaluations: a list such as fid,is.
    pub metrics: String,
    /// Samples per evaluation.
    pub evaluate_count: usize,
    /// Images between previews; 0 draws only the last.
    pub preview_every: u64,
    /// Images in a preview.
    pub preview_count: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            init_from: String::new(),
            batch: 64,
            precision: Precision::default(),
            accumulate: 1,
            gradient_checkpointing: false,
            images: 200_000,
            stop_after: 0,
            ema_half_life: 10_000.0,
            ema_ramp: 0.05,
            ema_buffers: Buffers::Average,
            augment: AugmentConfig::default(),
            log_every: 1_000,
            checkpoint_every: 20_000,
            keep: 2,
            best: String::new(),
            evaluate_every: 0,
            metrics: "fid,is".into(),
            evaluate_count: 1_000,
            preview_every: 20_000,
            preview_count: 16,
        }
    }
}
