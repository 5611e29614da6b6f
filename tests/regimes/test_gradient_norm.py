"""Gradient norm regularisation: closed forms of a linear softmax, its units, and double backpropagation."""

from __future__ import annotations

import math

import pytest
import torch
from input_models import PROGRESS, B, W, X, batch, linear, log_gradients, normal, random_batch, smooth
from torch import nn
from torch.nn import functional

from robust_cli.messages import UserError, Wrong
from robust_cli.models.classifier import classifier, frozen
from robust_cli.regimes.batch import Progress
from robust_cli.regimes.gradient_norm import GradientNorm
from robust_cli.regimes.input_gradient import log_probability_gradient
from robust_cli.regimes.standard import Standard


def test_the_gradient_of_the_log_probability_is_the_label_s_weights_less_their_mean() -> None:
    images, labels = normal(9, 1, 1, 2), torch.arange(9) % 3
    log_probability, gradient = log_probability_gradient(linear(W, B), images, labels)
    torch.testing.assert_close(gradient.flatten(1), log_gradients(W, B, images, labels), rtol=0, atol=1e-9)
    expected = (images.flatten(1) @ W.T + B).log_softmax(1)[torch.arange(9), labels]
    torch.testing.assert_close(log_probability, expected, rtol=1e-12, atol=0)


def test_by_hand() -> None:
    """phi = (.5593, .2920, .1487) and <w> = (.41066, .36633); y = 0: grad = (.58934, -.36633), half its square .240760."""
    found = GradientNorm(weight=2.0).loss(linear(W, B), batch(X.view(1, 1, 1, 2), [0]), PROGRESS)
    expected = 0.5 * (0.58934052**2 + 0.36633259**2)
    assert found.terms["gradient_norm"].item() == pytest.approx(expected, rel=1e-7)
    assert found.total.item() == pytest.approx(-math.log(0.55933144) + 2 * expected, rel=1e-7)


def test_it_is_half_the_mean_square_of_each_image_s_own_gradient() -> None:
    """Not of the mean loss's, which is n times smaller: ten copies of an image have the term of one."""
    images = random_batch(5, (1, 1, 2))
    term = GradientNorm().loss(linear(W, B), images, PROGRESS).terms["gradient_norm"]
    expected = 0.5 * log_gradients(W, B, images.images, images.labels).square().sum(1).mean()
    torch.testing.assert_close(term, expected, rtol=1e-10, atol=0)
    one = batch(images.images[:1], images.labels[:1])
    many = batch(images.images[:1].expand(10, -1, -1, -1), images.labels[:1].expand(10))
    model = linear(W, B)
    torch.testing.assert_close(GradientNorm().loss(model, one, PROGRESS).total, GradientNorm().loss(model, many, PROGRESS).total)


def test_images_are_in_pixel_units_whatever_the_model_normalises() -> None:
    images = random_batch(5, (1, 1, 2)).images.float()
    model = classifier(linear(W, B).float(), [0.3], [0.25])
    labels = torch.tensor([0, 1, 2, 0, 1])
    term = GradientNorm().loss(model, batch(images, labels), PROGRESS).terms["gradient_norm"]
    inner = log_gradients(W, B, (images.double() - 0.3) / 0.25, labels) / 0.25
    torch.testing.assert_close(term.double(), 0.5 * inner.square().sum(1).mean(), rtol=1e-5, atol=0)


def test_the_gradient_in_the_weights_is_that_of_the_whole_loss() -> None:
    """Central differences in float64 in a random direction of all parameters: the second backward pass is there."""
    model, images, regime = smooth(), random_batch(), GradientNorm(weight=3.0)
    parameters = list(model.parameters())
    slopes = torch.autograd.grad(regime.loss(model, images, PROGRESS).total, parameters)
    ways = [normal(*p.shape, seed=k) for k, p in enumerate(parameters)]
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, way in zip(parameters, ways, strict=True):
                p += sign * 1e-5 * way
        values.append(regime.loss(model, images, PROGRESS).total.item())
        with torch.no_grad():
            for p, way in zip(parameters, ways, strict=True):
                p -= sign * 1e-5 * way
    found = sum(float((slope * way).sum()) for slope, way in zip(slopes, ways, strict=True))
    assert found == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)
    plain = torch.autograd.grad(Standard().loss(model, images, PROGRESS).total, parameters)
    assert abs(found - sum(float((slope * way).sum()) for slope, way in zip(plain, ways, strict=True))) > 1e-2


