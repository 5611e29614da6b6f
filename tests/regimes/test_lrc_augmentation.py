"""Long-range correlated augmentation: the noise's covariance, its clipping, freshness and mixture."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from input_models import batch
from torch import nn
from torch.nn import functional

from robust_cli.covariance import correlation
from robust_cli.messages import Wrong
from robust_cli.regimes.batch import Batch, Progress
from robust_cli.regimes.lrc_augmentation import CorrelatedAugmentation
from robust_cli.regimes.standard import Standard

PROGRESS = Progress(step=5, epoch=1, total=100, seed=7)
IMAGES = torch.rand(6, 3, 5, 4, generator=torch.Generator().manual_seed(3))


def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(60, 3))


def given() -> Batch:
    return batch(IMAGES, torch.arange(6) % 3)


def test_the_noise_has_the_covariance_with_exact_distances() -> None:
    """20,000 draws on 3 x 5 x 4 pixels: every entry of scale^2 [[1, .4, .4], ...] (x) exp(-r / 2) within 5 standard errors."""
    regime = CorrelatedAugmentation(scale=0.3, decay_length=2.0, between_channels=0.4, clip=False)
    noise = (regime.noisy(torch.full((20_000, 3, 5, 4), 0.5), PROGRESS) - 0.5).flatten(1).double()
    channels = torch.full((3, 3), 0.4, dtype=torch.float64).fill_diagonal_(1.0)
    expected = 0.09 * torch.kron(channels, correlation(5, 4, 2.0))
    error = 0.09 * ((1 + (expected / 0.09).square()) / len(noise)).sqrt()
    assert float(((noise.T @ noise / len(noise) - expected).abs() / error).max()) < 5
    assert float((noise.mean(0).abs() / 0.3).max()) < 5 / math.sqrt(len(noise))
    rounded = 0.09 * torch.kron(channels, correlation(5, 4, 2.0, rounded=True))
    assert float(((noise.T @ noise / len(noise) - rounded).abs() / error).max()) > 10


def test_clipped_as_the_attack_s_or_not() -> None:
    clipped, free = (CorrelatedAugmentation(scale=0.5, clip=clip).noisy(IMAGES, PROGRESS) for clip in (True, False))
    assert torch.equal(clipped, free.clamp(0, 1))
    assert float((free - clipped).abs().max()) > 0.1


def test_fresh_per_step_and_the_same_per_seed_and_step() -> None:
    regime, images = CorrelatedAugmentation(clip=False), torch.zeros(400, 1, 4, 4)
    first = regime.noisy(images, PROGRESS)
    torch.manual_seed(1)
    assert torch.equal(first, regime.noisy(images, replace(PROGRESS, epoch=9)))
    for other in (replace(PROGRESS, step=6), replace(PROGRESS, seed=8)):
        again = regime.noisy(images, other)
        correlations = (first * again).flatten(1).mean(1) / 0.09
        assert abs(float(correlations.mean())) < 5 / math.sqrt(len(images))
    assert abs(float((first[::2] * first[1::2]).flatten(1).mean(1).mean())) / 0.09 < 5 / math.sqrt(200)


def test_the_loss_is_the_mixture_of_both_cross_entropies() -> None:
    network, regime = model(), CorrelatedAugmentation(scale=0.4)
    noisy = functional.cross_entropy(network(regime.noisy(IMAGES, PROGRESS)), given().labels)
    clean = functional.cross_entropy(network(IMAGES), given().labels)
    torch.testing.assert_close(regime.loss(network, given(), PROGRESS).total, noisy)
    found = replace(regime, clean_weight=0.3).loss(network, given(), PROGRESS)
    torch.testing.assert_close(found.total, 0.7 * noisy + 0.3 * clean)
    torch.testing.assert_close(found.terms["cross_entropy"], clean)
    torch.testing.assert_close(found.terms["cross_entropy_noisy"], noisy)
    assert abs((noisy - clean).item()) > 1e-3


def test_without_noise_it_is_standard_training_and_the_noise_rises() -> None:
    network = model()
    found, standard = (regime.loss(network, given(), PROGRESS).total for regime in (CorrelatedAugmentation(scale=0), Standard()))
    torch.testing.assert_close(found, standard)
    whole, part = (CorrelatedAugmentation(clip=False, noise_warmup=warmup).noisy(IMAGES, PROGRESS) - IMAGES
                   for warmup in (0.0, 0.5))
    torch.testing.assert_close(part, 6 / 50 * whole, rtol=1e-4, atol=1e-6)


def test_its_noise_is_none_to_certify_with() -> None:
    assert CorrelatedAugmentation().noise_std is None


@pytest.mark.parametrize(("name", "value"), [
    ("scale", -0.1), ("scale", math.inf), ("decay_length", 0.0), ("between_channels", 1.0), ("clean_weight", 1.0),
    ("noise_warmup", 1.5)])
def test_settings_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(Wrong) as caught:
        CorrelatedAugmentation(**{name: value})
    assert caught.value.name == name
