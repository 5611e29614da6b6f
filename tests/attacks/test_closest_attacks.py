"""Attacks that look for the closest example: closed forms, one step at a time, the nearest point of a face in the box."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from toy_victims import (
    CLOSEST,
    CW,
    PIXELS,
    SHAPE,
    Halfspace,
    answers,
    attacked,
    curved,
    every_attack,
    exact,
    grey,
    problem,
    random_images,
    uneven_weights,
)

from robust_cli.attacks.carlini_wagner import CarliniWagner
from robust_cli.attacks.classifiers import BaseClassifier
from robust_cli.attacks.closest import Closest, label_lead
from robust_cli.attacks.ddn import Ddn
from robust_cli.attacks.deepfool import DeepFool, _Search, boxed, faces
from robust_cli.attacks.fmn import Fmn
from robust_cli.attacks.geometry import distances
from robust_cli.attacks.losses import fooled
from robust_cli.messages import Wrong

WITHIN = {"deepfool": 1.0201, "ddn": 1.06, "fmn_l2": 1.01, "fmn_linf": 1.02, "carlini_wagner": 1.1}


def scores(model: Halfspace, images: torch.Tensor) -> torch.Tensor:
    """w.x + b, [n]."""
    return images.flatten(1) @ model.weight.detach() + model.bias


def ratios(attack: Any, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
    """How many times further than the exact distance it goes, all images fooled."""
    found = attacked(attack, model, images, labels)
    assert (answers(model, found) != labels).all()
    ratio = distances(found, images, attack.norm) / best.double()
    assert (ratio > 1 - 1e-4).all()  # nothing is nearer than the boundary
    return ratio


@every_attack
def test_the_distance_of_a_half_space(name: str) -> None:
    """|w.x + b| over the dual norm of w, from either side."""
    weight, attack = uneven_weights(), CLOSEST[name]
    images = 0.5 + 0.1 * (random_images(12) - 0.5)
    model = Halfspace(weight, bias=-0.5 * float(weight.sum()))
    images = images[scores(model, images).abs() > 0.01 * weight.norm()]
    labels = answers(model, images)
    assert len(labels.unique()) == 2
    score = scores(model, images).abs()
    best = score / (weight.norm() if attack.norm == "l2" else weight.abs().sum())
    assert float(best.max()) > 3 * float(best.min())  # unequal distances
    ratio = ratios(attack, model, images, labels, best)
    assert (ratio < WITHIN[name]).all(), ratio


@every_attack
def test_the_distance_of_an_affine_classifier(name: str) -> None:
    """Of several classes: DeepFool knows the nearest face, the others follow one gradient, at times to another face."""
    attack = CLOSEST[name]
    model, images, labels = problem()
    ratio = ratios(attack, model, images, labels, exact(model, images, labels, attack.norm))
    assert float(ratio.max()) < {"deepfool": 1.0201}.get(name, 1.3), ratio
    assert float(ratio.median()) < {"ddn": 1.2}.get(name, 1.03), ratio


def test_deepfool_is_exact_in_one_step() -> None:
    model, images, labels = problem()
    found = attacked(DeepFool(steps=1, stride=1), model, images, labels)
    best = exact(model, images, labels, "l2").double()
    assert torch.allclose(distances(found, images, "l2") / 1.02, best, rtol=1e-4)
    half = attacked(DeepFool(steps=1, stride=1, overshoot=0.5), model, images, labels)
    assert torch.allclose(distances(half, images, "l2") / 1.5, best, rtol=1e-4)
    back = attacked(DeepFool(steps=1, stride=1, refine=12), model, images, labels)
    assert torch.allclose(distances(back, images, "l2"), best, rtol=1e-3)


def test_deepfool_tries_the_classes_it_was_told() -> None:
    """With one candidate, the class with the second largest logit, the way is sometimes longer than over all classes."""
    model, images, labels = problem()
    one, all_classes = (distances(attacked(DeepFool(candidates=c), model, images, labels), images, "l2") for c in (1, None))
    assert (one >= all_classes - 1e-5).all()
    assert (one > 1.05 * all_classes).any()


def test_the_jacobian_of_deepfool() -> None:
    model, images, labels = problem()
    classes = torch.tensor([[k for k in range(5) if k != label] for label in labels.tolist()])
    network = BaseClassifier(model).network
    logits, chosen, slopes = faces(network, images, labels, lambda _: classes)
    weight = model.weight.detach()
    assert torch.equal(chosen, classes)
    assert torch.allclose(slopes.flatten(2), weight[classes] - weight[labels][:, None])
    assert torch.allclose(logits, network.logits(images))
    assert network.backward_passes == 4 * len(images)
    faces(network, images, (labels + 1) % 5, lambda _: classes)  # all fooled: nobody needs a slope
    assert network.backward_passes == 4 * len(images)


def test_steps_to_a_face_within_the_box() -> None:
    """The gain is reached, inside the box, and no nearer point of the box reaches it: sampled around, and by the optimality
    condition that pixels off the edge move by the same multiple of their slopes."""
    generator = torch.Generator().manual_seed(3)
    point = random_images(6)
    point[:, :, 0] = point[:, :, 0].round()
    slope = torch.randn(point.shape, generator=generator)
    most = (slope.clamp_min(0) * (1 - point) - slope.clamp_max(0).abs() * -point).flatten(1).sum(1)
    gain = most * torch.tensor([0.05, 0.3, 0.6, 0.9, 1e-4, 0.8])
    ends = boxed(point, slope, gain)
    moved = ends - point
    assert ((ends >= 0) & (ends <= 1)).all()
    assert torch.allclose((slope * moved).flatten(1).sum(1), gain, rtol=1e-4)
    free = (ends > 0) & (ends < 1)
    for k in range(6):
        shares = (moved[k] / slope[k])[free[k]]
        assert torch.allclose(shares, shares.mean(), rtol=1e-3, atol=1e-6)
    away = moved.flatten(1).norm(dim=1)
    for _ in range(200):
        other = (ends + 0.1 * torch.randn(point.shape, generator=generator)).clamp(0, 1)
        reached = (slope * (other - point)).flatten(1).sum(1) >= gain
        assert ((other - point).flatten(1).norm(dim=1)[reached] >= away[reached] - 1e-5).all()
    corner = torch.where(slope > 0, 1.0, 0.0)
    assert torch.allclose(boxed(point, slope, 2 * most), corner, atol=1e-4)  # out of reach: as far as it goes


def binding() -> tuple[nn.Module, torch.Tensor, torch.Tensor, float]:
    """A half-space whose steepest pixel is black already, so that the others have to do it; the distance in the free pixels."""
    weight = uneven_weights()
    steepest = int(weight.abs().argmax())
    images = grey(1)
    images.flatten(1)[:, steepest] = 0.0 if weight[steepest] > 0 else 1.0
    score = float(images.flatten(1) @ weight)
    bias = -score + 0.5  # label 1 leads by 0.5; to fall, the steepest pixel would have to leave the box
    free = weight.clone()
    free[steepest] = 0
    return Halfspace(weight, bias), images, torch.ones(1).long(), 0.5 / float(free.norm())


@pytest.mark.parametrize(("name", "factor"), [("deepfool", 1.021), ("ddn", 1.02), ("fmn_l2", 1.01), ("carlini_wagner", 1.1)])
def test_where_the_box_binds(name: str, factor: float) -> None:
    model, images, labels, best = binding()
    found = attacked(CLOSEST[name], model, images, labels)
    assert answers(model, found)[0] == 0
    assert 1 - 1e-4 < float(distances(found, images, "l2")) / best < factor


def plain_deepfool(model: nn.Module, image: torch.Tensor, label: int, overshoot: float, steps: int) -> torch.Tensor:
    """The algorithm for one image, with autograd of each class in a plain loop; for images where the box does not bind."""
    total, classes = torch.zeros_like(image), len(model(image[None])[0])
    for _ in range(steps):
        point = (image + (1 + overshoot) * total).detach().requires_grad_()
        logits = model(point[None])[0]
        if int(logits.argmax()) != label:
            break
        ways = []
        for k in range(classes):
            if k != label:
                (slope,) = torch.autograd.grad(logits[k] - logits[label], point, retain_graph=True)
                gap = float((logits[label] - logits[k]).detach())
                ways.append((gap / float(slope.norm()), gap / float(slope.norm()) ** 2 * slope))
        total = total + min(ways, key=lambda way: way[0])[1]
    return (image + (1 + overshoot) * total).detach()


def test_deepfool_is_the_plain_loop_of_each_image() -> None:
    model, images = curved().eval(), 0.5 + 0.2 * (random_images(10) - 0.5)
    labels = answers(model, images)
    found = attacked(DeepFool(stride=1), model, images, labels)
    for k in range(10):
        plain = plain_deepfool(model, images[k], int(labels[k]), 0.02, 50)
        assert ((plain > 0) & (plain < 1)).all()
        # But for the overshoot of the last steps, which is no less than a fiftieth of a twentieth of the way.
        assert float((found[k] - plain).norm()) < 0.002 * float((plain - images[k]).norm())


def test_confidence_goes_further() -> None:
    model, images, labels = problem()
    found = attacked(replace(CW, confidence=0.5), model, images, labels)
    with torch.no_grad():
        assert (label_lead(model(found), labels) <= -0.5).all()


def test_what_counts_as_fooled() -> None:
    logits = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0], [1.0, 1.0 + 1e-7], [torch.nan, 1.0], [1.0, torch.nan]])
    assert fooled(logits, torch.zeros(6).long()).tolist() == [True, False, False, False, False, False]


def test_the_first_constant_is_exact_on_a_half_space() -> None:
    """2 lead / |w|^2: with more the minimum lies beyond the boundary, with less before it, where Adam's overshooting first
    steps, adversarial as they are, count for the example but not for the search."""
    weight = uneven_weights()
    model, images = Halfspace(weight, bias=-float(weight.sum()) / 2 - 0.1 * float(weight.norm())), grey(2)
    network, labels, best = BaseClassifier(model).network, torch.zeros(2).long(), Closest(images, "l2")
    first = CW._first_constant(network, images, labels, best)
    assert torch.allclose(first, torch.full((2,), 0.2 / float(weight.norm())), rtol=1e-4)
    for share, reached in ((0.7, False), (1.4, True)):
        best = Closest(images, "l2")
        success, ends = replace(CW, abort_early=False)._minimise(network, images, labels, share * first, torch.zeros_like(images),
                                                                 best, torch.arange(2))
        assert best.found.all()
        assert (success == reached).all()
        away = distances((ends.tanh() + 1) / 2, images, "l2")
        assert torch.allclose(away, torch.full_like(away, min(share, 1) * 0.1), rtol=0.03)
    flat = Halfspace(torch.zeros(PIXELS), bias=-1.0)
    assert CW._first_constant(BaseClassifier(flat).network, images, labels, best).tolist() == [1, 1]


def test_the_radius_of_fmn() -> None:
    """At the linearised boundary until an example is found, then below the best so far where fooled, larger where not."""
    weight = uneven_weights()
    model, images = Halfspace(weight, bias=-float(weight.sum()) / 2 - 0.3 * float(weight.norm())), grey(3)
    unit = (weight / weight.norm()).view(1, *SHAPE)
    delta = torch.cat([0.1 * unit, 0.4 * unit, 0.2 * unit])
    best = Closest(images, "l2")
    best.offer(images[1:] + 0.35 * unit, torch.tensor([True, True]), torch.tensor([1, 2]))
    logits = BaseClassifier(model).network.logits(images + delta)
    radius = Fmn()._radius(0, torch.tensor([0.1, 0.4, 0.2]), delta, weight.view(1, *SHAPE).expand_as(images), logits,
                           torch.zeros(3).long(), best, torch.arange(3))
    assert torch.allclose(radius, torch.tensor([0.3, 0.35, 0.21]), rtol=1e-4)
    late = Fmn()._radius(99, torch.tensor([0.1, 0.3, 0.2]), delta, weight.view(1, *SHAPE).expand_as(images), logits,
                         torch.zeros(3).long(), best, torch.arange(3))
    assert torch.allclose(late, torch.tensor([0.3, 0.3 * 0.999, 0.2 * 1.001]), rtol=1e-4)


def test_deepfool_looks_at_the_nearest_faces_within_reach() -> None:
    """On an affine classifier, by closed form: which, in which order, and never the label's own."""
    model, images, labels = problem()
    search = _Search(DeepFool(), BaseClassifier(model).network, images, labels)
    search.step(torch.arange(12))
    with torch.no_grad():
        leads = model(images).gather(1, labels[:, None]) - model(images)
    lengths = (model.weight.detach()[labels][:, None] - model.weight.detach()[None]).norm(dim=2)
    away = (leads / lengths).scatter(1, labels[:, None], torch.inf)
    assert len(search.count.unique()) > 1
    for k in range(12):
        order = away[k].argsort()
        count = int((away[k] <= 1.5 * away[k].min()).sum())
        assert int(search.count[k]) == count
        assert search.classes[k, :count].tolist() == order[:count].tolist()
    groups = search.groups(torch.arange(12))
    assert sorted(torch.cat(groups).tolist()) == list(range(12))
    assert all(len(search.count[rows].unique()) == 1 for rows in groups)


