//! Recipes: which system to train, on which data, and how. A recipe file holds only what differs from the
//! system's defaults; the resolved recipe in the run folder holds every setting.

use kiln_core::{Context, Error, Result};
use kiln_data::{PictureRule, PictureSize, Resize};
use kiln_kernels::Precision;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::system::System;

/// Everything that determines a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe<C> {
    /// Name of the system (see `kiln systems`).
    pub system: String,
    /// Seed of all randomness.
    pub seed: u64,
    /// The `[data]` table.
    pub data: DataConfig,
    /// The `[train]` table.
    pub train: TrainConfig,
    /// The `[model]` table: the system's own settings.
    pub model: C,
}

/// The `[data]` table: which images to train on, and how to prepare them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataConfig {
    /// A name from `kiln data list`, a folder or a zip; separate several domains by commas.
    pub set: String,
    /// Height and width in pixels: one number for a square (`64`) or two (`[48, 64]`); 0 keeps the stored size.
    pub size: PictureSize,
    /// Channels: 1 for grey, 3 for colour; 0 keeps the stored channels.
    pub channels: usize,
    /// Resulting channels, height and width; filled in from the data when the run starts.
    pub shape: [usize; 3],
    /// How to resize images of another size: `none` (report an error), `stretch`, `crop` or `pad`.
    pub resize: Resize,
    /// Background colour of transparent images: red, green, blue, 0 to 255.
    pub background: [u8; 3],
    /// Mirror images left to right with probability ½.
    pub flip: bool,
    /// Number of labels a system that learns from classes may use, equally many of each class; 0 uses all.
    pub labels: usize,
    /// Seed of the choice of those labels.
    pub label_seed: u64,
    /// Class names; filled in from the data when the run starts.
    pub classes: Vec<String>,
    /// Of a set with masks the grey value of each class of pixels; filled in when the run starts if it is empty.
    pub mask_values: Vec<u8>,
    /// A `tokenizer.json` for captions; without one the words of the training captions are the tokens. The run keeps a copy.
    pub tokenizer: String,
    /// How many tokens there are; filled in when the run starts. Before that, the most that words may be, 0 for all.
    pub vocabulary: usize,
    /// Tokens a caption is cut or padded to; 0 takes the longest caption, and is filled in when the run starts.
    pub caption_length: usize,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            set: "starter".into(),
            size: PictureSize::STORED,
            channels: 0,
            shape: [0; 3],
            resize: Resize::None,
            background: [255; 3],
            flip: false,
            labels: 0,
            label_seed: 0,
            classes: Vec::new(),
            mask_values: Vec::new(),
            tokenizer: String::new(),
            vocabulary: 0,
            caption_length: 0,
        }
    }
}

impl DataConfig {
    /// The rule that turns stored images into tensors.
    pub fn rule(&self) -> PictureRule {
        PictureRule {
            size: self.size,
            channels: self.channels,
            resize: self.resize,
            background: self.background,
            flip: self.flip,
        }
    }

    /// The shape that an older run's recipe does not say, of pictures that are square.
    fn find_shape(&mut self, place: &str) -> Result<()> {
        if self.shape != [0; 3] {
            return Ok(());
        }
        match (self.channels, self.size.pixels()) {
            (1.., Some([height, width])) => self.shape = [self.channels, height, width],
            _ => {
                return Err(Error::usage(format!(
                    "{place}: it does not say which shape its pictures have; add `shape = [channels, height, width]` \
                     to its [data] table, such as [1, 112, 92]"
                )));
            }
        }
        Ok(())
    }
}

