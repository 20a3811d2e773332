#!/usr/bin/env python3
"""Makes tests/fixtures/edges.bin: drawn images, each with its edges by the specification in docs/conditions.md.

Written from that text, with NumPy, and without a look at how src/data/edges.rs goes about it. The file has a record an
image: side and channels (u16, little-endian), the pixels (HWC, u8; left out of those of 130 px and more, which are
rings()), the edges a bit a pixel, row by row, a row filled
up to a byte, the first pixel in the highest bit, 1 for a line.

    python3 -m venv VENV && VENV/bin/pip install numpy && VENV/bin/python scripts/make-edge-fixtures.py
"""

import pathlib
import struct

import numpy as np

FILE = pathlib.Path(__file__).parent.parent / "tests/fixtures/edges.bin"


def shift(plane, dy, dx, mode="edge"):
    """The plane whose value at (y, x) is that at (y + dy, x + dx); beyond the border the nearest, or 0."""
    height, width = plane.shape
    padded = np.pad(plane, 1, mode=mode)
    return padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]


def luma(image):
    if image.shape[2] == 1:
        return image[:, :, 0].astype(np.int64)
    r, g, b = (image[:, :, c].astype(np.int64) for c in range(3))
    return (19595 * r + 38470 * g + 7471 * b + 32768) >> 16


def blur(plane, size):
    passes = 1 if size < 96 else 2 if size < 192 else 4 if size < 384 else 8
    plane = plane * 64
    for _ in range(passes):
        rows = shift(plane, 0, -1) + 2 * plane + shift(plane, 0, 1)
        plane = (shift(rows, -1, 0) + 2 * rows + shift(rows, 1, 0) + 8) >> 4
    return plane


def gradient(p):
    s = lambda dy, dx: shift(p, dy, dx)
    gx = s(-1, 1) + 2 * s(0, 1) + s(1, 1) - s(-1, -1) - 2 * s(0, -1) - s(1, -1)
    gy = s(1, -1) + 2 * s(1, 0) + s(1, 1) - s(-1, -1) - 2 * s(-1, 0) - s(-1, 1)
    return gx, gy


def ridges(gx, gy, m):
    ax, ay = np.abs(gx), np.abs(gy)
    flat, steep = 32768 * ay < 13573 * ax, 32768 * ax < 13573 * ay
    sx = np.where(steep, 0, np.sign(gx))
    sy = np.where(flat, 0, np.sign(gy))
    keep = np.zeros(m.shape, bool)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            if (dy, dx) != (0, 0):
                bright, dark = shift(m, dy, dx, "constant"), shift(m, -dy, -dx, "constant")
                keep |= (sx == dx) & (sy == dy) & (m >= bright) & (m > dark)
    return keep & (m > 0)


def components(mask):
    """Labels of the 8-connected components, 0 outside, by spreading the largest label."""
    labels = np.where(mask, 1 + np.arange(mask.size).reshape(mask.shape), 0)
    while True:
        spread = labels
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                spread = np.maximum(spread, shift(labels, dy, dx, "constant"))
        spread = np.where(mask, spread, 0)
        if (spread == labels).all():
            return labels
        labels = spread


LOW_SQUARED, FLOOR = (4, 25), 64 * 4 * 10


def edges(image):
    """Whether there is a line at each pixel of an image, [size, size, 1 or 3] u8."""
    size = image.shape[0]
    gx, gy = gradient(blur(luma(image), size))
    m = gx * gx + gy * gy
    share = 70 if size < 96 else 80
    high = max(np.sort(m.ravel())[share * m.size // 100], FLOOR * FLOOR)
    weak = ridges(gx, gy, m) & (LOW_SQUARED[1] * m >= LOW_SQUARED[0] * high)
    labels = components(weak)
    names, counts = np.unique(labels[weak], return_counts=True)
    strong = np.unique(labels[weak & (m >= high)])
    long = names[counts >= max(2, size // 16)]
    return np.isin(labels, np.intersect1d(strong, long)) & weak


def scene(size, channels, seed):
    """Discs, bars, a ramp and some noise, [size, size, channels] u8; seed 0 is a step, 1 is flat."""
    y, x = np.mgrid[0:size, 0:size]
    if seed < 2:
        plane = np.where((x < size // 2) | (seed == 1), 60, 190)
        return np.repeat(plane[:, :, None], channels, 2).astype(np.uint8)
    random = np.random.default_rng(seed)
    image = np.empty((size, size, channels))
    image[:] = random.uniform(40, 220, channels) + 60 * ((x + 2 * y) / (3 * size))[:, :, None] - 30
    for _ in range(9):
        cx, cy = random.uniform(0, size, 2)
        rx, ry = random.uniform(0.05, 0.35, 2) * size
        turn = random.uniform(0, np.pi)
        u = np.cos(turn) * (x - cx) + np.sin(turn) * (y - cy)
        v = np.cos(turn) * (y - cy) - np.sin(turn) * (x - cx)
        box = random.uniform() < 0.4
        inside = (abs(u) < rx) & (abs(v) < ry) if box else (u / rx) ** 2 + (v / ry) ** 2 < 1
        image[inside] = random.uniform(0, 255, channels)
    image += random.normal(0, 6, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def rings(size):
    """Rings around a centre, with a weave over them, [size, size, 1] u8."""
    y, x = np.mgrid[0:size, 0:size]
    ring = 9 * ((x - size // 2) ** 2 + (y - size // 3) ** 2) // size**2 % 5
    return (30 + 45 * ring + (7 * x + 13 * y) % 11).astype(np.uint8)[:, :, None]


def main():
    parts = []
    for seed, (size, channels) in enumerate(
        [(24, 1), (24, 3), (32, 3), (33, 1), (64, 3), (64, 3), (95, 1), (96, 1), (130, 1), (192, 1), (384, 1)]
    ):
        image = scene(size, channels, seed) if size < 130 else rings(size)
        line = edges(image)
        print(f"{size} px, {channels} channels: {line.mean():.3f} of it lines")
        parts.append(struct.pack("<HH", size, channels) + (image.tobytes() if size < 130 else b""))
        parts.append(np.packbits(line, axis=1).tobytes())
    FILE.write_bytes(b"".join(parts))


if __name__ == "__main__":
    main()
