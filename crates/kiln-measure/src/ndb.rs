//! Number of statistically different bins (NDB): whether a generator makes each kind of image as often as the data.
//!
//! Richardson & Weiss 2018, *On GANs and GMMs*, section 3: the training images are divided into K bins by
//! [k-means](crate::kmeans), and the share of each bin among the training pictures and the generated ones
//! is compared by a two-proportion z-test,
//!
//! z = (p − q) / √( m (1 − m) (1/n_p + 1/n_q) ),  m the pooled share.
//!
//! NDB/K is the share of bins that differ; for equal distributions it is the level of the test (0.05).
//! With it comes the Jensen–Shannon divergence of the shares, in nats (0 to ln 2).
//!
//! Does not see differences inside a bin: blurred pictures keep their bins. Needs 10,000 pictures a side for
//! the paper's 100 bins; with more pictures smaller differences count, so only figures of equal n compare.

use kiln_core::random::Key;
use kiln_core::{Error, Result};

use crate::Features;
use crate::kmeans::KMeans;

/// The two-sided 5 % point of the normal distribution: the paper's test.
pub const FIVE_PERCENT: f64 = 1.959_963_984_540_054;

/// How the shares of two sets over the same bins differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ndb {
    /// Bins whose shares differ by more than chance.
    pub different: usize,
    /// Bins there are.
    pub bins: usize,
    /// Jensen–Shannon divergence of the shares, 0 to ln 2 nats.
    pub jsd: f64,
}

impl Ndb {
    /// NDB/K, 0 to 1.
    pub fn share(&self) -> f64 {
        self.different as f64 / self.bins as f64
    }
}

/// Parts `training` into `bins` and compares the shares of `generated` with its own.
///
/// # Errors
/// If the widths differ or fewer training pictures than bins differ.
pub fn measure(training: Features<'_>, generated: Features<'_>, bins: usize, key: Key) -> Result<Ndb> {
    training.same_width(&generated)?;
    let kinds = KMeans::fit(training, bins, key)?;
    compare(&kinds.count(training)?, &kinds.count(generated)?, FIVE_PERCENT)
}

/// Compares the pictures counted in each bin; shares differ where |z| is above `threshold`.
///
/// # Errors
/// If the bins differ in number, or a side has no picture.
pub fn compare(training: &[usize], generated: &[usize], threshold: f64) -> Result<Ndb> {
    let (n, m) = (training.iter().sum::<usize>() as f64, generated.iter().sum::<usize>() as f64);
    if training.len() != generated.len() || n == 0.0 || m == 0.0 {
        return Err(Error::new(format!(
            "{n} pictures in {} bins cannot be compared with {m} in {}; give pictures on both sides of the same bins",
            training.len(),
            generated.len()
        )));
    }
    let shares = || training.iter().zip(generated).map(|(&a, &b)| (a as f64 / n, b as f64 / m));
    let differ = |(p, q): (f64, f64)| {
        let pooled = (p * n + q * m) / (n + m);
        let error = (pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m)).sqrt();
        (p - q).abs() > threshold * error
    };
    // p log p tends to 0 with p.
    let term = |p: f64, middle: f64| if p > 0.0 { p * (p / middle).ln() } else { 0.0 };
    let jsd: f64 = shares().map(|(p, q)| 0.5 * (term(p, 0.5 * (p + q)) + term(q, 0.5 * (p + q)))).sum();
    Ok(Ndb { different: shares().filter(|&s| differ(s)).count(), bins: training.len(), jsd: jsd.max(0.0) })
}
