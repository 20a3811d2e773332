"""The model behind scripts/predict-iteration: what a launch costs on a GPU, by its kernel, grid and arguments.

Constants first, each with its source; then the trace, as the emulated driver writes it (EMULATED_RUN=0,
docs/kernels.md); then a rule for each kernel (`Model.RULES`). A kernel without a rule is an error.
"""

from __future__ import annotations

import math
import re
import struct
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

# ---- Constants, each with its source ---------------------------------------------------------------------------------

# NVIDIA's data sheets and tuning guides (Ampere, Ada, Hopper): multiprocessors, boost clock in GHz, memory in TB/s, L2
# in MB, threads and KB of shared memory a multiprocessor, dense bf16 FLOP a clock and multiprocessor with f32 sums.
# The H100's clock is what its data sheet's 989 TFLOP/s implies.
GPUS = {
    "h100": {"sm": 132, "clock": 1.755, "hbm": 3.35, "l2": 50, "threads": 2048, "shared": 228, "flop": 4096},
    "h200": {"sm": 132, "clock": 1.755, "hbm": 4.80, "l2": 50, "threads": 2048, "shared": 228, "flop": 4096},
    "a100": {"sm": 108, "clock": 1.410, "hbm": 2.04, "l2": 40, "threads": 2048, "shared": 164, "flop": 2048},
    "rtx4090": {"sm": 128, "clock": 2.520, "hbm": 1.01, "l2": 72, "threads": 1536, "shared": 100, "flop": 512},
}
# Microseconds of a node of a graph that is one chain: dependency, ramp up and drain. Assumed.
NODE_US, COPY_NODE_US = 2.0, 4.0
# Streaming kernels reach this much of the memory's bandwidth, and twelve Adam streams this much. Assumed.
STREAM_OF_HBM, ADAM_OF_HBM = 3.0 / 3.35, 2.8 / 3.35
# L2's bandwidth in TB/s on an H100, and the part of it that stays there between two launches. Assumed.
L2_TB, L2_KEEPS = 4.0, 0.7
# Cycles that a load takes out of L2 and out of memory, at an H100's clock. Assumed, from published microbenchmarks.
L2_LATENCY, HBM_LATENCY = 400, 600
# Cycles of a multiprocessor for a stage (k = 32) of a 128x64 tile: the largest of 48 ldmatrix and the stores to shared
# memory (288), 12,288 bytes out of L2 at 30 bytes a clock (410), and issue (223, 310, 342 instructions a warp, counted
# in sm_90a SASS), with a tenth to a quarter on top. Other tiles take of it what their operands' bytes are to those of
# this one: a 128x128 tile's loops are 231, 339, 230 instructions for each of 8 warps, 462, 678, 460 cycles of issue,
# where this gives it 600, 667, 693.
STAGE = {"gather": 450, "scatter": 500, "wgrad": 520}
# A stage of a tile that warpgroups multiply (k = 64): instructions a warp, of eight warps, counted in sm_90a SASS; and the
# bytes a clock that a multiprocessor gets out of L2, assumed as above. The tensor cores may take longer than either.
WARPGROUP_STAGE = {"gather": 231, "scatter": 335, "wgrad": 330}
L2_BYTES = 30
# mma.sync reaches this much of the peak on Hopper, whose peak is wgmma's; elsewhere nearly all. Published.
MMA_OF_PEAK = {4096: 0.62}
# A block alone on its multiprocessor hides less; where hardly any has a neighbour, a stage is the loads' latency.
ALONE, LONELY_STAGE = 1.2, 350
# Prologue and epilogue of a tile, cycles: partly hidden behind other blocks, or not.
TILE_CYCLES, TILE_CYCLES_ALONE = 1500, 3000
# The loop that takes single elements (`_any`), counted in SASS: instructions a warp and stage, by pass, for image
# channels and otherwise; outside of the loop; and the part of issue slots that is used.
ANY = {"gather": (1900, 1900, 450), "scatter": (840, 2085, 450), "wgrad": (1150, 490, 450)}
ANY_ISSUE, ANY_STAGE_LATENCY = 0.70, 700
# Streaming kernels: loads of 16 bytes in sequence a row, maps read and written, cycles of instructions a row and
# resident block (SASS), rows whose loads are under way together. By name: one load after the other before the sums
# finished themselves (a kernel batch_norm_finalize in the trace), several at a time since.
STREAMS = {
    "batch_norm_statistics": (1, 1, 60, 8),
    "batch_norm_apply": (1, 2, 250, 4),
    "batch_norm_backward_reduce": (2, 2, 400, 4),
    "batch_norm_backward_apply": (2, 3, 400, 2),
}
# Cycles of a last block that adds what the others left: its launch's other blocks are done by then. Assumed.
LAST_BLOCK = 1500
# Two f64 powers in one thread, and a loss over a few logits. Assumed, µs.
ADAM_FINISH_US, LOSS_US, SMALL_US = 3.0, 1.5, 2.5
ADAM_CHUNK = 4096

