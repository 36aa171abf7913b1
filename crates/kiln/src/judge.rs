//! The classifier that Kiln trains on a labelled set once, to measure in its features, and the segmenter that it trains likewise.
//!
//! It is kept in the cache under what it was trained on and how: a digest of every picture with its class, and the
//! recipe. A seal beside it holds the hash of its files. One that is damaged is removed and trained again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use kiln_core::{Context, Error, Lock, Result, output, tell};
use kiln_data::{Contents, DataSet, Survey, cache_dir};
use kiln_systems::find;
use kiln_train::recipe::{merge, setting};
use kiln_train::{AnySystem, Model, Options, Run, WeightSet};
use toml::{Table, Value};

use crate::Common;
use crate::feature_cache;

/// The longest side at which it sees pictures of several sizes.
const LONGEST: usize = 64;

/// It sees each picture of a small set at most so often, and at least so many in all.
const EPOCHS: i64 = 200;
const FEWEST: i64 = 5_000;

/// What holds the hash of its files.
const SEAL: &str = "seal.json";

/// The run of a system (`classifier`, `segmenter`) on a set, trained now if the cache has none.
///
/// # Errors
/// If a picture cannot be read, the training fails or is stopped, or the cache cannot be written.
pub fn of(system: &str, set: Arc<dyn DataSet>, common: &Common, device: &Device) -> Result<(Run, Box<dyn Model>)> {
    let system = find(system)?;
    let Survey { contents, stored } = Survey::of(&*set)?;
    let recipe = recipe(&*system, &*set, &stored)?;
    let root = place(&*system, &*set, &contents, &recipe)?;
    output::folder_of(&root)?;
    // Whoever comes second waits for the first's.
    let lock = root.with_extension("lock");
    let _lock = match Lock::attempt(&lock)? {
        Some(lock) => lock,
        None => {
            tell!("{}: another process is training it; waiting for that", root.display());
            Lock::wait(&lock)?
        }
    };
    if let Some(found) = whole(&root, &*system, device) {
        return Ok(found);
    }
    let options = Options { quiet: common.quiet, ..Options::on(device.clone()) };
    tell!("training the judge once: a {} of {} (kept in {})", system.id(), set.name(), root.display());
    let begun = root.join("recipe.toml").exists();
    let gone_on = begun.then(|| system.resume(&Run::open(&root)?, &options));
    let summary = match gone_on {
        Some(Ok(summary)) => summary,
        broken => {
            if let Some(Err(e)) = broken {
                tell!("{e}; the judge is trained from the start");
            }
            remove(&root)?;
            system.train(recipe, &root, &options)?
        }
    };
    summary.reached_end(&root)?;
    seal(&root)?;
    whole(&root, &*system, device).ok_or_else(|| Error::new(format!("{}: changed while it was made", root.display())))
}

/// How it is trained on a set whose pictures are stored in these shapes.
fn recipe(system: &dyn AnySystem, set: &dyn DataSet, stored: &[([usize; 3], String)]) -> Result<Table> {
    let mut recipe = system.defaults()?;
    let mut changes = vec![setting("data.set", set.name())];
    let batch = recipe.get("train").and_then(|t| t.get("batch")).and_then(Value::as_integer);
    if batch.is_some_and(|batch| batch > set.len() as i64) {
        changes.push(setting("train.batch", set.len() as i64));
    }
    // A small set is known long before the images of a large one.
    let images = recipe.get("train").and_then(|t| t.get("images")).and_then(Value::as_integer);
    let enough = (EPOCHS * set.len() as i64).max(FEWEST);
    if images.is_some_and(|images| images > enough) {
        changes.push(setting("train.images", enough));
    }
    if let Some(shape) = of_several(stored) {
        let [channels, height, width] = shape.map(|side| side as i64);
        changes.push(setting("data.channels", channels));
        changes.push(setting("data.size", vec![height, width]));
        changes.push(setting("data.resize", "stretch"));
    }
    changes.iter().try_for_each(|change| merge(&mut recipe, change, "judge"))?;
    Ok(recipe)
}

