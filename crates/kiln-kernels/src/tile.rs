//! The register tile every product is made of.
//!
//! One call computes `rows x (vectors * lanes)` sums of products over a list of steps:
//! `out[i][v * lanes + l] = start + sum over (a, b) in steps: left[a + i * apart] * right[at[v] + b + l]`.
//! A left value is broadcast and meets whole vectors of the right side. Reading both sides through
//! a list of offsets lets one kernel serve plain products, convolutions read straight from a padded
//! image, and weight gradients. In bf16 a left and a right value are pairs ([`crate::pairs`]), and a product the
//! sum of their two.

use crate::isa::{Isa, Kind};

/// The most rows a tile can have on any instruction set.
pub(crate) const MAX_ROWS: usize = 14;
/// The most floats a tile's row can have on any instruction set.
pub(crate) const MAX_WIDTH: usize = 32;

/// Offsets into the left and the right side, one pair per step.
pub(crate) struct Steps {
    pairs: Vec<(u32, u32)>,
    reach: (usize, usize),
}

impl Steps {
    /// Collects the pairs and remembers the largest offset on either side.
    pub(crate) fn new(pairs: impl IntoIterator<Item = (usize, usize)>) -> Steps {
        let mut reach = (0, 0);
        let pairs = pairs
            .into_iter()
            .map(|(a, b)| {
                assert!(a <= u32::MAX as usize && b <= u32::MAX as usize, "tile offsets exceed 32 bits");
                reach = (reach.0.max(a), reach.1.max(b));
                (a as u32, b as u32)
            })
            .collect();
        Steps { pairs, reach }
    }
}

/// What sums start from.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// A value for each row.
    Base(&'a [f32]),
    /// What the tile's place holds.
    Stored,
}

/// The tile kernel of one instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Tile(Isa);

impl Tile {
    /// The tile kernel for `isa`.
    pub(crate) fn new(isa: Isa) -> Tile {
        Tile(isa)
    }

    /// The instruction set.
    pub(crate) fn isa(self) -> Isa {
        self.0
    }

    /// Floats in one vector.
    pub(crate) fn lanes(self) -> usize {
        match self.0.kind() {
            Kind::Portable => 4,
            Kind::Avx2 => 8,
            Kind::Avx512 | Kind::Bf16 => 16,
        }
    }

    /// The most rows of one tile; two vectors wide, it then just fits the registers.
    pub(crate) fn rows(self) -> usize {
        match self.0.kind() {
            Kind::Portable | Kind::Avx2 => 6,
            Kind::Avx512 | Kind::Bf16 => MAX_ROWS,
        }
    }

    /// Whether values are pairs of bf16.
    pub(crate) fn takes_pairs(self) -> bool {
        self.0.kind() == Kind::Bf16
    }

    /// The steps of a sum of `count` products.
    pub(crate) fn steps(self, count: usize) -> usize {
        if self.takes_pairs() { count.div_ceil(2) } else { count }
    }

    /// Splits `count` rows into the fewest near-equal blocks of at most [`Tile::rows`]; gives the
    /// block height.
    pub(crate) fn block(self, count: usize) -> usize {
        count.div_ceil(count.div_ceil(self.rows()).max(1)).max(1)
    }

    /// Computes a tile of `rows` by `at.len()` (one or two) vectors, left values of neighbouring rows `apart`
    /// floats from one another; row `i` starts at `out[i * pitch]`.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn run(
        self,
        rows: usize,
        (left, apart): (&[f32], usize),
        right: &[f32],
        at: &[usize],
        steps: &Steps,
        start: Start,
        out: &mut [f32],
        pitch: usize,
    ) {
        assert!((rows - 1) * pitch + at.len() * self.lanes() <= out.len());
        // SAFETY: all rows are inside `out`, which is initialised and borrowed exclusively.
        unsafe { self.run_to(rows, (left, apart), right, at, steps, start, out.as_mut_ptr(), pitch) }
    }

    /// As [`Tile::run`], row `i` starting at `out + i * pitch`.
    ///
    /// # Safety
    /// All rows must be inside one allocation, with no other access during the call, and
    /// initialised if `start` is [`Start::Stored`].
    #[allow(clippy::too_many_arguments)]
    pub(crate) unsafe fn run_to(
        self,
        rows: usize,
        (left, apart): (&[f32], usize),
        right: &[f32],
        at: &[usize],
        steps: &Steps,
        start: Start,
        out: *mut f32,
        pitch: usize,
    ) {
        let vectors = at.len();
        let lanes = self.lanes();
        assert!((1..=self.rows()).contains(&rows) && (1..=2).contains(&vectors));
        if !steps.pairs.is_empty() {
            assert!(steps.reach.0 + (rows - 1) * apart < left.len());
            for start in at {
                assert!(start + steps.reach.1 + lanes <= right.len());
            }
        }
        let (base, add) = match start {
            Start::Base(base) => (base, false),
            Start::Stored => (&[0.0; MAX_ROWS][..], true),
        };
        assert!(rows <= base.len());
        let right = [right.as_ptr().wrapping_add(at[0]), right.as_ptr().wrapping_add(at[vectors - 1])];
        let kernel = self.kernel(rows, vectors, apart == 1);
        // SAFETY: the kernel reads `rows` floats of `base`, as many `apart` after every left offset, and one
        // vector after every right offset of each start, all inside the slices by the assertions
        // above; it writes, and with `add` reads, `rows` rows of `vectors` vectors, which the
        // caller vouches for. Its instructions are available by the meaning of `Isa`.
        unsafe { kernel(left.as_ptr(), apart, right, &steps.pairs, base.as_ptr(), out, pitch, add) }
    }

    fn kernel(self, rows: usize, vectors: usize, neighbours: bool) -> Kernel {
        let table = match self.0.kind() {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => &avx2::TABLE[..],
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => &avx512::TABLE[..],
            #[cfg(target_arch = "x86_64")]
            Kind::Bf16 => &bf16::TABLE[..],
            _ => &portable::TABLE[..],
        };
        table[rows - 1][vectors - 1][usize::from(neighbours)]
    }
}

