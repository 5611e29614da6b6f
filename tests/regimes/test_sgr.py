"""Structured gradient regularisation: its oracles on a linear softmax, both forms, and double backpropagation."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from input_models import (
    PROGRESS,
    SIGMA,
    B,
    Directions,
    W,
    X,
    batch,
    linear,
    log_gradients,
    normal,
    omega,
    random_batch,
    smooth,
)

from robust_cli.attacks.fast_gradient import FastGradient
from robust_cli.messages import Wrong
from robust_cli.regimes.gradient_norm import GradientNorm
from robust_cli.regimes.sgr import StructuredGradient
from robust_cli.regimes.standard import Standard

PLAIN = {"normalise": "none", "bias_correction": False}


def held(averages: dict[str, torch.Tensor], form: str = "matrix", **settings: Any) -> StructuredGradient:
    """A regime whose running average is given. With a model in evaluation mode it stays so."""
    regime = StructuredGradient(form=form, **{**PLAIN, **settings})
    state = regime.state_dict()
    state["covariance"] |= {"form": form, "updates": 1, "averages": averages}
    regime.load_state_dict(state)
    return regime


def test_the_linear_softmax() -> None:
    """Omega_y = (w_y - <w>)' Sigma (w_y - <w>) / 2, and sum_y phi_y Omega_y = Tr(Cov_phi(w) Sigma) / 2."""
    model, regime = linear(W, B).eval(), held({"matrix": SIGMA})
    found = torch.stack([omega(regime, model, batch(X.view(1, 1, 1, 2), [y])) for y in range(3)])
    known = torch.tensor([0.1424426218, 0.1066377434, 0.9428790750], dtype=torch.float64)
    torch.testing.assert_close(found, known, rtol=0, atol=1e-9)
    shares = (W @ X + B).softmax(0)
    assert float((shares * found).sum()) == pytest.approx(0.2509901675, abs=1e-9)
    spread = (W - shares @ W).T @ (shares[:, None] * (W - shares @ W))
    assert float((shares * found).sum()) == pytest.approx(0.5 * float((spread * SIGMA).sum()), abs=1e-12)


def test_it_is_what_small_perturbations_of_that_covariance_add_to_the_loss() -> None:
    """(E[-log phi_y(x + t xi)] + log phi_y) / t^2, xi antithetic: 0.25099 whatever the label, to within its standard error."""
    t, draws = 0.03, normal(100_000, 2, seed=5) @ torch.linalg.cholesky(SIGMA).T
    for y in range(3):
        losses = [-((X + sign * t * draws) @ W.T + B).log_softmax(1)[:, y] for sign in (1, -1)]
        excess = (sum(losses) / 2 + (W @ X + B).log_softmax(0)[y]) / t**2
        error = float(excess.std()) / math.sqrt(len(excess))
        assert abs(float(excess.mean()) - 0.2509901675) < 5 * error + 1e-4
        assert error < 2e-3


def test_it_is_the_mean_over_images_and_linear_in_the_covariance() -> None:
    model, images = linear(W, B).eval(), random_batch(7, (1, 1, 2))
    gradients = log_gradients(W, B, images.images, images.labels)
    expected = 0.5 * ((gradients @ SIGMA) * gradients).sum(1).mean()
    torch.testing.assert_close(omega(held({"matrix": SIGMA}), model, images), expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(omega(held({"matrix": 3 * SIGMA}), model, images), 3 * expected, rtol=1e-9, atol=0)
    found = held({"matrix": SIGMA}, weight=0.7).loss(model, images, PROGRESS)
    torch.testing.assert_close(found.total, found.terms["cross_entropy"] + 0.7 * found.terms["structured_gradient"])


def test_the_covariance_function_gives_what_its_full_matrix_gives() -> None:
    """Eq. 16's function in place of the matrix, by FFT: the same Omega and the same gradient in the weights."""
    images, model = random_batch(5, (2, 4, 5)), smooth().eval()
    function = {"intra": normal(6, seed=3).abs() + 9 * torch.eye(6)[0].double(), "inter": normal(6, seed=4)}
    places = torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(5)).double()
    lengths = torch.cdist(places[:, 1:], places[:, 1:], compute_mode="donot_use_mm_for_euclid_dist").round().long()
    same = places[:, None, 0] == places[None, :, 0]
    matrix = torch.where(same, function["intra"][lengths], function["inter"][lengths])
    found = [held({"matrix": matrix}).loss(model, images, PROGRESS), held(function, "function").loss(model, images, PROGRESS)]
    torch.testing.assert_close(found[0].total, found[1].total, rtol=1e-12, atol=0)
    slopes = [torch.autograd.grad(each.total, list(model.parameters())) for each in found]
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    near = omega(held(function, "function", reach=1), model, images)
    cut = omega(held({"matrix": torch.where(lengths <= 1, matrix, 0.0)}), model, images)
    torch.testing.assert_close(near, cut, rtol=1e-12, atol=0)


