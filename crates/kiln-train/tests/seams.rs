//! What a batch holds beside pictures: pairs, masks and captions, each through a system that takes steps on it.

#![allow(clippy::unwrap_used)] // a test may panic

use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kiln_core::{Error, Result};
use kiln_data::{DataKind, Picture};
use kiln_nn::{Conv2d, Conv2dConfig, Embedding, Init};
use kiln_train::recipe::{assignment, merge};
use kiln_train::{
    Abilities, AnySystem, Batch, DataConfig, Loss, OptimizerConfig, Options, Phase, Pictures, Run, System, TrainConfig,
    WeightSet, entry,
};
use serde::{Deserialize, Serialize};
use toml::Table;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Config {
    kind: DataKind,
    optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self { kind: DataKind::Images, optimizer: OptimizerConfig::adam(0.01) }
    }
}

#[derive(Module, Debug)]
struct Networks {
    net: Conv2d,
    words: Embedding,
}

/// Learns a picture's counterpart, its mask, or its brightness from its caption; refuses a batch in which they do not
/// belong together.
struct Seam {
    config: Config,
    pictures: Pictures,
}

fn largest(x: Tensor<4>) -> f32 {
    x.abs().max().into_scalar::<f32>()
}

impl System for Seam {
    const ID: &'static str = "seam";
    const PAPER: &'static str = "of tests";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn data_kind(config: &Config) -> DataKind {
        config.kind
    }

    fn defaults() -> (DataConfig, TrainConfig) {
        let train = TrainConfig { batch: 4, accumulate: 2, images: 1_000, preview_every: 0, ..TrainConfig::default() };
        (DataConfig { flip: true, ..DataConfig::default() }, train)
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        Ok(Self { config, pictures: pictures.clone() })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let channels = self.pictures.shape[0];
        let outputs = self.pictures.mask_classes.max(channels);
        Networks {
            net: Conv2dConfig::new(channels, outputs, 1).init(init),
            words: Embedding::new(self.pictures.vocabulary.max(1), 1, init),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        vec![Phase::new("all", &["net", "words"], self.config.optimizer.clone(), Self::loss)]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities::default()
    }
}

impl Seam {
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        let apart = |what: &str| Err(Error::new(format!("{what} do not belong together")));
        let images = batch.images();
        let (n, made) = (batch.len(), networks.net.forward(images.clone()));
        // Every network has a part in the loss, whatever it is of.
        let words = networks.words.weight.val().powi_scalar(2).mean();
        let loss = match self.config.kind {
            DataKind::Paired => {
                let (a, b) = batch.pairs()?;
                // One is the negative of the other.
                if largest(a.images.clone() + b.images.clone()) > 1e-5 {
                    return apart("pairs");
                }
                (made - b.images.clone()).powi_scalar(2).mean()
            }
            DataKind::Masked => {
                let light = images.clone().mean_dim(1).greater_elem(0.0).float();
                let [_, _, h, w] = images.dims();
                let classes = batch.mask()?.float().reshape([n, 1, h, w]);
                if largest(light - classes.clone()) > 0.0 || self.pictures.mask_classes != 2 {
                    return apart("masks");
                }
                (made.narrow(1, 1, 1) - classes).powi_scalar(2).mean()
            }
            _ => {
                let tokens = batch.tokens()?;
                let [_, length] = tokens.ids.dims();
                if length != self.pictures.caption_length || tokens.lengths.iter().any(|&l| l != 2) {
                    return apart("captions");
                }
                let each = networks.words.forward(tokens.ids.clone().reshape([n * length])).reshape([n, length]);
                let said = (each * tokens.mask.clone()).sum_dim(1);
                let brightness = images.flatten::<2>(1, 3).mean_dim(1);
                (said - brightness).powi_scalar(2).mean() + made.powi_scalar(2).mean()
            }
        };
        Ok(Some(Loss::new("loss", loss + words)))
    }
}

/// Grey pictures, light on the right from a column of their own, after what `change` makes of a pixel.
fn write(folder: &Path, change: impl Fn(u8) -> u8) {
    fs::create_dir_all(folder).unwrap();
    for i in 0..12usize {
        let pixels = (0..6 * 8).map(|at| change(if at % 8 > i % 5 { 200 + i as u8 } else { 20 })).collect();
        let path = folder.join(format!("{i:02}.png"));
        Picture::new(8, 6, 1, pixels).unwrap().write_png(&path, &[]).unwrap();
    }
}

fn recipe(kind: &str, set: &str) -> Table {
    let mut recipe = entry::<Seam>().defaults().unwrap();
    for text in [format!("model.kind={kind}"), format!("data.set={set}")] {
        merge(&mut recipe, &assignment(&text).unwrap(), "test").unwrap();
    }
    recipe
}

