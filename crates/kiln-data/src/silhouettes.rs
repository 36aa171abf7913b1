//! Label maps of a set of things on a black ground: where its pictures are not black, the class of the picture.

use std::sync::Arc;

use kiln_core::Result;

use crate::set::{fingerprint, picture_kinds};
use crate::{DataKind, DataSet, PaletteColour, Picture, Sample};

/// Grey values up to this are ground: 0.05 of the range of −1 to 1 above black, as the segmenter has it by default.
const GROUND: u8 = 6;

/// Colours of the ground and ten classes, far apart.
const COLOURS: [[u8; 3]; 11] = [
    [0, 0, 0],
    [230, 25, 75],
    [60, 180, 75],
    [255, 225, 25],
    [0, 130, 200],
    [245, 130, 48],
    [145, 30, 180],
    [70, 240, 240],
    [240, 50, 230],
    [210, 245, 60],
    [250, 190, 212],
];

/// The maps of another set.
pub(crate) struct Silhouettes {
    name: String,
    set: Arc<dyn DataSet>,
    palette: Vec<PaletteColour>,
}

impl Silhouettes {
    /// Of a labelled set of at most ten classes.
    pub(crate) fn of(name: &str, set: Arc<dyn DataSet>) -> Self {
        let names = std::iter::once("ground").chain(set.classes().iter().map(String::as_str));
        let class = |(name, colour): (&str, [u8; 3])| PaletteColour { name: name.into(), colour };
        let palette = names.zip(COLOURS).map(class).collect();
        Self { name: name.into(), set, palette }
    }

    /// The kinds of data that such a set offers.
    pub(crate) fn kinds_of() -> Vec<DataKind> {
        let mut kinds = picture_kinds(true, false);
        kinds.extend([DataKind::Paired, DataKind::LabelMaps]);
        kinds
    }
}

impl DataSet for Silhouettes {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.set.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let sample = self.set.get(index)?;
        let grey = sample.picture.with_channels(1, [0; 3]);
        let thing =
            sample.label.and_then(|label| self.palette.get(label as usize + 1)).map_or(COLOURS[0], |c| c.colour);
        let pixels = grey.pixels.iter().flat_map(|&v| if v > GROUND { thing } else { COLOURS[0] }).collect();
        let picture = Picture::new(grey.width, grey.height, 3, pixels)?;
        Ok(Sample { picture, name: format!("{} {index}", self.name), ..sample })
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
        Self::kinds_of()
    }

    fn fingerprint(&self) -> String {
        fingerprint([b"silhouettes 1".as_slice(), self.set.fingerprint().as_bytes()])
    }

    fn uniform(&self) -> Option<[usize; 3]> {
        self.set.uniform().map(|[_, height, width]| [3, height, width])
    }
}
