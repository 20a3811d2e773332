"""The DCGAN of pytorch/examples (dcgan/main.py) as importable modules, for 32, 64, 128, 256 and 512 px.

Names, layouts and order of modules are that program's: both networks are one `nn.Sequential` called `main`, so a
state_dict has `main.0.weight` and so on. At 64 px with width 64 they are its `Generator` and `Discriminator`; other
sizes have fewer or more stride-2 blocks, with channels `min(width << i, channel_cap)`. The discriminator ends in the
logit: the original's closing Sigmoid has no parameters, so the state_dict is the same, and the loss is taken on logits.

Conditional networks are beside them:

  labels   `labels` numbers y an image: the generator's input is [z, y], and the discriminator has 1 + labels outputs
           l0, l1, … whose logit is l0 + Σ y_i·l_i (a projection; Miyato and Koyama, 2018)
  picture  the generator is the U-Net of pix2pix (Isola et al., 2017), with its names, `UnetGenerator`; the
           discriminator gives a logit for every patch of [image, picture], `PatchDiscriminator`

Without batch norm in D (`norm` none), or with `torch.nn.utils.parametrizations.spectral_norm` on its convolutions
(spectral), names and layers are those of the `nn.Sequential` without it. `family` sndcgan has the layers of SNDCGAN
(Miyato et al., 2018; Kurach et al., 2019) without biases: 3×3 convolutions beside those that halve, LeakyReLU 0.1.

Every network is `outputs(main(inputs(…)), …)`, so that a program may compute `main` (the U-Net's `model`) otherwise.

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
    """z [n, latent_dim, 1, 1] → images [n, image_channels, image_size, image_size] in (−1, 1).

    With `labels` it also takes y [n, labels].
    """

    def __init__(
        self, image_size: int = 64, width: int = 64, latent_dim: int = 100, channel_cap: int = CHANNEL_CAP,
        image_channels: int = 3, labels: int = 0, family: str = "dcgan",
    ) -> None:
        super().__init__()
        self.image_size, self.width, self.latent_dim, self.labels = image_size, width, latent_dim, labels
        ch = channels(image_size, width, channel_cap)
        if family == "sndcgan":
            ch += [min(width << len(ch), channel_cap)]
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(latent_dim + labels, ch[-1], 4, 1, 0, bias=False), nn.BatchNorm2d(ch[-1]), nn.ReLU(True)
        ]
        for outer, inner in zip(ch[-2::-1], ch[:0:-1]):
            layers += [nn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU(True)]
        if family == "sndcgan":
            layers += [nn.Conv2d(ch[0], image_channels, 3, 1, 1, bias=False), nn.Tanh()]
        else:
            layers += [nn.ConvTranspose2d(ch[0], image_channels, 4, 2, 1, bias=False), nn.Tanh()]
        self.main = nn.Sequential(*layers)
        self.apply(_initialise)

    def inputs(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """[z, y], n × channels × 1 × 1."""
        if (y is not None) != (self.labels > 0):
            raise ValueError(f"a generator with {self.labels} labels {'needs' if self.labels else 'has no'} y")
        z = z.reshape(len(z), -1)
        return (z if y is None else torch.cat([z, y], 1))[:, :, None, None]

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.outputs(self.main(self.inputs(z, y)), z, y)

    def outputs(self, images: Tensor, *_: Tensor | None) -> Tensor:
        return images

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], labels: int = 0) -> Generator:
        """The generator that a state_dict describes, with its weights loaded (strictly).

        How many of its inputs are `labels` is not in the file.
        """
        weights = _layer_weights(state, "generator")
        last, latent_dim = weights[-1], weights[0].shape[0] - labels
        if not 0 <= labels or latent_dim < 1:
            raise ValueError(f"not a generator with {labels} labels: it has {weights[0].shape[0]} inputs")
        g = cls(2 << len(weights), last.shape[0], latent_dim, weights[0].shape[1], last.shape[1], labels)
        g.load_state_dict(state, strict=True)
        return g


def _downwards(image_channels: int, ch: list[int], outputs: int) -> nn.Sequential:
    """The layers of a discriminator with a stride-2 block for each of `ch`."""
    layers: list[nn.Module] = [nn.Conv2d(image_channels, ch[0], 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
    for outer, inner in zip(ch, ch[1:]):
        layers += [nn.Conv2d(outer, inner, 4, 2, 1, bias=False), nn.BatchNorm2d(inner), nn.LeakyReLU(0.2, True)]
    return nn.Sequential(*layers, nn.Conv2d(ch[-1], outputs, 4, 1, 0, bias=False))


def _sndcgan_downwards(image_channels: int, ch: list[int], outputs: int) -> nn.Sequential:
    """The layers of SNDCGAN's discriminator, `ch` from the image's size down to 4×4."""
    layers: list[nn.Module] = [nn.Conv2d(image_channels, ch[0], 3, 1, 1, bias=False), nn.LeakyReLU(0.1, True)]
    for outer, inner in zip(ch, ch[1:]):
        for convolution in (nn.Conv2d(outer, inner, 4, 2, 1, bias=False), nn.Conv2d(inner, inner, 3, 1, 1, bias=False)):
            layers += [convolution, nn.BatchNorm2d(inner), nn.LeakyReLU(0.1, True)]
    return nn.Sequential(*layers, nn.Conv2d(ch[-1], outputs, 4, 1, 0, bias=False))


def _normalised(main: nn.Sequential, norm: str) -> nn.Sequential:
    """The layers with batch norm as they are, or without it, or with spectral norm in its place."""
    if norm == "batch":
        return main
    main = nn.Sequential(*(layer for layer in main if not isinstance(layer, nn.BatchNorm2d)))
    if norm == "spectral":
        for layer in main:
            if isinstance(layer, nn.Conv2d):
                nn.utils.parametrizations.spectral_norm(layer)
    return main


class Discriminator(nn.Module):
    """Images [n, image_channels, image_size, image_size] → logits [n]. With `labels` it also takes y [n, labels]."""

    def __init__(
        self, image_size: int = 64, width: int = 64, channel_cap: int = CHANNEL_CAP, image_channels: int = 3,
        labels: int = 0, family: str = "dcgan", norm: str = "batch",
    ) -> None:
        super().__init__()
        self.image_size, self.width, self.labels = image_size, width, labels
        ch = channels(image_size, width, channel_cap)
        if family == "sndcgan":
            self.main = _sndcgan_downwards(image_channels, ch + [min(width << len(ch), channel_cap)], 1 + labels)
        else:
            self.main = _downwards(image_channels, ch, 1 + labels)
        self.apply(_initialise)
        self.main = _normalised(self.main, norm)

    def inputs(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        if (y is not None) != (self.labels > 0):
            raise ValueError(f"a discriminator with {self.labels} labels {'needs' if self.labels else 'has no'} y")
        return images

    def forward(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        return self.outputs(self.main(self.inputs(images, y)), images, y)

    def outputs(self, outputs: Tensor, _: Tensor, y: Tensor | None = None) -> Tensor:
        """The logits [n] of outputs [n, 1 + labels, 1, 1]; with labels in y's type, which autocast leaves alone."""
        return outputs.view(-1) if y is None else projected(outputs.flatten(1).to(y.dtype), y)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> Discriminator:
        """The discriminator that a state_dict describes, with its weights loaded (strictly)."""
        weights = _layer_weights(state, "discriminator")
        first, last = weights[0], weights[-1]
        d = cls(2 << len(weights), first.shape[0], last.shape[1], first.shape[1], last.shape[0] - 1)
        d.load_state_dict(state, strict=True)
        return d


