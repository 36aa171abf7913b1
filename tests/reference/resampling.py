"""Resizing, pooling, FIR resampling and modulated convolution: outputs and every gradient.

Made with Python 3.11, torch 2.15.0 (CPU), safetensors 0.8.0. Computed in double precision from inputs
representable in single precision, stored in single. What StyleGAN2 and 3 do is composed here of PyTorch's
operations as their papers and `upfirdn2d`'s documentation say: insert zeros, pad, convolve, drop.
"""

from functools import partial

import torch
import torch.nn.functional as F

from reference import begin, gradients, save

versions = begin(seed=12)
out = {}
record = partial(gradients, out)


SIZES = [((5, 7), (10, 14)), ((8, 6), (4, 3)), ((7, 9), (5, 20)), ((6, 11), (9, 4)), ((3, 1), (3, 5))]
for mode in ["nearest", "nearest-exact", "area", "bilinear", "bicubic"]:
    for antialias in [False, True] if mode in ("bilinear", "bicubic") else [False]:
        for i, (before, after) in enumerate(SIZES):
            name = f"interpolate.{mode}{'.antialias' if antialias else ''}.{i}"
            record(
                name,
                {"x": torch.randn(2, 2, *before)},
                lambda x: F.interpolate(x, size=after, mode=mode, antialias=antialias),
            )

for name, kernel, stride, padding in [("halves", 2, 2, 0), ("overlapping", 3, 2, 1), ("same", 3, 1, 1)]:
    record(
        f"avg_pool2d.{name}",
        {"x": torch.randn(2, 2, 6, 9)},
        lambda x: F.avg_pool2d(x, kernel, stride, padding),
        options=torch.tensor([kernel, stride, padding]),
    )


def upfirdn2d(x, f, up=1, down=1, padding=(0, 0, 0, 0), gain=1):
    c = x.shape[1]
    # Each pixel becomes a block of zeros with the pixel at its corner.
    corner = torch.zeros(up, up, dtype=x.dtype)
    corner[0, 0] = 1
    y = torch.kron(x, corner)
    # F.pad crops where it is negative.
    y = F.pad(y, padding)
    kernel = torch.outer(f, f).flip([0, 1]) * gain
    y = F.conv2d(y, kernel.expand(c, 1, -1, -1), groups=c)
    return y[:, :, ::down, ::down]


FIRS = {"box": [1.0, 1.0], "binomial": [1.0, 3.0, 3.0, 1.0], "uneven": [0.3, -0.2, 1.0, 0.5, 0.1]}
CASES = [
    ("binomial", 2, 1, (2, 1, 2, 1), 4.0),
    ("binomial", 1, 2, (1, 1, 1, 1), 1.0),
    ("binomial", 1, 1, (2, 1, 2, 1), 1.0),
    ("uneven", 3, 2, (4, 0, 1, 3), 2.0),
    ("uneven", 2, 1, (-2, 3, 4, -1), 1.0),
    ("uneven", 1, 3, (0, 2, 3, 0), 0.5),
    ("box", 4, 1, (1, 2, 2, 1), 16.0),
]
for i, (fir, up, down, padding, gain) in enumerate(CASES):
    f = torch.tensor(FIRS[fir]).double()
    f = f / f.sum()
    record(
        f"upfirdn2d.{i}",
        {"x": torch.randn(2, 3, 7, 6)},
        lambda x: upfirdn2d(x, f, up, down, padding, gain),
        filter=f.float(),
        options=torch.tensor([up, down, *padding]),
        gain=torch.tensor([gain]),
    )

# A convolution with up- or downsampling is, by definition, the filtered picture convolved, or the convolved one
# filtered: insert zeros, pad, filter, convolve; pad, filter, convolve, drop. No size or place is lost, so `padding`
# and the filter's reach are added up front.
f = torch.tensor(FIRS["binomial"]).double()
f = f / f.sum()
RATES = [("same", 1, 1), ("up", 2, 1), ("down", 1, 2)]


def convolve_resampled(x, weight, up, down, padding):
    taps = len(f)
    before = padding + ((taps + up - 1) // 2 if up > 1 else 0) + ((taps - down + 1) // 2 if down > 1 else 0)
    after = padding + ((taps - up) // 2 if up > 1 else 0) + ((taps - down) // 2 if down > 1 else 0)
    if up > 1:
        x = upfirdn2d(x, f, up=up, padding=(before, after, before, after), gain=up**2)
        # The transposed convolution with weights as they are: a convolution, not a correlation.
        return F.conv2d(x, weight.flip([2, 3]))
    if down > 1:
        x = upfirdn2d(x, f, padding=(before, after, before, after))
        return F.conv2d(x, weight)[:, :, ::down, ::down]
    return F.conv2d(x, weight, padding=padding)


for name, up, down in RATES:
    for k in [1, 3]:
        record(
            f"conv2d_resample.{name}.{k}",
            {"x": torch.randn(2, 3, 6, 8), "weight": 0.3 * torch.randn(4, 3, k, k)},
            lambda x, weight: convolve_resampled(x, weight, up, down, k // 2),
        )


def modulated(x, weight, styles, demodulate, up):
    samples = []
    for picture, style in zip(x, styles):
        w = weight * style[None, :, None, None]
        if demodulate:
            w = w * (w.square().sum([1, 2, 3], keepdim=True) + 1e-8).rsqrt()
        samples.append(convolve_resampled(picture[None], w, up, 1, weight.shape[2] // 2))
    return torch.cat(samples)


for name, up, _ in RATES[:2]:
    for k, demodulate in [(3, True), (1, False)]:
        record(
            f"modulated_conv2d.{name}.{k}",
            {"x": torch.randn(3, 5, 6, 4), "weight": 0.3 * torch.randn(4, 5, k, k), "styles": 1 + 0.5 * torch.randn(3, 5)},
            lambda x, weight, styles: modulated(x, weight, styles, demodulate, up),
        )

save("resampling", out, versions)
