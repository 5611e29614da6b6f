"""The l2 operator norm of the map from pixels to the first layer's output: how much it can stretch a change of an image.

Legend (Lecuyer et al. 2019, PixelDP): Delta_(2,2), the sensitivity of what lies before the noise -> operator_norm, in outputs of
the first layer a pixel unit.
"""

from __future__ import annotations

import math

import torch

from robust_cli.models.pixel_map import PixelMap

LARGEST_GRAM = 4096
"""Rows of the largest matrix whose eigenvalues are computed: seconds, and 130 MB."""
MARGIN = 1e-8
"""Relative, added to every bound. The entries of the Gram matrix are sums of at most 4096 products or so, whose rounding in
float64 (2^-53 each) is relative to |A|^T |A|, and that has at most LARGEST_GRAM times the norm of A^T A: 2e-9 in all, half of
it in the root; its eigenvalues err by about 4096 x 2^-53. What is bounded is the exact linear map of the stored weights and
of the stored std."""
_DIGITS = 7
_AT_ONCE = 2**24  # numbers


def norm_bound(layer: PixelMap) -> float:
    """An upper bound of ||A||_2 in pixel units: for every pair of images ||A x - A x'||_2 <= norm_bound ||x - x'||_2.

    Where images or outputs have at most 4096 numbers it is the root of the largest eigenvalue of A^T A (or A A^T, the
    smaller), so it exceeds the norm by rounding alone; beyond, `torus_bound` of a convolution, the Frobenius norm of a dense
    layer. Power iteration would not do: it comes from below, and a radius divided by too small a norm is false. Rounded up by
    `MARGIN` and to seven digits, so that it is the same on every machine. It holds for the exact map; that the outputs are
    rounded to float32, as noise is added in float32 too, is no part of it (see `PixelMap`, `smoothing.noises`).
    """
    assert bool(layer.weight.isfinite().all()), "a norm of weights that are numbers"
    if min(layer.sizes) <= LARGEST_GRAM:
        found = gram_norm(layer)
    else:
        found = torus_norm(layer) if layer.convolution is not None else float(_scaled(layer).norm())
    return rounded_up(found * (1 + MARGIN))


def rounded_up(number: float) -> float:
    """To seven significant digits, never down.

    >>> rounded_up(1.23456712)
    1.234568
    """
    if number == 0:
        return 0.0
    digits = _DIGITS - 1 - math.floor(math.log10(number))
    found = round(math.ceil(number * 10.0**digits) / 10.0**digits, digits)
    return found if found >= number else math.nextafter(found, math.inf)


@torch.no_grad()
def gram_norm(layer: PixelMap) -> float:
    """||A||_2 to float64's rounding: the Gram matrix is built by pushing every basis image (or output) through the layer."""
    images, outputs = layer.sizes
    shape, size = (layer.inputs, images) if images <= outputs else (layer.outputs, outputs)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for rows in torch.arange(size).split(max(1, _AT_ONCE // (images + outputs))):
        basis = torch.zeros(len(rows), size, dtype=torch.float64, device=layer.weight.device)
        basis[torch.arange(len(rows)), rows] = 1.0
        basis = basis.view(-1, *shape)
        there = layer.transposed(layer.linear(basis)) if images <= outputs else layer.linear(layer.transposed(basis))
        matrix[rows] = there.flatten(1).cpu()
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh((matrix + matrix.T) / 2)[-1])))


@torch.no_grad()
def torus_norm(layer: PixelMap) -> float:
    """A bound of a convolution's norm for images of any size: that of the same convolution on a torus.

    On a torus of T >= H + all zeros padded (likewise in width), T a multiple of the stride, an image stands with nothing but
    zeros around it, and no output position wraps onto another. So A is a submatrix of the circular convolution, whose norm is
    the largest over frequencies: with stride s the s^2 frequencies that fall onto one are one block (in each direction Y(a) =
    sum_b X(a + b T / s) / s). Source: Sedghi, Gupta, Long 2019 (The singular values of convolutional layers) for stride 1.
    """
    assert layer.convolution is not None
    weight, made = _scaled(layer).cpu(), layer.convolution
    (groups,), (left, right, top, bottom) = made["groups"], made["padding"]
    steps, sides = made["stride"], (layer.inputs[1] + top + bottom, layer.inputs[2] + left + right)
    waves = [_waves(side, step, taps, gap) for side, step, taps, gap in
             zip(sides, steps, weight.shape[2:], made["dilation"], strict=True)]
    most = 0.0
    for part in weight.chunk(groups):
        kernel = part.to(torch.complex128)
        for row in waves[0]:  # [s, taps]: the frequencies that fall onto one
            found = torch.einsum("oikl,rk,fsl->foirs", kernel, row, waves[1]).flatten(2)  # [frequencies, outputs, inputs s s]
            squares = found @ found.mH if found.shape[1] <= found.shape[2] else found.mH @ found
            most = max(most, float(torch.linalg.eigvalsh(squares)[:, -1].max()))
    return math.sqrt(max(0.0, most) / math.prod(steps))


def _waves(side: int, step: int, taps: int, gap: int) -> torch.Tensor:
    """exp(2 pi i f gap k / T) for frequencies f = a + b T / step, complex [T / step, step, taps]; T the next multiple of step."""
    total = -(-side // step) * step
    frequencies = torch.arange(total).view(step, total // step).T
    turns = (frequencies[:, :, None] * gap * torch.arange(taps)).remainder(total).double() / total
    return torch.polar(torch.ones_like(turns), 2 * math.pi * turns)


@torch.no_grad()
def norm_from_below(layer: PixelMap, iterations: int = 100, seed: int = 0) -> float:
    """A lower bound of ||A||_2 that grows to it: ||A v|| after steps of power iteration from a random v. A check, never a
    bound to divide by."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(1, *layer.inputs, dtype=torch.float64, generator=generator).to(layer.weight.device)
    direction /= direction.norm()
    for _ in range(iterations):
        further = layer.transposed(layer.linear(direction))
        if not float(further.norm()):
            return 0.0
        direction = further / further.norm()
    return float(layer.linear(direction).norm())


def _scaled(layer: PixelMap) -> torch.Tensor:
    """The weights with each channel's std divided out: of a convolution [C', C / groups, h, w], of a dense layer [outputs,
    pixels]."""
    std = layer.std.flatten()
    if layer.convolution is None:
        pixels = math.prod(layer.inputs[1:])
        return layer.weight / std.expand(layer.inputs[0]).repeat_interleave(pixels)
    outputs, channels = layer.weight.shape[:2]
    (groups,) = layer.convolution["groups"]
    first = torch.arange(groups, device=std.device).repeat_interleave(outputs // groups) * channels
    each = first[:, None] + torch.arange(channels, device=std.device)
    return layer.weight / std.expand(layer.inputs[0])[each][:, :, None, None]
