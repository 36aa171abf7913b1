"""Samplers: whole chains of diffusers' schedulers over a fixed nonlinear function in the network's place.

Made with torch==2.15.0, diffusers==0.42.1, numpy==2.4.6, scipy==1.17.1. The schedulers are run in f64 throughout (their
float32 is replaced while they work), so that a fixture's f32 is the formula's value and not a sum of roundings.
"""

import contextlib
from unittest import mock

import diffusers.schedulers.scheduling_euler_ancestral_discrete as euler_ancestral
import diffusers.schedulers.scheduling_sde_ve as sde_ve
import numpy as np
import scipy.integrate
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    ScoreSdeVeScheduler,
    UniPCMultistepScheduler,
)

from reference import begin, save

versions = begin("diffusers", "numpy", "scipy")
out = {}
T = 1000
BETAS = {"linear": "linear", "scaled": "scaled_linear", "cosine": "squaredcos_cap_v2", "sigmoid": "sigmoid"}
PREDICTIONS = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}


@contextlib.contextmanager
def f64():
    torch.set_default_dtype(torch.double)
    with mock.patch.object(torch, "float32", torch.float64), mock.patch.object(np, "float32", np.float64):
        yield
    torch.set_default_dtype(torch.float)


def network(x, t):
    """What the tests' network says; t is the time it is told."""
    return 0.6 * torch.sin(1.7 * x + float(t) / 200) + 0.3 * x


def single(t):
    return t.to(torch.float)


def draw(*shape):
    """f64 numbers that an f32 holds exactly."""
    return torch.randn(*shape).double()


# Schedules that `diffusion.py` does not have; `zero` is rescaled to zero terminal signal-to-noise ratio (Lin 2024).
with f64():
    for name in ("scaled", "sigmoid"):
        s = DDPMScheduler(T, 1e-4, 0.02, BETAS[name])
        out |= {f"{name}.betas": s.betas, f"{name}.alphas_cumprod": s.alphas_cumprod}
    for name in ("linear", "scaled", "cosine"):
        s = DDIMScheduler(T, 1e-4, 0.02, BETAS[name], rescale_betas_zero_snr=True)
        out[f"zero.{name}.alphas_cumprod"] = s.alphas_cumprod
    s = DPMSolverMultistepScheduler(T, 0.00085, 0.012, "scaled_linear")
    out["latent.alphas_cumprod"] = s.alphas_cumprod

start, noises = draw(2, 1, 3, 3), draw(25, 2, 1, 3, 3)
out |= {"start": single(start), "noises": single(noises)}


def chain(name, cls, steps, scaled=False, noise=False, step_options={}, **config):
    """`name`.times, .seen (the network's input at each of them, variance preserved) and .end."""
    with f64():
        s = cls(T, 1e-4, 0.02, **config)
        s.set_timesteps(steps)
        if hasattr(s, "set_begin_index"):
            s.set_begin_index(0)  # or a time that occurs twice is begun at its second place
        scale = lambda sigma: (1 + sigma.double() ** 2) ** 0.5
        x = start * scale(s.sigmas[0]) if scaled else start
        seen = []
        for k, t in enumerate(s.timesteps):
            shown = s.scale_model_input(x, t) if scaled else x
            seen.append(shown)
            if noise:
                step_options = step_options | {"variance_noise": noises[k]}
            euler_ancestral.randn_tensor = lambda *_, **__: noises[k]
            x = s.step(network(shown, t), t, x, **step_options).prev_sample
        end = x / scale(s.sigmas[-1]) if scaled else x
    out[f"{name}.times"] = s.timesteps.double()
    out[f"{name}.seen"], out[f"{name}.end"] = single(torch.stack(seen)), single(end)


