//! What a run is made of: its settings and its data, as each checkpoint remembers them, and what has changed since.
//!
//! A run goes on bit for bit only with the settings and the pictures that it began with. A checkpoint holds the settings and a
//! digest of the data; `data.json` beside them lists every picture, so that a change can be named.

use std::sync::Arc;

use kiln_core::{Context, Error, Result, read_file};
use kiln_data::{Contents, Prepared};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::recipe::Recipe;
use crate::run::Run;

/// What a checkpoint came from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// The resolved recipe, but for settings that may change at any time, in TOML.
    recipe: String,
    /// The digest of each set of pictures.
    data: Vec<String>,
}

/// Settings that say when to look at a run and what to keep of it: they do not change what it learns.
pub const UNLEARNT: [&str; 9] = [
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "train.best",
    "train.evaluate_every",
    "train.metrics",
    "train.evaluate_count",
    "train.preview_every",
    "train.preview_count",
];

/// Others that may change at any time: where the data lies (its contents are compared), what the data says of itself, and
/// when the run ends.
const FREE: [&str; 5] = ["data.set", "data.classes", "data.tokenizer", "train.init_from", "train.stop_after"];

/// The list of the pictures of a run.
const LIST: &str = "data.json";

impl Origin {
    /// Of a run with this recipe and these data.
    ///
    /// # Errors
    /// If the recipe cannot be written as TOML.
    pub(crate) fn of<C: Serialize>(recipe: &Recipe<C>, streams: &[Arc<Prepared>]) -> Result<Self> {
        let mut recipe = Table::try_from(recipe).context(|| "recipe")?;
        for (table, key) in FREE.iter().chain(&UNLEARNT).filter_map(|full| full.split_once('.')) {
            if let Some(Value::Table(inside)) = recipe.get_mut(table) {
                inside.remove(key);
            }
        }
        let data = streams.iter().map(|stream| stream.contents().digest()).collect();
        Ok(Self { recipe: recipe.to_string(), data })
    }

    /// Checks that a run goes on with what it was made of.
    ///
    /// # Errors
    /// A usage error that says what has changed.
    pub(crate) fn check(&self, before: &Self, streams: &[Arc<Prepared>], set: &str, run: &Run) -> Result<()> {
        let mut changes = Vec::new();
        let table = |origin: &Self| origin.recipe.parse::<Table>().context(|| "the recipe of the checkpoint");
        differences(&table(before)?, &table(self)?, "", &mut changes);
        if self.data != before.data {
            changes.push(format!("{set}: {}", data_difference(streams, run)));
        }
        if changes.is_empty() {
            return Ok(());
        }
        let root = run.root().display();
        Err(Error::usage(format!(
            "{root}: not as the run began: {}; put it back, or go on knowingly with `kiln resume {root} --accept-changes`",
            changes.join("; ")
        )))
    }
}

/// Every setting that both have with another value.
fn differences(before: &Table, now: &Table, prefix: &str, found: &mut Vec<String>) {
    for (key, new) in now {
        // One that the older one lacks came with a newer version of Kiln.
        match (before.get(key), new) {
            (Some(Value::Table(old)), Value::Table(new)) => differences(old, new, &format!("{prefix}{key}."), found),
            (Some(old), new) if old != new => found.push(format!("{prefix}{key} was {old} and is {new}")),
            _ => {}
        }
    }
}

/// What differs between the data that the run has a list of and these.
fn data_difference(streams: &[Arc<Prepared>], run: &Run) -> String {
    let listed: Option<Vec<Contents>> =
        read_file(&run.root().join(LIST), u64::MAX).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let before = listed.unwrap_or_default();
    let differences: Vec<String> =
        streams.iter().zip(&before).filter_map(|(now, before)| now.contents().difference(before)).collect();
    match differences.is_empty() {
        true => "its pictures are others".into(),
        false => differences.join("; "),
    }
}

/// Writes the list of a run's pictures.
///
/// # Errors
/// If the disk is full or not writable.
pub(crate) fn keep_list(streams: &[Arc<Prepared>], run: &Run) -> Result<()> {
    let contents: Vec<&Contents> = streams.iter().map(|stream| stream.contents()).collect();
    run.write_json(LIST, &contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_the_setting_and_both_values() {
        let table = |text: &str| text.parse::<Table>().unwrap();
        let mut found = Vec::new();
        let before = table("seed = 1\n[model.optimizer]\nlearning_rate = 0.001\n[old]\na = 1");
        let now = table("seed = 1\nnew = 3\n[model.optimizer]\nlearning_rate = 1e6\nb = 2");
        differences(&before, &now, "", &mut found);
        assert_eq!(found, ["model.optimizer.learning_rate was 0.001 and is 1000000.0"]);
    }
}
