//! The loops of a normalisation in which every element has its own gamma and beta, and those over
//! rows that share theirs, which are too short to be dispatched one by one.

use super::reciprocal_deviation;
use crate::{
    isa::{mul_add, vectorised},
    lanes::{Act, CHUNK, LANES, SHORT, moments_of, through_statistics_of, total},
};
use std::mem::MaybeUninit;

#[inline(always)]
fn normalise_of<const FMA: bool, A: Act>(
    act: A,
    mean: f32,
    rstd: f32,
    [gamma, beta]: [&[f32]; 2],
    x: &[f32],
    y: &mut [MaybeUninit<f32>],
) {
    for ((y, x), (gamma, beta)) in y.iter_mut().zip(x).zip(gamma.iter().zip(beta)) {
        y.write(act.value::<FMA>(mul_add::<FMA>((x - mean) * rstd, *gamma, *beta)));
    }
}

vectorised! {
    /// `y = a(gamma (x - mean) rstd + beta)`.
    pub(super) fn normalise[A: Act](
        act: A, mean: f32, rstd: f32, affine: [&[f32]; 2], x: &[f32], y: &mut [MaybeUninit<f32>]
    ) {
        normalise_of::<FMA, A>(act, mean, rstd, affine, x, y);
    }
}

vectorised! {
    /// The same of rows as long as gamma and beta, each by its own mean and variance, which are
    /// written too.
    pub(super) fn normalise_rows[A: Act](
        act: A, eps: f64, affine: [&[f32]; 2], x: &[f32],
        y: &mut [MaybeUninit<f32>], mean: &mut [MaybeUninit<f32>], var: &mut [MaybeUninit<f32>]
    ) {
        let width = affine[0].len();
        let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width));
        for ((x, y), (mean, var)) in rows.zip(mean.iter_mut().zip(var)) {
            let (centre, spread) = moments_of::<FMA>(x).rounded();
            mean.write(centre);
            var.write(spread);
            normalise_of::<FMA, A>(act, centre, reciprocal_deviation(spread, eps), affine, x, y);
        }
    }
}

/// What a gradient reads and writes, from some element on.
struct Streams<'a> {
    x: &'a [f32],
    g: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    t: &'a mut [MaybeUninit<f32>],
    dgamma: &'a mut [f32],
    dbeta: &'a mut [f32],
}

impl<'a> Streams<'a> {
    /// The gradient in `z`, `t = g a'(z)`, of the whole vectors of `N`: writes `gamma t`, adds `t h` and
    /// `t` to the gradients of gamma and beta and `gamma t` and `gamma t h` to the sums; gives what is left.
    #[inline(always)]
    fn unactivate<const FMA: bool, const N: usize, A: Act>(
        self,
        act: A,
        mean: f32,
        rstd: f32,
        totals: &mut [f64; 2],
    ) -> Self {
        let (xs, x) = self.x.as_chunks::<N>();
        let (gs, g) = self.g.as_chunks::<N>();
        let (gammas, gamma) = self.gamma.as_chunks::<N>();
        let (betas, beta) = self.beta.as_chunks::<N>();
        let (ts, t) = self.t.as_chunks_mut::<N>();
        let (dgammas, dgamma) = self.dgamma.as_chunks_mut::<N>();
        let (dbetas, dbeta) = self.dbeta.as_chunks_mut::<N>();
        let read = xs.iter().zip(gs).zip(gammas.iter().zip(betas));
        let written = ts.iter_mut().zip(dgammas.iter_mut().zip(dbetas));
        let (mut sums, mut products) = ([0.0f32; N], [0.0f32; N]);
        for (i, (((x, g), (gamma, beta)), (t, (dgamma, dbeta)))) in read.zip(written).enumerate() {
            for l in 0..N {
                let h = (x[l] - mean) * rstd;
                let v = g[l] * act.slope::<FMA>(mul_add::<FMA>(h, gamma[l], beta[l]));
                dgamma[l] = mul_add::<FMA>(v, h, dgamma[l]);
                dbeta[l] += v;
                let v = v * gamma[l];
                t[l].write(v);
                sums[l] += v;
                products[l] = mul_add::<FMA>(v, h, products[l]);
            }
            if i % (CHUNK / LANES) == CHUNK / LANES - 1 {
                totals[0] += total(&sums);
                totals[1] += total(&products);
                (sums, products) = ([0.0; N], [0.0; N]);
            }
        }
        totals[0] += total(&sums);
        totals[1] += total(&products);
        Self { x, g, gamma, beta, t, dgamma, dbeta }
    }

    /// The same of all; gives the sums.
    #[inline(always)]
    fn unactivate_all<const FMA: bool, A: Act>(self, act: A, mean: f32, rstd: f32) -> (f64, f64) {
        let mut totals = [0.0; 2];
        let rest = self.unactivate::<FMA, LANES, A>(act, mean, rstd, &mut totals);
        let rest = rest.unactivate::<FMA, SHORT, A>(act, mean, rstd, &mut totals);
        rest.unactivate::<FMA, 1, A>(act, mean, rstd, &mut totals);
        (totals[0], totals[1])
    }
}

vectorised! {
    /// The gradient in `z`, `t = g a'(z)`: writes `gamma t`, adds `t h` and `t` to the gradients of gamma
    /// and beta, and gives the sums of `gamma t` and of `gamma t h`.
    pub(super) fn unactivate[A: Act](
        act: A, mean: f32, rstd: f32, affine: [&[f32]; 2], x: &[f32], g: &[f32],
        t: &mut [MaybeUninit<f32>], gradients: [&mut [f32]; 2]
    ) -> (f64, f64) {
        let ([gamma, beta], [dgamma, dbeta]) = (affine, gradients);
        Streams { x, g, gamma, beta, t, dgamma, dbeta }.unactivate_all::<FMA, A>(act, mean, rstd)
    }
}

vectorised! {
    /// The gradient in rows as long as gamma and beta, each by its own mean and variance, written to
    /// `dx`; those in gamma and beta are added.
    pub(super) fn row_backward[A: Act](
        act: A, eps: f64, affine: [&[f32]; 2], x: &[f32], g: &[f32], mean: &[f32], var: &[f32],
        dx: &mut [MaybeUninit<f32>], gradients: [&mut [f32]; 2]
    ) {
        let ([gamma, beta], [dgamma, dbeta]) = (affine, gradients);
        let width = gamma.len();
        assert!([beta.len(), dgamma.len(), dbeta.len()] == [width; 3]);
        let share = 1.0 / width as f64;
        let rows = x.chunks_exact(width).zip(g.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for (((x, g), t), (mean, var)) in rows.zip(mean.iter().zip(var)) {
            let rstd = reciprocal_deviation(*var, eps);
            let streams = Streams { x, g, gamma, beta, t: &mut *t, dgamma: &mut *dgamma, dbeta: &mut *dbeta };
            let (m1, m2) = streams.unactivate_all::<FMA, A>(act, *mean, rstd);
            let rate = rstd as f64 * share;
            // SAFETY: `unactivate_all` has written every element of the row, as all its slices are as long.
            let t = unsafe { t.assume_init_mut() };
            through_statistics_of::<FMA>(x, t, *mean, rstd, (m1 * rate) as f32, (m2 * rate * rstd as f64) as f32);
        }
    }
}
