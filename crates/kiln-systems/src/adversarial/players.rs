//! The two players of a game: the phases of a step, and checks of their settings.

use kiln_core::{Error, Result};
use kiln_train::{OptimizerConfig, Phase, PhaseLoss, System};

/// The two phases of a step of networks named `discriminator` and `generator`, D's `discriminator_steps` times as often as G's.
pub fn phases<S: System>(
    [discriminator, generator]: [&OptimizerConfig; 2],
    discriminator_steps: u64,
    discriminator_loss: PhaseLoss<S>,
    generator_loss: PhaseLoss<S>,
) -> Vec<Phase<S>> {
    vec![
        Phase::new("discriminator", &["discriminator"], discriminator.clone(), discriminator_loss),
        Phase::new("generator", &["generator"], generator.clone(), generator_loss).every(discriminator_steps),
    ]
}

/// Checks settings of `[model]` that count something.
///
/// # Errors
/// A usage error naming the first that is 0.
pub fn check_positive(settings: &[(&str, usize)]) -> Result<()> {
    match settings.iter().find(|(_, value)| *value == 0) {
        None => Ok(()),
        Some((name, _)) => Err(Error::usage(format!("model.{name} must be at least 1"))),
    }
}
