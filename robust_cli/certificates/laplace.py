"""Certified l1 radius under Laplace noise. No radius from the same bounds is larger.

Their symbols and our words:
    b, lambda                  scale of the noise, noise_std / sqrt 2
    p_A, p_B                   p1_lower, p2_upper: bounds of the two largest probabilities of the vote under noise
    R                          radius

Two classes: R = -b log(2 (1 - p_A)): Teng et al. 2020 (l1 adversarial robustness certificates: a randomized smoothing approach);
Yang et al. 2020 (Randomized smoothing of all shapes and sizes). With a runner-up it is here b/2 (Q(p_A) - Q(p_B)), Q the quantile
of the standard Laplace distribution. That is at least b/2 log(p_A / p_B) and at least -b log(1 - p_A + p_B), the two bounds that
the ratio of the densities alone gives.

Proof. Let F be the distribution function of one pixel's noise. A shift of the image by t along one pixel multiplies the noise's
density by a ratio that rises or falls with that pixel alone, monotonously, since log exp(-|z|) is concave. By the lemma of Neyman
and Pearson a set of probability p before has at least F(F^-1(p) - |t|) after, which a half-space attains. Now shift one pixel
after the other: the bounds follow each other, F(F^-1(F(F^-1(p) - |t|)) - |u|) = F(F^-1(p) - |t| - |u|), so that after any shift
by d the first class has at least F(F^-1(p1) - ||d||_1) and another at most F(F^-1(p2) + ||d||_1). The first is larger while
||d||_1 < (F^-1(p1) - F^-1(p2)) / 2. Two half-spaces along one pixel with these probabilities change class at that distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robust_cli.certificates.certificate import SAFETY, checked_pair
from robust_cli.certificates.families import InL1
from robust_cli.messages import check

Array = NDArray[np.float64]
TINY = 1e-300


@dataclass(frozen=True)
class Laplace(InL1):
    """The tight certificate of Laplace noise."""

    noise: ClassVar[str] = "laplace"

    def __call__(self, p1_lower: ArrayLike, p2_upper: ArrayLike, noise_std: ArrayLike) -> Array:
        """The l1 radii."""
        return radius(p1_lower, p2_upper, noise_std)


def radius(p1_lower: ArrayLike, p2_upper: ArrayLike, noise_std: ArrayLike) -> Array:
    """noise_std / sqrt 8 (Q(p1) - Q(p2)) per image (pixel units, l1), rounded down; 0 where p1 <= p2.

    If under Laplace noise of standard deviation noise_std a pixel the predicted class has probability >= p1_lower in [0, 1) and
    every other one <= p2_upper in (0, 1] (clamped to 1 - p1_lower), it stays the most likely class for every perturbation of an
    l1 length below the radius. So the radius holds with the probability with which the two bounds hold together. Shapes
    broadcast; the result is float64 and always finite.

    Raises Wrong for bounds out of range, p1_lower = 1 and p2_upper = 0 among them: no finite number of votes proves either, and
    the radius would be infinite.

    >>> float(radius(0.9, 0.1, 1.0).round(6))
    1.138044
    """
    p1, p2, std = checked_pair(p1_lower, p2_upper, noise_std, clamp=True)
    check(not np.any(p2 == 0.0), "p2_upper", "upper bounds in (0, 1]", 0.0)
    result = np.zeros(p1.shape)
    proven = p1 > p2
    result[proven] = std[proven] / np.sqrt(8.0) * _quantile_gap(p1[proven], p2[proven]) * SAFETY
    return result


def _quantile_gap(p1: Array, p2: Array) -> Array:
    """Q(p1) - Q(p2) for p1 > p2 with p1 + p2 <= 1, so that p2 < 1/2; Q(p) = log 2p up to 1/2 and -log 2(1 - p) above.

    Nothing cancels: above 1/2 both terms are >= 0 and 1 - p1 is exact, below it is one logarithm of a ratio.
    """
    p2 = np.maximum(p2, TINY)  # raising p2 is sound, and no ratio overflows
    return np.where(p1 >= 0.5, -np.log(2.0 * (1.0 - p1)) - np.log(2.0 * p2), np.log1p((p1 - p2) / p2))
