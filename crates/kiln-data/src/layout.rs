//! What the names of a set's folders and files mean: splits and classes.

use std::collections::{BTreeMap, BTreeSet};

use kiln_core::{Error, Result};

use crate::Split;
use crate::store::Entry;

/// Endings of the pictures that are read.
pub(crate) const PICTURES: [&str; 16] = [
    "png", "jpg", "jpeg", "jpe", "jfif", "webp", "gif", "bmp", "dib", "tif", "tiff", "pbm", "pgm", "ppm", "pnm", "pam",
];

/// Whether a file is a picture, by its name.
pub(crate) fn is_picture(path: &str) -> bool {
    PICTURES.contains(&extension(path).as_str())
}

/// What follows the last dot of a file's name, in lower case.
pub(crate) fn extension(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.rsplit_once('.').map_or(String::new(), |(_, e)| e.to_ascii_lowercase())
}

/// A path without what tells the format of its file.
pub(crate) fn without_ending(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(stem, _)| stem)
}

/// The length of the folder path (with its last `/`) that all entries share.
pub(crate) fn common_root(entries: &[Entry]) -> usize {
    let Some(first) = entries.first() else {
        return 0;
    };
    let shared = entries.iter().fold(first.path.as_str(), |shared, e| {
        let same = shared.bytes().zip(e.path.bytes()).take_while(|(a, b)| a == b).count();
        // Cut at a folder, which is also a character boundary.
        &shared[..shared.as_bytes()[..same].iter().rposition(|&b| b == b'/').map_or(0, |i| i + 1)]
    });
    // The last folder may be a class or a part.
    let inner = shared.trim_end_matches('/');
    match inner.rsplit_once('/') {
        Some((outer, last)) if part_of(last).is_some() => outer.len() + 1,
        None if part_of(inner).is_some() => 0,
        _ => shared.rfind('/').map_or(0, |i| i + 1),
    }
}

/// The part of a set that a folder at its top can stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Train,
    Validation,
    Test,
}

/// The part that a folder's name stands for, in any case: `train`, `Validation`, `test_images`, `trainset`.
fn part_of(name: &str) -> Option<Part> {
    let name = name.to_lowercase();
    let words = name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let mut words =
        words.filter(|word| !["set", "data", "dataset", "images", "img", "imgs", "pictures"].contains(word));
    match (words.next(), words.next()) {
        (Some(word), None) => part_of_word(word),
        _ => None,
    }
}

/// The part that one of the words of a lower-case name stands for, such as of `x_train`.
pub(crate) fn part_within(name: &str) -> Option<Part> {
    name.split(|c: char| !c.is_alphanumeric()).find_map(part_of_word)
}

fn part_of_word(word: &str) -> Option<Part> {
    match word.strip_suffix("set").unwrap_or(word) {
        "train" | "training" => Some(Part::Train),
        "val" | "valid" | "validation" | "dev" | "eval" | "evaluation" | "holdout" => Some(Part::Validation),
        "test" | "testing" => Some(Part::Test),
        _ => None,
    }
}

/// The parts that a set's folders are. They lie at its top, or all at one depth below: `images/train`, `cat/train`.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// The folders around all pictures, with a `/` at the end, or nothing.
    root: String,
    /// How many folders lie around a part.
    depth: usize,
    /// None where the set has no parts of its own.
    folders: BTreeMap<String, Part>,
}

/// How deep parts are looked for.
const DEEPEST: usize = 3;

