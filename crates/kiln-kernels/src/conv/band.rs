//! The zero-padded copy of some source rows that a convolution reads.
//!
//! It holds one plane per channel, in which output pixels that are neighbours in a row always read
//! neighbouring floats: where the source is read in steps, its rows and columns are split by their
//! residue modulo the step. A tap is then a fixed distance from an output pixel's own place.

use super::axis::Axis;

/// Floats a buffer should not exceed: half a typical second-level cache of 1 MiB.
const TARGET: usize = 128 << 10;

/// How the output rows of one pass are divided, and how the source of each part is laid out.
pub(super) struct Bands {
    pub(super) rows: Axis,
    pub(super) columns: Axis,
    residues: [Vec<usize>; 2],
    /// Output rows of a band (the last may have fewer), and bands.
    pub(super) height: usize,
    pub(super) count: usize,
    /// Rows and row length of one residue's part of a plane.
    part: usize,
    pub(super) pitch: usize,
    /// Floats from one channel to the next.
    pub(super) plane: usize,
}

impl Bands {
    /// Bands small enough for the cache with `inputs` channels, and at least `wanted` of them
    /// unless they became too thin.
    pub(super) fn new(rows: Axis, columns: Axis, inputs: usize, wanted: usize) -> Bands {
        let residues = [rows.residues(), columns.residues()];
        let classes = residues[0].len() * residues[1].len();
        let pitch = columns.count + columns.reach();
        let fitting = TARGET / (inputs * classes * pitch).max(1);
        let fitting = fitting.saturating_sub(rows.reach()).max(1);
        let thin = rows.count.div_ceil(4);
        let count = rows.count.div_ceil(fitting).max(wanted.min(thin)).max(1);
        let height = rows.count.div_ceil(count).max(1);
        let count = rows.count.div_ceil(height);
        let part = height + rows.reach();
        // Planes a multiple of 1 KiB apart would compete for the same few cache sets.
        let mut plane = classes * part * pitch;
        if plane % 256 < 16 || plane % 256 > 240 {
            plane += 32;
        }
        Bands { rows, columns, residues, height, count, part, pitch, plane }
    }

    /// First output row of a band and how many it has.
    pub(super) fn rows_of(&self, band: usize) -> (usize, usize) {
        let first = band * self.height;
        (first, self.height.min(self.rows.count - first))
    }

    /// For each tap of the pass: its index in a kernel `kernel_width` wide, and how far in a plane
    /// it is from output pixel `(r, q)`'s place `r * pitch + q`.
    pub(super) fn taps(&self, kernel_width: usize) -> Vec<(usize, usize)> {
        let mut taps = Vec::new();
        for (ky, ry, dy) in self.rows.places() {
            for (kx, rx, dx) in self.columns.places() {
                let class = ry * self.residues[1].len() + rx;
                let offset = (class * self.part + dy) * self.pitch + dx;
                taps.push((ky * kernel_width + kx, offset));
            }
        }
        taps
    }

    /// Fills `buffer` with what `band` reads of `source`, channel planes of `size`.
    pub(super) fn fill(&self, source: &[f32], size: [usize; 2], band: usize, buffer: &mut [f32]) {
        let [height, width] = size;
        let (first_row, rows) = self.rows_of(band);
        let (step_y, step_x) = (self.rows.step, self.columns.step);
        let top = (first_row * step_y) as isize + self.rows.least_shift();
        let left = self.columns.least_shift();
        let used = rows + self.part - self.height;
        // The part of a buffer row that lies inside the source, for each residue.
        let spans: Vec<(usize, usize, usize)> = self.residues[1]
            .iter()
            .map(|residue| {
                let x = left + *residue as isize;
                let from = (-x).max(0).unsigned_abs().div_ceil(step_x).min(self.pitch);
                let inside = (width as isize - x).max(0).unsigned_abs();
                let to = inside.div_ceil(step_x).clamp(from, self.pitch);
                (from, to, (x + (from * step_x) as isize).max(0).unsigned_abs())
            })
            .collect();
        // Nothing to pad or split: whole bands are copied at once.
        let plain = [step_y, step_x] == [1, 1]
            && self.residues[0].len() == 1
            && spans == [(0, width, 0)]
            && self.pitch == width;
        for (c, channel) in source.chunks_exact(height * width).enumerate() {
            if plain && top >= 0 && top.unsigned_abs() + used <= height {
                let from = top.unsigned_abs() * width;
                let to = &mut buffer[c * self.plane..][..used * width];
                to.copy_from_slice(&channel[from..from + used * width]);
                continue;
            }
            for (ry, residue) in self.residues[0].iter().enumerate() {
                for j in 0..used {
                    let y = top + (j * step_y + residue) as isize;
                    let line = usize::try_from(y).ok().filter(|y| *y < height);
                    for (rx, &(from, to, x)) in spans.iter().enumerate() {
                        let class = ry * spans.len() + rx;
                        let at = c * self.plane + (class * self.part + j) * self.pitch;
                        let row = &mut buffer[at..at + self.pitch];
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
                            let line = line.iter().step_by(step_x);
                            for (to, from) in row[from..to].iter_mut().zip(line) {
                                *to = *from;
                            }
                        }
                    }
                }
            }
        }
    }
}
