"""The noise that an image is smoothed with: kinds, how their draws are made, and what their certificates may rest on.

Legend (SO, STN): N(0, sigma^2 I) -> noise_std. Every kind is independent from pixel to pixel, and ``noise_std`` is the
standard deviation of a pixel's noise in pixel units.

The draws of an image come in chunks of `CHUNK`, each from the generator of its key alone. A chunk's numbers go row by row,
and within a row pixel by pixel with the channels innermost (the order of torch's channels_last), whatever the memory format
of the batch they are written into; a chunk that is written in part holds the same first rows. That the generators' numbers
are random is an assumption of every statement about the draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Protocol, Self

import numpy as np
import torch

from robust_cli.messages import check
from robust_cli.smoothing.integer_grid import IntegerGrid
from robust_cli.smoothing.noise import ImageDraws, fill_rows, own_generator, scratch

ROUNDED = 1 - 1e-15
"""Factor that rounds a float64 product of two or three numbers down."""


class Noise(Protocol):
    """A kind of noise."""

    name: ClassVar[str]
    norms: ClassVar[tuple[str, ...]]  # in which its certificates hold

    @property
    def noise_std(self) -> float:
        """Standard deviation of a pixel's noise as asked for, in pixel units."""

    @property
    def drawn_std(self) -> float:
        """What radii are computed with: at most ``noise_std``, and at most the standard deviation of what is drawn."""

    def admit(self, images: torch.Tensor) -> None:
        """Raise UserError unless certificates of this noise hold for the images, float32 [..., H, W] in pixel units."""

    def write(self, out: torch.Tensor, image: torch.Tensor, seed: int, purpose: str, index: int, chunk: int) -> None:
        """Fill ``out``, float32 [rows <= CHUNK, C, H, W] of any memory format, with the image [C, H, W] plus the noise of the
        first rows of the chunk (``chunk`` >= 0) of (seed, purpose, index). The image may be on another device."""

    def perturbations(self, draws: ImageDraws, copies: int, shape: tuple[int, ...]) -> torch.Tensor:
        """Fresh noise for each image of ``draws``, [n, copies, *shape], to be used with `at`."""

    def at(self, images: torch.Tensor, perturbations: torch.Tensor) -> torch.Tensor:
        """What the classifier sees of images [n, C, H, W] under perturbations [n, copies, C, H, W]; an image's gradient is the
        sum of its copies' gradients."""

    def around(self, images: torch.Tensor, draws: ImageDraws, copies: int) -> torch.Tensor:
        """Noisy copies of images [n, C, H, W], which need not be on any grid: [n, copies, C, H, W]."""

    def anywhere(self) -> Noise:
        """The same noise for images that need not be on the uint8 grid, as those of attacks: for decisions, not certificates."""

    def residual(self, dimension: int, draws: int) -> float:
        """An upper bound of the total variation between ``draws`` draws of ``dimension`` numbers and the ideal noise, to be
        charged to the failure probability. 0 for kinds drawn in floating point, for which no bound is claimed."""


class _Added:
    """What the kinds that are added in floating point have in common. ``noise_std`` > 0 in pixel units."""

    def __init__(self, noise_std: float) -> None:
        check(0 < noise_std < math.inf, "noise_std", "a number > 0", noise_std)
        self.noise_std = noise_std

    def admit(self, images: torch.Tensor) -> None:
        """Any images."""

    def write(self, out: torch.Tensor, image: torch.Tensor, seed: int, purpose: str, index: int, chunk: int) -> None:
        """See `Noise.write`."""
        pixels = image.to(out.device).permute(1, 2, 0).contiguous()
        generator = own_generator(out.device, seed, purpose, index, chunk)
        fill_rows(out, lambda rows: self._fill(rows, pixels, generator))

    def _fill(self, rows: torch.Tensor, pixels: torch.Tensor, generator: torch.Generator) -> None:
        raise NotImplementedError

    def perturbations(self, draws: ImageDraws, copies: int, shape: tuple[int, ...]) -> torch.Tensor:
        """See `Noise.perturbations`."""
        raise NotImplementedError

    def at(self, images: torch.Tensor, perturbations: torch.Tensor) -> torch.Tensor:
        """See `Noise.at`."""
        return images[:, None] + perturbations

    def around(self, images: torch.Tensor, draws: ImageDraws, copies: int) -> torch.Tensor:
        """See `Noise.around`."""
        return self.at(images, self.perturbations(draws, copies, tuple(images.shape[1:])))

    def anywhere(self: Self) -> Self:
        """See `Noise.anywhere`."""
        return self

    def residual(self, dimension: int, draws: int) -> float:
        """See `Noise.residual`."""
        return 0.0


