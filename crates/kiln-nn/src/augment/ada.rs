//! The augmentation pipeline of StyleGAN2-ADA (Karras 2020a, appendix B; `training/augment.py` of their code), in its order:
//!
//! | group | operations, each with probability p |
//! |---|---|
//! | `blit` | mirror, turn by 90°, shift by whole pixels |
//! | `geometry` | scale, turn, stretch, shift, through an orthogonal low-pass filter at twice the resolution |
//! | `color` | brightness, contrast, luma flip, hue, saturation |
//! | `filter` | amplify one of four frequency bands |
//! | `noise` | add noise |
//! | `cutout` | zero a rectangle |
//!
//! Colours are changed by one affine map of the channels, and places by one affine map of the plane. What lies outside of a
//! picture is its reflection.

use std::f64::consts::PI;

use burn::tensor::Tensor;
use kiln_core::Result;
use kiln_kernels::{ConvOptions, Filter, GridOptions, SampleMode, SamplePadding, conv2d, grid_sample};

use super::{Draws, host, switches};
use crate::dual::Signal;
use crate::fir::upfirdn2d;
use crate::resample::along_axes;
use crate::tensor::{from_values, normal};

/// The low-pass filter of the wavelet sym6, whose sum is 1.
const SYM6: [f64; 12] = [
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
];
/// The low-pass filter of the wavelet sym2.
const SYM2: [f64; 4] = [-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025];
/// Frequency bands, low to high.
const BANDS: usize = 4;
/// The share of each band in natural pictures (1/f).
const POWER: [f64; BANDS] = [10.0 / 13.0, 1.0 / 13.0, 1.0 / 13.0, 1.0 / 13.0];
/// Largest shift by whole pixels, and deviation of one by parts, as a part of the side.
const SHIFT: f64 = 0.125;
/// Deviation of log₂ of scale and stretch.
const SCALE: f64 = 0.2;
const BRIGHTNESS: f64 = 0.2;
/// Deviations of log₂.
const CONTRAST: f64 = 0.5;
const SATURATION: f64 = 1.0;
const AMPLIFICATION: f64 = 1.0;
const NOISE: f64 = 0.1;
/// Sides of the hole, as a part of the picture's.
const HOLE: f64 = 0.5;

/// Which groups of operations may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ada {
    /// Mirror, turn by 90°, shift by whole pixels.
    pub blit: bool,
    /// Scale, turn, stretch, shift.
    pub geometry: bool,
    /// Brightness, contrast, luma flip, hue, saturation.
    pub color: bool,
    /// Frequency bands.
    pub filter: bool,
    /// Added noise.
    pub noise: bool,
    /// A hole.
    pub cutout: bool,
}

impl Ada {
    /// From a list of `blit`, `geometry`, `color`, `filter`, `noise` and `cutout`; the first three if it is empty, the
    /// paper's choice (`bgc`).
    ///
    /// # Errors
    /// A usage error for any other name.
    pub fn parse(list: &str) -> Result<Self> {
        let list = if list.trim().is_empty() { "blit,geometry,color" } else { list };
        let all = ["blit", "geometry", "color", "filter", "noise", "cutout"];
        let [blit, geometry, color, filter, noise, cutout] = switches(list, all)?;
        Ok(Self { blit, geometry, color, filter, noise, cutout })
    }

    pub(super) fn apply<X: Signal<4>>(self, mut x: X, p: f64, draws: &Draws) -> X {
        let dice = Dice { draws, n: x.dims()[0], p };
        if self.blit || self.geometry {
            let [_, _, h, w] = x.dims();
            x = transform(x, &places(self, [h, w], &dice));
        }
        if self.color {
            let maps = colors(&dice, x.dims()[1]);
            x = recolor(x, &maps);
        }
        if self.filter {
            x = amplify(x, &dice);
        }
        if self.noise {
            x = add_noise(x, &dice);
        }
        if self.cutout {
            x = cutout(x, &dice);
        }
        x
    }
}

/// Draws for a batch of n, each with probability p.
struct Dice<'a> {
    draws: &'a Draws,
    n: usize,
    p: f64,
}

