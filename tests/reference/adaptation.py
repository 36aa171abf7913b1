"""Losses of deep domain adaptation, in PyTorch, written after the authors' code.

Made with torch==2.15.0 and

    python adaptation.py

mmd: as in DAN's code (Long 2015; kernel_mul 2, kernel_num 5), a mean of the kernels in place of their sum. difference: as in
tensorflow/models, research/domain_adaptation/domain_separation/losses.py. pairwise: Bousmalis 2016, equation 4, under a mask.
<name>.<input>, .output, .grad_output, .grad_<input> as in losses.py.
"""

import torch
import torch.nn.functional as F

from reference import begin, gradients, save

versions = begin(seed=41)
out = {}


def mmd_linear(x, y):
    delta = x.mean(0) - y.mean(0)
    return delta.dot(delta).reshape(1)


def mmd(x, y, bandwidths=(0.25, 0.5, 1.0, 2.0, 4.0)):
    total = torch.cat([x, y])
    m, n = len(x), len(total)
    distances = (total[None] - total[:, None]).pow(2).sum(2)
    scale = distances.detach().sum() / (n * n - n)
    kernel = sum(torch.exp(-distances / (scale * b)) for b in bandwidths) / len(bandwidths)
    return (kernel[:m, :m].mean() + kernel[m:, m:].mean() - 2 * kernel[:m, m:].mean()).reshape(1)


def difference(x, y):
    x, y = (F.normalize(z - z.mean(0), dim=1, eps=1e-6) for z in (x, y))
    return (x.T @ y).pow(2).mean().reshape(1)


mask = (torch.rand(3, 1, 4, 5) > 0.5).float()
out["pairwise.mask"] = mask


def pairwise(x, y):
    d = ((x - y) * mask).flatten(1)
    k = d.shape[1]
    return (d.pow(2).sum(1) / k - d.sum(1).pow(2) / k**2).mean().reshape(1)


for name, loss in [("mmd_linear", mmd_linear), ("mmd", mmd)]:
    gradients(out, name, {"x": torch.randn(6, 5), "y": torch.randn(7, 5) + 0.5}, loss)
gradients(out, "difference", {"x": torch.randn(8, 5), "y": torch.randn(8, 5)}, difference)
gradients(out, "pairwise", {"x": torch.randn(3, 2, 4, 5), "y": torch.randn(3, 2, 4, 5)}, pairwise)
save("adaptation", out, versions)
