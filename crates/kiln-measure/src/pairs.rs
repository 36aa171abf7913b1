//! Differences of an image and its target: L1, MSE, RMSE, PSNR, SSIM, MS-SSIM, gradient differences, lightness and chroma.
//!
//! Pictures are values `[channels, height, width]`; `range` is the distance between black and white
//! (1, 2 or 255) and must be the same for figures to be compared.
//!
//! L1, MSE, RMSE and PSNR do not see where an error is, and prefer blur to detail that lies a pixel off. SSIM
//! and MS-SSIM see structure in each channel alone, and little of a change of hue; the gradients see blur, and
//! nothing of a wrong level. One pair has a figure already; for a mean to three digits take some hundred.

use kiln_core::{Error, Result};

/// Mean absolute difference of all values.
pub fn l1(a: &[f32], b: &[f32]) -> Result<f64> {
    mean(a, b, |d| d.abs())
}

/// Mean squared difference of all values.
pub fn mse(a: &[f32], b: &[f32]) -> Result<f64> {
    mean(a, b, |d| d * d)
}

/// Root of the mean squared difference, in the unit of the values.
pub fn rmse(a: &[f32], b: &[f32]) -> Result<f64> {
    Ok(mse(a, b)?.sqrt())
}

/// Peak signal-to-noise ratio, decibels: 10 log₁₀(range² / MSE); infinite for equal pictures.
pub fn psnr(a: &[f32], b: &[f32], range: f64) -> Result<f64> {
    check_range(range)?;
    Ok(10.0 * (range * range / mse(a, b)?).log10())
}

/// Differences of colour in CIELAB (CIE 1976, illuminant D65) of pictures in [−1, 1], each a mean over pixels: of lightness |ΔL*|, 0 to 100,
/// and of chroma √(Δa*² + Δb*²). scikit-image's `rgb2lab`. Grey pictures have no chroma.
pub fn lab(a: &[f32], b: &[f32], shape: [usize; 3]) -> Result<[f64; 2]> {
    check_shape(a, b, shape)?;
    let [channels, height, width] = shape;
    let pixels = height * width;
    let of = |picture: &[f32], at: usize| match channels {
        3 => to_lab([0, 1, 2].map(|c| f64::from(picture[c * pixels + at]))),
        _ => to_lab([f64::from(picture[at]); 3]),
    };
    let mut sums = [0.0; 2];
    for at in 0..pixels {
        let ([l, a_star, b_star], [m, c_star, d_star]) = (of(a, at), of(b, at));
        sums[0] += (l - m).abs();
        sums[1] += (a_star - c_star).hypot(b_star - d_star);
    }
    Ok(sums.map(|sum| sum / pixels.max(1) as f64))
}

/// L*, a* and b* of an sRGB colour in [−1, 1].
fn to_lab(rgb: [f64; 3]) -> [f64; 3] {
    let linear = rgb.map(|value| {
        let level = ((value + 1.0) / 2.0).clamp(0.0, 1.0);
        if level > 0.04045 { ((level + 0.055) / 1.055).powf(2.4) } else { level / 12.92 }
    });
    const XYZ: [[f64; 3]; 3] =
        [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]];
    const WHITE: [f64; 3] = [0.95047, 1.0, 1.08883];
    let [x, y, z] = [0, 1, 2].map(|row| {
        let t = (0..3).map(|c| XYZ[row][c] * linear[c]).sum::<f64>() / WHITE[row];
        if t > 0.008856 { t.cbrt() } else { 7.787 * t + 16.0 / 116.0 }
    });
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

/// Radius of SSIM's window: 11 × 11 pixels.
const RADIUS: usize = 5;
/// Its side.
const WINDOW: usize = 2 * RADIUS + 1;

/// Structural similarity, −1 to 1 (1: equal), mean over channels and over the places where an 11 × 11
/// window fits.
///
/// Wang et al. 2004, *Image Quality Assessment: From Error Visibility to Structural Similarity*, eq. 13
/// with its constants K₁ = 0.01, K₂ = 0.03, Gaussian window σ = 1.5, population covariance: scikit-image's
/// `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`.
/// Fails for pictures smaller than the window.
pub fn ssim(a: &[f32], b: &[f32], shape: [usize; 3], range: f64) -> Result<f64> {
    check_range(range)?;
    check_shape(a, b, shape)?;
    let [channels, height, width] = shape;
    if height < WINDOW || width < WINDOW {
        return Err(Error::new(format!(
            "SSIM looks through {WINDOW}×{WINDOW} pixels, and the picture has {height}×{width}; use PSNR or larger pictures"
        )));
    }
    let of = |(x, y): (Plane, Plane)| similarity(&x, &y, range).0;
    Ok(planes(a, b, shape).map(of).sum::<f64>() / channels as f64)
}

