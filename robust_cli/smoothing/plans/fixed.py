"""A number of draws fixed beforehand: Cohen et al. 2019, and the papers' single-sample form.

Legend (SO, STN, Cohen et al. 2019): n -> samples; n0 -> selection_samples; alpha of a confidence interval ->
failure_probability; c_i -> votes; p(1), p(2) -> p1_lower, p2_upper; K -> classes.

Two bounds are used, so each takes half of the failure probability. The upper bound is that of the largest estimation count
among all classes other than the predicted one: whichever of them is the true runner-up, its own bound is not larger. A
runner-up fixed beforehand by the selection votes would not do: it over-claims in 30 % of runs where two classes are close.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robust_cli.certificates import confidence
from robust_cli.certificates.certificate import BOUNDS, Certificate, check_choices, scores_of
from robust_cli.messages import UserError, check
from robust_cli.smoothing.plans import expected
from robust_cli.smoothing.plans.plan import (
    Array,
    Bounds,
    Counts,
    OfAnyRadius,
    Votes,
    check_selection,
    check_votes,
    others,
)

SELECTION = 100


@dataclass(frozen=True)
class Fixed:
    """``samples`` draws to bound the probabilities after ``selection_samples`` (null: 100) to choose the class.

    With selection_samples = 0 the same draws do both (the papers' single-sample form; runner_up bounds only). Raises Wrong
    for samples < 1 and selection_samples < 0.
    """

    samples: int = 10_000
    selection_samples: int | None = None

    def __post_init__(self) -> None:
        check(self.samples >= 1, "samples", "a whole number >= 1", self.samples)
        check(self.selection >= 0, "selection_samples", "a whole number >= 0, or null", self.selection_samples)

    @property
    def selection(self) -> int:
        """Draws that choose an image's class."""
        return SELECTION if self.selection_samples is None else self.selection_samples

    def check(self, kind: str, name: str = "certificate.NAME.bounds") -> None:
        """Raise UserError if this plan cannot make bounds of this kind; ``name`` is where the user set it."""
        if kind not in BOUNDS:
            raise UserError(f"{name}: expected {' or '.join(BOUNDS)}, got {kind!r}")
        if kind == "two_class" and not self.selection:
            raise UserError(f"{name}=two_class needs draws of its own to choose the class, found selection_samples=0 (from the "
                            "same votes it fails in up to 9 % of runs where 5 % are allowed): set selection_samples=100, or "
                            f"{name}=runner_up")

    def course(self, certificates: Mapping[str, Certificate], noise_std: float, failure_probability: float,
               classes: int) -> FixedCourse:
        """Raises UserError for two_class certificates without selection votes."""
        for name, certificate in certificates.items():
            self.check(certificate.bounds, f"certificate.{name}.bounds")
        return FixedCourse(self, dict(certificates), noise_std, failure_probability, classes)

    def bounds(self, votes: Votes, failure_probability: float, kind: str, interval: str = "clopper_pearson",
               multiplicity: str = "pair") -> Bounds:
        """Class and bounds of each image: a radius above 0 made of them is true with probability >= 1 - failure_probability.

        For each image by itself, over its draws. Proven with selection votes: given the class, each bound fails at most as
        often as its share. In the single-sample form, where the class depends on the same votes, the worst case found by
        exact enumeration is a tie of two classes with nothing else, where it is the two-sided test of 1/2.

        ``kind`` two_class: the selection votes choose the class, its Clopper-Pearson lower bound takes the full failure
        probability, p2_upper = 1 - p1_lower; abstains unless p1_lower > 1/2. ``kind`` runner_up: the class's lower bound
        and the upper bound of the largest count among all other classes share the failure probability: half each
        (``multiplicity`` pair) or a K-th each (classes, the papers' option); p2_upper is clamped to 1 - p1_lower; abstains
        unless p1_lower > p2_upper. ``interval`` sison_glaz (the papers' own choice) is asymptotic, holds with no proven
        probability, and is not clamped. A tie goes to the lowest class.

        Raises UserError if the votes are not exactly the draws of this plan (bounds of votes that were stopped or
        prolonged on their own evidence would be wrong), and for two_class without selection votes; Wrong for choices that
        do not go together.
        """
        check_choices(kind, interval, multiplicity)
        check(0.0 < failure_probability < 1.0, "failure_probability", "a number in (0, 1)", failure_probability)
        self.check(kind)
        check_votes(votes.estimation, self.samples, "estimation")
        check_selection(votes, self.selection)
        predicted = np.argmax(votes.estimation if votes.selection is None else votes.selection, axis=1)
        top = np.take_along_axis(votes.estimation, predicted[:, None], axis=1)[:, 0]
        if kind == "two_class":
            p1 = confidence.lower(top, self.samples, failure_probability)
            p2 = 1.0 - p1
        elif interval == "sison_glaz":
            p1, p2 = _simultaneous(votes.estimation, predicted, failure_probability)
        else:
            share = failure_probability / (2 if multiplicity == "pair" else votes.estimation.shape[1])
            p1 = confidence.lower(top, self.samples, share)
            rival = others(votes.estimation, predicted, -1).max(axis=1)
            p2 = np.minimum(confidence.upper(rival, self.samples, share), 1.0 - p1)  # equal shares: binds by rounding only
        return Bounds(np.where(p1 > p2, predicted, -1), p1, p2,
                      self._statement(failure_probability, kind, interval, multiplicity))

    def largest_radius(self, certificate: Certificate, failure_probability: float, noise_std: float, classes: int) -> float:
        """The radius of unanimous votes: the largest that this plan could ever prove."""
        one = np.eye(1, classes, dtype=np.int64)
        votes = Votes(self.samples * one, self.selection * one if self.selection else None)
        found = self.bounds(votes, failure_probability, certificate.bounds, certificate.interval, certificate.multiplicity)
        return float(certificate(found.p1_lower, found.p2_upper, noise_std)[0])

    def _statement(self, failure_probability: float, kind: str, interval: str, multiplicity: str) -> str:
        aim = f"{1.0 - failure_probability:.12g}"
        chosen = f"the class chosen by {self.selection} other draws" if self.selection else \
            "the class chosen by the same draws"
        if interval == "sison_glaz":
            return (f"No guarantee: asymptotic Sison-Glaz intervals aimed at probability {aim} ({self.samples} noise draws, "
                    f"{chosen}), which cover too little where a class is nearly certain; the papers' own choice.")
        if kind == "two_class":
            how = "Clopper-Pearson, one bound at the full failure probability"
        else:
            how = "Clopper-Pearson, " + ("half" if multiplicity == "pair" else "one part per class") + \
                " of the failure probability for each of two bounds"
        return (f"For each image by itself: with probability at least {aim} over its {self.samples} noise draws, a "
                f"radius above 0 is true ({how}; {chosen}).")


@dataclass(frozen=True)
class FixedCourse(OfAnyRadius):
    """A `Fixed` plan for one run: its trails go through all boundaries, so that the votes are stored for other plans too."""

    plan: Fixed

    def begin(self, selection: Counts | None, label: int) -> FixedTrail:
        """A trail to the end, whatever the votes and the label."""
        return FixedTrail(self.boundaries)

    def bounds(self, certificate_name: str, votes: Votes) -> Bounds:
        """`Fixed.bounds` as the certificate wants them."""
        made = self.certificates[certificate_name]
        if scores_of(made) == "softmax":
            return expected.bounds(votes, self.plan.samples, self.selection, self.failure_probability, made.bounds, made.interval)
        return self.plan.bounds(votes, self.failure_probability, made.bounds, made.interval, made.multiplicity)

    def largest_radius(self, certificate_name: str) -> float:
        """The radius of unanimous votes, each of a softmax of 1."""
        if scores_of(self.certificates[certificate_name]) == "softmax":
            unanimous = expected.unanimous(self.plan.samples, self.selection, self.classes)
            return float(self.radius(certificate_name, self.bounds(certificate_name, unanimous))[0])
        return self.plan.largest_radius(self.certificates[certificate_name], self.failure_probability, self.noise_std,
                                        self.classes)

    def describe(self) -> dict[str, Any]:
        """The numbers of draws and the failure probability."""
        return {"plan": "fixed", "samples": self.plan.samples, "selection_samples": self.selection,
                "failure_probability": self.failure_probability, "noise_std": self.noise_std,
                "boundaries": list(self.boundaries)}


class FixedTrail:
    """All boundaries in turn; nothing depends on the votes."""

    def __init__(self, stations: tuple[int, ...]) -> None:
        self._stations, self._done, self.level = stations, 0, 0

    @property
    def wanted(self) -> int:
        """The next boundary; 0 after the last."""
        return self._stations[self._done] if self._done < len(self._stations) else 0

    @property
    def stopped(self) -> str:
        """complete after the last boundary."""
        return "" if self.wanted else "complete"

    def add(self, votes: Counts) -> None:
        """Votes of all draws up to the boundary wanted, int64 [K]."""
        assert int(votes.sum()) == self.wanted > 0, "votes of all draws up to the boundary wanted"
        self._done += 1


def _simultaneous(counts: Counts, predicted: Counts, failure_probability: float) -> tuple[Array, Array]:
    low, high = confidence.sison_glaz(counts, failure_probability)
    return np.take_along_axis(low, predicted[:, None], axis=1)[:, 0], others(high, predicted, -1.0).max(axis=1)