GROUPS = {
    "main": "main convolutions",
    "any": "image layers and other _any convolutions",
    "collapse": "collapse layer forward",
    "stream": "BN streaming",
    "finalize": "BN finalize",
    "reduce": "wgrad reduce",
    "adam": "Adam",
    "copy": "memcpy nodes",
    "rest": "rest",
}


def ceil(a: float, b: float) -> int:
    return -int(-a // b)


def fail(message: str) -> None:
    sys.exit(f"error: {message}")


# ---- The trace -------------------------------------------------------------------------------------------------------


@dataclass
class Node:
    """A node of the recorded iteration, or a launch that was tried for one."""

    kind: str
    name: str
    grid: tuple[int, int, int] = (1, 1, 1)
    threads: int = 0
    arguments: list[str] = field(default_factory=list)
    bytes: int = 0
    # Dynamic.
    shared: int = 0

    @property
    def blocks(self) -> int:
        return math.prod(self.grid)

    @property
    def numbers(self) -> list[int]:
        """The 32-bit arguments."""
        return [int.from_bytes(bytes.fromhex(a), "little") for a in self.arguments if len(a) == 8 and a[0] != "p"]

    def structure(self, size: int) -> bytes | None:
        found = [a for a in self.arguments if len(a) == 2 * size and a[0] != "p"]
        return bytes.fromhex(found[0]) if found else None

    def first_structure(self) -> int | None:
        """Where its first argument is that holds a Convolution, at least."""
        return next((i for i, a in enumerate(self.arguments) if a[0] != "p" and len(a) >= 2 * 36), None)

    @property
    def base(self) -> str:
        """The name without type and layout."""
        return re.sub(r"_(f32|f16|bf16)(?=_|$)", "", self.name).replace("_nhwc", "")

    @property
    def size(self) -> int:
        return 4 if "_f32" in self.name else 2


def parse(text: str) -> tuple[list[Node], list[Node], dict]:
    """The nodes of the last graph that was launched, all kernels that ran, and registers and shared memory by name."""
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    resources = {f[1]: (int(f[2]), int(f[3])) for f in lines if f[0] == "ptxas"}
    # A compact trace has words where a whole one has the number of the stream.
    tried = [node(f[1:]) for f in lines if f[0] == "tried" or (f[0] != "node" and f[1] == "kernel")]
    nodes = [node(f[1:]) for f in lines if f[0] == "node"]
    graphs = [i for i, f in enumerate(lines) if f[1] == "graph"]
    if graphs and not nodes:
        at = graphs[-1]
        nodes = [node(f[1:]) for f in lines[at + 1 : at + 1 + int(lines[at][3])]]
    if not nodes:
        fail("the trace has no graph: was it made with EMULATED_RUN=0?")
    return nodes, tried, resources


def node(fields: list[str]) -> Node:
    kind, name, *rest = fields
    if kind != "kernel":
        return Node(kind, name, bytes=int(rest[0]) if rest else 0)
    grid = tuple(int(n) for n in rest[0].split(","))
    threads, _, shared = rest[1].partition("+")
    return Node(kind, name, grid, int(threads), rest[2:], shared=int(shared or 0))


def compact(nodes: list[Node], tried: list[Node], resources: dict) -> str:
    """What `parse` needs, in a tenth of the bytes: pointers are null (`p0`) or not (`p`)."""

    def line(word: str, n: Node) -> str:
        if n.kind != "kernel":
            return f"{word} {n.kind} {n.name} {n.bytes}"
        arguments = [("p0" if a == "p0" else "p") if a[0] == "p" else a for a in n.arguments]
        threads = f"{n.threads}+{n.shared}" if n.shared else str(n.threads)
        return " ".join([word, n.kind, n.name, ",".join(map(str, n.grid)), threads, *arguments])

    ours = [n for n in tried if n.base.startswith("conv")]
    # The order of what was tried says nothing.
    candidates = sorted({line("tried", n) for n in ours})
    used = sorted({n.name for n in nodes + ours if n.name in resources})
    registers = [f"ptxas {name} {resources[name][0]} {resources[name][1]}" for name in used]
    return "\n".join(registers + candidates + [line("node", n) for n in nodes]) + "\n"


# ---- The model -------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    what: str
    kernel: str
    grid: int | None
    occupancy: int | None
    waves: float
    flop: float
    bytes: float
    us: float
    bound: str
    group: str


@dataclass
class Shape:
    """Convolution of convolution.cuh, and the pass that a kernel makes of it."""

    n: int
    small_h: int
    small_w: int
    k: int
    large_h: int
    large_w: int
    c: int
    stride: int
    pad: int

    @property
    def pixels(self) -> int:
        return self.n * self.small_h * self.small_w

    @property
    def small(self) -> int:
        return self.pixels * self.k

    @property
    def large(self) -> int:
        return self.n * self.large_h * self.large_w * self.c

    @property
    def taps(self) -> int:
        """3×3 where both maps are of one size, else 4×4."""
        return 9 if (self.stride, self.pad) == (1, 1) else 16

    @property
    def weights(self) -> int:
        return self.taps * self.k * self.c

    def __str__(self) -> str:
        return f"n{self.n} {self.small_h}x{self.small_w}x{self.k} - {self.large_h}x{self.large_w}x{self.c}"


def shape_of(n: Node) -> Shape | None:
    """From its first structure, whatever else is behind the nine numbers."""
    at = n.first_structure()
    return Shape(*struct.unpack_from("<9I", bytes.fromhex(n.arguments[at]))) if at is not None else None


PASSES = {"conv2d_fprop": "gather", "conv_transpose2d_fprop": "scatter", "conv_wgrad": "wgrad",
          "conv_transpose2d_parities": "scatter"}  # fmt: skip


def pass_of(n: Node) -> str | None:
    found = re.match(r"(conv\w*?)_\d+x\d+", n.base)
    return PASSES.get(found.group(1)) if found else None


class Model:
    def __init__(self, gpu: dict, resources: dict, whole_trace: list[Node]):
        self.gpu, self.resources = gpu, resources
        self.sm, self.hz = gpu["sm"], gpu["clock"] * 1e9
        # Latencies are nanoseconds, whatever the clock.
        self.faster = gpu["clock"] / GPUS["h100"]["clock"]
        names = {n.base for n in whole_trace}
        self.serial_loads = "batch_norm_finalize" in names
        self.reduces = "conv_wgrad_reduce" in names

    # µs

    def cycles(self, count: float) -> float:
        return count / self.hz * 1e6

    def traffic(self, size: float, of_hbm: float = STREAM_OF_HBM) -> float:
        """Of bytes that the launch before has left in L2, or of more than L2 keeps."""
        l2 = L2_TB * 1e12 * self.sm * self.hz / (GPUS["h100"]["sm"] * GPUS["h100"]["clock"] * 1e9)
        return size / (l2 if self.in_l2(size) else of_hbm * self.gpu["hbm"] * 1e12) * 1e6

    def in_l2(self, size: float) -> bool:
        return size < L2_KEEPS * self.gpu["l2"] * 1e6

    def occupancy(self, n: Node) -> int:
        if n.name not in self.resources:
            fail(f"ptxas says nothing of {n.name}: was the trace made by a build with nvcc?")
        registers, shared = self.resources[n.name]
        warps = ceil(n.threads, 32)
        by_registers = 65536 // (ceil(registers * 32, 256) * 256) // warps
        by_shared = self.gpu["shared"] * 1024 // (shared + n.shared + 1024)
        return max(1, min(by_registers, by_shared, self.gpu["threads"] // n.threads, 32))

    def row(self, n: Node, what: str, us: float, bound: str, group: str, size: float, flop: float = 0.0) -> Row:
        occupancy = self.occupancy(n)
        waves = n.blocks / (self.sm * occupancy)
        return Row(what, n.name, n.blocks, occupancy, waves, flop, size, us, bound, group)

    # Convolutions

    def depth(self, n: Node, shape: Shape, kind: str) -> int:
        """Products that a block sums for one element."""
        numbers = n.numbers
        if len(numbers) >= 2:
            # …, depth, group: the splits of kernels that finish themselves.
            split = numbers[-2]
        elif kind == "wgrad":
            split = numbers[-1]
        else:
            split = 1 << 31
        if kind == "gather":
            whole = shape.taps * shape.c
        elif kind == "wgrad":
            whole = shape.pixels
        elif "parities" in n.name:
            whole = 9 * shape.k
        elif shape.taps == 9:
            whole = 9 * shape.k
        else:
            # Where the small map is one pixel, each pixel of the large one meets it through one tap.
            whole = shape.k if shape.small_h * shape.small_w == 1 else 4 * shape.k
        return min(split, whole) if split else whole

    def convolution(self, n: Node) -> Row:
        shape, kind = shape_of(n), pass_of(n)
        tile_m, tile_n = map(int, re.search(r"_(\d+)x(\d+)", n.name).groups())
        steps = ceil(self.depth(n, shape, kind), 32)
        splits = n.grid[2]
        flop = 2 * shape.taps * shape.pixels * shape.k * shape.c
        size = n.size * (shape.small + shape.large + (0 if kind == "wgrad" else shape.weights))
        if kind == "wgrad":
            size += 4 * shape.weights
        if splits > 1 and self.reduces:
            size += 4 * shape.weights * (splits - 1)
        another = 0
        if splits > 1 and not self.reduces:
            # Every block leaves its whole tile in f32, which is read once.
            another = 2 * 4 * n.blocks * tile_m * tile_n
        another += self.epilogue_map(n) * n.size * (shape.large if kind == "scatter" else shape.small)
        size += another
        what = f"{kind} {shape}" + (f" / {splits}" if splits > 1 else "")
        if n.name.endswith("_any"):
            us, bound = self.element_loop(n, kind, shape, steps)
        else:
            us, bound = self.vector_loop(n, kind, steps, tile_m, tile_n)
        # The loop reads its maps at L2's pace at best; what is read and left behind it comes on top.
        traffic = self.traffic(size)
        if traffic > us:
            us, bound = traffic, "memory"
        us += NODE_US + (self.traffic(another) if another else 0.0)
        if splits > 1 and not self.reduces:
            us += self.cycles(LAST_BLOCK + ceil(splits, 4) * HBM_LATENCY * self.faster)
        one_pixel = shape.small_h * shape.small_w == 1 and shape.taps == 16
        if one_pixel and kind == "gather" and shape.k <= 8:
            group = "collapse"
        else:
            small = n.name.endswith("_any") or shape.c <= 8 or one_pixel
            group = "any" if small else "main"
        return self.row(n, what, us, bound, group, size, flop)

    def epilogue_map(self, n: Node) -> int:
        """Maps that the epilogue reads: `other`, behind kind and activation."""
        behind = n.arguments[n.first_structure() + 1 :]
        has = len(behind) >= 3 and behind[2][0] == "p" and behind[0][0] != "p" and behind[2] != "p0"
        return 1 if has and pass_of(n) != "wgrad" else 0

    def vector_loop(self, n: Node, kind: str, steps: int, tile_m: int, tile_n: int) -> tuple[float, str]:
        of_peak = MMA_OF_PEAK.get(self.gpu["flop"], 0.9)
        tensor = 2 * tile_m * tile_n * 32 / (self.gpu["flop"] * of_peak)
        # The operands' bytes a stage, against those of a 128x64 tile.
        stage = max(STAGE[kind] * (tile_m + tile_n) / 192, tensor)
        if n.name.endswith("_wgmma"):
            steps = ceil(steps, 2)
            tensor = 2 * tile_m * tile_n * 64 / self.gpu["flop"]
            copies = (tile_m + tile_n) / 256
            stage = max(tensor, (tile_m + tile_n) * 128 / L2_BYTES, WARPGROUP_STAGE[kind] * 8 / 4 * copies)
        blocks = ceil(n.blocks, self.sm)
        if n.blocks <= self.sm // 4:
            return self.cycles(steps * LONELY_STAGE * self.faster), f"latency: {n.blocks} blocks, {steps} stages each"
        if blocks == 1:
            return self.cycles(steps * stage * ALONE + TILE_CYCLES_ALONE), "latency: one block a multiprocessor"
        tiles = TILE_CYCLES * blocks / min(self.occupancy(n), blocks)
        bound = "tensor cores" if stage == tensor else "L2 to shared memory, wave tail"
        return self.cycles(blocks * steps * stage + tiles), bound

    def element_loop(self, n: Node, kind: str, shape: Shape, steps: int) -> tuple[float, str]:
        image, other, outside = ANY[kind]
        instructions = image if shape.c <= 4 else other
        warps = ceil(n.threads, 32) * ceil(n.blocks, self.sm) * self.sm
        issue = warps * (steps * instructions + outside) / (self.sm * 4) / ANY_ISSUE
        latency = steps * ANY_STAGE_LATENCY * self.faster + TILE_CYCLES_ALONE
        return self.cycles(max(issue, latency)), "instruction issue" if issue > latency else "latency"

    def reduce(self, n: Node) -> Row:
        count, splits = n.numbers[-2:]
        size = 4 * count * (splits + 1)
        serial = ceil(splits, 4) * HBM_LATENCY * self.faster * ceil(n.blocks, self.sm * 8)
        us = max(size / (STREAM_OF_HBM * self.gpu["hbm"] * 1e12) * 1e6, self.cycles(serial))
        return self.row(n, f"{count} weights / {splits}", NODE_US + us, "memory, latency", "reduce", size)

    # Batch norm

    def batch_norm(self, n: Node) -> Row:
        loads, maps, row_cycles, together = STREAMS[n.base]
        sums = n.structure(56)
        numbers = n.numbers
        if sums:
            rows, c, per_chunk = *struct.unpack_from("<2I", sums, 40), numbers[0]
        else:
            rows, c, per_chunk = numbers[:3]
        vector = 16 // n.size
        # Kernels that sum have few lanes.
        lanes = 4 if sums else 1
        while not sums and lanes < 32 and lanes * vector < c:
            lanes *= 2
        each = ceil(per_chunk, n.threads // lanes)
        size = rows * c * n.grid[2] * n.size * maps
        occupancy = self.occupancy(n)
        resident = max(1, min(occupancy, ceil(n.blocks, self.sm)))
        latency = (L2_LATENCY if self.in_l2(size) else HBM_LATENCY) * self.faster
        serial = each * loads * latency
        if not self.serial_loads:
            serial = ceil(each, together) * latency
        waves = ceil(n.blocks, self.sm * occupancy)
        cycles = waves * (serial + each * row_cycles * resident / 2 + 1200) + (LAST_BLOCK if sums else 0)
        us = max(self.traffic(size), self.cycles(cycles))
        bound = "memory" if self.traffic(size) >= us else "latency of loads"
        return self.row(n, f"{rows * n.grid[2]} rows x {c}", NODE_US + us, bound, "stream", size)

    def finalize(self, n: Node) -> Row:
        segments, chunks, _, c = n.numbers[:4]
        cycles = segments * (ceil(ceil(chunks, 8), 4) * 450 * self.faster + 2000)
        what = f"{segments} x {chunks} chunks x {c}"
        bound = f"latency: {n.blocks} blocks"
        return self.row(n, what, NODE_US + self.cycles(cycles), bound, "finalize", 8 * c * segments * chunks)

    # The rest

    def activation(self, n: Node) -> Row:
        value = next(a for a in n.arguments if len(a) == 16 and a[0] != "p")
        size = int.from_bytes(bytes.fromhex(value), "little") * n.size * (3 if "backward" in n.name else 2)
        us = max(SMALL_US, self.traffic(size))
        return self.row(n, f"{size / 1e6:.1f} MB", NODE_US + us, "memory", "rest", size)

    def adam(self, n: Node) -> Row:
        elements = n.blocks * ADAM_CHUNK
        one_pass = len(n.numbers) >= 5
        # Gradient, weight, m and v read, three written, and the cast.
        streams = {"adam_finite": 4, "adam_check": 4, "adam_average": 12}.get(n.base, 28 + n.size)
        doubles = [a for a in n.arguments if len(a) == 16 and a[0] != "p"]
        if one_pass and int(doubles[-1], 16) != 0:
            # A decay of the average, which is read and written in the same pass.
            streams += 8
        size = elements * streams
        us = NODE_US + size / (ADAM_OF_HBM * self.gpu["hbm"] * 1e12) * 1e6
        if one_pass:
            us += self.cycles(LAST_BLOCK)
        return self.row(n, f"{elements / 1e6:.2f} M elements", us, "memory", "adam", size)

    def adam_finish(self, n: Node) -> Row:
        return self.row(n, "", NODE_US + ADAM_FINISH_US, "latency: f64 pow in one thread", "adam", 0)

    def small(self, n: Node) -> Row:
        size = 0
        if n.base == "batch" or n.base == "batch_and_latent":
            h, w, c, stored, _, images = n.numbers[:6]
            size = images * h * w * (c + n.size * stored)
        elif n.base == "latent":
            rows, _, stored = n.numbers[:3]
            size = rows * stored * n.size
        return self.row(n, "", NODE_US + max(SMALL_US, self.traffic(size)), "latency, small accesses", "rest", size)

    def loss(self, n: Node) -> Row:
        return self.row(n, "", NODE_US + LOSS_US, "latency", "rest", 0)

    def logits(self, n: Node) -> Row:
        """A dot product of 16·c a logit, or its gradients: reads the last map; the second writes its gradient."""
        # activation, c, images of a segment, …
        _, c, images = n.numbers[:3]
        backward = n.base == "logits_backward"
        images *= n.grid[2] if backward else n.numbers[4]
        elements = images * 16 * c
        size = n.size * (elements * (2 if backward else 1) + 16 * c) + (4 * 16 * c if backward else 0)
        us = NODE_US + max(SMALL_US, self.traffic(size)) + self.cycles(LAST_BLOCK)
        flop = 2 * elements * (2 if backward else 1)
        return self.row(n, f"{images} images x {16 * c}", us, "memory, latency", "collapse", size, flop)

    def maps(self, n: Node) -> Row:
        """Channels of maps put together or taken apart, and the distance of two: every vector once each way."""
        vectors = 3 if n.base == "concatenate_part_gradient" else 4 if n.base == "l1_loss" else 2
        threads = n.grid[0] * 256 * (4 if n.base == "l1_loss" else 1)
        size = vectors * 16 * threads
        us = NODE_US + max(SMALL_US, self.traffic(size)) + (self.cycles(LAST_BLOCK) if n.base == "l1_loss" else 0.0)
        return self.row(n, f"{threads} vectors", us, "memory", "rest", size)

    def augment(self, n: Node) -> Row:
        """A block an image: it is read twice, the second time from L1 or L2, and written once."""
        h, w, stored = n.numbers[:3]
        size = 2 * n.blocks * h * w * stored * n.size
        # Numbers, sum, and the pass behind it, one after the other.
        us = NODE_US + max(SMALL_US, self.traffic(size)) + self.cycles(LAST_BLOCK)
        return self.row(n, f"{n.blocks} images of {h} x {w}", us, "memory, latency", "rest", size)

    def penalty(self, n: Node) -> Row:
        """Squares of the discriminator's gradients, read once, or a sum of gradients of weights."""
        add = n.base == "gradient_penalty_add"
        threads = n.grid[0] * 256 * 4
        size = threads * 16 * (3 if add else 1)
        us = NODE_US + max(SMALL_US, self.traffic(size)) + (0.0 if add else self.cycles(LAST_BLOCK))
        return self.row(n, f"{threads} vectors", us, "memory" if add else "memory, latency", "rest", size)

    def spectral_norm(self, n: Node) -> Row:
        """A step of the power method. Its launch does not tell how long rows are: its time is that of latency."""
        us = NODE_US + SMALL_US + 3 * self.cycles(LAST_BLOCK)
        return self.row(n, f"{n.blocks} slices of rows", us, "latency", "rest", 0)

    def advance(self, n: Node) -> Row:
        return self.row(n, "", NODE_US, "latency", "rest", 0)

    def copy(self, n: Node) -> Row:
        megabytes = n.bytes / 1e6
        us = COPY_NODE_US + (megabytes / 1.5 * GPUS["h100"]["hbm"] / self.gpu["hbm"] if megabytes > 1 else 0.0)
        what = f"{n.bytes} bytes"
        both = 2 if n.kind == "copy" else 1
        return Row(what, f"{n.kind} node", None, None, 0.0, 0.0, both * n.bytes, us, "node latency", "copy")

    # A kernel's name, without type and layout, → its rule.
    RULES = [
        (r"(conv2d_fprop|conv_transpose2d_fprop|conv_transpose2d_parities|conv_wgrad)_\d+x\d+\w*", convolution),
        (r"conv_wgrad_reduce", reduce),
        (r"batch_norm_(statistics|apply|backward_reduce|backward_apply)", batch_norm),
        (r"batch_norm_(backward_)?finalize", finalize),
        (r"(relu|leaky_relu|leaky_relu_tenth|tanh)_(forward|backward)", activation),
        (r"adam(_finite|_check|_average)?", adam),
        (r"adam_finish", adam_finish),
        (r"batch|latent|batch_and_latent", small),
        (r"logits_(loss|backward)", logits),
        (r"(bce|gan)_loss", loss),
        (r"concatenate(_part_gradient)?|l1_loss", maps),
        (r"augment(_backward)?", augment),
        (r"gradient_penalty_(norm|add)", penalty),
        (r"progress_advance|balance_rates", advance),
        (r"spectral_norm_krsc", spectral_norm),
    ]

    def predict(self, n: Node) -> Row:
        if n.kind in ("copy", "set"):
            return self.copy(n)
        for pattern, rule in self.RULES:
            if n.kind == "kernel" and re.fullmatch(pattern, n.base):
                return rule(self, n)
        fail(f"no rule for the {n.kind} {n.name} ({n.base}): give it one in {Path(__file__).name}, RULES")

    def chosen(self, nodes: list[Node], tried: list[Node]) -> list[Row]:
        """The rows of an iteration, each convolution by the fastest of what was tried for it."""
        rows, skip = [], False
        for at, n in enumerate(nodes):
            if skip:
                skip = False
                continue
            if not pass_of(n):
                rows.append(self.predict(n))
                continue
            following = nodes[at + 1] if at + 1 < len(nodes) else None
            skip = following is not None and following.base == "conv_wgrad_reduce"
            rows += min((self.candidate(n, other) for other in [n, *self.alike(n, tried)]), key=self.time)
        return rows

    @staticmethod
    def time(rows: list[Row]) -> float:
        return sum(row.us for row in rows)

    @staticmethod
    def alike(n: Node, tried: list[Node]) -> list[Node]:
        key = (pass_of(n), shape_of(n), n.size)
        found = {(o.name, o.grid): o for o in tried if (pass_of(o), shape_of(o), o.size) == key}
        return [found[which] for which in sorted(found)]

    def candidate(self, n: Node, other: Node) -> list[Row]:
        """`other` in the place of `n`: its tile, grid and splits, with the epilogue of `n`."""
        arguments = list(n.arguments)
        if len(other.numbers) >= 2:
            # The depth of a split, the last but one of the numbers.
            numbers = [[i for i, a in enumerate(x.arguments) if len(a) == 8 and a[0] != "p"] for x in (n, other)]
            arguments[numbers[0][-2]] = other.arguments[numbers[1][-2]]
        elif pass_of(n) == "wgrad":
            arguments[-1] = other.arguments[-1]
        rows = [self.convolution(replace(other, arguments=arguments))]
        if pass_of(n) == "wgrad" and self.reduces and other.grid[2] > 1:
            weights = shape_of(n).weights
            values = [value.to_bytes(4, "little").hex() for value in (weights, other.grid[2])]
            rows.append(self.reduce(Node("kernel", "conv_wgrad_reduce", (ceil(weights, 1024), 1, 1), 256, values)))
        return rows
