"""Class and bounds from expected softmax: which bounds are taken, and that they fail no more often than said.

Softmax scores are drawn from laws of a few values on the simplex, their expectations known. Each check of how often bounds
fail is also run on procedures with a known mistake, and must catch them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.special import ndtri

from robust_cli.certificates import confidence, expectations
from robust_cli.certificates.in_norm import InItsNorm
from robust_cli.certificates.neyman_pearson import NeymanPearson
from robust_cli.certificates.pixeldp import PixelDP, radius
from robust_cli.certificates.renyi import Renyi
from robust_cli.messages import UserError, Wrong
from robust_cli.smoothing.plans import expected
from robust_cli.smoothing.plans.anytime import Anytime
from robust_cli.smoothing.plans.fixed import Fixed
from robust_cli.smoothing.plans.plan import Bounds, Scores, Votes
from robust_cli.smoothing.plans.sequential import Sequential

ALPHA, RUNS, SELECTION = 0.05, 20_000, 100
INTERVALS = ("hoeffding", "empirical_bernstein")


@dataclass(frozen=True)
class Law:
    """Softmax vectors [M, K] and their probabilities [M]."""

    vectors: np.ndarray
    shares: np.ndarray

    @property
    def means(self) -> np.ndarray:
        return np.asarray(self.shares @ self.vectors)


def law(*pairs: tuple[float, tuple[float, ...]]) -> Law:
    shares = np.array([share for share, _ in pairs])
    return Law(np.array([vector for _, vector in pairs]), shares / shares.sum())


def hard(*p: float) -> Law:
    """Softmax that is 0 or 1: votes."""
    return law(*((share, tuple(np.eye(len(p))[k])) for k, share in enumerate(p)))


def draw(of: Law, samples: int, selection: int, seed: int, runs: int = RUNS) -> Votes:
    rng = np.random.default_rng([seed, samples, selection])
    counts = rng.multinomial(samples, of.shares, size=runs)
    choosing = rng.multinomial(selection, of.shares, size=runs) @ of.vectors if selection else None
    none = np.zeros((runs, of.vectors.shape[1]), dtype=np.int64)
    return Votes(none, scores=Scores(counts @ of.vectors, counts @ of.vectors**2, choosing))


Procedure = Callable[[Votes, int, int], Bounds]


def right(kind: str, interval: str) -> Procedure:
    return lambda votes, samples, selection: expected.bounds(votes, samples, selection, ALPHA, kind, interval)


def rare(n: int, part: float, share: float = ALPHA / 2) -> float:
    """The probability of an event that n draws all miss with probability share^part."""
    return float(-np.expm1(np.log(share) * part / n))


def hard_laws(n: int) -> dict[str, Law]:
    """Ties and near ties of votes; rivals that vary beside one that does not; masses that all draws may miss."""
    over = min(11.0 / n, 0.02)  # above what empirical Bernstein takes for a rival that never varies, below the spread of others
    found = {f"tie of {k}": hard(*[1.0 / k] * k) for k in (2, 3, 5, 10)}
    found |= {"near tie": hard(0.501, 0.499), "near tie of 3": hard(0.335, 0.333, 0.332), "near certain": hard(0.999, 0.001),
              "soft tie": law((0.5, (0.6, 0.4)), (0.5, (0.4, 0.6))), "constant": law((1.0, (0.5, 0.3, 0.2)))}
    found["a quiet rival below one that varies"] = law(
        (0.75, (0.85, 0.15, 0.0)), (0.25, (0.25 - 4 * over, 0.15, 0.6 + 4 * over)))
    q = (0.05 + over) / 0.75
    found["five quiet rivals below one that varies"] = law((1.0 - q, (0.75, *[0.05] * 5, 0.0)), (q, (0.0, *[0.05] * 5, 0.75)))
    for part in (0.5, 0.95):
        q = rare(n, part)
        found[f"a rival that all draws may miss ({part})"] = law((1.0 - q, (0.9, 0.1, 0.0)), (q, (0.0, 0.0, 1.0)))
        found[f"a failure that all draws may miss ({part})"] = law((1.0 - q, (1.0, 0.0, 0.0)), (q, (0.0, 1.0, 0.0)))
    return found


def failed(found: Bounds, of: Law) -> np.ndarray:
    """Runs in which the claimed bounds are not true of the class that was claimed, bool [runs]; abstaining claims nothing."""
    others = np.array([np.delete(of.means, k).max() for k in range(len(of.means))])
    wrong = (found.p1_lower > of.means[found.predicted] + 1e-12) | (found.p2_upper < others[found.predicted] - 1e-12)
    return np.asarray((found.predicted >= 0) & wrong)


def too_often(procedure: Procedure, samples: int, selection: int, only: str = "") -> list[str]:
    """The laws under which the 99.9 % lower confidence bound of the share of failures is above ALPHA."""
    found = []
    for seed, (name, of) in enumerate(hard_laws(samples).items()):
        if name.startswith(only):
            wrong = int(failed(procedure(draw(of, samples, selection, seed), samples, selection), of).sum())
            if confidence.lower(wrong, RUNS, 0.001) > ALPHA:
                found.append(f"{name}: {wrong / RUNS:.4f}")
    return found


@pytest.mark.parametrize("samples", [100, 2000])
@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize(("kind", "selection"), [("two_class", SELECTION), ("two_class", 1), ("runner_up", SELECTION),
                                                 ("runner_up", 1), ("runner_up", 0)])
def test_bounds_fail_no_more_often_than_allowed(kind: str, selection: int, interval: str, samples: int) -> None:
    assert too_often(right(kind, interval), samples, selection) == []


def of(sums: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return np.take_along_axis(sums, chosen[:, None], axis=1)[:, 0]


def rivals(sums: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    others = sums.copy()
    np.put_along_axis(others, chosen[:, None], -1.0, axis=1)
    return others


def of_two(scores: Scores, samples: int, chosen: np.ndarray, second: np.ndarray) -> Bounds:
    """Half the failure probability to the class, half to one other class."""
    p1 = expectations.lower(of(scores.total, chosen), of(scores.squares, chosen), samples, ALPHA / 2, "empirical_bernstein")
    p2 = expectations.upper(of(scores.total, second), of(scores.squares, second), samples, ALPHA / 2, "empirical_bernstein")
    return Bounds(np.where(p1 > p2, chosen, -1), p1, p2, "")


def only_the_empirical_runner_up(votes: Votes, samples: int, selection: int) -> Bounds:
    """Mistake: of the other classes that of the largest mean alone is bounded."""
    scores = votes.scores
    assert scores is not None
    chosen = scores.total.argmax(1) if scores.selection is None else scores.selection.argmax(1)
    second = rivals(scores.total, chosen).argmax(1)
    return of_two(scores, samples, chosen, second)


def runner_up_fixed_beforehand(votes: Votes, samples: int, selection: int) -> Bounds:
    """Mistake: of the other classes that of the largest selection mean alone is bounded."""
    scores = votes.scores
    assert scores is not None
    assert scores.selection is not None
    chosen = scores.selection.argmax(1)
    second = rivals(scores.selection, chosen).argmax(1)
    return of_two(scores, samples, chosen, second)


def plug_in(votes: Votes, samples: int, selection: int) -> Bounds:
    """Mistake: means in place of bounds."""
    scores = votes.scores
    assert scores is not None
    chosen = scores.total.argmax(1)
    return Bounds(chosen, of(scores.total, chosen) / samples, rivals(scores.total, chosen).max(1) / samples, "")


def without_the_linear_term(votes: Votes, samples: int, selection: int) -> Bounds:
    """Mistake: only the term of the variance, which is 0 where all draws miss what is rare."""
    scores = votes.scores
    assert scores is not None
    chosen = scores.total.argmax(1)
    variance = np.maximum(scores.squares - scores.total**2 / samples, 0.0) / (samples - 1)
    width = np.sqrt(2.0 * variance * np.log(4.0 / ALPHA) / samples)
    mean = scores.total / samples
    p1, p2 = of(mean - width, chosen), rivals(mean + width, chosen).max(1)
    return Bounds(np.where(p1 > p2, chosen, -1), p1, p2, "")


@pytest.mark.parametrize(("mistake", "selection", "only"), [
    (only_the_empirical_runner_up, SELECTION, "a quiet rival"), (only_the_empirical_runner_up, 0, "a quiet rival"),
    (only_the_empirical_runner_up, SELECTION, "five quiet rivals"), (runner_up_fixed_beforehand, SELECTION, "a quiet rival"),
    (plug_in, 0, "near tie"), (without_the_linear_term, 0, "a rival that"), (without_the_linear_term, 0, "a failure that")],
    ids=lambda value: getattr(value, "__name__", None))
def test_mistakes_are_caught(mistake: Procedure, selection: int, only: str) -> None:
    assert too_often(mistake, 2000, selection, only)


@pytest.mark.parametrize("certificate", [NeymanPearson, Renyi, PixelDP])
@pytest.mark.parametrize("interval", INTERVALS)
def test_radii_of_half_spaces_are_true(certificate: type, interval: str) -> None:
    """Softmax that is 0 or 1 on half-spaces is the worst for given expectations: it changes class at their distance."""
    for seed, p in enumerate(((0.501, 0.499), (0.6, 0.4), (0.99, 0.01), (0.8, 0.2))):
        true = (ndtri(p[0]) - ndtri(p[1])) / 2.0 * (1 + 1e-9)
        for selection in (0, SELECTION):
            found = right("runner_up", interval)(draw(hard(*p), 2000, selection, seed, 4000), 2000, selection)
            radii = certificate(scores="softmax", interval=interval, bounds="runner_up")(found.p1_lower, found.p2_upper, 1.0)
            false = (found.predicted >= 0) & (radii > np.where(found.predicted == 0, true, 0.0))
            assert confidence.lower(int(false.sum()), 4000, 0.001) <= ALPHA


# ---- which bounds, exactly ---------------------------------------------------------------------------------------------------
TOTAL, SQUARES = np.array([[70.0, 25.0, 5.0]]), np.array([[60.0, 7.0, 5.0]])
CHOOSING = np.array([[60.0, 30.0, 10.0]])
NONE = np.zeros((1, 3), dtype=np.int64)


@pytest.mark.parametrize("interval", INTERVALS)
def test_two_bounds_share_the_failure_probability_in_halves(interval: str) -> None:
    found = expected.bounds(Votes(NONE, scores=Scores(TOTAL, SQUARES, CHOOSING)), 100, 100, 0.2, "runner_up", interval)
    each = expectations.upper(TOTAL, SQUARES, 100, 0.1, interval)[0]
    assert found.p1_lower[0] == expectations.lower(70.0, 60.0, 100, 0.1, interval)
    assert found.p2_upper[0] == min(max(each[1], each[2]), 1.0 - found.p1_lower[0])
    assert found.predicted[0] == (0 if found.p1_lower[0] > found.p2_upper[0] else -1)


def test_the_largest_bound_need_not_be_that_of_the_largest_mean() -> None:
    total, squares = np.array([[5000.0, 2500.0, 2490.0, 10.0]]), np.array([[2500.0, 625.0, 2490.0, 1.0]])
    votes = Votes(np.zeros((1, 4), dtype=np.int64), scores=Scores(total, squares, total / 100))
    found = expected.bounds(votes, 10_000, 100, 0.01, "runner_up", "empirical_bernstein")
    each = expectations.upper(total, squares, 10_000, 0.005, "empirical_bernstein")[0]
    assert each[1] < each[2] == found.p2_upper[0]
    assert expectations.upper(total, squares, 10_000, 0.005, "hoeffding")[0].argsort()[-2] == 1


def test_all_other_classes_together_have_no_more_than_the_rest() -> None:
    """A rival that varies beside a class that does not: its own bound is above 1 - p1."""
    total, squares = np.array([[50.0, 49.8, 0.2]]), np.array([[25.0, 24.84, 0.04]])
    found = expected.bounds(Votes(NONE, scores=Scores(total, squares, total)), 100, 100, 0.1, "runner_up", "empirical_bernstein")
    assert expectations.upper(49.8, 24.84, 100, 0.05, "empirical_bernstein") > 1.0 - found.p1_lower[0] == found.p2_upper[0]


@pytest.mark.parametrize("interval", INTERVALS)
def test_the_same_draws_pay_for_all_classes_that_they_may_choose(interval: str) -> None:
    found = expected.bounds(Votes(NONE, scores=Scores(TOTAL, SQUARES)), 100, 0, 0.6, "runner_up", interval)
    assert found.p1_lower[0] == expectations.lower(70.0, 60.0, 100, 0.1, interval)
    each = expectations.upper(TOTAL, SQUARES, 100, 0.15, interval)[0]
    assert found.p2_upper[0] == min(max(each[1], each[2]), 1.0 - found.p1_lower[0])


def test_two_class_bounds_take_the_full_failure_probability() -> None:
    found = expected.bounds(Votes(NONE, scores=Scores(TOTAL, SQUARES, CHOOSING)), 100, 100, 0.2, "two_class", "hoeffding")
    assert found.p1_lower[0] == expectations.lower(70.0, 60.0, 100, 0.2, "hoeffding")
    assert found.p2_upper[0] == 1.0 - found.p1_lower[0]


def test_the_class_is_chosen_by_the_selection_draws_and_a_tie_goes_to_the_lowest() -> None:
    for choosing, wanted in (((10.0, 80.0, 10.0), 1), ((40.0, 40.0, 20.0), 0)):
        total = np.roll(TOTAL, wanted, axis=1)
        votes = Votes(NONE, scores=Scores(total * 100, np.roll(SQUARES, wanted, axis=1) * 100, np.array([choosing])))
        assert expected.bounds(votes, 10_000, 100, 0.1, "runner_up", "hoeffding").predicted[0] == wanted
    third = Votes(NONE, scores=Scores(TOTAL, SQUARES, CHOOSING[:, ::-1]))
    other = expected.bounds(third, 100, 100, 0.2, "runner_up", "hoeffding")
    assert other.predicted[0] == -1  # the third, which the estimation draws do not bear out
    assert other.p1_lower[0] == expectations.lower(5.0, 5.0, 100, 0.1, "hoeffding")
    assert expected.answers(Scores(np.array([[1.0, 3.0, 3.0], [1.0, 4.0, 2.0]]), NONE)).tolist() == [-1, 1]


def test_many_draws_give_the_exact_expectations_and_the_radius_of_them() -> None:
    means, seconds = np.array([[0.7, 0.2, 0.1]]), np.array([[0.55, 0.06, 0.05]])
    for interval in INTERVALS:
        for n, close in ((10**4, 0.03), (10**6, 0.003), (10**8, 3e-4)):
            votes = Votes(NONE, scores=Scores(n * means, n * seconds, CHOOSING))
            found = expected.bounds(votes, n, 100, 0.001, "runner_up", interval)
            assert 0.0 < 0.7 - found.p1_lower[0] < close
            assert 0.0 < found.p2_upper[0] - 0.2 < close
            exact = radius(0.7, 0.2, 0.5)
            assert 0.0 < exact - radius(found.p1_lower, found.p2_upper, 0.5)[0] < close


# ---- what is refused ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("scores", "selection"), [
    (None, 100), (Scores(TOTAL, SQUARES), 100), (Scores(TOTAL, SQUARES, CHOOSING), 0),
    (Scores(0.9 * TOTAL, SQUARES, CHOOSING), 100), (Scores(TOTAL, SQUARES, 0.5 * CHOOSING), 100)])
def test_scores_of_other_draws_are_refused(scores: Scores | None, selection: int) -> None:
    with pytest.raises(UserError, match="scores: expected"):
        expected.bounds(Votes(NONE, scores=scores), 100, selection, 0.05, "runner_up", "hoeffding")


@pytest.mark.parametrize("plan", [Sequential(samples=1000), Anytime(samples=1000)], ids=lambda plan: type(plan).__name__)
def test_plans_that_look_more_than_once_refuse_expected_softmax(plan: Sequential | Anytime) -> None:
    made = PixelDP(scores="softmax", interval="hoeffding", bounds="two_class")
    for certificate in (made, InItsNorm(made, 64)):
        with pytest.raises(UserError, match=r"certificate\.mine\.scores: expected votes with sampling=.*set sampling=fixed"):
            plan.course({"mine": certificate}, 0.5, 0.05, 10)


@pytest.mark.parametrize("choices", [
    {"scores": "softmax"}, {"scores": "softmax", "interval": "sison_glaz"}, {"interval": "hoeffding"}, {"scores": "logits"},
    {"scores": "softmax", "interval": "hoeffding", "multiplicity": "classes"}])
def test_choices_that_do_not_go_together_are_refused(choices: dict[str, str]) -> None:
    for certificate in (PixelDP, Renyi, NeymanPearson):
        with pytest.raises(Wrong):
            certificate(**{"bounds": "runner_up", **choices})


def test_a_fixed_course_bounds_each_certificate_by_what_it_is_of() -> None:
    soft = PixelDP(scores="softmax", interval="empirical_bernstein")
    course = Fixed(100, 100).course({"votes": PixelDP(), "softmax": InItsNorm(soft, 64)}, 0.5, 0.05, 3)
    votes = Votes(np.array([[80, 15, 5]]), np.array([[70, 20, 10]]), scores=Scores(TOTAL, SQUARES, CHOOSING))
    assert course.bounds("votes", votes).p1_lower[0] == confidence.lower(80, 100, 0.025)
    assert course.bounds("softmax", votes).p1_lower[0] == expectations.lower(70.0, 60.0, 100, 0.025, "empirical_bernstein")
    assert "largest expected softmax" in course.bounds("softmax", votes).statement
    assert "at least 0.95 over its 100 noise draws" in course.bounds("softmax", votes).statement
    p1 = expectations.lower(100.0, 100.0, 100, 0.025, "empirical_bernstein")
    assert course.largest_radius("softmax") == pytest.approx(float(soft(p1, 1.0 - p1, 0.5)), rel=1e-12)
    assert course.largest_radius("softmax") < course.largest_radius("votes")


def test_the_single_sample_form_needs_runner_up_bounds() -> None:
    made = PixelDP(scores="softmax", interval="hoeffding", bounds="two_class")
    with pytest.raises(UserError, match="needs draws of its own"):
        Fixed(100, 0).course({"mine": made}, 0.5, 0.05, 3)
