"""Attention and the convolutions in one and three dimensions: outputs and every gradient.

Made with Python 3.11, torch 2.15.0 (CPU), safetensors 0.8.0. Computed in double precision from inputs
representable in single precision, stored in single.
"""

from functools import partial

import torch
import torch.nn.functional as F

from reference import begin, gradients, save

versions = begin(seed=11)
out = {}
record = partial(gradients, out)


def noise(*shape):
    return torch.randn(*shape).double()


def attend(name, n, heads, queries, keys, d, e, **how):
    inputs = {"q": noise(n, heads, queries, d), "k": noise(n, heads, keys, d), "v": noise(n, heads, keys, e)}
    record(f"attention.{name}", inputs, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **how))


attend("self", 2, 2, 9, 9, 4, 4)
attend("cross", 1, 3, 20, 7, 5, 6)
attend("causal", 2, 1, 11, 11, 8, 8, is_causal=True)
lengths = torch.tensor([3, 7, 1])
hidden = (torch.arange(7)[None] < lengths[:, None])[:, None, None]
attend("lengths", 3, 2, 5, 7, 4, 3, attn_mask=hidden)
out["attention.lengths.lengths"] = lengths

# options: stride, padding, dilation, output padding along each axis, then groups.
CONVOLUTIONS = {1: (F.conv1d, F.conv_transpose1d), 3: (F.conv3d, F.conv_transpose3d)}


def conv(name, n, inputs, size, outputs, kernel, stride, padding, dilation, groups=1):
    options = torch.tensor([*stride, *padding, *dilation, *[0 for _ in size], groups])
    record(
        f"conv{len(size)}d.{name}",
        {"x": noise(n, inputs, *size), "weight": 0.3 * noise(outputs, inputs // groups, *kernel), "bias": noise(outputs)},
        lambda x, weight, bias: CONVOLUTIONS[len(size)][0](x, weight, bias, stride, padding, dilation, groups),
        options=options,
    )


def transposed(name, n, inputs, size, outputs, kernel, stride, padding, dilation, extra, groups=1):
    options = torch.tensor([*stride, *padding, *dilation, *extra, groups])
    record(
        f"conv_transpose{len(size)}d.{name}",
        {"x": noise(n, inputs, *size), "weight": 0.3 * noise(inputs, outputs // groups, *kernel), "bias": noise(outputs)},
        lambda x, weight, bias: CONVOLUTIONS[len(size)][1](x, weight, bias, stride, padding, extra, groups, dilation),
        options=options,
    )


conv("same", 2, 3, (17,), 4, (3,), (1,), (1,), (1,))
conv("strided", 3, 4, (20,), 6, (5,), (3,), (2,), (2,), groups=2)
conv("same", 2, 2, (4, 5, 6), 3, (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1))
conv("strided", 1, 3, (6, 4, 4), 2, (4, 4, 4), (2, 2, 2), (1, 1, 1), (1, 1, 1))
conv("pointwise", 2, 3, (2, 3, 2), 4, (1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1))
conv("grouped", 2, 4, (5, 4, 3), 6, (2, 3, 1), (2, 1, 1), (1, 2, 0), (2, 1, 1), groups=2)
transposed("double", 2, 3, (7,), 4, (4,), (2,), (1,), (1,), (0,))
transposed("uneven", 1, 4, (6,), 6, (3,), (3,), (1,), (2,), (2,), groups=2)
transposed("double", 1, 3, (3, 2, 4), 2, (4, 4, 4), (2, 2, 2), (1, 1, 1), (1, 1, 1), (0, 0, 0))
transposed("grouped", 2, 4, (3, 3, 2), 6, (3, 2, 3), (3, 1, 2), (1, 0, 1), (1, 2, 1), (2, 1, 1), groups=2)

save("operations", out, versions)
