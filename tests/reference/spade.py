"""SPADE's networks and losses, of their authors' code.

Made with torch==2.15.0, safetensors==0.8.0 and

    git clone https://github.com/NVlabs/SPADE spade && git -C spade checkout 0ff661e
    python spade.py spade

Networks as they are, of few channels: norms with 4 channels between map and scales for 128, an encoder of pictures of 64 pixels for 256 with z
of 3 numbers for 256. Weights are by formula (hashed.py) of their paths in Kiln. Singular vectors are the exact ones, so that a power
iteration leaves them: <name>.<path>. <name>_io are the values in training mode, <name>_grad.<path> gradients. `whole` is the objective of the generator and of the discriminator on
the networks g_latent, e and d.
"""

import re
import sys
import types
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from hashed import weights
from reference import begin, save

versions = begin(seed=31) + " SPADE@0ff661e"
root = Path(sys.argv[1])


def package(name, path=None):
    made = types.ModuleType(name)
    made.__path__ = [str(path)] if path else []
    sys.modules[name] = made
    return made


package("torchvision")
models = package("models", root / "models")
networks = package("models.networks", root / "models/networks")
util = package("util")
util.util = package("util.util")
package("models.networks.sync_batchnorm").SynchronizedBatchNorm2d = nn.BatchNorm2d


def load(name, changes=()):
    path = root / (name.replace(".", "/") + ".py")
    source = path.read_text()
    for old, new in changes:
        assert old in source, (name, old)
        source = source.replace(old, new)
    made = types.ModuleType(name)
    sys.modules[name] = made
    exec(compile(source, str(path), "exec"), made.__dict__)
    return made


load("models.networks.base_network")
normalization = load("models.networks.normalization", [("nhidden = 128", "nhidden = 4")])
architecture = load("models.networks.architecture")
generator = load("models.networks.generator")
small = [("!= 256", "!= 64"), ("size=(256, 256)", "size=(64, 64)"), (", 256)", ", 3)"), (">= 256", ">= 2560")]
small += [("self.layer5 = norm_layer(nn.Conv2d(ndf * 8, ndf * 8, kw, stride=2, padding=pw))", ""), ("x = self.layer5(self.actvn(x))", "")]
encoder = load("models.networks.encoder", small)
discriminator = load("models.networks.discriminator")
losses = load("models.networks.loss")
networks.GANLoss, networks.KLDLoss = losses.GANLoss, losses.KLDLoss
model = load("models.pix2pix_model")

opt = types.SimpleNamespace(
    norm_G="spectralspadebatch3x3", norm_E="spectralinstance", norm_D="spectralinstance", semantic_nc=3, label_nc=3, output_nc=3, ngf=1, ndf=2,
    contain_dontcare_label=False, no_instance=True, use_vae=True, z_dim=3, crop_size=64, aspect_ratio=1.0, num_upsampling_layers="normal",
    n_layers_D=3, num_D=2, netD_subarch="n_layer", no_ganFeat_loss=False, gpu_ids=[], lambda_feat=10.0, lambda_kld=0.05, no_vgg_loss=True,
)  # fmt: skip
out = {}


PARTS = {"weight_orig": "weight", "weight_u": "parametrization.u", "weight_v": "parametrization.v"}


def renamed(key, layers):
    path, part = key.rsplit(".", 1)
    for pattern, ours in layers:
        path = re.sub(pattern, ours, path)
    return f"{path}.{PARTS.get(part, part)}"


SPADE = [("mlp_shared.0", "shared"), ("mlp_", ""), ("param_free_norm", "norm")]
BLOCK = SPADE + [(r"(norm|conv)_0", r"\g<1>1"), (r"(norm|conv)_1", r"\g<1>2"), ("norm_s", "norm_shortcut"), ("conv_s", "shortcut")]
LATENT, MAP = [(r"^fc", "from_latent")], [(r"^fc", "from_map")]
GENERATOR = [("head_0", "head"), (r"G_middle_(\d)", r"middle.\1"), (r"up_(\d)", r"up.\1"), ("conv_img", "last")] + BLOCK
ENCODER = [(r"layer(\d)\.0", lambda m: f"layers.{int(m[1]) - 1}"), ("fc_mu", "mean"), ("fc_var", "log_var")]


def patches(layers):
    def layer(found):
        at = int(found[2])
        return f"scales.{found[1]}." + ("first" if at == 0 else "last" if at == layers else f"middle.{at - 1}")

    return [(r"discriminator_(\d)\.model(\d)(\.0)*", layer)]


