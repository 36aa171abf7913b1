"""Small weights files in each format, and what is in them.

Made with torch==2.15.0. Writes weights/*.pth and weights.safetensors (the values in f64).
"""

import os
import pickle
from collections import OrderedDict

import torch
from safetensors.torch import save_file
from torch import nn

from reference import FIXTURES, begin, save

versions = begin()
folder = FIXTURES / "weights"
folder.mkdir(exist_ok=True)

model = nn.Sequential(OrderedDict(conv=nn.Conv2d(2, 3, 3), norm=nn.BatchNorm2d(3), fc=nn.Linear(4, 2)))
state = model.state_dict()
shared = torch.randn(4, 6)
state["whole"] = shared
state["transposed"] = shared.t()
state["part"] = shared[1:3, ::2]
state["last"] = shared[3]
state["parameter"] = nn.Parameter(torch.randn(2, 2))
state["empty"] = torch.zeros(0, 3)
state["scalar"] = torch.tensor(2.5)
for kind in ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"):
    value = torch.tensor([[0.0, 1.0, -2.5], [100.75, 7.0, 3.0]])
    value = value.abs() if kind == "uint8" else value
    state[kind] = value.to(getattr(torch, kind))

torch.save(state, folder / "zip.pth")
torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
save_file({k: v.detach().contiguous().clone() for k, v in state.items()}, folder / "plain.safetensors")
save("weights", {k: v.detach().double() for k, v in state.items()}, versions)


class Python2:
    """An ordered dict as Python 2 pickled it: its pairs are the constructor's argument."""

    def __reduce__(self):
        return OrderedDict, ([["whole", shared], ["scalar", state["scalar"]]],)


class Attack:
    def __reduce__(self):
        return os.system, ("touch kiln-was-here",)


torch.save(Python2(), folder / "python2.pth", _use_new_zipfile_serialization=False)
for name, zipped in (("forbidden-zip", True), ("forbidden-legacy", False)):
    torch.save({"a": torch.zeros(1), "b": Attack()}, folder / f"{name}.pth", _use_new_zipfile_serialization=zipped)
torch.save({"state": {"a": torch.zeros(1)}, "epoch": 3}, folder / "checkpoint.pth")
torch.save({"a": torch.zeros(1).expand(1000)}, folder / "expanded.pth")
torch.save({"a": torch.zeros(2, dtype=torch.complex64)}, folder / "complex.pth", _use_new_zipfile_serialization=False)
(folder / "other.pkl").write_bytes(pickle.dumps([1, 2], protocol=2))
for path in sorted(folder.iterdir()):
    path.chmod(0o644)
    print(path.name, path.stat().st_size)
