//! Fully connected layers and embedding tables.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use kiln_kernels::linear;

use crate::dual::Signal;
use crate::parametrization::{Parametrization, Parametrized};
use crate::{Init, WeightInit, cost};

/// Settings of a [`Linear`].
#[derive(Clone, Copy, Debug)]
pub struct LinearConfig {
    /// Features that go in.
    pub inputs: usize,
    /// Features that come out.
    pub outputs: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// How the weight is drawn; the bias is zero unless the weight is [`WeightInit::FanIn`].
    pub weight: WeightInit,
    /// What the weight goes through before use.
    pub parametrization: Parametrization,
}

impl LinearConfig {
    /// `inputs` → `outputs` features, with a bias, drawn as PyTorch does.
    pub fn new(inputs: usize, outputs: usize) -> Self {
        Self { inputs, outputs, bias: true, weight: WeightInit::FanIn, parametrization: Parametrization::Direct }
    }

    /// Makes the layer.
    pub fn init(&self, init: &mut Init) -> Linear {
        let how = self.parametrization.drawn(self.weight);
        let weight = init.weight([self.outputs, self.inputs], self.inputs, how);
        let bias = self.bias.then(|| init.bias(self.outputs, self.inputs, how));
        let parametrization = self.parametrization.init(&weight, 0, self.inputs, init);
        Linear { weight, bias, parametrization }
    }
}

/// y = x·Wᵀ + b over the last dimension.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// What the weight goes through.
    pub parametrization: Parametrized,
}

impl Linear {
    /// A layer of these parameters, read from a file.
    pub fn from_parameters(weight: Param<Tensor<2>>, bias: Option<Param<Tensor<1>>>) -> Self {
        Self { weight, bias, parametrization: Parametrized::direct() }
    }

    /// # Shapes
    /// `[…, in]` → `[…, out]`
    pub fn forward<const D: usize, X: Signal<D>>(&self, x: X) -> X {
        let shape = x.dims();
        let features = shape[D - 1];
        let rows: usize = shape[..D - 1].iter().product();
        cost::count(&[rows, self.weight.dims()[0], features]);
        let (weight, bias) = self.parametrization.apply::<X::Pass, 2>(&self.weight, self.bias.as_ref());
        let mut out = shape;
        out[D - 1] = weight.dims()[0];
        x.affine(bias, |x, bias| linear(x.reshape([rows, features]), weight.clone(), bias).reshape(out))
    }
}

/// A table of vectors, one for each class or token.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[entries, features]`.
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// `entries` vectors of `features` numbers, drawn from N(0, 1) as PyTorch does.
    pub fn new(entries: usize, features: usize, init: &mut Init) -> Self {
        Self { weight: init.normal([entries, features], 0.0, 1.0) }
    }

    /// # Shapes
    /// `[n]` → `[n, features]`. Indices must be below `entries`.
    pub fn forward(&self, indices: Tensor<1, Int>) -> Tensor<2> {
        self.weight.val().select(0, indices)
    }
}
