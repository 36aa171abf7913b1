//! Label maps: pictures in which each class has one colour, and there are no other colours.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kiln_core::{Error, Result};
use rayon::prelude::*;

use crate::palette::{MOST, check_palette, in_palette};
use crate::set::fingerprint;
use crate::{DataKind, DataSet, PaletteColour, Sample};

/// A set whose pictures are label maps: what it knows of its classes, or what is given, or the colours that are found in it.
///
/// Classes that are found have the order of an indexed PNG's palette, else of their colours, from dark to light.
///
/// # Errors
/// If the pictures have more than 256 colours, or a palette has a colour twice.
pub fn label_maps(set: Arc<dyn DataSet>, given: &[PaletteColour]) -> Result<Arc<dyn DataSet>> {
    let palette = match (given, set.palette()) {
        ([], []) => found_in(&*set)?,
        ([], _) => return Ok(set),
        (given, own) if given == own => return Ok(set),
        (given, _) => given.to_vec(),
    };
    check_palette(&palette, set.name())?;
    Ok(Arc::new(LabelMaps { set, palette }))
}

/// Colours by the index that a file has for each.
type Indexed = BTreeMap<u8, [u8; 3]>;

/// The colours that the maps of a set use.
fn found_in(set: &dyn DataSet) -> Result<Vec<PaletteColour>> {
    let too_many = || {
        Error::usage(format!(
            "{}: more than {MOST} colours, so its pictures are no label maps; maps have hard edges and are no JPEGs",
            set.name()
        ))
    };
    let look = |index: usize| -> Result<(Option<Indexed>, BTreeSet<[u8; 3]>)> {
        if let Some(used) = set.indexed_colours(index)? {
            let colours = used.values().copied().collect();
            return Ok((Some(used), colours));
        }
        let picture = set.get(index)?.picture.with_channels(3, [255; 3]);
        let mut colours = BTreeSet::new();
        for pixel in picture.pixels.chunks_exact(3) {
            colours.insert([pixel[0], pixel[1], pixel[2]]);
            if colours.len() > MOST {
                return Err(too_many());
            }
        }
        Ok((None, colours))
    };
    let all: Vec<Result<_>> = (0..set.len()).into_par_iter().map(look).collect();
    let all = all.into_iter().collect::<Result<Vec<_>>>()?;
    // All files have one palette, as far as they use it, or its order says nothing.
    let mut indexed = Some(Indexed::new());
    for (used, _) in &all {
        let Some((known, used)) = indexed.as_mut().zip(used.as_ref()) else {
            indexed = None;
            break;
        };
        let same = used.iter().all(|(index, colour)| *known.entry(*index).or_insert(*colour) == *colour);
        if !same {
            indexed = None;
            break;
        }
    }
    let colours: BTreeSet<[u8; 3]> = all.into_iter().flat_map(|(_, colours)| colours).collect();
    if colours.len() > MOST {
        return Err(too_many());
    }
    Ok(match indexed.filter(|indexed| indexed.len() == colours.len()) {
        Some(indexed) => {
            indexed.into_iter().map(|(index, colour)| PaletteColour { name: index.to_string(), colour }).collect()
        }
        None => {
            let mut colours: Vec<[u8; 3]> = colours.into_iter().collect();
            colours.sort_by_key(|&[r, g, b]| (u32::from(r) + u32::from(g) + u32::from(b), [r, g, b]));
            let name =
                |place: usize, [r, g, b]: [u8; 3]| if r == g && g == b { r.to_string() } else { place.to_string() };
            let class = |(place, colour)| PaletteColour { name: name(place, colour), colour };
            colours.into_iter().enumerate().map(class).collect()
        }
    })
}

/// A set with the palette of its maps.
struct LabelMaps {
    set: Arc<dyn DataSet>,
    palette: Vec<PaletteColour>,
}

impl DataSet for LabelMaps {
    fn name(&self) -> &str {
        self.set.name()
    }

    fn len(&self) -> usize {
        self.set.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let sample = self.set.get(index)?;
        let picture = in_palette(&sample.picture, &self.palette, &sample.name)?;
        Ok(Sample { picture, ..sample })
    }

    fn stem(&self, index: usize) -> Option<String> {
        self.set.stem(index)
    }

    fn classes(&self) -> &[String] {
        self.set.classes()
    }

    fn palette(&self) -> &[PaletteColour] {
        &self.palette
    }

    fn kinds(&self) -> Vec<DataKind> {
        let mut kinds = self.set.kinds();
        kinds.push(DataKind::LabelMaps);
        kinds
    }

    fn notes(&self) -> Vec<String> {
        self.set.notes()
    }

    fn fingerprint(&self) -> String {
        let classes: Vec<String> = self.palette.iter().map(PaletteColour::to_string).collect();
        let own = self.set.fingerprint();
        fingerprint(std::iter::once(own.as_bytes()).chain(classes.iter().map(|class| class.as_bytes())))
    }
}
