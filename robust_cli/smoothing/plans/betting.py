"""Bounds of a probability that hold after every number of draws at once: a betting confidence sequence.

To test "the probability of a hit is at most m", a gambler with capital 1 bets on hits at the odds that are fair for m: he
keeps the part u in [0, 1] of his capital at a miss and multiplies it by (1 - (1 - m) u) / m at a hit, so that its expectation
stays what it is for m, and does not grow for anything below m. Several gamblers with parts u_i and shares w_i of the first
capital, all fixed beforehand, have after k hits in n draws

    capital(m) = sum_i w_i ((1 - (1 - m) u_i) / m)^k u_i^(n - k),

a test martingale under m: by Ville's inequality it ever reaches 1 / failure_probability with at most failure_probability.
It falls as m grows. So the m at which it equals 1 / failure_probability lies above the true probability after any number of
draws, even once, with probability at most failure_probability. A gambler who bets on misses is ruled out, so nothing is spent
on the other side; u = 0 is the bet that loses everything at the first miss, and for hits only it comes near the limit
failure_probability^(1/n) of any valid bound. The u_i and w_i below serve few misses and many alike.

Sources: Waudby-Smith and Ramdas 2021 (betting); Robbins 1970, Ville 1939 (mixtures). Legend: alpha -> failure_probability.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from robust_cli.messages import check

Array = NDArray[np.float64]
ODDS = 2.0 ** np.arange(-7, 11)  # of the part kept, u / (1 - u)
LOST = np.concatenate([[1.0], 1.0 / (1.0 + ODDS)])  # 1 - u
WEIGHTS = np.concatenate([[0.1], 0.9 * np.minimum(ODDS, 1.0 / ODDS) ** 0.2 / (np.minimum(ODDS, 1.0 / ODDS) ** 0.2).sum()])
LOG_KEPT, LOG_WEIGHTS = np.concatenate([[-np.inf], np.log(ODDS / (1.0 + ODDS))]), np.log(WEIGHTS)
MARGIN = 1e-10
"""By which relative part of the odds a bound is rounded outward: above its numerical error, held by a test."""
STEPS, CONVERGED, LEAST = 60, 1e-12, -60.0  # log-odds below which a bound is 0


def lower(hits: ArrayLike, draws: ArrayLike, failure_probability: ArrayLike) -> Array:
    """Lower bound of the probability of a hit after ``hits`` in ``draws``, for all numbers of draws at once, rounded down.

    With probability at least 1 - failure_probability over the draws, the true probability is >= the bounds after 1, 2, 3, ...
    draws, all of them; so also after a number of draws that was chosen by looking at the hits. It grows with the hits and
    is 0 for no hits (and no draws). Shapes broadcast; the result is in [0, 1). Raises Wrong for hits outside 0..draws and
    failure probabilities outside (0, 1).

    >>> float(lower(100, 100, 0.001).round(4))
    0.9214
    """
    k, n, alpha = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (hits, draws, failure_probability)))
    check(bool(np.all((n >= 0) & (n == np.floor(n)))), "draws", "whole numbers >= 0", draws)
    check(bool(np.all((k >= 0) & (k <= n) & (k == np.floor(k)))), "hits", "whole numbers in 0..draws", hits)
    check(bool(np.all((alpha > 0.0) & (alpha < 1.0))), "failure_probability", "a number in (0, 1)", failure_probability)
    distinct, place = np.unique(np.stack([k.ravel(), n.ravel(), alpha.ravel()]), axis=1, return_inverse=True)
    return _lower(*distinct)[place.reshape(-1)].reshape(k.shape)


def upper(hits: ArrayLike, draws: ArrayLike, failure_probability: ArrayLike) -> Array:
    """Upper bound of the probability of a hit, for all numbers of draws at once: 1 - `lower` of the misses, rounded up."""
    least = lower(np.asarray(draws) - np.asarray(hits), draws, failure_probability)
    return np.where(least < 0.5, np.minimum(np.nextafter(1.0 - least, 2.0), 1.0), 1.0 - least)  # exact from 1/2 on


def log_capital(hits: Array, draws: Array, log_odds: Array) -> tuple[Array, Array]:
    """(log capital, its slope) at m = expit(log_odds), float64 [N] each: convex and falling in log_odds.

    1 + (1 - u) e^(-log_odds) is what a hit multiplies the capital by.
    """
    misses = (draws - hits)[:, None]
    won = LOST * np.exp(-log_odds)[:, None]
    terms = LOG_WEIGHTS + np.where(misses > 0.0, np.maximum(misses, 1.0) * LOG_KEPT, 0.0) + hits[:, None] * np.log1p(won)
    most = terms.max(axis=1)
    shares = np.exp(terms - most[:, None])
    total = shares.sum(axis=1)
    return most + np.log(total), -hits * (shares * (won / (1.0 + won))).sum(axis=1) / total


def _lower(k: Array, n: Array, alpha: Array) -> Array:
    """Newton's method on the convex, falling log capital: every step ends on the safe side of the root."""
    j = n - k
    odds, moving = np.log((k + 0.5) / (j + 4.0 * np.sqrt(j * k / np.maximum(n, 1.0)) + 6.0)), k > 0.0
    for _ in range(STEPS):
        if not moving.any():
            break
        capital, slope = log_capital(k[moving], n[moving], odds[moving])
        step = (capital + np.log(alpha[moving])) / slope
        odds[moving] -= step
        moving[moving] = (np.abs(step) >= CONVERGED) & (odds[moving] > LEAST)  # each by itself, whatever the others of a call
    odds -= MARGIN
    value = np.where(odds > 0.0, 1.0 - np.nextafter(expit(-odds), 1.0), expit(odds))
    return np.where((k > 0.0) & (odds > LEAST), np.nextafter(value, 0.0), 0.0)
