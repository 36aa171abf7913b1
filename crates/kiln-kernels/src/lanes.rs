//! The plain loops of the kernels, compiled for every instruction set.

use crate::isa::{Isa, Kind, mul_add, vectorised};
use std::mem::MaybeUninit;

/// Partial sums a reduction keeps: a multiple of every vector length, enough to hide latency.
pub(crate) const LANES: usize = 32;
/// The same of what is left of a row.
pub(crate) const SHORT: usize = 8;
/// Elements summed in `f32` before the sum moves to `f64`.
pub(crate) const CHUNK: usize = 1024;

/// An activation and its derivative.
pub(crate) trait Act: Copy {
    /// `a(z)`.
    fn value<const FMA: bool>(self, z: f32) -> f32;
    /// `a'(z)`.
    fn slope<const FMA: bool>(self, z: f32) -> f32;
}

/// The identity.
#[derive(Clone, Copy)]
pub(crate) struct Identity;
/// `max(z, 0)`, with slope 0 at 0.
#[derive(Clone, Copy)]
pub(crate) struct Relu;
/// `z` above 0, a fraction of it elsewhere.
#[derive(Clone, Copy)]
pub(crate) struct Leaky(pub(crate) f32);
/// `1 / (1 + exp(-z))`.
#[derive(Clone, Copy)]
pub(crate) struct Sigmoid;
/// `z * sigmoid(z)`.
#[derive(Clone, Copy)]
pub(crate) struct Silu;
/// `z * Phi(z)`, where `Phi` is the standard normal distribution function.
#[derive(Clone, Copy)]
pub(crate) struct Gelu;
/// `z * (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))) / 2`.
#[derive(Clone, Copy)]
pub(crate) struct GeluTanh;

impl Act for Identity {
    #[inline(always)]
    fn value<const FMA: bool>(self, z: f32) -> f32 {
        z
    }
    #[inline(always)]
    fn slope<const FMA: bool>(self, _: f32) -> f32 {
        1.0
    }
}
impl Act for Relu {
    #[inline(always)]
    fn value<const FMA: bool>(self, z: f32) -> f32 {
        // Written so that NaN passes through.
        if z <= 0.0 { 0.0 } else { z }
    }
    #[inline(always)]
    fn slope<const FMA: bool>(self, z: f32) -> f32 {
        if z <= 0.0 { 0.0 } else { 1.0 }
    }
}
impl Act for Leaky {
    #[inline(always)]
    fn value<const FMA: bool>(self, z: f32) -> f32 {
        if z > 0.0 { z } else { self.0 * z }
    }
    #[inline(always)]
    fn slope<const FMA: bool>(self, z: f32) -> f32 {
        if z > 0.0 { 1.0 } else { self.0 }
    }
}
impl Act for Sigmoid {
    #[inline(always)]
    fn value<const FMA: bool>(self, z: f32) -> f32 {
        sigmoid::<FMA>(z)
    }
    #[inline(always)]
    fn slope<const FMA: bool>(self, z: f32) -> f32 {
        let s = sigmoid::<FMA>(z);
        s * (1.0 - s)
    }
}
impl Act for Silu {
    #[inline(always)]
    fn value<const FMA: bool>(self, z: f32) -> f32 {
        z * sigmoid::<FMA>(z)
    }
    #[inline(always)]
    fn slope<const FMA: bool>(self, z: f32) -> f32 {
        let s = sigmoid::<FMA>(z);
        // s (1 + z (1 - s))
        mul_add::<FMA>(z * s, 1.0 - s, s)
    }
}
impl Act for Gelu {
    #[inline(always)]
    fn value<const FMA: bool>(self, z: f32) -> f32 {
        z * normal::<FMA>(z).0
    }
    #[inline(always)]
    fn slope<const FMA: bool>(self, z: f32) -> f32 {
        let (below, rise) = normal::<FMA>(z);
        below + rise
    }
}
impl Act for GeluTanh {
    #[inline(always)]
    fn value<const FMA: bool>(self, z: f32) -> f32 {
        z * tanh_gate::<FMA>(z).0
    }
    #[inline(always)]
    fn slope<const FMA: bool>(self, z: f32) -> f32 {
        let (gate, rise) = tanh_gate::<FMA>(z);
        gate + rise
    }
}

