//! Normalisation layers. The activation that follows is an argument, since it is fused.

use burn::module::{Module, Param, RunningState};
use burn::tensor::Tensor;
use kiln_kernels::{Activation, batch_norm, batch_norm_inference, batch_stats, group_norm, layer_norm};

use crate::dual::{Of, Pass, Signal};
use crate::{Init, Linear, LinearConfig, Parametrization, WeightInit, activate};

/// Batch normalisation over `[n, channels, h, w]` (Ioffe & Szegedy 2015), PyTorch's `BatchNorm2d`.
#[derive(Module, Debug)]
pub struct BatchNorm2d {
    /// Scale γ, `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// Shift β, `[channels]`.
    pub bias: Param<Tensor<1>>,
    /// Mean for inference, `[channels]`.
    pub running_mean: RunningState<Tensor<1>>,
    /// Unbiased variance for inference, `[channels]`.
    pub running_var: RunningState<Tensor<1>>,
    #[module(skip)]
    momentum: f64,
    #[module(skip)]
    eps: f64,
}

impl BatchNorm2d {
    /// Scale 1, shift 0, momentum 0.1, ε = 10⁻⁵.
    pub fn new(channels: usize, init: &mut Init) -> Self {
        let weight = init.constant([channels], 1.0);
        Self::with_scale(weight, channels, init)
    }

    /// Scale drawn from N(1, 0.02²), as DCGAN and CycleGAN initialise it.
    pub fn dcgan(channels: usize, init: &mut Init) -> Self {
        let weight = init.normal([channels], 1.0, 0.02);
        Self::with_scale(weight, channels, init)
    }

    fn with_scale(weight: Param<Tensor<1>>, channels: usize, init: &mut Init) -> Self {
        Self {
            weight,
            bias: init.constant([channels], 0.0),
            running_mean: RunningState::new(Tensor::zeros([channels], init.device())),
            running_var: RunningState::new(Tensor::ones([channels], init.device())),
            momentum: MOMENTUM,
            eps: 1e-5,
        }
    }

    fn running(&self) -> [&RunningState<Tensor<1>>; 2] {
        [&self.running_mean, &self.running_var]
    }

    /// Training mode (parameters on an autodiff device) normalises by the batch's own statistics
    /// and updates the running ones; inference mode uses the running ones.
    ///
    /// # Shapes
    /// `[n, channels, h, w]` → the same
    pub fn forward<X: Signal<4>>(&self, x: X, activation: Activation) -> X {
        let both = |x: X| {
            let running = (!self.weight.val().is_autodiff()).then(|| self.running());
            scale_and_shift(standard(x, running, self.eps), &self.weight, &self.bias, activation)
        };
        normalise(x, |x| self.forward_plain(x, activation), both)
    }

    /// Normalises each picture by its own statistics, as training mode would a batch of it alone. The running ones stay.
    ///
    /// # Shapes
    /// `[n, channels, h, w]` → the same
    pub fn forward_by_picture(&self, x: Tensor<4>, activation: Activation) -> Tensor<4> {
        let channels = x.dims()[1];
        group_norm(x, self.weight.val(), self.bias.val(), channels, self.eps, activation)
    }

    fn forward_plain(&self, x: Tensor<4>, activation: Activation) -> Tensor<4> {
        let (weight, bias) = (self.weight.val(), self.bias.val());
        if !weight.is_autodiff() {
            let [mean, var] = self.running().map(RunningState::value_sync);
            return batch_norm_inference(x, mean, var, weight, bias, self.eps, activation);
        }
        let [mean, var] = gathered(&x, self.running(), self.momentum);
        batch_norm(x, mean, var, weight, bias, self.eps, activation)
    }
}

/// How much of a batch's statistics goes into the running ones.
pub(crate) const MOMENTUM: f64 = 0.1;

