//! Gradients of normalisations.

use super::{Affine, Scope, Segment, Shape, reciprocal_deviation};
use crate::{
    activation::with_activation,
    isa::Isa,
    lanes::{self, Standard},
    output::{self, Output},
    tasks,
};
use std::{mem::MaybeUninit, ops::Range};

/// Elements of the rows whose gradients of gamma and beta one task sums, and most of these rows.
const BLOCK: usize = 1 << 14;
const BLOCK_ROWS: usize = 256;

/// Gradients in input, gamma and beta.
pub(crate) struct Gradients {
    pub(crate) input: Vec<f32>,
    pub(crate) gamma: Vec<f32>,
    pub(crate) beta: Vec<f32>,
}

/// The gradients for output gradient `g`. Without `wants_input` the input's is meaningless.
#[allow(clippy::too_many_arguments)]
pub(crate) fn backward(
    isa: Isa,
    s: &Shape,
    x: &[f32],
    g: &[f32],
    mean: &[f32],
    var: &[f32],
    affine: Affine,
    wants_input: bool,
) -> Gradients {
    let parts = Parts::of(s);
    let fill = |[dx, dgamma, dbeta]: [&Output<'_>; 3]| {
        tasks::each(parts.tasks(s), s.len(), |task| {
            for cell in parts.cells(s, task) {
                let (mean, rstd) = (mean[cell], reciprocal_deviation(var[cell], affine.eps));
                let (m1, m2) = through_affine(isa, s, &parts, x, g, cell, mean, rstd, affine, [dx, dgamma, dbeta]);
                if !wants_input {
                    continue;
                }
                let (count, rate) = ((s.len() / s.cells()) as f64, rstd as f64);
                let (offset, pull) = match s.scope {
                    Scope::Given => (0.0, 0.0),
                    _ => ((m1 / count * rate) as f32, (m2 / count * rate * rate) as f32),
                };
                for Segment { at, affine: place, .. } in s.segments(cell) {
                    let range = at..at + s.run();
                    // SAFETY: a segment belongs to one cell, a cell to one task; `through_affine` wrote
                    // every element.
                    let t = unsafe { dx.slice(range.clone()).assume_init_mut() };
                    let scale = if s.each() { rstd } else { rstd * affine.gamma[place] };
                    lanes::through_statistics(isa, &x[range], t, mean, scale, offset, pull);
                }
            }
        });
    };
    let len = parts.count * s.channels * s.values;
    // SAFETY: the cells together are the whole of the input's gradient, and a part's first image
    // writes all of its sums.
    let [input, gamma, beta] = unsafe { output::filled_all([s.len(), len, len], fill) };
    Gradients { input, gamma: parts.total(s, gamma), beta: parts.total(s, beta) }
}

