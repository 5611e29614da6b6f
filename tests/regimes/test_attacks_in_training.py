"""What every regime with an attack inside keeps: evaluation mode and frozen weights in it, keyed draws, true gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from toy_victims import Affine, curved
from watching import PROGRESS, batch, learnt, shown, watched

from robust_cli.attacks.auto_pgd import AutoPgd
from robust_cli.attacks.deepfool import DeepFool
from robust_cli.attacks.fast_gradient import FastGradient
from robust_cli.attacks.fmn import Fmn
from robust_cli.attacks.pgd import Pgd
from robust_cli.attacks.second_order import SecondOrder
from robust_cli.messages import Wrong
from robust_cli.models.classifier import frozen
from robust_cli.regimes.adversarial import Adversarial
from robust_cli.regimes.adversary import told
from robust_cli.regimes.logit_pairing import LogitPairing
from robust_cli.regimes.sgr import StructuredGradient
from robust_cli.regimes.standard import Standard
from robust_cli.regimes.trades import Trades

PGD = Pgd(norm="linf", steps=4, random_start=True)
REGIMES: dict[str, Any] = {
    "adversarial": Adversarial(PGD, 0.1), "mixture": Adversarial(PGD, 0.1, clean_weight=0.4),
    "second_order": Adversarial(SecondOrder(steps=3), 0.3), "with noise": Adversarial(PGD, 0.1, noise_std=0.2, draws=3),
    "trades": Trades(budget=0.1, steps=4, step_size=None, weight=2.0),
    "trades l2": Trades(norm="l2", budget=0.3, steps=4, step_size=None),
    "trades as STN": Trades(budget=0.1, steps=4, step_size=None, distance="cross_entropy"),
    "logit pairing": LogitPairing(PGD, 0.1), "clean pairs": LogitPairing(PGD, 0.1, pairs="clean")}
every_regime = pytest.mark.parametrize("name", REGIMES)


@every_regime
def test_the_attack_sees_evaluation_mode_and_frozen_weights(name: str) -> None:
    model = curved().train()
    model[2].eval()  # a part with a mode of its own keeps it
    model[1].bias.requires_grad_(False)
    with watched(model) as calls:
        REGIMES[name].loss(model, batch(), PROGRESS)
    assert len(calls) >= 4
    assert [(call.training, call.learning) for call in calls[:-1]] == [(False, False)] * (len(calls) - 1)
    assert (calls[-1].training, calls[-1].learning) == (True, True)
    assert [part.training for part in model.modules()] == [True, True, True, False, True, True, True]
    assert [weight.requires_grad for weight in model.parameters()] == [True, False, True, True, True, True]


@every_regime
def test_no_gradient_reaches_the_weights_and_no_statistics_move_in_the_attack(name: str) -> None:
    """The running statistics are those of a single pass over what the loss saw."""
    model, reference = curved(), curved()
    images = shown(REGIMES[name], model, batch())
    assert all(weight.grad is None for weight in model.parameters())
    reference(images)
    assert int(model[2].num_batches_tracked) == 1
    torch.testing.assert_close(model[2].running_mean, reference[2].running_mean)
    torch.testing.assert_close(model[2].running_var, reference[2].running_var)


@every_regime
def test_draws_are_keyed_by_seed_and_step(name: str) -> None:
    images = batch()
    first = shown(REGIMES[name], curved(), images)
    assert torch.equal(first, shown(REGIMES[name], curved(), images))
    for other in (replace(PROGRESS, step=4), replace(PROGRESS, seed=12)):
        assert not torch.allclose(first, shown(REGIMES[name], curved(), images, other), atol=1e-5)


def test_random_starts_of_other_steps_are_others() -> None:
    """On a model without slopes the walk stays where it began: another place of the ball at each step."""
    regime, images, flat = Adversarial(Pgd(norm="linf", steps=1, random_start=True), 0.1), batch(), Affine()
    torch.nn.init.zeros_(flat.weight)
    starts = [shown(regime, flat, images, replace(PROGRESS, step=step)) - images.images for step in range(8)]
    pairs = torch.corrcoef(torch.stack(starts).flatten(1)) - torch.eye(8)
    assert pairs.abs().max() < 5 / 96 ** 0.5
    assert float(torch.stack(starts).std()) == pytest.approx(0.2 / 12 ** 0.5, rel=0.1)


@every_regime
def test_validation_images_are_attacked_too(name: str) -> None:
    """Frozen, and without gradients around it, as the loop has it: the same loss as in evaluation mode with gradients."""
    model, progress = curved().eval(), replace(PROGRESS, validating=True)
    expected = REGIMES[name].loss(model, batch(), progress)
    with frozen(model), torch.no_grad():
        found = REGIMES[name].loss(model, batch(), progress)
        harmless = replace(REGIMES[name], budget=0.0).loss(model, batch(), progress)
    assert not found.total.requires_grad
    torch.testing.assert_close(found.total, expected.total.detach())
    hurt = {"cross_entropy_adversarial", "kl", "cross_entropy_soft"} & set(found.terms)
    assert all(found.terms[term] > harmless.terms[term] + 0.01 for term in hurt)
    assert hurt


@every_regime
def test_bf16_autocast(name: str) -> None:
    """Float32 losses near those of fp32, the attack in bf16 as well, and a gradient for every weight after it."""
    model, images, seen = curved().eval(), batch(), []
    expected = REGIMES[name].loss(model, images, PROGRESS)
    model[5].register_forward_hook(lambda *call: seen.append(call[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        found, gradients = learnt(REGIMES[name], model, images)
    assert set(seen) == {torch.bfloat16}
    assert found.total.dtype == torch.float32
    torch.testing.assert_close(found.total, expected.total, rtol=0.1, atol=0.02)
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients)


Formula = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # clean and adversarial logits, labels


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p.softmax(1) * (p.softmax(1).log() - q.softmax(1).log())).sum(1).mean()


def soft(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return -(p.softmax(1) * q.softmax(1).log()).sum(1).mean()


FORMULAS: dict[str, Formula] = {
    "mixture": lambda p, q, y: 0.4 * cross_entropy(p, y) + 0.6 * cross_entropy(q, y),
    "trades": lambda p, q, y: cross_entropy(p, y) + 2.0 * divergence(p, q),
    "trades l2": lambda p, q, y: cross_entropy(p, y) + divergence(p, q),
    "trades as STN": lambda p, q, y: cross_entropy(p, y) + soft(p, q),
    "logit pairing": lambda p, q, y: 0.5 * cross_entropy(p, y) + 0.5 * cross_entropy(q, y) + 0.5 * mse_loss(p, q)}


def along(model: nn.Module, directions: list[torch.Tensor], step: float) -> nn.Module:
    """A float64 copy with its weights moved."""
    moved = copy.deepcopy(model).double()
    with torch.no_grad():
        for weight, direction in zip(moved.parameters(), directions, strict=True):
            weight.add_(step * direction)
    return moved


@pytest.mark.parametrize("name", FORMULAS)
def test_the_weights_gradient_is_that_of_the_formula_with_the_adversarial_images_held_fixed(name: str) -> None:
    """By central differences of the formula in float64, along random directions of all weights."""
    model, images = curved().eval(), batch()
    _, gradients = learnt(REGIMES[name], model, images)
    both = shown(REGIMES[name], model, images).double()
    torch.testing.assert_close(both[:6], images.images.double(), rtol=0, atol=0)

    def value(moved: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return FORMULAS[name](moved(both[:6]), moved(both[6:]), images.labels)

    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        directions = [torch.randn(weight.shape, generator=generator, dtype=torch.float64) for weight in model.parameters()]
        slope = (value(along(model, directions, 1e-5)) - value(along(model, directions, -1e-5))) / 2e-5
        found = sum((g.double() * d).sum() for g, d in zip(gradients, directions, strict=True))
        torch.testing.assert_close(found, slope, rtol=1e-4, atol=1e-5)


def sgr(attack: Any, budget: float | None) -> StructuredGradient:
    return StructuredGradient(perturbations="attack", attack=attack, budget=budget)


def trades(attack: Any, budget: float) -> Trades:
    return Trades(norm=attack.norm, budget=budget, steps=attack.steps, step_size=attack.step_size)


KINDS: dict[str, Callable[[Any, float], Any]] = {
    "adversarial": Adversarial, "logit pairing": LogitPairing, "sgr": sgr, "trades": trades}
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_a_budget_in_linf_is_at_most_1_and_one_in_l2_may_be_larger(kind: str) -> None:
    for budget in (1.001, 8.0, float("inf"), float("nan")):
        with pytest.raises(Wrong, match=r"^budget: expected a number in \[0, 1\] .*8/255 is 0\.0314\), got") as caught:
            KINDS[kind](Pgd(norm="linf"), budget)
        assert caught.value.name == "budget"
    assert KINDS[kind](Pgd(norm="linf"), 1.0).budget == 1
    assert KINDS[kind](Pgd(norm="l2"), 8.0).budget == 8
    with pytest.raises(Wrong, match=r"^budget: "):
        KINDS[kind](Pgd(norm="l2"), float("inf"))


@every_kind
def test_steps_that_do_not_reach_the_balls_edge_are_refused_with_a_way_out(kind: str) -> None:
    """Madry's 0.01 is one of pixels: of a budget, 40 of it are 0.4."""
    for steps, size in ((40, 0.01), (10, 1 / 30), (1, 0.99)):
        with pytest.raises(Wrong, match=f"at least 1 / steps, {1 / steps:g}, ") as caught:
            KINDS[kind](Pgd(norm="linf", steps=steps, step_size=size), 0.3)
        name = "step_size" if kind == "trades" else "attack.step_size"
        assert caught.value.name == name
        assert f"set regime.{name}=null" in str(caught.value)
    for steps, size in ((40, 1 / 30), (49, 1 / 49), (30, 0.0333333), (7, float(f"{1 / 7:g}")), (10, None)):
        KINDS[kind](Pgd(norm="linf", steps=steps, step_size=size), 0.3)


def test_a_step_size_in_pixels_is_not_taken_for_a_share_of_the_budget() -> None:
    assert sgr(Fmn(steps=10, step_size=0.01), None).budget is None


@pytest.mark.parametrize(("regime", "line"), [
    (Adversarial(Pgd(norm="linf", steps=10), 0.3), "pgd in linf, 10 steps, budget 0.3"),
    (Adversarial(AutoPgd(norm="l2", steps=1), 2.0), "auto pgd in l2, 1 step, budget 2"),
    (LogitPairing(FastGradient(), 8 / 255), "fast gradient in linf, budget 0.0313725"),
    (sgr(DeepFool(), None), "deep fool in l2, 50 steps, the closest example"),
    (Trades(), "trades in linf, 40 steps, budget 0.3"), (Trades(norm="l2", budget=2), "trades in l2, 40 steps, budget 2")])
def test_a_regime_tells_what_it_attacks_with(regime: Any, line: str) -> None:
    assert told(regime) == f"adversarial images: {line}"


@pytest.mark.parametrize("regime", [Standard(), StructuredGradient(), LogitPairing(pairs="clean", clean_weight=1.0)])
def test_a_regime_without_attack_tells_nothing(regime: Any) -> None:
    assert told(regime) is None
