"""Attacks on a classifier whose noise comes in after its first layer: through that layer, with the noise where it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from torch import nn

from robust_cli.attacks.classifiers import BaseClassifier, Network, SmoothedClassifier
from robust_cli.attacks.losses import margin
from robust_cli.attacks.pgd import Pgd
from robust_cli.attacks.second_order import SecondOrder
from robust_cli.measures.gradient_norms import recording
from robust_cli.measures.softmax_path import SoftmaxPath
from robust_cli.messages import Wrong
from robust_cli.models.classifier import classifier
from robust_cli.smoothing.noise import ImageDraws
from robust_cli.smoothing.place import Place, place_of

SHAPE, STD, NOISE = (1, 6, 6), [0.25], 0.6
NORM = 1.9  # of the classifier's weights
FLAT = 50.0  # the margin loss is the other class's lead less this


class Layers(nn.Module):
    """A convolution, then logits (0, w.z + b)."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        last = nn.Linear(36, 2)
        with torch.no_grad():
            weight = torch.randn(36)
            last.weight.copy_(torch.stack([torch.zeros(36), NORM * weight / weight.norm()]))
            last.bias.copy_(torch.tensor([0.0, bias]))
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Flatten(), last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def victim(leads_by: float = 1.0, **settings: object) -> tuple[SmoothedClassifier, torch.Tensor, torch.Tensor]:
    """The smoothed classifier, grey images, whose score for class 1 is ``leads_by`` in units of the noise that reaches it,
    and the gradient of that score, known."""
    made, images = classifier(Layers(), [0.5], STD).eval(), torch.full((3, *SHAPE), 0.5)
    with torch.no_grad():
        made.network.layers[2].bias[1] += leads_by * NOISE * NORM - made(images)[0, 1]
    place = place_of(made, "first", SHAPE)
    weight = made.network.layers[2].weight.detach()[1].double()
    matrix = place.before.transposed(weight.view(1, *place.before.outputs))  # type: ignore[union-attr]
    return SmoothedClassifier(Network(made, place=place), NOISE, **settings), images, matrix[0]  # type: ignore[arg-type]


def draws(n: int = 3, seed: int = 0) -> ImageDraws:
    return ImageDraws("cpu", seed, "test", range(n))


def ones(n: int = 3) -> torch.Tensor:
    return torch.ones(n, dtype=torch.int64)


def test_gradients_go_through_the_first_layer() -> None:
    """The margin loss of a linear classifier has one gradient everywhere, whatever the noise: minus A^T w."""
    smoothed, images, known = victim(draws=7)
    slope = smoothed.gradient(images, ones(), margin, draws())
    torch.testing.assert_close(slope.gradient.double(), -known.expand_as(images), rtol=1e-4, atol=1e-6)
    assert smoothed.network.forward_passes == smoothed.network.backward_passes == 21


def test_the_noise_in_losses_is_that_of_the_outputs() -> None:
    """The mean loss is minus the lead less 50; its spread is noise_std ||w||, not that of noise in the pixels."""
    smoothed, images, _ = victim(draws=4000)
    slope = smoothed.gradient(images, ones(), margin, draws())
    assert slope.loss.mean().item() + FLAT == pytest.approx(-NOISE * NORM, abs=5 * NOISE * NORM / math.sqrt(12_000))
    one, _, _ = victim(draws=1)
    found = one.losses(images[:1].expand(1, 4000, *SHAPE).clone(), ones(4000), margin, draws(4000))[0]
    assert found.std().item() == pytest.approx(NOISE * NORM, rel=5 / math.sqrt(8000))


def test_its_answers_are_votes_after_the_first_layer() -> None:
    smoothed, images, _ = victim(leads_by=0.7, draws=50, votes=5000)
    lead = smoothed.lead(images, ones(), draws())
    np.testing.assert_allclose(lead, 1 - 2 * ndtr(0.7), atol=5 / math.sqrt(5000))


