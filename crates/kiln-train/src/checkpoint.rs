//! Checkpoints, written atomically: a folder is written under a temporary name, synced, renamed, and only
//! then named in `latest`, so a crash never leaves a partial checkpoint.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kiln_core::{Context, Error, Result, hex, output, read_file, read_text};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::augment::Adaptation;
use crate::means::Means;
use crate::origin::Origin;
use crate::params::{HostTensor, State};

/// Which weights of a checkpoint to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightSet {
    /// The EMA weights if the run keeps them, else the live ones.
    Ema,
    /// The live weights.
    Live,
}

/// The scalars of a checkpoint: `state.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// Images seen. This is also the position in the data and, with the seed, the random state.
    pub images: u64,
    /// Steps taken.
    pub steps: u64,
    /// Seconds of training so far.
    pub seconds: f64,
    /// Updates made by each phase's optimiser.
    pub optimizer_steps: BTreeMap<String, u64>,
    /// The best checkpoint so far, if the recipe asks for one.
    pub best: Option<Best>,
    /// Sums of the loss terms since the last log record, and since the last checkpoint.
    #[serde(default)]
    pub means: [Means; 2],
    /// How often ADA changes pictures.
    #[serde(default)]
    pub augment: Adaptation,
    /// What has been told of failures (`health.rs`).
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What the run is made of; older versions of Kiln did not say.
    #[serde(default)]
    pub origin: Option<Origin>,
    /// Version of Kiln that wrote this.
    pub kiln: String,
    /// SHA-256 of each file beside this one.
    pub files: BTreeMap<String, String>,
}

/// The checkpoint with the best value of `train.best`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Images seen at that checkpoint.
    pub images: u64,
    /// The value there: of a loss term, its mean since the previous checkpoint.
    pub value: f64,
}

/// Everything a run needs to resume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// `state.json`.
    pub counters: Counters,
    /// `network.safetensors`.
    pub network: State,
    /// `ema.safetensors`: the EMA weights of what is trained; empty if the run keeps none.
    pub ema: State,
    /// `optimizer.safetensors`.
    pub optimizer: State,
    /// `system.safetensors`: the system's own tensors; empty for most.
    pub system: State,
}

/// Names the newest checkpoint, for people and scripts; Kiln itself looks at the folders.
const LATEST: &str = "latest";
const STATE: &str = "state.json";
/// It lists settings and hashes, never values.
const LONGEST_STATE: u64 = 16 << 20;
/// What stands before the hash at the end of `state.json`.
const SEAL: &str = ",\n  \"sha256\": \"";

impl Checkpoint {
    /// Takes the weights out: the live ones, or with those that have EMA weights in their place.
    pub fn take_weights(&mut self, set: WeightSet) -> State {
        let mut weights = std::mem::take(&mut self.network);
        if set == WeightSet::Ema {
            weights.append(&mut self.ema);
        }
        weights
    }

    /// Writes the checkpoint below `folder` (the run's `checkpoints`).
    ///
    /// # Errors
    /// If the disk is full or not writable; older checkpoints are untouched then.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let name = name(self.counters.images);
        let partial = folder.join(format!(".partial-{name}"));
        let place = || format!("writing checkpoint {}", folder.join(&name).display());
        let write = || -> Result<()> {
            fs::create_dir_all(folder).context(place)?;
            if partial.exists() {
                fs::remove_dir_all(&partial).context(place)?;
            }
            fs::create_dir(&partial).context(place)?;
            let mut counters = self.counters.clone();
            for (file, state) in [
                ("network.safetensors", &self.network),
                ("ema.safetensors", &self.ema),
                ("optimizer.safetensors", &self.optimizer),
                ("system.safetensors", &self.system),
            ] {
                if state.is_empty() {
                    continue;
                }
                check_finite(state)?;
                let bytes = to_bytes(state)?;
                output::write_synced(&partial.join(file), &bytes)?;
                counters.files.insert(file.to_string(), hash(&bytes));
            }
            output::write_synced(&partial.join(STATE), to_text(&counters)?.as_bytes())?;
            let whole = folder.join(&name);
            if whole.exists() {
                fs::remove_dir_all(&whole).context(place)?;
            }
            fs::rename(&partial, &whole).context(place)?;
            output::write_synced(&folder.join(LATEST), name.as_bytes())
        };
        write()
            .inspect_err(|_| {
                // Best effort: the error already says what failed.
                let _ = fs::remove_dir_all(&partial);
            })
            .map_err(|e| match list(folder).last() {
                Some(last) => Error::new(format!("{e}; the checkpoint of {last} images is kept")),
                None => e,
            })
    }

    /// Reads one checkpoint and verifies every file against its hash.
    ///
    /// # Errors
    /// Names the file that is missing or damaged.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(STATE);
        let text = read_text(&path, LONGEST_STATE)?;
        let counters = from_text(&text).context(|| path.display())?;
        let read = |file: &str| -> Result<State> {
            let Some(expected) = counters.files.get(file) else { return Ok(State::new()) };
            let path = folder.join(file);
            let bytes = read_file(&path, u64::MAX)?;
            if hash(&bytes) != *expected {
                return Err(Error::new(format!("{}: damaged (its hash differs from state.json)", path.display())));
            }
            let state = from_bytes(&bytes, &path.display().to_string())?;
            check_finite(&state).context(|| path.display())?;
            Ok(state)
        };
        Ok(Self {
            network: read("network.safetensors")?,
            ema: read("ema.safetensors")?,
            optimizer: read("optimizer.safetensors")?,
            system: read("system.safetensors")?,
            counters,
        })
    }

    /// The newest undamaged checkpoint below `folder`. Damaged ones are skipped, each with a line
    /// to `say`. `None` if there are no checkpoints.
    ///
    /// # Errors
    /// If there are checkpoints but every one is damaged.
    pub fn newest(folder: &Path, say: &mut dyn FnMut(String)) -> Result<Option<Self>> {
        let mut last = None;
        for images in list(folder).into_iter().rev() {
            let path = folder.join(name(images));
            match Self::load(&path) {
                Ok(checkpoint) => {
                    if last.is_some() {
                        say(format!("going on from the checkpoint before it: {}", path.display()));
                    }
                    return Ok(Some(checkpoint));
                }
                Err(e) => {
                    say(format!("checkpoint {} cannot be used: {e}", path.display()));
                    last = Some(e);
                }
            }
        }
        match last {
            Some(e) => Err(Error::new(format!(
                "{}: no checkpoint is whole ({e}); train anew with another --out",
                folder.display()
            ))),
            None => Ok(None),
        }
    }
}

