"""Noise composed with adversarial training: the attack climbs through it, and the model learns from fresh noise."""

from __future__ import annotations

import math

import pytest
import torch
from toy_victims import Affine, Halfspace, grey, uneven_weights
from watching import PROGRESS, one_class, shown, watched

from robust_cli.attacks.fast_gradient import FastGradient
from robust_cli.attacks.pgd import Pgd
from robust_cli.regimes.adversarial import Adversarial
from robust_cli.regimes.batch import Batch
from robust_cli.regimes.logit_pairing import LogitPairing

N, PIXELS = 400, 16
IMAGES = Batch(grey(N), torch.zeros(N, dtype=torch.int64), torch.arange(N))


def check_normal(noise: torch.Tensor, std: float) -> None:
    noise, n = noise.double().flatten(), noise.numel()
    assert abs(noise.mean()) < 5 * std / math.sqrt(n)
    assert abs(noise.std() - std) < 5 * std / math.sqrt(2 * n)
    assert abs((noise / std).pow(4).mean() - 3) < 5 * math.sqrt(96 / n)


@pytest.mark.parametrize("regime", [Adversarial(FastGradient(), 0.1, noise_std=0.7),
                                    Adversarial(FastGradient(), 0.1, noise_std=0.7, clean_weight=0.5),
                                    LogitPairing(FastGradient(), 0.1, noise_std=0.7)])
def test_the_model_learns_from_adversarial_images_plus_unclipped_noise(regime: Adversarial | LogitPairing) -> None:
    """On a half-space x_adv is known whatever the attack's own noise: what is left of the model's images is Gaussian noise."""
    weight = uneven_weights()
    found = shown(regime, Halfspace(weight), IMAGES)
    check_normal(found[-N:] - (0.5 + 0.1 * weight.sign().view(1, 4, 4)), 0.7)
    if len(found) > N:
        check_normal(found[:N] - 0.5, 0.7)
        clean, attacked = (found[:N] - 0.5).flatten(), (found[-N:] - 0.5 - 0.1 * weight.sign().view(1, 4, 4)).flatten()
        assert abs(torch.corrcoef(torch.stack([clean, attacked]))[0, 1]) < 5 / math.sqrt(N * PIXELS)
    assert found.min() < 0 < 1 < found.max()
    assert regime.noise_std == 0.7


def test_each_step_of_the_attack_sees_fresh_noise_in_so_many_draws() -> None:
    regime = Adversarial(Pgd(norm="linf", steps=2), 0.1, noise_std=0.4, draws=3)
    with watched(model := Halfspace(uneven_weights())) as calls:
        regime.loss(model, IMAGES, PROGRESS)
    assert [len(call.images) for call in calls] == [3 * N, 3 * N, N]
    first = calls[0].images - 0.5
    check_normal(first, 0.4)
    second = calls[1].images - 0.5 - 0.1 * uneven_weights().sign().view(1, 4, 4)
    check_normal(second, 0.4)
    last = calls[2].images - 0.5 - 0.1 * uneven_weights().sign().view(1, 4, 4)
    for one, other in ((first, second), (first.view(N, 3, -1)[:, 0], last), (second.view(N, 3, -1)[:, 0], last)):
        assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 5 / math.sqrt(N * PIXELS)


def test_the_attack_of_logit_pairing_sees_noise_too() -> None:
    with watched(model := Halfspace(uneven_weights())) as calls:
        LogitPairing(Pgd(norm="linf", steps=1), 0.1, noise_std=0.4).loss(model, IMAGES, PROGRESS)
    assert [len(call.images) for call in calls] == [N, 2 * N]
    check_normal(calls[0].images - 0.5, 0.4)


@pytest.mark.parametrize("objective", ["log_mean_probability", "mean_loss"])
def test_the_attack_climbs_the_mean_over_its_draws(objective: str) -> None:
    """FGM's direction is the gradient of -log mean p_y (Salman), or of mean -log p_y, written out with the draws that it saw."""
    model, images, draws = Affine(), one_class(8), 4
    regime = Adversarial(FastGradient(norm="l2"), 0.1, noise_std=0.5, draws=draws, objective=objective)
    with watched(model) as calls:
        regime.loss(model, images, PROGRESS)
    noise = calls[0].images.view(8, draws, 1, 4, 4).double() - images.images[:, None].double()
    points = images.images.double().requires_grad_()
    logits = (points[:, None] + noise).flatten(2) @ model.weight.detach().double().T + model.bias.double()
    own = logits.log_softmax(2)[:, :, 0]
    value = -own.exp().mean(1).log() if objective == "log_mean_probability" else -own.mean(1)
    slope = torch.autograd.grad(value.sum(), points)[0]
    towards = slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    own_noise = calls[1].images.double() - images.images.double() - 0.1 * towards
    plain = shown(Adversarial(FastGradient(norm="l2"), 0.0, noise_std=0.5), model, images).double() - images.images.double()
    torch.testing.assert_close(own_noise, plain, rtol=0, atol=1e-5)


def test_one_draw_is_the_same_under_both_objectives() -> None:
    images = [shown(Adversarial(FastGradient(norm="l2"), 0.1, noise_std=0.5, objective=objective), Affine(), one_class())
              for objective in ("log_mean_probability", "mean_loss")]
    torch.testing.assert_close(*images, rtol=0, atol=1e-6)


def test_the_terms_say_that_there_is_noise() -> None:
    found = Adversarial(FastGradient(), 0.1, noise_std=0.5, clean_weight=0.5).loss(Affine(), one_class(), PROGRESS)
    assert set(found.terms) == {"cross_entropy_noisy", "cross_entropy_adversarial"}
    assert Adversarial(FastGradient(), 0.1).noise_std is None
