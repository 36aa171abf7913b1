//! Mutual information gap (MIG): whether each factor of the data has its own latent.
//!
//! Chen et al. 2018, *Isolating Sources of Disentanglement in Variational Autoencoders*, section 4.1:
//!
//! MIG = mean over factors k of ( I(z₁; vₖ) − I(z₂; vₖ) ) / H(vₖ),
//!
//! z₁, z₂ the latents with the most and second most information about the factor. As in `disentanglement_lib`
//! (Locatello et al. 2019), each latent (the encoder's mean) is divided into equal bins of its range, and mutual
//! information is computed from the counts, in nats.
//!
//! Does not see whether a latent holds two factors, nor a factor that is rotated over several latents (0 even if
//! all information is there). An outlier widens the bins. Needs 10,000 images for 20 bins: fewer counts show
//! information where there is none.

use std::collections::BTreeMap;

use kiln_core::{Error, Result};

use crate::Features;

/// Bins of a latent in the literature.
pub const BINS: usize = 20;

/// The gap and what it is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Mig {
    /// The mean of the gaps, 0 to 1.
    pub score: f64,
    /// The gap of each factor, over its entropy.
    pub gaps: Vec<f64>,
    /// I(zⱼ; vₖ) in nats, a row a factor, a column a latent.
    pub information: Vec<Vec<f64>>,
}

/// Measures latents, a row a picture, against `factors`: for each factor its value (any numbering) in each
/// picture.
///
/// # Errors
/// If there are fewer than two latents, no factors or bins, a factor has not one value a picture, or it
/// never changes.
pub fn measure(latents: Features<'_>, factors: &[Vec<usize>], bins: usize) -> Result<Mig> {
    let (name, n) = (latents.name(), latents.n());
    if latents.d() < 2 || factors.is_empty() || bins == 0 {
        return Err(Error::new(format!(
            "{name}: no gap between {} latents over {} factors in {bins} bins; give 2 latents, a factor and a bin at least",
            latents.d(),
            factors.len()
        )));
    }
    let codes: Vec<Vec<usize>> = (0..latents.d())
        .map(|j| binned(&latents.rows().map(|row| f64::from(row[j])).collect::<Vec<_>>(), bins))
        .collect();
    let (mut gaps, mut information) = (Vec::new(), Vec::new());
    for (k, factor) in factors.iter().enumerate() {
        if factor.len() != n {
            return Err(Error::new(format!("{name}: {n} pictures and {} values of factor {k}", factor.len())));
        }
        let entropy = mutual_information(factor, factor);
        if factor.iter().all(|v| *v == factor[0]) {
            return Err(Error::new(format!("{name}: factor {k} never changes; leave it out")));
        }
        let told: Vec<f64> = codes.iter().map(|code| mutual_information(code, factor)).collect();
        let mut sorted = told.clone();
        sorted.sort_unstable_by(|a, b| b.total_cmp(a));
        gaps.push((sorted[0] - sorted[1]) / entropy);
        information.push(told);
    }
    Ok(Mig { score: gaps.iter().sum::<f64>() / gaps.len() as f64, gaps, information })
}

/// The bin of each value, of `bins` equal ones from the least to the largest (`numpy.histogram`'s edges,
/// `numpy.digitize`).
fn binned(values: &[f64], bins: usize) -> Vec<usize> {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let width = (high - low) / bins as f64;
    let edges: Vec<f64> = (1..bins).map(|i| i as f64 * width + low).collect();
    // All values of a latent that never changes share a bin.
    values.iter().map(|&v| if width > 0.0 { edges.partition_point(|&e| e <= v) } else { 0 }).collect()
}

/// I(a; b) = Σ p(a, b) ln( p(a, b) / p(a) p(b) ) of two labellings, in nats; I(a; a) is the entropy.
fn mutual_information(a: &[usize], b: &[usize]) -> f64 {
    let n = a.len() as f64;
    let mut joint: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    let (mut of_a, mut of_b): (BTreeMap<usize, f64>, BTreeMap<usize, f64>) = Default::default();
    for (&a, &b) in a.iter().zip(b) {
        *joint.entry((a, b)).or_default() += 1.0;
        *of_a.entry(a).or_default() += 1.0;
        *of_b.entry(b).or_default() += 1.0;
    }
    let sum: f64 = joint.iter().map(|((a, b), &c)| c / n * (c * n / (of_a[a] * of_b[b])).ln()).sum();
    sum.max(0.0)
}