/// Removes all checkpoints except the one of `newest` images, the `keep` − 1 before it and the one at `best`. Those after the
/// newest are damaged, or were left by a training that went another way.
///
/// # Errors
/// If a folder cannot be removed.
pub fn prune(folder: &Path, newest: u64, keep: usize, best: Option<u64>) -> Result<()> {
    let (names, later): (Vec<u64>, Vec<u64>) = list(folder).into_iter().partition(|images| *images <= newest);
    let old = names.len().saturating_sub(keep);
    let old = names.into_iter().take(old).filter(|images| Some(*images) != best);
    old.chain(later).try_for_each(|images| remove(folder, images))
}

/// Removes a checkpoint.
///
/// # Errors
/// If its folder cannot be removed.
pub fn remove(folder: &Path, images: u64) -> Result<()> {
    let path = path(folder, images);
    fs::remove_dir_all(&path).context(|| format!("removing {}", path.display()))
}

/// Images seen of each checkpoint below `folder`, ascending.
pub fn list(folder: &Path) -> Vec<u64> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<u64> = entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    names.sort_unstable();
    names
}

/// The folder of the checkpoint at `images`.
pub fn path(folder: &Path, images: u64) -> PathBuf {
    folder.join(name(images))
}

/// The text of `state.json`, whose last entry is the hash of all before it.
fn to_text(counters: &Counters) -> Result<String> {
    let text = serde_json::to_string_pretty(counters).context(|| STATE)?;
    let text = text.trim_end_matches('}').trim_end();
    Ok(format!("{text}{SEAL}{}\"\n}}\n", hash(text.as_bytes())))
}

/// The counters of such a text, or of an older one without a hash.
fn from_text(text: &str) -> Result<Counters> {
    let damaged = || Error::new("damaged (its hash differs from its content)");
    let is_whole = match text.rsplit_once(SEAL) {
        Some((content, end)) => format!("{}\"\n}}\n", hash(content.as_bytes())) == end,
        None => false,
    };
    let counters: Counters = serde_json::from_str(text).map_err(|_| damaged())?;
    // A version that did not write the hash did not write the origin either.
    if is_whole || (counters.origin.is_none() && !text.contains(SEAL)) { Ok(counters) } else { Err(damaged()) }
}

/// Whether every value is a number.
fn check_finite(state: &State) -> Result<()> {
    let bad = state.iter().find(|(_, tensor)| tensor.values.iter().any(|value| !value.is_finite()));
    bad.map_or(Ok(()), |(name, _)| {
        Err(Error::new(format!(
            "tensor `{name}` holds values that are no numbers (NaN or infinite): training has diverged"
        )))
    })
}

fn name(images: u64) -> String {
    format!("{images:010}")
}

fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Writes a state as safetensors, tensors in the order of their names.
///
/// # Errors
/// If a shape does not fit its values.
pub fn to_bytes(state: &State) -> Result<Vec<u8>> {
    let bytes: Vec<(&String, Vec<u8>)> =
        state.iter().map(|(name, t)| (name, t.values.iter().flat_map(|v| v.to_le_bytes()).collect())).collect();
    let views = state
        .values()
        .zip(&bytes)
        .map(|(t, (name, b))| Ok((name.as_str(), TensorView::new(Dtype::F32, t.shape.clone(), b).context(|| name)?)))
        .collect::<Result<Vec<_>>>()?;
    safetensors::serialize(views, None).context(|| "safetensors")
}

