//! How each latent follows each factor of the data: by a straight line, or by any curve.
//!
//! By a line, R² = 1 − Σ (v − v̂)² / Σ (v − v̄)², v̂ = a + b·z fitted by least squares: of one latent, the square of Pearson's
//! correlation, whichever of the two is fitted to the other. 1 where a factor is a multiple of the latent, 0 where the best
//! line is level.
//!
//! By any curve, the correlation ratio η² (Pearson 1905) of a latent z over the values v of a factor is the part of the
//! latent's variance that lies between the values: Σ_v n_v (z̄_v − z̄)² / Σ (z − z̄)². It is at least the R² of any
//! function of v as a predictor of z, so it sees a latent that goes with cos v, or around with an angle. By chance alone it
//! is (values − 1) / (pictures − 1).
//!
//! A latent whose variance is below a hundredth of the largest one counts as unused: correlation has no scale, so tiny
//! fluctuations of an unused latent could correlate as well as a real one (Burda 2016, §5.2, calls latents of unit prior
//! active from a variance of 0.01).
//!
//! R² does not see curved relations. η² does not see whether a latent tells the values apart: cos v is the same for v and
//! −v.

use std::collections::BTreeMap;

use kiln_core::{Error, Result};

use crate::Features;

/// The least variance of a latent that is used, of the largest.
const ACTIVE: f64 = 0.01;

/// R² of each factor (a row) by each latent (a column); 0 by a latent that hardly ever changes.
///
/// # Errors
/// If there are no factors, or one has not one value a picture or never changes.
pub fn r2(latents: Features<'_>, factors: &[Vec<f64>]) -> Result<Vec<Vec<f64>>> {
    table(latents, factors, |factor| {
        let factor = centred(factor.iter().copied());
        let own = dot(&factor, &factor);
        move |column: &[f64], square| dot(column, &factor).powi(2) / (square * own)
    })
}

/// η² of each latent (a column) over the values of each factor (a row), given as numbers of values; 0 of a latent that
/// hardly ever changes.
///
/// # Errors
/// As [`r2`].
pub fn correlation_ratio(latents: Features<'_>, factors: &[Vec<usize>]) -> Result<Vec<Vec<f64>>> {
    table(latents, factors, |factor| {
        move |column: &[f64], square| {
            let mut sums: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
            for (value, z) in factor.iter().zip(column) {
                let (sum, n) = sums.entry(*value).or_default();
                (*sum, *n) = (*sum + z, *n + 1.0);
            }
            sums.values().map(|(sum, n)| sum * sum / n).sum::<f64>() / square
        }
    })
}

/// A figure of each factor (a row) and each latent (a column), 0 where the latent hardly ever changes. `of` a factor gives
/// the figure of a centred latent and the sum of its squares.
fn table<'a, V: PartialEq, F: Fn(&[f64], f64) -> f64>(
    latents: Features<'_>,
    factors: &'a [Vec<V>],
    of: impl Fn(&'a [V]) -> F,
) -> Result<Vec<Vec<f64>>> {
    let (name, n) = (latents.name(), latents.n());
    if factors.is_empty() {
        return Err(Error::new(format!("{name}: no factors to tell")));
    }
    let columns: Vec<Vec<f64>> =
        (0..latents.d()).map(|j| centred(latents.rows().map(|row| f64::from(row[j])))).collect();
    let largest = columns.iter().map(|column| dot(column, column)).fold(0.0, f64::max);
    let row = |(k, factor): (usize, &'a Vec<V>)| {
        if factor.len() != n {
            return Err(Error::new(format!("{name}: {n} pictures and {} values of factor {k}", factor.len())));
        }
        if factor.windows(2).all(|pair| pair[0] == pair[1]) {
            return Err(Error::new(format!("{name}: factor {k} never changes; leave it out")));
        }
        let figure = of(factor);
        Ok(columns
            .iter()
            .map(|column| match dot(column, column) {
                square if square <= ACTIVE * largest => 0.0,
                square => figure(column, square),
            })
            .collect())
    };
    factors.iter().enumerate().map(row).collect()
}

