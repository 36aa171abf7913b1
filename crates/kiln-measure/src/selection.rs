//! How well a classifier may do on a target without labels, judged without them: what settings of domain adaptation are chosen by.
//!
//! | criterion | of | better |
//! |---|---|---|
//! | source risk | cross-entropy on held-out source pictures | lower |
//! | importance-weighted risk (Sugiyama 2007) | the same, each picture weighted by p_target(f) / p_source(f) of its features f | lower |
//! | deep embedded validation (You 2019, algorithm 1) | the same with a control variate that makes the weights' scatter matter less | lower |
//! | entropy (Morerio 2018) | the predictions' entropy on the target, in nats | lower |
//! | soft neighbourhood density (Saito 2021) | the entropy of each target picture's similarities to the others | higher |
//!
//! None sees that a classifier is sure and wrong, which the last two even reward. The density ratio is a logistic regression's.

use faer::linalg::solvers::Solve;
use faer::{Mat, Side};
use kiln_core::{Error, Result};

use crate::Features;

/// Temperature of [`soft_neighbourhood_density`] (Saito 2021, §3.2).
pub const TEMPERATURE: f64 = 0.05;
/// Steps of Newton's method, far more than it takes.
const NEWTON_STEPS: usize = 100;

/// −log p of the right class, in nats; `p` has a row of probabilities for each picture.
///
/// # Errors
/// If labels and rows differ in number, or a label is too large.
pub fn cross_entropies(p: Features<'_>, labels: &[usize]) -> Result<Vec<f64>> {
    if labels.len() != p.n() || labels.iter().any(|&label| label >= p.d()) {
        return Err(Error::new(format!("{}: its labels are not those of {} classes", p.name(), p.d())));
    }
    Ok(p.rows().zip(labels).map(|(row, &label)| -f64::from(row[label]).max(1e-15).ln()).collect())
}

/// The mean entropy of rows of probabilities, in nats.
pub fn entropy(p: Features<'_>) -> f64 {
    p.rows().map(of_row).sum::<f64>() / p.n() as f64
}

fn of_row(row: &[f32]) -> f64 {
    row.iter().map(|&v| f64::from(v)).filter(|v| *v > 0.0).map(|v| -v * v.ln()).sum()
}

/// The mean entropy of each picture's softmax, at a temperature, of the cosines of its prediction with all others' (Saito 2021,
/// equations 1 to 3). Time grows with the square of the pictures.
///
/// # Errors
/// If there are fewer than two pictures.
pub fn soft_neighbourhood_density(p: Features<'_>, temperature: f64) -> Result<f64> {
    if p.n() < 2 {
        return Err(Error::new(format!("{}: one picture has no neighbours; give at least 2", p.name())));
    }
    let unit = |row: &[f32]| -> Vec<f64> {
        let length = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt().max(1e-12);
        row.iter().map(|v| f64::from(*v) / length).collect()
    };
    let rows: Vec<Vec<f64>> = p.rows().map(unit).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let one = |i: usize| {
        let similar = |j: usize| if i == j { -dot(&rows[i], &rows[i]) } else { dot(&rows[i], &rows[j]) };
        let logits: Vec<f64> = (0..rows.len()).map(|j| similar(j) / temperature).collect();
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|l| (l - top).exp()).sum();
        logits.iter().map(|l| (l - top).exp() / sum * (top + sum.ln() - l)).sum::<f64>()
    };
    Ok((0..rows.len()).map(one).sum::<f64>() / rows.len() as f64)
}

