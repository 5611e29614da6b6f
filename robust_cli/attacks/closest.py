"""What closest-example attacks share: when an image counts as fooled, the best image so far, and the way back to the boundary.

A closest-example attack has no budget: for each image it looks for the nearest one, in its norm, that the classifier takes for
another class. It returns the image itself where it found none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from robust_cli.attacks.classifiers import Network
from robust_cli.attacks.geometry import per_image, size
from robust_cli.attacks.losses import Loss, fooled, lead

NEARER = 0.995  # an example counts as nearer, for an image's patience, below this share of the distance it had


def label_lead(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """z_y - max_{j != y} z_j, [n]: how far the label leads, negative where another class does; what a search lowers."""
    return -lead(logits, labels)


def inward(direction: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
    """A direction without the pixels that stand at the edge of the box and would leave it: what clipping would undo."""
    return torch.where(((point <= 0) & (direction < 0)) | ((point >= 1) & (direction > 0)), 0, direction)


def gradient_and_logits(network: Network, images: torch.Tensor, labels: torch.Tensor,
                        loss: Loss) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient of each image's loss [n, C, H, W] and the logits [n, K] there, from one pass."""
    gradient, _, logits = network.gradient(images, lambda logits: loss(logits, labels))
    return gradient, logits


@contextmanager
def channels_last(model: nn.Module) -> Iterator[None]:
    """The kernels of convolutions in the layout that a CPU's convolutions are fastest in, by some 15 %; put back after.

    Results differ by rounding. Elsewhere than on a CPU nothing is done: a GPU in fp32 is not faster with it.
    """
    kernels = [(part, part.data) for part in model.parameters() if part.ndim == 4 and part.device.type == "cpu"]
    try:
        for part, data in kernels:
            # Not contiguous(): it leaves the strides of kernels with one channel as they are, and convolutions go by strides.
            part.data = torch.empty_like(data, memory_format=torch.channels_last).copy_(data)
        yield
    finally:
        for part, data in kernels:
            part.data = data


class Closest:
    """The nearest adversarial image offered so far for each image: ``images`` themselves and ``distance`` infinity at first."""

    def __init__(self, images: torch.Tensor, norm: str) -> None:
        self.originals, self.norm = images, norm
        self.images, self.distance = images.clone(), torch.full((len(images),), torch.inf, device=images.device)

    @property
    def found(self) -> torch.Tensor:
        """Which images have an adversarial one, bool [n]."""
        return self.distance.isfinite()

    def offer(self, candidates: torch.Tensor, adversarial: torch.Tensor, rows: torch.Tensor | None = None) -> None:
        """Keep each candidate that is adversarial and nearer than what was there; ``rows``: whose they are, int64."""
        rows = torch.arange(len(self.images), device=self.images.device) if rows is None else rows
        distance = size(candidates - self.originals[rows], self.norm)
        better = adversarial & (distance < self.distance[rows])
        self.images[rows[better]], self.distance[rows[better]] = candidates[better], distance[better]

    def refine(self, network: Network, labels: torch.Tensor, steps: int, confidence: float = 0.0) -> None:
        """Halve the segment from each image to its adversarial one ``steps`` times, a pass each, and keep what is nearer,
        where another class leads by ``confidence``."""
        rows = self.found.nonzero().flatten()
        if steps == 0 or not len(rows):
            return
        start, step = self.originals[rows], self.images[rows] - self.originals[rows]
        inside, outside = torch.zeros(len(rows), device=step.device), torch.ones(len(rows), device=step.device)
        for _ in range(steps):
            middle = (inside + outside) / 2
            candidates = (start + per_image(middle) * step).clamp(0, 1)
            logits = network.logits(candidates)
            adversarial = fooled(logits, labels[rows]) & (label_lead(logits, labels[rows]) <= -confidence)
            inside, outside = torch.where(adversarial, inside, middle), torch.where(adversarial, middle, outside)
            self.offer(candidates, adversarial, rows)


class Patience:
    """Which images still come nearer: one that has an example leaves when ``steps`` looks in a row brought none nearer."""

    def __init__(self, best: Closest, steps: int | None) -> None:
        """``steps``: None for endless patience."""
        self.best, self.steps = best, steps
        self.mark, self.idle = best.distance.clone(), torch.zeros_like(best.distance)

    def look(self, rows: torch.Tensor) -> torch.Tensor:
        """Positions in ``rows``, int64, of the images that stay."""
        distance = self.best.distance[rows]
        nearer = (distance < NEARER * self.mark[rows]) | ~distance.isfinite()
        self.mark[rows] = torch.where(nearer, distance, self.mark[rows])
        self.idle[rows] = torch.where(nearer, 0, self.idle[rows] + 1)
        stays = distance > 0 if self.steps is None else (self.idle[rows] < self.steps) & (distance > 0)
        return stays.nonzero().flatten()