/// `(1 + tanh(u)) / 2 = sigmoid(2 u)` of [`GeluTanh`], and `z` times its derivative in `z`.
#[inline(always)]
fn tanh_gate<const FMA: bool>(z: f32) -> (f32, f32) {
    // 2 sqrt(2 / pi), and that times 0.044715.
    const LINEAR: f32 = 1.595_769;
    const CUBIC: f32 = 0.071_354_814;
    // Beyond 9.9 the gate is 0 or 1, and `2 u` above 85. NaN passes through.
    let a = z.abs();
    let a = if a > 9.9 { 9.9 } else { a };
    let square = a * a;
    let e = exp::<FMA>(-a * mul_add::<FMA>(square, CUBIC, LINEAR));
    let above = reciprocal::<FMA>(1.0 + e);
    let below = e * above;
    let rise = above * below * (a * mul_add::<FMA>(square, 3.0 * CUBIC, LINEAR));
    (if z < 0.0 { below } else { above }, rise.copysign(z))
}

/// The standard normal distribution function `Phi`, and `z` times the density. `Phi(-a)` for `a > 0` is
/// `exp(-a^2 / 2)` times a polynomial in `1 / (1 + 0.303 a)`, fitted to 9e-8 relative for `a < 12.5`,
/// where it stays; rounding `a^2` adds `6e-8 a^2 / 2`.
#[inline(always)]
fn normal<const FMA: bool>(z: f32) -> (f32, f32) {
    // NaN passes through.
    let a = z.abs();
    let a = if a > 12.5 { 12.5 } else { a };
    let e = exp::<FMA>(-0.5 * a * a);
    let t = reciprocal::<FMA>(mul_add::<FMA>(a, 0.303, 1.0));
    let mut p = 0.037_029_985;
    for c in [-0.157_690_5, 0.198_903_87, -0.048_593_83, 0.126_280_1, 0.101_354_47, 0.121_887_214, 0.120_828_71] {
        p = mul_add::<FMA>(p, t, c);
    }
    let tail = e * (t * p);
    // 1 / sqrt(2 pi)
    let rise = 0.398_942_3 * a * e;
    (if z < 0.0 { tail } else { 1.0 - tail }, rise.copysign(z))
}

/// `1 / (1 + exp(-z))` to about 2e-7 relative for `z > -87`, below which it stays near 1e-38.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(z: f32) -> f32 {
    // Written so that NaN passes through.
    let x = if -z > 87.0 { 87.0 } else { -z };
    let x = if x < -87.0 { -87.0 } else { x };
    reciprocal::<FMA>(1.0 + exp::<FMA>(x))
}

/// `exp(x)` for `|x| <= 87`, by `2^n` times the polynomial of Cephes' `expf` on the remainder.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let shifted = mul_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, the first short enough that its product with n is exact.
    let r = mul_add::<FMA>(n, -0.693_359_4, x);
    let r = mul_add::<FMA>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = mul_add::<FMA>(p, r, c);
    }
    let p = mul_add::<FMA>(p, r * r, r + 1.0);
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
}

/// `1 / d` for `1 <= d < 2^126`: a guess from the exponent, then two cubic steps. Divisions would
/// take most of the time of the loops here.
#[inline(always)]
fn reciprocal<const FMA: bool>(d: f32) -> f32 {
    let mut y = f32::from_bits(0x7ef3_11c7_u32.wrapping_sub(d.to_bits()));
    for _ in 0..2 {
        let e = mul_add::<FMA>(-d, y, 1.0);
        y = mul_add::<FMA>(y, mul_add::<FMA>(e, e, e), y);
    }
    y
}

