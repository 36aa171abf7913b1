//! One field from the other and the kernels.
//!
//! A task takes some rows of squares, transforms what they see into its scratch memory, `[place][square][input]`, and
//! for a panel of output channels at a time multiplies and transforms back. Every output is summed in one order,
//! whatever runs where.

use super::{
    geometry::{self, Axis},
    lines::Lines,
    rows_of_squares,
    transforms::{self, Form, Grid, LANES},
    with_form,
};
use crate::{
    conv::{Shape, transpose},
    isa::Isa,
    output::{self, Output},
    pairs,
    product::ZERO,
    tasks,
    tile::{Steps, Tile},
};
use std::ops::Range;

/// Floats of scratch memory that stay in the second-level cache.
const CACHED: usize = 192 << 10;

/// `conv2d`.
pub(in crate::conv) fn to_far(isa: Isa, s: &Shape, near: &[f32], weights: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let axes = [Axis::to_far(s, 0), Axis::to_far(s, 1)];
    let kernels = Kernels { weights, width: s.kernel[1], output: s.near[0] * s.taps(), input: s.taps() };
    with_form!(geometry::taps(s).unwrap_or(3), form => {
        Plan::new(isa, form, s.images, s.near, s.far, axes, true).run(near, kernels, bias)
    })
}

/// Its transpose.
pub(in crate::conv) fn to_near(isa: Isa, s: &Shape, far: &[f32], weights: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let axes = [Axis::to_near(s, 0), Axis::to_near(s, 1)];
    let kernels = Kernels { weights, width: s.kernel[1], output: s.taps(), input: s.near[0] * s.taps() };
    with_form!(geometry::taps(s).unwrap_or(3), form => {
        Plan::new(isa, form, s.images, s.far, s.near, axes, false).run(far, kernels, bias)
    })
}

/// Where the kernel of a pair of channels is.
#[derive(Clone, Copy)]
struct Kernels<'a> {
    weights: &'a [f32],
    /// Taps of a kernel's row.
    width: usize,
    /// Distance between output and between input channels.
    output: usize,
    input: usize,
}

/// How squares are cut into tasks.
struct Plan<F> {
    form: F,
    tile: Tile,
    images: usize,
    /// Channels, height and width of what is written.
    target: [usize; 3],
    axes: [Axis; 2],
    inputs: usize,
    lines: Lines,
    /// Pairs of views, vertical and horizontal; all are inputs of one class of targets, or each has a class of its own.
    views: Vec<[usize; 2]>,
    joined: bool,
    /// Rows of squares of a task, and squares in them.
    rows: usize,
    squares: usize,
    /// Floats of a transformed pixel of one view, and of all views of a class.
    view: usize,
    depth: usize,
    /// Output channels multiplied at a time.
    panel: usize,
}

impl<F: Form> Plan<F> {
    fn new(
        isa: Isa,
        form: F,
        images: usize,
        source: [usize; 3],
        target: [usize; 3],
        axes: [Axis; 2],
        joined: bool,
    ) -> Plan<F> {
        let tile = Tile::new(isa);
        let [down, across] = [axes[0].squares, axes[1].squares];
        let pitch = source[0].next_multiple_of(LANES);
        let view = if tile.takes_pairs() { pitch / 2 } else { pitch };
        let views: Vec<[usize; 2]> =
            (0..axes[0].views.len()).flat_map(|y| (0..axes[1].views.len()).map(move |x| [y, x])).collect();
        let panel = (2 * tile.lanes()).max(LANES);
        // Transformed input, sums and outputs of a square.
        let outputs = 4 * axes[0].target_spread * axes[1].target_spread;
        let floats = F::PLACES * (views.len() * view + panel) + outputs * panel;
        // No more than every thread can have some of.
        let share = (images * down).div_ceil(2 * tasks::threads()).max(1);
        let rows = rows_of_squares(across, CACHED / floats, tile.rows()).min(share);
        let lines = Lines {
            field: source,
            pitch,
            count: axes[0].span,
            step: axes[0].step,
            columns: axes[1].step * (across - 1) + axes[1].span,
            before: [axes[0].before, axes[1].before],
            per_image: down,
        };
        Plan {
            form,
            tile,
            images,
            target,
            inputs: source[0],
            lines,
            joined,
            rows,
            squares: rows * across,
            view,
            depth: if joined { views.len() * view } else { view },
            panel,
            views,
            axes,
        }
    }