def projected(outputs: Tensor, y: Tensor) -> Tensor:
    """Outputs l [n, 1 + labels], y [n, labels] → logits [n]: l0 + Σ y_i·l_i."""
    return outputs[:, 0] + (outputs[:, 1:] * y).sum(1)


class UnetBlock(nn.Module):
    """A level of a U-Net: down, the levels `inside`, up. Its output is its input and what comes up, [skip, up].

    The outermost level (`input_channels` given) has neither skip nor norms, and ends in Tanh. ReLU stands before the
    convolution that goes up, so it is applied to the skip too. pix2pix's activations work in place, which makes the
    skip LeakyReLU's output instead of its input; behind that ReLU both are the same.
    """

    def __init__(self, outer: int, inner: int, inside: UnetBlock | None, input_channels: int | None = None) -> None:
        super().__init__()
        self.outermost = input_channels is not None
        down: list[nn.Module] = [] if self.outermost else [nn.LeakyReLU(0.2)]
        down += [nn.Conv2d(outer if input_channels is None else input_channels, inner, 4, 2, 1, bias=False)]
        if inside is not None:
            down += ([] if self.outermost else [nn.BatchNorm2d(inner)]) + [inside]
        up = [nn.ReLU(), nn.ConvTranspose2d(inner if inside is None else 2 * inner, outer, 4, 2, 1, bias=False)]
        self.model = nn.Sequential(*down, *up, nn.Tanh() if self.outermost else nn.BatchNorm2d(outer))

    def join(self, skip: Tensor, up: Tensor) -> Tensor:
        return torch.cat([skip, up], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) if self.outermost else self.join(x, self.model(x))


