//! The seam between the loop and a system: its settings, networks, phases and losses.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::Result;
use kiln_data::{DataKind, Grouping};
use kiln_nn::Init;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ability::Abilities;
use crate::batch::Batch;
use crate::config::{DataConfig, TrainConfig};
use crate::fit::FitData;
use crate::optim::OptimizerConfig;
use crate::params::State;
use crate::sizes::SizeRule;

/// The pictures a system works on, known once the data is.
#[derive(Clone, Debug, PartialEq)]
pub struct Pictures {
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// Names of the classes; empty if unlabelled.
    pub classes: Vec<String>,
    /// Classes of pixels in masks or label maps; 0 where there are none.
    pub mask_classes: usize,
    /// The colour of each class in label maps; empty where there are none.
    pub palette: Vec<[u8; 3]>,
    /// Different tokens of captions; 0 where captions are not read as tokens.
    pub vocabulary: usize,
    /// Tokens of each caption.
    pub caption_length: usize,
}

impl Pictures {
    /// Of this shape (channels, height, width) and these classes, with nothing else.
    pub fn new(shape: [usize; 3], classes: Vec<String>) -> Self {
        Self { shape, classes, mask_classes: 0, palette: Vec::new(), vocabulary: 0, caption_length: 0 }
    }

    /// What a recipe says of them once its data has been prepared.
    pub fn of(data: &DataConfig) -> Self {
        Self {
            mask_classes: data.mask_values.len().max(data.palette.len()),
            palette: data.palette.iter().map(|class| class.colour).collect(),
            vocabulary: data.vocabulary,
            caption_length: data.caption_length,
            ..Self::new(data.shape, data.classes.clone())
        }
    }
}

/// One paper's system: networks, losses and abilities. The loop does everything else.
pub trait System: Send + Sync + Sized + 'static {
    /// Its name on the command line.
    const ID: &'static str;
    /// Authors, title, year.
    const PAPER: &'static str;
    /// The data it trains on.
    const DATA: DataKind;
    /// Its own settings: the `[model]` table of a recipe.
    type Config: Serialize + DeserializeOwned + Default + Clone + Send + Sync;
    /// All its networks, one field each; the field's name is the network's.
    type Networks: Module + 'static;

    /// The data it trains on under these settings, where they have a say.
    fn data_kind(_config: &Self::Config) -> DataKind {
        Self::DATA
    }

    /// Its settings with what another run determines, where they name one; done once, before training starts.
    ///
    /// # Errors
    /// A usage error if the other run cannot be opened or does not fit.
    fn settle(config: Self::Config) -> Result<Self::Config> {
        Ok(config)
    }

    /// How the data is read, where another run determines it: the words that a frozen text encoder knows. After [`System::settle`].
    fn settle_data(_config: &Self::Config, data: DataConfig) -> DataConfig {
        data
    }

    /// Its settings with what they leave to the pictures decided; done once, before training starts, so that a run's recipe
    /// says it.
    fn resolve(config: Self::Config, _pictures: &Pictures) -> Self::Config {
        config
    }

    /// The runs and files whose networks it starts from, if its settings name any. A network that no phase trains
    /// stays as it is, and is kept but once in a checkpoint.
    fn init_from(_config: &Self::Config) -> Vec<InitFrom<'_>> {
        Vec::new()
    }

    /// Defaults of the `[data]` and `[train]` tables.
    fn defaults() -> (DataConfig, TrainConfig);

    /// The sizes of pictures it takes under these settings, which [`System::new`] checks.
    fn sizes(_config: &Self::Config) -> SizeRule {
        SizeRule::any()
    }

    /// Checks the settings against the pictures.
    ///
    /// # Errors
    /// A usage error naming the setting that does not fit.
    fn new(config: Self::Config, pictures: &Pictures) -> Result<Self>;

    /// Makes fresh networks.
    fn networks(&self, init: &mut Init) -> Self::Networks;

    /// Fresh networks with what a look at the data sets in them, such as the bias of an output at its mean.
    ///
    /// # Errors
    /// If the data cannot be read.
    fn initialise(&self, fresh: Self::Networks, _data: &FitData<'_>) -> Result<Self::Networks> {
        Ok(fresh)
    }

    /// What happens in a step, in order; nothing for a system that [`System::fit`] trains.
    fn phases(&self) -> Vec<Phase<Self>>;

    /// The networks that the whole data determines in closed form, made of fresh ones (principal components, subspace
    /// alignment): for a system without phases, which is trained when this returns.
    ///
    /// # Errors
    /// If the data cannot be read, or does not determine them.
    fn fit(&self, _fresh: Self::Networks, _data: &FitData<'_>) -> Result<Option<Self::Networks>> {
        Ok(None)
    }

    /// Whether its discriminator sees pictures through [`Batch::augmentation`], so that `train.augment` works.
    fn augments(_config: &Self::Config) -> bool {
        false
    }

    /// Which pictures come together in a batch; it knows its kind as [`Batch::kind`].
    fn grouping(&self) -> Grouping {
        Grouping::Shuffled
    }

    /// What the system can do.
    fn abilities(&self) -> Abilities<'_, Self::Networks>;

    /// Tensors beside the networks that a resumed run needs (an image pool).
    fn state(&self) -> State {
        State::new()
    }

    /// Takes back what [`System::state`] gave.
    fn restore(&mut self, _state: State) {}
}

