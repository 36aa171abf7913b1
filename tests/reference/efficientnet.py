"""EfficientNet-Lite0, on weights by formula (hashed.py).

Made with torch==2.15.0 efficientnet_lite_pytorch==0.1.0. Writes efficientnet.safetensors and the names and shapes of the network's
tensors, efficientnet.layouts.json.
"""

import json

import torch
import torch.nn.functional as F
from efficientnet_lite_pytorch import EfficientNet

from hashed import fill
from reference import FIXTURES, begin, save

versions = begin() + " efficientnet_lite_pytorch==0.1.0"
net = EfficientNet.from_name("efficientnet-lite0")
layout = fill(net)

y, x = torch.meshgrid(torch.arange(37.0), torch.arange(45.0), indexing="ij")
waves = torch.stack([torch.sin(x / 5 + c) * torch.cos(y / (4 + c)) for c in range(3)])
pictures = 127.5 + 90 * torch.stack([waves, (waves > 0).float() * 2 - 1]) + 20 * torch.randn(2, 3, 37, 45)
pictures = pictures.round().clamp(0, 255)
out = {"pictures": pictures}

resized = F.interpolate(pictures, size=(224, 224), mode="bilinear", antialias=True, align_corners=False)
scaled = (resized - 127) / 128
out["features"] = net.extract_features(scaled).mean((2, 3))
out["logits"] = net(scaled)

# The last block of each resolution, of a picture of odd sides: padding differs from side to side.
odd = EfficientNet.from_name("efficientnet-lite0", image_size=(37, 45))
odd.load_state_dict(net.state_dict())
odd.eval().requires_grad_(False)
value = odd._swish(odd._bn0(odd._conv_stem((pictures - 127) / 128)))
for i, block in enumerate(odd._blocks):
    value = block(value)
    if i in (0, 2, 4, 10, 15):
        out[f"stage{(0, 2, 4, 10, 15).index(i) + 1}.mean"] = value.mean((2, 3))

for name, value in out.items():
    assert value.isfinite().all() and value.abs().max() > 1e-3, name
save("efficientnet", out, versions)
path = FIXTURES / "efficientnet.layouts.json"
path.write_text(json.dumps({"efficientnet-lite0": layout}, separators=(",", ":")) + "\n")
print(f"{path.name}: {path.stat().st_size} bytes")
