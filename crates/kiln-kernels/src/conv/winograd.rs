//! 3×3 convolutions of stride 1 with fewer multiplications: F(2×2, 3×3) of Winograd.
//!
//! Lavin and Gray 2016, *Fast Algorithms for Convolutional Neural Networks*, section 4.1. A 2×2 square of
//! outputs comes from a 4×4 square d of inputs and the kernel g as
//!
//! `y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A`,
//!
//! 16 products for what takes 36, and the sum over input channels can be taken before Aᵀ · A: the bulk
//! of the work is 16 matrix products, one for each place of the 4×4 square. The transforms hold only
//! 0, ±1 and ±½, so rounding stays that of a plain sum of the same length.
//!
//! A task takes some rows of squares, transforms all their input channels into its scratch memory
//! `[16][inputs][squares]`, and for a block of output channels at a time multiplies and transforms
//! back. Every output is summed in one order, whatever runs where.

use super::Shape;
use crate::{
    isa::{Isa, mul_add, vectorised},
    output::{self, Output},
    pairs::{pack, pair},
    tasks,
    tile::{MAX_ROWS, Start, Steps, Tile},
};

/// Places of a transformed square.
pub(super) const PLACES: usize = 16;
/// What transforming a square of one channel costs, in multiplications of the products, where rows of
/// squares fill their vectors. Measured on AVX-512.
const TRANSFORM: f64 = 280.0;
/// The same for a kernel, which is transformed anew for each call.
const KERNEL: f64 = 6000.0;
/// Floats of transformed input that stay in the second-level cache.
const CACHED: usize = 144 << 10;
/// Squares of a row that are transformed at once.
const LANES: usize = 16;

/// Whether the products of this convolution are best computed here.
pub(super) fn applies(isa: Isa, s: &Shape) -> bool {
    // A product of pairs takes half the time, the transforms what they took.
    let product = if Tile::new(isa).takes_pairs() { 0.5 } else { 1.0 };
    possible(s) && [s.near, s.far].into_iter().all(|field| pays(s.images, field, s.near[0], s.far[0], product))
}

/// Whether they can be.
pub(super) fn possible(s: &Shape) -> bool {
    let options = &s.options;
    s.kernel == [3, 3]
        && options.stride == [1, 1]
        && options.dilation == [1, 1]
        && options.groups == 1
        && options.padding.iter().all(|p| *p <= 2)
        && s.images > 0
}

/// Whether the multiplications saved for an output of this size are worth the transforms, one multiplication
/// taking `product`.
fn pays(images: usize, [_, height, width]: [usize; 3], inputs: usize, outputs: usize, product: f64) -> bool {
    let (down, across) = (height.div_ceil(2), width.div_ceil(2));
    let squares = (images * down * across) as f64;
    let products = (inputs * outputs) as f64;
    // Squares that hang over the edge are computed whole, and rows of them in whole vectors.
    let filled = across as f64 / across.next_multiple_of(LANES) as f64;
    let transforms = squares * TRANSFORM / filled * (inputs + outputs) as f64 + KERNEL * products;
    let here = squares * PLACES as f64 * products * product + transforms;
    let directly = 9.0 * products * (images * height * width) as f64 * product;
    here < 0.9 * directly
}

/// `conv2d`.
pub(super) fn to_far(isa: Isa, s: &Shape, near: &[f32], weights: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let inputs = s.near[0];
    let tap = |o: usize, c: usize, t: usize| weights[(o * inputs + c) * 9 + t];
    Plan::new(isa, s.images, s.near, s.far, s.options.padding).run(near, tap, bias)
}

/// Its transpose: the same with the kernels turned around and the channels exchanged.
pub(super) fn to_near(isa: Isa, s: &Shape, far: &[f32], weights: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let outputs = s.near[0];
    let tap = |o: usize, c: usize, t: usize| weights[(c * outputs + o) * 9 + 8 - t];
    Plan::new(isa, s.images, s.far, s.near, s.options.padding.map(|p| 2 - p)).run(far, tap, bias)
}

/// How squares are cut into tasks.
struct Plan {
    tile: Tile,
    images: usize,
    /// Channels, height and width of what is read and of what is written.
    source: [usize; 3],
    target: [usize; 3],
    padding: [usize; 2],
    /// Squares of an image, vertically and horizontally.
    squares: [usize; 2],
    /// Rows of squares of a task, and the squares in them rounded up to whole vectors.
    rows: usize,
    pitch: usize,
    /// Output channels of a block.
    block: usize,
    /// Steps of the sum over inputs.
    depth: usize,
}

