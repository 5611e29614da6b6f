"""The square attack: its schedule and shapes by hand, its strength, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from toy_victims import Halfspace, curved, draws, random_images, uneven_weights

from robust_cli.attacks.classifiers import BaseClassifier, SmoothedClassifier
from robust_cli.attacks.geometry import distances
from robust_cli.attacks.losses import lead
from robust_cli.attacks.square import BLOCK, CornerSearch, LengthSearch, Square, double_mound, mound, share_at
from robust_cli.messages import UserError, Wrong


def test_the_share_halves_on_the_papers_schedule() -> None:
    assert [share_at(q, 10_000, 0.8) for q in (0, 10, 11, 51, 8001)] == [0.8, 0.8, 0.4, 0.2, 0.8 / 512]
    assert share_at(6, 5000, 0.8) == 0.4  # stretched to half as many queries


@pytest.mark.parametrize(("height", "width"), [(3, 3), (5, 2), (5, 3), (2, 5), (6, 3), (9, 4), (1, 1)])
def test_mounds_are_the_sum_of_eq_2_pixel_by_pixel(height: int, width: int) -> None:
    """Rows and columns of the equation count from 1."""
    n, expected = max(height, width) // 2, torch.empty(height, width)
    for r in range(1, height + 1):
        for s in range(1, width + 1):
            most = n - max(abs(r - height // 2 - 1), abs(s - width // 2 - 1))
            expected[r - 1, s - 1] = sum(1 / (n + 1 - k) ** 2 for k in range(most + 1))
    torch.testing.assert_close(mound(height, width), expected)


def test_mounds_by_hand() -> None:
    """A square of 3: 1/4 at its edge, 1/4 + 1 in its middle."""
    expected = torch.full((3, 3), 0.25)
    expected[1, 1] = 1.25
    torch.testing.assert_close(mound(3, 3), expected)
    found = double_mound(5, torch.device("cpu"))
    torch.testing.assert_close(found.square().sum((1, 2)), torch.ones(2))
    torch.testing.assert_close(found[1], found[0].T)
    assert (found[0, :, :2] > 0).all()
    assert (found[0, :, 2:] < 0).all()


def test_a_query_in_l2_moves_length_from_one_square_to_another() -> None:
    """Algorithm 3 far from the box: the budget stays in use, the emptied square is empty, and outside both nothing moves."""
    images = 0.5 * torch.ones(50, 2, 12, 12)
    search, budget = LengthSearch(images, 1.0), 1.0 - 1e-5
    start = search.first(draws(50))
    torch.testing.assert_close(distances(start, images, "l2").float(), torch.full((50,), budget))
    numbers = draws(50, "numbers").uniform(search.numbers)
    moved = search.following(torch.arange(50), start, 3, numbers)
    torch.testing.assert_close(distances(moved, images, "l2").float(), torch.full((50,), budget))
    changed = 0
    for k in range(50):
        to, empty = (torch.zeros(12, 12).bool() for _ in range(2))
        for window, (row, column) in ((to, numbers[k, :2]), (empty, numbers[k, 2:4])):
            window[int(row * 10) : int(row * 10) + 3, int(column * 10) : int(column * 10) + 3] = True
        delta, before = (moved - images)[k], (start - images)[k]
        torch.testing.assert_close(delta[:, ~(to | empty)], before[:, ~(to | empty)], rtol=1e-4, atol=1e-6)
        assert float(delta[:, empty & ~to].abs().sum()) == 0
        length = before[:, to | empty].square().sum(1)  # each channel keeps its own
        torch.testing.assert_close(delta[:, to].square().sum(1), length, rtol=1e-3, atol=1e-5)
        changed += int((delta - before)[:, to].abs().max() > 1e-3)
    assert changed > 40  # a mound onto the same mound changes nothing


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_start_uses_the_whole_budget_everywhere(norm: str) -> None:
    images = 0.5 * torch.ones(8, 3, 28, 28)
    start = (CornerSearch if norm == "linf" else LengthSearch)(images, 0.2).first(draws(8))
    torch.testing.assert_close(distances(start, images, norm).float(), torch.full((8,), 0.2))
    moved = (start != images).flatten(1).float().mean(1)
    assert (moved > (0.999 if norm == "linf" else 0.7)).all()  # l2: tiles of 25 x 25 pixels in the middle
    assert not torch.equal(start[0] - images[0], start[1] - images[1])


def test_what_changes_nothing_is_not_asked_about() -> None:
    """One pixel and one channel: a square has its colour already every second time."""
    attack, classifier = Square(queries=400, budget=0.01), BaseClassifier(Halfspace(torch.ones(16), bias=60.0))
    attack(classifier, 0.5 * torch.ones(10, 1, 4, 4), torch.ones(10).long(), draws(10))
    assert 10 * 400 * 0.3 < classifier.network.forward_passes < 10 * 400 * 0.7


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
def test_who_is_left_makes_no_difference_to_the_numbers_an_image_gets(norm: str) -> None:
    """Over several blocks of numbers, while others leave at any query."""
    model, images = curved(4).eval(), random_images(12)
    labels, classifier = model(images).argmax(1), BaseClassifier(model)
    attack = Square(norm=norm, queries=3 * BLOCK, budget=0.1 if norm == "linf" else 0.25)
    together = attack(classifier, images, labels, draws(12))
    assert 2 <= int((lead(model(together), labels) > 0).sum()) <= 10
    alone = torch.cat([attack(classifier, images[k : k + 1], labels[k : k + 1], draws(1, first=k)) for k in range(12)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)


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