/// Sum of partial sums, by a tree: one after another would take longer than a short row.
#[inline(always)]
pub(crate) fn total<const N: usize>(lanes: &[f32; N]) -> f64 {
    let mut sums = [0.0f32; SHORT];
    for (l, lane) in lanes.iter().enumerate() {
        sums[l % SHORT] += lane;
    }
    let [a, b, c, d, e, f, g, h] = sums.map(f64::from);
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// Adds the whole vectors of `N` in `x` to as many of the sums; gives what is left.
#[inline(always)]
fn add_vectors<'a, const N: usize>(x: &'a [f32], sums: &mut [f32; LANES]) -> &'a [f32] {
    let (vectors, rest) = x.as_chunks::<N>();
    for v in vectors {
        for l in 0..N {
            sums[l] += v[l];
        }
    }
    rest
}

/// Sum of at most [`CHUNK`] elements.
#[inline(always)]
fn sum_chunk(x: &[f32]) -> f64 {
    let mut sums = [0.0f32; LANES];
    let rest = add_vectors::<LANES>(x, &mut sums);
    let rest = add_vectors::<SHORT>(rest, &mut sums);
    add_vectors::<1>(rest, &mut sums);
    total(&sums)
}

/// Adds deviations from `centre` and their squares likewise.
#[inline(always)]
fn add_deviations<'a, const FMA: bool, const N: usize>(
    x: &'a [f32],
    centre: f32,
    sums: &mut [f32; LANES],
    squares: &mut [f32; LANES],
) -> &'a [f32] {
    let (vectors, rest) = x.as_chunks::<N>();
    for v in vectors {
        for l in 0..N {
            let d = v[l] - centre;
            sums[l] += d;
            squares[l] = mul_add::<FMA>(d, d, squares[l]);
        }
    }
    rest
}

/// Count, mean and sum of squared deviations of a sample, in `f64`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moments {
    pub(crate) count: f64,
    pub(crate) mean: f64,
    pub(crate) squares: f64,
}

impl Moments {
    /// Mean and biased variance.
    #[inline(always)]
    pub(crate) fn rounded(self) -> (f32, f32) {
        (self.mean as f32, (self.squares / self.count) as f32)
    }

    /// The moments of both samples together (Chan, Golub and LeVeque 1979).
    #[inline(always)]
    pub(crate) fn join(self, other: Moments) -> Moments {
        if self.count == 0.0 {
            return other;
        }
        let count = self.count + other.count;
        let delta = other.mean - self.mean;
        Moments {
            count,
            mean: self.mean + delta * other.count / count,
            squares: self.squares + other.squares + delta * delta * self.count * other.count / count,
        }
    }
}

/// Moments of `x`: two passes over each cache-resident chunk, so no digits are lost to a mean
/// much larger than the deviation.
#[inline(always)]
pub(crate) fn moments_of<const FMA: bool>(x: &[f32]) -> Moments {
    let mut result = Moments::default();
    for chunk in x.chunks(CHUNK) {
        let share = 1.0 / chunk.len() as f64;
        let centre = (sum_chunk(chunk) * share) as f32;
        let (mut sums, mut squares) = ([0.0f32; LANES], [0.0f32; LANES]);
        let rest = add_deviations::<FMA, LANES>(chunk, centre, &mut sums, &mut squares);
        let rest = add_deviations::<FMA, SHORT>(rest, centre, &mut sums, &mut squares);
        add_deviations::<FMA, 1>(rest, centre, &mut sums, &mut squares);
        let (sum, square) = (total(&sums), total(&squares));
        result = result.join(Moments {
            count: chunk.len() as f64,
            mean: centre as f64 + sum * share,
            squares: (square - sum * sum * share).max(0.0),
        });
    }
    result
}

vectorised! {
    /// [`moments_of`].
    pub(crate) fn moments(x: &[f32]) -> Moments {
        moments_of::<FMA>(x)
    }
}

vectorised! {
    /// Sum of `x`.
    pub(crate) fn sum(x: &[f32]) -> f64 {
        x.chunks(CHUNK).map(sum_chunk).sum()
    }
}

