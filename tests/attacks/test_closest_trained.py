"""Attacks that look for the closest example on a small trained network: strength, and what their shortcuts cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from toy_victims import CLOSEST, CW, Identity, answers, attacked, draws, every_attack, victims

from robust_cli.attacks.classifiers import BaseClassifier
from robust_cli.attacks.deepfool import DeepFool
from robust_cli.attacks.geometry import distances, size


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A small network trained on digits, and test images that it gets right."""
    return victims(60)


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
    assert stronger_than_noise(CLOSEST[name], *trained)


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
    medians = {name: float(distances(attacked(CLOSEST[name], model, images, labels), images, "l2").median())
               for name in CLOSEST if name != "fmn_linf"}
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
    near = distances(CLOSEST[name](hasty, images, labels, draws(len(images))), images, CLOSEST[name].norm)
    all_steps = replace(CLOSEST[name], patience=None)
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
