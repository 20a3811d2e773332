#!/usr/bin/env python3
"""Makes tests/fixtures/pytorch/: small golden files by PyTorch, for tests that run without PyTorch.

    pip install torch numpy safetensors
    scripts/make_fixtures.py            # writes the files
    scripts/make_fixtures.py --check    # compares the files there with what this PyTorch computes

Everything is computed in f64 from inputs that are exact in f32, and stored rounded to f32.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

try:
    import torch
    from safetensors.torch import load_file, save_file
    from torch import Tensor, nn
    from torch.nn import functional as F
    from torch.nn.utils.parametrizations import spectral_norm
except ImportError as error:
    sys.exit(f"error: {error}. This script needs PyTorch: pip install torch numpy safetensors")

from reference_dcgan import Generator, UnetGenerator, projected
from replay_pytorch import Settings, record_run, round_to_f32, snapshot, write

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "pytorch"
ITERATIONS = (  # width and latent dimension keep a file below 500 kB
    Settings(image_size=32, width=6, latent_dim=16, batch_size=3, steps=2),
    Settings(image_size=64, width=4, latent_dim=8, batch_size=2, steps=1),
)
CONVOLUTIONS = (  # batch, input channels, output channels, input height, input width
    (1, 1, 3, 8, 8), (3, 3, 5, 10, 6), (3, 5, 1, 4, 4),
)
ACTIVATIONS = {  # by the names of `Activation` in src/model/arch.rs
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "relu": F.relu,
    "tanh": torch.tanh,
    "leaky_relu_tenth": lambda x: F.leaky_relu(x, 0.1),
}


LABELS = ((1, 1), (3, 2), (7, 5))  # batch, labels
IMAGES = ((1, 1, 3, 5), (3, 3, 4, 6))  # batch, channels, height, width
UNET = {"image_size": 32, "width": 2, "picture_channels": 1, "latent_dim": 3}


class Blocks:
    """Collects the tensors of blocks.safetensors, or of conditions.safetensors."""

    def __init__(self, seed: int) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.tensors: dict[str, Tensor] = {}

    def normal(self, *shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        """Normal numbers that are exact in f32, in f64, with a gradient wanted."""
        x = torch.randn(*shape, generator=self.random) * scale + shift
        return x.double().requires_grad_()

    def put(self, name: str, **tensors: Tensor) -> None:
        self.tensors |= snapshot(name, tensors)

    def backward(self, name: str, y: Tensor, **inputs: Tensor) -> None:
        """Stores inputs, y, a random dy, and the gradient `d<input>` of every input."""
        dy = self.normal(*y.shape).detach()
        gradients = torch.autograd.grad(y, list(inputs.values()), dy)
        self.put(name, y=y, dy=dy, **inputs, **{f"d{k}": g for k, g in zip(inputs, gradients)})

    def convolutions(self) -> None:
        for n, c, k, h, w in CONVOLUTIONS:
            case = f"n{n}_c{c}_k{k}"
            weight = self.normal(k, c, 4, 4, scale=0.2)
            x = self.normal(n, c, h, w)
            self.backward(f"conv_s2/{case}", F.conv2d(x, weight, stride=2, padding=1), x=x, w=weight)
            x = self.normal(n, c, h, w)
            self.backward(f"conv_s1/{case}", F.conv2d(x, weight), x=x, w=weight)
            weight = self.normal(c, k, 4, 4, scale=0.2)
            x = self.normal(n, c, h // 2, w // 2)
            y = F.conv_transpose2d(x, weight, stride=2, padding=1)
            self.backward(f"conv_transpose_s2/{case}", y, x=x, w=weight)
            x = self.normal(n, c, 1, 1)
            self.backward(f"conv_transpose_s1/{case}", F.conv_transpose2d(x, weight), x=x, w=weight)

    def convolutions_3x3(self) -> None:
        for n, c, k, h, w in CONVOLUTIONS:
            weight = self.normal(k, c, 3, 3, scale=0.2)
            x = self.normal(n, c, h // 2, w)
            self.backward(f"conv_same/n{n}_c{c}_k{k}", F.conv2d(x, weight, padding=1), x=x, w=weight)

    def batch_norm(self) -> None:
        for n, c, h, w in ((1, 3, 5, 3), (3, 1, 3, 3), (3, 5, 1, 1), (3, 5, 7, 4)):
            case = f"n{n}_c{c}_h{h}_w{w}"
            x, weight = self.normal(n, c, h, w, scale=2.0, shift=0.7), self.normal(c, scale=0.3, shift=1.0)
            bias, mean = self.normal(c), self.normal(c).detach()
            variance = self.normal(c).detach().abs() + 0.5
            variance = variance.float().double()
            statistics = {"running_mean": mean.clone(), "running_var": variance.clone()}
            y = F.batch_norm(x, mean, variance, weight, bias, training=True, momentum=0.1, eps=1e-5)
            self.backward(f"batch_norm_train/{case}", y, x=x, weight=weight, bias=bias)
            self.put(f"batch_norm_train/{case}", **statistics, running_mean_after=mean, running_var_after=variance)
            y = F.batch_norm(x, *statistics.values(), weight, bias, training=False, eps=1e-5)
            self.backward(f"batch_norm_eval/{case}", y, x=x, weight=weight, bias=bias)
            self.put(f"batch_norm_eval/{case}", **statistics)

    def activations(self) -> None:
        for n, c in ((1, 1), (3, 5)):
            for name, f in ACTIVATIONS.items():
                x = self.normal(n, c, 3, 7, scale=2.0).detach()
                x.view(-1)[:3] = torch.tensor([0.0, -0.0, 30.0])  # at the kink the gradient is that of the left side
                x.requires_grad_()
                self.backward(f"{name}/n{n}_c{c}", f(x), x=x)

    def loss(self) -> None:
        for n in (1, 3, 7):
            x = self.normal(n, scale=3.0).detach()
            if n == 7:
                x[:4] = torch.tensor([0.0, 100.0, -100.0, 20.0])  # where a form that is not stable breaks
            x.requires_grad_()
            for target in (0, 1):
                y = F.binary_cross_entropy_with_logits(x, torch.full_like(x, float(target)))
                self.put(f"bce_with_logits/n{n}_target{target}", x=x, y=y, dx=torch.autograd.grad(y, x)[0])


    def loss_with_labels(self) -> None:
        for n, k in LABELS:
            x = self.normal(n, 1 + k, scale=3.0).detach()
            labels = torch.randint(2, (n, k), generator=self.random).double() * 2 - 1
            if n == 7:
                # One-hot, and logits where a form that is not stable breaks: 0, 100, −100.
                labels = F.one_hot(torch.randint(k, (n,), generator=self.random), k).double()
                x[:3] = 0
                x[1, 0], x[2, 0] = 60.0, -60.0
                x[1, 1:], x[2, 1:] = 40.0, -40.0
            x.requires_grad_()
            for target in (0, 1):
                logits = projected(x, labels)
                y = F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(target)))
                self.put(f"bce_with_labels/n{n}_k{k}_target{target}", x=x, labels=labels, y=y,
                         dx=torch.autograd.grad(y, x)[0])

    def l1_loss(self) -> None:
        for n, c, h, w in IMAGES:
            x, truth = self.normal(n, c, h, w), self.normal(n, c, h, w).detach()
            truth.view(-1)[:2] = x.detach().view(-1)[:2]  # at the kink the gradient is 0
            y = F.l1_loss(x, truth)
            self.put(f"l1_loss/n{n}_c{c}_h{h}_w{w}", x=x, truth=truth, y=y, dx=torch.autograd.grad(y, x)[0])


def unet(path: Path, seed: int) -> None:
    """A U-Net whose weights are not the initial ones: its images in train mode, gradients, and buffers after it."""
    torch.manual_seed(seed)
    g = UnetGenerator(**UNET).double().train()
    with torch.no_grad():
        for p in g.parameters():
            if p.dim() == 1:
                p.add_(0.3 * torch.randn_like(p))
            else:
                p.mul_(8)
        for buffer in g.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.5 * torch.rand_like(buffer))
        round_to_f32(g)
    size = g.image_size
    picture, z = torch.randn(2, g.picture_channels, size, size), torch.randn(2, g.latent_dim)
    tensors = snapshot("before", g.state_dict()) | {"picture": picture, "z": z}
    y = g(picture.double(), z.double())
    dy = torch.randn_like(y).float()
    names, parameters = zip(*g.named_parameters())
    tensors |= snapshot("grad", dict(zip(names, torch.autograd.grad(y, parameters, dy.double()))))
    tensors |= snapshot("after", dict(g.named_buffers())) | {"y": y.detach().float(), "dy": dy}
    save_file({name: t.contiguous() for name, t in tensors.items()}, path)


def spectral(path: Path, seed: int) -> None:
    """A discriminator with spectral_norm and three outputs: two steps in train mode, its gradients, and eval mode."""
    torch.manual_seed(seed)
    width, size, outputs = 2, 32, 3
    layers: list[nn.Module] = []
    channels = [3, width, 2 * width, 4 * width]
    for c, k in zip(channels, channels[1:]):
        layers += [spectral_norm(nn.Conv2d(c, k, 4, 2, 1, bias=False).double()), nn.LeakyReLU(0.2)]
    layers.append(spectral_norm(nn.Conv2d(channels[-1], outputs, 4, 1, 0, bias=False).double()))
    d = nn.Module()
    d.main = nn.Sequential(*layers)
    d.train()
    with torch.no_grad():
        for p in d.parameters():
            p.mul_(3)
        for buffer in d.buffers():
            # Not the singular vectors of these weights, so that a step moves them.
            buffer.copy_(F.normalize(buffer + 0.3 * torch.randn_like(buffer), dim=0))
        round_to_f32(d)
    tensors = snapshot("before", d.state_dict())
    names, parameters = zip(*d.named_parameters())
    for step in ["first", "second", "eval"]:
        if step == "eval":
            d.eval()
        x, dy = torch.randn(4, 3, size, size), torch.randn(4, outputs)
        images = x.double().requires_grad_()
        y = d.main(images).flatten(1)
        dx, *gradients = torch.autograd.grad(y, (images, *parameters), dy.double())
        tensors |= {f"{step}/x": x, f"{step}/dy": dy, f"{step}/y": y.detach().float(), f"{step}/dx": dx.float()}
        tensors |= snapshot(f"{step}/grad", dict(zip(names, gradients)))
        tensors |= snapshot(f"{step}/after", dict(d.named_buffers()))
    save_file({name: t.contiguous() for name, t in tensors.items()}, path)


def sample(folder: Path, seed: int) -> None:
    """A generator whose running statistics are not the initial ones, latents, and its images in eval mode."""
    torch.manual_seed(seed)
    g = Generator(image_size=32, width=4, latent_dim=16).double().train()
    with torch.no_grad():
        for p in g.parameters():
            p.mul_(1 + 0.1 * torch.randn_like(p))
            if p.dim() == 1:
                p.add_(0.1 * torch.randn_like(p))
            else:
                p.mul_(8)
        for _ in range(20):
            g(1.2 * torch.randn(9, 16, dtype=torch.float64) + 0.1)
        round_to_f32(g)
        g.eval()
        z = torch.randn(5, 16)
        images = g(z.double()).float()
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: t.float() if t.is_floating_point() else t for name, t in g.state_dict().items()},
              folder / "generator.safetensors")
    save_file({"z": z}, folder / "latents.safetensors")
    save_file({"images": images}, folder / "images.safetensors")


README = """# Golden files made by PyTorch

