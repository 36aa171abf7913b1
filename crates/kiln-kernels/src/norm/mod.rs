//! Normalisation with affine step and activation, forward and backward.
//!
//! All kinds normalise *cells*: sets of elements sharing a mean and a variance, namely some
//! neighbouring channels of one image (Wu and He 2018), one channel over the batch (Ioffe and Szegedy
//! 2015), or the channels of one row (Ba 2016). A cell is one task and mostly stays in cache between
//! its passes. With `h = (x - mean) / sqrt(var + eps)` and `y = a(gamma h + beta)`, the gradient in `x`
//! is `(gamma t - mean(gamma t) - h mean(gamma t h)) / sqrt(var + eps)`, `t = dy a'`, means over the
//! cell; those in `gamma` and `beta` are the sums of `t h` and of `t` over what shares them.

mod backward;
mod each;

use crate::{
    Activation,
    activation::with_activation,
    isa::Isa,
    lanes::{self, Act, Moments, Standard},
    output::{self, Output},
    tasks,
};
pub(crate) use backward::{backward, channel_sums};
use std::ops::Range;

/// What shares statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The given number of groups of channels, per image.
    Groups(usize),
    /// Each channel over the batch.
    Batch,
    /// Each channel, by statistics that do not come from `x`.
    Given,
    /// Each row of the last axis, whose elements are the channels.
    Rows,
}

/// Sizes of a normalisation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Of [`Scope::Rows`], rows.
    pub(crate) images: usize,
    pub(crate) channels: usize,
    /// Pixels of a channel.
    pub(crate) plane: usize,
    pub(crate) scope: Scope,
    /// Sets of gamma and beta: neighbouring images share one, all images or those of one sample.
    pub(crate) sets: usize,
    /// Values a channel has in a set: 1, or one for each pixel.
    pub(crate) values: usize,
}

/// A run of elements of a cell.
struct Segment {
    image: usize,
    /// Its first element.
    at: usize,
    /// The place of its (first) gamma and beta.
    affine: usize,
}

impl Shape {
    /// Of an input of dimensions `x`, `[n, c, ..]` or for [`Scope::Rows`] `[n, .., c]`, and gamma and
    /// beta of dimensions `affine`: `[c]`, `[n, c]` or those of `x`.
    pub(crate) fn new(x: &[usize], affine: &[usize], scope: Scope) -> Shape {
        let (images, channels, plane) = match (scope, x) {
            (Scope::Rows, [rows @ .., channels]) => (rows.iter().product(), *channels, 1),
            (_, [images, channels, plane @ ..]) => (*images, *channels, plane.iter().product()),
            _ => (0, 0, 0),
        };
        let (sets, values) = match affine {
            _ if affine == x => (images, plane),
            [sets, _] => (*sets, 1),
            _ => (1, 1),
        };
        Shape { images, channels, plane, scope, sets, values }
    }

    /// Groups of channels an image is normalised in, if it is by itself.
    fn groups(&self) -> Option<usize> {
        match self.scope {
            Scope::Groups(groups) => Some(groups),
            Scope::Rows => Some(1),
            Scope::Batch | Scope::Given => None,
        }
    }

    /// Number of cells.
    pub(crate) fn cells(&self) -> usize {
        self.groups().map_or(self.channels, |groups| self.images * groups)
    }

    fn len(&self) -> usize {
        self.images * self.channels * self.plane
    }

    /// Whether every element of a segment has its own gamma and beta, and not all the same.
    fn each(&self) -> bool {
        self.values == self.plane && (self.sets == self.images || self.groups().is_some())
    }

    /// Whether the cells are rows that share gamma and beta.
    fn shares_rows(&self) -> bool {
        self.scope == Scope::Rows && self.sets < self.images
    }

    /// Elements of a segment: all of a cell's where they and their gammas are neighbours, else a plane.
    fn run(&self) -> usize {
        match self.groups() {
            Some(groups) if self.each() => self.channels / groups * self.plane,
            _ => self.plane,
        }
    }

    fn segments(&self, cell: usize) -> impl Iterator<Item = Segment> + use<> {
        let s = *self;
        let (image, channel, steps, count) = match s.groups() {
            Some(groups) => {
                let size = s.channels / groups;
                (cell / groups, cell % groups * size, [0, 1], if s.each() { 1 } else { size })
            }
            None => (0, cell, [1, 0], s.images),
        };
        (0..count).map(move |i| {
            let (image, channel) = (image + i * steps[0], channel + i * steps[1]);
            let set = image * s.sets / s.images;
            Segment {
                image,
                at: (image * s.channels + channel) * s.plane,
                affine: (set * s.channels + channel) * s.values,
            }
        })
    }

