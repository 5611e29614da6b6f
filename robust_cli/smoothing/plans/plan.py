"""What every sampling plan has in common: the votes it takes, the bounds it gives, and how it goes through the draws.

A plan is settings. Before the first draw it makes a course: everything fixed for a run. The course makes a trail for each
image, which says how many draws are wanted next and when it has seen enough. A trail is a pure function of the votes, so
stored votes give the same certificates again; and since every plan looks at the same numbers of draws (`boundaries`), stored
votes of one plan can be replayed under another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from robust_cli.certificates.certificate import Certificate, scores_of
from robust_cli.messages import UserError, check

Counts = NDArray[np.int64]
Array = NDArray[np.float64]
CHUNK = 64
"""Draws of one stream, and the least distance of two boundaries."""


@dataclass(frozen=True)
class Scores:
    """Softmax per image and class over the draws of the votes, float64 [N, K]: sums and sums of squares of the estimation
    draws, sums of the selection draws."""

    total: Array
    squares: Array
    selection: Array | None = None


@dataclass(frozen=True)
class Votes:
    """Votes per image and class, int64 [N, K]: those that bound the probabilities and, apart, those that select the class.

    ``level`` (int64 [N]) and ``stopped`` are what each image's trail said at its end, for the plans that need them; ``scores``
    are there where a certificate wants them.
    """

    estimation: Counts
    selection: Counts | None = None
    level: Counts | None = None
    stopped: Sequence[str] | None = None
    scores: Scores | None = None


@dataclass(frozen=True)
class Bounds:
    """Per image: the predicted class (int64 [N], -1: abstains) and the bounds of its and of any other class's probability.

    ``statement`` says in words with which probability the bounds hold. Where the plan abstains, the bounds are those that did
    not suffice, and every certificate of them is 0. ``level`` (int64 [N]): how many levels of the plan's table are proven,
    None where it has none.
    """

    predicted: Counts
    p1_lower: Array
    p2_upper: Array
    statement: str
    level: Counts | None = None


class Trail(Protocol):
    """One image's way through the draws."""

    @property
    def wanted(self) -> int:
        """Number of estimation draws wanted in all next, one of the boundaries; 0: it has stopped."""

    @property
    def stopped(self) -> str:
        """"" while going on; else complete, futile, cap, skipped or tolerance."""

    @property
    def level(self) -> int:
        """How many levels of the table are proven; 0 for plans without one."""

    def add(self, votes: Counts) -> None:
        """Look at the votes of all ``wanted`` estimation draws so far, int64 [K]."""


class Course(Protocol):
    """A plan with everything that is fixed before the first draw."""

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Numbers of estimation draws after which votes are stored and may be looked at; the last is the most there will be."""

    @property
    def selection(self) -> int:
        """Draws of their own that choose an image's class; 0: none."""

    @property
    def comparable(self) -> bool:
        """False where radii are levels of a table: their average and the curve between levels compare with no other plan's."""

    @property
    def failure_probability(self) -> float:
        """Of each statement on an image."""

    @property
    def stops_early(self) -> bool:
        """Whether an image may have enough before the last boundary."""

    def begin(self, selection: Counts | None, label: int) -> Trail:
        """The trail of an image with these selection votes (int64 [K]; None: there are none)."""

    def bounds(self, certificate_name: str, votes: Votes) -> Bounds:
        """Class and bounds of each image at the end of its trail."""

    def radius(self, certificate_name: str, bounds: Bounds) -> Array:
        """What these bounds certify, float64 [N]; 0 where the plan abstains."""

    def largest_radius(self, certificate_name: str) -> float:
        """The radius of unanimous votes: the largest that could ever be proven."""

    @property
    def note(self) -> str:
        """A line on what the plan cannot do that its settings ask for; "" if there is nothing."""

    def describe(self) -> dict[str, Any]:
        """All of it in JSON's types."""


class Sampling(Protocol):
    """A plan: how many draws an image gets, what they are used for and what they prove."""

    @property
    def samples(self) -> int:
        """The number of estimation draws, or the most there may be."""

    @property
    def selection(self) -> int:
        """Draws of their own that choose an image's class; 0: none."""

    def course(self, certificates: Mapping[str, Certificate], noise_std: float, failure_probability: float,
               classes: int) -> Course:
        """Fix everything for a run. Raises UserError or Wrong where plan and certificates do not go together."""


