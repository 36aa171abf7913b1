//! The loop.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kiln_core::random::Key;
use kiln_core::{Context, Error, Result};
use kiln_data::{DataKind, HostBatch, Loader, Part, Prepared, Split, few_labels};
use kiln_nn::tensor::from_values;
use kiln_nn::{Init, cost};
use serde::Serialize;

use crate::batch::Batch;
use crate::checkpoint::{self, Best, Checkpoint, Counters};
use crate::log::Log;
use crate::model::{Info, Loaded};
use crate::optim::{self, Optimizer};
use crate::params::{self, Flat};
use crate::preview;
use crate::progress::{Progress, minutes};
use crate::recipe::{DataConfig, Recipe};
use crate::run::Run;
use crate::system::{Beginning, Phase, Pictures, System};
use crate::watch::{Figure, Watch, Watcher};
use crate::{ema, memory, model};

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
    check_beginning(&system, &recipe, &options.device)?;
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

/// The networks that a run begins with, of the system's choice or fresh.
fn begin<S: System>(fresh: S::Networks, config: &S::Config) -> Result<S::Networks> {
    let Some(Beginning { run: root, networks }) = S::begins_with(config) else { return Ok(fresh) };
    let folder = Run::open(Path::new(root))?.checkpoints();
    let saved = Checkpoint::newest(&folder, &mut |line| eprintln!("{line}"))?
        .ok_or_else(|| Error::new(format!("{root}: no checkpoint yet; `kiln resume` trains it further")))?;
    let state = if saved.ema.is_empty() { &saved.network } else { &saved.ema };
    params::adopt(fresh, state, networks, root)
}

/// Whether a run can begin as its settings say, before there is a folder of it.
///
/// # Errors
/// Names the other run and what is wrong with it.
pub fn check_beginning<S: System>(system: &S, recipe: &Recipe<S::Config>, device: &Device) -> Result<()> {
    if S::begins_with(&recipe.model).is_some() {
        begin::<S>(system.networks(&mut Init::new(device, recipe.seed)), &recipe.model)?;
    }
    Ok(())
}

/// Everything that changes from step to step.
struct Live<S: System> {
    system: S,
    networks: S::Networks,
    average: Option<S::Networks>,
    phases: Vec<(Phase, Optimizer)>,
    counters: Counters,
}

