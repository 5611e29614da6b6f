from __future__ import annotations

import json
import re

import numpy as np
import pytest
from scipy.special import ndtri

from robust_cli.certificates.neyman_pearson import NeymanPearson
from robust_cli.certificates.renyi import Renyi
from robust_cli.messages import UserError, Wrong
from robust_cli.smoothing.plans import betting
from robust_cli.smoothing.plans.anytime import Anytime, AnytimeCourse
from robust_cli.smoothing.plans.fixed import Fixed
from robust_cli.smoothing.plans.plan import Votes, boundaries

ALPHA = 0.001
BOTH = {"two": NeymanPearson(), "pair": NeymanPearson(bounds="runner_up")}


def course_of(plan: Anytime, **certificates: NeymanPearson | Renyi) -> AnytimeCourse:
    return plan.course(certificates or {"two": NeymanPearson()}, 1.0, ALPHA, 3)


def walk(course: AnytimeCourse, seen: np.ndarray, selection: tuple[int, ...] = (64, 0, 0), label: int = 0) -> tuple[str, int]:
    """(why, at how many draws) a trail stops on these draws, int64 [samples]: the class of each."""
    trail = course.begin(np.array(selection), label)
    draws = 0
    while trail.wanted:
        assert trail.wanted > draws
        draws = trail.wanted
        assert draws in course.boundaries
        trail.add(np.bincount(seen[:draws], minlength=3))
    assert trail.stopped
    return trail.stopped, draws


