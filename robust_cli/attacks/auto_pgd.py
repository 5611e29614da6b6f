"""Auto-PGD: projected gradient ascent with momentum whose steps halve by themselves.

Symbols (Croce and Hein 2020) -> words: epsilon -> budget; N_iter -> steps; eta -> length; alpha -> MOMENTUM; rho -> progress;
w_j -> checkpoints; f -> loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from robust_cli.attacks.classifiers import Classifier, strongest
from robust_cli.attacks.geometry import per_image, project, random_start, settle, steepest
from robust_cli.attacks.losses import LOSSES, Loss
from robust_cli.attacks.norms import Norm
from robust_cli.messages import check
from robust_cli.smoothing.noise import ImageDraws

MOMENTUM = 0.75  # weight of the new step; 1 - MOMENTUM repeats the last one
FIRST, SHRINK, LEAST = 0.22, 0.03, 0.06  # shares of the steps: up to the first checkpoint, less in each next, at least


def checkpoints(steps: int) -> list[int]:
    """w_j = ceil(p_j steps), p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), up to the end."""
    found, before, share = [], 0.0, FIRST
    while share <= 1 + 1e-9:
        found.append(math.ceil(share * steps - 1e-9))
        before, share = share, share + max(share - before - SHRINK, LEAST)
    return sorted(set(found))


@dataclass
class _Best:
    """The best point of each image so far with its gradient: one where the label has lost before one where it has not, then
    the larger loss. A loss that is not a number is the worst."""

    point: torch.Tensor
    gradient: torch.Tensor
    loss: torch.Tensor
    fooled: torch.Tensor

    def update(self, point: torch.Tensor, gradient: torch.Tensor, loss: torch.Tensor, fooled: torch.Tensor) -> None:
        better = torch.where(fooled == self.fooled, loss > self.loss, fooled)
        where = per_image(better)
        self.point, self.gradient = torch.where(where, point, self.point), torch.where(where, gradient, self.gradient)
        self.loss, self.fooled = torch.where(better, loss, self.loss), torch.where(better, fooled, self.fooled)


@dataclass(frozen=True)
class AutoPgd:
    """z = P(x + length u), then x <- P(x + 0.75 (z - x) + 0.25 (x - x_before)), u the steepest direction.

    The length begins at 2 budgets. At each checkpoint it is halved for an image, which goes back to its best point, if less than
    ``progress`` of the steps since the last checkpoint raised the loss, or if neither length nor best loss has changed since
    then. So there is no step size to choose. The best point is kept, over all steps and restarts: one that is misclassified
    before any that is not (under noise by the mean margin over the gradient's draws), then the one of the largest loss.

    Source: Croce and Hein 2020, Algorithm 1 (with cross_entropy APGD-CE, with difference_of_logits_ratio APGD-DLR). P projects
    on the ball and then clips to [0, 1]; u and random starts are those of PGD here (in l2 the first start is the image). On a
    random classifier the losses of a run are compared across fresh draws, as its authors do, where luck can make a poor point
    the best; so the best and the last point of each restart are compared at its end, under one set of draws. Costs steps + 1
    gradients a restart.
    """

    norm: str = Norm.linf
    steps: int = 100
    random_start: bool = False
    restarts: int = 1
    progress: float = 0.75
    loss: str = "cross_entropy"
    budget: float | None = None

    def __post_init__(self) -> None:
        check(self.norm in (Norm.l2, Norm.linf), "norm", "l2 or linf", self.norm)
        check(self.steps >= 1, "steps", "a whole number >= 1", self.steps)
        check(self.restarts >= 1, "restarts", "a whole number >= 1", self.restarts)
        check(0 < self.progress < 1, "progress", "a share in (0, 1)", self.progress)
        check(self.loss in LOSSES, "loss", " or ".join(LOSSES), self.loss)
        check(self.budget is None or 0 < self.budget < math.inf, "budget", "a number > 0", self.budget)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Adversarial images float32 [n, C, H, W] in the ball and in [0, 1]."""
        assert self.budget is not None, "a budget has to be set"
        return climb(classifier, images, labels, LOSSES[self.loss], draws, steps=self.steps, restarts=self.restarts,
                     at_random=self.random_start, progress=self.progress, budget=self.budget, norm=self.norm)


def climb(classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, loss: Loss, draws: ImageDraws, *, steps: int,
          restarts: int, at_random: bool, progress: float, budget: float, norm: str) -> torch.Tensor:
    """The best point of all restarts, in the ball and in the box; see `AutoPgd`."""
    ends, best = [], None
    for restart in range(restarts):
        start = random_start(images, budget, norm, draws) if at_random or restart > 0 else images
        found, last = _run(classifier, start, images, labels, loss, draws, steps=steps, progress=progress, budget=budget,
                           norm=norm)
        ends += [settle(found.point, images, budget, norm), settle(last, images, budget, norm)]
        if best is None:
            best = found
        else:
            best.update(found.point, found.gradient, found.loss, found.fooled)
    if classifier.noisy_gradients:
        return strongest(classifier, torch.stack(ends), labels, loss, draws)
    assert best is not None
    return settle(best.point, images, budget, norm)


def _run(classifier: Classifier, start: torch.Tensor, images: torch.Tensor, labels: torch.Tensor, loss: Loss, draws: ImageDraws,
         *, steps: int, progress: float, budget: float, norm: str) -> tuple[_Best, torch.Tensor]:
    """One start of Algorithm 1: the best point and the last."""
    def at(place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        slope = classifier.gradient(place, labels, loss, draws)
        return slope.gradient, torch.where(slope.loss.isnan(), -torch.inf, slope.loss), slope.lead > 0

    gradient, value, fooled = at(start)
    point, before, best = start, start, _Best(start, gradient, value, fooled)
    top, top_then = value.clone(), value.clone()  # the largest loss, now and at the last checkpoint
    length = torch.full_like(value, 2 * budget)
    halved, rises = torch.zeros_like(fooled), torch.zeros_like(value)
    marks, last = checkpoints(steps), 0
    for step in range(1, steps + 1):
        ahead = project(point + per_image(length) * steepest(gradient, norm), images, budget, norm)
        share = MOMENTUM if step > 1 else 1.0
        moved = project(point + share * (ahead - point) + (1 - share) * (point - before), images, budget, norm)
        before, point, earlier = point, moved, value
        gradient, value, fooled = at(point)
        best.update(point, gradient, value, fooled)
        top, rises = torch.maximum(top, value), rises + (value > earlier)
        if step in marks:
            stuck = (rises < progress * (step - last)) | (~halved & (top <= top_then))
            length, back = torch.where(stuck, length / 2, length), per_image(stuck)
            point, gradient = torch.where(back, best.point, point), torch.where(back, best.gradient, gradient)
            value = torch.where(stuck, best.loss, value)
            before = torch.where(back, point, before)
            halved, top_then, last, rises = stuck, top.clone(), step, torch.zeros_like(rises)
    return best, point
