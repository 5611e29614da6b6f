"""Bounds of every layer of a ReLU network, and of its margins, over a ball of images: the dual of a linear programme.

Source: Wong and Kolter 2018, Theorem 1 and Algorithm 1 (linf; Wong, Schmidt, Metzen and Kolter 2018 for other norms, residual
branches and random projections). The worst margin over a ball is bounded by replacing every ReLU with two lines (see
`relaxation`); what is left is a linear programme, whose dual has a feasible point in closed form: the rows of the margins
carried back through the transposed layers. Each value of it is a bound of the margin, whatever the weights.

Legend: their epsilon is the ball's ``radius``; nu are the rows; J(x, g(c)), the dual objective, is `margins`. Theirs bounds the
normalised image where the data are normalised beforehand, as the public code does, so that its epsilon is in units of each
channel's standard deviation; here normalisation is a layer like the others, and a radius is in pixel units.

All bounds hold for real numbers; rounding is that of the dtype they are computed in (certificates: float64).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from robust_cli.messages import check
from robust_cli.verification.parts import Convolution, Scale
from robust_cli.verification.program import Node, Program, computed
from robust_cli.verification.relaxation import Relaxed, relax
from robust_cli.verification.rows import Dense, Rows, each_value
from robust_cli.verification.windows import one_pixel

NORMS = {"l2": 2.0, "linf": 1.0}  # of a ball, and the order of its dual norm
_AT_ONCE = 2**25  # numbers of rows that are held at once where no gradient is wanted

Box = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Ball:
    """All images within ``radius`` (>= 0, pixel units; a number, or one for each image [n]) of an image, in ``norm``.

    The whole ball, also what of it lies outside [0, 1], as for the other certificates.
    """

    norm: str
    radius: float | torch.Tensor

    def __post_init__(self) -> None:
        check(self.norm in NORMS, "norm", " or ".join(NORMS), self.norm)
        whole = bool((self.radius >= 0).all()) if isinstance(self.radius, torch.Tensor) else self.radius >= 0
        check(whole, "radius", "numbers >= 0", self.radius)

    def reach(self, rows: Rows) -> torch.Tensor:
        """By how much the rows of an image's pixels can move over the ball: radius times their dual norm, [n or 1, S]."""
        norms = rows.norm(NORMS[self.norm])
        radius = self.radius
        return norms * (radius.to(norms.dtype)[:, None] if isinstance(radius, torch.Tensor) else radius)


def layer_bounds(program: Program, images: torch.Tensor, ball: Ball, relaxation: str = "parallel") -> dict[int, Box]:
    """Lower and upper bounds of every ReLU's input, [n, *layer] each, by the ReLU's place in the program.

    images: [n, C, H, W]. For every image x and every x' in its ball the input of the ReLU lies within them.
    """
    return _Pass(program, images, ball, relaxation).boxes()


def margins(program: Program, images: torch.Tensor, labels: torch.Tensor, ball: Ball,
            relaxation: str = "parallel") -> torch.Tensor:
    """Lower bounds over the ball of the margins logit[label] - logit[k], [n, K]; 0 at k = label.

    Where all others are > 0, every image of the ball is given the label. At radius 0 they are the margins themselves.
    """
    work = _Pass(program, images, ball, relaxation)
    work.boxes()
    classes = program.nodes[-1].shape[0]
    eye = torch.eye(classes, dtype=images.dtype, device=images.device)
    return work.lowest(len(program.nodes) - 1, Dense(eye[labels][:, None] - eye))


