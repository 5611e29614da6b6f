"""What holds for every architecture."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from small_networks import COLOUR, CONF, GREY, KINDS, SMALLEST, Shape, odd_shape, trained_a_little, whole_configs
from torch import nn

from robust_cli.messages import UserError, Wrong
from robust_cli.models.classifier import classifier, memory_format, parameters_count
from robust_cli.models.first_layer import first_layer
from robust_cli.models.weights import fingerprint, load, save

CONFIGS = whole_configs()


def count(name: str, shape: Shape, classes: int = 10) -> int:
    return parameters_count(CONFIGS[name](shape, classes))


@pytest.mark.parametrize(("name", "shape", "classes", "expected"), [
    ("lenet", GREY, 10, 3_274_634),
    ("lenet", COLOUR, 10, 4_259_274),
    ("lenet", COLOUR, 100, 4_351_524),
    ("cnn_mnist", GREY, 10, 3_382_346),
    ("cnn7", COLOUR, 10, 1_025_642),
    ("cnn_small", GREY, 10, 272 + 8_224 + 156_900 + 1_010),  # 166,406: Wong et al.'s small network for MNIST
    ("cnn_small", COLOUR, 10, 784 + 8_224 + 204_900 + 1_010),  # 214,918: theirs for CIFAR-10
    ("cnn_large", GREY, 10, 320 + 16_416 + 18_496 + 65_600 + 1_606_144 + 262_656 + 5_130),  # 1,974,762: Wong et al.'s large one
    ("alexnet", COLOUR, 10, 20_344_650),
    ("alexnet", COLOUR, 100, 20_713_380),
    ("cnn_carlini", GREY, 10, 312_202),
    ("cnn_carlini", COLOUR, 10, 1_147_978),
    ("cnn_trades", GREY, 10, 312_202),
    ("wrn_28_10", COLOUR, 10, 36_479_194),
    ("wrn_34_10", COLOUR, 10, 46_160_474),
    ("wrn_madry", COLOUR, 10, 45_901_914),
])
def test_parameter_counts_are_the_published_ones(name: str, shape: Shape, classes: int, expected: int) -> None:
    assert count(name, shape, classes) == expected


def sizes(network: nn.Module, shape: Shape) -> list[tuple[int, ...]]:
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
    ("cnn_large", GREY, [(32, 28, 28), (32, 14, 14), (64, 14, 14), (64, 7, 7), (512,), (512,), (10,)]),
    ("alexnet", COLOUR, [(64, 8, 8), (64, 4, 4), (192, 4, 4), (192, 2, 2), (384, 2, 2), (256, 2, 2), (256, 2, 2), (256, 1, 1),
                         (4096,), (4096,), (10,)]),
    ("cnn_carlini", COLOUR, [(64, 30, 30), (64, 28, 28), (64, 14, 14), (128, 12, 12), (128, 10, 10), (128, 5, 5), (256,), (256,),
                             (10,)]),
    *((name, GREY, [(32, 26, 26), (32, 24, 24), (32, 12, 12), (64, 10, 10), (64, 8, 8), (64, 4, 4), (200,), (200,), (10,)])
      for name in ("cnn_carlini", "cnn_trades")),
])
def test_layers_have_the_published_sizes(name: str, shape: Shape, expected: list[tuple[int, ...]]) -> None:
    assert sizes(KINDS[name](shape, 10), shape) == expected


def shapes(name: str) -> list[Shape]:
    return [shape for shape in (GREY, COLOUR, odd_shape(name)) if min(shape[1:]) >= SMALLEST.get(name, 4)]


@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in KINDS for shape in shapes(name)])
def test_every_network_takes_every_shape(name: str, shape: Shape) -> None:
    torch.manual_seed(0)
    network = trained_a_little(KINDS[name](shape, 7), shape)
    images = torch.rand(3, *shape)
    logits = network(images).detach()
    assert logits.shape == (3, 7)
    assert float(logits.std(dim=0).min()) > 0  # the images are told apart
    assert float(logits.min()) < 0 < float(logits.max())  # nothing cuts the logits off


@pytest.mark.parametrize("name", KINDS)
def test_an_image_is_answered_whatever_else_is_in_the_batch(name: str) -> None:
    """In training mode that must not hold where there is batch norm: the test would see it."""
    torch.manual_seed(0)
    shape = odd_shape(name)
    network = trained_a_little(KINDS[name](shape, 7), shape)
    image, bright, dark = torch.rand(1, *shape), 1 - 0.1 * torch.rand(3, *shape), 0.1 * torch.rand(3, *shape)
    scale = float(network(image).detach().abs().max())
    alone, one, other = (network(torch.cat([image, *others]))[0].detach() for others in ([], [bright], [dark]))
    assert float((alone - one).abs().max()) < 1e-4 * scale
    assert float((one - other).abs().max()) < 1e-4 * scale
    if any(isinstance(part, nn.BatchNorm2d) for part in network.modules()):
        network.train()
        one, other = (network(torch.cat([image, others]))[0].detach() for others in (bright, dark))
        assert float((one - other).abs().max()) > 1e-2 * scale


@pytest.mark.parametrize("name", KINDS)
def test_impossible_shapes_are_refused(name: str) -> None:
    smallest = SMALLEST.get(name, 4)
    shape = (1, smallest, smallest + 4)
    assert KINDS[name](shape, 2)(torch.rand(2, *shape)).shape == (2, 2)
    for wrong in ((1, smallest - 1, 32), (1, 32, smallest - 1), (0, 32, 32), (32, 32), (1, 32.5, 32)):
        with pytest.raises(Wrong, match=r"^shape: ") as caught:
            KINDS[name](wrong, 10)
        assert "\n" not in str(caught.value)
    with pytest.raises(Wrong, match=r"^classes: "):
        KINDS[name](COLOUR, 1)


def test_alexnet_says_why_mnist_is_too_small() -> None:
    with pytest.raises(Wrong, match=r"^shape: expected images of at least 29x29 pixels for this model, got \[1, 28, 28\]"):
        KINDS["alexnet"](GREY, 10)


@pytest.mark.parametrize(("name", "settings"), [
    ("cnn7", {"dropout": 1.0}), ("cnn7", {"dropout": -0.1}), ("cnn_mnist", {"dense_dropout": 1.0}),
    ("cnn_mnist", {"convolution_dropout": math.nan}), ("cnn_carlini", {"dropout": 1.0}), ("cnn_carlini", {"widths": [8, 8]}),
    ("cnn_carlini", {"widths": [8, 0, 8]}), ("cnn_trades", {"dropout": -0.5}), ("lenet", {"initialisation": "he"}),
    ("wrn", {"depth": 4}), ("wrn", {"depth": 20}), ("wrn", {"width": 0}), ("wrn_madry", {"units": 0}),
    ("wrn_madry", {"width": 0}), ("resnet", {"depth": 2}), ("resnet", {"depth": 28}), ("resnet", {"shortcut": "A"}),
])
def test_settings_out_of_range_are_named(name: str, settings: dict[str, object]) -> None:
    with pytest.raises(Wrong, match=f"^{next(iter(settings))}: "):
        KINDS[name](COLOUR, 10, **settings)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_config_states_every_setting_of_its_class(name: str) -> None:
    text = (CONF / f"{name}.yaml").read_text()
    assert all("  # " in line for line in text.splitlines()[2:])
    config = yaml.safe_load(text)
    module, _, target = config.pop("_target_").rpartition(".")
    settings = inspect.signature(getattr(importlib.import_module(module), target)).parameters
    defaults = {key: value.default for key, value in settings.items() if key not in ("shape", "classes")}
    assert set(config) == set(defaults)
    if name not in ("wrn_28_10", "wrn_34_10", "resnet110"):
        assert config == defaults


@pytest.mark.parametrize("name", CONFIGS)
def test_the_first_line_states_parameters_and_the_moment_regime_truly(name: str) -> None:
    """AMR's regulariser needs a first layer that is affine and followed by a ReLU."""
    first = (CONF / f"{name}.yaml").read_text().splitlines()[0]
    found = re.fullmatch(r"# .+; ([\d, A-Za-z-]+); (fits|not for) regime=moment( \(.+\))?\. Source: .+", first)
    assert found is not None
    stated = re.findall(r"(\d+)(?: parameters)? on (MNIST|CIFAR-10)", found[1])
    assert stated
    assert all(int(number) == count(name, GREY if data == "MNIST" else COLOUR) for number, data in stated)
    assert (found[2] == "fits") == fits_moments(CONFIGS[name](COLOUR, 10))


