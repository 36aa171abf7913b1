//! Long, Wang, Ding, Sun & Yu, *Transfer Feature Learning with Joint Distribution Adaptation*, 2013.
//!
//! Transfer components ([`super::tca`]) that also bring the means of each class together: M = M₀ + Σ_c M_c. The
//! target's classes are those of the nearest source points, guessed anew in each iteration.

use kiln_core::Result;

use super::domains::Domains;
use super::map::{Kernel, Map, Of};
use super::mmd::discrepancy;
use super::space::Space;

/// Settings with the paper's names.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// k: components.
    pub dimension: usize,
    /// λ: the weight of ‖A‖².
    pub lambda: f64,
    /// T: how often classes are guessed.
    pub iterations: usize,
    /// Whether components have unit variance, not unit length.
    pub whiten: bool,
    /// Whether the target may lack classes.
    pub partial: bool,
}

/// The map after `iterations`; the first knows no guesses.
///
/// # Errors
/// If the pictures span fewer dimensions.
pub fn joint_distribution_adaptation(domains: &Domains, kernel: Option<Kernel>, settings: &Settings) -> Result<Map> {
    let space = Space::new(domains, kernel);
    let penalty = vec![settings.lambda; space.width()];
    let mut guesses: Option<Vec<usize>> = None;
    for iteration in 1.. {
        let e = discrepancy(domains, guesses.as_deref(), settings.partial);
        let a = space.components(e.as_ref(), &penalty, settings.dimension, settings.whiten)?;
        let [source, target] = [Of::Source, Of::Target].map(|of| space.points(&a, domains, of));
        let found = domains.guessed(source.as_ref(), target.as_ref());
        // The same guesses have the same components.
        if iteration >= settings.iterations || guesses.as_ref() == Some(&found) {
            return Ok(space.map(a));
        }
        guesses = Some(found);
    }
    unreachable!("the loop ends by returning")
}
