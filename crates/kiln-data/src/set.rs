//! The interface of data sets.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use kiln_core::random::Key;
use kiln_core::{Error, Result, hex};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{PaletteColour, Picture};

/// A kind of data: what a data set offers and a system needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataKind {
    /// Pictures.
    Images,
    /// Images with a class each.
    Labelled,
    /// Images of which a few have a class: two domains of one set, the labelled few and all the others.
    PartlyLabelled,
    /// Pairs: two sets of which index i of each belongs together, by the names of their pictures.
    Paired,
    /// One of two unpaired domains.
    TwoDomains,
    /// One side of a domain adaptation task: the classes mean the same in both sets.
    SourceTarget,
    /// Pictures with a line of text each.
    Captioned,
    /// Pictures with a class for each pixel: see [`Sample::mask`].
    Masked,
    /// Label maps and their pictures: pairs, the first of each with a class for each pixel (see [`DataSet::palette`]).
    LabelMaps,
    /// Both sides of a domain adaptation task for segmentation: the first with a class for each pixel.
    MaskedSource,
    /// The same, where the masks of the second say of each pixel whether it stands still, 1, or moves, 0.
    MaskedSourceStill,
    /// Pictures whose generating factors are known: see [`DataSet::factors`].
    Factors,
    /// Short videos.
    Clips,
    /// Solid shapes.
    Voxels,
}

/// The training part, the test part, or both.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// The training part.
    Train,
    /// The test part, which is not trained on.
    Test,
    /// Both.
    All,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Test => "test",
            Self::All => "all",
        })
    }
}

impl FromStr for Split {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "train" => Ok(Self::Train),
            "test" => Ok(Self::Test),
            "all" => Ok(Self::All),
            _ => Err(Error::usage(format!("`{text}` is no split: use train, test or all"))),
        }
    }
}

impl Split {
    /// Itself, or the two parts of all.
    pub(crate) fn parts(self) -> impl Iterator<Item = Self> {
        [Self::Train, Self::Test].into_iter().filter(move |&part| self == Self::All || self == part)
    }

    /// Whether an item of this name belongs to the split: one name in five, chosen by a keyed hash,
    /// is test. A name stays on its side when other items are added or removed, and is on the same side in
    /// every set.
    pub(crate) fn holds(self, name: &str) -> bool {
        let test = || Key::new(0).purpose("split").purpose(name).below([0], 5)[0] == 0;
        self == Self::All || test() == (self == Self::Test)
    }

    /// Keeps the items of the split. Sets of fewer than five have no test part: all is train.
    pub(crate) fn keep<T>(self, items: Vec<T>, name: impl Fn(&T) -> String) -> Vec<T> {
        match (items.len() < 5, self) {
            (_, Self::All) | (true, Self::Train) => items,
            (true, Self::Test) => Vec::new(),
            (false, _) => items.into_iter().filter(|i| self.holds(&name(i))).collect(),
        }
    }
}

/// One item of a data set as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The decoded picture.
    pub picture: Picture,
    /// Index into [`DataSet::classes`].
    pub label: Option<u32>,
    /// A line of text that describes the picture.
    pub caption: Option<String>,
    /// The class of each pixel as a grey value, of the picture's size, where the set has masks.
    pub mask: Option<Picture>,
    /// What to call it in messages: a file, or a number in the set.
    pub name: String,
}

/// A generating factor of a set's images that is known exactly, such as pose or size.
#[derive(Clone, Debug, PartialEq)]
pub struct Factor {
    /// Its name.
    pub name: &'static str,
    /// The values it takes, in order: angles in radians, other quantities in the set's own unit, categories as their
    /// numbers.
    pub values: Vec<f32>,
    /// Whether the values are quantities, to which a regression can be fitted, and not numbered categories.
    pub ordered: bool,
}

impl Factor {
    /// `count` values at equal distances from `low` to `high`.
    pub(crate) fn even(name: &'static str, count: usize, low: f32, high: f32) -> Self {
        let step = |i: usize| low + (high - low) * i as f32 / (count.max(2) - 1) as f32;
        Self { name, values: (0..count).map(step).collect(), ordered: true }
    }

    /// The numbers of `count` names.
    pub(crate) fn named(name: &'static str, count: usize) -> Self {
        Self { name, values: (0..count).map(|i| i as f32).collect(), ordered: false }
    }
}

/// Pictures by index, decoded when asked for.
pub trait DataSet: Send + Sync {
    /// The name it was opened by.
    fn name(&self) -> &str;

    /// How many samples there are.
    fn len(&self) -> usize;

    /// Whether there are none ([`crate::open`] never gives an empty set).
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sample `index` in `0..len`. An error names the file that could not be read.
    fn get(&self, index: usize) -> Result<Sample>;

    /// What sample `index` is called within its set, without folders around the set and the file's ending, where it has
    /// a name: pairs have the same.
    fn stem(&self, _index: usize) -> Option<String> {
        None
    }

