"""Attacks that look for the closest example: closed forms, the box, batches, a small trained network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from toy_victims import PIXELS, SHAPE, Halfspace, Identity, curved, draws, grey, random_images, uneven_weights

from robust_cli.attacks.carlini_wagner import CarliniWagner
from robust_cli.attacks.classifiers import BaseClassifier
from robust_cli.attacks.closest import Closest, channels_last, label_lead
from robust_cli.attacks.ddn import Ddn
from robust_cli.attacks.deepfool import DeepFool, boxed, faces
from robust_cli.attacks.fmn import Fmn
from robust_cli.attacks.geometry import distances, size
from robust_cli.attacks.losses import fooled
from robust_cli.datasets.digits import Digits
from robust_cli.messages import Wrong

CW = CarliniWagner(steps=100, search_steps=5)
ATTACKS: dict[str, Any] = {"deepfool": DeepFool(), "ddn": Ddn(), "fmn_l2": Fmn(), "fmn_linf": Fmn(norm="linf"),
                           "carlini_wagner": CW}
WITHIN = {"deepfool": 1.0201, "ddn": 1.06, "fmn_l2": 1.01, "fmn_linf": 1.02, "carlini_wagner": 1.1}
every_attack = pytest.mark.parametrize("name", ATTACKS)


class Affine(nn.Module):
    """Logits Wx + b of several classes."""

    def __init__(self, classes: int = 5, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, PIXELS, generator=generator) * torch.linspace(0.2, 3, PIXELS))
        self.bias = 3 * torch.randn(classes, generator=generator) - self.weight.detach().sum(1) / 2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weight.T + self.bias


def exact(model: Affine, images: torch.Tensor, labels: torch.Tensor, norm: str) -> torch.Tensor:
    """The distance of the nearest face where the box does not bind: lead over the dual norm of the slope."""
    with torch.no_grad():
        logits = model(images)
    slopes = model.weight.detach()[labels][:, None] - model.weight.detach()[None]
    lengths = slopes.norm(dim=2) if norm == "l2" else slopes.abs().sum(2)
    away = (logits.gather(1, labels[:, None]) - logits) / lengths
    return away.scatter(1, labels[:, None], torch.inf).amin(1)


def attacked(attack: Any, model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return attack(BaseClassifier(model), images, labels, draws(len(images)))


def answers(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(images).argmax(1)


def problem() -> tuple[Affine, torch.Tensor, torch.Tensor]:
    """Images so near to the boundary, and so far from black and white, that the box does not bind."""
    model = Affine()
    images = 0.5 + 0.1 * (random_images(12) - 0.5)
    return model, images, answers(model, images)


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
    weight, attack = uneven_weights(), ATTACKS[name]
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
    attack = ATTACKS[name]
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


def test_faces_out_of_reach_are_not_looked_at(trained: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    """Many backward passes less, and examples as near; and shorter steps end nearer than the paper's."""
    model, images, labels = trained
    all_faces, some, whole = (BaseClassifier(model) for _ in range(3))
    far = DeepFool(reach=None)(all_faces, images, labels, draws(len(images)))
    near = DeepFool()(some, images, labels, draws(len(images)))
    paper = DeepFool(stride=1, reach=None)(whole, images, labels, draws(len(images)))
    assert some.network.backward_passes < 0.7 * all_faces.network.backward_passes
    assert float(distances(near, images, "l2").mean()) < 1.01 * float(distances(far, images, "l2").mean())
    assert float(distances(near, images, "l2").mean()) < float(distances(paper, images, "l2").mean())


def test_the_layout_of_kernels_is_put_back() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    images = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    before, storage = model(images).detach(), [part.data_ptr() for part in model.parameters()]
    with channels_last(model):
        assert model[2].weight.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(model(images), before, atol=1e-5)
    assert [part.data_ptr() for part in model.parameters()] == storage
    assert torch.equal(model(images), before)


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
    found = attacked(ATTACKS[name], model, images, labels)
    assert answers(model, found)[0] == 0
    assert 1 - 1e-4 < float(distances(found, images, "l2")) / best < factor


