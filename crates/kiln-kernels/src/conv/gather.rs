//! Convolution and its transpose, both as sums over taps gathered from the other field.
//!
//! Every output pixel is a sum over steps, a step being one (channel, tap): a weight times the
//! source pixel at the tap's shift. A strided transpose is split into the `stride x stride` classes
//! of output pixels that see the same taps, each of them a plain convolution with fewer taps.
//! Source rows are copied, a band at a time, into a zero-padded buffer ([`Bands`]) that stays in
//! the second-level cache. The tile kernel, weights on its left side, then reads its vectors of
//! pixels straight from that buffer where rows are long. Rows much shorter than a vector would
//! waste lanes, so there the pixels of several images are first collected into full panels.

use super::{Shape, axis::Axis, band::Bands};
use crate::{
    ConvOptions,
    isa::Isa,
    lanes,
    output::{self, Output},
    pairs::pair,
    tasks,
    tile::{MAX_ROWS, MAX_WIDTH, Start, Steps, Tile},
};
use std::ops::Range;

/// Steps of a panel collected at a time: weights of one block then fit the first-level cache.
const CHUNK: usize = 256;
/// Steps whose pixels, two vectors each, leave half of the first-level cache.
const FEW: usize = 192;
/// Panels that share one reading of the weights.
const SET: usize = 4;

/// The far field `[images, far..]` from the near field: `conv2d`.
pub(super) fn to_far(isa: Isa, s: &Shape, near: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let axis = |a: usize| {
        let ConvOptions { stride, padding, dilation, .. } = s.options;
        Axis::convolution(s.kernel[a], stride[a], padding[a], dilation[a], s.far[1 + a])
    };
    let strides = (s.near_group() * s.taps(), s.taps());
    Product::new(s, s.near, s.far, w, strides, bias).run(isa, vec![(axis(0), axis(1))], near)
}

/// The near field `[images, near..]` from the far field: `conv_transpose2d`, and the gradient of
/// `conv2d` in its input.
pub(super) fn to_near(isa: Isa, s: &Shape, far: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let axis = |a: usize| {
        let ConvOptions { stride, padding, dilation, .. } = s.options;
        Axis::transposed(s.kernel[a], stride[a], padding[a], dilation[a], s.near[1 + a])
    };
    let (rows, columns) = (axis(0), axis(1));
    let passes = rows.iter().flat_map(|y| columns.iter().map(|x| (y.clone(), x.clone()))).collect();
    let strides = (s.taps(), s.near_group() * s.taps());
    Product::new(s, s.far, s.near, w, strides, bias).run(isa, passes, far)
}

/// Which field is read, which is written, and how weights lie.
struct Product<'a> {
    images: usize,
    groups: usize,
    /// Channels, height, width of the field read and of the field written.
    source: [usize; 3],
    target: [usize; 3],
    /// Channels of one group on either side.
    inputs: usize,
    outputs: usize,
    kernel_width: usize,
    weights: &'a [f32],
    /// Distance in `weights` between output channels, input channels and groups.
    strides: (usize, usize, usize),
    bias: Option<&'a [f32]>,
    work: usize,
}

/// One class of output pixels, and how it is computed.
struct Pass {
    bands: Bands,
    /// Images computed together.
    together: usize,
    /// Per step, where it reads the buffer relative to the output pixel.
    offsets: Vec<usize>,
    /// Weights as the tile reads them: `[group][block of outputs][step][output of the block]`.
    weights: Vec<f32>,
    way: Way,
}

enum Way {
    /// Vectors read from the buffer: all steps, and the tiles covering a band, each with the
    /// places its one or two vectors start at.
    Direct { steps: Steps, tiles: Vec<Cover<usize>> },
    /// Pixels collected first: the steps of a full chunk and of the last one, and the panels, each
    /// with what [`lanes::collect`] copies for it.
    Panels { full: Steps, last: Steps, panels: Vec<Cover<(usize, usize)>> },
}

/// Where a tile's pixels come from and where its sums go.
struct Cover<P> {
    from: Vec<P>,
    runs: Vec<Run>,
}