/// Mean and biased variance of a batch's channels, which move the running ones (with the unbiased variance).
pub(crate) fn gathered(x: &Tensor<4>, running: [&RunningState<Tensor<1>>; 2], momentum: f64) -> [Tensor<1>; 2] {
    let [n, _, h, w] = x.dims();
    let count = (n * h * w) as f64;
    let (mean, var) = batch_stats(x.clone());
    let unbiased = var.clone() * (count / (count - 1.0).max(1.0));
    for (state, new) in running.into_iter().zip([mean.clone(), unbiased]) {
        let old = state.value_sync().inner();
        state.update(Tensor::from_inner(old * (1.0 - momentum) + new.inner() * momentum));
        state.value_sync();
    }
    [mean, var]
}

/// Zero mean and unit variance of each channel: by the running statistics, or by the batch's own.
fn standard<X: Signal<4>>(x: X, running: Option<[&RunningState<Tensor<1>>; 2]>, eps: f64) -> X {
    match running.map(|states| states.map(RunningState::value_sync)) {
        None => x.standardise(&[0, 2, 3], eps),
        Some([mean, var]) => (x - X::constant(per_channel(mean))) / X::constant(per_channel((var + eps).sqrt())),
    }
}

/// Batch normalisation whose scale and shift a condition gives, for each sample its own: with a condition y,
///
/// (1 + W_γ y) · (x − mean) / √(var + ε) + W_β y.
///
/// Of a one-hot class it is class-conditional batch norm (Dumoulin 2017; Miyato & Koyama 2018), a scale and a shift for each
/// class, and a blend of classes has the blend of theirs. BigGAN's y is an embedding of the class beside a part of the latent
/// (Brock 2019, appendix B).
#[derive(Module, Debug)]
pub struct ConditionalBatchNorm2d {
    /// W_γ, `[channels, condition]`.
    pub gain: Linear,
    /// W_β, `[channels, condition]`.
    pub bias: Linear,
    /// Mean for inference, `[channels]`.
    pub running_mean: RunningState<Tensor<1>>,
    /// Unbiased variance for inference, `[channels]`.
    pub running_var: RunningState<Tensor<1>>,
    #[module(skip)]
    eps: f64,
}

impl ConditionalBatchNorm2d {
    /// Of a condition of so many numbers; momentum 0.1, ε = 10⁻⁵. Drawn from zero, it begins as batch norm without
    /// parameters.
    pub fn new(
        channels: usize,
        condition: usize,
        weight: WeightInit,
        parametrization: Parametrization,
        init: &mut Init,
    ) -> Self {
        let linear = LinearConfig { bias: false, weight, parametrization, ..LinearConfig::new(condition, channels) };
        Self {
            gain: linear.init(init),
            bias: linear.init(init),
            running_mean: RunningState::new(Tensor::zeros([channels], init.device())),
            running_var: RunningState::new(Tensor::ones([channels], init.device())),
            eps: 1e-5,
        }
    }

    /// By the batch's statistics in training mode, by the running ones in inference mode, as [`BatchNorm2d::forward`].
    ///
    /// # Shapes
    /// `[n, channels, h, w]`, `[n, condition]` → `[n, channels, h, w]`
    pub fn forward<X: Signal<4>>(&self, x: X, condition: Of<X, 4, 2>, activation: Activation) -> X {
        let gamma = self.gain.forward(condition.clone()) + 1.0;
        let beta = self.bias.forward(condition);
        let running = [&self.running_mean, &self.running_var];
        let trains = self.gain.weight.val().is_autodiff();
        if X::Pass::TANGENT {
            let [n, c] = gamma.dims();
            let normalised = standard(x, (!trains).then_some(running), self.eps);
            return activate(normalised * gamma.reshape([n, c, 1, 1]) + beta.reshape([n, c, 1, 1]), activation);
        }
        let (x, gamma, beta) = (x.into_parts().0, gamma.into_parts().0, beta.into_parts().0);
        let y = if trains {
            let [mean, var] = gathered(&x, running, MOMENTUM);
            batch_norm(x, mean, var, gamma, beta, self.eps, activation)
        } else {
            let [mean, var] = running.map(RunningState::value_sync);
            batch_norm_inference(x, mean, var, gamma, beta, self.eps, activation)
        };
        X::from_parts(y, None)
    }
}

