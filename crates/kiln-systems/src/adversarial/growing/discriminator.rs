//! The discriminator that grows, the generator's mirror image (Karras 2018, table 2).

use std::f64::consts::SQRT_2;

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_nn::discriminator::minibatch_std;
use kiln_nn::dual::{Differentiable, Of, Signal};
use kiln_nn::fir::{Rate, conv2d_resample};
use kiln_nn::{Activation, Augmentation, Conv2d, Init, Linear, activate};

use super::{Level, blend, shrink};
use crate::adversarial::dcgan::{LEAK, Sizes};
use crate::adversarial::equalised::{Widths, conv, linear};

/// What follows each layer.
const LEAKY: Activation = Activation::LeakyRelu(LEAK);

/// The layers of a size, the last of which halves it.
#[derive(Module, Debug)]
struct Block {
    conv: Conv2d,
    down: Conv2d,
}

/// D: a picture of any size there is → one number.
#[derive(Module, Debug)]
pub struct Discriminator {
    /// One for each size, the smallest first.
    from_picture: Vec<Conv2d>,
    /// One for each size but the smallest.
    blocks: Vec<Block>,
    conv: Conv2d,
    hidden: Linear,
    out: Linear,
    #[module(skip)]
    filter: &'static [f32],
    #[module(skip)]
    group: usize,
}

impl Discriminator {
    /// Of pictures of `sizes` with `inputs` channels, resampled by `filter`; minibatch deviations are over groups of `group`
    /// samples.
    pub fn new(
        inputs: usize,
        widths: Widths,
        sizes: Sizes,
        filter: &'static [f32],
        group: usize,
        init: &mut Init,
    ) -> Self {
        let (last, pixels) = (widths.at(0), sizes.base[0] * sizes.base[1]);
        let block = |level: usize, init: &mut Init| Block {
            conv: conv(widths.at(level), widths.at(level), 3, SQRT_2, init),
            down: conv(widths.at(level), widths.at(level - 1), 3, SQRT_2, init),
        };
        Self {
            from_picture: (0..=sizes.doublings).map(|level| conv(inputs, widths.at(level), 1, SQRT_2, init)).collect(),
            blocks: (1..=sizes.doublings).map(|level| block(level, init)).collect(),
            conv: conv(last + 1, last, 3, SQRT_2, init),
            hidden: linear(last * pixels, last, SQRT_2, 0.0, init),
            out: linear(last, 1, 1.0, 0.0, init),
            filter,
            group,
        }
    }

    /// # Shapes
    /// `[n, c, h, w]` of the level's size, in [−1, 1] → `[n, 1]`
    pub fn forward<X: Signal<4>>(&self, images: X, level: Level) -> Of<X, 4, 2> {
        let from = |size: usize, images: X| activate(self.from_picture[size].forward(images), LEAKY);
        let mut x = from(level.size, images.clone());
        for (i, block) in self.blocks.iter().enumerate().take(level.size).rev() {
            x = activate(block.conv.forward(x), LEAKY);
            let (weight, bias) = block.down.effective::<X::Pass>();
            x = conv2d_resample(x, weight, self.filter, Rate::Down(2), 1);
            if let Some(bias) = bias {
                let [channels] = bias.dims();
                x = x + X::constant(bias.reshape([1, channels, 1, 1]));
            }
            x = activate(x, LEAKY);
            if level.fades() && i + 1 == level.size {
                x = blend(from(i, shrink(images.clone(), 1)), x, level.fade);
            }
        }
        let x = activate(self.conv.forward(minibatch_std(x, self.group)), LEAKY);
        let x = self.hidden.forward::<2, Of<X, 4, 2>>(x.flatten());
        self.out.forward::<2, Of<X, 4, 2>>(activate(x, LEAKY))
    }

    /// The numbers, plain.
    ///
    /// # Shapes
    /// `[n, c, h, w]` → `[n]`
    pub fn scores(&self, images: Tensor<4>, level: Level) -> Tensor<1> {
        let [n, ..] = images.dims();
        self.forward(images, level).reshape([n])
    }
}

/// D at a level as a function of pictures before they are augmented.
pub struct Critic<'a> {
    /// D.
    pub discriminator: &'a Discriminator,
    /// The level.
    pub level: Level,
    /// What is done to pictures before.
    pub augmentation: Augmentation,
}

impl Differentiable<4, 2> for Critic<'_> {
    fn apply<X: Signal<4>>(&self, images: X) -> Of<X, 4, 2> {
        self.discriminator.forward(self.augmentation.apply(images), self.level)
    }
}
