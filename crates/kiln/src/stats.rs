//! What is kept of a reference set, so that it need not be looked at again?
//!
//! A safetensors file: `mean` `[d]` and `scatter` `[d, d]` (f64, Σ (x − mean)(x − mean)ᵀ) of all pictures,
//! `features` `[k, d]` and `logits` `[k, classes]` (f32) of the first k in a keyed order, and in its
//! metadata the set, the part of it, the network with the hash of its weights, the resize, the counts, and a digest of all that.

use std::collections::HashMap;
use std::path::Path;

use kiln_core::{Context, Error, Result, output, read_file};
use kiln_measure::Features;
use kiln_measure::frechet::{self, Gaussian};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::feature_cache::{Outputs, hash};

/// Of which set, by which network.
#[derive(Clone, Debug, PartialEq)]
pub struct About {
    /// The name of the set.
    pub set: String,
    /// The part of it.
    pub split: String,
    /// The network's name.
    pub features: String,
    /// The hash of its weights.
    pub identity: String,
    /// How pictures came to its size.
    pub resize: String,
    /// The classes it tells apart that are the set's own; 0 if none.
    pub classes: usize,
}

/// The statistics of a set.
pub struct Stats {
    /// Of what.
    pub about: About,
    /// Mean and covariance of all pictures.
    pub gaussian: Gaussian,
    /// The network's outputs for the first pictures.
    pub outputs: Outputs,
}

/// One side of a comparison of sets.
pub struct Side {
    /// Its name in figures.
    pub name: String,
    /// The part of it.
    pub split: String,
    /// The network's outputs for its pictures, or for the first of them.
    pub outputs: Outputs,
    /// Mean and covariance of all of them, if they are stored.
    gaussian: Option<Gaussian>,
}

impl Side {
    /// Pictures that were looked at.
    pub fn of(name: &str, split: &str, outputs: Outputs) -> Self {
        Self { name: name.into(), split: split.into(), outputs, gaussian: None }
    }

    /// A file of statistics.
    pub fn stored(stats: Stats) -> Self {
        let Stats { about, gaussian, outputs } = stats;
        Self { name: about.set, split: about.split, outputs, gaussian: Some(gaussian) }
    }

    /// The features of the pictures that were looked at.
    ///
    /// # Errors
    /// If a feature is not finite.
    pub fn features(&self) -> Result<Features<'_>> {
        Features::new(&self.name, &self.outputs.features, self.outputs.width())
    }

    /// How many pictures a Fréchet distance takes in.
    pub fn all(&self) -> usize {
        self.gaussian.as_ref().map_or(self.outputs.n, Gaussian::n)
    }

    /// The Fréchet distance to another side, by all pictures of both.
    ///
    /// # Errors
    /// As [`frechet::between`].
    pub fn frechet(&self, other: &Self) -> Result<f64> {
        match (&self.gaussian, &other.gaussian) {
            (Some(a), Some(b)) => frechet::distance(a, b),
            (None, Some(b)) => frechet::to_reference(self.features()?, b),
            (Some(a), None) => frechet::to_reference(other.features()?, a),
            (None, None) => frechet::between(self.features()?, other.features()?),
        }
    }
}

/// Whether a word of the command line is such a file.
pub fn is_stats(spec: &str) -> bool {
    spec.ends_with(".safetensors") && Path::new(spec).is_file()
}

