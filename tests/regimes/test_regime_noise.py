"""The noise that regimes train with: Gaussian, of the size asked for, unclipped, fresh per step and keyed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from robust_cli.regimes.batch import Batch, Progress
from robust_cli.regimes.noise_augmentation import NoiseAugmentation
from robust_cli.regimes.stability import Stability

PROGRESS = Progress(step=5, epoch=1, total=100, seed=7)
IMAGES = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(3))


class Spy(nn.Module):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images)
        return images.flatten(1)[:, :3]


def shown(regime: Stability | NoiseAugmentation, progress: Progress = PROGRESS, images: torch.Tensor = IMAGES) -> torch.Tensor:
    """The noisy images that the model is shown: the last of the batch."""
    spy = Spy()
    regime.loss(spy, Batch(images, torch.zeros(len(images), dtype=torch.int64), torch.arange(len(images))), progress)
    assert len(spy.seen) == 1  # one pass
    return spy.seen[0][-len(images):]


REGIMES: list[Stability | NoiseAugmentation]
REGIMES = [Stability(noise_std=0.7), NoiseAugmentation(noise_std=0.7), NoiseAugmentation(noise_std=0.7, clean_weight=0.5)]


@pytest.mark.parametrize("regime", REGIMES)
def test_noise_is_gaussian_of_the_size_asked_for(regime: Stability | NoiseAugmentation) -> None:
    noise = (shown(regime) - IMAGES).double().flatten()
    n = noise.numel()
    assert abs(noise.mean()) < 5 * 0.7 / math.sqrt(n)
    assert abs(noise.std() - 0.7) < 5 * 0.7 / math.sqrt(2 * n)
    assert abs((noise / 0.7).pow(4).mean() - 3) < 5 * math.sqrt(96 / n)  # the fourth moment tells it from a uniform one
    assert abs((noise * IMAGES.flatten().double()).mean() - 0) < 5 * 0.7 / math.sqrt(n)


@pytest.mark.parametrize("regime", REGIMES)
def test_noisy_images_leave_the_unit_interval(regime: Stability | NoiseAugmentation) -> None:
    """A clipped x' has no value outside [0, 1]; here the share below 0 is E Phi(-x / 0.7) over uniform x, about 0.23."""
    noisy = shown(regime)
    below = float((noisy < 0).double().mean())
    expected = float(torch.special.ndtr(-IMAGES.double() / 0.7).mean())
    assert abs(below - expected) < 5 * math.sqrt(expected / noisy.numel())
    assert float((noisy > 1).double().mean()) > 0.1


@pytest.mark.parametrize("regime", REGIMES)
def test_noise_is_fresh_per_step_and_the_same_per_seed_and_step(regime: Stability | NoiseAugmentation) -> None:
    first = shown(regime)
    assert torch.equal(first, shown(regime))
    assert torch.equal(first, shown(regime, replace(PROGRESS, epoch=9, total=7)))
    for other in (replace(PROGRESS, step=6), replace(PROGRESS, seed=8), replace(PROGRESS, step=5 + 2**32)):
        noise, again = first - IMAGES, shown(regime, other) - IMAGES
        correlation = float((noise * again).mean()) / 0.49
        assert abs(correlation) < 5 / math.sqrt(noise.numel())


def test_each_image_of_a_batch_has_its_own_noise() -> None:
    noise = shown(REGIMES[0], images=torch.zeros(2, 3, 16, 16))
    assert abs(float((noise[0] * noise[1]).mean())) / 0.49 < 5 / math.sqrt(noise[0].numel())


def test_noise_does_not_depend_on_the_memory_layout_or_the_global_generator() -> None:
    torch.manual_seed(1)
    first = shown(REGIMES[0])
    torch.manual_seed(2)
    assert torch.equal(first, shown(REGIMES[0], images=IMAGES.contiguous(memory_format=torch.channels_last)))


@pytest.mark.parametrize("regime", REGIMES)
def test_the_noise_is_known_to_whoever_certifies(regime: Stability | NoiseAugmentation) -> None:
    assert regime.noise_std == 0.7


def test_stability_shows_clean_and_noisy_images_in_one_batch() -> None:
    """Batch normalisation's running mean is then that of the mixture, which evaluation uses."""
    norm = nn.BatchNorm2d(1, momentum=1.0)
    model = nn.Sequential(norm, nn.Flatten(), nn.Linear(16, 3))
    images = torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    Stability(noise_std=0.5).loss(model, Batch(images, torch.zeros(50, dtype=torch.int64), torch.arange(50)), PROGRESS)
    noisy = shown(Stability(noise_std=0.5), images=images)
    torch.testing.assert_close(norm.running_mean, torch.cat([images, noisy]).mean().reshape(1))
    torch.testing.assert_close(norm.running_var, torch.cat([images, noisy]).var().reshape(1))