/// Channels, height and width at which it sees a set whose pictures are of several shapes: colour if any is in colour,
/// the median of each side, and no longer than [`LONGEST`].
fn of_several(stored: &[([usize; 3], String)]) -> Option<[usize; 3]> {
    let shapes = || stored.iter().map(|(shape, _)| shape);
    if shapes().all(|shape| *shape == stored[0].0) {
        return None;
    }
    let sides = [1, 2].map(|at| {
        let mut sides: Vec<usize> = shapes().map(|shape| shape[at]).collect();
        sides.sort_unstable();
        sides[sides.len() / 2]
    });
    let longest = sides[0].max(sides[1]);
    let [height, width] = sides.map(|side| if longest > LONGEST { (side * LONGEST / longest).max(1) } else { side });
    let channels = if shapes().any(|shape| shape[0] > 2) { 3 } else { 1 };
    Some([channels, height, width])
}

/// Where it lies: named by the set for people, and by what it learns from and how.
fn place(system: &dyn AnySystem, set: &dyn DataSet, contents: &Contents, recipe: &Table) -> Result<PathBuf> {
    let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    // A folder has the same one by whatever path.
    let name = Path::new(set.name()).file_name().unwrap_or_default().to_string_lossy();
    let folder: String = name.chars().map(safe).take(60).collect();
    let mut how = recipe.clone();
    // The same set is the same wherever it lies.
    merge(&mut how, &setting("data.set", ""), "judge")?;
    let how = how.to_string();
    let hash = feature_cache::hash([contents.digest().as_bytes(), how.as_bytes()]);
    Ok(cache_dir()?.join(format!("{}s", system.id())).join(format!("{folder}-{hash}")))
}

/// The finished one, if every file is as it was when it was finished. A damaged one is removed.
fn whole(root: &Path, system: &dyn AnySystem, device: &Device) -> Option<(Run, Box<dyn Model>)> {
    let kept = fs::read(root.join(SEAL)).ok()?;
    let kept: Option<BTreeMap<String, String>> = serde_json::from_slice(&kept).ok();
    let open = || -> Result<_> {
        let run = Run::open(root)?;
        let model = system.open(&run, WeightSet::Ema, device)?;
        Ok((run, model))
    };
    let found = if kept.is_some() && files(root).ok() == kept { open().ok() } else { None };
    if found.is_none() {
        tell!("{}: damaged; it is trained again", root.display());
        // What cannot be removed, training will speak of.
        let _ = remove(root);
    }
    found
}

fn seal(root: &Path) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(&files(root)?).context(|| root.display())?;
    output::write(&root.join(SEAL), &bytes)
}

fn remove(root: &Path) -> Result<()> {
    if root.exists() { fs::remove_dir_all(root).context(|| root.display()) } else { Ok(()) }
}

