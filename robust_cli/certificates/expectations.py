"""Bounds of an expectation from independent draws of a number in [0, 1]: Hoeffding, and Maurer and Pontil's empirical Bernstein.

Their symbols and our words:
    X_i                        the drawn numbers, of which total is the sum and squares the sum of squares
    n                          samples
    delta                      failure_probability
    V_n                        the sample variance, with n - 1 in its denominator

Both hold at one number of draws that was fixed beforehand.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robust_cli.certificates.certificate import INTERVALS
from robust_cli.messages import check

Array = NDArray[np.float64]
UNIT = 2.0**-52
"""Twice the relative error of a float64 addition: sums of n numbers in [0, 1], in any order, are right to n^2 of it."""


def lower(total: ArrayLike, squares: ArrayLike, samples: int, failure_probability: float, interval: str) -> Array:
    """One-sided lower bound of the expectation of a number in [0, 1], from the sums of its draws and of their squares.

    With probability at least 1 - failure_probability over the ``samples`` independent draws the expectation is >= the bound.
    ``interval`` hoeffding or empirical_bernstein, see `hoeffding` and `empirical_bernstein` for what is taken off the mean;
    rounded down by more than the sums' rounding errors. Shapes of the sums broadcast; the result is float64 in [0, 1).

    Raises Wrong for sums that no such draws have, samples < 1, failure probabilities outside (0, 1) and unknown intervals.

    >>> float(lower(90, 90, 100, 0.025, "hoeffding").round(6))
    0.76419
    """
    mean, width = _checked(total, squares, samples, failure_probability, interval)
    return np.maximum(mean - width, 0.0)


def upper(total: ArrayLike, squares: ArrayLike, samples: int, failure_probability: float, interval: str) -> Array:
    """One-sided upper bound: `lower` of 1 - X, taken from 1. Float64 in (0, 1]."""
    mean, width = _checked(total, squares, samples, failure_probability, interval)
    return np.minimum(mean + width, 1.0)


def _checked(total: ArrayLike, squares: ArrayLike, samples: int, failure_probability: float,
             interval: str) -> tuple[Array, Array]:
    """(mean, width) with the sums' rounding in the width."""
    s, q = np.broadcast_arrays(np.asarray(total, dtype=np.float64), np.asarray(squares, dtype=np.float64))
    check(samples >= 1 and samples == int(samples), "samples", "a whole number >= 1", samples)
    check(0.0 < failure_probability < 1.0, "failure_probability", "a number in (0, 1)", failure_probability)
    check(interval in INTERVALS["softmax"], "interval", " or ".join(INTERVALS["softmax"]), interval)
    slack = samples * samples * UNIT + 1e-300
    check(bool(np.all((s >= 0.0) & (s <= samples + slack))), "total", "sums of numbers in [0, 1], 0..samples", total)
    check(bool(np.all((q >= s * s / samples - 4.0 * slack) & (q <= s + slack))), "squares",
          "sums of squares of numbers in [0, 1] that have these sums", squares)
    width = hoeffding(samples, failure_probability) if interval == "hoeffding" else \
        empirical_bernstein(_variance(s, q, samples), samples, failure_probability)
    return s / samples, np.asarray(width + samples * UNIT)


def hoeffding(samples: int, failure_probability: float) -> float:
    """sqrt(log(1 / failure_probability) / (2 samples)): the mean of independent numbers in [0, 1] is above (or, apart, below)
    its expectation by more than this with at most failure_probability. Hoeffding 1963, Theorem 1 (equation 2.3)."""
    return float(np.sqrt(-np.log(failure_probability) / (2.0 * samples)))


def empirical_bernstein(variance: ArrayLike, samples: int, failure_probability: float) -> Array:
    """sqrt(2 V log(2 / failure_probability) / n) + 7 log(2 / failure_probability) / (3 (n - 1)), with n = samples >= 2.

    With V the sample variance (n - 1 in its denominator), the mean of n independent numbers in [0, 1] of one law is below its
    expectation by more than this with at most failure_probability; and so, apart, above it (1 - X has the same variance).
    Maurer and Pontil 2009 (Empirical Bernstein bounds and sample-variance penalization), Theorem 4: the 2 in the logarithm
    pays for V in place of the variance. Infinite for a single draw.
    """
    v = np.asarray(variance, dtype=np.float64)
    if samples < 2:
        return np.full(v.shape, np.inf)
    paid = np.log(2.0 / failure_probability)
    return np.asarray(np.sqrt(2.0 * v * paid / samples) + 7.0 * paid / (3.0 * (samples - 1.0)))


def _variance(total: Array, squares: Array, samples: int) -> Array:
    """The sample variance, rounded up by more than the rounding errors of the sums."""
    if samples < 2:
        return np.zeros(total.shape)
    return np.maximum(squares - total * total / samples, 0.0) / (samples - 1.0) + 8.0 * samples * UNIT
