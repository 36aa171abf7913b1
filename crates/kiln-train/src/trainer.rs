//! Training a recipe from the start or from a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use kiln_core::random::Key;
use kiln_core::{Context, Error, Result, refuse_if, tell};
use kiln_data::{Loader, Prepared};
use kiln_nn::cost;
use serde::Serialize;
use toml::Table;

use crate::checkpoint::{Checkpoint, Counters};
use crate::data::{check_batch, check_grouping, examples, keep_tokenizer, prepare};
use crate::fit::FitData;
use crate::init_from::{Initial, settle};
use crate::live::Live;
use crate::origin::{self, Origin};
use crate::recipe::Recipe;
use crate::run::Run;
use crate::session::{Options, Session};
use crate::system::System;
use crate::watch::Watcher;
use crate::{memory, params};

/// What a training process reached: also the run's `report.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The system.
    pub system: String,
    /// Images seen in all.
    pub images: u64,
    /// Steps taken in all.
    pub steps: u64,
    /// Seconds of training in all.
    pub seconds: f64,
    /// Whether the run reached its end (Ctrl-C stops it before).
    pub complete: bool,
    /// Numbers in all networks.
    pub parameters: usize,
    /// Multiply–adds of the forward passes of a step, on average over this process's; see [`kiln_nn::cost`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multiply_adds: Option<u64>,
    /// Most memory this process ever held, in bytes, where the system tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory: Option<u64>,
    /// Means of the last log record.
    pub losses: BTreeMap<String, f64>,
    /// Signs that the training has failed, each with what to try.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Summary {
    /// Whether the run in this folder reached its end.
    ///
    /// # Errors
    /// If Ctrl-C stopped it before, with the command that goes on.
    pub fn reached_end(&self, root: &Path) -> Result<()> {
        match self.complete {
            true => Ok(()),
            false => Err(Error::interrupted(format!(
                "stopped at {} images; go on with: kiln resume {}",
                self.images,
                root.display()
            ))),
        }
    }
}

/// Starts a run in a new folder.
///
/// # Errors
/// Everything that can go wrong, in one line; the last good checkpoint stays.
pub fn start<S: System>(mut recipe: Recipe<S::Config>, root: &Path, options: &Options) -> Result<Summary> {
    let (system, streams) = ready::<S>(&mut recipe, &options.device)?;
    set_end(&mut recipe, options)?;
    let origin = Origin::of(&recipe, &streams)?;
    let run = Run::create(root)?;
    let _lock = run.lock()?;
    keep_tokenizer(&streams, &run)?;
    train(Start { system, recipe: &recipe, streams, run: &run, saved: None, origin }, options)
}

/// The system and the data of a new run, checked and found to fit. The recipe is resolved.
///
/// # Errors
/// If the recipe's settings or data do not suit the system, or what it starts from does not fit.
pub(crate) fn ready<S: System>(recipe: &mut Recipe<S::Config>, device: &Device) -> Result<(S, Vec<Arc<Prepared>>)> {
    settle::<S>(recipe)?;
    resolve_paths::<S>(recipe)?;
    let (streams, pictures) = prepare::<S>(recipe, None)?;
    recipe.model = S::resolve(recipe.model.clone(), &pictures);
    let system = S::new(recipe.model.clone(), &pictures)?;
    check_augment::<S>(recipe)?;
    memory::check(&system, memory::TRAINING)?;
    check_batch(&system, recipe, &streams)?;
    check_grouping(&system, &streams)?;
    Initial::check(&system, recipe, device)?;
    Ok((system, streams))
}

/// Goes on with a run from its newest whole checkpoint. The run's files stay as they are until everything fits.
///
/// # Errors
/// As [`start`]; a usage error if the recipe or the data have changed, unless the options accept that.
pub fn resume<S: System>(mut recipe: Recipe<S::Config>, run: &Run, options: &Options) -> Result<Summary> {
    let _lock = run.lock()?;
    if let Some(data) = &options.data {
        recipe.data.set = kiln_data::absolute(data)?;
    }
    let is_there = |set: &str| kiln_data::is_named(set) || Path::new(set).exists();
    let moved = !kiln_data::split_specs(&recipe.data.set).iter().all(|set| is_there(set));
    let (streams, pictures) = prepare::<S>(&mut recipe, Some(run)).map_err(|e| match moved {
        true => Error::usage(format!("{e}; if the data were moved: kiln resume {} --data NEW", run.root().display())),
        false => e,
    })?;
    let system = S::new(recipe.model.clone(), &pictures)?;
    memory::check(&system, memory::TRAINING)?;
    check_batch(&system, &recipe, &streams)?;
    set_end(&mut recipe, options)?;
    let saved = Checkpoint::newest(&run.checkpoints(), &mut |line| tell!("{line}"))?;
    let origin = Origin::of(&recipe, &streams)?;
    let before = saved.as_ref().and_then(|saved| saved.counters.origin.as_ref());
    if let Some(before) = before.filter(|_| !options.accept_changes) {
        origin.check(before, &streams, &recipe.data.set, run)?;
    }
    train(Start { system, recipe: &recipe, streams, run, saved, origin }, options)
}

/// Refuses an augmentation that would have no effect, or that there is not.
fn check_augment<S: System>(recipe: &Recipe<S::Config>) -> Result<()> {
    let there_is = recipe.train.augment.pipeline()?.is_some();
    refuse_if!(
        there_is && !S::augments(&recipe.model),
        "train.augment is of no effect on {}, which has no discriminator that sees augmented images; use data.flip, \
         data.random_crop and the like",
        S::ID
    );
    Ok(())
}