/// Paths of networks: in their source, and here.
pub type NetworkPaths = &'static [(&'static str, &'static str)];

/// Networks that a system does not make afresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitFrom<'a> {
    /// The folder of the run that has trained them, of which the EMA weights are taken; or a file of weights with
    /// PyTorch's names, safetensors or a state dict of `torch.save`.
    pub source: &'a str,
    /// Their paths there and here; an empty path there is all of it. All that a network has here must be there, and
    /// there may be more.
    pub networks: NetworkPaths,
}

impl<'a> InitFrom<'a> {
    /// In place of a source: untrained networks, for tests.
    pub const RANDOM: &'static str = "random";

    /// From a source that a setting names; nothing where it names none, or [`InitFrom::RANDOM`].
    pub fn named(source: &'a str, networks: NetworkPaths) -> Vec<Self> {
        if source.is_empty() || source == Self::RANDOM { Vec::new() } else { vec![Self { source, networks }] }
    }
}

/// The loss of a phase on a batch; `None` skips the update (a discriminator that is ahead).
pub type PhaseLoss<S> = fn(&mut S, &<S as System>::Networks, &Batch) -> Result<Option<Loss>>;

/// What a phase looks at in a whole batch before its loss sees the parts.
pub type PhaseLook<S> = fn(&mut S, &<S as System>::Networks, &[Batch]) -> Result<()>;

/// A part of a step that updates some networks by one loss.
pub struct Phase<S: System> {
    /// Its name in logs and checkpoints.
    pub name: &'static str,
    /// The networks it updates: paths in [`System::Networks`], `generator` or `generator.mapping`.
    pub trains: Vec<&'static str>,
    /// How they are updated.
    pub optimizer: OptimizerConfig,
    /// Another phase whose optimiser it uses, moments and all, in place of its own: a regulariser and the loss
    /// it belongs to.
    pub shares: Option<&'static str>,
    /// It runs every so many steps (lazy regularisers, several discriminator steps).
    pub every: u64,
    /// The images seen between which it runs: a stage of the training.
    pub during: Range<u64>,
    /// A look at all parts of the batch, for a loss that is of the whole batch and not a mean over its parts (contrastive learning).
    pub look: Option<PhaseLook<S>>,
    /// What it minimises.
    pub loss: PhaseLoss<S>,
}

impl<S: System> Phase<S> {
    /// A phase of every step.
    pub fn new(name: &'static str, trains: &[&'static str], optimizer: OptimizerConfig, loss: PhaseLoss<S>) -> Self {
        Self { name, trains: trains.to_vec(), optimizer, shares: None, every: 1, during: 0..u64::MAX, look: None, loss }
    }

    /// A phase of every n-th step.
    pub fn every(self, n: u64) -> Self {
        Self { every: n.max(1), ..self }
    }

    /// After a look at all parts of the batch.
    pub fn after_a_look(self, look: PhaseLook<S>) -> Self {
        Self { look: Some(look), ..self }
    }

    /// With the optimiser of the phase named `other`, which must come before it.
    pub fn shares(self, other: &'static str) -> Self {
        Self { shares: Some(other), ..self }
    }

    /// Only while so many images have been seen.
    pub fn during(self, images: Range<u64>) -> Self {
        Self { during: images, ..self }
    }

    /// Whether it runs in a step that begins after so many steps and images.
    pub fn is_due(&self, steps: u64, images: u64) -> bool {
        steps.is_multiple_of(self.every) && self.during.contains(&images)
    }
}

/// What a phase minimises, and the numbers it reports.
pub struct Loss {
    /// The scalar to descend.
    pub total: Tensor<1>,
    /// Named terms for the log.
    pub terms: Vec<(&'static str, Tensor<1>)>,
}

impl Loss {
    /// A loss of one term.
    pub fn new(name: &'static str, total: Tensor<1>) -> Self {
        Self { terms: vec![(name, total.clone().detach())], total }
    }

    /// Adds a term to the total and to the log.
    pub fn plus(mut self, name: &'static str, weight: f64, term: Tensor<1>) -> Self {
        self.terms.push((name, term.clone().detach()));
        self.total = self.total + term * weight;
        self
    }

    /// Adds a number to the log only.
    pub fn report(mut self, name: &'static str, value: Tensor<1>) -> Self {
        self.terms.push((name, value.detach()));
        self
    }
}
