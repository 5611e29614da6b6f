"""Which stage of a cascade answers, and what holds around an image: searched point by point where images have two pixels."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from toy_cascades import Rule, answers, at, ball, broken, dense, pixels, random_cascade, threshold, thresholds

from robust_cli.messages import UserError, Wrong
from robust_cli.models.weights import fingerprint, load, save
from robust_cli.verification.bounds import Ball, margins
from robust_cli.verification.cascade import Cascade, certifies
from robust_cli.verification.certified import proof
from robust_cli.verification.lp_dual import LpDual
from robust_cli.verification.reading import read

every_norm = pytest.mark.parametrize("norm", ["l2", "linf"])


@torch.no_grad()
def by_definition(cascade: Cascade, image: torch.Tensor) -> tuple[int, bool]:
    """The first stage, one image at a time, whose bounds leave its own class alone on the ball; else the last."""
    for k, stage in enumerate(cascade.stages):
        exact, point = copy.deepcopy(stage).double(), image[None].double()
        own = exact(point).argmax(1)
        bounds = margins(read(exact, (1, 1, 2)), point, own, Ball(cascade.norm, cascade.radius))[0]
        if all(float(bounds[c]) > 0 for c in range(len(bounds)) if c != int(own)):
            return k, True
    return len(cascade.stages) - 1, False


# ---- Who answers --------------------------------------------------------------------------------------------------------------

@every_norm
def test_the_first_stage_that_certifies_its_class_answers_with_its_logits(norm: str) -> None:
    cascade, images = random_cascade(4, norm=norm), pixels(60)
    expected = [by_definition(cascade, image) for image in images]
    stage, certified = cascade.answering(images)
    assert list(zip(stage.tolist(), certified.tolist(), strict=True)) == expected
    assert set(expected) == {(0, True), (1, True), (2, True), (2, False)}, "every case occurs"
    assert torch.equal(cascade.chosen(images), stage)
    logits = cascade(images)
    for k, image, found in zip(stage.tolist(), images, logits, strict=True):
        torch.testing.assert_close(found, cascade.stages[k](image[None])[0])


@every_norm
def test_thresholds_on_paper(norm: str) -> None:
    """Stage 0 certifies beyond 0.1 of 0.5, stage 1 beyond 0.1 of 0.3, so that together they certify everything."""
    cascade = thresholds(0.5, 0.3, norm=norm)
    stage, certified = cascade.answering(at(0.39, 0.41, 0.59, 0.61, 0.401))
    assert stage.tolist() == [0, 1, 1, 0, 1]
    assert certified.tolist() == [True] * 5
    assert answers(cascade, at(0.39, 0.41, 0.59, 0.61)).tolist() == [0, 1, 1, 1]
    stage, certified = thresholds(0.5, 0.45, norm=norm).answering(at(0.39, 0.47, 0.56))
    assert (stage.tolist(), certified.tolist()) == ([0, 1, 1], [True, False, True])


def test_the_order_of_the_stages_matters() -> None:
    one, other, images = thresholds(0.5, 0.2), thresholds(0.2, 0.5), at(0.05, 0.35, 0.65)
    assert answers(one, images).tolist() == [0, 0, 1]
    assert answers(other, images).tolist() == [0, 1, 1]


def test_stages_that_are_not_in_use_are_not_asked() -> None:
    cascade, images = random_cascade(2), pixels(60)
    shorter = Cascade(list(cascade.stages)[:2], "l2", cascade.radius)
    cascade.in_use = 2
    assert torch.equal(cascade(images), shorter(images))
    assert torch.equal(cascade.agreed(images, answers(cascade, images)), shorter.agreed(images, answers(cascade, images)))
    cascade.in_use = 1
    assert torch.equal(cascade(images), cascade.stages[0](images))
    assert len(cascade.asked) == 1


def test_the_last_stage_is_not_proven_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its proof would change nothing; a network alone asks for none at all."""
    asked: list[int] = []
    cascade, images = random_cascade(2), pixels(20)
    monkeypatch.setattr("robust_cli.verification.cascade.certifies",
                        lambda network, *more: asked.append(list(cascade.stages).index(network)) or certifies(network, *more))
    cascade(images)
    assert asked == [0, 1]


