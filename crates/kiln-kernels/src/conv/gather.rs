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
pub(crate) fn to_far(
    isa: Isa,
    s: &Shape,
    near: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let axis = |a: usize| {
        let ConvOptions {
            stride,
            padding,
            dilation,
            ..
        } = s.options;
        Axis::convolution(
            s.kernel[a],
            stride[a],
            padding[a],
            dilation[a],
            s.far[1 + a],
        )
    };
    let strides = (s.near_group() * s.taps(), s.taps());
    Product::new(s, s.near, s.far, w, strides, bias).run(isa, vec![(axis(0), axis(1))], near)
}

/// The near field `[images, near..]` from the far field: `conv_transpose2d`, and the gradient of
/// `conv2d` in its input.
pub(crate) fn to_near(
    isa: Isa,
    s: &Shape,
    far: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let axis = |a: usize| {
        let ConvOptions {
            stride,
            padding,
            dilation,
            ..
        } = s.options;
        Axis::transposed(
            s.kernel[a],
            stride[a],
            padding[a],
            dilation[a],
            s.near[1 + a],
        )
    };
    let (rows, columns) = (axis(0), axis(1));
    let passes = rows
        .iter()
        .flat_map(|y| columns.iter().map(|x| (y.clone(), x.clone())))
        .collect();
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
    /// Vectors read from the buffer: all steps, and the tiles covering a band.
    Direct {
        steps: Steps,
        tiles: Vec<(Vec<usize>, Vec<Run>)>,
    },
    /// Pixels collected first: the steps of a full chunk and of the last one, and the panels.
    Panels {
        full: Steps,
        last: Steps,
        panels: Vec<(Vec<(usize, usize)>, Vec<Run>)>,
    },
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
        let passes: Vec<Pass> = axes
            .into_iter()
            .map(|(rows, columns)| self.pass(tile, block, rows, columns, wanted))
            .collect();

        // A task is one band of some images; with few of them the output channels are divided as
        // well. However tasks are cut, every output sums its steps in the same order.
        let places: Vec<Task> = passes
            .iter()
            .enumerate()
            .flat_map(|(pass, p)| {
                (0..self.images).step_by(p.together).flat_map(move |image| {
                    (0..p.bands.count).map(move |band| Task {
                        pass,
                        image,
                        band,
                        split: 0,
                    })
                })
            })
            .collect();
        let splits = tasks::threads()
            .div_ceil(places.len().max(1))
            .clamp(1, blocks);
        let mut tasks: Vec<Task> = places
            .into_iter()
            .flat_map(|task| (0..splits).map(move |split| Task { split, ..task }))
            .collect();
        // The passes of one image write the same lines.
        tasks.sort_by_key(|task| task.image);

        let fill = |out: &Output<'_>| {
            tasks::each(tasks.len(), self.work, |i| {
                let task = tasks[i];
                let blocks = task.split * blocks / splits..(task.split + 1) * blocks / splits;
                self.task(tile, &passes[task.pass], source, task, block, blocks, out);
            });
        };
        let len = self.images * self.target.iter().product::<usize>();
        // SAFETY: passes divide the output's pixels into classes, bands divide a pass's rows and
        // splits the channels, so together the tasks write every element exactly once.
        unsafe { output::filled(len, fill) }
    }

    fn pass(&self, tile: Tile, block: usize, rows: Axis, columns: Axis, wanted: usize) -> Pass {
        let bands = Bands::new(rows, columns, self.inputs, wanted);
        let taps = bands.taps(self.kernel_width);
        let offsets: Vec<usize> = (0..self.inputs)
            .flat_map(|c| taps.iter().map(move |(_, offset)| (c, *offset)))
            .map(|(c, offset)| c * bands.plane + offset)
            .collect();
        let weights = self.pack(&taps, block);

        // Panels cost the collecting, about as much as 24 more outputs would; vectors in place
        // cost the lanes they waste.
        let (lanes, width) = (tile.lanes(), 2 * tile.lanes());
        let pixels = bands.height * bands.columns.count;
        let vectors = direct_vectors(&bands, lanes);
        let together =
            (SET * width / pixels.max(1)).clamp(1, self.images.div_ceil(tasks::threads()).max(1));
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
                    (starts.to_vec(), runs)
                })
                .collect();
            let steps = offsets
                .iter()
                .enumerate()
                .map(|(k, offset)| (k * block, *offset));
            Way::Direct {
                steps: Steps::new(steps),
                tiles,
            }
        } else {
            let all = together * pixels;
            let panels = (0..all)
                .step_by(width)
                .map(|first| {
                    let runs = runs(width.min(all - first), |lane| {
                        let (image, pixel) = ((first + lane) / pixels, (first + lane) % pixels);
                        Some((
                            image,
                            pixel / bands.columns.count,
                            pixel % bands.columns.count,
                        ))
                    });
                    (pieces(&runs, &bands, self.inputs), runs)
                })
                .collect();
            let steps = |count: usize| Steps::new((0..count).map(|k| (k * block, k * width)));
            let last = offsets.len() % CHUNK;
            Way::Panels {
                full: steps(CHUNK),
                last: steps(last),
                panels,
            }
        };
        let together = if matches!(way, Way::Direct { .. }) {
            1
        } else {
            together
        };
        Pass {
            bands,
            together,
            offsets,
            weights,
            way,
        }
    }

    /// [`Pass::weights`].
    fn pack(&self, taps: &[(usize, usize)], block: usize) -> Vec<f32> {
        let blocks = self.outputs.div_ceil(block);
        let size = self.inputs * taps.len() * block;
        let mut packed = vec![0.0; self.groups * blocks * size];
        let out = Output::new(&mut packed);
        let (out_stride, in_stride, group_stride) = self.strides;
        tasks::each(self.groups * blocks, self.groups * blocks * size, |task| {
            let (group, first) = (task / blocks, task % blocks * block);
            let rows = block.min(self.outputs - first);
            let base = group * group_stride + first * out_stride;
            // SAFETY: each task has its own block of the buffer.
            let packed = unsafe { out.slice(task * size..(task + 1) * size) };
            for c in 0..self.inputs {
                for i in 0..rows {
                    let from = &self.weights[base + i * out_stride + c * in_stride..];
                    for (t, (tap, _)) in taps.iter().enumerate() {
                        packed[(c * taps.len() + t) * block + i].write(from[*tap]);
                    }
                }
            }
        });
        packed
    }

    /// Computes one task, for the given blocks of output channels of every group.
    #[allow(clippy::too_many_arguments)]
    fn task(
        &self,
        tile: Tile,
        pass: &Pass,
        source: &[f32],
        task: Task,
        block: usize,
        blocks: Range<usize>,
        out: &Output<'_>,
    ) {
        let bands = &pass.bands;
        let images = pass.together.min(self.images - task.image);
        let (source_plane, size) = (
            self.source[1] * self.source[2],
            [self.source[1], self.source[2]],
        );
        let image_len = self.inputs * bands.plane;
        let (_, rows) = bands.rows_of(task.band);
        let weights_len = pass.weights.len() / self.groups;
        let width = 2 * tile.lanes();

        let buffer_len = pass.together * image_len + MAX_WIDTH;
        let (panel_len, sums_len) = match pass.way {
            Way::Direct { .. } => (0, 0),
            Way::Panels { .. } => (SET * CHUNK * width + MAX_WIDTH, SET * self.outputs * width),
        };
        tasks::with_scratch(buffer_len + panel_len + sums_len, |scratch| {
            let (buffer, scratch) = scratch.split_at_mut(buffer_len);
            let (collected, all_sums) = scratch.split_at_mut(panel_len);
            for group in 0..self.groups {
                for (i, buffer) in buffer.chunks_exact_mut(image_len).take(images).enumerate() {
                    let at =
                        ((task.image + i) * self.source[0] + group * self.inputs) * source_plane;
                    let channels = &source[at..at + self.inputs * source_plane];
                    bands.fill(channels, size, task.band, buffer);
                }
                let weights = &pass.weights[group * weights_len..][..weights_len];
                let left = |b: usize| &weights[b * block * pass.offsets.len()..];
                let height = |b: usize| block.min(self.outputs - b * block);
                let first_channel = |b: usize| group * self.outputs + b * block;
                let base = |b: usize| {
                    self.bias
                        .map_or(&[0.0; MAX_ROWS][..], |bias| &bias[first_channel(b)..])
                };
                let store = |sums: &[f32], b: usize, runs: &[Run]| {
                    let channels = first_channel(b)..first_channel(b) + height(b);
                    let runs = runs
                        .iter()
                        .filter(|run| run.row < rows && run.image < images);
                    self.store(pass, task, sums, width, channels, runs, out);
                };
                match &pass.way {
                    Way::Direct { steps, tiles } => {
                        let used = tiles.partition_point(|(_, runs)| runs[0].row < rows);
                        let plane = self.target[1] * self.target[2];
                        let compute = |b: usize, starts: &[usize], runs: &[Run]| {
                            let whole = runs.len() == 1
                                && runs[0].len == starts.len() * tile.lanes()
                                && bands.columns.stride == 1;
                            if whole {
                                let at =
                                    self.place(pass, task, &runs[0]) + first_channel(b) * plane;
                                let len = (height(b) - 1) * plane + runs[0].len;
                                let to = out.pointer(at, len);
                                // SAFETY: the rows are whole runs of output pixels of consecutive
                                // channels, which belong to this task alone.
                                unsafe {
                                    tile.run_to(
                                        height(b),
                                        left(b),
                                        buffer,
                                        starts,
                                        steps,
                                        Start::Base(base(b)),
                                        to,
                                        plane,
                                    );
                                }
                            } else {
                                let mut sums = [0.0f32; MAX_ROWS * MAX_WIDTH];
                                tile.run(
                                    height(b),
                                    left(b),
                                    buffer,
                                    starts,
                                    steps,
                                    Start::Base(base(b)),
                                    &mut sums,
                                    width,
                                );
                                store(&sums, b, runs);
                            }
                        };
                        // Few steps: a tile's pixels stay in the first-level cache while all
                        // weights pass by. Many steps: a block's weights stay while pixels do.
                        if pass.offsets.len() <= FEW {
                            for (starts, runs) in &tiles[..used] {
                                blocks.clone().for_each(|b| compute(b, starts, runs));
                            }
                        } else {
                            for b in blocks.clone() {
                                tiles[..used]
                                    .iter()
                                    .for_each(|(starts, runs)| compute(b, starts, runs));
                            }
                        }
                    }
                    Way::Panels { full, last, panels } => {
                        let in_use = |runs: &[Run]| runs[0].row < rows && runs[0].image < images;
                        let used = panels.partition_point(|(_, runs)| in_use(runs));
                        for set in panels[..used].chunks(SET) {
                            for (chunk, offsets) in pass.offsets.chunks(CHUNK).enumerate() {
                                for (i, (pieces, _)) in set.iter().enumerate() {
                                    let to = &mut collected[i * CHUNK * width..];
                                    lanes::collect(tile.isa(), buffer, offsets, pieces, width, to);
                                }
                                let steps = if offsets.len() == CHUNK { full } else { last };
                                for b in blocks.clone() {
                                    let left = &left(b)[chunk * CHUNK * block..];
                                    for (i, (_, runs)) in set.iter().enumerate() {
                                        let end = runs.last().map_or(0, |run| run.lane + run.len);
                                        let at = [0, tile.lanes()];
                                        let at = &at[..end.div_ceil(tile.lanes())];
                                        let right = &collected[i * CHUNK * width..];
                                        let sums =
                                            &mut all_sums[(i * self.outputs + b * block) * width..];
                                        let start = if chunk == 0 {
                                            Start::Base(base(b))
                                        } else {
                                            Start::Stored
                                        };
                                        tile.run(
                                            height(b),
                                            left,
                                            right,
                                            at,
                                            steps,
                                            start,
                                            sums,
                                            width,
                                        );
                                    }
                                }
                            }
                            for (i, (_, runs)) in set.iter().enumerate() {
                                for b in blocks.clone() {
                                    store(
                                        &all_sums[(i * self.outputs + b * block) * width..],
                                        b,
                                        runs,
                                    );
                                }
                            }
                        }
                    }
                }
            }
        });
    }

    /// Writes the sums of a tile, `width` floats apart, to the pixels of `runs` in `channels`.
    #[allow(clippy::too_many_arguments)]
    fn store<'r>(
        &self,
        pass: &Pass,
        task: Task,
        sums: &[f32],
        width: usize,
        channels: Range<usize>,
        runs: impl Iterator<Item = &'r Run>,
        out: &Output<'_>,
    ) {
        let plane = self.target[1] * self.target[2];
        for run in runs {
            let at = self.place(pass, task, run);
            for (i, channel) in channels.clone().enumerate() {
                let values = &sums[i * width + run.lane..][..run.len];
                // SAFETY: these pixels of these channels belong to this task alone.
                unsafe { out.write(at + channel * plane, pass.bands.columns.stride, values) };
            }
        }
    }

    /// Where a run's first pixel is in channel 0 of its image.
    fn place(&self, pass: &Pass, task: Task, run: &Run) -> usize {
        let (rows, columns) = (&pass.bands.rows, &pass.bands.columns);
        let (first_row, _) = pass.bands.rows_of(task.band);
        let y = rows.first + (first_row + run.row) * rows.stride;
        let x = columns.first + run.column * columns.stride;
        let [channels, height, width] = self.target;
        (task.image + run.image) * channels * height * width + y * width + x
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
            _ => runs.push(Run {
                lane,
                len: 1,
                image,
                row,
                column,
            }),
        }
    }
    runs
}

/// What [`lanes::collect`] copies for the pixels of `runs`: lanes and places in the buffer.
fn pieces(runs: &[Run], bands: &Bands, inputs: usize) -> Vec<(usize, usize)> {
    let mut pieces = Vec::new();
    for run in runs {
        let place = run.image * inputs * bands.plane + run.row * bands.pitch + run.column;
        pieces.extend(
            (0..run.len)
                .step_by(lanes::PIECE)
                .map(|i| (run.lane + i, place + i)),
        );
    }
    pieces
}
