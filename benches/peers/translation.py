"""How long do translation and style transfer take in Kiln and in PyTorch, in one run on one machine?

python benches/peers/translation.py PIX2PIX ADAIN [WORK...] [--rounds N] [--modes eager,channels_last,…]

PIX2PIX is a checkout of junyanz/pytorch-CycleGAN-and-pix2pix and ADAIN one of naoto0804/pytorch-AdaIN, whose networks are timed with
weights as they are drawn. From the repository, with nothing else running, after `cargo build --release` and `kiln data fetch
weights:vgg16-hed`. Every work is a process of its own: Kiln and each mode of PyTorch in turn, N times. Needs torch, torchvision
and pillow; measured with torch==2.15.0.

  cyclegan   a step at 128x128, batch 1: ResNet of 6 blocks and 64 channels, patches of 70, identity loss, image pool
  pix2pix    a step at 256x256, batch 1: U-Net of 8 halvings and 64 channels, patches of 70, L1
  adain      one transfer at 512x512: VGG19 of content and style, decoder
  gatys      50 steps of Adam at 256x256, VGG16 up to relu5_1: the whole command less the same command of one step
"""

import argparse
import importlib.util
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KILN = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "kiln"
WORKS = ["cyclegan", "pix2pix", "adain", "gatys"]
MODES = ["eager", "channels_last", "bf16", "channels_last+bf16"]


def module(path):
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def cyclegan(networks, place, autocast):
    import torch

    norm = networks.get_norm_layer("instance")
    g = [place(networks.ResnetGenerator(3, 3, 64, norm_layer=norm, n_blocks=6)) for _ in range(2)]
    d = [place(networks.NLayerDiscriminator(3, 64, 3, norm_layer=norm)) for _ in range(2)]
    every = lambda nets: itertools.chain(*(net.parameters() for net in nets))
    adam_g, adam_d = (torch.optim.Adam(every(nets), 2e-4, (0.5, 0.999)) for nets in (g, d))
    a, b = (torch.rand(1, 3, 128, 128) * 2 - 1 for _ in range(2))
    mse, l1 = torch.nn.MSELoss(), torch.nn.L1Loss()
    pools = [[], []]

    def freeze(nets, frozen):
        for p in every(nets):
            p.requires_grad_(not frozen)

    def step():
        freeze(d, True)
        adam_g.zero_grad()
        with autocast():
            fake_b, fake_a = g[0](a), g[1](b)
            again_a, again_b = g[1](fake_b), g[0](fake_a)
            same_b, same_a = g[0](b), g[1](a)
            scores = d[0](fake_b), d[1](fake_a)
        loss = sum(mse(s.float(), torch.ones_like(s.float())) for s in scores)
        loss = loss + 10 * (l1(again_a, a) + l1(again_b, b)) + 5 * (l1(same_a, a) + l1(same_b, b))
        loss.backward()
        adam_g.step()
        freeze(d, False)
        adam_d.zero_grad()
        for net, real, fake, pool in zip(d, (b, a), (fake_b, fake_a), pools):
            pool.append(fake.detach())
            fake = pool.pop(0) if len(pool) > 50 else pool[-1]
            with autocast():
                real, fake = net(real).float(), net(fake).float()
            (0.5 * (mse(real, torch.ones_like(real)) + mse(fake, torch.zeros_like(fake)))).backward()
        adam_d.step()

    return step


def pix2pix(networks, place, autocast):
    import torch

    norm = networks.get_norm_layer("batch")
    g = place(networks.UnetGenerator(3, 3, 8, 64, norm_layer=norm, use_dropout=True))
    d = place(networks.NLayerDiscriminator(6, 64, 3, norm_layer=norm))
    adam_g, adam_d = (torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999)) for net in (g, d))
    a, b = (torch.rand(1, 3, 256, 256) * 2 - 1 for _ in range(2))
    bce, l1 = torch.nn.BCEWithLogitsLoss(), torch.nn.L1Loss()

    def judge(image):
        with autocast():
            return d(torch.cat([a, image], 1)).float()

    def step():
        with autocast():
            fake = g(a)
        d.requires_grad_(True)
        adam_d.zero_grad()
        of_fake, of_real = judge(fake.detach()), judge(b)
        (0.5 * (bce(of_fake, torch.zeros_like(of_fake)) + bce(of_real, torch.ones_like(of_real)))).backward()
        adam_d.step()
        d.requires_grad_(False)
        adam_g.zero_grad()
        score = judge(fake)
        (bce(score, torch.ones_like(score)) + 100 * l1(fake.float(), b)).backward()
        adam_g.step()

    return step


def adain(net, place, autocast):
    import torch

    encoder, decoder = place(net.vgg[:31]), place(net.decoder)
    whole = net.Net(encoder, decoder)
    a, b = (torch.rand(1, 3, 512, 512) for _ in range(2))

    def step():
        with torch.no_grad(), autocast():
            content, style = whole.encode(a), whole.encode(b)
            decoder(net.adain(content, style))

    return step


