"""Draws until more of them would hardly help: bounds that hold at all times, for when no table of radii is fixed in advance.

Why any stopping rule may be used. Given the class, which other draws have chosen, its lower bound (`betting.lower`) is below its
probability after every number of draws at once, except with the probability that it is given. The upper bound is that of the
largest count among all other classes. `betting.upper` grows with the count, so after every number of draws it is at least
the bound of the true runner-up's count, whichever class that is; and that one is above the runner-up's probability at all
times at once, except with its own share. So with probability at least 1 - failure_probability both bounds hold at every time
together, the one at which the draws stop among them, whatever made them stop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robust_cli.certificates import neyman_pearson
from robust_cli.certificates.certificate import Certificate, check_choices
from robust_cli.messages import UserError, check
from robust_cli.smoothing.plans import betting
from robust_cli.smoothing.plans.plan import (
    Array,
    Bounds,
    Counts,
    OfAnyRadius,
    Votes,
    check_selection,
    check_votes,
    check_votes_only,
    others,
)

SELECTION = 64
_REMEMBERED = 100_000  # verdicts, so that memory does not grow with the number of images
REMEMBERED = 100_000  # verdicts: many images have the same few votes against them


@dataclass(frozen=True)
class Anytime:
    """At most ``samples`` draws, after ``selection_samples`` (null: 64) that choose the class.

    At each boundary an image stops with "tolerance" if it is certified and all further draws up to ``samples`` would, at the
    present shares of votes, certify at most ``tolerance`` (in units of noise_std) more; with "futile" if it is not certified
    and, were the shares what the confidence limits leave best, would at the end be to no more than ``tolerance``; else with
    "cap" at the end. Measured by the Neyman-Pearson radius for Gaussian noise of each kind of bounds in use, whichever
    certificates use them; an image stops when all kinds would. With tolerance = 0 only what can be certified for nothing stops.
    Nothing of this enters the bounds: they hold whenever an image stops.

    With ``label_aware`` images whose selected class is not their label stop with "skipped" before the first estimation draw:
    they can add nothing to certified accuracy, but abstention, natural accuracy and radii of wrong answers are unknown then.

    What it costs: simulated at failure_probability 0.001 with the vote shares of six published CIFAR-10 models (noise 0.25 to
    1), 100,000 ``samples`` with tolerance 0.05 are 2 to 13 times fewer draws than a fixed plan's, for 3 to 6 % of the average
    certified radius and at most 0.8 points of the images certified at all; 0.1: 3 to 32 times, 4 to 10 %; 0: hardly
    fewer, 1 % (what holding at all times costs by itself). Images without a wrong vote need most of their draws.

    Raises Wrong for samples < 1, selection_samples < 1 and a negative tolerance.
    """

    samples: int = 100_000
    selection_samples: int | None = None
    tolerance: float = 0.05
    label_aware: bool = False

    def __post_init__(self) -> None:
        check(self.samples >= 1, "samples", "a whole number >= 1", self.samples)
        check(self.selection >= 1, "selection_samples", "a whole number >= 1, or null (the class needs draws of its own)",
              self.selection_samples)
        check(0.0 <= self.tolerance < float("inf"), "tolerance", "a number >= 0, in units of noise_std", self.tolerance)

    @property
    def selection(self) -> int:
        """Draws that choose an image's class."""
        return SELECTION if self.selection_samples is None else self.selection_samples

    def course(self, certificates: Mapping[str, Certificate], noise_std: float, failure_probability: float,
               classes: int) -> AnytimeCourse:
        """Raises UserError for a certificate that insists on intervals of its own, Wrong for choices that do not go together."""
        check(0.0 < failure_probability < 1.0, "failure_probability", "a number in (0, 1)", failure_probability)
        check_votes_only(certificates, "anytime")
        for name, made in certificates.items():
            check_choices(made.bounds, made.interval, made.multiplicity)
            if made.interval != "clopper_pearson":
                raise UserError(f"certificate.{name}.interval: expected clopper_pearson (in whose place sampling=anytime puts "
                                f"bounds that hold at all times), got {made.interval!r}: set sampling=fixed for it")
        return AnytimeCourse(self, dict(certificates), noise_std, failure_probability, classes)


