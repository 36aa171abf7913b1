//! What a weight goes through before a layer uses it.

use burn::module::{Module, Param, RunningState};
use burn::tensor::Tensor;

use crate::dual::Pass;
use crate::{Init, WeightInit};

/// How a layer's weight comes from its parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Parametrization {
    /// It is the parameter.
    #[default]
    Direct,
    /// Equalised learning rate (Karras 2018, section 4.1; 2019, appendix C): the parameter is drawn from
    /// N(0, 1 / lr_multiplier²), whatever the layer's [`WeightInit`], and multiplied by gain · lr_multiplier / √fan_in at
    /// every use, the bias by lr_multiplier, so that each layer learns at the same pace.
    Equalized {
        /// √2 after He (ProGAN), 1 where the activation has the gain (StyleGAN2).
        gain: f64,
        /// How much faster than others it learns: 1, or 0.01 in StyleGAN's mapping network.
        lr_multiplier: f64,
    },
    /// Spectral normalisation (Miyato 2018): the parameter divided by its largest singular value.
    Spectral,
}

impl Parametrization {
    /// [`Parametrization::Equalized`] with gain √2 and learning rates as they are, as ProGAN has it.
    pub const PROGAN: Self = Self::Equalized { gain: std::f64::consts::SQRT_2, lr_multiplier: 1.0 };

    /// How the parameter is drawn in a layer whose weight is to be drawn so.
    pub(crate) fn drawn(self, how: WeightInit) -> WeightInit {
        match self {
            Self::Equalized { lr_multiplier, .. } => WeightInit::Normal(1.0 / lr_multiplier),
            Self::Direct | Self::Spectral => how,
        }
    }

    /// The state and factors of one weight. Its `axis` counts the outputs, each of which sees `fan_in` inputs.
    pub(crate) fn init<const D: usize>(
        self,
        weight: &Param<Tensor<D>>,
        axis: usize,
        fan_in: usize,
        init: &mut Init,
    ) -> Parametrized {
        let factors = match self {
            Self::Equalized { gain, lr_multiplier } => [gain * lr_multiplier / (fan_in as f64).sqrt(), lr_multiplier],
            Self::Direct | Self::Spectral => [1.0; 2],
        };
        let Self::Spectral = self else { return Parametrized { u: None, v: None, factors, axis } };
        let matrix = matrix(weight.val().inner(), axis);
        let mut vectors = matrix.dims().map(|len| unit(init.normal([len], 0.0, 1.0).val().inner()));
        for _ in 0..15 {
            vectors = power_iteration(&matrix, vectors);
        }
        let state = |vector| Some(RunningState::new(like(weight.val().is_autodiff(), vector)));
        let [u, v] = vectors.map(state);
        Parametrized { u, v, factors, axis }
    }
}

/// The [`Parametrization`] of one weight. Spectral normalisation keeps the first singular vectors as buffers in the
/// checkpoint; one power iteration in each training pass updates them.
#[derive(Module, Debug)]
pub struct Parametrized {
    /// The left singular vector, one number an output.
    pub u: Option<RunningState<Tensor<1>>>,
    /// The right singular vector.
    pub v: Option<RunningState<Tensor<1>>>,
    /// What weight and bias are multiplied by.
    #[module(skip)]
    factors: [f64; 2],
    #[module(skip)]
    axis: usize,
}

impl Parametrized {
    /// The parameters as they are.
    pub(crate) fn direct() -> Self {
        Self { u: None, v: None, factors: [1.0; 2], axis: 0 }
    }

    /// Weight and bias for a pass.
    pub(crate) fn apply<P: Pass, const D: usize>(
        &self,
        weight: &Param<Tensor<D>>,
        bias: Option<&Param<Tensor<1>>>,
    ) -> (Tensor<D>, Option<Tensor<1>>) {
        let (weight, bias) = (weight.val(), bias.map(Param::val));
        if let (Some(u), Some(v)) = (&self.u, &self.v) {
            return (self.spectral(weight, u, v, P::TANGENT), bias);
        }
        let scaled = |factor: f64| move |bias: Tensor<1>| if factor == 1.0 { bias } else { bias * factor };
        (if self.factors[0] == 1.0 { weight } else { weight * self.factors[0] }, bias.map(scaled(self.factors[1])))
    }

    /// W / σ with σ = uᵀWv, u and v constant to the gradient (Miyato 2018, equations 8 and 12; their algorithm 1).
    fn spectral<const D: usize>(
        &self,
        weight: Tensor<D>,
        u: &RunningState<Tensor<1>>,
        v: &RunningState<Tensor<1>>,
        tangent: bool,
    ) -> Tensor<D> {
        let matrix = matrix(weight.clone(), self.axis);
        let tracked = weight.is_autodiff();
        // In averaged weights (EMA) the vectors are averages too, a little shorter than 1.
        let mut vectors = [u, v].map(|state| unit(state.value_sync().inner()));
        if tracked && !tangent {
            vectors = power_iteration(&matrix.clone().inner(), vectors);
            for (state, vector) in [u, v].into_iter().zip(vectors.clone()) {
                state.update(like(tracked, vector));
                state.value_sync();
            }
        }
        let [u, v] = vectors;
        let sigma = u.unsqueeze_dim::<2>(0).matmul(matrix).matmul(v.unsqueeze_dim(1));
        weight / sigma.reshape([1; D])
    }
}

/// A weight as the matrix `[out, in · taps]`, where `axis` counts the outputs.
fn matrix<const D: usize>(weight: Tensor<D>, axis: usize) -> Tensor<2> {
    let outputs = weight.dims()[axis];
    let rest = weight.dims().iter().product::<usize>() / outputs.max(1);
    weight.swap_dims(0, axis).reshape([outputs, rest])
}

/// u = Wv / ‖Wv‖, then v = Wᵀu / ‖Wᵀu‖.
fn power_iteration(matrix: &Tensor<2>, [_, v]: [Tensor<1>; 2]) -> [Tensor<1>; 2] {
    let times = |matrix: Tensor<2>, vector: Tensor<1>| {
        let len = matrix.dims()[0];
        unit(matrix.matmul(vector.unsqueeze_dim(1)).reshape([len]))
    };
    let u = times(matrix.clone(), v);
    [u.clone(), times(matrix.clone().transpose(), u)]
}

/// x / max(‖x‖, 10⁻¹²).
fn unit(x: Tensor<1>) -> Tensor<1> {
    let norm = x.clone().square().sum().sqrt().clamp_min(1e-12);
    x / norm
}

/// A buffer on the autodiff device if the parameters are on one.
fn like(tracked: bool, x: Tensor<1>) -> Tensor<1> {
    if tracked { Tensor::from_inner(x) } else { x }
}
