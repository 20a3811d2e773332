"""The DCGAN of pytorch/examples (dcgan/main.py) as importable modules, for 32, 64, 128, 256 and 512 px.

Names, layouts and order of modules are that program's: both networks are one `nn.Sequential` called `main`, so a
state_dict has `main.0.weight` and so on. At 64 px with width 64 they are its `Generator` and `Discriminator`; other
sizes have fewer or more stride-2 blocks, with channels `min(width << i, channel_cap)`. The discriminator ends in the
logit: the original's closing Sigmoid has no parameters, so the state_dict is the same, and the loss is taken on logits.

With `arch` "sndcgan" both are those of SNDCGAN (Miyato et al., 2018, arXiv 1802.05957) instead, with 3×3 convolutions
next to the image and, in the discriminator, behind each that halves. A discriminator's `norm` is "batch", "spectral"
(`torch.nn.utils.parametrizations.spectral_norm` on every convolution) or "none".

Conditional networks are beside them:

  labels   `labels` numbers y an image: the generator's input is [z, y], and the discriminator has 1 + labels outputs
           l0, l1, … whose logit is l0 + Σ y_i·l_i (a projection; Miyato and Koyama, 2018)
  picture  the generator is the U-Net of pix2pix (Isola et al., 2017), with its names, `UnetGenerator`; the
           discriminator gives a logit for every patch of [image, picture], `PatchDiscriminator`

Every network is `outputs(main(inputs(…)), …)`, so that a program may compute `main` (the U-Net's `model`) otherwise.

`augment` changes images as DiffAugment does, by given numbers.

Needs PyTorch: pip install torch numpy safetensors
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

IMAGE_SIZES = (32, 64, 128, 256, 512)
CHANNEL_CAP = 1024
ARCHS = ("dcgan", "sndcgan")
NORMS = ("batch", "spectral", "none")


def channels(image_size: int, width: int, channel_cap: int = CHANNEL_CAP, arch: str = "dcgan") -> list[int]:
    """Channels from the layer nearest the image to the one at 4×4; SNDCGAN has one more, as large as the image."""
    if image_size not in IMAGE_SIZES:
        raise ValueError(f"image size {image_size} is not one of {IMAGE_SIZES}")
    if arch not in ARCHS:
        raise ValueError(f"architecture {arch} is not one of {ARCHS}")
    levels = image_size.bit_length() - 3 + (arch == "sndcgan")
    return [min(width << i, channel_cap) for i in range(levels)]


def _initialise(module: nn.Module) -> None:
    """N(0, 0.02) for convolutions, N(1, 0.02) for batch norm's weight, 0 for its bias."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def _layer_weights(state: Mapping[str, Tensor], what: str) -> tuple[list[Tensor], str, int]:
    """The 4-dimensional weights of a state_dict, first layer first, whose layers they are and for which image size."""
    names = sorted((k for k, v in state.items() if v.dim() == 4), key=lambda k: int(k.split(".")[1]))
    weights = [state[name] for name in names]
    arch = "sndcgan" if any(w.shape[-1] == 3 for w in weights) else "dcgan"
    levels = len(weights)
    if arch == "sndcgan":
        levels = levels // 2 if what == "discriminator" else levels - 1
    if (size := 2 << levels) not in IMAGE_SIZES:
        raise ValueError(f"not a {what} of {IMAGE_SIZES} px: it has {len(names)} convolutions")
    return weights, arch, size


def _norm_of(state: Mapping[str, Tensor]) -> str:
    """How the discriminator that a state_dict describes is normalised."""
    if any(".parametrizations." in name for name in state):
        return "spectral"
    return "batch" if any(name.endswith(".running_mean") for name in state) else "none"


def _initialised(layers: nn.Sequential, norm: str) -> nn.Sequential:
    """The layers of a discriminator with initial weights, and with spectral norm where that is its `norm`."""
    layers.apply(_initialise)
    if norm == "spectral":
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                spectral_norm(layer)
    return layers


