"""Style transfer: Gram matrices and total variation.

Made with torch==2.15.0. <name>.<input>, .output, .grad_output, .grad_<input> as in losses.py.
"""

import torch

from reference import begin, gradients, save

versions = begin(seed=31)
out = {}


def gram(x):
    n, c, h, w = x.shape
    return torch.einsum("nchw,ndhw->ncd", x, x) / (h * w)


def total_variation(x):
    return ((x[:, :, 1:] - x[:, :, :-1]).abs().mean() + (x[..., 1:] - x[..., :-1]).abs().mean()).reshape(1)


gradients(out, "gram", {"x": torch.randn(2, 3, 4, 5)}, gram)
gradients(out, "tv", {"x": torch.randn(2, 3, 4, 5)}, total_variation)
save("style", out, versions)
