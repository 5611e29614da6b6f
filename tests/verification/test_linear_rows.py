"""Rows that look at a window of a layer are the rows of numbers for all of it: through convolutions of every geometry, and in
what is made of them. The truth is the convolutions' Jacobian."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest
import torch
from relu_networks import normal
from torch import nn
from torch.autograd.functional import jacobian

from robust_cli.verification import parts
from robust_cli.verification.parts import Convolution
from robust_cli.verification.rows import Dense, Patches, Rows, each_value

Pair = tuple[int, int]


class Geometry(NamedTuple):
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


NAMED: dict[str, tuple[Pair, list[Geometry]]] = {
    "one": ((6, 5), [Geometry((3, 3))]),
    "padded": ((6, 5), [Geometry((3, 3), padding=(1, 1))]),
    "two without a relu, padded": ((7, 6), [Geometry((3, 3), padding=(1, 1)), Geometry((3, 3), padding=(1, 1))]),
    "three, padded wide": ((9, 8), [Geometry((2, 3), padding=(2, 2)), Geometry((3, 2), padding=(1, 2)), Geometry((2, 2))]),
    "strides leave pixels over": ((9, 8), [Geometry((2, 2), (3, 3)), Geometry((2, 2), (2, 2))]),
    "strides skip pixels": ((9, 8), [Geometry((1, 1), (2, 2)), Geometry((1, 2), (2, 3), (0, 1))]),
    "dilated": ((9, 9), [Geometry((2, 3), dilation=(3, 2), padding=(1, 2)), Geometry((2, 2), dilation=(2, 1))]),
    "groups": ((6, 5), [Geometry((3, 2), padding=(1, 0), groups=2), Geometry((2, 2), (2, 1), groups=2)]),
    "kernel larger than what is left": ((4, 3), [Geometry((2, 2), (2, 2)), Geometry((5, 5), padding=(2, 2))]),
    "all of a layer": ((5, 4), [Geometry((3, 3), padding=(1, 1)), Geometry((5, 4))]),
    "more padding than kernel": ((4, 4), [Geometry((1, 1), padding=(2, 1)), Geometry((2, 2), padding=(1, 1))]),
    "long and low": ((2, 11), [Geometry((3, 3), padding=(1, 1)), Geometry((2, 4), (1, 2), (1, 1))]),
}


def drawn(seed: int) -> tuple[Pair, list[Geometry]]:
    """One to three convolutions at random, on images of up to 10x10 pixels."""
    dice = random.Random(seed)
    sides = side = (dice.randint(4, 10), dice.randint(4, 10))
    found: list[Geometry] = []
    for _ in range(dice.randint(1, 3)):
        pick = Geometry(*((dice.randint(1, high), dice.randint(1, high)) for high in (3, 3)),
                        (dice.randint(0, 2), dice.randint(0, 2)), (dice.randint(1, 2), dice.randint(1, 2)), dice.choice((1, 2)))
        after = tuple((a + 2 * p - d * (k - 1) - 1) // s + 1
                      for a, k, s, p, d in zip(side, pick.kernel, pick.stride, pick.padding, pick.dilation, strict=True))
        if min(after) >= 1:
            found.append(pick)
            side = (after[0], after[1])
    return sides, found


CASES = NAMED | {f"drawn {seed}": drawn(seed) for seed in range(40)}
every_case = pytest.mark.parametrize("case", CASES)


class Chain(NamedTuple):
    """Convolutions, the shapes before each and behind the last, and their Jacobian [outputs, inputs]."""

    layers: list[nn.Conv2d]
    shapes: list[tuple[int, ...]]
    jacobian: torch.Tensor

    def back(self, rows: Rows) -> Rows:
        for layer, shape in zip(reversed(self.layers), reversed(self.shapes[:-1]), strict=True):
            rows = Convolution(layer).back(rows, shape)
        return rows


def chain(case: str) -> Chain:
    torch.manual_seed(len(case))
    sides, geometries = CASES[case]
    layers = [nn.Conv2d(2, 2, *geometry[:4], geometry.groups).double() for geometry in geometries]
    values = [torch.zeros(1, 2, *sides, dtype=torch.float64)]
    for layer in layers:
        values.append(layer(values[-1]))
    whole = jacobian(nn.Sequential(*layers), values[0])
    return Chain(layers, [tuple(value.shape[1:]) for value in values], whole.reshape(values[-1].numel(), values[0].numel()))


def picked(found: Chain) -> Rows:
    return each_value(found.shapes[-1], slice(None), found.jacobian)


@every_case
@pytest.mark.parametrize("matrix_pays", [0, 8, 10**9], ids=["conv", "default", "matrix"])
def test_windows_carried_back_are_the_jacobian(case: str, matrix_pays: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_MATRIX_PAYS", matrix_pays)
    found = chain(case)
    rows = found.back(picked(found)).dense().values
    torch.testing.assert_close(rows.flatten(2)[0], found.jacobian, rtol=1e-12, atol=1e-12)


@every_case
@pytest.mark.parametrize("few", [0, 2], ids=["conv", "fold"])
def test_rows_of_numbers_carried_back_are_the_jacobian(case: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_FEW", few)
    found = chain(case)
    rows = found.back(picked(found).dense())
    torch.testing.assert_close(rows.dense().values.flatten(2)[0], found.jacobian, rtol=1e-12, atol=1e-12)


@every_case
def test_what_is_made_of_windows_is_made_of_the_rows(case: str) -> None:
    """Norms, products with values, signs, sums and factors: of rows shared by all images and of each image's own."""
    found = chain(case)
    inputs, truth = found.shapes[0], found.jacobian
    values, factors = normal(3, *inputs), normal(3, *inputs, seed=1)
    shared = found.back(picked(found))
    own = shared.times(factors)
    close = {"rtol": 1e-11, "atol": 1e-11}
    for rows, full in ((shared, truth[None]), (own, truth * factors.flatten(1)[:, None])):
        flat = values.flatten(1)[:, :, None]
        torch.testing.assert_close(rows.dense().values.flatten(2), full, **close)
        torch.testing.assert_close(rows.dot(values), (full @ flat)[..., 0], **close)
        torch.testing.assert_close(rows.negative().dot(values), (full.clamp(max=0) @ flat)[..., 0], **close)
        torch.testing.assert_close(rows.positive().dot(values), (full.clamp(min=0) @ flat)[..., 0], **close)
        torch.testing.assert_close(rows.negated().dot(values), -(full @ flat)[..., 0], **close)
        torch.testing.assert_close(rows.plus(rows).dense().values.flatten(2), 2 * full, **close)
        torch.testing.assert_close(rows.plus(rows.dense()).dense().values.flatten(2), 2 * full, **close)
        torch.testing.assert_close(rows.dense().plus(rows).dense().values.flatten(2), 2 * full, **close)
        for order in (1.0, 2.0):
            torch.testing.assert_close(rows.norm(order), full.norm(order, dim=-1), **close)


