//! What systems share that translate both ways between two domains without pairs.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::{Error, Result, refuse_if};
use kiln_train::{Batch, DataConfig, Request, TrainConfig};

/// Two generators and two discriminators.
#[derive(Module, Debug)]
pub struct Networks<G: Module, D: Module> {
    /// From a to b.
    pub g_ab: G,
    /// From b to a.
    pub g_ba: G,
    /// Whether a picture is of a.
    pub d_a: D,
    /// Whether a picture is of b.
    pub d_b: D,
}

impl<G: Module, D: Module> Networks<G, D> {
    /// The generator of the direction that is asked for.
    ///
    /// # Errors
    /// A usage error if it is neither.
    pub fn along(&self, request: &Request, system: &str) -> Result<&G> {
        match request.condition.direction.as_deref().unwrap_or("a2b") {
            "a2b" => Ok(&self.g_ab),
            "b2a" => Ok(&self.g_ba),
            other => Err(Error::usage(format!("direction `{other}`: {system} has `a2b` and `b2a`"))),
        }
    }
}

/// The directions of [`Networks::along`].
pub const DIRECTIONS: [&str; 2] = ["a2b", "b2a"];

/// The pictures of both domains.
///
/// # Errors
/// A usage error if there are not two.
pub fn real(batch: &Batch, system: &str) -> Result<[Tensor<4>; 2]> {
    match batch.domains.as_slice() {
        [a, b] => Ok([a.images.clone(), b.images.clone()]),
        _ => Err(Error::usage(format!("{system} wants two sets, such as --data starter:noto,starter:twemoji"))),
    }
}

/// Checks weights of losses.
///
/// # Errors
/// A usage error naming the first that is below 0.
pub fn check_weights(weights: &[(&str, f64)]) -> Result<()> {
    for (name, weight) in weights {
        refuse_if!(!weight.is_finite() || *weight < 0.0, "model.{name} must be at least 0, not {weight}");
    }
    Ok(())
}

/// Two sets of small pictures, and a run of batches of so many.
pub fn defaults(batch: usize) -> (DataConfig, TrainConfig) {
    let data = DataConfig {
        set: "starter:noto,starter:twemoji".into(),
        size: 32.into(),
        channels: 3,
        ..DataConfig::default()
    };
    let train = TrainConfig {
        batch,
        images: 40_000,
        ema_half_life: 0.0,
        preview_every: 4_000,
        checkpoint_every: 10_000,
        ..TrainConfig::default()
    };
    (data, train)
}
