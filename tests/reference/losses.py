"""Losses: values and gradients with respect to each input.

Made with torch==2.15.0. Names: <loss>.<input>, <loss>.value, <loss>.grad_<input>.
"""

import math

import torch
import torch.nn.functional as F
from torch import distributions as dist

from reference import begin, save

versions = begin()
out = {}


def record(name, loss, *, fixed=None, **inputs):
    """`loss` of differentiable `inputs` and of constant `fixed` tensors."""
    inputs = {k: v.clone().requires_grad_() for k, v in inputs.items()}
    fixed = fixed or {}
    value = loss(**inputs, **fixed)
    value.backward()
    for k, v in inputs.items():
        out[f"{name}.{k}"], out[f"{name}.grad_{k}"] = v, v.grad
    out.update({f"{name}.{k}": v for k, v in fixed.items()})
    out[f"{name}.value"] = value


x, y = torch.randn(4, 5), torch.randn(4, 5)
# Far-out logits, where log(sigmoid(x)) written plainly is already -inf.
logits = torch.cat([2 * torch.randn(10), torch.tensor([-200.0, 200.0])])
record("bce_with_logits", F.binary_cross_entropy_with_logits, input=logits, fixed={"target": torch.rand(12)})
record("mse", F.mse_loss, input=x, target=y)
record("l1", F.l1_loss, input=x, target=y)
record("smooth_l1", F.smooth_l1_loss, input=x, target=y)  # beta = 1
record("cross_entropy", F.cross_entropy, input=3 * x, fixed={"target": torch.tensor([1, 0, 4, 1])})

# GAN losses on discriminator outputs of a real and a generated batch, means over each batch.
real, fake = 2 * torch.randn(6) + 0.5, 2 * torch.randn(6)
record("gan_hinge_d", lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(), real=real, fake=fake)
record("gan_hinge_g", lambda fake: -fake.mean(), fake=fake)
# Least squares with a = 0, b = c = 1; the halves are as in Mao et al. 2017.
half_mse = lambda x, t: 0.5 * F.mse_loss(x, torch.full_like(x, t))
record("gan_least_squares_d", lambda real, fake: half_mse(real, 1.0) + half_mse(fake, 0.0), real=real, fake=fake)
record("gan_least_squares_g", lambda fake: half_mse(fake, 1.0), fake=fake)
# Non-saturating: softplus(-D(x)) + softplus(D(G(z))), generator softplus(-D(G(z))).
far = torch.tensor([-150.0, 150.0])
real, fake = torch.cat([real, far]), torch.cat([fake, far])
record("gan_softplus_d", lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(), real=real, fake=fake)
record("gan_softplus_g", lambda fake: F.softplus(-fake).mean(), fake=fake)
# The saturating generator minimises log(1 - D) = -softplus(D).
record("gan_saturating_g", lambda fake: -F.softplus(fake).mean(), fake=fake)
record(
    "gan_label_smoothing_d",
    lambda real, fake: F.binary_cross_entropy_with_logits(real, torch.full_like(real, 0.9))
    + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake)),
    real=real,
    fake=fake,
)

# KL(N(mu, exp(logvar)) || N(0, 1)): sum over the latent, mean over the batch.
normal = lambda mu, logvar: dist.Normal(mu, (0.5 * logvar).exp())
record(
    "gaussian_kl",
    lambda mu, logvar: dist.kl_divergence(normal(mu, logvar), dist.Normal(0.0, 1.0)).sum(1).mean(),
    mu=torch.randn(4, 3),
    logvar=torch.randn(4, 3),
)
# The same against a learned prior N(prior_mu, exp(prior_logvar)).
record(
    "gaussian_kl_prior",
    lambda mu, logvar, prior_mu, prior_logvar: dist.kl_divergence(
        normal(mu, logvar), normal(prior_mu, prior_logvar)
    ).sum(1).mean(),
    mu=torch.randn(4, 3),
    logvar=torch.randn(4, 3),
    prior_mu=torch.randn(4, 3),
    prior_logvar=torch.randn(4, 3),
)

# Log-likelihoods: sum over the pixels, mean over the batch (`per_sample` holds the sums).
pixels = (torch.rand(3, 1, 4, 5) > 0.5).float()
bernoulli = lambda logits, target: dist.Bernoulli(logits=logits).log_prob(target).flatten(1).sum(1)
logits = 3 * torch.randn(3, 1, 4, 5)
record("bernoulli_log_likelihood", lambda **k: bernoulli(**k).mean(), logits=logits, fixed={"target": pixels})
out["bernoulli_log_likelihood.per_sample"] = bernoulli(logits, pixels)
mean, logvar, target = torch.rand(3, 1, 4, 5), torch.randn(3, 1, 4, 5), torch.rand(3, 1, 4, 5)
gaussian = lambda mean, logvar, target: normal(mean, logvar).log_prob(target).flatten(1).sum(1)
sigma = torch.tensor(0.1)
record(
    "gaussian_log_likelihood_fixed",  # standard deviation `sigma` everywhere
    lambda mean, target, sigma: gaussian(mean, 2 * sigma.log(), target).mean(),
    mean=mean,
    fixed={"target": target, "sigma": sigma},
)
record(
    "gaussian_log_likelihood_learned",
    lambda **k: gaussian(**k).mean(),
    mean=mean,
    logvar=logvar,
    fixed={"target": target},
)
out["gaussian_log_likelihood_fixed.per_sample"] = gaussian(mean, torch.tensor(2 * math.log(0.1)), target)
out["gaussian_log_likelihood_learned.per_sample"] = gaussian(mean, logvar, target)

# 256 levels by a logistic: CDF differences at f64 precision, the outermost levels open.
x = torch.tensor([0, 1, 127, 128, 200, 254, 255, 60]).repeat(2, 1).double() / 127.5 - 1
logistic = lambda mean, log_scale: dist.TransformedDistribution(
    dist.Uniform(0.0, 1.0), [dist.SigmoidTransform().inv, dist.AffineTransform(mean, log_scale.exp())]
)


def discretised(mean, log_scale, target):
    cdf = logistic(mean.double(), log_scale.double()).cdf
    target = target.double()
    over = torch.where(target > 0.999, torch.ones(()), cdf(target + 1 / 255))
    under = torch.where(target < -0.999, torch.zeros(()), cdf(target - 1 / 255))
    return (over - under).log().sum(1).mean()


record(
    "discretised_logistic_log_likelihood",
    discretised,
    mean=(x + 0.4 * torch.randn(2, 8)).float(),
    log_scale=torch.linspace(-3, 0.5, 16).view(2, 8),
    fixed={"target": x.float()},
)


class Reverse(torch.autograd.Function):
    """Ganin & Lempitsky 2015, eq. 16-17: the identity, with -lambda times the gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return -0.3 * grad


a = torch.randn(3, 4, requires_grad=True)
b = Reverse.apply(a)
g = torch.randn(3, 4)
b.backward(g)
out |= {"gradient_reversal.input": a, "gradient_reversal.output": b, "gradient_reversal.lambda": torch.tensor(0.3)}
out |= {"gradient_reversal.grad_output": g, "gradient_reversal.grad_input": a.grad}

save("losses", out, versions)
