#!/usr/bin/env python3
"""Shows that weights travel between dcgan-cuda and PyTorch, both ways, and give the same images.

    pip install torch numpy safetensors
    scripts/check_weights_pytorch.py runs/faces/checkpoints/step-000500 target/release/dcgan-cuda

From here to PyTorch: the network files of the checkpoint load into the reference modules of scripts/reference_dcgan.py
with `load_state_dict(strict=True)`, and `dcgan-cuda sample --latents` of the checkpoint gives the images that PyTorch's
generator gives in eval mode. The checkpoint folder as it is may sample either of its generators (which one is said);
each of them is also checked alone, as the only file of a folder.
From PyTorch to here: state_dicts made by PyTorch (random weights, a few passes in train mode) are sampled likewise.

Exit code 0: PASS, 1: FAIL, 2: wrong usage.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file
    from torch import Tensor
except ImportError as error:
    sys.exit(f"error: {error}. This script needs PyTorch: pip install torch numpy safetensors")

from reference_dcgan import Discriminator, Generator

FROM_PYTORCH = ((32, 4, 16), (64, 8, 100), (128, 4, 7))  # image size, width, latent dimension


class Checks:
    def __init__(self, binary: Path, device: str, count: int, tolerance: float, folder: Path) -> None:
        self.binary, self.device, self.count, self.tolerance, self.folder = binary, device, count, tolerance, folder
        self.passed = True

    def say(self, good: bool, text: str) -> None:
        self.passed &= good
        print(f"{'ok  ' if good else 'FAIL'} {text}", flush=True)

    def sample(self, checkpoint: Path, z: Tensor) -> Tensor:
        """The images that the binary makes of these latents; RuntimeError when it does not."""
        latents, images = self.folder / "latents.safetensors", self.folder / "images.safetensors"
        images.unlink(missing_ok=True)
        save_file({"z": z}, latents)
        command = [str(self.binary), "sample", "--checkpoint", str(checkpoint), "--latents", str(latents),
                   "--out", str(images), "--device", self.device]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()}")
        return load_file(images)["images"]

    def compare(self, what: str, checkpoint: Path, candidates: dict[str, Generator]) -> None:
        """The folder's images must be those of one of the candidates."""
        g = next(iter(candidates.values()))
        z = torch.randn(self.count, g.latent_dim)
        with torch.no_grad():
            want = {name: candidate.eval()(z) for name, candidate in candidates.items()}
        try:
            got = self.sample(checkpoint, z)
        except (RuntimeError, OSError, KeyError, SafetensorError) as error:
            return self.say(False, f"{what}: {error}")
        shape = tuple(next(iter(want.values())).shape)
        if tuple(got.shape) != shape or got.dtype != torch.float32:
            return self.say(False, f"{what}: images are {got.dtype} {tuple(got.shape)} instead of float32 {shape}")
        worst = {name: (got - images).abs().max().item() for name, images in want.items()}
        name = min(worst, key=lambda k: worst[k])
        self.say(worst[name] <= self.tolerance, f"{what}: images of {name}, largest difference {worst[name]:.1e}")

    def load(self, path: Path, kind: type[Generator] | type[Discriminator]) -> Generator | Discriminator | None:
        try:
            state = load_file(path)
            network = kind.from_state_dict(state)
        except (SafetensorError, OSError, ValueError, RuntimeError, IndexError) as error:
            self.say(False, f"{path.name}: {error}")
            return None
        wrong = [k for k, v in state.items()
                 if v.dtype != (torch.int64 if k.endswith("num_batches_tracked") else torch.float32)]
        self.say(not wrong, f"{path.name}: loads strictly, {network.image_size} px, width {network.width}"
                 + (f"; wrong types: {wrong}" if wrong else ""))
        return network

    def to_pytorch(self, checkpoint: Path) -> None:
        self.load(checkpoint / "discriminator.safetensors", Discriminator)
        files = [checkpoint / "generator.safetensors", checkpoint / "generator_ema.safetensors"]
        candidates: dict[str, Generator] = {}
        for path in files[: 2 if files[1].exists() else 1]:
            g = self.load(path, Generator)
            if isinstance(g, Generator):
                candidates[path.name] = g
        if not candidates:
            return
        self.compare("the checkpoint folder", checkpoint, candidates)
        for name, g in candidates.items():
            alone = self.folder / f"alone-{name}"
            alone.mkdir()
            shutil.copy(checkpoint / name, alone / "generator.safetensors")
            self.compare(f"{name} alone", alone, {name: g})

    def from_pytorch(self) -> None:
        for size, width, latent in FROM_PYTORCH:
            g = Generator(size, width, latent).train()
            with torch.no_grad():
                for p in g.parameters():
                    p.mul_(4) if p.dim() == 4 else p.add_(0.1 * torch.randn_like(p))
                for _ in range(5):
                    g(torch.randn(16, latent))
            made = self.folder / f"pytorch-{size}"
            made.mkdir()
            save_file(g.state_dict(), made / "generator.safetensors")
            self.compare(f"made by PyTorch, {size} px, width {width}, latent {latent}", made, {"its generator": g})


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
