//! The transforms of Winograd's convolutions, one vector of channels at a time.
//!
//! In one dimension `y = Aᵀ [ (G g) ⊙ (Bᵀ d) ]` gives two neighbouring outputs y from the inputs d they see and the
//! taps g; in two dimensions every matrix is applied to columns and then to rows. The adjoints serve the gradient
//! in the taps, `dg = Gᵀ [ (A dy) ⊙ (Bᵀ d) ]`.

use crate::isa::vectorised;
use std::ops::{Add, Mul, Neg, Sub};

/// Channels that are transformed at once.
pub(super) const LANES: usize = 16;

/// As many numbers as are transformed at once.
#[derive(Clone, Copy)]
pub(super) struct V([f32; LANES]);

impl V {
    const ZERO: V = V([0.0; LANES]);

    #[inline(always)]
    fn load(from: &[f32]) -> V {
        let mut v = [0.0; LANES];
        v.copy_from_slice(&from[..LANES]);
        V(v)
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        to[..LANES].copy_from_slice(&self.0);
    }
}

// Loops, as functions given to `map` would not be compiled for the vectors of their caller.
impl Add for V {
    type Output = V;
    #[inline(always)]
    fn add(mut self, other: V) -> V {
        for l in 0..LANES {
            self.0[l] += other.0[l];
        }
        self
    }
}

impl Sub for V {
    type Output = V;
    #[inline(always)]
    fn sub(mut self, other: V) -> V {
        for l in 0..LANES {
            self.0[l] -= other.0[l];
        }
        self
    }
}

impl Neg for V {
    type Output = V;
    #[inline(always)]
    fn neg(self) -> V {
        V::ZERO - self
    }
}

impl Mul<f32> for V {
    type Output = V;
    #[inline(always)]
    fn mul(mut self, factor: f32) -> V {
        for l in 0..LANES {
            self.0[l] *= factor;
        }
        self
    }
}

/// F(2, r): the matrices in one dimension, as functions. Of an argument or result only the first
/// [`Form::POINTS`] or [`Form::TAPS`] mean something.
pub(super) trait Form: Copy + Send + Sync {
    /// Taps of the kernel, r.
    const TAPS: usize;
    /// Inputs two outputs see, and products they take: r + 1.
    const POINTS: usize;
    /// The same in two dimensions.
    const PLACES: usize = Self::POINTS * Self::POINTS;
    /// Bᵀ.
    fn input(d: [V; 4]) -> [V; 4];
    /// G.
    fn kernel(g: [V; 4]) -> [V; 4];
    /// Aᵀ.
    fn output(m: [V; 4]) -> [V; 4];
    /// A.
    fn output_adjoint(y: [V; 4]) -> [V; 4];
    /// Gᵀ.
    fn kernel_adjoint(m: [V; 4]) -> [V; 4];
}

/// F(2, 2): three products for four.
#[derive(Clone, Copy)]
pub(super) struct Two;

impl Form for Two {
    const TAPS: usize = 2;
    const POINTS: usize = 3;
    #[inline(always)]
    fn input(d: [V; 4]) -> [V; 4] {
        [d[0] - d[1], d[1], d[1] - d[2], V::ZERO]
    }
    #[inline(always)]
    fn kernel(g: [V; 4]) -> [V; 4] {
        [g[0], g[0] + g[1], g[1], V::ZERO]
    }
    #[inline(always)]
    fn output(m: [V; 4]) -> [V; 4] {
        [m[0] + m[1], m[1] - m[2], V::ZERO, V::ZERO]
    }
    #[inline(always)]
    fn output_adjoint(y: [V; 4]) -> [V; 4] {
        [y[0], y[0] + y[1], -y[1], V::ZERO]
    }
    #[inline(always)]
    fn kernel_adjoint(m: [V; 4]) -> [V; 4] {
        [m[0] + m[1], m[1] + m[2], V::ZERO, V::ZERO]
    }
}

/// F(2, 3): four products for six (Lavin and Gray 2016, section 4.1).
#[derive(Clone, Copy)]
pub(super) struct Three;

