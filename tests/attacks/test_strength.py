"""Every budget attack on a small trained network: stronger than noise of the same size, and in the order that theory says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from toy_victims import Identity, Relentless, draws

from robust_cli.attacks.auto_pgd import AutoPgd, checkpoints
from robust_cli.attacks.classifiers import BaseClassifier
from robust_cli.attacks.fast_gradient import FastGradient
from robust_cli.attacks.losses import LOSSES
from robust_cli.attacks.pgd import Pgd
from robust_cli.attacks.pgd_l1 import PgdL1
from robust_cli.attacks.random_noise import GaussianNoise, UniformNoise
from robust_cli.attacks.rfgsm import Rfgsm
from robust_cli.attacks.square import Square
from robust_cli.attacks.targeted import TargetedPgd, ordered_targets
from robust_cli.datasets.digits import Digits

BUDGETS = {"l1": 8.0, "l2": 2.0, "linf": 0.06}
N = 100
Trained = tuple[nn.Module, torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def trained() -> Trained:
    """A network with one hidden layer on the digits, and test images that it has right."""
    images, test = Digits().split("train"), Digits().split("test")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer, pixels = torch.optim.Adam(model.parameters(), 3e-3), images.float()
    for step in range(200):
        rows = torch.randint(len(pixels), (128,), generator=torch.Generator().manual_seed(step))
        loss = nn.functional.cross_entropy(model(pixels[rows]), images.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = (model(test.float()).argmax(1) == test.labels).nonzero().flatten()[:N]
    return model.eval(), test.float()[right], test.labels[right]


def standing(attack: Any, trained: Trained) -> float:
    """Share of the images still right after the attack."""
    model, images, labels = trained
    found = replace(attack, budget=BUDGETS[attack.norm])(BaseClassifier(model), images, labels, draws(len(images)))
    return float((model(found).argmax(1) == labels).float().mean())


def noise_standing(norm: str, trained: Trained) -> float:
    """The same after the worst of 10 noises that use up the budget."""
    if norm != "l1":
        return standing((UniformNoise if norm == "linf" else GaussianNoise)(samples=10), trained)
    model, images, labels = trained
    right, generator = torch.ones(len(images)).bool(), torch.Generator().manual_seed(0)
    for _ in range(10):
        step = torch.randn(images.shape, generator=generator)
        step = step * BUDGETS["l1"] / step.abs().sum((1, 2, 3), keepdim=True)
        right &= model((images + step).clamp(0, 1)).argmax(1) == labels
    return float(right.float().mean())


STRONG: list[Any] = [FastGradient(), Rfgsm(), FastGradient(norm="l2"), PgdL1(), Pgd(norm="l2"),
                     Pgd(norm="l2", loss="margin", steps=20), Pgd(norm="linf"),
                     AutoPgd(norm="linf"), AutoPgd(norm="l2"), AutoPgd(norm="linf", loss="difference_of_logits_ratio"),
                     AutoPgd(norm="l2", loss="difference_of_logits_ratio"),
                     TargetedPgd(norm="linf", targets=9, choice="likeliest"),
                     TargetedPgd(norm="l2", targets=9, choice="likeliest", loss="difference_of_logits_ratio", automatic=True),
                     Square(norm="linf", queries=500), Square(norm="l2", queries=500)]


def beats_noise(attack: Any, trained: Trained) -> None:
    assert standing(attack, trained) <= noise_standing(attack.norm, trained) - 0.15


@pytest.mark.parametrize("attack", STRONG, ids=repr)
def test_stronger_than_noise_of_the_same_size(attack: Any, trained: Trained) -> None:
    beats_noise(attack, trained)


@pytest.mark.parametrize("norm", list(BUDGETS))
def test_an_attack_that_returns_its_input_fails(norm: str, trained: Trained) -> None:
    with pytest.raises(AssertionError):
        beats_noise(Identity(norm), trained)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_auto_steps_are_not_weaker_than_fixed_ones_and_both_leave_single_steps_behind(norm: str, trained: Trained) -> None:
    model, images, labels = trained
    one = standing(FastGradient(norm="l2") if norm == "l2" else FastGradient(), trained)
    fixed, auto = standing(Pgd(norm=norm, steps=40), trained), standing(AutoPgd(norm=norm, steps=40), trained)
    assert auto <= fixed <= one
    budget, loss = BUDGETS[norm], LOSSES["cross_entropy"]
    rises = []
    for attack in (Pgd(norm=norm, steps=40, budget=budget), AutoPgd(norm=norm, steps=40, budget=budget)):
        found = attack(BaseClassifier(model), images, labels, draws(len(images)))
        rises.append(float(loss(model(found), labels).detach().log().mean()))
    assert rises[1] > rises[0] - 0.01


def test_more_samples_of_noise_are_stronger(trained: Trained) -> None:
    model, images, labels = trained
    for attack in (UniformNoise(budget=0.3), GaussianNoise(budget=4.0)):
        leads = [LOSSES["margin"](model(replace(attack, samples=k)(BaseClassifier(model), images, labels, draws(N))),
                                       labels).detach() for k in (1, 10)]
        assert (leads[1] >= leads[0]).all()  # the first sample is the same
        assert float((leads[1] - leads[0]).mean()) > 0.1


def test_targets_are_wrong_classes_in_the_order_asked_for(trained: Trained) -> None:
    model, images, labels = trained
    logits = model(images).detach()
    for choice in ("likeliest", "least_likely", "random"):
        found = ordered_targets(BaseClassifier(model), images, labels, choice, draws(N))
        assert found.shape == (N, 9)
        assert (found != labels[:, None]).all()
        assert torch.equal(torch.cat([found, labels[:, None]], 1).sort(1).values, torch.arange(10).expand(N, 10))
        drops = logits.gather(1, found).diff(dim=1)
        if choice == "random":
            several = ordered_targets(BaseClassifier(model), images[:1].expand(2000, -1, -1, -1), labels[:1].expand(2000), choice,
                                      draws(2000))[:, 0].bincount(minlength=10)
            assert int(several[labels[0]]) == 0
            assert float((several[several > 0] - 2000 / 9).abs().max()) < 5 * (2000 * 8 / 81) ** 0.5
        else:
            assert ((drops <= 0) if choice == "likeliest" else (drops >= 0)).all()


def test_a_targeted_attack_gets_its_target(trained: Trained) -> None:
    model, images, labels = trained
    targets = ordered_targets(BaseClassifier(model), images, labels, "random", draws(N))[:, 0]
    for automatic in (False, True):
        found = TargetedPgd(norm="l2", automatic=automatic, budget=6.0)(Relentless(model), images, labels, draws(N))
        assert float((model(found).argmax(1) == targets).float().mean()) > 0.95


def test_checkpoints_by_hand() -> None:
    """Shares 0.22, 0.41 (0.22 - 0.03 more), 0.57, 0.70, 0.80, 0.87, 0.93, 0.99 of 100 steps."""
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == [1]