@every_attack
def test_box_and_dtype(name: str) -> None:
    model, images = curved().eval(), random_images(10)
    images[:5] = images[:5].round()  # black and white
    labels = answers(model, images)
    found = attacked(ATTACKS[name], model, images, labels)
    assert found.shape == images.shape
    assert found.dtype == torch.float32
    assert ((found >= 0) & (found <= 1)).all()
    assert (answers(model, found) != labels).float().mean() > 0.8


@every_attack
def test_an_image_that_is_wrong_already_is_its_own_closest_example(name: str) -> None:
    model, images, labels = problem()
    found = attacked(ATTACKS[name], model, images, (labels + 1) % 5)
    assert torch.equal(found, images)


@every_attack
def test_where_there_is_no_example_the_image_comes_back(name: str) -> None:
    model = Halfspace(torch.zeros(PIXELS), bias=1.0)
    images = random_images(3)
    assert torch.equal(attacked(ATTACKS[name], model, images, torch.ones(3).long()), images)


@every_attack
def test_a_batch_is_its_images_one_by_one(name: str) -> None:
    """Also the active set: an image alone is attacked just as among others that have left or stay."""
    model, images = curved().eval(), random_images(5)
    labels = answers(model, images)
    labels[2] = (labels[2] + 1) % 3  # wrong from the beginning
    whole = attacked(ATTACKS[name], model, images, labels)
    for k in range(5):
        alone = ATTACKS[name](BaseClassifier(model), images[k : k + 1], labels[k : k + 1], draws(1, first=k))
        assert torch.allclose(alone[0], whole[k], atol=1e-4)


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


@every_attack
def test_one_image_that_is_no_number_does_not_fail_the_batch(name: str) -> None:
    model, images, labels = problem()
    damaged = images.clone()
    damaged[4, 0, 1, 1] = torch.nan
    found, whole = attacked(ATTACKS[name], model, damaged, labels), attacked(ATTACKS[name], model, images, labels)
    others = [k for k in range(12) if k != 4]
    assert torch.allclose(found[others], whole[others], atol=1e-5)
    assert torch.equal(found[4].nan_to_num(-1), damaged[4].nan_to_num(-1))