impl Parts {
    /// The parts among the folders of a set, which is `root` bytes into the path of each picture.
    ///
    /// # Errors
    /// If a folder at the top has the name of a part and lies among others that have not.
    pub(crate) fn of(place: &str, entries: &[Entry], root: usize) -> Result<Self> {
        let mut tops = BTreeMap::new();
        let mut flat = false;
        let around = entries.first().map_or("", |first| &first.path[..root]);
        for entry in entries {
            match entry.path[root..].split_once('/') {
                Some((top, _)) if !tops.contains_key(top) => _ = tops.insert(top.to_string(), part_of(top)),
                Some(_) => {}
                None => flat = true,
            }
        }
        let others: Vec<String> = tops.iter().filter(|(_, part)| part.is_none()).map(|(top, _)| top.clone()).collect();
        let folders: BTreeMap<String, Part> = tops.into_iter().filter_map(|(top, part)| Some((top, part?))).collect();
        let plain = Self { root: around.to_string(), ..Self::default() };
        let alone = others.is_empty() && !flat;
        match folders.keys().next() {
            Some(_) if alone || is_split(&folders) => Ok(Self { folders, ..plain }),
            None => Ok((1..=DEEPEST).find_map(|depth| Self::below_top(entries, around, depth)).unwrap_or(plain)),
            // A train can also be a thing in pictures.
            Some(name) if folders.len() == 1 && name.eq_ignore_ascii_case("train") => Ok(plain),
            Some(name) => Err(Error::usage(format!(
                "{place}: {name} is the name of a part of a set, and lies beside {}; sort all pictures into train and \
                 {name}, or rename it",
                others.first().map_or("pictures", String::as_str)
            ))),
        }
    }

    /// Parts at a depth at which every picture lies in one.
    fn below_top(entries: &[Entry], root: &str, depth: usize) -> Option<Self> {
        let mut found = Self { root: root.to_string(), depth, folders: BTreeMap::new() };
        let mut around = BTreeSet::new();
        for entry in entries {
            let (before, part, _) = found.apart(&entry.path);
            if !found.folders.contains_key(part) {
                found.folders.insert(part.to_string(), part_of(part)?);
            }
            around.insert(before);
        }
        if !is_split(&found.folders) {
            return None;
        }
        // One folder around everything says nothing.
        match around.first().filter(|_| around.len() == 1) {
            Some(before) => Some(Self { root: format!("{root}{before}"), depth: 0, ..found }),
            None => Some(found),
        }
    }

    /// Whether the set has parts of its own.
    pub(crate) fn is_given(&self) -> bool {
        !self.folders.is_empty()
    }

    /// What is left of a path below the folders around all pictures: nothing, if it lies elsewhere, as only what is no picture
    /// can.
    fn inside<'a>(&self, path: &'a str) -> &'a str {
        path.strip_prefix(&self.root).unwrap_or_default()
    }

    /// What lies around a path's part, the part, and what lies in it.
    fn apart<'a>(&self, path: &'a str) -> (&'a str, &'a str, &'a str) {
        let path = self.inside(path);
        let deeper = |start: usize| path[start..].find('/').map(|i| start + i + 1);
        let start = (0..self.depth).try_fold(0, |start, _| deeper(start)).unwrap_or(path.len());
        let (before, rest) = path.split_at(start);
        let (part, inside) = rest.split_once('/').unwrap_or(("", rest));
        (before, part, inside)
    }

    /// What is left of a path without the folders around everything, and without its part.
    pub(crate) fn below(&self, path: &str) -> String {
        match (self.is_given(), self.apart(path)) {
            (false, _) => self.inside(path).to_string(),
            (true, (before, _, inside)) => format!("{before}{inside}"),
        }
    }

    /// The folder of the part that a path lies in, or nothing.
    pub(crate) fn part<'a>(&self, path: &'a str) -> &'a str {
        if self.is_given() { self.apart(path).1 } else { "" }
    }

    /// Whether a path lies in one of the parts, or the set has none.
    pub(crate) fn within(&self, path: &str) -> bool {
        !self.is_given() || self.folders.contains_key(self.part(path))
    }

    /// The split that a path belongs to by its part. What is for validation is the test part of a set that has no other;
    /// beside one it belongs to neither.
    pub(crate) fn side(&self, path: &str) -> Option<Split> {
        match self.folders.get(self.part(path))? {
            Part::Train => Some(Split::Train),
            Part::Test => Some(Split::Test),
            Part::Validation => Some(Split::Test).filter(|_| !self.folders.values().any(|p| *p == Part::Test)),
        }
    }
}

