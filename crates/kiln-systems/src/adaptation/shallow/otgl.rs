//! Courty, Flamary, Tuia & Rakotomamonjy, *Optimal Transport for Domain Adaptation*, 2016, with the group lasso.
//!
//! A plan γ moves the source's pictures, of equal mass, onto the target's at least cost,
//!
//! min_γ ⟨γ, C⟩ + ε Σ γ log γ + η Σ_j Σ_c ‖γ(I_c, j)‖, γ 1 = 1/n_s, γᵀ 1 = 1/n_t,
//!
//! C the squared distances divided by the largest. The last term lets a picture of the target receive mass of one
//! class alone. A source picture is then at the mean of where its mass went, n_s γ X_t, and a target picture where it
//! was: it is classified by the nearest transported ones. A source picture that was not transported is where the
//! nearest that was went to.
//!
//! The plan is found by generalised conditional gradient, as in POT (`ot.da.sinkhorn_l1l2_gl`): Sinkhorn's iterations
//! on the cost with the group term's gradient, then a step towards their plan found by backtracking.

use faer::{Col, Mat, MatRef};
use kiln_core::{Result, refuse_if};

use super::algebra::squared_distances;
use super::domains::Domains;
use super::map::{Basis, Map, Side};

/// Settings with the paper's meaning.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// ε: entropy, in units of the largest cost.
    pub entropy: f64,
    /// η: the group lasso.
    pub group: f64,
    /// Steps of the conditional gradient.
    pub iterations: usize,
}

/// Sinkhorn's iterations in a step.
const INNER: usize = 200;
/// How far the plan's masses may be from the target's when they end early.
const MARGINAL: f64 = 1e-9;
/// The relative, or absolute, change of the cost at which steps end.
const CHANGE: f64 = 1e-9;
/// A norm that is smaller counts as this large.
const SMALLEST: f64 = 1e-12;

/// The transport of the source to the target.
///
/// # Errors
/// If `entropy` is too small for the plan to be a number.
pub fn optimal_transport(domains: &Domains, settings: &Settings) -> Result<Map> {
    let cost = squared_distances(domains.source.as_ref(), domains.target.as_ref());
    let largest = cost.norm_max();
    // A target picture of another class than the source picture's is out of reach.
    let cost = Mat::from_fn(cost.nrows(), cost.ncols(), |i, j| {
        let apart = domains.known[j].is_some_and(|class| class != domains.labels[i]);
        if apart { 2.0 } else { cost[(i, j)] / largest }
    });
    let plan = group_lasso_plan(cost.as_ref(), &domains.labels, settings)?;
    let mass: Vec<f64> = (0..plan.nrows()).map(|i| plan.row(i).sum()).collect();
    let shares = Mat::from_fn(plan.nrows(), plan.ncols(), |i, j| plan[(i, j)] / mass[i]);
    Ok(Map {
        anchors: Some(domains.source.clone()),
        ..Map::of_features(Side::linear(Basis::Nearest, shares * &domains.target), Side::same())
    })
}

