"""The whole sequential procedure, from the selection to the radius: how often is a radius false?

Exactly, by a recursion of its own over every state (misses, levels crossed) that reads nothing but the course's description;
and on drawn votes, selection included, at the probabilities that are hardest. The classifier is that of two half-spaces, whose
true radius is the quantile of the class's probability. Each hunt is also run on procedures with a known mistake, and must
catch them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from robust_cli.certificates import confidence
from robust_cli.certificates.neyman_pearson import NeymanPearson
from robust_cli.smoothing.plans.crossing import claim_counts, spending
from robust_cli.smoothing.plans.plan import Votes, boundaries
from robust_cli.smoothing.plans.sequential import Sequential, SequentialCourse
from robust_cli.smoothing.plans.table import Table, walk

ALPHA, RUNS, SAMPLES = 0.05, 20_000, 1024
RADII = (0.0, 0.5, 1.0, 2.0)
UNLIMITED = 10**9


def course_of(alpha: float = ALPHA, patience: float = 3000.0, radii: tuple[float, ...] = RADII) -> SequentialCourse:
    return Sequential(SAMPLES, radii=radii, patience=patience).course({"np": NeymanPearson()}, 1.0, alpha, 10)


# ---- exactly ------------------------------------------------------------------------------------------------------------


def in_order(crossed: int) -> int:
    """Levels claimed of those crossed (bits): up to the first that is not."""
    return (~crossed & (crossed + 1)).bit_length() - 1


def exact(told: dict[str, Any], p: float, giving_up: bool, claimed: Callable[[int], int] = in_order) -> np.ndarray:
    """Probability that at least 0, 1, 2, ... levels are claimed if p_A = p, one draw after the other."""
    count, looks = len(told["levels"]), told["boundaries"]
    states, ended, drawn = {0: np.eye(1, looks[-1] + 1)[0]}, np.zeros(count + 1), 0
    for place, look in enumerate(looks):
        after: dict[int, np.ndarray] = {}
        for crossed, weights in states.items():
            for _ in range(look - drawn):
                weights = weights * p + np.append(0.0, weights[:-1]) * (1.0 - p)
            for misses in np.flatnonzero(weights):
                hits, now = look - int(misses), crossed
                for j, level in enumerate(told["levels"]):
                    least = level["claim_hits"][place]
                    now |= (least is not None and hits >= least) << j
                proven = claimed(now)
                go_on = told["levels"][proven]["go_on_hits"][place] if proven < count else None
                if proven == count or place + 1 == len(looks) or (giving_up and (go_on is None or hits < go_on)):
                    ended[proven] += weights[misses]
                else:
                    after.setdefault(now, np.zeros(looks[-1] + 1))[misses] += weights[misses]
        states, drawn = after, look
    assert ended.sum() == pytest.approx(1.0, abs=1e-9)
    return ended[::-1].cumsum()[::-1]


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_exact_error_at_each_level(alpha: float) -> None:
    """Where p_A is a level, that level and all above it are false claims. Without giving up the error is what is allowed."""
    told = course_of(alpha).describe()
    for j, level in enumerate(told["levels"]):
        never, giving_up = (exact(told, level["probability"], way) for way in (False, True))
        assert never[j + 1] <= alpha
        assert never[j + 1] >= 0.9 * alpha
        assert never[j + 1] == pytest.approx(level["error"], rel=1e-6)
        assert (giving_up <= never + 1e-12).all()


@pytest.mark.parametrize("p", [0.3, 0.499, 0.55, 0.9, 0.999])
def test_giving_up_raises_no_probability_of_a_claim(p: float) -> None:
    told = course_of(patience=300.0).describe()
    with_it, without = exact(told, p, True), exact(told, p, False)
    assert (with_it <= without + 1e-12).all()
    assert (with_it < without - 1e-3).any() or p in (0.3, 0.999)


def test_between_the_levels_the_false_ones_are_claimed_less_often() -> None:
    told = course_of().describe()
    for p in (0.45, 0.6, 0.75, 0.9, 0.95):
        false = sum(level["probability"] < p for level in told["levels"])
        assert false == len(told["levels"]) or exact(told, p, False)[false + 1] <= ALPHA


# ---- on drawn votes -------------------------------------------------------------------------------------------------------


def cases() -> list[tuple[float, ...]]:
    """Ties and near-ties of 2 to 10 classes, near certainty, and each level."""
    ties = [(1.0 / k,) * k for k in range(2, 11)] + [(0.5, 0.25, 0.25), (0.4, 0.3, 0.3), (0.5, 0.5, 0.0)]
    near = [(0.499, 0.501), (0.5 - 1e-6, 0.5 + 1e-6), (0.499, 0.4, 0.101), (0.45, 0.449) + (0.101 / 8,) * 8]
    certain = [(1 - 1e-3, 1e-3), (1 - 1e-5, 1e-5)]
    levels = [(p - 1e-9, 1.0 - p + 1e-9) for p in course_of().table.levels]
    return ties + near + certain + levels


def drawn(p: tuple[float, ...], selection: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Selection votes [RUNS, K], and estimation votes cumulated up to each look [looks, RUNS, K]."""
    rng, shares = np.random.default_rng([seed, len(p)]), np.array(p) / np.sum(p)
    steps = np.diff(boundaries(SAMPLES), prepend=0)
    return rng.multinomial(selection, shares, RUNS), np.cumsum([rng.multinomial(n, shares, RUNS) for n in steps], axis=0)


