from __future__ import annotations

import json
import re

import numpy as np
import pytest
from scipy.stats import beta

from robust_cli.certificates.neyman_pearson import NeymanPearson
from robust_cli.certificates.pixeldp import PixelDP
from robust_cli.certificates.renyi import Renyi
from robust_cli.messages import UserError, Wrong
from robust_cli.smoothing.plans.fixed import Fixed
from robust_cli.smoothing.plans.plan import Bounds, Votes, boundaries


def votes(*rows: tuple[int, ...], selection: tuple[tuple[int, ...], ...] | None = None) -> Votes:
    return Votes(np.array(rows, dtype=np.int64), None if selection is None else np.array(selection, dtype=np.int64))


def test_two_class_bounds() -> None:
    """Cohen et al. 2019: the class from the selection votes, the full failure probability on its estimation votes."""
    found = Fixed(100, 10).bounds(
        votes((90, 10, 0), (10, 90, 0), (20, 20, 60), (58, 42, 0), (59, 41, 0), selection=((6, 4, 0), (6, 4, 0), (0, 5, 5),
                                                                                           (10, 0, 0), (10, 0, 0))),
        0.05, "two_class")
    expected = beta.ppf(0.05, [90, 10, 20, 58, 59], [11, 91, 81, 43, 42])
    np.testing.assert_allclose(found.p1_lower, expected, rtol=1e-9)
    assert (found.p2_upper == 1.0 - found.p1_lower).all()
    assert found.predicted.tolist() == [0, -1, -1, -1, 0]  # 58 of 100 is not enough for 1/2, 59 is
    assert found.predicted.dtype == np.int64


@pytest.mark.parametrize(("multiplicity", "parts"), [("pair", 2), ("classes", 4)])
def test_runner_up_bounds(multiplicity: str, parts: int) -> None:
    """The upper bound is of the largest count among all other classes, whichever the selection votes favoured."""
    found = Fixed(100, 10).bounds(
        votes((60, 8, 30, 2), (30, 60, 8, 2), (50, 0, 0, 50), (97, 1, 1, 1),
              selection=((7, 3, 0, 0), (7, 3, 0, 0), (5, 0, 0, 5), (10, 0, 0, 0))),
        0.05, "runner_up", multiplicity=multiplicity)
    low = beta.ppf(0.05 / parts, [60, 30, 50, 97], [41, 71, 51, 4])
    high = np.minimum(beta.ppf(1 - 0.05 / parts, [31, 61, 51, 2], [70, 40, 50, 99]), 1 - low)
    np.testing.assert_allclose(found.p1_lower, low, rtol=1e-9)
    np.testing.assert_allclose(found.p2_upper, high, rtol=1e-9)
    assert found.predicted.tolist() == [0, -1, -1, 0]


def test_single_sample_form() -> None:
    found = Fixed(100, 0).bounds(votes((60, 8, 32), (8, 32, 60), (50, 50, 0)), 0.05, "runner_up")
    assert found.predicted.tolist() == [0, 2, -1]
    assert found.p1_lower[0] == found.p1_lower[1]
    assert "same draws" in found.statement


def test_ties_go_to_the_lowest_class() -> None:
    found = Fixed(100, 10).bounds(votes((90, 5, 5), (5, 90, 5), selection=((5, 5, 0), (0, 5, 5))), 0.05, "two_class")
    assert found.predicted.tolist() == [0, 1]


@pytest.mark.parametrize("certificate", [
    Renyi(), PixelDP(), NeymanPearson(bounds="runner_up"), NeymanPearson(), Renyi("two_class")])
def test_abstaining_and_a_radius_of_zero_are_the_same(certificate: Renyi | PixelDP | NeymanPearson) -> None:
    rng = np.random.default_rng(0)
    counts = rng.multinomial(50, rng.dirichlet(np.ones(4), size=400))
    chosen = rng.multinomial(5, (0.4, 0.3, 0.2, 0.1), size=400)
    found = Fixed(50, 5).bounds(Votes(counts, chosen), 0.05, certificate.bounds)
    radii = certificate(found.p1_lower, found.p2_upper, 0.5)
    assert ((found.predicted == -1) == (radii == 0.0)).all()
    assert 0 < (radii > 0).sum() < 400


def test_two_class_without_votes_of_its_own_is_refused() -> None:
    with pytest.raises(UserError, match=re.escape("selection_samples=100, or certificate.NAME.bounds=runner_up")):
        Fixed(100, 0).bounds(votes((60, 40)), 0.05, "two_class")
    with pytest.raises(UserError, match=re.escape("certificate.mine.bounds=two_class")):
        Fixed(100, 0).check("two_class", "certificate.mine.bounds")
    with pytest.raises(UserError, match="runner_up"):
        Fixed(100, 0).largest_radius(NeymanPearson(), 0.05, 1.0, 10)
    with pytest.raises(UserError, match="two_class or runner_up"):
        Fixed().check("one_class")
    Fixed(100, 0).check("runner_up")
    Fixed(100, 1).check("two_class")


@pytest.mark.parametrize(("stopped", "words"), [
    (votes((50, 40), selection=((6, 4),)), "100 estimation votes"),  # stopped early
    (votes((70, 40), selection=((6, 4),)), "100 estimation votes"),  # went on
    (votes((60, 40), (60, 41), selection=((6, 4), (6, 4))), "row 1"),
    (votes((60, 40), selection=((6, 5),)), "10 selection votes"),
    (votes((110, -10), selection=((6, 4),)), "100 estimation votes"),
    (votes((60, 40)), "selection votes beside"),
    (votes((60, 40), selection=((6, 4), (6, 4))), "another number of images"),
    (Votes(np.array([[60.0, 40.0]]), np.array([[6, 4]])), "whole numbers"),
    (votes((100,), selection=((10,),)), "classes >= 2")])
