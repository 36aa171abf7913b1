//! The verbs of the command line, one file each or one for a few similar ones.

pub mod attributes;
pub mod bench;
pub mod claim;
pub mod compare;
pub mod data;
pub mod evaluate;
pub mod export;
pub mod import;
pub mod latents;
pub mod outliers;
pub mod pictures;
pub mod sample;
pub mod systems;
pub mod train;
pub mod traverse;

use std::path::Path;

use burn::tensor::Device;
use kiln_core::{Error, Result};
use kiln_systems::{find, registry};
use kiln_train::model::Weights;
use kiln_train::{Ability, Model, Run, device};

/// Opens a run for use, on the device asked for.
pub fn open(root: &Path, weights: Weights, device_name: &str) -> Result<(Box<dyn Model>, Device)> {
    let device = device::by_name(device_name)?;
    let run = Run::open(root)?;
    let recipe = run.recipe()?;
    let id = recipe.get("system").and_then(|v| v.as_str()).unwrap_or_default();
    Ok((find(id)?.open(&run, weights, &device)?, device))
}

/// Refuses a verb that a run's system cannot do, naming the systems that can.
pub fn need(model: &dyn Model, ability: Ability) -> Result<()> {
    if model.abilities().contains(&ability) {
        return Ok(());
    }
    let able: Vec<&str> =
        registry().iter().filter(|s| s.abilities().is_ok_and(|a| a.contains(&ability))).map(|s| s.id()).collect();
    Err(Error::usage(format!(
        "{}: {} cannot {}; these can: {}",
        model.info().run,
        model.info().system,
        ability.verb(),
        able.join(", ")
    )))
}
