//! `y = x Wᵀ + b` where both operands lie row by row.
//!
//! The tile wants one side in columns and the other in vectors across columns, so both are turned on the way:
//! `x` once, `W` a panel of outputs at a time. For as few rows as a batch of vectors has, turning `Wᵀ` is where
//! Burn's product spends much of its time.

use crate::{
    conv::transpose,
    isa::Isa,
    output::{self, Output},
    product::{parts, product},
    tasks,
    tile::{Start, Steps, Tile},
};

/// The most rows this is for: with more, turning is little of the whole, and Burn's product as fast.
pub(crate) const FEW: usize = 512;
/// Rows of `x` that are multiplied with a panel in turn.
const ROWS: usize = 128;
/// Outputs of a panel: a whole number of vector pairs on every instruction set.
const PANEL: usize = 64;
/// Inputs summed over before sums go back to memory.
const DEPTH: usize = 256;
/// From one input to the next on either side: an odd number of cache lines, lest they compete for few sets.
const ROW_PITCH: usize = ROWS + 16;
const PANEL_PITCH: usize = PANEL + 16;

/// `[rows, outputs]` from `x` `[rows, inputs]`, `weight` `[outputs, inputs]` and `bias` `[outputs]`.
pub(crate) fn forward(
    isa: Isa,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    [rows, inputs, outputs]: [usize; 3],
) -> Vec<f32> {
    let tile = Tile::new(isa);
    let (blocks, panels) = (rows.div_ceil(ROWS), outputs.div_ceil(PANEL));
    let steps = |count: usize| Steps::new((0..count).map(|i| (i * ROW_PITCH, i * PANEL_PITCH)));
    let (full, last) = (steps(DEPTH.min(inputs)), steps(inputs % DEPTH));
    // With few panels their rows are divided too.
    let splits = (4 * tasks::threads()).div_ceil(panels.max(1)).clamp(1, blocks.max(1));
    let work = rows * inputs * outputs;

    let fill = |out: &Output<'_>| {
        tasks::with_scratch(blocks * inputs * ROW_PITCH, |turned| {
            let to = Output::new(turned);
            tasks::each(blocks, rows * inputs, |block| {
                let size = inputs * ROW_PITCH;
                // SAFETY: each task has its own block of the buffer, which is initialised.
                let to = unsafe { to.slice(block * size..(block + 1) * size).assume_init_mut() };
                let from = &x[block * ROWS * inputs..];
                transpose::channels_last(isa, from, inputs, ROWS.min(rows - block * ROWS), inputs, to, ROW_PITCH);
            });
            tasks::each(panels * splits, work, |task| {
                let (panel, split) = (task / splits, task % splits);
                let (first, blocks) = (panel * PANEL, split * blocks / splits..(split + 1) * blocks / splits);
                let width = PANEL.min(outputs - first);
                let lengths = [inputs * PANEL_PITCH, ROWS * PANEL_PITCH];
                tasks::with_scratch(lengths.iter().sum(), |scratch| {
                    let [weights, sums] = parts(scratch, lengths);
                    let from = &weight[first * inputs..];
                    transpose::channels_last(isa, from, inputs, width, inputs, weights, PANEL_PITCH);
                    for block in blocks {
                        let height = ROWS.min(rows - block * ROWS);
                        for row in sums.chunks_exact_mut(PANEL_PITCH).take(height) {
                            match bias {
                                Some(bias) => row[..width].copy_from_slice(&bias[first..first + width]),
                                None => row[..width].fill(0.0),
                            }
                        }
                        for from in (0..inputs).step_by(DEPTH) {
                            let steps = if inputs - from < DEPTH { &last } else { &full };
                            let (left, right) =
                                (&turned[(block * inputs + from) * ROW_PITCH..], &weights[from * PANEL_PITCH..]);
                            product(tile, steps, left, height, right, width, Start::Stored, sums, PANEL_PITCH);
                        }
                        for (i, row) in sums.chunks_exact(PANEL_PITCH).take(height).enumerate() {
                            // SAFETY: these outputs of these rows belong to this task alone.
                            unsafe { out.write((block * ROWS + i) * outputs + first, 1, &row[..width]) };
                        }
                    }
                });
            });
        });
    };
    // SAFETY: the panels and blocks together are the whole output.
    unsafe { output::filled(rows * outputs, fill) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_matches_the_definition() {
        let noise = |len: usize, salt: usize| -> Vec<f32> {
            (0..len).map(|i| ((i * 7919 + salt * 104_729) as f32 * 0.37).sin()).collect()
        };
        let table = [[1, 1, 1], [7, 5, 3], [33, 257, 63], [1, 300, 130], [130, 48, 65], [257, 256, 64], [300, 513, 5]];
        for size in table {
            let [rows, inputs, outputs] = size;
            let (x, weight, bias) = (noise(rows * inputs, 1), noise(outputs * inputs, 2), noise(outputs, 3));
            for isa in Isa::all() {
                let plain = forward(isa, &x, &weight, None, size);
                let biased = forward(isa, &x, &weight, Some(&bias), size);
                for (i, (plain, biased)) in plain.iter().zip(&biased).enumerate() {
                    let (row, output) = (i / outputs, i % outputs);
                    let product = |k: usize| f64::from(x[row * inputs + k]) * f64::from(weight[output * inputs + k]);
                    let sum: f64 = (0..inputs).map(product).sum();
                    let scale = 1e-6 * inputs as f64;
                    assert!((f64::from(*plain) - sum).abs() <= scale, "{isa:?} {size:?} at {i}: {plain} against {sum}");
                    let sum = sum + f64::from(bias[output]);
                    assert!(
                        (f64::from(*biased) - sum).abs() <= scale,
                        "{isa:?} {size:?} at {i}: {biased} against {sum}"
                    );
                }
            }
        }
    }
}
