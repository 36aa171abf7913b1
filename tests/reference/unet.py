"""The U-Nets of Ho et al. 2020, of Dhariwal & Nichol 2021 and of Rombach et al. 2022 as diffusers builds them, under the names
that Kiln gives their parameters.

Made with torch==2.15.0, diffusers==0.42.1.
"""

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.models.resnet import ResnetBlock2D

from reference import begin, save, spread

versions = begin("diffusers")
LEVELS, BLOCKS = 2, 1


def build(kind=UNet2DModel, in_channels=1, **more):
    return spread(
        kind(
            sample_size=8,
            in_channels=in_channels,
            out_channels=2,
            freq_shift=1,
            flip_sin_to_cos=False,
            block_out_channels=(8, 16),
            layers_per_block=BLOCKS,
            norm_num_groups=4,
            norm_eps=1e-5,
            **more,
        ),
        0.2,
    )


def resnet(prefix, path):
    names = {"norm1": "norm1", "conv1": "conv1", "time_emb_proj": "time", "norm2": "norm2", "conv2": "conv2"}
    names["conv_shortcut"] = "skip"
    return {f"{prefix}.{theirs}": f"{path}.{ours}" for theirs, ours in names.items()}


def attention(prefix, path):
    return {f"{prefix}.group_norm": f"{path}.norm", f"{prefix}.to_out.0": f"{path}.proj"}


def paths(attended, resample):
    """Their modules to ours; queries, keys and values are one projection here and are joined below."""
    modules = {"time_embedding.linear_1": "time1", "time_embedding.linear_2": "time2", "conv_in": "conv_in"}
    modules |= {"conv_norm_out": "norm_out", "conv_out": "conv_out"}
    attentions = {}

    def blocks(way, stage, block, level, count):
        for i in range(count):
            kind = "Attend.block" if level in attended else "Block"
            modules.update(resnet(f"{way}_blocks.{block}.resnets.{i}", f"{way}.{stage}.{kind}"))
            if level in attended:
                attentions[f"{way}_blocks.{block}.attentions.{i}"] = f"{way}.{stage}.Attend.attention"
            stage += 1
        return stage

    def resampler(theirs, ours):
        modules.update(resnet(theirs, f"{ours}Block") if resample else {f"{theirs}.conv": ours})

    stage = 0
    for level in range(LEVELS):
        stage = blocks("down", stage, level, level, BLOCKS)
        if level + 1 < LEVELS:
            resampler(f"down_blocks.{level}.downsamplers.0", f"down.{stage}.Down")
            stage += 1
    modules |= resnet("mid_block.resnets.0", "middle.block1") | resnet("mid_block.resnets.1", "middle.block2")
    attentions["mid_block.attentions.0"] = "middle.attention"
    stage = 0
    for block, level in enumerate(reversed(range(LEVELS))):
        stage = blocks("up", stage, block, level, BLOCKS + 1)
        if level > 0:
            resampler(f"up_blocks.{block}.upsamplers.0", f"up.{stage}.Up")
            stage += 1
    for theirs, ours in attentions.items():
        modules |= attention(theirs, ours)
    return modules, attentions


def ours(tensors, modules, attentions):
    out, left = {}, dict(tensors)
    for theirs, path in modules.items():
        for kind in ("weight", "bias"):
            if f"{theirs}.{kind}" in left:
                value = left.pop(f"{theirs}.{kind}")
                square = path.endswith("proj") and kind == "weight"
                out[f"{path}.{kind}"] = value[:, :, None, None] if square else value
    for theirs, path in attentions.items():
        weights, biases = ([left.pop(f"{theirs}.to_{p}.{kind}") for p in "qkv"] for kind in ("weight", "bias"))
        out[f"{path}.qkv.weight"] = torch.cat(weights)[:, :, None, None]
        out[f"{path}.qkv.bias"] = torch.cat(biases)
    assert not left, left.keys()
    return out


def record(topic, net, attended, resample=False, grads=lambda name: True):
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    times = torch.tensor([3, 700])
    y = net(x, times).sample
    g = torch.randn_like(y)
    y.backward(g)
    named = paths(attended, resample)
    out = {"input": x, "times": times.float(), "output": y, "grad_output": g, "grad_input": x.grad}
    out |= {f"net.{k}": v for k, v in ours(net.state_dict(), *named).items()}
    gradients = ours({k: p.grad for k, p in net.named_parameters()}, *named)
    out |= {f"grad.{k}": v for k, v in gradients.items() if grads(k)}
    save(topic, out, versions)


ho = build(
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=16,
)
record("unet", ho, {1})

# AdaGN, heads of 8 channels, attention at both sizes, residual blocks that resample, sums divided by the root of 2.
adm = build(
    down_block_types=("AttnDownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "AttnUpBlock2D"),
    attention_head_dim=8,
    attn_norm_num_groups=4,
    resnet_time_scale_shift="scale_shift",
    downsample_type="resnet",
    upsample_type="resnet",
)
for module in adm.modules():
    if isinstance(module, ResnetBlock2D):
        module.output_scale_factor = 2**0.5
record("adm", adm, {0, 1}, True, lambda name: name.endswith(("time.weight", "norm2.weight", "time1.weight")))


def plain(path):
    """Without the names of Rust's variants."""
    return ".".join(part for part in path.split(".") if not part[0].isupper())


def conditioned(tensors):
    """The names of a network whose level 1 and middle look at a context."""
    modules, attentions = paths({1}, False)
    modules["class_embedding"] = "class"
    transformers = {k: v.replace("attention", "transformer") for k, v in attentions.items()}
    modules |= transformers
    out = {}
    for name, value in tensors.items():
        theirs = max((m for m in modules if name.startswith(f"{m}.")), key=len)
        out[plain(modules[theirs]) + name.removeprefix(theirs)] = value
    assert len(out) == len(tensors)
    return out


# A class, a context, an image beside the noisy one, and what a control network adds.
net = build(
    UNet2DConditionModel,
    in_channels=2,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    mid_block_type="UNetMidBlock2DCrossAttn",
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=2,
    cross_attention_dim=6,
    num_class_embeds=4,
)
inputs = {
    "input": torch.randn(2, 1, 8, 8),
    "images": torch.randn(2, 1, 8, 8),
    "context": torch.randn(2, 5, 6),
    **{f"residual.{i}": torch.randn(2, c, n, n) for i, (c, n) in enumerate([(8, 8), (8, 8), (8, 4), (16, 4), (16, 4)])},
}
for x in inputs.values():
    x.requires_grad_()
times, classes = torch.tensor([3, 700]), torch.tensor([3, 1])
residuals = [inputs[f"residual.{i}"] for i in range(5)]
y = net(
    torch.cat([inputs["input"], inputs["images"]], 1),
    times,
    encoder_hidden_states=inputs["context"],
    class_labels=classes,
    down_block_additional_residuals=residuals[:4],
    mid_block_additional_residual=residuals[4],
).sample
g = torch.randn_like(y)
y.backward(g)
out = {**inputs, "times": times.float(), "classes": classes.float(), "output": y, "grad_output": g}
out |= {f"grad_{k}": x.grad for k, x in inputs.items()}
out |= {f"net.{k}": v for k, v in conditioned(net.state_dict()).items()}
gradients = conditioned({k: p.grad for k, p in net.named_parameters()})
some = ("attn2.to_k.weight", "class.weight", "conv_in.weight", "proj_out.weight")
out |= {f"grad.{k}": v for k, v in gradients.items() if k.endswith(some)}
save("unet_condition", out, versions)
