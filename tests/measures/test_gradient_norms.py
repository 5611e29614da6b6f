"""Gradient norms: a quadratic whose gradient is known at every iterate, and a recorder that changes nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from measured_models import labelled, material
from torch import nn

from robust_cli.attacks.auto_pgd import AutoPgd
from robust_cli.attacks.classifiers import BaseClassifier, NoisyGradients, SmoothedClassifier
from robust_cli.attacks.fast_gradient import FastGradient
from robust_cli.attacks.losses import LOSSES
from robust_cli.attacks.pgd import Pgd
from robust_cli.attacks.pgd_l1 import PgdL1
from robust_cli.attacks.random_noise import UniformNoise
from robust_cli.attacks.rfgsm import Rfgsm
from robust_cli.attacks.second_order import SecondOrder
from robust_cli.attacks.targeted import TargetedPgd
from robust_cli.measures.gradient_norms import GradientNorms, recording
from robust_cli.messages import Wrong
from robust_cli.smoothing.noise import ImageDraws

CURVATURE = 6.0


class Bowl(nn.Module):
    """Logits (-q, 0), q = CURVATURE |x - 0.5|^2 / 2: label 0's margin loss is q - 50, and it is beaten everywhere."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        q = CURVATURE * (images - 0.5).flatten(1).square().sum(1) / 2
        return torch.stack([-q, torch.zeros_like(q)], 1)


class Slope(nn.Module):
    """Logits (0, 3 x_1 + 4 x_2 + bias)."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        score = images.flatten(1) @ torch.tensor([3.0, 4.0, 0.0, 0.0]) + self.bias
        return torch.stack([torch.zeros_like(score), score], 1)


def wavy(lead: float = 0.0, classes: int = 5) -> nn.Module:
    """A smooth random network that answers 0 by ``lead``."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, classes))
    with torch.no_grad():
        model[1].weight.mul_(3)
        model[3].bias[0] += lead
    return model


def near_grey(n: int) -> torch.Tensor:
    return 0.5 + 0.1 * (torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(1)) - 0.5)


def of(found, attack, budget=None):
    rows = found[found["attack"] == attack]
    return rows if budget is None else rows[rows["budget"] == budget]


@pytest.mark.parametrize("batch_size", [3, 10])
def test_norms_of_a_quadratic_at_every_iterate(batch_size: int) -> None:
    """Steps along the gradient keep its direction: |x_k - 0.5| = |x_0 - 0.5| + min(k step, budget), though all are fooled."""
    images, steps = near_grey(10), 6
    attacks = {"pgd": [(b, Pgd(steps=steps, step_size=0.25, loss="margin", budget=b)) for b in (0.1, 0.2)]}
    found = GradientNorms()(material(BaseClassifier(Bowl()), labelled(images), attacks, batch_size=batch_size))
    start = (images - 0.5).double().flatten(1).norm(dim=1).numpy()
    for budget in (0.1, 0.2):
        rows = of(found, "pgd", budget)
        assert rows["iteration"].tolist() == list(range(steps))
        assert (rows["images"] == 10).all()
        assert (rows["loss"] == "margin").all()
        moved = np.minimum(np.arange(steps) * 0.25 * budget, budget)
        expected = CURVATURE * (start + moved[:, None])
        assert rows["mean_norm"].to_numpy() == pytest.approx(expected.mean(1), rel=1e-5)
        assert rows["error"].to_numpy() == pytest.approx(expected.std(1) / math.sqrt(10), rel=1e-4)
    clean = of(found, "none").iloc[0]  # cross entropy of (-q, 0) has the slope of q times the other class's probability
    half = CURVATURE * start**2 / 2
    assert clean["mean_norm"] == pytest.approx(float((CURVATURE * start / (1 + np.exp(-half))).mean()), rel=1e-5)
    assert (clean["budget"], clean["iteration"], clean["loss"], clean["zeros"]) == (0, 0, "cross_entropy", 0)


def test_the_first_iterate_of_an_attack_from_the_image_is_the_images_own() -> None:
    attacks = {"pgd": [(0.3, Pgd(budget=0.3, steps=2))], "random": [(0.3, Pgd(budget=0.3, steps=2, random_start=True))]}
    found = GradientNorms()(material(BaseClassifier(wavy()), labelled(near_grey(20), classes=5), attacks))
    first = {name: of(found, name)["mean_norm"].iloc[0] for name in ("none", "pgd", "random")}
    assert first["pgd"] == first["none"]
    assert first["random"] != pytest.approx(first["none"], rel=1e-3)


