//! The gradient in the weights.
//!
//! The adjoint of the formula: `dg = Gᵀ [ Σ (A dy Aᵀ) ⊙ (Bᵀ d B) ] G`, the sum taken over all squares of
//! all images. Both fields are transformed with their channels last, `[place][square][channel]`, so that
//! for one place the sum is a matrix product over squares. Squares are divided among tasks by their
//! number alone and the parts added in order, so a gradient does not depend on scheduling.

use super::{
    geometry::{self, Axis},
    lines::Lines,
    transforms::{self, Form, Grid, LANES},
    with_form,
};
use crate::{
    conv::Shape,
    isa::Isa,
    output::{self, Output},
    pairs,
    product::ZERO,
    tasks,
    tile::{Start, Steps, Tile},
};
use std::ops::Range;

/// Floats of both transformed fields that stay in the second-level cache.
const CACHED: usize = 160 << 10;
/// Squares that are summed over at least, where sums leave that cache between times.
const LONG: usize = 192;

/// The weight gradient `[far, near, kh, kw]`.
pub(in crate::conv) fn weights(isa: Isa, s: &Shape, near: &[f32], far: &[f32]) -> Vec<f32> {
    with_form!(geometry::taps(s).unwrap_or(3), form => Plan::new(isa, form, s).run(s, near, far))
}

struct Plan<F> {
    form: F,
    tile: Tile,
    axes: [Axis; 2],
    /// The near field, in vectors, and the far one, broadcast.
    near: Lines,
    far: Lines,
    /// Views of the near field, and floats of a transformed pixel of them all.
    views: Vec<[usize; 2]>,
    width: usize,
    /// Rows of squares transformed at a time, and steps of a row: squares, or pairs of neighbours.
    rows: usize,
    across: usize,
    block: usize,
}

impl<F: Form> Plan<F> {
    fn new(isa: Isa, form: F, s: &Shape) -> Plan<F> {
        let tile = Tile::new(isa);
        let axes = [Axis::to_far(s, 0), Axis::to_far(s, 1)];
        let [down, right] = &axes;
        let lines = |field: [usize; 3], count: usize, step: usize, columns: usize, before: [usize; 2]| {
            let pitch = field[0].next_multiple_of(LANES);
            Lines { field, pitch, count, step, columns, before, per_image: down.squares }
        };
        let columns = right.step * (right.squares - 1) + right.span;
        let near = lines(s.near, down.span, down.step, columns, [down.before, right.before]);
        let far = lines(s.far, 2, 2, 2 * right.squares, [0, 0]);
        let views: Vec<[usize; 2]> =
            (0..down.views.len()).flat_map(|y| (0..right.views.len()).map(move |x| [y, x])).collect();
        let width = views.len() * near.pitch;
        let across = tile.steps(right.squares);
        let fitting = CACHED / (F::PLACES * (width + far.pitch));
        let most = if F::PLACES * s.far[0] * width > CACHED { fitting.max(LONG) } else { fitting };
        let rows = (most / across).clamp(1, (s.images * down.squares).max(1));
        let block = tile.block(s.far[0]);
        Plan { form, tile, near, far, views, width, rows, across, block, axes }
    }

