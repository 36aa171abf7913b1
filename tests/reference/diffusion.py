"""Diffusion: schedules, sampler steps, terms of the bound, and attention over a feature map.

Made with torch==2.15.0, diffusers==0.42.1, numpy==2.4.6. The schedulers of diffusers are run with their
tables in f64, so that a fixture's f32 is the formula's value and not a sum of roundings.
"""

import math

import diffusers.schedulers.scheduling_ddpm as ddpm_module
import numpy as np
import torch
import torch.nn as nn
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch import distributions as dist

from reference import begin, record_model, save, spread

versions = begin("diffusers", "numpy")
out = {}
T = 1000
SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
PREDICTIONS = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}

# The schedules from their papers' formulas in f64, checked against diffusers' f32.
alpha_bar = lambda s: math.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2
BETAS = {
    "linear": np.linspace(1e-4, 0.02, T),
    "cosine": np.array([min(1 - alpha_bar((i + 1) / T) / alpha_bar(i / T), 0.999) for i in range(T)]),
}
for name, beta_schedule in SCHEDULES.items():
    theirs = DDPMScheduler(T, 1e-4, 0.02, beta_schedule)
    cumulative = np.cumprod(1 - BETAS[name])
    assert np.allclose(theirs.betas.numpy(), BETAS[name], rtol=1e-4)
    assert np.allclose(theirs.alphas_cumprod.numpy(), cumulative, rtol=1e-4, atol=1e-12)
    out |= {f"{name}.betas": torch.tensor(BETAS[name]), f"{name}.alphas_cumprod": torch.tensor(cumulative)}


def scheduler(cls, schedule, **config):
    s = cls(T, 1e-4, 0.02, SCHEDULES[schedule], **config)
    s.betas = torch.tensor(BETAS[schedule])
    s.alphas = 1 - s.betas
    s.alphas_cumprod = torch.cumprod(s.alphas, 0)
    s.one = s.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    return s


def single(t):
    return t.to(torch.float32)


def draw(*shape):
    """f64 numbers that an f32 holds exactly."""
    return torch.randn(*shape).double()


# Forward process and the v target, one sample a row, row i at timesteps[i].
ts = torch.tensor([0, 1, 49, 500, 999])
x0, noise = draw(5, 1, 2, 3).clamp(-1, 1), draw(5, 1, 2, 3)
out |= {"forward.timesteps": ts, "forward.x0": single(x0), "forward.noise": single(noise)}
for name in SCHEDULES:
    s = scheduler(DDPMScheduler, name)
    out[f"forward.{name}.noisy"] = single(s.add_noise(x0, noise, ts))
    out[f"forward.{name}.v"] = single(s.get_velocity(x0, noise, ts))

# One DDPM step t -> t-1 at each timestep. The scheduler's own draw is replaced: zeros give the
# `mean`, ddpm.noise gives the `sample` (they agree at t = 0, where no noise is added).
xt, model, noise, variance = draw(5, 1, 2, 3), draw(5, 1, 2, 3), draw(5, 1, 2, 3), draw(5, 1, 2, 3)
out |= {"ddpm.timesteps": ts, "ddpm.xt": single(xt), "ddpm.model_output": single(model)}
out |= {"ddpm.noise": single(noise), "ddpm.variance_output": single(variance)}


def ddpm_step(s, output, given):
    # diffusers draws noise of the model output's shape; a learned variance is split off before that.
    rows = []
    for i, t in enumerate(ts.tolist()):
        ddpm_module.randn_tensor = lambda shape, **_: given[i : i + 1]
        rows.append(s.step(output[i : i + 1], t, xt[i : i + 1]))
    return torch.cat([r.prev_sample for r in rows]), torch.cat([r.pred_original_sample for r in rows])


for schedule in SCHEDULES:
    for prediction, prediction_type in PREDICTIONS.items():
        for clip in (False, True):
            for kind in ("fixed_small", "fixed_large", "learned_range"):
                config = dict(prediction_type=prediction_type, clip_sample=clip, variance_type=kind)
                s = scheduler(DDPMScheduler, schedule, **config)
                output = torch.cat([model, variance], 1) if kind == "learned_range" else model
                prefix = f"ddpm.{schedule}.{prediction}.{'clip' if clip else 'noclip'}"
                mean, predicted = ddpm_step(s, output, torch.zeros_like(noise))
                out |= {f"{prefix}.mean": single(mean), f"{prefix}.x0": single(predicted)}
                out[f"{prefix}.{kind}.sample"] = single(ddpm_step(s, output, noise)[0])

