//! Evaluation of a run during training.

use std::fmt;
use std::sync::Arc;

use kiln_core::Result;

use crate::Model;

/// The value of a metric at one moment of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// The metric with its feature network: `fid[classifier:fashion]`.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// Whether larger values are better.
    pub larger_is_better: bool,
}

impl Evaluation {
    /// Whether a recipe's `train.best` names this metric, with or without the feature network.
    pub fn is(&self, name: &str) -> bool {
        let bare = self.name.split('[').next().unwrap_or_default();
        !name.is_empty() && (self.name == name || bare == name)
    }
}

/// Evaluates a run during training. It gets a copy of the EMA networks and uses its own random keys, so
/// the run's bytes are the same with and without it.
pub trait Watch: Send + Sync {
    /// Checks `train.metrics` before the training begins.
    ///
    /// # Errors
    /// A usage error for a metric that does not exist.
    fn check(&self, metrics: &str) -> Result<()>;

    /// Computes `train.metrics` on `train.evaluate_count` samples.
    ///
    /// # Errors
    /// If the system cannot provide them. Training continues.
    fn measure(&self, model: &dyn Model) -> Result<Vec<Evaluation>>;
}

/// A shared [`Watch`].
#[derive(Clone)]
pub struct Watcher(pub Arc<dyn Watch>);

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watcher")
    }
}
