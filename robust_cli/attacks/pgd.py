"""Projected gradient ascent in an l2 or linf ball.

Symbols -> words: epsilon -> budget; alpha -> step_size (here a fraction of the budget); k -> steps; L -> loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from robust_cli.attacks.classifiers import Classifier, strongest
from robust_cli.attacks.geometry import project, random_start, settle, steepest
from robust_cli.attacks.losses import LOSSES, Loss
from robust_cli.attacks.norms import Norm
from robust_cli.messages import check
from robust_cli.smoothing.noise import ImageDraws

TRAVEL = 2.5  # default length of all steps together, in budgets: enough to cross the ball from a start on its far side


def step_length(step_size: float | None, steps: int, budget: float) -> float:
    """The length of a step in pixel units: ``step_size`` budgets, by default 2.5 / steps of them."""
    return budget * (TRAVEL / steps if step_size is None else step_size)


def ascend(classifier: Classifier, start: torch.Tensor, images: torch.Tensor, labels: torch.Tensor, loss: Loss, draws: ImageDraws,
           *, steps: int, length: float, budget: float, norm: str) -> torch.Tensor:
    """The last of ``steps`` points, each ``length`` up the steepest direction from the one before, in the ball and the box."""
    point = start
    for _ in range(steps):
        gradient, *_ = classifier.gradient(point, labels, loss, draws)
        point = project(point + length * steepest(gradient, norm), images, budget, norm)
    return settle(point, images, budget, norm)


@dataclass(frozen=True)
class Pgd:
    """x <- P(x + step * u), `steps` times, u the steepest direction of the loss: signs (linf) or unit gradient (l2).

    P projects on the ball and then clips to [0, 1]. Source: Madry et al. 2018; SO (Li et al. 2018), eq. 2, with the gradient at
    the current point (the paper's text drops its index). The default step, 2.5 budgets over all steps, is Madry's rule
    of thumb and STN's l2 step; Madry's MNIST setting is 40 steps of 1/30 of the budget, which travels less than the diameter
    of the ball, and STN's linf setting 20 steps of 1/10.

    A start is uniform in the ball, or, with ``random_start: false``, the image itself in the first of the ``restarts``. In the
    l2 ball of many pixels nearly all random starts lie on its equator, and the way up takes most of the steps: on networks
    that are not masked the image is the better start. Each restart ends with its last point; for each image the end with
    the largest loss is kept, and a random classifier compares them under one set of fresh draws.
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
        assert self.budget is not None, "a budget has to be set"
        ends, length = [], step_length(self.step_size, self.steps, self.budget)
        for restart in range(self.restarts):
            at_random = self.random_start or restart > 0
            start = random_start(images, self.budget, self.norm, draws) if at_random else images
            ends.append(ascend(classifier, start, images, labels, LOSSES[self.loss], draws, steps=self.steps, length=length,
                               budget=self.budget, norm=self.norm))
        return ends[0] if len(ends) == 1 else strongest(classifier, torch.stack(ends), labels, LOSSES[self.loss], draws)