impl Plan {
    fn new(isa: Isa, images: usize, source: [usize; 3], target: [usize; 3], padding: [usize; 2]) -> Plan {
        let tile = Tile::new(isa);
        let squares = [target[1].div_ceil(2), target[2].div_ceil(2)];
        let depth = tile.steps(source[0]);
        let (rows, pitch) = rows_of_squares(squares[1], CACHED / (PLACES * depth), tile.lanes());
        // No more than every thread can have some of.
        let share = (images * squares[0]).div_ceil(2 * tasks::threads()).max(1);
        let (rows, pitch) =
            if rows > share { (share, (share * squares[1]).next_multiple_of(tile.lanes())) } else { (rows, pitch) };
        Plan { tile, images, source, target, padding, squares, rows, pitch, block: tile.block(target[0]), depth }
    }

    fn run(&self, source: &[f32], tap: impl Fn(usize, usize, usize) -> f32 + Sync, bias: Option<&[f32]>) -> Vec<f32> {
        let kernels = self.transformed_kernels(tap);
        let all_rows = self.images * self.squares[0];
        let outputs = self.target[0];
        let len = self.images * outputs * self.target[1] * self.target[2];
        let steps = Steps::new((0..self.depth).map(|c| (c * self.block, c * self.pitch)));
        let fill = |out: &Output<'_>| {
            tasks::each(all_rows.div_ceil(self.rows), len * self.source[0], |task| {
                let first = task * self.rows;
                let rows = first..(first + self.rows).min(all_rows);
                let (input_len, sums_len) = (PLACES * self.depth * self.pitch, PLACES * self.block * self.pitch);
                // Whole vectors are read of the last squares too.
                tasks::with_scratch(input_len + sums_len + LANES, |scratch| {
                    let (input, sums) = scratch.split_at_mut(input_len);
                    self.transform_input(source, rows.clone(), input);
                    for (block, kernels) in kernels.chunks(PLACES * self.depth * self.block).enumerate() {
                        let channels = block * self.block..((block + 1) * self.block).min(outputs);
                        self.multiply(kernels, input, &steps, channels.len(), sums);
                        for (i, channel) in channels.enumerate() {
                            let bias = bias.map_or(0.0, |b| b[channel]);
                            for (at, row) in rows.clone().enumerate() {
                                self.transform_output(sums, i, at, row, channel, bias, out);
                            }
                        }
                    }
                });
            });
        };
        // SAFETY: tasks divide the rows of squares, which together are all output pixels, and each
        // writes all channels of its rows.
        unsafe { output::filled(len, fill) }
    }

    /// `G g Gᵀ` of every pair of channels: `[block of outputs][place][step][output of the block]`.
    fn transformed_kernels(&self, tap: impl Fn(usize, usize, usize) -> f32 + Sync) -> Vec<f32> {
        let (inputs, outputs) = (self.source[0], self.target[0]);
        let size = PLACES * self.depth * self.block;
        let mut kernels = vec![0.0; outputs.div_ceil(self.block) * size];
        let blocks = outputs.div_ceil(self.block);
        let shared = Output::new(&mut kernels);
        let kernel = |o: usize, c: usize| transformed_kernel(&std::array::from_fn(|t| tap(o, c, t)));
        tasks::each(blocks, blocks * size, |block| {
            // SAFETY: each task has its own block of the buffer.
            let to = unsafe { shared.slice(block * size..(block + 1) * size).assume_init_mut() };
            for i in 0..self.block.min(outputs - block * self.block) {
                let o = block * self.block + i;
                for step in 0..self.depth {
                    let values = if self.tile.takes_pairs() {
                        let c = 2 * step;
                        let second = if c + 1 < inputs { kernel(o, c + 1) } else { [0.0; PLACES] };
                        let first = kernel(o, c);
                        std::array::from_fn(|place| pair(first[place], second[place]))
                    } else {
                        kernel(o, step)
                    };
                    for (place, value) in values.into_iter().enumerate() {
                        to[(place * self.depth + step) * self.block + i] = value;
                    }
                }
            }
        });
        kernels
    }

    /// `Bᵀ d B` of the squares of some rows, `[place][step][square]`.
    fn transform_input(&self, source: &[f32], rows: std::ops::Range<usize>, to: &mut [f32]) {
        let (inputs, across) = (self.source[0], self.squares[1]);
        // Columns in pairs, one more than squares, and as many as whole vectors read.
        let columns = across.next_multiple_of(LANES) + LANES;
        let stride = self.depth * self.pitch;
        if !self.tile.takes_pairs() {
            tasks::with_scratch(10 * columns, |scratch| {
                scratch[..2 * columns].fill(0.0);
                for c in 0..inputs {
                    for (at, row) in rows.clone().enumerate() {
                        let to = &mut to[c * self.pitch + at * across..];
                        self.transform_row(source, c, row, scratch, columns, to, stride, self.pitch - at * across);
                    }
                }
            });
            return;
        }
        let room = columns - LANES;
        tasks::with_scratch(10 * columns + 2 * PLACES * room, |scratch| {
            let (scratch, squares) = scratch.split_at_mut(10 * columns);
            let (first, second) = squares.split_at_mut(PLACES * room);
            scratch[..2 * columns].fill(0.0);
            for step in 0..self.depth {
                for (at, row) in rows.clone().enumerate() {
                    self.transform_row(source, 2 * step, row, scratch, columns, first, room, room);
                    match 2 * step + 1 {
                        c if c < inputs => self.transform_row(source, c, row, scratch, columns, second, room, room),
                        _ => second.fill(0.0),
                    }
                    for place in 0..PLACES {
                        let to = &mut to[place * stride + step * self.pitch + at * across..][..across];
                        let from = place * room..place * room + across;
                        pack(self.tile.isa(), &first[from.clone()], &second[from], to);
                    }
                }
            }
        });
    }

    /// `Bᵀ d B` of a row of squares of one channel: place p of square x to `to[p * stride + x]`, x below `room`.
    /// Of `scratch`, ten times `columns`, the first two fifths are 0 but for what an earlier row of the same
    /// width left.
    #[allow(clippy::too_many_arguments)]
    fn transform_row(
        &self,
        source: &[f32],
        channel: usize,
        row: usize,
        scratch: &mut [f32],
        columns: usize,
        to: &mut [f32],
        stride: usize,
        room: usize,
    ) {
        let [inputs, height, width] = self.source;
        let [per_image, across] = self.squares;
        let (line, split) = scratch.split_at_mut(2 * columns);
        let (image, y) = (row / per_image, row % per_image * 2);
        for i in 0..4 {
            let split = &mut split[2 * i * columns..][..2 * columns];
            match (y + i).checked_sub(self.padding[0]).filter(|y| *y < height) {
                Some(y) => {
                    let from = &source[((image * inputs + channel) * height + y) * width..][..width];
                    // What does not fit is not looked at by any square.
                    let fits = width.min(2 * columns - self.padding[1]);
                    line[self.padding[1]..self.padding[1] + fits].copy_from_slice(&from[..fits]);
                    deinterleave(self.tile.isa(), line, split);
                }
                None => split.fill(0.0),
            }
        }
        transform_rows(self.tile.isa(), split, columns, across, to, stride, room);
    }

    /// The 16 products for a block of output channels: `[place][output of the block][square]`.
    fn multiply(&self, kernels: &[f32], input: &[f32], steps: &Steps, outputs: usize, sums: &mut [f32]) {
        let (depth, lanes) = (self.depth, self.tile.lanes());
        for place in 0..PLACES {
            let kernels = &kernels[place * depth * self.block..][..depth * self.block];
            let input = &input[place * depth * self.pitch..][..depth * self.pitch];
            for square in (0..self.pitch).step_by(2 * lanes) {
                let at = [square, square + lanes];
                let at = &at[..((self.pitch - square) / lanes).min(2)];
                let sums = &mut sums[place * self.block * self.pitch + square..];
                self.tile.run(outputs, kernels, input, at, steps, Start::Base(&[0.0; MAX_ROWS]), sums, self.pitch);
            }
        }
    }

    /// `Aᵀ m A` of one output channel and row of squares, to its place.
    #[allow(clippy::too_many_arguments)]
    fn transform_output(
        &self,
        sums: &[f32],
        channel_of_block: usize,
        at: usize,
        row: usize,
        channel: usize,
        bias: f32,
        out: &Output<'_>,
    ) {
        let [outputs, height, width] = self.target;
        let [per_image, across] = self.squares;
        let (image, y) = (row / per_image, row % per_image * 2);
        for first in (0..across).step_by(LANES) {
            let count = LANES.min(across - first);
            let from = channel_of_block * self.pitch + at * across + first;
            let mut lines = [[0.0; 2 * LANES]; 2];
            square_outputs(self.tile.isa(), &sums[from..], self.block * self.pitch, bias, &mut lines);
            for (i, line) in lines.iter().enumerate().take(height - y) {
                let place = ((image * outputs + channel) * height + y + i) * width + 2 * first;
                let count = (2 * count).min(width - 2 * first);
                // SAFETY: the place belongs to this task's rows of squares alone.
                unsafe { out.write(place, 1, &line[..count]) };
            }
        }
    }
}