def test_the_identity_gives_the_gradient_norm() -> None:
    model, images = smooth().eval(), random_batch()
    found = held({"matrix": torch.eye(40, dtype=torch.float64)}, weight=2.5).loss(model, images, PROGRESS)
    torch.testing.assert_close(found.total, GradientNorm(weight=2.5).loss(model, images, PROGRESS).total)


@pytest.mark.parametrize("form", ["matrix", "function"])
def test_the_gradient_in_the_weights_is_that_of_the_whole_loss(form: str) -> None:
    """Central differences in float64, Sigma and the mean perturbation held fixed."""
    model, images = smooth().eval(), random_batch()
    rows = normal(50, 40, seed=2)
    forms = {"matrix": {"matrix": rows.T @ rows / 50},
             "function": {"intra": torch.eye(6)[0].double() + 1, "inter": 0.5 * torch.ones(6).double()}}
    averages = {"mean": normal(2, 4, 5, seed=9), **forms[form]}
    regime = held(averages, form, weight=3.0, mean_term=True)
    parameters = list(model.parameters())
    slopes = torch.autograd.grad(regime.loss(model, images, PROGRESS).total, parameters)
    ways, values = [normal(*p.shape, seed=k) for k, p in enumerate(parameters)], []
    for step in (1e-5, -1e-5):
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for p, way in zip(moved.parameters(), ways, strict=True):
                p += step * way
        values.append(regime.loss(moved, images, PROGRESS).total.item())
    found = sum(float((slope * way).sum()) for slope, way in zip(slopes, ways, strict=True))
    assert found == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)
    assert regime.loss(model, images, PROGRESS).terms["structured_gradient"].item() > 0.01


@pytest.mark.parametrize("perturbations", ["gradient", "sign"])
def test_no_gradient_passes_through_the_covariance(perturbations: str) -> None:
    """A training step's gradient is that with the covariance it ends with, held fixed; with one that flows it would differ."""
    model, images = smooth(), random_batch()
    regime = StructuredGradient(perturbations=perturbations, weight=2.0, normalise="unit", mean_term=True)
    parameters = list(model.parameters())
    found = torch.autograd.grad(regime.loss(model, images, PROGRESS).total, parameters)
    fixed = torch.autograd.grad(regime.loss(model.eval(), images, PROGRESS).total, parameters)
    for a, b in zip(found, fixed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)
    assert not any(average.requires_grad for average in regime.state_dict()["covariance"]["averages"].values())


def test_each_image_s_form_below_0_counts_as_0() -> None:
    """intra (1, 2) of two pixels: Sigma = [[1, 2], [2, 1]], whose form of (1, -1) is -2 and of (1, 1) 6."""
    directions = torch.tensor([[[[2.0, 2.0]]], [[[2.0, -2.0]]]], dtype=torch.float64)
    images = batch(torch.zeros(2, 1, 1, 2, dtype=torch.float64), [0, 0])
    regime = held({"intra": torch.tensor([1.0, 2.0], dtype=torch.float64)}, "function")
    assert float(omega(regime, Directions(directions).eval(), images)) == pytest.approx(0.5 * (6 + 0) / 2)
    model = Directions(directions[1:]).eval()
    found = regime.loss(model, batch(images.images[:1], [0]), PROGRESS)
    assert found.terms["structured_gradient"].item() == 0
    slope, = torch.autograd.grad(found.terms["structured_gradient"], model.directions)
    assert not slope.any()


def test_before_the_first_step_there_is_no_covariance() -> None:
    found = StructuredGradient().loss(linear(W, B).eval(), random_batch(6, (1, 1, 2)), PROGRESS)
    assert torch.equal(found.total, found.terms["cross_entropy"])


def test_weight_zero_is_standard_training_and_the_weight_rises() -> None:
    model, images = linear(W, B), random_batch(6, (1, 1, 2))
    found, standard = (regime.loss(model, images, PROGRESS).total for regime in (StructuredGradient(weight=0.0), Standard()))
    torch.testing.assert_close(found.float(), standard.float())
    rising = StructuredGradient(weight=2.0, weight_warmup=0.5).loss(model, images, PROGRESS)  # step 1 of 10, 5 of them rising
    torch.testing.assert_close(rising.total, rising.terms["cross_entropy"] + 0.4 * rising.terms["structured_gradient"])


@pytest.mark.parametrize(("name", "settings"), [
    ("weight", {"weight": -1.0}), ("perturbations", {"perturbations": "fgsm"}), ("attack", {"perturbations": "attack"}),
    ("attack", {"attack": FastGradient()}), ("budget", {"budget": 0.1}), ("averaging", {"averaging": 0.0}),
    ("budget", {"perturbations": "attack", "attack": FastGradient()}), ("averaging", {"averaging": 1.1}),
    ("update_every", {"update_every": 0}), ("form", {"form": "full"}), ("reach", {"reach": -1}),
    ("reach", {"reach": 3, "form": "matrix"}), ("normalise", {"normalise": "trace"}), ("weight_warmup", {"weight_warmup": 2.0})])
def test_settings_out_of_range_are_named(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(Wrong) as caught:
        StructuredGradient(**settings)
    assert caught.value.name == name
