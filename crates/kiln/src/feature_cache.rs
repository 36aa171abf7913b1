//! What a feature net makes of some pictures, and the cache of it.
//!
//! A cached entry is named by the hash of the network and of every picture in order, so that it is
//! found again exactly when it would be made again. It lies behind its checksum; a damaged one is made again.

use std::path::{Path, PathBuf};

use kiln_core::{Result, hex, output, sealed, tell, unsealed};
use kiln_data::cache_dir;
use kiln_train::checkpoint::{from_bytes, to_bytes};
use kiln_train::{HostTensor, State};
use sha2::{Digest, Sha256};

/// The place of the largest value; 0 of none.
pub fn argmax(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0)
}

/// The outputs of a feature net for some pictures, a row a picture.
#[derive(Default)]
pub struct Outputs {
    /// `[n, d]` features.
    pub features: Vec<f32>,
    /// `[n, classes]` logits.
    pub logits: Vec<f32>,
    /// How many pictures.
    pub n: usize,
}

impl Outputs {
    /// Numbers in a feature.
    pub fn width(&self) -> usize {
        self.features.len() / self.n.max(1)
    }

    /// Adds those of more pictures.
    pub fn append(&mut self, more: Self) {
        self.features.extend(more.features);
        self.logits.extend(more.logits);
        self.n += more.n;
    }

    /// The class of each picture.
    pub fn classes(&self) -> Vec<usize> {
        let classes = self.logits.len() / self.n.max(1);
        self.logits.chunks(classes.max(1)).map(argmax).collect()
    }

    /// What is cached under a name; nothing if the file is not there, or damaged, which is said.
    pub fn load(place: &Path) -> Option<Self> {
        let bytes = std::fs::read(place).ok()?;
        let whole = unsealed(&bytes).and_then(Self::from_bytes);
        if whole.is_none() {
            tell!("{}: damaged; what it held is computed again", place.display());
        }
        whole
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut state = from_bytes(bytes, "").ok()?;
        let (features, logits) = (state.remove("features")?, state.remove("logits")?);
        let n = *features.shape.first()?;
        (n > 0).then_some(Self { features: features.values, logits: logits.values, n })
    }

    /// Caches it.
    ///
    /// # Errors
    /// If the cache cannot be written.
    pub fn save(&self, place: &Path) -> Result<()> {
        let table = |values: &Vec<f32>| HostTensor {
            shape: vec![self.n, values.len() / self.n.max(1)],
            values: values.clone(),
        };
        let tables = [("features", &self.features), ("logits", &self.logits)];
        let state: State = tables.into_iter().map(|(name, v)| (name.to_string(), table(v))).collect();
        output::folder_of(place)?;
        output::write(place, &sealed(&to_bytes(&state)?))
    }
}

fn short(hash: Sha256) -> String {
    hex(&hash.finalize()[..16])
}

/// The first half of a SHA-256, in hex.
pub fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    parts.into_iter().for_each(|part| hash.update(part));
    short(hash)
}

/// The name of a cache entry in the making.
pub struct Content(Sha256);

impl Content {
    /// Of a network.
    pub fn of(network: &str) -> Self {
        Self(Sha256::new_with_prefix(network))
    }

    /// The next picture.
    pub fn add(&mut self, shape: [usize; 3], pixels: &[u8]) {
        self.0.update(format!("{shape:?}"));
        self.0.update(pixels);
    }

    /// The entry's file.
    ///
    /// # Errors
    /// If there is no cache folder.
    pub fn place(self) -> Result<PathBuf> {
        Ok(cache_dir()?.join("features").join(short(self.0) + ".sealed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_found_again_and_damage_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("cache").join("a");
        assert!(Outputs::load(&place).is_none());
        let outputs = Outputs { features: vec![1.0, 2.0, 3.0, 4.0], logits: vec![0.5, -0.5], n: 2 };
        outputs.save(&place).unwrap();
        let again = Outputs::load(&place).unwrap();
        assert_eq!((again.n, again.width(), again.classes()), (2, 2, vec![0, 0]));
        assert_eq!(again.features, outputs.features);
        // A bit of any byte: of the seal, the head, the names, the numbers.
        let bytes = std::fs::read(&place).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            std::fs::write(&place, &damaged).unwrap();
            assert!(Outputs::load(&place).is_none(), "byte {at}");
        }
        std::fs::write(&place, &bytes[..bytes.len() - 3]).unwrap();
        assert!(Outputs::load(&place).is_none());
    }

    #[test]
    fn another_network_picture_or_order_is_another_entry() {
        let name = |network: &str, pictures: &[&[u8]]| {
            let mut content = Content::of(network);
            pictures.iter().for_each(|p| content.add([1, 1, p.len()], p));
            short(content.0)
        };
        let all = [
            name("a", &[&[1, 2], &[3, 4]]),
            name("b", &[&[1, 2], &[3, 4]]),
            name("a", &[&[3, 4], &[1, 2]]),
            name("a", &[&[1, 2], &[3, 5]]),
            name("a", &[&[1, 2]]),
        ];
        for (i, x) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|y| y != x));
        }
    }
}