/// What each scale of MS-SSIM weighs, the finest first (Wang 2003, section 3.2).
const SCALES: [f64; 5] = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333];

/// Multi-scale structural similarity, 0 to 1 (1: equal), mean over channels.
///
/// Wang et al. 2003, *Multi-Scale Structural Similarity for Image Quality Assessment*, eq. 7: the product over
/// five scales, each half as large as the one before (2 × 2 means; an odd edge is repeated), of contrast
/// times structure, with luminance at the coarsest, each a mean over the picture to the power of its weight. A
/// negative mean counts as 0, as its power is no number; the other settings are those of [`ssim`].
/// `pytorch-msssim` has the same where the sides are multiples of 16 (elsewhere it pads with black);
/// `torchmetrics` mirrors the coarsest scale beyond its edges and has another value.
/// Fails where the window does not fit the coarsest scale: a side of 160 or fewer pixels.
pub fn ms_ssim(a: &[f32], b: &[f32], shape: [usize; 3], range: f64) -> Result<f64> {
    check_range(range)?;
    check_shape(a, b, shape)?;
    let [channels, height, width] = shape;
    let least = (WINDOW - 1) << (SCALES.len() - 1);
    if height <= least || width <= least {
        return Err(Error::new(format!(
            "MS-SSIM halves a picture four times and needs more than {least} pixels a side, and the picture has \
             {height}×{width}; use SSIM or larger pictures"
        )));
    }
    let of = |(mut x, mut y): (Plane, Plane)| {
        let mut product = 1.0;
        for (scale, weight) in SCALES.iter().enumerate() {
            if scale > 0 {
                (x, y) = (x.halved(), y.halved());
            }
            let (whole, contrast) = similarity(&x, &y, range);
            let factor = if scale + 1 == SCALES.len() { whole } else { contrast };
            product *= factor.max(0.0).powf(*weight);
        }
        product
    };
    Ok(planes(a, b, shape).map(of).sum::<f64>() / channels as f64)
}

/// L1 distance of the gradients: the mean of |∂(a − b)| over all differences of neighbours, across and down.
///
/// 0 for pictures that differ by a constant. Fails for pictures of one pixel.
pub fn gradient_l1(a: &[f32], b: &[f32], shape: [usize; 3]) -> Result<f64> {
    gradients(a, b, shape, |da, db| (da - db).abs())
}

/// Gradient difference: the mean of | |∂a| − |∂b| | over all differences of neighbours, across and down.
///
/// Mathieu et al. 2016, *Deep Multi-Scale Video Prediction Beyond Mean Square Error*, eq. 6 with α = 1, as a
/// mean instead of a sum. Does not see the direction of an edge. Fails for pictures of one pixel.
pub fn gradient_difference(a: &[f32], b: &[f32], shape: [usize; 3]) -> Result<f64> {
    gradients(a, b, shape, |da, db| (da.abs() - db.abs()).abs())
}

/// The mean of `of` over the differences of neighbours in both pictures.
fn gradients(a: &[f32], b: &[f32], shape: [usize; 3], of: fn(f64, f64) -> f64) -> Result<f64> {
    check_shape(a, b, shape)?;
    let [channels, height, width] = shape;
    let count = channels * (height * (width - 1) + (height - 1) * width);
    if count == 0 {
        return Err(Error::new("a picture of one pixel has no gradient; give larger pictures"));
    }
    let mut sum = 0.0;
    for (x, y) in planes(a, b, shape) {
        for at in 0..height * width {
            let mut add = |to: usize| sum += of(x.values[to] - x.values[at], y.values[to] - y.values[at]);
            if (at + 1) % width != 0 {
                add(at + 1);
            }
            if at + width < height * width {
                add(at + width);
            }
        }
    }
    Ok(sum / count as f64)
}

/// One channel of a picture.
struct Plane {
    values: Vec<f64>,
    width: usize,
}

