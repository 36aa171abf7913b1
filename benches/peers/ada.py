"""How long does ADA's augmentation take in Kiln and in the authors' code, in one run on one machine?

python benches/peers/ada.py STYLEGAN2_ADA [--rounds N]

STYLEGAN2_ADA is a checkout of NVlabs/stylegan2-ada-pytorch. From the repository, with nothing else running, after
`cargo build --release`. Blit, geometry and color with probability 1 on 16 colour images of 64x64, forwards and with the gradient in the
images; `kiln bench ada` and PyTorch in turn, N times, each in a process of its own. Measured with torch==2.15.0.
"""

import argparse
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
RUNS = 15


def theirs(checkout):
    sys.path.insert(0, checkout)
    import torch
    from training.augment import AugmentPipe

    groups = "xflip rotate90 xint scale rotate aniso xfrac brightness contrast lumaflip hue saturation"
    pipe = AugmentPipe(**{name: 1 for name in groups.split()})
    plain = torch.randn(16, 3, 64, 64)
    tracked = plain.clone().requires_grad_()

    def forward():
        with torch.inference_mode():
            pipe(plain)

    def step():
        pipe(tracked).sum().backward()

    times = {}
    for name, work in [("forward", forward), ("step", step)]:
        each = []
        for run in range(RUNS + 3):
            start = time.perf_counter()
            work()
            each.append((time.perf_counter() - start) * 1e3)
        times[name] = statistics.median(each[3:])
    print(json.dumps({**times, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("checkout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return theirs(args.checkout)
    ours, peer = [], []
    for _ in range(args.rounds):
        done = subprocess.run([KILN, "bench", "ada", "--runs", str(RUNS), "--json"], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        ours.append({"forward": found["forward_ms"], "step": found["step_ms"], "peak": found["peak_memory"] / 2**20})
        done = subprocess.run([sys.executable, __file__, args.checkout, "--peer"], capture_output=True, text=True, check=True)
        peer.append(json.loads(done.stdout.splitlines()[-1]))
    for name, unit in [("forward", "ms"), ("step", "ms"), ("peak", "MiB")]:
        a, b = (statistics.median(one[name] for one in side) for side in (ours, peer))
        print(f"{name:8} Kiln {a:8.1f} {unit}   PyTorch {b:8.1f} {unit}   {a / b:.2f}")


if __name__ == "__main__":
    main()
