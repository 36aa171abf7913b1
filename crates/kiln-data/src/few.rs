//! Splits a labelled set into a few labelled images and many unlabelled ones.

use std::sync::Arc;

use kiln_core::random::Key;
use kiln_core::{Error, Result};

use crate::set::fingerprint;
use crate::{DataKind, DataSet, PaletteColour, Sample};

/// Splits a labelled set into `labels` images, equally many of each class, and all the others, which lose their labels.
/// The choice is keyed by `seed` and the indices in the set. With `labels` = 0 both are the whole set, once with
/// and once without labels.
///
/// # Errors
/// A usage error if the set has no labels, `labels` is not a multiple of the classes, or a class has too few images.
pub fn few_labels(set: Arc<dyn DataSet>, labels: usize, seed: u64) -> Result<[Arc<dyn DataSet>; 2]> {
    let (name, classes) = (set.name().to_string(), set.classes().len());
    let refuse = |what: String| Err(Error::usage(format!("data.labels = {labels}: {what}")));
    if classes == 0 {
        return refuse(format!("{name} has no labels; use a folder with one sub-folder a class, or leave it out"));
    }
    if !labels.is_multiple_of(classes) {
        let near = (labels / classes).max(1) * classes;
        return refuse(format!("{name} has {classes} classes, of which each gets equally many; set it to {near}"));
    }
    if labels == 0 {
        let all: Vec<usize> = (0..set.len()).collect();
        return Ok([set.clone(), Arc::new(Part { set, places: all, labelled: false })]);
    }
    let (each, len) = (labels / classes, set.len() as u64);
    let order = Key::new(seed).purpose("labels");
    let (mut found, mut few) = (vec![0; classes], Vec::with_capacity(labels));
    for i in 0..len {
        let place = order.permute(i, len) as usize;
        let sample = set.get(place)?;
        let Some(label) = sample.label else {
            return Err(Error::new(format!("{}: it has no label, and data.labels needs one of each", sample.name)));
        };
        let found = &mut found[label as usize];
        if *found < each {
            *found += 1;
            few.push(place);
        }
        if few.len() == labels {
            break;
        }
    }
    if let Some(class) = found.iter().position(|&n| n < each) {
        let (of, there) = (&set.classes()[class], found[class]);
        return refuse(format!("{name} has {there} pictures of class {of}; set it to {} or less", there * classes));
    }
    few.sort_unstable();
    let rest: Vec<usize> = (0..set.len()).filter(|place| few.binary_search(place).is_err()).collect();
    if rest.is_empty() {
        return refuse(format!("{name} has no more pictures than these; set it to 0 to label all"));
    }
    let part = |places, labelled| Arc::new(Part { set: set.clone(), places, labelled }) as Arc<dyn DataSet>;
    Ok([part(few, true), part(rest, false)])
}

/// Some samples of a set, with their labels or without.
struct Part {
    set: Arc<dyn DataSet>,
    places: Vec<usize>,
    labelled: bool,
}

impl DataSet for Part {
    fn name(&self) -> &str {
        self.set.name()
    }

    fn len(&self) -> usize {
        self.places.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let Some(&place) = self.places.get(index) else {
            return Err(Error::new(format!("{}: no sample {index} of {}", self.name(), self.len())));
        };
        let sample = self.set.get(place)?;
        Ok(Sample { label: sample.label.filter(|_| self.labelled), ..sample })
    }

    fn stem(&self, index: usize) -> Option<String> {
        self.set.stem(*self.places.get(index)?)
    }

    fn classes(&self) -> &[String] {
        self.set.classes()
    }

    fn palette(&self) -> &[PaletteColour] {
        self.set.palette()
    }

    fn kinds(&self) -> Vec<DataKind> {
        self.set.kinds()
    }

    fn notes(&self) -> Vec<String> {
        self.set.notes()
    }

    fn fingerprint(&self) -> String {
        let places: Vec<u8> = self.places.iter().flat_map(|&p| (p as u64).to_le_bytes()).collect();
        fingerprint([self.set.fingerprint().as_bytes(), &places, &[u8::from(self.labelled)]])
    }

    fn uniform(&self) -> Option<[usize; 3]> {
        self.set.uniform()
    }
}
