//! The sinusoidal embedding of a time step.

use burn::tensor::Tensor;

/// Positions as sines and cosines of geometrically spaced frequencies (Vaswani 2017, §3.5, in the
/// layout of Ho 2020): `[sin(t·f₀) … sin(t·f_{d/2−1}), cos(t·f₀) …]` with fᵢ = 10000^(−i / (d/2 − shift)).
///
/// `shift` is 1 in Ho's code and 0 in ADM's (diffusers' `downscale_freq_shift`).
///
/// # Shapes
/// `[n]` → `[n, dim]`; `dim` must be even.
pub fn sinusoidal(t: Tensor<1>, dim: usize, shift: f64) -> Tensor<2> {
    let (n, half) = (t.dims()[0], dim / 2);
    let frequencies: Vec<f32> =
        (0..half).map(|i| (-(10000f64.ln()) * i as f64 / (half as f64 - shift)).exp() as f32).collect();
    let frequencies = Tensor::<1>::from_floats(frequencies.as_slice(), &t.device());
    let angles = t.reshape([n, 1]) * frequencies.reshape([1, half]);
    Tensor::cat(vec![angles.clone().sin(), angles.cos()], 1)
}
