//! Recipes: which system to train, on which data, and how. A recipe file holds only what differs from the
//! system's defaults; the resolved recipe in the run folder holds every setting.

use kiln_core::{Context, Error, Result, refuse_if};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::config::{DataConfig, TrainConfig};
use crate::ranges;
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

/// Settings whose default is not what older versions did without them: system, table, key, what they did.
const ADDED: [(&str, &str, &str, Was); 6] = [
    ("", "train", "ema_buffers", Was::Text("copy")),
    ("ddpm", "model", "sigmas", Was::Text("schedule")),
    // As far as any schedule goes.
    ("ddpm", "model", "sampling_sigma_max", Was::Number(1e6)),
    ("noisy-classifier", "model", "pooling", Was::Text("mean")),
    ("pixelrnn", "model", "skip_connections", Was::Flag(false)),
    ("shallow", "model", "target_features", Was::Text("")),
];

/// A value of [`ADDED`].
#[derive(Clone, Copy)]
enum Was {
    Text(&'static str),
    Number(f64),
    Flag(bool),
}

impl From<Was> for Value {
    fn from(was: Was) -> Self {
        match was {
            Was::Text(text) => Self::String(text.to_string()),
            Was::Number(number) => Self::Float(number),
            Was::Flag(flag) => Self::Boolean(flag),
        }
    }
}

/// Gives the settings of a run's recipe, which an older version may have written, their present names, and those it did not
/// have what it did without them.
pub(crate) fn bring_up_to_date(recipe: &mut Table) {
    for (table, old, new) in RENAMED {
        let Some(Value::Table(inside)) = recipe.get_mut(table) else { continue };
        if let Some(value) = inside.remove(old) {
            inside.insert(new.to_string(), value);
        }
    }
    let system = recipe.get("system").and_then(Value::as_str).unwrap_or_default().to_string();
    for (_, table, key, was) in ADDED.into_iter().filter(|(of, ..)| of.is_empty() || *of == system) {
        if let Some(Value::Table(inside)) = recipe.get_mut(table)
            && !inside.contains_key(key)
        {
            inside.insert(key.to_string(), was.into());
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

/// A table of one setting, whose key may be dotted.
pub fn setting(key: &str, value: impl Into<Value>) -> Table {
    let mut parts = key.split('.').rev();
    let last = parts.next().unwrap_or(key);
    let table = Table::from_iter([(last.to_string(), value.into())]);
    parts.fold(table, |inner, part| Table::from_iter([(part.to_string(), Value::Table(inner))]))
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
    Ok(setting(key, value))
}

/// Lays a change over a recipe: [`merge`], where the change of a place such as `--set data.set=2024` is read as the recipe's own setting is,
/// see [`assignment_in`].
///
/// # Errors
/// As [`merge`].
pub fn lay_over(recipe: &mut Table, change: &Table, place: &str) -> Result<()> {
    match place.strip_prefix("--set ") {
        Some(text) => {
            let change = assignment_in(recipe, text)?;
            merge(recipe, &change, place)
        }
        None => merge(recipe, change, place),
    }
}

/// [`assignment`] for a recipe: a setting that is text there takes what is written as it is, for a folder may be called
/// `2024` or `true`.
///
/// # Errors
/// As [`assignment`].
pub fn assignment_in(recipe: &Table, text: &str) -> Result<Table> {
    let change = assignment(text)?;
    let Some((key, written)) = text.split_once('=').map(|(key, written)| (key.trim(), written.trim())) else {
        return Ok(change);
    };
    let at = |table: &Table| {
        let (last, above) = key.rsplit_once('.').map_or((key, None), |(above, last)| (last, Some(above)));
        let mut within = above.into_iter().flat_map(|above| above.split('.'));
        let table = within.try_fold(table.clone(), |table, part| table.get(part)?.as_table().cloned());
        table.and_then(|table| table.get(last).cloned())
    };
    match (at(recipe), at(&change)) {
        (Some(Value::String(_)), Some(value)) if !value.is_str() => Ok(setting(key, written)),
        _ => Ok(change),
    }
}

/// The typed recipe of a merged table.
///
/// # Errors
/// Names the key whose value does not fit, or is out of its [range](ranges).
pub fn typed<S: System>(table: Table, place: &str) -> Result<Recipe<S::Config>> {
    ranges::check(&table, place)?;
    let recipe: Recipe<S::Config> = table.try_into().map_err(|e: toml::de::Error| {
        let message = e.message().to_string();
        Error::usage(format!("{place}: {message}"))
    })?;
    let TrainConfig { batch, accumulate, .. } = recipe.train;
    refuse_if!(!batch.is_multiple_of(accumulate), "{place}: train.accumulate must divide train.batch");
    Ok(recipe)
}

#[cfg(test)]
mod tests {
    use kiln_data::PictureSize;

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
        bring_up_to_date(&mut saved);
        assert_eq!(saved, "[data]\nlabel_seed = 3\n[model]\ntimestep_sampling = 'uniform'".parse().unwrap());
    }

    #[test]
    fn what_older_runs_do_not_say_is_what_they_did() {
        let updated = |text: &str| {
            let mut saved: Table = text.parse().unwrap();
            bring_up_to_date(&mut saved);
            saved
        };
        let old = updated("system = 'ddpm'\n[model]\neta = 0.5");
        assert_eq!(old["model"]["sigmas"].as_str(), Some("schedule"));
        assert_eq!(old["model"]["sampling_sigma_max"].as_float(), Some(1e6));
        let new = "system = 'ddpm'\n[model]\nsigmas = 'karras'\nsampling_sigma_max = 80.0";
        assert_eq!(updated(new), new.parse().unwrap());
        let old = updated("system = 'pixelrnn'\n[model]\nlayers = 2");
        assert_eq!(old["model"]["skip_connections"].as_bool(), Some(false));
        assert_eq!(updated("system = 'vae'\n[model]\neta = 0.5")["model"].get("sigmas"), None);
    }

    #[test]
    fn a_string_where_a_number_belongs_is_named() {
        let e = merge(&mut base(), &assignment("train.batch=many").unwrap(), "--set").unwrap_err();
        assert_eq!(e.to_string(), "--set: `train.batch` must be a whole number, not a string (\"many\")");
    }

    #[test]
    fn text_takes_what_is_written() {
        for text in ["2024", "true", "2024-05-01", "1.50", "0x10", "[1]", "nan"] {
            let mut t = base();
            let change = assignment_in(&t, &format!("model.name = {text}")).unwrap();
            merge(&mut t, &change, "--set").unwrap();
            assert_eq!(t["model"]["name"].as_str(), Some(text));
            assert_eq!(setting("model.name", text), change);
        }
        let quoted = assignment_in(&base(), "model.name='2024'").unwrap();
        assert_eq!(quoted, setting("model.name", "2024"));
        assert_eq!(assignment_in(&base(), "train.batch=3").unwrap(), setting("train.batch", 3));
        assert!(assignment_in(&base(), "nothing").is_err());
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
