"""The rounded Gaussian is exact: its table against 50 digits, every boundary word, and what a classifier gets to see."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from robust_cli.messages import UserError
from robust_cli.smoothing.integer_grid import IntegerGrid, Table, table
from robust_cli.smoothing.noise import CHUNK, ImageDraws, keyed_generator, keyed_words

STDS = [0.001, 0.02, 0.25, 0.3, 1.0]
SHAPE = (1, 14, 14)


def of_std(std: float) -> Table:
    return IntegerGrid(std).table


def phi(std: float) -> Callable[[int], mpmath.mpf]:
    """The Gaussian's distribution function at k - 1/2 steps of the grid, to 50 digits."""
    mpmath.mp.dps = 50
    return lambda k: mpmath.ncdf((mpmath.mpf(k) - mpmath.mpf(1) / 2) / (255 * mpmath.mpf(std)))


def numbers(found: Table) -> list[int]:
    """All numbers that the table can draw."""
    return list(range(found.least, found.least + len(found.thresholds) + 1))


def honest(found: Table, std: float) -> None:
    """Each threshold is the nearest whole number to 2^64 Phi, nothing else is left out, and the total variation between what is
    drawn and the ideal, summed here at 50 digits with its tails, is at most what the table says and not much less."""
    exact, drawn = phi(std), numbers(found)
    ends = [0, *(int(t) for t in found.thresholds), 2**64]
    assert ends == sorted(ends)
    assert sum(b - a for a, b in pairwise(ends)) == 2**64
    for k, threshold in zip(drawn[1:], ends[1:-1], strict=True):
        assert abs(threshold - 2**64 * exact(k)) <= mpmath.mpf(1) / 2 + mpmath.mpf(10) ** -20
    assert 2**64 * exact(drawn[0]) < 0.5 + 1e-9
    ideal = [exact(k + 1) - exact(k) for k in drawn]
    parts = [mpmath.mpf(b - a) / 2**64 for a, b in pairwise(ends)]
    beyond = 2 * exact(drawn[0])
    variation = (sum(abs(p - q) for p, q in zip(parts, ideal, strict=True)) + beyond) / 2
    assert variation <= found.variation
    assert found.variation <= (len(found.thresholds) + 3) / 2**65


@pytest.mark.parametrize("std", STDS)
def test_the_table_is_the_rounded_gaussian(std: float) -> None:
    honest(of_std(std), std)


@pytest.mark.parametrize("mutant", [
    lambda t: replace(t, thresholds=t.thresholds + np.uint64(2)),
    lambda t: replace(t, least=t.least + 1),  # a cell too far
    lambda t: replace(t, thresholds=t.thresholds[1:-1], least=t.least + 1),  # tails cut off
    lambda t: replace(t, variation=t.variation / 4),
    lambda t: replace(t, variation=t.variation * 4),
    lambda t: table(Fraction(0.25) * 256),  # steps of 1/256
    lambda t: table(Fraction(0.25) * 255 + Fraction(1, 10**12))])
def test_mutants_of_the_table_are_caught(mutant: Callable[[Table], Table]) -> None:
    with pytest.raises(AssertionError):
        honest(mutant(of_std(0.25)), 0.25)


class Given:
    """A bit generator that gives these 64-bit words: first their upper 16 bits, four a word, then what else is asked for."""

    def __init__(self, words: list[int], undecided: Callable[[int], bool]) -> None:
        cells = np.array([w >> 48 for w in words], dtype=np.uint16)
        rest = np.array([(w << 16) % 2**64 | 0xBEEF for w in words if undecided(w >> 48)], dtype=np.uint64)
        self._answers = [np.pad(cells, (0, -len(cells) % 4)).view(np.uint64), rest]

    def random_raw(self, size: int) -> np.ndarray:
        answer = self._answers.pop(0)
        assert size == len(answer)
        return answer


@pytest.mark.parametrize("std", STDS)
def test_every_boundary_word_draws_what_the_table_says(std: float) -> None:
    """Words on both sides of each threshold and of each lookup cell, against bisection of Python's own integers."""
    found = of_std(std)
    thresholds = [int(t) for t in found.thresholds]
    words = sorted({w % 2**64 for t in [*thresholds, 0] for w in (t - 1, t, t + 1, t >> 48 << 48, (t >> 48 << 48) - 1)})
    assert len(words) < 2**16
    expected = [found.least + bisect.bisect_right(thresholds, w) for w in words]
    first = found.first.numpy()
    out = torch.empty(len(words))
    found.on_words(Given(words, lambda cell: math.isnan(first[cell])), out)  # type: ignore[arg-type]
    assert out.tolist() == expected
    signed = torch.tensor([w - 2**63 for w in words])
    assert found.of_signed(signed).tolist() == expected


@pytest.mark.parametrize("std", STDS)
def test_a_cell_that_is_looked_up_holds_one_number_only(std: float) -> None:
    found = of_std(std)
    thresholds = [int(t) for t in found.thresholds]
    for cell, drawn in enumerate(found.first.tolist()):
        ends = [bisect.bisect_right(thresholds, w) for w in (cell << 48, ((cell + 1) << 48) - 1)]
        if not math.isnan(drawn):
            assert ends == [drawn - found.least] * 2


