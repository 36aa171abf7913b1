"""Golden values for kiln-kernels, from PyTorch: writes kernels.safetensors beside this file.

Made with Python 3.11, torch 2.15.0 (CPU), safetensors 0.8.0. Run: python kernels.py
Each case stores its inputs, its output `y` and the gradients of sum(y * g) in every input.
Convolutions: options as an integer tensor [stride 2, padding 2, dilation 2, groups, output padding 2].
Computed in double precision from inputs representable in single precision, stored in single.
"""

import os

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(20240611)
tensors = {}


def noise(*shape):
    return torch.randn(*shape).double()


def record(name, inputs, function, extra={}):
    inputs = {k: v.float().double().requires_grad_() for k, v in inputs.items()}
    y = function(**inputs)
    g = noise(*y.shape)
    (y * g).sum().backward()
    for k, v in {"y": y, "g": g, **inputs, **extra}.items():
        v = v.detach()
        tensors[f"{name}.{k}"] = (v.float() if v.is_floating_point() else v.int()).contiguous()
    for k, v in inputs.items():
        tensors[f"{name}.d{k}"] = v.grad.float().contiguous()


def conv(name, n, cin, size, cout, kernel, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    options = torch.tensor([*stride, *padding, *dilation, groups, 0, 0])
    record(
        "conv." + name,
        {"x": noise(n, cin, *size), "w": noise(cout, cin // groups, *kernel) * 0.3, "b": noise(cout)},
        lambda x, w, b: F.conv2d(x, w, b, stride, padding, dilation, groups),
        {"options": options},
    )


def transposed(name, n, cin, size, cout, kernel, stride=(1, 1), padding=(0, 0), output_padding=(0, 0),
               dilation=(1, 1), groups=1):
    options = torch.tensor([*stride, *padding, *dilation, groups, *output_padding])
    record(
        "transposed." + name,
        {"x": noise(n, cin, *size), "w": noise(cin, cout // groups, *kernel) * 0.3, "b": noise(cout)},
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride, padding, output_padding, groups, dilation),
        {"options": options},
    )


ACTIVATIONS = {
    "none": lambda z: z,
    "relu": F.relu,
    "leaky": lambda z: F.leaky_relu(z, 0.2),
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
}


def affine(channels):
    return {"gamma": 1 + 0.3 * noise(channels), "beta": 0.5 * noise(channels)}


def group(name, n, channels, size, groups, activation):
    record(
        f"group.{name}",
        {"x": 2 * noise(n, channels, *size) + 1.5, **affine(channels)},
        lambda x, gamma, beta: ACTIVATIONS[activation](F.group_norm(x, groups, gamma, beta, 1e-5)),
        {"groups": torch.tensor([groups])},
    )


def batch(name, n, channels, size, activation):
    x = 2 * noise(n, channels, *size) - 0.7
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    record(
        f"batch.{name}",
        {"x": x, **affine(channels)},
        lambda x, gamma, beta: ACTIVATIONS[activation](
            F.batch_norm(x, None, None, gamma, beta, training=True, eps=1e-5)
        ),
        {"mean": mean, "var": var},
    )


conv("same", 2, 3, (7, 9), 4, (3, 3), padding=(1, 1))
conv("strided", 2, 4, (9, 8), 6, (4, 4), (2, 2), (1, 1))
conv("pointwise", 1, 5, (4, 6), 7, (1, 1))
conv("dilated", 1, 2, (11, 10), 3, (3, 3), (2, 1), (2, 2), (2, 2))
conv("depthwise", 2, 6, (6, 5), 6, (3, 3), padding=(1, 1), groups=6)
conv("grouped", 1, 4, (8, 7), 6, (3, 1), padding=(1, 0), groups=2)
conv("large", 1, 2, (12, 12), 2, (7, 7), (2, 2), (3, 3))
transposed("double", 2, 4, (4, 5), 3, (4, 4), (2, 2), (1, 1))
transposed("uneven", 1, 3, (5, 4), 4, (3, 3), (2, 2), (1, 1), (1, 1))
transposed("dilated", 1, 2, (4, 4), 3, (3, 2), (1, 2), (0, 1), (1, 2), (2, 3))
transposed("grouped", 2, 4, (3, 4), 6, (3, 3), (3, 2), (0, 0), (2, 1), groups=2)
for activation in ["none", "relu", "leaky", "silu"]:
    group(activation, 2, 6, (5, 7), 3, activation)
    batch(activation, 3, 4, (5, 4), activation)
group("instance", 2, 5, (4, 6), 5, "relu")
group("layer", 2, 4, (3, 3), 1, "silu")
for activation in ["gelu", "gelu_tanh"]:
    group(activation, 2, 6, (5, 7), 3, activation)
    batch(activation, 3, 4, (5, 4), activation)


def conditional(name, n, channels, size, activation, shape, norm, extra={}):
    """A normalisation without parameters, then a scale and a shift of another shape."""
    scale, shift = 1 + 0.3 * noise(*shape), 0.5 * noise(*shape)
    spread = lambda v: v if v.dim() == 4 else v[:, :, None, None]
    record(
        name,
        {"x": 2 * noise(n, channels, *size) + 1.5, "gamma": scale, "beta": shift},
        lambda x, gamma, beta: ACTIVATIONS[activation](norm(x) * spread(gamma) + spread(beta)),
        extra,
    )


def layer(name, shape, activation, per_sample=False):
    c = shape[-1]
    plain = {"x": 2 * noise(*shape) - 0.5, **affine(c)}
    sample = {"gamma": 1 + 0.3 * noise(shape[0], c), "beta": 0.5 * noise(shape[0], c)}
    spread = lambda v: v.reshape(shape[0], *[1] * (len(shape) - 2), c)
    record(
        f"rows.{activation}.{name}",
        {**plain, **(sample if per_sample else {})},
        (lambda x, gamma, beta: ACTIVATIONS[activation](F.layer_norm(x, [c]) * spread(gamma) + spread(beta)))
        if per_sample
        else (lambda x, gamma, beta: ACTIVATIONS[activation](F.layer_norm(x, [c], gamma, beta))),
    )


groups = {"groups": torch.tensor([3])}
conditional("group.silu.sample", 2, 6, (5, 7), "silu", (2, 6), lambda x: F.group_norm(x, 3), groups)
conditional("group.relu.pixel", 2, 6, (5, 7), "relu", (2, 6, 5, 7), lambda x: F.group_norm(x, 3), groups)
statistics = {"running_mean": noise(4), "running_var": noise(4).square() + 0.5}
statistics = {k: v.float().double() for k, v in statistics.items()}
train = lambda x: F.batch_norm(x, None, None, training=True)
infer = lambda x: F.batch_norm(x, statistics["running_mean"], statistics["running_var"], training=False)
conditional("batch.relu.sample", 3, 4, (5, 4), "relu", (3, 4), train)
conditional("batch.leaky.pixel", 3, 4, (5, 4), "leaky", (3, 4, 5, 4), train)
conditional("inference.gelu.sample", 3, 4, (5, 4), "gelu", (3, 4), infer, statistics)
record(
    "inference.silu.channel",
    {"x": 2 * noise(3, 4, 5, 4), **affine(4)},
    lambda x, gamma, beta: F.silu(F.batch_norm(x, *statistics.values(), gamma, beta)),
    statistics,
)
layer("channel", (2, 3, 2, 6), "none")
layer("narrow", (3, 1, 5, 3), "gelu")
layer("sample", (2, 4, 3, 35), "gelu_tanh", per_sample=True)
for activation in ACTIVATIONS:
    record(
        f"sum.{activation}",
        {"x": 2 * noise(2, 3, 2, 5), "z": noise(2, 3, 2, 5)},
        lambda x, z: ACTIVATIONS[activation](x + z),
    )

save_file(tensors, os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernels.safetensors"))
