//! Concatenates the parts of a set.

use std::sync::Arc;

use kiln_core::{Error, Result};

use crate::set::fingerprint;
use crate::{DataKind, DataSet, PaletteColour, Sample};

/// Two parts or more of one set, with the same classes.
pub(crate) struct Joined {
    parts: Vec<Arc<dyn DataSet>>,
}

impl Joined {
    /// Concatenates `parts`, at least one; a single part is returned unchanged.
    pub(crate) fn of(mut parts: Vec<Arc<dyn DataSet>>) -> Result<Arc<dyn DataSet>> {
        match parts.len() {
            0 => Err(Error::new("a set without parts")),
            1 => Ok(parts.remove(0)),
            _ => Ok(Arc::new(Self { parts })),
        }
    }
}

impl Joined {
    /// The part that sample `index` is in, and its place there.
    fn at(&self, index: usize) -> Option<(&dyn DataSet, usize)> {
        let mut at = index;
        for part in &self.parts {
            if at < part.len() {
                return Some((&**part, at));
            }
            at -= part.len();
        }
        None
    }
}

impl DataSet for Joined {
    fn name(&self) -> &str {
        self.parts[0].name()
    }

    fn len(&self) -> usize {
        self.parts.iter().map(|p| p.len()).sum()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        match self.at(index) {
            Some((part, index)) => part.get(index),
            None => Err(Error::new(format!("{}: no sample {index} of {}", self.name(), self.len()))),
        }
    }

    fn stem(&self, index: usize) -> Option<String> {
        let (part, index) = self.at(index)?;
        part.stem(index)
    }

    fn classes(&self) -> &[String] {
        self.parts[0].classes()
    }

    fn palette(&self) -> &[PaletteColour] {
        self.parts[0].palette()
    }

    fn kinds(&self) -> Vec<DataKind> {
        self.parts[0].kinds()
    }

    fn notes(&self) -> Vec<String> {
        self.parts.iter().flat_map(|p| p.notes()).collect()
    }

    fn fingerprint(&self) -> String {
        let each: Vec<String> = self.parts.iter().map(|p| p.fingerprint()).collect();
        fingerprint(each.iter().map(|f| f.as_bytes()))
    }

    fn uniform(&self) -> Option<[usize; 3]> {
        let mut shapes = self.parts.iter().map(|p| p.uniform());
        let first = shapes.next()??;
        shapes.all(|s| s == Some(first)).then_some(first)
    }
}
