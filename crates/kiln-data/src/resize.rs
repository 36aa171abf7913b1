//! Resizes images without aliasing.
//!
//! A separable triangle filter whose support grows with the reduction, so that every source pixel
//! counts: the algorithm of Pillow's `resize(..., BILINEAR)`, in f32. Colours are weighted by alpha,
//! so what hides under transparent pixels does not bleed in.

use std::ops::Range;

use crate::Picture;

/// A part of a stretched picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Window {
    /// Its left and upper edge in the stretched picture.
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

impl Picture {
    /// The picture stretched to `width` x `height` (at least 1 each).
    pub fn resize(&self, width: usize, height: usize) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        self.resize_part(width, height, Window { x: 0, y: 0, width, height })
    }

    /// What lies inside a window of the picture stretched to `width` x `height`. Only the window is made, so a picture may be
    /// stretched to any length of which a little is kept.
    pub(crate) fn resize_part(&self, width: usize, height: usize, window: Window) -> Self {
        if (width, height) == (self.width, self.height) {
            return self.crop(window.x, window.y, window.width, window.height);
        }
        let n = self.channels;
        let across = Taps::new(self.width, width, window.x..window.x + window.width);
        let down = Taps::new(self.height, height, window.y..window.y + window.height);
        let mut all = vec![0.0; window.height * window.width * n];
        let (mut row, mut wide) = (vec![0.0; self.width * n], vec![0.0; window.width * n]);
        // Each row is added to the rows that are made of it, which follow each other.
        let mut begun = 0;
        for y in down.sources() {
            self.premultiplied(y, &mut row);
            for ((first, weights), out) in across.each().zip(wide.chunks_exact_mut(n)) {
                out.fill(0.0);
                for (k, w) in weights.iter().enumerate() {
                    let pixel = &row[(first + k) * n..][..n];
                    out.iter_mut().zip(pixel).for_each(|(o, v)| *o += w * v);
                }
            }
            while down.ends(begun).is_some_and(|end| end <= y) {
                begun += 1;
            }
            let lines = down.each().zip(all.chunks_exact_mut(window.width * n)).skip(begun);
            for ((first, weights), out) in lines.take_while(|((first, _), _)| *first <= y) {
                let w = weights[y - first];
                out.iter_mut().zip(&wide).for_each(|(o, v)| *o += w * v);
            }
        }
        if n == 4 {
            for p in all.chunks_exact_mut(4) {
                let a = p[3] / 255.0;
                p[..3].iter_mut().for_each(|c| *c = if a > 0.0 { *c / a } else { 0.0 });
            }
        }
        let pixels = all.into_iter().map(|v| v.round().clamp(0.0, 255.0) as u8).collect();
        Self { width: window.width, height: window.height, channels: n, pixels }
    }

    /// A row as numbers, colours weighted by alpha.
    fn premultiplied(&self, y: usize, out: &mut [f32]) {
        let row = &self.pixels[y * out.len()..][..out.len()];
        out.iter_mut().zip(row).for_each(|(o, &v)| *o = f32::from(v));
        if self.channels == 4 {
            for p in out.chunks_exact_mut(4) {
                let a = p[3] / 255.0;
                p[..3].iter_mut().for_each(|c| *c *= a);
            }
        }
    }

    /// The picture stretched to `width` x `height` (at least 1 each) by taking the nearest pixel: what Pillow's
    /// `resize(..., NEAREST)` does. For maps of classes, between which there is nothing.
    pub fn resize_nearest(&self, width: usize, height: usize) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        self.resize_nearest_part(width, height, Window { x: 0, y: 0, width, height })
    }

    /// As [`Picture::resize_part`], by taking the nearest pixel.
    pub(crate) fn resize_nearest_part(&self, width: usize, height: usize, window: Window) -> Self {
        // The pixel under the middle of the new one.
        let under = |i: usize, to: usize, from: usize| (2 * i + 1) * from / (2 * to);
        let x = window.x..window.x + window.width;
        let columns: Vec<usize> = x.map(|x| under(x, width, self.width) * self.channels).collect();
        let mut pixels = Vec::with_capacity(window.width * window.height * self.channels);
        for y in window.y..window.y + window.height {
            let row = &self.pixels[under(y, height, self.height) * self.width * self.channels..];
            columns.iter().for_each(|&x| pixels.extend_from_slice(&row[x..x + self.channels]));
        }
        Self { width: window.width, height: window.height, channels: self.channels, pixels }
    }
}

/// For each output position: the first source position and the weights from there, which sum to 1.
struct Taps {
    first: Vec<usize>,
    weights: Vec<Vec<f32>>,
}

impl Taps {
    /// Of the output positions in `range`, where `from` source positions become `to`.
    fn new(from: usize, to: usize, range: Range<usize>) -> Self {
        let scale = from as f64 / to as f64;
        // Enlarging interpolates between neighbours; reducing averages over `scale` pixels each way.
        let support = scale.max(1.0);
        let (mut first, mut weights) = (Vec::with_capacity(range.len()), Vec::with_capacity(range.len()));
        for i in range {
            let centre = (i as f64 + 0.5) * scale;
            let low = (centre - support + 0.5).max(0.0) as usize;
            let high = ((centre + support + 0.5) as usize).min(from);
            let at = |j: usize| 1.0 - ((j as f64 + 0.5 - centre) / support).abs();
            let raw: Vec<f64> = (low..high).map(|j| at(j).max(0.0)).collect();
            let sum: f64 = raw.iter().sum();
            first.push(low);
            weights.push(raw.into_iter().map(|w| (w / sum) as f32).collect());
        }
        Self { first, weights }
    }

    fn each(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.first.iter().copied().zip(self.weights.iter().map(Vec::as_slice))
    }

    /// All source positions from the first to the last that is needed.
    fn sources(&self) -> Range<usize> {
        let last = self.first.len().checked_sub(1).and_then(|last| self.ends(last)).unwrap_or(0);
        self.first.first().copied().unwrap_or(0)..last
    }

    /// The source position after the last that output `i` is made of.
    fn ends(&self, i: usize) -> Option<usize> {
        Some(self.first.get(i)? + self.weights[i].len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_part_is_cut_out_of_the_whole(
            from in (1usize..30, 1usize..30), to in (1usize..30, 1usize..30), at in (0usize..30, 0usize..30), n in 0usize..3,
        ) {
            let channels = [1, 3, 4][n];
            let pixels = (0..from.0 * from.1 * channels).map(|k| ((k * k * 7 + k * 13) % 251) as u8).collect();
            let picture = Picture { width: from.0, height: from.1, channels, pixels };
            let (x, y) = (at.0 % to.0, at.1 % to.1);
            let window = Window { x, y, width: to.0 - x, height: to.1 - y };
            let cut = |whole: Picture| whole.crop(x, y, window.width, window.height);
            prop_assert_eq!(picture.resize_part(to.0, to.1, window), cut(picture.resize(to.0, to.1)));
            prop_assert_eq!(picture.resize_nearest_part(to.0, to.1, window), cut(picture.resize_nearest(to.0, to.1)));
        }
    }
}
