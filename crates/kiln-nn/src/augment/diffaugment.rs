//! DiffAugment (Zhao 2020, section 3.2; `DiffAugment_pytorch.py` of the authors).

use kiln_core::Result;
use kiln_kernels::{GridOptions, SampleMode, SamplePadding, grid_sample};

use super::{Draws, host, switches};
use crate::dual::Signal;
use crate::tensor::from_values;

/// The largest shift, as a part of the side.
const SHIFT: f64 = 0.125;
/// Sides of the hole, as a part of the picture's.
const HOLE: f64 = 0.5;

/// Which of the three families of operations are done. All happen to every picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiffAugment {
    /// Brightness, saturation, contrast.
    pub color: bool,
    /// Shifts by up to an eighth of the side, zeros where nothing was.
    pub translation: bool,
    /// A rectangle of half the sides is zeroed.
    pub cutout: bool,
}

impl DiffAugment {
    /// From a list of `color`, `translation` and `cutout`; all of them if it is empty.
    ///
    /// # Errors
    /// A usage error for any other name.
    pub fn parse(list: &str) -> Result<Self> {
        let all = ["color", "translation", "cutout"];
        let [color, translation, cutout] = if list.trim().is_empty() { [true; 3] } else { switches(list, all)? };
        Ok(Self { color, translation, cutout })
    }

    pub(super) fn apply<X: Signal<4>>(self, mut x: X, draws: &Draws) -> X {
        if self.color {
            x = color(x, draws);
        }
        if self.translation {
            x = translation(x, draws);
        }
        if self.cutout {
            x = cutout(x, draws);
        }
        x
    }
}

/// x + b; away from the mean of its channels by s; away from its mean by c. b from U(−½, ½), s from U(0, 2), c from U(½, 3/2).
fn color<X: Signal<4>>(x: X, draws: &Draws) -> X {
    let (n, device) = (x.dims()[0], x.value().device());
    let each = |purpose: &str, scale: f64, low: f64| {
        host(draws.uniform(purpose, n, 1).into_iter().map(|u| low + scale * u), [n, 1, 1, 1], &device)
    };
    let (brightness, saturation, contrast) =
        (each("brightness", 1.0, -0.5), each("saturation", 2.0, 0.0), each("contrast", 1.0, 0.5));
    let x = x + X::constant(brightness);
    let x = x.linear(|x| {
        let mean = x.clone().mean_dim(1);
        (x - mean.clone()) * saturation.clone() + mean
    });
    x.linear(|x| {
        let mean = x.clone().mean_dims(&[1, 2, 3]);
        (x - mean.clone()) * contrast.clone() + mean
    })
}

fn translation<X: Signal<4>>(x: X, draws: &Draws) -> X {
    let ([n, _, h, w], device) = (x.dims(), x.value().device());
    // By how much output pixels look further, in pixels.
    let shifts = |purpose: &str, side: usize| -> Vec<f64> {
        let most = (side as f64 * SHIFT + 0.5).floor();
        draws.uniform(purpose, n, 1).into_iter().map(|u| (u * (2.0 * most + 1.0)).floor() - most).collect()
    };
    let (down, right) = (shifts("translation y", h), shifts("translation x", w));
    let place = |i: usize, shift: f64, side: usize| ((2.0 * (i as f64 + shift) + 1.0) / side as f64 - 1.0) as f32;
    let mut grid = Vec::with_capacity(n * h * w * 2);
    for sample in 0..n {
        for pixel in 0..h * w {
            grid.push(place(pixel % w, right[sample], w));
            grid.push(place(pixel / w, down[sample], h));
        }
    }
    let grid = from_values(grid, [n, h, w, 2], &device);
    let options = GridOptions { mode: SampleMode::Nearest, padding: SamplePadding::Zeros, align_corners: false };
    x.linear(|x| grid_sample(x, grid.clone(), options))
}

fn cutout<X: Signal<4>>(x: X, draws: &Draws) -> X {
    let ([n, _, h, w], device) = (x.dims(), x.value().device());
    // Where the hole begins and ends along a side, perhaps outside of the picture.
    let holes = |purpose: &str, side: usize| -> Vec<(i64, i64)> {
        let size = (side as f64 * HOLE + 0.5).floor() as i64;
        let places = side as i64 + 1 - size % 2;
        let hole = |u: f64| {
            let first = (u * places as f64).floor() as i64 - size / 2;
            // The reference clamps each place into the picture.
            let clamped = |at: i64| at.clamp(0, side as i64 - 1);
            (clamped(first), clamped(first + size - 1))
        };
        draws.uniform(purpose, n, 1).into_iter().map(hole).collect()
    };
    let (rows, columns) = (holes("cutout y", h), holes("cutout x", w));
    let within = |(first, last): (i64, i64), at: usize| (first..=last).contains(&(at as i64));
    let keep = (0..n * h * w).map(|i| {
        let (sample, y, x) = (i / (h * w), i / w % h, i % w);
        if within(rows[sample], y) && within(columns[sample], x) { 0.0 } else { 1.0 }
    });
    x * X::constant(host(keep, [n, 1, h, w], &device))
}
