//! The zero-padded copy of some source rows that a convolution reads.
//!
//! It holds one plane per channel, in which output pixels that are neighbours in a row always read
//! neighbouring floats: where the source is read in steps, its rows and columns are split by their
//! residue modulo the step. A tap is then a fixed distance from an output pixel's own place.

use super::axis::Axis;
use crate::{
    isa::Isa,
    pairs::{pack, pack_padded},
    tasks,
};
use std::ops::Range;

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

    /// The rows of a plane that `band` reads of source planes of `size`.
    fn lines(&self, [height, width]: [usize; 2], band: usize) -> Vec<Line> {
        let (first_row, rows) = self.rows_of(band);
        let (step_y, step_x) = (self.rows.step, self.columns.step);
        let top = (first_row * step_y) as isize + self.rows.least_shift();
        let left = self.columns.least_shift();
        let used = rows + self.part - self.height;
        let mut lines: Vec<Line> = Vec::new();
        for (ry, residue_y) in self.residues[0].iter().enumerate() {
            for (rx, residue_x) in self.residues[1].iter().enumerate() {
                let x = left + *residue_x as isize;
                let before = (-x).max(0).unsigned_abs().div_ceil(step_x).min(self.pitch);
                let until = (width as isize - x).max(0).unsigned_abs().div_ceil(step_x).clamp(before, self.pitch);
                let column = (x + (before * step_x) as isize).max(0).unsigned_abs();
                let class = ry * self.residues[1].len() + rx;
                for j in 0..used {
                    let at = (class * self.part + j) * self.pitch;
                    let y = usize::try_from(top + (j * step_y + residue_y) as isize).ok().filter(|y| *y < height);
                    let line = match y {
                        Some(y) if before < until => {
                            Line { at, len: self.pitch, inside: before..until, from: y * width + column }
                        }
                        _ => Line { at, len: self.pitch, inside: 0..0, from: 0 },
                    };
                    match lines.last_mut() {
                        Some(last) if step_x == 1 && last.goes_on_with(&line) => {
                            last.len += line.len;
                            last.inside.end = last.len;
                        }
                        _ => lines.push(line),
                    }
                }
            }
        }
        lines
    }

    /// Fills `buffer` with what `band` reads of `source`, channel planes of `size`.
    pub(super) fn fill(&self, source: &[f32], size: [usize; 2], band: usize, buffer: &mut [f32]) {
        let lines = self.lines(size, band);
        for (channel, plane) in source.chunks_exact(size[0] * size[1]).zip(buffer.chunks_exact_mut(self.plane)) {
            for line in &lines {
                line.copy(channel, self.columns.step, &mut plane[line.at..][..line.len]);
            }
        }
    }

    /// The same with the pairs of every two channels in a plane.
    pub(super) fn fill_pairs(&self, isa: Isa, source: &[f32], size: [usize; 2], band: usize, buffer: &mut [f32]) {
        let lines = self.lines(size, band);
        let (step, channel_len) = (self.columns.step, size[0] * size[1]);
        tasks::with_scratch(2 * self.pitch, |apart| {
            let (one, other) = apart.split_at_mut(self.pitch);
            for (channels, plane) in source.chunks(2 * channel_len).zip(buffer.chunks_exact_mut(self.plane)) {
                let (first, second) = channels.split_at(channel_len);
                for line in &lines {
                    let row = &mut plane[line.at..][..line.len];
                    if step == 1 {
                        let [first, second] = [first, second].map(|c| c.get(line.source()).unwrap_or_default());
                        pack_padded(isa, first, second, line.inside.start, row);
                    } else {
                        line.copy(first, step, one);
                        let paired = !second.is_empty();
                        if paired {
                            line.copy(second, step, other);
                        }
                        pack(isa, one, if paired { other } else { &[] }, row);
                    }
                }
            }
        });
    }
}

/// A row of a plane, or several that follow one another in the source as well.
struct Line {
    /// Where it begins in the plane.
    at: usize,
    len: usize,
    /// What of it lies inside the source; the rest is 0.
    inside: Range<usize>,
    /// Where that begins in a source plane.
    from: usize,
}

impl Line {
    /// Whether `next` begins where this one ends, on both sides, and neither is padded.
    fn goes_on_with(&self, next: &Line) -> bool {
        let whole = |line: &Line| line.inside == (0..line.len);
        whole(self) && whole(next) && self.at + self.len == next.at && self.from + self.len == next.from
    }

    /// What it reads of a source plane without steps between columns.
    fn source(&self) -> Range<usize> {
        self.from..self.from + self.inside.len()
    }

    /// Writes `row`, of a source read in steps.
    fn copy(&self, channel: &[f32], step: usize, row: &mut [f32]) {
        row[..self.inside.start].fill(0.0);
        row[self.inside.end..].fill(0.0);
        let inside = &mut row[self.inside.clone()];
        if step == 1 {
            inside.copy_from_slice(&channel[self.source()]);
        } else {
            for (to, from) in inside.iter_mut().zip(channel.iter().skip(self.from).step_by(step)) {
                *to = *from;
            }
        }
    }
}
