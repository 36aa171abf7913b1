"""Feature nets and LPIPS, on weights by formula (hashed.py).

Made with torch==2.15.0 torchvision==0.29.2 torch_fidelity==0.4.0 lpips==0.1.4. Writes features.safetensors and the names and
shapes of every tensor of each network, features.layouts.json.
"""

import json
import tempfile

import lpips
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from hashed import fill
from reference import FIXTURES, begin, save

versions = begin("torchvision", "torch_fidelity") + " lpips==0.1.4"
out, layouts = {}, {}

# Two pictures with edges and noise, and a second pair close to them.
y, x = torch.meshgrid(torch.arange(37.0), torch.arange(45.0), indexing="ij")
waves = torch.stack([torch.sin(x / 5 + c) * torch.cos(y / (4 + c)) for c in range(3)])
pictures = 127.5 + 90 * torch.stack([waves, (waves > 0).float() * 2 - 1]) + 20 * torch.randn(2, 3, 37, 45)
pictures = pictures.round().clamp(0, 255)
others = (pictures + 25 * torch.randn_like(pictures)).round().clamp(0, 255)
out["pictures"], out["others"] = pictures, others
unit = lambda levels: levels / 127.5 - 1

small = torch.rand(1, 2, 9, 13)
tensorflow1 = lambda x, size: interpolate_bilinear_2d_like_tensorflow1x(x, size=size, align_corners=False)
out["resize.input"] = small
for height, width in ((20, 7), (9, 31), (4, 13)):
    out[f"resize.tensorflow1.{height}x{width}"] = tensorflow1(small, (height, width))
    out[f"resize.antialiased.{height}x{width}"] = F.interpolate(
        small, size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )


class Empty(dict):
    """Stands for the weights file, which the constructors insist on."""


def built(extractor, features):
    """A torch-fidelity extractor with its own (random) weights in place of the published ones."""
    real = nn.Module.load_state_dict
    nn.Module.load_state_dict = lambda self, state, *a, **k: None if isinstance(state, Empty) else real(self, state, *a, **k)
    try:
        with tempfile.NamedTemporaryFile(suffix=".pth") as file:
            torch.save(Empty(), file.name)
            return extractor("net", features, feature_extractor_weights_path=file.name)
    finally:
        nn.Module.load_state_dict = real


levels = pictures.to(torch.uint8)
inception = built(FeatureExtractorInceptionV3, ["2048", "logits_unbiased", "logits"])
layouts["inception"] = fill(inception)
for name, value in zip(("features", "logits_unbiased", "logits"), inception(levels)):
    out[f"inception.{name}"] = value

vgg16 = built(FeatureExtractorVGG16, ["fc2_relu"])
layouts["vgg16"] = fill(vgg16, rename=lambda name: name.removeprefix("model."))
out["vgg16.fc2_relu"] = vgg16(levels[:1])[0]

imagenet = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
mobilenet = torchvision.models.mobilenet_v2(weights=None)
layouts["mobilenetv2"] = fill(mobilenet)
resized = F.interpolate(pictures, size=(224, 224), mode="bilinear", antialias=True, align_corners=False)
features = mobilenet.features(imagenet(resized / 255)).mean((2, 3))
out["mobilenetv2.features"], out["mobilenetv2.logits"] = features, mobilenet(imagenet(resized / 255))
assert torch.allclose(mobilenet.classifier(features), out["mobilenetv2.logits"], atol=1e-4)


def activations(name, model, wanted):
    """Means of the named activations by channel, and the last one whole."""
    block, layer, value = 1, 0, imagenet(pictures / 255)
    for module in model.features:
        value = module(value)
        if isinstance(module, nn.MaxPool2d):
            block, layer = block + 1, 0
        if isinstance(module, nn.ReLU):
            layer += 1
            if (here := f"relu{block}_{layer}") in wanted:
                out[f"{name}.{here}.mean"] = value.mean((2, 3))
                if here == wanted[-1]:
                    out[f"{name}.{here}"] = value.clone()


vgg19 = torchvision.models.vgg19(weights=None)
del vgg19.classifier
layouts["vgg19"] = fill(vgg19)
activations("vgg16", vgg16.model, ("relu1_1", "relu2_2", "relu3_3", "relu5_3"))
activations("vgg19", vgg19, ("relu1_2", "relu2_1", "relu3_4", "relu4_4", "relu5_4"))

def published(name):
    """The name in the published files: torchvision's `features` without lpips's slices, heads as `linN`."""
    if name.startswith("net."):
        return "features." + name.split(".", 2)[2]
    return "lin" + name.removeprefix("lins.") if name.startswith("lins.") else name


for name, label in (("vgg", "lpips-vgg16"), ("alex", "lpips-alex")):
    metric = lpips.LPIPS(pretrained=False, net=name, pnet_rand=True, verbose=False)
    layout = fill(metric, only=lambda name: name.startswith(("features.", "lin")), rename=published)
    layouts[f"{label}.heads"] = {k: v for k, v in layout.items() if k.startswith("lin")}
    trunk = {k: v for k, v in layout.items() if k.startswith("features.")}
    if name == "alex":
        layouts["alexnet"] = trunk
    else:
        assert trunk.items() <= layouts["vgg16"].items()
    out[label] = metric(unit(pictures), unit(others)).flatten()


class Stages(nn.Module):
    """MobileNetV2's last output of each resolution."""

    def forward(self, x):
        stages = []
        for i, module in enumerate(mobilenet.features[:18]):
            x = module(x)
            if i in (1, 3, 6, 13, 17):
                stages.append(x)
        return stages


# Without heads the package sums the channels: all weights are 1.
metric = lpips.LPIPS(pretrained=False, net="alex", pnet_rand=True, lpips=False, verbose=False)
metric.net = Stages()
out["lpips-like-mobilenetv2"] = metric(unit(pictures), unit(others)).flatten()

for name, value in out.items():
    assert value.isfinite().all() and value.abs().max() > 1e-3, name
save("features", out, versions)
path = FIXTURES / "features.layouts.json"
path.write_text(json.dumps(layouts, separators=(",", ":")) + "\n")
print(f"{path.name}: {path.stat().st_size} bytes")
