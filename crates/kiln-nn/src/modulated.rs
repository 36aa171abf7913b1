//! Convolution whose weights a style scales for each sample (StyleGAN2, Karras 2020, section 2.2).

use burn::tensor::Tensor;

use crate::fir::{Rate, conv2d_resample};

/// Modulated convolution. With weights w of output j, input i and tap k, and styles s of a sample,
///
/// w′ᵢⱼₖ = sᵢ · wᵢⱼₖ (equation 1), w″ᵢⱼₖ = w′ᵢⱼₖ / √(Σᵢₖ w′ᵢⱼₖ² + ε) (equation 3, with `demodulate`).
///
/// Scaling the weights is scaling what goes in by s and what comes out by 1 / √…, which leaves one convolution for
/// the whole batch (`fused_modconv=False` of the reference code). `rate`, `filter` and `padding` are those of
/// [`conv2d_resample`].
///
/// # Shapes
/// `[n, in, h, w]`, `[out, in, k, k]`, `[n, in]` → `[n, out, h', w']`
pub fn modulated_conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    styles: Tensor<2>,
    demodulate: bool,
    rate: Rate,
    filter: &[f32],
    padding: usize,
) -> Tensor<4> {
    let ([n, inputs], [outputs, ..]) = (styles.dims(), weight.dims());
    let y = conv2d_resample(x * styles.clone().reshape([n, inputs, 1, 1]), weight.clone(), filter, rate, padding);
    if !demodulate {
        return y;
    }
    // Σᵢₖ (sᵢ wᵢⱼₖ)² = Σᵢ sᵢ² Σₖ wᵢⱼₖ².
    let squares = weight.square().sum_dim(2).sum_dim(3).reshape([outputs, inputs]);
    let norms = (styles.square().matmul(squares.transpose()) + 1e-8).sqrt();
    y / norms.reshape([n, outputs, 1, 1])
}