@pytest.mark.parametrize("stride", [0.5, 1])
def test_deepfool_crosses_a_boundary_on_which_it_stands(stride: float) -> None:
    """No lead, no way to the face: what is gone beyond it does not shrink with the way."""
    weight = torch.ones(PIXELS)
    weight[::2] = -1
    model = Halfspace(weight)
    found = attacked(DeepFool(stride=stride), model, grey(2), torch.zeros(2).long())
    assert (answers(model, found) == 1).all()
    assert (distances(found, grey(2), "l2") < 1e-4).all()


@pytest.mark.parametrize(("stride", "share"), [(0.5, 0.5), (0.25, 0.25), (1, 1.02)])
def test_the_first_step_of_deepfool(stride: float, share: float) -> None:
    """While the boundary is far, its share of the way; with a stride of 1 the overshoot besides."""
    model, images, labels = problem()
    search = _Search(DeepFool(stride=stride), BaseClassifier(model).network, images, labels)
    search.step(torch.arange(12))
    gone = distances(search.point, images, "l2")
    assert torch.allclose(gone, share * exact(model, images, labels, "l2").double(), rtol=1e-3)


@pytest.mark.parametrize(("build", "name"), [
    (lambda: DeepFool(norm="linf"), "norm"), (lambda: DeepFool(overshoot=0), "overshoot"),
    (lambda: DeepFool(candidates=0), "candidates"), (lambda: Ddn(radius_step=1), "radius_step"), (lambda: Ddn(steps=0), "steps"),
    (lambda: Fmn(norm="l1"), "norm"), (lambda: Fmn(refine=-1), "refine"), (lambda: CarliniWagner(start="there"), "start"),
    (lambda: CarliniWagner(patience=0), "patience"), (lambda: DeepFool(stride=0), "stride"),
    (lambda: DeepFool(reach=0.5), "reach"),
    (lambda: CarliniWagner(constant=0), "constant"), (lambda: CarliniWagner(confidence=-1), "confidence")])
def test_wrong_settings(build: Any, name: str) -> None:
    with pytest.raises(Wrong, match=name):
        build()
