"""Targeted ascent: toward chosen wrong classes, one after the other.

Symbols -> words: epsilon -> budget; t -> target; L -> loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from robust_cli.attacks.auto_pgd import climb
from robust_cli.attacks.classifiers import Classifier
from robust_cli.attacks.geometry import random_start
from robust_cli.attacks.losses import LOSSES, Toward
from robust_cli.attacks.norms import Norm
from robust_cli.attacks.pgd import ascend, step_length, worst_end
from robust_cli.messages import check
from robust_cli.smoothing.noise import ImageDraws

CHOICES = ("random", "likeliest", "least_likely")


def ordered_targets(classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, choice: str,
                    draws: ImageDraws) -> torch.Tensor:
    """Every wrong class of each image, int64 [n, K - 1], the first to try first: in a uniformly random order, or by the network's
    logits at the image (without noise, also where it is smoothed)."""
    logits = classifier.network.logits(images)
    if choice == "random":
        score = draws.uniform(logits.shape[1])
    else:
        score = torch.nan_to_num(logits) * (1 if choice == "likeliest" else -1)
    score = score.scatter(1, labels[:, None], -torch.inf)  # the label comes last
    return score.argsort(dim=1, descending=True, stable=True)[:, :-1]


@dataclass(frozen=True)
class TargetedPgd:
    """Projected gradient ascent of the targeted loss toward each of the first ``targets`` wrong classes; the best end is kept.

    The best end is the one where any other class leads most, so an image counts as fooled whichever wrong class it got. Once an
    image is fooled for certain it stops there and goes toward no further target. ``choice``: random, classes in a uniformly
    random order, as in SGR's T-PGD with one target; likeliest, those with the largest logits first, as in the targeted attack of
    Croce and Hein 2020, with 9 targets; least_likely, from the smallest (Kurakin et al. 2017). ``automatic`` takes Auto-PGD's
    steps in place of PGD's of one length.

    Source: Madry et al. 2018; SGR (Roth et al. 2018); Croce and Hein 2020, eq. 7. Classes beyond K - 1 are not there to be tried.
    """

    norm: str = Norm.linf
    choice: str = "random"
    targets: int = 1
    automatic: bool = False
    steps: int = 40
    step_size: float | None = None
    random_start: bool = False
    loss: str = "cross_entropy"
    budget: float | None = None

    def __post_init__(self) -> None:
        check(self.norm in (Norm.l2, Norm.linf), "norm", "l2 or linf", self.norm)
        check(self.choice in CHOICES, "choice", " or ".join(CHOICES), self.choice)
        check(self.targets >= 1, "targets", "a whole number >= 1", self.targets)
        check(self.steps >= 1, "steps", "a whole number >= 1", self.steps)
        check(self.step_size is None or 0 < self.step_size < math.inf, "step_size", "a number > 0, or null", self.step_size)
        check(not self.automatic or self.step_size is None, "step_size", "null with automatic=true", self.step_size)
        check(self.loss in LOSSES, "loss", " or ".join(LOSSES), self.loss)
        check(self.budget is None or 0 < self.budget < math.inf, "budget", "a number > 0", self.budget)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Adversarial images float32 [n, C, H, W] in the ball and in [0, 1]."""
        assert self.budget is not None, "a budget has to be set"
        budget, wanted = self.budget, ordered_targets(classifier, images, labels, self.choice, draws)[:, : self.targets]

        def run(turn: int, rows: torch.Tensor, mine: ImageDraws) -> torch.Tensor:
            return self._toward(wanted[rows, turn], classifier, images[rows], labels[rows], mine, budget)

        return worst_end(run, wanted.shape[1], classifier, images, labels, LOSSES["margin"], draws)

    def _toward(self, target: torch.Tensor, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws,
                budget: float) -> torch.Tensor:
        loss = Toward(target, self.loss)
        if self.automatic:
            return climb(classifier, images, labels, loss, draws, steps=self.steps, restarts=1, at_random=self.random_start,
                         progress=0.75, budget=budget, norm=self.norm)
        start = random_start(images, budget, self.norm, draws) if self.random_start else images
        length = step_length(self.step_size, self.steps, budget)
        return ascend(classifier, start, images, labels, loss, draws, steps=self.steps, length=length, budget=budget,
                      norm=self.norm)
