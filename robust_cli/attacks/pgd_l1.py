"""Projected gradient ascent in the l1 ball.

Symbols -> words: epsilon -> budget; q (SLIDE's percentile) -> 1 - share; eta -> the length of a step; L -> loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from robust_cli.attacks.classifiers import Classifier
from robust_cli.attacks.geometry import project, random_direction, settle
from robust_cli.attacks.losses import LOSSES
from robust_cli.attacks.norms import Norm
from robust_cli.attacks.pgd import step_length, walk, worst_end
from robust_cli.messages import check
from robust_cli.smoothing.noise import ImageDraws


def sparse_direction(gradient: torch.Tensor, points: torch.Tensor, share: float) -> torch.Tensor:
    """The signs of the largest entries of each gradient, over their number: l1 length 1, or 0 where nothing can rise.

    ``share`` of the pixels (at least one) are moved: of those with a gradient that the box [0, 1] lets move along it. Steepest in
    l1 is the single largest entry; a few together cross the ball in fewer steps (SLIDE).
    """
    rows, at = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0).flatten(1), points.flatten(1)
    free = torch.where(rows > 0, at < 1, at > 0) & (rows != 0)
    count = max(1, round(share * rows.shape[1]))
    largest = rows.abs().where(free, 0.0).topk(count, dim=1).indices
    signs = torch.zeros_like(rows).scatter_(1, largest, rows.where(free, 0.0).sign().gather(1, largest))
    return (signs / signs.abs().sum(1, keepdim=True).clamp_min(1)).view_as(gradient)


@dataclass(frozen=True)
class PgdL1:
    """x <- P(x + step * u), `steps` times, u the signs of the largest entries of the gradient over their number.

    P is the projection on the ball and the box [0, 1] at once: clipping after the ball's alone would lose most of the budget,
    since a sparse step hits the box early. Pixels that have no way to go take no part in u. Steps shrink linearly from twice
    ``step_size`` to nothing, so that the end settles: with sparse steps of one length it keeps jumping between pixels.

    Source: the sparse steps of Tramer and Boneh 2019 (SLIDE), with the exact projection of Croce and Hein 2021. The first of the
    ``restarts`` begins at the image, the others at a random direction of l1 length ``budget``, projected. A restart ends with
    the first point where the image is fooled, or with its last one; see `worst_end` for which is kept.
    """

    norm: str = Norm.l1
    steps: int = 40
    step_size: float | None = None
    share: float = 0.01
    restarts: int = 1
    loss: str = "cross_entropy"
    budget: float | None = None

    def __post_init__(self) -> None:
        check(self.norm == Norm.l1, "norm", "l1", self.norm)
        check(self.steps >= 1, "steps", "a whole number >= 1", self.steps)
        check(self.step_size is None or 0 < self.step_size < math.inf, "step_size", "a number > 0, or null", self.step_size)
        check(0 < self.share <= 1, "share", "a number in (0, 1]", self.share)
        check(self.restarts >= 1, "restarts", "a whole number >= 1", self.restarts)
        check(self.loss in LOSSES, "loss", " or ".join(LOSSES), self.loss)
        check(self.budget is None or 0 < self.budget < math.inf, "budget", "a number > 0", self.budget)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Adversarial images float32 [n, C, H, W] in the l1 ball and in [0, 1]."""
        budget, loss = self.budget, LOSSES[self.loss]
        assert budget is not None, "a budget has to be set"
        length = step_length(self.step_size, self.steps, budget)

        def move(step: int, point: torch.Tensor, gradient: torch.Tensor, around: torch.Tensor) -> torch.Tensor:
            moved = point + 2 * length * (1 - step / self.steps) * sparse_direction(gradient, point, self.share)
            return project(moved, around, budget, self.norm)

        def run(restart: int, rows: torch.Tensor, mine: ImageDraws) -> torch.Tensor:
            around = start = images[rows]
            if restart > 0:
                away = random_direction(around, mine)
                away = away * (budget / away.abs().sum((1, 2, 3), keepdim=True).clamp_min(1e-30))
                start = project(around + away, around, budget, self.norm)
            end = walk(classifier, start, around, labels[rows], loss, mine, self.steps, move)
            return settle(end, around, budget, self.norm)

        return worst_end(run, self.restarts, classifier, images, labels, loss, draws)
