"""What SGR takes in from step to step: its perturbations, their scale, their mean, and when."""

from __future__ import annotations

import copy

import pytest
import torch
from input_models import PROGRESS, B, Directions, Shift, W, batch, linear, log_gradients, normal, omega, random_batch, smooth

from robust_cli.attacks.fast_gradient import FastGradient
from robust_cli.models.classifier import frozen
from robust_cli.regimes.batch import Losses, Progress
from robust_cli.regimes.sgr import StructuredGradient


def expected_omega(gradients: torch.Tensor, moved: torch.Tensor, size: float | None) -> torch.Tensor:
    """1/2 mean g' Sigma g with Sigma the second moment of the perturbations, its mean diagonal made ``size``."""
    sigma = moved.flatten(1).T @ moved.flatten(1) / len(moved)
    if size is not None:
        sigma = sigma * size / sigma.diagonal().mean()
    return 0.5 * ((gradients @ sigma) * gradients).sum(1).mean()


@pytest.mark.parametrize("normalise", ["data", "unit", "none"])
@pytest.mark.parametrize("perturbations", ["gradient", "sign", "attack"])
def test_a_first_step_by_hand(perturbations: str, normalise: str) -> None:
    """Its own perturbations are in the covariance it uses: each image's gradient, not the mean loss's; its sign; the attack's."""
    model, images = linear(W, B), random_batch(6, (1, 1, 2))
    shift = normal(6, 1, 1, 2, seed=3)
    settings = {"attack": Shift(shift)} if perturbations == "attack" else {}
    regime = StructuredGradient(perturbations=perturbations, normalise=normalise, **settings)
    gradients = log_gradients(W, B, images.images, images.labels)
    moved = {"gradient": -gradients, "sign": -gradients.sign(), "attack": shift}[perturbations]
    size = {"data": float(images.images.flatten(1).var(0, correction=0).mean()), "unit": 1.0, "none": None}[normalise]
    expected = expected_omega(gradients, moved, size)
    torch.testing.assert_close(omega(regime, model, images), expected, rtol=1e-9, atol=0)
    state = regime.state_dict()["covariance"]
    torch.testing.assert_close(state["averages"]["mean"].flatten(), 0.1 * moved.flatten(1).mean(0), rtol=1e-9, atol=1e-15)


def test_signs_and_gradients_cost_no_pass_of_their_own() -> None:
    for perturbations in ("gradient", "sign"):
        model = Directions(normal(4, 1, 2, 2))
        StructuredGradient(perturbations=perturbations).loss(model, random_batch(4, (1, 2, 2), 2), PROGRESS)
        assert model.calls == 1


def test_over_steps_the_covariance_and_the_images_variance_are_running_averages() -> None:
    """Two batches: Sigma = (0.3 C_2 + 0.7 * 0.3 C_1) up to its scale; the variance is that of all images together."""
    model, shifts = linear(W, B), [normal(6, 1, 1, 2, seed=k) for k in (3, 4)]
    batches = [random_batch(6, (1, 1, 2), seed=1), random_batch(6, (1, 1, 2), seed=2)]
    regime = StructuredGradient(perturbations="attack", attack=Shift(*shifts), averaging=0.3)
    for step, images in enumerate(batches):
        found = omega(regime, model, images, Progress(step, 0, 10, 0))
    both = [shift.flatten(1).T @ shift.flatten(1) / 6 for shift in shifts]
    sigma = 0.3 * both[1] + 0.7 * 0.3 * both[0]
    torch.testing.assert_close(regime.state_dict()["covariance"]["averages"]["matrix"], sigma, rtol=1e-12, atol=0)
    variance = torch.cat([images.images for images in batches]).flatten(1).var(0, correction=0).mean()
    gradients = log_gradients(W, B, batches[1].images, batches[1].labels)
    sigma = sigma * variance / sigma.diagonal().mean()
    torch.testing.assert_close(found, 0.5 * ((gradients @ sigma) * gradients).sum(1).mean(), rtol=1e-9, atol=0)


@pytest.mark.parametrize(("normalise", "factor"), [("data", 1.0), ("unit", 1.0), ("none", 9.0)])
def test_the_size_of_the_perturbations_counts_without_a_normalisation_only(normalise: str, factor: float) -> None:
    model, images, shift = linear(W, B), random_batch(6, (1, 1, 2)), normal(6, 1, 1, 2, seed=3)
    found = [omega(StructuredGradient(perturbations="attack", attack=Shift(size * shift), normalise=normalise), model, images)
             for size in (1.0, 3.0)]
    torch.testing.assert_close(found[1], factor * found[0], rtol=1e-9, atol=0)


def test_the_start_from_0_with_and_without_its_correction() -> None:
    """Of a constant covariance C the paper's average is (1 - 0.9^t) C after t steps, the corrected one C."""
    model, images, shift = linear(W, B), random_batch(6, (1, 1, 2)), normal(6, 1, 1, 2, seed=3)
    expected = expected_omega(log_gradients(W, B, images.images, images.labels), shift, None)
    for corrected in (True, False):
        regime = StructuredGradient(perturbations="attack", attack=Shift(shift), normalise="none", bias_correction=corrected)
        for t in range(1, 5):
            share = 1.0 if corrected else 1 - 0.9**t
            torch.testing.assert_close(omega(regime, model, images, Progress(t, 0, 10, 0)), share * expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("normalise", "corrected", "scale"), [("none", True, 1.0), ("none", False, 0.1), ("unit", True, None),
                                                               ("data", True, None)])