impl Dice<'_> {
    /// `made` of `len` uniform numbers where it happens, with probability `p`, else `neutral`.
    fn uniform<T: Clone>(&self, name: &str, len: usize, p: f64, neutral: T, made: impl Fn(&[f64]) -> T) -> Vec<T> {
        self.choose(name, &self.draws.uniform(name, self.n, len), len, p, neutral, made)
    }

    /// The same of normal numbers.
    fn normal<T: Clone>(&self, name: &str, len: usize, p: f64, neutral: T, made: impl Fn(&[f64]) -> T) -> Vec<T> {
        self.choose(name, &self.draws.normal(name, self.n, len), len, p, neutral, made)
    }

    fn choose<T: Clone>(
        &self,
        name: &str,
        drawn: &[f64],
        len: usize,
        p: f64,
        neutral: T,
        made: impl Fn(&[f64]) -> T,
    ) -> Vec<T> {
        let happens = self.draws.happens(name, self.n, p);
        drawn.chunks(len).zip(happens).map(|(u, yes)| if yes { made(u) } else { neutral.clone() }).collect()
    }
}

/// An affine map of the plane, [x, y, 1] to [x, y].
#[derive(Clone, Copy, Debug)]
struct Plane([[f64; 3]; 2]);

impl Plane {
    const SAME: Self = Self([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]);

    fn shift(x: f64, y: f64) -> Self {
        Self([[1.0, 0.0, x], [0.0, 1.0, y]])
    }

    fn scale(x: f64, y: f64) -> Self {
        Self([[x, 0.0, 0.0], [0.0, y, 0.0]])
    }

    fn turn(angle: f64) -> Self {
        let (sin, cos) = angle.sin_cos();
        Self([[cos, -sin, 0.0], [sin, cos, 0.0]])
    }

    /// This after `first`.
    fn after(self, first: Self) -> Self {
        let row = |r: [f64; 3]| {
            let [a, b] = first.0;
            [r[0] * a[0] + r[1] * b[0], r[0] * a[1] + r[1] * b[1], r[0] * a[2] + r[1] * b[2] + r[2]]
        };
        Self(self.0.map(row))
    }

    fn at(self, x: f64, y: f64) -> [f64; 2] {
        self.0.map(|r| r[0] * x + r[1] * y + r[2])
    }
}

/// For each sample where an output pixel is read, both in pixels from the centre.
fn places(on: Ada, [height, width]: [usize; 2], dice: &Dice<'_>) -> Vec<Plane> {
    let (h, w) = (height as f64, width as f64);
    let mut all = vec![Plane::SAME; dice.n];
    let mut then = |maps: Vec<Plane>| all.iter_mut().zip(maps).for_each(|(all, map)| *all = all.after(map));
    let p = dice.p;
    if on.blit {
        then(dice.uniform("mirror", 1, p, Plane::SAME, |u| Plane::scale(1.0 - 2.0 * (2.0 * u[0]).floor(), 1.0)));
        then(dice.uniform("quarter turns", 1, p, Plane::SAME, |u| Plane::turn(PI / 2.0 * (4.0 * u[0]).floor())));
        let whole = |u: f64, side: f64| ((2.0 * u - 1.0) * SHIFT * side).round_ties_even();
        then(dice.uniform("whole shift", 2, p, Plane::SAME, |u| Plane::shift(-whole(u[0], w), -whole(u[1], h))));
    }
    if on.geometry {
        let inverse = |z: f64| (-SCALE * z).exp2();
        then(dice.normal("scale", 1, p, Plane::SAME, |z| Plane::scale(inverse(z[0]), inverse(z[0]))));
        // So that one of both turns happens with probability p.
        let either = 1.0 - (1.0 - p).clamp(0.0, 1.0).sqrt();
        let turn = |u: &[f64]| Plane::turn((2.0 * u[0] - 1.0) * PI);
        then(dice.uniform("turn before", 1, either, Plane::SAME, turn));
        then(dice.normal("stretch", 1, p, Plane::SAME, |z| Plane::scale(inverse(z[0]), 1.0 / inverse(z[0]))));
        if !dice.draws.is_fixed() {
            then(dice.uniform("turn after", 1, either, Plane::SAME, turn));
        }
        then(dice.normal("shift", 2, p, Plane::SAME, |z| Plane::shift(-SHIFT * z[0] * w, -SHIFT * z[1] * h)));
    }
    all
}

