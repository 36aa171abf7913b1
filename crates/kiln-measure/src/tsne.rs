//! t-SNE: places in the plane at which neighbours stay neighbours (van der Maaten & Hinton 2008).
//!
//! p_ij are similarities of points by Gaussians, each as wide as to have `perplexity` neighbours; q_ij those of places by Student's
//! distribution of one degree of freedom; places minimise KL(P ‖ Q). Exact, so that time grows with the square of the points: for a few
//! thousand. Every sum has one order, so that equal points give equal places whatever the threads.

use kiln_core::random::Key;
use kiln_core::{Result, refuse_if};
use rayon::prelude::*;

use crate::Features;

/// How the search goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    /// About how many neighbours a point has.
    pub perplexity: f64,
    /// Steps of descent.
    pub steps: usize,
}

/// Steps at the start in which similarities are enlarged, and by how much (§3.4; van der Maaten 2014 for the factor).
const EARLY: usize = 250;
const EXAGGERATION: f64 = 12.0;
/// The least similarity.
const LEAST: f64 = 1e-12;

/// A place for each point. The start is drawn by `key`.
///
/// # Errors
/// If there are fewer than four points, or the perplexity is not from 1 to a third of the points.
pub fn embed(points: Features<'_>, search: Search, key: Key) -> Result<Vec<[f64; 2]>> {
    let n = points.n();
    refuse_if!(n < 4, "{}: {n} points make no map; give at least 4", points.name());
    let most = (n - 1) as f64 / 3.0;
    refuse_if!(
        !(1.0..=most).contains(&search.perplexity),
        "a perplexity of {}: must be from 1 to {most:.0}, a third of the points",
        search.perplexity
    );
    let p = similarities(points, search.perplexity)?;
    let start = key.normal(0..n as u64, 2);
    let mut places: Vec<[f64; 2]> = start.chunks(2).map(|at| [0, 1].map(|k| 1e-4 * f64::from(at[k]))).collect();
    let (mut moves, mut gains) = (vec![[0.0; 2]; n], vec![[1.0f64; 2]; n]);
    let rate = (n as f64 / EXAGGERATION / 4.0).max(50.0);
    for step in 0..search.steps {
        let (factor, momentum) = if step < EARLY { (EXAGGERATION, 0.5) } else { (1.0, 0.8) };
        let slopes = gradient(&p, &places, factor);
        for i in 0..n {
            for k in 0..2 {
                // A gain for each coordinate, larger while the descent goes on in one direction (Jacobs 1988).
                let on = slopes[i][k] * moves[i][k] < 0.0;
                gains[i][k] = if on { gains[i][k] + 0.2 } else { (gains[i][k] * 0.8).max(0.01) };
                moves[i][k] = momentum * moves[i][k] - rate * gains[i][k] * slopes[i][k];
                places[i][k] += moves[i][k];
            }
        }
    }
    Ok(places)
}

/// P, row by row: symmetric, and 1 in all (equations 1 and §3.1).
///
/// # Errors
/// If a value is too large for its distances.
pub fn similarities(points: Features<'_>, perplexity: f64) -> Result<Vec<f64>> {
    let n = points.n();
    let rows: Vec<&[f32]> = points.rows().collect();
    let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
    let conditional = |i: usize| -> Vec<f64> {
        let distances: Vec<f64> = rows.iter().map(|row| row.iter().zip(rows[i]).map(square).sum()).collect();
        of_perplexity(&distances, i, perplexity)
    };
    let conditional: Vec<Vec<f64>> = (0..n).into_par_iter().map(conditional).collect();
    let finite = conditional.iter().flatten().all(|p| p.is_finite());
    refuse_if!(!finite, "{}: distances of points are too large", points.name());
    let both = |at: usize| {
        let (i, j) = (at / n, at % n);
        if i == j { 0.0 } else { ((conditional[i][j] + conditional[j][i]) / (2 * n) as f64).max(LEAST) }
    };
    Ok((0..n * n).map(both).collect())
}

