//! Runs of the system on two small folders: stripes, and the same with less contrast on a brighter ground.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_data::Picture;
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::recipe::{assignment, merge};
use kiln_train::{Model, Options, Run, WeightSet};

const SIDE: usize = 12;
const CLASSES: [&str; 2] = ["across", "down"];

/// Pixels of the i-th picture of a class, in [−1, 1].
fn pixels(class: usize, i: usize, target: bool) -> Vec<f32> {
    let noise = Key::new(u64::from(target)).at(class as u64).uniform([i as u64], SIDE * SIDE);
    let (ground, contrast) = if target { (0.3, 0.35) } else { (-0.2, 0.6) };
    let of = |at: usize| {
        let along = if class == 0 { at / SIDE } else { at % SIDE };
        let stripe = if (along + i % 2) % 4 < 2 { contrast } else { -contrast };
        ground + stripe + 0.3 * (noise[at] - 0.5)
    };
    (0..SIDE * SIDE).map(of).collect()
}

/// A folder of 12 pictures a class, in folders of their classes unless they are to have none.
fn write(folder: &Path, target: bool, classes: &[&str]) {
    for class in 0..2 {
        let inside = classes.get(class).map_or_else(|| folder.to_path_buf(), |name| folder.join(name));
        std::fs::create_dir_all(&inside).unwrap();
        for i in 0..12 {
            let levels = pixels(class, i, target).into_iter().map(|v| ((v + 1.0) * 127.5).clamp(0.0, 255.0) as u8);
            let picture = Picture::new(SIDE, SIDE, 1, levels.collect()).unwrap();
            picture.write_png(&inside.join(format!("{class}-{i:02}.png")), &[]).unwrap();
        }
    }
}

/// A run on both folders below `root`.
fn train(root: &Path, settings: &[&str]) -> Result<Box<dyn Model>> {
    let (system, run) = (crate::find("shallow")?, root.join("run"));
    let _ = std::fs::remove_dir_all(&run);
    let mut recipe = system.defaults()?;
    let sets = format!("data.set={0}/source,{0}/target", root.display());
    let common = [
        sets.as_str(),
        "data.channels=1",
        "data.size=12",
        "model.dimension=3",
        "model.cell=3",
        "model.words=4",
        "model.samples=30",
    ];
    for text in common.iter().chain(settings) {
        merge(&mut recipe, &assignment(text)?, "test")?;
    }
    system.train(recipe, &run, &Options { quiet: true, ..Options::on(Device::flex()) })?;
    system.open(&Run::open(&run)?, WeightSet::Ema, &Device::flex())
}

/// How many of 20 pictures of the target that no run has seen get their class.
fn right(model: &dyn Model) -> usize {
    let images: Vec<f32> = (0..20).flat_map(|i| pixels(i % 2, 100 + i / 2, true)).collect();
    let images: Tensor<4> = from_values(images, [20, 1, SIDE, SIDE], &Device::flex());
    let logits = to_values(model.classify(images).unwrap());
    (0..20).filter(|i| (logits[2 * i] < logits[2 * i + 1]) == (i % 2 == 1)).count()
}

#[test]
fn every_method_tells_new_pictures_of_the_target_apart() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("source"), false, &CLASSES);
    write(&dir.path().join("target"), true, &[]);
    for method in ["none", "sa", "sda", "gfk", "tca", "jda", "tjm", "sca", "otgl", "jgsa"] {
        let kernel = if ["tjm", "sca"].contains(&method) { "model.kernel=rbf" } else { "model.kernel=primal" };
        for other in ["model.predictor=svm", "model.features=descriptors", "model.standardize=joint"] {
            let model = train(dir.path(), &[&format!("model.method={method}"), kernel, other]).unwrap();
            assert!(right(&*model) >= 18, "{method} {other}: {} of 20", right(&*model));
        }
    }
    for kernel in ["linear", "rbf"] {
        let kernel = format!("model.kernel={kernel}");
        assert!(right(&*train(dir.path(), &["model.method=jgsa", &kernel]).unwrap()) >= 18);
    }
}

#[test]
fn what_cannot_be_learned_from_is_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let said = |settings: &[&str]| -> Error { train(dir.path(), settings).err().unwrap() };
    write(&dir.path().join("source"), false, &CLASSES);
    write(&dir.path().join("target"), true, &[]);
    for (settings, says) in [
        (&["model.method=sa", "model.dimension=24"][..], "model.dimension = 24"),
        (&["model.method=sa", "model.samples=3"], "model.dimension = 3"),
        (&["data.labels=2"], "no labels"),
        (&["model.method=sca", "model.kernel=primal"], "model.kernel"),
        (&["model.lambda=0.0"], "model.lambda"),
        (&["model.features=descriptors", "model.cell=7"], "model.cell = 7"),
    ] {
        let error = said(settings).to_string();
        assert!(error.contains(says) && !error.contains('\n'), "{settings:?}: {error}");
    }
    std::fs::remove_dir_all(dir.path().join("target")).unwrap();
    write(&dir.path().join("target"), true, &["left", "right"]);
    assert!(said(&[]).to_string().contains("a class has to mean the same in both"));
    std::fs::remove_dir_all(dir.path().join("target")).unwrap();
    write(&dir.path().join("target"), true, &[]);
    std::fs::remove_dir_all(dir.path().join("source/down")).unwrap();
    assert!(said(&[]).to_string().contains("two classes"));
}

/// With labels of the target the same pictures are told apart at least as well.
#[test]
fn labels_of_the_target_can_be_used() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("source"), false, &CLASSES);
    write(&dir.path().join("target"), true, &CLASSES);
    for method in ["none", "jda", "otgl", "jgsa"] {
        let method = format!("model.method={method}");
        assert!(right(&*train(dir.path(), &[&method, "data.labels=6"]).unwrap()) >= 19, "{method}");
    }
}