/// Makes the paths of a recipe whole, so that the run finds the same files wherever Kiln is started.
fn resolve_paths<S: System>(recipe: &mut Recipe<S::Config>) -> Result<()> {
    let absolute = |path: &str| -> Result<String> {
        // A published network has a name and no place.
        if path.is_empty() || path.starts_with("weights:") {
            return Ok(path.to_string());
        }
        Ok(std::path::absolute(path).context(|| path)?.display().to_string())
    };
    recipe.data.set = kiln_data::absolute(&recipe.data.set)?;
    recipe.data.tokenizer = absolute(&recipe.data.tokenizer)?;
    recipe.train.init_from = absolute(&recipe.train.init_from)?;
    let sources: Vec<String> = S::init_from(&recipe.model).iter().map(|from| from.source.to_string()).collect();
    if !sources.is_empty() {
        let mut model = Table::try_from(&recipe.model).context(|| "recipe")?;
        for (_, value) in &mut model {
            if let Some(path) = value.as_str().filter(|path| sources.iter().any(|source| source == path)) {
                *value = absolute(path)?.into();
            }
        }
        recipe.model = model.try_into().context(|| "recipe")?;
    }
    Ok(())
}

fn set_end<C>(recipe: &mut Recipe<C>, options: &Options) -> Result<()> {
    let Some(steps) = options.steps else { return Ok(()) };
    refuse_if!(steps == 0, "--steps 0: nothing to do; give at least 1");
    let images = steps.checked_mul(recipe.train.batch as u64).filter(|images| i64::try_from(*images).is_ok());
    let Some(images) = images else {
        return Err(Error::usage(format!(
            "--steps {steps}: too many; {} are possible",
            i64::MAX as u64 / recipe.train.batch as u64
        )));
    };
    recipe.train.stop_after = images;
    Ok(())
}

/// All that a training process starts from.
struct Start<'a, S: System> {
    system: S,
    recipe: &'a Recipe<S::Config>,
    streams: Vec<Arc<Prepared>>,
    run: &'a Run,
    saved: Option<Checkpoint>,
    origin: Origin,
}

fn train<S: System>(start: Start<'_, S>, options: &Options) -> Result<Summary> {
    let Start { system, recipe, streams, run, saved, origin } = start;
    let (plain, config) = (&options.device, &recipe.train);
    if let (Some(Watcher(watch)), true) = (&options.watcher, config.evaluate_every > 0) {
        watch.check(&config.metrics)?;
    }
    if !config.precision.is_native() && !options.quiet {
        let precision = config.precision;
        tell!("train.precision = {precision}: this processor has no instructions for it; f32 is used, as fast");
    }
    let training = plain.clone().autodiff();
    let training = if config.gradient_checkpointing { training.gradient_checkpointing() } else { training };
    let live = Live::new(system, recipe, &training, plain)?;
    let mut live = match saved {
        Some(saved) => live.restored(saved, plain)?,
        None => live.initialised(recipe, &FitData::new(&streams, config.batch, plain, recipe.seed))?,
    };
    // Everything fits: only now are the run's files touched.
    run.write_recipe(recipe)?;
    if live.counters.origin.as_ref() != Some(&origin) {
        origin::keep_list(&streams, run)?;
    }
    live.counters.origin = Some(origin);
    let set_sizes: Vec<usize> = streams.iter().map(|s| s.len()).collect();
    let examples = examples(&streams, config.preview_count.min(8), plain)?;
    let pictures = set_sizes.iter().sum::<usize>() as u64;
    let end = match (live.is_closed_form(), config.stop_after) {
        // Complete after its one pass, however many pictures there are by now.
        (true, _) if live.counters.steps > 0 => live.counters.images,
        (true, _) => pictures,
        (false, 0) => config.images,
        (false, stop_after) => stop_after,
    };
    let mut session = Session::begin(run, config, options, &live, end)?;
    let mut multiply_adds: u64 = 0;
    if live.is_closed_form() {
        if session.goes_on(live.counters.images) {
            live = match live.fitted(&FitData::new(&streams, config.batch, plain, recipe.seed), pictures) {
                Ok(fitted) => fitted,
                Err(error) => {
                    drop(session);
                    run.discard();
                    return Err(error);
                }
            };
            session.after_step(&mut live, 0, &Vec::new(), recipe, &examples)?;
        }
    } else {
        let (key, grouping) = (Key::new(recipe.seed), live.system.grouping());
        let mut loader = Loader::grouped(streams, config.batch, key, live.counters.images, grouping)?;
        while session.goes_on(live.counters.images) {
            let host = loader.next()?;
            let (before, counted) = (live.counters.images, cost::multiply_adds());
            let (next, outcome) = live.step(host, &set_sizes, recipe, &training);
            multiply_adds += cost::multiply_adds() - counted;
            live = next;
            match outcome {
                Ok(terms) => session.after_step(&mut live, before, &terms, recipe, &examples)?,
                Err(e) => return Err(session.fail(&live, e)),
            }
        }
    }
    session.finish(&live)?;
    let Counters { images, steps, seconds, warnings, .. } = live.counters;
    let summary = Summary {
        system: S::ID.into(),
        images,
        steps,
        seconds,
        complete: session.is_complete(images),
        parameters: params::count(&live.networks),
        multiply_adds: multiply_adds.checked_div(steps - session.steps_before),
        peak_memory: memory::peak(),
        losses: session.last,
        warnings,
    };
    // A run that was complete already has said more of itself.
    if images > session.images_before || !run.root().join("report.json").exists() {
        run.write_json("report.json", &summary)?;
    }
    Ok(summary)
}
