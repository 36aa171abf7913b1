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
