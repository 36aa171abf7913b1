//! The halves of pictures that show two things side by side, as the data sets of pix2pix do: `left:SET` and `right:SET`.

use std::sync::Arc;

use kiln_core::{Error, Result};

use crate::{DataKind, DataSet, Picture, Sample, Split};

/// A side of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// The side that a word of the command line names, and what stands behind it.
pub(crate) fn side_of(spec: &str) -> Option<(Side, &str)> {
    let (word, rest) = spec.split_once(':')?;
    match word {
        "left" => Some((Side::Left, rest)),
        "right" => Some((Side::Right, rest)),
        _ => None,
    }
}

/// A half of every picture of a set.
pub(crate) struct Halves {
    name: String,
    whole: Arc<dyn DataSet>,
    side: Side,
}

impl Halves {
    pub(crate) fn new(spec: &str, whole: Arc<dyn DataSet>, side: Side) -> Self {
        Self { name: spec.into(), whole, side }
    }

    fn cut(&self, picture: &Picture, name: &str) -> Result<Picture> {
        let (width, height) = (picture.width, picture.height);
        if width % 2 == 1 || width == 0 {
            return Err(Error::new(format!(
                "{name}: {width} x {height} pixels do not halve into two pictures side by side"
            )));
        }
        let left = if self.side == Side::Left { 0 } else { width / 2 };
        Ok(picture.crop(left, 0, width / 2, height))
    }
}

impl DataSet for Halves {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.whole.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let sample = self.whole.get(index)?;
        let picture = self.cut(&sample.picture, &sample.name)?;
        let mask = sample.mask.as_ref().map(|mask| self.cut(mask, &sample.name)).transpose()?;
        Ok(Sample { picture, mask, ..sample })
    }

    fn stem(&self, index: usize) -> Option<String> {
        self.whole.stem(index)
    }

    fn classes(&self) -> &[String] {
        self.whole.classes()
    }

    fn kinds(&self) -> Vec<DataKind> {
        let known = |kind: &DataKind| !matches!(kind, DataKind::Factors);
        self.whole.kinds().into_iter().filter(known).collect()
    }

    fn notes(&self) -> Vec<String> {
        self.whole.notes()
    }

    fn fingerprint(&self) -> String {
        format!("{:?}:{}", self.side, self.whole.fingerprint())
    }

    fn uniform(&self) -> Option<[usize; 3]> {
        self.whole.uniform().filter(|[_, _, width]| width % 2 == 0).map(|[c, h, width]| [c, h, width / 2])
    }
}

/// Opens the half of a set by what stands behind its side.
pub(crate) fn open(
    spec: &str,
    (side, rest): (Side, &str),
    split: Split,
    rule: &crate::PictureRule,
) -> Result<Arc<dyn DataSet>> {
    Ok(Arc::new(Halves::new(spec, crate::open(rest, split, rule)?, side)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{PictureRule, check_pairs, open_all};

    /// As `datasets/facades/train` of pix2pix: the same name is both.
    #[test]
    fn two_pictures_side_by_side_are_a_pair() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, width: usize| {
            let pixels = (0..2 * width).map(|p| if p % width < width / 2 { 10 } else { 200 }).collect();
            Picture::new(width, 2, 1, pixels).unwrap().write_png(&dir.path().join(name), &[]).unwrap();
        };
        write("1.png", 6);
        write("2.png", 6);
        let place = dir.path().display();
        let opened = || open_all(&format!("left:{place},right:{place}"), Split::All, &PictureRule::default());
        let sets = opened().unwrap();
        check_pairs(&sets[0], &sets[1]).unwrap();
        assert_ne!(sets[0].fingerprint(), sets[1].fingerprint());
        for (set, level) in sets.iter().zip([10, 200]) {
            let picture = set.get(1).unwrap().picture;
            assert_eq!((picture.width, picture.height), (3, 2));
            assert!(picture.pixels.iter().all(|&p| p == level), "{}", set.name());
        }
        let whole = crate::absolute("left:.,right:.").unwrap();
        let here = std::env::current_dir().unwrap();
        assert_eq!(whole, format!("left:{0},right:{0}", here.display()));
        assert_eq!(crate::relative(&whole), "left:.,right:.");
        write("3.png", 5);
        let e = opened().unwrap()[0].get(2).unwrap_err().to_string();
        assert!(e.contains("3.png") && e.contains("halve"), "{e}");
    }
}
