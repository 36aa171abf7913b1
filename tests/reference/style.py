"""Style transfer: Gram matrices, total variation, style swap, and published networks as files to import.

Made with torch==2.15.0 and

    git clone https://github.com/pytorch/examples && git -C examples checkout 77f55b9
    git clone https://github.com/naoto0804/pytorch-AdaIN adain && git -C adain checkout 47950d0
    python style.py examples adain

<name>.<input>, .output, .grad_output, .grad_<input> as in losses.py. swap.output1 and swap.output3 are swap.content with patches of
swap.style of that side, by the layers of https://github.com/rtqichen/style-swap (NonparametricPatchAutoencoderFactory.lua, MaxCoord).
transform is the network of examples/fast_neural_style with few channels (its state, transform_io, transform_grad); style/fast.pth is such a
network as a file, and style/adain/ AdaIN's two, with <file>.input, adain.style and <file>.output in Kiln's range.
"""

import sys
import types
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from reference import FIXTURES, begin, gradients, record_model, save, spread

versions = begin(seed=31) + " pytorch/examples@77f55b9 AdaIN@47950d0"
out = {}


def gram(x):
    n, c, h, w = x.shape
    return torch.einsum("nchw,ndhw->ncd", x, x) / (h * w)


def total_variation(x):
    return ((x[:, :, 1:] - x[:, :, :-1]).abs().mean() + (x[..., 1:] - x[..., :-1]).abs().mean()).reshape(1)


gradients(out, "gram", {"x": torch.randn(2, 3, 4, 5)}, gram)
gradients(out, "tv", {"x": torch.randn(2, 3, 4, 5)}, total_variation)


def swap(content, style, k):
    patches = style.unfold(2, k, 1).unfold(3, k, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, style.shape[1], k, k)
    length = patches.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    which = F.conv2d(content, patches / (length + 1e-8)).argmax(1)
    chosen = F.one_hot(which, len(patches)).permute(0, 3, 1, 2).to(content)
    count = F.conv_transpose2d(torch.ones_like(chosen[:, :1]), torch.ones(1, 1, k, k).to(content))
    return F.conv_transpose2d(chosen, patches) / count


content, style = torch.rand(1, 5, 7, 8).double(), torch.rand(1, 5, 6, 9).double()
out |= {"swap.content": content.float(), "swap.style": style.float()}
out |= {f"swap.output{k}": swap(out["swap.content"].double(), out["swap.style"].double(), k).float() for k in (1, 3)}


def narrow(path, widths):
    """A module with other numbers of channels."""
    source = Path(path).read_text()
    for old, new in widths:
        source = source.replace(old, new)
    loaded = types.ModuleType("narrow")
    exec(compile(source, str(path), "exec"), loaded.__dict__)
    return loaded


files = FIXTURES / "style"
(files / "adain").mkdir(parents=True, exist_ok=True)
folder = Path(sys.argv[1]) / "fast_neural_style/neural_style"
fast = narrow(folder / "transformer_net.py", (("128", "16"), ("64", "8"), ("32", "4")))
record_model(out, "transform", spread(fast.TransformerNet()), ("input", torch.rand(1, 3, 16, 20) * 2 - 1))
net = spread(fast.TransformerNet())
with torch.no_grad():
    net.deconv3.conv2d.weight.mul_(60)
    net.deconv3.conv2d.bias.add_(128)
torch.save(net.state_dict(), files / "fast.pth")
x = torch.rand(1, 3, 20, 24) * 2 - 1
out |= {"fast.input": x, "fast.output": (net(127.5 * x + 127.5).clamp(0, 255) / 127.5 - 1)}

sys.path.insert(0, sys.argv[2])
net = narrow(Path(sys.argv[2]) / "net.py", (("512", "16"), ("256", "8"), ("128", "4"), ("64", "2")))
with torch.no_grad():
    for layer in [*net.vgg[2:31], *net.decoder]:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    net.vgg[0].weight.copy_(torch.tensor([[0, 0, 255.0], [0, 255, 0], [255, 0, 0]]).reshape(3, 3, 1, 1) / 100)
    net.vgg[0].bias.copy_(-torch.tensor([103.939, 116.779, 123.68]) / 100)
    net.decoder[28].weight.mul_(0.05)
    net.decoder[28].bias.add_(0.5)
torch.save(net.vgg[:31].state_dict(), files / "adain/vgg_normalised.pth")
torch.save(net.decoder.state_dict(), files / "adain/decoder.pth")
whole = net.Net(net.vgg[:31], net.decoder)
a, b = (torch.rand(1, 3, 32, 40) * 2 - 1 for _ in range(2))
made = net.decoder(net.adain(whole.encode((a + 1) / 2), whole.encode((b + 1) / 2)))
out |= {"adain.input": a, "adain.style": b, "adain.output": made.clamp(0, 1) * 2 - 1}
print("adain", made.min().item(), made.max().item())

save("style", out, versions)
for path in [*files.glob("*.pth"), *files.glob("adain/*")]:
    path.chmod(0o644)
    print(path.name, path.stat().st_size)