def test_votes_that_are_not_the_plans_are_refused(stopped: Votes, words: str) -> None:
    for kind in ("two_class", "runner_up"):
        with pytest.raises(UserError, match=words):
            Fixed(100, 10).bounds(stopped, 0.05, kind)


def test_selection_votes_in_the_single_sample_form_are_refused() -> None:
    with pytest.raises(UserError, match="no selection votes"):
        Fixed(100, 0).bounds(votes((60, 40), selection=((6, 4),)), 0.05, "runner_up")


def test_wrong_settings() -> None:
    with pytest.raises(Wrong, match="selection_samples"):
        Fixed(100, -1)
    with pytest.raises(Wrong, match="samples"):
        Fixed(0, 10)
    plan, counts = Fixed(100, 10), votes((60, 40), selection=((6, 4),))
    for failure_probability in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(Wrong, match="failure_probability"):
            plan.bounds(counts, failure_probability, "two_class")
    with pytest.raises(Wrong, match="interval"):
        plan.bounds(counts, 0.05, "two_class", "sison_glaz")
    with pytest.raises(Wrong, match="multiplicity"):
        plan.bounds(counts, 0.05, "runner_up", multiplicity="all")


def test_statements() -> None:
    plan, counts = Fixed(100, 10), votes((60, 40), selection=((6, 4),))

    def statement(kind: str, interval: str = "clopper_pearson", multiplicity: str = "pair") -> str:
        found: Bounds = plan.bounds(counts, 0.001, kind, interval, multiplicity)
        return found.statement

    assert "probability at least 0.999 over its 100 noise draws" in statement("two_class")
    assert "full failure probability" in statement("two_class")
    assert "half of the failure probability" in statement("runner_up")
    assert "one part per class" in statement("runner_up", multiplicity="classes")
    asymptotic = statement("runner_up", "sison_glaz")
    assert "No guarantee" in asymptotic
    assert "at least" not in asymptotic


def test_largest_radius_is_that_of_unanimous_votes() -> None:
    """NP with n = 10^5 and 0.001: 3.811 noise_std; three noise_std take 5114 draws, four 218105."""
    assert Fixed(10**5, 100).largest_radius(NeymanPearson(), 0.001, 0.5, 10) == pytest.approx(0.5 * 3.811, abs=5e-4)
    for radius, draws in ((3.0, 5114), (3.5, 29691), (4.0, 218105)):
        below, above = (Fixed(n, 100).largest_radius(NeymanPearson(), 0.001, 1.0, 10) for n in (draws - 1, draws))
        assert below < radius <= above
    by_pair = Fixed(100, 0).largest_radius(NeymanPearson(bounds="runner_up"), 0.05, 1.0, 2)
    assert by_pair == pytest.approx(1.796384512, abs=1e-8)
    assert Fixed(1, 1).largest_radius(NeymanPearson(), 0.001, 1.0, 10) == 0.0


def test_without_a_number_a_hundred_draws_choose_the_class() -> None:
    assert Fixed(100).selection == Fixed().course({}, 1.0, 0.05, 3).selection == 100
    assert Fixed(100, 7).selection == 7
    assert Fixed(100, 0).selection == 0


def test_a_trail_goes_to_the_end_whatever_the_votes() -> None:
    course = Fixed(200, 10).course({"np": NeymanPearson()}, 0.5, 0.05, 3)
    assert course.boundaries == boundaries(200)
    for votes_so_far in ((1, 0, 0), (0, 1, 0)):
        trail, seen = course.begin(np.array([10, 0, 0]), label=2), []
        while trail.wanted:
            assert trail.stopped == ""
            seen.append(trail.wanted)
            trail.add(trail.wanted * np.array(votes_so_far))
        assert tuple(seen) == course.boundaries
        assert (trail.stopped, trail.level, trail.wanted) == ("complete", 0, 0)
        with pytest.raises(AssertionError):
            trail.add(200 * np.array(votes_so_far))
    with pytest.raises(AssertionError):
        course.begin(np.array([10, 0, 0]), 0).add(np.array([63, 0, 0]))


def test_a_course_gives_what_plan_and_certificate_give() -> None:
    certificates = {"tight": NeymanPearson(), "loose": Renyi(multiplicity="classes")}
    plan, counts = Fixed(100, 10), votes((90, 10, 0), (40, 30, 30), selection=((10, 0, 0), (10, 0, 0)))
    course = plan.course(certificates, 0.25, 0.05, 3)
    for name, certificate in certificates.items():
        direct = plan.bounds(counts, 0.05, certificate.bounds, certificate.interval, certificate.multiplicity)
        found = course.bounds(name, counts)
        assert (found.predicted == direct.predicted).all()
        assert (found.p1_lower == direct.p1_lower).all()
        assert found.statement == direct.statement
        radii = course.radius(name, found)
        assert radii.tolist() == [float(certificate(direct.p1_lower[0], direct.p2_upper[0], 0.25)), 0.0]
        assert radii[0] < course.largest_radius(name) == plan.largest_radius(certificate, 0.05, 0.25, 3)
    assert course.comparable
    assert not course.stops_early
    assert json.loads(json.dumps(course.describe()))["boundaries"] == [64, 100]


def test_a_course_refuses_what_the_plan_cannot_bound() -> None:
    with pytest.raises(UserError, match=re.escape("certificate.mine.bounds=two_class")):
        Fixed(100, 0).course({"fine": Renyi(), "mine": NeymanPearson()}, 1.0, 0.05, 10)
    Fixed(100, 0).course({"fine": Renyi()}, 1.0, 0.05, 10)
