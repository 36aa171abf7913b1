//! The autoencoders of latent diffusion (Rombach 2022, appendix G; Esser 2021), under the names of diffusers' `AutoencoderKL` and
//! `VQModel` (`models/autoencoders/vae.py`).

use burn::module::Module;
use burn::tensor::Tensor;

use crate::resample::upsample_nearest;
use crate::transformer::MultiHeadAttention;
use crate::{Activation, Conv2d, Conv2dConfig, GroupNorm, Init};

/// ε of all normalisations here.
const EPS: f64 = 1e-6;

/// What encoder and decoder have in common.
#[derive(Clone, Debug)]
pub struct FirstStageConfig {
    /// Channels of pictures.
    pub channels: usize,
    /// Channels of each level, the finest first; each level after the first halves the size.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each level of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Groups of the normalisations; divides all channels.
    pub norm_num_groups: usize,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Whether the middle attends over all positions.
    pub attention: bool,
}

impl FirstStageConfig {
    fn norm(&self, channels: usize, init: &mut Init) -> GroupNorm {
        GroupNorm::new(self.norm_num_groups, channels, init).with_eps(EPS)
    }
}

/// Twice norm, SiLU and convolution, added to the input.
#[derive(Module, Debug)]
struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    fn new(config: &FirstStageConfig, inputs: usize, outputs: usize, init: &mut Init) -> Self {
        Self {
            norm1: config.norm(inputs, init),
            conv1: Conv2dConfig::same3(inputs, outputs).init(init),
            norm2: config.norm(outputs, init),
            conv2: Conv2dConfig::same3(outputs, outputs).init(init),
            conv_shortcut: (inputs != outputs).then(|| Conv2dConfig::new(inputs, outputs, 1).init(init)),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.conv1.forward(self.norm1.forward(x.clone(), Activation::Silu));
        let y = self.conv2.forward(self.norm2.forward(y, Activation::Silu));
        match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x) + y,
            None => x + y,
        }
    }
}

/// The convolution of a step to another size.
#[derive(Module, Debug)]
struct Resize {
    conv: Conv2d,
}

/// A level on the way down.
#[derive(Module, Debug)]
struct DownBlock {
    resnets: Vec<ResnetBlock>,
    downsamplers: Option<[Resize; 1]>,
}

/// A level on the way up.
#[derive(Module, Debug)]
struct UpBlock {
    resnets: Vec<ResnetBlock>,
    upsamplers: Option<[Resize; 1]>,
}

/// The smallest size.
#[derive(Module, Debug)]
struct MidBlock {
    attentions: Vec<MultiHeadAttention>,
    resnets: Vec<ResnetBlock>,
}

impl MidBlock {
    fn new(config: &FirstStageConfig, channels: usize, init: &mut Init) -> Self {
        let attention = |init: &mut Init| {
            let norm = config.norm(channels, init);
            MultiHeadAttention::of_map(channels, Some(norm), 1, init)
        };
        Self {
            attentions: if config.attention { vec![attention(init)] } else { Vec::new() },
            resnets: (0..2).map(|_| ResnetBlock::new(config, channels, channels, init)).collect(),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.resnets[0].forward(x);
        let x = self.attentions.iter().fold(x, |x, attention| attention.forward_map(x));
        self.resnets[1].forward(x)
    }
}

/// Pictures to the parameters of a latent.
#[derive(Module, Debug)]
pub struct FirstStageEncoder {
    conv_in: Conv2d,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl FirstStageEncoder {
    /// With `outputs` channels of the latent's parameters: twice the latent's for a Gaussian.
    pub fn new(config: &FirstStageConfig, outputs: usize, init: &mut Init) -> Self {
        let widths = &config.block_out_channels;
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let conv_in = Conv2dConfig::same3(config.channels, first).init(init);
        let mut inputs = first;
        let mut down_blocks = Vec::with_capacity(widths.len());
        for (level, &width) in widths.iter().enumerate() {
            let block =
                |i: usize, init: &mut Init| ResnetBlock::new(config, if i == 0 { inputs } else { width }, width, init);
            let resnets = (0..config.layers_per_block).map(|i| block(i, init)).collect();
            let halves = level + 1 < widths.len();
            let conv = Conv2dConfig { stride: 2, ..Conv2dConfig::new(width, width, 3) };
            let downsamplers = halves.then(|| [Resize { conv: conv.init(init) }]);
            down_blocks.push(DownBlock { resnets, downsamplers });
            inputs = width;
        }
        Self {
            conv_in,
            down_blocks,
            mid_block: MidBlock::new(config, last, init),
            conv_norm_out: config.norm(last, init),
            conv_out: Conv2dConfig::same3(last, outputs).init(init),
        }
    }

    /// # Shapes
    /// `[n, channels, h, w]` → `[n, outputs, h / f, w / f]`, f = 2 for each level but one
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let x = self.down_blocks.iter().fold(self.conv_in.forward(images), |x, block| {
            let x = block.resnets.iter().fold(x, |x, resnet| resnet.forward(x));
            match &block.downsamplers {
                // One row and one column of zeros at the far ends.
                Some([resize]) => resize.conv.forward(x.pad((0, 1, 0, 1), 0.0)),
                None => x,
            }
        });
        self.conv_out.forward(self.conv_norm_out.forward(self.mid_block.forward(x), Activation::Silu))
    }
}

/// Latents to pictures.
#[derive(Module, Debug)]
pub struct FirstStageDecoder {
    conv_in: Conv2d,
    up_blocks: Vec<UpBlock>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    /// The last layer, whose gradients weigh the adversarial loss.
    pub conv_out: Conv2d,
}

impl FirstStageDecoder {
    /// The inverse of a [`FirstStageEncoder`].
    pub fn new(config: &FirstStageConfig, init: &mut Init) -> Self {
        let widths: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let conv_in = Conv2dConfig::same3(config.latent_channels, first).init(init);
        let mid_block = MidBlock::new(config, first, init);
        let mut inputs = first;
        let mut up_blocks = Vec::with_capacity(widths.len());
        for (level, &width) in widths.iter().enumerate() {
            let block =
                |i: usize, init: &mut Init| ResnetBlock::new(config, if i == 0 { inputs } else { width }, width, init);
            let resnets = (0..=config.layers_per_block).map(|i| block(i, init)).collect();
            let doubles = level + 1 < widths.len();
            let upsamplers = doubles.then(|| [Resize { conv: Conv2dConfig::same3(width, width).init(init) }]);
            up_blocks.push(UpBlock { resnets, upsamplers });
            inputs = width;
        }
        let conv_out = Conv2dConfig::same3(last, config.channels).init(init);
        Self { conv_in, up_blocks, mid_block, conv_norm_out: config.norm(last, init), conv_out }
    }

    /// What the last layer makes a picture of.
    ///
    /// # Shapes
    /// `[n, latent, h, w]` → `[n, width, f·h, f·w]`
    pub fn features(&self, latents: Tensor<4>) -> Tensor<4> {
        let x = self.mid_block.forward(self.conv_in.forward(latents));
        let x = self.up_blocks.iter().fold(x, |x, block| {
            let x = block.resnets.iter().fold(x, |x, resnet| resnet.forward(x));
            match &block.upsamplers {
                Some([resize]) => resize.conv.forward(upsample_nearest(x, 2)),
                None => x,
            }
        });
        self.conv_norm_out.forward(x, Activation::Silu)
    }

    /// # Shapes
    /// `[n, latent, h, w]` → `[n, channels, f·h, f·w]`
    pub fn forward(&self, latents: Tensor<4>) -> Tensor<4> {
        self.conv_out.forward(self.features(latents))
    }
}
