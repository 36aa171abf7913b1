//! The mapping network f: Z → W of StyleGAN and StyleGAN2, and the mean of W that truncation leads towards.

use std::f64::consts::SQRT_2;

use burn::module::{Module, RunningState};
use burn::tensor::Tensor;
use kiln_nn::norm::pixel_norm;
use kiln_nn::{Activation, Init, Linear, LinearConfig, Parametrization, activate};

use crate::adversarial::dcgan::LEAK;

/// How fast the mean of W follows: w̄ ← 0.995·w̄ + 0.005·mean w, as in the papers' code.
const MEAN_DECAY: f64 = 0.995;

/// Fully connected layers from a normalised z to w.
#[derive(Module, Debug)]
pub struct Mapping {
    layers: Vec<Linear>,
    /// w̄, the running mean of W. A part of the network, so that checkpoints and averages (EMA) have it.
    pub mean: RunningState<Tensor<1>>,
    #[module(skip)]
    gain: f64,
}

/// Where the factor √2 is that makes up for what LeakyReLU takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gain {
    /// In the weights: StyleGAN.
    Weights,
    /// Behind the activation: StyleGAN2.
    Activation,
}

impl Mapping {
    /// `layers` layers of `size` features; they learn `lr_multiplier` times as fast as other layers. Without layers W is the
    /// normalised Z.
    pub fn new(size: usize, layers: usize, lr_multiplier: f64, gain: Gain, init: &mut Init) -> Self {
        let (weights, activation) = match gain {
            Gain::Weights => (SQRT_2, 1.0),
            Gain::Activation => (1.0, SQRT_2),
        };
        let parametrization = Parametrization::Equalized { gain: weights, lr_multiplier };
        let config = LinearConfig { parametrization, ..LinearConfig::new(size, size) };
        let layers = (0..layers).map(|_| config.init(init)).collect();
        Self { layers, mean: RunningState::new(Tensor::zeros([size], init.device())), gain: activation }
    }

    /// In training (parameters on an autodiff device) the mean of W follows.
    ///
    /// # Shapes
    /// z `[n, size]` → w `[n, size]`
    pub fn forward(&self, z: Tensor<2>) -> Tensor<2> {
        let mut w = pixel_norm(z);
        for layer in &self.layers {
            w = activate(layer.forward(w), Activation::LeakyRelu(LEAK)) * self.gain;
        }
        let old = self.mean.value_sync();
        if old.is_autodiff() {
            let [_, size] = w.dims();
            let batch = w.clone().inner().mean_dim(0).reshape([size]);
            self.mean.update(Tensor::from_inner(old.inner() * MEAN_DECAY + batch * (1.0 - MEAN_DECAY)));
            self.mean.value_sync();
        }
        w
    }

    /// The truncation trick (Karras 2019, appendix B): w̄ + ψ(w − w̄).
    ///
    /// # Shapes
    /// `[n, size]` → the same
    pub fn truncate(&self, w: Tensor<2>, psi: f64) -> Tensor<2> {
        if psi == 1.0 {
            return w;
        }
        let mean = self.mean.value_sync().unsqueeze_dim::<2>(0);
        (w - mean.clone()) * psi + mean
    }
}