/// Runs the fused kernel `plain` in a plain pass, and `both`, made of single operations, in a tangent pass.
fn normalise<const D: usize, X: Signal<D>>(
    x: X,
    plain: impl FnOnce(Tensor<D>) -> Tensor<D>,
    both: impl FnOnce(X) -> X,
) -> X {
    if X::Pass::TANGENT { both(x) } else { X::from_parts(plain(x.into_parts().0), None) }
}

/// `[c]` as `[1, c, 1, 1]`.
fn per_channel(x: Tensor<1>) -> Tensor<4> {
    let [c] = x.dims();
    x.reshape([1, c, 1, 1])
}

/// a(γ x + β) with a scale and a shift of each channel.
fn scale_and_shift<X: Signal<4>>(
    x: X,
    weight: &Param<Tensor<1>>,
    bias: &Param<Tensor<1>>,
    activation: Activation,
) -> X {
    let [gamma, beta] = [weight, bias].map(|p| X::constant(per_channel(p.val())));
    activate(x * gamma + beta, activation)
}

/// Zero mean and unit variance over each of `groups` sets of channels of each sample.
fn by_groups<X: Signal<4>>(x: X, groups: usize, eps: f64) -> X {
    let [n, c, h, w] = x.dims();
    x.reshape([n, groups, c / groups * h * w]).standardise(&[2], eps).reshape([n, c, h, w])
}

/// Group normalisation (Wu & He 2018), PyTorch's `GroupNorm`.
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// Scale γ, `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// Shift β, `[channels]`.
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    groups: usize,
    #[module(skip)]
    eps: f64,
}

impl GroupNorm {
    /// `channels` in `groups` equal groups, ε = 10⁻⁵.
    pub fn new(groups: usize, channels: usize, init: &mut Init) -> Self {
        Self { weight: init.constant([channels], 1.0), bias: init.constant([channels], 0.0), groups, eps: 1e-5 }
    }

    /// With another ε.
    pub fn with_eps(self, eps: f64) -> Self {
        Self { eps, ..self }
    }

    /// # Shapes
    /// `[n, channels, h, w]` → the same
    pub fn forward<X: Signal<4>>(&self, x: X, activation: Activation) -> X {
        let Self { weight, bias, groups, eps } = self;
        normalise(
            x,
            |x| group_norm(x, weight.val(), bias.val(), *groups, *eps, activation),
            |x| scale_and_shift(by_groups(x, *groups, *eps), weight, bias, activation),
        )
    }

    /// AdaGN (Dhariwal & Nichol 2021, §3): the normalised maps times 1 + `scale` plus `shift`, then the activation.
    ///
    /// # Shapes
    /// `[n, channels, h, w]`, twice `[n, channels]` → `[n, channels, h, w]`
    pub fn forward_adaptive(
        &self,
        x: Tensor<4>,
        scale: Tensor<2>,
        shift: Tensor<2>,
        activation: Activation,
    ) -> Tensor<4> {
        let scale = scale + 1.0;
        let gamma = scale.clone() * self.weight.val().unsqueeze();
        let beta = scale * self.bias.val().unsqueeze() + shift;
        group_norm(x, gamma, beta, self.groups, self.eps, activation)
    }
}

/// Instance normalisation (Ulyanov 2016) without parameters, PyTorch's `InstanceNorm2d` default.
#[derive(Clone, Copy, Debug)]
pub struct InstanceNorm2d {
    eps: f64,
}

impl Default for InstanceNorm2d {
    fn default() -> Self {
        Self { eps: 1e-5 }
    }
}

