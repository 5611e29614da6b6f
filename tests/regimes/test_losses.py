"""The regimes' losses against closed forms on logits that a test chooses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from watching import Rows

from robust_cli.messages import Wrong
from robust_cli.regimes.batch import Batch, Losses, Progress
from robust_cli.regimes.noise_augmentation import NoiseAugmentation
from robust_cli.regimes.stability import Stability, stability_term
from robust_cli.regimes.standard import Standard

PROGRESS = Progress(step=3, epoch=0, total=10, seed=11)


def batch(n: int = 6, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.rand(n, 1, 4, 4, generator=generator), torch.arange(n) % 3, torch.arange(n))


def linear(seed: int = 1) -> nn.Module:
    layer = nn.Linear(16, 3)
    with torch.no_grad():
        layer.weight.copy_(2 * torch.randn(3, 16, generator=torch.Generator().manual_seed(seed)))
    return nn.Sequential(nn.Flatten(), layer)


def random_logits(n: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, generator=generator) * 2, torch.randn(n, 3, generator=generator) * 2


def entropy(p: torch.Tensor) -> torch.Tensor:
    return -(p * p.log()).sum(1)


def test_stability_loss_is_cross_entropy_plus_weighted_entropy_and_divergence() -> None:
    clean, noisy = (x.double() for x in random_logits())
    images = batch()
    found = Stability(noise_std=0.3, weight=1.7).loss(Rows(clean.float(), noisy.float()), images, PROGRESS)
    p, q = clean.softmax(1), noisy.softmax(1)
    cross_entropy = -p[torch.arange(6), images.labels].log().mean()
    term = (entropy(p) + (p * (p / q).log()).sum(1)).mean()
    torch.testing.assert_close(found.total.double(), cross_entropy + 1.7 * term, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.terms["cross_entropy"].double(), cross_entropy, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.terms["stability"].double(), term, rtol=1e-6, atol=0)


def test_the_roles_of_clean_and_noisy_are_not_exchanged() -> None:
    clean, noisy = random_logits()
    assert not torch.allclose(stability_term(clean, noisy), stability_term(noisy, clean), rtol=1e-3)
    first = Stability(weight=0.0).loss(Rows(clean, noisy), batch(), PROGRESS).total
    torch.testing.assert_close(first, functional.cross_entropy(clean, batch().labels))


def test_by_hand_for_two_classes() -> None:
    clean, noisy = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[0.0, 0.0]])
    assert float(stability_term(clean, noisy)) == pytest.approx(math.log(2), rel=1e-6)  # the noisy prediction is uniform
    assert float(stability_term(noisy, clean)) == pytest.approx(-0.5 * math.log(3 / 16), rel=1e-6)  # (3/4, 1/4)


@pytest.mark.parametrize("factor", ["clean", "noisy"])
def test_the_gradient_flows_through_both_factors(factor: str) -> None:
    """dS/dz_i = -p_i (log q_i - sum_j p_j log q_j) / n and dS/dz'_i = (q_i - p_i) / n: a stopped gradient is caught."""
    clean, noisy = (x.double().requires_grad_() for x in random_logits(seed=4))
    term = stability_term(clean, noisy)
    found = torch.autograd.grad(term, clean if factor == "clean" else noisy)[0]
    p, log_q = clean.detach().softmax(1), noisy.detach().log_softmax(1)
    expected = {"clean": -p * (log_q - (p * log_q).sum(1, keepdim=True)), "noisy": log_q.exp() - p}[factor] / len(p)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert expected.abs().max() > 1e-2


