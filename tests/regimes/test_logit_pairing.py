"""Logit pairing: both kinds of pairs against closed forms on logits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from toy_victims import Affine, Halfspace, uneven_weights
from watching import PROGRESS, Rows, batch, learnt, one_class, rows, shown, watched

from robust_cli.attacks.deepfool import DeepFool
from robust_cli.attacks.fast_gradient import FastGradient
from robust_cli.attacks.pgd import Pgd
from robust_cli.messages import Wrong
from robust_cli.regimes.adversarial import Adversarial
from robust_cli.regimes.logit_pairing import LogitPairing, random_pairs
from robust_cli.regimes.standard import Standard

PGD = Pgd(norm="linf", steps=3, random_start=True)
CLEAN = LogitPairing(pairs="clean", clean_weight=1.0)


def test_adversarial_pairs_cost_the_mean_square_over_images_and_classes() -> None:
    (clean, other), labels = rows(), batch().labels
    regime = LogitPairing(PGD, 0.0, weight=0.7, clean_weight=0.3)
    found = regime.loss(Rows(clean.float(), other.float()), batch(), PROGRESS)
    apart = sum(float((a - b) ** 2) for a, b in zip(clean.flatten(), other.flatten(), strict=True)) / (6 * 3)
    expected = 0.3 * cross_entropy(clean, labels) + 0.7 * cross_entropy(other, labels) + 0.7 * apart
    torch.testing.assert_close(found.total.double(), expected, rtol=1e-5, atol=0)
    assert found.terms["logit_pairing"].item() == pytest.approx(apart, rel=1e-5)
    assert set(found.terms) == {"cross_entropy", "cross_entropy_adversarial", "logit_pairing"}


def test_on_a_linear_model_by_hand() -> None:
    """FGSM moves a half-space's one logit by budget ||w||_1: half its square, for the other of the two classes stays 0."""
    weight, budget = uneven_weights(), 0.05
    found = LogitPairing(FastGradient(), budget).loss(Halfspace(weight), one_class(), PROGRESS)
    expected = (budget * float(weight.abs().sum())) ** 2 / 2
    assert found.terms["logit_pairing"].item() == pytest.approx(expected, rel=1e-4)
    assert expected > 0.1


def test_the_gradient_flows_through_both_logits() -> None:
    """On a linear model mean (W(x - x'))^2 has the gradient 2 W(x - x')(x - x')' / (n K): the same as in the formula."""
    model, images = Affine(), batch(classes=5)
    with_pairs, without = (learnt(LogitPairing(PGD, 0.1, weight=weight), model, images)[1][0] for weight in (1.0, 0.0))
    seen = shown(LogitPairing(PGD, 0.1), model, images).flatten(1)
    apart = seen[:6] - seen[6:]
    expected = 2 * (apart @ model.weight.detach().T).T @ apart / (6 * 5)
    torch.testing.assert_close(with_pairs - without, expected, rtol=1e-3, atol=1e-5)


def test_without_weight_it_is_the_mixture_of_adversarial_training() -> None:
    model, images = Affine(), batch(classes=5)
    found = LogitPairing(PGD, 0.1, weight=0.0, clean_weight=0.4).loss(model, images, PROGRESS).total
    torch.testing.assert_close(found, Adversarial(PGD, 0.1, clean_weight=0.4).loss(model, images, PROGRESS).total)


def test_without_budget_adversarial_pairs_cost_nothing() -> None:
    model, images = Affine(), batch(classes=5)
    found = LogitPairing(PGD, 0.0, weight=5.0).loss(model, images, PROGRESS)
    assert found.terms["logit_pairing"] == 0
    torch.testing.assert_close(found.total, Standard().loss(model, images, PROGRESS).total)


def test_only_the_clean_images_are_classified_with_a_clean_weight_of_one() -> None:
    clean, other = (logits.float() for logits in rows())
    found = LogitPairing(PGD, 0.0, weight=2.0, clean_weight=1.0).loss(Rows(clean, other), batch(), PROGRESS)
    torch.testing.assert_close(found.total, cross_entropy(clean, batch().labels) + 2 * (clean - other).square().mean())


