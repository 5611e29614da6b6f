"""Time and memory of the LP dual bounds per image against layer sizes, beside the public code of the method.

    python scripts/benchmarks/verification.py [--networks NAME ...] [--tasks TASK ...] [--images N] [--repeat N] [--norm l2|linf]
                                              [--output FILE.csv]

Networks: cnn_small with a half, once and twice its widths, and dense ones, all on 1x28x28 but one. Tasks: `train` (fp32, with the
backward pass of cross entropy on the margins), `forward` (the same without a gradient) and `certify` (float64, without a
gradient, exact alone); each exact and with 10 and 50 random projections. The peer is `convex_adversarial` (0.4.4, pip install
convex_adversarial, or its folder on PYTHONPATH): its bounds for the same weights and images, without normalisation, which it does
not have. Where it is not installed it is left out.

Both compute the margins of --images images at once. All sides of a network take turns in one process, a call each a round, in an
order that turns, after a round that is not counted. Shown are the median and the quartiles over --repeat rounds; a ratio is the
peer's time over ours of the same round (above 1: ours is faster). Exact margins of both are compared, and their largest
difference is shown. Memory is the most that tensors made in a call ever held together, in a call of its own: without what
kernels need inside, and without weights. `said` is what `robust_cli.verification.cost` says beforehand.
"""

from __future__ import annotations

import argparse
import copy
import csv
import importlib.metadata
import math
import os
import platform
import statistics
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it; the peer gains from it too

import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from robust_cli.runs.allocator import keep_freed_memory
from robust_cli.runs.provenance import processor
from robust_cli.verification.bounds import Ball, margins
from robust_cli.verification.cost import cost, projected_cost
from robust_cli.verification.program import Program
from robust_cli.verification.projections import projected_margins
from robust_cli.verification.reading import read

Shape = tuple[int, int, int]
TASKS, PROJECTIONS, RADII = ("train", "forward", "certify"), (None, 10, 50), {"l2": 0.5, "linf": 0.03}
OURS, RATIOS = "ours", ("ratio", "ratio_lower_quartile", "ratio_upper_quartile")
Call = Callable[[], torch.Tensor]
Side = tuple[str, int | None, str]  # a task, a number of projections (None: exact), and who


def cnn(width: int, shape: Shape = (1, 28, 28)) -> tuple[nn.Sequential, Shape]:
    """cnn_small's layers, of ``width`` and twice as many channels; 16 are its own."""
    values = 2 * width * (shape[1] // 4) * (shape[2] // 4)
    return nn.Sequential(nn.Conv2d(shape[0], width, 4, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 4, 2, 1), nn.ReLU(),
                         nn.Flatten(), nn.Linear(values, 100), nn.ReLU(), nn.Linear(100, 10)), shape


def dense(width: int) -> tuple[nn.Sequential, Shape]:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
                         nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)), (1, 28, 28)


NETWORKS: dict[str, Callable[[], tuple[nn.Sequential, Shape]]] = {
    "cnn 8": lambda: cnn(8), "cnn 16": lambda: cnn(16), "cnn 32": lambda: cnn(32),
    "cnn 16 on 3x32x32": lambda: cnn(16, (3, 32, 32)),
    "dense 100": lambda: dense(100), "dense 200": lambda: dense(200), "dense 400": lambda: dense(400)}


@dataclass(frozen=True)
class Row:
    """One side of one task on one network; milliseconds and megabytes are of an image; what does not apply is None."""

    network: str
    relus: int
    task: str
    projections: int | None
    side: str
    milliseconds: float
    lower_quartile: float
    upper_quartile: float
    megabytes: float
    megabytes_said: float | None = None
    million_multiplications: float | None = None
    ratio: float | None = None
    ratio_lower_quartile: float | None = None
    ratio_upper_quartile: float | None = None
    difference: float | None = None

    def line(self) -> str:
        """As it is printed."""
        how = "exact" if self.projections is None else f"{self.projections} projections"
        said = "" if self.megabytes_said is None else f"(said {self.megabytes_said:.2f})"
        took = f"{self.task:<8} {how:<15} {self.side:<19} {self.milliseconds:9.2f} ms {self.megabytes:9.2f} MB {said:<16}"
        if self.ratio is None:
            return f"  {took}"
        apart = "" if self.difference is None else f", margins within {self.difference:.0e}"
        return (f"  {took} peer / ours {self.ratio:6.2f} ({self.ratio_lower_quartile:.2f} to {self.ratio_upper_quartile:.2f})"
                f"{apart}")


