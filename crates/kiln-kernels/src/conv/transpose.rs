//! From channel planes to channels-last order.

use crate::isa::{Isa, Kind};

/// `to[q * pitch + c] = from[c * plane + q]` for `q < pixels` and `c < channels`.
pub(crate) fn channels_last(
    isa: Isa,
    from: &[f32],
    plane: usize,
    channels: usize,
    pixels: usize,
    to: &mut [f32],
    pitch: usize,
) {
    match isa.kind() {
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 | Kind::Avx512 | Kind::Bf16 => {
            // SAFETY: all these kinds include AVX2.
            unsafe { blocks(from, plane, channels, pixels, to, pitch) }
        }
        _ => {
            for c in 0..channels {
                for (q, value) in from[c * plane..][..pixels].iter().enumerate() {
                    to[q * pitch + c] = *value;
                }
            }
        }
    }
}

/// In blocks of at most 8 channels and 8 pixels.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn blocks(from: &[f32], plane: usize, channels: usize, pixels: usize, to: &mut [f32], pitch: usize) {
    use std::arch::x86_64::*;
    const SIDE: usize = 8;
    // Floats of a cache line, which are read and written while it is near.
    const LINE: usize = 16;
    let index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for square in 0..channels.div_ceil(LINE) * pixels.div_ceil(LINE) {
        let (first_channel, first) = (square / pixels.div_ceil(LINE) * LINE, square % pixels.div_ceil(LINE) * LINE);
        for c in (first_channel..channels.min(first_channel + LINE)).step_by(SIDE) {
            for q in (first..pixels.min(first + LINE)).step_by(SIDE) {
                let (across, down) = (SIDE.min(pixels - q), SIDE.min(channels - c));
                let some = _mm256_cmpgt_epi32(_mm256_set1_epi32(across as i32), index);
                let mut r = [_mm256_setzero_ps(); SIDE];
                for (i, r) in r.iter_mut().enumerate().take(down) {
                    let values = &from[(c + i) * plane + q..][..across];
                    // SAFETY: the slice has the floats read, all eight or those of the mask.
                    *r = unsafe {
                        if across == SIDE {
                            _mm256_loadu_ps(values.as_ptr())
                        } else {
                            _mm256_maskload_ps(values.as_ptr(), some)
                        }
                    };
                }
                // Pairs of rows interleaved, pairs of pairs joined, halves exchanged.
                let mut a = r;
                for i in 0..SIDE / 2 {
                    a[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                    a[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
                }
                let mut b = a;
                for i in 0..SIDE {
                    let (x, y) = (a[i / 4 * 4 + i % 4 / 2], a[i / 4 * 4 + i % 4 / 2 + 2]);
                    b[i] = if i % 2 == 0 { _mm256_shuffle_ps(x, y, 0x44) } else { _mm256_shuffle_ps(x, y, 0xee) };
                }
                for j in 0..SIDE {
                    if j >= across {
                        break;
                    }
                    let (x, y) = (b[j % 4], b[j % 4 + 4]);
                    let pixel =
                        if j < 4 { _mm256_permute2f128_ps(x, y, 0x20) } else { _mm256_permute2f128_ps(x, y, 0x31) };
                    let place = &mut to[(q + j) * pitch + c..][..down];
                    if down == SIDE {
                        // SAFETY: the slice has the eight floats written.
                        unsafe { _mm256_storeu_ps(place.as_mut_ptr(), pixel) };
                    } else {
                        // Storing under a mask takes longer than this on some processors.
                        let mut all = [0.0; SIDE];
                        // SAFETY: the array has the eight floats written.
                        unsafe { _mm256_storeu_ps(all.as_mut_ptr(), pixel) };
                        place.copy_from_slice(&all[..down]);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_every_element() {
        for isa in Isa::all() {
            for (channels, pixels, plane, pitch) in
                [(1, 1, 1, 1), (8, 8, 9, 8), (19, 37, 40, 32), (16, 16, 16, 17), (8, 7, 7, 9), (3, 130, 131, 3)]
            {
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
