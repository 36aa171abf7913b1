//! Penalties on gradients against PyTorch's double backward, for every layer of a discriminator; orthogonal weights.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

#[path = "../../../tests/reference/fixtures.rs"]
mod fixtures;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Gradients, Tensor};
use fixtures::Fixtures;
use kiln_nn::discriminator::{SelfAttention, minibatch_std, project};
use kiln_nn::dual::{Differentiable, Dual, Of, Signal};
use kiln_nn::fir::{downsample2d, filter2d, setup_filter, upsample2d};
use kiln_nn::loss::softplus;
use kiln_nn::modulated::{Modulate, Modulation, modulated_conv2d};
use kiln_nn::norm::pixel_norm;
use kiln_nn::penalty::{MeanLength, path_length, r1, wgan_gp};
use kiln_nn::resample::{
    Interpolation, avg_pool2d, global_mean, global_sum, interpolate, pixel_shuffle, pixel_unshuffle, reflect_pad,
    upsample_nearest,
};
use kiln_nn::tensor::{from_indices, normal};
use kiln_nn::{
    Activation, BatchNorm2d, ConditionalBatchNorm2d, Conv2d, Conv2dConfig, ConvTranspose2d, Embedding, GroupNorm, Init,
    InstanceNorm2d, LayerNorm, Linear, LinearConfig, Parametrization, WeightInit, activate, add_activate, concat,
};

const LEAKY: Activation = Activation::LeakyRelu(0.2);

fn device() -> Device {
    Device::flex().autodiff()
}

/// The numbers of `prefix` in place of a network's own.
struct Load<'a> {
    path: Vec<String>,
    fixtures: &'a Fixtures,
    prefix: &'a str,
    dtype: DType,
}

impl ModuleMapper for Load<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let tracked = param.val().is_require_grad();
        let (id, _, mapper) = param.consume();
        let value = self.fixtures.tensor_of::<D>(&name(self.prefix, &self.path), self.dtype).autodiff();
        Param::from_mapped_value(id, if tracked { value.require_grad() } else { value }, mapper)
    }
}

/// The reference's name of a parameter: variants of an enum are none of its parts.
fn name(prefix: &str, path: &[String]) -> String {
    let parts = path.iter().filter(|part| !part.starts_with(char::is_uppercase)).map(String::as_str);
    [prefix].into_iter().chain(parts).collect::<Vec<_>>().join(".")
}

fn loaded<M: Module>(module: M, fixtures: &Fixtures, prefix: &str, dtype: DType) -> M {
    module.map(&mut Load { path: Vec::new(), fixtures, prefix, dtype })
}

/// How far gradients are from the reference's, ‖a − e‖ / ‖e‖ over all parameters.
struct Compare<'a> {
    path: Vec<String>,
    fixtures: &'a Fixtures,
    prefix: &'a str,
    gradients: &'a Gradients,
    off: f64,
    all: f64,
}

impl ModuleVisitor for Compare<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = name(self.prefix, &self.path);
        if !param.val().is_require_grad() || name.ends_with("logit.bias") {
            return;
        }
        let (shape, expected) = self.fixtures.values(&name);
        let found = param.val().grad(self.gradients).unwrap_or_else(|| param.val().zeros_like().inner());
        assert_eq!(found.dims().to_vec(), shape, "{name}");
        for (a, e) in found.try_into_vec_as::<f64>().unwrap().into_iter().zip(expected) {
            self.off += (a - e) * (a - e);
            self.all += e * e;
        }
    }
}

/// Relative errors of a penalty and of its parameter gradient.
fn errors<M: Module>(f: &Fixtures, prefix: &str, module: &M, penalty: Tensor<1>) -> [f64; 2] {
    let expected = f.values(prefix).1[0];
    let value = penalty.clone().into_scalar::<f64>();
    let gradients = penalty.backward();
    let mut compare = Compare { path: Vec::new(), fixtures: f, prefix, gradients: &gradients, off: 0.0, all: 0.0 };
    module.visit(&mut compare);
    assert!(compare.all > 0.0, "{prefix}: no gradient to compare with");
    [(value - expected).abs() / expected.abs(), (compare.off / compare.all).sqrt()]
}

