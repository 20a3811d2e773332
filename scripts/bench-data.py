#!/usr/bin/env python3
"""Decoding on one core: dcgan-cuda beside Pillow and torchvision's transforms, on the same JPEGs, in one run.

    pip install pillow torch torchvision
    cargo build --release
    scripts/bench-data.py photographs/ --check

Each reads the files, decodes them, resizes the short side to --image-size (bilinear, antialiased) and crops the centre;
each does so in one process on one core, and they take turns. Two rates are printed, by the clock and by processor time.
On a machine with nothing else to do they are the same. Where others compute too, the clock measures them as well, so
the ratio that --check looks at is by processor time: the median over the rounds of ours to the fastest of the others.

Exit code 0: done, 1: failed, or the ratio is below --least with --check, 2: wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Rates:
    """Images a second of each round, by the clock and by processor time."""

    clock: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)


def peers(size: int) -> dict[str, Callable[[Path], object]]:
    """What others offer to read a file, by name."""
    try:
        import PIL
        from PIL import Image
    except ImportError as error:
        sys.exit(f"error: {error}. Install it: pip install pillow")

    def rgb(path: Path) -> Image.Image:
        with Image.open(path) as image:
            return image.convert("RGB")

    def pillow(path: Path) -> object:
        image = rgb(path)
        width, height = image.size
        short = min(width, height)
        width, height = size * width // short, size * height // short
        x, y = round((width - size) / 2), round((height - size) / 2)
        return image.resize((width, height), Image.Resampling.BILINEAR).crop((x, y, x + size, y + size))

    found: dict[str, Callable[[Path], object]] = {f"Pillow {PIL.__version__}": pillow}
    try:
        import torch
        import torchvision
        from torchvision import transforms
        from torchvision.transforms import InterpolationMode
    except (ImportError, RuntimeError) as error:
        print(f"torchvision is left out: {error}", file=sys.stderr)
        return found
    torch.set_num_threads(1)
    resize = transforms.Compose([transforms.Resize(size, InterpolationMode.BILINEAR, antialias=True),
                                 transforms.CenterCrop(size)])
    found[f"torchvision {torchvision.__version__}"] = lambda path: resize(rgb(path))
    return found


def ours(binary: Path, folder: Path, size: int, seconds: float) -> tuple[float, float]:
    """Images a second by the clock and by processor time."""
    command = [str(binary), "bench", "data", "--dataset", "folder", "--data", str(folder), "--image-size", str(size),
               "--decode-only", "--workers", "1", "--seconds", str(seconds), "--device", "cpu", "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(command)}: {done.stderr.strip()}")
    decode = json.loads(done.stdout.splitlines()[-1])["decode"]
    return decode["one_core"]["median"], decode["one_core_busy"]["median"]


def once(read: Callable[[Path], object], files: list[Path]) -> tuple[float, float]:
    clock, busy = time.perf_counter(), time.process_time()
    for path in files:
        read(path)
    return len(files) / (time.perf_counter() - clock), len(files) / (time.process_time() - busy)


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("folder", type=Path, help="a folder of JPEGs; all that is below it is read")
    ap.add_argument("--image-size", type=int, default=64, metavar="PIXELS", help="default %(default)s")
    ap.add_argument("--rounds", type=int, default=7, metavar="N", help="turns of each (default %(default)s)")
    ap.add_argument("--seconds", type=float, default=0.5, help="of each of our turns, at least (default %(default)g)")
    ap.add_argument("--check", action="store_true", help="fail where the ratio is below --least")
    ap.add_argument("--least", type=float, default=1.9, metavar="RATIO", help="default %(default)s")
    ap.add_argument("--binary", type=Path, default=ROOT / "target/release/dcgan-cuda", help="default %(default)s")
    ap.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    a = ap.parse_args()
    if a.rounds < 1 or a.image_size < 1 or not a.seconds > 0:
        ap.error("--rounds, --image-size and --seconds must be positive")
    if not a.binary.is_file():
        print(f"error: {a.binary} is not there: cargo build --release", file=sys.stderr)
        return 1
    files = sorted(p for p in a.folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg") and p.is_file())
    if not files:
        print(f"error: {a.folder}: no JPEG files there", file=sys.stderr)
        return 1
    if hasattr(os, "sched_setaffinity"):
        # One core for all: what is started here inherits it.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    others = peers(a.image_size)
    rates = {name: Rates() for name in ("dcgan-cuda", *others)}
    for read in others.values():
        once(read, files[:100])
    for _ in range(a.rounds):
        turns = {"dcgan-cuda": ours(a.binary, a.folder, a.image_size, a.seconds)}
        turns |= {name: once(read, files) for name, read in others.items()}
        for name, (clock, busy) in turns.items():
            rates[name].clock.append(clock)
            rates[name].busy.append(busy)

    print(f"{len(files)} JPEGs to {a.image_size} px, one core, images/s, {a.rounds} rounds: median (worst to best)")
    print(f"{'':24} {'by the clock':>26} {'by processor time':>26}")
    for name, rate in rates.items():
        cells = (f"{statistics.median(r):.0f} ({min(r):.0f} to {max(r):.0f})" for r in (rate.clock, rate.busy))
        print(f"{name:24} " + " ".join(f"{cell:>26}" for cell in cells))
    ratios = {}
    mine = rates["dcgan-cuda"]
    for name in others:
        clock = statistics.median(x / y for x, y in zip(mine.clock, rates[name].clock))
        ratios[name] = statistics.median(x / y for x, y in zip(mine.busy, rates[name].busy))
        print(f"dcgan-cuda to {name}: {ratios[name]:.2f} by processor time, {clock:.2f} by the clock")
    least = min(ratios.values())
    if a.json:
        figures = {name: vars(rate) for name, rate in rates.items()}
        a.json.write_text(json.dumps({"files": len(files), "image_size": a.image_size, "rates": figures,
                                      "ratios": ratios}, indent=1) + "\n", encoding="utf-8")
    if a.check and least < a.least:
        print(f"FAIL: {least:.2f} is below {a.least:g}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
