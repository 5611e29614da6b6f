"""L-BFGS as an attack: its direction against plain BFGS, exact distances with and without the box, batches, a trained network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from toy_victims import PIXELS, SHAPE, Halfspace, Identity, curved, draws, grey, random_images, symmetric, uneven_weights, victims

from robust_cli.attacks.classifiers import BaseClassifier
from robust_cli.attacks.ddn import Ddn
from robust_cli.attacks.geometry import distances
from robust_cli.attacks.lbfgs import TARGETS, Lbfgs
from robust_cli.attacks.noise_search import NoiseSearch
from robust_cli.attacks.quasi_newton import direction
from robust_cli.messages import Wrong

Trained = tuple[nn.Module, torch.Tensor, torch.Tensor]


def attacked(attack: Any, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, first: int = 0) -> torch.Tensor:
    return attack(BaseClassifier(model), images, labels, draws(len(images), first=first))


def answers(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(images).argmax(1)


def plain_bfgs(gradient: torch.Tensor, moves: torch.Tensor, turns: torch.Tensor, curvature: float) -> torch.Tensor:
    """-H g with the matrix H written out and updated pair by pair."""
    eye = torch.eye(len(gradient), dtype=gradient.dtype)
    inverse = eye / curvature
    for s, y in zip(moves, turns, strict=True):
        if float(s @ y) > 0:
            left = eye - torch.outer(s, y) / (s @ y)
            inverse = left @ inverse @ left.T + torch.outer(s, s) / (s @ y)
    return -inverse @ gradient


def pairs(images: int, memory: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A gradient, moves, and what moves turn into under a positive definite Hessian of each image's own; float64."""
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(images, PIXELS, generator=generator, dtype=torch.float64)
    moves = torch.randn(images, memory, PIXELS, generator=generator, dtype=torch.float64)
    hessians = torch.stack([symmetric([1 + k * j for j in range(PIXELS)], seed=k)[0] for k in range(images)])
    return gradient, moves, moves @ hessians


def test_the_direction_is_that_of_plain_bfgs() -> None:
    gradient, moves, turns = pairs(4, 5)
    turns[1, 2] *= -1  # a pair that curves downward is left out,
    moves[2, :3] = turns[2, :3] = 0  # and so is one that is not there yet
    free = torch.ones_like(gradient).bool()
    found = direction(gradient, free, moves, turns, 2.0)
    expected = torch.stack([plain_bfgs(g, s, y, 2.0) for g, s, y in zip(gradient, moves, turns, strict=True)])
    assert torch.allclose(found, expected, rtol=1e-9)
    assert torch.allclose(direction(gradient, free, 1e-6 * moves, 1e-6 * turns, 2.0), found, rtol=1e-9)


def test_only_free_pixels_count() -> None:
    """As if the others were not there at all."""
    gradient, moves, turns = pairs(3, 4)
    free = torch.rand(3, PIXELS, generator=torch.Generator().manual_seed(1)) < 0.7
    found = direction(gradient, free, moves, turns, 2.0)
    assert (found[~free] == 0).all()
    for k in range(3):
        own = free[k]
        expected = plain_bfgs(gradient[k, own], moves[k][:, own], turns[k][:, own], 2.0)
        assert torch.allclose(found[k, own], expected, rtol=1e-9)


def test_it_always_descends() -> None:
    """Where pairs contradict one another beyond what numbers can hold, down the gradient."""
    gradient, moves, turns = pairs(2, 3)
    turns[0, 1] = torch.inf
    found = direction(gradient, torch.ones_like(gradient).bool(), moves, turns, 2.0)
    assert ((found * gradient).sum(1) < 0).all()
    assert torch.allclose(found[0], -gradient[0] / 2)


def half_space(images: torch.Tensor, lead: float) -> tuple[Halfspace, torch.Tensor]:
    """Label 1 leads by ``lead`` at the first image."""
    weight = uneven_weights()
    return Halfspace(weight, lead - float(images[0].flatten() @ weight)), torch.ones(len(images)).long()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("lead", [0.2, 2.0])
