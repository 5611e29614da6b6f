"""What every certificate has in common: the two bounds it takes and the three choices of how they were made."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robust_cli.messages import check

BOUNDS = ("two_class", "runner_up")
INTERVALS = ("clopper_pearson", "sison_glaz")
MULTIPLICITIES = ("pair", "classes")
SAFETY = 1.0 - 1e-12
"""Radii are multiplied by this: far above the rounding errors of a radius (about 1e-15), far below what anyone reads."""


class Certificate(Protocol):
    """A radius from two bounds, and how the sampling plan is to make these bounds from votes."""

    @property
    def bounds(self) -> str: ...

    @property
    def interval(self) -> str: ...

    @property
    def multiplicity(self) -> str: ...

    @property
    def norm(self) -> str: ...

    def __call__(self, p1_lower: ArrayLike, p2_upper: ArrayLike, noise_std: ArrayLike) -> NDArray[np.float64]: ...


def check_choices(bounds: str, interval: str, multiplicity: str) -> None:
    """Raise Wrong unless the three choices are known and go together."""
    check(bounds in BOUNDS, "bounds", " or ".join(BOUNDS), bounds)
    check(interval in INTERVALS, "interval", " or ".join(INTERVALS), interval)
    check(multiplicity in MULTIPLICITIES, "multiplicity", " or ".join(MULTIPLICITIES), multiplicity)
    check(interval != "sison_glaz" or bounds == "runner_up", "interval",
          "clopper_pearson with bounds=two_class (simultaneous intervals are for bounds=runner_up)", interval)
    check(interval != "sison_glaz" or multiplicity == "pair", "multiplicity",
          "pair with interval=sison_glaz (its intervals are simultaneous already)", multiplicity)
    check(bounds != "two_class" or multiplicity == "pair", "multiplicity",
          "pair with bounds=two_class (one bound, at the full failure probability)", multiplicity)


def checked_pair(
    p1_lower: ArrayLike, p2_upper: ArrayLike, noise_std: ArrayLike, clamp: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The two bounds and the noise as float64 arrays of one shape; with ``clamp``, p2 <- min(p2_upper, 1 - p1_lower).

    The clamp is valid wherever p1_lower holds: all other classes together have at most 1 - p1. It needs p1_lower < 1: no
    finite number of votes proves p1 = 1, and the radius would be infinite. Where 1 - p1_lower is not exact in float64,
    p1_lower is below 1/2 and the clamped pair certifies nothing, so the clamp needs no rounding.
    Raises Wrong for bounds outside their ranges and for a noise_std that is not positive.
    """
    p1, p2, std = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (p1_lower, p2_upper, noise_std)))
    low, high = np.min(p1, initial=0.0), np.max(p1, initial=0.0)
    check(bool(low >= 0.0 and (high < 1.0 if clamp else high <= 1.0)), "p1_lower",
          "lower bounds in [0, 1)" if clamp else "lower bounds in [0, 1]", float(high if low >= 0.0 else low))
    low, high = np.min(p2, initial=0.0), np.max(p2, initial=0.0)
    check(bool(low >= 0.0 and high <= 1.0), "p2_upper", "upper bounds in [0, 1]", float(high if low >= 0.0 else low))
    check(bool(np.all(np.isfinite(std) & (std > 0.0))), "noise_std", "a finite number > 0", noise_std)
    return p1, np.minimum(p2, 1.0 - p1) if clamp else p2, std
