"""Training on noisy images with their true labels.

Symbols -> words: sigma -> noise_std; x' = x + N(0, sigma^2 I) -> the noisy images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from robust_cli.messages import check
from robust_cli.regimes.batch import Batch, Losses, Progress
from robust_cli.regimes.noise import noisy


@dataclass(frozen=True)
class NoiseAugmentation:
    """L = (1 - clean_weight) CE(f(x'), y) + clean_weight CE(f(x), y), x' = x + N(0, noise_std^2 I), fresh and unclipped.

    Source: Gaussian augmentation, as the baseline of STN (Li et al. 2019) and of AMR. With clean_weight = 1/2 it is what
    the published code of STN trained until March 2020, (CE(clean, y) + CE(noisy, y)) / 2, in place of its paper's
    stability loss. Both parts go through the model in one pass (see `Stability`).
    """

    noise_std: float = 0.5
    clean_weight: float = 0.0

    def __post_init__(self) -> None:
        check(0 <= self.noise_std < math.inf, "noise_std", "a number >= 0", self.noise_std)
        check(0 <= self.clean_weight < 1, "clean_weight", "a number in [0, 1)", self.clean_weight)

    def loss(self, model: torch.nn.Module, batch: Batch, progress: Progress) -> Losses:
        """Terms: cross_entropy_noisy and, where it has a weight, cross_entropy (of the clean images)."""
        images = noisy(batch.images, self.noise_std, progress)
        if self.clean_weight == 0:
            loss = torch.nn.functional.cross_entropy(model(images).float(), batch.labels)
            return Losses(loss, {"cross_entropy_noisy": loss})
        clean_logits, noisy_logits = model(torch.cat([batch.images, images])).float().chunk(2)
        clean = torch.nn.functional.cross_entropy(clean_logits, batch.labels)
        augmented = torch.nn.functional.cross_entropy(noisy_logits, batch.labels)
        return Losses((1 - self.clean_weight) * augmented + self.clean_weight * clean,
                      {"cross_entropy_noisy": augmented, "cross_entropy": clean})
