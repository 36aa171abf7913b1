//! Generates `rings`: points of the plane whose density is known exactly, as pictures of 2×1 pixels.
//!
//! The left pixel is x and the right one y, both in [−1, 1] as any grey value. A point lies on the inner or the outer of two
//! rings, its classes: at a distance from the centre drawn from N(R, σ²) with R = 0.35 or 0.7 and σ = 0.05, in any
//! direction. Each point is generated from its number.

use std::f64::consts::TAU;

use kiln_core::random::Key;
use kiln_core::{Error, Result};

use crate::set::{fingerprint, picture_kinds};
use crate::{DataKind, DataSet, Picture, Sample, Split};

/// Points in both parts together.
const POINTS: u32 = 100_000;
/// Radii of the rings.
const RADII: [f64; 2] = [0.35, 0.7];
/// Deviation of the distance.
const SIGMA: f64 = 0.05;

/// The set, without its points.
pub(crate) struct Rings {
    name: String,
    split: Split,
    classes: Vec<String>,
    /// Numbers of the points that belong to the split, ascending.
    numbers: Vec<u32>,
}

impl Rings {
    pub(crate) fn new(name: &str, split: Split) -> Self {
        let classes = ["inner", "outer"].map(String::from).to_vec();
        Self { name: name.into(), split, classes, numbers: split.keep((0..POINTS).collect(), u32::to_string) }
    }
}

/// p(x, y) = ½ Σ N(r; R, σ²) / (2πr), r the distance from the centre.
fn density(x: f64, y: f64) -> f64 {
    let r = x.hypot(y).max(1e-9);
    let bell = |radius: f64| (-((r - radius) / SIGMA).powi(2) / 2.0).exp() / (SIGMA * TAU.sqrt());
    RADII.into_iter().map(bell).sum::<f64>() / 2.0 / (TAU * r)
}

impl DataSet for Rings {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.numbers.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let Some(&number) = self.numbers.get(index) else {
            return Err(Error::new(format!("{}: no sample {index} of {}", self.name, self.len())));
        };
        let key = Key::new(0).purpose("rings");
        let ring = (number % 2) as usize;
        let along = f64::from(key.purpose("direction").uniform([u64::from(number)], 1)[0]) * TAU;
        let off = f64::from(key.purpose("distance").normal([u64::from(number)], 1)[0]);
        let r = RADII[ring] + SIGMA * off;
        let level = |v: f64| ((v + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
        Ok(Sample {
            picture: Picture::new(2, 1, 1, vec![level(r * along.cos()), level(r * along.sin())])?,
            label: Some(ring as u32),
            caption: None,
            mask: None,
            name: format!("{} {number}", self.name),
        })
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn density(&self, values: &[f32]) -> Option<f64> {
        let [x, y] = values else { return None };
        Some(density(f64::from(*x), f64::from(*y)))
    }

    fn kinds(&self) -> Vec<DataKind> {
        picture_kinds(true, false)
    }

    fn fingerprint(&self) -> String {
        // Counts up when a point changes.
        fingerprint(["rings 1".as_bytes(), self.split.to_string().as_bytes()])
    }

    fn uniform(&self) -> Option<[usize; 3]> {
        Some([1, 1, 2])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_density_is_one_in_all() {
        let (n, step) = (400, 2.0 / 400.0);
        let at = |i: usize| -1.0 + (i as f64 + 0.5) * step;
        let sum: f64 = (0..n * n).map(|i| density(at(i % n), at(i / n)) * step * step).sum();
        assert!((sum - 1.0).abs() < 1e-3, "{sum}");
    }

    #[test]
    fn points_have_the_density() {
        let set = Rings::new("rings", Split::All);
        assert_eq!(set.len(), 100_000);
        let value = |level: u8| f64::from(level) / 127.5 - 1.0;
        // The share of points nearer than a distance, and of the density there.
        let n = 20_000;
        let points: Vec<f64> = (0..n)
            .map(|i| {
                let pixels = set.get(i).unwrap().picture.pixels;
                value(pixels[0]).hypot(value(pixels[1]))
            })
            .collect();
        for (distance, share) in [(0.35, 0.25), (0.5, 0.5), (0.7, 0.75), (0.75, 0.5 + 0.5 * 0.8413)] {
            let found = points.iter().filter(|r| **r < distance).count() as f64 / n as f64;
            assert!((found - share).abs() < 0.01, "{distance}: {found} for {share}");
        }
    }
}
