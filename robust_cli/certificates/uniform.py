"""Certified l1 radius under uniform noise. No radius from the same bounds is larger.

Their symbols and our words:
    lambda                     half_width of the noise, uniform on [-half_width, half_width] a pixel: noise_std * sqrt 3
    p_A, p_B                   p1_lower, p2_upper: bounds of the two largest probabilities of the vote under noise
    R                          radius

Two classes: R = 2 lambda (p_A - 1/2): Yang et al. 2020 (Randomized smoothing of all shapes and sizes); Levine and Feizi 2021
(Improved, deterministic smoothing for l1 certified robustness). With a runner-up it is lambda (p_A - p_B).

Proof. The cubes around an image and around the same image shifted by d share the fraction prod_i max(0, 1 - |d_i| / (2 lambda))
of their volumes, which is at least 1 - ||d||_1 / (2 lambda). So no set's probability changes by more than ||d||_1 / (2 lambda),
and the first class stays ahead while p1 - p2 > 2 ||d||_1 / (2 lambda). Along one pixel the bounds are attained: thresholds of
that pixel with these probabilities change class at that distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robust_cli.certificates.certificate import SAFETY, checked_pair
from robust_cli.certificates.families import InL1

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Uniform(InL1):
    """The tight certificate of uniform noise. Its radii are at most half_width = noise_std * sqrt 3."""

    noise: ClassVar[str] = "uniform"

    def __call__(self, p1_lower: ArrayLike, p2_upper: ArrayLike, noise_std: ArrayLike) -> Array:
        """The l1 radii."""
        return radius(p1_lower, p2_upper, noise_std)


def radius(p1_lower: ArrayLike, p2_upper: ArrayLike, noise_std: ArrayLike) -> Array:
    """noise_std * sqrt 3 (p1 - p2) per image (pixel units, l1), rounded down; 0 where p1 <= p2.

    If under uniform noise of standard deviation noise_std a pixel the predicted class has probability >= p1_lower in [0, 1) and
    every other one <= p2_upper in [0, 1] (clamped to 1 - p1_lower), it stays the most likely class for every perturbation of an
    l1 length below the radius. So the radius holds with the probability with which the two bounds hold together. Shapes
    broadcast; the result is float64. Raises Wrong for bounds out of range.

    >>> float(radius(0.9, 0.1, 1.0).round(6))
    1.385641
    """
    p1, p2, std = checked_pair(p1_lower, p2_upper, noise_std, clamp=True)
    result: Array = np.where(p1 > p2, std * np.sqrt(3.0) * (p1 - p2) * SAFETY, 0.0)
    return result