/// Prints the errors and asserts that they are small.
fn check(name: &str, dtype: DType, [value, gradient]: [f64; 2]) {
    println!("{name:28} {dtype:?} value {value:.1e} gradient {gradient:.1e}");
    // Double precision shows that the formulas are right: 3e-15 at most. Single precision runs the kernels: 1e-6, but
    // 4e-6 for the minibatch deviation, whose second derivative is large where samples hardly differ.
    let tolerance = if dtype == DType::F64 { 1e-12 } else { 1e-5 };
    assert!(value < tolerance && gradient < tolerance, "{name} {dtype:?}: value {value:e}, gradient {gradient:e}");
}

/// The layer in the middle.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // there is one of it
enum Layer {
    Conv(Conv2d),
    Transposed(ConvTranspose2d),
    Linear(Linear),
    Group(GroupNorm),
    Rows(LayerNorm),
    Batch(BatchNorm2d),
    Conditional(ConditionalBatchNorm2d),
    Attention(SelfAttention),
    Projection(Embedding),
}

/// Σ readout · silu(layer(conv(x))).
#[derive(Module, Debug)]
struct Critic {
    conv: Conv2d,
    layer: Option<Layer>,
    readout: Param<Tensor<2>>,
    #[module(skip)]
    case: &'static str,
}

const CASES: [&str; 39] = [
    "conv",
    "conv_transpose",
    "linear",
    "relu",
    "leaky_relu",
    "sigmoid",
    "silu",
    "gelu",
    "gelu_tanh",
    "tanh",
    "softplus",
    "instance_norm",
    "group_norm",
    "layer_norm",
    "batch_norm",
    "conditional_batch_norm",
    "pixel_norm",
    "avg_pool",
    "upsample_nearest",
    "interpolate",
    "blur",
    "fir_up",
    "fir_down",
    "reflect_pad",
    "pixel_shuffle",
    "pixel_unshuffle",
    "add",
    "add_activate",
    "concat",
    "concat_constant",
    "global_mean",
    "projection",
    "minibatch_std",
    "self_attention",
    "spectral_conv",
    "spectral_conv_transpose",
    "spectral_linear",
    "equalized_conv",
    "equalized_linear",
];

impl Critic {
    fn new(case: &'static str, init: &mut Init) -> Self {
        let spectral = Parametrization::Spectral;
        let conv = Conv2dConfig { stride: 2, padding: 1, ..Conv2dConfig::new(8, 5, 3) };
        let up = Conv2dConfig { stride: 2, padding: 1, ..Conv2dConfig::new(8, 3, 4) };
        let linear = LinearConfig::new(48, 5);
        let layer = match case {
            "conv" => Some(Layer::Conv(conv.init(init))),
            "conv_transpose" => Some(Layer::Transposed(up.init_transposed(init))),
            "linear" => Some(Layer::Linear(linear.init(init))),
            "spectral_conv" => Some(Layer::Conv(Conv2dConfig { parametrization: spectral, ..conv }.init(init))),
            "spectral_conv_transpose" => {
                let config = Conv2dConfig { parametrization: spectral, ..up };
                Some(Layer::Transposed(config.init_transposed(init)))
            }
            "spectral_linear" => Some(Layer::Linear(LinearConfig { parametrization: spectral, ..linear }.init(init))),
            "equalized_conv" => {
                let parametrization = Parametrization::PROGAN;
                Some(Layer::Conv(Conv2dConfig { parametrization, ..Conv2dConfig::same3(8, 5) }.init(init)))
            }
            "equalized_linear" => {
                let parametrization = Parametrization::Equalized { gain: 1.0, lr_multiplier: 0.01 };
                Some(Layer::Linear(LinearConfig { parametrization, ..linear }.init(init)))
            }
            "group_norm" => Some(Layer::Group(GroupNorm::new(2, 8, init))),
            "layer_norm" => Some(Layer::Rows(LayerNorm::new(4, init))),
            "batch_norm" => Some(Layer::Batch(BatchNorm2d::new(8, init))),
            "conditional_batch_norm" => {
                Some(Layer::Conditional(ConditionalBatchNorm2d::new(8, 3, WeightInit::FanIn, spectral, init)))
            }
            "self_attention" => {
                Some(Layer::Attention(SelfAttention::new(16, WeightInit::FanIn, Parametrization::Direct, init)))
            }
            "projection" => Some(Layer::Projection(Embedding::new(3, 8, init))),
            _ => None,
        };
        let channels = if case == "self_attention" { 16 } else { 8 };
        Self { conv: Conv2dConfig::same3(3, channels).init(init), layer, readout: init.normal([1, 1], 0.0, 1.0), case }
    }
}

