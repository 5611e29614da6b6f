"""What a pass of the LP dual bounds costs for a network, in rows, multiplications and memory, and whether it fits.

Exact bounds carry a row back from every value that a ReLU takes, and from every class, each with an entry for all that it sees of
each layer before: without strides, a layer's values times another's. Projected ones (`projections`) carry k vectors forward from
the image and from each ReLU layer. The numbers follow from shapes, by the walk that rows or vectors take; nothing is computed.
"""

from __future__ import annotations

import math
import os
from bisect import bisect
from dataclasses import dataclass
from pathlib import Path

import torch

from robust_cli.messages import UserError
from robust_cli.verification.bounds import _AT_ONCE
from robust_cli.verification.parts import _FEW, Convolution, DensePart, Scale
from robust_cli.verification.program import Node, Program
from robust_cli.verification.windows import Window, one_pixel

_GROUP = Path("/sys/fs/cgroup")
TRAINING_BYTES, CERTIFYING_BYTES = 4, 8  # of a number: float32 and float64


@dataclass(frozen=True)
class LayerCost:
    """The bounds of the values that one ReLU takes, or of the margins. Numbers are of one image where nothing else is said.

    ``rows``: carried back from its values (projected: vectors carried to it). ``widest``: entries that each has at most on its
    way. ``channel``: rows of the fewest that are carried at once. ``multiplications``: with convolutions counted as such (some
    are done as larger, faster matrix products). ``moving``: numbers in use at once, before and after a step. ``kept``: those held
    until the gradient is taken; ``shared``: the same, whatever the number of images.
    """

    name: str
    rows: int
    widest: int
    channel: int
    multiplications: int
    moving: int
    kept: int
    shared: int

    def at_once(self, images: int) -> int:
        """Numbers in use at once where no gradient is wanted: of as many channels' rows as `bounds` takes together."""
        some = max(self.moving * _AT_ONCE // (self.rows * self.widest), self.moving * self.channel * images // self.rows)
        return min(some, self.moving * images) + self.shared


@dataclass(frozen=True)
class Cost:
    """Of a pass: each layer's, in the order of computation, the margins last."""

    layers: tuple[LayerCost, ...]

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each layer."""
        return {layer.name: layer.rows for layer in self.layers}

    @property
    def widest_row(self) -> int:
        return max(layer.widest for layer in self.layers)

    @property
    def multiplications(self) -> int:
        """For one image."""
        return sum(layer.multiplications for layer in self.layers)

    @property
    def most(self) -> LayerCost:
        """The layer that takes most multiplications."""
        return max(self.layers, key=lambda layer: layer.multiplications)

    def kept_bytes(self, images: int) -> int:
        """What is held for the gradient of a batch, in float32."""
        return TRAINING_BYTES * sum(layer.kept * images + layer.shared for layer in self.layers)

    def training_bytes(self, images: int) -> int:
        """The most that the bounds of a training step hold: what is kept, and what the backward pass has in use."""
        return self.kept_bytes(images) + TRAINING_BYTES * max(layer.moving * images + layer.shared for layer in self.layers)

    def certifying_bytes(self, images: int) -> int:
        """The most that a pass without a gradient holds, in float64."""
        return CERTIFYING_BYTES * max(layer.at_once(images) for layer in self.layers)


def cost(program: Program) -> Cost:
    """Of exact bounds with parallel lines (adaptive ones: two to three times the multiplications)."""
    return Cost((*(_Walk(program, program.nodes[place].inputs[0], program.nodes[place].name).cost() for place in program.relus),
                 _margins(program)))


def projected_cost(program: Program, projections: int) -> Cost:
    """Of `projections`, where no layer has so few unstable units that identities replace its vectors; margins are exact."""
    layers: list[LayerCost] = []
    carried: list[dict[int, int]] = []  # by place: how many vectors are there that begin at which
    multiplications = moving = kept = shared = 0
    for at, node in enumerate(program.nodes[: max(program.relus, default=-1) + 1]):
        size = math.prod(node.shape)
        before = math.prod(program.nodes[node.inputs[0]].shape) if node.inputs else 0
        groups = {start: count for source in node.inputs for start, count in carried[source].items()}
        of_all = 0 if layers else sum(groups.values())  # those of the image, as far as the first ReLU
        vectors = sum(groups.values()) - of_all
        multiplications += vectors * _multiplied(node, size, before)
        if _is_kept(node):
            kept, shared = kept + vectors * before, shared + of_all * before
        moving = max([moving, *(count * (before + 4 * size) for count in groups.values())])
        if node.is_relu:
            kept += 4 * len(groups) * size  # which two products a median took, 64-bit numbers
            layers.append(LayerCost(node.name, max(vectors + of_all, 1), before, 1, multiplications, moving, kept, shared))
            multiplications = moving = kept = shared = 0
        carried.append(groups | ({at: min(projections, size)} if node.is_relu or not node.inputs else {}))
    return Cost((*layers, _margins(program)))


def check_fits(program: Program, images_at_once: int, bytes_available: int, training: bool,
               projections: int | None = None) -> None:
    """Raise UserError, of one line, where the bounds of so many images at once need more memory than is there.

    training: with a gradient, in float32, exact or with so many ``projections``; else those of certificates, in float64.
    """
    made = _of(program, training, projections)
    needed = made.training_bytes(images_at_once) if training else made.certifying_bytes(images_at_once)
    if needed <= bytes_available:
        return
    layer = max(made.layers, key=lambda layer: layer.kept if training else layer.at_once(images_at_once))
    exact = projections is None or not training
    fit, ways = images_that_fit(program, images_at_once, bytes_available, training, projections), []
    if training and fit:
        ways.append(f"training.batch_size={fit}")
    if training:
        ways.append("regime.projections=50" if exact else f"regime.projections below {projections}")
    ways.append("a smaller network (larger strides, fewer channels or layers)")
    raise UserError(f"{'regime' if training else 'certificate'} lp_dual: expected bounds that fit into memory "
                    f"({_size(bytes_available)}), found {_size(needed)} for {images_at_once} image(s) at once, most of it for "
                    f"{layer.name} ({layer.rows:,} {'rows' if exact else 'vectors'} of up to {layer.widest:,} numbers for each "
                    f"image); use {' or '.join(ways)}")


def images_that_fit(program: Program, most: int, bytes_available: int, training: bool, projections: int | None = None) -> int:
    """The largest number of images at once, 0 to ``most``, whose bounds need no more memory than there is; see `check_fits`."""
    made = _of(program, training, projections)
    return bisect(range(1, most + 1), bytes_available, key=made.training_bytes if training else made.certifying_bytes)


def _of(program: Program, training: bool, projections: int | None) -> Cost:
    return projected_cost(program, projections) if training and projections is not None else cost(program)


def available_bytes(device: torch.device) -> int:
    """Memory that is free on a device: of a GPU as its driver says; else what the system can give without swapping, within
    the limit of the job (control group) where there is one."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = _number(Path("/proc/meminfo"), "MemAvailable:")
    found = free * 1024 if free else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if (limit := _number(_GROUP / "memory.max")) is not None:
        found = min(found, max(0, limit - (_number(_GROUP / "memory.stat", "anon") or 0)))
    return found


def _number(path: Path, name: str | None = None) -> int | None:
    """The number of a file, or after a name in it; None where there is none."""
    try:
        words = path.read_text().split()
        return int(words[words.index(name) + 1 if name else 0])
    except (OSError, ValueError, IndexError):
        return None


def _size(number: int) -> str:
    return f"{number / 1e9:,.1f} GB" if number < 1e12 else f"{number / 1e12:,.1f} TB"


def _margins(program: Program) -> LayerCost:
    return _Walk(program, len(program.nodes) - 1, "margins").cost()


def _multiplied(node: Node, size: int, before: int) -> int:
    """Multiplications of a vector that a node of ``size`` values takes, of ``before`` values."""
    if isinstance(node.part, DensePart):
        return size * before
    if isinstance(node.part, Convolution):
        return size * math.prod(node.part.layer.weight.shape[1:])
    return size if node.is_relu or isinstance(node.part, Scale) else 0


def _is_kept(node: Node) -> bool:
    """Whether a gradient needs what a node takes: for its weights, but those of normalisation are fixed, or its slopes."""
    weighted = isinstance(node.part, DensePart | Convolution) or (isinstance(node.part, Scale) and node.inputs != (0,))
    return weighted or node.is_relu


@dataclass(frozen=True)
class _Rows:
    """Rows of a node's values: what they see of them (None: all), and whether all images, and all positions, share them."""

    window: Window | None
    shared: bool


class _Walk:
    """The way of a layer's rows back to the image: `bounds._Pass._back` in numbers."""

    def __init__(self, program: Program, place: int, name: str) -> None:
        self.program, self.place, self.name = program, place, name
        shape = program.nodes[place].shape
        self.rows, self.channel = math.prod(shape), math.prod(shape[1:])
        self.widest, self.at_relu = 1, 0
        self.multiplications = self.moving = self.kept = self.shared = 0
        window = one_pixel((shape[0], shape[1], shape[2])) if len(shape) == 3 else None
        self.waiting = {place: _Rows(window, shared=name != "margins")}  # those of the margins are each label's

    def cost(self) -> LayerCost:
        for at in range(self.place, -1, -1):
            if at in self.waiting:
                self._step(at, self.waiting.pop(at))
        moving = self.moving * self.rows
        return LayerCost(self.name, self.rows, self.widest, self.channel, self.multiplications, moving, self.kept, self.shared)

    def _step(self, at: int, rows: _Rows) -> None:
        node, width = self.program.nodes[at], self._width(at, rows)
        if not node.inputs:
            self._keep(at, rows)
            self.multiplications += self._entries(at, rows)
            self._use(2 * width, rows)
        elif node.is_relu:
            self._relu(at, rows)
            self.at_relu = width
        for source in node.inputs:
            moved = _moved(node, rows, self.program.nodes[source].shape)
            if node.part is not None:
                self._affine(at, node, rows, moved)
            other = self.waiting.pop(source, None)
            if other is not None:
                moved = _Rows(_union(moved.window, other.window), moved.shared and other.shared)
                self._use(width + 5 * self._width(source, moved), moved)  # both, both in windows of one size, and their sum
            self.waiting[source] = moved
            self.widest = max(self.widest, self._width(source, moved))

    def _relu(self, at: int, rows: _Rows) -> None:
        """Kept: the rows, their negative parts, and what each position sees of the slopes and, twice, of the rises."""
        self._keep(at, rows, 2)
        if rows.window is not None:
            self.kept += 3 * rows.window.positions * rows.window.numbers
        self.multiplications += 3 * self._entries(at, rows)
        self._use(2 * self._width(at, rows), rows)

    def _affine(self, at: int, node: Node, rows: _Rows, moved: _Rows) -> None:
        """Kept: the rows, as the layer sees them: dense where those of its input are."""
        source = node.inputs[0]
        before = self.program.nodes[source].shape
        seen = rows if moved.window is not None else _Rows(None, rows.shared)
        self.multiplications += self._entries(at, seen) * _multiplied(node, 1, math.prod(before))
        in_use = 2 * self._width(at, seen) + self._width(source, moved)
        if isinstance(node.part, Convolution) and moved.window is None and before[0] <= _FEW and node.part.layer.stride != (1, 1):
            kernel = math.prod(node.part.layer.weight.shape[1:])
            in_use += 2 * math.prod(self.program.nodes[at].shape[1:]) * kernel  # the kernel at each place, before their sum
        self._use(in_use, rows)
        if _is_kept(node):
            self._keep(at, seen)

    def _keep(self, at: int, rows: _Rows, times: int = 1) -> None:
        if rows.shared:
            self.shared += times * self._entries(at, rows)
        else:
            self.kept += times * self._entries(at, rows)

    def _use(self, numbers: int, rows: _Rows) -> None:
        """Numbers of a row that a step has in use, beside the rows of other branches and those of the ReLU it came through."""
        if not rows.shared:
            others = sum(self._width(at, waiting) for at, waiting in self.waiting.items())
            self.moving = max(self.moving, numbers + others + self.at_relu)

    def _width(self, at: int, rows: _Rows) -> int:
        """Entries of one row."""
        return math.prod(self.program.nodes[at].shape) if rows.window is None else rows.window.numbers

    def _entries(self, at: int, rows: _Rows) -> int:
        """Entries of all rows; of one position's where all share them."""
        count = self.rows // rows.window.positions if rows.shared and rows.window is not None else self.rows
        return count * self._width(at, rows)


def _moved(node: Node, rows: _Rows, before: tuple[int, ...]) -> _Rows:
    """The rows of a node's input, as `bounds.widest_row` follows them."""
    window, shared = rows.window, rows.shared and not node.is_relu
    if isinstance(node.part, Convolution) and window is not None:
        window = node.part.window(window, (before[0], before[1], before[2]))
    elif node.part is not None and not isinstance(node.part, Scale):
        window = None
    return _Rows(None if window is None or window.covers else window, shared)


def _union(one: Window | None, other: Window | None) -> Window | None:
    return None if one is None or other is None else one.union(other)
