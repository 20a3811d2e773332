#!/usr/bin/env python3
"""Makes tests/fixtures/inception/layers.safetensors: what torch-fidelity's Inception gives, layer by layer.

Of weights by a formula that the test computes too, since 24 million of them are too many for the repository, and on two
images by that formula. Of its input, from images of several sizes, of every convolution (behind batch norm and ReLU), every pool and every block there are 64
elements, the mean, and the root of the mean square; of the features all; of the weights the digest that
scripts/convert-inception computes. Needs torch and torch-fidelity 0.4.
"""

import runpy
import tempfile
from pathlib import Path

import numpy
import torch
from safetensors.torch import save_file
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

CONVERT = Path(__file__).parent / "convert-inception"
TO = Path(__file__).parent.parent / "tests/fixtures/inception/layers.safetensors"
SIZE = 40
SAMPLES = 64


def hashed(stream, count):
    """`count` numbers of 32 bits, as `hashed` of tests/inception.rs."""
    x = numpy.arange(count, dtype=numpy.uint32) * numpy.uint32(0x9E3779B9) + numpy.uint32(stream * 0x85EBCA6B % 2**32)
    x ^= x >> 16
    x *= numpy.uint32(0x7FEB352D)
    x ^= x >> 15
    x *= numpy.uint32(0x846CA68B)
    return x ^ (x >> 16)


def uniform(stream, count):
    """In [-1, 1), multiples of 2⁻²³, which f32 holds."""
    return (hashed(stream, count) >> 8).astype(numpy.float32) / numpy.float32(2**23) - numpy.float32(1)


def weights(shapes):
    """A tensor a name, in the names' order: weights as He et al. have it, batch norm near the identity."""
    out = {}
    for stream, (name, shape) in enumerate(sorted(shapes.items())):
        values = uniform(stream, int(numpy.prod(shape)))
        if name.endswith("bn.running_var") or name.endswith("bn.weight"):
            values = numpy.float32(1) + numpy.float32(0.25) * values
        elif len(shape) > 1:
            values = numpy.float32((6 / numpy.prod(shape[1:])) ** 0.5) * values
        else:
            values = numpy.float32(0.25) * values
        out[name] = torch.from_numpy(values.reshape(shape))
    return out


def extractor():
    """The network of those weights."""
    torch.set_num_threads(2)
    # Its own first weights are never used: they are too slow to draw.
    torch.nn.init.kaiming_uniform_ = torch.nn.init.uniform_ = lambda t, *_, **__: t
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        # The shapes are the class's own: what the file lacks is what it says.
        torch.save({}, file.name)
        strict = torch.nn.Module.load_state_dict
        torch.nn.Module.load_state_dict = lambda self, state, **_: strict(self, state, strict=False)
        network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=file.name)
        torch.nn.Module.load_state_dict = strict
        shapes = {n: t.shape for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
        state = weights({name: tuple(shape) for name, shape in shapes.items()})
        counts = {n: t for n, t in network.state_dict().items() if n.endswith("num_batches_tracked")}
        torch.save({**state, **counts}, file.name)
        return FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=file.name)


def noise(size):
    """An image [h][w][c], u8."""
    return (hashed(1000, size * size * 3) >> 24).astype(numpy.uint8).reshape(size, size, 3)


def images():
    """Two images [n][c][h][w], u8: a smooth one, and noise."""
    y, x = numpy.mgrid[0:SIZE, 0:SIZE]
    smooth = numpy.stack([(3 * x + 2 * y) % 256, 6 * y, 255 - 6 * x], axis=2).astype(numpy.uint8)
    return torch.from_numpy(numpy.stack([smooth, noise(SIZE)]).transpose(0, 3, 1, 2).copy())


def some(values):
    """Some elements, the mean, and the root of the mean square."""
    flat = values.double().flatten()
    places = [(k * 2654435761 + 12345) % flat.numel() for k in range(SAMPLES)]
    root = flat.square().mean().sqrt()
    return torch.cat([flat[places], flat.mean()[None], root[None]]).float()


def main():
    network = extractor()
    tensors = {}

    def keep(name):
        def hook(_module, _input, output):
            tensors[name] = some(output)
        return hook

    for name, module in network.named_modules():
        if type(module).__name__ in ("BasicConv2d", "MaxPool2d") or name.startswith("Mixed") and "." not in name:
            module.register_forward_hook(keep(name))
    (features,) = network(images())
    for size in (1, 8, 33, 256, 299, 420):
        x = torch.from_numpy(noise(size).transpose(2, 0, 1).copy()).float()[None]
        x = interpolate_bilinear_2d_like_tensorflow1x(x, size=(299, 299), align_corners=False)
        tensors[f"resized {size}"] = some((x - 128) / 128)
    tensors["features"] = features.float().contiguous()
    for name, values in tensors.items():
        print(f"{name:<28} rms {values[-1].item():.3f}" if values.dim() == 1 else name)
    TO.parent.mkdir(parents=True, exist_ok=True)
    state = {n: t.numpy() for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    save_file(tensors, TO, {"digest": runpy.run_path(str(CONVERT))["digest"](state)})
    print(f"{TO.name}: {TO.stat().st_size} bytes")


if __name__ == "__main__":
    main()
