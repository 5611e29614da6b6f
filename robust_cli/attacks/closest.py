"""What closest-example attacks share: when an image counts as fooled, the best image so far, and the way back to the boundary.

A closest-example attack has no budget: for each image it looks for the nearest one, in its norm, that the classifier takes for
another class. It returns the image itself where it found none. It needs a classifier that gives the same answer whenever asked.
"""

from __future__ import annotations

import torch

from robust_cli.attacks.classifiers import Network
from robust_cli.attacks.geometry import per_image, size
from robust_cli.attacks.losses import Loss, fooled, lead


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

    def refine(self, network: Network, labels: torch.Tensor, steps: int) -> None:
        """Halve the segment from each image to its adversarial one ``steps`` times, a pass each, and keep what is nearer."""
        rows = self.found.nonzero().flatten()
        if steps == 0 or not len(rows):
            return
        start, step = self.originals[rows], self.images[rows] - self.originals[rows]
        inside, outside = torch.zeros(len(rows), device=step.device), torch.ones(len(rows), device=step.device)
        for _ in range(steps):
            middle = (inside + outside) / 2
            candidates = (start + per_image(middle) * step).clamp(0, 1)
            adversarial = fooled(network.logits(candidates), labels[rows])
            inside, outside = torch.where(adversarial, inside, middle), torch.where(adversarial, middle, outside)
            self.offer(candidates, adversarial, rows)