class Generator(nn.Module):
    """z [n, latent_dim, 1, 1] → images [n, image_channels, image_size, image_size] in (−1, 1).

    With `labels` it also takes y [n, labels].
    """

    def __init__(
        self, image_size: int = 64, width: int = 64, latent_dim: int = 100, channel_cap: int = CHANNEL_CAP,
        image_channels: int = 3, labels: int = 0, arch: str = "dcgan",
    ) -> None:
        super().__init__()
        self.image_size, self.width, self.latent_dim, self.labels = image_size, width, latent_dim, labels
        ch = channels(image_size, width, channel_cap, arch)
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(latent_dim + labels, ch[-1], 4, 1, 0, bias=False), nn.BatchNorm2d(ch[-1]), nn.ReLU(True)
        ]
        for outer, inner in zip(ch[-2::-1], ch[:0:-1]):
            layers += [nn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU(True)]
        if arch == "sndcgan":
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
        weights, arch, size = _layer_weights(state, "generator")
        last, latent_dim = weights[-1], weights[0].shape[0] - labels
        width, image_channels = last.shape[:2] if arch == "dcgan" else last.shape[1::-1]
        if not 0 <= labels or latent_dim < 1:
            raise ValueError(f"not a generator with {labels} labels: it has {weights[0].shape[0]} inputs")
        g = cls(size, width, latent_dim, weights[0].shape[1], image_channels, labels, arch)
        g.load_state_dict(state, strict=True)
        return g


def _downwards(image_channels: int, ch: list[int], outputs: int, norm: str, arch: str = "dcgan") -> nn.Sequential:
    """The layers of a discriminator with a stride-2 block for each of `ch`; SNDCGAN's has none for the first, but a
    block of stride 1 for each."""
    if norm not in NORMS:
        raise ValueError(f"norm {norm} is not one of {NORMS}")
    layers: list[nn.Module] = []

    def block(inner: int, outer: int, kernel: int, stride: int) -> None:
        layers.append(nn.Conv2d(inner, outer, kernel, stride, 1, bias=False))
        if norm == "batch" and len(layers) > 1:
            layers.append(nn.BatchNorm2d(outer))
        layers.append(nn.LeakyReLU(0.1 if arch == "sndcgan" else 0.2, True))

    for level, (inner, outer) in enumerate(zip([image_channels, *ch], ch)):
        if arch == "dcgan" or level > 0:
            block(inner, outer, 4, 2)
        if arch == "sndcgan":
            block(outer if level > 0 else inner, outer, 3, 1)
    return nn.Sequential(*layers, nn.Conv2d(ch[-1], outputs, 4, 1, 0, bias=False))


class Discriminator(nn.Module):
    """Images [n, image_channels, image_size, image_size] → logits [n]. With `labels` it also takes y [n, labels]."""

    def __init__(
        self, image_size: int = 64, width: int = 64, channel_cap: int = CHANNEL_CAP, image_channels: int = 3,
        labels: int = 0, norm: str = "batch", arch: str = "dcgan",
    ) -> None:
        super().__init__()
        self.image_size, self.width, self.labels = image_size, width, labels
        ch = channels(image_size, width, channel_cap, arch)
        self.main = _initialised(_downwards(image_channels, ch, 1 + labels, norm, arch), norm)

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
        weights, arch, size = _layer_weights(state, "discriminator")
        first, last = weights[0], weights[-1]
        d = cls(size, first.shape[0], last.shape[1], first.shape[1], last.shape[0] - 1, _norm_of(state), arch)
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
        layers = _downwards(image_channels + picture_channels, ch, 1, norm)
        # As the blocks before, and not 4×4 to 1×1.
        layers[-1] = nn.Conv2d(ch[-1], 1, 4, 2, 1, bias=False)
        self.main = _initialised(layers, norm)

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
        weights, _, _ = _layer_weights(state, "discriminator")
        first, last = weights[0], weights[-1]
        if not 0 < picture_channels < first.shape[1]:
            raise ValueError(f"not of {picture_channels} picture channels: it has {first.shape[1]} in all")
        d = cls(first.shape[0], picture_channels, last.shape[1], first.shape[1] - picture_channels, _norm_of(state))
        d.load_state_dict(state, strict=True)
        return d


