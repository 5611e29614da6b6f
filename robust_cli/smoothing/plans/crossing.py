"""Claims that may be made at any of many looks: exact boundaries for a count of misses, by spending a failure probability.

After t draws of a class with probability p_A there are Binomial(t, 1 - p_A) misses. A level p is claimed (p_A > p) at a look if
the misses are at most the count that the look allows. If p_A <= p, misses are no rarer than at p itself, so the probability
that they are ever that few is largest at p_A = p. That one number is computed by recursion over the looks: the weights of the
counts at which nothing was claimed yet, convolved with those of the misses of the next draws. Each look allows the largest
count that keeps the sum of all claims within the share of the failure probability that may be spent by then.

The recursion: Armitage, McPherson and Rowe 1969. Spending: Lan and DeMets 1983. Here on the binomial walk itself, without a
normal approximation.

Why rounding cannot carry the error above the failure probability: every weight is a sum of products of positive numbers, so
its relative error is below (additions and multiplications in a row) x 2^-53, less than 1e-9 for 10^7 draws, and that of scipy's
binomial weights less than 1e-11 for each look; weights too small to matter are left out and counted as claims. The aim is
(1 - 1e-6) times the failure probability, so all of this together has room many times over.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from robust_cli.messages import check

Counts = NDArray[np.int64]
Array = NDArray[np.float64]
AIM = 1.0 - 1e-6
"""Share of the failure probability that is spent; the rest is there for rounding."""
NEGLIGIBLE = 1e-12
"""Weights left out at a look, as a share of the failure probability; they are spent."""
POWER = 0.3
"""Of the share of the draws, to give the share spent. Powers from 0.2 to 1, the logarithm of the draws and mixtures of these need
up to a tenth more draws for a table to 3 noise_std, and about as many for a single level."""
NEVER = -1


def spending(looks: Sequence[int]) -> Array:
    """The share of the failure probability that may be spent up to each look, float64 [looks]: (draws / most draws)^0.3."""
    draws = np.asarray(looks, dtype=np.float64)
    return (draws / draws[-1]) ** POWER


def fewest_draws(level: float, failure_probability: float) -> int:
    """The least number of draws that can prove p_A > level at all: all hits, and everything spent at that one look.

    >>> fewest_draws(0.5, 0.001)
    10
    """
    return int(np.ceil(np.log(AIM * failure_probability) / np.log(level)))


def claim_counts(level: float, looks: Sequence[int], failure_probability: float, spent: Array) -> tuple[Counts, float]:
    """The most misses with which p_A > level may be claimed at each look (int64 [looks], -1: none), and the error.

    If p_A <= level, the misses are at or below these counts at one look or more with probability at most the error, which is
    at most failure_probability: whoever claims there errs no more often, whenever and for whatever reason the draws stop.
    ``looks`` are numbers of draws, increasing; ``spent`` (float64 [looks], not decreasing, the last 1) is the share of the
    failure probability that may be spent up to each. What a look leaves, counts being whole, is there for the next. Raises
    Wrong for a level or a failure probability outside (0, 1).
    """
    check(0.0 < level < 1.0, "level", "a probability in (0, 1)", level)
    check(0.0 < failure_probability < 1.0, "failure_probability", "a number in (0, 1)", failure_probability)
    most = np.full(len(looks), NEVER, dtype=np.int64)
    weights, first, error, drawn = np.ones(1), 0, 0.0, 0
    negligible = failure_probability * NEGLIGIBLE
    for look, draws in enumerate(looks):
        step, least, lost = _misses(level, draws - drawn, negligible)
        weights, dropped = _without_upper_end(np.convolve(weights, step), negligible)
        first, drawn, error = first + least, draws, error + lost + dropped
        sums = error + np.cumsum(weights)
        claimed = int(np.searchsorted(sums, AIM * failure_probability * spent[look], side="right"))
        if claimed:
            most[look], error = first + claimed - 1, float(sums[claimed - 1])
            weights, first = weights[claimed:], first + claimed
    return most, error


def _misses(level: float, draws: int, negligible: float) -> tuple[Array, int, float]:
    """Weights of the misses of so many draws, from the least that matters on; that least; and what is left out at most."""
    low, high = binom.ppf(negligible / 2.0, draws, 1.0 - level), binom.isf(negligible / 2.0, draws, 1.0 - level)
    least, most = max(int(low) - 1, 0), min(int(high) + 1, draws)
    whole = least == 0 and most == draws
    return binom.pmf(np.arange(least, most + 1), draws, 1.0 - level), least, 0.0 if whole else negligible


def _without_upper_end(weights: Array, negligible: float) -> tuple[Array, float]:
    """The weights without those of the largest counts, which have no more than ``negligible`` together; and what they had."""
    tail = np.cumsum(weights[::-1])
    left_out = int(np.searchsorted(tail, negligible, side="right"))
    return (weights[:-left_out], float(tail[left_out - 1])) if left_out else (weights, 0.0)
