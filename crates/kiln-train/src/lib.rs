//! The training loop and everything around it: phases, optimisers, EMA, schedules, recipes, runs,
//! checkpoints, logs, previews, and the interface to the systems.
//!
//! A [`System`] defines its networks, phases, losses and abilities. This crate trains it, saves it, resumes it
//! bit for bit, and offers its abilities to the verbs.

pub mod batch;
pub mod checkpoint;
pub mod device;
pub mod ema;
pub mod log;
pub mod memory;
pub mod model;
pub mod optim;
pub mod params;
pub mod preview;
pub mod progress;
pub mod recipe;
pub mod run;
pub mod schedule;
pub mod system;
pub mod trainer;
pub mod watch;

pub use kiln_kernels::Precision;

pub use batch::{Batch, Domain};
pub use model::{AnySystem, Model, entry};
pub use optim::OptimizerConfig;
pub use params::{HostTensor, State};
pub use progress::Progress;
pub use recipe::{DataConfig, Recipe, TrainConfig};
pub use run::Run;
pub use schedule::Schedule;
pub use system::{
    Abilities, Ability, Beginning, ChainWatch, Classify, Complete, Context, Decode, Encode, Generate, GenerateRequest,
    Guide, Guided, Likelihood, Looks, Loss, Phase, Pictures, Reconstruct, Represent, SamplerSettings, Segment, System,
    Translate,
};
pub use trainer::{Options, Summary};
pub use watch::{Figure, Watch, Watcher};
