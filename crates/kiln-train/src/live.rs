//! What changes from step to step: networks, their EMA, optimisers, counters. One step, saving and restoring.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::Device;
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_data::HostBatch;
use kiln_nn::Init;
use kiln_nn::augment::Pipeline;

use crate::augment::{Adaptation, Method, SIGNS};
use crate::batch::Batch;
use crate::checkpoint::{Best, Checkpoint, Counters, WeightSet};
use crate::ema;
use crate::fit::FitData;
use crate::init_from::Initial;
use crate::optim::{self, Optimizer};
use crate::params::{self, Flat, State};
use crate::recipe::Recipe;
use crate::run::Run;
use crate::system::{Phase, System};

/// Named values of a step, for the log.
pub(crate) type Terms = Vec<(String, f64)>;

/// Everything that changes from step to step.
pub(crate) struct Live<S: System> {
    pub(crate) system: S,
    pub(crate) networks: S::Networks,
    pub(crate) ema: Option<S::Networks>,
    phases: Vec<Phase<S>>,
    /// What a discriminator's pictures go through.
    augment: Option<Pipeline>,
    /// By the name of the phase that owns it.
    optimizers: BTreeMap<&'static str, Optimizer>,
    pub(crate) counters: Counters,
}

impl<S: System> Live<S> {
    /// At the start of a run: fresh networks on `training`, their EMA on `plain`.
    pub(crate) fn new(system: S, recipe: &Recipe<S::Config>, training: &Device, plain: &Device) -> Result<Self> {
        let phases = system.phases();
        let mut optimizers = BTreeMap::new();
        for phase in &phases {
            match phase.shares {
                None => {
                    optimizers.insert(phase.name, Optimizer::new(phase.optimizer.clone()));
                }
                Some(owner) if optimizers.contains_key(owner) => {}
                Some(owner) => {
                    let name = phase.name;
                    return Err(Error::new(format!("phase `{name}`: no phase `{owner}` before it to share with")));
                }
            }
        }
        // Nothing descends where there are no phases.
        let (device, averages) = match phases.is_empty() {
            true => (plain, false),
            false => (training, recipe.train.ema_half_life > 0.0),
        };
        Ok(Self {
            networks: system.networks(&mut Init::new(device, recipe.seed)),
            ema: averages.then(|| system.networks(&mut Init::new(plain, recipe.seed))),
            phases,
            augment: recipe.train.augment.pipeline()?,
            optimizers,
            counters: Counters {
                kiln: env!("CARGO_PKG_VERSION").into(),
                augment: Adaptation::new(&recipe.train.augment),
                ..Counters::default()
            },
            system,
        })
    }

    /// With what a look at the data sets, and the trained networks that the recipe starts from.
    pub(crate) fn initialised(mut self, recipe: &Recipe<S::Config>, data: &FitData<'_>) -> Result<Self> {
        self.networks = Initial::of::<S>(recipe)?.load(self.system.initialise(self.networks, data)?)?;
        let state = params::state(&self.networks);
        self.ema = self.ema.map(|ema| params::load(ema, &state, "the networks")).transpose()?;
        Ok(self)
    }

    /// Whether [`System::fit`] trains it, not steps.
    pub(crate) fn is_closed_form(&self) -> bool {
        self.phases.is_empty()
    }

    /// Trained in closed form by the whole data, of so many pictures.
    pub(crate) fn fitted(mut self, data: &FitData<'_>, pictures: u64) -> Result<Self> {
        let nothing = || Error::new(format!("{} has neither phases nor a closed form", S::ID));
        self.networks = self.system.fit(self.networks, data)?.ok_or_else(nothing)?;
        self.counters.images = pictures;
        self.counters.steps = 1;
        Ok(self)
    }

    /// One step: every phase that is due, then the EMA. On an error nothing has moved
    /// since the phase that failed.
    pub(crate) fn step(
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
        let (pipeline, p) = (self.augment, self.counters.augment.p);
        let parts: Vec<Batch> = host
            .split(config.accumulate)
            .into_iter()
            .map(|part| Batch::new(part, config.images, key, device).of_sets(set_sizes).of_kind(kind))
            .map(|part| part.augmented(pipeline, p))
            .collect();
        let mut terms = Terms::new();
        let steps = self.counters.steps;
        let Self { mut system, mut networks, ema, phases, augment, mut optimizers, mut counters } = self;
        let mut failure = None;
        for phase in phases.iter().filter(|p| p.is_due(steps, images)) {
            networks = params::set_trainable(networks, &phase.trains);
            let found = config.precision.scope(|| gradients(&mut system, &networks, phase, &parts, &mut terms));
            match (found, optimizers.get_mut(phase.shares.unwrap_or(phase.name))) {
                (Ok(Some((gradients, norm))), Some(optimizer)) => {
                    let c = optimizer.config();
                    let factor = c.schedule.factor(images, config.images, c.warmup);
                    let scale = optim::clip_scale(norm, c.clip_norm);
                    networks = optimizer.step(networks, gradients, factor, scale);
                }
                (Ok(_), _) => {}
                (Err(e), _) => {
                    failure = Some(e.at(format_args!("step {}", steps + 1)));
                    break;
                }
            }
        }
        if failure.is_none() {
            if let Some((_, signs)) = terms.iter().find(|(name, _)| name == SIGNS) {
                counters.augment.observe(&config.augment, *signs, batch);
            }
            if config.augment.method == Method::Ada {
                terms.push(("augment_p".into(), p));
            }
            counters.images += batch;
            counters.steps += 1;
        }
        self = Self { system, networks, ema, phases, augment, optimizers, counters };
        if let Some(e) = failure {
            return (self, Err(e));
        }
        if let Some(ema) = self.ema.take() {
            let decay = ema::decay(batch, self.counters.images, config.ema_half_life, config.ema_ramp);
            let trained = |path: &str| is_trained(&self.phases, path);
            self.ema = Some(ema::update(ema, &self.networks, decay, config.ema_buffers, trained));
        }
        (self, Ok(terms))
    }

