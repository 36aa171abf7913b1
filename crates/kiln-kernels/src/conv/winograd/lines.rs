//! The lines of a field that a row of squares sees, channels last.

use crate::{conv::transpose, isa::Isa, lanes};

/// Channels whose lines are read in turn.
const TOGETHER: usize = 16;

/// Which field, and what a row of squares needs of it.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    /// Channels, height and width of the field.
    pub(super) field: [usize; 3],
    /// Floats of a pixel: its channels in whole vectors.
    pub(super) pitch: usize,
    /// Lines of a row of squares, and lines from one row to the next.
    pub(super) count: usize,
    pub(super) step: usize,
    /// Pixels of a line.
    pub(super) columns: usize,
    /// Zeros before the first line and column of the field.
    pub(super) before: [usize; 2],
    /// Rows of squares in an image.
    pub(super) per_image: usize,
}

impl Lines {
    /// Floats of all lines of a row of squares.
    pub(super) fn len(&self) -> usize {
        self.count * self.line()
    }

    /// Floats of a line.
    pub(super) fn line(&self) -> usize {
        self.columns * self.pitch
    }

    /// Fills `lines` for a row of squares, counted over all images; `follows` says that they hold what the row
    /// before it sees.
    pub(super) fn load(&self, isa: Isa, from: &[f32], row: usize, follows: bool, lines: &mut [f32]) {
        let [channels, height, width] = self.field;
        let (image, y) = (row / self.per_image, row % self.per_image * self.step);
        let kept = if follows && y > 0 { self.count.saturating_sub(self.step) } else { 0 };
        lines.copy_within(self.step * self.line()..(self.step + kept) * self.line(), 0);
        let start = self.before[1].min(self.columns);
        // What does not fit is not looked at by any square.
        let end = (start + width).min(self.columns);
        let inside = |i: usize| (y + i).checked_sub(self.before[0]).filter(|y| *y < height);
        for i in kept..self.count {
            let line = &mut lines[i * self.line()..][..self.line()];
            if inside(i).is_none() || self.pitch > channels {
                line.fill(0.0);
            } else {
                line[..start * self.pitch].fill(0.0);
                line[end * self.pitch..].fill(0.0);
            }
        }
        let plane = height * width;
        let from = &from[image * channels * plane..];
        // Short pieces far from one another, which the processor does not foresee: what the next row of squares adds.
        let coming = (y + self.count).saturating_sub(self.before[0]).min(height);
        let coming = coming * width..(coming + self.step).min(height) * width;
        // Some channels of all lines in turn: the lines of a channel are neighbours in memory.
        for first in (0..channels).step_by(TOGETHER) {
            let count = TOGETHER.min(channels - first);
            for c in first..first + count {
                lanes::prefetch(isa, &from[c * plane..][coming.clone()]);
            }
            for (i, y) in (kept..self.count).filter_map(|i| Some((i, inside(i)?))) {
                let from = &from[first * plane + y * width..];
                let to = &mut lines[i * self.line() + start * self.pitch + first..];
                transpose::channels_last(isa, from, plane, count, end - start, to, self.pitch);
            }
        }
    }
}
