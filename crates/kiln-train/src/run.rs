//! The folder of a run, and its lock.

use std::fs;
use std::path::{Path, PathBuf};

use kiln_core::{Context, Error, Lock, Result, budget, output, read_text, tell};
use kiln_data::Tokenizer;
use toml::Table;

use crate::checkpoint::Checkpoint;
use crate::recipe::{self, Recipe};
use crate::system::System;

/// A folder that holds everything about a run.
#[derive(Clone, Debug)]
pub struct Run {
    root: PathBuf,
}

/// What made tokens of a run's captions, in its folder.
pub const TOKENIZER: &str = "tokenizer.json";

impl Run {
    /// Creates a run folder.
    ///
    /// # Errors
    /// If the folder already holds a run.
    pub fn create(root: &Path) -> Result<Self> {
        let run = Self { root: root.to_path_buf() };
        if run.recipe_path().exists() {
            return Err(Error::usage(format!(
                "{}: there is a run already; go on with `kiln resume {}` or choose another --out",
                root.display(),
                root.display()
            )));
        }
        fs::create_dir_all(root).context(|| format!("creating {}", root.display()))?;
        Ok(run)
    }

    /// Opens an existing run.
    ///
    /// # Errors
    /// If the folder holds no recipe.
    pub fn open(root: &Path) -> Result<Self> {
        let run = Self { root: root.to_path_buf() };
        if !run.recipe_path().is_file() {
            return Err(Error::usage(format!(
                "{}: not a run (no recipe.toml); `kiln train` makes one",
                root.display()
            )));
        }
        Ok(run)
    }

    /// Locks the folder against training by other processes while the returned value lives.
    ///
    /// # Errors
    /// If another process holds the lock.
    pub fn lock(&self) -> Result<Lock> {
        let lock = Lock::attempt(&self.root.join("lock"))?.ok_or_else(|| {
            let root = self.root.display();
            Error::new(format!("{root}: another process is training in this folder; wait for it or stop it"))
        })?;
        // Nobody is writing now: half a file is of a process that was killed.
        [&self.root, &self.checkpoints()].into_iter().for_each(|folder| output::remove_half_written(folder));
        Ok(lock)
    }

    /// Removes the files of a run that came to nothing, so that its folder may be used again. What is not Kiln's stays.
    pub(crate) fn discard(&self) {
        // What cannot be removed is in nobody's way but the next run's, which says so.
        for name in ["recipe.toml", "data.json", "log.jsonl", TOKENIZER, "lock"] {
            let _ = fs::remove_file(self.root.join(name));
        }
        let _ = fs::remove_dir_all(self.root.join("tensorboard"));
        let _ = fs::remove_dir(&self.root);
    }

    /// Checks that the folder is still there.
    ///
    /// # Errors
    /// If it was moved or deleted.
    pub fn check_there(&self) -> Result<()> {
        match self.recipe_path().exists() {
            true => Ok(()),
            false => Err(Error::new(format!(
                "{}: the folder of the run is gone: it was moved or deleted while it trained",
                self.root.display()
            ))),
        }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// The newest whole checkpoint.
    ///
    /// # Errors
    /// If there is none yet.
    pub fn newest_checkpoint(&self) -> Result<Checkpoint> {
        Checkpoint::newest(&self.checkpoints(), &mut |line| tell!("{line}"))?.ok_or_else(|| {
            Error::new(format!("{}: no checkpoint yet; `kiln resume` trains it further", self.root.display()))
        })
    }

    /// The folder of previews.
    pub fn previews(&self) -> PathBuf {
        self.root.join("previews")
    }

    /// The file of the recipe.
    pub fn recipe_path(&self) -> PathBuf {
        self.root.join("recipe.toml")
    }

    /// Checks that it is a run of this system.
    ///
    /// # Errors
    /// A usage error that says which system it is of.
    pub fn check_system(&self, id: &str) -> Result<()> {
        let recipe = self.recipe()?;
        match recipe.get("system").and_then(|v| v.as_str()) {
            Some(own) if own == id => Ok(()),
            own => {
                let (root, own) = (self.root.display(), own.unwrap_or("no system"));
                Err(Error::usage(format!("{root}: a run of {own}, not of {id}")))
            }
        }
    }

    /// The resolved recipe.
    ///
    /// # Errors
    /// If the file is not TOML.
    pub fn recipe(&self) -> Result<Table> {
        let mut recipe = read_table(&self.recipe_path())?;
        recipe::bring_up_to_date(&mut recipe);
        Ok(recipe)
    }

    /// The recipe that the run was started with, as its system's. Settings that its version of Kiln did not have get
    /// what it did without them, which is their defaults but for a few.
    ///
    /// # Errors
    /// As [`recipe`](Self::recipe), [`merge`](recipe::merge) and [`typed`](recipe::typed).
    pub fn recipe_of<S: System>(&self) -> Result<Recipe<S::Config>> {
        let place = self.recipe_path().display().to_string();
        let mut table = recipe::defaults::<S>()?;
        recipe::merge(&mut table, &self.recipe()?, &place)?;
        let mut recipe = recipe::typed::<S>(table, &place)?;
        recipe.data.find_shape(&place)?;
        Ok(recipe)
    }

    /// Writes the resolved recipe.
    ///
    /// # Errors
    /// If the disk is full or not writable.
    pub fn write_recipe(&self, recipe: &impl serde::Serialize) -> Result<()> {
        let text = toml::to_string_pretty(recipe).context(|| "recipe")?;
        output::write_synced(&self.recipe_path(), text.as_bytes())
    }

    /// Writes what makes tokens of the run's captions.
    ///
    /// # Errors
    /// If the disk is full or not writable.
    pub fn write_tokenizer(&self, tokenizer: &Tokenizer) -> Result<()> {
        output::write_synced(&self.root.join(TOKENIZER), tokenizer.to_json()?.as_bytes())
    }

    /// Writes a JSON file of the run.
    ///
    /// # Errors
    /// If the disk is full or not writable.
    pub fn write_json(&self, name: &str, value: &impl serde::Serialize) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(value).context(|| name)?;
        output::write_synced(&self.root.join(name), &bytes)
    }
}

/// Reads a TOML file.
///
/// # Errors
/// Names file and line of what is not TOML.
pub fn read_table(path: &Path) -> Result<Table> {
    let text = read_text(path, budget().bytes)?;
    text.parse::<Table>().map_err(|e| {
        let line = e.span().map_or(1, |s| text[..s.start.min(text.len())].lines().count().max(1));
        Error::usage(format!("{} line {line}: {}", path.display(), e.message()))
    })
}