/// How a plane is normalised: `h = (x - mean) * rstd`, then `z = gamma * h + beta`.
#[derive(Clone, Copy)]
pub(crate) struct Standard {
    pub(crate) mean: f32,
    pub(crate) rstd: f32,
    pub(crate) gamma: f32,
    pub(crate) beta: f32,
}

vectorised! {
    /// `y = a(z)`.
    pub(crate) fn normalise[A: Act](act: A, s: Standard, x: &[f32], y: &mut [MaybeUninit<f32>]) {
        let scale = s.rstd * s.gamma;
        for (y, x) in y.iter_mut().zip(x) {
            y.write(act.value::<FMA>(mul_add::<FMA>(x - s.mean, scale, s.beta)));
        }
    }
}

vectorised! {
    /// `y = a(x)`.
    pub(crate) fn activate[A: Act](act: A, x: &[f32], y: &mut [MaybeUninit<f32>]) {
        for (y, x) in y.iter_mut().zip(x) {
            y.write(act.value::<FMA>(*x));
        }
    }
}

vectorised! {
    /// `z = a(x + y)`.
    pub(crate) fn add_activate[A: Act](act: A, x: &[f32], y: &[f32], z: &mut [MaybeUninit<f32>]) {
        for ((z, x), y) in z.iter_mut().zip(x).zip(y) {
            z.write(act.value::<FMA>(x + y));
        }
    }
}

vectorised! {
    /// `x = a(x + y)`, in place.
    pub(crate) fn add_activate_to[A: Act](act: A, x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x = act.value::<FMA>(*x + y);
        }
    }
}

/// `tanh(z)` to about 2e-7 absolute.
#[inline(always)]
fn tanh<const FMA: bool>(z: f32) -> f32 {
    mul_add::<FMA>(2.0, sigmoid::<FMA>(2.0 * z), -1.0)
}

vectorised! {
    /// `y = tanh(a) sigmoid(b)`.
    pub(crate) fn gate(a: &[f32], b: &[f32], y: &mut [MaybeUninit<f32>]) {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            y.write(tanh::<FMA>(*a) * sigmoid::<FMA>(*b));
        }
    }
}

vectorised! {
    /// The gradients of [`gate`] in `a` and `b`.
    pub(crate) fn ungate(
        a: &[f32], b: &[f32], g: &[f32], da: &mut [MaybeUninit<f32>], db: &mut [MaybeUninit<f32>]
    ) {
        for ((((da, db), a), b), g) in da.iter_mut().zip(db).zip(a).zip(b).zip(g) {
            let (t, s) = (tanh::<FMA>(*a), sigmoid::<FMA>(*b));
            da.write(g * s * mul_add::<FMA>(-t, t, 1.0));
            db.write(g * t * s * (1.0 - s));
        }
    }
}

vectorised! {
    /// One step of an LSTM at one place. `gates` holds `o`, `f`, `i`, `g` before their activations, and after the call
    /// with them; `cell` is `f cell + i g` after the call, and `state` `o tanh(cell)`.
    pub(crate) fn lstm(gates: &mut [f32], cell: &mut [f32], state: &mut [f32]) {
        let (sigmoids, tanhs) = gates.split_at_mut(3 * state.len());
        sigmoids.iter_mut().for_each(|v| *v = sigmoid::<FMA>(*v));
        tanhs.iter_mut().for_each(|v| *v = tanh::<FMA>(*v));
        let (o, rest) = sigmoids.split_at(state.len());
        let (f, i) = rest.split_at(state.len());
        for (((((state, cell), o), f), i), g) in state.iter_mut().zip(cell).zip(o).zip(f).zip(i).zip(&*tanhs) {
            *cell = mul_add::<FMA>(*f, *cell, i * g);
            *state = o * tanh::<FMA>(*cell);
        }
    }
}

