#!/usr/bin/env python3
"""Shows that weights travel between dcgan-cuda and PyTorch, both ways, and give the same images.

    pip install torch numpy safetensors
    scripts/check_weights_pytorch.py runs/faces/checkpoints/step-000500 target/release/dcgan-cuda

From here to PyTorch: the network files of the checkpoint load into the reference modules of scripts/reference_dcgan.py
with `load_state_dict(strict=True)`, and `dcgan-cuda sample --latents` of the checkpoint gives the images that PyTorch's
generator gives in eval mode. The checkpoint folder as it is may sample either of its generators (which one is said);
each of them is also checked alone, as the only file of a folder.
From PyTorch to here: state_dicts made by PyTorch (random weights, a few passes in train mode) are sampled likewise.

Of a run with labels (a `conditions.json` in its checkpoints), some of its conditions are sampled with `--condition`
and compared; how many labels there are is read off the discriminator. Of a run with pictures the networks must load,
and fit each other; `sample` makes no images of it.

Exit code 0: PASS, 1: FAIL, 2: wrong usage.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

try:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file
    from torch import Tensor
except ImportError as error:
    sys.exit(f"error: {error}. This script needs PyTorch: pip install torch numpy safetensors")

from reference_dcgan import Discriminator, Generator, PatchDiscriminator, UnetGenerator

FROM_PYTORCH = ((32, 4, 16), (64, 8, 100), (128, 4, 7))  # image size, width, latent dimension
Network = Generator | Discriminator | UnetGenerator | PatchDiscriminator
CONDITIONS = "conditions.json"
MOST_CONDITIONS = 3  # of a run are sampled
# Of what PyTorch makes.
CLASSES = {"kind": "classes", "names": ["cat", "dog", "heron"], "images": [5, 3, 2]}
ATTRIBUTES = {"kind": "attributes", "names": ["Male", "Smiling"], "rows": ["+-", "--"]}


def wanted(conditions: dict) -> list[tuple[str, list[float]]]:
    """Some of a run's conditions: what `--condition` takes, and y."""
    names = conditions["names"]
    if conditions["kind"] == "classes":
        # Of no other class images are made.
        seen = [i for i, images in enumerate(conditions["images"]) if images]
        chosen = sorted({seen[0], seen[len(seen) // 2], seen[-1]})
        return [(f"class={names[i]}", [float(i == k) for k in range(len(names))]) for i in chosen]
    # As they are typed: a backslash makes what follows part of a name.
    typed = [name.replace("\\", "\\\\").replace(",", "\\,") for name in names]
    signed = {"+": ["\\" * name.startswith("-") + name for name in typed], "-": ["-" + name for name in typed]}
    rows = list(dict.fromkeys(conditions["rows"]))[:MOST_CONDITIONS]
    return [(",".join(signed[sign][i] for i, sign in enumerate(row)), [1.0 if sign == "+" else -1.0 for sign in row])
            for row in rows]


class Checks:
    def __init__(self, binary: Path, device: str, count: int, tolerance: float, folder: Path) -> None:
        self.binary, self.device, self.count, self.tolerance, self.folder = binary, device, count, tolerance, folder
        self.passed = True

    def say(self, good: bool, text: str) -> None:
        self.passed &= good
        print(f"{'ok  ' if good else 'FAIL'} {text}", flush=True)

    def sample(self, checkpoint: Path, z: Tensor, condition: str | None = None) -> Tensor:
        """The images that the binary makes of these latents; RuntimeError when it does not."""
        latents, images = self.folder / "latents.safetensors", self.folder / "images.safetensors"
        images.unlink(missing_ok=True)
        save_file({"z": z}, latents)
        command = [str(self.binary), "sample", "--checkpoint", str(checkpoint), "--latents", str(latents),
                   "--out", str(images), "--device", self.device]
        # With =, since a condition may begin with a minus.
        command += [] if condition is None else [f"--condition={condition}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()}")
        return load_file(images)["images"]

    def compare(self, what: str, checkpoint: Path, candidates: dict[str, Generator]) -> None:
        """The folder's images must be those of one of the candidates, in each of some conditions where it has them."""
        g = next(iter(candidates.values()))
        if not g.labels:
            return self.compare_in(what, checkpoint, candidates)
        try:
            conditions = json.loads((checkpoint / CONDITIONS).read_text(encoding="utf-8"))
            of_each = wanted(conditions)
        except (OSError, ValueError, KeyError, IndexError) as error:
            return self.say(False, f"{what}: {CONDITIONS}: {type(error).__name__}: {error}")
        if len(conditions["names"]) != g.labels:
            return self.say(False, f"{what}: {CONDITIONS} names {len(conditions['names'])} of {g.labels} labels")
        for condition, y in of_each:
            self.compare_in(f"{what}, {condition}", checkpoint, candidates, condition, y)

    def compare_in(
        self, what: str, checkpoint: Path, candidates: dict[str, Generator], condition: str | None = None,
        y: list[float] | None = None,
    ) -> None:
        """As `compare`, of one condition."""
        g = next(iter(candidates.values()))
        z = torch.randn(self.count, g.latent_dim)
        given = (z,) if y is None else (z, torch.tensor(y).repeat(self.count, 1))
        with torch.no_grad():
            want = {name: candidate.eval()(*given) for name, candidate in candidates.items()}
        try:
            got = self.sample(checkpoint, z, condition)
        except (RuntimeError, OSError, KeyError, SafetensorError) as error:
            return self.say(False, f"{what}: {error}")
        shape = tuple(next(iter(want.values())).shape)
        if tuple(got.shape) != shape or got.dtype != torch.float32:
            return self.say(False, f"{what}: images are {got.dtype} {tuple(got.shape)} instead of float32 {shape}")
        worst = {name: (got - images).abs().max().item() for name, images in want.items()}
        name = min(worst, key=lambda k: worst[k])
        self.say(worst[name] <= self.tolerance, f"{what}: images of {name}, largest difference {worst[name]:.1e}")

    def load(self, path: Path, make: Callable[[dict[str, Tensor]], Network]) -> Network | None:
        """The network that `make` makes of the file's tensors."""
        try:
            state = load_file(path)
            network = make(state)
        except (SafetensorError, OSError, ValueError, RuntimeError, IndexError, KeyError) as error:
            self.say(False, f"{path.name}: {error}")
            return None
        wrong = [k for k, v in state.items()
                 if v.dtype != (torch.int64 if k.endswith("num_batches_tracked") else torch.float32)]
        size = f"{network.image_size} px, " if hasattr(network, "image_size") else "patches, "
        labels = f", {network.labels} labels" if getattr(network, "labels", 0) else ""
        self.say(not wrong, f"{path.name}: loads strictly, {size}width {network.width}{labels}"
                 + (f"; wrong types: {wrong}" if wrong else ""))
        return network

    def to_pytorch(self, checkpoint: Path) -> None:
        files = [checkpoint / "generator.safetensors", checkpoint / "generator_ema.safetensors"]
        files = files[: 2 if files[1].exists() else 1]
        try:
            if "model.model.0.weight" in load_file(files[0]):
                return self.to_pytorch_with_pictures(checkpoint / "discriminator.safetensors", files)
        except (SafetensorError, OSError):
            # `load` says so.
            pass
        d = self.load(checkpoint / "discriminator.safetensors", Discriminator.from_state_dict)
        labels = d.labels if isinstance(d, Discriminator) else 0
        candidates: dict[str, Generator] = {}
        for path in files:
            g = self.load(path, lambda state: Generator.from_state_dict(state, labels))
            if isinstance(g, Generator):
                candidates[path.name] = g
        if not candidates:
            return
        self.compare("the checkpoint folder", checkpoint, candidates)
        for name, g in candidates.items():
            alone = self.folder / f"alone-{name}"
            alone.mkdir()
            shutil.copy(checkpoint / name, alone / "generator.safetensors")
            if labels and (checkpoint / CONDITIONS).exists():
                shutil.copy(checkpoint / CONDITIONS, alone)
            self.compare(f"{name} alone", alone, {name: g})

    def to_pytorch_with_pictures(self, discriminator: Path, generators: list[Path]) -> None:
        """What D has of channels beside those of G's images are the picture's; what G has beside these is z."""
        try:
            images = load_file(generators[0])["model.model.3.weight"].shape[1]
            picture = load_file(discriminator)["main.0.weight"].shape[1] - images
        except (SafetensorError, OSError, KeyError, IndexError) as error:
            return self.say(False, f"{discriminator.name}: {type(error).__name__}: {error}")
        d = self.load(discriminator, lambda state: PatchDiscriminator.from_state_dict(state, picture))
        for path in generators:
            g = self.load(path, lambda state: UnetGenerator.from_state_dict(
                state, state["model.model.0.weight"].shape[1] - picture))
            if not isinstance(g, UnetGenerator) or not isinstance(d, PatchDiscriminator):
                continue
            seen = torch.rand(2, picture, g.image_size, g.image_size) * 2 - 1
            z = torch.randn(2, g.latent_dim) if g.latent_dim else None
            with torch.no_grad():
                made = g.eval()(seen, z)
                logits = d.eval()(made, seen)
            good = bool(made.isfinite().all() and made.abs().max() <= 1 and logits.isfinite().all())
            self.say(good, f"{path.name}: pictures of {picture} channels and z of {g.latent_dim} give images "
                     f"{tuple(made.shape[1:])}, and those logits {tuple(logits.shape[1:])}")

    def from_pytorch(self) -> None:
        for size, width, latent in FROM_PYTORCH:
            self.made_by_pytorch(size, width, latent)
        done = subprocess.run([str(self.binary), "sample", "--help"], capture_output=True, text=True)
        if "--condition" not in done.stdout:
            print(f"not checked: labels from PyTorch; `{self.binary} sample` has no --condition")
            return
        for conditions in (CLASSES, ATTRIBUTES):
            self.made_by_pytorch(32, 4, 16, conditions)

    def made_by_pytorch(self, size: int, width: int, latent: int, conditions: dict | None = None) -> None:
        y = torch.tensor([y for _, y in wanted(conditions)]) if conditions else torch.zeros(0, 0)
        g = Generator(size, width, latent, labels=y.shape[1]).train()
        with torch.no_grad():
            for p in g.parameters():
                p.mul_(4) if p.dim() == 4 else p.add_(0.1 * torch.randn_like(p))
            for _ in range(5):
                z = torch.randn(16, latent)
                g(z) if conditions is None else g(z, y[torch.randint(len(y), (16,))])
        of = f", {conditions['kind']}" if conditions else ""
        made = self.folder / f"pytorch-{size}{of.replace(', ', '-')}"
        made.mkdir()
        save_file(g.state_dict(), made / "generator.safetensors")
        if conditions:
            (made / CONDITIONS).write_text(json.dumps(conditions), encoding="utf-8")
        self.compare(f"made by PyTorch, {size} px, width {width}, latent {latent}{of}", made, {"its generator": g})


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("checkpoint", type=Path, help="a checkpoint folder that `train` wrote")
    ap.add_argument("binary", type=Path, help="the dcgan-cuda binary")
    ap.add_argument("--device", default="cpu", help="the binary's --device (default %(default)s)")
    ap.add_argument("--count", type=int, default=9, help="images a check (default %(default)s)")
    ap.add_argument("--tolerance", type=float, default=1e-4, help="largest difference of a value (default %(default)g)")
    ap.add_argument("--seed", type=int, default=1, help="default %(default)s")
    a = ap.parse_args()
    if not a.checkpoint.is_dir():
        ap.error(f"{a.checkpoint} is not a folder")
    binary = shutil.which(a.binary) or shutil.which(Path.cwd() / a.binary)
    if binary is None:
        ap.error(f"{a.binary} is not a program; build it with `cargo build --release`")
    torch.manual_seed(a.seed)
    with tempfile.TemporaryDirectory() as folder:
        checks = Checks(Path(binary), a.device, a.count, a.tolerance, Path(folder))
        checks.to_pytorch(a.checkpoint)
        checks.from_pytorch()
    print("PASS" if checks.passed else "FAIL")
    return 0 if checks.passed else 1


if __name__ == "__main__":
    sys.exit(main())
