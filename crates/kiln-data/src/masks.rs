//! The masks of a set: which file is whose.

use std::collections::BTreeMap;

use kiln_core::{Error, Result};

use crate::layout::{Parts, without_ending};
use crate::store::Entry;

/// Where the pictures and the masks of a set with masks lie.
pub(crate) const IMAGES: &str = "images/";
const MASKS: &str = "masks/";

/// Takes the masks out of the files of a set that is all `images` and `masks`, by [`mask_key`]; none of another set.
pub(crate) fn take_masks(place: &str, entries: &mut Vec<Entry>, parts: &Parts) -> Result<BTreeMap<String, Entry>> {
    let lies_in = |e: &Entry, folder: &str| parts.below(&e.path).starts_with(folder);
    let all = |folders: &[&str]| entries.iter().all(|e| folders.iter().any(|folder| lies_in(e, folder)));
    if !all(&[IMAGES, MASKS]) || all(&[IMAGES]) || all(&[MASKS]) {
        return Ok(BTreeMap::new());
    }
    let (masks, images): (Vec<Entry>, Vec<Entry>) =
        std::mem::take(entries).into_iter().partition(|e| lies_in(e, MASKS));
    let images = by_mask_key(place, images, parts)?;
    let masks = by_mask_key(place, masks, parts)?;
    if let Some((_, image)) = images.iter().find(|(key, _)| !masks.contains_key(*key)) {
        return Err(Error::usage(format!("{place}: {} has no mask of its name below {MASKS}", image.path)));
    }
    entries.extend(images.into_values());
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(masks)
}

/// Files by their [`mask_key`]; an error names two that have the same.
fn by_mask_key(place: &str, entries: Vec<Entry>, parts: &Parts) -> Result<BTreeMap<String, Entry>> {
    let mut by_key = BTreeMap::<String, Entry>::new();
    for entry in entries {
        let key = mask_key(&entry.path, parts);
        if let Some(other) = by_key.get(&key) {
            return Err(Error::usage(format!(
                "{place}: {} and {} differ in their endings alone, so a picture and its mask cannot be told by their \
                 name; rename or remove one",
                other.path, entry.path
            )));
        }
        by_key.insert(key, entry);
    }
    Ok(by_key)
}

/// What the paths of a picture and of its mask have in common: all but `images` or `masks`, and the ending.
pub(crate) fn mask_key(path: &str, parts: &Parts) -> String {
    let inside = parts.below(path);
    let rest = inside.split_once('/').map_or("", |(_, rest)| rest);
    format!("{}/{}", parts.part(path), without_ending(rest))
}