Made by `scripts/make_fixtures.py` with PyTorch {torch} on a CPU; `scripts/make_fixtures.py --check` compares them with
what another PyTorch computes. Everything was computed in f64 from inputs that are exact in f32, and stored as f32
(`num_batches_tracked`: int64). Layouts are PyTorch's (NCHW; weights of convolutions [out, in, 4, 4], of transposed ones
[in, out, 4, 4]).

| file | what |
| --- | --- |
{iterations}
| `blocks.safetensors` | one group of tensors a case, below |
| `conditions.safetensors` | likewise, what only conditional networks have |
| `augment.safetensors` | by `scripts/make_augment_fixture.py`: images augmented as DiffAugment does it, names `<changes>/n_c_h_w/<tensor>`: images `x`, seven `numbers` an image, `y`, and the gradients `dy` that comes in and `dx` that goes out |
| `unet_32px_w2.safetensors` | a U-Net (`UnetGenerator` of `scripts/reference_dcgan.py`) at 32 px, width 2, of pictures of one channel and latent dimension 3, in train mode: its input `picture` [2, 1, 32, 32] and `z` [2, 3], its state_dict `before/…`, its images `y` [2, 3, 32, 32], the gradient `dy` that comes in, those of the weights `grad/…`, and its buffers `after/…` |
| `spectral_32px_w2.safetensors` | a discriminator with `torch.nn.utils.parametrizations.spectral_norm` at 32 px, width 2, with 3 outputs: its state_dict `before/…`, and for two steps in train mode, `first/…` and `second/…`, and one in eval mode, `eval/…`, images `x` [4, 3, 32, 32], outputs `y` [4, 3], the gradient `dy` that comes in, that of the images `dx`, those of the weights `grad/…`, and its buffers `after/…` |
| `sample_32px_w4/` | `generator.safetensors` (a state_dict, running statistics not the initial ones), `latents.safetensors` (`z` [5, 16]), `images.safetensors` (`images` [5, 3, 32, 32] in eval mode) |

