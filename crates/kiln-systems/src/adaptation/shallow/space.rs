//! The space of TCA, JDA and TJM: components of the features or of a kernel, in which the domains' means are near and
//! all pictures spread. Features are brought to unit length first, and points in the end, as in the authors' code.
//!
//! The papers constrain components to unit variance, Aᵀ K H Kᵀ A = I. That makes those that hold little more than
//! noise count as much as the first. Columns of unit length, which the published code has from its eigenvalue routine,
//! keep what components are worth; `whiten` is the constraint.

use faer::{Mat, MatRef};
use kiln_core::{Result, refuse_if};

use super::algebra::{centred, leading_beside, unit_rows};
use super::domains::Domains;
use super::map::{Basis, Kernel, Map, Of, Side};

/// Both domains in the basis that components are found in.
pub struct Space {
    anchors: Mat<f64>,
    basis: Basis,
    /// A row a picture, the source's first: X, or K.
    phi: Mat<f64>,
    /// Φᵀ H Φ
    spread: Mat<f64>,
}

impl Space {
    /// With a kernel, or none for components of the features themselves (primal).
    pub fn new(domains: &Domains, kernel: Option<Kernel>) -> Self {
        let anchors = unit_rows(domains.all().as_ref());
        let (basis, phi) = match kernel {
            None => (Basis::Features, anchors.clone()),
            Some(kernel) => (Basis::Kernel(kernel), kernel.between(anchors.as_ref(), anchors.as_ref())),
        };
        let spread = centred(phi.as_ref());
        Self { spread: spread.transpose() * &spread, anchors, basis, phi }
    }

    /// Numbers of the basis.
    pub fn width(&self) -> usize {
        self.phi.ncols()
    }

    /// A of the `k` smallest φ with (Φᵀ M Φ + diag(penalty)) a = φ Φᵀ H Φ a; `e` has E Eᵀ = M. Columns have length 1,
    /// or, where `whiten`, aᵀ Φᵀ H Φ a = 1.
    ///
    /// # Errors
    /// If `k` components are more than the pictures span.
    pub fn components(&self, e: MatRef<'_, f64>, penalty: &[f64], k: usize, whiten: bool) -> Result<Mat<f64>> {
        let (n, p) = (self.phi.nrows(), self.width());
        refuse_if!(
            k > p || k >= n,
            "model.dimension = {k}: {n} pictures with {p} features span fewer; give more, or lower it"
        );
        // With D = diag(penalty), b = D^½ a and ν = 1/φ:  D^−½ Φᵀ H Φ D^−½ b = ν (I + W Wᵀ) b,  W = D^−½ Φᵀ E.
        let scale: Vec<f64> = penalty.iter().map(|penalty| penalty.sqrt().recip()).collect();
        let s = Mat::from_fn(p, p, |i, j| scale[i] * scale[j] * self.spread[(i, j)]);
        let w = self.phi.transpose() * e;
        let w = Mat::from_fn(p, w.ncols(), |i, j| scale[i] * w[(i, j)]);
        let (nu, b) = leading_beside(s.as_ref(), w.as_ref(), k)?;
        refuse_if!(
            nu[k - 1] <= 1e-12 * nu[0],
            "model.dimension = {k}: the pictures vary in fewer directions; lower it"
        );
        let a = Mat::from_fn(p, k, |i, j| scale[i] * b[(i, j)]);
        let sizes: Vec<f64> = (0..k).map(|j| if whiten { nu[j].sqrt() } else { a.col(j).norm_l2() }).collect();
        Ok(Mat::from_fn(p, k, |i, j| a[(i, j)] / sizes[j]))
    }

    /// The map that components make.
    pub fn map(self, a: Mat<f64>) -> Map {
        let side = Side::linear(self.basis, a);
        let anchors = matches!(self.basis, Basis::Kernel(_)).then_some(self.anchors);
        Map { unit_features: true, unit_points: true, anchors, source: side.clone(), target: side }
    }

    /// Points of both domains, of length 1.
    pub fn points(&self, a: &Mat<f64>, domains: &Domains, of: Of) -> Mat<f64> {
        let n_s = domains.source.nrows();
        let rows = match of {
            Of::Source => self.phi.subrows(0, n_s),
            Of::Target => self.phi.subrows(n_s, self.phi.nrows() - n_s),
        };
        unit_rows((rows * a).as_ref())
    }
}
