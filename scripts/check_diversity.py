#!/usr/bin/env python3
"""Prints what the test of src/evaluate/diversity.rs compares with: mean distances of small images, by NumPy."""

import numpy as np


def pattern(count: int, size: int) -> np.ndarray:
    n, y, x, c = np.meshgrid(np.arange(count), np.arange(size), np.arange(size), np.arange(3), indexing="ij")
    return (n * n * 37 + y * (3 + n) + x * 5 + c * 11 * n) % 256


for count, size in [(3, 8), (7, 24), (64, 32)]:
    images = pattern(count, size) / 127.5 - 1
    area = size // 8
    small = images.reshape(count, 8, area, 8, area, 3).mean((2, 4)).reshape(count, -1)
    distance = np.sqrt(((small[:, None] - small[None]) ** 2).sum(-1))
    pairwise = distance[np.triu_indices(count, 1)].mean()
    np.fill_diagonal(distance, np.inf)
    print(f"({count}, {size}, {pairwise:.12}, {distance.min(1).mean():.12}),")
