#!/usr/bin/env python3
"""Makes the seeds of the fuzz targets, fuzz/seeds/TARGET/*, from the starter data and the fixtures of the tests.

    python3 fuzz/seeds.py [KILN]

Needs Python 3.11, Pillow 12, and Kiln's binary (target/release/kiln) for the default recipes. What is in the repository already (weights files, recipes, settings of diffusers) is
not copied here: scripts/fuzz.sh adds it.
"""
import gzip
import io
import json
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent
SEEDS = ROOT / "fuzz/seeds"
STARTER = ROOT / "data/starter"


def write(target, name, data):
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def clothes(index, side=16):
    with gzip.open(STARTER / "t10k-images-idx3-ubyte.gz") as file:
        file.seek(16 + 784 * index)
        return Image.frombytes("L", (28, 28), file.read(784)).resize((side, side))


def saved(picture, kind, **how):
    out = io.BytesIO()
    picture.save(out, kind, **how)
    return out.getvalue()


def pictures():
    grey, other = clothes(0), clothes(1)
    colour = Image.merge("RGB", [grey, other, clothes(2)])
    alpha = Image.merge("RGBA", [grey, other, clothes(2), clothes(3)])
    turned = Image.Exif()
    turned[0x112] = 6
    for mode, picture in [("1", grey.convert("1")), ("L", grey), ("LA", alpha.convert("LA")), ("P", colour.quantize(16)),
                          ("RGB", colour), ("RGBA", alpha), ("I;16", Image.new("I;16", (5, 3), 40000))]:
        yield f"{mode.replace(';', '')}.png", saved(picture, "PNG")
    yield "exif.png", saved(colour, "PNG", exif=turned)
    yield "grey.jpg", saved(grey, "JPEG")
    yield "rgb.jpg", saved(colour, "JPEG", exif=turned)
    yield "fine.jpg", saved(colour, "JPEG", subsampling=0, quality=95)
    yield "progressive.jpg", saved(clothes(0, 24), "JPEG", progressive=True)
    yield "restart.jpg", saved(clothes(0, 24), "JPEG", restart_marker_blocks=1)
    yield "cmyk.jpg", saved(colour.convert("CMYK"), "JPEG")
    yield "lossy.webp", saved(colour, "WEBP")
    yield "lossy-alpha.webp", saved(alpha, "WEBP", exif=turned)
    yield "lossless.webp", saved(alpha, "WEBP", lossless=True)
    yield "moving.webp", saved(colour, "WEBP", save_all=True, append_images=[alpha.convert("RGB")])
    yield "still.gif", saved(grey, "GIF")
    yield "moving.gif", saved(colour, "GIF", save_all=True, append_images=[alpha.convert("RGB")], transparency=0)
    yield "interlaced.gif", saved(grey, "GIF", interlace=1)
    yield "grey.pgm", saved(grey, "PPM")
    yield "colour.ppm", saved(colour, "PPM")
    yield "bits.pbm", saved(grey.convert("1"), "PPM")
    yield "alpha.pam", b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n\1\2\3\4"
    yield "text.pgm", b"P2\n# a comment\n2 2\n15\n0 5\n10 15\n"
    yield "text.ppm", b"P3 1 1 1023 0 512 1023\n"
    yield "text.pbm", b"P1 2 2 0 1 1 0\n"
    for mode, picture in [("1", grey.convert("1")), ("L", grey), ("P", colour.quantize(16)), ("RGB", colour), ("RGBA", alpha)]:
        yield f"{mode}.bmp", saved(picture, "BMP")
    for how in ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"]:
        yield f"{how}.tif", saved(colour, "TIFF", compression=how)
    yield "bits.tif", saved(grey.convert("1"), "TIFF", compression="group4")
    yield "grey16.tif", saved(Image.new("I;16", (5, 3), 40000), "TIFF")
    yield "exif.tif", saved(alpha, "TIFF", exif=turned)


def archive(files, how=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as file:
        for name, data in files.items():
            file.writestr(zipfile.ZipInfo(name), data, how)
    return out.getvalue()


def archives():
    png = [saved(clothes(i, 4), "PNG") for i in range(4)]
    yield "flat.zip", archive({"a.png": png[0], "a.txt": "a shirt", "b.png": png[1], "b.txt": "a bag"})
    yield "classes.zip", archive({f"set/{kind}/{i}.png": png[i] for i in range(4) for kind in ["bag", "shirt"][i % 2:][:1]})
    yield "splits.zip", archive({f"{part}/a/{i}.png": png[i] for i in range(2) for part in ["train", "test"]})
    yield "masks.zip", archive({f"{kind}/{i}.png": png[i] for i in range(2) for kind in ["images", "masks"]})
    yield "stored.zip", archive({"ü.png": png[0], "b.pgm": b"P2 1 1 255 7 "}, zipfile.ZIP_STORED)


def npy(data, kind, *shape, version=1):
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({', '.join(map(str, shape))},), }}"
    size = "<H" if version == 1 else "<I"
    head += " " * (-(8 + struct.calcsize(size) + len(head) + 1) % 16) + "\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack(size, len(head)) + head.encode() + data