impl Form for Three {
    const TAPS: usize = 3;
    const POINTS: usize = 4;
    #[inline(always)]
    fn input(d: [V; 4]) -> [V; 4] {
        [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]
    }
    #[inline(always)]
    fn kernel(g: [V; 4]) -> [V; 4] {
        [g[0], (g[0] + g[1] + g[2]) * 0.5, (g[0] - g[1] + g[2]) * 0.5, g[2]]
    }
    #[inline(always)]
    fn output(m: [V; 4]) -> [V; 4] {
        [m[0] + m[1] + m[2], m[1] - m[2] - m[3], V::ZERO, V::ZERO]
    }
    #[inline(always)]
    fn output_adjoint(y: [V; 4]) -> [V; 4] {
        [y[0], y[0] + y[1], y[0] - y[1], -y[1]]
    }
    #[inline(always)]
    fn kernel_adjoint(m: [V; 4]) -> [V; 4] {
        [m[0] + (m[1] + m[2]) * 0.5, (m[1] - m[2]) * 0.5, (m[1] + m[2]) * 0.5 + m[3], V::ZERO]
    }
}

/// `f` along columns, then along rows.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // columns have no iterator
fn both(mut x: [[V; 4]; 4], f: impl Fn([V; 4]) -> [V; 4]) -> [[V; 4]; 4] {
    for j in 0..4 {
        let column = f([x[0][j], x[1][j], x[2][j], x[3][j]]);
        for i in 0..4 {
            x[i][j] = column[i];
        }
    }
    for line in &mut x {
        *line = f(*line);
    }
    x
}

/// Where the squares of a row lie in a buffer: floats from one square to the next, from one pixel of a square to
/// the next, and from one of its lines to the next. Transformed squares have places for pixels and no lines.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub(super) square: usize,
    pub(super) pixel: usize,
    pub(super) line: usize,
}

impl Grid {
    #[inline(always)]
    fn read(self, from: &[f32], side: usize, square: usize, channel: usize) -> [[V; 4]; 4] {
        let mut x = [[V::ZERO; 4]; 4];
        for (i, line) in x.iter_mut().enumerate().take(side) {
            for (j, v) in line.iter_mut().enumerate().take(side) {
                *v = V::load(&from[square * self.square + i * self.line + j * self.pixel + channel..]);
            }
        }
        x
    }

    #[inline(always)]
    fn write(self, x: &[[V; 4]; 4], side: usize, to: &mut [f32], square: usize, channel: usize) {
        for (i, line) in x.iter().enumerate().take(side) {
            for (j, v) in line.iter().enumerate().take(side) {
                v.store(&mut to[square * self.square + i * self.line + j * self.pixel + channel..]);
            }
        }
    }
}

vectorised! {
    /// `Bᵀ d B` of `count` squares of `channels`, a multiple of [`LANES`].
    pub(super) fn inputs[F: Form](form: F, from: &[f32], grid: Grid, to: &mut [f32], places: Grid, count: usize, channels: usize) {
        let _ = form;
        for square in 0..count {
            for c in (0..channels).step_by(LANES) {
                let d = grid.read(from, F::POINTS, square, c);
                places.write(&both(d, F::input), F::POINTS, to, square, c);
            }
        }
    }
}

vectorised! {
    /// `Aᵀ m A` plus `bias`, likewise.
    pub(super) fn outputs[F: Form](form: F, from: &[f32], places: Grid, bias: &[f32], to: &mut [f32], grid: Grid, count: usize, channels: usize) {
        let _ = form;
        for square in 0..count {
            for c in (0..channels).step_by(LANES) {
                let m = places.read(from, F::POINTS, square, c);
                let bias = V::load(&bias[c..]);
                let mut y = both(m, F::output);
                for line in &mut y {
                    for v in line {
                        *v = *v + bias;
                    }
                }
                grid.write(&y, 2, to, square, c);
            }
        }
    }
}

vectorised! {
    /// `A dy Aᵀ`, likewise.
    pub(super) fn output_gradients[F: Form](form: F, from: &[f32], grid: Grid, to: &mut [f32], places: Grid, count: usize, channels: usize) {
        let _ = form;
        for square in 0..count {
            for c in (0..channels).step_by(LANES) {
                let dy = grid.read(from, 2, square, c);
                places.write(&both(dy, F::output_adjoint), F::POINTS, to, square, c);
            }
        }
    }
}

vectorised! {
    /// `G g Gᵀ` of one vector of kernels.
    pub(super) fn kernels[F: Form](form: F, from: &[f32], grid: Grid, to: &mut [f32], places: Grid) {
        let _ = form;
        let g = grid.read(from, F::TAPS, 0, 0);
        places.write(&both(g, F::kernel), F::POINTS, to, 0, 0);
    }
}

vectorised! {
    /// `Gᵀ m G` of one vector of kernels.
    pub(super) fn kernel_gradients[F: Form](form: F, from: &[f32], places: Grid, to: &mut [f32], grid: Grid) {
        let _ = form;
        let m = places.read(from, F::POINTS, 0, 0);
        grid.write(&both(m, F::kernel_adjoint), F::TAPS, to, 0, 0);
    }
}
