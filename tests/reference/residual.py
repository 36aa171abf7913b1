"""SAGAN's and BigGAN's networks, class-conditional batch norm, orthogonal regularisation, mode seeking, AC-GAN's losses.

Made with torch==2.15.0, safetensors==0.8.0.

Networks as Zhang 2019 and Brock 2019 (appendix B) have them, from PyTorch's layers. <name>.<path> is the state, <name>_io the
values, <name>_grad.<path> gradients, <name>_after.<path> the buffers after the pass; sagan_d_r1 is its R1 penalty. Weights under spectral norm are named as
without, with `parametrization.u` and `.v` beside them.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.parametrizations import spectral_norm

from reference import begin, save, spread

versions = begin(seed=23)
out = {}
RENAMED = {"parametrizations.weight.original": "weight", "parametrizations.weight.0._u": "parametrization.u"}
RENAMED |= {"parametrizations.weight.0._v": "parametrization.v"}


def clean(name):
    for old, new in RENAMED.items():
        name = name.replace(old, new)
    return name


def floats(state):
    return {clean(k): v.clone() for k, v in state.items() if v.is_floating_point()}


def record(name, net, inputs):
    """State, values, gradients and buffers of a training pass over named inputs."""
    net.train()
    out.update({f"{name}.{k}": v for k, v in floats(net.state_dict()).items()})
    tensors = {k: v.clone().requires_grad_(v.is_floating_point()) for k, v in inputs.items()}
    y = net(*tensors.values())
    g = torch.randn_like(y)
    y.backward(g)
    out.update({f"{name}_io.output": y, f"{name}_io.grad_output": g})
    for k, v in tensors.items():
        out[f"{name}_io.{k}"] = v
        if v.grad is not None:
            out[f"{name}_io.grad_{k}"] = v.grad
    out.update({f"{name}_grad.{clean(k)}": p.grad for k, p in net.named_parameters()})
    buffers = {k: v for k, v in net.named_buffers() if v.is_floating_point()}
    out.update({f"{name}_after.{k}": v for k, v in floats(buffers).items()})


class ConditionalBatchNorm2d(nn.Module):
    def __init__(self, c, features, norm=lambda x: x):
        super().__init__()
        self.gain, self.bias = (norm(nn.Linear(features, c, bias=False)) for _ in range(2))
        self.register_buffer("running_mean", torch.randn(c))
        self.register_buffer("running_var", torch.rand(c) + 0.5)

    def forward(self, x, y):
        h = F.batch_norm(x, self.running_mean, self.running_var, None, None, self.training, 0.1, 1e-5)
        return h * (1 + self.gain(y))[:, :, None, None] + self.bias(y)[:, :, None, None]


class SelfAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        conv = lambda i, o: spectral_norm(nn.Conv2d(i, o, 1, bias=False))
        self.query, self.key, self.value = (conv(c, max(c // 8, 1)) for _ in range(3))
        self.out = conv(max(c // 8, 1), c)
        self.gamma = nn.Parameter(torch.tensor([0.7]))

    def forward(self, x):
        q, k, v = (f(x).flatten(2) for f in (self.query, self.key, self.value))
        p = (q.transpose(1, 2) @ k).softmax(2)
        return x + self.gamma * self.out((v @ p.transpose(1, 2)).reshape(len(x), -1, *x.shape[2:]))


conv = lambda i, o, k=3: spectral_norm(nn.Conv2d(i, o, k, padding=k // 2))
linear = lambda i, o: spectral_norm(nn.Linear(i, o))


class UpBlock(nn.Module):
    def __init__(self, i, o, features, norm, attention):
        super().__init__()
        self.norm1, self.norm2 = ConditionalBatchNorm2d(i, features, norm), ConditionalBatchNorm2d(o, features, norm)
        self.conv1, self.conv2, self.shortcut = conv(i, o), conv(o, o), conv(i, o, 1)
        self.attention = SelfAttention(o) if attention else None

    def forward(self, x, y):
        up = lambda x: F.interpolate(x, scale_factor=2)
        h = self.conv2(F.relu(self.norm2(self.conv1(up(F.relu(self.norm1(x, y)))), y)))
        # In the papers' order: first the size, then the convolution.
        x = h + self.shortcut(up(x))
        return self.attention(x) if self.attention else x


class Generator(nn.Module):
    """Two doublings from 2x3, 4 channels at the end, attention after the first block."""

    def __init__(self, inputs, features, norm, channels=4, outputs=3):
        super().__init__()
        c = channels
        self.linear = linear(inputs, 2 * c * 6)
        self.blocks = nn.ModuleList([UpBlock(2 * c, 2 * c, features, norm, True), UpBlock(2 * c, c, features, norm, False)])
        self.norm, self.out = spread(nn.BatchNorm2d(c)), conv(c, outputs)

    def forward(self, z, *ys):
        x = self.linear(z).reshape(len(z), -1, 2, 3)
        for block, y in zip(self.blocks, ys):
            x = block(x, y)
        return self.out(F.relu(self.norm(x))).tanh()


class DownBlock(nn.Module):
    def __init__(self, i, o, first=False, halves=True, attention=False):
        super().__init__()
        self.conv1, self.conv2 = conv(i, o), conv(o, o)
        self.shortcut = conv(i, o, 1) if halves else None
        self.attention = SelfAttention(o) if attention else None
        self.first, self.halves = first, halves

    def forward(self, x):
        half = lambda x: F.avg_pool2d(x, 2) if self.halves else x
        h = half(self.conv2(F.relu(self.conv1(x if self.first else F.relu(x)))))
        # In the papers' order: before the size in all blocks but the first.
        if self.shortcut:
            x = self.shortcut(half(x)) if self.first else half(self.shortcut(x))
        x = h + x
        return self.attention(x) if self.attention else x


class Discriminator(nn.Module):
    def __init__(self, classes, channels=4, inputs=3):
        super().__init__()
        c = channels
        blocks = [DownBlock(inputs, c, first=True, attention=True), DownBlock(c, 2 * c), DownBlock(2 * c, 2 * c, halves=False)]
        self.blocks, self.linear = nn.ModuleList(blocks), linear(2 * c, 1)
        self.embedding = spectral_norm(nn.Embedding(classes, 2 * c)) if classes else None

    def forward(self, x, classes=None):
        for block in self.blocks:
            x = block(x)
        h = F.relu(x).sum([2, 3])
        score = self.linear(h)
        return score + (h * self.embedding(classes)).sum(1, keepdim=True) if self.embedding else score


# Class-conditional batch norm: PyTorch's embedding of a class is a linear map of the one-hot class.
one_hot = lambda classes, n: F.one_hot(torch.tensor(classes), n).float()
y = one_hot([2, 0, 1, 2], 3)
record("conditional_norm", ConditionalBatchNorm2d(5, 3), {"input": torch.randn(4, 5, 3, 2), "condition": y})
layer = ConditionalBatchNorm2d(5, 3).eval()
out.update({f"conditional_norm_eval.{k}": v for k, v in floats(layer.state_dict()).items()})
x = torch.randn(4, 5, 3, 2)
out |= {"conditional_norm_eval.input": x, "conditional_norm_eval.condition": y, "conditional_norm_eval.output": layer(x, y)}

# SAGAN: one-hot classes at every norm, plain weights there. BigGAN: an embedding and a part of z, spectrally normalised.
z = torch.randn(4, 6)
d = Discriminator(3)
start = {k: v.clone() for k, v in d.state_dict().items()}
record("sagan_g", Generator(6, 3, lambda x: x), {"z": z, "y0": y, "y1": y})
record("sagan_d", d, {"input": torch.randn(4, 3, 8, 12), "classes": torch.tensor([2, 0, 1, 2])})


class BigGan(nn.Module):
    """z in three parts of 2, an embedding of 5 numbers."""

    def __init__(self):
        super().__init__()
        self.shared, self.net = nn.Embedding(3, 5), Generator(2, 7, spectral_norm)

    def forward(self, z, classes):
        parts, y = z.split(2, 1), self.shared(classes)
        return self.net(parts[0], *(torch.cat([y, part], 1) for part in parts[1:]))


record("biggan_g", BigGan(), {"z": z, "classes": torch.tensor([2, 0, 1, 2])})

# Orthogonal regularisation with the mask itself, over a wide and a tall weight.
weights = {"wide": torch.randn(3, 2, 2, 2, requires_grad=True), "tall": torch.randn(7, 4, requires_grad=True)}
total = 0
for w in weights.values():
    w = w.flatten(1)
    total = total + ((w @ w.t()) * (1 - torch.eye(len(w)))).square().sum()
total.backward()
out |= {"orthogonality.value": total[None]}
out |= {f"orthogonality.{k}": w for k, w in weights.items()} | {f"orthogonality.grad_{k}": w.grad for k, w in weights.items()}

# Mode seeking as the authors' code minimises it.
a, b = (torch.randn(3, 2, 4, 5, requires_grad=True) for _ in range(2))
za, zb = torch.randn(3, 6), torch.randn(3, 6)
value = 1 / ((b - a).abs().mean() / (zb - za).abs().mean() + 1e-5)
value.backward()
out |= {"mode_seeking.a": a, "mode_seeking.b": b, "mode_seeking.z_a": za, "mode_seeking.z_b": zb}
out |= {"mode_seeking.value": value[None], "mode_seeking.grad_a": a.grad, "mode_seeking.grad_b": b.grad}

# R1, ½ E |grad D|², by double backward, from the same state as sagan_d.
d.load_state_dict(start)
d.zero_grad()
x = out["sagan_d_io.input"].detach().clone().requires_grad_()
score = d(x, torch.tensor([2, 0, 1, 2])).sum()
penalty = 0.5 * torch.autograd.grad(score, x, create_graph=True)[0].flatten(1).square().sum(1).mean()
penalty.backward()
out["sagan_d_r1.value"] = penalty[None]
out.update({f"sagan_d_r1_grad.{clean(k)}": p.grad for k, p in d.named_parameters() if p.grad is not None and p.grad.abs().max() > 0})

save("residual", out, versions)
