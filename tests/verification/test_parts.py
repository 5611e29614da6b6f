"""Every affine layer: its rows carried back are its transpose, <A, M z> = <A M, z>, whatever kind of rows they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from relu_networks import normal
from torch import nn

from robust_cli.models.normalisation import Normalisation
from robust_cli.models.resnet import EverySecondAndZeros
from robust_cli.models.wrn_madry import AveragesAndZeros
from robust_cli.verification.parts import Convolution, Part
from robust_cli.verification.reading import read
from robust_cli.verification.rows import Dense, Rows, each_value

Shape = tuple[int, ...]
IMAGE: Shape = (4, 7, 6)


def batch_norm(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        for values, low in ((layer.running_mean, -1.0), (layer.running_var, 0.1), (layer.weight, -2.0), (layer.bias, -1.0)):
            if values is not None:
                values.uniform_(low, 2.0)
    return layer


LAYERS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "dense": (lambda: nn.Linear(5, 3), (5,)),
    "dense_plain": (lambda: nn.Linear(5, 3, bias=False), (5,)),
    "conv": (lambda: nn.Conv2d(4, 3, 3, padding=1), IMAGE),
    "conv_plain": (lambda: nn.Conv2d(4, 3, 3, bias=False), IMAGE),
    "conv_left_over": (lambda: nn.Conv2d(4, 3, 2, stride=3), IMAGE),
    "conv_skips": (lambda: nn.Conv2d(4, 3, 1, stride=2), IMAGE),
    "conv_uneven": (lambda: nn.Conv2d(4, 3, (2, 3), stride=(1, 2), padding=(2, 1)), IMAGE),
    "conv_dilated": (lambda: nn.Conv2d(4, 3, (3, 2), dilation=(2, 3), padding=(1, 2)), IMAGE),
    "conv_groups": (lambda: nn.Conv2d(4, 6, 3, stride=2, groups=2), IMAGE),
    "conv_each_channel": (lambda: nn.Conv2d(4, 4, 3, groups=4, padding=2), IMAGE),
    "conv_larger_than_the_image": (lambda: nn.Conv2d(4, 3, 9, padding=4), IMAGE),
    "conv_of_all": (lambda: nn.Conv2d(4, 3, (7, 6)), IMAGE),
    "normalisation": (lambda: Normalisation([0.1, 0.2, 0.3, 0.4], [0.5, 1.0, 0.2, 3.0]), IMAGE),
    "batch_norm": (lambda: batch_norm(nn.BatchNorm2d(4)), IMAGE),
    "batch_norm_plain": (lambda: batch_norm(nn.BatchNorm2d(4, affine=False, eps=0.1)), IMAGE),
    "batch_norm_flat": (lambda: batch_norm(nn.BatchNorm1d(5)), (5,)),
    "average": (lambda: nn.AvgPool2d(2), IMAGE),
    "average_over_the_edge": (lambda: nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False), IMAGE),
    "average_adaptive": (lambda: nn.AdaptiveAvgPool2d((3, 4)), IMAGE),
    "average_of_all": (lambda: nn.AdaptiveAvgPool2d(1), IMAGE),
    "zeros_around": (lambda: nn.ZeroPad2d((1, 0, 2, 3)), IMAGE),
    "cut_off": (lambda: nn.ZeroPad2d((-1, 0, 2, -2)), IMAGE),
    "every_second": (lambda: EverySecondAndZeros(4, 8), IMAGE),
    "averages": (lambda: AveragesAndZeros(4, 6, 2), IMAGE),
    "averages_of_one": (lambda: AveragesAndZeros(4, 6, 1), IMAGE),
    "flatten": (lambda: nn.Flatten(), IMAGE),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def prepared(name: str) -> tuple[nn.Module, Part, Shape, Shape]:
    """A layer with random numbers, in float64 and in evaluation mode; its part, and the shapes before and behind it."""
    torch.manual_seed(1)
    make, before = LAYERS[name]
    layer = make().double().eval()
    layers = [layer] if len(before) == 3 else [nn.Flatten(), layer]
    image = before if len(before) == 3 else (before[0], 1, 1)
    ends = [] if name == "flatten" or len(before) == 1 else [nn.Flatten()]
    last = nn.Linear(layer(torch.zeros(1, *before, dtype=torch.float64)).numel(), 2, dtype=torch.float64)
    program = read(nn.Sequential(*layers, *ends, last), image)
    node = program.nodes[len(layers)]
    assert node.part is not None
    return layer, node.part, before, node.shape


def kinds_of_rows(shape: Shape, n: int) -> dict[str, Rows]:
    """Rows of a layer of a shape: one for each value or random ones, shared by n images or each image's own."""
    picked = each_value(shape, slice(None), torch.zeros((), dtype=torch.float64))
    factors, windows = normal(n, *shape, seed=3), picked
    if len(shape) == 3:  # a convolution behind, whose windows reach past the layer's edge
        layer = nn.Conv2d(shape[0], 2, 3, padding=1).double()
        behind = each_value((2, *shape[1:]), slice(None), layer.weight)
        windows = Convolution(layer).back(behind, shape)
    return {"picked": picked, "windows": windows, "picked_for_each": picked.times(factors), "dense": Dense(normal(1, 4, *shape)),
            "dense_for_each": Dense(normal(n, 4, *shape, seed=2)), "all_dense": picked.dense()}


