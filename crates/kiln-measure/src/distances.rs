//! Pairwise distances between two sets of points, computed in blocks of rows.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};
use rayon::prelude::*;

use crate::Features;

/// Rows of the distance table held at a time: bounds memory at `BLOCK` × n numbers a thread.
const BLOCK: usize = 64;

/// Some pictures of a set with a column for each, and the squared length of each.
pub(crate) struct Points {
    columns: Mat<f64>,
    squares: Vec<f64>,
}

impl Points {
    /// All pictures.
    pub(crate) fn of(features: Features<'_>) -> Self {
        Self::some(features, 0..features.n())
    }

    /// The pictures of a range.
    pub(crate) fn some(features: Features<'_>, range: Range<usize>) -> Self {
        let squares = range.clone().map(|i| features.row(i).iter().map(|&v| f64::from(v).powi(2)).sum()).collect();
        Self { columns: features.columns(range), squares }
    }

    /// How far a squared distance to the points of `other` can be from its exact value, for the point
    /// `i`: a scalar product of d terms is off by (d + 2) ε ‖a‖ ‖b‖ at most.
    pub(crate) fn rounding(&self, i: usize, other: &Points) -> f64 {
        let longest = other.squares.iter().copied().fold(0.0, f64::max);
        2.0 * (self.columns.nrows() + 4) as f64 * f64::EPSILON * (self.squares[i] + longest)
    }
}

/// `each(i, row)` for every point of `a` with its squared distances to all of `b`, in order.
pub(crate) fn squared_distances<T: Send>(
    a: &Points,
    b: &Points,
    each: impl Fn(usize, &mut [f64]) -> T + Sync,
) -> Vec<T> {
    let n = a.squares.len();
    (0..n.div_ceil(BLOCK))
        .into_par_iter()
        .flat_map_iter(|block| {
            let start = block * BLOCK;
            let rows = BLOCK.min(n - start);
            let mut products = Mat::zeros(b.squares.len(), rows);
            let some = a.columns.subcols(start, rows);
            matmul(products.as_mut(), Accum::Replace, b.columns.transpose(), some, -2.0, Par::Seq);
            let each = &each;
            (0..rows).map(move |r| {
                let i = start + r;
                // ‖a − b‖² = ‖a‖² + ‖b‖² − 2 a·b, which rounding may take below 0.
                let square = |(p, s): (&f64, &f64)| (p + s + a.squares[i]).max(0.0);
                let mut row: Vec<f64> = products.col(r).iter().zip(&b.squares).map(square).collect();
                each(i, &mut row)
            })
        })
        .collect()
}

/// ‖a − b‖² of two rows, without cancellation: 0 exactly where they are equal.
pub(crate) fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2)).sum()
}
