//! Runs that start from trained networks: several sources, what stays frozen, and `--from`.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

mod common;

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use common::{options, recipe, train, write_pictures};
use kiln_core::Result;
use kiln_data::DataKind;
use kiln_nn::{Init, Linear, LinearConfig};
use kiln_train::checkpoint::{self, Checkpoint};
use kiln_train::params::{self, HostTensor, State};
use kiln_train::{
    Abilities, DataConfig, InitFrom, Loss, OptimizerConfig, Phase, Pictures, Reconstruct, Run, System, TrainConfig,
    WeightSet, entry,
};
use serde::{Deserialize, Serialize};

/// An autoencoder of two layers, or a third layer between those of two sources.
struct Layers<const MIDDLE: bool>(Config, Pictures);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Config {
    width: usize,
    /// Where the outer layers are from, if they stay as they are.
    first: String,
    last: String,
    optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self { width: 3, first: String::new(), last: String::new(), optimizer: OptimizerConfig::adam(0.01) }
    }
}

#[derive(Module, Debug)]
struct Networks {
    first: Linear,
    middle: Option<Linear>,
    last: Linear,
}

impl<const MIDDLE: bool> System for Layers<MIDDLE> {
    const ID: &'static str = if MIDDLE { "middle" } else { "layers" };
    const PAPER: &'static str = "a test";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn init_from(config: &Config) -> Vec<InitFrom<'_>> {
        let sources = [
            InitFrom { source: &config.first, networks: &[("first", "first")] },
            InitFrom { source: &config.last, networks: &[("", "last")] },
        ];
        sources.into_iter().filter(|from| !from.source.is_empty()).collect()
    }

    fn defaults() -> (DataConfig, TrainConfig) {
        (DataConfig::default(), TrainConfig::default())
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        Ok(Self(config, pictures.clone()))
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (pixels, width) = (self.1.shape.iter().product(), self.0.width);
        Networks {
            first: LinearConfig::new(pixels, width).init(init),
            middle: MIDDLE.then(|| LinearConfig::new(width, width).init(init)),
            last: LinearConfig::new(width, pixels).init(init),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let trains: &[&str] = if MIDDLE { &["middle"] } else { &["first", "last"] };
        vec![Phase::new("all", trains, self.0.optimizer.clone(), |_, networks: &Networks, batch| {
            let images = batch.images();
            Ok(Some(Loss::new("mse", (networks.forward(images.clone()) - images).square().mean())))
        })]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { reconstruct: Some(self), ..Abilities::default() }
    }
}

impl Networks {
    fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let shape = images.dims();
        let x = self.first.forward(images.reshape([shape[0], shape[1] * shape[2] * shape[3]]));
        let x = match &self.middle {
            Some(middle) => middle.forward(x),
            None => x,
        };
        self.last.forward(x).reshape(shape)
    }
}

