"""The U-Net of Ho et al. 2020 as diffusers builds it, under the names that Kiln gives its parameters.

Made with torch==2.15.0, diffusers==0.42.1.
"""

import torch
from diffusers import UNet2DModel

from reference import begin, save, spread

versions = begin("diffusers")
LEVELS, BLOCKS, ATTENTION = 2, 1, {1}
net = UNet2DModel(
    sample_size=8,
    in_channels=1,
    out_channels=2,
    freq_shift=1,
    flip_sin_to_cos=False,
    block_out_channels=(8, 16),
    layers_per_block=BLOCKS,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=16,
    norm_num_groups=4,
    norm_eps=1e-5,
)
spread(net, 0.2)


def resnet(prefix, path):
    names = {"norm1": "norm1", "conv1": "conv1", "time_emb_proj": "time", "norm2": "norm2", "conv2": "conv2"}
    names["conv_shortcut"] = "skip"
    return {f"{prefix}.{theirs}": f"{path}.{ours}" for theirs, ours in names.items()}


def attention(prefix, path):
    return {f"{prefix}.group_norm": f"{path}.norm", f"{prefix}.to_out.0": f"{path}.proj"}


# Their modules to ours; queries, keys and values are one projection here and are joined below.
modules = {"time_embedding.linear_1": "time1", "time_embedding.linear_2": "time2", "conv_in": "conv_in"}
modules |= {"conv_norm_out": "norm_out", "conv_out": "conv_out"}
attentions = {}


def blocks(way, stage, block, level, count):
    for i in range(count):
        kind = "Attend.block" if level in ATTENTION else "Block"
        modules.update(resnet(f"{way}_blocks.{block}.resnets.{i}", f"{way}.{stage}.{kind}"))
        if level in ATTENTION:
            attentions[f"{way}_blocks.{block}.attentions.{i}"] = f"{way}.{stage}.Attend.attention"
        stage += 1
    return stage


stage = 0
for level in range(LEVELS):
    stage = blocks("down", stage, level, level, BLOCKS)
    if level + 1 < LEVELS:
        modules[f"down_blocks.{level}.downsamplers.0.conv"] = f"down.{stage}.Down"
        stage += 1
modules |= resnet("mid_block.resnets.0", "middle.block1") | resnet("mid_block.resnets.1", "middle.block2")
attentions["mid_block.attentions.0"] = "middle.attention"
stage = 0
for block, level in enumerate(reversed(range(LEVELS))):
    stage = blocks("up", stage, block, level, BLOCKS + 1)
    if level > 0:
        modules[f"up_blocks.{block}.upsamplers.0.conv"] = f"up.{stage}.Up"
        stage += 1
for theirs, ours in attentions.items():
    modules |= attention(theirs, ours)


def ours(tensors):
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


x = torch.randn(2, 1, 8, 8, requires_grad=True)
times = torch.tensor([3, 700])
y = net(x, times).sample
g = torch.randn_like(y)
y.backward(g)
out = {"input": x, "times": times.float(), "output": y, "grad_output": g, "grad_input": x.grad}
out |= {f"net.{k}": v for k, v in ours(net.state_dict()).items()}
out |= {f"grad.{k}": v for k, v in ours({k: p.grad for k, p in net.named_parameters()}).items()}
save("unet", out, versions)