/// Reads pictures at the places of [`places`]: padded by their reflections, at twice the resolution between two low-pass
/// filters, so that nothing aliases.
fn transform<X: Signal<4>>(x: X, places: &[Plane]) -> X {
    let [n, _, h, w] = x.dims();
    let device = x.value().device();
    let filter = SYM6.map(|tap| tap as f32 / std::f32::consts::SQRT_2);
    let pad = SYM6.len() / 4;
    // How far corners lie outside, in each direction.
    let (cx, cy) = ((w - 1) as f64 / 2.0, (h - 1) as f64 / 2.0);
    let corners = [(-cx, -cy), (cx, -cy), (cx, cy), (-cx, cy)];
    let mut reach = [f64::NEG_INFINITY; 4];
    for map in places {
        for (x, y) in corners {
            let [x, y] = map.at(x, y);
            for (reach, at) in reach.iter_mut().zip([-x, -y, x, y]) {
                *reach = reach.max(at);
            }
        }
    }
    let margin = |reach: f64, centre: f64, side: usize| {
        (reach + (2 * pad) as f64 - centre).max(0.0).min((side - 1) as f64).ceil() as usize
    };
    let [left, top, right, bottom] =
        [margin(reach[0], cx, w), margin(reach[1], cy, h), margin(reach[2], cx, w), margin(reach[3], cy, h)];
    let x = along_axes(x, &mirrored(h, top, bottom), &mirrored(w, left, right));

    // Twice as large: as `upsample2d` of the reference pads.
    let taps = SYM6.len() as isize;
    let (before, after) = ((taps + 1) / 2, (taps - 2) / 2);
    let x = upfirdn2d(x, &filter, 2, 1, [before, after, before, after], 4.0);
    let [_, _, tall, wide] = x.dims();
    let (out_h, out_w) = ((h + 2 * pad) * 2, (w + 2 * pad) * 2);
    let centred = Plane::shift((left as f64 - right as f64) / 2.0, (top as f64 - bottom as f64) / 2.0);
    let maps = places.iter().flat_map(|map| {
        let doubled = Plane::scale(2.0, 2.0).after(centred.after(*map)).after(Plane::scale(0.5, 0.5));
        let half = Plane::shift(-0.5, -0.5).after(doubled).after(Plane::shift(0.5, 0.5));
        let unit = Plane::scale(2.0 / wide as f64, 2.0 / tall as f64)
            .after(half)
            .after(Plane::scale(out_w as f64 / 2.0, out_h as f64 / 2.0));
        // `[3, 2]`
        (0..3).flat_map(move |i| [unit.0[0][i] as f32, unit.0[1][i] as f32])
    });
    let maps: Tensor<3> = from_values(maps.collect(), [n, 3, 2], &device);
    let centre = |i: usize, side: usize| (2 * i + 1) as f32 / side as f32 - 1.0;
    let base = (0..out_h * out_w).flat_map(|i| [centre(i % out_w, out_w), centre(i / out_w, out_h), 1.0]).collect();
    let base: Tensor<3> = from_values(base, [1, out_h * out_w, 3], &device);
    let grid = base.expand([n, out_h * out_w, 3]).matmul(maps).reshape([n, out_h, out_w, 2]);
    let options = GridOptions { mode: SampleMode::Bilinear, padding: SamplePadding::Zeros, align_corners: false };
    let x = x.linear(|x| grid_sample(x, grid.clone(), options));

    // As large as before, the padding cut off; the filter is turned around.
    let mut turned = filter;
    turned.reverse();
    let cut = -((2 * pad) as isize);
    let (before, after) = ((taps - 1) / 2 + cut, (taps - 2) / 2 + cut);
    upfirdn2d(x, &turned, 1, 2, [before, after, before, after], 1.0)
}

/// A side with its reflection before and after it, the end pixels not repeated.
fn mirrored(side: usize, before: usize, after: usize) -> Filter {
    let period = (2 * (side - 1)).max(1);
    let source = move |i: usize| {
        let at = (i as isize - before as isize).rem_euclid(period as isize) as usize;
        at.min(period - at).min(side - 1)
    };
    Filter::new(side, (0..before + side + after).map(move |i| vec![(source(i), 1.0)]))
}

