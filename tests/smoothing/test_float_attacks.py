"""Classifiers that break certificates through floating point: they break ordinary Gaussian noise and not the integer grid.

A base classifier may be any function of the floats that it sees. Here it knows what the addition of x and noise leaves behind
in them, and answers differently for two images that are nearer to each other than the certified radius of one. An attacker
learns what there is to learn of the classifier in either mode; what is certified and what is answered is counted afresh.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from scipy.stats import binomtest

from robust_cli.certificates.confidence import lower
from robust_cli.certificates.neyman_pearson import NeymanPearson
from robust_cli.smoothing.noise import CHUNK
from robust_cli.smoothing.noises import Noise, make_noise

SHAPE = (1, 28, 28)
PIXELS = 784
ALPHA = 0.001
CHUNKS = 16  # 1,024 draws
Score = Callable[[torch.Tensor], torch.Tensor]  # what a classifier sees [n, C, H, W] -> a number each


class Outcome(NamedTuple):
    """What is certified at one image and what is true at a near one."""

    radius: float
    distance: float
    changed: bool  # whether the near image's class is another, beyond chance

    @property
    def broken(self) -> bool:
        return self.changed and self.distance < self.radius


def scores(noise: Noise, image: torch.Tensor, score: Score, purpose: str) -> torch.Tensor:
    """Of CHUNKS x CHUNK draws."""
    seen, found = torch.empty(CHUNK, *SHAPE), []
    for chunk in range(CHUNKS):
        noise.write(seen, image, 0, purpose, 0, chunk)
        found.append(score(seen))
    return torch.cat(found)


def attempt(noise: Noise, image: torch.Tensor, near: torch.Tensor, score: Score) -> Outcome:
    """The classifier `score > threshold`, with the threshold that parts the two images best (learnt from draws of its own):
    certified at ``image`` as certify does it, and voted on at ``near``."""
    threshold = (scores(noise, image, score, "learn").mean() + scores(noise, near, score, "learn").mean()) / 2
    votes = [int((scores(noise, image, score, purpose) > threshold).sum()) for purpose in ("selection", "estimation")]
    draws, spent = CHUNKS * CHUNK, noise.residual(PIXELS, 2 * CHUNKS * CHUNK)
    class_one = votes[0] > draws / 2
    hits = votes[1] if class_one else draws - votes[1]
    p1 = float(lower(hits, draws, ALPHA - spent))
    radius = float(NeymanPearson()(p1, 1 - p1, noise.drawn_std))
    there = int((scores(noise, near, score, "decide") > threshold).sum())
    against = draws - there if class_one else there
    changed = binomtest(against, draws, alternative="greater").pvalue < 1e-6
    return Outcome(radius, float((image.double() - near.double()).norm()), changed)


def unreachable(grey: torch.Tensor) -> Score:
    """How many pixels of what is seen are no sum of this grey and any float: Voracek and Hein 2023.

    A float sum is the one float nearest to the exact sum; where the noise is larger than the sum, its own last bit is worth more
    than the sum's, and only every other float, or fewer, can come out. The nearest candidates for the noise are all tried.
    """
    def score(seen: torch.Tensor) -> torch.Tensor:
        candidate = (seen.double() - grey.double()).float()
        reached = (grey + candidate) == seen
        for way in (math.inf, -math.inf):
            reached |= (grey + torch.nextafter(candidate, torch.tensor(way))) == seen
        return (~reached).flatten(1).sum(1).float()

    return score


def last_bits(weights: torch.Tensor) -> Score:
    """A linear classifier of the last bit of each pixel seen."""
    return lambda seen: (seen.contiguous().view(torch.int32) & 1).flatten(1).float() @ weights


def plain(step: int) -> torch.Tensor:
    return torch.full(SHAPE, float(step)) / 255


GREYS = (10, 37, 100, 128)


def test_the_floats_that_a_sum_can_be_are_known() -> None:
    """The premise: nothing that really is a sum is called unreachable, and some of a neighbour's sums are."""
    for step in GREYS:
        own = scores(make_noise("gaussian", 0.25), plain(step), unreachable(plain(step)), "estimation")
        other = scores(make_noise("gaussian", 0.25), plain(step - 1), unreachable(plain(step)), "estimation")
        assert own.max() == 0
        assert other.mean() > 1


@pytest.mark.parametrize("step", GREYS)
def test_reachable_floats_break_ordinary_noise(step: int) -> None:
    """The positive control: all votes at an image one grey away are for another class, well within the radius."""
    found = attempt(make_noise("gaussian", 0.25), plain(step), plain(step - 1), unreachable(plain(step)))
    assert found.broken, found
    assert found.radius > 4 * found.distance


@pytest.mark.parametrize("step", GREYS)
def test_reachable_floats_do_not_break_the_integer_grid(step: int) -> None:
    found = attempt(make_noise("integer_grid", 0.25), plain(step), plain(step - 1), unreachable(plain(step)))
    assert not found.broken, found
    assert found.radius < found.distance  # the classifier still tells the greys apart a little, as the ideal noise allows


def rounding_search(noise: Noise, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of all images of two neighbouring greys, the one with the largest and the one with the smallest mean score.

    The search of Jin et al. 2022 for roundings that turn a linear classifier, where it is exact: pixel by pixel, since the mean
    is linear in the pixels' mean last bits. The two greys are those whose last bits differ most.
    """
    ramp, seen, total = (torch.arange(256.0) / 255).view(1, 16, 16), torch.empty(CHUNK, 1, 16, 16), torch.zeros(256)
    for chunk in range(100):
        noise.write(seen, ramp, 1, "learn", 0, chunk)
        total += (seen.view(torch.int32) & 1).flatten(1).float().sum(0)
    step = int(total.diff().abs().argmax())
    high = torch.where(weights * total.diff()[step] > 0, step + 1, step)
    return tuple(greys.float().view(SHAPE) / 255 for greys in (high, 2 * step + 1 - high))  # type: ignore[return-value]


@pytest.mark.parametrize("seed", range(4))
def test_random_linear_classifiers_of_roundings_break_ordinary_noise_only(seed: int) -> None:
    weights = torch.randn(PIXELS, generator=torch.Generator().manual_seed(seed))
    for kind, breaks in (("gaussian", True), ("integer_grid", False)):
        noise = make_noise(kind, 0.5)
        found = attempt(noise, *rounding_search(noise, weights), last_bits(weights))
        assert found.broken == breaks, (kind, found)
        assert (found.radius > 4 * found.distance) == breaks, (kind, found)


def test_an_attack_that_learns_nothing_breaks_nothing() -> None:
    """The other control: a change of class alone is not a break, and an image is none of itself."""
    brightness: Score = lambda seen: seen.flatten(1).mean(1)  # noqa: E731
    far = attempt(make_noise("gaussian", 0.25), plain(100), plain(60), brightness)
    assert far.changed
    assert not far.broken
    assert not attempt(make_noise("gaussian", 0.25), plain(100), plain(100), unreachable(plain(100))).changed
