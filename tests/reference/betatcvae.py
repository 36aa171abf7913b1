"""The parts of a latent model's KL term as minibatches estimate them: values and gradients.

Made with torch==2.15.0, in f64. q = N(mu, exp(logvar)), prior N(0, 1), one draw a picture, n pictures in the set. `weighted` is
Chen et al. 2018, equation 5; `stratified` their equation S6: 1/n for the picture's own posterior, 1/(m - 1) for the others,
(n - m + 1)/(n (m - 1)) for one of them, here the next in the batch. `grad_*` are of mi + 6 tc + 2 kl.
"""

import math

import torch
from torch import distributions as dist

from reference import begin, save

versions = begin()
M, D, N = 7, 3, 1000
mu = torch.randn(M, D, dtype=torch.float64).float().double().requires_grad_()
logvar = (0.7 * torch.randn(M, D, dtype=torch.float64)).float().double().requires_grad_()
noise = torch.randn(M, D, dtype=torch.float64).float().double()
out = {"mu": mu.float(), "logvar": logvar.float(), "noise": noise.float(), "n": torch.tensor([float(N)])}

stratified = torch.full((M, M), 1 / (M - 1), dtype=torch.float64)
for i in range(M):
    stratified[i, i] = 1 / N
    stratified[i, (i + 1) % M] = (N - (M - 1)) / (N * (M - 1))
weighted = torch.full((M, M), 1 / (N * M), dtype=torch.float64)

for name, weights in (("weighted", weighted), ("stratified", stratified)):
    q = dist.Normal(mu, (0.5 * logvar).exp())
    z = mu + (0.5 * logvar).exp() * noise
    each = dist.Normal(mu[None], (0.5 * logvar).exp()[None]).log_prob(z[:, None])
    log_qz = torch.logsumexp(each.sum(-1) + weights.log(), 1)
    log_product = torch.logsumexp(each + weights.log()[..., None], 1).sum(-1)
    log_prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    parts = {
        "index_code_mi": (q.log_prob(z).sum(-1) - log_qz).mean(),
        "total_correlation": (log_qz - log_product).mean(),
        "dimension_kl": (log_product - log_prior).mean(),
    }
    whole = parts["index_code_mi"] + 6 * parts["total_correlation"] + 2 * parts["dimension_kl"]
    gradients = torch.autograd.grad(whole, (mu, logvar))
    out |= {f"{name}.{key}": value.reshape(1).float() for key, value in parts.items()}
    out |= {f"{name}.grad_{key}": g.float() for key, g in zip(("mu", "logvar"), gradients)}
    assert math.isfinite(whole.item())

save("betatcvae", out, versions)
