//! Chance in a street: numbers drawn for a scene, and noise over its surfaces.

use kiln_core::random::Key;

/// Numbers that a scene draws before they repeat.
const DRAWS: usize = 640;

/// A stock of numbers from 0 to 1.
pub(super) struct Draws {
    values: Vec<f32>,
    at: usize,
}

impl Draws {
    /// Of a scene.
    pub(super) fn of(scene: u32) -> Self {
        Self::for_purpose("streets", scene)
    }

    /// Of a second visit to a scene.
    pub(super) fn again(scene: u32) -> Self {
        Self::for_purpose("streets again", scene)
    }

    fn for_purpose(purpose: &str, scene: u32) -> Self {
        Self { values: Key::new(0).purpose(purpose).uniform([u64::from(scene)], DRAWS), at: 0 }
    }

    fn next(&mut self) -> f32 {
        self.at += 1;
        // What is drawn after the stock has ended repeats it.
        self.values[(self.at - 1) % self.values.len()]
    }

    pub(super) fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.next()
    }

    pub(super) fn below(&mut self, count: u32) -> u32 {
        ((self.next() * count as f32) as u32).min(count - 1)
    }

    pub(super) fn chance(&mut self, p: f32) -> bool {
        self.next() < p
    }
}

/// A number from 0 to 1 of three.
pub(super) fn hashed(a: u32, b: u32, c: u32) -> f32 {
    let mut h = a.wrapping_mul(0x9e37_79b1) ^ b.wrapping_mul(0x85eb_ca77) ^ c.wrapping_mul(0xc2b2_ae3d);
    for by in [0x7feb_352d, 0x846c_a68b] {
        h = (h ^ h >> 15).wrapping_mul(by);
    }
    ((h ^ h >> 16) >> 8) as f32 / 16_777_216.0
}

/// Smooth noise from 0 to 1, with a value at each whole place.
pub(super) fn noise(x: f32, y: f32, seed: u32) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
    let (u, v) = (smooth(x - left), smooth(y - top));
    let at = |i: i32, j: i32| hashed((left as i32).wrapping_add(i) as u32, (top as i32).wrapping_add(j) as u32, seed);
    let upper = at(0, 0) + u * (at(1, 0) - at(0, 0));
    let lower = at(0, 1) + u * (at(1, 1) - at(0, 1));
    upper + v * (lower - upper)
}