def test_the_distance_of_a_half_space(target: str, lead: float) -> None:
    model, labels = half_space(grey(1), lead)
    found = attacked(Lbfgs(target=target), model, grey(1), labels)
    assert answers(model, found)[0] == 0
    exact = lead / float(model.weight.detach().norm())
    assert 1 - 1e-5 < float(distances(found, grey(1), "l2")) / exact < 1.01


def clipped_distance(image: torch.Tensor, weight: torch.Tensor, lead: float) -> float:
    """The distance in the box of the half-space where w.x has fallen by ``lead``: of clip(x - t w), t by bisection (KKT)."""
    x, w = image.flatten().double(), weight.detach().double()
    low, high = 0.0, 1e3
    for _ in range(100):
        t = (low + high) / 2
        low, high = (t, high) if float(w @ (x - (x - t * w).clamp(0, 1))) < lead else (low, t)
    return float((x - (x - high * w).clamp(0, 1)).norm())


@pytest.mark.parametrize("share", [0.8, 0.9, 0.97])
def test_where_the_box_binds(share: float) -> None:
    """Images with black and white pixels, which have to fall by a share of all that the box allows."""
    for seed in range(4):
        image = random_images(1, seed)
        image.flatten()[::3] = image.flatten()[::3].round()
        w = uneven_weights()
        lead = share * float((image.flatten() * w.clamp_min(0) + (image.flatten() - 1) * w.clamp_max(0)).sum())
        model, labels = half_space(image, lead)
        found = attacked(Lbfgs(), model, image, labels)
        exact = clipped_distance(image, w, lead)
        assert exact > 1.02 * lead / float(w.norm())  # the box does bind
        assert answers(model, found)[0] == 0
        assert 1 - 1e-5 < float(distances(found, image, "l2")) / exact < 1.01


