#!/usr/bin/env python3
"""Makes tests/fixtures/latent/gradients.safetensors: by PyTorch, what a loss on a generator's images says of z.

    pip install torch numpy safetensors
    scripts/make_gradient_fixture.py

A small generator and a network with the discriminator's layers and three outputs behind it, both in eval mode. Computed
in f64 from inputs that are exact in f32, and stored rounded to f32.
"""

from __future__ import annotations

import sys
from pathlib import Path

try:
    import torch
    from safetensors.torch import save_file
    from torch import nn
except ImportError as error:
    sys.exit(f"error: {error}. This script needs PyTorch: pip install torch numpy safetensors")

from reference_dcgan import Discriminator, Generator

FILE = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "latent" / "gradients.safetensors"
SIZE, WIDTH, LATENT, OUTPUTS, BATCH = 32, 2, 5, 3, 3
# The block whose output something is added to, and its modules: convolution, norm, activation.
STAGE = 1


@torch.no_grad()
def lively(network: nn.Module, random: torch.Generator) -> None:
    """Statistics and norms as training leaves them, not as it finds them; weights so large that no map dies out."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            n = module.num_features
            module.running_mean.copy_(0.3 * torch.randn(n, generator=random))
            module.running_var.copy_(0.5 + torch.rand(n, generator=random))
            module.weight.data.copy_(1 + 0.2 * torch.randn(n, generator=random))
            module.bias.data.copy_(0.2 * torch.randn(n, generator=random))
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.weight.data.copy_(0.2 * torch.randn(module.weight.shape, generator=random))


def main() -> None:
    random = torch.Generator().manual_seed(11)
    generator = Generator(SIZE, WIDTH, LATENT)
    judge = Discriminator(SIZE, WIDTH)
    last = judge.main[-1]
    judge.main[-1] = nn.Conv2d(last.in_channels, OUTPUTS, 4, 1, 0, bias=False)
    for network in (generator, judge):
        lively(network, random)
        network.double().eval()
    z = torch.randn(BATCH, LATENT, generator=random).double().requires_grad_()
    weights = torch.randn(BATCH, OUTPUTS, generator=random).double()
    stages = generator.main[: 3 * (STAGE + 1)]
    rest = generator.main[3 * (STAGE + 1) :]
    maps = stages(z.reshape(BATCH, LATENT, 1, 1))
    added = (0.1 * torch.randn(maps.shape, generator=random)).double().requires_grad_()
    images = rest(maps + added)
    logits = judge.main(images).reshape(BATCH, OUTPUTS)
    (weights * logits).sum().backward()
    tensors = {
        "z": z, "dz": z.grad, "added": added, "dadded": added.grad, "images": images, "logits": logits,
        "weights": weights, "plain": generator(z),
    }
    for name, network in (("generator", generator), ("judge", judge)):
        tensors |= {f"{name}/{key}": value for key, value in network.state_dict().items()}
    floats = lambda t: t.detach().float().contiguous() if t.is_floating_point() else t.detach().clone()
    FILE.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: floats(tensor) for name, tensor in tensors.items()}, FILE)
    print(f"{FILE}: {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
