//! Fully connected layers and embedding tables.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use kiln_kernels::linear;

use crate::dual::{Pass, Plain, Signal};
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
    /// What the table goes through.
    pub parametrization: Parametrized,
}

impl Embedding {
    /// `entries` vectors of `features` numbers, drawn from N(0, 1) as PyTorch does.
    pub fn new(entries: usize, features: usize, init: &mut Init) -> Self {
        Self::from_parameters(init.normal([entries, features], 0.0, 1.0))
    }

    /// `entries` vectors drawn so, of a table that goes through `parametrization`: spectrally normalised in the projection
    /// discriminator of SNGAN and BigGAN, the matrix `[entries, features]` as PyTorch has it. The entries count as the
    /// inputs, as for a linear layer over one-hot vectors.
    pub fn parametrized(
        entries: usize,
        features: usize,
        how: WeightInit,
        parametrization: Parametrization,
        init: &mut Init,
    ) -> Self {
        let weight = init.weight([entries, features], entries, parametrization.drawn(how));
        let parametrization = parametrization.init(&weight, 0, entries, init);
        Self { weight, parametrization }
    }

    /// A table that is the parameter, read from a file or drawn.
    pub fn from_parameters(weight: Param<Tensor<2>>) -> Self {
        Self { weight, parametrization: Parametrized::direct() }
    }

    /// # Shapes
    /// `[n]` → `[n, features]`. Indices must be below `entries`.
    pub fn forward(&self, indices: Tensor<1, Int>) -> Tensor<2> {
        self.select::<Plain>(indices)
    }

    /// [`Embedding::forward`] in a pass of this kind: in one with tangents the singular vectors of a spectrally normalised
    /// table stay.
    ///
    /// # Shapes
    /// `[n]` → `[n, features]`
    pub fn select<P: Pass>(&self, indices: Tensor<1, Int>) -> Tensor<2> {
        let (table, _) = self.parametrization.apply::<P, 2>(&self.weight, None);
        table.select(0, indices)
    }
}

#[cfg(test)]
mod tests {
    use burn::module::ModuleVisitor;
    use burn::tensor::Device;

    use super::*;
    use crate::dual::Tangent;
    use crate::tensor::from_indices;

    fn table(parametrization: Parametrization, device: &Device) -> Embedding {
        Embedding::parametrized(5, 3, WeightInit::Normal(2.0), parametrization, &mut Init::new(device, 1))
    }

    fn off(a: Tensor<2>, b: Tensor<2>) -> f32 {
        (a - b).abs().max().into_scalar::<f32>()
    }

    #[test]
    fn a_spectrally_normalised_table_has_the_norm_1() {
        let device = Device::flex().autodiff();
        let table = table(Parametrization::Spectral, &device);
        let all = || from_indices(&[0, 1, 2, 3, 4], &device);
        let vectors = || table.parametrization.u.as_ref().map(|u| u.value_sync().into_data());
        let before = vectors();
        let tangent = table.select::<Tangent>(all());
        assert_eq!(vectors(), before);
        let plain = table.forward(all());
        assert_ne!(vectors(), before);
        assert!(off(tangent, plain.clone()) < 1e-3);
        // The largest singular value, by power iteration.
        let product = plain.clone().transpose().matmul(plain);
        let mut v = Tensor::<2>::ones([3, 1], &device);
        for _ in 0..100 {
            v = product.clone().matmul(v);
            v = v.clone() / v.square().sum().sqrt().reshape([1, 1]);
        }
        let norm = product.matmul(v).square().sum().sqrt().into_scalar::<f32>().sqrt();
        assert!((norm - 1.0).abs() < 1e-3, "{norm}");
    }

    /// Collects the names of parameters.
    struct Names(Vec<String>, Vec<String>);

    impl ModuleVisitor for Names {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, _: &Param<Tensor<D>>) {
            self.1.push(self.0.join("."));
        }
    }

    #[test]
    fn a_table_as_it_is_has_one_parameter() {
        let table = table(Parametrization::Direct, &Device::flex());
        let mut names = Names(vec![], vec![]);
        table.visit(&mut names);
        assert_eq!(names.1, ["weight"]);
        let all = from_indices(&[0, 1, 2, 3, 4], &Device::flex());
        assert_eq!(off(table.forward(all), table.weight.val()), 0.0);
    }
}
