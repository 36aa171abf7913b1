"""Pseudo-random weights by formula: the same numbers here and in crates/kiln-features/tests/hashed/mod.rs (uniform: hashed.rs),
so that networks of many megabytes can be compared through fixtures of a few kilobytes.

Element i of tensor NAME: u = top 24 bits of splitmix64's finaliser at FNV-1a(NAME) + (i + 1) * GOLDEN, over
2^24. Matrices and convolutions are uniform in +-sqrt(6 / fan_in) (He 2015), which keeps deep networks
awake; LPIPS heads are u, which is positive; scales and variances 0.5 + u; shifts and means 0.2 u - 0.1.
"""

import numpy as np
import torch


def uniform(name, count):
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2.0**24


def weights(name, shape):
    u = uniform(name, int(np.prod(shape)))
    if name.startswith("lin"):
        values = u
    elif len(shape) > 1:
        values = (2 * u - 1) * np.sqrt(6 / np.prod(shape[1:]))
    elif name.endswith("running_var") or name.endswith("weight"):
        values = 0.5 + u
    else:
        values = 0.2 * u - 0.1
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def fill(module, only=lambda name: True, rename=lambda name: name):
    """Puts the weights into a module and returns the layout {name: shape} of what it has."""
    layout = {}
    state = module.state_dict()
    for key, value in state.items():
        name = rename(key)
        if value.is_floating_point() and only(name):
            state[key] = weights(name, tuple(value.shape))
            layout[name] = list(value.shape)
    module.load_state_dict(state)
    module.eval().requires_grad_(False)
    return layout
