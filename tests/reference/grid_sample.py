"""Sampling pictures at the places of a grid, and along a flow: output and gradients in pictures, grid and flow.

Made with Python 3.11, torch 2.15.0 (CPU), safetensors 0.8.0. Computed in double precision from inputs representable
in single precision, stored in single. The grids reach well beyond the picture, and hold the corners themselves,
where a place lies between two pixels or a clamped one just begins to move.
"""

import torch
import torch.nn.functional as F

from reference import begin, gradients, save

versions = begin(seed=19)
out = {}

for mode in ["bilinear", "nearest"]:
    for padding in ["zeros", "border", "reflection"]:
        for corners in [False, True]:
            grid = 1.7 * torch.randn(2, 4, 5, 2)
            grid[0, 0, :3] = torch.tensor([[-1.0, 1.0], [1.0, -1.0], [0.0, 0.0]])
            grid[1, 0, :2] = torch.tensor([[-6.1, 3.7], [9.2, -4.3]])
            gradients(
                out,
                f"grid_sample.{mode}.{padding}.{'corners' if corners else 'edges'}",
                {"x": torch.randn(2, 3, 6, 5), "grid": grid},
                lambda x, grid: F.grid_sample(x, grid, mode, padding, corners),
            )

# One pixel has no mirror, and a column of them no width.
for padding in ["border", "reflection"]:
    gradients(
        out,
        f"grid_sample.bilinear.{padding}.corners.column",
        {"x": torch.randn(1, 2, 4, 1), "grid": torch.randn(1, 3, 3, 2)},
        lambda x, grid: F.grid_sample(x, grid, "bilinear", padding, True),
    )



# Along a flow in pixels, as RAFT's `bilinear_sampler` normalises it, but that the border is repeated.
def warp(x, flow):
    h, w = x.shape[2:]
    y, z = torch.meshgrid(torch.arange(h).double(), torch.arange(w).double(), indexing="ij")
    at = torch.stack([z, y], -1) + flow
    grid = 2 * at / torch.tensor([w - 1.0, h - 1.0]).double() - 1
    return F.grid_sample(x, grid, padding_mode="border", align_corners=True)


gradients(out, "warp", {"x": torch.randn(2, 3, 6, 5), "flow": 2 * torch.randn(2, 6, 5, 2)}, warp)

save("grid_sample", out, versions)
