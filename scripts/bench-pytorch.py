#!/usr/bin/env python3
"""Speed and memory of the DCGAN iteration: dcgan-cuda beside PyTorch, in one go, on the same device.

    pip install torch numpy safetensors
    cargo build --release
    scripts/bench-pytorch.py --device cpu
    scripts/bench-pytorch.py --device cuda --batch-size 128

PyTorch runs the reference iteration (D on real, D on G(z), Adam; D on G(z), Adam; no weight gradients of D in G's step)
in several configurations, the data already on the device. Each is measured once, and the one with the fastest iteration
then takes turns with `dcgan-cuda bench step`, so that both see the same machine. Every measurement is a process of its
own: peak memory is that process's. On a CPU both get the same number of threads and everything is f32; memory is the
peak resident set, with what importing PyTorch alone takes shown beside. On a GPU, configurations with `amp` compute in
bf16, as dcgan-cuda does by default, and PyTorch's memory is the peak its allocator handed out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Configuration:
    tf32: bool = False
    amp: bool = False
    channels_last: bool = False
    fused_adam: bool = False
    compiled: bool = False
    graph: bool = False
    # Tries kernels for every product while it compiles, which takes several minutes.
    autotune: bool = False


CPU = {
    "eager-fp32": Configuration(),
    "eager-fused": Configuration(fused_adam=True),
    "nhwc": Configuration(channels_last=True, fused_adam=True),
    "compile": Configuration(fused_adam=True, compiled=True),
    "compile-nhwc": Configuration(channels_last=True, fused_adam=True, compiled=True),
}
CUDA = {
    "eager-fp32": Configuration(),
    "eager-tf32": Configuration(tf32=True),
    "eager-amp": Configuration(tf32=True, amp=True),
    "amp-nhwc": Configuration(tf32=True, amp=True, channels_last=True, fused_adam=True),
    "graph": Configuration(tf32=True, amp=True, channels_last=True, fused_adam=True, graph=True),
    "compile": Configuration(tf32=True, amp=True, channels_last=True, fused_adam=True, compiled=True),
    "compile-graph": Configuration(True, True, True, True, True, True),
    "autotune-graph": Configuration(True, True, True, True, True, True, autotune=True),
}


def peak_resident_bytes() -> int:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def select(name: str) -> Any:
    """The device of that name, made the one that CUDA's calls without a device mean."""
    import torch

    device = torch.device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
    return device


