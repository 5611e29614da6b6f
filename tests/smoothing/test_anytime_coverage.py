"""The whole anytime procedure against the worst stopping rule: it stops at the first look at which the certificate is false.

As for the fixed plan, the classifier is that of two half-spaces, whose true radius is known, or one in which no class leads.
The same hunt, on the same code with broken bounds, must find the mistakes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import ndtri

from robust_cli.certificates import confidence
from robust_cli.certificates.neyman_pearson import NeymanPearson
from robust_cli.smoothing.plans import betting
from robust_cli.smoothing.plans.anytime import Anytime, AnytimeCourse
from robust_cli.smoothing.plans.plan import Bounds, Votes, boundaries

Bound = Callable[..., np.ndarray]
ALPHA, RUNS, EPSILON = 0.05, 3000, 1e-12


def course_of(kind: str, samples: int, classes: int, alpha: float = ALPHA, multiplicity: str = "pair") -> AnytimeCourse:
    return Anytime(samples).course({"np": NeymanPearson(bounds=kind, multiplicity=multiplicity)}, 1.0, alpha, classes)


def true_radii(p: np.ndarray) -> np.ndarray:
    """Of each class, exact up to a relative 1e-12 upwards."""
    radii, order = np.zeros(len(p)), np.argsort(p)
    first, second = order[-1], order[-2]
    if p[first] - p[second] > EPSILON:
        with np.errstate(divide="ignore"):
            radii[first] = (ndtri(p[first]) - ndtri(p[second])) / 2.0 * (1.0 + EPSILON)
    return radii


def thresholds() -> list[tuple[float, ...]]:
    """Just below a bound of the first look and of a later one."""
    found = [float(betting.lower(round(share * n), n, ALPHA / parts)) * (1 - 1e-9)
             for n, share in ((64, 1.0), (64, 0.85), (640, 0.9), (1024, 0.99)) for parts in (1, 2)]
    return [(p, 1 - p) for p in found]


CASES: list[tuple[float, ...]] = [
    *((1.0 / k,) * k for k in (2, 3, 5, 10)), (0.501, 0.499), (0.45, 0.449) + (0.101 / 8,) * 8, (0.335, 0.333, 0.332),
    (0.5, 0.25, 0.22, 0.03), (0.6, 0.2, 0.2), (0.8, 0.1, 0.1), (0.6, 0.4), (0.8, 0.2), (0.95, 0.05), (0.99, 0.01),
    (0.999, 0.001), (1 - 1e-5, 1e-5), *thresholds()]


def ever_false(course: AnytimeCourse, p: tuple[float, ...], seed: int, runs: int = RUNS) -> int:
    """In how many runs the certificate is false at some boundary."""
    rng, true = np.random.default_rng([seed, len(p)]), true_radii(np.array(p))
    chosen = rng.multinomial(course.selection, np.array(p) / np.sum(p), size=runs)
    counts, last, wrong = np.zeros((runs, len(p)), dtype=np.int64), 0, np.zeros(runs, dtype=bool)
    for look in course.boundaries:
        counts += rng.multinomial(look - last, np.array(p) / np.sum(p), size=runs)
        last = look
        found = course.bounds("np", Votes(counts, chosen))
        wrong |= course.radius("np", found) > true[found.predicted] * (found.predicted >= 0)
    return int(wrong.sum())


def too_often(wrong: int, runs: int = RUNS) -> bool:
    """Whether the 99.9 % lower confidence bound of the error is above ALPHA."""
    return bool(confidence.lower(wrong, runs, 0.001) > ALPHA)


@pytest.mark.parametrize(("kind", "multiplicity"), [("two_class", "pair"), ("runner_up", "pair"), ("runner_up", "classes")])
def test_no_stopping_rule_finds_false_certificates_too_often(kind: str, multiplicity: str) -> None:
    for seed, p in enumerate(CASES):
        course = course_of(kind, 1024, len(p), multiplicity=multiplicity)
        assert not too_often(ever_false(course, p, seed)), p


def wald(hits: np.ndarray, draws: np.ndarray, alpha: float) -> np.ndarray:
    share = hits / draws
    return np.clip(share + ndtri(alpha) * np.sqrt(share * (1 - share) / draws), 0.0, 1 - 1e-12)


def plug_in(hits: np.ndarray, draws: np.ndarray, alpha: float) -> np.ndarray:
    return np.clip(np.asarray(hits / draws), 0.0, 1 - 1e-12)


def spent_at_each_boundary(hits: np.ndarray, draws: np.ndarray, alpha: float) -> np.ndarray:
    """Mistake: a share of the failure probability for a look at each half, though there are looks in between."""
    return confidence.lower(hits, draws, alpha / 2)


@pytest.mark.parametrize("kind", ["two_class", "runner_up"])
@pytest.mark.parametrize("mistake", [confidence.lower, wald, plug_in, spent_at_each_boundary])
def test_bounds_for_one_look_are_caught(mistake: Bound, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clopper-Pearson at the stopping time above all: right at every number of draws, wrong at one chosen by its votes."""
    monkeypatch.setattr(betting, "lower", mistake)
    monkeypatch.setattr(betting, "upper", lambda hits, draws, alpha: 1.0 - mistake(draws - hits, draws, alpha))
    assert any(too_often(ever_false(course_of(kind, 1024, len(p)), p, seed)) for seed, p in enumerate(CASES[:12]))