Iteration files have the format of `train --record`; weights, buffers and gradients are rounded to f32 before they are
used further, so each iteration is exact from its recorded state. `scripts/replay_pytorch.py` passes them.

`blocks.safetensors`, names `<block>/<case>/<tensor>`; `dy` is the gradient that comes in, `dx` and so on those that
go out:

| block | case | tensors |
| --- | --- | --- |
| `conv_s2` (stride 2, padding 1), `conv_s1` (stride 1, no padding), 4×4 | `n<batch>_c<input channels>_k<output channels>` | `x w y dy dx dw` |
| `conv_transpose_s2`, `conv_transpose_s1`, likewise | the same | the same |
| `batch_norm_train` (eps 1e-5, momentum 0.1) | `n_c_h_w` | `x weight bias running_mean running_var y dy dx dweight dbias running_mean_after running_var_after` |
| `batch_norm_eval` | the same | without the last two |
| `conv_same` (3×3, stride 1, padding 1) | the same | the same |
| {activations} (slopes 0.2 of `leaky_relu`, 0.1 of `leaky_relu_tenth`) | `n_c` | `x y dy dx`; x holds 0 and −0 |
| `bce_with_logits` (mean over the batch) | `n<batch>_target<0 or 1>` | `x` logits, `y` the loss, `dx` its gradient |

