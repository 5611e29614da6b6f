"""TRADES: both distances against closed forms on logits, and the inner maximisation on models whose worst case is known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn.functional import cross_entropy
from toy_victims import Affine, Halfspace, curved, uneven_weights
from watching import PROGRESS, Rows, batch, one_class, rows, shown, watched

from robust_cli.attacks.geometry import distances
from robust_cli.messages import Wrong
from robust_cli.regimes.batch import Batch
from robust_cli.regimes.standard import Standard
from robust_cli.regimes.trades import Trades, divergences

CONF = Path(__file__).resolve().parents[2] / "conf" / "regime"


def entropy(logits: torch.Tensor) -> torch.Tensor:
    p = logits.softmax(1)
    return -(p * p.log()).sum(1)


def test_by_hand_for_two_classes() -> None:
    """p = (3/4, 1/4), q = (1/2, 1/2): KL(p || q) = 3/4 log 3/2 + 1/4 log 1/2, and KL(q || p) is another number."""
    clean, other = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[0.0, 0.0]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    found = Trades(budget=0.0, weight=1.0).loss(Rows(clean, other), one_class(1), PROGRESS)
    assert found.terms["kl"].item() == pytest.approx(expected, rel=1e-6)
    assert float(found.total) == pytest.approx(-math.log(0.75) + expected, rel=1e-6)
    swapped = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert abs(expected - swapped) > 0.01
    assert float(divergences(other, clean)) == pytest.approx(swapped, rel=1e-6)


def test_the_loss_is_cross_entropy_plus_weighted_mean_divergence() -> None:
    (clean, other), labels = rows(), batch().labels
    p, q = clean.softmax(1), other.softmax(1)
    found = Trades(budget=0.0, weight=6.0).loss(Rows(clean.float(), other.float()), batch(), PROGRESS)
    apart = (p * (p / q).log()).sum(1).mean()
    expected = -p[torch.arange(6), labels].log().mean() + 6 * apart
    torch.testing.assert_close(found.total.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.terms["kl"].double(), apart, rtol=1e-5, atol=0)
    assert set(found.terms) == {"cross_entropy", "kl"}


def test_the_cross_entropy_of_both_predictions_is_the_divergence_plus_the_entropy() -> None:
    clean, other = (logits.float() for logits in rows())
    found = {distance: Trades(budget=0.0, distance=distance).loss(Rows(clean, other), batch(), PROGRESS)
             for distance in ("kl", "cross_entropy")}
    soft = found["cross_entropy"].terms["cross_entropy_soft"]
    torch.testing.assert_close(soft, found["kl"].terms["kl"] + entropy(clean).mean())
    torch.testing.assert_close(found["cross_entropy"].total, found["kl"].total + entropy(clean).mean())


def test_equal_predictions_cost_nothing_and_weight_zero_is_standard_training() -> None:
    model, images = curved().eval(), batch()
    alone = Standard().loss(model, images, PROGRESS).total
    same = Trades(budget=0.0, weight=3.0).loss(model, images, PROGRESS)
    assert abs(same.terms["kl"].item()) < 1e-6
    torch.testing.assert_close(same.total, alone)
    torch.testing.assert_close(Trades(budget=0.2, steps=2, step_size=None, weight=0.0).loss(model, images, PROGRESS).total, alone)


def test_the_gradient_flows_through_both_predictions() -> None:
    """dKL/dz = p (log p - log q - KL) and dKL/dz' = q - p: a stopped gradient is caught."""
    clean, other = (logits.requires_grad_() for logits in rows(seed=4))
    found = torch.autograd.grad(divergences(clean, other).sum(), [clean, other])
    p, q = clean.detach().softmax(1), other.detach().softmax(1)
    apart = (p * (p / q).log()).sum(1, keepdim=True)
    torch.testing.assert_close(found[0], p * ((p / q).log() - apart), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found[1], q - p, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_maximisation_reaches_the_end_of_the_ball(norm: str) -> None:
    """On a half-space KL grows with |w.(x' - x)|: the walk goes on to whichever side its start fell, along sgn(w) or w."""
    weight, images, budget = uneven_weights(), one_class(24), 0.1
    regime = Trades(norm=norm, budget=budget, steps=5, step_size=None, weight=1.0)
    model = Halfspace(weight)
    found = shown(regime, model, images)[24:] - images.images
    direction = (weight.sign() if norm == "linf" else weight / weight.norm()).view(1, 1, 4, 4)
    sides = (found.flatten(1) @ weight).sign().view(-1, 1, 1, 1)
    off = 1e-4 if norm == "linf" else 4e-3  # of the start's noise, what lies across w stays
    torch.testing.assert_close(found, budget * sides * direction, rtol=0, atol=off)
    assert 0 < (sides > 0).sum() < 24
    ends = images.images + budget * sides * direction
    expected = divergences(model(images.images), model(ends)).mean()
    torch.testing.assert_close(regime.loss(model, images, PROGRESS).terms["kl"], expected, rtol=5e-3, atol=0)
    assert expected > 0.01


def test_a_single_step_goes_along_signs_from_a_start_of_a_thousandth() -> None:
    images, budget = one_class(200), 0.1
    found = shown(Trades(budget=budget, steps=1, step_size=1.0), Halfspace(uneven_weights()), images)[200:] - images.images
    short = (budget - found.abs())[found.abs() < budget - 1e-6]  # where the start fell inward
    assert 0.4 < len(short) / found.numel() < 0.6
    assert float(short.square().mean().sqrt()) == pytest.approx(0.001, rel=0.1)


def test_a_step_goes_along_the_gradient_of_the_divergence_from_the_clean_prediction() -> None:
    """Far from the image, where that of KL(q || p) points elsewhere: the second of two steps, from the point that it saw."""
    images = batch(classes=5)
    with watched(model := Affine()) as calls:
        Trades(norm="l2", budget=0.4, steps=2, step_size=0.5).loss(model, images, PROGRESS)
    weight, bias = model.weight.detach().double(), model.bias.double()
    log_p = (images.images.double().flatten(1) @ weight.T + bias).log_softmax(1)
    point = calls[2].images.double().flatten(1)
    log_q = (point @ weight.T + bias).log_softmax(1)
    found = calls[3].images[6:].double().flatten(1)
    ends = {}
    for way, slope in (("p || q", log_q.exp() - log_p.exp()),
                       ("q || p", log_q.exp() * (log_q - log_p - (log_q.exp() * (log_q - log_p)).sum(1, keepdim=True)))):
        step = slope @ weight
        moved = point + 0.2 * step / step.norm(dim=1, keepdim=True) - images.images.double().flatten(1)
        ends[way] = images.images.double().flatten(1) + moved * (0.4 / moved.norm(dim=1, keepdim=True)).clamp(max=1)
    torch.testing.assert_close(found, ends["p || q"], rtol=0, atol=1e-5)
    assert (found - ends["q || p"]).abs().max() > 1e-2


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_images_are_worse_than_random_ones_and_within_the_ball(norm: str) -> None:
    model, images, budget = curved().eval(), batch(), 0.2
    regime = Trades(norm=norm, budget=budget, steps=10, step_size=None)
    found = regime.adversarial(model, images, PROGRESS)
    assert distances(found, images.images, norm).max() <= budget
    with torch.no_grad():
        clean, worst = model(images.images), divergences(model(images.images), model(found))
        generator = torch.Generator().manual_seed(0)
        for _ in range(100):
            step = torch.randn(images.images.shape, generator=generator)
            step = step.sign() if norm == "linf" else step / step.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            assert worst.mean() > 2 * divergences(clean, model(images.images + budget * step)).mean()


def test_labels_have_no_say_in_the_maximisation_and_neither_has_the_distance() -> None:
    model, images = curved().eval(), batch()
    regime = Trades(budget=0.1, steps=3, step_size=None)
    found = regime.adversarial(model, images, PROGRESS)
    others = Batch(images.images, (images.labels + 1) % 3, images.indices)
    assert torch.equal(found, regime.adversarial(model, others, PROGRESS))
    assert torch.equal(found, replace(regime, distance="cross_entropy").adversarial(model, images, PROGRESS))


def test_it_takes_one_clean_pass_and_one_for_each_step() -> None:
    with watched(model := curved()) as calls:
        Trades(budget=0.1, steps=5, step_size=None).loss(model, batch(), PROGRESS)
    assert [len(call.images) for call in calls] == [6, 6, 6, 6, 6, 6, 12]
    assert torch.equal(calls[0].images, batch().images)


def test_the_budget_grows() -> None:
    regime = Trades(budget=0.1, steps=5, step_size=None, budget_warmup=0.5)
    for step, share in ((0, 0.2), (4, 1.0), (9, 1.0)):
        found = shown(regime, Halfspace(uneven_weights()), one_class(), replace(PROGRESS, step=step))[6:]
        assert float((found - one_class().images).abs().max()) == pytest.approx(share * 0.1, rel=1e-4)


@pytest.mark.parametrize(("name", "published"), [("trades", (0.3, 40, 0.01, 1.0)), ("trades_cifar", (0.031, 10, 0.007, 6.0))])
def test_the_configs_have_the_published_settings(name: str, published: tuple[float, int, float, float]) -> None:
    settings = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    settings.pop("_target_")
    regime = Trades(**settings)
    assert regime.step_size is not None
    found = (regime.budget, regime.steps, regime.step_size * regime.budget, regime.weight)
    assert found == pytest.approx(published, rel=1e-5)
    assert regime.norm == "linf"
    assert regime.distance == "kl"
    if name == "trades":
        assert Trades(**{**settings, "step_size": 1 / 30}) == Trades()


@pytest.mark.parametrize(("settings", "name"), [
    ({"distance": "l2"}, "distance"), ({"distance": "KL"}, "distance"), ({"norm": "l1"}, "norm"), ({"budget": -1.0}, "budget"),
    ({"budget": math.inf}, "budget"), ({"steps": 0}, "steps"), ({"steps": 10}, "step_size"), ({"step_size": 0.0}, "step_size"),
    ({"weight": -1.0}, "weight"), ({"weight": math.nan}, "weight"), ({"budget_warmup": -0.1}, "budget_warmup")])
def test_settings_out_of_range_are_named(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(Wrong) as caught:
        Trades(**settings)
    assert caught.value.name == name


def test_a_distance_that_is_none_is_refused_in_one_line() -> None:
    with pytest.raises(Wrong, match="distance: expected kl or cross_entropy, got 'squared'"):
        Trades(distance="squared")


def test_it_trains_without_noise() -> None:
    assert Trades().noise_std is None
    clean, other = (logits.float() for logits in rows())
    found = Trades(budget=0.0).loss(Rows(clean, other), batch(), PROGRESS)
    torch.testing.assert_close(found.terms["cross_entropy"], cross_entropy(clean, batch().labels))