impl<const MIDDLE: bool> Reconstruct<Networks> for Layers<MIDDLE> {
    fn reconstruct(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<4>> {
        Ok(networks.forward(images))
    }
}

fn saved(root: &Path) -> Checkpoint {
    Checkpoint::newest(&Run::open(root).unwrap().checkpoints(), &mut |_| ()).unwrap().unwrap()
}

fn part(state: &State, network: &str) -> Vec<(String, HostTensor)> {
    let below = |(path, t): (&String, &HostTensor)| Some((path.strip_prefix(network)?.to_string(), t.clone()));
    state.iter().filter_map(below).collect()
}

#[test]
fn networks_come_from_several_sources_and_frozen_ones_are_kept_once() {
    let dir = tempfile::tempdir().unwrap();
    let (data, one, two) = (dir.path().join("data"), dir.path().join("one"), dir.path().join("two"));
    write_pictures(&data, 12);
    let layers = entry::<Layers<false>>();
    train(&*layers, &data, &one, 3, &[]).unwrap();
    // A published file, with the names that PyTorch gives a layer, and a counter as its batch norms have.
    let file = dir.path().join("last.safetensors");
    let weight: Vec<u8> = (0..75).flat_map(|i| (i as f32 * 0.01).to_le_bytes()).collect();
    let bias: Vec<u8> = (0..25).flat_map(|i| (i as f32 * 0.1).to_le_bytes()).collect();
    let view =
        |dtype, shape: &[usize], bytes| safetensors::tensor::TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
    let (f32, i64) = (safetensors::Dtype::F32, safetensors::Dtype::I64);
    let tensors = [
        ("weight", view(f32, &[25, 3], &weight)),
        ("bias", view(f32, &[25], &bias)),
        ("num_batches_tracked", view(i64, &[], &[0; 8])),
    ];
    std::fs::write(&file, safetensors::serialize(tensors, None).unwrap()).unwrap();

    let middle = entry::<Layers<true>>();
    let (first, last) = (format!("model.first={}", one.display()), format!("model.last={}", file.display()));
    train(&*middle, &data, &two, 3, &[&first, &last]).unwrap();
    let (before, after) = (saved(&one), saved(&two));
    assert!(!before.ema.is_empty() && before.ema != before.network);
    assert_eq!(part(&after.network, "first."), part(&before.ema, "first."));
    assert_eq!(after.network["last.weight"].values[74], 0.74);
    assert_eq!(after.network["last.bias"].values[24], 2.4);
    let trained: Vec<&String> = after.ema.keys().collect();
    assert_eq!(trained, ["middle.bias", "middle.weight"]);
    assert!(after.optimizer.keys().all(|name| name.contains("middle")));

    // Both weight sets open whole, and a checkpoint with everything in its EMA file still does.
    let run = Run::open(&two).unwrap();
    let picture = Tensor::<4>::ones([1, 1, 5, 5], &Device::flex());
    let shown = |set| {
        let model = middle.open(&run, set, &Device::flex()).unwrap();
        kiln_nn::tensor::to_values(model.reconstruct(picture.clone()).unwrap())
    };
    let ema = shown(WeightSet::Ema);
    assert_ne!(ema, shown(WeightSet::Live));
    let mut older = saved(&two);
    older.ema = older.network.clone().into_iter().chain(older.ema).collect();
    older.save(&run.checkpoints()).unwrap();
    assert_eq!(shown(WeightSet::Ema), ema);

    // Resumed without the sources it is what it would have been in one go.
    let whole = dir.path().join("whole");
    train(&*middle, &data, &whole, 6, &[&first, &last]).unwrap();
    std::fs::remove_dir_all(&one).unwrap();
    std::fs::remove_file(&file).unwrap();
    middle.resume(&run, &options(6)).unwrap();
    let (a, b) = (saved(&whole), saved(&two));
    assert!(a.network == b.network && a.ema == b.ema && a.optimizer == b.optimizer);
    let no = train(&*middle, &data, &dir.path().join("no"), 1, &[&last]).unwrap_err();
    assert!(no.is_usage() && no.to_string().contains("last.safetensors: not a run"), "{no}");
}

#[test]
fn a_run_goes_on_from_another_of_its_system() {
    let dir = tempfile::tempdir().unwrap();
    let (data, one, two) = (dir.path().join("data"), dir.path().join("one"), dir.path().join("two"));
    write_pictures(&data, 12);
    let layers = entry::<Layers<false>>();
    train(&*layers, &data, &one, 3, &["model.width=5"]).unwrap();
    let from = |system: &dyn kiln_train::AnySystem, settings: &[&str]| {
        let base = system.defaults_from(&Run::open(&one).unwrap())?;
        system.train(recipe(base, &data, settings), &two, &options(1))
    };
    // Nothing learned, so that what it began with is seen: the other's EMA weights, and its settings.
    from(&*layers, &["model.optimizer.learning_rate=0"]).unwrap();
    let (before, after) = (saved(&one), saved(&two));
    assert_eq!(after.network, before.ema);
    assert!(before.network != before.ema && after.counters.images == 4);
    let table = Run::open(&two).unwrap().recipe().unwrap();
    assert_eq!(table["model"]["width"].as_integer(), Some(5));
    assert_eq!(table["train"]["init_from"].as_str(), Some(one.display().to_string().as_str()));
    assert_eq!(checkpoint::list(&Run::open(&two).unwrap().checkpoints()), [4]);

    std::fs::remove_dir_all(&two).unwrap();
    let said = from(&*layers, &["model.width=4"]).unwrap_err();
    let text = said.to_string();
    assert!(said.is_usage() && !text.contains('\n') && !two.exists(), "{text}");
    assert!(text.contains("`first.bias` has shape [5] where these settings need [4]"), "{text}");
    let networks = Layers::<true>(Config::default(), Pictures::new([1, 2, 2], Vec::new()))
        .networks(&mut Init::new(&Device::flex(), 0));
    let many = params::load(networks, &State::new(), "x").unwrap_err().to_string();
    assert!(many.starts_with("x: tensor `first.weight` is missing; ") && many.ends_with("; and 3 more"), "{many}");
    let said = from(&*entry::<Layers<true>>(), &[]).unwrap_err().to_string();
    assert!(said.contains("a run of layers, not of middle"), "{said}");
}
