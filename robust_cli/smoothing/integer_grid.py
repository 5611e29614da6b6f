"""Gaussian noise rounded to the grid of uint8 images, drawn in exact integer arithmetic: sound where floating point is not.

What a classifier sees of x + noise in floating point tells more than the ideal noise allows: for a given x only some floats
can come out, so that a classifier can know x from their last bits, and change its answer within the certified radius
(Voracek and Hein 2023: Sound randomized smoothing in floating-point arithmetic; Jin et al. 2022: Getting a-round guarantees).
Here x lies on the grid of multiples of 1/255 and the classifier f sees round(x + e) for e ~ N(0, noise_std^2 I), rounded to
the grid: a function of x + e, so that every certificate of Gaussian noise holds for it, at any x (of the grid or not). For x
on the grid round(x + e) = x + round(e), and round(255 e) is the integer k with probability

    Phi((k + 1/2) / s) - Phi((k - 1/2) / s),    s = 255 noise_std,

which 64 random bits draw from a `Table`. What f sees is one fixed function of the integer 255 x + k: its float32 divided by
255, as the device divides. No other float of the computation depends on x or on the noise. That the 64 bits are random is an
assumption about the generators: Philox here, counted by key, and CUDA's own on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from math import inf, isqrt
from typing import ClassVar

import numpy as np
import torch

from robust_cli.messages import UserError, check
from robust_cli.smoothing.noise import ImageDraws, fill_rows, keyed_words, own_generator

LEVELS = 255
LARGEST_STD = 8.0  # 255 times as many numbers in a table, and nine times that
OFF_GRID = 4e-5  # in steps of the grid: the rounding of k / 255 and of its 255-fold in float32, and hardly more
PIECE = 1 << 16  # pixels drawn at once
_BITS = 256  # of the fixed-point numbers below
_ONE = 1 << _BITS


@dataclass(frozen=True)
class Table:
    """The rounded Gaussian of standard deviation s as thresholds of 64-bit words, for any s > 0.

    A word w uniform in 0 .. 2^64 - 1 draws ``least`` + the number of thresholds <= w. Threshold t_k = 2^64 Phi((k - 1/2) / s),
    rounded to a whole number, parts k - 1 from k; those that round to 0 or 2^64 are left out.

    variation: an upper bound of the total variation between what is drawn and the rounded Gaussian. Cutting the tails off
    moves at most the probability 2 * 2^-65 beyond them, since Phi is below 2^-65 at the first threshold left out; and two
    distributions on the integers differ in total variation by at most the sum over k of |F(k) - G(k)|, where the thresholds'
    rounding is at most 2^-65 each. It is summed here as it is.
    """

    thresholds: np.ndarray  # uint64 [T], increasing
    least: int
    variation: float
    first: torch.Tensor  # float32 [2^16]: the number drawn by all words with these upper 16 bits, nan where they differ
    low: np.ndarray  # int64 [2^16 + 1]: how many thresholds are <= the first word with these upper 16 bits; last, all of them
    signed: torch.Tensor  # int64 [T]: thresholds - 2^63
    copies: dict[torch.device, torch.Tensor] = field(default_factory=dict)  # of ``signed`` on devices

    def on_words(self, philox: np.random.Philox, out: torch.Tensor) -> None:
        """Fill ``out`` (float32 [n], CPU) from the words of a bit generator: 16 bits a number, and 48 more for the few whose
        first 16 do not decide."""
        for piece in out.split(PIECE):
            cells = philox.random_raw(-(-len(piece) // 4)).view(np.uint16)[: len(piece)]
            torch.index_select(self.first, 0, torch.from_numpy(cells.astype(np.int32)), out=piece)
            drawn = piece.numpy()
            undecided = np.flatnonzero(np.isnan(drawn))
            drawn[undecided] = self._passed(cells[undecided], philox.random_raw(len(undecided))) + self.least

    def _passed(self, cells: np.ndarray, more: np.ndarray) -> np.ndarray:
        """How many thresholds are <= the words of 16 bits ``cells`` and of 48 more, the upper ones of the words ``more``."""
        words = cells.astype(np.uint64) << np.uint64(48) | more >> np.uint64(16)
        low = self.low[cells]
        passed: np.ndarray = low + (self.thresholds[low] <= words)  # most cells hold one threshold
        several = np.flatnonzero(self.low[cells + np.uint32(1)] > low + 1)
        passed[several] = np.searchsorted(self.thresholds, words[several], side="right")
        return passed

    def on_generator(self, generator: torch.Generator, out: torch.Tensor) -> None:
        """Fill ``out`` (float32 [n], any device) from 64-bit numbers of a torch generator."""
        for piece in out.split(16 * PIECE):
            words = torch.empty(piece.shape, dtype=torch.int64, device=out.device).random_(-(2**63), None, generator=generator)
            piece.copy_(self.of_signed(words))

    def of_signed(self, words: torch.Tensor) -> torch.Tensor:
        """What the words + 2^63 draw, for int64 words: int32 of their shape."""
        if words.device not in self.copies:
            self.copies[words.device] = self.signed.to(words.device)
        return torch.bucketize(words, self.copies[words.device], out_int32=True, right=True).add_(self.least)


@lru_cache(maxsize=8)
def table(s: Fraction) -> Table:
    """The `Table` of one standard deviation."""
    upper, errors, k = [], 0, 1
    while True:
        tail = _tail(Fraction(2 * k - 1, 2) / s)  # 1 - Phi
        rest = (tail + (_ONE >> 65)) >> (_BITS - 64)  # 2^64 (1 - Phi), rounded
        if rest == 0:
            break
        errors += abs((rest << (_BITS - 64)) - tail) + (_ONE >> 128)
        upper.append(2**64 - rest)
        k += 1
    thresholds = np.array([2**64 - t for t in reversed(upper)] + upper, dtype=np.uint64)
    starts = np.arange(2**16, dtype=np.uint64) << np.uint64(48)
    low = np.append(np.searchsorted(thresholds, starts, side="right"), len(thresholds))
    first = np.where(low[1:] == low[:-1], low[:-1] - len(upper), np.nan).astype(np.float32)
    variation = Fraction(2 * errors, _ONE) + Fraction(1, 2**64)
    return Table(thresholds, -len(upper), float(variation) * (1 + 1e-12), torch.from_numpy(first), low,
                 torch.from_numpy((thresholds ^ np.uint64(2**63)).view(np.int64)))


def _tail(x: Fraction) -> int:
    """2^256 (1 - Phi(x)) for x >= 0, with an error below 2^128; 0 for x >= 10, where it is below 2^-76.

    Phi(x) - 1/2 = x / sqrt(2 pi) * sum over n of (-u)^n / (n! (2 n + 1)), u = x^2 / 2. A term u^n / n! is at most e^50 < 2^73,
    and comes out of the one before with its error times u / n plus at most that term + 2 units of 2^-256. So each is within
    3 n 2^73 units, all of them (fewer than 400) within 2^92, and the rest of an alternating series that has begun to fall is
    below the first term left out, here less than a unit.
    """
    if x >= 10:
        return 0
    u = _fixed(x * x / 2)
    total, term, n = 0, _ONE, 0
    while term:
        total += (1 - 2 * (n % 2)) * (term // (2 * n + 1))
        n += 1
        term = (term * u >> _BITS) // n
    return _ONE // 2 - total * _fixed(x) // _root_of_two_pi()


def _fixed(x: Fraction) -> int:
    return (x.numerator << _BITS) // x.denominator


@lru_cache(maxsize=1)
def _root_of_two_pi() -> int:
    """Of 2^256 sqrt(2 pi) the whole part, to a few units, with Machin's pi = 16 arctan(1/5) - 4 arctan(1/239)."""
    def arctan_of_inverse(x: int) -> int:
        total, power, n = 0, _ONE // x, 1
        while power:
            total += (2 - n % 4) * (power // n)
            power, n = power // (x * x), n + 2
        return total

    return isqrt(2 * (16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)) << _BITS)


