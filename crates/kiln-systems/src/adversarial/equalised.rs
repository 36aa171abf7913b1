//! Layers with equalised learning rates (Karras 2018, section 4.1), and how wide they are at each size: ProGAN's, StyleGAN's
//! and StyleGAN2's.

use kiln_nn::{Conv2d, Conv2dConfig, Init, Linear, LinearConfig, Parametrization};

/// Channels of each size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widths {
    /// Channels times pixels of a side, for a picture whose smallest map has 4.
    pub base: usize,
    /// The most channels.
    pub max: usize,
}

impl Widths {
    /// Of maps that have been doubled so often: `base` / (4·2ˡ), at most `max`.
    pub fn at(self, level: usize) -> usize {
        (self.base >> (level + 2)).clamp(1, self.max)
    }
}

/// Equalised learning rates with a gain, all the same.
pub fn equalised(gain: f64) -> Parametrization {
    Parametrization::Equalized { gain, lr_multiplier: 1.0 }
}

/// A convolution that keeps the size.
pub fn conv(inputs: usize, outputs: usize, kernel: usize, gain: f64, init: &mut Init) -> Conv2d {
    let parametrization = equalised(gain);
    Conv2dConfig { padding: kernel / 2, parametrization, ..Conv2dConfig::new(inputs, outputs, kernel) }.init(init)
}

/// A fully connected layer whose bias begins at `bias`.
pub fn linear(inputs: usize, outputs: usize, gain: f64, bias: f32, init: &mut Init) -> Linear {
    let config = LinearConfig { bias: false, parametrization: equalised(gain), ..LinearConfig::new(inputs, outputs) };
    Linear { bias: Some(init.constant([outputs], bias)), ..config.init(init) }
}
