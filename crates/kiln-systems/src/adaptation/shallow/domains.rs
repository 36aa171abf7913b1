//! What the methods learn from: features of a labelled source and of a target without labels, or with a few.

use faer::{Mat, MatRef};
use kiln_core::{Error, Result, refuse_if};

use super::algebra::{nearest, stacked};

/// Features of both domains, a row a picture.
#[derive(Clone, Debug)]
pub struct Domains {
    /// Of the source.
    pub source: Mat<f64>,
    /// The class of each of its pictures.
    pub labels: Vec<usize>,
    /// Of the target.
    pub target: Mat<f64>,
    /// The class of those of its pictures that come with one.
    pub known: Vec<Option<usize>>,
    /// How many classes there are.
    pub classes: usize,
}

impl Domains {
    /// Both domains, if a method can learn from them.
    ///
    /// # Errors
    /// Says what they lack: pictures, features, a second class, variance, or numbers that are finite.
    pub fn new(
        (source, labels): (Mat<f64>, Vec<usize>),
        (target, known): (Mat<f64>, Vec<Option<usize>>),
        classes: usize,
    ) -> Result<Self> {
        refuse_if!(
            source.nrows() != labels.len() || target.nrows() != known.len(),
            "{} pictures of the source have {} labels, and {} of the target {}: give each one",
            source.nrows(),
            labels.len(),
            target.nrows(),
            known.len()
        );
        refuse_if!(
            source.ncols() != target.ncols(),
            "the source has {} features a picture and the target {}; take both from one network",
            source.ncols(),
            target.ncols()
        );
        for (x, domain) in [(&source, "source"), (&target, "target")] {
            refuse_if!(x.nrows() < 2, "the {domain} has {} pictures; give at least 2", x.nrows());
            for j in 0..x.ncols() {
                if let Some(i) = (0..x.nrows()).find(|&i| !x[(i, j)].is_finite()) {
                    let value = x[(i, j)];
                    return Err(Error::new(format!(
                        "feature {j} of picture {i} of the {domain} is {value}; leave that picture out"
                    )));
                }
            }
            let varies = (0..x.ncols()).any(|j| (1..x.nrows()).any(|i| x[(i, j)] != x[(0, j)]));
            refuse_if!(!varies, "all pictures of the {domain} have the same features; there is nothing to learn from");
        }
        let of = labels.iter().chain(known.iter().flatten());
        if let Some(label) = of.clone().find(|&&label| label >= classes) {
            return Err(Error::new(format!("label {label} of {classes} classes; classes must be those of the source")));
        }
        refuse_if!(
            labels.iter().all(|l| *l == labels[0]),
            "all pictures of the source are of one class; there is nothing to tell apart"
        );
        Ok(Self { source, labels, target, known, classes })
    }

    /// The source's pictures, then the target's.
    pub fn all(&self) -> Mat<f64> {
        stacked(self.source.as_ref(), self.target.as_ref())
    }

    /// The classes that pictures of the source have, in order.
    pub fn present(&self) -> Vec<usize> {
        (0..self.classes).filter(|class| self.labels.contains(class)).collect()
    }

    /// Points that have a class, with it: the source's, then the target's few.
    pub fn labelled(&self, source: MatRef<'_, f64>, target: MatRef<'_, f64>) -> (Mat<f64>, Vec<usize>) {
        let few: Vec<usize> = (0..self.known.len()).filter(|&i| self.known[i].is_some()).collect();
        let few_points = Mat::from_fn(few.len(), target.ncols(), |i, j| target[(few[i], j)]);
        let labels = self.labels.iter().copied().chain(self.known.iter().flatten().copied()).collect();
        (stacked(source, few_points.as_ref()), labels)
    }

    /// Classes of the target's pictures: those they come with, else the nearest labelled point's (pseudo-labels).
    pub fn guessed(&self, source: MatRef<'_, f64>, target: MatRef<'_, f64>) -> Vec<usize> {
        let (points, labels) = self.labelled(source, target);
        let guesses = nearest(target, points.as_ref()).into_iter().map(|i| labels[i]);
        self.known.iter().zip(guesses).map(|(known, guess)| known.unwrap_or(guess)).collect()
    }
}
