//! Linear algebra that the methods share: rows of unit length, principal subspaces, and generalised eigenproblems of
//! symmetric matrices. A row of a matrix is a picture.

use faer::{Mat, MatRef, Par, Side};
use kiln_core::random::Key;
use kiln_core::{Context, Error, Result, refuse_if};

/// Matrices of this order or less are decomposed whole.
const SMALL: usize = 128;
/// Vectors that are sought beside those asked for, of larger matrices.
const EXTRA: usize = 8;
/// How far S v may be from λ v, in units of the largest eigenvalue.
const CONVERGED: f64 = 1e-12;

/// What `work` gives on one thread: sums are then taken in one order, and a seed has the same bits whatever
/// `--threads` says.
///
/// # Errors
/// If the system has no thread left.
pub fn in_order<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    pool.context(|| "starting a thread")?.install(work)
}

/// Each row divided by its length; a row of zeros stays.
pub fn unit_rows(x: MatRef<'_, f64>) -> Mat<f64> {
    let lengths: Vec<f64> = (0..x.nrows()).map(|i| x.row(i).norm_l2()).collect();
    Mat::from_fn(x.nrows(), x.ncols(), |i, j| if lengths[i] > 0.0 { x[(i, j)] / lengths[i] } else { 0.0 })
}

/// The mean row.
pub fn mean(x: MatRef<'_, f64>) -> Vec<f64> {
    let n = x.nrows() as f64;
    (0..x.ncols()).map(|j| x.col(j).sum() / n).collect()
}

/// Each row less the mean row: H·X with the centring matrix H = I − 11ᵀ/n.
pub fn centred(x: MatRef<'_, f64>) -> Mat<f64> {
    let mean = mean(x);
    Mat::from_fn(x.nrows(), x.ncols(), |i, j| x[(i, j)] - mean[j])
}

/// One matrix above the other.
pub fn stacked(above: MatRef<'_, f64>, below: MatRef<'_, f64>) -> Mat<f64> {
    let n = above.nrows();
    Mat::from_fn(n + below.nrows(), above.ncols(), |i, j| if i < n { above[(i, j)] } else { below[(i - n, j)] })
}

/// ‖aᵢ − bⱼ‖² of all rows.
pub fn squared_distances(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let squares = |x: MatRef<'_, f64>| (0..x.nrows()).map(|i| x.row(i).squared_norm_l2()).collect::<Vec<_>>();
    let (of_a, of_b) = (squares(a), squares(b));
    let products = a * b.transpose();
    Mat::from_fn(a.nrows(), b.nrows(), |i, j| (of_a[i] + of_b[j] - 2.0 * products[(i, j)]).max(0.0))
}

/// The row of `among` nearest to each row of `x`, of equally near ones the first.
pub fn nearest(x: MatRef<'_, f64>, among: MatRef<'_, f64>) -> Vec<usize> {
    let distances = squared_distances(x, among);
    let best = |i: usize| {
        let each = (0..among.nrows()).map(|j| distances[(i, j)]);
        each.enumerate().fold((0, f64::INFINITY), |best, (j, d)| if d < best.1 { (j, d) } else { best }).0
    };
    (0..x.nrows()).map(best).collect()
}

/// The directions in which the rows of a domain vary most.
pub struct Subspace {
    /// The mean row.
    pub mean: Vec<f64>,
    /// A column each, orthonormal, the one of most variance first.
    pub basis: Mat<f64>,
    /// The variance along each, unbiased.
    pub variances: Vec<f64>,
}