fn train<S: System>(
    system: S,
    recipe: &Recipe<S::Config>,
    streams: Vec<Arc<Prepared>>,
    run: &Run,
    saved: Option<Checkpoint>,
    options: &Options,
) -> Result<Summary> {
    if let (Some(Watcher(watch)), true) = (&options.watcher, recipe.train.evaluate_every > 0) {
        watch.check(&recipe.train.metrics)?;
    }
    let stop = interrupt()?;
    let plain = &options.device;
    let config = &recipe.train;
    if !config.precision.is_native() && !options.quiet {
        let precision = config.precision;
        eprintln!("train.precision = {precision}: this processor has no instructions for it; f32 is used, as fast");
    }
    let training = plain.clone().autodiff();
    let training = if config.gradient_checkpointing { training.gradient_checkpointing() } else { training };
    let set_sizes: Vec<usize> = streams.iter().map(|s| s.len()).collect();
    let mut live = Live::<S> {
        networks: system.networks(&mut Init::new(&training, recipe.seed)),
        average: (config.ema_half_life > 0.0).then(|| system.networks(&mut Init::new(plain, recipe.seed))),
        phases: system.phases().into_iter().map(|p| (p.clone(), Optimizer::new(p.optimizer))).collect(),
        counters: Counters { kiln: env!("CARGO_PKG_VERSION").into(), ..Counters::default() },
        system,
    };
    match saved {
        Some(saved) => live = live.restored(saved, plain)?,
        None => {
            live.networks = begin::<S>(live.networks, &recipe.model)?;
            live.average = live.average.map(|average| begin::<S>(average, &recipe.model)).transpose()?;
        }
    }
    let end = if config.stop_after > 0 { config.stop_after } else { config.images };
    let examples = examples(&streams, config.preview_count.min(8), plain)?;
    let begun = Instant::now();
    // Measuring is not training.
    let mut measuring = Duration::ZERO;
    let (seconds_before, steps_before) = (live.counters.seconds, live.counters.steps);
    let mut multiply_adds: u64 = 0;
    let mut log = Log::open(run.root(), live.counters.images)?;
    let grouping = live.system.grouping();
    let mut loader = Loader::grouped(streams, config.batch, Key::new(recipe.seed), live.counters.images, grouping)?;
    let mut means = Means::default();
    let mut watched = Means::default();
    let mut last = BTreeMap::new();
    let images_before = live.counters.images;
    let mut saved_at = images_before;
    let mut progress = (!options.quiet).then(|| Progress::new(S::ID, "images", live.counters.images, end));

    while live.counters.images < end && !stop.load(Ordering::Relaxed) {
        let host = loader.next()?;
        let before = live.counters.images;
        let counted = cost::multiply_adds();
        let (next, outcome) = live.step(host, &set_sizes, recipe, &training);
        multiply_adds += cost::multiply_adds() - counted;
        live = next;
        let terms = match outcome {
            Ok(terms) => terms,
            Err(e) => {
                // Not updated by the failed step: still finite.
                if before > saved_at {
                    live.counters.seconds = seconds_before + (begun.elapsed() - measuring).as_secs_f64();
                    live.save(run, config.keep)?;
                }
                return Err(e);
            }
        };
        means.add(&terms);
        watched.add(&terms);
        let images = live.counters.images;
        live.counters.seconds = seconds_before + (begun.elapsed() - measuring).as_secs_f64();
        let done = images >= end;
        let crossed = |every: u64| every > 0 && (before / every != images / every);
        if crossed(config.log_every) || done {
            let values = means.take();
            log.record(images, live.counters.steps, live.counters.seconds, &values)?;
            last = values.into_iter().collect();
        }
        if let Some(p) = &mut progress {
            p.update(images, || {
                last.iter().map(|(k, v): (&String, &f64)| format!("{k} {v:.4}")).collect::<Vec<_>>().join(" ")
            });
        }
        let mut is_best = false;
        if let (Some(Watcher(watch)), true) = (&options.watcher, crossed(config.evaluate_every)) {
            let from = Instant::now();
            let figures = live.measure(&**watch, recipe, run, plain);
            let values: Terms = figures.iter().map(|f| (format!("measure.{}", f.name), f.value)).collect();
            log.record(images, live.counters.steps, live.counters.seconds, &values)?;
            for figure in figures.iter().filter(|f| f.is(&config.best)) {
                is_best = live.watch_best(figure.value, figure.larger_is_better);
            }
            measuring += from.elapsed();
        }
        if crossed(config.checkpoint_every) || done || is_best {
            if let Some((_, value)) = watched.take().into_iter().find(|(name, _)| *name == config.best) {
                live.watch_best(value, false);
            }
            live.save(run, config.keep)?;
            saved_at = images;
        }
        if crossed(config.preview_every) || done {
            config.precision.scope(|| live.preview(run, recipe, &examples, plain, &mut log))?;
        }
    }
    let complete = live.counters.images >= end;
    if !complete && live.counters.images > saved_at {
        live.save(run, config.keep)?;
    }
    if let Some(p) = &progress {
        p.finish();
        if !complete {
            eprintln!("stopped at {} images; go on with: kiln resume {}", live.counters.images, run.root().display());
        } else {
            eprintln!("{}: {} images in {}", S::ID, live.counters.images, minutes(live.counters.seconds));
        }
    }
    let summary = Summary {
        system: S::ID.into(),
        images: live.counters.images,
        steps: live.counters.steps,
        seconds: live.counters.seconds,
        complete,
        parameters: params::count(&live.networks),
        multiply_adds: multiply_adds.checked_div(live.counters.steps - steps_before),
        peak_memory: memory::peak(),
        losses: last,
    };
    // A run that was complete already has said more of itself.
    if live.counters.images > images_before || !run.root().join("report.json").exists() {
        run.write_json("report.json", &summary)?;
    }
    Ok(summary)
}

type Terms = Vec<(String, f64)>;

