"""Translation networks of their authors' code: pictures, and files of weights to import.

Made with torch==2.15.0, safetensors==0.8.0 and

    git clone https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix pix2pix && git -C pix2pix checkout cb2c4f8
    git clone https://github.com/junyanz/BicycleGAN bicycle && git -C bicycle checkout 40b9d52
    git clone https://github.com/NVlabs/MUNIT munit && git -C munit checkout a82e222
    git clone https://github.com/HsinYingLee/DRIT drit && git -C drit checkout f19f50a
    git clone https://github.com/naoto0804/pytorch-AdaIN adain && git -C adain checkout 47950d0
    python translation.py pix2pix bicycle munit drit adain

Networks as they are, of few channels and without dropout. <name>.<path> is the state, <name>_io the values in training mode,
<name>_grad.<path> gradients. Whole objectives of munit, unit, drit and adain in double precision, DRIT's networks with 4 channels in place of 64, AdaIN's with 2: weights and draws by
formula (hashed.py) of the names that they have in Kiln, pictures 2u - 1. <system>.<term> are the terms and <system>.grad.<path> gradients of the whole.
translation/*.pth are files of generators, with <file>.input [1,3,h,w] and <file>.output in evaluation mode,
<file>.batch in training mode without dropout: by the statistics of the picture.
"""

import importlib.util
import math
import sys
import types
from pathlib import Path

import torch
import torch.nn as nn
from safetensors.torch import save_file

from hashed import uniform, weights
from reference import FIXTURES, begin, record_model, save, spread

versions = begin(seed=29) + " pix2pix@cb2c4f8 BicycleGAN@40b9d52 MUNIT@a82e222 DRIT@f19f50a AdaIN@47950d0"


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

# Whole objectives. Draws come in the order in which the authors' code asks for them.
torch.Tensor.cuda = lambda self, *_: self
torch.Tensor.get_device = lambda self: "cpu"
torch.set_default_dtype(torch.float64)
queue = []
torch.randn = lambda *shape, **_: queue.pop(0)


def by_formula(name, *shape):
    """2u - 1, as in the Rust test."""
    return torch.from_numpy(2 * uniform(name, math.prod(shape)) - 1).float().double().reshape(shape)


def filled(net, rename):
    """Weights by formula of the names that `rename` makes, as Kiln lays them out; the names."""
    names = {}
    for key, parameter in net.named_parameters():
        name, shape = rename(key), list(parameter.shape)
        turned = "generator_" in name and ".last.weight" in name  # a transposed convolution of one pixel, here a plain one
        if name.endswith(("gamma", "beta")) or "style.last" in name:
            shape = [side for i, side in enumerate(shape) if side != 1 or i == 0]
        shape = [shape[1], shape[0], 1, 1] if turned else shape
        value = weights(name.replace("gamma", "gamma.weight"), tuple(shape)).double()
        with torch.no_grad():
            parameter.copy_((value.transpose(0, 1) if turned else value).reshape(parameter.shape))
        names[name] = parameter
    return names


def trainer_of(folder, name, stubs=()):
    sys.path.insert(0, str(folder))
    for stub in stubs:
        sys.modules[stub] = types.SimpleNamespace(
            weights_init=lambda *_: lambda _: None, get_model_list=None, vgg_preprocess=None, load_vgg16=None, get_scheduler=lambda *_: None
        )
    loaded = module(name, Path(folder) / f"{name}.py")
    sys.path.pop(0)
    for known in ("networks", *stubs):
        sys.modules.pop(known, None)
    return loaded


