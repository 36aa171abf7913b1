//! What a phase can say of itself: how often it runs, in which stage, with whose optimiser, and that it skips a batch.

#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use common::{options, recipe, write_pictures};
use kiln_core::Result;
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_train::checkpoint::Checkpoint;
use kiln_train::{
    Abilities, Batch, DataConfig, Loss, OptimizerConfig, Phase, Pictures, Run, System, TrainConfig, entry,
};
use serde::{Deserialize, Serialize};

/// Numbers that go down by the learning rate whenever their phase updates them.
struct Counting;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Config {
    optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self { optimizer: OptimizerConfig::sgd(1.0, 0.0) }
    }
}

#[derive(Module, Debug)]
struct Networks {
    always: Cell,
    third: Cell,
    stage: Cell,
    skipping: Cell,
}

#[derive(Module, Debug)]
struct Cell {
    left: Param<Tensor<1>>,
    right: Param<Tensor<1>>,
}

impl Cell {
    fn new(init: &mut Init) -> Self {
        Self { left: init.constant([1], 0.0), right: init.constant([1], 0.0) }
    }

    fn loss(&self) -> Loss {
        Loss::new("sum", self.left.val() + self.right.val())
    }
}

impl System for Counting {
    const ID: &'static str = "counting";
    const PAPER: &'static str = "a test";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        (DataConfig::default(), TrainConfig { ema_half_life: 0.0, ..TrainConfig::default() })
    }

    fn new(_config: Config, _pictures: &Pictures) -> Result<Self> {
        Ok(Self)
    }

    fn networks(&self, init: &mut Init) -> Networks {
        Networks { always: Cell::new(init), third: Cell::new(init), stage: Cell::new(init), skipping: Cell::new(init) }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let sgd = || OptimizerConfig::sgd(1.0, 0.0);
        vec![
            Phase::new("always", &["always"], sgd(), |_, n: &Networks, _| Ok(Some(n.always.loss()))),
            Phase::new("third", &["third.left"], sgd(), |_, n: &Networks, _| Ok(Some(n.third.loss())))
                .every(3)
                .shares("always"),
            Phase::new("stage", &["stage"], sgd(), |_, n: &Networks, _| Ok(Some(n.stage.loss()))).during(8..20),
            Phase::new("skipping", &["skipping"], sgd(), Self::odd_batches),
        ]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities::default()
    }
}

impl Counting {
    /// Skips every second part of four images.
    fn odd_batches(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        Ok((batch.start / 4 % 2 == 1).then(|| networks.skipping.loss()))
    }
}

fn newest(root: &Path) -> Checkpoint {
    Checkpoint::newest(&Run::open(root).unwrap().checkpoints(), &mut |_| ()).unwrap().unwrap()
}

#[test]
fn phases_run_when_they_are_due_and_are_resumed_so() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    write_pictures(&data, 12);
    let system = entry::<Counting>();
    let recipe = || recipe(system.defaults().unwrap(), &data, &[]);
    let [whole, parts] = ["whole", "parts"].map(|name| dir.path().join(name));
    system.train(recipe(), &whole, &options(7)).unwrap();
    system.train(recipe(), &parts, &options(3)).unwrap();
    system.resume(&Run::open(&parts).unwrap(), &options(7)).unwrap();
    let (a, b) = (newest(&whole), newest(&parts));
    assert!(a.network == b.network && a.optimizer == b.optimizer);
    assert_eq!(a.counters.optimizer_steps, b.counters.optimizer_steps);

    // Seven steps of four images: the third runs in steps 0, 3 and 6, the stage in those that begin at 8, 12 and 16
    // images, the skipping one in every second.
    let value = |path: &str| a.network[path].values[0];
    assert_eq!([value("always.left"), value("always.right")], [-7.0, -7.0]);
    assert_eq!([value("third.left"), value("third.right")], [-3.0, 0.0], "a path trains what is below it only");
    assert_eq!(value("stage.left"), -3.0);
    assert_eq!(value("skipping.left"), -3.0);
    let steps = &a.counters.optimizer_steps;
    assert_eq!(steps["always"], 10, "the regulariser's steps are its optimiser's");
    assert!(!steps.contains_key("third"));
    assert_eq!([steps["stage"], steps["skipping"]], [3, 3]);
}

/// A part of a batch that a phase skips weighs nothing: the mean is over the others.
#[test]
fn the_mean_of_a_split_batch_is_over_the_parts_that_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    write_pictures(&data, 12);
    let system = entry::<Counting>();
    let root = dir.path().join("run");
    let settings = ["train.batch=8", "train.accumulate=2", "train.log_every=8"];
    system.train(recipe(system.defaults().unwrap(), &data, &settings), &root, &options(3)).unwrap();
    assert_eq!(newest(&root).network["skipping.left"].values, [-3.0]);
}

/// A parameter that only one of two phases with one optimiser reaches has its own count of updates, as in PyTorch: its
/// first step is as large as any first step of Adam.
#[test]
fn a_shared_optimiser_counts_the_updates_of_each_parameter() {
    use kiln_train::optim::Optimizer;
    use kiln_train::params::Flat;

    let device = burn::tensor::Device::flex();
    let cell = || {
        let mut init = Init::new(&device, 0);
        Cell::new(&mut init)
    };
    let gradient = |path: &str| Flat::from([(path.to_string(), Tensor::<1>::ones([1], &device))]);
    let mut optimizer = Optimizer::new(OptimizerConfig::adam(0.5));
    let mut module = cell();
    for _ in 0..100 {
        module = optimizer.step(module, gradient("left"), 1.0, 1.0);
    }
    module = optimizer.step(module, gradient("right"), 1.0, 1.0);
    let right = module.right.val().into_scalar::<f32>();
    assert!((right + 0.5).abs() < 1e-4, "{right}");

    // And a resumed one goes on so.
    let mut state = kiln_train::State::new();
    optimizer.state("phase", &mut state);
    let mut resumed = Optimizer::new(OptimizerConfig::adam(0.5));
    resumed.load("phase", &state, optimizer.steps(), &device).unwrap();
    let next = |mut o: Optimizer| o.step(cell(), gradient("right"), 1.0, 1.0).right.val().into_scalar::<f32>();
    assert_eq!(next(optimizer), next(resumed));
}
