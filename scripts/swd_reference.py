#!/usr/bin/env python3
"""Sliced Wasserstein distance in NumPy, written independently of src/evaluate/: gives the constants of its test.

    pip install numpy
    scripts/swd_reference.py

Input: two sets of 6 images of 32×32×3 made by `images` below. Random numbers are Philox4x32-10, as in src/random.rs.
"""

from __future__ import annotations

import sys

try:
    import numpy as np
except ImportError as error:
    sys.exit(f"error: {error}. This script needs NumPy: pip install numpy")

COUNT, SIZE, PATCHES, DIRECTIONS, SEED = 6, 32, 20, 50, 5
PROJECTION = 8  # Purpose::Projection


def philox(block: int, step: int) -> list[int]:
    mask = 0xFFFFFFFF
    c = [block, step & mask, step >> 32, PROJECTION]
    k = [SEED & mask, SEED >> 32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & mask, (p0 >> 32) ^ c[3] ^ k[1], p0 & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return c


def bits(step: int, count: int) -> np.ndarray:
    words = [word for block in range(-(-count // 4)) for word in philox(block, step)]
    return np.array(words[:count], dtype=np.uint64)


def normal(step: int, count: int) -> np.ndarray:
    u = ((bits(step, -(-count // 4) * 4) >> np.uint64(8)).astype(np.float64) + 0.5) / 2**24
    radius, angle = np.sqrt(-2 * np.log(u[0::2])), 2 * np.pi * u[1::2]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(-1)[:count]


def images(factor: int) -> np.ndarray:
    """(n, h, w, c) u8: a smooth ramp and a hash."""
    n, y, x, c = np.ogrid[0:COUNT, 0:SIZE, 0:SIZE, 0:3]
    ramp = 3 * x + 2 * y + 20 * c + 9 * n
    texture = (x * x * factor + y * y * 7 + x * y * (n + 1) + 31 * c) % 61
    return ((ramp + texture) % 256).astype(np.uint8)


def convolve(t: np.ndarray, scale: float) -> np.ndarray:
    weights = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256 * scale
    padded = np.pad(t, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    h, w = t.shape[2:]
    return sum(weights[i, j] * padded[:, :, i:i + h, j:j + w] for i in range(5) for j in range(5))


def pyramid(t: np.ndarray) -> list[np.ndarray]:
    levels = [t.astype(np.float64).transpose(0, 3, 1, 2)]
    while levels[-1].shape[2] > 16:
        fine = levels[-1]
        coarse = convolve(fine, 1.0)[:, :, ::2, ::2]
        sparse = np.zeros_like(fine)
        sparse[:, :, ::2, ::2] = coarse
        levels[-1] = fine - convolve(sparse, 4.0)
        levels.append(coarse)
    return levels


def patches(t: np.ndarray, level: int) -> np.ndarray:
    out = []
    for n, image in enumerate(t):
        words = bits(1 << 56 | level << 48 | n, 2 * PATCHES)
        places = (words * np.uint64(image.shape[1] - 6)) >> np.uint64(32)
        for x, y in places.reshape(-1, 2).astype(int):
            out.append(image[:, y:y + 7, x:x + 7])
    p = np.stack(out)
    p = p - p.mean(axis=(0, 2, 3), keepdims=True)
    p = p / p.std(axis=(0, 2, 3), keepdims=True)
    return p.reshape(len(p), -1)


def main() -> None:
    a, b = images(5), images(11)
    print("sum of pixels:", int(a.sum()), int(b.sum()))
    for level, (ta, tb) in enumerate(zip(pyramid(a), pyramid(b))):
        pa, pb = patches(ta, level), patches(tb, level)
        d = np.stack([normal(level << 48 | i, 147) for i in range(DIRECTIONS)], 1)
        d /= np.linalg.norm(d, axis=0)
        swd = np.abs(np.sort(pa @ d, axis=0) - np.sort(pb @ d, axis=0)).mean() * 1e3
        print(f"{ta.shape[2]} px: {swd:.6f}")


if __name__ == "__main__":
    main()
