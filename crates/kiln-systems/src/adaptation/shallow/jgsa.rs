//! Zhang, Li & Ogunbona, *Joint Geometrical and Statistical Alignment for Visual Domain Adaptation*, 2017.
//!
//! A projection A for the source and B for the target that differ little (α‖A − B‖²), with much variance of the target
//! (μ S_t) and between the source's classes (β S_b), and little within them (β S_w), between the domains' means and
//! between those of each class (T_s, T_t, T_st): the largest ν of
//!
//! [[β S_b, 0], [0, μ S_t]] w = ν [[T_s + α I + β S_w, T_st − α I], [T_ts − α I, T_t + (α + μ) I]] w, w = [a; b].
//!
//! The target's classes are guessed by the nearest source points, anew in each iteration.
//!
//! With a kernel the projections are of K, centred over all pictures, and I becomes K. That is the same problem on the
//! kernel's principal components Φ, K = Φ Φᵀ, which is how it is solved: it keeps I, and is not singular where K is.
//! One difference stays, as in the authors' code: S_t = Φ_tᵀ Φ_t is then not centred again.

use faer::{Mat, MatRef, Scale};
use kiln_core::{Result, refuse_if};

use super::algebra::{Root, centred, largest, leading_beside, mean, unit_rows};
use super::domains::Domains;
use super::map::{Basis, Kernel, Map, Side};
use super::mmd::discrepancy;

/// Settings with the paper's names.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// k: dimensions.
    pub dimension: usize,
    /// α: how near the two projections are.
    pub alpha: f64,
    /// β: the source's scatter within and between classes.
    pub beta: f64,
    /// μ: the target's variance.
    pub mu: f64,
    /// T: how often classes are guessed.
    pub iterations: usize,
    /// Whether the target may lack classes.
    pub partial: bool,
}

/// Components of the kernel with less of its largest eigenvalue are rounding.
const RANK: f64 = 1e-10;

/// The projections of both domains, of the features where there is no kernel.
///
/// # Errors
/// If the pictures span fewer dimensions.
pub fn geometrical_and_statistical(domains: &Domains, kernel: Option<Kernel>, settings: &Settings) -> Result<Map> {
    let anchors = unit_rows(domains.all().as_ref());
    let n_s = domains.source.nrows();
    let first_guesses = {
        let (source, target) = anchors.split_at_row(n_s);
        domains.guessed(source, target)
    };
    let Some(kernel) = kernel else {
        // Directions that no picture has any of are in no projection.
        let turn = span(anchors.as_ref())?;
        let (a, b) = projections(domains, (&anchors * &turn).as_ref(), true, first_guesses, settings)?;
        let [source, target] = [a, b].map(|side| Side::linear(Basis::Features, &turn * side));
        return Ok(Map { unit_features: true, ..Map::of_features(source, target) });
    };
    let gram = kernel.between(anchors.as_ref(), anchors.as_ref());
    let centred_gram = centred(centred(gram.as_ref()).transpose());
    let (values, vectors) = largest(centred_gram.as_ref(), centred_gram.nrows())?;
    let rank = values.iter().filter(|value| **value > RANK * values[0]).count();
    // Φ = V N^½, and a picture's Φ is k̄(x)ᵀ V N^(−½).
    let phi = Mat::from_fn(gram.nrows(), rank, |i, j| vectors[(i, j)] * values[j].sqrt());
    let back = Mat::from_fn(gram.nrows(), rank, |i, j| vectors[(i, j)] / values[j].sqrt());
    let (a, b) = projections(domains, phi.as_ref(), false, first_guesses, settings)?;
    let rows = mean(gram.as_ref());
    let side = |side: Mat<f64>| {
        let weights = centred((&back * side).as_ref());
        let offset = (0..weights.ncols()).map(|j| -(0..rows.len()).map(|i| rows[i] * weights[(i, j)]).sum::<f64>());
        Side { basis: Basis::Kernel(kernel), offset: offset.collect(), weights: Some(weights) }
    };
    let (source, target) = (side(a), side(b));
    Ok(Map { unit_features: true, unit_points: false, anchors: Some(anchors), source, target })
}

