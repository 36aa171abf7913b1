//! Ghifary, Balduzzi, Kleijn & Zhang, *Scatter Component Analysis: A Unified Framework for Domain Adaptation and Domain
//! Generalization*, 2017.
//!
//! Components B of a kernel K of all pictures with much scatter in total (T) and between the source's classes (P), and
//! little between the domains (D) and within classes (Q):
//!
//! (β P + (1 − β) T) b = ν (δ D + Q + K̄ + ε I) b, K̄ = H K H, T = K̄ K̄ / n.
//!
//! Points are k̄(x)ᵀ B N^(−½), N the eigenvalues and the columns of B of length 1; each domain is centred on its own,
//! as in the authors' code.

use faer::{Mat, MatRef, Scale};
use kiln_core::{Result, refuse_if};

use super::algebra::{centred, leading, mean, unit_rows};
use super::domains::Domains;
use super::map::{Basis, Kernel, Map, Side};

/// Settings with the paper's names.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// k: components.
    pub dimension: usize,
    /// β: scatter between classes against scatter in total.
    pub beta: f64,
    /// δ: the weight of the scatter between domains.
    pub delta: f64,
}

/// ε
const RIDGE: f64 = 1e-5;

/// The scatter components.
///
/// # Errors
/// If the pictures span fewer.
pub fn scatter_components(domains: &Domains, kernel: Kernel, settings: &Settings) -> Result<Map> {
    let (anchors, n_s, k) = (unit_rows(domains.all().as_ref()), domains.source.nrows(), settings.dimension);
    let n = anchors.nrows();
    refuse_if!(k >= n, "model.dimension = {k}: {n} pictures span fewer; give more, or lower it");
    let gram = kernel.between(anchors.as_ref(), anchors.as_ref());
    let centred_gram = centred(centred(gram.as_ref()).transpose());
    // Rows of K that have a label, and their classes.
    let few = (0..domains.known.len()).filter_map(|i| domains.known[i].map(|class| (n_s + i, class)));
    let labelled: Vec<(usize, usize)> = domains.labels.iter().copied().enumerate().chain(few).collect();
    let (p, q) = scatters(&gram, &labelled, domains);
    let total = &centred_gram * &centred_gram * Scale(1.0 / n as f64);
    let (of_source, of_target) = (mean(gram.subrows(0, n_s)), mean(gram.subrows(n_s, n - n_s)));
    // Both lie ½ (μ_s − μ_t) from their middle, so D = ¼ (μ_s − μ_t)(μ_s − μ_t)ᵀ.
    let apart = Mat::from_fn(n, 1, |i, _| 0.5 * (of_source[i] - of_target[i]));
    let large = p * Scale(settings.beta) + total * Scale(1.0 - settings.beta);
    let small = &apart * apart.transpose() * Scale(settings.delta) + q + &centred_gram;
    let small = Mat::from_fn(n, n, |i, j| 0.5 * (small[(i, j)] + small[(j, i)]) + if i == j { RIDGE } else { 0.0 });
    let (values, b) = leading(large.as_ref(), small.as_ref(), k)?;
    refuse_if!(
        values[k - 1] <= 1e-12 * values[0],
        "model.dimension = {k}: the pictures vary in fewer directions; lower it"
    );
    let b = Mat::from_fn(n, k, |i, j| b[(i, j)] / (b.col(j).norm_l2() * values[j].sqrt()));
    // H B: what it makes of k(x) is what B makes of k(x) with its mean taken out.
    let weights = centred(b.as_ref());
    let side = |rows: MatRef<'_, f64>| Side {
        basis: Basis::Kernel(kernel),
        offset: mean((rows * &weights).as_ref()).into_iter().map(|v| -v).collect(),
        weights: Some(weights.clone()),
    };
    let (source, target) = (side(gram.subrows(0, n_s)), side(gram.subrows(n_s, n - n_s)));
    Ok(Map { unit_features: true, unit_points: false, anchors: Some(anchors), source, target })
}

/// P = Σ_c n_c (μ_c − μ)(μ_c − μ)ᵀ and Q = Σ_c Σ_{i in c} (K_i − μ_c)(K_i − μ_c)ᵀ over rows with labels.
fn scatters(gram: &Mat<f64>, labelled: &[(usize, usize)], domains: &Domains) -> (Mat<f64>, Mat<f64>) {
    let n = gram.nrows();
    let mean_of = |rows: &[usize]| -> Vec<f64> {
        (0..n).map(|j| rows.iter().map(|&i| gram[(i, j)]).sum::<f64>() / rows.len() as f64).collect()
    };
    let all: Vec<usize> = labelled.iter().map(|(i, _)| *i).collect();
    let middle = mean_of(&all);
    let (mut between, mut within) = (Mat::zeros(n, n), Mat::zeros(n, n));
    for class in domains.present() {
        let rows: Vec<usize> = labelled.iter().filter(|(_, c)| *c == class).map(|(i, _)| *i).collect();
        let mean = mean_of(&rows);
        let away = Mat::from_fn(n, 1, |j, _| mean[j] - middle[j]);
        between += &away * away.transpose() * Scale(rows.len() as f64);
        let spread = Mat::from_fn(rows.len(), n, |i, j| gram[(rows[i], j)] - mean[j]);
        within += spread.transpose() * &spread;
    }
    (between, within)
}
