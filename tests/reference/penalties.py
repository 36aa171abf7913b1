"""Penalties on gradients by double backward, every layer of a discriminator in turn; weights and what they go through.

Made with torch==2.15.0, safetensors==0.8.0. All in double precision, from numbers that single precision can represent.

A case's critic is D(x) = sum(readout * silu(layer(conv(x)))), so that every layer has a network before and behind it.
<case>.conv.weight, .conv.bias, .layer.<parameter>, .readout are its parameters; <case>.r1 and <case>.gp the penalties
½ E |grad D(x)|² at `x` and E (|grad D(x')| - 1)² at x' = mix x + (1 - mix) fake; <case>.r1.<parameter> and
<case>.gp.<parameter> their gradients.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from reference import begin, save, spread

versions = begin(seed=17)
torch.set_default_dtype(torch.float64)
out = {}


def single(*shape, scale=1.0):
    return (scale * torch.randn(*shape)).float().double()


x, fake, mix = single(4, 3, 6, 4), single(4, 3, 6, 4), torch.rand(4).float().double()
classes = torch.tensor([2, 0, 1, 2])
out |= {"x": x, "fake": fake, "mix": mix}
TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
LEAK = float(torch.tensor(0.2, dtype=torch.float32))


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function


def fir(x, up=1, down=1, pad=(0, 0), gain=1.0):
    """Zeros inserted, padded, convolved along both axes, every down-th pixel kept."""
    n, c, h, w = x.shape
    if up > 1:
        x = F.pad(x.reshape(n, c, h, 1, w, 1), [0, up - 1, 0, 0, 0, up - 1]).reshape(n, c, h * up, w * up)
    x = F.pad(x, [*pad, *pad])
    kernel = torch.outer(TAPS, TAPS).flip([0, 1]) * gain
    x = F.conv2d(x, kernel[None, None].repeat(c, 1, 1, 1), groups=c)
    return x[:, :, ::down, ::down]


def minibatch_std(x, group):
    n, c, h, w = x.shape
    y = x.reshape(group, -1, 1, c, h, w)
    y = (y - y.mean(0)).square().mean(0)
    y = (y + 1e-8).sqrt().mean([2, 3, 4]).reshape(-1, 1, 1, 1).repeat(group, 1, h, w)
    return torch.cat([x, y], 1)


class SelfAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(c, c // 8, 1, bias=False) for _ in range(3))
        self.out = nn.Conv2d(c // 8, c, 1, bias=False)
        self.gamma = nn.Parameter(torch.tensor([0.7]))

    def forward(self, x):
        q, k, v = (f(x).flatten(2) for f in (self.query, self.key, self.value))
        p = (q.transpose(1, 2) @ k).softmax(2)
        return x + self.gamma * self.out((v @ p.transpose(1, 2)).reshape(len(x), -1, *x.shape[2:]))


class Projection(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, c))

    def forward(self, x):
        h = F.silu(x).sum([2, 3])
        return torch.cat([h, (h * self.weight[classes]).sum(1, keepdim=True)], 1)


class Equalized(nn.Module):
    def __init__(self, gain, lr, weight, call):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight / lr), nn.Parameter(torch.randn(weight.shape[0]))
        self.factor, self.lr, self.call = gain * lr / math.sqrt(weight[0].numel()), lr, call

    def forward(self, x):
        return self.call(x, self.weight * self.factor, self.bias * self.lr)


def layers():
    c = 8
    yield "conv", nn.Conv2d(c, 5, 3, stride=2, padding=1)
    yield "conv_transpose", nn.ConvTranspose2d(c, 3, 4, stride=2, padding=1)
    yield "linear", nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(c * 6, 5))
    yield "relu", nn.ReLU()
    yield "leaky_relu", nn.LeakyReLU(LEAK)
    yield "sigmoid", nn.Sigmoid()
    yield "silu", nn.SiLU()
    yield "gelu", nn.GELU()
    yield "gelu_tanh", nn.GELU(approximate="tanh")
    yield "tanh", nn.Tanh()
    yield "softplus", nn.Softplus()
    yield "instance_norm", nn.Sequential(nn.InstanceNorm2d(c), nn.LeakyReLU(LEAK))
    yield "group_norm", nn.Sequential(spread(nn.GroupNorm(2, c)), nn.SiLU())
    yield "layer_norm", spread(nn.LayerNorm(4))
    yield "batch_norm", nn.Sequential(spread(nn.BatchNorm2d(c)), nn.ReLU())
    yield "pixel_norm", Call(lambda x: x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt())
    yield "avg_pool", nn.AvgPool2d(2)
    yield "upsample_nearest", nn.Upsample(scale_factor=2, mode="nearest")
    yield "interpolate", Call(lambda x: F.interpolate(x, (12, 8), mode="bilinear"))
    yield "blur", Call(lambda x: fir(x, pad=(2, 1)))
    yield "fir_up", Call(lambda x: fir(x, up=2, pad=(2, 1), gain=4.0))
    yield "fir_down", Call(lambda x: fir(x, down=2, pad=(1, 1)))
    yield "reflect_pad", nn.ReflectionPad2d(1)
    yield "pixel_shuffle", nn.PixelShuffle(2)
    yield "pixel_unshuffle", nn.PixelUnshuffle(2)
    yield "add", Call(lambda x: x + 0.5 * torch.tanh(x))
    yield "add_activate", Call(lambda x: F.silu(x + torch.tanh(x)))
    yield "concat", Call(lambda x: torch.cat([x, torch.tanh(x)], 1))
    yield "concat_constant", Call(lambda x: torch.cat([x, torch.ones_like(x)], 1))
    yield "global_mean", Call(lambda x: F.silu(x).mean([2, 3]))
    yield "projection", Projection(c)
    yield "minibatch_std", Call(lambda x: minibatch_std(x, 2))
    yield "self_attention", SelfAttention(16)
    yield "spectral_conv", nn.utils.parametrizations.spectral_norm(nn.Conv2d(c, 5, 3, stride=2, padding=1))
    yield "spectral_conv_transpose", nn.utils.parametrizations.spectral_norm(nn.ConvTranspose2d(c, 3, 4, 2, 1))
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(c * 6, 5))
    yield "spectral_linear", nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), spectral)
    conv = lambda x, w, b: F.conv2d(x, w, b, padding=1)
    yield "equalized_conv", Equalized(math.sqrt(2), 1.0, torch.randn(5, c, 3, 3), conv)
    yield "equalized_linear", nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), Equalized(1.0, 0.01, torch.randn(5, c * 6), F.linear))


RENAMED = {"parametrizations.weight.original": "weight", "parametrizations.weight.0._u": "parametrization.u"}
RENAMED |= {"parametrizations.weight.0._v": "parametrization.v"}


def clean(name):
    """layer.0.weight of a sequence is layer.weight here."""
    name = ".".join(p for i, p in enumerate(name.split(".")) if not (i == 1 and p.isdigit()))
    for old, new in RENAMED.items():
        name = name.replace(old, new)
    return name


def record(case, net, parameters, penalties):
    """State, then each penalty and its gradients, from the same state."""
    with torch.no_grad():
        for p in net.state_dict().values():
            if p.is_floating_point():
                p.copy_(p.float().double())
    state = {k: v.clone() for k, v in net.state_dict().items()}
    out.update({f"{case}.{clean(k)}": v.float() for k, v in state.items() if v.is_floating_point()})
    for name, penalty in penalties.items():
        net.load_state_dict(state)
        net.zero_grad()
        value = penalty()
        value.backward()
        out[f"{case}.{name}"] = value
        out.update({f"{case}.{name}.{clean(k)}": p.grad for k, p in parameters})


def gradient(critic, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(critic(x).sum(), x, create_graph=True)[0].flatten(1)


def penalties(critic):
    between = fake + (x - fake) * mix[:, None, None, None]
    return {
        "r1": lambda: 0.5 * gradient(critic, x).square().sum(1).mean(),
        "gp": lambda: (gradient(critic, between).norm(dim=1) - 1).square().mean(),
    }


class Critic(nn.Module):
    def __init__(self, c, layer):
        super().__init__()
        self.conv, self.layer = nn.Conv2d(3, c, 3, padding=1), layer
        with torch.no_grad():
            features = self.layer(self.conv(x)).flatten(1).shape[1]
        self.readout = nn.Parameter(torch.randn(1, features))

    def forward(self, x):
        return (self.readout * F.silu(self.layer(self.conv(x)).flatten(1))).sum(1)


for case, layer in layers():
    net = Critic(16 if case == "self_attention" else 8, layer).double()
    record(case, net, list(net.named_parameters()), penalties(net))


# A whole critic: convolutions, leaky ReLU, minibatch deviation, a linear layer.
class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.utils.parametrizations.spectral_norm(nn.Conv2d(6, 8, 4, stride=2, padding=1))
        self.logit = nn.Linear(9 * 6, 1)

    def forward(self, x):
        x = F.leaky_relu(self.second(F.leaky_relu(self.first(x), LEAK)), LEAK)
        return self.logit(minibatch_std(x, 4).flatten(1))


net = Tiny().double()
# The last bias has no gradient.
record("tiny", net, [(k, p) for k, p in net.named_parameters() if k != "logit.bias"], penalties(net))


# Path length: w of two layers from a mapping, a constant, a modulated convolution with and one without demodulation.
def modulated(x, weight, styles, demodulate):
    n, c, h, w = x.shape
    weight = weight[None] * styles[:, None, :, None, None]
    if demodulate:
        weight = weight * (weight.square().sum([2, 3, 4], keepdim=True) + 1e-8).rsqrt()
    y = F.conv2d(x.reshape(1, n * c, h, w), weight.flatten(0, 1), padding=weight.shape[-1] // 2, groups=n)
    return y.reshape(n, -1, h, w)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.mapping = nn.Linear(3, 10)
        self.constant = nn.Parameter(torch.randn(1, 4, 4, 6))
        self.affine1, self.affine2 = nn.Linear(5, 4), nn.Linear(5, 6)
        self.weight1, self.weight2 = nn.Parameter(torch.randn(6, 4, 3, 3)), nn.Parameter(torch.randn(3, 6, 1, 1))

    def forward(self, w):
        x = self.constant.expand(len(w), -1, -1, -1)
        x = F.leaky_relu(modulated(x, self.weight1, self.affine1(w[:, 0]) + 1, True), LEAK)
        return modulated(x, self.weight2, self.affine2(w[:, 1]) + 1, False)


net, z, noise = Generator().double(), single(4, 3), single(4, 3, 4, 6)
out |= {"path.z": z, "path.noise": noise}


def path_length():
    w = net.mapping(z).tanh().reshape(4, 2, 5)
    g = torch.autograd.grad((net(w) * noise / math.sqrt(24)).sum(), w, create_graph=True)[0]
    lengths = g.square().sum(2).mean(1).sqrt()
    # The gradient goes through the mean, as in StyleGAN2's code.
    mean = 1.5 + 0.01 * (lengths.mean() - 1.5)
    out["path.mean"] = mean.detach()
    return (lengths - mean).square().mean()


record("path", net, list(net.named_parameters()), {"pl": path_length})

# Weights: orthogonal initialisation of given normal numbers, as torch.nn.init does it.
for shape in [(6, 4), (4, 6), (5, 3, 2, 2), (3, 4, 3, 3)]:
    name = "orthogonal." + "x".join(map(str, shape))
    normal = single(*shape)
    rows = normal.reshape(shape[0], -1)
    q, r = torch.linalg.qr(rows.t() if rows.shape[0] < rows.shape[1] else rows)
    q = q * r.diagonal().sign()
    q = (q.t() if rows.shape[0] < rows.shape[1] else q).reshape(shape)
    # The library's own, whose normal numbers are these.
    own, draw = torch.empty(shape), torch.Tensor.normal_
    torch.Tensor.normal_ = lambda self, *a, **k: self.copy_(normal.reshape(self.shape))
    nn.init.orthogonal_(own, gain=1.0)
    torch.Tensor.normal_ = draw
    print(name, float((own - q).abs().max()))
    out |= {f"{name}.normal": normal, f"{name}.output": own}

# Batch normalisation whose scale 1 + gain(y) and shift bias(y) a condition gives, by spectrally normalised weights.
class ConditionalBatchNorm(nn.Module):
    def __init__(self, c):
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        self.gain, self.bias = (norm(nn.Linear(3, c, bias=False)) for _ in range(2))
        self.norm = nn.BatchNorm2d(c, affine=False)

    def forward(self, x):
        y = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 0.5]])
        gain, bias = ((f(y)[:, :, None, None]) for f in (self.gain, self.bias))
        return F.relu(self.norm(x) * (1 + gain) + bias)


net = Critic(8, ConditionalBatchNorm(8)).double()
RENAMED |= {"layer.norm.": "layer."}
record("conditional_batch_norm", net, list(net.named_parameters()), penalties(net))

save("penalties", out, versions)
