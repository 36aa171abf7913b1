//! How near a picture is to the one it should be: L1, MSE, PSNR and SSIM.
//!
//! Pictures are values `[channels, height, width]`; `range` is the distance between black and white
//! (1, 2 or 255) and must be the same for figures to be compared.

use kiln_core::{Error, Result};

/// Mean absolute difference of all values.
pub fn l1(a: &[f32], b: &[f32]) -> Result<f64> {
    mean(a, b, |d| d.abs())
}

/// Mean squared difference of all values.
pub fn mse(a: &[f32], b: &[f32]) -> Result<f64> {
    mean(a, b, |d| d * d)
}

/// Peak signal-to-noise ratio, decibels: 10 log₁₀(range² / MSE); infinite for equal pictures.
pub fn psnr(a: &[f32], b: &[f32], range: f64) -> Result<f64> {
    check_range(range)?;
    Ok(10.0 * (range * range / mse(a, b)?).log10())
}

/// Radius of SSIM's window: 11 × 11 pixels.
const RADIUS: usize = 5;

/// Structural similarity, −1 to 1 (1: equal), mean over channels and over the places where an 11 × 11
/// window fits.
///
/// Wang et al. 2004, *Image Quality Assessment: From Error Visibility to Structural Similarity*, eq. 13
/// with its constants K₁ = 0.01, K₂ = 0.03, Gaussian window σ = 1.5, population covariance: scikit-image's
/// `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`.
/// Fails for pictures smaller than the window.
pub fn ssim(a: &[f32], b: &[f32], [channels, height, width]: [usize; 3], range: f64) -> Result<f64> {
    check_range(range)?;
    check_values(a, b)?;
    if a.len() != channels * height * width {
        return Err(Error::new(format!("{} values are no picture of {channels}×{height}×{width}", a.len())));
    }
    let window = 2 * RADIUS + 1;
    if height < window || width < window {
        return Err(Error::new(format!(
            "SSIM looks through {window}×{window} pixels, and the picture has {height}×{width}; use PSNR or larger pictures"
        )));
    }
    let (c1, c2) = ((0.01 * range).powi(2), (0.03 * range).powi(2));
    let plane = height * width;
    let mut total = 0.0;
    for (x, y) in a.chunks_exact(plane).zip(b.chunks_exact(plane)) {
        let local = |f: fn(f64, f64) -> f64| {
            blur(x.iter().zip(y).map(|(&x, &y)| f(f64::from(x), f64::from(y))).collect(), height, width)
        };
        let (mx, my) = (local(|x, _| x), local(|_, y| y));
        let (xx, yy, xy) = (local(|x, _| x * x), local(|_, y| y * y), local(|x, y| x * y));
        let similarity: f64 = (0..mx.len())
            .map(|i| {
                let (vx, vy) = (xx[i] - mx[i] * mx[i], yy[i] - my[i] * my[i]);
                let vxy = xy[i] - mx[i] * my[i];
                (2.0 * mx[i] * my[i] + c1) * (2.0 * vxy + c2) / ((mx[i] * mx[i] + my[i] * my[i] + c1) * (vx + vy + c2))
            })
            .sum();
        total += similarity / mx.len() as f64;
    }
    Ok(total / channels as f64)
}

/// Gaussian means of a plane, at the places where the whole window fits.
fn blur(plane: Vec<f64>, height: usize, width: usize) -> Vec<f64> {
    let mut weights = [0.0; 2 * RADIUS + 1];
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

fn check_range(range: f64) -> Result<()> {
    if range.is_finite() && range > 0.0 {
        return Ok(());
    }
    Err(Error::usage(format!("the range of pixel values is {range}; give white minus black, such as 1 or 255")))
}
