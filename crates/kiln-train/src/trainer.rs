//! Training a recipe from the start or from a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_data::{Loader, Prepared};
use kiln_nn::cost;
use serde::Serialize;

use crate::checkpoint::{Checkpoint, Counters};
use crate::data::{check_batch, check_grouping, examples, keep_tokenizer, prepare};
use crate::fit::FitData;
use crate::init_from::{Initial, settle};
use crate::live::Live;
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
}

/// Starts a run in a new folder.
///
/// # Errors
/// Everything that can go wrong, in one line; the last good checkpoint stays.
pub fn start<S: System>(mut recipe: Recipe<S::Config>, root: &Path, options: &Options) -> Result<Summary> {
    let (system, streams) = ready::<S>(&mut recipe, &options.device)?;
    set_end(&mut recipe, options)?;
    let run = Run::create(root)?;
    let _lock = run.lock()?;
    run.write_recipe(&recipe)?;
    keep_tokenizer(&streams, &run)?;
    train(system, &recipe, streams, &run, None, options)
}

/// The system and the data of a new run, checked and found to fit. The recipe is resolved.
///
/// # Errors
/// If the recipe's settings or data do not suit the system, or what it starts from does not fit.
pub(crate) fn ready<S: System>(recipe: &mut Recipe<S::Config>, device: &Device) -> Result<(S, Vec<Arc<Prepared>>)> {
    settle::<S>(recipe)?;
    let (streams, pictures) = prepare::<S>(recipe, None)?;
    let system = S::new(recipe.model.clone(), &pictures)?;
    memory::check(&system, memory::TRAINING)?;
    check_batch(&system, recipe, &streams)?;
    check_grouping(&system, &streams)?;
    Initial::check(&system, recipe, device)?;
    Ok((system, streams))
}

/// Goes on with a run from its newest whole checkpoint.
///
/// # Errors
/// As [`start`].
pub fn resume<S: System>(mut recipe: Recipe<S::Config>, run: &Run, options: &Options) -> Result<Summary> {
    let _lock = run.lock()?;
    let (streams, pictures) = prepare::<S>(&mut recipe, Some(run))?;
    let system = S::new(recipe.model.clone(), &pictures)?;
    memory::check(&system, memory::TRAINING)?;
    check_batch(&system, &recipe, &streams)?;
    if options.steps.is_some() {
        set_end(&mut recipe, options)?;
        run.write_recipe(&recipe)?;
    }
    let saved = Checkpoint::newest(&run.checkpoints(), &mut |line| eprintln!("{line}"))?;
    train(system, &recipe, streams, run, saved, options)
}

fn set_end<C>(recipe: &mut Recipe<C>, options: &Options) -> Result<()> {
    if options.steps == Some(0) {
        return Err(Error::usage("--steps 0: nothing to do; give at least 1"));
    }
    if let Some(steps) = options.steps {
        recipe.train.stop_after = steps * recipe.train.batch as u64;
    }
    Ok(())
}

fn train<S: System>(
    system: S,
    recipe: &Recipe<S::Config>,
    streams: Vec<Arc<Prepared>>,
    run: &Run,
    saved: Option<Checkpoint>,
    options: &Options,
) -> Result<Summary> {
    let (plain, config) = (&options.device, &recipe.train);
    if let (Some(Watcher(watch)), true) = (&options.watcher, config.evaluate_every > 0) {
        watch.check(&config.metrics)?;
    }
    if !config.precision.is_native() && !options.quiet {
        let precision = config.precision;
        eprintln!("train.precision = {precision}: this processor has no instructions for it; f32 is used, as fast");
    }
    let training = plain.clone().autodiff();
    let training = if config.gradient_checkpointing { training.gradient_checkpointing() } else { training };
    let live = Live::new(system, recipe, &training, plain)?;
    let mut live = match saved {
        Some(saved) => live.restored(saved, plain)?,
        None => live.initialised(recipe)?,
    };
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
            live = live.fitted(&FitData::new(&streams, config.batch, plain), pictures)?;
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
                Err(e) => {
                    session.rescue(&mut live)?;
                    return Err(e);
                }
            }
        }
    }
    session.finish(&live)?;
    let Counters { images, steps, seconds, .. } = live.counters;
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
    };
    // A run that was complete already has said more of itself.
    if images > session.images_before || !run.root().join("report.json").exists() {
        run.write_json("report.json", &summary)?;
    }
    Ok(summary)
}
