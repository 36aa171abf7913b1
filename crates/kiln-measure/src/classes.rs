//! Accuracy and confusion matrix of a classifier, and the class histogram of generated images.

use std::collections::BTreeMap;

use kiln_core::{Error, Result};

/// A confusion matrix: `count(truth, predicted)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    counts: Vec<usize>,
}

impl Confusion {
    /// Counts pairs of true and predicted class, all below `classes`; fails otherwise, or when there
    /// are none or the lengths differ.
    pub fn new(classes: usize, truth: &[usize], predicted: &[usize]) -> Result<Self> {
        let mut confusion = Self { classes, counts: vec![0; classes * classes] };
        confusion.add(truth, predicted)?;
        Ok(confusion)
    }

    /// An empty matrix; fails when there are no classes.
    pub(crate) fn empty(classes: usize) -> Result<Self> {
        if classes == 0 {
            return Err(Error::new("no classes to count; give at least one"));
        }
        Ok(Self { classes, counts: vec![0; classes * classes] })
    }

    /// Counts more pairs, under the same conditions.
    pub fn add(&mut self, truth: &[usize], predicted: &[usize]) -> Result<()> {
        if truth.len() != predicted.len() {
            return Err(Error::new(format!(
                "{} pictures have a true class and {} a predicted one; give both for each picture",
                truth.len(),
                predicted.len()
            )));
        }
        check_classes(self.classes, truth)?;
        check_classes(self.classes, predicted)?;
        truth.iter().zip(predicted).for_each(|(t, p)| self.counts[t * self.classes + p] += 1);
        Ok(())
    }

    /// Number of images of class `truth` that were classified as `predicted`.
    pub fn count(&self, truth: usize, predicted: usize) -> usize {
        self.counts[truth * self.classes + predicted]
    }

    /// How many pictures.
    pub fn n(&self) -> usize {
        self.counts.iter().sum()
    }

    /// Number of correctly classified images.
    pub fn right(&self) -> usize {
        (0..self.classes).map(|c| self.count(c, c)).sum()
    }

    /// The accuracy, 0 to 1.
    pub fn accuracy(&self) -> f64 {
        self.right() as f64 / self.n() as f64
    }

    /// The accuracy on each true class alone; none where the class has no picture.
    pub fn by_class(&self) -> Vec<Option<f64>> {
        (0..self.classes)
            .map(|c| {
                let of: usize = (0..self.classes).map(|p| self.count(c, p)).sum();
                (of > 0).then(|| self.count(c, c) as f64 / of as f64)
            })
            .collect()
    }
}

/// True classes against groups that were found without them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    counts: BTreeMap<(usize, usize), usize>,
    n: usize,
}

impl Groups {
    /// Counts pairs of true class and group; what is over on one side is left out.
    pub fn new(truth: &[usize], groups: &[usize]) -> Self {
        let mut counts = BTreeMap::new();
        truth.iter().zip(groups).for_each(|pair| *counts.entry((*pair.0, *pair.1)).or_insert(0) += 1);
        Self { counts, n: truth.len().min(groups.len()) }
    }

    /// Pictures of the class that most of their group have.
    pub fn right(&self) -> usize {
        let mut most = BTreeMap::new();
        for (&(_, group), &count) in &self.counts {
            let best = most.entry(group).or_insert(0);
            *best = count.max(*best);
        }
        most.values().sum()
    }

    /// Normalised mutual information 2·I(class; group) / (H(class) + H(group)), 0 to 1; 1 where both are constant, as in
    /// scikit-learn.
    pub fn mutual_information(&self) -> f64 {
        let share = |count: usize| count as f64 / self.n as f64;
        let entropy = |counts: &BTreeMap<usize, usize>| -> f64 {
            counts.values().map(|&count| -share(count) * share(count).ln()).sum()
        };
        let (mut classes, mut groups) = (BTreeMap::new(), BTreeMap::new());
        for (&(class, group), &count) in &self.counts {
            *classes.entry(class).or_insert(0) += count;
            *groups.entry(group).or_insert(0) += count;
        }
        let both = entropy(&classes) + entropy(&groups);
        if both == 0.0 {
            return 1.0;
        }
        let term = |(&(class, group), &count): (&(usize, usize), &usize)| {
            share(count) * (share(count) / (share(classes[&class]) * share(groups[&group]))).ln()
        };
        2.0 * self.counts.iter().map(term).sum::<f64>() / both
    }
}

/// The class histogram of a generator's images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: Vec<usize>,
}

impl Histogram {
    /// Counts classes, all below `classes`; fails otherwise, or when there are none.
    pub fn new(classes: usize, seen: &[usize]) -> Result<Self> {
        check_classes(classes, seen)?;
        let mut counts = vec![0; classes];
        seen.iter().for_each(|&c| counts[c] += 1);
        Ok(Self { counts })
    }

    /// Pictures of each class.
    pub fn counts(&self) -> &[usize] {
        &self.counts
    }

    /// The part of the classes that were seen at all, 0 to 1: below 1, the generator has dropped modes
    /// (or too few pictures were drawn).
    pub fn coverage(&self) -> f64 {
        self.counts.iter().filter(|&&c| c > 0).count() as f64 / self.counts.len() as f64
    }

    /// Total variation distance to equal shares, ½ Σ |cᵢ/n − 1/k|: 0 when all are as frequent, 1 − 1/k
    /// when only one class is left.
    pub fn unevenness(&self) -> f64 {
        let (n, k) = (self.counts.iter().sum::<usize>() as f64, self.counts.len() as f64);
        0.5 * self.counts.iter().map(|&c| (c as f64 / n - 1.0 / k).abs()).sum::<f64>()
    }
}

/// The 95 % confidence interval of a proportion, given `right` of `n` (Wilson 1927). It is valid at 0, at 1
/// and for small n; 0 to 1 when n is 0.
pub fn wilson(right: usize, n: usize) -> [f64; 2] {
    if n == 0 {
        return [0.0, 1.0];
    }
    const Z: f64 = 1.959_963_984_540_054; // normal quantile of 0.975
    let (n, p) = (n as f64, right as f64 / n as f64);
    let z2 = Z * Z / n;
    let centre = (p + z2 / 2.0) / (1.0 + z2);
    let half = Z * (p * (1.0 - p) / n + z2 / (4.0 * n)).sqrt() / (1.0 + z2);
    [(centre - half).max(0.0), (centre + half).min(1.0)]
}

fn check_classes(classes: usize, seen: &[usize]) -> Result<()> {
    if classes == 0 || seen.is_empty() {
        return Err(Error::new("no classes to count; give at least one class and one picture"));
    }
    match seen.iter().position(|&c| c >= classes) {
        None => Ok(()),
        Some(i) => Err(Error::new(format!(
            "picture {i} is of class {}, and there are {classes} (0 to {}); the classifier belongs to other data",
            seen[i],
            classes - 1
        ))),
    }
}