    /// The caption of sample `index`, without its picture where that is known without decoding it.
    ///
    /// # Errors
    /// As [`DataSet::get`].
    fn caption(&self, index: usize) -> Result<Option<String>> {
        Ok(self.get(index)?.caption)
    }

    /// Class names by label; empty when unlabelled.
    fn classes(&self) -> &[String] {
        &[]
    }

    /// The generating factors, if they are known exactly; otherwise empty.
    fn factors(&self) -> &[Factor] {
        &[]
    }

    /// For each factor, the index of its value in image `index`, in `0..` [`Factor::values`]`.len()`; empty if the set
    /// has no known factors.
    fn places(&self, _index: usize) -> Vec<usize> {
        Vec::new()
    }

    /// The index of the image whose factors have these values: the inverse of [`DataSet::places`]. `None` if it is not
    /// in the set.
    fn find(&self, _places: &[usize]) -> Option<usize> {
        None
    }

    /// The classes of a set of label maps, whose pictures have their colours and no others; empty for any other set.
    fn palette(&self) -> &[PaletteColour] {
        &[]
    }

    /// The colours that picture `index` uses by their indices, where its file has an index for each pixel.
    ///
    /// # Errors
    /// If it cannot be read, or two indices that it uses have one colour.
    fn indexed_colours(&self, _index: usize) -> Result<Option<BTreeMap<u8, [u8; 3]>>> {
        Ok(None)
    }

    /// The density of the data at a picture's values in [−1, 1], row by row, if it is known exactly.
    fn density(&self, _values: &[f32]) -> Option<f64> {
        None
    }

    /// The kinds of data that the set offers.
    fn kinds(&self) -> Vec<DataKind>;

    /// What a person should know of the set: what was left out of it, a line each.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// A short identity of the content (a hash of names and sizes, or of the bytes), for caches: equal
    /// fingerprints mean equal samples in equal order.
    fn fingerprint(&self) -> String;

    /// [channels, height, width] when the reader knows, without decoding, that every sample has this
    /// shape and is readable.
    fn uniform(&self) -> Option<[usize; 3]> {
        None
    }
}

/// The kinds of a plain set of pictures, by what comes with each.
pub(crate) fn picture_kinds(labelled: bool, captioned: bool) -> Vec<DataKind> {
    let mut kinds = vec![DataKind::Images, DataKind::TwoDomains];
    if labelled {
        kinds.extend([DataKind::Labelled, DataKind::PartlyLabelled, DataKind::SourceTarget]);
    }
    if captioned {
        kinds.push(DataKind::Captioned);
    }
    kinds
}

/// Those of a labelled set with known factors.
pub(crate) fn factor_kinds(captioned: bool) -> Vec<DataKind> {
    let mut kinds = picture_kinds(true, captioned);
    kinds.push(DataKind::Factors);
    kinds
}

/// The number of the combination `places` of factors with so many values each, the last factor running fastest; `None` if one
/// is out of range.
pub(crate) fn joined(places: &[usize], counts: &[usize]) -> Option<usize> {
    let inside = places.len() == counts.len() && places.iter().zip(counts).all(|(place, count)| place < count);
    inside.then(|| places.iter().zip(counts).fold(0, |number, (place, count)| number * count + place))
}

/// The combination that [`joined`] gives this number.
pub(crate) fn parted(mut number: usize, counts: &[usize]) -> Vec<usize> {
    let mut places: Vec<usize> = counts
        .iter()
        .rev()
        .map(|count| {
            let place = number % count;
            number /= count;
            place
        })
        .collect();
    places.reverse();
    places
}

/// The first 16 hexadecimal digits of [`hash_of`] the parts.
pub(crate) fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    hex(&hash_of(parts)[..8])
}

/// The SHA-256 of the parts, each preceded by its length.
pub(crate) fn hash_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_split_parts_a_set_and_a_name_stays_on_its_side(names in prop::collection::btree_set("[a-z]{1,6}", 0..60)) {
            let names: Vec<String> = names.into_iter().collect();
            let kept = |split: Split, names: &[String]| split.keep(names.to_vec(), String::clone);
            let (train, test) = (kept(Split::Train, &names), kept(Split::Test, &names));
            let mut both = [train.as_slice(), &test].concat();
            both.sort();
            prop_assert_eq!(&both, &kept(Split::All, &names));
            prop_assert_eq!(both, &names[..]);
            prop_assert!(train.is_sorted() && test.is_sorted());
            prop_assert!(names.len() >= 5 || test.is_empty());
            if names.len() > 5 {
                // One name less.
                let fewer = kept(Split::Test, &names[1..]);
                prop_assert!(fewer.iter().all(|name| test.contains(name)));
                prop_assert!(test.iter().all(|name| *name == names[0] || fewer.contains(name)));
            }
        }
    }
}
