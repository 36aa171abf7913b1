//! The weight gradient of a 3×3 convolution of stride 1 by the same transforms as [`super::winograd`].
//!
//! The adjoint of its formula: `dg = Gᵀ [ Σ (A dy Aᵀ) ⊙ (Bᵀ d B) ] G`, the sum taken over all squares of
//! all images. Both fields are transformed with their channels last, `[16][square][channels]`, so that
//! for one place the sum is a matrix product over squares. Squares are divided among tasks by their
//! number alone and the parts added in order, so a gradient does not depend on scheduling.

use super::{
    Shape, transpose,
    winograd::{PLACES, rows_of_squares},
};
use crate::{
    isa::{Isa, vectorised},
    output::{self, Output},
    pairs::pack,
    tasks,
    tile::{Start, Steps, Tile},
};
use std::ops::Range;

/// Floats of both transformed fields that stay in the second-level cache.
const CACHED: usize = 160 << 10;
/// Channels that are transformed at once.
const LANES: usize = 16;

/// One field with its channels last.
struct Side {
    channels: usize,
    height: usize,
    width: usize,
    /// Floats of a pixel.
    pitch: usize,
    /// Zeros before the first row and column, and pixels a square is wide.
    padding: [usize; 2],
    square: usize,
}

struct Plan {
    tile: Tile,
    /// The input, in vectors, and the gradient of the output, broadcast.
    near: Side,
    far: Side,
    squares: [usize; 2],
    /// Rows of squares transformed at a time.
    rows: usize,
    block: usize,
}

/// The weight gradient `[far, near, 3, 3]`.
pub(super) fn weights(isa: Isa, s: &Shape, near: &[f32], far: &[f32]) -> Vec<f32> {
    let plan = Plan::new(Tile::new(isa), s);
    let all_rows = s.images * plan.squares[0];
    let parts = tasks::threads().min(all_rows).max(1);
    let size = PLACES * plan.far.channels * plan.near.pitch;
    let fill = |gradient: &Output<'_>| {
        tasks::with_scratch(parts * size, |partials| {
            let shared = Output::new(partials);
            tasks::each(parts, s.work(), |part| {
                // SAFETY: each part has a range of its own; the buffer is initialised.
                let sums = unsafe { shared.slice(part * size..(part + 1) * size).assume_init_mut() };
                sums.fill(0.0);
                plan.accumulate(part * all_rows / parts..(part + 1) * all_rows / parts, near, far, sums);
            });
            tasks::each(plan.far.channels, size * parts, |o| {
                for c in 0..plan.near.channels {
                    let place = |p: usize| (p * plan.far.channels + o) * plan.near.pitch + c;
                    let total = |p: usize| (0..parts).map(|part| partials[part * size + place(p)]).sum::<f32>();
                    let taps = kernel_gradient(&std::array::from_fn(total));
                    // SAFETY: each task writes the weights of its own output channel.
                    unsafe { gradient.write((o * plan.near.channels + c) * 9, 1, &taps) };
                }
            });
        });
    };
    // SAFETY: every pair of channels is written.
    unsafe { output::filled(s.weights_len(), fill) }
}

impl Plan {
    fn new(tile: Tile, s: &Shape) -> Plan {
        let side = |[channels, height, width]: [usize; 3], padding, square| {
            let pitch = channels.next_multiple_of(tile.lanes().max(LANES));
            Side { channels, height, width, pitch, padding, square }
        };
        let (near, far) = (side(s.near, s.options.padding, 4), side(s.far, [0, 0], 2));
        let squares = [s.far[1].div_ceil(2), s.far[2].div_ceil(2)];
        // Squares are steps of the product here, not lanes: none is lost to rounding.
        let (rows, _) = rows_of_squares(tile.steps(squares[1]), CACHED / (PLACES * (near.pitch + far.pitch)), 1);
        Plan { tile, squares, rows, block: tile.block(far.channels), near, far }
    }