def arrays():
    data = clothes(0, 6).tobytes()
    yield "npy", "grey", npy(data, "|u1", 1, 6, 6)
    yield "npy", "colour", npy(data, "|u1", 2, 3, 2, 3)
    yield "npy", "planar", npy(data, "|u1", 2, 3, 2, 3, version=2)
    yield "npy", "floats", npy(struct.pack(">4f", 0, 0.5, -1, 1), ">f4", 1, 2, 2)
    yield "npy", "halves", npy(struct.pack("<4e", 0, 0.5, 1, 1), "<f2", 1, 2, 2)
    parts = {"x_train.npy": npy(data, "|u1", 4, 3, 3), "y_train.npy": npy(struct.pack("<4q", 0, 1, 2, 0), "<i8", 4),
             "x_test.npy": npy(data[:9], "|u1", 1, 3, 3), "y_test.npy": npy(b"\2", "|u1", 1)}
    yield "npz", "parts", archive(parts)
    yield "npz", "stored", archive({"images.npy": npy(data, "|u1", 4, 3, 3), "labels.npy": npy(b"\0\1\0\1", "|u1", 4)},
                                   zipfile.ZIP_STORED)


def tars():
    for name, kind in [("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT), ("packed", tarfile.USTAR_FORMAT)]:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=kind) as file:
            for inside in ["a/1.pgm", "b/2.pgm", "ü" * (60 if name != "packed" else 9) + "/3.pgm"]:
                entry, data = tarfile.TarInfo(inside), b"P2 1 1 255 7 "
                entry.size = len(data)
                file.addfile(entry, io.BytesIO(data))
        yield "tar", name, gzip.compress(out.getvalue(), mtime=0) if name == "packed" else out.getvalue()


def idx(data, *sizes):
    return bytes([0, 0, 8, len(sizes)]) + b"".join(struct.pack(">I", n) for n in sizes) + data


def tables():
    picture = clothes(0, 8).tobytes()
    line = ",".join(str(value // 16) for value in picture)
    images, labels = idx(picture * 3, 3, 8, 8), idx(bytes([0, 2, 1]), 3)
    write("idx", "images", images)
    write("idx", "labelled", images + b"KILN" + labels)
    write("gz", "images.gz", gzip.compress(images, mtime=0))
    write("gz", "two-members.gz", gzip.compress(images[:50], mtime=0) + gzip.compress(images[50:], mtime=0))
    write("csv", "digits.csv", f"{line},3\n{line},0\n".encode())
    write("csv", "points.csv", ",".join(["1.0"] * 64 + ["9"]).encode())
    write("csv", "digits.csv.gz", gzip.compress(f"{line},3\n".encode(), mtime=0))


def icons():
    with gzip.open(STARTER / "icons.json.gz") as file:
        sets = json.load(file)
    for name, content in sets.items():
        small = sorted(content["icons"].items(), key=lambda icon: len(icon[1]["body"]))
        for place in [0, 20, 60, 120]:
            one = {**{k: v for k, v in content.items() if k != "icons"}, "icons": dict(small[place:place + 1])}
            write("icons", f"{name}-{place}.json", json.dumps(one).encode())
    rich = ('<defs><linearGradient id="g" gradientTransform="rotate(45)"><stop offset="0" stop-color="red"/><stop offset="1" '
            'stop-opacity=".5"/></linearGradient><clipPath id="c"><circle cx="8" cy="8" r="7"/></clipPath><mask id="m"><rect '
            'width="9" height="9" fill="#fff"/></mask><pattern id="p" width="4" height="4" patternUnits="userSpaceOnUse"><path '
            'd="M0 0h2v2z"/></pattern><filter id="f"><feGaussianBlur stdDeviation="1"/><feTurbulence numOctaves="2"/><feOffset '
            'dx="1"/></filter><symbol id="s" viewBox="0 0 4 4"><path d="M0 0a2 2 0 0 1 4 4"/></symbol></defs><g clip-path="url(#c)" '
            'mask="url(#m)"><rect width="16" height="16" fill="url(#g)"/><rect width="8" height="8" fill="url(#p)"/></g><use '
            'href="#s" width="8" filter="url(#f)"/><path stroke="#00f" stroke-dasharray="1 2" fill="none" d="M1 1q2 3 9 9t3 3z"/>'
            '<style>.a{fill:lime}</style><ellipse class="a" cx="3" cy="3" rx="2" ry="1" transform="skewX(9)"/>')
    write("icons", "rich.json", json.dumps({"icons": {"a": {"body": rich, "left": 1}}, "width": 16, "height": 16}).encode())


def solids():
    cube = ("mtllib m.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 0 0 1\nv 1 0 1\nv 1 1 1\nv 0 1 1\nvn 0 0 1\nusemtl red\n"
            "f 5//1 6//1 7//1 8//1\nf 1 2 3 4\nusemtl glass\nf -8/7 -7/7 -3/7 -4/7\n")
    library = "newmtl red\nKd 1 0 0\nnewmtl glass\nd 0.2\nmap_Kd a.png\n"
    write("obj", "cube", cube.encode() + b"\0" + library.encode())
    write("obj", "triangle", b"v 0 0 0\nv 1 0 0\nv 0 1 1\nf 1 2 3\n")


def tokenizers():
    common = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [
        {"id": 0, "content": "[PAD]", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}], "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None, "decoder": None}
    words = {"type": "WordLevel", "vocab": {"[PAD]": 0, "[UNK]": 1, "red": 2, "square": 3}, "unk_token": "[UNK]"}
    pairs = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "vocab": {"[PAD]": 0, "r": 1, "e": 2, "d": 3, "re": 4}, "merges": ["r e"]}
    pieces = {"type": "Unigram", "unk_id": 0, "vocab": [["[PAD]", 0.0], ["red", -1.0], ["s", -2.0]], "byte_fallback": False}
    parts = {"type": "WordPiece", "unk_token": "[PAD]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 9,
             "vocab": {"[PAD]": 0, "red": 1, "##s": 2}}
    around = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[PAD]", "type_id": 0}},
              {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
              "special_tokens": {"[PAD]": {"id": "[PAD]", "ids": [0], "tokens": ["[PAD]"]}}}
    for model in [words, pairs, pieces, parts]:
        write("tokenizer", model["type"], json.dumps({**common, "model": model}).encode())
    write("tokenizer", "around", json.dumps({**common, "model": words, "post_processor": around}).encode())
    bytewise = {"type": "Split", "pattern": {"Regex": "[a-z]+| ?"}, "behavior": "Isolated", "invert": False}
    write("tokenizer", "split", json.dumps({**common, "model": pairs, "pre_tokenizer": bytewise}).encode())


def png_texts():
    from PIL.PngImagePlugin import PngInfo
    info = PngInfo()
    info.add_text("system", "ddpm")
    info.add_text("index", "5", zip=True)
    info.add_itxt("prompt", "ein rotes Quadrat über allem", zip=True)
    write("png_text", "text.png", saved(clothes(0, 4), "PNG", pnginfo=info))
    write("png_text", "none.png", saved(clothes(0, 4), "PNG"))


def states():
    counters = {"images": 128, "steps": 8, "seconds": 1.5, "optimizer_steps": {"vae": 8}, "best": {"images": 64, "value": 0.5},
                "kiln": "0.1.0", "files": {}}
    write("state", "older.json", json.dumps(counters).encode())
    origin = {"recipe": "", "domains": []}
    write("state", "origin.json", json.dumps({**counters, "means": [{}, {}], "origin": origin}, indent=2).encode())


def pickles():
    for name, value in {"dict": {"a": 1, "b": [True, None, (1, 2, 3, 4)]}, "number": 0x1950A86A20F9469CFC6C}.items():
        write("pickle", name, pickle.dumps(value, protocol=2))
    fixture = ROOT / "tests/reference/fixtures/weights/zip.pth"
    with zipfile.ZipFile(fixture) as file:
        name = next(name for name in file.namelist() if name.endswith("data.pkl"))
        write("pickle", "state-dict", file.read(name))


def assignments(table, prefix=""):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from assignments(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={json.dumps(value)}"


def recipes(kiln):
    listed = subprocess.run([kiln, "systems", "--json"], check=True, capture_output=True, text=True).stdout
    for system in [json.loads(line)["id"] for line in listed.splitlines()]:
        # What the defaults leave open.
        more = {"probe": ["--set", "model.tune=raw"], "diffusers": ["--set", "data.resize=stretch"]}.get(system, [])
        made = subprocess.run([kiln, "train", system, "--dry-run", *more], capture_output=True)
        if made.returncode != 0:
            print(f"no recipe of {system}: {made.stderr.decode().strip()}")
            continue
        recipe = made.stdout
        write("recipe", f"{system}.toml", recipe)
        table = tomllib.loads(recipe.decode())
        write("set", system, "\n".join([system, *assignments(table)]).encode())


def main():
    shutil.rmtree(SEEDS, ignore_errors=True)
    recipes(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/release/kiln")
    for name, data in pictures():
        write("picture", name, data)
    for name, data in archives():
        write("zip", name, data)
    for target, name, data in [*arrays(), *tars()]:
        write(target, name, data)
    for make in [tables, icons, solids, tokenizers, png_texts, states, pickles]:
        make()
    print(sum(file.stat().st_size for file in SEEDS.rglob("*") if file.is_file()), "bytes")


main()