def test_weight_zero_is_standard_training() -> None:
    model, images = smooth(), random_batch()
    found, standard = (regime.loss(model, images, PROGRESS).total for regime in (GradientNorm(weight=0.0), Standard()))
    torch.testing.assert_close(found.float(), standard.float())


def test_the_weight_rises() -> None:
    model, images, regime = smooth(), random_batch(), GradientNorm(weight=2.0, weight_warmup=0.5)
    for step, share in [(0, 0.2), (3, 0.8), (4, 1.0), (9, 1.0)]:
        found = regime.loss(model, images, Progress(step, 0, 10, 0))
        expected = found.terms["cross_entropy"] + 2 * share * found.terms["gradient_norm"]
        torch.testing.assert_close(found.total, expected)


def test_on_validation_it_is_a_number_and_nothing_is_left_behind() -> None:
    model, images = smooth(), random_batch()
    expected = GradientNorm(weight=2.0).loss(model.eval(), images, PROGRESS).total.detach()
    with frozen(model), torch.no_grad():
        found = GradientNorm(weight=2.0).loss(model, images, Progress(0, 0, 10, 1, validating=True))
    assert not found.total.requires_grad
    torch.testing.assert_close(found.total, expected)
    assert all(p.grad is None for p in model.parameters())
    assert not images.images.requires_grad


def test_flat_and_certain_models_are_no_trouble() -> None:
    for weight in (torch.zeros(3, 2), 1e4 * W):
        model = linear(weight)
        found = GradientNorm().loss(model, random_batch(4, (1, 1, 2)), PROGRESS)
        found.total.backward()
        assert torch.isfinite(found.total)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(images), 3)


def test_a_model_that_does_not_look_has_no_gradient() -> None:
    found = GradientNorm().loss(Constant(), random_batch(), PROGRESS)
    assert found.terms["gradient_norm"].item() == 0
    assert found.total.item() == pytest.approx(math.log(3))


def test_in_bf16_logits_and_gradients_stay_float32() -> None:
    model, images = smooth().float(), random_batch()
    single = batch(images.images.float(), images.labels)
    with torch.autocast("cpu", torch.bfloat16):
        found = GradientNorm(weight=1.0).loss(model, single, PROGRESS)
    assert found.total.dtype == torch.float32
    found.total.backward()
    exact = GradientNorm(weight=1.0).loss(model, single, PROGRESS)
    torch.testing.assert_close(found.total, exact.total, rtol=2e-2, atol=1e-3)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_compiled_model_is_refused_in_one_line() -> None:
    model = linear(W, B)
    model._orig_mod = nn.Identity()  # what torch.compile's own module has
    with pytest.raises(UserError, match=r"training.compile=true: expected .* set training.compile=false") as caught:
        GradientNorm().loss(model, random_batch(4, (1, 1, 2)), PROGRESS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("weight", -1.0), ("weight", math.inf), ("weight_warmup", 1.5)])
def test_settings_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(Wrong) as caught:
        GradientNorm(**{name: value})
    assert caught.value.name == name


def test_there_is_no_noise_to_certify_with() -> None:
    assert GradientNorm().noise_std is None


def test_the_cross_entropy_is_the_ordinary_one() -> None:
    model, images = smooth(), random_batch()
    found = GradientNorm().loss(model, images, PROGRESS).terms["cross_entropy"]
    torch.testing.assert_close(found, functional.cross_entropy(model(images.images), images.labels))
