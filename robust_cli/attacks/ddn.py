"""DDN: the direction from the gradient, the norm from a search of its own.

Symbols -> words: epsilon_k -> radius; gamma -> radius_step; alpha -> step_size; delta -> delta; J -> cross entropy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from robust_cli.attacks.classifiers import Classifier, Network
from robust_cli.attacks.closest import Closest, Patience, channels_last, gradient_and_logits
from robust_cli.attacks.geometry import per_image, random_direction, size, steepest
from robust_cli.attacks.losses import LOSSES, fooled
from robust_cli.attacks.norms import Norm
from robust_cli.messages import check
from robust_cli.smoothing.noise import ImageDraws


def cosine(first: float, last: float, step: int, steps: int) -> float:
    """A setting that falls from ``first`` at step 0 toward ``last`` at ``steps`` along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * step / steps)) / 2


def direction(gradient: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
    """The gradient over its l2 length, a random direction for images whose gradient is zero."""
    unit = steepest(gradient, Norm.l2)
    still = (size(unit, Norm.l2) == 0).nonzero().flatten()
    if len(still):
        unit[still] = random_direction(unit[still], draws.select(still.tolist()))
    return unit


@dataclass(frozen=True)
class Ddn:
    """delta <- delta + step * unit gradient, then put at the radius; radius * (1 - radius_step) if fooled, * (1 + it) if not.

    Source: Rony, Hafemann, Oliveira, Ben Ayed, Sabourin, Granger 2019, Algorithm 1. The step falls from ``step_size`` to a
    hundredth of it along a cosine, as in the authors' code; their rounding to 8 bits is left out. Of the points passed, the last
    one included, the nearest that is adversarial is kept. An image leaves when ``patience`` steps brought its example no nearer
    by half a percent, which costs little but a third of the time or more; that and the ``refine`` halvings of the way back are
    not part of the paper.
    """

    norm: str = Norm.l2
    steps: int = 100
    step_size: float = 1.0
    radius: float = 1.0
    radius_step: float = 0.05
    patience: int | None = 20
    refine: int = 0
    closest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self.norm == Norm.l2, "norm", "l2", self.norm)
        check(self.steps >= 1, "steps", "a whole number >= 1", self.steps)
        check(0 < self.step_size < math.inf, "step_size", "a number > 0", self.step_size)
        check(0 < self.radius < math.inf, "radius", "a number > 0", self.radius)
        check(0 < self.radius_step < 1, "radius_step", "a number in (0, 1)", self.radius_step)
        check(self.patience is None or self.patience >= 1, "patience", "a whole number >= 1, or null", self.patience)
        check(self.refine >= 0, "refine", "a whole number >= 0", self.refine)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Nearest adversarial images found, float32 [n, C, H, W] in [0, 1]; the image itself where there is none."""
        with channels_last(classifier.network.model):
            return self._search(classifier.network, images, labels, draws)

    def _search(self, network: Network, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """The same, with the model made ready."""
        best, point = Closest(images, self.norm), images
        rows, patience = torch.arange(len(images), device=images.device), Patience(best, self.patience)
        radius = torch.full((len(images),), self.radius, device=images.device)
        for k in range(self.steps):
            gradient, logits = gradient_and_logits(network, point, labels[rows], LOSSES["cross_entropy"])
            adversarial = fooled(logits, labels[rows])
            best.offer(point, adversarial, rows)
            radius = radius * torch.where(adversarial, 1 - self.radius_step, 1 + self.radius_step)
            stay = patience.look(rows)
            if len(stay) < len(rows):
                rows, point, gradient, radius = rows[stay], point[stay], gradient[stay], radius[stay]
                draws = draws.select(stay.tolist())
                if not len(rows):
                    break
            step = cosine(self.step_size, self.step_size / 100, k, self.steps)
            delta = point - images[rows] + step * direction(gradient, draws)
            delta = delta * per_image(radius / size(delta, Norm.l2).clamp_min(1e-12))
            point = (images[rows] + delta).clamp(0, 1)
        if len(rows):
            best.offer(point, fooled(network.logits(point), labels[rows]), rows)
        best.refine(network, labels, self.refine)
        return best.images
