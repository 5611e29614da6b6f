"""Noise with long-range correlations between pixels.

Symbols (SGR) -> words: epsilon -> budget (in the norm `std`); zeta -> decay_length; CovFun f -> `correlation`;
Sigma -> covariance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch

from robust_cli.attacks.classifiers import Classifier
from robust_cli.attacks.norms import CUT, Norm
from robust_cli.attacks.random_noise import worst_of
from robust_cli.messages import Wrong, check
from robust_cli.smoothing.noise import ImageDraws


def correlation(height: int, width: int, decay_length: float, rounded: bool = False) -> torch.Tensor:
    """exp(-r / decay_length) for all pairs of pixels, r their distance in pixels: float64 [H W, H W], row-major.

    ``rounded`` rounds r to whole numbers, as SGR's eq. 16 does: the matrix is then no covariance (see `root`).
    """
    rows, columns = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], 1)
    distance = (places[:, None] - places[None]).square().sum(2).sqrt()
    return torch.exp(-(distance.round() if rounded else distance) / decay_length)


def root(covariance: torch.Tensor) -> torch.Tensor:
    """The lower triangular L with L L' = covariance. Raises Wrong if that is not positive definite, with its least eigenvalue."""
    found, failed = torch.linalg.cholesky_ex(covariance)
    if failed:
        least = float(torch.linalg.eigvalsh(covariance)[0])
        raise Wrong("covariance", "a positive definite matrix (distances rounded to whole pixels give none)",
                    f"least eigenvalue {least:.3g}")
    return found


@lru_cache(maxsize=4)
def _roots(shape: tuple[int, int, int], decay_length: float, between: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Roots of the covariance of channels [C, C] and of places [H W, H W]: that of an image is their Kronecker product."""
    channels = torch.full((shape[0], shape[0]), between, dtype=torch.float64).fill_diagonal_(1.0)
    return root(channels).float(), root(correlation(shape[1], shape[2], decay_length)).float()


def correlated_noise(shape: tuple[int, int, int], decay_length: float, between: float, draws: ImageDraws) -> torch.Tensor:
    """z ~ N(0, Sigma), float32 [n, C, H, W]: every pixel has variance 1, two of one channel at distance r have correlation
    exp(-r / decay_length), two of different channels ``between`` times that."""
    channels, places = (part.to(draws.device) for part in _roots(shape, decay_length, between))
    return (channels @ (draws.normal(shape[0], shape[1] * shape[2]) @ places.T)).view(-1, *shape)


@dataclass(frozen=True)
class LongRangeCorrelated:
    """x' = clip(x + budget * z), z ~ N(0, Sigma) with Sigma = [[1 or between_channels]] (x) exp(-r / decay_length); worst of 100.

    Source: SGR (Roth et al. 2018), section 4.6. Distances r are exact: those of its eq. 16, rounded to whole pixels, make Sigma
    indefinite (least eigenvalue -0.7 on 32x32 pixels), so that no noise has that covariance. With decay_length -> 0 the
    noise becomes white in space but, on colour images, not between channels, contrary to the paper.

    The budget is the scale of the noise, a pixel's standard deviation before clipping, and not the size of a ball: it is
    counted in the norm ``std`` (`budgets.std`), apart from l2 and linf, and comparable with no budget of theirs. z is cut
    at 6, which 2e-9 of all draws reach; a noise of scale s thus moves no pixel by more than 6 s, and that is what is checked
    of the final image. An image counts as right only if all copies are: the worst copy by its margin is returned.
    """

    norm: str = Norm.std
    decay_length: float = 8.0
    between_channels: float = 0.5
    samples: int = 100
    budget: float | None = None

    def __post_init__(self) -> None:
        check(self.norm == Norm.std, "norm", "std", self.norm)
        check(0 < self.decay_length < math.inf, "decay_length", "a number > 0", self.decay_length)
        check(0 <= self.between_channels < 1, "between_channels", "a number in [0, 1)", self.between_channels)
        check(self.samples >= 1, "samples", "a whole number >= 1", self.samples)
        check(self.budget is None or 0 < self.budget < math.inf, "budget", "a number > 0", self.budget)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Noisy images float32 [n, C, H, W] in [0, 1], no pixel further than 6 budgets from the original."""
        budget = self.budget
        assert budget is not None, "a budget has to be set"
        channels, height, width = images.shape[1:]

        def noise() -> torch.Tensor:
            z = correlated_noise((channels, height, width), self.decay_length, self.between_channels, draws)
            return budget * z.clamp_(-CUT, CUT)

        return worst_of(self.samples, noise, classifier, images, labels, draws, budget=budget, norm=self.norm)
