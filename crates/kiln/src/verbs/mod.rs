//! The verbs of the command line, one file each or one for a few similar ones.

pub mod attributes;
pub mod bench;
pub mod claim;
pub mod compare;
pub mod data;
pub mod directions;
pub mod embed;
pub mod evaluate;
pub mod export;
pub mod import;
pub mod inpaint;
pub mod latents;
pub mod mix;
pub mod outliers;
pub mod perceptual;
pub mod pictures;
pub mod project;
pub mod sample;
pub mod search;
pub mod stylize;
pub mod systems;
pub mod texts;
pub mod train;
pub mod translate;
pub mod traverse;

use std::path::Path;

use burn::tensor::{Device, Tensor};
use kiln_core::{Error, Result, output};
use kiln_systems::{find, registry};
use kiln_train::{Ability, Model, Request, Run, WeightSet, device};

/// Reads `--weights`.
pub fn weight_set(text: &str) -> std::result::Result<WeightSet, String> {
    match text {
        "ema" => Ok(WeightSet::Ema),
        "live" => Ok(WeightSet::Live),
        _ => Err("there are ema and live".into()),
    }
}

/// Refuses a file for a picture that cannot be written, or whose name promises another format.
pub fn check_png(path: &Path) -> Result<()> {
    if !path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("png")) {
        return Err(Error::usage(format!("{}: Kiln writes PNG; give a name that ends in .png", path.display())));
    }
    output::check(path)
}

/// Opens a run for use, on the device asked for.
pub fn open(root: &Path, weights: WeightSet, device_name: &str) -> Result<(Box<dyn Model>, Device)> {
    let device = device::by_name(device_name)?;
    let run = Run::open(root)?;
    let recipe = run.recipe()?;
    let id = recipe.get("system").and_then(|v| v.as_str()).unwrap_or_default();
    Ok((find(id)?.open(&run, weights, &device)?, device))
}

/// Latents of pictures, the first of which is the `first`-th, in the system's own way of encoding.
pub fn encode(model: &dyn Model, images: Tensor<4>, first: usize) -> Result<Tensor<2>> {
    let (first, n) = (first as u64, images.dims()[0] as u64);
    let request = Request::new(first..first + n, 0, &model.info().device);
    model.encode(images, &request)
}

/// Translations of pictures, the first of which is the `first`-th, along a direction, in the system's own way.
pub fn translate_along(model: &dyn Model, images: Tensor<4>, first: usize, direction: &str) -> Result<Tensor<4>> {
    let (first, n) = (first as u64, images.dims()[0] as u64);
    let request = Request::new(first..first + n, 0, &model.info().device);
    model.translate(images, &request.along(direction))
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
