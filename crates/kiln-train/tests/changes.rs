//! A run goes on only from a good state, with the recipe and the data that it began with.

#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use common::{options, recipe, write_pictures};
use kiln_core::Result;
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_train::checkpoint::{Checkpoint, list};
use kiln_train::{
    Abilities, AnySystem, Batch, DataConfig, Generate, Loss, OptimizerConfig, Options, Phase, Pictures, Request, Run,
    Summary, System, TrainConfig, WeightSet, entry,
};
use serde::{Deserialize, Serialize};

/// A number that goes down along its square root, below 0 after six steps at the default rate: the seventh step fails.
struct Falling {
    optimizer: OptimizerConfig,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Config {
    optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self { optimizer: OptimizerConfig::sgd(0.3, 0.0) }
    }
}

#[derive(Module, Debug)]
struct Networks {
    cell: Cell,
}

#[derive(Module, Debug)]
struct Cell {
    value: Param<Tensor<1>>,
}

impl System for Falling {
    const ID: &'static str = "falling";
    const PAPER: &'static str = "a test";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        (DataConfig::default(), TrainConfig { preview_every: 0, ..TrainConfig::default() })
    }

    fn new(config: Config, _pictures: &Pictures) -> Result<Self> {
        Ok(Self { optimizer: config.optimizer })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        Networks { cell: Cell { value: init.constant([1], 1.0) } }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let loss = |_: &mut Self, networks: &Networks, _: &Batch| {
            Ok(Some(Loss::new("root", networks.cell.value.val().sqrt())))
        };
        vec![Phase::new("falls", &["cell"], self.optimizer.clone(), loss)]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { generate: Some(self), ..Abilities::default() }
    }
}

impl Generate<Networks> for Falling {
    fn generate(&self, networks: &Networks, request: &Request) -> Result<Tensor<4>> {
        let n = request.indices.clone().count();
        // No number, if a sample of this seed is asked for.
        let scale = if request.seed == 13 { f32::NAN } else { 1.0 };
        Ok(networks.cell.value.val().reshape([1, 1, 1, 1]).repeat_dim(0, n) * scale)
    }
}

struct Case {
    dir: tempfile::TempDir,
    system: Box<dyn AnySystem>,
}

impl Case {
    fn new() -> Self {
        let case = Self { dir: tempfile::tempdir().unwrap(), system: entry::<Falling>() };
        write_pictures(&case.data(), 12);
        case
    }

    fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    fn run(&self) -> Run {
        Run::open(&self.dir.path().join("run")).unwrap()
    }

    fn train(&self, steps: u64, settings: &[&str]) -> Result<Summary> {
        let recipe = recipe(self.system.defaults().unwrap(), &self.data(), settings);
        self.system.train(recipe, &self.dir.path().join("run"), &options(steps))
    }

    fn resume(&self, steps: u64) -> Result<Summary> {
        self.system.resume(&self.run(), &options(steps))
    }

    fn accept(&self, steps: u64) -> Result<Summary> {
        self.system.resume(&self.run(), &Options { accept_changes: true, ..options(steps) })
    }

    fn edit(&self, from: &str, to: &str) {
        let path = self.run().recipe_path();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replace(from, to)).unwrap();
    }

    /// That a resume is refused in a line with these words, and changes no byte of the run.
    fn refuses(&self, steps: u64, words: &[&str]) {
        let before = bytes(self.run().root());
        let e = self.resume(steps).unwrap_err();
        assert!(e.is_usage() && words.iter().all(|word| e.to_string().contains(word)), "{e}");
        assert!(bytes(self.run().root()) == before, "a refused resume has changed the run");
    }
}

fn bytes(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(bytes(&path)),
            false => _ = all.insert(path.display().to_string(), fs::read(&path).unwrap()),
        }
    }
    all
}

#[test]
fn a_poisoned_checkpoint_is_not_kept() {
    for keep in [1, 2] {
        let case = Case::new();
        let keep = format!("train.keep={keep}");
        let e = case.train(100, &["train.checkpoint_every=4", &keep]).unwrap_err().to_string();
        assert!(e.contains("`root` of phase `falls` is NaN") && e.contains("the run stays at 20 images"), "{e}");
        assert_eq!(list(&case.run().checkpoints()).last(), Some(&20));
        // The advice of the line helps.
        case.edit("learning_rate = 0.3", "learning_rate = 0.001");
        case.refuses(8, &["model.optimizer.learning_rate was 0.3 and is 0.001", "--accept-changes"]);
        assert_eq!(case.accept(8).unwrap().steps, 8);
        assert_eq!(case.resume(9).unwrap().steps, 9);
    }
}

#[test]
fn one_good_checkpoint_is_kept_beside_a_new_one() {
    let case = Case::new();
    let settings = ["train.checkpoint_every=4", "train.keep=1"];
    // It ends in a poisoned state, which no step has tried.
    case.train(6, &settings).unwrap();
    assert_eq!(list(&case.run().checkpoints()), [20, 24]);
    let e = case.resume(7).unwrap_err().to_string();
    assert!(e.contains("no step goes on from the checkpoint of 24 images") && e.contains("remove "), "{e}");
    assert_eq!(list(&case.run().checkpoints()), [20, 24]);
}

