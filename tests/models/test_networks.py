from __future__ import annotations

import importlib
import inspect
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional

from robust_cli.messages import Wrong
from robust_cli.models.classifier import parameters_count
from robust_cli.models.cnn7 import Cnn7
from robust_cli.models.cnn_mnist import CnnMnist
from robust_cli.models.cnn_small import CnnSmall
from robust_cli.models.lenet import LeNet

GREY, COLOUR = (1, 28, 28), (3, 32, 32)
KINDS: dict[str, Any] = {"lenet": LeNet, "cnn_mnist": CnnMnist, "cnn7": Cnn7, "cnn_small": CnnSmall}
CONF = Path(__file__).parents[2] / "conf" / "model"


@pytest.mark.parametrize(("name", "shape", "classes", "count"), [
    ("lenet", GREY, 10, 3_274_634),
    ("lenet", COLOUR, 10, 4_259_274),
    ("lenet", COLOUR, 100, 4_351_524),
    ("cnn_mnist", GREY, 10, 3_382_346),
    ("cnn7", COLOUR, 10, 1_025_642),
    ("cnn_small", GREY, 10, 272 + 8_224 + 156_900 + 1_010),  # 166,406: Wong et al.'s small network for MNIST
    ("cnn_small", COLOUR, 10, 784 + 8_224 + 204_900 + 1_010),  # 214,918: theirs for CIFAR-10
])
def test_parameter_counts_are_the_published_ones(name: str, shape: tuple[int, int, int], classes: int, count: int) -> None:
    assert parameters_count(KINDS[name](shape, classes)) == count


def sizes(network: nn.Module, shape: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """The output sizes of the convolutions, the pooling and the dense layers."""
    found: list[tuple[int, ...]] = []
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.MaxPool2d | nn.Linear):
            part.register_forward_hook(lambda _, __, output: found.append(tuple(output.shape[1:])))
    network.eval()(torch.zeros(1, *shape))
    return found


