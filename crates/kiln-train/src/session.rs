//! A training process: its clock, log, progress, measurements, previews, and when each is due.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor};
use kiln_core::{Context, Error, Result, tell};

use crate::augment::SIGNS;
use crate::checkpoint;
use crate::config::TrainConfig;
use crate::health::{Failure, Health};
use crate::interrupt::Interruptible;
use crate::live::{Live, Terms};
use crate::log::Log;
use crate::model::{Info, Loaded};
use crate::preview;
use crate::progress::{Progress, minutes};
use crate::recipe::Recipe;
use crate::request::Request;
use crate::run::Run;
use crate::system::System;
use crate::watch::{Evaluation, Watch, Watcher};

/// How a training process runs, beside what the recipe says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to compute; not an autodiff device.
    pub device: Device,
    /// Stop after this many steps in all, whatever `train.images` says; schedules keep their length.
    pub steps: Option<u64>,
    /// No progress.
    pub quiet: bool,
    /// Go on although the recipe or the data have changed since the run was saved.
    pub accept_changes: bool,
    /// Where the data of a run that goes on lies now, if they were moved.
    pub data: Option<String>,
    /// Measures the run every `train.evaluate_every` images.
    pub watcher: Option<Watcher>,
}

impl Options {
    /// On a device, as the recipe says.
    pub fn on(device: Device) -> Self {
        Self { device, steps: None, quiet: false, accept_changes: false, data: None, watcher: None }
    }
}

/// One process of a run's training.
pub(crate) struct Session<'a> {
    run: &'a Run,
    config: &'a TrainConfig,
    options: &'a Options,
    interrupted: Interruptible,
    begun: Instant,
    /// Measuring is not training.
    measuring: Duration,
    seconds_before: f64,
    /// Images seen when it began.
    pub(crate) images_before: u64,
    /// Steps taken when it began.
    pub(crate) steps_before: u64,
    /// Images after which it ends.
    end: u64,
    log: Log,
    progress: Option<Progress>,
    /// The last log record.
    pub(crate) last: BTreeMap<String, f64>,
    saved_at: u64,
    /// The checkpoint, by its images, that no finite step has followed yet.
    unproven: Option<u64>,
    health: Health,
}

impl<'a> Session<'a> {
    /// A process that goes on from where `live` is to `end` images.
    pub(crate) fn begin<S: System>(
        run: &'a Run,
        config: &'a TrainConfig,
        options: &'a Options,
        live: &Live<S>,
        end: u64,
    ) -> Result<Self> {
        let (images, steps) = (live.counters.images, live.counters.steps);
        Ok(Self {
            run,
            config,
            options,
            interrupted: Interruptible::new()?,
            begun: Instant::now(),
            measuring: Duration::ZERO,
            seconds_before: live.counters.seconds,
            images_before: images,
            steps_before: steps,
            end,
            log: Log::open(run.root(), images)?,
            progress: (!options.quiet).then(|| Progress::new(S::ID, "images", images, end)),
            last: BTreeMap::new(),
            saved_at: images,
            unproven: None,
            health: Health::default(),
        })
    }

    /// Whether so many images are all.
    pub(crate) fn is_complete(&self, images: u64) -> bool {
        images >= self.end
    }

    /// Whether there is another step to take.
    pub(crate) fn goes_on(&self, images: u64) -> bool {
        !self.is_complete(images) && !self.interrupted.is_stopped()
    }

    /// Seconds of training in all.
    pub(crate) fn seconds(&self) -> f64 {
        self.seconds_before + (self.begun.elapsed() - self.measuring).as_secs_f64()
    }

