#!/usr/bin/env python3
"""Golden values of tests/resize.rs: Pillow's antialiased bilinear resize, and its nearest. Written with Pillow 13.0.0.

    python3 resize.py > ../golden/resize.json

The source is a formula both sides can compute: no file is shared.
"""
import json

from PIL import Image

WIDTH, HEIGHT = 23, 17
SIZES = [(8, 8), (5, 17), (23, 4), (40, 31), (1, 1), (10, 6)]


def source(mode):
    """Byte k of the interleaved pixels is (k * k * 7 + k * 13) mod 251."""
    n = len(Image.new(mode, (1, 1)).getbands())
    data = bytes((k * k * 7 + k * 13) % 251 for k in range(WIDTH * HEIGHT * n))
    return Image.frombytes(mode, (WIDTH, HEIGHT), data)


cases = []
for mode in ("L", "RGB", "RGBA"):
    for size in SIZES:
        out = source(mode).resize(size, Image.Resampling.BILINEAR)
        cases.append({"mode": mode, "size": size, "pixels": list(out.tobytes())})
nearest = [{"mode": "L", "size": size, "pixels": list(source("L").resize(size, Image.Resampling.NEAREST).tobytes())}
           for size in SIZES]
grey = list(source("RGB").convert("L").tobytes())
print(json.dumps({"grey": grey, "cases": cases, "nearest": nearest}, separators=(",", ":")))
