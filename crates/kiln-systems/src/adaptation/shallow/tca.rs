//! Pan, Tsang, Kwok & Yang, *Domain Adaptation via Transfer Component Analysis*, 2011.
//!
//! Components W of a kernel K of all pictures that bring the domains' means together and keep the pictures' variance:
//!
//! min_W tr(Wᵀ K M K W) + λ tr(Wᵀ W), Wᵀ K H K W = I,
//!
//! M the matrix of the maximum mean discrepancy, H = I − 11ᵀ/n. They are the smallest φ of (K M K + λ I) w = φ K H K w.

use kiln_core::Result;

use super::domains::Domains;
use super::map::{Kernel, Map};
use super::mmd::discrepancy;
use super::space::Space;

/// `k` transfer components, of the features where there is no kernel.
///
/// # Errors
/// If the pictures span fewer.
pub fn transfer_components(
    domains: &Domains,
    kernel: Option<Kernel>,
    k: usize,
    lambda: f64,
    whiten: bool,
) -> Result<Map> {
    let space = Space::new(domains, kernel);
    let e = discrepancy(domains, None, false);
    let a = space.components(e.as_ref(), &vec![lambda; space.width()], k, whiten)?;
    Ok(space.map(a))
}
