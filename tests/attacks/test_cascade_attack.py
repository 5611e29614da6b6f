"""The attack on cascades: against an exhaustive search of balls of two pixels, plain PGD, and cascades known on paper."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from toy_cascades import answers, at, broken, dense, pixels, random_cascade, threshold, thresholds
from toy_victims import Identity, draws, random_images, uneven_weights

from robust_cli.attacks.cascade import CascadeAttack
from robust_cli.attacks.classifiers import BaseClassifier, NoisyGradients, SmoothedClassifier
from robust_cli.attacks.geometry import distances
from robust_cli.attacks.pgd import Pgd
from robust_cli.composing.build import build
from robust_cli.evaluation.plan import check_suited, kind
from robust_cli.messages import UserError, Wrong
from robust_cli.verification.cascade import Cascade

CONF = Path(__file__).resolve().parents[2] / "conf" / "attack"
every_norm = pytest.mark.parametrize("norm", ["l2", "linf"])


def attacked(attack: Any, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, first: int = 0) -> torch.Tensor:
    """The attack's images, which are in the ball, in the box and float32."""
    found = attack(BaseClassifier(model), images, labels, draws(len(images), first=first))
    assert found.dtype == torch.float32
    assert (distances(found, images, attack.norm) <= attack.budget * (1 + 1e-9)).all()
    assert ((found >= 0) & (found <= 1)).all()
    return found


def beaten(attack: Any, model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return answers(model, attacked(attack, model, images, labels)) != labels


# ---- Strength -----------------------------------------------------------------------------------------------------------------

# norm, radius of the cascade, budget over it, stages, classes
Problem = tuple[str, float, float, int, int]
PROBLEMS: list[Problem] = [("l2", 0.05, 1.0, 3, 2), ("linf", 0.05, 1.0, 3, 3), ("l2", 0.1, 0.5, 2, 3), ("l2", 0.05, 2.0, 3, 3),
                           ("linf", 0.03, 3.0, 4, 2), ("l2", 0.1, 1.0, 4, 6)]


@cache
def hard(problem: Problem, seeds: int = 3, n: int = 30) -> list[tuple[Cascade, torch.Tensor, torch.Tensor]]:
    """Cascades, and those of some images that a stage certifies and whose ball has a point of another class, with their class."""
    norm, radius, times, stages, classes = problem
    found = []
    for seed in range(seeds):
        cascade, images = random_cascade(seed, stages, norm, radius, classes), pixels(n, seed)
        images = images[cascade.answering(images)[1]]
        labels = answers(cascade, images)
        there = broken(cascade, images, labels, [times * radius] * len(images), norm, side=17)
        found.append((cascade, images[there], labels[there]))
    return found


@cache
def share(attack: Any, problem: Problem) -> float:
    """Of the images that can be broken, how many the attack breaks."""
    norm, radius, times, *_ = problem
    attack = replace(attack, norm=norm, budget=times * radius)
    found = torch.cat([beaten(attack, *case) for case in hard(problem)])
    assert len(found) >= 12
    return float(found.double().mean())


@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_an_exhaustive_search_breaks_it_breaks(problem: Problem) -> None:
    assert share(CascadeAttack(), problem) >= 0.93


def test_restarts_find_the_rest() -> None:
    assert share(CascadeAttack(), PROBLEMS[4]) < 1
    assert share(CascadeAttack(restarts=4), PROBLEMS[4]) > share(CascadeAttack(), PROBLEMS[4])


@every_norm
def test_the_nearest_class_need_not_be_the_one_that_can_be_reached(norm: str) -> None:
    """A first stage whose second class is 0.1 behind the first everywhere, and whose third one catches up to the right; it
    certifies the first up to 0.4, and the last stage says 1 from 0.3 on. Only the third class's slope leads beyond 0.4."""
    layer = nn.Linear(2, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 0.0], [0.0, 0.0], [2.0, 0.0]]))
        layer.bias.copy_(torch.tensor([0.0, -0.1, -1.0]))
    last = nn.Linear(2, 3)
    with torch.no_grad():
        last.weight.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]))
        last.bias.copy_(torch.tensor([0.3, -0.3, -9.0]))
    cascade = Cascade([nn.Sequential(nn.Flatten(), layer), nn.Sequential(nn.Flatten(), last)], norm, 0.1).eval()
    image, label = at(0.35), torch.zeros(1, dtype=torch.long)
    assert (answers(cascade, image).tolist(), answers(cascade, at(0.41)).tolist()) == ([0], [1])
    assert beaten(CascadeAttack(norm=norm, budget=0.08, restarts=1), cascade, image, label).tolist() == [True]


def test_it_beats_plain_gradient_ascent_on_the_cascade() -> None:
    """Whose gradient is that of the stage that answers, and knows of no border where another one does."""
    assert share(Pgd(), PROBLEMS[0]) < 0.75
    assert share(CascadeAttack(), PROBLEMS[0]) > 0.95


