//! Systems without their types: the rows of a registry.

use std::marker::PhantomData;
use std::path::Path;

use burn::tensor::Device;
use kiln_core::{Context, Error, Result};
use kiln_data::DataKind;
use kiln_nn::Init;
use toml::Table;

use crate::ability::Ability;
use crate::checkpoint::{self, WeightSet};
use crate::memory;
use crate::model::{Info, Loaded, Model};
use crate::params;
use crate::recipe::{self, Recipe};
use crate::run::{Run, TOKENIZER};
use crate::session::Options;
use crate::sizes::SizeRule;
use crate::system::{Pictures, System};
use crate::trainer::{self, Summary};
use crate::trial::{self, Trial};

/// A row of the registry.
pub trait AnySystem: Send + Sync {
    /// Its name on the command line.
    fn id(&self) -> &'static str;
    /// Authors, title, year.
    fn paper(&self) -> &'static str;
    /// The data it trains on.
    fn data_kind(&self) -> DataKind;
    /// The sizes of pictures it takes with its default settings.
    fn sizes(&self) -> SizeRule;
    /// What it can do.
    ///
    /// # Errors
    /// If its default settings are not valid, which its tests rule out.
    fn abilities(&self) -> Result<Vec<Ability>>;
    /// Its default recipe.
    ///
    /// # Errors
    /// If the defaults cannot be written as TOML, which its tests rule out.
    fn defaults(&self) -> Result<Table>;
    /// The recipe that goes on from another run of the system with other data or settings: the defaults with its
    /// `[model]` table and the size of its pictures, starting from its networks.
    ///
    /// # Errors
    /// If the run is of another system, or its recipe cannot be read.
    fn defaults_from(&self, run: &Run) -> Result<Table>;
    /// Checks a recipe and its data without training; returns the resolved recipe.
    ///
    /// # Errors
    /// As training would before its first step.
    fn check(&self, recipe: Table) -> Result<Table>;
    /// Trains from the start.
    ///
    /// # Errors
    /// See [`trainer::start`].
    fn train(&self, recipe: Table, root: &Path, options: &Options) -> Result<Summary>;
    /// Goes on with a run.
    ///
    /// # Errors
    /// See [`trainer::resume`].
    fn resume(&self, run: &Run, options: &Options) -> Result<Summary>;
    /// Trains on made-up pictures, without data and without a run: what benchmarks time. The recipe says the shape of
    /// the pictures, `data.shape`, and their classes.
    ///
    /// # Errors
    /// If the settings do not fit the shape, or the data cannot be made up.
    fn trial(&self, recipe: Table, device: &Device) -> Result<Box<dyn Trial>>;
    /// Loads a run's newest checkpoint for use.
    ///
    /// # Errors
    /// If there is none, or it does not fit the recipe.
    fn open(&self, run: &Run, weights: WeightSet, device: &Device) -> Result<Box<dyn Model>>;
}

/// The registry row of a system.
pub fn entry<S: System>() -> Box<dyn AnySystem> {
    Box::new(Entry::<S>(PhantomData))
}

struct Entry<S>(PhantomData<fn() -> S>);

impl<S: System> AnySystem for Entry<S> {
    fn id(&self) -> &'static str {
        S::ID
    }

    fn paper(&self) -> &'static str {
        S::PAPER
    }

    fn data_kind(&self) -> DataKind {
        S::DATA
    }

    fn sizes(&self) -> SizeRule {
        S::sizes(&S::Config::default())
    }

    fn abilities(&self) -> Result<Vec<Ability>> {
        let (data, _) = S::defaults();
        // Where none is said, a size that every network can halve as often as it likes.
        let [height, width] = data.size.or([64; 2]);
        let classes = (0..10).map(|c| c.to_string()).collect();
        let palette = vec![[0; 3], [255; 3]];
        let plain = Pictures::new([data.channels.max(1), height, width], classes);
        let pictures = Pictures { mask_classes: palette.len(), palette, ..plain };
        Ok(S::new(S::Config::default(), &pictures)?.abilities().list())
    }

    fn defaults(&self) -> Result<Table> {
        recipe::defaults::<S>()
    }

    fn defaults_from(&self, run: &Run) -> Result<Table> {
        run.check_system(S::ID)?;
        let theirs = run.recipe_of::<S>()?;
        let place = run.recipe_path().display().to_string();
        let mut recipe = recipe::typed::<S>(recipe::defaults::<S>()?, &place)?;
        let [channels, height, width] = theirs.data.shape;
        (recipe.data.size, recipe.data.channels) = ([height, width].into(), channels);
        // What captions and masks mean is the networks'.
        if theirs.data.vocabulary > 0 {
            recipe.data.tokenizer = run.root().join(TOKENIZER).display().to_string();
        }
        (recipe.data.caption_length, recipe.data.mask_values) = (theirs.data.caption_length, theirs.data.mask_values);
        recipe.data.palette = theirs.data.palette;
        recipe.train.init_from = run.root().display().to_string();
        recipe.model = theirs.model;
        Table::try_from(recipe).context(|| place)
    }

    fn check(&self, table: Table) -> Result<Table> {
        let mut recipe = new_recipe::<S>(table)?;
        trainer::ready::<S>(&mut recipe, &Device::default())?;
        Table::try_from(recipe).map_err(|e| Error::new(format!("recipe: {e}")))
    }

    fn train(&self, table: Table, root: &Path, options: &Options) -> Result<Summary> {
        trainer::start::<S>(new_recipe::<S>(table)?, root, options)
    }

    fn resume(&self, run: &Run, options: &Options) -> Result<Summary> {
        trainer::resume::<S>(run.recipe_of::<S>()?, run, options)
    }

    fn trial(&self, recipe: Table, device: &Device) -> Result<Box<dyn Trial>> {
        trial::trial::<S>(recipe::typed::<S>(recipe, "recipe")?, device)
    }

    fn open(&self, run: &Run, weights: WeightSet, device: &Device) -> Result<Box<dyn Model>> {
        let recipe = run.recipe_of::<S>()?;
        let mut saved = run.newest_checkpoint()?;
        let info = Info::of::<S>(&recipe, run.root(), &saved.counters, device);
        let mut system = S::new(recipe.model.clone(), &info.pictures)?;
        memory::check(&system, memory::OPENING)?;
        let fresh = system.networks(&mut Init::new(device, recipe.seed));
        let folder = checkpoint::path(&run.checkpoints(), saved.counters.images);
        let networks = params::load(fresh, &saved.take_weights(weights), &folder.display().to_string())?;
        system.restore(saved.system);
        Ok(Box::new(Loaded { system, networks, info }))
    }
}

/// The recipe of a new run, whose pictures have their own shape, whatever run the recipe is from.
fn new_recipe<S: System>(table: Table) -> Result<Recipe<S::Config>> {
    let mut recipe = recipe::typed::<S>(table, "recipe")?;
    recipe.data.shape = [0; 3];
    Ok(recipe)
}