def munit_name(side):
    """From a module of AdaINGen, VAEGen or MsImageDis to its path in Kiln."""

    def content(key):
        at, rest = key.split(".", 1)
        parts = rest.split(".")
        if at == "0":
            return f"first.{parts[-2]}.{parts[-1]}"
        if at in ("1", "2") and parts[0] == "conv":
            return f"down.{int(at) - 1}.conv.{parts[-1]}"
        # 3.model.<block>.model.<0|1>.conv.weight
        return f"blocks.{parts[1]}.conv{int(parts[3]) + 1}.{parts[-1]}"

    def decoder(key):
        at, rest = key.split(".", 1)
        parts = rest.split(".")
        if at == "0":
            return f"blocks.{parts[1]}.conv{int(parts[3]) + 1}.conv.{parts[-1]}"
        if at in ("2", "4"):
            up = int(at) // 2 - 1
            return f"norms.{up}.{parts[-1]}" if parts[0] == "norm" else f"up.{up}.conv.{parts[-1]}"
        return f"last.conv.{parts[-1]}"

    def style(key):
        at, rest = key.split(".", 1)
        if at == "0":
            return "first." + rest
        return f"down.{int(at) - 1}.{rest}" if rest.startswith("conv") else f"last.{rest}"

    def rename(key):
        net, rest = key.split(".", 1)
        rest = rest.removeprefix("model.")
        part = rest.split(".")
        if net == "enc_content":
            return f"{side}.content." + content(rest)
        if net == "enc_style":
            return f"{side}.style." + style(rest)
        if net == "mlp":
            return f"{side}.mlp.layers.{part[0]}.{part[-1]}"
        return f"{side}.decoder." + decoder(rest)

    return rename


def strided(side):
    def rename(key):
        _, scale, at, *rest = key.split(".")
        return f"{side}.scales.{scale}." + (f"layers.{at}.conv.{rest[-1]}" if len(rest) > 1 else f"last.{rest[-1]}")

    return rename


def record_terms(name, terms, names, total, every=False):
    keep = {k: p for k, p in names.items() if every or k.endswith("bias") or k.endswith("gamma")}
    grads = torch.autograd.grad(total, keep.values(), allow_unused=True)
    out.update({f"{name}.{k}": torch.as_tensor(v).detach() for k, v in terms.items()})
    out.update({f"{name}.grad.{k}": g for k, g in zip(keep, grads) if g is not None})


gen = {"dim": 2, "mlp_dim": 8, "style_dim": 3, "activ": "relu", "n_downsample": 2, "n_res": 2, "pad_type": "reflect"}
dis = {"dim": 2, "norm": "none", "activ": "lrelu", "n_layer": 3, "gan_type": "lsgan", "num_scales": 2, "pad_type": "reflect"}
settings = {"lr": 1e-4, "beta1": 0.5, "beta2": 0.999, "weight_decay": 0, "init": "kaiming", "display_size": 1, "input_dim_a": 3}
settings |= {"input_dim_b": 3, "gen": gen, "dis": dis, "gan_w": 1, "recon_x_w": 10, "recon_s_w": 1, "recon_c_w": 1, "vgg_w": 0}
settings |= {"recon_x_cyc_w": 10, "recon_kl_w": 0.01, "recon_kl_cyc_w": 0.01}
trainer = trainer_of(Path(sys.argv[3]), "trainer", ["utils"])
a, b = by_formula("a", 1, 3, 32, 32), by_formula("b", 1, 3, 32, 32)

queue[:] = [torch.zeros(1, 3, 1, 1)] * 2
munit = trainer.MUNIT_Trainer(settings)
names = {}
for net, rename in (("gen_a", munit_name("g_ba")), ("gen_b", munit_name("g_ab")), ("dis_a", strided("d_a")), ("dis_b", strided("d_b"))):
    names |= filled(getattr(munit, net), rename)
queue[:] = [by_formula(f"style {s}", 1, 3, 1, 1) for s in "ab"]
munit.gen_opt.step = lambda: None
backward, torch.Tensor.backward = torch.Tensor.backward, lambda *_, **__: None
munit.gen_update(a, b, settings)
terms = {"adversarial": munit.loss_gen_adv_a + munit.loss_gen_adv_b, "cycle": munit.loss_gen_cycrecon_x_a + munit.loss_gen_cycrecon_x_b}
for term, key in (("reconstruction", "x"), ("style", "s"), ("content", "c")):
    terms[term] = getattr(munit, f"loss_gen_recon_{key}_a") + getattr(munit, f"loss_gen_recon_{key}_b")
record_terms("munit", terms, names, munit.loss_gen_total)


def unit_name(side):
    rename = munit_name("")

    def renamed(key):
        net, rest = key.split(".", 1)
        if net == "enc":
            return f"encoder_{side}." + rename("enc_content." + rest).removeprefix(".content.")
        return f"decoder_{side}." + rename("dec." + rest).removeprefix(".decoder.")

    return renamed


