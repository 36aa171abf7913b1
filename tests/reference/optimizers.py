"""Optimisers: the parameter after each of ten steps with given gradients.

Made with torch==2.15.0. `start` and `grads[k]` are shared by all; `<optimizer>.steps[k]` is the
parameter after step k + 1. Unless said, learning rate 0.01 and torch's defaults (eps 1e-8).
"""

import torch
from torch import optim
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from reference import begin, save

versions = begin()
STEPS = 10
start = torch.randn(3, 4)
grads = torch.randn(STEPS, 3, 4) * torch.logspace(-4, 1, 4)  # gradients of very different sizes
out = {"start": start, "grads": grads}

for name, make in {
    "adam": lambda p: optim.Adam(p, lr=0.01, betas=(0.5, 0.999)),
    "adam_beta0": lambda p: optim.Adam(p, lr=0.01, betas=(0.0, 0.99)),
    "adamw": lambda p: optim.AdamW(p, lr=0.01, betas=(0.9, 0.999), weight_decay=0.01),
    "sgd_momentum": lambda p: optim.SGD(p, lr=0.01, momentum=0.9),
    "sgd_nesterov": lambda p: optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "sgd_weight_decay": lambda p: optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.1),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01, alpha=0.99),
}.items():
    p = start.clone().requires_grad_()
    optimizer = make([p])
    steps = []
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
        steps.append(p.detach().clone())
    out[f"{name}.steps"] = torch.stack(steps)

# Clipping by the global norm of three tensors: max_norm below the norm (it scales) and above (it must not).
three = {"a": torch.randn(2, 3), "b": torch.randn(4), "c": torch.randn(1, 2, 2)}
out |= {f"clip.{k}": v for k, v in three.items()}
for label, max_norm in {"tight": 1.0, "loose": 100.0}.items():
    params = {k: torch.nn.Parameter(torch.zeros_like(v)) for k, v in three.items()}
    for k, p in params.items():
        p.grad = three[k].clone()
    out["clip.norm"] = torch.nn.utils.clip_grad_norm_(params.values(), max_norm)
    out[f"clip.{label}_max_norm"] = torch.tensor(max_norm)
    out |= {f"clip.{label}_{k}": p.grad for k, p in params.items()}

# EMA, decay 0.9, over the parameters of the `adam` run: it starts as a copy of `start`, then
# average = decay * average + (1 - decay) * parameter after each step.
model = torch.nn.Linear(4, 3, bias=False)
model.weight.data.copy_(start)
ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
ema.update_parameters(model)
averages = []
for p in out["adam.steps"]:
    model.weight.data.copy_(p)
    ema.update_parameters(model)
    averages.append(ema.module.weight.detach().clone())
out["ema.steps"] = torch.stack(averages)

save("optimizers", out, versions)
