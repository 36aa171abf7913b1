//! Inception score: whether a classifier is certain about each image, and its classes vary between images.
//!
//! Salimans et al. 2016, *Improved Techniques for Training GANs*, section 4:
//!
//! IS = exp( E_x KL( p(y|x) ‖ p(y) ) ), between 1 and the number of classes.
//!
//! The arithmetic is torch-fidelity's: p(y) is taken within each of `splits` consecutive parts, and the
//! score is the mean over the parts with its standard deviation.
//!
//! Does not see the real images at all, nor the variety inside a class; noise may score well. Needs
//! 50,000 images in 10 parts: fewer bias it downwards with 1,000 classes.

use kiln_core::random::Key;
use kiln_core::{Error, Result};

use crate::{Features, Spread};

/// The score from class logits, a row a picture.
///
/// `splits` is 10 in the literature. Images generated class by class must be shuffled, otherwise each part
/// would hold only one or two classes: give a key to permute them. Fails when there are fewer images than
/// splits.
pub fn from_logits(logits: Features<'_>, splits: usize, shuffle: Option<Key>) -> Result<Spread> {
    let log_p = logits.rows().map(log_softmax).collect();
    score(logits, log_p, splits, shuffle)
}

/// The score from class probabilities, a row a picture, each row not negative and summing to 1
/// (within 1e-3; rows are divided by their sum).
pub fn from_probabilities(probabilities: Features<'_>, splits: usize, shuffle: Option<Key>) -> Result<Spread> {
    let mut log_p = Vec::with_capacity(probabilities.n());
    for (i, row) in probabilities.rows().enumerate() {
        let sum: f64 = row.iter().map(|&p| f64::from(p)).sum();
        if (sum - 1.0).abs() > 1e-3 || row.iter().any(|&p| p < 0.0) {
            return Err(Error::new(format!(
                "{}: the class probabilities of picture {i} sum to {sum:.4} or are negative; give a softmax's output",
                probabilities.name()
            )));
        }
        log_p.push(row.iter().map(|&p| (f64::from(p) / sum).ln()).collect());
    }
    score(probabilities, log_p, splits, shuffle)
}

fn score(of: Features<'_>, log_p: Vec<Vec<f64>>, splits: usize, shuffle: Option<Key>) -> Result<Spread> {
    let (n, classes) = (of.n(), of.d());
    if splits == 0 || n < splits {
        return Err(Error::new(format!(
            "{}: {n} pictures cannot be parted into {splits} splits; measure more or set fewer splits (at least 1)",
            of.name()
        )));
    }
    let place = |i: usize| shuffle.map_or(i, |key| key.permute(i as u64, n as u64) as usize);
    let scores: Vec<f64> = (0..splits)
        .map(|s| {
            let part: Vec<&Vec<f64>> = (s * n / splits..(s + 1) * n / splits).map(|i| &log_p[place(i)]).collect();
            let log_q: Vec<f64> =
                (0..classes).map(|c| (part.iter().map(|l| l[c].exp()).sum::<f64>() / part.len() as f64).ln()).collect();
            // p log p tends to 0 with p, where the logarithm alone would give 0 · −∞.
            let term = |(&l, &q): (&f64, &f64)| {
                if l == f64::NEG_INFINITY { 0.0 } else { l.exp() * (l - q) }
            };
            let kl: f64 = part.iter().map(|l| l.iter().zip(&log_q).map(term).sum::<f64>()).sum();
            (kl / part.len() as f64).exp()
        })
        .collect();
    Ok(Spread::of(&scores))
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = logits.iter().map(|&l| f64::from(l) - f64::from(top));
    let log_sum = shifted.clone().map(f64::exp).sum::<f64>().ln();
    shifted.map(|l| l - log_sum).collect()
}
