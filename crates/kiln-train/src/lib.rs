//! The training loop and everything around it: phases, optimisers, EMA, schedules, recipes, runs,
//! checkpoints, logs, previews, and the interface to the systems.
//!
//! A [`System`] defines its networks, phases, losses and abilities. This crate trains it, saves it, resumes it
//! bit for bit, and offers its abilities to the verbs.

pub mod ability;
pub mod augment;
pub mod batch;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod device;
pub mod ema;
pub mod fit;
mod health;
pub mod init_from;
pub mod interrupt;
mod live;
pub mod log;
pub mod means;
pub mod memory;
pub mod minimise;
pub mod model;
pub mod optim;
pub mod origin;
pub mod params;
pub mod preview;
pub mod progress;
pub mod ranges;
pub mod recipe;
pub mod registry;
pub mod request;
pub mod run;
pub mod schedule;
mod session;
pub mod sizes;
pub mod system;
mod tensorboard;
pub mod trainer;
pub mod trial;
pub mod watch;

pub use kiln_kernels::Precision;

pub use ability::{
    Abilities, Ability, Classify, Cluster, Decode, Discriminate, Distance, Encode, Generate, Inpaint, Likelihood,
    MatchTexts, Mix, Project, Projection, Reconstruct, Represent, Segment, StyleGroup, Translate,
};
pub use batch::{Batch, Domain, Tokens};
pub use checkpoint::WeightSet;
pub use config::{DataConfig, TrainConfig};
pub use fit::FitData;
pub use model::Model;
pub use optim::OptimizerConfig;
pub use params::{HostTensor, State};
pub use progress::Progress;
pub use recipe::Recipe;
pub use registry::{AnySystem, entry};
pub use request::{ChainWatch, Condition, Context, Guide, Guided, Input, Looks, Prompt, Request};
pub use run::Run;
pub use schedule::Schedule;
pub use session::Options;
pub use sizes::SizeRule;
pub use system::{InitFrom, Loss, Phase, PhaseLook, PhaseLoss, Pictures, System};
pub use trainer::Summary;
pub use trial::Trial;
pub use watch::{Evaluation, Watch, Watcher};
