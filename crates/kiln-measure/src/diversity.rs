//! Diversity: the mean distance of random pairs of generated images.
//!
//! Zhu et al. 2017, *Toward Multimodal Image-to-Image Translation*, section 5.1: the mean perceptual distance
//! (LPIPS) of pairs of outputs. Here it is the Euclidean distance of the caller's feature
//! vectors: 0 means that all images are equal.
//!
//! Does not see quality: noise is most diverse. Compare it with the value of real images.
//! Needs about 1,000 pairs; the standard error is the deviation over the root of their number.

use kiln_core::random::Key;
use kiln_core::{Error, Result};
use rayon::prelude::*;

use crate::distances::squared_distance;
use crate::{Features, Spread};

/// Mean and standard deviation of the distance over `pairs` random pairs of different pictures, or over all
/// pairs when there are no more than that.
///
/// # Errors
/// If there are fewer than two pictures or no pairs are wanted.
pub fn mean_pairwise(features: Features<'_>, pairs: usize, key: Key) -> Result<Spread> {
    let n = features.n();
    if n < 2 {
        return Err(Error::new(format!("{}: one picture makes no pair; give at least 2", features.name())));
    }
    if pairs == 0 {
        return Err(Error::usage("diversity over no pair; set at least 1"));
    }
    let drawn: Vec<(usize, usize)> = if pairs >= n * (n - 1) / 2 {
        (0..n).flat_map(|j| (0..j).map(move |i| (i, j))).collect()
    } else {
        let first = key.purpose("first").below(0..pairs as u64, n as u64);
        let second = key.purpose("second").below(0..pairs as u64, n as u64 - 1);
        // The second is one of the others: places from the first on move up by one.
        first.into_iter().zip(second).map(|(i, j)| (i as usize, (j + u64::from(j >= i)) as usize)).collect()
    };
    let distance = |&(i, j): &(usize, usize)| squared_distance(features.row(i), features.row(j)).sqrt();
    Ok(Spread::of(&drawn.par_iter().map(distance).collect::<Vec<_>>()))
}
