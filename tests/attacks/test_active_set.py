"""Images that are fooled leave an attack: the others go on as if nothing had happened, and the cost falls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from toy_victims import Relentless, curved, draws, random_images

from robust_cli.attacks.auto_pgd import AutoPgd
from robust_cli.attacks.classifiers import BaseClassifier, SmoothedClassifier
from robust_cli.attacks.losses import fooled
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
