"""Small models of diffusers as it saves them, what their networks give, and pictures sampled from given noise.

Made with torch==2.15.0, diffusers==0.42.1.

Each is a folder fixtures/diffusers/<name>: the model, and expected.safetensors (see README.md).
"""

import json
import shutil

import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.schedulers import scheduling_ddpm
from safetensors.torch import load_file, save_file

from reference import FIXTURES, begin, spread

versions = begin("diffusers")
ROOT = FIXTURES / "diffusers"
STEPS = 20


def parted(unet, scale=4):
    """A network whose output is about as large as noise, so that pictures are not all black and white."""
    spread(unet, 0.2)
    with torch.no_grad():
        unet.conv_out.weight.mul_(scale)
    return unet.eval().half()


def ask(unet, x, t, labels, context):
    given = {"class_labels": labels} if labels is not None else {}
    if isinstance(unet, UNet2DConditionModel):
        given["encoder_hidden_states"] = context
    return unet(x, t, **given).sample


@torch.no_grad()
def record(name, unet, scheduler, folder=None, sampled="ddim", labels=None, context=None):
    # Stored in half precision to save space: what follows is of the stored numbers.
    unet.float()
    size, channels = unet.config.sample_size, unet.config.in_channels
    sides = (size, size) if isinstance(size, int) else size
    x = torch.randn(2, channels, *sides, requires_grad=True)
    t = torch.tensor([3, 707])
    with torch.enable_grad():
        y = ask(unet, x, t, labels, context)
        g = torch.randn_like(y)
        y.backward(g)
    out = {"input": x, "timesteps": t, "output": y, "grad_output": g, "grad_input": x.grad}
    out["grad_time_embedding.linear_1.weight"] = unet.time_embedding.linear_1.weight.grad
    if labels is not None:
        out["labels"] = labels
    if context is not None:
        out["encoder_hidden_states"] = context
    noise = torch.randn(2, channels, *sides)
    out["noise"] = noise
    image = noise
    if sampled == "ddim":
        ddim = DDIMScheduler.from_config(scheduler.config)
        ddim.set_timesteps(STEPS)
        for t in ddim.timesteps:
            image = ddim.step(ask(unet, image, t, labels, context), t, image).prev_sample
    if sampled == "ddpm":
        scheduler.set_timesteps(STEPS)
        noises = torch.randn(STEPS, *noise.shape)
        out["step_noise"] = noises
        for i, t in enumerate(scheduler.timesteps):
            scheduling_ddpm.randn_tensor = lambda *_, i=i, **__: noises[i]
            image = scheduler.step(ask(unet, image, t, labels, context), t, image).prev_sample
    if sampled:
        out[sampled] = image.clamp(-1, 1)
        grey = (image.abs() < 0.99).float().mean()
        print(f"{name}: {grey:.0%} of the pixels are neither black nor white")
    path = folder or ROOT / name
    save_file({k: v.detach().contiguous() for k, v in out.items()}, path / "expected.safetensors")
    numbers = sum(p.numel() for p in unet.parameters())
    print(f"{name}: {numbers} parameters, {sum(f.stat().st_size for f in path.rglob('*') if f.is_file())} bytes")


shutil.rmtree(ROOT, ignore_errors=True)

