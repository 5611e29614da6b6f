"""DeepFool: steps to the nearest face of the linearised classifier.

Symbols -> words: f -> logits; k(x) -> label; w'_k -> slopes (of f_k - f_y); f'_k -> -leads; r -> total; eta -> overshoot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from robust_cli.attacks.classifiers import Classifier, Network
from robust_cli.attacks.closest import Closest, inward
from robust_cli.attacks.geometry import per_image
from robust_cli.attacks.losses import fooled
from robust_cli.attacks.norms import Norm
from robust_cli.messages import check
from robust_cli.models.classifier import frozen
from robust_cli.smoothing.noise import ImageDraws


@dataclass(frozen=True)
class DeepFool:
    """r <- r + |f'_l| / |w'_l|^2 w'_l for the class l with the least |f'_k| / |w'_k|, until x + (1 + overshoot) r is fooled.

    Source: Moosavi-Dezfooli, Fawzi, Frossard 2016, Algorithm 2. On an affine classifier one step gives the exact distance
    (while the box does not bind), times 1 + overshoot. Every step is clipped to [0, 1] and goes on from the clipped point; slopes
    that lead out of the box are left out, or the part of each step that clipping undoes would keep it from ever crossing.
    Classes tried: the ``candidates`` others with the largest logits at the image, all of them where that is null. The label
    that is left is the true one. ``refine`` halvings of the way back, which are not part of the paper, take off the overshoot.
    """

    norm: str = Norm.l2
    steps: int = 50
    overshoot: float = 0.02
    candidates: int | None = 9
    refine: int = 0
    closest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self.norm == Norm.l2, "norm", "l2", self.norm)
        check(self.steps >= 1, "steps", "a whole number >= 1", self.steps)
        check(0 < self.overshoot < math.inf, "overshoot", "a number > 0", self.overshoot)
        check(self.candidates is None or self.candidates >= 1, "candidates", "a whole number >= 1, or null", self.candidates)
        check(self.refine >= 0, "refine", "a whole number >= 0", self.refine)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Nearest adversarial images found, float32 [n, C, H, W] in [0, 1]; the image itself where there is none."""
        network, best = classifier.network, Closest(images, self.norm)
        logits = network.logits(images)
        classes = self._classes(logits, labels)
        best.offer(images, fooled(logits, labels))
        rows, point = (~best.found).nonzero().flatten(), images.clone()
        for _ in range(self.steps):
            if not len(rows):
                break
            total = (point[rows] - images[rows]) / (1 + self.overshoot)
            leads, slopes = leads_and_slopes(network, point[rows], labels[rows], classes[rows])
            total = total + _step(leads, inward(slopes, point[rows][:, None]))
            point[rows] = (images[rows] + (1 + self.overshoot) * total).clamp(0, 1)
            beaten = fooled(network.logits(point[rows]), labels[rows])
            best.offer(point[rows], beaten, rows)
            rows = rows[~beaten]
        best.refine(network, labels, self.refine)
        return best.images

    def _classes(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The other classes to try, int64 [n, k], the largest logits first."""
        others = logits.scatter(1, labels[:, None], -torch.inf)
        most = logits.shape[1] - 1
        return others.topk(most if self.candidates is None else min(self.candidates, most), dim=1).indices


def leads_and_slopes(network: Network, images: torch.Tensor, labels: torch.Tensor,
                     classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """f_y - f_k [n, k] and the gradient of f_k - f_y [n, k, C, H, W], k over ``classes`` [n, k]: one forward pass, k backward."""
    with frozen(network.model), torch.enable_grad():
        inputs = images.detach().requires_grad_()
        logits = network(inputs)
        gaps = logits.gather(1, classes) - logits.gather(1, labels[:, None])
        if not gaps.requires_grad:
            return -gaps, torch.zeros(*classes.shape, *images.shape[1:], device=images.device)
        slopes = [torch.autograd.grad(gaps[:, k].sum(), inputs, retain_graph=True, materialize_grads=True)[0]
                  for k in range(classes.shape[1])]
    network.backward_passes += len(images) * classes.shape[1]
    return -gaps.detach(), torch.stack(slopes, 1)


def _step(leads: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """The shortest way to a face of the linearised classifier [n, C, H, W], zero where no slope leads anywhere."""
    lengths = slopes.flatten(2).norm(dim=2)
    away = torch.where(lengths > 0, leads.abs() / lengths, torch.inf).nan_to_num(torch.inf, torch.inf)
    nearest = away.argmin(1)
    rows = torch.arange(len(nearest), device=nearest.device)
    distance, length = away[rows, nearest], lengths[rows, nearest]
    usable = distance.isfinite() & (length > 0)
    unit = slopes[rows, nearest] / per_image(torch.where(usable, length, 1))
    return torch.where(per_image(usable), unit * per_image(torch.where(usable, distance, 0)), 0)