unit = trainer.UNIT_Trainer(settings)
names = {}
for net, rename in (("gen_a", unit_name("a")), ("gen_b", unit_name("b")), ("dis_a", strided("d_a")), ("dis_b", strided("d_b"))):
    names |= filled(getattr(unit, net), rename)
# Back from b's pictures of a comes first.
queue[:] = [by_formula(n, 1, 8, 8, 8) for n in ("latent a", "latent b", "cycle b", "cycle a")]
unit.gen_opt.step = lambda: None
unit.gen_update(a, b, settings)
terms = {"adversarial": unit.loss_gen_adv_a + unit.loss_gen_adv_b, "reconstruction": unit.loss_gen_recon_x_a + unit.loss_gen_recon_x_b}
terms |= {"kl": unit.loss_gen_recon_kl_a + unit.loss_gen_recon_kl_b, "cycle": unit.loss_gen_cyc_x_a + unit.loss_gen_cyc_x_b}
terms["cycle_kl"] = unit.loss_gen_recon_kl_cyc_aba + unit.loss_gen_recon_kl_cyc_bab
record_terms("unit", terms, names, unit.loss_gen_total)


def drit_networks(folder):
    """DRIT's networks with 4 channels for 64, and contents of 16 for 256."""
    source = (folder / "networks.py").read_text()
    for old, new in (("ch = 64", "ch = 4"), ("dim = 64", "dim = 4"), ("ndf = 64", "ndf = 4"), ("256", "16")):
        source = source.replace(old, new)
    loaded = types.ModuleType("networks")
    exec(compile(source, "networks.py", "exec"), loaded.__dict__)
    return loaded


def drit_name(net):
    def conv(key, at):
        return f"{at}.{key.split('.')[-1]}"

    def block(rest):
        """model.<1|4>.weight of an INSResBlock, or model.<0|3>…"""
        part = rest.split(".")
        return f"conv{1 if part[-2] == '1' else 2}.{part[-1]}"

    def content(rest):
        which, at, *more = rest.split(".")
        more = ".".join(more)
        if which == "conv_share":
            return "shared_content." + block(more)
        side = f"content_{which[-1].lower()}"
        if at == "0":
            return f"{side}.first.conv.{more.split('.')[-1]}"
        return f"{side}.down.{int(at) - 1}.conv.{more.split('.')[-1]}" if at in "12" else f"{side}.blocks.{int(at) - 3}." + block(more)

    def attribute(rest):
        which, at, *more = rest.split(".")
        side = f"attribute_{which[-1].lower()}"
        if which.startswith("fc"):
            return f"{side}.{'log_var' if 'Var' in which else 'mean'}.{more[-1]}"
        if at == "1":
            return f"{side}.first.conv.{more[-1]}"
        # conv_A.<2…>.conv.<1|…>… or .shortcut.1
        inside = {"1": "conv1.conv", "2": "conv1.conv", "4": "conv2.conv"}
        path = "shortcut" if more[0] == "shortcut" else inside[more[1]]
        return f"{side}.blocks.{int(at) - 2}.{path}.{more[-1]}"

    def generator(rest):
        which, at, *more = rest.split(".")
        if which == "dec_share":
            return "shared_generator." + block(".".join(more))
        side, layer = f"generator_{which[3].lower()}", which[4]
        if layer == "1":
            return f"{side}.blocks.{at}." + block(".".join(more))
        if layer == "4":
            return f"{side}.last.{more[-1]}"
        norm = {"weight": "gamma", "bias": "beta"}
        return f"{side}.norms.{int(layer) - 2}.{norm[more[-1]]}" if more[-2] == "1" else f"{side}.up.{int(layer) - 2}.{more[-1]}"

    def judge(rest):
        _, scale, at, *more = rest.split(".")
        return f"scales.{scale}." + (f"layers.{at}.conv.{more[-1]}" if len(more) > 1 else f"last.{more[-1]}")

    def of_content(rest):
        _, at, *more = rest.split(".")
        return f"d_content.{'whole' if at == '3' else 'last' if at == '4' else f'layers.{at}.conv'}.{more[-1]}"

    sides = {"disA": "d_a", "disB": "d_b", "disA2": "d_a_random", "disB2": "d_b_random"}
    kinds = {"enc_c": content, "enc_a": attribute, "gen": generator, "disContent": of_content}
    return kinds.get(net) or (lambda rest: f"{sides[net]}." + judge(rest))


