//! Maximum mean discrepancy with Gaussian kernels, and its test of whether two sets have the same distribution.
//!
//! Gretton et al. 2012, *A Kernel Two-Sample Test*: k(x, y) = Σ_s exp(−‖x − y‖² / 2s²), the sum over
//! several widths s so that none has to be the right one; lemma 6 gives
//!
//! unbiased = mean_{i≠j} k(xᵢ, xⱼ) + mean_{i≠j} k(yᵢ, yⱼ) − 2 mean k(xᵢ, yⱼ)
//!
//! and the biased form, never negative, has the means over all i, j. Time and memory grow with the
//! square of the number of points: draw a few thousand.

use faer::Mat;
use kiln_core::random::Key;
use kiln_core::{Error, Result};

use crate::Features;

/// Both estimates of MMD², in units of the kernel (0 to 2 for each width).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mmd {
    /// With every pair, also of a point with itself: at least 0.
    pub biased: f64,
    /// Zero on average when the sources are one, so it may be negative.
    pub unbiased: f64,
}

/// Two sets put together with the kernel of every pair of points.
pub struct TwoSamples {
    kernel: Mat<f64>,
    /// Points of the first set; they come first.
    first: usize,
}

/// The median distance between any two points of the sets put together: the usual unit of a width.
/// Fails when the widths differ.
pub fn median_distance(a: Features<'_>, b: Features<'_>) -> Result<f64> {
    let (squares, n) = (squared_distances(a, b)?, a.n() + b.n());
    let mut distances: Vec<f64> =
        (0..n).flat_map(|j| (0..j).map(move |i| (i, j))).map(|at| squares[at].sqrt()).collect();
    let middle = distances.len() / 2;
    let (below, &mut upper, _) = distances.select_nth_unstable_by(middle, f64::total_cmp);
    let lower = below.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Ok(if n * (n - 1) / 2 % 2 == 1 { upper } else { (lower + upper) / 2.0 })
}

impl TwoSamples {
    /// Of at least two points each, with the kernel summed over `widths` (each above 0; in the unit of
    /// the features, such as ½, 1 and 2 times [`median_distance`]).
    pub fn new(a: Features<'_>, b: Features<'_>, widths: &[f64]) -> Result<Self> {
        if widths.is_empty() || widths.iter().any(|&s| !s.is_finite() || s <= 0.0) {
            return Err(Error::new(
                "a kernel width is 0, or none is given; are all features equal? give widths above 0",
            ));
        }
        for side in [a, b] {
            if side.n() < 2 {
                return Err(Error::new(format!("{}: one point has no pair; give at least 2", side.name())));
            }
        }
        let mut kernel = squared_distances(a, b)?;
        faer::zip!(&mut kernel)
            .for_each(|faer::unzip!(k)| *k = widths.iter().map(|s| (-*k / (2.0 * s * s)).exp()).sum());
        Ok(Self { kernel, first: a.n() })
    }

    /// How far apart the two sets are.
    pub fn mmd(&self) -> Mmd {
        let order: Vec<usize> = (0..self.kernel.nrows()).collect();
        self.of(&order)
    }

    /// The part of random regroupings of all points that lie at least as far apart as the two sets do:
    /// the probability of such a distance if both came from one source. At least 1/(permutations + 1).
    pub fn p_value(&self, permutations: usize, key: Key) -> f64 {
        let (n, seen) = (self.kernel.nrows() as u64, self.mmd().unbiased);
        let as_far = (0..permutations as u64)
            .filter(|&p| {
                let order: Vec<usize> = (0..n).map(|i| key.at(p).permute(i, n) as usize).collect();
                self.of(&order).unbiased >= seen
            })
            .count();
        (1 + as_far) as f64 / (1 + permutations) as f64
    }

    /// With the points `order[..first]` as the first set.
    fn of(&self, order: &[usize]) -> Mmd {
        let (x, y) = order.split_at(self.first);
        let sum = |a: &[usize], b: &[usize]| -> f64 {
            b.iter().map(|&j| a.iter().map(|&i| self.kernel[(i, j)]).sum::<f64>()).sum()
        };
        let trace = |a: &[usize]| -> f64 { a.iter().map(|&i| self.kernel[(i, i)]).sum() };
        let (m, n) = (x.len() as f64, y.len() as f64);
        let (xx, yy, xy) = (sum(x, x), sum(y, y), sum(x, y) / (m * n));
        Mmd {
            biased: xx / (m * m) + yy / (n * n) - 2.0 * xy,
            unbiased: (xx - trace(x)) / (m * (m - 1.0)) + (yy - trace(y)) / (n * (n - 1.0)) - 2.0 * xy,
        }
    }
}

/// ‖xᵢ − xⱼ‖² of all points of both sets.
fn squared_distances(a: Features<'_>, b: Features<'_>) -> Result<Mat<f64>> {
    a.same_width(&b)?;
    let rows: Vec<&[f32]> = a.rows().chain(b.rows()).collect();
    let square = |(x, y): (&f32, &f32)| (f64::from(*x) - f64::from(*y)).powi(2);
    Ok(Mat::from_fn(rows.len(), rows.len(), |i, j| rows[i].iter().zip(rows[j]).map(square).sum()))
}