class UnetGenerator(nn.Module):
    """A picture [n, picture_channels, image_size, image_size], z [n, latent_dim] → images like it, in (−1, 1).

    pix2pix's `UnetGenerator` with `num_downs` log2(image_size), down to 1×1, with its names (`model.model.0.weight`
    and so on), without dropout and without the bias of its last layer. z, where `latent_dim` is not 0, is appended
    behind the picture's channels, the same at every pixel.
    """

    def __init__(
        self, image_size: int = 64, width: int = 64, picture_channels: int = 1, latent_dim: int = 0,
        image_channels: int = 3, channel_cap: int | None = None,
    ) -> None:
        super().__init__()
        if image_size not in IMAGE_SIZES:
            raise ValueError(f"image size {image_size} is not one of {IMAGE_SIZES}")
        self.image_size, self.width, self.latent_dim = image_size, width, latent_dim
        self.picture_channels = picture_channels
        cap = min(8 * width, max(CHANNEL_CAP, width) if channel_cap is None else channel_cap)
        ch = [min(width << i, cap) for i in range(image_size.bit_length() - 1)]
        block: UnetBlock | None = None
        for outer, inner in zip(ch[-2::-1], ch[:0:-1]):
            block = UnetBlock(outer, inner, block)
        self.model = UnetBlock(image_channels, ch[0], block, picture_channels + latent_dim)
        self.apply(_initialise)

    def inputs(self, picture: Tensor, z: Tensor | None = None) -> Tensor:
        """[picture, z at every pixel]."""
        if (z is not None) != (self.latent_dim > 0):
            raise ValueError(f"a U-Net of latent dimension {self.latent_dim} {'needs' if z is None else 'has no'} z")
        if z is None:
            return picture
        return torch.cat([picture, z.reshape(len(z), -1, 1, 1).expand(-1, -1, *picture.shape[2:])], 1)

    def forward(self, picture: Tensor, z: Tensor | None = None) -> Tensor:
        return self.outputs(self.model(self.inputs(picture, z)), picture, z)

    def outputs(self, images: Tensor, *_: Tensor | None) -> Tensor:
        return images

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], latent_dim: int = 0) -> UnetGenerator:
        """The generator that a state_dict describes, with its weights loaded (strictly).

        How many of its input channels are `latent_dim` is not in the file.
        """
        weights = {name: v for name, v in state.items() if v.dim() == 4}
        first, last = (weights.get(f"model.model.{i}.weight") for i in (0, 3))
        if first is None or last is None or len(weights) % 2 or not 0 <= latent_dim < first.shape[1]:
            shape = None if first is None else tuple(first.shape)
            raise ValueError(f"not a U-Net of latent dimension {latent_dim}: {len(weights)} convolutions, "
                             f"the first of {shape}")
        innermost = weights[max(weights, key=len)]
        g = cls(1 << len(weights) // 2, first.shape[0], first.shape[1] - latent_dim, latent_dim, last.shape[1],
                innermost.shape[0])
        g.load_state_dict(state, strict=True)
        return g


class PatchDiscriminator(nn.Module):
    """Images [n, image_channels, h, w], pictures [n, picture_channels, h, w] → logits [n, h/16, w/16].

    The blocks of the unconditional discriminator on more channels and images of any size, and a fourth that has one
    output: a logit a patch.
    """

    BLOCKS = 3

    def __init__(
        self, width: int = 64, picture_channels: int = 1, channel_cap: int = CHANNEL_CAP, image_channels: int = 3,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        self.width, self.picture_channels = width, picture_channels
        ch = [min(width << i, channel_cap) for i in range(self.BLOCKS)]
        self.main = _downwards(image_channels + picture_channels, ch, 1)
        # As the blocks before, and not 4×4 to 1×1.
        self.main[-1] = nn.Conv2d(ch[-1], 1, 4, 2, 1, bias=False)
        self.apply(_initialise)
        self.main = _normalised(self.main, norm)

    def inputs(self, images: Tensor, picture: Tensor) -> Tensor:
        return torch.cat([images, picture], 1)

    def forward(self, images: Tensor, picture: Tensor) -> Tensor:
        return self.outputs(self.main(self.inputs(images, picture)), images, picture)

    def outputs(self, outputs: Tensor, *_: Tensor) -> Tensor:
        return outputs[:, 0]

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], picture_channels: int = 1) -> PatchDiscriminator:
        """The discriminator that a state_dict describes, with its weights loaded (strictly).

        How many of its input channels are the picture's is not in the file.
        """
        weights = _layer_weights(state, "discriminator")
        first, last = weights[0], weights[-1]
        if not 0 < picture_channels < first.shape[1]:
            raise ValueError(f"not of {picture_channels} picture channels: it has {first.shape[1]} in all")
        d = cls(first.shape[0], picture_channels, last.shape[1], first.shape[1] - picture_channels)
        d.load_state_dict(state, strict=True)
        return d


def faces_like(
    n: int, image_size: int, generator: torch.Generator, dtype: torch.dtype = torch.float32, channels: int = 3
) -> Tensor:
    """Smooth random images in [−1, 1], [n, channels, image_size, image_size]: stand-ins for photographs."""
    coarse = torch.randn(n, channels, 6, 6, generator=generator, dtype=dtype)
    smooth = nn.functional.interpolate(coarse, size=(image_size, image_size), mode="bicubic", align_corners=False)
    grain = torch.randn(n, channels, image_size, image_size, generator=generator, dtype=dtype)
    return torch.tanh(smooth + 0.1 * grain)
