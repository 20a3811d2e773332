#!/usr/bin/env python3
"""Makes tests/fixtures/latent/losses.safetensors: the losses of classifiers and their gradients by PyTorch.

Binary cross-entropy on logits with weights of those with and of those without a name, where some labels are not known;
cross-entropy of classes, where some images have none. Needs torch and safetensors.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

TO = Path(__file__).parent.parent / "tests/fixtures/latent/losses.safetensors"


def main():
    random = torch.Generator().manual_seed(11)
    images, names = 7, 5
    logits = (3 * torch.randn(images, names, generator=random)).double()
    logits[0, 0], logits[0, 1] = 60.0, -60.0
    labels = torch.randint(-1, 2, (images, names), generator=random).double()
    weights = 0.5 + torch.rand(names, 2, generator=random).double()
    x = logits.float().double().requires_grad_()
    weight = torch.where(labels > 0, weights.float().double()[:, 0], weights.float().double()[:, 1])
    weight = weight * (labels != 0)
    loss = F.binary_cross_entropy_with_logits(x, (labels > 0).double(), weight=weight, reduction="mean")
    loss.backward()

    classes = torch.randint(0, names, (images,), generator=random)
    classes[2] = -1
    y = logits.float().double().requires_grad_()
    # The mean is over all images, those without a class included.
    entropy = F.cross_entropy(y, classes, ignore_index=-1, reduction="sum") / images
    entropy.backward()
    tensors = {
        "logits": logits,
        "labels": labels,
        "weights": weights,
        "bce": loss.detach().reshape(1),
        "bce_gradient": x.grad,
        "classes": classes.double(),
        "cross_entropy": entropy.detach().reshape(1),
        "cross_entropy_gradient": y.grad,
    }
    TO.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: t.float().contiguous() for name, t in tensors.items()}, TO)


if __name__ == "__main__":
    main()
