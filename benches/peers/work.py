"""How long does the field's usual work take in Kiln and in PyTorch, in one run on one machine?

python benches/peers/work.py [WORK...] [--rounds N] [--modes eager,channels_last,...]

From the repository, with nothing else running, after `cargo build --release`. Every work is a process of its
own, `kiln bench WORK` and each mode of PyTorch in turn, N times. A line a precision gives the medians, Kiln's time over
each of PyTorch's, and the processes' peak memory. Measured with torch==2.15.0.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KILN = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "kiln"
WORKS = ["conv-forward", "conv", "conv-transpose", "unet", "unet-forward", "dcgan", "adamw"]
MODES = ["eager", "channels_last", "bf16", "bf16_channels_last", "compile", "compile_channels_last", "compile_bf16"]
PRECISIONS = ["f32", "bf16"]
LEVELS = (1, 2, 2)


def nets():
    """The U-Net of `kiln bench`, layer by layer, and DCGAN's networks."""
    import torch
    import torch.nn as nn
    import torch.nn.functional as F

    class Block(nn.Module):
        def __init__(self, inputs, outputs, time):
            super().__init__()
            self.norm1, self.conv1 = nn.GroupNorm(8, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
            self.time = nn.Linear(time, outputs)
            self.norm2, self.conv2 = nn.GroupNorm(8, outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
            self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

        def forward(self, x, t):
            h = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(t))[:, :, None, None]
            return self.skip(x) + self.conv2(F.silu(self.norm2(h)))

    class Attention(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.norm, self.qkv, self.proj = nn.GroupNorm(8, c), nn.Conv2d(c, 3 * c, 1), nn.Conv2d(c, c, 1)

        def forward(self, x):
            b, c, h, w = x.shape
            q, k, v = (p.transpose(1, 2) for p in self.qkv(self.norm(x)).reshape(b, 3 * c, h * w).chunk(3, 1))
            out = F.scaled_dot_product_attention(q, k, v)
            return x + self.proj(out.transpose(1, 2).reshape(b, c, h, w))

    class UNet(nn.Module):
        def __init__(self, channels=64):
            super().__init__()
            time, c, skips = 4 * channels, channels, []
            self.channels = channels
            self.time1, self.time2 = nn.Linear(channels, time), nn.Linear(time, time)
            self.conv_in = nn.Conv2d(1, c, 3, padding=1)
            self.down, self.halve, self.up, self.upward = (nn.ModuleList() for _ in range(4))
            for level, m in enumerate(LEVELS):
                for _ in range(2):
                    self.down.append(Block(c, channels * m, time))
                    c = channels * m
                    skips.append(c)
                if level + 1 < len(LEVELS):
                    self.halve.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
            self.first, self.attention, self.second = Block(c, c, time), Attention(c), Block(c, c, time)
            for level, m in reversed(list(enumerate(LEVELS))):
                for _ in range(2):
                    self.up.append(Block(c + skips.pop(), channels * m, time))
                    c = channels * m
                if level > 0:
                    self.upward.append(nn.Conv2d(c, c, 3, padding=1))
            self.norm_out, self.conv_out = nn.GroupNorm(8, c), nn.Conv2d(c, 1, 3, padding=1)

        def forward(self, x, t):
            half = self.channels // 2
            f = torch.exp(torch.arange(half) * (-math.log(10000) / half))
            t = t[:, None] * f[None]
            t = self.time2(F.silu(self.time1(torch.cat([t.sin(), t.cos()], 1))))
            h, skips = self.conv_in(x), []
            for i, block in enumerate(self.down):
                h = block(h, t)
                skips.append(h)
                if i % 2 and i // 2 < len(self.halve):
                    h = self.halve[i // 2](h)
            h = self.second(self.attention(self.first(h, t)), t)
            for i, block in enumerate(self.up):
                h = block(torch.cat([h, skips.pop()], 1), t)
                if i % 2 and i // 2 < len(self.upward):
                    h = self.upward[i // 2](F.interpolate(h, scale_factor=2, mode="nearest"))
            return self.conv_out(F.silu(self.norm_out(h)))

    def generator(c):
        up = lambda i, o: [nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(True)]
        first = [nn.ConvTranspose2d(100, 8 * c, 4, bias=False), nn.BatchNorm2d(8 * c), nn.ReLU(True)]
        last = [nn.ConvTranspose2d(c, 3, 4, 2, 1, bias=False), nn.Tanh()]
        return nn.Sequential(*first, *up(8 * c, 4 * c), *up(4 * c, 2 * c), *up(2 * c, c), *last)

    def discriminator(c):
        down = lambda i, o: [nn.Conv2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.2, True)]
        first = [nn.Conv2d(3, c, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
        last = [nn.Conv2d(8 * c, 1, 4, bias=False), nn.Flatten(0)]
        return nn.Sequential(*first, *down(c, 2 * c), *down(2 * c, 4 * c), *down(4 * c, 8 * c), *last)

    return UNet, generator, discriminator


def torch_work(work, mode, batch, size, channels, runs):
    import torch
    import torch.nn as nn
    import torch.nn.functional as F

    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ.get("RAYON_NUM_THREADS", os.cpu_count())))
    UNet, generator, discriminator = nets()
    layout = torch.channels_last if "channels_last" in mode else torch.contiguous_format
    autocast = lambda: torch.autocast("cpu", dtype=torch.bfloat16, enabled="bf16" in mode)
    place = lambda net: net.to(memory_format=layout)
    compiled = lambda net: torch.compile(net) if "compile" in mode else net
    pictures = lambda *shape: torch.randn(*shape).to(memory_format=layout)
    if work in ("conv", "conv-forward", "conv-transpose"):
        if work == "conv-transpose":
            n, c, side = batch or 64, channels or 128, size or 14
            net = place(nn.ConvTranspose2d(c, c // 2, 4, 2, 1))
        else:
            n, c, side = batch or 32, channels or 64, size or 32
            net = place(nn.Conv2d(c, c, 3, padding=1))
        x, net = pictures(n, c, side, side), compiled(net)
        x.requires_grad_(work != "conv-forward")

        def step():
            if work == "conv-forward":
                with torch.no_grad(), autocast():
                    net(x)
                return
            x.grad = None
            net.zero_grad()
            with autocast():
                y = net(x)
            y.sum().backward()
    elif work in ("unet", "unet-forward"):
        n, side = batch or (32 if work == "unet" else 16), size or 28
        inner = place(UNet(channels or 64))
        net = compiled(inner)
        x, noise = torch.randn(n, 1, side, side), torch.randn(n, 1, side, side)
        t = torch.arange(n).float() * 31 % 1000
        optimizer = torch.optim.Adam(inner.parameters(), lr=1e-4)

        def step():
            if work == "unet-forward":
                with torch.no_grad(), autocast():
                    net(x, t)
                return
            optimizer.zero_grad()
            with autocast():
                loss = F.mse_loss(net(x, t).float(), noise)
            loss.backward()
            optimizer.step()
    elif work == "dcgan":
        n = batch or 64
        assert not size, "only 64x64"
        inner = [place(make(channels or 64)) for make in (generator, discriminator)]
        make, judge = (compiled(net) for net in inner)
        adams = [torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999)) for net in inner]
        real, z = pictures(n, 3, 64, 64).tanh(), torch.randn(n, 100, 1, 1)
        is_, isnt = torch.ones(n), torch.zeros(n)

        def step():
            loss = lambda logits, target: F.binary_cross_entropy_with_logits(logits.float(), target)
            adams[1].zero_grad()
            with autocast():
                fake = make(z)
                total = loss(judge(real), is_) + loss(judge(fake.detach()), isnt)
            total.backward()
            adams[1].step()
            adams[0].zero_grad()
            with autocast():
                total = loss(judge(make(z)), is_)
            total.backward()
            adams[0].step()
    else:
        live = nn.Sequential(*[nn.Linear(1000, 1000) for _ in range(30)])
        average = [p.detach().clone() for p in live.parameters()]
        optimizer = torch.optim.AdamW(live.parameters(), lr=1e-4, weight_decay=0.01, fused="compile" in mode)
        for p in live.parameters():
            p.grad = torch.randn_like(p)

        def step():
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(average, list(live.parameters()), 0.001)

    times = []
    for run in range(runs + 3):
        start = time.perf_counter()
        step()
        if run >= 3:
            times.append((time.perf_counter() - start) * 1e3)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"milliseconds": statistics.median(times), "peak_memory": peak << 20}))