/// The hashes of the files that say what it is: the recipe, the report, the checkpoints.
fn files(root: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.join("checkpoints")];
    let mut all = vec![root.join("recipe.toml"), root.join("report.json")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).context(|| folder.display())? {
            let path = entry.context(|| folder.display())?.path();
            if path.is_dir() { folders.push(path) } else { all.push(path) }
        }
    }
    for path in all {
        let bytes = fs::read(&path).context(|| path.display())?;
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        found.insert(name, feature_cache::hash([bytes.as_slice()]));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use kiln_data::{Picture, PictureRule, Split, open};

    use super::*;

    /// A labelled folder of pictures of these sizes, from `shade` on.
    fn folder(root: &Path, sizes: [usize; 3], shade: usize) -> Arc<dyn DataSet> {
        for class in ["a", "b"] {
            fs::create_dir_all(root.join(class)).unwrap();
            for (i, side) in sizes.into_iter().cycle().take(12).enumerate() {
                let pixels = (0..side * side).map(|p| ((p + i) * 7 % 100 + shade) as u8).collect();
                let picture = Picture::new(side, side, 1, pixels).unwrap();
                picture.write_png(&root.join(class).join(format!("{i}.png")), &[]).unwrap();
            }
        }
        open(root.to_str().unwrap(), Split::Train, &PictureRule::default()).unwrap()
    }

    /// Names, lengths and shapes are the same: what tells the two apart is what they show.
    #[test]
    fn a_judge_goes_by_what_it_was_trained_on() {
        let dir = tempfile::tempdir().unwrap();
        let system = find("classifier").unwrap();
        let survey = |set: &dyn DataSet| Survey::of(set).unwrap();
        let recipe = |set: &dyn DataSet| recipe(&*system, set, &survey(set).stored).unwrap();
        let of = |set: &dyn DataSet| place(&*system, set, &survey(set).contents, &recipe(set)).unwrap();
        let one = folder(&dir.path().join("one/data"), [8; 3], 0);
        let same = folder(&dir.path().join("same/data"), [8; 3], 0);
        let other = folder(&dir.path().join("two/data"), [8; 3], 3);
        assert_eq!(of(&*one), of(&*same));
        assert_ne!(of(&*one), of(&*other));
        let mut longer = recipe(&*one);
        merge(&mut longer, &setting("train.images", 7), "test").unwrap();
        assert_ne!(place(&*system, &*one, &survey(&*one).contents, &longer).unwrap(), of(&*one));
    }

    #[test]
    fn pictures_of_several_sizes_are_stretched_to_one() {
        let dir = tempfile::tempdir().unwrap();
        let system = find("classifier").unwrap();
        let of = |sizes| {
            let set = folder(&dir.path().join(format!("{sizes:?}")), sizes, 0);
            recipe(&*system, &*set, &Survey::of(&*set).unwrap().stored).unwrap()
        };
        assert_eq!(of([20, 24, 31])["data"]["resize"].as_str(), Some("stretch"));
        assert_eq!(of([20, 24, 31])["data"]["size"], Value::from(vec![24, 24]));
        assert_eq!(of([20, 200, 300])["data"]["size"], Value::from(vec![64, 64]));
        assert_eq!(of([9; 3])["data"]["size"], system.defaults().unwrap()["data"]["size"]);
    }

    #[test]
    fn a_damaged_judge_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let system = find("classifier").unwrap();
        let set = folder(&dir.path().join("data"), [8; 3], 0);
        let mut table = recipe(&*system, &*set, &Survey::of(&*set).unwrap().stored).unwrap();
        for change in [setting("model.channels", 2), setting("model.features", 4), setting("train.batch", 2)] {
            merge(&mut table, &change, "test").unwrap();
        }
        let options = Options { steps: Some(1), quiet: true, ..Options::on(Device::flex()) };
        let made = dir.path().join("made");
        system.train(table, &made, &options).unwrap();
        seal(&made).unwrap();
        let root = dir.path().join("root");
        let copy = || {
            for (name, _) in files(&made).unwrap().into_iter().chain([(SEAL.to_string(), String::new())]) {
                output::folder_of(&root.join(&name)).unwrap();
                fs::copy(made.join(&name), root.join(&name)).unwrap();
            }
        };
        copy();
        assert!(whole(&root, &*system, &Device::flex()).is_some());
        let mut names: Vec<String> = files(&made).unwrap().into_keys().collect();
        names.push(SEAL.into());
        assert!(names.len() > 5);
        for name in names {
            copy();
            let mut bytes = fs::read(root.join(&name)).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            fs::write(root.join(&name), bytes).unwrap();
            assert!(whole(&root, &*system, &Device::flex()).is_none(), "{name}");
            assert!(!root.exists(), "{name}");
        }
        assert!(whole(&root, &*system, &Device::flex()).is_none());
    }
}
