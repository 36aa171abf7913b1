//! Precision, recall, density and coverage: quality and variety of generated images.
//!
//! Kynkäänniemi et al. 2019, *Improved Precision and Recall Metric for Assessing Generative Models*,
//! and Naeem et al. 2020, *Reliable Fidelity and Diversity Metrics for Generative Models*. Each picture
//! owns a ball that reaches to its k-th nearest neighbour in its own set:
//!
//! - precision: the part of the generated pictures inside some real ball;
//! - recall: the part of the real pictures inside some generated ball;
//! - density: how many real balls a generated picture lies in, over k (may exceed 1);
//! - coverage: the part of the real balls that hold a generated picture.
//!
//! A point on a ball's surface is outside, as in the authors' `prdc` package.
//!
//! Does not see what the features do not show, nor how pictures are distributed inside a ball; one outlier
//! swells a ball and with it precision and recall (density and coverage are less touched). Needs as many
//! pictures on each side, 10,000 in the papers; figures of different n or k do not compare.

use kiln_core::{Error, Result};

use crate::Features;
use crate::distances::{Points, squared_distances};

/// The four measures, each at least 0; all but density at most 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prdc {
    /// Part of the generated pictures that look real.
    pub precision: f64,
    /// Part of the real pictures that the generator reaches.
    pub recall: f64,
    /// Real balls around a generated picture, over k.
    pub density: f64,
    /// Part of the real pictures with a generated one near by.
    pub coverage: f64,
}

/// Measures `generated` against `real` with balls to the `k`-th neighbour (5 in the paper).
///
/// Takes time in n². Fails when the widths differ or a side has no more than `k` pictures.
pub fn measure(real: Features<'_>, generated: Features<'_>, k: usize) -> Result<Prdc> {
    real.same_width(&generated)?;
    for side in [real, generated] {
        if k == 0 || side.n() <= k {
            return Err(Error::new(format!(
                "{}: {} pictures have no neighbour number {k}; measure more or set k between 1 and {}",
                side.name(),
                side.n(),
                side.n().saturating_sub(1).max(1)
            )));
        }
    }
    let (real_points, generated_points) = (Points::of(real), Points::of(generated));
    let real_radii = radii(&real_points, k);
    let generated_radii = radii(&generated_points, k);

    // For each real picture: is it reached (recall), is its ball hit (coverage), and by whom.
    let rows: Vec<(bool, Vec<usize>)> = squared_distances(&real_points, &generated_points, |i, row| {
        let reached = row.iter().zip(&generated_radii).any(|(d, r)| d < r);
        let inside = (0..row.len()).filter(|&j| row[j] < real_radii[i]).collect();
        (reached, inside)
    });
    let mut balls = vec![0usize; generated.n()];
    rows.iter().flat_map(|(_, inside)| inside).for_each(|&j| balls[j] += 1);

    let part = |count: usize, of: usize| count as f64 / of as f64;
    Ok(Prdc {
        precision: part(balls.iter().filter(|&&b| b > 0).count(), generated.n()),
        recall: part(rows.iter().filter(|(reached, _)| *reached).count(), real.n()),
        density: part(balls.iter().sum(), generated.n()) / k as f64,
        coverage: part(rows.iter().filter(|(_, inside)| !inside.is_empty()).count(), real.n()),
    })
}

/// The squared distance of each point to its `k`-th nearest other.
fn radii(points: &Points, k: usize) -> Vec<f64> {
    // The point itself is among its row, the nearest: place k, counted from 0, is neighbour k.
    squared_distances(points, points, |_, row| *row.select_nth_unstable_by(k, f64::total_cmp).1)
}