def test_the_regime_itself_stops_no_gradient() -> None:
    """On a linear model: the weights' gradient equals that of the formula written out with both passes apart."""
    model, images, regime = linear(), batch(), Stability(noise_std=0.4, weight=2.0)
    found = torch.autograd.grad(regime.loss(model, images, PROGRESS).total, list(model.parameters()))
    seen: list[torch.Tensor] = []
    hook = model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    regime.loss(model, images, PROGRESS)
    hook.remove()
    p, q = model(seen[0][:6]), model(seen[0][6:])
    formula = functional.cross_entropy(p, images.labels) - 2 * (p.softmax(1) * q.softmax(1).log()).sum(1).mean()
    for a, b in zip(found, torch.autograd.grad(formula, list(model.parameters())), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    stopped = functional.cross_entropy(model(seen[0][:6]), images.labels)
    stopped = stopped - 2 * (p.detach().softmax(1) * model(seen[0][6:]).log_softmax(1)).sum(1).mean()
    mutant = torch.autograd.grad(stopped, list(model.parameters()))
    assert not torch.allclose(found[0], mutant[0], rtol=1e-2, atol=1e-4)


def test_weight_zero_is_standard_training() -> None:
    model, images = linear(), batch()
    torch.testing.assert_close(Stability(weight=0.0).loss(model, images, PROGRESS).total,
                               Standard().loss(model, images, PROGRESS).total)


def test_without_noise_the_entropy_remains() -> None:
    model, images = linear(), batch()
    found = Stability(noise_std=0.0, weight=1.5).loss(model, images, PROGRESS)
    p = model(images.images).softmax(1)
    expected = functional.cross_entropy(model(images.images), images.labels) + 1.5 * entropy(p).mean()
    torch.testing.assert_close(found.total, expected)
    assert found.terms["stability"].detach() > 0.05


def test_standard_is_the_mean_negative_log_probability() -> None:
    clean, _ = random_logits()
    found = Standard().loss(Rows(clean), batch(), PROGRESS).total
    expected = -clean.double().softmax(1)[torch.arange(6), batch().labels].log().mean()
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    assert Standard().noise_std is None


def test_noise_augmentation_mixes_clean_and_noisy() -> None:
    """clean_weight 1/2 is (CE(clean) + CE(noisy)) / 2; 0 sees noisy images only; no noise is standard training."""
    clean, noisy = random_logits()
    labels = batch().labels
    found = NoiseAugmentation(clean_weight=0.25).loss(Rows(clean, noisy), batch(), PROGRESS)
    expected = 0.25 * functional.cross_entropy(clean, labels) + 0.75 * functional.cross_entropy(noisy, labels)
    torch.testing.assert_close(found.total, expected)
    assert set(found.terms) == {"cross_entropy", "cross_entropy_noisy"}
    model = linear()
    alone = NoiseAugmentation(noise_std=0.5).loss(model, batch(), PROGRESS)
    mixed = NoiseAugmentation(noise_std=0.5, clean_weight=0.5).loss(model, batch(), PROGRESS)
    torch.testing.assert_close(alone.total, mixed.terms["cross_entropy_noisy"])
    torch.testing.assert_close(NoiseAugmentation(noise_std=0.0).loss(model, batch(), PROGRESS).total,
                               Standard().loss(model, batch(), PROGRESS).total)


@pytest.mark.parametrize("regime", [Standard(), NoiseAugmentation(), NoiseAugmentation(clean_weight=0.3), Stability()])
def test_losses_are_scalars_with_named_finite_terms(regime: Standard | NoiseAugmentation | Stability) -> None:
    found: Losses = regime.loss(linear(), batch(), PROGRESS)
    assert found.total.shape == ()
    assert found.total.requires_grad
    assert len(found.terms) >= 1
    assert all(term.shape == () and torch.isfinite(term) for term in found.terms.values())


@pytest.mark.parametrize(("regime", "name", "value"), [
    (Stability, "noise_std", -0.5), (Stability, "noise_std", math.nan), (Stability, "weight", -1.0),
    (NoiseAugmentation, "noise_std", math.inf), (NoiseAugmentation, "clean_weight", 1.0)])
def test_settings_out_of_range_are_named(regime: type, name: str, value: float) -> None:
    with pytest.raises(Wrong) as caught:
        regime(**{name: value})
    assert caught.value.name == name


@pytest.mark.parametrize(("step", "share"), [(0, 0.2), (1, 0.4), (4, 1.0), (9, 1.0)])
def test_a_warmup_grows_linearly_and_is_over_on_validation_images(step: int, share: float) -> None:
    """Over half of ten steps: 1/5, 2/5, ... 1."""
    model, at = linear(), Progress(step, 0, 10, 11)
    rising = Stability(noise_std=0.5, weight=2.0, weight_warmup=0.5)
    expected = Stability(noise_std=0.5, weight=2.0 * share).loss(model, batch(), at).total
    torch.testing.assert_close(rising.loss(model, batch(), at).total, expected)
    full = Progress(step, 0, 10, 11, validating=True)
    whole = Stability(noise_std=0.5, weight=2.0).loss(model, batch(), at).total
    assert torch.equal(rising.loss(model, batch(), full).total, whole)
    for regime in (Stability, NoiseAugmentation):
        louder = regime(noise_std=0.5, noise_warmup=0.5).loss(model, batch(), at).total
        torch.testing.assert_close(louder, regime(noise_std=0.5 * share).loss(model, batch(), at).total)