impl<S: System> Live<S> {
    /// One step: every phase that is due, then the weight average. On an error nothing has moved
    /// since the phase that failed.
    fn step(
        mut self,
        host: HostBatch,
        set_sizes: &[usize],
        recipe: &Recipe<S::Config>,
        device: &Device,
    ) -> (Self, Result<Terms>) {
        let config = &recipe.train;
        let (images, batch) = (self.counters.images, config.batch as u64);
        let key = Key::new(recipe.seed);
        let kind = self.system.grouping().kind(key, host.start / batch);
        let parts: Vec<Batch> = split(host, config.accumulate)
            .into_iter()
            .map(|part| Batch::new(part, config.images, key, device).of_sets(set_sizes).of_kind(kind))
            .collect();
        let mut terms = Terms::new();
        let Self { mut system, mut networks, average, mut phases, mut counters } = self;
        let mut failure = None;
        for (phase, optimizer) in phases.iter_mut().filter(|(p, _)| counters.steps.is_multiple_of(p.every)) {
            networks = params::set_trainable(networks, &phase.trains);
            match config.precision.scope(|| gradients(&mut system, &networks, phase, &parts, &mut terms)) {
                Ok((gradients, norm)) => {
                    let c = optimizer.config();
                    let factor = c.schedule.factor(images, config.images, c.warmup);
                    let scale = optim::clip_scale(norm, c.clip_norm);
                    networks = optimizer.step(networks, gradients, factor, scale);
                }
                Err(e) => {
                    failure = Some(Error::new(format!("step {}: {e}", counters.steps + 1)));
                    break;
                }
            }
        }
        self = Self { system, networks, average, phases, counters: counters.clone() };
        if let Some(e) = failure {
            return (self, Err(e));
        }
        counters.images += batch;
        counters.steps += 1;
        if let Some(average) = self.average.take() {
            let decay = ema::decay(batch, counters.images, config.ema_half_life, config.ema_ramp);
            self.average = Some(ema::update(average, &self.networks, decay));
        }
        self.counters = counters;
        (self, Ok(terms))
    }

    fn restored(mut self, saved: Checkpoint, device: &Device) -> Result<Self> {
        self.networks = params::load(self.networks, &saved.network, "network.safetensors")?;
        self.average = match self.average.take() {
            // A model that came without an average begins it with itself.
            Some(average) if saved.ema.is_empty() => {
                Some(params::load(average, &saved.network, "network.safetensors")?)
            }
            Some(average) => Some(params::load(average, &saved.ema, "ema.safetensors")?),
            None => None,
        };
        for (phase, optimizer) in &mut self.phases {
            let steps = saved.counters.optimizer_steps.get(phase.name).copied().unwrap_or(0);
            optimizer.load(phase.name, &saved.optimizer, steps, device)?;
        }
        self.system.restore(saved.system);
        self.counters = saved.counters;
        Ok(self)
    }

    fn save(&self, run: &Run, keep: usize) -> Result<()> {
        let mut optimizer = params::State::new();
        let mut counters = self.counters.clone();
        counters.files.clear();
        for (phase, o) in &self.phases {
            o.state(phase.name, &mut optimizer);
            counters.optimizer_steps.insert(phase.name.to_string(), o.steps());
        }
        let checkpoint = Checkpoint {
            network: params::state(&self.networks),
            ema: self.average.as_ref().map(params::state).unwrap_or_default(),
            optimizer,
            system: self.system.state(),
            counters,
        };
        checkpoint.save(&run.checkpoints())?;
        checkpoint::prune(&run.checkpoints(), keep, self.counters.best.as_ref().map(|b| b.images))
    }

    /// Whether `value` is the best so far, which it then is recorded as.
    fn watch_best(&mut self, value: f64, larger_is_better: bool) -> bool {
        let beats = |old: f64| if larger_is_better { value > old } else { value < old };
        let is_best = self.counters.best.as_ref().is_none_or(|b| beats(b.value));
        if is_best {
            self.counters.best = Some(Best { images: self.counters.images, value });
        }
        is_best
    }

    /// The networks a run is judged by: the average, or the live ones if it keeps none.
    fn judged(&self) -> S::Networks {
        self.average.clone().unwrap_or_else(|| self.networks.valid())
    }

    /// What the watch sees now. A figure that cannot be had costs a line, not the run.
    fn measure(&self, watch: &dyn Watch, recipe: &Recipe<S::Config>, run: &Run, device: &Device) -> Vec<Figure> {
        let info = Info::of::<S>(recipe, run.root(), &self.counters, device);
        let figures = S::new(recipe.model.clone(), &info.pictures).and_then(|mut system| {
            system.restore(self.system.state());
            watch.measure(&Loaded { system, networks: self.judged(), info })
        });
        figures.unwrap_or_else(|e| {
            eprintln!("not measured at {} images: {e}", self.counters.images);
            Vec::new()
        })
    }

