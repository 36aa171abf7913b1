//! Fernando, Habrard, Sebban & Tuytelaars, *Unsupervised Visual Domain Adaptation Using Subspace Alignment*, 2013.
//!
//! The principal subspaces of both domains, P_s and P_t, and the matrix that turns the source's basis into the
//! target's: the least ‖P_s M − P_t‖ is at M = P_sᵀ P_t. So source pictures are at (x − x̄_s) P_s P_sᵀ P_t, target
//! pictures at (x − x̄_t) P_t.

use kiln_core::Result;

use super::algebra::principal;
use super::domains::Domains;
use super::map::{Map, Side};

/// The aligned subspaces of `k` dimensions.
///
/// # Errors
/// If a domain spans fewer.
pub fn subspace_alignment(domains: &Domains, k: usize) -> Result<Map> {
    let source = principal(domains.source.as_ref(), k, "source")?;
    let target = principal(domains.target.as_ref(), k, "target")?;
    let aligned = &source.basis * (source.basis.transpose() * &target.basis);
    Ok(Map::of_features(Side::around(&source.mean, aligned), Side::around(&target.mean, target.basis)))
}