/// The first `k` principal components of a domain.
///
/// # Errors
/// If there are fewer rows than that takes, or features.
pub fn principal(x: MatRef<'_, f64>, k: usize, domain: &str) -> Result<Subspace> {
    let (n, d) = (x.nrows(), x.ncols());
    refuse_if!(
        k > d || k >= n,
        "model.dimension = {k}: {n} pictures of the {domain} with {d} features span fewer; give more, or lower it"
    );
    let (mean, x) = (mean(x), centred(x));
    let scatter = x.transpose() * &x * faer::Scale(1.0 / (n as f64 - 1.0));
    let (variances, basis) = largest(scatter.as_ref(), k)?;
    let lowest = variances.last().copied().unwrap_or(0.0);
    refuse_if!(
        lowest <= 1e-12 * variances[0],
        "model.dimension = {k}: the pictures of the {domain} vary in fewer directions; lower it"
    );
    Ok(Subspace { mean, basis, variances })
}

/// The `k` largest eigenvalues of a symmetric matrix, the largest first, and their eigenvectors: columns of length 1
/// whose largest number is positive.
///
/// # Errors
/// If the decomposition does not converge, as with numbers that are not finite.
pub fn largest(s: MatRef<'_, f64>, k: usize) -> Result<(Vec<f64>, Mat<f64>)> {
    let n = s.nrows();
    let k = k.min(n);
    let few = (n > SMALL && 8 * (k + EXTRA) < n).then(|| krylov(s, k)).flatten();
    let (values, vectors) = match few {
        Some(found) => found,
        None => {
            let eigen = s.self_adjoint_eigen(Side::Lower).map_err(|_| Error::new(NO_EIGENVECTORS))?;
            let (vectors, values) = (eigen.U(), eigen.S().column_vector());
            // The smallest comes first.
            let at = |j: usize| n - 1 - j;
            ((0..k).map(|j| values[at(j)]).collect(), Mat::from_fn(n, k, |i, j| vectors[(i, at(j))]))
        }
    };
    let signs: Vec<f64> = (0..k)
        .map(|j| (0..n).map(|i| vectors[(i, j)]).fold(0.0f64, |most, v| if v.abs() > most.abs() { v } else { most }))
        .map(f64::signum)
        .collect();
    Ok((values, Mat::from_fn(n, k, |i, j| signs[j] * vectors[(i, j)])))
}

const NO_EIGENVECTORS: &str = "the eigenvectors of the domains' statistics do not converge; are all features finite?";

/// The same of a positive semidefinite matrix by a block Krylov subspace span{X, S X, S² X, …}, orthonormal
/// throughout, from a random X; `None` if half of all directions do not hold the eigenvectors.
fn krylov(s: MatRef<'_, f64>, k: usize) -> Option<(Vec<f64>, Mat<f64>)> {
    let (n, width) = (s.nrows(), k + EXTRA);
    let start = Key::new(0).purpose("krylov").uniform(0..1, n * width);
    let mut block = Mat::from_fn(n, width, |i, j| f64::from(start[i * width + j]) - 0.5);
    let (mut basis, mut image) = (Mat::<f64>::zeros(n, 0), Mat::<f64>::zeros(n, 0));
    while 2 * (basis.ncols() + width) <= n {
        // Twice is enough (Kahan; Parlett 1998, §6.9).
        for _ in 0..2 {
            block -= &basis * (basis.transpose() * &block);
            block = block.qr().compute_thin_Q();
        }
        let next = s * &block;
        (basis, image) = (beside(&basis, &block), beside(&image, &next));
        block = next;
        // Rayleigh & Ritz: the best eigenvectors that the subspace holds.
        let inside = basis.transpose() * &image;
        let m = inside.nrows();
        let eigen = inside.self_adjoint_eigen(Side::Lower).ok()?;
        let turn = Mat::from_fn(m, k, |i, j| eigen.U()[(i, m - 1 - j)]);
        let values: Vec<f64> = (0..k).map(|j| eigen.S().column_vector()[m - 1 - j]).collect();
        let (vectors, images) = (&basis * &turn, &image * &turn);
        let off = Mat::from_fn(n, k, |i, j| images[(i, j)] - values[j] * vectors[(i, j)]);
        if (0..k).all(|j| off.col(j).norm_l2() <= CONVERGED * values[0]) {
            return Some((values, vectors));
        }
    }
    None
}

