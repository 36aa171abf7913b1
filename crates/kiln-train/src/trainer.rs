//! Training a recipe from the start or from a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_data::{DataKind, Loader, Prepared, Split, few_labels};
use kiln_nn::cost;
use kiln_nn::tensor::from_values;
use serde::Serialize;

use crate::checkpoint::{Checkpoint, Counters};
use crate::live::{Live, check_init};
use crate::recipe::{DataConfig, Recipe};
use crate::run::Run;
use crate::session::Session;
use crate::system::{Pictures, System};
use crate::watch::Watcher;
use crate::{memory, model, params};

/// How a training process runs, beside what the recipe says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to compute; not an autodiff device.
    pub device: Device,
    /// Stop after this many steps in all, whatever `train.images` says; schedules keep their length.
    pub steps: Option<u64>,
    /// No progress.
    pub quiet: bool,
    /// Measures the run every `train.evaluate_every` images.
    pub watcher: Option<Watcher>,
}

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

/// Opens and validates the data of a recipe, and fills in what only the data knows: the shape of
/// the pictures and the classes.
///
/// # Errors
/// Names the file at fault, or says which kind of data the system wants.
pub fn prepare<S: System>(recipe: &mut Recipe<S::Config>) -> Result<(Vec<Arc<Prepared>>, Pictures)> {
    let rule = recipe.data.rule();
    let kind = S::data_kind(&recipe.model);
    let mut sets = kiln_data::open_all(&recipe.data.set, Split::Train, &rule)?;
    model::check_kind(S::ID, kind, &sets)?;
    let DataConfig { labels, label_set, .. } = recipe.data;
    match kind {
        DataKind::PartlyLabelled => sets = few_labels(sets.remove(0), labels, label_set)?.to_vec(),
        DataKind::Labelled if labels > 0 => {
            let [few, _] = few_labels(sets.remove(0), labels, label_set)?;
            sets = vec![few];
        }
        _ if labels > 0 => {
            return Err(Error::usage(format!(
                "data.labels = {labels}: {} does not learn from a part of the labels; set it to 0",
                S::ID
            )));
        }
        _ => {}
    }
    recipe.data.classes = sets[0].classes().to_vec();
    let streams =
        sets.into_iter().map(|set| Prepared::new(set, rule.clone()).map(Arc::new)).collect::<Result<Vec<_>>>()?;
    let shape = streams[0].shape();
    if let Some(other) = streams.iter().find(|s| s.shape() != shape) {
        return Err(Error::usage(format!(
            "data.set = {}: pictures of {:?} and {:?} (channels, height, width); set data.size and data.channels",
            recipe.data.set,
            shape,
            other.shape()
        )));
    }
    // The labelled few repeat in a batch of as many others.
    for stream in streams.iter().skip(usize::from(kind == DataKind::PartlyLabelled)) {
        if recipe.train.batch > stream.len() {
            return Err(Error::usage(format!(
                "train.batch = {} is larger than the {} pictures of {}; lower the batch",
                recipe.train.batch,
                stream.len(),
                stream.set().name()
            )));
        }
    }
    (recipe.data.channels, recipe.data.size) =
        (shape[0], if shape[1] == shape[2] { shape[1] } else { recipe.data.size });
    let pictures = Pictures { shape, classes: recipe.data.classes.clone() };
    Ok((streams, pictures))
}

/// Starts a run in a new folder.
///
/// # Errors
/// Everything that can go wrong, in one line; the last good checkpoint stays.
pub fn start<S: System>(mut recipe: Recipe<S::Config>, root: &Path, options: &Options) -> Result<Summary> {
    recipe.model = S::settle(recipe.model)?;
    let (streams, pictures) = prepare::<S>(&mut recipe)?;
    let system = S::new(recipe.model.clone(), &pictures)?;
    check_grouping(&system, &streams)?;
    check_init(&system, &recipe, &options.device)?;
    set_end(&mut recipe, options)?;
    let run = Run::create(root)?;
    let _lock = run.lock()?;
    run.write_recipe(&recipe)?;
    train(system, &recipe, streams, &run, None, options)
}

/// Goes on with a run from its newest whole checkpoint.
///
/// # Errors
/// As [`start`].
pub fn resume<S: System>(mut recipe: Recipe<S::Config>, run: &Run, options: &Options) -> Result<Summary> {
    let _lock = run.lock()?;
    let (streams, pictures) = prepare::<S>(&mut recipe)?;
    let system = S::new(recipe.model.clone(), &pictures)?;
    if options.steps.is_some() {
        set_end(&mut recipe, options)?;
        run.write_recipe(&recipe)?;
    }
    let saved = Checkpoint::newest(&run.checkpoints(), &mut |line| eprintln!("{line}"))?;
    train(system, &recipe, streams, run, saved, options)
}

/// Whether the data can be served as the system wants it, before there is a folder of the run.
///
/// # Errors
/// A usage error naming what the data lacks.
pub fn check_grouping<S: System>(system: &S, streams: &[Arc<Prepared>]) -> Result<()> {
    let grouping = system.grouping();
    streams.iter().try_for_each(|stream| grouping.check(&**stream.set()))
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
        None => live.initialised(&recipe.model)?,
    };
    let set_sizes: Vec<usize> = streams.iter().map(|s| s.len()).collect();
    let examples = examples(&streams, config.preview_count.min(8), plain)?;
    let grouping = live.system.grouping();
    let mut loader = Loader::grouped(streams, config.batch, Key::new(recipe.seed), live.counters.images, grouping)?;
    let mut session = Session::begin(run, config, options, &live)?;
    let mut multiply_adds: u64 = 0;
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

/// Some pictures of each domain, always the same, for previews.
fn examples(streams: &[Arc<Prepared>], count: usize, device: &Device) -> Result<Vec<Tensor<4>>> {
    streams
        .iter()
        .map(|stream| {
            let [c, h, w] = stream.shape();
            let n = count.min(stream.len());
            let key = Key::new(0).purpose("examples");
            // A set with known factors lies in their order, and its first pictures are all but the same.
            let ordered = !stream.set().factors().is_empty();
            let mut values = Vec::with_capacity(n * c * h * w);
            for i in 0..n {
                let place = if ordered { key.permute(i as u64, stream.len() as u64) as usize } else { i };
                values.extend(stream.get(place)?.values);
            }
            Ok(from_values(values, [n, c, h, w], device))
        })
        .collect()
}
