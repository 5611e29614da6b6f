"""A small separable problem, a small network with dropout and batch normalisation, and what the fixture `run` is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn

from robust_cli.datasets.images import Images
from robust_cli.regimes.batch import Batch, Losses, Progress, Regime
from robust_cli.runs.folder import RunFolder
from robust_cli.training.loop import FitResult
from robust_cli.training.settings import Training


def stripes(n: int, seed: int = 0, classes: int = 3) -> Images:
    """uint8 [n, 1, 8, 8]: class k has its bright column at 2k + 1, over noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    pixels = torch.randint(0, 100, (n, 1, 8, 8), generator=generator)
    pixels[torch.arange(n), 0, :, 2 * labels + 1] += 120
    return Images(pixels.to(torch.uint8), labels, torch.arange(n) + 1000, tuple("abcd"[:classes]))


def network(seed: int = 0, dropout: float = 0.2) -> nn.Module:
    """Two convolutions, batch normalisation, dropout; always the same initial weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2),
                             nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(54, 3))


class Run(Protocol):
    def __call__(self, name: str, settings: Training, regime: Regime = ..., model: nn.Module | None = ...,
                 **more: Any) -> tuple[FitResult, nn.Module, RunFolder]: ...


class Averaging:
    """A regime with state: weighs the cross entropy by a running mean of itself."""

    noise_std = None

    def __init__(self) -> None:
        self.mean = torch.ones(())

    def loss(self, model: nn.Module, batch: Batch, progress: Progress) -> Losses:
        loss = nn.functional.cross_entropy(model(batch.images), batch.labels)
        if model.training:
            self.mean = 0.9 * self.mean + 0.1 * loss.detach()
        return Losses(loss * self.mean, {"mean": self.mean})

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.mean = state["mean"]
