"""The settings that certificates of one noise share: how their bounds are made, and the norm they speak."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from robust_cli.certificates.certificate import Array, check_choices, l2_radius_in, least_p1
from robust_cli.messages import check


class _FromTwoBounds:
    def __call__(self, p1_lower: ArrayLike, p2_upper: ArrayLike, noise_std: ArrayLike) -> Array:
        """The radii in the norm of the proof."""
        raise NotImplementedError

    def least_p1(self, radius: ArrayLike, noise_std: float, dimension: int | None = None) -> Array:
        """See `certificates.certificate.least_p1`."""
        return least_p1(self, radius, noise_std, dimension)  # type: ignore[arg-type]  # what is missing here, its children have


@dataclass(frozen=True)
class OfGaussianNoise(_FromTwoBounds):
    """A certificate proven in l2, under Gaussian noise.

    Settings: ``bounds`` two_class (p2 = 1 - p1) or runner_up; ``interval`` clopper_pearson, or sison_glaz (the papers' own:
    asymptotic, no guarantee); ``multiplicity`` pair (failure_probability / 2 for each bound) or classes (failure_probability
    / K, the papers' option); ``norm`` l2, linf or l1, which `in_norm` turns the l2 radii into; ``scores`` votes, or softmax:
    the class is that of the largest expected softmax under noise, with ``interval`` hoeffding or empirical_bernstein. Raises
    Wrong for choices that do not go together.

    A certificate of votes is one of expected softmax as well: the expected softmax of the noisy image is the law of a class
    drawn from it, hence a randomised function of the noisy image alone, and each entry a function of it with values in
    [0, 1]. The Neyman-Pearson lemma, Renyi's data processing and PixelDP's expected output stability ask for no more.
    """

    bounds: str = "runner_up"
    interval: str = "clopper_pearson"
    multiplicity: str = "pair"
    norm: str = "l2"
    scores: str = "votes"
    noise: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        check_choices(self.bounds, self.interval, self.multiplicity, self.norm, self.scores)

    def in_norm(self, radius: ArrayLike, dimension: int) -> Array:
        """See `Certificate.in_norm`."""
        return l2_radius_in(self.norm, radius, dimension)


@dataclass(frozen=True)
class InL1(_FromTwoBounds):
    """A certificate proven in l1, under a noise of its own.

    Settings: ``bounds`` two_class (p2 = 1 - p1) or runner_up; ``interval`` clopper_pearson (sison_glaz, asymptotic, is refused);
    ``multiplicity`` pair (failure_probability / 2 for each bound) or classes (failure_probability / K). Raises Wrong for choices
    that do not go together.
    """

    bounds: str = "two_class"
    interval: str = "clopper_pearson"
    multiplicity: str = "pair"
    norm: ClassVar[str] = "l1"

    def __post_init__(self) -> None:
        check(self.interval == "clopper_pearson", "interval", "clopper_pearson for an l1 certificate", self.interval)
        check_choices(self.bounds, self.interval, self.multiplicity)

    def in_norm(self, radius: ArrayLike, dimension: int) -> Array:
        """See `Certificate.in_norm`: they are l1 radii already."""
        return np.asarray(radius, dtype=np.float64)
