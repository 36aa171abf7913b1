//! Measuring a run while it trains.

use std::fmt;
use std::sync::Arc;

use kiln_core::Result;

use crate::Model;

/// A figure of a run at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// What was measured, with its network: `fid[classifier:fashion]`.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// Whether more of it is better.
    pub larger_is_better: bool,
}

impl Figure {
    /// Whether a recipe's `train.best` means this figure: by its whole name, or without the network.
    pub fn is(&self, name: &str) -> bool {
        let bare = self.name.split('[').next().unwrap_or_default();
        !name.is_empty() && (self.name == name || bare == name)
    }
}

/// Whoever knows how to measure. It gets a copy of the averaged networks and draws from keys of its
/// own, so that a run's bytes are the same with and without it.
pub trait Watch: Send + Sync {
    /// Checks `train.metrics` before the training begins.
    ///
    /// # Errors
    /// A usage error for a metric that does not exist.
    fn check(&self, metrics: &str) -> Result<()>;

    /// Measures `train.metrics` on `train.evaluate_count` samples.
    ///
    /// # Errors
    /// If the system cannot give them. The training goes on.
    fn measure(&self, model: &dyn Model) -> Result<Vec<Figure>>;
}

/// A shared [`Watch`].
#[derive(Clone)]
pub struct Watcher(pub Arc<dyn Watch>);

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watcher")
    }
}