def some_draws(p: tuple[float, ...], samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(len(p), size=samples, p=p)


def radius(hits: float, draws: int, alpha: float = ALPHA) -> float:
    """Of the two-class lower bound, at noise 1."""
    return max(float(ndtri(betting.lower(round(hits), draws, alpha))), 0.0)


@pytest.mark.parametrize("p1", [0.65, 0.7, 0.9, 0.99, 0.9999, 1.0])
@pytest.mark.parametrize("tolerance", [0.05, 0.2])
def test_it_stops_at_the_first_boundary_at_which_more_draws_would_hardly_help(p1: float, tolerance: float) -> None:
    plan = Anytime(10_000, tolerance=tolerance)
    seen = some_draws((p1, 1 - p1, 0.0), plan.samples)
    why, draws = walk(course_of(plan), seen)

    def gain(draws: int) -> float:
        share = (seen[:draws] == 0).mean()
        return radius(share * plan.samples, plan.samples) - radius(share * draws, draws)

    assert why == ("cap" if draws == plan.samples else "tolerance")
    assert gain(draws) <= tolerance
    certified = [n for n in boundaries(plan.samples) if n < draws and radius((seen[:n] == 0).sum(), n) > 0]
    assert certified or p1 == 0.65 or (p1, tolerance) == (0.7, 0.2)
    assert all(gain(n) > tolerance for n in certified)


def test_a_smaller_tolerance_takes_more_draws_and_certifies_more() -> None:
    seen = some_draws((0.95, 0.05, 0.0), 100_000)
    draws = [walk(course_of(Anytime(100_000, tolerance=t)), seen)[1] for t in (0.2, 0.1, 0.05, 0.01)]
    assert draws == sorted(draws)
    assert draws[0] * 4 < draws[2] < draws[3] < 100_000
    radii = [radius((seen[:n] == 0).sum(), n) for n in draws]
    assert radii == sorted(radii)
    full = radius((seen == 0).sum(), 100_000)
    for at, tolerance in zip(radii, (0.2, 0.1, 0.05, 0.01), strict=True):
        assert at > full - 1.5 * tolerance  # the share at the end is not quite that at the stop


def test_without_tolerance_only_what_can_never_be_certified_stops() -> None:
    course = course_of(Anytime(3000, tolerance=0.0))
    assert walk(course, np.zeros(3000, dtype=np.int64)) == ("cap", 3000)
    assert walk(course, some_draws((0.8, 0.1, 0.1), 3000)) == ("cap", 3000)
    assert walk(course, some_draws((0.55, 0.45, 0.0), 3000)) == ("cap", 3000)
    assert walk(course, np.ones(3000, dtype=np.int64)) == ("futile", 64)
    why, draws = walk(course, some_draws((0.3, 0.7, 0.0), 3000))
    assert (why, draws < 1000) == ("futile", True)


def test_a_futile_image_could_not_be_certified_at_the_end_by_its_best_share() -> None:
    plan = Anytime(10_000)
    for p1 in (0.2, 0.4, 0.5):
        seen = some_draws((p1, 1 - p1, 0.0), plan.samples, seed=1)
        why, draws = walk(course_of(plan), seen)
        assert why == "futile", p1
        best = betting.upper((seen[:draws] == 0).sum(), draws, ALPHA)
        assert radius(float(best) * plan.samples, plan.samples) <= plan.tolerance
        last = [n for n in boundaries(plan.samples) if n < draws][-1:]
        for n in last:
            assert radius(float(betting.upper((seen[:n] == 0).sum(), n, ALPHA)) * plan.samples, plan.samples) > plan.tolerance


def test_a_trail_is_a_function_of_the_votes_alone() -> None:
    """Fed again, with other images beside it, from the votes of a fixed plan, or beside other images' verdicts: the same."""
    course = course_of(Anytime(5000), **BOTH)
    seen = [some_draws((p, 1 - p, 0.0), 5000, seed=i) for i, p in enumerate((0.6, 0.9, 0.99))]
    first = [walk(course, draws) for draws in seen]
    assert [walk(course, draws) for draws in reversed(seen)] == first[::-1]
    assert [walk(course_of(Anytime(5000), **BOTH), draws) for draws in seen] == first
    assert len({draws for _, draws in first}) == 3
    assert Fixed(5000).course(BOTH, 1.0, ALPHA, 3).boundaries == course.boundaries


def test_an_image_stops_when_all_kinds_of_bounds_would() -> None:
    """p = (0.45, 0.3, 0.25): nothing for two classes, something beside the runner-up."""
    seen = some_draws((0.45, 0.3, 0.25), 20_000)
    alone = {name: walk(course_of(Anytime(20_000), **{name: made}), seen) for name, made in BOTH.items()}
    assert alone["two"][0] == "futile"
    assert alone["pair"][0] == "tolerance"
    assert alone["two"][1] < alone["pair"][1]
    assert walk(course_of(Anytime(20_000), **BOTH), seen) == alone["pair"]
    # whichever certificate uses the bounds
    assert walk(course_of(Anytime(20_000), other=Renyi()), seen) == alone["pair"]


def test_a_label_aware_plan_skips_images_with_another_class() -> None:
    for label_aware, why in ((True, "skipped"), (False, "tolerance")):
        course = course_of(Anytime(5000, label_aware=label_aware))
        seen = some_draws((0.9, 0.1, 0.0), 5000)
        assert walk(course, seen, label=1)[0] == why
        assert walk(course, seen, label=0)[0] == "tolerance"
    trail = course_of(Anytime(5000, label_aware=True)).begin(np.array([40, 24, 0]), label=1)
    assert (trail.wanted, trail.level) == (0, 0)
    assert course_of(Anytime(5000, label_aware=True)).begin(np.array([32, 32, 0]), label=0).wanted == 64  # a tie: the lowest


def test_bounds_are_a_function_of_the_final_counts() -> None:
    course = course_of(Anytime(128, label_aware=True), two=NeymanPearson(), pair=NeymanPearson(bounds="runner_up"),
                       classes=Renyi(multiplicity="classes"))
    counts = np.array([[64, 0, 0], [120, 5, 3], [50, 10, 4], [20, 30, 14], [0, 0, 0], [2, 60, 2], [90, 30, 8]])
    chosen = np.array([[64, 0, 0]] * 5 + [[0, 64, 0], [10, 10, 44]])
    found = {name: course.bounds(name, Votes(counts, chosen)) for name in course.certificates}
    top, rival, draws = np.array([64, 120, 50, 20, 0, 60, 8]), np.array([0, 5, 10, 30, 0, 2, 90]), counts.sum(axis=1)
    assert (found["two"].p1_lower == betting.lower(top, draws, ALPHA)).all()
    assert (found["two"].p2_upper == 1 - found["two"].p1_lower).all()
    for name, parts in (("pair", 2), ("classes", 3)):
        low, high = betting.lower(top, draws, ALPHA / parts), betting.upper(rival, draws, ALPHA / parts)
        assert (found[name].p1_lower == low).all()
        assert (found[name].p2_upper == np.minimum(high, 1 - low)).all()
    assert found["two"].predicted.tolist() == [0, 0, 0, -1, -1, 1, -1]
    assert found["pair"].predicted.tolist() == [0, 0, 0, -1, -1, 1, -1]
    radii = course.radius("two", found["two"])
    assert ((radii == 0) == (found["two"].predicted == -1)).all()
    for name in course.certificates:
        assert (course.radius(name, found[name]) < course.largest_radius(name)).all()


def test_what_the_plan_can_prove_at_most() -> None:
    course = Anytime(1000).course({"two": NeymanPearson()}, 0.5, ALPHA, 10)
    assert course.largest_radius("two") == pytest.approx(0.5 * radius(1000, 1000))
    assert course.largest_radius("two") < Fixed(1000).course({"two": NeymanPearson()}, 0.5, ALPHA, 10).largest_radius("two")


def test_never_more_than_a_fixed_plan_from_the_same_votes() -> None:
    rng = np.random.default_rng(3)
    counts = rng.multinomial(1000, rng.dirichlet((3, 1, 1, 0.5), size=2000))
    votes = Votes(counts, rng.multinomial(64, (0.7, 0.1, 0.1, 0.1), size=2000))
    anytime, fixed = (plan.course(BOTH, 0.5, ALPHA, 4) for plan in (Anytime(1000), Fixed(1000, 64)))
    for name in BOTH:
        small, large = (course.radius(name, course.bounds(name, votes)) for course in (anytime, fixed))
        assert (small <= large).all()
        assert (small[large > 0.5] > 0.75 * large[large > 0.5]).all()


def test_votes_that_are_not_the_plans_are_refused() -> None:
    course, chosen = course_of(Anytime(100)), np.array([[64, 0, 0]])
    for counts, words in (([[65, 0, 0]], "one of the plan's numbers of estimation"), ([[0, 0, 0]], "one of the plan's"),
                          ([[128, 0, 0]], "one of the plan's"), ([[-1, 65, 0]], "row 0")):
        with pytest.raises(UserError, match=words):
            course.bounds("two", Votes(np.array(counts), chosen))
    with pytest.raises(UserError, match="64 selection votes beside"):
        course.bounds("two", Votes(np.array([[64, 0, 0]])))
    with pytest.raises(UserError, match="64 selection votes"):
        course.bounds("two", Votes(np.array([[64, 0, 0]]), np.array([[60, 0, 0]])))
    trail = course.begin(chosen[0], 0)
    with pytest.raises(AssertionError):
        trail.add(np.array([100, 0, 0]))


def test_settings() -> None:
    assert Anytime().selection == 64
    assert Anytime(100, 7).course({"two": NeymanPearson()}, 1.0, ALPHA, 3).selection == 7
    with pytest.raises(Wrong, match="samples"):
        Anytime(samples=0)
    with pytest.raises(Wrong, match="selection_samples"):
        Anytime(selection_samples=0)
    for tolerance in (-0.1, float("nan"), float("inf")):
        with pytest.raises(Wrong, match="tolerance"):
            Anytime(tolerance=tolerance)
    with pytest.raises(UserError, match=re.escape("certificate.papers.interval: expected clopper_pearson")):
        course_of(Anytime(), papers=Renyi(interval="sison_glaz"))
    with pytest.raises(Wrong, match="failure_probability"):
        Anytime().course({"two": NeymanPearson()}, 1.0, 0.0, 10)


def test_what_it_says() -> None:
    course = course_of(Anytime(1000, label_aware=True), **BOTH)
    votes = Votes(np.array([[64, 0, 0]]), np.array([[64, 0, 0]]))
    two, pair = (course.bounds(name, votes).statement for name in ("two", "pair"))
    assert "probability at least 0.999 over its noise draws (at most 1000)" in two
    assert "whatever made them stop" in two
    assert "full failure probability" in two
    assert "half of the failure probability" in pair
    assert "skipped" in two
    assert "skipped" not in course_of(Anytime(1000)).bounds("two", votes).statement
    said = json.loads(json.dumps(course.describe()))
    assert (said["plan"], said["samples"], said["tolerance"], said["label_aware"]) == ("anytime", 1000, 0.05, True)
    assert said["boundaries"] == list(boundaries(1000))
    assert course.comparable
    assert course.stops_early
