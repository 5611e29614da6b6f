"""Adversarial training against closed forms on linear models, its limits, and its mixture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from toy_victims import Affine, Halfspace, Identity, Polynomial, curved, grey, symmetric, uneven_weights
from watching import PROGRESS, batch, one_class, shown

from robust_cli.attacks.auto_pgd import AutoPgd
from robust_cli.attacks.deepfool import DeepFool
from robust_cli.attacks.fast_gradient import FastGradient
from robust_cli.attacks.geometry import distances
from robust_cli.attacks.lrc import LongRangeCorrelated
from robust_cli.attacks.pgd import Pgd
from robust_cli.attacks.pgd_l1 import PgdL1
from robust_cli.attacks.random_noise import UniformNoise
from robust_cli.attacks.rfgsm import Rfgsm
from robust_cli.attacks.second_order import SecondOrder
from robust_cli.attacks.square import Square
from robust_cli.messages import Wrong
from robust_cli.regimes.adversarial import Adversarial
from robust_cli.regimes.batch import Batch
from robust_cli.regimes.standard import Standard

PGD = Pgd(norm="linf", steps=10, random_start=True)
BUDGET = 0.05


def slopes(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Each image's own gradient of its cross entropy, float64, without any attack of ours."""
    points = images.double().requires_grad_()
    logits = points.flatten(1) @ model.weight.detach().double().T + model.bias.double()
    return torch.autograd.grad(cross_entropy(logits, labels, reduction="sum"), points)[0]


def by_hand(model: Affine, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = images.double().flatten(1) @ model.weight.detach().double().T + model.bias.double()
    return -logits.log_softmax(1)[torch.arange(len(labels)), labels].mean()


def test_fgsm_on_a_linear_softmax_by_hand() -> None:
    """grad_x CE = W'(p - e_y), so the loss is the cross entropy at x + budget sgn(W'(p - e_y)); that at x is another."""
    model, images = Affine(), batch(classes=5)
    p = (images.images.double().flatten(1) @ model.weight.detach().double().T + model.bias.double()).softmax(1)
    direction = ((p - nn.functional.one_hot(images.labels, 5)) @ model.weight.detach().double()).sign().view_as(images.images)
    found = Adversarial(FastGradient(), BUDGET).loss(model, images, PROGRESS)
    expected = by_hand(model, images.images + BUDGET * direction, images.labels)
    torch.testing.assert_close(found.total.double(), expected, rtol=1e-5, atol=0)
    assert set(found.terms) == {"cross_entropy_adversarial"}
    assert expected > by_hand(model, images.images, images.labels) + 0.1


@pytest.mark.parametrize("label", [0, 1])
def test_pgd_reaches_the_corner_that_is_worst(label: int) -> None:
    weight = uneven_weights()
    found = shown(Adversarial(PGD, BUDGET), Halfspace(weight), one_class(label=label))
    towards = (1 - 2 * label) * weight.sign().view(1, 4, 4)
    expected = one_class().images + BUDGET * towards
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_the_l2_attack_takes_the_exact_direction() -> None:
    weight = uneven_weights()
    found = shown(Adversarial(Pgd(norm="l2", steps=10), 0.2), Halfspace(weight), one_class())
    expected = one_class().images + 0.2 * (weight / weight.norm()).view(1, 4, 4)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("attack", "norm", "dual"), [(FastGradient(), "linf", 1), (PGD, "linf", 1), (Pgd(norm="l2"), "l2", 2),
                                                      (SecondOrder(), "l2", 2)])
def test_the_loss_rises_as_the_first_order_says(attack: Any, norm: str, dual: int) -> None:
    """By budget times the mean dual norm of the gradients, up to its square; an attack that does nothing raises it by 0."""
    model, images, budget = Affine(), batch(classes=5), 1e-3
    clean = float(by_hand(model, images.images, images.labels))
    expected = budget * float(slopes(model, images.images, images.labels).flatten(1).norm(p=dual, dim=1).mean())
    rise = float(Adversarial(attack, budget).loss(model, images, PROGRESS).total.detach()) - clean
    assert rise == pytest.approx(expected, rel=0.02)
    nothing = float(Adversarial(Identity(norm), budget).loss(model, images, PROGRESS).total.detach()) - clean
    assert abs(nothing) < 0.01 * expected


@pytest.mark.parametrize("attack", [
    FastGradient(), FastGradient(norm="l2"), Rfgsm(), PGD, Pgd(norm="l2"), AutoPgd(norm="linf", steps=5), PgdL1(steps=5),
    SecondOrder(steps=5), SecondOrder(norm="linf", form="averaged", steps=5), UniformNoise(), Square(queries=20)],
    ids=lambda attack: type(attack).__name__)
def test_any_attack_stays_within_the_budget_and_the_box(attack: Any) -> None:
    images, budget = Batch(torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 5,
                           torch.arange(6)), 0.3
    found = shown(Adversarial(attack, budget), Affine(), images)
    away = distances(found, images.images, attack.norm)
    assert away.max() <= budget
    assert away.max() > 0.05
    assert found.min() >= 0
    assert found.max() <= 1


