"""What a regime shows the model: every call's images, the mode and the weights it found; and small batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from toy_victims import random_images

from robust_cli.regimes.batch import Batch, Losses, Progress

PROGRESS = Progress(step=3, epoch=0, total=10, seed=11)


class Call(NamedTuple):
    """One forward pass."""

    images: torch.Tensor
    training: bool  # any part of the model
    learning: bool  # any weight with a gradient to come


@contextmanager
def watched(model: nn.Module) -> Iterator[list[Call]]:
    """The calls of the model from here on."""
    calls: list[Call] = []

    def note(module: nn.Module, arguments: tuple[torch.Tensor]) -> None:
        calls.append(Call(arguments[0].detach().clone(), any(part.training for part in module.modules()),
                          any(weight.requires_grad for weight in module.parameters())))

    handle = model.register_forward_pre_hook(note)
    yield calls
    handle.remove()


def shown(regime: Any, model: nn.Module, images: Batch, progress: Progress = PROGRESS) -> torch.Tensor:
    """The images that the model learns from, those of the loss's own pass: the last."""
    with watched(model) as calls:
        regime.loss(model, images, progress)
    return calls[-1].images


def learnt(regime: Any, model: nn.Module, images: Batch, progress: Progress = PROGRESS) -> tuple[Losses, list[torch.Tensor]]:
    """The loss and its gradients by the model's weights."""
    found = regime.loss(model, images, progress)
    return found, list(torch.autograd.grad(found.total, list(model.parameters())))


def batch(n: int = 6, classes: int = 3, seed: int = 0) -> Batch:
    """Images so far from black and white that a small budget never meets them."""
    return Batch(0.5 + 0.2 * (random_images(n, seed) - 0.5), torch.arange(n) % classes, torch.arange(n))


def one_class(n: int = 6, label: int = 0, seed: int = 0) -> Batch:
    return Batch(batch(n, seed=seed).images, torch.full((n,), label), torch.arange(n))


class Rows(nn.Module):
    """Returns given logits whatever the images."""

    def __init__(self, *rows: torch.Tensor) -> None:
        super().__init__()
        self.rows = torch.cat(rows)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert len(images) == len(self.rows)
        return self.rows


def rows(n: int = 6, classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two batches of logits, float64."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(2 * torch.randn(n, classes, generator=generator, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