    fn moments(&self, isa: Isa, x: &[f32], cell: usize) -> Moments {
        let run = self.run();
        self.segments(cell)
            .map(|segment| lanes::moments(isa, &x[segment.at..segment.at + run]))
            .fold(Moments::default(), Moments::join)
    }
}

/// Affine parameters, the constant added to the variance, and the activation.
#[derive(Clone, Copy)]
pub(crate) struct Affine<'a> {
    pub(crate) gamma: &'a [f32],
    pub(crate) beta: &'a [f32],
    pub(crate) eps: f64,
    pub(crate) activation: Activation,
}

/// Mean and biased variance of every cell.
pub(crate) fn statistics(isa: Isa, s: &Shape, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let cells = s.cells();
    let (mut mean, mut var) = (vec![0.0; cells], vec![0.0; cells]);
    {
        let (mean, var) = (Output::new(&mut mean), Output::new(&mut var));
        tasks::each(cells, s.len(), |cell| {
            let (centre, spread) = s.moments(isa, x, cell).rounded();
            // SAFETY: each task writes its own cell's elements.
            unsafe {
                mean.write(cell, 1, &[centre]);
                var.write(cell, 1, &[spread]);
            }
        });
    }
    (mean, var)
}

/// The output, with the mean and variance of every cell computed on the way.
pub(crate) fn forward(isa: Isa, s: &Shape, x: &[f32], affine: Affine) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let cells = s.cells();
    let fill = |[y, mean, var]: [&Output<'_>; 3]| {
        if s.shares_rows() {
            return rows(isa, s, x, affine, [y, mean, var]);
        }
        tasks::each(cells, s.len(), |cell| {
            let (centre, spread) = s.moments(isa, x, cell).rounded();
            // SAFETY: each task writes its own cell's elements.
            unsafe {
                mean.write(cell, 1, &[centre]);
                var.write(cell, 1, &[spread]);
            }
            with_activation!(affine.activation, act => apply(isa, s, x, cell, centre, spread, affine, act, y));
        });
    };
    // SAFETY: the cells together are the whole output, and each has its statistics written.
    let [y, mean, var] = unsafe { output::filled_all([s.len(), cells, cells], fill) };
    (y, mean, var)
}

/// The same of rows that share gamma and beta.
fn rows(isa: Isa, s: &Shape, x: &[f32], affine: Affine, [y, mean, var]: [&Output<'_>; 3]) {
    let (blocks, width) = (Blocks::of(s), s.channels);
    tasks::each(blocks.count, s.len(), |block| {
        let rows = blocks.rows(block);
        let elements = rows.start * width..rows.end * width;
        // SAFETY: the rows of blocks do not meet.
        let [y, mean, var] = unsafe { [y.slice(elements.clone()), mean.slice(rows.clone()), var.slice(rows)] };
        let parameters = blocks.affine(block, affine, width);
        with_activation!(affine.activation,
            act => each::normalise_rows(isa, act, affine.eps, parameters, &x[elements], y, mean, var));
    });
}

/// Elements of the rows that one task takes, and most of these rows.
const BLOCK: usize = 1 << 14;
const BLOCK_ROWS: usize = 256;

/// Rows that share gamma and beta, in blocks that tasks take.
struct Blocks {
    count: usize,
    /// Blocks of a set of parameters.
    of_set: usize,
    /// Rows of a block; the last of a set may have fewer.
    rows: usize,
    rows_of_set: usize,
}

impl Blocks {
    fn of(s: &Shape) -> Blocks {
        let rows_of_set = s.images.checked_div(s.sets).unwrap_or(0);
        let rows = (BLOCK / s.channels.max(1)).clamp(1, BLOCK_ROWS);
        let of_set = rows_of_set.div_ceil(rows);
        Blocks { count: s.sets * of_set, of_set, rows, rows_of_set }
    }

    fn rows(&self, block: usize) -> Range<usize> {
        let (set, first) = (block / self.of_set, block % self.of_set * self.rows);
        let row = |row: usize| set * self.rows_of_set + row.min(self.rows_of_set);
        row(first)..row(first + self.rows)
    }

    /// Gamma and beta.
    fn affine<'a>(&self, block: usize, affine: Affine<'a>, width: usize) -> [&'a [f32]; 2] {
        [affine.gamma, affine.beta].map(|values| &values[block / self.of_set * width..][..width])
    }
}