`conditions.safetensors`:

| block | case | tensors |
| --- | --- | --- |
| `bce_with_labels` (mean over the batch) | `n<batch>_k<labels>_target<0 or 1>` | `x` outputs l [n, 1 + k], `labels` [n, k] (±1; one-hot in `n7`), `y` the loss of l0 + Σ labels_i·l_i, `dx` its gradient [n, 1 + k] |
| `l1_loss` (mean over all elements) | `n_c_h_w` | `x` and `truth` [n, c, h, w], the first two numbers of them equal, `y` the loss, `dx` its gradient (0 where both are equal) |
"""


def name_of(s: Settings) -> str:
    return f"iteration_{s.image_size}px_w{s.width}_b{s.batch_size}.safetensors"


def make(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for s in ITERATIONS:
        write(folder / name_of(s), record_run(s, seed, torch.float64), s)
    blocks = Blocks(seed)
    blocks.convolutions()
    blocks.batch_norm()
    blocks.activations()
    blocks.loss()
    blocks.convolutions_3x3()
    save_file({name: t.contiguous() for name, t in blocks.tensors.items()}, folder / "blocks.safetensors")
    conditions = Blocks(seed)
    conditions.loss_with_labels()
    conditions.l1_loss()
    save_file({name: t.contiguous() for name, t in conditions.tensors.items()}, folder / "conditions.safetensors")
    unet(folder / "unet_32px_w2.safetensors", seed)
    spectral(folder / "spectral_32px_w2.safetensors", seed)
    sample(folder / "sample_32px_w4", seed)
    iterations = "\n".join(
        f"| `{name_of(s)}` | {s.steps} iteration{'s' * (s.steps > 1)} at {s.image_size} px, width {s.width}, latent "
        f"dimension {s.latent_dim}, batch {s.batch_size} |" for s in ITERATIONS
    )
    text = README.format(torch=torch.__version__.split("+")[0], iterations=iterations,
                         activations=", ".join(f"`{name}`" for name in ACTIVATIONS))
    (folder / "README.md").write_text(text)


def compare(folder: Path, fresh: Path, tolerance: float) -> bool:
    """Whether every file in `folder` has the tensors of its counterpart in `fresh`, within a relative L2 tolerance."""
    good = True
    for path in sorted(fresh.rglob("*.safetensors")):
        name = path.relative_to(fresh)
        if not (folder / name).is_file():
            print(f"FAIL {name}: missing")
            good = False
            continue
        want, got = load_file(path), load_file(folder / name)
        worst, which = 0.0, ""
        for key in want.keys() | got.keys():
            if key not in want or key not in got or want[key].shape != got[key].shape:
                worst, which = float("inf"), key
                break
            norm = torch.linalg.vector_norm(want[key].double()).item()
            error = torch.linalg.vector_norm(want[key].double() - got[key].double()).item() / max(norm, 1e-300)
            if error > worst:
                worst, which = error, key
        good &= worst <= tolerance
        print(f"{'ok  ' if worst <= tolerance else 'FAIL'} {name}: largest relative difference {worst:.1e} {which}")
    return good


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", type=Path, default=FOLDER, help="folder to write to (default: tests/fixtures/pytorch)")
    ap.add_argument("--seed", type=int, default=2016, help="default %(default)s")
    ap.add_argument("--check", action="store_true", help="write nothing; compare the files there with fresh ones")
    ap.add_argument("--tolerance", type=float, default=1e-6, help="of --check, relative L2 (default %(default)g)")
    a = ap.parse_args()
    if not a.check:
        make(a.out, a.seed)
        for path in sorted(a.out.rglob("*.safetensors")):
            print(f"{path.stat().st_size:8d} bytes  {path.relative_to(a.out)}")
        return 0
    with tempfile.TemporaryDirectory() as fresh:
        make(Path(fresh), a.seed)
        good = compare(a.out, Path(fresh), a.tolerance)
    print("PASS" if good else "FAIL")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
