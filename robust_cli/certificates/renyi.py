"""Certified l2 radius from the Renyi divergence: STN (Li et al. 2019), Theorem 2; SO (Li et al. 2018), Theorem 2.

Their symbols and our words:
    sigma                      noise_std, standard deviation of the Gaussian noise
    p(1), p(2)                 p1_lower, p2_upper: bounds of the two largest probabilities of the vote under noise
    alpha > 1                  order of the divergence
    M_p(x, y)                  power mean ((x^p + y^p) / 2)^(1/p), here with p = 1 - order
    L                          radius

Errata put right here: the radius is noise_std * sqrt(sup -(2/order) log(1 - p1 - p2 + 2 M)), whereas line 6 of SO's
Algorithm 1 has lost this multiplication; the denominator of the minimising distribution is 1 - p1 - p2 + 2 M (printed
with a minus in STN); and the formula is symmetric in p1 and p2, so that without a guard it returns a positive radius for
p1_lower < p2_upper, where nothing is proven.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robust_cli.certificates.certificate import SAFETY, checked_pair
from robust_cli.certificates.families import OfGaussianNoise
from robust_cli.certificates.search import maximise
from robust_cli.messages import check

Array = NDArray[np.float64]
LARGEST_ORDER = 4.0
TINY = 1e-300


@dataclass(frozen=True)
class Renyi(OfGaussianNoise):
    """The papers' certificate, a baseline: never above the Neyman-Pearson radius of the same two bounds."""

    def __call__(self, p1_lower: ArrayLike, p2_upper: ArrayLike, noise_std: ArrayLike) -> Array:
        """The l2 radii; Sison-Glaz bounds go into the raw formula, as in the papers (their p1_lower may be 1)."""
        return radius(p1_lower, p2_upper, noise_std, clamp=self.interval != "sison_glaz")


def radius(p1_lower: ArrayLike, p2_upper: ArrayLike, noise_std: ArrayLike, clamp: bool = True) -> Array:
    """Certified l2 radius per image (pixel units), rounded down; 0 where p1_lower <= p2_upper, both after the clamp.

    If under noise N(0, noise_std^2 I) the predicted class has probability >= p1_lower in [0, 1) and every other one
    <= p2_upper in [0, 1], it stays the most likely class for every perturbation shorter than the radius. So the radius
    holds with the probability with which the two bounds hold together. Shapes broadcast; the result is float64.

    ``clamp`` replaces p2_upper by 1 - p1_lower where that is smaller (valid, and tighter). Without it p1_lower may be 1
    where p2_upper > 0. Raises Wrong for bounds out of range. STN (Li et al. 2019), Theorem 2.

    >>> float(radius(0.9, 0.1, 1.0).round(6))
    1.03193
    """
    p1, p2, std = checked_pair(p1_lower, p2_upper, noise_std, clamp)
    check(not np.any((p1 == 1.0) & (p2 == 0.0)), "p1_lower", "lower bounds < 1 where p2_upper is 0", 1.0)
    result = np.zeros(p1.shape)
    proven = p1 > np.maximum(p2, TINY)
    if np.any(proven):
        _, exponent = _best(p1[proven], p2[proven])
        result[proven] = std[proven] * np.sqrt(2.0 * exponent) * SAFETY
    return result


def best_order(p1: ArrayLike, p2: ArrayLike) -> Array:
    """The order in [1, 4] at which the supremum is taken, for p1 > p2 >= 0 with p1 + p2 <= 1; 1 means the limit there."""
    order, _ = _best(*np.broadcast_arrays(np.asarray(p1, dtype=np.float64), np.asarray(p2, dtype=np.float64)))
    return order


def divergence_bound(p1: ArrayLike, p2: ArrayLike, order: ArrayLike) -> Array:
    """-log(1 - p1 - p2 + 2 M_{1-order}(p1, p2)): the least Renyi divergence D_order(Q || P) that changes the argmax.

    ``p1 >= p2`` are the two largest probabilities of P, ``order`` >= 1 (1 is the limit, M the geometric mean).
    STN (Li et al. 2019), Lemma 1. It is attained at q1 = q2 = c M, q_i = c p_i with c = 1 / (1 - p1 - p2 + 2 M); the q0 = M
    of SO's proof is feasible but not the minimiser.
    """
    p1, p2 = np.asarray(p1, dtype=np.float64), np.asarray(p2, dtype=np.float64)
    return _divergence(p1, np.maximum(p2, TINY), np.asarray(order, dtype=np.float64) - 1.0)


def _best(p1: Array, p2: Array) -> tuple[Array, Array]:
    """(order, divergence / order) at the best order; every order's value is valid, so the search cannot break the bound."""
    p2 = np.maximum(p2, TINY)  # raising p2 is sound, and no logarithm is infinite
    excess, value = maximise(lambda t: _divergence(p1, p2, t) / (1.0 + t),
                             np.zeros_like(p1), np.full_like(p1, LARGEST_ORDER - 1.0))
    return 1.0 + excess, value


def _divergence(p1: Array, p2: Array, excess: Array) -> Array:
    """`divergence_bound` at order 1 + excess, for p1, p2 > 0, without cancellation near p1 = p2 and near p1 = 1.

    With h = log(p1/p2)/2: M = sqrt(p1 p2) e^-g, g = log cosh(excess h) / excess, and p1 + p2 - 2 M is the sum of the two
    terms >= 0 below.
    """
    half = np.abs(np.log1p((p1 - p2) / p2)) / 2.0
    root = np.sqrt(p1) * np.sqrt(p2)
    excess = np.maximum(excess, TINY)
    g = _log_cosh(excess * half) / excess
    lost = ((p1 - p2) / (np.sqrt(p1) + np.sqrt(p2))) ** 2 - 2.0 * root * np.expm1(-g)
    kept = (1.0 - p1) - p2 + 2.0 * root * np.exp(-g)
    return -np.where(lost < 0.5, np.log1p(-np.minimum(lost, 0.5)), np.log(kept))


def _log_cosh(x: Array) -> Array:
    small = np.log1p(2.0 * np.sinh(np.minimum(x, 1.0) / 2.0) ** 2)
    return np.where(x < 1.0, small, x - np.log(2.0) + np.log1p(np.exp(-2.0 * x)))
