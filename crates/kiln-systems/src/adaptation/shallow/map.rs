//! What a method has learned: how a picture of either domain becomes a point of the space that both share.

use faer::{Mat, MatRef};

use super::algebra::{nearest, squared_distances, unit_rows};

/// Which of the two domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The labelled one.
    Source,
    /// The one to be classified.
    Target,
}

/// A similarity of pictures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kernel {
    /// k(x, y) = xᵀy
    Linear,
    /// k(x, y) = exp(−γ ‖x − y‖²)
    Rbf(f64),
}

impl Kernel {
    /// k of all rows of `a` with all of `b`.
    pub fn between(self, a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
        match self {
            Self::Linear => a * b.transpose(),
            Self::Rbf(gamma) => {
                let distances = squared_distances(a, b);
                Mat::from_fn(a.nrows(), b.nrows(), |i, j| (-gamma * distances[(i, j)]).exp())
            }
        }
    }
}

/// What weights are applied to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Basis {
    /// The features themselves.
    Features,
    /// The kernel with every anchor.
    Kernel(Kernel),
    /// 1 for the nearest anchor, 0 for all others.
    Nearest,
}

/// The map of one domain: basis · weights + offset.
#[derive(Clone, Debug)]
pub struct Side {
    /// What the weights are applied to.
    pub basis: Basis,
    /// A row a number of the basis; without them the basis is the point.
    pub weights: Option<Mat<f64>>,
    /// Added to each point; nothing if it is empty.
    pub offset: Vec<f64>,
}

impl Side {
    /// Points that are the features.
    pub fn same() -> Self {
        Self { basis: Basis::Features, weights: None, offset: Vec::new() }
    }

    /// basis · weights.
    pub fn linear(basis: Basis, weights: Mat<f64>) -> Self {
        Self { basis, weights: Some(weights), offset: Vec::new() }
    }

    /// (x − mean) · weights.
    pub fn around(mean: &[f64], weights: Mat<f64>) -> Self {
        let at = |j: usize| -mean.iter().enumerate().map(|(i, m)| m * weights[(i, j)]).sum::<f64>();
        Self { basis: Basis::Features, offset: (0..weights.ncols()).map(at).collect(), weights: Some(weights) }
    }
}

/// The maps of both domains.
#[derive(Clone, Debug)]
pub struct Map {
    /// Whether features are brought to length 1 first.
    pub unit_features: bool,
    /// Whether points are brought to length 1 in the end.
    pub unit_points: bool,
    /// Features of the training pictures that kernels and nearest pictures are taken with.
    pub anchors: Option<Mat<f64>>,
    /// The map of the source.
    pub source: Side,
    /// The map of the target.
    pub target: Side,
}

impl Map {
    /// One map of the features for each domain, with nothing brought to length 1.
    pub fn of_features(source: Side, target: Side) -> Self {
        Self { unit_features: false, unit_points: false, anchors: None, source, target }
    }

    /// Points of pictures of a domain, of their features.
    pub fn points(&self, x: MatRef<'_, f64>, of: Of) -> Mat<f64> {
        let side = match of {
            Of::Source => &self.source,
            Of::Target => &self.target,
        };
        let x = if self.unit_features { unit_rows(x) } else { x.to_owned() };
        let basis = match (side.basis, &self.anchors) {
            (Basis::Kernel(kernel), Some(anchors)) => kernel.between(x.as_ref(), anchors.as_ref()),
            (Basis::Nearest, Some(anchors)) => {
                let nearest = nearest(x.as_ref(), anchors.as_ref());
                Mat::from_fn(x.nrows(), anchors.nrows(), |i, j| f64::from(u8::from(nearest[i] == j)))
            }
            (_, _) => x,
        };
        let mut points = match &side.weights {
            Some(weights) => basis * weights,
            None => basis,
        };
        if !side.offset.is_empty() {
            points = Mat::from_fn(points.nrows(), points.ncols(), |i, j| points[(i, j)] + side.offset[j]);
        }
        if self.unit_points { unit_rows(points.as_ref()) } else { points }
    }
}
