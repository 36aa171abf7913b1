//! Sets in NumPy's files: `.npy`, one array of pictures, and `.npz`, a zip of arrays of pictures and of labels.
//!
//! Pictures are `[n, height, width]`, `[n, height, width, channels]` or `[n, channels, height, width]`. Their values are
//! those of one of four ranges, told by all of them: 0 or 1 (or 0 to 1), −1 to 1, 0 to 255, 0 to 65,535.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use kiln_core::{Error, Result, budget, read_file};

use crate::joined::Joined;
use crate::layout::{Part, part_within};
use crate::litter::LeftOut;
use crate::memory::MemorySet;
use crate::store::Store;
use crate::{DataSet, Split};

/// Labels are numbers of classes, which each have a name.
const CLASSES: i64 = 65_536;

/// A `.npy`: pictures without labels, of which a keyed fifth is the test part.
pub(crate) fn open_npy(name: &str, file: &Path, split: Split) -> Result<Arc<dyn DataSet>> {
    let array = Array::parse(read_file(file, budget().bytes)?, &file.display().to_string())?;
    let range = array.range()?;
    Ok(Arc::new(array.pictures(name, range, None, 0)?.split(split)))
}

/// A `.npz`. Names say what is what: `x_train`, `train_images`, `images`; `y_train`, `train_labels`, `labels`.
pub(crate) fn open_npz(name: &str, file: &Path, split: Split) -> Result<Arc<dyn DataSet>> {
    let (store, entries) = Store::archive(file, &mut LeftOut::default())?;
    let (mut pictures, mut labels) = (Vec::new(), Vec::new());
    for entry in entries {
        let Some(stem) = entry.path.strip_suffix(".npy").map(str::to_lowercase) else { continue };
        let array = Array::parse(store.read(&entry)?, &store.place(&entry.path))?;
        let words: Vec<&str> = stem.split(|c: char| !c.is_alphanumeric()).collect();
        let is_label =
            words.iter().any(|w| ["y", "label", "labels", "target", "targets", "class", "classes"].contains(w));
        match is_label {
            true => labels.push((part_within(&stem), array)),
            false if array.layout().is_ok() => pictures.push((part_within(&stem), array)),
            false => {}
        }
    }
    let place = file.display();
    let first = pictures.first().ok_or_else(|| Error::new(format!("{place}: no array of pictures in it")))?;
    let twice = pictures.iter().skip(1).find(|(part, _)| *part == first.0);
    if let Some((_, other)) = twice {
        return Err(Error::new(format!("{} and {}: which of them are the pictures?", first.1.place, other.place)));
    }
    let ranges = pictures.iter().map(|(_, array)| array.range()).collect::<Result<Vec<_>>>()?;
    let range = ranges.into_iter().reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or(0.0..0.0);
    let numbers = labels.iter().map(|(part, array)| Ok((*part, array.labels()?))).collect::<Result<Vec<_>>>()?;
    let classes = numbers.iter().flat_map(|(_, n)| n).max().map_or(0, |last| last + 1);
    let tested = if pictures.iter().any(|p| p.0 == Some(Part::Test)) { Part::Test } else { Part::Validation };
    let mut sets: Vec<Arc<dyn DataSet>> = Vec::new();
    let mut labelled = BTreeSet::new();
    for (part, array) in &pictures {
        let held = match (part, split) {
            (None, _) | (_, Split::All) => true,
            (Some(part), Split::Train) => *part == Part::Train,
            (Some(part), Split::Test) => *part == tested,
        };
        if held {
            let labels = numbers.iter().find(|(p, _)| p == part).map(|(_, numbers)| numbers.clone());
            labelled.insert(labels.is_some());
            let set = array.pictures(name, range.clone(), labels, classes)?;
            sets.push(Arc::new(if part.is_none() { set.split(split) } else { set }));
        }
    }
    if sets.is_empty() {
        return Err(Error::new(format!("{place}: no pictures for the {split} split")));
    }
    if labelled.len() > 1 {
        return Err(Error::new(format!("{place}: some of its pictures have labels and some have none")));
    }
    Joined::of(sets)
}

