//! Concatenates the parts of a set, or several sets of captioned pictures: `joined:A+B+C`.

use std::sync::Arc;

use kiln_core::{Error, Result};

use crate::set::fingerprint;
use crate::{DataKind, DataSet, PaletteColour, Sample};

/// Two parts or more of one set, with the same classes; or several sets, whose classes are not kept where they differ.
pub(crate) struct Joined {
    name: String,
    parts: Vec<Arc<dyn DataSet>>,
    /// Whether labels mean the same in all parts.
    same_classes: bool,
}

impl Joined {
    /// Concatenates `parts`, at least one; a single part is returned unchanged.
    pub(crate) fn of(mut parts: Vec<Arc<dyn DataSet>>) -> Result<Arc<dyn DataSet>> {
        match parts.len() {
            0 => Err(Error::new("a set without parts")),
            1 => Ok(parts.remove(0)),
            _ => Ok(Arc::new(Self { name: parts[0].name().into(), parts, same_classes: true })),
        }
    }

    /// Several sets as one, called `name`. Their labels stay where all have the same classes.
    pub(crate) fn of_sets(name: &str, parts: Vec<Arc<dyn DataSet>>) -> Arc<dyn DataSet> {
        let same_classes = parts.windows(2).all(|pair| pair[0].classes() == pair[1].classes());
        Arc::new(Self { name: name.into(), parts, same_classes })
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
        &self.name
    }

    fn len(&self) -> usize {
        self.parts.iter().map(|p| p.len()).sum()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        match self.at(index) {
            Some((part, index)) => {
                let sample = part.get(index)?;
                Ok(if self.same_classes { sample } else { Sample { label: None, ..sample } })
            }
            None => Err(Error::new(format!("{}: no sample {index} of {}", self.name(), self.len()))),
        }
    }

    fn caption(&self, index: usize) -> Result<Option<String>> {
        self.at(index).map_or(Ok(None), |(part, index)| part.caption(index))
    }

    fn stem(&self, index: usize) -> Option<String> {
        let (part, index) = self.at(index)?;
        part.stem(index)
    }

    fn classes(&self) -> &[String] {
        if self.same_classes { self.parts[0].classes() } else { &[] }
    }

    fn palette(&self) -> &[PaletteColour] {
        self.parts[0].palette()
    }

    /// What all parts can serve as.
    fn kinds(&self) -> Vec<DataKind> {
        let of_labels = [DataKind::Labelled, DataKind::PartlyLabelled, DataKind::SourceTarget];
        let shared = |kind: &DataKind| self.parts.iter().all(|part| part.kinds().contains(kind));
        let kept = |kind: &DataKind| shared(kind) && (self.same_classes || !of_labels.contains(kind));
        self.parts[0].kinds().into_iter().filter(kept).collect()
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
