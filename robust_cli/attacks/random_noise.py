"""Noise as an attack: uniform in the linf ball, Gaussian directions in the l2 ball, the worst of several draws.

Symbols -> words: epsilon -> budget; k -> samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from robust_cli.attacks.classifiers import Classifier, strongest
from robust_cli.attacks.geometry import random_direction, settle
from robust_cli.attacks.losses import LOSSES
from robust_cli.attacks.norms import Norm
from robust_cli.messages import check
from robust_cli.smoothing.noise import ImageDraws


def worst_of(samples: int, noise: Callable[[], torch.Tensor], classifier: Classifier, images: torch.Tensor, labels: torch.Tensor,
             draws: ImageDraws, *, budget: float, norm: str) -> torch.Tensor:
    """For each image the worst of ``samples`` clipped copies: the one where another class leads most, or falls least behind.

    The margin decides, so on a base classifier an image stays right only if all its copies are classified as its label.
    """
    copies = torch.stack([settle(images + noise(), images, budget, norm) for _ in range(samples)])
    return strongest(classifier, copies, labels, LOSSES["margin"], draws)


@dataclass(frozen=True)
class UniformNoise:
    """x' = clip(x + budget * u), u uniform in [-1, 1] in every pixel; the worst of ``samples``.

    Source: SGR (Roth et al. 2018), its "rand"; the additive uniform attack of foolbox without its slip of multiplying by the
    budget twice. It is what a gradient attack has to beat.
    """

    norm: str = Norm.linf
    samples: int = 10
    budget: float | None = None
    by_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self.norm == Norm.linf, "norm", "linf", self.norm)
        check(self.samples >= 1, "samples", "a whole number >= 1", self.samples)
        check(self.budget is None or 0 < self.budget < math.inf, "budget", "a number > 0", self.budget)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Noisy images float32 [n, C, H, W] in the linf ball and in [0, 1]."""
        budget = self.budget
        assert budget is not None, "a budget has to be set"
        return worst_of(self.samples, lambda: budget * (2 * draws.uniform(*images.shape[1:]) - 1), classifier, images, labels,
                        draws, budget=budget, norm=self.norm)


@dataclass(frozen=True)
class GaussianNoise:
    """x' = clip(x + budget * z / ||z||_2), z standard normal: a uniform direction of full length; the worst of ``samples``.

    Source: the additive Gaussian attack of foolbox (AMR uses it) at a given l2 size; clipping shortens it.
    """

    norm: str = Norm.l2
    samples: int = 10
    budget: float | None = None
    by_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self.norm == Norm.l2, "norm", "l2", self.norm)
        check(self.samples >= 1, "samples", "a whole number >= 1", self.samples)
        check(self.budget is None or 0 < self.budget < math.inf, "budget", "a number > 0", self.budget)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Noisy images float32 [n, C, H, W] in the l2 ball and in [0, 1]."""
        budget = self.budget
        assert budget is not None, "a budget has to be set"
        return worst_of(self.samples, lambda: budget * random_direction(images, draws), classifier, images, labels, draws,
                        budget=budget, norm=self.norm)
