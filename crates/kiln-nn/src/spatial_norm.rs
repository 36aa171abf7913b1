//! Normalisation whose scale and shift differ from pixel to pixel.

use burn::module::{Module, RunningState};
use burn::tensor::Tensor;
use kiln_kernels::{Activation, batch_norm, batch_norm_inference, group_norm};

use crate::Init;
use crate::norm::{MOMENTUM, gathered};

/// Normalises without parameters, by the batch's statistics or each picture's own, then scales and shifts each pixel as it is told
/// to: γ · (x − mean) / √(var + ε) + β with γ and β of x's shape (Park 2019, equation 1, where γ is 1 more).
#[derive(Module, Debug)]
pub struct SpatialNorm2d {
    /// Mean for inference, `[channels]`, of batch statistics.
    pub running_mean: Option<RunningState<Tensor<1>>>,
    /// Unbiased variance for inference, `[channels]`.
    pub running_var: Option<RunningState<Tensor<1>>>,
}

/// What keeps the root of a variance above 0.
const EPS: f64 = 1e-5;

impl SpatialNorm2d {
    /// By the statistics of the batch; momentum 0.1, ε = 10⁻⁵.
    pub fn batch(channels: usize, init: &mut Init) -> Self {
        Self {
            running_mean: Some(RunningState::new(Tensor::zeros([channels], init.device()))),
            running_var: Some(RunningState::new(Tensor::ones([channels], init.device()))),
        }
    }

    /// By the statistics of each channel of each picture.
    pub fn instance() -> Self {
        Self { running_mean: None, running_var: None }
    }

    /// In training (γ comes of parameters on an autodiff device) the batch's statistics move the running ones, which inference
    /// uses.
    ///
    /// # Shapes
    /// `[n, channels, h, w]` three times → the same
    pub fn forward(&self, x: Tensor<4>, gamma: Tensor<4>, beta: Tensor<4>, activation: Activation) -> Tensor<4> {
        let (Some(mean), Some(var)) = (&self.running_mean, &self.running_var) else {
            let channels = x.dims()[1];
            return group_norm(x, gamma, beta, channels, EPS, activation);
        };
        if gamma.is_autodiff() {
            let [mean, var] = gathered(&x, [mean, var], MOMENTUM);
            return batch_norm(x, mean, var, gamma, beta, EPS, activation);
        }
        let [mean, var] = [mean, var].map(RunningState::value_sync);
        batch_norm_inference(x, mean, var, gamma, beta, EPS, activation)
    }
}
