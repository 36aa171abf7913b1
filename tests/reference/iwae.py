"""Importance weighted bounds of a small model: values and the gradients of both estimators.

Made with torch==2.15.0. q = N(mu, exp(logvar)), prior N(0, 1), Bernoulli pixels with logits W z + b; noise[k] is the
k-th draw for each picture. `dreg` is Tucker et al. 2019 the way its authors' followers write it in PyTorch: q's
parameters held in log q, and a hook that multiplies the gradient in z by the normalised weights.
"""

import math

import torch
from torch import distributions as dist

from reference import begin, save

versions = begin()
K = 5
mu, logvar, noise = torch.randn(3, 2), 0.5 * torch.randn(3, 2), torch.randn(K, 3, 2)
weight, bias, pixels = torch.randn(6, 2), torch.randn(6), (torch.rand(3, 6) > 0.5).float()
leaves = [t.requires_grad_() for t in (mu, logvar, weight, bias)]
names = ("mu", "logvar", "weight", "bias")
out = dict(zip(names, leaves)) | {"noise": noise, "pixels": pixels}


def log_w(z, mu, logvar):
    log_px = dist.Bernoulli(logits=z @ weight.T + bias).log_prob(pixels).sum(-1)
    log_q = dist.Normal(mu, (0.5 * logvar).exp()).log_prob(z).sum(-1)
    return log_px + dist.Normal(0.0, 1.0).log_prob(z).sum(-1) - log_q


def draw():
    return mu + (0.5 * logvar).exp() * noise


log_weights = log_w(draw(), mu, logvar)
bound = (torch.logsumexp(log_weights, 0) - math.log(K)).mean()
out |= {"log_weights": log_weights, "bound": bound}
out |= {f"iwae.grad_{n}": g for n, g in zip(names, torch.autograd.grad(-bound, leaves))}

z = draw()
log_weights = log_w(z, mu.detach(), logvar.detach())
normalised = torch.softmax(log_weights, 0).detach()
z.register_hook(lambda grad: normalised.unsqueeze(-1) * grad)
surrogate = -(normalised * log_weights).sum(0).mean()
out |= {f"dreg.grad_{n}": g for n, g in zip(names, torch.autograd.grad(surrogate, leaves))}

save("iwae", out, versions)
