"""Attacks by gradients within a budget against models whose worst case is known."""

from __future__ import annotations

import importlib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from toy_victims import Halfspace, Identity, Relentless, curved, draws, grey, random_images, uneven_weights

from robust_cli.attacks.auto_pgd import AutoPgd
from robust_cli.attacks.classifiers import BaseClassifier, SmoothedClassifier
from robust_cli.attacks.fast_gradient import FastGradient
from robust_cli.attacks.geometry import distances
from robust_cli.attacks.losses import LOSSES, Loss, lead
from robust_cli.attacks.lrc import LongRangeCorrelated
from robust_cli.attacks.pgd import Pgd
from robust_cli.attacks.pgd_l1 import PgdL1
from robust_cli.attacks.random_noise import GaussianNoise, UniformNoise
from robust_cli.attacks.rfgsm import Rfgsm
from robust_cli.attacks.second_order import SecondOrder
from robust_cli.attacks.targeted import TargetedPgd
from robust_cli.messages import Wrong

CONF = Path(__file__).resolve().parents[2] / "conf" / "attack"
LINEAR: list[tuple[Any, int, float]] = [  # attack, order of the dual norm, share of the worst case it has to reach
    (FastGradient(), 1, 1.0),
    (Pgd(norm="linf", random_start=True), 1, 1.0),
    (Pgd(norm="linf", steps=7), 1, 1.0),
    (Pgd(norm="linf", loss="margin", restarts=2), 1, 1.0),
    (Pgd(norm="l2"), 2, 1.0),
    (Pgd(norm="l2", step_size=1.0, random_start=True), 2, 1.0),
    (Pgd(norm="l2", random_start=True), 2, 0.95),  # from the sphere's equator 2.5 budgets of steps end at tanh(2.5) = 0.987
    (SecondOrder(norm="l2"), 2, 1.0),
    (SecondOrder(norm="linf"), 1, 1.0),
    (SecondOrder(norm="l2", form="averaged"), 2, 1.0),
    (SecondOrder(norm="linf", form="averaged"), 1, 1.0),
    (FastGradient(norm="l2"), 2, 1.0),
    (Rfgsm(start_size=1e-5), 1, 0.999),
    (Pgd(norm="l2", loss="margin", steps=20), 2, 1.0),  # cw_pgd_l2
    (AutoPgd(norm="linf", random_start=True, loss="margin"), 1, 0.9995),
    (AutoPgd(norm="l2", loss="margin"), 2, 0.9995),
    (AutoPgd(norm="l2", random_start=True, restarts=2), 2, 0.97),
    (TargetedPgd(norm="linf"), 1, 1.0),
    (TargetedPgd(norm="l2", loss="margin", targets=3), 2, 1.0),
    (TargetedPgd(norm="l2", choice="likeliest", automatic=True), 2, 0.9995),
]


def reaches_linear_worst_case(attack: Any, order: int, share: float, smoothed: bool) -> None:
    """The margin of a linear model falls by budget times the dual norm of its weights, and by no more."""
    weight, budget, n = uneven_weights(), 0.05, 8
    model, images = Halfspace(weight, bias=0.3), 0.1 + 0.8 * random_images(n)
    labels = (model(images)[:, 1] > 0).long()
    classifier = SmoothedClassifier(model, 0.3, draws=3) if smoothed else Relentless(model)
    found = replace(attack, budget=budget)(classifier, images, labels, draws(n))
    with torch.no_grad():
        before, after = model(images)[:, 1], model(found)[:, 1]
    drop = (before - after) * (2 * labels - 1)
    worst = budget * float(torch.linalg.vector_norm(weight, ord=order))
    assert float(drop.min()) >= worst * (share - 2e-5)
    assert float(drop.max()) <= worst * (1 + 2e-5)


@pytest.mark.parametrize("smoothed", [False, True])
@pytest.mark.parametrize(("attack", "order", "share"), LINEAR)
def test_linear_worst_case(attack: Any, order: int, share: float, smoothed: bool) -> None:
    reaches_linear_worst_case(attack, order, share, smoothed)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_an_attack_that_returns_its_input_fails_these_tests(norm: str) -> None:
    with pytest.raises(AssertionError):
        reaches_linear_worst_case(Identity(norm), 2 if norm == "l2" else 1, 0.98, smoothed=False)
    with pytest.raises(AssertionError):
        beats_noise(Identity(norm))


def test_cross_entropy_rises_by_the_exact_amount() -> None:
    weight, budget = uneven_weights(), 0.05
    model, images, labels = Halfspace(weight, bias=0.3), grey(1), torch.tensor([1])
    for attack, order in ((FastGradient(budget=budget), 1), (Pgd(norm="l2", random_start=False, budget=budget), 2)):
        found = attack(BaseClassifier(model), images, labels, draws(1))
        worst = float(model(images)[0, 1].detach()) - budget * float(torch.linalg.vector_norm(weight, ord=order))
        loss = LOSSES["cross_entropy"](model(found), labels).detach()
        assert float(loss) == pytest.approx(float(torch.nn.functional.softplus(torch.tensor(-worst))), rel=1e-5)


