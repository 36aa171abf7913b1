"""Minimising a function of two tensors: where each step of Adam and of L-BFGS arrives.

Made with Python 3.11, torch 2.15.0 (CPU), safetensors 0.8.0, in double precision.
"""

import torch
from torch import optim

from reference import begin, save

versions = begin(seed=5)
# Closer to the minimum, what is left of the quadratic is rounding in single precision.
STEPS = {"rosenbrock": 12, "quadratic": 7}
start = {
    "rosenbrock": [torch.tensor([-1.2]), torch.tensor([1.0])],
    "quadratic": [torch.randn(2), torch.randn(3)],
}
root = torch.randn(5, 5)
matrix = (root @ root.T + torch.eye(5)).float()
objectives = {
    "rosenbrock": lambda x, y: ((1 - x) ** 2 + 100 * (y - x**2) ** 2).sum(),
    "quadratic": lambda x, y: 0.5 * torch.cat([x, y]) @ matrix.double() @ torch.cat([x, y]) - torch.cat([x, y]).sum(),
}
# One iteration a step, and no limit of evaluations.
lbfgs = dict(max_iter=1, max_eval=1000)
methods = {
    "adam": lambda p: optim.Adam(p, lr=0.1),
    "lbfgs": lambda p: optim.LBFGS(p, lr=1, line_search_fn="strong_wolfe", **lbfgs),
    "lbfgs_history2": lambda p: optim.LBFGS(p, lr=0.5, history_size=2, line_search_fn="strong_wolfe", **lbfgs),
    "lbfgs_fixed": lambda p: optim.LBFGS(p, lr=0.2, **lbfgs),
}

out = {"quadratic.matrix": matrix}
for name, objective in objectives.items():
    out |= {f"{name}.start.{i}": v for i, v in enumerate(start[name])}
    for method, make in methods.items():
        variables = [v.double().requires_grad_() for v in start[name]]
        optimizer = make(variables)

        def closure():
            optimizer.zero_grad()
            value = objective(*variables)
            value.backward()
            return value

        path, values = [], []
        for _ in range(STEPS[name]):
            optimizer.step(closure)
            path.append(torch.cat([v.detach().clone() for v in variables]))
            values.append(objective(*variables).detach())
        out[f"{name}.{method}.path"] = torch.stack(path)
        out[f"{name}.{method}.values"] = torch.stack(values)
        print(name, method, *(f"{v:.3g}" for v in values))

save("minimise", out, versions)