/// γ for costs of each picture of the source (rows, with `labels`) to each of the target.
///
/// # Errors
/// As [`optimal_transport`].
pub fn group_lasso_plan(cost: MatRef<'_, f64>, labels: &[usize], settings: &Settings) -> Result<Mat<f64>> {
    let (n, m) = (cost.nrows(), cost.ncols());
    let classes = labels.iter().max().map_or(0, |most| most + 1);
    // ‖γ(I_c, j)‖, a row a class.
    let norms = |plan: &Mat<f64>| {
        let mut squares = Mat::<f64>::zeros(classes, m);
        for j in 0..m {
            for (i, &class) in labels.iter().enumerate() {
                squares[(class, j)] += plan[(i, j)].powi(2);
            }
        }
        Mat::from_fn(classes, m, |c, j| squares[(c, j)].sqrt())
    };
    let value = |plan: &Mat<f64>| {
        let moved: f64 = (0..m).map(|j| (0..n).map(|i| cost[(i, j)] * plan[(i, j)]).sum::<f64>()).sum();
        moved + settings.group * norms(plan).sum()
    };
    let mut plan = Mat::from_fn(n, m, |_, _| 1.0 / (n * m) as f64);
    let mut now = value(&plan);
    for _ in 0..settings.iterations.max(1) {
        let norms = norms(&plan);
        let slope = Mat::from_fn(n, m, |i, j| {
            cost[(i, j)] + settings.group * plan[(i, j)] / norms[(labels[i], j)].max(SMALLEST)
        });
        let towards = sinkhorn(slope.as_ref(), settings.entropy)? - &plan;
        let fall: f64 = (0..m).map(|j| (0..n).map(|i| towards[(i, j)] * slope[(i, j)]).sum::<f64>()).sum();
        let (step, then) = backtrack(|step| value(&(&plan + &towards * faer::Scale(step))), now, fall);
        plan += &towards * faer::Scale(step);
        let change = (then - now).abs();
        now = then;
        if change < CHANGE || change < CHANGE * now.abs() {
            break;
        }
    }
    Ok(plan)
}

/// Sinkhorn & Knopp's scaling of exp(−cost/ε) to rows of mass 1/n and columns of mass 1/m.
fn sinkhorn(cost: MatRef<'_, f64>, entropy: f64) -> Result<Mat<f64>> {
    let (n, m) = (cost.nrows(), cost.ncols());
    let kernel = Mat::from_fn(n, m, |i, j| (-cost[(i, j)] / entropy).exp());
    let (a, b) = (1.0 / n as f64, 1.0 / m as f64);
    let (mut u, mut v) = (Col::full(n, a), Col::full(m, b));
    for pass in 0..INNER {
        let to_columns = kernel.transpose() * &u;
        v = Col::from_fn(m, |j| b / to_columns[j]);
        let to_rows = &kernel * &v;
        u = Col::from_fn(n, |i| a / to_rows[i]);
        let finite = (0..m).all(|j| v[j].is_finite()) && (0..n).all(|i| u[i].is_finite());
        refuse_if!(!finite, "model.entropy = {entropy}: too small for these features; raise it");
        if pass % 10 == 0 {
            let columns = kernel.transpose() * &u;
            let off: f64 = (0..m).map(|j| (columns[j] * v[j] - b).powi(2)).sum();
            if off.sqrt() < MARGINAL {
                break;
            }
        }
    }
    Ok(Mat::from_fn(n, m, |i, j| u[i] * kernel[(i, j)] * v[j]))
}

/// A step that lowers a function enough (Armijo's condition) and the function there, by interpolation as in Nocedal &
/// Wright 2006, p. 57; no step if none does. `slope` is the derivative at 0.
fn backtrack(at: impl Fn(f64) -> f64, start: f64, slope: f64) -> (f64, f64) {
    const ENOUGH: f64 = 1e-4;
    let falls = |step: f64, value: f64| value <= start + ENOUGH * step * slope;
    let (mut last, mut step) = (0.99, 0.0);
    let mut value_last = at(last);
    if falls(last, value_last) {
        return (last, value_last);
    }
    // The lowest point of the parabola, then of cubics.
    step += -slope * last * last / 2.0 / (value_last - start - slope * last);
    let mut value = at(step.clamp(0.0, f64::INFINITY));
    while !falls(step, value) {
        if step <= 0.0 || !step.is_finite() {
            return (0.0, start);
        }
        let factor = last * last * step * step * (step - last);
        let (rise, rise_last) = (value - start - slope * step, value_last - start - slope * last);
        let a = (last * last * rise - step * step * rise_last) / factor;
        let b = (step.powi(3) * rise_last - last.powi(3) * rise) / factor;
        let mut next = (-b + (b * b - 3.0 * a * slope).abs().sqrt()) / (3.0 * a);
        if step - next > step / 2.0 || 1.0 - next / step < 0.96 {
            next = step / 2.0;
        }
        (last, value_last, step) = (step, value, next);
        value = at(step);
    }
    (step.max(0.0), value)
}