def config(schedule="linear", prediction="epsilon", spacing="linspace", sigmas="schedule", end="zero", **more):
    zero = schedule.startswith("zero-")
    made = dict(beta_schedule=BETAS[schedule.removeprefix("zero-")], prediction_type=PREDICTIONS[prediction])
    made |= dict(timestep_spacing=spacing)
    if zero:
        made["rescale_betas_zero_snr"] = True
    if sigmas != "schedule":
        made[f"use_{sigmas}_sigmas"] = True
    if end != "zero":
        made["final_sigmas_type"] = end
    return made | more


def label(family, steps, schedule="linear", prediction="epsilon", spacing="linspace", sigmas="schedule", end="zero"):
    return f"{family}/{steps}/{schedule}/{prediction}/{spacing}/{sigmas}/{end}"


def run(family, cls, steps=8, options={}, scaled=False, noise=False, step_options={}, **place):
    chain(label(family, steps, **place), cls, steps, scaled, noise, step_options, **config(**place), **options)


DPM, UNIPC = DPMSolverMultistepScheduler, UniPCMultistepScheduler
for algorithm in ("dpm++", "dpm++-sde"):
    base = dict(algorithm_type={"dpm++": "dpmsolver++", "dpm++-sde": "sde-dpmsolver++"}[algorithm])
    sde = algorithm.endswith("sde")
    for kind in ("midpoint", "heun"):
        for order in (1, 2, 3):
            if sde and order == 3:
                continue  # its weight of the second difference has the wrong sign: not 0 for a step of length 0
            for steps in (8, 20):
                run(f"{algorithm}:{order}:{kind}", DPM, steps, base | dict(solver_order=order, solver_type=kind), noise=sde)
    options = base | dict(solver_order=2)
    for prediction in PREDICTIONS:
        for schedule in ("linear", "scaled", "cosine", "zero-scaled"):
            if not (schedule.startswith("zero") and prediction == "epsilon"):
                run(f"{algorithm}:2:midpoint", DPM, 8, options, noise=sde, schedule=schedule, prediction=prediction)
for schedule in ("linear", "cosine"):
    for spacing in ("linspace", "leading", "trailing"):
        for sigmas in ("schedule", "karras", "exponential"):
            for end in ("zero", "sigma_min"):
                place = dict(schedule=schedule, prediction="v", spacing=spacing, sigmas=sigmas, end=end)
                if sigmas == "schedule" or spacing == "linspace":
                    if sigmas == "schedule" or end == "zero":
                        run("dpm++:2:midpoint", DPM, 8, dict(solver_order=2), **place)
                        run("unipc:2:bh2", UNIPC, 8, dict(solver_order=2), **place)
                if end == "zero":
                    run("euler", EulerDiscreteScheduler, 8, scaled=True, **place)
                    run("heun", HeunDiscreteScheduler, 8, scaled=True, **place)
                elif sigmas == "schedule":
                    run("euler", EulerDiscreteScheduler, 8, scaled=True, **place)
for kind in ("bh1", "bh2"):
    for order in (1, 2, 3):
        for steps in (8, 20):
            options = dict(solver_order=order, solver_type=kind)
            # bh1 divides by an infinite step at the picture.
            end = "sigma_min" if kind == "bh1" else "zero"
            run(f"unipc:{order}:{kind}", UNIPC, steps, options, end=end)
for prediction in PREDICTIONS:
    for schedule in ("linear", "scaled", "cosine"):
        place = dict(schedule=schedule, prediction=prediction)
        run("unipc:3:bh2", UNIPC, 8, dict(solver_order=3, solver_type="bh2"), **place)
        # Between σ = 20,000 and its neighbour, Heun's weights on two x₀ that nearly cancel leave f32 too few digits.
        if (schedule, prediction) != ("cosine", "x0"):
            run("heun", HeunDiscreteScheduler, 8, scaled=True, **place)
        if prediction != "x0":
            run("euler", EulerDiscreteScheduler, 8, scaled=True, **place)
            run("euler-ancestral", EulerAncestralDiscreteScheduler, 8, scaled=True, **place)
