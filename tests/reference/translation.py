"""Translation networks of their authors' code: pictures, and files of weights to import.

Made with torch==2.15.0, safetensors==0.8.0 and

    git clone https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix pix2pix && git -C pix2pix checkout cb2c4f8
    git clone https://github.com/junyanz/BicycleGAN bicycle && git -C bicycle checkout 40b9d52
    git clone https://github.com/SKTBrain/DiscoGAN discogan
    python translation.py pix2pix bicycle

Networks as they are, of few channels and without dropout. <name>.<path> is the state, <name>_io the values in training mode,
<name>_grad.<path> gradients. translation/*.pth are files of generators, with <file>.input [1,3,h,w] and <file>.output in evaluation mode,
<file>.batch in training mode without dropout: by the statistics of the picture.
"""

import importlib.util
import sys
from pathlib import Path

import torch
import torch.nn as nn
from safetensors.torch import save_file

from reference import FIXTURES, begin, record_model, save, spread

versions = begin(seed=29) + " pix2pix@cb2c4f8 BicycleGAN@40b9d52"


def module(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


pix2pix = module("pix2pix", Path(sys.argv[1]) / "models/networks.py")
bicycle = module("bicycle", Path(sys.argv[2]) / "models/networks.py")
batch, instance = pix2pix.get_norm_layer("batch"), pix2pix.get_norm_layer("instance")
out = {}


def x(*shape):
    return ("input", torch.rand(*shape) * 2 - 1)


record_model(out, "unet_batch", spread(pix2pix.UnetGenerator(3, 3, 5, 1, batch)), x(2, 3, 32, 32))
record_model(out, "unet_instance", spread(pix2pix.UnetGenerator(3, 1, 5, 1, instance)), x(1, 3, 32, 32), grads=lambda k: "bias" in k)
record_model(out, "resnet_batch", spread(pix2pix.ResnetGenerator(3, 3, 2, batch, n_blocks=1)), x(2, 3, 16, 16))
record_model(out, "patch_batch", spread(pix2pix.NLayerDiscriminator(6, 2, 2, batch)), x(2, 6, 32, 32))
record_model(out, "pixel_batch", spread(pix2pix.PixelDiscriminator(3, 2, batch)), x(2, 3, 8, 8))


class Joined(nn.Module):
    """Outputs of several scales, or mean and log variance, as one row."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, *inputs):
        return torch.cat([y.flatten() for y in self.net(*inputs)])


norm, leak = bicycle.get_norm_layer("instance"), bicycle.get_non_linearity("lrelu")
encoder = bicycle.E_ResNet(3, 4, 2, 2, norm, leak, vaeLike=True)
record_model(out, "bicycle_e", Joined(spread(encoder)), x(2, 3, 32, 32))
d = bicycle.D_NLayersMulti(3, 4, 1, norm, 2)
record_model(out, "bicycle_d", Joined(spread(d)), x(2, 3, 32, 32))
g = bicycle.G_Unet_add_all(3, 3, 4, 6, 1, norm, bicycle.get_non_linearity("relu"))
record_model(out, "bicycle_g", spread(g), x(1, 3, 64, 64), ("z", torch.randn(1, 4)), grads=lambda k: "bias" in k)


def disco():
    """DiscoGAN's generator at half its depth, and its feature matching (SKTBrain/DiscoGAN, model.py, image_translation.py)."""
    conv, up, bn = nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d
    layers = [conv(3, 2, 4, 2, 1, bias=False), nn.LeakyReLU(0.2), conv(2, 4, 4, 2, 1, bias=False), bn(4), nn.LeakyReLU(0.2)]
    layers += [up(4, 2, 4, 2, 1, bias=False), bn(2), nn.ReLU(), up(2, 3, 4, 2, 1, bias=False), nn.Tanh()]
    return nn.Sequential(*layers)


record_model(out, "discogan_g", spread(disco()), x(2, 3, 16, 16))
real, fake = [[torch.randn(3, 2 * i, 4, 4) for i in (1, 2)] for _ in range(2)]
total = 0
for r, f in zip(real, fake):
    square = (r.mean(0) - f.mean(0)) * (r.mean(0) - f.mean(0))
    total = total + nn.HingeEmbeddingLoss()(square, torch.ones_like(square))
out |= {f"features.real.{i}": r for i, r in enumerate(real)} | {f"features.fake.{i}": f for i, f in enumerate(fake)}
out["features.value"] = total

files = FIXTURES / "translation"
files.mkdir(exist_ok=True)
nets = {
    "unet": (pix2pix.UnetGenerator(3, 3, 6, 1, batch, use_dropout=True), 64),
    "unet_instance": (pix2pix.UnetGenerator(1, 1, 5, 1, instance), 32),
    "resnet": (pix2pix.ResnetGenerator(3, 3, 4, instance, n_blocks=2), 24),
    "resnet_batch": (pix2pix.ResnetGenerator(3, 3, 4, batch, use_dropout=True, n_blocks=2), 24),
}
for name, (net, side) in nets.items():
    spread(net)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.2)
            m.running_var.uniform_(0.5, 2)
    picture = torch.rand(1, list(net.parameters())[0].shape[1], side, side) * 2 - 1
    net.eval()
    with torch.no_grad():
        out[f"{name}.input"], out[f"{name}.output"] = picture, net(picture)
        if "Unet" in type(net).__name__ or "batch" in name:
            by_picture = net.train()
            for m in by_picture.modules():
                if isinstance(m, nn.Dropout):
                    m.eval()
                if isinstance(m, nn.BatchNorm2d):
                    m.momentum = 0.0
            out[f"{name}.batch"] = by_picture(picture)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    if name == "resnet":
        state = {f"module.{k}": v for k, v in state.items()}
        save_file(state, files / "latest_net_G_A.safetensors")
        torch.manual_seed(1)
        other = spread(pix2pix.ResnetGenerator(3, 3, 4, instance, n_blocks=2)).eval()
        torch.save(other.state_dict(), files / "latest_net_G_B.pth")
        with torch.no_grad():
            out["resnet_back.output"] = other(picture)
    else:
        torch.save(state, files / f"{name}.pth")

save("translation", out, versions)
for path in sorted(files.iterdir()):
    path.chmod(0o644)
    print(path.name, path.stat().st_size)
