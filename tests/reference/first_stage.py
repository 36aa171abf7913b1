"""The autoencoders of latent diffusion, by diffusers.

Made with torch==2.15.0 diffusers==0.42.1. Writes first_stage.safetensors.
"""

import torch
from diffusers import AutoencoderKL, VQModel

from reference import begin, save

versions = begin("diffusers")
common = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 12],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 3,
}
out = {"pixels": torch.randn(2, 3, 8, 12)}


def perturbed(model):
    """Norms and biases that the library leaves at 1 and 0 take part as well."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                value.normal_(0, 0.2)
            elif "norm" in name:
                value.normal_(1, 0.2)
    return model.eval()


kl = perturbed(AutoencoderKL(**common))
out |= {f"kl.{name}": value for name, value in kl.state_dict().items()}
posterior = kl.encode(out["pixels"]).latent_dist
out |= {
    "kl_io.mean": posterior.mean,
    "kl_io.logvar": posterior.logvar,
    "kl_io.kl": posterior.kl(),
    "kl_io.decoded": kl.decode(posterior.mean).sample,
}

vq = perturbed(VQModel(**common, num_vq_embeddings=16, vq_embed_dim=3))
with torch.no_grad():
    vq.quantize.embedding.weight.normal_(0, 0.5)
out |= {f"vq.{name}": value for name, value in vq.state_dict().items()}
latents = vq.encode(out["pixels"]).latents
quantized, loss, (_, _, indices) = vq.quantize(latents)
out |= {
    "vq_io.latents": latents,
    "vq_io.quantized": quantized,
    "vq_io.indices": indices,
    "vq_io.decoded": vq.decode(latents).sample,
}
save("first_stage", out, versions)
