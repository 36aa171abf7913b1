//! Generates dSprites.
//!
//! Matthey et al. 2017, *dSprites: Disentanglement testing Sprites dataset*: white shapes on black, 64×64, one image for
//! each combination of five factors, in this order, the last varying fastest:
//!
//! | factor | values |
//! |---|---|
//! | shape | 3: square, ellipse, heart (also the classes) |
//! | scale | 6, from 0.5 to 1 |
//! | orientation | 40, from 0 to 2π with both ends, which are the same picture, as in the original |
//! | x | 32, from 0 to 1: pixel steps, the same margin on both sides |
//! | y | 32, likewise |
//!
//! Each image is generated from its index when requested. Pixels have two values, as in the original: a pixel is white
//! where its centre lies in the shape. The factors and their values are the original's; the outlines of
//! its shapes are not published as formulas, so single pixels of edges differ from its file.

use std::f32::consts::TAU;

use kiln_core::{Error, Result};

use crate::set::{factor_kinds, fingerprint, joined, parted};
use crate::{DataKind, DataSet, Factor, Picture, Sample, Split};

/// Pixels on a side.
const SIDE: usize = 64;

/// Values of shape, scale, orientation, x and y.
const COUNTS: [usize; 5] = [3, 6, 40, 32, 32];

/// Where the centre of a shape is at x = 0 or y = 0: 31 steps of a pixel reach as near to the other edge.
const FIRST: f32 = 16.5;

/// The set, without its pixels.
pub(crate) struct Dsprites {
    name: String,
    split: Split,
    factors: Vec<Factor>,
    classes: Vec<String>,
    /// Numbers of the combinations that belong to the split, ascending.
    numbers: Vec<u32>,
}

impl Dsprites {
    pub(crate) fn new(name: &str, split: Split) -> Self {
        let [shapes, scales, orientations, xs, ys] = COUNTS;
        let all: u32 = COUNTS.iter().map(|&c| c as u32).product();
        Self {
            name: name.into(),
            split,
            factors: vec![
                Factor::named("shape", shapes),
                Factor::even("scale", scales, 0.5, 1.0),
                Factor::even("orientation", orientations, 0.0, TAU),
                Factor::even("x", xs, 0.0, 1.0),
                Factor::even("y", ys, 0.0, 1.0),
            ],
            classes: ["square", "ellipse", "heart"].map(String::from).to_vec(),
            numbers: split.keep((0..all).collect(), u32::to_string),
        }
    }
}

/// Whether (`u`, `v`), v upwards, lies in the shape of scale 1 around 0. All reach about 15.5 pixels far, so that none is cut
/// off at any place.
fn inside(shape: usize, u: f32, v: f32) -> bool {
    match shape {
        0 => u.abs() <= 11.0 && v.abs() <= 11.0,
        1 => (u / 7.5).powi(2) + (v / 15.0).powi(2) <= 1.0,
        // The sextic (u² + v² − 1)³ ≤ u²v³.
        _ => {
            let (u, v) = (u / 10.8, v / 10.8);
            (u * u + v * v - 1.0).powi(3) <= u * u * v.powi(3)
        }
    }
}

impl DataSet for Dsprites {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.numbers.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let Some(number) = self.numbers.get(index) else {
            return Err(Error::new(format!("{}: no sample {index} of {}", self.name, self.len())));
        };
        let places = parted(*number as usize, &COUNTS);
        let (scale, turn) = (self.factors[1].values[places[1]], self.factors[2].values[places[2]]);
        let (sin, cos) = turn.sin_cos();
        // The turn that closes the circle is none.
        let (sin, cos) = if places[2] + 1 == COUNTS[2] { (0.0, 1.0) } else { (sin, cos) };
        let (x, y) = (FIRST + places[3] as f32, FIRST + places[4] as f32);
        let pixel = |at: usize| {
            let (dx, dy) = ((at % SIDE) as f32 + 0.5 - x, (at / SIDE) as f32 + 0.5 - y);
            let (u, v) = ((cos * dx + sin * dy) / scale, (sin * dx - cos * dy) / scale);
            if inside(places[0], u, v) { 255 } else { 0 }
        };
        Ok(Sample {
            picture: Picture::new(SIDE, SIDE, 1, (0..SIDE * SIDE).map(pixel).collect())?,
            label: Some(places[0] as u32),
            caption: None,
            mask: None,
            name: format!("{} {number}", self.name),
        })
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn factors(&self) -> &[Factor] {
        &self.factors
    }

    fn places(&self, index: usize) -> Vec<usize> {
        self.numbers.get(index).map_or(Vec::new(), |&number| parted(number as usize, &COUNTS))
    }

    fn find(&self, places: &[usize]) -> Option<usize> {
        let number = joined(places, &COUNTS)? as u32;
        self.numbers.binary_search(&number).ok()
    }