/// Neighbouring lanes of a tile that are neighbouring output pixels.
#[derive(Clone, Copy)]
struct Run {
    lane: usize,
    len: usize,
    /// Image among those computed together, row of the band, and first column of the pass.
    image: usize,
    row: usize,
    column: usize,
}

/// What one task computes.
#[derive(Clone, Copy)]
struct Task {
    pass: usize,
    image: usize,
    band: usize,
    split: usize,
}

impl<'a> Product<'a> {
    fn new(
        s: &Shape,
        source: [usize; 3],
        target: [usize; 3],
        weights: &'a [f32],
        (out_stride, in_stride): (usize, usize),
        bias: Option<&'a [f32]>,
    ) -> Product<'a> {
        let groups = s.options.groups;
        Product {
            images: s.images,
            groups,
            source,
            target,
            inputs: source[0] / groups,
            outputs: target[0] / groups,
            kernel_width: s.kernel[1],
            weights,
            strides: (out_stride, in_stride, s.weights_len() / groups),
            bias,
            work: s.work(),
        }
    }

    fn run(&self, isa: Isa, axes: Vec<(Axis, Axis)>, source: &[f32]) -> Vec<f32> {
        let tile = Tile::new(isa);
        let block = tile.block(self.outputs);
        let blocks = self.outputs.div_ceil(block);
        let wanted = (4 * tasks::threads()).div_ceil(self.images.max(1) * axes.len());
        let passes: Vec<Pass> =
            axes.into_iter().map(|(rows, columns)| self.pass(tile, block, rows, columns, wanted)).collect();

        // A task is one band of some images; with few of them the output channels are divided as
        // well. However tasks are cut, every output sums its steps in the same order.
        let places: Vec<Task> = passes
            .iter()
            .enumerate()
            .flat_map(|(pass, p)| {
                (0..self.images)
                    .step_by(p.together)
                    .flat_map(move |image| (0..p.bands.count).map(move |band| Task { pass, image, band, split: 0 }))
            })
            .collect();
        let splits = tasks::threads().div_ceil(places.len().max(1)).clamp(1, blocks);
        let mut tasks: Vec<Task> =
            places.into_iter().flat_map(|task| (0..splits).map(move |split| Task { split, ..task })).collect();
        // The passes of one image write the same lines.
        tasks.sort_by_key(|task| task.image);

        let fill = |out: &Output<'_>| {
            tasks::each(tasks.len(), self.work, |i| {
                let task = tasks[i];
                let work = Work {
                    product: self,
                    pass: &passes[task.pass],
                    task,
                    tile,
                    block,
                    blocks: task.split * blocks / splits..(task.split + 1) * blocks / splits,
                    images: passes[task.pass].together.min(self.images - task.image),
                    rows: passes[task.pass].bands.rows_of(task.band),
                    out,
                };
                work.run(source);
            });
        };
        let len = self.images * self.target.iter().product::<usize>();
        // SAFETY: passes divide the output's pixels into classes, bands divide a pass's rows and
        // splits the channels, so together the tasks write every element exactly once.
        unsafe { output::filled(len, fill) }
    }

    fn pass(&self, tile: Tile, block: usize, rows: Axis, columns: Axis, wanted: usize) -> Pass {
        let depth = tile.steps(self.inputs);
        let bands = Bands::new(rows, columns, depth, wanted);
        let taps = bands.taps(self.kernel_width);
        let offsets: Vec<usize> = (0..depth)
            .flat_map(|c| taps.iter().map(move |(_, offset)| (c, *offset)))
            .map(|(c, offset)| c * bands.plane + offset)
            .collect();
        let weights = self.pack(tile, &taps, block);

        // Panels cost the collecting, about as much as 24 more outputs would; vectors in place
        // cost the lanes they waste.
        let (lanes, width) = (tile.lanes(), 2 * tile.lanes());
        let pixels = bands.height * bands.columns.count;
        let vectors = direct_vectors(&bands, lanes);
        let together = (SET * width / pixels.max(1)).clamp(1, self.images.div_ceil(tasks::threads()).max(1));
        let together = if bands.count == 1 { together } else { 1 };
        let collected = (together * pixels).next_multiple_of(width) * (self.outputs + 24);
        let direct = together * vectors.len() * lanes * self.outputs <= collected;
        let way = if direct || offsets.is_empty() {
            let tiles = vectors
                .chunks(2)
                .map(|starts| {
                    let runs = runs(starts.len() * lanes, |lane| {
                        let place = starts[lane / lanes] + lane % lanes;
                        let (row, column) = (place / bands.pitch, place % bands.pitch);
                        let valid = row < bands.height && column < bands.columns.count;
                        valid.then_some((0, row, column))
                    });
                    Cover { from: starts.to_vec(), runs }
                })
                .collect();
            let steps = offsets.iter().enumerate().map(|(k, offset)| (k * block, *offset));
            Way::Direct { steps: Steps::new(steps), tiles }
        } else {
            let all = together * pixels;
            let panels = (0..all)
                .step_by(width)
                .map(|first| {
                    let runs = runs(width.min(all - first), |lane| {
                        let (image, pixel) = ((first + lane) / pixels, (first + lane) % pixels);
                        Some((image, pixel / bands.columns.count, pixel % bands.columns.count))
                    });
                    Cover { from: pieces(&runs, depth * bands.plane, &bands), runs }
                })
                .collect();
            let steps = |count: usize| Steps::new((0..count).map(|k| (k * block, k * width)));
            let last = offsets.len() % CHUNK;
            Way::Panels { full: steps(CHUNK), last: steps(last), panels }
        };
        let together = if matches!(way, Way::Direct { .. }) { 1 } else { together };
        Pass { bands, together, offsets, weights, way }
    }

    /// [`Pass::weights`].
    fn pack(&self, tile: Tile, taps: &[(usize, usize)], block: usize) -> Vec<f32> {
        let blocks = self.outputs.div_ceil(block);
        let depth = tile.steps(self.inputs);
        let size = depth * taps.len() * block;
        let mut packed = vec![0.0; self.groups * blocks * size];
        let out = Output::new(&mut packed);
        let (out_stride, in_stride, group_stride) = self.strides;
        tasks::each(self.groups * blocks, self.groups * blocks * size, |task| {
            let (group, first) = (task / blocks, task % blocks * block);
            let rows = block.min(self.outputs - first);
            let base = group * group_stride + first * out_stride;
            // SAFETY: each task has its own block of the buffer.
            let packed = unsafe { out.slice(task * size..(task + 1) * size) };
            for step in 0..depth {
                for i in 0..rows {
                    let from = |c: usize| &self.weights[base + i * out_stride + c * in_stride..];
                    for (t, (tap, _)) in taps.iter().enumerate() {
                        let value = match 2 * step + 1 {
                            _ if !tile.takes_pairs() => from(step)[*tap],
                            second if second < self.inputs => pair(from(second - 1)[*tap], from(second)[*tap]),
                            second => pair(from(second - 1)[*tap], 0.0),
                        };
                        packed[(step * taps.len() + t) * block + i].write(value);
                    }
                }
            }
        });
        packed
    }
}

