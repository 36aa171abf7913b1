//! What tests of the loop share: pictures to train on, and recipes.

#![allow(dead_code)] // each test file uses some

use std::path::Path;

use burn::tensor::Device;
use kiln_data::Picture;
use kiln_train::recipe::{assignment, merge};
use kiln_train::{AnySystem, Options};
use toml::Table;

/// `count` grey pictures of 5x5 pixels that are sums of three patterns.
pub fn write_pictures(folder: &Path, count: usize) {
    std::fs::create_dir_all(folder).unwrap();
    for i in 0..count {
        let wave = |by: usize| ((i * by * 37 % 101) as f64 / 50.0 - 1.0) * 20.0;
        let pixel = |at: usize| {
            let (y, x) = (at / 5, at % 5);
            let up = [y as f64 - 2.0, x as f64 - 2.0, f64::from((x + y) as u32 % 2) - 0.5];
            (128.0 + up.iter().zip([wave(1), wave(2), wave(3)]).map(|(p, w)| p * w).sum::<f64>()) as u8
        };
        let picture = Picture::new(5, 5, 1, (0..25).map(pixel).collect()).unwrap();
        picture.write_png(&folder.join(format!("{i:03}.png")), &[]).unwrap();
    }
}

/// A system's recipe for the pictures of a folder, four a step, with some settings.
pub fn recipe(mut base: Table, data: &Path, settings: &[&str]) -> Table {
    let set = format!("data.set={}", data.display());
    let common = [set.as_str(), "train.batch=4", "train.images=1000"];
    for text in common.iter().chain(settings) {
        merge(&mut base, &assignment(text).unwrap(), "test").unwrap();
    }
    base
}

/// Trains so many steps in all.
pub fn options(steps: u64) -> Options {
    Options { steps: Some(steps), quiet: true, ..Options::on(Device::flex()) }
}

/// Trains a system from its defaults.
pub fn train(system: &dyn AnySystem, data: &Path, root: &Path, steps: u64, settings: &[&str]) -> kiln_core::Result<()> {
    system.train(recipe(system.defaults()?, data, settings), root, &options(steps)).map(drop)
}
