"""The fast gradient sign method.

Symbols -> words: epsilon -> budget; L -> loss; S -> the linf ball around the image.
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
class Fgsm:
    """x' = clip(x + budget * sgn(grad_x L(f(x), y))): one step of linf ascent, from the image itself.

    Source: Goodfellow et al. 2015; SO (Li et al. 2018), eq. 2 with a single step of the whole budget. On a smoothed classifier
    the gradient is the mean over its noise. Where the gradient is zero, so is the step.
    """

    norm: str = Norm.linf
    loss: str = "cross_entropy"
    budget: float | None = None

    def __post_init__(self) -> None:
        check(self.norm == Norm.linf, "norm", "linf", self.norm)
        check(self.loss in LOSSES, "loss", " or ".join(LOSSES), self.loss)
        check(self.budget is None or 0 < self.budget < math.inf, "budget", "a number > 0", self.budget)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Adversarial images float32 [n, C, H, W] in the linf ball and in [0, 1]."""
        assert self.budget is not None, "a budget has to be set"
        gradient, _ = classifier.gradient(images, labels, LOSSES[self.loss], draws)
        return settle(images + self.budget * steepest(gradient, self.norm), images, self.budget, self.norm)