@every_layer
def test_forwards_it_is_the_layer(name: str) -> None:
    layer, part, before, shape = prepared(name)
    values = normal(3, *before)
    torch.testing.assert_close(part(values), layer(values), rtol=0, atol=1e-13)
    assert part(values).shape == (3, *shape)


@every_layer
@pytest.mark.parametrize("kind", kinds_of_rows((1, 1, 1), 1))
def test_backwards_it_is_the_transpose(name: str, kind: str) -> None:
    _, part, before, shape = prepared(name)
    values = normal(3, *before, seed=5)
    rows = kinds_of_rows(shape, 3)[kind]
    without_addend = part(values) - part(torch.zeros_like(values))
    carried = part.back(rows, before)
    torch.testing.assert_close(carried.dot(values), rows.dot(without_addend), rtol=1e-12, atol=1e-11)
    assert carried.dense().values.shape[2:] == before
    for order in (1.0, 2.0):
        torch.testing.assert_close(carried.norm(order), carried.dense().norm(order), rtol=1e-12, atol=1e-12)


@every_layer
def test_rows_of_each_image_are_its_own(name: str) -> None:
    """What comes of rows of several images is what comes of each image's alone, number for number."""
    _, part, before, shape = prepared(name)
    rows = normal(3, 4, *shape)
    together = part.back(Dense(rows), before).dense().values
    alone = torch.cat([part.back(Dense(rows[i : i + 1]), before).dense().values for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["dense", "conv", "conv_groups", "batch_norm"])
def test_rows_carry_the_gradient_to_the_weights(name: str) -> None:
    """d <A M, z> / dM = d <A, M z> / dM, for every kind of rows."""
    layer, part, before, shape = prepared(name)
    values = normal(3, *before, seed=5)
    for rows in kinds_of_rows(shape, 3).values():
        carried = part.back(rows, before).dot(values).square().sum()
        forwards = rows.dot(part(values) - part(torch.zeros_like(values))).square().sum()
        for found, expected in zip(*(torch.autograd.grad(total, layer.weight) for total in (carried, forwards)), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["average", "zeros_around", "every_second", "flatten"])
def test_rows_that_carry_a_gradient_keep_it_through_layers_without_weights(name: str) -> None:
    _, part, before, shape = prepared(name)
    rows, values = normal(1, 4, *shape).requires_grad_(), normal(3, *before, seed=5)
    found, = torch.autograd.grad(part.back(Dense(rows), before).dot(values).square().sum(), rows)
    expected, = torch.autograd.grad(Dense(rows).dot(part(values)).square().sum(), rows)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