def fits_moments(network: nn.Module) -> bool:
    try:
        return isinstance(first_layer(classifier(network, [0.5] * 3, [1.0] * 3), "regime=moment").follower, nn.ReLU)
    except UserError:
        return False


def test_standardisation_keeps_carlinis_network_from_the_moment_regime() -> None:
    assert fits_moments(KINDS["cnn_carlini"](COLOUR, 10))
    assert not fits_moments(KINDS["cnn_carlini_standardised"](COLOUR, 10))


def test_every_config_is_tested() -> None:
    targets = {yaml.safe_load((CONF / f"{name}.yaml").read_text())["_target_"] for name in CONFIGS}
    classes = {getattr(kind, "func", kind) for kind in KINDS.values()}
    assert targets == {f"{kind.__module__}.{kind.__qualname__}" for kind in classes}
    assert {path.stem for path in CONF.glob("*.yaml")} - set(CONFIGS) == {"exported", "torchscript", "torchvision"}


@pytest.mark.parametrize("name", ["lenet", "alexnet", "cnn_carlini", "cnn_trades", "cnn_mnist", "cnn_small", "cnn_large"])
def test_a_relu_stands_between_dense_layers(name: str) -> None:
    layers = list(KINDS[name](COLOUR, 10).layers)
    dense = [k for k, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
    assert len(dense) >= 2
    assert dense[-1] == len(layers) - 1
    for here, there in pairwise(dense):
        assert sum(isinstance(layer, nn.ReLU) for layer in layers[here:there]) == 1


@pytest.mark.parametrize("name", ["cnn_mnist", "cnn7", "cnn_carlini_standardised", "cnn_trades"])
def test_dropout_acts_in_training_only(name: str) -> None:
    torch.manual_seed(0)
    network, images = trained_a_little(KINDS[name](GREY, 10), GREY), torch.rand(2, *GREY)
    assert torch.equal(network(images), network(images))
    network.train()
    assert not torch.equal(network(images), network(images))


@pytest.mark.parametrize("name", KINDS)
def test_gradients_reach_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    shape = COLOUR if name == "alexnet" else odd_shape(name)
    network = trained_a_little(KINDS[name](shape, 7), shape).train()
    nn.functional.cross_entropy(network(torch.rand(8, *shape)), torch.arange(8) % 7).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert bool(parameter.grad.isfinite().all()), parameter_name
        assert float(parameter.grad.abs().max()) > 0, parameter_name


@pytest.mark.parametrize("name", KINDS)
def test_what_was_saved_is_loaded(name: str, tmp_path: Path) -> None:
    shape = odd_shape(name)
    torch.manual_seed(0)
    saved = classifier(trained_a_little(KINDS[name](shape, 7), shape), [0.5] * 2, [0.25] * 2).eval()
    loaded = classifier(KINDS[name](shape, 7), [0.5] * 2, [0.25] * 2).eval()
    images = torch.rand(4, *shape)
    assert not torch.equal(saved(images), loaded(images))
    save(saved, tmp_path / "model.safetensors")
    load(loaded, tmp_path / "model.safetensors")
    assert torch.equal(saved(images), loaded(images))
    assert fingerprint(saved, {}, "fp32") == fingerprint(loaded, {}, "fp32")


@pytest.mark.parametrize("name", KINDS)
def test_channels_last_is_taken_where_there_is_pooling_or_batch_norm(name: str) -> None:
    """And is the same function."""
    shape = odd_shape(name)
    torch.manual_seed(0)
    network = trained_a_little(KINDS[name](shape, 7), shape)
    strided_only = name in ("cnn_mnist", "cnn_small", "cnn_large")
    wanted = torch.contiguous_format if strided_only else torch.channels_last
    assert memory_format(network, torch.device("cpu")) is wanted
    images = torch.rand(4, *shape)
    expected = network(images).detach()
    found = network.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last)).detach()
    assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())