def test_a_saturated_model_is_attacked_all_the_same() -> None:
    """Far from the boundary (a logit of 80), the gradient is about 1e-35: its direction still counts."""
    model = Halfspace(uneven_weights(), bias=80.0)
    for attack, order in ((FastGradient(budget=0.1), 1), (Pgd(norm="l2", random_start=False, budget=0.1), 2)):
        found = attack(BaseClassifier(model), grey(1), torch.tensor([1]), draws(1))
        with torch.no_grad():
            drop = float((model(grey(1)) - model(found))[0, 1])
        assert drop == pytest.approx(0.1 * float(torch.linalg.vector_norm(uneven_weights(), ord=order)), rel=1e-3)


ALL: list[Any] = [FastGradient(), Pgd(norm="linf", steps=5, random_start=True), Pgd(norm="l2", steps=5, restarts=2),
                  SecondOrder(steps=3), SecondOrder(norm="linf", form="averaged", steps=3),
                  SecondOrder(power_iterations=2, subtract_gradient=True, steps=2),
                  FastGradient(norm="l2"), Rfgsm(), PgdL1(steps=5, share=0.2, restarts=2),
                  AutoPgd(norm="linf", steps=5, random_start=True),
                  AutoPgd(norm="l2", steps=5, restarts=2, loss="margin"),
                  TargetedPgd(norm="linf", steps=3, random_start=True, targets=2),
                  TargetedPgd(norm="l2", steps=3, automatic=True),
                  UniformNoise(samples=3), GaussianNoise(samples=3), LongRangeCorrelated(samples=3)]


@pytest.mark.parametrize("attack", ALL)
@pytest.mark.parametrize("budget", [1e-3, 1 / 255, 0.3, 5.0])
def test_budget_and_box_hold_also_at_corners(attack: Any, budget: float) -> None:
    images = random_images(40)
    images[:20] = images[:20].round()
    labels = torch.arange(40) % 3
    for classifier in (Relentless(curved()), SmoothedClassifier(curved(), 0.2, draws=2)):
        found = replace(attack, budget=budget)(classifier, images, labels, draws(40))
        assert found.dtype == torch.float32
        assert (distances(found, images, attack.norm) <= budget * (1 + 1e-9)).all()
        assert ((found >= 0) & (found <= 1)).all()
        moved = distances(found, images, attack.norm) > 0
        if isinstance(attack, AutoPgd) or getattr(attack, "automatic", False):  # a start that is wrong already may stay best
            assert float(moved.float().mean()) > 0.7
        else:
            assert moved.all()


@pytest.mark.parametrize("attack", ALL)
@pytest.mark.parametrize("smoothed", [False, True])
def test_results_do_not_depend_on_batch_or_order(attack: Any, smoothed: bool) -> None:
    model, images, labels = curved(), random_images(6), torch.arange(6) % 3
    classifier = SmoothedClassifier(model, 0.2, draws=4) if smoothed else BaseClassifier(model)
    attack = replace(attack, budget=0.3)
    together = attack(classifier, images, labels, draws(6))
    alone = torch.cat([attack(classifier, images[k : k + 1], labels[k : k + 1], draws(1, first=k)) for k in range(6)])
    stream = draws(6)
    backwards = attack(classifier, images.flip(0), labels.flip(0), stream.select(range(5, -1, -1))).flip(0)
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-4)
    torch.testing.assert_close(backwards, together, rtol=0, atol=1e-4)


def beats_noise(attack: Any) -> None:
    """Raises the loss more than the worst of 20 random perturbations of full size does."""
    budget, n = 0.4, 30
    model, images = curved(1).eval(), random_images(n)
    labels = model(images).argmax(1)
    loss = LOSSES["cross_entropy"]
    found = loss(model(replace(attack, budget=budget)(Relentless(model), images, labels, draws(n))), labels)
    generator, noisy = torch.Generator().manual_seed(9), []
    for _ in range(20):
        step = torch.randn(images.shape, generator=generator)
        step = step.sign() if attack.norm == "linf" else step / step.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        noisy.append(loss(model((images + budget * step).clamp(0, 1)), labels))
    assert int((found > torch.stack(noisy).amax(0)).sum()) >= 27


@pytest.mark.parametrize("attack", [FastGradient(), Pgd(norm="linf"), Pgd(norm="l2"), SecondOrder(),
                                    SecondOrder(form="averaged", draws=30), FastGradient(norm="l2"), Rfgsm(),
                                    AutoPgd(norm="linf", steps=40),
                                    AutoPgd(norm="l2", steps=40), TargetedPgd(norm="linf", targets=2),
                                    TargetedPgd(norm="l2", targets=2)])