/// The `[train]` table: the training loop. Durations are counted in images seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainConfig {
    /// The run of the same system whose networks it starts from (`--from`); empty for fresh ones.
    pub init_from: String,
    /// Images per step.
    pub batch: usize,
    /// Precision of products in convolutions: `f32` or `bf16`; sums, weights and all else stay in `f32`.
    pub precision: Precision,
    /// Split each batch into this many parts to save memory; gradients are summed.
    pub accumulate: usize,
    /// Recompute cheap activations (normalised, activated and concatenated feature maps) in the backward pass
    /// (Chen 2016): less memory, a little more time, the same bits.
    pub gradient_checkpointing: bool,
    /// Length of the run in images seen; schedules are stretched to it.
    pub images: u64,
    /// Stop after this many images without shortening any schedule (`--steps`); 0 stops after `images`.
    pub stop_after: u64,
    /// Half-life of the exponential moving average (EMA) of the weights, in images; 0 disables it.
    pub ema_half_life: f64,
    /// Limit the half-life to this fraction of the images seen so far; 0 disables the limit.
    pub ema_ramp: f64,
    /// Images between log records.
    pub log_every: u64,
    /// Images between checkpoints.
    pub checkpoint_every: u64,
    /// Number of newest checkpoints to keep; the best one is kept in addition.
    pub keep: usize,
    /// Loss term or metric whose best value marks the best checkpoint; empty for none.
    pub best: String,
    /// Images between evaluations of the EMA networks; 0 disables them.
    pub evaluate_every: u64,
    /// Metrics of those evaluations: a list such as fid,is.
    pub metrics: String,
    /// Samples per evaluation.
    pub evaluate_count: usize,
    /// Images between previews; 0 draws only the last.
    pub preview_every: u64,
    /// Images in a preview.
    pub preview_count: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            init_from: String::new(),
            batch: 64,
            precision: Precision::default(),
            accumulate: 1,
            gradient_checkpointing: false,
            images: 200_000,
            stop_after: 0,
            ema_half_life: 10_000.0,
            ema_ramp: 0.05,
            log_every: 1_000,
            checkpoint_every: 20_000,
            keep: 2,
            best: String::new(),
            evaluate_every: 0,
            metrics: "fid,is".into(),
            evaluate_count: 1_000,
            preview_every: 20_000,
            preview_count: 16,
        }
    }
}

/// The defaults of a system as a table.
pub fn defaults<S: System>() -> Result<Table> {
    let (data, train) = S::defaults();
    let recipe = Recipe { system: S::ID.to_string(), seed: 0, data, train, model: S::Config::default() };
    Table::try_from(recipe).context(|| format!("defaults of {}", S::ID))
}

/// Settings that are one number or a list of two.
const ONE_OR_TWO: [&str; 1] = ["data.size"];

/// Applies `changes` to `base`. Every key must exist in `base`, with a value of the same type.
///
/// # Errors
/// Names the unknown key and its nearest neighbour, or the type that was expected.
pub fn merge(base: &mut Table, changes: &Table, place: &str) -> Result<()> {
    merge_at(base, changes, place, "")
}

/// Settings that have another name than in older versions: table, old key, new key.
const RENAMED: [(&str, &str, &str); 2] = [("data", "label_set", "label_seed"), ("model", "times", "timestep_sampling")];

/// Gives the settings of a run's recipe, which an older version may have written, their present names.
pub(crate) fn rename_old_keys(recipe: &mut Table) {
    for (table, old, new) in RENAMED {
        let Some(Value::Table(inside)) = recipe.get_mut(table) else { continue };
        if let Some(value) = inside.remove(old) {
            inside.insert(new.to_string(), value);
        }
    }
}