impl Stats {
    /// Reads a file of `kiln data stats`.
    ///
    /// # Errors
    /// If it is not one, or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let place = path.display().to_string();
        let bytes = read_file(path, u64::MAX)?;
        let broken = |what: &str| {
            Error::new(format!("{place}: {what}; is it a file of `kiln data stats`? Make it again if it is"))
        };
        let (_, head) = SafeTensors::read_metadata(&bytes).map_err(|e| broken(&e.to_string()))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| broken(&e.to_string()))?;
        let mut head = head.metadata().clone().unwrap_or_default();
        let digest = head.remove(DIGEST);
        if digest != Some(digest_of(&head, &file.tensors())) {
            return Err(broken("its digest is not that of its numbers: it is damaged, or of an older Kiln"));
        }
        let word = |key: &str| head.get(key).cloned().ok_or_else(|| broken(&format!("no `{key}` in its head")));
        let number = |key: &str| word(key)?.parse::<usize>().map_err(|_| broken(&format!("`{key}` is no count")));
        let doubles = |name: &str| -> Result<Vec<f64>> {
            let view = file.tensor(name).map_err(|_| broken(&format!("no tensor `{name}`")))?;
            let (numbers, []) = view.data().as_chunks::<8>() else { return Err(broken("a tensor is cut")) };
            match view.dtype() {
                Dtype::F64 => Ok(numbers.iter().map(|b| f64::from_le_bytes(*b)).collect()),
                _ => Err(broken(&format!("`{name}` is not f64"))),
            }
        };
        let singles = |name: &str| -> Result<(usize, Vec<f32>)> {
            let Ok(view) = file.tensor(name) else { return Ok((0, Vec::new())) };
            match (view.dtype(), view.shape(), view.data().as_chunks::<4>()) {
                (Dtype::F32, [n, _], (numbers, [])) => {
                    Ok((*n, numbers.iter().map(|b| f32::from_le_bytes(*b)).collect()))
                }
                _ => Err(broken(&format!("`{name}` is not a table of f32"))),
            }
        };
        let about = About {
            set: word("set")?,
            split: word("split")?,
            features: word("features")?,
            identity: word("identity")?,
            resize: word("resize")?,
            classes: number("classes")?,
        };
        let gaussian = Gaussian::from_parts(&place, number("n")?, doubles("mean")?, &doubles("scatter")?)?;
        let ((n, features), (_, logits)) = (singles("features")?, singles("logits")?);
        if n == 0 || features.len() != n * gaussian.mean().len() || logits.len() % n != 0 {
            return Err(broken("its tables do not fit together"));
        }
        Ok(Self { about, gaussian, outputs: Outputs { features, logits, n } })
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// If the disk is full or not writable.
    pub fn write(&self, path: &Path) -> Result<()> {
        let doubles = |values: &[f64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let singles = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let (d, outputs) = (self.gaussian.mean().len(), &self.outputs);
        let mut tensors = vec![
            ("mean", Dtype::F64, vec![d], doubles(self.gaussian.mean())),
            ("scatter", Dtype::F64, vec![d, d], doubles(&self.gaussian.scatter())),
            ("features", Dtype::F32, vec![outputs.n, d], singles(&outputs.features)),
        ];
        if !outputs.logits.is_empty() {
            let shape = vec![outputs.n, outputs.logits.len() / outputs.n.max(1)];
            tensors.push(("logits", Dtype::F32, shape, singles(&outputs.logits)));
        }
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            Ok((*name, TensorView::new(*dtype, shape.clone(), bytes).context(|| name)?))
        });
        let views = views.collect::<Result<Vec<(&str, TensorView<'_>)>>>()?;
        let about = &self.about;
        let mut head: HashMap<String, String> = [
            ("set", about.set.clone()),
            ("split", about.split.clone()),
            ("features", about.features.clone()),
            ("identity", about.identity.clone()),
            ("resize", about.resize.clone()),
            ("classes", about.classes.to_string()),
            ("n", self.gaussian.n().to_string()),
            ("kiln", env!("CARGO_PKG_VERSION").to_string()),
        ]
        .into_iter()
        .map(|(key, word)| (key.to_string(), word))
        .collect();
        head.insert(DIGEST.into(), digest_of(&head, &views));
        let bytes = safetensors::serialize(views, Some(head)).context(|| path.display())?;
        output::write(path, &bytes)
    }
}

/// The word of the head that holds the digest of all else.
const DIGEST: &str = "digest";

/// A digest of words and tensors, in whatever order they come.
fn digest_of(head: &HashMap<String, String>, tensors: &[(impl AsRef<str>, TensorView<'_>)]) -> String {
    let words = head.iter().map(|(key, word)| format!("{key} {word}").into_bytes());
    let tables = tensors.iter().map(|(name, view)| {
        let (about, data) = (format!("{} {:?} {:?}", name.as_ref(), view.dtype(), view.shape()), view.data());
        hash([about.as_bytes(), data]).into_bytes()
    });
    let mut parts: Vec<Vec<u8>> = words.chain(tables).collect();
    parts.sort_unstable();
    hash(parts.iter().map(|part| hash([part.as_slice()])).collect::<Vec<_>>().iter().map(String::as_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_damage_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let features = vec![1.0, 2.0, 3.0, 5.0, 8.0, 13.0];
        let gaussian = Gaussian::of(Features::new("a", &features, 2).unwrap()).unwrap();
        let about = About {
            set: "a".into(),
            split: "train".into(),
            features: "net".into(),
            identity: "0123".into(),
            resize: "none".into(),
            classes: 0,
        };
        let outputs = Outputs { features: features[..4].to_vec(), logits: Vec::new(), n: 2 };
        Stats { about: about.clone(), gaussian, outputs }.write(&path).unwrap();
        let again = Stats::open(&path).unwrap();
        assert_eq!((again.about, again.gaussian.n(), again.outputs.n), (about, 3, 2));
        assert!(again.gaussian.mean().iter().zip([4.0, 20.0 / 3.0]).all(|(a, b)| (a - b).abs() < 1e-12));
        assert_eq!(again.outputs.features, features[..4]);
        assert!(is_stats(path.to_str().unwrap()) && !is_stats("b.safetensors"));

        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            std::fs::write(&path, &damaged).unwrap();
            assert!(Stats::open(&path).is_err(), "byte {at}");
        }
        std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        assert!(Stats::open(&path).err().unwrap().to_string().contains("kiln data stats"));
    }
}
