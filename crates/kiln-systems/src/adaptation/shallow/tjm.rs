//! Long, Wang, Ding, Sun & Yu, *Transfer Joint Matching for Unsupervised Domain Adaptation*, 2014.
//!
//! Components of a kernel that bring the domains' means together and weigh the source's pictures: the norm that is
//! small where rows of A are zero, ‖A_s‖₂,₁ + ‖A_t‖², lets pictures of the source that are of no use to the target
//! vanish. In each iteration (K M K + λ G) a = φ K H K a is solved with G_ii = 1/(2‖a_i‖) on the source, 1 on the
//! target.

use faer::Mat;
use kiln_core::Result;

use super::domains::Domains;
use super::map::{Kernel, Map};
use super::mmd::discrepancy;
use super::space::Space;

/// A row of A that is shorter counts as this long.
const SHORTEST: f64 = 1e-10;

/// Settings with the paper's names.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// k: components.
    pub dimension: usize,
    /// λ: the weight of ‖A‖₂,₁.
    pub lambda: f64,
    /// How often pictures are weighed.
    pub iterations: usize,
    /// Whether components have unit variance, not unit length.
    pub whiten: bool,
}

/// The map after `iterations`.
///
/// # Errors
/// If the pictures span fewer dimensions.
pub fn transfer_joint_matching(domains: &Domains, kernel: Kernel, settings: &Settings) -> Result<Map> {
    let Settings { dimension, lambda, iterations, whiten } = *settings;
    let space = Space::new(domains, Some(kernel));
    let e = discrepancy(domains, None, false);
    let mut penalty = vec![lambda; space.width()];
    let mut a = Mat::zeros(0, 0);
    for _ in 0..iterations.max(1) {
        a = space.components(e.as_ref(), &penalty, dimension, whiten)?;
        for (i, penalty) in penalty.iter_mut().enumerate().take(domains.source.nrows()) {
            *penalty = lambda / (2.0 * a.row(i).norm_l2().max(SHORTEST));
        }
    }
    Ok(space.map(a))
}
