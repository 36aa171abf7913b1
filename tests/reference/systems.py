"""Whole systems at toy size: the terms and networks of VAE, CycleGAN, DCGAN and DANN.

Made with torch==2.15.0. The networks follow the papers' appendices in the layout of their authors'
PyTorch code: every `torch.nn.Sequential` numbers its padding, normalisation and activation entries too.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import distributions as dist

from reference import begin, record_model, save, spread

versions = begin()
out = {}

# VAE: q = N(mu, exp(logvar)), prior N(0, 1), Bernoulli pixels with logits W z + b. `noise[k]` is the
# k-th draw for each picture: z = mu + exp(logvar / 2) noise. ELBO terms use draw 0; all in nats a picture.
mu, logvar, noise = torch.randn(3, 2), 0.5 * torch.randn(3, 2), torch.randn(5, 3, 2)
weight, bias, pixels = torch.randn(6, 2), torch.randn(6), (torch.rand(3, 6) > 0.5).float()
leaves = [t.requires_grad_() for t in (mu, logvar, weight, bias)]
posterior, prior = dist.Normal(mu, (0.5 * logvar).exp()), dist.Normal(0.0, 1.0)
z = mu + (0.5 * logvar).exp() * noise
logits = z @ weight.T + bias
log_px = dist.Bernoulli(logits=logits).log_prob(pixels).sum(-1)
kl = dist.kl_divergence(posterior, prior).sum(-1)
log_w = log_px + prior.log_prob(z).sum(-1) - posterior.log_prob(z).sum(-1)
elbo = (log_px[0] - kl).mean()
bound = (torch.logsumexp(log_w, 0) - math.log(5)).mean()
for name, value in {"elbo": elbo, "importance": bound}.items():
    grads = torch.autograd.grad(-value, leaves, retain_graph=True)
    out |= {f"vae.{name}_grad_{k}": g for k, g in zip(("mu", "logvar", "weight", "bias"), grads)}
out |= {"vae.mu": mu, "vae.logvar": logvar, "vae.noise": noise, "vae.weight": weight, "vae.bias": bias}
out |= {"vae.pixels": pixels, "vae.z": z, "vae.logits": logits, "vae.log_likelihood": log_px, "vae.kl": kl}
out |= {"vae.elbo": elbo, "vae.log_weights": log_w, "vae.importance_nll": -bound}


def norm2d(c):
    return nn.InstanceNorm2d(c)


class ResnetBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        pad, conv = lambda: nn.ReflectionPad2d(1), lambda: nn.Conv2d(c, c, 3)
        self.conv_block = nn.Sequential(pad(), conv(), norm2d(c), nn.ReLU(), pad(), conv(), norm2d(c))

    def forward(self, x):
        return x + self.conv_block(x)


class ResnetGenerator(nn.Module):
    """c7s1-f, d2f, d4f, R4f..., u2f, uf, c7s1-3, tanh (Zhu 2017, appendix 7.2)."""

    def __init__(self, f, blocks):
        super().__init__()
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(3, f, 7), norm2d(f), nn.ReLU()]
        for c in (f, 2 * f):
            layers += [nn.Conv2d(c, 2 * c, 3, stride=2, padding=1), norm2d(2 * c), nn.ReLU()]
        layers += [ResnetBlock(4 * f) for _ in range(blocks)]
        for c in (2 * f, f):
            up = nn.ConvTranspose2d(2 * c, c, 3, stride=2, padding=1, output_padding=1)
            layers += [up, norm2d(c), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(f, 3, 7), nn.Tanh())

    def forward(self, x):
        return self.model(x)


class PatchDiscriminator(nn.Module):
    """C64-C128-C256-C512 at width f, the last two with stride 1 (70x70 receptive field), logits."""

    def __init__(self, f):
        super().__init__()
        layers = [nn.Conv2d(3, f, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for c, stride in ((f, 2), (2 * f, 2), (4 * f, 1)):
            layers += [nn.Conv2d(c, 2 * c, 4, stride=stride, padding=1), norm2d(2 * c), nn.LeakyReLU(0.2)]
        self.model = nn.Sequential(*layers, nn.Conv2d(8 * f, 1, 4, padding=1))

    def forward(self, x):
        return self.model(x)


# Gradients of a few parameters only, for size. A bias in front of a normalisation has none but rounding.
some = {"model.4.weight", "model.10.conv_block.5.weight", "model.15.weight", "model.19.bias"}.__contains__
record_model(out, "cyclegan_g", spread(ResnetGenerator(4, 2)), ("input", torch.randn(2, 3, 16, 20)), grads=some)
some = {"model.0.weight", "model.0.bias", "model.5.weight", "model.11.weight"}.__contains__
record_model(out, "cyclegan_d", spread(PatchDiscriminator(4)), ("input", torch.randn(1, 3, 32, 40)), grads=some)

# CycleGAN's objective on given tensors: lambda_cycle 10, lambda_identity 0.5 (times lambda_cycle).
t = {k: torch.rand(2, 3, 4, 5) * 2 - 1 for k in ("real_a", "real_b", "rec_a", "rec_b", "same_a", "same_b")}
d = {k: torch.randn(2, 1, 2, 3) for k in ("d_a_fake", "d_b_fake", "d_a_real", "d_b_real")}
lsgan = lambda x, target: F.mse_loss(x, torch.full_like(x, target))  # without a half, as their code
cycle = F.l1_loss(t["rec_a"], t["real_a"]) + F.l1_loss(t["rec_b"], t["real_b"])
identity = F.l1_loss(t["same_a"], t["real_a"]) + F.l1_loss(t["same_b"], t["real_b"])
adversarial = lsgan(d["d_a_fake"], 1.0) + lsgan(d["d_b_fake"], 1.0)
out |= {f"cyclegan.{k}": v for k, v in (t | d).items()}
out |= {"cyclegan.cycle": cycle, "cyclegan.identity": identity, "cyclegan.adversarial": adversarial}
out["cyclegan.generator_loss"] = adversarial + 10 * cycle + 5 * identity
for s in "ab":
    out[f"cyclegan.d_{s}_loss"] = 0.5 * (lsgan(d[f"d_{s}_real"], 1.0) + lsgan(d[f"d_{s}_fake"], 0.0))


class DcganGenerator(nn.Module):
    """z [n, nz, 1, 1] -> 4x4 -> 8x8 -> 16x16 -> 32x32, tanh; no bias, batch norm but at the output."""

    def __init__(self, nz, f):
        super().__init__()
        layers, c = [], nz
        for width, (stride, padding) in zip((4 * f, 2 * f, f), ((1, 0), (2, 1), (2, 1))):
            up = nn.ConvTranspose2d(c, width, 4, stride, padding, bias=False)
            layers += [up, nn.BatchNorm2d(width), nn.ReLU()]
            c = width
        self.main = nn.Sequential(*layers, nn.ConvTranspose2d(f, 3, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, z):
        return self.main(z)


class DcganDiscriminator(nn.Module):
    """32x32 -> 16 -> 8 -> 4 -> one logit; no bias, batch norm but at the input and output, leak 0.2."""

    def __init__(self, f):
        super().__init__()
        layers = [nn.Conv2d(3, f, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        for c in (f, 2 * f):
            layers += [nn.Conv2d(c, 2 * c, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * c), nn.LeakyReLU(0.2)]
        self.main = nn.Sequential(*layers, nn.Conv2d(4 * f, 1, 4, 1, 0, bias=False))

    def forward(self, x):
        return self.main(x).flatten()


# Both in training mode (batch statistics); the state is from before the step, `_after` from after it.
for name, net, shape in (
    ("dcgan_g", spread(DcganGenerator(8, 4)), (2, 8, 1, 1)),
    ("dcgan_d", spread(DcganDiscriminator(4)), (2, 3, 32, 32)),
):
    record_model(out, name, net, ("input", torch.randn(*shape)))
    out |= {f"{name}_after.{k}": v for k, v in net.state_dict().items() if "running" in k}

# DANN's schedules (Ganin & Lempitsky 2015, section 4), f64.
p = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=torch.float64)
out |= {"dann.progress": p, "dann.lambda": 2 / (1 + torch.exp(-10 * p)) - 1}
out |= {"dann.learning_rate": 0.01 / (1 + 10 * p) ** 0.75, "dann.first_learning_rate": torch.tensor(0.01, dtype=torch.float64)}

save("systems", out, versions)
