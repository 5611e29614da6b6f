"""The norms that random vectors estimate, and with which errors: of numbers, and of a layer's bounds."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from relu_networks import NORMS, normal, pictures
from torch import nn
from torch.nn import functional

from robust_cli.verification import projections
from robust_cli.verification.bounds import Ball, layer_bounds
from robust_cli.verification.program import Program
from robust_cli.verification.projections import l1_estimate, l2_estimate, projected_bounds
from robust_cli.verification.reading import read

DEVIATION = {"l2": math.sqrt(1 / 2), "linf": math.pi / 2}  # of an estimate over its norm, times the root of k
Estimate = Callable[[torch.Tensor], torch.Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def products(kind: str, row: torch.Tensor, k: int, trials: int) -> torch.Tensor:
    """Of one row with k random vectors, [trials, k, 1]."""
    vectors = torch.empty(trials, k, len(row), dtype=torch.float64)
    vectors = vectors.normal_(generator=seeded()) if kind == "l2" else vectors.cauchy_(generator=seeded())
    return (vectors @ row)[:, :, None]


# ---- The two estimators -------------------------------------------------------------------------------------------------------

def estimates_the_norm(kind: str, estimate: Estimate) -> None:
    """Centre, spread, and the share of estimates below the norm; the root of what is averaged for l2 is unbiased."""
    row, k, trials = normal(40), 101, 4000
    norm = float(torch.linalg.vector_norm(row, 2 if kind == "l2" else 1))
    found = estimate(products(kind, row, k, trials))[:, 0] / norm
    deviation = DEVIATION[kind] / math.sqrt(k)
    assert float(found.median()) == pytest.approx(1, abs=5 * 1.2533 * deviation / math.sqrt(trials) + 1 / (3 * k))
    spread = (found.quantile(0.8413) - found.quantile(0.1587)) / 2
    assert float(spread) == pytest.approx(deviation, rel=0.1)
    assert 0.45 < float((found < 1).double().mean()) < 0.55
    if kind == "l2":  # k times the squared estimate is chi-square with k degrees: mean k, variance 2 k
        assert float((found**2).mean()) == pytest.approx(1, abs=5 * math.sqrt(2 / k / trials))


@pytest.mark.parametrize(("kind", "estimate"), [("l2", l2_estimate), ("linf", l1_estimate)])
def test_estimates_are_centred_at_the_norm(kind: str, estimate: Estimate) -> None:
    estimates_the_norm(kind, estimate)


@pytest.mark.parametrize(("kind", "mutant"), [
    ("l2", lambda p: p.norm(dim=1)),  # without 1 / sqrt(k)
    ("l2", l1_estimate), ("linf", l2_estimate), ("linf", lambda p: p.abs().mean(1)), ("linf", lambda p: p.median(1).values.abs()),
    ("linf", lambda p: l1_estimate(p[:, :50])), ("l2", lambda p: l2_estimate(p[:, :50]))])
def test_mutants_of_the_estimates_are_caught(kind: str, mutant: Estimate) -> None:
    with pytest.raises(AssertionError):
        estimates_the_norm(kind, mutant)


@pytest.mark.parametrize("k", [1, 2, 5, 50])
def test_the_median_is_that_of_statistics(k: int) -> None:
    values = normal(3, k, 4, 2)
    assert torch.equal(l1_estimate(values), values.abs().quantile(0.5, dim=1, interpolation="midpoint"))
    other = values.to("meta").abs()
    assert projections._in_the_middle(other)[0].shape == (3, 4, 2)  # the path of other devices


def test_the_lower_of_two_middle_numbers_would_be_low() -> None:
    """Why an even number of vectors takes the mean of both."""
    found = products("linf", normal(40), 50, 20000)[:, :, 0].abs() / normal(40).abs().sum()
    low, both = found.median(1).values, l1_estimate(found)
    assert float(low.mean()) < 1 < float(both.mean()) + 0.02  # of a skew estimate the mean lies higher than the median
    assert float((both - low).mean()) == pytest.approx(math.pi / 2 / 50, rel=0.1)
    assert abs(float((both < 1).double().mean()) - 0.5) < abs(float((low < 1).double().mean()) - 0.5)


# ---- Layers -------------------------------------------------------------------------------------------------------------------

def one_layer(shape: tuple[int, int, int] = (1, 20, 20)) -> Program:
    torch.manual_seed(0)
    return read(nn.Sequential(nn.Conv2d(1, 4, 7, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(196, 3)).double(), shape)


def two_layers() -> Program:
    """Few pixels, so that the first layer's bounds are exact; many unstable units, each of which matters to the second layer."""
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(9, 500), nn.ReLU(), nn.Linear(500, 40), nn.ReLU(), nn.Linear(40, 3)
    return read(nn.Sequential(*layers).double(), (1, 3, 3))


