"""Bounds of the first layer's operator norm against the singular values of the matrix written out entry by entry."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from robust_cli.messages import UserError
from robust_cli.models import operator_norm
from robust_cli.models.first_layer import FirstLayer
from robust_cli.models.normalisation import Normalisation
from robust_cli.models.operator_norm import gram_norm, norm_bound, norm_from_below, rounded_up, torus_norm
from robust_cli.models.pixel_map import PixelMap

# inputs [C, H, W], outputs, kernel, and what else a convolution has
CONVOLUTIONS = [
    ((1, 9, 8), 4, 3, {}), ((1, 9, 8), 4, 3, {"padding": 1}), ((1, 8, 8), 5, 5, {"stride": 2, "padding": 2}),
    ((1, 5, 5), 3, 5, {"padding": 2}), ((3, 8, 7), 4, 3, {"stride": 2, "padding": 1}),
    ((3, 8, 7), 2, 4, {"stride": 3, "padding": 2}), ((3, 9, 6), 3, (5, 3), {"padding": "same"}),
    ((3, 7, 6), 4, (3, 2), {"stride": (1, 2), "padding": (2, 0)}), ((2, 9, 9), 4, 3, {"dilation": 2, "padding": 1}),
    ((2, 9, 7), 4, 3, {"dilation": (1, 2), "stride": (2, 1), "padding": (0, 2)}), ((4, 6, 6), 6, 3, {"groups": 2, "padding": 1}),
    ((4, 7, 7), 8, 3, {"groups": 4, "stride": 2}), ((2, 6, 7), 3, 3, {"padding": "same"}),
    ((2, 6, 6), 3, 3, {"padding": "valid", "stride": 2}), ((3, 4, 4), 2, 1, {}), ((1, 6, 6), 2, 2, {"stride": 4}),
    ((1, 4, 4), 3, 3, {"padding": 3}),
]


def stds(channels: int) -> list[float]:
    return [0.2, 1.1, 0.4, 0.7][:channels]


def mapped(layer: nn.Module, shape: tuple[int, int, int], std: list[float] | None = None) -> PixelMap:
    std = std or stds(shape[0])
    flatten = None if isinstance(layer, nn.Conv2d) else nn.Flatten()
    return PixelMap(FirstLayer(Normalisation([0.3] * shape[0], std), flatten, layer, nn.Sequential(nn.ReLU())), shape, "test")


def convolution(case: int, seed: int = 0) -> tuple[nn.Conv2d, tuple[int, int, int]]:
    shape, outputs, kernel, how = CONVOLUTIONS[case]
    torch.manual_seed(seed)
    return nn.Conv2d(shape[0], outputs, kernel, **how), shape


def unrolled(layer: nn.Conv2d, shape: tuple[int, int, int], std: list[float]) -> np.ndarray:
    """The matrix of image -> output without bias, by the definition of a convolution."""
    channels, height, width = shape
    weight = layer.weight.detach().double().numpy()
    outputs, each, rows, columns = weight.shape
    gaps, steps = layer.dilation, layer.stride
    if layer.padding == "same":
        above, left = (gap * (side - 1) // 2 for gap, side in zip(gaps, (rows, columns), strict=True))
    else:
        above, left = (0, 0) if layer.padding == "valid" else layer.padding
    with torch.no_grad():
        _, _, high, wide = layer(torch.zeros(1, *shape)).shape
    matrix = np.zeros((outputs, high, wide, channels, height, width))
    for o, y, x, c, i, j in np.ndindex(outputs, high, wide, each, rows, columns):
        row, column = y * steps[0] + i * gaps[0] - above, x * steps[1] + j * gaps[1] - left
        if 0 <= row < height and 0 <= column < width:
            channel = o // (outputs // layer.groups) * each + c
            matrix[o, y, x, channel, row, column] += weight[o, c, i, j] / std[channel]
    return matrix.reshape(outputs * high * wide, -1)


@pytest.mark.parametrize("case", range(len(CONVOLUTIONS)))
@pytest.mark.parametrize("seed", [0, 1])
def test_a_convolution_s_norm_is_the_largest_singular_value_of_its_matrix(case: int, seed: int) -> None:
    layer, shape = convolution(case, seed)
    std = np.float32(stds(shape[0])).astype(float).tolist()
    truth = float(np.linalg.norm(unrolled(layer, shape, std), 2))
    pixels = mapped(layer, shape)
    assert gram_norm(pixels) == pytest.approx(truth, rel=1e-11)
    assert truth <= norm_bound(pixels) <= truth * (1 + 2e-6)
    assert truth * (1 - 1e-12) <= torus_norm(pixels) <= 1.7 * truth
    assert norm_from_below(pixels, 500) <= truth * (1 + 1e-12)
    assert norm_from_below(pixels, 500) == pytest.approx(truth, rel=1e-3)
    assert norm_from_below(pixels, 1) < norm_from_below(pixels, 500)


@pytest.mark.parametrize("outputs", [3, 20, 60])
def test_a_dense_layer_s_norm_too(outputs: int) -> None:
    shape, layer = (3, 4, 2), nn.Linear(24, outputs)
    std = np.float32(stds(3)).astype(float)
    truth = float(np.linalg.norm(layer.weight.detach().double().numpy() / std.repeat(8), 2))
    pixels = mapped(layer, shape)
    assert pixels.outputs == (outputs, 1, 1)
    assert truth <= norm_bound(pixels) <= truth * (1 + 2e-6)
    assert norm_from_below(pixels, 2000) == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("case", range(len(CONVOLUTIONS)))
def test_beyond_the_largest_gram_matrix_the_torus_bounds(case: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator_norm, "LARGEST_GRAM", 1)
    monkeypatch.setattr(operator_norm, "gram_norm", lambda layer: pytest.fail("too large for it"))
    layer, shape = convolution(case)
    truth = float(np.linalg.norm(unrolled(layer, shape, stds(shape[0])), 2))
    assert norm_bound(mapped(layer, shape)) >= truth
    dense = mapped(nn.Linear(12, 5), (3, 2, 2))
    assert norm_bound(dense) >= norm_from_below(dense, 200)


def test_the_torus_is_exact_where_nothing_is_padded_away() -> None:
    """A 1x1 convolution, and an orthonormal one of stride 2: on the torus as off it."""
    layer = nn.Conv2d(3, 5, 1)
    matrix = layer.weight.detach().double()[:, :, 0, 0] / torch.tensor(np.float32(stds(3))).double()
    truth = float(torch.linalg.svdvals(matrix)[0])
    assert torus_norm(mapped(layer, (3, 6, 6))) == pytest.approx(truth, rel=1e-12)
    blocks = nn.Conv2d(1, 4, 2, stride=2)
    with torch.no_grad():
        blocks.weight.copy_(3 * torch.linalg.qr(torch.randn(4, 4)).Q.view(4, 1, 2, 2))
    assert torus_norm(mapped(blocks, (1, 6, 8), [0.5])) == pytest.approx(6, rel=1e-6)
    assert gram_norm(mapped(blocks, (1, 6, 8), [0.5])) == pytest.approx(6, rel=1e-6)


@pytest.mark.parametrize("tall", [True, False])
def test_the_torus_leaves_room_for_what_is_padded(tall: bool) -> None:
    """A line of pixels under a kernel that adds up to zero: on a torus without the padding it would meet itself and vanish."""
    turn = (lambda pair: pair) if tall else (lambda pair: pair[::-1])
    layer, shape = nn.Conv2d(1, 1, turn((3, 1)), padding=turn((2, 0))), (1, *turn((1, 5)))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -2.0, 1.0]).view(layer.weight.shape))
    assert gram_norm(mapped(layer, shape, [1.0])) == pytest.approx(math.sqrt(6), rel=1e-12)
    assert math.sqrt(6) <= torus_norm(mapped(layer, shape, [1.0])) <= 4


def test_images_of_a_real_size_take_the_torus_and_it_is_tight() -> None:
    torch.manual_seed(0)
    pixels = mapped(nn.Conv2d(3, 16, 7, stride=2, padding=3), (3, 96, 96))
    assert min(pixels.sizes) > operator_norm.LARGEST_GRAM
    assert norm_from_below(pixels, 60) <= norm_bound(pixels) <= 1.05 * norm_from_below(pixels, 60)


@pytest.mark.parametrize("number", [1.0, 0.99999999, 1.2345678901, 3.2e-7, 98765.4321, math.pi * 1e12, 0.1])
def test_rounding_is_never_down_and_keeps_seven_digits(number: float) -> None:
    assert number <= rounded_up(number) <= number * (1 + 1.1e-6)
    assert float(f"{rounded_up(number):.6e}") == pytest.approx(rounded_up(number), rel=1e-15)
    assert rounded_up(0.0) == 0.0


def test_a_layer_of_zeros_and_one_that_pads_otherwise() -> None:
    zeros = nn.Conv2d(1, 2, 3)
    nn.init.zeros_(zeros.weight)
    assert norm_bound(mapped(zeros, (1, 5, 5))) == norm_from_below(mapped(zeros, (1, 5, 5))) == 0
    with pytest.raises(UserError, match="pads with zeros, found reflect"):
        mapped(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), (1, 5, 5))
    with pytest.raises(UserError, match="found Identity"):
        PixelMap(FirstLayer(nn.Identity(), None, zeros, nn.Sequential()), (1, 5, 5), "test")


@pytest.mark.parametrize("case", [4, 6, 9, 11])
def test_the_map_is_the_model_s_own_first_layer(case: int) -> None:
    layer, shape = convolution(case)
    normalisation = Normalisation([0.3] * shape[0], stds(shape[0]))
    first = FirstLayer(normalisation, None, layer, nn.Sequential(nn.ReLU()))
    pixels, images = PixelMap(first, shape, "test"), torch.rand(6, *shape)
    found = pixels(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, first.before(images).detach(), rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pixels(images), found)
    assert all(torch.equal(pixels(images[k : k + 1]), found[k : k + 1]) for k in range(6))
    with torch.no_grad():
        layer.weight.mul_(2)
        normalisation.std.mul_(3)
    assert torch.equal(pixels(images), found)  # a copy, which nothing changes


def test_linear_part_and_transpose_are_of_the_same_matrix() -> None:
    layer, shape = convolution(8)
    pixels = mapped(layer, shape)
    change, values = torch.randn(1, *shape).double(), torch.randn(1, *pixels.outputs).double()
    torch.testing.assert_close((pixels.linear(change) * values).sum(), (pixels.transposed(values) * change).sum())
    image = torch.rand(1, *shape)
    moved = pixels((image.double() + 0.1 * change).float()).double() - pixels(image).double()
    torch.testing.assert_close(moved, 0.1 * pixels.linear(change), rtol=1e-4, atol=1e-5)
