//! Networks with a deterministic output: a code, class logits, or a discriminator's score.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_nn::{Init, Linear, LinearConfig};

use super::networks::{NetworkConfig, Nonlinearity, Trunk};

/// Pictures to codes. Its parameters have the names of an [`Encoder`](super::networks::Encoder)'s without log σ², so that
/// one may begin with the other.
#[derive(Module, Debug)]
pub struct Coder {
    trunk: Trunk,
    head: CodeHead,
}

/// The linear layer of a [`Coder`].
#[derive(Module, Debug)]
struct CodeHead {
    mean: Linear,
}

impl Coder {
    /// For pictures of `shape` (channels, height, width).
    pub fn new(config: &NetworkConfig, shape: [usize; 3], init: &mut Init) -> Self {
        let trunk = config.trunk(shape, 0, init);
        let mean = LinearConfig::new(trunk.features(), config.latent).init(init);
        Self { trunk, head: CodeHead { mean } }
    }

    /// Numbers a picture that [`Coder::features`] puts out.
    pub fn width(&self) -> usize {
        self.trunk.features()
    }

    /// What the code is made of.
    ///
    /// # Shapes
    /// `[n, c·h·w]` → `[n, width]`
    pub fn features(&self, x: Tensor<2>) -> Tensor<2> {
        self.trunk.forward(x, None)
    }

    /// The code of features.
    ///
    /// # Shapes
    /// `[n, width]` → `[n, latent]`
    pub fn of_features(&self, features: Tensor<2>) -> Tensor<2> {
        self.head.mean.forward(features)
    }

    /// # Shapes
    /// `[n, c·h·w]` → `[n, latent]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.of_features(self.features(x))
    }
}

/// A trunk and a linear layer: logits.
#[derive(Module, Debug)]
pub struct Logits {
    trunk: Trunk,
    logits: Linear,
}

impl Logits {
    /// `outputs` logits of pictures of `shape`.
    pub fn new(config: &NetworkConfig, shape: [usize; 3], outputs: usize, init: &mut Init) -> Self {
        let trunk = config.trunk(shape, 0, init);
        let logits = LinearConfig::new(trunk.features(), outputs).init(init);
        Self { trunk, logits }
    }

    /// `outputs` logits of `inputs` numbers, through fully connected layers.
    pub fn mlp(inputs: usize, hidden: &[usize], outputs: usize, nonlinearity: Nonlinearity, init: &mut Init) -> Self {
        let config = NetworkConfig { nonlinearity, ..NetworkConfig::mlp(1, hidden) };
        Self::new(&config, [inputs, 1, 1], outputs, init)
    }

    /// # Shapes
    /// `[n, inputs]` → `[n, outputs]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.logits.forward(self.trunk.forward(x, None))
    }
}
