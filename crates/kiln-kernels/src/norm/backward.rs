//! Gradients of normalisations.

use super::{Affine, Blocks, Scope, Segment, Shape, each, reciprocal_deviation};
use crate::{
    activation::with_activation,
    isa::Isa,
    lanes::{self, Standard},
    output::{self, Output},
    tasks,
};
use std::mem::MaybeUninit;

/// Gradients in input, gamma and beta.
pub(crate) struct Gradients {
    pub(crate) input: Vec<f32>,
    pub(crate) gamma: Vec<f32>,
    pub(crate) beta: Vec<f32>,
}

/// The gradients for output gradient `g`. Without `wants_input` the input's is meaningless.
///
/// Those of gamma and beta are summed in parts, an image or a block of rows each, and then over the
/// parts of a set in their order.
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
    let parts = if s.shares_rows() { Blocks::of(s).count } else { s.images };
    let fill = |[dx, dgamma, dbeta]: [&Output<'_>; 3]| {
        if s.shares_rows() {
            return rows(isa, s, x, g, mean, var, affine, [dx, dgamma, dbeta]);
        }
        tasks::each(s.cells(), s.len(), |cell| {
            let (mean, rstd) = (mean[cell], reciprocal_deviation(var[cell], affine.eps));
            let (m1, m2) = through_affine(isa, s, x, g, cell, mean, rstd, affine, [dx, dgamma, dbeta]);
            if !wants_input {
                return;
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
        });
    };
    let len = parts * s.channels * s.values;
    // SAFETY: the cells, or blocks of rows, together are the whole of the input's gradient, and each
    // writes its share of every part.
    let [input, gamma, beta] = unsafe { output::filled_all([s.len(), len, len], fill) };
    let total = |sums| sum_parts(sums, s.sets, parts, s.channels * s.values);
    Gradients { input, gamma: total(gamma), beta: total(beta) }
}

/// Writes a cell's `t` (times gamma where each element has its own) and its share of its images' part
/// of the gradients of gamma and beta; gives the sums of `gamma t` and `gamma t h`.
#[allow(clippy::too_many_arguments)]
fn through_affine(
    isa: Isa,
    s: &Shape,
    x: &[f32],
    g: &[f32],
    cell: usize,
    mean: f32,
    rstd: f32,
    affine: Affine,
    [dx, dgamma, dbeta]: [&Output<'_>; 3],
) -> (f64, f64) {
    let (run, width) = (s.run(), s.channels * s.values);
    let (mut m1, mut m2) = (0.0, 0.0);
    for segment in s.segments(cell) {
        let range = segment.at..segment.at + run;
        // SAFETY: a segment belongs to one cell, a cell to one task.
        let t = unsafe { dx.slice(range.clone()) };
        let (x, g) = (&x[range.clone()], &g[range]);
        let (gamma, beta) = (&affine.gamma[segment.affine..], &affine.beta[segment.affine..]);
        let place = segment.image * width + segment.affine % width;
        if s.each() {
            let sums = [dgamma, dbeta].map(|sums| {
                // SAFETY: a channel of an image belongs to one cell.
                let sums = unsafe { sums.slice(place..place + run) };
                sums.fill(MaybeUninit::new(0.0));
                // SAFETY: written now.
                unsafe { sums.assume_init_mut() }
            });
            let parameters = [&gamma[..run], &beta[..run]];
            let (s1, s2) = with_activation!(affine.activation,
                act => each::unactivate(isa, act, mean, rstd, parameters, x, g, t, sums));
            m1 += s1;
            m2 += s2;
        } else {
            let standard = Standard { mean, rstd, gamma: gamma[0], beta: beta[0] };
            let (s1, s2) = with_activation!(affine.activation,
                act => lanes::unactivate(isa, act, standard, x, g, t));
            // SAFETY: a channel of an image belongs to one cell.
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

/// The gradients of rows that share gamma and beta, a part for each block.
#[allow(clippy::too_many_arguments)]
fn rows(
    isa: Isa,
    s: &Shape,
    x: &[f32],
    g: &[f32],
    mean: &[f32],
    var: &[f32],
    affine: Affine,
    [dx, dgamma, dbeta]: [&Output<'_>; 3],
) {
    let (blocks, width) = (Blocks::of(s), s.channels);
    tasks::each(blocks.count, s.len(), |block| {
        let rows = blocks.rows(block);
        let elements = rows.start * width..rows.end * width;
        // SAFETY: the rows of blocks do not meet.
        let dx = unsafe { dx.slice(elements.clone()) };
        let sums = [dgamma, dbeta].map(|sums| {
            // SAFETY: the part is the block's.
            let sums = unsafe { sums.slice(block * width..(block + 1) * width) };
            sums.fill(MaybeUninit::new(0.0));
            // SAFETY: written now.
            unsafe { sums.assume_init_mut() }
        });
        let (x, g, mean, var) = (&x[elements.clone()], &g[elements], &mean[rows.clone()], &var[rows]);
        let parameters = blocks.affine(block, affine, width);
        with_activation!(affine.activation,
            act => each::row_backward(isa, act, affine.eps, parameters, x, g, mean, var, dx, sums));
    });
}

/// Sums over the parts of each set, `width` values each.
fn sum_parts(sums: Vec<f32>, sets: usize, parts: usize, width: usize) -> Vec<f32> {
    if parts == sets {
        return sums;
    }
    let set = |set: usize| {
        let mut total = vec![0.0f64; width];
        for part in set * (parts / sets)..(set + 1) * (parts / sets) {
            for (total, sum) in total.iter_mut().zip(&sums[part * width..][..width]) {
                *total += *sum as f64;
            }
        }
        total.into_iter().map(|v| v as f32)
    };
    (0..sets).flat_map(set).collect()
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
