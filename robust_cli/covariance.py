"""Covariances of images and of perturbations: as a matrix, as a function of the distance of two pixels, their forms and roots.

Symbols (SGR, Roth et al. 2018) -> words: xi -> vectors; Cov -> `second_moment`; CovFun -> `CovarianceFunction`, within a channel
(intra) and between two (inter); ||i - j|| -> displacement r, in pixels; zeta -> decay_length; Sigma -> covariance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

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

    def form(self, vectors: torch.Tensor, reach: int | None = None) -> torch.Tensor:
        """v' Sigma v of each of vectors [n, C, H, W]: [n], of their dtype, with a gradient (that of a half of it is Sigma v).

        Sigma has the function's values for all pairs of pixels, those more than ``reach`` apart (rounded) 0. It is stationary
        within a channel: with zeros on the right and below as far as it reaches it is a circular convolution, so that the form
        is a weighted sum of the squares of a spectrum (Parseval); no d x d matrix, and no way back from the spectrum. Since the
        distances are rounded Sigma need not be positive semi-definite: the form of some vectors may be below 0.
        """
        height, width = vectors.shape[2:]
        far = len(self.intra) - 1 if reach is None else reach
        padded = height + min(far + 1, height), width + min(far + 1, width)
        inter = None if self.inter is None else _weights(self.inter, padded, far, vectors)
        intra = _weights(self.intra, padded, far, vectors)
        found = (_squares(vectors, padded) @ (intra if inter is None else intra - inter)).sum(1)
        return found if inter is None else found + _squares(vectors.sum(1), padded) @ inter


def _squares(vectors: torch.Tensor, padded: tuple[int, int]) -> torch.Tensor:
    """Squares of real and imaginary parts of half spectra, [..., P (Q // 2 + 1) 2], of vectors [..., H, W] padded to (P, Q)."""
    return torch.view_as_real(torch.fft.rfft2(vectors, s=padded)).square().flatten(-3)


def _weights(function: torch.Tensor, padded: tuple[int, int], far: int, like: torch.Tensor) -> torch.Tensor:
    """What `_squares` are to be multiplied by: the function's own spectrum over P Q, twice it where a column stands for two."""
    down, right = (torch.fft.fftfreq(n, 1 / n, dtype=torch.float64, device=like.device).abs() for n in padded)
    lengths = (down.square()[:, None] + right.square()).sqrt().round().long()
    values = function.double().to(like.device)[lengths.clamp_max(len(function) - 1)]
    found = torch.fft.rfft2(torch.where(lengths <= min(far, len(function) - 1), values, 0.0)).real / math.prod(padded)
    found[:, 1 : (padded[1] + 1) // 2] *= 2
    return found.to(like.dtype).flatten().repeat_interleave(2)


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
    bins, counts = _bins(height, width, vectors.device)
    sums = (torch.fft.irfft2(power / len(vectors), s=padded).flatten() for power in (within, every - within))
    intra, inter = (torch.zeros_like(counts).index_add_(0, bins, total) / counts for total in sums)
    return CovarianceFunction(intra / channels, inter / (channels * (channels - 1)) if channels > 1 else None)


@lru_cache(maxsize=4)
def _bins(height: int, width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """For each place of a padded autocorrelation the rounded length of its (dy, dx), int64 [2 H * 2 W]; and how many pairs of
    pixels are so far apart, [R]. Places that no two pixels are apart hold zeros and count with bin 0."""
    down, right = (torch.fft.fftfreq(2 * n, 1 / (2 * n), dtype=torch.float64).abs().round() for n in (height, width))
    pairs = (height - down)[:, None] * (width - right)
    lengths = (down.square()[:, None] + right.square()).sqrt().round().long()
    bins = torch.where(pairs > 0, lengths, 0).flatten()
    return bins.to(device), torch.bincount(bins, weights=pairs.flatten()).to(device)


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
