"""The DCGAN of pytorch/examples (dcgan/main.py) as importable modules, for 32, 64, 128, 256 and 512 px.

Names, layouts and order of modules are that program's: both networks are one `nn.Sequential` called `main`, so a
state_dict has `main.0.weight` and so on. At 64 px with width 64 they are its `Generator` and `Discriminator`; other
sizes have fewer or more stride-2 blocks, with channels `min(width << i, channel_cap)`. The discriminator ends in the
logit: the original's closing Sigmoid has no parameters, so the state_dict is the same, and the loss is taken on logits.

Needs PyTorch: pip install torch numpy safetensors
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

IMAGE_SIZES = (32, 64, 128, 256, 512)
CHANNEL_CAP = 1024


def channels(image_size: int, width: int, channel_cap: int = CHANNEL_CAP) -> list[int]:
    """Channels from the layer nearest the image to the one at 4×4."""
    if image_size not in IMAGE_SIZES:
        raise ValueError(f"image size {image_size} is not one of {IMAGE_SIZES}")
    blocks = image_size.bit_length() - 4
    return [min(width << i, channel_cap) for i in range(blocks + 1)]


def _initialise(module: nn.Module) -> None:
    """N(0, 0.02) for convolutions, N(1, 0.02) for batch norm's weight, 0 for its bias."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def _layer_weights(state: Mapping[str, Tensor], what: str) -> list[Tensor]:
    """The 4-dimensional weights of a state_dict, first layer first."""
    names = sorted((k for k, v in state.items() if v.dim() == 4), key=lambda k: int(k.split(".")[1]))
    if not 4 <= len(names) <= 8:
        raise ValueError(f"not a {what} of {IMAGE_SIZES} px: it has {len(names)} convolutions")
    return [state[name] for name in names]


class Generator(nn.Module):
    """z [n, latent_dim, 1, 1] → images [n, image_channels, image_size, image_size] in (−1, 1)."""

    def __init__(
        self, image_size: int = 64, width: int = 64, latent_dim: int = 100, channel_cap: int = CHANNEL_CAP,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        self.image_size, self.width, self.latent_dim = image_size, width, latent_dim
        ch = channels(image_size, width, channel_cap)
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(latent_dim, ch[-1], 4, 1, 0, bias=False), nn.BatchNorm2d(ch[-1]), nn.ReLU(True)
        ]
        for outer, inner in zip(ch[-2::-1], ch[:0:-1]):
            layers += [nn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU(True)]
        layers += [nn.ConvTranspose2d(ch[0], image_channels, 4, 2, 1, bias=False), nn.Tanh()]
        self.main = nn.Sequential(*layers)
        self.apply(_initialise)

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z.reshape(len(z), -1, 1, 1))

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> Generator:
        """The generator that a state_dict describes, with its weights loaded (strictly)."""
        weights = _layer_weights(state, "generator")
        last = weights[-1]
        g = cls(2 << len(weights), last.shape[0], weights[0].shape[0], weights[0].shape[1], last.shape[1])
        g.load_state_dict(state, strict=True)
        return g


class Discriminator(nn.Module):
    """Images [n, image_channels, image_size, image_size] → logits [n]."""

    def __init__(
        self, image_size: int = 64, width: int = 64, channel_cap: int = CHANNEL_CAP, image_channels: int = 3
    ) -> None:
        super().__init__()
        self.image_size, self.width = image_size, width
        ch = channels(image_size, width, channel_cap)
        layers: list[nn.Module] = [nn.Conv2d(image_channels, ch[0], 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
        for outer, inner in zip(ch, ch[1:]):
            layers += [nn.Conv2d(outer, inner, 4, 2, 1, bias=False), nn.BatchNorm2d(inner), nn.LeakyReLU(0.2, True)]
        layers += [nn.Conv2d(ch[-1], 1, 4, 1, 0, bias=False)]
        self.main = nn.Sequential(*layers)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        return self.main(images).view(-1)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> Discriminator:
        """The discriminator that a state_dict describes, with its weights loaded (strictly)."""
        weights = _layer_weights(state, "discriminator")
        first = weights[0]
        d = cls(2 << len(weights), first.shape[0], weights[-1].shape[1], first.shape[1])
        d.load_state_dict(state, strict=True)
        return d


def faces_like(n: int, image_size: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """Smooth random images in [−1, 1], [n, 3, image_size, image_size]: stand-ins for photographs."""
    coarse = torch.randn(n, 3, 6, 6, generator=generator, dtype=dtype)
    smooth = nn.functional.interpolate(coarse, size=(image_size, image_size), mode="bicubic", align_corners=False)
    grain = torch.randn(n, 3, image_size, image_size, generator=generator, dtype=dtype)
    return torch.tanh(smooth + 0.1 * grain)
