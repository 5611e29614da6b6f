"""From votes to bounds: the sampling plan is the one place that knows how many draws there were and what they were used for.

Legend (SO, STN, Cohen et al. 2019): n -> samples; n0 -> selection_samples; alpha of a confidence interval ->
failure_probability; c_i -> votes; p(1), p(2) -> p1_lower, p2_upper; K -> classes.

Two bounds are used, so each takes half of the failure probability. The upper bound is that of the largest estimation count
among all classes other than the predicted one: whichever of them is the true runner-up, its own bound is not larger. A
runner-up fixed beforehand by the selection votes would not do: it over-claims in 30 % of runs where two classes are close.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from robust_cli.certificates import confidence
from robust_cli.certificates.certificate import BOUNDS, Certificate, check_choices
from robust_cli.messages import UserError, check

Counts = NDArray[np.int64]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Votes:
    """Votes per image and class, int64 [N, K]: those that bound the probabilities and, apart, those that select the class."""

    estimation: Counts
    selection: Counts | None = None


@dataclass(frozen=True)
class Bounds:
    """Per image: the predicted class (int64 [N], -1: abstains) and the bounds of its and of any other class's probability.

    ``statement`` says in words with which probability the bounds hold. Where the plan abstains, the bounds are those that did
    not suffice, and every certificate of them is 0.
    """

    predicted: Counts
    p1_lower: Array
    p2_upper: Array
    statement: str


@dataclass(frozen=True)
class FixedSampling:
    """A number of draws fixed beforehand: ``samples`` to bound the probabilities, ``selection_samples`` to choose the class.

    With selection_samples = 0 the same draws do both (the papers' single-sample form; runner_up bounds only). Raises Wrong
    for samples < 1 and selection_samples < 0.
    """

    samples: int = 10_000
    selection_samples: int = 100

    def __post_init__(self) -> None:
        check(self.samples >= 1, "samples", "a whole number >= 1", self.samples)
        check(self.selection_samples >= 0, "selection_samples", "a whole number >= 0", self.selection_samples)

    def check(self, kind: str, name: str = "certificate.NAME.bounds") -> None:
        """Raise UserError if this plan cannot make bounds of this kind; ``name`` is where the user set it."""
        if kind not in BOUNDS:
            raise UserError(f"{name}: expected {' or '.join(BOUNDS)}, got {kind!r}")
        if kind == "two_class" and not self.selection_samples:
            raise UserError(f"{name}=two_class needs draws of its own to choose the class, found selection_samples=0 (from the "
                            "same votes it fails in up to 9 % of runs where 5 % are allowed): set selection_samples=100, or "
                            f"{name}=runner_up")

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
        predicted = np.argmax(self._choosing(votes), axis=1)
        top = np.take_along_axis(votes.estimation, predicted[:, None], axis=1)[:, 0]
        if kind == "two_class":
            p1 = confidence.lower(top, self.samples, failure_probability)
            p2 = 1.0 - p1
        elif interval == "sison_glaz":
            p1, p2 = _simultaneous(votes.estimation, predicted, failure_probability)
        else:
            share = failure_probability / (2 if multiplicity == "pair" else votes.estimation.shape[1])
            p1 = confidence.lower(top, self.samples, share)
            rival = _others(votes.estimation, predicted, -1).max(axis=1)
            p2 = np.minimum(confidence.upper(rival, self.samples, share), 1.0 - p1)  # equal shares: binds by rounding only
        return Bounds(np.where(p1 > p2, predicted, -1), p1, p2,
                      self._statement(failure_probability, kind, interval, multiplicity))

    def largest_radius(self, certificate: Certificate, failure_probability: float, noise_std: float, classes: int) -> float:
        """The radius of unanimous votes: the largest that this plan could ever prove."""
        one = np.eye(1, classes, dtype=np.int64)
        votes = Votes(self.samples * one, self.selection_samples * one if self.selection_samples else None)
        found = self.bounds(votes, failure_probability, certificate.bounds, certificate.interval, certificate.multiplicity)
        return float(certificate(found.p1_lower, found.p2_upper, noise_std)[0])

    def _choosing(self, votes: Votes) -> Counts:
        """The votes that choose the class, after a check that all votes are the plan's."""
        _check_votes(votes.estimation, self.samples, "estimation")
        if self.selection_samples == 0:
            if votes.selection is not None:
                raise UserError("votes: expected no selection votes (selection_samples=0), found some")
            return votes.estimation
        if votes.selection is None or votes.selection.shape != votes.estimation.shape:
            raise UserError(f"votes: expected {self.selection_samples} selection votes beside each image's estimation votes, "
                            f"found {'none' if votes.selection is None else 'another number of images or classes'}")
        _check_votes(votes.selection, self.selection_samples, "selection")
        return votes.selection

    def _statement(self, failure_probability: float, kind: str, interval: str, multiplicity: str) -> str:
        aim = f"{1.0 - failure_probability:.12g}"
        chosen = f"the class chosen by {self.selection_samples} other draws" if self.selection_samples else \
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


def false_certificates(images: int, failure_probability: float) -> tuple[float, int]:
    """(expected number, 99.9 % quantile) of false certificates among ``images``, where each fails with failure_probability.

    Both are upper limits: a certificate fails at most that often. The quantile is of the binomial distribution, the images'
    draws being independent.

    >>> false_certificates(10_000, 0.001)
    (10.0, 21)
    """
    return images * failure_probability, int(binom.ppf(0.999, images, failure_probability)) if images else 0


def _check_votes(votes: Counts, draws: int, purpose: str) -> None:
    if votes.ndim != 2 or votes.shape[1] < 2 or not np.issubdtype(votes.dtype, np.integer):
        raise UserError(f"votes: expected whole numbers [images, classes >= 2], found {votes.dtype} {list(votes.shape)}")
    wrong = np.flatnonzero((votes.sum(axis=1) != draws) | (votes < 0).any(axis=1))
    if len(wrong):
        raise UserError(f"votes: expected {draws} {purpose} votes for each image, as fixed before the first draw, found "
                        f"{votes[wrong[0]].tolist()} in row {wrong[0]}; bounds of another number would not hold")


def _others(values: NDArray[np.generic], predicted: Counts, least: float) -> NDArray:
    """A copy with the predicted class's entry put below all others."""
    others = values.copy()
    np.put_along_axis(others, predicted[:, None], least, axis=1)
    return others


def _simultaneous(counts: Counts, predicted: Counts, failure_probability: float) -> tuple[Array, Array]:
    low, high = confidence.sison_glaz(counts, failure_probability)
    return np.take_along_axis(low, predicted[:, None], axis=1)[:, 0], _others(high, predicted, -1.0).max(axis=1)
