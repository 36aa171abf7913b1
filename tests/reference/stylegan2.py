"""StyleGAN2 as the best-known PyTorch port has it: pictures, logits, R1 and path lengths with their gradients.

Made with torch==2.15.0, safetensors==0.8.0 and https://github.com/rosinality/stylegan2-pytorch at bef283a:

    git clone https://github.com/rosinality/stylegan2-pytorch port && git -C port checkout bef283a
    python stylegan2.py port

Its model.py runs as it is, but for the table of channels, so that the fixture stays small; of its op/ the CPU's branches.
All in double precision, of weights by formula (`formula`, which the Rust test repeats) in the names of its state dict.

<size>.image [2,3,size,size] (every `step`-th pixel; of base / size channels, at most 8), .logits [2], .mixed: the first with the styles of the second from layer 3
on, truncated by 0.7 towards `latent_avg`; .r1 (half the mean squared gradient, as 1/2 E |grad D(x)|²) and .path (a = 0.3 before), .path_mean,
and the gradients .r1.<name>, .path.<name>.
stylegan2/*.pt and .safetensors are files of an 8x8 network with `import.image` and `import.truncated` (by 0.5) [2,3,8,8], of z with its
own noise.
"""

import ast
import collections.abc as abc
import math
import re
import sys
import types
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from hashed import uniform
from reference import FIXTURES, begin, save

port = Path(sys.argv[1])
versions = begin() + " rosinality/stylegan2-pytorch@bef283a"
torch.set_default_dtype(torch.float64)

STYLE, LAYERS = 16, 8


def functions(file, names, scope):
    """Some functions and classes of a file, without what it does when it is imported."""
    tree = ast.parse((port / file).read_text())
    tree.body = [node for node in tree.body if getattr(node, "name", None) in names]
    exec(compile(tree, file, "exec"), scope)
    return scope


op = types.ModuleType("op")
fused = functions("op/fused_act.py", {"FusedLeakyReLU", "fused_leaky_relu"}, {"torch": torch, "nn": nn, "F": F})
fir = functions("op/upfirdn2d.py", {"upfirdn2d", "upfirdn2d_native"}, {"torch": torch, "F": F, "abc": abc})
op.FusedLeakyReLU, op.fused_leaky_relu = fused["FusedLeakyReLU"], fused["fused_leaky_relu"]
op.upfirdn2d, op.conv2d_gradfix = fir["upfirdn2d"], F
sys.modules["op"] = op

source = (port / "model.py").read_text()
source = re.sub(r"channels = \{.*?\}", "channels = CHANNELS", source, flags=re.DOTALL)
model = {"CHANNELS": {}, "__name__": "model"}
exec(compile(source, "model.py", "exec"), model)


def formula(name, shape):
    """Unit variance for weights, which are equalised; a hundred times that in the mapping network, which learns a
    hundredth; biases, strengths of noise and means of W near 0, of modulations near 1."""
    u = torch.from_numpy(uniform(name, math.prod(shape)))
    if name.endswith("modulation.bias"):
        values = 0.9 + 0.2 * u
    elif name.endswith("bias") or name.endswith("noise.weight") or name == "latent_avg":
        values = 0.2 * u - 0.1
    else:
        values = (2 * u - 1) * math.sqrt(3)
    if name.startswith("style."):
        values = 100 * values
    return values.float().double().reshape(shape)


def fill(module, prefix):
    state = module.state_dict()
    state = {k: v if k.endswith("kernel") else formula(prefix + k, v.shape) for k, v in state.items()}
    module.load_state_dict(state)


out = {}
for size, step, base in [(32, 1, 128), (64, 2, 192), (256, 8, 512)]:
    model["CHANNELS"].update({2**i: min(base >> i, 8) for i in range(2, 9)})
    g = model["Generator"](size, STYLE, LAYERS).double()
    d = model["Discriminator"](size).double()
    fill(g, "")
    fill(d, "d.")
    z = formula("z", (2, STYLE))
    noise = [formula(f"input noise {i}", (2, 1, *n.shape[2:])) for i, n in enumerate(g.noises.buffers())]
    image, w = g([z], return_latents=True, noise=noise)
    mean = formula("latent_avg", (STYLE,))
    mixed, _ = g(
        [z[:1], z[1:]], inject_index=3, truncation=0.7, truncation_latent=mean, randomize_noise=False
    )
    kept = lambda x: x[:, :, ::step, ::step]
    out[f"{size}.image"], out[f"{size}.mixed"] = kept(image), kept(mixed)
    out[f"{size}.logits"] = d(image).flatten()

    # As d_r1_loss and g_path_regularize of its train.py.
    real = formula("real", (4, 3, size, size)).requires_grad_()
    (slope,) = torch.autograd.grad(d(real).sum(), real, create_graph=True)
    r1 = 0.5 * slope.pow(2).reshape(4, -1).sum(1).mean()
    r1.backward()
    out[f"{size}.r1"] = r1
    out.update({f"{size}.r1.{k}": p.grad for k, p in d.named_parameters() if p.grad is not None})

    y = formula("y", image.shape) / math.sqrt(size * size)
    (slope,) = torch.autograd.grad((image * y).sum(), w, create_graph=True)
    lengths = torch.sqrt(slope.pow(2).sum(2).mean(1))
    average = 0.3 + 0.01 * (lengths.mean() - 0.3)
    path = (lengths - average).pow(2).mean()
    path.backward()
    out[f"{size}.path"], out[f"{size}.path_mean"] = path, average
    out.update({f"{size}.path.{k}": p.grad for k, p in g.named_parameters() if p.grad is not None})

# A trainer's checkpoint as its train.py writes it, in the format of today; its converter's, with the mean of W and without a
# discriminator, in PyTorch's older format; and the averaged generator alone.
model["CHANNELS"].update({4: 4, 8: 3})
torch.set_default_dtype(torch.float32)
g, d = model["Generator"](8, 4, 2), model["Discriminator"](8)
optimizer = torch.optim.Adam(g.parameters(), betas=(0.0, 0.99))
g(formula("z", (2, 4)).float()[None])[0].sum().backward()
optimizer.step()
networks = {}
for prefix, module in {"": g, "d.": d}.items():
    fill(module, prefix)
    networks[prefix] = {k: v.clone() for k, v in module.state_dict().items()}
folder = FIXTURES / "stylegan2"
folder.mkdir(exist_ok=True)
average = OrderedDict(networks[""])
live = OrderedDict((k, v + 1) for k, v in average.items())
parts = {"g": live, "d": OrderedDict(networks["d."]), "g_ema": average, "g_optim": optimizer.state_dict()}
torch.save(parts | {"args": Namespace(size=8, lr=0.002), "ada_aug_p": 0.25}, folder / "trainer.pt")
mean = formula("latent_avg", (4,)).float()
torch.save({"g_ema": average, "latent_avg": mean}, folder / "converter.pt", _use_new_zipfile_serialization=False)
save_file(dict(average), folder / "g_ema.safetensors")
w = g.get_latent(formula("z", (2, 4)).float())
for name, truncation in (("import.image", 1), ("import.truncated", 0.5)):
    out[name], _ = g([w], input_is_latent=True, randomize_noise=False, truncation=truncation, truncation_latent=mean)
for path in sorted(folder.iterdir()):
    path.chmod(0o644)
    print(path.name, path.stat().st_size)

save("stylegan2", {k: v.float() for k, v in out.items()}, versions)
