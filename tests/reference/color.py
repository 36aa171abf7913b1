"""Differences of lightness and chroma in CIELAB.

Made with torch==2.15.0, numpy==2.4.6, skimage==0.26.0. Pictures a and b [3,5,7] in [-1, 1], rounded to f32; values in f64.
"""

import numpy as np
import torch
from skimage.color import rgb2lab

from reference import begin, save

versions = begin("numpy", "skimage")
rng = np.random.default_rng(7)
a, b = (rng.uniform(-1, 1, (3, 5, 7)).astype(np.float32) for _ in range(2))
lab = [rgb2lab((x.astype(np.float64) + 1) / 2, channel_axis=0) for x in (a, b)]
lightness = np.abs(lab[0][0] - lab[1][0]).mean()
chroma = np.hypot(*(lab[0][1:] - lab[1][1:])).mean()
out = {"a": a, "b": b, "lightness": np.array([lightness]), "chroma": np.array([chroma])}
save("color", {k: torch.as_tensor(v) for k, v in out.items()}, versions)
