//! What systems share that translate both ways between two domains without pairs.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::{Error, Result, refuse_if};
use kiln_train::{Batch, DataConfig, Request, TrainConfig};

use crate::adversarial::objective::Objective;

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
        Ok(if goes_to_b(request, system)? { &self.g_ab } else { &self.g_ba })
    }

    /// The generator of the other direction, whose encoder knows the pictures that are translated.
    ///
    /// # Errors
    /// As [`Networks::along`].
    pub fn against(&self, request: &Request, system: &str) -> Result<&G> {
        Ok(if goes_to_b(request, system)? { &self.g_ba } else { &self.g_ab })
    }
}

/// Whether pictures of a are asked for as pictures of b, as they are unless something else is said.
///
/// # Errors
/// A usage error if the direction is neither `a2b` nor `b2a`.
pub fn goes_to_b(request: &Request, system: &str) -> Result<bool> {
    match request.condition.direction.as_deref().unwrap_or("a2b") {
        "a2b" => Ok(true),
        "b2a" => Ok(false),
        other => Err(Error::usage(format!("direction `{other}`: {system} has `a2b` and `b2a`"))),
    }
}

/// The first and the second half of a batch; of one picture both are that.
pub fn halves(x: Tensor<4>) -> [Tensor<4>; 2] {
    let n = x.dims()[0];
    let half = (n / 2).max(1);
    [x.clone().narrow(0, 0, half), x.narrow(0, n - half, half)]
}

/// What a generator minimises, added up over the scales of a discriminator's outputs for what it made. Least squares are without the
/// half of Mao 2017, as in the code of those who translate pictures.
pub fn fooling(objective: Objective, fake: Vec<Tensor<1>>) -> Tensor<1> {
    total(objective, fake.into_iter().map(|fake| objective.generator(fake)))
}

/// What such a discriminator minimises.
pub fn telling_apart(objective: Objective, real: Vec<Tensor<1>>, fake: Vec<Tensor<1>>) -> Tensor<1> {
    total(objective, real.into_iter().zip(fake).map(|(real, fake)| objective.discriminator(real, fake, 0.0)))
}

/// The sum over scales, of which there is at least one.
fn total(objective: Objective, terms: impl Iterator<Item = Tensor<1>>) -> Tensor<1> {
    let sum = terms.reduce(|sum, term| sum + term).unwrap_or_else(|| Tensor::zeros([1], &Default::default()));
    if objective == Objective::LeastSquares { sum * 2.0 } else { sum }
}

/// The directions that [`goes_to_b`] knows.
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
