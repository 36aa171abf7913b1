"""EDM's stochastic sampler (Karras 2022, algorithm 2): k-diffusion's `sample_euler` and `sample_heun` with churn, over the
function that `samplers.py` has in the network's place, on Karras' noise levels from σ = 80.

Made with torch==2.15.0, diffusers==0.42.1, numpy==2.4.6, k-diffusion==0.1.1.post1 (installed without its dependencies, of
which its samplers need none). All in f64.
"""

import importlib.util
import sys
import types
from importlib.metadata import version
from unittest import mock

import numpy as np
import torch
from diffusers import DDPMScheduler

from reference import begin, save

# The samplers alone, without the networks that the package imports beside them.
package = types.ModuleType("k_diffusion")
package.__path__ = importlib.util.find_spec("k_diffusion").submodule_search_locations
utils = types.ModuleType("k_diffusion.utils")
utils.append_dims = lambda x, dims: x[(...,) + (None,) * (dims - x.ndim)]
sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils}
sys.modules |= {name: mock.MagicMock() for name in ("torchdiffeq", "torchsde", "torchsde._brownian")}
from k_diffusion import sampling  # noqa: E402

versions = begin("diffusers", "numpy") + f" k-diffusion=={version('k-diffusion')}"
torch.set_default_dtype(torch.double)
T, STEPS = 1000, 8
BETAS = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
CHURN = [(4.0, 0.0, float("inf"), 1.0), (40.0, 0.05, 20.0, 1.007)]
METHODS = {"euler": sampling.sample_euler, "heun": sampling.sample_heun}
out = {}

draw = lambda *shape: torch.randn(*shape, dtype=torch.float).double()
start, noises = draw(2, 1, 3, 3), draw(STEPS, 2, 1, 3, 3)
out |= {"start": start.float(), "noises": noises.float()}

for schedule, betas in BETAS.items():
    with mock.patch.object(torch, "float32", torch.float64), mock.patch.object(np, "float32", np.float64):
        bars = DDPMScheduler(T, 1e-4, 0.02, betas).alphas_cumprod.double()
    ratios = ((1 - bars) / bars).sqrt()
    sigmas = sampling.get_sigmas_karras(STEPS, ratios[0].item(), 80.0)
    for method, sample in METHODS.items():
        for i, (s_churn, s_tmin, s_tmax, s_noise) in enumerate(CHURN):
            times, seen, step = [], [], [0]

            def model(y, sigma):
                """x̂₀ of y = x/α, by the velocity that the test's network says of x at the time of its σ."""
                sigma = sigma[0]
                alpha = 1 / (1 + sigma**2).sqrt()
                t = np.interp(sigma.log().item(), ratios.log().numpy(), np.arange(T))
                x = y * alpha
                times.append(t)
                seen.append(x)
                v = 0.6 * torch.sin(1.7 * x + t / 200) + 0.3 * x
                return alpha * x - sigma * alpha * v

            # Noise is drawn before a step, which the callback tells of after.
            with mock.patch.object(torch, "randn_like", lambda _: noises[step[0]]):
                end = sample(
                    model,
                    start * (1 + sigmas[0] ** 2).sqrt(),
                    sigmas,
                    callback=lambda told: step.__setitem__(0, told["i"] + 1),
                    disable=True,
                    s_churn=s_churn,
                    s_tmin=s_tmin,
                    s_tmax=s_tmax,
                    s_noise=s_noise,
                )
            name = f"{method}/{schedule}/{i}"
            out[f"{name}.churn"] = torch.tensor([s_churn, s_tmin, s_tmax, s_noise])
            out[f"{name}.times"] = torch.tensor(times)
            out[f"{name}.seen"], out[f"{name}.end"] = torch.stack(seen).float(), end.float()

save("edm", out, versions)
