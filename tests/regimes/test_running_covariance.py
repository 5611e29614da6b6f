"""Running averages: closed forms, forms of matrix and function alike, and what has no variance."""

from __future__ import annotations

import io
import math

import pytest
import torch
from input_models import PROGRESS, Directions, Shift, W, batch, linear, normal, random_batch

from robust_cli.covariance import covariance_function, second_moment
from robust_cli.messages import UserError
from robust_cli.regimes.batch import Progress, Stateful
from robust_cli.regimes.running_covariance import RunningCovariance, RunningVariance
from robust_cli.regimes.sgr import StructuredGradient


@pytest.mark.parametrize("form", ["matrix", "function"])
def test_of_a_constant_covariance_it_is_a_growing_share(form: str) -> None:
    """S_t = (1 - (1 - beta)^t) C from S_0 = 0: beta and 1 - beta are not exchanged."""
    vectors, average = normal(20, 2, 3, 4), RunningCovariance(0.1, form)
    whole = RunningCovariance(1.0, form)
    whole.update(vectors)
    for t in range(1, 8):
        average.update(vectors)
        assert average.share == pytest.approx(1 - 0.9**t)
        for name, value in average.averages.items():
            torch.testing.assert_close(value, (1 - 0.9**t) * whole.averages[name], rtol=1e-12, atol=1e-15)


def test_of_a_changing_one_the_last_counts_most() -> None:
    parts, average = [normal(20, 1, 2, 2, seed=k) for k in range(4)], RunningCovariance(0.3, "matrix")
    for part in parts:
        average.update(part)
    expected = sum(0.3 * 0.7 ** (3 - k) * second_moment(part) for k, part in enumerate(parts))
    torch.testing.assert_close(average.averages["matrix"], expected, rtol=1e-12, atol=1e-15)
    means = sum(0.3 * 0.7 ** (3 - k) * part.mean(0) for k, part in enumerate(parts))
    torch.testing.assert_close(average.averages["mean"], means, rtol=1e-12, atol=1e-15)


def test_matrix_and_function_are_raw_second_moments() -> None:
    vectors = normal(20, 3, 3, 4) + 2
    matrix, function = (RunningCovariance(1.0, form) for form in ("matrix", "function"))
    matrix.update(vectors)
    function.update(vectors)
    torch.testing.assert_close(matrix.averages["matrix"], second_moment(vectors), rtol=1e-12, atol=0)
    known = covariance_function(vectors)
    assert known.inter is not None
    torch.testing.assert_close(function.averages["intra"], known.intra, rtol=1e-12, atol=0)
    torch.testing.assert_close(function.averages["inter"], known.inter, rtol=1e-12, atol=0)
    torch.testing.assert_close(matrix.variance(), function.variance(), rtol=1e-12, atol=0)
    torch.testing.assert_close(matrix.variance(), vectors.square().mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("shape", "form"), [((1, 32, 32), "matrix"), ((1, 32, 33), "function"), ((3, 32, 32), "function")])
def test_auto_takes_the_matrix_for_small_images(shape: tuple[int, int, int], form: str) -> None:
    average = RunningCovariance(0.1, "auto")
    average.update(torch.rand(2, *shape))
    assert average.form == form
    assert ("matrix" in average.averages) == (form == "matrix")
    assert sum(value.numel() for value in average.averages.values()) < 2000 or form == "matrix" or shape[0] == 3


def test_images_too_large_for_a_matrix_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"regime.form=matrix: expected .* at most 8192 numbers, found 27648; set") as caught:
        RunningCovariance(0.1, "matrix").update(torch.rand(2, 3, 96, 96))
    assert "\n" not in str(caught.value)


def test_the_variance_is_that_of_all_images_shown() -> None:
    images = torch.rand(37, 2, 3, 4) * torch.linspace(0, 1, 12).view(3, 4) + 5
    variance = RunningVariance()
    for part in images.split(10):
        variance.update(part)
    torch.testing.assert_close(variance(), images.double().var(0, correction=0).mean(), rtol=1e-9, atol=0)
    assert variance.images == 37
    assert float(RunningVariance()()) == 0


@pytest.mark.parametrize("form", ["matrix", "function"])
def test_a_state_goes_through_a_file_and_the_regime_goes_on(form: str) -> None:
    def steps(regime: StructuredGradient, first: int) -> torch.Tensor:
        for step in range(first, first + 2):
            found = regime.loss(linear(W), random_batch(6, (1, 1, 2), seed=step), Progress(step, 0, 10, 0))
        return found.total

    whole, again = (StructuredGradient(form=form, mean_term=True) for _ in range(2))
    steps(whole, 0)
    assert isinstance(whole, Stateful)
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(steps(whole, 2), steps(again, 2))
    other = StructuredGradient(form=form, mean_term=True)
    assert not torch.equal(steps(whole, 4), steps(other, 4))


def test_a_state_that_was_taken_does_not_change_afterwards() -> None:
    regime = StructuredGradient()
    regime.loss(linear(W), random_batch(6, (1, 1, 2)), PROGRESS)
    state = regime.state_dict()
    before = state["covariance"]["averages"]["matrix"].clone(), state["variance"]["total"].clone()
    regime.loss(linear(W), random_batch(6, (1, 1, 2), seed=3), PROGRESS)
    assert torch.equal(before[0], state["covariance"]["averages"]["matrix"])
    assert torch.equal(before[1], state["variance"]["total"])


@pytest.mark.parametrize("settings", [{}, {"perturbations": "sign"}, {"form": "function"}, {"normalise": "unit"},
                                      {"perturbations": "attack", "attack": Shift(torch.zeros(1, 1, 2).double())}])
@pytest.mark.parametrize("trouble", ["flat model", "certain model", "images alike", "one image"])
def test_where_nothing_varies_omega_is_0_and_no_number_is_lost(trouble: str, settings: dict[str, object]) -> None:
    weight = {"flat model": torch.zeros(3, 2), "certain model": 1e30 * W}.get(trouble, W)
    images = random_batch(6, (1, 1, 2))
    if trouble == "images alike":
        images = batch(images.images[:1].expand(6, -1, -1, -1).clone(), images.labels)
    if trouble == "one image":
        images = batch(images.images[:1], images.labels[:1])
    model, regime = linear(weight), StructuredGradient(mean_term=True, **settings)  # type: ignore[arg-type]
    for step in range(3):
        found = regime.loss(model, images, Progress(step, 0, 10, 0))
        slopes = torch.autograd.grad(found.total, list(model.parameters()), allow_unused=True)
        assert all(torch.isfinite(slope).all() for slope in slopes if slope is not None)
        assert all(torch.isfinite(term) for term in found.terms.values())
    if trouble == "flat model" or (trouble in ("images alike", "one image") and regime.normalise == "data"):
        assert found.terms["structured_gradient"].item() == pytest.approx(0, abs=1e-15)


def test_gradients_too_small_for_float32_s_squares_count_as_none() -> None:
    images, model = torch.zeros(2, 1, 1, 2), Directions(torch.full((2, 1, 1, 2), 1e-20))
    found = StructuredGradient(normalise="unit").loss(model, batch(images, [0, 0]), PROGRESS)
    assert found.terms["structured_gradient"].item() == 0
    small = Directions(torch.full((2, 1, 1, 2), 2e-10))  # squares of 1e-20: these do count
    found = StructuredGradient(normalise="unit").loss(small, batch(images, [0, 0]), PROGRESS)
    assert math.isclose(found.terms["structured_gradient"].item(), 2e-20, rel_tol=1e-4)
