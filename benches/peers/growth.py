"""How does a training step grow with batch, resolution and width, in Kiln and in PyTorch?

python benches/peers/growth.py docs/pictures/growth.svg      as work.py; draws with matplotlib==3.11.2.

The U-Net of `kiln bench`: batch at 28 x 28 and 64 channels, resolution at batch 2 and 32 channels, width at
batch 4 and 16 x 16.
"""

import sys

import matplotlib.pyplot as plt

from work import call, kiln

AXES = {
    "batch": ([1, 4, 16, 64, 256], ["--size=28", "--channels=64"]),
    "size": ([16, 32, 64, 128, 256], ["--batch=2", "--channels=32"]),
    "channels": ([32, 64, 128, 256], ["--batch=4", "--size=16"]),
}
KILNS = {"Kiln": "f32", "Kiln, bf16": "bf16"}
MODES = {"PyTorch": "eager", "PyTorch, channels last": "channels_last", "PyTorch, bf16, channels last": "bf16_channels_last"}
NAMES = {"batch": "batch", "size": "pixels a side", "channels": "channels"}


def main(out):
    figure, plots = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    for plot, (axis, (values, fixed)) in zip(plots, AXES.items()):
        lines = {name: [] for name in [*KILNS, *MODES]}
        for value in values:
            shape = [f"--{axis}={value}", *fixed, "--runs=3"]
            for name, precision in KILNS.items():
                lines[name].append(kiln("unet", ["--precision", precision, *shape])[0])
            for name, mode in MODES.items():
                lines[name].append(call([sys.executable, "benches/peers/work.py", "unet", "--alone", mode, *shape])[0])
            print(axis, value, {name: round(times[-1], 1) for name, times in lines.items()}, flush=True)
        for name, times in lines.items():
            plot.loglog(values, times, marker="o", label=name)
        plot.set_xticks(values, [str(v) for v in values])
        plot.minorticks_off()
        plot.set_xlabel(NAMES[axis])
        plot.grid(alpha=0.3)
    plots[0].set_ylabel("training step, ms")
    plots[0].legend(frameon=False)
    figure.savefig(out)


if __name__ == "__main__":
    main(sys.argv[1])