/// A task being computed.
struct Work<'w> {
    product: &'w Product<'w>,
    pass: &'w Pass,
    task: Task,
    tile: Tile,
    /// Output channels of a block, and the blocks computed in every group.
    block: usize,
    blocks: Range<usize>,
    /// Images computed.
    images: usize,
    /// First output row of the band, and its rows.
    rows: (usize, usize),
    out: &'w Output<'w>,
}

/// Neighbouring output channels of one group.
struct Block<'w> {
    weights: &'w [f32],
    bias: &'w [f32],
    channels: Range<usize>,
    /// The first of them within the group.
    first: usize,
}

impl Work<'_> {
    fn run(&self, source: &[f32]) {
        let (product, bands) = (self.product, &self.pass.bands);
        let size = [product.source[1], product.source[2]];
        let source_len = product.inputs * size[0] * size[1];
        let image_len = self.tile.steps(product.inputs) * bands.plane;
        let width = 2 * self.tile.lanes();
        let buffer_len = self.pass.together * image_len + MAX_WIDTH;
        let (panel_len, sums_len) = match self.pass.way {
            Way::Direct { .. } => (0, 0),
            Way::Panels { .. } => (SET * CHUNK * width + MAX_WIDTH, SET * product.outputs * width),
        };
        tasks::with_scratch(buffer_len + panel_len + sums_len, |scratch| {
            let (buffer, scratch) = scratch.split_at_mut(buffer_len);
            let (collected, sums) = scratch.split_at_mut(panel_len);
            for group in 0..product.groups {
                let images = buffer.chunks_exact_mut(image_len).take(self.images);
                for (i, buffer) in images.enumerate() {
                    let at = ((self.task.image + i) * product.groups + group) * source_len;
                    let (source, band) = (&source[at..at + source_len], self.task.band);
                    match self.tile.takes_pairs() {
                        true => bands.fill_pairs(self.tile.isa(), source, size, band, buffer),
                        false => bands.fill(source, size, band, buffer),
                    }
                }
                let blocks: Vec<Block> = self.blocks.clone().map(|b| self.block(group, b)).collect();
                match &self.pass.way {
                    Way::Direct { steps, tiles } => self.direct(&blocks, buffer, steps, tiles),
                    Way::Panels { full, last, panels } => {
                        self.panels(&blocks, buffer, [full, last], panels, collected, sums);
                    }
                }
            }
        });
    }

    fn block(&self, group: usize, index: usize) -> Block<'_> {
        let product = self.product;
        let weights_len = self.pass.weights.len() / product.groups;
        let first = index * self.block;
        let channel = group * product.outputs + first;
        let channels = channel..channel + self.block.min(product.outputs - first);
        Block {
            weights: &self.pass.weights[group * weights_len + first * self.pass.offsets.len()..],
            bias: product.bias.map_or(&[0.0; MAX_ROWS], |bias| &bias[channels.clone()]),
            channels,
            first,
        }
    }

    fn direct(&self, blocks: &[Block], buffer: &[f32], steps: &Steps, tiles: &[Cover<usize>]) {
        let tiles = &tiles[..tiles.partition_point(|tile| self.has(&tile.runs[0]))];
        // Few steps: a tile's pixels stay in the first-level cache while all weights pass by. Many
        // steps: a block's weights stay while pixels do.
        if self.pass.offsets.len() <= FEW {
            for tile in tiles {
                blocks.iter().for_each(|block| self.direct_tile(block, buffer, steps, tile));
            }
        } else {
            for block in blocks {
                tiles.iter().for_each(|tile| self.direct_tile(block, buffer, steps, tile));
            }
        }
    }

    fn direct_tile(&self, block: &Block, buffer: &[f32], steps: &Steps, cover: &Cover<usize>) {
        let (tile, rows, start) = (self.tile, block.channels.len(), Start::Base(block.bias));
        let width = cover.from.len() * tile.lanes();
        if cover.runs[0].len == width && self.pass.bands.columns.stride == 1 {
            let plane = self.product.target[1] * self.product.target[2];
            let at = self.place(&cover.runs[0]) + block.channels.start * plane;
            let to = self.out.pointer(at, (rows - 1) * plane + width);
            // SAFETY: every row is a whole run of output pixels of one of the block's channels,
            // which belong to this task alone.
            unsafe { tile.run_to(rows, (block.weights, 1), buffer, &cover.from, steps, start, to, plane) }
        } else {
            let mut sums = [0.0f32; MAX_ROWS * MAX_WIDTH];
            tile.run(rows, (block.weights, 1), buffer, &cover.from, steps, start, &mut sums, MAX_WIDTH);
            self.store(&sums, MAX_WIDTH, block, &cover.runs);
        }
    }

    fn panels(
        &self,
        blocks: &[Block],
        buffer: &[f32],
        [full, last]: [&Steps; 2],
        panels: &[Cover<(usize, usize)>],
        collected: &mut [f32],
        sums: &mut [f32],
    ) {
        let (tile, lanes) = (self.tile, self.tile.lanes());
        let width = 2 * lanes;
        // Where the panel of a set, and its sums for a block, are.
        let panel = |i: usize| i * CHUNK * width;
        let place = |i: usize, block: &Block| (i * self.product.outputs + block.first) * width;
        let panels = &panels[..panels.partition_point(|panel| self.has(&panel.runs[0]))];
        for set in panels.chunks(SET) {
            for (chunk, offsets) in self.pass.offsets.chunks(CHUNK).enumerate() {
                for (i, cover) in set.iter().enumerate() {
                    let to = &mut collected[panel(i)..];
                    lanes::collect(tile.isa(), buffer, offsets, &cover.from, width, to);
                }
                let steps = if offsets.len() == CHUNK { full } else { last };
                for block in blocks {
                    let left = &block.weights[chunk * CHUNK * self.block..];
                    let start = if chunk == 0 { Start::Base(block.bias) } else { Start::Stored };
                    for (i, cover) in set.iter().enumerate() {
                        let used = cover.runs.last().map_or(0, |run| run.lane + run.len);
                        let at = &[0, lanes][..used.div_ceil(lanes)];
                        let (right, out) = (&collected[panel(i)..], &mut sums[place(i, block)..]);
                        tile.run(block.channels.len(), (left, 1), right, at, steps, start, out, width);
                    }
                }
            }
            for (i, cover) in set.iter().enumerate() {
                for block in blocks {
                    self.store(&sums[place(i, block)..], width, block, &cover.runs);
                }
            }
        }
    }

    /// Whether a run is among the rows and images of this task.
    fn has(&self, run: &Run) -> bool {
        run.row < self.rows.1 && run.image < self.images
    }

    /// Where a run's first pixel is in channel 0 of its image.
    fn place(&self, run: &Run) -> usize {
        let (rows, columns) = (&self.pass.bands.rows, &self.pass.bands.columns);
        let y = rows.first + (self.rows.0 + run.row) * rows.stride;
        let x = columns.first + run.column * columns.stride;
        let [channels, height, width] = self.product.target;
        (self.task.image + run.image) * channels * height * width + y * width + x
    }

    /// Writes the sums of a tile, rows `pitch` apart, to the pixels of `runs`.
    fn store(&self, sums: &[f32], pitch: usize, block: &Block, runs: &[Run]) {
        let plane = self.product.target[1] * self.product.target[2];
        for run in runs.iter().filter(|run| self.has(run)) {
            let at = self.place(run);
            for (i, channel) in block.channels.clone().enumerate() {
                let values = &sums[i * pitch + run.lane..][..run.len];
                let stride = self.pass.bands.columns.stride;
                // SAFETY: these pixels of these channels belong to this task alone.
                unsafe { self.out.write(at + channel * plane, stride, values) };
            }
        }
    }
}