/// As many rows of `across` squares as `most` squares hold, rather fewer than leave much of their
/// last vector empty: how many, and their squares rounded up to whole vectors.
pub(super) fn rows_of_squares(across: usize, most: usize, lanes: usize) -> (usize, usize) {
    let pitch = |rows: usize| (rows * across).next_multiple_of(lanes);
    let filled = |rows: usize| rows * across * 1000 / pitch(rows);
    let rows = (1..=(most / across).max(1)).max_by_key(|&rows| (filled(rows) / 50, rows)).unwrap_or(1);
    (rows, pitch(rows))
}

/// `G g Gᵀ`, row by row.
fn transformed_kernel(g: &[f32; 9]) -> [f32; PLACES] {
    let expand = |a: f32, b: f32, c: f32| [a, 0.5 * (a + b + c), 0.5 * (a - b + c), c];
    let rows: [[f32; 4]; 3] = std::array::from_fn(|i| expand(g[3 * i], g[3 * i + 1], g[3 * i + 2]));
    let mut out = [0.0; PLACES];
    for j in 0..4 {
        for (i, value) in expand(rows[0][j], rows[1][j], rows[2][j]).into_iter().enumerate() {
            out[4 * i + j] = value;
        }
    }
    out
}

vectorised! {
    /// Even columns of a line to the first half of `split`, odd ones to the second.
    fn deinterleave(line: &[f32], split: &mut [f32]) {
        let (even, odd) = split.split_at_mut(line.len() / 2);
        let (pairs, _) = line.as_chunks::<2>();
        for ((e, o), pair) in even.iter_mut().zip(odd).zip(pairs) {
            *e = pair[0];
            *o = pair[1];
        }
    }
}