# The layout of Ho's published models, in one folder and with the old names of attention.
unet = parted(
    UNet2DModel(
        sample_size=8,
        freq_shift=1,
        flip_sin_to_cos=False,
        downsample_padding=0,
        block_out_channels=(8, 8, 12),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=None,
        norm_num_groups=4,
        norm_eps=1e-6,
    )
).float()
scheduler = DDPMScheduler(variance_type="fixed_large")
path = ROOT / "published"
unet.save_pretrained(path)
scheduler.save_pretrained(path)
index = {"_class_name": "DDPMPipeline", "_diffusers_version": "0.0.4"}
index |= {"scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
(path / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
weights = path / "diffusion_pytorch_model.safetensors"
old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
state = load_file(weights)
for new, name in old.items():
    state = {k.replace(f".{new}.", f".{name}."): v for k, v in state.items()}
save_file(state, weights, metadata={"format": "pt"})
assert UNet2DModel.from_pretrained(path).mid_block.attentions[0].to_q.weight.equal(
    unet.mid_block.attentions[0].to_q.weight
)
record("published", unet, scheduler)

# Every other option of UNet2DModel, a label and a learned variance.
unet = parted(
    UNet2DModel(
        sample_size=(8, 16),
        in_channels=1,
        out_channels=2,
        center_input_sample=True,
        time_embedding_dim=20,
        block_out_channels=(8, 12, 16),
        down_block_types=("AttnDownBlock2D", "ResnetDownsampleBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "ResnetUpsampleBlock2D", "AttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=4,
        norm_num_groups=2,
        attn_norm_num_groups=4,
        act_fn="gelu",
        mid_block_scale_factor=1.5,
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=3,
        dropout=0.1,
    )
)
scheduler = DDPMScheduler(
    num_train_timesteps=400,
    variance_type="learned_range",
    beta_schedule="sigmoid",
    prediction_type="sample",
    clip_sample_range=0.9,
)
DDPMPipeline(unet, scheduler).save_pretrained(ROOT / "options")
record("options", unet, scheduler, sampled="ddpm", labels=torch.tensor([2, 0]))

# Fourier features of log t, labels as times, no attention in the middle.
unet = parted(
    UNet2DModel(
        sample_size=8,
        time_embedding_type="fourier",
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=4,
        norm_num_groups=4,
        act_fn="mish",
        add_attention=False,
        class_embed_type="timestep",
    )
)
DDIMPipeline(unet, DDIMScheduler(steps_offset=1)).save_pretrained(ROOT / "fourier")
record("fourier", unet, DDIMScheduler(steps_offset=1), labels=torch.tensor([40, 7]))

# Stable Diffusion's layout: heads of equal number, convolutions around the transformers.
unet = parted(
    UNet2DConditionModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=6,
        norm_num_groups=4,
    ),
    scale=1,
)
scheduler = DDIMScheduler(
    prediction_type="v_prediction",
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    clip_sample=False,
    set_alpha_to_one=False,
    steps_offset=1,
)
unet.save_pretrained(ROOT / "text" / "unet")
scheduler.save_pretrained(ROOT / "text" / "scheduler")
record("text", unet, scheduler, context=torch.randn(2, 5, 6))

# Later layouts: lists, linear projections, transformers that look at the context alone, a cosine schedule of v to
# pure noise; half precision in shards.
unet = parted(
    UNet2DConditionModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        time_embedding_type="fourier",
        flip_sin_to_cos=True,
        block_out_channels=(4, 8, 12),
        down_block_types=("CrossAttnDownBlock2D", "AttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=[1, 1, 2],
        attention_head_dim=[2, 4, 4],
        cross_attention_dim=6,
        transformer_layers_per_block=[1, 1, 2],
        only_cross_attention=[True, False, False],
        use_linear_projection=True,
        num_class_embeds=3,
        norm_num_groups=4,
        act_fn="relu",
    ),
    scale=2,
)
unet.save_pretrained(ROOT / "shards" / "unet", max_shard_size="60KB")
scheduler = DPMSolverMultistepScheduler(
    beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", rescale_betas_zero_snr=True
)
scheduler.save_pretrained(ROOT / "shards" / "scheduler")
# As it is read again: what is written there counts as chosen, not as the class's default.
scheduler = DPMSolverMultistepScheduler.from_pretrained(ROOT / "shards" / "scheduler")
solver, scheduler = scheduler, DDIMScheduler.from_config(scheduler.config, clip_sample=False)
labels, context = torch.tensor([1, 2]), torch.randn(1, 3, 6).repeat(2, 1, 1)
record("shards", unet, scheduler, labels=labels, context=context)
path = ROOT / "shards" / "expected.safetensors"
out = load_file(path)
solver.set_timesteps(STEPS)
image = out["noise"]
with torch.no_grad():
    for t in solver.timesteps:
        image = solver.step(ask(unet, image, t, labels, context), t, image).prev_sample
save_file(out | {"solver": image.clamp(-1, 1)}, path)

# A middle without attention, one of no blocks, and a scheduler that lists its β.
for name, middle in (("plain-middle", "UNetMidBlock2D"), ("no-middle", None)):
    unet = parted(
        UNet2DConditionModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8,),
            down_block_types=("CrossAttnDownBlock2D",),
            mid_block_type=middle,
            up_block_types=("CrossAttnUpBlock2D",),
            layers_per_block=1,
            attention_head_dim=2,
            cross_attention_dim=4,
            norm_num_groups=4,
            resnet_time_scale_shift="scale_shift",
            mid_block_scale_factor=1.25,
        )
    )
    scheduler = DDIMScheduler(
        num_train_timesteps=40, trained_betas=torch.linspace(1e-3, 0.3, 40).tolist(), timestep_spacing="linspace"
    )
    # The last one pickled, as before there was safetensors.
    unet.save_pretrained(ROOT / name / "unet", safe_serialization=middle is not None)
    scheduler.save_pretrained(ROOT / name / "scheduler")
    record(name, unet, scheduler, context=torch.randn(2, 3, 4))

for file in ROOT.rglob("*"):
    file.chmod(0o755 if file.is_dir() else 0o644)
print(versions, sum(f.stat().st_size for f in ROOT.rglob("*") if f.is_file()), "bytes in all")
