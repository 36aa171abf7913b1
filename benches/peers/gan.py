"""How long does a training step of a GAN take in Kiln and in PyTorch, in one run on one machine?

python benches/peers/gan.py STYLEGAN2 [WORK...] [--rounds N] [--modes eager,channels_last,…]

STYLEGAN2 is a checkout of rosinality/stylegan2-pytorch, whose networks run on the CPU by its own branches for it. From the
repository, with nothing else running, after `cargo build --release`. Every work is a process of its own: `kiln bench WORK` and each
mode of PyTorch in turn, N times. Steps are means over 16, so that what happens every fourth or sixteenth step counts.
Measured with torch==2.15.0.

  stylegan2   64x64 colour, batch 16, channels 1024 / size up to 128, latents of 128; R1 every 16 steps, path length every 4
  sagan       64x64 colour, batch 16, 32 channels, attention at 32x32, hinge
  biggan      the same with skip-z, a shared embedding, two steps of D for one of G, orthogonal regularisation
"""

import argparse
import ast
import collections.abc as abc
import json
import math
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import time
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KILN = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "kiln"
WORKS = ["stylegan2", "sagan", "biggan"]
MODES = ["eager", "channels_last", "bf16"]
BATCH, SIZE, STEPS, CLASSES = 16, 64, 16, 10


