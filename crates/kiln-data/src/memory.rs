//! Data sets of small images of one shape, held in memory.

use std::ops::Range;

use kiln_core::{Error, Result};

use crate::set::{fingerprint, picture_kinds};
use crate::{DataKind, DataSet, Picture, Sample, Split};

/// A set whose pictures lie one after another in memory.
pub(crate) struct MemorySet {
    name: String,
    /// [channels, height, width]
    shape: [usize; 3],
    pixels: Vec<u8>,
    labels: Option<Vec<u32>>,
    classes: Vec<String>,
    /// The place of each sample in the whole set, before splitting.
    places: Vec<usize>,
}

impl MemorySet {
    /// The whole set; every label must name a class.
    pub(crate) fn new(
        name: &str,
        shape: [usize; 3],
        pixels: Vec<u8>,
        labels: Option<Vec<u32>>,
        classes: Vec<String>,
    ) -> Result<Self> {
        let len = pixels.len() / shape.iter().product::<usize>().max(1);
        if len == 0 {
            return Err(Error::new(format!("{name}: no pictures in it")));
        }
        let wrong = |(_, l): &(usize, &u32)| **l as usize >= classes.len();
        if let Some((i, l)) = labels.iter().flatten().enumerate().find(wrong) {
            return Err(Error::new(format!(
                "{name}: label {l} at item {i}, but there are only {} classes",
                classes.len()
            )));
        }
        Ok(Self { name: name.into(), shape, pixels, labels, classes, places: (0..len).collect() })
    }

    /// Keeps the samples of these places only.
    fn select(mut self, places: Vec<usize>) -> Self {
        let mut pixels = Vec::with_capacity(places.len() * self.size());
        places.iter().for_each(|&p| pixels.extend_from_slice(self.bytes(p)));
        self.labels = self.labels.map(|all| places.iter().map(|&p| all[p]).collect());
        self.pixels = pixels;
        self.places = places;
        self
    }

    /// Keeps a range of the whole set.
    pub(crate) fn range(self, range: Range<usize>) -> Self {
        self.select(range.collect())
    }

    /// Keeps the test part (a keyed fifth) or the training part.
    pub(crate) fn split(self, split: Split) -> Self {
        let places = split.keep(self.places.clone(), usize::to_string);
        self.select(places)
    }

    fn size(&self) -> usize {
        self.shape.iter().product()
    }

    fn bytes(&self, index: usize) -> &[u8] {
        &self.pixels[index * self.size()..][..self.size()]
    }

    /// The class of sample `index`.
    pub(crate) fn label(&self, index: usize) -> Option<u32> {
        self.labels.as_ref().and_then(|l| l.get(index)).copied()
    }
}

impl DataSet for MemorySet {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.places.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let Some(place) = self.places.get(index) else {
            return Err(Error::new(format!("{}: no sample {index} of {}", self.name, self.len())));
        };
        let [channels, height, width] = self.shape;
        let picture = Picture::new(width, height, channels, self.bytes(index).to_vec())?;
        let name = format!("{} {place}", self.name);
        Ok(Sample { picture, label: self.label(index), caption: None, mask: None, name })
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn kinds(&self) -> Vec<DataKind> {
        picture_kinds(self.labels.is_some(), false)
    }

    fn fingerprint(&self) -> String {
        let labels: Vec<u8> = self.labels.iter().flatten().flat_map(|l| l.to_le_bytes()).collect();
        fingerprint([self.pixels.as_slice(), &labels])
    }

    fn uniform(&self) -> Option<[usize; 3]> {
        Some(self.shape)
    }
}