def test_gradients_flow_to_the_images_through_the_stage_that_answers() -> None:
    cascade, images = random_cascade(2), pixels(40).requires_grad_()
    weights = torch.randn(40, 2, generator=torch.Generator().manual_seed(1))
    (found,) = torch.autograd.grad((cascade(images) * weights).sum(), images)
    stage = cascade.chosen(images)
    assert len(stage.unique()) == 3
    for k in range(3):
        (expected,) = torch.autograd.grad((cascade.stages[k](images) * weights).sum(), images)
        torch.testing.assert_close(found[stage == k], expected[stage == k])


class Normed(nn.Module):
    """A network with batch norm and dropout, which the mode matters to."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def test_asking_a_stage_changes_nothing_of_it_and_is_evaluation_whatever_its_mode() -> None:
    torch.manual_seed(0)
    network, images = Normed(), pixels(30)
    for _ in range(20):
        network(images)
    with torch.no_grad():
        network.layers[-1].bias -= network.eval()(images).median(0).values
    before, expected = copy.deepcopy(network.state_dict()), certifies(copy.deepcopy(network).eval(), images, "l2", 0.05)
    assert 0 < int(expected.sum()) < 30
    assert torch.equal(certifies(network.train(), images, "l2", 0.05), expected)
    assert all(part.training for part in network.modules())
    assert all(weight.requires_grad and weight.grad is None for weight in network.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_proofs_are_in_float64_under_autocast_too() -> None:
    cascade, images = random_cascade(2), pixels(60)
    expected = cascade.answering(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = cascade.answering(images)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_no_images_at_all() -> None:
    assert certifies(dense(0), pixels(0), "l2", 0.1).tolist() == []


# ---- What holds around an image -----------------------------------------------------------------------------------------------

CASES = [(norm, seed, classes) for norm in ("l2", "linf") for seed, classes in ((3, 3), (4, 2), (4, 3))]


def sound(cascade: Cascade, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    return LpDual(cascade.norm)(cascade, images, classes, cascade.norm, None)


def published(cascade: Cascade, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    return LpDual(cascade.norm, cascade="published")(cascade, images, classes, cascade.norm, None)


def count_broken(rule: Rule, norm: str, seed: int, classes: int, n: int = 50) -> tuple[int, int]:
    """How many of some images a rule claims, and of how many of them the cascade's class changes within what it claims."""
    cascade, images = random_cascade(seed, norm=norm, classes=classes), pixels(n, seed)
    named = answers(cascade, images)
    radii = rule(cascade, images, named)
    some = radii > 0
    return int(some.sum()), int(broken(cascade, images[some], named[some], radii[some], norm).sum())


@pytest.mark.parametrize(("norm", "seed", "classes"), CASES)
def test_what_is_proven_of_a_cascade_holds_at_every_point(norm: str, seed: int, classes: int) -> None:
    claimed, wrong = count_broken(sound, norm, seed, classes)
    assert claimed >= 5, "a rule that claims nothing is of no use"
    assert wrong == 0, f"the sound rule is broken: {wrong} of {claimed} images"


@pytest.mark.parametrize(("norm", "seed", "classes"), CASES)
def test_the_published_count_does_not_hold(norm: str, seed: int, classes: int) -> None:
    """Mangal et al. 2023: within the radius of an image that some stage certifies the cascade gives another class."""
    claimed, wrong = count_broken(published, norm, seed, classes)
    assert wrong >= 3, f"{wrong} of {claimed}"
    assert claimed > count_broken(sound, norm, seed, classes)[0]