def test_the_mean_perturbation_by_hand(normalise: str, corrected: bool, scale: float | None) -> None:
    """Eq. 12 with one and the same perturbation d for all images: - mean g'd + 1/2 mean (g'd)^2, d scaled as Sigma's root is."""
    model, images = linear(W, B), random_batch(6, (1, 1, 2))
    d = torch.tensor([0.4, -0.9], dtype=torch.float64)
    regime = StructuredGradient(perturbations="attack", attack=Shift(d.view(1, 1, 2)), normalise=normalise, mean_term=True,
                                bias_correction=corrected, weight=0.5)
    found = regime.loss(model, images, PROGRESS)
    gradients = log_gradients(W, B, images.images, images.labels)
    if scale is None:  # d' d' of mean diagonal 1, or the variance of the images
        wanted = 1.0 if normalise == "unit" else float(images.images.flatten(1).var(0, correction=0).mean())
        along, quadratic = gradients @ (d * (wanted / d.square().mean()).sqrt()), 1.0
    else:
        along, quadratic = scale * (gradients @ d), 1 / scale
    mean, square = -along.mean(), 0.5 * quadratic * along.square().mean()
    torch.testing.assert_close(found.terms["mean_perturbation"], mean, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.terms["structured_gradient"], square, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.total, found.terms["cross_entropy"] + 0.5 * (mean + square), rtol=1e-9, atol=0)


def test_the_mean_of_gradients_raises_the_loss() -> None:
    """xi = grad CE = - grad log phi: its mean's term is + |mean gradient|^2, whichever way the gradients are taken."""
    model, images = linear(W, B), random_batch(6, (1, 1, 2))
    found = StructuredGradient(normalise="none", mean_term=True).loss(model, images, PROGRESS).terms["mean_perturbation"]
    expected = log_gradients(W, B, images.images, images.labels).mean(0).square().sum()
    torch.testing.assert_close(found.detach(), expected, rtol=1e-9, atol=0)


def test_the_attack_is_on_the_label_within_its_budget_and_leaves_the_model_alone() -> None:
    model, images = smooth().float().train(), random_batch()
    single = batch(images.images.float(), images.labels)
    regime = StructuredGradient(perturbations="attack", attack=FastGradient(), budget=0.25, normalise="none")
    found = regime.loss(model, single, PROGRESS)
    averages = regime.state_dict()["covariance"]["averages"]
    assert 0 < float(averages["matrix"].diagonal().max()) <= 0.1 * 0.25**2 * (1 + 1e-5)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    with torch.enable_grad():
        inputs = single.images.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(model(inputs), single.labels)
    moved = (single.images + 0.25 * torch.autograd.grad(loss, inputs)[0].sign()).clamp(0, 1) - single.images
    torch.testing.assert_close(averages["mean"], 0.1 * moved.mean(0), rtol=1e-4, atol=1e-6)
    found.total.backward()


def run(regime: StructuredGradient, steps: list[int], model: torch.nn.Module) -> Losses:
    for step in steps:
        found = regime.loss(model, random_batch(6, (1, 1, 2), seed=step), Progress(step, 0, 100, 0))
    return found


def test_the_covariance_is_renewed_every_so_many_steps() -> None:
    """At steps 0, 3 and 6, and at the first step there is; only then is the attack made."""
    attack = Shift(normal(1, 1, 2))
    regime = StructuredGradient(perturbations="attack", attack=attack, update_every=3)
    run(regime, list(range(8)), linear(W, B))
    assert (attack.calls, regime.state_dict()["covariance"]["updates"]) == (3, 3)
    late = StructuredGradient(update_every=3)
    assert run(late, [4, 5], linear(W, B)).terms["structured_gradient"].item() > 0
    assert late.state_dict()["covariance"]["updates"] == 1
    assert late.state_dict()["variance"]["images"] == 12


@pytest.mark.parametrize("how", ["validating", "evaluation mode"])
def test_validation_changes_no_state(how: str) -> None:
    attack = Shift(normal(1, 1, 2))
    regime, model = StructuredGradient(perturbations="attack", attack=attack), linear(W, B)
    run(regime, [0, 1], model)
    before, images = copy.deepcopy(regime.state_dict()), random_batch(6, (1, 1, 2), seed=9)
    expected = regime.loss(model.eval(), images, PROGRESS).total.detach()
    if how == "validating":
        model.train()
        found = regime.loss(model, images, Progress(0, 0, 100, 0, validating=True))
    else:
        with frozen(model), torch.no_grad():
            found = regime.loss(model, images, Progress(0, 0, 100, 0))
        assert not found.total.requires_grad
    torch.testing.assert_close(found.total.detach(), expected, rtol=0, atol=0)
    after = regime.state_dict()
    assert attack.calls == 2
    assert before["covariance"]["updates"] == after["covariance"]["updates"]
    assert torch.equal(before["covariance"]["averages"]["matrix"], after["covariance"]["averages"]["matrix"])
    assert before["variance"]["images"] == after["variance"]["images"]
