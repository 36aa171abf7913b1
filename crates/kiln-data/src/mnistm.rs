//! Generates MNIST-M.
//!
//! Ganin & Lempitsky 2015, section 4: each digit is blended with a random crop of a colour photograph,
//! |crop - digit| in every channel. The crop is keyed by the digit's index, and no photograph is used
//! in both splits. Photographs larger than those of the paper (BSDS500, 481 pixels long) are first
//! reduced to that size, so that a crop shows about as much of a scene.

use std::sync::Arc;

use kiln_core::random::Key;
use kiln_core::{Error, Result};
use rayon::prelude::*;

use crate::set::{fingerprint, picture_kinds};
use crate::{DataKind, DataSet, Picture, Sample, Split};

/// The longer side of BSDS500's photographs.
const LONG: usize = 481;

/// Grey digits over photographs.
pub(crate) struct Blended {
    name: String,
    digits: Arc<dyn DataSet>,
    photos: Vec<Picture>,
    shape: [usize; 3],
    key: Key,
}

impl Blended {
    /// `digits` are of one size; every photograph must be at least as large.
    pub(crate) fn new(name: &str, digits: Arc<dyn DataSet>, photos: &dyn DataSet, split: Split) -> Result<Self> {
        let Some([1, height, width]) = digits.uniform() else {
            return Err(Error::new(format!("{name}: needs grey digits of one size")));
        };
        let load = |i| {
            let Sample { picture, name, .. } = photos.get(i)?;
            let long = picture.width.max(picture.height);
            let to = |side: usize| {
                if long > LONG { (side * LONG + long / 2) / long } else { side }
            };
            let (w, h) = (to(picture.width), to(picture.height));
            let picture = picture.with_channels(3, [255; 3]).resize(w, h);
            match picture.width >= width && picture.height >= height {
                true => Ok(picture),
                false => Err(Error::new(format!("{name}: too small to cut a digit's ground from"))),
            }
        };
        let photos: Result<Vec<_>> = (0..photos.len()).into_par_iter().map(load).collect();
        let key = Key::new(0).purpose("mnistm").purpose(&split.to_string());
        Ok(Self { name: name.into(), digits, photos: photos?, shape: [3, height, width], key })
    }
}

impl DataSet for Blended {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.digits.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let digit = self.digits.get(index)?;
        let [_, height, width] = self.shape;
        let draw = |what, bound: usize| self.key.purpose(what).below([index as u64], bound as u64)[0] as usize;
        let Some(photo) = self.photos.get(draw("photo", self.photos.len())) else {
            return Err(Error::new(format!("{}: no photographs", self.name)));
        };
        let (x, y) = (draw("x", photo.width - width + 1), draw("y", photo.height - height + 1));
        let mut picture = photo.crop(x, y, width, height);
        for (ground, ink) in picture.pixels.chunks_exact_mut(3).zip(&digit.picture.pixels) {
            ground.iter_mut().for_each(|c| *c = c.abs_diff(*ink));
        }
        Ok(Sample { picture, name: format!("{} {index}", self.name), ..digit })
    }

    fn classes(&self) -> &[String] {
        self.digits.classes()
    }

    fn kinds(&self) -> Vec<DataKind> {
        picture_kinds(true, false)
    }

    fn fingerprint(&self) -> String {
        let digits = self.digits.fingerprint();
        let photos = self.photos.iter().map(|p| p.pixels.as_slice());
        fingerprint([digits.as_bytes()].into_iter().chain(photos))
    }

    fn uniform(&self) -> Option<[usize; 3]> {
        Some(self.shape)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::memory::MemorySet;

    #[test]
    fn a_blend_is_the_distance_to_the_ground() {
        let classes = vec!["0".to_string()];
        // Fifty digits of 2x2, black but for one white pixel.
        let digit = [0, 0, 255, 0].repeat(50);
        let digits = MemorySet::new("d", [1, 2, 2], digit, Some(vec![0; 50]), classes).unwrap();
        let digits: Arc<dyn DataSet> = Arc::new(digits);
        // A photograph whose pixel says its place.
        let pixels = (0..60u8).flat_map(|i| [i, 2 * i, 3 * i]).collect();
        let photo = MemorySet::new("p", [3, 6, 10], pixels, None, vec![]).unwrap();
        let set = Blended::new("m", digits.clone(), &photo, Split::Train).unwrap();
        let mut corners = std::collections::BTreeSet::new();
        for i in 0..50 {
            let p = set.get(i).unwrap().picture.pixels;
            let corner = p[0];
            corners.insert(corner);
            let at = |v: u8| [v, 2 * v, 3 * v];
            assert_eq!(p[..3], at(corner));
            assert_eq!(p[3..6], at(corner + 1));
            assert_eq!(p[6..9], at(corner + 10).map(|v| 255 - v));
            assert_eq!(set.get(i).unwrap(), set.get(i).unwrap());
        }
        assert!(corners.len() > 20 && corners.iter().all(|c| c % 10 <= 8 && c / 10 <= 4));
        let other = Blended::new("m", digits, &photo, Split::Test).unwrap();
        assert!((0..50).any(|i| other.get(i).unwrap() != set.get(i).unwrap()));
    }
}
