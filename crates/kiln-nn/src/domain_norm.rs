//! Batch normalisation with the statistics of each domain apart.

use burn::module::{Module, Param, RunningState};
use burn::tensor::Tensor;
use kiln_kernels::{Activation, batch_norm, batch_norm_inference};

use crate::Init;
use crate::norm::{MOMENTUM, gathered};

/// Batch normalisation whose running statistics are of one domain each, while scale and shift are of all (AdaBN, Li 2017). Each
/// batch is of one domain. Pictures of another light or another ground then meet the layers above with the same mean and
/// variance, in training and at the test.
#[derive(Module, Debug)]
pub struct DomainNorm2d {
    /// Scale γ, `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// Shift β, `[channels]`.
    pub bias: Param<Tensor<1>>,
    /// For each domain.
    pub domains: Vec<RunningStatistics>,
}

/// What inference normalises by.
#[derive(Module, Debug)]
pub struct RunningStatistics {
    /// `[channels]`
    pub running_mean: RunningState<Tensor<1>>,
    /// Unbiased, `[channels]`.
    pub running_var: RunningState<Tensor<1>>,
}

/// What keeps the root of a variance above 0.
const EPS: f64 = 1e-5;

impl DomainNorm2d {
    /// Of so many domains; scale 1, shift 0, momentum 0.1, ε = 10⁻⁵. With one domain it is [`BatchNorm2d`](crate::BatchNorm2d).
    pub fn new(channels: usize, domains: usize, init: &mut Init) -> Self {
        let statistics = |init: &Init| RunningStatistics {
            running_mean: RunningState::new(Tensor::zeros([channels], init.device())),
            running_var: RunningState::new(Tensor::ones([channels], init.device())),
        };
        Self {
            weight: init.constant([channels], 1.0),
            bias: init.constant([channels], 0.0),
            domains: (0..domains.max(1)).map(|_| statistics(init)).collect(),
        }
    }

    /// Maps of one domain. In training (parameters on an autodiff device) the batch's own statistics normalise it and move the
    /// domain's running ones, which inference uses. A domain that the layer does not know has the statistics of the last.
    ///
    /// # Shapes
    /// `[n, channels, h, w]` → the same
    pub fn forward(&self, x: Tensor<4>, domain: usize, activation: Activation) -> Tensor<4> {
        let of = &self.domains[domain.min(self.domains.len() - 1)];
        let (weight, bias, running) = (self.weight.val(), self.bias.val(), [&of.running_mean, &of.running_var]);
        if weight.is_autodiff() {
            let [mean, var] = gathered(&x, running, MOMENTUM);
            return batch_norm(x, mean, var, weight, bias, EPS, activation);
        }
        let [mean, var] = running.map(RunningState::value_sync);
        batch_norm_inference(x, mean, var, weight, bias, EPS, activation)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_core::random::Key;

    use super::*;
    use crate::BatchNorm2d;
    use crate::tensor::{normal, to_values};

    #[test]
    fn each_domain_has_its_statistics_and_one_alone_is_batch_norm() {
        let device = Device::flex().autodiff();
        let mut init = Init::new(&device, 0);
        let norm = DomainNorm2d::new(3, 2, &mut init);
        let plain = BatchNorm2d::new(3, &mut init);
        let pictures = |key: u64, shift: f64| normal(Key::new(key), 0..4, [4, 3, 5, 5], &device) * 2.0 + shift;
        for step in 0..80 {
            let source = pictures(step, 3.0);
            let found = norm.forward(source.clone(), 0, Activation::Relu);
            assert_eq!(to_values(found), to_values(plain.forward(source, Activation::Relu)));
            norm.forward(pictures(step, -7.0), 1, Activation::None);
        }
        let mean = |of: &RunningStatistics| to_values(of.running_mean.value_sync().inner());
        assert_eq!(mean(&norm.domains[0]), to_values(plain.running_mean.value_sync().inner()));
        assert!((mean(&norm.domains[0])[0] - 3.0).abs() < 0.5 && (mean(&norm.domains[1])[0] + 7.0).abs() < 0.5);
        // What training made the same, inference does too.
        let norm = norm.valid();
        let seen = |shift: f64, domain: usize| {
            let x = normal(Key::new(99), 0..40, [40, 3, 5, 5], &Device::flex()) * 2.0 + shift;
            to_values(norm.forward(x, domain, Activation::None).mean())[0]
        };
        assert!(seen(3.0, 0).abs() < 0.2 && seen(-7.0, 1).abs() < 0.2 && seen(-7.0, 0) < -3.0);
    }
}