@dataclass(frozen=True)
class IntegerGrid:
    """Gaussian noise on uint8 images with the result rounded to their grid, see the top of this file.

    ``exact`` false is the same smoothed classifier at images off the grid, as those of attacks: e is drawn in floating point,
    x + e rounded. It is for decisions about such images, not for certificates, and its `residual` says so.
    """

    name: ClassVar[str] = "integer_grid"
    norms: ClassVar[tuple[str, ...]] = ("l2", "linf", "l1")

    noise_std: float
    exact: bool = True

    def __post_init__(self) -> None:
        check(0 < self.noise_std <= LARGEST_STD, "noise_std", f"a number in (0, {LARGEST_STD:g}] with noise=integer_grid",
              self.noise_std)

    @property
    def drawn_std(self) -> float:
        return self.noise_std

    @cached_property
    def table(self) -> Table:
        """The thresholds of s = 255 noise_std, an exact fraction."""
        return table(LEVELS * Fraction(self.noise_std))

    def admit(self, images: torch.Tensor) -> None:
        """Raise UserError unless all pixels of the images [..., H, W] lie on the grid."""
        steps = images * LEVELS
        _refuse_others(float((steps - steps.round()).abs_().amax()))

    def write(self, out: torch.Tensor, image: torch.Tensor, seed: int, purpose: str, index: int, chunk: int) -> None:
        """See `Noise.write`. On a CPU raises UserError for an image off the grid; elsewhere, where asking would wait for the
        device, its pixels off the grid are written as nan: `admit` asks beforehand."""
        steps = image.to(out.device).permute(1, 2, 0).contiguous() * LEVELS
        if self.exact:
            whole = steps.round()
            apart = (steps - whole).abs_()
            if out.device.type == "cpu":
                _refuse_others(float(apart.amax()))
                steps = whole
            else:
                steps = whole.where(apart < OFF_GRID, torch.nan)
        fill_rows(out, lambda rows: self._fill(rows, steps, seed, purpose, index, chunk))

    def _fill(self, rows: torch.Tensor, steps: torch.Tensor, seed: int, purpose: str, index: int, chunk: int) -> None:
        """``rows`` [CHUNK, H, W, C] from the image in steps of the grid, [H, W, C]."""
        if not self.exact:
            rows.normal_(0, LEVELS * self.noise_std, generator=own_generator(rows.device, seed, purpose, index, chunk))
            rows.add_(steps).round_().div_(LEVELS)
            return
        if rows.device.type == "cpu":
            self.table.on_words(keyed_words(seed, purpose, index, chunk), rows.view(-1))
        else:
            self.table.on_generator(own_generator(rows.device, seed, purpose, index, chunk), rows.view(-1))
        rows.add_(steps).div_(LEVELS)

    def perturbations(self, draws: ImageDraws, copies: int, shape: tuple[int, ...]) -> torch.Tensor:
        """See `Noise.perturbations`: before the rounding."""
        return draws.normal(copies, *shape).mul_(self.noise_std)

    def at(self, images: torch.Tensor, perturbations: torch.Tensor) -> torch.Tensor:
        """See `Noise.at`: rounded to the grid; the gradient passes straight through the rounding."""
        rounded = ((images.detach()[:, None] + perturbations) * LEVELS).round_().div_(LEVELS)
        return rounded + (images - images.detach())[:, None]

    def around(self, images: torch.Tensor, draws: ImageDraws, copies: int) -> torch.Tensor:
        """See `Noise.around`."""
        return self.at(images, self.perturbations(draws, copies, tuple(images.shape[1:])))

    def anywhere(self) -> IntegerGrid:
        """See `Noise.anywhere`."""
        return replace(self, exact=False)

    def residual(self, dimension: int, draws: int) -> float:
        """See `Noise.residual`: the `Table`'s total variation for each number drawn. It adds up over independent numbers.
        Infinite where ``exact`` is false."""
        return self.table.variation * dimension * draws * (1 + 1e-12) if self.exact else inf


def _refuse_others(apart: float) -> None:
    """``apart``: how far a pixel is from the grid, in its steps."""
    if not apart < OFF_GRID:
        raise UserError("noise: expected images on the uint8 grid (multiples of 1/255) with noise=integer_grid, found a value "
                        f"{apart / LEVELS:.2g} off it; set noise=gaussian")
