"""Projected gradient ascent in an l2 or linf ball.

Symbols -> words: epsilon -> budget; alpha -> step_size (here a fraction of the budget); k -> steps; L -> loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from robust_cli.attacks.classifiers import Classifier, Try, in_turn, strongest
from robust_cli.attacks.geometry import project, random_start, settle, steepest
from robust_cli.attacks.losses import LOSSES, Loss, loss_of
from robust_cli.attacks.norms import Norm
from robust_cli.messages import check
from robust_cli.smoothing.noise import ImageDraws

TRAVEL = 2.5  # default length of all steps together, in budgets: enough to cross the ball from a start on its far side


def step_length(step_size: float | None, steps: int, budget: float) -> float:
    """The length of a step in pixel units: ``step_size`` budgets, by default 2.5 / steps of them."""
    return budget * (TRAVEL / steps if step_size is None else step_size)


Move = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # (step, point, gradient, images) -> next point


def walk(classifier: Classifier, start: torch.Tensor, images: torch.Tensor, labels: torch.Tensor, loss: Loss, draws: ImageDraws,
         steps: int, move: Move) -> torch.Tensor:
    """The last of ``steps`` points, each one ``move`` from the one before, [n, C, H, W].

    An image stops at the first point where it is fooled for certain, and costs nothing more.
    """
    end, rows, point = start.clone(), torch.arange(len(images), device=images.device), start
    for step in range(steps):
        slope = classifier.gradient(point, labels[rows], loss_of(loss, rows), draws)
        gradient = slope.gradient
        if slope.fooled.any():
            end[rows[slope.fooled]] = point[slope.fooled]
            left = (~slope.fooled).nonzero().flatten()
            rows, point, gradient, draws = rows[left], point[left], gradient[left], draws.select(left.tolist())
            if not len(rows):
                break
        point = move(step, point, gradient, images[rows])
    end[rows] = point
    return end


def ascend(classifier: Classifier, start: torch.Tensor, images: torch.Tensor, labels: torch.Tensor, loss: Loss, draws: ImageDraws,
           *, steps: int, length: float, budget: float, norm: str) -> torch.Tensor:
    """The end of a `walk` by steps of one length up the steepest direction, in the ball and the box."""
    def move(step: int, point: torch.Tensor, gradient: torch.Tensor, around: torch.Tensor) -> torch.Tensor:
        return project(point + length * steepest(gradient, norm), around, budget, norm)

    return settle(walk(classifier, start, images, labels, loss, draws, steps, move), images, budget, norm)


def worst_end(run: Try, restarts: int, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, loss: Loss,
              draws: ImageDraws) -> torch.Tensor:
    """For each image the worst end of several restarts, [n, C, H, W].

    A restart goes over the images that those before have not fooled, and the end where another class leads most is kept.
    A random classifier says of nobody for certain that it is fooled: there the ends of an image are compared by their losses
    under one set of fresh draws. Where the gradients alone are noisy, the answers are exact and decide.
    """
    if restarts > 1 and classifier.random:
        rows = torch.arange(len(images), device=images.device)
        ends = torch.stack([run(restart, rows, draws) for restart in range(restarts)])
        return strongest(classifier, ends, labels, loss, draws)
    return in_turn(run, restarts, classifier, labels, draws)


@dataclass(frozen=True)
class Pgd:
    """x <- P(x + step * u), `steps` times, u the steepest direction of the loss: signs (linf) or unit gradient (l2).

    P projects on the ball and then clips to [0, 1]. Source: Madry et al. 2018; SO (Li et al. 2018), eq. 2, with the gradient at
    the current point (the paper's text drops its index). The default step, 2.5 budgets over all steps, is Madry's rule
    of thumb and STN's l2 step; Madry's MNIST setting is 40 steps of 1/30 of the budget, which travels less than the diameter
    of the ball, and STN's linf setting 20 steps of 1/10.

    A start is uniform in the ball, or, with ``random_start: false``, the image itself in the first of the ``restarts``. In the
    l2 ball of many pixels nearly all random starts lie on its equator, and the way up takes most of the steps: on networks
    that are not masked the image is the better start. A restart ends with the first point where the image is fooled, or with its
    last one; see `worst_end` for which is kept.
    """

    norm: str = Norm.l2
    steps: int = 40
    step_size: float | None = None
    random_start: bool = False
    restarts: int = 1
    loss: str = "cross_entropy"
    budget: float | None = None

    def __post_init__(self) -> None:
        check(self.norm in (Norm.l2, Norm.linf), "norm", "l2 or linf", self.norm)
        check(self.steps >= 1, "steps", "a whole number >= 1", self.steps)
        check(self.step_size is None or 0 < self.step_size < math.inf, "step_size", "a number > 0, or null", self.step_size)
        check(self.restarts >= 1, "restarts", "a whole number >= 1", self.restarts)
        check(self.loss in LOSSES, "loss", " or ".join(LOSSES), self.loss)
        check(self.budget is None or 0 < self.budget < math.inf, "budget", "a number > 0", self.budget)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Adversarial images float32 [n, C, H, W] in the ball and in [0, 1]."""
        budget, loss = self.budget, LOSSES[self.loss]
        assert budget is not None, "a budget has to be set"
        length = step_length(self.step_size, self.steps, budget)

        def run(restart: int, rows: torch.Tensor, mine: ImageDraws) -> torch.Tensor:
            around = images[rows]
            start = random_start(around, budget, self.norm, mine) if self.random_start or restart > 0 else around
            return ascend(classifier, start, around, labels[rows], loss, mine, steps=self.steps, length=length, budget=budget,
                          norm=self.norm)

        return worst_end(run, self.restarts, classifier, images, labels, loss, draws)
