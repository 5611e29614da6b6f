"""Images that are fooled leave an attack: the others go on as if nothing had happened, and the cost falls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from toy_victims import Halfspace, Raw, Relentless, curved, draws, random_images

from robust_cli.attacks import auto_pgd
from robust_cli.attacks.auto_pgd import AutoPgd
from robust_cli.attacks.classifiers import BaseClassifier, NoisyGradients, Slope, SmoothedClassifier
from robust_cli.attacks.losses import cross_entropy, fooled
from robust_cli.attacks.pgd import Pgd, worst_end
from robust_cli.attacks.pgd_l1 import PgdL1
from robust_cli.attacks.targeted import TargetedPgd

N, CLASSES, RATIO = 40, 5, "difference_of_logits_ratio"
ATTACKS: list[Any] = [
    AutoPgd(norm="linf", steps=20, random_start=True, restarts=3, budget=0.06),
    AutoPgd(norm="l2", steps=20, restarts=2, loss=RATIO, budget=0.2),
    TargetedPgd(norm="l2", choice="likeliest", targets=4, steps=10, budget=0.2),
    TargetedPgd(norm="linf", targets=3, automatic=True, steps=10, random_start=True, loss=RATIO, budget=0.06),
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_others_go_on_as_in_the_plain_loop(attack: Any) -> None:
    """In the plain loop nobody leaves, and every restart and target is tried on every image."""
    model, images = curved(3, CLASSES).eval(), random_images(N)
    labels = model(images).argmax(1)
    labels[:4] = (labels[:4] + 1) % CLASSES  # these are fooled where they stand
    active, plain = BaseClassifier(model), Relentless(model)
    found, expected = (attack(classifier, images, labels, draws(N)) for classifier in (active, plain))
    won, before = (fooled(model(end).detach(), labels) for end in (found, expected))
    assert (won | ~before).all()
    assert 8 <= int(won.sum()) <= N - 8
    torch.testing.assert_close(found[~won], expected[~won], rtol=0, atol=1e-5)
    assert active.network.backward_passes < 0.8 * plain.network.backward_passes
    if not attack.random_start:
        torch.testing.assert_close(found[:4], images[:4], rtol=0, atol=0)


@pytest.mark.parametrize("attack", ATTACKS)
def test_costs_stop_where_the_last_image_is_fooled(attack: Any) -> None:
    model, images = curved(3, CLASSES).eval(), random_images(N)
    labels = (model(images).argmax(1) + 1) % CLASSES
    classifier = BaseClassifier(model)
    replace(attack, budget=1e-6)(classifier, images, labels, draws(N))
    assert classifier.network.backward_passes == N  # all are wrong already: one gradient shows it


@pytest.mark.parametrize("attack", ATTACKS)
def test_nobody_leaves_under_noise(attack: Any) -> None:
    model, images = curved(3, CLASSES).eval(), random_images(8)
    labels = (model(images).argmax(1) + 1) % CLASSES
    classifier = SmoothedClassifier(model, 0.05, draws=2)
    attack(classifier, images, labels, draws(8))
    runs = attack.targets if isinstance(attack, TargetedPgd) else attack.restarts
    gradients = attack.steps + (1 if isinstance(attack, AutoPgd) or attack.automatic else 0)
    assert classifier.network.backward_passes == 8 * 2 * runs * gradients


LOSS_ALONE, FOOLS = [0.0, -0.05, -0.05, -0.05], [0.0, 0.1, -9.0, -9.0]  # label 0: cross entropy 1.35 and 0.74


@pytest.mark.parametrize("ends", [(FOOLS, LOSS_ALONE), (LOSS_ALONE, FOOLS)])
def test_where_gradients_alone_are_noisy_an_end_that_fools_is_kept(ends: Any) -> None:
    """Another end may have the larger loss and yet be classified right; and who is fooled is not tried again."""
    seen: list[int] = []

    def run(restart: int, rows: torch.Tensor, mine: Any) -> torch.Tensor:
        seen.append(len(rows))
        return torch.tensor(ends[restart]).view(1, 1, 1, 4).repeat(len(rows), 1, 1, 1)

    images, labels = torch.zeros(2, 1, 1, 4), torch.zeros(2).long()
    found = worst_end(run, 2, NoisyGradients(Raw(), 0.1), images, labels, cross_entropy, draws(2))
    torch.testing.assert_close(found.flatten(1), torch.tensor([FOOLS] * 2))
    assert seen == ([2] if ends[0] is FOOLS else [2, 2])


def test_auto_pgd_through_noisy_gradients_keeps_whichever_point_fools(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [torch.tensor(point).view(1, 1, 1, 4) for point in (LOSS_ALONE, FOOLS)]
    monkeypatch.setattr(auto_pgd, "_run", lambda *args, **settings: points)
    images, labels = torch.zeros(1, 1, 1, 4), torch.zeros(1).long()
    monkeypatch.setattr(auto_pgd, "settle", lambda point, *args: point)
    found = AutoPgd(budget=9.0)(NoisyGradients(Raw(), 0.1), images, labels, draws(1))
    torch.testing.assert_close(found, points[1])


def test_the_best_end_of_all_restarts_is_kept_and_not_the_last_that_beat_the_first() -> None:
    """Two images that stand throughout: leads of -3, -1, -2 and of -1, -3, -2."""
    leads = torch.tensor([[-3.0, -1.0], [-1.0, -3.0], [-2.0, -2.0]])

    def run(restart: int, rows: torch.Tensor, mine: Any) -> torch.Tensor:
        own = leads[restart, rows]
        return torch.stack([torch.zeros_like(own), own], 1).view(-1, 1, 1, 2)

    images, labels = torch.zeros(2, 1, 1, 2), torch.zeros(2).long()
    found = worst_end(run, 3, BaseClassifier(Raw()), images, labels, cross_entropy, draws(2))
    assert found[:, 0, 0, 1].tolist() == [-1.0, -1.0]


@pytest.mark.parametrize("attack", [Pgd("linf", steps=1, restarts=2), AutoPgd("linf", steps=1, restarts=2),
                                    PgdL1(steps=1, restarts=2)])
def test_a_second_restart_begins_elsewhere_than_the_first(attack: Any) -> None:
    asked: list[torch.Tensor] = []

    class Remembers(BaseClassifier):
        def gradient(self, images: torch.Tensor, *rest: Any) -> Any:
            asked.append(images.clone())
            return super().gradient(images, *rest)

    images = random_images(3)
    model = Halfspace(torch.ones(16), bias=100.0)
    replace(attack, budget=0.1)(Remembers(model), images, torch.ones(3).long(), draws(3))
    gradients = len(asked) // 2
    assert torch.equal(asked[0], images)
    assert (asked[gradients] != images).flatten(1).any(1).all()


def test_auto_pgd_prefers_a_point_where_the_label_has_lost_to_one_of_larger_loss() -> None:
    """Four points in turn: standing, lost, standing with a larger loss, lost with a larger one than before."""
    def slope(loss: float, lead: float) -> Slope:
        return Slope(torch.zeros(1, 1, 1, 1), torch.tensor([loss]), torch.tensor([lead]), torch.tensor([False]))

    at = [torch.full((1, 1, 1, 1), float(k)) for k in range(4)]
    climb, best = auto_pgd._Climb.begin(at[0], slope(1.35, -0.1), 1.0), []
    for point, found in zip(at[1:], (slope(0.74, 0.1), slope(2.0, -0.1), slope(0.8, 0.2)), strict=True):
        climb.point = point
        climb.see(found)
        best.append(float(climb.best))
    assert best == [1.0, 1.0, 3.0]
    assert (float(climb.best_loss), float(climb.top)) == pytest.approx((0.8, 2.0))


def test_auto_pgd_goes_back_to_its_best_point_where_it_is_stuck() -> None:
    """Of two images one has risen often enough; the other halves its steps."""
    slope = Slope(torch.zeros(2, 1, 1, 1), torch.tensor([1.0, 1.0]), torch.tensor([-1.0, -1.0]), torch.zeros(2).bool())
    start, away = torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1)
    climb = auto_pgd._Climb.begin(start, slope, 0.4)
    climb.point, climb.before = away.clone(), away.clone()
    climb.see(slope._replace(loss=torch.tensor([2.0, 0.5]), gradient=away))
    climb.check(0.75)
    for name, expected in (("point", [1.0, 0.0]), ("before", [1.0, 0.0]), ("gradient", [1.0, 0.0]), ("loss", [2.0, 1.0]),
                           ("length", [0.4, 0.2]), ("rises", [0.0, 0.0])):
        assert getattr(climb, name).flatten().tolist() == pytest.approx(expected), name


@pytest.mark.parametrize(("norm", "budget"), [("linf", 0.5), ("l2", 2.0)])
def test_auto_pgd_returns_the_best_of_all_its_points(norm: str, budget: float) -> None:
    asked: list[torch.Tensor] = []

    class Remembers(Relentless):
        def gradient(self, *args: Any) -> Slope:
            slope = super().gradient(*args)
            asked.append(torch.where(slope.lead > 0, 1e3, 0) + slope.loss)  # lost before any that is not
            return slope

    model, images = curved(3, CLASSES).eval(), random_images(N)
    labels = model(images).argmax(1)
    found = AutoPgd(norm=norm, steps=4, budget=budget)(Remembers(model), images, labels, draws(N))
    logits = model(found).detach()
    end = torch.where(fooled(logits, labels), 1e3, 0) + cross_entropy(logits, labels)
    losses = torch.stack(asked)
    torch.testing.assert_close(end, losses.amax(0), rtol=1e-3, atol=1e-4)
    assert (losses[-1] < losses.amax(0) - 1e-3).any()


def test_a_checkpoint_halves_by_either_condition() -> None:
    """Four images: enough rises and a new best; too few rises; a best loss that stood still; the same just after a halving."""
    images = torch.rand(4, 1, 4, 4)
    slope = Slope(torch.ones_like(images), torch.zeros(4), torch.full((4,), -1.0), torch.zeros(4, dtype=torch.bool))
    climb = auto_pgd._Climb.begin(images, slope, length=2.0)
    climb.point, climb.best_loss = images + 0.1, torch.full((4,), 3.0)
    climb.rises = torch.tensor([8.0, 7.0, 8.0, 8.0])
    climb.top_then, climb.top = torch.tensor([1.0, 1.0, 3.0, 3.0]), torch.full((4,), 3.0)
    climb.halved = torch.tensor([False, False, False, True])
    climb.check(enough=7.5)
    assert climb.length.tolist() == [2.0, 1.0, 1.0, 2.0]
    assert climb.halved.tolist() == [False, True, True, False]
    assert torch.equal(climb.point[1:3], images[1:3])  # back at the best point
    assert torch.equal(climb.point[[0, 3]], images[[0, 3]] + 0.1)
    assert climb.loss.tolist() == [0.0, 3.0, 3.0, 0.0]
    assert (climb.rises == 0).all()
    assert torch.equal(climb.top_then, climb.top)