/// Reads f32 safetensors.
///
/// # Errors
/// If the file is truncated or a tensor is not f32; the message names `place`.
pub fn from_bytes(bytes: &[u8], place: &str) -> Result<State> {
    let tensors = SafeTensors::deserialize(bytes).context(|| place)?;
    tensors
        .iter()
        .map(|(name, view)| {
            if view.dtype() != Dtype::F32 {
                return Err(Error::new(format!("{place}: tensor `{name}` is {:?}, expected F32", view.dtype())));
            }
            let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            Ok((name.to_string(), HostTensor { shape: view.shape().to_vec(), values }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(images: u64) -> Checkpoint {
        let tensor = HostTensor { shape: vec![2, 1], values: vec![1.5, -(images as f32)] };
        Checkpoint {
            counters: Counters { images, steps: images / 2, ..Counters::default() },
            network: State::from([("a.weight".into(), tensor.clone())]),
            optimizer: State::from([("a.weight.exp_avg".into(), tensor)]),
            ..Checkpoint::default()
        }
    }

    fn newest(folder: &Path) -> (Option<u64>, Vec<String>) {
        let mut said = Vec::new();
        let found = Checkpoint::newest(folder, &mut |s| said.push(s)).unwrap();
        (found.map(|c| c.counters.images), said)
    }

    #[test]
    fn what_was_saved_is_what_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(newest(dir.path()).0, None);
        checkpoint(10).save(dir.path()).unwrap();
        let loaded = Checkpoint::load(&path(dir.path(), 10)).unwrap();
        assert_eq!((loaded.network, loaded.optimizer), (checkpoint(10).network, checkpoint(10).optimizer));
    }

    #[test]
    fn a_cut_checkpoint_falls_back_to_the_one_before_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        checkpoint(10).save(dir.path()).unwrap();
        checkpoint(20).save(dir.path()).unwrap();
        let file = path(dir.path(), 20).join("network.safetensors");
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        let (found, said) = newest(dir.path());
        assert_eq!(found, Some(10));
        assert!(said[0].contains("0000000020") && said[0].contains("damaged"), "{said:?}");
        fs::write(path(dir.path(), 10).join("state.json"), "{").unwrap();
        assert!(
            Checkpoint::newest(dir.path(), &mut |_| ()).unwrap_err().to_string().contains("no checkpoint is whole")
        );
    }

    #[test]
    fn pruning_keeps_the_newest_and_the_best_and_nothing_later() {
        let dir = tempfile::tempdir().unwrap();
        for images in [10, 20, 30, 40] {
            checkpoint(images).save(dir.path()).unwrap();
        }
        prune(dir.path(), 30, 2, Some(10)).unwrap();
        assert_eq!(list(dir.path()), [10, 20, 30]);
    }

    #[test]
    fn every_byte_of_a_checkpoint_is_covered() {
        let dir = tempfile::tempdir().unwrap();
        checkpoint(10).save(dir.path()).unwrap();
        let mut second = checkpoint(20);
        second.counters.origin = Some(Origin::default());
        second.save(dir.path()).unwrap();
        for file in fs::read_dir(path(dir.path(), 20)).unwrap() {
            let file = file.unwrap().path();
            let bytes = fs::read(&file).unwrap();
            for at in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << (at % 8);
                fs::write(&file, &damaged).unwrap();
                assert_eq!(newest(dir.path()).0, Some(10), "byte {at} of {}", file.display());
            }
            fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
            assert_eq!(newest(dir.path()).0, Some(10), "a byte less of {}", file.display());
            fs::write(&file, &bytes).unwrap();
            assert_eq!(newest(dir.path()).0, Some(20));
        }
    }

    #[test]
    fn the_state_of_an_older_version_is_read() {
        let dir = tempfile::tempdir().unwrap();
        checkpoint(10).save(dir.path()).unwrap();
        let file = path(dir.path(), 10).join(STATE);
        let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        ["sha256", "origin", "means"].iter().for_each(|key| drop(json.as_object_mut().unwrap().remove(*key)));
        fs::write(&file, serde_json::to_vec_pretty(&json).unwrap()).unwrap();
        assert_eq!(newest(dir.path()), (Some(10), vec![]));
    }

    #[test]
    fn values_that_are_no_numbers_are_neither_saved_nor_loaded() {
        let dir = tempfile::tempdir().unwrap();
        checkpoint(10).save(dir.path()).unwrap();
        let mut bad = checkpoint(20);
        bad.optimizer.get_mut("a.weight.exp_avg").unwrap().values[1] = f32::NAN;
        let e = bad.save(dir.path()).unwrap_err().to_string();
        assert!(e.contains("`a.weight.exp_avg`") && e.ends_with("the checkpoint of 10 images is kept"), "{e}");
        assert_eq!(newest(dir.path()), (Some(10), vec![]));
        assert!(
            fs::read_dir(dir.path()).unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().contains("partial"))
        );
    }

    #[test]
    fn a_partial_folder_is_not_a_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        checkpoint(10).save(dir.path()).unwrap();
        fs::create_dir(dir.path().join(".partial-0000000020")).unwrap();
        assert_eq!(newest(dir.path()), (Some(10), vec![]));
    }
}