impl Plane {
    /// The means of 2 × 2 pixels; at an odd edge the last are repeated.
    fn halved(&self) -> Self {
        let height = self.values.len() / self.width;
        let value = |i: usize, j: usize| self.values[i.min(height - 1) * self.width + j.min(self.width - 1)];
        let mean = |i: usize, j: usize| (value(i, j) + value(i, j + 1) + value(i + 1, j) + value(i + 1, j + 1)) / 4.0;
        let rows = (0..height).step_by(2);
        let values = rows.flat_map(|i| (0..self.width).step_by(2).map(move |j| mean(i, j))).collect();
        Self { values, width: self.width.div_ceil(2) }
    }
}

/// The channels of two pictures of one shape, side by side.
fn planes(a: &[f32], b: &[f32], [_, height, width]: [usize; 3]) -> impl Iterator<Item = (Plane, Plane)> {
    let plane = move |values: &[f32]| Plane { values: values.iter().map(|&v| f64::from(v)).collect(), width };
    a.chunks_exact(height * width).zip(b.chunks_exact(height * width)).map(move |(x, y)| (plane(x), plane(y)))
}

/// Means over a channel of SSIM, and of its part without luminance (contrast times structure).
fn similarity(x: &Plane, y: &Plane, range: f64) -> (f64, f64) {
    let (c1, c2) = ((0.01 * range).powi(2), (0.03 * range).powi(2));
    let local = |f: fn(f64, f64) -> f64| {
        blur(x.values.iter().zip(&y.values).map(|(&x, &y)| f(x, y)).collect(), x.values.len() / x.width, x.width)
    };
    let (mx, my) = (local(|x, _| x), local(|_, y| y));
    let (xx, yy, xy) = (local(|x, _| x * x), local(|_, y| y * y), local(|x, y| x * y));
    let (mut whole, mut without) = (0.0, 0.0);
    for i in 0..mx.len() {
        let (vx, vy) = (xx[i] - mx[i] * mx[i], yy[i] - my[i] * my[i]);
        let vxy = xy[i] - mx[i] * my[i];
        let contrast = (2.0 * vxy + c2) / (vx + vy + c2);
        without += contrast;
        whole += contrast * (2.0 * mx[i] * my[i] + c1) / (mx[i] * mx[i] + my[i] * my[i] + c1);
    }
    (whole / mx.len() as f64, without / mx.len() as f64)
}

/// Gaussian means of a plane, at the places where the whole window fits.
fn blur(plane: Vec<f64>, height: usize, width: usize) -> Vec<f64> {
    let mut weights = [0.0; WINDOW];
    for (i, w) in weights.iter_mut().enumerate() {
        let x = i as f64 - RADIUS as f64;
        *w = (-0.5 * (x / 1.5).powi(2)).exp();
    }
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|w| *w /= sum);

    let inner = width - 2 * RADIUS;
    let across: Vec<f64> = plane
        .chunks_exact(width)
        .flat_map(|row| row.windows(weights.len()).map(|part| part.iter().zip(&weights).map(|(v, w)| v * w).sum()))
        .collect();
    (0..(height - 2 * RADIUS) * inner)
        .map(|i| weights.iter().enumerate().map(|(k, w)| w * across[i + k * inner]).sum())
        .collect()
}

fn mean(a: &[f32], b: &[f32], of: impl Fn(f64) -> f64) -> Result<f64> {
    check_values(a, b)?;
    let sum: f64 = a.iter().zip(b).map(|(&x, &y)| of(f64::from(x) - f64::from(y))).sum();
    Ok(sum / a.len() as f64)
}

fn check_values(a: &[f32], b: &[f32]) -> Result<()> {
    if a.is_empty() || a.len() != b.len() {
        return Err(Error::new(format!(
            "a picture of {} values cannot be compared with one of {}; give two of one size",
            a.len(),
            b.len()
        )));
    }
    if a.iter().chain(b).any(|v| !v.is_finite()) {
        return Err(Error::new("a picture to compare holds values that are not finite; mend the network that made it"));
    }
    Ok(())
}

fn check_shape(a: &[f32], b: &[f32], [channels, height, width]: [usize; 3]) -> Result<()> {
    check_values(a, b)?;
    if a.len() == channels * height * width {
        return Ok(());
    }
    Err(Error::new(format!("{} values are no picture of {channels}×{height}×{width}", a.len())))
}

fn check_range(range: f64) -> Result<()> {
    if range.is_finite() && range > 0.0 {
        return Ok(());
    }
    Err(Error::usage(format!("the range of pixel values is {range}; give white minus black, such as 1 or 255")))
}
