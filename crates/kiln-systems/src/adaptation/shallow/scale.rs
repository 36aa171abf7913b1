//! Features brought to mean 0 and deviation 1.

use faer::{Mat, MatRef};
use serde::{Deserialize, Serialize};

use super::algebra::mean;
use super::domains::Domains;
use super::map::Of;

/// Over which pictures means and deviations are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standardize {
    /// Each domain on its own, as in the papers' protocol.
    Domain,
    /// Both together.
    Joint,
    /// Features stay as they are.
    None,
}

/// A deviation that is less of the mean, or of 1, is rounding.
const CONSTANT: f64 = 1e-6;

/// Means and deviations of features: a row for the source, a row for the target.
#[derive(Clone, Debug)]
pub struct Scale {
    /// The means.
    pub mean: Mat<f64>,
    /// The deviations; 1 for a feature that does not vary, which says nothing whatever its scale.
    pub deviation: Mat<f64>,
}

impl Scale {
    /// Of the pictures that are learned from.
    pub fn of(domains: &Domains, how: Standardize) -> Self {
        let statistics = |x: MatRef<'_, f64>| {
            let mean = mean(x);
            let variance =
                |j: usize| (0..x.nrows()).map(|i| (x[(i, j)] - mean[j]).powi(2)).sum::<f64>() / x.nrows() as f64;
            let deviation = |j: usize| Some(variance(j).sqrt()).filter(|v| *v > CONSTANT * (1.0 + mean[j].abs()));
            let deviations = (0..x.ncols()).map(|j| deviation(j).unwrap_or(1.0)).collect();
            (mean, deviations)
        };
        let d = domains.source.ncols();
        let sides: [(Vec<f64>, Vec<f64>); 2] = match how {
            Standardize::Domain => [&domains.source, &domains.target].map(|x| statistics(x.as_ref())),
            Standardize::Joint => {
                let both = statistics(domains.all().as_ref());
                [both.clone(), both]
            }
            Standardize::None => [0, 1].map(|_| (vec![0.0; d], vec![1.0; d])),
        };
        Self { mean: Mat::from_fn(2, d, |i, j| sides[i].0[j]), deviation: Mat::from_fn(2, d, |i, j| sides[i].1[j]) }
    }

    /// Features of a domain, scaled.
    pub fn scaled(&self, x: MatRef<'_, f64>, of: Of) -> Mat<f64> {
        let row = if of == Of::Source { 0 } else { 1 };
        Mat::from_fn(x.nrows(), x.ncols(), |i, j| (x[(i, j)] - self.mean[(row, j)]) / self.deviation[(row, j)])
    }

    /// Both domains, scaled.
    pub fn both(&self, domains: Domains) -> Domains {
        Domains {
            source: self.scaled(domains.source.as_ref(), Of::Source),
            target: self.scaled(domains.target.as_ref(), Of::Target),
            ..domains
        }
    }
}