@dataclass(frozen=True)
class AnytimeCourse(OfAnyRadius):
    """An `Anytime` plan for one run. Radii may be any number, so they compare with a fixed plan's, and are somewhat smaller."""

    plan: Anytime
    stops_early: bool = True
    _verdicts: dict[tuple[int, int, int], str] = field(default_factory=dict, repr=False, compare=False)

    def begin(self, selection: Counts | None, label: int) -> AnytimeTrail:
        """The class is that of most selection votes, the lowest on a tie."""
        assert selection is not None, "the class needs draws of its own"
        chosen = int(np.argmax(selection))
        return AnytimeTrail(self, chosen, skipped=self.plan.label_aware and chosen != label)

    def bounds(self, certificate_name: str, votes: Votes) -> Bounds:
        """Class and bounds of each image: a radius above 0 made of them is true with probability >= 1 - failure_probability.

        For each image by itself, over its draws, however many there were and whatever made them stop. two_class: the lower
        bound at the full failure probability, p2_upper = 1 - p1_lower; abstains unless p1_lower > 1/2. runner_up: the two
        bounds at half of it each (multiplicity pair) or a K-th each (classes), p2_upper clamped to 1 - p1_lower; abstains
        unless p1_lower > p2_upper. They are a function of the counts alone. A skipped image has no votes, and abstains.

        Raises UserError for votes at another number of draws than a boundary's, and without selection votes.
        """
        made = self.certificates[certificate_name]
        check_votes(votes.estimation, (0,) * self.plan.label_aware + self.boundaries, "estimation")
        check_selection(votes, self.selection)
        assert votes.selection is not None
        predicted = np.argmax(votes.selection, axis=1)
        top = np.take_along_axis(votes.estimation, predicted[:, None], axis=1)[:, 0]
        rival = others(votes.estimation, predicted, -1).max(axis=1)
        p1, p2 = self._pair(self._kind(made), top, rival, votes.estimation.sum(axis=1))
        return Bounds(np.where(p1 > p2, predicted, -1), p1, p2, self._statement(made))

    def largest_radius(self, certificate_name: str) -> float:
        """The radius of unanimous votes up to ``samples``: none is larger (their own trail may stop before, by the tolerance)."""
        one = np.eye(1, self.classes, dtype=np.int64)
        found = self.bounds(certificate_name, Votes(self.plan.samples * one, self.selection * one))
        return float(self.radius(certificate_name, found)[0])

    def describe(self) -> dict[str, Any]:
        """The settings and the bets."""
        return {"plan": "anytime", "samples": self.plan.samples, "selection_samples": self.selection,
                "tolerance": self.plan.tolerance, "label_aware": self.plan.label_aware,
                "failure_probability": self.failure_probability, "noise_std": self.noise_std,
                "boundaries": list(self.boundaries), "bets_lost_at_a_miss": betting.LOST.tolist(),
                "bets_weights": betting.WEIGHTS.tolist()}

    def verdict(self, draws: int, top: int, rival: int) -> str:
        """Why an image stops that has ``top`` votes for its class and at most ``rival`` for any other; "" if it goes on."""
        if draws >= self.plan.samples:
            return "cap"
        kinds = {self._kind(made) for made in self.certificates.values()}
        key = draws, top, rival if any(name == "runner_up" for name, _ in kinds) else 0
        if key not in self._verdicts:
            if len(self._verdicts) > _REMEMBERED:
                self._verdicts.clear()
            if len(self._verdicts) >= REMEMBERED:
                self._verdicts.clear()
            found = {self._of_kind(kind, draws, top, rival) for kind in kinds}
            self._verdicts[key] = "" if "" in found else max(found)  # "tolerance" if any kind is certified
        return self._verdicts[key]

    def _of_kind(self, kind: tuple[str, float], draws: int, top: int, rival: int) -> str:
        share, cap = kind[1], self.plan.samples
        now, later = self._in_noise(kind, [top, round(top / draws * cap)], [rival, round(rival / draws * cap)], [draws, cap])
        if now > 0.0:
            return "tolerance" if later - now <= self.plan.tolerance else ""
        best, least = betting.upper(top, draws, share), betting.lower(rival, draws, share)
        later, = self._in_noise(kind, [round(float(best) * cap)], [round(float(least) * cap)], [cap])
        return "futile" if later <= self.plan.tolerance else ""

    def _in_noise(self, kind: tuple[str, float], top: list[int], rival: list[int], draws: list[int]) -> Array:
        p1, p2 = self._pair(kind, np.array(top), np.array(rival), np.array(draws))
        return neyman_pearson.radius(p1, p2, 1.0)

    def _kind(self, certificate: Certificate) -> tuple[str, float]:
        """Of its bounds: their name, and the failure probability of each."""
        parts = 1 if certificate.bounds == "two_class" else 2 if certificate.multiplicity == "pair" else self.classes
        return certificate.bounds, self.failure_probability / parts

    @staticmethod
    def _pair(kind: tuple[str, float], top: Counts, rival: Counts, draws: Counts) -> tuple[Array, Array]:
        p1 = betting.lower(top, draws, kind[1])
        return p1, 1.0 - p1 if kind[0] == "two_class" else np.minimum(betting.upper(rival, draws, kind[1]), 1.0 - p1)

    def _statement(self, certificate: Certificate) -> str:
        aim = f"{1.0 - self.failure_probability:.12g}"
        how = "one bound at the full failure probability" if certificate.bounds == "two_class" else \
            ("half" if certificate.multiplicity == "pair" else "one part per class") + \
            " of the failure probability for each of two bounds"
        skipped = " Images whose chosen class is not their label were skipped: they count as not certified." \
            if self.plan.label_aware else ""
        return (f"For each image by itself: with probability at least {aim} over its noise draws (at most {self.plan.samples}), "
                "however many there were and whatever made them stop, a radius above 0 is true (betting confidence sequence, "
                f"{how}; the class chosen by {self.selection} other draws).{skipped}")


class AnytimeTrail:
    """One image's way; it looks at its votes at every boundary."""

    def __init__(self, course: AnytimeCourse, chosen: int, skipped: bool) -> None:
        self._course, self._chosen, self._stations, self._done = course, chosen, course.boundaries, 0
        self.level, self.stopped = 0, "skipped" if skipped else ""

    @property
    def wanted(self) -> int:
        """The next boundary; 0 once it has stopped."""
        return 0 if self.stopped else self._stations[self._done]

    def add(self, votes: Counts) -> None:
        """Votes of all draws up to the boundary wanted, int64 [K]."""
        draws = int(votes.sum())
        assert draws == self.wanted > 0, "votes of all draws up to the boundary wanted"
        rival = int(np.delete(votes, self._chosen).max())
        self.stopped, self._done = self._course.verdict(draws, int(votes[self._chosen]), rival), self._done + 1
