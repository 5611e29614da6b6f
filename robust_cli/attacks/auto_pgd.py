"""Auto-PGD: projected gradient ascent with momentum whose steps halve by themselves.

Symbols (Croce and Hein 2020) -> words: epsilon -> budget; N_iter -> steps; eta -> length; alpha -> MOMENTUM; rho -> progress;
w_j -> checkpoints; f -> loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch

from robust_cli.attacks.classifiers import Classifier, Slope, strongest
from robust_cli.attacks.geometry import per_image, project, random_start, settle, steepest
from robust_cli.attacks.losses import LOSSES, Loss, lead, loss_of
from robust_cli.attacks.norms import Norm
from robust_cli.attacks.pgd import worst_end
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
class _Climb:
    """The images still on their way, one row each. The best point so far is one where the label has lost before one where it has
    not, then the one of the larger loss. A loss that is not a number is the worst."""

    point: torch.Tensor
    before: torch.Tensor
    gradient: torch.Tensor
    loss: torch.Tensor
    best: torch.Tensor
    best_gradient: torch.Tensor
    best_loss: torch.Tensor
    best_lost: torch.Tensor
    top: torch.Tensor  # the largest loss
    top_then: torch.Tensor  # the same at the last checkpoint
    rises: torch.Tensor  # how many steps since then raised the loss
    length: torch.Tensor
    halved: torch.Tensor  # whether it was halved at the last checkpoint

    @classmethod
    def begin(cls, start: torch.Tensor, slope: Slope, length: float) -> _Climb:
        loss, lost = _number(slope.loss), slope.lead > 0
        return cls(start, start, slope.gradient, loss, start, slope.gradient, loss, lost, loss, loss, torch.zeros_like(loss),
                   torch.full_like(loss, length), torch.zeros_like(lost))

    def select(self, rows: torch.Tensor) -> _Climb:
        """Some of the images."""
        return _Climb(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def move(self, images: torch.Tensor, share: float, budget: float, norm: str) -> None:
        """A step, ``share`` of it new and the rest the last one again."""
        ahead = project(self.point + per_image(self.length) * steepest(self.gradient, norm), images, budget, norm)
        moved = self.point + share * (ahead - self.point) + (1 - share) * (self.point - self.before)
        self.before, self.point = self.point, project(moved, images, budget, norm)

    def see(self, slope: Slope) -> None:
        """Take in what the classifier says of the new point."""
        loss, lost = _number(slope.loss), slope.lead > 0
        self.rises, self.top = self.rises + (loss > self.loss), torch.maximum(self.top, loss)
        self.gradient, self.loss = slope.gradient, loss
        better = torch.where(lost == self.best_lost, loss > self.best_loss, lost)
        where = per_image(better)
        self.best = torch.where(where, self.point, self.best)
        self.best_gradient = torch.where(where, slope.gradient, self.best_gradient)
        self.best_loss, self.best_lost = torch.where(better, loss, self.best_loss), self.best_lost | lost

    def check(self, enough: float) -> None:
        """A checkpoint: an image whose loss rose less often than ``enough``, or is stuck, halves its steps and goes back."""
        stuck = (self.rises < enough) | (~self.halved & (self.top <= self.top_then))
        back = per_image(stuck)
        self.point, self.before = torch.where(back, self.best, self.point), torch.where(back, self.best, self.before)
        self.gradient = torch.where(back, self.best_gradient, self.gradient)
        self.loss, self.length = torch.where(stuck, self.best_loss, self.loss), torch.where(stuck, self.length / 2, self.length)
        self.halved, self.top_then, self.rises = stuck, self.top, torch.zeros_like(self.rises)


def _number(loss: torch.Tensor) -> torch.Tensor:
    return torch.where(loss.isnan(), -torch.inf, loss)


@dataclass(frozen=True)
class AutoPgd:
    """z = P(x + length u), then x <- P(x + 0.75 (z - x) + 0.25 (x - x_before)), u the steepest direction.

    The length begins at 2 budgets. At each checkpoint it is halved for an image, which goes back to its best point, if less than
    ``progress`` of the steps since the last checkpoint raised the loss, or if neither length nor best loss has changed since
    then. So there is no step size to choose. A restart ends at the first point where the image is fooled for certain, and goes
    over the images that those before it have not fooled. Else its best point is kept: one that is misclassified before any
    that is not (under noise by the mean margin over the gradient's draws), then the one of the largest loss; of the restarts
    the one where another class leads most.

    Source: Croce and Hein 2020, Algorithm 1 (with cross_entropy APGD-CE, with difference_of_logits_ratio APGD-DLR). P projects
    on the ball and then clips to [0, 1]; u and random starts are those of PGD here (in l2 the first start is the image). On a
    random classifier the losses of a run are compared across fresh draws, as its authors do, where luck can make a poor point
    the best; so the best and the last point of each restart are compared at its end, under one set of draws, and so are the
    restarts then; where the gradients alone are noisy, by the exact lead. Costs at most steps + 1 gradients a restart.
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
    def run(restart: int, rows: torch.Tensor, mine: ImageDraws) -> torch.Tensor:
        around, truth, chosen = images[rows], labels[rows], loss_of(loss, rows)
        start = random_start(around, budget, norm, mine) if at_random or restart > 0 else around
        best, last = (settle(end, around, budget, norm) for end in _run(
            classifier, start, around, truth, chosen, mine, steps=steps, progress=progress, budget=budget, norm=norm))
        if not classifier.noisy_gradients:
            return best
        return strongest(classifier, torch.stack([best, last]), truth, chosen if classifier.random else lead, mine)

    return worst_end(run, restarts, classifier, images, labels, loss, draws)


def _run(classifier: Classifier, start: torch.Tensor, images: torch.Tensor, labels: torch.Tensor, loss: Loss, draws: ImageDraws,
         *, steps: int, progress: float, budget: float, norm: str) -> tuple[torch.Tensor, torch.Tensor]:
    """One start of Algorithm 1: the best point and the last; an image that is fooled for certain stays at that point."""
    slope, rows = classifier.gradient(start, labels, loss, draws), torch.arange(len(images), device=images.device)
    end = start.clone()
    climb, marks, mark = _Climb.begin(start, slope, 2 * budget), checkpoints(steps), 0
    for step in range(steps + 1):
        if step > 0:
            climb.move(images[rows], MOMENTUM if step > 1 else 1.0, budget, norm)
            slope = classifier.gradient(climb.point, labels[rows], loss_of(loss, rows), draws)
            climb.see(slope)
        if slope.fooled.any():
            end[rows[slope.fooled]] = climb.point[slope.fooled]
            left = (~slope.fooled).nonzero().flatten()
            climb, rows, draws = climb.select(left), rows[left], draws.select(left.tolist())
            if not len(rows):
                return end, end
        if step in marks:
            climb.check(progress * (step - mark))
            mark = step
    return end.index_copy(0, rows, climb.best), end.index_copy(0, rows, climb.point)
