//! Systems and trained runs without their types, for the verbs.

use std::marker::PhantomData;
use std::path::Path;

use burn::tensor::{Device, Int, Tensor};
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_data::{DataKind, Tokenizer};
use kiln_nn::Init;
use toml::Table;

use crate::checkpoint::{self, Checkpoint, Counters};
use crate::recipe::{self, DataConfig, Recipe, TrainConfig};
use crate::run::{Run, TOKENIZER};
use crate::sizes::SizeRule;
use crate::system::{Ability, GenerateRequest, Pictures, System};
use crate::trainer::{self, Options, Summary};
use crate::{data, params};

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
    /// Loads a run's newest checkpoint for use.
    ///
    /// # Errors
    /// If there is none, or it does not fit the recipe.
    fn open(&self, run: &Run, weights: Weights, device: &Device) -> Result<Box<dyn Model>>;
}

/// Which weights of a checkpoint to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// The average if there is one, else the live weights.
    Average,
    /// The live weights.
    Raw,
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
        let pictures = Pictures::new([data.channels.max(1), height, width], classes);
        Ok(S::new(S::Config::default(), &pictures)?.abilities().list())
    }

    fn defaults(&self) -> Result<Table> {
        recipe::defaults::<S>()
    }

    fn check(&self, table: Table) -> Result<Table> {
        let mut recipe = new_recipe::<S>(table)?;
        recipe.model = S::settle(recipe.model)?;
        let (streams, pictures) = data::prepare::<S>(&mut recipe, None)?;
        let system = S::new(recipe.model.clone(), &pictures)?;
        data::check_grouping(&system, &streams)?;
        trainer::check_beginning(&system, &recipe, &Device::default())?;
        Table::try_from(recipe).map_err(|e| Error::new(format!("recipe: {e}")))
    }

    fn train(&self, table: Table, root: &Path, options: &Options) -> Result<Summary> {
        trainer::start::<S>(new_recipe::<S>(table)?, root, options)
    }

    fn resume(&self, run: &Run, options: &Options) -> Result<Summary> {
        let place = run.root().join("recipe.toml").display().to_string();
        trainer::resume::<S>(recipe::of_run::<S>(&run.recipe()?, &place)?, run, options)
    }

    fn open(&self, run: &Run, weights: Weights, device: &Device) -> Result<Box<dyn Model>> {
        let place = run.root().join("recipe.toml").display().to_string();
        let recipe = recipe::of_run::<S>(&run.recipe()?, &place)?;
        let saved = Checkpoint::newest(&run.checkpoints(), &mut |line| eprintln!("{line}"))?.ok_or_else(|| {
            Error::new(format!("{}: no checkpoint yet; `kiln resume` trains it further", run.root().display()))
        })?;
        let info = Info::of::<S>(&recipe, run.root(), &saved.counters, device);
        let mut system = S::new(recipe.model.clone(), &info.pictures)?;
        let (state, file) = if weights == Weights::Average && !saved.ema.is_empty() {
            (&saved.ema, "ema.safetensors")
        } else {
            (&saved.network, "network.safetensors")
        };
        let fresh = system.networks(&mut Init::new(device, recipe.seed));
        let folder = checkpoint::path(&run.checkpoints(), saved.counters.images);
        let networks = params::load(fresh, state, &folder.join(file).display().to_string())?;
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

/// What is known of a loaded run.
pub struct Info {
    /// The system.
    pub system: &'static str,
    /// The run folder.
    pub run: String,
    /// Images seen by the checkpoint.
    pub images: u64,
    /// Seconds it trained.
    pub seconds: f64,
    /// The run's seed.
    pub seed: u64,
    /// Shape and classes of its pictures.
    pub pictures: Pictures,
    /// The data it was trained on.
    pub data: DataConfig,
    /// How it was trained.
    pub train: TrainConfig,
    /// Where it computes.
    pub device: Device,
}

impl Info {
    /// What made tokens of the run's captions.
    ///
    /// # Errors
    /// If the run is of no captions, or its file is damaged.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let path = Path::new(&self.run).join(TOKENIZER);
        if self.pictures.vocabulary == 0 {
            return Err(Error::usage(format!("{}: {} has not learned from captions", self.run, self.system)));
        }
        Tokenizer::open(&path)
    }

    /// Of a run at one moment.
    pub(crate) fn of<S: System>(recipe: &Recipe<S::Config>, root: &Path, at: &Counters, device: &Device) -> Self {
        Self {
            system: S::ID,
            run: root.display().to_string(),
            images: at.images,
            seconds: at.seconds,
            seed: recipe.seed,
            pictures: Pictures::of(&recipe.data),
            data: recipe.data.clone(),
            train: recipe.train.clone(),
            device: device.clone(),
        }
    }
}