run("unipc:2:bh2", UNIPC, 8, dict(solver_order=2), schedule="zero-scaled", prediction="v")
run("euler", EulerDiscreteScheduler, 8, scaled=True, schedule="zero-scaled", prediction="v", spacing="trailing")
for spacing in ("leading", "trailing"):
    place = dict(prediction="v", spacing=spacing)
    run("euler-ancestral", EulerAncestralDiscreteScheduler, 8, scaled=True, **place)
# Not linspace: diffusers steps by T // steps there, past the next time or short of it.
for schedule in ("scaled", "cosine", "zero-linear"):
    for spacing in ("leading", "trailing"):
        for prediction in ("x0", "v"):
            place = dict(schedule=schedule, prediction=prediction, spacing=spacing)
            run("ddim", DDIMScheduler, 8, dict(clip_sample=False), **place)
            if prediction == "v":
                run("ddim:1", DDIMScheduler, 8, dict(clip_sample=False), noise=True, step_options=dict(eta=1.0), **place)

# Times counted from 1, as many published models have them.
for family, cls, scaled in (
    ("dpm++:2:midpoint", DPM, False),
    ("unipc:2:bh2", UNIPC, False),
    ("euler", EulerDiscreteScheduler, True),
    ("heun", HeunDiscreteScheduler, True),
):
    options = dict(solver_order=2) if cls in (DPM, UNIPC) else {}
    name = label(family, 8, "scaled", "v", "leading+1")
    chain(name, cls, 8, scaled, False, {}, **config("scaled", "v", "leading"), **options, steps_offset=1)

# DDIM run backwards. Its `seen` are pictures, in the order of ascending times.
for spacing in ("leading", "trailing"):
    run("ddim-inverse", DDIMInverseScheduler, 10, dict(clip_sample=False), spacing=spacing)

# Song's predictor and corrector where variance explodes; one picture, whose norms diffusers averages with no other.
score, x, noise = draw(1, 1, 3, 3), draw(1, 1, 3, 3), draw(1, 1, 3, 3)
out |= {"ve.score": single(score), "ve.x": single(x), "ve.noise": single(noise)}
with f64():
    s = ScoreSdeVeScheduler(num_train_timesteps=T, snr=0.15, sigma_min=0.01, sigma_max=50.0)
    s.set_timesteps(T)
    s.set_sigmas(T)
    sde_ve.randn_tensor = lambda *_, **__: noise
    # The times are not exact: a hair more puts each in its step.
    steps = [s.step_pred(score, (k + 0.5) / (T - 1), x) for k in (0, 1, 500, 998)]
    out["ve.sigmas"] = s.discrete_sigmas.double()
    out["ve.predicted"] = single(torch.cat([p.prev_sample for p in steps]))
    out["ve.corrected"] = single(s.step_correct(score, x).prev_sample)

# Guidance rescaled (`rescale_noise_cfg` of diffusers' pipelines, Lin 2024 §3.4), w = 7.5, φ = 0.7.
with_, without = draw(2, 1, 3, 3), draw(2, 1, 3, 3)
guided = without + 7.5 * (with_ - without)
std = lambda t: t.std(dim=(1, 2, 3), keepdim=True)
rescaled = 0.7 * guided * (std(with_) / std(guided)) + 0.3 * guided
out |= {"cfg.with": single(with_), "cfg.without": single(without)}
out |= {"cfg.guided": single(guided), "cfg.rescaled": single(rescaled)}

# scipy's adaptive solver: y' = (y₁ cos u, −y₀ + sin 3u) from both ends, at two tolerances.
slope = lambda u, y: np.array([y[1] * np.cos(u), -y[0] + np.sin(3 * u)])
for i, (span, tolerance) in enumerate([((0.5, 6.0), 1e-5), ((6.0, 0.5), 1e-5), ((0.5, 6.0), 1e-9)]):
    solved = scipy.integrate.solve_ivp(slope, span, [1.0, -0.5], method="RK45", rtol=tolerance, atol=tolerance)
    out[f"rk45.{i}"] = torch.tensor([*solved.y[:, -1], solved.nfev], dtype=torch.double)

save("samplers", out, versions)
