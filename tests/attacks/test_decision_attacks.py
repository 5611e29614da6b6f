"""Attacks that see only the classifier's answers: closed forms, random answers, batches, a small trained network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from toy_victims import PIXELS, Halfspace, Identity, curved, draws, random_images, victims

from robust_cli.attacks.boundary import Boundary
from robust_cli.attacks.classifiers import BaseClassifier, SmoothedClassifier
from robust_cli.attacks.decisions import Answers, between, first_examples, halve
from robust_cli.attacks.deepfool import DeepFool
from robust_cli.attacks.fmn import Fmn
from robust_cli.attacks.geometry import distances, size
from robust_cli.attacks.hop_skip_jump import HopSkipJump
from robust_cli.messages import Wrong

ATTACKS: dict[str, Any] = {"boundary": Boundary(iterations=2500), "hop_skip_jump_l2": HopSkipJump(iterations=20),
                           "hop_skip_jump_linf": HopSkipJump(norm="linf", iterations=20)}
SHORT: dict[str, Any] = {"boundary": Boundary(iterations=200), "hop_skip_jump_l2": HopSkipJump(iterations=4),
                         "hop_skip_jump_linf": HopSkipJump(norm="linf", iterations=4)}
WITHIN = {"boundary": 1.1, "hop_skip_jump_l2": 1.1, "hop_skip_jump_linf": 1.1}
every_attack = pytest.mark.parametrize("name", ATTACKS)
Victim = tuple[nn.Module, torch.Tensor, torch.Tensor]


class Blind(BaseClassifier):
    """Answers, and nothing else."""

    def gradient(self, *_: Any) -> Any:
        raise AssertionError("a decision-based attack asked for a gradient")

    losses = views = gradient


def attacked(attack: Any, model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return attack(Blind(model), images, labels, draws(len(images)))


def answers(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(images).argmax(1)


def half_space(side: int = 4, n: int = 4, away: float = 0.5) -> tuple[Halfspace, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Grey images of both classes on a half space of unequal signed weights; unit normal, distances about ``away`` in l2."""
    pixels = side * side
    weight = torch.randn(pixels, generator=torch.Generator().manual_seed(3)) * torch.linspace(0.3, 2, pixels)
    weight = weight / weight.norm()
    images = 0.5 + 0.02 * (torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(4)) - 0.5)
    images = images + away * (torch.arange(n) % 2 * 2 - 1).view(-1, 1, 1, 1) * weight.view(1, side, side)
    model = Halfspace(weight, bias=-0.5 * float(weight.sum()))
    score = images.double().flatten(1) @ weight.double() + model.bias
    return model, images, (score > 0).long(), score.abs()


def near(attack: Any, side: int, factor: float) -> torch.Tensor:
    """Asserts that the distance is the exact one, up to a factor, and every image fooled."""
    model, images, labels, score = half_space(side)
    weight = model.weight.detach().double()
    exact = score / (weight.norm() if attack.norm == "l2" else weight.abs().sum())
    found = attacked(attack, model, images, labels)
    assert ((found >= 0) & (found <= 1)).all()
    assert found.dtype == torch.float32
    assert (answers(model, found) != labels).all()
    ratio = distances(found, images, attack.norm) / exact
    assert (ratio > 1 - 1e-5).all()
    assert (ratio < factor).all(), ratio
    return ratio


@every_attack
@pytest.mark.parametrize("side", [4, 10])
def test_the_distance_of_a_half_space(name: str, side: int) -> None:
    near(ATTACKS[name], side, WITHIN[name])


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_an_attack_that_returns_its_input_is_refused(norm: str) -> None:
    with pytest.raises(AssertionError):
        near(Identity(norm), 4, 1.1)


@pytest.mark.parametrize("attack", [Boundary(iterations=1500, memory=0, success_rate=0.2),
                                    Boundary(iterations=3000, memory=0, source_step=0.01), Boundary(iterations=1000, tolerance=0),
                                    HopSkipJump(iterations=20, memory=0), HopSkipJump(norm="linf", iterations=30, memory=0)],
                         ids=repr)
def test_the_papers_searches_get_there_too(attack: Any) -> None:
    near(attack, 4, 1.1)


def test_what_is_learnt_from_earlier_answers_is_worth_queries_in_linf() -> None:
    forgetful = near(HopSkipJump(norm="linf", iterations=8, memory=0), 10, 4.0)
    assert near(HopSkipJump(norm="linf", iterations=8, memory=0.7), 10, 4.0).mean() < 0.98 * forgetful.mean()


