"""Layers: parameters, forward values and gradients.

Made with torch==2.15.0, diffusers==0.42.1 (the time embeddings).
"""

import torch
import torch.nn as nn
from diffusers.models.embeddings import get_timestep_embedding

from reference import begin, record_layer, save, spread

versions = begin("diffusers")
out = {}

# Heights and widths differ everywhere, so that a swapped axis cannot pass.
record_layer(out, "conv2d", nn.Conv2d(3, 4, 3, padding=1), 2, 3, 5, 6)
record_layer(out, "conv2d_4x4_s2", nn.Conv2d(3, 4, 4, stride=2, padding=1), 2, 3, 6, 8)
record_layer(out, "conv2d_3x3_s2", nn.Conv2d(3, 4, 3, stride=2, padding=1), 2, 3, 6, 7)
record_layer(out, "conv_transpose2d_4x4_s2", nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1), 2, 3, 3, 5)
record_layer(
    out, "conv_transpose2d_3x3_s2", nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), 2, 3, 3, 5
)
record_layer(out, "linear", nn.Linear(5, 4), 3, 5)

# Batch norm, training: `running_*` are before the step, `running_*_after` after it (momentum 0.1,
# eps 1e-5; the running variance takes the unbiased batch variance).
bn = spread(nn.BatchNorm2d(3, momentum=0.1))
bn.running_mean.copy_(torch.randn(3))
bn.running_var.copy_(torch.rand(3) + 0.5)
record_layer(out, "batch_norm2d", bn, 4, 3, 2, 5)
out["batch_norm2d.running_mean_after"] = bn.running_mean.clone()
out["batch_norm2d.running_var_after"] = bn.running_var.clone()
bn = spread(nn.BatchNorm2d(3)).eval()
bn.running_mean.copy_(torch.randn(3))
bn.running_var.copy_(torch.rand(3) + 0.5)
record_layer(out, "batch_norm2d_eval", bn, 4, 3, 2, 5)

record_layer(out, "group_norm", spread(nn.GroupNorm(2, 6)), 2, 6, 3, 4)
record_layer(out, "instance_norm2d", nn.InstanceNorm2d(3), 2, 3, 4, 5)
record_layer(out, "instance_norm2d_affine", spread(nn.InstanceNorm2d(3, affine=True)), 2, 3, 4, 5)
record_layer(out, "layer_norm", spread(nn.LayerNorm(6)), 2, 3, 6)

emb = nn.Embedding(7, 4)
ids = torch.tensor([[3, 0, 3], [6, 1, 2]])
y = emb(ids)
g = torch.randn_like(y)
y.backward(g)
out |= {"embedding.weight": emb.weight, "embedding.input": ids, "embedding.output": y}
out |= {"embedding.grad_output": g, "embedding.grad_weight": emb.weight.grad}

record_layer(out, "upsample_nearest", nn.Upsample(scale_factor=2, mode="nearest"), 2, 3, 2, 3)
record_layer(out, "reflect_pad", nn.ReflectionPad2d(2), 2, 3, 4, 5)
record_layer(out, "max_pool2d", nn.MaxPool2d(2), 2, 3, 4, 7)
record_layer(out, "avg_pool2d", nn.AvgPool2d(2), 2, 3, 4, 7)
record_layer(out, "adaptive_avg_pool2d_1", nn.AdaptiveAvgPool2d(1), 2, 3, 4, 5)
record_layer(out, "adaptive_avg_pool2d", nn.AdaptiveAvgPool2d((2, 3)), 2, 3, 5, 7)

# in_proj_weight [3c, c]: rows 0..c are q, c..2c are k, 2c..3c are v; within each, head h owns rows
# h*c/heads .. (h+1)*c/heads. Scores are scaled by (c/heads)^-1/2; heads are concatenated in order.
mha = nn.MultiheadAttention(8, 2, batch_first=True)
with torch.no_grad():
    mha.in_proj_bias.normal_(0, 0.3)
    mha.out_proj.bias.normal_(0, 0.3)
record_layer(out, "attention", mha, 2, 5, 8, call=lambda x: mha(x, x, x, need_weights=False)[0])

# freq[i] = exp(-ln(10000) * i / (dim/2 - shift)); columns are [sin | cos], or [cos | sin] if flipped.
t = torch.tensor([0.0, 1.0, 10.0, 250.0, 999.0])
out["time_embedding.input"] = t
for flip in (False, True):
    for shift in (0, 1):
        out[f"time_embedding.flip{int(flip)}_shift{shift}"] = get_timestep_embedding(
            t, 16, flip_sin_to_cos=flip, downscale_freq_shift=shift
        )

# Spectral norm. `weight` is the raw weight, `u`, `v` the vectors before the step. The current
# parametrization iterates u = |Wv|, v = |W'u|; the first one (`_legacy`, as in Miyato 2018) v = |W'u|,
# u = |Wv|, so that u alone determines it. In both sigma = u'Wv with u, v held constant in the gradient.
for name in ("spectral_norm", "spectral_norm_legacy"):
    conv = nn.Conv2d(3, 4, 3, padding=1)
    out |= {f"{name}.weight": conv.weight.clone(), f"{name}.bias": conv.bias.clone()}
    unit = lambda n: nn.functional.normalize(torch.randn(n), dim=0)
    if name == "spectral_norm":
        conv = nn.utils.parametrizations.spectral_norm(conv, n_power_iterations=1)
        holder = conv.parametrizations.weight[0]
        holder._u.copy_(unit(4)), holder._v.copy_(unit(27))
        get, raw = (lambda: (holder._u, holder._v)), conv.parametrizations.weight.original
    else:
        conv = nn.utils.spectral_norm(conv, n_power_iterations=1)
        conv.weight_u.copy_(unit(4))
        get, raw = (lambda: (conv.weight_u, conv.weight_v)), conv.weight_orig
    out |= {f"{name}.u": get()[0].clone(), f"{name}.v": get()[1].clone()}
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    y = conv(x)
    u, v = (p.clone() for p in get())
    g = torch.randn_like(y)
    y.backward(g)
    out |= {f"{name}.u_after": u, f"{name}.v_after": v, f"{name}.sigma": u @ raw.detach().flatten(1) @ v}
    out |= {f"{name}.input": x, f"{name}.output": y, f"{name}.grad_output": g, f"{name}.grad_input": x.grad}
    out |= {f"{name}.grad_weight": raw.grad, f"{name}.grad_bias": conv.bias.grad}

save("layers", out, versions)
