//! The generator that grows: two convolutions of each size and a picture of the last (Karras 2018, table 2); with styles, noise
//! and a constant input it is StyleGAN's (Karras 2019, figure 1).

use std::f64::consts::SQRT_2;
use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_nn::dual::Plain;
use kiln_nn::fir::{Rate, conv2d_resample};
use kiln_nn::norm::{adain, pixel_norm};
use kiln_nn::{Activation, Conv2d, Init, Linear, activate};

use super::{Level, blend, enlarge};
use crate::adversarial::dcgan::{LEAK, Sizes};
use crate::adversarial::equalised::{Widths, conv, linear};
use crate::adversarial::style::noise::{self, Noise, NoiseInput};

/// What a generator is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parts {
    /// Numbers of z, or of w.
    pub latent: usize,
    /// The filter of resampling.
    pub filter: &'static [f32],
    /// AdaIN by a style for each layer, in the place of pixel norm.
    pub styles: bool,
    /// A learned constant as the first map, in the place of a layer on the latent.
    pub constant: bool,
    /// Noise inputs.
    pub noise: bool,
}

/// What follows each convolution: noise, a bias and LeakyReLU; then AdaIN by a style, or pixel norm.
#[derive(Module, Debug)]
struct Epilogue {
    bias: Param<Tensor<1>>,
    noise: Option<NoiseInput>,
    style: Option<Linear>,
}

impl Epilogue {
    fn new(channels: usize, size: [usize; 2], parts: Parts, init: &mut Init) -> Self {
        Self {
            bias: init.constant([channels], 0.0),
            noise: parts.noise.then(|| NoiseInput::new(channels, size, init)),
            style: parts.styles.then(|| linear(parts.latent, 2 * channels, 1.0, 0.0, init)),
        }
    }

    /// # Shapes
    /// `[n, channels, h, w]`, w `[n, latent]` → `[n, channels, h, w]`
    fn forward(&self, x: Tensor<4>, w: Tensor<2>, noise: Option<&Tensor<4>>) -> Tensor<4> {
        let [_, channels, ..] = x.dims();
        let mut x = x + self.bias.val().reshape([1, channels, 1, 1]);
        if let (Some(input), Some(noise)) = (&self.noise, noise) {
            x = x + input.scaled(noise.clone());
        }
        let x = activate(x, Activation::LeakyRelu(LEAK));
        match &self.style {
            // (y_s + 1) · (x − μ(x)) / σ(x) + y_b (equation 1)
            Some(style) => {
                let y = style.forward(w);
                adain(x, y.clone().narrow(1, 0, channels) + 1.0, y.narrow(1, channels, channels), 1e-8)
            }
            None => pixel_norm(x),
        }
    }
}

/// The two layers of a size, and its picture.
#[derive(Module, Debug)]
struct Block {
    /// From the size before; the first size has none.
    up: Option<Conv2d>,
    conv: Conv2d,
    epilogues: [Epilogue; 2],
    to_picture: Conv2d,
}

/// Latents → pictures.
#[derive(Module, Debug)]
pub struct Synthesis {
    /// `[1, channels, h, w]`: the first map,
    constant: Option<Param<Tensor<4>>>,
    /// or what makes it of the latent.
    project: Option<Linear>,
    blocks: Vec<Block>,
    #[module(skip)]
    filter: &'static [f32],
    #[module(skip)]
    base: [usize; 2],
}

