//! The gradient of a convolution in its weights.
//!
//! `dW[f, n, tap]` is a sum over images and far pixels of far times near at that tap. Both fields
//! are transposed to channels-last (the near one with its padding), after which, for one tap, a
//! block of weights is a tile whose steps are the pixels: one side broadcast, the other in vectors
//! along channels. Images are divided among tasks by their number alone and the parts added in
//! order, so a gradient does not depend on scheduling.

use super::Shape;
use crate::{
    isa::Isa,
    output::Output,
    tasks,
    tile::{Steps, Tile},
};

/// Pixels a tile sums over before its weights go back to memory.
const PIXELS: usize = 128;
/// Floats all partial gradients together may take.
const PARTIALS: usize = 16 << 20;

/// The weight gradient `[far, near / groups, kh, kw]`.
pub(crate) fn weights(isa: Isa, s: &Shape, near: &[f32], far: &[f32]) -> Vec<f32> {
    let mut gradient = vec![0.0; s.weights_len()];
    if s.far_len() == 0 || s.near_len() == 0 {
        return gradient;
    }
    let tile = Tile::new(isa);
    let plan = Plan::new(tile, s);

    let groups_of_images = s.images.div_ceil(plan.together);
    let parts = tasks::threads()
        .min(groups_of_images)
        .min(PARTIALS / plan.partial_len().max(1))
        .max(1);
    let splits = tasks::threads().div_ceil(parts).clamp(1, plan.blocks());
    let size = plan.partial_len();
    let mut partials = vec![0.0f32; parts * size];
    for group in 0..s.options.groups {
        if group > 0 {
            partials.fill(0.0);
        }
        let shared = Output::new(&mut partials);
        tasks::each(parts * splits, s.work() / s.options.groups, |task| {
            let (part, split) = (task / splits, task % splits);
            let images = part * groups_of_images / parts * plan.together
                ..((part + 1) * groups_of_images / parts * plan.together).min(s.images);
            let blocks = split * plan.blocks() / splits..(split + 1) * plan.blocks() / splits;
            let rows = blocks.start * plan.block..(blocks.end * plan.block).min(plan.left.channels);
            // Rows are the outermost index of a partial gradient, so each split has one range.
            let row_len = plan.taps * plan.right.pitch;
            let range = part * size + rows.start * row_len..part * size + rows.end * row_len;
            // SAFETY: parts and splits have ranges of their own; the buffer is initialised.
            let sums = unsafe { shared.slice(range).assume_init_mut() };
            plan.accumulate(s, group, images, rows, near, far, sums);
        });
        plan.reduce(s, group, &partials, &mut gradient);
    }
    gradient
}

/// One field in channels-last order.
#[derive(Clone, Copy)]
struct Side {
    is_near: bool,
    /// Channels of one group, and floats per pixel.
    channels: usize,
    pitch: usize,
    /// Pixels of one image, and pixels per row.
    pixels: usize,
    width: usize,
}

struct Plan {
    tile: Tile,
    /// Broadcast side (rows of the tiles) and vector side.
    left: Side,
    right: Side,
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
        let side = |is_near: bool| {
            let channels = if is_near {
                s.near_group()
            } else {
                s.far_group()
            };
            let (pixels, width) = if is_near {
                (near_rows * near_width, near_width)
            } else {
                (height * width, width)
            };
            Side {
                is_near,
                channels,
                pitch: channels,
                pixels,
                width,
            }
        };
        // The side that fills its vectors better gets them, the larger one if both do.
        let waste = |channels: usize| channels.next_multiple_of(lanes) * 1024 / channels;
        let (n, f) = (s.near_group(), s.far_group());
        let near_in_vectors = (waste(n), f) < (waste(f), n);
        let (left, mut right) = (side(!near_in_vectors), side(near_in_vectors));
        right.pitch = right.channels.next_multiple_of(lanes);

        let pixels = height * width;
        let together = (PIXELS / pixels).clamp(1, s.images.div_ceil(tasks::threads()).max(1));
        let rows = if together > 1 {
            height
        } else {
            (PIXELS / width).clamp(1, height)
        };
        let steps = |images: usize, rows: usize| {
            let (left, right) = (&left, &right);
            let place = move |side: &Side, image: usize, y: usize, x: usize| {
                let pixel = if side.is_near {
                    y * stride[0] * side.width + x * stride[1]
                } else {
                    y * side.width + x
                };
                (image * side.pixels + pixel) * side.pitch
            };
            Steps::new((0..images).flat_map(move |image| {
                (0..rows).flat_map(move |y| {
                    (0..width).map(move |x| (place(left, image, y, x), place(right, image, y, x)))
                })
            }))
        };
        let shifts = (0..s.taps())
            .map(|t| t / s.kernel[1] * dilation[0] * near_width + t % s.kernel[1] * dilation[1])
            .collect();
        Plan {
            tile,
            left,
            right,
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
        self.left.channels * self.taps * self.right.pitch
    }