/// An array as it is stored, row-major.
struct Array {
    place: String,
    shape: Vec<usize>,
    kind: u8,
    /// Bytes of a number.
    width: usize,
    big_endian: bool,
    bytes: Vec<u8>,
    /// Where the numbers begin.
    start: usize,
}

/// How pictures lie in an array.
struct Layout {
    /// [channels, height, width]
    shape: [usize; 3],
    /// Whether each channel of a picture is a plane.
    planar: bool,
}

impl Array {
    /// The format is of NumPy's `numpy.lib.format`: magic, version, length of the header, the header as a Python dict, data.
    fn parse(bytes: Vec<u8>, place: &str) -> Result<Self> {
        let wrong = |what: &str| Error::new(format!("{place}: not a readable array ({what})"));
        let (from, len) = match bytes.get(..12) {
            Some(&[0x93, b'N', b'U', b'M', b'P', b'Y', 1, _, a, b, ..]) => (10, u16::from_le_bytes([a, b]).into()),
            Some(&[0x93, b'N', b'U', b'M', b'P', b'Y', 2 | 3, _, a, b, c, d]) => (12, u32::from_le_bytes([a, b, c, d])),
            _ => return Err(wrong("it does not begin as one")),
        };
        let start = from + len as usize;
        let header = bytes.get(from..start).ok_or_else(|| wrong("its header is cut off"))?;
        let header = String::from_utf8_lossy(header).into_owned();
        let after = |key: &str| header.split_once(key).map(|(_, rest)| rest.trim_start_matches([':', ' ']));
        let descr = after("'descr'").and_then(|rest| rest.strip_prefix('\'')?.split_once('\'')).map(|(d, _)| d);
        let shape = after("'shape'").and_then(|rest| rest.strip_prefix('(')?.split_once(')')).map(|(s, _)| s);
        let (Some(descr), Some(shape)) = (descr, shape) else { return Err(wrong("of several types, or of objects")) };
        let sides = shape.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::parse::<usize>);
        let shape =
            sides.collect::<std::result::Result<Vec<_>, _>>().map_err(|_| wrong("its shape is no list of numbers"))?;
        if after("'fortran_order'").is_some_and(|rest| rest.starts_with("True")) && shape.len() > 1 {
            return Err(wrong("its columns come first; save it with numpy.ascontiguousarray"));
        }
        let (order, kind, width) = match descr.as_bytes() {
            [order, kind, width @ b'1'..=b'8'] => (*order, *kind, usize::from(width - b'0')),
            _ => return Err(wrong(&format!("numbers of type {descr}"))),
        };
        if !matches!((kind, width), (b'b', 1) | (b'u' | b'i', 1 | 2 | 4 | 8) | (b'f', 2 | 4 | 8)) {
            return Err(wrong(&format!("numbers of type {descr}")));
        }
        let needed = shape.iter().try_fold(width, |n, &side| n.checked_mul(side));
        if needed != Some(bytes.len() - start) {
            return Err(wrong(&format!("{} bytes of data for {shape:?} numbers of type {descr}", bytes.len() - start)));
        }
        Ok(Self { place: place.into(), shape, kind, width, big_endian: order == b'>', bytes, start })
    }

    fn numbers(&self) -> impl Iterator<Item = f64> {
        self.bytes[self.start..].chunks_exact(self.width).map(|bytes| {
            let mut wide = [0; 8];
            wide[..self.width].copy_from_slice(bytes);
            if self.big_endian {
                wide[..self.width].reverse();
            }
            let bits = u64::from_le_bytes(wide);
            let unused = 64 - 8 * self.width as u32;
            match (self.kind, self.width) {
                (b'f', 2) => half(bits as u16),
                (b'f', 4) => f32::from_bits(bits as u32).into(),
                (b'f', _) => f64::from_bits(bits),
                (b'i', _) => (((bits << unused) as i64) >> unused) as f64,
                _ => bits as f64,
            }
        })
    }

    /// The least and the greatest number.
    fn range(&self) -> Result<Range<f64>> {
        let mut range = f64::INFINITY..f64::NEG_INFINITY;
        for number in self.numbers() {
            if !number.is_finite() {
                return Err(Error::new(format!("{}: it holds {number}, which no picture has", self.place)));
            }
            range = range.start.min(number)..range.end.max(number);
        }
        Ok(range)
    }

    fn layout(&self) -> Result<Layout> {
        let is_channels = |n: usize| matches!(n, 1 | 3 | 4);
        let (shape, planar) = match self.shape[..] {
            [.., 0, _] | [.., 0] | [_, 0, ..] => {
                return Err(Error::new(format!("{}: pictures without pixels", self.place)));
            }
            [_, h, w] => ([1, h, w], true),
            [_, h, w, c] if is_channels(c) => ([c, h, w], false),
            [_, c, h, w] if is_channels(c) => ([c, h, w], true),
            _ => {
                return Err(Error::new(format!(
                    "{}: {:?} numbers are no pictures; wanted is [n, height, width] or [n, height, width, channels], with \
                     1, 3 or 4 channels",
                    self.place, self.shape
                )));
            }
        };
        Ok(Layout { shape, planar })
    }

    /// The pictures, of values in `range`, with their labels.
    fn pictures(&self, name: &str, range: Range<f64>, labels: Option<Vec<u32>>, classes: u32) -> Result<MemorySet> {
        let Layout { shape: shape @ [c, h, w], planar } = self.layout()?;
        budget().check_pixels(h as u64, w as u64, &self.place)?;
        let (low, high) = match (range.start, range.end) {
            (0.0.., ..=1.0) => (0.0, 1.0),
            (-1.0.., ..=1.0) => (-1.0, 1.0),
            (0.0.., ..=255.0) => (0.0, 255.0),
            (0.0.., ..=65_535.0) => (0.0, 65_535.0),
            (low, high) => {
                return Err(Error::new(format!(
                    "{}: numbers from {low} to {high}; those of pictures go from 0 to 1, -1 to 1, 0 to 255 or 0 to 65535",
                    self.place
                )));
            }
        };
        let byte = |v: f64| ((v - low) / (high - low) * 255.0).round() as u8;
        let mut pixels: Vec<u8> = self.numbers().map(byte).collect();
        if planar && c > 1 {
            let mut mixed = Vec::with_capacity(c * h * w);
            for picture in pixels.chunks_exact_mut(c * h * w) {
                mixed.clear();
                mixed.extend((0..h * w).flat_map(|p| (0..c).map(move |k| k * h * w + p)).map(|at| picture[at]));
                picture.copy_from_slice(&mixed);
            }
        }
        if let Some(found) = labels.as_ref().map(Vec::len).filter(|found| *found != self.shape[0]) {
            return Err(Error::new(format!("{}: {} pictures and {found} labels", self.place, self.shape[0])));
        }
        let names = if labels.is_some() { (0..classes).map(|class| class.to_string()).collect() } else { Vec::new() };
        MemorySet::new(name, shape, pixels, labels, names)
    }

    /// The numbers as those of classes.
    fn labels(&self) -> Result<Vec<u32>> {
        let wrong = |what: String| Error::new(format!("{}: {what}; labels are whole numbers from 0", self.place));
        if !matches!(self.shape[..], [_] | [_, 1]) {
            return Err(wrong(format!("{:?} numbers", self.shape)));
        }
        let class = |v: f64| match v {
            0.0.. if v.fract() == 0.0 && v < CLASSES as f64 => Ok(v as u32),
            _ => Err(wrong(format!("the label {v}"))),
        };
        self.numbers().map(class).collect()
    }
}

