"""Does diffusers make the same pictures of an exported run as Kiln does of the run?

    python tests/reference/diffusers_check.py target/release/kiln RUN [--steps 20]

Exports RUN, opens the folder with the pipeline it names and with DDIMPipeline, samples both by DDIM from the same noise,
and compares the PNG files with the pipeline's pictures, level by level. Made with torch==2.15.0, diffusers==0.42.1.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import diffusers.pipelines.ddim.pipeline_ddim as pipeline_ddim
import numpy as np
import torch
from diffusers import DDIMPipeline, DiffusionPipeline
from PIL import Image
from safetensors.torch import save_file

COUNT = 4

args = argparse.ArgumentParser()
args.add_argument("kiln", type=Path)
args.add_argument("run", type=Path)
args.add_argument("--steps", type=int, default=20)
args = args.parse_args()

recipe = tomllib.loads((args.run / "recipe.toml").read_text())
# Kiln's own system takes ε from the clamped picture; an imported one does as its recipe says.
clipped = recipe["system"] == "ddpm" or recipe["model"]["use_clipped_model_output"]
with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    exported, pictures, noise = folder / "model", folder / "pictures", folder / "noise.safetensors"

    def kiln(*words):
        subprocess.run([args.kiln, *map(str, words), "--quiet"], check=True)

    kiln("export", args.run, "--out", exported)
    named = json.loads((exported / "model_index.json").read_text())["_class_name"]
    opened = DiffusionPipeline.from_pretrained(exported)
    assert type(opened).__name__ == named
    pipe = DDIMPipeline.from_pretrained(exported)
    pipe.set_progress_bar_config(disable=True)
    config = pipe.unet.config
    size = config.sample_size
    sides = (size, size) if isinstance(size, int) else size
    start = torch.randn(COUNT, config.in_channels, *sides, generator=torch.Generator().manual_seed(0))
    save_file({"noise": start}, noise)
    kiln(
        "sample", args.run, "-n", COUNT, "--sampler", "ddim", "--eta", 0, "--steps", args.steps,
        "--noise", noise, "--out", pictures,
    )
    pipeline_ddim.randn_tensor = lambda *_, **__: start
    theirs = pipe(COUNT, num_inference_steps=args.steps, use_clipped_model_output=clipped, output_type="np").images
    theirs = (theirs * 255).round()
    ours = np.stack([np.atleast_3d(np.asarray(Image.open(pictures / f"{i:05}.png"))) for i in range(COUNT)])
off = np.abs(theirs - ours)
print(f"{named}: {COUNT} pictures of {args.steps} steps, {(off > 0).mean():.4%} of the values differ, by {off.max():.0f} at most")
sys.exit(int(off.max() > 1))