def counts_fit(drawn: np.ndarray, std: float, offset: float = 0.0) -> bool:
    """Chi-square of whole numbers against the rounded Gaussian around ``offset``; tails where 8 are expected."""
    s, n = 255 * std, len(drawn)
    reach = int((2 * np.log(n / 8 / s / (2 * np.pi) ** 0.5)) ** 0.5 * s)
    edges = np.arange(-reach, reach + 2) - 0.5
    expected = n * np.diff(stats.norm.cdf(np.concatenate([[-np.inf], edges, [np.inf]]), loc=offset, scale=s))
    observed = np.bincount(np.clip(drawn, -reach - 1, reach + 1).astype(int) + reach + 1, minlength=len(expected))
    assert expected.min() > 5, "chi-square wants more in a cell"
    return bool(stats.chisquare(observed, expected).pvalue > 1e-4)


@pytest.mark.parametrize("path", ["words", "generator"])
@pytest.mark.parametrize("std", [0.02, 0.25])
def test_both_ways_draw_the_rounded_gaussian(path: str, std: float) -> None:
    found, out = of_std(std), torch.empty(1_000_000)
    if path == "words":
        found.on_words(keyed_words(1, "test"), out)
    else:
        found.on_generator(keyed_generator("cpu", 1, "test"), out)
    drawn = out.numpy().astype(np.int64)
    assert counts_fit(drawn, std)
    for mutant in (drawn + 1, np.rint(drawn * 1.2), np.abs(drawn), np.trunc(drawn * 0.99), drawn[:500_000].repeat(2)):
        assert not counts_fit(mutant, std)


def write(noise: IntegerGrid, image: torch.Tensor, chunks: int) -> torch.Tensor:
    out = torch.empty(chunks * CHUNK, *image.shape)
    for chunk in range(chunks):
        noise.write(out[chunk * CHUNK : (chunk + 1) * CHUNK], image, 0, "test", 0, chunk)
    return out


def test_a_classifier_sees_one_float_of_the_whole_number() -> None:
    """x255 + k, then float32, then over 255: bit for bit, whatever x and k it comes from; and the same k for every image."""
    noise = IntegerGrid(0.25)
    black = write(noise, torch.zeros(SHAPE), 2)
    k = torch.round(black.double() * 255).long()
    for image in (torch.zeros(SHAPE), torch.full(SHAPE, 137.0) / 255, torch.arange(196.0).view(SHAPE) / 255):
        whole = k + torch.round(image.double() * 255).long()
        expected = (whole.numpy().astype(np.float32) / np.float32(255)).astype(np.float32)
        assert np.array_equal(write(noise, image, 2).numpy(), expected)


@pytest.mark.parametrize("image", [torch.full(SHAPE, 0.5), torch.full(SHAPE, 1 / 255 + 1e-5), torch.full(SHAPE, float("nan"))])
def test_images_off_the_grid_are_refused(image: torch.Tensor) -> None:
    noise = IntegerGrid(0.25)
    with pytest.raises(UserError, match="uint8 grid"):
        noise.write(torch.empty(CHUNK, *SHAPE), image, 0, "test", 0, 0)
    with pytest.raises(UserError, match=r"set noise=gaussian$"):
        noise.admit(torch.stack([torch.zeros(SHAPE), image]))


def test_all_images_of_bytes_are_on_the_grid() -> None:
    steps = torch.arange(256.0).view(1, 16, 16)
    for image in (steps / 255, steps * (1 / torch.tensor(255.0)), (steps.double() / 255).float()):
        IntegerGrid(0.25).admit(image)
        seen = write(IntegerGrid(1e-4), image, 1)  # far less than a step of noise
        assert torch.equal(seen, (steps / 255).expand_as(seen))


def test_off_the_grid_the_sum_is_rounded() -> None:
    """round(255 (x + e)): the same smoothed classifier, at x of an attack and, in distribution, at x on the grid."""
    noise = IntegerGrid(0.05).anywhere()
    for step in (40.0, 40.3, 40.5, 40.97):
        seen = write(noise, torch.full(SHAPE, step / 255), 80)
        around = noise.around(torch.full((1, *SHAPE), step / 255), ImageDraws("cpu", 0, "attack", [0]), 80 * CHUNK)[0]
        for drawn in (seen, around):
            whole = np.rint(drawn.flatten().numpy().astype(np.float64) * 255)
            assert np.array_equal((whole.astype(np.float32) / np.float32(255)), drawn.flatten().numpy())
            assert counts_fit(whole - 40, 0.05, offset=step - 40)
            assert not counts_fit(whole - 40, 0.05, offset=step - 40.2)


def test_residual_is_the_tables_for_every_number() -> None:
    noise = IntegerGrid(0.25)
    assert noise.residual(784, 100_000) == pytest.approx(noise.table.variation * 784 * 100_000)
    assert noise.residual(784, 100_000) >= noise.table.variation * 784 * 100_000
    assert noise.residual(784, 100_000) < 2e-9  # what it costs of a failure probability
    assert noise.residual(3072, 100_000) > noise.residual(784, 100_000)
    assert math.isinf(noise.anywhere().residual(784, 100_000))