fn merge_at(base: &mut Table, changes: &Table, place: &str, prefix: &str) -> Result<()> {
    for (key, value) in changes {
        let full = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        if !base.contains_key(key) {
            let renamed = RENAMED.iter().find(|(table, old, _)| prefix == *table && key == old);
            if let Some((table, _, new)) = renamed {
                return Err(Error::usage(format!("{place}: `{full}` is called `{table}.{new}` now; rename it")));
            }
            let hint = nearest(key, base.keys().map(String::as_str))
                .map(|n| {
                    format!(
                        "did you mean `{}`?",
                        if prefix.is_empty() { n.to_string() } else { format!("{prefix}.{n}") }
                    )
                })
                .unwrap_or_else(|| format!("known here: {}", base.keys().cloned().collect::<Vec<_>>().join(", ")));
            return Err(Error::usage(format!("{place}: unknown key `{full}`; {hint}")));
        }
        match (&mut base[key.as_str()], value) {
            (Value::Table(old), Value::Table(new)) => merge_at(old, new, place, &full)?,
            (Value::Float(old), Value::Integer(new)) => *old = *new as f64,
            (old @ (Value::Integer(_) | Value::Array(_)), new @ (Value::Integer(_) | Value::Array(_)))
                if ONE_OR_TWO.contains(&full.as_str()) =>
            {
                *old = new.clone();
            }
            (old, new) if std::mem::discriminant(old) == std::mem::discriminant(new) => *old = new.clone(),
            (old, new) => {
                return Err(Error::usage(format!(
                    "{place}: `{full}` must be {}, not {} ({new})",
                    article(old.type_str()),
                    article(new.type_str())
                )));
            }
        }
    }
    Ok(())
}

fn article(kind: &str) -> String {
    match kind {
        "integer" => "a whole number".into(),
        "float" => "a number".into(),
        "array" => "a list".into(),
        other => format!("a {other}"),
    }
}

/// The candidate most like `word`, if any is like it at all.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|c| (strsim::jaro_winkler(word, c), c))
        .filter(|(score, _)| *score > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, c)| c)
}

/// Reads `key=value` as TOML; a bare word is a string.
///
/// # Errors
/// If there is no `=`.
pub fn assignment(text: &str) -> Result<Table> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| Error::usage(format!("--set {text}: expected key=value, such as model.base_channels=32")))?;
    let (key, value) = (key.trim(), value.trim());
    let value = format!("v = {value}")
        .parse::<Table>()
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| Value::String(value.to_string()));
    let mut parts = key.split('.').rev();
    let last = parts.next().unwrap_or(key);
    let table = Table::from_iter([(last.to_string(), value)]);
    Ok(parts.fold(table, |inner, part| Table::from_iter([(part.to_string(), Value::Table(inner))])))
}

/// The typed recipe of a merged table.
///
/// # Errors
/// Names the key whose value does not fit.
pub fn typed<S: System>(table: Table, place: &str) -> Result<Recipe<S::Config>> {
    let recipe: Recipe<S::Config> = table.try_into().map_err(|e: toml::de::Error| {
        let message = e.message().to_string();
        Error::usage(format!("{place}: {message}"))
    })?;
    check(&recipe.train, place)?;
    Ok(recipe)
}

/// The recipe that a run was started with. Settings that its version of Kiln did not have get their defaults.
///
/// # Errors
/// As [`merge`] and [`typed`].
pub fn of_run<S: System>(saved: &Table, place: &str) -> Result<Recipe<S::Config>> {
    let mut table = defaults::<S>()?;
    merge(&mut table, saved, place)?;
    let mut recipe = typed::<S>(table, place)?;
    recipe.data.find_shape(place)?;
    Ok(recipe)
}

