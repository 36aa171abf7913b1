//! Convolutions in one and in three dimensions, made of those in two.
//!
//! A sequence is a picture of one row. A volume is a batch of pictures, one for each place of the kernel
//! along depth, whose channels are those of all the slices the kernel's taps meet there: a [`Filter`] along
//! depth that copies slices gathers them, and its transpose adds up what a transposed convolution spreads.
//! In memory a volume's slices stay together, `[n, depth, channels, height, width]`; the results are views of
//! that, and reading one takes no copy.

use crate::{ConvOptions, Filter, check_bias, conv_transpose2d, conv2d, resample};
use burn::tensor::Tensor;

/// One-dimensional convolution (cross-correlation).
///
/// `x` is `[n, in, l]`, `weight` `[out, in / groups, k]`, `bias` `[out]`; the result is `[n, out, ol]`. For the
/// rest see [`conv2d`].
pub fn conv1d(x: Tensor<3>, weight: Tensor<3>, bias: Option<Tensor<1>>, options: ConvOptions<1>) -> Tensor<3> {
    options.check("conv1d", x.dims(), weight.dims());
    conv2d(x.unsqueeze_dim(2), weight.unsqueeze_dim(2), bias, of_a_row(options)).squeeze_dim(2)
}

/// Transposed one-dimensional convolution, with PyTorch's meaning of every argument.
///
/// `x` is `[n, in, l]`, `weight` `[in, out / groups, k]`, `bias` `[out]`; the result is `[n, out, ol]`. For the
/// rest see [`conv_transpose2d`].
pub fn conv_transpose1d(
    x: Tensor<3>,
    weight: Tensor<3>,
    bias: Option<Tensor<1>>,
    options: ConvOptions<1>,
    output_padding: [usize; 1],
) -> Tensor<3> {
    options.check_transposed("conv_transpose1d", x.dims(), weight.dims(), output_padding);
    let output_padding = [0, output_padding[0]];
    conv_transpose2d(x.unsqueeze_dim(2), weight.unsqueeze_dim(2), bias, of_a_row(options), output_padding)
        .squeeze_dim(2)
}

/// Three-dimensional convolution (cross-correlation).
///
/// `x` is `[n, in, d, h, w]`, `weight` `[out, in / groups, kd, kh, kw]`, `bias` `[out]`; the result is
/// `[n, out, od, oh, ow]`. For the rest see [`conv2d`].
pub fn conv3d(x: Tensor<5>, weight: Tensor<5>, bias: Option<Tensor<1>>, options: ConvOptions<3>) -> Tensor<5> {
    let ([n, _, depth, h, w], [out, per_group, kd, kh, kw]) = (x.dims(), weight.dims());
    let groups = options.groups;
    let (inputs, outputs) = options.check("conv3d", x.dims(), weight.dims());
    let gather = slices(depth, outputs[0], kd, &options);

    let x = x.permute([0, 2, 1, 3, 4]).reshape([n, depth, groups, per_group * h * w]).permute([0, 2, 1, 3]);
    let x = resample(x, &gather, &Filter::identity(per_group * h * w));
    let x = x.reshape([n, groups, outputs[0], kd * per_group * h * w]).permute([0, 2, 1, 3]);
    let x = x.reshape([n * outputs[0], kd * inputs, h, w]);
    let weight = weight.permute([0, 2, 1, 3, 4]).reshape([out, kd * per_group, kh, kw]);
    let y = conv2d(x, weight, bias, of_a_slice(options));
    y.reshape([n, outputs[0], out, outputs[1], outputs[2]]).permute([0, 2, 1, 3, 4])
}

/// Transposed three-dimensional convolution, with PyTorch's meaning of every argument.
///
/// `x` is `[n, in, d, h, w]`, `weight` `[in, out / groups, kd, kh, kw]`, `bias` `[out]`; the result is
/// `[n, out, od, oh, ow]`. For the rest see [`conv_transpose2d`].
pub fn conv_transpose3d(
    x: Tensor<5>,
    weight: Tensor<5>,
    bias: Option<Tensor<1>>,
    options: ConvOptions<3>,
    output_padding: [usize; 3],
) -> Tensor<5> {
    let ([n, c, depth, h, w], [_, per_group, kd, kh, kw]) = (x.dims(), weight.dims());
    let groups = options.groups;
    let (out, [od, oh, ow]) = options.check_transposed("conv_transpose3d", x.dims(), weight.dims(), output_padding);
    check_bias("conv_transpose3d", bias.as_ref(), out);
    let spread = slices(od, depth, kd, &options).transposed();

    let x = x.permute([0, 2, 1, 3, 4]).reshape([n * depth, c, h, w]);
    let weight = weight.permute([0, 2, 1, 3, 4]).reshape([c, kd * per_group, kh, kw]);
    let output_padding = [output_padding[1], output_padding[2]];
    let y = conv_transpose2d(x, weight, None, of_a_slice(options), output_padding);
    let y = y.reshape([n, depth, groups, kd * per_group * oh * ow]).permute([0, 2, 1, 3]);
    let y = resample(
        y.reshape([n, groups, depth * kd, per_group * oh * ow]),
        &spread,
        &Filter::identity(per_group * oh * ow),
    );
    let y = y.permute([0, 2, 1, 3]).reshape([n, od, out, oh, ow]).permute([0, 2, 1, 3, 4]);
    match bias {
        Some(bias) => y + bias.reshape([1, out, 1, 1, 1]),
        None => y,
    }
}

/// The slices, of `depth`, that the taps of a kernel meet at each of its `places`: `places * taps` copies,
/// nothing where a tap meets the padding.
fn slices(depth: usize, places: usize, taps: usize, options: &ConvOptions<3>) -> Filter {
    let met = |i: usize| {
        let at = i / taps * options.stride[0] + i % taps * options.dilation[0];
        at.checked_sub(options.padding[0]).filter(|slice| *slice < depth)
    };
    Filter::new(depth, (0..places * taps).map(|i| met(i).map(|slice| (slice, 1.0)).into_iter().collect()))
}

fn of_a_row(o: ConvOptions<1>) -> ConvOptions {
    ConvOptions { stride: [1, o.stride[0]], padding: [0, o.padding[0]], dilation: [1, o.dilation[0]], groups: o.groups }
}

fn of_a_slice(o: ConvOptions<3>) -> ConvOptions {
    let last = |[_, h, w]: [usize; 3]| [h, w];
    ConvOptions { stride: last(o.stride), padding: last(o.padding), dilation: last(o.dilation), groups: o.groups }
}
