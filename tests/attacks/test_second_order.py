"""The second-order attack on losses whose Hessian is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from toy_victims import PIXELS, Identity, Polynomial, Relentless, draws, grey, symmetric

from robust_cli.attacks.classifiers import NoisyGradients, SmoothedClassifier
from robust_cli.attacks.fast_gradient import FastGradient
from robust_cli.attacks.geometry import random_direction
from robust_cli.attacks.losses import margin
from robust_cli.attacks.pgd import Pgd
from robust_cli.attacks.second_order import SecondOrder
from robust_cli.messages import Wrong

BUDGET = 0.3
SINGLE = SecondOrder(form="single", loss="margin", budget=BUDGET)


def rise(model: Polynomial, attack: Any, n: int = 6) -> torch.Tensor:
    """By how much the attack raises the loss from the critical point."""
    found = attack(Relentless(model), grey(n), torch.zeros(n).long(), draws(n))
    with torch.no_grad():
        return model.q(found) - model.q(grey(n))


def delta(model: Polynomial, attack: Any, n: int = 6) -> torch.Tensor:
    found = attack(Relentless(model), grey(n), torch.zeros(n).long(), draws(n))
    return (found - grey(n)).flatten(1)


def finds_the_top_eigenvalue(attack: Any) -> None:
    """Zero gradient, eigenvalues 4, 1, 0.5 and -3: the best in the ball is 4 budget^2 / 2."""
    hessian, _ = symmetric([4.0, 1.0, 0.5, -3.0])
    found = rise(Polynomial(hessian), attack)
    assert float(found.min()) >= 0.99 * 4 * BUDGET**2 / 2
    assert float(found.max()) <= 4 * BUDGET**2 / 2 * (1 + 1e-5)


def test_zero_gradient_stops_first_order_attacks_and_not_this_one() -> None:
    hessian, _ = symmetric([4.0, 1.0, 0.5, -3.0])
    for attack in (FastGradient(loss="margin", budget=BUDGET), Pgd(loss="margin", budget=BUDGET)):
        assert (rise(Polynomial(hessian), attack) == 0).all()
    finds_the_top_eigenvalue(replace(SINGLE, steps=40, step_size=0.5))
    with pytest.raises(AssertionError):
        finds_the_top_eigenvalue(Identity(budget=BUDGET))


def test_of_rank_one_the_first_step_is_exact_and_the_default_reaches_the_eigenvalue() -> None:
    hessian, basis = symmetric([2.5])
    assert rise(Polynomial(hessian), SINGLE).tolist() == pytest.approx([2.5 * BUDGET**2 / 2] * 6, rel=1e-4)
    along = delta(Polynomial(hessian), replace(SINGLE, steps=1, step_size=1.0)) @ basis[:, 0].float()
    assert along.abs().tolist() == pytest.approx([BUDGET] * 6, rel=1e-4)


def test_one_step_is_along_the_hessian_times_the_direction() -> None:
    hessian, _ = symmetric([4.0, 1.0, 0.5, -3.0])
    found = delta(Polynomial(hessian), replace(SINGLE, steps=1, step_size=1.0))
    expected = random_direction(grey(6), draws(6)).flatten(1) @ hessian.float()
    expected = BUDGET * expected / expected.norm(dim=1, keepdim=True)
    sign = (found * expected).sum(1, keepdim=True).sign()
    torch.testing.assert_close(found, sign * expected, rtol=0, atol=1e-5)


def test_linf_step_is_along_its_signs() -> None:
    hessian, _ = symmetric([4.0, 1.0, 0.5, -3.0])
    found = delta(Polynomial(hessian), replace(SINGLE, norm="linf", steps=1, step_size=1.0))
    expected = (random_direction(grey(6), draws(6)).flatten(1) @ hessian.float()).sign() * BUDGET
    assert ((found - expected).abs().amax(1) < 1e-6).logical_or((found + expected).abs().amax(1) < 1e-6).all()


def test_either_sign_is_tried() -> None:
    """A cubic term makes one side better; the sign of a Hessian direction knows nothing of it."""
    hessian, basis = symmetric([1.0])
    for steps, size in ((1, 1.0), (20, None)):
        for side in (1, -1):
            model = Polynomial(hessian, cubic=side * basis[:, 0])
            along = delta(model, replace(SINGLE, steps=steps, step_size=size), n=20) @ basis[:, 0].float()
            assert (along * side).tolist() == pytest.approx([BUDGET] * 20, rel=1e-3)


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_power_iterations_find_the_largest_absolute_eigenvalue_also_where_the_gradient_is_not_zero(slope: float) -> None:
    hessian, basis = symmetric([2.0, 1.0, -5.0])
    model = Polynomial(hessian, gradient=slope * torch.ones(PIXELS))
    attack = replace(SINGLE, steps=1, step_size=1.0, power_iterations=30, subtract_gradient=True)
    along = delta(model, attack) @ basis[:, 2].float() / BUDGET
    assert along.abs().tolist() == pytest.approx([1.0] * 6, abs=1e-3)
    one = delta(model, replace(attack, power_iterations=1)) @ basis[:, 2].float() / BUDGET
    assert float(one.abs().mean()) < 0.98


def test_without_subtracting_a_large_gradient_leads() -> None:
    hessian, _ = symmetric([1.0, -1.0])
    slope = torch.linspace(1, 5, PIXELS)
    found = delta(Polynomial(hessian, gradient=slope), replace(SINGLE, steps=1, step_size=1.0))
    assert (found @ slope / slope.norm() / BUDGET).tolist() == pytest.approx([1.0] * 6, abs=1e-3)


def test_a_flat_loss_leaves_the_image_and_no_nan() -> None:
    for attack in (SINGLE, replace(SINGLE, power_iterations=3), replace(SINGLE, form="averaged")):
        assert (delta(Polynomial(torch.zeros(PIXELS, PIXELS)), attack) == 0).all()


def test_the_mean_over_symmetric_noise_cancels_the_hessian_direction() -> None:
    """E ||mean of H d over n draws||^2 = s^2 ||H||_F^2 / n: it vanishes with n, where one draw keeps its length."""
    hessian, _ = symmetric([4.0, 2.0, 1.0])
    noise, images = 0.2, 300
    full = noise**2 * float((hessian**2).sum())
    spread = (2 * float((torch.linalg.eigvalsh(hessian) ** 4).sum())) ** 0.5 * noise**2  # of ||H d||^2
    for n in (1, 10, 400):
        classifier = SmoothedClassifier(Polynomial(hessian), noise, draws=n)
        gradient, *_ = classifier.gradient(grey(images), torch.zeros(images).long(), margin, draws(images))
        squares = gradient.flatten(1).square().sum(1)
        assert float(squares.mean()) * n == pytest.approx(full, abs=5 * spread / images**0.5)


def test_averaged_is_ascent_of_the_smoothed_loss() -> None:
    """With c (v.d)^3, the mean gradient along v at the centre is 3 c s^2 |v|^4, and the loss's own gradient there is 0."""
    _, basis = symmetric([1.0])
    v = basis[:, 0]
    model = Polynomial(torch.zeros(PIXELS, PIXELS), cubic=-v)
    assert (delta(model, Pgd(loss="margin", budget=BUDGET)) == 0).all()
    found = delta(model, SecondOrder(form="averaged", loss="margin", budget=BUDGET, draws=30)) @ v.float()
    assert found.tolist() == pytest.approx([-BUDGET] * 6, rel=1e-3)


