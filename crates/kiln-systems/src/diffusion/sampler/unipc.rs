//! UniPC (Zhao 2023): a predictor over λ = ln α/σ and a corrector of one order more that costs no evaluation
//! (`UniPCMultistepScheduler` of diffusers, predicting x₀).

use burn::tensor::Tensor;
use kiln_core::Result;
use serde::Deserialize;

use super::Denoiser;
use crate::diffusion::schedule::Level;

/// B(h) of the paper, with h counted backwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// B(h) = h.
    Bh1,
    /// B(h) = eʰ − 1.
    #[default]
    Bh2,
}

/// UniPC with its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UniPc {
    /// 1 to 3.
    pub order: usize,
    /// Which B(h).
    pub kind: Kind,
}

impl UniPc {
    /// Walks `xt` down the `levels`, the order falling to 1 at the last step.
    ///
    /// # Errors
    /// If the denoiser fails.
    pub fn run(&self, mut xt: Tensor<4>, levels: &[Level], denoise: &Denoiser<'_>) -> Result<Tensor<4>> {
        let steps = levels.len().saturating_sub(1);
        // Predictions so far, the newest first; and where the last step began, with its order.
        let mut m: Vec<Tensor<4>> = Vec::new();
        let mut last: Option<(Tensor<4>, usize)> = None;
        for i in 0..steps {
            let new = denoise(xt.clone(), levels[i])?.x0;
            if let Some((before, order)) = last {
                xt = self.step(&levels[..i], levels[i], before, &m, order, Some(new.clone()));
            }
            m.insert(0, new);
            m.truncate(self.order);
            let order = self.order.min(steps - i).min(i + 1);
            last = Some((xt.clone(), order));
            xt = self.step(&levels[..=i], levels[i + 1], xt, &m, order, None);
        }
        Ok(xt)
    }

    /// The step `to` a level from the last of `passed`; corrected if the prediction `there` is known.
    fn step(
        &self,
        passed: &[Level],
        to: Level,
        xt: Tensor<4>,
        m: &[Tensor<4>],
        order: usize,
        there: Option<Tensor<4>>,
    ) -> Tensor<4> {
        let back = |k: usize| passed[passed.len() - 1 - k];
        let from = back(0);
        let h = to.lambda() - from.lambda();
        let phi1 = (-h).exp_m1();
        let x = xt * (to.sigma / from.sigma) - m[0].clone() * (to.signal * phi1);
        if order == 1 && there.is_none() {
            return x;
        }
        let b_h = match self.kind {
            Kind::Bh1 => -h,
            Kind::Bh2 => phi1,
        };
        // Differences to earlier predictions, and where they were in units of the step.
        let mut places: Vec<f64> = (1..order).map(|k| (back(k).lambda() - from.lambda()) / h).collect();
        let mut differences: Vec<Tensor<4>> =
            places.iter().enumerate().map(|(k, r)| (m[k + 1].clone() - m[0].clone()) / *r).collect();
        if let Some(there) = there {
            places.push(1.0);
            differences.push(there - m[0].clone());
        }
        let weights = match places.len() {
            // As the paper's code: exact enough, and free of the corrector's h.
            1 => vec![0.5],
            n => weights(&places, n, -h, b_h),
        };
        let change = differences.into_iter().zip(weights).map(|(d, w)| d * w).reduce(|a, b| a + b);
        match change {
            Some(change) => x - change * (to.signal * b_h),
            None => x,
        }
    }
}

/// ρ of R ρ = b with R's row i being the places to the i, and b_i = i!·h φ_{i+1}(h) / B(h) (equation 5).
fn weights(places: &[f64], n: usize, h: f64, b_h: f64) -> Vec<f64> {
    let mut phi = h.exp_m1() / h - 1.0;
    let mut factorial = 1.0;
    let mut rows: Vec<Vec<f64>> = Vec::new();
    for i in 0..n {
        let mut row: Vec<f64> = places.iter().map(|p| p.powi(i as i32)).collect();
        row.push(phi * factorial / b_h);
        rows.push(row);
        factorial *= (i + 2) as f64;
        phi = phi / h - 1.0 / factorial;
    }
    solve(rows)
}

/// Gaussian elimination with pivots on rows `[A | b]`; A is a Vandermonde matrix of distinct places.
fn solve(mut rows: Vec<Vec<f64>>) -> Vec<f64> {
    let n = rows.len();
    for column in 0..n {
        let pivot = (column..n).max_by(|&a, &b| rows[a][column].abs().total_cmp(&rows[b][column].abs()));
        rows.swap(column, pivot.unwrap_or(column));
        let top = rows[column].clone();
        for row in rows.iter_mut().skip(column + 1) {
            let factor = row[column] / top[column];
            row.iter_mut().zip(&top).for_each(|(r, t)| *r -= factor * t);
        }
    }
    let mut x = vec![0.0; n];
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|j| rows[i][j] * x[j]).sum();
        x[i] = (rows[i][n] - known) / rows[i][i];
    }
    x
}
