"""Noise with long-range correlations between pixels.

Symbols (SGR) -> words: epsilon -> budget (in the norm `std`); zeta -> decay_length; CovFun f -> `correlation`;
Sigma -> covariance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import ClassVar

import torch

from robust_cli.attacks.classifiers import Classifier
from robust_cli.attacks.norms import CUT, Norm
from robust_cli.attacks.random_noise import worst_of
from robust_cli.covariance import NOTHING, correlation, root, second_moment
from robust_cli.datasets.images import Images
from robust_cli.messages import UserError, check
from robust_cli.smoothing.noise import ImageDraws

DECAY, DATA = "decay", "data"
Shape = tuple[int, int, int]


@lru_cache(maxsize=4)
def _roots(shape: Shape, decay_length: float, between: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Roots of the covariance of channels [C, C] and of places [H W, H W]: that of an image is their Kronecker product."""
    channels = torch.full((shape[0], shape[0]), between, dtype=torch.float64).fill_diagonal_(1.0)
    return root(channels).float(), root(correlation(shape[1], shape[2], decay_length)).float()


def correlated_noise(shape: Shape, decay_length: float, between: float, draws: ImageDraws) -> torch.Tensor:
    """z ~ N(0, Sigma), float32 [n, C, H, W]: every pixel has variance 1, two of one channel at distance r have correlation
    exp(-r / decay_length), two of different channels ``between`` times that."""
    channels, places = (part.to(draws.device) for part in _roots(shape, decay_length, between))
    return (channels @ (draws.normal(shape[0], shape[1] * shape[2]) @ places.T)).view(-1, *shape)


def data_root(images: Images) -> torch.Tensor:
    """The root, float32 [C H W, C H W], of the images' centred covariance over the mean variance of their pixels.

    Raises UserError where the images are all the same.
    """
    covariance = second_moment(images.pixels, centred=True)  # bytes or not: the scale goes out
    variance = covariance.diagonal().mean()
    if not float(variance) > NOTHING:
        raise UserError(f"covariance=data: expected training images that differ, found {len(images)} alike; "
                        "take covariance=decay, or another data set")
    return root(covariance / variance).float()


@dataclass(frozen=True)
class LongRangeCorrelated:
    """x' = clip(x + budget * z), z ~ N(0, Sigma); the worst of 100. Source: SGR (Roth et al. 2018), section 4.6.

    covariance=decay: Sigma = [[1 or between_channels]] (x) exp(-r / decay_length). Distances r are exact: those of the paper's
    eq. 16, rounded to whole pixels, make Sigma indefinite (least eigenvalue -0.7 on 32x32 pixels), so that no noise has that
    covariance. With decay_length -> 0 the noise becomes white in space but, on colour images, not between channels, contrary
    to the paper.

    covariance=data (the paper's "LRC with data covariance"): Sigma = the centred covariance of the training images over the
    mean variance of a pixel. An attack does not see the data set: `with_data` gives it the images, before the first call.

    The budget is the scale of the noise, a pixel's standard deviation before clipping (with covariance=data the root of the
    mean of its square over all pixels), and not the size of a ball: it is counted in the norm ``std`` (`budgets.std`),
    apart from l2 and linf, and comparable with no budget of theirs. z is cut at 6, which 2e-9 of all draws reach; with
    covariance=data more do where a pixel varies more than others: on MNIST 7e-5 of all and 5e-4 at the pixel that varies most. A
    noise of scale s thus moves no pixel by more than 6 s, and that is what is checked of the final image. An image counts as
    right only if all copies are: the worst copy by its margin is returned.
    """

    norm: str = Norm.std
    covariance: str = DECAY
    decay_length: float = 8.0
    between_channels: float = 0.5
    samples: int = 100
    budget: float | None = None
    by_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self.norm == Norm.std, "norm", "std", self.norm)
        check(self.covariance in (DECAY, DATA), "covariance", f"{DECAY} or {DATA}", self.covariance)
        check(0 < self.decay_length < math.inf, "decay_length", "a number > 0", self.decay_length)
        check(0 <= self.between_channels < 1, "between_channels", "a number in [0, 1)", self.between_channels)
        if self.covariance == DATA:  # what it would not use may not be set
            for name, default in (("decay_length", 8.0), ("between_channels", 0.5)):
                check(getattr(self, name) == default, name, f"its default {default:g}, since covariance={DATA} has none",
                      getattr(self, name))
        check(self.samples >= 1, "samples", "a whole number >= 1", self.samples)
        check(self.budget is None or 0 < self.budget < math.inf, "budget", "a number > 0", self.budget)

    def with_data(self, images: Images) -> LongRangeCorrelated:
        """The same attack, knowing the data set's covariance from its training images; itself where it needs none.

        The hook of any attack that wants the training images: whoever runs attacks calls it once, before the first image.
        Raises UserError where the images are all the same.
        """
        if self.covariance == DECAY:
            return self
        settings = {each.name: getattr(self, each.name) for each in fields(LongRangeCorrelated)}
        return DataCorrelated(**settings, root=data_root(images))

    def sampler(self, shape: Shape, draws: ImageDraws) -> Callable[[], torch.Tensor]:
        """What draws z, one for each image: float32 [n, C, H, W]."""
        assert self.covariance == DECAY, "covariance=data: the attack has to be given the training images by with_data(images)"
        return lambda: correlated_noise(shape, self.decay_length, self.between_channels, draws)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """Noisy images float32 [n, C, H, W] in [0, 1], no pixel further than 6 budgets from the original."""
        budget = self.budget
        assert budget is not None, "a budget has to be set"
        channels, height, width = images.shape[1:]
        z = self.sampler((channels, height, width), draws)
        return worst_of(self.samples, lambda: budget * z().clamp_(-CUT, CUT), classifier, images, labels, draws, budget=budget,
                        norm=self.norm)


@dataclass(frozen=True)
class DataCorrelated(LongRangeCorrelated):
    """`LongRangeCorrelated` that knows its data set's covariance; made by `LongRangeCorrelated.with_data`.

    root: float32 [C H W, C H W], see `data_root`. `dataclasses.replace` keeps it; equality and hash leave it out.
    """

    root: torch.Tensor = field(kw_only=True, repr=False, compare=False)

    def sampler(self, shape: Shape, draws: ImageDraws) -> Callable[[], torch.Tensor]:
        """What draws z = root @ (standard normal): float32 [n, C, H, W]."""
        size = math.prod(shape)
        assert len(self.root) == size, f"the data set's images have {len(self.root)} numbers, these {size}"
        transposed = self.root.to(draws.device).T
        return lambda: (draws.normal(size) @ transposed).view(-1, *shape)
