"""Semi-supervised VAEs and adversarial autoencoders at toy size: bounds, losses, priors and gradients.

Made with torch==2.15.0. Every network is one linear layer. What a network of two inputs sees is `cat`: the picture (or
code) first, the one-hot class after it.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import distributions as dist

from reference import begin, save

versions = begin(seed=6)
out = {}
PIXELS, CODE, TOP, CLASSES, FEW, MANY, DRAWS = 6, 3, 2, 3, 2, 4, 3


def linear(name, i, o):
    layer = nn.Linear(i, o)
    with torch.no_grad():
        layer.weight.copy_(0.5 * torch.randn(o, i))
        layer.bias.copy_(0.5 * torch.randn(o))
    out.update({f"{name}.weight": layer.weight.clone(), f"{name}.bias": layer.bias.clone()})
    return layer


def gradients(prefix, loss, layers):
    """Of every parameter that the loss reaches."""
    for name, layer in layers.items():
        for leaf in ("weight", "bias"):
            (g,) = torch.autograd.grad(loss, getattr(layer, leaf), retain_graph=True, allow_unused=True)
            if g is not None:
                out[f"{prefix}.grad.{name}.{leaf}"] = g


def onehot(labels):
    return F.one_hot(labels, CLASSES).float()


class M2:
    """p(y) p(z) p(v|y, z) with q(z|v, y) and q(y|v); v is binary pictures, or the codes of M1."""

    def __init__(self, name, width, gaussian):
        self.gaussian = gaussian
        self.layers = {
            "encoder.mean": linear(f"{name}.encoder.mean", width + CLASSES, TOP),
            "encoder.log_var": linear(f"{name}.encoder.log_var", width + CLASSES, TOP),
            "decoder.out": linear(f"{name}.decoder.out", TOP + CLASSES, (2 if gaussian else 1) * width),
            "classifier.logits": linear(f"{name}.classifier.logits", width, CLASSES),
        }

    def log_v(self, v, z, y):
        p = self.layers["decoder.out"](torch.cat([z, y], 1))
        if self.gaussian:
            mean, log_var = p.chunk(2, 1)
            return dist.Normal(mean, (0.5 * log_var).exp()).log_prob(v).sum(1)
        return dist.Bernoulli(logits=p).log_prob(v).sum(1)

    def posterior(self, v, y):
        vy = torch.cat([v, y], 1)
        return dist.Normal(self.layers["encoder.mean"](vy), (0.5 * self.layers["encoder.log_var"](vy)).exp())

    def bound(self, v, y, log_py, noise):
        """-L(v, y) with one draw, the KL term in closed form."""
        q = self.posterior(v, y)
        kl = dist.kl_divergence(q, dist.Normal(0.0, 1.0)).sum(1)
        return self.log_v(v, q.loc + q.scale * noise, y) + (y * log_py).sum(1) - kl

    def log_weight(self, v, y, log_py, noise):
        q = self.posterior(v, y)
        z = q.loc + q.scale * noise
        prior = dist.Normal(0.0, 1.0).log_prob(z).sum(1)
        return self.log_v(v, z, y) + (y * log_py).sum(1) + prior - q.log_prob(z).sum(1)

    def log_qy(self, v):
        return F.log_softmax(self.layers["classifier.logits"](v), 1)

    def marginal(self, v, log_py, noise):
        """-U(v) = sum_y q(y|v) (-L(v, y)) + H(q(y|v)), and the bounds [classes, n]."""
        each = [self.bound(v, onehot(torch.full((len(v),), c)), log_py, noise[c]) for c in range(CLASSES)]
        bounds, log_q = torch.stack(each), self.log_qy(v)
        return (log_q.exp() * (bounds.T - log_q)).sum(1), bounds


few, many = (torch.rand(FEW, PIXELS) > 0.5).float(), (torch.rand(MANY, PIXELS) > 0.5).float()
labels = torch.tensor([2, 0])
noise_few, noise_many = torch.randn(FEW, TOP), torch.randn(CLASSES, MANY, TOP)
log_py = {"uniform": torch.full((CLASSES,), -math.log(CLASSES)), "empirical": torch.tensor([0.5, 0.2, 0.3]).log()}
out |= {"few": few, "many": many, "labels": labels, "noise_few": noise_few, "noise_many": noise_many}
out["empirical"] = log_py["empirical"].exp()
SHARE, ALPHA = 0.25, 0.1  # of all pictures, a quarter are labelled


def objective(name, model, v_few, v_many, log_py):
    labelled = model.bound(v_few, onehot(labels), log_py, noise_few)
    unlabelled, bounds = model.marginal(v_many, log_py, noise_many)
    classification = F.nll_loss(model.log_qy(v_few), labels)
    total = -SHARE * labelled.mean() - (1 - SHARE) * unlabelled.mean() + ALPHA * classification
    out.update({f"{name}.labelled": labelled, f"{name}.bounds": bounds, f"{name}.unlabelled": unlabelled})
    out.update({f"{name}.classification": classification, f"{name}.total": total})
    gradients(name, total, model.layers)


m2 = M2("m2", PIXELS, gaussian=False)
objective("m2.uniform", m2, few, many, log_py["uniform"])
objective("m2.empirical", m2, few, many, log_py["empirical"])

# Importance sampling, the class summed out: log 1/K sum_k sum_y w(x, y, z_k).
draws = torch.randn(DRAWS, CLASSES, MANY, TOP)
weights = [
    [m2.log_weight(many, onehot(torch.full((MANY,), c)), log_py["uniform"], d[c]) for c in range(CLASSES)] for d in draws
]
weights = torch.stack([torch.stack(w) for w in weights])
out |= {"m2.draws": draws, "m2.importance": torch.logsumexp(weights, (0, 1)) - math.log(DRAWS)}

# M1 + M2: M1 is fixed; M2 is of its codes v ~ q(v|x).
m1 = {k: linear(f"m1.{k}", i, o) for k, i, o in
      (("encoder.mean", PIXELS, CODE), ("encoder.log_var", PIXELS, CODE), ("decoder.out", CODE, PIXELS))}
q_many = dist.Normal(m1["encoder.mean"](many), (0.5 * m1["encoder.log_var"](many)).exp())
q_few = dist.Normal(m1["encoder.mean"](few), (0.5 * m1["encoder.log_var"](few)).exp())
code_noise_few, code_noise_many = torch.randn(FEW, CODE), torch.randn(MANY, CODE)
codes_few = (q_few.loc + q_few.scale * code_noise_few).detach()
codes_many = (q_many.loc + q_many.scale * code_noise_many).detach()
out |= {"code_noise_few": code_noise_few, "code_noise_many": code_noise_many, "codes_many": codes_many}
stacked = M2("stacked", CODE, gaussian=True)
objective("stacked.uniform", stacked, codes_few, codes_many, log_py["uniform"])
code_draws = torch.randn(DRAWS, MANY, CODE)
terms = []
for d, e in zip(draws, code_draws):
    v = q_many.loc + q_many.scale * e
    outer = dist.Bernoulli(logits=m1["decoder.out"](v)).log_prob(many).sum(1) - q_many.log_prob(v).sum(1)
    each = [stacked.log_weight(v, onehot(torch.full((MANY,), c)), log_py["uniform"], d[c]) for c in range(CLASSES)]
    terms.append(outer + torch.logsumexp(torch.stack(each), 0))
out |= {"stacked.code_draws": code_draws}
out["stacked.importance"] = torch.logsumexp(torch.stack(terms), 0) - math.log(DRAWS)
# The bound: E log p(x|v) - log q(v|x) + (-U(v)), with one draw of v.
v = codes_many
outer = dist.Bernoulli(logits=m1["decoder.out"](v)).log_prob(many).sum(1) - q_many.log_prob(v).sum(1)
out["stacked.bound"] = outer + stacked.marginal(v, log_py["uniform"], noise_many)[0]

# Adversarial autoencoder: the discriminators' logits are of real (drawn from the prior) and fake (encoded).
a = {
    "encoder.code": linear("aae.encoder.code", PIXELS, TOP),
    "encoder.classes": linear("aae.encoder.classes", PIXELS, CLASSES),
    "decoder.out": linear("aae.decoder.out", TOP, PIXELS),
    "code_discriminator.logit": linear("aae.code_discriminator.logit", TOP, 1),
}
bce = lambda logits, target: F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
prior = torch.randn(MANY, TOP)
out["aae.prior"] = prior
z = a["encoder.code"](many)
reconstruction = F.binary_cross_entropy_with_logits(a["decoder.out"](z), many, reduction="none").sum(1).mean()
d = a["code_discriminator.logit"]
losses = {"reconstruction": reconstruction, "discriminator": bce(d(prior), 1.0) + bce(d(z.detach()), 0.0),
          "generator": bce(d(z), 1.0)}
trained = {"reconstruction": ("encoder.code", "decoder.out"), "discriminator": ("code_discriminator.logit",),
           "generator": ("encoder.code",)}
for name, loss in losses.items():
    out[f"aae.{name}"] = loss
    gradients(f"aae.{name}", loss, {k: a[k] for k in trained[name]})

# A conditional prior: the discriminator also sees the class of the draw, or of the picture; unlabelled ones are a class
# of their own, the last.
conditional = {"code_discriminator.logit": linear("aae_conditional.code_discriminator.logit", TOP + CLASSES + 1, 1)}
d = conditional["code_discriminator.logit"]
seen = F.one_hot(torch.cat([labels, torch.full((MANY,), CLASSES)]), CLASSES + 1).float()
z = a["encoder.code"](torch.cat([few, many]))
draws_all = torch.randn(FEW + MANY, TOP)
out["aae_conditional.prior"] = draws_all
real, fake = d(torch.cat([draws_all, seen], 1)), lambda z: d(torch.cat([z, seen], 1))
out["aae_conditional.discriminator"] = bce(real, 1.0) + bce(fake(z.detach()), 0.0)
gradients("aae_conditional.discriminator", out["aae_conditional.discriminator"], conditional)
out["aae_conditional.generator"] = bce(fake(z), 1.0)
gradients("aae_conditional.generator", out["aae_conditional.generator"], {"encoder.code": a["encoder.code"]})

# Semi-supervised: code and class (softmax) each have a discriminator, and the decoder sees both.
s = {
    "encoder.code": a["encoder.code"],
    "encoder.classes": a["encoder.classes"],
    "decoder.out": linear("aae_semi.decoder.out", TOP + CLASSES, PIXELS),
    "code_discriminator.logit": a["code_discriminator.logit"],
    "class_discriminator.logit": linear("aae_semi.class_discriminator.logit", CLASSES, 1),
}
z, y = s["encoder.code"](many), F.softmax(s["encoder.classes"](many), 1)
drawn = torch.tensor([1, 1, 0, 2])
out["aae_semi.drawn"] = drawn
logits = s["decoder.out"](torch.cat([z, y], 1))
dz, dy = s["code_discriminator.logit"], s["class_discriminator.logit"]
losses = {
    "reconstruction": F.binary_cross_entropy_with_logits(logits, many, reduction="none").sum(1).mean(),
    "discriminator": bce(dz(prior), 1.0) + bce(dz(z.detach()), 0.0) + bce(dy(onehot(drawn)), 1.0) + bce(dy(y.detach()), 0.0),
    "generator": bce(dz(z), 1.0) + bce(dy(y), 1.0),
    "classification": F.cross_entropy(s["encoder.classes"](few), labels),
}
trained = {"reconstruction": ("encoder.code", "encoder.classes", "decoder.out"),
           "discriminator": ("code_discriminator.logit", "class_discriminator.logit"),
           "generator": ("encoder.code", "encoder.classes"), "classification": ("encoder.classes",)}
for name, loss in losses.items():
    out[f"aae_semi.{name}"] = loss
    gradients(f"aae_semi.{name}", loss, {k: s[k] for k in trained[name]})

# Priors in the plane as of github.com/musyoku/adversarial-autoencoder (sampler.py), from the same draws: ten long
# Gaussians like petals, and a roll of which a class is a tenth.
classes, normals, uniforms = torch.arange(10).repeat(2), torch.randn(20, 2), torch.rand(20)
angle = 2 * math.pi * classes / 10
x, y = 0.5 * normals[:, 0], 0.05 * normals[:, 1]
mixture = [x * angle.cos() - y * angle.sin() + 1.4 * angle.cos(), x * angle.sin() + y * angle.cos() + 1.4 * angle.sin()]
along = ((classes + uniforms) / 10).sqrt()
roll = [3 * along * (4 * math.pi * along).cos(), 3 * along * (4 * math.pi * along).sin()]
out |= {"prior.classes": classes, "prior.normals": normals, "prior.uniforms": uniforms}
out |= {"prior.mixture": torch.stack(mixture, 1), "prior.swiss_roll": torch.stack(roll, 1)}

# A convolutional autoencoder, its squared error summed over the pixels.
net = nn.Sequential(nn.Conv2d(1, 2, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, TOP), nn.Linear(TOP, 8),
                    nn.Unflatten(1, (2, 2, 2)), nn.ReLU(), nn.ConvTranspose2d(2, 1, 4, 2, 1))
x = torch.rand(3, 1, 4, 4) * 2 - 1
y = net(x)
loss = (y - x).square().sum((1, 2, 3)).mean()
loss.backward()
out |= {"ae.x": x, "ae.code": net[:4](x), "ae.output": y, "ae.squared_error": loss}
out |= {f"ae.{k}": p for k, p in net.named_parameters()} | {f"ae.grad.{k}": p.grad for k, p in net.named_parameters()}

save("ssvae_aae", out, versions)