def test_a_face_of_the_affine_classifier_is_met() -> None:
    """Five classes, of logits that differ little: nearly always the nearest face, and never nearer than it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 5))
    images = 0.5 + 0.1 * (random_images(20) - 0.5)
    labels, rows = answers(model, images), torch.arange(20)
    weight, logits = model[1].weight.detach(), model(images).detach()
    slopes = (weight[labels][:, None] - weight[None]).norm(dim=2)
    away = (logits[rows, labels][:, None] - logits) / slopes
    exact = away.scatter(1, labels[:, None], torch.inf).amin(1)
    ratio = distances(attacked(Lbfgs(), model, images, labels), images, "l2") / exact
    assert (ratio > 1 - 1e-3).all()
    assert float(ratio.median()) < 1.01
    assert float(ratio.max()) < 1.1


@pytest.mark.parametrize("attack", [Lbfgs(), Lbfgs(target="random"), Lbfgs(target="gradient", start="image")], ids=repr)
def test_a_batch_is_its_images_one_by_one(attack: Lbfgs) -> None:
    model, images = curved().eval(), random_images(6)
    labels = answers(model, images)
    labels[2] = (labels[2] + 1) % 3  # wrong from the beginning
    whole = attacked(attack, model, images, labels)
    assert torch.equal(whole[2], images[2])
    for k in range(6):
        alone = attacked(attack, model, images[k : k + 1], labels[k : k + 1], first=k)
        own, away = distances(alone, images[k : k + 1], "l2"), distances(whole[k : k + 1], images[k : k + 1], "l2")
        assert torch.allclose(own, away, rtol=0.02)  # rounding differs with the batch's shape
        assert k == 2 or away > 0


def test_one_image_that_is_no_number_does_not_fail_the_batch() -> None:
    model, images = curved().eval(), random_images(5)
    labels, damaged = answers(model, images), images.clone()
    damaged[3, 0, 1, 1] = torch.nan
    found, whole = attacked(Lbfgs(), model, damaged, labels), attacked(Lbfgs(), model, images, labels)
    others = [0, 1, 2, 4]
    away = distances(whole, images, "l2")[others]
    assert (away > 0).all()
    assert torch.allclose(distances(found, images, "l2")[others], away, rtol=0.02)  # rounding differs with the batch's shape
    assert torch.equal(found[3].nan_to_num(-1), damaged[3].nan_to_num(-1))


@pytest.mark.parametrize("target", TARGETS)
def test_where_there_is_no_example_the_image_comes_back(target: str) -> None:
    images, labels = random_images(3), torch.ones(3).long()
    constant = Halfspace(torch.zeros(PIXELS), bias=1.0)
    out_of_reach = Halfspace(0.01 * uneven_weights(), bias=1.0)
    for model in (constant, out_of_reach):
        assert torch.equal(attacked(Lbfgs(target=target), model, images, labels), images)


def test_the_model_is_left_as_it_was() -> None:
    model, images = curved().train(), random_images(4)
    model[1].weight.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    attacked(Lbfgs(), model, images, torch.zeros(4).long())
    assert model.training
    assert [p.requires_grad for p in model.parameters()][:2] == [False, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.fixture(scope="module")
def trained() -> Trained:
    """A small network trained on digits, and test images that it gets right, most of their pixels black."""
    return victims(45)


def median(attack: Any, trained: Trained) -> float:
    """The median l2 distance, infinity for images that are not fooled."""
    model, images, labels = trained
    found = attacked(attack, model, images, labels)
    assert found.dtype == torch.float32
    assert ((found >= 0) & (found <= 1)).all()
    away = distances(found, images, "l2")
    return float(torch.where(answers(model, found) != labels, away, torch.inf).median())


def test_on_a_trained_network_it_is_as_near_as_ddn_and_far_nearer_than_noise(trained: Trained) -> None:
    ours, ddn, noise = (median(attack, trained) for attack in (Lbfgs(), Ddn(), NoiseSearch(sizes=100)))
    assert ours < 1.005 * ddn
    assert ours < 0.4 * noise
    assert median(Identity(), trained) == torch.inf


def test_the_other_ways_to_run_it_agree(trained: Trained) -> None:
    """Targets of one's own are no nearer; the papers' start and first constant, and a short memory, come to the same."""
    model, images, labels = trained
    few: Trained = model, images[:15], labels[:15]
    ours = median(Lbfgs(), few)
    for attack in (Lbfgs(target="likeliest"), Lbfgs(target="gradient")):
        assert 0.96 * ours < median(attack, few) < 1.1 * ours
    assert median(Lbfgs(target="random"), few) > 1.2 * ours
    for attack in (Lbfgs(start="image"), Lbfgs(constant=4e-3), Lbfgs(constant=400.0, bisections=20), Lbfgs(memory=3)):
        assert median(attack, few) == pytest.approx(ours, rel=0.06), attack


def test_the_search_for_the_constant_pays(trained: Trained) -> None:
    """From a constant that is far too large, without bisections and the way back, it ends far inside another class."""
    model, images, labels = trained
    few: Trained = model, images[:10], labels[:10]
    careless = Lbfgs(constant=1e3, bisections=0, refine=0, tolerance=0)
    searched = replace(careless, bisections=20)
    assert median(searched, few) < 0.97 * median(careless, few)


@pytest.mark.parametrize("setting", [
    {"norm": "linf"}, {"target": "none"}, {"memory": 0}, {"steps": 0}, {"tolerance": 1.0}, {"tolerance": -0.1}, {"constant": 0.0},
    {"constant": float("inf")}, {"doublings": 0}, {"bisections": -1}, {"start": "there"}, {"refine": -1}], ids=repr)
def test_wrong_settings(setting: dict[str, Any]) -> None:
    with pytest.raises(Wrong, match=next(iter(setting))):
        Lbfgs(**setting)


def test_shapes() -> None:
    model, labels = half_space(grey(3), 1.0)
    assert attacked(Lbfgs(), model, grey(3), labels).shape == (3, *SHAPE)
    assert attacked(Lbfgs(), model, grey(0), labels[:0]).shape == (0, *SHAPE)