    fn preview(
        &self,
        run: &Run,
        recipe: &Recipe<S::Config>,
        examples: &[Tensor<4>],
        device: &Device,
        log: &mut Log,
    ) -> Result<()> {
        let (abilities, count) = (self.system.abilities(), recipe.train.preview_count);
        let Some(sheet) = preview::preview(&abilities, &self.judged(), examples, count, recipe.seed, device)? else {
            return Ok(());
        };
        let folder = run.previews();
        std::fs::create_dir_all(&folder).context(|| folder.display())?;
        let images = self.counters.images;
        let text = [("system", S::ID.to_string()), ("seed", recipe.seed.to_string()), ("images", images.to_string())];
        let text: Vec<(&str, &str)> = text.iter().map(|(k, v)| (*k, v.as_str())).collect();
        sheet.write_png(&folder.join(format!("{images:010}.png")), &text)?;
        log.preview(images, &sheet)
    }
}

/// The summed gradients of a phase over the parts of a batch, and their global norm.
fn gradients<S: System>(
    system: &mut S,
    networks: &S::Networks,
    phase: &Phase,
    parts: &[Batch],
    terms: &mut Terms,
) -> Result<(Flat, f64)> {
    let share = 1.0 / parts.len() as f64;
    let mut sum = Flat::new();
    for batch in parts {
        let loss = system.loss(networks, phase.name, batch)?;
        for (name, value) in loss.terms {
            let value = f64::from(value.into_scalar::<f32>());
            if !value.is_finite() {
                return Err(Error::new(format!(
                    "loss term `{name}` of phase `{}` is {value}; lower the learning rate, or clip with clip_norm; the last finite state is kept",
                    phase.name
                )));
            }
            match terms.iter_mut().find(|(n, _)| n == name) {
                Some((_, old)) => *old += value * share,
                None => terms.push((name.to_string(), value * share)),
            }
        }
        let mut gradients = (loss.total * share).backward();
        for (path, gradient) in params::take_gradients(networks, &mut gradients) {
            let gradient = match sum.remove(&path) {
                Some(old) => old + gradient,
                None => gradient,
            };
            sum.insert(path, gradient);
        }
    }
    let norm = optim::global_norm(&sum);
    if norm.is_finite() {
        Ok((sum, norm))
    } else {
        Err(Error::new(format!(
            "the gradient of phase `{}` is not finite; lower the learning rate; the last finite state is kept",
            phase.name
        )))
    }
}

/// Cuts a batch into `parts` of equal length.
fn split(host: HostBatch, parts: usize) -> Vec<HostBatch> {
    if parts == 1 {
        return vec![host];
    }
    let cut = |part: &Part, i: usize| {
        let n = part.shape[0] / parts;
        let (from, to) = (i * n, (i + 1) * n);
        let size: usize = part.shape[1..].iter().product();
        Part {
            shape: [n, part.shape[1], part.shape[2], part.shape[3]],
            values: part.values[from * size..to * size].to_vec(),
            labels: part.labels.as_ref().map(|l| l[from..to].to_vec()),
            captions: part.captions[from..to].to_vec(),
            indices: part.indices[from..to].to_vec(),
        }
    };
    let n = host.parts[0].shape[0] / parts;
    (0..parts)
        .map(|i| HostBatch {
            start: host.start + (i * n) as u64,
            parts: host.parts.iter().map(|p| cut(p, i)).collect(),
        })
        .collect()
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

/// Running means of the loss terms between two records.
#[derive(Default)]
struct Means {
    sums: Vec<(String, f64, f64)>,
}

impl Means {
    fn add(&mut self, terms: &Terms) {
        for (name, value) in terms {
            match self.sums.iter_mut().find(|(n, ..)| n == name) {
                Some((_, sum, count)) => (*sum, *count) = (*sum + value, *count + 1.0),
                None => self.sums.push((name.clone(), *value, 1.0)),
            }
        }
    }

    fn take(&mut self) -> Terms {
        self.sums.drain(..).map(|(name, sum, count)| (name, sum / count)).collect()
    }
}

/// A flag that Ctrl-C sets; the second Ctrl-C ends the process at once.
fn interrupt() -> Result<Arc<AtomicBool>> {
    // The handler can be set but once: whoever comes second waits for the first's outcome.
    static FLAG: OnceLock<std::result::Result<Arc<AtomicBool>, String>> = OnceLock::new();
    let install = || {
        let flag = Arc::new(AtomicBool::new(false));
        let seen = flag.clone();
        let handler = move || {
            if seen.swap(true, Ordering::Relaxed) {
                std::process::exit(1);
            }
            eprintln!("stopping after this step; once more to stop at once");
        };
        ctrlc::set_handler(handler).map(|()| flag).map_err(|e| e.to_string())
    };
    FLAG.get_or_init(install).clone().context(|| "installing the Ctrl-C handler")
}
