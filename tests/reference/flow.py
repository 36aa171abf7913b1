"""Rectified flow: chains of diffusers' schedulers over the fixed function of samplers.py.

Made with torch==2.15.0, diffusers==0.42.1, numpy==2.4.6. In f64, as samplers.py. Writes flow.safetensors.
"""

import contextlib
from unittest import mock

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler

from reference import begin, save

versions = begin("diffusers", "numpy")


@contextlib.contextmanager
def f64():
    torch.set_default_dtype(torch.double)
    with mock.patch.object(torch, "float32", torch.float64), mock.patch.object(np, "float32", np.float64):
        yield
    torch.set_default_dtype(torch.float)


def network(x, t):
    return 0.6 * torch.sin(1.7 * x + float(t) / 200) + 0.3 * x


start = torch.randn(2, 3, 4, 5)
out = {"start": start}
with f64():
    for steps in (1, 4, 8, 10):
        euler = FlowMatchEulerDiscreteScheduler()
        # As the pipelines of Stable Diffusion 3 and Flux have it.
        euler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps))
        x = start.double()
        for t in euler.timesteps:
            x = euler.step(network(x, t), t, x).prev_sample
        out[f"euler/{steps}"] = x
        heun = FlowMatchHeunDiscreteScheduler()
        heun.set_timesteps(steps)
        x = start.double()
        for t in heun.timesteps:
            x = heun.step(network(x, t), t, x).prev_sample
        out[f"heun/{steps}"] = x
save("flow", out, versions)