def settle(net, layers):
    """Weights by formula, with their singular vectors."""
    with torch.no_grad():
        for key, p in net.named_parameters():
            p.copy_(weights(renamed(key, layers).replace("gamma", "gamma.weight"), tuple(p.shape)))
    for m in net.modules():
        if hasattr(m, "weight_u"):
            u, _, v = torch.linalg.svd(m.weight_orig.detach().flatten(1), full_matrices=False)
            m.weight_u.copy_(u[:, 0])
            m.weight_v.copy_(v[0])
    return net


def record(name, net, layers, inputs, forward, grads=lambda k: True):
    settle(net, layers)
    out.update({f"{name}.{renamed(k, layers)}": v.clone() for k, v in net.state_dict().items() if k.endswith(("_u", "_v"))})
    inputs = {k: v.clone().requires_grad_() for k, v in inputs.items()}
    y = forward(net, **inputs)
    g = torch.randn_like(y)
    y.backward(g)
    out.update({f"{name}_io.output": y, f"{name}_io.grad_output": g})
    out.update({f"{name}_io.{k}": v for k, v in inputs.items()} | {f"{name}_io.grad_input": inputs["input"].grad})
    found = {renamed(k, layers): p.grad for k, p in net.named_parameters() if p.grad is not None}
    out.update({f"{name}_grad.{k}": v for k, v in found.items() if grads(k)})
    net.zero_grad()


def map_of(n, side):
    return F.one_hot(torch.randint(3, (n, side, side)), 3).permute(0, 3, 1, 2).float()


def with_map(net, input, map):
    return net(input, map)


def biases(k):
    return "bias" in k


for kind in ("batch", "instance"):
    net = normalization.SPADE(f"spade{kind}3x3", 5, 3)
    record(f"norm_{kind}", net, SPADE, {"input": torch.randn(2, 5, 4, 4), "map": map_of(2, 8)}, with_map)
for name, (i, o) in {"block": (4, 2), "block_same": (3, 3)}.items():
    net = architecture.SPADEResnetBlock(i, o, opt)
    record(name, net, BLOCK, {"input": torch.randn(2, i, 6, 6), "map": map_of(2, 6)}, with_map)

g = generator.SPADEGenerator(opt)
record("g_latent", g, GENERATOR + LATENT, {"input": map_of(2, 64), "z": torch.randn(2, 3)}, lambda net, input, z: net(input, z), biases)
fixed = types.SimpleNamespace(**{**vars(opt), "use_vae": False, "norm_G": "spectralspadeinstance3x3"})
net = generator.SPADEGenerator(fixed)
record("g_map", net, GENERATOR + MAP, {"input": map_of(1, 64)}, lambda net, input: net(input), lambda k: k.startswith("from_map"))

e = encoder.ConvEncoder(opt)
record("e", e, ENCODER, {"input": torch.rand(2, 3, 20, 24) * 2 - 1}, lambda net, input: torch.cat([y.flatten() for y in net(input)]))
d = discriminator.MultiscaleDiscriminator(opt)
x = torch.rand(2, 6, 16, 16) * 2 - 1
record("d", d, patches(3), {"input": x}, lambda net, input: torch.cat([y.flatten() for scale in net(input) for y in scale]))

whole = model.Pix2PixModel.__new__(model.Pix2PixModel)
nn.Module.__init__(whole)
whole.opt, whole.netG, whole.netE, whole.netD = opt, g, e, d
whole.criterionGAN, whole.criterionFeat, whole.KLDLoss = losses.GANLoss("hinge", tensor=torch.FloatTensor, opt=opt), nn.L1Loss(), losses.KLDLoss()
whole.FloatTensor = torch.FloatTensor
semantics, real, noise = map_of(2, 64), torch.rand(2, 3, 64, 64) * 2 - 1, torch.randn(2, 3)
torch.randn_like = lambda _: noise
terms, fake = whole.compute_generator_loss(semantics, real)
sum(terms.values()).sum().backward()
classes = semantics.argmax(1).float()
out |= {"whole.classes": classes, "whole.real": real, "whole.noise": noise}
out |= {"whole.adversarial": terms["GAN"], "whole.features": terms["GAN_Feat"] / 10, "whole.kl": terms["KLD"] / 0.05}
for name, net, layers in (("generator", g, GENERATOR + LATENT), ("encoder", e, ENCODER)):
    found = {f"{name}.{renamed(k, layers)}": p.grad for k, p in net.named_parameters()}
    out |= {f"whole_grad.{k}": v for k, v in found.items() if biases(k)}
whole.zero_grad()
terms = whole.compute_discriminator_loss(semantics, real)
sum(terms.values()).sum().backward()
out["whole.discriminator"] = sum(terms.values())
out |= {f"whole_grad.discriminator.{renamed(k, patches(3))}": p.grad for k, p in d.named_parameters()}
save("spade", out, versions)
