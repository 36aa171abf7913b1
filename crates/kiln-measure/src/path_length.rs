//! Perceptual path length: how much an image changes along a small step in latent space.
//!
//! Karras et al. 2019, *A Style-Based Generator Architecture for Generative Adversarial Networks*, section
//! 4.1: for random pairs of latents and random places t on the path between them,
//!
//! PPL = E[ d( g(t), g(t + ε) ) / ε² ],
//!
//! d a perceptual distance that grows with the square of a small change (LPIPS is one such, a plain
//! Euclidean distance is not), ε = 1e-4. As in the authors' code, values below the 1st and above the
//! 99th percentile are left out. This file has the arithmetic; the pictures and d are the caller's.
//!
//! Does not see quality: one picture for every latent has length 0. Depends on the latent space (Z on
//! spheres, W on lines), on the ends (`t = 0` or all of the path), on the crop, and on ε in 32 bits. Needs
//! 100,000 pairs in the paper, some thousand for two digits.

use kiln_core::{Error, Result};

/// The length from the distances of pairs that are `epsilon` apart.
///
/// # Errors
/// If there are no distances, one is negative or not finite, or `epsilon` is not above 0.
pub fn mean(distances: &[f64], epsilon: f64) -> Result<f64> {
    if !(epsilon > 0.0 && epsilon.is_finite()) {
        return Err(Error::usage(format!("the step of a path is {epsilon}; give one above 0, such as 1e-4")));
    }
    if distances.is_empty() {
        return Err(Error::new("no distances to make a path of; measure at least one pair"));
    }
    if let Some(i) = distances.iter().position(|d| !(d.is_finite() && *d >= 0.0)) {
        return Err(Error::new(format!("the distance of pair {i} is {}; mend the network", distances[i])));
    }
    let mut sorted: Vec<f64> = distances.iter().map(|d| d / (epsilon * epsilon)).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let last = (sorted.len() - 1) as f64;
    let (low, high) = (sorted[(0.01 * last).floor() as usize], sorted[(0.99 * last).ceil() as usize]);
    let kept = &sorted[sorted.partition_point(|&d| d < low)..sorted.partition_point(|&d| d <= high)];
    Ok(kept.iter().sum::<f64>() / kept.len() as f64)
}
