#!/usr/bin/env python3
"""Makes the files of this folder, byte for byte the same each time.

    apt-get download dataset-fashion-mnist=0.0~git20200523.55506a9-1
    npm pack @iconify-json/noto@1.2.9 @iconify-json/twemoji@1.2.5 @iconify-json/openmoji@1.2.29 \
        @iconify-json/fluent-emoji-flat@1.2.6 @iconify-json/emojione@1.2.3
    python3 make.py FOLDER_OF_THE_PACKAGES

Needs Python 3.11 and the `ar` and `tar` commands. Icons: names that all five sets have (so that what is
learned on two of them can be carried to the others), that are neither hidden nor a variant of another:
every face, animal and food, then activities and objects in the order of the SHA-256 of their name,
until there are 500.
"""
import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

COUNT = 500
FASHION = "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb"
SETS = {
    "noto": "iconify-json-noto-1.2.9.tgz",
    "twemoji": "iconify-json-twemoji-1.2.5.tgz",
    "openmoji": "iconify-json-openmoji-1.2.29.tgz",
    "fluent": "iconify-json-fluent-emoji-flat-1.2.6.tgz",
    "emojione": "iconify-json-emojione-1.2.3.tgz",
}


def member(archive, name):
    """The parsed JSON file `name` of an npm package."""
    with tarfile.open(archive) as tar:
        return json.load(tar.extractfile(f"package/{name}"))


def names(sets, categories):
    """The chosen icon names."""
    shared = set.intersection(*(set(s["icons"]) for s in sets.values()))
    hidden = {n for s in sets.values() for n in shared if s["icons"][n].get("hidden")}
    usable = {n for n in shared - hidden if "skin-tone" not in n}
    first = [n for c in ("Smileys & Emotion", "Animals & Nature", "Food & Drink") for n in categories[c]]
    then = sorted(
        (n for c in ("Activities", "Objects") for n in categories[c]),
        key=lambda n: hashlib.sha256(n.encode()).hexdigest(),
    )
    chosen = [n for n in dict.fromkeys(first + then) if n in usable]
    return sorted(chosen[:COUNT])


def main(folder):
    here = Path(__file__).parent
    deb = subprocess.run(["ar", "p", folder / FASHION, "data.tar.xz"], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(deb), mode="r:xz") as tar:
        for kind in ("images-idx3", "labels-idx1"):
            file = f"t10k-{kind}-ubyte.gz"
            data = tar.extractfile(f"./usr/share/datasets/fashion-mnist/{file}").read()
            (here / file).write_bytes(data)
    sets = {name: member(folder / file, "icons.json") for name, file in SETS.items()}
    chosen = names(sets, member(folder / SETS["noto"], "metadata.json")["categories"])
    out = {}
    for name in ("noto", "twemoji"):
        source = sets[name]
        icons = {n: source["icons"][n] for n in chosen}
        out[name] = {"prefix": name, "width": source["width"], "height": source["height"], "icons": icons}
    text = json.dumps(out, separators=(",", ":"), sort_keys=True)
    (here / "icons.json.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(len(chosen), "icons;", sum(f.stat().st_size for f in here.iterdir()), "bytes in all")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
