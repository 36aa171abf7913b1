"""Transformers on feature maps and attention over one, as diffusers builds them.

Made with torch==2.15.0, diffusers==0.42.1.
"""

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel

from reference import begin, record_model, save, spread

versions = begin("diffusers")
out = {}
common = dict(num_attention_heads=2, attention_head_dim=4, in_channels=8, norm_num_groups=4, cross_attention_dim=6)
map_, context = ("input", torch.randn(2, 8, 3, 4)), ("context", torch.randn(2, 5, 6))
for name, options in {
    "conv": dict(num_layers=2),
    "linear": dict(use_linear_projection=True, only_cross_attention=True),
}.items():
    net = spread(Transformer2DModel(**common, **options).eval(), 0.2)
    # A module's call is what is recorded; this one returns an output object.
    forward = net.forward
    net.forward = lambda x, c, forward=forward: forward(x, encoder_hidden_states=c).sample
    record_model(out, name, net, map_, context)

net = Attention(
    8, heads=2, dim_head=4, norm_num_groups=4, eps=1e-5, bias=True, residual_connection=True,
    _from_deprecated_attn_block=True,
)
# What is added to every key changes no softmax: its gradient is 0 but for rounding.
record_model(out, "map", spread(net.eval(), 0.2), map_, grads=lambda k: k != "to_k.bias")
save("transformer", out, versions)