def test_an_attack_that_returns_its_input_fails_the_test_of_strength() -> None:
    assert share(Identity(), PROBLEMS[0]) == 0


@every_norm
def test_cases_on_paper(norm: str) -> None:
    """Thresholds 0.5 and 0.3, radius 0.1. Class 0 ends at 0.4, where stage 0 stops certifying; class 1 goes on below 0.5 down to
    there, and beyond 0.6 both agree for good. Of a class that all stages give nothing is to be had within the gate."""
    cascade = thresholds(0.5, 0.3, norm=norm)
    images, labels = at(0.28, 0.33, 0.39, 0.45, 0.55, 0.75), torch.tensor([0, 0, 0, 1, 1, 1])
    attack = CascadeAttack(norm=norm, budget=0.09)
    assert answers(cascade, images).tolist() == labels.tolist()
    assert beaten(attack, cascade, images, labels).tolist() == [False, True, True, True, False, False]
    assert beaten(replace(attack, budget=0.3), cascade, images, labels).tolist() == [True, True, True, True, True, False]


@every_norm
def test_the_last_stage_where_none_certifies(norm: str) -> None:
    """Thresholds 0.5 and 0.6: at 0.61 all say 1; between 0.5 and 0.6 none certifies and the last one says 0."""
    cascade, images, one = thresholds(0.5, 0.6, norm=norm), at(0.61, 0.68, 0.72), torch.ones(3, dtype=torch.long)
    assert beaten(CascadeAttack(norm=norm, budget=0.09), cascade, images, one).tolist() == [True, True, False]


@every_norm
def test_one_stage_is_a_network(norm: str) -> None:
    """An affine one: beaten up to its distance from the face, and no further."""
    weight, images = uneven_weights(), 0.5 + 0.1 * (random_images(30) - 0.5)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        linear[1].weight.copy_(torch.stack([torch.zeros(16), weight]))
        linear[1].bias.copy_(torch.stack([torch.zeros(()), -0.5 * weight.sum()]))
        away = linear(images)[:, 1].abs() / weight.norm(p=2 if norm == "l2" else 1)
    budget = float(away.median())
    found = beaten(CascadeAttack(norm=norm, budget=budget), Cascade([linear], norm, 0.1), images, answers(linear, images))
    clear = (away / budget - 1).abs() > 1e-3
    assert torch.equal(found[clear], (away < budget)[clear])
    assert clear.sum() >= 28


def test_another_norm_than_the_cascade_s() -> None:
    """An l2 gate of 0.1 covers linf budgets up to 0.1 / sqrt(2) of two pixels, an linf gate l2 budgets up to its own."""
    assert CascadeAttack(norm="linf", budget=0.07).covered(thresholds(0.5), 2)
    assert not CascadeAttack(norm="linf", budget=0.071).covered(thresholds(0.5), 2)
    assert CascadeAttack(norm="l2", budget=0.1).covered(thresholds(0.5, norm="linf"), 2)
    assert not CascadeAttack(norm="l2", budget=0.101).covered(thresholds(0.5, norm="linf"), 2)
    for norm, gate in (("linf", "l2"), ("l2", "linf")):
        cascade, images = random_cascade(2, norm=gate), pixels(40, 2)
        labels = answers(cascade, images)
        there = broken(cascade, images, labels, [0.05] * 40, norm, side=17)
        found = beaten(CascadeAttack(norm=norm, budget=0.05), cascade, images[there], labels[there])
        assert len(found) >= 10
        assert found.double().mean() >= 0.9


# ---- What is spared -----------------------------------------------------------------------------------------------------------

def passes(cascade: Cascade, images: torch.Tensor, labels: torch.Tensor, **settings: Any) -> tuple[int, int]:
    classifier = BaseClassifier(cascade)
    CascadeAttack(**({"restarts": 1} | settings))(classifier, images, labels, draws(len(images)))
    return classifier.network.forward_passes, classifier.network.backward_passes


def test_costs_counted_by_hand() -> None:
    """0.75 of thresholds (0.5, 0.3): both say 1 within 0.1, so only the last stage is a target: 4 looks (3 steps) at two
    conditions, a backward pass each, two classes at the clean image, and one answer at the end. At 0.35 the second stage says 1:
    with the label 0 the first stage alone can be kept from certifying, and so on until it succeeds."""
    sure, one = at(0.75), torch.ones(1, dtype=torch.long)
    assert passes(thresholds(0.5, 0.3), sure, one, budget=0.1, steps=3) == (2 + 8 + 1, 8)
    # Beyond the gate the first stage is a target too, with its logits besides: 4 looks at one condition of two passes.
    assert passes(thresholds(0.5, 0.3), sure, one, budget=0.15, steps=3) == (2 + 8 + 1 + 8 + 1, 4 + 8)
    # The first stage says another class than the label: it need not be kept from certifying, and is a target itself.
    assert passes(thresholds(0.8, 0.3), sure, one, budget=0.01, steps=3) == (2 + 4 + 1 + 4 + 1, 4 + 4)


