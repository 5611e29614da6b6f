"""Covariances of images and of perturbations: as a matrix, as a function of the distance of two pixels, and their roots.

Symbols (SGR, Roth et al. 2018) -> words: xi -> vectors; Cov -> `second_moment`; CovFun -> `CovarianceFunction`, within a channel
(intra) and between two (inter); ||i - j|| -> displacement r, in pixels; zeta -> decay_length; Sigma -> covariance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from robust_cli.messages import Wrong, check

TRIMMED = 0.25  # of height and width at each side, SGR's figures of covariance matrices
NOTHING = 1e-20  # a variance up to here is rounding: that of one pixel's least change in a million images is larger
_NEGATIVE = 1e-10  # an eigenvalue that is less negative than this share of the largest one is a rounded 0
_BATCH = 256


def _batches(vectors: torch.Tensor, centred: bool) -> Iterator[torch.Tensor]:
    """Some rows at a time in float64, less the mean of all of them where ``centred``."""
    check(len(vectors) > 0, "vectors", "at least one", len(vectors))
    parts = vectors.split(_BATCH)
    mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / len(vectors) if centred else 0.0
    for part in parts:
        yield part.double() - mean


def second_moment(vectors: torch.Tensor, centred: bool = False) -> torch.Tensor:
    """(1/N) sum_i v_i v_i' of the rows of ``vectors`` [N, ...], each flattened to d numbers: float64 [d, d].

    Source: SGR, eq. 15. As there, raw: nothing is subtracted, which for perturbations makes little difference. ``centred``
    subtracts the mean first (and still divides by N): the covariance. Accumulated in float64 over batches. Raises Wrong
    where there is no row.
    """
    size = vectors[0].numel() if len(vectors) else 0
    total = torch.zeros(size, size, dtype=torch.float64, device=vectors.device)
    for part in _batches(vectors, centred):
        rows = part.flatten(1)
        total.addmm_(rows.T, rows)
    return total / len(vectors)


def correlation(height: int, width: int, decay_length: float, rounded: bool = False) -> torch.Tensor:
    """exp(-r / decay_length) for all pairs of pixels, r their distance in pixels: float64 [H W, H W], row-major.

    ``rounded`` rounds r to whole numbers, as SGR's eq. 16 does: the matrix is then no covariance (see `root`).
    """
    rows, columns = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], 1)
    distance = (places[:, None] - places[None]).square().sum(2).sqrt()
    return torch.exp(-(distance.round() if rounded else distance) / decay_length)


def root(covariance: torch.Tensor) -> torch.Tensor:
    """A matrix L with L L' = covariance, float64 [d, d]; for a positive definite one the lower triangular L.

    One that is only semi-definite (a pixel of variance 0, fewer images than pixels) has the root V sqrt(e) of its
    eigenvectors; eigenvalues that rounding made negative, by 1e-10 of the largest at most, count as 0. Raises Wrong where
    one is more negative than that, with its value, and where an entry is not a number.
    """
    check(bool(covariance.isfinite().all()), "covariance", "finite numbers", "nan or infinity")
    found, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        return found
    values, vectors = torch.linalg.eigh(covariance)
    least = float(values[0])
    if least < -_NEGATIVE * float(values.abs().max()):
        raise Wrong("covariance", "a positive semi-definite matrix (distances rounded to whole pixels give none)",
                    f"least eigenvalue {least:.3g}")
    found = vectors * values.clamp_min(0).sqrt()
    return torch.where((covariance.diagonal() > 0)[:, None], found, 0.0)  # without rounding where nothing varies


@dataclass(frozen=True)
class CovarianceFunction:
    """Covariances by displacement r = 0, 1, 2, ..., the distance of two pixels rounded to whole ones, float64 [R] each.

    Source: SGR, eq. 16 and its figure of covariance functions. intra: mean over all pairs of pixels of one channel at that
    distance, a pixel with itself included at 0, and over the channels; inter: the same for ordered pairs of different
    channels, None where there is one channel.
    """

    intra: torch.Tensor
    inter: torch.Tensor | None

    def rescaled(self) -> CovarianceFunction:
        """The same over ``intra`` at 0, the mean variance of a pixel. Raises Wrong where that is 0 (`NOTHING`)."""
        variance = float(self.intra[0])
        check(variance > NOTHING, "intra", f"a variance > {NOTHING:g}", variance)
        return CovarianceFunction(self.intra / variance, None if self.inter is None else self.inter / variance)


def covariance_function(vectors: torch.Tensor, centred: bool = False) -> CovarianceFunction:
    """The covariance function of images or perturbations [N, C, H, W], raw or ``centred`` as in `second_moment`.

    Without the d x d matrix: the sums over all pairs of pixels (y, x) and (y + dy, x + dx) are autocorrelations, found by FFT
    with as many zeros on the right and below as there are pixels, so that nothing wraps around. Raises Wrong where N = 0.
    """
    channels, height, width = vectors.shape[1:]
    padded = 2 * height, 2 * width
    within = torch.zeros(2 * height, width + 1, dtype=torch.float64, device=vectors.device)
    every = torch.zeros_like(within)
    for part in _batches(vectors, centred):
        spectrum = torch.fft.rfft2(part, s=padded)
        within += spectrum.abs().square().sum((0, 1))
        every += spectrum.sum(1).abs().square().sum(0)
    sums = [torch.fft.irfft2(power / len(vectors), s=padded).cpu() for power in (within, every - within)]
    bins, pairs = _bins(height, width)
    counts = torch.bincount(bins, weights=pairs)
    intra, inter = (torch.bincount(bins, weights=total.flatten()) / counts for total in sums)
    return CovarianceFunction(intra / channels, inter / (channels * (channels - 1)) if channels > 1 else None)


def _bins(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For each place of a padded autocorrelation the rounded length of its (dy, dx), and how many pairs of pixels are so far
    apart, both [2 H * 2 W]. Places that no two pixels are apart hold zeros and count with bin 0."""
    down, right = (torch.fft.fftfreq(2 * n, 1 / (2 * n), dtype=torch.float64).abs().round() for n in (height, width))
    pairs = (height - down)[:, None] * (width - right)
    lengths = (down.square()[:, None] + right.square()).sqrt().round().long()
    return torch.where(pairs > 0, lengths, 0).flatten(), pairs.flatten()


def decay_length(function: torch.Tensor) -> float:
    """The displacement in pixels where a covariance function [R] first falls to 1/e of its value at 0, on straight lines between
    whole displacements. inf where it stays above; nan where its value at 0 is not above 0."""
    values = function.double().cpu()
    if not len(values) or not values[0] > 0:
        return math.nan
    level = float(values[0]) / math.e
    below = (values <= level).nonzero().flatten()
    if not len(below):
        return math.inf
    last = int(below[0]) - 1
    before, after = float(values[last]), float(values[last + 1])
    return last + (before - level) / (before - after)


def centre(images: torch.Tensor) -> torch.Tensor:
    """The middle of images [N, C, H, W], as SGR's figures show it: a quarter of height and width off each side, rounded down."""
    top, left = (int(TRIMMED * size) for size in images.shape[2:])
    return images[:, :, top : images.shape[2] - top, left : images.shape[3] - left]


def rescaled(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix over its largest absolute entry; one of zeros as it is."""
    largest = matrix.abs().max()
    return matrix / torch.where(largest > 0, largest, 1)