impl Differentiable<4, 2> for Critic {
    fn apply<X: Signal<4>>(&self, x: X) -> Of<X, 4, 2> {
        let x = self.conv.forward(x);
        let filter = setup_filter(&[1.0, 3.0, 3.0, 1.0], true, false, 1.0);
        let y = match (&self.layer, self.case) {
            (Some(Layer::Conv(layer)), _) => layer.forward(x).flatten(),
            (Some(Layer::Transposed(layer)), _) => layer.forward(x).flatten(),
            (Some(Layer::Linear(layer)), _) => layer.forward(avg_pool2d(x, 2, 2, 0).flatten()),
            (Some(Layer::Group(layer)), _) => layer.forward(x, Activation::Silu).flatten(),
            (Some(Layer::Rows(layer)), _) => layer.forward(x).flatten(),
            (Some(Layer::Batch(layer)), _) => layer.forward(x, Activation::Relu).flatten(),
            (Some(Layer::Conditional(layer)), _) => {
                let y = [[0., 0., 1.], [1., 0., 0.], [0., 1., 0.], [0., 0.5, 0.5]];
                let y = Tensor::from_inner(Tensor::<2>::from_data(y, (&Device::flex(), x.value().dtype())));
                layer.forward(x, Of::<X, 4, 2>::constant(y), Activation::Relu).flatten()
            }
            (Some(Layer::Attention(layer)), _) => layer.forward(x).flatten(),
            (Some(Layer::Projection(table)), _) => {
                let h = global_sum(activate(x, Activation::Silu));
                let classes = from_indices(&[2, 0, 1, 2], &Device::flex());
                concat(h.clone(), project(h, table, classes))
            }
            (None, "relu") => activate(x, Activation::Relu).flatten(),
            (None, "leaky_relu") => activate(x, LEAKY).flatten(),
            (None, "sigmoid") => activate(x, Activation::Sigmoid).flatten(),
            (None, "silu") => activate(x, Activation::Silu).flatten(),
            (None, "gelu") => activate(x, Activation::Gelu).flatten(),
            (None, "gelu_tanh") => activate(x, Activation::GeluTanh).flatten(),
            (None, "tanh") => x.tanh().flatten(),
            (None, "softplus") => softplus(x).flatten(),
            (None, "instance_norm") => InstanceNorm2d::default().forward(x, LEAKY).flatten(),
            (None, "pixel_norm") => pixel_norm(x).flatten(),
            (None, "avg_pool") => avg_pool2d(x, 2, 2, 0).flatten(),
            (None, "upsample_nearest") => upsample_nearest(x, 2).flatten(),
            (None, "interpolate") => interpolate(x, [12, 8], Interpolation::Bilinear { antialias: false }).flatten(),
            (None, "blur") => filter2d(x, &filter, 1.0).flatten(),
            (None, "fir_up") => upsample2d(x, &filter, 2, 1.0).flatten(),
            (None, "fir_down") => downsample2d(x, &filter, 2, 1.0).flatten(),
            (None, "reflect_pad") => reflect_pad(x, 1).flatten(),
            (None, "pixel_shuffle") => pixel_shuffle(x, 2).flatten(),
            (None, "pixel_unshuffle") => pixel_unshuffle(x, 2).flatten(),
            (None, "add") => (x.clone() + x.tanh() * 0.5).flatten(),
            (None, "add_activate") => add_activate(x.clone(), x.tanh(), Activation::Silu).flatten(),
            (None, "concat") => concat(x.clone(), x.tanh()).flatten(),
            (None, "concat_constant") => {
                let ones = X::constant(x.value().ones_like());
                concat(x, ones).flatten()
            }
            (None, "global_mean") => global_mean(activate(x, Activation::Silu)),
            (None, "minibatch_std") => minibatch_std(x, 2).flatten(),
            (None, case) => panic!("no layer {case}"),
        };
        let readout = Of::<X, 4, 2>::constant(self.readout.val());
        (activate(y, Activation::Silu) * readout).sum_dims(&[1])
    }
}