@every_case
def test_rows_of_an_image_go_on_back_as_its_own(case: str) -> None:
    """A factor for every value, as a ReLU's, between the last convolution and those before it."""
    found = chain(case)
    factors = normal(3, *found.shapes[-1])
    rows = found.back(picked(found).times(factors))
    expected = factors.flatten(1)[:, :, None] * found.jacobian
    torch.testing.assert_close(rows.dense().values.flatten(2), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("channels", [slice(0, 1), slice(1, 2), slice(0, 2)])
def test_some_channels_are_those_rows(channels: slice) -> None:
    found = chain("two without a relu, padded")
    rows = found.back(each_value(found.shapes[-1], channels, found.jacobian)).dense().values.flatten(2)[0]
    expected = found.jacobian.view(2, -1, found.jacobian.shape[1])[channels].flatten(0, 1)
    torch.testing.assert_close(rows, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("other", [Geometry((1, 1), (2, 2)), Geometry((3, 3), (2, 2), (1, 1)), Geometry((5, 2), (2, 2), (2, 0)),
                                   Geometry((2, 2), (2, 2), (1, 0), (2, 1))])
def test_windows_of_two_branches_add_up(other: Geometry) -> None:
    """A residual block's: rows of the same layer by two ways, whose windows differ in place and size."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(2, 2, 4, 2, 1).double(), nn.Conv2d(2, 2, *other[:4]).double()
    images = torch.zeros(1, 2, 8, 6, dtype=torch.float64)
    rows = each_value((2, 4, 3), slice(None), images)
    total = Convolution(first).back(rows, (2, 8, 6)).plus(Convolution(second).back(rows, (2, 8, 6)))
    truth = jacobian(lambda x: first(x) + second(x), images).reshape(24, -1)
    torch.testing.assert_close(total.dense().values.flatten(2)[0], truth, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(total.norm(1.0)[0], truth.norm(1, dim=1), rtol=1e-12, atol=1e-12)


def test_what_a_window_holds_outside_its_layer_means_nothing() -> None:
    """Norms, sums and the way further back leave it out: the padding of a layer is no value of it."""
    first, second = nn.Conv2d(1, 1, 3, padding=1, bias=False).double(), nn.Conv2d(1, 1, 3, padding=1, bias=False).double()
    nn.init.ones_(first.weight)
    nn.init.ones_(second.weight)
    rows = Convolution(second).back(each_value((1, 3, 3), slice(None), first.weight), (1, 3, 3))
    # the corner pixel of the second layer's output sees 4 of 9 pixels, the middle one all
    assert rows.norm(1.0)[0].tolist() == [4, 6, 4, 6, 9, 6, 4, 6, 4]
    # each of those sees 4, 6 or 9 pixels of the image: 4 + 6 + 6 + 9 from a corner
    assert Convolution(first).back(rows, (1, 3, 3)).norm(1.0)[0].tolist() == [25, 35, 25, 35, 49, 35, 25, 35, 25]


def test_dense_rows_do_what_they_say() -> None:
    rows, values = normal(2, 3, 4), normal(2, 4, seed=1)
    found = Dense(rows)
    torch.testing.assert_close(found.dot(values), torch.einsum("nsd,nd->ns", rows, values))
    torch.testing.assert_close(Dense(rows[:1]).dot(values), torch.einsum("sd,nd->ns", rows[0], values))
    torch.testing.assert_close(found.positive().values + found.negative().values, rows)
    torch.testing.assert_close(found.times(values).values, rows * values[:, None])
    assert isinstance(each_value((5,), slice(None), rows), Dense)
    assert isinstance(each_value((2, 3, 4), slice(None), rows), Patches)