    /// After a step that failed: the run goes back to the last checkpoint that a finite step has followed, and the error says so.
    pub(crate) fn fail<S: System>(&self, live: &Live<S>, error: Error) -> Error {
        let folder = self.run.checkpoints();
        let before = |at: u64| checkpoint::list(&folder).into_iter().rfind(|images| *images < at);
        if let Some(at) = self.unproven.filter(|at| before(*at).is_some())
            && let Err(e) = checkpoint::remove(&folder, at)
        {
            return Error::new(format!("{error}; {e}"));
        }
        let resume = format!("`kiln resume {} --accept-changes`", self.run.root().display());
        let kept = match checkpoint::list(&folder).last() {
            None => "there is no checkpoint yet".to_string(),
            // Another rate would not help: the step has failed before its update.
            Some(&at) if at == live.counters.images && before(at).is_some() => format!(
                "no step goes on from the checkpoint of {at} images: remove {} to go back to the one before it",
                checkpoint::path(&folder, at).display()
            ),
            Some(at) => format!("the run stays at {at} images; change its recipe.toml and go on with {resume}"),
        };
        Error::new(format!("{error}; {kept}"))
    }

    /// After a finite step: the checkpoint before it is good, and older ones may go.
    fn prove<S: System>(&mut self, live: &Live<S>) -> Result<()> {
        match self.unproven.take() {
            Some(newest) => self.prune(live, newest, self.config.keep),
            None => Ok(()),
        }
    }

    fn prune<S: System>(&self, live: &Live<S>, newest: u64, keep: usize) -> Result<()> {
        checkpoint::prune(&self.run.checkpoints(), newest, keep, live.counters.best.as_ref().map(|best| best.images))
    }

    /// After a step that began at `before` images: all that is due.
    pub(crate) fn after_step<S: System>(
        &mut self,
        live: &mut Live<S>,
        before: u64,
        terms: &Terms,
        recipe: &Recipe<S::Config>,
        examples: &[Tensor<4>],
    ) -> Result<()> {
        let config = self.config;
        self.prove(live)?;
        live.counters.means.iter_mut().for_each(|means| means.add(terms));
        live.counters.seconds = self.seconds();
        let images = live.counters.images;
        let done = self.is_complete(images);
        let crossed = |every: u64| every > 0 && before / every != images / every;
        if crossed(config.log_every) || done {
            self.run.check_there()?;
            // An end between two records takes nothing from the next one.
            let means = &mut live.counters.means[0];
            let values = if crossed(config.log_every) { means.take() } else { means.clone().take() };
            self.log.record(images, live.counters.steps, live.counters.seconds, &values)?;
            let failure = if crossed(config.log_every) { self.health.window(&values) } else { None };
            warn(live, failure);
            self.last = values.into_iter().collect();
        }
        if let Some(p) = &mut self.progress {
            let last = &self.last;
            p.update(images, || last.iter().map(|(k, v)| format!("{k} {v:.4}")).collect::<Vec<_>>().join(" "));
        }
        let is_best = crossed(config.evaluate_every) && self.evaluate(live, recipe)?;
        let saves = crossed(config.checkpoint_every) || done || is_best;
        // Drawn before the checkpoint is written: a run that is killed between the two draws it again.
        if crossed(config.preview_every) || done {
            let device = &self.options.device;
            config.precision.scope(|| preview(live, self.run, recipe, examples, &mut self.log, device))?;
            if self.last.contains_key(SIGNS) {
                let failure = config.precision.scope(|| alike(live, recipe.seed, examples, device))?;
                warn(live, failure);
            }
        }
        if saves {
            let means = &mut live.counters.means[1];
            let values = if crossed(config.checkpoint_every) { means.take() } else { means.clone().take() };
            if let Some((_, value)) = values.into_iter().find(|(name, _)| *name == config.best) {
                live.record_best(value, false);
            }
            self.save(live)?;
        }
        Ok(())
    }