/// `(left, apart, [right; 2], steps, base, out, pitch, add)`, the contract being what `run_to` asserts.
type Kernel = unsafe fn(*const f32, usize, [*const f32; 2], &[(u32, u32)], *const f32, *mut f32, usize, bool);

/// Multiplies a left value at `$at` with the vectors and moves on to the next row, `$apart` floats further. Written
/// as assembly where there are registers for no more than the sums and one row: the compiler would read all rows
/// first, and put sums aside for them.
macro_rules! next_row {
    ($at:ident, $apart:ident, $sums:expr, $vectors:ident, plain $mul_add:expr, $broadcast:expr) => {
        let value = $broadcast(*$at);
        for v in 0..VECTORS {
            $sums[v] = $mul_add(value, $vectors[v], $sums[v]);
        }
        $at = $at.wrapping_add($apart);
    };
    ($at:ident, $apart:ident, $sums:expr, $vectors:ident, $register:ident $mul_add:literal) => {
        let bytes = $apart * size_of::<f32>();
        if VECTORS == 2 {
            std::arch::asm!(
                "vbroadcastss {value}, dword ptr [{at}]",
                concat!($mul_add, " {first}, {value}, {x}"),
                concat!($mul_add, " {second}, {value}, {y}"),
                "add {at}, {bytes}",
                value = out($register) _, at = inout(reg) $at, bytes = in(reg) bytes,
                first = inout($register) $sums[0], second = inout($register) $sums[VECTORS - 1],
                x = in($register) $vectors[0], y = in($register) $vectors[VECTORS - 1],
                options(pure, readonly, nostack)
            );
        } else {
            std::arch::asm!(
                "vbroadcastss {value}, dword ptr [{at}]",
                concat!($mul_add, " {first}, {value}, {x}"),
                "add {at}, {bytes}",
                value = out($register) _, at = inout(reg) $at, bytes = in(reg) bytes,
                first = inout($register) $sums[0], x = in($register) $vectors[0],
                options(pure, readonly, nostack)
            );
        }
    };
}