class _Pass:
    """One pass through the layers for some images: what has been found so far."""

    def __init__(self, program: Program, images: torch.Tensor, ball: Ball, relaxation: str) -> None:
        self.program, self.images, self.ball, self.relaxation = program, images, ball, relaxation
        self.found: dict[int, Box] = {}
        self.relaxed: dict[int, Relaxed] = {}
        self.centre: list[torch.Tensor] = []  # parallel: each layer's value at the image with every ReLU replaced by its slope

    def boxes(self) -> dict[int, Box]:
        """Every ReLU's bounds, one after the other: each needs those before it."""
        for place, node in enumerate(self.program.nodes):
            if not node.is_relu:
                self.centre.append(computed(node, self.centre, self.images))
                continue
            self.found[place] = box = self._box(node.inputs[0])
            self.relaxed[place] = relax(*box, self.relaxation)
            self.centre.append(self.centre[node.inputs[0]] * self.relaxed[place].above)
        return self.found

    def lowest(self, place: int, rows: Rows) -> torch.Tensor:
        """The least value of rows of a node's values, [n, S]."""
        if self.relaxation == "parallel":
            reach, (below, _) = self._spread(place, rows)
            return rows.dot(self.centre[place]) - reach + below
        return self._least(place, rows)

    def _box(self, place: int) -> Box:
        shape = self.program.nodes[place].shape
        parts = [self._part_of_box(place, each_value(shape, channels, self.images), channels)
                 for channels in self._channels(place)]
        lower, upper = (torch.cat(side, 1) for side in zip(*parts, strict=True))
        return lower.view(-1, *shape), upper.view(-1, *shape)

    def _part_of_box(self, place: int, rows: Rows, channels: slice) -> Box:
        if self.relaxation == "parallel":
            centre = self.centre[place][:, channels].flatten(1)
            reach, (below, above) = self._spread(place, rows)
            return centre - reach + below, centre + reach + above
        return self._least(place, rows), -self._least(place, rows.negated())

    def _spread(self, place: int, rows: Rows) -> tuple[torch.Tensor, Box]:
        """What the ball and the ReLUs' rises add to rows of a node's values at the centre, on either side: [n or 1, S] each.

        Parallel lines: a row is carried back the same way whatever its sign, and a ReLU adds between 0 and its rise.
        """
        below = above = torch.zeros(1, 1, dtype=self.images.dtype, device=self.images.device)
        for at, rows_there in self._back(place, rows):
            if at == 0:
                return self.ball.reach(rows_there), (below, above)
            least = rows_there.negative().dot(self.relaxed[at].rise)
            below, above = below + least, above + rows_there.dot(self.relaxed[at].rise) - least
        return torch.zeros_like(below), (below, above)

    def _least(self, place: int, rows: Rows) -> torch.Tensor:
        """The least value of rows of a node's values, whichever lines there are: positive entries take the lower line of a
        ReLU, negative ones the upper."""
        total = torch.zeros(1, 1, dtype=self.images.dtype, device=self.images.device)
        for at, rows_there in self._back(place, rows):
            node = self.program.nodes[at]
            if at == 0:
                return total + rows_there.dot(self.images) - self.ball.reach(rows_there)
            if node.is_relu:
                total = total + rows_there.negative().dot(self.relaxed[at].rise)
            else:
                zeros = torch.zeros(1, *self.program.nodes[node.inputs[0]].shape, dtype=self.images.dtype,
                                    device=self.images.device)
                assert node.part is not None
                total = total + rows_there.dot(node.part(zeros))
        return total

    def _back(self, place: int, rows: Rows) -> Iterator[tuple[int, Rows]]:
        """Carry rows back to the image. Gives the rows of the values of each ReLU, and at last those of the image; where lines
        are not parallel also those of affine layers, whose addend is needed."""
        waiting: dict[int, Rows] = {place: rows}
        for at in range(place, -1, -1):
            if at not in waiting:
                continue
            rows, node = waiting.pop(at), self.program.nodes[at]
            if at == 0 or node.is_relu or (self.relaxation != "parallel" and node.part is not None):
                yield at, rows
            for source in node.inputs:
                before = self._through(at, node, rows)
                waiting[source] = waiting[source].plus(before) if source in waiting else before

    def _through(self, at: int, node: Node, rows: Rows) -> Rows:
        if node.part is not None:
            return node.part.back(rows, self.program.nodes[node.inputs[0]].shape)
        if not node.is_relu:
            return rows
        lines = self.relaxed[at]
        if lines.parallel:
            return rows.times(lines.above)
        return rows.positive().times(lines.below).plus(rows.negative().times(lines.above))

    def _channels(self, place: int) -> list[slice]:
        """All channels of a layer, or without a gradient as many at once as memory is meant to hold."""
        shape = self.program.nodes[place].shape
        at_once = shape[0]
        if not torch.is_grad_enabled():
            a_channel = len(self.images) * widest_row(self.program, place) * (shape[1] * shape[2] if len(shape) == 3 else 1)
            at_once = max(1, min(shape[0], _AT_ONCE // max(a_channel, 1)))
        return [slice(first, min(first + at_once, shape[0])) for first in range(0, shape[0], at_once)]


def widest_row(program: Program, place: int) -> int:
    """The largest number of entries that a row of a node's values has on its way back to the image."""
    shape = program.nodes[place].shape
    windows = {place: one_pixel((shape[0], shape[1], shape[2])) if len(shape) == 3 else None}
    widest = 1
    for at in range(place, 0, -1):
        if at not in windows:
            continue
        window, node = windows.pop(at), program.nodes[at]
        for source in node.inputs:
            before = program.nodes[source].shape
            moved = window
            if isinstance(node.part, Convolution) and window is not None:
                moved = node.part.window(window, before)
            elif node.part is not None and not isinstance(node.part, Scale):
                moved = None
            moved = None if moved is None or moved.covers else moved
            other = windows.get(source, moved)
            moved = None if moved is None or other is None else moved.union(other)
            windows[source] = moved
            widest = max(widest, torch.Size(before).numel() if moved is None else moved.numbers)
    return widest


