//! Fréchet distance between two sets of features taken as Gaussians.
//!
//! Heusel et al. 2017, *GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
//! Equilibrium*, eq. 6:
//!
//! d² = ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½)
//!
//! With Inception-v3 features and 50,000 pictures this is the FID; with any other network or number
//! it is a figure of its own, and says so in its [`Measure`](crate::Measure).

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par, Side};
use kiln_core::{Error, Result};

use crate::Features;

/// Mean and covariance of features that arrive a batch at a time.
///
/// Batches are merged by Chan, Golub & LeVeque 1979, so that nothing is lost to the difference of
/// two large sums, and the sets of several workers can be put together.
#[derive(Clone, Debug)]
pub struct Gaussian {
    name: String,
    n: usize,
    mean: Vec<f64>,
    /// Σ (x − mean)(x − mean)ᵀ, d × d.
    scatter: Mat<f64>,
}

impl Gaussian {
    /// Of no picture yet; `name` is what errors call the set, `d` the features of a picture.
    pub fn new(name: &str, d: usize) -> Self {
        Self { name: name.into(), n: 0, mean: vec![0.0; d], scatter: Mat::zeros(d, d) }
    }

    /// Of one whole set.
    pub fn of(features: Features<'_>) -> Result<Self> {
        let mut gaussian = Self::new(features.name(), features.d());
        gaussian.push(features)?;
        Ok(gaussian)
    }

    /// Adds the pictures of a batch; fails when they have another number of features.
    pub fn push(&mut self, batch: Features<'_>) -> Result<()> {
        let (n, d) = (batch.n(), batch.d());
        let mut mean = vec![0.0; d];
        for row in batch.rows() {
            for (m, &x) in mean.iter_mut().zip(row) {
                *m += f64::from(x);
            }
        }
        mean.iter_mut().for_each(|m| *m /= n as f64);
        let centred = Mat::from_fn(d, n, |k, i| f64::from(batch.row(i)[k]) - mean[k]);
        let mut scatter = Mat::zeros(d, d);
        matmul(scatter.as_mut(), Accum::Replace, centred.as_ref(), centred.transpose(), 1.0, Par::Seq);
        self.merge(&Self { name: batch.name().into(), n, mean, scatter })
    }

    /// Adds the pictures another worker has seen; fails when they have another number of features.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        same_width(self, other)?;
        if other.n == 0 {
            return Ok(());
        }
        let (a, b) = (self.n as f64, other.n as f64);
        let delta: Vec<f64> = other.mean.iter().zip(&self.mean).map(|(o, m)| o - m).collect();
        for (j, &dj) in delta.iter().enumerate() {
            for (i, &di) in delta.iter().enumerate() {
                self.scatter[(i, j)] += other.scatter[(i, j)] + di * dj * a * b / (a + b);
            }
        }
        for (m, d) in self.mean.iter_mut().zip(&delta) {
            *m += d * b / (a + b);
        }
        self.n += other.n;
        Ok(())
    }

    /// How many pictures so far.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The mean of each feature.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// The unbiased covariance (divisor n − 1, as `numpy.cov`), d × d row-major; needs two pictures.
    pub fn covariance(&self) -> Result<Vec<f64>> {
        let sigma = self.sigma()?;
        Ok((0..self.mean.len()).flat_map(|i| sigma.row(i).iter().copied().collect::<Vec<_>>()).collect())
    }

    fn sigma(&self) -> Result<Mat<f64>> {
        if self.n < 2 {
            return Err(Error::new(format!(
                "{}: {} pictures have no covariance; measure at least 2 (thousands for a figure to trust)",
                self.name, self.n
            )));
        }
        Ok(&self.scatter * faer::Scale(1.0 / (self.n - 1) as f64))
    }
}

/// The squared Fréchet distance d² of the two Gaussians: 0 when they are equal, never negative.
///
/// Fails when a side has fewer than two pictures or the widths differ. The number of pictures may be
/// smaller than that of features: the covariance is then singular and the distance still defined, but
/// it is biased upwards, ever more as n falls.
pub fn distance(a: &Gaussian, b: &Gaussian) -> Result<f64> {
    same_width(a, b)?;
    let (sigma_a, sigma_b) = (a.sigma()?, b.sigma()?);
    let shift: f64 = a.mean.iter().zip(&b.mean).map(|(x, y)| (x - y).powi(2)).sum();
    let traces: f64 = (0..a.mean.len()).map(|i| sigma_a[(i, i)] + sigma_b[(i, i)]).sum();

    // With Σ = S Sᵀ, tr (Σ₁Σ₂)^½ = tr (S₁ᵀ Σ₂ S₁)^½ is the sum of the singular values of S₁ᵀ S₂. Taken
    // from there, rather than as roots of eigenvalues, the many directions in which nothing varies
    // cost no accuracy: the root of an eigenvalue's rounding error 1e-16 would be 1e-8.
    let (root_a, root_b) = (root(sigma_a.as_ref(), &a.name)?, root(sigma_b.as_ref(), &b.name)?);
    let values = (root_a.transpose() * &root_b)
        .singular_values()
        .map_err(|_| Error::new(format!("{} and {}: the singular values do not converge", a.name, b.name)))?;
    Ok((shift + traces - 2.0 * values.iter().sum::<f64>()).max(0.0))
}

/// S with S Sᵀ = Σ, a column for each eigenvalue above rounding.
fn root(sigma: MatRef<'_, f64>, name: &str) -> Result<Mat<f64>> {
    let d = sigma.nrows();
    let eigen = sigma.self_adjoint_eigen(Side::Lower).map_err(|_| {
        Error::new(format!("{name}: the covariance's eigenvalues do not converge; are the features huge?"))
    })?;
    let (vectors, values) = (eigen.U(), eigen.S().column_vector());
    let top = values.iter().copied().fold(0.0, f64::max);
    let kept: Vec<usize> = (0..d).filter(|&j| values[j] > top * f64::EPSILON * d as f64).collect();
    Ok(Mat::from_fn(d, kept.len(), |i, j| vectors[(i, kept[j])] * values[kept[j]].sqrt()))
}

fn same_width(a: &Gaussian, b: &Gaussian) -> Result<()> {
    let (wide_a, wide_b) = (a.mean.len(), b.mean.len());
    if wide_a == wide_b {
        return Ok(());
    }
    Err(Error::new(format!(
        "{} has {wide_a} features a picture and {} has {wide_b}; take both from one network",
        a.name, b.name
    )))
}
