from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtr

from robust_cli.certificates import confidence
from robust_cli.certificates.neyman_pearson import NeymanPearson
from robust_cli.certificates.pixeldp import PixelDP
from robust_cli.certificates.renyi import Renyi
from robust_cli.messages import UserError, Wrong
from robust_cli.smoothing.plans.plan import Votes, boundaries
from robust_cli.smoothing.plans.sequential import Sequential, SequentialCourse, SequentialTrail, usual_radii
from robust_cli.smoothing.plans.table import Step, Table, walk

RADII = [0.0, 0.25, 0.5, 1.0]


def course_of(samples: int = 2000, std: float = 0.5, alpha: float = 0.01, **settings: object) -> SequentialCourse:
    plan = Sequential(samples, radii=RADII, **settings)  # type: ignore[arg-type]
    return plan.course({"np": NeymanPearson(), "renyi": Renyi("two_class")}, std, alpha, 3)


def votes_of(hits: np.ndarray) -> np.ndarray:
    """Votes [looks, 3] of which class 1 has the hits."""
    looks = np.array(boundaries(2000))
    return np.stack([(looks - hits) // 2, hits, looks - hits - (looks - hits) // 2], axis=1)


def ridden(trail: SequentialTrail, votes: np.ndarray) -> SequentialTrail:
    for row in votes:
        if not trail.wanted:
            break
        assert trail.wanted == row.sum()
        trail.add(row)
    return trail


def some_hits(images: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    p = np.concatenate([rng.beta(3, 0.5, images // 2), rng.uniform(0.4, 1.0, images - images // 2)])
    return np.cumsum(rng.binomial(np.diff(boundaries(2000), prepend=0), p[:, None]), axis=1)


SELECTION = np.array([20, 88, 20])


def test_trails_are_the_walk_and_replay() -> None:
    course, hits = course_of(patience=2000.0), some_hits(400, 0)
    ends = walk(course.table, hits)
    for row, level, draws, stopped in zip(hits, ends.level, ends.draws, ends.stopped, strict=True):
        first, again = (ridden(course.begin(SELECTION, 1), votes_of(row)) for _ in range(2))
        assert (first.level, first.stopped) == (again.level, again.stopped) == (level, stopped)
        assert first.wanted == 0
        assert draws in boundaries(2000)
    assert set(ends.stopped) == {"complete", "futile", "cap"}
    assert {0, 2, 4, 6, 8} <= set(ends.level)
    assert (ends.evaluations >= ends.draws).all()
    assert not (ends.evaluations % 64).any()
    assert (ends.evaluations < ends.draws + 64).all()


def test_only_votes_for_the_selected_class_count() -> None:
    trail = course_of().begin(SELECTION, 1)
    trail.add(np.array([64, 0, 0]))
    assert (trail.level, trail.stopped) == (0, "futile")


def test_one_by_one_is_all_at_once_where_levels_are_crossed_out_of_order() -> None:
    looks = boundaries(640)
    claims = np.stack([np.where(np.arange(10) < 5, -1, 300), np.full(10, 20), np.arange(10) * 25], axis=1)
    steps = Table((0.5, 0.6, 0.7), looks, claims, np.full((10, 3), 400), (0.05,) * 3)
    hits = np.cumsum(np.random.default_rng(0).binomial(64, np.linspace(0.5, 0.9, 200)[:, None], (200, 10)), axis=1)
    ends = walk(steps, hits)
    for row, level, draws, stopped in zip(hits, ends.level, ends.draws, ends.stopped, strict=True):
        step = Step(steps)
        while not step.stopped:
            step.take(looks[step.look] - int(row[step.look]))
        assert (step.level, step.stopped, looks[step.look - 1]) == (level, stopped, draws)
    assert set(ends.level) >= {1, 3}


def test_reasons() -> None:
    course, ends = course_of(), walk(course_of().table, some_hits(400, 1))
    level, stopped = ends.level, np.array(ends.stopped)
    assert ((level == len(course.table.levels)) == (stopped == "complete")).all()
    assert (ends.draws[stopped == "cap"] == 2000).all()
    assert (ends.draws[stopped == "futile"] < 2000).all()


def test_levels_come_in_order() -> None:
    """At no look does an image hold a level without all that are smaller, though the votes of a later look no longer show it."""
    course, seen = course_of(patience=1e9), 0
    for row in some_hits(200, 2):
        trail, levels = course.begin(SELECTION, 1), [0]
        for look, votes in enumerate(votes_of(row)):
            if trail.wanted:
                trail.add(votes)
                levels.append(trail.level)
                misses = int(votes.sum() - votes[1])
                seen += int((misses > course.table.claims[look, :trail.level]).any())
        assert levels == sorted(levels)
    assert seen > 0  # levels proven before stay proven


def test_more_hits_never_prove_less() -> None:
    course, rng = course_of(), np.random.default_rng(3)
    steps = replace(course.table, keep=np.full_like(course.table.keep, 10**9))
    hits, looks = some_hits(300, 3), np.array(boundaries(2000))
    for _ in range(20):
        more = np.minimum(np.maximum.accumulate(hits + rng.integers(0, 30, hits.shape), axis=1), looks)
        assert (walk(steps, more).level >= walk(steps, hits).level).all()


def test_bounds_and_radii_are_the_tables() -> None:
    course = course_of()
    levels = course.table.levels
    assert len(levels) == 2 * len(RADII)
    votes = Votes(np.tile(np.array([100, 1800, 100]), (len(levels) + 1, 1)), np.tile(SELECTION, (len(levels) + 1, 1)),
                  np.arange(len(levels) + 1), ["cap"] * (len(levels) + 1))
    for name, certificate in (("np", NeymanPearson()), ("renyi", Renyi("two_class"))):
        bounds = course.bounds(name, votes)
        radii = course.radius(name, bounds)
        assert bounds.p1_lower.tolist() == [0.0, *levels]
        assert (bounds.p2_upper == 1.0 - bounds.p1_lower).all()
        assert (bounds.predicted == np.where(radii > 0, 1, -1)).all()
        exact = certificate(bounds.p1_lower, bounds.p2_upper, 0.5)
        assert (radii <= exact).all()
        wanted = np.array([0.0, 5e-10, 0.25, 0.5, 1.0])
        assert (radii == wanted[(wanted[None] <= exact[:, None]).sum(axis=1) - 1]).all()  # and none that is given is kept back
        assert set(radii) == set(wanted)
        assert course.largest_radius(name) == 1.0
    assert course.bounds("np", votes).statement == course.describe()["statement"]


def test_levels_are_the_least_probabilities() -> None:
    course = Sequential(radii=[0.0, 0.25, 1.0]).course({"np": NeymanPearson()}, 0.5, 0.001, 10)
    assert course.table.levels == pytest.approx((0.5, float(ndtr(0.5)), float(ndtr(2.0))), abs=1e-8)
    assert all(0.99 * 0.001 < error <= 0.001 for error in course.table.errors)


def test_usual_radii() -> None:
    assert usual_radii(0.25) == (0.0, 0.25, 0.5, 0.75)
    assert usual_radii(1.0)[-1] == 3.0
    assert usual_radii(0.05) == (0.0, 0.05, 0.1, 0.15)  # less than a step of the others: its own
    assert [usual_radii(0.25 * k)[-1] for k in range(1, 20)] == [0.75 * k for k in range(1, 20)]


def test_radii_that_cannot_be_proven_are_named() -> None:
    course = Sequential(5113).course({"np": NeymanPearson()}, 1.0, 0.001, 10)
    assert course.largest_radius("np") == 2.75
    assert course.note == "no 5113 draws can prove these radii, unanimous or not: np: 3"
    assert len(course.table.levels) == 12
    assert course.describe()["note"] == course.note
    assert Sequential(5114).course({"np": NeymanPearson()}, 1.0, 0.001, 10).note == ""
    with pytest.raises(UserError, match=re.escape("set samples to at least 5114, or smaller sampling.radii")):
        Sequential(5113, radii=[3.0]).course({"np": NeymanPearson()}, 1.0, 0.001, 10)


def test_unanimous_votes_prove_everything() -> None:
    course = Sequential(6000).course({"np": NeymanPearson(), "pixeldp": PixelDP("two_class")}, 1.0, 0.001, 2)
    trail = course.begin(np.array([128, 0]), 0)
    while trail.wanted:
        trail.add(np.array([trail.wanted, 0]))
    assert trail.stopped == "complete"
    assert trail.level == len(course.table.levels)
    assert course.largest_radius("np") == 3.0
    assert 0 < course.largest_radius("pixeldp") < 3.0


def test_label_aware_skips_wrong_selections_only() -> None:
    skipping, plain = course_of(label_aware=True), course_of()
    assert skipping.begin(SELECTION, 1).wanted == plain.begin(SELECTION, 0).wanted == 64
    skipped = skipping.begin(SELECTION, 0)
    assert (skipped.stopped, skipped.wanted, skipped.level) == ("skipped", 0, 0)
    assert skipping.begin(np.array([50, 50, 28]), 0).stopped == ""  # a tie goes to the lowest class
    assert skipping.begin(np.array([50, 50, 28]), 1).stopped == "skipped"
    none = Votes(np.zeros((1, 3), dtype=np.int64), SELECTION[None], np.array([0]), ["skipped"])
    found = skipping.bounds("np", none)
    assert found.predicted.tolist() == [-1]
    assert skipping.radius("np", found).tolist() == [0.0]
    assert "skipped" in found.statement
    with pytest.raises(UserError, match="estimation votes"):
        plain.bounds("np", none)


def test_all_that_is_fixed_is_described() -> None:
    """The description alone tells what each look does."""
    course = course_of(patience=2000.0)
    told = json.loads(json.dumps(course.describe()))
    assert told["boundaries"] == list(boundaries(2000))
    assert told["radii"] == RADII
    assert [level["probability"] for level in told["levels"]] == sorted({p for found in told["probabilities"].values()
                                                                         for p in found})
    for row in some_hits(100, 4):
        crossed, level = [False] * len(told["levels"]), 0
        for look, hits in enumerate(row):
            for j, rule in enumerate(told["levels"]):
                crossed[j] |= rule["claim_hits"][look] is not None and hits >= rule["claim_hits"][look]
            level = crossed.index(False) if False in crossed else len(crossed)
            if level == len(crossed) or told["levels"][level]["go_on_hits"][look] is None or \
                    hits < told["levels"][level]["go_on_hits"][look]:
                break
        trail = ridden(course.begin(SELECTION, 1), votes_of(row))
        assert trail.level == level
        assert course.boundaries[look] == walk(course.table, row[None]).draws[0]


def test_fixed_and_sequential_on_the_same_votes() -> None:
    """Radii spread evenly to 4 noise_std: a tenth of the draws or less, and at each radius hardly any certificate is lost."""
    rng, course = np.random.default_rng(5), Sequential().course({"np": NeymanPearson()}, 0.5, 0.001, 10)
    p = ndtr(rng.uniform(0.0, 4.0, 4000))
    hits = np.cumsum(rng.binomial(np.diff(course.boundaries, prepend=0), p[:, None]), axis=1)
    ends, fixed = walk(course.table, hits), confidence.lower(hits[:, -1], 100_000, 0.001)
    assert ends.evaluations.mean() < 10_000
    for j, level in enumerate(course.table.levels):
        lost = (fixed > level).mean() - (ends.level > j).mean()
        assert -0.002 < lost < 0.012, level
        assert ((ends.level > j) & (p <= level)).mean() <= 0.002


@pytest.mark.parametrize(("settings", "name"), [
    ({"samples": 0}, "samples"), ({"selection_samples": 0}, "selection_samples"), ({"patience": 0.0}, "patience"),
    ({"patience": float("nan")}, "patience"), ({"patience": float("inf")}, "patience"), ({"radii": []}, "radii"),
    ({"radii": [-0.1, 0.2]}, "radii"), ({"radii": [0.5, 0.25]}, "radii"), ({"radii": [0.5, 0.5]}, "radii"),
    ({"radii": [0.5, float("inf")]}, "radii")])
def test_wrong_settings(settings: dict[str, object], name: str) -> None:
    with pytest.raises(Wrong, match=name):
        Sequential(**settings)  # type: ignore[arg-type]


def test_bounds_that_do_not_hold_at_all_looks_are_refused() -> None:
    with pytest.raises(UserError, match=re.escape("set certificate=[neyman_pearson], or certificate.mine.bounds=two_class")):
        Sequential().course({"mine": NeymanPearson("runner_up")}, 0.5, 0.001, 10)
    with pytest.raises(Wrong, match="failure_probability"):
        Sequential().course({"mine": NeymanPearson()}, 0.5, 1.0, 10)


@pytest.mark.parametrize(("votes", "words"), [
    (Votes(np.array([[0, 64, 0]]), SELECTION[None]), "level"),
    (Votes(np.array([[0, 65, 0]]), SELECTION[None], np.array([1])), "estimation votes"),
    (Votes(np.array([[0, 64, 0]]), None, np.array([1])), "selection votes"),
    (Votes(np.array([[0, 64, 0]]), SELECTION[None] + 1, np.array([1])), "selection votes")])
def test_votes_that_are_not_the_plans_are_refused(votes: Votes, words: str) -> None:
    with pytest.raises(UserError, match=words):
        course_of().bounds("np", votes)