impl Synthesis {
    /// Pictures of `sizes` with `outputs` channels.
    pub fn new(parts: Parts, widths: Widths, outputs: usize, sizes: Sizes, init: &mut Init) -> Self {
        let [h, w] = sizes.base;
        let first = widths.at(0);
        // He's gain over the side of the map, as if it were the kernel of a transposed convolution (their code).
        let gain = SQRT_2 / ((h * w) as f64).sqrt();
        let constant = parts.constant.then(|| init.constant([1, first, h, w], 1.0));
        let project = (!parts.constant).then(|| linear(parts.latent, first * h * w, gain, 0.0, init));
        let project = project.map(|layer| Linear { bias: None, ..layer });
        let mut block = |level: usize| {
            let (from, to) = (widths.at(level.saturating_sub(1)), widths.at(level));
            let size = sizes.base.map(|side| side << level);
            let up = (level > 0).then(|| bare(conv(from, to, 3, SQRT_2, init)));
            Block {
                up,
                conv: bare(conv(to, to, 3, SQRT_2, init)),
                epilogues: [0, 1].map(|_| Epilogue::new(to, size, parts, init)),
                to_picture: conv(to, outputs, 1, 1.0, init),
            }
        };
        let blocks = (0..=sizes.doublings).map(&mut block).collect();
        Self { constant, project, blocks, filter: parts.filter, base: sizes.base }
    }

    /// Layers with a style: two of each size.
    pub fn layers(&self) -> usize {
        2 * self.blocks.len()
    }

    fn noise_inputs(&self) -> impl Iterator<Item = &NoiseInput> {
        self.blocks.iter().flat_map(|block| &block.epilogues).filter_map(|layer| layer.noise.as_ref())
    }

    /// The noise that does not change from picture to picture; none without noise inputs.
    pub fn constant_noise(&self) -> Noise {
        noise::constant(self.noise_inputs())
    }

    /// Noise of its own for each sample, for the layers in use at a level.
    pub fn drawn_noise(&self, key: Key, samples: Range<u64>, level: Level) -> Noise {
        let device = self.blocks[0].conv.weight.val().device();
        noise::drawn(self.noise_inputs().take(layers_at(level)), key, samples, &device)
    }

    /// Pictures of a level's size; a latent for each layer.
    ///
    /// # Shapes
    /// w `[n, layers, latent]`, noise `[n or 1, 1, h, w]` for each layer → `[n, c, h, w]`
    pub fn forward(&self, w: Tensor<3>, noise: &[Tensor<4>], level: Level) -> Tensor<4> {
        let [n, _, latent] = w.dims();
        let style = |i: usize| w.clone().narrow(1, i, 1).reshape([n, latent]);
        let mut x = self.begin(style(0), n);
        let mut smaller = None;
        for (i, block) in self.blocks.iter().take(level.size + 1).enumerate() {
            let layer = |j: usize, x: Tensor<4>| block.epilogues[j].forward(x, style(2 * i + j), noise.get(2 * i + j));
            if let Some(up) = &block.up {
                if level.fades() && i == level.size {
                    smaller = Some(self.blocks[i - 1].to_picture.forward(x.clone()));
                }
                let (weight, _) = up.effective::<Plain>();
                x = conv2d_resample(x, weight, self.filter, Rate::Up(2), 1);
            }
            x = layer(0, x);
            x = layer(1, block.conv.forward(x));
        }
        let picture = self.blocks[level.size].to_picture.forward(x);
        match smaller {
            Some(smaller) => blend(enlarge(smaller, 1), picture, level.fade),
            None => picture,
        }
    }

    /// The first map.
    fn begin(&self, latent: Tensor<2>, n: usize) -> Tensor<4> {
        let [h, w] = self.base;
        if let Some(constant) = &self.constant {
            let [_, channels, ..] = constant.dims();
            return constant.val().expand([n, channels, h, w]);
        }
        let map = match &self.project {
            Some(project) => project.forward(latent),
            None => latent,
        };
        let channels = map.dims()[1] / (h * w);
        map.reshape([n, channels, h, w])
    }
}

/// Layers in use at a level.
pub fn layers_at(level: Level) -> usize {
    2 * (level.size + 1)
}

/// Without its bias, which the epilogue has, after the noise.
fn bare(mut conv: Conv2d) -> Conv2d {
    conv.bias = None;
    conv
}
