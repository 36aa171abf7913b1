"""Are Kiln's defaults as good as its best recipe, and as a plain PyTorch loop, after the same seconds of training?

python benches/peers/defaults.py [--seconds N] [--only NAME,...]

From the repository, with nothing else running, after `cargo build --release` and `kiln data fetch fashion`. Every
contestant trains on Fashion-MNIST for so many seconds (300), then draws 2,000 pictures: a diffusion by 50 steps of DDIM, and
again by its own sampler, with no flag. The judge is nobody's: a small classifier trained here in PyTorch, between whose
features of the 2,000 and of 10,000 training pictures the Fréchet distance is taken. How many images Kiln sees in that time is
measured first, for its schedules end with the run.

  ddpm          kiln train ddpm with 32 channels, batch 64, bf16
  starter       recipes/ddpm/starter.toml
  paper         recipes/ddpm/paper.toml with 32 channels and batch 64
  torch-ddpm    the same network in diffusers, linear schedule, ε, Adam 2e-4, batch 64, in f32 or bf16, whichever is faster
  dcgan         kiln train dcgan
  torch-dcgan   the network of PyTorch's DCGAN example for 28 pixels, 64 channels, Adam 2e-4 and β₁ 0.5, batch 64

Measured with torch==2.15.0 diffusers==0.42.1 scipy==1.17.1.
"""

import argparse
import gzip
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
KILN = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "kiln"
SAMPLES, STEPS, BATCH = 2000, 50, 64
DDIM = ["--sampler", "ddim", "--steps", str(STEPS)]
SMALL = ["--set", "model.unet.base_channels=32", "--batch", str(BATCH)]
SAMPLINGS = {"DDIM, 50 steps": DDIM, "as it comes": []}
CONTESTANTS = {
    "ddpm": (["ddpm", *SMALL, "--precision", "bf16"], SAMPLINGS),
    "starter": (["recipes/ddpm/starter.toml"], SAMPLINGS),
    "paper": (
        ["recipes/ddpm/paper.toml", *SMALL, "--precision", "bf16"]
        + [f for s in ("groups=8", "dropout=0.0") for f in ("--set", f"model.unet.{s}")]
        + ["--set", "model.optimizer.warmup=5000", "--set", "train.ema_half_life=2000"],
        {"DDIM, 50 steps": DDIM},
    ),
    "dcgan": (["dcgan"], {"as it comes": []}),
}


