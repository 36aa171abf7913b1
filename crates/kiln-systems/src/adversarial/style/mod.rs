//! What StyleGAN and StyleGAN2 share: the mapping network with the mean of W, noise inputs, mixing of styles, and the
//! verbs on W.

pub mod latents;
pub mod mapping;
pub mod noise;
pub mod projection;

use burn::tensor::Tensor;
use kiln_nn::dual::Signal;
use kiln_nn::{Activation, activate};

use super::dcgan::LEAK;
pub use mapping::{Gain, Mapping};

/// What an activation is multiplied by, so that it keeps the variance of what goes in.
pub const GAIN: f64 = std::f64::consts::SQRT_2;

/// The filter of resampling, [1, 3, 3, 1] made to sum to 1.
pub const BLUR: [f32; 4] = [0.125, 0.375, 0.375, 0.125];

/// √2 · LeakyReLU(x + bias).
///
/// # Shapes
/// `[n, channels, h, w]`, `[channels]` → `[n, channels, h, w]`
pub fn biased_leaky<X: Signal<4>>(x: X, bias: Option<Tensor<1>>) -> X {
    let x = match bias {
        Some(bias) => {
            let [channels] = bias.dims();
            x + X::constant(bias.reshape([1, channels, 1, 1]))
        }
        None => x,
    };
    activate(x, Activation::LeakyRelu(LEAK)) * GAIN
}
