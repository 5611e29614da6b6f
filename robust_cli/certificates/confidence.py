"""Bounds of a probability from counts of votes: Clopper-Pearson (exact) and Sison-Glaz (the papers' own choice)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaincc, betaln, expit, gammaln, log_expit, logit, xlogy

from robust_cli.messages import check

Array = NDArray[np.float64]
MARGIN = 1e-10
"""Relative outward rounding of a Clopper-Pearson bound: above its numerical error, held by a test."""
STEPS, CONVERGED = 32, 1e-12


def lower(count: ArrayLike, samples: ArrayLike, failure_probability: ArrayLike) -> Array:
    """One-sided Clopper-Pearson lower bound of the probability behind ``count`` hits in ``samples`` draws, rounded down.

    With probability at least 1 - failure_probability over the draws the true probability is >= the bound. It is the
    failure_probability quantile of Beta(count, samples - count + 1), and 0 for no hits. Shapes broadcast; the result is
    in [0, 1). Raises Wrong for counts outside 0..samples and failure probabilities
    outside [1e-20, 1). Clopper and Pearson 1934.

    >>> float(lower(100, 100, 0.025).round(6))
    0.963783
    """
    return _of_distinct(_lower, count, samples, failure_probability)


def upper(count: ArrayLike, samples: ArrayLike, failure_probability: ArrayLike) -> Array:
    """One-sided Clopper-Pearson upper bound of the probability behind ``count`` hits in ``samples`` draws, rounded up.

    With probability at least 1 - failure_probability over the draws the true probability is <= the bound. It is the
    1 - failure_probability quantile of Beta(count + 1, samples - count), and 1 for nothing but hits. Shapes broadcast; the
    result is in (0, 1]. Raises Wrong for counts outside 0..samples and failure probabilities
    outside [1e-20, 1). Clopper and Pearson 1934.
    """
    return _of_distinct(_upper, count, samples, failure_probability)


def _of_distinct(bound: Callable[[Array, Array, Array], Array], count: ArrayLike, samples: ArrayLike,
                 failure_probability: ArrayLike) -> Array:
    """``bound`` of checked arguments, each distinct triple computed once: votes of many images repeat themselves."""
    k, n, alpha = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (count, samples, failure_probability)))
    check(bool(np.all((n >= 1) & (n == np.floor(n)))), "samples", "whole numbers >= 1", samples)
    check(bool(np.all((k >= 0) & (k <= n) & (k == np.floor(k)))), "count", "whole numbers in 0..samples", count)
    check(bool(np.all((alpha >= 1e-20) & (alpha < 1.0))), "failure_probability", "a number in [1e-20, 1)",
          failure_probability)
    distinct, place = np.unique(np.stack([k.ravel(), n.ravel(), alpha.ravel()]), axis=1, return_inverse=True)
    return bound(*distinct)[place.reshape(-1)].reshape(k.shape)


def _lower(k: Array, n: Array, alpha: Array) -> Array:
    """From the side where the bound, or what it lacks to 1, is small and has the more digits."""
    few, value = 2.0 * k <= n, np.empty_like(k)
    value[few] = _low(k[few], n[few], alpha[few])
    value[~few] = np.maximum(np.nextafter(1.0 - _high((n - k)[~few], n[~few], alpha[~few]), 0.0), 0.0)
    return value


def _upper(k: Array, n: Array, alpha: Array) -> Array:
    few, value = 2.0 * k <= n, np.empty_like(k)
    value[few] = np.minimum(_high(k[few], n[few], alpha[few]), 1.0)
    value[~few] = np.minimum(np.nextafter(1.0 - _low((n - k)[~few], n[~few], alpha[~few]), 2.0), 1.0)
    return value


def _low(k: Array, n: Array, alpha: Array) -> Array:
    hits = np.maximum(k, 1.0)
    return np.where(k > 0.0, _root(betainc, 1.0, hits, n - hits + 1.0, alpha) * (1.0 - MARGIN), 0.0)


def _high(k: Array, n: Array, alpha: Array) -> Array:
    hits = np.minimum(k, n - 1.0)
    return np.where(k < n, _root(betaincc, -1.0, hits + 1.0, n - hits, alpha) * (1.0 + MARGIN), 1.0)


def _root(tail: Callable[..., Array], sign: float, a: Array, b: Array, alpha: Array) -> Array:
    """The p at which tail(a, b, p) = alpha, by Newton's method on the logarithm of the tail in the log-odds of p.

    That function is concave, so a whole step ends on the safe side (tail <= alpha) and then approaches the root from
    there; steps are shortened only to keep the tail from underflow. scipy's own inverse is not used: some of its values
    are off by 1e-5 at 10^7 draws and by 1e-2 at 10^9, either way, where the tail itself is right to 1e-11.
    """
    odds, longest = logit(a / (a + b)), np.minimum(4.0 * np.sqrt(1.0 / a + 1.0 / b), 2.0)
    moving = np.ones(odds.shape, dtype=bool)
    for _ in range(STEPS):
        mass = tail(a, b, expit(odds))
        slope = np.exp(a * log_expit(odds) + b * log_expit(-odds) - betaln(a, b))
        step = np.log(mass / alpha) * mass / slope
        odds = np.where(moving, np.clip(odds - sign * np.clip(step, -longest, longest), -100.0, 30.0), odds)
        moving &= np.abs(step) >= CONVERGED  # each by itself: no bound depends on the others of a call
        if not moving.any():
            break
    return expit(odds)


def sison_glaz(counts: ArrayLike, failure_probability: float) -> tuple[Array, Array]:
    """Simultaneous intervals (lower, upper), each [N, K], of multinomial probabilities from counts [N, K].

    Asymptotic: there is no guarantee at any number of draws, and they cover too little where a probability is near 1 (for
    unanimous votes the lower bound is 1). The choice of SO and STN (Li et al.), for comparison with their tables only.

    The truncated Poisson and Edgeworth approximation of Sison and Glaz 1995: nu(c) approximates the probability that all
    counts fall within c of their expectation; with nu(c) < 1 - failure_probability <= nu(c + 1) and g the linear
    interpolation between them, the interval is [p - c/n, p + (c + 2 g)/n]. nu(0), where the series has no variance, is
    taken as 0. Raises Wrong for negative counts, rows of different sums and probabilities outside (0, 1).
    """
    table = np.asarray(counts, dtype=np.float64)
    check(table.ndim == 2 and bool(np.all(table >= 0)), "counts", "an array [images, classes] of counts >= 0", counts)
    check(0.0 < failure_probability < 1.0, "failure_probability", "a number in (0, 1)", failure_probability)
    sums = table.sum(axis=1, keepdims=True)
    check(bool(np.all((sums == sums[:1]) & (sums >= 1))), "counts", "rows of one sum >= 1", counts)
    distinct, place = np.unique(table, axis=0, return_inverse=True)
    below, interpolated = _half_widths(distinct, 1.0 - failure_probability)
    below, interpolated = below[place.reshape(-1), None], interpolated[place.reshape(-1), None]
    share = table / sums
    return np.maximum(share - below / sums, 0.0), np.minimum(share + (below + 2.0 * interpolated) / sums, 1.0)


def _half_widths(counts: Array, confidence: float) -> tuple[Array, Array]:
    """(c, g) per row: the whole half-width below the wanted confidence, and the interpolation to the next."""
    rows, samples = len(counts), int(counts.sum(axis=1).max(initial=0))
    below, interpolated, last = np.zeros(rows), np.zeros(rows), np.zeros(rows)
    sums = np.zeros((5, *counts.shape))
    sums[0] = _poisson(counts, counts)
    active = np.arange(rows)
    for width in range(1, samples + 1):
        if not len(active):
            break
        sums[:, active] += _next_terms(counts[active], width)
        now = _coverage(sums[:, active], samples)
        found = now >= confidence
        done, before = active[found], last[active[found]]
        below[done], interpolated[done] = width - 1, (confidence - before) / (now[found] - before)
        last[active] = now
        active = active[~found]
    below[active] = samples
    return below, interpolated


def _poisson(value: Array, mean: Array) -> Array:
    weight = np.exp(xlogy(value, mean) - mean - gammaln(np.maximum(value, 0.0) + 1.0))
    return np.where(value >= 0.0, weight, 0.0)


def _next_terms(counts: Array, width: int) -> Array:
    """What the values counts - width and counts + width add to the sums of offset^r P(V = value), r = 0..4."""
    above, under = _poisson(counts + width, counts), _poisson(counts - width, counts)
    return np.stack([(above + (-1) ** r * under) * float(width) ** r for r in range(5)])


def _coverage(sums: Array, samples: int) -> Array:
    """nu per row: Poisson variables truncated to the intervals, conditioned on their sum by an Edgeworth series."""
    m1, m2, m3, m4 = sums[1:] / sums[0]
    variance = m2 - m1**2
    third = m3 - 3.0 * m1 * m2 + 2.0 * m1**3
    fourth = m4 - 4.0 * m1 * m3 + 6.0 * m1**2 * m2 - 3.0 * m1**4
    total = variance.sum(axis=1)
    skew = third.sum(axis=1) / total**1.5
    excess = (fourth - 3.0 * variance**2).sum(axis=1) / total**2
    x = -m1.sum(axis=1) / np.sqrt(total)
    series = (1.0 + skew / 6.0 * (x**3 - 3.0 * x) + excess / 24.0 * (x**4 - 6.0 * x**2 + 3.0)
              + skew**2 / 72.0 * (x**6 - 15.0 * x**4 + 45.0 * x**2 - 15.0))
    density = series * np.exp(-(x**2) / 2.0) / np.sqrt(2.0 * np.pi * total)
    scale = gammaln(samples + 1.0) - samples * np.log(samples) + samples
    return density * np.exp(scale + np.log(sums[0]).sum(axis=1))
