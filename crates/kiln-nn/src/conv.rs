//! Two-dimensional convolution and its transpose.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use kiln_kernels::{ConvOptions, conv_transpose2d, conv2d};

use crate::{Init, Weights, cost};

/// Settings of a [`Conv2d`]: PyTorch's defaults (stride 1, padding 0, bias).
#[derive(Clone, Debug)]
pub struct Conv2dConfig {
    channels: [usize; 2],
    kernel: [usize; 2],
    stride: usize,
    padding: usize,
    dilation: usize,
    groups: usize,
    bias: bool,
    weights: Weights,
}

impl Conv2dConfig {
    /// `inputs` → `outputs` channels with a `kernel`×`kernel` window.
    pub fn new(inputs: usize, outputs: usize, kernel: usize) -> Self {
        Self {
            channels: [inputs, outputs],
            kernel: [kernel; 2],
            stride: 1,
            padding: 0,
            dilation: 1,
            groups: 1,
            bias: true,
            weights: Weights::FanIn,
        }
    }

    /// A 3×3 window that keeps the size.
    pub fn same3(inputs: usize, outputs: usize) -> Self {
        Self::new(inputs, outputs, 3).padding(1)
    }

    /// A window of another height and width.
    pub fn kernel(mut self, kernel: [usize; 2]) -> Self {
        self.kernel = kernel;
        self
    }

    /// Step between windows.
    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = stride;
        self
    }

    /// Zeros added on each side.
    pub fn padding(mut self, padding: usize) -> Self {
        self.padding = padding;
        self
    }

    /// Distance between the window's taps.
    pub fn dilation(mut self, dilation: usize) -> Self {
        self.dilation = dilation;
        self
    }

    /// Independent groups of channels.
    pub fn groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// Without a bias (a normalisation follows).
    pub fn no_bias(mut self) -> Self {
        self.bias = false;
        self
    }

    /// How the weight is drawn; the bias is zero unless the weight is [`Weights::FanIn`].
    pub fn weights(mut self, weights: Weights) -> Self {
        self.weights = weights;
        self
    }

    /// Makes the layer.
    pub fn init(&self, init: &mut Init) -> Conv2d {
        let [inputs, outputs] = self.channels;
        let [kh, kw] = self.kernel;
        let fan_in = inputs / self.groups * kh * kw;
        Conv2d {
            weight: init.weight([outputs, inputs / self.groups, kh, kw], fan_in, self.weights),
            bias: self.bias.then(|| bias(init, outputs, fan_in, self.weights)),
            options: ConvOptions {
                stride: [self.stride; 2],
                padding: [self.padding; 2],
                dilation: [self.dilation; 2],
                groups: self.groups,
            },
        }
    }
}

/// PyTorch draws biases like weights; every explicit initialisation in the papers sets them to 0.
pub(crate) fn bias(init: &mut Init, len: usize, fan_in: usize, weights: Weights) -> Param<Tensor<1>> {
    init.weight([len], fan_in, if weights == Weights::FanIn { Weights::FanIn } else { Weights::Zero })
}

/// Convolution over `[n, channels, height, width]`.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out, in / groups, kh, kw]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    options: ConvOptions,
}

impl Conv2d {
    /// # Shapes
    /// `[n, in, h, w]` → `[n, out, (h + 2·padding − dilation·(k − 1) − 1) / stride + 1, …]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = conv2d(x, self.weight.val(), self.bias.as_ref().map(Param::val), self.options);
        let ([n, outputs, height, width], [_, inputs, kh, kw]) = (y.dims(), self.weight.dims());
        cost::count(&[n, outputs, height, width, inputs, kh, kw]);
        y
    }
}

/// Settings of a [`ConvTranspose2d`]: PyTorch's defaults.
#[derive(Clone, Debug)]
pub struct ConvTranspose2dConfig {
    channels: [usize; 2],
    kernel: [usize; 2],
    stride: usize,
    padding: usize,
    output_padding: usize,
    bias: bool,
    weights: Weights,
}

impl ConvTranspose2dConfig {
    /// `inputs` → `outputs` channels with a `kernel`×`kernel` window.
    pub fn new(inputs: usize, outputs: usize, kernel: usize) -> Self {
        Self {
            channels: [inputs, outputs],
            kernel: [kernel; 2],
            stride: 1,
            padding: 0,
            output_padding: 0,
            bias: true,
            weights: Weights::FanIn,
        }
    }

    /// A window of another height and width.
    pub fn kernel(mut self, kernel: [usize; 2]) -> Self {
        self.kernel = kernel;
        self
    }

    /// Step between windows of the output.
    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = stride;
        self
    }

    /// Rows and columns cut from each side of the output.
    pub fn padding(mut self, padding: usize) -> Self {
        self.padding = padding;
        self
    }

    /// Rows and columns added at the bottom and right of the output.
    pub fn output_padding(mut self, padding: usize) -> Self {
        self.output_padding = padding;
        self
    }

    /// Without a bias (a normalisation follows).
    pub fn no_bias(mut self) -> Self {
        self.bias = false;
        self
    }

    /// How the weight is drawn.
    pub fn weights(mut self, weights: Weights) -> Self {
        self.weights = weights;
        self
    }

    /// Makes the layer.
    pub fn init(&self, init: &mut Init) -> ConvTranspose2d {
        let [inputs, outputs] = self.channels;
        let [kh, kw] = self.kernel;
        // PyTorch counts the second dimension of the weight as fan-in, here the outputs.
        let fan_in = outputs * kh * kw;
        ConvTranspose2d {
            weight: init.weight([inputs, outputs, kh, kw], fan_in, self.weights),
            bias: self.bias.then(|| bias(init, outputs, fan_in, self.weights)),
            options: ConvOptions { stride: [self.stride; 2], padding: [self.padding; 2], dilation: [1; 2], groups: 1 },
            output_padding: self.output_padding,
        }
    }
}

/// Transposed convolution over `[n, channels, height, width]`.
#[derive(Module, Debug)]
pub struct ConvTranspose2d {
    /// `[in, out, kh, kw]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    options: ConvOptions,
    #[module(skip)]
    output_padding: usize,
}

impl ConvTranspose2d {
    /// # Shapes
    /// `[n, in, h, w]` → `[n, out, (h − 1)·stride − 2·padding + k + output_padding, …]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let bias = self.bias.as_ref().map(Param::val);
        let ([n, inputs, height, width], [_, outputs, kh, kw]) = (x.dims(), self.weight.dims());
        cost::count(&[n, inputs, height, width, outputs, kh, kw]);
        if x.dims()[2..] == [1, 1] && self.options.padding == [0, 0] && self.output_padding == 0 {
            return project(x, self.weight.val(), bias);
        }
        conv_transpose2d(x, self.weight.val(), bias, self.options, [self.output_padding; 2])
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