@pytest.mark.parametrize(("name", "shape", "expected"), [
    ("lenet", GREY, [(32, 28, 28), (32, 14, 14), (64, 14, 14), (64, 7, 7), (1024,), (10,)]),
    ("cnn_mnist", GREY, [(64, 24, 24), (64, 20, 20), (128,), (10,)]),
    ("cnn7", COLOUR, [(96, 32, 32), (96, 32, 32), (96, 16, 16), (192, 16, 16), (192, 16, 16), (192, 8, 8), (256, 8, 8),
                      (256, 8, 8), (10, 8, 8)]),
    ("cnn_small", GREY, [(16, 14, 14), (32, 7, 7), (100,), (10,)]),
])
def test_layers_have_the_published_sizes(name: str, shape: tuple[int, int, int], expected: list[tuple[int, ...]]) -> None:
    assert sizes(KINDS[name](shape, 10), shape) == expected


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("shape", [GREY, COLOUR, (2, 13, 10)])
def test_every_network_takes_every_shape(name: str, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    network = KINDS[name](shape, 7).eval()
    images = torch.rand(3, *shape)
    logits = network(images).detach()
    assert logits.shape == (3, 7)
    assert float(logits.std(dim=0).min()) > 0  # the images are told apart
    assert float(logits.min()) < 0 < float(logits.max())  # nothing cuts the logits off
    assert torch.allclose(network(images[1:2]), logits[1:2], atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_impossible_shapes_are_refused(name: str) -> None:
    smallest = 9 if name == "cnn_mnist" else 4
    assert KINDS[name]((1, smallest, smallest + 1), 2)(torch.rand(2, 1, smallest, smallest + 1)).shape == (2, 2)
    for shape in ((1, smallest - 1, 28), (1, 28, smallest - 1), (0, 28, 28), (28, 28), (1, 28.5, 28)):
        with pytest.raises(Wrong, match=r"^shape: "):
            KINDS[name](shape, 10)
    with pytest.raises(Wrong, match=r"^classes: "):
        KINDS[name](GREY, 1)


@pytest.mark.parametrize(("name", "share"), [
    ("cnn7", {"dropout": 1.0}), ("cnn7", {"dropout": -0.1}), ("cnn_mnist", {"dense_dropout": 1.0}),
    ("cnn_mnist", {"convolution_dropout": float("nan")}),
])
def test_dropout_is_a_probability_below_1(name: str, share: dict[str, float]) -> None:
    with pytest.raises(Wrong, match=f"^{next(iter(share))}: "):
        KINDS[name](GREY, 10, **share)


@pytest.mark.parametrize("name", KINDS)
def test_the_config_states_the_class_and_its_defaults(name: str) -> None:
    text = (CONF / f"{name}.yaml").read_text()
    assert re.fullmatch(r"# .+ Source: .+", text.splitlines()[0])
    assert all("  # " in line for line in text.splitlines()[2:])
    config = yaml.safe_load(text)
    module, _, target = config.pop("_target_").rpartition(".")
    assert getattr(importlib.import_module(module), target) is KINDS[name]
    settings = inspect.signature(KINDS[name]).parameters
    assert config == {key: value.default for key, value in settings.items() if key not in ("shape", "classes")}


def test_every_config_is_tested() -> None:
    assert {path.stem for path in CONF.glob("*.yaml")} >= set(KINDS)


def test_lenet_begins_with_an_affine_layer_and_a_relu() -> None:
    layers = list(LeNet(GREY, 10).layers)
    assert isinstance(layers[0], nn.Conv2d)
    assert isinstance(layers[1], nn.ReLU)


def test_cnn_small_is_this_function() -> None:
    torch.manual_seed(0)
    network, images = CnnSmall(GREY, 10), torch.rand(4, 1, 28, 28)
    first, first_bias, second, second_bias, dense, dense_bias, last, last_bias = network.parameters()
    hidden = functional.conv2d(images, first, first_bias, stride=2, padding=1).clamp(min=0)
    hidden = functional.conv2d(hidden, second, second_bias, stride=2, padding=1).clamp(min=0)
    hidden = (hidden.reshape(4, 1568) @ dense.T + dense_bias).clamp(min=0)
    assert torch.allclose(network(images), hidden @ last.T + last_bias, atol=1e-5)


def test_cnn7_pools_like_tensorflows_same_padding() -> None:
    """On an even side that pads nothing before the first and one pixel after the last."""
    pools = [layer for layer in Cnn7(COLOUR, 10).layers if isinstance(layer, nn.MaxPool2d)]
    images = torch.randn(2, 3, 32, 28, generator=torch.Generator().manual_seed(0))
    padded = functional.pad(images, (0, 1, 0, 1), value=-math.inf)
    windows = padded.unfold(2, 3, 2).unfold(3, 3, 2)
    assert len(pools) == 2
    for pool in pools:
        assert torch.equal(pool(images), windows.amax(dim=(-2, -1)))


def test_cnn7_kernels_are_he_normal() -> None:
    torch.manual_seed(0)
    for layer in Cnn7(COLOUR, 10).layers:
        if isinstance(layer, nn.Conv2d):
            weights, std = layer.weight.detach().double(), math.sqrt(2 / layer.weight[0].numel())
            count = weights.numel()
            assert abs(float(weights.mean())) < 4 * std / math.sqrt(count)
            assert abs(float(weights.std()) / std - 1) < 4 / math.sqrt(2 * count)
            assert float(weights.abs().max()) <= 2 * std / 0.87962566
            assert layer.bias is not None
            assert float(layer.bias.detach().abs().max()) == 0


@pytest.mark.parametrize("name", ["cnn_mnist", "cnn7"])
def test_dropout_acts_in_training_only(name: str) -> None:
    torch.manual_seed(0)
    network, images = KINDS[name](GREY, 10), torch.rand(2, *GREY)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))
