"""How long does a step of domain-adversarial training take in Kiln and in PyTorch, in one run on one machine?

python benches/peers/adaptation.py [--rounds N] [--modes eager,channels_last,…]

A step of 64 images of 28x28 of each domain, with the networks of Ganin 2016 (figure 4a), the gradient reversal and the losses of the
Transfer-Learning-Library (tllib.modules.grl, tllib.alignment.dann) and SGD, in Kiln and in each mode of PyTorch in turn, N times. From the
repository, with nothing else running, after `cargo build --release`. Needs torch; measured with torch==2.15.0.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KILN = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "kiln"
MODES = ["eager", "channels_last", "bf16", "channels_last+bf16"]


def theirs(mode):
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Reversal(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, by):
            ctx.by = by
            return x * 1.0

        @staticmethod
        def backward(ctx, gradient):
            return gradient.neg() * ctx.by, None

    torch.manual_seed(0)
    autocast = (lambda: torch.autocast("cpu", dtype=torch.bfloat16)) if "bf16" in mode else contextlib.nullcontext
    place = lambda x: x.to(memory_format=torch.channels_last) if "channels_last" in mode else x
    stage = lambda i, o: [nn.Conv2d(i, o, 5), nn.ReLU(), nn.MaxPool2d(2)]
    extractor = place(nn.Sequential(*stage(3, 32), *stage(32, 48), nn.Flatten()))
    labels = nn.Sequential(nn.Linear(768, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))
    domain = nn.Sequential(nn.Linear(768, 100), nn.ReLU(), nn.Linear(100, 1))
    parameters = [p for net in (extractor, labels, domain) for p in net.parameters()]
    optimizer = torch.optim.SGD(parameters, 0.01, momentum=0.9)
    images, truth = place(torch.rand(128, 3, 28, 28) * 2 - 1), torch.randint(10, (64,))
    which = torch.cat([torch.ones(64, 1), torch.zeros(64, 1)])

    def step():
        optimizer.zero_grad()
        with autocast():
            features = extractor(images)
            logits, told = labels(features[:64]), domain(Reversal.apply(features, 0.5))
        loss = F.cross_entropy(logits.float(), truth) + F.binary_cross_entropy_with_logits(told.float(), which)
        loss.backward()
        optimizer.step()

    for _ in range(5):
        step()
    each = []
    for _ in range(50):
        start = time.perf_counter()
        step()
        each.append((time.perf_counter() - start) * 1e3)
    print(json.dumps({"time": statistics.median(each), "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def ours(precision):
    found = json.loads(run(KILN, "bench", "dann", "--runs", "50", "--precision", precision, "--json").splitlines()[-1])
    return {"time": found["step_ms"], "peak": found["peak_memory"] / 2**20}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--modes", type=lambda text: text.split(","), default=MODES)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return theirs(args.peer)
    found = {}
    for _ in range(args.rounds):
        for precision in ("f32", "bf16"):
            found.setdefault(f"Kiln {precision}", []).append(ours(precision))
        for mode in args.modes:
            found.setdefault(f"PyTorch {mode}", []).append(json.loads(run(sys.executable, __file__, "--peer", mode)))
    middle = {name: statistics.median(one["time"] for one in all) for name, all in found.items()}
    best = min(ms for name, ms in middle.items() if name.startswith("PyTorch"))
    for name, ms in middle.items():
        ratio = f"   {ms / best:.2f} of PyTorch's best time" if name.startswith("Kiln") else ""
        print(f"dann {name:28} {ms:8.1f} ms   {found[name][-1]['peak']:6.0f} MiB{ratio}", flush=True)


if __name__ == "__main__":
    main()
