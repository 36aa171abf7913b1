//! k-means clustering of images by their features.
//!
//! Centres are initialised by k-means++ (Arthur & Vassilvitskii 2007: the next one at an image drawn with a
//! probability proportional to the squared distance to the nearest centre so far) and moved to the mean of
//! their nearest images until no image changes its centre (Lloyd 1982). The result is the same for the same key.
//!
//! Finds a local optimum, and only round clusters of similar size. Needs some tens of images per cluster.

use kiln_core::random::Key;
use kiln_core::{Error, Result};
use rayon::prelude::*;

use crate::Features;

/// Moves of the centres before a cycle of ties is given up.
const MAX_MOVES: usize = 300;

/// Centres of kinds; a picture is of the kind whose centre is nearest.
#[derive(Clone, Debug, PartialEq)]
pub struct KMeans {
    d: usize,
    /// A row a centre.
    centres: Vec<f64>,
}

impl KMeans {
    /// Finds `k` kinds among the pictures. Fails unless `k` is at least 1 and that many of them differ.
    pub fn fit(features: Features<'_>, k: usize, key: Key) -> Result<Self> {
        let (n, d) = (features.n(), features.d());
        if k == 0 {
            return Err(Error::usage("0 kinds of pictures; set at least 1"));
        }
        let key = key.purpose("k-means++");
        let mut nearest = vec![f64::INFINITY; n];
        let mut centres = Vec::with_capacity(k * d);
        for c in 0..k {
            let total: f64 = nearest.iter().sum();
            let at = if c == 0 {
                key.below([0], n as u64)[0] as usize
            } else if total > 0.0 {
                let mut left = total * key.below([c as u64], 1 << 53)[0] as f64 / (1u64 << 53) as f64;
                // Rounding may use up all pictures; the last that may be drawn stands for it.
                let last = nearest.iter().rposition(|&w| w > 0.0).unwrap_or(0);
                let passed = |w: &f64| {
                    left -= w;
                    left < 0.0 && *w > 0.0
                };
                nearest.iter().position(passed).unwrap_or(last)
            } else {
                return Err(Error::new(format!(
                    "{}: only {c} of {n} pictures differ, too few for {k} kinds; give more pictures or fewer kinds",
                    features.name()
                )));
            };
            let centre: Vec<f64> = features.row(at).iter().map(|&v| f64::from(v)).collect();
            nearest.par_iter_mut().enumerate().for_each(|(i, w)| *w = w.min(apart(features.row(i), &centre)));
            centres.extend(centre);
        }
        Self { d, centres }.moved(features)
    }

    /// Moves given centres, row-major, until no picture changes its kind. Fails when the centres are not
    /// rows as wide as the pictures' or are not finite.
    pub fn from_centres(features: Features<'_>, centres: Vec<f64>) -> Result<Self> {
        let d = features.d();
        if centres.is_empty() || !centres.len().is_multiple_of(d) || centres.iter().any(|v| !v.is_finite()) {
            return Err(Error::new(format!(
                "{}: {} values are no finite centres of {d} features",
                features.name(),
                centres.len()
            )));
        }
        Self { d, centres }.moved(features)
    }

    /// The centres, a row each.
    pub fn centres(&self) -> &[f64] {
        &self.centres
    }

    /// How many kinds.
    pub fn k(&self) -> usize {
        self.centres.len() / self.d
    }

    /// The kind of each picture; of equally near ones the first. Fails when the width is another.
    pub fn assign(&self, features: Features<'_>) -> Result<Vec<usize>> {
        Ok(self.nearest(features)?.into_iter().map(|(kind, _)| kind).collect())
    }

    /// How many pictures are of each kind.
    pub fn count(&self, features: Features<'_>) -> Result<Vec<usize>> {
        let mut counts = vec![0; self.k()];
        self.assign(features)?.into_iter().for_each(|kind| counts[kind] += 1);
        Ok(counts)
    }

    fn nearest(&self, features: Features<'_>) -> Result<Vec<(usize, f64)>> {
        if features.d() != self.d {
            return Err(Error::new(format!(
                "{}: {} features where the kinds have {}; take both from one network",
                features.name(),
                features.d(),
                self.d
            )));
        }
        let of = |i: usize| {
            let each = self.centres.chunks_exact(self.d).map(|centre| apart(features.row(i), centre));
            each.enumerate().fold((0, f64::INFINITY), |best, (c, w)| if w < best.1 { (c, w) } else { best })
        };
        Ok((0..features.n()).into_par_iter().map(of).collect())
    }

    fn moved(mut self, features: Features<'_>) -> Result<Self> {
        let mut before = Vec::new();
        for _ in 0..MAX_MOVES {
            let mut nearest = self.nearest(features)?;
            let kinds: Vec<usize> = nearest.iter().map(|(kind, _)| *kind).collect();
            if kinds == before {
                break;
            }
            let mut counts = vec![0usize; self.k()];
            let mut sums = vec![0.0; self.centres.len()];
            for (row, &kind) in features.rows().zip(&kinds) {
                counts[kind] += 1;
                let sum = &mut sums[kind * self.d..(kind + 1) * self.d];
                sum.iter_mut().zip(row).for_each(|(s, &v)| *s += f64::from(v));
            }
            for (kind, centre) in self.centres.chunks_exact_mut(self.d).enumerate() {
                let sum = &sums[kind * self.d..(kind + 1) * self.d];
                if counts[kind] > 0 {
                    centre.iter_mut().zip(sum).for_each(|(c, s)| *c = s / counts[kind] as f64);
                } else if let Some(far) = (0..nearest.len()).max_by(|&a, &b| nearest[a].1.total_cmp(&nearest[b].1)) {
                    // A centre without pictures goes to the picture that is worst served.
                    centre.iter_mut().zip(features.row(far)).for_each(|(c, &v)| *c = f64::from(v));
                    nearest[far].1 = 0.0;
                }
            }
            before = kinds;
        }
        Ok(self)
    }
}

/// ‖x − centre‖²
fn apart(x: &[f32], centre: &[f64]) -> f64 {
    x.iter().zip(centre).map(|(&x, c)| (f64::from(x) - c).powi(2)).sum()
}