@every_attack
def test_a_smoothed_half_space(name: str) -> None:
    """Under Gaussian noise it is the same half space. Kept is what 100 votes tell from chance twice: a lead of about 0.3, which
    is 0.39 noise_std beyond the boundary; the images are 3 noise_std before it."""
    model, images, labels, score = half_space()
    model.weight.data *= 10
    model.bias *= 10
    noise_std, attack = 0.5 / 3, (Boundary(iterations=1000) if name == "boundary" else replace(SHORT[name], iterations=8))
    victim = SmoothedClassifier(model, noise_std, votes=100, draws=100)
    found = attack(victim, images, labels, draws(len(images)))
    weight = model.weight.detach().double() / 10
    ratio = distances(found, images, attack.norm) / (score if attack.norm == "l2" else score / weight.abs().sum())
    assert (answers(model, found) != labels).all(), ratio  # more than half of infinitely many votes
    assert (ratio > 1).all(), ratio
    assert (ratio < 1.7).all(), ratio


def test_an_example_is_confirmed_by_a_second_answer_and_one_answer_is_not_asked_again() -> None:
    """Of three points the first is called adversarial twice, the second once, the third never."""
    said = iter([torch.tensor([0.9, 0.9, 0.1]), torch.tensor([0.9, 0.1])])
    victim = SmoothedClassifier(Halfspace(torch.ones(PIXELS)), 0.2, votes=100)
    victim.lead = lambda *args: next(said)  # type: ignore[method-assign]
    asker = Answers(victim, torch.zeros(3).long(), draws(3))
    assert asker.confirmed(random_images(3), torch.arange(3)).tolist() == [True, False, False]


@every_attack
def test_a_random_classifier_that_never_settles_is_no_victim(name: str) -> None:
    """Where all is chance nothing is confirmed but by chance, and the search comes to its end within the box."""
    model = Halfspace(torch.zeros(PIXELS), bias=0.5)
    model.weight.data[0] = 1e-3
    images = random_images(3)
    found = SHORT[name](SmoothedClassifier(model, 0.2, votes=20), images, torch.ones(3).long(), draws(3))
    assert torch.equal(found, images)


@every_attack
def test_a_batch_is_its_images_one_by_one(name: str) -> None:
    model, images = curved().eval(), random_images(4)
    labels = answers(model, images)
    labels[2] = (labels[2] + 1) % 3  # wrong from the beginning
    for victim in (Blind(model), SmoothedClassifier(model, 0.05, votes=10, draws=10)):
        short = SHORT[name] if not victim.random else (Boundary(iterations=30) if name == "boundary" else
                                                       HopSkipJump(norm=SHORT[name].norm, iterations=2, initial_queries=20))
        whole = short(victim, images, labels, draws(4))
        for k in range(4):
            alone = short(victim, images[k : k + 1], labels[k : k + 1], draws(1, first=k))
            assert torch.allclose(alone[0], whole[k], atol=1e-4)
        if not victim.random:
            assert torch.equal(whole[2], images[2])
            assert (answers(model, whole) != labels).all()


@every_attack
def test_where_there_is_no_example_the_image_comes_back(name: str) -> None:
    images = random_images(3)
    assert torch.equal(attacked(SHORT[name], Halfspace(torch.zeros(PIXELS), bias=1.0), images, torch.ones(3).long()), images)


@every_attack
def test_one_image_without_a_start_does_not_fail_the_batch(name: str) -> None:
    """The first image is no number, so nothing is ever found for it; the others go as they go alone."""
    model, images, labels, _ = half_space()
    damaged = images.clone()
    damaged[0, 0, 1, 1] = torch.nan
    found, whole = attacked(SHORT[name], model, damaged, labels), attacked(SHORT[name], model, images, labels)
    assert torch.allclose(found[1:], whole[1:], atol=1e-4)
    assert torch.equal(found[0].nan_to_num(-1), damaged[0].nan_to_num(-1))
    assert (answers(model, found)[1:] != labels[1:]).all()