/// p_j|i of squared distances, the width found by bisection so that the entropy is log(perplexity).
fn of_perplexity(distances: &[f64], i: usize, perplexity: f64) -> Vec<f64> {
    let wanted = perplexity.ln();
    let (mut low, mut high, mut beta) = (0.0, f64::INFINITY, 1.0);
    let nearest = distances.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, d)| *d).fold(f64::INFINITY, f64::min);
    let mut p = Vec::new();
    for _ in 0..100 {
        // Shifted by the nearest, which changes nothing but what a number can hold.
        p = distances.iter().map(|d| (-(d - nearest) * beta).exp()).collect();
        p[i] = 0.0;
        let sum: f64 = p.iter().sum();
        p.iter_mut().for_each(|v| *v /= sum);
        let entropy: f64 = p.iter().filter(|v| **v > 0.0).map(|v| -v * v.ln()).sum();
        if (entropy - wanted).abs() < 1e-7 {
            break;
        }
        if entropy > wanted {
            low = beta;
            beta = if high.is_finite() { (beta + high) / 2.0 } else { beta * 2.0 };
        } else {
            high = beta;
            beta = (beta + low) / 2.0;
        }
    }
    p
}

/// ∂KL/∂y_i = 4 Σ_j (factor · p_ij − q_ij) (y_i − y_j) / (1 + ‖y_i − y_j‖²) (equation 5).
pub fn gradient(p: &[f64], places: &[[f64; 2]], factor: f64) -> Vec<[f64; 2]> {
    let n = places.len();
    let near = |a: [f64; 2], b: [f64; 2]| 1.0 / (1.0 + (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2));
    let others = |i: usize| (0..n).filter(move |j| *j != i);
    let sums: Vec<f64> = (0..n).into_par_iter().map(|i| others(i).map(|j| near(places[i], places[j])).sum()).collect();
    let all: f64 = sums.iter().sum();
    let slope = |i: usize| {
        others(i).fold([0.0; 2], |sum, j| {
            let w = near(places[i], places[j]);
            let pull = 4.0 * (factor * p[i * n + j] - (w / all).max(LEAST)) * w;
            [0, 1].map(|k| sum[k] + pull * (places[i][k] - places[j][k]))
        })
    };
    (0..n).into_par_iter().map(slope).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Three groups far apart in ten dimensions.
    fn groups() -> Vec<f32> {
        let noise = Key::new(1).normal(0..45, 10);
        noise.iter().enumerate().map(|(at, v)| v + 20.0 * f32::from(at / 10 % 3 == at % 10)).collect()
    }

    #[test]
    fn groups_stay_groups_whatever_the_threads() {
        let values = groups();
        let search = Search { perplexity: 5.0, steps: 750 };
        let embedded = || embed(Features::new("groups", &values, 10).unwrap(), search, Key::new(0)).unwrap();
        let places = embedded();
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(places, one.install(embedded));
        let distance = |i: usize, j: usize| (0..2).map(|k| (places[i][k] - places[j][k]).powi(2)).sum::<f64>();
        let nearest = |i: usize| (0..45).filter(|j| *j != i).min_by(|a, b| distance(i, *a).total_cmp(&distance(i, *b)));
        // One or two may be caught on the way.
        let apart: Vec<usize> = (0..45).filter(|i| nearest(*i).unwrap() % 3 != i % 3).collect();
        assert!(apart.len() < 3, "{apart:?} of {places:?}");
    }

    #[test]
    fn what_makes_no_map_is_refused() {
        let of = |n: usize, perplexity: f64| {
            let values = vec![0.5; 2 * n];
            embed(Features::new("points", &values, 2).unwrap(), Search { perplexity, steps: 3 }, Key::new(0))
        };
        assert!(of(3, 1.0).is_err() && of(30, 20.0).is_err() && of(30, 0.5).is_err());
        // Points that are all one have places, though no neighbours to tell.
        assert!(of(30, 5.0).unwrap().iter().flatten().all(|v| v.is_finite()));
    }
}
