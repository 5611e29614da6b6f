"""The mathematics of verify_certificates.py: bounds, radii, the error of a plan that looks many times, and what the noise lacks.

No code is shared with what made the certificates: bisection instead of Newton's method, a refined grid instead of golden section.
"""

from __future__ import annotations

import numpy as np
from scipy.special import betainc, betaincc, expit, logsumexp, ndtri
from scipy.stats import binom

NAMES = ("neyman_pearson", "renyi", "pixeldp", "laplace", "uniform")


class Bad(Exception):
    """What makes a run unfit to be verified at all."""


# ---- bounds of a probability, each as (p, 1 - p), both to full relative precision -------------------------------------------
def bisect(tail, alpha, low=-100.0, high=100.0):
    """The log-odds at which an increasing function of them reaches alpha, from below."""
    a, b = np.full(np.shape(alpha), low), np.full(np.shape(alpha), high)
    for _ in range(110):
        middle = (a + b) / 2
        above = tail(middle) > alpha
        a, b = np.where(above, a, middle), np.where(above, middle, b)
    return a


def clopper_pearson(k, n, alpha):
    """Lower bound: P(Binomial(n, p) >= k) = alpha."""
    k, n, alpha = (np.asarray(v, dtype=float) for v in np.broadcast_arrays(k, n, alpha))
    hits = np.maximum(k, 1)

    def tail(t):
        return np.where(t < 0, betainc(hits, n - hits + 1, expit(t)), betaincc(n - hits + 1, hits, expit(-t)))
    odds = bisect(tail, alpha)
    return np.where(k > 0, expit(odds), 0.0), np.where(k > 0, expit(-odds), 1.0)


def mixture(lost, weights):
    """The bound of a betting mixture: bets that lose the part ``lost`` at a miss, with weights fixed beforehand."""
    lost, weights = np.asarray(lost, dtype=float), np.asarray(weights, dtype=float)
    if not (np.all((lost >= 0) & (lost <= 1)) and np.all(weights >= 0) and weights.sum() <= 1 + 1e-12):
        raise Bad("plan.json: the bets are no test martingale (parts in [0, 1], weights that add up to at most 1)")
    lost, weights = lost[weights > 0], weights[weights > 0]

    def lower(k, n, alpha):
        k, n, alpha = (np.asarray(v, dtype=float) for v in np.broadcast_arrays(k, n, alpha))
        with np.errstate(divide="ignore", invalid="ignore"):
            kept = np.where(lost < 1, np.log1p(-lost), -np.inf)
            missed = np.where((n - k)[:, None] > 0, (n - k)[:, None] * kept, 0.0)

        def minus_capital(t):  # falls in the odds: 1 / capital rises
            return -logsumexp(np.log(weights) + missed + k[:, None] * np.log1p(lost * np.exp(-t)[:, None]), axis=1)
        odds = bisect(minus_capital, np.log(alpha))
        return np.where(k > 0, expit(odds), 0.0), np.where(k > 0, expit(-odds), 1.0)
    return lower


# ---- radii at noise_std 1 ----------------------------------------------------------------------------------------------------
def largest(function, low, high):
    """Largest value over [low, high] of a function of [N, M]: a grid, refined around its best point."""
    if not len(low):
        return low
    for _ in range(6):
        grid = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 129)
        values = function(grid)
        best = values.argmax(axis=1)
        step = (high - low) / 128
        centre = grid[np.arange(len(grid)), best]
        low, high = np.maximum(low, centre - step), np.minimum(high, centre + step)
    return values.max(axis=1)


def neyman_pearson(p1, q1, p2):
    upper = np.where(p1 > 0.5, -ndtri(q1), ndtri(p1))
    return (upper - ndtri(p2)) / 2


def renyi(p1, q1, p2):
    """STN, Theorem 2: sqrt(sup over orders 1 + t of -(2 / (1 + t)) log(1 - p1 - p2 + 2 M)), M the power mean of exponent -t.

    With h = log(p1 / p2) / 2: M = sqrt(p1 p2) cosh(t h)^(-1/t).
    """
    a, b, rest = (v.astype(np.longdouble)[:, None] for v in (p1, np.maximum(p2, 1e-300), q1 - p2))
    h = np.log1p((a - b) / b) / 2

    def value(s):  # t = e^s
        t = np.exp(s.astype(np.longdouble))
        y = t * h
        lost = np.where(y < 1, np.log1p(2 * np.sinh(np.minimum(y, 1) / 2) ** 2), y - np.log(2) + np.log1p(np.exp(-2 * y))) / t
        gap = (np.sqrt(a) - np.sqrt(b)) ** 2 - 2 * np.sqrt(a * b) * np.expm1(-lost)
        kept = np.maximum(rest, 0) + 2 * np.sqrt(a * b) * np.exp(-lost)
        return -2 / (1 + t) * np.where(gap < 0.5, np.log1p(-np.minimum(gap, 0.5)), np.log(kept))
    return np.sqrt(np.maximum(largest(value, np.full(len(p1), -30.0), np.full(len(p1), 4.0)).astype(float), 0))


