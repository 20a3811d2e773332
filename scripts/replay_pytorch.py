#!/usr/bin/env python3
"""Checks a file of `dcgan-cuda train --record` in PyTorch, in f64, each iteration from its recorded state.

    pip install torch numpy safetensors
    scripts/replay_pytorch.py FILE.safetensors

For every iteration the recorded weights, buffers, images and z go through the iteration of pytorch/examples' DCGAN
(D on real, D on G(z), Adam step of D; D on G(z) with the new D, Adam step of G), and these are compared:

  losses       relative error of loss_d_real, loss_d_fake and loss_g (of the hinge's against the mean of |logit|)
  gradients    relative L2 error of each tensor. Where an activation rounds to the other side of a (Leaky)ReLU's kink,
               both slopes are right, and the choice moves every gradient before it by some 1e-3: at 64 px, width 64,
               batch 16 that happens to PyTorch's own f32 in most iterations. So the errors are taken twice: as they
               are (`raw`), and with kinks resolved: inputs of a (Leaky)ReLU within --kink (relative to the root mean
               square of that layer) of zero take the other slope where that brings the gradients nearer to the
               recorded ones. The median and a tight bound on every tensor hold for the latter
  Adam         the step is replayed from the recorded gradients, with moments accumulated in f64 from iteration 0, and
               compared with the recorded weights after it by two measures, worst tensor of each:
               `weights`: L2 error against the L2 norm of the new weights. Rounding the weights to f32 alone costs 3e-8,
               but a whole update is only some 1e-2 of a convolution's norm and 1e-4 of batch norm's weight
               `update`: L2 error against the L2 norm of the update itself, counting of each element only what goes
               beyond half a unit in the last place of its recorded f32 value, which no f32 weight can avoid
  buffers      relative L2 error of batch norm's running mean and variance after the iteration (D's move three times an
               iteration, G's once), and num_batches_tracked exactly

A run with labels (`condition` labels in the metadata) has `y` in every iteration: the fake images are made with the y
of the real ones, and D's logits are projected on it. One with pictures (`condition` picture) has `picture`: G is a
U-Net, D gives a logit a patch, and G's loss is loss_g + l1·loss_l1, with loss_l1 the mean of |G − real|. That has a
kink where both are equal: there its derivative is any of −1, 0 and 1, and it is resolved with the other kinks, all
together by least squares. The innermost of the U-Net's maps may be so small that one number of it moves gradients by
more than other networks' do: the limit of raw errors is at least 2/√n for the n numbers of it. In a half type L1's
signs are so often rounded to the other side that a tensor's gain (below) may be a third of autocast's error of it.

What a run's options change of the iteration is in the metadata, where it is not the reference's:

  arch, d_norm  whose layers the networks have, and how D is normalised. With spectral norm D's buffers are its singular
                vectors; every forward pass moves them once, and D's step has one, of the real and the fake images
                together (without batch norm that is no other than two)
  loss          hinge, or relativistic: there loss_d_real and loss_d_fake are both the pairs' loss, which D's step has
                once, and G's step shows D the real images beside the fake ones
  augment       what D sees is changed by the numbers `augment/…` (DiffAugment; `augment` of reference_dcgan.py)
  r1, r2        penalties: r·N/2 times the mean of ‖∇D‖², which is `norm_real` and `norm_fake`, every N-th iteration
                (`penalty_every`), by torch.autograd.grad with create_graph of an image's summed logits by what D sees
                of it. Kinks move these too, so they are compared once those are resolved. A D without any norm has such
                small gradients at first (‖∇D‖² some 1e-6) that those of its weights say little of a penalty, unless r1
                and r2 are large: record with `--r1 100000 --r2 100000`, or with spectral norm

A file recorded in bf16 or fp16 (`precision` in its metadata) cannot be that near. Its errors against f64 are set beside
those of PyTorch's own autocast in that type, from the same recorded state (fp16 with a loss scale, halved from 65536
until every gradient is finite, as GradScaler does), and may be --factor times as large and a floor more: a quarter of
the type's unit roundoff (bf16 2^-8, fp16 2^-11), since a single number may come out right by luck. So are compared

  losses       the largest relative error of all
  gradients    the relative L2 error of each tensor (its largest of all iterations) with autocast's of the same tensor,
               or of its worst where there are too few elements for that to be more than chance; half as much again is
               allowed here, since one activation on the other side of a kink may move a tensor. The median of them. And
               the gain, |<recorded, f64> / <f64, f64> - 1|, of convolutions, whose many terms leave little of the
               rounding in it, so that a wrong factor shows
  norms        of D's gradients, likewise; half as much again is allowed, since activations on the other side of a kink
               move them
  buffers      the largest relative L2 error of all; singular vectors are f32 in every precision (so autocast is off
               where PyTorch computes them), with the limit of f32
  Adam         as above and with the same limits: weights and moments are f32 in every precision. In fp16 an iteration
               whose gradients are not finite must leave the weights as they were and count for nothing

Exit code 0: PASS, 1: FAIL, 2: the file cannot be checked (missing tensors, wrong shapes, NaN, …) or wrong usage.
`--make-own` writes such a file from PyTorch in f32, and `--self-test` shows that this check passes it and fails it with
any of a list of mistakes in it.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

try:
    import numpy as np
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save
    from torch import Tensor, nn
except ImportError as error:
    sys.exit(f"error: {error}. This script needs PyTorch: pip install torch numpy safetensors")

from reference_dcgan import (
    ARCHS, CHANGES, CHANNEL_CAP, IMAGE_SIZES, NORMS, NUMBERS, Discriminator, Generator, PatchDiscriminator, UnetBlock,
    UnetGenerator, augment, faces_like, projected,
)

LOSSES = ("loss_d_real", "loss_d_fake", "loss_g")
INTEGERS = ("image_size", "width", "latent_dim", "batch_size", "steps")
REALS = ("lr_g", "lr_d", "beta1", "beta2", "eps")
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
FEW = 64  # elements; the error of some 8 is twice autocast's in one run of ten, though both round alike
SINGLE = 1.5  # times the factor, for single gradient tensors
CONDITIONS = ("none", "labels", "picture")
OBJECTIVES = ("bce", "hinge", "relativistic")
SINGULAR = ("._u", "._v")  # what the names of spectral norm's buffers end in
KINK = 4e-6  # some sixty roundings of f32, as sums of thousands of terms may have
RESOLVED = 5e-6  # gradients that agree this well are not searched for kinks


class RecordError(Exception):
    """The file cannot be checked; the message says why."""


@dataclass(frozen=True)
class Settings:
    """What the file's metadata says of the run."""

    image_size: int
    width: int
    latent_dim: int
    batch_size: int
    steps: int
    lr_g: float = 2e-4
    lr_d: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    eps: float = 1e-8
    precision: str = "fp32"
    channels: int = 3
    condition: str = "none"
    labels: int = 0
    picture: int = 0
    l1: float = 100.0
    arch: str = "dcgan"
    d_norm: str = "batch"
    loss: str = "bce"
    augment: str = ""
    r1: float = 0.0
    r2: float = 0.0
    penalty_every: int = 1

    def metadata(self) -> dict[str, str]:
        """As in a file: what concerns a condition is only where there is one, and options where they are set."""
        left_out: tuple[str, ...] = ("condition", "labels", "picture", "l1")
        if self.condition != "none":
            left_out = ("picture", "l1") if self.condition == "labels" else ("labels",)
        left_out += tuple(name for name in OPTIONS if getattr(self, name) == OPTIONS[name])
        return {name: str(value) for name, value in vars(self).items() if name not in left_out}

    def losses(self) -> tuple[str, ...]:
        return (*LOSSES, "loss_l1") if self.condition == "picture" else LOSSES

    def changes(self) -> list[str]:
        """What is changed of the images that D sees."""
        return self.augment.split(",") if self.augment else []

    def augmented(self) -> tuple[str, ...]:
        """Whose numbers an iteration has: images of which step."""
        g_real = ("g_real",) if self.loss == "relativistic" else ()
        return ("d_real", "d_fake", "g_fake", *g_real) if self.augment else ()

    def penalties(self, step: int | None = None) -> dict[str, float]:
        """What the mean ‖∇D‖² of real and of fake images counts in D's loss, in that iteration or in any."""
        weights = {"norm_real": self.r1, "norm_fake": self.r2}
        here = step is None or step % self.penalty_every == 0
        return {name: r * self.penalty_every / 2 for name, r in weights.items() if r > 0 and here}

    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what an iteration is given, by name."""
        shapes: dict[str, tuple[int, ...]] = {
            "real": (self.batch_size, self.channels, self.image_size, self.image_size)
        }
        if self.latent_dim:
            shapes["z"] = (self.batch_size, self.latent_dim)
        if self.condition == "labels":
            shapes["y"] = (self.batch_size, self.labels)
        if self.condition == "picture":
            shapes["picture"] = (self.batch_size, self.picture, self.image_size, self.image_size)
        return shapes


OPTIONS = {name: getattr(Settings, name) for name in
           ("arch", "d_norm", "loss", "augment", "r1", "r2", "penalty_every")}


@dataclass(frozen=True)
class Limits:
    losses: float = 1e-5
    gradient_median: float = 2e-5
    gradient_worst: float = 3e-2
    gradient_resolved: float = 1e-4
    adam: float = 1e-5
    buffers: float = 1e-5
    factor: float = 2.0  # of bf16 and fp16: how much worse than autocast


# ---------------------------------------------------------------------------------------------------- reading


class Record:
    """A record file: every tensor is asked for by name and shape, and must be finite."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise RecordError(f"{path}: no such file")
        try:
            self._file = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise RecordError(f"{path}: not a safetensors file ({error})") from error
        self.names = set(self._file.keys())
        self.settings = self._settings(self._file.metadata() or {})
        self._used: set[str] = set()

    def _settings(self, metadata: dict[str, str]) -> Settings:
        missing = [name for name in (*INTEGERS, *REALS, "precision") if name not in metadata]
        if missing:
            raise RecordError(f"{self.path}: the metadata lacks {', '.join(missing)}")
        try:
            values: dict[str, int | float] = {name: int(metadata[name]) for name in INTEGERS}
            # Not in the files of the time when there was nothing else.
            values["channels"] = int(metadata.get("channels", "3"))
            values |= {name: float(metadata[name]) for name in REALS}
            values |= {name: int(metadata.get(name, "0")) for name in ("labels", "picture")}
            values["l1"] = float(metadata.get("l1", "100"))
            values |= {name: float(metadata.get(name, "0")) for name in ("r1", "r2")}
            values["penalty_every"] = int(metadata.get("penalty_every", "1"))
        except ValueError as error:
            raise RecordError(f"{self.path}: metadata: {error}") from error
        if metadata["precision"] not in ("fp32", *HALVES):
            raise RecordError(f"{self.path}: metadata: unknown precision {metadata['precision']}")
        condition = metadata.get("condition", "none")
        if condition not in CONDITIONS:
            raise RecordError(f"{self.path}: metadata: unknown condition {condition}")
        words = {name: metadata.get(name, str(OPTIONS[name])) for name in ("arch", "d_norm", "loss", "augment")}
        for name, known in (("arch", ARCHS), ("d_norm", NORMS), ("loss", OBJECTIVES)):
            if words[name] not in known:
                raise RecordError(f"{self.path}: metadata: unknown {name} {words[name]}")
        if words["augment"] == "none":
            words["augment"] = ""
        changes = words["augment"].split(",") if words["augment"] else []
        if changes != [name for name in CHANGES if name in changes]:
            raise RecordError(f"{self.path}: metadata: augment {words['augment']} is not of {', '.join(CHANGES)}, in "
                              "that order")
        s = Settings(**values, precision=metadata["precision"], condition=condition, **words)  # type: ignore[arg-type]
        first = min((n for n in self.names if n.startswith("step/")), default="").split("/")[1:2]
        if metadata.get("first_step", "0") != "0" or first not in ([], ["000000"]):
            raise RecordError(
                f"{self.path}: starts at iteration {metadata.get('first_step', first[0])}, where Adam's moments "
                "are not zero, and they are not in the file; record a fresh run"
            )
        needed = {"none": s.latent_dim, "labels": min(s.latent_dim, s.labels), "picture": s.picture}[condition]
        if (s.image_size not in IMAGE_SIZES or min(s.width, s.batch_size, s.steps, s.channels, needed) < 1
                or min(s.latent_dim, s.labels, s.picture) < 0):
            raise RecordError(f"{self.path}: metadata: impossible dimensions: {s}")
        if (s.labels > 0) != (condition == "labels") or (s.picture > 0) != (condition == "picture"):
            raise RecordError(f"{self.path}: metadata: condition {condition} with {s.labels} labels and a picture of "
                              f"{s.picture} channels")
        if not all(math.isfinite(getattr(s, name)) for name in (*REALS, "l1", "r1", "r2")):
            raise RecordError(f"{self.path}: metadata: a setting is not finite: {s}")
        if min(s.r1, s.r2) < 0 or s.penalty_every < 1 or (s.penalties() and s.d_norm == "batch"):
            raise RecordError(f"{self.path}: metadata: impossible penalties: r1 {s.r1}, r2 {s.r2} every "
                              f"{s.penalty_every}, D normalised by {s.d_norm}")
        if s.arch == "sndcgan" and condition == "picture":
            raise RecordError(f"{self.path}: metadata: an sndcgan with pictures")
        return s

    def tensor(self, name: str, *shapes: tuple[int, ...], finite: bool = True) -> Tensor:
        """The tensor `name`, which must have one of `shapes` (where given)."""
        if name not in self.names:
            raise RecordError(f"{self.path}: tensor {name} is missing")
        t = self._file.get_tensor(name)
        if shapes and tuple(t.shape) not in shapes:
            raise RecordError(f"{self.path}: tensor {name} has shape {tuple(t.shape)} instead of {shapes[0]}")
        if finite and not torch.isfinite(t).all():
            raise RecordError(f"{self.path}: tensor {name} has values that are not finite (NaN or infinity)")
        self._used.add(name)
        return t

    def like(self, prefix: str, shapes: dict[str, tuple[int, ...]], finite: bool = True) -> dict[str, Tensor]:
        return {name: self.tensor(f"{prefix}/{name}", shape, finite=finite) for name, shape in shapes.items()}

    def unused(self) -> list[str]:
        return sorted(self.names - self._used)


