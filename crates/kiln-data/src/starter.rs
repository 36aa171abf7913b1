//! The data that ships inside the program.

use std::collections::BTreeMap;

use kiln_core::{Context, Result};
use serde_json::value::RawValue;

use crate::icons::IconFile;
use crate::idx;
use crate::memory::MemorySet;
use crate::{DataSet, Split};

const IMAGES: &[u8] = include_bytes!("../../../data/starter/t10k-images-idx3-ubyte.gz");
const LABELS: &[u8] = include_bytes!("../../../data/starter/t10k-labels-idx1-ubyte.gz");
const ICONS: &[u8] = include_bytes!("../../../data/starter/icons.json.gz");

/// The classes of Fashion-MNIST, in the words of its README.
pub(crate) const FASHION: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// Fashion-MNIST's 10,000 test images: the first 9,000 are the training part, the last 1,000 the test part.
pub(crate) fn pictures(split: Split) -> Result<MemorySet> {
    let (images, labels) = ((IMAGES, "starter images"), (LABELS, "starter labels"));
    let set = idx::read("starter", images, Some(labels), Some(&FASHION))?;
    let (len, test) = (set.len(), 1000);
    Ok(match split {
        Split::Train => set.range(0..len - test),
        Split::Test => set.range(len - test..len),
        Split::All => set,
    })
}

/// The shipped part of an icon set: `noto` or `twemoji`.
pub(crate) fn icons(set: &str) -> Result<IconFile> {
    let bytes = idx::gunzip(ICONS, "starter icons")?;
    let sets: BTreeMap<&str, &RawValue> = serde_json::from_slice(&bytes).context(|| "starter icons")?;
    let text = sets.get(set).map_or("", |raw| raw.get());
    IconFile::parse(text.as_bytes(), &format!("starter:{set}"))
}
