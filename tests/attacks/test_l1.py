"""The l1 ball cut by the box: its projection, its sparse steps, and the attack against the exact worst case."""

from __future__ import annotations

import pytest
import torch
from toy_victims import SHAPE, Halfspace, Relentless, draws, random_images, uneven_weights

from robust_cli.attacks.geometry import distances, project_l1_box, size
from robust_cli.attacks.pgd_l1 import PgdL1, sparse_direction


def rows(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1)


@pytest.mark.parametrize(("delta", "image", "budget", "expected"), [
    ([3.0, -1.0], [0.5, 0.5], 2.0, [0.5, -0.5]),  # the box alone
    ([0.5, -0.25], [0.5, 0.5], 0.5, [0.375, -0.125]),  # the ball alone
    ([3.0, 0.4, 0.1], [0.8, 0.0, 0.0], 0.5, [0.2, 0.3, 0.0]),  # the first is full; the others share what is left
    ([-1.0, 0.3], [0.0, 0.5], 1.0, [0.0, 0.3]),  # no way to go in the first
    ([0.0, 0.0], [0.5, 0.5], 1.0, [0.0, 0.0]),
])
def test_projection_by_hand(delta: list[float], image: list[float], budget: float, expected: list[float]) -> None:
    torch.testing.assert_close(project_l1_box(rows(delta), rows(image), budget), rows(expected), rtol=0, atol=1e-12)


def test_projection_is_the_nearest_of_sampled_points() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        image = torch.rand(1, 1, 1, 3, generator=generator, dtype=torch.float64)
        delta = torch.randn(1, 1, 1, 3, generator=generator, dtype=torch.float64)
        found = project_l1_box(delta, image, 0.7)
        points = torch.rand(60_000, 1, 1, 3, generator=generator, dtype=torch.float64) - image
        points = points[size(points, "l1") <= 0.7]
        nearest = float(size(points - delta, "l2").min())
        assert float(size(found, "l1")) <= 0.7 + 1e-12
        assert ((image + found >= -1e-12) & (image + found <= 1 + 1e-12)).all()
        assert float(size(found - delta, "l2")) <= nearest + 1e-12 < float(size(found - delta, "l2")) + 0.05


def test_sparse_steps_go_where_the_box_leaves_room() -> None:
    gradient = torch.zeros(3, 16)
    gradient[:, :4] = torch.tensor([5.0, -4.0, 3.0, 2.0])
    points = torch.full((3, 16), 0.5)
    points[1, 0], points[1, 1], gradient[2] = 1.0, 0.0, 0.0
    found = sparse_direction(gradient.view(3, *SHAPE), points.view(3, *SHAPE), 2 / 16).flatten(1)
    assert found[0, :4].tolist() == [0.5, -0.5, 0, 0]
    assert found[1, :4].tolist() == [0, 0, 0.5, 0.5]
    assert float(found[2].abs().sum()) == 0


def exact_drop(weight: torch.Tensor, image: torch.Tensor, sign: float, budget: float) -> float:
    """The most that sign * w.x can fall in ball and box: the budget spent on the largest weights first, each to its wall."""
    room, drop = budget, 0.0
    for k in weight.abs().argsort(descending=True).tolist():
        free = float(image[k] if sign * weight[k] > 0 else 1 - image[k])
        drop, room = drop + float(weight[k].abs()) * min(free, room), room - min(free, room)
    return drop


@pytest.mark.parametrize(("budget", "share"), [(0.02, 0.9999), (0.5, 0.995), (2.0, 0.985), (6.0, 0.98)])
@pytest.mark.parametrize("restarts", [1, 3])
def test_linear_worst_case_with_the_box(budget: float, share: float, restarts: int) -> None:
    weight, n = uneven_weights(), 12
    model, images = Halfspace(weight, bias=0.3), 0.05 + 0.9 * random_images(n)
    labels = (model(images)[:, 1] > 0).long()
    found = PgdL1(steps=100, restarts=restarts, budget=budget)(Relentless(model), images, labels, draws(n))
    with torch.no_grad():
        drop = (model(images) - model(found))[:, 1] * (2 * labels - 1)
    for k in range(n):
        worst = exact_drop(weight, images[k].flatten(), float(2 * labels[k] - 1), budget)
        assert worst * share <= float(drop[k]) <= worst * (1 + 1e-5) + 1e-6
    assert (distances(found, images, "l1") <= budget * (1 + 1e-9)).all()
