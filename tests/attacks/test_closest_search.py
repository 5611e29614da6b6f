"""The searches for a closest example: who leaves when, batches, the box, a model left as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from toy_victims import (
    CLOSEST,
    PIXELS,
    SHAPE,
    Halfspace,
    answers,
    attacked,
    curved,
    draws,
    every_attack,
    grey,
    problem,
    random_images,
    uneven_weights,
)

from robust_cli.attacks.classifiers import BaseClassifier
from robust_cli.attacks.closest import NEARER, Closest, Patience, channels_last
from robust_cli.attacks.ddn import Ddn
from robust_cli.attacks.deepfool import DeepFool
from robust_cli.attacks.fmn import Fmn


class Stairs(nn.Module):
    """Flat everywhere: label 1 above a sum of pixels of 8, label 0 below. Only random directions lead anywhere."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        above = (images.flatten(1).sum(1) > PIXELS / 2).float()
        return torch.stack([torch.full_like(above, 0.5), above], 1)


@pytest.mark.parametrize("name", ["ddn", "fmn_l2", "fmn_linf"])
def test_random_directions_are_the_images_own(name: str) -> None:
    """Also once images before it in the batch have left: from its own stream, and where its gradient is zero."""
    images, labels = grey(6) - 0.05 * random_images(6), torch.zeros(6).long()
    labels[:2] = 1  # wrong from the beginning: they leave at once
    attack = replace(CLOSEST[name], steps=30, patience=3)
    whole = attacked(attack, Stairs(), images, labels)
    assert (answers(Stairs(), whole[2:]) == 1).all()
    for k in range(2, 6):
        alone = attack(BaseClassifier(Stairs()), images[k : k + 1], labels[k : k + 1], draws(1, first=k))
        assert torch.equal(alone[0], whole[k])


@pytest.mark.parametrize("attack", [Ddn(radius=0.02, patience=3), Fmn(step_size=0.03, patience=3),
                                    Fmn(norm="linf", step_size=0.03, patience=3)])
def test_nobody_leaves_before_an_example_is_found(attack: Any) -> None:
    """However short the patience and long the way."""
    weight = uneven_weights()
    model = Halfspace(weight, bias=-float(weight.sum()) / 2 - 0.5 * float(weight.norm()))
    assert (answers(model, attacked(attack, model, grey(2), torch.zeros(2).long())) == 1).all()


@pytest.mark.parametrize("attack", [Ddn(steps=1), Fmn(steps=2), Fmn(norm="linf", steps=2), DeepFool(steps=1, stride=1)])
def test_the_last_point_counts(attack: Any) -> None:
    """The one after the last gradient is the first that is adversarial here."""
    weight = uneven_weights()
    model = Halfspace(weight, bias=-float(weight.sum()) / 2 - 0.3 * float(weight.norm()))
    assert (answers(model, attacked(attack, model, grey(2), torch.zeros(2).long())) == 1).all()


@pytest.mark.parametrize("name", ["deepfool", "ddn", "fmn_l2", "fmn_linf", "carlini_wagner"])
@pytest.mark.parametrize("patience", [1, 3, 200])
def test_an_image_that_is_wrong_already_costs_a_pass(name: str, patience: int) -> None:
    """And the others as many as without it."""
    model, images, labels = problem()
    attack = CLOSEST[name] if name == "deepfool" else replace(CLOSEST[name], patience=patience)
    wrong, both, right = (BaseClassifier(model) for _ in range(3))
    attack(wrong, images[:4], (labels[:4] + 1) % 5, draws(4))
    assert wrong.network.forward_passes <= 4 * (1 + attack.refine)
    attack(right, images[4:8], labels[4:8], draws(4, first=4))
    attack(both, images[:8], torch.cat([(labels[:4] + 1) % 5, labels[4:8]]), draws(8))
    assert both.network.forward_passes == wrong.network.forward_passes + right.network.forward_passes