/// A trained run, whatever its system. Every ability is a method; one the system lacks is a usage
/// error (the verbs check [`Model::abilities`] first and name the systems that have it).
pub trait Model {
    /// What is known of the run.
    fn info(&self) -> &Info;
    /// What it can do.
    fn abilities(&self) -> Vec<Ability>;
    /// See [`crate::Generate`].
    ///
    /// # Errors
    /// If the system lacks the ability or refuses the request; likewise for all below.
    fn generate(&self, request: &GenerateRequest) -> Result<Tensor<4>>;
    /// See [`crate::Reconstruct`].
    ///
    /// # Errors
    /// As above.
    fn reconstruct(&self, images: Tensor<4>) -> Result<Tensor<4>>;
    /// See [`crate::Encode`].
    ///
    /// # Errors
    /// As above.
    fn encode(&self, images: Tensor<4>) -> Result<Tensor<2>>;
    /// See [`crate::Decode::latents`].
    ///
    /// # Errors
    /// As above.
    fn latents(&self, request: &GenerateRequest) -> Result<Tensor<2>>;
    /// See [`crate::Decode::decode`].
    ///
    /// # Errors
    /// As above.
    fn decode(&self, latents: Tensor<2>) -> Result<Tensor<4>>;
    /// See [`crate::Decode::between`].
    ///
    /// # Errors
    /// As above.
    fn between(&self, a: Tensor<2>, b: Tensor<2>, t: f64) -> Result<Tensor<2>>;
    /// See [`crate::Translate::directions`].
    ///
    /// # Errors
    /// As above.
    fn directions(&self) -> Result<Vec<&'static str>>;
    /// See [`crate::Translate::any_multiple_of`].
    ///
    /// # Errors
    /// As above.
    fn any_multiple_of(&self) -> Result<Option<usize>>;
    /// See [`crate::Translate::translate`].
    ///
    /// # Errors
    /// As above.
    fn translate(&self, images: Tensor<4>, direction: &str) -> Result<Tensor<4>>;
    /// See [`crate::Complete::seen`].
    ///
    /// # Errors
    /// As above.
    fn seen(&self) -> Result<Vec<bool>>;
    /// See [`crate::Complete::complete`].
    ///
    /// # Errors
    /// As above.
    fn complete(&self, images: Tensor<4>, request: &GenerateRequest) -> Result<Tensor<4>>;
    /// See [`crate::Classify::classify`].
    ///
    /// # Errors
    /// As above.
    fn classify(&self, images: Tensor<4>) -> Result<Tensor<2>>;
    /// See [`crate::Segment::segment`].
    ///
    /// # Errors
    /// As it does, or if the system cannot.
    fn segment(&self, images: Tensor<4>) -> Result<Tensor<4>>;
    /// See [`crate::Segment::map`].
    ///
    /// # Errors
    /// If the system cannot.
    fn segment_map(&self, images: Tensor<4>, labels: Tensor<1, Int>) -> Result<Tensor<3, Int>>;
    /// See [`crate::Classify::classify_noisy`].
    ///
    /// # Errors
    /// As above.
    fn classify_noisy(&self, x: Tensor<4>, signal: f64, sigma: f64) -> Result<Option<Tensor<2>>>;
    /// See [`crate::Represent::represent`].
    ///
    /// # Errors
    /// As above.
    fn represent(&self, images: Tensor<4>) -> Result<Tensor<2>>;
    /// See [`crate::Likelihood::nll`].
    ///
    /// # Errors
    /// As above.
    fn nll(&self, images: Tensor<4>, samples: usize, key: Key) -> Result<Tensor<1>>;
    /// See [`crate::Likelihood::exact_nll`].
    ///
    /// # Errors
    /// As above.
    fn exact_nll(&self, images: Tensor<4>, probes: usize, key: Key) -> Result<Option<Tensor<1>>>;
    /// See [`crate::Likelihood::observed`].
    ///
    /// # Errors
    /// As above.
    fn observed(&self, images: Tensor<4>) -> Result<Tensor<4>>;
    /// See [`crate::Likelihood::name`].
    ///
    /// # Errors
    /// As above.
    fn nll_name(&self, samples: usize) -> Result<String>;
}

/// A system with its trained networks.
pub(crate) struct Loaded<S: System> {
    pub(crate) system: S,
    pub(crate) networks: S::Networks,
    pub(crate) info: Info,
}

fn lacks<S: System>(ability: Ability) -> Error {
    Error::usage(format!("{} cannot {}", S::ID, ability.verb()))
}

impl<S: System> Model for Loaded<S> {
    fn info(&self) -> &Info {
        &self.info
    }

    fn abilities(&self) -> Vec<Ability> {
        self.system.abilities().list()
    }

    fn generate(&self, request: &GenerateRequest) -> Result<Tensor<4>> {
        let able = self.system.abilities().generate.ok_or_else(|| lacks::<S>(Ability::Generate))?;
        if request.context.is_some() && able.context_features().is_none() {
            return Err(Error::usage(format!("--context: this {} looks at none; leave it out", S::ID)));
        }
        able.generate(&self.networks, request)
    }

