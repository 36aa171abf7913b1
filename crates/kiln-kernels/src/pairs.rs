//! Pairs of bf16 in the place of one `f32`: what `vdpbf16ps` multiplies.
//!
//! A lane of 32 bits holds two numbers of 16, the first in the low half; the product of two such lanes is
//! the sum of two products, in `f32`. A buffer of pairs is half as long as what it was made of, and is
//! moved about as any other buffer of floats.

use crate::isa::{Isa, Kind};

/// `to[i]` becomes the pair of `first[i]` and `second[i]`, which is 0 where `second` has ended. Rounded to
/// nearest, ties to even; what is below the least normal number counts as 0.
///
/// Panics if `first` is shorter than `to`, or `isa` is not [`Kind::Bf16`].
pub(crate) fn pack(isa: Isa, first: &[f32], second: &[f32], to: &mut [f32]) {
    pack_padded(isa, &first[..to.len()], second, 0, to);
}

/// The same from `to[before]` on; what comes before and what comes after `first` is 0.
///
/// Panics if `first` does not end inside `to`, or `isa` is not [`Kind::Bf16`].
pub(crate) fn pack_padded(isa: Isa, first: &[f32], second: &[f32], before: usize, to: &mut [f32]) {
    assert!(isa.kind() == Kind::Bf16 && before + first.len() <= to.len());
    #[cfg(target_arch = "x86_64")]
    // SAFETY: an `Isa` of this kind exists only where these features were detected.
    unsafe {
        pack_vectors(first, second, before, to);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = second;
}

/// `to[i]` becomes the pair of `from[2 i]` and `from[2 i + 1]`, likewise.
///
/// Panics if `from` is not twice as long as `to`, or `isa` is not [`Kind::Bf16`].
pub(crate) fn pack_neighbours(isa: Isa, from: &[f32], to: &mut [f32]) {
    assert!(isa.kind() == Kind::Bf16 && from.len() == 2 * to.len());
    #[cfg(target_arch = "x86_64")]
    // SAFETY: an `Isa` of this kind exists only where its features were detected.
    unsafe {
        pack_neighbouring_vectors(from, to);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, to);
}

/// The pair of two numbers.
pub(crate) fn pair(first: f32, second: f32) -> f32 {
    f32::from_bits(u32::from(round(first)) | u32::from(round(second)) << 16)
}

/// The nearest bf16, ties to even, by its bits.
fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    // A NaN must not be rounded up to infinity.
    let rounded = if x.is_nan() { bits | 1 << 22 } else { bits + 0x7fff + (bits >> 16 & 1) };
    (rounded >> 16) as u16
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,avx512bf16")]
fn pack_vectors(first: &[f32], second: &[f32], before: usize, to: &mut [f32]) {
    use std::arch::x86_64::*;
    const LANES: usize = 16;
    // The lanes of the vector at `i` that come before place `end`.
    let until = |i: usize, end: usize| match end.saturating_sub(i) {
        left if left < LANES => (1 << left) - 1,
        _ => !0u16,
    };
    let end = before + first.len();
    let end_of_pairs = before + first.len().min(second.len());
    for i in (0..to.len()).step_by(LANES) {
        let (written, outside) = (until(i, to.len()), until(i, before));
        let read = until(i, end) & !outside;
        let paired = until(i, end_of_pairs) & !outside;
        // SAFETY: the lanes of `written` are inside `to`; lane `l` of `read` is `first[i + l - before]`, and of `paired`
        // the same of `second`, inside both. No others are read or written.
        unsafe {
            let at = |from: &[f32]| from.as_ptr().wrapping_add(i).wrapping_sub(before);
            let low = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(read, at(first)));
            let high = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(paired, at(second)));
            // The same 256 bits under their other name.
            let [low, high] =
                [low, high].map(|half| _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(half)));
            let pairs = _mm512_or_si512(low, _mm512_slli_epi32::<16>(high));
            _mm512_mask_storeu_ps(to.as_mut_ptr().wrapping_add(i), written, _mm512_castsi512_ps(pairs));
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,avx512bf16")]
fn pack_neighbouring_vectors(from: &[f32], to: &mut [f32]) {
    use std::arch::x86_64::*;
    let (vectors, rest) = from.as_chunks::<16>();
    let (pairs, rest_of_pairs) = to.as_chunks_mut::<8>();
    for (from, to) in vectors.iter().zip(pairs) {
        // SAFETY: both arrays are as long as their vectors; 16 bf16 are the same 256 bits as 8 floats.
        unsafe {
            let rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(from.as_ptr()));
            _mm256_storeu_ps(to.as_mut_ptr(), std::mem::transmute::<__m256bh, __m256>(rounded));
        }
    }
    for (from, to) in rest.as_chunks::<2>().0.iter().zip(rest_of_pairs) {
        *to = pair(from[0], from[1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_nearest() {
        let halves = |x: f32| (f32::from_bits(x.to_bits() << 16), f32::from_bits(x.to_bits() & 0xffff_0000));
        // 1 + 2⁻⁸ lies between 1 and 1 + 2⁻⁷: ties go to the even one.
        assert_eq!(halves(pair(1.0 + 2f32.powi(-8), -3.0)), (1.0, -3.0));
        assert_eq!(halves(pair(1.0 + 3.0 * 2f32.powi(-8), 0.1)), (1.0 + 2f32.powi(-6), 0.100_097_656));
        assert_eq!(halves(pair(f32::MAX, f32::NEG_INFINITY)), (f32::INFINITY, f32::NEG_INFINITY));
        let (a, b) = halves(pair(f32::NAN, f32::from_bits(0x7f80_0001)));
        assert!(a.is_nan() && b.is_nan());
    }

    #[test]
    fn vectors_round_as_one_does() {
        let Some(isa) = Isa::supported(Kind::Bf16) else {
            return;
        };
        let value = |i: usize| (i as f32 * 0.731).sin() * 10f32.powi(i as i32 % 60 - 30);
        for len in [0, 1, 15, 16, 17, 100] {
            for others in [0, len / 2, len, len + 7] {
                let first: Vec<f32> = (0..len + 3).map(value).collect();
                let second: Vec<f32> = (1000..1000 + others).map(value).collect();
                let mut pairs = vec![0.0; len];
                pack(isa, &first, &second, &mut pairs);
                for (i, got) in pairs.iter().enumerate() {
                    let expected = pair(first[i], second.get(i).copied().unwrap_or(0.0));
                    assert_eq!(got.to_bits(), expected.to_bits(), "{i} of {len} and {others}");
                }
                for (before, after) in [(0, 0), (1, 1), (5, 30), (33, 0)] {
                    let mut padded = vec![1.0; before + len + after];
                    pack_padded(isa, &first[..len], &second, before, &mut padded);
                    assert!(padded[..before].iter().chain(&padded[before + len..]).all(|v| v.to_bits() == 0));
                    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&padded[before..before + len]), bits(&pairs), "{before} before {len}, {others}");
                }
                pack_neighbours(isa, &(0..2 * len).map(value).collect::<Vec<_>>(), &mut pairs);
                for (i, got) in pairs.iter().enumerate() {
                    assert_eq!(got.to_bits(), pair(value(2 * i), value(2 * i + 1)).to_bits(), "{i} of {len}");
                }
            }
        }
    }
}