def errors(program: Program, images: torch.Tensor, ball: Ball, k: int, seeds: int = 40) -> torch.Tensor:
    """Of the last ReLU layer's half widths, relative to the exact ones, [seeds, n, *layer]."""
    last = program.relus[-1]

    def half_width(box: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return (box[1] - box[0]) / 2

    exact = half_width(layer_bounds(program, images, ball)[last])
    return torch.stack([half_width(projected_bounds(program, images, ball, k, seeded(seed))[last]) / exact - 1
                        for seed in range(seeds)])


def spread(errors: torch.Tensor) -> float:
    """Half the distance of the quantiles that lie one standard deviation of a normal number apart."""
    return float((errors.quantile(0.8413) - errors.quantile(0.1587)) / 2)


@torch.no_grad()
@pytest.mark.parametrize("norm", NORMS)
def test_errors_of_the_ball_shrink_like_one_over_the_root_of_the_number(norm: str) -> None:
    images = pictures(1, (1, 20, 20))[0]
    for k in (24, 96, 384):
        found = errors(one_layer(), images, Ball(norm, 0.3), k)
        assert spread(found) == pytest.approx(DEVIATION[norm] / math.sqrt(k), rel=0.15), f"{norm}, {k} vectors"
        assert 0.4 < float((found < 0).double().mean()) < 0.6


@torch.no_grad()
@pytest.mark.parametrize("norm", NORMS)
def test_errors_of_earlier_layers_shrink_as_well(norm: str) -> None:
    """The second layer's half width is the ball's part, exact here, and half the l1 norm of the first layer's rises and rows."""
    program, images, ball = two_layers(), pictures(2, (1, 3, 3))[0], Ball(norm, 0.5)
    first, last = program.relus
    (lower, upper), box = (layer_bounds(program, images, ball)[place] for place in (first, last))
    assert float(((lower < 0) & (upper > 0)).double().mean()) > 0.5
    weight = program.nodes[last - 1].part.layer.weight  # type: ignore[union-attr]
    rise = torch.where((lower < 0) & (upper > 0), -lower * upper / (upper - lower), 0.0)
    estimated = rise @ weight.abs().T / 2 / ((box[1] - box[0]) / 2)  # this part's share
    for k in (12, 48, 192):
        found = errors(program, images, ball, k) / estimated
        assert spread(found) == pytest.approx(math.pi / 2 / math.sqrt(k), rel=0.2), f"{norm}, {k} vectors"


@torch.no_grad()
def test_images_of_the_ball_leave_estimated_intervals() -> None:
    """The first layer's exact bounds are attained: wherever an estimate lies below, an image goes beyond it."""
    program, images, ball = one_layer(), pictures(1, (1, 20, 20))[0], Ball("l2", 0.3)
    place = program.relus[0]
    _, upper = projected_bounds(program, images, ball, 50, seeded())[place]
    with torch.enable_grad():
        point = images.clone().requires_grad_()
        values = functional.conv2d(point, program.nodes[1].part.layer.weight, program.nodes[1].part.layer.bias, 2)  # type: ignore
        rows = torch.stack([torch.autograd.grad(value, point, retain_graph=True)[0][0] for value in values.flatten()])
    worst = images + ball.radius * rows / rows.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    attained = program.nodes[1].part(worst).flatten(1).diagonal()  # type: ignore[misc]
    assert 0.3 < float((attained > upper.flatten() + 1e-9).double().mean()) < 0.7