    /// Adds the squares of some rows to `sums`, `[place][far][near]`.
    fn accumulate(&self, rows: Range<usize>, near: &[f32], far: &[f32], sums: &mut [f32]) {
        let across = self.tile.steps(self.squares[1]);
        let most = self.rows * across;
        let steps = |squares: usize| Steps::new((0..squares).map(|t| (t * self.far.pitch, t * self.near.pitch)));
        let whole = steps(most);
        let (near_len, far_len) = (PLACES * most * self.near.pitch, PLACES * most * self.far.pitch);
        tasks::with_scratch(near_len + far_len, |scratch| {
            let (near_squares, far_squares) = scratch.split_at_mut(near_len);
            for first in rows.clone().step_by(self.rows) {
                let some = first..(first + self.rows).min(rows.end);
                let squares = some.len() * across;
                self.load(&self.near, near, some.clone(), near_squares, most);
                self.load(&self.far, far, some, far_squares, most);
                let last;
                let steps = if squares == most {
                    &whole
                } else {
                    last = steps(squares);
                    &last
                };
                self.multiply(near_squares, far_squares, steps, most, sums);
            }
        });
    }

    /// Transforms the squares of some rows of a field: `[place][step][channel]`, `most` steps a place. A step is a
    /// square, or a pair of neighbours in a row.
    fn load(&self, side: &Side, from: &[f32], rows: Range<usize>, to: &mut [f32], most: usize) {
        let (isa, across) = (self.tile.isa(), self.squares[1]);
        let columns = 2 * across + side.square - 2;
        let (lines_len, stride) = (side.square * columns * side.pitch, most * side.pitch);
        let row_len = across * side.pitch;
        if !self.tile.takes_pairs() {
            tasks::with_scratch(lines_len, |lines| {
                for (at, row) in rows.enumerate() {
                    self.load_row(side, from, row, lines, &mut to[at * row_len..], stride);
                }
            });
            return;
        }
        tasks::with_scratch(lines_len + PLACES * row_len, |scratch| {
            let (lines, squares) = scratch.split_at_mut(lines_len);
            for (at, row) in rows.enumerate() {
                self.load_row(side, from, row, lines, squares, row_len);
                for (place, squares) in squares.chunks_exact(row_len).enumerate() {
                    let to = &mut to[place * stride + at * across.div_ceil(2) * side.pitch..];
                    let pairs = squares.chunks(2 * side.pitch).zip(to.chunks_exact_mut(side.pitch));
                    for (pair, to) in pairs {
                        let (first, second) = pair.split_at(side.pitch);
                        pack(isa, first, second, to);
                    }
                }
            }
        });
    }

    /// Transforms a row of squares: place p of square x to `to[p * stride + x * pitch..]`.
    fn load_row(&self, side: &Side, from: &[f32], row: usize, lines: &mut [f32], to: &mut [f32], stride: usize) {
        let [per_image, across] = self.squares;
        let columns = 2 * across + side.square - 2;
        let (image, y) = (row / per_image, row % per_image * 2);
        for i in 0..side.square {
            let line = &mut lines[i * columns * side.pitch..][..columns * side.pitch];
            line.fill(0.0);
            if let Some(y) = (y + i).checked_sub(side.padding[0]).filter(|y| *y < side.height) {
                let plane = side.height * side.width;
                let from = &from[image * side.channels * plane + y * side.width..];
                // What does not fit is not looked at by any square.
                let count = side.width.min(columns - side.padding[1]);
                let line = &mut line[side.padding[1] * side.pitch..];
                transpose::channels_last(self.tile.isa(), from, plane, side.channels, count, line, side.pitch);
            }
        }
        for x in 0..across {
            let corner = &lines[2 * x * side.pitch..];
            let (to, line) = (&mut to[x * side.pitch..], columns * side.pitch);
            match side.square {
                4 => transform_near(self.tile.isa(), corner, side.pitch, line, to, stride),
                _ => transform_far(self.tile.isa(), corner, side.pitch, line, to, stride),
            }
        }
    }

    fn multiply(&self, near: &[f32], far: &[f32], steps: &Steps, most: usize, sums: &mut [f32]) {
        let (tile, lanes) = (self.tile, self.tile.lanes());
        let outputs = self.far.channels;
        for place in 0..PLACES {
            let near = &near[place * most * self.near.pitch..][..most * self.near.pitch];
            let far = &far[place * most * self.far.pitch..][..most * self.far.pitch];
            for block in (0..outputs).step_by(self.block) {
                let height = self.block.min(outputs - block);
                for lane in (0..self.near.pitch).step_by(2 * lanes) {
                    let at = [lane, lane + lanes];
                    let at = &at[..((self.near.pitch - lane) / lanes).min(2)];
                    let sums = &mut sums[(place * outputs + block) * self.near.pitch + lane..];
                    tile.run(height, &far[block..], near, at, steps, Start::Stored, sums, self.near.pitch);
                }
            }
        }
    }
}

