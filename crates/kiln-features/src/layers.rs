//! Frozen layers: convolutions with the batch normalisation after them folded in, and pooling.

use burn::module::{Param, ParamId};
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Device, Tensor};
use kiln_core::{Context, Result};
use kiln_kernels::{ConvOptions, conv2d};
use kiln_nn::Linear;
use kiln_nn::tensor::from_values;

use crate::WeightsFile;

/// Makes the layers of one network from a file.
pub(crate) struct Loader<'a> {
    pub(crate) file: &'a WeightsFile,
    /// The network's name, which errors begin with.
    pub(crate) net: &'static str,
    pub(crate) device: &'a Device,
    /// ε of the network's batch normalisation.
    pub(crate) eps: f64,
}

/// The window of a convolution.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    kernel: [usize; 2],
    stride: usize,
    padding: [usize; 2],
    groups: usize,
    /// Whether the size decides on the padding: see [`Window::tensorflow`].
    tensorflow: bool,
}

impl Window {
    pub(crate) const fn square(kernel: usize, stride: usize, padding: usize) -> Self {
        Self { kernel: [kernel; 2], stride, padding: [padding; 2], groups: 1, tensorflow: false }
    }

    /// Of odd `height` and `width`, padded so that the size is kept.
    pub(crate) const fn same(height: usize, width: usize) -> Self {
        Self { kernel: [height, width], stride: 1, padding: [height / 2, width / 2], groups: 1, tensorflow: false }
    }

    /// Padded as TensorFlow's `SAME`: as little as gives ⌈size / stride⌉ outputs, the odd pixel at the end.
    pub(crate) const fn tensorflow(kernel: usize, stride: usize) -> Self {
        Self { kernel: [kernel; 2], stride, padding: [0; 2], groups: 1, tensorflow: true }
    }

    /// Each of `channels` channels by itself.
    pub(crate) fn depthwise(self, channels: usize) -> Self {
        Self { groups: channels, ..self }
    }
}

/// A convolution whose weights never change.
#[derive(Debug)]
pub(crate) struct Conv {
    weight: Tensor<4>,
    bias: Tensor<1>,
    options: ConvOptions,
    tensorflow: bool,
}

impl Conv {
    /// `[n, in, h, w]` → `[n, out, …]`. The kernel must not exceed the padded input.
    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = if self.tensorflow { self.padded(x) } else { x };
        conv2d(x, self.weight.clone(), Some(self.bias.clone()), self.options)
    }

    /// With the zeros of [`Window::tensorflow`] around it.
    fn padded(&self, x: Tensor<4>) -> Tensor<4> {
        let ([_, _, height, width], [_, _, kernel, _]) = (x.dims(), self.weight.dims());
        let stride = self.options.stride[0];
        let lacks = |size: usize| (size.div_ceil(stride).saturating_sub(1) * stride + kernel).saturating_sub(size);
        let (rows, columns) = (lacks(height), lacks(width));
        match rows + columns {
            0 => x,
            _ => x.pad((columns / 2, columns.div_ceil(2), rows / 2, rows.div_ceil(2)), 0.0),
        }
    }
}

impl Loader<'_> {
    pub(crate) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.file.values(name, shape).context(|| self.net)
    }

    /// `path.weight` and `path.bias`.
    pub(crate) fn conv(&self, path: &str, [inputs, outputs]: [usize; 2], window: Window) -> Result<Conv> {
        let weight = self.values(&format!("{path}.weight"), &window.shape(inputs, outputs))?;
        let bias = self.values(&format!("{path}.bias"), &[outputs])?;
        Ok(self.made(weight, bias, inputs, window))
    }

    /// `conv.weight` with the batch normalisation `norm` folded in:
    /// γ (w∗x − μ) / √(σ² + ε) + β = (s w)∗x + (β − s μ) with s = γ / √(σ² + ε).
    pub(crate) fn normed(&self, conv: &str, norm: &str, [inputs, outputs]: [usize; 2], window: Window) -> Result<Conv> {
        let mut weight = self.values(&format!("{conv}.weight"), &window.shape(inputs, outputs))?;
        let vector = |name: &str| self.values(&format!("{norm}.{name}"), &[outputs]);
        let (gamma, mut beta, mean, var) =
            (vector("weight")?, vector("bias")?, vector("running_mean")?, vector("running_var")?);
        let per_output = weight.len() / outputs;
        for (o, taps) in weight.chunks_exact_mut(per_output).enumerate() {
            let scale = f64::from(gamma[o]) / (f64::from(var[o]) + self.eps).sqrt();
            taps.iter_mut().for_each(|w| *w = (f64::from(*w) * scale) as f32);
            beta[o] = (f64::from(beta[o]) - scale * f64::from(mean[o])) as f32;
        }
        Ok(self.made(weight, beta, inputs, window))
    }

    /// A convolution of these values.
    pub(crate) fn made(&self, weight: Vec<f32>, bias: Vec<f32>, inputs: usize, window: Window) -> Conv {
        let outputs = bias.len();
        let Window { stride, padding, groups, tensorflow, .. } = window;
        Conv {
            weight: from_values(weight, window.shape(inputs, outputs), self.device),
            bias: from_values(bias, [outputs], self.device),
            options: ConvOptions { stride: [stride; 2], padding, dilation: [1; 2], groups },
            tensorflow,
        }
    }

    /// `path.weight` without its bias.
    pub(crate) fn linear_alone(&self, path: &str, [inputs, outputs]: [usize; 2]) -> Result<Linear> {
        let weight = self.values(&format!("{path}.weight"), &[outputs, inputs])?;
        let weight = from_values(weight, [outputs, inputs], self.device);
        Ok(Linear::from_parameters(Param::initialized(ParamId::new(), weight), None))
    }

    /// `path.bias`.
    pub(crate) fn bias(&self, path: &str, outputs: usize) -> Result<Tensor<1>> {
        Ok(from_values(self.values(&format!("{path}.bias"), &[outputs])?, [outputs], self.device))
    }

    /// `path.weight` and `path.bias`.
    pub(crate) fn linear(&self, path: &str, channels: [usize; 2]) -> Result<Linear> {
        let weight = self.linear_alone(path, channels)?;
        let bias = Param::initialized(ParamId::new(), self.bias(path, channels[1])?);
        Ok(Linear { bias: Some(bias), ..weight })
    }
}

impl Window {
    fn shape(&self, inputs: usize, outputs: usize) -> [usize; 4] {
        [outputs, inputs / self.groups, self.kernel[0], self.kernel[1]]
    }
}

/// The largest value of each `kernel`×`kernel` window, without padding.
pub(crate) fn max_pool(x: Tensor<4>, kernel: usize, stride: usize) -> Tensor<4> {
    max_pool2d(x, MaxPoolOptions::new([kernel; 2]).with_stride([stride; 2]))
}