    fn run(&self, s: &Shape, near: &[f32], far: &[f32]) -> Vec<f32> {
        let all_rows = s.images * self.axes[0].squares;
        let parts = tasks::threads().min(all_rows).max(1);
        let (outputs, inputs) = (s.far[0], s.near[0]);
        let size = F::PLACES * outputs * self.width;
        let fill = |gradient: &Output<'_>| {
            tasks::with_scratch(parts * size, |partials| {
                let shared = Output::new(partials);
                tasks::each(parts, s.work(), |part| {
                    // SAFETY: each part has a range of its own; the buffer is initialised.
                    let sums = unsafe { shared.slice(part * size..(part + 1) * size).assume_init_mut() };
                    self.accumulate(part * all_rows / parts..(part + 1) * all_rows / parts, near, far, sums);
                });
                tasks::each(outputs, size * parts, |o| {
                    let at = o * inputs * s.taps();
                    // SAFETY: each task writes the weights of its own output channel.
                    let to = unsafe { gradient.slice(at..at + inputs * s.taps()) };
                    for view in 0..self.views.len() {
                        for first in (0..inputs).step_by(LANES) {
                            let taps = self.kernel_gradients(partials, o, view * self.near.pitch + first, outputs);
                            for (tap, values) in self.taps_of(view, s.kernel[1]).zip(&taps) {
                                for (c, value) in (first..inputs).zip(values) {
                                    to[c * s.taps() + tap].write(*value);
                                }
                            }
                        }
                    }
                });
            });
        };
        // SAFETY: a task writes every input and tap, tasks have every output.
        unsafe { output::filled(s.weights_len(), fill) }
    }

    /// The kernel's index of each tap of a view.
    fn taps_of(&self, view: usize, kernel_width: usize) -> impl Iterator<Item = usize> {
        let [y, x] = self.views[view];
        let (rows, columns) = (&self.axes[0].views[y].taps, &self.axes[1].views[x].taps);
        rows.iter().flat_map(move |row| columns.iter().map(move |column| row * kernel_width + column))
    }

    /// `Gᵀ m G` of one output and a vector of inputs, m the sum of all parts.
    fn kernel_gradients(&self, partials: &[f32], o: usize, at: usize, outputs: usize) -> [[f32; LANES]; 9] {
        let mut m = [[0.0; LANES]; 16];
        for part in partials.chunks_exact(F::PLACES * outputs * self.width) {
            for (place, total) in m.iter_mut().enumerate().take(F::PLACES) {
                let values = &part[(place * outputs + o) * self.width + at..][..LANES];
                for (total, value) in total.iter_mut().zip(values) {
                    *total += value;
                }
            }
        }
        let mut taps = [[0.0; LANES]; 9];
        let grid = |side: usize| Grid { square: 0, pixel: LANES, line: side * LANES };
        let isa = self.tile.isa();
        let (from, to) = (m.as_flattened(), taps.as_flattened_mut());
        transforms::kernel_gradients(isa, self.form, from, grid(F::POINTS), to, grid(F::TAPS));
        taps
    }

    /// Sums over some rows of squares: `[place][far][view][near]`.
    fn accumulate(&self, rows: Range<usize>, near: &[f32], far: &[f32], sums: &mut [f32]) {
        let most = self.rows * self.across;
        let steps = |steps: usize| Steps::new((0..steps).map(|t| (t * self.far.pitch, t * self.width)));
        let whole = steps(most);
        let (near_len, far_len) = (F::PLACES * most * self.width, F::PLACES * most * self.far.pitch);
        let lines_len = self.near.len() + self.far.len();
        tasks::with_scratch(near_len + far_len + lines_len, |scratch| {
            let (near_squares, scratch) = scratch.split_at_mut(near_len);
            let (far_squares, scratch) = scratch.split_at_mut(far_len);
            let (near_lines, far_lines) = scratch.split_at_mut(self.near.len());
            for first in rows.clone().step_by(self.rows) {
                let some = first..(first + self.rows).min(rows.end);
                for (at, row) in some.clone().enumerate() {
                    self.near.load(self.tile.isa(), near, row, row > rows.start, near_lines);
                    for (view, [y, x]) in self.views.iter().enumerate() {
                        let (y, x) = (self.axes[0].views[*y].offset, self.axes[1].views[*x].offset);
                        let corner = &near_lines[y * self.near.line() + x * self.near.pitch..];
                        let to = &mut near_squares[at * self.across * self.width + view * self.near.pitch..];
                        self.transform(corner, true, to, self.width, most * self.width);
                    }
                    self.far.load(self.tile.isa(), far, row, false, far_lines);
                    let to = &mut far_squares[at * self.across * self.far.pitch..];
                    self.transform(far_lines, false, to, self.far.pitch, most * self.far.pitch);
                }
                let last;
                let steps = if some.len() == self.rows {
                    &whole
                } else {
                    last = steps(some.len() * self.across);
                    &last
                };
                let begins = first == rows.start;
                self.multiply(near_squares, far_squares, steps, most, begins, sums);
            }
        });
    }

    /// Transforms a row of squares of one field: place p of step t to `to[p * place + t * step..]`.
    fn transform(&self, corner: &[f32], is_near: bool, to: &mut [f32], step: usize, place: usize) {
        let (isa, squares) = (self.tile.isa(), self.axes[1].squares);
        let lines = if is_near { &self.near } else { &self.far };
        let spread = |axis: usize| if is_near { self.axes[axis].spread } else { 1 };
        let from = Grid {
            square: if is_near { self.axes[1].step } else { 2 } * lines.pitch,
            pixel: spread(1) * lines.pitch,
            line: spread(0) * lines.line(),
        };
        let transform = |to: &mut [f32], square: usize, place: usize| {
            let grid = Grid { square, pixel: place, line: F::POINTS * place };
            if is_near {
                transforms::inputs(isa, self.form, corner, from, to, grid, squares, lines.pitch);
            } else {
                transforms::output_gradients(isa, self.form, corner, from, to, grid, squares, lines.pitch);
            }
        };
        if !self.tile.takes_pairs() {
            return transform(to, step, place);
        }
        let row_len = squares * lines.pitch;
        tasks::with_scratch(F::PLACES * row_len, |single| {
            transform(single, lines.pitch, row_len);
            for (i, squares) in single.chunks_exact(row_len).enumerate() {
                let to = to[i * place..].chunks_mut(step);
                for (pair, to) in squares.chunks(2 * lines.pitch).zip(to) {
                    let (first, second) = pair.split_at(lines.pitch);
                    pairs::pack(isa, first, second, &mut to[..lines.pitch]);
                }
            }
        });
    }

    fn multiply(&self, near: &[f32], far: &[f32], steps: &Steps, most: usize, begins: bool, sums: &mut [f32]) {
        let (tile, lanes, outputs) = (self.tile, self.tile.lanes(), self.far.field[0]);
        let start = if begins { ZERO } else { Start::Stored };
        for place in 0..F::PLACES {
            let near = &near[place * most * self.width..][..most * self.width];
            let far = &far[place * most * self.far.pitch..][..most * self.far.pitch];
            for lane in (0..self.width).step_by(2 * lanes) {
                let at = [lane, lane + lanes];
                let at = &at[..((self.width - lane) / lanes).min(2)];
                for block in (0..outputs).step_by(self.block) {
                    let height = self.block.min(outputs - block);
                    let sums = &mut sums[(place * outputs + block) * self.width + lane..];
                    tile.run(height, (&far[block..], 1), near, at, steps, start, sums, self.width);
                }
            }
        }
    }
}
