//! Random numbers keyed by (seed, purpose, index).
//!
//! Kiln has no running random generator. Code that needs random numbers names their purpose and the index of
//! the sample they belong to, and gets a new ChaCha8 stream that depends on nothing else. So sample 17 is
//! the same image at any batch size or thread count, and a resumed run needs no generator state.

use chacha20::ChaCha8Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

/// A named family of random streams, one per index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    state: u64,
}

impl Key {
    /// The root key of a seed.
    pub fn new(seed: u64) -> Self {
        Self { state: mix(seed ^ 0x6b69_6c6e_5eed_0001) }
    }

    /// The key for one purpose below this one: `Key::new(seed).purpose("latent")`.
    pub fn purpose(self, name: &str) -> Self {
        // FNV-1a of the name, then mixed with the parent: short, stable across versions.
        let hash =
            name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
        Self { state: mix(self.state.rotate_left(17) ^ hash) }
    }

    /// The key for a numbered item below this one (a step, an epoch).
    pub fn at(self, number: u64) -> Self {
        Self { state: mix(self.state.rotate_left(29) ^ mix(number.wrapping_add(0x9e37_79b9))) }
    }

    /// The random stream of sample `index`.
    pub fn stream(self, index: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.state);
        rng.set_stream(index);
        rng
    }

    /// `len` standard normal numbers for each index, one after another. The values of an index do
    /// not depend on the other indices.
    pub fn normal(self, indices: impl IntoIterator<Item = u64>, len: usize) -> Vec<f32> {
        let mut out = Vec::new();
        for index in indices {
            let mut rng = self.stream(index);
            out.extend((0..len).map(|_| -> f32 { StandardNormal.sample(&mut rng) }));
        }
        out
    }

    /// `len` numbers uniform in [0, 1) for each index.
    pub fn uniform(self, indices: impl IntoIterator<Item = u64>, len: usize) -> Vec<f32> {
        let mut out = Vec::new();
        for index in indices {
            let mut rng = self.stream(index);
            // 24 bits fill an f32 mantissa exactly, so 1.0 is never reached.
            out.extend((0..len).map(|_| (rng.next_u32() >> 8) as f32 / (1 << 24) as f32));
        }
        out
    }

    /// One integer uniform in `0..bound` for each index (`bound` > 0).
    pub fn below(self, indices: impl IntoIterator<Item = u64>, bound: u64) -> Vec<u64> {
        // 128-bit multiply-shift: the bias is below bound / 2^64.
        let draw = |i| ((u128::from(self.stream(i).next_u64()) * u128::from(bound)) >> 64) as u64;
        indices.into_iter().map(draw).collect()
    }

    /// Position `i` of a keyed permutation of `0..len`, in constant memory.
    ///
    /// A four-round Feistel network over the next even power of two, repeated until the result is in range
    /// (cycle walking), so that a set of any size is shuffled without storing its order.
    pub fn permute(self, i: u64, len: u64) -> u64 {
        debug_assert!(i < len);
        let half = (64 - (len.max(2) - 1).leading_zeros()).div_ceil(2);
        let mask = (1u64 << half) - 1;
        let mut value = i;
        loop {
            let (mut left, mut right) = (value >> half, value & mask);
            for round in 0..4u64 {
                let f = mix(self.state ^ right.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (round << 60));
                (left, right) = (right, left ^ (f & mask));
            }
            value = (left << half) | right;
            if value < len {
                return value;
            }
        }
    }
}

/// The finaliser of SplitMix64 (Steele 2014): every input bit changes every output bit.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_depend_on_the_index_alone() {
        let key = Key::new(7).purpose("latent");
        let all = key.normal(0..32, 5);
        assert_eq!(key.normal(17..18, 5), all[17 * 5..18 * 5]);
        assert_ne!(key.normal(17..18, 5), key.normal(18..19, 5));
        assert_ne!(key.normal(0..1, 5), Key::new(8).purpose("latent").normal(0..1, 5));
        assert_ne!(key.normal(0..1, 5), Key::new(7).purpose("noise").normal(0..1, 5));
    }

    #[test]
    fn normal_numbers_have_the_moments_of_a_normal() {
        let x = Key::new(1).normal(0..100, 1000);
        let n = x.len() as f64;
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let var = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        let fourth = x.iter().map(|&v| f64::from(v).powi(4)).sum::<f64>() / n;
        assert!(mean.abs() < 0.02 && (var - 1.0).abs() < 0.03 && (fourth - 3.0).abs() < 0.2);
    }

    #[test]
    fn a_permutation_hits_every_place_once() {
        for len in [1, 2, 3, 10, 257, 1000] {
            let mut seen = vec![false; len as usize];
            for i in 0..len {
                seen[Key::new(3).purpose("shuffle").permute(i, len) as usize] = true;
            }
            assert!(seen.into_iter().all(|s| s), "length {len}");
        }
    }

    #[test]
    fn integers_cover_their_range() {
        let draws = Key::new(5).below(0..1000, 10);
        assert!((0..10).all(|k| draws.iter().filter(|&&d| d == k).count() > 60));
    }

    /// The streams are part of every run's identity: a change here changes every image. The numbers were written down
    /// from `rand_chacha` 0.9 and `rand_distr` 0.5; the two sums cover the rare branches of the normal's ziggurat.
    #[test]
    fn streams_are_stable_across_versions() {
        let key = Key::new(17).purpose("latent").at(4);
        let indices = [0, 3, 1 << 40];
        assert_eq!(
            key.normal(indices, 4),
            [
                0.17173555,
                -1.1865911,
                0.1305086,
                -0.9198753,
                0.12696615,
                -0.46999833,
                0.5823002,
                0.25417903,
                -0.98516816,
                1.9933299,
                -1.5691715,
                0.7087682
            ]
        );
        assert_eq!(
            key.uniform(indices, 4),
            [
                0.60414493,
                0.57579404,
                0.82843095,
                0.04610783,
                0.022895753,
                0.5960667,
                0.151968,
                0.14438385,
                0.9276149,
                0.05363345,
                0.9170642,
                0.941073
            ]
        );
        assert_eq!(key.below(0..8, 1000), [575, 593, 422, 596, 462, 968, 278, 432]);
        let order: Vec<u64> = (0..10).map(|i| key.permute(i, 10)).collect();
        assert_eq!(order, [8, 0, 6, 5, 1, 2, 3, 7, 4, 9]);
        let mut stream = key.stream(5);
        let words = [stream.next_u64(), stream.next_u64(), stream.next_u64()];
        assert_eq!(words, [17870360697451258968, 18067290220636621961, 6517866618822032346]);

        let sum =
            |x: Vec<f32>| x.iter().fold(0u64, |h, x| (h ^ u64::from(x.to_bits())).wrapping_mul(0x0000_0100_0000_01b3));
        assert_eq!(sum(key.normal(0..100, 10_000)), 0x39c8_8c61_85b2_986e);
        assert_eq!(sum(key.uniform(0..100, 10_000)), 0x5cc0_47b2_faaf_962c);
    }
}