def test_the_defences_noise_takes_the_place_of_its_own() -> None:
    hessian, _ = symmetric([4.0, 1.0])
    smoothed = SmoothedClassifier(Polynomial(hessian), 0.35, draws=7)
    images, labels = grey(3), torch.zeros(3).long()
    attack = SecondOrder(form="averaged", loss="margin", steps=4, budget=BUDGET)
    by_hand = Pgd(loss="margin", steps=4, budget=BUDGET)(smoothed, images, labels, draws(3))
    assert torch.equal(attack(smoothed, images, labels, draws(3)), by_hand)  # nothing but the defence's seven draws
    assert smoothed.network.forward_passes == 2 * 4 * 7 * 3
    with pytest.raises(Wrong, match="noise_std: expected null on a smoothed classifier"):
        replace(attack, noise_std=0.2)(smoothed, images, labels, draws(3))
    both = replace(attack, noise_std=0.2, add_noise=True)(smoothed, images, labels, draws(3))
    wider = SmoothedClassifier(Polynomial(hessian), (0.35**2 + 0.2**2) ** 0.5, draws=7)
    assert torch.equal(both, attack(wider, images, labels, draws(3)))
    with pytest.raises(Wrong, match="noise_std: expected null with gradient_noise"):
        replace(attack, noise_std=0.2, add_noise=True)(NoisyGradients(Polynomial(hessian), 0.35), images, labels, draws(3))


def test_costs() -> None:
    model, images, labels = Polynomial(symmetric([1.0])[0]), grey(2), torch.zeros(2).long()
    for settings, forward, backward in (({"form": "averaged", "draws": 6}, 6, 6), ({"form": "single"}, 3, 1),
                                        ({"form": "single", "power_iterations": 3}, 6, 4)):
        classifier = Relentless(model)
        SecondOrder(budget=0.1, steps=5, **settings)(classifier, images, labels, draws(2))
        assert classifier.network.forward_passes == 5 * 2 * forward
        assert classifier.network.backward_passes == 5 * 2 * backward


@pytest.mark.parametrize(("settings", "name"), [
    ({"norm": "l1"}, "norm"), ({"form": "both"}, "form"), ({"steps": 0}, "steps"), ({"probe": 0.0}, "probe"),
    ({"draws": 0}, "draws"), ({"noise_std": -1.0}, "noise_std"), ({"noise_std": 0.1}, "noise_std"),
    ({"power_iterations": 0}, "power_iterations"), ({"form": "averaged", "power_iterations": 2}, "power_iterations"),
    ({"form": "averaged", "subtract_gradient": True}, "subtract_gradient"), ({"add_noise": True}, "add_noise"),
    ({"budget": 0.0}, "budget"),
])
def test_wrong_settings_are_named(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(Wrong, match=f"^{name}: expected"):
        SecondOrder(**settings)