/// Both penalties of a critic with the reference's parameters.
fn check_critic<M: Module + Differentiable<4, 2>>(name: &str, make: impl Fn() -> M) {
    let f = Fixtures::open("penalties");
    for dtype in [DType::F64, DType::F32] {
        let input = |name| f.tensor_of::<4>(name, dtype);
        let (x, fake, mix) = (input("x"), input("fake"), f.tensor_of::<1>("mix", dtype));
        // A fresh one for each: a training pass moves the vectors of spectral normalisation.
        let critic = loaded(make(), &f, name, dtype);
        let penalty = r1(&critic, x.clone(), &device());
        check(&format!("{name}.r1"), dtype, errors(&f, &format!("{name}.r1"), &critic, penalty));
        let critic = loaded(make(), &f, name, dtype);
        let penalty = wgan_gp(&critic, x, fake, mix, &device());
        check(&format!("{name}.gp"), dtype, errors(&f, &format!("{name}.gp"), &critic, penalty));
    }
}

#[test]
fn every_layer_has_the_penalties_of_double_backward() {
    for case in CASES {
        check_critic(case, || Critic::new(case, &mut Init::new(&device(), 0)));
    }
}

/// Two convolutions, leaky ReLU, minibatch deviation, a linear layer.
#[derive(Module, Debug)]
struct Tiny {
    first: Conv2d,
    second: Conv2d,
    logit: Linear,
}

impl Tiny {
    fn new(init: &mut Init) -> Self {
        let parametrization = Parametrization::Spectral;
        let halve = Conv2dConfig { stride: 2, padding: 1, parametrization, ..Conv2dConfig::new(6, 8, 4) };
        Self {
            first: Conv2dConfig::same3(3, 6).init(init),
            second: halve.init(init),
            logit: LinearConfig::new(54, 1).init(init),
        }
    }
}

impl Differentiable<4, 2> for Tiny {
    fn apply<X: Signal<4>>(&self, x: X) -> Of<X, 4, 2> {
        let x = activate(self.first.forward(x), LEAKY);
        let x = activate(self.second.forward(x), LEAKY);
        self.logit.forward(minibatch_std(x, 4).flatten())
    }
}

#[test]
fn a_whole_critic_has_the_penalties_of_double_backward() {
    check_critic("tiny", || Tiny::new(&mut Init::new(&device(), 0)));
}

#[test]
fn gradient_checkpointing_changes_no_penalty() {
    let x = normal(kiln_core::random::Key::new(1), 0..4, [4, 3, 6, 4], &Device::flex());
    let [kept, again] = [device(), device().gradient_checkpointing()].map(|device| {
        let critic = Tiny::new(&mut Init::new(&device, 0));
        let gradients = r1(&critic, x.clone(), &device).backward();
        critic.first.weight.val().grad(&gradients).unwrap().into_data()
    });
    assert_eq!(kept, again);
}

/// Plain gradient descent.
struct Descend<'a>(&'a Gradients, f64);

impl ModuleMapper for Descend<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        let value = match value.grad(self.0) {
            Some(gradient) => (value.inner() - gradient * self.1).autodiff().require_grad(),
            None => value,
        };
        Param::from_mapped_value(id, value, mapper)
    }
}

#[test]
fn r1_makes_gradients_small_while_a_critic_learns() {
    let pictures = |seed| normal::<4>(kiln_core::random::Key::new(seed), 0..8, [8, 3, 6, 4], &Device::flex());
    let (real, fake) = (pictures(1) + 1.0, pictures(2));
    let slope = |gamma: f64| {
        let mut critic = Tiny::new(&mut Init::new(&device(), 0));
        for _ in 0..60 {
            let scores = |x: &Tensor<4>| critic.apply(x.clone());
            let loss = (softplus(scores(&fake)) + softplus(scores(&real) * -1.0)).mean();
            let loss = loss + r1(&critic, real.clone(), &device()) * gamma;
            let gradients = loss.backward();
            critic = critic.map(&mut Descend(&gradients, 0.1));
        }
        r1(&critic, real.clone(), &device()).into_scalar::<f32>()
    };
    let (without, with) = (slope(0.0), slope(10.0));
    assert!(with < 0.1 * without, "½ E ‖∇D‖² is {with} with R1, {without} without");
}

/// w of two layers, a constant, a modulated convolution with and one without demodulation.
#[derive(Module, Debug)]
struct Generator {
    mapping: Linear,
    constant: Param<Tensor<4>>,
    affine1: Linear,
    affine2: Linear,
    weight1: Param<Tensor<4>>,
    weight2: Param<Tensor<4>>,
    #[module(skip)]
    side: Modulate,
}