/// An orthonormal basis of what rows span.
fn span(x: MatRef<'_, f64>) -> Result<Mat<f64>> {
    let d = x.ncols();
    if d <= x.nrows() {
        return Ok(Mat::identity(d, d));
    }
    let (values, vectors) = largest((x * x.transpose()).as_ref(), x.nrows())?;
    let rank = values.iter().filter(|value| **value > RANK * values[0]).count();
    let scaled = Mat::from_fn(x.nrows(), rank, |i, j| vectors[(i, j)] / values[j].sqrt());
    Ok(x.transpose() * scaled)
}

/// A and B on features `x` of both domains, the source's rows first.
fn projections(
    domains: &Domains,
    x: MatRef<'_, f64>,
    centre_target: bool,
    first_guesses: Vec<usize>,
    settings: &Settings,
) -> Result<(Mat<f64>, Mat<f64>)> {
    let Settings { dimension: k, alpha, beta, mu, .. } = *settings;
    let (m, n_s) = (x.ncols(), domains.source.nrows());
    let (source, target) = x.split_at_row(n_s);
    refuse_if!(
        k > m || k >= x.nrows(),
        "model.dimension = {k}: {} pictures with {m} features span fewer; give more, or lower it",
        x.nrows()
    );
    let (between, within) = scatters(source, domains);
    let varying = if centre_target { centred(target) } else { target.to_owned() };
    let variance = varying.transpose() * &varying;
    let blocks = |block: &dyn Fn(usize, usize, bool, bool) -> f64| {
        Mat::from_fn(2 * m, 2 * m, |i, j| block(i % m, j % m, i < m, j < m))
    };
    let large = blocks(&|i, j, above, left| match (above, left) {
        (true, true) => beta * between[(i, j)],
        (false, false) => mu * variance[(i, j)],
        _ => 0.0,
    });
    let same = |i, j| f64::from(u8::from(i == j));
    let small = blocks(&|i, j, above, left| match (above, left) {
        (true, true) => alpha * same(i, j) + beta * within[(i, j)],
        (false, false) => (alpha + mu) * same(i, j),
        _ => -alpha * same(i, j),
    });
    // The discrepancy alone changes with the guesses: it is W Wᵀ, W = [X_sᵀ E_s; X_tᵀ E_t].
    let root = Root::of(small.as_ref())?;
    let reduced = root.reduced(large.as_ref());
    let mut guesses = first_guesses;
    for iteration in 1.. {
        let e = discrepancy(domains, Some(&guesses), settings.partial);
        let (of_source, of_target) = e.as_ref().split_at_row(n_s);
        let (top, bottom) = (source.transpose() * of_source, target.transpose() * of_target);
        let w = Mat::from_fn(2 * m, e.ncols(), |i, j| if i < m { top[(i, j)] } else { bottom[(i - m, j)] });
        let (_, found) = leading_beside(reduced.as_ref(), root.solved(w.as_ref()).as_ref(), k)?;
        let found = root.back(found);
        let (a, b) = (found.subrows(0, m).to_owned(), found.subrows(m, m).to_owned());
        let again = domains.guessed((source * &a).as_ref(), (target * &b).as_ref());
        if iteration >= settings.iterations || again == guesses {
            return Ok((a, b));
        }
        guesses = again;
    }
    unreachable!("the loop ends by returning")
}

/// S_b = Σ_c n_c (x̄_c − x̄)ᵀ(x̄_c − x̄) and S_w = Σ_c X_cᵀ H X_c of the source.
fn scatters(source: MatRef<'_, f64>, domains: &Domains) -> (Mat<f64>, Mat<f64>) {
    let d = source.ncols();
    let middle = mean(source);
    let (mut between, mut within) = (Mat::zeros(d, d), Mat::zeros(d, d));
    for class in domains.present() {
        let rows: Vec<usize> = (0..domains.labels.len()).filter(|&i| domains.labels[i] == class).collect();
        let of_class = Mat::from_fn(rows.len(), d, |i, j| source[(rows[i], j)]);
        let mean = mean(of_class.as_ref());
        let away = Mat::from_fn(d, 1, |j, _| mean[j] - middle[j]);
        between += &away * away.transpose() * Scale(rows.len() as f64);
        let spread = centred(of_class.as_ref());
        within += spread.transpose() * &spread;
    }
    (between, within)
}