/// One module per instruction set: the same loop over that set's vector type.
macro_rules! kernels {
    ($(#[$gate:meta])* mod $name:ident, $lanes:literal, $vector:ty, [$($feature:meta)?],
     $zero:expr, $load:expr, $store:expr, $broadcast:expr, $mul_add:expr, $add:expr, apart: [$($apart:tt)*],
     rows: $($rows:literal)*) => {
        $(#[$gate])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            #[cfg(target_arch = "x86_64")]
            #[allow(unused_imports)]
            use std::arch::x86_64::*;

            pub(super) static TABLE: [[[Kernel; 2]; 2]; [$($rows),*].len()] = [$([
                [tile::<$rows, 1, false> as Kernel, tile::<$rows, 1, true> as Kernel],
                [tile::<$rows, 2, false> as Kernel, tile::<$rows, 2, true> as Kernel],
            ]),*];

            $(#[$feature])?
            #[allow(clippy::too_many_arguments)]
            unsafe fn tile<const ROWS: usize, const VECTORS: usize, const NEIGHBOURS: bool>(
                left: *const f32,
                apart: usize,
                right: [*const f32; 2],
                steps: &[(u32, u32)],
                base: *const f32,
                out: *mut f32,
                pitch: usize,
                add: bool,
            ) {
                // SAFETY: every pointer below stays inside what the contract of `Kernel` covers.
                unsafe {
                    let mut sums: [[$vector; VECTORS]; ROWS] = [[$zero; VECTORS]; ROWS];
                    for i in 0..ROWS {
                        sums[i] = [$broadcast(*base.add(i)); VECTORS];
                    }
                    for &(a, b) in steps {
                        #[allow(unused_mut)]
                        let mut a = left.add(a as usize);
                        let mut vectors: [$vector; VECTORS] = [$zero; VECTORS];
                        for v in 0..VECTORS {
                            vectors[v] = $load(right[v].add(b as usize));
                        }
                        for i in 0..ROWS {
                            if NEIGHBOURS {
                                let value = $broadcast(*a.add(i));
                                for v in 0..VECTORS {
                                    sums[i][v] = $mul_add(value, vectors[v], sums[i][v]);
                                }
                            } else {
                                next_row!(a, apart, sums[i], vectors, $($apart)*);
                            }
                        }
                    }
                    for i in 0..ROWS {
                        for v in 0..VECTORS {
                            let to = out.add(i * pitch + v * $lanes);
                            let sum = if add { $add(sums[i][v], $load(to)) } else { sums[i][v] };
                            $store(to, sum);
                        }
                    }
                }
            }
        }
    };
}

kernels! {
    mod portable, 4, [f32; 4], [],
    [0.0f32; 4],
    |p: *const f32| p.cast::<[f32; 4]>().read_unaligned(),
    |p: *mut f32, v: [f32; 4]| p.cast::<[f32; 4]>().write_unaligned(v),
    |x: f32| [x; 4],
    |a: [f32; 4], b: [f32; 4], c: [f32; 4]| std::array::from_fn::<f32, 4, _>(|i| a[i] * b[i] + c[i]),
    |a: [f32; 4], b: [f32; 4]| std::array::from_fn::<f32, 4, _>(|i| a[i] + b[i]),
    apart: [plain |a: [f32; 4], b: [f32; 4], c: [f32; 4]| std::array::from_fn::<f32, 4, _>(|i| a[i] * b[i] + c[i]), |x: f32| [x; 4]],
    rows: 1 2 3 4 5 6
}
kernels! {
    #[cfg(target_arch = "x86_64")]
    mod avx2, 8, __m256, [target_feature(enable = "avx2,fma")],
    _mm256_setzero_ps(), _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_add_ps,
    apart: [ymm_reg "vfmadd231ps"],
    rows: 1 2 3 4 5 6
}
kernels! {
    #[cfg(target_arch = "x86_64")]
    mod avx512, 16, __m512, [target_feature(enable = "avx512f")],
    _mm512_setzero_ps(), _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_add_ps,
    apart: [zmm_reg "vfmadd231ps"],
    rows: 1 2 3 4 5 6 7 8 9 10 11 12 13 14
}
kernels! {
    #[cfg(target_arch = "x86_64")]
    mod bf16, 16, __m512, [target_feature(enable = "avx512f,avx512bf16")],
    _mm512_setzero_ps(), _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps,
    // The same 512 bits under their other name.
    |a: __m512, b: __m512, c: __m512| _mm512_dpbf16_ps(c, std::mem::transmute::<__m512, __m512bh>(a), std::mem::transmute::<__m512, __m512bh>(b)),
    _mm512_add_ps,
    apart: [zmm_reg "vdpbf16ps"],
    rows: 1 2 3 4 5 6 7 8 9 10 11 12 13 14
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tile_size_matches_plain_loops() {
        for isa in Isa::all() {
            let tile = Tile::new(isa);
            let lanes = tile.lanes();
            let value = |i: usize, salt: usize| ((i * 37 + salt) % 17) as f32 - 8.0;
            let left: Vec<f32> = (0..400).map(|i| value(i, 1)).collect();
            let right: Vec<f32> = (0..900).map(|i| value(i, 5)).collect();
            let base: Vec<f32> = (0..MAX_ROWS).map(|i| i as f32).collect();
            let pairs: Vec<(usize, usize)> = (0..20).map(|k| (k * 15, (k * 53) % 700)).collect();
            let steps = Steps::new(pairs.iter().copied());
            for rows in 1..=tile.rows() {
                for (at, apart) in [(&[3usize][..], 1), (&[7, 41][..], 1), (&[7, 41][..], 5)] {
                    for start in [Start::Base(&base), Start::Stored] {
                        let pitch = 2 * lanes + 1;
                        let mut out = vec![2.0; rows * pitch];
                        tile.run(rows, (&left, apart), &right, at, &steps, start, &mut out, pitch);
                        for i in 0..rows {
                            for (v, from) in at.iter().enumerate() {
                                for l in 0..lanes {
                                    let sum: f32 =
                                        pairs.iter().map(|(a, b)| left[a + i * apart] * right[from + b + l]).sum();
                                    // Small integers: exact in any order.
                                    let expected = sum
                                        + match start {
                                            Start::Base(base) => base[i],
                                            Start::Stored => 2.0,
                                        };
                                    assert_eq!(out[i * pitch + v * lanes + l], expected, "{isa:?} {rows} {at:?}");
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_are_near_equal() {
        let tile = Tile::new(Isa::supported(Kind::Portable).unwrap_or(Isa::current()));
        assert_eq!(tile.block(7), 4);
        assert_eq!(tile.block(6), 6);
        assert_eq!(tile.block(1), 1);
    }
}