/// Writes a cell's `t` (times gamma where each element has its own) and its images' share of the
/// gradients of gamma and beta; gives the sums of `gamma t` and `gamma t h`.
#[allow(clippy::too_many_arguments)]
fn through_affine(
    isa: Isa,
    s: &Shape,
    parts: &Parts,
    x: &[f32],
    g: &[f32],
    cell: usize,
    mean: f32,
    rstd: f32,
    affine: Affine,
    [dx, dgamma, dbeta]: [&Output<'_>; 3],
) -> (f64, f64) {
    let run = s.run();
    let (mut m1, mut m2) = (0.0, 0.0);
    for segment in s.segments(cell) {
        let range = segment.at..segment.at + run;
        // SAFETY: a segment belongs to one cell, a cell to one task.
        let t = unsafe { dx.slice(range.clone()) };
        let (x, g) = (&x[range.clone()], &g[range]);
        let (gamma, beta) = (&affine.gamma[segment.affine..], &affine.beta[segment.affine..]);
        let (place, is_first) = parts.place(s, &segment);
        if s.each() {
            let sums = [dgamma, dbeta].map(|sums| {
                // SAFETY: a part belongs to one task where it has several images, else its channels do.
                let sums = unsafe { sums.slice(place..place + run) };
                if is_first {
                    sums.fill(MaybeUninit::new(0.0));
                }
                // SAFETY: written now, or by the part's first image, which came before.
                unsafe { sums.assume_init_mut() }
            });
            let affines = [&gamma[..run], &beta[..run]];
            let (s1, s2) = with_activation!(affine.activation,
                act => lanes::unactivate_each(isa, act, mean, rstd, affines, x, g, t, sums));
            m1 += s1;
            m2 += s2;
        } else {
            let standard = Standard { mean, rstd, gamma: gamma[0], beta: beta[0] };
            let (s1, s2) = with_activation!(affine.activation,
                act => lanes::unactivate(isa, act, standard, x, g, t));
            // SAFETY: the part is the image, whose channels belong to one task each.
            unsafe {
                dgamma.write(place, 1, &[s2 as f32]);
                dbeta.write(place, 1, &[s1 as f32]);
            }
            m1 += s1 * gamma[0] as f64;
            m2 += s2 * gamma[0] as f64;
        }
    }
    (m1, m2)
}

/// How the gradients of gamma and beta are summed: in parts of one image each, or of several where
/// images are short and share parameters. The parts of a set are then summed in order.
struct Parts {
    count: usize,
    /// In a set.
    of_set: usize,
    /// In a part; the last of a set may have fewer.
    images: usize,
    images_of_set: usize,
}

impl Parts {
    fn of(s: &Shape) -> Parts {
        let images_of_set = s.images.checked_div(s.sets).unwrap_or(0);
        let several = if s.each() { BLOCK / (s.channels * s.plane).max(1) } else { 1 };
        let images = several.clamp(1, BLOCK_ROWS).min(images_of_set.max(1));
        let of_set = images_of_set.div_ceil(images);
        Parts { count: s.sets * of_set, of_set, images, images_of_set }
    }

    /// A part is a task if it has several images, else a cell is.
    fn tasks(&self, s: &Shape) -> usize {
        if self.images == 1 { s.cells() } else { self.count }
    }

    fn cells(&self, s: &Shape, task: usize) -> Range<usize> {
        if self.images == 1 {
            return task..task + 1;
        }
        let (set, part) = (task / self.of_set, task % self.of_set);
        let first = part * self.images;
        let last = (first + self.images).min(self.images_of_set);
        let cells = |image: usize| (set * self.images_of_set + image) * (s.cells() / s.images);
        cells(first)..cells(last)
    }

    /// Where the sums of a segment begin, and whether its image is the part's first.
    fn place(&self, s: &Shape, segment: &Segment) -> (usize, bool) {
        let (set, image) = (segment.image / self.images_of_set, segment.image % self.images_of_set);
        let (part, width) = (set * self.of_set + image / self.images, s.channels * s.values);
        (part * width + segment.affine % width, image.is_multiple_of(self.images))
    }

    /// Sums over the parts of each set.
    fn total(&self, s: &Shape, sums: Vec<f32>) -> Vec<f32> {
        if self.of_set == 1 {
            return sums;
        }
        let width = s.channels * s.values;
        let set = |set: usize| {
            let mut total = vec![0.0f64; width];
            for part in set * self.of_set..(set + 1) * self.of_set {
                for (total, sum) in total.iter_mut().zip(&sums[part * width..][..width]) {
                    *total += *sum as f64;
                }
            }
            total.into_iter().map(|v| v as f32)
        };
        (0..s.sets).flat_map(set).collect()
    }
}

/// Sum of every channel over batch and plane.
pub(crate) fn channel_sums(isa: Isa, images: usize, channels: usize, plane: usize, x: &[f32]) -> Vec<f32> {
    let mut sums = vec![0.0f32; channels];
    let out = Output::new(&mut sums);
    tasks::each(channels, x.len(), |c| {
        let total: f64 = (0..images).map(|n| lanes::sum(isa, &x[(n * channels + c) * plane..][..plane])).sum();
        // SAFETY: each task writes its own channel's element.
        unsafe { out.write(c, 1, &[total as f32]) };
    });
    sums
}