# DDIM trajectories: the model's output at step k is ddim.model_outputs[k] whatever x is, the noise ddim.noises[k].
start, models, noises = draw(1, 2, 3), draw(50, 1, 2, 3), draw(50, 1, 2, 3)
out |= {"ddim.start": single(start), "ddim.model_outputs": single(models), "ddim.noises": single(noises)}
for spacing in ("leading", "trailing"):
    for steps in (10, 50):
        for prediction, prediction_type in PREDICTIONS.items():
            for clip in ("noclip", "clip", "clip_rederive"):
                s = scheduler(
                    DDIMScheduler,
                    "linear",
                    prediction_type=prediction_type,
                    clip_sample=clip != "noclip",
                    timestep_spacing=spacing,
                )
                s.set_timesteps(steps)
                out[f"ddim.{spacing}.{steps}.timesteps"] = s.timesteps
                if steps == 50 and (prediction != "epsilon" or clip == "clip"):
                    continue  # the long runs are there for the timesteps
                for eta in (0.0, 0.5):
                    x, xs = start, []
                    for k, t in enumerate(s.timesteps):
                        x = s.step(
                            models[k],
                            t,
                            x,
                            eta=eta,
                            use_clipped_model_output=clip == "clip_rederive",
                            variance_noise=noises[k],
                        ).prev_sample
                        xs.append(x)
                    out[f"ddim.{spacing}.{steps}.{prediction}.{clip}.eta{eta:g}"] = single(torch.stack(xs))

# DPM-Solver++(2M) from the same start and model outputs, on diffusers' grid: sigma = sqrt(1/alpha_bar - 1), last 0.
s = DPMSolverMultistepScheduler(
    T, 1e-4, 0.02, "linear", prediction_type="epsilon", timestep_spacing="trailing", final_sigmas_type="zero"
)
s.set_timesteps(10)
s.sigmas = s.sigmas.double()
x, xs = start, []
for k, t in enumerate(s.timesteps):
    x = s.step(models[k], t, x).prev_sample
    xs.append(x)
out |= {"dpmpp2m.10.timesteps": s.timesteps, "dpmpp2m.10.sigmas": s.sigmas, "dpmpp2m.10.epsilon": single(torch.stack(xs))}

# The terms of the bound (Ho 2020, eq. 5 and 13), nats, one value an element.
mu1, lv1, mu2, lv2 = draw(2, 6), draw(2, 6), draw(2, 6), draw(2, 6)
gauss = lambda mu, lv: dist.Normal(mu, (0.5 * lv).exp())
out |= {"bound.mean1": single(mu1), "bound.logvar1": single(lv1)}
out |= {"bound.mean2": single(mu2), "bound.logvar2": single(lv2)}
out["bound.kl"] = single(dist.kl_divergence(gauss(mu1, lv1), gauss(mu2, lv2)))
levels = torch.tensor([0, 1, 100, 128, 254, 255])
x = levels.double() / 127.5 - 1
mean, logvar = (x + 0.02 * draw(2, 6)).float().double(), (draw(2, 6) - 7).float().double()
edge = gauss(mean, logvar)
upper = torch.where(levels == 255, 1.0, edge.cdf(x + 1 / 255))
lower = torch.where(levels == 0, 0.0, edge.cdf(x - 1 / 255))
out |= {"bound.levels": levels, "bound.mean": single(mean), "bound.logvar": single(logvar)}
out["bound.discretized_log_likelihood"] = single((upper - lower).clamp(min=1e-12).log())


class Attn(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.n, self.qkv, self.p = nn.GroupNorm(8, c), nn.Conv2d(c, 3 * c, 1), nn.Conv2d(c, c, 1)

    def forward(self, x):
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.n(x)).reshape(b, 3 * c, h * w).chunk(3, 1)
        a = torch.softmax(q.transpose(1, 2) @ k * c**-0.5, -1)
        return x + self.p((v @ a.transpose(1, 2)).reshape(b, c, h, w))


record_model(out, "attn", spread(Attn(16)), ("input", torch.randn(2, 16, 3, 4)))

save("diffusion", out, versions)