def kiln(*arguments):
    done = subprocess.run([str(a) for a in (KILN, *arguments)], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{arguments}: {done.stderr}")
    return done.stdout


def pictures():
    """Fashion-MNIST's training part, where Kiln keeps it."""
    cache = Path(os.environ.get("KILN_CACHE", Path.home() / ".cache" / "kiln"))
    read = lambda name, skip: np.frombuffer(gzip.open(next(cache.rglob(f"*fashion*/**/{name}*.gz"))).read()[skip:], np.uint8)
    x = torch.from_numpy(read("train-images", 16).reshape(-1, 1, 28, 28).copy())
    return x.float() / 127.5 - 1, torch.from_numpy(read("train-labels", 8).copy()).long()


class Judge(nn.Module):
    def __init__(self):
        super().__init__()
        block = lambda i, o: [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*block(1, 32), *block(32, 64), nn.Flatten(), nn.Linear(64 * 49, 128), nn.ReLU())
        self.out = nn.Linear(128, 10)

    def forward(self, x):
        return self.out(self.features(x))


def judge(x, y):
    torch.manual_seed(1)
    net = Judge()
    adam = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(2):
        for part in torch.randperm(len(x)).split(128):
            adam.zero_grad()
            F.cross_entropy(net(x[part]), y[part]).backward()
            adam.step()
    return net.eval()


@torch.no_grad()
def moments(net, x):
    f = torch.cat([net.features(part) for part in x.split(500)]).double().numpy()
    return f.mean(0), np.cov(f, rowvar=False)


def frechet(a, b):
    (m1, s1), (m2, s2) = a, b
    root = scipy.linalg.sqrtm(s1 @ s2)
    return float(((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * root.real))


def ours(name, seconds, folder):
    train, samplings = CONTESTANTS[name]
    train = ["train", *train, "--data", "fashion", "--quiet"]
    quiet = ["--set", "train.preview_every=0", "--set", "train.preview_count=1", "--set", "train.checkpoint_every=100000000"]
    timed = {}
    for steps in (20, 120):
        start = time.perf_counter()
        kiln(*train, *quiet, "--steps", steps, "--out", f"{folder}/{name}-{steps}")
        timed[steps] = time.perf_counter() - start
    batch = int(re.search(r"^batch = (\d+)", Path(f"{folder}/{name}-20/recipe.toml").read_text(), re.M)[1])
    images = int(seconds * 100 * batch / (timed[120] - timed[20]))
    start = time.perf_counter()
    kiln(*train, *quiet, "--set", f"train.images={images}", "--out", f"{folder}/{name}")
    took = time.perf_counter() - start
    made = {}
    for label, flags in samplings.items():
        out = f"{folder}/{name}-{label}"
        kiln("sample", f"{folder}/{name}", "-n", SAMPLES, *flags, "--quiet", "--out", out)
        files = sorted(Path(out).glob("0*.png"))
        x = torch.from_numpy(np.stack([np.asarray(Image.open(p).convert("L").resize((28, 28))) for p in files]))[:, None]
        made[label] = x.float() / 127.5 - 1
    return images, took, made


def torch_ddpm(x, seconds):
    from diffusers import DDIMScheduler, UNet2DModel

    torch.manual_seed(0)
    # On 2x2 patches, as Kiln's.
    net = UNet2DModel(
        sample_size=14,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        add_attention=False,
    ).to(memory_format=torch.channels_last)
    scheduler = DDIMScheduler(1000)
    adam = torch.optim.Adam(net.parameters(), 2e-4)
    patches = F.pixel_unshuffle(x, 2)
    bf16 = False
    autocast = lambda: torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16)

    def step():
        x0 = patches[torch.randint(len(patches), (BATCH,))]
        noise, t = torch.randn_like(x0), torch.randint(1000, (BATCH,))
        adam.zero_grad()
        with autocast():
            said = net(scheduler.add_noise(x0, noise, t), t).sample
        F.mse_loss(said.float(), noise).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()

    start, seen = time.perf_counter(), 0
    each = {}
    for bf16 in (False, True) * 2:
        begin = time.perf_counter()
        for _ in range(20):
            step()
        seen += 20 * BATCH
        each[bf16] = time.perf_counter() - begin
    bf16 = each[True] < each[False]
    while time.perf_counter() - start < seconds:
        step()
        seen += BATCH
    took = time.perf_counter() - start
    net.eval()
    scheduler.set_timesteps(STEPS)
    made = []
    for _ in range(0, SAMPLES, 250):
        z = torch.randn(250, 4, 14, 14)
        for t in scheduler.timesteps:
            with torch.inference_mode(), autocast():
                said = net(z, t).sample.float()
            z = scheduler.step(said, t, z).prev_sample
        made.append(F.pixel_shuffle(z, 2))
    return seen, took, {"DDIM, 50 steps": torch.cat(made).clamp(-1, 1)}


def torch_dcgan(x, seconds):
    torch.manual_seed(0)
    up = lambda i, o: [nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(True)]
    down = lambda i, o: [nn.Conv2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.2, True)]
    first = [nn.ConvTranspose2d(100, 128, 7, bias=False), nn.BatchNorm2d(128), nn.ReLU(True)]
    g = nn.Sequential(*first, *up(128, 64), nn.ConvTranspose2d(64, 1, 4, 2, 1), nn.Tanh())
    d = nn.Sequential(nn.Conv2d(1, 64, 4, 2, 1), nn.LeakyReLU(0.2, True), *down(64, 128), nn.Conv2d(128, 1, 7), nn.Flatten())
    for m in [*g.modules(), *d.modules()]:
        if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(m.weight, 0, 0.02)
        elif isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.weight, 1, 0.02)
    adam_g, adam_d = (torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999)) for net in (g, d))
    real, fake = torch.ones(BATCH, 1), torch.zeros(BATCH, 1)
    start, seen = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        x0 = x[torch.randint(len(x), (BATCH,))]
        made = g(torch.randn(BATCH, 100, 1, 1))
        adam_d.zero_grad()
        with_logits = F.binary_cross_entropy_with_logits
        (with_logits(d(x0), real) + with_logits(d(made.detach()), fake)).backward()
        adam_d.step()
        adam_g.zero_grad()
        with_logits(d(made), real).backward()
        adam_g.step()
        seen += BATCH
    took = time.perf_counter() - start
    g.eval()
    with torch.inference_mode():
        return seen, took, {"as it comes": torch.cat([g(torch.randn(250, 100, 1, 1)) for _ in range(0, SAMPLES, 250)])}


PEERS = {"torch-ddpm": torch_ddpm, "torch-dcgan": torch_dcgan}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--only", type=lambda text: text.split(","), default=[*CONTESTANTS, *PEERS])
    args = parser.parse_args()
    x, y = pictures()
    net = judge(x, y)
    reference = moments(net, x[:10000])
    print(f"{'other training pictures':24} {frechet(reference, moments(net, x[10000:12000])):8.1f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            seen, took, made = PEERS[name](x, args.seconds) if name in PEERS else ours(name, args.seconds, folder)
            for label, samples in made.items():
                distance = frechet(reference, moments(net, samples))
                print(f"{name:12} {label:15} {distance:8.1f}   {seen:,} images in {took:.0f} s", flush=True)


if __name__ == "__main__":
    main()