# A benchmark of Kiln's gives several times; a work here is one of them.
TIMES = {"conv-forward": ("conv", "forward_ms"), "unet-forward": ("unet", "forward_ms")}


def kiln(work, options):
    """Milliseconds and MiB of `kiln bench`. A forward pass of the U-Net is of half the batch."""
    bench, time = TIMES.get(work, (work, "step_ms"))
    return call([KILN, "bench", bench, "--json", *options], time)


def call(command, time="milliseconds"):
    """Milliseconds and MiB."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr}")
    said = json.loads(done.stdout.strip().splitlines()[-1])
    return said[time], said["peak_memory"] / 2**20


def compare(args):
    shape = [f"--{k}={getattr(args, k)}" for k in ("batch", "size", "channels") if getattr(args, k)]
    for work in args.work or WORKS:
        found = {}
        for _ in range(args.rounds):
            for precision in PRECISIONS:
                mine = kiln(work, ["--precision", precision, f"--runs={args.runs}", *shape])
                found.setdefault(f"kiln {precision}", []).append(mine)
            for mode in args.modes:
                theirs = [sys.executable, __file__, work, "--alone", mode, f"--runs={args.runs}", *shape]
                found.setdefault(mode, []).append(call(theirs))
        middle = {n: [statistics.median(v) for v in zip(*runs)] for n, runs in found.items()}
        for precision in PRECISIONS:
            time, peak = middle.pop(f"kiln {precision}")
            peers = {n: v for n, v in middle.items() if ("bf16" in n) == (precision == "bf16")}
            row = "   ".join(f"{n} {t:.2f} ({time / t:.2f}), {m:.0f} MiB" for n, (t, m) in peers.items())
            print(f"{work:14} {precision:4} kiln {time:9.2f} ms, {peak:.0f} MiB   {row}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("work", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--modes", type=lambda text: text.split(","), default=MODES[:4])
    parser.add_argument("--alone")
    for name in ("batch", "size", "channels"):
        parser.add_argument(f"--{name}", type=int)
    args = parser.parse_args()
    if args.alone:
        torch_work(args.work[0], args.alone, args.batch, args.size, args.channels, args.runs)
    else:
        compare(args)
