"""Certified l2 radius from differential privacy: PixelDP (Lecuyer et al. 2019), as compared in STN (Li et al. 2019), app. A.

Their symbols and our words:
    sigma                      noise_std, standard deviation of the Gaussian noise
    epsilon, delta             privacy parameters of the Gaussian mechanism; the best pair is searched, epsilon <= 1
    p(1), p(2)                 p1_lower, p2_upper: bounds of the two largest probabilities of the vote under noise
    L                          radius

Errata put right here: the condition is p1 >= e^(2 epsilon) p2 + (1 + e^epsilon) delta (SO and STN print it without this
delta), and 0 < epsilon <= 1 is required by the mechanism's classical analysis (without it the radius overtakes the Renyi
one, and is not proven).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robust_cli.certificates.certificate import SAFETY, checked_pair
from robust_cli.certificates.families import OfGaussianNoise
from robust_cli.certificates.search import maximise

Array = NDArray[np.float64]
TINY = 1e-300


@dataclass(frozen=True)
class PixelDP(OfGaussianNoise):
    """The certificate that the papers compare with; ``multiplicity`` classes is PixelDP's own option."""

    def __call__(self, p1_lower: ArrayLike, p2_upper: ArrayLike, noise_std: ArrayLike) -> Array:
        """The l2 radii; Sison-Glaz bounds go into the raw formula, as in the papers (their p1_lower may be 1)."""
        return radius(p1_lower, p2_upper, noise_std, clamp=self.interval != "sison_glaz")


def radius(p1_lower: ArrayLike, p2_upper: ArrayLike, noise_std: ArrayLike, clamp: bool = True) -> Array:
    """Certified l2 radius per image (pixel units), rounded down; 0 where p1_lower <= p2_upper, both after the clamp.

    The largest noise_std * epsilon / sqrt(2 log(1.25 / delta)) with p1 >= e^(2 epsilon) p2 + (1 + e^epsilon) delta. If
    under noise N(0, noise_std^2 I) the predicted class has probability >= p1_lower in [0, 1) and every other one
    <= p2_upper in [0, 1], it stays the most likely class for every perturbation shorter than the radius. So the radius
    holds with the probability with which the two bounds hold together. Shapes broadcast; the result is float64.

    ``clamp`` replaces p2_upper by 1 - p1_lower where that is smaller; without it p1_lower may be 1. Raises Wrong for
    bounds out of range. PixelDP (Lecuyer et al. 2019), Proposition 1 and section III.

    >>> float(radius(0.9, 0.1, 1.0).round(6))
    0.390267
    """
    p1, p2, std = checked_pair(p1_lower, p2_upper, noise_std, clamp)
    result = np.zeros(p1.shape)
    proven = p1 > np.maximum(p2, TINY)
    if np.any(proven):
        _, value = _best(p1[proven], p2[proven])
        result[proven] = std[proven] * value * SAFETY
    return result


def best_privacy(p1: ArrayLike, p2: ArrayLike) -> tuple[Array, Array]:
    """(epsilon in (0, 1], delta) of the largest radius, for p1 > p2 >= 0; delta is the largest that epsilon leaves."""
    a, b = np.broadcast_arrays(np.asarray(p1, dtype=np.float64), np.asarray(p2, dtype=np.float64))
    epsilon, _ = _best(a, b)
    return epsilon, _delta(a, b, epsilon)


def _best(p1: Array, p2: Array) -> tuple[Array, Array]:
    """(epsilon, radius at noise_std 1); every epsilon's value is valid, so the search cannot break the bound."""
    p2 = np.maximum(p2, TINY)  # raising p2 is sound
    largest = np.minimum(1.0, np.log1p((p1 - p2) / p2) / 2.0)
    share, value = maximise(lambda x: _value(p1, p2, x * largest), np.zeros_like(p1), np.ones_like(p1))
    return share * largest, value


def _delta(p1: Array, p2: Array, epsilon: Array) -> Array:
    return ((p1 - p2) - p2 * np.expm1(2.0 * epsilon)) / (1.0 + np.exp(epsilon))


def _value(p1: Array, p2: Array, epsilon: Array) -> Array:
    delta = _delta(p1, p2, epsilon) * SAFETY
    return np.where(delta > 0.0, epsilon / np.sqrt(2.0 * np.log(1.25 / np.maximum(delta, TINY))), 0.0)