def test_stronger_than_noise_of_the_same_size(attack: Any) -> None:
    beats_noise(attack)


def test_restarts_only_help_and_steps_help() -> None:
    model, images, labels = curved(2).eval(), random_images(30), torch.arange(30) % 3
    loss, classifier = LOSSES["cross_entropy"], Relentless(model)

    def after(attack: Pgd, measured: Loss = loss) -> torch.Tensor:
        return measured(model(attack(classifier, images, labels, draws(30))), labels).detach()

    one, five = (after(Pgd(norm="linf", steps=2, random_start=True, restarts=r, budget=0.3), lead) for r in (1, 5))
    assert (five >= one - 1e-6).all()  # the first restart has the same draws
    assert float((five - one).mean()) > 0
    fgsm = loss(model(FastGradient(budget=0.3)(classifier, images, labels, draws(30))), labels).detach()
    assert float(after(Pgd(norm="linf", budget=0.3)).mean()) > float(fgsm.mean())


def test_one_broken_image_fails_no_other() -> None:
    class Fragile(Halfspace):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) + torch.log(0.99 - images.flatten(1)[:, :1])  # not a number above 0.99

    images = 0.1 + 0.5 * random_images(4)
    images[2, 0, 0, 0] = 1.0
    labels = torch.ones(4).long()
    for attack in ALL:
        classifier = BaseClassifier(Fragile(uneven_weights()))
        found = replace(attack, budget=0.1)(classifier, images, labels, draws(4))
        keep = torch.tensor([0, 1, 3])
        rest = replace(attack, budget=0.1)(classifier, images[keep], labels[keep], draws(4).select(keep.tolist()))
        assert found.isfinite().all()
        torch.testing.assert_close(found[keep], rest, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("make", "settings", "name"), [
    (FastGradient, {"loss": "hinge"}, "loss"), (FastGradient, {"budget": -0.1}, "budget"),
    (Pgd, {"norm": "l1"}, "norm"), (Pgd, {"steps": 0}, "steps"), (Pgd, {"step_size": 0.0}, "step_size"),
    (Pgd, {"restarts": 0}, "restarts"), (Pgd, {"loss": "x"}, "loss"), (Pgd, {"budget": float("nan")}, "budget"),
    (FastGradient, {"norm": "l1"}, "norm"), (Rfgsm, {"start_size": 0.0}, "start_size"), (PgdL1, {"share": 1.5}, "share"),
    (PgdL1, {"norm": "l2"}, "norm"), (AutoPgd, {"norm": "l1"}, "norm"), (AutoPgd, {"progress": 1.0}, "progress"),
    (TargetedPgd, {"choice": "worst"}, "choice"), (TargetedPgd, {"targets": 0}, "targets"),
    (TargetedPgd, {"automatic": True, "step_size": 0.1}, "step_size"), (UniformNoise, {"samples": 0}, "samples"),
    (GaussianNoise, {"norm": "linf"}, "norm"),
])
def test_wrong_settings_are_named(make: Any, settings: dict[str, Any], name: str) -> None:
    with pytest.raises(Wrong, match=f"^{name}: expected"):
        make(**settings)


NOT_THE_CLASS_DEFAULT = {"pgd_linf": {"random_start": True}, "auto_pgd_linf": {"random_start": True},
                         "pgd_targeted_linf": {"random_start": True}, "cw_pgd_l2": {"steps": 20, "loss": "margin"}}
BUDGET_ATTACKS = ["fgsm", "pgd_linf", "pgd_l2", "second_order", "fgm", "rfgsm", "pgd_l1", "auto_pgd_linf", "auto_pgd_l2",
                  "cw_pgd_l2", "pgd_targeted_linf", "pgd_targeted_l2", "uniform_noise", "gaussian_noise", "lrc",
                  "square_linf", "square_l2"]


@pytest.mark.parametrize("name", BUDGET_ATTACKS)
def test_configs_say_every_setting_with_its_default(name: str) -> None:
    text = (CONF / f"{name}.yaml").read_text()
    lines = text.splitlines()
    assert lines[0] == f"# @package attack.{name}"
    assert lines[1].startswith("# ")
    assert " Source: " in lines[1]
    assert all("#" in line for line in lines[3:])
    settings = yaml.safe_load(text)
    module, _, attribute = settings.pop("_target_").rpartition(".")
    made = getattr(importlib.import_module(module), attribute)(**settings)
    assert set(settings) == {field.name for field in fields(made)}
    assert made == type(made)(norm=settings["norm"], **NOT_THE_CLASS_DEFAULT.get(name, {}))
