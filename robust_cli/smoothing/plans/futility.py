"""When an image's next level is given up: counts fixed before the first draw, by backward induction over the looks.

Stopping without a claim is sound for whatever reason, so nothing here can make a certificate wrong: it decides how many draws
go to images that would hardly prove more. A claim of a level is worth a number of draws. An image's probability is taken to
come from Beta(3.5, 0.5), which resembles those of published smoothed models (priors from Beta(1, 1) to Beta(5, 0.5) lead to the
same number of draws within 2 %). Going on has a value: the worth of the claims to be expected, less the draws they take if each
later look is handled in the best way; where it is not positive, the image stops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from robust_cli.smoothing.plans.crossing import fewest_draws

Counts = NDArray[np.int64]
Array = NDArray[np.float64]
PRIOR_HITS, PRIOR_MISSES = 3.5, 0.5
DEAR = 100.0
"""A level that takes so many draws at least is worth twice as much as one that takes hardly any."""
GRID = 64
"""Counts at which the value of going on is computed; it is interpolated between them."""
WIDTH = 6.0
"""Standard deviations from what is expected within which counts are considered."""


def worth(levels: Sequence[float], failure_probability: float, patience: float) -> Array:
    """What a claim of each level is worth in draws: patience (1 + sqrt(fewest draws that can prove it / 100)), float64 [levels].

    High levels take most of the draws that there may be, by any plan, so images close above them are kept on for longer: with
    one worth for all levels, these would lose several times as many images as the others.
    """
    fewest = np.array([fewest_draws(level, failure_probability) for level in levels])
    return patience * (1.0 + np.sqrt(fewest / DEAR))


def keep_counts(levels: Sequence[float], looks: Sequence[int], claims: Counts, worths: Array) -> Counts:
    """The most misses with which an image goes on at each look, by the level that it is to prove next: int64 [looks, levels].

    With more it stops. ``levels`` increase; ``claims`` int64 [looks, levels] are the most misses with which each may be
    claimed (-1: none), ``worths`` [levels] what each claim is worth in draws. None goes on at the last look (-1).
    """
    odds = Predictions(looks[-1])
    keep = np.full(claims.shape, -1, dtype=np.int64)
    above = [Values(0, np.zeros(0))] * len(looks)
    for j in reversed(range(len(levels))):
        least = np.concatenate([[0], np.maximum.accumulate(claims[:-1, j]) + 1])  # whoever goes on has at least so many
        here = list(above)
        for look in reversed(range(len(looks))):
            claimed = worths[j] + above[look].at(np.arange(least[look], claims[look, j] + 1))
            first, going_on = int(least[look]) + len(claimed), np.zeros(0)
            if look + 1 < len(looks):
                last = _last(levels[j], looks[look])
                going_on = odds.value(looks[look], looks[look + 1], first, last, here[look + 1])
                keep[look, j] = first + len(going_on) - 1
            here[look] = Values(int(least[look]), np.concatenate([claimed, going_on]))
        above = here
    return keep


def _last(level: float, draws: int) -> int:
    """More misses than this are hopeless."""
    return min(draws, int(draws * (1.0 - level) + WIDTH * np.sqrt(draws * level * (1.0 - level)) + WIDTH))


@dataclass(frozen=True)
class Values:
    """Value of an image with ``first``, first + 1, ... misses at a look; 0 with more."""

    first: int
    values: Array

    def at(self, misses: Counts) -> Array:
        """Of each of these counts, none of which is below ``first`` where it matters."""
        if not len(self.values):
            return np.zeros(misses.shape)
        place = np.maximum(misses - self.first, 0)
        return np.where(place < len(self.values), self.values[np.minimum(place, len(self.values) - 1)], 0.0)


class Predictions:
    """Beta-binomial weights of the misses to come, given those that there are."""

    def __init__(self, most: int) -> None:
        counts = np.arange(most + 1, dtype=np.float64)
        self._factorial, self._hits = gammaln(counts + 1.0), gammaln(counts + PRIOR_HITS)
        self._misses, self._both = gammaln(counts + PRIOR_MISSES), gammaln(counts + PRIOR_HITS + PRIOR_MISSES)

    def value(self, draws: int, then: int, first: int, last: int, values: Values) -> Array:
        """Value of going on from ``draws`` to ``then`` with ``first``, ..., ``last`` misses, up to where it is not above 0."""
        if last < first or not len(values.values):
            return np.zeros(0)
        at = np.unique(np.linspace(first, last, GRID).round().astype(np.int64))
        found = np.interp(np.arange(first, last + 1), at, self._expected(at, draws, then - draws, values) - (then - draws))
        stops = np.flatnonzero(found <= 0.0)
        return found[:stops[0]] if len(stops) else found

    def _expected(self, at: Counts, draws: int, more: int, values: Values) -> Array:
        """Expected value after so many ``more`` draws, for each of these counts of misses."""
        mean = (at + PRIOR_MISSES) / (draws + PRIOR_HITS + PRIOR_MISSES)
        spread = WIDTH * np.sqrt(more * mean * (1.0 - mean) * (1.0 + more / draws))
        low = np.maximum(np.floor(more * mean - spread), 0.0).astype(np.int64)
        step = low[:, None] + np.arange(int(2.0 * spread.max()) + 8)
        possible, step = step <= more, np.minimum(step, more)
        total = at[:, None] + step
        log = (self._factorial[more] - self._factorial[step] - self._factorial[more - step]
               + self._log_beta(total, draws + more) - self._log_beta(at, draws)[:, None])
        return np.sum(np.exp(np.where(possible, log, -np.inf)) * values.at(total), axis=1)

    def _log_beta(self, misses: Counts, draws: int) -> Array:
        return self._misses[misses] + self._hits[draws - misses] - self._both[draws]
