"""How long do sampling and a training step take in Kiln and in diffusers, of one model with one set of weights?

python benches/peers/diffusion.py [--rounds N] [--modes eager,channels_last,...]

From the repository, with nothing else running, after `cargo build --release`. A small U-Net is trained for a few steps
by `kiln train`, and written by `kiln export` for diffusers to open. Sampling is 64 pictures by DDIM's 50 steps: the whole
process of Kiln, its start and its PNGs with it, against the steps alone in diffusers. A training step is what 40 more
steps of `kiln train` add to its process (reading, the gradient's clip, AdamW and the average with them), over 40; in
diffusers it is the same work on pictures already there, the average by torch's fused lerp. A line a precision gives the
medians and Kiln's time over each of the peer's. Measured with diffusers==0.42.1 torch==2.15.0.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KILN = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "kiln"
MODES = ["eager", "channels_last", "bf16", "bf16_channels_last", "compile", "compile_bf16"]
PRECISIONS = ["f32", "bf16"]
SAMPLES, STEPS, BATCH = 64, 50, 32
MODEL = [
    "model.unet.patch=1",
    "model.unet.base_channels=32",
    "model.unet.channel_multipliers=[1, 2, 2]",
    "model.unet.blocks=2",
    "model.unet.attention_levels=[2]",
    "model.optimizer.method=adamw",
]


def kiln(*arguments):
    """Seconds."""
    start = time.perf_counter()
    done = subprocess.run([str(a) for a in (KILN, *arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{arguments}: {done.stderr}")
    return time.perf_counter() - start


def train(root, precision, steps):
    flags = [f for setting in MODEL for f in ("--set", setting)]
    flags += ["--set", "train.preview_every=0", "--set", "train.images=100000", "--quiet", "--precision", precision]
    return kiln("train", "ddpm", "--data", "starter", "--batch", BATCH, "--steps", steps, "--out", root, *flags)


def ours(folder, model):
    """Seconds of sampling and of a step, by precision."""
    found = {}
    for precision in PRECISIONS:
        out = tempfile.mkdtemp(dir=folder)
        flags = ["--sampler", "ddim", "--steps", STEPS, "--eta", 0, "--precision", precision, "--quiet"]
        sampling = kiln("sample", model, "-n", SAMPLES, *flags, "--out", out)
        few, many = (train(f"{out}/{steps}", precision, steps) for steps in (10, 50))
        found[precision] = (sampling, (many - few) / 40)
    return found


def theirs(exported, mode):
    import torch
    import torch.nn.functional as F
    from diffusers import DDIMScheduler, UNet2DModel

    torch.manual_seed(0)
    layout = torch.channels_last if "channels_last" in mode else torch.contiguous_format
    autocast = lambda: torch.autocast("cpu", dtype=torch.bfloat16, enabled="bf16" in mode)
    net = UNet2DModel.from_pretrained(exported, subfolder="unet").to(memory_format=layout)
    asked = torch.compile(net) if "compile" in mode else net
    scheduler = DDIMScheduler.from_pretrained(exported, subfolder="scheduler")
    side = net.config.sample_size
    side = side if isinstance(side, int) else side[0]

    def sample():
        scheduler.set_timesteps(STEPS)
        x = torch.randn(SAMPLES, 1, side, side).to(memory_format=layout)
        with torch.inference_mode(), autocast():
            for t in scheduler.timesteps:
                x = scheduler.step(asked(x, t).sample.float(), t, x, eta=0.0).prev_sample
        return x

    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-4, fused="compile" in mode)
    live, average = list(net.parameters()), [p.detach().clone() for p in net.parameters()]
    x0 = torch.rand(BATCH, 1, side, side).to(memory_format=layout) * 2 - 1

    def step():
        noise, t = torch.randn_like(x0), torch.randint(0, scheduler.config.num_train_timesteps, (BATCH,))
        optimizer.zero_grad()
        with autocast():
            said = asked(scheduler.add_noise(x0, noise, t), t).sample
        F.mse_loss(said.float(), noise).backward()
        torch.nn.utils.clip_grad_norm_(live, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, live, 0.001)

    def seconds(work, runs):
        work()
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    # Sampling first: its weights are the exported ones.
    net.eval()
    sampling = seconds(sample, 1)
    net.train()
    print(json.dumps([sampling, seconds(step, 20)]))


def compare(args):
    with tempfile.TemporaryDirectory() as folder:
        model, exported = f"{folder}/model", f"{folder}/exported"
        train(model, "f32", 20)
        kiln("export", model, "--out", exported)
        found = {}
        for _ in range(args.rounds):
            for precision, times in ours(folder, model).items():
                found.setdefault(f"kiln {precision}", []).append(times)
            for mode in args.modes:
                said = subprocess.run(
                    [sys.executable, __file__, "--alone", mode, exported], capture_output=True, text=True
                )
                if said.returncode:
                    sys.exit(f"{mode}: {said.stderr}")
                found.setdefault(mode, []).append(json.loads(said.stdout.strip().splitlines()[-1]))
    middle = {n: [statistics.median(v) for v in zip(*runs)] for n, runs in found.items()}
    for at, work in enumerate(["64 pictures, DDIM 50", f"training step of {BATCH}"]):
        for precision in PRECISIONS:
            mine = middle[f"kiln {precision}"][at]
            peers = {n: t[at] for n, t in middle.items() if n in args.modes and ("bf16" in n) == (precision == "bf16")}
            row = "   ".join(f"{n} {t:.3f} ({mine / t:.2f})" for n, t in peers.items())
            print(f"{work:22} {precision:4} kiln {mine:8.3f} s   {row}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--modes", type=lambda text: text.split(","), default=MODES[:4])
    parser.add_argument("--alone", nargs=2)
    args = parser.parse_args()
    theirs(args.alone[1], args.alone[0]) if args.alone else compare(args)