def test_pgd_moves_the_score_as_far_as_its_budget_allows_and_breaks_it_beyond_the_known_distance() -> None:
    smoothed, images, known = victim(draws=3, votes=4000)
    distance = NOISE * NORM / float(known.norm())
    for times in (0.9, 1.1):
        attack = Pgd(norm="l2", budget=times * distance, steps=5)
        found = attack(smoothed, images, ones(), draws())
        score = smoothed.network.logits(found)[:, 1]
        np.testing.assert_allclose(score, NOISE * NORM * (1 - times), atol=1e-3)
        assert ((smoothed.lead(found, ones(), draws()) > 0) == (times > 1)).all()


def test_the_network_without_noise_is_the_whole_model() -> None:
    smoothed, images, _ = victim()
    network = smoothed.network
    assert torch.equal(network.logits(images), network.model(images).detach())
    base = BaseClassifier(network)
    slope = base.gradient(images, ones(), margin, draws())
    assert slope.loss[0].item() + FLAT == pytest.approx(-NOISE * NORM, rel=1e-4)


def test_nothing_reaches_the_weights_and_their_wants_are_restored() -> None:
    smoothed, images, _ = victim()
    model = smoothed.network.model
    model.network.layers[0].train()
    smoothed.gradient(images, ones(), margin, draws())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert model.network.layers[0].training


def test_what_an_image_gets_does_not_depend_on_the_images_beside_it() -> None:
    smoothed, _, _ = victim(draws=5, votes=200)
    images = torch.rand(3, *SHAPE)
    both = smoothed.gradient(images, ones(), margin, draws())
    alone = smoothed.gradient(images[1:2], ones(1), margin, ImageDraws("cpu", 0, "test", [1]))
    torch.testing.assert_close(alone.gradient, both.gradient[1:2])
    torch.testing.assert_close(alone.loss, both.loss[1:2])


def test_noise_of_the_attack_s_own_does_not_add_to_noise_of_other_units() -> None:
    smoothed, images, _ = victim()
    attack = SecondOrder(form="averaged", noise_std=0.3, add_noise=True, budget=1.0, steps=2)
    with pytest.raises(Wrong, match="add_noise"):
        attack(smoothed, images, ones(), draws())
    SecondOrder(budget=1.0, steps=2)(smoothed, images, ones(), draws())  # of one draw: its probe is a step in the image
    assert smoothed.like("log_mean_probability").network is smoothed.network


def test_measures_see_the_same_classifier() -> None:
    smoothed, images, known = victim(draws=4)
    recorded, network = recording(smoothed)
    recorded.gradient(images, ones(), margin, draws())
    torch.testing.assert_close(network.calls[0], known.norm().expand(3), rtol=1e-4, atol=0.0)
    path = SoftmaxPath(points=3, draws=400)._path(smoothed, images, images + 0.0, draws())
    logits = NOISE * NORM * (1 + torch.randn(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    np.testing.assert_allclose(path[..., 1].mean(), logits.sigmoid().mean(), atol=0.03)
    torch.testing.assert_close(path[0], path[2])  # the same noise at every point of the line


def test_a_classifier_with_noise_on_the_image_is_another_one() -> None:
    """A positive control: the same size of noise on the pixels reaches the score stretched."""
    smoothed, images, known = victim(draws=1)
    at_image = SmoothedClassifier(smoothed.network.model, NOISE, draws=1)
    found = at_image.losses(images[:1].expand(1, 4000, *SHAPE).clone(), ones(4000), margin, draws(4000))[0]
    assert found.std().item() == pytest.approx(NOISE * float(known.norm()), rel=5 / math.sqrt(8000))
    assert float(known.norm()) > 1.5 * NORM


def test_a_place_of_bf16_keeps_the_first_layer_exact() -> None:
    smoothed, images, _ = victim()
    place = smoothed.network.place
    assert isinstance(place, Place)
    exact, low = (SmoothedClassifier(Network(smoothed.network.model, precision, place), NOISE, draws=2000)
                  .gradient(images, ones(), margin, draws()).loss.mean().item() for precision in ("fp32", "bf16"))
    assert low == pytest.approx(exact, abs=0.01)