def offered(best: Closest, distance: float) -> None:
    """The first image's example so far away."""
    candidate = best.originals[:1].clone()
    candidate[0, 0, 0, 0] += distance
    best.offer(candidate, torch.tensor([True]), torch.tensor([0]))


def test_patience_counts_looks_in_a_row() -> None:
    best = Closest(grey(2), "l2")
    patience, rows = Patience(best, 2), torch.arange(2)
    for _ in range(5):
        assert patience.look(rows).tolist() == [0, 1]  # nothing found: nobody leaves
    offered(best, 0.4)
    assert patience.look(rows).tolist() == [0, 1]
    assert patience.look(rows).tolist() == [0, 1]  # idle once
    offered(best, 0.39)
    assert patience.look(rows).tolist() == [0, 1]  # and patient again
    offered(best, 0.39 * (1 + NEARER) / 2)
    assert patience.look(rows).tolist() == [0, 1]  # too little
    assert patience.look(rows).tolist() == [1]


def test_small_gains_add_up_for_patience() -> None:
    """The mark is the distance when it last came nearer, so two halves of what counts are enough."""
    best = Closest(grey(1), "l2")
    patience, distance = Patience(best, 2), 0.4
    for _ in range(20):
        distance *= 1 - 0.6 * (1 - NEARER)
        offered(best, distance)
        assert patience.look(torch.arange(1)).tolist() == [0]


@pytest.mark.parametrize("steps", [1, None])
def test_at_distance_0_there_is_nothing_to_look_for(steps: int | None) -> None:
    best = Closest(grey(2), "l2")
    best.offer(grey(1), torch.tensor([True]), torch.tensor([1]))
    assert Patience(best, steps).look(torch.tensor([1, 0])).tolist() == [1]


def test_candidates_are_offered_for_their_own_rows() -> None:
    images = random_images(4)
    best = Closest(images, "linf")
    best.offer(images[[3, 1]] + 0.1, torch.tensor([True, False]), torch.tensor([3, 1]))
    best.offer(images[[3]] + 0.2, torch.tensor([True]), torch.tensor([3]))
    assert best.found.tolist() == [False, False, False, True]
    assert torch.equal(best.images, torch.cat([images[:3], images[3:] + 0.1]))


def test_the_best_is_kept_and_refined() -> None:
    model = Halfspace(torch.ones(PIXELS), bias=-12.0)  # label 0 below a sum of 12
    images, labels = grey(2), torch.zeros(2).long()
    best = Closest(images, "l2")
    far, farther = images + 0.4, images + 0.45
    best.offer(far, torch.tensor([True, False]))
    best.offer(farther, torch.tensor([True, False]))
    assert torch.equal(best.images[0], far[0])
    assert torch.equal(best.images[1], images[1])
    assert best.found.tolist() == [True, False]
    best.refine(BaseClassifier(model).network, labels, 12)
    assert float(best.distance[0]) == pytest.approx(1.0, rel=1e-3)  # 16 pixels by 0.25
    assert float(best.images[0].sum()) > 12
    assert best.images.shape == (2, *SHAPE)