/// One matrix to the right of the other.
fn beside(left: &Mat<f64>, right: &Mat<f64>) -> Mat<f64> {
    let n = left.ncols();
    Mat::from_fn(right.nrows(), n + right.ncols(), |i, j| if j < n { left[(i, j)] } else { right[(i, j - n)] })
}

/// The `k` largest ν with S v = ν B v, and v with vᵀBv = 1, for a positive definite B.
///
/// # Errors
/// If B is not positive definite.
pub fn leading(s: MatRef<'_, f64>, b: MatRef<'_, f64>, k: usize) -> Result<(Vec<f64>, Mat<f64>)> {
    let root = Root::of(b)?;
    let (values, vectors) = largest(root.reduced(s).as_ref(), k)?;
    Ok((values, root.back(vectors)))
}

/// The Cholesky factor of a positive definite B = LLᵀ, which turns S v = ν B v into L⁻¹S L⁻ᵀ y = ν y.
pub struct Root {
    l: Mat<f64>,
}

impl Root {
    /// # Errors
    /// If B is not positive definite.
    pub fn of(b: MatRef<'_, f64>) -> Result<Self> {
        let found = b.llt(Side::Lower).map_err(|_| {
            Error::new(
                "the domains' statistics are singular; raise the regularisation (model.lambda, model.alpha, model.mu)",
            )
        })?;
        Ok(Self { l: found.L().to_owned() })
    }

    /// L⁻¹ X.
    pub fn solved(&self, x: MatRef<'_, f64>) -> Mat<f64> {
        let mut x = x.to_owned();
        faer::linalg::triangular_solve::solve_lower_triangular_in_place(self.l.as_ref(), x.as_mut(), Par::rayon(0));
        x
    }

    /// L⁻¹ S L⁻ᵀ.
    pub fn reduced(&self, s: MatRef<'_, f64>) -> Mat<f64> {
        self.solved(self.solved(s).transpose())
    }

    /// L⁻ᵀ Y: what eigenvectors of the reduced problem are of the one before.
    pub fn back(&self, mut y: Mat<f64>) -> Mat<f64> {
        faer::linalg::triangular_solve::solve_upper_triangular_in_place(self.l.transpose(), y.as_mut(), Par::rayon(0));
        y
    }
}

/// The `k` largest ν with S v = ν (I + W Wᵀ) v, and v with vᵀ(I + W Wᵀ)v = 1, for a W of few columns: with
/// W Wᵀ = Q Λ Qᵀ the root is (I + W Wᵀ)^(−½) = I + Q ((I + Λ)^(−½) − I) Qᵀ.
///
/// # Errors
/// As [`largest`].
pub fn leading_beside(s: MatRef<'_, f64>, w: MatRef<'_, f64>, k: usize) -> Result<(Vec<f64>, Mat<f64>)> {
    let (squares, turns) = largest((w.transpose() * w).as_ref(), w.ncols())?;
    let kept = squares.iter().filter(|square| **square > 1e-14 * squares[0]).count();
    let q = w * Mat::from_fn(w.ncols(), kept, |i, j| turns[(i, j)] / squares[j].sqrt());
    let less: Vec<f64> = squares[..kept].iter().map(|square| (1.0 + square).sqrt().recip() - 1.0).collect();
    let scaled = Mat::from_fn(q.nrows(), kept, |i, j| q[(i, j)] * less[j]);
    // R S R = (S + Q c Qᵀ S) R
    let half = s + &scaled * (q.transpose() * s);
    let whole = &half + (&half * &q) * scaled.transpose();
    let symmetric = Mat::from_fn(s.nrows(), s.ncols(), |i, j| 0.5 * (whole[(i, j)] + whole[(j, i)]));
    let (values, vectors) = largest(symmetric.as_ref(), k)?;
    Ok((values, &vectors + &scaled * (q.transpose() * &vectors)))
}