@every_attack
def test_the_model_is_left_as_it_was(name: str) -> None:
    model, images = curved().train(), random_images(2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    attacked(SHORT[name], model, images, torch.zeros(2).long())
    assert model.training
    assert model[2].training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_queries_are_what_the_docstrings_say() -> None:
    model, images, labels, _ = half_space(n=1)
    for attack, most, least in ((Boundary(iterations=300, tolerance=0), 352, 300),
                                (HopSkipJump(iterations=4, tolerance=0), 52 + 614 + 4 * (7 + 8), 614)):
        victim = Blind(model)
        attack(victim, images, labels, draws(1))
        assert least < victim.network.forward_passes <= most
        assert victim.network.backward_passes == 0
    assert sum(HopSkipJump().queries(t) for t in range(1, 65)) == pytest.approx(34_000, rel=0.02)
    assert HopSkipJump().halvings(784) == 15
    assert HopSkipJump(norm="linf").halvings(784) == 20


def test_converged_images_cost_no_more() -> None:
    model, images, labels, _ = half_space(n=1)
    passes = []
    for tolerance in (0.0, 0.02):
        victim = Blind(model)
        Boundary(iterations=2000, tolerance=tolerance)(victim, images, labels, draws(1))
        passes.append(victim.network.forward_passes)
    assert passes[1] < 0.8 * passes[0]


def test_starts_and_halvings() -> None:
    model, images, labels, score = half_space()
    oracle, rows = Answers(Blind(model), labels, draws(4)), torch.arange(4)
    best = first_examples(oracle, images, "l2", 10)
    assert best.found.all()
    assert (answers(model, best.images) != labels).all()
    ends = 1 - images
    assert (answers(model, ends) != labels).all()
    for norm in ("l2", "linf"):
        found = halve(oracle, images, ends, rows, norm, 16)
        assert (answers(model, found) != labels).all()
        inner = between(images, found, torch.full((4,), 0.999), norm)
        assert (answers(model, inner) == labels).all()
        assert torch.allclose(size(inner - images, norm), 0.999 * size(found - images, norm), rtol=1e-4)
    assert (best.distance > score - 1e-5).all()


@pytest.fixture(scope="module")
def trained() -> Victim:
    """A small network trained on digits of 14x14, and test images that it gets right."""
    return victims(24)


def stronger_than_noise(attack: Any, victim: Victim, factor: float) -> None:
    """Asserts that it fools all images, where noise of the same size fools few, and nearly as near as gradients do."""
    model, images, labels = victim
    found = attacked(attack, model, images, labels)
    assert (answers(model, found) != labels).all()
    lengths, generator = size(found - images, attack.norm), torch.Generator().manual_seed(1)
    survivors = torch.ones(len(images), dtype=torch.bool)
    for _ in range(20):
        noise = torch.randn(images.shape, generator=generator)
        noise = noise.sign() if attack.norm == "linf" else noise / size(noise, "l2").view(-1, 1, 1, 1)
        survivors &= answers(model, (images + lengths.view(-1, 1, 1, 1) * noise).clamp(0, 1)) == labels
    assert survivors.float().mean() > 0.8
    informed = Fmn(norm=attack.norm)(BaseClassifier(model), images, labels, draws(len(images)))
    ratio = float(lengths.median() / size(informed - images, attack.norm).median())
    assert 0.9 < ratio < factor, ratio
    if attack.norm == "l2":
        fool = DeepFool()(BaseClassifier(model), images, labels, draws(len(images)))
        assert lengths.median() < factor * size(fool - images, "l2").median()


@pytest.mark.parametrize(("name", "factor"), [("boundary", 1.4), ("hop_skip_jump_l2", 1.2), ("hop_skip_jump_linf", 1.4)])
def test_a_trained_network_falls_nearer_than_to_noise(name: str, factor: float, trained: Victim) -> None:
    stronger_than_noise(ATTACKS[name], trained, factor)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_identity_is_not_stronger_than_noise(norm: str, trained: Victim) -> None:
    with pytest.raises(AssertionError):
        stronger_than_noise(Identity(norm), trained, 2.0)


@pytest.mark.parametrize(("build", "name"), [
    (lambda: Boundary(norm="linf"), "norm"), (lambda: Boundary(iterations=0), "iterations"),
    (lambda: Boundary(spherical_step=0), "spherical_step"), (lambda: Boundary(source_step=1), "source_step"),
    (lambda: Boundary(step_adaptation=1), "step_adaptation"), (lambda: Boundary(success_rate=1), "success_rate"),
    (lambda: Boundary(memory=-1), "memory"), (lambda: Boundary(pull=1), "pull"), (lambda: Boundary(starts=0), "starts"),
    (lambda: Boundary(tolerance=1), "tolerance"), (lambda: HopSkipJump(norm="l1"), "norm"),
    (lambda: HopSkipJump(iterations=0), "iterations"), (lambda: HopSkipJump(initial_queries=0), "initial_queries"),
    (lambda: HopSkipJump(max_queries=50), "max_queries"), (lambda: HopSkipJump(gamma=0), "gamma"),
    (lambda: HopSkipJump(memory=1), "memory"), (lambda: HopSkipJump(starts=0), "starts"),
    (lambda: HopSkipJump(tolerance=-1), "tolerance"), (lambda: HopSkipJump(patience=0), "patience")])
def test_wrong_settings(build: Any, name: str) -> None:
    with pytest.raises(Wrong, match=name):
        build()
