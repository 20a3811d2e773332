#!/usr/bin/env python3
"""Makes tests/fixtures/pytorch/augment.safetensors: images augmented as DiffAugment does it, by PyTorch, and gradients.

    pip install torch numpy safetensors
    scripts/make_augment_fixture.py

DiffAugment_pytorch.py (Zhao et al. 2020, arXiv 2006.10738, policy `color,translation,cutout`), its random numbers
replaced by seven given ones an image, uniform in [0, 1): brightness, saturation, contrast, translation and cutout, of
rows and of columns. A whole number below k is floor(u*k). Computed in f64 from inputs that are exact in f32, and stored
rounded to f32.
"""

from __future__ import annotations

import sys
from pathlib import Path

try:
    import torch
    import torch.nn.functional as F
    from safetensors.torch import save_file
except ImportError as error:
    sys.exit(f"error: {error}. This script needs PyTorch: pip install torch numpy safetensors")

FILE = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "pytorch" / "augment.safetensors"
# Images, their channels, pixels.
SHAPES = [(5, 3, 12, 12), (3, 3, 9, 7), (3, 1, 5, 12), (3, 4, 8, 3), (2, 2, 1, 1)]
POLICIES = ["color", "translation", "cutout", "color,translation,cutout"]
BITS = 1 << 24


def below(u: torch.Tensor, least: int, end: int) -> torch.Tensor:
    """torch.randint(least, end, [n, 1, 1]), by a given uniform number."""
    return (torch.floor(u * (end - least)).long() + least).view(-1, 1, 1)


def color(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    brightness, saturation, contrast = (u[:, i].view(-1, 1, 1, 1) for i in range(3))
    x = x + (brightness - 0.5)
    x_mean = x.mean(dim=1, keepdim=True)
    x = (x - x_mean) * (saturation * 2) + x_mean
    x_mean = x.mean(dim=[1, 2, 3], keepdim=True)
    return (x - x_mean) * (contrast + 0.5) + x_mean


def grid(n: int, h: int, w: int) -> tuple[torch.Tensor, ...]:
    return torch.meshgrid(torch.arange(n), torch.arange(h), torch.arange(w), indexing="ij")


def translation(x: torch.Tensor, u: torch.Tensor, ratio: float = 0.125) -> torch.Tensor:
    n, _, h, w = x.shape
    shift_h, shift_w = int(h * ratio + 0.5), int(w * ratio + 0.5)
    batch, rows, columns = grid(n, h, w)
    rows = torch.clamp(rows + below(u[:, 3], -shift_h, shift_h + 1) + 1, 0, h + 1)
    columns = torch.clamp(columns + below(u[:, 4], -shift_w, shift_w + 1) + 1, 0, w + 1)
    padded = F.pad(x, [1, 1, 1, 1, 0, 0, 0, 0])
    return padded.permute(0, 2, 3, 1)[batch, rows, columns].permute(0, 3, 1, 2)


def cutout(x: torch.Tensor, u: torch.Tensor, ratio: float = 0.5) -> torch.Tensor:
    n, _, h, w = x.shape
    size_h, size_w = int(h * ratio + 0.5), int(w * ratio + 0.5)
    batch, rows, columns = grid(n, size_h, size_w)
    offset_h = below(u[:, 5], 0, h + (1 - size_h % 2))
    offset_w = below(u[:, 6], 0, w + (1 - size_w % 2))
    rows = torch.clamp(rows + offset_h - size_h // 2, min=0, max=h - 1)
    columns = torch.clamp(columns + offset_w - size_w // 2, min=0, max=w - 1)
    mask = torch.ones(n, h, w, dtype=x.dtype)
    mask[batch, rows, columns] = 0
    return x * mask.unsqueeze(1)


CHANGES = {"color": color, "translation": translation, "cutout": cutout}


def main() -> None:
    random = torch.Generator().manual_seed(11)
    tensors = {}
    for n, c, h, w in SHAPES:
        x = torch.randn(n, c, h, w, generator=random).double().requires_grad_()
        dy = torch.randn(n, c, h, w, generator=random).double()
        u = torch.randint(0, BITS, (n, 7), generator=random).double() / BITS
        # The least and the largest.
        u[0], u[1] = 0.0, (BITS - 1) / BITS
        for policy in POLICIES:
            y = x
            for name in policy.split(","):
                y = CHANGES[name](y, u)
            (dx,) = torch.autograd.grad(y, x, dy)
            case = f"{policy}/n{n}_c{c}_h{h}_w{w}"
            for name, tensor in {"x": x, "dy": dy, "numbers": u, "y": y, "dx": dx}.items():
                tensors[f"{case}/{name}"] = tensor.detach().float().contiguous()
    save_file(tensors, FILE)


if __name__ == "__main__":
    main()
