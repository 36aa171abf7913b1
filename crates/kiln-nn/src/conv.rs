//! Two-dimensional convolution and its transpose.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use kiln_kernels::{ConvOptions, conv_transpose2d, conv2d};

use crate::dual::{Pass, Signal};
use crate::parametrization::{Parametrization, Parametrized};
use crate::{Init, WeightInit, cost};

/// Settings of a [`Conv2d`] or a [`ConvTranspose2d`]: PyTorch's defaults where
/// [`Conv2dConfig::new`] leaves them. A layer that differs says in what:
///
/// ```
/// # use kiln_nn::{Conv2dConfig, WeightInit};
/// let halve = Conv2dConfig { stride: 2, padding: 1, weight: WeightInit::He, ..Conv2dConfig::new(64, 128, 4) };
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Conv2dConfig {
    /// Channels that go in.
    pub inputs: usize,
    /// Channels that come out.
    pub outputs: usize,
    /// Rows and columns of the window.
    pub kernel: [usize; 2],
    /// Step between windows: of the input, or of the output if transposed.
    pub stride: usize,
    /// Zeros added on each side of the input; transposed, rows and columns cut from each side of the output.
    pub padding: usize,
    /// Rows and columns added at the bottom and right of a transposed convolution's output. Must be 0 otherwise.
    pub output_padding: usize,
    /// Distance between the window's taps.
    pub dilation: usize,
    /// Independent groups of channels.
    pub groups: usize,
    /// Whether there is a bias; a normalisation that follows has its own.
    pub bias: bool,
    /// How the weight is drawn; the bias is zero unless the weight is [`WeightInit::FanIn`].
    pub weight: WeightInit,
    /// What the weight goes through before use.
    pub parametrization: Parametrization,
}

impl Conv2dConfig {
    /// `inputs` → `outputs` channels with a `kernel`×`kernel` window.
    pub fn new(inputs: usize, outputs: usize, kernel: usize) -> Self {
        Self {
            inputs,
            outputs,
            kernel: [kernel; 2],
            stride: 1,
            padding: 0,
            output_padding: 0,
            dilation: 1,
            groups: 1,
            bias: true,
            weight: WeightInit::FanIn,
            parametrization: Parametrization::Direct,
        }
    }

    /// A 3×3 window that keeps the size.
    pub fn same3(inputs: usize, outputs: usize) -> Self {
        Self { padding: 1, ..Self::new(inputs, outputs, 3) }
    }

    /// Makes a convolution.
    pub fn init(&self, init: &mut Init) -> Conv2d {
        assert!(self.output_padding == 0, "only a transposed convolution has an output padding: {self:?}");
        let (weight, bias) = self.parameters([self.outputs, self.inputs / self.groups], init);
        let parametrization = self.parametrization.init(&weight, 0, self.fan_in(), init);
        Conv2d { weight, bias, parametrization, options: self.options() }
    }

    /// Makes a transposed convolution.
    pub fn init_transposed(&self, init: &mut Init) -> ConvTranspose2d {
        let (weight, bias) = self.parameters([self.inputs, self.outputs / self.groups], init);
        let parametrization = self.parametrization.init(&weight, 1, self.fan_in(), init);
        let (options, output_padding) = (self.options(), self.output_padding);
        ConvTranspose2d { weight, bias, parametrization, options, output_padding }
    }

    /// Inputs of an output.
    fn fan_in(&self) -> usize {
        self.inputs / self.groups * self.kernel[0] * self.kernel[1]
    }

    /// A weight of these channels and a bias. To draw them, PyTorch counts the second dimension of the weight as fan-in,
    /// which is the outputs of a transposed convolution.
    fn parameters(&self, channels: [usize; 2], init: &mut Init) -> (Param<Tensor<4>>, Option<Param<Tensor<1>>>) {
        let [kh, kw] = self.kernel;
        let fan_in = channels[1] * kh * kw;
        let how = self.parametrization.drawn(self.weight);
        let weight = init.weight([channels[0], channels[1], kh, kw], fan_in, how);
        (weight, self.bias.then(|| init.bias(self.outputs, fan_in, how)))
    }

    fn options(&self) -> ConvOptions {
        ConvOptions {
            stride: [self.stride; 2],
            padding: [self.padding; 2],
            dilation: [self.dilation; 2],
            groups: self.groups,
        }
    }
}

/// Convolution over `[n, channels, height, width]`.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out, in / groups, kh, kw]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// What the weight goes through.
    pub parametrization: Parametrized,
    #[module(skip)]
    options: ConvOptions,
}

impl Conv2d {
    /// Weight and bias as the layer uses them in a pass of this kind, for another convolution than its own:
    /// [`crate::modulated::modulated_conv2d`] with StyleGAN's equalised weights.
    ///
    /// # Shapes
    /// `[out, in / groups, kh, kw]` and `[out]`
    pub fn effective<P: Pass>(&self) -> (Tensor<4>, Option<Tensor<1>>) {
        self.parametrization.apply::<P, 4>(&self.weight, self.bias.as_ref())
    }

    /// # Shapes
    /// `[n, in, h, w]` → `[n, out, (h + 2·padding − dilation·(k − 1) − 1) / stride + 1, …]`
    pub fn forward<X: Signal<4>>(&self, x: X) -> X {
        let (weight, bias) = self.effective::<X::Pass>();
        let y = x.affine(bias, |x, bias| conv2d(x, weight.clone(), bias, self.options));
        let ([n, outputs, height, width], [_, inputs, kh, kw]) = (y.dims(), self.weight.dims());
        cost::count(&[n, outputs, height, width, inputs, kh, kw]);
        y
    }
}

/// Transposed convolution over `[n, channels, height, width]`.
#[derive(Module, Debug)]
pub struct ConvTranspose2d {
    /// `[in, out / groups, kh, kw]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// What the weight goes through.
    pub parametrization: Parametrized,
    #[module(skip)]
    options: ConvOptions,
    #[module(skip)]
    output_padding: usize,
}

impl ConvTranspose2d {
    /// # Shapes
    /// `[n, in, h, w]` → `[n, out, (h − 1)·stride − 2·padding + k + output_padding, …]`
    pub fn forward<X: Signal<4>>(&self, x: X) -> X {
        let (weight, bias) = self.parametrization.apply::<X::Pass, 4>(&self.weight, self.bias.as_ref());
        let ([n, inputs, height, width], [_, outputs, kh, kw]) = (x.dims(), self.weight.dims());
        cost::count(&[n, inputs, height, width, outputs, kh, kw]);
        let plain = self.options == ConvOptions { stride: self.options.stride, ..ConvOptions::default() };
        if [height, width] == [1, 1] && plain && self.output_padding == 0 {
            return x.affine(bias, |x, bias| project(x, weight.clone(), bias));
        }
        x.affine(bias, |x, bias| conv_transpose2d(x, weight.clone(), bias, self.options, [self.output_padding; 2]))
    }
}

/// A transposed convolution of one pixel, which is a matrix product: DCGAN's projection of z.
///
/// # Shapes
/// `[n, in, 1, 1]`, `[in, out, k, k]`, `[out]` → `[n, out, k, k]`
fn project(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<4> {
    let (n, [inputs, outputs, kh, kw]) = (x.dims()[0], weight.dims());
    let y = x.reshape([n, inputs]).matmul(weight.reshape([inputs, outputs * kh * kw]));
    let y = y.reshape([n, outputs, kh, kw]);
    match bias {
        Some(bias) => y + bias.reshape([1, outputs, 1, 1]),
        None => y,
    }
}