    /// At a saved moment.
    pub(crate) fn restored(mut self, mut saved: Checkpoint, device: &Device) -> Result<Self> {
        self.networks = params::load(self.networks, &saved.network, "network.safetensors")?;
        // A model that came without EMA weights starts them from its own.
        let weights = saved.take_weights(WeightSet::Ema);
        self.ema = self.ema.map(|ema| params::load(ema, &weights, "ema.safetensors")).transpose()?;
        for (name, optimizer) in &mut self.optimizers {
            let steps = saved.counters.optimizer_steps.get(*name).copied().unwrap_or(0);
            optimizer.load(name, &saved.optimizer, steps, device)?;
        }
        self.system.restore(saved.system);
        self.counters = saved.counters;
        Ok(self)
    }

    /// Writes a checkpoint.
    pub(crate) fn save(&self, run: &Run) -> Result<()> {
        let mut optimizer = State::new();
        let mut counters = self.counters.clone();
        counters.files.clear();
        for (name, o) in &self.optimizers {
            o.state(name, &mut optimizer);
            counters.optimizer_steps.insert(name.to_string(), o.steps());
        }
        let checkpoint = Checkpoint {
            network: params::state(&self.networks),
            ema: self.ema.as_ref().map(|ema| self.ema_state(ema)).unwrap_or_default(),
            optimizer,
            system: self.system.state(),
            counters,
        };
        checkpoint.save(&run.checkpoints())
    }

    /// The EMA weights of what is trained; the rest is with the live weights.
    fn ema_state(&self, ema: &S::Networks) -> State {
        let mut state = params::state(ema);
        state.retain(|path, _| is_trained(&self.phases, path));
        state
    }

    /// Whether `value` is the best so far, which it then is recorded as.
    pub(crate) fn record_best(&mut self, value: f64, larger_is_better: bool) -> bool {
        let beats = |old: f64| if larger_is_better { value > old } else { value < old };
        let is_best = self.counters.best.as_ref().is_none_or(|b| beats(b.value));
        if is_best {
            self.counters.best = Some(Best { images: self.counters.images, value });
        }
        is_best
    }

    /// A copy of the networks that a run is used by: the EMA weights, or the live ones if it keeps none.
    pub(crate) fn ema_networks(&self) -> S::Networks {
        self.ema.clone().unwrap_or_else(|| self.networks.valid())
    }
}

/// Whether some phase trains the tensor at a path; what none trains is frozen.
fn is_trained<S: System>(phases: &[Phase<S>], path: &str) -> bool {
    phases.iter().any(|phase| params::is_below(path, &phase.trains))
}

/// Adds a value to the term of its name.
fn add(terms: &mut Terms, name: &str, value: f64) {
    match terms.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => *old += value,
        None => terms.push((name.to_string(), value)),
    }
}

/// The summed gradients of a phase over the parts of a batch, and their global norm; `None` if the phase skips this
/// batch.
fn gradients<S: System>(
    system: &mut S,
    networks: &S::Networks,
    phase: &Phase<S>,
    parts: &[Batch],
    terms: &mut Terms,
) -> Result<Option<(Flat, f64)>> {
    let weight = 1.0 / parts.len() as f64;
    let (mut sum, mut own) = (Flat::new(), Terms::new());
    let mut taken = 0;
    if let Some(look) = phase.look {
        look(system, networks, parts)?;
    }
    for batch in parts {
        let Some(loss) = (phase.loss)(system, networks, batch)? else { continue };
        taken += 1;
        for (name, value) in loss.terms {
            let value = f64::from(value.into_scalar::<f32>());
            if !value.is_finite() {
                return Err(Error::new(format!(
                    "loss term `{name}` of phase `{}` is {value}; lower the learning rate, or clip with clip_norm",
                    phase.name
                )));
            }
            add(&mut own, name, value * weight);
        }
        let mut gradients = (loss.total * weight).backward();
        for (path, gradient) in params::take_gradients(networks, &mut gradients) {
            let gradient = match sum.remove(&path) {
                Some(old) => old + gradient,
                None => gradient,
            };
            sum.insert(path, gradient);
        }
    }
    if taken == 0 {
        return Ok(None);
    }
    // The mean over the parts that were taken.
    let rest = parts.len() as f64 / f64::from(taken);
    if rest != 1.0 {
        sum.values_mut().for_each(|gradient| *gradient = gradient.clone() * rest);
        own.iter_mut().for_each(|(_, value)| *value *= rest);
    }
    own.into_iter().for_each(|(name, value)| add(terms, &name, value));
    let norm = optim::global_norm(&sum);
    if norm.is_finite() {
        Ok(Some((sum, norm)))
    } else {
        Err(Error::new(format!("the gradient of phase `{}` is not finite; lower the learning rate", phase.name)))
    }
}
