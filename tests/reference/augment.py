"""DiffAugment and ADA by their authors' code: outputs and gradients in the pictures, for fixed random numbers.

python augment.py STYLEGAN2_ADA DIFFAUGMENT

with checkouts of NVlabs/stylegan2-ada-pytorch and mit-han-lab/data-efficient-gans. Made with torch==2.15.0, scipy==1.17.1,
safetensors==0.8.0. ADA is asked for a percentile u of every draw, so that a uniform number is u and a normal one
erfinv(2u - 1) (its code leaves out the √2); in DiffAugment every uniform number is u.
"""

import math
import sys

import torch

from reference import begin, gradients, save

sys.path[:0] = sys.argv[1:3]
import DiffAugment_pytorch as diffaugment  # noqa: E402
from training.augment import AugmentPipe  # noqa: E402

versions = begin("scipy", seed=23)
out = {}

GROUPS = {
    "blit": ["xflip", "rotate90", "xint"],
    "geometry": ["scale", "rotate", "aniso", "xfrac"],
    "color": ["brightness", "contrast", "lumaflip", "hue", "saturation"],
    "filter": ["imgfilter"],
    "cutout": ["cutout"],
}
GROUPS["blit,geometry,color"] = GROUPS["blit"] + GROUPS["geometry"] + GROUPS["color"]


def record(name, shape, u, function):
    normal = torch.erfinv(torch.tensor(2 * u - 1, dtype=torch.float32))
    gradients(out, name, {"x": torch.rand(*shape) * 2 - 1}, lambda x: function(x.float()).double(), draws=torch.stack([torch.tensor(u), normal]))


for policy, operations in GROUPS.items():
    for i, (shape, u) in enumerate([((2, 3, 26, 23), 0.3), ((2, 1, 24, 30), 0.8)]):
        pipe = AugmentPipe(**{operation: 1 for operation in operations})
        record(f"ada.{policy}.{i}", shape, u, lambda x: pipe(x, debug_percentile=u))

for policy in ["color", "translation", "cutout", "color,translation,cutout"]:
    for i, (shape, u) in enumerate([((2, 3, 9, 12), 0.15), ((2, 1, 12, 7), 0.9)]):
        rand, randint = torch.rand, torch.randint
        diffaugment.torch.rand = lambda *size, **how: torch.full(size, u)
        diffaugment.torch.randint = lambda low, high, size, **how: torch.full(size, low + math.floor(u * (high - low)))
        call = lambda x: diffaugment.DiffAugment(x, policy=policy)
        x = rand(*shape) * 2 - 1
        gradients(out, f"diffaugment.{policy}.{i}", {"x": x}, lambda x: call(x.float()).double(), draws=torch.tensor([u, 0.0]))
        torch.rand, torch.randint = rand, randint

save("augment", out, versions)
