"""What D and G are trained by beside binary cross entropy, in PyTorch: for replay_pytorch.py.

Losses (hinge; relativistic: Huang et al. 2024, arXiv 2501.05441), the changes of DiffAugment (Zhao et al. 2020, arXiv
2006.10738) by given numbers, and penalties on D's gradients (R1, R2: Mescheder et al. 2018, arXiv 1801.04406) by
differentiating twice. Needs PyTorch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHANGES = ("color", "translation", "cutout")


def changed(x: Tensor, numbers: Tensor, which: tuple[str, ...], channels: int) -> Tensor:
    """x [n, c, h, w] changed by `numbers` [n, 7], uniform in [0, 1): brightness, saturation, contrast; rows and columns that
    it is moved by; row and column of the square's centre. Colours are those of the first `channels`.
    """
    n, _, h, w = x.shape
    u = numbers.double()
    if "color" in which:
        image, rest = x[:, :channels], x[:, channels:]
        brightness, saturation, contrast = (u[:, i].to(x.dtype)[:, None, None, None] for i in range(3))
        image = image + (brightness - 0.5)
        mean = image.mean(1, keepdim=True)
        image = (image - mean) * (2 * saturation) + mean
        mean = image.mean((1, 2, 3), keepdim=True)
        image = (image - mean) * (contrast + 0.5) + mean
        x = torch.cat([image, rest], 1)
    if "translation" in which:
        shifts = [int(side / 8 + 0.5) for side in (h, w)]
        moved = [(u[:, 3 + i] * (2 * s + 1)).floor().long() - s for i, s in enumerate(shifts)]
        rows = (torch.arange(h)[None] + moved[0][:, None] + 1).clamp(0, h + 1)
        columns = (torch.arange(w)[None] + moved[1][:, None] + 1).clamp(0, w + 1)
        padded = F.pad(x, [1, 1, 1, 1]).permute(0, 2, 3, 1)
        at = torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]
        x = padded[at].permute(0, 3, 1, 2).contiguous()
    if "cutout" in which:
        keep = torch.ones(n, h, w, dtype=x.dtype)
        sizes = [int(side * 0.5 + 0.5) for side in (h, w)]
        first = [(u[:, 5 + i] * (side + 1 - size % 2)).floor().long() - size // 2
                 for i, (side, size) in enumerate(zip((h, w), sizes))]
        rows = (torch.arange(sizes[0])[None] + first[0][:, None]).clamp(0, h - 1)
        columns = (torch.arange(sizes[1])[None] + first[1][:, None]).clamp(0, w - 1)
        keep[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]] = 0
        x = x * keep[:, None].to(x.device)
    return x


def losses_of_d(kind: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """D's loss, and what the log has of it for real and for generated images, from logits."""
    if kind == "relativistic":
        pair = F.softplus(fake - real).mean()
        return pair, pair, pair
    if kind == "hinge":
        parts = F.relu(1 - real).mean(), F.relu(1 + fake).mean()
    else:
        parts = F.softplus(-real).mean(), F.softplus(fake).mean()
    return parts[0] + parts[1], *parts


def loss_of_g(kind: str, fake: Tensor, real: Tensor | None) -> Tensor:
    """G's loss, from logits."""
    if kind == "relativistic":
        assert real is not None
        return F.softplus(real - fake).mean()
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def squared_norm(logits: Tensor, x: Tensor) -> Tensor:
    """mean‖∇D‖² over the images x, of the sum of an image's logits, to be differentiated again."""
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()