impl InstanceNorm2d {
    /// # Shapes
    /// `[n, channels, h, w]` → the same
    pub fn forward<X: Signal<4>>(&self, x: X, activation: Activation) -> X {
        let channels = x.dims()[1];
        let plain = |x: Tensor<4>| {
            let device = (&x.device().without_autodiff(), x.dtype());
            let (one, zero) = (Tensor::<1>::ones([channels], device), Tensor::zeros([channels], device));
            group_norm(x, one, zero, channels, self.eps, activation)
        };
        normalise(x, plain, |x| activate(by_groups(x, channels, self.eps), activation))
    }
}

/// Adaptive instance normalisation (Huang & Belongie 2017): each channel of each sample normalised, times `scale` plus
/// `shift`.
///
/// # Shapes
/// `[n, channels, h, w]`, twice `[n, channels]` → `[n, channels, h, w]`
pub fn adain(x: Tensor<4>, scale: Tensor<2>, shift: Tensor<2>, eps: f64) -> Tensor<4> {
    let [_, channels, ..] = x.dims();
    group_norm(x, scale, shift, channels, eps, Activation::None)
}

/// Layer normalisation of a whole map (Ba 2016) with scale and shift for each channel. It is as MUNIT's
/// code has it (Huang 2018): the deviation is unbiased, and ε is added to it; here twice as much to its square, which is the same to
/// second order where it is 1.
#[derive(Module, Debug)]
pub struct MapNorm {
    /// Scale γ, `[channels]`.
    pub gamma: Param<Tensor<1>>,
    /// Shift β, `[channels]`.
    pub beta: Param<Tensor<1>>,
}

impl MapNorm {
    /// Scale 1 and shift 0.
    pub fn new(channels: usize, init: &mut Init) -> Self {
        Self { gamma: init.constant([channels], 1.0), beta: init.constant([channels], 0.0) }
    }

    /// # Shapes
    /// `[n, channels, h, w]` → the same
    pub fn forward(&self, x: Tensor<4>, activation: Activation) -> Tensor<4> {
        let [_, c, h, w] = x.dims();
        let count = (c * h * w) as f64;
        let unbiased = ((count - 1.0) / count).sqrt();
        group_norm(x, self.gamma.val() * unbiased, self.beta.val(), 1, 2e-5, activation)
    }

    /// The same with the biased deviation and ε = 10⁻⁵ added to its square, PyTorch's `layer_norm` over channels and pixels.
    ///
    /// # Shapes
    /// `[n, channels, h, w]` → the same
    pub fn forward_biased(&self, x: Tensor<4>, activation: Activation) -> Tensor<4> {
        group_norm(x, self.gamma.val(), self.beta.val(), 1, 1e-5, activation)
    }
}

/// Layer normalisation over the last dimension (Ba 2016), PyTorch's `LayerNorm`.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Scale γ, `[features]`.
    pub weight: Param<Tensor<1>>,
    /// Shift β, `[features]`.
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    eps: f64,
}

impl LayerNorm {
    /// ε = 10⁻⁵.
    pub fn new(features: usize, init: &mut Init) -> Self {
        Self { weight: init.constant([features], 1.0), bias: init.constant([features], 0.0), eps: 1e-5 }
    }

    /// # Shapes
    /// `[…, features]` → the same
    pub fn forward<const D: usize, X: Signal<D>>(&self, x: X) -> X {
        let Self { weight, bias, eps } = self;
        let last = |p: &Param<Tensor<1>>| X::constant(p.val().unsqueeze());
        normalise(
            x,
            |x| layer_norm(x, weight.val(), bias.val(), *eps, Activation::None),
            |x| x.standardise(&[D - 1], *eps) * last(weight) + last(bias),
        )
    }
}

/// Each pixel's or sample's features divided by their root mean square: x / √(mean x² + ε) along axis 1 with
/// ε = 10⁻⁸ (Karras 2018, section 4.2; the latent of StyleGAN).
pub fn pixel_norm<const D: usize, X: Signal<D>>(x: X) -> X {
    let mean = x.clone().square().mean_dims(&[1]);
    x / (mean + 1e-8).sqrt()
}
