#!/usr/bin/env python3
"""Judges a generator that makes images of edges: do its images have the edges that it was given?

    scripts/judge_edges.py RUN HELD_OUT --train TRAIN [--count 200] [--among 5000] [--binary target/release/dcgan-cuda]

RUN is a run of `train --condition edges`. HELD_OUT and TRAIN are folders of images; those of HELD_OUT must not be among
those that it was trained on. Each image of HELD_OUT is given to `translate --from-photo`, and of what comes out:

- f1: how well its edges are those that were given, within a pixel (docs/conditions.md), with precision and recall;
- l1: the mean distance to the image whose edges they are, of 0 to 255.

Beside these stand the same numbers of the training image whose edges are nearest to the given ones by that F1: what
looking an image up would give. Edges are found by scripts/make-edge-fixtures.py, not by the program that is judged.

Prints a table, or with --json one object. Needs Python 3, NumPy and Pillow.
"""

import argparse
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}


def detector():
    """The module that finds edges."""
    spec = importlib.util.spec_from_file_location("edges", HERE / "make-edge-fixtures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def image(path, size, crop):
    """RGB u8 [size, size, 3], as training sees it (Pillow's resize differs from the program's by a level at most)."""
    picture = Image.open(path).convert("RGB")
    if crop:
        left, top = (picture.width - crop) // 2, (picture.height - crop) // 2
        picture = picture.crop((left, top, left + crop, top + crop))
    short, long = sorted(picture.size)
    scaled = size * long // short
    wide = picture.width >= picture.height
    picture = picture.resize((scaled, size) if wide else (size, scaled), Image.BILINEAR)
    left, top = round((picture.width - size) / 2), round((picture.height - size) / 2)
    return np.asarray(picture.crop((left, top, left + size, top + size)))


def grown(lines):
    """Lines, [size, size] bool, and every pixel beside one, corners included."""
    padded = np.pad(lines, 1)
    size = len(lines)
    return np.any([padded[y : y + size, x : x + size] for y in range(3) for x in range(3)], axis=0)


def scores(ours, theirs):
    """Precision, recall and F1 of each of ours [n, p] against each of theirs [m, p]; three arrays [n, m].

    Both are pairs of lines and grown lines, f32.
    """
    (a, a_grown), (b, b_grown) = ours, theirs

    def share(met, all_):
        return np.where(all_ > 0, met / np.maximum(all_, 1), 1.0)

    precision = share(a @ b_grown.T, a.sum(1)[:, None])
    recall = share(a_grown @ b.T, b.sum(1)[None, :])
    both = precision + recall
    return precision, recall, np.where(both > 0, 2 * precision * recall / np.maximum(both, 1e-12), 0.0)


def files(folder, most):
    found = sorted(p for p in pathlib.Path(folder).rglob("*") if p.suffix.lower() in ENDINGS)
    if not found:
        sys.exit(f"{folder}: no images")
    return found[:most]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("held_out", type=pathlib.Path)
    parser.add_argument("--train", type=pathlib.Path, required=True, help="folder of the training images")
    parser.add_argument("--count", type=int, default=200, help="images of HELD_OUT [200]")
    parser.add_argument("--among", type=int, default=5000, help="training images to look up in [5000]")
    parser.add_argument("--binary", default="target/release/dcgan-cuda")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config = json.loads((options.run / "config.json").read_text())
    if config.get("condition") != "edges":
        sys.exit(f"{options.run}: this is no run of edges")
    size, crop = config["image_size"], config["crop"]
    find = detector().edges

    def lines(pictures):
        maps = [find(picture) for picture in pictures]
        return [np.array([m.ravel() for m in each], np.float32) for each in (maps, [grown(m) for m in maps])]

    held = files(options.held_out, options.count)
    truth = [image(path, size, crop) for path in held]
    with tempfile.TemporaryDirectory() as folder:
        inputs, out = pathlib.Path(folder) / "in", pathlib.Path(folder) / "out"
        inputs.mkdir()
        # Names of their own: two folders may have the same.
        named = [inputs / f"{number:06}{path.suffix}" for number, path in enumerate(held)]
        for name, path in zip(named, held):
            name.symlink_to(path.resolve())
        command = [options.binary, "translate", "--quiet", "--checkpoint", options.run, "--from-photo", "--out", out]
        command += ["--crop", str(crop)] if crop else []
        subprocess.run([*map(str, command), *map(str, named)], check=True)
        made = [np.asarray(Image.open(out / f"{name.stem}.png").convert("RGB")) for name in named]

    given = lines(truth)
    rows = {"generated": (lines(made), made)}
    train = [image(path, size, crop) for path in files(options.train, options.among)]
    known = lines(train)
    nearest = scores(known, given)[2].argmax(0)
    rows["nearest training image"] = ([part[nearest] for part in known], [train[i] for i in nearest])

    def distance(pictures):
        return float(np.mean([np.abs(a.astype(float) - b).mean() for a, b in zip(pictures, truth)]))

    found = {}
    for name, (edges, pictures) in rows.items():
        values = [np.diagonal(part).mean() for part in scores(edges, given)]
        found[name] = dict(zip(("precision", "recall", "f1"), map(float, values)), l1=distance(pictures))
    report = {"run": str(options.run), "images": len(held), "among": len(train), **found}
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print(f"{len(held)} images held out, {len(train)} training images")
    print(f"{'':24}{'f1':>8}{'precision':>12}{'recall':>10}{'l1':>8}")
    for name, row in found.items():
        print(f"{name:24}{row['f1']:8.3f}{row['precision']:12.3f}{row['recall']:10.3f}{row['l1']:8.1f}")


if __name__ == "__main__":
    main()