/// `Gᵀ m G`.
fn kernel_gradient(m: &[f32; PLACES]) -> [f32; 9] {
    let fold = |a: f32, b: f32, c: f32, d: f32| [a + 0.5 * (b + c), 0.5 * (b - c), 0.5 * (b + c) + d];
    let columns: [[f32; 3]; 4] = std::array::from_fn(|j| fold(m[j], m[4 + j], m[8 + j], m[12 + j]));
    let mut taps = [0.0; 9];
    for i in 0..3 {
        let row = fold(columns[0][i], columns[1][i], columns[2][i], columns[3][i]);
        taps[3 * i..3 * i + 3].copy_from_slice(&row);
    }
    taps
}

vectorised! {
    /// `Bᵀ d B` of a 4×4 square of pixels of `pitch` channels, lines `line` floats apart: place p to
    /// `to[p * stride..]`.
    fn transform_near(from: &[f32], pitch: usize, line: usize, to: &mut [f32], stride: usize) {
        for c in (0..pitch).step_by(LANES) {
            let mut d = [[0.0f32; LANES]; PLACES];
            for (p, values) in d.iter_mut().enumerate() {
                values.copy_from_slice(&from[p / 4 * line + p % 4 * pitch + c..][..LANES]);
            }
            let mut rows = [[0.0f32; LANES]; PLACES];
            for j in 0..4 {
                for l in 0..LANES {
                    rows[j][l] = d[j][l] - d[8 + j][l];
                    rows[4 + j][l] = d[4 + j][l] + d[8 + j][l];
                    rows[8 + j][l] = d[8 + j][l] - d[4 + j][l];
                    rows[12 + j][l] = d[4 + j][l] - d[12 + j][l];
                }
            }
            for i in 0..4 {
                let mut out = [[0.0f32; LANES]; 4];
                for l in 0..LANES {
                    out[0][l] = rows[4 * i][l] - rows[4 * i + 2][l];
                    out[1][l] = rows[4 * i + 1][l] + rows[4 * i + 2][l];
                    out[2][l] = rows[4 * i + 2][l] - rows[4 * i + 1][l];
                    out[3][l] = rows[4 * i + 1][l] - rows[4 * i + 3][l];
                }
                for (j, values) in out.iter().enumerate() {
                    to[(4 * i + j) * stride + c..][..LANES].copy_from_slice(values);
                }
            }
        }
    }
}

vectorised! {
    /// `A dy Aᵀ` of a 2×2 square, likewise.
    fn transform_far(from: &[f32], pitch: usize, line: usize, to: &mut [f32], stride: usize) {
        for c in (0..pitch).step_by(LANES) {
            let mut d = [[0.0f32; LANES]; 4];
            for (p, values) in d.iter_mut().enumerate() {
                values.copy_from_slice(&from[p / 2 * line + p % 2 * pitch + c..][..LANES]);
            }
            let mut rows = [[0.0f32; LANES]; 8];
            for j in 0..2 {
                for l in 0..LANES {
                    rows[j][l] = d[j][l];
                    rows[2 + j][l] = d[j][l] + d[2 + j][l];
                    rows[4 + j][l] = d[j][l] - d[2 + j][l];
                    rows[6 + j][l] = -d[2 + j][l];
                }
            }
            for i in 0..4 {
                let mut out = [[0.0f32; LANES]; 4];
                for l in 0..LANES {
                    out[0][l] = rows[2 * i][l];
                    out[1][l] = rows[2 * i][l] + rows[2 * i + 1][l];
                    out[2][l] = rows[2 * i][l] - rows[2 * i + 1][l];
                    out[3][l] = -rows[2 * i + 1][l];
                }
                for (j, values) in out.iter().enumerate() {
                    to[(4 * i + j) * stride + c..][..LANES].copy_from_slice(values);
                }
            }
        }
    }
}
