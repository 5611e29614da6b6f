"""Networks without residuals are the functions that their papers describe, with the initial weights that they describe."""

from __future__ import annotations

import math

import pytest
import torch
from small_networks import COLOUR, GREY, trained_a_little
from torch import nn
from torch.nn import functional

from robust_cli.models.alexnet import AlexNet
from robust_cli.models.cnn7 import Cnn7
from robust_cli.models.cnn_carlini import CnnCarlini
from robust_cli.models.cnn_large import CnnLarge
from robust_cli.models.cnn_small import CnnSmall
from robust_cli.models.cnn_trades import CnnTrades
from robust_cli.models.lenet import LeNet

CUT_STD = 0.8796256610342398  # standard deviation of a standard normal cut off at -2 and 2


def close_to_normal(weights: torch.Tensor, std: float, kurtosis: float = 3.0) -> None:
    """Mean and standard deviation within four standard errors of those of a distribution with mean 0."""
    values = weights.detach().double().flatten()
    assert abs(float(values.mean())) < 4 * std / math.sqrt(len(values))
    assert abs(float(values.std()) / std - 1) < 4 * math.sqrt((kurtosis - 1) / 4 / len(values))


def pooled(images: torch.Tensor) -> torch.Tensor:
    """The largest of each 2x2 pixels."""
    n, channels, height, width = images.shape
    return images[:, :, : height // 2 * 2, : width // 2 * 2].reshape(n, channels, height // 2, 2, width // 2, 2).amax((3, 5))


def relu(values: torch.Tensor) -> torch.Tensor:
    return values.clamp(min=0)


def dense(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return values.flatten(1) @ weight.T + bias


def same(network: nn.Module, images: torch.Tensor, expected: torch.Tensor) -> None:
    scale = float(expected.detach().abs().max())
    assert float((network(images) - expected).detach().abs().max()) < 1e-5 * scale


def test_cnn_small_is_this_function() -> None:
    torch.manual_seed(0)
    network, images = CnnSmall(GREY, 10), torch.rand(4, 1, 28, 28)
    first, first_bias, second, second_bias, *both = network.parameters()
    hidden = relu(functional.conv2d(images, first, first_bias, stride=2, padding=1))
    hidden = relu(functional.conv2d(hidden, second, second_bias, stride=2, padding=1))
    same(network, images, dense(relu(dense(hidden, *both[:2])), *both[2:]))


def test_cnn_large_is_this_function() -> None:
    torch.manual_seed(0)
    network, images = CnnLarge(GREY, 10), torch.rand(4, 1, 28, 28)
    p = list(network.parameters())
    hidden = images
    for k, stride in enumerate((1, 2, 1, 2)):
        hidden = relu(functional.conv2d(hidden, p[2 * k], p[2 * k + 1], stride=stride, padding=1))
    same(network, images, dense(relu(dense(relu(dense(hidden, *p[8:10])), *p[10:12])), *p[12:]))


@pytest.mark.parametrize("pools_first", [True, False])
def test_lenet_is_this_function_in_either_order_of_the_second_block(pools_first: bool) -> None:
    torch.manual_seed(0)
    network, images = LeNet(GREY, 10), torch.rand(4, 1, 28, 28)
    p = list(network.parameters())
    hidden = pooled(relu(functional.conv2d(images, p[0], p[1], padding=2)))
    hidden = functional.conv2d(hidden, p[2], p[3], padding=2)
    hidden = relu(pooled(hidden)) if pools_first else pooled(relu(hidden))
    same(network, images, dense(relu(dense(hidden, *p[4:6])), *p[6:]))


@pytest.mark.parametrize("shape", [COLOUR, (3, 45, 70)])
def test_alexnet_is_this_function(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    network, images = AlexNet(shape, 10), torch.rand(4, *shape)
    p = list(network.parameters())
    hidden = pooled(relu(functional.conv2d(images, p[0], p[1], stride=4, padding=5)))
    hidden = relu(pooled(functional.conv2d(hidden, p[2], p[3], padding=2)))
    hidden = relu(functional.conv2d(hidden, p[4], p[5], padding=1))
    hidden = relu(functional.conv2d(hidden, p[6], p[7], padding=1))
    hidden = relu(pooled(functional.conv2d(hidden, p[8], p[9], padding=1)))
    same(network, images, dense(relu(dense(relu(dense(hidden, *p[10:12])), *p[12:14])), *p[14:]))


@pytest.mark.parametrize("shape", [GREY, COLOUR, (2, 17, 30)])
@pytest.mark.parametrize("kind", [CnnCarlini, CnnTrades])
def test_carlinis_and_trades_networks_are_this_function(kind: type[nn.Module], shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    network, images = trained_a_little(kind(shape, 10), shape), torch.rand(4, *shape)
    hidden, p = images, list(network.parameters())
    for k in (0, 4):
        hidden = relu(functional.conv2d(hidden, p[k], p[k + 1]))
        hidden = pooled(relu(functional.conv2d(hidden, p[k + 2], p[k + 3])))
    same(network, images, dense(relu(dense(relu(dense(hidden, *p[8:10])), *p[10:12])), *p[12:]))


def test_carlinis_widths_go_by_the_channels_until_they_are_given() -> None:
    def widths(network: nn.Module) -> list[int]:
        return [len(p) for name, p in network.named_parameters() if name.endswith("weight")]

    assert widths(CnnCarlini(GREY, 10)) == [32, 32, 64, 64, 200, 200, 10] == widths(CnnTrades(COLOUR, 10))
    assert widths(CnnCarlini(COLOUR, 10)) == [64, 64, 128, 128, 256, 256, 10]
    assert widths(CnnCarlini(COLOUR, 10, widths=[32, 64, 200])) == [32, 32, 64, 64, 200, 200, 10]


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
            std = math.sqrt(2 / layer.weight[0].numel())
            close_to_normal(layer.weight, std)
            assert float(layer.weight.detach().abs().max()) <= 2 * std / 0.87962566
            assert layer.bias is not None
            assert float(layer.bias.detach().abs().max()) == 0


def test_madrys_weights_are_a_cut_normal_and_biases_a_tenth() -> None:
    torch.manual_seed(0)
    network = LeNet(GREY, 10, initialisation="madry")
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert torch.equal(parameter, torch.full_like(parameter, 0.1))
        else:
            close_to_normal(parameter, 0.1 * CUT_STD)
            assert float(parameter.detach().abs().max()) <= 0.2
    fourth = network.layers[7].weight.detach().double()  # 3.2 million numbers: the cut normal's share within one std is known
    within = math.erf(1 / math.sqrt(2)) / math.erf(2 / math.sqrt(2))
    error = math.sqrt(within * (1 - within) / fourth.numel())
    assert abs(float((fourth.abs() < 0.1).double().mean()) - within) < 4 * error


def test_lenets_usual_weights_are_what_they_always_were() -> None:
    """torch's own, drawn in the order of the layers: the names and numbers of runs that were saved before there was a choice."""
    torch.manual_seed(5)
    made = [nn.Conv2d(1, 32, 5), nn.Conv2d(32, 64, 5), nn.Linear(3136, 1024), nn.Linear(1024, 10)]
    torch.manual_seed(5)
    state = LeNet(GREY, 10).state_dict()
    assert list(state) == [f"layers.{k}.{part}" for k in (0, 3, 7, 9) for part in ("weight", "bias")]
    for k, layer in zip((0, 3, 7, 9), made, strict=True):
        assert torch.equal(state[f"layers.{k}.weight"], layer.weight)
        assert torch.equal(state[f"layers.{k}.bias"], layer.bias)


def test_trades_network_begins_with_equal_logits() -> None:
    torch.manual_seed(0)
    network = CnnTrades(GREY, 10)
    assert torch.equal(network(torch.rand(5, *GREY)), torch.zeros(5, 10))
    convolutions = [layer for layer in network.layers if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 4
    for layer in convolutions:
        close_to_normal(layer.weight, math.sqrt(2 / layer.weight[0].numel()))
        assert layer.bias is not None
        assert float(layer.bias.detach().abs().max()) == 0
    middle = network.layers[14]
    assert isinstance(middle, nn.Linear)
    close_to_normal(middle.weight, 1 / math.sqrt(3 * 200), kurtosis=1.8)  # torch's uniform on +-1/sqrt(inputs)
