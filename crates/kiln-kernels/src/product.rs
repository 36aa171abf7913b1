//! Products of matrices in scratch memory.

use crate::{
    conv::transpose,
    isa::Isa,
    tile::{MAX_ROWS, Start, Steps, Tile},
};

/// Sums that start from nothing.
pub(crate) const ZERO: Start<'static> = Start::Base(&[0.0; MAX_ROWS]);

/// `out[i][j] = start + sum over steps of left[.. + i] right[.. + j]` for `i < rows` and `j < width`, the
/// rows of `out` `pitch` floats apart. Columns are computed in whole vectors.
#[allow(clippy::too_many_arguments)]
pub(crate) fn product(
    tile: Tile,
    steps: &Steps,
    left: &[f32],
    rows: usize,
    right: &[f32],
    width: usize,
    start: Start,
    out: &mut [f32],
    pitch: usize,
) {
    let (lanes, block) = (tile.lanes(), tile.block(rows));
    for first in (0..rows).step_by(block) {
        let height = block.min(rows - first);
        for lane in (0..width).step_by(2 * lanes) {
            let at = &[lane, lane + lanes][..(width - lane).div_ceil(lanes).min(2)];
            tile.run(height, (&left[first..], 1), right, at, steps, start, &mut out[first * pitch + lane..], pitch);
        }
    }
}

/// `to[i * pitch + j] = from[i * strides[0] + j * strides[1]]`.
pub(crate) fn copy(isa: Isa, from: &[f32], strides: [usize; 2], size: [usize; 2], to: &mut [f32], pitch: usize) {
    let [rows, columns] = size;
    match strides {
        [row, 1] => {
            for i in 0..rows {
                to[i * pitch..][..columns].copy_from_slice(&from[i * row..][..columns]);
            }
        }
        [1, column] => transpose::channels_last(isa, from, column, columns, rows, to, pitch),
        [row, column] => {
            for i in 0..rows {
                for j in 0..columns {
                    to[i * pitch + j] = from[i * row + j * column];
                }
            }
        }
    }
}

/// Parts of `scratch` of the given lengths.
pub(crate) fn parts<const N: usize>(scratch: &mut [f32], lengths: [usize; N]) -> [&mut [f32]; N] {
    let mut rest = scratch;
    lengths.map(|length| {
        let (part, others) = std::mem::take(&mut rest).split_at_mut(length);
        rest = others;
        part
    })
}
