"""FMN: gradient steps inside a ball whose radius follows the boundary.

Symbols -> words: epsilon_k -> radius; gamma_k -> radius_step; alpha_k -> step_size; delta -> delta; L -> lead (z_y - max z_j).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from robust_cli.attacks.classifiers import Classifier, Network
from robust_cli.attacks.closest import Closest, Patience, channels_last, gradient_and_logits, inward, label_lead
from robust_cli.attacks.ddn import cosine, direction
from robust_cli.attacks.geometry import per_image, size
from robust_cli.attacks.losses import fooled
from robust_cli.attacks.norms import Norm
from robust_cli.messages import check
from robust_cli.smoothing.noise import ImageDraws

LEAST = 1e-4  # pixel units: the smallest first radius, or an image on the boundary itself would stay where it is
_DUAL = {Norm.l2: Norm.l2, Norm.linf: Norm.l1}


@dataclass(frozen=True)
class Fmn:
    """delta <- P(delta - step * unit gradient of the lead), P on the ball of the radius, then on the box.

    Source: Pintor, Roli, Brendel, Biggio 2021, Algorithm 1. Until an image is fooled for the first time, its radius is the
    distance of the boundary of the linearised classifier, |delta| + lead / |gradient| in the dual norm; then it shrinks by
    radius_step where the point is adversarial, never above the best so far, and grows by it where not. Steps have l2 length
    ``step_size`` in either norm, as in the paper, and fall to a hundredth, radius_step from its value to 0.001, along cosines.
    Two changes keep the box from stopping it short of the boundary: slopes that lead out of the box are left out, and the first
    radius grows by radius_step at least. The start is the image. An image leaves when ``patience`` steps brought its example
    no nearer by half a percent; that and the ``refine`` halvings of the way back are not part of the paper.
    """

    norm: str = Norm.l2
    steps: int = 100
    step_size: float = 1.0
    radius_step: float = 0.05
    patience: int | None = 30
    refine: int = 0
    closest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self.norm in (Norm.l2, Norm.linf), "norm", "l2 or linf", self.norm)
        check(self.steps >= 1, "steps", "a whole number >= 1", self.steps)
        check(0 < self.step_size < math.inf, "step_size", "a number > 0", self.step_size)
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
        radius, furthest = torch.zeros(len(images), device=images.device), size(torch.maximum(images, 1 - images), self.norm)
        for k in range(self.steps):
            gradient, logits = gradient_and_logits(network, point, labels[rows], label_lead)
            best.offer(point, fooled(logits, labels[rows]), rows)
            stay = patience.look(rows)
            if len(stay) < len(rows):
                rows, point, gradient, logits, radius = rows[stay], point[stay], gradient[stay], logits[stay], radius[stay]
                draws = draws.select(stay.tolist())
                if not len(rows):
                    break
            around, downhill = images[rows], inward(-gradient, point)
            radius = self._radius(k, radius, point - around, downhill, logits, labels[rows], best, rows)
            radius = torch.minimum(radius, furthest[rows])
            step = cosine(self.step_size, self.step_size / 100, k, self.steps)
            point = (around + self._project(point - around + step * direction(downhill, draws), radius)).clamp(0, 1)
        if len(rows):
            best.offer(point, fooled(network.logits(point), labels[rows]), rows)
        best.refine(network, labels, self.refine)
        return best.images

    def _radius(self, step: int, radius: torch.Tensor, delta: torch.Tensor, downhill: torch.Tensor, logits: torch.Tensor,
                labels: torch.Tensor, best: Closest, rows: torch.Tensor) -> torch.Tensor:
        """The next radius of each image, [n]."""
        turn = cosine(self.radius_step, min(0.001, self.radius_step), step, self.steps)
        away = label_lead(logits, labels).abs() / size(downhill, _DUAL[Norm(self.norm)]).clamp_min(1e-12)
        first = torch.maximum(size(delta, self.norm) + away, radius * (1 + turn)).clamp_min(LEAST)
        shrunk = torch.minimum(radius * (1 - turn), best.distance[rows])
        grown = torch.where(best.found[rows], radius * (1 + turn), first)
        return torch.where(fooled(logits, labels), shrunk, grown)

    def _project(self, delta: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
        """Each image's perturbation on the ball of its own radius [n]."""
        if self.norm == Norm.linf:
            return torch.maximum(torch.minimum(delta, per_image(radius)), -per_image(radius))
        return delta * per_image((radius / size(delta, Norm.l2).clamp_min(1e-12)).clamp_max(1))