def test_all_steps_are_taken_on_images_that_are_fooled_already() -> None:
    """A wrong label: the image is fooled at once, and still ends in the corner."""
    weight = uneven_weights()
    model, images = Halfspace(weight, bias=30.0), one_class()
    assert bool((model(images.images).argmax(1) == 1).all())
    found = shown(Adversarial(Pgd(norm="linf"), BUDGET), model, images)
    torch.testing.assert_close((found - images.images).abs(), torch.full_like(found, BUDGET), rtol=0, atol=1e-7)


def test_the_second_order_attack_moves_where_the_gradient_is_zero() -> None:
    """q = 2 (v.d)^2 at its bottom: FGSM's loss is log 2 still, and the second-order attack's that at distance 1, q = 2."""
    hessian, _ = symmetric([4.0])
    model, images = Polynomial(hessian), Batch(grey(4), torch.zeros(4, dtype=torch.int64), torch.arange(4))
    still = Adversarial(FastGradient(norm="l2"), 1.0).loss(model, images, PROGRESS).total
    moved = Adversarial(SecondOrder(steps=20), 1.0).loss(model, images, PROGRESS).total
    bottom, top = torch.tensor([0.0, 2.0]).exp().log1p()
    torch.testing.assert_close(still, bottom)
    assert (bottom + top) / 2 < moved <= top


def test_without_budget_it_is_standard_training() -> None:
    model, images = Affine(), batch(classes=5)
    expected = Standard().loss(model, images, PROGRESS).total
    assert Adversarial(PGD, 0.0).loss(model, images, PROGRESS).total == expected
    torch.testing.assert_close(Adversarial(PGD, 0.0, clean_weight=0.3).loss(model, images, PROGRESS).total, expected)
    torch.testing.assert_close(shown(Adversarial(PGD, 0.0), model, images), images.images, rtol=0, atol=0)


@pytest.mark.parametrize("clean_weight", [0.25, 0.5])
def test_the_mixture_weighs_both_parts(clean_weight: float) -> None:
    model, images = Affine(), batch(classes=5)
    found = Adversarial(FastGradient(), BUDGET, clean_weight=clean_weight).loss(model, images, PROGRESS)
    clean = by_hand(model, images.images, images.labels)
    attacked = by_hand(model, images.images + BUDGET * slopes(model, images.images, images.labels).sign(), images.labels)
    torch.testing.assert_close(found.terms["cross_entropy"].double(), clean, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.terms["cross_entropy_adversarial"].double(), attacked, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.total.double(), clean_weight * clean + (1 - clean_weight) * attacked, rtol=1e-5, atol=0)


def test_the_budget_grows_and_is_whole_on_validation_images() -> None:
    """Step 1 of 10 with a warm-up over half: two fifths of the budget, which the attack fills exactly."""
    regime, model, images = Adversarial(PGD, BUDGET, budget_warmup=0.5), Halfspace(uneven_weights()), one_class()
    for progress, share in ((replace(PROGRESS, step=1), 0.4), (replace(PROGRESS, step=4), 1.0), (replace(PROGRESS, step=9), 1.0),
                            (replace(PROGRESS, step=1, validating=True), 1.0)):
        away = (shown(regime, model, images, progress) - images.images).abs()
        torch.testing.assert_close(away, torch.full_like(away, share * BUDGET), rtol=0, atol=1e-7)


@pytest.mark.parametrize(("settings", "name"), [
    ({"attack": DeepFool()}, "attack"), ({"attack": None}, "attack"), ({"attack": LongRangeCorrelated()}, "attack"),
    ({"attack": DeepFool(), "budget": None}, "attack"), ({"attack": Square(), "noise_std": 0.5}, "attack"),
    ({"attack": Pgd(budget=0.1)}, "attack.budget"), ({"budget": -0.1}, "budget"), ({"budget": None}, "budget"),
    ({"clean_weight": 1.0}, "clean_weight"), ({"clean_weight": -0.1}, "clean_weight"), ({"budget_warmup": 1.5}, "budget_warmup"),
    ({"noise_std": 0.0}, "noise_std"), ({"noise_std": -1.0}, "noise_std"), ({"draws": 2}, "draws"),
    ({"draws": 0, "noise_std": 0.5}, "draws"), ({"objective": "both"}, "objective")])
def test_settings_out_of_range_are_named(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(Wrong) as caught:
        Adversarial(**{"attack": PGD, **settings})
    assert caught.value.name == name
    assert "\n" not in str(caught.value)


def test_a_closest_attack_is_refused_in_one_line() -> None:
    with pytest.raises(Wrong, match=r"attack: expected one within a budget .*, got 'DeepFool'"):
        Adversarial(DeepFool(), None)  # type: ignore[arg-type]


def test_images_do_not_share_their_attack() -> None:
    """An image's adversarial one is the same whatever stands beside it: batch normalisation is in evaluation mode."""
    images, regime = batch(), Adversarial(Pgd(norm="linf", steps=4), BUDGET, clean_weight=0.5)
    alone = Batch(images.images[:1], images.labels[:1], images.indices[:1])
    torch.testing.assert_close(shown(regime, curved(), images)[6], shown(regime, curved(), alone)[1], rtol=0, atol=1e-6)
