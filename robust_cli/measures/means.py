"""Means over images with their standard errors."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def mean_and_error(values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the last axis (images) and its standard error, sqrt(mean squared deviation / n); sqrt(p (1 - p) / n) for 0/1.

    Float64, the shape of ``values`` without its last axis, which must not be empty.
    """
    found = np.asarray(values, dtype=np.float64)
    return found.mean(-1), found.std(-1) / np.sqrt(found.shape[-1])
