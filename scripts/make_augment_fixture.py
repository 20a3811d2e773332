#!/usr/bin/env python3
"""Makes tests/fixtures/pytorch/augment.safetensors: images augmented as DiffAugment does it, by PyTorch, and gradients.

    pip install torch numpy safetensors
    scripts/make_augment_fixture.py

`augment` of reference_dcgan.py: DiffAugment_pytorch.py (Zhao et al. 2020, arXiv 2006.10738) by seven given numbers an
image. Computed in f64 from inputs that are exact in f32, and stored rounded to f32.
"""

from __future__ import annotations

import sys
from pathlib import Path

try:
    import torch
    from safetensors.torch import save_file
except ImportError as error:
    sys.exit(f"error: {error}. This script needs PyTorch: pip install torch numpy safetensors")

from reference_dcgan import augment

FILE = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "pytorch" / "augment.safetensors"
# Images, their channels, pixels.
SHAPES = [(5, 3, 12, 12), (3, 3, 9, 7), (3, 1, 5, 12), (3, 4, 8, 3), (2, 2, 1, 1)]
POLICIES = ["color", "translation", "cutout", "color,translation,cutout"]
BITS = 1 << 24


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
            y = augment(x, u, policy.split(","))
            (dx,) = torch.autograd.grad(y, x, dy)
            case = f"{policy}/n{n}_c{c}_h{h}_w{w}"
            for name, tensor in {"x": x, "dy": dy, "numbers": u, "y": y, "dx": dx}.items():
                tensors[f"{case}/{name}"] = tensor.detach().float().contiguous()
    save_file(tensors, FILE)


if __name__ == "__main__":
    main()