def test_inflated_radii_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = AnytimeCourse.radius
    monkeypatch.setattr(AnytimeCourse, "radius", lambda *arguments: 1.3 * honest(*arguments))
    assert too_often(ever_false(course_of("two_class", 1024, 2), (0.8, 0.2), 0))


def test_a_runner_up_fixed_beforehand_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mistake: only the class that comes second in the selection votes is bounded from above."""
    p, honest = (0.5, 0.25, 0.22, 0.03), AnytimeCourse.bounds

    def only_the_second(self: AnytimeCourse, name: str, votes: Votes) -> Bounds:
        assert votes.selection is not None
        keep = np.argsort(-votes.selection, axis=1, kind="stable")[:, :2]
        kept = np.zeros_like(votes.estimation)
        np.put_along_axis(kept, keep, np.take_along_axis(votes.estimation, keep, axis=1), axis=1)
        rest = votes.estimation.sum(axis=1) - kept.sum(axis=1)
        shares = np.concatenate([kept, *[(rest // 8 + (rest % 8 > k))[:, None] for k in range(8)]], axis=1)  # none stands out
        chosen = np.concatenate([votes.selection, np.zeros((len(rest), 8), dtype=np.int64)], axis=1)
        return honest(self, name, Votes(shares, chosen))

    course = course_of("runner_up", 10_000, len(p))
    assert not too_often(ever_false(course, p, 0, runs=600), 600)
    monkeypatch.setattr(AnytimeCourse, "bounds", only_the_second)
    assert too_often(ever_false(course, p, 0, runs=600), 600)


def ever_false_exactly(course: AnytimeCourse, p: tuple[float, float, float], chosen: int) -> float:
    """The probability that the certificate is false at some boundary, summed over all paths of the votes of three classes."""
    weights, last, wrong, true = np.ones((1, 1)), 0, 0.0, true_radii(np.array(p))
    for look in course.boundaries:
        for _ in range(look - last):
            third = np.pad(weights, ((0, 1), (0, 1)))
            weights = p[2] * third + p[0] * np.roll(third, 1, axis=0) + p[1] * np.roll(third, 1, axis=1)
        last = look
        first, second = np.nonzero(weights > 0)
        counts = np.stack([first, second, look - first - second], axis=1)
        selection = np.tile(course.selection * np.eye(3, dtype=np.int64)[chosen], (len(counts), 1))
        found = course.bounds("np", Votes(counts, selection))
        false = course.radius("np", found) > true[chosen]
        wrong += float(weights[first[false], second[false]].sum())
        weights[first[false], second[false]] = 0.0
    return wrong


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("kind", ["two_class", "runner_up"])
def test_the_exact_error_of_three_looks_whatever_class_was_selected(kind: str, alpha: float) -> None:
    course = course_of(kind, 192, 3, alpha)
    for p in ((1 / 3, 1 / 3, 1 / 3), (0.5, 0.5, 0.0), (0.5, 0.25, 0.25), (0.8, 0.15, 0.05), (0.99, 0.005, 0.005)):
        for chosen in (0, 1):
            assert ever_false_exactly(course, p, chosen) <= alpha, (p, chosen)


def test_the_exact_error_finds_mistakes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(betting, "lower", confidence.lower)
    monkeypatch.setattr(betting, "upper", confidence.upper)
    for alpha in (0.05, 0.001):
        assert ever_false_exactly(course_of("two_class", 192, 3, alpha), (0.5, 0.5, 0.0), 0) > 1.3 * alpha


@pytest.mark.parametrize("p1", [0.6, 0.9, 0.99])
def test_the_plans_own_stopping_errs_no_more_either(p1: float) -> None:
    course = Anytime(2000, tolerance=0.2).course({"np": NeymanPearson()}, 1.0, ALPHA, 2)
    steps, wrong, runs = np.diff(boundaries(2000), prepend=0), 0, 300
    for hits in np.random.default_rng(0).binomial(steps, p1, size=(runs, len(steps))).cumsum(axis=1):
        trail, at = course.begin(np.array([64, 0]), 0), iter(hits)
        while trail.wanted:
            draws, k = trail.wanted, next(at)
            trail.add(np.array([k, draws - k]))
        wrong += betting.lower(k, draws, ALPHA) > p1
    assert not too_often(int(wrong), runs)