Procedure = Callable[[SequentialCourse, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]  # -> class, radius


def honest(course: SequentialCourse, selection: np.ndarray, votes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    chosen = selection.argmax(axis=1)
    ends = walk(course.table, votes[:, np.arange(RUNS), chosen].T)
    last = votes[np.searchsorted(course.boundaries, ends.draws), np.arange(RUNS)]
    bounds = course.bounds("np", Votes(last, selection, ends.level, ends.stopped))
    return bounds.predicted, course.radius("np", bounds)


def false_ones(procedure: Procedure, course: SequentialCourse, p: tuple[float, ...],
               votes: tuple[np.ndarray, np.ndarray] | None = None) -> int:
    predicted, radii = procedure(course, *(votes or drawn(p, course.selection, 0)))
    with np.errstate(divide="ignore"):
        true = np.maximum(ndtri(np.array(p)), 0.0)
    return int(((predicted >= 0) & (radii > true[predicted])).sum())


def too_often(wrong: int, alpha: float = ALPHA) -> bool:
    """Whether the 99.9 % lower confidence bound of the error is above alpha."""
    return bool(confidence.lower(wrong, RUNS, 0.001) > alpha)


def never_giving_up(course: SequentialCourse) -> SequentialCourse:
    return replace(course, table=replace(course.table, keep=np.full_like(course.table.keep, UNLIMITED)))


def test_radii_are_false_no_more_often_than_allowed() -> None:
    for seed, p in enumerate(cases()):
        votes = drawn(p, course_of().selection, seed)
        for course, alpha in ((course_of(), ALPHA), (never_giving_up(course_of()), ALPHA), (course_of(0.001), 0.001)):
            assert not too_often(false_ones(honest, course, p, votes), alpha), p


def test_the_hunt_has_power_because_the_procedure_uses_what_it_is_allowed() -> None:
    for level in course_of().table.levels[1:]:
        wrong = false_ones(honest, never_giving_up(course_of()), (level - 1e-9, 1.0 - level + 1e-9))
        assert wrong / RUNS == pytest.approx(ALPHA, abs=0.006)


def claiming(allows: Callable[[int, float], int]) -> Procedure:
    """The same procedure with other claim counts, of a look and a level."""

    def procedure(course: SequentialCourse, selection: np.ndarray, votes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        table = course.table
        claims = np.array([[allows(look, level) for level in table.levels] for look in table.looks])
        return honest(replace(course, table=replace(table, claims=claims)), selection, votes)

    return procedure


def most(look: int, level: float, lower: Callable[[np.ndarray, int], np.ndarray]) -> int:
    misses = np.arange(look + 1)
    return int(np.max(misses[lower(look - misses, look) > level], initial=-1))


def peeking(look: int, level: float) -> int:
    """Mistake: at each look the Clopper-Pearson bound for a number of draws fixed beforehand."""
    return most(look, level, lambda hits, draws: confidence.lower(hits, draws, ALPHA))


def wald(look: int, level: float) -> int:
    """Mistake: the normal approximation, here even with a share of the failure probability for each look."""
    share = ALPHA / len(boundaries(SAMPLES))
    return most(look, level, lambda hits, draws: hits / draws + ndtri(share) * np.sqrt(hits * (draws - hits) / draws**3))


def plug_in(look: int, level: float) -> int:
    """Mistake: the share of hits in place of a bound."""
    return most(look, level, lambda hits, draws: hits / draws)


def inflated(course: SequentialCourse, selection: np.ndarray, votes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mistake: every radius is 5 % too large."""
    predicted, radii = honest(course, selection, votes)
    return predicted, 1.05 * radii


def at_the_level(radius: float) -> tuple[float, ...]:
    return (float(ndtr(radius)) - 1e-9, 1.0 - float(ndtr(radius)) + 1e-9)


@pytest.mark.parametrize(("mistake", "p"), [
    (claiming(peeking), at_the_level(0.5)), (claiming(wald), at_the_level(2.0)), (claiming(plug_in), at_the_level(1.0)),
    (inflated, at_the_level(1.02))], ids=["peeking", "wald", "plug_in", "inflated"])
def test_mistakes_are_caught(mistake: Procedure, p: tuple[float, ...]) -> None:
    course = never_giving_up(course_of())
    assert not too_often(false_ones(honest, course, p))
    assert too_often(false_ones(mistake, course, p))


def test_selection_votes_used_again_are_caught() -> None:
    """Mistake: the votes that chose the class count in its claims; the looks know of them, so each claim alone is exact."""
    course, p = never_giving_up(course_of(radii=(0.0,))), (0.5, 0.5)
    assert not too_often(false_ones(honest, course, p))
    looks = tuple(look + course.selection for look in course.boundaries)
    claims, error = claim_counts(0.5, looks, ALPHA, spending(looks))
    assert error <= ALPHA
    selection, votes = drawn(p, course.selection, 0)
    together, chosen = votes + selection, selection.argmax(axis=1)
    table = Table((0.5,), looks, claims[:, None], np.full((len(looks), 1), UNLIMITED), (error,))
    assert too_often(int((walk(table, together[:, np.arange(RUNS), chosen].T).level > 0).sum()))


def unlike_levels() -> Table:
    """Two levels that are nearly the same, the first spending late and the second soon: each alone errs as it may."""
    looks, levels = boundaries(SAMPLES), (0.5, 0.501)
    late, soon = np.linspace(0.0, 1.0, len(looks)) ** 6, np.append(np.full(len(looks) - 1, 0.999), 1.0)
    found = [claim_counts(level, looks, ALPHA, spent) for level, spent in zip(levels, (late, soon), strict=True)]
    claims = np.stack([counts for counts, _ in found], axis=1)
    return Table(levels, looks, claims, np.full(claims.shape, UNLIMITED), tuple(error for _, error in found))


def told_of(table: Table) -> dict[str, Any]:
    looks = np.array(table.looks)
    return {"boundaries": list(table.looks), "levels": [
        {"claim_hits": [int(t - m) if m >= 0 else None for t, m in zip(looks, table.claims[:, j], strict=True)],
         "go_on_hits": [0] * len(looks)} for j in range(len(table.levels))]}


def test_a_later_level_without_the_earlier_is_caught() -> None:
    """Mistake: the highest level crossed is claimed. Both levels are false at p_A = 1/2, and either may be the one crossed."""
    table, hits = unlike_levels(), np.cumsum(np.random.default_rng(0).binomial(
        np.diff(boundaries(SAMPLES), prepend=0), 0.5, (RUNS, len(boundaries(SAMPLES)))), axis=1)
    assert not too_often(int((walk(table, hits).level > 0).sum()))
    misses = np.array(table.looks) - hits
    crossed = (misses[:, :, None] <= table.claims).any(axis=1)
    assert too_often(int(crossed.any(axis=1).sum()))
    assert exact(told_of(table), 0.5, False)[1] <= ALPHA
    assert exact(told_of(table), 0.5, False, int.bit_length)[1] > 1.3 * ALPHA


def test_the_exact_hunt_finds_peeking_too() -> None:
    table = course_of(radii=(0.0,)).table
    claims = np.array([[peeking(look, 0.5)] for look in table.looks])
    assert exact(told_of(replace(table, claims=claims)), 0.5, False)[1] > 3 * ALPHA