fn options(steps: u64) -> Options {
    Options { steps: Some(steps), quiet: true, ..Options::on(Device::flex()) }
}

fn weights(root: &Path, images: u64) -> Vec<u8> {
    let folder = Run::open(root).unwrap().checkpoints();
    fs::read(kiln_train::checkpoint::path(&folder, images).join("network.safetensors")).unwrap()
}

/// Trains whole and in parts, which must give the same bytes, and opens the run.
fn trains(folder: &Path, recipe: &Table) -> Box<dyn kiln_train::Model> {
    let system: Box<dyn AnySystem> = entry::<Seam>();
    let (whole, parts) = (folder.join("whole"), folder.join("parts"));
    system.train(recipe.clone(), &whole, &options(4)).unwrap();
    system.train(recipe.clone(), &parts, &options(2)).unwrap();
    let run = Run::open(&parts).unwrap();
    system.resume(&run, &options(4)).unwrap();
    assert!(weights(&whole, 16) == weights(&parts, 16));
    assert!(weights(&whole, 16) != weights(&parts, 8));
    system.open(&run, WeightSet::Ema, &Device::flex()).unwrap()
}

#[test]
fn pairs() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    write(&a, |v| v);
    write(&b, |v| 255 - v);
    let recipe = recipe("paired", &format!("{},{}", a.display(), b.display()));
    let model = trains(dir.path(), &recipe);
    assert_eq!(model.info().pictures.shape, [1, 6, 8]);

    for i in 0..12 {
        fs::rename(b.join(format!("{i:02}.png")), b.join(format!("{i:02}b.png"))).unwrap();
    }
    let said = entry::<Seam>().check(recipe).unwrap_err();
    assert!(said.is_usage() && said.to_string().contains("has no `0"), "{said}");
}

#[test]
fn masks() {
    let dir = tempfile::tempdir().unwrap();
    let set = dir.path().join("set");
    write(&set.join("images"), |v| v);
    write(&set.join("masks"), |v| if v > 100 { 255 } else { 0 });
    let model = trains(dir.path(), &recipe("masked", &set.display().to_string()));
    let info = model.info();
    assert_eq!((info.data.mask_values.as_slice(), info.pictures.mask_classes), (&[0, 255][..], 2));
    let said = entry::<Seam>().check(recipe("masked", &set.join("images").display().to_string())).unwrap_err();
    assert!(said.is_usage() && said.to_string().contains("`images` and `masks`"), "{said}");
}

#[test]
fn captions() {
    let dir = tempfile::tempdir().unwrap();
    let set = dir.path().join("set");
    write(&set, |v| v);
    for i in 0..12 {
        let text = if i % 5 < 3 { "Mostly light" } else { "mostly dark" };
        fs::write(set.join(format!("{i:02}.txt")), text).unwrap();
    }
    let words = recipe("captioned", &set.display().to_string());
    let model = trains(dir.path(), &words);
    let info = model.info();
    // Padding, the unknown, and three words.
    assert_eq!((info.pictures.vocabulary, info.pictures.caption_length), (5, 2));
    let tokens = info.tokenizer().unwrap().tokens("mostly DARK blue").unwrap();
    assert_eq!((tokens.len(), tokens[0], tokens[2]), (3, 2, 1));

    // A file from elsewhere makes the same tokens, and the run needs it no more.
    let file = dir.path().join("elsewhere.json");
    fs::copy(dir.path().join("whole/tokenizer.json"), &file).unwrap();
    let mut named = words.clone();
    let text = format!("data.tokenizer={}", file.display());
    merge(&mut named, &assignment(&text).unwrap(), "test").unwrap();
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    trains(&other, &named);
    assert!(weights(&other.join("whole"), 16) == weights(&dir.path().join("whole"), 16));
    fs::remove_file(file).unwrap();
    let run = Run::open(&other.join("whole")).unwrap();
    entry::<Seam>().resume(&run, &options(5)).unwrap();

    // Other tokens in its place are refused, and a set that lacks captions.
    let path = other.join("whole/tokenizer.json");
    let fewer = kiln_data::Tokenizer::of_words(&["one word".into()], 0).unwrap();
    fs::write(&path, fewer.to_json().unwrap()).unwrap();
    let said = entry::<Seam>().resume(&run, &options(6)).unwrap_err().to_string();
    assert!(said.contains("tokenizer.json: 4 tokens, and the run began with 5"), "{said}");
    for i in 0..12 {
        fs::remove_file(set.join(format!("{i:02}.txt"))).unwrap();
    }
    let said = entry::<Seam>().check(words).unwrap_err();
    assert!(said.is_usage() && said.to_string().contains("NAME.txt"), "{said}");
}
