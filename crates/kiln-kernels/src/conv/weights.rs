//! The gradient of a convolution in its weights.
//!
//! `dW[f, n, tap]` is a sum over images and far pixels of far times near at that tap. Both fields
//! are transposed to channels-last (the near one with its padding), after which, for one tap, a
//! block of weights is a tile whose steps are the pixels: one side broadcast, the other in vectors
//! along channels. Where a step takes pairs, it is two far pixels, neighbours in a row, and the near pixels that one
//! tap sees from them: of the near side every pixel is paired with the one a stride further. Images are divided
//! among tasks by their number alone and the parts added in order, so a gradient does not depend on scheduling.

use super::{Shape, rows, transpose};
use crate::{
    isa::Isa,
    output::{self, Output},
    pairs::pack,
    product::ZERO,
    tasks,
    tile::{Start, Steps, Tile},
};
use std::ops::Range;

/// Weights per tap and group below which tiles would be nearly empty.
const FEW: usize = 16;
/// Pixels a tile sums over before its weights go back to memory.
const PIXELS: usize = 128;
/// Pixels of small images that are summed over together.
const LONG: usize = 512;
/// Floats all partial gradients together may take.
const PARTIALS: usize = 16 << 20;

/// The weight gradient `[far, near / groups, kh, kw]`.
pub(super) fn weights(isa: Isa, s: &Shape, near: &[f32], far: &[f32]) -> Vec<f32> {
    if s.far_len() == 0 || s.near_len() == 0 {
        return vec![0.0; s.weights_len()];
    }
    if s.near_group() * s.far_group() <= FEW {
        return rows::weights(isa, s, near, far);
    }
    let plan = Plan::new(Tile::new(isa), s);
    let size = plan.partial_len();
    let turns = s.images.div_ceil(plan.together);
    let parts = tasks::threads().min(turns).min(PARTIALS / size).max(1);
    let splits = tasks::threads().div_ceil(parts).clamp(1, plan.blocks());

    let fill = |gradient: &Output<'_>| {
        tasks::with_scratch(parts * size, |partials| {
            for group in 0..s.options.groups {
                let shared = Output::new(partials);
                tasks::each(parts * splits, s.work() / s.options.groups, |task| {
                    let (part, split) = (task / splits, task % splits);
                    let turns = part * turns / parts..(part + 1) * turns / parts;
                    let blocks = split * plan.blocks() / splits..(split + 1) * plan.blocks() / splits;
                    let rows = blocks.start * plan.block..(blocks.end * plan.block).min(plan.left.channels);
                    // Rows are the outermost index of a partial gradient: a split has one range.
                    let row_len = plan.taps * plan.width;
                    let range = part * size + rows.start * row_len..part * size + rows.end * row_len;
                    // SAFETY: parts and splits have ranges of their own; the buffer is initialised.
                    let sums = unsafe { shared.slice(range).assume_init_mut() };
                    plan.accumulate(s, group, turns, rows, near, far, sums);
                });
                plan.reduce(s, group, partials, gradient);
            }
        })
    };
    // SAFETY: every group's part of the gradient is written by `reduce`.
    unsafe { output::filled(s.weights_len(), fill) }
}

/// One field in channels-last order.
#[derive(Clone, Copy)]
struct Side {
    is_near: bool,
    /// Channels of one group, and floats per pixel.
    channels: usize,
    pitch: usize,
    /// Pixels (or pairs) of one image, and of a row.
    pixels: usize,
    width: usize,
    /// Columns of the field that a row is made of.
    columns: usize,
    /// Where pairs are: how many columns from one to the next, and to the partner.
    pairs: Option<(usize, usize)>,
}

/// Floats per pixel: whole cache lines, an odd number of them lest pixels compete for few sets.
fn pitch(channels: usize) -> usize {
    let lines = channels.div_ceil(16);
    16 * (lines + 1 - lines % 2)
}

struct Plan {
    tile: Tile,
    /// Broadcast side (rows of the tiles) and vector side.
    left: Side,
    right: Side,
    /// Right channels rounded up to whole vectors.
    width: usize,
    taps: usize,
    block: usize,
    /// Images transposed at once, so that small ones still make long sums.
    together: usize,
    /// Far rows per chunk.
    rows: usize,
    steps: Steps,
    /// Steps of the last, shorter chunk of an image, and of the last, smaller group of images.
    tail: Steps,
    last: Steps,
    /// Where each tap starts in the near side, in pixels.
    shifts: Vec<usize>,
}

