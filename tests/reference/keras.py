"""Keras's weights, as HDF5, and VGG's first layers from HED's.

Made with torch==2.15.0, h5py==3.16.0. Writes weights/keras.h5 (arrays of 0, 1/8, 2/8, …), weights/packed.h5 (the same
compressed, which is refused), and <relu>.output of a HED of random weights by formula, whose blocks are cut after relu2_2, for `input` [1,3,24,24] in
[-1, 1]: of blue, green and red from 0 to 255 less 103.939, 116.779 and 123.68.
"""

import h5py
import numpy as np
import torch
import torch.nn.functional as F

from hashed import weights
from reference import FIXTURES, begin, save

versions = begin("h5py")
out = {}


shapes = {"a/layers/conv2d/vars/0": (3, 3, 2, 4), "a/layers/conv2d/vars/1": (4,), "b/vars/0": (5,)}
for name, options in (("keras", {}), ("packed", {"compression": "gzip", "chunks": True})):
    with h5py.File(FIXTURES / "weights" / f"{name}.h5", "w") as file:
        for path, shape in shapes.items():
            data = np.zeros((256, 256), np.float32) if name == "packed" else (np.arange(np.prod(shape)) / 8).astype(np.float32).reshape(shape)
            file.create_dataset(path, data=data, **options)

x = 2 * torch.rand(1, 3, 24, 24) - 1
levels = (x + 1) * 127.5
y = levels.flip(1) - torch.tensor([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1)
inputs = 3
for block, (count, outputs) in enumerate(((2, 64), (2, 128)), 1):
    y = F.max_pool2d(y, 2) if block > 1 else y
    for i in range(count):
        path = f"block{block}/layers/conv2d{f'_{i}' if i else ''}/vars"
        weight = weights(f"{path}/0", (3, 3, inputs, outputs)).permute(3, 2, 0, 1)
        y = F.relu(F.conv2d(y, weight, weights(f"{path}/1", (outputs,)), padding=1))
        inputs = outputs
        out[f"relu{block}_{i + 1}"] = y[:, ::16]
out["input"] = x
save("keras", out, versions)
