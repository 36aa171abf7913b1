//! Convolution whose weights a style scales for each sample (StyleGAN2, Karras 2020, section 2.2).

use burn::tensor::Tensor;

use crate::dual::{Of, Signal};
use crate::fir::{Rate, conv2d_resample, conv2d_resample_groups};

/// On which side of the convolution a style scales. The results are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Modulate {
    /// What goes in and what comes out: one convolution for the whole batch (`fused_modconv=False` of the reference code).
    #[default]
    Maps,
    /// The weights: a set for each sample, run as one grouped convolution (`fused_modconv=True`).
    Weights,
}

/// How [`modulated_conv2d`] convolves; `rate`, `filter` and `padding` are those of [`conv2d_resample`].
#[derive(Clone, Copy, Debug)]
pub struct Modulation<'a> {
    /// Whether each output's weights get the norm 1.
    pub demodulate: bool,
    /// What the style scales.
    pub side: Modulate,
    /// How the size changes.
    pub rate: Rate,
    /// The filter where it does.
    pub filter: &'a [f32],
    /// Zeros on each side.
    pub padding: usize,
}

/// Modulated convolution. With weights w of output j, input i and tap k, and styles s of a sample,
///
/// w′ᵢⱼₖ = sᵢ · wᵢⱼₖ (equation 1), w″ᵢⱼₖ = w′ᵢⱼₖ / √(Σᵢₖ w′ᵢⱼₖ² + ε) (equation 3, with `demodulate`).
///
/// # Shapes
/// `[n, in, h, w]`, `[out, in, k, k]`, `[n, in]` → `[n, out, h', w']`
pub fn modulated_conv2d<X: Signal<4>>(x: X, weight: Tensor<4>, styles: Of<X, 4, 2>, how: Modulation<'_>) -> X {
    let ([n, inputs], [outputs, _, kh, kw]) = (styles.dims(), weight.dims());
    let Modulation { demodulate, side, rate, filter, padding } = how;
    // Σᵢₖ (sᵢ wᵢⱼₖ)² = Σᵢ sᵢ² Σₖ wᵢⱼₖ².
    let norms: Option<Of<X, 4, 2>> = demodulate.then(|| {
        let squares = weight.clone().square().sum_dim(2).sum_dim(3).reshape([outputs, inputs]).transpose();
        (styles.clone().square().linear(|s| s.matmul(squares.clone())) + 1e-8).sqrt()
    });
    match side {
        Modulate::Maps => {
            let y = conv2d_resample(x * styles.reshape([n, inputs, 1, 1]), weight, filter, rate, padding);
            match norms {
                Some(norms) => y / norms.reshape([n, outputs, 1, 1]),
                None => y,
            }
        }
        Modulate::Weights => {
            let [_, _, h, w] = x.dims();
            let mut scales = styles.reshape([n, 1, inputs, 1]);
            if let Some(norms) = norms {
                // `[n, out, in, 1]`
                scales = scales.bilinear(norms.recip().reshape([n, outputs, 1, 1]), |s, d| s * d);
            }
            let taps = weight.reshape([1, outputs, inputs, kh * kw]);
            let weights = scales.linear(|s| (s * taps.clone()).reshape([n * outputs, inputs, kh, kw]));
            let y = x
                .reshape([1, n * inputs, h, w])
                .bilinear(weights, |x, weights| conv2d_resample_groups(x, weights, filter, rate, padding, n));
            let [_, _, h, w] = y.dims();
            y.reshape([n, outputs, h, w])
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::dual::Plain;
    use crate::{Conv2dConfig, Init, Parametrization};

    /// A style of ones leaves a layer's equalised weight as the layer itself uses it.
    #[test]
    fn an_equalised_weight_is_modulated() {
        let device = Device::flex();
        let parametrization = Parametrization::Equalized { gain: 1.0, lr_multiplier: 0.5 };
        let config = Conv2dConfig { parametrization, bias: false, ..Conv2dConfig::same3(4, 5) };
        let mut init = Init::new(&device, 1);
        let conv = config.init(&mut init);
        let x = init.normal([2, 4, 6, 6], 0.0, 1.0).val();
        for side in [Modulate::Maps, Modulate::Weights] {
            let how = Modulation { demodulate: false, side, rate: Rate::Same, filter: &[], padding: 1 };
            let (weight, _) = conv.effective::<Plain>();
            let y = modulated_conv2d(x.clone(), weight, Tensor::ones([2, 4], &device), how);
            let off = (y - conv.forward(x.clone())).abs().max().into_scalar::<f32>();
            assert!(off < 1e-5, "{side:?}: off by {off}");
        }
    }
}
