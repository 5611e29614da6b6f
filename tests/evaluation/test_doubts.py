"""What a look at a victim finds, and that it finds nothing where there is nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from toy_victims import PIXELS, SHAPE, curved, draws, random_images

from robust_cli.attacks.classifiers import BaseClassifier, NoisyGradients, SmoothedClassifier
from robust_cli.evaluation.doubts import look

MESSAGES = Path(__file__).parents[2] / "docs" / "messages.md"


class Rounded(nn.Module):
    """Ten levels: no gradient gets through rounding."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (10 * self.network(images)).round() / 10


class Blind(nn.Module):
    """The logits of a network, but of a share of the images detached."""

    def __init__(self, network: nn.Module, share: float) -> None:
        super().__init__()
        self.network, self.share = network, share

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits, cut = self.network(images), round(self.share * len(images))
        return torch.cat([logits[:cut].detach(), logits[cut:]])


class Restless(nn.Module):
    """Dropout that evaluation mode does not turn off."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(nn.functional.dropout(images, 0.2, training=True))


class Broken(nn.Module):
    def __init__(self, network: nn.Module, value: float) -> None:
        super().__init__()
        self.network, self.value = network, value

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.network(images).clone()
        logits[:2, 0] = self.value
        return logits


def found(classifier, n=20):
    doubts = look(classifier, random_images(n), torch.arange(n) % 3, draws(n))
    for doubt in doubts:
        assert_sentence(doubt.sentence)
    return [doubt.name for doubt in doubts]


def assert_sentence(sentence):
    assert re.search(r"\d", sentence)
    assert sentence.endswith(").")
    heading = re.search(r'\(docs/messages\.md, "(.+)"\)\.$', sentence)
    assert heading is not None
    assert f"\n## {heading[1]} " in MESSAGES.read_text()


@pytest.mark.parametrize("classifier", [BaseClassifier(curved()), SmoothedClassifier(curved(), 0.3),
                                        SmoothedClassifier(curved(), 0.3, objective="both"), NoisyGradients(curved(), 0.1),
                                        BaseClassifier(nn.Sequential(curved(), nn.LogSoftmax(1)))])
def test_nothing_to_doubt(classifier):
    assert found(classifier) == []


@pytest.mark.parametrize("model", [Rounded(curved()), Blind(curved(), 1.0),
                                   nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 3), nn.Hardtanh(-1e-9, 0.0))])
def test_a_gradient_that_is_exactly_zero(model):
    with torch.no_grad():
        if isinstance(model, nn.Sequential):  # every logit beyond the edge of the clipping
            model[1].bias.fill_(50.0)
    assert found(BaseClassifier(model)) == ["zero_gradients"]


def test_zero_gradients_are_seen_through_noise_in_either_view():
    assert found(SmoothedClassifier(Rounded(curved()), 0.3, objective="both")) == ["zero_gradients"]


def test_one_view_with_a_gradient_is_enough():
    class Two(BaseClassifier):
        def views(self):
            return [BaseClassifier(curved()), BaseClassifier(Rounded(curved()))]

    assert found(Two(curved())) == []


@pytest.mark.parametrize(("share", "names"), [(0.05, []), (0.1, ["zero_gradients"]), (0.5, ["zero_gradients"])])
def test_doubtful_from_a_tenth_of_the_images(share, names):
    assert found(BaseClassifier(Blind(curved(), share))) == names


def test_the_sentence_counts_the_images():
    (doubt,) = look(BaseClassifier(Blind(curved(), 0.25)), random_images(20), torch.zeros(20, dtype=torch.int64), draws(20))
    assert "of 5 of 20 images" in doubt.sentence


def test_a_gradient_that_is_not_a_number_counts_as_zero_as_attacks_take_it():
    class Root(nn.Module):
        def forward(self, images):
            return (images.flatten(1)[:, :3] * 0).sqrt() + images.flatten(1)[:, :3] * 0

    assert found(BaseClassifier(Root())) == ["zero_gradients"]


def test_probabilities():
    assert found(BaseClassifier(nn.Sequential(curved(), nn.Softmax(1)))) == ["probabilities"]
    assert found(SmoothedClassifier(nn.Sequential(curved(), nn.Softmax(1)), 0.3)) == ["probabilities"]


def test_one_image_that_does_not_look_so_is_enough():
    class Mostly(nn.Module):
        def __init__(self, shift):
            super().__init__()
            self.network, self.shift = curved(), shift

        def forward(self, images):
            probabilities = self.network(images).softmax(1)
            return torch.cat([probabilities[:1] + self.shift, probabilities[1:]])

    assert found(BaseClassifier(Mostly(torch.tensor([0.01, 0.0, 0.0])))) == []  # a sum of 1.01
    assert found(BaseClassifier(Mostly(torch.tensor([2.0, -1.0, -1.0])))) == []  # a sum of 1, some below 0


def test_random_outputs_only_where_no_expectation_is_taken():
    assert found(BaseClassifier(Restless(curved()))) == ["random_outputs"]
    assert found(NoisyGradients(Restless(curved()), 0.1)) == ["random_outputs"]
    assert found(SmoothedClassifier(Restless(curved()), 0.3)) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_outputs_that_are_not_finite(value):
    assert "not_finite" in found(BaseClassifier(Broken(curved(), value)))
    assert "random_outputs" not in found(BaseClassifier(Broken(curved(), value)))


def test_it_looks_at_64_images_and_leaves_the_model_as_it_was():
    model = curved().train()
    classifier = BaseClassifier(model)
    assert look(classifier, random_images(100), torch.zeros(100, dtype=torch.int64), draws(100)) == []
    assert (classifier.network.forward_passes, classifier.network.backward_passes) == (3 * 64, 64)
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_no_images_no_doubts():
    assert look(BaseClassifier(curved()), torch.zeros(0, *SHAPE), torch.zeros(0, dtype=torch.int64), draws(0)) == []
