//! How well each latent predicts each factor of the data by a straight line.
//!
//! R² = 1 − Σ (v − v̂)² / Σ (v − v̄)², v̂ = a + b·z fitted by least squares: of one latent, the square of Pearson's
//! correlation, whichever of the two is fitted to the other. 1 where a factor is a multiple of the latent, 0 where the best
//! line is level.
//!
//! A latent whose variance is below a hundredth of the largest one counts as unused: correlation has no scale, so tiny
//! fluctuations of an unused latent could correlate as well as a real one (Burda 2016, §5.2, calls latents of unit prior
//! active from a variance of 0.01).
//!
//! Does not see curved relations, such as a latent that goes around with an angle.

use kiln_core::{Error, Result};

use crate::Features;

/// The least variance of a latent that is used, of the largest.
const ACTIVE: f64 = 0.01;

/// R² of each factor (a row) by each latent (a column); 0 by a latent that hardly ever changes.
///
/// # Errors
/// If there are no factors, or one has not one value a picture or never changes.
pub fn r2(latents: Features<'_>, factors: &[Vec<f64>]) -> Result<Vec<Vec<f64>>> {
    let (name, n) = (latents.name(), latents.n());
    if factors.is_empty() {
        return Err(Error::new(format!("{name}: no factors to tell")));
    }
    let columns: Vec<Vec<f64>> =
        (0..latents.d()).map(|j| centred(latents.rows().map(|row| f64::from(row[j])))).collect();
    let largest = columns.iter().map(|column| dot(column, column)).fold(0.0, f64::max);
    let row = |(k, factor): (usize, &Vec<f64>)| {
        if factor.len() != n {
            return Err(Error::new(format!("{name}: {n} pictures and {} values of factor {k}", factor.len())));
        }
        let factor = centred(factor.iter().copied());
        let own = dot(&factor, &factor);
        if own == 0.0 {
            return Err(Error::new(format!("{name}: factor {k} never changes; leave it out")));
        }
        Ok(columns
            .iter()
            .map(|column| match dot(column, column) {
                square if square <= ACTIVE * largest => 0.0,
                square => dot(column, &factor).powi(2) / (square * own),
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