impl Plan {
    fn new(tile: Tile, s: &Shape) -> Plan {
        let lanes = tile.lanes();
        let [_, height, width] = s.far;
        let (stride, dilation) = (s.options.stride, s.options.dilation);
        // The near pixels any tap can reach.
        let reach = |a: usize| (s.far[1 + a] - 1) * stride[a] + (s.kernel[a] - 1) * dilation[a] + 1;
        let (near_rows, near_width) = (reach(0), reach(1));
        let across = tile.steps(width);
        let side = |is_near: bool| {
            let channels = if is_near { s.near_group() } else { s.far_group() };
            let (rows, width, columns, pair) = if is_near {
                (near_rows, near_width, near_width, (1, stride[1]))
            } else {
                (height, across, width, (2, 1))
            };
            let pairs = tile.takes_pairs().then_some(pair);
            Side { is_near, channels, pitch: pitch(channels), pixels: rows * width, width, columns, pairs }
        };
        // The side that fills its vectors better gets them, the larger one if both do.
        let waste = |channels: usize| channels.next_multiple_of(lanes) * 1024 / channels;
        let (n, f) = (s.near_group(), s.far_group());
        let near_in_vectors = (waste(n), f) <= (waste(f), n);
        let (left, right) = (side(!near_in_vectors), side(near_in_vectors));

        let together = (LONG / (height * across)).clamp(1, s.images.div_ceil(tasks::threads()).max(1));
        let rows = if together > 1 { height } else { (PIXELS / across).clamp(1, height) };
        let next = if tile.takes_pairs() { 2 * stride[1] } else { stride[1] };
        let steps = |images: usize, rows: usize| {
            let (left, right) = (&left, &right);
            let place = move |side: &Side, image: usize, y: usize, x: usize| {
                let pixel = if side.is_near { y * stride[0] * side.width + x * next } else { y * side.width + x };
                (image * side.pixels + pixel) * side.pitch
            };
            Steps::new((0..images).flat_map(move |image| {
                (0..rows)
                    .flat_map(move |y| (0..across).map(move |x| (place(left, image, y, x), place(right, image, y, x))))
            }))
        };
        let shifts =
            (0..s.taps()).map(|t| t / s.kernel[1] * dilation[0] * near_width + t % s.kernel[1] * dilation[1]).collect();
        Plan {
            tile,
            left,
            right,
            width: right.channels.next_multiple_of(lanes),
            taps: s.taps(),
            block: tile.block(left.channels),
            together,
            rows,
            steps: steps(together, rows),
            tail: steps(1, height % rows),
            last: steps(s.images % together, height),
            shifts,
        }
    }

    /// Blocks of left channels.
    fn blocks(&self) -> usize {
        self.left.channels.div_ceil(self.block)
    }

    /// Floats of one partial gradient `[left][tap][right]`.
    fn partial_len(&self) -> usize {
        self.left.channels * self.taps * self.width
    }

    /// Sums over the images of `turns` (`together` each, in turn) for left channels `rows`.
    #[allow(clippy::too_many_arguments)]
    fn accumulate(
        &self,
        s: &Shape,
        group: usize,
        turns: Range<usize>,
        rows: Range<usize>,
        near: &[f32],
        far: &[f32],
        sums: &mut [f32],
    ) {
        let (tile, lanes) = (self.tile, self.tile.lanes());
        // Only the rows' own channels of the left side are transposed.
        let left = Side { channels: rows.len(), ..self.left };
        let left_len = self.together * left.pixels * left.pitch;
        let right_len = self.together * self.right.pixels * self.right.pitch;
        let row_len = self.taps * self.width;
        tasks::with_scratch(left_len + right_len, |scratch| {
            let (left_buffer, right_buffer) = scratch.split_at_mut(left_len);
            for turn in turns.clone() {
                let first = turn * self.together;
                let count = self.together.min(s.images - first);
                for i in 0..count {
                    let to = &mut left_buffer[i * left.pixels * left.pitch..][..left.pixels * left.pitch];
                    load(self.tile.isa(), s, &left, group * self.left.channels + rows.start, first + i, near, far, to);
                    let size = self.right.pixels * self.right.pitch;
                    let to = &mut right_buffer[i * size..][..size];
                    load(self.tile.isa(), s, &self.right, group * self.right.channels, first + i, near, far, to);
                }
                for y in (0..s.far[1]).step_by(self.rows) {
                    let steps = if count < self.together {
                        &self.last
                    } else if s.far[1] - y < self.rows {
                        &self.tail
                    } else {
                        &self.steps
                    };
                    let origin = if turn == turns.start && y == 0 { ZERO } else { Start::Stored };
                    let start = |side: &Side| {
                        let row = if side.is_near { y * s.options.stride[0] } else { y };
                        row * side.width * side.pitch
                    };
                    let (left_start, right_start) = (start(&left), start(&self.right));
                    for lane in (0..self.width).step_by(2 * lanes) {
                        let at = [0, lanes];
                        let at = &at[..((self.width - lane) / lanes).min(2)];
                        for block in (0..rows.len()).step_by(self.block) {
                            let height = self.block.min(rows.len() - block);
                            for (tap, shift) in self.shifts.iter().enumerate() {
                                let (dl, dr) =
                                    if left.is_near { (shift * left.pitch, 0) } else { (0, shift * self.right.pitch) };
                                tile.run(
                                    height,
                                    (&left_buffer[left_start + dl + block..], 1),
                                    &right_buffer[right_start + dr + lane..],
                                    at,
                                    steps,
                                    origin,
                                    &mut sums[block * row_len + tap * self.width + lane..],
                                    row_len,
                                );
                            }
                        }
                    }
                }
            }
        });
    }

