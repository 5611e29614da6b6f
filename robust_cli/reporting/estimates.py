"""A mean over images with its standard error, and the mean and spread of such means over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Estimate:
    """A mean over ``images`` images.

    error: its standard error over the images for one run; the standard deviation over the runs where ``runs`` > 1.
    """

    value: float
    error: float
    images: int
    runs: int = 1


def estimate(values: ArrayLike) -> Estimate:
    """Mean of one value per image and its standard error, sqrt(mean squared deviation / n); sqrt(p (1 - p) / n) for 0/1;
    without an error where a value is infinite."""
    v = np.asarray(values, dtype=np.float64)
    if not len(v):
        return Estimate(float("nan"), float("nan"), 0)
    if np.isinf(v).any():
        return Estimate(float(v.max()), float("nan"), len(v))
    return Estimate(float(v.mean()), float(v.std() / np.sqrt(len(v))), len(v))


def over_runs(estimates: Sequence[Estimate]) -> Estimate:
    """One run's estimate as it is; of several runs the mean and the (n - 1) standard deviation between them."""
    if len(estimates) == 1:
        return estimates[0]
    values = np.array([e.value for e in estimates])
    return Estimate(float(values.mean()), float(values.std(ddof=1)), min(e.images for e in estimates), len(estimates))
