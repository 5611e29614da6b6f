"""Moments of affine and ReLU layers against tables, high-precision arithmetic, quadrature and Monte Carlo."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

from robust_cli.messages import UserError
from robust_cli.moments import affine_variance, relu_covariance, relu_mean, relu_second_moment, root

TABLE = [(0, 1, 0.398942280401433), (1, 1, 1.08331547058769), (-1, 1, 0.0833154705876863), (0.5, 0.25, 0.502122675654207),
         (-3, 0.5, 7.81784897985483e-11), (2, 0.1, 2.0), (-0.1, 2, 0.748881708773365), (-10, 1, 7.47456025458933e-25)]


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("mean", "std", "expected"), TABLE)
def test_the_mean_is_that_of_the_table(mean: float, std: float, expected: float) -> None:
    assert float(relu_mean(double(mean), double(std))) == pytest.approx(expected, rel=1e-10)
    single = float(relu_mean(torch.tensor(float(mean)), torch.tensor(float(std))))
    assert abs(single - expected) < 3e-7 * max(abs(mean), std)


@pytest.mark.parametrize("std", [1e-3, 1.0, 40.0])
def test_the_mean_is_right_far_into_the_tails(std: float) -> None:
    ratios = [-30.0, -12.5, -6.0, -0.3, 0.0, 1e-9, 0.7, 8.0, 30.0]
    found = relu_mean(std * double(*ratios), double(std))
    with mpmath.workdps(60):
        for ratio, value in zip(ratios, found.tolist(), strict=True):
            mean = mpmath.mpf(std * ratio)
            z = mean / mpmath.mpf(std)
            expected = mean * mpmath.ncdf(z) + mpmath.mpf(std) * mpmath.npdf(z)
            assert value == pytest.approx(float(expected), rel=1e-11)


def test_what_is_added_to_relu_depends_on_the_distance_alone() -> None:
    """T(mu, s) - max(mu, 0) is even in mu, and never negative, so T >= max(mu, 0)."""
    mean = torch.linspace(-50, 50, 4001, dtype=torch.float64)
    for std in (1e-12, 0.3, 7.0):
        added = relu_mean(mean, double(std)) - mean.clamp_min(0)
        torch.testing.assert_close(added, added.flip(0), rtol=0, atol=2e-14)
        assert added.min() >= 0
        assert (relu_mean(mean.float(), torch.tensor(std)) >= mean.float().clamp_min(0)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_noise_it_is_relu_with_finite_gradients(dtype: torch.dtype) -> None:
    mean = torch.tensor([-1e30, -2.0, -1e-30, 0.0, 1e-30, 2.0, 1e30], dtype=dtype, requires_grad=True)
    std = torch.zeros(7, dtype=dtype, requires_grad=True)
    found = relu_mean(mean, std)
    assert torch.equal(found, mean.clamp_min(0))
    by_mean, by_std = torch.autograd.grad(found.sum(), (mean, std))
    expected = [0.0, 0.0, None, 0.5, None, 1.0, 1.0]  # at 1e-30 the limit is 0 or 1; anything between is finite
    for value, want in zip(by_mean.tolist(), expected, strict=True):
        assert (want is None and 0 <= value <= 1) or value == pytest.approx(want, abs=1e-15)
    assert torch.isfinite(by_std).all()
    assert by_std[1] == pytest.approx(0, abs=1e-15)


def test_the_derivatives_are_the_distribution_and_the_density() -> None:
    mean = torch.linspace(-9, 9, 101, dtype=torch.float64, requires_grad=True)
    std = double(0.8).requires_grad_()
    total = relu_mean(mean, std)
    by_mean, = torch.autograd.grad(total.sum(), mean, retain_graph=True)
    z = mean.detach().numpy() / 0.8
    np.testing.assert_allclose(by_mean.numpy(), stats.norm.cdf(z), rtol=1e-11, atol=0)
    weights = torch.rand(101, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    by_std, = torch.autograd.grad(total, std, weights)
    assert float(by_std) == pytest.approx(float((weights.numpy() * stats.norm.pdf(z)).sum()), rel=1e-12)


@pytest.mark.parametrize("function", [relu_mean, relu_second_moment])
def test_gradients_are_those_of_finite_differences_twice(function: Callable[..., torch.Tensor]) -> None:
    generator = torch.Generator().manual_seed(1)
    mean = torch.randn(3, 2, 2, 2, dtype=torch.float64, generator=generator)
    std = 0.3 + torch.rand(1, 2, 2, 2, dtype=torch.float64, generator=generator)
    for layout in (torch.contiguous_format, torch.channels_last):
        inputs = (mean.to(memory_format=layout).requires_grad_(), std.clone().requires_grad_())
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_single_precision_agrees_with_double_on_large_batches(layout: torch.memory_format) -> None:
    """Values and both gradients, over more numbers than are treated at once, with an odd end."""
    generator = torch.Generator().manual_seed(2)
    mean = 3 * torch.randn(37, 8, 31, 29, generator=generator).to(memory_format=layout)
    std = torch.rand(1, 8, 31, 29, generator=generator).to(memory_format=layout)
    std[0, 0] = 0
    weights = torch.randn(mean.shape, generator=generator).to(memory_format=layout)
    double_ones = value_and_gradients(*(values.double().contiguous() for values in (mean, std, weights)))
    for single, reference in zip(value_and_gradients(mean, std, weights), double_ones, strict=True):
        torch.testing.assert_close(single.double(), reference, rtol=2e-5, atol=2e-5)


def value_and_gradients(mean: torch.Tensor, std: torch.Tensor, weights: torch.Tensor) -> list[torch.Tensor]:
    mean, std = mean.clone().requires_grad_(), std.clone().requires_grad_()
    found = relu_mean(mean, std)
    return [found.detach(), *torch.autograd.grad(found, (mean, std), weights)]


def test_narrow_input_is_computed_in_single_precision() -> None:
    mean = torch.linspace(-3, 3, 50).bfloat16()
    found = relu_mean(mean, torch.tensor(0.7))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, relu_mean(mean.float(), torch.tensor(0.7)).bfloat16())


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.4, 0.5), (-1.2, 0.7), (-3.0, 1.0), (2.0, 0.1)])
def test_first_and_second_moment_by_quadrature(mean: float, std: float) -> None:
    for power, function in ((1, relu_mean), (2, relu_second_moment)):
        expected, _ = integrate.quad(lambda x, k=power: max(x, 0) ** k * stats.norm.pdf(x, mean, std), max(0, mean - 12 * std),
                                     max(0, mean) + 12 * std, epsabs=1e-14, epsrel=1e-12, points=[max(mean, 0)])
        assert float(function(double(mean), double(std))) == pytest.approx(expected, rel=1e-9)


def test_second_moment_without_noise_is_the_square() -> None:
    mean = double(-2, 0, 3).requires_grad_()
    found = relu_second_moment(mean, double(0))
    assert found.tolist() == [0, 0, 9]
    assert torch.autograd.grad(found.sum(), mean)[0].tolist() == [0, 0, 6]


def test_covariance_at_its_ends_and_by_monte_carlo() -> None:
    """rho 1 is the variance of one ReLU, s^2 (1/2 - 1/(2 pi)); rho 0 none; rho -1 minus the product of the means."""
    first, second = double(1.5), double(0.4)
    ends = relu_covariance(first, second, double(1, 0, -1))
    expected = 0.6 * double(0.5 - 0.5 / math.pi, 0, -0.5 / math.pi)
    torch.testing.assert_close(ends, expected, rtol=1e-12, atol=1e-16)
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(2, 400_000, dtype=torch.float64, generator=generator)
    for rho in (-0.7, 0.3, 0.9):
        u, v = (1.5 * z[0]).clamp_min(0), (0.4 * (rho * z[0] + math.sqrt(1 - rho**2) * z[1])).clamp_min(0)
        products = (u - 1.5 / math.sqrt(2 * math.pi)) * (v - 0.4 / math.sqrt(2 * math.pi))
        error = float(products.std()) / math.sqrt(len(products))
        assert abs(float(products.mean()) - float(relu_covariance(first, second, double(rho)))) < 5 * error


CONVOLUTIONS = [
    {"kernel_size": 3}, {"kernel_size": 3, "padding": 1}, {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 5, "padding": 2}, {"kernel_size": 3, "padding": "same"}, {"kernel_size": 2, "padding": "same"},
    {"kernel_size": (1, 3), "padding": "valid"}, {"kernel_size": 3, "dilation": 2, "padding": (2, 1)},
    {"kernel_size": 3, "padding": 1, "groups": 2}, {"kernel_size": 3, "bias": False},
    {"kernel_size": (3, 2), "stride": (1, 2), "padding": (0, 1), "groups": 2, "dilation": (2, 1)},
]


@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=str)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_variance_after_a_convolution_is_that_of_the_unrolled_layer(settings: dict[str, object]) -> None:
    """diag(A Sigma A^T) with the matrix A made column by column from basis images; a map, a scalar and one map per image."""
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, dtype=torch.float64, **settings)  # type: ignore[arg-type]
    shape = (2, 6, 5)
    basis = torch.eye(60, dtype=torch.float64).view(60, *shape)
    with torch.no_grad():
        matrix = (layer(basis) - layer(torch.zeros(1, *shape, dtype=torch.float64))).flatten(1).T
        maps = torch.rand(3, *shape, dtype=torch.float64)
        outputs = layer(maps).shape[1:]
        found = affine_variance(layer, maps, shape)
        expected = torch.stack([torch.diag(matrix @ torch.diag(one.flatten()) @ matrix.T).view(outputs) for one in maps])
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(affine_variance(layer, maps[1], shape), expected[1:2], rtol=1e-12, atol=1e-15)
        same = torch.diag(matrix @ matrix.T).view(1, *outputs)
        torch.testing.assert_close(affine_variance(layer, 0.25, shape), 0.25 * same, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(affine_variance(layer, double(1, 3).view(2, 1, 1), shape)[0].flatten(),
                                   matrix.square() @ double(1, 3).repeat_interleave(30), rtol=1e-12, atol=1e-15)


def test_zero_padding_adds_no_variance() -> None:
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.ones_(layer.weight)
    with torch.no_grad():
        assert affine_variance(layer, 1.0, (1, 4, 4))[0, 0].tolist() == [[4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]]


def test_variance_after_a_dense_layer() -> None:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2, 0], [3, 0, 0.5]]))
        assert affine_variance(layer, torch.tensor([1.0, 0.5, 4]), (3,)).tolist() == [[3.0, 10.0]]
        assert affine_variance(layer, 2.0, (3,)).tolist() == [[10.0, 18.5]]


def test_variance_is_computed_in_single_precision_under_autocast() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 8, 5, padding=2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(affine_variance(layer, 0.1, (1, 8, 8)), plain(layer))


def plain(layer: nn.Conv2d) -> torch.Tensor:
    with torch.autocast("cpu", enabled=False):
        return nn.functional.conv2d(torch.full((1, 1, 8, 8), 0.1), layer.weight**2, padding=2)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_that_repeats_pixels_is_refused(mode: str) -> None:
    with pytest.raises(UserError, match=f"padding_mode={mode}") as caught:
        affine_variance(nn.Conv2d(1, 1, 3, padding=1, padding_mode=mode), 1.0, (1, 4, 4))
    assert "\n" not in str(caught.value)


def test_a_root_has_gradient_zero_at_zero() -> None:
    variance = torch.tensor([0.0, 4.0, 1e-38], requires_grad=True)
    assert root(variance).tolist() == pytest.approx([0, 2, 1e-19])
    assert torch.autograd.grad(root(variance)[:2].sum(), variance)[0].tolist() == [0, 0.25, 0]


def test_a_dead_filter_has_finite_gradients() -> None:
    """All-zero weights: T is max(bias, 0) and no gradient is NaN."""
    layer = nn.Conv2d(1, 2, 3)
    nn.init.zeros_(layer.weight)
    mean = layer(torch.rand(2, 1, 5, 5))
    found = relu_mean(mean, root(affine_variance(layer, 0.3, (1, 5, 5))))
    torch.testing.assert_close(found, mean.clamp_min(0))
    found.sum().backward()
    assert layer.weight.grad is not None
    assert torch.isfinite(layer.weight.grad).all()