    /// Adds the parts, in order, into `[far, near / groups, kh, kw]`.
    fn reduce(&self, s: &Shape, group: usize, partials: &[f32], gradient: &Output<'_>) {
        /// Channels of the vector side in one cache line.
        const LINE: usize = 16;
        let (fg, ng) = (s.far_group(), s.near_group());
        let per_far = ng * self.taps;
        let (size, parts) = (self.partial_len(), partials.len() / self.partial_len());
        let line = |l: usize, tap: usize, r: usize, count: usize| {
            let mut total = [0.0f32; LINE];
            for part in 0..parts {
                let at = part * size + (l * self.taps + tap) * self.width + r;
                for (total, value) in total.iter_mut().zip(&partials[at..at + count]) {
                    *total += value;
                }
            }
            total
        };
        tasks::each(fg.div_ceil(LINE), fg * per_far, |task| {
            let channels = task * LINE..((task + 1) * LINE).min(fg);
            let at = group * fg + channels.start;
            // SAFETY: each task has its own far channels.
            let rows = unsafe { gradient.slice(at * per_far..(at + channels.len()) * per_far) };
            if self.left.is_near {
                for (n, row) in (0..ng).map(|n| (n, n * self.taps)) {
                    for tap in 0..self.taps {
                        let line = line(n, tap, channels.start, channels.len());
                        for (f, value) in line[..channels.len()].iter().enumerate() {
                            rows[f * per_far + row + tap].write(*value);
                        }
                    }
                }
            } else {
                for (f, row) in channels.clone().zip(rows.chunks_exact_mut(per_far)) {
                    for first in (0..ng).step_by(LINE) {
                        let count = LINE.min(ng - first);
                        for tap in 0..self.taps {
                            let line = line(f, tap, first, count);
                            for (n, value) in line[..count].iter().enumerate() {
                                row[(first + n) * self.taps + tap].write(*value);
                            }
                        }
                    }
                }
            }
        });
    }
}

/// Copies one image's channels `[first, first + side.channels)` to channels-last order; the near
/// side with its padding, the vector side with zeros up to its pitch.
#[allow(clippy::too_many_arguments)]
fn load(isa: Isa, s: &Shape, side: &Side, first: usize, image: usize, near: &[f32], far: &[f32], to: &mut [f32]) {
    let ([channels, height, width], source, padding) =
        if side.is_near { (s.near, near, s.options.padding) } else { (s.far, far, [0, 0]) };
    let plane = height * width;
    let source = &source[(image * channels + first) * plane..][..side.channels * plane];
    let copy = |from: &[f32], pixels: usize, to: &mut [f32]| {
        transpose::channels_last(isa, from, plane, side.channels, pixels, to, side.pitch);
        if side.pitch > side.channels {
            for pixel in to[..pixels * side.pitch].chunks_exact_mut(side.pitch) {
                pixel[side.channels..].fill(0.0);
            }
        }
    };
    if side.pixels == plane && side.columns == width && padding == [0, 0] && side.pairs.is_none() {
        return copy(source, plane, to);
    }
    let from = padding[1].min(side.columns);
    let until = (padding[1] + width).min(side.columns);
    let fill = |y: usize, row: &mut [f32]| {
        row[..from * side.pitch].fill(0.0);
        row[until * side.pitch..].fill(0.0);
        copy(&source[y * width..], until - from, &mut row[from * side.pitch..]);
    };
    tasks::with_scratch(side.columns * side.pitch, |single| {
        for (j, row) in to.chunks_exact_mut(side.width * side.pitch).enumerate() {
            let Some(y) = j.checked_sub(padding[0]).filter(|y| *y < height) else {
                row.fill(0.0);
                continue;
            };
            let Some((next, partner)) = side.pairs else {
                fill(y, row);
                continue;
            };
            fill(y, single);
            let second = |x: usize| &single[((x + partner) * side.pitch).min(single.len())..];
            if next == 1 {
                pack(isa, single, second(0), row);
            } else {
                for (k, pair) in row.chunks_exact_mut(side.pitch).enumerate() {
                    pack(isa, &single[next * k * side.pitch..], second(next * k), pair);
                }
            }
        }
    });
}
