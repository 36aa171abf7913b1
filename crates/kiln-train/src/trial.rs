//! A system on made-up pictures, without data and without a run: what benchmarks time.

use std::path::Path;

use burn::tensor::Device;
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_data::{DataKind, HostBatch, Part};

use crate::live::Live;
use crate::memory;
use crate::model::{Info, Loaded, Model};
use crate::params;
use crate::recipe::Recipe;
use crate::system::{Pictures, System};

/// A system that trains on made-up pictures.
pub trait Trial {
    /// Takes a training step on fresh pictures.
    ///
    /// # Errors
    /// As a step of a run.
    fn step(&mut self) -> Result<()>;

    /// Numbers in all networks.
    fn parameters(&self) -> usize;

    /// The system with its networks as they are now, for use.
    ///
    /// # Errors
    /// If the settings do not fit the pictures.
    fn model(&self) -> Result<Box<dyn Model>>;
}

/// A trial of a system on binary noise in the recipe's `data.shape` and `data.classes`.
///
/// # Errors
/// If the system trains on data that cannot be made up, or its settings do not fit the shape.
pub(crate) fn trial<S: System>(mut recipe: Recipe<S::Config>, device: &Device) -> Result<Box<dyn Trial>> {
    let domains = match S::data_kind(&recipe.model) {
        DataKind::Images | DataKind::Labelled => 1,
        DataKind::PartlyLabelled | DataKind::TwoDomains | DataKind::SourceTarget | DataKind::Paired => 2,
        other => return Err(Error::usage(format!("{}: there is no made-up {other:?} data to time it on", S::ID))),
    };
    let pictures = Pictures::of(&recipe.data);
    recipe.model = S::resolve(recipe.model, &pictures);
    let system = S::new(recipe.model.clone(), &pictures)?;
    memory::check(&system, memory::TRAINING)?;
    let live = Live::new(system, &recipe, &device.clone().autodiff(), device)?;
    Ok(Box::new(OnNoise::<S> { live: Some(live), recipe, domains, device: device.clone() }))
}

struct OnNoise<S: System> {
    /// `None` only while a step has it.
    live: Option<Live<S>>,
    recipe: Recipe<S::Config>,
    domains: usize,
    device: Device,
}

impl<S: System> OnNoise<S> {
    /// A domain's pictures: each pixel −1 or 1, labels in turn.
    fn part(&self, domain: usize, start: u64) -> Part {
        let (n, [c, h, w]) = (self.recipe.train.batch, self.recipe.data.shape);
        let key = Key::new(0).purpose("pictures").at(domain as u64);
        let pixels = key.uniform(start..start + n as u64, c * h * w);
        let classes = self.recipe.data.classes.len() as u32;
        Part {
            shape: [n, c, h, w],
            values: pixels.into_iter().map(|u| if u < 0.5 { -1.0 } else { 1.0 }).collect(),
            labels: (classes > 0).then(|| (0..n as u32).map(|i| i % classes).collect()),
            captions: vec![None; n],
            indices: (0..n).collect(),
            ..Part::default()
        }
    }
}

impl<S: System> Trial for OnNoise<S> {
    fn step(&mut self) -> Result<()> {
        let ended = || Error::new("this trial ended with a step that failed");
        let live = self.live.take().ok_or_else(ended)?;
        let start = live.counters.images;
        let host = HostBatch { start, parts: (0..self.domains).map(|domain| self.part(domain, start)).collect() };
        let sizes = vec![self.recipe.train.batch; self.domains];
        let (live, outcome) = live.step(host, &sizes, &self.recipe, &self.device.clone().autodiff());
        self.live = Some(live);
        outcome.map(|_| ())
    }

    fn parameters(&self) -> usize {
        self.live.as_ref().map_or(0, |live| params::count(&live.networks))
    }

    fn model(&self) -> Result<Box<dyn Model>> {
        let live = self.live.as_ref().ok_or_else(|| Error::new("this trial ended with a step that failed"))?;
        let info = Info::of::<S>(&self.recipe, Path::new("trial"), &live.counters, &self.device);
        let mut system = S::new(self.recipe.model.clone(), &info.pictures)?;
        system.restore(live.system.state());
        Ok(Box::new(Loaded { system, networks: live.ema_networks(), info }))
    }
}