vectorised! {
    /// The gradients of [`lstm`] before the activations, of what it left in `gates` and `cell` and the cell `before`. `dc`
    /// is the gradient in the cell from later steps, and after the call that in the cell before.
    pub(crate) fn unlstm(
        gates: &[f32], before: &[f32], cell: &[f32], dh: &[f32], dc: &mut [f32], dgates: &mut [f32]
    ) {
        let n = dh.len();
        let [o, f, i, g] = [0, 1, 2, 3].map(|at| &gates[at * n..][..n]);
        let (d_o, rest) = dgates.split_at_mut(n);
        let (d_f, rest) = rest.split_at_mut(n);
        let (d_i, d_g) = rest.split_at_mut(n);
        let (before, cell, dc) = (&before[..n], &cell[..n], &mut dc[..n]);
        let (d_o, d_f, d_i, d_g) = (&mut d_o[..n], &mut d_f[..n], &mut d_i[..n], &mut d_g[..n]);
        for k in 0..n {
            let t = tanh::<FMA>(cell[k]);
            let through = mul_add::<FMA>(dh[k] * o[k], mul_add::<FMA>(-t, t, 1.0), dc[k]);
            d_o[k] = dh[k] * t * o[k] * (1.0 - o[k]);
            d_f[k] = through * before[k] * f[k] * (1.0 - f[k]);
            d_i[k] = through * g[k] * i[k] * (1.0 - i[k]);
            d_g[k] = through * i[k] * mul_add::<FMA>(-g[k], g[k], 1.0);
            dc[k] = through * f[k];
        }
    }
}

vectorised! {
    /// `y = g a'(x)`.
    pub(crate) fn slope_times[A: Act](act: A, x: &[f32], g: &[f32], y: &mut [MaybeUninit<f32>]) {
        for ((y, x), g) in y.iter_mut().zip(x).zip(g) {
            y.write(g * act.slope::<FMA>(*x));
        }
    }
}

vectorised! {
    /// Writes the gradient in `z`, `t = g * a'(z)`, and gives the sums of `t` and of `t * h`.
    pub(crate) fn unactivate[A: Act](
        act: A, s: Standard, x: &[f32], g: &[f32], t: &mut [MaybeUninit<f32>]
    ) -> (f64, f64) {
        let (mut result, mut weighted) = (0.0, 0.0);
        let chunks = x.chunks(CHUNK).zip(g.chunks(CHUNK)).zip(t.chunks_mut(CHUNK));
        for ((x, g), t) in chunks {
            let (mut sums, mut products) = ([0.0f32; LANES], [0.0f32; LANES]);
            let (xs, x_rest) = x.as_chunks::<LANES>();
            let (gs, g_rest) = g.as_chunks::<LANES>();
            let (ts, t_rest) = t.as_chunks_mut::<LANES>();
            for ((x, g), t) in xs.iter().zip(gs).zip(ts) {
                for l in 0..LANES {
                    let h = (x[l] - s.mean) * s.rstd;
                    let v = g[l] * act.slope::<FMA>(mul_add::<FMA>(h, s.gamma, s.beta));
                    t[l].write(v);
                    sums[l] += v;
                    products[l] = mul_add::<FMA>(v, h, products[l]);
                }
            }
            result += total(&sums);
            weighted += total(&products);
            for ((x, g), t) in x_rest.iter().zip(g_rest).zip(t_rest) {
                let h = (x - s.mean) * s.rstd;
                let v = g * act.slope::<FMA>(mul_add::<FMA>(h, s.gamma, s.beta));
                t.write(v);
                result += v as f64;
                weighted += (v * h) as f64;
            }
        }
        (result, weighted)
    }
}

/// Gradient through the statistics: `t = scale * t - offset - (x - mean) * pull`, in place.
#[inline(always)]
pub(crate) fn through_statistics_of<const FMA: bool>(
    x: &[f32],
    t: &mut [f32],
    mean: f32,
    scale: f32,
    offset: f32,
    pull: f32,
) {
    for (t, x) in t.iter_mut().zip(x) {
        *t = mul_add::<FMA>(*t, scale, -mul_add::<FMA>(x - mean, pull, offset));
    }
}

vectorised! {
    /// [`through_statistics_of`].
    pub(crate) fn through_statistics(
        x: &[f32], t: &mut [f32], mean: f32, scale: f32, offset: f32, pull: f32
    ) {
        through_statistics_of::<FMA>(x, t, mean, scale, offset, pull);
    }
}

