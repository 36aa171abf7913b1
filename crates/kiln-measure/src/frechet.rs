//! Fréchet distance between two sets of features taken as Gaussians.
//!
//! Heusel et al. 2017, *GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
//! Equilibrium*, eq. 6:
//!
//! d² = ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½)
//!
//! With Inception-v3 features and 50,000 images this is the FID. With any other network or number of images
//! it is a different metric, which its [`MetricValue`](crate::MetricValue) records.
//!
//! Does not see anything beyond mean and covariance, copies of training images, or what the network
//! ignores. Needs many more images than features (10,000 to 50,000 for 2,048): fewer bias it upwards by about
//! 1/n, so only values of equal n are comparable. For n ≤ d the covariance is singular and the value rough, though
//! still defined and computed exactly.
//!
//! Computation: each side gets a root S of its covariance, Σ = S Sᵀ. Then tr (Σ₁Σ₂)^½ is the sum of the
//! singular values of S₁ᵀS₂, which is real and not negative at any rank. With fewer images than features the
//! root is made of the images themselves (their contrasts, below), and all work is done in their span. With
//! more it is a Cholesky factor or, where that breaks down, an eigendecomposition without directions of zero
//! variance. No iterative matrix square root is used.

use std::ops::Range;

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatRef, Par, Side};
use kiln_core::{Error, Result};

use crate::Features;

/// Pictures that are turned to 64 bits at a time: bounds memory at `BLOCK` × d numbers beside the scatter.
const BLOCK: usize = 512;

/// Mean and covariance of features that arrive in batches.
///
/// A set may be split into any batches, and the results of several workers can be merged, without
/// cancellation errors from the difference of two large sums.
#[derive(Clone, Debug)]
pub struct Gaussian {
    name: String,
    n: usize,
    mean: Vec<f64>,
    /// Σ (x − mean)(x − mean)ᵀ, d × d; what lies above the diagonal is not used.
    scatter: Mat<f64>,
}

impl Gaussian {
    /// Without images yet; `name` is the set's name in errors, `d` the number of features.
    pub fn new(name: &str, d: usize) -> Self {
        Self { name: name.into(), n: 0, mean: vec![0.0; d], scatter: Mat::zeros(d, d) }
    }

    /// The mean and covariance of a whole set.
    pub fn of(features: Features<'_>) -> Result<Self> {
        let mut gaussian = Self::new(features.name(), features.d());
        gaussian.push(features)?;
        Ok(gaussian)
    }

    /// Adds the pictures of a batch; fails when they have another number of features.
    pub fn push(&mut self, batch: Features<'_>) -> Result<()> {
        same_width((&self.name, self.mean.len()), (batch.name(), batch.d()))?;
        for start in (0..batch.n()).step_by(BLOCK) {
            let block = start..(start + BLOCK).min(batch.n());
            let columns = contrasts(&mut self.n, &mut self.mean, batch, block);
            add_product(&mut self.scatter, columns.as_ref());
        }
        Ok(())
    }