impl Generator {
    fn new(side: Modulate, init: &mut Init) -> Self {
        Self {
            mapping: LinearConfig::new(3, 10).init(init),
            constant: init.normal([1, 4, 4, 6], 0.0, 1.0),
            affine1: LinearConfig::new(5, 4).init(init),
            affine2: LinearConfig::new(5, 6).init(init),
            weight1: init.normal([6, 4, 3, 3], 0.0, 1.0),
            weight2: init.normal([3, 6, 1, 1], 0.0, 1.0),
            side,
        }
    }
}

impl Differentiable<3, 4> for Generator {
    fn apply<X: Signal<3>>(&self, w: X) -> Of<X, 3, 4> {
        let [n, _, d] = w.dims();
        let layer = |i: usize| w.clone().linear(|w| w.narrow(1, i, 1).reshape([n, d]));
        let how = |demodulate, padding| Modulation {
            demodulate,
            side: self.side,
            rate: kiln_nn::fir::Rate::Same,
            filter: &[],
            padding,
        };
        let x = Of::<X, 3, 4>::constant(self.constant.val().repeat_dim(0, n));
        let x = modulated_conv2d(x, self.weight1.val(), self.affine1.forward(layer(0)) + 1.0, how(true, 1));
        let x = activate(x, LEAKY);
        modulated_conv2d(x, self.weight2.val(), self.affine2.forward(layer(1)) + 1.0, how(false, 0))
    }
}

#[test]
fn path_lengths_have_the_penalty_of_double_backward() {
    let f = Fixtures::open("penalties");
    for dtype in [DType::F64, DType::F32] {
        for side in [Modulate::Maps, Modulate::Weights] {
            let generator = loaded(Generator::new(side, &mut Init::new(&device(), 0)), &f, "path", dtype);
            let w = generator.mapping.forward(f.tensor_of::<2>("path.z", dtype)).tanh().reshape([4, 2, 5]);
            let mut lengths = MeanLength { mean: 1.5, rate: 0.01 };
            let noise = f.tensor_of("path.noise", dtype);
            let penalty = path_length(&generator, w, noise, &mut lengths, &device());
            let mean = f.values("path.mean").1[0];
            assert!((lengths.mean - mean).abs() < 1e-6 * mean, "mean length {} instead of {mean}", lengths.mean);
            check(&format!("path.pl {side:?}"), dtype, errors(&f, "path.pl", &generator, penalty));
        }
    }
}

/// In inference mode batch normalisation is an affine map: its derivative against first-order gradients.
#[test]
fn a_tangent_in_inference_mode_is_the_directional_derivative() {
    let norm = BatchNorm2d::dcgan(3, &mut Init::new(&Device::flex(), 0));
    norm.running_mean.update(Tensor::from_data([0.3, -0.2, 0.1], &Device::flex()));
    norm.running_var.update(Tensor::from_data([0.5, 1.5, 2.0], &Device::flex()));
    let draw = |seed| normal::<4>(kiln_core::random::Key::new(seed), 0..2, [2, 3, 4, 5], &Device::flex());
    let (x, direction, upstream) = (draw(1), draw(2), draw(3));
    let tracked = x.clone().autodiff().require_grad();
    let gradients = (norm.forward(tracked.clone(), Activation::Silu) * upstream.clone()).sum().backward();
    let expected = (tracked.grad(&gradients).unwrap() * direction.clone()).sum().into_scalar::<f32>();
    let both = norm.forward(Dual::new(x.clone(), direction), Activation::Silu);
    let found = (both.tangent.unwrap() * upstream).sum().into_scalar::<f32>();
    assert!((found - expected).abs() < 1e-5 * expected.abs(), "{found} instead of {expected}");
    let off = (both.value - norm.forward(x, Activation::Silu)).abs().max().into_scalar::<f32>();
    assert!(off < 1e-6, "the value is off by {off}");
}

#[test]
fn orthogonal_weights_are_those_of_pytorch() {
    let f = Fixtures::open("penalties");
    for shape in ["6x4", "4x6", "5x3x2x2", "3x4x3x3"] {
        let (sizes, normal) = f.values(&format!("orthogonal.{shape}.normal"));
        let normal: Vec<f32> = normal.into_iter().map(|v| v as f32).collect();
        let found = kiln_nn::init::orthogonal(&normal, sizes[0]);
        let (_, expected) = f.values(&format!("orthogonal.{shape}.output"));
        for (a, e) in found.into_iter().zip(expected) {
            assert!((f64::from(a) - e).abs() < 1e-6, "{shape}: {a} instead of {e}");
        }
    }
}