vectorised! {
    /// Sum of `x[i * pitch + j] * y[i * width + j]` over `i < rows` and `j < width`.
    pub(crate) fn inner_product(
        x: &[f32], pitch: usize, y: &[f32], width: usize, rows: usize
    ) -> f64 {
        let (mut result, mut since) = (0.0, 0);
        let mut sums = [0.0f32; LANES];
        for i in 0..rows {
            let (xs, x_rest) = x[i * pitch..][..width].as_chunks::<LANES>();
            let (ys, y_rest) = y[i * width..][..width].as_chunks::<LANES>();
            for (x, y) in xs.iter().zip(ys) {
                for l in 0..LANES {
                    sums[l] = mul_add::<FMA>(x[l], y[l], sums[l]);
                }
            }
            for (l, (x, y)) in x_rest.iter().zip(y_rest).enumerate() {
                sums[l] = mul_add::<FMA>(*x, *y, sums[l]);
            }
            since += width;
            if since >= CHUNK * LANES / 4 {
                result += total(&sums);
                (sums, since) = ([0.0; LANES], 0);
            }
        }
        result + total(&sums)
    }
}

/// Floats [`collect`] copies for each piece.
pub(crate) const PIECE: usize = 8;

vectorised! {
    /// Collects scattered pixels: for each offset, a row of `width` floats, in which each piece
    /// `(lane, place)` puts `from[offset + place..]` at `lane`. Pieces are copied whole, what is too
    /// much being overwritten by the next, so they must be in ascending order of lanes; `to` must
    /// have room for one piece after the last row.
    pub(crate) fn collect(
        from: &[f32], offsets: &[usize], pieces: &[(usize, usize)], width: usize, to: &mut [f32]
    ) {
        for (k, offset) in offsets.iter().enumerate() {
            for (lane, place) in pieces {
                let at = k * width + lane;
                to[at..at + PIECE].copy_from_slice(&from[offset + place..offset + place + PIECE]);
            }
        }
    }
}

/// Asks for `values` to be brought near before they are read.
#[inline]
pub(crate) fn prefetch(isa: Isa, values: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    if isa.kind() != Kind::Portable {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        for line in values.chunks(16) {
            // SAFETY: a hint, which reads nothing; every such kind has SSE.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    #[test]
    fn sigmoid_is_accurate() {
        for i in -86_000..=120_000 {
            let z = i as f32 / 1000.0;
            let exact = 1.0 / (1.0 + (-z as f64).exp());
            for got in [sigmoid::<true>(z), sigmoid::<false>(z)] {
                assert!((got as f64 / exact - 1.0).abs() < 4e-7, "{z}: {got} against {exact}");
            }
        }
        assert_eq!(Silu.value::<true>(f32::INFINITY), f32::INFINITY);
        assert!(Silu.value::<true>(f32::NAN).is_nan());
        assert!(Relu.value::<true>(f32::NAN).is_nan());
        assert!(Silu.value::<false>(-200.0).abs() < 1e-30);
    }

    #[test]
    fn moments_keep_their_digits() {
        for isa in Isa::all() {
            for (len, offset) in [(1, 0.0), (7, 1.0), (5000, 1000.0), (33_333, -300.0)] {
                let x: Vec<f32> = (0..len).map(|i| offset + ((i * 7919) % 1000) as f32 / 1000.0).collect();
                let mean = x.iter().map(|v| *v as f64).sum::<f64>() / len as f64;
                let squares = x.iter().map(|v| (*v as f64 - mean).powi(2)).sum::<f64>();
                let got = moments(isa, &x);
                assert!((got.mean - mean).abs() < 1e-6 * (1.0 + mean.abs()), "{isa:?} {len}");
                assert!((got.squares - squares).abs() <= 2e-6 * squares, "{isa:?} {len}");
                let sum = mean * len as f64;
                assert!((super::sum(isa, &x) - sum).abs() <= 1e-6 * sum.abs().max(1.0));
            }
        }
    }
}
