//! Principal components (Pearson 1901): the directions in which features vary most.

use faer::{Mat, Side};
use kiln_core::{Error, Result};

use crate::Features;

/// Directions of features, by how much they vary along each.
#[derive(Clone, Debug)]
pub struct Principal {
    /// Directions of length 1, the one of most variance first. The largest number of each is positive.
    pub directions: Vec<Vec<f64>>,
    /// The variance along each, unbiased.
    pub variances: Vec<f64>,
    /// The variance of all features together.
    pub total: f64,
}

/// The first `count` principal components of features; fewer if there are not so many features.
///
/// # Errors
/// If there are fewer than two pictures, or the decomposition does not converge.
pub fn components(features: Features<'_>, count: usize) -> Result<Principal> {
    let (n, d) = (features.n(), features.d());
    if n < 2 {
        return Err(Error::new(format!("{}: one point has no directions; give more", features.name())));
    }
    let mut mean = vec![0.0; d];
    for row in features.rows() {
        mean.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v) / n as f64);
    }
    let rows: Vec<&[f32]> = features.rows().collect();
    let centred = Mat::from_fn(n, d, |i, j| f64::from(rows[i][j]) - mean[j]);
    let covariance = centred.transpose() * &centred * faer::Scale(1.0 / (n as f64 - 1.0));
    let found = covariance
        .self_adjoint_eigen(Side::Lower)
        .map_err(|_| Error::new(format!("{}: the principal components do not converge", features.name())))?;
    let (vectors, values) = (found.U(), found.S().column_vector());
    // The smallest comes first.
    let from_largest = (0..d).rev().take(count);
    let direction = |j: usize| {
        let mut direction: Vec<f64> = (0..d).map(|i| vectors[(i, j)]).collect();
        let largest = direction.iter().fold(0.0f64, |most, v| if v.abs() > most.abs() { *v } else { most });
        if largest < 0.0 {
            direction.iter_mut().for_each(|v| *v = -*v);
        }
        direction
    };
    Ok(Principal {
        directions: from_largest.clone().map(direction).collect(),
        variances: from_largest.map(|j| values[j].max(0.0)).collect(),
        total: (0..d).map(|j| values[j].max(0.0)).sum(),
    })
}
