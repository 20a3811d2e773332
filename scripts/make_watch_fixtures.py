#!/usr/bin/env python3
"""Makes tests/fixtures/watch/: the reports of real runs, for the tests of what raises an alarm (src/train/watch/).

    scripts/make_watch_fixtures.py REAL NAME=RUN...

From each run folder: the reports in its log, shortened to the numbers that are looked at, and the diversity of the
sample sheets of these iterations against that of 64 real images in the folder REAL (`dcgan-cuda dataset synthesize
--count 64 --size 32`), by NumPy: mean distance of all pairs and of the nearest. tests/fixtures/watch/README.md says how
the runs were made. Needs NumPy and Pillow.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

TO = Path(__file__).resolve().parent.parent / "tests/fixtures/watch"
KEPT = """step epoch loss_d_real loss_d_fake loss_g d_real_accuracy d_fake_accuracy d_real d_fake_after d_skipped g_skipped
    d_gradient_norm g_gradient_norm lr_g held_out_accuracy held_out_d seen_accuracy seen_d""".split()


def sheet(path: Path) -> np.ndarray:
    """The 64 images of a sheet, [64, size, size, 3] in [−1, 1]."""
    pixels = np.asarray(Image.open(path).convert("RGB"), float) / 127.5 - 1
    pitch = (pixels.shape[0] - 2) // 8
    places = [(2 + y * pitch, 2 + x * pitch) for y in range(8) for x in range(8)]
    return np.array([pixels[y : y + pitch - 2, x : x + pitch - 2] for y, x in places])


def spread(images: np.ndarray) -> tuple[float, float]:
    count, size = images.shape[:2]
    small = images.reshape(count, 8, size // 8, 8, size // 8, 3).mean((2, 4)).reshape(count, -1)
    distance = np.sqrt(((small[:, None] - small[None]) ** 2).sum(-1))
    pairwise = distance[np.triu_indices(count, 1)].mean()
    np.fill_diagonal(distance, np.inf)
    return float(pairwise), float(distance.min(1).mean())


def main() -> None:
    faces = sorted(Path(sys.argv[1]).rglob("*.jpg"))[:64]
    assert len(faces) == 64, f"{len(faces)} images in {sys.argv[1]}, not 64"
    real = spread(np.array([np.asarray(Image.open(path).convert("RGB"), float) / 127.5 - 1 for path in faces]))
    TO.mkdir(parents=True, exist_ok=True)
    for argument in sys.argv[2:]:
        name, run = argument.split("=", 1)
        lines = []
        for text in (Path(run) / "log.jsonl").read_text().splitlines():
            line = json.loads(text)
            if "epoch" not in line:
                continue
            short = {key: line[key] for key in KEPT if key in line}
            picture = Path(run) / f"samples/step-{line['step']:06}.png"
            if picture.exists():
                pairwise, nearest = spread(sheet(picture))
                short |= {"diversity": pairwise / real[0], "nearest": nearest / real[1]}
            rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in short.items()}
            lines.append(json.dumps(rounded, separators=(",", ":")))
        (TO / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