    /// Measures and logs; whether `train.best` was never better.
    fn evaluate<S: System>(&mut self, live: &mut Live<S>, recipe: &Recipe<S::Config>) -> Result<bool> {
        let Some(Watcher(watch)) = &self.options.watcher else { return Ok(false) };
        let from = Instant::now();
        let figures = measure(live, &**watch, recipe, self.run, &self.options.device);
        let values: Terms = figures.iter().map(|f| (format!("measure.{}", f.name), f.value)).collect();
        self.log.record(live.counters.images, live.counters.steps, live.counters.seconds, &values)?;
        warn(live, Health::figures(&values));
        let mut is_best = false;
        for figure in figures.iter().filter(|f| f.is(&self.config.best)) {
            is_best = live.record_best(figure.value, figure.larger_is_better);
        }
        self.measuring += from.elapsed();
        Ok(is_best)
    }

    fn save<S: System>(&mut self, live: &Live<S>) -> Result<()> {
        self.run.check_there()?;
        live.save(self.run)?;
        (self.saved_at, self.unproven) = (live.counters.images, Some(live.counters.images));
        Ok(())
    }

    /// Saves what an interrupted process reached.
    pub(crate) fn finish<S: System>(&mut self, live: &Live<S>) -> Result<()> {
        let images = live.counters.images;
        let complete = self.is_complete(images);
        if !complete && images > self.saved_at {
            self.save(live)?;
        }
        // No step has followed the last checkpoint: the one before it stays, too.
        if let Some(newest) = self.unproven.take() {
            self.prune(live, newest, self.config.keep.max(2))?;
        }
        if let Some(p) = &self.progress {
            p.finish();
            if complete {
                tell!("{}: {images} images in {}", S::ID, minutes(live.counters.seconds));
            }
        }
        Ok(())
    }
}

/// What the watch sees now. A metric that cannot be measured costs a line, not the run.
fn measure<S: System>(
    live: &Live<S>,
    watch: &dyn Watch,
    recipe: &Recipe<S::Config>,
    run: &Run,
    device: &Device,
) -> Vec<Evaluation> {
    let info = Info::of::<S>(recipe, run.root(), &live.counters, device);
    let figures = S::new(recipe.model.clone(), &info.pictures).and_then(|mut system| {
        system.restore(live.system.state());
        watch.measure(&Loaded { system, networks: live.ema_networks(), info })
    });
    figures.unwrap_or_else(|e| {
        tell!("not measured at {} images: {e}", live.counters.images);
        Vec::new()
    })
}

/// Tells of a failure, once in a run.
fn warn<S: System>(live: &mut Live<S>, failure: Option<Failure>) {
    let Some(failure) = failure else { return };
    let (images, told) = (live.counters.images, &mut live.counters.warnings);
    if !told.iter().any(|line| line == failure.advice()) {
        tell!("at {images} images: {}", failure.advice());
        told.push(failure.advice().to_string());
    }
}

/// Whether samples are all alike.
fn alike<S: System>(live: &Live<S>, seed: u64, real: &[Tensor<4>], device: &Device) -> Result<Option<Failure>> {
    let (Some(generate), [real, ..]) = (live.system.abilities().generate, real) else { return Ok(None) };
    let samples = generate.generate(&live.ema_networks(), &Request::new(0..16, seed, device))?;
    Ok(Health::samples(samples, real.clone()))
}

/// Draws the preview of a moment, if the system can show one.
fn preview<S: System>(
    live: &Live<S>,
    run: &Run,
    recipe: &Recipe<S::Config>,
    examples: &[Tensor<4>],
    log: &mut Log,
    device: &Device,
) -> Result<()> {
    let (abilities, count) = (live.system.abilities(), recipe.train.preview_count);
    let Some(sheet) = preview::preview(&abilities, &live.ema_networks(), examples, count, recipe.seed, device)? else {
        return Ok(());
    };
    let folder = run.previews();
    std::fs::create_dir_all(&folder).context(|| folder.display())?;
    let images = live.counters.images;
    let text = [("system", S::ID.to_string()), ("seed", recipe.seed.to_string()), ("images", images.to_string())];
    let text: Vec<(&str, &str)> = text.iter().map(|(k, v)| (*k, v.as_str())).collect();
    sheet.write_png(&folder.join(format!("{images:010}.png")), &text)?;
    log.preview(images, &sheet)
}
