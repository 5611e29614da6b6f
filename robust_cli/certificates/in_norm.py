"""A certificate for images of a known size, which speaks its own norm throughout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from robust_cli.certificates.certificate import Array, Certificate, scores_of


@dataclass(frozen=True)
class InItsNorm:
    """``certificate`` for images of ``dimension`` numbers: what it returns, and what `least_p1` takes, is in its ``norm``."""

    certificate: Certificate
    dimension: int

    @property
    def bounds(self) -> str:
        return self.certificate.bounds

    @property
    def interval(self) -> str:
        return self.certificate.interval

    @property
    def multiplicity(self) -> str:
        return self.certificate.multiplicity

    @property
    def scores(self) -> str:
        return scores_of(self.certificate)

    @property
    def noise(self) -> str:
        return self.certificate.noise

    @property
    def norm(self) -> str:
        return self.certificate.norm

    def __call__(self, p1_lower: ArrayLike, p2_upper: ArrayLike, noise_std: ArrayLike) -> Array:
        """The radii in ``norm``."""
        return self.certificate.in_norm(self.certificate(p1_lower, p2_upper, noise_std), self.dimension)

    def in_norm(self, radius: ArrayLike, dimension: int) -> Array:
        """They are in ``norm`` already."""
        assert dimension == self.dimension, "a certificate for images of another size"
        return np.asarray(radius, dtype=np.float64)

    def least_p1(self, radius: ArrayLike, noise_std: float, dimension: int | None = None) -> Array:
        """See `certificates.certificate.least_p1`; radii in ``norm``."""
        return self.certificate.least_p1(radius, noise_std, self.dimension)