def pixeldp(p1, q1, p2):
    """Over 0 < e <= 1 and p1 >= exp(2e) p2 + (1 + exp(e)) d: e / sqrt(2 log(1.25 / d))."""
    def value(e):
        delta = (p1[:, None] - np.exp(2 * e) * p2[:, None]) / (1 + np.exp(e))
        return np.where(delta > 0, e / np.sqrt(2 * np.log(1.25 / np.maximum(delta, 1e-300))), 0.0)
    return largest(value, np.zeros(len(p1)), np.ones(len(p1)))


def laplace(p1, q1, p2):
    """l1, scale 1 / sqrt 2: half of it times the distance of the quantiles, which half-spaces along one pixel attain."""
    upper = np.where(p1 > 0.5, -np.log(2 * q1), np.log(2 * p1))
    return (upper - np.where(p2 > 0.5, -np.log(2 * (1 - p2)), np.log(2 * np.maximum(p2, 1e-300)))) / np.sqrt(8)


def uniform(p1, q1, p2):
    """l1, half width w = sqrt 3 (Yang et al. 2020): w (p1 - p2)."""
    return np.sqrt(3) * (p1 - p2)


FORMULAS = dict(zip(NAMES, (neyman_pearson, renyi, pixeldp, laplace, uniform), strict=True))


def radius(kind, norm, dimension, p1, q1, p2, std):
    """In pixel units; 0 where nothing is proven."""
    found, proven = np.zeros(len(p1)), p1 > p2
    if proven.any():
        pairs, place = np.unique(np.stack([p1, q1, p2])[:, proven], axis=1, return_inverse=True)
        found[proven] = FORMULAS[kind](*pairs)[place.reshape(-1)] * std
    return found / np.sqrt(dimension) if norm == "linf" else found


# ---- many looks --------------------------------------------------------------------------------------------------------------
def crossing(p, looks, most):
    """Probability that the misses of hits of probability p are ever, at a look, at or below the number ``most`` of that look."""
    walk, first, drawn, error = np.ones(1), 0, 0, 0.0
    for draws, limit in zip(looks, most, strict=True):
        least, top = int(binom.ppf(1e-25, draws - drawn, 1 - p)), int(binom.isf(1e-25, draws - drawn, 1 - p))
        walk = np.convolve(walk, binom.pmf(np.arange(least, top + 1), draws - drawn, 1 - p))
        first, drawn = first + least, draws
        crossed = max(0, limit - first + 1)
        error += walk[:crossed].sum()
        walk, first = walk[crossed:], first + crossed
        if len(walk):
            above = np.cumsum(walk[::-1])[::-1]
            kept = max(1, int((above > 1e-25).sum()))
            error, walk = error + (above[kept] if kept < len(above) else 0.0), walk[:kept]
    return error


# ---- noise -------------------------------------------------------------------------------------------------------------------
def drawn_std(noise, std):
    """Floats of 32 bits scale the noise: of the standard deviation asked for and the one drawn the smaller."""
    if noise == "integer_grid":
        return std
    factor = {"gaussian": 1.0, "laplace": np.sqrt(2), "uniform": 1 / np.sqrt(3)}[noise]
    return min(std, float(np.float32(std / factor)) * factor)


def residual(noise, std, shape, draws):
    """Total variation between the integers drawn (thresholds of 64 bits) and the rounded Gaussian, over all draws of an image."""
    if noise != "integer_grid":
        return 0.0
    if not shape:
        raise Bad("about.json has no shape: what noise=integer_grid lacks to the ideal cannot be derived")
    import mpmath
    with mpmath.workdps(50):
        s, total, k, one = mpmath.mpf(std) * 255, mpmath.mpf(0), 0, mpmath.mpf(2) ** 64
        while True:
            tail = mpmath.ncdf(-(k + mpmath.mpf(1) / 2) / s) * one
            if mpmath.nint(tail) == 0:
                break
            total, k = total + abs(mpmath.nint(tail) - tail) / one, k + 1
        return float(2 * total) * int(np.prod(shape)) * draws * (1 - 1e-6)
