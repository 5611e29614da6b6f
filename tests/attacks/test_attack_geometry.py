from __future__ import annotations

import pytest
import torch
from toy_victims import SHAPE, draws, grey, random_images

from robust_cli.attacks.geometry import distances, project_ball, random_direction, random_start, settle, size, steepest
from robust_cli.attacks.norms import Norm

NORMS = ["l1", "l2", "linf"]


def rows(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1)


@pytest.mark.parametrize(("norm", "delta", "budget", "expected"), [
    ("linf", [0.3, -0.5, 0.1], 0.2, [0.2, -0.2, 0.1]),
    ("l2", [3.0, -4.0], 1.0, [0.6, -0.8]),
    ("l2", [0.3, 0.4], 1.0, [0.3, 0.4]),
    ("l1", [3.0, -1.0], 2.0, [2.0, 0.0]),
    ("l1", [3.0, -2.0, 0.1], 2.0, [1.5, -0.5, 0.0]),
    ("l1", [0.3, -0.4], 1.0, [0.3, -0.4]),
    ("l1", [0.0, 0.0], 1.0, [0.0, 0.0]),
])
def test_projection_by_hand(norm: str, delta: list[float], budget: float, expected: list[float]) -> None:
    torch.testing.assert_close(project_ball(rows(delta), budget, norm), rows(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_is_the_nearest_point(norm: str) -> None:
    generator = torch.Generator().manual_seed(1)
    delta = 2 * torch.randn(1, 1, 1, 3, generator=generator, dtype=torch.float64)
    found = project_ball(delta, 0.7, norm)
    inside = torch.randn(20_000, 1, 1, 3, generator=generator, dtype=torch.float64)
    inside = inside / size(inside, norm).reshape(-1, 1, 1, 1) * 0.7
    assert float(size(found, norm)) == pytest.approx(0.7)
    others = size(inside - delta, "l2")
    assert float(size(found - delta, "l2")) <= float(others.min()) + 1e-12
    assert float(others.min()) < float(size(found - delta, "l2")) + 0.05  # the sampling has come near enough to refute


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_is_the_dual_of_the_norm(norm: str) -> None:
    gradient = torch.randn(50, *SHAPE, generator=torch.Generator().manual_seed(2))
    direction = steepest(gradient, norm)
    dual = {"l1": "linf", "l2": "l2", "linf": "l1"}[norm]
    torch.testing.assert_close(size(direction, norm), torch.ones(50))
    torch.testing.assert_close((gradient * direction).flatten(1).sum(1), size(gradient, dual))


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_of_tiny_zero_and_broken_gradients(norm: str) -> None:
    gradient = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(3))
    expected = steepest(gradient, norm)
    torch.testing.assert_close(steepest(gradient * 1e-30, norm), expected)  # squares vanish in float32
    torch.testing.assert_close(steepest(gradient * 1e30, norm), expected)  # squares overflow
    broken = gradient.clone()
    broken[0], broken[1, 0, 0, 0], broken[2, 0, 0, 0] = 0, torch.nan, torch.inf
    found = steepest(broken, norm)
    assert found.isfinite().all()
    assert (found[0] == 0).all()
    torch.testing.assert_close(found[3:], expected[3:], rtol=0, atol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("budget", [1e-4, 1 / 255, 0.3, 2.0, 50.0])
def test_settled_images_are_within_budget_and_box_in_float64(norm: str, budget: float) -> None:
    generator = torch.Generator().manual_seed(4)
    images = random_images(200)
    images[:100] = images[:100].round()  # corners of the box
    wild = images + torch.randn(images.shape, generator=generator) * 10 ** torch.empty(200, 1, 1, 1).uniform_(-5, 1)
    found = settle(wild, images, budget, norm)
    assert found.dtype == torch.float32
    assert (distances(found, images, norm) <= budget * (1 + 1e-12)).all()
    assert ((found >= 0) & (found <= 1)).all()
    inner = settle(wild, grey(200), budget, norm)
    reach = distances(wild.clamp(0, 1), grey(200), norm)
    full = reach > budget * 1.5 if norm == "linf" else torch.zeros(200).bool()
    assert (distances(inner, grey(200), norm)[full] >= budget * (1 - 1e-3)).all()  # no more is taken than needed


def test_distances_are_float64_and_exact() -> None:
    first, second = grey(1), grey(1)
    second[0, 0, 0, 0], second[0, 0, 1, 1] = 0.5 + 0.3, 0.5 - 0.4
    gap = second.double() - first.double()
    for norm, expected in (("l2", gap.square().sum().sqrt()), ("linf", gap.abs().max()), ("l1", gap.abs().sum())):
        assert distances(first, second, norm).dtype == torch.float64
        assert float(distances(first, second, norm)) == pytest.approx(float(expected), rel=1e-15)
    with pytest.raises(ValueError, match="l3"):
        distances(first, second, "l3")


def test_random_starts_fill_the_ball_uniformly() -> None:
    images = grey(4000)
    lengths = distances(random_start(images, 0.4, "l2", draws(4000)), images, "l2") / 0.4
    assert float((lengths**16).mean()) == pytest.approx(0.5, abs=5 * (1 / 12 / 4000) ** 0.5)  # the volume inside is uniform
    sides = (random_start(images, 0.4, "linf", draws(4000)) - images) / 0.4
    assert float(sides.abs().max()) <= 1 + 1e-6
    assert float(sides.mean()) == pytest.approx(0, abs=5 * (1 / 3 / sides.numel()) ** 0.5)
    assert float(sides.square().mean()) == pytest.approx(1 / 3, abs=5 * (4 / 45 / sides.numel()) ** 0.5)


def test_random_directions_are_unit_and_isotropic() -> None:
    found = random_direction(grey(4000), draws(4000)).flatten(1)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4000))
    covariance = found.T @ found / 4000
    assert float((covariance - torch.eye(16) / 16).abs().max()) < 6 * (2 / 16 / 18 / 4000) ** 0.5


def test_a_norm_equals_its_name() -> None:
    assert Norm.l2 == "l2"
    assert f"{Norm.linf}" == "linf"