#[test]
fn a_change_of_the_data_is_told_and_accepted_knowingly() {
    let case = Case::new();
    case.train(1, &[]).unwrap();
    let at = |file: &str| case.data().join(file);
    fs::copy(at("000.png"), at("new.png")).unwrap();
    case.refuses(2, &["1 picture added (new)", "--accept-changes"]);
    fs::remove_file(at("new.png")).unwrap();
    case.resume(2).unwrap();
    // Files of the same names and lengths.
    let (first, second) = (fs::read(at("000.png")).unwrap(), fs::read(at("001.png")).unwrap());
    fs::write(at("000.png"), second).unwrap();
    fs::write(at("001.png"), first).unwrap();
    case.refuses(3, &["changed (000"]);
    case.accept(3).unwrap();
    assert_eq!(case.resume(4).unwrap().steps, 4);
    // What was accepted is what counts.
    (3..8).for_each(|i| fs::remove_file(at(&format!("{i:03}.png"))).unwrap());
    case.refuses(5, &[" removed ("]);
}

#[test]
fn a_change_of_the_recipe_is_told_unless_it_changes_no_weights() {
    let case = Case::new();
    case.train(1, &[]).unwrap();
    for (from, to, told) in [
        ("seed = 0", "seed = 5", "seed was 0 and is 5"),
        ("batch = 4", "batch = 2", "train.batch was 4 and is 2"),
        ("ema_half_life = 10000.0", "ema_half_life = 0.0", "train.ema_half_life was 10000.0 and is 0.0"),
        ("flip = false", "flip = true", "data.flip was false and is true"),
    ] {
        case.edit(from, to);
        case.refuses(2, &[told]);
        case.edit(to, from);
    }
    case.edit("keep = 2", "keep = 3");
    case.edit("log_every = 1000", "log_every = 4");
    assert_eq!(case.resume(2).unwrap().steps, 2);
}

#[test]
fn a_run_finds_its_data_from_anywhere_and_where_they_were_moved() {
    let case = Case::new();
    case.train(1, &[]).unwrap();
    let set = case.run().recipe().unwrap()["data"]["set"].as_str().unwrap().to_string();
    assert!(Path::new(&set).is_absolute(), "{set}");
    let there = case.dir.path().join("there");
    fs::rename(case.data(), &there).unwrap();
    let e = case.resume(2).unwrap_err().to_string();
    assert!(e.contains("--data NEW"), "{e}");
    let moved = Options { data: Some(there.display().to_string()), ..options(2) };
    case.system.resume(&case.run(), &moved).unwrap();
    assert_eq!(case.resume(3).unwrap().steps, 3);
}

#[test]
fn a_run_whose_folder_is_gone_stops() {
    let case = Case::new();
    case.train(1, &[]).unwrap();
    let run = case.run();
    run.check_there().unwrap();
    fs::remove_dir_all(run.root()).unwrap();
    assert!(run.check_there().unwrap_err().to_string().contains("moved or deleted"));
}

#[test]
fn more_steps_than_can_be_counted_are_refused() {
    let case = Case::new();
    let e = case.train(u64::MAX / 2, &[]).unwrap_err();
    assert!(e.is_usage() && e.to_string().contains("too many"), "{e}");
    assert!(!case.dir.path().join("run").exists());
}

#[test]
fn what_is_no_number_does_not_leave_a_run() {
    let case = Case::new();
    case.train(1, &[]).unwrap();
    let model = case.system.open(&case.run(), WeightSet::Ema, &Device::flex()).unwrap();
    assert!(model.generate(&Request::new(0..1, 0, &Device::flex())).is_ok());
    let e = model.generate(&Request::new(0..1, 13, &Device::flex())).unwrap_err().to_string();
    assert!(e.contains("falling answers with values that are no numbers"), "{e}");
}

#[test]
fn sums_since_the_last_record_survive_a_stop() {
    let case = Case::new();
    case.train(2, &["train.log_every=16", "train.checkpoint_every=16", "train.best=root"]).unwrap();
    case.resume(4).unwrap();
    let log = fs::read_to_string(case.run().root().join("log.jsonl")).unwrap();
    let record: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    // The mean of the roots of 1, 0.85, … before each of the four steps.
    let mut value = 1.0_f64;
    let mut sum = 0.0;
    for _ in 0..4 {
        sum += value.sqrt();
        value -= 0.3 * 0.5 / value.sqrt();
    }
    assert!((record["root"].as_f64().unwrap() - sum / 4.0).abs() < 1e-5, "{record}");
    let saved = Checkpoint::newest(&case.run().checkpoints(), &mut |_| ()).unwrap().unwrap();
    assert!((saved.counters.best.unwrap().value - sum / 4.0).abs() < 1e-5);
}
