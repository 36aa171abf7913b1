//! Mode coverage on a known density: how many modes a generator reaches, and how many samples are near one.
//!
//! Srivastava et al. 2017, *VEEGAN*, section 4.1: samples of a mixture of Gaussians on a ring or a grid. A
//! sample counts for its nearest centre, and is of high quality when it lies within 3σ of it; a mode is
//! reached when at least one such sample counts for it.
//!
//! Does not see how the samples spread inside a mode, and with one lucky sample a mode is reached. Needs 2,500
//! samples (the paper's), a hundred a mode. A perfect sampler in two dimensions has 98.9 % within 3σ.

use kiln_core::{Error, Result};

use crate::Features;
use crate::distances::squared_distance;

/// Standard deviations from its centre within which a sample is of high quality.
const WITHIN: f64 = 3.0;

/// The samples that hit a mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Modes {
    /// Samples of high quality for each centre.
    pub counts: Vec<usize>,
    /// All samples.
    pub n: usize,
}

impl Modes {
    /// How many modes are reached.
    pub fn reached(&self) -> usize {
        self.counts.iter().filter(|&&c| c > 0).count()
    }

    /// The part of the samples within 3σ of a centre, 0 to 1.
    pub fn high_quality(&self) -> f64 {
        self.counts.iter().sum::<usize>() as f64 / self.n as f64
    }
}

/// Counts samples at the `centres` of Gaussians of standard deviation `sigma` in every direction.
///
/// # Errors
/// If samples and centres have another number of coordinates, or `sigma` is not above 0.
pub fn measure(samples: Features<'_>, centres: Features<'_>, sigma: f64) -> Result<Modes> {
    samples.same_width(&centres)?;
    if !(sigma > 0.0 && sigma.is_finite()) {
        return Err(Error::usage(format!("the modes' standard deviation is {sigma}; give one above 0")));
    }
    let mut counts = vec![0; centres.n()];
    for sample in samples.rows() {
        let each = centres.rows().map(|centre| squared_distance(sample, centre)).enumerate();
        let (mode, square) = each.fold((0, f64::INFINITY), |best, (c, s)| if s < best.1 { (c, s) } else { best });
        if square.sqrt() <= WITHIN * sigma {
            counts[mode] += 1;
        }
    }
    Ok(Modes { counts, n: samples.n() })
}

/// `count` centres evenly on a circle about 0, `[count, 2]`; the literature's has 8.
pub fn ring(count: usize, radius: f64) -> Vec<f32> {
    let angle = |i: usize| std::f64::consts::TAU * i as f64 / count as f64;
    (0..count).flat_map(|i| [(radius * angle(i).cos()) as f32, (radius * angle(i).sin()) as f32]).collect()
}

/// `side`² centres on a square grid about 0, `[side², 2]`; the literature's has 25, 2 apart.
pub fn grid(side: usize, spacing: f64) -> Vec<f32> {
    let at = |i: usize| ((i as f64 - (side as f64 - 1.0) / 2.0) * spacing) as f32;
    (0..side).flat_map(|i| (0..side).flat_map(move |j| [at(i), at(j)])).collect()
}