    /// Steps of a sum over the inputs of one view.
    fn inputs_steps(&self) -> usize {
        self.tile.steps(self.inputs)
    }

    /// Steps of a sum over all inputs of a class.
    fn steps(&self) -> usize {
        if self.joined { self.views.len() * self.inputs_steps() } else { self.inputs_steps() }
    }

    fn classes(&self) -> usize {
        if self.joined { 1 } else { self.views.len() }
    }

    /// Pixels of an output row of squares, and its lines.
    fn target_columns(&self) -> usize {
        2 * self.axes[1].target_spread * self.axes[1].squares
    }

    fn target_lines(&self) -> usize {
        2 * self.axes[0].target_spread
    }

    fn run(&self, source: &[f32], kernels: Kernels, bias: Option<&[f32]>) -> Vec<f32> {
        let kernels = self.transformed_kernels(kernels);
        let all_rows = self.images * self.axes[0].squares;
        let [outputs, height, width] = self.target;
        let len = self.images * outputs * height * width;
        let per_view = self.inputs_steps();
        let steps = Steps::new((0..self.steps()).map(|k| (k / per_view * self.view + k % per_view, k * self.panel)));
        let mut padded = vec![0.0; outputs.next_multiple_of(self.panel)];
        if let Some(bias) = bias {
            padded[..outputs].copy_from_slice(bias);
        }
        let left_len = self.classes() * F::PLACES * self.squares * self.depth;
        let sums_len = F::PLACES * self.squares * self.panel;
        let pixels_len = self.rows * self.target_lines() * self.target_columns() * self.panel;
        let fill = |out: &Output<'_>| {
            tasks::each(all_rows.div_ceil(self.rows), len * self.inputs, |task| {
                let rows = task * self.rows..((task + 1) * self.rows).min(all_rows);
                tasks::with_scratch(left_len + sums_len + pixels_len, |scratch| {
                    let (left, scratch) = scratch.split_at_mut(left_len);
                    let (sums, pixels) = scratch.split_at_mut(sums_len);
                    self.transform_inputs(source, rows.clone(), left);
                    for (panel, bias) in padded.chunks_exact(self.panel).enumerate() {
                        for class in 0..self.classes() {
                            let left = &left[class * F::PLACES * self.squares * self.depth..];
                            let kernels = &kernels[self.kernels_at(class, panel)..];
                            self.multiply(left, kernels, &steps, rows.len() * self.axes[1].squares, sums);
                            self.transform_outputs(class, sums, bias, rows.len(), pixels);
                        }
                        self.store(panel, pixels, rows.clone(), out);
                    }
                });
            });
        };
        // SAFETY: tasks divide the rows of squares, which together are all output pixels, and each
        // writes all channels of its rows.
        unsafe { output::filled(len, fill) }
    }

    /// Where the kernels of a class and panel start.
    fn kernels_at(&self, class: usize, panel: usize) -> usize {
        let panels = self.target[0].div_ceil(self.panel);
        (class * panels + panel) * F::PLACES * self.steps() * self.panel
    }

    /// `G g Gᵀ` of every pair of channels: `[class][panel][place][step][output of the panel]`.
    fn transformed_kernels(&self, kernels: Kernels) -> Vec<f32> {
        let panels = self.target[0].div_ceil(self.panel);
        let size = F::PLACES * self.steps() * self.panel;
        let fill = |out: &Output<'_>| {
            tasks::each(self.classes() * panels, self.classes() * panels * size, |task| {
                let (class, panel) = (task / panels, task % panels);
                let at = self.kernels_at(class, panel);
                // SAFETY: each task has its own part of the buffer.
                let to = unsafe { out.slice(at..at + size) };
                for step in 0..self.steps() {
                    let view = if self.joined { step / self.inputs_steps() } else { class };
                    let input = step % self.inputs_steps();
                    for lane in (0..self.panel).step_by(LANES) {
                        let first = panel * self.panel + lane;
                        let transformed = |input: usize| self.transformed_kernel(kernels, view, input, first);
                        let mut vectors = [[0.0; LANES]; 16];
                        if self.tile.takes_pairs() {
                            let (a, b) = (transformed(2 * input), transformed(2 * input + 1));
                            for ((to, a), b) in vectors.iter_mut().zip(&a).zip(&b) {
                                pairs::pack(self.tile.isa(), a, b, to);
                            }
                        } else {
                            vectors = transformed(input);
                        }
                        for (place, vector) in vectors.iter().enumerate().take(F::PLACES) {
                            let at = (place * self.steps() + step) * self.panel + lane;
                            to[at..at + LANES].write_copy_of_slice(vector);
                        }
                    }
                }
            });
        };
        // SAFETY: a task writes all of its part, tasks have all parts.
        unsafe { output::filled(self.classes() * panels * size, fill) }
    }

    /// The kernels from one input channel to a vector of outputs, 0 where there are none.
    fn transformed_kernel(&self, kernels: Kernels, view: usize, input: usize, first: usize) -> [[f32; LANES]; 16] {
        let mut g = [[0.0; LANES]; 9];
        let mut to = [[0.0; LANES]; 16];
        if input >= self.inputs {
            return to;
        }
        let [y, x] = self.views[view];
        let (rows, columns) = (&self.axes[0].views[y].taps, &self.axes[1].views[x].taps);
        for (l, output) in (first..self.target[0]).take(LANES).enumerate() {
            let from = &kernels.weights[output * kernels.output + input * kernels.input..];
            for (i, row) in rows.iter().enumerate() {
                for (j, column) in columns.iter().enumerate() {
                    g[i * F::TAPS + j][l] = from[row * kernels.width + column];
                }
            }
        }
        let grid = |side: usize| Grid { square: 0, pixel: LANES, line: side * LANES };
        let isa = self.tile.isa();
        transforms::kernels(isa, self.form, g.as_flattened(), grid(F::TAPS), to.as_flattened_mut(), grid(F::POINTS));
        to
    }

    /// `Bᵀ d B` of the squares of some rows, `[class][place][square][view of the class][input]`.
    fn transform_inputs(&self, source: &[f32], rows: Range<usize>, left: &mut [f32]) {
        let (lines, isa, across) = (&self.lines, self.tile.isa(), self.axes[1].squares);
        let place = self.squares * self.depth;
        let pairs_len = if self.tile.takes_pairs() { F::PLACES * across * lines.pitch } else { 0 };
        let from = Grid {
            square: self.axes[1].step * lines.pitch,
            pixel: self.axes[1].spread * lines.pitch,
            line: self.axes[0].spread * lines.line(),
        };
        tasks::with_scratch(lines.len() + pairs_len, |scratch| {
            let (buffer, single) = scratch.split_at_mut(lines.len());
            for (at, row) in rows.enumerate() {
                lines.load(isa, source, row, at > 0, buffer);
                for (view, [y, x]) in self.views.iter().enumerate() {
                    let (y, x) = (self.axes[0].views[*y].offset, self.axes[1].views[*x].offset);
                    let corner = &buffer[y * lines.line() + x * lines.pitch..];
                    let (class, offset) = if self.joined { (0, view * self.view) } else { (view, 0) };
                    let to = &mut left[class * F::PLACES * place + at * across * self.depth + offset..];
                    if !self.tile.takes_pairs() {
                        let grid = Grid { square: self.depth, pixel: place, line: F::POINTS * place };
                        transforms::inputs(isa, self.form, corner, from, to, grid, across, lines.pitch);
                        continue;
                    }
                    let row_len = across * lines.pitch;
                    let grid = Grid { square: lines.pitch, pixel: row_len, line: F::POINTS * row_len };
                    transforms::inputs(isa, self.form, corner, from, single, grid, across, lines.pitch);
                    for (i, pixels) in single.chunks_exact(row_len).enumerate() {
                        let pixels = pixels.chunks_exact(lines.pitch);
                        for (pixel, to) in pixels.zip(to[i * place..].chunks_mut(self.depth)) {
                            pairs::pack_neighbours(isa, pixel, &mut to[..self.view]);
                        }
                    }
                }
            }
        });
    }

    /// The products of all places for a panel of outputs: `[place][square][output]`.
    fn multiply(&self, left: &[f32], kernels: &[f32], steps: &Steps, squares: usize, sums: &mut [f32]) {
        let (tile, lanes) = (self.tile, self.tile.lanes());
        let block = tile.block(squares);
        for place in 0..F::PLACES {
            let left = &left[place * self.squares * self.depth..][..self.squares * self.depth];
            let kernels = &kernels[place * self.steps() * self.panel..][..self.steps() * self.panel];
            let sums = &mut sums[place * self.squares * self.panel..][..self.squares * self.panel];
            for lane in (0..self.panel).step_by(2 * lanes) {
                for square in (0..squares).step_by(block) {
                    let rows = block.min(squares - square);
                    let left = (&left[square * self.depth..], self.depth);
                    let sums = &mut sums[square * self.panel + lane..];
                    tile.run(rows, left, kernels, &[lane, lane + lanes], steps, ZERO, sums, self.panel);
                }
            }
        }
    }

    /// `Aᵀ m A` of a class: `[row][line][column][output]`.
    fn transform_outputs(&self, class: usize, sums: &[f32], bias: &[f32], rows: usize, pixels: &mut [f32]) {
        let [down, right] = &self.axes;
        let [y, x] = if self.joined { [0, 0] } else { self.views[class] };
        let (line, across) = (self.target_columns() * self.panel, right.squares);
        let place = self.squares * self.panel;
        let places = Grid { square: self.panel, pixel: place, line: F::POINTS * place };
        let spread = right.target_spread * self.panel;
        let grid = Grid { square: 2 * spread, pixel: spread, line: down.target_spread * line };
        for at in 0..rows {
            let start = (at * self.target_lines() + down.views[y].target) * line + right.views[x].target * self.panel;
            let sums = &sums[at * across * self.panel..];
            transforms::outputs(
                self.tile.isa(),
                self.form,
                sums,
                places,
                bias,
                &mut pixels[start..],
                grid,
                across,
                self.panel,
            );
        }
    }

    /// Puts the outputs of a panel where they belong, those of one image at a time.
    fn store(&self, panel: usize, pixels: &[f32], rows: Range<usize>, out: &Output<'_>) {
        let [outputs, height, width] = self.target;
        let (per_image, per_row) = (self.axes[0].squares, self.target_lines());
        let channels = panel * self.panel..((panel + 1) * self.panel).min(outputs);
        let line = self.target_columns() * self.panel;
        let pitch = self.rows * per_row * width;
        tasks::with_scratch(self.panel * pitch, |planes| {
            let mut first = rows.start;
            while first < rows.end {
                let (image, y) = (first / per_image, first % per_image * per_row);
                let end = rows.end.min((image + 1) * per_image);
                let lines = ((end - first) * per_row).min(height - y);
                for i in 0..lines {
                    let from = &pixels[((first - rows.start) * per_row + i) * line..];
                    let to = &mut planes[i * width..];
                    transpose::channels_last(self.tile.isa(), from, self.panel, width, channels.len(), to, pitch);
                }
                for (channel, plane) in channels.clone().zip(planes.chunks_exact(pitch)) {
                    let at = ((image * outputs + channel) * height + y) * width;
                    // SAFETY: these lines belong to this task's rows of squares alone.
                    let to = unsafe { out.slice(at..at + lines * width) };
                    to.write_copy_of_slice(&plane[..lines * width]);
                }
                first = end;
            }
        });
    }
}
