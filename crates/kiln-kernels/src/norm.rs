//! Group and batch normalisation with affine step and activation, forward and backward.
//!
//! Both normalise *cells*: sets of channel planes sharing a mean and a variance, namely some
//! neighbouring channels of one image (Wu and He 2018) or one channel over the batch (Ioffe and
//! Szegedy 2015). A cell is one task and mostly stays in cache between its passes. With
//! `h = (x - mean) / sqrt(var + eps)` and `y = a(gamma h + beta)`, the gradient in `x` is
//! `(gamma t - mean(gamma t) - h mean(gamma t h)) / sqrt(var + eps)`, `t = dy a'`, means over the cell.

use crate::{
    Activation,
    activation::with_activation,
    isa::Isa,
    lanes::{self, Act, Moments, Standard},
    output::{self, Output},
    tasks,
};

/// What shares statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The given number of groups of channels, per image.
    Groups(usize),
    /// Each channel over the batch.
    Batch,
}

/// Sizes of a normalisation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) images: usize,
    pub(crate) channels: usize,
    /// Height times width.
    pub(crate) plane: usize,
    pub(crate) scope: Scope,
}

impl Shape {
    /// Number of cells.
    pub(crate) fn cells(&self) -> usize {
        match self.scope {
            Scope::Groups(groups) => self.images * groups,
            Scope::Batch => self.channels,
        }
    }

    fn len(&self) -> usize {
        self.images * self.channels * self.plane
    }

    /// `(channel, first element)` of each plane of a cell.
    fn planes(&self, cell: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (first, step, count) = match self.scope {
            Scope::Groups(groups) => {
                let size = self.channels / groups;
                (cell * size, 1, size)
            }
            Scope::Batch => (cell, self.channels, self.images),
        };
        let (channels, plane) = (self.channels, self.plane);
        (0..count).map(move |i| {
            let index = first + i * step;
            (index % channels, index * plane)
        })
    }

    fn moments(&self, isa: Isa, x: &[f32], cell: usize) -> Moments {
        self.planes(cell)
            .map(|(_, at)| lanes::moments(isa, &x[at..at + self.plane]))
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
            let m = s.moments(isa, x, cell);
            // SAFETY: each task writes its own cell's elements.
            unsafe {
                mean.write(cell, 1, &[m.mean as f32]);
                var.write(cell, 1, &[(m.squares / m.count) as f32]);
            }
        });
    }
    (mean, var)
}

/// The output, with the mean and variance of every cell computed on the way.
pub(crate) fn forward(isa: Isa, s: &Shape, x: &[f32], affine: Affine) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let cells = s.cells();
    let (mut mean, mut var) = (vec![0.0; cells], vec![0.0; cells]);
    let y = {
        let (mean, var) = (Output::new(&mut mean), Output::new(&mut var));
        let fill = |y: &Output<'_>| {
            tasks::each(cells, s.len(), |cell| {
                let m = s.moments(isa, x, cell);
                let (centre, spread) = (m.mean as f32, (m.squares / m.count) as f32);
                // SAFETY: each task writes its own cell's elements.
                unsafe {
                    mean.write(cell, 1, &[centre]);
                    var.write(cell, 1, &[spread]);
                }
                with_activation!(affine.activation, act => apply(isa, s, x, cell, centre, spread, affine, act, y));
            });
        };
        // SAFETY: the cells' planes together are the whole output.
        unsafe { output::filled(s.len(), fill) }
    };
    (y, mean, var)
}

