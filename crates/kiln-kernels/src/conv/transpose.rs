//! From channel planes to channels-last order.

use crate::isa::{Isa, Kind};

/// `to[q * pitch + c] = from[c * plane + q]` for `q < pixels` and `c < channels`.
pub(super) fn channels_last(
    isa: Isa,
    from: &[f32],
    plane: usize,
    channels: usize,
    pixels: usize,
    to: &mut [f32],
    pitch: usize,
) {
    let whole = match isa.kind() {
        Kind::Portable => (0, 0),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: all other kinds include AVX2.
        _ => unsafe { blocks(from, plane, channels, pixels, to, pitch) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => (0, 0),
    };
    for c in 0..channels {
        let first = if c < whole.0 { whole.1 } else { 0 };
        for (q, value) in from[c * plane..][first..pixels].iter().enumerate() {
            to[(first + q) * pitch + c] = *value;
        }
    }
}

/// Does all whole blocks of 8 channels and 8 pixels; gives the channels and pixels they cover.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn blocks(from: &[f32], plane: usize, channels: usize, pixels: usize, to: &mut [f32], pitch: usize) -> (usize, usize) {
    use std::arch::x86_64::*;
    const SIDE: usize = 8;
    // Pixels taken from each channel in turn: enough cache lines for hardware to see a stream.
    const LINE: usize = 64;
    let (channels, pixels) = (channels / SIDE * SIDE, pixels / SIDE * SIDE);
    for first in (0..pixels).step_by(LINE) {
        for c in (0..channels).step_by(SIDE) {
            for q in (first..pixels.min(first + LINE)).step_by(SIDE) {
                let r: [__m256; SIDE] = std::array::from_fn(|i| {
                    let line = &from[(c + i) * plane + q..][..SIDE];
                    // SAFETY: the slice has the eight floats read.
                    unsafe { _mm256_loadu_ps(line.as_ptr()) }
                });
                // Pairs of rows interleaved, pairs of pairs joined, halves exchanged.
                let a: [__m256; SIDE] = std::array::from_fn(|i| {
                    let (x, y) = (r[i / 2 * 2], r[i / 2 * 2 + 1]);
                    if i % 2 == 0 { _mm256_unpacklo_ps(x, y) } else { _mm256_unpackhi_ps(x, y) }
                });
                let b: [__m256; SIDE] = std::array::from_fn(|i| {
                    let (x, y) = (a[i / 4 * 4 + i % 4 / 2], a[i / 4 * 4 + i % 4 / 2 + 2]);
                    if i % 2 == 0 { _mm256_shuffle_ps(x, y, 0x44) } else { _mm256_shuffle_ps(x, y, 0xee) }
                });
                for j in 0..SIDE {
                    let (x, y) = (b[j % 4], b[j % 4 + 4]);
                    let pixel =
                        if j < 4 { _mm256_permute2f128_ps(x, y, 0x20) } else { _mm256_permute2f128_ps(x, y, 0x31) };
                    let place = &mut to[(q + j) * pitch + c..][..SIDE];
                    // SAFETY: the slice has the eight floats written.
                    unsafe { _mm256_storeu_ps(place.as_mut_ptr(), pixel) };
                }
            }
        }
    }
    (channels, pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_every_element() {
        for isa in Isa::all() {
            for (channels, pixels, plane, pitch) in [(1, 1, 1, 1), (8, 8, 9, 8), (19, 37, 40, 32), (16, 16, 16, 17)] {
                let from: Vec<f32> = (0..channels * plane).map(|i| i as f32).collect();
                let mut to = vec![-1.0; pixels * pitch];
                channels_last(isa, &from, plane, channels, pixels, &mut to, pitch);
                for (i, value) in to.iter().enumerate() {
                    let (q, c) = (i / pitch, i % pitch);
                    let expected = if c < channels { (c * plane + q) as f32 } else { -1.0 };
                    assert_eq!(*value, expected, "{isa:?} {channels} {pixels} at {q}, {c}");
                }
            }
        }
    }
}