fn check(train: &TrainConfig, place: &str) -> Result<()> {
    let refuse = |what: &str| Err(Error::usage(format!("{place}: {what}")));
    if train.batch == 0 {
        return refuse("train.batch must be at least 1");
    }
    if train.images == 0 {
        return refuse("train.images (or --steps) must be at least 1");
    }
    if train.accumulate == 0 || !train.batch.is_multiple_of(train.accumulate) {
        return refuse("train.accumulate must divide train.batch");
    }
    if train.log_every == 0 || train.checkpoint_every == 0 || train.keep == 0 {
        return refuse("train.log_every, train.checkpoint_every and train.keep must be at least 1");
    }
    if train.ema_half_life < 0.0 || train.ema_ramp < 0.0 {
        return refuse("train.ema_half_life and train.ema_ramp must not be negative");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Table {
        "seed = 0\n[train]\nbatch = 64\nrate = 0.5\n[model]\nname = 'x'\n".parse().unwrap()
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        let e = merge(&mut base(), &assignment("train.bacth=3").unwrap(), "r.toml").unwrap_err();
        assert_eq!(e.to_string(), "r.toml: unknown key `train.bacth`; did you mean `train.batch`?");
        assert!(e.is_usage());
    }

    #[test]
    fn old_names_are_known_in_runs_and_refused_by_name_elsewhere() {
        let mut base: Table = "[data]\nlabel_seed = 0".parse().unwrap();
        let e = merge(&mut base, &assignment("data.label_set=3").unwrap(), "r.toml").unwrap_err();
        assert_eq!(e.to_string(), "r.toml: `data.label_set` is called `data.label_seed` now; rename it");
        let mut saved: Table = "[data]\nlabel_set = 3\n[model]\ntimes = 'uniform'".parse().unwrap();
        rename_old_keys(&mut saved);
        assert_eq!(saved, "[data]\nlabel_seed = 3\n[model]\ntimestep_sampling = 'uniform'".parse().unwrap());
    }

    #[test]
    fn a_string_where_a_number_belongs_is_named() {
        let e = merge(&mut base(), &assignment("train.batch=many").unwrap(), "--set").unwrap_err();
        assert_eq!(e.to_string(), "--set: `train.batch` must be a whole number, not a string (\"many\")");
    }

    #[test]
    fn a_size_is_one_number_or_two() {
        let base = || {
            let data = Table::try_from(DataConfig::default()).unwrap();
            Table::from_iter([("data".to_string(), Value::Table(data))])
        };
        let size = |text: &str| -> Result<PictureSize> {
            let mut table = base();
            merge(&mut table, &assignment(text)?, "--set")?;
            let data: std::result::Result<DataConfig, _> = table["data"].clone().try_into();
            data.map(|d| d.size).map_err(Error::usage)
        };
        assert_eq!(size("data.size=64").unwrap(), 64.into());
        assert_eq!(size("data.size=[48, 64]").unwrap(), [48, 64].into());
        for (text, part) in [
            ("data.size=large", "must be a whole number"),
            ("data.size=[1, 2, 3]", "[1, 2, 3]"),
            ("data.size=-4", "-4"),
            ("data.channels=[1, 2]", "must be a whole number, not a list"),
        ] {
            let e = size(text).unwrap_err();
            assert!(e.to_string().contains(part), "{e}");
        }
        // A resolved recipe takes a number again.
        let mut table = base();
        for text in ["data.size=[48,64]", "data.size=32"] {
            merge(&mut table, &assignment(text).unwrap(), "--set").unwrap();
        }
        assert_eq!(table["data"]["size"].as_integer(), Some(32));
    }

    #[test]
    fn an_older_recipe_says_its_shape_or_is_square() {
        let shape = |data: DataConfig| {
            let mut data = data;
            data.find_shape("runs/old/recipe.toml").map(|()| data.shape)
        };
        let square = DataConfig { size: 28.into(), channels: 1, ..DataConfig::default() };
        assert_eq!(shape(square.clone()).unwrap(), [1, 28, 28]);
        assert_eq!(
            shape(DataConfig { shape: [1, 112, 92], channels: 1, ..DataConfig::default() }).unwrap(),
            [1, 112, 92]
        );
        for data in [DataConfig { channels: 1, ..DataConfig::default() }, DataConfig { channels: 0, ..square }] {
            let e = shape(data).unwrap_err().to_string();
            assert!(
                e.starts_with("runs/old/recipe.toml: ") && e.contains("`shape = [channels, height, width]`"),
                "{e}"
            );
        }
    }

    #[test]
    fn whole_numbers_serve_as_floats_and_words_as_strings() {
        let mut t = base();
        merge(&mut t, &assignment("train.rate=2").unwrap(), "--set").unwrap();
        merge(&mut t, &assignment("model.name=cosine").unwrap(), "--set").unwrap();
        assert_eq!(t["train"]["rate"].as_float(), Some(2.0));
        assert_eq!(t["model"]["name"].as_str(), Some("cosine"));
    }
}