    fn reconstruct(&self, images: Tensor<4>) -> Result<Tensor<4>> {
        let able = self.system.abilities().reconstruct.ok_or_else(|| lacks::<S>(Ability::Reconstruct))?;
        able.reconstruct(&self.networks, images)
    }

    fn encode(&self, images: Tensor<4>) -> Result<Tensor<2>> {
        let able = self.system.abilities().encode.ok_or_else(|| lacks::<S>(Ability::Encode))?;
        able.encode(&self.networks, images)
    }

    fn latents(&self, request: &GenerateRequest) -> Result<Tensor<2>> {
        let able = self.system.abilities().decode.ok_or_else(|| lacks::<S>(Ability::Decode))?;
        Ok(able.latents(request))
    }

    fn decode(&self, latents: Tensor<2>) -> Result<Tensor<4>> {
        let able = self.system.abilities().decode.ok_or_else(|| lacks::<S>(Ability::Decode))?;
        able.decode(&self.networks, latents)
    }

    fn between(&self, a: Tensor<2>, b: Tensor<2>, t: f64) -> Result<Tensor<2>> {
        let able = self.system.abilities().decode.ok_or_else(|| lacks::<S>(Ability::Decode))?;
        Ok(able.between(a, b, t))
    }

    fn directions(&self) -> Result<Vec<&'static str>> {
        let able = self.system.abilities().translate.ok_or_else(|| lacks::<S>(Ability::Translate))?;
        Ok(able.directions())
    }

    fn any_multiple_of(&self) -> Result<Option<usize>> {
        let able = self.system.abilities().translate.ok_or_else(|| lacks::<S>(Ability::Translate))?;
        Ok(able.any_multiple_of())
    }

    fn translate(&self, images: Tensor<4>, direction: &str) -> Result<Tensor<4>> {
        let able = self.system.abilities().translate.ok_or_else(|| lacks::<S>(Ability::Translate))?;
        able.translate(&self.networks, images, direction)
    }

    fn seen(&self) -> Result<Vec<bool>> {
        let able = self.system.abilities().complete.ok_or_else(|| lacks::<S>(Ability::Complete))?;
        Ok(able.seen())
    }

    fn complete(&self, images: Tensor<4>, request: &GenerateRequest) -> Result<Tensor<4>> {
        let able = self.system.abilities().complete.ok_or_else(|| lacks::<S>(Ability::Complete))?;
        able.complete(&self.networks, images, request)
    }

    fn classify(&self, images: Tensor<4>) -> Result<Tensor<2>> {
        let able = self.system.abilities().classify.ok_or_else(|| lacks::<S>(Ability::Classify))?;
        able.classify(&self.networks, images)
    }

    fn segment(&self, images: Tensor<4>) -> Result<Tensor<4>> {
        let able = self.system.abilities().segment.ok_or_else(|| lacks::<S>(Ability::Segment))?;
        able.segment(&self.networks, images)
    }

    fn segment_map(&self, images: Tensor<4>, labels: Tensor<1, Int>) -> Result<Tensor<3, Int>> {
        let able = self.system.abilities().segment.ok_or_else(|| lacks::<S>(Ability::Segment))?;
        Ok(able.map(images, labels))
    }

    fn classify_noisy(&self, x: Tensor<4>, signal: f64, sigma: f64) -> Result<Option<Tensor<2>>> {
        let able = self.system.abilities().classify.ok_or_else(|| lacks::<S>(Ability::Classify))?;
        Ok(able.classify_noisy(&self.networks, x, signal, sigma))
    }

    fn represent(&self, images: Tensor<4>) -> Result<Tensor<2>> {
        let able = self.system.abilities().represent.ok_or_else(|| lacks::<S>(Ability::Represent))?;
        able.represent(&self.networks, images)
    }

    fn nll(&self, images: Tensor<4>, samples: usize, key: Key) -> Result<Tensor<1>> {
        let able = self.system.abilities().likelihood.ok_or_else(|| lacks::<S>(Ability::Likelihood))?;
        able.nll(&self.networks, images, samples, key)
    }

    fn exact_nll(&self, images: Tensor<4>, probes: usize, key: Key) -> Result<Option<Tensor<1>>> {
        let able = self.system.abilities().likelihood.ok_or_else(|| lacks::<S>(Ability::Likelihood))?;
        able.exact_nll(&self.networks, images, probes, key)
    }

    fn observed(&self, images: Tensor<4>) -> Result<Tensor<4>> {
        let able = self.system.abilities().likelihood.ok_or_else(|| lacks::<S>(Ability::Likelihood))?;
        Ok(able.observed(images))
    }

    fn nll_name(&self, samples: usize) -> Result<String> {
        let able = self.system.abilities().likelihood.ok_or_else(|| lacks::<S>(Ability::Likelihood))?;
        Ok(able.name(samples))
    }
}