    /// Adds the share of `images` to the sums of left channels `rows`.
    #[allow(clippy::too_many_arguments)]
    fn accumulate(
        &self,
        s: &Shape,
        group: usize,
        images: std::ops::Range<usize>,
        rows: std::ops::Range<usize>,
        near: &[f32],
        far: &[f32],
        sums: &mut [f32],
    ) {
        let (tile, lanes) = (self.tile, self.tile.lanes());
        // Only the rows' own channels of the left side are transposed.
        let left = Side {
            channels: rows.len(),
            ..self.left
        };
        let left_len = self.together * left.pixels * left.pitch;
        let right_len = self.together * self.right.pixels * self.right.pitch;
        let row_len = self.taps * self.right.pitch;
        tasks::with_scratch(left_len + right_len, |scratch| {
            let (left_buffer, right_buffer) = scratch.split_at_mut(left_len);
            for first in images.clone().step_by(self.together) {
                let count = self.together.min(images.end - first);
                for i in 0..count {
                    let to = &mut left_buffer[i * left.pixels * left.pitch..]
                        [..left.pixels * left.pitch];
                    transpose(
                        s,
                        &left,
                        group * self.left.channels + rows.start,
                        first + i,
                        near,
                        far,
                        to,
                    );
                    let size = self.right.pixels * self.right.pitch;
                    let to = &mut right_buffer[i * size..][..size];
                    transpose(
                        s,
                        &self.right,
                        group * self.right.channels,
                        first + i,
                        near,
                        far,
                        to,
                    );
                }
                for y in (0..s.far[1]).step_by(self.rows) {
                    let steps = if count < self.together {
                        &self.last
                    } else if s.far[1] - y < self.rows {
                        &self.tail
                    } else {
                        &self.steps
                    };
                    let start = |side: &Side| {
                        let row = if side.is_near {
                            y * s.options.stride[0]
                        } else {
                            y
                        };
                        row * side.width * side.pitch
                    };
                    let (left_start, right_start) = (start(&left), start(&self.right));
                    for lane in (0..self.right.pitch).step_by(2 * lanes) {
                        let at = [0, lanes];
                        let at = &at[..((self.right.pitch - lane) / lanes).min(2)];
                        for block in (0..rows.len()).step_by(self.block) {
                            let height = self.block.min(rows.len() - block);
                            for (tap, shift) in self.shifts.iter().enumerate() {
                                let (dl, dr) = if left.is_near {
                                    (shift * left.pitch, 0)
                                } else {
                                    (0, shift * self.right.pitch)
                                };
                                tile.run(
                                    height,
                                    &left_buffer[left_start + dl + block..],
                                    &right_buffer[right_start + dr + lane..],
                                    at,
                                    steps,
                                    &mut sums[block * row_len + tap * self.right.pitch + lane..],
                                    row_len,
                                    true,
                                );
                            }
                        }
                    }
                }
            }
        });
    }

    /// Adds the parts, in order, into `[far, near / groups, kh, kw]`.
    fn reduce(&self, s: &Shape, group: usize, partials: &[f32], gradient: &mut [f32]) {
        let (fg, ng) = (s.far_group(), s.near_group());
        let per_far = ng * self.taps;
        let out = Output::new(&mut gradient[group * fg * per_far..(group + 1) * fg * per_far]);
        tasks::each(fg, fg * per_far, |f| {
            // SAFETY: each task has its own far channel.
            let row = unsafe { out.slice(f * per_far..(f + 1) * per_far) };
            for n in 0..ng {
                let (l, r) = if self.left.is_near { (n, f) } else { (f, n) };
                for tap in 0..self.taps {
                    let at = (l * self.taps + tap) * self.right.pitch + r;
                    let sum = partials.iter().skip(at).step_by(self.partial_len()).sum();
                    row[n * self.taps + tap].write(sum);
                }
            }
        });
    }
}

/// Copies one image's channels `[first, first + side.channels)` to channels-last order; the near
/// side with its padding, the vector side with zeros up to its pitch.
fn transpose(
    s: &Shape,
    side: &Side,
    first: usize,
    image: usize,
    near: &[f32],
    far: &[f32],
    to: &mut [f32],
) {
    let ([channels, height, width], source, padding) = if side.is_near {
        (s.near, near, s.options.padding)
    } else {
        (s.far, far, [0, 0])
    };
    let plane = height * width;
    let source = &source[(image * channels + first) * plane..][..side.channels * plane];
    for (j, row) in to.chunks_exact_mut(side.width * side.pitch).enumerate() {
        let line = j.checked_sub(padding[0]).filter(|y| *y < height);
        let Some(y) = line else {
            row.fill(0.0);
            continue;
        };
        let from = padding[1].min(side.width);
        let until = (padding[1] + width).min(side.width);
        row[..from * side.pitch].fill(0.0);
        row[until * side.pitch..].fill(0.0);
        let row = &mut row[from * side.pitch..until * side.pitch];
        for (c, channel) in source.chunks_exact(plane).enumerate() {
            let line = &channel[y * width..(y + 1) * width];
            for (pixel, value) in row.chunks_exact_mut(side.pitch).zip(line) {
                pixel[c] = *value;
            }
        }
        if side.pitch > side.channels {
            for pixel in row.chunks_exact_mut(side.pitch) {
                pixel[side.channels..].fill(0.0);
            }
        }
    }
}