def boundaries(samples: int) -> tuple[int, ...]:
    """Numbers of draws, increasing to exactly ``samples``, at which every plan stores its votes and may look at them.

    Multiples of `CHUNK` that grow by a sixteenth and by at least a chunk; the last need be no multiple. Those of a smaller
    ``samples`` are a beginning of those of a larger one, but for the last. Raises Wrong for samples < 1.

    >>> boundaries(200)
    (64, 128, 192, 200)
    """
    check(samples >= 1, "samples", "a whole number >= 1", samples)
    found, draws = [], CHUNK
    while draws < samples:
        found.append(draws)
        draws += max(CHUNK, draws // 16 // CHUNK * CHUNK)
    return (*found, samples)


@dataclass(frozen=True)
class OfAnyRadius:
    """What the courses share whose radii may be any number: a plan for one run, at the common boundaries."""

    plan: Sampling
    certificates: dict[str, Certificate]
    noise_std: float
    failure_probability: float
    classes: int
    comparable: bool = True
    stops_early: bool = False
    note: str = ""

    @cached_property
    def boundaries(self) -> tuple[int, ...]:
        """Where votes are stored and may be looked at."""
        return boundaries(self.plan.samples)

    @property
    def selection(self) -> int:
        """Draws that choose an image's class."""
        return self.plan.selection

    def radius(self, certificate_name: str, bounds: Bounds) -> Array:
        """The certificate's radii of these bounds, 0 where the plan abstains."""
        return radii(self.certificates[certificate_name], bounds, self.noise_std)


def radii(certificate: Certificate, bounds: Bounds, noise_std: float) -> Array:
    """The certificate's radii of these bounds, float64 [N], 0 where the plan abstains."""
    certain = bounds.predicted >= 0
    found = np.zeros(len(certain))
    found[certain] = certificate(bounds.p1_lower[certain], bounds.p2_upper[certain], noise_std)
    return found


def others(values: NDArray[np.generic], predicted: Counts, least: float) -> NDArray:
    """A copy of [N, K] with the predicted class's entry put to ``least``, below all others."""
    copy = values.copy()
    np.put_along_axis(copy, predicted[:, None], least, axis=1)
    return copy


def check_votes_only(certificates: Mapping[str, Certificate], plan: str) -> None:
    """Raise UserError for certificates of expected softmax, whose bounds hold at one number of draws fixed beforehand."""
    for name, made in certificates.items():
        if scores_of(made) != "votes":
            raise UserError(f"certificate.{name}.scores: expected votes with sampling={plan}, got {scores_of(made)}, whose "
                            "bounds hold at one number of draws fixed beforehand: set sampling=fixed for it")


def check_votes(votes: NDArray, draws: int | Sequence[int], purpose: str) -> None:
    """Raise UserError unless ``votes`` are whole numbers [N, K >= 2] whose rows add up to ``draws`` (or to one of them)."""
    if votes.ndim != 2 or votes.shape[1] < 2 or not np.issubdtype(votes.dtype, np.integer):
        raise UserError(f"votes: expected whole numbers [images, classes >= 2], found {votes.dtype} {list(votes.shape)}")
    wrong = np.flatnonzero(~np.isin(votes.sum(axis=1), draws) | (votes < 0).any(axis=1))
    if len(wrong):
        number = draws if isinstance(draws, int) else "one of the plan's numbers of"
        raise UserError(f"votes: expected {number} {purpose} votes for each image, as fixed before the first draw, found "
                        f"{votes[wrong[0]].tolist()} in row {wrong[0]}; bounds of another number would not hold")


def check_selection(votes: Votes, draws: int) -> None:
    """Raise UserError unless there are ``draws`` selection votes for each image; none at all for draws = 0."""
    if draws == 0:
        if votes.selection is not None:
            raise UserError("votes: expected no selection votes (selection_samples=0), found some")
        return
    if votes.selection is None or votes.selection.shape != votes.estimation.shape:
        raise UserError(f"votes: expected {draws} selection votes beside each image's estimation votes, "
                        f"found {'none' if votes.selection is None else 'another number of images or classes'}")
    check_votes(votes.selection, draws, "selection")


def false_certificates(images: int, failure_probability: float) -> tuple[float, int]:
    """(expected number, 99.9 % quantile) of false certificates among ``images``, where each fails with failure_probability.

    Both are upper limits: a certificate fails at most that often. The quantile is of the binomial distribution, the images'
    draws being independent.

    >>> false_certificates(10_000, 0.001)
    (10.0, 21)
    """
    return images * failure_probability, int(binom.ppf(0.999, images, failure_probability)) if images else 0