vectorised! {
    /// `Bᵀ d B` for a row of `across` squares whose four lines lie in `split` as even columns, then
    /// odd ones, `pairs` of each: place p of square x to `to[p * stride + x]`, x below `room`.
    fn transform_rows(split: &[f32], pairs: usize, across: usize, to: &mut [f32], stride: usize, room: usize) {
        // Rows of Bᵀ: a line plus or minus another.
        const ROWS: [(usize, usize, f32); 4] = [(0, 2, -1.0), (1, 2, 1.0), (2, 1, -1.0), (1, 3, -1.0)];
        for first in (0..across).step_by(LANES) {
            let count = LANES.min(across - first);
            for (i, (line, other, sign)) in ROWS.into_iter().enumerate() {
                let mut columns = [[0.0f32; LANES + 1]; 2];
                for (parity, column) in columns.iter_mut().enumerate() {
                    let line = &split[(2 * line + parity) * pairs + first..][..LANES + 1];
                    let other = &split[(2 * other + parity) * pairs + first..][..LANES + 1];
                    for x in 0..LANES + 1 {
                        column[x] = mul_add::<FMA>(sign, other[x], line[x]);
                    }
                }
                let [even, odd] = columns;
                let mut places = [[0.0f32; LANES]; 4];
                for x in 0..LANES {
                    places[0][x] = even[x] - even[x + 1];
                    places[1][x] = odd[x] + even[x + 1];
                    places[2][x] = even[x + 1] - odd[x];
                    places[3][x] = odd[x] - odd[x + 1];
                }
                for (j, values) in places.iter().enumerate() {
                    let at = (4 * i + j) * stride + first;
                    // What is too much is overwritten by the next row, but there must be room for it.
                    if first + LANES <= room {
                        to[at..at + LANES].copy_from_slice(values);
                    } else {
                        to[at..at + count].copy_from_slice(&values[..count]);
                    }
                }
            }
        }
    }
}

vectorised! {
    /// `Aᵀ m A` plus `bias` for a vector of squares, place p of square x at `sums[p * stride + x]`: the
    /// two lines of outputs.
    fn square_outputs(sums: &[f32], stride: usize, bias: f32, lines: &mut [[f32; 2 * LANES]; 2]) {
        let mut m = [[0.0f32; LANES]; PLACES];
        for (place, values) in m.iter_mut().enumerate() {
            values.copy_from_slice(&sums[place * stride..][..LANES]);
        }
        for (i, line) in lines.iter_mut().enumerate() {
            let mut columns = [[0.0f32; LANES]; 4];
            for (j, column) in columns.iter_mut().enumerate() {
                for x in 0..LANES {
                    column[x] = match i {
                        0 => m[j][x] + m[4 + j][x] + m[8 + j][x],
                        _ => m[4 + j][x] - m[8 + j][x] - m[12 + j][x],
                    };
                }
            }
            let (mut even, mut odd) = ([0.0f32; LANES], [0.0f32; LANES]);
            for x in 0..LANES {
                even[x] = columns[0][x] + columns[1][x] + columns[2][x] + bias;
                odd[x] = columns[1][x] - columns[2][x] - columns[3][x] + bias;
            }
            for (x, pair) in line.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                *pair = [even[x], odd[x]];
            }
        }
    }
}