class Held(TorchDispatchMode):
    """The most bytes that tensors made meanwhile ever held together."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.alive:
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._gone, storage._cdata)
        self.most = max(self.most, self.now)
        return made

    def _gone(self, storage: int) -> None:
        self.now -= self.alive.pop(storage)


def peer() -> Any:
    """The class of the public code, or None where it is not installed."""
    try:
        from convex_adversarial import DualNetwork
    except ImportError:
        return None
    return DualNetwork


def peer_version() -> str:
    try:
        return importlib.metadata.version("convex_adversarial")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def sides(network: nn.Sequential, images: torch.Tensor, labels: torch.Tensor, norm: str, k: int | None) -> dict[str, Call]:
    """Margins by each side, of networks and images of one dtype."""
    ball, program, public = Ball(norm, RADII[norm]), read(network, tuple(images.shape[1:])), peer()
    generator = torch.Generator().manual_seed(0)

    def ours() -> torch.Tensor:
        if k is None:
            return margins(program, images, labels, ball)
        return projected_margins(program, images, labels, ball, k, generator)

    def theirs() -> torch.Tensor:
        exact, projected = {"l2": ("l2", "l2_normal"), "linf": ("l1", "l1_median")}[norm]
        eye = torch.eye(network[-1].out_features, dtype=images.dtype)
        dual = public(network, images, RADII[norm], proj=k, norm_type=exact if k is None else projected)
        return dual(eye[labels][:, None] - eye)

    return {OURS: ours} if public is None else {OURS: ours, "convex_adversarial": theirs}


def task(network: nn.Sequential, call: Call, labels: torch.Tensor, name: str) -> Call:
    """A call as the task has it: a training step's, or one without a gradient."""
    def train() -> torch.Tensor:
        network.zero_grad()
        found = call()
        functional.cross_entropy(-found, labels).backward()
        return found.detach()

    return train if name == "train" else torch.no_grad()(call)


def calls(network: nn.Sequential, shape: Shape, asked: argparse.Namespace) -> dict[Side, Call]:
    """What is timed on a network."""
    images, labels = torch.rand(asked.images, *shape), torch.arange(asked.images) % 10
    found = {}
    for what in asked.tasks:
        dtype = torch.float64 if what == "certify" else torch.float32
        own = copy.deepcopy(network).to(dtype)
        for k in PROJECTIONS[:1] if what == "certify" else PROJECTIONS:
            for side, call in sides(own, images.to(dtype), labels, asked.norm, k).items():
                found[what, k, side] = task(own, call, labels, what)
    return found


def timed(calls: dict[Side, Call], rounds: int, name: str) -> dict[Side, list[float]]:
    """Seconds of each side's call in each round."""
    seconds: dict[Side, list[float]] = {side: [] for side in calls}
    order = list(calls)
    for k in range(-1, rounds):
        print(f"\r{name}: round {k + 1} of {rounds}", end="", file=sys.stderr, flush=True)
        turn = k % len(order)
        for side in order[turn:] + order[:turn]:
            start = time.perf_counter()
            calls[side]()
            if k >= 0:
                seconds[side].append(time.perf_counter() - start)
    print(file=sys.stderr)
    return seconds


def most_held(call: Call) -> int:
    with Held() as held:
        call()
    return held.most


def said(program: Program, side: Side, images: int) -> tuple[float | None, float | None]:
    """Megabytes of an image and millions of multiplications, as `verification.cost` has them for our side."""
    what, k, who = side
    if who != OURS or (k is not None and what != "train"):
        return None, None
    made = cost(program) if k is None else projected_cost(program, k)
    held = made.training_bytes(images) if what == "train" else made.certifying_bytes(images) // (1 if what == "certify" else 2)
    return held / images / 1e6, made.multiplications / 1e6


def quartiles(numbers: Sequence[float]) -> tuple[float, float, float]:
    lower, middle, upper = statistics.quantiles(numbers, n=4, method="inclusive") if len(numbers) > 1 else [numbers[0]] * 3
    return middle, lower, upper


def measured(name: str, asked: argparse.Namespace) -> Iterator[Row]:
    """The rows of a network."""
    torch.manual_seed(0)
    network, shape = NETWORKS[name]()
    program, found = read(network, shape), calls(network, shape, asked)
    units = sum(math.prod(program.nodes[place].shape) for place in program.relus)
    seconds = timed(found, asked.repeat, name)
    for side, took in seconds.items():
        what, k, who = side
        row = Row(name, units, what, k, who, *(1000 * part / asked.images for part in quartiles(took)),
                  most_held(found[side]) / asked.images / 1e6, *said(program, side, asked.images))
        if who != OURS:
            ours = seconds[what, k, OURS]
            row = replace(row, **dict(zip(RATIOS, quartiles([a / b for a, b in zip(took, ours, strict=True)]), strict=True)))
            if k is None:
                row = replace(row, difference=float((found[side]() - found[what, k, OURS]()).abs().max()))
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS, metavar="NAME",
                        help=f"of {', '.join(NETWORKS)}; default: all")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--images", type=int, default=16, help="at once (default: 16)")
    parser.add_argument("--repeat", type=int, default=7, help="rounds that are counted (default: 7)")
    parser.add_argument("--norm", choices=RADII, default="l2", help="of the ball (default: l2)")
    parser.add_argument("--output", type=Path, help="a CSV of the rows")
    asked = parser.parse_args()
    keep_freed_memory()
    public = "no peer (convex_adversarial is not installed)" if peer() is None else f"convex_adversarial {peer_version()}"
    machine = (f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, "
               f"Python {platform.python_version()}, {public}, {asked.images} images at once, {asked.norm} radius "
               f"{RADII[asked.norm]:g}, {asked.repeat} rounds")
    print(machine)
    rows: list[Row] = []
    for name in asked.networks:
        found = list(measured(name, asked))
        rows += found
        print(f"{name}: {found[0].relus:,} ReLUs", *(row.line() for row in found), sep="\n", flush=True)
        if asked.output is not None:
            with asked.output.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, [*asdict(rows[0]), "machine"], lineterminator="\n")
                writer.writeheader()
                writer.writerows(asdict(row) | {"machine": machine} for row in rows)


if __name__ == "__main__":
    main()
