//! How networks that others have trained become a run.

use std::path::Path;

use kiln_core::{Context, Result};
use kiln_train::checkpoint::{Checkpoint, Counters};
use kiln_train::{DataConfig, Recipe, Run, State, System, recipe};
use toml::Table;

/// The recipe of networks with these settings, on pictures of this shape and these classes, with changes, each with the place it
/// comes from. It names no data set.
///
/// # Errors
/// Names a change that does not fit.
pub fn recipe_of<S: System>(
    model: S::Config,
    shape: [usize; 3],
    classes: Vec<String>,
    changes: &[(Table, String)],
) -> Result<Recipe<S::Config>> {
    let (_, train) = S::defaults();
    let [channels, height, width] = shape;
    let size = [height, width].into();
    let data = DataConfig { set: String::new(), size, channels, shape, classes, ..DataConfig::default() };
    let recipe = Recipe { system: S::ID.to_string(), seed: 0, data, train, model };
    let mut table = Table::try_from(recipe).context(|| "recipe")?;
    for (changes, place) in changes {
        recipe::lay_over(&mut table, changes, place)?;
    }
    recipe::typed::<S>(table, "recipe")
}

/// Writes a new run of networks that have seen nothing here.
///
/// # Errors
/// If the folder is a run already, or cannot be written.
pub fn write<S: System>(root: &Path, recipe: &Recipe<S::Config>, network: State) -> Result<()> {
    let run = Run::create(root)?;
    let _lock = run.lock()?;
    let counters = Counters { kiln: env!("CARGO_PKG_VERSION").into(), ..Counters::default() };
    Checkpoint { counters, network, ..Checkpoint::default() }.save(&run.checkpoints())?;
    // Last: a folder without a recipe is no run.
    run.write_recipe(recipe)
}