/// An affine map of colours, [r, g, b, 1] to [r, g, b].
type Color = [[f64; 4]; 3];

const SAME_COLOR: Color = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];

/// `map` after `first`.
fn after(map: &Color, first: &Color) -> Color {
    map.map(|row| {
        let mut out = [0.0; 4];
        for (j, out) in out.iter_mut().enumerate() {
            *out = (0..3).map(|k| row[k] * first[k][j]).sum::<f64>() + if j == 3 { row[3] } else { 0.0 };
        }
        out
    })
}

/// a·I + b·(mean of the channels), as a map.
fn along_luma(a: f64, b: f64) -> Color {
    let mut map = SAME_COLOR;
    for (i, row) in map.iter_mut().enumerate() {
        for (j, entry) in row.iter_mut().take(3).enumerate() {
            *entry = b / 3.0 + if i == j { a } else { 0.0 };
        }
    }
    map
}

/// The map of each sample's colours.
fn colors(dice: &Dice<'_>, channels: usize) -> Vec<Color> {
    let p = dice.p;
    let mut all = vec![SAME_COLOR; dice.n];
    let mut then = |maps: Vec<Color>| all.iter_mut().zip(maps).for_each(|(all, map)| *all = after(&map, all));
    let brighter = |z: &[f64]| SAME_COLOR.map(|row| [row[0], row[1], row[2], BRIGHTNESS * z[0]]);
    then(dice.normal("brightness", 1, p, SAME_COLOR, brighter));
    then(dice.normal("contrast", 1, p, SAME_COLOR, |z| along_luma((CONTRAST * z[0]).exp2(), 0.0)));
    // The reflection that turns the grey axis around.
    then(dice.uniform("luma flip", 1, p, SAME_COLOR, |u| along_luma(1.0, -2.0 * (2.0 * u[0]).floor())));
    if channels > 1 {
        then(dice.uniform("hue", 1, p, SAME_COLOR, |u| hue((2.0 * u[0] - 1.0) * PI)));
        let saturate = |z: &[f64]| {
            let s = (SATURATION * z[0]).exp2();
            along_luma(s, 1.0 - s)
        };
        then(dice.normal("saturation", 1, p, SAME_COLOR, saturate));
    }
    all
}

/// A turn around the grey axis.
fn hue(angle: f64) -> Color {
    let (sin, cos) = angle.sin_cos();
    let (along, across) = ((1.0 - cos) / 3.0, sin / 3f64.sqrt());
    let mut map = SAME_COLOR;
    for (i, row) in map.iter_mut().enumerate() {
        row[i] = along + cos;
        row[(i + 1) % 3] = along - across;
        row[(i + 2) % 3] = along + across;
    }
    map
}

/// Three channels by the whole map; each channel of any other number by its mean over the channels.
fn recolor<X: Signal<4>>(x: X, maps: &[Color]) -> X {
    let [n, c, h, w] = x.dims();
    let device = x.value().device();
    if c != 3 {
        let mean = |i: usize| move |map: &Color| map.iter().map(|row| row[i]).sum::<f64>() / 3.0;
        let scale = |map: &Color| (0..3).map(|i| mean(i)(map)).sum();
        let scale = host(maps.iter().map(scale), [n, 1, 1, 1], &device);
        let shift = host(maps.iter().map(mean(3)), [n, 1, 1, 1], &device);
        return x * X::constant(scale) + X::constant(shift);
    }
    let linear = maps.iter().flatten().flat_map(|row| row[..3].iter().map(|v| *v as f32)).collect();
    let linear: Tensor<3> = from_values(linear, [n, 3, 3], &device);
    let shift = host(maps.iter().flatten().map(|row| row[3]), [n, 3, 1, 1], &device);
    x.linear(|x| linear.clone().matmul(x.reshape([n, 3, h * w])).reshape([n, 3, h, w])) + X::constant(shift)
}

