//! What a run of `shallow` keeps: a scale, a map, points with a class, planes. In checkpoints numbers have 32 bits;
//! what is computed with them has 64.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use faer::{Mat, MatRef};
use kiln_nn::tensor::{from_values, to_values};

use super::map::{Basis, Map, Side};
use super::method::{Method, MethodConfig};
use super::scale::Scale;

/// What is learned. Rows for pictures are as many as `samples` allows; where a set has fewer, the first is repeated.
#[derive(Module, Debug)]
pub struct Networks {
    /// Words, `[words, numbers of a descriptor]`.
    pub vocabulary: Option<Param<Tensor<2>>>,
    /// The mean of each feature, `[2, d]`: of the source, of the target.
    pub mean: Param<Tensor<2>>,
    /// Its deviation.
    pub deviation: Param<Tensor<2>>,
    /// Features of the pictures that kernels are taken with, `[a, d]`.
    pub anchors: Option<Param<Tensor<2>>>,
    /// The source's map.
    pub source: SideMap,
    /// The target's.
    pub target: SideMap,
    /// Points with a class, `[p, k]`.
    pub points: Param<Tensor<2>>,
    /// Their classes, `[p]`.
    pub classes: Param<Tensor<1>>,
    /// A plane a class: a weight a number of a point, then the offset, `[classes, k + 1]`.
    pub planes: Option<Param<Tensor<2>>>,
}

/// The map of a domain.
#[derive(Module, Debug)]
pub struct SideMap {
    /// `[numbers of the basis, k]`.
    pub weights: Option<Param<Tensor<2>>>,
    /// `[k]`.
    pub offset: Param<Tensor<1>>,
}

impl SideMap {
    fn keep(&mut self, side: &Side) {
        if let (Some(kept), Some(weights)) = (&mut self.weights, &side.weights) {
            let mut values = row_major(weights.as_ref());
            // An anchor that is repeated counts once.
            if matches!(side.basis, Basis::Kernel(_)) {
                values.resize(kept.dims().iter().product(), 0.0);
            }
            put(kept, values);
        }
        if !side.offset.is_empty() {
            put(&mut self.offset, side.offset.iter().map(|v| *v as f32).collect());
        }
    }

    fn side(&self, basis: Basis) -> Side {
        Side {
            basis,
            weights: self.weights.as_ref().map(table),
            offset: to_values(self.offset.val()).into_iter().map(f64::from).collect(),
        }
    }
}

impl Networks {
    /// Keeps means and deviations.
    pub fn keep_scale(&mut self, scale: &Scale) {
        put(&mut self.mean, row_major(scale.mean.as_ref()));
        put(&mut self.deviation, row_major(scale.deviation.as_ref()));
    }

    /// The means and deviations that were kept.
    pub fn scale(&self) -> Scale {
        Scale { mean: table(&self.mean), deviation: table(&self.deviation) }
    }

    /// Keeps a map.
    pub fn keep_map(&mut self, map: &Map) {
        if let (Some(kept), Some(anchors)) = (&mut self.anchors, &map.anchors) {
            put(kept, row_major(anchors.as_ref()));
        }
        self.source.keep(&map.source);
        self.target.keep(&map.target);
    }

    /// The map that was kept, of a method.
    pub fn map(&self, method: &MethodConfig) -> Map {
        let (source, target) = method.bases();
        let components = [Method::Tca, Method::Jda, Method::Tjm].contains(&method.method);
        Map {
            unit_points: components,
            unit_features: components || [Method::Sca, Method::Jgsa].contains(&method.method),
            anchors: self.anchors.as_ref().map(table),
            source: self.source.side(source),
            target: self.target.side(target),
        }
    }
}

/// Row-major values as rows.
pub fn matrix(values: &[f32], width: usize) -> Mat<f64> {
    Mat::from_fn(values.len() / width, width, |i, j| f64::from(values[i * width + j]))
}

/// Rows as values.
pub fn row_major(x: MatRef<'_, f64>) -> Vec<f32> {
    (0..x.nrows()).flat_map(|i| (0..x.ncols()).map(move |j| x[(i, j)] as f32)).collect()
}

/// A parameter as a matrix.
pub fn table(parameter: &Param<Tensor<2>>) -> Mat<f64> {
    matrix(&to_values(parameter.val()), parameter.dims()[1])
}

/// Puts rows into a parameter; where they are fewer than it has, the first is repeated.
pub fn put<const D: usize>(parameter: &mut Param<Tensor<D>>, mut values: Vec<f32>) {
    let shape = parameter.dims();
    let (all, row) = (shape.iter().product::<usize>(), shape[1..].iter().product::<usize>());
    while values.len() < all {
        values.extend_from_within(0..row);
    }
    let tensor = from_values(values, shape, &parameter.val().device());
    *parameter = parameter.clone().map(|_| tensor);
}