folder = Path(sys.argv[4]) / "src"
sys.modules["networks"] = drit_networks(folder)
DRIT = module("model", folder / "model.py").DRIT
drit = DRIT(types.SimpleNamespace(concat=1, no_ms=False, dis_scale=3, dis_norm="None", dis_spectral_norm=False, input_dim_a=3, input_dim_b=3))
drit.gpu = "cpu"
names = {}
for net in ("enc_c", "enc_a", "gen", "disContent", "disA", "disB", "disA2", "disB2"):
    names |= filled(getattr(drit, net), drit_name(net))
drit.input_A, drit.input_B = [by_formula(s, 2, 3, 216, 216) for s in "ab"]
draws = ["content a", "content b", "attribute a", "attribute b", "random", "second random"]
draws += ["crossed content a", "crossed content b", "crossed attribute a", "crossed attribute b"]
queue[:] = [by_formula(n, 1, 16, 54, 54) if "content" in n else by_formula(n, 1, 8) for n in draws]
drit.forward()
losses = []
torch.Tensor.backward = lambda self, **_: losses.append(self)
drit.backward_EG()
drit.backward_G_alone()
terms = {"adversarial": drit.gan_loss_a + drit.gan_loss_b, "content": drit.gan_loss_acontent + drit.gan_loss_bcontent}
terms["reconstruction"] = (drit.l1_recon_AA_loss + drit.l1_recon_BB_loss) / 10
terms["cross_cycle"] = (drit.l1_recon_A_loss + drit.l1_recon_B_loss) / 10
terms["kl"] = (drit.kl_loss_za_a + drit.kl_loss_za_b + drit.kl_loss_zc_a + drit.kl_loss_zc_b) / 0.01
terms["latent"] = (drit.l1_recon_z_loss_a + drit.l1_recon_z_loss_b) / 10
terms["mode_seeking"] = drit.lz_AB + drit.lz_BA
# The second update leaves the attribute's encoder alone.
keep = {k: p for k, p in names.items() if k.endswith("bias") and not k.startswith("d_")}
both = [torch.autograd.grad(loss, keep.values(), allow_unused=True, retain_graph=True) for loss in losses]
for k, g, second in zip(keep, *both):
    second = None if k.startswith("attribute") else second
    parts = [x for x in (g, second) if x is not None]
    if parts:
        out[f"drit.grad.{k}"] = sum(parts)
out |= {f"drit.{k}": torch.as_tensor(v) for k, v in terms.items()}
torch.Tensor.backward = backward


def adain(folder):
    """AdaIN's networks with 2 channels for 64; pictures come on the scale of ImageNet, where the authors' first layer has its own."""
    source = (folder / "net.py").read_text()
    for old, new in (("512", "16"), ("256", "8"), ("128", "4"), ("64", "2")):
        source = source.replace(old, new)
    sys.path.insert(0, str(folder))
    loaded = types.ModuleType("net")
    exec(compile(source, "net.py", "exec"), loaded.__dict__)
    return loaded


class Scaled(nn.Module):
    def forward(self, x):
        mean, deviation = (torch.tensor(v).reshape(1, 3, 1, 1) for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
        return (x - mean) / deviation


net = adain(Path(sys.argv[5]))
net.vgg[0] = Scaled()
names = {}
for layers, network in ((net.vgg[:31], "encoder"), (net.decoder, "decoder")):
    convs = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    names |= filled(layers, lambda key: f"{network}.convs.{convs.index(int(key.split('.')[0]))}.{key.split('.')[1]}")
a, b = by_formula("a", 1, 3, 32, 32), by_formula("b", 1, 3, 32, 32)
whole = net.Net(net.vgg[:31], net.decoder)
content, style = whole(a, b)
out["adain.picture"] = net.decoder(net.adain(whole.encode(a), whole.encode(b)))
decoder = {k: v for k, v in names.items() if k.startswith("decoder")}
record_terms("adain", {"content": content, "style": style}, decoder, content + 10 * style, every=True)

save("translation", {k: v.float() for k, v in out.items()}, versions)
for path in sorted(files.iterdir()):
    path.chmod(0o644)
    print(path.name, path.stat().st_size)