/// A number of 16 bits: sign, 5 bits of exponent, 10 of fraction.
fn half(bits: u16) -> f64 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023) / 1024.0);
    sign * match exponent {
        0 => fraction * 2f64.powi(-14),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction) * 2f64.powi(exponent - 15),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A `.npy` of some bytes.
    pub(super) fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let len = (header.len() as u16).to_le_bytes();
        [b"\x93NUMPY\x01\0", &len[..], header.as_bytes(), data].concat()
    }

    fn pixels(descr: &str, shape: &str, data: &[u8]) -> Result<(Vec<usize>, Vec<u8>)> {
        let array = Array::parse(npy(descr, shape, data), "a.npy")?;
        let picture = array.pictures("a", array.range()?, None, 0)?.get(0)?.picture;
        Ok((vec![picture.channels, picture.height, picture.width], picture.pixels))
    }

    #[test]
    fn four_ranges_and_three_layouts() {
        let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        assert_eq!(pixels("|u1", "(1, 1, 2)", &[7, 200]).unwrap(), (vec![1, 1, 2], vec![7, 200]));
        assert_eq!(pixels("|b1", "(1, 1, 2)", &[0, 1]).unwrap().1, [0, 255]);
        assert_eq!(pixels("<f4", "(1, 1, 2)", &floats(&[0.0, 0.5])).unwrap().1, [0, 128]);
        assert_eq!(pixels("<f4", "(1, 1, 2)", &floats(&[-1.0, 0.5])).unwrap().1, [0, 191]);
        assert_eq!(pixels(">u2", "(1, 1, 2)", &[255, 255, 0x80, 0]).unwrap().1, [255, 128]);
        assert_eq!(pixels("<i8", "(1, 1, 1)", &9i64.to_le_bytes()).unwrap().1, [9]);
        assert_eq!(pixels("<f2", "(1, 1, 2)", &[0, 0x3c, 0, 0x38]).unwrap().1, [255, 128]);
        assert_eq!(
            pixels("|u1", "(1, 1, 2, 3)", &[1, 2, 3, 4, 5, 6]).unwrap(),
            (vec![3, 1, 2], vec![1, 2, 3, 4, 5, 6])
        );
        assert_eq!(
            pixels("|u1", "(1, 3, 1, 2)", &[1, 2, 3, 4, 5, 6]).unwrap(),
            (vec![3, 1, 2], vec![1, 3, 5, 2, 4, 6])
        );
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        let said = |descr: &str, shape: &str, data: &[u8]| pixels(descr, shape, data).unwrap_err().to_string();
        assert!(said("|O", "(1, 1, 1)", &[0]).contains("numbers of type |O"));
        assert!(said("<c8", "(1, 1, 1)", &[0; 8]).contains("numbers of type <c8"));
        assert!(said("|u1", "(4,)", &[0; 4]).contains("are no pictures"));
        assert!(said("|u1", "(9, 9, 9)", &[0; 4]).contains("4 bytes of data"));
        for shape in ["(5, 3, 0, 7)", "(5, 3, 7, 0)", "(5, 0, 3)", "(5, 0, 7, 3)", "(0, 3, 0, 0)"] {
            assert!(said("|u1", shape, &[]).contains("without pixels"), "{shape}");
        }
        assert!(said("|u1", "(0, 3, 3)", &[]).contains("no pictures"));
        assert!(said("|u1", "(4294967296, 4294967296, 4294967296)", &[]).contains("0 bytes of data"));
        assert!(said("<f4", "(1, 1, 1)", &f32::NAN.to_le_bytes()).contains("NaN"));
        assert!(said("<f4", "(1, 1, 1)", &(-300f32).to_le_bytes()).contains("numbers from -300"));
        for len in 0..40 {
            assert!(Array::parse(npy("|u1", "(1, 1, 1)", &[0])[..len].to_vec(), "a.npy").is_err());
        }
        let labels = |data: &[u8]| Array::parse(npy("|i1", "(2,)", data), "y.npy").unwrap().labels();
        assert_eq!(labels(&[1, 0]).unwrap(), [1, 0]);
        assert!(labels(&[1, 255]).unwrap_err().to_string().contains("the label -1"));
    }
}