    fn kinds(&self) -> Vec<DataKind> {
        factor_kinds(false)
    }

    fn fingerprint(&self) -> String {
        // Counts up when a picture changes.
        fingerprint(["dsprites 1".as_bytes(), self.split.to_string().as_bytes()])
    }

    fn uniform(&self) -> Option<[usize; 3]> {
        Some([1, SIDE, SIDE])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn set(split: Split) -> Dsprites {
        Dsprites::new("dsprites", split)
    }

    fn white(set: &Dsprites, places: [usize; 5]) -> Vec<(usize, usize)> {
        let picture = set.get(set.find(&places).unwrap()).unwrap().picture;
        let lit = (0..SIDE * SIDE).filter(|&at| picture.pixels[at] == 255);
        lit.map(|at| (at % SIDE, at / SIDE)).collect()
    }

    #[test]
    fn every_combination_is_there_once() {
        let set = set(Split::All);
        assert_eq!(set.len(), 737_280);
        assert_eq!(set.factors().iter().map(|f| f.values.len()).collect::<Vec<_>>(), COUNTS);
        assert_eq!(set.places(0), [0; 5]);
        assert_eq!(set.places(1), [0, 0, 0, 0, 1]);
        assert_eq!(set.places(737_279), [2, 5, 39, 31, 31]);
        for index in (0..set.len()).step_by(9973) {
            assert_eq!(set.find(&set.places(index)), Some(index));
        }
        assert_eq!(set.find(&[0, 0, 40, 0, 0]), None);
        assert_eq!(set.factors()[1].values, [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]);
        let label = set.get(737_279).unwrap().label.unwrap();
        assert_eq!(set.classes()[label as usize], "heart");
    }

    #[test]
    fn the_parts_are_the_whole() {
        let (train, test) = (set(Split::Train), set(Split::Test));
        assert_eq!(train.len() + test.len(), 737_280);
        let share = test.len() as f64 / 737_280.0;
        assert!((share - 0.2).abs() < 0.01, "{share}");
        assert!(train.numbers.iter().step_by(999).all(|n| test.numbers.binary_search(n).is_err()));
        let places = test.places(7);
        assert_eq!((test.find(&places), train.find(&places)), (Some(7), None));
        assert_ne!(train.fingerprint(), test.fingerprint());
    }

    #[test]
    fn shapes_are_of_their_size_where_they_are_said_to_be() {
        let set = set(Split::All);
        // A square of 22 pixels, and of 11.
        let square = white(&set, [0, 5, 0, 0, 31]);
        let (xs, ys): (Vec<usize>, Vec<usize>) = square.iter().copied().unzip();
        let span = |v: &[usize]| (*v.iter().min().unwrap(), *v.iter().max().unwrap());
        // The centre is that of pixel 16, or 47: eleven more pixels on each side.
        assert_eq!((span(&xs), span(&ys)), ((5, 27), (36, 58)));
        assert_eq!(square.len(), 23 * 23);
        assert_eq!(white(&set, [0, 0, 0, 0, 0]).len(), 11 * 11);
        // π·7.5·15 pixels.
        let area = white(&set, [1, 5, 7, 16, 16]).len() as f32;
        assert!((area - 353.4).abs() < 8.0, "{area}");
        // A heart's tip is below, and it is the same left and right.
        let heart = white(&set, [2, 5, 0, 15, 15]);
        let lowest: Vec<_> =
            heart.iter().filter(|p| p.1 == span(&heart.iter().map(|p| p.1).collect::<Vec<_>>()).1).collect();
        assert!(lowest.iter().all(|p| p.0.abs_diff(31) <= 1), "{lowest:?}");
        assert!(heart.iter().all(|&(x, y)| heart.contains(&(62 - x, y))));
    }

    #[test]
    fn a_step_of_x_or_y_moves_by_a_pixel_and_nothing_is_cut_off() {
        let set = set(Split::All);
        for shape in 0..3 {
            for turn in 0..40 {
                let here = white(&set, [shape, 5, turn, 0, 0]);
                assert!(here.iter().all(|&(x, y)| x > 0 && y > 0), "{shape} {turn}");
                let moved: Vec<_> = here.iter().map(|&(x, y)| (x + 31, y + 2)).collect();
                assert_eq!(white(&set, [shape, 5, turn, 31, 2]), moved);
                assert!(moved.iter().all(|&(x, _)| x + 1 < SIDE));
            }
            assert_eq!(white(&set, [shape, 2, 0, 9, 9]), white(&set, [shape, 2, 39, 9, 9]));
            assert_ne!(white(&set, [shape, 2, 0, 9, 9]), white(&set, [shape, 2, 1, 9, 9]));
        }
    }
}
