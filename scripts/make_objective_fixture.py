#!/usr/bin/env python3
"""Makes tests/fixtures/pytorch/objectives.safetensors: losses of GANs and penalties on D's gradients, by PyTorch in f64.

A discriminator of 32 px, width 2, without batch norm, on three real and three generated images: for hinge and relativistic
losses the value and the gradients of all weights in D's step, and in G's step that of the generated images; R1 and R2 by
torch.autograd.grad(..., create_graph=True), alone, with labels, and of patches. Needs torch, numpy and safetensors.
"""

from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

TO = Path(__file__).parent.parent / "tests/fixtures/pytorch/objectives.safetensors"
WIDTHS = [2, 4, 8]


def network(channels, outputs, patches):
    layers, before = [], channels
    for width in WIDTHS:
        layers += [nn.Conv2d(before, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        before = width
    last = nn.Conv2d(before, outputs, 4, *((2, 1) if patches else (1, 0)), bias=False)
    module = nn.Module()
    module.main = nn.Sequential(*layers, last)
    return module.double()


def lively(module, random):
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(0.2 * torch.randn(weight.shape, generator=random).float().double())


def gradients(module):
    return {f"grad/{name}": p.grad.clone() for name, p in module.named_parameters()}


def losses(tensors, random):
    d = network(3, 1, False)
    lively(d, random)
    tensors |= {f"plain/before/{name}": p.detach() for name, p in d.named_parameters()}
    real, fake = (torch.randn(3, 3, 32, 32, generator=random).float().double() for _ in range(2))
    tensors |= {"plain/real": real, "plain/fake": fake}
    of = lambda x: d.main(x).flatten()
    of_d = {
        "hinge": lambda r, f: (F.relu(1 - r).mean(), F.relu(1 + f).mean()),
        "relativistic": lambda r, f: (F.softplus(f - r).mean(),),
    }
    of_g = {
        "hinge": lambda r, f: -f.mean(),
        "relativistic": lambda r, f: F.softplus(r - f).mean(),
    }
    for name in of_d:
        d.zero_grad()
        parts = of_d[name](of(real), of(fake))
        sum(parts).backward()
        tensors[f"plain/{name}/d"] = torch.stack([p.detach() for p in parts])
        tensors |= {f"plain/{name}/{key}": g for key, g in gradients(d).items()}
        x = fake.clone().requires_grad_()
        loss = of_g[name](of(real), of(x))
        loss.backward()
        tensors[f"plain/{name}/g"] = loss.detach().reshape(1)
        tensors[f"plain/{name}/dx"] = x.grad


def penalties(tensors, random, name, channels, outputs, patches):
    d = network(channels, outputs, patches)
    lively(d, random)
    tensors |= {f"{name}/before/{key}": p.detach() for key, p in d.named_parameters()}
    labels = outputs - 1
    for index, (which, gamma) in enumerate([("real", 2.0), ("fake", 0.5)]):
        x = torch.randn(3, channels, 32, 32, generator=random).float().double()
        y = torch.randn(3, labels, generator=random).float().double()
        tensors |= {f"{name}/{which}": x.clone(), f"{name}/y{index}": y}
        x.requires_grad_()
        rows = d.main(x)
        logits = rows[:, 0] + (rows[:, 1:, 0, 0] * y).sum(1)[:, None, None]
        (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        norm = gradient.square().sum((1, 2, 3)).mean()
        (gamma / 2 * norm).backward()
        tensors[f"{name}/{which}/norm"] = norm.detach().reshape(1)
    tensors |= {f"{name}/{key}": g for key, g in gradients(d).items()}


def main():
    random = torch.Generator().manual_seed(31)
    tensors = {}
    losses(tensors, random)
    penalties(tensors, random, "penalty", 3, 1, False)
    penalties(tensors, random, "labels", 3, 4, False)
    penalties(tensors, random, "patches", 4, 1, True)
    save_file({name: t.float().contiguous() for name, t in sorted(tensors.items()) if t.numel()}, TO)


if __name__ == "__main__":
    main()
