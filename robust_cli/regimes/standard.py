"""Standard training: the baseline of every paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from robust_cli.regimes.batch import Batch, Losses, Progress


@dataclass(frozen=True)
class Standard:
    """Mean cross entropy of the clean images, L = -log P(y | x). Source: STN (Li et al. 2019), the natural model."""

    noise_std: ClassVar[float | None] = None

    def loss(self, model: torch.nn.Module, batch: Batch, progress: Progress) -> Losses:
        """Terms: cross_entropy."""
        loss = torch.nn.functional.cross_entropy(model(batch.images).float(), batch.labels)
        return Losses(loss, {"cross_entropy": loss})