def ceilings(a: argparse.Namespace) -> None:
    """Measures what bounds every program on this device, and prints one JSON object: a copy and a bf16 product."""
    import torch

    cuda = a.device != "cpu"
    device = select(a.device)

    def seconds(call: Any) -> float:
        """Of one call: the fastest of five times ten, after five to warm up."""
        found: list[float] = []
        for count in (5, 10, 10, 10, 10, 10):
            if cuda:
                torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(count):
                call()
            if cuda:
                torch.cuda.synchronize()
            found.append((time.perf_counter() - start) / count)
        return min(found[1:])

    # Far beyond any cache; on a CPU only to see that this runs.
    size = 2 << 30 if cuda else 16 << 20
    source = torch.empty(size, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    copy = seconds(lambda: target.copy_(source))
    del source, target
    n = 8192 if cuda else 256
    left, right = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = seconds(lambda: left @ right)
    print(json.dumps({
        "copy_tb_per_sec": 2 * size / copy / 1e12,
        "bf16_tflop_per_sec": 2 * n**3 / product / 1e12,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
    }))


def worker(a: argparse.Namespace) -> None:
    """Measures one PyTorch configuration in this process and prints one JSON object."""
    import torch
    from torch import nn

    from reference_dcgan import Discriminator, Generator

    imported = peak_resident_bytes()
    cuda = a.device != "cpu"
    device = select(a.device)
    c = (CUDA if cuda else CPU)[a.worker]
    torch.manual_seed(0)
    if cuda:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = c.tf32
        torch.backends.cudnn.benchmark = True
    else:
        torch.set_num_threads(a.threads)
    layout = torch.channels_last if c.channels_last else torch.contiguous_format
    g = Generator(a.image_size, a.width, a.latent_dim).to(device, memory_format=layout)
    d = Discriminator(a.image_size, a.width).to(device, memory_format=layout)
    options: dict[str, Any] = {"lr": 2e-4, "betas": (0.5, 0.999)}
    if c.fused_adam:
        options["fused"] = True
    if c.graph:
        options["capturable"] = True
    adam_d, adam_g = (torch.optim.Adam(network.parameters(), **options) for network in (d, g))
    mode = "max-autotune-no-cudagraphs" if c.autotune else None
    run_g, run_d = (torch.compile(n, mode=mode) for n in (g, d)) if c.compiled else (g, d)
    data = torch.rand(4, a.batch_size, 3, a.image_size, a.image_size, device=device) * 2 - 1  # taken in turn
    real = data[0].clone(memory_format=torch.contiguous_format).contiguous(memory_format=layout)
    one, zero = torch.ones(a.batch_size, device=device), torch.zeros(a.batch_size, device=device)
    bce = nn.BCEWithLogitsLoss()
    losses: list[torch.Tensor] = []

    def iteration() -> None:
        adam_d.zero_grad(set_to_none=not c.graph)
        adam_g.zero_grad(set_to_none=not c.graph)
        with torch.autocast(device.type, torch.bfloat16, enabled=c.amp):
            loss_real = bce(run_d(real).float(), one)
            fake = run_g(torch.randn(a.batch_size, a.latent_dim, device=device))
            loss_d = loss_real + bce(run_d(fake.detach()).float(), zero)
        loss_d.backward()
        adam_d.step()
        for p in d.parameters():
            p.requires_grad_(False)
        with torch.autocast(device.type, torch.bfloat16, enabled=c.amp):
            loss_g = bce(run_d(fake).float(), one)
        loss_g.backward()
        adam_g.step()
        for p in d.parameters():
            p.requires_grad_(True)
        losses[:] = [loss_d.detach(), loss_g.detach()]

    step = iteration
    if c.graph:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(4):
                iteration()
        torch.cuda.current_stream().wait_stream(stream)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            iteration()
        step = captured.replay

    def timed(count: int) -> float:
        """Seconds of one iteration, over `count` of them."""
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        for k in range(count):
            real.copy_(data[k % 4])
            step()
        if cuda:
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / count

    timed(2)  # warm-up, and compilation
    chunk = max(1, round(0.5 / timed(10))) if cuda else 1
    seconds: list[float] = []
    while sum(seconds) * chunk < a.seconds or len(seconds) < 3:
        seconds.append(timed(chunk))
    if not all(torch.isfinite(loss) for loss in losses):
        sys.exit("error: the losses are not finite")
    print(json.dumps({
        "images_per_sec": a.batch_size / statistics.median(seconds),
        "fastest_images_per_sec": a.batch_size / min(seconds),
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else peak_resident_bytes(),
        "import_bytes": 0 if cuda else imported,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "iterations": len(seconds) * chunk,
        "losses": [float(loss) for loss in losses],
    }))


def run(command: list[str], threads: int) -> dict[str, Any]:
    """Runs a measurement and parses the last line of its output. RuntimeError says what went wrong."""
    env = dict(os.environ)
    if threads:
        env |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise RuntimeError(f"`{' '.join(command)}` ended with {done.returncode}: {lines[-1]}")
    try:
        result = json.loads(done.stdout.strip().splitlines()[-1])
        result["images_per_sec"] = float(result["images_per_sec"])
    except (IndexError, KeyError, TypeError, ValueError) as error:
        what = f"`{' '.join(command)}`: its last line is not the expected JSON object ({error!r})"
        raise RuntimeError(what) from error
    return result


def mib(count: float) -> str:
    return f"{count / 2**20:.0f} MiB"


def compare(a: argparse.Namespace, binary: str) -> int:
    cuda = a.device != "cpu"
    configurations = CUDA if cuda else CPU
    threads = 0 if cuda else a.threads
    dimensions = ["--image-size", str(a.image_size), "--width", str(a.width), "--batch-size", str(a.batch_size)]
    ours_command = [binary, "bench", "step", "--device", a.device, *dimensions, "--json", "-"]
    if cuda:
        print("PyTorch's configurations run on the GPU, as does dcgan-cuda; close what else uses it.")

    def pytorch(name: str, seconds: float) -> dict[str, Any]:
        return run([sys.executable, __file__, "--worker", name, "--device", a.device, *dimensions, "--latent-dim",
                    str(a.latent_dim), "--threads", str(a.threads), "--seconds", str(seconds)], threads)

    print(f"{a.image_size} px, width {a.width}, batch {a.batch_size}, {a.device}"
          + (f", {threads} threads" if threads else ""), flush=True)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if not cuda and load > 0.5:
        print(f"note: the load average is {load:.1f}: other programs are running. They slow PyTorch down more than in "
              "proportion, since its threads wait for each other; believe only what a quiet machine says")
    found: dict[str, dict[str, Any]] = {}
    for name in configurations:
        try:
            found[name] = pytorch(name, a.seconds / a.rounds)
        except RuntimeError as error:
            print(f"  PyTorch {name:13} failed: {error}", flush=True)
            continue
        print(f"  PyTorch {name:13} {found[name]['images_per_sec']:10.1f} images/s (fastest "
              f"{found[name]['fastest_images_per_sec']:.1f})   peak {mib(found[name]['peak_bytes'])}", flush=True)
    if not found:
        print("error: no configuration of PyTorch ran", file=sys.stderr)
        return 1
    best = max(found, key=lambda n: found[n]["fastest_images_per_sec"])
    print(f"strongest: {best}. Taking turns, {a.rounds} rounds:", flush=True)
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for k in range(a.rounds):
        try:
            if not a.pytorch_only:
                ours.append(run(ours_command, threads))
            theirs.append(pytorch(best, a.seconds / a.rounds))
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        left = f"dcgan-cuda {ours[-1]['images_per_sec']:10.1f} images/s   " if ours else ""
        print(f"  round {k + 1}: {left}PyTorch {theirs[-1]['images_per_sec']:10.1f} images/s", flush=True)

    their_speed = statistics.median(r["images_per_sec"] for r in theirs)
    their_peak = statistics.median(r["peak_bytes"] for r in theirs)
    smallest = min(found, key=lambda n: found[n]["peak_bytes"])
    kind = "of its allocator" if cuda else f"resident, {mib(theirs[0]['import_bytes'])} of it importing PyTorch"
    print(f"PyTorch {theirs[0]['torch']} on {theirs[0]['device']}, {best}: {their_speed:.1f} images/s, peak "
          f"{mib(their_peak)} {kind}; least memory: {smallest}, {mib(found[smallest]['peak_bytes'])}")
    summary: dict[str, Any] = {"image_size": a.image_size, "width": a.width, "batch_size": a.batch_size,
                               "device": theirs[0]["device"], "threads": threads, "pytorch": found,
                               "pytorch_best": best, "pytorch_images_per_sec": their_speed,
                               "pytorch_peak_bytes": their_peak}
    if ours:
        our_speed = statistics.median(r["images_per_sec"] for r in ours)
        our_peak = statistics.median(float(r.get("peak_rss_bytes") or 0) for r in ours)
        memory = f", peak {mib(our_peak)} resident" if our_peak else ""
        print(f"dcgan-cuda on {ours[0].get('device', a.device)}: {our_speed:.1f} images/s{memory}")
        fastest = max(r["images_per_sec"] for r in ours) / max(r["images_per_sec"] for r in theirs)
        print(f"ratio dcgan-cuda / PyTorch: speed {our_speed / their_speed:.2f} (of the fastest rounds {fastest:.2f})"
              + (f", memory {our_peak / their_peak:.2f}" if our_peak and not cuda else ""))
        summary |= {"images_per_sec": our_speed, "peak_rss_bytes": our_peak, "ratio": our_speed / their_speed}
    if a.json:
        a.json.write_text(json.dumps(summary, indent=1) + "\n")
    return 0


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default %(default)s)")
    for name, value in (("image-size", 64), ("width", 64), ("batch-size", 64), ("latent-dim", 100)):
        ap.add_argument(f"--{name}", type=int, default=value, help="default %(default)s")
    ap.add_argument("--seconds", type=float, default=60, help="for each PyTorch configuration (default %(default)g)")
    ap.add_argument("--rounds", type=int, default=3, help="turns of both (default and least %(default)s)")
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ap.add_argument("--threads", type=int, default=cpus, help="on a CPU, for both (default %(default)s)")
    ap.add_argument("--binary", default="target/release/dcgan-cuda", help="default %(default)s")
    ap.add_argument("--pytorch-only", action="store_true", help="leave dcgan-cuda out")
    ap.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    # Single measurements, also for scripts/verify-gpu.
    ap.add_argument("--worker", choices=(*CPU, *(name for name in CUDA if name not in CPU)), help=argparse.SUPPRESS)
    ap.add_argument("--ceilings", action="store_true", help=argparse.SUPPRESS)
    a = ap.parse_args()
    if importlib.util.find_spec("torch") is None:
        ap.error("PyTorch is not installed for this Python: pip install torch numpy safetensors")
    if a.ceilings:
        ceilings(a)
        return 0
    if a.rounds < 3 and not a.worker:
        ap.error("--rounds must be at least 3")
    if a.worker:
        worker(a)
        return 0
    binary = shutil.which(a.binary) or shutil.which(str(Path.cwd() / a.binary))
    if binary is None and not a.pytorch_only:
        ap.error(f"{a.binary} is not there; build it with `cargo build --release`, or name it with --binary, "
                 "or use --pytorch-only")
    return compare(a, binary or "")


if __name__ == "__main__":
    sys.exit(main())