/// Whether there is something to train on and something held out.
fn is_split(folders: &BTreeMap<String, Part>) -> bool {
    let trains = folders.values().any(|part| *part == Part::Train);
    trains && folders.values().any(|part| *part != Part::Train)
}

/// The first folders of the paths, sorted; none if all are flat.
pub(crate) fn classes<'a>(place: &str, paths: impl Iterator<Item = &'a str>) -> Result<Vec<String>> {
    let mut flat = None;
    let mut classes = BTreeSet::new();
    for path in paths {
        match path.split_once('/') {
            Some((class, _)) if !classes.contains(class) => _ = classes.insert(class.to_string()),
            Some(_) => {}
            None => flat = flat.or(Some(path)),
        }
    }
    match (flat, classes.first()) {
        (Some(file), Some(class)) => Err(Error::new(format!(
            "{place}: {file} lies beside the class folder {class}: put every picture into a class \
             folder, or none"
        ))),
        _ => Ok(classes.into_iter().collect()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::At;

    fn entries(paths: &[&str]) -> Vec<Entry> {
        paths.iter().map(|path| Entry { path: path.to_string(), bytes: 1, at: At::Path }).collect()
    }

    #[test]
    fn parts_have_many_names() {
        for name in ["train", "Train", "TRAINING", "train_images", "training-set", "trainset", "Train data"] {
            assert_eq!(part_of(name), Some(Part::Train), "{name}");
        }
        for name in ["val", "Valid", "validation", "val_set", "dev"] {
            assert_eq!(part_of(name), Some(Part::Validation), "{name}");
        }
        assert_eq!(["test", "Testing", "testset"].map(part_of), [Some(Part::Test); 3]);
        for name in ["steam_train", "cat", "", "set", "trained", "contest", "protest", "set_data"] {
            assert_eq!(part_of(name), None, "{name}");
        }
    }

    #[test]
    fn a_part_is_no_class() {
        let parts = |paths: &[&str]| Parts::of("d", &entries(paths), 0);
        let three = parts(&["train/a/1.png", "val/a/2.png", "test/a/3.png", "extra/4.png"]).unwrap();
        let sides = ["train/a", "val/a", "test/a", "extra/4"].map(|path| three.side(path));
        assert_eq!(sides, [Some(Split::Train), None, Some(Split::Test), None]);
        assert!(three.within("val/a") && !three.within("extra/4"));
        assert_eq!(three.below("train/a/1.png"), "a/1.png");
        let two = parts(&["Train/a/1.png", "Valid/a/2.png"]).unwrap();
        assert_eq!(two.side("Valid/a/2.png"), Some(Split::Test));
        // Deeper, in every class, in pictures and masks, and in one folder around all.
        let deep = parts(&["cat/train/1.png", "cat/val/2.png", "dog/train/x/1.png"]).unwrap();
        assert_eq!(deep.below("dog/train/x/1.png"), "dog/x/1.png");
        assert_eq!(deep.side("cat/val/2.png"), Some(Split::Test));
        let around = parts(&["d/images/train/a/1.png", "d/images/test/a/2.png"]).unwrap();
        assert_eq!(around.below("d/images/train/a/1.png"), "a/1.png");
        assert!(!parts(&["cat/train/1.png", "dog/2.png"]).unwrap().is_given());
        assert!(!parts(&["cat/train/1.png", "dog/train/2.png"]).unwrap().is_given());
        // Trains and buses.
        assert!(!parts(&["train/1.png", "bus/2.png"]).unwrap().is_given());
        assert!(parts(&["train/1.png"]).unwrap().is_given());
        for wrong in [["cat/1.png", "val/2.png"], ["cat/1.png", "training/2.png"], ["1.png", "test/2.png"]] {
            let error = parts(&wrong).unwrap_err();
            assert!(error.is_usage() && error.to_string().contains("name of a part"), "{error}");
        }
    }
}