class Gaussian(_Added):
    """N(0, noise_std^2 I). The radii of its certificates are l2."""

    name: ClassVar[str] = "gaussian"
    norms: ClassVar[tuple[str, ...]] = ("l2", "linf", "l1")

    @property
    def drawn_std(self) -> float:
        """See `Noise.drawn_std`: torch scales by the float32 of it."""
        return min(self.noise_std, _float32(self.noise_std))

    def _fill(self, rows: torch.Tensor, pixels: torch.Tensor, generator: torch.Generator) -> None:
        rows.normal_(0, self.noise_std, generator=generator).add_(pixels)

    def perturbations(self, draws: ImageDraws, copies: int, shape: tuple[int, ...]) -> torch.Tensor:
        """See `Noise.perturbations`."""
        return draws.normal(copies, *shape).mul_(self.noise_std)


class Laplace(_Added):
    """Density exp(-|z| / scale) / (2 scale) a pixel, scale = noise_std / sqrt 2: the difference of two exponential numbers."""

    name: ClassVar[str] = "laplace"
    norms: ClassVar[tuple[str, ...]] = ("l1",)

    @property
    def scale(self) -> float:
        """The b of the density."""
        return self.noise_std / math.sqrt(2)

    @property
    def drawn_std(self) -> float:
        """See `Noise.drawn_std`: torch scales by the float32 of ``scale``."""
        return min(self.noise_std, _float32(self.scale) * math.sqrt(2) * ROUNDED)

    def _fill(self, rows: torch.Tensor, pixels: torch.Tensor, generator: torch.Generator) -> None:
        rows.uniform_(generator=generator)
        other = scratch(rows.device, rows.shape, which=1).uniform_(generator=generator)
        torch.add(pixels, _log_ratio(rows, other), alpha=self.scale, out=rows)

    def perturbations(self, draws: ImageDraws, copies: int, shape: tuple[int, ...]) -> torch.Tensor:
        """See `Noise.perturbations`."""
        return _log_ratio(draws.uniform(copies, *shape), draws.uniform(copies, *shape)).mul_(self.scale)


class Uniform(_Added):
    """Uniform on [-half_width, half_width] a pixel, half_width = noise_std * sqrt 3."""

    name: ClassVar[str] = "uniform"
    norms: ClassVar[tuple[str, ...]] = ("l1",)

    @property
    def half_width(self) -> float:
        """The largest size of a pixel's noise."""
        return self.noise_std * math.sqrt(3)

    @property
    def drawn_std(self) -> float:
        """See `Noise.drawn_std`: torch goes between the float32 of ``half_width`` and its negative."""
        return min(self.noise_std, _float32(self.half_width) / math.sqrt(3) * ROUNDED)

    def _fill(self, rows: torch.Tensor, pixels: torch.Tensor, generator: torch.Generator) -> None:
        rows.uniform_(-self.half_width, self.half_width, generator=generator).add_(pixels)

    def perturbations(self, draws: ImageDraws, copies: int, shape: tuple[int, ...]) -> torch.Tensor:
        """See `Noise.perturbations`."""
        return draws.uniform(copies, *shape).mul_(2).sub_(1).mul_(self.half_width)


def _log_ratio(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """log((1 - u) / (1 - v)) in place of u, for uniform u and v in [0, 1): finite, symmetric, of density exp(-|z|) / 2."""
    return u.sub_(1).div_(v.sub_(1)).log_()


def _float32(number: float) -> float:
    return float(np.float32(number))


_KINDS: dict[str, Callable[[float], Noise]] = {
    "gaussian": Gaussian, "integer_grid": IntegerGrid, "laplace": Laplace, "uniform": Uniform}
KINDS = tuple(_KINDS)


_LEAST, _MOST = 1e-4, 1e4


def make_noise(kind: str, noise_std: float) -> Noise:
    """The noise of a kind and of a standard deviation a pixel in [1e-4, 1e4] (pixel units).

    Raises Wrong for others: below, float32 images swallow the noise, and draws that are all alike would certify anything.
    """
    check(kind in KINDS, "noise", " or ".join(KINDS), kind)
    check(_LEAST <= noise_std <= _MOST, "noise_std", f"a number in [{_LEAST:g}, {_MOST:g}] (pixel units; images are in [0, 1])",
          noise_std)
    return _KINDS[kind](noise_std)
