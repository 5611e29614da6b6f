"""The two lines of a ReLU: they enclose it, as closely as they are said to."""

from __future__ import annotations

import pytest
import torch
from relu_networks import normal

from robust_cli.verification.relaxation import RELAXATIONS, Relaxed, relax

every_relaxation = pytest.mark.parametrize("relaxation", RELAXATIONS)
POINTS = torch.linspace(0, 1, 101, dtype=torch.float64)[:, None]


def intervals(n: int = 500) -> tuple[torch.Tensor, torch.Tensor]:
    """Random intervals, of which half hold 0, of sizes about 1 and 0.001, and all the edges that there are."""
    ends = normal(n, 2) * torch.tensor([1.0, 1e-3], dtype=torch.float64).repeat(n // 2)[:, None]
    edges = torch.tensor([[0, 0], [-1, 0], [0, 1], [1, 1], [-1, -1], [-1, 1], [-1e-300, 1], [-1, 1e-300], [-1e-12, 1e-12],
                          [-1e8, 1e-8], [-1e-8, 1e8]], dtype=torch.float64)
    lower, upper = torch.cat([ends.sort(1).values, edges]).T
    return lower[None], upper[None]


def lines(found: Relaxed, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return found.below * z, found.above * z + found.rise


@every_relaxation
def test_the_lines_enclose_the_relu(relaxation: str) -> None:
    lower, upper = intervals()
    z = lower + POINTS * (upper - lower)
    below, above = lines(relax(lower, upper, relaxation), z)
    slack = 1e-12 * (1 + torch.maximum(lower.abs(), upper.abs()))
    assert bool((below <= z.relu() + slack).all())
    assert bool((above >= z.relu() - slack).all())


@every_relaxation
def test_the_upper_line_is_the_chord(relaxation: str) -> None:
    """It meets the ReLU at both ends, so that no line over the interval lies lower."""
    lower, upper = intervals()
    found = relax(lower, upper, relaxation)
    for end in (lower, upper):
        torch.testing.assert_close(found.above * end + found.rise, end.relu(), rtol=1e-12, atol=1e-12)


@every_relaxation
def test_stable_relus_are_exact(relaxation: str) -> None:
    """Also where an end is 0, or the interval a point."""
    lower, upper = intervals()
    found, stable = relax(lower, upper, relaxation), (lower >= 0) | (upper <= 0)
    assert int(stable.sum()) > 100
    z = (lower + POINTS * (upper - lower))[:, stable[0]]
    for line in lines(Relaxed(*(part[:, stable[0]] for part in (found.below, found.above, found.rise)), found.parallel), z):
        torch.testing.assert_close(line, z.relu(), rtol=0, atol=0)


@every_relaxation
def test_slopes_lie_between_0_and_1(relaxation: str) -> None:
    """Any lower slope in [0, 1] is feasible in the dual, no other; a rise is never negative."""
    found = relax(*intervals(), relaxation)
    for slope in (found.below, found.above):
        assert 0 <= float(slope.min()) <= float(slope.max()) <= 1
    assert float(found.rise.min()) == 0
    assert all(bool(part.isfinite().all()) for part in (found.below, found.above, found.rise))


def test_a_relu_by_hand() -> None:
    """[-1, 3]: chord 3/4 z + 3/4; adaptive takes the lower line z, as 3 > 1. [-3, 1]: 1/4 z + 3/4, and 0."""
    lower, upper = torch.tensor([[-1.0, -3.0]]), torch.tensor([[3.0, 1.0]])
    parallel, adaptive = relax(lower, upper, "parallel"), relax(lower, upper, "adaptive")
    for found in (parallel, adaptive):
        assert found.above.tolist() == [[0.75, 0.25]]
        assert found.rise.tolist() == [[0.75, 0.75]]
    assert parallel.below.tolist() == [[0.75, 0.25]]
    assert adaptive.below.tolist() == [[1.0, 0.0]]
    assert (parallel.parallel, adaptive.parallel) == (True, False)


def test_adaptive_lines_have_the_least_area_between_them() -> None:
    """The area over [l, u] is that under the chord less s (u^2 - l^2) / 2: least at an end of [0, 1]."""
    lower, upper = intervals()

    def area(found: Relaxed) -> torch.Tensor:
        middle = (lower + upper) / 2
        below, above = lines(found, middle)  # of straight lines, the mean is that of the middle
        return (above - below) * (upper - lower)

    parallel, adaptive = (area(relax(lower, upper, relaxation)) for relaxation in RELAXATIONS)
    assert bool((adaptive <= parallel + 1e-12 * parallel.abs()).all())
    unstable = (lower < -1e-3) & (upper > 1e-3) & ((lower + upper).abs() > 1e-3)
    assert bool((adaptive < parallel)[unstable].all())
    for slope in (0.0, 0.3, 1.0):
        chord = relax(lower, upper, "parallel")
        other = Relaxed(torch.where(chord.rise > 0, torch.full_like(lower, slope), chord.below), chord.above, chord.rise, False)
        assert bool((adaptive <= area(other) + 1e-12 * parallel.abs()).all())


@every_relaxation
def test_lines_have_finite_gradients_where_relus_are_stable(relaxation: str) -> None:
    """A width of 0 that is divided by would poison every weight's gradient."""
    lower, upper = (torch.tensor([ends], requires_grad=True) for ends in ((0.0, -1.0, 1.0, -1.0), (0.0, -1.0, 1.0, 2.0)))
    found = relax(lower, upper, relaxation)
    (found.below + found.above + found.rise).sum().backward()
    assert lower.grad is not None
    assert upper.grad is not None
    assert bool(lower.grad.isfinite().all())
    assert bool(upper.grad.isfinite().all())
