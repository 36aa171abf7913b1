//! Kernel distance (KID): the squared maximum mean discrepancy under a polynomial kernel.
//!
//! Bińkowski et al. 2018, *Demystifying MMD GANs*, section 4: k(x, y) = (xᵀy / d + 1)³, and the
//! unbiased estimate
//!
//! MMD² = Σ_{i≠j} k(xᵢ, xⱼ) / m(m−1) + Σ_{i≠j} k(yᵢ, yⱼ) / n(n−1) − 2 Σ k(xᵢ, yⱼ) / mn
//!
//! averaged over random subsets. Unlike the Fréchet distance it is unbiased at any number of
//! images; for equal distributions it varies around 0 and may be slightly negative.
//!
//! Does not see moments beyond the third. Needs at least 1,000 images a side. The standard deviation over subsets is
//! not the standard error of the value (for which see [`bootstrap`](crate::bootstrap)).

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use rayon::prelude::*;

use crate::{Features, Spread};

/// Which subsets are compared: 100 of 1,000 in the literature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subsets {
    /// How many subsets.
    pub count: usize,
    /// Pictures of each side in a subset, at least 2.
    pub size: usize,
}

impl Subsets {
    /// The literature's subsets, smaller when a side has fewer pictures. Where a subset is all of both sides, there is
    /// one.
    pub fn standard(a: usize, b: usize) -> Self {
        let size = 1000.min(a).min(b);
        Self { count: if a == size && b == size { 1 } else { 100 }, size }
    }
}

/// Mean and standard deviation of MMD² over random subsets, drawn without replacement under `key`.
///
/// Fails when the widths differ or a side has fewer pictures than a subset.
pub fn distance(a: Features<'_>, b: Features<'_>, subsets: Subsets, key: Key) -> Result<Spread> {
    for side in [a, b] {
        if side.n() < subsets.size {
            return Err(Error::new(format!(
                "{}: {} pictures are fewer than a subset of {}; measure more or set a smaller subset",
                side.name(),
                side.n(),
                subsets.size
            )));
        }
    }
    let draw = |name: &str, number: usize, n: usize| -> Vec<usize> {
        let key = key.purpose(name).at(number as u64);
        (0..subsets.size as u64).map(|i| key.permute(i, n as u64) as usize).collect()
    };
    let drawn: Vec<_> = (0..subsets.count).map(|s| (draw("a", s, a.n()), draw("b", s, b.n()))).collect();
    over_subsets(a, b, &drawn)
}

/// Mean and standard deviation of MMD² over the given subsets, each the pictures of `a` and of `b`.
pub fn over_subsets(a: Features<'_>, b: Features<'_>, subsets: &[(Vec<usize>, Vec<usize>)]) -> Result<Spread> {
    a.same_width(&b)?;
    if subsets.is_empty() {
        return Err(Error::usage("kernel distance over no subset; set at least 1"));
    }
    for (pick_a, pick_b) in subsets {
        for (side, pick) in [(a, pick_a), (b, pick_b)] {
            if pick.len() < 2 {
                return Err(Error::new(format!("{}: a subset needs at least 2 pictures", side.name())));
            }
            if let Some(i) = pick.iter().find(|&&i| i >= side.n()) {
                return Err(Error::new(format!("{}: no picture {i} in {}", side.name(), side.n())));
            }
        }
    }
    let values: Vec<f64> = subsets
        .par_iter()
        .map(|(pick_a, pick_b)| mmd2(&a.columns(pick_a.iter().copied()), &b.columns(pick_b.iter().copied())))
        .collect();
    Ok(Spread::of(&values))
}

/// The unbiased MMD² of two tables with a column for each picture.
fn mmd2(x: &Mat<f64>, y: &Mat<f64>) -> f64 {
    let (m, n) = (x.ncols() as f64, y.ncols() as f64);
    within(x) / (m * (m - 1.0)) + within(y) / (n * (n - 1.0)) - 2.0 * kernel(x, y).sum() / (m * n)
}

/// Σ_{i≠j} k(xᵢ, xⱼ)
fn within(x: &Mat<f64>) -> f64 {
    let k = kernel(x, x);
    k.sum() - k.diagonal().column_vector().iter().sum::<f64>()
}

/// k(xᵢ, yⱼ) for all pairs.
fn kernel(x: &Mat<f64>, y: &Mat<f64>) -> Mat<f64> {
    let mut k = Mat::zeros(x.ncols(), y.ncols());
    matmul(k.as_mut(), Accum::Replace, x.transpose(), y.as_ref(), 1.0 / x.nrows() as f64, Par::Seq);
    faer::zip!(&mut k).for_each(|faer::unzip!(k)| *k = (*k + 1.0).powi(3));
    k
}
