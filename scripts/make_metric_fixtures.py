#!/usr/bin/env python3
"""Makes tests/fixtures/metrics.safetensors: small sets of features, and what other programs say of them.

    python3 -O scripts/make_metric_fixtures.py tests/fixtures/metrics.safetensors

Fréchet and kernel distance are those of torch-fidelity, from features by its own functions; precision, recall, density
and coverage those of prdc; MS-SSIM that of pytorch-msssim. -O, since pytorch-msssim asserts that there are 161 pixels a
side even where it is given fewer weights than five.

Needs numpy, torch, torch-fidelity, prdc, pytorch-msssim and safetensors.
"""

import json
import sys

import numpy as np
import torch
from prdc import compute_prdc
from pytorch_msssim import ms_ssim
from safetensors.numpy import save_file
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kernel_mmd

WEIGHTS = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]


def features(rng, n, length, shift, dead):
    """Of correlated normal numbers, some of them cut off at 0, as those of a network; `dead` are always 0."""
    mixing = np.random.default_rng(length).normal(size=(length, length)) / np.sqrt(length)
    values = rng.normal(size=(n, length)) @ mixing + shift
    values[:, ::2] = np.maximum(values[:, ::2], 0)
    values[:, dead] = 0
    return values.astype(np.float32)


def image(n, size, channels, factor, noise):
    """The formula of the test: whole numbers only."""
    y, x, c = np.meshgrid(*map(np.arange, (size, size, channels)), indexing="ij")
    texture = (x * x * factor + y * y * 7 + x * y * (n + 1) + 31 * c) % 61
    grain = (x * 7 + y * 13 + x * y * 5 + c * 3) % (noise + 1)
    return ((3 * x + 2 * y + 20 * c + 9 * n + texture + grain) % 256).astype(np.uint8)


def main(path):
    rng = np.random.default_rng(12)
    arrays, sets = {}, []
    for name, n, m, length, shift, dead in [
        ("more_images", 90, 90, 13, 0.2, []),
        ("other_counts", 75, 41, 20, 0.1, [3]),
        ("fewer_images", 24, 24, 70, 0.3, [0, 64, 69]),
        ("mixed", 100, 30, 66, 0.0, [65]),
    ]:
        a, b = features(rng, n, length, 0, dead), features(rng, m, length, shift, dead)
        arrays[f"{name}/a"], arrays[f"{name}/b"] = a, b
        a, b = a.astype(np.float64), b.astype(np.float64)
        statistics = [fid_features_to_statistics(torch.from_numpy(v)) for v in (a, b)]
        entry = {
            "name": name,
            "frechet": fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"],
            "prdc": {k: {x: float(y) for x, y in compute_prdc(a, b, k).items()} for k in (3, 5)},
        }
        if n == m:
            entry["kernel"] = float(kernel_mmd(a, b))
        sets.append(entry)
    pairs = []
    for size, channels, factor, noise in [
        (16, 3, 5, 20),
        (32, 3, 5, 3),
        (32, 3, 11, 40),
        (45, 3, 4, 30),
        (64, 1, 3, 60),
        (64, 3, 5, 90),
        (176, 3, 1, 25),
    ]:
        a, b = image(2, size, channels, factor, 0), image(2, size, channels, factor, noise)
        # So many scales as the window fits.
        side, scales = size, 0
        while side >= 11 and scales < 5:
            side, scales = (side + 1) // 2, scales + 1
        weights = np.array(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])
        tensors = [torch.from_numpy(v.astype(np.float64)).permute(2, 0, 1)[None] for v in (a, b)]
        value = ms_ssim(*tensors, data_range=255, weights=weights.tolist())
        sums = [int(v.astype(np.int64).sum()) for v in (a, b)]
        pairs.append([[size, channels, factor, noise], sums, float(value)])
    text = json.dumps({"sets": sets, "ms_ssim": pairs})
    save_file(arrays, path, metadata={"expected": text})
    for entry in [*sets, *pairs]:
        print(entry)


if __name__ == "__main__":
    main(sys.argv[1])