    /// Adds the pictures another worker has seen (Chan, Golub & LeVeque 1979); fails when they have
    /// another number of features.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        same_width((&self.name, self.mean.len()), (&other.name, other.mean.len()))?;
        if other.n == 0 {
            return Ok(());
        }
        let (a, b) = (self.n as f64, other.n as f64);
        let delta: Vec<f64> = other.mean.iter().zip(&self.mean).map(|(o, m)| o - m).collect();
        for (j, &dj) in delta.iter().enumerate() {
            for (i, &di) in delta.iter().enumerate().skip(j) {
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

    /// The unbiased covariance (divisor n − 1, as `numpy.cov`), `[d, d]` row-major; needs two pictures.
    pub fn covariance(&self) -> Result<Vec<f64>> {
        enough(&self.name, self.n)?;
        let mut values = self.scatter();
        values.iter_mut().for_each(|v| *v /= (self.n - 1) as f64);
        Ok(values)
    }

    /// Σ (x − mean)(x − mean)ᵀ, `[d, d]` row-major: with [`n`](Self::n) and [`mean`](Self::mean) all
    /// there is to store of a reference set.
    pub fn scatter(&self) -> Vec<f64> {
        let d = self.mean.len();
        (0..d * d).map(|at| self.scatter[((at / d).max(at % d), (at / d).min(at % d))]).collect()
    }

    /// The Gaussian whose [`n`](Self::n), [`mean`](Self::mean) `[d]` and [`scatter`](Self::scatter)
    /// `[d, d]` were stored. (Of a stored covariance with divisor n − 1, the scatter is n − 1 times it.)
    ///
    /// Fails when the lengths do not fit, a value is not finite, or the scatter cannot be one: it is not
    /// symmetric, a diagonal value is negative, or a single picture has a spread.
    pub fn from_parts(name: &str, n: usize, mean: Vec<f64>, scatter: &[f64]) -> Result<Self> {
        let d = mean.len();
        let broken = |what: String| {
            Err(Error::new(format!("{name}: the stored statistics are broken: {what}; compute them again")))
        };
        if d == 0 || scatter.len() != d * d {
            return broken(format!("{} values are no {d}×{d} scatter", scatter.len()));
        }
        if mean.iter().chain(scatter).any(|v| !v.is_finite()) {
            return broken("a value is not finite".into());
        }
        if n < 2 && scatter.iter().any(|&v| v != 0.0) {
            return broken(format!("{n} pictures have no spread"));
        }
        if let Some(j) = (0..d).find(|j| scatter[j * (d + 1)] < 0.0) {
            return broken(format!("the spread of feature {j} is negative"));
        }
        let skew = |i: usize, j: usize| {
            let size = (scatter[i * (d + 1)] * scatter[j * (d + 1)]).sqrt();
            (scatter[i * d + j] - scatter[j * d + i]).abs() > 1e-6 * size
        };
        if let Some((i, j)) = (0..d).flat_map(|i| (0..i).map(move |j| (i, j))).find(|&(i, j)| skew(i, j)) {
            return broken(format!("the scatter of features {i} and {j} is not symmetric"));
        }
        Ok(Self { name: name.into(), n, mean, scatter: Mat::from_fn(d, d, |i, j| scatter[i * d + j]) })
    }
}

/// The contrasts of some rows with all before them: column k is √(k/(k+1)) (xₖ − mean of the k before).
///
/// Their outer products sum to the scatter about the mean of all (Welford 1962), so one pass suffices,
/// and k pictures have k − 1 of them that are not 0: as many as their scatter has rank. Moves the count
/// and the mean on.
fn contrasts(n: &mut usize, mean: &mut [f64], features: Features<'_>, rows: Range<usize>) -> Mat<f64> {
    let mut columns = Mat::zeros(features.d(), rows.len());
    for (i, column) in rows.zip(columns.col_iter_mut()) {
        let before = *n as f64;
        let (length, step) = ((before / (before + 1.0)).sqrt(), (before + 1.0).recip());
        for ((m, &x), c) in mean.iter_mut().zip(features.row(i)).zip(column.iter_mut()) {
            let apart = f64::from(x) - *m;
            *c = length * apart;
            *m += step * apart;
        }
        *n += 1;
    }
    columns
}

/// Adds X Xᵀ to the lower half of a matrix.
fn add_product(to: &mut Mat<f64>, x: MatRef<'_, f64>) {
    triangular::matmul(
        to.as_mut(),
        BlockStructure::TriangularLower,
        Accum::Add,
        x,
        BlockStructure::Rectangular,
        x.transpose(),
        BlockStructure::Rectangular,
        1.0,
        Par::rayon(0),
    );
}

/// The squared Fréchet distance d² of the two Gaussians: 0 when they are equal, never negative.
///
/// Relative error about 1e-8, or 1e-12 of the covariances' trace where d² is smaller than that. The same
/// bits at a given number of threads. Fails when a side has fewer than two pictures or the widths differ.
pub fn distance(a: &Gaussian, b: &Gaussian) -> Result<f64> {
    same_width((&a.name, a.mean.len()), (&b.name, b.mean.len()))?;
    apart(Rooted::gaussian(a)?, Rooted::gaussian(b)?)
}

/// The same distance between two sets of pictures, in the span of the pictures on a side that has no more
/// of them than features: exact there, in n d² steps and less, without a covariance.
pub fn between(a: Features<'_>, b: Features<'_>) -> Result<f64> {
    a.same_width(&b)?;
    apart(Rooted::features(a)?, Rooted::features(b)?)
}

/// The same distance of pictures to a reference of which only the Gaussian is kept.
pub fn to_reference(pictures: Features<'_>, reference: &Gaussian) -> Result<f64> {
    same_width((pictures.name(), pictures.d()), (&reference.name, reference.mean.len()))?;
    apart(Rooted::features(pictures)?, Rooted::gaussian(reference)?)
}

/// A side of the comparison: its mean, and its scatter as a root of as many columns as its rank.
struct Rooted {
    name: String,
    n: usize,
    mean: Vec<f64>,
    trace: f64,
    /// S with S Sᵀ the scatter, d × rank.
    root: Mat<f64>,
}

impl Rooted {
    fn features(features: Features<'_>) -> Result<Self> {
        enough(features.name(), features.n())?;
        if features.n() > features.d() {
            return Self::gaussian(&Gaussian::of(features)?);
        }
        let (mut n, mut mean) = (0, vec![0.0; features.d()]);
        let first = contrasts(&mut n, &mut mean, features, 0..1);
        debug_assert!(first.squared_norm_l2() == 0.0, "one picture has no spread");
        let root = contrasts(&mut n, &mut mean, features, 1..features.n());
        Ok(Self { name: features.name().into(), n, mean, trace: root.squared_norm_l2(), root })
    }

    fn gaussian(gaussian: &Gaussian) -> Result<Self> {
        enough(&gaussian.name, gaussian.n)?;
        Ok(Self {
            name: gaussian.name.clone(),
            n: gaussian.n,
            mean: gaussian.mean.clone(),
            trace: (0..gaussian.mean.len()).map(|i| gaussian.scatter[(i, i)]).sum(),
            root: root(&gaussian.scatter, &gaussian.name)?,
        })
    }
}

/// d² of two sides of one width.
fn apart(a: Rooted, b: Rooted) -> Result<f64> {
    let shift: f64 = a.mean.iter().zip(&b.mean).map(|(x, y)| (x - y).powi(2)).sum();
    let (free_a, free_b) = ((a.n - 1) as f64, (b.n - 1) as f64);
    let spread = a.trace / free_a + b.trace / free_b;
    let scale = 2.0 / (free_a * free_b).sqrt();
    let mut product = Mat::zeros(a.root.ncols(), b.root.ncols());
    matmul(product.as_mut(), Accum::Replace, a.root.transpose(), b.root.as_ref(), 1.0, Par::rayon(0));
    let names = format!("{} and {}", a.name, b.name);
    drop((a, b)); // the roots are as large as all that follows

    if let Some((sum, error)) = sum_by_squares(&product) {
        let d2 = shift + spread - scale * sum;
        if scale * error <= 1e-8 * d2 {
            return Ok(d2);
        }
    }
    let values = product
        .singular_values()
        .map_err(|_| Error::new(format!("{names}: the singular values do not converge; are the features huge?")))?;
    Ok((shift + spread - scale * values.iter().sum::<f64>()).max(0.0))
}

/// The sum of the singular values of P as roots of the eigenvalues of P Pᵀ, with an estimate of its error.
///
/// A third of the work of the singular values themselves, and half the memory. But squaring loses the
/// small ones: an eigenvalue is known to about ε λ_max, its root to that over 2√λ. Rounding acts as a
/// symmetric matrix E of entries within ε λ_max, which moves the sum by ½ tr(G^−½ E) to first order; with
/// independent entries that is ½ ε λ_max (Σ 1/λ)^½, of which ten times is given. That is an estimate, not
/// a bound. None where P is so small that nothing is to be gained, or so near to singular that first order
/// says nothing.
fn sum_by_squares(p: &Mat<f64>) -> Option<(f64, f64)> {
    let p = if p.nrows() <= p.ncols() { p.as_ref() } else { p.transpose() };
    if p.nrows() < 128 {
        return None;
    }
    let mut squares = Mat::zeros(p.nrows(), p.nrows());
    add_product(&mut squares, p);
    let values = squares.self_adjoint_eigenvalues(Side::Lower).ok()?;
    let (least, most) = (*values.first()?, *values.last()?);
    let rounding = f64::EPSILON * most;
    if least <= 100.0 * rounding * (p.nrows() as f64).sqrt() {
        return None;
    }
    let sum = values.iter().map(|v| v.sqrt()).sum();
    Some((sum, 5.0 * rounding * values.iter().map(|v| v.recip()).sum::<f64>().sqrt()))
}

/// S with S Sᵀ the scatter, of which the lower half is given: its Cholesky factor, or else a column for
/// each eigenvalue above rounding.
fn root(scatter: &Mat<f64>, name: &str) -> Result<Mat<f64>> {
    // Features that never change are common behind a ReLU, and would alone make the matrix singular.
    let live: Vec<usize> = (0..scatter.nrows()).filter(|&j| scatter[(j, j)] > 0.0).collect();
    let lower = || Mat::from_fn(live.len(), live.len(), |i, j| if i >= j { scatter[(live[i], live[j])] } else { 0.0 });
    let root = match cholesky(lower()) {
        Some(root) => root,
        None => eigen_root(&lower(), name)?,
    };
    if live.len() == scatter.nrows() {
        return Ok(root);
    }
    let mut whole = Mat::zeros(scatter.nrows(), root.ncols());
    for (i, &at) in live.iter().enumerate() {
        whole.row_mut(at).copy_from(root.row(i));
    }
    Ok(whole)
}

/// The factor L of L Lᵀ, or none when the matrix is singular to rounding: a feature's variance given those
/// before it is a difference that holds nothing when it is within 1e-8 of the variance itself.
fn cholesky(mut matrix: Mat<f64>) -> Option<Mat<f64>> {
    let d = matrix.nrows();
    let variances: Vec<f64> = (0..d).map(|j| matrix[(j, j)]).collect();
    let par = Par::rayon(0);
    let mut memory = MemBuffer::try_new(cholesky_in_place_scratch::<f64>(d, par, Default::default())).ok()?;
    let stack = MemStack::new(&mut memory);
    cholesky_in_place(matrix.as_mut(), Default::default(), par, stack, Default::default()).ok()?;
    for j in 0..d {
        matrix.col_mut(j).subrows_mut(0, j).fill(0.0);
    }
    (0..d).all(|j| matrix[(j, j)].powi(2) > 1e-8 * variances[j]).then_some(matrix)
}

fn eigen_root(matrix: &Mat<f64>, name: &str) -> Result<Mat<f64>> {
    let d = matrix.nrows();
    let eigen = matrix.self_adjoint_eigen(Side::Lower).map_err(|_| {
        Error::new(format!("{name}: the covariance's eigenvalues do not converge; are the features huge?"))
    })?;
    let (vectors, values) = (eigen.U(), eigen.S().column_vector());
    let top = values.iter().copied().fold(0.0, f64::max);
    let kept: Vec<usize> = (0..d).filter(|&j| values[j] > top * f64::EPSILON * d as f64).collect();
    Ok(Mat::from_fn(d, kept.len(), |i, j| vectors[(i, kept[j])] * values[kept[j]].sqrt()))
}

fn enough(name: &str, n: usize) -> Result<()> {
    if n >= 2 {
        return Ok(());
    }
    Err(Error::new(format!(
        "{name}: {n} pictures have no covariance; measure at least 2 (thousands for a figure to trust)"
    )))
}

fn same_width(a: (&str, usize), b: (&str, usize)) -> Result<()> {
    if a.1 == b.1 {
        return Ok(());
    }
    Err(Error::new(format!(
        "{} has {} features a picture and {} has {}; take both from one network",
        a.0, a.1, b.0, b.1
    )))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use kiln_core::random::Key;

    /// A d × d matrix whose row i shrinks to 10^(−`decades` i / d).
    fn graded(purpose: &str, d: usize, decades: f64) -> Mat<f64> {
        let values = Key::new(3).purpose(purpose).normal(0..d as u64, d);
        Mat::from_fn(d, d, |i, j| f64::from(values[i * d + j]) * 10f64.powf(-decades * i as f64 / d as f64))
    }

    #[test]
    fn the_quick_sum_is_as_near_as_it_says() {
        for decades in [0.0, 2.0, 4.0] {
            let p = graded("p", 200, decades);
            let (sum, error) = sum_by_squares(&p).unwrap();
            let exact: f64 = p.singular_values().unwrap().iter().sum();
            assert!((sum - exact).abs() <= error + 1e-13 * exact, "{decades}: {sum} {exact} ± {error}");
        }
        // Where squares say nothing, nothing is said.
        assert!(sum_by_squares(&graded("p", 200, 9.0)).is_none());
        assert!(sum_by_squares(&Mat::zeros(200, 200)).is_none());
    }

    #[test]
    fn a_root_times_itself_is_the_scatter() {
        for (d, rank) in [(40, 40), (40, 11)] {
            let mut x = graded("x", d, 1.0);
            x.row_mut(5).fill(0.0);
            let mut scatter = Mat::zeros(d, d);
            add_product(&mut scatter, x.subcols(0, rank));
            let root = root(&scatter, "set").unwrap();
            assert!(root.ncols() <= rank);
            let mut again = Mat::zeros(d, d);
            add_product(&mut again, root.as_ref());
            let off = (&again - &scatter).norm_max();
            assert!(off < 1e-12 * scatter.norm_max(), "{off}");
        }
    }
}