/// Filters of the bands, whose sum is the identity. Band 0 is the lowest.
fn filter_bank() -> [Vec<f64>; BANDS] {
    let convolve = |a: &[f64], b: &[f64]| {
        let mut out = vec![0.0; a.len() + b.len() - 1];
        for (i, a) in a.iter().enumerate() {
            for (j, b) in b.iter().enumerate() {
                out[i + j] += a * b;
            }
        }
        out
    };
    let halved = |taps: &[f64; 4]| {
        let mut turned = *taps;
        turned.reverse();
        convolve(taps, &turned).into_iter().map(|tap| tap / 2.0).collect::<Vec<f64>>()
    };
    let low = halved(&SYM2);
    let high = halved(&[SYM2[0], -SYM2[1], SYM2[2], -SYM2[3]]);
    let mut bank: [Vec<f64>; BANDS] = std::array::from_fn(|band| vec![if band == 0 { 1.0 } else { 0.0 }]);
    for band in 1..BANDS {
        for taps in &mut bank {
            let spread: Vec<f64> = taps.iter().flat_map(|tap| [*tap, 0.0]).take(2 * taps.len() - 1).collect();
            *taps = convolve(&spread, &low);
        }
        let start = (bank[band].len() - high.len()) / 2;
        bank[band][start..start + high.len()].iter_mut().zip(&high).for_each(|(tap, high)| *tap += high);
    }
    bank
}

/// Amplifies frequency bands and keeps the power that natural pictures have.
fn amplify<X: Signal<4>>(x: X, dice: &Dice<'_>) -> X {
    let [n, c, h, w] = x.dims();
    let device = x.value().device();
    let mut gains = vec![[1.0; BANDS]; n];
    for (band, share) in POWER.into_iter().enumerate() {
        let name = format!("band {band}");
        let amplified = dice.normal(&name, 1, dice.p, 1.0, |z| (AMPLIFICATION * z[0]).exp2());
        for (gains, amplified) in gains.iter_mut().zip(amplified) {
            let power = 1.0 + share * (amplified * amplified - 1.0);
            for (i, gain) in gains.iter_mut().enumerate() {
                *gain *= if i == band { amplified } else { 1.0 } / power.sqrt();
            }
        }
    }
    let bank = filter_bank();
    let taps = bank[0].len();
    let kernels: Vec<f32> = gains
        .iter()
        .flat_map(|gains| {
            let tap = |t: usize| (0..BANDS).map(|band| gains[band] * bank[band][t]).sum::<f64>() as f32;
            let kernel: Vec<f32> = (0..taps).map(tap).collect();
            kernel.repeat(c)
        })
        .collect();
    let (half, channels) = (taps / 2, n * c);
    let x = along_axes(x, &mirrored(h, half, half), &mirrored(w, half, half));
    let x = x.reshape([1, channels, h + 2 * half, w + 2 * half]);
    let options = ConvOptions { groups: channels, ..ConvOptions::default() };
    let along = |shape| from_values::<4>(kernels.clone(), shape, &device);
    let (rows, columns) = (along([channels, 1, 1, taps]), along([channels, 1, taps, 1]));
    x.linear(|x| conv2d(conv2d(x, rows.clone(), None, options), columns.clone(), None, options)).reshape([n, c, h, w])
}

fn add_noise<X: Signal<4>>(x: X, dice: &Dice<'_>) -> X {
    let shape @ [n, ..] = x.dims();
    let device = x.value().device();
    let sigma = host(dice.normal("noise", 1, dice.p, 0.0, |z| NOISE * z[0].abs()), [n, 1, 1, 1], &device);
    let noise = match dice.draws.source {
        super::Source::Keyed(key) => normal(key.purpose("noise pixels"), dice.draws.samples(n), shape, &device),
        super::Source::Fixed { .. } => x.value().ones_like(),
    };
    x + X::constant(noise * sigma)
}

fn cutout<X: Signal<4>>(x: X, dice: &Dice<'_>) -> X {
    let [n, _, h, w] = x.dims();
    let device = x.value().device();
    // A centre so far outside that the hole does not reach the picture.
    let centres = dice.uniform("cutout", 2, dice.p, [-1.0; 2], |u| [u[0], u[1]]);
    let within = |at: usize, side: usize, centre: f64| (((at as f64 + 0.5) / side as f64) - centre).abs() < HOLE / 2.0;
    let keep = (0..n * h * w).map(|i| {
        let [cx, cy] = centres[i / (h * w)];
        if within(i / w % h, h, cy) && within(i % w, w, cx) { 0.0 } else { 1.0 }
    });
    x * X::constant(host(keep, [n, 1, h, w], &device))
}
