"""Class and bounds from the expected softmax under noise instead of votes: PixelDP's own form, at a fixed number of draws.

Their symbols (PixelDP, Lecuyer et al. 2019) and our words:
    A_k(x)                     the softmax of class k on the image plus noise, one draw
    E(A_k(x))                  its expectation, of which total / samples is the estimate
    eta                        1 - failure_probability
    K                          classes

Which bounds may be taken. Say A is the class, and j the class of the largest expectation among all others. Claimed are two
things: the lower bound of A's own expectation, and the largest of all other classes' upper bounds, each from its own mean
and variance, as an upper bound of the largest other expectation. The second fails only where j's own upper bound fails,
since the largest of the bounds is not smaller. Given A, j is one class that does not depend on the draws: so half of the
failure probability for each lower and half for each upper bound is enough, whatever K. That holds for bounds of any kind.
(Hoeffding's have one width, so there the largest mean has the largest bound.) The upper bound of the class of the largest
mean alone would be a mistake under empirical Bernstein: where its scores hardly vary it is bounded closely, and the true j,
which came out lower by chance, is not bounded at all.

That is with draws of their own that choose the class. Where the same draws choose it, it may be any of the K, and j is the
likeliest class of all or, where A is that, the second: K lower bounds and two upper bounds may be in use. Each lower bound
then takes the failure probability / (2 K), each upper bound a quarter of it, and all that may be used hold together.
"""

from __future__ import annotations

import numpy as np

from robust_cli.certificates import expectations
from robust_cli.messages import UserError
from robust_cli.smoothing.plans.plan import Bounds, Counts, Scores, Votes, others

_OFF = 1e-6  # relative: sums of softmax may add up to another number than the draws by no more than rounding
_NAMES = {"hoeffding": "Hoeffding", "empirical_bernstein": "empirical Bernstein, Maurer and Pontil 2009, Theorem 4"}


def bounds(votes: Votes, samples: int, selection: int, failure_probability: float, kind: str, interval: str) -> Bounds:
    """Class and bounds of each image from ``votes.scores``, whose draws are the plan's.

    For each image by itself, over its draws: with probability at least 1 - failure_probability the class's expected softmax is
    >= p1_lower and every other class's <= p2_upper, so a radius above 0 made of them is true of the smoothed classifier that
    answers the class of the largest expected softmax. The class has the largest mean of the ``selection`` draws, or, where
    that is 0, of the ``samples`` estimation draws; a tie goes to the lowest. ``kind`` two_class (with selection draws): the lower
    bound takes the full failure probability, p2_upper = 1 - p1_lower. ``kind`` runner_up: the bounds share it as the head of
    this file proves; p2_upper is clamped to 1 - p1_lower. ``interval`` hoeffding or empirical_bernstein. Abstains unless
    p1_lower > p2_upper. Raises UserError unless the scores are of that many draws.
    """
    scores = _checked(votes.scores, samples, selection)
    choosing = scores.total if scores.selection is None else scores.selection
    predicted, classes = choosing.argmax(axis=1), choosing.shape[1]
    total, squares = (np.take_along_axis(sums, predicted[:, None], axis=1)[:, 0] for sums in (scores.total, scores.squares))
    if kind == "two_class":
        assert selection, "the plan refuses to choose and bound two classes by the same draws"
        p1 = expectations.lower(total, squares, samples, failure_probability, interval)
        p2 = 1.0 - p1
    else:
        of_lower, of_upper = (2.0, 2.0) if selection else (2.0 * classes, 4.0)
        p1 = expectations.lower(total, squares, samples, failure_probability / of_lower, interval)
        each = expectations.upper(scores.total, scores.squares, samples, failure_probability / of_upper, interval)
        p2 = np.minimum(others(each, predicted, -1.0).max(axis=1), 1.0 - p1)
    return Bounds(np.where(p1 > p2, predicted, -1), p1, p2, _statement(samples, selection, failure_probability, kind, interval))


def unanimous(samples: int, selection: int, classes: int) -> Votes:
    """One image whose every draw has a softmax of 1 for the first class."""
    one = np.eye(1, classes)
    votes = np.eye(1, classes, dtype=np.int64)
    return Votes(samples * votes, selection * votes if selection else None,
                 scores=Scores(samples * one, samples * one, selection * one if selection else None))


def answers(scores: Scores) -> Counts:
    """The class of the largest mean of the estimation draws, int64 [N]; -1 on a tie at the top."""
    second, first = np.sort(scores.total, axis=1)[:, -2:].T
    return np.where(first > second, scores.total.argmax(axis=1), -1)


def _checked(scores: Scores | None, samples: int, selection: int) -> Scores:
    if scores is None:
        raise UserError("scores: expected the sums of softmax scores beside the votes, found none; certify into a new folder")
    if (scores.selection is None) != (selection == 0):
        raise UserError(f"scores: expected those of {selection} selection draws, found {'none' if selection else 'some'}")
    for sums, draws, purpose in ((scores.total, samples, "estimation"), (scores.selection, selection, "selection")):
        added = np.zeros(0) if sums is None else sums.sum(axis=1)
        wrong = np.flatnonzero(~(np.abs(added - draws) <= _OFF * draws))
        if len(wrong):
            raise UserError(f"scores: expected sums of softmax over {draws} {purpose} draws, as fixed before the first, found "
                            f"{added[wrong[0]]:.6g} in row {wrong[0]}; bounds of another number would not hold")
    return scores


def _statement(samples: int, selection: int, failure_probability: float, kind: str, interval: str) -> str:
    aim = f"{1.0 - failure_probability:.12g}"
    if kind == "two_class":
        shared = "one bound at the full failure probability"
    elif selection:
        shared = "half of the failure probability for each of two bounds, the largest upper bound among all other classes"
    else:
        shared = ("a half of the failure probability over the lower bounds of all classes, a quarter for each upper bound, the "
                  "largest among all other classes")
    chosen = f"the class of the largest mean softmax of {selection} other draws" if selection else \
        "the class of the largest mean softmax of the same draws"
    return (f"For each image by itself: with probability at least {aim} over its {samples} noise draws, a radius above 0 is "
            f"true of the classifier that answers the class of the largest expected softmax under noise ({_NAMES[interval]}, "
            f"{shared}; {chosen}).")
