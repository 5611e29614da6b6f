"""The affine layers of a network, forwards and transposed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

from robust_cli.models.normalisation import Normalisation
from robust_cli.verification.rows import Dense, Patches, Rows
from robust_cli.verification.windows import Pair, Window

_MATRIX_PAYS = 8  # a convolution as a matrix of its window costs more multiplications, but faster ones, up to so many times more

_FEW = 4  # channels of an image


class Part(Protocol):
    """z to M z + m."""

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """M z + m, [n, *inputs] to [n, *outputs]."""

    def back(self, rows: Rows, inputs: tuple[int, ...]) -> Rows:
        """Rows A of the outputs to the rows A M of the inputs, whose shape is ``inputs``."""


@dataclass(frozen=True)
class DensePart:
    """A dense layer."""

    layer: nn.Linear

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        return functional.linear(values, self.layer.weight, self.layer.bias)

    def back(self, rows: Rows, inputs: tuple[int, ...]) -> Rows:
        return Dense(rows.dense().values @ self.layer.weight)


@dataclass(frozen=True)
class Convolution:
    """A convolution, zeros around the image."""

    layer: nn.Conv2d

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        return functional.conv2d(values, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    def back(self, rows: Rows, inputs: tuple[int, ...]) -> Rows:
        if isinstance(rows, Dense):
            return self._dense(rows, inputs)
        layer, window = self.layer, self.window(rows.window, inputs)
        if window.covers:
            return self._dense(rows.dense(), inputs)
        rows = rows.within()
        images, positions, count = rows.values.shape[:3]
        flat = rows.values.reshape(-1, *rows.values.shape[3:])
        if math.prod(window.size) <= _MATRIX_PAYS * math.prod(_pair(layer.kernel_size)) and len(flat) > rows.window.numbers:
            each = torch.eye(rows.window.numbers, dtype=flat.dtype, device=flat.device)
            found = flat.flatten(1) @ self._transposed(each.view(-1, *flat.shape[1:])).flatten(1)
        else:
            found = self._transposed(flat)
        return Patches(found.view(images, positions, count, *window.layer[:1], *window.size), window)

    def window(self, window: Window, inputs: tuple[int, ...]) -> Window:
        """What windows of the outputs see of the inputs."""
        layer = self.layer
        channels, height, width = inputs
        return window.before((channels, height, width), _pair(layer.kernel_size), _pair(layer.stride), _pair(layer.padding),
                             _pair(layer.dilation))

    def _transposed(self, rows: torch.Tensor) -> torch.Tensor:
        """Of windows of the outputs, windows of the inputs: no padding, which `Window.before` counts."""
        layer = self.layer
        return functional.conv_transpose2d(rows, layer.weight, None, layer.stride, 0, 0, layer.groups, layer.dilation)

    def _dense(self, rows: Dense, inputs: tuple[int, ...]) -> Dense:
        layer, values = self.layer, rows.values
        if inputs[0] <= _FEW and layer.groups == 1 and layer.stride != (1, 1):
            return Dense(self._folded(values.flatten(0, 1), inputs).view(*values.shape[:2], *inputs))
        flat = values.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        sides = [self._left_over(axis, values.shape[3 + axis], inputs[1 + axis]) for axis in (0, 1)]
        found = functional.conv_transpose2d(flat, layer.weight, None, layer.stride, _pair(layer.padding), sides, layer.groups,
                                            layer.dilation)
        return Dense(found.view(*values.shape[:2], *inputs))

    def _folded(self, rows: torch.Tensor, inputs: tuple[int, ...]) -> torch.Tensor:
        """The same as one matrix product and a sum of its windows: faster where the inputs have few channels."""
        layer = self.layer
        products = layer.weight.flatten(1).T @ rows.flatten(2)
        return functional.fold(products, inputs[1:], layer.kernel_size, layer.dilation, _pair(layer.padding), layer.stride)

    def _left_over(self, axis: int, outputs: int, inputs: int) -> int:
        """Pixels at the end that no kernel of stride > 1 reaches."""
        layer = self.layer
        kernel, stride, padding, dilation = (_pair(value)[axis] for value in
                                             (layer.kernel_size, layer.stride, layer.padding, layer.dilation))
        return inputs - ((outputs - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1)


@dataclass(frozen=True)
class Scale:
    """A factor and an addend for each channel: normalisation of the images, and batch normalisation in evaluation."""

    numbers: Callable[[], tuple[torch.Tensor, torch.Tensor]]  # read at every use: training changes them

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        factor, addend = (number.view(-1, *[1] * (values.dim() - 2)) for number in self.numbers())
        return values * factor + addend

    def back(self, rows: Rows, inputs: tuple[int, ...]) -> Rows:
        factor = self.numbers()[0]
        if isinstance(rows, Dense):
            return Dense(rows.values * factor.view(-1, *[1] * (rows.values.dim() - 3)))
        return Patches(rows.values * factor[:, None, None], rows.window, rows.masked)


@dataclass(frozen=True)
class Linear:
    """Any other layer without weights that is linear: means of pixels, paddings, channels of zeros, another shape."""

    function: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        return self.function(values)

    def back(self, rows: Rows, inputs: tuple[int, ...]) -> Rows:
        values = rows.dense().values
        with torch.inference_mode(False), torch.enable_grad():
            values = values.clone() if values.is_inference() else values
            point = values.new_zeros(1, *inputs).expand(values.shape[0] * values.shape[1], *inputs).requires_grad_()
            outputs = self.function(point)
            found, = torch.autograd.grad(outputs, point, values.reshape(outputs.shape), create_graph=values.requires_grad)
        return Dense(found.view(*values.shape[:2], *inputs))


def of_images(layer: Normalisation) -> Scale:
    """(x - mean) / std."""
    def numbers() -> tuple[torch.Tensor, torch.Tensor]:
        factor = 1 / layer.std.flatten()
        return factor, -layer.mean.flatten() * factor

    return Scale(numbers)


def of_batches(layer: nn.BatchNorm1d | nn.BatchNorm2d) -> Scale:
    """weight (z - mean) / sqrt(variance + eps) + bias, with the running statistics."""
    def numbers() -> tuple[torch.Tensor, torch.Tensor]:
        assert isinstance(layer.running_mean, torch.Tensor)
        assert isinstance(layer.running_var, torch.Tensor)
        factor = (layer.running_var + layer.eps).rsqrt()
        if layer.affine:
            return factor * layer.weight, layer.bias - layer.running_mean * factor * layer.weight
        return factor, -layer.running_mean * factor

    return Scale(numbers)


def _pair(value: str | int | tuple[int, ...]) -> Pair:
    assert not isinstance(value, str)
    first, second = value if isinstance(value, tuple) else (value, value)
    return first, second
