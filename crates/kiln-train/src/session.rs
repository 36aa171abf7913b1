//! A training process: its clock, log, progress, measurements, previews, and when each is due.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor};
use kiln_core::{Context, Result};

use crate::config::TrainConfig;
use crate::live::{Live, Terms};
use crate::log::Log;
use crate::model::{Info, Loaded};
use crate::preview;
use crate::progress::{Progress, minutes};
use crate::recipe::Recipe;
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
    /// Measures the run every `train.evaluate_every` images.
    pub watcher: Option<Watcher>,
}

/// One process of a run's training.
pub(crate) struct Session<'a> {
    run: &'a Run,
    config: &'a TrainConfig,
    options: &'a Options,
    interrupted: Arc<AtomicBool>,
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
    /// Since the last log record, and since the last checkpoint.
    means: [Means; 2],
    /// The last log record.
    pub(crate) last: BTreeMap<String, f64>,
    saved_at: u64,
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
            interrupted: interrupt()?,
            begun: Instant::now(),
            measuring: Duration::ZERO,
            seconds_before: live.counters.seconds,
            images_before: images,
            steps_before: steps,
            end,
            log: Log::open(run.root(), images)?,
            progress: (!options.quiet).then(|| Progress::new(S::ID, "images", images, end)),
            means: Default::default(),
            last: BTreeMap::new(),
            saved_at: images,
        })
    }

    /// Whether so many images are all.
    pub(crate) fn is_complete(&self, images: u64) -> bool {
        images >= self.end
    }

    /// Whether there is another step to take.
    pub(crate) fn goes_on(&self, images: u64) -> bool {
        !self.is_complete(images) && !self.interrupted.load(Ordering::Relaxed)
    }

    /// Seconds of training in all.
    pub(crate) fn seconds(&self) -> f64 {
        self.seconds_before + (self.begun.elapsed() - self.measuring).as_secs_f64()
    }

    /// After a step that failed: keeps what it left, which is still finite.
    pub(crate) fn rescue<S: System>(&mut self, live: &mut Live<S>) -> Result<()> {
        if live.counters.images > self.saved_at {
            live.counters.seconds = self.seconds();
            self.save(live)?;
        }
        Ok(())
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
        self.means.iter_mut().for_each(|means| means.add(terms));
        live.counters.seconds = self.seconds();
        let images = live.counters.images;
        let done = self.is_complete(images);
        let crossed = |every: u64| every > 0 && before / every != images / every;
        if crossed(config.log_every) || done {
            let values = self.means[0].take();
            self.log.record(images, live.counters.steps, live.counters.seconds, &values)?;
            self.last = values.into_iter().collect();
        }
        if let Some(p) = &mut self.progress {
            let last = &self.last;
            p.update(images, || last.iter().map(|(k, v)| format!("{k} {v:.4}")).collect::<Vec<_>>().join(" "));
        }
        let is_best = crossed(config.evaluate_every) && self.evaluate(live, recipe)?;
        if crossed(config.checkpoint_every) || done || is_best {
            if let Some((_, value)) = self.means[1].take().into_iter().find(|(name, _)| *name == config.best) {
                live.record_best(value, false);
            }
            self.save(live)?;
        }
        if crossed(config.preview_every) || done {
            let device = &self.options.device;
            config.precision.scope(|| preview(live, self.run, recipe, examples, &mut self.log, device))?;
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
        let mut is_best = false;
        for figure in figures.iter().filter(|f| f.is(&self.config.best)) {
            is_best = live.record_best(figure.value, figure.larger_is_better);
        }
        self.measuring += from.elapsed();
        Ok(is_best)
    }

    fn save<S: System>(&mut self, live: &Live<S>) -> Result<()> {
        live.save(self.run, self.config.keep)?;
        self.saved_at = live.counters.images;
        Ok(())
    }

    /// Saves what an interrupted process reached, and says how to go on.
    pub(crate) fn finish<S: System>(&mut self, live: &Live<S>) -> Result<()> {
        let images = live.counters.images;
        let complete = self.is_complete(images);
        if !complete && images > self.saved_at {
            self.save(live)?;
        }
        if let Some(p) = &self.progress {
            p.finish();
            if complete {
                eprintln!("{}: {images} images in {}", S::ID, minutes(live.counters.seconds));
            } else {
                eprintln!("stopped at {images} images; go on with: kiln resume {}", self.run.root().display());
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
        eprintln!("not measured at {} images: {e}", live.counters.images);
        Vec::new()
    })
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
