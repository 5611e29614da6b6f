"""A model in two parts: together they are the model, and they are its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robust_cli.messages import UserError
from robust_cli.models.classifier import classifier
from robust_cli.models.cnn7 import Cnn7
from robust_cli.models.cnn_carlini import CnnCarlini
from robust_cli.models.cnn_mnist import CnnMnist
from robust_cli.models.cnn_small import CnnSmall
from robust_cli.models.first_layer import first_layer
from robust_cli.models.lenet import LeNet


class Net(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def dense() -> Net:
    return Net(nn.Flatten(), nn.Linear(200, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize("network", [*(kind((2, 10, 10), 3) for kind in (LeNet, CnnSmall, CnnMnist, Cnn7)), dense()],
                         ids=lambda network: type(network).__name__)
def test_the_parts_together_are_the_model(network: nn.Module) -> None:
    model = classifier(network, [0.4, 0.5], [0.2, 0.7]).eval()
    images = torch.rand(3, 2, 10, 10, generator=torch.Generator().manual_seed(0))
    parts = first_layer(model, "test")
    between = parts.before(images)
    assert torch.equal(parts.rest(between), model(images))
    assert parts.follower is parts.rest[0]
    assert (parts.flatten is None) == isinstance(parts.affine, nn.Conv2d)
    assert isinstance(parts.affine, nn.Conv2d | nn.Linear)


def test_what_lies_before_the_rest_is_affine() -> None:
    """f(a x + (1 - a) y) = a f(x) + (1 - a) f(y), also far outside of [0, 1]."""
    torch.manual_seed(0)
    for network in (LeNet((2, 10, 10), 3), dense()):
        before = first_layer(classifier(network, [0.4, 0.5], [0.2, 0.7]).double(), "test").before
        x, y = torch.randn(2, 4, 2, 10, 10, dtype=torch.float64)
        torch.testing.assert_close(before(-2.5 * x + 3.5 * y), -2.5 * before(x) + 3.5 * before(y))


def test_the_parts_are_the_models_own() -> None:
    network = LeNet((1, 8, 8), 3)
    model = classifier(network, [0.5], [0.5])
    parts = first_layer(model, "test")
    assert parts.affine is network.layers[0]
    assert parts.normalisation is model.normalisation
    assert isinstance(parts.follower, nn.ReLU)
    own = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for part in (parts.before, parts.rest) for parameter in part.parameters()} == own
    parts.rest(parts.before(torch.rand(2, 1, 8, 8))).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_taking_it_apart_changes_no_mode() -> None:
    model = classifier(CnnMnist((1, 10, 10), 3), [0.5], [0.5]).eval()
    first_layer(model, "test").rest.train()
    modes = [part.training for name, part in model.named_modules() if isinstance(part, nn.Dropout)]
    assert modes == [True, True]  # they are the model's own
    assert not model.training
    model.train()
    first_layer(model, "test")
    assert all(part.training for part in model.modules())


class Compiled(nn.Module):
    """Holds a model as torch.compile's wrapper does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model


def test_a_compiled_model_is_looked_into() -> None:
    model = classifier(dense(), [0.5, 0.5], [0.5, 0.5])
    assert first_layer(Compiled(model), "test").affine is first_layer(model, "test").affine


@pytest.mark.parametrize(("network", "found"), [
    (nn.Sequential(nn.Flatten(), nn.Linear(200, 3)), "Sequential"),
    (Net(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3), nn.ReLU()), "BatchNorm2d"),
    (Net(nn.Flatten(), nn.Flatten(), nn.Linear(200, 3)), "Flatten"),
    (Net(nn.Flatten(), nn.Linear(200, 3)), "none after it"), (Net(), "none after it")])
def test_another_kind_of_model_is_refused_in_one_line(network: nn.Module, found: str) -> None:
    with pytest.raises(UserError, match=rf"^regime=moment: expected .*found {found}; take one of") as caught:
        first_layer(classifier(network, [0.5, 0.5], [0.5, 0.5]), "regime=moment")
    assert "\n" not in str(caught.value)


def test_of_a_model_that_standardises_it_says_the_setting() -> None:
    shape = (1, 16, 16)
    assert first_layer(classifier(CnnCarlini(shape, 3), [0.5], [0.5]), "regime=moment").flatten is None
    with pytest.raises(UserError, match=r"^regime=moment: .*found Standardisation; set model\.standardise=false"):
        first_layer(classifier(CnnCarlini(shape, 3, standardise=True), [0.5], [0.5]), "regime=moment")


def test_a_model_without_our_normalisation_is_refused() -> None:
    with pytest.raises(UserError, match=r"^smoothing\.layer=first: .*found Net; take one of"):
        first_layer(dense(), "smoothing.layer=first")