/// The output under given statistics.
pub(crate) fn apply_statistics(isa: Isa, s: &Shape, x: &[f32], mean: &[f32], var: &[f32], affine: Affine) -> Vec<f32> {
    let fill = |y: &Output<'_>| {
        tasks::each(s.cells(), s.len(), |cell| {
            with_activation!(affine.activation, act => apply(isa, s, x, cell, mean[cell], var[cell], affine, act, y));
        });
    };
    // SAFETY: the cells together are the whole output.
    unsafe { output::filled(s.len(), fill) }
}

#[inline(always)]
fn reciprocal_deviation(var: f32, eps: f64) -> f32 {
    (1.0 / (var as f64 + eps).sqrt()) as f32
}

#[allow(clippy::too_many_arguments)]
fn apply<A: Act>(
    isa: Isa,
    s: &Shape,
    x: &[f32],
    cell: usize,
    mean: f32,
    var: f32,
    affine: Affine,
    act: A,
    y: &Output<'_>,
) {
    let (rstd, run) = (reciprocal_deviation(var, affine.eps), s.run());
    for Segment { at, affine: p, .. } in s.segments(cell) {
        let range = at..at + run;
        // SAFETY: a segment belongs to one cell, a cell to one task.
        let y = unsafe { y.slice(range.clone()) };
        let (x, gamma, beta) = (&x[range], &affine.gamma[p..], &affine.beta[p..]);
        if s.each() {
            each::normalise(isa, act, mean, rstd, [&gamma[..run], &beta[..run]], x, y);
        } else {
            lanes::normalise(isa, act, Standard { mean, rstd, gamma: gamma[0], beta: beta[0] }, x, y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::tests::{ALL, exact};

    /// Shape of gamma and beta.
    #[derive(Clone, Copy, Debug)]
    enum Kind {
        Channel,
        Sample,
        Full,
    }

    /// The definition in plain loops over an input of dimensions `[n, a, b]`, where the channels are
    /// `a`, for rows `b`: output, gradients in input, gamma and beta, and per cell mean and variance.
    fn plain(
        scope: Scope,
        [n, a, b]: [usize; 3],
        kind: Kind,
        x: &[f32],
        g: &[f32],
        affine: &Affine,
        given: Option<[&[f32]; 2]>,
    ) -> [Vec<f64>; 6] {
        let cell = |i: usize| {
            let (sample, row, pixel) = (i / (a * b), i / b % a, i % b);
            let cell = match scope {
                Scope::Groups(groups) => sample * groups + row / (a / groups),
                Scope::Batch | Scope::Given => row,
                Scope::Rows => sample * a + row,
            };
            let (channel, channels) = if scope == Scope::Rows { (pixel, b) } else { (row, a) };
            let parameter = match kind {
                Kind::Channel => channel,
                Kind::Sample => sample * channels + channel,
                Kind::Full => i,
            };
            (cell, parameter)
        };
        let cells = (0..x.len()).map(|i| cell(i).0 + 1).max().unwrap_or(0);
        let count = (x.len() / cells) as f64;
        let mean_of = |f: &dyn Fn(usize) -> f64| {
            let mut sums = vec![0.0; cells];
            (0..n * a * b).for_each(|i| sums[cell(i).0] += f(i) / count);
            sums
        };
        let mean = match given {
            Some([mean, _]) => mean.iter().map(|v| f64::from(*v)).collect(),
            None => mean_of(&|i| f64::from(x[i])),
        };
        let var = match given {
            Some([_, var]) => var.iter().map(|v| f64::from(*v)).collect(),
            None => mean_of(&|i| (f64::from(x[i]) - mean[cell(i).0]).powi(2)),
        };
        let rstd: Vec<f64> = var.iter().map(|v| 1.0 / (v + affine.eps).sqrt()).collect();
        let gamma = |i: usize| f64::from(affine.gamma[cell(i).1]);
        let h = |i: usize| (f64::from(x[i]) - mean[cell(i).0]) * rstd[cell(i).0];
        let at: Vec<(f64, f64)> = (0..x.len())
            .map(|i| exact(affine.activation, gamma(i) * h(i) + f64::from(affine.beta[cell(i).1])))
            .collect();
        let t = |i: usize| f64::from(g[i]) * at[i].1;
        let (m1, m2) = (mean_of(&|i| gamma(i) * t(i)), mean_of(&|i| gamma(i) * t(i) * h(i)));
        let mut out = [at.iter().map(|a| a.0).collect(), vec![0.0; x.len()], vec![], vec![], mean.clone(), var];
        out[2] = vec![0.0; affine.gamma.len()];
        out[3] = out[2].clone();
        for i in 0..x.len() {
            let (c, p) = cell(i);
            let through = if given.is_some() { 0.0 } else { m1[c] + h(i) * m2[c] };
            out[1][i] = rstd[c] * (gamma(i) * t(i) - through);
            out[2][p] += t(i) * h(i);
            out[3][p] += t(i);
        }
        out
    }

    fn close(what: &str, got: &[f32], expected: &[f64]) {
        close_beside(what, got, expected, 0.1);
    }

    /// Numbers that come from others of about `size`, or larger.
    fn close_beside(what: &str, got: &[f32], expected: &[f64], size: f64) {
        let scale = expected.iter().fold(size, |m, v| m.max(v.abs()));
        assert_eq!(got.len(), expected.len());
        for (i, (g, e)) in got.iter().zip(expected).enumerate() {
            assert!((*g as f64 - e).abs() <= 4e-6 * scale, "{what}[{i}]: {g} against {e}");
        }
    }

    fn noise(len: usize, salt: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + salt) as f32 * 0.37).sin() * 2.0 + 0.3).collect()
    }

    #[test]
    fn every_instruction_set_matches_the_definition() {
        let sizes = [
            ([2, 6, 35], 3),
            ([3, 4, 1], 1),
            ([1, 8, 1500], 8),
            ([5, 2, 64], 1),
            ([1, 1, 1], 1),
            ([7, 3, 49], 3),
            ([33, 5, 4], 1),
            ([7, 48, 6], 8),
            ([2, 130, 9], 13),
            ([33, 130, 1], 2),
            ([1, 3, 257 * 63], 3),
            ([2, 300, 48], 4),
            ([7, 33, 130], 11),
        ];
        for (dims, groups) in sizes {
            let len = dims.iter().product::<usize>();
            let (x, g) = (noise(len, 1), noise(len, 50));
            for scope in [Scope::Groups(groups), Scope::Batch, Scope::Given, Scope::Rows] {
                let channels = if scope == Scope::Rows { dims[2] } else { dims[1] };
                for kind in [Kind::Channel, Kind::Sample, Kind::Full] {
                    let affine_dims = match kind {
                        Kind::Channel => vec![channels],
                        Kind::Sample => vec![dims[0], channels],
                        Kind::Full => dims.to_vec(),
                    };
                    let parameters = affine_dims.iter().product();
                    let (gamma, beta) = (noise(parameters, 3), noise(parameters, 4));
                    let s = Shape::new(&dims, &affine_dims, scope);
                    let given: [Vec<f32>; 2] =
                        [noise(s.cells(), 5), noise(s.cells(), 6).iter().map(|v| v * v).collect()];
                    let given = [&given[0][..], &given[1]];
                    // All activations where the sizes make a difference, then one.
                    let activations = if len < 1000 { &ALL[..] } else { &ALL[4..5] };
                    for activation in activations {
                        let affine = Affine { gamma: &gamma, beta: &beta, eps: 1e-3, activation: *activation };
                        let given = (scope == Scope::Given).then_some(given);
                        let [y, dx, dgamma, dbeta, mean, var] = plain(scope, dims, kind, &x, &g, &affine, given);
                        for isa in Isa::all() {
                            let what = format!("{isa:?} {dims:?} {scope:?} {kind:?} {activation:?}");
                            let (mean, var) = match given {
                                Some([mean, var]) => (mean.to_vec(), var.to_vec()),
                                None => {
                                    let (got, m, v) = forward(isa, &s, &x, affine);
                                    assert_eq!(got, apply_statistics(isa, &s, &x, &m, &v, affine), "{what}");
                                    assert_eq!((m.clone(), v.clone()), statistics(isa, &s, &x), "{what}");
                                    close(&format!("mean {what}"), &m, &mean);
                                    close(&format!("variance {what}"), &v, &var);
                                    (m, v)
                                }
                            };
                            close(&what, &apply_statistics(isa, &s, &x, &mean, &var, affine), &y);
                            let got = backward(isa, &s, &x, &g, &mean, &var, affine, true);
                            // In a cell of one element, 0 as the difference of two large numbers.
                            let size = if s.cells() == len { affine.eps.powf(-0.5) } else { 0.1 };
                            close_beside(&format!("dx {what}"), &got.input, &dx, size);
                            close(&format!("dgamma {what}"), &got.gamma, &dgamma);
                            close(&format!("dbeta {what}"), &got.beta, &dbeta);
                            let got = backward(isa, &s, &x, &g, &mean, &var, affine, false);
                            close(&format!("dgamma alone {what}"), &got.gamma, &dgamma);
                            close(&format!("dbeta alone {what}"), &got.beta, &dbeta);
                        }
                    }
                }
            }
        }
    }
}
