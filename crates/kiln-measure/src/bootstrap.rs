//! Bootstrap intervals: how far a value would vary on other images from the same source.
//!
//! Efron 1979, *Bootstrap Methods: Another Look at the Jackknife*: the value is computed again on sets of
//! the same size, drawn from the images with replacement; the quantiles of the results give an interval.
//!
//! Does not see a flaw that all images share. A resample holds copies (63 % of the images occur in it), which
//! look like a lack of diversity to the Fréchet and kernel distances: their resampled values are too large,
//! and so may the whole percentile interval be. [`Resampled::basic`] mirrors the quantiles at the value, which
//! removes that shift. Needs 200 resamples for a standard deviation, 1,000 for a 95 % interval, and at least 30
//! images.

use kiln_core::random::Key;
use kiln_core::{Error, Result};

/// The values on all resamples, in ascending order.
#[derive(Clone, Debug, PartialEq)]
pub struct Resampled {
    values: Vec<f64>,
}

/// Computes `statistic` on `resamples` random draws with replacement from sets of the given `sizes`. It gets
/// row indices of each set, as many as the set has rows. Resample r depends on `key` and r alone.
///
/// # Errors
/// If there are no sets or resamples, a set is empty, the statistic fails, or it gives NaN.
pub fn resample(
    sizes: &[usize],
    resamples: usize,
    key: Key,
    mut statistic: impl FnMut(&[Vec<usize>]) -> Result<f64>,
) -> Result<Resampled> {
    if resamples == 0 {
        return Err(Error::usage("an interval of no resamples; set at least 1 (1000 for a figure to trust)"));
    }
    if sizes.is_empty() || sizes.contains(&0) {
        return Err(Error::new("nothing to draw resamples from; give at least one picture on each side"));
    }
    // One after another: the figures themselves use all threads.
    let mut values = Vec::with_capacity(resamples);
    for r in 0..resamples as u64 {
        let draw = |(set, &n): (usize, &usize)| -> Vec<usize> {
            let key = key.purpose("bootstrap").at(set as u64).at(r);
            key.below(0..n as u64, n as u64).into_iter().map(|i| i as usize).collect()
        };
        let value = statistic(&sizes.iter().enumerate().map(draw).collect::<Vec<_>>())?;
        if value.is_nan() {
            return Err(Error::new(format!("resample {r} has no figure (NaN); measure more pictures")));
        }
        values.push(value);
    }
    values.sort_unstable_by(f64::total_cmp);
    Ok(Resampled { values })
}

impl Resampled {
    /// The figures, in ascending order.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// Their standard deviation, which is the standard error of the value.
    pub fn std(&self) -> f64 {
        crate::Spread::of(&self.values).std
    }

    /// The percentile interval: the part `level` (0.95) of the figures lies between, half of the rest on
    /// either side. Fails unless 0 < `level` < 1.
    pub fn percentile(&self, level: f64) -> Result<[f64; 2]> {
        if !(level > 0.0 && level < 1.0) {
            return Err(Error::usage(format!("the level of an interval is {level}; give a part such as 0.95")));
        }
        Ok([self.quantile((1.0 - level) / 2.0), self.quantile((1.0 + level) / 2.0)])
    }

    /// The basic interval about the `figure` of the pictures themselves: the percentile interval mirrored
    /// at it (Davison & Hinkley 1997, eq. 5.6), so that a bias of the resamples does not count twice.
    pub fn basic(&self, figure: f64, level: f64) -> Result<[f64; 2]> {
        let [low, high] = self.percentile(level)?;
        Ok([2.0 * figure - high, 2.0 * figure - low])
    }

    /// Linear between neighbours, as `numpy.quantile`.
    fn quantile(&self, part: f64) -> f64 {
        let at = part * (self.values.len() - 1) as f64;
        let (low, high) = (self.values[at.floor() as usize], self.values[at.ceil() as usize]);
        if low == high { low } else { low + (high - low) * at.fract() }
    }
}
