//! Convolution and its transpose, both as sums over taps gathered from the other field.
//!
//! Every output pixel is a sum over channels and taps of weights times source pixels at fixed
//! shifts. A strided transpose is split into the `stride x stride` classes of output pixels that
//! see the same taps, each of them a plain convolution with fewer taps.
//! The source is copied, a band of rows at a time, into a zero-padded buffer that stays in the
//! second-level cache; strided sources are split there by residue, so that neighbouring output
//! pixels always read neighbouring floats. The tile kernel then runs straight over that buffer: a
//! step is one (channel, tap), its left side the packed weights, its right side a vector of pixels.

use super::Shape;
use crate::{
    isa::Isa,
    output::{self, Output},
    tasks,
    tile::{MAX_ROWS, MAX_WIDTH, Steps, Tile},
};

/// Floats a band's buffer should not exceed: half a typical second-level cache of 1 MiB.
const BAND: usize = 128 << 10;

/// The far field `[images, far..]` from the near field: `conv2d`.
pub(crate) fn to_far(
    isa: Isa,
    s: &Shape,
    near: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let axis = |a: usize| {
        Axis::convolution(
            s.kernel[a],
            s.options.stride[a],
            s.options.padding[a],
            s.options.dilation[a],
            s.far[1 + a],
        )
    };
    let taps = s.taps();
    let product = Product {
        images: s.images,
        groups: s.options.groups,
        source: s.near,
        target: s.far,
        kernel_width: s.kernel[1],
        passes: vec![(axis(0), axis(1))],
        weights: w,
        out_stride: s.near_group() * taps,
        in_stride: taps,
        group_stride: s.far_group() * s.near_group() * taps,
        bias,
        work: s.work(),
    };
    product.run(isa, near)
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
        Axis::transposed(
            s.kernel[a],
            s.options.stride[a],
            s.options.padding[a],
            s.options.dilation[a],
            s.near[1 + a],
        )
    };
    let (rows, columns) = (axis(0), axis(1));
    let passes = rows
        .iter()
        .flat_map(|y| columns.iter().map(|x| (y.clone(), x.clone())))
        .collect();
    let taps = s.taps();
    let product = Product {
        images: s.images,
        groups: s.options.groups,
        source: s.far,
        target: s.near,
        kernel_width: s.kernel[1],
        passes,
        weights: w,
        out_stride: taps,
        in_stride: s.near_group() * taps,
        group_stride: s.far_group() * s.near_group() * taps,
        bias,
        work: s.work(),
    };
    product.run(isa, far)
}

/// One axis of a pass: output `first + i * stride` for `i < count` sees, through each tap
/// `(kernel index, shift)`, the source at `i * step + shift`.
#[derive(Clone, Debug)]
struct Axis {
    taps: Vec<(usize, isize)>,
    step: usize,
    first: usize,
    stride: usize,
    count: usize,
}

impl Axis {
    fn convolution(
        kernel: usize,
        stride: usize,
        padding: usize,
        dilation: usize,
        count: usize,
    ) -> Axis {
        let taps = (0..kernel)
            .map(|k| (k, (k * dilation) as isize - padding as isize))
            .collect();
        Axis {
            taps,
            step: stride,
            first: 0,
            stride: 1,
            count,
        }
    }

    /// The classes of outputs of a transposed convolution: output `o` sees source `i` through tap
    /// `k` where `i * stride + k * dilation - padding = o`.
    fn transposed(
        kernel: usize,
        stride: usize,
        padding: usize,
        dilation: usize,
        count: usize,
    ) -> Vec<Axis> {
        (0..stride.min(count))
            .map(|first| {
                let taps = (0..kernel)
                    .map(|k| (k, (first + padding) as isize - (k * dilation) as isize))
                    .filter(|(_, shift)| shift.rem_euclid(stride as isize) == 0)
                    .map(|(k, shift)| (k, shift.div_euclid(stride as isize)))
                    .collect();
                Axis {
                    taps,
                    step: 1,
                    first,
                    stride,
                    count: (count - first).div_ceil(stride),
                }
            })
            .collect()
    }

    fn least_shift(&self) -> isize {
        self.taps.iter().map(|tap| tap.1).min().unwrap_or(0)
    }