fn centred(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let values: Vec<f64> = values.collect();
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    values.into_iter().map(|v| v - mean).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// `LinearRegression().fit(z, v).score(z, v)` of scikit-learn 1.9.1, for each latent alone.
    #[test]
    fn r2_is_scikit_learns() {
        let latents = [0.5f32, 1.0, 3.0, -1.5, 2.0, 3.0, 2.0, -1.0, 3.0, 4.0, 0.25, 3.0, -3.0, 0.0, 3.0];
        let factors = [vec![1.0, 0.0, 2.0, 3.5, -1.0], vec![1.0, 2.0, -1.0, 0.25, 0.0]];
        let got = r2(Features::new("z", &latents, 3).unwrap(), &factors).unwrap();
        let wanted = [[0.9945266193196989, 0.10972244765460148, 0.0], [0.12487502821943441, 1.0, 0.0]];
        for (got, wanted) in got.iter().flatten().zip(wanted.iter().flatten()) {
            assert!((got - wanted).abs() < 1e-12, "{got} {wanted}");
        }
    }

    #[test]
    fn a_latent_that_goes_around_with_a_factor_follows_it() {
        let degrees = [0.0f64, 60.0, 120.0, 180.0, 240.0, 300.0];
        let places: Vec<usize> = (0..600).map(|i| i % 6).collect();
        let latents: Vec<f32> = places
            .iter()
            .enumerate()
            .flat_map(|(i, &place)| [degrees[place].to_radians().cos() as f32, if i / 6 % 2 == 0 { 1.0 } else { -1.0 }])
            .collect();
        let latents = Features::new("z", &latents, 2).unwrap();
        let eta = correlation_ratio(latents, std::slice::from_ref(&places)).unwrap();
        assert!((eta[0][0] - 1.0).abs() < 1e-9 && eta[0][1] < 1e-9, "{eta:?}");
        let angles = places.iter().map(|&place| degrees[place]).collect();
        let line = r2(latents, &[angles]).unwrap();
        assert!(line[0][0] < 0.2, "{line:?}");
    }

    /// `f_oneway` of SciPy 1.17.1 has the same sums of squares: η² = F·(k − 1) / (F·(k − 1) + n − k) of k values.
    #[test]
    fn the_correlation_ratio_is_scipys() {
        let latents = [0.5f32, -1.5, 2.0, 4.0, -3.0, 1.0, 2.0];
        let groups = [vec![0, 0, 1, 1, 2, 0, 1]];
        let got = correlation_ratio(Features::new("z", &latents, 1).unwrap(), &groups).unwrap()[0][0];
        let (f, k, n) = (8.679536679536673, 3.0, 7.0);
        assert!((got - f * (k - 1.0) / (f * (k - 1.0) + n - k)).abs() < 1e-12, "{got}");
    }

    #[test]
    fn a_tremble_tells_nothing() {
        let wide = [-2.0f32, -1.0, 0.0, 1.0, 2.0];
        let table = |small: f32| wide.iter().flat_map(|z| [*z, small * z]).collect::<Vec<_>>();
        let factor = [wide.iter().map(|z| f64::from(*z)).collect()];
        let got = |small| r2(Features::new("z", &table(small), 2).unwrap(), &factor).unwrap();
        assert_eq!(got(0.125), [[1.0, 1.0]]);
        assert_eq!(got(0.0625), [[1.0, 0.0]]);
        assert_eq!(r2(Features::new("z", &[1.0; 5], 1).unwrap(), &factor).unwrap(), [[0.0]]);
    }

    #[test]
    fn what_cannot_be_told_is_an_error() {
        let latents = [0.0f32, 1.0, 2.0];
        let fails =
            |factors: &[Vec<f64>]| r2(Features::new("z", &latents, 1).unwrap(), factors).unwrap_err().to_string();
        assert!(fails(&[]).contains("no factors"));
        assert!(fails(&[vec![1.0, 2.0]]).contains("2 values of factor 0"));
        assert!(fails(&[vec![1.0, 2.0, 3.0], vec![1.0; 3]]).contains("factor 1 never changes"));
    }
}