def port(folder):
    """Generator and discriminator of the checkout, with channels of 1024 / size, at most 128."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    def functions(file, names, scope):
        tree = ast.parse((Path(folder) / file).read_text())
        tree.body = [node for node in tree.body if getattr(node, "name", None) in names]
        exec(compile(tree, file, "exec"), scope)
        return scope

    op = types.ModuleType("op")
    fused = functions("op/fused_act.py", {"FusedLeakyReLU", "fused_leaky_relu"}, {"torch": torch, "nn": nn, "F": F})
    fir = functions("op/upfirdn2d.py", {"upfirdn2d", "upfirdn2d_native"}, {"torch": torch, "F": F, "abc": abc})
    op.FusedLeakyReLU, op.fused_leaky_relu = fused["FusedLeakyReLU"], fused["fused_leaky_relu"]
    op.upfirdn2d, op.conv2d_gradfix = fir["upfirdn2d"], F
    sys.modules["op"] = op
    source = (Path(folder) / "model.py").read_text()
    source = re.sub(r"channels = \{.*?\}", "channels = CHANNELS", source, flags=re.DOTALL)
    model = {"CHANNELS": {2**i: min(1024 >> i, 128) for i in range(2, 9)}, "__name__": "model"}
    exec(compile(source, "model.py", "exec"), model)
    return model["Generator"](SIZE, 128, 8), model["Discriminator"](SIZE)


def stylegan2(folder, autocast):
    import torch
    from torch.nn import functional as F

    g, d = port(folder)
    ratio = lambda k: k / (k + 1)
    adam = lambda net, k: torch.optim.Adam(net.parameters(), 2e-3 * ratio(k), (0, 0.99 ** ratio(k)))
    adam_g, adam_d = adam(g, 4), adam(d, 16)
    real = torch.rand(BATCH, 3, SIZE, SIZE) * 2 - 1
    mean = torch.zeros(())

    def latents(n):
        return [torch.randn(n, 128) for _ in range(2 if random.random() < 0.9 else 1)]

    def step(i):
        nonlocal mean
        with torch.no_grad(), autocast():
            fake, _ = g(latents(BATCH))
        adam_d.zero_grad()
        with autocast():
            loss = F.softplus(d(fake)).mean() + F.softplus(-d(real)).mean()
        loss.backward()
        adam_d.step()
        if i % 16 == 0:
            x = real.clone().requires_grad_()
            (slope,) = torch.autograd.grad(d(x).sum(), x, create_graph=True)
            adam_d.zero_grad()
            (10 / 2 * slope.square().flatten(1).sum(1).mean() * 16).backward()
            adam_d.step()
        adam_g.zero_grad()
        with autocast():
            fake, _ = g(latents(BATCH))
            loss = F.softplus(-d(fake)).mean()
        loss.backward()
        adam_g.step()
        if i % 4 == 0:
            fake, w = g(latents(BATCH // 2), return_latents=True)
            y = torch.randn_like(fake) / SIZE
            (slope,) = torch.autograd.grad((fake * y).sum(), w, create_graph=True)
            lengths = slope.square().sum(2).mean(1).sqrt()
            mean = mean + 0.01 * (lengths.mean().detach() - mean)
            adam_g.zero_grad()
            (2 * 4 * (lengths - mean).square().mean()).backward()
            adam_g.step()

    return step, (g, d)


def residual(big, autocast):
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
    from torch.nn.utils.parametrizations import spectral_norm as sn

    conv = lambda i, o, k=3: sn(nn.Conv2d(i, o, k, padding=k // 2))

    class Norm(nn.Module):
        def __init__(self, c, features):
            super().__init__()
            linear = lambda: nn.Linear(features, c, bias=False)
            self.norm = nn.BatchNorm2d(c, affine=False)
            self.gain, self.bias = (sn(linear()), sn(linear())) if big else (linear(), linear())

        def forward(self, x, y):
            return self.norm(x) * (1 + self.gain(y))[:, :, None, None] + self.bias(y)[:, :, None, None]

    class Attention(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.q, self.k, self.v = (sn(nn.Conv2d(c, c // 8, 1, bias=False)) for _ in range(3))
            self.out, self.gamma = sn(nn.Conv2d(c // 8, c, 1, bias=False)), nn.Parameter(torch.zeros(1))

        def forward(self, x):
            q, k, v = (f(x).flatten(2) for f in (self.q, self.k, self.v))
            p = (q.transpose(1, 2) @ k).softmax(2)
            return x + self.gamma * self.out((v @ p.transpose(1, 2)).reshape(len(x), -1, *x.shape[2:]))

    class Up(nn.Module):
        def __init__(self, i, o, features, attention):
            super().__init__()
            self.n1, self.n2 = Norm(i, features), Norm(o, features)
            self.c1, self.c2, self.skip = conv(i, o), conv(o, o), conv(i, o, 1)
            self.attention = Attention(o) if attention else nn.Identity()

        def forward(self, x, y):
            up = lambda x: F.interpolate(x, scale_factor=2)
            h = self.c2(F.relu(self.n2(self.c1(up(F.relu(self.n1(x, y)))), y)))
            return self.attention(h + up(self.skip(x)))

    class Down(nn.Module):
        def __init__(self, i, o, first, halves, attention):
            super().__init__()
            self.c1, self.c2 = conv(i, o), conv(o, o)
            self.skip = conv(i, o, 1) if halves else nn.Identity()
            self.attention = Attention(o) if attention else nn.Identity()
            self.first, self.halves = first, halves

        def forward(self, x):
            half = lambda x: F.avg_pool2d(x, 2) if self.halves else x
            h = half(self.c2(F.relu(self.c1(x if self.first else F.relu(x)))))
            return self.attention(h + self.skip(half(x)))

    c = 32
    widths = [8 * c, 8 * c, 4 * c, 2 * c, c]

    class Generator(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Embedding(CLASSES, 128) if big else None
            features = 128 + 24 if big else CLASSES
            self.linear = sn(nn.Linear(24 if big else 128, widths[0] * 16))
            pairs = zip(widths, widths[1:])
            self.blocks = nn.ModuleList(Up(i, o, features, level == 2) for level, (i, o) in enumerate(pairs))
            self.norm, self.out = nn.BatchNorm2d(c), conv(c, 3)

        def forward(self, z, y):
            if big:
                z, *parts = z.split(24, 1)
                conditions = [torch.cat([self.shared(y), part], 1) for part in parts]
            else:
                conditions = [F.one_hot(y, CLASSES).float()] * len(self.blocks)
            x = self.linear(z).reshape(len(z), -1, 4, 4)
            for block, condition in zip(self.blocks, conditions):
                x = block(x, condition)
            return self.out(F.relu(self.norm(x))).tanh()

    class Discriminator(nn.Module):
        def __init__(self):
            super().__init__()
            sides = [3, *reversed(widths[1:]), widths[0]]
            down = lambda level: Down(sides[level], sides[level + 1], level == 0, level < 4, level == 0)
            self.blocks = nn.Sequential(*(down(level) for level in range(5)))
            self.linear, self.table = sn(nn.Linear(widths[0], 1)), sn(nn.Embedding(CLASSES, widths[0]))

        def forward(self, x, y):
            h = F.relu(self.blocks(x)).sum([2, 3])
            return self.linear(h).flatten() + (h * self.table(y)).sum(1)

    g, d = Generator(), Discriminator()
    adam_g, adam_d = torch.optim.Adam(g.parameters(), 1e-4, (0, 0.9)), torch.optim.Adam(d.parameters(), 4e-4, (0, 0.9))
    real, y = torch.rand(BATCH, 3, SIZE, SIZE) * 2 - 1, torch.arange(BATCH) % CLASSES
    latent = 120 if big else 128

    def step(i):
        with torch.no_grad(), autocast():
            fake = g(torch.randn(BATCH, latent), y)
        adam_d.zero_grad()
        with autocast():
            score = d(torch.cat([real, fake.float()]), torch.cat([y, y]))
            loss = F.relu(1 - score[:BATCH]).mean() + F.relu(1 + score[BATCH:]).mean()
        loss.backward()
        adam_d.step()
        if big and i % 2:
            return
        adam_g.zero_grad()
        with autocast():
            loss = -d(g(torch.randn(BATCH, latent), y), y).mean()
        if big:
            for name, w in g.named_parameters():
                if w.dim() > 1 and "shared" not in name:
                    w = w.flatten(1)
                    loss = loss + 1e-4 * ((w @ w.t()) * (1 - torch.eye(len(w)))).square().sum()
        loss.backward()
        adam_g.step()

    return step, (g, d)


def theirs(folder, work, mode):
    import torch

    torch.manual_seed(0)
    autocast = lambda: torch.autocast("cpu", dtype=torch.bfloat16, enabled="bf16" in mode)
    step, nets = stylegan2(folder, autocast) if work == "stylegan2" else residual(work == "biggan", autocast)
    if "channels_last" in mode:
        for net in nets:
            net.to(memory_format=torch.channels_last)
    step(0)
    each = []
    for run in range(3):
        start = time.perf_counter()
        for i in range(STEPS):
            step(i)
        each.append((time.perf_counter() - start) * 1e3 / STEPS)
    print(json.dumps({"step": statistics.median(each), "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("checkout")
    parser.add_argument("works", nargs="*", default=WORKS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--modes", type=lambda text: text.split(","), default=MODES)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return theirs(args.checkout, *args.peer.split(","))

    def run(*words):
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        return json.loads(done.stdout.splitlines()[-1])

    for work in args.works:
        found = {}
        for _ in range(args.rounds):
            for precision in ("f32", "bf16"):
                ours = run(KILN, "bench", work, "--runs", 3, "--precision", precision, "--json")
                one = {"step": ours["step_ms"], "peak": ours["peak_memory"] / 2**20}
                found.setdefault(f"Kiln {precision}", []).append(one)
            for mode in args.modes:
                one = run(sys.executable, __file__, args.checkout, "--peer", f"{work},{mode}")
                found.setdefault(f"PyTorch {mode}", []).append(one)
        middle = {name: {k: statistics.median(one[k] for one in all) for k in all[0]} for name, all in found.items()}
        best = min(v["step"] for k, v in middle.items() if k.startswith("PyTorch"))
        least = min(v["peak"] for k, v in middle.items() if k.startswith("PyTorch"))
        for name, v in middle.items():
            ratio = f"   {v['step'] / best:.2f} of PyTorch's best time, {v['peak'] / least:.2f} of its memory" if name.startswith("Kiln") else ""
            print(f"{work:10} {name:24} {v['step']:8.1f} ms   {v['peak']:6.0f} MiB{ratio}", flush=True)


if __name__ == "__main__":
    main()
