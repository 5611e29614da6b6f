"""R+FGSM: a random step before the fast gradient sign method.

Symbols -> words: epsilon -> budget; alpha -> start_size; N -> a standard normal draw; L -> loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from robust_cli.attacks.classifiers import Classifier
from robust_cli.attacks.geometry import settle, steepest
from robust_cli.attacks.losses import LOSSES
from robust_cli.attacks.norms import Norm
from robust_cli.messages import check
from robust_cli.smoothing.noise import ImageDraws


@dataclass(frozen=True)
class Rfgsm:
    """x~ = clip(x + a sgn(N)), then x' = clip(x~ + (budget - a) sgn(grad L(f(x~), y))), a = min(start_size, budget / 2).

    The random step leaves a place where training has flattened the loss. Source: Tramer et al. 2018 (Ensemble adversarial
    training), with a = budget / 2; STN's code has the fixed a = 0.01 that is the default here, and neither is defined by it where
    the budget is smaller: half the budget is the most that is taken.
    """

    norm: str = Norm.linf
    start_size: float = 0.01
    loss: str = "cross_entropy"
    budget: float | None = None

    def __post_init__(self) -> None:
        check(self.norm == Norm.linf, "norm", "linf", self.norm)
        check(0 < self.start_size < math.inf, "start_size", "a number > 0", self.start_size)
        check(self.loss in LOSSES, "loss", " or ".join(LOSSES), self.loss)
        check(self.budget is None or 0 < self.budget < math.inf, "budget", "a number > 0", self.budget)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Adversarial images float32 [n, C, H, W] in the linf ball and in [0, 1]."""
        assert self.budget is not None, "a budget has to be set"
        first = min(self.start_size, self.budget / 2)
        start = (images + first * draws.normal(*images.shape[1:]).sign()).clamp(0, 1)
        gradient, *_ = classifier.gradient(start, labels, LOSSES[self.loss], draws)
        return settle(start + (self.budget - first) * steepest(gradient, self.norm), images, self.budget, self.norm)