@pytest.mark.parametrize(("attack", "gradients"), [
    (Pgd(steps=3, restarts=2, budget=0.3), 6), (Pgd(norm="linf", steps=3, budget=0.1), 3), (AutoPgd(steps=4, budget=0.1), 5),
    (SecondOrder(steps=3, budget=0.3), 3), (SecondOrder(steps=3, power_iterations=2, budget=0.3), 9),
    (SecondOrder(form="averaged", steps=3, draws=2, budget=0.3), 3), (TargetedPgd(steps=3, targets=2, budget=0.1), 6),
    (FastGradient(budget=0.1), 1), (Rfgsm(budget=0.1), 1), (PgdL1(steps=3, restarts=2, budget=0.3), 6)],
    ids=lambda v: type(v).__name__)
def test_every_gradient_is_of_all_images_and_the_attack_does_what_it_did(attack, gradients) -> None:
    """Fooled images go on; of images that nothing fools, the recorded attack ends where the attack itself does, bit for bit."""
    images = near_grey(8)
    wrong = labelled(images, torch.arange(8) % 5, classes=5)  # most are fooled from the start
    found = of(GradientNorms()(material(BaseClassifier(wavy()), wrong, {"a": [(attack.budget, attack)]})), "a")
    assert found["iteration"].tolist() == list(range(gradients))
    assert (found["images"] == 8).all()
    held, labels = BaseClassifier(wavy(lead=25.0)), torch.zeros(8, dtype=torch.int64)
    ends = [attack(c, images, labels, ImageDraws("cpu", 0, "a", range(8))) for c in (held, recording(held)[0])]
    assert torch.equal(*ends)
    assert not torch.equal(ends[0], images)


def test_a_smoothed_classifier_is_attacked_as_it_is() -> None:
    for classifier in (SmoothedClassifier(wavy(), 0.2, draws=4), NoisyGradients(wavy(), 0.2, draws=4)):
        watched, network = recording(classifier)
        assert type(watched) is type(classifier)
        images, labels = near_grey(6), torch.arange(6) % 5
        ends = [Pgd(steps=3, budget=0.3)(c, images, labels, ImageDraws("cpu", 0, "a", range(6))) for c in (classifier, watched)]
        assert torch.equal(*ends)
        given = classifier.gradient(images, labels, LOSSES["margin"], ImageDraws("cpu", 0, "b", range(6))).gradient
        watched.gradient(images, labels, LOSSES["margin"], ImageDraws("cpu", 0, "b", range(6)))
        torch.testing.assert_close(network.calls[3], given.double().flatten(1).norm(dim=1))
    both = SmoothedClassifier(Slope(), 0.2, draws=4, objective="both")
    found = GradientNorms()(material(both, labelled(near_grey(6)), {"pgd": [(0.1, Pgd(steps=2, loss="margin", budget=0.1))]}))
    assert of(found, "pgd")["mean_norm"].to_numpy() == pytest.approx([5, 5])  # of a plane, whatever the noise


def test_draws_are_those_of_the_evaluation() -> None:
    attack, images = Pgd(steps=1, random_start=True, budget=0.3), near_grey(5)
    given = material(BaseClassifier(wavy()), labelled(images, first=7, classes=5), {"p": [(0.3, attack)]}, seed=3)
    found = GradientNorms()(given)
    classifier, network = recording(BaseClassifier(wavy()))
    attack(classifier, images, torch.zeros(5, dtype=torch.int64), ImageDraws("cpu", 3, "attack/p/0.3", range(7, 12)))
    assert of(found, "p")["mean_norm"].iloc[0] == pytest.approx(float(network.calls[0].mean()), rel=1e-12)


def test_zeros_are_counted() -> None:
    class Half(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            score = images.flatten(1)[:, 0].sub(0.5).relu()
            return torch.stack([torch.zeros_like(score), score], 1)

    images = torch.full((8, 1, 2, 2), 0.25)
    images[:2] = 0.75
    found = GradientNorms()(material(BaseClassifier(Half()), labelled(images), {"f": [(0.1, FastGradient(budget=0.1))]}))
    assert found["zeros"].tolist() == [0.75, 0.75]


def test_only_attacks_that_climb_a_loss_have_rows_and_the_first_images_are_taken() -> None:
    @dataclass(frozen=True)
    class Near:
        norm: str = "l2"
        loss: str = "margin"
        closest: ClassVar[bool] = True

        def __call__(self, *anything: object) -> torch.Tensor:
            raise AssertionError("not run")

    @dataclass(frozen=True)
    class Blind(UniformNoise):
        def __call__(self, *anything: object) -> torch.Tensor:
            raise AssertionError("not run")

    attacks = {"near": [(math.inf, Near())], "noise": [(0.1, Blind(budget=0.1))], "f": [(0.1, FastGradient(budget=0.1))]}
    found = GradientNorms(images=3)(material(BaseClassifier(Slope()), labelled(near_grey(9)), attacks))
    assert found["attack"].tolist() == ["none", "f"]
    assert found["images"].tolist() == [3, 3]


def test_wrong_settings_are_named() -> None:
    with pytest.raises(Wrong, match="images"):
        GradientNorms(images=0)
