//! What a set holds, to know it again: a digest of every sample, and what differs between two times.

use std::collections::{BTreeMap, BTreeSet};

use kiln_core::{Result, hex};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::set::hash_of;
use crate::{DataSet, Picture, Sample};

/// The contents of a set: its classes, and a digest of every sample.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// How many samples there are.
    pub count: usize,
    /// Class names by label.
    pub classes: Vec<String>,
    /// Of each sample, in order, its name in the set and its digest. Empty where the reader vouches for the whole set.
    samples: Vec<(String, String)>,
    /// What the reader of the whole set says of it; see [`DataSet::fingerprint`].
    whole: String,
}

/// What a look at every picture of a set finds.
pub struct Survey {
    /// What the set holds.
    pub contents: Contents,
    /// Channels, height and width of each picture as stored, with its name in messages; once where the reader knows that
    /// all have this shape.
    pub stored: Vec<([usize; 3], String)>,
}

impl Survey {
    /// Of a set; every picture is decoded once, unless the reader knows the set without.
    ///
    /// # Errors
    /// Names the first picture in the set's order that cannot be read.
    pub fn of(set: &dyn DataSet) -> Result<Self> {
        let (count, classes) = (set.len(), set.classes().to_vec());
        if let Some(shape) = set.uniform() {
            let contents = Contents { count, classes, samples: Vec::new(), whole: set.fingerprint() };
            return Ok(Self { contents, stored: vec![(shape, String::new())] });
        }
        let look = |index| {
            let sample = set.get(index)?;
            let name = set.stem(index).unwrap_or_else(|| index.to_string());
            let known = (name, digest(&sample, &classes));
            let Sample { picture, name, .. } = sample;
            Ok((([picture.channels, picture.height, picture.width], name), known))
        };
        // Collected first: the first bad file in the set's order, whichever thread finds one first.
        let all: Vec<Result<_>> = (0..count).into_par_iter().map(look).collect();
        let (stored, samples) = all.into_iter().collect::<Result<Vec<_>>>()?.into_iter().unzip();
        Ok(Self { contents: Contents { count, classes, samples, whole: String::new() }, stored })
    }
}

impl Contents {
    /// A digest of everything: the same for the same samples of the same names in the same order.
    pub fn digest(&self) -> String {
        let samples = self.samples.iter().flat_map(|(name, digest)| [name, digest]);
        let texts = [&self.whole].into_iter().chain(&self.classes).chain(samples);
        hex(&hash_of(texts.map(String::as_bytes))[..16])
    }

    /// What differs since `before`, in words; `None` if nothing does.
    pub fn difference(&self, before: &Self) -> Option<String> {
        if self == before {
            return None;
        }
        let mut parts = Vec::new();
        if self.classes != before.classes {
            let list = |classes: &[String]| match classes {
                [] => "none".to_string(),
                some => some.join(", "),
            };
            parts.push(format!("the classes were {} and are {}", list(&before.classes), list(&self.classes)));
        }
        fn by_name(contents: &Contents) -> BTreeMap<&str, &str> {
            contents.samples.iter().map(|(name, digest)| (name.as_str(), digest.as_str())).collect()
        }
        let (old, new) = (by_name(before), by_name(self));
        let mut removed: Vec<&str> = old.keys().filter(|name| !new.contains_key(*name)).copied().collect();
        let mut added: Vec<&str> = new.keys().filter(|name| !old.contains_key(*name)).copied().collect();
        let gone: BTreeSet<&str> = removed.iter().map(|name| old[name]).collect();
        let come: BTreeSet<&str> = added.iter().map(|name| new[name]).collect();
        let renamed: Vec<&str> = added.iter().filter(|name| gone.contains(new[*name])).copied().collect();
        added.retain(|name| !gone.contains(new[name]));
        removed.retain(|name| !come.contains(old[name]));
        let edited: Vec<&str> =
            new.iter().filter(|(name, digest)| old.get(*name).is_some_and(|o| o != *digest)).map(|(n, _)| *n).collect();
        for (names, what) in
            [(added, "added"), (removed, "removed"), (edited, "changed"), (renamed, "renamed or moved")]
        {
            let count = names.len();
            match names.first() {
                None => {}
                Some(first) if count == 1 => parts.push(format!("1 picture {what} ({first})")),
                Some(first) => parts.push(format!("{count} pictures {what} ({first}, …)")),
            }
        }
        if parts.is_empty() {
            parts.push(match self.count == before.count {
                true => "its pictures are others".to_string(),
                false => format!("{} pictures were {}", self.count, before.count),
            });
        }
        Some(parts.join("; "))
    }
}

/// A digest of a sample as stored: its pixels, its class by name, its caption and its mask.
fn digest(sample: &Sample, classes: &[String]) -> String {
    let mut hash = Sha256::new();
    let mut picture = |picture: &Picture| {
        [picture.width, picture.height, picture.channels].iter().for_each(|n| hash.update((*n as u64).to_le_bytes()));
        hash.update(&picture.pixels);
    };
    picture(&sample.picture);
    sample.mask.iter().for_each(&mut picture);
    let class = sample.label.and_then(|label| classes.get(label as usize));
    for text in [class, sample.caption.as_ref()] {
        hash.update([u8::from(text.is_some())]);
        let text = text.map_or("", String::as_str);
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hex(&hash.finalize()[..16])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::{PictureRule, Split, open};

    fn put(folder: &Path, file: &str, level: u8) {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        Picture::new(2, 2, 1, vec![level; 4]).unwrap().write_png(&path, &[]).unwrap();
    }

    fn of(folder: &Path) -> Contents {
        let set = open(&folder.display().to_string(), Split::All, &PictureRule::default()).unwrap();
        Survey::of(set.as_ref()).unwrap().contents
    }

    #[test]
    fn every_change_of_a_folder_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for (i, file) in ["ant/0.png", "ant/1.png", "bee/2.png", "bee/3.png"].into_iter().enumerate() {
            put(root, file, i as u8);
        }
        let first = of(root);
        assert_eq!(first.difference(&of(root)), None);
        assert_eq!(first.digest(), of(root).digest());
        let mut before = first;
        let mut told = |change: &dyn Fn()| {
            change();
            let now = of(root);
            assert_ne!(now.digest(), before.digest());
            let told = now.difference(&before).unwrap();
            before = now;
            told
        };
        assert_eq!(told(&|| put(root, "ant/9.png", 9)), "1 picture added (ant/9)");
        assert_eq!(told(&|| put(root, "ant/9.png", 8)), "1 picture changed (ant/9)");
        assert_eq!(
            told(&|| fs::rename(root.join("ant/9.png"), root.join("ant/7.png")).unwrap()),
            "1 picture renamed or moved (ant/7)"
        );
        assert_eq!(told(&|| fs::remove_file(root.join("ant/7.png")).unwrap()), "1 picture removed (ant/7)");
        let moved = told(&|| fs::rename(root.join("ant"), root.join("zebra")).unwrap());
        assert!(moved.starts_with("the classes were ant, bee and are bee, zebra; 2 pictures"), "{moved}");
    }

    #[test]
    fn a_set_that_its_reader_knows_is_not_decoded() {
        let set = |split| open("starter", split, &PictureRule::default()).unwrap();
        let [train, test] = [Split::Train, Split::Test].map(|split| Survey::of(set(split).as_ref()).unwrap().contents);
        assert!(train.samples.is_empty() && train.digest() != test.digest());
        assert!(train.difference(&test).unwrap().contains(" pictures were "));
    }
}