/// Starts (`row * pitch + column`) of vectors that together cover a band: each begins at the first
/// pixel not yet covered, and may run on into the next row.
fn direct_vectors(bands: &Bands, lanes: usize) -> Vec<usize> {
    let (pitch, count) = (bands.pitch, bands.columns.count);
    let end = (bands.height - 1) * pitch + count;
    let mut starts = Vec::new();
    let mut place = 0;
    while place < end {
        starts.push(place);
        place += lanes;
        if place % pitch >= count {
            place = place.next_multiple_of(pitch);
        }
    }
    starts
}

/// The runs of `count` lanes, `pixel` giving each lane's image, row and column.
fn runs(count: usize, pixel: impl Fn(usize) -> Option<(usize, usize, usize)>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for lane in 0..count {
        let Some((image, row, column)) = pixel(lane) else {
            continue;
        };
        match runs.last_mut() {
            Some(run) if (run.image, run.row, run.column + run.len) == (image, row, column) => {
                run.len += 1;
            }
            _ => runs.push(Run { lane, len: 1, image, row, column }),
        }
    }
    runs
}

/// What [`lanes::collect`] copies for the pixels of `runs`: lanes and places in the buffer.
fn pieces(runs: &[Run], image_len: usize, bands: &Bands) -> Vec<(usize, usize)> {
    let mut pieces = Vec::new();
    for run in runs {
        let place = run.image * image_len + run.row * bands.pitch + run.column;
        pieces.extend((0..run.len).step_by(lanes::PIECE).map(|i| (run.lane + i, place + i)));
    }
    pieces
}