def last_alone(cascade: Cascade, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Without asking whether the stages agree."""
    return proof(cascade.stages[-1], (1, 1, 2)).largest(images, classes, cascade.norm, 1e-3).clamp(max=cascade.radius)


def beyond_the_gate(cascade: Cascade, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Without the end at the gate's radius."""
    largest = proof(cascade.stages[-1], (1, 1, 2)).largest(images, classes, cascade.norm, 1e-3)
    return torch.where(cascade.agreed(images, classes), largest, 0.0)


@pytest.mark.parametrize("mutant", [last_alone, beyond_the_gate])
def test_that_all_agree_and_that_the_radius_ends_at_the_gate_is_needed(mutant: Rule) -> None:
    assert sum(count_broken(mutant, *case)[1] for case in CASES) > 0


@every_norm
def test_that_the_last_stage_is_certified_is_needed(norm: str) -> None:
    """At 0.61 all say 1 and the first stage certifies it. At 0.55 none certifies anything, and the last one says 0."""
    cascade, image = thresholds(0.5, 0.6, norm=norm), at(0.61)
    one = answers(cascade, image)
    assert (one.tolist(), cascade.agreed(image, one).tolist(), cascade.answering(image)[1].tolist()) == ([1], [True], [True])
    assert broken(cascade, image, one, [0.1], norm).tolist() == [True]
    assert answers(cascade, at(0.55)).tolist() == [0]
    assert sound(cascade, image, one).tolist() == pytest.approx([0.01], rel=2e-3)


@every_norm
def test_a_counterexample_on_paper(norm: str) -> None:
    """At 0.39 the first stage certifies class 0 within 0.1. At 0.45 it certifies nothing any more, and the second one class 1."""
    cascade = thresholds(0.5, 0.3, norm=norm)
    image = at(0.39)
    named = answers(cascade, image)
    assert named.tolist() == [0]
    assert published(cascade, image, named).tolist() == [0.1]
    shifted = ball(image[0], 0.1, norm)
    assert answers(cascade, at(0.45)).tolist() == [1]
    assert set(answers(cascade, shifted).tolist()) == {0, 1}
    assert sound(cascade, image, named).tolist() == [0.0]


def test_agreed_is_of_all_stages_and_of_the_class_that_is_asked_for() -> None:
    cascade, images = thresholds(0.5, 0.3, 0.7), at(0.1, 0.4, 0.6, 0.9)
    assert cascade.agreed(images, torch.tensor([0, 0, 1, 1])).tolist() == [True, False, False, True]
    assert cascade.agreed(images, torch.tensor([1, 1, 0, 0])).tolist() == [False] * 4


# ---- A model like any other ---------------------------------------------------------------------------------------------------

def test_a_cascade_is_saved_and_loaded_with_its_radius_and_what_is_in_use(tmp_path: Path) -> None:
    cascade, images = random_cascade(2, radius=36 / 255), pixels(60)
    cascade.in_use = 2
    save(cascade, tmp_path / "model.safetensors")
    other = random_cascade(5)
    load(other, tmp_path / "model.safetensors")
    assert (other.radius, other.in_use) == (36 / 255, 2)
    assert torch.equal(other(images), cascade(images))


def test_a_cascade_of_another_length_is_refused_in_one_line(tmp_path: Path) -> None:
    save(random_cascade(2), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"not the weights of this model: the file has a tensor stages\.2"):
        load(random_cascade(2, stages=2), tmp_path / "model.safetensors")


def test_the_fingerprint_tells_cascades_apart_that_answer_differently() -> None:
    stages = [dense(0), dense(1)]
    made = [Cascade(stages, "l2", 0.1), Cascade(stages, "l2", 0.2), Cascade(stages, "linf", 0.1),
            Cascade(stages[::-1], "l2", 0.1)]
    fewer = Cascade(stages, "l2", 0.1)
    fewer.in_use = 1
    marks = [fingerprint(cascade, {"model": "dense"}, "fp32") for cascade in (*made, fewer)]
    assert len(set(marks)) == 5
    assert fingerprint(Cascade(copy.deepcopy(stages), "l2", 0.1), {"model": "dense"}, "fp32") == marks[0]


@pytest.mark.parametrize(("stages", "norm", "said"), [
    ([], "l2", "stages: expected at least one network"), ([threshold(0.5)], "l1", "norm: expected l2 or linf, got 'l1'")])
def test_a_cascade_that_is_none_is_refused(stages: list[nn.Module], norm: str, said: str) -> None:
    with pytest.raises(Wrong, match=said):
        Cascade(stages, norm, 0.1)
