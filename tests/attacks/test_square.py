"""The square attack: its schedule and shapes by hand, its strength, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from toy_victims import Halfspace, curved, draws, random_images, uneven_weights

from robust_cli.attacks.classifiers import BaseClassifier, SmoothedClassifier
from robust_cli.attacks.geometry import distances
from robust_cli.attacks.losses import lead
from robust_cli.attacks.square import Square, double_mound, mound, share_at
from robust_cli.messages import UserError, Wrong


def test_the_share_halves_on_the_papers_schedule() -> None:
    assert [share_at(q, 10_000, 0.8) for q in (0, 10, 11, 51, 8001)] == [0.8, 0.8, 0.4, 0.2, 0.8 / 512]
    assert share_at(6, 5000, 0.8) == 0.4  # stretched to half as many queries


def test_mounds_by_hand() -> None:
    """A square of 3: 1/4 at its edge, 1/4 + 1 in its middle."""
    expected = torch.full((3, 3), 0.25)
    expected[1, 1] = 1.25
    torch.testing.assert_close(mound(3, 3), expected)
    found = double_mound(5, torch.tensor([False, True]))
    torch.testing.assert_close(found.square().sum((1, 2)), torch.ones(2))
    torch.testing.assert_close(found[1], found[0].T)
    assert (found[0, :, :2] > 0).all()
    assert (found[0, :, 2:] < 0).all()


@pytest.mark.parametrize(("norm", "order", "share"), [("linf", 1, 0.99), ("l2", 2, 0.7)])
def test_linear_worst_case_is_nearly_reached_without_gradients(norm: str, order: int, share: float) -> None:
    """A bias keeps every image right, so that the search goes on to its last query."""
    weight, budget, n = uneven_weights(), 0.05, 6
    model, images = Halfspace(weight, bias=60.0), 0.1 + 0.8 * random_images(n)
    labels = torch.ones(n).long()
    found = Square(norm=norm, queries=1000, budget=budget)(BaseClassifier(model), images, labels, draws(n))
    with torch.no_grad():
        drop = (model(images) - model(found))[:, 1]
    worst = budget * float(torch.linalg.vector_norm(weight, ord=order))
    assert worst * share <= float(drop.min())
    assert float(drop.max()) <= worst * (1 + 1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("budget", [1e-3, 0.1, 5.0])
def test_budget_box_and_batch_independence(norm: str, budget: float) -> None:
    model, images, labels = curved(4).eval(), random_images(12), torch.arange(12) % 3
    images[:4] = images[:4].round()
    attack, classifier = Square(norm=norm, queries=30, budget=budget), BaseClassifier(model)
    found = attack(classifier, images, labels, draws(12))
    assert (distances(found, images, norm) <= budget * (1 + 1e-9)).all()
    assert ((found >= 0) & (found <= 1)).all()
    assert (distances(found, images, norm) > 0).all()
    alone = torch.cat([attack(classifier, images[k : k + 1], labels[k : k + 1], draws(1, first=k)) for k in range(12)])
    torch.testing.assert_close(alone, found, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_queries_only_help_and_fooled_images_cost_none(norm: str) -> None:
    model, images = curved(1).eval(), random_images(40)
    labels, few, many = model(images).argmax(1), BaseClassifier(model), BaseClassifier(model)
    budget = 0.2 if norm == "linf" else 0.5
    after = [lead(model(Square(norm=norm, queries=300, budget=budget)(many, images, labels, draws(40))), labels),
             lead(model(Square(norm=norm, queries=1, budget=budget)(few, images, labels, draws(40))), labels)]
    assert int((after[0] > 0).sum()) > int((after[1] > 0).sum()) + 3
    assert few.network.forward_passes == 40
    assert many.network.forward_passes < 300 * 40 * 0.7
    assert many.network.backward_passes == 0


def test_random_classifiers_and_wrong_settings_are_refused_in_one_line() -> None:
    images, labels = random_images(2), torch.zeros(2).long()
    with pytest.raises(UserError, match=r"^[^\n]*expected a base classifier[^\n]*$"):
        Square(budget=0.1)(SmoothedClassifier(curved(), 0.1, draws=2), images, labels, draws(2))
    for settings, name in (({"norm": "l1"}, "norm"), ({"queries": 0}, "queries"), ({"share": 0.0}, "share")):
        with pytest.raises(Wrong, match=f"^{name}: expected"):
            Square(**settings)
