"""Networks that grow, at sizes whole and fading: ProGAN's generator and discriminator, and StyleGAN's layers, of PyTorch's
functions one by one, with the penalties of Wasserstein's loss and their gradients.

Made with torch==2.15.0, safetensors==0.8.0. In double precision, of weights by formula in Kiln's names (`formula`, which the Rust
test repeats). The generator doubles by nearest neighbours and convolves, the discriminator convolves and averages. A level L is
(size, fade). Kiln's convolution that doubles is written as a transposed one, so its kernels are turned around here.

<kind>.<L>.picture [3,2,h,w], <kind> being progan or stylegan; d.<L>.scores [3], d.<L>.gp and its gradients d.<L>.gp.<name>.
"""

import math

import torch
import torch.nn.functional as F

from hashed import uniform
from reference import begin, save

versions = begin()
torch.set_default_dtype(torch.float64)
LATENT, CHANNELS, WIDTHS, BASE = 6, 2, [8, 6, 3], (2, 3)
LEVELS = {"0": (0, 1.0), "1.5": (2, 0.5), "1": (1, 1.0), "2": (2, 1.0)}


def formula(name, *shape):
    u = torch.from_numpy(uniform(name, math.prod(shape)))
    values = 0.2 * u - 0.1 if name.endswith(("bias", "strength")) else (2 * u - 1) * math.sqrt(3)
    return values.float().double().reshape(shape).requires_grad_()


class Weights(dict):
    """Made when they are asked for."""

    def of(self, name, *shape):
        if name not in self:
            self[name] = formula(name, *shape)
        return self[name]

    def conv(self, x, name, outputs, kernel, gain, turned=False):
        weight = self.of(f"{name}.weight", outputs, x.shape[1], kernel, kernel)
        weight = weight * gain / math.sqrt(x.shape[1] * kernel * kernel)
        return F.conv2d(x, weight.flip([2, 3]) if turned else weight, padding=kernel // 2)

    def linear(self, x, name, outputs, gain, bias=True):
        weight = self.of(f"{name}.weight", outputs, x.shape[1]) * gain / math.sqrt(x.shape[1])
        return F.linear(x, weight, self.of(f"{name}.bias", outputs) if bias else None)

    def bias(self, name, x):
        return x + self.of(name, x.shape[1]).reshape(1, -1, 1, 1)


HE = math.sqrt(2)
leaky = lambda x: F.leaky_relu(x, 0.2)
pixel_norm = lambda x: x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()
up = lambda x: F.interpolate(x, scale_factor=2, mode="nearest")
down = lambda x: F.avg_pool2d(x, 2)


def generator(p, z, level, styled):
    size, fade = level

    def epilogue(x, name, index):
        x = p.bias(f"{name}.bias", x)
        if styled:
            noise = formula(f"noise {index}", x.shape[0], 1, *x.shape[2:]).detach()
            x = x + noise * p.of(f"{name}.noise.strength", x.shape[1]).reshape(1, -1, 1, 1)
        x = leaky(x)
        if not styled:
            return pixel_norm(x)
        scale, shift = p.linear(z, f"{name}.style", 2 * x.shape[1], 1.0).chunk(2, 1)
        return F.instance_norm(x, eps=1e-8) * (scale + 1)[:, :, None, None] + shift[:, :, None, None]

    picture = lambda x, i: p.bias(f"blocks.{i}.to_picture.bias", p.conv(x, f"blocks.{i}.to_picture", CHANNELS, 1, 1.0))
    h, w = BASE
    if styled:
        x = p.of("constant", 1, WIDTHS[0], h, w).expand(z.shape[0], -1, -1, -1)
    else:
        x = p.linear(z, "project", WIDTHS[0] * h * w, HE / math.sqrt(h * w), bias=False).reshape(-1, WIDTHS[0], h, w)
    for i in range(size + 1):
        if i > 0:
            before = x
            x = p.conv(up(x), f"blocks.{i}.up", WIDTHS[i], 3, HE, turned=True)
        x = epilogue(x, f"blocks.{i}.epilogues.0", 2 * i)
        x = p.conv(x, f"blocks.{i}.conv", WIDTHS[i], 3, HE)
        x = epilogue(x, f"blocks.{i}.epilogues.1", 2 * i + 1)
    new = picture(x, size)
    return new if fade == 1 else torch.lerp(up(picture(before, size - 1)), new, fade)


def discriminator(p, image, level):
    size, fade = level
    first = lambda x, i: leaky(p.bias(f"from_picture.{i}.bias", p.conv(x, f"from_picture.{i}", WIDTHS[i], 1, HE)))
    x = first(image, size)
    for i in range(size, 0, -1):
        x = leaky(p.bias(f"blocks.{i - 1}.conv.bias", p.conv(x, f"blocks.{i - 1}.conv", WIDTHS[i], 3, HE)))
        x = leaky(p.bias(f"blocks.{i - 1}.down.bias", down(p.conv(x, f"blocks.{i - 1}.down", WIDTHS[i - 1], 3, HE))))
        if i == size and fade < 1:
            x = torch.lerp(first(down(image), i - 1), x, fade)
    n, _, h, w = x.shape
    deviation = (x - x.mean(0)).square().mean(0).add(1e-8).sqrt().mean()
    x = torch.cat([x, deviation.expand(n, 1, h, w)], 1)
    x = leaky(p.bias("conv.bias", p.conv(x, "conv", WIDTHS[0], 3, HE)))
    x = leaky(p.linear(x.flatten(1), "hidden", WIDTHS[0], HE))
    return p.linear(x, "out", 1, 1.0)[:, 0]


out = {}
z = formula("z", 3, LATENT).detach()
for name, level in LEVELS.items():
    out[f"progan.{name}.picture"] = generator(Weights(), pixel_norm(z), level, False)
    out[f"stylegan.{name}.picture"] = generator(Weights(), z, level, True)
    p = Weights()
    h, w = (side << level[0] for side in BASE)
    real, fake, mix = formula("real", 3, CHANNELS, h, w), formula("fake", 3, CHANNELS, h, w), formula("mix", 3)
    out[f"d.{name}.scores"] = discriminator(p, real, level)
    between = torch.lerp(fake, real, mix.abs()[:, None, None, None] / 2).detach().requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(p, between, level).sum(), between, create_graph=True)
    penalty = (slope.square().sum([1, 2, 3]).sqrt() - 1).square().mean()
    penalty.backward()
    out[f"d.{name}.gp"] = penalty
    out.update({f"d.{name}.gp.{k}": v.grad for k, v in p.items() if v.grad is not None})

save("growing", {k: v.float() for k, v in out.items()}, versions)