@every_attack
def test_the_model_is_left_as_it_was(name: str) -> None:
    model, images = curved().train(), random_images(4)
    model[1].weight.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    attacked(ATTACKS[name], model, images, torch.zeros(4).long())
    assert model.training
    assert model[2].training
    assert not model[1].weight.requires_grad
    assert model[5].weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A small network trained on digits, and test images that it gets right."""
    torch.manual_seed(0)
    train, test = Digits().split("train"), Digits().split("test")
    images, labels = nn.functional.avg_pool2d(train.float(), 2), train.labels
    model = nn.Sequential(nn.Flatten(), nn.Linear(196, 32), nn.ReLU(), nn.Linear(32, 10))
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(8):
        for rows in torch.randperm(len(images)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimiser.step()
    pixels = nn.functional.avg_pool2d(test.float()[:60], 2)
    right = answers(model, pixels) == test.labels[:60]
    assert right.sum() > 50
    return model, pixels[right], test.labels[:60][right]


def stronger_than_noise(attack: Any, model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> bool:
    """Whether it fools nearly all images, where noise of the same size fools few (20 draws each, none of them)."""
    found = attacked(attack, model, images, labels)
    beaten = answers(model, found) != labels
    lengths, generator = size(found - images, attack.norm), torch.Generator().manual_seed(1)
    survivors = torch.ones(len(images), dtype=torch.bool)
    for _ in range(20):
        noise = torch.randn(images.shape, generator=generator)
        noise = noise.sign() if attack.norm == "linf" else noise / size(noise, "l2").view(-1, 1, 1, 1)
        survivors &= answers(model, (images + lengths.view(-1, 1, 1, 1) * noise).clamp(0, 1)) == labels
    return bool(beaten.float().mean() > 0.97 and survivors.float().mean() > 0.8)


@every_attack
def test_a_trained_network_falls_nearer_than_to_noise(name: str, trained: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    assert stronger_than_noise(ATTACKS[name], *trained)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_an_attack_that_returns_its_input_is_refused(norm: str, trained: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    assert not stronger_than_noise(Identity(norm), *trained)


@dataclass(frozen=True)
class Coarse:
    """Goes on past the boundary to the end of the box: fooling, and far too far."""

    norm: str = "l2"
    closest: ClassVar[bool] = True

    def __call__(self, classifier: Any, images: torch.Tensor, labels: torch.Tensor, draws: Any) -> torch.Tensor:
        step = attacked(DeepFool(), classifier.network.model, images, labels) - images
        return (images + 20 * step).clamp(0, 1)


def test_an_attack_that_goes_too_far_is_refused(trained: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    assert not stronger_than_noise(Coarse(), *trained)


def test_the_attacks_agree_on_a_trained_network(trained: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    """Searches of many steps are nearer than DeepFool, and within a few percent of one another."""
    model, images, labels = trained
    medians = {name: float(distances(attacked(ATTACKS[name], model, images, labels), images, "l2").median())
               for name in ATTACKS if name != "fmn_linf"}
    best = min(medians.values())
    assert all(medians[name] < 1.05 * best for name in ("ddn", "fmn_l2", "carlini_wagner")), medians
    assert best <= medians["deepfool"] < 1.3 * best, medians


def test_the_starts_and_constants_of_carlini_and_wagner(trained: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    """From the paper's first constant the search needs more steps, and then agrees; abort_early costs little."""
    model, images, labels = trained[0], trained[1][:16], trained[2][:16]
    reference = float(distances(attacked(CW, model, images, labels), images, "l2").median())
    for attack in (replace(CW, start="last"), replace(CW, start="image"), replace(CW, constant=1e-3, search_steps=9),
                   replace(CW, abort_early=False)):
        found = attacked(attack, model, images, labels)
        assert (answers(model, found) != labels).all()
        assert float(distances(found, images, "l2").median()) == pytest.approx(reference, rel=0.06)


@pytest.mark.parametrize("name", ["ddn", "fmn_l2", "fmn_linf"])
def test_images_that_come_no_nearer_leave(name: str, trained: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    """For fewer passes, and hardly further; with endless patience every image takes all steps."""
    model, images, labels = trained
    hasty, patient = BaseClassifier(model), BaseClassifier(model)
    near = distances(ATTACKS[name](hasty, images, labels, draws(len(images))), images, ATTACKS[name].norm)
    all_steps = replace(ATTACKS[name], patience=None)
    nearer = distances(all_steps(patient, images, labels, draws(len(images))), images, all_steps.norm)
    assert patient.network.forward_passes == 101 * len(images)
    assert hasty.network.forward_passes < 0.95 * patient.network.forward_passes
    assert (nearer <= near + 1e-6).all()
    assert float(near.median()) < 1.01 * float(nearer.median())


def test_images_leave_the_search_of_carlini_and_wagner(trained: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    """With no patience at a fraction of the passes, and hardly further."""
    model, images, labels = trained[0], trained[1][:16], trained[2][:16]
    hasty, patient = BaseClassifier(model), BaseClassifier(model)
    found = {victim: replace(CW, search_steps=9, patience=patience)(victim, images, labels, draws(16))
             for victim, patience in ((hasty, 1), (patient, 9))}
    assert 2.5 * hasty.network.forward_passes < patient.network.forward_passes
    near, nearer = (float(distances(found[victim], images, "l2").median()) for victim in (hasty, patient))
    assert nearer <= near + 1e-6
    assert near < 1.02 * nearer


def test_confidence_goes_further() -> None:
    model, images, labels = problem()
    found = attacked(replace(CW, confidence=0.5, refine=0), model, images, labels)
    with torch.no_grad():
        assert (label_lead(model(found), labels) <= -0.5).all()


def test_what_counts_as_fooled() -> None:
    logits = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0], [1.0, 1.0 + 1e-7], [torch.nan, 1.0], [1.0, torch.nan]])
    assert fooled(logits, torch.zeros(6).long()).tolist() == [True, False, False, False, False, False]


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
