"""What every certificate has in common: its two bounds, how they were made, and the noise and the norm it holds for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robust_cli.messages import UserError, check

BOUNDS = ("two_class", "runner_up")
INTERVALS = {"votes": ("clopper_pearson", "sison_glaz"), "softmax": ("hoeffding", "empirical_bernstein")}
"""What a certificate may bound of each draw's answer, and by which intervals: the share of votes, or the expected softmax."""
MULTIPLICITIES = ("pair", "classes")
NORMS = ("l2", "linf", "l1")
KINDS = {"gaussian": ("gaussian", "integer_grid"), "laplace": ("laplace",), "uniform": ("uniform",)}
"""Kinds of noise for which the certificates of one distribution hold."""
USUAL = {"gaussian": "neyman_pearson", "integer_grid": "neyman_pearson", "laplace": "laplace_l1", "uniform": "uniform_l1"}
Array = NDArray[np.float64]
SAFETY = 1.0 - 1e-12
"""Radii are multiplied by this: far above the rounding errors of a radius (about 1e-15), far below what anyone reads."""


class Certificate(Protocol):
    """A radius from two bounds, and how the sampling plan is to make these bounds from votes.

    ``noise`` names the distribution for which it holds (a key of `KINDS`), ``norm`` the norm of its perturbations. One that is
    to be made from softmax scores says so by ``scores``, see `scores_of`.
    """

    @property
    def bounds(self) -> str: ...

    @property
    def interval(self) -> str: ...

    @property
    def multiplicity(self) -> str: ...

    @property
    def noise(self) -> str: ...

    @property
    def norm(self) -> str: ...

    def __call__(self, p1_lower: ArrayLike, p2_upper: ArrayLike, noise_std: ArrayLike) -> Array:
        """The radii in the norm of the proof: l2 for Gaussian noise, whatever ``norm``, l1 for the others."""

    def in_norm(self, radius: ArrayLike, dimension: int) -> Array:
        """Such radii as radii in ``norm``, for images of ``dimension`` numbers (channels x height x width), rounded down."""

    def least_p1(self, radius: ArrayLike, noise_std: float, dimension: int | None = None) -> Array:
        """The smallest p1_lower from which two classes have at least the radius, see `least_p1`."""


def l2_radius_in(norm: str, radius: ArrayLike, dimension: int) -> Array:
    """A radius in ``norm`` that an l2 radius implies, rounded down, for images of ``dimension`` numbers.

    linf: radius / sqrt(dimension), since ||d||_2 <= sqrt(dimension) ||d||_inf. It shrinks with the size of the image, and the
    literature's bounds say that no other distribution of noise does much better (Yang et al. 2020: Randomized smoothing of all
    shapes and sizes; Kumar et al. 2020: Curse of dimensionality on randomized smoothing). l1: the same number, since
    ||d||_2 <= ||d||_1; Laplace and uniform noise have l1 radii of their own.
    """
    found = np.asarray(radius, dtype=np.float64)
    check(dimension >= 1, "dimension", "a whole number >= 1", dimension)
    return found / np.sqrt(dimension) * SAFETY if norm == "linf" else found


def least_p1(certificate: Certificate, radius: ArrayLike, noise_std: float, dimension: int | None = None) -> Array:
    """Per radius (>= 0) the smallest float64 p1 in [1/2, 1) found with certificate(p1, 1 - p1, noise_std) >= radius.

    The value itself has this property, so it errs upwards. 1.0 where no p1 < 1 reaches the radius: no votes prove it. For the
    radius 0 it is 1/2. Radii are as the certificate
    returns them; with ``dimension`` they are in its norm, and ``in_norm`` of what it returns is >= radius. By bisection.
    Raises Wrong for negative radii and those that are not numbers.
    """
    wanted = np.asarray(radius, dtype=np.float64)
    check(bool(np.all(wanted >= 0.0)), "radius", "numbers >= 0", radius)
    largest = np.nextafter(1.0, 0.0)

    def reached(p1: Array) -> NDArray[np.bool_]:
        found = certificate(p1, 1.0 - p1, noise_std)
        return (found if dimension is None else certificate.in_norm(found, dimension)) >= wanted

    low, high = np.full(wanted.shape, 0.5), np.full(wanted.shape, largest)
    high = np.where(reached(high), high, 1.0)
    for _ in range(54):  # until no number is left between the two
        middle = np.clip((low + high) / 2.0, 0.5, largest)
        there = reached(middle) & (high < 1.0)
        low, high = np.where(there, low, middle), np.where(there, middle, high)
    return high


def check_noise(certificates: Mapping[str, Certificate], kind: str) -> None:
    """Raise UserError unless all certificates, by name, hold for noise of this kind."""
    for name, certificate in certificates.items():
        kinds = KINDS[certificate.noise]
        if kind not in kinds:
            raise UserError(f"certificate.{name}: holds for noise={' or '.join(kinds)}, this run has noise={kind}; "
                            f"set noise={certificate.noise}, or certificate=[{USUAL[kind]}]")


def scores_of(certificate: Certificate) -> str:
    """What its probabilities are of: votes (also of a certificate that does not say), or softmax."""
    return str(getattr(certificate, "scores", "votes"))


def check_choices(bounds: str, interval: str, multiplicity: str, norm: str = "l2", scores: str = "votes") -> None:
    """Raise Wrong unless the choices are known and go together."""
    check(bounds in BOUNDS, "bounds", " or ".join(BOUNDS), bounds)
    check(scores in INTERVALS, "scores", " or ".join(INTERVALS), scores)
    known = " or ".join(INTERVALS[scores])
    check(interval in INTERVALS[scores], "interval", known if scores == "votes" else f"{known} with scores={scores}", interval)
    check(multiplicity in MULTIPLICITIES, "multiplicity", " or ".join(MULTIPLICITIES), multiplicity)
    check(interval != "sison_glaz" or bounds == "runner_up", "interval",
          "clopper_pearson with bounds=two_class (simultaneous intervals are for bounds=runner_up)", interval)
    check(interval != "sison_glaz" or multiplicity == "pair", "multiplicity",
          "pair with interval=sison_glaz (its intervals are simultaneous already)", multiplicity)
    check(scores == "votes" or multiplicity == "pair", "multiplicity",
          "pair with scores=softmax (what its two bounds share does not depend on the number of classes)", multiplicity)
    check(bounds != "two_class" or multiplicity == "pair", "multiplicity",
          "pair with bounds=two_class (one bound, at the full failure probability)", multiplicity)
    check(norm in NORMS, "norm", " or ".join(NORMS), norm)


def checked_pair(
    p1_lower: ArrayLike, p2_upper: ArrayLike, noise_std: ArrayLike, clamp: bool
) -> tuple[Array, Array, Array]:
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
