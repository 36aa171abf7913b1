//! StyleGAN2's residual discriminator (Karras 2020, figure 7c).

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_nn::discriminator::minibatch_std;
use kiln_nn::dual::{Of, Signal};
use kiln_nn::fir::{Rate, conv2d_resample};
use kiln_nn::{Activation, Conv2d, Conv2dConfig, Init, Linear, activate};

use crate::adversarial::dcgan::{LEAK, Sizes};
use crate::adversarial::equalised::{Widths, conv, equalised, linear};
use crate::adversarial::style::{BLUR, GAIN, biased_leaky};

/// Two convolutions, the second of which halves the map, beside a 1×1 convolution that halves it: their sum over √2.
#[derive(Module, Debug)]
pub struct Residual {
    conv: Conv2d,
    down: Conv2d,
    skip: Conv2d,
}

impl Residual {
    fn new(inputs: usize, outputs: usize, init: &mut Init) -> Self {
        let skip =
            Conv2dConfig { bias: false, parametrization: equalised(1.0), ..Conv2dConfig::new(inputs, outputs, 1) };
        Self {
            conv: conv(inputs, inputs, 3, 1.0, init),
            down: conv(inputs, outputs, 3, 1.0, init),
            skip: skip.init(init),
        }
    }

    fn forward<X: Signal<4>>(&self, x: X) -> X {
        let down = |x: X, conv: &Conv2d, padding: usize| {
            let (weight, bias) = conv.effective::<X::Pass>();
            (conv2d_resample(x, weight, &BLUR, Rate::Down(2), padding), bias)
        };
        let (skip, _) = down(x.clone(), &self.skip, 0);
        let y = biased_leaky(self.conv.forward(x), None);
        let (y, bias) = down(y, &self.down, 1);
        (biased_leaky(y, bias) + skip) * GAIN.recip()
    }
}

/// D: a picture → one logit.
#[derive(Module, Debug)]
pub struct Discriminator {
    from_picture: Conv2d,
    blocks: Vec<Residual>,
    conv: Conv2d,
    hidden: Linear,
    logit: Linear,
    #[module(skip)]
    group: usize,
}

impl Discriminator {
    /// Of pictures of `sizes` with `inputs` channels. Minibatch deviations are over groups of `group` samples.
    pub fn new(inputs: usize, widths: Widths, sizes: Sizes, group: usize, init: &mut Init) -> Self {
        let last = widths.at(0);
        Self {
            from_picture: conv(inputs, widths.at(sizes.doublings), 1, 1.0, init),
            blocks: (1..=sizes.doublings)
                .rev()
                .map(|level| Residual::new(widths.at(level), widths.at(level - 1), init))
                .collect(),
            conv: conv(last + 1, last, 3, 1.0, init),
            hidden: linear(last * sizes.base[0] * sizes.base[1], last, 1.0, 0.0, init),
            logit: linear(last, 1, 1.0, 0.0, init),
            group,
        }
    }

    /// # Shapes
    /// `[n, c, h, w]` in [−1, 1] → `[n, 1]`
    pub fn forward<X: Signal<4>>(&self, images: X) -> Of<X, 4, 2> {
        let mut x = biased_leaky(self.from_picture.forward(images), None);
        for block in &self.blocks {
            x = block.forward(x);
        }
        let x = biased_leaky(self.conv.forward(minibatch_std(x, self.group)), None);
        let x = self.hidden.forward::<2, Of<X, 4, 2>>(x.flatten());
        self.logit.forward::<2, Of<X, 4, 2>>(activate(x, Activation::LeakyRelu(LEAK)) * GAIN)
    }

    /// The logits, plain.
    ///
    /// # Shapes
    /// `[n, c, h, w]` → `[n]`
    pub fn logits(&self, images: Tensor<4>) -> Tensor<1> {
        let [n, ..] = images.dims();
        self.forward(images).reshape([n])
    }
}