def test_clean_pairs_of_two_images_are_each_other() -> None:
    clean = rows(2)[0].float()
    found = replace(CLEAN, weight=0.3).loss(Rows(clean), batch(2), PROGRESS)
    apart = (clean[0] - clean[1]).square().mean()
    torch.testing.assert_close(found.terms["logit_pairing"], apart)
    torch.testing.assert_close(found.total, cross_entropy(clean, batch(2).labels) + 0.3 * apart)
    assert set(found.terms) == {"cross_entropy", "logit_pairing"}


def test_clean_pairs_are_random_and_each_image_is_in_two() -> None:
    """Never with itself; other pairs at other steps; and every other image equally often: expected 2 of 5 tries each."""
    images, times = torch.arange(6.0)[:, None], torch.zeros(6, 6)
    for step in range(300):
        one, other = (side.flatten().long() for side in random_pairs(images, replace(PROGRESS, step=step)))
        assert sorted(one.tolist()) == sorted(other.tolist()) == list(range(6))
        times[one, other] += 1
    assert times.diagonal().sum() == 0
    away = times[~torch.eye(6, dtype=torch.bool)]
    assert (away - 60).abs().max() < 5 * (300 * 0.2 * 0.8) ** 0.5
    again = [random_pairs(images, PROGRESS)[0] for _ in range(2)]
    assert torch.equal(*again)


def test_the_mean_over_random_pairs_is_twice_the_variance() -> None:
    """E (f_i - f_j)^2 over pairs of different images is twice the unbiased variance of each logit."""
    logits = rows(8, 3)[0].float()
    found = torch.stack([CLEAN.loss(Rows(logits), batch(8), replace(PROGRESS, step=step)).terms["logit_pairing"]
                         for step in range(400)]).double()
    assert abs(found.mean() - 2 * logits.double().var(0).mean()) < 5 * found.std() / 20
    assert found.std() > 0


def test_a_single_image_has_no_pair() -> None:
    assert CLEAN.loss(Affine(), one_class(1), PROGRESS).terms["logit_pairing"] == 0


def test_clean_pairs_alone_attack_nothing() -> None:
    with watched(model := Affine()) as calls:
        CLEAN.loss(model, batch(), PROGRESS)
    assert len(calls) == 1
    assert torch.equal(calls[0].images, batch().images)
    noise = shown(replace(CLEAN, noise_std=0.3), Affine(), batch(200)) - batch(200).images
    assert float(noise.std()) == pytest.approx(0.3, rel=0.05)


def test_clean_pairs_compose_with_adversarial_training() -> None:
    model, images = Affine(), batch(classes=5)
    found = LogitPairing(PGD, 0.1, pairs="clean", clean_weight=0.5, weight=2.0).loss(model, images, PROGRESS)
    mixture = Adversarial(PGD, 0.1, clean_weight=0.5).loss(model, images, PROGRESS).total
    one, other = random_pairs(model(images.images), PROGRESS)
    torch.testing.assert_close(found.total, mixture + 2 * (one - other).square().mean())


def test_the_budget_grows() -> None:
    regime = LogitPairing(FastGradient(), 0.1, budget_warmup=0.5)
    found = shown(regime, Halfspace(uneven_weights()), one_class(), replace(PROGRESS, step=1))
    assert float((found[6:] - found[:6]).abs().max()) == pytest.approx(0.04, rel=1e-4)


@pytest.mark.parametrize(("settings", "name"), [
    ({"attack": None, "budget": None}, "attack"), ({"budget": None}, "budget"), ({"attack": DeepFool()}, "attack"),
    ({"pairs": "noisy"}, "pairs"), ({"weight": -0.1}, "weight"), ({"clean_weight": 1.1}, "clean_weight"),
    ({"budget_warmup": 2.0}, "budget_warmup"), ({"noise_std": -1.0}, "noise_std"),
    ({"pairs": "clean", "clean_weight": 1.0}, "attack"), ({"pairs": "clean", "clean_weight": 1.0, "attack": None}, "budget"),
    ({"pairs": "clean", "clean_weight": 1.0, "attack": None, "budget": None, "budget_warmup": 0.1}, "budget_warmup"),
    ({"pairs": "clean", "attack": None, "budget": None}, "attack")])
def test_settings_out_of_range_are_named(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(Wrong) as caught:
        LogitPairing(**{"attack": PGD, "budget": 0.1, **settings})
    assert caught.value.name == name
