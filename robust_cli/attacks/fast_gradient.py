"""The fast gradient method, along signs (linf: FGSM) or along the gradient (l2: FGM).

Symbols -> words: epsilon -> budget; L -> loss; g -> gradient.
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
class FastGradient:
    """x' = clip(x + budget * u), g = grad_x L(f(x), y), u = sgn(g) in linf and g / ||g||_2 in l2: one step from the image itself.

    Source: Goodfellow et al. 2015; SO (Li et al. 2018), eq. 2 with a single step of the whole budget; the l2 form as SGR (Roth et
    al. 2018) uses it. On a smoothed classifier the gradient is the mean over its noise. Where it is zero, so is the step.
    """

    norm: str = Norm.linf
    loss: str = "cross_entropy"
    budget: float | None = None

    def __post_init__(self) -> None:
        check(self.norm in (Norm.linf, Norm.l2), "norm", "linf or l2", self.norm)
        check(self.loss in LOSSES, "loss", " or ".join(LOSSES), self.loss)
        check(self.budget is None or 0 < self.budget < math.inf, "budget", "a number > 0", self.budget)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Adversarial images float32 [n, C, H, W] in the ball and in [0, 1]."""
        assert self.budget is not None, "a budget has to be set"
        gradient, *_ = classifier.gradient(images, labels, LOSSES[self.loss], draws)
        return settle(images + self.budget * steepest(gradient, self.norm), images, self.budget, self.norm)
