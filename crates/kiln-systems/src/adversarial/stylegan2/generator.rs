//! StyleGAN2's generator: modulated convolutions, two of each size, and a picture of each size, which are summed
//! (Karras 2020, figures 2d and 7b).

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_nn::dual::{Of, Pass, Signal};
use kiln_nn::fir::{Rate, upsample2d};
use kiln_nn::modulated::{Modulate, Modulation, modulated_conv2d};
use kiln_nn::{Conv2d, Init, Linear, WeightInit};

use crate::adversarial::dcgan::Sizes;
use crate::adversarial::equalised::{Widths, conv, linear};
use crate::adversarial::style::noise::{self, Noise, NoiseInput};
use crate::adversarial::style::{BLUR, Mapping, biased_leaky};

/// G: z → w → a picture.
#[derive(Module, Debug)]
pub struct Generator {
    /// f.
    pub mapping: Mapping,
    /// g.
    pub synthesis: Synthesis,
}

/// A convolution whose weights the style A(w) scales; then noise B, a bias and LeakyReLU.
#[derive(Module, Debug)]
pub struct StyledConv {
    affine: Linear,
    conv: Conv2d,
    noise: NoiseInput,
    #[module(skip)]
    doubles: bool,
}

impl StyledConv {
    /// For maps of `size`, which is twice that of the input if it `doubles`.
    fn new(style: usize, [inputs, outputs]: [usize; 2], size: [usize; 2], doubles: bool, init: &mut Init) -> Self {
        Self {
            affine: linear(style, inputs, 1.0, 1.0, init),
            conv: conv(inputs, outputs, 3, 1.0, init),
            noise: NoiseInput::new(1, size, init),
            doubles,
        }
    }

    fn forward<P: Pass>(&self, x: P::Of<4>, w: P::Of<2>, noise: Option<&Tensor<4>>, side: Modulate) -> P::Of<4> {
        let (weight, bias) = self.conv.effective::<P>();
        let rate = if self.doubles { Rate::Up(2) } else { Rate::Same };
        let how = Modulation { demodulate: true, side, rate, filter: &BLUR, padding: 1 };
        let mut y = modulated_conv2d::<P::Of<4>>(x, weight, self.affine.forward::<2, P::Of<2>>(w), how);
        if let Some(noise) = noise {
            y = y + <P::Of<4> as Signal<4>>::constant(self.noise.scaled(noise.clone()));
        }
        biased_leaky(y, bias)
    }
}

/// The picture of a map: a 1×1 convolution whose weights a style scales, and a bias.
#[derive(Module, Debug)]
pub struct ToPicture {
    affine: Linear,
    conv: Conv2d,
}

impl ToPicture {
    fn new(style: usize, inputs: usize, outputs: usize, init: &mut Init) -> Self {
        Self { affine: linear(style, inputs, 1.0, 1.0, init), conv: conv(inputs, outputs, 1, 1.0, init) }
    }

    fn forward<P: Pass>(&self, x: P::Of<4>, w: P::Of<2>) -> P::Of<4> {
        let (weight, bias) = self.conv.effective::<P>();
        let how = Modulation { demodulate: false, side: Modulate::Maps, rate: Rate::Same, filter: &BLUR, padding: 0 };
        let y = modulated_conv2d::<P::Of<4>>(x, weight, self.affine.forward::<2, P::Of<2>>(w), how);
        match bias {
            Some(bias) => {
                let [channels] = bias.dims();
                y + <P::Of<4> as Signal<4>>::constant(bias.reshape([1, channels, 1, 1]))
            }
            None => y,
        }
    }
}

/// The layers of one size.
#[derive(Module, Debug)]
pub struct Block {
    /// Doubles the size; the first block has none.
    up: Option<StyledConv>,
    conv: StyledConv,
    to_picture: ToPicture,
}

/// g: a style for each layer → a picture.
#[derive(Module, Debug)]
pub struct Synthesis {
    /// `[1, channels, h, w]`: what every picture begins with.
    constant: Param<Tensor<4>>,
    blocks: Vec<Block>,
    #[module(skip)]
    side: Modulate,
}

impl Synthesis {
    /// Pictures of `sizes` with `outputs` channels, of styles of `style` numbers.
    pub fn new(style: usize, widths: Widths, outputs: usize, sizes: Sizes, side: Modulate, init: &mut Init) -> Self {
        let [height, width] = sizes.base;
        let constant = init.weight([1, widths.at(0), height, width], 1, WeightInit::Normal(1.0));
        let block = |level: usize| {
            let (from, to) = (widths.at(level.saturating_sub(1)), widths.at(level));
            let size = sizes.base.map(|side| side << level);
            let up = (level > 0).then(|| StyledConv::new(style, [from, to], size, true, init));
            Block {
                up,
                conv: StyledConv::new(style, [to, to], size, false, init),
                to_picture: ToPicture::new(style, to, outputs, init),
            }
        };
        Self { constant, blocks: (0..=sizes.doublings).map(block).collect(), side }
    }

    /// Styles that a picture takes: one for each convolution, and one for the last picture. The picture of a size has the
    /// style of the next size's first convolution.
    pub fn layers(&self) -> usize {
        2 * self.blocks.len()
    }

    fn noise_inputs(&self) -> impl Iterator<Item = &NoiseInput> {
        self.blocks.iter().flat_map(|block| block.up.iter().chain([&block.conv])).map(|layer| &layer.noise)
    }

    /// The noise that does not change from picture to picture.
    pub fn constant_noise(&self) -> Noise {
        noise::constant(self.noise_inputs())
    }

    /// Noise of its own for each sample.
    pub fn drawn_noise(&self, key: Key, samples: std::ops::Range<u64>) -> Noise {
        noise::drawn(self.noise_inputs(), key, samples, &self.constant.val().device())
    }

    /// # Shapes
    /// w `[n, layers, style]`, noise `[n or 1, 1, h, w]` for each convolution → `[n, c, h, w]`
    pub fn forward<X: Signal<3>>(&self, w: X, noise: &[Tensor<4>]) -> Of<X, 3, 4> {
        let [n, _, size] = w.dims();
        let style = |i: usize| w.clone().linear(|w| w.narrow(1, i, 1).reshape([n, size]));
        let [_, c, h, width] = self.constant.dims();
        let mut x = Of::<X, 3, 4>::constant(self.constant.val().expand([n, c, h, width]));
        let mut picture: Option<Of<X, 3, 4>> = None;
        let (mut at, mut noise) = (0, noise.iter());
        for block in &self.blocks {
            for layer in block.up.iter().chain([&block.conv]) {
                x = layer.forward::<X::Pass>(x, style(at), noise.next(), self.side);
                at += 1;
            }
            let new = block.to_picture.forward::<X::Pass>(x.clone(), style(at));
            picture = Some(match picture {
                Some(picture) => upsample2d(picture, &BLUR, 2, 1.0) + new,
                None => new,
            });
        }
        // At least one block: `Sizes` has a base.
        picture.unwrap_or(x)
    }
}
