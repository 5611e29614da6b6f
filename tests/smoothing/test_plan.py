from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from robust_cli.certificates.neyman_pearson import NeymanPearson
from robust_cli.messages import UserError, Wrong
from robust_cli.smoothing.plans.plan import CHUNK, Bounds, boundaries, check_votes, false_certificates, others, radii


@pytest.mark.parametrize("samples", [1, 63, 64, 65, 100, 128, 1000, 2048, 10_000, 100_000, 123_457, 10**7])
def test_boundaries(samples: int) -> None:
    """Whole chunks but for the end, each step at least a chunk and at most a sixteenth of what there is, or one chunk."""
    found = np.array(boundaries(samples))
    assert found[-1] == samples
    steps, before = np.diff(found, prepend=0), np.concatenate([[0], found[:-1]])
    assert (steps > 0).all()
    assert (found[:-1] % CHUNK == 0).all()
    assert (steps[:-1] >= CHUNK).all()
    assert (steps <= np.maximum(CHUNK, before / 16)).all()
    assert (steps[:-1] > np.maximum(CHUNK, before[:-1] / 16) - CHUNK).all()  # and no smaller than it need be
    assert len(found) <= 34 + 20 * np.log(max(samples / 2048, 1.0))


def test_smaller_plans_look_where_larger_ones_do() -> None:
    larger = boundaries(100_000)
    for samples in (64, 999, 1024, 70_000):
        found = boundaries(samples)
        assert found[:-1] == larger[: len(found) - 1]


def test_no_boundaries_without_draws() -> None:
    for samples in (0, -64):
        with pytest.raises(Wrong, match="samples"):
            boundaries(samples)


def test_no_radius_where_the_plan_abstains() -> None:
    bounds = Bounds(np.array([1, -1, 0]), np.array([0.9, 0.9, 0.6]), np.array([0.1, 0.1, 0.3]), "")
    first, _, last = NeymanPearson()([0.9, 0.9, 0.6], [0.1, 0.1, 0.3], 0.5)
    assert radii(NeymanPearson(), bounds, 0.5).tolist() == [first, 0.0, last]


def test_others_leave_the_votes_as_they_are() -> None:
    counts = np.array([[5, 3, 2], [1, 2, 7]])
    assert others(counts, np.array([0, 2]), -1).tolist() == [[-1, 3, 2], [1, 2, -1]]
    assert counts.tolist() == [[5, 3, 2], [1, 2, 7]]


def test_votes_of_other_numbers_are_refused() -> None:
    check_votes(np.array([[60, 40], [0, 100]]), 100, "estimation")
    check_votes(np.array([[60, 4], [0, 0], [64, 36]]), (0, 64, 100), "estimation")
    for counts, draws in (([[60, 41]], 100), ([[60, 40]], (64, 128)), ([[0, 0]], (64,)), ([[-1, 65]], (64,))):
        with pytest.raises(UserError, match="row 0; bounds of another number would not hold"):
            check_votes(np.array(counts), draws, "estimation")


def test_false_certificates() -> None:
    expected, quantile = false_certificates(10_000, 0.001)
    assert expected == pytest.approx(10.0)
    assert binom.cdf(quantile - 1, 10_000, 0.001) < 0.999 <= binom.cdf(quantile, 10_000, 0.001)
    assert false_certificates(0, 0.001) == (0.0, 0)
    assert false_certificates(1, 1e-6) == (1e-6, 0)