def gatys(place, autocast, steps=50):
    import torch
    import torchvision

    layers = place(torchvision.models.vgg16(weights=None).features[:26]).requires_grad_(False)
    style_at, content_at = {1, 6, 11, 18, 25}, {20}
    content, style = (torch.rand(1, 3, 256, 256) for _ in range(2))

    def maps(x):
        grams, deep = [], None
        for i, layer in enumerate(layers):
            x = layer(x)
            if i in style_at:
                rows = x.flatten(2)
                grams.append(rows @ rows.transpose(1, 2) / rows.shape[2])
            if i in content_at:
                deep = x
        return grams, deep

    with torch.no_grad():
        wanted, like = maps(style)[0], maps(content)[1]
    relative = lambda x, target: (x - target).square().sum() / target.square().sum()

    def step():
        x = content.clone().requires_grad_()
        adam = torch.optim.Adam([x], 0.02)
        for _ in range(steps):
            adam.zero_grad()
            with autocast():
                grams, deep = maps(x)
            loss = relative(deep.float(), like)
            loss = loss + 10 / 5 * sum(relative(g.float(), w) for g, w in zip(grams, wanted))
            tv = (x[:, :, 1:] - x[:, :, :-1]).abs().mean() + (x[..., 1:] - x[..., :-1]).abs().mean()
            (loss + 0.1 * tv).backward()
            adam.step()

    return step


def theirs(args, work, mode):
    import contextlib

    import torch

    torch.manual_seed(0)
    bf16 = lambda: torch.autocast("cpu", dtype=torch.bfloat16)
    autocast = bf16 if "bf16" in mode else contextlib.nullcontext
    place = lambda net: net.to(memory_format=torch.channels_last) if "channels_last" in mode else net
    if work == "gatys":
        step = gatys(place, autocast)
    elif work == "adain":
        step = adain(module(Path(args.adain) / "net.py"), place, autocast)
    else:
        step = globals()[work](module(Path(args.pix2pix) / "models/networks.py"), place, autocast)
    for _ in range(1 if work == "gatys" else 3):
        step()
    each = []
    for _ in range(1 if work == "gatys" else 9):
        start = time.perf_counter()
        step()
        each.append((time.perf_counter() - start) * 1e3)
    print(json.dumps({"time": statistics.median(each), "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def search(folder):
    """Seconds of 50 steps of `kiln stylize`, without those of a command of one step."""
    from PIL import Image

    for name in ("content", "style"):
        Image.effect_noise((256, 256), 60 if name == "style" else 30).convert("RGB").save(folder / f"{name}.png")

    def seconds(steps):
        start = time.perf_counter()
        run(KILN, "stylize", folder / "content.png", folder / "out.png", "--style", folder / "style.png", "--method", "adam",
            "--steps", steps, "--quiet")
        return time.perf_counter() - start

    return 1e3 * (seconds(51) - seconds(1))


def ours(work, precision, folder):
    if work == "gatys":
        return {"time": search(folder)}
    found = json.loads(run(KILN, "bench", work, "--precision", precision, "--json").splitlines()[-1])
    what = "translate_ms" if work == "adain" else "step_ms"
    return {"time": found[what], "peak": found["peak_memory"] / 2**20}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("pix2pix")
    parser.add_argument("adain")
    parser.add_argument("works", nargs="*", default=WORKS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--modes", type=lambda text: text.split(","), default=MODES)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return theirs(args, *args.peer.split(","))
    with tempfile.TemporaryDirectory() as folder:
        for work in args.works:
            found = {}
            for _ in range(args.rounds):
                # Metrics, searches and translations are always in f32.
                for precision in ("f32", "bf16") if work in ("cyclegan", "pix2pix") else ("f32",):
                    found.setdefault(f"Kiln {precision}", []).append(ours(work, precision, Path(folder)))
                for mode in args.modes:
                    one = json.loads(run(sys.executable, __file__, args.pix2pix, args.adain, "--peer", f"{work},{mode}"))
                    found.setdefault(f"PyTorch {mode}", []).append(one)
            middle = {name: statistics.median(one["time"] for one in all) for name, all in found.items()}
            best = min(ms for name, ms in middle.items() if name.startswith("PyTorch"))
            for name, ms in middle.items():
                ratio = f"   {ms / best:.2f} of PyTorch's best time" if name.startswith("Kiln") else ""
                peak = found[name][-1].get("peak")
                memory = f"{peak:6.0f} MiB" if peak else " " * 10
                print(f"{work:10} {name:28} {ms:8.1f} ms   {memory}{ratio}", flush=True)


if __name__ == "__main__":
    main()
