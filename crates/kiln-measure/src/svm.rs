//! A linear SVM on a network's features: the linear probe of Radford 2016, §5.1.
//!
//! For each class against the rest, the L2-regularised support vector machine with squared hinge loss,
//!
//! min_w ½ ‖w‖² + C Σᵢ max(0, 1 − yᵢ wᵀxᵢ)²,
//!
//! on features of zero mean and unit variance with a 1 appended, by coordinate descent on its dual
//! (Hsieh 2008, algorithm 1; LIBLINEAR's and scikit-learn's `LinearSVC`).

use kiln_core::random::Key;
use kiln_core::{Error, Result};
use rayon::prelude::*;

use crate::Features;

/// Passes over the samples before the solver gives up on the tolerance.
const MAX_PASSES: u64 = 1_000;

/// A machine of one plane a class.
#[derive(Clone, Debug)]
pub struct LinearSvm {
    mean: Vec<f64>,
    scale: Vec<f64>,
    /// A row a class: a weight a feature, then the offset.
    planes: Vec<Vec<f64>>,
}

impl LinearSvm {
    /// Fits `labels`, all below `classes`, to the features. `c` weighs errors against the margin;
    /// the solver stops when no dual coordinate can move by more than `tolerance`.
    ///
    /// # Errors
    /// If labels and features differ in number, a label is too large, fewer than two classes occur,
    /// or `c` is not above 0.
    pub fn fit(features: Features, labels: &[usize], classes: usize, c: f64, tolerance: f64) -> Result<Self> {
        let (n, d) = (features.n(), features.d());
        if labels.len() != n {
            return Err(Error::new(format!("{}: {n} pictures and {} labels", features.name(), labels.len())));
        }
        if let Some(label) = labels.iter().find(|&&l| l >= classes) {
            return Err(Error::new(format!("{}: label {label} of {classes} classes", features.name())));
        }
        if labels.iter().all(|l| *l == labels[0]) {
            return Err(Error::new(format!("{}: all pictures are of one class; nothing to separate", features.name())));
        }
        if !(c > 0.0 && c.is_finite()) {
            return Err(Error::usage(format!("the SVM's C must be above 0, not {c}")));
        }
        let mut mean = vec![0.0; d];
        for row in features.rows() {
            mean.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v) / n as f64);
        }
        let mut variance = vec![0.0; d];
        for row in features.rows() {
            let apart = row.iter().zip(&mean).map(|(v, m)| f64::from(*v) - m);
            variance.iter_mut().zip(apart).for_each(|(s, a)| *s += a * a / n as f64);
        }
        // A constant feature says nothing, whatever its scale; its variance is a rounding error at most.
        let rounding = |m: f64| (n as f64 * m * f64::EPSILON).powi(2);
        let scale: Vec<f64> =
            variance.iter().zip(&mean).map(|(v, m)| if *v > rounding(*m) { v.sqrt().recip() } else { 1.0 }).collect();
        let mut svm = Self { mean, scale, planes: Vec::new() };
        let rows: Vec<Vec<f64>> = features.rows().map(|row| svm.standardised(row)).collect();
        svm.planes = (0..classes).into_par_iter().map(|class| plane(&rows, labels, class, c, tolerance)).collect();
        Ok(svm)
    }

    fn standardised(&self, row: &[f32]) -> Vec<f64> {
        let centred = row.iter().zip(&self.mean).map(|(v, m)| f64::from(*v) - m);
        centred.zip(&self.scale).map(|(v, s)| v * s).chain([1.0]).collect()
    }

    /// The direction of length 1 in which the decision for a class grows fastest: the normal of its plane, a number a feature.
    ///
    /// # Errors
    /// If there is no such class, or no feature tells it from the rest.
    pub fn normal(&self, class: usize) -> Result<Vec<f64>> {
        let plane = self.planes.get(class).ok_or_else(|| Error::new(format!("the SVM has no class {class}")))?;
        let normal: Vec<f64> = plane.iter().zip(&self.scale).map(|(weight, scale)| weight * scale).collect();
        let length = dot(&normal, &normal).sqrt();
        if length == 0.0 {
            return Err(Error::new(format!("no feature tells class {class} from the rest")));
        }
        Ok(normal.iter().map(|v| v / length).collect())
    }

    /// The distance to each class's plane in units of its margin, a row a picture.
    ///
    /// # Errors
    /// If the features are of another number than those fitted.
    pub fn decision(&self, features: Features) -> Result<Vec<Vec<f64>>> {
        if features.d() != self.mean.len() {
            return Err(Error::new(format!(
                "{}: {} features where the SVM was fitted to {}",
                features.name(),
                features.d(),
                self.mean.len()
            )));
        }
        let of = |row: &[f32]| {
            let x = self.standardised(row);
            self.planes.iter().map(|plane| dot(plane, &x)).collect()
        };
        Ok(features.rows().map(of).collect())
    }

    /// The planes on features as they are, a row a class: a weight a feature, then the offset.
    pub fn planes(&self) -> Vec<Vec<f64>> {
        let plane = |plane: &Vec<f64>| {
            let mut weights: Vec<f64> = plane.iter().zip(&self.scale).map(|(weight, scale)| weight * scale).collect();
            // The last weight is that of the 1 appended to each picture.
            let offset = plane[self.scale.len()] - dot(&weights, &self.mean);
            weights.push(offset);
            weights
        };
        self.planes.iter().map(plane).collect()
    }

    /// The class of each picture.
    ///
    /// # Errors
    /// As [`LinearSvm::decision`].
    pub fn predict(&self, features: Features) -> Result<Vec<usize>> {
        let best = |row: Vec<f64>| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i);
        Ok(self.decision(features)?.into_iter().map(best).collect())
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The plane between `class` and the rest. With D = 1/(2C), the dual is min ½ αᵀ(Q + D·I)α − 1ᵀα over
/// α ≥ 0, Qᵢⱼ = yᵢyⱼxᵢᵀxⱼ, and w = Σ yᵢαᵢxᵢ makes a coordinate's gradient one product.
fn plane(rows: &[Vec<f64>], labels: &[usize], class: usize, c: f64, tolerance: f64) -> Vec<f64> {
    let n = rows.len() as u64;
    let diagonal = 0.5 / c;
    let squares: Vec<f64> = rows.iter().map(|x| dot(x, x) + diagonal).collect();
    let mut w = vec![0.0; rows[0].len()];
    let mut alpha = vec![0.0; rows.len()];
    let key = Key::new(0).purpose("svm").at(class as u64);
    for pass in 0..MAX_PASSES {
        let order = key.at(pass);
        let mut largest: f64 = 0.0;
        for k in 0..n {
            let i = order.permute(k, n) as usize;
            let y = if labels[i] == class { 1.0 } else { -1.0 };
            let gradient = y * dot(&w, &rows[i]) - 1.0 + diagonal * alpha[i];
            let projected = if alpha[i] == 0.0 { gradient.min(0.0) } else { gradient };
            largest = largest.max(projected.abs());
            if projected != 0.0 {
                let new = (alpha[i] - gradient / squares[i]).max(0.0);
                let step = (new - alpha[i]) * y;
                w.iter_mut().zip(&rows[i]).for_each(|(w, x)| *w += step * x);
                alpha[i] = new;
            }
        }
        if largest < tolerance {
            break;
        }
    }
    w
}
