//! Sun & Saenko, *Subspace Distribution Alignment for Unsupervised Domain Adaptation*, 2015.
//!
//! Subspace alignment makes the bases alike, not how the pictures spread along them. With E_s and E_t, the variances
//! of the domains along their principal directions, the source's map P_s T, T = P_sᵀ P_t, becomes P_s T A with A =
//! E_s^(−½) E_t^(½).

use faer::Mat;
use kiln_core::Result;

use super::algebra::principal;
use super::domains::Domains;
use super::map::{Map, Side};

/// The aligned distributions in subspaces of `k` dimensions.
///
/// # Errors
/// If a domain spans fewer.
pub fn subspace_distribution_alignment(domains: &Domains, k: usize) -> Result<Map> {
    let source = principal(domains.source.as_ref(), k, "source")?;
    let target = principal(domains.target.as_ref(), k, "target")?;
    let aligned = &source.basis * (source.basis.transpose() * &target.basis);
    let a: Vec<f64> = source.variances.iter().zip(&target.variances).map(|(s, t)| (t / s).sqrt()).collect();
    let aligned = Mat::from_fn(aligned.nrows(), k, |i, j| aligned[(i, j)] * a[j]);
    Ok(Map::of_features(Side::around(&source.mean, aligned), Side::around(&target.mean, target.basis)))
}
