//! Memorisation: the distance of generated images to their nearest training images.
//!
//! Samples of a generator that has learned the density are as near to training images as these are to each
//! other; memorised samples are nearer. The summary compares the two kinds of distance
//! (a form of the test of Meehan et al. 2020, *A Non-Parametric Test to Detect Data-Copying*).
//!
//! Does not see copies that are shifted, mirrored or recoloured unless the features look past that, and
//! measures in the features' own unit. A part of memorised pictures hides in the medians: look at the
//! nearest pairs too. Needs the whole training set, and some hundred generated pictures.

use kiln_core::{Error, Result};

use crate::Features;
use crate::distances::{Points, squared_distance, squared_distances};

/// Training pictures turned to 64 bits at a time.
const CHUNK: usize = 4096;

/// The nearest picture of a set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// Its place in the set; the first of equally near ones.
    pub index: usize,
    /// How far it is: the Euclidean distance of the features, 0 exactly when they are equal.
    pub distance: f64,
}

/// The nearest training picture of each sample. Fails when the widths differ.
pub fn nearest(samples: Features<'_>, training: Features<'_>) -> Result<Vec<Neighbour>> {
    samples.same_width(&training)?;
    Ok(search(samples, training, false))
}

/// The nearest other picture of each picture of a set. Fails when there is but one.
pub fn nearest_other(set: Features<'_>) -> Result<Vec<Neighbour>> {
    if set.n() < 2 {
        return Err(Error::new(format!("{}: one picture has no neighbour; give at least 2", set.name())));
    }
    Ok(search(set, set, true))
}

fn search(of: Features<'_>, among: Features<'_>, skip_itself: bool) -> Vec<Neighbour> {
    let points = Points::of(of);
    let mut best = vec![Neighbour { index: 0, distance: f64::INFINITY }; of.n()];
    for start in (0..among.n()).step_by(CHUNK) {
        let chunk = Points::some(among, start..(start + CHUNK).min(among.n()));
        // Products find the few that may be nearest, up to rounding; which one is decided without it.
        let nearest = squared_distances(&points, &chunk, |i, row| {
            if skip_itself && (start..start + row.len()).contains(&i) {
                row[i - start] = f64::INFINITY;
            }
            let limit = row.iter().copied().fold(f64::INFINITY, f64::min) + 2.0 * points.rounding(i, &chunk);
            let few = (0..row.len()).filter(|&j| row[j] <= limit && row[j].is_finite()).map(|j| start + j);
            few.fold(Neighbour { index: 0, distance: f64::INFINITY }, |best, index| {
                let distance = squared_distance(of.row(i), among.row(index)).sqrt();
                if distance < best.distance { Neighbour { index, distance } } else { best }
            })
        });
        for (best, new) in best.iter_mut().zip(nearest) {
            if new.distance < best.distance {
                *best = new;
            }
        }
    }
    best
}

/// How near samples are to the training pictures, measured by how near those are to each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memorisation {
    /// Median distance of a sample to its nearest training picture.
    pub median: f64,
    /// Median distance of a training picture to its nearest other.
    pub training_median: f64,
    /// The probability that a sample is nearer to its neighbour than a training picture is to its own, ties
    /// counted half: ½ when they are alike, 1 when every sample is a copy.
    pub nearer: f64,
    /// The part of the samples that equal a training picture in every feature.
    pub copies: f64,
}

/// Summarises the neighbours of the samples ([`nearest`]) against those of the training pictures
/// ([`nearest_other`]). Fails when a side is empty.
pub fn memorisation(samples: &[Neighbour], training: &[Neighbour]) -> Result<Memorisation> {
    if samples.is_empty() || training.is_empty() {
        return Err(Error::new("no neighbours to compare; give at least one sample and two training pictures"));
    }
    let sorted = |of: &[Neighbour]| {
        let mut distances: Vec<f64> = of.iter().map(|n| n.distance).collect();
        distances.sort_unstable_by(f64::total_cmp);
        distances
    };
    let (ours, theirs) = (sorted(samples), sorted(training));
    let median = |d: &[f64]| (d[(d.len() - 1) / 2] + d[d.len() / 2]) / 2.0;
    // Mann–Whitney: over all pairs, how often the sample's distance is the smaller.
    let wins: f64 = ours
        .iter()
        .map(|d| {
            let (below, up_to) = (theirs.partition_point(|t| t < d), theirs.partition_point(|t| t <= d));
            (theirs.len() - up_to) as f64 + 0.5 * (up_to - below) as f64
        })
        .sum();
    Ok(Memorisation {
        median: median(&ours),
        training_median: median(&theirs),
        nearer: wins / (ours.len() as f64 * theirs.len() as f64),
        copies: ours.partition_point(|&d| d == 0.0) as f64 / ours.len() as f64,
    })
}
