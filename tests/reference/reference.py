"""What every reference script shares: the seed, one thread, and how a fixture is written."""

import importlib
from pathlib import Path

import torch
from safetensors.torch import save_file

FIXTURES = Path(__file__).resolve().parent / "fixtures"


def begin(*packages, seed=0):
    """Seeds torch and returns (and prints) the versions the fixture is made with."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    versions = {p: str(importlib.import_module(p).__version__) for p in ("torch", *packages)}
    versions = " ".join(f"{p}=={v}" for p, v in versions.items())
    print(versions)
    return versions


def save(topic, tensors, versions):
    """Writes fixtures/<topic>.safetensors; the versions are its metadata `made_with`."""
    tensors = {k: torch.as_tensor(v).detach().contiguous().clone() for k, v in tensors.items()}
    path = FIXTURES / f"{topic}.safetensors"
    save_file(tensors, path, metadata={"made_with": versions})
    path.chmod(0o644)
    print(f"{path.name}: {len(tensors)} tensors, {path.stat().st_size} bytes")


def gradients(out, name, inputs, function, **extra):
    """Puts <name>.<input>, .output, .grad_output, .grad_<input> and the extras into `out`."""
    inputs = {k: v.float().double().requires_grad_() for k, v in inputs.items()}
    y = function(**inputs)
    g = torch.randn(y.shape).double()
    y.backward(g)
    tensors = {**inputs, "output": y, "grad_output": g, **{f"grad_{k}": v.grad for k, v in inputs.items()}}
    out.update({f"{name}.{k}": v.detach().float() for k, v in tensors.items()})
    out.update({f"{name}.{k}": v for k, v in extra.items()})


def spread(module, scale=0.3):
    """Moves every parameter off its (often 0 or 1) initial value, so that no term is invisible."""
    with torch.no_grad():
        for p in module.parameters():
            if p.dim() == 1:
                p.add_(scale * torch.randn_like(p))
    return module


def record_layer(out, name, layer, *shape, call=None):
    """<name>.input/.output/.grad_output/.grad_input, .<parameter> and .grad_<parameter>."""
    x = torch.randn(*shape, requires_grad=True)
    out.update({f"{name}.{k}": p.clone() for k, p in layer.state_dict().items() if p.is_floating_point()})
    y = (call or layer)(x)
    g = torch.randn_like(y)
    y.backward(g)
    out.update({f"{name}.input": x, f"{name}.output": y, f"{name}.grad_output": g, f"{name}.grad_input": x.grad})
    out.update({f"{name}.grad_{k}": p.grad for k, p in layer.named_parameters()})


def record_model(out, name, model, *inputs, grads=lambda k: True):
    """State under <name>., values under <name>_io., parameter gradients under <name>_grad. .

    `inputs` are (label, tensor); every floating one gets a gradient `grad_<label>`.
    """
    out.update({f"{name}.{k}": p.clone() for k, p in model.state_dict().items() if p.is_floating_point()})
    tensors = [t.clone().requires_grad_(t.is_floating_point()) for _, t in inputs]
    y = model(*tensors)
    g = torch.randn_like(y)
    y.backward(g)
    out.update({f"{name}_io.output": y, f"{name}_io.grad_output": g})
    for (label, _), t in zip(inputs, tensors):
        out[f"{name}_io.{label}"] = t
        if t.grad is not None:
            out[f"{name}_io.grad_{label}"] = t.grad
    out.update({f"{name}_grad.{k}": p.grad for k, p in model.named_parameters() if grads(k)})
