"""Linear forms of a layer's values, many at once: the rows that a bound carries back from a layer to the image.

`Dense` rows hold a number for every value of the layer. Of a convolution's outputs each depends on a part of the layers
before it only, the same part of another place for each pixel: `Patches` hold just that part, and are often shared by all images
(before the first ReLU nothing depends on the image). Sums over them are small matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from robust_cli.verification.windows import Window, one_pixel


@dataclass(frozen=True)
class Dense:
    """values [n or 1, S, *layer]: S rows for each image, or the same for all (1)."""

    values: torch.Tensor

    def times(self, factor: torch.Tensor) -> Dense:
        """Each row times a factor for every value of the layer, [n, *layer]."""
        return Dense(self.values * factor[:, None])

    def dot(self, values: torch.Tensor) -> torch.Tensor:
        """The rows of values [n or 1, *layer]: [n, S]."""
        rows, values = self._as_in_memory().flatten(2), self._like_rows(values).flatten(1)
        if len(rows) == 1:
            return values @ rows[0].T
        return (rows @ values[..., None])[..., 0]

    def negative(self) -> Dense:
        """The negative parts min(rows, 0)."""
        return Dense(self.values.clamp(max=0))

    def positive(self) -> Dense:
        """The positive parts max(rows, 0)."""
        return Dense(self.values.clamp(min=0))

    def norm(self, order: float) -> torch.Tensor:
        """The rows' norms (1 or 2), [n or 1, S]."""
        return torch.linalg.vector_norm(self._as_in_memory().flatten(2), order, dim=-1)

    def plus(self, other: Rows) -> Dense:
        """The sum of rows of the same layer."""
        return Dense(self.values + other.dense().values)

    def dense(self) -> Dense:
        return self

    def negated(self) -> Dense:
        return Dense(-self.values)

    def _as_in_memory(self) -> torch.Tensor:
        """The rows' values with their axes in the order of memory, so that flattening copies nothing: channels may be last."""
        return self.values.permute(0, 1, 3, 4, 2) if self._channels_are_last() else self.values

    def _like_rows(self, values: torch.Tensor) -> torch.Tensor:
        return values.permute(0, 2, 3, 1) if self._channels_are_last() else values

    def _channels_are_last(self) -> bool:
        return self.values.dim() == 5 and self.values.stride(2) == 1


@dataclass(frozen=True)
class Patches:
    """values [n or 1, H W or 1, S, C, a, b]: S rows at each position of a window's grid; 1: the same for all. Entries outside the
    layer mean nothing unless ``masked``, when they are zero."""

    values: torch.Tensor
    window: Window
    masked: bool = False

    def times(self, factor: torch.Tensor) -> Patches:
        """As `Dense.times`; what lies outside the layer becomes zero."""
        return Patches(self.values * self.window.cut(factor)[:, :, None], self.window, masked=True)

    def dot(self, values: torch.Tensor) -> torch.Tensor:
        """The rows of values [n or 1, C, h, w]: [n, S, H W] flattened to [n, S H W]."""
        rows, cut = self.values.flatten(3), self.window.cut(values).flatten(2)
        images, positions = rows.shape[:2]
        if images == 1 and positions == 1:
            found = cut @ rows[0, 0].T
        elif images == 1:
            found = torch.bmm(cut.transpose(0, 1), rows[0].transpose(1, 2)).transpose(0, 1)
        else:
            found = (rows @ cut[..., None])[..., 0]
        return self._in_order(found)

    def negative(self) -> Patches:
        return Patches(self.values.clamp(max=0), self.window, self.masked)

    def positive(self) -> Patches:
        return Patches(self.values.clamp(min=0), self.window, self.masked)

    def norm(self, order: float) -> torch.Tensor:
        """As `Dense.norm`: [n or 1, S H W]."""
        return self._in_order(torch.linalg.vector_norm(self.within().values.flatten(3), order, dim=-1))

    def plus(self, other: Rows) -> Rows:
        """The sum with rows of the same layer, in windows that hold both."""
        if isinstance(other, Dense):
            return other.plus(self)
        window = self.window.union(other.window)
        parts = [functional.pad(rows.within().values, rows.window.margins(window)) for rows in (self, other)]
        return Patches(parts[0] + parts[1], window, masked=True)

    def within(self) -> Patches:
        """The same with zeros outside the layer."""
        if self.masked or (not any(self.window.pad) and self._fits()):
            return self
        ones = torch.ones(1, 1, *self.window.layer[1:], dtype=self.values.dtype, device=self.values.device)
        inside = self._of_one_channel().cut(ones)
        return Patches(self.values * inside[:, :, None], self.window, masked=True)

    def dense(self) -> Dense:
        """The same rows with a number for every value of the layer."""
        values, window = self.values, self.window
        images, _, rows = values.shape[:3]
        channels, height, width = window.layer
        values = values.expand(images, window.positions, *values.shape[2:])
        whole = values.new_zeros(images, rows, window.positions, channels, height, width)
        for position, (top, left) in enumerate(window.starts()):
            y, x = slice(max(top, 0), min(top + window.size[0], height)), slice(max(left, 0), min(left + window.size[1], width))
            if y.start < y.stop and x.start < x.stop:
                part = values[:, position, :, :, y.start - top : y.stop - top, x.start - left : x.stop - left]
                whole[:, :, position, :, y, x] = part
        return Dense(whole.flatten(1, 2))

    def negated(self) -> Patches:
        return Patches(-self.values, self.window, self.masked)

    def _of_one_channel(self) -> Window:
        window = self.window
        return Window(window.grid, window.stride, window.pad, window.size, (1, *window.layer[1:]))

    def _fits(self) -> bool:
        window = self.window
        ends = ((g - 1) * s - p + a for g, s, p, a in zip(window.grid, window.stride, window.pad, window.size, strict=True))
        return all(end <= side for end, side in zip(ends, window.layer[1:], strict=True))

    def _in_order(self, found: torch.Tensor) -> torch.Tensor:
        """[n, positions, S] to [n, S positions]: the order of a layer's values."""
        found = found.expand(len(found), self.window.positions, found.shape[2])
        return found.transpose(1, 2).flatten(1)


Rows = Dense | Patches


def each_value(shape: tuple[int, ...], channels: slice, like: torch.Tensor) -> Rows:
    """The rows that pick the values of a layer one by one: all of a flat layer's, or those of some of its channels."""
    eye = torch.eye(shape[0], dtype=like.dtype, device=like.device)[channels]
    if len(shape) == 1:
        return Dense(eye[None])
    assert len(shape) == 3
    return Patches(eye[None, None, :, :, None, None], one_pixel((shape[0], shape[1], shape[2])), masked=True)
