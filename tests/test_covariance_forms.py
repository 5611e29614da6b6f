"""Forms v' Sigma v of a covariance function: by the spectrum as by the full matrix, and indefinite where the paper's is."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from robust_cli.covariance import CovarianceFunction, correlation, covariance_function


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def full(function: CovarianceFunction, shape: tuple[int, int, int], reach: int | None) -> torch.Tensor:
    """The matrix [d, d] entry by entry: eq. 16, distances rounded, 0 beyond the reach."""
    places = list(itertools.product(*(range(size) for size in shape)))
    found = torch.zeros(len(places), len(places), dtype=torch.float64)
    for i, (c, y, x) in enumerate(places):
        for j, (other, v, u) in enumerate(places):
            r = round(math.hypot(y - v, x - u))
            values = function.intra if c == other else function.inter
            assert values is not None
            found[i, j] = values[r] if r < len(values) and (reach is None or r <= reach) else 0.0
    return found


def random_function(shape: tuple[int, int, int], seed: int = 1) -> CovarianceFunction:
    size = round(math.hypot(shape[1] - 1, shape[2] - 1)) + 1
    return CovarianceFunction(normal(size, seed=seed), normal(size, seed=seed + 1) if shape[0] > 1 else None)


SHAPES = [(1, 6, 6), (1, 5, 7), (3, 4, 6), (3, 7, 5), (2, 1, 5), (3, 6, 1), (2, 9, 2), (1, 1, 1), (3, 1, 1)]


@pytest.mark.parametrize("reach", [None, 0, 1, 2, 5, 40])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_form_and_the_product_are_those_of_the_full_matrix(shape: tuple[int, int, int], reach: int | None) -> None:
    function, vectors = random_function(shape), normal(4, *shape, seed=7).requires_grad_()
    matrix = full(function, shape, reach)
    found = function.form(vectors, reach)
    flat = vectors.detach().flatten(1)
    torch.testing.assert_close(found, (flat @ matrix * flat).sum(1), rtol=1e-12, atol=1e-12)
    (slope,) = torch.autograd.grad(found.sum(), vectors)
    torch.testing.assert_close(slope.flatten(1) / 2, flat @ matrix, rtol=1e-12, atol=1e-12)


def test_a_function_that_ends_before_the_image_does_is_0_beyond() -> None:
    function, vectors = CovarianceFunction(normal(3), normal(3, seed=5)), normal(2, 2, 6, 5, seed=3)
    flat, matrix = vectors.flatten(1), full(function, (2, 6, 5), None)
    torch.testing.assert_close(function.form(vectors), (flat @ matrix * flat).sum(1), rtol=1e-12, atol=1e-12)


def test_in_float32_and_twice_differentiable() -> None:
    function, vectors = random_function((3, 6, 5)), normal(3, 3, 6, 5, seed=2)
    found = function.form(vectors.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), function.form(vectors), rtol=1e-4, atol=1e-4)
    assert torch.autograd.gradgradcheck(lambda v: function.form(v).sum(), vectors.requires_grad_())


def test_the_function_of_one_vector_gives_its_squared_sums_back() -> None:
    """What eq. 16 averages over pairs the form adds up again: v' Sigma_v v = sum over r of (sum over pairs at r)^2 / pairs."""
    vector = normal(1, 1, 4, 5)
    flat = vector.flatten()
    distance = torch.cdist(*[torch.cartesian_prod(torch.arange(4.0), torch.arange(5.0))] * 2).round()
    products = torch.outer(flat, flat)
    sums = [(products[distance == r].sum() ** 2 / (distance == r).sum()) for r in range(int(distance.max()) + 1)]
    torch.testing.assert_close(covariance_function(vector).form(vector)[0], torch.stack(sums).sum(), rtol=1e-12, atol=0)


def test_rounded_distances_leave_forms_below_0_and_exact_ones_do_not() -> None:
    """exp(-r / 8) of the rounded distance on 16 x 16 pixels: its least eigenvector's form is its negative eigenvalue."""
    values, vectors = torch.linalg.eigh(correlation(16, 16, 8.0, rounded=True))
    assert values[0] < -0.1
    function = CovarianceFunction(torch.exp(-torch.arange(22).double() / 8), None)
    torch.testing.assert_close(function.form(vectors[:, 0].view(1, 1, 16, 16))[0], values[0], rtol=1e-10, atol=0)
    assert torch.linalg.eigvalsh(correlation(16, 16, 8.0))[0] > 0