class Tied(nn.Module):
    """Convolutions that share a kernel, one of them through a second parameter of the same memory; it may fail halfway."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.second.weight = self.first.weight
        self.third.weight = nn.Parameter(self.first.weight.data)
        self.calls_left = 1000

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls_left -= 1
        if not self.calls_left:
            raise FloatingPointError
        return self.third(self.second(self.first(images.repeat(1, 4, 1, 1)).tanh()).tanh()).mean((2, 3))


def memory(model: nn.Module) -> list[tuple[int, tuple[int, ...], bytes]]:
    return [(part.data_ptr(), part.stride(), part.detach().numpy().tobytes()) for part in model.parameters()]


def test_layouts_nest_and_shared_kernels_stay_shared() -> None:
    """Left by an exception, too."""
    model, images = Tied(), random_images(3)
    before, kernels = model(images).detach(), memory(model)
    model.calls_left = 3
    with channels_last(model):
        with pytest.raises(FloatingPointError), channels_last(model):
            twice(model, images, before)
        model.calls_left = 3
        assert torch.allclose(model(images), before, atol=1e-5)
    assert memory(model) == kernels
    assert model.third.weight.data_ptr() == model.first.weight.data_ptr()
    assert torch.equal(model(images), before)


def twice(model: Tied, images: torch.Tensor, before: torch.Tensor) -> None:
    """Two passes with the answers expected, and a third."""
    assert model.first.weight is model.second.weight
    for _ in range(3):
        assert torch.allclose(model(images), before, atol=1e-5)


@every_attack
@pytest.mark.parametrize("calls", [1, 4])
def test_a_model_that_fails_halfway_is_left_as_it_was(name: str, calls: int) -> None:
    model, images = Tied().train(), random_images(3)
    kernels, labels = memory(model), answers(model, images)
    model.calls_left = calls
    with pytest.raises(FloatingPointError):
        attacked(CLOSEST[name], model, images, labels)
    assert memory(model) == kernels
    assert model.training
    assert all(part.requires_grad and part.grad is None for part in model.parameters())


def test_the_layout_of_kernels_is_put_back() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    images = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    before, storage = model(images).detach(), [part.data_ptr() for part in model.parameters()]
    with channels_last(model):
        assert model[2].weight.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(model(images), before, atol=1e-5)
    assert [part.data_ptr() for part in model.parameters()] == storage
    assert torch.equal(model(images), before)


@every_attack
def test_box_and_dtype(name: str) -> None:
    model, images = curved().eval(), random_images(10)
    images[:5] = images[:5].round()  # black and white
    labels = answers(model, images)
    found = attacked(CLOSEST[name], model, images, labels)
    assert found.shape == images.shape
    assert found.dtype == torch.float32
    assert ((found >= 0) & (found <= 1)).all()
    assert (answers(model, found) != labels).float().mean() > 0.8


@every_attack
def test_an_image_that_is_wrong_already_is_its_own_closest_example(name: str) -> None:
    model, images, labels = problem()
    found = attacked(CLOSEST[name], model, images, (labels + 1) % 5)
    assert torch.equal(found, images)


@every_attack
def test_where_there_is_no_example_the_image_comes_back(name: str) -> None:
    model = Halfspace(torch.zeros(PIXELS), bias=1.0)
    images = random_images(3)
    assert torch.equal(attacked(CLOSEST[name], model, images, torch.ones(3).long()), images)


@every_attack
def test_a_batch_is_its_images_one_by_one(name: str) -> None:
    """Also the active set: an image alone is attacked just as among others that have left or stay."""
    model, images = curved().eval(), random_images(5)
    labels = answers(model, images)
    labels[2] = (labels[2] + 1) % 3  # wrong from the beginning
    whole = attacked(CLOSEST[name], model, images, labels)
    for k in range(5):
        alone = CLOSEST[name](BaseClassifier(model), images[k : k + 1], labels[k : k + 1], draws(1, first=k))
        assert torch.allclose(alone[0], whole[k], atol=1e-4)


@every_attack
def test_one_image_that_is_no_number_does_not_fail_the_batch(name: str) -> None:
    model, images, labels = problem()
    damaged = images.clone()
    damaged[4, 0, 1, 1] = torch.nan
    found, whole = attacked(CLOSEST[name], model, damaged, labels), attacked(CLOSEST[name], model, images, labels)
    others = [k for k in range(12) if k != 4]
    assert torch.allclose(found[others], whole[others], atol=1e-5)
    assert torch.equal(found[4].nan_to_num(-1), damaged[4].nan_to_num(-1))


@every_attack
def test_the_model_is_left_as_it_was(name: str) -> None:
    model, images = curved().train(), random_images(4)
    model[1].weight.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    attacked(CLOSEST[name], model, images, torch.zeros(4).long())
    assert model.training
    assert model[2].training
    assert not model[1].weight.requires_grad
    assert model[5].weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