    /// Residues modulo `step` that some tap reads, in the order of the buffer's planes.
    fn residues(&self) -> Vec<usize> {
        let least = self.least_shift();
        let mut residues: Vec<usize> = self
            .taps
            .iter()
            .map(|tap| (tap.1 - least) as usize % self.step)
            .collect();
        residues.sort_unstable();
        residues.dedup();
        residues
    }

    /// For each tap `(kernel index, place among the residues, index within the residue)`.
    fn places(&self) -> Vec<(usize, usize, usize)> {
        let (least, residues) = (self.least_shift(), self.residues());
        self.taps
            .iter()
            .map(|&(k, shift)| {
                let offset = (shift - least) as usize;
                let residue = residues
                    .iter()
                    .position(|r| *r == offset % self.step)
                    .unwrap_or(0);
                (k, residue, offset / self.step)
            })
            .collect()
    }

    /// How far beyond `count` the buffer must extend within a residue.
    fn reach(&self) -> usize {
        self.places().iter().map(|place| place.2).max().unwrap_or(0)
    }
}

/// A convolution-like product: which field is read, which is written, and how weights lie.
struct Product<'a> {
    images: usize,
    groups: usize,
    /// Channels, height, width of the field read and of the field written.
    source: [usize; 3],
    target: [usize; 3],
    kernel_width: usize,
    passes: Vec<(Axis, Axis)>,
    weights: &'a [f32],
    /// Distance in `weights` between output channels, input channels and groups.
    out_stride: usize,
    in_stride: usize,
    group_stride: usize,
    bias: Option<&'a [f32]>,
    work: usize,
}

/// Everything about a pass that its tasks share.
struct Plan<'p> {
    rows: &'p Axis,
    columns: &'p Axis,
    residues: [Vec<usize>; 2],
    /// Output rows per band, and bands.
    band: usize,
    bands: usize,
    /// Rows and row length of one residue's plane, and floats from one channel to the next.
    height: usize,
    pitch: usize,
    plane: usize,
    /// First pixels (as `row * pitch + column` of a band) of the vectors covering a band.
    vectors: Vec<usize>,
    /// `[group][block][step][block rows]`.
    packed: Vec<f32>,
    steps: Steps,
    step_count: usize,
}

