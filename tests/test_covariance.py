"""Covariances: the way by FFT is the way by the matrix, known functions are recovered, roots are roots."""

from __future__ import annotations

import math

import pytest
import torch

from robust_cli.covariance import (
    CovarianceFunction,
    centre,
    correlation,
    covariance_function,
    decay_length,
    rescaled,
    root,
    second_moment,
)
from robust_cli.messages import Wrong


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs(shape: tuple[int, int, int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For each rounded displacement the matrices [d, d] that take the mean over pairs in one channel, and in two."""
    channels, height, width = shape
    places = torch.tensor([(y, x) for y in range(height) for x in range(width)]).double()
    distance = torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist").round()
    same = torch.eye(channels, dtype=torch.float64)
    found = []
    for r in range(int(distance.max()) + 1):
        near = (distance == r).double() / (distance == r).sum()
        found.append((torch.kron(same / channels, near), torch.kron((1 - same) / max(1, channels * (channels - 1)), near)))
    return found


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("shape", [(3, 6, 4), (1, 7, 7), (2, 1, 5), (2, 3, 1), (1, 1, 1)])
def test_the_way_by_fft_is_the_way_by_the_matrix(shape: tuple[int, int, int], centred: bool) -> None:
    vectors = (normal(300, *shape) + 0.7 + torch.arange(math.prod(shape)).view(shape)).float()  # more than one batch
    found, matrix = covariance_function(vectors, centred), second_moment(vectors, centred)
    intra, inter = zip(*((float((within * matrix).sum()), float((between * matrix).sum())) for within, between in pairs(shape)),
                       strict=True)
    scale = float(matrix.abs().max())
    torch.testing.assert_close(found.intra, torch.tensor(intra, dtype=torch.float64), rtol=0, atol=1e-10 * scale)
    if shape[0] == 1:
        assert found.inter is None
    else:
        assert found.inter is not None
        torch.testing.assert_close(found.inter, torch.tensor(inter, dtype=torch.float64), rtol=0, atol=1e-10 * scale)


def test_second_moments_by_definition() -> None:
    vectors = normal(700, 2, 3) + 5
    flat = vectors.flatten(1)
    torch.testing.assert_close(second_moment(vectors), flat.T @ flat / 700, rtol=1e-12, atol=0)
    torch.testing.assert_close(second_moment(vectors, centred=True), torch.cov(flat.T, correction=0), rtol=0, atol=1e-12)
    small = (vectors * 10).clamp(0, 255).to(torch.uint8)
    torch.testing.assert_close(second_moment(small), second_moment(small.double()), rtol=0, atol=0)
    with pytest.raises(Wrong, match="vectors: expected at least one"):
        second_moment(vectors[:0])


@pytest.fixture(scope="module")
def known() -> tuple[torch.Tensor, torch.Tensor]:
    """Noise of three channels with correlation exp(-r / 2), half of it between channels, and its covariance."""
    channels = torch.full((3, 3), 0.5, dtype=torch.float64).fill_diagonal_(1.0)
    covariance = torch.kron(channels, correlation(10, 10, 2.0))
    return (normal(3000, 300) @ root(covariance).T).view(-1, 3, 10, 10), covariance


def test_a_known_function_is_recovered(known: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Each value is a quadratic form z'Az of normal z: its variance is 2 tr(A S A S)."""
    noise, covariance = known
    found = covariance_function(noise)
    assert found.inter is not None
    worst = []
    for r, forms in enumerate(pairs((3, 10, 10))):
        for values, form in zip((found.intra, found.inter), forms, strict=True):
            product = form @ covariance
            error = math.sqrt(2 * float((product * product.T).sum()) / len(noise))
            worst.append(abs(float(values[r]) - float(product.trace())) / error)
    assert len(worst) == 28
    assert max(worst) < 4.5
    assert float(found.intra[1]) < math.exp(-1 / 2)  # the diagonal neighbours are further away and count as 1 too
    assert decay_length(found.intra) == pytest.approx(2, abs=0.15)
    assert decay_length(found.inter) == pytest.approx(2, abs=0.2)
    assert float(found.inter[0]) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("values", "length"), [
    ([math.exp(-r / 3) for r in range(9)], 3.0), ([1.0, 0.0, 0.5], 1 - 1 / math.e), ([2.0, 2.0, 0.0], 2 - 1 / math.e),
    ([1.0, 0.5, 0.4], math.inf), ([0.0, 0.0], math.nan), ([-1.0, -2.0], math.nan), ([1.0, -1.0], (1 - 1 / math.e) / 2)])
def test_decay_length_by_hand(values: list[float], length: float) -> None:
    assert decay_length(torch.tensor(values, dtype=torch.float64)) == pytest.approx(length, nan_ok=True)


def test_rescaled_by_the_variance_within() -> None:
    found = CovarianceFunction(torch.tensor([4.0, 2.0]).double(), torch.tensor([1.0, -1.0]).double()).rescaled()
    assert (found.intra.tolist(), found.inter is not None and found.inter.tolist()) == ([1, 0.5], [0.25, -0.25])
    with pytest.raises(Wrong, match="intra: expected a variance"):
        CovarianceFunction(torch.zeros(2), None).rescaled()


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_a_root_of_a_semi_definite_matrix(rank: int) -> None:
    """Fewer images than pixels, and a pixel that never changes."""
    rows = normal(rank, 6)
    rows[:, 2] = 0
    covariance = second_moment(rows)
    found = root(covariance)
    torch.testing.assert_close(found @ found.T, covariance, rtol=0, atol=1e-12)
    assert not found[2].any()
    definite = covariance + torch.eye(6)
    assert torch.equal(root(definite), torch.linalg.cholesky(definite))


def test_what_is_no_covariance_is_refused() -> None:
    with pytest.raises(Wrong, match=r"semi-definite.*least eigenvalue -0\.014"):
        root(correlation(32, 32, 1.0, rounded=True))
    almost = torch.diag(torch.tensor([1.0, 0.5, -1e-12], dtype=torch.float64))
    torch.testing.assert_close(root(almost) @ root(almost).T, almost, rtol=0, atol=1e-11)
    with pytest.raises(Wrong, match="least eigenvalue -1e-08"):
        root(torch.diag(torch.tensor([1.0, -1e-8], dtype=torch.float64)))
    with pytest.raises(Wrong, match="finite"):
        root(torch.tensor([[math.nan]], dtype=torch.float64))


def test_the_middle_and_the_scale_of_the_papers_figures() -> None:
    images = torch.arange(28 * 28).view(1, 1, 28, 28)
    assert torch.equal(centre(images), images[:, :, 7:21, 7:21])
    assert centre(normal(2, 3, 32, 32)).shape == (2, 3, 16, 16)
    assert torch.equal(rescaled(torch.tensor([[2.0, -4.0]])), torch.tensor([[0.5, -1.0]]))
    assert not rescaled(torch.zeros(2, 2)).any()