/// p_target / p_source at each row of `at`, by a logistic regression between features of source and target: min ½‖w‖² + Σ log(1 +
/// e^(−y(wᵀx + b))), as scikit-learn's with C = 1, times the sets' sizes.
///
/// # Errors
/// If the widths differ, or the regression has no solution in numbers.
pub fn density_ratios(source: Features<'_>, target: Features<'_>, at: Features<'_>) -> Result<Vec<f64>> {
    source.same_width(&target)?;
    source.same_width(&at)?;
    let (n, d) = (source.n() + target.n(), source.d());
    let rows: Vec<&[f32]> = source.rows().chain(target.rows()).collect();
    let of_source = |i: usize| if i < source.n() { 1.0 } else { 0.0 };
    // The last weight is b's.
    let mut weights = vec![0.0; d + 1];
    let score = |weights: &[f64], row: &[f32]| {
        weights[d] + row.iter().zip(weights).map(|(x, w)| f64::from(*x) * w).sum::<f64>()
    };
    let objective = |weights: &[f64]| {
        let fit = |(i, row): (usize, &&[f32])| {
            let s = score(weights, row) * if of_source(i) > 0.0 { 1.0 } else { -1.0 };
            (-s).max(0.0) + (-s.abs()).exp().ln_1p()
        };
        0.5 * weights[..d].iter().map(|w| w * w).sum::<f64>() + rows.iter().enumerate().map(fit).sum::<f64>()
    };
    for _ in 0..NEWTON_STEPS {
        let mut gradient = Mat::from_fn(d + 1, 1, |k, _| if k < d { weights[k] } else { 0.0 });
        // A row for each picture, times the root of its curvature.
        let mut curved = Mat::<f64>::zeros(n, d + 1);
        for (i, row) in rows.iter().enumerate() {
            let p = 1.0 / (1.0 + (-score(&weights, row)).exp());
            let root = (p * (1.0 - p)).max(1e-12).sqrt();
            for k in 0..=d {
                let x = if k < d { f64::from(row[k]) } else { 1.0 };
                gradient[(k, 0)] += (p - of_source(i)) * x;
                curved[(i, k)] = root * x;
            }
        }
        let mut hessian = curved.transpose() * &curved;
        (0..d).for_each(|k| hessian[(k, k)] += 1.0);
        let failed = |_| Error::new("the regression between source and target has no solution; are features huge?");
        let step = hessian.llt(Side::Lower).map_err(failed)?.solve(&gradient);
        let before = objective(&weights);
        let moved = |share: f64| -> Vec<f64> { (0..=d).map(|k| weights[k] - share * step[(k, 0)]).collect() };
        let shares = std::iter::successors(Some(1.0), |share| Some(share / 2.0)).take(30);
        let Some(better) = shares.map(moved).find(|next| objective(next) < before) else { break };
        let done = before - objective(&better) < 1e-12 * before.abs();
        weights = better;
        if done {
            break;
        }
    }
    let sizes = source.n() as f64 / target.n() as f64;
    // p_target / p_source of the regression is e^(−score).
    Ok(at.rows().map(|row| sizes * (-score(&weights, row)).exp()).collect())
}

/// The mean of losses, each times its weight (Sugiyama 2007, equation 6).
pub fn weighted_risk(weights: &[f64], losses: &[f64]) -> f64 {
    weights.iter().zip(losses).map(|(w, l)| w * l).sum::<f64>() / losses.len().max(1) as f64
}

/// [`weighted_risk`] with a control variate: mean(w·l) + η mean(w) − η, η = −cov(w·l, w) / var(w) (You 2019, algorithm 1).
pub fn deep_embedded_risk(weights: &[f64], losses: &[f64]) -> f64 {
    let n = losses.len().max(1) as f64;
    let (risk, mean) = (weighted_risk(weights, losses), weights.iter().sum::<f64>() / n);
    let apart = |w: f64, l: f64| (w * l - risk) * (w - mean);
    let covariance: f64 = weights.iter().zip(losses).map(|(&w, &l)| apart(w, l)).sum();
    let variance: f64 = weights.iter().map(|w| (w - mean).powi(2)).sum();
    let eta = if variance > 0.0 { -covariance / variance } else { 0.0 };
    risk + eta * mean - eta
}
