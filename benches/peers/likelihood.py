"""How long do a training step and sampling of models of likelihood take in Kiln and in PyTorch, in one run on one machine?

python benches/peers/likelihood.py [WORK...] [--rounds N] [--runs N]

From the repository, with nothing else running, after `cargo build --release`. The networks are those of `kiln bench`: a VAE of two layers of 500
units each way and 50 latents, batch 100 (1,000 pictures are drawn), a gated PixelCNN of 7
layers and 24 maps, a Diagonal BiLSTM of 2 layers and 24 states, on bits at 28x28, batch 16, with Adam. In PyTorch masked kernels are
multiplied by their masks and the map is skewed, as the papers have it, and sampling is a whole pass for each pixel (naive). Rounds alternate, each work a
process of its own; a line gives medians and Kiln's time over PyTorch's.
Measured with torch==2.15.0.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KILN = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "kiln"
# What Kiln calls the work, and what PyTorch does beside it.
WORKS = {
    "vae": "vae",
    "vae-sample": "vae-sample",
    "pixelcnn": "pixelcnn",
    "pixelrnn": "pixelrnn",
    "pixelcnn-sample": "pixelcnn-sample-naive",
    "pixelrnn-sample": "pixelrnn-sample-naive",
}
MODES = ["eager", "channels_last"]
P, LAYERS, HEAD, BATCH, SIDE = 24, 7, 48, 16, 28
UNITS, LATENT = 500, 50


def nets():
    import torch
    import torch.nn as nn
    import torch.nn.functional as F

    class Masked(nn.Conv2d):
        """Rows above (and the own one with mask B), or what is to the left in the own row, or both."""

        def __init__(self, inputs, outputs, kernel, kind, window):
            super().__init__(inputs, outputs, kernel, padding=kernel // 2)
            mask, c = torch.zeros(kernel, kernel), kernel // 2
            if window != "left":
                mask[:c] = 1
            if window == "above":
                mask[c] = float(kind == "B")
            else:
                mask[c, : c + (kind == "B")] = 1
            self.register_buffer("mask", mask)

        def forward(self, x):
            return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)

    def gate(x):
        a, b = x.chunk(2, 1)
        return a.tanh() * b.sigmoid()

    class Gated(nn.Module):
        def __init__(self, inputs, kernel, kind):
            super().__init__()
            self.vertical, self.horizontal = (Masked(inputs, 2 * P, kernel, kind, w) for w in ("above", "left"))
            self.across, self.out = nn.Conv2d(2 * P, 2 * P, 1, bias=False), nn.Conv2d(P, P, 1)
            self.residual = kind == "B"

        def forward(self, v, h):
            v = self.vertical(v)
            y = self.out(gate(self.horizontal(h) + self.across(v)))
            return gate(v), y + h if self.residual else y

    def head(features):
        return nn.Sequential(nn.ReLU(), nn.Conv2d(features, HEAD, 1), nn.ReLU(), nn.Conv2d(HEAD, 1, 1))

    class PixelCnn(nn.Module):
        def __init__(self):
            super().__init__()
            layers = [Gated(1, 7, "A"), *(Gated(P, 3, "B") for _ in range(LAYERS))]
            self.layers, self.head = nn.ModuleList(layers), head(P)

        def forward(self, x):
            v = h = x
            for layer in self.layers:
                v, h = layer(v, h)
            return self.head(h)

    def skew(x):
        n, c, h, w = x.shape
        return F.pad(x, (0, h)).reshape(n, c, -1)[:, :, : h * (h + w - 1)].reshape(n, c, h, h + w - 1)

    def unskew(x, w):
        n, c, h, _ = x.shape
        return F.pad(x.reshape(n, c, -1), (0, h)).reshape(n, c, h, h + w)[:, :, :, :w]

    class Diagonal(nn.Module):
        def __init__(self):
            super().__init__()
            self.input, self.state = nn.Conv2d(2 * P, 4 * P, 1), nn.Conv1d(P, 4 * P, 2, bias=False)

        def forward(self, x):
            n, _, height, width = x.shape
            inside = skew(torch.ones(1, 1, height, width)).unbind(3)
            h = c = x.new_zeros(n, P, height)
            hidden = []
            for z, inside in zip(skew(self.input(x)).unbind(3), inside):
                o, f, i, g = (z + self.state(F.pad(h, (1, 0)))).chunk(4, 1)
                c = (f.sigmoid() * c + i.sigmoid() * g.tanh()) * inside
                h = o.sigmoid() * c.tanh()
                hidden.append(h)
            return unskew(torch.stack(hidden, 3), width)

    class BiLstm(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.out = Diagonal(), Diagonal(), nn.Conv2d(P, 2 * P, 1)

        def forward(self, x):
            right = F.pad(self.right(x.flip(3)).flip(3), (0, 0, 1, 0))[:, :, :-1]
            return x + self.out(self.left(x) + right)

    def pixelrnn():
        return nn.Sequential(Masked(1, 2 * P, 7, "A", "past"), BiLstm(), BiLstm(), head(2 * P))

    class Vae(nn.Module):
        def __init__(self):
            super().__init__()
            two = lambda inputs: [nn.Linear(inputs, UNITS), nn.ReLU(), nn.Linear(UNITS, UNITS), nn.ReLU()]
            self.encoder = nn.Sequential(*two(SIDE * SIDE), nn.Linear(UNITS, 2 * LATENT))
            self.decoder = nn.Sequential(*two(LATENT), nn.Linear(UNITS, SIDE * SIDE))

    return {"vae": Vae, "pixelcnn": PixelCnn, "pixelrnn": pixelrnn}


def torch_work(work, mode, runs):
    import torch
    import torch.nn.functional as F

    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ.get("RAYON_NUM_THREADS", os.cpu_count())))
    layout = torch.channels_last if "channels_last" in mode else torch.contiguous_format
    net = nets()[work.split("-")[0]]().to(memory_format=layout)
    adam = torch.optim.Adam(net.parameters(), lr=1e-4)
    batch = 100 if work == "vae" else BATCH
    x = torch.randn(batch, 1, SIDE, SIDE).sign().to(memory_format=layout)
    bits = (x + 1) / 2

    def bound():
        mean, log_var = net.encoder(bits.flatten(1)).chunk(2, 1)
        said = net.decoder(mean + (0.5 * log_var).exp() * torch.randn_like(mean))
        kl = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum()
        return F.binary_cross_entropy_with_logits(said, bits.flatten(1), reduction="sum") + kl

    def train():
        adam.zero_grad()
        loss = bound() if work == "vae" else F.binary_cross_entropy_with_logits(net(x), bits, reduction="sum")
        loss.div(batch).backward()
        adam.step()

    @torch.no_grad()
    def sample():
        if work == "vae-sample":
            return net.decoder(torch.randn(1000, LATENT)).sigmoid()
        y, u = torch.zeros(BATCH, 1, SIDE, SIDE).to(memory_format=layout), torch.rand(BATCH, SIDE, SIDE)
        for r in range(SIDE):
            for c in range(SIDE):
                y[:, 0, r, c] = (u[:, r, c] < net(y)[:, 0, r, c].sigmoid()).float() * 2 - 1

    step, times = sample if "sample" in work else train, []
    # A pass for each pixel takes minutes, and is warm by its second pixel.
    warm = 0 if "naive" in work else 3
    for run in range(runs + warm):
        start = time.perf_counter()
        step()
        if run >= warm:
            times.append((time.perf_counter() - start) * 1e3)
    print(json.dumps({"milliseconds": statistics.median(times)}))


def kiln(work, options):
    """Milliseconds of `kiln bench`, which times a step and samples together."""
    bench, sample = work.removesuffix("-sample"), work.endswith("-sample")
    return call([KILN, "bench", bench, "--json", *options], "sample_ms" if sample else "step_ms")


def call(command, time="milliseconds"):
    """Milliseconds."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])[time]


def compare(args):
    for work in args.work or WORKS:
        found = {}
        for _ in range(args.rounds):
            found.setdefault("kiln", []).append(kiln(work, [f"--runs={args.runs}"]))
            for mode in args.modes:
                theirs = [sys.executable, __file__, WORKS[work], "--alone", mode, f"--runs={args.runs}"]
                found.setdefault(mode, []).append(call(theirs))
        middle = {name: statistics.median(times) for name, times in found.items()}
        mine = middle.pop("kiln")
        row = "   ".join(f"{name} {t:.1f} ({mine / t:.3f})" for name, t in middle.items())
        print(f"{work:22} kiln {mine:9.1f} ms   {row}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("work", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--modes", type=lambda text: text.split(","), default=MODES)
    parser.add_argument("--alone")
    args = parser.parse_args()
    if args.alone:
        torch_work(args.work[0], args.alone, args.runs)
    else:
        compare(args)