/// The output under given statistics.
pub(crate) fn apply_statistics(isa: Isa, s: &Shape, x: &[f32], mean: &[f32], var: &[f32], affine: Affine) -> Vec<f32> {
    let fill = |y: &Output<'_>| {
        tasks::each(s.cells(), s.len(), |cell| {
            with_activation!(affine.activation, act => apply(isa, s, x, cell, mean[cell], var[cell], affine, act, y));
        });
    };
    // SAFETY: the cells' planes together are the whole output.
    unsafe { output::filled(s.len(), fill) }
}

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
    let rstd = reciprocal_deviation(var, affine.eps);
    for (c, at) in s.planes(cell) {
        let range = at..at + s.plane;
        // SAFETY: a plane belongs to one cell, a cell to one task.
        let y = unsafe { y.slice(range.clone()) };
        let standard = Standard { mean, rstd, gamma: affine.gamma[c], beta: affine.beta[c] };
        lanes::normalise(isa, act, standard, &x[range], y);
    }
}

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
    let planes = s.images * s.channels;
    let mut sums = vec![0.0f32; 2 * planes];
    let input = {
        let sums = Output::new(&mut sums);
        let fill = |dx: &Output<'_>| {
            tasks::each(s.cells(), s.len(), |cell| {
                let (mean, rstd) = (mean[cell], reciprocal_deviation(var[cell], affine.eps));
                let (mut m1, mut m2) = (0.0, 0.0);
                for (c, at) in s.planes(cell) {
                    let range = at..at + s.plane;
                    // SAFETY: a plane belongs to one cell, a cell to one task.
                    let t = unsafe { dx.slice(range.clone()) };
                    let (x, g) = (&x[range.clone()], &g[range]);
                    let gamma = affine.gamma[c];
                    let standard = Standard { mean, rstd, gamma, beta: affine.beta[c] };
                    let (s1, s2) = with_activation!(affine.activation,
                        act => lanes::unactivate(isa, act, standard, x, g, t));
                    // SAFETY: as above, for the plane's two sums.
                    unsafe { sums.write(2 * (at / s.plane), 1, &[s1 as f32, s2 as f32]) };
                    m1 += s1 * gamma as f64;
                    m2 += s2 * gamma as f64;
                }
                if !wants_input {
                    return;
                }
                let count = (s.len() / s.cells()) as f64;
                let (offset, pull) =
                    ((m1 / count * rstd as f64) as f32, (m2 / count * rstd as f64 * rstd as f64) as f32);
                for (c, at) in s.planes(cell) {
                    let range = at..at + s.plane;
                    // SAFETY: as above; the loop before wrote every element of the plane.
                    let t = unsafe { dx.slice(range.clone()).assume_init_mut() };
                    lanes::through_statistics(isa, &x[range], t, mean, rstd * affine.gamma[c], offset, pull);
                }
            });
        };
        // SAFETY: the cells' planes together are the whole gradient.
        unsafe { output::filled(s.len(), fill) }
    };
    let total = |which: usize| {
        (0..s.channels)
            .map(|c| {
                let planes = (0..s.images).map(|n| sums[2 * (n * s.channels + c) + which] as f64);
                planes.sum::<f64>() as f32
            })
            .collect()
    };
    Gradients { input, gamma: total(1), beta: total(0) }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `(a(z), a'(z))`.
    fn activation(a: Activation, z: f64) -> (f64, f64) {
        let s = 1.0 / (1.0 + (-z).exp());
        match a {
            Activation::None => (z, 1.0),
            Activation::Relu => (z.max(0.0), if z > 0.0 { 1.0 } else { 0.0 }),
            Activation::LeakyRelu(k) => (if z > 0.0 { z } else { k as f64 * z }, if z > 0.0 { 1.0 } else { k as f64 }),
            Activation::Silu => (z * s, s * (1.0 + z * (1.0 - s))),
        }
    }

    /// The definition in plain loops: output, and gradients in input, gamma and beta.
    fn plain(s: &Shape, x: &[f32], g: &[f32], affine: &Affine) -> [Vec<f64>; 4] {
        let mut out = [vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; s.channels], vec![0.0; s.channels]];
        for cell in 0..s.cells() {
            let places: Vec<(usize, usize)> =
                s.planes(cell).flat_map(|(c, at)| (at..at + s.plane).map(move |i| (c, i))).collect();
            let mean_of = |f: &dyn Fn(usize, usize) -> f64| {
                places.iter().map(|(c, i)| f(*c, *i)).sum::<f64>() / places.len() as f64
            };
            let mean = mean_of(&|_, i| x[i] as f64);
            let var = mean_of(&|_, i| (x[i] as f64 - mean).powi(2));
            let rstd = 1.0 / (var + affine.eps).sqrt();
            let h = |i: usize| (x[i] as f64 - mean) * rstd;
            let z = |c: usize, i: usize| affine.gamma[c] as f64 * h(i) + affine.beta[c] as f64;
            let t = |c: usize, i: usize| g[i] as f64 * activation(affine.activation, z(c, i)).1;
            let m1 = mean_of(&|c, i| affine.gamma[c] as f64 * t(c, i));
            let m2 = mean_of(&|c, i| affine.gamma[c] as f64 * t(c, i) * h(i));
            for &(c, i) in &places {
                out[0][i] = activation(affine.activation, z(c, i)).0;
                out[1][i] = rstd * (affine.gamma[c] as f64 * t(c, i) - m1 - h(i) * m2);
                out[2][c] += t(c, i) * h(i);
                out[3][c] += t(c, i);
            }
        }
        out
    }

    fn close(what: &str, got: &[f32], expected: &[f64]) {
        let scale = expected.iter().fold(0.1f64, |m, v| m.max(v.abs()));
        assert_eq!(got.len(), expected.len());
        for (i, (g, e)) in got.iter().zip(expected).enumerate() {
            assert!((*g as f64 - e).abs() <= 4e-6 * scale, "{what}[{i}]: {g} against {e}");
        }
    }

    #[test]
    fn every_instruction_set_matches_the_definition() {
        let noise = |len: usize, salt: usize| -> Vec<f32> {
            (0..len).map(|i| ((i * 7919 + salt) as f32 * 0.37).sin() * 2.0 + 0.3).collect()
        };
        for (images, channels, plane, groups) in [(2, 6, 35, 3), (3, 4, 1, 1), (1, 8, 1500, 8), (5, 2, 64, 1)] {
            let len = images * channels * plane;
            let (x, g) = (noise(len, 1), noise(len, 50));
            let (gamma, beta) = (noise(channels, 3), noise(channels, 4));
            for scope in [Scope::Groups(groups), Scope::Batch] {
                let s = Shape { images, channels, plane, scope };
                for a in [Activation::None, Activation::Relu, Activation::LeakyRelu(0.2), Activation::Silu] {
                    let affine = Affine { gamma: &gamma, beta: &beta, eps: 1e-3, activation: a };
                    let [y, dx, dgamma, dbeta] = plain(&s, &x, &g, &affine);
                    for isa in Isa::all() {
                        let what = format!("{isa:?} {s:?} {a:?}");
                        let (got, mean, var) = forward(isa, &s, &x, affine);
                        close(&what, &got, &y);
                        assert_eq!((mean.clone(), var.clone()), statistics(isa, &s, &x));
                        assert_eq!(got, apply_statistics(isa, &s, &x, &mean, &var, affine));
                        let got = backward(isa, &s, &x, &g, &mean, &var, affine, true);
                        close(&format!("dx {what}"), &got.input, &dx);
                        close(&format!("dgamma {what}"), &got.gamma, &dgamma);
                        close(&format!("dbeta {what}"), &got.beta, &dbeta);
                    }
                }
            }
        }
    }
}