def _below(u: Tensor, least: int, end: int) -> Tensor:
    """torch.randint(least, end, [n, 1, 1]), by a given uniform number in f64, in which the product is exact."""
    return (torch.floor(u.double() * (end - least)).long() + least).view(-1, 1, 1)


def _color(x: Tensor, u: Tensor) -> Tensor:
    brightness, saturation, contrast = (u[:, i].to(x.dtype).view(-1, 1, 1, 1) for i in range(3))
    x = x + (brightness - 0.5)
    x_mean = x.mean(dim=1, keepdim=True)
    x = (x - x_mean) * (saturation * 2) + x_mean
    x_mean = x.mean(dim=[1, 2, 3], keepdim=True)
    return (x - x_mean) * (contrast + 0.5) + x_mean


def _grid(n: int, h: int, w: int, like: Tensor) -> tuple[Tensor, ...]:
    return torch.meshgrid(*(torch.arange(k, device=like.device) for k in (n, h, w)), indexing="ij")


def _translation(x: Tensor, u: Tensor, ratio: float = 0.125) -> Tensor:
    n, _, h, w = x.shape
    shift_h, shift_w = int(h * ratio + 0.5), int(w * ratio + 0.5)
    batch, rows, columns = _grid(n, h, w, x)
    rows = torch.clamp(rows + _below(u[:, 3], -shift_h, shift_h + 1) + 1, 0, h + 1)
    columns = torch.clamp(columns + _below(u[:, 4], -shift_w, shift_w + 1) + 1, 0, w + 1)
    padded = nn.functional.pad(x, [1, 1, 1, 1, 0, 0, 0, 0])
    return padded.permute(0, 2, 3, 1)[batch, rows, columns].permute(0, 3, 1, 2).contiguous()


def _cutout(x: Tensor, u: Tensor, ratio: float = 0.5) -> Tensor:
    n, _, h, w = x.shape
    size_h, size_w = int(h * ratio + 0.5), int(w * ratio + 0.5)
    batch, rows, columns = _grid(n, size_h, size_w, x)
    offset_h = _below(u[:, 5], 0, h + (1 - size_h % 2))
    offset_w = _below(u[:, 6], 0, w + (1 - size_w % 2))
    rows = torch.clamp(rows + offset_h - size_h // 2, min=0, max=h - 1)
    columns = torch.clamp(columns + offset_w - size_w // 2, min=0, max=w - 1)
    mask = torch.ones(n, h, w, dtype=x.dtype, device=x.device)
    mask[batch, rows, columns] = 0
    return x * mask.unsqueeze(1)


CHANGES = {"color": _color, "translation": _translation, "cutout": _cutout}
NUMBERS = 7


def augment(x: Tensor, numbers: Tensor, changes: Sequence[str], image_channels: int | None = None) -> Tensor:
    """Maps [n, channels, h, w] with some of `CHANGES`, in that order, by numbers [n, 7], uniform in [0, 1).

    DiffAugment_pytorch.py (Zhao et al. 2020, arXiv 2006.10738), its random numbers replaced by given ones: brightness,
    saturation, contrast, translation and cutout, of rows and of columns. A whole number below k is floor(u·k). Of more
    channels than the image's, the first `image_channels`, those behind are moved and cut with it, and keep their
    colours.
    """
    for name in changes:
        if name == "color" and image_channels is not None:
            x = torch.cat([_color(x[:, :image_channels], numbers), x[:, image_channels:]], 1)
        else:
            x = CHANGES[name](x, numbers)
    return x


def faces_like(
    n: int, image_size: int, generator: torch.Generator, dtype: torch.dtype = torch.float32, channels: int = 3
) -> Tensor:
    """Smooth random images in [−1, 1], [n, channels, image_size, image_size]: stand-ins for photographs."""
    coarse = torch.randn(n, channels, 6, 6, generator=generator, dtype=dtype)
    smooth = nn.functional.interpolate(coarse, size=(image_size, image_size), mode="bicubic", align_corners=False)
    grain = torch.randn(n, channels, image_size, image_size, generator=generator, dtype=dtype)
    return torch.tanh(smooth + 0.1 * grain)