impl Product<'_> {
    fn run(&self, isa: Isa, source: &[f32]) -> Vec<f32> {
        let tile = Tile::new(isa);
        let (inputs, outputs) = (self.source[0] / self.groups, self.target[0] / self.groups);
        let block = tile.block(outputs);
        let blocks = outputs.div_ceil(block);
        let plans: Vec<Plan> = self
            .passes
            .iter()
            .map(|(y, x)| self.plan(tile, y, x, inputs, outputs, block))
            .collect();

        // A task is one band of one image and pass; with few of them the output channels are
        // divided as well. Whatever the split, every output sums its steps in the same order.
        let bands: usize = plans.iter().map(|plan| plan.bands).sum();
        let places: Vec<(usize, usize)> = plans
            .iter()
            .enumerate()
            .flat_map(|(p, plan)| (0..plan.bands).map(move |band| (p, band)))
            .collect();
        let splits = tasks::threads()
            .div_ceil((self.images * bands).max(1))
            .clamp(1, blocks.max(1));

        let image_in: usize = self.source.iter().product();
        let len = self.images * self.target.iter().product::<usize>();
        let fill = |out: &Output<'_>| {
            tasks::each(self.images * bands * splits, self.work, |task| {
                let (image, rest) = (task / (bands * splits), task % (bands * splits));
                let (pass, band) = places[rest / splits];
                let split = rest % splits;
                let range = split * blocks / splits..(split + 1) * blocks / splits;
                let source = &source[image * image_in..][..image_in];
                self.band(tile, &plans[pass], source, image, band, range, block, out);
            });
        };
        // SAFETY: passes divide the output's pixels into classes, bands divide a pass's rows and
        // splits the channels, so together the tasks write every element exactly once.
        unsafe { output::filled(len, fill) }
    }

    fn plan<'p>(
        &self,
        tile: Tile,
        rows: &'p Axis,
        columns: &'p Axis,
        inputs: usize,
        outputs: usize,
        block: usize,
    ) -> Plan<'p> {
        let residues = [rows.residues(), columns.residues()];
        let classes = residues[0].len() * residues[1].len();
        let pitch = columns.count + columns.reach();
        let per_row = inputs * classes * pitch;

        let fitting = (BAND / per_row.max(1)).saturating_sub(rows.reach()).max(1);
        let wanted = (4 * tasks::threads()).div_ceil(self.images.max(1) * self.passes.len());
        let bands = rows
            .count
            .div_ceil(fitting)
            .max(wanted.min(rows.count.div_ceil(4)))
            .max(1);
        let band = rows.count.div_ceil(bands).max(1);
        let bands = rows.count.div_ceil(band);

        let height = band + rows.reach();
        // Planes a multiple of 1 KiB apart would compete for the same few cache sets.
        let mut plane = classes * height * pitch;
        if plane % 256 < 16 || plane % 256 > 240 {
            plane += 32;
        }

        let lanes = tile.lanes();
        let vectors = if columns.count % lanes == 0 {
            (0..band)
                .flat_map(|r| {
                    (0..columns.count)
                        .step_by(lanes)
                        .map(move |q| r * pitch + q)
                })
                .collect()
        } else {
            (0..((band - 1) * pitch + columns.count))
                .step_by(lanes)
                .collect()
        };

        let places: Vec<(usize, usize)> = rows
            .places()
            .iter()
            .flat_map(|&(ky, ry, dy)| {
                let residues = residues[1].len();
                columns.places().into_iter().map(move |(kx, rx, dx)| {
                    let offset = ((ry * residues + rx) * height + dy) * pitch + dx;
                    (ky * self.kernel_width + kx, offset)
                })
            })
            .collect();
        let step_count = inputs * places.len();
        let steps = Steps::new((0..inputs).flat_map(|c| {
            let places = &places;
            (0..places.len())
                .map(move |t| ((c * places.len() + t) * block, c * plane + places[t].1))
        }));
        let packed = self.pack(&places, inputs, outputs, block);
        Plan {
            rows,
            columns,
            residues,
            band,
            bands,
            height,
            pitch,
            plane,
            vectors,
            packed,
            steps,
            step_count,
        }
    }

    /// Weights as the tile reads them: for each block of output channels, step after step.
    fn pack(
        &self,
        places: &[(usize, usize)],
        inputs: usize,
        outputs: usize,
        block: usize,
    ) -> Vec<f32> {
        let blocks = outputs.div_ceil(block);
        let size = inputs * places.len() * block;
        let mut packed = vec![0.0; self.groups * blocks * size];
        let out = Output::new(&mut packed);
        tasks::each(self.groups * blocks, self.groups * blocks * size, |task| {
            let (group, first) = (task / blocks, task % blocks * block);
            let rows = block.min(outputs - first);
            let base = group * self.group_stride + first * self.out_stride;
            // SAFETY: each task has its own block of the buffer.
            let packed = unsafe { out.slice(task * size..(task + 1) * size) };
            for i in 0..rows {
                for c in 0..inputs {
                    let from = &self.weights[base + i * self.out_stride + c * self.in_stride..];
                    for (t, (tap, _)) in places.iter().enumerate() {
                        packed[(c * places.len() + t) * block + i].write(from[*tap]);
                    }
                }
            }
        });
        packed
    }

    /// Computes one band of one image for the given blocks of output channels, in every group.
    #[allow(clippy::too_many_arguments)]
    fn band(
        &self,
        tile: Tile,
        plan: &Plan,
        source: &[f32],
        image: usize,
        band: usize,
        blocks: std::ops::Range<usize>,
        block: usize,
        out: &Output<'_>,
    ) {
        let (inputs, outputs) = (self.source[0] / self.groups, self.target[0] / self.groups);
        let lanes = tile.lanes();
        let first_row = band * plan.band;
        let band_rows = plan.band.min(plan.rows.count - first_row);
        let end = (band_rows - 1) * plan.pitch + plan.columns.count;
        let used = plan.vectors.partition_point(|start| *start < end);
        let all_blocks = outputs.div_ceil(block);
        let size = plan.step_count * block;
        let target_plane = self.target[1] * self.target[2];
        let source_plane = self.source[1] * self.source[2];

        tasks::with_scratch(inputs * plan.plane + MAX_WIDTH, |buffer| {
            let mut sums = [0.0f32; MAX_ROWS * MAX_WIDTH];
            for group in 0..self.groups {
                let channels = &source[group * inputs * source_plane..][..inputs * source_plane];
                self.copy(plan, channels, first_row, band_rows, buffer);
                for b in blocks.clone() {
                    let first = b * block;
                    let rows = block.min(outputs - first);
                    let left = &plan.packed[(group * all_blocks + b) * size..][..size];
                    let channel = group * outputs + first;
                    for starts in plan.vectors[..used].chunks(2) {
                        tile.run(
                            rows,
                            left,
                            buffer,
                            starts,
                            &plan.steps,
                            &mut sums,
                            MAX_WIDTH,
                            false,
                        );
                        for (v, start) in starts.iter().enumerate() {
                            let mut lane = 0;
                            while lane < lanes {
                                let (r, q) =
                                    ((start + lane) / plan.pitch, (start + lane) % plan.pitch);
                                if r >= band_rows {
                                    break;
                                }
                                let run = (plan.pitch - q).min(lanes - lane);
                                let valid = run.min(plan.columns.count.saturating_sub(q));
                                let y = plan.rows.first + (first_row + r) * plan.rows.stride;
                                let x = plan.columns.first + q * plan.columns.stride;
                                for i in 0..rows {
                                    let plane =
                                        (image * self.target[0] + channel + i) * target_plane;
                                    let bias = self.bias.map_or(0.0, |bias| bias[channel + i]);
                                    let values = &sums[i * MAX_WIDTH + v * lanes + lane..][..valid];
                                    let at = plane + y * self.target[2] + x;
                                    // SAFETY: this band's pixels of these channels belong to this
                                    // task alone.
                                    unsafe { out.write(at, plan.columns.stride, values, bias) };
                                }
                                lane += run;
                            }
                        }
                    }
                }
            }
        });
    }

    /// Fills the padded buffer with the source rows a band reads, split by residue.
    fn copy(
        &self,
        plan: &Plan,
        source: &[f32],
        first_row: usize,
        band_rows: usize,
        buffer: &mut [f32],
    ) {
        let (height, width) = (self.source[1], self.source[2]);
        let (step_y, step_x) = (plan.rows.step, plan.columns.step);
        let top = (first_row * step_y) as isize + plan.rows.least_shift();
        let left = plan.columns.least_shift();
        let used = band_rows + plan.height - plan.band;
        // The part of a buffer row that lies inside the source, for each residue.
        let spans: Vec<(usize, usize, usize)> = plan.residues[1]
            .iter()
            .map(|residue| {
                let x = left + *residue as isize;
                let from = (-x).max(0).unsigned_abs().div_ceil(step_x).min(plan.pitch);
                let inside = (width as isize - x).max(0).unsigned_abs();
                let to = inside.div_ceil(step_x).clamp(from, plan.pitch);
                (
                    from,
                    to,
                    (x + (from * step_x) as isize).max(0).unsigned_abs(),
                )
            })
            .collect();
        for (c, channel) in source.chunks_exact(height * width).enumerate() {
            for (ry, residue) in plan.residues[0].iter().enumerate() {
                for j in 0..used {
                    let y = top + (j * step_y + residue) as isize;
                    let line = usize::try_from(y).ok().filter(|y| *y < height);
                    for (rx, &(from, to, x)) in spans.iter().enumerate() {
                        let class = ry * spans.len() + rx;
                        let at = c * plan.plane + (class * plan.height + j) * plan.pitch;
                        let row = &mut buffer[at..at + plan.pitch];
                        let Some(y) = line else {
                            row.fill(0.0);
                            continue;
                        };
                        row[..from].fill(0.0);
                        row[to..].fill(0.0);
                        if from == to {
                            continue;
                        }
                        let line = &channel[y * width + x..(y + 1) * width];
                        if step_x == 1 {
                            row[from..to].copy_from_slice(&line[..to - from]);
                        } else {
                            for (to, from) in
                                row[from..to].iter_mut().zip(line.iter().step_by(step_x))
                            {
                                *to = *from;
                            }
                        }
                    }
                }
            }
        }
    }
}