def test_an_image_that_is_beaten_costs_nothing_more() -> None:
    """At 0.33 the second stage disagrees, of which the first look tells; one step later the attack is over."""
    cascade, images, label = thresholds(0.5, 0.3), at(0.33), torch.zeros(1, dtype=torch.long)
    few, many = (passes(cascade, images, label, budget=0.09, steps=steps, step_size=2.0) for steps in (4, 40))
    assert few == many
    assert few[1] <= 6


def test_a_stage_that_cannot_answer_wrongly_within_the_gate_is_no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """That its class at the image is the label rules it out: what it certifies within the gate's radius holds at the image."""
    from robust_cli.attacks.cascade import _Victim

    tried: list[tuple[int, int]] = []
    before = _Victim.conditions
    monkeypatch.setattr(_Victim, "conditions", lambda self, target, points, rows, softly: (
        tried.append((target, len(rows))), before(self, target, points, rows, softly))[1])
    cascade, images = random_cascade(4), pixels(40)
    labels = answers(cascade, images)
    attacked(CascadeAttack(budget=0.05, steps=1), cascade, images, labels)
    most = {target: max(n for t, n in tried if t == target) for target in {t for t, _ in tried}}
    other = [int((answers(stage, images) != labels).sum()) for stage in cascade.stages]
    assert most[1] <= other[1] < 40
    assert most.get(0, 0) == other[0]
    assert most[2] > other[2]


# ---- How ----------------------------------------------------------------------------------------------------------------------

def test_an_image_does_not_depend_on_those_beside_it_and_draws_decide() -> None:
    cascade, images = random_cascade(2), pixels(30)
    labels = answers(cascade, images)
    attack = CascadeAttack(budget=0.05, steps=5, restarts=3)
    whole = attacked(attack, cascade, images, labels)
    parts = torch.cat([attacked(attack, cascade, images[k : k + 10], labels[k : k + 10], first=k) for k in (0, 10, 20)])
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-6)
    torch.testing.assert_close(whole, attacked(attack, cascade, images, labels), rtol=0, atol=0)


def test_the_cascade_is_left_as_it_was() -> None:
    cascade, images = random_cascade(2).train(), pixels(10)
    labels = answers(cascade, images)
    attacked(CascadeAttack(budget=0.05, steps=3), cascade, images, labels)
    assert all(part.training for part in cascade.modules())
    assert all(weight.requires_grad and weight.grad is None for weight in cascade.parameters())


def test_stages_that_are_not_in_use_are_not_attacked() -> None:
    cascade, shorter, images = random_cascade(2), random_cascade(2, stages=2), pixels(30)
    cascade.in_use = 2
    labels, attack = answers(cascade, images), CascadeAttack(budget=0.05, steps=5)
    assert torch.equal(attacked(attack, cascade, images, labels), attacked(attack, shorter, images, labels))


# ---- Who may be attacked ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("classifier", "found"), [
    (BaseClassifier(dense(0)), "Sequential"), (BaseClassifier(threshold(0.5)), "Sequential"),
    (SmoothedClassifier(thresholds(0.5, 0.3), 0.1), "Cascade under noise"),
    (NoisyGradients(thresholds(0.5, 0.3), 0.1), "Cascade under noise")])
def test_another_victim_is_refused_in_one_line(classifier: Any, found: str) -> None:
    attack = CascadeAttack(budget=0.1)
    with pytest.raises(UserError, match=rf"^attack\.mine: expected a cascade of networks .* found {found}$") as refused:
        check_suited({"mine": attack}, classifier)
    assert "\n" not in str(refused.value)
    with pytest.raises(Wrong, match="classifier: expected a cascade of networks"):
        attack(classifier, at(0.4), torch.zeros(1, dtype=torch.long), draws(1))
    check_suited({"mine": attack, "other": Pgd()}, BaseClassifier(thresholds(0.5, 0.3)))


@pytest.mark.parametrize(("settings", "said"), [
    ({"norm": "l1"}, "norm: expected l2 or linf"), ({"steps": 0}, "steps"), ({"restarts": 0}, "restarts"),
    ({"step_size": 0.0}, "step_size"), ({"budget": -1.0}, "budget")])
def test_a_setting_out_of_its_range_is_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(Wrong, match=said):
        CascadeAttack(**settings)


@every_norm
def test_the_configs(norm: str) -> None:
    built = build(yaml.safe_load((CONF / f"cascade_{norm}.yaml").read_text()), "attack")
    assert built == CascadeAttack(norm=norm)
    assert kind(built) == "gradient"
