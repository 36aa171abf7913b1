//! Resizes images without aliasing.
//!
//! A separable triangle filter whose support grows with the reduction, so that every source pixel
//! counts: the algorithm of Pillow's `resize(..., BILINEAR)`, in f32. Colours are weighted by alpha,
//! so what hides under transparent pixels does not bleed in.

use crate::Picture;

impl Picture {
    /// The picture stretched to `width` x `height` (at least 1 each).
    pub fn resize(&self, width: usize, height: usize) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        if (width, height) == (self.width, self.height) {
            return self.clone();
        }
        let n = self.channels;
        let mut values: Vec<f32> = self.pixels.iter().map(|&v| f32::from(v)).collect();
        if n == 4 {
            for p in values.chunks_exact_mut(4) {
                let a = p[3] / 255.0;
                p[..3].iter_mut().for_each(|c| *c *= a);
            }
        }
        let across = Taps::new(self.width, width);
        let mut wide = vec![0.0; self.height * width * n];
        for (row, out) in values.chunks_exact(self.width * n).zip(wide.chunks_exact_mut(width * n)) {
            for ((first, weights), out) in across.each().zip(out.chunks_exact_mut(n)) {
                for (k, w) in weights.iter().enumerate() {
                    let pixel = &row[(first + k) * n..][..n];
                    out.iter_mut().zip(pixel).for_each(|(o, v)| *o += w * v);
                }
            }
        }
        let down = Taps::new(self.height, height);
        let mut all = vec![0.0; height * width * n];
        for ((first, weights), out) in down.each().zip(all.chunks_exact_mut(width * n)) {
            for (k, w) in weights.iter().enumerate() {
                let row = &wide[(first + k) * width * n..][..width * n];
                out.iter_mut().zip(row).for_each(|(o, v)| *o += w * v);
            }
        }
        if n == 4 {
            for p in all.chunks_exact_mut(4) {
                let a = p[3] / 255.0;
                p[..3].iter_mut().for_each(|c| *c = if a > 0.0 { *c / a } else { 0.0 });
            }
        }
        let pixels = all.into_iter().map(|v| v.round().clamp(0.0, 255.0) as u8).collect();
        Self { width, height, channels: n, pixels }
    }
}

impl Picture {
    /// The picture stretched to `width` x `height` (at least 1 each) by taking the nearest pixel: what Pillow's
    /// `resize(..., NEAREST)` does. For maps of classes, between which there is nothing.
    pub fn resize_nearest(&self, width: usize, height: usize) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        // The pixel under the middle of the new one.
        let under = |i: usize, to: usize, from: usize| (2 * i + 1) * from / (2 * to);
        let columns: Vec<usize> = (0..width).map(|x| under(x, width, self.width) * self.channels).collect();
        let mut pixels = Vec::with_capacity(width * height * self.channels);
        for y in 0..height {
            let row = &self.pixels[under(y, height, self.height) * self.width * self.channels..];
            columns.iter().for_each(|&x| pixels.extend_from_slice(&row[x..x + self.channels]));
        }
        Self { width, height, channels: self.channels, pixels }
    }
}

/// For each output position: the first source position and the weights from there, which sum to 1.
struct Taps {
    first: Vec<usize>,
    weights: Vec<Vec<f32>>,
}

impl Taps {
    fn new(from: usize, to: usize) -> Self {
        let scale = from as f64 / to as f64;
        // Enlarging interpolates between neighbours; reducing averages over `scale` pixels each way.
        let support = scale.max(1.0);
        let (mut first, mut weights) = (Vec::with_capacity(to), Vec::with_capacity(to));
        for i in 0..to {
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
}
