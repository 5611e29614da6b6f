"""Which part of a layer each row of a linear form looks at, where it looks at a part only."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Rows at the positions of ``grid`` [H, W], each a window of ``size`` pixels of ``layer`` [C, h, w].

    The window of position (i, j) begins at (i, j) * stride - pad; parts of it may lie outside the layer.
    """

    grid: Pair
    stride: Pair
    pad: Pair
    size: Pair
    layer: tuple[int, int, int]

    @property
    def positions(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def numbers(self) -> int:
        """Entries of one row."""
        return self.layer[0] * math.prod(self.size)

    @property
    def covers(self) -> bool:
        """Whether a window is no smaller than the layer, so that nothing is won by it."""
        return math.prod(self.size) >= math.prod(self.layer[1:])

    def cut(self, values: torch.Tensor) -> torch.Tensor:
        """The windows of a layer's values [n, C, h, w], zeros outside of it: [n, H W, C, a, b]."""
        margins = []
        for axis in (1, 0):
            reach = (self.grid[axis] - 1) * self.stride[axis] + self.size[axis]
            margins += [self.pad[axis], reach - self.pad[axis] - self.layer[1 + axis]]
        whole = functional.pad(values, margins)
        cut = whole.unfold(2, self.size[0], self.stride[0]).unfold(3, self.size[1], self.stride[1])
        return cut.permute(0, 2, 3, 1, 4, 5).reshape(len(values), self.positions, self.layer[0], *self.size)

    def before(self, layer: tuple[int, int, int], kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Window:
        """The windows of the same rows in the layer before a convolution."""
        size = _pair((a - 1) * s + d * (k - 1) + 1 for a, s, d, k in zip(self.size, stride, dilation, kernel, strict=True))
        return Window(self.grid, _pair(a * b for a, b in zip(self.stride, stride, strict=True)),
                      _pair(p * s + q for p, s, q in zip(self.pad, stride, padding, strict=True)), size, layer)

    def union(self, other: Window) -> Window:
        """The smallest windows that hold both; of the same rows, so of the same grid, stride and layer."""
        assert (self.grid, self.stride, self.layer) == (other.grid, other.stride, other.layer)
        pad = _pair(max(p, q) for p, q in zip(self.pad, other.pad, strict=True))
        size = _pair(p + max(a - q, b - r) for p, a, q, b, r in zip(pad, self.size, self.pad, other.size, other.pad, strict=True))
        return replace(self, pad=pad, size=size)

    def margins(self, wider: Window) -> list[int]:
        """What `functional.pad` has to add to windows of this size to make them ``wider``."""
        found = []
        for axis in (1, 0):
            ahead = wider.pad[axis] - self.pad[axis]
            found += [ahead, wider.size[axis] - self.size[axis] - ahead]
        return found

    def starts(self) -> list[Pair]:
        """Where the window of each position begins, in pixels of the layer; negative outside."""
        return [(i * self.stride[0] - self.pad[0], j * self.stride[1] - self.pad[1])
                for i in range(self.grid[0]) for j in range(self.grid[1])]


def one_pixel(layer: tuple[int, int, int]) -> Window:
    """A row at each pixel of a layer that looks at this pixel."""
    return Window(_pair(layer[1:]), (1, 1), (0, 0), (1, 1), layer)


def _pair(numbers: Iterable[int]) -> Pair:
    first, second = numbers
    return first, second