def state_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in network.state_dict().items()}


def parameter_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in network.named_parameters()}


def networks(s: Settings, cap: int | None = None) -> tuple[nn.Module, nn.Module]:
    """D and G of these dimensions, D first."""
    caps = {} if cap is None else {"channel_cap": cap}
    if s.condition == "picture":
        return (PatchDiscriminator(s.width, s.picture, image_channels=s.channels, norm=s.d_norm, **caps),
                UnetGenerator(s.image_size, s.width, s.picture, s.latent_dim, s.channels, **caps))
    both = {"image_channels": s.channels, "labels": s.labels, "arch": s.arch, **caps}
    return (Discriminator(s.image_size, s.width, norm=s.d_norm, **both),
            Generator(s.image_size, s.width, s.latent_dim, **both))


def build(record: Record, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """Networks of the recorded dimensions; the unconditional ones' cap on channels is read off the weights."""
    s, cap = record.settings, None
    if s.condition != "picture":
        name = "step/000000/before/G/main.0.weight"
        first = record.tensor(name)
        if first.dim() != 4:
            raise RecordError(f"{record.path}: tensor {name} has {first.dim()} dimensions instead of 4")
        cap = first.shape[1]
    d, g = networks(s, cap)
    return d.to(dtype).train(), g.to(dtype).train()


@dataclass(frozen=True)
class Batch:
    """What an iteration is given: `z` where there is one, `y` or `picture` where there is a condition, and the
    `numbers` by which images are changed, by whose they are."""

    real: Tensor
    z: Tensor | None = None
    y: Tensor | None = None
    picture: Tensor | None = None
    numbers: dict[str, Tensor] = field(default_factory=dict)

    def to(self, dtype: torch.dtype, device: torch.device | None = None) -> Batch:
        """The numbers stay what they are."""
        return Batch(**{name: t.to(device, dtype) for name, t in vars(self).items() if isinstance(t, Tensor)},
                     numbers={name: t.to(device) for name, t in self.numbers.items()})

    def tensors(self) -> dict[str, Tensor]:
        """As in a file."""
        return ({name: t for name, t in vars(self).items() if isinstance(t, Tensor)}
                | {f"augment/{name}": t for name, t in self.numbers.items()})

    def of_g(self) -> tuple[Tensor | None, ...]:
        """The inputs of G."""
        if self.picture is not None:
            return self.picture, self.z
        return (self.z,) if self.y is None else (self.z, self.y)

    def of_d(self) -> tuple[Tensor, ...]:
        """The inputs of D behind the images."""
        return tuple(t for t in (self.y, self.picture) if t is not None)

    def l1(self, fake: Tensor) -> Tensor | None:
        """How far G's images are from the real ones, in a run with pictures."""
        return None if self.picture is None else (fake - self.real).abs().mean()


def batch(record: Record, at: str) -> Batch:
    s = record.settings
    numbers = record.like(f"{at}/augment", {name: (s.batch_size, NUMBERS) for name in s.augmented()})
    for name, t in numbers.items():
        if t.min() < 0 or t.max() >= 1:
            raise RecordError(f"{record.path}: tensor {at}/augment/{name} has numbers outside of [0, 1)")
    return Batch(**record.like(at, s.inputs()), numbers=numbers)


# ------------------------------------------------------------------------------------------------ the iteration


def seen(s: Settings, d: nn.Module, images: Tensor, given: Batch, part: str) -> Tensor:
    """What D's first layer is given of these images: changed, and with the picture."""
    x = d.inputs(images, *given.of_d())
    return augment(x, given.numbers[part], s.changes(), s.channels) if part in given.numbers else x


def logits_of(s: Settings, d: nn.Module, inputs: list[Tensor], given: Batch) -> list[Tensor]:
    """D's logits of each of the inputs: in passes of their own where batch norm keeps them apart, else in one."""
    if s.d_norm == "batch":
        return [d.outputs(d.main(x), x, *given.of_d()) for x in inputs]
    x = torch.cat(inputs)
    together = d.outputs(d.main(x), x, *(torch.cat([t] * len(inputs)) for t in given.of_d()))
    return list(together.chunk(len(inputs)))


def bce(logits: Tensor, target: float) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def losses_of_d(loss: str, real: Tensor, fake: Tensor, relu: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    """loss_d_real, loss_d_fake, and what D's step has of them."""
    if loss == "relativistic":
        pairs = bce(real - fake, 1.0)
        return pairs, pairs, pairs
    both = ((relu(1 - real).mean(), relu(1 + fake).mean()) if loss == "hinge" else (bce(real, 1.0), bce(fake, 0.0)))
    return *both, sum(both)


def loss_of_g(loss: str, logits: list[Tensor]) -> Tensor:
    """Of the logits of fake images, and of real ones where these are in pairs."""
    if loss == "relativistic":
        fake, real = logits
        return bce(fake - real, 1.0)
    return -logits[0].mean() if loss == "hinge" else bce(logits[0], 1.0)


def mean_square(logits: Tensor, x: Tensor) -> Tensor:
    """The mean over images of ‖∇D‖², D the sum of an image's logits, by what D sees of it; can be differentiated."""
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return gradient.square().sum() / len(x)


@dataclass
class StepOfD:
    """D's step up to its loss."""

    losses: tuple[Tensor, Tensor]
    without_penalties: Tensor
    penalties: dict[str, float]
    # Logits and what D saw.
    of: dict[str, tuple[Tensor, Tensor]]

    def norms(self) -> dict[str, Tensor]:
        """What is penalised; anew, for the slopes that there are by now."""
        return {name: mean_square(*self.of[name]) for name in self.penalties}

    def loss(self) -> Tensor:
        return self.without_penalties + sum(self.penalties[name] * norm for name, norm in self.norms().items())


def step_of_d(
    s: Settings, d: nn.Module, fake: Tensor, given: Batch, step: int, relu: Callable[[Tensor], Tensor] = torch.relu
) -> StepOfD:
    inputs = [seen(s, d, given.real, given, "d_real"), seen(s, d, fake.detach(), given, "d_fake")]
    if s.penalties(step):
        inputs = [x.detach().requires_grad_() for x in inputs]
    logits = [x.to(given.real.dtype) for x in logits_of(s, d, inputs, given)]
    of_real, of_fake, whole = losses_of_d(s.loss, *logits, relu)
    of = dict(zip(("norm_real", "norm_fake"), zip(logits, inputs)))
    return StepOfD((of_real, of_fake), whole, s.penalties(step), of)


def step_of_g(s: Settings, d: nn.Module, fake: Tensor, given: Batch) -> tuple[Tensor, Tensor]:
    """loss_g, and what its errors are measured by: itself; the mean of |logit| for the hinge's, where logits of either
    sign cancel."""
    inputs = [seen(s, d, fake, given, "g_fake")]
    if s.loss == "relativistic":
        inputs.append(seen(s, d, given.real, given, "g_real"))
    logits = [x.to(given.real.dtype) for x in logits_of(s, d, inputs, given)]
    loss = loss_of_g(s.loss, logits)
    return loss, (logits[0].abs().mean() if s.loss == "hinge" else loss).detach()


# -------------------------------------------------------------------------------------------------- measuring


def relative(got: Tensor, want: Tensor, size: Tensor | None = None) -> float:
    """Relative L2 error in f64, against `want`, or `size` where that is given."""
    difference = torch.linalg.vector_norm(got.double() - want.double()).item()
    norm = torch.linalg.vector_norm((want if size is None else size).double()).item()
    return difference / norm if norm > 0 else (0.0 if difference == 0 else math.inf)


class Adam:
    """Adam as `torch.optim.Adam`, in f64, fed with recorded gradients."""

    def __init__(self, lr: float, s: Settings) -> None:
        self.lr, self.beta1, self.beta2, self.eps = lr, s.beta1, s.beta2, s.eps
        self.t = 0
        self.m: dict[str, Tensor] = {}
        self.v: dict[str, Tensor] = {}

    def updates(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        """What this step adds to the weights."""
        self.t += 1
        out = {}
        for name, gradient in gradients.items():
            g = gradient.double()
            self.m[name] = self.beta1 * self.m.get(name, torch.zeros_like(g)) + (1 - self.beta1) * g
            self.v[name] = self.beta2 * self.v.get(name, torch.zeros_like(g)) + (1 - self.beta2) * g * g
            m_hat = self.m[name] / (1 - self.beta1**self.t)
            v_hat = self.v[name] / (1 - self.beta2**self.t)
            out[name] = -self.lr * m_hat / (v_hat.sqrt() + self.eps)
        return out


def gain(got: Tensor, want: Tensor) -> float:
    """How far the factor by which `got` is `want`, in the least-squares sense, is from 1."""
    got, want = got.double().flatten(), want.double().flatten()
    square = torch.dot(want, want).item()
    return abs(torch.dot(got, want).item() / square - 1) if square > 0 else 0.0


def adam_errors(before: Tensor, update: Tensor, after: Tensor) -> tuple[float, float]:
    """Error of the recorded new weights against their norm, and beyond f32 rounding against the update's norm."""
    want = before.double() + update
    half_ulp = 0.5 * np.spacing(np.abs(after.float().numpy())).astype(np.float64)
    beyond = ((after.double() - want).abs() - torch.from_numpy(np.asarray(half_ulp))).clamp(min=0)
    norm, excess = torch.linalg.vector_norm(update).item(), torch.linalg.vector_norm(beyond).item()
    return relative(after, want), excess / norm if norm > 0 else (0.0 if excess == 0 else math.inf)


@dataclass
class Iteration:
    """Errors of one iteration, by tensor name."""

    losses: dict[str, float] = field(default_factory=dict)
    norms: dict[str, float] = field(default_factory=dict)
    raw_gradients: dict[str, float] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)
    flips: int = 0
    gains: dict[str, float] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    adam_weights: dict[str, float] = field(default_factory=dict)
    adam_update: dict[str, float] = field(default_factory=dict)
    buffers: dict[str, float] = field(default_factory=dict)


def worst(errors: dict[str, float]) -> tuple[float, str]:
    name = max(errors, key=lambda k: errors[k])
    return errors[name], name


class Slope(torch.autograd.Function):
    """A (Leaky)ReLU whose derivative is a tensor that may be changed between backward passes."""

    @staticmethod
    def forward(ctx, x: Tensor, slopes: Tensor) -> Tensor:  # type: ignore[override]
        ctx.slopes = slopes
        return x * slopes

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return dy * ctx.slopes, None


@dataclass
class Kink:
    """An element within rounding of a kink, `distance` from it.

    It takes its other slope by `slopes[i] = both − slopes[i]` of every choice (slopes, i, both). At an L1's kink the
    slope may be halfway between the two, 0.
    """

    distance: float
    choices: list[tuple[Tensor, int, float]]
    of_l1: bool = False

    def turn(self) -> None:
        for slopes, i, both in self.choices:
            slopes[i] = both - slopes[i]


class Kinked(nn.Module):
    """A ReLU (`slope` 0) or LeakyReLU that notes where its input comes within rounding of zero.

    A ReLU of a U-Net gets [skip, up], and the skip is also the input of `skip_of`, further down: whoever computes it
    once takes the same side in both, so these kinks are one.
    """

    def __init__(self, slope: float, reach: float, kinks: list[Kink], skip_of: Kinked | None = None) -> None:
        super().__init__()
        self.slope, self.reach, self.kinks = slope, reach, kinks
        # Of the last forward pass.
        self.shape = torch.Size()
        self.noted: list[Kink] = []
        # In a list, lest it become a module inside of this one.
        self.skip_of = [] if skip_of is None else [skip_of]

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        slopes = torch.where(x > 0, torch.ones_like(x), torch.full_like(x, self.slope)).detach()
        distance = (x.detach().abs() / x.detach().square().mean().sqrt())
        for skip_of in self.skip_of:
            skip = skip_of.shape[1]
            for kink in skip_of.noted:
                at = np.unravel_index(kink.choices[0][1], skip_of.shape)
                kink.choices.append((slopes.view(-1), int(np.ravel_multi_index(at, x.shape)), 1 + self.slope))
            distance[:, :skip] = math.inf
        distance = distance.flatten()
        # Where images are cut or moved away there may be nothing but zeros, in every type: that is no rounding.
        near = (distance < self.reach) & (x.detach().flatten() != 0)
        self.noted = [Kink(distance[i].item(), [(slopes.view(-1), i, 1 + self.slope)])
                      for i in near.nonzero().flatten().tolist()]
        self.shape = x.shape
        self.kinks += self.noted
        return Slope.apply(x, slopes)


def with_kinks(network: nn.Module, reach: float, kinks: list[Kink]) -> None:
    """Replaces the activations of a network with ones that note their kinks in `kinks`."""

    def note(layers: nn.Sequential) -> None:
        inside: UnetBlock | None = None
        for i, layer in enumerate(layers):
            if isinstance(layer, UnetBlock):
                inside = layer
                note(layer.model)
            elif isinstance(layer, (nn.ReLU, nn.LeakyReLU)):
                # The first layer of a level is the one that its input goes through, downwards.
                skip_of = inside.model[0] if inside is not None else None
                layers[i] = Kinked(getattr(layer, "negative_slope", 0.0), reach, kinks, skip_of)

    note(network.model.model if isinstance(network, UnetGenerator) else network.main)


def l1_with_kinks(fake: Tensor, real: Tensor, reach: float, kinks: list[Kink]) -> Tensor:
    """The mean of |fake − real|, noting in `kinks` where the two are within rounding of each other.

    Not where Tanh is all but flat: there what comes through it is nothing, whatever the sign.
    """
    difference = fake - real
    signs = difference.detach().sign()
    distance = (difference.detach().abs() / fake.detach().square().mean().sqrt()).flatten()
    flat = (1 - fake.detach().square()).flatten() < 10 * reach
    for i in ((distance < reach) & ~flat).nonzero().flatten().tolist():
        kinks.append(Kink(distance[i].item(), [(signs.view(-1), i, 0.0)], of_l1=True))
    return Slope.apply(difference, signs).mean()


def gradient_errors(
    loss: Callable[[], Tensor], network: nn.Module, recorded: dict[str, Tensor], kinks: list[Kink],
    together: bool = False,
) -> tuple[dict[str, float], dict[str, float], int]:
    """Errors of the recorded gradients raw and with kinks resolved, and how many activations took the other slope.

    The loss is asked for again for every choice of slopes, on which penalties depend; they are left as resolved.

    The nearest kinks are tried first, one backward pass each, until every tensor agrees to `RESOLVED`. Those of L1 all
    move the gradients in much the same directions, and would be taken for each other: then they are resolved
    `together`, by least squares.
    """
    names, parameters = zip(*network.named_parameters())

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss(), parameters, retain_graph=True)

    def errors(found: tuple[Tensor, ...] | None = None) -> dict[str, float]:
        return {name: relative(recorded[name], want) for name, want in zip(names, found or gradients())}

    first = gradients()
    raw = best = errors(first)
    kinks = sorted(kinks, key=lambda kink: kink.distance)
    flips = 0
    if together:
        norms = [torch.linalg.vector_norm(t).clamp(min=1e-300) for t in first]

        def some(tensors: Iterable[Tensor]) -> Tensor:
            """Some of the numbers of every tensor, by which it differs from the first gradients."""
            steps = [max(1, t.numel() // 4096) for t in first]
            return torch.cat([(t.to(want) - want).flatten()[::step] / norm
                              for t, want, step, norm in zip(tensors, first, steps, norms)]).double().cpu()

        columns: list[Tensor] = []
        resolved: list[tuple[Tensor, int, float]] = []
        goal = some(recorded[name] for name in names)
        while max(best.values()) > RESOLVED and len(columns) < len(kinks):
            for kink in kinks[len(columns):4 * len(columns) or 8]:
                before = [slopes[i].item() for slopes, i, _ in kink.choices]
                kink.turn()
                columns.append(some(gradients()))
                for (slopes, i, _), slope in zip(kink.choices, before):
                    slopes[i] = slope
            shares = torch.linalg.lstsq(torch.stack(columns, 1), goal[:, None]).solution[:, 0].clamp(0, 1)
            undo: list[tuple[Tensor, int, float]] = []
            turned = 0
            for kink, share in zip(kinks, shares.tolist()):
                share = round(2 * share) / 2 if kink.of_l1 else round(share)
                turned += share > 0
                for slopes, i, both in kink.choices:
                    undo.append((slopes, i, slopes[i].item()))
                    slopes[i] += share * (both - 2 * slopes[i])
            tried = errors()
            if sum(e * e for e in tried.values()) < sum(e * e for e in best.values()):
                best, flips = tried, turned
                resolved = [(slopes, i, slopes[i].item()) for slopes, i, _ in undo]
            for slopes, i, slope in undo:
                slopes[i] = slope
        for slopes, i, slope in resolved:
            slopes[i] = slope
        return raw, best, flips
    for kink in kinks:
        if max(best.values()) <= RESOLVED:
            break
        kink.turn()
        tried = errors()
        if sum(e * e for e in tried.values()) < sum(e * e for e in best.values()):
            best, flips = tried, flips + 1
        else:
            kink.turn()
    return raw, best, flips


def load_parameters(network: nn.Module, state: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.copy_(state[name])


@dataclass
class Found:
    """What an iteration gave: losses, norms of D's gradients, gradients and buffers, by tensor name."""

    losses: dict[str, Tensor]
    norms: dict[str, Tensor]
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]
    # By which the error of loss_g is measured.
    size_of_g: Tensor | None = None


def without_autocast(d: nn.Module, device: str) -> None:
    """Has spectral norm computed in the weights' own type under autocast too."""
    for layer in d.main:
        if hasattr(layer, "parametrizations"):
            norm = layer.parametrizations.weight[0]

            def forward(weight: Tensor, forward: Callable[[Tensor], Tensor] = norm.forward) -> Tensor:
                with torch.autocast(device, enabled=False):
                    return forward(weight)
            norm.forward = forward


def iterate(
    s: Settings, d: nn.Module, g: nn.Module, after_d: dict[str, Tensor], given: Batch, step: int,
    half: torch.dtype | None,
) -> Found:
    """The iteration from the state that `d` and `g` hold, under autocast in `half` if that is given."""
    dtype, device = next(d.parameters()).dtype, given.real.device.type
    given = given.to(dtype)

    def gradients(loss: Tensor, network: nn.Module) -> dict[str, Tensor]:
        names, parameters = zip(*network.named_parameters())
        scale = 65536.0 if half == torch.float16 else 1.0
        while True:
            found = torch.autograd.grad(loss * scale, parameters, retain_graph=True)
            if scale <= 1 or all(torch.isfinite(t).all() for t in found):
                return {name: t / scale for name, t in zip(names, found)}
            scale /= 2

    with torch.autocast(device, half or torch.bfloat16, enabled=half is not None):
        fake = g(*given.of_g())
        of_d = step_of_d(s, d, fake, given, step)
        norms = of_d.norms()
        loss_d = of_d.without_penalties + sum(of_d.penalties[name] * norm for name, norm in norms.items())
    found = {f"D/{name}": t for name, t in gradients(loss_d, d).items()}
    load_parameters(d, after_d)
    with torch.autocast(device, half or torch.bfloat16, enabled=half is not None):
        loss_g, size_of_g = step_of_g(s, d, fake, given)
    l1 = given.l1(fake.to(dtype))
    found |= {f"G/{name}": t for name, t in gradients(loss_g if l1 is None else loss_g + s.l1 * l1, g).items()}
    buffers = {f"{net}/{name}": t for net, m in (("D", d), ("G", g)) for name, t in m.named_buffers()}
    losses = (*of_d.losses, loss_g, *(() if l1 is None else (l1,)))
    return Found(dict(zip(s.losses(), (loss.detach() for loss in losses))),
                 {name: norm.detach() for name, norm in norms.items()}, found, buffers, size_of_g)


def errors_of(got: Found, want: Found) -> Iteration:
    """How far `got` is from `want`; tensors that are not in `got` are left out."""
    out = Iteration()
    out.losses = {name: relative(t, want.losses[name], want.size_of_g if name == "loss_g" else None)
                  for name, t in got.losses.items()}
    out.norms = {name: relative(t, want.norms[name]) for name, t in got.norms.items()}
    out.gradients = {name: relative(t, want.gradients[name]) for name, t in got.gradients.items()}
    out.raw_gradients = out.gradients
    out.gains = {name: gain(t, want.gradients[name]) for name, t in got.gradients.items() if t.dim() == 4}
    for name, t in got.buffers.items():
        error = relative(t, want.buffers[name])
        out.buffers[name] = math.inf if name.endswith("num_batches_tracked") and error else error
    return out


def adam_step(
    out: Iteration, net: str, adam: Adam, before: dict[str, Tensor], grad: dict[str, Tensor], after: dict[str, Tensor]
) -> None:
    """Holds a step of Adam against the recorded one. Where a gradient is not finite, it must have been left out."""
    if not all(torch.isfinite(t).all() for t in grad.values()):
        out.skipped += (net,)
        for name in grad:
            error = 0.0 if torch.equal(before[name], after[name]) else math.inf
            out.adam_weights[f"{net}/{name}"] = out.adam_update[f"{net}/{name}"] = error
        return
    for name, update in adam.updates(grad).items():
        errors = adam_errors(before[name], update, after[name])
        out.adam_weights[f"{net}/{name}"], out.adam_update[f"{net}/{name}"] = errors


def replay_half(record: Record, device: torch.device) -> Iterator[tuple[Iteration, Iteration]]:
    """Errors against f64 of every iteration of a file recorded in a half type, and those of PyTorch's autocast."""
    s = record.settings
    half = HALVES[s.precision]
    d, g = (m.to(device) for m in build(record, torch.float64))
    d_half, g_half = (m.to(device) for m in build(record, torch.float32))
    without_autocast(d_half, device.type)
    nets = (("D", d), ("G", g))
    adams = {"D": Adam(s.lr_d, s), "G": Adam(s.lr_g, s)}
    before = {n: record.like(f"step/000000/before/{n}", state_shapes(m)) for n, m in nets}
    for k in range(s.steps):
        at = f"step/{k:06d}"
        next_at = f"step/{k + 1:06d}/before" if k + 1 < s.steps else "final"
        after = {n: record.like(f"{next_at}/{n}", state_shapes(m)) for n, m in nets}
        finite = s.precision != "fp16"
        grad = {n: record.like(f"{at}/grad/{n}", parameter_shapes(m), finite) for n, m in nets}
        given = batch(record, at).to(torch.float32, device)
        for module, state in ((d, "D"), (g, "G"), (d_half, "D"), (g_half, "G")):
            module.load_state_dict(before[state])
        truth = iterate(s, d, g, after["D"], given, k, None)
        peer = errors_of(iterate(s, d_half, g_half, after["D"], given, k, half), truth)
        got = Found(
            *({name: record.tensor(f"{at}/{name}", (), (1,)).reshape(()).to(device) for name in names}
              for names in (s.losses(), s.penalties(k))),
            {f"{n}/{name}": t.to(device) for n, _ in nets for name, t in grad[n].items()
             if all(torch.isfinite(t).all() for t in grad[n].values())},
            {f"{n}/{name}": after[n][name].to(device) for n, m in nets for name, _ in m.named_buffers()},
        )
        out = errors_of(got, truth)
        for n, _ in nets:
            adam_step(out, n, adams[n], before[n], grad[n], after[n])
        before = after
        yield out, peer


def replay(record: Record, dtype: torch.dtype, kink: float, device: torch.device) -> Iterator[Iteration]:
    """Replays every iteration from its recorded state."""
    s = record.settings
    d, g = (m.to(device) for m in build(record, dtype))
    kinks_d: list[Kink] = []
    kinks_g: list[Kink] = []
    with_kinks(d, kink, kinks_d)
    with_kinks(g, kink, kinks_g)
    adam_d, adam_g = Adam(s.lr_d, s), Adam(s.lr_g, s)
    before_d, before_g = (record.like(f"step/000000/before/{n}", state_shapes(m)) for n, m in (("D", d), ("G", g)))
    for k in range(s.steps):
        at, out = f"step/{k:06d}", Iteration()
        next_at = f"step/{k + 1:06d}/before" if k + 1 < s.steps else "final"
        after_d, after_g = (record.like(f"{next_at}/{n}", state_shapes(m)) for n, m in (("D", d), ("G", g)))
        grad_d, grad_g = (record.like(f"{at}/grad/{n}", parameter_shapes(m)) for n, m in (("D", d), ("G", g)))
        given = batch(record, at).to(dtype, device)
        d.load_state_dict(before_d)
        g.load_state_dict(before_g)

        def compare_gradients(
            net: str, loss: Callable[[], Tensor], network: nn.Module, recorded: dict[str, Tensor]
        ) -> None:
            recorded = {name: t.to(device) for name, t in recorded.items()}
            kinks = kinks_d + kinks_g * (net == "G")
            raw, resolved, flips = gradient_errors(loss, network, recorded, kinks, s.condition == "picture")
            out.raw_gradients |= {f"{net}/{name}": error for name, error in raw.items()}
            out.gradients |= {f"{net}/{name}": error for name, error in resolved.items()}
            out.flips += flips

        kinks_d.clear()
        kinks_g.clear()
        fake = g(*given.of_g())
        # Of the hinge.
        of_d = step_of_d(s, d, fake, given, k, Kinked(0.0, kink, kinks_d))
        compare_gradients("D", of_d.loss, d, grad_d)
        for name, want in of_d.norms().items():
            out.norms[name] = relative(record.tensor(f"{at}/{name}", (), (1,)).reshape(()), want.detach().cpu())
        kinks_d.clear()
        load_parameters(d, after_d)
        loss_g, size_of_g = step_of_g(s, d, fake, given)
        losses = [*of_d.losses, loss_g]
        if s.condition == "picture":
            losses.append(l1_with_kinks(fake, given.real, kink, kinks_g))
            loss_g = loss_g + s.l1 * losses[-1]
        compare_gradients("G", lambda whole=loss_g: whole, g, grad_g)

        for name, want in zip(s.losses(), losses):
            got = record.tensor(f"{at}/{name}", (), (1,)).reshape(())
            size = size_of_g.cpu() if name == "loss_g" else None
            out.losses[name] = relative(got, want.detach().cpu(), size)
        for net, adam, before, grad, after in (
            ("D", adam_d, before_d, grad_d, after_d), ("G", adam_g, before_g, grad_g, after_g)
        ):
            adam_step(out, net, adam, before, grad, after)
        for net, module, after in (("D", d, after_d), ("G", g, after_g)):
            for name, want in module.named_buffers():
                exact = name.endswith("num_batches_tracked")
                error = relative(after[name], want.cpu())
                out.buffers[f"{net}/{name}"] = math.inf if exact and error else error
        before_d, before_g = after_d, after_g
        yield out


def over_all(rows: list[Iteration], get: Callable[[Iteration], dict[str, float]]) -> tuple[float, str]:
    """The largest error of all iterations, and where; 0 where there is none."""
    found = [(*worst(get(row)), k) for k, row in enumerate(rows) if get(row)]
    error, name, k = max(found, default=(0.0, "nothing", 0))
    return error, f"{name}, iteration {k}"


def by_tensor(rows: list[Iteration]) -> dict[str, float]:
    """Of each gradient tensor its largest error."""
    names = [name for row in rows for name in row.gradients]
    return {name: max(row.gradients.get(name, 0.0) for row in rows) for name in names}


def conclude(verdicts: list[tuple[str, float, str, float]], say: Callable[[str], None]) -> bool:
    """Says of each error, at its place, whether it is within its limit."""
    for what, error, where, limit in verdicts:
        # So that a NaN fails.
        verdict = "ok  " if error <= limit else "FAIL"
        say(f"{verdict} {what:45} {error:8.1e} (limit {limit:.1e})  {where}")
    passed = all(error <= limit for _, error, _, limit in verdicts)
    say("PASS" if passed else "FAIL")
    return passed


def check_half(record: Record, limits: Limits, device: torch.device, say: Callable[[str], None]) -> bool:
    """As `check`, for a file recorded in bf16 or fp16: its errors beside those of autocast."""
    s = record.settings
    # Unit roundoff: half the distance from 1 to the next number.
    roundoff = torch.finfo(HALVES[s.precision]).eps / 2
    floor = roundoff / 4
    say(f"beside autocast in {s.precision} on {device.type}; limits are {limits.factor:g} × its error + {floor:.1e}")
    say(f"{'losses':>14} {'autocast':>9} {'gradients: median':>19} {'autocast':>9} {'worst':>9} {'autocast':>9} "
        f"{'buffers':>9} {'autocast':>9}")
    ours: list[Iteration] = []
    theirs: list[Iteration] = []
    for k, (row, peer) in enumerate(replay_half(record, device)):
        ours.append(row)
        theirs.append(peer)
        cells = [worst(r.losses)[0] for r in (row, peer)]
        cells += [statistics.median(r.gradients.values()) if r.gradients else 0.0 for r in (row, peer)]
        cells += [worst(r.gradients)[0] if r.gradients else 0.0 for r in (row, peer)]
        cells += [worst(r.buffers)[0] for r in (row, peer)]
        skipped = f"  skipped: {', '.join(row.skipped)}" if row.skipped else ""
        say(f"{k:>4} {cells[0]:9.1e} {cells[1]:9.1e} {cells[2]:19.1e}" + "".join(f" {c:9.1e}" for c in cells[3:])
            + skipped)
    if record.unused():
        say(f"note: {len(record.unused())} tensors were not checked, for instance {record.unused()[0]}")
    taken = {net: sum(net not in row.skipped for row in ours) for net in ("D", "G")}
    if min(taken.values()) == 0:
        say("FAIL no step was taken: every gradient of a network is not finite, so that nothing can be compared")
        return False

    def limit(theirs: float, more: float = 1.0) -> float:
        return more * limits.factor * theirs + floor

    tensors, peers = by_tensor(ours), by_tensor(theirs)
    beside = {n: peers[n] if record.tensor(f"step/000000/grad/{n}", finite=False).numel() >= FEW
              else max(peers.values()) for n in tensors}
    # The tensor that comes nearest to its limit, or goes furthest beyond.
    name = max(tensors, key=lambda n: tensors[n] / limit(beside[n], SINGLE))
    medians = [statistics.median(t.values()) for t in (tensors, peers)]

    def singular(row: Iteration, are: bool = True) -> dict[str, float]:
        return {name: error for name, error in row.buffers.items() if name.endswith(SINGULAR) == are}

    gains, losses, norms, buffers = (
        [over_all(rows, get) for rows in (ours, theirs)]
        for get in (lambda r: r.gains, lambda r: r.losses, lambda r: r.norms, lambda r: singular(r, False))
    )
    gain_verdict = (*gains[0], limit(gains[1][0]))
    if s.condition == "picture":
        # The signs of L1 leave so much rounding in the first layers of G that the largest gain is theirs alone, and
        # autocast's may be small by luck: a tensor's may be as large as a third of its error makes it.
        allowed = {n: limit(max(gains[1][0], peers[n] / 3)) for row in ours for n in row.gains}
        found = {n: max(row.gains.get(n, 0.0) for row in ours) for n in allowed}
        at = max(found, key=lambda n: found[n] / allowed[n])
        gain_verdict = (found[at], at, allowed[at])
    return conclude([
        ("losses, relative", *losses[0], limit(losses[1][0])),
        ("gradients, median tensor", medians[0], f"of {len(tensors)}", limit(medians[1])),
        ("gradients, tensor nearest to its limit", tensors[name], name, limit(beside[name], SINGLE)),
        ("gradients of convolutions, gain", *gain_verdict),
        ("Adam, against the weights", *over_all(ours, lambda r: r.adam_weights), limits.adam),
        ("Adam, against the update, beyond rounding", *over_all(ours, lambda r: r.adam_update), limits.adam),
        *([("norms of D's gradients, relative", *norms[0], limit(norms[1][0], SINGLE))] if s.penalties() else []),
        ("batch norm's buffers", *buffers[0], limit(buffers[1][0])),
        *([("singular vectors", *over_all(ours, singular), limits.buffers)] if s.d_norm == "spectral" else []),
    ], say)


def check(
    path: Path, dtype: torch.dtype, limits: Limits, kink: float, device: torch.device,
    say: Callable[[str], None] = print,
) -> bool:
    """Replays the file, prints the table and says whether all is within the limits."""
    record = Record(path)
    s = record.settings
    condition = {"none": "", "labels": f"{s.labels} labels, ", "picture": f"pictures of {s.picture} channels, L1 times "
                 f"{s.l1:g}, "}[s.condition]
    options = "".join(f"{name} {getattr(s, name)}, " for name in OPTIONS if getattr(s, name) != OPTIONS[name])
    say(f"{path}: {s.steps} iterations at {s.image_size} px, width {s.width}, latent {s.latent_dim}, {condition}"
        f"{options}batch {s.batch_size}, {s.precision}; replayed in {str(dtype).removeprefix('torch.')} "
        f"by PyTorch {torch.__version__}")
    if s.precision in HALVES:
        return check_half(record, limits, device, say)
    names = (*s.losses(), *s.penalties())
    wide = max([26, *(len(name) - len("step/000000/grad/") for name in record.names if "/grad/" in name)])
    heads = " ".join(f"{name.removeprefix('loss_').replace('norm_', '∇ ') if name != 'loss_g' else name:>8}"
                     for name in names)
    say(f"{'losses':>{9 * len(names) + 5}} {'raw gradients':>19}  {'kinks resolved':>23} {'Adam':>{wide + 20}}\n"
        f"{'step':>4}  {heads}  {'median':>8} {'worst':>8}  {'flips':>5} {'median':>8} {'worst':>8} {'':{wide}}  "
        f"{'weights':>8} {'update':>8}  {'buffers':>8}")
    rows = []
    for k, row in enumerate(replay(record, dtype, kink, device)):
        rows.append(row)
        errors = row.losses | row.norms
        losses = " ".join(f"{errors[name]:8.1e}" if name in errors else f"{'-':>8}" for name in names)
        raw, resolved = (
            f"{statistics.median(errors.values()):8.1e} {worst(errors)[0]:8.1e}"
            for errors in (row.raw_gradients, row.gradients)
        )
        adam = f"{worst(row.adam_weights)[0]:8.1e} {worst(row.adam_update)[0]:8.1e}"
        say(f"{k:>4}  {losses}  {raw}  {row.flips:5} {resolved} {worst(row.gradients)[1]:{wide}}  {adam}  "
            f"{worst(row.buffers)[0]:8.1e}")
    if record.unused():
        say(f"note: {len(record.unused())} tensors were not checked, for instance {record.unused()[0]}")

    # What one number on the other side of its kink may do, of those in the innermost of a U-Net's maps.
    one = 2 / math.sqrt(s.batch_size * min(8 * s.width, CHANNEL_CAP)) if s.condition == "picture" else 0.0
    return conclude([
        ("losses, relative", *over_all(rows, lambda r: r.losses), limits.losses),
        *([("norms of D's gradients, kinks resolved", *over_all(rows, lambda r: r.norms), limits.losses)]
          if s.penalties() else []),
        ("gradients, raw, worst tensor", *over_all(rows, lambda r: r.raw_gradients), max(limits.gradient_worst, one)),
        ("gradients, kinks resolved, median tensor", *max((statistics.median(r.gradients.values()), f"iteration {k}")
                                                          for k, r in enumerate(rows)), limits.gradient_median),
        ("gradients, kinks resolved, worst tensor", *over_all(rows, lambda r: r.gradients), limits.gradient_resolved),
        ("Adam, against the weights", *over_all(rows, lambda r: r.adam_weights), limits.adam),
        ("Adam, against the update, beyond rounding", *over_all(rows, lambda r: r.adam_update), limits.adam),
        ("buffers", *over_all(rows, lambda r: r.buffers), limits.buffers),
    ], say)


# ------------------------------------------------------------------------------------------------ PyTorch's own


def snapshot(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """f32 (and int64) copies under prefixed names."""
    return {
        f"{prefix}/{name}": t.detach().clone().to(torch.float32 if t.is_floating_point() else t.dtype)
        for name, t in tensors.items()
    }


def round_to_f32(network: nn.Module) -> None:
    """Makes f64 weights and buffers what an f32 file holds of them."""
    with torch.no_grad():
        for t in (*network.parameters(), *network.buffers()):
            if t.is_floating_point():
                t.copy_(t.float())


class Rounded(torch.autograd.Function):
    """Rounds to a half type on the way forward, and the gradient on the way back."""

    @staticmethod
    def forward(ctx, x: Tensor, half: torch.dtype) -> Tensor:  # type: ignore[override]
        ctx.half = half
        return x.to(half).to(x.dtype)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return dy.to(ctx.half).to(dy.dtype), None


class RoundedForward(torch.autograd.Function):
    """Rounds to a half type, and leaves the gradient as it is."""

    @staticmethod
    def forward(ctx, x: Tensor, half: torch.dtype) -> Tensor:  # type: ignore[override]
        return x.to(half).to(x.dtype)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return dy, None


def convolve_in_half(layer: nn.Module, x: Tensor, half: torch.dtype) -> Tensor:
    """A convolution with weights rounded to a half type; its sums are not."""
    weight = RoundedForward.apply(layer.weight, half)
    f = nn.functional.conv2d if isinstance(layer, nn.Conv2d) else nn.functional.conv_transpose2d
    return f(x, weight, None, layer.stride, layer.padding)


def layers_in_half(layers: list[nn.Module], x: Tensor, half: torch.dtype) -> Tensor:
    for layer, following in zip(layers, [*layers[1:], None]):
        if isinstance(layer, UnetBlock):
            # The skip is what LeakyReLU leaves, which is stored; behind the ReLU that follows it is the same.
            down, *rest = layer.model
            skip = Rounded.apply(down(x), half)
            x = layer.join(skip, Rounded.apply(layers_in_half(rest, skip, half), half))
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            x = convolve_in_half(layer, x, half)
            if following is None or isinstance(following, nn.BatchNorm2d):
                x = Rounded.apply(x, half)
        elif isinstance(layer, nn.BatchNorm2d):
            x = layer(x)
        else:
            x = Rounded.apply(layer(x), half)
    return x


def in_half(network: nn.Module, x: Tensor, half: torch.dtype) -> Tensor:
    """The network's layers as dcgan-cuda computes them in a half type, but for the order of sums.

    Weights, and maps where they are stored (behind a convolution that batch norm follows, and behind each block), are
    rounded, and so are the maps' gradients; products are summed and batch norm is computed in f32. With spectral norm
    the weights that are rounded are those divided by σ.
    """
    layers = network.model.model if isinstance(network, UnetGenerator) else network.main
    return layers_in_half(list(layers), x, half)


def own_batch(s: Settings, random: torch.Generator, step: int) -> Batch:
    """Images, latents and conditions; labels of every other iteration are one-hot, and ±1 in those between."""
    real = faces_like(s.batch_size, s.image_size, random, channels=s.channels)
    given = {"real": real}
    if s.latent_dim:
        given["z"] = torch.randn(s.batch_size, s.latent_dim, generator=random)
    if s.condition == "labels":
        if step % 2 == 0:
            classes = torch.randint(s.labels, (s.batch_size,), generator=random)
            given["y"] = nn.functional.one_hot(classes, s.labels).float()
        else:
            given["y"] = torch.randint(2, (s.batch_size, s.labels), generator=random).float() * 2 - 1
    if s.condition == "picture":
        given["picture"] = faces_like(s.batch_size, s.image_size, random, channels=s.picture)
    numbers = {name: torch.randint(1 << 24, (s.batch_size, NUMBERS), generator=random) / 2.0**24
               for name in s.augmented()}
    return Batch(**given, numbers=numbers)


def zeros(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.zeros_like(t) for t in tensors)


def others(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Those of another image."""
    return tuple(t.roll(1, 0) for t in tensors)


# Mistakes in the conditions: inputs of G, and of D on real ones, on fake ones and in G's step.
CONDITION_MISTAKES: dict[str, Callable[..., tuple[tuple[Tensor, ...], ...]]] = {
    "no y in G": lambda g, d: ((g[0], *zeros(g[1:])), d, d, d),
    "no y in D": lambda g, d: (g, *[zeros(d)] * 3),
    "y of another image in G": lambda g, d: ((g[0], *others(g[1:])), d, d, d),
    "other condition on real": lambda g, d: (g, others(d), d, d),
    "other condition on fake": lambda g, d: (g, d, others(d), d),
    "other condition in G's step": lambda g, d: (g, d, d, others(d)),
    "picture of another image in G": lambda g, d: ((*others(g[:1]), *g[1:]), d, d, d),
    "±1 as 0 and 1": lambda g, d: ((g[0], g[1].clamp(min=0)), *[(d[0].clamp(min=0),)] * 3),
}
# Mistakes in what L1 adds to G's loss, from l1·L1 and G's images less the real ones.
L1_MISTAKES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "L1 negative": lambda l1, _: -l1,
    "L1 summed": lambda l1, difference: l1 * difference.numel(),
    "L1 a batch's sum": lambda l1, difference: l1 * len(difference),
    "L1 left out": lambda l1, _: 0 * l1,
    "L1 squared": lambda l1, difference: 100 * difference.square().mean(),
    "L1 half as much": lambda l1, _: l1 / 2,
}


# Mistakes in the numbers by which images are changed, of all that have any.
NUMBER_MISTAKES: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "nothing changed": lambda u: {},
    "fake not changed in G's step": lambda u: {name: t for name, t in u.items() if name != "g_fake"},
    "fake not changed in D's step": lambda u: {name: t for name, t in u.items() if name != "d_fake"},
    "real changed as fake": lambda u: u | {"d_real": u["d_fake"]},
    "G's step as D's": lambda u: u | {"g_fake": u["d_fake"]},
    "real in G's step as in D's": lambda u: u | {"g_real": u["d_real"]},
    "real not changed in G's step": lambda u: {name: t for name, t in u.items() if name != "g_real"},
    "numbers of another image": lambda u: u | {"d_real": u["d_real"].roll(1, 0)},
    "numbers of another image in G's step": lambda u: u | {"g_fake": u["g_fake"].roll(1, 0)},
    "rows and columns exchanged": lambda u: {name: t[:, [0, 1, 2, 4, 3, 6, 5]] for name, t in u.items()},
    "moved the other way": lambda u: {name: torch.cat([t[:, :3], 0.99999 - t[:, 3:5], t[:, 5:]], 1)
                                      for name, t in u.items()},
    "saturation and contrast exchanged": lambda u: {name: t[:, [0, 2, 1, 3, 4, 5, 6]] for name, t in u.items()},
    "brightness left out": lambda u: {name: torch.cat([t[:, :1] * 0 + 0.5, t[:, 1:]], 1) for name, t in u.items()},
}
# Mistakes in what penalties count, from their sum and the iteration.
PENALTY_MISTAKES: dict[str, Callable[[Tensor, Settings], Tensor]] = {
    "penalty by γ, not γ/2": lambda penalty, s: 2 * penalty,
    "penalty not multiplied by N": lambda penalty, s: penalty / s.penalty_every,
    "penalty left out": lambda penalty, s: 0 * penalty,
    "penalty negative": lambda penalty, s: -penalty,
    "penalty a batch's sum": lambda penalty, s: penalty * s.batch_size,
}


def wrong_norms(mistake: str, s: Settings, of: StepOfD) -> dict[str, Tensor]:
    """What is penalised, with mistakes."""
    if mistake == "real and fake penalised for each other":
        of.of = dict(zip(of.of, reversed(of.of.values())))
    norms = of.norms()
    if mistake == "norm not squared":
        return {name: norm.sqrt() for name, norm in norms.items()}
    if mistake == "norm by pixels":
        return {name: norm / of.of[name][1][0].numel() for name, norm in norms.items()}
    if mistake == "gradient of the mean logit":
        return {name: norm / s.batch_size**2 for name, norm in norms.items()}
    if mistake == "gradient not differentiated":
        return {name: norm.detach() + 0 * norm for name, norm in norms.items()}
    return norms


def make_spectral_mistakes(mistake: str, d: nn.Module) -> None:
    """Puts mistakes into how D's weights are normalised."""
    layers = [layer for layer in d.main if hasattr(layer, "parametrizations")]
    if mistake == "the last layer not normalised":
        layers[-1].parametrizations.weight[0].forward = lambda w: w
    for layer in layers:
        norm = layer.parametrizations.weight[0]

        def forward(w: Tensor, norm: nn.Module = norm, right: Callable[[Tensor], Tensor] = norm.forward) -> Tensor:
            if mistake == "two steps of the power method":
                norm.eval()
                with torch.no_grad():
                    norm._power_method(w.flatten(1), 1)
                norm.train()
            if mistake == "σ not differentiated":
                sigma = (w / right(w)).detach()
                return torch.where(sigma.isfinite(), w / sigma, w)
            return right(w)
        if mistake in ("two steps of the power method", "σ not differentiated"):
            norm.forward = forward


class UpOnly(nn.Module):
    """A ReLU that leaves the skip out, the first half of the channels."""

    def forward(self, x: Tensor) -> Tensor:
        skip, up = x.chunk(2, 1)
        return torch.cat([skip, up.relu()], 1)


def make_mistakes(mistake: str, d: nn.Module, g: nn.Module) -> None:
    """Puts mistakes into how the networks are put together."""
    blocks = [block for block in g.modules() if isinstance(block, UnetBlock)]
    if mistake == "y before z":
        g.inputs = lambda z, y: torch.cat([y, z], 1)[:, :, None, None]
    elif mistake == "only the labels' sum":
        d.outputs = lambda out, _, y: projected(out.flatten(1), y) - out.flatten(1)[:, 0]
    elif mistake == "sign of the projection":
        d.outputs = lambda out, _, y: projected(out.flatten(1), -y)
    elif mistake == "labels of D reversed":
        d.outputs = lambda out, _, y: projected(out.flatten(1), y.flip(1))
    elif mistake == "l0 last":
        d.outputs = lambda out, _, y: projected(out.flatten(1).roll(1, 1), y)
    elif mistake == "picture first in D":
        d.inputs = lambda images, picture: torch.cat([picture, images], 1)
    elif mistake == "z before the picture":
        right = g.inputs
        g.inputs = lambda picture, z: right(picture, z).roll(z.shape[1], 1)
    elif mistake == "z at one pixel":
        def at_one_pixel(picture: Tensor, z: Tensor) -> Tensor:
            map_of_z = torch.zeros(*z.shape, *picture.shape[2:], dtype=z.dtype)
            map_of_z[:, :, 0, 0] = z
            return torch.cat([picture, map_of_z], 1)
        g.inputs = at_one_pixel
    elif mistake == "no skip":
        for block in blocks:
            block.join = lambda skip, up: torch.cat([0 * skip, up], 1)
    elif mistake == "one skip missing":
        blocks[2].join = lambda skip, up: torch.cat([0 * skip, up], 1)
    elif mistake == "skip behind what comes up":
        for block in blocks:
            block.join = lambda skip, up: torch.cat([up, skip], 1)
    elif mistake == "no ReLU on the skip":
        for block in blocks[:-1]:
            for i, layer in enumerate(block.model):
                if isinstance(layer, nn.ReLU):
                    block.model[i] = UpOnly()
    elif mistake == "ReLU downwards":
        for block in blocks[1:]:
            block.model[0] = nn.ReLU()
    elif mistake == "LeakyReLU upwards":
        for block in blocks:
            for i, layer in enumerate(block.model):
                if isinstance(layer, nn.ReLU):
                    block.model[i] = nn.LeakyReLU(0.2)
    elif mistake == "no gradient through the skip":
        for block in blocks:
            block.join = lambda skip, up: torch.cat([skip.detach(), up], 1)


def equal_to_fake(g: nn.Module, given: Batch, dtype: torch.dtype) -> Batch:
    """The batch with some numbers of its real images as G makes them, where L1 has its kink."""
    state = {name: t.clone() for name, t in g.state_dict().items()}
    with torch.no_grad():
        fake = g(*given.to(dtype).of_g()).float()
    g.load_state_dict(state)
    real = given.real.clone()
    some = slice(0, None, fake.numel() // 4)
    real.view(-1)[some] = fake.view(-1)[some]
    return replace(given, real=real)


def record_run(s: Settings, seed: int, dtype: torch.dtype = torch.float32, mistake: str = "") -> dict[str, Tensor]:
    """The tensors of a record file, from a run of the reference iteration in PyTorch.

    In f64, weights, buffers and gradients are rounded to f32 where the file holds them, so that each recorded iteration
    is exact from its recorded state. A half `s.precision` rounds as dcgan-cuda does (`in_half`). `mistake` names an
    error to make, for the self-test.
    """
    half = HALVES.get("bf16" if mistake == "bf16" else s.precision)
    scale = 1024.0 if s.precision == "fp16" and mistake != "no scale" else 1.0
    wrong = 1.1 if mistake == "scale" else 1.0

    def rounded(x: Tensor) -> Tensor:
        return x if half is None else Rounded.apply(x, half)

    def run(network: nn.Module, x: Tensor) -> Tensor:
        """Its layers."""
        layers = network.model if isinstance(network, UnetGenerator) else network.main
        return layers(x) if half is None else in_half(network, x, half)

    random = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    d, g = networks(s)
    make_mistakes(mistake, d, g)
    make_spectral_mistakes(mistake, d)
    if mistake == "slope":
        for layer in d.main:
            if isinstance(layer, nn.LeakyReLU):
                layer.negative_slope = 0.3 - layer.negative_slope
    d.to(dtype).train()
    g.to(dtype).train()
    betas = (0.9 if mistake == "beta1" else s.beta1, s.beta2)
    adam_d = torch.optim.Adam(d.parameters(), lr=s.lr_d, betas=betas, eps=s.eps)
    adam_g = torch.optim.Adam(g.parameters(), lr=s.lr_g, betas=betas, eps=s.eps)
    out: dict[str, Tensor] = {}

    def changed(images: Tensor, condition: tuple[Tensor, ...], numbers: dict[str, Tensor], part: str) -> Tensor:
        """What D sees of images."""
        x = rounded(d.inputs(images, *condition))
        if part not in numbers:
            return x
        changes = s.changes()
        if mistake == "cut before it is moved":
            changes = changes[::-1]
        channels = x.shape[1] if mistake == "colours of the picture too" else s.channels
        y = augment(x, numbers[part], changes, channels)
        if mistake == "changes left out of the gradient":
            y = y.detach() + (x - x.detach())
        return rounded(y)

    def looks(inputs: list[Tensor], conditions: list[tuple[Tensor, ...]]) -> list[Tensor]:
        """D's logits."""
        if (s.d_norm == "batch") != (mistake in ("joint statistics", "one pass each")):
            return [d.outputs(run(d, x), x, *condition) for x, condition in zip(inputs, conditions)]
        x = torch.cat(inputs)
        return list(d.outputs(run(d, x), x, *(torch.cat(each) for each in zip(*conditions))).chunk(len(inputs)))

    def gradients(network: nn.Module) -> dict[str, Tensor]:
        for p in network.parameters():
            assert p.grad is not None, "every parameter is used"
            p.grad.copy_(p.grad.float() * (wrong / scale))
        return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}

    for k in range(s.steps):
        at = f"step/{k:06d}"
        given = own_batch(s, random, k)
        if half is not None:
            # As fed to the networks.
            given = given.to(half).to(torch.float32)
        if mistake == "equal":
            given = equal_to_fake(g, given, dtype)
        out |= {f"{at}/{name}": t for name, t in given.tensors().items()}
        given = given.to(dtype)
        of_g, of_d = given.of_g(), given.of_d()
        # The images that D sees, and the conditions of its three passes.
        real, of_d_fake, of_d_last = given.real, of_d, of_d
        if mistake in CONDITION_MISTAKES:
            of_g, of_d, of_d_fake, of_d_last = CONDITION_MISTAKES[mistake](of_g, of_d)
        round_to_f32(d)
        round_to_f32(g)
        out |= snapshot(f"{at}/before/D", d.state_dict()) | snapshot(f"{at}/before/G", g.state_dict())

        adam_d.zero_grad()
        adam_g.zero_grad()
        numbers = NUMBER_MISTAKES.get(mistake, lambda numbers: numbers)(given.numbers)
        fake = g.outputs(run(g, rounded(g.inputs(*of_g))), *of_g)
        inputs = [changed(real, of_d, numbers, "d_real"), changed(fake.detach(), of_d_fake, numbers, "d_fake")]
        penalties = s.penalties(0 if mistake == "penalties in every iteration" else k)
        if penalties:
            inputs = [x.detach().requires_grad_() for x in inputs]
        logits = looks(inputs, [of_d, of_d_fake])
        pair = logits[::-1] if mistake == "pairs exchanged in D" else logits
        *of_both, whole = losses_of_d(s.loss, *pair, torch.relu)
        patches = logits[0][0].numel() if mistake == "patches summed" else 1
        whole = whole * patches * (2 if mistake == "pairs counted twice" else 1)
        if mistake == "hinge without a margin":
            whole = logits[1].mean() - logits[0].mean()
        if mistake == "bce in D":
            whole = bce(logits[0], 1.0) + bce(logits[1], 0.0)
        norms = wrong_norms(mistake, s, StepOfD((of_both[0], of_both[1]), whole, penalties,
                                                dict(zip(("norm_real", "norm_fake"), zip(logits, inputs)))))
        penalty = sum((penalties[name] * norm for name, norm in norms.items()), torch.zeros(()))
        ((whole + PENALTY_MISTAKES.get(mistake, lambda penalty, _: penalty)(penalty, s)) * scale).backward()
        out |= snapshot(f"{at}/grad/D", gradients(d))
        if mistake != "order":
            adam_d.step()
            round_to_f32(d)
        for p in d.parameters():
            p.requires_grad_(mistake == "order")
        kept = {name: p.grad.clone() for name, p in d.named_parameters() if p.grad is not None}
        inputs = [changed(fake, of_d_last, numbers, "g_fake")]
        if s.loss == "relativistic":
            inputs.append(changed(real, of_d_last, numbers, "g_real"))
        moved = {name: t.clone() for name, t in d.named_buffers()}
        logits = looks(inputs, [of_d_last] * len(inputs))
        if mistake == "no power method in G's step":
            d.load_state_dict(moved, strict=False)
        loss_g = loss_of_g(s.loss, logits[::-1] if mistake == "pairs exchanged in G" else logits)
        if mistake == "G's hinge with a margin":
            loss_g = torch.relu(1 - logits[0]).mean()
        if mistake == "G without real images":
            loss_g = bce(logits[0], 1.0)
        losses = [*of_both, loss_g * patches]
        whole = losses[-1]
        if s.condition == "picture":
            losses.append(given.l1(fake))
            whole = whole + L1_MISTAKES.get(mistake, lambda l1, _: l1)(s.l1 * losses[-1], fake - given.real)
            if mistake == "L1 in loss_g":
                losses[2] = whole
        (whole * scale).backward()
        out |= snapshot(f"{at}/grad/G", gradients(g))
        adam_g.step()
        for name, p in d.named_parameters():
            p.requires_grad_(True)
            p.grad = kept[name]
        if mistake == "order":
            adam_d.step()
        found = dict(zip(s.losses(), losses)) | {name: norms.get(name, torch.zeros(())) for name in s.penalties(k)}
        out |= {f"{at}/{name}": t.detach().float().clone() for name, t in found.items()}
    return out | snapshot("final/D", d.state_dict()) | snapshot("final/G", g.state_dict())


def write(path: Path, tensors: dict[str, Tensor], s: Settings) -> None:
    """Writes a record file. The library orders metadata at random; sorted, equal runs give equal files."""
    data = save({name: t.contiguous() for name, t in tensors.items()}, metadata=s.metadata())
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header = {"__metadata__": dict(sorted(header.pop("__metadata__").items())), **header}
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])


# ---------------------------------------------------------------------------------------------------- self-test


def biased_running_variance(t: dict[str, Tensor], s: Settings) -> None:
    """What D's running variances would be with the biased variance, for every iteration."""
    ends = [f"step/{k:06d}/before" for k in range(s.steps)] + ["final"]
    for name in [n for n in t if n.startswith("final/D/") and n.endswith("running_var")]:
        layer = name.removeprefix("final/")
        size = s.image_size >> (1 + int(layer.split(".")[1]) // 3)
        count = s.batch_size * size * size
        true = [t[f"{end}/{layer}"].double() for end in ends]
        wrong = true[0]
        for k, end in enumerate(ends[1:]):
            wrong = 0.9**3 * wrong + (true[k + 1] - 0.9**3 * true[k]) * (count - 1) / count
            t[f"{end}/{layer}"] = wrong.float()


def edits(s: Settings) -> list[tuple[str, int, Callable[[dict[str, Tensor]], None]]]:
    """Mistakes made by editing a good file: what, the exit code that it must give, and the edit."""
    last = f"step/{s.steps - 1:06d}"

    def swap(t: dict[str, Tensor], a: str, b: str) -> None:
        t[a], t[b] = t[b], t[a]

    def add(name: str, value: float) -> Callable[[dict[str, Tensor]], None]:
        def edit(t: dict[str, Tensor]) -> None:
            t[name] = t[name].clone()
            t[name].view(-1)[0] += value
        return edit

    def scale(name: str, value: float) -> Callable[[dict[str, Tensor]], None]:
        return lambda t: t.update({name: t[name] * value})

    def remove(prefix: str) -> Callable[[dict[str, Tensor]], None]:
        def edit(t: dict[str, Tensor]) -> None:
            for name in [n for n in t if n.startswith(prefix)]:
                del t[name]
        return edit

    return [
        ("a gradient of D scaled by 1.01 in the first iteration", 1, scale("step/000000/grad/D/main.2.weight", 1.01)),
        ("a gradient of D scaled by 1.01 in the last iteration", 1, scale(f"{last}/grad/D/main.2.weight", 1.01)),
        ("a gradient of G's batch norm scaled by 1.01", 1, scale(f"{last}/grad/G/main.1.bias", 1.01)),
        ("biased running variances", 1, lambda t: biased_running_variance(t, s)),
        ("loss_d_real and loss_d_fake swapped", 1, lambda t: swap(t, f"{last}/loss_d_real", f"{last}/loss_d_fake")),
        ("one z changed by 0.01", 1, add("step/000000/z", 0.01)),
        ("one pixel changed by 0.1", 1, add(f"{last}/real", 0.1)),
        ("a final weight off by 1e-4", 1, add("final/G/main.1.weight", 1e-4)),
        ("num_batches_tracked one off", 1, add("final/D/main.3.num_batches_tracked", 1)),
        ("NaN in a gradient", 2, add("step/000000/grad/G/main.0.weight", math.nan)),
        ("a tensor missing", 2, remove("final/D/main.3.running_mean")),
        ("a tensor of another shape", 2, lambda t: t.update({f"{last}/z": t[f"{last}/z"].T.contiguous()})),
        ("iterations that start at 1", 2, remove("step/000000/")),
    ]


def half_edits(s: Settings) -> list[tuple[str, int, Callable[[dict[str, Tensor]], None]]]:
    """Those of the mistakes that the rounding of a half type does not hide, and one of its own."""
    hidden = ("scaled by 1.01", "one z changed", "one pixel changed", "biased running variances")
    kept = [edit for edit in edits(s) if not any(h in edit[0] for h in hidden)]
    if s.precision == "fp16":
        # There a gradient that is not finite is a step left out, and Adam's weights say that it was not.
        kept = [(what, 1 if "NaN in a gradient" in what else want, edit) for what, want, edit in kept]

    def exchange(t: dict[str, Tensor]) -> None:
        t["step/000000/grad/D/main.2.weight"] = t["step/000000/grad/D/main.2.weight"].flip(2)

    return [*kept, ("a gradient with its taps upside down", 1, exchange)]


def overflown(t: dict[str, Tensor], s: Settings, left_out: bool) -> dict[str, Tensor]:
    """The file as it would be if G's gradient in the last iteration were infinite."""
    t = dict(t)
    last = f"step/{s.steps - 1:06d}"
    name = f"{last}/grad/G/main.0.weight"
    t[name] = torch.full_like(t[name], math.inf)
    if left_out:
        for at in [n for n in t if n.startswith("final/G/") and f"{last}/grad/G/{n[8:]}" in t]:
            t[at] = t[f"{last}/before/G/{at[8:]}"].clone()
    return t


def verdict(path: Path, limits: Limits, say: Callable[[str], None], kink: float = KINK) -> int:
    """Exit code for a file."""
    try:
        return 0 if check(path, torch.float64, limits, kink, torch.device("cpu"), say) else 1
    except RecordError as error:
        say(f"error: {error}")
        return 2


LABEL_MISTAKES = (
    ("y not given to G", "no y in G"), ("y not given to D", "no y in D"), ("G given another image's y",
    "y of another image in G"), ("y before z", "y before z"), ("D given another image's y with the real ones",
    "other condition on real"), ("D given another image's y with the fake ones", "other condition on fake"),
    ("D given another image's y in G's step", "other condition in G's step"),
    ("0 and 1 to the networks where the file says ±1", "±1 as 0 and 1"), ("l0 left out", "only the labels' sum"),
    ("l0 less the labels' outputs", "sign of the projection"), ("labels of D reversed", "labels of D reversed"),
    ("l0 behind the labels' outputs", "l0 last"), ("real and fake normalised together", "joint statistics"),
)
PICTURE_MISTAKES = (
    ("G given another image's picture", "picture of another image in G"),
    ("D given another image's picture with the real ones", "other condition on real"),
    ("D given another image's picture with the fake ones", "other condition on fake"),
    ("D given another image's picture in G's step", "other condition in G's step"),
    ("the picture before the image in D", "picture first in D"), ("z before the picture", "z before the picture"),
    ("z at one pixel", "z at one pixel"), ("no skips", "no skip"), ("one skip missing", "one skip missing"),
    ("skips behind what comes up", "skip behind what comes up"), ("no ReLU on skips", "no ReLU on the skip"),
    ("ReLU on the way down", "ReLU downwards"), ("LeakyReLU on the way up", "LeakyReLU upwards"),
    ("no gradient through skips", "no gradient through the skip"), ("losses of patches summed", "patches summed"),
    ("L1 of the wrong sign", "L1 negative"), ("L1 not divided", "L1 summed"),
    ("L1 divided by the pixels of an image only", "L1 a batch's sum"), ("L1 left out", "L1 left out"),
    ("L1 counted by half", "L1 half as much"), ("squares instead of L1", "L1 squared"),
    ("L1 in loss_g", "L1 in loss_g"), ("real and fake normalised together", "joint statistics"),
    ("G's step before D's", "order"), ("LeakyReLU of slope 0.1 in D", "slope"),
)
OVERFLOWING = "L1 summed"  # in a half type


def edited(
    t: dict[str, Tensor], edits: dict[str, Callable[[Tensor], Tensor | None]]
) -> dict[str, Tensor]:
    """The file with some tensors changed, or left out."""
    t = dict(t)
    for name, edit in edits.items():
        new = edit(t.pop(name).clone())
        if new is not None:
            t[name] = new
    return t


def test_conditions(
    expect: Callable[..., None], seed: int, precisions: tuple[str, ...] = ("fp32", *HALVES)
) -> None:
    """The part of `self_test` that concerns labels and pictures."""
    labels = Settings(image_size=32, width=8, latent_dim=12, batch_size=5, steps=2, condition="labels", labels=3)
    pictures = Settings(image_size=64, width=4, latent_dim=3, batch_size=4, steps=2, condition="picture", picture=2)

    def plus(i: int, by: float) -> Callable[[Tensor], Tensor]:
        def add(x: Tensor) -> Tensor:
            x.view(-1)[i] += by
            return x
        return add

    for what, s in (
        ("labels, 64 px, grey", replace(labels, image_size=64, channels=1, labels=1)),
        ("pictures, 32 px, without z", replace(pictures, image_size=32, latent_dim=0, batch_size=5, picture=1)),
        ("pictures, 128 px, width 2, L1 times 10", replace(pictures, image_size=128, width=2, batch_size=2, l1=10.0)),
    ):
        expect(f"PyTorch's own run in f32, {what}", 0, record_run(s, seed), s)
    for s, mistakes in ((labels, LABEL_MISTAKES), (pictures, PICTURE_MISTAKES)):
        run = record_run(s, seed)
        expect(f"{s.condition}: PyTorch's own run in f32", 0, run, s)
        expect(f"{s.condition}: in f64, stored as f32", 0, record_run(s, seed, torch.float64), s)
        for what, mistake in mistakes:
            expect(f"{s.condition}: {what}", 1, record_run(s, seed, mistake=mistake), s)
        name, middle = ("step/000001/y", 0) if s.condition == "labels" else ("step/000001/picture", 32 * 64 + 32)
        for what, want, tensors in (
            ("one number of the condition changed by 1", 1, edited(run, {name: plus(middle, 1.0)})),
            ("the condition missing", 2, edited(run, {name: lambda _: None})),
            ("NaN in the condition", 2, edited(run, {name: plus(0, math.nan)})),
            ("the condition of another shape", 2, edited(run, {name: lambda x: x[:, :1]})),
            ("num_batches_tracked one off", 1, edited(run, {next(
                n for n in run if n.startswith("final/G/") and n.endswith("num_batches_tracked")): lambda x: x + 1})),
            ("a running mean left at 0", 1, edited(run, {next(
                n for n in run if n.startswith("final/G/") and n.endswith("running_mean")):
                lambda x: torch.zeros_like(x)})),
        ):
            expect(f"{s.condition}: {what}", want, tensors, s)
    expect("labels: one label more in the metadata", 2, record_run(labels, seed), replace(labels, labels=4))
    expect("labels: none in the metadata", 2, record_run(labels, seed), replace(labels, condition="none"))
    run = record_run(pictures, seed)
    expect("picture: loss_l1 wrong by 1e-4", 1, edited(run, {"step/000001/loss_l1": lambda x: x * 1.0001}), pictures)
    expect("picture: loss_l1 missing", 2, edited(run, {"step/000001/loss_l1": lambda _: None}), pictures)
    expect("picture: another weight of L1 in the metadata", 1, run, replace(pictures, l1=99.0))
    run = record_run(pictures, seed, mistake="equal")
    expect("picture: numbers of G's images that are the real ones", 0, run, pictures)
    expect("picture: the same, L1's kink not resolved", 1, run, pictures, kink=0.0)
    for precision in (p for p in precisions if p in HALVES):
        for s, mistakes in (
            (replace(labels, batch_size=16, precision=precision), LABEL_MISTAKES),
            (replace(pictures, width=8, batch_size=8, precision=precision), PICTURE_MISTAKES),
        ):
            expect(f"{precision}: {s.condition}, a run that rounds", 0, record_run(s, seed), s)
            for what, mistake in (*mistakes, ("gradients scaled by 1.1", "scale")):
                if mistake != OVERFLOWING:
                    expect(f"{precision}: {s.condition}: {what}", 1, record_run(s, seed, mistake=mistake), s)


CHANGE_MISTAKES = (
    ("nothing is changed", "nothing changed"), ("fake images not changed in G's step", "fake not changed in G's step"),
    ("fake images not changed in D's step", "fake not changed in D's step"),
    ("real images changed as the fake ones", "real changed as fake"), ("G's step changed as D's", "G's step as D's"),
    ("numbers of another image", "numbers of another image"),
    ("numbers of another image in G's step", "numbers of another image in G's step"),
    ("rows and columns exchanged", "rows and columns exchanged"), ("moved the other way", "moved the other way"),
    ("saturation and contrast exchanged", "saturation and contrast exchanged"),
    ("brightness left out", "brightness left out"), ("cut before it is moved", "cut before it is moved"),
    ("changes left out of the gradient", "changes left out of the gradient"),
)
PENALTY_MISTAKES_OF = (
    *((name, name) for name in PENALTY_MISTAKES), *((name, name) for name in (
        "real and fake penalised for each other", "norm not squared", "norm by pixels", "gradient of the mean logit",
        "gradient not differentiated", "penalties in every iteration")),
)
PAIR_MISTAKES = tuple((name, name) for name in (
    "pairs exchanged in D", "pairs exchanged in G", "pairs counted twice", "G without real images", "bce in D",
    "real in G's step as in D's", "real not changed in G's step"))
HINGE_MISTAKES = tuple((name, name) for name in ("hinge without a margin", "G's hinge with a margin", "bce in D"))
SPECTRAL_MISTAKES = tuple((name, name) for name in (
    "σ not differentiated", "two steps of the power method", "the last layer not normalised", "one pass each",
    "no power method in G's step"))


# Mistakes that move less than a half type rounds.
HIDDEN_IN_HALF: tuple[str, ...] = ()


def test_options(expect: Callable[..., None], seed: int, precisions: tuple[str, ...] = ("fp32", *HALVES)) -> None:
    """The part of `self_test` that concerns other networks, losses, changes of images, and penalties."""
    plain = Settings(image_size=32, width=8, latent_dim=12, batch_size=6, steps=2)
    changes = ",".join(CHANGES)
    # So large that what D's small gradients cost is much of its loss.
    penalised = replace(plain, d_norm="none", r1=1e5, r2=2e5, penalty_every=2)
    pictures = replace(plain, condition="picture", picture=1, latent_dim=0)
    labels = replace(plain, condition="labels", labels=3)

    def run(what: str, s: Settings, mistakes: Iterable[tuple[str, str]] = (), hidden: tuple[str, ...] = ()) -> None:
        for precision in precisions:
            # As many images as it takes for a mistake to stand out of the rounding.
            p = s if precision == "fp32" else replace(s, precision=precision, batch_size=2 * s.batch_size)
            name = what if precision == "fp32" else f"{precision}: {what}"
            expect(f"{name}: PyTorch's own run in f32", 0, record_run(p, seed), p)
            for wrong, mistake in mistakes:
                if precision == "fp32" or mistake not in hidden:
                    expect(f"{name}: {wrong}", 1, record_run(p, seed, mistake=mistake), p)

    run("changed images", replace(plain, augment=changes), CHANGE_MISTAKES)
    run("changed images with pictures", replace(pictures, augment=changes),
        (("colours of the picture changed too", "colours of the picture too"),))
    run("penalties", penalised, PENALTY_MISTAKES_OF, hidden=HIDDEN_IN_HALF)
    run("penalties of changed images with labels", replace(labels, d_norm="none", augment=changes, r1=1e5))
    run("penalties with pictures", replace(pictures, d_norm="none", augment="cutout", r2=1e5))
    run("pairs", replace(plain, loss="relativistic", augment="translation"), PAIR_MISTAKES)
    run("hinge", replace(plain, loss="hinge", d_norm="none"), HINGE_MISTAKES, hidden=HIDDEN_IN_HALF)
    run("spectral norm", replace(plain, d_norm="spectral", loss="hinge"), SPECTRAL_MISTAKES, hidden=HIDDEN_IN_HALF)
    run("spectral norm, penalties, pairs", replace(penalised, d_norm="spectral", r1=5.0, r2=10.0, loss="relativistic"),
        (("σ not differentiated", "σ not differentiated"), ("one pass each", "one pass each")), hidden=HIDDEN_IN_HALF)
    run("spectral norm with pictures", replace(pictures, d_norm="spectral", augment="color"))
    run("sndcgan", replace(plain, arch="sndcgan", width=4), (("LeakyReLU of slope 0.2", "slope"),))
    run("sndcgan with spectral norm and labels", replace(labels, arch="sndcgan", width=4, d_norm="spectral", r1=1e3))
    s = replace(penalised, augment=changes)
    tensors = record_run(s, seed)
    first = "step/000000"

    def plus(by: float) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.cat([x.view(-1)[:1] + by, x.view(-1)[1:]]).view(x.shape)

    def darker(numbers: Tensor) -> Tensor:
        return torch.cat([(1 - numbers[:, :1]).clamp(max=1 - 2**-24), numbers[:, 1:]], 1)

    for what, want, name, edit in (
        ("norm_real wrong by 1e-4", 1, "norm_real", lambda x: x * 1.0001), ("norm_fake missing", 2, "norm_fake", None),
        ("brightness of another sign", 1, "augment/d_real", darker),
        ("a number of 1", 2, "augment/g_fake", lambda x: x * 0 + 1), ("numbers missing", 2, "augment/g_fake", None),
        ("a gradient off by 1e-3", 1, "grad/D/main.2.weight", lambda x: x * 1.001),
    ):
        edits_ = {f"{first}/{name}": edit or (lambda _: None)}
        expect(what, want, edited(tensors, edits_), s)
    for what, want, other in (
        ("another γ", 1, replace(s, r1=1.02 * s.r1)), ("another N", 2, replace(s, penalty_every=1)),
        ("another loss", 1, replace(s, loss="hinge")), ("fewer changes", 1, replace(s, augment="translation,cutout")),
        ("changes in another order", 2, replace(s, augment="cutout,color")),
        ("batch norm", 2, replace(s, d_norm="batch")),
        ("spectral norm", 2, replace(s, d_norm="spectral")), ("an sndcgan", 2, replace(s, arch="sndcgan")),
        ("an unknown loss", 2, replace(s, loss="wasserstein")), ("a negative γ", 2, replace(s, r1=-0.5)),
    ):
        expect(f"{what} in the metadata", want, tensors, other)
    s = replace(plain, d_norm="spectral")
    moved = {"final/D/main.2.parametrizations.weight.0._u": plus(1e-3)}
    expect("a singular vector off by 1e-3", 1, edited(record_run(s, seed), moved), s)


def self_test(limits: Limits, seed: int, verbose: bool) -> bool:
    """Good files must pass and every mistake must not."""
    say: Callable[[str], None] = print if verbose else lambda _: None
    good = True

    def expect(what: str, want: int, tensors: dict[str, Tensor], s: Settings, kink: float = KINK) -> None:
        nonlocal good
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "record.safetensors"
            write(path, tensors, s)
            got = verdict(path, limits, say, kink)
        good &= got == want
        print(f"{'ok  ' if got == want else 'FAIL'} {what}: exit code {got}, expected {want}", flush=True)

    s = Settings(image_size=32, width=8, latent_dim=20, batch_size=7, steps=3)
    s64 = Settings(image_size=64, width=8, latent_dim=16, batch_size=4, steps=2)
    run = record_run(s, seed)
    expect("PyTorch's own run in f32, 32 px", 0, run, s)
    expect("PyTorch's own run in f32, 64 px", 0, record_run(s64, seed), s64)
    expect("PyTorch's own run in f64, stored as f32", 0, record_run(s, seed, torch.float64), s)
    for what, want, edit in edits(s):
        tensors = dict(run)
        edit(tensors)
        expect(what, want, tensors, s)
    for what, mistake in (
        ("beta1 0.9 where the metadata says 0.5", "beta1"), ("G's step before D's", "order"),
        ("real and fake normalised together", "joint statistics"), ("LeakyReLU of slope 0.1", "slope"),
    ):
        expect(what, 1, record_run(s, seed, mistake=mistake), s)
    for precision in HALVES:
        s = Settings(image_size=32, width=8, latent_dim=20, batch_size=16, steps=3, precision=precision)
        s64 = Settings(image_size=64, width=8, latent_dim=16, batch_size=8, steps=2, precision=precision)
        run = record_run(s, seed)
        expect(f"a run in f32 that rounds to {precision}, 32 px", 0, run, s)
        expect(f"a run in f32 that rounds to {precision}, 64 px", 0, record_run(s64, seed), s64)
        for what, want, edit in half_edits(s):
            tensors = dict(run)
            edit(tensors)
            expect(f"{precision}: {what}", want, tensors, s)
        for what, mistake in (
            ("beta1 0.9 where the metadata says 0.5", "beta1"), ("gradients scaled by 1.1", "scale"),
            ("real and fake normalised together", "joint statistics"), ("LeakyReLU of slope 0.1", "slope"),
        ):
            expect(f"{precision}: {what}", 1, record_run(s, seed, mistake=mistake), s)
        if precision == "fp16":
            expect("bf16 where the metadata says fp16", 1, record_run(s, seed, mistake="bf16"), s)
            expect("fp16: a step that overflows is left out", 0, overflown(run, s, left_out=True), s)
            expect("fp16: a step that overflows is taken", 1, overflown(run, s, left_out=False), s)
    test_conditions(expect, seed)
    test_options(expect, seed)
    print("PASS" if good else "FAIL")
    return good


def condition(text: str) -> dict[str, str | int]:
    """`labels:K`, `picture:P` or `none`, as `Settings` has it."""
    kind, _, count = text.partition(":")
    if text == "none":
        return {"condition": "none"}
    if kind not in ("labels", "picture") or not count.isdecimal() or int(count) < 1:
        raise ValueError("neither none, labels:K nor picture:P, with a number of at least 1")
    return {"condition": kind, kind: int(count)}


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("file", nargs="?", type=Path, help="the file that `train --record` wrote")
    ap.add_argument("--dtype", choices=("f64", "f32"), default="f64", help="precision of the replay (default f64)")
    ap.add_argument("--make-own", metavar="FILE", type=Path, help="write a record file from PyTorch in f32 instead")
    ap.add_argument("--self-test", action="store_true", help="check the checker, in a temporary folder")
    ap.add_argument("--verbose", action="store_true", help="show every table of --self-test")
    default = Limits()
    limits = ap.add_argument_group("limits (relative errors)")
    for name, what in (
        ("losses", "each loss"), ("gradient_median", "the median gradient tensor of an iteration, kinks resolved"),
        ("gradient_worst", "the worst gradient tensor, raw"),
        ("gradient_resolved", "the worst gradient tensor, kinks resolved"),
        ("adam", "Adam's steps, by both measures"), ("buffers", "batch norm's running statistics"),
    ):
        limits.add_argument(f"--max-{name.replace('_', '-')}", type=float, default=getattr(default, name),
                            dest=name, metavar="X", help=f"{what} (default %(default)g)")
    limits.add_argument("--factor", type=float, default=default.factor, metavar="X",
                        help="of bf16 and fp16: errors against f64, as a multiple of autocast's (default %(default)g)")
    ap.add_argument("--device", default="cpu", help="where PyTorch computes: cpu, cuda or cuda:N (default %(default)s)")
    ap.add_argument("--kink", type=float, default=KINK, metavar="X", help="inputs of a (Leaky)ReLU this near zero may "
                    "take either slope, relative to their layer's root mean square; 0: none (default %(default)g)")
    own = ap.add_argument_group("the run of --make-own")
    own.add_argument("--precision", choices=("fp32", *HALVES), default="fp32",
                     help="bf16 and fp16: computed in f32 and rounded where dcgan-cuda does (default %(default)s)")
    own.add_argument("--condition", default="none", metavar="labels:K|picture:P",
                     help="K labels an image, or a picture of P channels (default %(default)s)")
    own.add_argument("--l1", type=float, default=100.0, metavar="X",
                     help="of pictures: what L1 counts in G's loss (default %(default)g)")
    own.add_argument("--arch", choices=ARCHS, default="dcgan", help="whose layers (default %(default)s)")
    own.add_argument("--d-norm", choices=NORMS, default="batch", help="how D is normalised (default %(default)s)")
    own.add_argument("--loss", choices=OBJECTIVES, default="bce", help="default %(default)s")
    own.add_argument("--augment", default="", metavar="CHANGES",
                     help=f"of what D sees: some of {','.join(CHANGES)} (default none)")
    for name in ("r1", "r2"):
        own.add_argument(f"--{name}", type=float, default=0.0, metavar="X", help="γ (default %(default)g)")
    own.add_argument("--penalty-every", type=int, default=1, metavar="N", help="iterations (default %(default)s)")
    for name, value in (("image-size", 64), ("width", 64), ("latent-dim", 100), ("batch-size", 16), ("steps", 5)):
        own.add_argument(f"--{name}", type=int, default=value, help="default %(default)s")
    ap.add_argument("--seed", type=int, default=1, help="of --make-own and --self-test (default 1)")
    a = ap.parse_args()
    if sum((a.file is not None, a.make_own is not None, a.self_test)) != 1:
        ap.error("give a FILE, or --make-own FILE, or --self-test")
    chosen = Limits(a.losses, a.gradient_median, a.gradient_worst, a.gradient_resolved, a.adam, a.buffers, a.factor)
    if a.device.startswith("cuda") and not torch.cuda.is_available():
        ap.error(f"--device {a.device}: PyTorch {torch.__version__} finds no GPU")
    if a.self_test:
        return 0 if self_test(chosen, a.seed, a.verbose) else 1
    if a.make_own is not None:
        if a.image_size not in IMAGE_SIZES:
            ap.error(f"--image-size must be one of {IMAGE_SIZES}")
        try:
            s = Settings(a.image_size, a.width, a.latent_dim, a.batch_size, a.steps, precision=a.precision,
                         **condition(a.condition), l1=a.l1,
                         **{name: getattr(a, name) for name in OPTIONS})
        except ValueError as error:
            ap.error(f"--condition {a.condition}: {error}")
        if min(s.latent_dim, s.width, s.batch_size) < 1 and not (s.condition == "picture" and s.latent_dim == 0):
            ap.error("--latent-dim must be at least 1, or 0 with a picture; --width and --batch-size at least 1")
        if [name for name in CHANGES if name in s.changes()] != s.changes():
            ap.error(f"--augment {s.augment}: some of {','.join(CHANGES)}, in that order")
        if min(s.r1, s.r2) < 0 or s.penalty_every < 1 or (s.penalties() and s.d_norm == "batch"):
            ap.error("--r1 and --r2 must not be negative, --penalty-every at least 1, and penalties need --d-norm none "
                     "or spectral")
        if s.arch == "sndcgan" and s.condition == "picture":
            ap.error("--arch sndcgan has no pictures")
        write(a.make_own, record_run(s, a.seed), s)
        print(f"wrote {a.make_own}")
        return 0
    try:
        dtype = torch.float64 if a.dtype == "f64" else torch.float32
        return 0 if check(a.file, dtype, chosen, a.kink, torch.device(a.device)) else 1
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
